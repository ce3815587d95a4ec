"""Another protocol on the same connection: handed on where it was asked for, and never one past the policy."""

from __future__ import annotations

import pytest
from support.exchanges import answer, the_only_record
from support.plain_http import Ends, RawOrigin, request
from support.proxy import Proxy

UPGRADE = ("Connection: Upgrade", "Upgrade: websocket")
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nX: y\r\n\r\n"


@pytest.mark.usefixtures("new_lines_only")
def test_behind_a_101_that_was_asked_for_bytes_go_both_ways(proxy: Proxy, origin: RawOrigin) -> None:
    with Ends(proxy) as client:
        client.send(request(origin.url("/chat"), *UPGRADE, "Sec-WebSocket-Version: 13") + b"ahead of it")
        upstream = origin.take()
        head = upstream.head()
        assert head is not None
        assert (head.get("connection"), head.get("upgrade")) == ("Upgrade", "websocket")
        assert head.get("sec-websocket-version") == "13"
        upstream.send(SWITCHED + b"first words")
        told = client.response()
        assert (told.status, told.get("upgrade"), told.get("connection"), told.get("x")) == (
            101,
            "websocket",
            "Upgrade",
            "y",
        )
        assert client.exactly(11) == b"first words"
        assert upstream.exactly(11) == b"ahead of it"
        for _ in range(3):
            client.send(b"\x81\x85\0\0\0\0hello")
            assert upstream.exactly(11) == b"\x81\x85\0\0\0\0hello"
            upstream.send(b"\x81\x05hello")
            assert client.exactly(7) == b"\x81\x05hello"
        client.end()
        assert upstream.to_the_end() == b""
        upstream.send(b"last words")
        upstream.close()
        assert client.to_the_end() == b"last words"
    record = the_only_record(proxy)
    assert (record["status"], record["outcome"]) == (101, "closed")
    assert proxy.metric("tunnels_open") == 0


def test_an_upgrade_that_is_not_taken_is_a_request_like_others(proxy: Proxy) -> None:
    with RawOrigin(answer) as origin, Ends(proxy) as client:
        for number in range(2):
            assert client.ask(request(origin.url(f"/{number}"), *UPGRADE)).body == f"GET /{number}".encode()
        assert origin.contacts() == 1


@pytest.mark.parametrize("fields", [(), ("Upgrade: websocket",), ("Connection: Upgrade",)])
def test_a_101_that_was_not_asked_for_is_no_answer(proxy: Proxy, fields: tuple[str, ...]) -> None:
    with RawOrigin(lambda _: [SWITCHED + b"smuggled"]) as origin, Ends(proxy) as client:
        reply = client.ask(request(origin.url(), *fields))
        assert (reply.status, reply.slug) == (502, "upstream_protocol_error")
        assert b"smuggled" not in client.received
        assert client.ask(request(origin.url(), *UPGRADE)).status == 101, "and nothing of it is left"


@pytest.mark.parametrize("switched", [b"Upgrade: h2c", b"Upgrade: websocket, h2c", b"X: y"])
def test_a_101_for_another_protocol_than_was_asked_for_is_no_answer(proxy: Proxy, switched: bytes) -> None:
    script = [SWITCHED.replace(b"Upgrade: websocket", switched)]
    with RawOrigin(lambda _: script) as origin, Ends(proxy) as client:
        assert client.ask(request(origin.url(), *UPGRADE)).status == 502


@pytest.mark.parametrize("asked", ["h2c", "TLS/1.3", "HTTP/2.0, h2c"])
def test_a_protocol_that_would_carry_requests_past_the_policy_is_not_asked_for(
    proxy: Proxy, origin: RawOrigin, asked: str
) -> None:
    with Ends(proxy) as client:
        lines = ("Connection: Upgrade, HTTP2-Settings", f"Upgrade: {asked}", "HTTP2-Settings: AAMAAABkAAQ")
        client.send(request(origin.url("/"), *lines))
        upstream = origin.take()
        seen = upstream.request()
        assert not {"upgrade", "http2-settings", "connection"} & {name.lower() for name, _ in seen.fields}
        upstream.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n")
        assert client.response().status == 502
