"""The end of the proxy and of a request: who is waited for, and what is left."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support.exchanges import SHORT_S, Start
from support.plain_http import Ends, RawOrigin, Wire, request, response
from support.proxy import Proxy
from support.waiting import eventually


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


def test_told_to_end_it_serves_one_more_request_on_a_kept_connection_and_says_that_it_was_the_last(
    start: Start, config: dict[str, Any], origin: RawOrigin
) -> None:
    """It may have been on its way already: a client that asks again and again loses none."""
    proxy = start(config)
    with Ends(proxy) as client:
        client.send(request(origin.url()))
        upstream = origin.take()
        upstream.request()
        upstream.send(response())
        assert client.response().status == 200
        proxy.signal(signal.SIGTERM)
        eventually(lambda: proxy.get("/readyz")[0] == 503, "it drains")
        client.send(request(origin.url("/last")))
        assert upstream.request().target == "/last"
        upstream.send(response(b"last"))
        reply = client.response()
        assert (reply.status, reply.body, reply.get("connection")) == (200, b"last", "close")
        assert client.to_the_end() == b""
    assert proxy.wait() == 0
    assert [record["outcome"] for record in proxy.logged().records] == ["answered", "answered"]


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
