"""`listen`: the sockets of one server.

`listen 8443` takes IPv4, `listen [::]:8443` takes IPv6 and no IPv4 (`ipv6only=on` is NGINX's default). Here a socket on `::`
takes both, so the two together are one listener, and the second alone is one with a rule that refuses IPv4 clients.
"""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import TYPE_CHECKING, NamedTuple

from egressproxy.config.adapters.nginx.values import switch
from egressproxy.config.faults import shown

if TYPE_CHECKING:
    from collections.abc import Iterable

    from egressproxy.config.adapters.nginx.syntax import Directive, Findings

MAX_PORTS = 100
"""Ports of one range in `listen`."""

_ANY_IPV4, _ANY_IPV6 = "0.0.0.0", "::"  # noqa: S104 - compared with, and what the file says

_LISTEN = re.compile(r"(?:(?P<address>\*|[^\[\]:]+|\[[^\]]+\]):)?(?P<low>[0-9]{1,5})(?:-(?P<high>[0-9]{1,5}))?")
_SOCKET_WORDS = frozenset({"reuseport", "bind", "deferred"})
_SOCKET_KEYS = frozenset({"backlog", "rcvbuf", "sndbuf", "fastopen", "setfib", "accept_filter", "so_keepalive"})
_NOT_HERE = {
    "ssl": "this proxy does not end TLS for a stream",
    "quic": "QUIC is not taken here",
    "udp": "UDP is not taken here",
    "default_server": "there are no servers that share an address here",
}


class Listen(NamedTuple):
    """One socket that a server listens on.

    proxy_protocol  clients are announced
    only_ipv6       of the address `::`: IPv4 clients do not get in by it
    """

    address: str
    port: int
    proxy_protocol: bool
    only_ipv6: bool
    written: Directive


def read_listens(directives: Iterable[Directive], findings: Findings) -> list[Listen]:
    """The sockets of one server. What is wrong is told and left out."""
    found: list[Listen] = []
    for directive in directives:
        try:
            found += _listens(directive, findings)
        except ValueError as error:
            findings.fault(directive, str(error))
    return _with_both_families(found, findings)


def _listens(directive: Directive, findings: Findings) -> list[Listen]:
    """The sockets of one `listen`. Raises ValueError."""
    where, *words = directive.words
    address, ports = _address_and_ports(where)
    proxy_protocol, only_ipv6 = False, address == _ANY_IPV6
    ignored = []
    for word in words:
        key, _, value = word.partition("=")
        if word in _NOT_HERE:
            raise ValueError(_NOT_HERE[word])
        if word == "proxy_protocol":
            proxy_protocol = True
        elif key == "ipv6only" and ":" in address:
            only_ipv6 = switch(value) and address == _ANY_IPV6
        elif word in _SOCKET_WORDS or (key in _SOCKET_KEYS and value):
            ignored.append(key)
        else:
            raise ValueError(f"expected a parameter like proxy_protocol or reuseport, got {shown(word)}")
    if ignored:
        findings.note(directive, f"{', '.join(ignored)}: no meaning here, this proxy sees to its sockets by itself")
    return [Listen(address, port, proxy_protocol, only_ipv6, directive) for port in ports]


def _address_and_ports(text: str) -> tuple[str, range]:
    if text.startswith("unix:"):
        raise ValueError("clients do not come by UNIX sockets here; expected ADDRESS:PORT")
    match = _LISTEN.fullmatch(text)
    if match is None:
        raise ValueError(f"expected a port, or an address with a port like 127.0.0.1:8443, got {shown(text)}")
    written = match["address"] or "*"
    try:
        address = _ANY_IPV4 if written == "*" else str(ip_address(written.strip("[]")))
    except ValueError:
        raise ValueError(f"expected an address like 127.0.0.1 and no name, got {shown(written)}") from None
    if (":" in address) != written.startswith("["):
        raise ValueError(f"expected an IPv6 address in brackets, and no other, got {shown(text)}")
    low, high = int(match["low"]), int(match["high"] or match["low"])
    if not 0 < low <= high < 65536 or high - low >= MAX_PORTS:
        raise ValueError(f"expected a port from 1 to 65535, or a range of at most {MAX_PORTS}, got {shown(text)}")
    return address, range(low, high + 1)


def _with_both_families(listens: list[Listen], findings: Findings) -> list[Listen]:
    """Those of `*:PORT` and `[::]:PORT` in one: here the second takes IPv4 as well."""
    kept: list[Listen] = []
    for listen in listens:
        twin = next(
            (
                other
                for other in kept
                if other.port == listen.port and {other.address, listen.address} == {_ANY_IPV4, _ANY_IPV6}
            ),
            None,
        )
        if twin is None:
            kept.append(listen)
        elif twin.proxy_protocol != listen.proxy_protocol:
            findings.fault(listen.written, "expected proxy_protocol for IPv4 and IPv6, or for neither")
        else:
            kept[kept.index(twin)] = twin._replace(address=_ANY_IPV6, only_ipv6=False)
    return kept


def overlap(one: str, other: str) -> bool:
    """Whether two sockets on one port and these addresses collide here: `::` takes IPv4 as well, `0.0.0.0` only that."""
    if one == other or _ANY_IPV6 in (one, other):
        return True
    return _ANY_IPV4 in (one, other) and ":" not in one + other
