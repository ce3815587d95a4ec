"""The `sni` and `auto` listeners, with real TLS clients and a real TLS origin behind them."""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.certificates import client_context
from support.clients import installed, open_tunnel, receive, receive_all, run
from support.dns import DnsServer
from support.hellos import browser_hello, openssl_hello
from support.origin import NAME, PAGE, TITLE, TcpOrigin, TlsOrigin, echo
from support.proxy import Proxy
from support.waiting import WAIT_S, eventually

ALERT = re.compile(rb"\x15\x03\x03\x00\x02\x02(.)", re.DOTALL)
"""One fatal alert; the group is its description."""
ACCESS_DENIED, DECODE_ERROR, UNEXPECTED_MESSAGE, UNRECOGNIZED_NAME, MISSING_EXTENSION = 49, 50, 10, 112, 109
REFUSED = "closed.example.test"
SELF = "self.example.test"
NOWHERE = "nowhere.example.test"


@pytest.fixture(scope="module")
def names() -> Iterator[DnsServer]:
    with DnsServer() as server:
        server.add(NAME, "A", "127.0.0.1")
        server.add(SELF, "A", "127.0.0.1")
        server.add(REFUSED, "A", "127.0.0.1")
        yield server


@pytest.fixture(scope="module")
def raw_origin() -> Iterator[TcpOrigin]:
    with TcpOrigin(echo) as server:
        yield server


def settings(names: DnsServer, service_port: int, protocol: str = "sni", **more: Any) -> dict[str, Any]:
    return {
        "listeners": [{"protocol": protocol, "service_port": service_port}],
        "rules": [
            {"name": "known", "action": "allow", "hosts": [NAME, SELF, NOWHERE], "private_addresses": True},
            {"name": "rest", "action": "deny"},
        ],
        "dns": {"servers": [names.address]},
        "timeouts": {"head_s": 1.0},
        **more,
    }


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory, names: DnsServer, origin: TlsOrigin) -> Iterator[Proxy]:
    with Proxy(tmp_path_factory.mktemp("proxy"), settings(names, origin.port)) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def raw_proxy(tmp_path_factory: pytest.TempPathFactory, names: DnsServer, raw_origin: TcpOrigin) -> Iterator[Proxy]:
    """In front of an origin that sends back what it gets."""
    with Proxy(tmp_path_factory.mktemp("raw"), settings(names, raw_origin.port)) as proxy:
        yield proxy


def curl(proxy: Proxy, host: str, folder: Path, ca_file: Path, code: int, *more: str) -> str:
    """curl without any proxy setting, taken to the listener by an address of its own."""
    place = f"{host}:443:127.0.0.1:{proxy.port}"
    command = ("curl", "-sSv", "--connect-to", place, "--cacert", ca_file, *more, f"https://{host}/")
    done = run(*command, folder=folder, code=code)
    return done.out + done.err


def say(proxy: Proxy, data: bytes, *, end: bool = False) -> bytes:
    """Send bytes to the listener; all that comes back."""
    with socket.create_connection(("127.0.0.1", proxy.port), WAIT_S) as sock:
        sock.sendall(data)
        if end:
            sock.shutdown(socket.SHUT_WR)
        return receive_all(sock)


# --- forwarded ----------------------------------------------------------------------------------------------------


def test_curl_gets_the_page_and_the_log_says_so(proxy: Proxy, tmp_path: Path, ca_file: Path) -> None:
    assert TITLE in curl(proxy, NAME, tmp_path, ca_file, 0)
    lines = proxy.settled()
    (record,) = lines.records
    assert (record["protocol"], record["server_name"], record["host"]) == ("sni", NAME, NAME)
    assert (record["rule"], record["status"], record["sni_check"]) == ("known", 200, None)
    assert record["outcome"] in ("closed", "client_reset")  # curl leaves without reading the close_notify
    assert record["bytes_down"] > len(PAGE)
    assert f" TCP_TUNNEL/200 {record['bytes_down']} CONNECT {NAME}:" in lines.squid[0]


def test_openssl_gets_the_page(proxy: Proxy, tmp_path: Path, ca_file: Path) -> None:
    place = f"127.0.0.1:{proxy.port}"
    request = f"GET / HTTP/1.1\r\nHost: {NAME}\r\nConnection: close\r\n\r\n"
    command = ("openssl", "s_client", "-quiet", "-connect", place, "-servername", NAME, "-CAfile", ca_file)
    assert TITLE in run(*command, folder=tmp_path, stdin=request, code=None).out
    proxy.settled()


def test_gnutls_gets_the_page(proxy: Proxy, tmp_path: Path, ca_file: Path) -> None:
    installed("gnutls-cli")
    request = f"GET / HTTP/1.1\r\nHost: {NAME}\r\nConnection: close\r\n\r\n"
    command = ("gnutls-cli", "--x509cafile", ca_file, "--sni-hostname", NAME, "--verify-hostname", NAME)
    done = run(*command, "-p", str(proxy.port), "127.0.0.1", folder=tmp_path, stdin=request, code=None)
    assert TITLE in done.out, done
    proxy.settled()


