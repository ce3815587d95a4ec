"""Whatever is malformed or refused gets its answer and one log line, and nothing else happens.

The proxy of this module would let everything through to this host's loopback address, so that only the fault in a request
stands between it and the origin; both the origin and the name server count who comes.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from support.clients import Reply, ask, connect_head, dial, open_tunnel, parse_reply, receive_all, reset, run
from support.dns import DnsServer
from support.origin import TcpOrigin, echo
from support.proxy import Proxy, free_port

HEAD_S = 1.0
"""Time for a head in this module."""
OPEN = "open.example.test"
"""A name that is allowed and known: a row that names it could reach the origin."""


@pytest.fixture(scope="module")
def names() -> Iterator[DnsServer]:
    """A name server of this module's own: every query is a proxy's that was asked to refuse, or an open name's."""
    with DnsServer() as server:
        server.add(OPEN, "A", "127.0.0.1")
        yield server


@pytest.fixture(scope="module")
def target() -> Iterator[TcpOrigin]:
    with TcpOrigin(echo) as server:
        yield server


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory, names: DnsServer) -> Iterator[Proxy]:
    config = {
        "outbound": "allow_any",
        "rules": [
            {"name": "closed", "action": "deny", "hosts": ["closed.example.test", "*.closed.example.test"]},
            {"name": "closed-port", "action": "deny", "ports": [25]},
            {"name": "lan", "action": "allow", "hosts": ["lan.example.test"], "private_addresses": True},
        ],
        "guard": {"allow": ["127.0.0.1/32"]},
        "dns": {"servers": [names.address], "min_ttl_s": 0.0},
        "timeouts": {"head_s": HEAD_S},
    }
    with Proxy(tmp_path_factory.mktemp("proxy"), config) as proxy:
        yield proxy


# --- what people see ----------------------------------------------------------------------------------------------


def test_curl_shows_the_cause_and_the_slug_of_a_refusal(proxy: Proxy, tmp_path: Path) -> None:
    done = run("curl", "-sSv", "-x", proxy.url, "https://closed.example.test/", folder=tmp_path, code=56)
    assert "< HTTP/1.1 403 Forbidden: rule_denied: refused by rule closed: closed.example.test:443" in done.err
    assert '< Proxy-Status: egressproxy; error=http_request_denied; details="rule_denied: ' in done.err
    assert "curl: (56) CONNECT tunnel failed, response 403" in done.err
    assert len(proxy.settled().records) == 1


def test_the_body_of_a_refusal_says_what_to_do_next(proxy: Proxy) -> None:
    reply = ask(proxy, connect_head("closed.example.test:443"))
    assert reply.headers["content-type"].startswith("text/html")
    assert reply.headers["connection"] == "close"
    assert b"egressproxy explain CONFIG --to HOST:PORT" in reply.body


# --- bad input ----------------------------------------------------------------------------------------------------


class Row(NamedTuple):
    """A bad request and the answer it gets. `P` in a request stands for the port of the origin.

    status  0: closed without a word
    then    what the client does when it has sent the request: `waits` for an answer, `ends` its half and waits,
            `closes`, or `resets`
    """

    name: str
    request: str | bytes
    status: int
    slug: str
    then: str = "waits"


def to(target: str) -> str:
    """A CONNECT that is well-formed but for its target."""
    return f"CONNECT {target} HTTP/1.1\r\nHost: a\r\n\r\n"


def with_fields(*lines: str) -> str:
    """A CONNECT to the origin that is well-formed but for the lines behind its request line."""
    return "\r\n".join((f"CONNECT {OPEN}:P HTTP/1.1", *lines, "", ""))


HEAD = "malformed_request"
TARGET = "malformed_target"
CLIENT_HELLO = bytes.fromhex("16030100c8010000c40303") + bytes(range(64))

