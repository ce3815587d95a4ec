"""Where requests and tunnels go: the routes of the mesh, and those of the gateways, the two hops followed to their end.

Each `Leg` says for one host pattern on one port which end there is. The legs of a pattern are whole: what its routes leave
open is refused at their end, as Envoy's virtual hosts do, so that it falls through to nothing wider. More specific patterns
come before wider ones.

From `istio.io/docs/reference/config/networking` and the sidecar and gateway listeners of Istio 1.7: a `tls` route counts only
where a registered TLS service with an overlapping host has the port; an `http` route for a host that has no service on the
port counts on port 80 alone; conditions see the port that the client dialled, at a gateway that of its Server.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Any, Literal

from egressproxy.config.adapters.istio.kubernetes import name_of, pods_of
from egressproxy.config.adapters.istio.mesh import CLIENTS, Refusal, View, by_depth, exported
from egressproxy.config.adapters.istio.objects import MESH, ByHost, covers, meet, wider
from egressproxy.hostport import ANY_HOST, HostPattern

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from egressproxy.config.adapters.istio.fields import Report
    from egressproxy.config.adapters.istio.mesh import End, Mesh
    from egressproxy.config.adapters.istio.objects import (
        Destination,
        Gateway,
        Match,
        Port,
        Route,
        Server,
        Service,
        VirtualService,
    )

Carries = Literal["requests", "tunnels"]

HTTP_PORT = 80

# Ports of an egress gateway's Service, and those behind them, where the Service is not among the files.
_GATEWAY_PORTS = {80: 8080, 443: 8443, 15443: 15443}

_UNCLEAR_PATH = "unclear-path"
_NOT_FOUND = Refusal("not_found")
_CLOSE = Refusal("close")
_UNAVAILABLE = Refusal("unavailable")


@dataclass(frozen=True, slots=True, kw_only=True)
class Leg:
    """One route.

    host, port  what was asked for
    conditions  what else must hold, in native words
    ends        where it leads, each with its weight
    """

    host: HostPattern
    port: int
    conditions: tuple[Mapping[str, Any], ...] = ()
    ends: tuple[tuple[int, End], ...]
    timeout_s: float | None = None
    name: str = ""
    mark: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Door:
    """The Service of an egress gateway.

    view   how the objects look from its proxies
    pods   labels of these
    ports  number of the Service to the port behind it
    """

    host: HostPattern
    view: View
    pods: Mapping[str, str]
    ports: Mapping[int, int]


_Opened = tuple["Gateway", "Server"]


class Routes:
    """All VirtualServices and Gateways, and what they come to."""

    def __init__(
        self,
        mesh: Mesh,
        virtual_services: Sequence[VirtualService],
        gateways: Sequence[Gateway],
        described: Mapping[str, Mapping[str, str]],
        report: Report,
        *,
        root_namespace: str,
        forwards_sni: bool,
    ) -> None:
        """What there is.

        described     labels of gateways that the installer's files describe, by name
        forwards_sni  the server name that a client asks for is that of the TLS between mesh and gateway, too
        """
        self._mesh = mesh
        self._report = report
        self._virtual_services = sorted(virtual_services, key=lambda one: one.seniority)
        self.gateways = sorted(gateways, key=lambda one: one.seniority)
        self._root = root_namespace
        self._forwards_sni = forwards_sni
        self._doors = {
            one.host: _Door(
                host=one.host,
                view=View(one.namespace, True),
                pods=one.selector,
                ports=one.behind,
            )
            for one in mesh.services
            if one.selector and any(gateway.selector.items() <= one.selector.items() for gateway in gateways)
        }
        self._described = described
        mesh.set_gateways(self._doors)
        self._say_unused_gateways()

    # --- the mesh

    def requests_of_clients(self) -> list[Leg]:
        """What sidecars do with plain requests."""
        parsed = [(one.host, (one, port)) for one, port in self._mesh.seen() if port.spoken in ("HTTP", "ANY")]
        seen = ByHost(parsed)
        claims: dict[tuple[HostPattern, int], list[Leg]] = {}
        wholes = sorted(self._in_mesh("http"), key=lambda pair: by_depth(pair[1]))  # stable: the oldest first
        for one, host in wholes:
            for pattern, port in _attached(host, seen):
                if (pattern, port) in claims:
                    self._report.note(one.mark, (), f"{pattern} port {port} has routes of an older VirtualService")
                    continue
                legs = self._http_legs([one], MESH, pattern, port, CLIENTS)
                if legs:
                    claims[pattern, port] = _covering(legs, pattern, port, _NOT_FOUND)
        return [leg for pair in sorted(claims, key=lambda pair: by_depth(pair[0])) for leg in claims[pair]]

    def tunnels_of_clients(self) -> list[Leg]:
        """What sidecars do with TLS, by its server name, and with TCP."""
        by_tls = ByHost((host, one) for one, host in self._in_mesh("tls"))
        by_tcp = ByHost((host, one) for one, host in self._in_mesh("tcp"))
        found: dict[tuple[HostPattern, int], list[Leg]] = {}
        remainders: list[Leg] = []
        for service, port in self._mesh.seen():
            number = port.number
            if port.spoken in ("TLS", "ANY"):
                legs = self._tls_legs(
                    list(dict.fromkeys(by_tls.meeting(service.host))), MESH, ANY_HOST, number, CLIENTS
                )
                for leg in legs:
                    found.setdefault((leg.host, number), [leg])
                if legs:
                    remainders.append(_refusing(service.host, number, _CLOSE, legs[-1].mark))
            if port.spoken in ("TCP", "ANY"):
                for host in (service.host, *_literals(service)):
                    if (host, number) not in found and (
                        legs := self._tcp_legs(by_tcp.covering(service.host), host, number)
                    ):
                        found[host, number] = legs
        pairs = sorted(found, key=lambda pair: by_depth(pair[0]))
        remainders = [leg for leg in remainders if not any((host, leg.port) in found for host in wider(leg.host))]
        remainders.sort(key=lambda leg: by_depth(leg.host))
        return [leg for pair in pairs for leg in found[pair]] + remainders

    def _in_mesh(self, kind: Literal["http", "tls", "tcp"]) -> list[tuple[VirtualService, HostPattern]]:
        return [
            (one, host)
            for one in self._virtual_services
            if MESH in one.gateways and getattr(one, kind)
            for host in one.hosts
            if self._mesh.shows(one.export_to, one.namespace, host, CLIENTS)
        ]

    def _tcp_legs(self, rules_of: Sequence[VirtualService], host: HostPattern, port: int) -> list[Leg]:
        """The first tcp route that fits."""
        for one in rules_of:
            for route, _ in _fitting(one.tcp, one, MESH, port):
                return self._followed(route, host, port, CLIENTS, "tunnels")
        return []

    def gateway_services(self) -> list[HostPattern]:
        """Services of gateways: who asks for one by its own name meets a gateway that knows no such host."""
        return list(self._doors)

    def gateway_namespaces(self) -> set[str]:
        """Where the gateways' proxies are, through whose eyes their objects are seen."""
        found = {door.view.namespace for door in self._doors.values()}
        return found or ({self._root} if self.gateways else set())

    # --- the gateways, as who comes to them by themselves meets them

    def requests_at_gateways(self) -> list[Leg]:
        """What gateways do with plain requests on ports that serve plain HTTP."""
        return [
            leg
            for port, opened in self._open_ports("http", "NONE").items()
            for leg in self._at_http(opened, ANY_HOST, port, self._view_of(opened))
        ]

    def tunnels_at_gateways(self) -> list[Leg]:
        """What gateways do with TLS that they pass through."""
        return [
            leg
            for port, opened in self._open_ports("tls", "PASSTHROUGH").items()
            for leg in self._at_tls(opened, ANY_HOST, port, self._view_of(opened))
        ]

    def _open_ports(self, routes: str, mode: str) -> dict[int, list[_Opened]]:
        found: dict[int, list[_Opened]] = {}
        for gateway in self.gateways:
            for server in gateway.servers:
                if server.routes == routes and server.mode == mode:
                    found.setdefault(server.port, []).append((gateway, server))
        return found

    def _view_of(self, opened: Sequence[_Opened]) -> View:
        """Through the eyes of the gateway's own pods, where their Service is known."""
        labels = opened[0][0].selector
        doors = (door for door in self._doors.values() if labels.items() <= door.pods.items())
        return next((door.view for door in doors), View(self._root, True))

    def _say_unused_gateways(self) -> None:
        for gateway in self.gateways:
            for server in gateway.servers:
                if server.mode not in ("NONE", "PASSTHROUGH"):
                    self._report.note(
                        server.mark,
                        (),
                        f"TLS between mesh and gateway ({server.mode}) is not spoken: both are this process; who comes to the "
                        "gateway from outside the mesh is not served on this port",
                    )
                elif server.routes == "tcp":
                    self._report.note(server.mark, (), "reached by routes only: TCP names no host by itself")

    # --- rules

    def _http_legs(
        self, rules_of: Sequence[VirtualService], at: str, pattern: HostPattern, port: int, view: View
    ) -> list[Leg]:
        """The http routes of VirtualServices that share a host, in order; of several those that always match come last."""
        legs: list[Leg] = []
        last: list[Leg] = []
        for one in rules_of:
            for route, match in _fitting(one.http, one, at, port):
                followed = self._followed(route, pattern, port, view, "requests")
                if match.conditions:
                    legs += [replace(leg, conditions=(*match.conditions, *leg.conditions)) for leg in followed]
                    if followed and match.asks_path:
                        legs.append(_unclear(match, pattern, port))
                else:
                    last = last or followed
                    break
        return legs + last

    def _tls_legs(
        self, rules_of: Sequence[VirtualService], at: str, pattern: HostPattern, port: int, view: View
    ) -> list[Leg]:
        """The tls routes of VirtualServices, the most specific server name first."""
        found: dict[HostPattern, list[Leg]] = {}
        for one in rules_of:
            for route, match in _fitting(one.tls, one, at, port):
                for sni in match.sni_hosts:
                    host = meet(sni, pattern)
                    if host is not None and host not in found:
                        found[host] = self._followed(route, host, port, view, "tunnels")
        return [leg for host in sorted(found, key=by_depth) for leg in found[host]]

    def _followed(self, route: Route, pattern: HostPattern, port: int, view: View, carries: Carries) -> list[Leg]:
        """A route with all its destinations followed to their ends."""
        ways = [(to.weight, self._destination(to, pattern, port, view, carries)) for to in route.to]
        if not ways:
            return []
        legs = ways[0][1] if len(ways) == 1 else self._blended(route, ways, pattern, port)
        return [
            replace(leg, port=port, timeout_s=_sooner(route.timeout_s, leg.timeout_s), name=route.name or leg.name)
            for leg in legs
        ]

    def _blended(
        self, route: Route, ways: Sequence[tuple[int, list[Leg]]], pattern: HostPattern, port: int
    ) -> list[Leg]:
        """Several destinations as one leg with weights. What can share no leg is a fault."""
        ends: list[tuple[int, End]] = []
        totals = [sum(weight for weight, _ in legs[0].ends) for _, legs in ways]
        refusals = [isinstance(end, Refusal) for _, legs in ways for _, end in legs[0].ends]
        if all(refusals):
            return ways[0][1]
        if any(refusals) or any(len(legs) > 1 or legs[0].conditions or legs[0].host != pattern for _, legs in ways):
            self._report.fault(
                route.mark,
                (),
                "shares between destinations of which one leads nowhere, or is told further by conditions, are not done here; "
                "see the notes of this file, or write one destination",
            )
            return ways[0][1]
        for place, (weight, legs) in enumerate(ways):
            others = prod(total for other, total in enumerate(totals) if other != place)
            ends += [(weight * share * others, end) for share, end in legs[0].ends]
        timeout_s = None
        for _, legs in ways:
            timeout_s = _sooner(timeout_s, legs[0].timeout_s)
        return [Leg(host=pattern, port=port, ends=tuple(ends), timeout_s=timeout_s, mark=route.mark)]

    def _destination(self, to: Destination, pattern: HostPattern, port: int, view: View, carries: Carries) -> list[Leg]:
        door = self._door(to.host)
        if door is None:
            end = self._mesh.end(to, pattern, port, view)
            return [Leg(host=pattern, port=port, ends=((1, end),), mark=to.mark)]
        if view.at_gateway:
            return [self._nowhere(pattern, port, to, "a gateway's route leads to a gateway")]
        return self._through(door, to, pattern, port, carries)

    def _nowhere(self, pattern: HostPattern, port: int, to: Destination, why: str) -> Leg:
        self._report.note(to.mark, (), f"{why}: requests get 503, tunnels are closed")
        return _refusing(pattern, port, _UNAVAILABLE, to.mark)

    # --- from the mesh through a gateway

    def _door(self, host: HostPattern) -> _Door | None:
        """The gateway whose Service this host is; None: it is none."""
        if host in self._doors:
            return self._doors[host] if self._mesh.find(host, CLIENTS) is not None else None
        known = name_of(host)
        if known is None or self._mesh.is_known(host):
            return None
        name, namespace = known
        if not self._mesh.shows((), namespace, host, CLIENTS):
            return None
        pods = {**pods_of(name), **self._described.get(name, {})}
        if not any(gateway.selector.items() <= pods.items() for gateway in self.gateways) and "gateway" not in name:
            return None
        return _Door(host=host, view=View(namespace, True), pods=pods, ports=_GATEWAY_PORTS)

    def _through(self, door: _Door, to: Destination, pattern: HostPattern, port: int, carries: Carries) -> list[Leg]:
        """What the routes of a gateway make of what the mesh sends there."""
        number = to.port or (next(iter(door.ports)) if len(door.ports) == 1 else port)
        policy = self._mesh.policy_for(door.host, number, to.subset, CLIENTS)
        if policy is None:
            why = f"no DestinationRule that is seen here defines subset {to.subset} of {door.host}"
            return [self._nowhere(pattern, port, to, why)]
        secured = policy.tls is not None and policy.tls.mode != "DISABLE"
        sni: HostPattern | None = None  # that of the TLS between mesh and gateway
        if policy.tls is not None and secured:
            sni = HostPattern("exact", policy.tls.sni or f"outbound_.{number}_.{to.subset}_.{door.host}")
            if policy.tls.sni is None and self._forwards_sni and carries == "tunnels":
                sni = pattern
            self._report.note(
                policy.tls.mark,
                ("tls",),
                f"{policy.tls.mode} to the gateway is not spoken: the hop is inside this process",
            )
        numbers = {number, door.ports.get(number, number)}
        opened = [
            (gateway, server)
            for gateway in self.gateways
            if gateway.selector.items() <= door.pods.items()
            for server in gateway.servers
            if server.port in numbers
        ]
        if not opened:
            return [self._nowhere(pattern, port, to, f"no Gateway opens port {number} of {door.host}")]
        if sni is None:
            fitting = [each for each in opened if each[1].mode in ("NONE", "PASSTHROUGH")]
        else:
            fitting = [
                each
                for each in opened
                if each[1].mode not in ("NONE", "PASSTHROUGH") and any(meet(host, sni) for _, host in each[1].hosts)
            ]
        legs = self._inside(fitting, pattern, opened[0][1].port, door.view, carries) if fitting else []
        if not legs:
            word = "TLS with the server name " + str(sni) if sni is not None else "no TLS of the mesh"
            why = f"what the mesh sends to port {number} of {door.host} ({carries}, {word}) fits no server of a Gateway"
            return [self._nowhere(pattern, port, to, why)]
        remainder = _NOT_FOUND if carries == "requests" else _CLOSE
        return _covering(legs, pattern, opened[0][1].port, remainder)

    def _inside(
        self, opened: Sequence[_Opened], pattern: HostPattern, port: int, view: View, carries: Carries
    ) -> list[Leg]:
        """The legs of those servers that take what is carried."""
        by_routes: dict[str, list[_Opened]] = {}
        for each in opened:
            by_routes.setdefault(each[1].routes, []).append(each)
        if carries == "requests" and "http" in by_routes:
            return self._at_http(by_routes["http"], pattern, port, view)
        if carries == "tunnels" and "tls" in by_routes:
            return self._at_tls(by_routes["tls"], pattern, port, view)
        return self._at_tcp(by_routes["tcp"], pattern, port, view, carries) if "tcp" in by_routes else []

    # --- at a gateway

    def _at_http(self, opened: Sequence[_Opened], pattern: HostPattern, port: int, view: View) -> list[Leg]:
        """Virtual hosts of a gateway's port. What a server names and no route takes is not found."""
        hosts: dict[HostPattern, list[tuple[str, VirtualService]]] = {}
        marks: dict[HostPattern, int] = {}
        for gateway, server in opened:
            for namespace, host in server.hosts:
                named = meet(host, pattern)
                if named is None:
                    continue
                marks.setdefault(named, server.mark)
                for one in self._bound(gateway, namespace, view):
                    for its in one.hosts:
                        common = meet(its, named) if one.http else None
                        if common is not None and (gateway.full_name, one) not in hosts.setdefault(common, []):
                            hosts[common].append((gateway.full_name, one))
        legs: list[Leg] = []
        for host in sorted({*hosts, *marks}, key=by_depth):
            found: list[Leg] = []
            for at in dict.fromkeys(at for at, _ in hosts.get(host, ())):
                rules_of = [one for name, one in hosts[host] if name == at]
                found += self._http_legs(rules_of, at, host, port, view)
            mark = marks.get(host, opened[0][1].mark)
            legs += _covering(found or [_refusing(host, port, _NOT_FOUND, mark)], host, port, _NOT_FOUND)
        return legs

    def _at_tls(self, opened: Sequence[_Opened], pattern: HostPattern, port: int, view: View) -> list[Leg]:
        """Server names of a gateway's port that passes TLS through."""
        found: dict[HostPattern, list[Leg]] = {}
        for gateway, server in opened:
            for namespace, host in server.hosts:
                named = meet(host, pattern)
                if named is None:
                    continue
                rules_of = self._bound(gateway, namespace, view)
                for leg in self._tls_legs(rules_of, gateway.full_name, named, port, view):
                    found.setdefault(leg.host, [leg])
                found.setdefault(named, [_refusing(named, port, _CLOSE, server.mark)])
        return [leg for host in sorted(found, key=by_depth) for leg in found[host]]

    def _at_tcp(
        self, opened: Sequence[_Opened], pattern: HostPattern, port: int, view: View, carries: Carries
    ) -> list[Leg]:
        """A gateway's port behind whose TLS, or without any, nothing is looked at: the first route takes all."""
        found: dict[HostPattern, list[Leg]] = {}
        for gateway, server in opened:
            for namespace, host in server.hosts:
                named = meet(host, pattern)
                for one in self._bound(gateway, namespace, view) if named is not None else ():
                    for its in one.hosts:
                        common = meet(its, named) if named is not None else None
                        if common is None or common in found:
                            continue
                        for route, _ in _fitting(one.tcp, one, gateway.full_name, port):
                            found[common] = self._followed(route, common, port, view, carries)
                            break
        return [leg for host in sorted(found, key=by_depth) for leg in found[host]]

    def _bound(self, gateway: Gateway, namespace: str, view: View) -> list[VirtualService]:
        """VirtualServices that a gateway takes for a host, the oldest first."""
        return [
            one
            for one in self._virtual_services
            if gateway.full_name in one.gateways
            and (namespace in ("*", one.namespace) or (namespace == "." and one.namespace == gateway.namespace))
            and exported(one.export_to, one.namespace, view.namespace)
        ]


