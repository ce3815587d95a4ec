"""Where does a tunnel's work go? Bytecodes and Python calls per tunnel, by stage: exact, so that a change of 1 % shows.

    python -m benchmarks.profile                  # a tunnel by server name
    python -m benchmarks.profile connect          # a CONNECT; connect_tls: with a ClientHello that is checked
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
from pathlib import Path

from benchmarks.support import policy
from benchmarks.support.hello import client_hello
from benchmarks.support.load import open_and_close
from benchmarks.support.origins import Origins
from benchmarks.support.proxies import EgressProxy
from benchmarks.support.proxy import Way

STAGES = {
    "the story": ("connection",),
    "accept": ("accept", "admission"),
    "sniff": ("frontends", "wire", "hostport", "agreement"),
    "decide": ("policy", "model"),
    "resolve": ("resolve",),
    "dial": ("dial",),
    "relay": ("relay",),
    "record": ("telemetry",),
    "stories, poller, deadlines": ("stories", "poller", "deadlines"),
    "streams": ("stream",),
}
"""Rooms of the package by the stage that they serve."""
_OTHER = "other"
_SETTLE_S = 0.3


class Traced(EgressProxy):
    """The proxy of the benchmarks under `support.tracer`."""

    patience_s = 30.0

    def prepare(self) -> list[str]:
        """Counts are written into its folder."""
        python, *_, config = super().prepare()
        return [python, "-m", "benchmarks.support.tracer", str(self.folder / "counts.json"), "run", config]


def count(way: Way, seconds: float) -> tuple[list[tuple[str, str, float, float]], int]:
    """File, function, bytecodes and calls per tunnel, the most first; and how many tunnels that was."""
    message = {Way.SNI: b"", Way.CONNECT: b"!", Way.CONNECT_TLS: client_hello(policy.ORIGIN)}[way]
    with tempfile.TemporaryDirectory() as name, Origins(1) as origins:
        top = Path(name)
        top.chmod(0o755)
        folder = top / "proxy"
        folder.mkdir()
        with Traced(origins, folder, 0, way) as proxy:
            routes = [proxy.route(policy.ORIGIN, port) for port in origins.echo_ports]
            open_and_close(routes, message, concurrency=32, warm_s=0.2, timed_s=0.3, cpu=proxy.cpu_s)  # caches are warm
            os.kill(proxy.pids()[0], signal.SIGUSR2)
            time.sleep(_SETTLE_S)
            tunnels = open_and_close(
                routes, message, concurrency=32, warm_s=0.1, timed_s=seconds, cpu=proxy.cpu_s
            ).total
        rows = json.loads((folder / "counts.json").read_text())
    found = [(file, function, codes / tunnels, calls / tunnels) for file, function, codes, calls in rows]
    return sorted(found, key=lambda row: -row[2]), tunnels


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
    rows, tunnels = count(Way[options.way.upper()], options.seconds)
    print(f"{options.way}: {tunnels} tunnels, per tunnel\n")
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
