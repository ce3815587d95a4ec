"""Where a captured client was on its way to."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Literal

from egressproxy.hostport import plain_address

if TYPE_CHECKING:
    from _socket import socket as RawSocket

_SO_ORIGINAL_DST = 80  # linux/netfilter_ipv4.h, and IP6T_SO_ORIGINAL_DST of linux/netfilter_ipv6/ip6_tables.h
_V4 = struct.Struct("=H2x4s")


def original_destination(sock: RawSocket, transparent: Literal["redirect", "tproxy"]) -> tuple[str, int] | None:
    """Address and port that the client dialled before it was captured; None when it was not."""
    here = sock.getsockname()
    return (plain_address(here[0]), here[1]) if transparent == "tproxy" else None
