"""The native configuration: every setting, once, with its unit, default and effect.

This is vocabulary: any module may import it. It reads no file (`config.load` does) and decides nothing (`policy` does).
Unknown keys are errors, so a setting that is misspelled never falls back to a default in silence.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    PlainSerializer,
    PlainValidator,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic_core import CoreSchema, PydanticCustomError

from egressproxy.config.faults import MAX_FAULTS, Misplaced, path_text, shown
from egressproxy.hostport import HostPattern, PortRange, parse_allow_entry, parse_host_pattern, parse_port_range

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pydantic.json_schema import JsonSchemaValue

    from egressproxy.config.faults import Finding

# --- the words of the language ------------------------------------------------------------------------------------

_S = TypeVar("_S")

# Entries of a list other than hosts: some hundred times what anybody runs, and a bound for what one bad file can cost.
MAX_ENTRIES = 100_000


def _together(settings: _S, found: Sequence[Finding]) -> _S:
    """The settings, unless something was found: then Misplaced is raised."""
    if found:
        raise Misplaced(*found)
    return settings


def _repeated(words: Sequence[object]) -> list[int]:
    """Positions of the words that stand at an earlier position too."""
    seen: set[object] = set()
    positions = []
    for index, word in enumerate(words):
        if word in seen:
            positions.append(index)
        seen.add(word)
    return positions


def _overlap(one: str, other: str) -> bool:
    """Whether two sockets on one port and these addresses collide: `::` takes IPv4 as well, `0.0.0.0` only that."""
    if one == other or "::" in (one, other):
        return True
    return "0.0.0.0" in (one, other) and ":" not in one + other  # noqa: S104 - compared with, not bound to


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


_METHOD = re.compile(r"[A-Z][A-Z-]{0,31}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}")


def _parse_method(value: object) -> str:
    if isinstance(value, str) and _METHOD.fullmatch(value):
        return value
    raise ValueError(f"expected a method in capitals like CONNECT, got {shown(value)}")


def _parse_name(value: object) -> str:
    if isinstance(value, str) and _NAME.fullmatch(value):
        return value
    raise ValueError(f"expected a word of up to 64 letters, digits and _ . : -, got {shown(value)}")


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
        return _together(parsed, found)

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
Method = Annotated[
    str,
    BeforeValidator(_parse_method),
    WithJsonSchema({"type": "string", "pattern": f"^{_METHOD.pattern}$", "examples": ["CONNECT"]}),
]
Name = Annotated[str, BeforeValidator(_parse_name), WithJsonSchema({"type": "string", "pattern": f"^{_NAME.pattern}$"})]

# Strict: YAML knows numbers and truth values from text, so `"yes"`, `"443"` and 1 for true are slips, not settings.
Flag = Annotated[bool, Field(strict=True)]
Count = Annotated[int, Field(strict=True)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Port = Annotated[Count, Field(ge=1, le=65535)]
SniCheck = Literal["enforce", "report", "off"]
Ech = Literal["allow", "deny"]
Seconds = Annotated[Number, Field(gt=0, le=30 * 86400)]


class _Settings(BaseModel):
    """Frozen, and strict about unknown keys. Field docstrings become the descriptions in the JSON Schema.

    A key with nothing behind it is refused: `hosts:` in a half-written rule must not come to mean any host. Only
    what is in `nullable` takes `null`.
    """

    nullable: ClassVar[frozenset[str]] = frozenset()

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=False, hide_input_in_errors=True
    )

    @field_validator("*", mode="before")
    @classmethod
    def _is_written(cls, value: object, info: ValidationInfo) -> object:
        if value is None and info.field_name not in cls.nullable:
            raise PydanticCustomError("nothing", "expected a value, got nothing")
        return value

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """As pydantic makes it, less the null that a field takes only by being left out."""
        schema = handler.resolve_ref_schema(handler(core_schema))
        for key, field in schema.get("properties", {}).items():
            field.pop("title", None)
            if key not in cls.nullable and field.get("default", "") is None:
                del field["default"]
                (branch,) = (branch for branch in field.pop("anyOf") if branch != {"type": "null"})
                field.update({**branch, **field})
        return schema


# --- listeners ----------------------------------------------------------------------------------------------------


class ListenerTls(_Settings):
    """The listener itself speaks TLS: `curl -x https://proxy`."""

    certificate: Path
    """PEM file with the certificate chain shown to clients."""
    key: Path
    """PEM file with its private key."""
    client_ca: Path | None = None
    """PEM file with authorities; set, a client must show a certificate that one of them signed."""


class ListenerProxyProtocol(_Settings):
    """Each client is announced by a PROXY protocol header (version 1 or 2), as a load balancer in front sends it."""

    announcers: Annotated[tuple[Network, ...], Field(alias="from", min_length=1, max_length=MAX_ENTRIES)]
    """Networks that may announce clients. A connection from elsewhere, or without a header, is closed."""


class Listener(_Settings):
    """One address and port that clients connect to."""

    protocol: Literal["http-proxy", "sni", "auto"]
    """`http-proxy`: CONNECT, as HTTPS_PROXY and `curl -x` speak it. `sni`: TLS, forwarded undecrypted to the server that
    its ClientHello names. `auto`: either, told apart by the first byte."""
    name: Name | None = None
    """Word for logs and metrics. Default: the protocol and the port, as `http-proxy:3128`."""
    address: Address = "0.0.0.0"  # noqa: S104 - a proxy with written rules serves its network; the default without any configuration is loopback
    """Address to listen on. `::` takes IPv4 as well."""
    port: Port
    """TCP port."""
    tls: ListenerTls | None = None
    """http-proxy only: set, clients speak TLS to the proxy."""
    service_port: Port | None = None
    """sni and auto: the port of the server that is dialled, and that rules see. Default: 443."""
    transparent: Literal["redirect", "tproxy"] | None = None
    """sni and auto: clients are captured by the kernel (nftables REDIRECT or TPROXY, see `egressproxy redirect`). The port
    they were on their way to then takes the place of `service_port`."""
    proxy_protocol: ListenerProxyProtocol | None = None
    """Set, every client must be announced by a PROXY protocol header; its address there is the one that rules and logs see."""

    @property
    def label(self) -> str:
        """The word for this listener in logs and metrics."""
        return self.name or f"{self.protocol}:{self.port}"

    @model_validator(mode="after")
    def _check(self) -> Listener:
        found: list[Finding] = []
        if self.protocol == "http-proxy":
            found += [
                (
                    (key,),
                    "belongs on a listener with protocol sni or auto: an http-proxy client says where it wants to go",
                )
                for key in ("service_port", "transparent")
                if getattr(self, key) is not None
            ]
        elif self.tls is not None:
            found.append(
                (("tls",), f"belongs on an http-proxy listener: {self.protocol} forwards TLS and does not end it")
            )
        return _together(self, found)


# --- policy -------------------------------------------------------------------------------------------------------


class Rule(_Settings):
    """One rule. All conditions that are present must hold; the first rule that matches decides."""

    name: Name | None = None
    """Word for logs and metrics. Default: `rule-N`, counting from 1."""
    action: Literal["allow", "deny"]
    """What the rule says when it matches."""
    clients: Annotated[tuple[Network, ...], Field(max_length=MAX_ENTRIES)] | None = None
    """The client's address lies in one of these networks. Absent: any client."""
    hosts: Patterns | None = None
    """The target host matches one of these. Absent: any host."""
    ports: tuple[Ports, ...] | None = None
    """The target port is one of these (`443`, `"8000-8100"`). Absent: any port."""
    methods: tuple[Method, ...] | None = None
    """The request method is one of these. Absent: any method."""
    private_addresses: Flag = False
    """Lift the address guard for this rule: private, loopback and other special addresses may be dialled. A metadata
    address must still be named, as a literal, in `hosts`."""
    report: Flag = False
    """On a deny rule: log and count what it would refuse, and let it pass. For trying a rule out."""
    sni_check: SniCheck | None = None
    """For the tunnels this rule allows; see the setting of the same name at the top level. Absent: as that says."""
    require_tls: Flag | None = None
    """Whether what is inside a tunnel must be TLS. Absent: yes where `sni_check` is `enforce`. `false` lets protocols pass
    that are not TLS from the first byte (SMTP, SSH), and the server may speak first; TLS is still checked."""
    ech: Ech | None = None
    """See the setting of the same name at the top level. Absent: as that says."""
    proxy_protocol: Literal["v1", "v2"] | None = None
    """The upstream gets a PROXY protocol header of this version first, with the client's address."""

    @model_validator(mode="after")
    def _check(self) -> Rule:
        found: list[Finding] = [
            ((key,), "expected at least one entry, got an empty list; leave the key out to match any")
            for key in ("clients", "hosts", "ports", "methods")
            if getattr(self, key) == ()
        ]
        if self.report and self.action == "allow":
            found.append((("report",), "belongs on a deny rule, or at the top level for all that is refused"))
        if self.private_addresses and self.action == "deny":
            found.append((("private_addresses",), "belongs on an allow rule"))
        if self.action == "deny":
            found += [
                ((key,), "belongs on an allow rule")
                for key in ("sni_check", "require_tls", "ech", "proxy_protocol")
                if getattr(self, key) is not None
            ]
        return _together(self, found)


