"""Istio's objects as values: what each says, checked by itself, and nothing of what they mean together (`mesh` does that).

Versions v1alpha3, v1beta1 and v1 of networking.istio.io mean the same. A field that changes where traffic goes, or what is let
pass, and has no place here is a fault: an unheard condition would make a route wider than its author wrote it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, Any, Literal

from egressproxy.config.faults import shown
from egressproxy.hostport import ANY_HOST, HostPattern, parse_host_pattern

if TYPE_CHECKING:
    from collections.abc import Mapping

    from egressproxy.config.adapters.istio.documents import Thing
    from egressproxy.config.adapters.istio.fields import Fields

VERSIONS = ("v1alpha3", "v1beta1", "v1")
DEFAULT_NAMESPACE = "default"
CLUSTER_DOMAIN = "svc.cluster.local"
MESH = "mesh"

Spoken = Literal["HTTP", "TLS", "TCP", "ANY"]
"""What clients speak on a port: `ANY` where a Kubernetes port does not say, and Istio tells by the first bytes."""

# Upper case: names of protocols are compared without case.
_SPOKEN: dict[str, Spoken] = {
    **dict.fromkeys(("HTTP", "HTTP2", "GRPC", "GRPC-WEB"), "HTTP"),
    **dict.fromkeys(("HTTPS", "TLS"), "TLS"),
    **dict.fromkeys(("TCP", "MONGO", "REDIS", "MYSQL"), "TCP"),
}
_HTTP2 = frozenset({"HTTP2", "GRPC"})


# --- what objects hold --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """One port of a service. `target` is dialled instead of `number`."""

    number: int
    name: str
    spoken: Spoken
    target: int | None
    mark: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One address of a service; `ports` by port name."""

    address: str
    ports: Mapping[str, int]
    weight: int
    labels: Mapping[str, str]
    mark: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One host in the registry, by a ServiceEntry or a Kubernetes Service.

    namespace  of its object
    aliases    shorter names of the same
    selector   labels of the pods behind a Kubernetes Service
    is_empty   it has no endpoint, and none can come from a name
    private    it lives inside the cluster, so that its addresses are private
    knows_pods  its endpoints are pods, which only the cluster knows
    """

    host: HostPattern
    namespace: str
    ports: tuple[Port, ...]
    resolution: Literal["none", "static", "dns"]
    endpoints: tuple[Endpoint, ...] = ()
    addresses: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    subject_alt_names: tuple[str, ...] = ()
    export_to: tuple[str, ...] = ()
    selector: Mapping[str, str] = field(default_factory=dict)
    is_empty: bool = False
    private: bool = False
    knows_pods: bool = False
    mark: int
    title: str

    def port(self, number: int) -> Port | None:
        """The port with this number."""
        return next((port for port in self.ports if port.number == number), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """Where a route leads; `host` is whole."""

    host: HostPattern
    subset: str
    port: int | None
    weight: int
    mark: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """One alternative of a route's conditions.

    gateways    names that take the place of the object's own; None: those count
    conditions  what else must hold of a request, in native words
    """

    port: int | None = None
    gateways: tuple[str, ...] | None = None
    sni_hosts: tuple[HostPattern, ...] = ()
    conditions: tuple[Mapping[str, Any], ...] = ()
    mark: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One rule of a VirtualService."""

    matches: tuple[Match, ...]
    to: tuple[Destination, ...]
    timeout_s: float | None = None
    name: str = ""
    mark: int


