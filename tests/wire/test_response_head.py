"""A response head is read strictly, at once, and the same however it arrives; what its fields mean is said, or refused."""

from __future__ import annotations

import time

import pytest
from support.parsing import outcome_in_pieces, parse_every_way

from egressproxy.errors import UpstreamProtocolError
from egressproxy.wire import response_head
from egressproxy.wire.request_head import HeadLimits
from egressproxy.wire.response_head import (
    ResponseFields,
    ResponseHead,
    body_is_forbidden,
    parse_response_head,
    response_fields,
)

LIMITS = HeadLimits(max_bytes=16_384, max_headers=100, max_target_bytes=1)
OK = b"HTTP/1.1 200 OK\r\n"
NGINX = (
    b"HTTP/1.1 200 OK\r\nServer: nginx/1.22.1\r\nDate: Sat, 28 Nov 2026 06:00:00 GMT\r\nContent-Type: text/html; "
    b'charset=utf-8\r\nContent-Length: 615\r\nConnection: keep-alive\r\nETag: "65a0"\r\n\r\n'
)


def parse(data: bytes, limits: HeadLimits = LIMITS):
    """The outcome of `data`, the same in every way it can arrive."""
    return parse_every_way(lambda received: parse_response_head(received, limits), data)


def complaint(data: bytes, limits: HeadLimits = LIMITS) -> str:
    with pytest.raises(UpstreamProtocolError) as caught:
        parse_response_head(data, limits)
    return str(caught.value)


def fields(*lines: bytes, start: bytes = b"HTTP/1.1 200 OK") -> ResponseFields:
    """What these lines mean, in a response as the head parser gives it."""
    head = parse_response_head(b"\r\n".join([start, *lines, b"", b""]), LIMITS)
    assert head is not None
    return response_fields(head)


# --- heads that are accepted --------------------------------------------------------------------------------------


@pytest.fixture
def h11_is_not_asked(monkeypatch):
    def ask(head: bytes):
        raise AssertionError(f"h11 was asked about {head!r}")

    monkeypatch.setattr(response_head, "_ask_h11", ask)


def test_reads_what_nginx_sends_without_h11(h11_is_not_asked):
    assert parse(NGINX) == ResponseHead(200, "OK", "1.1", NGINX[17:-2], len(NGINX))


@pytest.mark.parametrize(
    ("line", "head"),
    [
        (b"HTTP/1.1 404 Not Found", (404, "Not Found", "1.1")),
        (b"HTTP/1.0 200 OK", (200, "OK", "1.0")),
        (b"HTTP/1.1 100 Continue", (100, "Continue", "1.1")),
        (b"HTTP/1.1 101 Switching Protocols", (101, "Switching Protocols", "1.1")),
        (b"HTTP/1.1 599 ", (599, "", "1.1")),
        (b"HTTP/1.1 200  \t two", (200, " \t two", "1.1")),
    ],
)
def test_reads_plain_status_lines_without_h11(line, head, h11_is_not_asked):
    assert parse(line + b"\r\n\r\n") == ResponseHead(*head, b"", len(line) + 4)


@pytest.mark.parametrize(
    ("line", "head"),
    [
        (b"HTTP/1.1 200", (200, "", "1.1")),  # as h11 does: servers do this
        (b"HTTP/1.0 101", (101, "", "1.0")),
        (b"HTTP/1.1 200 caf\xe9", (200, "café", "1.1")),
        (b"HTTP/1.1 103 \xe9", (103, "é", "1.1")),
    ],
)
def test_reads_other_status_lines_with_h11(line, head):
    assert parse(line + b"\r\n\r\n") == ResponseHead(*head, b"", len(line) + 4)


@pytest.mark.parametrize(
    "lines",
    [
        b"Content-Length: 5\r\nX: y\r\n",
        b"X: y\r\ntransfer-encoding:chunked\r\n",
        b"X:\r\nX: \t two words \t\r\n",
        b"Content-Disposition: inline; filename=\xc3\xa9\r\n",
        b"Host: a\r\nHost: b\r\n",
    ],
)
def test_plain_fields_need_no_h11(lines, h11_is_not_asked):
    assert parse(OK + lines + b"\r\n").raw_headers == lines


@pytest.mark.parametrize(
    "lines",
    [
        b"Content-Length: 5\r\nContent-Length: 5\r\n",
        b"Content-Length:  5\r\n",
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
    ],
)
def test_h11_says_what_the_plain_reader_does_not(lines):
    assert parse(OK + lines + b"\r\n").raw_headers == lines


def test_leaves_what_follows_the_head():
    assert parse_response_head(OK + b"\r\n\0body", LIMITS).length == len(OK) + 2
    continued = b"HTTP/1.1 100 Continue\r\n\r\n"
    assert parse_response_head(continued + NGINX, LIMITS).length == len(continued)


