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


def gateway(port: int, protocol: str, rest: str = "", name: str = "g") -> str:
    server = f"{{port: {{number: {port}, name: p, protocol: {protocol}}}, hosts: ['*']{rest}}}"
    return thing(f"Gateway {name}", f"{{selector: {{a: b}}, servers: [{server}]}}")


PASSES = ", tls: {mode: PASSTHROUGH}"


@pytest.mark.parametrize(
    ("text", "listener"),
    [
        (gateway(443, "HTTP"), ("gateway-tls", "http", 8443, 443)),  # it takes no TLS then
        (gateway(443, "HTTPS", PASSES), ("gateway-tls", "sni", 8443, 443)),
        (gateway(8081, "HTTP"), ("gateway-8081", "http", 8081, 8081)),
        (gateway(15443, "TLS", PASSES), ("gateway-15443", "sni", 15443, 15443)),
    ],
)
def test_listeners_for_the_servers_of_gateways(text: str, listener: tuple[Any, ...]) -> None:
    assert listener in listeners(REGISTRY_ONLY, text)


def test_a_listener_is_behind_the_port_of_the_gateway_s_service() -> None:
    service = (
        "apiVersion: v1\nkind: Service\nmetadata: {name: egress}\n"
        "spec: {selector: {a: b}, ports: [{port: 81, targetPort: 8081, name: http}]}\n"
    )
    assert ("gateway-81", "http", 8081, 81) in listeners(REGISTRY_ONLY, gateway(81, "HTTP"), service)


@pytest.mark.parametrize(
    ("texts", "note"),
    [
        (
            (gateway(443, "HTTP"), gateway(443, "TLS", PASSES, "h")),
            "port 443 cannot serve TLS and plain HTTP at once: this server is not listened for",
        ),
        ((gateway(3128, "HTTP"),), "no listener: port 3128 is that of another"),
    ],
)
def test_servers_that_no_listener_can_have_are_noted(texts: tuple[str, ...], note: str) -> None:
    assert [each for each in meets(REGISTRY_ONLY, *texts, beside={}).notes if each.endswith(note)]


def test_listeners_of_others_are_left_alone() -> None:
    assert "listeners" not in meets(REGISTRY_ONLY).data


def test_a_gateway_says_who_the_client_is() -> None:
    assert meets(REGISTRY_ONLY, gateway(80, "HTTP")).data["http"] == {"forwarded_for": "append"}
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


def test_an_endpoint_that_is_no_address_is_no_listener_of_this_proxy() -> None:
    assert own_sni([{"protocol": "sni", "port": 8443}], "b.example", 8443) is None


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
