"""Listeners and route tables of a configuration, in the shape that Envoy's admin interface has for them.

Envoy's listeners hold filter chains and name route tables; here rules, routes and services decide, and these tables are drawn
from them for those who are used to look there: for each port on which services are known one table, `http.PORT` for plain
requests and `tls.PORT` for TLS by its name, in which every virtual host has its domains and where they lead. What the tables
cannot say (conditions on clients, times and the like) is told in words, under `conditions`. Rules are asked before; how many
there are is told under `asked_before`, and `/explain` tells what they say.

Shapes: https://www.envoyproxy.io/docs/envoy/latest/api-v3/admin/v3/config_dump.proto and .../listeners.proto.
"""

from __future__ import annotations

from heapq import merge
from typing import TYPE_CHECKING, Any

from egressproxy.config.schema.rules import CONDITIONS
from egressproxy.errors import HostUnknown, NoEndpoint, NoRoute
from egressproxy.registry import PASSTHROUGH, cluster_name
from egressproxy.telemetry.clusters import BLACK_HOLE

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from egressproxy.config.schema.config import Config
    from egressproxy.config.schema.listeners import Listener
    from egressproxy.config.schema.rules import Route
    from egressproxy.config.schema.services import Service
    from egressproxy.hostport import HostPattern, PortRange

MAX_TABLES = 200
MAX_HOSTS = 1000
"""Virtual hosts in one table, and MAX_DOMAINS in one of them."""
MAX_DOMAINS = 50

_REFUSED = {"not_found": NoRoute.status, "unknown": 502, "unavailable": NoEndpoint.status, "close": HostUnknown.status}
_ADMIN = "type.googleapis.com/envoy.admin.v3"
_EVERYWHERE = "*"
_ALL = {"prefix": "/"}
_HTTP, _TLS = "http", "tls"
_DEFAULT_PORTS = {"http": ((_HTTP, 80),), "sni": ((_TLS, 443),), "auto": ((_TLS, 443), (_HTTP, 80))}
_EXPRESSED = frozenset({"hosts", "ports", "paths"})
"""Conditions that tables have a place for."""

Json = dict[str, Any]


def listeners(config: Config) -> list[Json]:
    """Each listener: `name` as Istio calls it, `label` as logs and metrics here do, its `address` and `port`."""
    return [
        {
            "name": f"{listener.address}_{listener.service_port or listener.port}",
            "label": listener.label,
            "address": listener.address,
            "port": listener.port,
        }
        for listener in config.listeners
    ]


def listener_statuses(config: Config) -> Json:
    """The listeners, as `/listeners?format=json` has them."""
    return {
        "listener_statuses": [
            {"name": each["name"], "local_address": _address(each), "label": each["label"]}
            for each in listeners(config)
        ]
    }


def config_dump(config: Config) -> Json:
    """Listeners and route tables, as `/config_dump` has them."""
    return {
        "configs": [
            {
                "@type": f"{_ADMIN}.ListenersConfigDump",
                "dynamic_listeners": [
                    {
                        "name": each["name"],
                        "active_state": {"listener": {**_only_name(each), "address": _address(each)}},
                    }
                    for each in listeners(config)
                ],
            },
            {
                "@type": f"{_ADMIN}.RoutesConfigDump",
                "dynamic_route_configs": [{"route_config": table} for table in route_tables(config)],
            },
        ]
    }


def route_tables(config: Config) -> list[Json]:
    """One table for each port on which something is known, or listened for."""
    places = list(dict.fromkeys([*_of_listeners(config), *_of_services(config)]))
    by_place = _ByPlace(config)
    tables = []
    for kind, port in sorted(places[:MAX_TABLES], key=lambda place: (place[1], place[0])):
        hosts = list(_virtual_hosts(config, by_place, kind, port))
        table: Json = {"name": f"{kind}.{port}", "virtual_hosts": hosts[:MAX_HOSTS]}
        if len(hosts) > MAX_HOSTS:
            table["virtual_hosts"].append(hosts[-1])  # what becomes of the rest
            table["not_shown"] = len(hosts) - MAX_HOSTS - 1
        before = {"rules": len(config.rules), "allow": len(config.allow)}
        if any(before.values()):
            table["asked_before"] = before
        tables.append(table)
    return tables


