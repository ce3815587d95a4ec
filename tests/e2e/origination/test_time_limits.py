"""Time limits of services: for the answer, for silence, for the connection and its handshake."""

from __future__ import annotations

import re
import ssl
import time
from typing import Any

import pytest
from support.certificates import authority
from support.clients import connect_head
from support.nginx import deaf
from support.originating import SHORT_S, SITE, Configure, Web, ask, curl, service, the_only_record
from support.plain_http import STALL, Ends, Message, RawOrigin, request, response
from support.waiting import eventually


def slow_origin() -> RawOrigin:
    """Speaks TLS as the site does, and answers `/delay/...` only when the test says so; it begins with `/half/...`."""

    def script(asked: Message) -> list[Any]:
        whole = response(b"at last")
        if asked.target.startswith("/half/"):
            return [whole[:-3], STALL, whole[-3:]]
        return [STALL, whole] if asked.target.startswith("/delay/") else [whole]

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority().issue_cert(SITE).configure_cert(context)
    return RawOrigin(script, tls=context)


def test_a_slow_answer_is_504_in_3_seconds_with_one_line(configured: Configure, web: Web) -> None:
    with slow_origin() as origin:
        proxy = configured(service(SITE, origin.port, {"mode": "simple", "ca": web.ca}, timeout_s=3))
        istio_log = proxy.folder / "istio.log"
        before = istio_log.read_text()
        out = curl(proxy, web, "http", "-w", "\n%{http_code} %{time_total}", f"http://{SITE}/delay/5")
        body, told = out.split("\n")
        status, took = told.split()
        assert (body, status) == ("upstream request timeout", "504")
        assert 3.0 <= float(took) <= 3.2
        record = the_only_record(proxy)
        assert (record["status"], record["outcome"]) == (504, "upstream_timeout")
        eventually(lambda: istio_log.read_text() != before, "Istio's line is written")
        (line,) = istio_log.read_text()[len(before) :].splitlines()
        assert re.search(r'"GET /delay/5 HTTP/1\.1" 504 UT ', line), line


def test_without_a_time_limit_the_slow_answer_passes(configured: Configure, web: Web) -> None:
    with slow_origin() as origin:
        proxy = configured(service(SITE, origin.port, {"mode": "simple", "ca": web.ca}))
        with Ends(proxy) as client:
            client.send(request(f"http://{SITE}/delay/1"))
            eventually(lambda: origin.connections and origin.connections[0].received, "the request is there")
            origin.go_on()
            assert client.response().body == b"at last"


def test_the_time_of_a_service_is_over_before_a_body_is_whole(configured: Configure, web: Web) -> None:
    with slow_origin() as origin:
        proxy = configured(service(SITE, origin.port, {"mode": "simple", "ca": web.ca}, timeout_s=SHORT_S))
        reply = ask(proxy, f"http://{SITE}/half/1")
        assert (reply.status, reply.complete, reply.body) == (200, False, b"at l")
        assert the_only_record(proxy)["outcome"] == "upstream_timeout"


def test_the_time_of_a_service_begins_behind_the_request(configured: Configure, web: Web) -> None:
    """A client may take longer than that to send its body."""
    with slow_origin() as origin:
        proxy = configured(service(SITE, origin.port, {"mode": "simple", "ca": web.ca}, timeout_s=SHORT_S))
        with Ends(proxy) as client:
            client.send(request(f"http://{SITE}/", "Content-Length: 2", method="POST") + b"a")
            started = time.monotonic()
            eventually(lambda: time.monotonic() - started > 2 * SHORT_S, "more than the time has passed")
            client.send(b"b")
            assert client.response().status == 200


def test_an_idle_service_is_504_and_others_have_the_usual_time(configured: Configure, web: Web) -> None:
    tls = {"mode": "simple", "ca": web.ca}
    with slow_origin() as origin:
        proxy = configured(service(SITE, origin.port, tls, idle_timeout_s=SHORT_S))
        reply = ask(proxy, f"http://{SITE}/delay/1")
        assert (reply.status, reply.slug) == (504, "upstream_idle_timeout")
        record = the_only_record(proxy)
        assert record["outcome"] == "upstream_idle_timeout"
        assert record["duration_ms"] < 1000 * (SHORT_S + 1)


@pytest.mark.parametrize(
    ("times", "slug"),
    [
        ({"connect_timeout_s": SHORT_S}, "connect_timeout"),
        ({"timeout_s": SHORT_S}, "upstream_timeout"),  # from the end of the request on, over all attempts
        ({"connect_timeout_s": SHORT_S, "timeout_s": 9}, "connect_timeout"),
    ],
)
def test_a_service_that_takes_no_connection_is_504_in_its_time(
    configured: Configure, times: dict[str, float], slug: str
) -> None:
    with deaf() as port:
        proxy = configured(service(SITE, port, **times))
        reply = ask(proxy, f"http://{SITE}/")
        assert (reply.status, reply.slug) == (504, slug)
        assert 1000 * SHORT_S <= the_only_record(proxy)["duration_ms"] < 1000 * (SHORT_S + 1)


def test_a_long_time_for_the_answer_is_none_for_the_connection(configured: Configure) -> None:
    with deaf() as port:
        proxy = configured(service(SITE, port, timeout_s=9), timeouts={"connect_s": SHORT_S})
        reply = ask(proxy, f"http://{SITE}/")
        assert (reply.status, reply.slug) == (504, "connect_timeout")
        assert the_only_record(proxy)["duration_ms"] < 1000 * (SHORT_S + 1)


def test_a_tunnel_to_a_service_has_its_time_to_connect_too(configured: Configure) -> None:
    with deaf() as port:
        proxy = configured(service(SITE, port, connect_timeout_s=SHORT_S))
        with Ends(proxy) as client:
            assert client.ask(connect_head(f"{SITE}:80")).slug == "connect_timeout"
        assert the_only_record(proxy)["duration_ms"] < 1000 * (SHORT_S + 1)


def test_a_service_that_does_not_answer_the_handshake_is_504_in_its_time(configured: Configure) -> None:
    with RawOrigin() as origin:
        proxy = configured(service(SITE, origin.port, {"mode": "simple", "verify": False}, connect_timeout_s=SHORT_S))
        reply = ask(proxy, f"http://{SITE}/")
        assert (reply.status, reply.slug) == (504, "tls_timeout")
        the_only_record(proxy)