class ServicePort(_Settings):
    """A port on which a registered service may be reached."""

    number: Port
    """TCP port that clients ask for."""
    protocol: Literal["TLS", "HTTPS", "TCP"] = "TLS"
    """What is spoken there."""


class Service(_Settings):
    """A registered destination: what `outbound: registry_only` lets pass where no rule decides."""

    hosts: Annotated[Patterns, Field(min_length=1)]
    """Names of the service."""
    ports: Annotated[tuple[ServicePort, ...], Field(min_length=1, max_length=1000)]
    """Ports of the service."""
    private_addresses: Flag = False
    """As on a rule: its addresses may be private."""
    resolution: Literal["dns", "none"] = "dns"
    """How a captured connection (a listener with `transparent`) finds its server. `dns`: by its name; the address that the
    client dialled is ignored. `none`: at the very address that the client dialled, so that whoever writes an allowed name
    into a ClientHello reaches any public address. Other connections are resolved by DNS either way."""

    @model_validator(mode="after")
    def _check(self) -> Service:
        numbers = [port.number for port in self.ports]
        found: list[Finding] = [
            (("ports", index, "number"), f"port {numbers[index]} is listed twice") for index in _repeated(numbers)
        ]
        found += [
            (("hosts", index), "expected a name, got '*'; to let everything pass write outbound: allow_any")
            for index, pattern in enumerate(self.hosts)
            if pattern.kind == "any"
        ]
        return _together(self, found)


