"""Whether an address lies in one of many networks, in a time that does not grow with their number.

Networks are kept by prefix length, each length as a set of prefixes, so the cost is one set look-up for each prefix
length in use: at most 33 for IPv4 and 129 for IPv6, and one to three in configurations as people write them.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from egressproxy.policy.addresses import Subject, parse_address

if TYPE_CHECKING:
    from collections.abc import Iterable
    from ipaddress import IPv4Network, IPv6Network

# Distinct clients kept: pods of a large cluster. An entry takes about 250 bytes.
_CACHE = 16_384

_MAPPED = 0xFFFF  # ::ffff:0:0/96, the first 96 bits


@lru_cache(_CACHE)
def parse_client(client: str) -> Subject:
    """A client's address as a number, IPv4-mapped as IPv4, without the zone that link-local peers have.

    Runs once per connection where a rule asks for clients. Raises ValueError if it is not an address.
    """
    if not (client.isascii() and client.isprintable()):
        raise ValueError(f"expected an address, got {client[:80]!a}")
    subject = parse_address(client.partition("%")[0])
    if subject.is_v6 and subject.value >> 32 == _MAPPED:
        return Subject(subject.value & 0xFFFF_FFFF, False)
    return subject


class NetworkSet:
    """Immutable. `subject in networks` is the question. IPv4-mapped networks are held as the IPv4 networks they are."""

    __slots__ = ("_v4", "_v6", "count")

    def __init__(self, networks: Iterable[IPv4Network | IPv6Network]) -> None:
        v4: dict[int, set[int]] = {}
        v6: dict[int, set[int]] = {}
        self.count = 0
        for network in networks:
            self.count += 1
            shift = network.max_prefixlen - network.prefixlen
            value = int(network.network_address)
            if network.version == 6 and not (shift <= 32 and value >> 32 == _MAPPED):
                v6.setdefault(shift, set()).add(value >> shift)
            else:
                v4.setdefault(shift, set()).add((value & 0xFFFF_FFFF) >> shift)
        self._v4 = tuple(v4.items())
        self._v6 = tuple(v6.items())

    def lengths_around(self, subject: Subject) -> list[int]:
        """The prefix lengths of those networks that the subject is in; of IPv4-mapped ones as IPv4."""
        value, is_v6 = subject
        sets, bits = (self._v6, 128) if is_v6 else (self._v4, 32)
        return [bits - shift for shift, prefixes in sets if value >> shift in prefixes]

    def __contains__(self, subject: Subject) -> bool:
        value, is_v6 = subject
        for shift, prefixes in self._v6 if is_v6 else self._v4:  # noqa: SIM110 - any() costs a generator, on the hot path
            if value >> shift in prefixes:
                return True
        return False