@pytest.mark.parametrize(
    "data", [b"", b"H", b"HTTP/1.", b"HTTP/1.1 20", b"HTTP/1.1 200", b"HTTP/1.1 200 O", OK, OK + b"X"]
)
def test_asks_for_more_while_all_is_well(data):
    assert parse(data) is None


# --- heads that are refused ---------------------------------------------------------------------------------------

MALFORMED = {
    "HTTP/0.9": b"<html>hello",
    "an empty line first": b"\r\n" + OK,
    "an empty first octet": b"\0",
    "a TLS alert": b"\x15\x03\x01\x00\x02\x02\x46",
    "HTTP/2 settings": b"\x00\x00\x12\x04\x00\x00\x00\x00\x00",
    "HTTP/2": b"HTTP/2 200\r\n\r\n",
    "HTTP/2.0": b"HTTP/2.0 200 OK\r\n\r\n",
    "HTTP/1.2": b"HTTP/1.2 200 OK\r\n\r\n",
    "HTTP/1.10": b"HTTP/1.10 200 OK\r\n\r\n",
    "HTTP/1": b"HTTP/1 200 OK\r\n\r\n",
    "ICY": b"ICY 200 OK\r\n\r\n",
    "SSH": b"SSH-2.0-OpenSSH_9.2\r\n",
    "lower case": b"http/1.1 200 OK\r\n\r\n",
    "two spaces": b"HTTP/1.1  200 OK\r\n\r\n",
    "a tab": b"HTTP/1.1\t200 OK\r\n\r\n",
    "no status": b"HTTP/1.1\r\n\r\n",
    "two digits": b"HTTP/1.1 20 OK\r\n\r\n",
    "four digits": b"HTTP/1.1 2000 OK\r\n\r\n",
    "a sign": b"HTTP/1.1 +20 OK\r\n\r\n",
    "letters": b"HTTP/1.1 2xx OK\r\n\r\n",
    "status 0": b"HTTP/1.1 000 OK\r\n\r\n",
    "status 99": b"HTTP/1.1 099 OK\r\n\r\n",
    "status 600": b"HTTP/1.1 600 OK\r\n\r\n",
    "status 999": b"HTTP/1.1 999 OK\r\n\r\n",
    "no space behind the status": b"HTTP/1.1 200OK\r\n\r\n",
    "a tab behind the status": b"HTTP/1.1 200\tOK\r\n\r\n",
    "NUL in the reason": b"HTTP/1.1 200 O\0K\r\n\r\n",
    "control in the reason": b"HTTP/1.1 200 O\x0bK\r\n\r\n",
    "bare LF behind the reason": b"HTTP/1.1 200 OK\nX: y\n\n",
    "bare CR behind the reason": b"HTTP/1.1 200 OK\rX: y\r\r",
    "bare LF behind the status": b"HTTP/1.1 200\n\n",
    "obs-fold": OK + b"X: a\r\n b\r\n\r\n",
    "white space before the first field": OK + b"\tX: a\r\n\r\n",
    "space before the colon": OK + b"Content-Length : 5\r\n\r\n",
    "no colon": OK + b"X\r\n\r\n",
    "no name": OK + b": a\r\n\r\n",
    "raw octet in the name": OK + b"X\xe9: a\r\n\r\n",
    "bare LF": OK + b"X: a\nY: b\r\n\r\n",
    "bare CR": OK + b"X: a\rY: b\r\n\r\n",
    "NUL": OK + b"X: a\0b\r\n\r\n",
    "form feed": OK + b"X: a\x0cb\r\n\r\n",
    "DEL": OK + b"X: a\x7fb\r\n\r\n",
    "two lengths": OK + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n",
    "a list of two lengths": OK + b"Content-Length: 5, 6\r\n\r\n",
    "a length that is no number": OK + b"Content-Length: +5\r\n\r\n",
    "a length of a number and more": OK + b"Content-Length: 5 5\r\n\r\n",
    "another coding": OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n",
    "two codings": OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED.keys())
def test_refuses(data):
    assert parse(data) is UpstreamProtocolError


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED.keys())
def test_says_what_was_expected_in_printable_ascii_and_few_words(data):
    message = complaint(data)
    assert message.isascii()
    assert message.isprintable()
    assert 20 < len(message) < 250