@dataclass(frozen=True, slots=True, kw_only=True)
class VirtualService:
    """Routes for some hosts at some gateways, or in the mesh. `gateways` are `namespace/name`, or `mesh`."""

    name: str
    namespace: str
    age: str
    hosts: tuple[HostPattern, ...]
    gateways: tuple[str, ...]
    http: tuple[Route, ...]
    tls: tuple[Route, ...]
    tcp: tuple[Route, ...]
    export_to: tuple[str, ...]
    mark: int

    @property
    def seniority(self) -> tuple[bool, str, str]:
        """In this order they count: the oldest first; one without a time is new; ties by name and namespace."""
        return not self.age, self.age, f"{self.name}.{self.namespace}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientTls:
    """TLS towards a service, as a DestinationRule has it."""

    mode: Literal["DISABLE", "SIMPLE", "MUTUAL", "ISTIO_MUTUAL"]
    certificate: str | None
    key: str | None
    ca: str | None
    credential: str | None
    sni: str | None
    subject_alt_names: tuple[str, ...]
    skips_verification: bool
    mark: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficPolicy:
    """How a service is reached. `ports` take the place of all the rest for a port; nothing is inherited."""

    tls: ClientTls | None = None
    connect_timeout_s: float | None = None
    ports: Mapping[int, TrafficPolicy] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Subset:
    """A named part of a service. Without labels it is all of it."""

    labels: Mapping[str, str]
    policy: TrafficPolicy | None
    mark: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DestinationRule:
    """How a service is reached. `namespace` is None where the file does not say one."""

    name: str
    namespace: str | None
    age: str
    host: HostPattern
    policy: TrafficPolicy | None
    subsets: Mapping[str, Subset]
    export_to: tuple[str, ...]
    mark: int

    @property
    def seniority(self) -> tuple[bool, str, str]:
        """As of a VirtualService."""
        return not self.age, self.age, f"{self.name}.{self.namespace or DEFAULT_NAMESPACE}"


