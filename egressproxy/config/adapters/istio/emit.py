"""The native form of a mesh: listeners, routes, services and what else concerns the whole, each with the line it comes from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from egressproxy.config.adapters.adapter import At
from egressproxy.config.adapters.istio.mesh import Cluster, Refusal
from egressproxy.config.adapters.istio.objects import is_loopback, wider
from egressproxy.config.adapters.istio.routes import HTTP_PORT

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Mapping, Sequence

    from egressproxy.config.adapters.istio.fields import Report
    from egressproxy.config.adapters.istio.mesh import End, Mesh
    from egressproxy.config.adapters.istio.objects import Gateway, Port, Service
    from egressproxy.config.adapters.istio.routes import Carries, Leg, Routes
    from egressproxy.hostport import HostPattern

TLS_PORT = 443
PROXY_PORT = 3128

# Where an egress gateway listens: the ports behind 80 and 443 of its Service.
HTTP_LISTENER = 8080
TLS_LISTENER = 8443


def listeners(gateways: Sequence[Gateway], behind: Mapping[int, int], report: Report) -> list[dict[str, Any]]:
    """The listeners of an egress gateway, and one for clients that know their proxy.

    behind  the ports that the gateway's pods have behind those of its Service, where a file tells them

    A Gateway may serve plain HTTP on a port where others expect TLS. Then that port takes no TLS: one of Envoy's listeners has
    one kind of filter chains.
    """
    found = {
        HTTP_PORT: _listener("gateway-http", "http", HTTP_LISTENER, HTTP_PORT),
        TLS_PORT: _listener("gateway-tls", "sni", TLS_LISTENER, TLS_PORT),
    }
    taken = {HTTP_LISTENER: HTTP_PORT, TLS_LISTENER: TLS_PORT, PROXY_PORT: 0}
    decided: dict[int, str] = {}
    for server in (one for gateway in gateways for one in gateway.servers):
        number = server.port
        protocol = {("http", "NONE"): "http", ("tls", "PASSTHROUGH"): "sni"}.get((server.routes, server.mode))
        if protocol is None:
            continue
        if decided.setdefault(number, protocol) != protocol:
            message = f"port {number} cannot serve TLS and plain HTTP at once: this server is not listened for"
            report.note(server.mark, (), message)
        elif number in found:
            found[number]["protocol"] = protocol
        elif taken.setdefault(behind.get(number, number), number) != number:
            report.note(server.mark, (), f"no listener: port {behind.get(number, number)} is that of another")
        else:
            found[number] = _listener(f"gateway-{number}", protocol, behind.get(number, number), number)
    return [*found.values(), {"name": "proxy", "protocol": "http-proxy", "port": PROXY_PORT}]


def _listener(name: str, protocol: str, port: int, service_port: int) -> dict[str, Any]:
    return {"name": name, "protocol": protocol, "port": port, "service_port": service_port}


def own_sni(listeners: Iterable[Any], address: str, port: int) -> int | None:
    """The port that a listener dials which takes TLS by its name at an address; None: there is none.

    The listeners are native data that nobody has validated yet.
    """
    for each in listeners:
        if not isinstance(each, dict) or each.get("port") != port or each.get("protocol") not in ("sni", "auto"):
            continue
        bound = each.get("address", "0.0.0.0")  # noqa: S104 - compared with
        if bound == address or (bound in ("0.0.0.0", "::") and is_loopback(address)):  # noqa: S104
            dialled = each.get("service_port", TLS_PORT)
            return dialled if isinstance(dialled, int) else TLS_PORT
    return None


# --- routes -------------------------------------------------------------------------------------------------------


_BOTH: tuple[Carries, ...] = ("requests", "tunnels")


class NativeRoutes:
    """Native routes in the order of decision, made of legs and of what the mesh does with the rest."""

    def __init__(
        self, mesh: Mesh, routes: Routes, beside: Sequence[tuple[str, int]], *, closed: bool, mark: int
    ) -> None:
        """What they are made of.

        beside  hosts and ports of services that native settings register
        closed  what nobody registers is refused
        mark    the place of what stands on no line of its own
        """
        self._mesh = mesh
        self._seen = mesh.seen()
        self._beside = beside
        self._mark = mark
        self.native: list[At] = []
        of_clients: dict[Carries, list[Leg]] = {
            "requests": routes.requests_of_clients(),
            "tunnels": routes.tunnels_of_clients(),
        }
        at_gateways: dict[Carries, list[Leg]] = {
            "requests": routes.requests_at_gateways(),
            "tunnels": routes.tunnels_at_gateways(),
        }
        for carries in _BOTH:
            self._add(of_clients[carries], carries)
        for carries in _BOTH:
            taken = {(leg.host, leg.port) for leg in of_clients[carries]}
            self._add(
                (leg for leg in at_gateways[carries] if not _is_taken(leg, taken)), carries, spare_registered=True
            )
        self._lead_by_address()
        self._refuse_what_is_not_parsed()
        for host in routes.gateway_services():
            self.native.append(
                At(mark, {"name": "gateway-by-its-own-name", "hosts": mesh.names_of(host), "refuse": "not_found"})
            )
        if closed:
            servers = [server for each in routes.gateways for server in each.servers]
            self._refuse_unknown_requests({one.port for one in servers if (one.routes, one.mode) == ("http", "NONE")})

    def _add(self, legs: Iterable[Leg], carries: Carries, *, spare_registered: bool = False) -> None:
        """Legs as routes; neighbours that differ in their host alone share one."""
        groups: list[tuple[Leg, list[str]]] = []
        for leg in legs:
            names = [] if leg.host.kind == "any" else self._mesh.names_of(leg.host)
            last = groups[-1] if groups else None
            if last is not None and names and last[1] and _same(last[0], leg) and last[0].host.kind == leg.host.kind:
                last[1].extend(names)
            else:
                groups.append((leg, names))
        for leg, names in groups:
            self.native.append(self._route(leg, names, carries, spare_registered=spare_registered))

    def _route(self, leg: Leg, names: list[str], carries: Carries, *, spare_registered: bool) -> At:
        native: dict[str, Any] = {"name": leg.name} if leg.name else {}
        native["carries"] = carries
        if names:
            native["hosts"] = names
        native["ports"] = [leg.port]
        conditions = [dict(each) for each in leg.conditions]
        spared = self._registered(carries, leg.port) if spare_registered and _is_remainder(leg) else []
        if spared:
            conditions.append({"none": [{"hosts": spared}]})
        if len(conditions) == 1:
            native |= conditions[0]
        elif conditions:
            native["all"] = conditions
        native |= _ends(leg.ends)
        if leg.timeout_s is not None:
            native["timeout_s"] = leg.timeout_s
        return At(leg.mark, native)

    # --- the rest

    def _lead_by_address(self) -> None:
        """Requests that name a service of HTTP by its address."""
        for service, port in self._seen:
            literals = [address for address in service.addresses if "/" not in address]
            end = self._mesh.register(service, port) if literals and port.spoken == "HTTP" else None
            if end is not None:
                native = {"carries": "requests", "hosts": literals, "ports": [port.number], **_ends([(1, end)])}
                self.native.append(At(port.mark, {"name": "service-by-address", **native}))

    def _registered(self, carries: Carries | None, number: int) -> list[str]:
        """Hosts that somebody registers on a port: those that carry requests, or tunnels."""
        refused = {"requests": "TLS", "tunnels": "HTTP"}.get(carries or "")
        names = [
            name
            for service, port in self._seen
            if port.number == number and port.spoken != refused
            for name in self._mesh.names_of(service.host)
        ]
        return list(dict.fromkeys([*names, *(host for host, port in self._beside if port == number)]))

    def _refuse_what_is_not_parsed(self) -> None:
        """A port that is declared HTTP parses HTTP, whatever comes: TLS, and what is inside a tunnel, does not pass."""
        by_port: dict[int, list[tuple[Service, Port]]] = {}
        for service, port in self._seen:
            if port.spoken == "HTTP":
                by_port.setdefault(port.number, []).append((service, port))
        for number, found in by_port.items():
            names = [name for service, _ in found for name in self._mesh.names_of(service.host)]
            native = {"carries": "tunnels", "hosts": names, "ports": [number], "refuse": "close"}
            self.native.append(At(found[0][1].mark, {"name": "tunnels-to-http", **native}))

    def _refuse_unknown_requests(self, at_gateways: set[int]) -> None:
        """What a mesh with REGISTRY_ONLY does with requests for which nobody registers the host or the port.

        On a port of a gateway a host that it does not know is not found; on a port without any HTTP service nothing parses
        requests, so that they are closed and not answered.
        """
        for number in sorted(at_gateways):
            known = self._registered("requests", number)
            # Without a name: it is shown in route tables, where Istio has none for it.
            native: dict[str, Any] = {"carries": "requests", "ports": [number]}
            if known:
                native["none"] = [{"hosts": known}]
            self.native.append(At(self._mark, {**native, "refuse": "not_found"}))
        parsed = {HTTP_PORT, *at_gateways, *(port for _, port in self._beside)}
        parsed |= {port.number for _, port in self._seen if port.spoken in ("HTTP", "ANY")}
        spared: list[dict[str, Any]] = [{"ports": sorted(parsed)}]
        spared += [
            _named(service, port) for service, port in self._seen if port.spoken == "TCP" and port.number not in parsed
        ]
        native = {"name": "unregistered-requests", "carries": "requests", "none": spared, "refuse": "close"}
        self.native.append(At(self._mark, native))
        for number in sorted(parsed):
            found = [(service, port) for service, port in self._seen if port.spoken == "TLS" and port.number == number]
            names = [name for service, _ in found for name in self._mesh.names_of(service.host)]
            if names:
                native = {"carries": "requests", "hosts": names, "ports": [number], "refuse": "close"}
                self.native.append(At(found[0][1].mark, {"name": "requests-to-tls", **native}))


def _named(service: Service, port: Port) -> dict[str, Any]:
    """A service of TCP, which carries whatever comes, as a condition."""
    if any("/" in address for address in service.addresses):
        return {"ports": [port.number]}
    return {"hosts": [str(service.host), *service.aliases, *service.addresses], "ports": [port.number]}


def _same(one: Leg, other: Leg) -> bool:
    """Whether two legs ask and lead the same, but for their host."""
    return (one.port, one.conditions, one.ends, one.timeout_s, one.name) == (
        other.port,
        other.conditions,
        other.ends,
        other.timeout_s,
        other.name,
    )


def _is_taken(leg: Leg, taken: Container[tuple[HostPattern, int]]) -> bool:
    """Whether the mesh decides all that a leg is for: its legs of a pattern leave nothing open."""
    return any((host, leg.port) in taken for host in wider(leg.host))


def _is_remainder(leg: Leg) -> bool:
    """Whether a leg refuses what is left of a wildcard."""
    return leg.host.kind != "exact" and all(isinstance(end, Refusal) for _, end in leg.ends)


def _ends(ends: Sequence[tuple[int, End]]) -> dict[str, Any]:
    """The ends of a leg: one refusal, or clusters."""
    clusters: dict[Cluster, int] = {}
    for weight, end in ends:
        if isinstance(end, Refusal):
            return {"refuse": end.word}
        clusters[end] = clusters.get(end, 0) + weight
    to: list[Mapping[str, Any]] = [
        {"service": one.name, "port": one.port, **({"weight": weight} if len(clusters) > 1 else {})}
        for one, weight in clusters.items()
    ]
    return {"to": to}
