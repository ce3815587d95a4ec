"""A tunnel carries the host it was granted for: the check of the TLS inside CONNECT, seen from outside."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.clients import open_tunnel, receive, receive_all, run
from support.dns import DnsServer
from support.hellos import browser_hello, openssl_hello
from support.origin import NAME, TITLE, TcpOrigin, TlsOrigin, echo
from support.proxy import Proxy
from support.waiting import eventually

OTHER = "other.example.test"
ALERT = re.compile(rb"\x15\x03\x03\x00\x02\x02(.)", re.DOTALL)
UNRECOGNIZED_NAME = 112


@pytest.fixture(scope="module")
def names() -> Iterator[DnsServer]:
    with DnsServer() as server:
        server.add(NAME, "A", "127.0.0.1")
        server.add(OTHER, "A", "127.0.0.1")
        yield server


@pytest.fixture(scope="module")
def target() -> Iterator[TcpOrigin]:
    with TcpOrigin(echo) as server:
        yield server


def settings(names: DnsServer, **rule: Any) -> dict[str, Any]:
    known = {"name": "known", "action": "allow", "hosts": [NAME, "127.0.0.1"], "private_addresses": True, **rule}
    return {
        "rules": [known, {"name": "rest", "action": "deny"}],
        "dns": {"servers": [names.address]},
        "timeouts": {"head_s": 1.0},
    }


@pytest.fixture(scope="module")
def enforcing(tmp_path_factory: pytest.TempPathFactory, names: DnsServer) -> Iterator[Proxy]:
    with Proxy(tmp_path_factory.mktemp("enforce"), settings(names, sni_check="enforce")) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def reporting(tmp_path_factory: pytest.TempPathFactory, names: DnsServer) -> Iterator[Proxy]:
    with Proxy(tmp_path_factory.mktemp("report"), settings(names, sni_check="report")) as proxy:
        yield proxy


def through(proxy: Proxy, target: str, data: bytes, *, behind: bool = False) -> bytes:
    """Open a tunnel, send, end the sending half; all that comes back."""
    with open_tunnel(proxy, target, data if behind else b"") as sock:
        if not behind:
            sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        return receive_all(sock)


# --- enforce ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize("hello", [openssl_hello(NAME), openssl_hello(NAME.upper()), browser_hello(NAME)])
def test_the_granted_name_passes_untouched(enforcing: Proxy, target: TcpOrigin, hello: bytes, behind: bool) -> None:
    sent = hello + bytes(50_000)
    assert through(enforcing, f"{NAME}:{target.port}", sent, behind=behind) == sent
    (record,) = enforcing.settled().records
    assert (record["sni_check"], record["outcome"], record["bytes_up"]) == ("match", "closed", len(sent))


def test_curl_gets_its_page_through_a_checked_tunnel(
    enforcing: Proxy, origin: TlsOrigin, tmp_path: Path, ca_file: Path
) -> None:
    done = run("curl", "-sS", "-x", enforcing.url, "--cacert", ca_file, origin.url(), folder=tmp_path)
    assert TITLE in done.out
    (record,) = enforcing.settled().records
    assert (record["sni_check"], record["server_name"]) == ("match", NAME)


def test_another_name_inside_is_closed_with_an_alert_and_the_origin_untouched(enforcing: Proxy) -> None:
    heard: list[bytes] = []
    mismatches = enforcing.metric("sni_checks_total", outcome="mismatch", refused="true")
    with TcpOrigin(lambda sock: heard.append(receive_all(sock))) as target:
        answer = ALERT.fullmatch(through(enforcing, f"{NAME}:{target.port}", openssl_hello(OTHER)))
        assert answer is not None
        assert answer[1][0] == UNRECOGNIZED_NAME
        eventually(lambda: heard, "the origin's connection is over")
    assert heard == [b""]
    (record,) = enforcing.settled().records
    assert (record["host"], record["server_name"], record["rule"]) == (NAME, OTHER, "known")
    assert (record["sni_check"], record["outcome"], record["closed_by"]) == ("mismatch", "sni_mismatch", "proxy")
    assert (record["bytes_up"], record["status"], record["opened"]) == (0, 200, True)
    assert f"granted for {NAME}:{target.port} by known, the ClientHello inside asks for {OTHER}" in record["detail"]
    assert enforcing.metric("sni_checks_total", outcome="mismatch", refused="true") == mismatches + 1


def test_curl_that_asks_for_another_name_exits_35(
    enforcing: Proxy, origin: TlsOrigin, tmp_path: Path, ca_file: Path
) -> None:
    place = f"{OTHER}:443:{NAME}:{origin.port}"
    command = ("curl", "-sSv", "-x", enforcing.url, "--connect-to", place, "--cacert", ca_file, f"https://{OTHER}/")
    assert "unrecognized name" in run(*command, folder=tmp_path, code=35).err
    enforcing.settled()


@pytest.mark.parametrize(
    ("sent", "outcome", "slug"),
    [
        (openssl_hello(None), "no_sni", "no_sni"),
        (b"EHLO client.example\r\n", "not_tls", "not_tls"),
        (b"\x00", "not_tls", "not_tls"),
        (openssl_hello(NAME)[:200], "malformed", "malformed_hello"),  # and then the end
        (openssl_hello(NAME).replace(NAME.encode(), NAME.replace(".", "\0").encode()), "malformed", "malformed_hello"),
        (openssl_hello(NAME + ".evil"), "mismatch", "sni_mismatch"),
        (openssl_hello("x" + NAME), "mismatch", "sni_mismatch"),
    ],
)
def test_what_is_not_in_order_is_closed(enforcing: Proxy, sent: bytes, outcome: str, slug: str) -> None:
    heard: list[bytes] = []
    with TcpOrigin(lambda sock: heard.append(receive_all(sock))) as target:
        assert ALERT.fullmatch(through(enforcing, f"{NAME}:{target.port}", sent))
        eventually(lambda: heard, "the origin's connection is over")
    assert heard == [b""]
    (record,) = enforcing.settled().records
    assert (record["sni_check"], record["outcome"], record["bytes_up"]) == (outcome, slug, 0)


def test_who_does_not_finish_its_hello_is_closed_in_time(enforcing: Proxy, target: TcpOrigin) -> None:
    with open_tunnel(enforcing, f"{NAME}:{target.port}") as sock:
        sock.sendall(openssl_hello(NAME)[:77])
        assert ALERT.fullmatch(receive_all(sock))
    (record,) = enforcing.settled().records
    assert (record["sni_check"], record["outcome"]) == ("timeout", "hello_timeout")


def test_a_client_that_leaves_without_a_word_has_nothing_to_be_judged(enforcing: Proxy, target: TcpOrigin) -> None:
    assert through(enforcing, f"{NAME}:{target.port}", b"") == b""
    (record,) = enforcing.settled().records
    assert (record["sni_check"], record["outcome"]) == (None, "closed")


@pytest.mark.parametrize(
    ("name", "outcome"), [(None, "match"), (NAME, "match"), (OTHER, "mismatch")], ids=["none", "allowed", "refused"]
)
def test_a_tunnel_to_an_address_may_hold_no_name_or_an_allowed_one(
    enforcing: Proxy, target: TcpOrigin, name: str | None, outcome: str
) -> None:
    hello = openssl_hello(name)
    answer = through(enforcing, f"127.0.0.1:{target.port}", hello)
    (record,) = enforcing.settled().records
    assert record["sni_check"] == outcome
    assert (answer == hello) is (outcome == "match")


# --- report, off, and what is set where ---------------------------------------------------------------------------


def test_report_lets_pass_and_counts(reporting: Proxy, target: TcpOrigin) -> None:
    before = reporting.metric("sni_checks_total", outcome="mismatch", refused="false")
    hello = openssl_hello(OTHER)
    assert through(reporting, f"{NAME}:{target.port}", hello) == hello
    (record,) = reporting.settled().records
    assert (record["sni_check"], record["outcome"], record["server_name"]) == ("mismatch", "closed", OTHER)
    assert reporting.metric("sni_checks_total", outcome="mismatch", refused="false") == before + 1


@pytest.mark.parametrize(
    "sent", [b"SSH-2.0-x\r\n", openssl_hello(None), openssl_hello(NAME)[:99]], ids=["ssh", "nameless", "cut"]
)
def test_report_lets_everything_pass(reporting: Proxy, target: TcpOrigin, sent: bytes) -> None:
    assert through(reporting, f"{NAME}:{target.port}", sent) == sent
    reporting.settled()


def test_report_holds_a_slow_hello_only_until_the_deadline(reporting: Proxy, target: TcpOrigin) -> None:
    hello = openssl_hello(NAME)
    with open_tunnel(reporting, f"{NAME}:{target.port}") as sock:
        sock.sendall(hello[:40])
        assert receive(sock, 40) == hello[:40]
        sock.sendall(hello[40:])
        assert receive(sock, len(hello) - 40) == hello[40:]
    (record,) = reporting.settled().records
    assert record["sni_check"] == "timeout"


def test_other_ports_than_443_are_not_looked_at_unless_asked(
    names: DnsServer, target: TcpOrigin, start: Callable[..., Proxy]
) -> None:
    proxy = start(settings(names))
    hello = openssl_hello(OTHER)
    assert through(proxy, f"{NAME}:{target.port}", hello) == hello
    (record,) = proxy.settled().records
    assert record["sni_check"] is None


def test_a_setting_for_all_holds_on_every_port_and_a_rule_says_otherwise(
    names: DnsServer, target: TcpOrigin, start: Callable[..., Proxy]
) -> None:
    config = {**settings(names), "sni_check": "enforce"}
    proxy = start(config)
    assert ALERT.fullmatch(through(proxy, f"{NAME}:{target.port}", openssl_hello(OTHER)))
    assert proxy.reload({**settings(names, sni_check="off"), "sni_check": "enforce"})
    hello = openssl_hello(OTHER)
    assert through(proxy, f"{NAME}:{target.port}", hello) == hello
    assert [record["sni_check"] for record in proxy.settled().records] == ["mismatch", None]


def test_port_443_is_checked_by_default(names: DnsServer, start: Callable[..., Proxy]) -> None:
    try:
        listening = socket.create_server(("127.0.0.77", 443))
    except OSError as error:
        pytest.skip(f"port 443 of 127.0.0.77 cannot be listened on: {error}")
    names.add("tls.example.test", "A", "127.0.0.77")
    config = settings(names)
    config["rules"][0]["hosts"] = ["tls.example.test"]
    proxy = start(config)
    with listening:
        assert ALERT.fullmatch(through(proxy, "tls.example.test:443", openssl_hello(OTHER)))
        with listening.accept()[0] as upstream:
            assert receive_all(upstream) == b""
    (record,) = proxy.settled().records
    assert record["sni_check"] == "mismatch"


def test_ech_is_judged_by_its_outer_name_or_denied(
    names: DnsServer, target: TcpOrigin, start: Callable[..., Proxy]
) -> None:
    proxy = start(settings(names, sni_check="enforce"))
    hello = browser_hello(NAME)
    assert through(proxy, f"{NAME}:{target.port}", hello) == hello
    assert proxy.reload(settings(names, sni_check="enforce", ech="deny"))
    assert ALERT.fullmatch(through(proxy, f"{NAME}:{target.port}", hello))
    assert [(r["sni_check"], r["outcome"]) for r in proxy.settled().records] == [
        ("match", "closed"),
        ("ech", "ech_denied"),
    ]


@pytest.mark.parametrize("check", [None, "off"])
def test_ech_deny_looks_at_every_tunnel_and_at_nothing_else(
    names: DnsServer, target: TcpOrigin, start: Callable[..., Proxy], check: str | None
) -> None:
    settled = {"sni_check": check} if check else {}
    proxy = start(settings(names, ech="deny", **settled))
    assert ALERT.fullmatch(through(proxy, f"{NAME}:{target.port}", browser_hello(NAME)))
    for sent in (openssl_hello(OTHER), b"SSH-2.0-x\r\n", b""):
        assert through(proxy, f"{NAME}:{target.port}", sent) == sent
    with TcpOrigin(greet) as mail, open_tunnel(proxy, f"{NAME}:{mail.port}") as sock:
        assert receive(sock, 29) == b"220 mail.example.test ESMTP\r\n"
    assert [record["outcome"] for record in proxy.settled().records] == ["ech_denied", *["closed"] * 4]


# --- the server speaks first --------------------------------------------------------------------------------------


def greet(sock: socket.socket) -> None:
    sock.sendall(b"220 mail.example.test ESMTP\r\n")
    while data := sock.recv(1000):
        sock.sendall(b"250 " + data)


def test_a_banner_arrives_without_a_byte_from_the_client(names: DnsServer, start: Callable[..., Proxy]) -> None:
    proxy = start(settings(names, sni_check="enforce", require_tls=False))
    with TcpOrigin(greet) as target, open_tunnel(proxy, f"{NAME}:{target.port}") as sock:
        assert receive(sock, 29) == b"220 mail.example.test ESMTP\r\n"
        sock.sendall(b"EHLO x\r\n")
        assert receive(sock, 12) == b"250 EHLO x\r\n"
    (record,) = proxy.settled().records
    assert (record["sni_check"], record["outcome"]) == ("not_tls", "closed")


def test_who_waits_for_longer_than_the_deadline_is_still_judged(names: DnsServer, start: Callable[..., Proxy]) -> None:
    proxy = start({**settings(names, sni_check="enforce", require_tls=False), "timeouts": {"head_s": 0.2}})
    heard: list[bytes] = []

    def slow(sock: socket.socket) -> None:
        sock.settimeout(0.6)
        try:
            heard.append(sock.recv(10))
        except TimeoutError:
            sock.settimeout(10)
        sock.sendall(b"220 slow\r\n")
        heard.append(receive_all(sock))

    with TcpOrigin(slow) as target:
        with open_tunnel(proxy, f"{NAME}:{target.port}") as sock:
            assert receive(sock, 10) == b"220 slow\r\n"
            sock.sendall(openssl_hello(OTHER))
            assert ALERT.fullmatch(receive_all(sock))
        eventually(lambda: heard, "the origin's connection is over")
    assert heard == [b""]
    (record,) = proxy.settled().records
    assert (record["sni_check"], record["outcome"]) == ("mismatch", "sni_mismatch")


def test_with_tls_required_a_server_may_speak_first_and_the_client_is_still_judged(enforcing: Proxy) -> None:
    with TcpOrigin(greet) as target, open_tunnel(enforcing, f"{NAME}:{target.port}") as sock:
        assert receive(sock, 29) == b"220 mail.example.test ESMTP\r\n"
        sock.sendall(b"EHLO x\r\n")
        assert ALERT.fullmatch(receive_all(sock))
    (record,) = enforcing.settled().records
    assert (record["sni_check"], record["bytes_down"]) == ("not_tls", 29)


def test_nothing_is_left_of_a_hundred_refused_tunnels(enforcing: Proxy, target: TcpOrigin) -> None:
    through(enforcing, f"{NAME}:{target.port}", openssl_hello(OTHER))
    enforcing.settled()
    before = enforcing.descriptors()
    for _ in range(100):
        through(enforcing, f"{NAME}:{target.port}", openssl_hello(OTHER))
    enforcing.settled()
    enforcing.wait_at_rest(before)
