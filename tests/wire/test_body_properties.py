"""No split of a body changes what is read from it; a body that is accepted says the same to h11; what is written is read."""

from __future__ import annotations

from itertools import pairwise

import h11
from hypothesis import example, given, settings
from hypothesis import strategies as st

from egressproxy.errors import MalformedRequest
from egressproxy.wire.body import Body, ChunkedBody, LengthBody, as_chunk, last_chunk

MAX_TRAILER_BYTES = 60
HEAD = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"

sizes = st.sampled_from([b"1", b"3", b"003", b"a", b"1f", b"0", b"g", b"-1", b"0x1", b"", b" 1", b"fffffffffffffff"])
extensions = st.sampled_from([b""] * 9 + [b";a", b";a=b;c", b';a="b\\"c"', b";a=", b"; a", b" ", b';a="', b";a\n"])
line_ends = st.sampled_from([b"\r\n"] * 30 + [b"\n", b"\r", b"\r\r\n", b"", b"\r\n "])
trailer_lines = st.sampled_from(
    [
        b"X: y\r\n",
        b"a:\r\n",
        b"X:\xe9 \r\n",
        b"Via: a\r\n",
        b"Host: a\r\n",
        b"X : y\r\n",
        b" X: y\r\n",
        b"X: \0\r\n",
        b"X\r\n",
    ]
)


@st.composite
def chunks(draw: st.DrawFn) -> bytes:
    if draw(st.booleans()):
        return as_chunk(draw(st.binary(max_size=40)))
    data = draw(st.sampled_from([b"x", b"xyz", b"\r\n0", b"0123456789", b""]))
    return draw(sizes) + draw(extensions) + draw(line_ends) + data + draw(line_ends)


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    data = bytearray(b"".join(draw(st.lists(chunks(), max_size=4))))
    data += b"0" + draw(extensions) + draw(line_ends) + b"".join(draw(st.lists(trailer_lines, max_size=3)))
    data += draw(line_ends) + draw(st.sampled_from([b"", b"GET /", b"\0"]))
    for _ in range(draw(st.sampled_from([0, 0, 1, 3]))):
        at = draw(st.integers(0, len(data)))
        piece = draw(st.one_of(st.sampled_from([b"", b"\r", b"\n", b"\r\n", b"0", b";"]), st.binary(max_size=2)))
        data[at : at + draw(st.integers(0, 2))] = piece
    return bytes(data)


def read(body: Body, pieces: list[bytes]) -> tuple[bytes, bool, bytes, bytes] | type[MalformedRequest]:
    """Payload, done, excess and trailers, or the error."""
    payload = b""
    try:
        for piece in pieces:
            payload += body.take(piece)
    except MalformedRequest:
        return MalformedRequest
    assert body.end() is body.done
    return payload, body.done, body.excess, body.trailers


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(at for at in cuts if at < len(data))})
    return [data[start:end] for start, end in pairwise(edges)]


@st.composite
def tidy(draw: st.DrawFn) -> bytes:
    """Well-formed, extensions and trailers included."""
    data = b""
    for payload in draw(st.lists(st.binary(min_size=1, max_size=40), max_size=4)):
        extension = draw(st.sampled_from([b"", b"", b";a", b";a=b;c", b';a="b\\"\\\\c;d";e']))
        data += b"%x%b\r\n%b\r\n" % (len(payload), extension, payload)
    trailers = draw(st.lists(st.sampled_from([b"X: y\r\n", b"a:\r\n", b"X:\xe9 \r\n", b"Via: a\r\n"]), max_size=3))
    return data + last_chunk(b"".join(trailers)) + draw(st.sampled_from([b"", b"GET /", b"\0"]))


@given(tidy() | bodies() | st.binary(max_size=60), st.lists(st.integers(0, 200), max_size=8))
@settings(max_examples=200, deadline=None)
@example(b"1\r\nx\r\n" * 3 + b"0\r\nX: y\r\n\r\nnext", [2, 9])
def test_any_split_gives_the_same_answer(data: bytes, cuts: list[int]):
    whole = read(ChunkedBody(MAX_TRAILER_BYTES, 100, MalformedRequest), [data])
    assert read(ChunkedBody(MAX_TRAILER_BYTES, 100, MalformedRequest), cut(data, cuts)) == whole
    assert (
        read(ChunkedBody(MAX_TRAILER_BYTES, 100, MalformedRequest), [data[i : i + 1] for i in range(len(data))])
        == whole
    )


@given(tidy() | bodies())
@settings(max_examples=200, deadline=None)
@example(b'3;a=b;c="d\\"e"\r\nxyz\r\n0;f\r\nX: y\r\nVia: z\r\n\r\nGET /')
def test_what_is_accepted_h11_accepts_with_the_same_payload_and_the_same_end(data: bytes):
    ours = read(ChunkedBody(MAX_TRAILER_BYTES, 100, MalformedRequest), [data])
    if ours is MalformedRequest:
        return
    payload, done, excess, trailers = ours
    arbiter = h11.Connection(h11.SERVER)
    arbiter.receive_data(HEAD + data)
    assert isinstance(arbiter.next_event(), h11.Request)
    theirs = b""
    while isinstance(event := arbiter.next_event(), h11.Data):
        theirs += event.data
    assert theirs == payload
    if not done:
        assert event is h11.NEED_DATA
        return
    assert isinstance(event, h11.EndOfMessage)
    assert arbiter.trailing_data[0] == excess
    read_from_ours = [
        (name.lower(), value.strip(b" \t"))
        for name, _, value in (line.partition(b":") for line in trailers.split(b"\r\n")[:-1])
    ]
    assert [trailer for trailer in event.headers if trailer[0] != b"via"] == read_from_ours


@given(st.lists(st.binary(max_size=300), max_size=6), st.sampled_from([b"", b"X: y\r\n"]), st.binary(max_size=9))
def test_what_is_written_is_read(pieces: list[bytes], trailers: bytes, excess: bytes):
    data = b"".join(map(as_chunk, pieces)) + last_chunk(trailers) + excess
    assert read(ChunkedBody(60, 100, MalformedRequest), [data]) == (b"".join(pieces), True, excess, trailers)


@given(st.integers(0, 50), st.binary(max_size=60), st.lists(st.integers(0, 60), max_size=6))
def test_a_length_parts_body_from_excess_wherever_the_stream_is_cut(length: int, data: bytes, cuts: list[int]):
    assert read(LengthBody(length), cut(data, cuts)) == (data[:length], len(data) >= length, data[length:], b"")
