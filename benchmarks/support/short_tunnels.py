"""One turn of many short tunnels: what `tunnels`, `tunnels_tls` and `sni` share, so that their figures can be compared."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.support import policy
from benchmarks.support.compare import Goal, Measure, Settings
from benchmarks.support.load import open_and_close
from benchmarks.support.origins import Origins
from benchmarks.support.proxy import Proxy


def figures(proxy: Proxy, origins: Origins, settings: Settings, message: bytes) -> dict[str, float]:
    """Open tunnels, have `message` echoed (empty: the opening is all), close; then count the log's lines."""
    routes = [proxy.route(policy.ORIGIN, port) for port in origins.echo_ports]
    logged, kernel_s, cpu_s = proxy.logged(), proxy.kernel_s(), proxy.cpu_s()
    window = open_and_close(
        routes,
        message,
        concurrency=settings.concurrency,
        warm_s=settings.warm_s,
        timed_s=settings.seconds,
        cpu=proxy.cpu_s,
    )
    if proxy.judges:
        proxy.wait_until_logged(logged + window.total)
    found = {"per_s": window.rate}
    if proxy.pids():
        in_kernel = (proxy.kernel_s() - kernel_s) / (proxy.cpu_s() - cpu_s)
        cpu_us = window.cpu_each_s * 1e6
        found |= {"cpu_us": cpu_us, "kernel_us": cpu_us * in_kernel, "busy": window.busy * 100}
    return found


def measures(goals: Mapping[str, Goal]) -> tuple[Measure, ...]:
    """`goals`: for the CPU time of one tunnel, by peer."""
    return (
        Measure("cpu_us", "CPU per tunnel, µs", goals),
        Measure("kernel_us", "of it in the kernel, µs"),
        Measure("per_s", "tunnels per second"),
        Measure("busy", "proxy's core busy, %"),
    )
