"""Plain requests, end to end: each on its own, byte for byte, whatever either side does.

The tests speak for both ends themselves, so each reads as the dialogue that it is about.
"""

from __future__ import annotations

import queue
import re
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.clients import connect_head
from support.dns import DnsServer
from support.plain_http import CLOSE, RESET, STALL, Ends, Message, RawOrigin, Wire, chunked, request, response
from support.proxy import Proxy, free_port
from support.waiting import eventually, once_at_rest

Start = Callable[..., Proxy]

SHORT_S = 0.3
"""A time that passes within a test."""


@pytest.fixture(scope="module")
def config(open_config: dict[str, Any]) -> dict[str, Any]:
    return {**open_config, "guard": {"allow": ["127.0.0.0/8"]}}


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory, config: dict[str, Any]) -> Iterator[Proxy]:
    """Everything goes. Two ways in: as a proxy, and by the Host field."""
    proxy = Proxy(tmp_path_factory.mktemp("proxy"))
    listeners = [{"protocol": "http-proxy"}, {"protocol": "http", "name": "web", "port": free_port()}]
    proxy.write_config({**config, "listeners": listeners})
    with proxy:
        yield proxy


@pytest.fixture(scope="module")
def changing(tmp_path_factory: pytest.TempPathFactory, config: dict[str, Any]) -> Iterator[Proxy]:
    """The proxy of `configured`."""
    with Proxy(tmp_path_factory.mktemp("changing"), config) as proxy:
        yield proxy


@pytest.fixture
def configured(changing: Proxy, config: dict[str, Any]) -> Callable[..., Proxy]:
    """A proxy with these settings besides."""

    def configure(**settings: Any) -> Proxy:
        changing.settled()
        assert changing.reload({**config, **settings}), changing.stderr
        return changing

    return configure


@pytest.fixture
def origin() -> Iterator[RawOrigin]:
    with RawOrigin() as origin:
        yield origin


@pytest.fixture
def client(proxy: Proxy) -> Iterator[Ends]:
    with Ends(proxy) as client:
        yield client


def web(proxy: Proxy) -> Ends:
    """A client of the listener that goes by Host."""
    (port,) = (each["port"] for each in proxy.config["listeners"] if each.get("name") == "web")
    return Ends(proxy, port)


def the_only_record(proxy: Proxy) -> dict[str, Any]:
    (record,) = proxy.settled().records
    return record


def outcomes(proxy: Proxy) -> list[tuple[Any, Any]]:
    """Status and outcome of each request since the last look."""
    return [(record["status"], record["outcome"]) for record in proxy.settled().records]


@pytest.fixture
def new_lines_only(proxy: Proxy) -> None:
    """Of a test that looks at log lines: those before have been looked at."""
    proxy.settled()


def answer(asked: Message) -> list[bytes]:
    """A script: say what was asked for."""
    return [response(f"{asked.method} {asked.target}".encode() + asked.body)]


# --- where a request goes -----------------------------------------------------------------------------------------


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


# --- one connection, many requests --------------------------------------------------------------------------------


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


# --- fields -------------------------------------------------------------------------------------------------------


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


# --- another protocol ---------------------------------------------------------------------------------------------

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


# --- what breaks --------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("new_lines_only")
@pytest.mark.parametrize("end", [CLOSE, RESET])
@pytest.mark.parametrize(
    "begun",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX: y\r\n",
    ],
)
def test_an_answer_that_breaks_off_is_seen_to_by_its_client(proxy: Proxy, begun: bytes, end: Any) -> None:
    with RawOrigin(lambda _: [begun, STALL, end]) as origin, Ends(proxy) as client:
        client.send(request(origin.url()))
        client.until(b"hello")
        origin.go_on()
        client.to_the_end()
        assert b"0\r\n\r\n" not in client.received[-7:]
    record = the_only_record(proxy)
    assert (record["status"], record["outcome"]) == (200, "upstream_closed")
    assert record["bytes_down"] == 5


@pytest.mark.usefixtures("new_lines_only")
@pytest.mark.parametrize("end", [CLOSE, RESET])
@pytest.mark.parametrize("begun", [b"", b"HTTP/1.1 2", b"HTTP/1.1 200 OK\r\nX: y\r\n"])
def test_no_answer_is_502_and_the_client_may_ask_on(proxy: Proxy, begun: bytes, end: Any) -> None:
    with RawOrigin(lambda _: [begun, end]) as origin, RawOrigin(answer) as other, Ends(proxy) as client:
        reply = client.ask(request(origin.url()))
        assert reply.status == 502
        assert reply.slug in ("upstream_closed", "upstream_protocol_error")
        assert client.ask(request(other.url("/on"))).body == b"GET /on"
        assert origin.contacts() == 1
    assert [status for status, _ in outcomes(proxy)] == [502, 200]


