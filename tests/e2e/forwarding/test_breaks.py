"""What breaks: answers that end too early or never come, and clients that leave."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from support.dns import DnsServer
from support.exchanges import SHORT_S, answer, outcomes, service, the_only_record
from support.plain_http import CLOSE, RESET, STALL, Ends, RawOrigin, request, response
from support.proxy import Proxy, free_port
from support.waiting import eventually, once_at_rest


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
