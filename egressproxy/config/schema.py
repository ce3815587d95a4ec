"""The native configuration: every setting, once, with its unit, default and effect.

This is vocabulary: any module may import it. It reads no file (`config.load` does) and decides nothing (`policy` does).
Unknown keys are errors, so a setting that is misspelled never falls back to a default in silence.
"""

from __future__ import annotations

import re
from difflib import get_close_matches
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
from egressproxy.config.templates import LANGUAGES
from egressproxy.hostport import HostPattern, PortRange, parse_allow_entry, parse_host_pattern, parse_port_range
from egressproxy.policy.paths import parse_path_pattern

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
_FIELD_NAME = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,63}")
_PREFIX = re.compile(r"[ -~]{0,200}")
_SECRET = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,252}")


def _parse_method(value: object) -> str:
    if isinstance(value, str) and _METHOD.fullmatch(value):
        return value
    raise ValueError(f"expected a method in capitals like CONNECT, got {shown(value)}")


def _parse_path(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"expected a path like /api/*, got {shown(value)}")
    return parse_path_pattern(value)


def _parse_name(value: object) -> str:
    if isinstance(value, str) and _NAME.fullmatch(value):
        return value
    raise ValueError(f"expected a word of up to 64 letters, digits and _ . : -, got {shown(value)}")


def _parse_secret(value: object) -> str:
    if isinstance(value, str) and _SECRET.fullmatch(value):
        return value
    raise ValueError(f"expected the name of a secret, in letters, digits, . and -, got {shown(value)}")


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


def _parse_field_name(value: object) -> str:
    if isinstance(value, str) and _FIELD_NAME.fullmatch(value):
        return value
    raise ValueError(f"expected the name of a header field like Authorization, got {shown(value)}")


def _parse_prefix(value: object) -> str:
    if isinstance(value, str) and _PREFIX.fullmatch(value):
        return value
    raise ValueError(f"expected up to 200 printable ASCII characters, got {shown(value)}")


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
Name = Annotated[str, BeforeValidator(_parse_name), WithJsonSchema({"type": "string", "pattern": f"^{_NAME.pattern}$"})]