# --- parts --------------------------------------------------------------------------------------------------------


def _fitting(routes: Sequence[Route], owner: VirtualService, at: str, port: int) -> Iterator[tuple[Route, Match]]:
    """The routes that count at a gateway or in the mesh, for a port, with the alternative that fits."""
    for route in routes:
        for match in route.matches:
            if at in owner.gateways and at in (match.gateways or (at,)) and match.port in (None, port):
                yield route, match


def _attached(host: HostPattern, parsed: ByHost[tuple[Service, Port]]) -> list[tuple[HostPattern, int]]:
    """Hosts and ports that the http routes for a host are attached to in the mesh.

    parsed  the services and ports where HTTP is spoken
    """
    fitting = parsed.exactly(host) if host.kind == "exact" else parsed.meeting(host)
    found = [(service.host if covers(host, service.host) else host, port.number) for service, port in fitting]
    if all(number != HTTP_PORT for _, number in found):
        found.append((host, HTTP_PORT))
    return list(dict.fromkeys(found))


def _literals(service: Service) -> list[HostPattern]:
    """Single addresses of a service, as hosts that may be asked for."""
    return [HostPattern("exact", address) for address in service.addresses if "/" not in address]


def _refusing(host: HostPattern, port: int, end: Refusal, mark: int) -> Leg:
    return Leg(host=host, port=port, ends=((1, end),), mark=mark)


def _unclear(match: Match, pattern: HostPattern, port: int) -> Leg:
    """The end of paths that fit a match in some of their readings: the server may take them for what it is not to get.

    They do not fall through to a wider route. It stands behind the legs of the match, which take what fits in all readings.
    """
    return Leg(
        host=pattern,
        port=port,
        conditions=match.conditions,
        ends=((1, _NOT_FOUND),),
        name=_UNCLEAR_PATH,
        mark=match.mark,
    )


def _covering(legs: list[Leg], pattern: HostPattern, port: int, remainder: Refusal) -> list[Leg]:
    """Legs of hosts that a pattern covers, and the end of what of the pattern they leave."""
    if any(not leg.conditions and covers(leg.host, pattern) for leg in legs):
        return legs
    while legs[-1].name == _UNCLEAR_PATH and legs[-1].host == pattern:  # the end of the rest is theirs, too
        legs = legs[:-1]
    return [*legs, _refusing(pattern, port, remainder, legs[-1].mark)]


def _sooner(one: float | None, other: float | None) -> float | None:
    """The shorter of two times; None is none."""
    if one is None or other is None:
        return other if one is None else one
    return min(one, other)