@pytest.mark.parametrize("hello", [openssl_hello(NAME), browser_hello(NAME), openssl_hello(NAME.upper())])
def test_the_origin_gets_every_byte_as_the_client_sent_it(raw_proxy: Proxy, hello: bytes) -> None:
    assert say(raw_proxy, hello + b"and more", end=True) == hello + b"and more"
    (record,) = raw_proxy.settled().records
    assert record["server_name"].lower() == NAME
    assert record["bytes_up"] == record["bytes_down"] == len(hello) + 8


def test_a_hello_that_comes_byte_by_byte_is_waited_for(raw_proxy: Proxy) -> None:
    hello = openssl_hello(NAME)
    with socket.create_connection(("127.0.0.1", raw_proxy.port), WAIT_S) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for position in range(len(hello)):
            sock.send(hello[position : position + 1])
        sock.shutdown(socket.SHUT_WR)
        assert receive_all(sock) == hello
    raw_proxy.settled()


# --- refused ------------------------------------------------------------------------------------------------------


def test_curl_exits_35_where_a_rule_refuses(proxy: Proxy, names: DnsServer, tmp_path: Path, ca_file: Path) -> None:
    assert "alert access denied" in curl(proxy, REFUSED, tmp_path, ca_file, 35)
    (record,) = proxy.settled().records
    assert (record["server_name"], record["rule"], record["outcome"]) == (REFUSED, "rest", "rule_denied")
    assert (record["opened"], record["upstream"]) == (False, None)
    assert REFUSED not in names.asked_names()


