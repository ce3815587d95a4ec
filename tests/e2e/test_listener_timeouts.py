"""Time limits of single listeners, beside those for all."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
from support.certificates import client_context
from support.clients import ask, connect_head, open_tunnel, receive, receive_all
from support.exchanges import SHORT_S, service
from support.nginx import deaf
from support.origin import NAME, TITLE, TcpOrigin, TlsOrigin
from support.plain_http import Ends, RawOrigin, request, response
from support.proxy import Proxy, free_port
from support.waiting import WAIT_S, eventually

Start = Callable[..., Proxy]
LONG_S = 60
HELLO = b"\x16\x03\x01"
"""The beginning of a ClientHello."""


def two(protocol: str = "http-proxy", *, quick: dict[str, float], **more: Any) -> dict[str, Any]:
    """A listener with times of its own and one without."""
    return {
        "listeners": [
            {"name": "quick", "protocol": protocol, "port": free_port(), "timeouts": quick, **more},
            {"name": "usual", "protocol": protocol, "port": free_port(), **more},
        ]
    }


def through(proxy: Proxy, listener: str) -> Proxy:
    """The proxy, as clients of this listener see it."""
    (proxy.port,) = (each["port"] for each in proxy.config["listeners"] if each["name"] == listener)
    return proxy


def client_of(proxy: Proxy, listener: str) -> socket.socket:
    return socket.create_connection(("127.0.0.1", through(proxy, listener).port), WAIT_S)


def ends(proxy: Proxy) -> dict[str, tuple[str, float]]:
    """By listener: how its one connection ended, and after how many seconds."""
    records = proxy.settled().records
    found = {record["listener"]: (record["outcome"], record["duration_ms"] / 1000) for record in records}
    assert len(found) == len(records)
    return found


def ended_quickly(end: tuple[str, float], outcome: str) -> None:
    assert end[0] == outcome
    assert SHORT_S <= end[1] < SHORT_S + 1, end


@pytest.mark.parametrize("general_s", [LONG_S, 0.1], ids=["shorter", "longer"])
def test_two_sni_listeners_wait_each_in_its_own_way(
    start: Start, open_config: dict[str, Any], origin: TlsOrigin, general_s: float
) -> None:
    """For the ClientHello, and in a tunnel without a byte."""
    own_s = SHORT_S if general_s == LONG_S else LONG_S
    quick, slow = ("quick", "usual") if general_s == LONG_S else ("usual", "quick")
    listeners = two("sni", quick={"head_s": own_s, "idle_s": own_s}, service_port=origin.port)
    proxy = start({**open_config, **listeners, "timeouts": {"head_s": general_s, "idle_s": general_s}})
    with client_of(proxy, slow) as waiting, client_of(proxy, quick) as silent:
        for sock in (waiting, silent):
            sock.sendall(HELLO)
        assert receive_all(silent)[:1] == b"\x15"
        waiting.settimeout(0.1)
        with pytest.raises(TimeoutError):
            waiting.recv(1)
    found = ends(proxy)
    assert (found[quick][0], found[slow][0]) == ("hello_timeout", "client_gone")
    with ExitStack() as stack:
        secured: list[ssl.SSLSocket] = []
        for listener in (slow, quick):
            sock = stack.enter_context(client_of(proxy, listener))
            secured.append(stack.enter_context(client_context().wrap_socket(sock, server_hostname=NAME)))
        assert secured[1].recv(1) == b""
        secured[0].sendall(f"GET / HTTP/1.1\r\nHost: {NAME}\r\nConnection: close\r\n\r\n".encode())
        assert TITLE.encode() in b"".join(iter(lambda: secured[0].recv(65_536), b""))
    found = ends(proxy)
    assert (found[quick][0], found[slow][0]) == ("idle_timeout", "closed")


def test_each_listener_waits_its_own_time_for_a_host_that_does_not_answer(
    start: Start, open_config: dict[str, Any]
) -> None:
    proxy = start({**open_config, **two(quick={"connect_s": SHORT_S}), "timeouts": {"connect_s": SHORT_S + 2}})
    with deaf() as port:
        for listener in ("quick", "usual"):
            assert ask(through(proxy, listener), connect_head(f"127.0.0.1:{port}")).slug == "connect_timeout"
        found = ends(proxy)
        ended_quickly(found["quick"], "connect_timeout")
        assert found["usual"][1] >= SHORT_S + 2
        with Ends(proxy, through(proxy, "quick").port) as client:
            assert client.ask(request(f"http://127.0.0.1:{port}/")).slug == "connect_timeout"
        ended_quickly(ends(proxy)["quick"], "connect_timeout")


def test_the_times_of_a_service_go_before_those_of_a_listener(start: Start, open_config: dict[str, Any]) -> None:
    own = {"connect_timeout_s": SHORT_S, "idle_timeout_s": SHORT_S}
    with deaf() as port, RawOrigin() as origin:
        silent = {**service(origin, **own), "hosts": ["silent.example.test"]}
        closed = service(origin, connect_timeout_s=SHORT_S) | {"endpoints": [{"address": "127.0.0.1", "port": port}]}
        listeners = two(quick={"connect_s": LONG_S, "idle_s": LONG_S})
        proxy = start({**open_config, **listeners, "services": [silent, closed]})
        assert ask(through(proxy, "quick"), connect_head("api.example.test:80")).slug == "connect_timeout"
        ended_quickly(ends(proxy)["quick"], "connect_timeout")
        for host, slug in (("api", "connect_timeout"), ("silent", "upstream_idle_timeout")):
            with Ends(proxy, proxy.port) as client:
                assert client.ask(request(f"http://{host}.example.test/")).slug == slug
            ended_quickly(ends(proxy)["quick"], slug)


def test_a_plain_request_has_the_times_of_its_listener(start: Start, open_config: dict[str, Any]) -> None:
    proxy = start({**open_config, **two(quick={"idle_s": SHORT_S, "half_close_s": SHORT_S})})
    with RawOrigin() as origin:
        with Ends(proxy, through(proxy, "quick").port) as client:
            assert client.ask(request(origin.url())).slug == "upstream_idle_timeout"
            origin.take()
        ended_quickly(ends(proxy)["quick"], "upstream_idle_timeout")
        assert proxy.reload({**open_config, **two(quick={"half_close_s": SHORT_S})})
        with Ends(proxy, through(proxy, "usual").port) as patient, Ends(proxy, through(proxy, "quick").port) as client:
            for each in (patient, client):
                each.send(request(origin.url()))
                each.end()
                upstream = origin.take()
                upstream.request()
                if each is client:
                    assert client.to_the_end() == b""
                else:
                    late = upstream
            late.send(response(b"late"))
            assert patient.response().body == b"late"
        ended_quickly(ends(proxy)["quick"], "client_gone")


def test_a_half_closed_tunnel_has_the_time_of_its_listener(start: Start, open_config: dict[str, Any]) -> None:
    proxy = start({**open_config, **two(quick={"half_close_s": SHORT_S})})
    with TcpOrigin() as origin, ExitStack() as stack:
        pairs = []
        for listener in ("usual", "quick"):
            client = stack.enter_context(open_tunnel(through(proxy, listener), origin.target))
            pairs.append((client, stack.enter_context(origin.take())))
            client.shutdown(socket.SHUT_WR)
        (patient, upstream), (client, _) = pairs
        assert receive_all(client) == b""
        upstream.sendall(b"late")
        upstream.close()
        assert receive_all(patient) == b"late"
    found = ends(proxy)
    ended_quickly(found["quick"], "half_close_timeout")
    assert found["usual"][0] == "closed"


def test_a_reload_changes_the_times_of_new_clients_and_how_quiet_open_tunnels_may_be(
    start: Start, open_config: dict[str, Any], echo_origin: TcpOrigin
) -> None:
    listeners = two(quick={})
    proxy = start({**open_config, **listeners})
    quick, _ = listeners["listeners"]
    with (
        open_tunnel(through(proxy, "quick"), echo_origin.target) as before,
        open_tunnel(through(proxy, "usual"), echo_origin.target) as other,
    ):
        quick["timeouts"] = {"idle_s": SHORT_S, "head_s": SHORT_S}
        assert proxy.reload({**open_config, **listeners})
        assert receive_all(before) == b""
        other.sendall(b"still here")
        assert receive(other, 10) == b"still here"
        with client_of(proxy, "quick") as silent, open_tunnel(proxy, echo_origin.target) as idle:
            assert receive_all(idle) == b""
            assert b"408" in receive_all(silent)
        assert proxy.reload({**open_config, "listeners": [quick], "timeouts": {"idle_s": SHORT_S}})
        assert receive_all(other) == b""  # its listener is gone, and the general times hold
    records = proxy.settled().records
    assert sorted(record["outcome"] for record in records) == ["head_timeout", *["idle_timeout"] * 3]


def test_a_tunnel_of_a_listener_that_is_gone_is_cut_at_the_end_of_the_drain(
    start: Start, open_config: dict[str, Any], echo_origin: TcpOrigin
) -> None:
    listeners = two(quick={"idle_s": LONG_S})
    times = {"drain_s": SHORT_S}
    proxy = start({**open_config, **listeners, "timeouts": times})
    with open_tunnel(through(proxy, "quick"), echo_origin.target) as tunnel:
        assert proxy.reload({**open_config, "listeners": listeners["listeners"][1:], "timeouts": times})
        began = time.monotonic()
        assert proxy.stop() == 0
        assert receive_all(tunnel) == b""
        assert time.monotonic() - began < SHORT_S + 2
    (record,) = proxy.records(1)
    assert record["outcome"] == "drained"
    eventually(lambda: "1 tunnel cut" in proxy.stderr, "the tunnel is counted")
