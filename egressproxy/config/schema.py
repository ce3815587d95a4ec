"""The native configuration: every setting, once, with its unit, default and effect.

This is vocabulary: any module may import it. It reads no file (`config.load` does) and decides nothing (`policy` does).
Unknown keys are errors, so a setting that is misspelled never falls back to a default in silence.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    SecretStr,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import CoreSchema, PydanticCustomError

from egressproxy.config.faults import Misplaced, path_text, shown
from egressproxy.config.templates import LANGUAGES, asked_fields, plain_field_name
from egressproxy.config.words import (
    MAX_ENTRIES,
    Address,
    AllowEntries,
    Clock,
    Count,
    Day,
    DnsServer,
    Ech,
    FieldName,
    Flag,
    HeaderPrefix,
    HostPort,
    LogFormat,
    Method,
    Name,
    Network,
    Number,
    PathPattern,
    Patterns,
    Port,
    Ports,
    Regex,
    Seconds,
    SecretName,
    ServerName,
    ServiceName,
    SniCheck,
    TlsVersion,
    Verify,
    ViaName,
    repeated,
    together,
)
from egressproxy.hostport import HostPattern
from egressproxy.model import AskedFields

if TYPE_CHECKING:
    from pydantic.json_schema import JsonSchemaValue

    from egressproxy.config.faults import Finding

MAX_NESTED = 4
"""How deep conditions may stand in conditions."""


def _overlap(one: str, other: str) -> bool:
    """Whether two sockets on one port and these addresses collide: `::` takes IPv4 as well, `0.0.0.0` only that."""
    if one == other or "::" in (one, other):
        return True
    return "0.0.0.0" in (one, other) and ":" not in one + other  # noqa: S104 - compared with, not bound to


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


class ListenerTimeouts(_Settings):
    """Time limits for the clients of one listener. What is absent is as the general `timeouts` say."""

    head_s: Seconds | None = None
    """For a complete request head or ClientHello, and for a PROXY protocol header."""
    connect_s: Seconds | None = None
    """For a connection to the target. A service's `connect_timeout_s` goes before it."""
    idle_s: Seconds | None = None
    """A tunnel in which no byte moves either way is closed after this; so is a plain request, whose service's
    `idle_timeout_s` goes before it."""
    half_close_s: Seconds | None = None
    """The same, once one side has ended its half."""


class Listener(_Settings):
    """One address and port that clients connect to."""

    protocol: Literal["http-proxy", "http", "sni", "auto", "tcp"]
    """`http-proxy`: CONNECT, and requests with a whole URL, as HTTPS_PROXY, HTTP_PROXY and `curl -x` speak it. `http`:
    requests by their Host field, from clients that know no proxy. `sni`: TLS, forwarded undecrypted to the server that its
    ClientHello names. `auto`: all of these, TLS and HTTP told apart by the first byte. `tcp`: anything, not looked at,
    forwarded to `target`, or with `transparent` to where the client was on its way to."""
    name: Name | None = None
    """Word for logs and metrics. Default: the protocol and the port, as `http-proxy:3128`."""
    address: Address = "0.0.0.0"  # noqa: S104 - a proxy with written rules serves its network; the default without any configuration is loopback
    """Address to listen on. `::` takes IPv4 as well; where the kernel has no IPv6, IPv4 alone."""
    port: Port
    """TCP port."""
    tls: ListenerTls | None = None
    """http-proxy and http: set, clients speak TLS to the proxy."""
    service_port: Port | None = None
    """sni, http and auto: the port of the server that is dialled, and that rules see. Default: 443, on http 80; on auto it is
    that of TLS. A Host field with a port goes there."""
    target: HostPort | None = None
    """tcp: where clients are taken to. sni: where those are taken whose TLS names no server, and who speak no TLS; absent:
    they are refused."""
    manager: Flag = False
    """http-proxy: serve Squid's manager pages, `/squid-internal-mgr/`, to whom the rules let reach them at the
    listener's port of `localhost`, whatever the Host field says."""
    transparent: Literal["redirect", "tproxy"] | None = None
    """sni, http, auto and tcp: clients are captured by the kernel (nftables REDIRECT or TPROXY, see `egressproxy redirect`).
    The port they were on their way to then takes the place of `service_port`."""
    proxy_protocol: ListenerProxyProtocol | None = None
    """Set, every client must be announced by a PROXY protocol header; its address there is the one that rules and logs see."""
    timeouts: ListenerTimeouts | None = None
    """Time limits for the clients of this listener, in place of the general ones."""

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
                    "belongs on a listener that is no http-proxy: its clients say where they want to go",
                )
                for key in ("service_port", "transparent")
                if getattr(self, key) is not None
            ]
        if self.protocol == "tcp":
            if (self.target is None) == (self.transparent is None):
                found.append((("target",), "a tcp listener needs either target, or transparent"))
            if self.service_port is not None:
                found.append((("service_port",), "has no meaning on a tcp listener: target says where clients go"))
        elif self.target is not None and self.protocol != "sni":
            found.append((("target",), "belongs on a listener with protocol tcp or sni"))
        if self.manager and self.protocol != "http-proxy":
            found.append((("manager",), "belongs on a listener with protocol http-proxy"))
        if self.protocol != "http-proxy" and self.tls is not None and self.protocol != "http":
            found.append(
                (
                    ("tls",),
                    f"belongs on an http-proxy or http listener: {self.protocol} forwards TLS and does not end it",
                )
            )
        return together(self, found)


