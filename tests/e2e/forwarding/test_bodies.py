"""Bodies both ways: how they are framed, held back by slow readers, and overtaken by early answers."""

from __future__ import annotations

import threading

import pytest
from support.exchanges import the_only_record
from support.plain_http import CLOSE, Ends, Message, RawOrigin, chunked, request, response
from support.proxy import Proxy
from support.waiting import once_at_rest

# --- bodies -------------------------------------------------------------------------------------------------------


def test_chunks_and_trailers_go_both_ways(proxy: Proxy, client: Ends, origin: RawOrigin) -> None:
    client.send(request(origin.url(), "Transfer-Encoding: Chunked", "TE: trailers", "Connection: TE", method="POST"))
    upstream = origin.take()
    client.send(b"5;x=y\r\nhello\r\n")
    client.send(b"00006\r\n world\r\n0\r\nX-Sum: 1\r\nX-More: 2\r\nCookie: dropped\r\n\r\n")
    asked = upstream.request()
    assert (asked.body, asked.trailers) == (b"hello world", (("x-sum", "1"), ("x-more", "2")))
    upstream.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
    assert client.until(b"abc\r\n").endswith(b"3\r\nabc\r\n"), "a piece is handed on as it comes"
    upstream.send(b"2;ext\r\nde\r\n000\r\nX-Sum: 2\r\n\r\n")
    assert client.until(b"\r\n\r\n") == b"2\r\nde\r\n0\r\nX-Sum: 2\r\n\r\n"
    client.send(request(origin.url("/next")))
    assert upstream.request().target == "/next"