TlsMode = Literal["NONE", "PASSTHROUGH", "SIMPLE", "MUTUAL", "ISTIO_MUTUAL"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """One port of a gateway.

    routes  which rules of a VirtualService apply there: `http`, `tls` (by server name) or `tcp`
    mode    how TLS is met; NONE: it is not
    hosts   each with the namespace its VirtualServices must be in, or `*`
    """

    port: int
    routes: Literal["http", "tls", "tcp"]
    mode: TlsMode
    hosts: tuple[tuple[str, HostPattern], ...]
    mark: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    """Ports of the gateways that the selector finds."""

    name: str
    namespace: str
    age: str
    selector: Mapping[str, str]
    servers: tuple[Server, ...]
    mark: int

    @property
    def full_name(self) -> str:
        """`namespace/name`."""
        return f"{self.namespace}/{self.name}"

    @property
    def seniority(self) -> tuple[bool, str, str]:
        """As of a VirtualService."""
        return not self.age, self.age, f"{self.name}.{self.namespace}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sidecar:
    """What the sidecars of one namespace see. `hosts`: namespace and pattern; None: everything."""

    name: str
    namespace: str
    outbound: str | None
    hosts: tuple[tuple[str, HostPattern], ...] | None
    mark: int


# --- common parts -------------------------------------------------------------------------------------------------


def full_pattern(pattern: HostPattern, namespace: str) -> HostPattern:
    """A short name is a Kubernetes Service in the namespace of the object that names it."""
    if pattern.kind != "exact" or "." in pattern.host or pattern.is_address:
        return pattern
    return HostPattern("exact", f"{pattern.host}.{namespace}.{CLUSTER_DOMAIN}")


def _host(fields: Fields, name: str, namespace: str) -> HostPattern | None:
    text = fields.required_text(name)
    if text is None:
        return None
    try:
        return full_pattern(parse_host_pattern(text), namespace)
    except ValueError as error:
        fields.fault(name, str(error))
        return None


def _export_to(spec: Fields) -> tuple[str, ...]:
    return spec.words("exportTo")


def _namespace(thing: Thing) -> str:
    return thing.namespace or DEFAULT_NAMESPACE


def spec_of(thing: Thing) -> Fields | None:
    """The spec of an object, whose top says nothing else."""
    thing.fields.done(silent=("apiVersion", "kind", "metadata", "status", "spec"))
    if not thing.fields.has("spec"):
        thing.fields.fault("spec", "is missing")
    return thing.fields.below("spec")


# --- ServiceEntry -------------------------------------------------------------------------------------------------

_RESOLUTIONS: dict[str, Literal["none", "static", "dns"]] = {
    "NONE": "none",
    "STATIC": "static",
    "DNS": "dns",
    "DNS_ROUND_ROBIN": "dns",
    "DYNAMIC_DNS": "dns",
}


def service_entry(thing: Thing) -> list[Service]:
    """The services of a ServiceEntry, one for each host."""
    spec = spec_of(thing)
    if spec is None:
        return []
    word = spec.word("resolution", tuple(_RESOLUTIONS), "NONE") or "NONE"
    resolution = _RESOLUTIONS[word]
    hosts = spec.patterns("hosts")
    if not spec.filled("hosts"):
        spec.fault("hosts", "expected at least one host")
    ports = _service_ports(spec)
    endpoints = _endpoints(spec, resolution, ports)
    addresses = _addresses(spec)
    for index, host in enumerate(hosts):
        if host.kind == "any":
            spec.fault_in("hosts", index, "expected a name, got '*'; to let all hosts pass set ALLOW_ANY in the mesh")
        if host.kind == "suffix" and resolution == "dns" and not endpoints and word != "DYNAMIC_DNS":
            message = "a wildcard cannot be looked up: resolution DNS needs exact hosts, or endpoints"
            spec.fault_in("hosts", index, message)
    if resolution == "dns" and any("/" in one and not _is_single(one) for one in addresses):
        spec.fault("addresses", "a network needs resolution NONE or STATIC")
    if resolution != "none" and len(hosts) > 1 and any(port.spoken == "TCP" for port in ports):
        spec.fault("hosts", "several hosts on a TCP port need resolution NONE: nothing would tell them apart")
    location = spec.word("location", ("MESH_EXTERNAL", "MESH_INTERNAL"), "MESH_EXTERNAL")
    if location == "MESH_INTERNAL":
        spec.note("location", "means mutual TLS between workloads of the mesh, which is not spoken here")
    export_to, names = _export_to(spec), spec.words("subjectAltNames")
    spec.done(
        refused={"workloadSelector": "selects pods, which are not known here; write endpoints, with their addresses"}
    )
    return [
        Service(
            host=host,
            namespace=_namespace(thing),
            ports=ports,
            resolution=resolution,
            endpoints=endpoints,
            addresses=addresses,
            subject_alt_names=names,
            export_to=export_to,
            private=host.host.endswith(f".{CLUSTER_DOMAIN}")
            or any(one.address.endswith(f".{CLUSTER_DOMAIN}") for one in endpoints),
            mark=spec.mark("hosts"),
            title=thing.title,
        )
        for host in dict.fromkeys(hosts)
    ]


def _service_ports(spec: Fields) -> tuple[Port, ...]:
    found: list[Port] = []
    for fields in spec.each("ports"):
        number, name = fields.port("number"), fields.required_text("name") or ""
        if not fields.has("number"):
            fields.fault("number", "is missing")
        spoken = spoken_on(fields)
        target = fields.port("targetPort")
        fields.done()
        if number is None or spoken is None:
            continue
        for other in found:
            if other.number == number:
                fields.fault("number", f"port {number} is listed twice")
            if other.name == name:
                fields.fault("name", f"two ports are called {shown(name)}")
        found.append(Port(number=number, name=name, spoken=spoken, target=target, mark=fields.mark("number")))
    if not spec.has("ports"):
        spec.fault("ports", "expected at least one port")
    return tuple(found)


def spoken_on(fields: Fields) -> Spoken | None:
    """What is spoken on a port of a ServiceEntry or Gateway. Its `protocol` must be there."""
    word = fields.required_text("protocol")
    if word is None:
        return None
    spoken = _SPOKEN.get(word.upper())
    if spoken is None:
        fields.fault("protocol", f"expected one of {', '.join(_SPOKEN)}, got {shown(word)}")
    if word.upper() in _HTTP2:
        fields.note("protocol", f"{word.upper()} is served as HTTP/1.1: what needs HTTP/2, as gRPC does, does not pass")
    return spoken


def _addresses(spec: Fields) -> tuple[str, ...]:
    found = []
    for index, text in enumerate(spec.words("addresses")):
        try:
            network = ip_network(text, strict=False)
        except ValueError:
            spec.fault_in("addresses", index, f"expected an address or a network like 10.0.0.0/8, got {shown(text)}")
            continue
        whole = network.prefixlen == network.max_prefixlen
        found.append(str(network.network_address) if whole else str(network))
        if not whole and str(network) != text:
            spec.note("addresses", f"{text} has host bits set; taken as {network}")
    return tuple(found)


def _is_single(text: str) -> bool:
    network = ip_network(text, strict=False)
    return network.prefixlen == network.max_prefixlen


def _endpoints(spec: Fields, resolution: str, ports: tuple[Port, ...]) -> tuple[Endpoint, ...]:
    found = []
    names = {port.name for port in ports}
    for fields in spec.each("endpoints"):
        address = fields.required_text("address")
        mapping, weight = fields.numbers("ports"), fields.integer("weight")
        labels = fields.labels("labels")
        fields.done(silent=("network", "locality", "serviceAccount"))
        if address is None:
            continue
        for name in mapping:
            if name not in names:
                fields.fault("ports", f"no port of this ServiceEntry is called {shown(name)}")
        problem = _endpoint_problem(address, resolution)
        if problem is not None:
            fields.fault("address", problem)
        if weight is not None and not 0 < weight <= 1000:
            fields.fault("weight", f"expected an integer from 1 to 1000, got {weight}")
        found.append(
            Endpoint(address=address, ports=mapping, weight=weight or 1, labels=labels, mark=fields.mark("address"))
        )
    if resolution == "static" and not found:
        spec.fault("endpoints", "resolution STATIC needs at least one")
    if resolution == "none" and found:
        spec.fault(
            "endpoints", "resolution NONE goes to the address that the client dialled; leave them out, or set STATIC"
        )
    return tuple(found)


def _endpoint_problem(address: str, resolution: str) -> str | None:
    if address.startswith("unix:"):
        if resolution == "dns":
            return "a Unix socket cannot be looked up: it needs resolution STATIC"
        return "Unix sockets are not dialled by this proxy; give an address"
    try:
        pattern = parse_host_pattern(address)
    except ValueError as error:
        return str(error)
    if pattern.kind != "exact":
        return f"expected one host, got {shown(address)}"
    if resolution == "static" and not pattern.is_address:
        return f"resolution STATIC needs an IP address, got {shown(address)}; or set DNS"
    return None


# --- VirtualService -----------------------------------------------------------------------------------------------

_NOT_HERE = "is not done by this proxy"
_ROUTE_REFUSED = {
    "redirect": f"{_NOT_HERE}: answering with a redirect",
    "directResponse": f"{_NOT_HERE}: answering by itself",
    "rewrite": f"{_NOT_HERE}: changing paths and hosts",
    "fault": f"{_NOT_HERE}: injecting delays and errors",
    "mirror": f"{_NOT_HERE}: sending a second copy",
    "mirrors": f"{_NOT_HERE}: sending a second copy",
    "mirrorPercent": f"{_NOT_HERE}: sending a second copy",
    "mirrorPercentage": f"{_NOT_HERE}: sending a second copy",
    "corsPolicy": f"{_NOT_HERE}: answering for the origin",
    "headers": f"{_NOT_HERE}: changing header fields by a route; see set_headers of a native service",
    "delegate": "routes of another object are not read from here; write them into this one",
}
_MATCH_REFUSED = dict.fromkeys(
    (
        "headers",
        "withoutHeaders",
        "queryParams",
        "authority",
        "sourceLabels",
        "sourceNamespace",
        "sourceSubnet",
        "destinationSubnets",
        "ignoreUriCase",
        "statPrefix",
    ),
    "is not a condition that this proxy knows; without it the route would take more than it says",
)

_RETRIES = (
    "a request is repeated only where its kept connection was closed before it was answered, whatever retries say"
)

# What a path may hold that a server reads in another way: dots between slashes, an encoded dot, slash or backslash.
_UNCLEAR_PATH = r"(?i)^[^?]*(?:/\.{1,2}(?:[/?]|$)|%2e|%2f|%5c|\\|//)"


def virtual_service(thing: Thing) -> VirtualService | None:
    """What a VirtualService says."""
    spec = spec_of(thing)
    if spec is None:
        return None
    namespace = _namespace(thing)
    written = spec.patterns("hosts")
    hosts = tuple(full_pattern(host, namespace) for host in written)
    if not spec.filled("hosts"):
        spec.fault("hosts", "expected at least one host")
    for index, host in enumerate(hosts):
        if any(covers(other, host) for other in hosts[:index]):
            spec.fault_in("hosts", index, f"{written[index]} is covered by another host of this VirtualService")
    gateways = _gateway_names(spec, namespace) or (MESH,)
    if MESH in gateways and ANY_HOST in hosts:
        spec.fault("hosts", "'*' is for gateways; a VirtualService in the mesh needs names")
    found = VirtualService(
        name=thing.name,
        namespace=namespace,
        age=thing.age,
        hosts=hosts,
        gateways=gateways,
        http=tuple(_http_route(fields, namespace) for fields in spec.each("http")),
        tls=tuple(_tls_route(fields, namespace, hosts) for fields in spec.each("tls")),
        tcp=tuple(_tcp_route(fields, namespace) for fields in spec.each("tcp")),
        export_to=_export_to(spec),
        mark=spec.mark("hosts"),
    )
    spec.done()
    return found


def _gateway_names(fields: Fields, namespace: str) -> tuple[str, ...]:
    """Names of gateways as `namespace/name`, and `mesh`."""
    return tuple(
        name if name == MESH or "/" in name else f"{namespace}/{_unqualified(name)}"
        for name in fields.words("gateways")
    )


def _unqualified(name: str) -> str:
    """Before Istio 1.1 a gateway could be named by its whole name."""
    return name.partition(".")[0] if name.endswith(f".{CLUSTER_DOMAIN}") else name


def _http_route(fields: Fields, namespace: str) -> Route:
    matches = tuple(_http_match(match, namespace) for match in fields.each("match"))
    to = _destinations(fields, namespace)
    timeout_s = fields.seconds("timeout")
    name = fields.text("name") or ""
    fields.done(
        noted={"retries": _RETRIES, "websocketUpgrade": "WebSocket is always let pass"},
        refused=_ROUTE_REFUSED,
    )
    return Route(
        matches=matches or (Match(mark=fields.mark()),),
        to=to,
        # Zero is how Istio writes that there is none.
        timeout_s=timeout_s or None,
        name=name if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}", name) else "",
        mark=fields.mark(),
    )


