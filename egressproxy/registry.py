"""The registry: what is known about a destination, and so how it is reached.

`services` in the configuration register hosts and ports. Whether a destination may be reached is for the policy to say;
here is only the way to it: by which name or addresses, on which port, with which TLS, within which times. What no service
registers has no route: it is reached by its own name, on the port that was asked for.

Nothing is looked up, dialled or judged here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache, partial
from ipaddress import ip_network
from typing import TYPE_CHECKING, Literal, NamedTuple

from egressproxy.hostport import HostPattern
from egressproxy.model import OUTBOUND, TLS_PORT
from egressproxy.policy.addresses import judge
from egressproxy.policy.networks import NetworkSet, parse_client

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from egressproxy.config.schema.config import Config
    from egressproxy.config.schema.services import Service, UpstreamTls

# Distinct destinations kept. A hit costs 0.2 us instead of 5; an entry takes 400 bytes, the route included.
_CACHE = 8192

PASSTHROUGH = "PassthroughCluster"
"""How Istio calls where everything goes that only `outbound: allow_any` lets pass."""
_CLUSTER = "outbound|"


class RouteEndpoint(NamedTuple):
    """One address of a service, as the configuration has it.

    host    a name or an address, canonical
    port    None: that of the route
    weight  share of the requests, relative to the other endpoints
    """

    host: str
    is_address: bool
    port: int | None
    weight: int


@dataclass(frozen=True, slots=True)
class Route:
    """How one registered host is reached on one port.

    service     index into `config.services`
    name        the service's, or its first host, for logs
    host        the name to resolve and to verify: for an alias the host that it stands for, else the one asked for
    port        the port to dial, unless an endpoint has its own
    endpoints   where not empty, they are asked in place of `host`; addresses where `resolution` is static
    tls         TLS that the proxy speaks with it where the client sends plain HTTP; None: plain HTTP goes out
    timeout_s, connect_timeout_s, idle_timeout_s   None: as the configuration says for all
    has_headers  the service gets header fields that its clients do not see
    route       name of the route that leads here, empty for one without; None: the service was asked for by its own name
    by_address  the service was asked for by an address that the configuration names
    declared_tls  the configuration says that clients speak TLS there
    addresses   by which it is known, where it was asked for by one of them
    """

    service: int
    name: str
    host: str
    port: int
    resolution: Literal["dns", "static", "none"]
    endpoints: tuple[RouteEndpoint, ...]
    tls: UpstreamTls | None
    timeout_s: float | None
    connect_timeout_s: float | None
    idle_timeout_s: float | None
    has_headers: bool
    declared_tls: bool
    route: str | None = None
    by_address: bool = False
    addresses: NetworkSet | None = None

    @property
    def tunnel_port(self) -> int | None:
        """The port that says what a tunnel to it must carry: 443 where TLS is spoken there; None: the one asked for."""
        return TLS_PORT if self.declared_tls or self.tls is not None or self.port == TLS_PORT else None

    def writes_down(self, addresses: Iterable[str]) -> bool:
        """Whether all of these are among those it is known by, by the operator's own word, which the guard does not doubt.

        A network that is wider than what is special about an address is no such word: `0.0.0.0/0` means the Internet. And a
        metadata address must be named itself.
        """
        networks = self.addresses
        return networks is not None and all(_is_written_in(networks, each) for each in addresses)

    @property
    def needs_tls(self) -> bool:
        """TLS is spoken there, and the proxy does not speak it: a plain request has no way to it."""
        return self.declared_tls and self.tls is None


def _is_written_in(networks: NetworkSet, address: str) -> bool:
    special = judge(address).special
    if special is None:
        return True  # and nobody doubts it
    subject = parse_client(address)
    bits = 128 if subject.is_v6 else 32
    lengths = networks.lengths_around(subject)
    if special.name == "metadata" or " " in special.network:  # `outside 2000::/3` is no range to be within
        return bits in lengths
    whole = ip_network(special.network)
    return any(length == bits or (whole.max_prefixlen == bits and length >= whole.prefixlen) for length in lengths)


class _Registered(NamedTuple):
    """One service. `ports` maps the port asked for to the one dialled; `hosts` those that aliases stand for, by alias."""

    position: int
    service: Service
    ports: Mapping[int, int]
    endpoints: tuple[RouteEndpoint, ...]
    hosts: Mapping[str, str]


_KnownBy = list[tuple[NetworkSet, "_Registered"]]
_Table = dict[str, "_Registered | list[_Registered]"]  # a list, in file order, only where several have the host


class Registry:
    """The services of one configuration, and where its routes lead. Made by `from_config`, immutable but for bounded caches.

    weights  for each of `config.routes` those of its destinations, in order
    """

    __slots__ = ("_find", "_known_by", "_routed", "_shared", "weights")

    def __init__(self, config: Config) -> None:
        """See `from_config`."""
        exact: _Table = {}
        suffixes: _Table = {}
        depth = 0  # labels in the longest suffix
        known_by: list[tuple[NetworkSet, _Registered]] = []
        services: dict[str, _Registered] = {}
        for one in _registered(config):
            services.setdefault(one.service.label, one)
            for kind, host in one.service.hosts:
                _enter(exact if kind == "exact" else suffixes, host, one)
                if kind == "suffix":
                    depth = max(depth, host.count(".") + 1)
            for alias in one.service.aliases:
                _enter(exact, alias, one)
            if one.service.addresses:
                known_by.append((NetworkSet(one.service.addresses), one))
        # Hosts that several services have, with these in file order.
        self._shared = [(host, found) for host, found in exact.items() if isinstance(found, list)]
        self._shared += [(f"*.{host}", found) for host, found in suffixes.items() if isinstance(found, list)]
        self._known_by = known_by
        self.weights = [[each.weight for each in route.to] for route in config.routes]
        # They refer to the tables alone, not to this object: see HostIndex.finder.
        self._find = lru_cache(_CACHE)(partial(_find, exact, suffixes, depth, known_by))
        self._routed = lru_cache(_CACHE)(partial(_routed, config, services))

    @classmethod
    def from_config(cls, config: Config) -> Registry:
        """What `services` and `routes` describe. A hundred thousand services take about a second."""
        return cls(config)

    def find(self, host: str, port: int) -> Route | None:
        """How a canonical host is reached on a port; None where no service has both. Runs once per connection or request.

        The exact name or an alias goes before `*.suffix`, the longest suffix before others, and among equals the service
        that comes first in the configuration. Takes the same time however many services there are.
        """
        return self._find(host, port)

    def routed(self, route: int, turn: int, host: str, port: int) -> Route:
        """How a host is reached that a route sends to a service.

        route  index in `config.routes`, of one that leads somewhere
        turn   index of the destination whose turn it is
        """
        return self._routed(route, turn, host, port)

    def takes_unseen(self, address: str, port: int) -> bool:
        """Whether a service is known by this address, and is reached there whatever the client says."""
        return _known_by(self._known_by, address, port) is not None

    def hidden(self) -> Iterator[tuple[int, str, int, int]]:
        """Services that are not asked for a host on a port: their index, host, port, and the index of the one that is."""
        for host, services in self._shared:
            first: dict[int, int] = {}
            for one in services:
                for port in one.ports:
                    if first.setdefault(port, one.position) != one.position:
                        yield one.position, host, port, first[port]


def cluster_name(rule: str | None, service: str | None, port: int, host: str) -> str:
    """How Istio's logs and counters call where something goes: `outbound|PORT|SUBSET|HOST`, or `PassthroughCluster`.

    rule     that let it pass
    service  it is sent to; None: to none, but to `host`. One that is called as a cluster is that cluster
    port     by which the service is known
    """
    if service is None:
        return PASSTHROUGH if rule == OUTBOUND else f"{_CLUSTER}{port}||{host}"
    return service if service.startswith(_CLUSTER) else f"{_CLUSTER}{port}||{service}"


def endpoint_of(host: str, port: int | None, weight: int) -> RouteEndpoint:
    """An endpoint as the configuration writes it; `host` is canonical already."""
    return RouteEndpoint(host, HostPattern("exact", host).is_address, port, weight)


def _registered(config: Config) -> Iterator[_Registered]:
    for index, service in enumerate(config.services):
        ports = {port.number: port.target_port or port.number for port in service.ports}
        endpoints = tuple(endpoint_of(one.address, one.port, one.weight) for one in service.endpoints)
        real = service.hosts[0].host if service.hosts else ""  # who has aliases has one host
        yield _Registered(index, service, ports, endpoints, dict.fromkeys(service.aliases, real))


def _enter(table: _Table, host: str, one: _Registered) -> None:
    found = table.setdefault(host, one)
    if isinstance(found, list):
        found.append(one)
    elif found is not one:
        table[host] = [found, one]


def _find(exact: _Table, suffixes: _Table, depth: int, known_by: _KnownBy, host: str, port: int) -> Route | None:
    if host in exact and (found := _with_port(exact[host], port)) is not None:
        return _route(found, host, port)
    # From the longest suffix to the shortest. An address has none: see hostnames._find.
    labels = host.split(".")
    for first in range(max(1, len(labels) - depth), len(labels)):
        group = suffixes.get(".".join(labels[first:]))
        if group is not None and (found := _with_port(group, port)) is not None:
            return _route(found, host, port)
    found_by_address = _known_by(known_by, host, port) if known_by and HostPattern("exact", host).is_address else None
    if found_by_address is None:
        return None
    networks, known = found_by_address
    return replace(
        _route(known, host if known.service.resolution == "none" else _host_of(known, host), port),
        by_address=True,
        addresses=networks,
    )


def _known_by(services: _KnownBy, address: str, port: int) -> tuple[NetworkSet, _Registered] | None:
    subject = parse_client(address)
    return next(((networks, one) for networks, one in services if port in one.ports and subject in networks), None)


def _routed(config: Config, services: Mapping[str, _Registered], number: int, turn: int, host: str, port: int) -> Route:
    settings = config.routes[number]
    destination = settings.to[turn]
    one = services[destination.service]
    only = next(iter(one.ports)) if len(one.ports) == 1 else None
    found = _route(one, _host_of(one, host), destination.port or (port if port in one.ports else only) or port)
    timeout_s = settings.timeout_s or found.timeout_s
    return replace(found, timeout_s=timeout_s, route=settings.name or "")


def _host_of(one: _Registered, host: str) -> str:
    """The name to look up and to verify, of a service that a route leads to: its own, where it has just one."""
    hosts = one.service.hosts
    return hosts[0].host if len(hosts) == 1 and hosts[0].kind == "exact" else host


def _with_port(group: _Registered | Sequence[_Registered], port: int) -> _Registered | None:
    services = (group,) if isinstance(group, _Registered) else group
    return next((one for one in services if port in one.ports), None)


def _route(one: _Registered, host: str, port: int) -> Route:
    service = one.service
    return Route(
        service=one.position,
        name=service.label,
        host=one.hosts.get(host, host),
        port=one.ports.get(port, port),
        resolution=service.resolution,
        endpoints=one.endpoints,
        tls=None if service.tls is None or service.tls.mode == "disable" else service.tls,
        timeout_s=service.timeout_s,
        connect_timeout_s=service.connect_timeout_s,
        idle_timeout_s=service.idle_timeout_s,
        has_headers=bool(service.set_headers),
        declared_tls=any(each.number == port and each.protocol in ("TLS", "HTTPS") for each in service.ports),
    )
