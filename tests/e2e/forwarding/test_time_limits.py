"""Time limits of requests: of clients, services and bodies."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from support.exchanges import SHORT_S, answer, outcomes, service
from support.plain_http import Ends, RawOrigin, request, response
from support.proxy import Proxy


def test_a_kept_client_that_asks_nothing_more_is_closed(configured: Callable[..., Proxy]) -> None:
    proxy = configured(timeouts={"keep_alive_s": SHORT_S})
    with RawOrigin(answer) as origin, Ends(proxy) as client:
        for _ in range(2):
            assert client.ask(request(origin.url())).status == 200
        assert client.to_the_end() == b""
        assert not client.was_reset
    assert outcomes(proxy) == [(200, "answered")] * 2


def test_a_kept_client_stays_when_a_reload_changes_its_time(
    start: Callable[..., Proxy], config: dict[str, Any]
) -> None:
    """Its next request may be on its way. It has the time that was in force when it began to wait."""
    proxy = start(config)
    with RawOrigin(answer) as origin, Ends(proxy) as client:
        assert client.ask(request(origin.url("/1"))).status == 200
        assert proxy.reload({**config, "timeouts": {"keep_alive_s": SHORT_S}})
        assert client.ask(request(origin.url("/2"))).body == b"GET /2"
        assert client.to_the_end() == b"", "now the new one"
    assert outcomes(proxy) == [(200, "answered")] * 2


def test_a_kept_client_that_begins_a_head_and_stops_gets_408(configured: Callable[..., Proxy]) -> None:
    proxy = configured(timeouts={"head_s": SHORT_S})
    with RawOrigin(answer) as origin, Ends(proxy) as client:
        assert client.ask(request(origin.url())).status == 200
        reply = client.ask(b"GET ")
        assert (reply.status, reply.slug) == (408, "head_timeout")
        assert client.to_the_end() == b""
    assert outcomes(proxy) == [(200, "answered"), (408, "head_timeout")]


def test_an_upstream_that_takes_too_long_is_504(configured: Callable[..., Proxy], origin: RawOrigin) -> None:
    proxy = configured(services=[service(origin, timeout_s=SHORT_S)])
    with Ends(proxy) as client:
        client.send(request("http://api.example.test/1", method="POST", body=b"x"))
        upstream = origin.take()
        upstream.request()
        reply = client.response()
        assert (reply.status, reply.slug, reply.body) == (504, "upstream_timeout", b"upstream request timeout")
        upstream.to_the_end()
        client.send(request("http://api.example.test/2"))
        upstream = origin.take()
        upstream.request()
        upstream.send(response(b"in time"))
        assert client.response().body == b"in time"


def test_an_upstream_that_takes_too_long_for_its_body_is_cut(
    configured: Callable[..., Proxy], origin: RawOrigin
) -> None:
    proxy = configured(services=[service(origin, timeout_s=SHORT_S)])
    with Ends(proxy) as client:
        client.send(request("http://api.example.test/"))
        upstream = origin.take()
        upstream.request()
        upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nx")
        assert not client.response().complete
        upstream.to_the_end()
    assert outcomes(proxy) == [(200, "upstream_timeout")]


def test_the_time_of_a_service_does_not_run_while_its_request_is_sent(
    configured: Callable[..., Proxy], origin: RawOrigin
) -> None:
    proxy = configured(services=[service(origin, timeout_s=SHORT_S)])
    with Ends(proxy) as client:
        client.send(request("http://api.example.test/", "Content-Length: 2", method="POST") + b"x")
        upstream = origin.take()
        assert upstream.head() is not None
        threading.Event().wait(2 * SHORT_S)  # it is this that takes time
        client.send(b"y")
        assert upstream.exactly(2) == b"xy"
        upstream.send(response(b"in time"))
        assert client.response().body == b"in time"


def test_an_upstream_that_falls_silent_is_504_and_its_client_kept(
    configured: Callable[..., Proxy], origin: RawOrigin
) -> None:
    proxy = configured(services=[service(origin, idle_timeout_s=SHORT_S)])
    with Ends(proxy) as client:
        client.send(request("http://api.example.test/"))
        upstream = origin.take()
        upstream.request()
        reply = client.response()
        assert (reply.status, reply.slug, reply.get("connection")) == (504, "upstream_idle_timeout", "keep-alive")
        upstream.to_the_end()
        client.send(request("http://api.example.test/"))
        assert origin.take().request().target == "/"


def test_a_client_whose_body_stops_gets_408(configured: Callable[..., Proxy], origin: RawOrigin) -> None:
    proxy = configured(timeouts={"idle_s": SHORT_S})
    with Ends(proxy) as client:
        client.send(request(origin.url(), "Content-Length: 2", method="POST") + b"x")
        upstream = origin.take()
        reply = client.response()
        assert (reply.status, reply.slug, reply.get("connection")) == (408, "body_timeout", "close")
        upstream.to_the_end()
        client.end()
        assert client.to_the_end() == b""
    assert outcomes(proxy) == [(408, "body_timeout")]


def test_a_half_closed_client_is_not_waited_for_without_end(
    configured: Callable[..., Proxy], origin: RawOrigin
) -> None:
    proxy = configured(timeouts={"half_close_s": SHORT_S})
    with Ends(proxy) as client:
        client.send(request(origin.url()))
        client.end()
        upstream = origin.take()
        upstream.request()
        assert client.to_the_end() == b""
        upstream.to_the_end()
    assert outcomes(proxy) == [(None, "client_gone")]
