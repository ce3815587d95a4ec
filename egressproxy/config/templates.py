"""Templates of access logs in the languages of three programs: text into values, or a ValueError.

Envoy's command operators: `%NAME%`, `%NAME(ARGUMENT)%` and `%NAME(ARGUMENT):LENGTH%`; `%%` is a percent sign. Squid's format
codes: `%CODE`, with a width and an argument in braces where wanted; `%%` as well. NGINX's variables: `$name` and `${name}`.
What this proxy has nothing to say for is refused by its name, and never a `-` in silence. What each prints is in
`telemetry.formats`.

Any header field may be named, of requests and of responses, but those that hold secrets. Few are kept in any case until the
line is written; `asked_fields` tells which others must be, because a template names them.
"""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import TYPE_CHECKING, NamedTuple

from egressproxy.config.faults import shown
from egressproxy.model import AskedFields

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping


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


def _unknown(kind: str, name: str, known: Collection[str], written: str, likeness: float = 0.6) -> ValueError:
    """`written`: how a name stands in a template, with `{}` for the name. `likeness`: of what is suggested, at least."""
    close = get_close_matches(name[:60], sorted(known), n=1, cutoff=likeness)
    advice = f"; did you mean {written.format(close[0])}?" if close else ""
    return ValueError(f"the {kind} {shown(written.format(name))} is not known here{advice}")


SECRET_FIELDS = frozenset({"authorization", "proxy-authorization", "cookie", "set-cookie"})
"""Header fields that no log may hold."""

_FIELD_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110 section 5.6.2: a token


def _check_field(written: str, name: str) -> None:
    """Raise ValueError unless a template may name this header field. `written`: the operator or code that does."""
    if not _FIELD_NAME.fullmatch(name):
        raise ValueError(f"{written} cannot name {shown(name)}: expected the name of a header field, like User-Agent")
    if plain_field_name(name) in SECRET_FIELDS:
        raise ValueError(f"{written} cannot name {shown(name)}: what it holds is a secret, and not for a log")


def plain_field_name(name: str) -> str:
    """As names of fields are compared where it is about secrets: to some servers a hyphen and an underscore are the same."""
    return name.lower().replace("_", "-")


def _one_line(text: str) -> str:
    """`text` without one line end at its end. Raises ValueError."""
    text = text.removesuffix("\n")
    if not text or len(text) > MAX_TEMPLATE or not text.isprintable() or not text.isascii():
        raise ValueError(f"expected one line of 1 to {MAX_TEMPLATE} printable ASCII characters, got {shown(text)}")
    return text


# --- Envoy --------------------------------------------------------------------------------------------------------

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
"""What %REQ()% may name that is not kept for its sake: parts of a request, and fields that are known in any case."""

SERVICE_TIME = "X-ENVOY-UPSTREAM-SERVICE-TIME"
"""The one field of a response that is measured here, and not taken from the upstream."""

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
    text = _one_line(text)
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
        raise _unknown("operator", name, _KNOWN, "%{}%")
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
        for field_name in argument.split("?") if argument else ():
            if name == "RESP" or field_name not in REQUEST_FIELDS:
                _check_field(f"%{name}()%", field_name)
        if argument.count("?") > 1:
            raise ValueError(f"%{name}()% takes one alternative behind ?, got {shown(argument)}")
    return Operator(name, argument, int(limit or 0)), match.end()


# --- Squid --------------------------------------------------------------------------------------------------------


class Code(NamedTuple):
    """One format code of Squid.

    argument  what stands in its braces; lower case where it names a header field
    width     characters that it has at least, filled up with blanks, or with zeros
    limit     characters that it has at most; 0: as many as any field may have
    left      it is filled up behind the value
    quoted    it stands between double quotes, so its blanks do no harm
    """

    name: str
    argument: str = ""
    width: int = 0
    limit: int = 0
    zeros: bool = False
    left: bool = False
    quoted: bool = False


SquidTemplate = tuple["str | Code", ...]

SQUID_NUMBERS = frozenset({"ts", "tu", "tr", "dt", "<st", "<bs", ">Hs", "<Hs", ">p", ">lp", "<p", "<lp", ">rP"})
SQUID_TIMES = frozenset({"tl", "tg"})
"""Codes whose argument is a strftime format."""
SQUID_FIELDS = frozenset({"host", "user-agent"})
"""What %>h may name that is not kept for its sake."""
SQUID_CODES = (
    SQUID_NUMBERS
    | SQUID_TIMES
    | {">h", "<h", ">a", ">la", "<a", "<A", "<la", "un", "ul", "ui", "Ss", "Sh", "mt", "rm", "ru", "rp", "rv"}
    | {">rs", ">rd", ">rp", ">ru", ">rm", ">rv", "ssl::>sni"}
)
_NOT_ANSWERED = frozenset({"<pt", ">ha"})
"""Codes of Squid that begin as others do, so that those must not be read in their place."""

_CODE = re.compile(
    r"%([\"\[#]?)(-?)(0?)([0-9]{0,3})(?:\.([0-9]{1,3}))?(?:\{([^}]*)\})?"
    rf"({'|'.join(sorted(map(re.escape, SQUID_CODES | _NOT_ANSWERED), key=len, reverse=True))})(?:\{{([^}}]*)\}})?"
)
_ANY_CODE = re.compile(r"%[\"\['#/]?-?[0-9.]*(?:\{[^}]*\})?((?:[a-z_]+::)?[<>]?[A-Za-z_]{1,30})")


