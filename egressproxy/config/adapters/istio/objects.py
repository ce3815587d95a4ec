"""Istio's and Kubernetes' objects as values, and what their readers have in common.

There is one reader for each kind: what an object says, checked by itself. What objects mean together is for `mesh` and
`routes`.

Versions v1alpha3, v1beta1 and v1 of networking.istio.io mean the same. A field that changes where traffic goes, or what is let
pass, and has no place here is a fault: an unheard condition would make a route wider than its author wrote it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import ip_address
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from egressproxy.config.faults import shown
from egressproxy.hostport import ANY_HOST, HostPattern, parse_host_pattern

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from egressproxy.config.adapters.istio.documents import Thing
    from egressproxy.config.adapters.istio.fields import Fields

T = TypeVar("T")

VERSIONS = ("v1alpha3", "v1beta1", "v1")
NOT_HERE = "is not done by this proxy"
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


Seniority = tuple[bool, str, str]
"""Sorts objects of one kind, the one that counts first."""


def seniority(age: str, name: str, namespace: str | None) -> Seniority:
    """The oldest first; one without a time is new; ties by name and namespace."""
    return not age, age, f"{name}.{namespace or DEFAULT_NAMESPACE}"


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
    seems_private  it is said to be internal, or its name is none of the public DNS
    knows_pods  its endpoints are pods, which only the cluster knows
    behind     of a Kubernetes Service: the pods' own port for each of its numbers, where the file tells
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
    seems_private: bool = False
    knows_pods: bool = False
    behind: Mapping[int, int] = field(default_factory=dict)
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
    asks_path   the path is among them
    """

    port: int | None = None
    gateways: tuple[str, ...] | None = None
    sni_hosts: tuple[HostPattern, ...] = ()
    conditions: tuple[Mapping[str, Any], ...] = ()
    asks_path: bool = False
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
    def seniority(self) -> Seniority:
        """In this order they count."""
        return seniority(self.age, self.name, self.namespace)


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
    def seniority(self) -> Seniority:
        """In this order they count."""
        return seniority(self.age, self.name, self.namespace)


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
    def seniority(self) -> Seniority:
        """In this order they count."""
        return seniority(self.age, self.name, self.namespace)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sidecar:
    """What the sidecars of one namespace see. `hosts`: namespace and pattern; None: everything."""

    name: str
    namespace: str
    outbound: str | None
    hosts: tuple[tuple[str, HostPattern], ...] | None
    mark: int


# --- what their readers share -------------------------------------------------------------------------------------


def full_pattern(pattern: HostPattern, namespace: str) -> HostPattern:
    """A short name is a Kubernetes Service in the namespace of the object that names it."""
    if pattern.kind != "exact" or "." in pattern.host or pattern.is_address:
        return pattern
    return HostPattern("exact", f"{pattern.host}.{namespace}.{CLUSTER_DOMAIN}")


def host_of(fields: Fields, name: str, namespace: str) -> HostPattern | None:
    """A host that a field must hold, whole; None, with a fault, where it is wrong."""
    text = fields.required_text(name)
    if text is None:
        return None
    try:
        return full_pattern(parse_host_pattern(text), namespace)
    except ValueError as error:
        fields.fault(name, str(error))
        return None


def export_to_of(spec: Fields) -> tuple[str, ...]:
    """Namespaces that see an object: `*`, `.` for its own, or names; empty: all do; `~` alone: none does."""
    found = spec.words("exportTo")
    if len(found) > 1 and "~" in found:
        spec.fault("exportTo", "'~' shows the object to nobody, and stands alone")
    return found


def namespace_of(thing: Thing) -> str:
    """The namespace of an object; one that says none is in `default`, where kubectl puts it."""
    return thing.namespace or DEFAULT_NAMESPACE


def spec_of(thing: Thing) -> Fields | None:
    """The spec of an object, whose top says nothing else."""
    thing.fields.done(silent=("apiVersion", "kind", "metadata", "status", "spec"))
    if not thing.fields.has("spec"):
        thing.fields.fault("spec", "is missing")
    return thing.fields.below("spec")


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


def wider(pattern: HostPattern) -> Iterator[HostPattern]:
    """The patterns that cover one, itself first, then the longest suffix."""
    yield pattern
    labels = [] if pattern.is_address else pattern.host.split(".")
    for first in range(1, len(labels)):
        yield HostPattern("suffix", ".".join(labels[first:]))
    if pattern.kind != "any":
        yield ANY_HOST


class ByHost(Generic[T]):
    """Things that are for hosts, found by a pattern without going through all of them, in the order in which they came."""

    def __init__(self, things: Iterable[tuple[HostPattern, T]]) -> None:
        self._all: dict[HostPattern, list[tuple[int, T]]] = {}
        for number, (pattern, thing) in enumerate(things):
            self._all.setdefault(pattern, []).append((number, thing))

    def covering(self, pattern: HostPattern) -> list[T]:
        """What is for every host of a pattern."""
        return self._in_order(each for one in wider(pattern) for each in self._all.get(one, ()))

    def meeting(self, pattern: HostPattern) -> list[T]:
        """What is for a host of a pattern."""
        if pattern.kind == "exact":
            return self.covering(pattern)
        return self._in_order(
            each for one, found in self._all.items() if meet(one, pattern) is not None for each in found
        )

    def exactly(self, pattern: HostPattern) -> list[T]:
        """What is for this very pattern."""
        return [thing for _, thing in self._all.get(pattern, ())]

    @staticmethod
    def _in_order(found: Iterable[tuple[int, T]]) -> list[T]:
        return [thing for _, thing in sorted(found, key=itemgetter(0))]


def is_address(text: str) -> bool:
    """Whether a host is an IP address."""
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def is_loopback(text: str) -> bool:
    """Whether a host is an IP address of the machine itself."""
    return is_address(text) and ip_address(text).is_loopback