LogFormat = Annotated[
    str,
    BeforeValidator(_parse_log_format),
    WithJsonSchema({"type": "string", "enum": list(LOG_FORMATS)}),
]
SecretName = Annotated[
    str, BeforeValidator(_parse_secret), WithJsonSchema({"type": "string", "pattern": f"^{_SECRET.pattern}$"})
]
FieldName = Annotated[
    str, BeforeValidator(_parse_field_name), WithJsonSchema({"type": "string", "pattern": f"^{_FIELD_NAME.pattern}$"})
]
HeaderPrefix = Annotated[
    str, BeforeValidator(_parse_prefix), WithJsonSchema({"type": "string", "pattern": f"^{_PREFIX.pattern}$"})
]
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

    protocol: Literal["http-proxy", "http", "sni", "auto"]
    """`http-proxy`: CONNECT, and requests with a whole URL, as HTTPS_PROXY, HTTP_PROXY and `curl -x` speak it. `http`:
    requests by their Host field, from clients that know no proxy. `sni`: TLS, forwarded undecrypted to the server that its
    ClientHello names. `auto`: all of these, TLS and HTTP told apart by the first byte."""
    name: Name | None = None
    """Word for logs and metrics. Default: the protocol and the port, as `http-proxy:3128`."""
    address: Address = "0.0.0.0"  # noqa: S104 - a proxy with written rules serves its network; the default without any configuration is loopback
    """Address to listen on. `::` takes IPv4 as well."""
    port: Port
    """TCP port."""
    tls: ListenerTls | None = None
    """http-proxy and http: set, clients speak TLS to the proxy."""
    service_port: Port | None = None
    """sni, http and auto: the port of the server that is dialled, and that rules see. Default: 443, on http 80; on auto it is
    that of TLS. A Host field with a port goes there."""
    transparent: Literal["redirect", "tproxy"] | None = None
    """sni, http and auto: clients are captured by the kernel (nftables REDIRECT or TPROXY, see `egressproxy redirect`). The
    port they were on their way to then takes the place of `service_port`."""
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
                    "belongs on a listener with protocol sni, http or auto: an http-proxy client says where it wants to go",
                )
                for key in ("service_port", "transparent")
                if getattr(self, key) is not None
            ]
        elif self.tls is not None and self.protocol != "http":
            found.append(
                (
                    ("tls",),
                    f"belongs on an http-proxy or http listener: {self.protocol} forwards TLS and does not end it",
                )
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
    """The request method is one of these: `CONNECT` for a tunnel (TLS by server name too), `GET` and others for a plain
    request. Letter case counts. Absent: any method."""
    paths: Annotated[tuple[PathPattern, ...], Field(max_length=MAX_ENTRIES)] | None = None
    """The path of a plain request, without its query, is one of these: `/exact/path`, `/below/*` (what begins with `/below/`),
    or `/*`. Letter case counts. A path that servers may read in several ways (encoded slashes and dots, `//`, `;`, ...) matches
    an allow rule if it does in every reading, a deny rule if in one. A rule with paths never matches a tunnel, whose requests
    are not seen; to refuse those too write a rule without paths. Absent: any path, and tunnels."""
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
            for key in ("clients", "hosts", "ports", "methods", "paths")
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
        elif self.paths is not None:
            found += [
                ((key,), "has no meaning with paths: a rule with paths never matches a tunnel")
                for key in ("sni_check", "require_tls", "ech")
                if getattr(self, key) is not None
            ]
        return _together(self, found)


class ServicePort(_Settings):
    """A port on which a registered service may be reached."""

    number: Port
    """TCP port that clients ask for."""
    protocol: Literal["HTTP", "TLS", "HTTPS", "TCP"] | None = None
    """What clients speak there. `TLS` and `HTTPS`, which mean the same: TLS, never decrypted. The inside of a tunnel is checked
    as on port 443, whatever the port; a plain request is refused (403), unless `tls` has the proxy speak TLS. `HTTP`, `TCP` and
    absent: anything; port 443 stays checked."""
    target_port: Port | None = None
    """TCP port that is dialled instead. Absent: the same."""


class ServiceEndpoint(_Settings):
    """One address of a service."""

    address: ServerName
    """An IP address; with `resolution: dns` a host name too."""
    port: Port | None = None
    """Absent: the service's `target_port`, or the port that the client asked for."""
    weight: Annotated[Count, Field(ge=1, le=1000)] = 1
    """Its share of the requests, relative to the others."""


class UpstreamTls(_Settings):
    """TLS origination: clients speak plain HTTP, the proxy speaks HTTPS to the service."""

    mode: Literal["disable", "simple", "mutual"]
    """`simple`: the service shows its certificate; `mutual`: the proxy shows one too; `disable`: plain HTTP."""
    ca: Path | None = None
    """PEM file with the authorities that the service's certificate is checked against. Absent: those of the system."""
    certificate: Path | None = None
    """mutual: PEM file with the proxy's certificate chain."""
    key: Path | None = None
    """mutual: PEM file with its private key."""
    credential: SecretName | None = None
    """Name of a secret in `secrets.directory`, instead of `ca`, `certificate` and `key`: a folder with `tls.crt`, `tls.key` and
    `ca.crt` (or `cert`, `key`, `cacert`); the folder NAME-cacert may hold the authority alone."""
    sni: ServerName | None = None
    """Server name in the ClientHello, which the certificate must then be for. Absent: the host of the request."""
    subject_alt_names: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=2048)], ...], Field(max_length=100)
    ] = ()
    """The certificate must have one of these names (DNS, URI or IP), whatever the host. Absent: the one in `sni`."""
    minimum_version: TlsVersion = "1.2"
    """The oldest version of TLS that is spoken."""
    alpn: Annotated[tuple[Literal["http/1.1", "http/1.0"], ...], Field(max_length=2)] = ("http/1.1",)
    """Protocols offered in the handshake; an empty list offers none."""
    verify: Verify = True
    """`true`: the certificate must come from a trusted authority and be for the host. `chain`: from a trusted authority, but
    its name is not looked at, and old forms are taken (X.509 v1, no subject alternative name), as Istio did by default up to
    1.20; `subject_alt_names` are still held. `false`: anything is taken, which protects from nobody."""

    @model_validator(mode="after")
    def _check(self) -> UpstreamTls:
        given = [key for key in ("ca", "certificate", "key", "credential", "sni") if getattr(self, key) is not None]
        found: list[Finding] = []
        if self.mode == "disable":
            given += ["subject_alt_names"] if self.subject_alt_names else []
            given += ["verify"] if self.verify is not True else []
            found += [((key,), "has no meaning with mode: disable") for key in given]
        elif self.credential is not None:
            found += [
                ((key,), "is given by credential already; write one or the other")
                for key in ("ca", "certificate", "key")
                if key in given
            ]
        elif self.mode == "mutual":
            found += [
                (("mode",), f"mutual needs {key}, or a credential")
                for key in ("certificate", "key")
                if key not in given
            ]
        if self.mode == "simple":
            found += [((key,), "belongs to mode: mutual") for key in ("certificate", "key") if key in given]
        if self.verify is False:
            found += [
                ((key,), "has no effect with verify: false")
                for key in ("ca", "subject_alt_names")
                if getattr(self, key)
            ]
        return _together(self, found)


