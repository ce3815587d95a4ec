"""All Istio and Kubernetes files of one load, which speak of each other, to the native form.

The fate of every kind of object is written here: it is refused (`_REFUSED`), read (`_Objects`), or noted as without meaning.
"""

from __future__ import annotations

from bisect import bisect_right
from functools import partial
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from egressproxy.config.adapters.adapter import Adapted, At, settle
from egressproxy.config.adapters.istio import (
    destination_rule,
    emit,
    gateway,
    kinds,
    kubernetes,
    objects,
    service_entry,
    settings,
    virtual_service,
)
from egressproxy.config.adapters.istio.documents import things
from egressproxy.config.adapters.istio.fields import Report
from egressproxy.config.adapters.istio.kinds import ISTIO
from egressproxy.config.adapters.istio.mesh import Mesh, Refusal, Secrets, exported
from egressproxy.config.adapters.istio.objects import DEFAULT_NAMESPACE, VERSIONS, is_loopback
from egressproxy.config.adapters.istio.routes import Routes
from egressproxy.config.faults import shown
from egressproxy.config.native import mark, unmark
from egressproxy.hostport import parse_host_pattern

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from egressproxy.config.adapters.adapter import Files, Source
    from egressproxy.config.adapters.istio.documents import Thing
    from egressproxy.config.adapters.istio.objects import Sidecar
    from egressproxy.config.faults import Fault, Way

_NO_MEANING = "has no meaning for a proxy outside the mesh"
_KUSTOMIZE = "kustomize.config.k8s.io"
_NOT_KUSTOMIZED = "kustomize is not run: the files count as they are written; give what `kubectl kustomize` prints"

# Kinds that decide who may go where by means that are not followed here. Without them more would pass than their author wrote.
_REFUSED = {
    (
        "security.istio.io",
        "AuthorizationPolicy",
    ): "write rules in native settings instead, with clients, hosts and paths",
    ("security.istio.io", "RequestAuthentication"): "tokens are not checked here",
    ("extensions.istio.io", "WasmPlugin"): "code for Envoy is not run here",
    **{
        (
            "gateway.networking.k8s.io",
            kind,
        ): "routes of the Kubernetes Gateway API are not read; write Istio's own objects"
        for kind in ("Gateway", "HTTPRoute", "TLSRoute", "TCPRoute", "GRPCRoute")
    },
    **{
        ("rbac.istio.io", kind): "write rules in native settings instead, with clients, hosts and paths"
        for kind in ("RbacConfig", "ClusterRbacConfig", "ServiceRole", "ServiceRoleBinding")
    },
    (
        "config.istio.io",
        "rule",
    ): "what Mixer checks is not checked here; write rules in native settings, or leave it out",
}


def translate(
    sources: Sequence[Source],
    files: Files,
    *,
    lenient: bool,
    beside: Mapping[str, Any] | None = None,
) -> Adapted:
    """The native form of all Istio and Kubernetes files of one load.

    beside  native data of the other sources, not yet validated. Where they say no listeners, these are the egress gateway's.
    """
    report = Report(lenient=lenient, files={source.number: source.name for source in sources})
    first = mark(sources[0].number, 1)
    found = things(sources, report)
    native = _native(_Objects(found, report), beside or {}, first)
    data, places = settle(At(first, native))
    starts = [(thing.fields.places.mark, thing.fields.way) for thing in found]
    return Adapted(data, places, _with_objects(report.faults, starts), _with_objects(report.notes, starts))


def _with_objects(faults: Sequence[Fault], starts: Sequence[tuple[int, Way]]) -> list[Fault]:
    """Faults and notes that were found in what objects mean together, with the object that stands around their line."""
    starts = sorted(starts)
    named = []
    for fault in faults:
        at = bisect_right(starts, fault.mark, key=itemgetter(0)) - 1
        inside = not fault.path and at >= 0 and unmark(starts[at][0])[0] == unmark(fault.mark)[0]
        named.append(fault._replace(path=starts[at][1]) if inside else fault)
    return named


