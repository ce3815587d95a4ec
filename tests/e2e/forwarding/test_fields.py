"""Fields: what goes on as it came, what stays on its connection, what the proxy adds."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from support.plain_http import Ends, RawOrigin, request, response
from support.proxy import Proxy


def test_end_to_end_fields_go_on_octet_for_octet_and_in_order(proxy: Proxy, client: Ends, origin: RawOrigin) -> None:
    fields = (
        "accept: */*", "Cookie: a=1", "X-Odd:no space", "X-Empty:", "COOKIE: b=2", "X-Tail: v \t", "X-Latin: caf\xe9",
        "Authorization: Basic c2VjcmV0", "Trailer: X-Sum", "Range: bytes=0-1", "Cache-Control: no-cache", "User-Agent: u",
        "Forwarded: for=1.2.3.4", "X-Forwarded-Proto: https", "Max-Forwards: 3", "Upgrade-Insecure-Requests: 1",
    )  # fmt: skip
    client.send(request(origin.url(), *fields))
    upstream = origin.take()
    raw = upstream.request().raw
    assert "".join(f"{field}\r\n" for field in fields).encode("latin-1") in raw
    back = (
        "Server: o",
        "Set-Cookie: a=1",
        "set-cookie: b=2",
        'ETag: W/"x"',
        "X-Latin: caf\xe9",
        "Date: today",
        "X-Empty:",
    )
    upstream.send(response(b"x", *back, status="299 Qu\xe9"))
    reply = client.response()
    assert reply.first == "HTTP/1.1 299 Qu\xe9"
    assert "".join(f"{field}\r\n" for field in back).encode("latin-1") in reply.raw


def test_what_is_about_one_connection_stays_on_it(proxy: Proxy, client: Ends, origin: RawOrigin) -> None:
    client.send(
        request(
            origin.url(),
            "Connection: keep-alive, X-Mine,,x-other",
            "Keep-Alive: 5",
            "X-Mine: 1",
            "x-mine: 2",
            "X-OTHER: 3",
            "Proxy-Connection: keep-alive",
            "Proxy-Authorization: Basic c2VjcmV0",
            "TE: gzip",
            "Upgrade: h2c",
            "X-Stays: 4",
        )
    )
    upstream = origin.take()
    asked = upstream.request()
    assert [name for name, _ in asked.fields] == ["host", "x-stays", "via", "x-request-id"]
    back = ("Connection: X-Yours, keep-alive", "Keep-Alive: timeout=5", "X-Yours: 1", "Upgrade: h2c", "X-Stays: 2")
    upstream.send(response(b"x", *back, "Proxy-Connection: keep-alive"))
    assert [name for name, _ in client.response().fields] == ["x-stays", "via", "content-length"]


def test_a_client_that_takes_trailers_says_so_on_the_next_hop_too(
    proxy: Proxy, client: Ends, origin: RawOrigin
) -> None:
    client.send(request(origin.url(), "TE: trailers, deflate;q=0.5", "Connection: TE"))
    asked = origin.take().request()
    assert (asked.get("te"), asked.get("connection")) == ("trailers", "TE")


@pytest.mark.parametrize("name", ["Host", "Content-Length", "Transfer-Encoding"])
def test_connection_cannot_take_away_what_frames_or_routes(proxy: Proxy, client: Ends, name: str) -> None:
    reply = client.ask(request("http://127.0.0.1:1/", f"Connection: {name}", method="POST", body=b"x"))
    assert (reply.status, reply.slug) == (400, "malformed_request")


def test_via_has_the_name_that_the_configuration_gives(configured: Callable[..., Proxy], origin: RawOrigin) -> None:
    proxy = configured(http={"via_name": "door.example.test"})
    with Ends(proxy) as client:
        client.send(request(origin.url(), "Via: 1.1 other"))
        upstream = origin.take()
        assert upstream.request().get("via") == "1.1 other, 1.1 door.example.test"
        upstream.send(response(b""))
        assert client.response().get("via") == "1.1 door.example.test"
        assert client.ask(request(origin.url(), "Via: 1.1 door.example.test")).status == 508


def test_via_names_every_hop_and_one_that_comes_back_is_a_loop(proxy: Proxy, client: Ends, origin: RawOrigin) -> None:
    client.send(request(origin.url(), "Via: 1.0 first", "via: 1.1 second (x)"))
    upstream = origin.take()
    told = upstream.request().get("via")
    assert told is not None
    assert re.fullmatch(r"1\.0 first, 1\.1 second \(x\), 1\.1 egressproxy-[0-9a-f]{8}", told)
    upstream.send(response(b"", "Via: 1.1 cache", version="1.0"))
    assert (client.response().get("via") or "").startswith("1.1 cache, 1.0 egressproxy-")
    with Ends(proxy) as again:
        reply = again.ask(request(origin.url(), f"Via: {told}, 1.1 other"))
        assert (reply.status, reply.slug, reply.get("connection")) == (508, "loop_detected", "keep-alive")
        reply = again.ask(request(origin.url(), "Via: " + ", ".join(["1.1 x"] * 40)))
        assert (reply.status, reply.slug) == (508, "loop_detected")


def test_a_proxy_that_is_sent_to_itself_says_so(proxy: Proxy, client: Ends) -> None:
    reply = client.ask(request(f"{proxy.url}/"))
    assert (reply.status, reply.slug) == (508, "loop_detected")


@pytest.mark.parametrize(
    ("setting", "sent", "arrives"),
    [
        ("off", ("X-Forwarded-For: 1.2.3.4", "x-forwarded-for: 5.6.7.8"), "1.2.3.4, 5.6.7.8"),
        ("off", (), None),
        ("append", ("X-Forwarded-For: 1.2.3.4",), "1.2.3.4, 127.0.0.1"),
        ("append", (), "127.0.0.1"),
        ("replace", ("X-Forwarded-For: 1.2.3.4", "X-Forwarded-For: 5.6.7.8"), "127.0.0.1"),
        ("delete", (), None),
        ("delete", ("X-Forwarded-For: 1.2.3.4", "x-forwarded-for: 5.6.7.8"), None),
    ],
)
def test_x_forwarded_for_is_written_as_configured(
    configured: Callable[..., Proxy], origin: RawOrigin, setting: str, sent: tuple[str, ...], arrives: str | None
) -> None:
    with Ends(configured(http={"forwarded_for": setting})) as client:
        client.send(request(origin.url(), *sent))
        assert origin.take().request().get("x-forwarded-for") == arrives


def test_a_request_id_is_made_once_and_kept(proxy: Proxy, client: Ends, origin: RawOrigin) -> None:
    made = []
    for _ in range(2):
        client.send(request(origin.url()))
        upstream = origin.take() if not made else upstream  # noqa: F821 - the one before
        made.append(upstream.request().get("x-request-id") or "")
        upstream.send(response())
        client.response()
    assert all(
        re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", each) for each in made
    )
    assert made[0] != made[1]
    client.send(request(origin.url(), "X-Request-ID: mine"))
    assert upstream.request().get("x-request-id") == "mine"


def test_nothing_is_added_where_nothing_is_wanted(configured: Callable[..., Proxy], origin: RawOrigin) -> None:
    with Ends(configured(http={"via": False, "request_id": False})) as client:
        client.send(request(origin.url(), "Via: 1.1 x"))
        upstream = origin.take()
        assert upstream.request().raw == f"GET / HTTP/1.1\r\nHost: {origin.target}\r\nVia: 1.1 x\r\n\r\n".encode()
        upstream.send(response(b"x"))
        assert client.response().raw == b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n"
