"""What the network of a cluster makes of a NetworkPolicy for egress: all that is not allowed is dropped, in silence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from scenarios.pods import Pod
from support.namespaces import need_namespaces
from support.proxy import ROOT


@contextmanager
def only_way_out(pod: Pod, *allowed: str) -> Iterator[None]:
    """Nothing leaves the pod but what one of these matches, in the words of nftables: `ip daddr 8.8.8.8 udp dport 53`."""
    need_namespaces("nft")
    accepted = "\n".join(f"    {match} accept" for match in ('oifname "lo"', "ct state established", *allowed))
    chain = f"  chain output {{\n    type filter hook output priority 0; policy drop;\n{accepted}\n  }}"
    pod.run("nft", "-f", "-", stdin=f"table inet only_way_out {{\n{chain}\n}}\n", folder=ROOT)
    try:
        yield
    finally:
        pod.run("nft", "delete", "table", "inet", "only_way_out", folder=ROOT)
