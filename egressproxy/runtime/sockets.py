"""Listening sockets, and what this host's own addresses are."""

from __future__ import annotations

import errno
import ipaddress
import logging
import os
import resource
import socket
import sys
from pathlib import Path
from typing import Literal

from egressproxy.runtime.routes import ends_on_this_host

logger = logging.getLogger("egressproxy")

BACKLOG = 4096
"""Clients that may wait in the kernel's queue; net.core.somaxconn caps it (4096 on today's kernels)."""
DEFER_ACCEPT_S = 1
"""Linux hands a connection over when its first bytes are there, or after about this long."""


class BindError(Exception):
    """An address and port that cannot be listened on. The message names them, the cause and the next step."""


_IP_TRANSPARENT = 19  # linux/in.h; the socket module has no name for it
_IPV6_TRANSPARENT = 75  # linux/in6.h


def listen(
    address: str, port: int, *, client_speaks_first: bool, transparent: Literal["redirect", "tproxy"] | None = None
) -> socket.socket:
    """A listening, non-blocking socket; the caller closes it. `::` takes IPv4 clients too, and where the kernel has no IPv6
    only those. Raises BindError.

    With `tproxy` it takes connections to any address that the kernel hands it, which needs CAP_NET_ADMIN. `redirect` needs
    nothing. Accepted sockets inherit TCP_NODELAY on Linux, which saves a system call for each client.
    """
    written, address = address, bound_address(address)
    if address != written:
        logger.warning(
            "this kernel has no IPv6: port %d is listened on at %s instead of %s, for IPv4 clients",
            port,
            address,
            written,
        )
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        sock = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise BindError(f"cannot listen on {address} port {port}: {_advice(error, transparent)}") from error
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        if transparent == "tproxy":
            _make_transparent(sock)
        prepare(sock, client_speaks_first=client_speaks_first)
        sock.bind((address, port))
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise BindError(f"cannot listen on {address} port {port}: {_advice(error, transparent)}") from error
    return sock


def bound_address(address: str) -> str:
    """Where a listener with this address is bound: `0.0.0.0` for `::` where the kernel has no IPv6, as Squid and systemd do."""
    if address != "::":
        return address
    try:
        socket.socket(socket.AF_INET6, socket.SOCK_STREAM).close()
    except OSError as error:
        if error.errno == errno.EAFNOSUPPORT:
            return "0.0.0.0"  # noqa: S104 - `::` is as wide
    return address


def prepare(sock: socket.socket, *, client_speaks_first: bool) -> None:
    """What may be set on a listening socket at any time, by whomever it was made. Raises OSError."""
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if sys.platform == "linux":
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, DEFER_ACCEPT_S if client_speaks_first else 0)


def takes_any_address(sock: socket.socket) -> bool:
    """Whether the kernel hands this socket connections to addresses that are not this host's."""
    if sys.platform != "linux":
        return False
    if sock.family == socket.AF_INET6:
        return bool(sock.getsockopt(socket.IPPROTO_IPV6, _IPV6_TRANSPARENT))
    return bool(sock.getsockopt(socket.IPPROTO_IP, _IP_TRANSPARENT))


def _make_transparent(sock: socket.socket) -> None:
    if sys.platform != "linux":
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))
    if sock.family == socket.AF_INET6:  # for the IPv4 clients of such a socket, too
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_TRANSPARENT, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IP, _IP_TRANSPARENT, 1)


def _advice(error: OSError, transparent: str | None) -> str:
    cause = os.strerror(error.errno) if error.errno else str(error)
    match error.errno:
        case errno.EADDRINUSE:
            return f"{cause}; another program (or another egressproxy) has it: stop that one or choose another port"
        case errno.EACCES:
            return f"{cause}; ports below 1024 need root or the capability CAP_NET_BIND_SERVICE"
        case errno.EPERM if transparent == "tproxy":
            return f"{cause}; transparent: tproxy needs root or the capability CAP_NET_ADMIN"
        case errno.ENOTSUP if transparent == "tproxy":
            return f"{cause}; transparent: tproxy works on Linux only"
        case errno.EAFNOSUPPORT:
            return f"{cause}; this kernel has no IPv6: choose an address of IPv4"
        case errno.EADDRNOTAVAIL:
            return f"{cause}; no interface of this host has that address"
        case _:
            return cause


_CANNOT_TELL = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


def is_local_address(address: str) -> bool:
    """Whether a connection to the address would end on this host.

    The kernel says so. Where it cannot be asked: it lets a datagram socket be bound to the address, unless it lets one be
    bound to anything (ip_nonlocal_bind), or picks that very address for its own side. Nothing is sent. True as well when no
    descriptor is left to find out.
    """
    parsed = ipaddress.ip_address(address)
    if parsed.is_unspecified or parsed.is_loopback:
        return True
    told = ends_on_this_host(address)
    if told is not None:
        return told
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    if _binds_only_its_own(family):
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.bind((address, 0))
        except OSError as error:
            if error.errno in _CANNOT_TELL:
                return True
        else:
            return True
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((address, 9))  # the discard port; any would do
            own = probe.getsockname()[0]
    except OSError as error:
        return error.errno in _CANNOT_TELL
    return ipaddress.ip_address(own) == parsed


def _binds_only_its_own(family: socket.AddressFamily) -> bool:
    version = "ipv6" if family == socket.AF_INET6 else "ipv4"
    try:
        return Path(f"/proc/sys/net/{version}/ip_nonlocal_bind").read_text().strip() == "0"
    except OSError:
        return True  # not Linux


class OwnPorts:
    """Which addresses and ports are this proxy's own: the places that can never be a target."""

    def __init__(self, places: set[tuple[str, int]]) -> None:
        """`places`: address and port of every listener and the admin port, as bound."""
        self._places = frozenset((_without_mapping(address), port) for address, port in places)
        self._ports = frozenset(port for _, port in places)
        self._wildcard_ports = frozenset(port for address, port in self._places if address in ("0.0.0.0", "::"))  # noqa: S104 - compared, not bound

    def __call__(self, address: str, port: int) -> bool:
        """Hot: once per connection, and nearly always answered by the first line."""
        if port not in self._ports:
            return False
        plain = _without_mapping(address)
        if (plain, port) in self._places or ipaddress.ip_address(plain).is_unspecified:
            return True
        return port in self._wildcard_ports and is_local_address(plain)


def _without_mapping(address: str) -> str:
    parsed = ipaddress.ip_address(address)
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return str(mapped or parsed)


def raise_descriptor_limit(wanted: int) -> int:
    """Raise the soft limit of open files to the hard one, or further where that is allowed; the limit then in force."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    if hard != unlimited and hard < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))
        except (ValueError, OSError):
            pass
        else:
            return wanted
    goal = wanted if hard == unlimited else hard
    if soft != unlimited and soft < goal:
        resource.setrlimit(resource.RLIMIT_NOFILE, (goal, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
