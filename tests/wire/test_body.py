"""A body gives its payload, knows its end and says what is behind it, however it arrives; a wrong octet is refused at once."""

from __future__ import annotations

import re
import time
from itertools import pairwise

import pytest

from egressproxy.errors import MalformedRequest, UpstreamProtocolError
from egressproxy.wire.body import Body, ChunkedBody, ClosedBody, LengthBody, as_chunk, last_chunk


def chunked(max_trailer_bytes: int = 200) -> ChunkedBody:
    return ChunkedBody(max_trailer_bytes, 1_000_000, MalformedRequest)


def read(body: Body, data: bytes, *cuts: int):
    """Payload, done, excess, trailers: of `data` cut at `cuts`. The type of the error, and the payload before it."""
    payload = b""
    edges = sorted({0, len(data), *cuts})
    for start, end in pairwise(edges):
        try:
            payload += body.take(data[start:end])
        except MalformedRequest:
            return MalformedRequest, payload
    return payload, body.done, body.excess, body.trailers


def read_every_way(make, data: bytes):
    """The same, after checking that it is the same whole, byte by byte, and cut in two anywhere."""
    whole = read(make(), data)
    bytewise = read(make(), data, *range(len(data)))
    halves = [read(make(), data, cut) for cut in range(len(data))]
    if whole[0] is MalformedRequest:
        assert bytewise[0] is MalformedRequest
        assert all(half[0] is MalformedRequest and bytewise[1].startswith(half[1]) for half in halves)
        return MalformedRequest
    assert bytewise == whole
    assert all(half == whole for half in halves)
    return whole


# --- by length, and by the end of the stream ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("length", "data", "expected"),
    [
        (5, b"hello", (b"hello", True, b"", b"")),
        (5, b"hell", (b"hell", False, b"", b"")),
        (5, b"hello, next", (b"hello", True, b", next", b"")),
        (5, b"", (b"", False, b"", b"")),
        (0, b"", (b"", True, b"", b"")),
        (0, b"next", (b"", True, b"next", b"")),
    ],
)
def test_a_length_is_counted(length, data, expected):
    assert read_every_way(lambda: LengthBody(length), data) == expected


def test_a_body_of_no_bytes_is_done_before_it_begins():
    assert LengthBody(0).done
    assert not LengthBody(1).done


def test_a_length_may_end_only_when_all_is_there():
    body = LengthBody(2)
    body.take(b"a")
    assert not body.end()
    body.take(b"b")
    assert body.end()


def test_a_piece_that_is_all_payload_is_not_copied():
    piece = bytes(1000)
    assert LengthBody(2000).take(piece) is piece
    assert LengthBody(1000).take(piece) is piece
    assert ClosedBody().take(piece) is piece
    body = chunked()
    body.take(b"7d0\r\n")
    assert body.take(piece) is piece
    assert body.take(piece) is piece


def test_a_closed_body_ends_with_the_stream():
    body = ClosedBody()
    assert body.take(b"a") + body.take(b"") + body.take(b"b") == b"ab"
    assert not body.done
    assert body.end()
    assert body.done
    assert (body.excess, body.trailers) == (b"", b"")


# --- chunked: what is accepted ------------------------------------------------------------------------------------

HELLO = b"5\r\nhello\r\n"
END = b"0\r\n\r\n"