def test_a_kept_client_is_served_on_after_every_refusal(configured: Callable[..., Proxy], dns: DnsServer) -> None:
    silent = RawOrigin()
    proxy = configured(
        rules=[{"name": "closed", "action": "deny", "hosts": ["closed.example.test"]}],
        services=[service(silent, timeout_s=SHORT_S)],
    )
    refusals = [
        ("http://closed.example.test/", 403, "rule_denied"),
        ("http://unknown.example.test/", 503, "name_not_found"),
        ("http://10.0.0.1/", 403, "address_denied"),
        (f"http://127.0.0.1:{free_port()}/", 503, "connect_refused"),
        ("http://api.example.test/", 504, "upstream_timeout"),
    ]
    with silent, RawOrigin(answer) as origin, Ends(proxy) as client:
        for url, status, slug in refusals:
            for method in ("GET", "HEAD"):
                reply = client.ask(request(url, method=method), method)
                assert (reply.status, reply.slug, reply.get("connection")) == (status, slug, "keep-alive")
            assert client.ask(request(origin.url("/on"))).body == b"GET /on"
    records = proxy.settled().records
    assert [record["status"] for record in records] == [
        status for _, refused, _ in refusals for status in (refused, refused, 200)
    ]


def test_a_refused_request_with_a_body_ends_the_connection_and_its_answer_arrives(
    configured: Callable[..., Proxy],
) -> None:
    proxy = configured(rules=[{"action": "deny", "hosts": ["closed.example.test"]}])
    for url, status in (
        ("http://closed.example.test/", 403),
        (f"http://127.0.0.1:{free_port()}/", 503),
        (f"http://127.0.0.1:{proxy.port}/", 508),
    ):
        with Ends(proxy) as client:
            client.send(
                request(url, method="POST", body=b"GET http://closed.example.test/ HTTP/1.1\r\n" + b"x" * 200_000)
            )
            reply = client.response()
            assert (reply.status, reply.get("connection"), reply.complete) == (status, "close", True)
            client.end()
            assert client.to_the_end() == b""
            assert not client.was_reset
        assert [record["status"] for record in proxy.settled().records] == [status]


@pytest.mark.usefixtures("new_lines_only")
def test_a_client_that_resets_lets_its_upstream_go(proxy: Proxy, origin: RawOrigin) -> None:
    for stage in ("head", "body", "upload"):
        client = Ends(proxy)
        if stage == "upload":
            client.send(request(origin.url(), "Content-Length: 100", method="POST") + b"x")
        else:
            client.send(request(origin.url()))
        upstream = origin.take()
        assert upstream.head() is not None
        if stage == "body":
            upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nx")
            client.until(b"\r\n\r\nx")
        client.reset()
        upstream.to_the_end()
        assert the_only_record(proxy)["outcome"] == "client_gone"


@pytest.mark.usefixtures("new_lines_only")
def test_a_client_that_leaves_in_the_middle_of_its_body_lets_its_upstream_go(proxy: Proxy, origin: RawOrigin) -> None:
    with Ends(proxy) as client:
        client.send(request(origin.url(), "Transfer-Encoding: chunked", method="POST") + b"5\r\nhello\r\n")
        upstream = origin.take()
        assert upstream.head() is not None
        client.end()
        assert upstream.to_the_end() == b"5\r\nhello\r\n"
        assert client.to_the_end() == b""
    assert outcomes(proxy) == [(None, "client_gone")]


@pytest.mark.usefixtures("new_lines_only")
def test_a_client_that_ends_its_half_behind_its_request_gets_its_answer(proxy: Proxy, origin: RawOrigin) -> None:
    for ends_at_once in (True, False):
        with Ends(proxy) as client:
            client.send(request(origin.url(), method="POST", body=b"x"))
            if ends_at_once:
                client.end()
            upstream = origin.take()
            assert upstream.request().body == b"x"
            if not ends_at_once:
                client.end()
            upstream.send(response(b"all the same", "Connection: close"))
            assert client.response().body == b"all the same"
            assert client.to_the_end() == b""
        assert outcomes(proxy) == [(200, "answered")]


