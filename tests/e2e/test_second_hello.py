"""A server of TLS 1.3 may ask for a second ClientHello. It must name the server of the first, in a tunnel and on `sni`."""

from __future__ import annotations

import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.certificates import authority, client_context
from support.clients import connect_head, receive, receive_all
from support.dns import DnsServer
from support.hellos import openssl_hello, record
from support.origin import NAME, TcpOrigin
from support.proxy import Proxy
from support.waiting import WAIT_S, eventually

OTHER = "other.example.test"
ALERT = re.compile(rb"\x15\x03\x03\x00\x02\x02(.)", re.DOTALL)
RANDOM = bytes.fromhex("CF21AD74E59A6111BE1D8C021E65B891C2A211167ABB8C5E079E09E2C8A8339C")
HELLO = openssl_hello(NAME)
RETRY = record(b"\x02\x00\x00\x2c\x03\x03" + RANDOM + b"\x00\x13\x02\x00\x00\x04\x00\x33\x00\x02", version=0x0303)
SERVER_HELLO = record(
    b"\x02\x00\x00\x2c\x03\x03" + bytes(32) + b"\x00\x13\x02\x00\x00\x04\x00\x33\x00\x02", version=0x0303
)
CCS = record(b"\x01", 20, 0x0303)
EARLY = record(bytes(500), 23, 0x0303)


