"""Addresses as Squid's `src` and `dst` write them, in the native form: `src/acl/Ip.cc` of Squid 5 is the measure."""

from __future__ import annotations

import re
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    summarize_address_range,
)

from egressproxy.config.faults import shown

_EVERYTHING = frozenset({"all", "0/0", "0.0.0.0/0", "0.0.0.0/0.0.0.0", "0.0.0.0-255.255.255.255", "0.0.0.0-0.0.0.0/0"})
"""What Squid takes for any address, IPv6 as well."""

_IPV6_UNICAST = ("1000::/4", "2000::/3", "4000::/2", "8000::/2", "c000::/3", "e000::/4", "fc00::/7", "fe80::/10")
"""What Squid's word `ipv6` stands for."""

_MAPPED = IPv6Network("::ffff:0:0/96")
_PARTS = re.compile(r"(?P<low>[0-9A-Fa-f:.]+)(?:-(?P<high>[0-9A-Fa-f:.]+))?(?:/(?P<mask>[0-9.]+))?")

_Address = IPv4Address | IPv6Address


def networks(text: str) -> list[str] | None:
    """CIDRs for one value; None: any address. Raises ValueError."""
    if text in _EVERYTHING:
        return None
    if text == "ipv4":
        raise ValueError("ipv4 holds for nobody in Squid 5, whatever its name; write all, or 0.0.0.0/1 and 128.0.0.0/1")
    if text == "ipv6":
        return list(_IPV6_UNICAST)
    match = _PARTS.fullmatch(text)
    if match is None:
        raise ValueError(
            f"expected an address, a network or a range like 10.0.0.1-10.0.0.9, got {shown(text)}; names are not looked "
            "up here"
        )
    low = _address(match["low"], text)
    high = low if match["high"] is None else _address(match["high"], text)
    if low.version != high.version or int(low) > int(high):
        raise ValueError(f"expected the lower address first in {shown(text)}")
    host_bits = _host_bits(match["mask"], low.version, text)
    if host_bits == (1 << low.max_prefixlen) - 1:
        raise ValueError(
            f"{shown(text)} does not hold for everybody in Squid 5, though its mask says so; write all, or the two halves, as "
            "::/1 and 8000::/1"
        )
    first, last = int(low) & ~host_bits, int(high) & ~host_bits | host_bits
    found: list[IPv4Network | IPv6Network] = []
    if low.version == 4:
        found += summarize_address_range(IPv4Address(first), IPv4Address(last))
    else:
        found += summarize_address_range(IPv6Address(first), IPv6Address(last))
    texts = [str(network.network_address if network.num_addresses == 1 else network) for network in found]
    if any(isinstance(network, IPv6Network) and _MAPPED.subnet_of(network) for network in found):
        # Squid keeps IPv4 addresses as mapped ones, so `::/0` holds them too.
        return [*texts, "0.0.0.0/0"]
    return texts


def _address(text: str, whole: str) -> _Address:
    try:
        return ip_address(text)
    except ValueError:
        raise ValueError(f"expected an address like 10.0.0.1 or fd00::1, got {shown(whole)}") from None


def _host_bits(mask: str | None, version: int, whole: str) -> int:
    """The bits that a mask, written as a number or in Squid's old way as an address, leaves open."""
    width = 32 if version == 4 else 128
    if mask is None:
        return 0
    if mask.isdigit() and int(mask) <= width:
        return int((1 << (width - int(mask))) - 1)
    if version == 4 and "." in mask:
        open_bits = int(_address(mask, whole)) ^ 0xFFFF_FFFF
        if open_bits & (open_bits + 1) == 0:
            return open_bits
    raise ValueError(f"expected a mask like /24 in {shown(whole)}")
