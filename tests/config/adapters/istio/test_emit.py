"""The native form as a whole: listeners, the order of routes, what neighbours share."""

from __future__ import annotations

from typing import Any

import pytest
from support.istio import REGISTRY_ONLY, entry, meets, thing, to, virtual_service

from egressproxy.config.adapters.istio.emit import own_sni


def listeners(*texts: str) -> list[tuple[Any, ...]]:
    found = meets(*texts, beside={}).data["listeners"]
    return [(each["name"], each["protocol"], each["port"], each.get("service_port")) for each in found]


def test_without_listeners_they_are_those_of_the_gateway() -> None:
    assert listeners(REGISTRY_ONLY) == [
        ("gateway-http", "http", 8080, 80),
        ("gateway-tls", "sni", 8443, 443),
        ("proxy", "http-proxy", 3128, None),
    ]


def test_a_gateway_that_serves_plain_http_on_443_takes_no_tls_there() -> None:
    gateway = thing(
        "Gateway g", "{selector: {a: b}, servers: [{port: {number: 443, name: p, protocol: HTTP}, hosts: ['*']}]}"
    )
    assert listeners(REGISTRY_ONLY, gateway)[1] == ("gateway-tls", "http", 8443, 443)


def test_listeners_of_others_are_left_alone() -> None:
    assert "listeners" not in meets(REGISTRY_ONLY).data


def test_a_gateway_says_who_the_client_is() -> None:
    gateway = thing(
        "Gateway g", "{selector: {a: b}, servers: [{port: {number: 80, name: p, protocol: HTTP}, hosts: [a.example]}]}"
    )
    assert meets(REGISTRY_ONLY, gateway).data["http"] == {"forwarded_for": "append"}
    assert "http" not in meets(REGISTRY_ONLY).data


@pytest.mark.parametrize(
    ("listener", "dialled"),
    [
        ({"protocol": "sni", "port": 8443}, 443),
        ({"protocol": "sni", "port": 8443, "service_port": 444}, 444),
        ({"protocol": "sni", "port": 8443, "service_port": "x"}, 443),
        ({"protocol": "sni", "port": "8443"}, None),
        ({"protocol": "tcp", "port": 8443}, None),
        ("nonsense", None),
    ],
)
def test_what_the_own_sni_listener_dials(listener: Any, dialled: int | None) -> None:
    assert own_sni([listener], "127.0.0.1", 8443) == dialled


def test_hosts_that_go_the_same_way_share_a_route() -> None:
    found = meets(
        REGISTRY_ONLY,
        entry("www.wiki.example", "443 TLS"),
        virtual_service(
            "*.wiki.example",
            f"{{tls: [{{match: [{{sniHosts: [a.wiki.example, b.wiki.example, '*.c.wiki.example']}}], "
            f"route: [{to('www.wiki.example', 443)}]}}]}}",
        ),
    )
    tunnels = [route for route in found.data["routes"] if route["carries"] == "tunnels"]
    leads = [{"service": "outbound|443||www.wiki.example", "port": 443}]
    assert tunnels == [
        {"carries": "tunnels", "hosts": ["a.wiki.example", "b.wiki.example"], "ports": [443], "to": leads},
        {"carries": "tunnels", "hosts": ["*.c.wiki.example"], "ports": [443], "to": leads},
        {"carries": "tunnels", "hosts": ["www.wiki.example"], "ports": [443], "refuse": "close"},
    ]


def test_conditions_of_both_hops_must_hold() -> None:
    found = meets(
        REGISTRY_ONLY,
        entry("a.example", "80 HTTP"),
        thing(
            "Gateway g",
            "{selector: {istio: egressgateway}, servers: [{port: {number: 80, name: p, protocol: HTTP}, hosts: [a.example]}]}",
        ),
        virtual_service(
            "a.example",
            "{gateways: [mesh, g], http: ["
            "{match: [{gateways: [mesh], uri: {prefix: /x/}}], "
            f"route: [{to('istio-egressgateway.istio-system.svc.cluster.local', 80)}]}}, "
            f"{{match: [{{gateways: [g], method: {{exact: GET}}}}], route: [{to('a.example')}]}}]}}",
        ),
    )
    assert found.data["routes"][0]["all"] == [{"paths": ["/x/*"]}, {"methods": ["GET"]}]
    assert found.get("a.example:80/x/y") == "outbound|80||a.example"
    assert found.get("a.example:80/x/y", "POST") == "not_found"
    assert found.get("a.example:80/y") == "not_found"
