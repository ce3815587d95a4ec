"""How much does one CONNECT tunnel cost? Head, 200, one byte echoed, closed in order; 32 at a time, as fast as they go.

This is what most of the work of an egress proxy is: many short connections. The CPU time is the figure that counts; the
rate follows from it as long as the proxy's core is near 100 % busy. The kernel's part is what even a proxy that does
nothing would pay for the same system calls. Every tunnel must leave its line in the access log.
"""

from __future__ import annotations

from benchmarks.support import policy
from benchmarks.support.compare import AtMost, Benchmark, Measure, Settings
from benchmarks.support.load import open_and_close
from benchmarks.support.origins import Origins
from benchmarks.support.proxies import Proxy


def check(proxy: Proxy, origins: Origins) -> None:
    """A tunnel echoes, a refused name is refused, both are logged; the trial itself verifies every answer and echo."""
    proxy.check()


def trial(proxy: Proxy, origins: Origins, settings: Settings) -> dict[str, float]:
    """Open, use and close tunnels; then count the log's lines."""
    routes = [proxy.route(policy.ORIGIN, port) for port in origins.echo_ports]
    logged, kernel_s, cpu_s = proxy.logged(), proxy.kernel_s(), proxy.cpu_s()
    window = open_and_close(
        routes,
        concurrency=settings.concurrency,
        warm_s=settings.warm_s,
        timed_s=settings.seconds,
        cpu=proxy.cpu_s,
    )
    if proxy.judges:
        proxy.wait_until_logged(logged + window.total)
    figures = {"per_s": window.rate}
    if proxy.pids():
        in_kernel = (proxy.kernel_s() - kernel_s) / (proxy.cpu_s() - cpu_s)
        cpu_us = window.cpu_each_s * 1e6
        figures |= {"cpu_us": cpu_us, "kernel_us": cpu_us * in_kernel, "busy": window.busy * 100}
    return figures


BENCHMARK = Benchmark(
    name="tunnels",
    question="CONNECT tunnels, one byte each",
    measures=(
        Measure("cpu_us", "CPU per tunnel, µs", {"squid": AtMost(0.6), "envoy": AtMost(0.5)}),
        Measure("kernel_us", "of it in the kernel, µs"),
        Measure("per_s", "tunnels per second"),
        Measure("busy", "proxy's core busy, %"),
    ),
    check=check,
    trial=trial,
)
