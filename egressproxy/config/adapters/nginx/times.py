"""Time limits: those that most servers have are the general ones, and listeners of other servers have theirs."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

from egressproxy.config.adapters.adapter import At
from egressproxy.config.adapters.nginx.values import seconds, switch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from egressproxy.config.adapters.nginx.servers import Server
    from egressproxy.config.adapters.nginx.syntax import Directive, Findings

HALF_CLOSED_S = 1
"""Seconds that a tunnel of which one side has ended may be quiet, where NGINX (`proxy_half_close off`) would end it at once and
lose what the other side still has to say. Where `proxy_timeout` is less, that."""


class Value(NamedTuple):
    """What one server says about a setting.

    written  the directive, or the server where its default holds
    words    the value as NGINX has it
    native   the value
    """

    written: Directive
    words: str
    native: Any


class Setting(NamedTuple):
    """A directive that has a default: its name, the native key, the default, how it is read, who uses it.

    of_hellos   those who read a ClientHello
    of_headers  those whose clients are announced by a header
    """

    name: str
    key: str
    default: str
    read: Callable[[str], float]
    of_hellos: bool = False
    of_headers: bool = False

    def said_by(self, server: Server) -> Value | None:
        """What a server says, or its default; None if it has no use for it. Raises ValueError."""
        used = server.reads_name or (self.of_headers and any(listen.proxy_protocol for listen in server.listens))
        if self.of_hellos and not used:
            return None
        written = server.one(self.name)
        words = self.default if written is None else written.words[0]
        return Value(written or server.statement, words, self.read(words))


_TIMES = (
    Setting("preread_timeout", "head_s", "30s", seconds, True, True),
    Setting("proxy_connect_timeout", "connect_s", "60s", seconds),
    Setting("proxy_timeout", "idle_s", "10m", seconds),
)


def share_times(servers: Sequence[Server], findings: Findings) -> dict[str, At]:
    """The general `timeouts`; who has others is given them as its own. What is wrong with one is told."""
    said = [(server, _times(server, findings)) for server in servers]
    general: dict[str, At] = {}
    for key in (*(each.key for each in _TIMES), "half_close_s"):
        values = [times[key] for _, times in said if key in times]
        if not values:
            continue
        ((usual, _),) = Counter(value.value for value in values).most_common(1)  # the first of several
        general[key] = next(value for value in values if value.value == usual)
        for server, times in said:
            if key in times and times[key].value != usual:
                server.timeouts[key] = times[key]
    return general


def _times(server: Server, findings: Findings) -> dict[str, At]:
    """All that one server has, by the native keys."""
    found: dict[str, At] = {}
    for each in _TIMES:
        try:
            value = each.said_by(server)
        except ValueError as error:
            written = server.one(each.name)
            assert written is not None  # defaults are right
            findings.fault(written, str(error))
            continue
        if value is not None:
            found[each.key] = At(value.written.mark, value.native)
    half_close = server.one("proxy_half_close")
    try:
        goes_on = half_close is not None and switch(half_close.words[0])
    except ValueError as error:
        assert half_close is not None  # the default is right
        findings.fault(half_close, str(error))
    else:
        if "idle_s" in found:
            mark = (half_close or server.statement).mark
            idle = found["idle_s"]
            found["half_close_s"] = idle if goes_on or 0 < idle.value < HALF_CLOSED_S else At(mark, HALF_CLOSED_S)
    return found
