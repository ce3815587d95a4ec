"""Limits and policy: how large a body, which names and methods, and by which configuration."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from support.dns import DnsServer
from support.exchanges import answer, outcomes, service, web
from support.plain_http import Ends, RawOrigin, chunked, request, response
from support.proxy import Proxy, free_port


@pytest.mark.parametrize("coding", ["length", "chunks", "chunks that come later"])
def test_a_body_beyond_the_limit_is_413(configured: Callable[..., Proxy], origin: RawOrigin, coding: str) -> None:
    proxy = configured(limits={"max_body_bytes": 100_000})
    body = b"x" * 150_000
    with Ends(proxy) as client:
        if coding == "length":
            client.send(request(origin.url(), method="POST", body=body))
        elif coding == "chunks":
            client.send(request(origin.url(), "Transfer-Encoding: chunked", method="POST") + chunked(body))
        else:
            client.send(request(origin.url(), "Transfer-Encoding: chunked", method="POST"))
            upstream = origin.take()
            assert upstream.head() is not None
            client.send(chunked(body))
        reply = client.response()
        assert (reply.status, reply.slug, reply.get("connection")) == (413, "body_too_large", "close")
        assert reply.complete
        client.end()
        assert client.to_the_end() == b""
        assert not client.was_reset
    assert outcomes(proxy) == [(413, "body_too_large")]
    for wire in origin.connections:
        wire.to_the_end()
        assert wire.received.count(b"x" * 1000) <= 100
        assert not wire.received.endswith(b"0\r\n\r\n")


def test_a_body_at_the_limit_passes(configured: Callable[..., Proxy]) -> None:
    proxy = configured(limits={"max_body_bytes": 1000})
    with RawOrigin(answer) as origin, Ends(proxy) as client:
        assert client.ask(request(origin.url(), method="POST", body=b"x" * 1000)).status == 200
        whole = request(origin.url(), "Transfer-Encoding: chunked", method="POST") + chunked(b"x" * 500, b"x" * 500)
        assert client.ask(whole).status == 200


def test_what_is_not_registered_is_502_without_a_word_on_an_http_listener_and_403_on_a_proxy(
    configured: Callable[..., Proxy], dns: DnsServer, origin: RawOrigin
) -> None:
    proxy = configured(
        outbound="registry_only",
        services=[service(origin)],
        listeners=[{"protocol": "http-proxy"}, {"protocol": "http", "name": "web", "port": free_port()}],
    )
    queries = dns.count()
    with Ends(proxy) as client:
        reply = client.ask(request("http://unknown.example.test/"))
        assert (reply.status, reply.slug) == (403, "rule_denied")
        assert client.ask(request("http://api.example.test:81/")).status == 403, "nor another port"
        client.send(request("http://api.example.test/on"))
        upstream = origin.take()
        assert upstream.request().get("host") == "api.example.test"
        upstream.send(response())
        assert client.response().status == 200
    with web(proxy) as client:
        reply = client.ask(request("/", host="unknown.example.test"))
        assert (reply.status, reply.body, reply.get("content-length")) == (502, b"", "0")
        client.send(request("/web", host="api.example.test"))
        assert upstream.request().target == "/web"
        upstream.send(response())
        assert client.response().status == 200
    assert dns.count() == queries, "and nobody was asked for the name"
    assert [status for status, _ in outcomes(proxy)] == [403, 403, 200, 502, 200]


def test_a_name_that_is_refused_is_never_looked_up(configured: Callable[..., Proxy], dns: DnsServer) -> None:
    proxy = configured(rules=[{"action": "deny", "hosts": ["*.closed.example.test"]}])
    queries = dns.count()
    with Ends(proxy) as client:
        for number in range(3):
            assert client.ask(request(f"http://{number}.closed.example.test/")).status == 403
    assert dns.count() == queries


def test_the_next_request_of_a_kept_client_is_judged_by_the_new_configuration(
    configured: Callable[..., Proxy], config: dict[str, Any]
) -> None:
    proxy = configured()
    with RawOrigin(answer) as origin, Ends(proxy) as client:
        assert client.ask(request(origin.url("/1"))).status == 200
        assert proxy.reload({**config, "rules": [{"name": "new", "action": "deny", "ports": [origin.port]}]})
        reply = client.ask(request(origin.url("/2")))
        assert (reply.status, reply.slug) == (403, "rule_denied"), "and no kept connection is a way round it"
        assert proxy.reload(config)
        assert client.ask(request(origin.url("/3"))).status == 200
        assert [wire.received.count(b"GET /2") for wire in origin.connections] == [0] * origin.contacts()


def test_the_next_request_of_a_kept_client_comes_in_by_the_listener_as_it_is_now(
    configured: Callable[..., Proxy], config: dict[str, Any]
) -> None:
    proxy = configured()
    with RawOrigin(answer) as origin, Ends(proxy) as client:
        long = request(origin.url(), "X: " + "y" * 3000)
        assert client.ask(long).status == 200
        changed = {"listeners": [{"protocol": "http-proxy", "name": "renamed"}], "limits": {"max_head_bytes": 2048}}
        assert proxy.reload({**config, **changed})
        assert client.ask(request(origin.url())).status == 200
        assert client.ask(long).status == 431
    assert [record["listener"] for record in proxy.settled().records][1:] == ["renamed", "renamed"]


def test_a_kept_client_is_closed_in_order_where_its_listener_is_another_now(
    configured: Callable[..., Proxy], config: dict[str, Any]
) -> None:
    proxy = configured()
    with RawOrigin(answer) as origin, Ends(proxy) as client:
        assert client.ask(request(origin.url())).status == 200
        assert proxy.reload({**config, "listeners": [{"protocol": "http", "service_port": origin.port}]})
        client.send(request("", method="CONNECT").replace(b"CONNECT ", f"CONNECT {origin.target}".encode()))
        assert client.to_the_end() == b""
        assert not client.was_reset
    assert outcomes(proxy) == [(200, "answered")]


def test_a_method_that_a_rule_refuses_is_refused_for_that_request_alone(configured: Callable[..., Proxy]) -> None:
    with RawOrigin(answer) as origin:
        proxy = configured(rules=[{"action": "deny", "ports": [origin.port], "methods": ["DELETE"]}])
        with Ends(proxy) as client:
            statuses = [client.ask(request(origin.url(), method=method)).status for method in ("GET", "DELETE", "PUT")]
    assert statuses == [200, 403, 200]
