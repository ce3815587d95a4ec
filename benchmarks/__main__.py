"""Run the benchmarks: `python -m benchmarks --help`."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import bulk, idle, origination, ping_pong, requests, sni, tunnels, tunnels_tls
from benchmarks.support import report
from benchmarks.support.compare import Benchmark, Round, Row, Settings, rows, run
from benchmarks.support.errors import Unavailable, WrongAnswer
from benchmarks.support.origins import Origins
from benchmarks.support.processes import choose_cores, raise_descriptor_limit
from benchmarks.support.proxies import PROXIES
from benchmarks.support.proxy import Proxy

BENCHMARKS: dict[str, Benchmark] = {
    module.BENCHMARK.name: module.BENCHMARK
    for module in (tunnels, tunnels_tls, sni, bulk, ping_pong, idle, requests, origination)
}


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    defaults = Settings()
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="egressproxy beside its peers.")
    parser.add_argument("--only", default=",".join(BENCHMARKS), metavar="NAMES", help="of: %(default)s")
    parser.add_argument(
        "--peers",
        metavar="NAMES",
        help=f"of: {', '.join(PROXIES)} (default: {_default_peers()})",
    )
    parser.add_argument(
        "--ours", default="egressproxy", choices=PROXIES, help="the proxy under test (default: %(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=defaults.rounds, help="turns of each (default: %(default)s)")
    parser.add_argument(
        "--seconds", type=float, default=defaults.seconds, help="timed part of a trial (default: %(default)s)"
    )
    parser.add_argument(
        "--concurrency",
        type=int,
        default=defaults.concurrency,
        help="tunnels being set up, or requests in flight, at once",
    )
    parser.add_argument("--idle-tunnels", type=int, default=defaults.idle_tunnels, help="tunnels held open")
    parser.add_argument("--save", metavar="WHAT", nargs="?", const="", help="keep the result as results/DATE-WHAT")
    parser.add_argument("--results", type=Path, default=report.RESULTS, help=argparse.SUPPRESS)
    parser.add_argument("--readme", type=Path, metavar="RESULT.json", help="only put these numbers into README.md")
    chosen = parser.parse_args(arguments)
    chosen.only = _names(parser, "--only", chosen.only, BENCHMARKS)
    if chosen.peers is not None:
        chosen.peers = _names(parser, "--peers", chosen.peers, PROXIES)
    if chosen.rounds < 1 or chosen.seconds <= 0:
        parser.error("--rounds and --seconds must be above 0")
    return chosen


def _default_peers() -> str:
    names = (
        f"{','.join(benchmark.peers)} for {name}"
        for name, benchmark in BENCHMARKS.items()
        if benchmark.peers != ("squid",)
    )
    return f"{'; '.join(names)}; squid for the others"


def _names(parser: argparse.ArgumentParser, option: str, text: str, known: Mapping[str, object]) -> list[str]:
    names = [name for name in text.split(",") if name]
    for name in names:
        if name not in known:
            parser.error(f"{option}: expected some of {', '.join(known)}, got {name}")
    if not names:
        parser.error(f"{option} is empty")
    return names


def main() -> int:
    """0 when all was run, whatever the figures; 1 when a proxy is missing or answered wrongly."""
    chosen = parse()
    if chosen.readme:
        report.put_into_readme(chosen.readme)
        return 0
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    cores = choose_cores()
    os.sched_setaffinity(0, {cores.load})
    raise_descriptor_limit(idle.descriptors(chosen.idle_tunnels))
    if cores.shared:
        _say("one core only: proxy and load share it, so look at CPU time and not at rates")

    plan = {name: [chosen.ours, *(chosen.peers or BENCHMARKS[name].peers)] for name in chosen.only}
    installed: dict[str, str] = {}
    missing: list[str] = []
    for name in dict.fromkeys(name for names in plan.values() for name in names):
        try:
            installed[name] = PROXIES[name].version()
        except Unavailable as error:
            missing.append(f"{name}: {error}")

    settings = Settings(chosen.rounds, chosen.seconds, chosen.concurrency, chosen.idle_tunnels)
    lines: list[Row] = []
    kept: dict[str, list[Round]] = {}
    try:
        with Origins(cores.load) as origins:
            for name in chosen.only:
                benchmark = BENCHMARKS[name]
                try:
                    found = run(benchmark, _take_part(benchmark, plan[name], installed), origins, cores, settings, _say)
                except Unavailable as error:
                    missing.append(f"{name}: {error}")
                    continue
                kept[name] = found
                lines += rows(benchmark, found)
    except (WrongAnswer, RuntimeError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    for line in missing:
        _say(f"not run: {line}")
    if not lines:
        return 1
    other_work = {name: max(one.other_work for one in rounds) for name, rounds in kept.items()}
    print(report.table(lines, chosen.ours))
    print(f"\n{report.judge_neighbours(other_work)}")
    if chosen.save is not None:
        result = {
            "date": f"{datetime.now(UTC):%Y-%m-%d}",
            "command": _command(chosen),
            "commit": report.commit(),
            "machine": report.describe_machine(cores),
            "versions": list(installed.values()),
            "settings": settings._asdict(),
            "ours": chosen.ours,
            "rows": [row._asdict() for row in lines],
            "rounds": {name: [one._asdict() for one in rounds] for name, rounds in kept.items()},
            "other_work": other_work,
            "missing": missing,
        }
        what = chosen.save or "-".join(["all"] if chosen.only == list(BENCHMARKS) else chosen.only)
        _say(f"kept as results/{report.save(result, what, chosen.results).name}")
    return 1 if missing else 0


def _take_part(benchmark: Benchmark, names: list[str], installed: Mapping[str, str]) -> list[type[Proxy]]:
    """Of the named proxies, ours first, those that are installed and can be used in the benchmark's way.

    Raises Unavailable when ours or every peer is missing.
    """
    ours, *peers = [PROXIES[name] if name in installed else None for name in names]
    able = [proxy for proxy in peers if proxy is not None and benchmark.way in (None, *proxy.ways)]
    if ours is None or benchmark.way not in (None, *ours.ways):
        raise Unavailable(f"{names[0]} is not installed or does not take {benchmark.way}")
    if not able:
        raise Unavailable(f"none of {', '.join(names[1:])} is installed and takes {benchmark.way or 'tunnels'}")
    return [ours, *able]


def _command(chosen: argparse.Namespace) -> str:
    """The command that makes this result again, without paths."""
    words = ["python", "-m", "benchmarks", "--rounds", str(chosen.rounds), "--seconds", f"{chosen.seconds:g}"]
    if chosen.only != list(BENCHMARKS):
        words += ["--only", ",".join(chosen.only)]
    defaults = Settings()
    words += ["--ours", chosen.ours] if chosen.ours != "egressproxy" else []
    words += ["--peers", ",".join(chosen.peers)] if chosen.peers else []
    words += ["--concurrency", str(chosen.concurrency)] if chosen.concurrency != defaults.concurrency else []
    words += ["--idle-tunnels", str(chosen.idle_tunnels)] if chosen.idle_tunnels != defaults.idle_tunnels else []
    return shlex.join(words)


_STARTED = time.monotonic()


def _say(line: str) -> None:
    print(f"[{time.monotonic() - _STARTED:5.1f} s] {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
