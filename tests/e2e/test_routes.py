"""Routes, TCP listeners and parent proxies, with real clients, origins and parents."""

from __future__ import annotations

import base64
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.clients import ask, connect_head, dial, open_tunnel, receive_all, run
from support.dns import DnsServer, Reply
from support.hellos import openssl_hello
from support.origin import NAME, TITLE, TcpOrigin, TlsOrigin, echo
from support.plain_http import RawOrigin
from support.proxy import Proxy, free_port
from support.waiting import WAIT_S

Start = Callable[..., Proxy]


@pytest.fixture(scope="module")
def names() -> Iterator[DnsServer]:
    with DnsServer() as server:
        server.add(NAME, "A", "127.0.0.1")
        yield server


def settings(names: DnsServer, *services: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"services": list(services), "dns": {"servers": [names.address]}, "timeouts": {"head_s": 1.0}, **more}


def service(name: str, port: int, *endpoints: str, **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "ports": [{"number": port}],
        "resolution": "static",
        "endpoints": [{"address": each} for each in endpoints],
        **more,
    }


def greeting(word: bytes) -> Callable[[socket.socket], None]:
    """A protocol in which the server speaks first."""

    def serve(sock: socket.socket) -> None:
        sock.sendall(word)
        echo(sock)

    return serve


def get(proxy: Proxy, path: str = "/", host: str = "a.example.org") -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()


# --- routes -------------------------------------------------------------------------------------------------------


def test_many_names_are_taken_to_one_registered_host(
    start: Start, names: DnsServer, origin: TlsOrigin, tmp_path: Path, ca_file: Path
) -> None:
    """TLS for any name below one goes to one service, undecrypted: the certificate is that of the origin."""
    www = {"name": "www", "hosts": [NAME], "ports": [{"number": origin.port}], "private_addresses": True}
    proxy = start(
        settings(
            names,
            www,
            listeners=[{"protocol": "sni", "service_port": origin.port}],
            routes=[{"hosts": ["*.example.org"], "ports": [origin.port], "to": [{"service": "www"}]}],
        )
    )
    place = f"de.example.org:443:127.0.0.1:{proxy.port}"
    command = ("curl", "-sSk", "--connect-to", place, "https://de.example.org/")
    assert TITLE in run(*command, folder=tmp_path).out
    (record,) = proxy.settled().records
    assert (record["host"], record["rule"], record["reason"]) == ("de.example.org", "route", "route 1 leads to www")
    assert names.count("de.example.org") == 0
    run(
        "curl",
        "-sSk",
        "--connect-to",
        f"example.org:443:127.0.0.1:{proxy.port}",
        "https://example.org/",
        folder=tmp_path,
        code=35,
    )
    (record,) = proxy.settled().records
    assert (record["outcome"], record["rule"]) == ("rule_denied", "outbound")


def test_destinations_take_turns_by_weight(start: Start, names: DnsServer) -> None:
    with (
        TcpOrigin(greeting(b"one"), address="127.0.0.2") as one,
        TcpOrigin(greeting(b"two"), address="127.0.0.3", port=one.port) as two,
    ):
        proxy = start(
            settings(
                names,
                service("one", one.port, "127.0.0.2"),
                service("two", two.port, "127.0.0.3"),
                routes=[{"hosts": ["*"], "to": [{"service": "one", "weight": 3}, {"service": "two"}]}],
            )
        )
        for _ in range(8):
            with open_tunnel(proxy, f"any.example.org:{one.port}") as tunnel:
                assert tunnel.recv(3) in (b"one", b"two")
        assert (one.contacts(), two.contacts()) == (6, 2)
        proxy.settled()


