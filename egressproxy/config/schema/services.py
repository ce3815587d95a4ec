"""What is reached by more than its name: services, their TLS and their secrets, and parent proxies."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, SecretStr, model_validator

from egressproxy.config.schema.settings import Settings
from egressproxy.config.words import (
    MAX_ENTRIES,
    Count,
    FieldName,
    Flag,
    HeaderPrefix,
    Name,
    Network,
    Patterns,
    Port,
    Seconds,
    SecretName,
    ServerName,
    ServiceName,
    TlsVersion,
    Verify,
    repeated,
    together,
)
from egressproxy.hostport import HostPattern

if TYPE_CHECKING:
    from egressproxy.config.faults import Finding


class Parent(Settings):
    """Another proxy that tunnels and requests may be sent through, by CONNECT."""

    name: Name
    """Word for `parent` of a rule."""
    address: ServerName
    """A host name or an IP address."""
    port: Port
    """TCP port of its HTTP proxy."""
    credentials: Path | None = None
    """File with USER:PASSWORD on one line, sent as Basic authentication. Read again when it changes."""


class ServicePort(Settings):
    """A port on which a registered service may be reached."""

    number: Port
    """TCP port that clients ask for."""
    protocol: Literal["HTTP", "TLS", "HTTPS", "TCP"] | None = None
    """What clients speak there. `TLS` and `HTTPS`, which mean the same: TLS, never decrypted. The inside of a tunnel is checked
    as on port 443, whatever the port; a plain request is refused (403), unless `tls` has the proxy speak TLS. `HTTP`, `TCP` and
    absent: anything; port 443 stays checked."""
    target_port: Port | None = None
    """TCP port that is dialled instead. Absent: the same."""


class ServiceEndpoint(Settings):
    """One address of a service."""

    address: ServerName
    """An IP address; with `resolution: dns` a host name too."""
    port: Port | None = None
    """Absent: the service's `target_port`, or the port that the client asked for."""
    weight: Annotated[Count, Field(ge=1, le=1000)] = 1
    """Its share of the requests, relative to the others."""


class UpstreamTls(Settings):
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


class HeaderValue(Settings):
    """Where the value of a header field comes from."""

    file: Path
    """File with the value: one line. Read again when it changes."""
    prefix: HeaderPrefix = ""
    """Put before it, as `Bearer `."""


class Service(Settings):
    """A registered destination: what `outbound: registry_only` lets pass where no rule decides, and how it is reached."""

    name: ServiceName | None = None
    """Word for routes and logs. Default: its first host; in Istio's logs `outbound|PORT||HOST`."""
    hosts: Patterns = ()
    """Names of the service. Empty: only `routes` lead to it, by its name."""
    addresses: Annotated[tuple[Network, ...], Field(max_length=MAX_ENTRIES)] = ()
    """Addresses by which clients know it: who asks for one of them, or was captured on its way there, is taken to it, whatever
    it speaks. The guard lets pass what they write down: a single address, and private ones in a network of no others, as
    `10.0.0.0/8` is; not those in a wider one, as `0.0.0.0/0`, nor what the names of the service lead to beside them."""
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


class Secrets(Settings):
    """Certificates and keys by name; see `tls.credential` of a service."""

    directory: Path | None = None
    """Folder with one folder per secret, as Kubernetes mounts them."""
    inline: Annotated[
        dict[SecretName, dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,253}$")], SecretStr]],
        Field(max_length=10_000),
    ] = Field(default_factory=dict)
    """Secrets written out: for each its files, like `tls.crt`, `tls.key` and `ca.crt`, with their text. They go before those
    in `directory`."""