class Guard(_Settings):
    """The address guard: which special ranges every rule may reach."""

    allow: tuple[Network, ...] = ()
    """Special ranges (private, loopback, ...) that are open to every rule. Never opens a metadata address."""


# --- the stages ---------------------------------------------------------------------------------------------------


class Dns(_Settings):
    """How names become addresses. Without `servers`: resolv.conf, and always the hosts file."""

    servers: tuple[DnsServer, ...] = ()
    """Name servers to ask instead of those in resolv.conf, `ADDRESS` or `ADDRESS:PORT`."""
    ipv6: Flag = True
    """Ask for AAAA records as well as A."""
    search: Flag = False
    """Complete names with the search domains of resolv.conf. Rules judge the name that was asked for: with this on, one that
    refuses `*.corp.example` does not catch `db`, which may become `db.corp.example`."""
    timeout_s: Seconds = 2.0
    """Wait for one server's answer before the next try."""
    tries: Annotated[Count, Field(ge=1, le=10)] = 3
    """How often the list of servers is gone through."""
    min_ttl_s: Annotated[Number, Field(ge=0, le=3600)] = 5.0
    """An answer is kept at least this long, whatever its TTL."""
    max_ttl_s: Seconds = 300.0
    """An answer is kept at most this long, whatever its TTL."""
    negative_ttl_s: Annotated[Number, Field(ge=0, le=3600)] = 5.0
    """`no such name` and `no address` are kept this long; failures of the servers are not kept."""
    stale_s: Annotated[Number, Field(ge=0, le=7 * 86400)] = 3600.0
    """An answer that ran out may still be used for this long when the servers fail. 0: never."""
    cache_entries: Annotated[Count, Field(ge=1, le=10_000_000)] = 10_000
    """Names kept; the least recently used one goes first."""

    @model_validator(mode="after")
    def _check(self) -> Dns:
        if self.min_ttl_s > self.max_ttl_s:
            raise Misplaced((("min_ttl_s",), f"{self.min_ttl_s:g} is above max_ttl_s, which is {self.max_ttl_s:g}"))
        return self


