"""How much does one tunnel cost that TLS itself opens? A ClientHello, forwarded by its server name, echoed, closed in order.

As `tunnels`, 32 at a time and as fast as they go, but without a request and its answer. The hello is what OpenSSL sends
(517 bytes). It comes back from the origin and is compared byte for byte, in every tunnel: a proxy that reads it must forward it
untouched. Every tunnel must leave its line in the access log.
"""

from __future__ import annotations

from benchmarks.support import short_tunnels
from benchmarks.support.compare import AtMost, Benchmark, Settings
from benchmarks.support.origins import Origins
from benchmarks.support.proxy import Proxy, Way


def check(proxy: Proxy, origins: Origins) -> None:
    """The hello arrives as sent, what follows it too; a refused name is refused; both are logged."""
    proxy.check()


def trial(proxy: Proxy, origins: Origins, settings: Settings) -> dict[str, float]:
    """Open and close tunnels: their opening, the hello, is also the message that is echoed."""
    return short_tunnels.figures(proxy, origins, settings, b"")


BENCHMARK = Benchmark(
    name="sni",
    question="TLS by server name, one ClientHello each",
    measures=short_tunnels.measures({"nginx": AtMost(1.4, bound=1.7)}),
    check=check,
    trial=trial,
    way=Way.SNI,
    peers=("nginx", "haproxy"),
)
