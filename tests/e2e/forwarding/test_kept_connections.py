"""Connections to origins that are kept between requests: for whom, for how long, and when not."""

from __future__ import annotations

import queue
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest
from support.dns import DnsServer
from support.exchanges import SHORT_S, answer, outcomes
from support.plain_http import CLOSE, RESET, STALL, Ends, Message, RawOrigin, request, response
from support.proxy import Proxy
from support.waiting import eventually, once_at_rest


def test_a_kept_connection_serves_other_clients_of_the_same_origin(proxy: Proxy) -> None:
    with RawOrigin(answer) as origin:
        for number in range(5):
            with Ends(proxy) as client:
                assert client.ask(request(origin.url(f"/{number}"))).body == f"GET /{number}".encode()
        assert origin.contacts() == 1


def test_a_kept_connection_is_for_its_host_alone(proxy: Proxy, dns: DnsServer) -> None:
    for host in ("one.pool.example.test", "two.pool.example.test"):
        dns.add(host, "A", "127.0.0.1")
    with RawOrigin(answer) as origin, Ends(proxy) as client:
        for host in ("one", "two", "one"):
            assert client.ask(request(origin.url(host=f"{host}.pool.example.test"))).status == 200
        assert origin.contacts() == 2


def test_a_connection_that_announced_its_client_is_for_nobody_else(
    configured: Callable[..., Proxy], origin: RawOrigin
) -> None:
    announced = {"action": "allow", "hosts": ["127.0.0.1"], "methods": ["GET"], "proxy_protocol": "v1"}
    proxy = configured(rules=[{**announced, "private_addresses": True}])
    with Ends(proxy, source="127.5.0.1") as one, Ends(proxy, source="127.5.0.2") as other:
        for client, address in ((one, b"127.5.0.1"), (other, b"127.5.0.2"), (one, b"127.5.0.1")):
            client.send(request(origin.url("/announced")))
            upstream = origin.take()
            assert upstream.until(b"\r\n").startswith(b"PROXY TCP4 " + address)
            assert upstream.request().target == "/announced"
            upstream.send(response())
            assert client.response().status == 200
        other.send(request(origin.url("/plain"), method="POST", body=b"x"))
        upstream = origin.take()
        assert upstream.request().target == "/plain", "on one that was never announced"


@pytest.mark.parametrize("close", [True, False])
def test_an_upstream_that_says_close_is_not_asked_again(proxy: Proxy, close: bool) -> None:
    fields = ("Connection: close",) if close else ()
    with RawOrigin(lambda _: [response(b"x", *fields)]) as origin, Ends(proxy) as client:
        for _ in range(3):
            assert client.ask(request(origin.url())).body == b"x"
        assert origin.contacts() == (3 if close else 1)
        if close:
            eventually(lambda: all(wire.sock.fileno() < 0 for wire in origin.connections), "each is let go")


@pytest.mark.usefixtures("new_lines_only")
def test_a_stale_connection_is_found_out_and_a_get_asked_again(proxy: Proxy) -> None:
    """The origin closes on the second request of a connection, without a word."""
    seen: list[Message] = []

    def once(asked: Message) -> list[Any]:
        seen.append(asked)
        return [CLOSE] if asked.target == "/2" and len(seen) == 2 else [response(asked.target.encode())]

    with RawOrigin(once) as origin, Ends(proxy) as client:
        assert client.ask(request(origin.url("/1"))).body == b"/1"
        assert client.ask(request(origin.url("/2"))).body == b"/2"
        assert origin.contacts() == 2
    assert [each.target for each in seen] == ["/1", "/2", "/2"]
    assert seen[1].get("x-request-id") == seen[2].get("x-request-id")
    assert outcomes(proxy) == [(200, "answered")] * 2