@pytest.mark.parametrize(
    ("data", "payload"),
    [
        (END, b""),
        (HELLO + END, b"hello"),
        (HELLO + b"6\r\n world\r\n" + END, b"hello world"),
        (b"00000000000000a\r\n0123456789\r\n000\r\n\r\n", b"0123456789"),
        (b"000000000000000A\r\n0123456789\r\n0000000000000000\r\n\r\n", b"0123456789"),  # sixteen digits
        (b"5\r\n\r\n0\r\n\r\n" + END, b"\r\n0\r\n"),  # data is data
        (b"5;a\r\nhello\r\n0;b\r\n\r\n", b"hello"),
        (b'5;a=b;c;d="e;\\"\\\\\t\xff";f=g\r\nhello\r\n' + END, b"hello"),
        (b'5;a=""\r\nhello\r\n' + END, b"hello"),
        (b"5;!#$%&'*+-.^_`|~=1\r\nhello\r\n" + END, b"hello"),
    ],
)
def test_reads_chunks(data, payload):
    assert read_every_way(chunked, data) == (payload, True, b"", b"")
    assert read_every_way(chunked, data + b"GET /\0") == (payload, True, b"GET /\0", b"")
    assert all(not read(chunked(), data[:cut])[1] for cut in range(len(data)))


def test_what_comes_when_all_is_done_is_excess():
    body = chunked()
    body.take(END + b"a")
    assert body.take(b"b") == b""
    assert body.excess == b"ab"


def test_chunks_may_end_only_behind_the_last_one():
    body = chunked()
    for octet in HELLO + END:
        assert not body.end()
        body.take(bytes([octet]))
    assert body.end()


@pytest.mark.parametrize(
    ("lines", "kept"),
    [
        (b"X-Sum: 1\r\n", b"X-Sum: 1\r\n"),
        (b"a:\r\nB: \t two words \xff \r\n", b"a:\r\nB: \t two words \xff \r\n"),
        (b"Authorization: x\r\nX: y\r\nset-cookie: z\r\n", b"X: y\r\n"),
        (b"Content-Encoding: gzip\r\n", b""),
        (b"Via: 1.1 a\r\nX-Forwarded-For: 192.0.2.1\r\n", b""),
        (b"X_Forwarded_For: 192.0.2.1\r\nX_Mine: 1\r\nContent_Length: 5\r\n", b"X_Mine: 1\r\n"),
        (b"Server-Timing: db;dur=5\r\ngrpc-status: 0\r\n", b"Server-Timing: db;dur=5\r\ngrpc-status: 0\r\n"),
    ],
)
def test_trailers_are_kept_or_too_late_to_mean_anything(lines, kept):
    assert read_every_way(chunked, HELLO + b"0\r\n" + lines + b"\r\nnext") == (b"hello", True, b"next", kept)


# --- chunked: what is refused -------------------------------------------------------------------------------------