def _http_match(fields: Fields, namespace: str) -> Match:
    conditions: dict[str, Any] = {}
    uri = fields.below("uri")
    if uri is not None:
        conditions |= _uri(uri)
    method = fields.below("method")
    if method is not None:
        word = method.text("exact")
        method.done(refused=dict.fromkeys(("prefix", "regex"), "methods are matched by exact only"))
        conditions["methods"] = [word or ""]
    scheme = fields.below("scheme")
    if scheme is not None:
        if scheme.text("exact") != "http":
            scheme.fault("exact", "expected http: no other requests are seen")
        scheme.done()
    port = fields.port("port")
    gateways = _gateway_names(fields, namespace) if fields.has("gateways") else None
    fields.done(silent=("name",), refused=_MATCH_REFUSED)
    return Match(
        port=port,
        gateways=gateways,
        conditions=(conditions,) if conditions else (),
        mark=fields.mark(),
    )


def _uri(uri: Fields) -> dict[str, Any]:
    """Conditions on a path. What a server may read as another path fits none of them."""
    exact, prefix, regex = uri.text("exact"), uri.text("prefix"), uri.text("regex")
    uri.done()
    if exact is not None:
        return {"paths": [exact]}
    unclear = [{"paths_matching": [_UNCLEAR_PATH]}]
    if prefix is not None:
        if prefix == "/":
            return {}
        if prefix.endswith("/"):
            return {"paths": [f"{prefix}*"]}
        return {"paths_matching": [f"^{re.escape(prefix)}"], "none": unclear}
    if regex is not None:
        return {"paths_matching": [rf"^(?:{regex})(?:\?|$)"], "none": unclear}
    uri.report.fault(uri.mark(), uri.way, "expected exact, prefix or regex")
    return {}


