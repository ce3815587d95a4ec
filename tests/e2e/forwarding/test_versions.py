"""1xx and HTTP/1.0: what not every client and not every origin knows."""

from __future__ import annotations

from typing import Any

import pytest
from support.exchanges import answer, outcomes, the_only_record
from support.plain_http import CLOSE, RESET, STALL, Ends, RawOrigin, chunked, request, response
from support.proxy import Proxy

# --- 1xx ----------------------------------------------------------------------------------------------------------


def test_a_client_that_waits_for_100_gets_it_from_the_origin(proxy: Proxy, client: Ends, origin: RawOrigin) -> None:
    client.send(request(origin.url(), "Expect: 100-Continue", "Content-Length: 5", method="POST"))
    upstream = origin.take()
    head = upstream.head()
    assert head is not None
    assert head.get("expect") == "100-continue"
    assert client.is_silent()
    upstream.send(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert client.response().first == "HTTP/1.1 100 Continue"
    client.send(b"hello")
    assert upstream.exactly(5) == b"hello"
    upstream.send(response(b"thanks"))
    assert client.response().body == b"thanks"
    client.send(request(origin.url("/next")))
    assert upstream.request().target == "/next"


def test_a_client_that_waits_for_100_and_is_refused_keeps_its_body(
    proxy: Proxy, client: Ends, origin: RawOrigin
) -> None:
    client.send(request(origin.url(), "Expect: 100-continue", "Content-Length: 5", method="POST"))
    upstream = origin.take()
    assert upstream.head() is not None
    upstream.send(response(b"no", status="417 Expectation Failed"))
    reply = client.response()
    assert (reply.status, reply.get("connection")) == (417, "close"), "whose are the bytes that might still come?"
    client.end()
    assert upstream.to_the_end() == b""


def test_a_client_may_send_its_body_before_100(proxy: Proxy, client: Ends, origin: RawOrigin) -> None:
    client.send(request(origin.url(), "Expect: 100-continue", method="POST", body=b"hello"))
    upstream = origin.take()
    assert upstream.request().body == b"hello"
    upstream.send(b"HTTP/1.1 100 Continue\r\n\r\n" + response(b"thanks"))
    assert client.response().status == 100
    assert client.response().body == b"thanks"


def test_interim_responses_are_handed_on_as_they_come(proxy: Proxy, client: Ends, origin: RawOrigin) -> None:
    client.send(request(origin.url()))
    upstream = origin.take()
    upstream.request()
    upstream.send(b"HTTP/1.1 102 Processing\r\n\r\n")
    assert client.response().raw == b"HTTP/1.1 102 Processing\r\n\r\n"
    upstream.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nConnection: X\r\nX: y\r\n\r\nHTTP/1.1 103 E")
    assert client.response().raw == b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    upstream.send(b"arly Hints\r\n\r\n" + response(b"at last"))
    assert client.response().status == 103
    assert client.response().body == b"at last"


@pytest.mark.usefixtures("new_lines_only")
def test_interim_responses_without_end_are_ended(proxy: Proxy, client: Ends) -> None:
    with RawOrigin(lambda _: [b"HTTP/1.1 102 Processing\r\n\r\n" * 100, STALL]) as origin:
        client.send(request(origin.url()))
        statuses = []
        while (status := client.response().status) < 200:
            statuses.append(status)
        assert status == 502
        assert 1 <= len(statuses) <= 32
    client.close()
    assert outcomes(proxy) == [(502, "upstream_protocol_error")]


# --- HTTP/1.0 -----------------------------------------------------------------------------------------------------


def test_a_client_of_http_1_0_is_answered_and_closed(proxy: Proxy, client: Ends, origin: RawOrigin) -> None:
    client.send(f"GET {origin.url()} HTTP/1.0\r\n\r\n".encode())
    upstream = origin.take()
    asked = upstream.request()
    assert (asked.first, asked.get("host")) == ("GET / HTTP/1.1", origin.target)
    assert (asked.get("via") or "").startswith("1.0 egressproxy-")
    upstream.send(b"HTTP/1.1 103 Early Hints\r\n\r\n" + response(b"hello"))
    reply = client.response()
    assert (reply.status, reply.body, reply.get("connection")) == (200, b"hello", "close")
    assert client.to_the_end() == b""


def test_a_client_of_http_1_0_that_asks_to_be_kept_is_kept(proxy: Proxy) -> None:
    with RawOrigin(answer) as origin, Ends(proxy) as client:
        for number in range(3):
            field = ("Connection: Keep-Alive", "Proxy-Connection: keep-alive")[number % 2]
            reply = client.ask(request(origin.url(f"/{number}"), field, version="1.0"))
            assert (reply.body, reply.get("connection")) == (f"GET /{number}".encode(), "keep-alive")


@pytest.mark.parametrize("keep", ["Connection: keep-alive", "X: y"])
def test_a_client_of_http_1_0_gets_chunks_as_a_body_that_ends_with_the_connection(proxy: Proxy, keep: str) -> None:
    script = [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(b"ab", b"cd", trailers="X: y\r\n")]
    with RawOrigin(lambda _: script) as origin, Ends(proxy) as client:
        reply = client.ask(request(origin.url(), keep, version="1.0"))
        assert (reply.body, reply.complete, reply.get("transfer-encoding")) == (b"abcd", True, None)
        assert reply.get("connection") == "close"


@pytest.mark.usefixtures("new_lines_only")
@pytest.mark.parametrize("end", [CLOSE, RESET])
def test_a_body_that_breaks_off_is_not_taken_for_whole_in_http_1_0(proxy: Proxy, end: Any) -> None:
    script = [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhe", b"l", STALL, end]
    with RawOrigin(lambda _: script) as origin, Ends(proxy) as client:
        client.send(request(origin.url(), version="1.0"))
        client.until(b"\r\n\r\nhel")
        origin.go_on()
        client.to_the_end()
        assert client.was_reset
    assert the_only_record(proxy)["outcome"] in ("upstream_closed", "upstream_protocol_error")


def test_an_origin_of_http_1_0_ends_its_body_with_the_connection(proxy: Proxy) -> None:
    with RawOrigin(lambda _: [b"HTTP/1.0 200 OK\r\nX: y\r\n\r\nhello", CLOSE]) as origin, Ends(proxy) as client:
        for _ in range(2):
            reply = client.ask(request(origin.url()))
            assert (reply.first, reply.body, reply.get("x")) == ("HTTP/1.1 200 OK", b"hello", "y")


@pytest.mark.parametrize(("field", "connections"), [("Connection: keep-alive", 1), ("X: y", 3)])
def test_an_origin_of_http_1_0_is_asked_again_where_it_says_so(proxy: Proxy, field: str, connections: int) -> None:
    with RawOrigin(lambda _: [response(b"hello", field, version="1.0")]) as origin, Ends(proxy) as client:
        for _ in range(3):
            assert client.ask(request(origin.url())).body == b"hello"
        assert origin.contacts() == connections
