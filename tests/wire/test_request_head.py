"""A request head is read strictly, at once, and the same however it arrives."""

from __future__ import annotations

import time
from pathlib import Path

import h11
import pytest
from support.parsing import outcome_in_pieces, parse_every_way

from egressproxy.errors import HeadTooLarge, MalformedRequest, TargetTooLong
from egressproxy.wire import request_head
from egressproxy.wire.request_head import MISSING_HOST, HeadLimits, RequestHead, parse_request_head

LIMITS = HeadLimits(max_bytes=16_384, max_headers=100, max_target_bytes=8192)
CAPTURES = sorted((Path(__file__).parent.parent / "data" / "request_heads").glob("*.http"))
CONNECT = b"CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n"
OLD = b"CONNECT a.example:443 HTTP/1.0\r\n"


def parse(data: bytes, limits: HeadLimits = LIMITS):
    """The outcome of `data`, the same in every way it can arrive."""
    return parse_every_way(lambda received: parse_request_head(received, limits), data)


def complaint(data: bytes, limits: HeadLimits = LIMITS) -> str:
    with pytest.raises((MalformedRequest, HeadTooLarge, TargetTooLong)) as caught:
        parse_request_head(data, limits)
    return str(caught.value)


# --- what is accepted ---------------------------------------------------------------------------------------------


def test_reads_what_curl_sends():
    data = (
        b"CONNECT en.wikipedia.org:443 HTTP/1.1\r\nHost: en.wikipedia.org:443\r\n"
        b"User-Agent: curl/7.88.1\r\nProxy-Connection: Keep-Alive\r\n\r\n"
    )
    head = parse(data)
    assert (head.method, head.target, head.http_version) == ("CONNECT", "en.wikipedia.org:443", "1.1")
    assert head.headers() == (
        ("host", "en.wikipedia.org:443"),
        ("user-agent", "curl/7.88.1"),
        ("proxy-connection", "Keep-Alive"),
    )
    assert head.length == len(data)


def test_the_captures_are_there():
    assert len(CAPTURES) >= 20


@pytest.mark.parametrize("capture", CAPTURES, ids=lambda path: path.stem)
def test_reads_what_real_programs_send_as_h11_does(capture):
    data = capture.read_bytes()
    head = parse(data)
    arbiter = h11.Connection(h11.SERVER)
    arbiter.receive_data(data)
    request = arbiter.next_event()
    assert (head.method.encode(), head.target.encode(), head.http_version.encode()) == (
        request.method,
        request.target,
        request.http_version,
    )
    assert [(name.encode(), value.encode("latin-1")) for name, value in head.headers()] == list(request.headers)
    assert head.length == len(data)


def test_leaves_what_follows_the_head_to_the_tunnel():
    head = parse_request_head(OLD + b"\r\n" + b"\x16\x03\x01 and so on", LIMITS)
    assert head.length == len(OLD) + 2


@pytest.mark.parametrize(
    ("data", "headers"),
    [
        (OLD + b"\r\n", ()),
        (b"CONNECT a:1 HTTP/1.1\r\nhOST:a:1\r\n\r\n", (("host", "a:1"),)),
        (b"CONNECT a:1 HTTP/1.1\r\nHost:\r\n\r\n", (("host", ""),)),
        (b"CONNECT a:1 HTTP/1.1\r\nHost:\t a:1 \t\r\n\r\n", (("host", "a:1"),)),
        (b"CONNECT a:1 HTTP/1.1\r\nHost: %61!$&'()*+,;=~\r\n\r\n", (("host", "%61!$&'()*+,;=~"),)),
        (OLD + b"X:\r\nX: \t two words \t\r\n\r\n", (("x", ""), ("x", "two words"))),
        (OLD + b"X: caf\xe9 \x85\r\n\r\n", (("x", "caf\xe9 \x85"),)),
        (OLD + b"Content-Length: 0\r\n\r\n", (("content-length", "0"),)),
        (OLD + b"Upgrade: websocket\r\n\r\n", (("upgrade", "websocket"),)),
    ],
)
def test_reads_well_formed_fields(data, headers):
    head = parse(data)
    assert head.headers() == headers
    assert head.length == len(data)


@pytest.fixture
def h11_is_not_asked(monkeypatch):
    def ask(head: bytes):
        raise AssertionError(f"h11 was asked about {head!r}")

    monkeypatch.setattr(request_head, "_ask_h11", ask)