# --- policy -------------------------------------------------------------------------------------------------------


class TimeSpan(_Settings):
    """A part of the week, in the local time of the proxy."""

    days: tuple[Day, ...] = ()
    """Days of the week. Empty: each."""
    start: Clock = "00:00"
    """From this minute on."""
    end: Clock = "24:00"
    """Up to the end of this minute."""

    @model_validator(mode="after")
    def _check(self) -> TimeSpan:
        if self.start > self.end:
            raise Misplaced((("end",), f"{self.end} is before start, which is {self.start}; write two spans"))
        return self


class Condition(_Settings):
    """What may be asked of a connection or a request. All that is present must hold; of a list, one entry."""

    clients: Annotated[tuple[Network, ...], Field(max_length=MAX_ENTRIES)] | None = None
    """The client's address lies in one of these networks. Absent: any client."""
    hosts: Patterns | None = None
    """The target host matches one of these. Absent: any host."""
    hosts_matching: Annotated[tuple[Regex, ...], Field(max_length=MAX_ENTRIES)] | None = None
    """One of these expressions is found in the target host."""
    ports: tuple[Ports, ...] | None = None
    """The target port is one of these (`443`, `"8000-8100"`). Absent: any port."""
    methods: tuple[Method, ...] | None = None
    """The request method is one of these: `CONNECT` for a tunnel (TLS by server name too), `GET` and others for a plain
    request. Letter case counts where a rule lets pass; where it refuses, `post` is `POST`. Absent: any method."""
    paths: Annotated[tuple[PathPattern, ...], Field(max_length=MAX_ENTRIES)] | None = None
    """The path of a plain request, without its query, is one of these: `/exact/path`, `/below/*` (what begins with `/below/`),
    or `/*`. Letter case counts. A path that servers may read in several ways (encoded slashes and dots, `//`, `;`, ...) matches
    an allow rule if it does in every reading, a deny rule if in one. A rule with paths never matches a tunnel, whose requests
    are not seen; to refuse those too write a rule without paths. Absent: any path, and tunnels."""
    paths_matching: Annotated[tuple[Regex, ...], Field(max_length=MAX_ENTRIES)] | None = None
    """One of these expressions is found in the path of a plain request, query included, as it was sent.

    Where it is encoded, it is found in what that comes to as well: to allow `/a%20b` write `^/a(%20| )b$`."""
    bare_paths_matching: Annotated[tuple[Regex, ...], Field(max_length=MAX_ENTRIES)] | None = None
    """One of these expressions is found in the path of a plain request without its query, as `paths` reads it."""
    urls_matching: Annotated[tuple[Regex, ...], Field(max_length=MAX_ENTRIES)] | None = None
    """One of these expressions is found in the URL: `http://host/path?query` of a plain request, `host:port` of a tunnel."""
    listeners: Annotated[tuple[Name, ...], Field(max_length=1000)] | None = None
    """The client came in by one of these listeners, by their names."""
    listener_ports: tuple[Ports, ...] | None = None
    """The client came in on one of these ports of the proxy."""
    addresses: Annotated[tuple[Network, ...], Field(max_length=MAX_ENTRIES)] | None = None
    """The addresses that may be dialled (those of the target, or of the service that it is) lie in these networks: for an allow
    rule all of them, for a deny rule one. A name is looked up before such a rule can say, even if it is refused in the end."""
    times: Annotated[tuple[TimeSpan, ...], Field(max_length=1000)] | None = None
    """It is one of these times."""
    all: Annotated[tuple[Condition, ...], Field(max_length=1000)] | None = None
    """Each of these conditions holds."""
    any: Annotated[tuple[Condition, ...], Field(max_length=MAX_ENTRIES)] | None = None
    """One of these conditions holds."""
    none: Annotated[tuple[Condition, ...], Field(max_length=1000)] | None = None
    """None of these conditions holds."""

    @model_validator(mode="after")
    def _check_conditions(self) -> Self:
        found: list[Finding] = [
            ((key,), "expected at least one entry, got an empty list; leave the key out to match any")
            for key in CONDITIONS
            if getattr(self, key) == ()
        ]
        if type(self) is Condition and all(getattr(self, key) is None for key in CONDITIONS):
            found.append(((), f"expected one of {', '.join(CONDITIONS)}"))
        if self.nesting > MAX_NESTED:
            found.append(((), f"expected conditions at most {MAX_NESTED} deep in each other, got {self.nesting}"))
        return together(self, found)

    @property
    def nesting(self) -> int:
        """How deep other conditions stand in it."""
        below = [each.nesting for group in (self.all, self.any, self.none) for each in group or ()]
        return 1 + max(below) if below else 0


