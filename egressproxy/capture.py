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

from egressproxy.errors import LoopDetected

if TYPE_CHECKING:
    from _socket import socket as RawSocket

    from egressproxy.stream import TcpStream

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
    except OSError:
        # ENOENT and ENOPROTOOPT: nothing was rewritten. The others: the client is gone, and the first read tells.
        return None
    dialled = _text(packed), port
    return None if dialled == (_plain(address), here[1]) else dialled


class OwnConnections:
    """The proxy's open connections to upstreams, as a capture that does not leave them out would bring them back.

    Each would come in as a client, be allowed like the one before, and dial again, until every tunnel is taken.
    """

    __slots__ = ("_of_stream", "_sources", "watched")

    def __init__(self) -> None:
        self._of_stream: dict[TcpStream, tuple[str, int]] = {}
        self._sources: set[tuple[str, int]] = set()
        self.watched = False  # without a transparent listener nothing is kept

    def __len__(self) -> int:
        return len(self._sources)

    def add(self, upstream: TcpStream) -> None:
        """It is connected. Hot: once per connection."""
        if self.watched:
            here = upstream.sock.getsockname()
            source = self._of_stream[upstream] = (_plain(here[0]), here[1])
            self._sources.add(source)

    def discard(self, upstream: TcpStream) -> None:
        """It is closed next."""
        if self._of_stream:
            source = self._of_stream.pop(upstream, None)
            if source is not None:
                self._sources.discard(source)

    def refuse(self, client: TcpStream) -> None:
        """Raise LoopDetected for a captured client that is one of them."""
        if (client.address, client.port) in self._sources:
            raise LoopDetected(
                f"{client.address} port {client.port} is this proxy itself, whose own connections are captured: run it as the "
                "user that `egressproxy redirect --user` names"
            )


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
