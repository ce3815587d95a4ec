"""Where a request goes: by its URL, by Host, by what its listener takes; and what is answered here."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from support.clients import connect_head
from support.exchanges import outcomes, the_only_record, web
from support.plain_http import Ends, RawOrigin, request, response
from support.proxy import Proxy, free_port


def test_a_whole_url_goes_to_its_authority_in_origin_form(proxy: Proxy, client: Ends, origin: RawOrigin) -> None:
    client.send(request(origin.url("/a?b=c"), "X: y", host="somewhere-else.example"))
    asked = origin.take().request()
    assert asked.raw.startswith(f"GET /a?b=c HTTP/1.1\r\nHost: {origin.target}\r\nX: y\r\nVia: ".encode())
    assert asked.get("host") == origin.target


@pytest.mark.usefixtures("new_lines_only")
def test_a_path_goes_where_the_host_field_says(proxy: Proxy, origin: RawOrigin) -> None:
    with web(proxy) as client:
        client.send(request("/a?b", host=origin.target))
        upstream = origin.take()
        asked = upstream.request()
        assert (asked.target, asked.get("host")) == ("/a?b", origin.target)
        upstream.send(response(b"hello"))
        assert client.response().body == b"hello"
    assert the_only_record(proxy)["listener"] == "web"


def test_a_host_field_without_a_port_means_the_port_of_the_service(
    configured: Callable[..., Proxy], origin: RawOrigin
) -> None:
    port = free_port()
    listeners = [{"protocol": "http-proxy"}, {"protocol": "http", "port": port, "service_port": origin.port}]
    with Ends(configured(listeners=listeners), port) as client:
        client.send(request("/", host="127.0.0.1"))
        assert origin.take().request().get("host") == "127.0.0.1"


def test_a_whole_url_wins_over_host_on_every_listener(proxy: Proxy, origin: RawOrigin) -> None:
    with web(proxy) as client:
        client.send(request(origin.url("/x"), host="refused.example"))
        assert origin.take().request().get("host") == origin.target


def test_a_server_as_a_whole_is_asked_with_an_asterisk(proxy: Proxy, client: Ends, origin: RawOrigin) -> None:
    client.send(request(origin.url(""), method="OPTIONS"))
    upstream = origin.take()
    assert upstream.request().first == "OPTIONS * HTTP/1.1"
    upstream.send(response())
    assert client.response().status == 200
    with web(proxy) as other:
        other.send(request("*", method="OPTIONS", host=origin.target))
        assert upstream.request().first == "OPTIONS * HTTP/1.1"


@pytest.mark.usefixtures("new_lines_only")
@pytest.mark.parametrize(
    ("listener", "target", "host", "status", "slug"),
    [
        ("proxy", "/path", "127.0.0.1", 400, "malformed_target"),
        ("proxy", "*", "127.0.0.1", 400, "malformed_target"),
        ("proxy", "https://127.0.0.1/", "x", 400, "malformed_target"),
        ("web", "https://127.0.0.1/", "x", 400, "malformed_target"),
        ("proxy", "ftp://127.0.0.1/", "x", 400, "malformed_target"),
        ("proxy", "http://user:secret@127.0.0.1/", "x", 400, "malformed_target"),
        ("proxy", "http:///path", "x", 400, "malformed_target"),
        ("proxy", "http://127.0.0.1/#fragment", "x", 400, "malformed_target"),
        ("web", "/", "", 400, "malformed_request"),
        ("web", "/", "127.1", 400, "malformed_target"),
        ("web", "/", "127.0.0.1:0", 400, "malformed_target"),
        ("web", "/", "127.0.0.1:65536", 400, "malformed_target"),
        ("web", "/", "user@127.0.0.1", 400, "malformed_request"),
        ("web", "/", "127.0.0.1/path", 400, "malformed_request"),
        ("web", "/", "a, b", 400, "malformed_request"),
    ],
)
def test_what_is_no_target_for_a_listener_is_refused(
    proxy: Proxy, listener: str, target: str, host: str, status: int, slug: str
) -> None:
    with web(proxy) if listener == "web" else Ends(proxy) as client:
        reply = client.ask(request(target, host=host))
        assert (reply.status, reply.slug, reply.get("connection")) == (status, slug, "close")
        assert client.to_the_end() == b""
    assert outcomes(proxy) == [(status, slug)]


@pytest.mark.usefixtures("new_lines_only")
@pytest.mark.parametrize("url", ["/", "", "/x"])
def test_an_options_that_may_go_no_further_is_answered_here(proxy: Proxy, origin: RawOrigin, url: str) -> None:
    with Ends(proxy) as client:
        for _ in range(2):
            reply = client.ask(request(origin.url(url), "Max-Forwards: 0", method="OPTIONS"))
            assert (reply.status, reply.body, reply.get("content-length")) == (200, b"", "0")
            assert "OPTIONS" in (reply.get("allow") or "")
        with_body = request(origin.url(url), "Max-Forwards: 0", method="OPTIONS", body=b"?" * 10)
        assert client.ask(with_body).get("connection") == "close"
        assert client.to_the_end() == b""
    assert origin.contacts() == 0
    records = proxy.settled().records
    assert [(each["status"], each["outcome"], each["upstream"]) for each in records] == [(200, "answered", None)] * 3


@pytest.mark.usefixtures("new_lines_only")
def test_a_trace_that_may_go_no_further_is_not_echoed(proxy: Proxy, origin: RawOrigin) -> None:
    with Ends(proxy) as client:
        reply = client.ask(request(origin.url(), "Max-Forwards: 0", "Authorization: secret", method="TRACE"))
        assert (reply.status, reply.slug) == (501, "method_not_implemented")
        assert b"secret" not in client.received
    assert origin.contacts() == 0
    assert outcomes(proxy) == [(501, "method_not_implemented")]


@pytest.mark.parametrize(
    ("method", "value", "goes_on"),
    [("OPTIONS", "1", "0"), ("TRACE", "10", "9"), ("GET", "0", "0"), ("POST", "1", "1"), ("DELETE", "none", "none")],
)
def test_max_forwards_is_counted_down_for_trace_and_options_alone(
    proxy: Proxy, client: Ends, origin: RawOrigin, method: str, value: str, goes_on: str
) -> None:
    client.send(request(origin.url(), f"Max-Forwards: {value}", method=method))
    assert origin.take().request().get("max-forwards") == goes_on


def test_a_max_forwards_that_is_no_number_is_400(proxy: Proxy, client: Ends, origin: RawOrigin) -> None:
    reply = client.ask(request(origin.url(), "Max-Forwards: -1", method="OPTIONS"))
    assert (reply.status, reply.slug) == (400, "malformed_request")
    assert origin.contacts() == 0


def test_who_may_not_go_there_is_not_answered_in_its_place(configured: Callable[..., Proxy]) -> None:
    proxy = configured(outbound="registry_only", rules=[{"action": "deny"}])
    with Ends(proxy) as client:
        asked = client.ask(request("http://a.test/", "Max-Forwards: 0", method="OPTIONS"))
        assert (asked.status, asked.slug) == (403, "rule_denied")


@pytest.mark.usefixtures("new_lines_only")
def test_connect_is_not_for_a_listener_that_goes_by_host(proxy: Proxy, origin: RawOrigin) -> None:
    with web(proxy) as client:
        reply = client.ask(connect_head(origin.target))
        assert (reply.status, reply.slug) == (501, "method_not_implemented")
        assert client.to_the_end() == b""
    assert outcomes(proxy) == [(501, "method_not_implemented")]
    assert origin.contacts() == 0


def test_http2_with_prior_knowledge_is_refused_cleanly(proxy: Proxy) -> None:
    with Ends(proxy) as client:
        reply = client.ask(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes.fromhex("000000040000000000"))
        assert (reply.status, reply.slug) == (400, "malformed_request")
        assert b"HTTP/2 with prior knowledge is not served here" in reply.body
        assert client.to_the_end() == b""
        assert not client.was_reset
