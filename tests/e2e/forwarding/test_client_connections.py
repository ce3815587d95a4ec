"""One connection of a client, many requests: in order, in pieces, one behind the other."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from support.exchanges import Start, answer, outcomes
from support.plain_http import Ends, RawOrigin, chunked, request, response
from support.proxy import Proxy, free_port
from support.waiting import eventually, once_at_rest


@pytest.mark.usefixtures("new_lines_only")
def test_each_request_of_a_connection_has_a_line_of_its_own(proxy: Proxy) -> None:
    with RawOrigin(answer) as one, RawOrigin(answer) as other, Ends(proxy) as client:
        assert client.ask(request(one.url("/1"))).body == b"GET /1"
        assert client.ask(request(other.url("/2"), method="POST", body=b"!")).body == b"POST /2!"
        assert client.ask(request(one.url("/3"))).body == b"GET /3"
        assert one.contacts() == 1
    first, second, third = proxy.settled().records
    assert (first["upstream"], second["upstream"], third["upstream"]) == (one.target, other.target, one.target)
    assert {each["outcome"] for each in (first, second, third)} == {"answered"}
    assert (second["method"], second["bytes_up"], second["bytes_down"]) == ("POST", 1, 8)
    assert first["client_port"] == third["client_port"]
    assert [each["request"] for each in (first, second, third)] == [1, 2, 3]
    assert (first["reused"], third["reused"]) == (False, True), "on the connection that was kept"


@pytest.mark.usefixtures("new_lines_only")
def test_pipelined_requests_are_served_in_order(proxy: Proxy) -> None:
    with RawOrigin(answer) as one, RawOrigin(answer) as other, Ends(proxy) as client:
        urls = [(one, other)[number % 3 == 1].url(f"/{number}") for number in range(20)]
        client.send(b"".join(request(url, method="POST", body=b"body of " + url.encode()) for url in urls))
        for number, url in enumerate(urls):
            assert client.response().body == f"POST /{number}body of {url}".encode()
    assert outcomes(proxy) == [(200, "answered")] * 20


def test_bodies_of_pipelined_requests_end_where_they_say(proxy: Proxy) -> None:
    with RawOrigin(answer) as origin, Ends(proxy) as client:
        client.send(
            request(origin.url("/1"), method="POST", body=b"GET /inside HTTP/1.1\r\nHost: x\r\n\r\n")
            + request(origin.url("/2"), "Transfer-Encoding: chunked", method="PUT")
            + chunked(b"GET /inside HTTP/1.1\r\n", b"\r\n")
            + request(origin.url("/3"), "Content-Length: 0", method="POST")
            + request(origin.url("/4"))
        )
        bodies = [client.response().body for _ in range(4)]
    assert [body.split(b" ")[1][:2] for body in bodies] == [b"/1", b"/2", b"/3", b"/4"]
    assert origin.connections[0].received.count(b"HTTP/1.1\r\nHost: 127") == 4


def test_a_request_that_comes_while_another_is_served_waits_for_its_turn(
    proxy: Proxy, client: Ends, origin: RawOrigin
) -> None:
    client.send(request(origin.url("/1")))
    upstream = origin.take()
    assert upstream.request().target == "/1"
    client.send(request(origin.url("/2")))
    once_at_rest(lambda: len(proxy.get_json("/tunnels")["tunnels"]))
    assert upstream.is_silent()
    upstream.send(response(b"one"))
    assert client.response().body == b"one"
    assert upstream.request().target == "/2"
    upstream.send(response(b"two"))
    assert client.response().body == b"two"


def test_a_request_in_single_bytes_is_a_request(proxy: Proxy, client: Ends, origin: RawOrigin) -> None:
    whole = request(origin.url("/slow"), "Transfer-Encoding: chunked", method="POST") + chunked(
        b"abc", trailers="A: b\r\n"
    )
    for number in range(len(whole)):
        client.send(whole[number : number + 1])
    asked = origin.take().request()
    assert (asked.target, asked.body, asked.trailers) == ("/slow", b"abc", (("a", "b"),))


def test_an_empty_line_between_requests_is_passed_over(proxy: Proxy) -> None:
    with RawOrigin(answer) as origin, Ends(proxy) as client:
        client.send(request(origin.url("/1")) + b"\r\n" + request(origin.url("/2")))
        assert [client.response().body for _ in range(2)] == [b"GET /1", b"GET /2"]


@pytest.mark.usefixtures("new_lines_only")
def test_a_client_that_says_close_is_closed_behind_its_answer(proxy: Proxy) -> None:
    with RawOrigin(answer) as origin, Ends(proxy) as client:
        client.send(request(origin.url("/1"), "Connection: close") + request(origin.url("/2")))
        reply = client.response()
        assert (reply.body, reply.get("connection")) == (b"GET /1", "close")
        assert client.to_the_end() == b""
    assert [wire.received.count(b"GET") for wire in origin.connections] == [1]
    assert outcomes(proxy) == [(200, "answered")]


@pytest.mark.usefixtures("new_lines_only")
def test_a_long_answer_behind_which_more_was_asked_arrives_whole(proxy: Proxy) -> None:
    body = b"0123456789abcdef" * 65_536 * 8
    with RawOrigin(lambda _: [response(body)]) as origin, Ends(proxy) as client:
        client.send(request(origin.url("/1"), "Connection: close") + request(origin.url("/2"), "X: " + "y" * 10_000))
        eventually(lambda: len(proxy.logged().records) == 1 or client.sock.recv(1, socket.MSG_PEEK), "it answers")
        reply = client.response()
        assert reply.complete
        assert reply.body == body


LONG = b"0123456789abcdef" * 6_250
"""A body that fits what the system holds for a client that does not read, and not what that client holds itself."""


@pytest.mark.usefixtures("new_lines_only")
def test_bytes_that_come_behind_the_last_answer_do_not_cost_the_client_its_tail(proxy: Proxy) -> None:
    with RawOrigin(lambda _: [response(LONG)]) as origin, Ends(proxy, buffer=4096) as client:
        client.send(request(origin.url(), "Connection: close"))
        eventually(lambda: proxy.logged().records[-1:], "the proxy is done with it")
        client.send(b"\r\n")  # of old, some clients write one behind a body
        reply = client.response()
        assert (len(reply.body), reply.get("connection")) == (len(LONG), "close")
        assert client.to_the_end() == b""
        assert not client.was_reset
    assert outcomes(proxy) == [(200, "answered")]


def test_a_request_that_comes_as_its_listener_goes_does_not_cost_the_client_the_answer_before(
    start: Start, config: dict[str, Any], origin: RawOrigin
) -> None:
    staying, leaving = {"protocol": "http-proxy"}, {"protocol": "http-proxy", "port": free_port()}
    proxy = start({**config, "listeners": [staying, leaving]})
    with Ends(proxy, leaving["port"], buffer=4096) as client:
        client.send(request(origin.url("/1")))
        upstream = origin.take()
        upstream.request()
        assert proxy.reload({**config, "listeners": [staying]})
        client.send(request(origin.url("/2")))
        upstream.send(response(LONG))
        proxy.records(1)
        reply = client.response()
        assert (len(reply.body), reply.complete) == (len(LONG), True)
        assert client.to_the_end() == b""
        assert not client.was_reset
    assert [record["path"] for record in proxy.settled().records] == ["/1"]