def _address(listener: Json) -> Json:
    return {"socket_address": {"address": listener["address"], "port_value": listener["port"]}}


def _only_name(listener: Json) -> Json:
    return {"name": listener["name"], "label": listener["label"]}


def _of_listeners(config: Config) -> Iterator[tuple[str, int]]:
    for listener in config.listeners:
        yield from _of_listener(listener)


def _of_listener(listener: Listener) -> list[tuple[str, int]]:
    """Kind and port of what its clients ask for, by default. `service_port` takes the place of the first."""
    places = _DEFAULT_PORTS.get(listener.protocol, ())
    return [
        (kind, (listener.service_port or port) if number == 0 else port) for number, (kind, port) in enumerate(places)
    ]


def _of_services(config: Config) -> Iterator[tuple[str, int]]:
    for service in config.services:
        for port in service.ports:
            yield _HTTP if port.protocol == "HTTP" else _TLS, port.number


class _ByPlace:
    """Services and routes by the tables that they stand in, so that each is looked at once for each of its own.

    services  by name
    """

    def __init__(self, config: Config) -> None:
        self.services = {service.label: service for service in reversed(config.services)}
        self._config = config
        self._known: dict[tuple[str, int], dict[int, Service]] = {}
        for position, service in enumerate(config.services):
            for port in service.ports:
                place = (_HTTP if port.protocol == "HTTP" else _TLS, port.number)
                self._known.setdefault(place, {})[position] = service
        self._routes_on: dict[int, list[int]] = {}
        self._routes_elsewhere: list[int] = []
        for position, route in enumerate(config.routes):
            if route.ports is not None and all(low == high for low, high in route.ports):
                for number, _ in dict.fromkeys(route.ports):
                    self._routes_on.setdefault(number, []).append(position)
            else:
                self._routes_elsewhere.append(position)

    def known(self, kind: str, port: int) -> Collection[Service]:
        """The services in a table, in order."""
        return self._known.get((kind, port), {}).values()

    def routes(self, port: int) -> Iterator[Route]:
        """Those that may be for a port, in order."""
        for position in merge(self._routes_on.get(port, ()), self._routes_elsewhere):
            yield self._config.routes[position]


def _virtual_hosts(config: Config, by_place: _ByPlace, kind: str, port: int) -> Iterator[Json]:
    """Those that routes name, those of services, and last what becomes of all others."""
    services = by_place.services
    labels = _labels(config, kind, port)
    rest: list[Json] = []
    by_domains: dict[tuple[str, ...], list[Json]] = {}
    for route in by_place.routes(port):
        conditions = _conditions(route, kind, port, labels)
        if conditions is None:
            continue
        domains = _domains(route.hosts, port)
        entry = _route_entry(route, conditions, services, kind, port)
        if domains == (_EVERYWHERE,):
            rest.append(entry)
        else:
            by_domains.setdefault(domains, []).append(entry)
    for service in by_place.known(kind, port):
        addresses = map(str, service.addresses[:MAX_DOMAINS])
        known_by = (*_domains(service.hosts, port), *service.aliases, *addresses)[:MAX_DOMAINS]
        entries = by_domains.setdefault(known_by, []) if known_by else []  # without, only routes lead there
        if not any(map(_takes_all, entries)):
            entries.append(_service_entry(service, kind, port))
    for domains, entries in by_domains.items():
        yield {"name": f"{domains[0]}:{port}", "domains": list(domains), "routes": entries}
    yield _of_the_rest(config, rest, kind, port)


def _service_entry(service: Service, kind: str, port: int) -> Json:
    entry: Json = {"match": dict(_ALL), "route": {"cluster": _cluster(service, None, kind, port)}}
    if service.timeout_s is not None:
        entry["route"]["timeout"] = f"{service.timeout_s:g}s"
    return entry


def _takes_all(entry: Json) -> bool:
    """What comes behind it in its virtual host is never asked."""
    return "conditions" not in entry and entry["match"] == _ALL


