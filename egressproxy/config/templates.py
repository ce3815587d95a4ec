"""Templates of access logs in Envoy's command operators: text into values, or a ValueError.

`%NAME%`, `%NAME(ARGUMENT)%` and `%NAME(ARGUMENT):LENGTH%`; `%%` is a percent sign. An operator that this proxy has nothing to
say for is refused by its name, and never a `-` in silence. What each prints is in `telemetry.formats.envoy`.
"""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import TYPE_CHECKING, NamedTuple

from egressproxy.config.faults import shown

if TYPE_CHECKING:
    from collections.abc import Collection


class Operator(NamedTuple):
    """One operator of a template.

    argument  what stands in its parentheses; upper case where it names a header field
    limit     characters that it may have; 0: as many as any field may have
    quoted    it stands between double quotes, so its blanks do no harm
    """

    name: str
    argument: str = ""
    limit: int = 0
    quoted: bool = False


Template = tuple["str | Operator", ...]

MAX_TEMPLATE = 10_000
"""Characters of a template. The longest of Istio's own has 700."""


ISTIO_RELEASES = tuple(f"istio-1.{minor}" for minor in range(31))
"""Words for the log formats of releases."""


def _unknown(name: str, known: Collection[str]) -> ValueError:
    close = get_close_matches(name[:60], sorted(known), n=1)
    advice = f"; did you mean %{close[0]}%?" if close else ""
    return ValueError(f"the operator {shown(f'%{name}%')} is not known here{advice}")


REQUEST_FIELDS = frozenset(
    {
        ":METHOD",
        ":PATH",
        ":AUTHORITY",
        ":SCHEME",
        "HOST",
        "USER-AGENT",
        "X-ENVOY-ORIGINAL-PATH",
        "X-FORWARDED-FOR",
        "X-REQUEST-ID",
    }
)
"""Header fields that %REQ()% may name: no others are kept until the line is written."""

RESPONSE_FIELDS = frozenset({"CONTENT-TYPE", "X-ENVOY-UPSTREAM-SERVICE-TIME"})

TIMES = frozenset({"START_TIME", "EMIT_TIME"})
"""Operators whose argument is a strftime format."""

ENVOY_OPERATORS = frozenset(
    {
        "BYTES_RECEIVED",
        "BYTES_SENT",
        "CONNECTION_ID",
        "CONNECTION_TERMINATION_DETAILS",
        "DOWNSTREAM_LOCAL_ADDRESS",
        "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT",
        "DOWNSTREAM_LOCAL_PORT",
        "DOWNSTREAM_REMOTE_ADDRESS",
        "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT",
        "DOWNSTREAM_REMOTE_PORT",
        "DURATION",
        "HOSTNAME",
        "PROTOCOL",
        "REQUESTED_SERVER_NAME",
        "RESPONSE_CODE",
        "RESPONSE_CODE_DETAILS",
        "RESPONSE_DURATION",
        "RESPONSE_FLAGS",
        "RESPONSE_FLAGS_LONG",
        "RESPONSE_TX_DURATION",
        "ROUTE_NAME",
        "UPSTREAM_CLUSTER",
        "UPSTREAM_CLUSTER_RAW",
        "UPSTREAM_HOST",
        "UPSTREAM_LOCAL_ADDRESS",
        "UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT",
        "UPSTREAM_LOCAL_PORT",
        "UPSTREAM_REMOTE_ADDRESS",
        "UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT",
        "UPSTREAM_REMOTE_PORT",
        "UPSTREAM_REQUEST_ATTEMPT_COUNT",
        "UPSTREAM_TLS_VERSION",
        "UPSTREAM_TRANSPORT_FAILURE_REASON",
    }
)
"""Operators without an argument."""

_WITH_ARGUMENT = frozenset({"REQ", "REQ_WITHOUT_QUERY", "RESP", "DYNAMIC_METADATA"})
_KNOWN = ENVOY_OPERATORS | _WITH_ARGUMENT | TIMES

_OPERATOR = re.compile(r"%([A-Z0-9_]+)(?:\(([^)]*)\))?(?::([0-9]{1,5}))?%")
_TIME_FORMAT = re.compile(r"(?:[^%]|%(?:[aAbBcdDeFgGhHIjklmMpPrRsSTuUVwWxXyYzZ%]|[1-9]?f))*")


def envoy_template(text: str) -> Template:
    """Command operators of Envoy, as its `text_format` has them. Raises ValueError."""
    text = text.removesuffix("\n")
    if not text or len(text) > MAX_TEMPLATE or not text.isprintable() or not text.isascii():
        raise ValueError(f"expected one line of 1 to {MAX_TEMPLATE} printable ASCII characters, got {shown(text)}")
    parts: list[str | Operator] = []
    literal = ""
    quoted = False
    at = 0
    while at < len(text):
        if text[at] != "%":
            literal += text[at]
            quoted ^= text[at] == '"'
            at += 1
            continue
        found, at = _operator(text, at)
        if isinstance(found, str):
            literal += found
            continue
        if literal:
            parts.append(literal)
            literal = ""
        parts.append(found._replace(quoted=quoted))
    if literal:
        parts.append(literal)
    return tuple(parts)


def _operator(text: str, at: int) -> tuple[str | Operator, int]:
    """The operator that begins there, or a percent sign, and where it ends."""
    if text.startswith("%%", at):
        return "%", at + 2
    match = _OPERATOR.match(text, at)
    if match is None:
        raise ValueError(
            f"expected an operator like %PROTOCOL% or %REQ(:METHOD)% at {shown(text[at : at + 30])}; %% is a percent sign"
        )
    name, argument, limit = match.groups()
    if name not in _KNOWN:
        raise _unknown(name, _KNOWN)
    if name in ENVOY_OPERATORS and argument is not None:
        raise ValueError(f"%{name}% takes no argument, got {shown(argument)}")
    if name in _WITH_ARGUMENT and not argument:
        raise ValueError(f"%{name}% needs an argument, as in %REQ(USER-AGENT)%")
    if limit is not None and name not in _WITH_ARGUMENT:
        raise ValueError(f"%{name}% takes no length, got :{limit}")
    argument = argument or ""
    if name in TIMES:
        if not _TIME_FORMAT.fullmatch(argument):
            raise ValueError(f"%{name}% takes a strftime format like %Y-%m-%dT%H:%M:%S.%3fZ, got {shown(argument)}")
    elif name != "DYNAMIC_METADATA":
        argument = argument.upper()
        known = RESPONSE_FIELDS if name == "RESP" else REQUEST_FIELDS
        for field_name in argument.split("?") if argument else ():
            if field_name not in known:
                raise ValueError(
                    f"%{name}()% cannot name {shown(field_name)}: of all header fields, only "
                    f"{', '.join(sorted(known))} are kept until the line is written"
                )
        if argument.count("?") > 1:
            raise ValueError(f"%{name}()% takes one alternative behind ?, got {shown(argument)}")
    return Operator(name, argument, int(limit or 0)), match.end()