def _tls_route(fields: Fields, namespace: str, hosts: tuple[HostPattern, ...]) -> Route:
    matches = []
    for match in fields.each("match"):
        snis = match.patterns("sniHosts")
        if not match.filled("sniHosts"):
            match.fault("sniHosts", "a TLS match needs at least one")
        for index, sni in enumerate(snis):
            if not any(covers(host, sni) for host in hosts):
                match.fault_in("sniHosts", index, f"{sni} is not among the hosts of this VirtualService")
        matches.append(_tcp_match(match, namespace, snis))
    if not matches:
        fields.fault("match", "a TLS route needs a match with sniHosts")
    return _route_of(fields, tuple(matches), namespace)


def _tcp_route(fields: Fields, namespace: str) -> Route:
    matches = tuple(_tcp_match(match, namespace, ()) for match in fields.each("match"))
    return _route_of(fields, matches or (Match(mark=fields.mark()),), namespace)


def _tcp_match(fields: Fields, namespace: str, snis: tuple[HostPattern, ...]) -> Match:
    port = fields.port("port")
    gateways = _gateway_names(fields, namespace) if fields.has("gateways") else None
    fields.done(refused=_MATCH_REFUSED)
    return Match(port=port, gateways=gateways, sni_hosts=snis, mark=fields.mark())


