"""How much does one GET cost that comes in plain text and leaves in TLS? On connections that stay open, and on a new one each.

This is TLS origination: software asks for http://, and the gateway speaks TLS to the origin, whose certificate it verifies. The
proxies keep their TLS connections to the origin, so that handshakes are no part of it; only the client's connection is kept in
one half of the trial and new for each request in the other. 32 requests are in flight. Each answer is compared with what its
own request asked for, and each request must leave its line in the access log.
"""

from __future__ import annotations

from functools import partial

from benchmarks.support.compare import AtMost, Benchmark, Settings
from benchmarks.support.cost import cost, measures
from benchmarks.support.load import ask_and_answer
from benchmarks.support.origins import Origins
from benchmarks.support.proxy import Proxy, Way


def check(proxy: Proxy, origins: Origins) -> None:
    """As for `requests`; and an origin whose certificate is for another host is not spoken to."""
    proxy.check()


def trial(proxy: Proxy, origins: Origins, settings: Settings) -> dict[str, float]:
    """First on connections that stay open, then on a new one for each request."""
    exchanges = [proxy.exchange(f"/v1/items/{number}") for number in range(settings.concurrency)]
    drive = partial(ask_and_answer, exchanges, warm_s=settings.warm_s, timed_s=settings.seconds, cpu=proxy.cpu_s)
    return cost(proxy, partial(drive, kept=True), "kept_") | cost(proxy, partial(drive, kept=False), "new_")


_NO_MORE = {peer: AtMost(1.0, bound=1.5) for peer in ("nginx", "envoy")}

BENCHMARK = Benchmark(
    name="origination",
    question="plain GETs that leave in TLS",
    measures=(
        *measures("request", _NO_MORE, word="kept_", title="kept open, "),
        *measures("request", _NO_MORE, word="new_", title="new each time, "),
    ),
    check=check,
    trial=trial,
    way=Way.ORIGINATION,
    peers=("nginx", "envoy"),
)
