"""Services, Endpoints and EndpointSlices of Kubernetes as services of the registry."""

from __future__ import annotations

from typing import Any

import pytest
from support.istio import REGISTRY_ONLY, meets


def service(spec: str, name: str = "db", namespace: str | None = None, annotations: str = "") -> str:
    where = f", namespace: {namespace}" if namespace else ""
    notes = f", annotations: {{{annotations}}}" if annotations else ""
    return f"apiVersion: v1\nkind: Service\nmetadata: {{name: {name}{where}{notes}}}\nspec: {{{spec}}}\n"


EXTERNAL = service("type: ExternalName, externalName: httpbin.example, ports: [{name: http, port: 80}]", "my-httpbin")


@pytest.mark.parametrize(
    "host", ["my-httpbin.default.svc.cluster.local", "my-httpbin.default.svc", "my-httpbin.default", "my-httpbin"]
)
def test_an_external_name_is_reached_by_all_names_of_the_service(host: str) -> None:
    found = meets(REGISTRY_ONLY, EXTERNAL)
    assert found.get(f"{host}:80/headers") == "outbound|80||my-httpbin.default.svc.cluster.local"
    assert found.get("httpbin.example:80/") == "refused"  # the name behind it is not registered by that


def test_an_external_name_is_looked_up_and_not_private() -> None:
    (native,) = meets(EXTERNAL).data["services"]
    assert native["endpoints"] == [{"address": "httpbin.example"}]
    assert "private_addresses" not in native


def test_an_external_name_inside_the_cluster_is_private() -> None:
    (native,) = meets(EXTERNAL.replace("httpbin.example", "a.b.svc.cluster.local")).data["services"]
    assert native["private_addresses"]


def test_the_bare_name_is_for_the_clients_own_namespace() -> None:
    found = meets(REGISTRY_ONLY, EXTERNAL.replace("name: my-httpbin}", "name: my-httpbin, namespace: other}"))
    assert found.get("my-httpbin.other:80/") == "outbound|80||my-httpbin.other.svc.cluster.local"
    assert found.get("my-httpbin:80/") == "refused"


BY_HAND = service("clusterIP: 10.84.20.176, ports: [{name: tls, port: 443}]")
ENDPOINTS = (
    "apiVersion: v1\nkind: Endpoints\nmetadata: {name: db}\n"
    "subsets: [{addresses: [{ip: 192.0.2.1}, {ip: 192.0.2.2}], ports: [{name: tls, port: 8443}]}]\n"
)
SLICE = (
    "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n"
    "metadata: {name: db-x, labels: {kubernetes.io/service-name: db}}\naddressType: IPv4\n"
    "endpoints: [{addresses: [192.0.2.1]}, {addresses: [192.0.2.2]}, {addresses: [192.0.2.3], conditions: {ready: false}}]\n"
    "ports: [{name: tls, port: 8443}]\n"
)


@pytest.mark.parametrize("endpoints", [ENDPOINTS, SLICE], ids=["Endpoints", "EndpointSlice"])
def test_endpoints_written_by_hand(endpoints: str) -> None:
    found = meets(REGISTRY_ONLY, BY_HAND, endpoints)
    (native,) = found.data["services"]
    assert native["endpoints"] == [{"address": "192.0.2.1", "port": 8443}, {"address": "192.0.2.2", "port": 8443}]
    assert (native["resolution"], native["addresses"]) == ("static", ["10.84.20.176"])
    assert found.tunnel("10.84.20.176:443") == "outbound|443||db.default.svc.cluster.local"


def test_a_service_without_selector_and_endpoints_is_unavailable() -> None:
    assert meets(REGISTRY_ONLY, BY_HAND).tunnel("db:443") == "unavailable"


def test_a_service_of_pods_is_reached_by_its_name_in_the_cluster() -> None:
    (native,) = meets(service("selector: {app: db}, ports: [{port: 443}]", namespace="backend")).data["services"]
    assert native == {
        "name": "outbound|443||db.backend.svc.cluster.local",
        "hosts": ["db.backend.svc.cluster.local"],
        "aliases": ["db.backend.svc", "db.backend"],
        "ports": [{"number": 443, "protocol": "TCP"}],
        "private_addresses": True,
    }


def test_a_service_of_http_is_reached_by_its_address_too() -> None:
    found = meets(REGISTRY_ONLY, service("clusterIP: 10.0.0.9, selector: {app: db}, ports: [{port: 80, name: http}]"))
    assert found.get("10.0.0.9:80/") == "outbound|80||db.default.svc.cluster.local"


@pytest.mark.parametrize(
    ("port", "spoken"),
    [
        ("{port: 1, name: http}", "HTTP"),
        ("{port: 1, name: http-web}", "HTTP"),
        ("{port: 1, name: http2}", "HTTP"),
        ("{port: 1, name: GRPC-api}", "HTTP"),
        ("{port: 1, name: https-x}", "TLS"),
        ("{port: 1, name: tls}", "TLS"),
        ("{port: 1, name: tcp-db}", "TCP"),
        ("{port: 1, name: mongo}", "TCP"),
        ("{port: 1, name: web}", "ANY"),
        ("{port: 1}", "ANY"),
        ("{port: 1, name: tcp, appProtocol: https}", "TLS"),
    ],
)
def test_the_name_of_a_port_says_what_is_spoken(port: str, spoken: str) -> None:
    """Told by what passes: requests, tunnels, or both."""
    found = meets(REGISTRY_ONLY, service(f"selector: {{app: db}}, ports: [{port}]"))
    cluster = "outbound|1||db.default.svc.cluster.local"
    passes: dict[str, Any] = {
        "HTTP": (cluster, "close"),
        "TLS": ("close", cluster),
        "TCP": (cluster, cluster),
        "ANY": (cluster, cluster),
    }
    assert (found.get("db:1/"), found.tunnel("db:1")) == passes[spoken]


def test_ports_of_udp_are_left_out() -> None:
    assert "services" not in meets(service("selector: {app: dns}, ports: [{port: 53, protocol: UDP}]")).data


def test_the_annotation_says_who_sees_a_service() -> None:
    hidden = service(
        "selector: {app: db}, ports: [{port: 80, name: http}]",
        namespace="other",
        annotations="networking.istio.io/exportTo: '.'",
    )
    assert meets(REGISTRY_ONLY, hidden).get("db.other:80/") == "refused"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (
            service("type: ExternalName, ports: [{port: 80}]"),
            "4 Service.db.spec.externalName: is missing: the type says",
        ),
        (service("ports: [{port: 0}]"), "4 Service.db.spec.ports[0].port: expected a port from 1 to 65535, got 0"),
        (
            ENDPOINTS.replace("192.0.2.2", "host.example"),
            "4 Endpoints.db.subsets[0].addresses[1].ip: expected an IP address, got 'host.example'",
        ),
    ],
)
def test_what_is_wrong_is_said_with_its_line(text: str, fault: str) -> None:
    assert meets(text).faults[0].startswith(fault)