class Timeouts(_Settings):
    """How long the proxy waits for others."""

    head_s: Seconds = 10.0
    """For a complete request head, TLS handshake included; then 408. For a complete ClientHello; then an alert."""
    connect_s: Seconds = 10.0
    """For a connection to the target, over all its addresses. Then 504."""
    idle_s: Seconds = 3600.0
    """A tunnel in which no byte moves either way is closed after this."""
    half_close_s: Seconds = 60.0
    """The same, once one side has ended its half."""
    drain_s: Annotated[Number, Field(ge=0, le=86400)] = 30.0
    """After SIGTERM open tunnels may go on this long; then they are cut."""


class Limits(_Settings):
    """How much the proxy takes."""

    max_tunnels: Annotated[Count, Field(ge=1, le=10_000_000)] = 9000
    """Connections open at once in one worker; one more is answered 503."""
    max_head_bytes: Annotated[Count, Field(ge=256, le=1_048_576)] = 16_384
    """Bytes in a request head. Then 431."""
    max_headers: Annotated[Count, Field(ge=1, le=1000)] = 100
    """Fields in a request head. Then 431."""
    max_target_bytes: Annotated[Count, Field(ge=64, le=65_536)] = 8192
    """Bytes in a request target. Then 414."""
    max_hello_bytes: Annotated[Count, Field(ge=512, le=65_536)] = 65_536
    """Bytes in a ClientHello. Then an alert."""


class AccessLog(_Settings):
    """One access log: one line per connection, written when it ends."""

    format: Literal["squid", "squid-5", "json", "nginx-stream", "nginx-stream-1.22"] = "squid"
    """`squid`: Squid's native format with the result codes of Squid 6 and 7; `squid-5`: with those of Squid 5.
    `nginx-stream`: the `log_stream` line of NGINX as an SNI proxy; `nginx-stream-1.22`: of NGINX up to 1.25.4, which did not
    count the ClientHello among the bytes received."""
    path: str = "-"
    """File to append to; `-` is standard output. Reopened on SIGUSR1 and when it was rotated away."""
    decisions: Flag = False
    """json only: one more line, `"event":"open"`, when a tunnel opens."""
    buffer_lines: Annotated[Count, Field(ge=1, le=10_000_000)] = 100_000
    """Lines that may wait for a slow disk or pipe; more are dropped and counted."""

    @model_validator(mode="after")
    def _check(self) -> AccessLog:
        found: list[Finding] = []
        if self.decisions and self.format != "json":
            found.append((("decisions",), "needs format: json; the Squid format has one line per finished transaction"))
        if not self.path:
            found.append((("path",), "expected a file name, or - for standard output, got ''"))
        return _together(self, found)


class Admin(_Settings):
    """The admin port: /metrics /livez /readyz /tunnels /config /explain."""

    address: Address = "127.0.0.1"
    """Address to listen on."""
    port: Port = 9090
    """TCP port."""


