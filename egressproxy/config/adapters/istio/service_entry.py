"""ServiceEntry: hosts outside the mesh that are registered, read and checked.

istio.io/docs/reference/config/networking/service-entry
"""

from __future__ import annotations

from ipaddress import ip_network
from typing import TYPE_CHECKING, Literal

from egressproxy.config.adapters.istio.objects import (
    CLUSTER_DOMAIN,
    Endpoint,
    Port,
    Service,
    export_to_of,
    namespace_of,
    spec_of,
    spoken_on,
)
from egressproxy.config.faults import shown
from egressproxy.hostport import parse_host_pattern

if TYPE_CHECKING:
    from egressproxy.config.adapters.istio.documents import Thing
    from egressproxy.config.adapters.istio.fields import Fields


_RESOLUTIONS: dict[str, Literal["none", "static", "dns"]] = {
    "NONE": "none",
    "STATIC": "static",
    "DNS": "dns",
    "DNS_ROUND_ROBIN": "dns",
    "DYNAMIC_DNS": "dns",
}


# Names that networks keep to themselves: ICANN's .internal, RFC 8375, and RFC 6762 with its appendix G.
_PRIVATE_NAMES = (".internal", ".home.arpa", ".local", ".intranet", ".private", ".corp", ".home", ".lan")


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
    export_to, names = export_to_of(spec), spec.words("subjectAltNames")
    spec.done(
        refused={"workloadSelector": "selects pods, which are not known here; write endpoints, with their addresses"}
    )
    return [
        Service(
            host=host,
            namespace=namespace_of(thing),
            ports=ports,
            resolution=resolution,
            endpoints=endpoints,
            addresses=addresses,
            subject_alt_names=names,
            export_to=export_to,
            private=host.host.endswith(f".{CLUSTER_DOMAIN}")
            or any(one.address.endswith(f".{CLUSTER_DOMAIN}") for one in endpoints),
            seems_private=location == "MESH_INTERNAL" or f".{host.host}".endswith(_PRIVATE_NAMES),
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