MALFORMED = {
    "no size": b"\r\n",
    "no size behind data": HELLO + b"\r\n",
    "a sign": b"+5\r\nhello\r\n",
    "a minus": b"-5\r\nhello\r\n",
    "0x": b"0x5\r\nhello\r\n",
    "an underscore": b"1_0\r\n",
    "a space before the size": b" 5\r\nhello\r\n",
    "a space behind the size": b"5 \r\nhello\r\n",
    "a tab behind the size": b"5\t\r\nhello\r\n",
    "a letter beyond f": b"g\r\n",
    "a digit beyond ASCII": b"\xb2\r\n",
    "NUL": b"5\0\r\n",
    "a comma": b"5,5\r\n",
    "bare LF behind the size": b"5\nhello\r\n",
    "bare CR behind the size": b"5\rhello\r\n",
    "CR CR LF": b"5\r\r\nhello\r\n",
    "seventeen digits": b"00000000000000005\r\nhello\r\n",
    "2**60": b"1000000000000000\r\n",
    "2**64 - 1": b"ffffffffffffffff\r\n",
    "an extension without a name": b"5;\r\nhello\r\n",
    "a space before an extension": b"5 ;a\r\nhello\r\n",
    "a space before its name": b"5; a\r\nhello\r\n",
    "a space before its value": b"5;a= b\r\nhello\r\n",
    "a space behind an extension": b"5;a \r\nhello\r\n",
    "no value": b"5;a=\r\nhello\r\n",
    "two values": b"5;a=b=c\r\nhello\r\n",
    "a value and a quoted one": b'5;a=b"c"\r\nhello\r\n',
    "a quoted value and one more": b'5;a="b"c\r\nhello\r\n',
    "a quoted name": b'5;"a"\r\nhello\r\n',
    "CRLF in quotes": b'5;a="\r\n"\r\nhello\r\n',
    "LF in an extension": b"5;a\nb\r\nhello\r\n",
    "LF in quotes": b'5;a="\n"\r\nhello\r\n',
    "an escaped LF": b'5;a="\\\n"\r\nhello\r\n',
    "NUL in an extension": b"5;a\0\r\nhello\r\n",
    "DEL in quotes": b'5;a="\x7f"\r\nhello\r\n',
    "data too long": b"5\r\nhello!\r\n",
    "data too short": b"6\r\nhello\r\n0\r\n\r\n",
    "bare LF behind data": b"5\r\nhello\n0\r\n\r\n",
    "bare CR behind data": b"5\r\nhello\r0\r\n\r\n",
    "nothing behind data": b"5\r\nhello0\r\n\r\n",
    "bare LF at the end": b"0\r\n\n",
    "bare CR at the end": b"0\r\n\rX",
    "a space where trailers begin": b"0\r\n X: a\r\n\r\n",
    "a folded trailer": b"0\r\nX: a\r\n b\r\n\r\n",
    "a trailer without a colon": b"0\r\nX\r\n\r\n",
    "a trailer without a name": b"0\r\n: a\r\n\r\n",
    "a space before its colon": b"0\r\nX : a\r\n\r\n",
    "raw octet in its name": b"0\r\nX\xe9: a\r\n\r\n",
    "bare LF in a trailer": b"0\r\nX: a\nY: b\r\n\r\n",
    "bare CR in a trailer": b"0\r\nX: a\rY: b\r\n\r\n",
    "NUL in a trailer": b"0\r\nX: \0\r\n\r\n",
    "DEL in a trailer": b"0\r\nX: \x7f\r\n\r\n",
}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED.keys())
def test_refuses(data):
    assert read_every_way(chunked, data) is MalformedRequest


FRAMING = (
    "Transfer-Encoding Content-Length Host Connection Keep-Alive Proxy-Connection TE Trailer Upgrade cOnTeNt-LeNgTh"
)


@pytest.mark.parametrize("name", FRAMING.split())
def test_refuses_trailers_that_frame_or_route_as_soon_as_they_are_named(name):
    with pytest.raises(MalformedRequest, match=f"frame and route nothing, got '{name.lower()}'"):
        chunked().take(b"0\r\n" + name.encode() + b":")
    named_alike = b"0\r\nX-" + name.encode() + b": 1\r\n\r\n"
    assert read(chunked(), named_alike)[3] == named_alike[3:-2]


@pytest.mark.parametrize(
    ("first_bytes", "message"),
    [
        (b"\n", "expected a chunk size in hexadecimal digits, got LF"),
        (b"5 ", "expected CRLF behind the chunk size, got a space"),
        (b"5\r5", "expected LF behind the CR of a chunk size, got '5'"),
        (b"5;;", "expected the name of a chunk extension, got ';'"),
        (b"5;a=;", "expected the value of a chunk extension, got ';'"),
        (b'5;a="\n', "expected a quoted string in a chunk extension, got LF"),
        (b'5;a="b"c', "expected CRLF behind a chunk extension, got 'c'"),
        (b"5\r\nhello!", "expected CRLF behind the data of a chunk, got '!'"),
        (b"5\r\nhello\r\r", "expected CRLF behind the data of a chunk, got CR"),
        (b"0\r\n\n", "expected a trailer field or an empty line, got LF"),
        (b"0\r\nX ", "expected a colon right behind the name of a trailer field, got a space"),
        (b"0\r\nX:\0", "expected CRLF at the end of a trailer field, got NUL"),
        (b"0\r\nX:\r\r", "expected LF behind the CR of a trailer field, got CR"),
        (b"0\r\n\r\r", "expected LF at the end of the chunked body, got CR"),
        (b"00000000000000000", "expected a chunk size of at most 16 digits, below 2**60"),
        (b"fffffffffffffffF", "expected a chunk size of at most 16 digits, below 2**60"),
    ],
)
def test_refuses_at_the_first_wrong_byte_and_says_why(first_bytes, message):
    read(chunked(), first_bytes[:-1])
    for cut in range(len(first_bytes)):
        body = chunked()
        body.take(first_bytes[:cut])
        with pytest.raises(MalformedRequest, match=re.escape(message)):
            body.take(first_bytes[cut:])