class _Objects:
    """The objects, sorted by what they are for."""

    def __init__(self, found: Sequence[Thing], report: Report) -> None:
        self.report = report
        self.settings = settings.Settings()
        self.entries: list[tuple[objects.Seniority, list[objects.Service]]] = []
        self.kubernetes: list[objects.Service] = []
        self.endpoints: list[kubernetes.Endpoints] = []
        self.virtual_services: list[objects.VirtualService] = []
        self.rules: list[objects.DestinationRule] = []
        self.gateways: list[objects.Gateway] = []
        self.sidecars: list[Sidecar] = []
        self.secrets: list[Thing] = []
        self._read_secrets: dict[str, Mapping[str, str]] = {}
        for thing in found:
            self._take(thing)

    def _take(self, thing: Thing) -> None:
        if thing.group == ISTIO:
            self._take_istio(thing)
        elif (reason := _REFUSED.get((thing.group, thing.kind))) is not None:
            self.report.fault(thing.fields.mark("kind"), thing.fields.way, f"is refused rather than ignored: {reason}")
        elif thing.group == _KUSTOMIZE:
            self.report.note(thing.fields.mark("kind"), thing.fields.way, _NOT_KUSTOMIZED)
        elif thing.kind == "IstioOperator":
            settings.operator(thing, self.settings)
        elif thing.kind == "Values":
            settings.values(thing.fields, self.settings)
        elif not kinds.is_in_place(thing.group, thing.kind):
            self._refuse_kind(thing)
        elif (meant := kinds.group_meant(thing.group)) is not None:
            thing.fields.fault("apiVersion", f"no such group; it is refused rather than ignored; did you mean {meant}?")
        elif not self._is_core(thing):
            self.report.note(thing.fields.mark("kind"), thing.fields.way, _NO_MEANING)

    def _take_istio(self, thing: Thing) -> None:
        fields = thing.fields
        if thing.version not in VERSIONS:
            versions = ", ".join(VERSIONS)
            fields.fault("apiVersion", f"expected {ISTIO} in one of {versions}, got {thing.version}")
            return
        match thing.kind:
            case "ServiceEntry":
                seniority = objects.seniority(thing.age, thing.name, thing.namespace)
                self.entries.append((seniority, service_entry.service_entry(thing)))
            case "VirtualService":
                self.virtual_services += _some(virtual_service.virtual_service(thing))
            case "DestinationRule":
                self.rules += _some(destination_rule.destination_rule(thing))
            case "Gateway":
                self.gateways.append(gateway.gateway(thing))
            case "Sidecar":
                self.sidecars.append(gateway.sidecar(thing))
            case "EnvoyFilter":
                settings.envoy_filter(thing, self.settings)
            case "WorkloadEntry" | "WorkloadGroup" | "ProxyConfig":
                self.report.note(fields.mark("kind"), fields.way, _NO_MEANING)
            case _:
                self._refuse_kind(thing)

    def _refuse_kind(self, thing: Thing) -> None:
        """A kind that its API group does not have, as far as is known. Kubernetes would refuse it, too."""
        advice = f"it is refused rather than ignored{kinds.meant(thing.group, thing.kind)}"
        if kinds.is_istios(thing.kind):
            api = thing.fields.text("apiVersion")
            thing.fields.fault("apiVersion", f"{shown(api)} is not known to have a {thing.kind}; {advice}")
        else:
            thing.fields.fault("kind", f"no such kind, or one that is not known here; {advice}")

    def _is_core(self, thing: Thing) -> bool:
        """Take one of Kubernetes' own objects that has a meaning here."""
        match thing.group, thing.kind:
            case "", "Service":
                self.kubernetes += _some(kubernetes.service(thing))
            case "", "Endpoints":
                self.endpoints.append(kubernetes.endpoints(thing))
            case "discovery.k8s.io", "EndpointSlice":
                self.endpoints.append(kubernetes.endpoint_slice(thing))
            case "", "Secret":
                self.secrets.append(thing)
            case "", "ConfigMap":
                return settings.mesh_config_map(thing, self.settings, self.report)
            case _:
                return False
        return True

    def services(self) -> list[objects.Service]:
        """The registry in the order in which it counts: Kubernetes' own first, then the oldest ServiceEntry."""
        entries = sorted(self.entries, key=lambda each: each[0])
        found = kubernetes.with_endpoints(self.kubernetes, self.endpoints)
        return [*found, *(one for _, group in entries for one in group)]

    def sidecar(self) -> Sidecar | None:
        """The Sidecar that counts for clients: that of their namespace, else that of the root."""
        order = (DEFAULT_NAMESPACE, self.settings.root_namespace)
        counting = sorted(
            (one for one in self.sidecars if one.namespace in order), key=lambda one: order.index(one.namespace)
        )
        for one in self.sidecars:
            if one in counting[1:] and one.namespace == counting[0].namespace:
                other = f"{counting[0].name} in {self.report.place(counting[0].mark)}"
                message = f"two Sidecars are for clients in {one.namespace}: the other is {other}; leave one"
                self.report.fault(one.mark, (), message)
            elif one not in counting[:1]:
                self.report.note(
                    one.mark, (), f"counts for clients in {one.namespace}; here they are those of {order[0]}"
                )
        return counting[0] if counting else None

    def ports_behind(self) -> dict[int, int]:
        """Ports of egress gateways by those of their Services."""
        return {number: port for one in self.kubernetes if self._is_gateway(one) for number, port in one.behind.items()}

    def find_secret(self, name: str) -> Mapping[str, str] | None:
        """The files of a Secret that gateways may use."""
        root = self.settings.root_namespace
        namespaces = {root, *(one.namespace for one in self.kubernetes if self._is_gateway(one))}
        found = [
            thing
            for thing in self.secrets
            if thing.name == name and kubernetes.is_for_gateways(thing, frozenset(namespaces))
        ]
        if found and name not in self._read_secrets:
            self._read_secrets[name] = kubernetes.secret(found[0])
            for other in found[1:]:
                if kubernetes.secret(other) != self._read_secrets[name]:
                    where = self.report.place(found[0].fields.mark("metadata"))
                    other.fields.fault(
                        "metadata",
                        f"another Secret {name} of a gateway, in {where}, holds something else; all gateways "
                        "are this process, so give them names of their own",
                    )
        return self._read_secrets.get(name)

    def _is_gateway(self, service: objects.Service) -> bool:
        return bool(service.selector) and any(
            each.selector.items() <= service.selector.items() for each in self.gateways
        )


