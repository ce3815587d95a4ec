"""VirtualService: what is checked, and what is refused because a route would be wider without it."""

from __future__ import annotations

import pytest
from support.istio import entry, meets, thing, to

A = entry("a.example", "80 HTTP", "443 TLS", "90 TCP")
ROUTE = f"route: [{to('a.example', 80)}]"


def routes(inside: str) -> str:
    return thing("VirtualService v", f"{{hosts: [a.example], {inside}}}")


@pytest.mark.parametrize(
    "field",
    [
        "headers: {x: {exact: y}}",
        "withoutHeaders: {x: {exact: y}}",
        "queryParams: {x: {exact: y}}",
        "authority: {exact: a.example}",
        "sourceLabels: {app: a}",
        "sourceNamespace: a",
        "ignoreUriCase: true",
    ],
)
def test_a_condition_that_is_not_known_here_is_refused(field: str) -> None:
    (fault,) = meets(A, routes(f"http: [{{match: [{{{field}}}], {ROUTE}}}]"), lenient=True).faults
    assert f"spec.http[0].match[0].{field.partition(':')[0]}: is not a condition that this proxy knows" in fault


@pytest.mark.parametrize(
    "field",
    [
        "redirect: {uri: /x}",
        "directResponse: {status: 200}",
        "rewrite: {uri: /x}",
        "fault: {abort: {httpStatus: 500}}",
        "mirror: {host: b.example}",
        "mirrorPercentage: {value: 1}",
        "corsPolicy: {}",
        "headers: {request: {}}",
        "delegate: {name: x}",
    ],
)
def test_what_a_route_does_besides_routing_is_refused_by_name(field: str) -> None:
    (fault,) = meets(A, routes(f"http: [{{{field}, {ROUTE}}}]")).faults
    assert f"spec.http[0].{field.partition(':')[0]}: " in fault


def test_retries_are_noted() -> None:
    found = meets(A, routes(f"http: [{{retries: {{attempts: 0}}, {ROUTE}}}]"))
    assert found.faults == []
    assert any("a request is repeated only where" in note for note in found.notes)


@pytest.mark.parametrize(
    ("inside", "fault"),
    [
        ("http: [{}]", "spec.http[0].route: expected at least one destination"),
        (f"http: [{{{ROUTE}, timeout: 3}}]", "spec.http[0].timeout: expected text, got 3"),
        (
            f"http: [{{{ROUTE}, timeout: 3 seconds}}]",
            "spec.http[0].timeout: expected a duration like 3s, got '3 seconds'",
        ),
        ("http: [{route: [{destination: {}}]}]", "spec.http[0].route[0].destination: host is missing"),
        ("http: [{route: [{}]}]", "spec.http[0].route[0].destination: is missing"),
        (
            "http: [{route: [{destination: {host: a.example}, weight: 0}, {destination: {host: a.example}}]}]",
            "spec.http[0].route: expected a weight above 0 on one of them",
        ),
        (f"http: [{{match: [{{uri: {{}}}}], {ROUTE}}}]", "spec.http[0].match[0].uri: expected exact, prefix or regex"),
        (
            f"http: [{{match: [{{uri: {{exact: /a, prefix: /}}}}], {ROUTE}}}]",
            "spec.http[0].match[0].uri: expected one of exact, prefix and regex",
        ),
        (
            f"http: [{{match: [{{uri: {{regex: 'a)|(b'}}}}], {ROUTE}}}]",
            "spec.http[0].match[0].uri.regex: expected an expression of RE2: unexpected ): 'a)|(b'",
        ),
        (
            f"http: [{{match: [{{method: {{prefix: G}}}}], {ROUTE}}}]",
            "spec.http[0].match[0].method.prefix: methods are matched by exact only",
        ),
        (
            f"http: [{{match: [{{uri: }}], {ROUTE}}}]",
            "spec.http[0].match[0].uri: expected a value, got nothing; leave the field out",
        ),
        (f"tls: [{{{ROUTE}}}]", "spec.tls[0].match: a TLS route needs a match with sniHosts"),
        (
            f"tls: [{{match: [{{port: 443}}], {ROUTE}}}]",
            "spec.tls[0].match[0].sniHosts: a TLS match needs at least one",
        ),
        (
            f"tls: [{{match: [{{sniHosts: [b.example]}}], {ROUTE}}}]",
            "spec.tls[0].match[0].sniHosts[0]: b.example is not among the hosts of this VirtualService",
        ),
        (
            f"tcp: [{{match: [{{destinationSubnets: [192.0.2.0/24]}}], {ROUTE}}}]",
            "spec.tcp[0].match[0].destinationSubnets: is not a condition that this proxy knows; without it the route would "
            "take more than it says",
        ),
    ],
)
def test_what_is_wrong_is_said(inside: str, fault: str) -> None:
    assert meets(A, routes(inside)).faults[0].partition(" VirtualService.v.")[2] == fault


@pytest.mark.parametrize(
    ("hosts", "fault"),
    [
        ("[]", "spec.hosts: expected at least one host"),
        ("[a.example, a.example]", "spec.hosts[1]: a.example is covered by another host of this VirtualService"),
        ("['*.example', a.example]", "spec.hosts[1]: a.example is covered by another host of this VirtualService"),
        ("['*']", "spec.hosts: '*' is for gateways; a VirtualService in the mesh needs names"),
    ],
)
def test_its_hosts_are_checked(hosts: str, fault: str) -> None:
    found = meets(thing("VirtualService v", f"{{hosts: {hosts}}}"))
    assert found.faults == [f"4 VirtualService.v.{fault}"]


def test_snake_case_and_camel_case_are_one_field_and_both_are_too_many() -> None:
    tls = f"tls: [{{match: [{{SNI: [a.example]}}], route: [{to('a.example', 443)}]}}]"
    camel, snake = (meets(A, routes(tls.replace("SNI", name))) for name in ("sniHosts", "sni_hosts"))
    assert camel.data == snake.data
    (fault,) = meets(A, routes(tls.replace("SNI:", "sniHosts: [a.example], sni_hosts:"))).faults
    assert fault.endswith("sni_hosts: is written twice, as sniHosts too")


def test_short_names_are_services_in_its_namespace() -> None:
    service = (
        "apiVersion: v1\nkind: Service\nmetadata: {name: db, namespace: x}\n"
        "spec: {selector: {a: b}, ports: [{port: 80, name: http}]}\n"
    )
    route = thing("VirtualService v x", f"{{hosts: [db], http: [{{route: [{to('db')}], timeout: 2s}}]}}")
    found = meets(service, route)
    assert found.data["routes"][0]["hosts"] == ["db.x.svc.cluster.local", "db.x.svc", "db.x"]
    assert found.get("db.x:80/") == "outbound|80||db.x.svc.cluster.local"
