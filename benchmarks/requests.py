"""How much does one plain GET cost, on a connection that is already open? 32 connections, one request in flight on each.

This is the work of a forward proxy for software that still speaks plain HTTP to it: absolute targets, a small answer with eight
header fields. The proxies keep their connections to the origin as they see fit. Each answer is compared with what its own
request asked for, and each request must leave its line in the access log.
"""

from __future__ import annotations

from functools import partial

from benchmarks.support.compare import AtMost, Benchmark, Settings
from benchmarks.support.cost import cost, measures
from benchmarks.support.load import ask_and_answer
from benchmarks.support.origins import Origins
from benchmarks.support.proxy import Proxy, Way


def check(proxy: Proxy, origins: Origins) -> None:
    """A refused name is refused, the origin gets an origin's request, each answer fits its request; all are logged."""
    proxy.check()


def trial(proxy: Proxy, origins: Origins, settings: Settings) -> dict[str, float]:
    """Ask, each connection for a target of its own."""
    exchanges = [proxy.exchange(f"/v1/items/{number}") for number in range(settings.concurrency)]
    drive = partial(
        ask_and_answer, exchanges, kept=True, warm_s=settings.warm_s, timed_s=settings.seconds, cpu=proxy.cpu_s
    )
    return cost(proxy, drive)


BENCHMARK = Benchmark(
    name="requests",
    question="plain GETs on connections that stay open",
    measures=measures("request", {"squid": AtMost(1.0, bound=1.5), "envoy": AtMost(1.0)}),
    check=check,
    trial=trial,
    way=Way.REQUESTS,
    peers=("squid", "envoy"),
)