@pytest.mark.parametrize("capture", CAPTURES, ids=lambda path: path.stem)
def test_what_real_programs_send_needs_no_h11(capture, h11_is_not_asked):
    assert parse_request_head(capture.read_bytes(), LIMITS) is not None


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.0\r\n\r\n",
        b"GET http://a/ HTTP/1.1\r\nUser-Agent: x\r\nHost: a\r\nCookie: \xe9\r\n\r\n",
        b"POST http://a/ HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n",
        b"POST http://a/ HTTP/1.1\r\nX: y\r\nContent-Length:5\r\nHost: a\r\nX: y\r\n\r\n",
        b"PUT http://a/ HTTP/1.1\r\nhost: a\r\ntransfer-encoding: Chunked\r\n\r\n",
    ],
)
def test_a_plain_request_needs_no_h11(data, h11_is_not_asked):
    assert parse_request_head(data, LIMITS).length == len(data)


@pytest.mark.parametrize(
    "data",
    [
        b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",  # asterisk-form
        b"PATCH http://a/ HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n",
        b"PATCH http://a/ HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"PATCH http://a/ HTTP/1.1\r\nHost: a~b\r\n\r\n",
        b"M-SEARCH http://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
    ],
)
def test_h11_says_what_the_plain_reader_does_not(data, monkeypatch):
    asked = []
    ask = request_head._ask_h11
    monkeypatch.setattr(request_head, "_ask_h11", lambda head: asked.append(head) or ask(head))
    assert parse_request_head(data, LIMITS).length == len(data)
    assert asked == [data]


@pytest.mark.parametrize("line", [b"GET http://a.example/ HTTP/1.1", b"OPTIONS * HTTP/1.1", b"BREW /pot HTTP/1.1"])
def test_reads_other_methods_for_the_front_end_to_judge(line):
    head = parse(line + b"\r\nHost: a.example\r\nContent-Length: 5\r\n\r\n")
    assert f"{head.method} {head.target} HTTP/{head.http_version}".encode() == line


def test_ignores_one_empty_line_before_the_request_line():
    head = parse(b"\r\n" + OLD + b"\r\n")
    assert head == RequestHead("CONNECT", "a.example:443", "1.0", b"", len(OLD) + 4)


@pytest.mark.parametrize(
    "data", [b"", b"\r", b"\r\n", b"C", b"CONNECT", b"CONNECT a:1 HTTP/1.", OLD, OLD + b"X", OLD + b"\r"]
)
def test_asks_for_more_while_all_is_well(data):
    assert parse(data) is None


# --- what is refused ----------------------------------------------------------------------------------------------

