"""Where does the work go? Bytecodes and Python calls per tunnel or request, by stage: exact, so that a change of 1 % shows.

    python -m benchmarks.profile                  # a tunnel by server name
    python -m benchmarks.profile connect          # a CONNECT; connect_tls: with a ClientHello that is checked
    python -m benchmarks.profile requests         # a plain request on a connection that is open
    python -m benchmarks.profile origination      # the same, to an origin in TLS
    python -m benchmarks.profile sni --functions  # by function

Time is another question (`python -m benchmarks --only sni`): about as much again goes into what bytecodes call, memory and
system calls above all.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks.support import policy
from benchmarks.support.hello import client_hello
from benchmarks.support.load import Window, ask_and_answer, open_and_close
from benchmarks.support.origins import Origins
from benchmarks.support.proxies import EgressProxy
from benchmarks.support.proxy import TUNNELS, Proxy, Way

STAGES = {
    "the story": ("connection",),
    "accept": ("accept", "admission"),
    "sniff": ("frontends", "wire", "hostport", "agreement"),
    "decide": ("policy", "model"),
    "resolve": ("resolve",),
    "dial": ("dial", "originate", "identities", "sessions", "upstreams", "registry"),
    "exchange": ("exchange", "upload"),
    "relay": ("relay",),
    "record": ("telemetry",),
    "stories, poller, deadlines": ("stories", "poller", "deadlines"),
    "streams": ("stream",),
}
"""Rooms of the package by the stage that they serve."""
_OTHER = "other"
_SETTLE_S = 0.3
_CONCURRENCY = 32


class Traced(EgressProxy):
    """The proxy of the benchmarks under `support.tracer`."""

    patience_s = 30.0

    def prepare(self) -> list[str]:
        """Counts are written into its folder."""
        python, *_, config = super().prepare()
        return [python, "-m", "benchmarks.support.tracer", str(self.folder / "counts.json"), "run", config]


def count(way: Way, seconds: float) -> tuple[list[tuple[str, str, float, float]], int]:
    """File, function, bytecodes and calls per tunnel or request, the most first; and how many of them there were."""
    with tempfile.TemporaryDirectory() as name, Origins(1) as origins:
        top = Path(name)
        top.chmod(0o755)
        folder = top / "proxy"
        folder.mkdir()
        with Traced(origins, folder, 0, way) as proxy:
            drive = _driver(proxy, origins, way)
            drive(warm_s=0.2, timed_s=0.3)  # caches are warm
            os.kill(proxy.pids()[0], signal.SIGUSR2)
            time.sleep(_SETTLE_S)
            total = drive(warm_s=0.1, timed_s=seconds).total  # on new connections, which are counted from their start
        rows = json.loads((folder / "counts.json").read_text())
    found = [(file, function, codes / total, calls / total) for file, function, codes, calls in rows]
    return sorted(found, key=lambda row: -row[2]), total


def _driver(proxy: Proxy, origins: Origins, way: Way) -> Callable[..., Window]:
    if way not in TUNNELS:
        exchanges = [proxy.exchange(f"/v1/items/{number}") for number in range(_CONCURRENCY)]
        return partial(ask_and_answer, exchanges, kept=True, cpu=proxy.cpu_s)
    message = {Way.SNI: b"", Way.CONNECT: b"!", Way.CONNECT_TLS: client_hello(policy.ORIGIN)}[way]
    routes = [proxy.route(policy.ORIGIN, port) for port in origins.echo_ports]
    return partial(open_and_close, routes, message, concurrency=_CONCURRENCY, cpu=proxy.cpu_s)


def stage_of(file: str) -> str:
    """The stage that a file of the package serves."""
    parts = Path(file).parts
    if "egressproxy" not in parts:
        return _OTHER
    room = parts[len(parts) - parts[::-1].index("egressproxy") :][0].removesuffix(".py")
    return next((stage for stage, rooms in STAGES.items() if room in rooms), _OTHER)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("way", nargs="?", default="sni", choices=[way.name.lower() for way in Way])
    parser.add_argument("--functions", action="store_true", help="by function and not by stage")
    parser.add_argument("--seconds", type=float, default=1.0)
    options = parser.parse_args()
    way = Way[options.way.upper()]
    noun = "tunnel" if way in TUNNELS else "request"
    rows, total = count(way, options.seconds)
    print(f"{options.way}: {total} {noun}s, per {noun}\n")
    print("| where | bytecodes | calls |\n|---|---|---|")
    if options.functions:
        for file, function, codes, calls in rows[:60]:
            place = "/".join(Path(file).parts[-2:])
            print(f"| {place}: {function} | {codes:.0f} | {calls:.1f} |")
    else:
        by_stage, calls_by_stage = Counter[str](), Counter[str]()
        for file, _, codes, calls in rows:
            by_stage[stage_of(file)] += codes  # type: ignore[assignment]  # a Counter of floats
            calls_by_stage[stage_of(file)] += calls  # type: ignore[assignment]  # the same
        for stage in (*STAGES, _OTHER):
            print(f"| {stage} | {by_stage[stage]:.0f} | {calls_by_stage[stage]:.1f} |")
    print(f"| **all** | **{sum(row[2] for row in rows):.0f}** | **{sum(row[3] for row in rows):.0f}** |")


if __name__ == "__main__":
    main()
