"""What a hostile peer may not do: take the turns of others, or go on without end."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from support.exchanges import SHORT_S, service, the_only_record
from support.plain_http import Ends, RawOrigin, Wire, request, response
from support.proxy import Proxy
from support.waiting import eventually

TINY = b"1\r\nx\r\n" * 10_000


@pytest.mark.parametrize("whose", ["upstream", "client"])
def test_a_body_of_endless_tiny_chunks_leaves_others_their_turn(proxy: Proxy, origin: RawOrigin, whose: str) -> None:
    with Ends(proxy) as hostile, Ends(proxy) as other:
        head = "Transfer-Encoding: chunked"
        hostile.send(f"POST {origin.url('/hostile')} HTTP/1.1\r\nHost: a\r\n{head}\r\n\r\n".encode())
        upstream = origin.take()
        sender = upstream if whose == "upstream" else hostile
        if whose == "upstream":
            upstream.head()
            upstream.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        over = threading.Event()

        def flood() -> None:
            try:
                while not over.is_set():
                    sender.send(TINY)
            except OSError:
                pass  # the end of the test

        def drain() -> None:
            try:
                while (hostile if whose == "upstream" else upstream).sock.recv(1 << 18):
                    pass
            except OSError:
                pass

        threads = [threading.Thread(target=work, daemon=True) for work in (flood, drain)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(20):
                other.send(request("http://closed.example.test/"))
                assert other.response().status in (403, 502, 503)
        finally:
            over.set()
            for wire in (hostile, upstream):
                wire.sock.shutdown(socket.SHUT_RDWR)
            for thread in threads:
                thread.join(10)


@contextmanager
def flooding(wire: Wire, data: bytes) -> Iterator[None]:
    """Sends it again and again, until the connection is broken or the test is over."""
    over = threading.Event()

    def flood() -> None:
        try:
            while not over.is_set():
                wire.send(data)
        except OSError:
            pass  # the proxy has left

    thread = threading.Thread(target=flood, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        try:
            wire.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the same
        thread.join(10)


ENDLESS = [("length", b"x" * 65_536), ("tiny chunks", TINY)]


@pytest.mark.parametrize(("framing", "piece"), ENDLESS, ids=[framing for framing, _ in ENDLESS])
def test_the_time_of_a_service_is_over_though_its_response_keeps_coming(
    configured: Callable[..., Proxy], origin: RawOrigin, framing: str, piece: bytes
) -> None:
    proxy = configured(services=[service(origin, timeout_s=SHORT_S)])
    field = f"Content-Length: {1 << 50}" if framing == "length" else "Transfer-Encoding: chunked"
    with Ends(proxy) as client:
        client.send(request("http://api.example.test/"))
        upstream = origin.take()
        upstream.request()
        upstream.send(f"HTTP/1.1 200 OK\r\n{field}\r\n\r\n".encode())
        with flooding(upstream, piece):
            eventually(lambda: not client.sock.recv(1 << 18), "it is cut", 8.0)
    record = the_only_record(proxy)
    assert record["outcome"] == "upstream_timeout"
    assert record["duration_ms"] < 5000


@pytest.mark.parametrize(("framing", "piece"), ENDLESS, ids=[framing for framing, _ in ENDLESS])
def test_a_body_that_keeps_coming_behind_its_answer_is_not_read_without_end(
    configured: Callable[..., Proxy], origin: RawOrigin, framing: str, piece: bytes
) -> None:
    proxy = configured()
    field = f"Content-Length: {1 << 50}" if framing == "length" else "Transfer-Encoding: chunked"
    with Ends(proxy) as client:
        client.send(request(origin.url(), field, method="POST"))
        upstream = origin.take()
        upstream.head()
        with flooding(client, piece):
            upstream.send(response(b"no", "Connection: close", status="403 Forbidden"))
            upstream.close()
            reply = client.response()
            assert (reply.status, reply.body) == (403, b"no")
            eventually(lambda: proxy.metric("connections_open") == 0, "it had its time", 8.0)
    the_only_record(proxy)
