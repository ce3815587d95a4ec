"""A squid.conf in force, as far as it is not what the native form does: where a port without an address listens."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.clients import connect_head, parse_reply, receive_all
from support.no_ipv6 import PRELUDE, need_filters
from support.origin import TcpOrigin
from support.proxy import Proxy, free_port
from support.waiting import WAIT_S

Start = Callable[..., Proxy]

BARE_PORT = """\
http_port {port} name=bare
acl refused src 127.0.0.9
http_access deny refused
http_access allow localhost manager
http_access deny manager
http_access allow localhost
http_access deny all
access_log none
"""
MANAGER = b"GET /squid-internal-mgr/info HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


@pytest.fixture
def bare(start: Start, tmp_path: Path) -> Callable[..., tuple[Proxy, int]]:
    """Starts a proxy whose squid.conf has a port without an address: it, and that port."""

    def start_one(config: dict[str, Any], **options: Any) -> tuple[Proxy, int]:
        port = free_port("::")
        squid = tmp_path / "squid.conf"
        squid.write_text(BARE_PORT.format(port=port))
        native = tmp_path / "proxy-0" / "egressproxy.yaml"
        return start(config, arguments=(str(native), str(squid)), **options), port

    return start_one


def ask(port: int, request: bytes, address: str, source: str | None = None) -> tuple[int, str]:
    """Status and slug of the answer."""
    with socket.create_connection((address, port), WAIT_S, (source, 0) if source else None) as sock:
        sock.sendall(request)
        if request.startswith(b"CONNECT "):
            sock.shutdown(socket.SHUT_WR)
        data = receive_all(sock)
    if data.startswith(b"HTTP/1.1 200 "):
        return 200, ""
    reply = parse_reply(data)
    return reply.status, reply.slug


def test_a_port_without_an_address_takes_clients_of_both_families_each_by_its_own_address(
    bare: Callable[..., tuple[Proxy, int]], open_config: dict[str, Any], echo_origin: TcpOrigin
) -> None:
    proxy, port = bare(open_config)
    connect = connect_head(echo_origin.target)
    for address in ("127.0.0.1", "::1"):
        assert ask(port, connect, address) == (200, "")
        assert ask(port, MANAGER, address) == (200, "")
        for own in ("127.0.0.1", "[::1]", "[::ffff:127.0.0.1]"):
            assert ask(port, connect_head(f"{own}:{port}"), address) == (508, "loop_detected")
    assert ask(port, connect, "127.0.0.1", "127.0.0.9") == (403, "rule_denied")
    clients = [record["client"] for record in proxy.settled().records]
    assert clients == ["127.0.0.1"] * 5 + ["::1"] * 5 + ["127.0.0.9"]
    assert proxy.reload_as_written()
    assert ask(port, connect, "::1") == (200, "")
    assert f"bare listens on :: port {port}" in proxy.stderr


def test_where_the_kernel_has_no_ipv6_it_serves_ipv4_and_says_so_once(
    bare: Callable[..., tuple[Proxy, int]], open_config: dict[str, Any], echo_origin: TcpOrigin
) -> None:
    need_filters()
    proxy, port = bare(open_config, prelude=PRELUDE)
    connect = connect_head(echo_origin.target)
    for _ in range(2):
        assert ask(port, connect, "127.0.0.1") == (200, "")
        assert ask(port, connect, "127.0.0.1", "127.0.0.9") == (403, "rule_denied")
        assert ask(port, connect_head(f"127.0.0.1:{port}"), "127.0.0.1") == (508, "loop_detected")
        assert proxy.reload_as_written()
    assert proxy.stderr.count("this kernel has no IPv6") == 1
    assert f"bare listens on 0.0.0.0 port {port}" in proxy.stderr