def test_raises_the_error_it_was_made_with():
    with pytest.raises(UpstreamProtocolError):
        ChunkedBody(0, 100, UpstreamProtocolError).take(b"x")


def test_trailers_take_no_more_than_the_limit_dropped_ones_included():
    lines = b"X: a\r\nVia: b\r\n"
    assert read(chunked(len(lines)), b"0\r\n" + lines + b"\r\n")[1:] == (True, b"", b"X: a\r\n")
    assert read_every_way(lambda: chunked(len(lines) - 1), b"0\r\n" + lines) is MalformedRequest
    assert read_every_way(lambda: chunked(0), END) == (b"", True, b"", b"")


def test_trailers_are_no_more_than_the_limit_dropped_ones_included():
    three = b"X: a\r\nVia: b\r\nY: c\r\n"
    assert read(ChunkedBody(200, 3, MalformedRequest), b"0\r\n" + three + b"\r\n")[1] is True
    assert read_every_way(lambda: ChunkedBody(200, 2, MalformedRequest), b"0\r\n" + three) is MalformedRequest


def test_extensions_take_no_more_than_16_kib_in_one_body():
    chunk = b"1;" + b"a" * 1023 + b"\r\nx\r\n"
    body = chunked()
    assert body.take(chunk * 16) == b"x" * 16
    with pytest.raises(MalformedRequest, match="more than 16384 bytes"):
        body.take(b"1;")
    with pytest.raises(MalformedRequest, match="more than 16384 bytes"):
        chunked().take(b'1;a="' + b"\\a" * 20_000)


HOSTILE = {
    "tiny chunks": lambda n: b"1\r\nx\r\n" * (n // 6) + END,
    "one chunk": lambda n: b"%x\r\n" % n + b"x" * n,
    "extensions": lambda n: (b"1;" + b"a" * 100 + b"\r\nx\r\n") * min(n // 110, 150),
    "a long trailer": lambda n: b"0\r\nX: " + b"a" * n,
    "a long trailer name": lambda n: b"0\r\n" + b"a" * n,
    "many trailers": lambda n: b"0\r\n" + b"a:\r\n" * (n // 4),
}


@pytest.mark.parametrize("step", [1, 1_000_000], ids=["byte by byte", "whole"])
@pytest.mark.parametrize("make", HOSTILE.values(), ids=HOSTILE.keys())
def test_time_grows_in_proportion_to_the_input_whatever_its_shape(make, step):
    def seconds(size: int) -> float:
        data = make(size)
        pieces = [data[at : at + step] for at in range(0, len(data), step)]
        best = float("inf")
        for _ in range(3):
            body = chunked(10_000_000)
            start = time.thread_time()
            for piece in pieces:
                body.take(piece)
            best = min(best, time.thread_time() - start)
        return best

    # 16 times the input: 16 times the work if linear, 256 times if quadratic.
    assert seconds(64_000) < 60 * max(seconds(4_000), 50e-6)


# --- written ------------------------------------------------------------------------------------------------------


def test_writes_chunks():
    assert as_chunk(b"x" * 26) == b"1a\r\n" + b"x" * 26 + b"\r\n"
    assert as_chunk(b"") == b""
    assert last_chunk(b"") == END
    assert last_chunk(b"X: y\r\n") == b"0\r\nX: y\r\n\r\n"