@pytest.mark.parametrize(
    ("first_bytes", "expected"),
    [
        (b"<", "expected a response in HTTP/1.1 or HTTP/1.0, got '<'"),
        (b"HTTP/2", "HTTP/2 is not spoken here"),
        (b"HTTP/1.2", "got 'HTTP/1.2'"),
        (b"HTTP/1.1\r", r"expected a response in HTTP/1.1 or HTTP/1.0, got 'HTTP/1.1\r'"),
        (b"HTTP/1.1\t", "expected a status from 100 to 599"),
        (b"HTTP/1.1 6", "expected a status from 100 to 599"),
        (b"HTTP/1.1 20 ", "expected a status from 100 to 599"),
        (b"HTTP/1.1 2000", "expected a space or CRLF behind the status, got '0' (byte 12)"),
        (b"HTTP/1.1 200 OK\n", "expected CRLF at the end of the status line, got LF (byte 15)"),
        (b"HTTP/1.1 200 OK\rX", "got CR without LF (byte 15)"),
        (OK + b"X: a\0", "expected CRLF at the end of the field 'X', got NUL"),
        (OK + b" ", "folded lines are not accepted"),
    ],
)
def test_refuses_at_the_first_wrong_byte_and_says_why(first_bytes, expected):
    assert parse_response_head(first_bytes[:-1], LIMITS) is None
    assert expected in complaint(first_bytes)


# --- limits, and time ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [OK, b"HTTP/1.1 200\r\n"], ids=["plain", "strict"])
def test_a_head_may_have_exactly_what_the_limits_say(start):
    data = start + b"X: a\r\n" * 9 + b"\r\n"
    exact = HeadLimits(len(data), 9, 1)
    assert parse(data, exact).length == len(data)
    assert parse(data, exact._replace(max_bytes=len(data) - 1)) is UpstreamProtocolError
    assert parse(data, exact._replace(max_headers=8)) is UpstreamProtocolError
    assert parse(data[:-2], exact) is None
    assert "the response head has more than 9 fields" in complaint(data[:-2] + b"Y", exact)
    assert "not complete within 5 bytes" in complaint(b"HTTP/1", LIMITS._replace(max_bytes=5))
    assert "not complete within 20 bytes" in complaint(b"HTTP/1.1 200 " + b"a" * 8, LIMITS._replace(max_bytes=20))
    assert "not complete within 20 bytes" in complaint(b"HTTP/1.1 200 OK\r\nX: y", LIMITS._replace(max_bytes=20))