MALFORMED_REQUEST_LINES = {
    "two empty lines first": b"\r\n\r\n" + OLD,
    "bare LF first": b"\n" + OLD,
    "bare CR first": b"\r" + OLD,
    "space first": b" " + OLD,
    "no method": b" a:1 HTTP/1.1\r\n",
    "no target": b"CONNECT  HTTP/1.1\r\n",
    "two spaces before the target": b"CONNECT  a:1 HTTP/1.1\r\n",
    "tab before the target": b"CONNECT\ta:1 HTTP/1.1\r\n",
    "two spaces before the version": b"CONNECT a:1  HTTP/1.1\r\n",
    "space in the target": b"CONNECT a b:1 HTTP/1.1\r\n",
    "control in the target": b"CONNECT a\x01:1 HTTP/1.1\r\n",
    "NUL in the target": b"CONNECT a\0:1 HTTP/1.1\r\n",
    "raw IDN in the target": "CONNECT bücher.example:443 HTTP/1.1\r\n".encode(),
    "no version (HTTP/0.9)": b"GET http://a.example/\r\n",
    "lower-case version": b"CONNECT a:1 http/1.1\r\n",
    "HTTP/0.9": b"CONNECT a:1 HTTP/0.9\r\n",
    "HTTP/1.2": b"CONNECT a:1 HTTP/1.2\r\nHost: a:1\r\n\r\n",
    "HTTP/1.10": b"CONNECT a:1 HTTP/1.10\r\n",
    "HTTP/2": b"CONNECT a:1 HTTP/2\r\n",
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/3": b"CONNECT a:1 HTTP/3.0\r\n",
    "space behind the version": b"CONNECT a:1 HTTP/1.1 \r\n",
    "bare LF behind the version": b"CONNECT a:1 HTTP/1.1\nHost: a:1\n\n",
    "bare CR behind the version": b"CONNECT a:1 HTTP/1.1\rHost: a:1\r\r",
    "a TLS handshake": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "SOCKS4": b"\x04\x01\x00\x50\x7f\x00\x00\x01\x00",
    "SOCKS5": b"\x05\x01\x00",
    "SSH": b"SSH-2.0-OpenSSH_9.2\r\n",
    "PROXY protocol 1": b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
    "PROXY protocol 2": b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c",
}
MALFORMED_FIELDS = {
    "obs-fold": OLD + b"X: a\r\n b\r\n\r\n",
    "obs-fold by tab": OLD + b"X: a\r\n\tb\r\n\r\n",
    "white space before the first field": OLD + b" X: a\r\n\r\n",
    "space before the colon": OLD + b"X : a\r\n\r\n",
    "tab before the colon": OLD + b"X\t: a\r\n\r\n",
    "no colon": OLD + b"X\r\n\r\n",
    "no name": OLD + b": a\r\n\r\n",
    "space in the name": OLD + b"X Y: a\r\n\r\n",
    "raw octet in the name": OLD + b"X\xe9: a\r\n\r\n",
    "bare LF": OLD + b"X: a\nY: b\r\n\r\n",
    "only bare LF": OLD + b"X: a\n\n",
    "bare CR": OLD + b"X: a\rY: b\r\n\r\n",
    "CR CR LF": OLD + b"X: a\r\r\n\r\n",
    "CR in the last line": OLD + b"X: a\r\n\rX: b\r\n\r\n",
    "NUL": OLD + b"X: a\0b\r\n\r\n",
    "control octet": OLD + b"X: a\x01b\r\n\r\n",
    "vertical tab": OLD + b"X: a\x0bb\r\n\r\n",
    "DEL": OLD + b"X: a\x7fb\r\n\r\n",
}
MALFORMED_MEANING = {
    "HTTP/1.1 without Host": b"CONNECT a:1 HTTP/1.1\r\n\r\n",
    "two Hosts": CONNECT + b"Host: a.example:443\r\n\r\n",
    "two Hosts in HTTP/1.0": OLD + b"Host: a\r\nhost: b\r\n\r\n",
    "a space in Host": OLD + b"Host: a b\r\n\r\n",
    "userinfo in Host": OLD + b"Host: me:secret@a\r\n\r\n",
    "raw octets in Host": OLD + b"Host: b\xfccher\r\n\r\n",
    "GET without Host": b"GET http://a/ HTTP/1.1\r\n\r\n",
    "GET with two Hosts": b"GET http://a/ HTTP/1.1\r\nHost: a\r\nX: y\r\nhost: a\r\n\r\n",
    "GET with two Hosts, one before the length": b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nHost: a\r\n\r\n",
    "GET with userinfo in Host": b"GET http://a/ HTTP/1.1\r\nHost: me@a\r\n\r\n",
    "GET with two lengths": b"GET / HTTP/1.1\r\nContent-Length: 5\r\nHost: a\r\nContent-Length: 6\r\n\r\n",
    "GET with a length that is no number": b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x5\r\n\r\n",
    "GET with another coding": b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
    "GET with two codings": b"GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
    "CONNECT with a body": CONNECT + b"Content-Length: 5\r\n\r\n",
    "CONNECT with a chunked body": CONNECT + b"Transfer-Encoding: chunked\r\n\r\n",
    "CONNECT in 1.0 with a chunked body": OLD + b"transfer-encoding: chunked\r\n\r\n",
    "an unknown transfer coding": CONNECT + b"Transfer-Encoding: xchunked\r\n\r\n",
    "Content-Length that is no number": CONNECT + b"Content-Length: +0\r\n\r\n",
    "two different Content-Lengths": CONNECT + b"Content-Length: 0\r\nContent-Length: 1\r\n\r\n",
}
MALFORMED = MALFORMED_REQUEST_LINES | MALFORMED_FIELDS | MALFORMED_MEANING


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED.keys())
def test_refuses(data):
    assert parse(data) is MalformedRequest


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED.keys())
def test_says_what_was_expected_in_printable_ascii_and_few_words(data):
    message = complaint(data)
    assert message.isascii()
    assert message.isprintable()
    assert 20 < len(message) < 250