class HeaderValue(_Settings):
    """Where the value of a header field comes from."""

    file: Path
    """File with the value: one line. Read again when it changes."""
    prefix: HeaderPrefix = ""
    """Put before it, as `Bearer `."""


class Service(_Settings):
    """A registered destination: what `outbound: registry_only` lets pass where no rule decides, and how it is reached."""

    hosts: Annotated[Patterns, Field(min_length=1)]
    """Names of the service."""
    aliases: Annotated[tuple[ServerName, ...], Field(max_length=1000)] = ()
    """Other names for the one exact name in `hosts`, as a Kubernetes Service of type ExternalName is one. They are never looked
    up; the Host field is sent on as the client wrote it."""
    ports: Annotated[tuple[ServicePort, ...], Field(min_length=1, max_length=1000)]
    """Ports of the service."""
    private_addresses: Flag = False
    """As on a rule: its addresses may be private."""
    resolution: Literal["dns", "static", "none"] = "dns"
    """How its address is found. `dns`: by its name, or by those of `endpoints`; the address that a captured client dialled is
    ignored. `static`: the addresses in `endpoints`. `none`: a
    captured connection (a listener with `transparent`) goes on to the very address that the client dialled, so that whoever
    writes an allowed name into a ClientHello or a Host field reaches any public address; other connections are resolved by
    DNS."""
    endpoints: Annotated[tuple[ServiceEndpoint, ...], Field(max_length=MAX_ENTRIES)] = ()
    """Its addresses, in turn by weight; the next one when a connection or its TLS fails, which puts that one last for 10 s.
    IP addresses were written down on purpose: the guard lets them pass, private and metadata ones too. What names lead to is
    judged as everywhere."""
    tls: UpstreamTls | None = None
    """TLS that the proxy speaks where a client sends plain HTTP. What is TLS already is never encrypted twice."""
    timeout_s: Seconds | None = None
    """Plain HTTP: from the end of the request to the end of the response, all attempts; then 504. Absent: no limit."""
    connect_timeout_s: Seconds | None = None
    """For a connection, and for its TLS handshake. Absent: `timeouts.connect_s`."""
    idle_timeout_s: Seconds | None = None
    """Plain HTTP: no byte from or to the service for this long; then 504. Absent: `timeouts.idle_s`."""
    set_headers: Annotated[dict[FieldName, HeaderValue], Field(max_length=20)] = Field(default_factory=dict)
    """Header fields that the service gets in place of the client's own, over verified TLS only: credentials that the client
    never sees. The values stand in no log."""

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
        if self.aliases and (len(self.hosts) != 1 or self.hosts[0].kind != "exact"):
            found.append((("aliases",), "stand for one exact host: write that one alone in hosts"))
        elif self.aliases and self.hosts[0].is_address:
            found.append((("aliases",), f"stand for a name, got the address {self.hosts[0].host} in hosts"))
        found += [
            (("aliases", index), f"expected a name, got the address {alias}")
            for index, alias in enumerate(self.aliases)
            if HostPattern("exact", alias).is_address
        ]
        found += [(("aliases", index), f"{self.aliases[index]} is listed twice") for index in _repeated(self.aliases)]
        if self.resolution == "static" and not self.endpoints:
            found.append((("endpoints",), "resolution: static needs at least one"))
        if self.resolution == "none" and self.endpoints:
            found.append((("endpoints",), "have no meaning with resolution: none"))
        if self.resolution == "static":
            found += [
                (
                    ("endpoints", index, "address"),
                    f"resolution: static needs IP addresses, got {endpoint.address}; or write dns",
                )
                for index, endpoint in enumerate(self.endpoints)
                if not HostPattern("exact", endpoint.address).is_address
            ]
        originates = self.tls is not None and self.tls.mode != "disable"
        if self.set_headers and not (originates and self.tls is not None and self.tls.verify is True):
            found.append(
                (("set_headers",), "go over verified TLS only: set tls: {mode: simple} or mutual, with verify: true")
            )
        found += [
            (("set_headers", name), f"{name} is the proxy's own to write")
            for name in self.set_headers
            if name.lower() in _OWN_FIELDS
        ]
        names = tuple(self.set_headers)
        found += [
            (("set_headers", names[index]), "is set twice: letter case does not count")
            for index in _repeated([name.lower() for name in names])
        ]
        return _together(self, found)