def _route_of(fields: Fields, matches: tuple[Match, ...], namespace: str) -> Route:
    to = _destinations(fields, namespace)
    fields.done()
    return Route(matches=matches, to=to, mark=fields.mark())


def _destinations(fields: Fields, namespace: str) -> tuple[Destination, ...]:
    entries = fields.each("route")
    found = []
    for entry in entries:
        destination = entry.below("destination")
        weight = entry.integer("weight")
        entry.done(refused=_ROUTE_REFUSED)
        if destination is None:
            entry.fault("destination", "is missing")
            continue
        host = _host(destination, "host", namespace)
        subset = destination.text("subset") or ""
        port = destination.below("port")
        number = port.port("number") if port is not None else None
        if port is not None:
            port.done()
        destination.done()
        if weight is not None and not 0 <= weight <= 1_000_000:
            entry.fault("weight", f"expected an integer of at least 0, got {weight}")
        elif host is not None:
            share = 1 if len(entries) == 1 else weight or 0
            found.append(
                Destination(host=host, subset=subset, port=number, weight=share, mark=destination.mark("host"))
            )
    if not entries and not any(fields.has(name) for name in _ROUTE_REFUSED):
        fields.fault("route", "expected at least one destination")
    if found and not any(one.weight for one in found):
        fields.fault("route", "expected a weight above 0 on one of them")
    return tuple(one for one in found if one.weight)


# --- DestinationRule ----------------------------------------------------------------------------------------------

_TLS_MODES: tuple[Literal["DISABLE", "SIMPLE", "MUTUAL", "ISTIO_MUTUAL"], ...] = (
    "DISABLE",
    "SIMPLE",
    "MUTUAL",
    "ISTIO_MUTUAL",
)
_BALANCING = "endpoints are asked in turn, by weight"


def destination_rule(thing: Thing) -> DestinationRule | None:
    """What a DestinationRule says."""
    spec = spec_of(thing)
    if spec is None:
        return None
    host = _host(spec, "host", _namespace(thing))
    policy = spec.below("trafficPolicy")
    subsets: dict[str, Subset] = {}
    for fields in spec.each("subsets"):
        name, labels, own = fields.required_text("name"), fields.labels("labels"), fields.below("trafficPolicy")
        fields.done()
        if name in subsets:
            fields.fault("name", f"two subsets are called {shown(name)}")
        elif name is not None:
            subsets[name] = Subset(
                labels=labels, policy=None if own is None else _traffic_policy(own), mark=fields.mark("name")
            )
    found = None
    if host is not None:
        found = DestinationRule(
            name=thing.name,
            namespace=thing.namespace,
            age=thing.age,
            host=host,
            policy=None if policy is None else _traffic_policy(policy),
            subsets=subsets,
            export_to=_export_to(spec),
            mark=spec.mark("host"),
        )
    spec.done(refused={"workloadSelector": "selects pods, which are not known here; leave it out, or the rule"})
    return found


def _traffic_policy(fields: Fields, *, of_port: bool = False) -> TrafficPolicy:
    ports: dict[int, TrafficPolicy] = {}
    for each in () if of_port else fields.each("portLevelSettings"):
        port = each.below("port")
        number = port.port("number") if port is not None else None
        if number is None:
            each.fault("port", "expected the number of a port")
        elif number in ports:
            each.fault("port", f"port {number} is set twice")
        else:
            ports[number] = _traffic_policy(each, of_port=True)
    tls, pool, balancer = fields.below("tls"), fields.below("connectionPool"), fields.below("loadBalancer")
    connect_timeout_s = None
    if pool is not None:
        tcp = pool.below("tcp")
        if tcp is not None:
            connect_timeout_s = tcp.seconds("connectTimeout")
            _note_rest(tcp, "has no effect here: see timeouts and limits of the native form")
        _note_rest(pool, "has no effect here: see timeouts and limits of the native form")
    if balancer is not None:
        if balancer.text("simple") == "PASSTHROUGH":
            balancer.fault("simple", "going where the client dialled is resolution NONE of a ServiceEntry; write that")
        elif balancer.text("simple") not in (None, "ROUND_ROBIN"):
            balancer.note("simple", _BALANCING)
        _note_rest(balancer, _BALANCING)
    fields.done(
        silent=("port",) if of_port else (),
        noted={"outlierDetection": "an endpoint that fails is passed over for this connection only"},
        refused={
            "tunnel": "a proxy on the way is a parent in the native form",
            "proxyProtocol": "is set on a rule in the native form",
        },
    )
    return TrafficPolicy(
        tls=None if tls is None else _client_tls(tls), connect_timeout_s=connect_timeout_s, ports=ports
    )