CONDITIONS = tuple(Condition.model_fields)
"""The keys of conditions, which rules and routes share."""


class Rule(Condition):
    """One rule. All conditions that are present must hold; the first rule that matches decides."""

    name: Name | None = None
    """Word for logs and metrics. Default: `rule-N`, counting from 1."""
    action: Literal["allow", "deny"]
    """What the rule says when it matches."""
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
    parent: Name | None = None
    """Name of a proxy in `parents` that what this rule allows is sent through. It looks the name up, and dials: only targets
    that are addresses themselves are judged here."""

    @model_validator(mode="after")
    def _check(self) -> Rule:
        found: list[Finding] = []
        if self.report and self.action == "allow":
            found.append((("report",), "belongs on a deny rule, or at the top level for all that is refused"))
        if self.private_addresses and self.action == "deny":
            found.append((("private_addresses",), "belongs on an allow rule"))
        if self.action == "deny":
            found += [
                ((key,), "belongs on an allow rule")
                for key in ("sni_check", "require_tls", "ech", "proxy_protocol", "parent")
                if getattr(self, key) is not None
            ]
        elif self.paths is not None:
            found += [
                ((key,), "has no meaning with paths: a rule with paths never matches a tunnel")
                for key in ("sni_check", "require_tls", "ech")
                if getattr(self, key) is not None
            ]
        if self.parent is not None and self.addresses is not None:
            found.append((("addresses",), "are not known where a parent looks the name up"))
        return together(self, found)


class Destination(_Settings):
    """Where a route leads."""

    service: ServiceName
    """A service by its `name`, or by its first host where it has none."""
    port: Port | None = None
    """The service's port, by its `number`. Absent: the one that was asked for, which must be one of the service's, or its only
    one."""
    weight: Annotated[Count, Field(ge=0, le=1_000_000)] = 1
    """Its share, relative to the other destinations."""


