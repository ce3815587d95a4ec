"""Kubernetes' own objects: Services with their Endpoints become services of the registry, Secrets are found when asked for.

Documents: kubernetes.io/docs/reference/kubernetes-api, and how Istio reads port names (istio.io, protocol selection).
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from egressproxy.config.adapters.istio.objects import (
    CLUSTER_DOMAIN,
    DEFAULT_NAMESPACE,
    Endpoint,
    Port,
    Service,
    Spoken,
    is_address,
    namespace_of,
)
from egressproxy.config.faults import shown
from egressproxy.hostport import HostPattern, parse_host_pattern

if TYPE_CHECKING:
    from collections.abc import Sequence

    from egressproxy.config.adapters.istio.documents import Thing
    from egressproxy.config.adapters.istio.fields import Fields

EXPORT_TO = "networking.istio.io/exportTo"
"""Annotation of a Service: namespaces that see it, with commas between them."""

# The first word of a port's name, or all of appProtocol, to what is spoken there.
_SPOKEN: dict[str, Spoken] = {
    **dict.fromkeys(("http", "http2", "grpc", "grpc-web", "kubernetes.io/h2c", "kubernetes.io/ws"), "HTTP"),
    **dict.fromkeys(("https", "tls", "kubernetes.io/wss"), "TLS"),
    **dict.fromkeys(("tcp", "mongo", "redis", "mysql"), "TCP"),
}


def service(thing: Thing) -> Service | None:
    """The service that a Service registers. Its endpoints come from objects of their own: see `with_endpoints`."""
    namespace = namespace_of(thing)
    spec = thing.fields.below("spec")
    if spec is None:
        return None
    names = [f"{thing.name}.{namespace}.svc", f"{thing.name}.{namespace}"]
    if namespace == DEFAULT_NAMESPACE:
        names.append(thing.name)
    try:
        host = parse_host_pattern(f"{names[0]}.cluster.local")
    except ValueError as error:
        thing.fields.fault("metadata", str(error))
        return None
    kind, external = spec.text("type"), spec.text("externalName")
    endpoints: tuple[Endpoint, ...] = ()
    if kind == "ExternalName":
        if external is None:
            spec.fault("externalName", "is missing: the type says ExternalName")
            return None
        try:
            name = parse_host_pattern(external)
        except ValueError as error:
            spec.fault("externalName", str(error))
            return None
        mark = spec.mark("externalName")
        endpoints = (Endpoint(address=name.host, ports={}, weight=1, labels={}, mark=mark),)
    selector, own = spec.labels("selector"), spec.text("clusterIP") or ""
    found = _ports(spec)
    if not found:
        return None
    return Service(
        host=host,
        namespace=namespace,
        ports=found,
        resolution="dns",
        endpoints=endpoints,
        addresses=(own,) if is_address(own) else (),
        aliases=tuple(names),
        export_to=_export_to(thing),
        selector=selector,
        is_empty=kind != "ExternalName" and not selector,
        private=kind != "ExternalName" or endpoints[0].address.endswith(f".{CLUSTER_DOMAIN}"),
        knows_pods=kind != "ExternalName",
        behind=_behind(spec),
        mark=thing.fields.mark("spec"),
        title=thing.title,
    )


def _export_to(thing: Thing) -> tuple[str, ...]:
    metadata = thing.fields.data.get("metadata", {})
    annotations = metadata.get("annotations") if isinstance(metadata, dict) else None
    text = annotations.get(EXPORT_TO) if isinstance(annotations, dict) else None
    return tuple(word.strip() for word in text.split(",")) if isinstance(text, str) else ()


def _ports(spec: Fields) -> tuple[Port, ...]:
    found = []
    for fields in spec.each("ports"):
        number, name = fields.port("port"), fields.text("name") or ""
        if number is None or (fields.text("protocol") or "TCP") != "TCP":
            continue
        spoken = _spoken(name, fields.text("appProtocol") or "")
        # kube-proxy knows the target port, and who dials the cluster's address meets kube-proxy.
        found.append(Port(number=number, name=name, spoken=spoken, target=None, mark=fields.mark("port")))
    return tuple(found)


def _behind(spec: Fields) -> dict[int, int]:
    found = {}
    for fields in spec.each("ports"):
        number, behind = fields.data.get("port"), fields.data.get("targetPort")
        if isinstance(number, int):
            found[number] = behind if isinstance(behind, int) else number
    return found


def _spoken(name: str, app_protocol: str) -> Spoken:
    if app_protocol.lower() in _SPOKEN:
        return _SPOKEN[app_protocol.lower()]
    name = name.lower()
    return _SPOKEN["grpc-web"] if name.startswith("grpc-web") else _SPOKEN.get(name.partition("-")[0], "ANY")


# --- endpoints ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoints:
    """Addresses that stand behind the Service of this name."""

    service: str
    namespace: str
    endpoints: tuple[Endpoint, ...]


def endpoints(thing: Thing) -> Endpoints:
    """What an Endpoints object says."""
    found: list[Endpoint] = []
    for subset in thing.fields.each("subsets"):
        ports = _endpoint_ports(subset)
        found += [
            Endpoint(address=ip, ports=ports, weight=1, labels={}, mark=address.mark("ip"))
            for address in subset.each("addresses")
            if (ip := _address(address, "ip")) is not None
        ]
    return Endpoints(service=thing.name, namespace=namespace_of(thing), endpoints=tuple(found))


def endpoint_slice(thing: Thing) -> Endpoints:
    """What an EndpointSlice says; a label names its Service."""
    metadata = thing.fields.below("metadata")
    labels = metadata.labels("labels") if metadata is not None else {}
    owner = labels.get("kubernetes.io/service-name")
    if owner is None:
        thing.fields.fault("metadata", "expected the label kubernetes.io/service-name")
    ports = _endpoint_ports(thing.fields)
    found = []
    for each in thing.fields.each("endpoints"):
        conditions = each.data.get("conditions")
        if isinstance(conditions, dict) and conditions.get("ready") is False:
            continue
        for index, ip in enumerate(each.words("addresses")):
            if is_address(ip):
                found.append(Endpoint(address=ip, ports=ports, weight=1, labels={}, mark=each.mark("addresses")))
            else:
                each.fault_in("addresses", index, f"expected an IP address, got {shown(ip)}")
    return Endpoints(service=owner or "", namespace=namespace_of(thing), endpoints=tuple(found))


def _endpoint_ports(fields: Fields) -> dict[str, int]:
    found = {}
    for each in fields.each("ports"):
        number = each.port("port")
        if number is not None:
            found[each.text("name") or ""] = number
    return found


def _address(fields: Fields, name: str) -> str | None:
    text = fields.required_text(name)
    if text is None or is_address(text):
        return text
    fields.fault(name, f"expected an IP address, got {shown(text)}")
    return None


def with_endpoints(services: Sequence[Service], known: Sequence[Endpoints]) -> list[Service]:
    """The services, those with hand-written endpoints led to these."""
    by_name: dict[str, list[Endpoint]] = {}
    for each in known:
        by_name.setdefault(f"{each.service}.{each.namespace}.{CLUSTER_DOMAIN}", []).extend(each.endpoints)
    return [
        replace(one, endpoints=tuple(found), resolution="static", is_empty=False, knows_pods=False)
        if one.knows_pods and (found := by_name.get(one.host.host))
        else one
        for one in services
    ]


# --- secrets ------------------------------------------------------------------------------------------------------


def is_for_gateways(thing: Thing, namespaces: frozenset[str]) -> bool:
    """Whether a gateway would use this Secret: it lives in a gateway's namespace, and is not the mesh's own.

    As Istio's secret controller picks them. One that says no namespace counts as put where it is asked for.
    """
    data = thing.fields.data
    has_token = any(isinstance(data.get(part), dict) and "token" in data[part] for part in ("data", "stringData"))
    own = thing.name.startswith(("istio", "prometheus")) or has_token
    return not own and (thing.namespace is None or thing.namespace in namespaces)


def secret(thing: Thing) -> dict[str, str]:
    """The files of a Secret, by name."""
    found: dict[str, str] = {}
    data = thing.fields.below("data")
    for name, value in _items(data):
        if data is None or not isinstance(value, str):
            continue
        try:
            found[name] = base64.b64decode(value, validate=True).decode()
        except (binascii.Error, ValueError):
            data.fault(name, "expected text in base64; fill in what the template leaves open")
    found.update((name, value) for name, value in _items(thing.fields.below("stringData")) if isinstance(value, str))
    return found


def _items(fields: Fields | None) -> list[tuple[str, Any]]:
    return [] if fields is None else list(fields.data.items())


def pods_of(name: str) -> dict[str, str]:
    """Labels of the pods of a gateway whose Service is not among the files, as its chart gives them."""
    return {"app": name, "istio": name.removeprefix("istio-")}


def name_of(host: HostPattern) -> tuple[str, str] | None:
    """Name and namespace of the Service that a whole host is."""
    if host.kind != "exact" or not host.host.endswith(f".{CLUSTER_DOMAIN}"):
        return None
    name, _, namespace = host.host.removesuffix(f".{CLUSTER_DOMAIN}").partition(".")
    return (name, namespace) if name and namespace and "." not in namespace else None
