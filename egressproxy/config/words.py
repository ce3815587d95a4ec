"""The words of the native configuration: how one value is written, and what it becomes.

Each parser takes what YAML gives and returns a value that cannot be wrong, or raises ValueError with what was expected and what
came. `schema` puts the words together.
"""

from __future__ import annotations

import re
from difflib import get_close_matches
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

from pydantic import (
    BeforeValidator,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    PlainSerializer,
    PlainValidator,
    WithJsonSchema,
)
from pydantic_core import CoreSchema, core_schema

from egressproxy.config.faults import MAX_FAULTS, Misplaced, shown, shown_expression
from egressproxy.config.templates import LANGUAGES
from egressproxy.errors import MalformedTarget
from egressproxy.hostport import (
    HostPattern,
    PortRange,
    parse_allow_entry,
    parse_authority,
    parse_host_pattern,
    parse_port_range,
)
from egressproxy.policy.expressions import compile_expression
from egressproxy.policy.paths import parse_path_pattern

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pydantic.json_schema import JsonSchemaValue

    from egressproxy.config.faults import Finding

_S = TypeVar("_S")

# Entries of a list other than hosts: some hundred times what anybody runs, and a bound for what one bad file can cost.
MAX_ENTRIES = 100_000

MAX_REGEX = 4096
"""Characters of one regular expression."""


def together(settings: _S, found: Sequence[Finding]) -> _S:
    """The settings, unless something was found: then Misplaced is raised."""
    if found:
        raise Misplaced(*found)
    return settings


def repeated(words: Sequence[object]) -> list[int]:
    """Positions of the words that stand at an earlier position too."""
    seen: set[object] = set()
    positions = []
    for index, word in enumerate(words):
        if word in seen:
            positions.append(index)
        seen.add(word)
    return positions


def _parse_network(value: object) -> IPv4Network | IPv6Network:
    """A CIDR, or one address. Host bits are an error: `10.0.0.1/24` is more often a slip than a wish."""
    if isinstance(value, (IPv4Network, IPv6Network)):
        return value
    if not isinstance(value, str) or "%" in value:
        raise ValueError(f"expected a network like 10.0.0.0/8, got {shown(value)}")
    try:
        return ip_network(value)
    except ValueError:
        pass
    try:
        wider = ip_network(value, strict=False)
    except ValueError:
        raise ValueError(f"expected a network like 10.0.0.0/8 or fd00::/8, got {shown(value)}") from None
    raise ValueError(f"{shown(value)} has host bits set; did you mean {wider}?")


def _parse_pattern(value: object) -> HostPattern:
    if isinstance(value, HostPattern):
        return value
    if not isinstance(value, str):
        raise ValueError(f"expected a host name, *.suffix or *, got {shown(value)}")
    return parse_host_pattern(value)


def _parse_ports(value: object) -> PortRange:
    if isinstance(value, PortRange):
        return value
    return parse_port_range(value)


def _parse_allow(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"expected HOST:PORT like api.example.com:443, got {shown(value)}")
    parse_allow_entry(value)
    return value


def _parse_address(value: object) -> str:
    # A zone (`fe80::1%eth0`) would let any text through behind its sign.
    if not isinstance(value, str) or "%" in value:
        raise ValueError(f"expected an IP address like 127.0.0.1, got {shown(value)}")
    try:
        return str(ip_address(value))
    except ValueError:
        raise ValueError(f"expected an IP address like 127.0.0.1, got {shown(value)}") from None


_DNS_SERVER = re.compile(
    r"\[(?P<v6>[^\]]+)\](?::(?P<port6>[0-9]{1,5}))?|(?P<v4>[^:\]]+)(?::(?P<port4>[0-9]{1,5}))?|(?P<bare6>[^\]]+)"
)


def _parse_dns_server(value: object) -> str:
    match = _DNS_SERVER.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"expected a name server like 10.96.0.10:53, got {shown(value)}")
    address = _parse_address(match["v6"] or match["v4"] or match["bare6"])
    port = int(match["port6"] or match["port4"] or 53)
    if not 0 < port < 65536:
        raise ValueError(f"expected a port from 1 to 65535, got {port}")
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _parse_path(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"expected a path like /api/*, got {shown(value)}")
    return parse_path_pattern(value)


