"""What many small things through a proxy cost, tunnels or requests: CPU of each, the kernel's part of it, their rate."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from benchmarks.support.compare import Goal, Measure
from benchmarks.support.load import Window
from benchmarks.support.proxy import Proxy


def cost(proxy: Proxy, drive: Callable[[], Window], word: str = "") -> dict[str, float]:
    """Figures of what `drive` does, once each of its things has left a line in the proxy's log. `word`: see `measures`."""
    logged, kernel_s, cpu_s = proxy.logged(), proxy.kernel_s(), proxy.cpu_s()
    window = drive()
    if proxy.judges:
        proxy.wait_until_logged(logged + window.total)
    found = {"per_s": window.rate}
    if proxy.pids():
        in_kernel = (proxy.kernel_s() - kernel_s) / (proxy.cpu_s() - cpu_s)
        cpu_us = window.cpu_each_s * 1e6
        found |= {"cpu_us": cpu_us, "kernel_us": cpu_us * in_kernel, "busy": window.busy * 100}
    return {word + key: value for key, value in found.items()}


def measures(noun: str, goals: Mapping[str, Goal], *, word: str = "", title: str = "") -> tuple[Measure, ...]:
    """The four of one kind of traffic.

    noun   what is counted
    goals  for the CPU time of one, by peer
    word   what the keys begin with, and `title` what the titles begin with, where a benchmark has several kinds
    """
    return (
        Measure(f"{word}cpu_us", f"{title}CPU per {noun}, µs", goals),
        Measure(f"{word}kernel_us", f"{title}of it in the kernel, µs"),
        Measure(f"{word}per_s", f"{title}{noun}s per second"),
        Measure(f"{word}busy", f"{title}proxy's core busy, %"),
    )