@pytest.mark.parametrize(
    ("sent", "alert", "slug"),
    [
        (openssl_hello(REFUSED), ACCESS_DENIED, "rule_denied"),
        (openssl_hello(None), MISSING_EXTENSION, "no_sni"),
        (openssl_hello(NOWHERE), UNRECOGNIZED_NAME, "name_not_found"),
        (b"GET / HTTP/1.1\r\nHost: www.example.test\r\n\r\n", UNEXPECTED_MESSAGE, "not_tls"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", UNEXPECTED_MESSAGE, "not_tls"),
        (b"\x16\x03\x01\x00\x04\x02\x00\x00\x00", DECODE_ERROR, None),
        (openssl_hello("192.0.2.1x").replace(b"192.0.2.1x", b"192.0.2.10"), DECODE_ERROR, "malformed_hello"),
        (openssl_hello("0x7f.example1").replace(b"0x7f.example1", b"example.0x7f1"), DECODE_ERROR, "malformed_hello"),
        (
            openssl_hello("www.example.test").replace(b"www.example.test", b"www\0example.test"),
            DECODE_ERROR,
            "malformed_hello",
        ),
    ],
)
def test_who_is_refused_hears_an_alert_and_the_origin_nothing(
    raw_proxy: Proxy, raw_origin: TcpOrigin, sent: bytes, alert: int, slug: str | None
) -> None:
    before = raw_origin.contacts()
    answer = ALERT.fullmatch(say(raw_proxy, sent))
    assert answer is not None
    (record,) = raw_proxy.settled().records
    assert record["outcome"] == slug or slug is None
    if slug is not None:
        assert answer[1][0] == alert
    assert raw_origin.contacts() == before


def test_a_loop_back_to_the_listener_is_refused(tmp_path: Path, names: DnsServer, start: Callable[..., Proxy]) -> None:
    proxy = start(
        {"listeners": [{"protocol": "sni"}], **{k: v for k, v in settings(names, 1).items() if k != "listeners"}}
    )
    config = settings(names, proxy.port)
    assert proxy.reload(config)
    assert ALERT.fullmatch(say(proxy, openssl_hello(SELF)))
    (record,) = proxy.settled().records
    assert record["outcome"] == "loop_detected"


def test_who_says_nothing_or_half_hears_an_alert_in_time(raw_proxy: Proxy) -> None:
    with socket.create_connection(("127.0.0.1", raw_proxy.port), WAIT_S) as sock:
        sock.sendall(openssl_hello(NAME)[:100])
        assert ALERT.fullmatch(receive_all(sock))
    (record,) = raw_proxy.settled().records
    assert record["outcome"] == "hello_timeout"
    assert 1.0 <= record["duration_ms"] / 1000 < 3.0


def test_a_client_that_leaves_in_the_middle_is_one_line(raw_proxy: Proxy, raw_origin: TcpOrigin) -> None:
    before = raw_origin.contacts()
    assert say(raw_proxy, openssl_hello(NAME)[:100], end=True) == b""
    (record,) = raw_proxy.settled().records
    assert record["outcome"] == "client_gone"
    assert raw_origin.contacts() == before


def test_a_hello_over_the_limit_is_refused(
    names: DnsServer, raw_origin: TcpOrigin, start: Callable[..., Proxy]
) -> None:
    proxy = start(settings(names, raw_origin.port, limits={"max_hello_bytes": 1024}))
    assert ALERT.fullmatch(say(proxy, browser_hello(NAME)))
    hello = openssl_hello(NAME)
    assert say(proxy, hello + b"x" * 2000, end=True) == hello + b"x" * 2000
    assert [record["outcome"] for record in proxy.settled().records] == ["hello_too_large", "closed"]


def test_ech_deny_closes_a_hello_that_may_hide_a_name(
    names: DnsServer, raw_origin: TcpOrigin, start: Callable[..., Proxy]
) -> None:
    proxy = start(settings(names, raw_origin.port, ech="deny"))
    assert ALERT.fullmatch(say(proxy, browser_hello(NAME)))
    hello = openssl_hello(NAME)
    assert say(proxy, hello, end=True) == hello
    assert [record["outcome"] for record in proxy.settled().records] == ["ech_denied", "closed"]


# --- the log of NGINX ---------------------------------------------------------------------------------------------


def test_the_log_reads_as_that_of_nginx(
    names: DnsServer, raw_origin: TcpOrigin, tmp_path: Path, start: Callable[..., Proxy]
) -> None:
    log, older = tmp_path / "nginx.log", tmp_path / "nginx-1.22.log"
    logs = [{"format": "nginx-stream", "path": str(log)}, {"format": "nginx-stream-1.22", "path": str(older)}]
    proxy = start(settings(names, raw_origin.port, access_log=logs))
    hello = openssl_hello(NAME)
    with socket.create_connection(("127.0.0.1", proxy.port), WAIT_S) as sock:
        sock.sendall(hello)
        assert receive(sock, len(hello)) == hello
        sock.sendall(b"12345")
        assert receive(sock, 5) == b"12345"
    eventually(lambda: len(log.read_text().splitlines()) == 1, "a line")
    say(proxy, openssl_hello(REFUSED.title()))
    eventually(lambda: log.exists() and len(log.read_text().splitlines()) == 2, "two lines")
    eventually(lambda: len(older.read_text().splitlines()) == 2, "two lines")
    time = r"\[\d\d/[A-Z][a-z][a-z]/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}\]"
    passed, refused = log.read_text().splitlines()
    size = len(hello) + 5
    assert re.fullmatch(rf"127\.0\.0\.1 {time} TCP \[{NAME}\]200 {size} {size} \d+\.\d{{3}}", passed)
    assert re.fullmatch(rf"127\.0\.0\.1 {time} TCP \[{REFUSED.title()}\]403 7 0 \d+\.\d{{3}}", refused)
    assert re.fullmatch(
        rf"127\.0\.0\.1 {time} TCP \[{NAME}\]200 {size} 5 \d+\.\d{{3}}", older.read_text().splitlines()[0]
    )


# --- auto ---------------------------------------------------------------------------------------------------------


def test_one_port_takes_tls_and_connect(
    names: DnsServer, origin: TlsOrigin, tmp_path: Path, ca_file: Path, start: Callable[..., Proxy]
) -> None:
    proxy = start(settings(names, origin.port, "auto"))
    assert TITLE in curl(proxy, NAME, tmp_path, ca_file, 0)
    curl(proxy, REFUSED, tmp_path, ca_file, 35)
    through = run("curl", "-sS", "-x", proxy.url, "--cacert", ca_file, origin.url(), folder=tmp_path)
    assert TITLE in through.out
    refused = run("curl", "-sSv", "-x", proxy.url, f"https://{REFUSED}/", folder=tmp_path, code=56)
    assert "403 Forbidden: rule_denied" in refused.err
    assert [record["protocol"] for record in proxy.settled().records] == ["sni", "sni", "http-proxy", "http-proxy"]


def test_who_says_nothing_on_an_auto_port_is_closed_in_time(
    names: DnsServer, origin: TlsOrigin, start: Callable[..., Proxy]
) -> None:
    proxy = start(settings(names, origin.port, "auto"))
    assert say(proxy, b"") == b""
    (record,) = proxy.settled().records
    assert (record["protocol"], record["outcome"]) == ("auto", "head_timeout")


def test_a_tunnel_by_connect_and_python_inside(
    names: DnsServer, origin: TlsOrigin, start: Callable[..., Proxy]
) -> None:
    proxy = start(settings(names, origin.port, "auto"))
    with (
        open_tunnel(proxy, f"{NAME}:{origin.port}") as sock,
        client_context().wrap_socket(sock, server_hostname=NAME) as tls,
    ):
        assert isinstance(tls, ssl.SSLSocket)
        tls.sendall(f"GET / HTTP/1.1\r\nHost: {NAME}\r\nConnection: close\r\n\r\n".encode())
        assert TITLE.encode() in receive_all(tls)
