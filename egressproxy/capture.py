"""Where a captured client was on its way to: what REDIRECT and TPROXY leave behind on its socket. Linux only.

**redirect** rewrote the destination; conntrack knows the one before, and tells it by SO_ORIGINAL_DST. Where there is no
conntrack, or it knows nothing else than the socket does, nobody rewrote anything: the client came to the listener itself.

**tproxy** rewrote nothing: the socket's own address is the destination. A client that came to the listener itself has the
listener's port there. `egressproxy redirect` captures no connection to that port, so that the two cannot be confused.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from _socket import socket as RawSocket

_SOL_IP, _SOL_IPV6 = 0, 41  # numbers of the protocols, as socket.IPPROTO_IP and IPPROTO_IPV6 have them
_SO_ORIGINAL_DST = 80  # linux/netfilter_ipv4.h, and as IP6T_SO_ORIGINAL_DST linux/netfilter_ipv6/ip6_tables.h
_SOCKADDR_IN = struct.Struct("!2xH4s8x")
_SOCKADDR_IN6 = struct.Struct("!2xH4x16s4x")

# Distinct destinations kept. A hit costs 60 ns instead of 1 to 2 us; an entry takes about 200 bytes.
_CACHE = 4096


def original_destination(
    sock: RawSocket, transparent: Literal["redirect", "tproxy"], own_port: int = 0
) -> tuple[str, int] | None:
    """Address and port that the client dialled before it was captured; None when it was not, or is gone already.

    The address is in standard spelling, mapped IPv4 unmapped. `own_port`: the listener's. Hot: once per connection of a
    transparent listener, 1 to 2 us.
    """
    try:
        here = sock.getsockname()
        address, port = here[0], here[1]
        mapped_or_v4 = ":" not in address or "." in address
        if transparent == "tproxy":
            return None if port == own_port else (_plain(address), port)
        if mapped_or_v4:
            port, packed = _SOCKADDR_IN.unpack(sock.getsockopt(_SOL_IP, _SO_ORIGINAL_DST, _SOCKADDR_IN.size))
        else:
            port, packed = _SOCKADDR_IN6.unpack(sock.getsockopt(_SOL_IPV6, _SO_ORIGINAL_DST, _SOCKADDR_IN6.size))
    except (
        OSError
    ):  # ENOENT and ENOPROTOOPT: nothing was rewritten; the others: the client is gone, and the first read tells
        return None
    dialled = _text(packed), port
    return None if dialled == (_plain(address), here[1]) else dialled


@lru_cache(_CACHE)
def _plain(address: str) -> str:
    """Standard spelling of a socket's address."""
    return _text(IPv6Address(address.partition("%")[0]).packed) if ":" in address else address


@lru_cache(_CACHE)
def _text(packed: bytes) -> str:
    """Standard spelling (RFC 5952 section 4) of 4 or 16 bytes."""
    if len(packed) == 4:
        return str(IPv4Address(packed))
    address = IPv6Address(packed)
    return str(address.ipv4_mapped or address)
