"""`cache_peer` and who is sent there: parents, and the routes that rules are split by.

Squid asks `always_direct`, then `never_direct`, and for what may neither go only directly nor only by a parent it tries one
after the other. A rule here has one way, so the third case is refused with what to write instead. Of several parents Squid
takes the next when one fails; here it is the first that `cache_peer_access` lets a request to.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from egressproxy.config.adapters.adapter import At
from egressproxy.config.adapters.squid.conditions import ALWAYS, NEVER, Term, all_of
from egressproxy.config.faults import shown
from egressproxy.hostport import parse_host_pattern

if TYPE_CHECKING:
    from collections.abc import Sequence

    from egressproxy.config.adapters.squid.lexer import Statement

MAX_WAYS = 1000
"""Conditions that one rule may be split by."""

Line = tuple[bool, Term]
"""One line of an access list: whether it says allow, and when."""

_OPTIONS = (
    "proxy-only no-query default background-ping no-digest no-tproxy weight basetime closest-only ttl no-netdb-exchange "
    "no-delay connect-timeout connect-fail-limit digest-url allow-miss max-conn standby round-robin weighted-round-robin carp "
    "carp-key userhash sourcehash connection-auth htcp front-end-https"
)
_WITHOUT_MEANING = frozenset(_OPTIONS.split())
_CONNECT_NOTE = (
    "plain requests go through the parent by CONNECT as well, to port 80 or what their URL says; in a parent that refuses "
    "CONNECT to other ports than 443 (http_access deny CONNECT !SSL_ports) add those ports to SSL_ports for this proxy"
)
_LOOKUP_NOTE = (
    "the parent looks names up, so it is the parent that must refuse those of private and metadata addresses "
    "(http_access deny to_localhost, to_linklocal)"
)
_LOGIN = "; put USER:PASSWORD alone into a file that only the proxy may read, and write login=@FILE"


class Way(NamedTuple):
    """How what is allowed goes out.

    kind    directly, by a parent, or: neither has to, or nobody takes it
    parent  its name
    """

    kind: Literal["direct", "parent", "undecided", "nobody"]
    parent: str = ""


DIRECT = Way("direct")
UNDECIDED = Way("undecided")
NOBODY = Way("nobody")

Ways = list[tuple[Term, Way]]
"""In order; the first that holds is meant. The last always holds."""


def parent(statement: Statement) -> tuple[At, str, list[str]]:
    """The parent of one line in the native form, its name, and notes. Raises ValueError."""
    words = statement.words
    if len(words) < 4:
        raise ValueError(
            "expected a host, parent, its port and 0, as in cache_peer proxy.example.com parent 3128 0 no-query"
        )
    host, kind, http_port, _icp_port, *options = words
    if kind != "parent":
        raise ValueError(f"{shown(kind)} shares a cache, and there is none here; expected parent")
    if not re.fullmatch("[0-9]{1,5}", http_port) or not 0 < int(http_port) < 65536:
        raise ValueError(f"expected the port of the parent, got {shown(http_port)}")
    pattern = parse_host_pattern(host)
    if pattern.kind != "exact":
        raise ValueError(f"expected one host, got {shown(host)}")
    native: dict[str, Any] = {"name": host, "address": pattern.host, "port": int(http_port)}
    ignored = []
    for option in options:
        key, _, value = option.partition("=")
        if key == "name":
            native["name"] = value
        elif key == "login":
            native["credentials"] = _credentials(value)
        elif key in _WITHOUT_MEANING:
            ignored.append(option)
        elif key == "originserver":
            raise ValueError("originserver makes it a web server that is proxied for; write a service")
        else:
            raise ValueError(f"the option {shown(key)} is not known here: parents are reached by CONNECT, without TLS")
    notes = [f"has no meaning here: {', '.join(ignored)}"] if ignored else []
    notes += [_CONNECT_NOTE, _LOOKUP_NOTE]
    return At(statement.mark, native), native["name"], notes


def _credentials(value: str) -> str:
    if not value.startswith("@") or len(value) == 1:
        got = value if value in ("PASS", "PASSTHRU") or value.startswith("NEGOTIATE") else "a password"
        raise ValueError(f"login={got} is not taken{_LOGIN}")
    return value[1:]


def ways(always: Sequence[Line], never: Sequence[Line], parents: Sequence[tuple[str, Sequence[Line]]]) -> Ways:
    """Which way what is allowed goes. `parents`: names with the lines of their `cache_peer_access`. Raises ValueError."""
    if not parents and not never:
        return [(ALWAYS, DIRECT)]
    by_parent: Ways = [(ALWAYS, NOBODY)]
    for name, lines in reversed(parents):
        mine: Ways = [(ALWAYS, Way("parent", name))]
        by_parent = _cascade(lines, mine, by_parent) if lines else mine
    between: Ways = [(ALWAYS, UNDECIDED if parents else DIRECT)]
    return _cascade(always, [(ALWAYS, DIRECT)], _cascade(never, by_parent, between))


def _cascade(lines: Sequence[Line], allowed: Ways, denied: Ways) -> Ways:
    """Where the lines of an access list lead: what none is for gets the opposite of the last."""
    found: Ways = []
    last = not lines[-1][0] if lines else False
    for allow, term in (*lines, (last, ALWAYS)):
        for inner, way in allowed if allow else denied:
            both = all_of((term, inner))
            if both != NEVER:
                found.append((both, way))
        if term == ALWAYS:
            break
        if len(found) > MAX_WAYS:
            raise ValueError(
                f"expected at most {MAX_WAYS} cases of always_direct, never_direct and cache_peer_access together"
            )
    return found