class Route(Condition):
    """What is sent to a service that it does not ask for by name. The first route that matches decides, before `services`."""

    name: Name | None = None
    """Word for logs. Default: none."""
    carries: Literal["requests", "tunnels"] | None = None
    """Only plain requests, or only tunnels (CONNECT, and TLS by server name). Absent: both."""
    to: Annotated[tuple[Destination, ...], Field(max_length=1000)] = ()
    """Services that take turns, by weight."""
    refuse: Literal["not_found", "unknown", "unavailable", "close"] | None = None
    """In place of `to`. `not_found`: 404, as a gateway that has no route; `unknown`: 502, as a mesh that does not know the
    host; `unavailable`: 503, as a service without endpoints; `close`: without a word. A tunnel is closed in each case."""
    timeout_s: Seconds | None = None
    """Plain HTTP: from the end of the request to the end of the response. Absent: as the service says."""

    @model_validator(mode="after")
    def _check(self) -> Route:
        found: list[Finding] = []
        if bool(self.to) == (self.refuse is not None):
            found.append((("to",), "a route needs either to, or refuse"))
        if self.to and not any(each.weight for each in self.to):
            found.append((("to",), "expected a weight above 0 on one of them"))
        if self.addresses is not None:
            found.append((("addresses",), "belong in a rule: a route is found before addresses are known"))
        return together(self, found)


class Parent(_Settings):
    """Another proxy that tunnels and requests may be sent through, by CONNECT."""

    name: Name
    """Word for `parent` of a rule."""
    address: ServerName
    """A host name or an IP address."""
    port: Port
    """TCP port of its HTTP proxy."""
    credentials: Path | None = None
    """File with USER:PASSWORD on one line, sent as Basic authentication. Read again when it changes."""


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
        return together(self, found)


class HeaderValue(_Settings):
    """Where the value of a header field comes from."""

    file: Path
    """File with the value: one line. Read again when it changes."""
    prefix: HeaderPrefix = ""
    """Put before it, as `Bearer `."""