def _some(value: Any) -> list[Any]:
    return [] if value is None else [value]


def _native(read: _Objects, beside: Mapping[str, Any], first: int) -> dict[str, Any]:
    report, said = read.report, read.settings
    native: dict[str, Any] = {}
    listeners = beside.get("listeners", ())
    if "listeners" not in beside:
        listeners = emit.listeners(read.gateways, read.ports_behind(), report)
        native["listeners"] = At(mark(unmark(first)[0], 0), listeners)  # no line in particular
    sidecar = read.sidecar()
    outbound = said.outbound or said.outbound_by_default
    if sidecar is not None and sidecar.outbound is not None:
        outbound = At(sidecar.mark, settings.OUTBOUND[sidecar.outbound])
    if outbound is not None:
        native["outbound"] = outbound
    elif "outbound" not in beside:
        report.note(
            mark(unmark(first)[0], 0),  # no line in particular
            (),
            "no settings of the mesh are among the files: what is not registered is refused (registry_only), where Istio by "
            "itself lets everything pass; give the ConfigMap istio to decide it",
        )
    closed = (outbound.value if outbound is not None else beside.get("outbound", "registry_only")) == "registry_only"
    directory = beside.get("secrets")
    mesh = Mesh(
        read.services(),
        read.rules,
        root_namespace=said.root_namespace,
        sidecar=sidecar,
        secrets=Secrets(read.find_secret, isinstance(directory, dict) and "directory" in directory),
        own_sni=partial(emit.own_sni, listeners if isinstance(listeners, (list, tuple)) else ()),
        report=report,
    )
    routes = Routes(
        mesh,
        read.virtual_services,
        read.gateways,
        said.gateways,
        report,
        root_namespace=said.root_namespace,
        forwards_sni=said.forwards_sni,
    )
    _say_unseen(read, mesh, {DEFAULT_NAMESPACE}, routes.gateway_namespaces())
    _say_guarded(mesh, beside, report)
    refused = []
    for service, port in mesh.seen():
        end = mesh.register(service, port)
        if isinstance(end, Refusal):
            refused.append((service, port, end))
    made = emit.NativeRoutes(mesh, routes, _registered_beside(beside), closed=closed, mark=first)
    route_list = made.native + [
        At(
            port.mark,
            {
                "name": "not-reached",
                "hosts": mesh.names_of(service.host),
                "ports": [port.number],
                "refuse": end.word,
            },
        )
        for service, port, end in refused
    ]
    services = mesh.native_services()
    if route_list:
        native["routes"] = route_list
    if services:
        native["services"] = services
    if mesh.credentials:
        native["secrets"] = {"inline": {name: dict(each) for name, each in mesh.credentials.items()}}
    if read.gateways:
        native["http"] = {"forwarded_for": "append"}
    if said.sni_check is not None and _checks_all_ports(said, mesh, beside, report):
        native["sni_check"] = said.sni_check
    if said.access_log is not None:
        native["access_log"] = said.access_log
    if said.connect_timeout_s is not None:
        native["timeouts"] = {"connect_s": said.connect_timeout_s}
    capture = {key: each for key, each in (("include", said.include), ("exclude", said.exclude)) if each is not None}
    if capture:
        native["capture"] = capture
    return native