def _parse_regex(value: object) -> str:
    """An expression of RE2; `(?i)` at its front takes letters of either case."""
    if not isinstance(value, str) or not 0 < len(value) <= MAX_REGEX:
        raise ValueError(f"expected a regular expression of up to {MAX_REGEX} characters, got {shown(value)}")
    try:
        compile_expression(value)
    except ValueError as error:
        raise ValueError(f"expected a regular expression of RE2, got {shown_expression(value)}: {error}") from None
    return value


_CLOCK = re.compile(r"(?:[01]?[0-9]|2[0-3]):[0-5][0-9]|24:00")


def _parse_clock(value: object) -> str:
    if isinstance(value, str) and _CLOCK.fullmatch(value):
        return f"{value:0>5}"
    raise ValueError(f'expected a time of day like "08:30", got {shown(value)}; quote it')


def _parse_target(value: object) -> str:
    """HOST:PORT, canonical."""
    if not isinstance(value, str):
        raise ValueError(f"expected HOST:PORT like db.example.com:5432, got {shown(value)}")
    try:
        return str(parse_authority(value))
    except MalformedTarget as error:
        raise ValueError(str(error)) from None


LOG_FORMATS = (*LANGUAGES, "json", "istio-json")


def _parse_log_format(value: object) -> str:
    if value in LOG_FORMATS:
        assert isinstance(value, str)  # they all are
        return value
    close = get_close_matches(str(value)[:60].lower(), LOG_FORMATS, n=1)
    advice = f"; did you mean {close[0]}?" if close else ""
    raise ValueError(
        "expected squid, squid-5, json, nginx-stream, nginx-stream-1.22, envoy, istio, istio-1.0 to istio-1.30 or istio-json, "
        f"got {shown(value)}{advice}"
    )


def _parse_verify(value: object) -> object:
    if isinstance(value, bool) or value == "chain":
        return value
    raise ValueError(f"expected true, false or chain, got {shown(value)}")


def _parse_tls_version(value: object) -> str:
    """Text, or the number that YAML makes of it without quotes."""
    if isinstance(value, (str, float)) and str(value) in ("1.2", "1.3"):
        return str(value)
    raise ValueError(f"expected 1.2 or 1.3, got {shown(value)}")


def _parse_server_name(value: object) -> str:
    """One exact host, canonical."""
    pattern = _parse_pattern(value)
    if pattern.kind != "exact":
        raise ValueError(f"expected one host name, got {shown(value)}")
    return pattern.host


class _Word:
    """Text that an expression matches, in validation and in the JSON Schema."""

    def __init__(self, pattern: str, expected: str, **described: object) -> None:
        """`expected`: what a message asks for. `described`: further keys of the JSON Schema."""
        self._expression = re.compile(pattern)
        self._expected = expected
        self._schema = {"type": "string", "pattern": f"^{pattern}$", **described}

    def _parse(self, value: object) -> str:
        if isinstance(value, str) and self._expression.fullmatch(value):
            return value
        raise ValueError(f"expected {self._expected}, got {shown(value)}")

    def __get_pydantic_core_schema__(self, source: type, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self._parse, handler(source))

    def __get_pydantic_json_schema__(self, _: CoreSchema, __: GetJsonSchemaHandler) -> JsonSchemaValue:
        return self._schema


def _all_of(parse: Callable[[object], object]) -> BeforeValidator:
    """Every entry of a list that may hold a million, in one loop that stops at `MAX_FAULTS` wrong ones.

    pydantic would keep three kilobytes for each: a list in a wrong format must not end a proxy that reloads it.
    """

    def parse_all(value: object) -> object:
        if not isinstance(value, (list, tuple)):
            return value
        parsed: list[object] = []
        found: list[Finding] = []
        for index, entry in enumerate(value):
            try:
                parsed.append(parse(entry))
            except ValueError as error:
                found.append(((index,), str(error)))
                if len(found) == MAX_FAULTS:
                    break
        return together(parsed, found)

    return BeforeValidator(parse_all)


def _string_schema(description: str, *examples: str) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "description": description, "examples": list(examples)})