_OWN_FIELDS = frozenset(
    {
        "host",
        "content-length",
        "transfer-encoding",
        "connection",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "upgrade",
    }
    | {"expect", "via", "proxy-authorization", "proxy-authenticate", "http2-settings", "max-forwards"}
    | {"x-forwarded-for", "x-request-id"}
)


class Secrets(_Settings):
    """Certificates and keys that are mounted, by name."""

    directory: Path | None = None
    """Folder with one folder per secret, as Kubernetes mounts them; see `tls.credential` of a service."""


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
    keep_alive_s: Seconds = 60.0
    """How long a client's connection may wait for its next plain request."""
    upstream_idle_s: Seconds = 50.0
    """How long a connection to an upstream is kept for the next plain request: shorter than most servers keep theirs (60 s and
    more), so that few are found closed."""
    upstream_lifetime_s: Seconds = 3600.0
    """How old such a connection may become; then a new one is made, with new addresses."""
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
    max_body_bytes: Annotated[Count, Field(ge=0)] | None = None
    """Bytes in the body of a plain request. Then 413. Absent: no limit; it is never held in memory."""
    max_pooled: Annotated[Count, Field(ge=0, le=1_000_000)] = 1000
    """Connections to upstreams that are kept for the next plain request, over all upstreams."""
    max_pooled_each: Annotated[Count, Field(ge=0, le=1_000_000)] = 100
    """And to one upstream."""


class Http(_Settings):
    """What is written into plain requests on their way."""

    via: Flag = True
    """Add Via, by which a request that comes back is noticed (508)."""
    forwarded_for: Literal["off", "append", "replace"] = "off"
    """X-Forwarded-For: `off` sends on what the client wrote; `append` adds the client's address; `replace` writes only that."""
    request_id: Flag = True
    """Give a request an X-Request-Id, unless it has one."""


class AccessLog(_Settings):
    """One access log: one line per tunnel and per plain request, written when it ends."""

    format: LogFormat = "squid"
    """`squid`: Squid's native format with the result codes of Squid 6 and 7; `squid-5`: with those of Squid 5.
    `nginx-stream`: the `log_stream` line of NGINX as an SNI proxy; `nginx-stream-1.22`: of NGINX up to 1.25.4, which did not
    count the ClientHello among the bytes received. `istio`: Istio's text format as it is today; `istio-1.0` to `istio-1.30`: as
    it was in that release; `istio-json`: as JSON; `envoy`: Envoy's own default."""
    template: str | None = None
    """The line in the format's own language, in place of its own. istio and envoy: Envoy's command operators, like
    `%START_TIME% %RESPONSE_CODE% %REQ(:AUTHORITY)%`; squid: Squid's codes, like `%ts.%03tu %>a %Ss/%03>Hs %ru`; nginx-stream:
    NGINX's variables, like `$remote_addr [$time_local] $status`. What is not known here is refused."""
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
            found.append((("decisions",), "needs format: json; the others have one line per finished transaction"))
        if self.template is not None:
            if self.format not in LANGUAGES:
                found.append(
                    (
                        ("template",),
                        "needs format: istio, istio-1.N, envoy, squid or nginx-stream; "
                        f"{self.format} has a form of its own",
                    )
                )
            else:
                try:
                    LANGUAGES[self.format](self.template)
                except ValueError as error:
                    found.append((("template",), str(error)))
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
    http: Http = Http()
    """Plain requests."""
    secrets: Secrets = Secrets()
    """Mounted certificates and keys."""
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
        found += [
            (("services", index, "tls", "credential"), "needs secrets: {directory: ...}, where secrets are mounted")
            for index, service in enumerate(self.services)
            if service.tls is not None and service.tls.credential is not None and self.secrets.directory is None
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
