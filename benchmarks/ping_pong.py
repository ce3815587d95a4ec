"""What does a small message cost? 64 bytes there and back, one in flight on each tunnel, with 1 tunnel and with 64.

With one tunnel the time is latency: two wake-ups in the proxy. With 64 both cores are busy and the time is 64 divided
by the rate, whoever sets it; there the CPU time per exchange is the figure that counts.
"""

from __future__ import annotations

import random
from contextlib import ExitStack
from statistics import median

from benchmarks.support.compare import AtMost, Benchmark, Goal, Measure, Settings
from benchmarks.support.errors import WrongAnswer
from benchmarks.support.load import ping_pong
from benchmarks.support.origins import Origins
from benchmarks.support.proxy import Proxy

_MESSAGE = random.Random(64).randbytes(64)
_MANY = 64


def check(proxy: Proxy, origins: Origins) -> None:
    """A tunnel that stays open echoes message after message; the trial itself verifies every echo."""
    proxy.check()
    with proxy.connect(origins.echo_ports[0]) as sock:
        for number in range(1000):
            message = number.to_bytes(4, "big")
            sock.sendall(message)
            if (answer := sock.recv(64)) != message:
                raise WrongAnswer(f"{proxy.name}: expected the echo {message!r}, got {answer!r}")


def trial(proxy: Proxy, origins: Origins, settings: Settings) -> dict[str, float]:
    """First 1 tunnel, then 64."""
    return _exchange("one", 1, proxy, origins, settings) | _exchange("many", _MANY, proxy, origins, settings)


def _exchange(word: str, tunnels: int, proxy: Proxy, origins: Origins, settings: Settings) -> dict[str, float]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(proxy.connect(origins.echo_ports[0])) for _ in range(tunnels)]
        window, times = ping_pong(sockets, _MESSAGE, warm_s=settings.warm_s, timed_s=settings.seconds, cpu=proxy.cpu_s)
    figures = {f"{word}_p50_us": median(times) / 1e3}
    if proxy.pids():
        figures |= {f"{word}_cpu_us": window.cpu_each_s * 1e6, f"{word}_busy": window.busy * 100}
    return figures


_NO_WORSE: dict[str, Goal] = {"squid": AtMost(1.0), "nginx": AtMost(1.0)}

BENCHMARK = Benchmark(
    name="ping_pong",
    question="64 bytes there and back",
    measures=(
        Measure("one_p50_us", "1 tunnel, p50, µs", _NO_WORSE),
        Measure("one_cpu_us", "1 tunnel, CPU each, µs", _NO_WORSE),
        Measure("one_busy", "1 tunnel, proxy's core busy, %"),
        Measure("many_p50_us", f"{_MANY} tunnels, p50, µs", _NO_WORSE),
        Measure("many_cpu_us", f"{_MANY} tunnels, CPU each, µs", _NO_WORSE),
        Measure("many_busy", f"{_MANY} tunnels, proxy's core busy, %"),
    ),
    check=check,
    trial=trial,
)
