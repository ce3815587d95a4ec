"""Gateway and Sidecar: what is checked."""

from __future__ import annotations

import pytest
from support.istio import REGISTRY_ONLY, entry, meets, thing

A = entry("a.example", "80 HTTP")


def server(port: str, rest: str = "") -> str:
    return thing("Gateway g", f"{{selector: {{a: b}}, servers: [{{port: {{{port}}}, hosts: [a.example]{rest}}}]}}")


HTTPS = "number: 443, name: p, protocol: HTTPS"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (server("number: 80, protocol: HTTP"), "servers[0].port: name is missing"),
        (
            server("name: p, protocol: HTTP, number: 0"),
            "servers[0].port.number: expected a port from 1 to 65535, got 0",
        ),
        (server(HTTPS), "servers[0].tls: protocol HTTPS needs tls with a mode"),
        (
            server("number: 80, name: p, protocol: HTTP", ", tls: {mode: SIMPLE, credentialName: c}"),
            "servers[0].tls: protocol HTTP has no TLS; set HTTPS, or leave tls out",
        ),
        (
            server("number: 80, name: p, protocol: HTTP", ", tls: {httpsRedirect: true}"),
            "servers[0].tls.httpsRedirect: is not done by this proxy: answering with a redirect",
        ),
        (
            server(HTTPS, ", tls: {mode: MUTUAL, serverCertificate: /c, privateKey: /k}"),
            "servers[0].tls.mode: MUTUAL needs caCertificates, or credentialName",
        ),
        (
            server(HTTPS, ", tls: {mode: SIMPLE}"),
            "servers[0].tls.mode: SIMPLE needs serverCertificate, or credentialName",
        ),
        (
            server(HTTPS, ", tls: {mode: ISTIO_MUTUAL, privateKey: /k}"),
            "servers[0].tls.privateKey: has no meaning with mode ISTIO_MUTUAL",
        ),
        (
            server(HTTPS, ", tls: {mode: AUTO_PASSTHROUGH}"),
            "servers[0].tls.mode: expected one of PASSTHROUGH, SIMPLE, MUTUAL, ISTIO_MUTUAL, got 'AUTO_PASSTHROUGH'",
        ),
        (
            server(HTTPS, ", tls: {mode: ISTIO_MUTUAL, subjectAltNames: [x]}"),
            "servers[0].tls.subjectAltNames: who may come to the gateway is not judged by certificates here; clients of a rule "
            "are networks",
        ),
        (thing("Gateway g", "{selector: {a: b}}"), "servers: expected at least one server"),
        (
            thing("Gateway g", "{servers: [{port: {number: 80, name: p, protocol: HTTP}, hosts: []}]}"),
            "servers[0].hosts: expected at least one host",
        ),
    ],
)
def test_what_is_wrong_with_a_gateway_is_said(text: str, fault: str) -> None:
    assert fault in [each.partition("Gateway.g.spec.")[2] for each in meets(A, text).faults]


def test_ports_of_a_gateway_have_names_of_their_own() -> None:
    servers = ", ".join(f"{{port: {{number: {n}, name: p, protocol: HTTP}}, hosts: ['*']}}" for n in (80, 81))
    (fault,) = meets(thing("Gateway g", f"{{servers: [{servers}]}}")).faults
    assert fault.endswith("spec.servers[1].port.name: two ports are called 'p'")


def test_a_host_of_a_gateway_may_name_the_namespace_of_its_routes() -> None:
    gateway = server("number: 80, name: p, protocol: HTTP").replace("hosts: [a.example]", "hosts: [NS/a.example]")
    route = thing(
        "VirtualService v", "{hosts: [a.example], gateways: [g], http: [{route: [{destination: {host: a.example}}]}]}"
    )
    for namespace, expected in (
        ("default", "outbound|80||a.example"),
        (".", "outbound|80||a.example"),
        ("x", "not_found"),
    ):
        assert meets(A, gateway.replace("NS", namespace), route).get("a.example:80/") == expected


def test_sidecars_of_other_namespaces_are_noted() -> None:
    found = meets(REGISTRY_ONLY, thing("Sidecar s other", "{}"), thing("Sidecar t", "{}"))
    assert found.notes == ["11 Sidecar.s: counts for clients in other; here they are those of default"]


@pytest.mark.parametrize(
    ("spec", "fault"),
    [
        (
            "{workloadSelector: {labels: {a: b}}}",
            "workloadSelector: selects pods, which are not known here; write rules with clients instead",
        ),
        (
            "{egress: [{hosts: ['*/*'], port: {number: 80}}]}",
            "egress[0].port: a Sidecar for one port or address is not followed",
        ),
        ("{egress: [{hosts: [a.example]}]}", "egress[0].hosts[0]: expected NAMESPACE/HOST, got 'a.example'"),
        (
            "{outboundTrafficPolicy: {mode: ANY}}",
            "outboundTrafficPolicy.mode: expected one of ALLOW_ANY, REGISTRY_ONLY, got 'ANY'",
        ),
    ],
)
def test_what_is_wrong_with_a_sidecar_is_said(spec: str, fault: str) -> None:
    assert [each.partition("Sidecar.s.spec.")[2] for each in meets(thing("Sidecar s", spec)).faults] == [fault]