@pytest.mark.parametrize(
    ("first_bytes", "expected"),
    [
        (b"\x16", "a TLS handshake"),
        (b"\x16", "https:// proxy URLs"),
        (b"\x04", "SOCKS4"),
        (b"\x05", "SOCKS5"),
        (b"\x00", "expected an HTTP request"),
        (b"\xff", "expected an HTTP request"),
        (b"{", "expected an HTTP request"),
        (b"\n", "expected an HTTP request"),
        (b"\r\n\r", "expected an HTTP request"),
        (b"SSH-2.0-x\r", "got CR (byte 9)"),
        (b"PRI * HTTP/2", "HTTP/2 with prior knowledge is not served here"),
        (b"CONNECT a:1 HTTP/2", "HTTP/2 is not served here"),
        (b"CONNECT a:1 HTTP/1.1\n", r"got 'HTTP/1.1\n'"),
        (b"GET /\r", "got CR (byte 5)"),
        (OLD + b"X: a\n", "expected CRLF at the end of the field 'X', got LF"),
        (OLD + b"X: a\rb", "got CR without LF"),
        (OLD + b"X: a\0", "got NUL"),
        (OLD + b" ", "folded lines are not accepted"),
        (OLD + b"X ", "expected a colon right behind the field name 'X', got a space"),
    ],
)
def test_refuses_at_the_first_wrong_byte_and_says_why(first_bytes, expected):
    assert parse_request_head(first_bytes[:-1], LIMITS) is None
    assert expected in complaint(first_bytes)


@pytest.mark.parametrize(
    "line",
    [
        b"Proxy-Authorization : Basic c2VjcmV0",
        b"Proxy-Authorization Basic c2VjcmV0",
        b"Proxy-Authorization: Basic c2VjcmV0\x01",
        b"Proxy-Authorization: Basic\r\n c2VjcmV0",
        b"Host: me:c2VjcmV0@a",
    ],
)
def test_no_message_shows_a_password(line):
    assert "c2Vj" not in complaint(OLD + line + b"\r\n\r\n")


# --- limits -------------------------------------------------------------------------------------------------------

PLAIN = b"a"
STRICT = b"\xe9"  # an octet that the plain reader leaves to the strict one


@pytest.mark.parametrize("octet", [PLAIN, STRICT])
def test_a_head_may_have_exactly_the_bytes_of_the_limit(octet):
    limits = HeadLimits(300, 100, 200)
    data = CONNECT + b"X: " + octet * (300 - len(CONNECT) - 7) + b"\r\n\r\n"
    assert parse(data, limits).length == 300
    assert parse(data, limits._replace(max_bytes=299)) is HeadTooLarge


@pytest.mark.parametrize("octet", [PLAIN, STRICT])
def test_an_unfinished_head_over_the_limit_is_refused_at_once(octet):
    limits = HeadLimits(300, 100, 200)
    data = CONNECT + b"X: " + octet * (300 - len(CONNECT) - 3)
    assert parse(data, limits) is None
    assert parse(data + octet, limits) is HeadTooLarge
    assert "300 bytes" in complaint(data + octet, limits)


@pytest.mark.parametrize("octet", [PLAIN, STRICT])
def test_a_head_may_have_exactly_the_fields_of_the_limit(octet):
    data = CONNECT + (b"X: " + octet + b"\r\n") * 9
    assert len(parse(data + b"\r\n", LIMITS._replace(max_headers=10)).headers()) == 10
    assert parse(data + b"\r\n", LIMITS._replace(max_headers=9)) is HeadTooLarge
    assert parse(data, LIMITS._replace(max_headers=10)) is None
    assert parse(data + b"Y", LIMITS._replace(max_headers=10)) is HeadTooLarge
    assert "more than 9 fields" in complaint(data, LIMITS._replace(max_headers=9))


@pytest.mark.parametrize("octet", [PLAIN, STRICT])
def test_a_target_may_have_exactly_the_bytes_of_the_limit(octet):
    limits = HeadLimits(16_384, 100, 64)
    rest = b" HTTP/1.0\r\nX: " + octet + b"\r\n\r\n"
    assert len(parse(b"CONNECT " + b"t" * 64 + rest, limits).target) == 64
    assert parse(b"CONNECT " + b"t" * 65 + rest, limits) is TargetTooLong
    assert "64 bytes" in complaint(b"CONNECT " + b"t" * 65, limits)


