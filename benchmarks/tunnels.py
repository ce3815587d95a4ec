"""How much does one CONNECT tunnel cost? Head, 200, one byte echoed, closed in order; 32 at a time, as fast as they go.

This is what most of the work of an egress proxy is: many short connections. The CPU time is the figure that counts; the
rate follows from it as long as the proxy's core is near 100 % busy. The kernel's part is what even a proxy that does
nothing would pay for the same system calls. Every tunnel must leave its line in the access log.
"""

from __future__ import annotations

from benchmarks.support import short_tunnels
from benchmarks.support.compare import AtMost, Benchmark, Settings
from benchmarks.support.origins import Origins
from benchmarks.support.proxy import Proxy, Way


def check(proxy: Proxy, origins: Origins) -> None:
    """A tunnel echoes, a refused name is refused, both are logged; the trial itself verifies every answer and echo."""
    proxy.check()


def trial(proxy: Proxy, origins: Origins, settings: Settings) -> dict[str, float]:
    """Open, use and close tunnels."""
    return short_tunnels.figures(proxy, origins, settings, b"!")


BENCHMARK = Benchmark(
    name="tunnels",
    question="CONNECT tunnels, one byte each",
    measures=short_tunnels.measures({"squid": AtMost(0.6), "envoy": AtMost(0.5)}),
    check=check,
    trial=trial,
    way=Way.CONNECT,
)
