"""The registry: what is known about a destination, and so how it is reached.

`services` in the configuration register hosts and ports. Whether a destination may be reached is for the policy to say;
here is only the way to it: by which name or addresses, on which port, with which TLS, within which times. What no service
registers has no route: it is reached by its own name, on the port that was asked for.

Nothing is looked up, dialled or judged here.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Literal, NamedTuple

from egressproxy.hostport import HostPattern
from egressproxy.model import TLS_PORT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from egressproxy.config.schema import Config, Service, UpstreamTls

# Distinct destinations kept. A hit costs 0.2 us instead of 5; an entry takes 400 bytes, the route included.
_CACHE = 8192


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
    name        the service's first host, for logs
    host        the name to resolve and to verify: for an alias the host that it stands for, else the one asked for
    port        the port to dial, unless an endpoint has its own
    endpoints   where not empty, they are asked in place of `host`; addresses where `resolution` is static
    tls         TLS that the proxy speaks with it where the client sends plain HTTP; None: plain HTTP goes out
    timeout_s, connect_timeout_s, idle_timeout_s   None: as the configuration says for all
    has_headers  the service gets header fields that its clients do not see
    declared_tls  the configuration says that clients speak TLS there
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

    @property
    def tunnel_port(self) -> int | None:
        """The port that says what a tunnel to it must carry: 443 where TLS is spoken there; None: the one asked for."""
        return TLS_PORT if self.declared_tls or self.tls is not None or self.port == TLS_PORT else None

    @property
    def needs_tls(self) -> bool:
        """TLS is spoken there, and the proxy does not speak it: a plain request has no way to it."""
        return self.declared_tls and self.tls is None


class _Registered(NamedTuple):
    """One service. `ports` maps the port asked for to the one dialled; `hosts` those that aliases stand for, by alias."""

    position: int
    service: Service
    ports: Mapping[int, int]
    endpoints: tuple[RouteEndpoint, ...]
    hosts: Mapping[str, str]


_Table = dict[str, "_Registered | list[_Registered]"]  # a list, in file order, only where several have the host


class Registry:
    """The routes of one configuration. Made by `from_config`, immutable but for a bounded cache."""

    __slots__ = ("_find", "_shared")

    def __init__(
        self, find: Callable[[str, int], Route | None], shared: Sequence[tuple[str, list[_Registered]]]
    ) -> None:
        """See `from_config`. `shared`: hosts that several services have, with these in file order."""
        self._find = find
        self._shared = shared

    @classmethod
    def from_config(cls, config: Config) -> Registry:
        """The routes that `services` describe. A hundred thousand services take about a second."""
        exact: _Table = {}
        suffixes: _Table = {}
        depth = 0  # labels in the longest suffix
        for one in _registered(config):
            for kind, host in one.service.hosts:
                _enter(exact if kind == "exact" else suffixes, host, one)
                if kind == "suffix":
                    depth = max(depth, host.count(".") + 1)
            for alias in one.service.aliases:
                _enter(exact, alias, one)
        shared = [(host, found) for host, found in exact.items() if isinstance(found, list)]
        shared += [(f"*.{host}", found) for host, found in suffixes.items() if isinstance(found, list)]
        # It refers to the tables alone, not to this object: see HostIndex.finder.
        return cls(lru_cache(_CACHE)(partial(_find, exact, suffixes, depth)), shared)

    def find(self, host: str, port: int) -> Route | None:
        """How a canonical host is reached on a port; None where no service has both. Runs once per connection or request.

        The exact name or an alias goes before `*.suffix`, the longest suffix before others, and among equals the service
        that comes first in the configuration. Takes the same time however many services there are.
        """
        return self._find(host, port)

    def hidden(self) -> Iterator[tuple[int, str, int, int]]:
        """Services that are not asked for a host on a port: their index, host, port, and the index of the one that is."""
        for host, services in self._shared:
            first: dict[int, int] = {}
            for one in services:
                for port in one.ports:
                    if first.setdefault(port, one.position) != one.position:
                        yield one.position, host, port, first[port]


def endpoint_of(host: str, port: int | None, weight: int) -> RouteEndpoint:
    """An endpoint as the configuration writes it; `host` is canonical already."""
    return RouteEndpoint(host, HostPattern("exact", host).is_address, port, weight)


def _registered(config: Config) -> Iterator[_Registered]:
    for index, service in enumerate(config.services):
        ports = {port.number: port.target_port or port.number for port in service.ports}
        endpoints = tuple(endpoint_of(one.address, one.port, one.weight) for one in service.endpoints)
        yield _Registered(index, service, ports, endpoints, dict.fromkeys(service.aliases, service.hosts[0].host))


def _enter(table: _Table, host: str, one: _Registered) -> None:
    found = table.setdefault(host, one)
    if isinstance(found, list):
        found.append(one)
    elif found is not one:
        table[host] = [found, one]


def _find(exact: _Table, suffixes: _Table, depth: int, host: str, port: int) -> Route | None:
    if host in exact and (found := _with_port(exact[host], port)) is not None:
        return _route(found, host, port)
    # From the longest suffix to the shortest. An address has none: see hostnames._find.
    labels = host.split(".")
    for first in range(max(1, len(labels) - depth), len(labels)):
        group = suffixes.get(".".join(labels[first:]))
        if group is not None and (found := _with_port(group, port)) is not None:
            return _route(found, host, port)
    return None


def _with_port(group: _Registered | Sequence[_Registered], port: int) -> _Registered | None:
    services = (group,) if isinstance(group, _Registered) else group
    return next((one for one in services if port in one.ports), None)


def _route(one: _Registered, host: str, port: int) -> Route:
    service = one.service
    return Route(
        service=one.position,
        name=str(service.hosts[0]),
        host=one.hosts.get(host, host),
        port=one.ports[port],
        resolution=service.resolution,
        endpoints=one.endpoints,
        tls=None if service.tls is None or service.tls.mode == "disable" else service.tls,
        timeout_s=service.timeout_s,
        connect_timeout_s=service.connect_timeout_s,
        idle_timeout_s=service.idle_timeout_s,
        has_headers=bool(service.set_headers),
        declared_tls=any(each.number == port and each.protocol in ("TLS", "HTTPS") for each in service.ports),
    )