def _note_rest(fields: Fields, message: str) -> None:
    """What is left of a mapping is about load, not about who may go where."""
    fields.done(noted=dict.fromkeys(fields.unread(), message))


def _client_tls(fields: Fields) -> ClientTls | None:
    mode = fields.word("mode", _TLS_MODES, "DISABLE")
    texts = {
        name: fields.text(name)
        for name in ("clientCertificate", "privateKey", "caCertificates", "credentialName", "sni")
    }
    names, skips = fields.words("subjectAltNames"), fields.flag("insecureSkipVerify")
    fields.done(refused={"caCrl": "revocation lists are not asked; without one a revoked certificate would be taken"})
    if mode is None:
        return None
    files = [name for name in ("clientCertificate", "privateKey", "caCertificates") if texts[name] is not None]
    if mode == "ISTIO_MUTUAL":
        wrong = [*files, *(name for name in ("credentialName",) if texts[name] is not None)]
        for name in wrong:
            fields.fault(name, "belongs to SIMPLE or MUTUAL: in ISTIO_MUTUAL the mesh brings its own")
    elif texts["credentialName"] is not None:
        for name in files:
            fields.fault(name, "is given by credentialName already; write one or the other")
    elif mode == "MUTUAL":
        for name in ("clientCertificate", "privateKey"):
            if texts[name] is None:
                fields.fault("mode", f"MUTUAL needs {name}, or credentialName")
    return ClientTls(
        mode=next(each for each in _TLS_MODES if each == mode),
        certificate=texts["clientCertificate"],
        key=texts["privateKey"],
        ca=texts["caCertificates"],
        credential=texts["credentialName"],
        sni=texts["sni"],
        subject_alt_names=names,
        skips_verification=skips,
        mark=fields.mark("mode"),
    )


# --- Gateway ------------------------------------------------------------------------------------------------------

_SERVER_MODES: tuple[TlsMode, ...] = ("PASSTHROUGH", "SIMPLE", "MUTUAL", "ISTIO_MUTUAL")
_SERVER_FILES = ("serverCertificate", "privateKey", "caCertificates", "credentialName")


def gateway(thing: Thing) -> Gateway:
    """What a Gateway says."""
    spec = spec_of(thing)
    servers: list[Server] = []
    selector: dict[str, str] = {}
    names: set[str] = set()
    if spec is not None:
        selector = spec.labels("selector")
        for fields in spec.each("servers"):
            server = _server(fields, names)
            if server is not None:
                servers.append(server)
        if not spec.has("servers"):
            spec.fault("servers", "expected at least one server")
        spec.done()
    return Gateway(
        name=thing.name,
        namespace=_namespace(thing),
        age=thing.age,
        selector=selector,
        servers=tuple(servers),
        mark=thing.fields.mark("spec"),
    )


def _server(fields: Fields, names: set[str]) -> Server | None:
    port = fields.below("port")
    number = name = word = spoken = None
    if port is None:
        fields.fault("port", "is missing")
    else:
        number, name, spoken = port.port("number"), port.required_text("name"), spoken_on(port)
        word = (port.text("protocol") or "").upper()
        port.done(silent=("targetPort",))
        if name in names:
            port.fault("name", f"two ports are called {shown(name)}")
        if name is not None:
            names.add(name)
    hosts = _server_hosts(fields)
    tls = fields.below("tls")
    mode: TlsMode = "NONE"
    if tls is not None:
        mode = _server_tls(tls)
    fields.done(silent=("name",), noted={"bind": "the listeners of this proxy say where it listens"})
    if number is None or spoken is None:
        return None
    if spoken == "TLS" and mode == "NONE":
        fields.fault("tls", f"protocol {word} needs tls with a mode")
        return None
    if spoken == "HTTP" and mode != "NONE":
        fields.fault("tls", f"protocol {word} has no TLS; set HTTPS, or leave tls out")
        return None
    routes: Literal["http", "tls", "tcp"] = "tcp"
    if mode == "PASSTHROUGH":
        routes = "tls"
    elif spoken == "HTTP" or word == "HTTPS":
        routes = "http"
    return Server(port=number, routes=routes, mode=mode, hosts=hosts, mark=fields.mark())