# --- the whole ----------------------------------------------------------------------------------------------------


class Config(_Settings):
    """A whole configuration of egressproxy."""

    nullable = frozenset({"admin"})

    listeners: Annotated[tuple[Listener, ...], Field(min_length=1, max_length=1000)]
    """Where clients connect."""
    allow: AllowEntries = ()
    """Shorthand: `HOST:PORT` entries to allow, asked after `rules`."""
    rules: Annotated[tuple[Rule, ...], Field(max_length=MAX_ENTRIES)] = ()
    """In order; the first that matches decides."""
    outbound: Literal["registry_only", "allow_any"] = "registry_only"
    """What no rule decides: `registry_only` lets pass what `services` registers, `allow_any` everything."""
    services: Annotated[tuple[Service, ...], Field(max_length=MAX_ENTRIES)] = ()
    """The registry of known destinations."""
    report: Flag = False
    """Log and count all that rules and `outbound` would refuse, and let it pass; tunnels on port 443 whose TLS asks for another
    host as well. The address guard still holds, and an `sni_check` or `ech` that is set."""
    sni_check: SniCheck | None = None
    """Whether the TLS inside a CONNECT tunnel must ask for the host that the tunnel was granted for. `enforce`: if not, it is
    closed before the origin sees a byte; `report`: logged and counted only; `off`: not looked at. Absent: `off`, and on port
    443 `enforce` (`report` with `report: true`). Set, it holds for every port of every rule that does not say otherwise."""
    ech: Ech = "allow"
    """A ClientHello with Encrypted Client Hello (browsers send a dummy of it to every site): `allow` judges its outer name;
    `deny` closes, dummies included, which nothing on the path can tell from the real thing; tunnels on every port are looked at
    for it, also where `sni_check` is `off` (where it is `report`, it is reported)."""
    guard: Guard = Guard()
    """The address guard."""
    dns: Dns = Dns()
    """Name resolution."""
    timeouts: Timeouts = Timeouts()
    """How long to wait."""
    limits: Limits = Limits()
    """How much to take."""
    access_log: tuple[AccessLog, ...] = (AccessLog(),)
    """Access logs. Default: Squid's format on standard output."""
    admin: Admin | None = Admin()
    """The admin port; `null` for none."""

    @model_validator(mode="after")
    def _check(self) -> Config:
        ports: list[tuple[tuple[str | int, ...], Listener | Admin]] = [
            (("listeners", index, "port"), listener) for index, listener in enumerate(self.listeners)
        ]
        if self.admin is not None:
            ports.append((("admin", "port"), self.admin))
        found: list[Finding] = []
        for number, (at, later) in enumerate(ports):
            for other, earlier in ports[:number]:
                if later.port == earlier.port and _overlap(later.address, earlier.address):
                    found.append((at, f"{later.address} port {later.port} is taken by {path_text(other)}"))
                    break
        labels = [listener.label for listener in self.listeners]
        found += [
            (("listeners", index), f"two listeners are called {labels[index]!r}; give one a name of its own")
            for index in _repeated(labels)
        ]
        names = [rule.name or f"rule-{number}" for number, rule in enumerate(self.rules, 1)]
        found += [
            (("rules", index), f"two rules are called {names[index]!r}; logs and metrics could not tell them apart")
            for index in _repeated(names)
        ]
        return _together(self, found)


def json_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of one native YAML file, for editors.

    It says less than loading does: hosts, networks and what settings mean together are judged there.
    """
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Config.model_json_schema()}


BUILT_IN = "built-in"
"""Name of the one rule of the built-in default, which stands in no file."""


def built_in() -> dict[str, Any]:
    """The safe default without any configuration: loopback only, public addresses on 80 and 443, guard on."""
    return {
        "listeners": [{"protocol": "http-proxy", "address": "127.0.0.1", "port": 3128}],
        "rules": [{"name": BUILT_IN, "action": "allow", "ports": [80, 443]}],
    }
