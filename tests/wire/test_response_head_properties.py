"""Any bytes end in a documented outcome, which depends on the bytes alone; the plain reader and h11 mean the same."""

from __future__ import annotations

import re
from itertools import pairwise

import h11
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.parsing import outcome, outcome_in_pieces

from egressproxy.errors import UpstreamProtocolError
from egressproxy.wire import response_head
from egressproxy.wire.body import last_chunk
from egressproxy.wire.request_head import HeadLimits
from egressproxy.wire.response_head import (
    ResponseFields,
    ResponseHead,
    body_is_forbidden,
    parse_response_head,
    response_fields,
)

ROOMY = HeadLimits(16_384, 100, 1)
NGINX = (
    b"HTTP/1.1 200 OK\r\nServer: nginx/1.22.1\r\nDate: Sat, 28 Nov 2026 06:00:00 GMT\r\nContent-Type: text/html\r\n"
    b"Content-Length: 5\r\nConnection: keep-alive\r\n\r\n"
)

versions = st.sampled_from([b"HTTP/1.1"] * 8 + [b"HTTP/1.0"] * 3 + [b"HTTP/1.2", b"HTTP/2", b"http/1.1", b""])
statuses = st.sampled_from(b"200|200|200|404|204|304|100|101|103|599|600|099|20|2000|2x0|".split(b"|"))
reasons = st.sampled_from([b" OK"] * 4 + [b"", b" ", b" Not Found", b" \xe9", b"\t", b" a\0", b"  x"])
names = st.sampled_from(
    b"Content-Length|content-length|Transfer-Encoding|Connection|Upgrade|Via|Trailer|Set-Cookie|X|X | X||X\xe9".split(
        b"|"
    )
)
values = st.one_of(
    st.sampled_from(
        b"0|5|5, 5|+5|chunked|Chunked|gzip, chunked|close|keep-alive|upgrade|x, close|a b|| \t".split(b"|")
    ),
    st.text(st.characters(max_codepoint=0xFF), max_size=20).map(lambda text: text.encode("latin-1")),
)
separators = st.sampled_from([b": "] * 6 + [b":", b":\t", b" : ", b""])
line_ends = st.sampled_from([b"\r\n"] * 40 + [b"\n", b"\r", b"\r\r\n", b"\r\n ", b"\n\r", b"\0"])
usual = st.sampled_from(
    [b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"Connection: close\r\n", b"X: y\r\n", b"X:\r\n"]
)
lines = st.one_of(usual, st.builds(lambda *parts: b"".join(parts), names, separators, values, line_ends))


@st.composite
def built(draw: st.DrawFn) -> bytes:
    line = draw(versions) + b" " + draw(statuses) + draw(reasons) + draw(line_ends)
    return (
        line + b"".join(draw(st.lists(lines, max_size=5))) + draw(line_ends) + draw(st.sampled_from([b"", b"body\0"]))
    )


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    data = bytearray(draw(st.one_of(built(), st.just(NGINX))))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(data)))
        piece = draw(st.one_of(st.sampled_from([b"", b"\r", b"\n", b"\r\n", b" ", b":", b"\0"]), st.binary(max_size=2)))
        data[at : at + draw(st.integers(0, 2))] = piece
    return bytes(data)


heads = st.one_of(built(), mutated(), st.binary(max_size=100))
limits = st.one_of(st.just(ROOMY), st.builds(HeadLimits, st.integers(1, 200), st.integers(0, 5), st.just(1)))


@given(heads, limits, st.lists(st.integers(0, 300), max_size=8))
@settings(max_examples=200, deadline=None)
def test_any_bytes_end_in_a_documented_outcome_that_no_split_changes(data: bytes, limits: HeadLimits, cuts: list[int]):
    def parse(received: bytes) -> ResponseHead | None:
        return parse_response_head(received, limits)

    whole = outcome(parse, data)
    assert whole is None or isinstance(whole, ResponseHead) or whole is UpstreamProtocolError
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    assert outcome_in_pieces(parse, [data[start:end] for start, end in pairwise(edges)]) == whole
    assert outcome_in_pieces(parse, [data[i : i + 1] for i in range(len(data))]) == whole
    if isinstance(whole, ResponseHead):
        assert all(parse(data[:cut]) is None for cut in range(whole.length))


@given(heads, limits)
@settings(max_examples=200, deadline=None)
@example(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX: \xe9\r\n\r\n", ROOMY)
@example(b"HTTP/1.1 101 \r\ntransfer-encoding:CHUNKED\r\n\r\n", ROOMY)
def test_what_the_plain_reader_accepts_the_strict_one_accepts_with_the_same_meaning(data: bytes, limits: HeadLimits):
    head = outcome(lambda received: parse_response_head(received, limits), data)
    assert head == outcome(lambda received: response_head._parse_strictly(received, limits), data)


@given(heads, st.sampled_from(["GET", "HEAD"]))
@settings(max_examples=200, deadline=None)
@example(NGINX, "GET")
@example(NGINX, "HEAD")
@example(b"HTTP/1.1 404 \r\nTransfer-Encoding: chunked\r\nConnection: x, close\r\n\r\n", "GET")
@example(b"HTTP/1.1 304 \r\nContent-Length: 5\r\n\r\n", "GET")
def test_h11_reads_the_same_head_and_the_same_body(data: bytes, method: str):
    head = outcome(lambda received: parse_response_head(received, ROOMY), data)
    if not isinstance(head, ResponseHead):
        return
    raw_lines = data[: head.length].split(b"\r\n")
    assert not any(re.search(rb"[\x00-\x08\x0a-\x1f\x7f]", line) for line in raw_lines)
    assert not any(line[:1] in (b" ", b"\t") for line in raw_lines)

    arbiter = h11.Connection(h11.CLIENT)
    arbiter.send(
        h11.Request(method=method, target="/", headers=[("Host", "a"), ("Upgrade", "x"), ("Connection", "upgrade")])
    )
    arbiter.send(h11.EndOfMessage())
    arbiter.receive_data(data[: head.length])
    response = arbiter.next_event()
    assert isinstance(response, h11.Response | h11.InformationalResponse)
    assert (response.status_code, response.reason.decode("latin-1"), response.http_version.decode()) == head[:3]

    fields = outcome(lambda _: response_fields(head), data)
    if not isinstance(fields, ResponseFields):
        assert fields is UpstreamProtocolError
        return
    named = {
        option.strip().lower()
        for name, value in response.headers
        if name == b"connection"
        for option in value.split(b",")
    }
    per_hop = {b"content-length", b"transfer-encoding", b"connection", b"upgrade", b"via"} | named
    assert fields.forward == b"".join(
        line + b"\r\n" for line in raw_lines[1:-2] if line.partition(b":")[0].lower() not in per_hop
    )
    if isinstance(response, h11.InformationalResponse):
        assert not fields.chunked
        assert not fields.length
        return
    forbidden = body_is_forbidden(method, head.status)
    until_closed = not (forbidden or fields.chunked or fields.length is not None)
    if not forbidden:
        body = last_chunk(b"") if fields.chunked else b"x" * (20 if until_closed else min(fields.length or 0, 20))
        if body:
            assert arbiter.next_event() is h11.NEED_DATA
        arbiter.receive_data(body)
    if until_closed:
        arbiter.receive_data(b"")
    event = arbiter.next_event()
    if isinstance(event, h11.Data):
        event = arbiter.next_event()
    assert isinstance(event, h11.EndOfMessage)
    if head.http_version == "1.1" and not until_closed:
        assert fields.keep_alive == (arbiter.their_state is not h11.MUST_CLOSE)