class Service(_Settings):
    """A registered destination: what `outbound: registry_only` lets pass where no rule decides, and how it is reached."""

    name: ServiceName | None = None
    """Word for routes and logs. Default: its first host; in Istio's logs `outbound|PORT||HOST`."""
    hosts: Patterns = ()
    """Names of the service. Empty: only `routes` lead to it, by its name."""
    addresses: Annotated[tuple[Network, ...], Field(max_length=MAX_ENTRIES)] = ()
    """Addresses by which clients know it: who asks for one of them, or was captured on its way there, is taken to it, whatever
    it speaks."""
    aliases: Annotated[tuple[ServerName, ...], Field(max_length=1000)] = ()
    """Other names for the one exact name in `hosts`, as a Kubernetes Service of type ExternalName is one. They are never looked
    up; the Host field is sent on as the client wrote it. A rule that refuses the host refuses them as well."""
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
    """For a connection, and for its TLS handshake. Absent: `timeouts.connect_s`, of the listener or of all."""
    idle_timeout_s: Seconds | None = None
    """Plain HTTP: no byte from or to the service for this long; then 504. Absent: `timeouts.idle_s`, of the
    listener or of all. Once a WebSocket stands, it is a tunnel, and that holds."""
    set_headers: Annotated[dict[FieldName, HeaderValue], Field(max_length=20)] = Field(default_factory=dict)
    """Header fields that the service gets in place of the client's own, over verified TLS only: credentials that the client
    never sees. The values stand in no log."""

    @property
    def label(self) -> str:
        """The word by which routes know it: its name, or its first host."""
        return self.name or str(self.hosts[0])

    @model_validator(mode="after")
    def _check(self) -> Service:
        numbers = [port.number for port in self.ports]
        found: list[Finding] = [
            (("ports", index, "number"), f"port {numbers[index]} is listed twice") for index in repeated(numbers)
        ]
        found += [
            (("hosts", index), "expected a name, got '*'; to let everything pass write outbound: allow_any")
            for index, pattern in enumerate(self.hosts)
            if pattern.kind == "any"
        ]
        if not self.hosts:
            if self.name is None:
                found.append((("hosts",), "expected at least one, or a name by which routes lead to it"))
            if not self.endpoints and not self.addresses:
                found.append((("endpoints",), "a service without hosts needs endpoints"))
        if self.aliases and (len(self.hosts) != 1 or self.hosts[0].kind != "exact"):
            found.append((("aliases",), "stand for one exact host: write that one alone in hosts"))
        elif self.aliases and self.hosts[0].is_address:
            found.append((("aliases",), f"stand for a name, got the address {self.hosts[0].host} in hosts"))
        found += [
            (("aliases", index), f"expected a name, got the address {alias}")
            for index, alias in enumerate(self.aliases)
            if HostPattern("exact", alias).is_address
        ]
        found += [(("aliases", index), f"{self.aliases[index]} is listed twice") for index in repeated(self.aliases)]
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
            for index in repeated([name.lower() for name in names])
        ]
        return together(self, found)


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
    """Certificates and keys by name; see `tls.credential` of a service."""

    directory: Path | None = None
    """Folder with one folder per secret, as Kubernetes mounts them."""
    inline: Annotated[
        dict[SecretName, dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,253}$")], SecretStr]],
        Field(max_length=10_000),
    ] = Field(default_factory=dict)
    """Secrets written out: for each its files, like `tls.crt`, `tls.key` and `ca.crt`, with their text. They go before those
    in `directory`."""


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
    lifetime_s: Seconds | None = None
    """A tunnel that has been open for this long is closed, whatever moves in it; so is a client's connection, in place of
    waiting for its next plain request. Absent: neither has a bound."""
    keep_alive_s: Seconds = 60.0
    """How long a client's connection may wait for its next plain request."""
    upstream_idle_s: Seconds = 50.0
    """How long a connection to an upstream is kept for the next plain request: shorter than most servers keep theirs (60 s and
    more), so that few are found closed."""
    upstream_lifetime_s: Seconds = 3600.0
    """How old such a connection may become; then a new one is made, with new addresses."""
    drain_s: Annotated[Number, Field(ge=0, le=86400)] = 30.0
    """After SIGTERM open tunnels may go on this long; then they are cut."""

    def at(self, listener: Listener) -> Timeouts:
        """As they are for the clients of a listener."""
        own = listener.timeouts
        return self if own is None else self.model_copy(update={key: each for key, each in own if each is not None})


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
    via_name: ViaName | None = None
    """How this proxy calls itself there. Proxies that follow each other need different names. Absent: `egressproxy-` and a
    number that no two processes share."""
    forwarded_for: Literal["off", "append", "replace", "delete"] = "off"
    """X-Forwarded-For: `off` sends on what the client wrote; `append` adds the client's address; `replace` writes only that;
    `delete` takes out what the client wrote, and adds nothing."""
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
    NGINX's variables, like `$remote_addr [$time_local] $status`. What is not known here is refused. istio, envoy and squid may
    name any header field, as in `%REQ(X-TEAM)%`, `%RESP(SERVER)%`, `%{X-Team}>h` and `%{Server}<h`, but none that holds a
    secret: (Proxy-)Authorization, Cookie, Set-Cookie, and those in a service's `set_headers`."""
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
        return together(self, found)

    @property
    def asked(self) -> AskedFields:
        """The header fields that are kept for this log's sake."""
        return AskedFields() if self.template is None else asked_fields(self.format, self.template)


class CaptureRanges(_Settings):
    """Which connections `egressproxy redirect` brings to a transparent listener, by where they go."""

    include: Annotated[tuple[Network, ...], Field(max_length=1000)] = ()
    """Only what goes to these networks. Empty: everything."""
    exclude: Annotated[tuple[Network, ...], Field(max_length=1000)] = ()
    """Never what goes to these."""


