"""VirtualService: routes for hosts, in the mesh and at gateways, read and checked.

A condition that is not known here is a fault: without it a route would take more than its author wrote.
istio.io/docs/reference/config/networking/virtual-service
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from egressproxy.config.adapters.istio.objects import (
    CLUSTER_DOMAIN,
    MESH,
    NOT_HERE,
    Destination,
    Match,
    Route,
    VirtualService,
    covers,
    export_to_of,
    full_pattern,
    host_of,
    namespace_of,
    spec_of,
)
from egressproxy.hostport import ANY_HOST, HostPattern
from egressproxy.policy.expressions import compile_expression

if TYPE_CHECKING:
    from egressproxy.config.adapters.istio.documents import Thing
    from egressproxy.config.adapters.istio.fields import Fields


_ROUTE_REFUSED = {
    "redirect": f"{NOT_HERE}: answering with a redirect",
    "directResponse": f"{NOT_HERE}: answering by itself",
    "rewrite": f"{NOT_HERE}: changing paths and hosts",
    "fault": f"{NOT_HERE}: injecting delays and errors",
    "mirror": f"{NOT_HERE}: sending a second copy",
    "mirrors": f"{NOT_HERE}: sending a second copy",
    "mirrorPercent": f"{NOT_HERE}: sending a second copy",
    "mirrorPercentage": f"{NOT_HERE}: sending a second copy",
    "corsPolicy": f"{NOT_HERE}: answering for the origin",
    "headers": f"{NOT_HERE}: changing header fields by a route; see set_headers of a native service",
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


def virtual_service(thing: Thing) -> VirtualService | None:
    """What a VirtualService says."""
    spec = spec_of(thing)
    if spec is None:
        return None
    namespace = namespace_of(thing)
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
        export_to=export_to_of(spec),
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
    asks_path = bool(conditions)
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
        asks_path=asks_path,
        mark=fields.mark(),
    )


def _uri(uri: Fields) -> dict[str, Any]:
    """Conditions on a path. They lead on what fits in every reading, and refuse what fits in one."""
    exact, prefix, regex = uri.text("exact"), uri.text("prefix"), uri.text("regex")
    uri.done()
    if len([word for word in (exact, prefix, regex) if word is not None]) > 1:
        uri.report.fault(uri.mark(), uri.way, "expected one of exact, prefix and regex")
        return {}
    if exact is not None:
        if exact.endswith("*"):  # a letter like others, which at the end of native paths is none
            return {"bare_paths_matching": [f"^{re.escape(exact)}$"]}
        return {"paths": [exact]}
    if prefix is not None:
        if prefix == "/":
            return {}
        if prefix.endswith("/"):
            return {"paths": [f"{prefix}*"]}
        return {"bare_paths_matching": [f"^{re.escape(prefix)}"]}
    if regex is not None:
        try:
            compile_expression(regex)
        except ValueError as error:  # by itself: what closes our brackets would be no longer held to the whole path
            uri.fault("regex", f"expected an expression of RE2: {error}")
            return {}
        return {"bare_paths_matching": [f"^(?:{regex})$"]}
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
        host = host_of(destination, "host", namespace)
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
