"""PROXY protocol, in and out: who announces clients, what rules and logs then see, and what an upstream is told."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pytest
from support.clients import connect_head, installed, open_tunnel, receive, receive_all, run
from support.dns import DnsServer
from support.hellos import openssl_hello
from support.origin import NAME, TITLE, TcpOrigin, TlsOrigin, echo
from support.proxy import Proxy, free_port
from support.waiting import WAIT_S, eventually

from egressproxy.wire.proxy_protocol import parse_proxy_header, proxy_header

CLIENT = ("192.0.2.7", 40_000)
HERE = ("198.51.100.1", 3128)


def settings(dns: DnsServer, *announcers: str, protocol: str = "http-proxy", **more: Any) -> dict[str, Any]:
    """Only the announced client may go anywhere."""
    listener = {"protocol": protocol, "proxy_protocol": {"from": announcers}, **more}
    return {
        "listeners": [listener],
        "rules": [
            {"name": "known", "action": "allow", "clients": [CLIENT[0]], "hosts": [NAME], "private_addresses": True},
            {"name": "rest", "action": "deny"},
        ],
        "dns": {"servers": [dns.address]},
        "timeouts": {"head_s": 1.0},
    }


def knock(proxy: Proxy, data: bytes) -> bytes:
    """Send bytes, end the sending half; all that comes back."""
    with socket.create_connection(("127.0.0.1", proxy.port), WAIT_S) as sock:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        return receive_all(sock)


# --- in -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [1, 2])
def test_the_announced_client_is_the_one_that_rules_and_logs_see(
    dns: DnsServer, echo_origin: TcpOrigin, start: Callable[..., Proxy], version: Literal[1, 2]
) -> None:
    proxy = start(settings(dns, "127.0.0.1/32"))
    header = proxy_header(version, CLIENT, HERE)
    answer = knock(proxy, header + connect_head(f"{NAME}:{echo_origin.port}") + b"hello")
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(b"\r\n\r\nhello")
    lines = proxy.settled()
    (record,) = lines.records
    assert (record["client"], record["client_port"], record["rule"]) == (*CLIENT, "known")
    assert f" {CLIENT[0]} TCP_TUNNEL/200 " in lines.squid[0]


def test_a_header_that_comes_byte_by_byte_is_waited_for(
    dns: DnsServer, echo_origin: TcpOrigin, start: Callable[..., Proxy]
) -> None:
    proxy = start(settings(dns, "127.0.0.1"))
    with socket.create_connection(("127.0.0.1", proxy.port), WAIT_S) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for octet in proxy_header(2, CLIENT, HERE) + connect_head(f"{NAME}:{echo_origin.port}"):
            sock.send(bytes([octet]))
        assert receive(sock, 12) == b"HTTP/1.1 200"
    proxy.settled()


def test_a_health_check_of_the_balancer_itself_keeps_its_own_address(
    dns: DnsServer, start: Callable[..., Proxy]
) -> None:
    proxy = start(settings(dns, "127.0.0.1"))
    local = b"\r\n\r\n\0\r\nQUIT\n" + bytes((0x20, 0, 0, 0))
    assert knock(proxy, local + connect_head(f"{NAME}:443")).startswith(b"HTTP/1.1 403 ")
    (record,) = proxy.settled().records
    assert record["client"] == "127.0.0.1"


@pytest.mark.parametrize(
    "sent",
    [
        connect_head(f"{NAME}:443"),
        openssl_hello(NAME),
        b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 03128\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 70000\r\n",
        proxy_header(1, CLIENT, HERE)[:-1],
        proxy_header(2, CLIENT, HERE)[:20],
        b"\n",
    ],
)
def test_without_a_header_in_order_nothing_is_answered_and_nothing_asked(
    dns: DnsServer, start: Callable[..., Proxy], sent: bytes
) -> None:
    proxy = start(settings(dns, "127.0.0.1"))
    asked = dns.count()
    assert knock(proxy, sent) == b""
    (record,) = proxy.settled().records
    assert record["outcome"] in ("malformed_proxy_header", "client_gone")
    assert dns.count() == asked


def test_who_sends_no_header_in_time_is_closed(dns: DnsServer, start: Callable[..., Proxy]) -> None:
    proxy = start(settings(dns, "127.0.0.1"))
    with socket.create_connection(("127.0.0.1", proxy.port), WAIT_S) as sock:
        sock.sendall(b"PROXY ")
        assert receive_all(sock) == b""
    (record,) = proxy.settled().records
    assert record["outcome"] == "malformed_proxy_header"


def test_an_announcement_from_elsewhere_is_not_believed(dns: DnsServer, start: Callable[..., Proxy]) -> None:
    proxy = start(settings(dns, "127.0.0.2", "10.0.0.0/8"))
    assert knock(proxy, proxy_header(2, CLIENT, HERE) + connect_head(f"{NAME}:443")) == b""
    (record,) = proxy.settled().records
    assert (record["outcome"], record["client"]) == ("announcer_denied", "127.0.0.1")


def test_who_may_announce_no_more_does_not_go_on_for_the_announced_client(
    dns: DnsServer, start: Callable[..., Proxy]
) -> None:
    proxy = start(settings(dns, "127.0.0.1/32"))
    with socket.create_connection(("127.0.0.1", proxy.port), WAIT_S) as sock:
        asks = b"GET http://other.example/ HTTP/1.1\r\nHost: other.example\r\n\r\n"
        sock.sendall(proxy_header(1, CLIENT, HERE) + asks)
        answer = sock.recv(1 << 16)
        assert answer.startswith(b"HTTP/1.1 403 ")
        assert b"close" not in answer.lower().partition(b"\r\n\r\n")[0]
        assert proxy.reload(settings(dns, "192.0.2.0/24"))
        sock.sendall(asks)
        assert b"HTTP/1.1 403 " not in receive_all(sock)


def test_curl_announces_itself(dns: DnsServer, origin: TlsOrigin, tmp_path: Path, start: Callable[..., Proxy]) -> None:
    config = settings(dns, "127.0.0.1", protocol="sni", service_port=origin.port)
    config["rules"][0]["clients"] = ["127.0.0.1"]
    proxy = start(config)
    place = f"{NAME}:443:127.0.0.1:{proxy.port}"
    done = run("curl", "-sSk", "--haproxy-protocol", "--connect-to", place, f"https://{NAME}/", folder=tmp_path)
    assert TITLE in done.out
    proxy.settled()


# --- out ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "first"), [("v1", b"PROXY TCP4 127.0.0.1 127.0.0.1 "), ("v2", b"\r\n\r\n\0\r\nQUIT\n\x21\x11")]
)
def test_an_upstream_is_told_the_client_first(
    dns: DnsServer, start: Callable[..., Proxy], word: str, first: bytes
) -> None:
    rule = {"name": "told", "action": "allow", "hosts": [NAME], "private_addresses": True, "proxy_protocol": word}
    proxy = start({"rules": [rule], "dns": {"servers": [dns.address]}})
    with TcpOrigin(echo) as target, open_tunnel(proxy, f"{NAME}:{target.port}") as sock:
        own = sock.getsockname()
        sock.sendall(b"then this")
        sock.shutdown(socket.SHUT_WR)
        came = receive_all(sock)
    assert came.startswith(first)
    announced = parse_proxy_header(came)
    assert announced is not None
    assert (announced.source, announced.destination) == (own, ("127.0.0.1", proxy.port))
    assert came[announced.length :] == b"then this"
    proxy.settled()


def test_where_an_announced_client_was_going_is_told_on(dns: DnsServer, start: Callable[..., Proxy]) -> None:
    config = settings(dns, "127.0.0.1")
    config["rules"][0]["proxy_protocol"] = "v2"
    proxy = start(config)
    with TcpOrigin(echo) as target:
        came = knock(proxy, proxy_header(1, CLIENT, HERE) + connect_head(f"{NAME}:{target.port}"))
    announced = parse_proxy_header(came.partition(b"\r\n\r\n")[2])
    assert announced is not None
    assert (announced.source, announced.destination) == (CLIENT, HERE)
    proxy.settled()


def test_nginx_reads_what_an_upstream_is_told(dns: DnsServer, tmp_path: Path, start: Callable[..., Proxy]) -> None:
    rule = {"name": "told", "action": "allow", "hosts": [NAME], "private_addresses": True, "proxy_protocol": "v2"}
    proxy = start({"rules": [rule], "dns": {"servers": [dns.address]}})
    with nginx(tmp_path) as port, open_tunnel(proxy, f"{NAME}:{port}") as sock:
        sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert receive_all(sock).endswith(f"client {sock.getsockname()[0]} port {sock.getsockname()[1]}\n".encode())
    proxy.settled()


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def nginx(folder: Path) -> Iterator[int]:
    """An NGINX that asks for the header and tells what it says; its port."""
    port = free_port()
    (folder / "nginx.conf").write_text(
        f"""
        daemon off; master_process off; pid {folder}/nginx.pid; error_log {folder}/error.log;
        events {{}}
        http {{
            access_log off; client_body_temp_path {folder}; proxy_temp_path {folder};
            fastcgi_temp_path {folder}; uwsgi_temp_path {folder}; scgi_temp_path {folder};
            server {{
                listen 127.0.0.1:{port} proxy_protocol;
                location / {{ return 200 "client $proxy_protocol_addr port $proxy_protocol_port\\n"; }}
            }}
        }}
        """
    )
    with subprocess.Popen(
        [installed("nginx"), "-p", folder, "-c", folder / "nginx.conf"], stderr=subprocess.DEVNULL
    ) as child:
        try:
            eventually(lambda: listens(port), "nginx listens")
            yield port
        finally:
            child.terminate()
            child.wait(WAIT_S)