@pytest.mark.usefixtures("new_lines_only")
@pytest.mark.parametrize("size", [1, 4_095, 4_096, 65_536, 1_000_003])
@pytest.mark.parametrize("coding", ["length", "chunks"])
def test_bodies_of_all_sizes_arrive_whole_both_ways(proxy: Proxy, size: int, coding: str) -> None:
    body = bytes(range(251)) * (size // 251 + 1)
    body = body[:size]

    def echo(asked: Message) -> list[bytes]:
        if coding == "length":
            return [response(asked.body)]
        pieces = [asked.body[at : at + 30_000] for at in range(0, size, 30_000)]
        return [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(*pieces)]

    with RawOrigin(echo) as origin, Ends(proxy) as client:
        for _ in range(2):
            if coding == "length":
                whole = request(origin.url(), method="POST", body=body)
            else:
                whole = request(origin.url(), "Transfer-Encoding: chunked", method="POST") + chunked(body)
            sending = threading.Thread(target=client.send, args=(whole,))
            sending.start()
            assert client.response().body == body
            sending.join()
        assert origin.contacts() == 1
    assert {(each["bytes_up"], each["bytes_down"]) for each in proxy.settled().records} == {(size, size)}


def test_a_body_that_ends_with_the_connection_goes_on_in_chunks(proxy: Proxy) -> None:
    with RawOrigin(lambda _: [b"HTTP/1.1 200 OK\r\n\r\nall there is", CLOSE]) as origin, Ends(proxy) as client:
        for _ in range(2):
            reply = client.ask(request(origin.url()))
            assert (reply.body, reply.get("transfer-encoding"), reply.complete) == (b"all there is", "chunked", True)
        assert origin.contacts() == 2


@pytest.mark.parametrize("status", ["200 OK", "404 Not Found", "304 Not Modified", "204 No Content"])
def test_head_is_answered_with_the_length_and_no_body(proxy: Proxy, status: str) -> None:
    told = "" if status.startswith("204") else "Content-Length: 12345\r\n"
    script = [f"HTTP/1.1 {status}\r\n{told}X: y\r\n\r\n".encode()]
    with RawOrigin(lambda _: script) as origin, Ends(proxy) as client:
        for _ in range(2):
            reply = client.ask(request(origin.url(), method="HEAD"), "HEAD")
            assert (reply.get("content-length"), reply.get("x")) == ("12345" if told else None, "y")
        assert origin.contacts() == 2  # see test_a_connection_that_answered_a_head_is_not_kept
        assert client.is_silent()


def test_head_answered_in_chunks_that_do_not_come(proxy: Proxy) -> None:
    script = [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"]
    with RawOrigin(lambda _: script) as origin, Ends(proxy) as client:
        for _ in range(2):
            assert client.ask(request(origin.url(), method="HEAD"), "HEAD").status == 200
        assert origin.contacts() == 2  # see test_a_connection_that_answered_a_head_is_not_kept


def test_304_tells_the_length_of_what_it_does_not_send(proxy: Proxy) -> None:
    script = [b'HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\nETag: "x"\r\n\r\n']
    with RawOrigin(lambda _: script) as origin, Ends(proxy) as client:
        for _ in range(2):
            reply = client.ask(request(origin.url(), 'If-None-Match: "x"'))
            assert (reply.status, reply.get("content-length"), reply.get("etag")) == (304, "99", '"x"')
        assert origin.contacts() == 1


def test_204_has_no_length_whatever_it_says(proxy: Proxy) -> None:
    with (
        RawOrigin(lambda _: [b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n"]) as origin,
        Ends(proxy) as client,
    ):
        for _ in range(2):
            reply = client.ask(request(origin.url(), method="DELETE"))
            assert (reply.status, reply.get("content-length"), reply.get("transfer-encoding")) == (204, None, None)


# --- slow readers -------------------------------------------------------------------------------------------------

MUCH = b"0123456789abcdef" * (1 << 22)
"""More than all buffers on the way hold together."""
MOST_MORE_KIB = 4096


@pytest.mark.parametrize("coding", ["length", "chunks"])
def test_an_origin_is_held_back_while_its_client_does_not_read(proxy: Proxy, origin: RawOrigin, coding: str) -> None:
    rss_kib = proxy.rss_kib()
    with Ends(proxy, buffer=65_536) as client:
        client.send(request(origin.url()))
        upstream = origin.take()
        upstream.request()
        told = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(MUCH)
        sending = threading.Thread(target=upstream.send, args=(response(MUCH) if coding == "length" else told,))
        sending.start()
        once_at_rest(lambda: proxy.cpu_s() + 1)
        assert sending.is_alive()
        assert proxy.rss_kib() - rss_kib < MOST_MORE_KIB
        assert client.response().body == MUCH
        sending.join()
        assert proxy.rss_kib() - rss_kib < MOST_MORE_KIB


@pytest.mark.parametrize("coding", ["length", "chunks"])
def test_a_client_is_held_back_while_its_origin_does_not_read(proxy: Proxy, coding: str) -> None:
    rss_kib = proxy.rss_kib()
    with RawOrigin(buffer=65_536) as origin, Ends(proxy) as client:
        whole = request(origin.url(), method="PUT", body=MUCH)
        if coding == "chunks":
            whole = request(origin.url(), "Transfer-Encoding: chunked", method="PUT") + chunked(MUCH)
        sending = threading.Thread(target=client.send, args=(whole,))
        sending.start()
        upstream = origin.take()
        head = upstream.head()
        assert head is not None
        once_at_rest(lambda: proxy.cpu_s() + 1)
        assert sending.is_alive()
        assert proxy.rss_kib() - rss_kib < MOST_MORE_KIB
        assert upstream.with_body(head).body == MUCH
        sending.join()
        upstream.send(response(b"all of it"))
        assert client.response().body == b"all of it"
        assert proxy.rss_kib() - rss_kib < MOST_MORE_KIB


# --- answers that come early --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("new_lines_only")
def test_a_refusal_before_the_end_of_a_body_is_handed_on_at_once(proxy: Proxy, origin: RawOrigin) -> None:
    with Ends(proxy) as client:
        client.send(request(origin.url(), "Content-Length: 1000000", method="POST") + b"x" * 1000)
        upstream = origin.take()
        assert upstream.head() is not None
        upstream.send(response(b"too large", "Connection: close", status="413 Content Too Large"))
        reply = client.response()
        assert (reply.status, reply.body, reply.get("connection")) == (413, b"too large", "close")
        client.send(b"x" * 1000)  # and is not reset for it
        client.end()
        assert client.to_the_end() == b""
        assert not client.was_reset
    assert the_only_record(proxy)["outcome"] == "answered"
    assert upstream.to_the_end() is not None


def test_a_refusal_reaches_a_client_that_pours_and_does_not_look(proxy: Proxy, origin: RawOrigin) -> None:
    size = 8 << 20

    def pour() -> None:
        try:
            client.send(request(origin.url(), f"Content-Length: {size}", method="POST") + b"x" * size)
        except OSError:
            pass  # so much for it

    with Ends(proxy) as client:
        pouring = threading.Thread(target=pour)
        pouring.start()
        with origin.take() as upstream:
            assert upstream.head() is not None
            upstream.send(response(b"too large", "Connection: close", status="413 Content Too Large"))
        reply = client.response()
        assert (reply.status, reply.body) == (413, b"too large")
        pouring.join()


def test_an_early_answer_while_the_rest_of_a_body_follows_is_handed_on(proxy: Proxy, origin: RawOrigin) -> None:
    with Ends(proxy) as client:
        client.send(request(origin.url(), "Content-Length: 10", method="POST") + b"12345")
        upstream = origin.take()
        assert upstream.head() is not None
        upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no")
        assert client.until(b"\r\n\r\no")
        client.send(b"67890")
        assert upstream.exactly(10) == b"1234567890"
        upstream.send(b"k")
        assert client.exactly(1) == b"k"