def _of_the_rest(config: Config, routes: Sequence[Json], kind: str, port: int) -> Json:
    """What becomes of hosts that nothing names."""
    last: Json
    if config.outbound == "allow_any" or config.report:
        name, last = "allow_any", {"route": {"cluster": PASSTHROUGH}}
    elif kind == _HTTP:
        name, last = f"blackhole:{port}", {"direct_response": {"status": 502}}
    else:
        name, last = f"blackhole:{port}", {"route": {"cluster": BLACK_HOLE}}
    entries = list(routes)
    decided = next(filter(_takes_all, entries), None)
    if decided is None:
        entries.append({"match": dict(_ALL), **last})
    elif "direct_response" in decided:
        name = f"blackhole:{port}"
    else:
        name = f"{_EVERYWHERE}:{port}"
    return {"name": name, "domains": [_EVERYWHERE], "routes": entries}


def _domains(hosts: Sequence[HostPattern] | None, port: int) -> tuple[str, ...]:
    """What Envoy compares the Host field with; None: any."""
    if hosts is None or any(each.kind == "any" for each in hosts):
        return (_EVERYWHERE,)
    return tuple(form for each in hosts[:MAX_DOMAINS] for form in (str(each), f"{each}:{port}"))


def _takes(ports: Sequence[PortRange] | None, port: int) -> bool:
    return ports is None or any(low <= port <= high for low, high in ports)


def _labels(config: Config, kind: str, port: int) -> frozenset[str]:
    """The listeners by which clients may come that ask for this."""
    return frozenset(
        listener.label
        for listener in config.listeners
        if listener.protocol in ("http-proxy", "tcp") or (kind, port) in _of_listener(listener)
    )


def _conditions(route: Route, kind: str, port: int, labels: frozenset[str]) -> list[str] | None:
    """What a route asks that its table does not say, in words; None where nothing of this table is sent by it."""
    if route.carries is not None and (route.carries == "requests") != (kind == _HTTP):
        return None
    if not _takes(route.ports, port):
        return None
    told = []
    for key in CONDITIONS:
        value = getattr(route, key)
        if value is None or key in _EXPRESSED:
            continue
        if key == "listeners":
            if not labels & frozenset(value):
                return None
            if labels <= frozenset(value):
                continue
            told.append(f"listeners: {', '.join(value[:MAX_DOMAINS])}")
        elif key == "none":
            if any(each.model_fields_set == {"ports"} and _takes(each.ports, port) for each in value):
                return None
            # Hosts that have routes of their own are left out: their virtual hosts go before this one.
            if any(each.model_fields_set - {"hosts", "ports"} for each in value):
                told.append(key)
        else:
            told.append(key)
    return told


def _route_entry(route: Route, conditions: list[str], services: Mapping[str, Service], kind: str, port: int) -> Json:
    entry: Json = {} if route.name is None else {"name": route.name}
    entry["match"] = dict(_ALL) if route.paths is None else {"paths": list(route.paths[:MAX_DOMAINS])}
    if conditions:
        entry["conditions"] = conditions
    if route.refuse is not None:
        status = _REFUSED[route.refuse]
        if kind == _HTTP and status is not None:
            entry["direct_response"] = {"status": status}
        else:
            entry["route"] = {"cluster": BLACK_HOLE}
        return entry
    weighted = [
        {"name": _cluster(services[one.service], one.port, kind, port), "weight": one.weight}
        for one in route.to[:MAX_DOMAINS]
    ]
    entry["route"] = (
        {"cluster": weighted[0]["name"]} if len(route.to) == 1 else {"weighted_clusters": {"clusters": weighted}}
    )
    if route.timeout_s is not None:
        entry["route"]["timeout"] = f"{route.timeout_s:g}s"
    return entry


def _cluster(service: Service, number: int | None, kind: str, port: int) -> str:
    """The cluster as logs call it: where the proxy speaks TLS, by the port that it dials, else by the one asked for."""
    secured = kind == _HTTP and service.tls is not None and service.tls.mode != "disable"
    ports = {each.number: each.target_port or each.number for each in service.ports}
    only = service.ports[0].number if len(ports) == 1 else port
    asked = number or (port if port in ports else only)
    return cluster_name(None, service.label, ports.get(asked, asked) if secured else port, "")