def test_a_get_is_asked_again_once_and_never_on_a_fresh_connection(proxy: Proxy) -> None:
    def never(asked: Message) -> list[Any]:
        return [response()] if asked.target == "/1" else [CLOSE]

    with RawOrigin(never) as origin, Ends(proxy) as client:
        assert client.ask(request(origin.url("/1"))).status == 200
        assert client.ask(request(origin.url("/2"))).status == 502
        assert origin.contacts() == 2
        assert client.ask(request(origin.url("/2"))).status == 502
        assert origin.contacts() == 3
    assert sum(wire.received.count(b"GET /2 ") for wire in origin.connections) == 3


@pytest.mark.parametrize("end", [CLOSE, RESET])
@pytest.mark.parametrize("method", ["POST", "PATCH", "BREW"])
def test_what_must_not_be_done_twice_is_not_asked_again(proxy: Proxy, method: str, end: Any) -> None:
    def once(asked: Message) -> list[Any]:
        return [response()] if asked.method == "GET" else [end]

    with RawOrigin(once) as origin, Ends(proxy) as client:
        assert client.ask(request(origin.url())).status == 200
        reply = client.ask(request(origin.url(), method=method, body=b"x"))
        assert (reply.status, reply.slug) == (502, "upstream_closed")
        assert origin.contacts() == 1