ROWS = (
    # not HTTP at all
    Row("garbage", "\x00\xff\xfe\x80garbage\r\n\r\n", 400, HEAD),
    Row("a line of text", "hello there\r\n\r\n", 400, HEAD),
    Row("a TLS handshake", CLIENT_HELLO, 400, HEAD),
    Row("SOCKS 4", b"\x04\x01\x00\x50\x7f\x00\x00\x01\x00", 400, HEAD),
    Row("SOCKS 5", b"\x05\x01\x00", 400, HEAD),
    Row("an SSH banner", "SSH-2.0-OpenSSH_9.2\r\n", 400, HEAD),
    Row("the HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, HEAD),
    Row("HTTP/0.9", "GET /\r\n", 400, HEAD),
    Row("HTTP/2 in a request line", f"CONNECT {OPEN}:P HTTP/2\r\nHost: a\r\n\r\n", 400, HEAD),
    Row("HTTP/1.2", f"CONNECT {OPEN}:P HTTP/1.2\r\nHost: a\r\n\r\n", 400, HEAD),
    Row("a PROXY protocol line", "PROXY TCP4 127.0.0.1 127.0.0.1 1 2\r\n", 400, HEAD),
    # not quite HTTP/1
    Row("bare LF line ends", f"CONNECT {OPEN}:P HTTP/1.1\nHost: a\n\n", 400, HEAD),
    Row("one bare LF in the fields", f"CONNECT {OPEN}:P HTTP/1.1\r\nHost: a\nX: b\r\n\r\n", 400, HEAD),
    Row("a lone CR in a value", with_fields("Host: a", "X: b\rc"), 400, HEAD),
    Row("a folded field", with_fields("Host: a", "X: b", " c"), 400, HEAD),
    Row("a field that begins with a tab", with_fields("Host: a", "\tX: b"), 400, HEAD),
    Row("a NUL in a value", with_fields("Host: a", "X: b\0c"), 400, HEAD),
    Row("a NUL in the target", to(f"{OPEN}\0.closed.example.test:P"), 400, HEAD),
    Row("a DEL in a value", with_fields("Host: a", "X: b\x7fc"), 400, HEAD),
    Row("no Host in HTTP/1.1", with_fields("X: b"), 400, HEAD),
    Row("two Hosts", with_fields("Host: a", "Host: b"), 400, HEAD),
    Row("a Host that is none", with_fields("Host: a b"), 400, HEAD),
    Row("a space before a colon", with_fields("Host: a", "X : b"), 400, HEAD),
    Row("a field without a colon", with_fields("Host: a", "nothing"), 400, HEAD),
    Row("a field without a name", with_fields("Host: a", ": b"), 400, HEAD),
    Row("two spaces in the request line", f"CONNECT  {OPEN}:P HTTP/1.1\r\nHost: a\r\n\r\n", 400, HEAD),
    Row("a tab in the request line", f"CONNECT\t{OPEN}:P HTTP/1.1\r\nHost: a\r\n\r\n", 400, HEAD),
    Row("a space at the end of the request line", f"CONNECT {OPEN}:P HTTP/1.1 \r\nHost: a\r\n\r\n", 400, HEAD),
    Row("two empty lines first", f"\r\n\r\nCONNECT {OPEN}:P HTTP/1.1\r\nHost: a\r\n\r\n", 400, HEAD),
    Row("a space first", f" CONNECT {OPEN}:P HTTP/1.1\r\nHost: a\r\n\r\n", 400, HEAD),
    Row("a CONNECT with a body", with_fields("Host: a", "Content-Length: 5") + "hello", 400, HEAD),
    Row("a CONNECT in chunks", with_fields("Host: a", "Transfer-Encoding: chunked") + "0\r\n\r\n", 400, HEAD),
    Row("a target beyond ASCII", to("öpen.example.test:P"), 400, HEAD),
    Row("full-width digits", to("\uff11\uff12\uff17.0.0.1:P"), 400, HEAD),
    # well-formed, and no host and port
    Row("a decimal address", to("2130706433:P"), 400, TARGET),
    Row("a hexadecimal address", to("0x7f000001:P"), 400, TARGET),
    Row("hexadecimal parts", to("0x7f.0.0.0x1:P"), 400, TARGET),
    Row("an octal address", to("017700000001:P"), 400, TARGET),
    Row("octal parts", to("0177.0.0.1:P"), 400, TARGET),
    Row("leading zeros", to("127.000.000.001:P"), 400, TARGET),
    Row("a short address", to("127.1:P"), 400, TARGET),
    Row("a shorter address", to("0:P"), 400, TARGET),
    Row("a fifth part", to("127.0.0.1.1:P"), 400, TARGET),
    Row("a part above 255", to("127.0.0.256:P"), 400, TARGET),
    Row("an address with a trailing dot", to("127.0.0.1.:P"), 400, TARGET),
    Row("an address percent-encoded", to("%31%32%37.0.0.1:P"), 400, TARGET),
    Row("an IPv6 zone", to("[fe80::1%lo]:P"), 400, TARGET),
    Row("an IPv6 zone percent-encoded", to("[::1%25lo]:P"), 400, TARGET),
    Row("IPv6 without brackets", to("::1:P"), 400, TARGET),
    Row("IPv4 in brackets", to("[127.0.0.1]:P"), 400, TARGET),
    Row("a name in brackets", to(f"[{OPEN}]:P"), 400, TARGET),
    Row("a short address inside IPv6", to("[::ffff:127.1]:P"), 400, TARGET),
    Row("an open bracket", to("[::1:P"), 400, TARGET),
    Row("something behind the bracket", to("[::1]x:P"), 400, TARGET),
    Row("port 0", to(f"{OPEN}:0"), 400, TARGET),
    Row("port 65536", to(f"{OPEN}:65536"), 400, TARGET),
    Row("no port", to(OPEN), 400, TARGET),
    Row("an empty port", to(f"{OPEN}:"), 400, TARGET),
    Row("a port with a sign", to(f"{OPEN}:+443"), 400, TARGET),
    Row("a port below zero", to(f"{OPEN}:-1"), 400, TARGET),
    Row("a port with a zero first", to(f"{OPEN}:0443"), 400, TARGET),
    Row("a hexadecimal port", to(f"{OPEN}:0x1bb"), 400, TARGET),
    Row("a port by name", to(f"{OPEN}:https"), 400, TARGET),
    Row("two ports", to(f"{OPEN}:P:P"), 400, TARGET),
    Row("a user", to(f"user@{OPEN}:P"), 400, TARGET),
    Row("a user and a password", to(f"user:secret@{OPEN}:P"), 400, TARGET),
    Row("an empty host", to(":P"), 400, TARGET),
    Row("nothing but a dot", to(".:P"), 400, TARGET),
    Row("two dots", to("open..example.test:P"), 400, TARGET),
    Row("two trailing dots", to(f"{OPEN}..:P"), 400, TARGET),
    Row("a label of 64", to(f"{'a' * 64}.example.test:P"), 400, TARGET),
    Row("a name of 254", to(f"{'a.' * 126}aa:P"), 400, TARGET),
    Row("a hyphen first", to(f"-{OPEN}:P"), 400, TARGET),
    Row("an A-label that is none", to("xn--0.example.test:P"), 400, TARGET),
    Row("a path", to(f"{OPEN}:P/"), 400, TARGET),
    Row("a query", to(f"{OPEN}:P?x"), 400, TARGET),
    Row("a fragment", to(f"{OPEN}:P#x"), 400, TARGET),
    Row("a backslash", to(f"closed.example.test\\@{OPEN}:P"), 400, TARGET),
    Row("an asterisk", to("*:P"), 400, TARGET),
    Row("a URL", to(f"https://{OPEN}:P/"), 400, TARGET),
    Row("an origin-form target", to("/"), 400, TARGET),
    # plain requests that lead nowhere; more of them: test_http_malformed.py
    Row("GET of a path", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", 400, TARGET),
    Row("GET of an https URL", f"GET https://{OPEN}:P/ HTTP/1.1\r\nHost: a\r\n\r\n", 400, TARGET),
    Row("GET of an ftp URL", f"GET ftp://{OPEN}/ HTTP/1.1\r\nHost: a\r\n\r\n", 400, TARGET),
    Row("GET of a short address", "GET http://127.1:P/ HTTP/1.1\r\nHost: a\r\n\r\n", 400, TARGET),
    Row("a user in a URL", f"GET http://user@{OPEN}:P/ HTTP/1.1\r\nHost: a\r\n\r\n", 400, TARGET),
    Row("OPTIONS of all", "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", 400, TARGET),
    Row("connect in small letters", f"connect {OPEN}:P HTTP/1.1\r\nHost: a\r\n\r\n", 400, TARGET),
    Row(
        "two lengths",
        f"POST http://{OPEN}:P/ HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        400,
        HEAD,
    ),
    # too much
    Row("101 fields", with_fields("Host: a", *["X: b"] * 100), 431, "head_too_large"),
    Row("a huge field", with_fields("Host: a", f"X: {'b' * 17_000}"), 431, "head_too_large"),
    Row("a field without end", f"CONNECT {OPEN}:P HTTP/1.1\r\nHost: a\r\nX: {'b' * 400_000}", 431, "head_too_large"),
    Row("a huge target", to(f"{'a' * 9000}:P"), 414, "target_too_long"),
    Row("a target without end", f"CONNECT {'a' * 400_000}", 414, "target_too_long"),
    Row("a method without end", "A" * 400_000, 431, "head_too_large"),
    # too slow, and gone
    Row("half a head, and silence", f"CONNECT {OPEN}:P HT", 408, "head_timeout"),
    Row("silence", "", 408, "head_timeout"),
    Row("half a head, then the end", f"CONNECT {OPEN}:P HT", 0, "client_gone", "ends"),
    Row("half a head, then gone", f"CONNECT {OPEN}:P HTTP/1.1\r\nHost: a\r\n", 0, "client_gone", "closes"),
    Row("half a head, then a reset", f"CONNECT {OPEN}:P HTTP/1.1\r\nHost: a\r\n", 0, "client_gone", "resets"),
    Row("nothing, then gone", "", 0, "client_gone", "closes"),
)  # fmt: skip


class Answers(NamedTuple):
    """What came of all rows, by the row's name."""

    replies: dict[str, Reply]
    records: dict[str, list[dict[str, Any]]]
    squid: dict[str, list[str]]
    queries: int
    contacts: int


def source_of(number: int) -> str:
    """An address of this host for each row, by which its log line is told from the others."""
    return f"127.1.0.{number + 1}"


def send_all(proxy: Proxy, target: TcpOrigin) -> dict[str, Reply]:
    """Every row, from its own address; first those that take time, so that they take it together."""
    waiting = {}
    replies = {}
    for number, row in sorted(enumerate(ROWS), key=lambda each: each[1].slug != "head_timeout"):
        request = row.request if isinstance(row.request, bytes) else row.request.encode("utf-8")
        sock = dial(proxy, source_of(number))
        try:
            sock.sendall(request.replace(b":P", b":%d" % target.port))
        except (BrokenPipeError, ConnectionResetError):
            pass  # refused before the end
        if row.slug == "head_timeout":
            waiting[row.name] = sock
            continue
        if row.then == "resets":
            reset(sock)
        elif row.then == "closes":
            sock.close()
        else:
            if row.then == "ends":
                sock.shutdown(socket.SHUT_WR)
            replies[row.name] = parse_reply(receive_all(sock))
            sock.close()
    for name, sock in waiting.items():
        with sock:
            replies[name] = parse_reply(receive_all(sock))
    return replies


@pytest.fixture(scope="module")
def answers(proxy: Proxy, target: TcpOrigin, names: DnsServer) -> Answers:
    contacts, queries = target.contacts(), names.count()
    replies = send_all(proxy, target)
    logged = proxy.settled()
    by_source = {source_of(number): row.name for number, row in enumerate(ROWS)}
    records: dict[str, list[dict[str, Any]]] = {row.name: [] for row in ROWS}
    squid: dict[str, list[str]] = {row.name: [] for row in ROWS}
    for record, line in zip(logged.records, logged.squid, strict=True):
        source = record["client"]
        assert f" {source} " in line
        if source in by_source:
            records[by_source[source]].append(record)
            squid[by_source[source]].append(line)
    return Answers(replies, records, squid, names.count() - queries, target.contacts() - contacts)


@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_bad_input_gets_its_answer_and_one_line(answers: Answers, row: Row) -> None:
    (record,) = answers.records[row.name]
    (line,) = answers.squid[row.name]
    reply = answers.replies.get(row.name, Reply(0, "", {}, b""))
    assert (record["outcome"], record["status"]) == (row.slug, row.status or None)
    assert (reply.status, reply.slug) == (row.status, row.slug if row.status else "")
    assert f" NONE_NONE/{row.status:03d} {record['reply_bytes']} " in line
    assert line.endswith(" HIER_NONE/- text/html" if row.status else " HIER_NONE/- -")
    assert (record["upstream"], record["bytes_up"], record["bytes_down"]) == (None, 0, 0)
    if row.status:
        assert f": {row.slug}: " in reply.reason
        assert reply.headers["proxy-status"].startswith("egressproxy; error=http_request_error; details=")


def test_bad_input_is_never_looked_up_nor_brought_to_an_origin(answers: Answers) -> None:
    assert (answers.queries, answers.contacts) == (0, 0)


def test_a_refused_client_sees_the_end_at_once(answers: Answers) -> None:
    refused = [answers.records[row.name][0] for row in ROWS if row.status not in (0, 408)]
    durations_ms = sorted(record["duration_ms"] for record in refused)
    assert durations_ms[len(refused) // 2] < 500, "and not when the proxy has lingered long enough"


def test_bad_input_leaves_nothing_behind(proxy: Proxy, target: TcpOrigin, answers: Answers) -> None:
    quick = 3  # rounds without the rows that wait for a deadline

    def one_round() -> None:
        for number, row in enumerate(ROWS):
            if row.slug != "head_timeout" and row.then == "waits":
                request = row.request if isinstance(row.request, bytes) else row.request.encode("utf-8")
                reply = ask(proxy, request.replace(b":P", b":%d" % target.port), source_of(number))
                assert reply.status == row.status

    one_round()
    proxy.settled()
    descriptors, rss_kib = proxy.descriptors(), proxy.rss_kib()
    for _ in range(quick):
        one_round()
    proxy.settled()
    proxy.wait_at_rest(descriptors)
    assert proxy.metric("tunnels_open") == 0
    assert proxy.rss_kib() - rss_kib < 4096
    with open_tunnel(proxy, target.target):
        pass


# --- refused by name ----------------------------------------------------------------------------------------------


SENTINEL = count(1)


@pytest.mark.parametrize(
    "refused",
    [
        "closed.example.test:443",
        "CLOSED.Example.Test:443",
        "closed.example.test.:443",
        "a.b.closed.example.test:443",
        f"{OPEN}:25",
    ],
)
def test_a_name_that_policy_refuses_is_never_looked_up(proxy: Proxy, names: DnsServer, refused: str) -> None:
    proxy.settled()
    add(names, "closed.example.test", "127.0.0.1")
    queries = names.count()
    reply = ask(proxy, connect_head(refused))
    assert (reply.status, reply.slug) == (403, "rule_denied")
    logged = proxy.settled()
    assert [record["outcome"] for record in logged.records] == ["rule_denied"]
    assert " TCP_DENIED/403 " in logged.squid[0]
    # The queue of a name server keeps its order, so that a query of before would have been seen by now.
    assert ask(proxy, connect_head(f"after-{next(SENTINEL)}.example.test:1")).slug == "name_not_found"
    assert {name for name in names.asked_names() if "closed" in name} == set()
    assert names.count() == queries + 2, "A and AAAA of the name that was asked for afterwards"


# --- refused by address -------------------------------------------------------------------------------------------

METADATA = ("169.254.169.254", "100.100.100.200", "192.0.0.192", "fd00:ec2::254")
PRIVATE = (
    "127.0.0.2",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.0.1",
    "169.254.0.1",
    "100.64.0.1",
    "::1",
    "fd00::1",
    "fe80::1",
)
OTHERS: tuple[str, ...] = (
    "0.0.0.1",
    "192.0.2.1",
    "198.51.100.1",
    "203.0.113.1",
    "198.18.0.1",
    "224.0.0.1",
    "240.0.0.1",
)
OTHERS += ("255.255.255.255", "2001:db8::1", "ff02::1", "100::1", "3fff::1", "::2")


def embeddings(address: str) -> dict[str, str]:
    """Every IPv6 form in which an IPv4 address can hide."""
    v4 = int(IPv4Address(address))
    forms = {
        "mapped": 0xFFFF << 32 | v4,
        "compatible": v4,
        "translated": 0xFFFF << 48 | v4,
        "NAT64": 0x64FF9B << 96 | v4,
        "NAT64, local": 0x64FF9B0001 << 80 | v4,
        "6to4": 0x2002 << 112 | v4 << 80 | 1,
        "Teredo client": 0x20010000 << 96 | 0x08080808 << 64 | (v4 ^ 0xFFFFFFFF),
        "Teredo server": 0x20010000 << 96 | v4 << 64 | 0xF7F7F7F7,
        "ISATAP": 0x2600 << 112 | 0x5EFE << 32 | v4,
        "ISATAP, universal": 0x2600 << 112 | 0x02005EFE << 32 | v4,
    }
    return {form: str(IPv6Address(value)) for form, value in forms.items()}


def add(names: DnsServer, name: str, *addresses: str) -> None:
    """Let `name` stand for these addresses and no others; the proxy keeps none of it."""
    names.remove(name)
    v4 = [address for address in addresses if ":" not in address]
    v6 = [IPv6Address(address).exploded for address in addresses if ":" in address]
    for kind, found in (("A", v4), ("AAAA", v6)):
        if found:
            names.add(name, kind, *found, ttl=0)


def in_brackets(address: str) -> str:
    return f"[{address}]" if ":" in address else address


EMBEDDED = [
    pytest.param(literal, id=f"{address} {form}")
    for address in ("127.0.0.2", "10.0.0.1", "169.254.169.254")
    for form, literal in embeddings(address).items()
]


@pytest.mark.parametrize("address", [*METADATA, *PRIVATE, *OTHERS, *EMBEDDED])
def test_a_closed_address_is_refused_as_a_literal(proxy: Proxy, address: str) -> None:
    reply = ask(proxy, connect_head(f"{in_brackets(address)}:443"))
    assert (reply.status, reply.slug) == (403, "address_denied")
    assert 'error=destination_ip_prohibited; details="address_denied: ' in reply.headers["proxy-status"]


@pytest.mark.parametrize("address", [*METADATA, *PRIVATE, "::ffff:10.0.0.1", "64:ff9b::a9fe:a9fe"])
def test_a_closed_address_is_refused_behind_a_name(proxy: Proxy, names: DnsServer, address: str) -> None:
    name = f"{address.replace(':', '-').replace('.', '-').strip('-')}.behind.example.test"
    add(names, name, address)
    reply = ask(proxy, connect_head(f"{name}:443"))
    assert (reply.status, reply.slug) == (403, "address_denied")
    assert names.count(name) == 2


def test_a_metadata_address_stays_closed_where_private_ones_are_open(proxy: Proxy, names: DnsServer) -> None:
    add(names, "lan.example.test", "169.254.169.254")
    reply = ask(proxy, connect_head("lan.example.test:443"))
    assert (reply.status, reply.slug) == (403, "address_denied")
    assert "metadata" in reply.reason


# --- names that change their address ------------------------------------------------------------------------------


def test_a_name_that_turns_to_a_closed_address_is_refused_from_then_on(proxy: Proxy, names: DnsServer) -> None:
    with TcpOrigin(echo) as good, TcpOrigin(echo, "127.0.0.2") as closed:
        add(names, "turns.example.test", "127.0.0.1")
        with open_tunnel(proxy, f"turns.example.test:{good.port}") as client:
            client.sendall(b"x")
            assert client.recv(1) == b"x"
        add(names, "turns.example.test", "127.0.0.2")
        reply = ask(proxy, connect_head(f"turns.example.test:{closed.port}"))
        assert (reply.status, reply.slug) == (403, "address_denied")
        assert (good.contacts(), closed.contacts()) == (1, 0)


def test_of_mixed_answers_only_those_are_dialled_that_were_judged_open(proxy: Proxy, names: DnsServer) -> None:
    add(names, "mixed.example.test", "127.0.0.2", "127.0.0.1", "10.0.0.1", "::1", "fd00:ec2::254")
    with TcpOrigin(echo, "127.0.0.2") as closed:
        # Nobody listens on the open address: the next one would be the closed one.
        reply = ask(proxy, connect_head(f"mixed.example.test:{closed.port}"))
        assert (reply.status, reply.slug) == (503, "connect_refused")
        assert "127.0.0.1" in reply.reason
        assert "127.0.0.2" not in reply.reason
        assert closed.contacts() == 0
    with TcpOrigin(echo) as good, open_tunnel(proxy, f"mixed.example.test:{good.port}"):
        pass
    assert proxy.settled().records[-1]["upstream"] == f"127.0.0.1:{good.port}"


# --- the proxy itself ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def everywhere(tmp_path_factory: pytest.TempPathFactory, names: DnsServer) -> Iterator[Proxy]:
    """Listens on all addresses of this host, and would let everything through."""
    proxy = Proxy(tmp_path_factory.mktemp("everywhere"))
    proxy.write_config(
        {
            "listeners": [
                {"protocol": "http-proxy", "address": "0.0.0.0", "port": proxy.port},
                {"protocol": "http-proxy", "address": "127.0.0.9", "port": free_port("127.0.0.9")},
            ],
            "outbound": "allow_any",
            "guard": {"allow": ["0.0.0.0/0", "::/0"]},
            "dns": {"servers": [names.address], "min_ttl_s": 0.0},
        }
    )
    with proxy:
        yield proxy


def own_addresses() -> list[str]:
    """Addresses of this host that others could use; asking for a route sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.99", 9))
        except OSError:
            return []  # no route
        return [probe.getsockname()[0]]


LOOPBACK = ("127.0.0.1", "0.0.0.0", "::ffff:127.0.0.1", "::ffff:0.0.0.0", "::", "64:ff9b::7f00:1")
ITSELF = [("admin", address) for address in LOOPBACK]
ITSELF += [("listener", address) for address in (*LOOPBACK, "127.0.0.77", *own_addresses())]


def turns_back(proxy: Proxy, host: str, place: str) -> None:
    proxy.settled()
    reply = ask(proxy, connect_head(f"{host}:{proxy.admin_port if place == 'admin' else proxy.port}"))
    assert (reply.status, reply.slug) == (508, "loop_detected")
    logged = proxy.settled()
    assert [record["outcome"] for record in logged.records] == ["loop_detected"], "and no second connection came in"


@pytest.mark.parametrize(("place", "address"), [*ITSELF, ("admin", "localhost"), ("listener", "localhost")])
def test_the_proxy_itself_is_never_a_target(everywhere: Proxy, place: str, address: str) -> None:
    turns_back(everywhere, in_brackets(address), place)


@pytest.mark.parametrize(("place", "address"), ITSELF)
def test_the_proxy_itself_is_never_a_target_behind_a_name(
    everywhere: Proxy, names: DnsServer, place: str, address: str
) -> None:
    add(names, "self.example.test", address)
    turns_back(everywhere, "self.example.test", place)
    add(names, "self.example.test", "127.0.0.99", address)
    turns_back(everywhere, "self.example.test", place)


def test_a_listener_on_one_address_is_no_target_and_its_neighbours_are(everywhere: Proxy) -> None:
    port = everywhere.config["listeners"][1]["port"]
    assert ask(everywhere, connect_head(f"127.0.0.9:{port}")).slug == "loop_detected"
    assert ask(everywhere, connect_head(f"0.0.0.0:{port}")).slug == "loop_detected"
    assert ask(everywhere, connect_head(f"127.0.0.8:{port}")).slug == "connect_refused"