@pytest.mark.usefixtures("new_lines_only")
def test_hundreds_of_exchanges_that_were_aborted_leave_nothing_behind(proxy: Proxy) -> None:
    scripts: dict[str, list[Any]] = {
        "/reset": [RESET],
        "/close": [CLOSE],
        "/cut": [b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx", RESET],
        "/stall": [b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx", STALL],
        "/wrong": [b"HTTP/1.1 200 OK\nX: y\n\n"],
        "/early": [b"HTTP/1.1 413 No\r\nContent-Length: 0\r\n\r\n"],
    }
    with RawOrigin(lambda asked: scripts[asked.target]) as origin:

        def one_round() -> None:
            for path in scripts:
                for leaves in ("reads", "resets", "closes"):
                    client = Ends(proxy)
                    client.send(request(origin.url(path), "Connection: close"))
                    if leaves == "resets":
                        client.reset()
                    elif leaves == "reads" and path != "/stall":
                        client.to_the_end()
                    client.close()
            proxy.settled()

        one_round()
        descriptors, rss_kib = once_at_rest(proxy.descriptors), proxy.rss_kib()
        for _ in range(12):
            one_round()
        eventually(lambda: proxy.descriptors() <= descriptors, "what was opened is closed")
        assert proxy.rss_kib() - rss_kib < 4096


# --- kept upstream connections ------------------------------------------------------------------------------------


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
    body = b"x" * (6 << 20)  # more than fits behind the proxy, less than fits before it

    def seen_in_time() -> bool:
        """Whether its last packet came before the next request had been sent, which is nobody's to hurry."""
        with Ends(proxy, buffer=4096) as client:
            client.send(request(origin.url("/1")) + request(origin.url("/2"), method="POST", body=b"y"))
            upstream = origin.take()
            upstream.request()
            upstream.send(response(body))
            upstream.send(unasked)
            assert client.response().body == body
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


# --- deadlines ----------------------------------------------------------------------------------------------------


def service(origin: RawOrigin, **settings: Any) -> dict[str, Any]:
    endpoint = {"address": "127.0.0.1", "port": origin.port}
    return {
        "hosts": ["api.example.test"], "ports": [{"number": 80, "protocol": "HTTP"}], "resolution": "static",
        "endpoints": [endpoint], **settings,
    }  # fmt: skip


def test_a_kept_client_that_asks_nothing_more_is_closed(configured: Callable[..., Proxy]) -> None:
    proxy = configured(timeouts={"keep_alive_s": SHORT_S})
    with RawOrigin(answer) as origin, Ends(proxy) as client:
        for _ in range(2):
            assert client.ask(request(origin.url())).status == 200
        assert client.to_the_end() == b""
        assert not client.was_reset
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


# --- limits and policy --------------------------------------------------------------------------------------------


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


# --- the end ------------------------------------------------------------------------------------------------------


def test_told_to_end_it_closes_who_waits_and_finishes_what_runs(
    start: Start, config: dict[str, Any], origin: RawOrigin
) -> None:
    proxy = start(config)
    with Ends(proxy) as idle, Ends(proxy) as busy, Ends(proxy) as telling:
        for client in (idle, telling):
            client.send(request(origin.url("/idle")))
        upstreams = [origin.take(), origin.take()]
        for upstream in upstreams:
            upstream.request()
            upstream.send(response())
        assert (idle.response().status, telling.response().status) == (200, 200)
        busy.send(request(origin.url("/busy")))
        telling.send(request(origin.url("/telling")))
        by_target = {}
        for upstream in upstreams:
            by_target[upstream.request().target] = upstream
        by_target["/telling"].send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nha")
        telling.until(b"\r\n\r\nha")
        proxy.signal(signal.SIGTERM)
        assert idle.to_the_end() == b""
        by_target["/busy"].send(response(b"finished"))
        reply = busy.response()
        assert (reply.body, reply.get("connection")) == (b"finished", "close")
        assert busy.to_the_end() == b""
        by_target["/telling"].send(b"lf")
        assert telling.exactly(2) == b"lf"
        assert telling.to_the_end() == b""
    assert proxy.wait() == 0
    assert {record["outcome"] for record in proxy.logged().records} == {"answered"}


def test_exchanges_that_outlive_the_drain_are_cut(start: Start, config: dict[str, Any], origin: RawOrigin) -> None:
    proxy = start({**config, "timeouts": {"drain_s": SHORT_S}})
    with Ends(proxy) as client, Ends(proxy) as other:
        client.send(request(origin.url()))
        upstream: Wire = origin.take()
        upstream.request()
        other.send(request(origin.url()))
        half = origin.take()
        half.request()
        half.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nha")
        other.until(b"\r\n\r\nha")
        proxy.signal(signal.SIGTERM)
        assert client.response().status == 503
        assert other.to_the_end() == b""
    assert proxy.wait() == 0
    assert len(proxy.logged().records) == 2


_COUNTS_GARBAGE = """
import gc, signal
def count(*_):
    with open("garbage", "a") as file:
        file.write(f"{gc.collect()}\\n")
gc.disable()
signal.signal(signal.SIGUSR2, count)
"""


def test_a_request_leaves_nothing_to_the_garbage_collector(
    start: Callable[..., Proxy], open_config: dict[str, Any], tmp_path: Path
) -> None:
    """A cycle for each request would be megabytes each second, to be looked through again and again."""
    prelude = f"import os\nos.chdir({str(tmp_path)!r})\n{_COUNTS_GARBAGE}"
    proxy = start(open_config, prelude=prelude)
    counted = tmp_path / "garbage"

    def collected() -> int:
        before = counted.read_text().count("\n") if counted.exists() else 0
        proxy.signal(signal.SIGUSR2)
        eventually(lambda: counted.exists() and counted.read_text().count("\n") > before, "garbage was counted")
        return int(counted.read_text().splitlines()[-1])

    with RawOrigin(lambda _: [response(b"body")]) as origin, Ends(proxy) as client:
        for method, body in (("GET", b""), ("POST", b"x" * 10)):
            for _ in range(20):
                assert client.ask(request(origin.url("/"), method=method, body=body)).body == b"body"
            collected()
            for _ in range(100):
                assert client.ask(request(origin.url("/"), method=method, body=body)).body == b"body"
            assert collected() < 20


# --- what a hostile peer may not do -------------------------------------------------------------------------------


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
