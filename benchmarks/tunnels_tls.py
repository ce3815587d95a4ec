"""How much does a CONNECT tunnel cost with TLS inside? Head, 200, a ClientHello echoed, closed in order.

As `tunnels`, with the first bytes that nearly every real tunnel carries. egressproxy holds them until it has seen that they
ask for the host that was allowed; Squid lets them pass unseen. The difference from `tunnels` is what that look costs, and
516 bytes more each way.
"""

from __future__ import annotations

from benchmarks.support import policy, short_tunnels
from benchmarks.support.compare import AtMost, Benchmark, Settings
from benchmarks.support.hello import client_hello
from benchmarks.support.origins import Origins
from benchmarks.support.proxy import Proxy, Way


def check(proxy: Proxy, origins: Origins) -> None:
    """A hello for the host that was allowed comes back whole; ours refuses one for another host."""
    proxy.check()


def trial(proxy: Proxy, origins: Origins, settings: Settings) -> dict[str, float]:
    """Open, use and close tunnels."""
    return short_tunnels.figures(proxy, origins, settings, client_hello(policy.ORIGIN))


BENCHMARK = Benchmark(
    name="tunnels_tls",
    question="CONNECT tunnels, one ClientHello each",
    measures=short_tunnels.measures({"squid": AtMost(0.6), "envoy": AtMost(0.5)}),
    check=check,
    trial=trial,
    way=Way.CONNECT_TLS,
)