def _server_hosts(fields: Fields) -> tuple[tuple[str, HostPattern], ...]:
    found = []
    for index, text in enumerate(fields.words("hosts")):
        namespace, slash, host = text.rpartition("/")
        try:
            found.append((namespace if slash else "*", parse_host_pattern(host)))
        except ValueError as error:
            fields.fault_in("hosts", index, str(error))
    if not fields.filled("hosts"):
        fields.fault("hosts", "expected at least one host")
    return tuple(found)


def _server_tls(tls: Fields) -> TlsMode:
    mode = tls.word("mode", _SERVER_MODES, "PASSTHROUGH")
    given = [name for name in _SERVER_FILES if tls.text(name) is not None]
    if tls.flag("httpsRedirect"):
        tls.fault("httpsRedirect", f"{_NOT_HERE}: answering with a redirect")
    tls.done(
        silent=("minProtocolVersion", "maxProtocolVersion", "cipherSuites"),
        refused=dict.fromkeys(
            ("subjectAltNames", "verifyCertificateSpki", "verifyCertificateHash", "caCrl"),
            "who may come to the gateway is not judged by certificates here; clients of a rule are networks",
        ),
    )
    if mode is None:
        return "NONE" if not tls.has("mode") else "PASSTHROUGH"
    if mode == "ISTIO_MUTUAL" or mode == "PASSTHROUGH":
        for name in given:
            tls.fault(name, f"has no meaning with mode {mode}")
    elif "credentialName" not in given:
        needed = _SERVER_FILES[: 3 if mode == "MUTUAL" else 2]
        for name in needed:
            if name not in given:
                tls.fault("mode", f"{mode} needs {name}, or credentialName")
    return next(each for each in _SERVER_MODES if each == mode)


# --- Sidecar ------------------------------------------------------------------------------------------------------


def sidecar(thing: Thing) -> Sidecar:
    """What a Sidecar says of what leaves its pods."""
    spec = spec_of(thing)
    outbound: str | None = None
    hosts: tuple[tuple[str, HostPattern], ...] | None = None
    if spec is not None:
        policy = spec.below("outboundTrafficPolicy")
        if policy is not None:
            outbound = policy.word("mode", ("ALLOW_ANY", "REGISTRY_ONLY"), "REGISTRY_ONLY")
            policy.done()
        listeners = spec.each("egress")
        if listeners:
            hosts = ()
        for fields in listeners:
            hosts = (*(hosts or ()), *_visible_hosts(fields))
            fields.done(
                refused=dict.fromkeys(
                    ("port", "bind", "captureMode"), "a Sidecar for one port or address is not followed"
                )
            )
        spec.done(
            noted=dict.fromkeys(("ingress", "inboundConnectionPool"), "is about traffic that comes in"),
            refused={"workloadSelector": "selects pods, which are not known here; write rules with clients instead"},
        )
    return Sidecar(
        name=thing.name,
        namespace=_namespace(thing),
        outbound=outbound,
        hosts=hosts,
        mark=thing.fields.mark("spec"),
    )


def _visible_hosts(fields: Fields) -> list[tuple[str, HostPattern]]:
    found = []
    for index, text in enumerate(fields.words("hosts")):
        namespace, slash, host = text.partition("/")
        try:
            if not slash:
                raise ValueError(f"expected NAMESPACE/HOST, got {shown(text)}")
            if namespace != "~":
                found.append((namespace, parse_host_pattern(host)))
        except ValueError as error:
            fields.fault_in("hosts", index, str(error))
    return found


# --- patterns -----------------------------------------------------------------------------------------------------


def covers(wide: HostPattern, narrow: HostPattern) -> bool:
    """Whether every host of one pattern is one of the other."""
    if wide == narrow or wide.kind == "any":
        return True
    return (
        wide.kind == "suffix"
        and narrow.kind != "any"
        and not narrow.is_address
        and narrow.host.endswith(f".{wide.host}")
    )


def meet(one: HostPattern, other: HostPattern) -> HostPattern | None:
    """The hosts that two patterns have in common; None: there are none. Of two patterns that meet one covers the other."""
    if covers(one, other):
        return other
    return one if covers(other, one) else None


def is_address(text: str) -> bool:
    """Whether a host is an IP address."""
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