def _say_unseen(read: _Objects, mesh: Mesh, of_clients: set[str], of_gateways: set[str]) -> None:
    """A note for each object that its exportTo, or its place, hides from those whom it is for."""
    for service in mesh.services:
        _say_hidden(read.report, service.mark, service.export_to, service.namespace, of_clients | of_gateways)
    for one in read.virtual_services:
        viewers = (of_clients if objects.MESH in one.gateways else set()) | (
            of_gateways if set(one.gateways) - {objects.MESH} else set()
        )
        _say_hidden(read.report, one.mark, one.export_to, one.namespace, viewers)
    looked_into = of_clients | of_gateways | {read.settings.root_namespace} | {one.namespace for one in mesh.services}
    for rule in read.rules:
        if rule.namespace is None:
            continue
        if rule.namespace in looked_into:
            _say_hidden(read.report, rule.mark, rule.export_to, rule.namespace, of_clients | of_gateways)
        else:
            message = (
                f"has no effect: no DestinationRule is looked for in namespace {rule.namespace}, where no client, gateway or "
                f"service is; move it to {DEFAULT_NAMESPACE}, or to the service's"
            )
            read.report.note(rule.mark, (), message)


def _say_hidden(report: Report, mark: int, export_to: Sequence[str], namespace: str, viewers: set[str]) -> None:
    if any(exported(export_to, namespace, viewer) for viewer in viewers):
        return
    shown_to = ", ".join(namespace if each == "." else each for each in export_to)
    report.note(
        mark,
        (),
        f"has no effect: exportTo shows it to {shown_to}, and it is looked at from {', '.join(sorted(viewers))} (clients are "
        f"in {DEFAULT_NAMESPACE}); add that to exportTo, or move the object there",
    )


def _say_guarded(mesh: Mesh, beside: Mapping[str, Any], report: Report) -> None:
    """Istio has no address guard, and its files no word for it: once for all names that are likely to be private."""
    rules = beside.get("rules")
    opened = any(
        isinstance(each, dict) and each.get("private_addresses") for each in (rules if isinstance(rules, list) else ())
    )
    if opened or "guard" in beside:
        return
    for service, _ in mesh.seen():
        if service.seems_private and not service.private and service.resolution != "static" and not service.endpoints:
            report.note(
                service.mark,
                (),
                "ServiceEntries stay behind the address guard: a name that leads to a private address is refused; to open one "
                f"write in a native file rules: [{{action: allow, hosts: ['{service.host}'], private_addresses: true}}]",
            )
            return


def _checks_all_ports(said: settings.Settings, mesh: Mesh, beside: Mapping[str, Any], report: Report) -> bool:
    """Whether sni_verifier becomes a setting for all ports.

    A tunnel to port 443 is checked in any case. Where services of TCP are registered, which carry no TLS, a setting for all
    ports would close what leads to them; a filter for port 443 says nothing of those.
    """
    assert said.sni_check is not None
    opaque = [
        service
        for service, port in mesh.seen()
        if port.spoken == "TCP"
        and not (service.endpoints and all(is_loopback(one.address) for one in service.endpoints))
    ]
    spares_others = bool(opaque) and said.sni_check_on_443_only and "sni_check" not in beside
    if spares_others:
        how = f"is held on port 443 by itself; other ports carry what is no TLS, as to {opaque[0].host}"
    else:
        how = "became sni_check: enforce"
    report.note(
        said.sni_check.mark,
        (),
        f"sni_verifier {how}: a tunnel whose TLS asks for another name than it was granted for is closed",
    )
    return not spares_others


def _registered_beside(beside: Mapping[str, Any]) -> list[tuple[str, int]]:
    """Hosts and ports that native settings register, as far as they can be read before they are validated."""
    found = []
    services = beside.get("services")
    for each in services if isinstance(services, list) else ():
        hosts, ports = (each.get("hosts"), each.get("ports")) if isinstance(each, dict) else (None, None)
        for host in hosts if isinstance(hosts, list) else ():
            for port in ports if isinstance(ports, list) else ():
                number = port.get("number") if isinstance(port, dict) else None
                try:
                    found.append((str(parse_host_pattern(host)), int(number or 0)))
                except (ValueError, TypeError, AttributeError):
                    continue
    return found
