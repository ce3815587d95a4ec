"""Clients that a TLS listener turns away at the handshake: what the proxy says is not lost behind what they still send."""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support import certificates
from support.certificates import NAME, TLS_1_2, TLS_1_3
from support.clients import connect_head, dial, receive_all
from support.plain_http import CLOSE, RawOrigin, Wire, request, response
from support.proxy import Proxy, free_port
from support.waiting import eventually

# RFC 8446 section 6
ALERT, FATAL, UNEXPECTED_MESSAGE = 21, 2, 10

MORE = bytes(200_000)
"""What a client sends that does not wait for an answer. Unread by the proxy, it would turn its closing into a reset."""


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory, open_config: dict[str, Any]) -> Iterator[Proxy]:
    """Listens with TLS; `known` asks for a certificate of the client's own."""
    files = certificates.write_files(tmp_path_factory.mktemp("files"))
    proxy = Proxy(tmp_path_factory.mktemp("proxy"))
    tls = {"certificate": str(files["certificate"]), "key": str(files["key"])}
    known = {"name": "known", "port": free_port(), "tls": {**tls, "client_ca": str(files["authority"])}}
    listeners = [
        {"protocol": "http-proxy", "address": "127.0.0.1", **listener}
        for listener in ({"name": "any", "port": proxy.port, "tls": tls}, known)
    ]
    proxy.write_config({**open_config, "listeners": listeners})
    with proxy:
        yield proxy


def the_record(proxy: Proxy) -> dict[str, Any]:
    (record,) = proxy.settled().records
    assert (record["outcome"], record["status"], record["closed_by"]) == ("client_tls_failed", None, "client")
    return record


def ends_in_order(client: socket.socket) -> bytes:
    """All that comes until the end, which must not be a reset."""
    data = b""
    while more := client.recv(65_536):
        data += more
    return data


@pytest.mark.parametrize("first", [connect_head("a.example:443"), b"SSH-2.0-OpenSSH_9.6\r\n", bytes(64)], ids=repr)
def test_who_speaks_no_tls_meets_an_orderly_end(proxy: Proxy, first: bytes) -> None:
    with dial(proxy) as client:
        client.sendall(first + MORE)
        assert ends_in_order(client) == b"", "OpenSSL has no alert for those who do not speak TLS"
    assert the_record(proxy)["detail"].startswith("TLS handshake: the client ")


def test_who_speaks_broken_tls_gets_the_alert_that_fits(proxy: Proxy) -> None:
    hello = b"hello, I am no ClientHello"
    with dial(proxy) as client:
        client.sendall(struct.pack("!BHH", 22, 0x0301, len(hello)) + hello + MORE)
        kind, _, length, level, description = struct.unpack("!BHHBB", ends_in_order(client))
    assert (kind, length, level, description) == (ALERT, 2, FATAL, UNEXPECTED_MESSAGE)
    the_record(proxy)


@pytest.mark.parametrize(
    ("version", "alert"),
    [(TLS_1_2, "SSLV3_ALERT_HANDSHAKE_FAILURE"), (TLS_1_3, "TLSV13_ALERT_CERTIFICATE_REQUIRED")],
    ids=["1.2", "1.3"],
)
def test_who_shows_no_certificate_is_told_that_one_is_wanted(proxy: Proxy, version: ssl.TLSVersion, alert: str) -> None:
    def shake_hands_and_ask() -> None:
        known = proxy.config["listeners"][1]["port"]
        with (
            socket.create_connection(("127.0.0.1", known)) as tcp,
            certificates.client_context(version).wrap_socket(tcp, server_hostname=NAME) as client,
        ):
            # In TLS 1.3 the client is done, and sends, before the proxy has seen that it shows none.
            client.sendall(connect_head("a.example:443") + MORE)
            client.recv(1)

    with pytest.raises(ssl.SSLError) as caught:
        shake_hands_and_ask()
    assert caught.value.reason == alert
    assert the_record(proxy)["detail"] == "TLS handshake: the client showed no certificate, and client_ca asks for one"


@contextmanager
def tls_client(proxy: Proxy) -> Iterator[Wire]:
    """One that takes no end for one without a close_notify."""
    with (
        dial(proxy) as tcp,
        certificates.client_context(TLS_1_3).wrap_socket(
            tcp, server_hostname=NAME, suppress_ragged_eofs=False
        ) as client,
    ):
        yield Wire(client)


UNTIL_CLOSED = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nwhole"
IN_CHUNKS = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nwhole\r\n0\r\n\r\n"


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("told", [UNTIL_CLOSED, IN_CHUNKS, response(b"whole")], ids=["closed", "chunks", "length"])
def test_the_last_answer_ends_with_a_close_notify(proxy: Proxy, version: str, told: bytes) -> None:
    """In HTTP/1.0 a body may end where the connection does: only this tells it from one that was cut."""
    with RawOrigin(lambda _: [told, CLOSE]) as origin, tls_client(proxy) as client:
        client.send(request(origin.url(), "Connection: close", version=version))
        assert b"whole" in client.to_the_end()
        assert not client.was_reset
    proxy.settled()


def test_an_answer_that_breaks_off_ends_without_a_close_notify(proxy: Proxy) -> None:
    begun = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhal\r\n"
    with RawOrigin(lambda _: [begun, CLOSE]) as origin, tls_client(proxy) as client:
        client.send(request(origin.url(), version="1.0"))
        assert client.head() is not None
        assert client.exactly(3) == b"hal"
        with pytest.raises((ssl.SSLEOFError, ConnectionResetError)):
            client.sock.recv(1)
    proxy.settled()


def test_who_was_turned_away_and_does_not_close_is_waited_for_and_then_left(proxy: Proxy) -> None:
    with dial(proxy) as client:
        client.sendall(b"no TLS\r\n")
        assert ends_in_order(client) == b""
        assert proxy.metric("connections_open") == 1, "it may still be sending"
        client.sendall(MORE)
        eventually(lambda: proxy.metric("connections_open") == 0, "it had its time")
        assert receive_all(client) == b""
    assert 900 < the_record(proxy)["duration_ms"] < 5000


def test_who_came_before_certificates_were_asked_for_must_come_again(
    tmp_path: Path, open_config: dict[str, Any], start: Callable[..., Proxy]
) -> None:
    files = certificates.write_files(tmp_path)
    tls = {"certificate": str(files["certificate"]), "key": str(files["key"])}
    config = {**open_config, "listeners": [{"protocol": "http-proxy", "tls": tls}]}
    proxy = start(config)
    with RawOrigin(lambda _: [response(b"whole")]) as origin, tls_client(proxy) as client:
        client.send(request(origin.url()))
        assert client.head() is not None
        assert client.exactly(5) == b"whole"
        config["listeners"][0]["tls"] = {**tls, "client_ca": str(files["authority"])}
        assert proxy.reload(config)
        client.send(request(origin.url()))
        assert client.to_the_end() == b""