Network = Annotated[
    IPv4Network | IPv6Network,
    BeforeValidator(_parse_network),
    PlainSerializer(str),
    _string_schema("a CIDR or one address", "10.0.0.0/8", "fd00::/8"),
]
Pattern = Annotated[
    HostPattern,
    PlainValidator(_parse_pattern),
    PlainSerializer(str),
    _string_schema(
        "an exact name or address, *.suffix (any depth, never the apex), or *", "api.example.com", "*.example.com"
    ),
]
Ports = Annotated[
    PortRange,
    BeforeValidator(_parse_ports),
    PlainSerializer(str),
    WithJsonSchema(
        {"anyOf": [{"type": "integer", "minimum": 1, "maximum": 65535}, {"type": "string", "pattern": r"^\d+(-\d+)?$"}]}
    ),
]
Patterns = Annotated[tuple[Pattern, ...], _all_of(_parse_pattern)]
AllowEntry = Annotated[
    str,
    _string_schema("HOST:PORT; without a port 443; with :* any port", "*.example.com:443", "api.example.com"),
]
AllowEntries = Annotated[tuple[AllowEntry, ...], _all_of(_parse_allow)]
Address = Annotated[str, BeforeValidator(_parse_address), _string_schema("an IP address", "127.0.0.1", "::1")]
DnsServer = Annotated[
    str, BeforeValidator(_parse_dns_server), _string_schema("ADDRESS or ADDRESS:PORT", "10.96.0.10:53")
]
Method = Annotated[str, _Word("[A-Z][A-Z-]{0,31}", "a method in capitals like CONNECT", examples=["CONNECT"])]
PathPattern = Annotated[
    str,
    BeforeValidator(_parse_path),
    WithJsonSchema(
        {
            "type": "string",
            "description": "/exact/path, /below/* (that begins with /below/), or /*",
            "pattern": "^/[^?#]*$",
            "examples": ["/api/*", "/healthz"],
        }
    ),
]
Name = Annotated[str, _Word("[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}", "a word of up to 64 letters, digits and _ . : -")]

ServiceName = Annotated[
    str, _Word("[A-Za-z0-9][A-Za-z0-9_.:|*-]{0,511}", "a word of up to 512 letters, digits and _ . : | * -")
]
Regex = Annotated[
    str, BeforeValidator(_parse_regex), _string_schema("a regular expression, found anywhere", "^cdn[0-9]+", "(?i)ads")
]
Clock = Annotated[str, BeforeValidator(_parse_clock), _string_schema("a time of day, HH:MM", "08:30", "24:00")]
HostPort = Annotated[str, BeforeValidator(_parse_target), _string_schema("HOST:PORT", "db.example.com:5432")]

LogFormat = Annotated[
    str,
    BeforeValidator(_parse_log_format),
    WithJsonSchema({"type": "string", "enum": list(LOG_FORMATS)}),
]
SecretName = Annotated[
    str, _Word("[A-Za-z0-9][A-Za-z0-9.-]{0,252}", "the name of a secret, in letters, digits, . and -")
]
ViaName = Annotated[str, _Word("[A-Za-z0-9][A-Za-z0-9._-]{0,252}", "a name like proxy-1.example.com")]
FieldName = Annotated[str, _Word("[A-Za-z][A-Za-z0-9-]{0,63}", "the name of a header field like Authorization")]
HeaderPrefix = Annotated[str, _Word("[ -~]{0,200}", "up to 200 printable ASCII characters")]
Verify = Annotated[
    Literal[True, False, "chain"], BeforeValidator(_parse_verify), WithJsonSchema({"enum": [True, False, "chain"]})
]
TlsVersion = Annotated[
    Literal["1.2", "1.3"], BeforeValidator(_parse_tls_version), WithJsonSchema({"enum": ["1.2", "1.3", 1.2, 1.3]})
]
ServerName = Annotated[
    str, BeforeValidator(_parse_server_name), _string_schema("one host name or address", "api.example.com")
]

# Strict: YAML knows numbers and truth values from text, so `"yes"`, `"443"` and 1 for true are slips, not settings.
Flag = Annotated[bool, Field(strict=True)]
Count = Annotated[int, Field(strict=True)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Port = Annotated[Count, Field(ge=1, le=65535)]
SniCheck = Literal["enforce", "report", "off"]
Ech = Literal["allow", "deny"]
Day = Literal["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]
MAX_SECONDS = 30 * 86400
"""How long anything may take; more than that is meant as no bound."""
Seconds = Annotated[Number, Field(gt=0, le=MAX_SECONDS)]
