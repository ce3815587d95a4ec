"""One turn of many short tunnels: what `tunnels`, `tunnels_tls` and `sni` share, so that their figures can be compared."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from benchmarks.support import cost, policy
from benchmarks.support.compare import Goal, Measure, Settings
from benchmarks.support.load import open_and_close
from benchmarks.support.origins import Origins
from benchmarks.support.proxy import Proxy


def figures(proxy: Proxy, origins: Origins, settings: Settings, message: bytes) -> dict[str, float]:
    """Open tunnels, have `message` echoed (empty: the opening is all), close; then count the log's lines."""
    drive = partial(
        open_and_close,
        [proxy.route(policy.ORIGIN, port) for port in origins.echo_ports],
        message,
        concurrency=settings.concurrency,
        warm_s=settings.warm_s,
        timed_s=settings.seconds,
        cpu=proxy.cpu_s,
    )
    return cost.cost(proxy, drive)


def measures(goals: Mapping[str, Goal]) -> tuple[Measure, ...]:
    """`goals`: for the CPU time of one tunnel, by peer."""
    return cost.measures("tunnel", goals)