class Admin(_Settings):
    """The admin port: /metrics /livez /readyz /tunnels /config /mode /explain, and as Envoy has them /clusters /stats
    /listeners /routes /config_dump."""

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
    routes: Annotated[tuple[Route, ...], Field(max_length=MAX_ENTRIES)] = ()
    """In order; the first that matches says which service is meant, and lets pass. Asked after `rules` and `allow`."""
    services: Annotated[tuple[Service, ...], Field(max_length=MAX_ENTRIES)] = ()
    """The registry of known destinations."""
    parents: Annotated[tuple[Parent, ...], Field(max_length=1000)] = ()
    """Other proxies that rules may send through."""
    on_policy_change: Literal["keep", "cut"] = "keep"
    """What a reload does to open tunnels that the new configuration would refuse: `keep` lets them go on, `cut` closes them."""
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
    capture: CaptureRanges = CaptureRanges()
    """What `egressproxy redirect` captures, unless its options say otherwise."""
    admin: Admin | None = Admin()
    """The admin port; `null` for none."""

    @property
    def asked(self) -> AskedFields | None:
        """The header fields that are kept for the access logs; None: none are."""
        request = frozenset[str]().union(*(log.asked.request for log in self.access_log))
        response = frozenset[str]().union(*(log.asked.response for log in self.access_log))
        return AskedFields(request, response) if request or response else None

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
            for index in repeated(labels)
        ]
        found += [
            (("services", index, "tls", "credential"), "needs secrets: {directory: ...}, where secrets are mounted")
            for index, service in enumerate(self.services)
            if service.tls is not None
            and service.tls.credential is not None
            and self.secrets.directory is None
            and service.tls.credential not in self.secrets.inline
            and f"{service.tls.credential}-cacert" not in self.secrets.inline
        ]
        services = {service.label: service for service in reversed(self.services)}
        found += [
            (("services", index, "name"), f"two services are called {self.services[index].name}: routes need one")
            for index in repeated([service.name or index for index, service in enumerate(self.services)])
        ]
        for index, route in enumerate(self.routes):
            for number, one in enumerate(route.to):
                way = ("routes", index, "to", number)
                known = services.get(one.service)
                if known is None:
                    found.append(((*way, "service"), f"expected the name of a service, got {shown(one.service)}"))
                elif one.port is not None and all(port.number != one.port for port in known.ports):
                    found.append(((*way, "port"), f"service {one.service} has no port {one.port}"))
        parents = {parent.name for parent in self.parents}
        found += [
            (("rules", index, "parent"), f"expected the name of one of parents, got {shown(rule.parent)}")
            for index, rule in enumerate(self.rules)
            if rule.parent is not None and rule.parent not in parents
        ]
        found += [
            (("parents", index, "name"), f"two parents are called {self.parents[index].name!r}")
            for index in repeated([parent.name for parent in self.parents])
        ]
        for key, conditions in (("rules", self.rules), ("routes", self.routes)):
            for index, condition in enumerate(conditions):
                found += [
                    ((key, index, "listeners", at), f"expected the name of a listener, got {shown(name)}")
                    for at, name in enumerate(condition.listeners or ())
                    if name not in labels
                ]
        credentials = {
            plain_field_name(name): service.label for service in self.services for name in service.set_headers
        }
        for index, log in enumerate(self.access_log):
            asked = log.asked
            found += [
                (
                    ("access_log", index, "template"),
                    f"cannot name {shown(name)}: set_headers of service {credentials[plain_field_name(name)]} gives it "
                    "a credential, which is not for a log",
                )
                for name in sorted(asked.request | asked.response)
                if plain_field_name(name) in credentials
            ]
        names = [rule.name or f"rule-{number}" for number, rule in enumerate(self.rules, 1)]
        found += [
            (("rules", index), f"two rules are called {names[index]!r}; logs and metrics could not tell them apart")
            for index in repeated(names)
        ]
        return together(self, found)


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