def test_a_get_is_not_asked_again_once_a_byte_of_its_answer_was_seen(proxy: Proxy) -> None:
    def begin(begun: bytes, end: Any) -> Callable[[Message], list[Any]]:
        return lambda asked: [response()] if asked.target == "/1" else [begun, STALL, end]

    with ExitStack() as stack:
        waiting = []
        for begun in (b"H", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 102 Processing\r\n\r\n"):
            for end in (CLOSE, RESET):
                origin, client = RawOrigin(begin(begun, end)), Ends(proxy)
                stack.enter_context(origin)
                stack.enter_context(client)
                assert client.ask(request(origin.url("/1"))).status == 200
                client.send(request(origin.url("/2")))
                waiting.append((origin, client))
        once_at_rest(lambda: proxy.cpu_s() + 1)
        for origin, client in waiting:
            origin.go_on()
            told = client.response()
            assert (told if told.status >= 200 else client.response()).status == 502
            assert origin.contacts() == 1


def test_an_upstream_that_closes_while_it_is_kept_is_let_go_at_once(proxy: Proxy, origin: RawOrigin) -> None:
    with Ends(proxy) as client:
        client.send(request(origin.url("/1")))
        with origin.take() as upstream:
            upstream.request()
            upstream.send(response())
            assert client.response().status == 200
            upstream.end()
            assert upstream.to_the_end() == b""
        client.send(request(origin.url("/2"), method="POST", body=b"x"))
        with origin.take() as upstream:
            assert upstream.request().target == "/2"


POISON = response(b"poison", "Set-Cookie: of=another")


def test_what_an_upstream_says_unasked_is_nobodys_answer(proxy: Proxy, origin: RawOrigin) -> None:
    """In the same segment as the answer, or while the connection is kept."""
    for behind in (True, False):
        with Ends(proxy) as client:
            client.send(request(origin.url("/1")))
            upstream = origin.take()
            upstream.request()
            upstream.send(response(b"one") + POISON * behind)
            assert client.response().body == b"one"
            if not behind:
                upstream.send(POISON)
            upstream.to_the_end()
            client.send(request(origin.url("/2")))
            upstream = origin.take()
            upstream.request()
            upstream.send(response(b"two", "Connection: close"))
            assert client.response().body == b"two"


@pytest.mark.parametrize("unasked", [POISON, b"H"])
def test_what_an_upstream_says_while_its_answer_is_still_being_read_is_nobodys_either(
    proxy: Proxy, origin: RawOrigin, unasked: bytes
) -> None:
    body = b"x" * (6 << 20)  # more than fits behind the proxy; most of it, as a rule, fits before it

    def seen_in_time() -> bool:
        """Whether its last packet came before the next request had been sent, which is nobody's to hurry."""
        with Ends(proxy, buffer=4096) as client, ThreadPoolExecutor(1) as sender:
            client.send(request(origin.url("/1")) + request(origin.url("/2"), method="POST", body=b"y"))
            upstream = origin.take()
            upstream.request()
            sent = sender.submit(upstream.send, response(body) + unasked)
            assert client.response().body == body
            sent.result()
            try:
                fresh = origin.take(timeout_s=1.0)
            except queue.Empty:
                return False
            assert fresh.request().target == "/2"
            fresh.send(response(b"two"))
            assert client.response().body == b"two"
            return True

    assert any(seen_in_time() for _ in range(5))


@pytest.mark.parametrize(
    "head", [b"HTTP/1.1 204 No Content\r\n\r\n", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 6\r\n\r\n"]
)
def test_a_body_where_none_may_be_is_nobodys_answer(proxy: Proxy, head: bytes) -> None:
    def script(asked: Message) -> list[bytes]:
        return [head + POISON] if asked.target == "/1" else [response(b"two")]

    with RawOrigin(script) as origin, Ends(proxy) as client:
        assert client.ask(request(origin.url("/1"))).status in (204, 304)
        assert client.ask(request(origin.url("/2"))).body == b"two"


def test_a_body_behind_the_answer_to_head_is_nobodys_answer(proxy: Proxy) -> None:
    with RawOrigin(lambda asked: [response(b"body of GET")]) as origin, Ends(proxy) as client:
        assert client.ask(request(origin.url(), method="HEAD"), "HEAD").status == 200
        assert client.ask(request(origin.url())).body == b"body of GET"
        assert origin.contacts() == 2


def test_an_answer_before_the_request_has_gone_up_ends_the_connection_to_its_origin(
    proxy: Proxy, origin: RawOrigin
) -> None:
    """Else the rest of the body would be the next request."""
    with Ends(proxy) as client:
        client.send(request(origin.url("/1"), "Content-Length: 100", method="POST") + b"x")
        upstream = origin.take()
        assert upstream.head() is not None
        upstream.send(response(b"early"))
        assert client.response().body == b"early"
        client.send(request(origin.url("/smuggled")))
        client.end()
        assert client.to_the_end() == b""
        assert b"smuggled" not in upstream.to_the_end()
    with Ends(proxy) as client:
        client.send(request(origin.url("/2")))
        assert origin.take().request().target == "/2"


def test_kept_connections_are_closed_when_their_time_is_up(configured: Callable[..., Proxy], origin: RawOrigin) -> None:
    proxy = configured(timeouts={"upstream_idle_s": SHORT_S})
    with Ends(proxy) as client:
        client.send(request(origin.url()))
        upstream = origin.take()
        upstream.request()
        upstream.send(response())
        assert client.response().status == 200
        assert upstream.to_the_end() == b""
        assert client.is_silent()


def test_old_connections_are_not_kept(configured: Callable[..., Proxy]) -> None:
    proxy = configured(timeouts={"upstream_lifetime_s": 0.0001})
    with RawOrigin(answer) as origin, Ends(proxy) as client:
        for _ in range(3):
            assert client.ask(request(origin.url())).status == 200
        assert origin.contacts() == 3


@pytest.mark.parametrize("limits", [{"max_pooled": 0}, {"max_pooled_each": 0}, {"max_pooled": 1}])
def test_no_more_connections_are_kept_than_may_be(configured: Callable[..., Proxy], limits: dict[str, int]) -> None:
    proxy = configured(limits=limits)
    with RawOrigin(answer) as one, RawOrigin(answer) as other, Ends(proxy) as client:
        for _ in range(2):
            for origin in (one, other):
                assert client.ask(request(origin.url())).status == 200
        assert (one.contacts(), other.contacts()) == (2, 2)


def test_a_connection_that_answered_a_head_is_not_kept(proxy: Proxy, origin: RawOrigin) -> None:
    """A server that sends a body all the same would be a response behind from there on."""
    with Ends(proxy) as client:
        client.send(request(origin.url("/1"), method="HEAD"))
        first = origin.take()
        first.request()
        first.send(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n")
        assert client.head() is not None
        client.send(request(origin.url("/2")))
        second = origin.take()
        assert second.request().target == "/2"
        second.send(response(b"two"))
        assert client.response().body == b"two"