HOSTILE = {
    "short fields": lambda n: OK + b"a:\r\n" * (n // 4),
    "short fields, then two lengths": lambda n: OK + b"a:\r\n" * (n // 4) + b"Content-Length: 1\r\n" * 2 + b"\r\n",
    "a length last, then a fault": lambda n: (
        OK + b"a:\r\n" * (n // 8) + b"Content-Length: 1\r\n" + b"a:\r\n" * (n // 8) + b"\0"
    ),
    "many lengths": lambda n: OK + b"Content-Length: 1\r\n" * (n // 19),
    "white space": lambda n: OK + b"X:" + b" \t" * (n // 2) + b"\0",
    "a long reason": lambda n: b"HTTP/1.1 200 " + b"x" * n,
    "a long name": lambda n: OK + b"x" * n,
    "a long value": lambda n: OK + b"x:" + b"x" * n,
}


@pytest.mark.parametrize("make", HOSTILE.values(), ids=HOSTILE.keys())
def test_time_grows_in_proportion_to_the_input_whatever_its_shape(make):
    def seconds(size: int) -> float:
        data, limits = make(size), HeadLimits(10_000_000, 10_000_000, 1)
        best = float("inf")
        for _ in range(3):
            start = time.thread_time()
            outcome_in_pieces(lambda received: parse_response_head(received, limits), [data])
            best = min(best, time.thread_time() - start)
        return best

    # 16 times the input: 16 times the work if linear, 256 times if quadratic.
    assert seconds(128_000) < 60 * max(seconds(8_000), 50e-6)


# --- what the fields mean -----------------------------------------------------------------------------------------

NOTHING = ResponseFields(None, False, True, None, b"", None, None, False)


def test_what_nginx_means():
    read = response_fields(parse_response_head(NGINX, LIMITS))
    going_on = NGINX[17:-2].replace(b"Content-Length: 615\r\n", b"").replace(b"Connection: keep-alive\r\n", b"")
    assert read == ResponseFields(615, False, True, None, going_on, None, "text/html", True)


@pytest.mark.parametrize(
    ("line", "changed"),
    [
        (b"Content-Length: 5", {"length": 5}),
        (b"Transfer-Encoding: Chunked", {"chunked": True}),
        (b"Via: 1.1 a", {"via": "1.1 a"}),
        (b"Via:", {}),
        (b"Date: today", {"has_date": True, "forward": b"Date: today\r\n"}),
        (b"Content-Type: a/b ;c=d", {"content_type": "a/b", "forward": b"Content-Type: a/b ;c=d\r\n"}),
        (b"Content-Type: ;", {"forward": b"Content-Type: ;\r\n"}),
        (b"Content-Type:", {"forward": b"Content-Type:\r\n"}),
        (b"Connection: close", {"keep_alive": False}),
        (b"Connection: Keep-Alive, Close", {"keep_alive": False}),
        (b"Connection: Transfer-Encoding", {}),  # some servers say so, and it is true
        (b"Keep-Alive: timeout=5", {}),
        (b"Proxy-Connection: close", {}),
        (b"Proxy-Authenticate: Basic", {}),
        (b"Proxy-Authentication-Info: x", {}),
        (b"Upgrade: h2c", {}),
        (b"TE: trailers", {}),
        (b"Trailer: X-Sum", {"forward": b"Trailer: X-Sum\r\n"}),
        (b"Proxy-Status: a; error=dns_error", {"forward": b"Proxy-Status: a; error=dns_error\r\n"}),
        (b"Set-Cookie:  a=b \xff", {"forward": b"Set-Cookie:  a=b \xff\r\n"}),
    ],
)
def test_one_field(line, changed):
    assert fields(line) == NOTHING._replace(**changed)


@pytest.mark.parametrize(
    ("lines", "keep_alive"),
    [([], False), ([b"Connection: keep-alive"], True), ([b"Connection: keep-alive, close"], False)],
)
def test_http_1_0_closes_unless_it_says_otherwise(lines, keep_alive):
    assert fields(*lines, start=b"HTTP/1.0 200 OK").keep_alive is keep_alive


def test_a_field_that_connection_names_stays_here_and_the_rest_keeps_its_order():
    read = fields(
        b"b: 1", b"Connection: x-mine", b"X-Mine: 2", b"a: 3", b"B: 4", b"Connection: A", b"Via: x", b"via: y"
    )
    assert (read.forward, read.via) == (b"b: 1\r\nB: 4\r\n", "x, y")


def test_an_upgrade_is_one_where_connection_says_so():
    lines = (b"Connection: Upgrade", b"Upgrade: websocket")
    switching = fields(*lines, start=b"HTTP/1.1 101 Switching Protocols")
    assert (switching.upgrade, switching.forward) == ("websocket", b"")
    assert fields(*lines, start=b"HTTP/1.0 200 OK").upgrade is None
    assert fields(b"Connection: Upgrade").upgrade is None


REFUSED = {
    "a length beside a coding": (OK, b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"),
    "an equal length again": (OK, b"Content-Length: 5\r\nContent-Length: 5\r\n"),
    "a list of equal lengths": (OK, b"Content-Length: 5, 5\r\n"),
    "twenty digits": (OK, b"Content-Length: 10000000000000000000\r\n"),
    "a coding in HTTP/1.0": (b"HTTP/1.0 200 OK\r\n", b"Transfer-Encoding: chunked\r\n"),
    "a coding with 204": (b"HTTP/1.1 204 No Content\r\n", b"Transfer-Encoding: chunked\r\n"),
    "a length with 204": (b"HTTP/1.1 204 No Content\r\n", b"Content-Length: 1\r\n"),
    "a coding with 100": (b"HTTP/1.1 100 Continue\r\n", b"Transfer-Encoding: chunked\r\n"),
    "a length with 101": (b"HTTP/1.1 101 Switching Protocols\r\n", b"Content-Length: 1\r\n"),
    "Connection names the length": (OK, b"Connection: Content-Length\r\n"),
    "Connection is no list of tokens": (OK, b"Connection: a/b\r\n"),
}


@pytest.mark.parametrize(("start", "lines"), REFUSED.values(), ids=REFUSED.keys())
def test_refuses_what_could_be_read_in_two_ways(start, lines):
    head = parse(start + lines + b"\r\n")
    with pytest.raises(UpstreamProtocolError) as caught:
        response_fields(head)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("start", "line"),
    [
        (b"HTTP/1.1 204 No Content", b"Content-Length: 0"),
        (b"HTTP/1.1 304 Not Modified", b"Content-Length: 615"),
        (b"HTTP/1.1 304 Not Modified", b"Transfer-Encoding: chunked"),
    ],
)
def test_framing_may_describe_a_body_that_is_not_there(start, line):
    read = fields(line, start=start)
    assert read.chunked or read.length is not None


@pytest.mark.parametrize(
    ("method", "status", "forbidden"),
    [
        ("GET", 100, True),
        ("GET", 199, True),
        ("GET", 200, False),
        ("GET", 204, True),
        ("GET", 205, False),
        ("GET", 304, True),
        ("GET", 404, False),
        ("HEAD", 200, True),
        ("HEAD", 404, True),
        ("head", 200, False),
        ("CONNECT", 200, True),
        ("CONNECT", 299, True),
        ("CONNECT", 300, False),
        ("CONNECT", 407, False),
    ],
)
def test_some_responses_have_no_body_whatever_they_say(method, status, forbidden):
    assert body_is_forbidden(method, status) is forbidden
