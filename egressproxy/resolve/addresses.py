"""Addresses as text: their one spelling, and which of a name is tried first.

The order is that of RFC 6724 section 6, as far as it helps a proxy. Of its rules these count: 1 (what can be reached),
6 (precedence) and 10 (as the server gave it). The rules between compare with our own addresses of the same site, and
the longest common prefix (rule 9) would undo the rotation by which servers spread load; the RFC lets that rule go.
"""

from __future__ import annotations

import socket
from ipaddress import IPv6Address
from typing import TYPE_CHECKING

from egressproxy.errors import MalformedTarget
from egressproxy.hostport import canonical_host

if TYPE_CHECKING:
    from collections.abc import Callable

_BELOW_IPV4 = ((0x2002, 112), (0x2001_0000, 96), (0xFC >> 1, 121), (0xFEC0 >> 6, 118), (0x3FFE, 112), (0, 32))
"""RFC 6724 section 2.1: the IPv6 ranges whose precedence is below IPv4's, as prefix and shift: 6to4, Teredo, unique
local, site-local, 6bone, IPv4-compatible."""


def standard_spelling(text: str) -> str | None:
    """An address as the rest of the house spells it; None for anything else, a zone included."""
    try:
        host, is_address = canonical_host(text)
    except MalformedTarget:
        return None
    return host if is_address else None


def has_route(address: str) -> bool:
    """Whether the kernel knows a way to an IPv6 address. Connecting a UDP socket asks just that and sends nothing."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.connect((address, 53))
    except OSError:
        return False
    return True


def in_order(v4: tuple[str, ...], v6: tuple[str, ...], reachable: Callable[[str], bool] = has_route) -> tuple[str, ...]:
    """Both families in one list, best first. The first IPv6 address stands for all where `reachable` is asked."""
    if not v4 or not v6:
        return v4 or v6
    if not reachable(v6[0]):
        return v4 + v6
    below = tuple(address for address in v6 if is_below_ipv4(address))
    above = tuple(address for address in v6 if address not in below) if below else v6
    return above + v4 + below


def is_below_ipv4(address: str) -> bool:
    """Whether IPv4 is preferred to this IPv6 address. `::1` lies in the range of IPv4-compatible ones and is none."""
    number = int(IPv6Address(address))
    return number != 1 and any(number >> shift == prefix for prefix, shift in _BELOW_IPV4)