def test_a_path_chooses_the_service_and_the_record_says_which_route(start: Start, names: DnsServer) -> None:
    with RawOrigin(lambda asked: [b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\napi"]) as api:
        proxy = start(
            settings(
                names,
                service("api", api.port, "127.0.0.1"),
                listeners=[{"protocol": "http"}],
                routes=[
                    {"name": "to-api", "hosts": ["a.example.org"], "paths": ["/api/*"], "to": [{"service": "api"}]},
                    {"name": "none", "hosts": ["a.example.org"], "refuse": "not_found"},
                ],
            )
        )
        assert ask(proxy, get(proxy, "/api/x")).body == b"api"
        reply = ask(proxy, get(proxy, "/other"))
        assert (reply.status, reply.slug) == (404, "no_route")
        served, refused = proxy.settled().records
        assert (served["status"], served["rule"]) == (200, "route")
        assert (refused["outcome"], refused["reason"]) == ("no_route", "refused by route none")


@pytest.mark.parametrize(
    ("refuse", "status", "outcome"),
    [
        ("not_found", 404, "no_route"),
        ("unknown", 502, "rule_denied"),
        ("unavailable", 503, "no_endpoint"),
        ("close", 0, "host_unknown"),
    ],
)
@pytest.mark.parametrize("protocol", ["http", "auto"])
def test_a_route_refuses_requests_in_its_way(
    start: Start, names: DnsServer, protocol: str, refuse: str, status: int, outcome: str
) -> None:
    proxy = start(settings(names, listeners=[{"protocol": protocol}], routes=[{"hosts": ["*"], "refuse": refuse}]))
    reply = ask(proxy, get(proxy))
    assert reply.status == status
    (record,) = proxy.settled().records
    assert record["outcome"] == outcome
    assert names.count("a.example.org") == 0


# --- time -----------------------------------------------------------------------------------------------------------


def test_the_time_of_a_service_includes_finding_out_where_it_is(start: Start, names: DnsServer) -> None:
    names.add("slow.example.test", "A", "127.0.0.1")
    slow = {"hosts": ["slow.example.test"], "ports": [{"number": 80}], "timeout_s": 0.4, "private_addresses": True}
    proxy = start(settings(names, slow, listeners=[{"protocol": "http"}]))
    names.script("slow.example.test", "*", Reply(hold=True))
    began = time.monotonic()
    reply = ask(proxy, get(proxy, host="slow.example.test"))
    assert (reply.status, reply.slug, reply.body) == (504, "upstream_timeout", b"upstream request timeout")
    assert time.monotonic() - began < 2, "a lookup lasts 6 s"
    names.release()
    (record,) = proxy.settled().records
    assert (record["outcome"], record["upstream"]) == ("upstream_timeout", None)


def test_who_kept_a_request_waiting_for_its_connection_is_named(start: Start, names: DnsServer) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        port = full.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):  # the one place that there is
            there = service("full", 80, "127.0.0.1", timeout_s=0.4)
            there["ports"] = [{"number": 80, "target_port": port}]
            there["hosts"] = ["full.example.test"]
            proxy = start(settings(names, there, listeners=[{"protocol": "http"}]))
            assert ask(proxy, get(proxy, host="full.example.test")).slug == "upstream_timeout"
            (record,) = proxy.settled().records
            assert record["upstream"] == f"127.0.0.1:{port}"


# --- TCP listeners ------------------------------------------------------------------------------------------------


def test_a_server_that_speaks_first_is_heard_through_a_tcp_listener(start: Start, names: DnsServer) -> None:
    with TcpOrigin(greeting(b"220 ready\r\n")) as mail:
        proxy = start(
            settings(
                names,
                listeners=[{"protocol": "tcp", "target": f"{NAME}:{mail.port}"}],
                rules=[{"action": "allow", "hosts": [NAME], "private_addresses": True}],
            )
        )
        with dial(proxy) as client:
            assert client.recv(100) == b"220 ready\r\n"
            client.sendall(b"EHLO x\r\n")
            assert client.recv(100) == b"EHLO x\r\n"
        (record,) = proxy.settled().records
        assert (record["protocol"], record["host"], record["bytes_up"], record["status"]) == ("tcp", NAME, 8, 200)


def test_a_refused_client_of_a_tcp_listener_hears_nothing(start: Start, names: DnsServer) -> None:
    proxy = start(settings(names, listeners=[{"protocol": "tcp", "target": f"{NAME}:9"}]))
    with dial(proxy) as client:
        assert receive_all(client) == b""
    (record,) = proxy.settled().records
    assert (record["outcome"], record["status"]) == ("rule_denied", 403)


@pytest.mark.parametrize("data", [openssl_hello(None), b"SSH-2.0-x\r\n"], ids=["no name", "no TLS"])
def test_who_names_no_server_is_taken_to_the_target_of_its_listener(
    start: Start, names: DnsServer, data: bytes
) -> None:
    with TcpOrigin(echo) as nameless:
        proxy = start(
            settings(
                names,
                listeners=[{"protocol": "sni", "target": f"127.0.0.1:{nameless.port}"}],
                rules=[{"action": "allow", "hosts": ["127.0.0.1"], "private_addresses": True}],
            )
        )
        with dial(proxy) as client:
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
            assert receive_all(client) == data
        (record,) = proxy.settled().records
        assert (record["host"], record["outcome"]) == ("127.0.0.1", "closed")


# --- rules that ask for addresses ---------------------------------------------------------------------------------


def test_a_rule_that_asks_for_addresses_has_them_looked_up(start: Start, names: DnsServer) -> None:
    names.add("in.example.test", "A", "127.0.0.1")
    names.add("out.example.test", "A", "192.0.2.1")
    with TcpOrigin(echo) as origin:
        proxy = start(
            settings(
                names,
                rules=[
                    {"name": "never", "action": "deny", "hosts": ["not.example.test"]},
                    {"name": "in", "action": "allow", "addresses": ["127.0.0.0/8"], "private_addresses": True},
                ],
            )
        )
        with open_tunnel(proxy, f"in.example.test:{origin.port}") as tunnel:
            tunnel.sendall(b"x")
            assert tunnel.recv(1) == b"x"
        assert ask(proxy, connect_head("out.example.test:443")).slug == "rule_denied"
        assert ask(proxy, connect_head("not.example.test:443")).slug == "rule_denied"
        assert names.count("not.example.test") == 0
        assert {record["rule"] for record in proxy.settled().records} == {"in", "outbound", "never"}


@pytest.mark.parametrize("inner", ["127.0.0.9", "inner.example.test"])
def test_it_is_the_addresses_of_the_service_that_are_asked_for(start: Start, names: DnsServer, inner: str) -> None:
    """The name itself is public, and nobody is taken there."""
    names.add("public.example.test", "A", "192.0.2.1")
    names.add("inner.example.test", "A", "127.0.0.9")
    there = {"hosts": ["public.example.test"], "ports": [{"number": 80}], "endpoints": [{"address": inner}]}
    rules = [
        {"name": "not-here", "action": "deny", "addresses": ["127.0.0.0/8"]},
        {"name": "rest", "action": "allow", "private_addresses": True},
    ]
    proxy = start(settings(names, there, listeners=[{"protocol": "http"}], rules=rules))
    assert ask(proxy, get(proxy, host="public.example.test")).slug == "rule_denied"
    (record,) = proxy.settled().records
    assert record["rule"] == "not-here"
    assert names.count("public.example.test") == 0


# --- parents ------------------------------------------------------------------------------------------------------


def through(names: DnsServer, parent_port: int, **parent: Any) -> dict[str, Any]:
    return settings(
        names,
        parents=[{"name": "up", "address": "127.0.0.1", "port": parent_port, **parent}],
        rules=[{"action": "allow", "hosts": ["*.example.test"], "parent": "up"}],
    )


def test_a_tunnel_and_a_request_go_through_the_parent(
    start: Start, names: DnsServer, origin: TlsOrigin, tmp_path: Path, ca_file: Path, open_config: dict[str, Any]
) -> None:
    """The parent is another of these proxies; the child never asks for the name."""
    parent = start(open_config)
    child = start(through(names, parent.port))
    before = names.count(NAME)
    command = ("curl", "-sS", "-x", child.url, "--cacert", ca_file, origin.url())
    assert TITLE in run(*command, folder=tmp_path).out
    assert names.count(NAME) == before
    said = child.settled()
    (mine,), (its,) = said.records, parent.settled().records
    assert (mine["upstream"], mine["status"], mine["parent"]) == (f"127.0.0.1:{parent.port}", 200, "up")
    assert " FIRSTUP_PARENT/127.0.0.1 " in said.squid[0]
    assert its["host"] == NAME
    with RawOrigin(lambda asked: [b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"]) as plain:
        url = f"http://{NAME}:{plain.port}/"
        done = run("curl", "-sS", "-x", child.url, url, url, folder=tmp_path)
        assert done.out == "hihi"
        first, second = child.settled().records
        assert (first["status"], first["reused"], second["reused"]) == (200, False, True)
        child.end()  # and with it the connection that it kept
        assert [record["method"] for record in parent.settled().records] == ["CONNECT"]


def test_what_the_parent_refuses_is_502_and_says_who(start: Start, names: DnsServer) -> None:
    with RawOrigin(lambda asked: [b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"]) as parent:
        child = start(through(names, parent.port))
        reply = ask(child, connect_head(f"{NAME}:443"))
        assert (reply.status, reply.slug) == (502, "parent_refused")
        reply = ask(child, f"GET http://{NAME}/ HTTP/1.1\r\nHost: {NAME}\r\nConnection: close\r\n\r\n".encode())
        assert (reply.status, reply.slug) == (502, "parent_refused")
        assert {record["outcome"] for record in child.settled().records} == {"parent_refused"}


def test_credentials_go_to_the_parent_and_nowhere_else(start: Start, names: DnsServer, tmp_path: Path) -> None:
    login = tmp_path / "login"
    login.write_text("builder:swordfish\n")
    with RawOrigin(lambda asked: [b"HTTP/1.1 407 Login\r\nContent-Length: 0\r\n\r\n"]) as parent:
        child = start(through(names, parent.port, credentials=str(login)))
        ask(child, connect_head(f"{NAME}:443", "Proxy-Authorization: Basic bWluZTptaW5l"))
        asked = parent.connections[0].received
        assert b"Proxy-Authorization: Basic " + base64.b64encode(b"builder:swordfish") in asked
        assert b"bWluZTptaW5l" not in asked
        child.settled()
        assert "swordfish" not in child.json_log.read_text() + child.stderr


def test_a_parent_that_is_this_proxy_itself_is_a_loop(start: Start, names: DnsServer) -> None:
    proxy = start(through(names, 1))
    assert proxy.reload(through(names, proxy.port))
    reply = ask(proxy, connect_head(f"{NAME}:443"))
    assert (reply.status, reply.slug) == (508, "loop_detected")
    proxy.settled()


@pytest.mark.parametrize(
    ("target", "slug"), [("169.254.169.254:80", "address_denied"), ("10.1.1.1:443", "address_denied")]
)
def test_addresses_are_judged_before_a_parent_is_asked(start: Start, names: DnsServer, target: str, slug: str) -> None:
    with RawOrigin() as parent:
        config = through(names, parent.port)
        config["rules"][0].pop("hosts")
        proxy = start(config)
        assert ask(proxy, connect_head(target)).slug == slug
        assert parent.contacts() == 0
        proxy.settled()


def test_a_parent_that_nobody_answers_at_is_503(start: Start, names: DnsServer) -> None:
    proxy = start(through(names, free_port()))
    assert ask(proxy, connect_head(f"{NAME}:443")).slug == "connect_refused"
    proxy.settled()
    assert WAIT_S


# --- a bound for the life of a connection -------------------------------------------------------------------------


def test_a_tunnel_that_is_old_is_closed_and_an_old_client_is_not_kept(start: Start, names: DnsServer) -> None:
    with (
        RawOrigin(lambda asked: [b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"]) as plain,
        TcpOrigin(echo) as origin,
    ):
        rules = [{"action": "allow", "hosts": [NAME], "private_addresses": True}]
        proxy = start(settings(names, rules=rules, timeouts={"lifetime_s": 0.4}))
        with open_tunnel(proxy, f"{NAME}:{origin.port}") as tunnel:
            tunnel.sendall(b"x")
            assert receive_all(tunnel) == b"x", "and then the end"
        with dial(proxy) as client:
            request = f"GET http://{NAME}:{plain.port}/ HTTP/1.1\r\nHost: {NAME}\r\n\r\n".encode()
            client.sendall(request)
            assert client.recv(4096).endswith(b"hi"), "it is young"
            time.sleep(0.5)
            client.sendall(request)
            assert receive_all(client).endswith(b"hi"), "it is old: this is the last answer"
        outcomes = [record["outcome"] for record in proxy.settled().records]
        assert outcomes == ["lifetime", "answered", "answered"]