class Asking:
    """An origin that answers a first hello with some bytes and keeps what comes behind it."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.first = self.rest = b""
        self.over = threading.Event()

    def __call__(self, sock: socket.socket) -> None:
        self.first = receive(sock, len(HELLO))
        sock.sendall(self.answer)
        self.rest = receive_all(sock)
        self.over.set()


def settings(dns: DnsServer, way: str, port: int, **rule: Any) -> dict[str, Any]:
    known = {"name": "known", "action": "allow", "hosts": [NAME], "private_addresses": True, **rule}
    listener = {"protocol": "sni", "service_port": port} if way == "sni" else {"protocol": "http-proxy"}
    rules = [{**known, "sni_check": rule.get("sni_check", "enforce")}, {"name": "rest", "action": "deny"}]
    return {"listeners": [listener], "rules": rules, "dns": {"servers": [dns.address]}, "timeouts": {"head_s": 1.0}}


@pytest.fixture(params=["connect", "sni"])
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def through(
    way: str, dns: DnsServer, start: Callable[..., Proxy]
) -> Iterator[Callable[..., tuple[Proxy, socket.socket]]]:
    """A proxy in front of an origin, and a connection on which a ClientHello is said next."""
    opened: list[socket.socket] = []

    def open_one(port: int, **rule: Any) -> tuple[Proxy, socket.socket]:
        proxy = start(settings(dns, way, port, **rule))
        sock = socket.create_connection(("127.0.0.1", proxy.port), WAIT_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        opened.append(sock)
        if way == "connect":
            sock.sendall(connect_head(f"{NAME}:{port}"))
            assert receive(sock, 39).startswith(b"HTTP/1.1 200 ")
        return proxy, sock

    yield open_one
    for sock in opened:
        sock.close()


@pytest.mark.parametrize("before", [b"", CCS, CCS + EARLY], ids=["bare", "ccs", "early data"])
@pytest.mark.parametrize("waits", [True, False], ids=["asked", "unasked"])
def test_a_second_hello_for_another_server_is_closed_and_never_heard(
    through: Callable[..., tuple[Proxy, socket.socket]], before: bytes, waits: bool
) -> None:
    asking = Asking(RETRY)
    with TcpOrigin(asking) as origin:
        proxy, sock = through(origin.port)
        second = before + openssl_hello(OTHER)
        sock.sendall(HELLO if waits else HELLO + second)
        if waits:
            assert receive(sock, len(RETRY)) == RETRY
            sock.sendall(second)
        answer = ALERT.fullmatch(receive_all(sock))
        assert answer is not None
        assert answer[1][0] == 112
        assert asking.over.wait(WAIT_S)
    assert (asking.first, asking.rest) == (HELLO, b"")
    (entry,) = proxy.settled().records
    assert (entry["host"], entry["server_name"]) == (NAME, OTHER)
    assert (entry["sni_check"], entry["outcome"]) == ("mismatch", "sni_mismatch")
    assert entry["bytes_up"] == len(HELLO)


@pytest.mark.parametrize("size", [1, 6, 11, 43])
def test_a_question_that_comes_in_pieces_is_understood(
    through: Callable[..., tuple[Proxy, socket.socket]], size: int
) -> None:
    rest: list[bytes] = []

    def ask(sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        receive(sock, len(HELLO))
        for at in range(0, len(RETRY), size):
            sock.sendall(RETRY[at : at + size])
        rest.append(receive_all(sock))

    with TcpOrigin(ask) as origin:
        proxy, sock = through(origin.port)
        sock.sendall(HELLO)
        assert receive(sock, len(RETRY)) == RETRY
        sock.sendall(openssl_hello(OTHER))
        assert ALERT.fullmatch(receive_all(sock))
        eventually(lambda: rest, "the origin was left")
    assert rest == [b""]
    (entry,) = proxy.settled().records
    assert (entry["server_name"], entry["outcome"]) == (OTHER, "sni_mismatch")


def test_a_client_that_gives_up_before_an_answer_does_not_leave_its_tunnel_behind(
    through: Callable[..., tuple[Proxy, socket.socket]],
) -> None:
    """The upstream never answers, and leaves when its client does."""
    with TcpOrigin(lambda sock: receive_all(sock)) as origin:
        proxy, sock = through(origin.port)
        sock.sendall(HELLO)
        sock.close()
        (entry,) = proxy.settled().records
    assert entry["bytes_up"] == len(HELLO)


@pytest.mark.parametrize("before", [b"", CCS, CCS + EARLY], ids=["bare", "ccs", "early data"])
def test_a_second_hello_for_the_same_server_passes_untouched(
    through: Callable[..., tuple[Proxy, socket.socket]], before: bytes
) -> None:
    asking = Asking(RETRY)
    with TcpOrigin(asking) as origin:
        proxy, sock = through(origin.port)
        sock.sendall(HELLO)
        assert receive(sock, len(RETRY)) == RETRY
        second = before + openssl_hello(NAME) + b"and more"
        for at in range(0, len(second), 100):
            sock.sendall(second[at : at + 100])
        sock.shutdown(socket.SHUT_WR)
        assert asking.over.wait(WAIT_S)
    assert asking.rest == second
    (entry,) = proxy.settled().records
    assert entry["outcome"] == "closed"
    assert entry["bytes_up"] == len(HELLO) + len(second)


def test_behind_an_ordinary_answer_everything_passes(through: Callable[..., tuple[Proxy, socket.socket]]) -> None:
    asking = Asking(SERVER_HELLO)
    with TcpOrigin(asking) as origin:
        _, sock = through(origin.port)
        rest = CCS + EARLY + openssl_hello(OTHER) + bytes(300_000)
        sock.sendall(HELLO + rest)
        assert receive(sock, len(SERVER_HELLO)) == SERVER_HELLO
        sock.shutdown(socket.SHUT_WR)
        assert asking.over.wait(WAIT_S)
    assert asking.rest == rest


def test_a_second_hello_that_does_not_come_in_time_is_closed(
    through: Callable[..., tuple[Proxy, socket.socket]],
) -> None:
    with TcpOrigin(Asking(RETRY)) as origin:
        proxy, sock = through(origin.port)
        sock.sendall(HELLO)
        assert receive(sock, len(RETRY)) == RETRY
        assert ALERT.fullmatch(receive_all(sock))
    (entry,) = proxy.settled().records
    assert entry["outcome"] == "hello_timeout"


@pytest.mark.parametrize("answer", [b"", RETRY[:20]], ids=["nothing", "a part"])
def test_an_upstream_that_leaves_without_an_answer_ends_the_tunnel(
    through: Callable[..., tuple[Proxy, socket.socket]], answer: bytes
) -> None:
    def leave(sock: socket.socket) -> None:
        receive(sock, len(HELLO))
        sock.sendall(answer)

    with TcpOrigin(leave) as origin:
        proxy, sock = through(origin.port)
        sock.sendall(HELLO)
        assert receive_all(sock) == answer
        sock.close()
    (entry,) = proxy.settled().records
    assert entry["bytes_down"] == len(answer)


def test_a_client_that_leaves_before_the_answer_is_told_to_the_upstream_behind_it(
    through: Callable[..., tuple[Proxy, socket.socket]],
) -> None:
    asking = Asking(SERVER_HELLO)
    with TcpOrigin(asking) as origin:
        proxy, sock = through(origin.port)
        sock.sendall(HELLO + CCS)
        sock.shutdown(socket.SHUT_WR)
        assert receive_all(sock) == SERVER_HELLO
        assert asking.over.wait(WAIT_S)
    assert asking.rest == CCS
    (entry,) = proxy.settled().records
    assert entry["outcome"] == "closed"


def test_openssl_is_asked_again_and_gets_its_page(
    through: Callable[..., tuple[Proxy, socket.socket]], way: str, tmp_path: Path
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority().issue_cert(NAME).configure_cert(context)
    context.set_ecdh_curve("prime256v1")  # OpenSSL's clients offer a share for X25519 first
    flights: list[bytes] = []

    def serve(sock: socket.socket) -> None:
        flights.append(sock.recv(5000, socket.MSG_PEEK))
        with context.wrap_socket(sock, server_side=True) as tls:
            tls.sendall(b"served " + tls.recv(100))

    with TcpOrigin(serve) as origin:
        proxy, sock = through(origin.port)
        with client_context().wrap_socket(sock, server_hostname=NAME) as tls:
            assert tls.version() == "TLSv1.3"
            tls.sendall(b"hello")
            assert receive(tls, 12) == b"served hello"
        eventually(lambda: flights, "the origin was spoken to")
    (entry,) = proxy.settled().records
    assert entry["outcome"] in ("closed", "client_reset", "upstream_reset")