def squid_template(text: str) -> SquidTemplate:
    """Format codes of Squid, as its `logformat` has them. Raises ValueError."""
    text = _one_line(text)
    parts: list[str | Code] = []
    literal = ""
    quoted = False
    at = 0
    while at < len(text):
        if text[at] != "%" or text.startswith("%%", at):
            literal += text[at]
            quoted ^= text[at] == '"'
            at += 1 if text[at] != "%" else 2
            continue
        match = _CODE.match(text, at)
        if match is None or match[7] in _NOT_ANSWERED:
            raise _no_code(text, at)
        if literal:
            parts.append(literal)
            literal = ""
        parts.append(_code(match, quoted=quoted))
        at = match.end()
    if literal:
        parts.append(literal)
    return tuple(parts)


def _no_code(text: str, at: int) -> ValueError:
    match = _ANY_CODE.match(text, at)
    if match is not None and match[1] not in SQUID_CODES:
        return _unknown("code", match[1], SQUID_CODES, "%{}", 0.75)  # two letters are soon alike
    return ValueError(f"expected a code like %>a or %03>Hs at {shown(text[at : at + 30])}; %% is a percent sign")


def _code(match: re.Match[str], *, quoted: bool) -> Code:
    quote, left, zeros, width, limit, before, name, behind = match.groups()
    argument = before if before is not None else behind
    if before is not None and behind is not None:
        raise ValueError(f"%{name} takes one argument, got {shown(before)} and {shown(behind)}")
    if name in (">h", "<h"):
        argument = (argument or "").lower()
        _check_field(f"%{name}", argument)
    elif name in SQUID_TIMES:
        if argument is not None and not _TIME_FORMAT.fullmatch(argument):
            raise ValueError(f"%{name} takes a strftime format like %d/%b/%Y:%H:%M:%S, got {shown(argument)}")
    elif argument is not None:
        raise ValueError(f"%{name} takes no argument, got {shown(argument)}")
    if limit is not None and name in SQUID_NUMBERS:
        raise ValueError(f"%{name} is a number, which takes no greatest width, got .{limit}")
    return Code(name, argument or "", int(width or 0), int(limit or 0), bool(zeros), bool(left), quoted or quote == '"')


# --- NGINX --------------------------------------------------------------------------------------------------------

NGINX_VARIABLES = frozenset(
    {
        "bytes_received",
        "bytes_sent",
        "connection",
        "hostname",
        "msec",
        "protocol",
        "remote_addr",
        "remote_port",
        "server_addr",
        "server_port",
        "session_time",
        "ssl_preread_server_name",
        "status",
        "time_iso8601",
        "time_local",
        "upstream_addr",
        "upstream_bytes_received",
        "upstream_bytes_sent",
        "upstream_connect_time",
    }
)

_VARIABLE = re.compile(r"\$(?:\{([A-Za-z0-9_]+)\}|([A-Za-z0-9_]+))")


def nginx_template(text: str) -> Template:
    """Variables of NGINX's stream module, as its `log_format` has them. Raises ValueError."""
    text = _one_line(text)
    parts: list[str | Operator] = []
    at = 0
    for match in _VARIABLE.finditer(text):
        _no_dollar(text, at, match.start())
        if match.start() > at:
            parts.append(text[at : match.start()])
        name = match[1] or match[2]
        if name not in NGINX_VARIABLES:
            raise _unknown("variable", name, NGINX_VARIABLES, "${}")
        parts.append(Operator(name, quoted=text.count('"', 0, match.start()) % 2 == 1))
        at = match.end()
    _no_dollar(text, at, len(text))
    if at < len(text):
        parts.append(text[at:])
    return tuple(parts)


def _no_dollar(text: str, begin: int, end: int) -> None:
    at = text.find("$", begin, end)
    if at >= 0:
        raise ValueError(f"expected a variable like $remote_addr or ${{status}} at {shown(text[at : at + 30])}")


# --- all three ----------------------------------------------------------------------------------------------------

LANGUAGES: Mapping[str, Callable[[str], Template | SquidTemplate]] = {
    **dict.fromkeys(("istio", *ISTIO_RELEASES, "envoy"), envoy_template),
    **dict.fromkeys(("squid", "squid-5"), squid_template),
    **dict.fromkeys(("nginx-stream", "nginx-stream-1.22"), nginx_template),
}
"""The formats that take a template, and who reads it."""


def asked_fields(language: str, text: str) -> AskedFields:
    """The header fields that must be kept for this template's sake. `language`: a word of LANGUAGES. Raises ValueError."""
    request: set[str] = set()
    response: set[str] = set()
    for part in LANGUAGES[language](text):
        if isinstance(part, str):
            continue
        names = set(part.argument.lower().split("?"))
        match part.name:
            case "REQ" | "REQ_WITHOUT_QUERY":
                request |= names - _KNOWN_TO_ENVOY
            case ">h":
                request |= names - SQUID_FIELDS
            case "RESP" | "<h":
                response |= names
    return AskedFields(frozenset(request), frozenset(response - {SERVICE_TIME.lower()}))


_KNOWN_TO_ENVOY = frozenset(name.lower() for name in REQUEST_FIELDS)