def test_an_unfinished_target_over_the_limit_is_refused_at_once():
    limits = HeadLimits(16_384, 100, 64)
    assert parse(b"CONNECT " + b"t" * 64, limits) is None
    assert parse(b"CONNECT " + b"t" * 65, limits) is TargetTooLong


def test_a_missing_host_is_told_by_its_own_words():
    for fields in (b"", b"Accept: */*\r\nX-Host: a.test\r\n"):
        with pytest.raises(MalformedRequest) as caught:
            parse_request_head(b"GET / HTTP/1.1\r\n" + fields + b"\r\n", LIMITS)
        assert str(caught.value) == MISSING_HOST
    with pytest.raises(MalformedRequest) as caught:
        parse_request_head(b"GET / HTTP/1.1\r\nHOST: a.test\r\nhost: b.test\r\n\r\n", LIMITS)
    assert str(caught.value) != MISSING_HOST


def test_the_first_fault_decides():
    limits = HeadLimits(300, 3, 64)
    assert parse(b"CONNECT " + b"t" * 65 + b"\0", limits) is TargetTooLong
    assert parse(b"CONNECT \0" + b"t" * 65, limits) is MalformedRequest
    assert parse(OLD + b"X: a\r\n" * 4 + b"\0", limits) is HeadTooLarge
    assert parse(OLD + b"X: a\r\n" * 3 + b"\0", limits) is HeadTooLarge
    assert parse(OLD + b"X: a\r\n" * 2 + b"\0" + b"X: a\r\n" * 2, limits) is MalformedRequest
    assert parse(OLD + b"X: " + b"a" * 300 + b"\0", limits) is HeadTooLarge


# --- time ---------------------------------------------------------------------------------------------------------

HOSTILE = {
    "short fields": lambda n: CONNECT + b"a:\r\n" * (n // 4),
    "short fields, then a second Host": lambda n: CONNECT + b"a:\r\n" * (n // 4) + b"Host: b\r\n\r\n",
    "Host last, then a fault": lambda n: OLD + b"a:\r\n" * (n // 8) + b"Host: a\r\n" + b"a:\r\n" * (n // 8) + b"\0",
    "many Hosts": lambda n: OLD + b"Host: a\r\n" * (n // 9),
    "almost Hosts": lambda n: OLD + b"Hos: a\r\n" * (n // 8),
    "white space": lambda n: OLD + b"X:" + b" \t" * (n // 2) + b"\0",
    "white space in Host": lambda n: OLD + b"Host:" + b" " * n + b"\0",
    "a long name": lambda n: OLD + b"x" * n,
    "a long value": lambda n: OLD + b"x:" + b"x" * n,
    "a long method": lambda n: b"x" * n,
    "a long target": lambda n: b"CONNECT " + b"x" * n,
    "CRs": lambda n: OLD + b"X: \r" + b"\r" * n,
    "GET, lengths": lambda n: b"GET / HTTP/1.1\r\nHost: a\r\n" + b"Content-Length: 1\r\n" * (n // 19),
    "GET, short fields, then a second Host": lambda n: (
        b"GET / HTTP/1.1\r\nHost: a\r\n" + b"a:\r\n" * (n // 4) + b"Host: b\r\n\r\n"
    ),
    "GET, a length, short fields around Host, a fault": lambda n: (
        b"GET / HTTP/1.1\r\nContent-Length: 1\r\n"
        + b"a:\r\n" * (n // 8)
        + b"Host: a\r\n"
        + b"a:\r\n" * (n // 8)
        + b"\0"
    ),
    "a long path": lambda n: b"GET /" + b"x" * n,
    "strict and long": lambda n: CONNECT + b"a: \xff\r\n" * (n // 7) + b"\r\n",
}


@pytest.mark.parametrize("make", HOSTILE.values(), ids=HOSTILE.keys())
def test_time_grows_in_proportion_to_the_input_whatever_its_shape(make):
    def seconds(size: int) -> float:
        data, limits = make(size), HeadLimits(10_000_000, 10_000_000, 10_000_000)
        best = float("inf")
        for _ in range(3):
            start = time.thread_time()
            outcome_in_pieces(lambda received: parse_request_head(received, limits), [data])
            best = min(best, time.thread_time() - start)
        return best

    # 16 times the input: 16 times the work if linear, 256 times if quadratic.
    assert seconds(128_000) < 60 * max(seconds(8_000), 50e-6)
