"""Any bytes end in a documented outcome, which depends on the bytes alone; the plain reader and h11 mean the same."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import h11
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.parsing import outcome, outcome_in_pieces

from egressproxy.errors import HeadTooLarge, MalformedRequest, TargetTooLong
from egressproxy.wire import request_head
from egressproxy.wire.request_head import HeadLimits, RequestHead, parse_request_head

DOCUMENTED = (MalformedRequest, HeadTooLarge, TargetTooLong)
ROOMY = HeadLimits(16_384, 100, 8192)
CAPTURES = [
    path.read_bytes() for path in sorted((Path(__file__).parent.parent / "data" / "request_heads").glob("*.http"))
]

methods = st.sampled_from(
    [b"CONNECT"] * 8 + [b"GET"] * 6 + [b"POST"] * 3 + [b"connect", b"PRI", b"", b"CON NECT", b"M-SEARCH"]
)
targets = st.one_of(
    st.sampled_from(
        [b"a.example:443", b"[2001:db8::1]:443", b"http://a.example/", b"/x?y", b"*", b"", b"a b", b"\xff"]
    ),
    st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=80).map(str.encode),
)
versions = st.sampled_from([b"HTTP/1.1"] * 6 + [b"HTTP/1.0"] * 4 + [b"HTTP/1.2", b"HTTP/2.0", b"http/1.1", b""])
names = st.sampled_from(
    b"Host|host|hOsT|Hostess|User-Agent|Proxy-Connection|Proxy-Authorization|Accept|X|Upgrade|Content-Length"
    b"|Transfer-Encoding|TE|Connection|Expect|X | X||X\xe9".split(b"|")
)
values = st.one_of(
    st.sampled_from(
        [b"a.example:443", b"0", b"5", b"0, 0", b"chunked", b"close", b"", b" \t", b"100-continue", b"a b"]
    ),
    st.text(st.characters(max_codepoint=0xFF), max_size=30).map(lambda text: text.encode("latin-1")),
)
separators = st.sampled_from([b": "] * 6 + [b":", b":\t", b" : ", b""])
line_ends = st.sampled_from([b"\r\n"] * 30 + [b"\n", b"\r", b"\r\r\n", b"\r\n ", b"\n\r", b"\0"])
usual_field = st.sampled_from(
    [
        b"Host: a.example:443\r\n",
        b"Host: a\r\n",
        b"User-Agent: curl/8.0\r\n",
        b"Accept: */*\r\n",
        b"Accept-Charset: \xe9\r\n",
        b"X:\r\n",
        b"x:  y \r\n",
        b"Content-Length: 5\r\n",
        b"transfer-encoding: Chunked\r\n",
    ]
)
fields = st.one_of(usual_field, st.builds(lambda *parts: b"".join(parts), names, separators, values, line_ends))


@st.composite
def built(draw: st.DrawFn) -> bytes:
    start = draw(st.sampled_from([b""] * 10 + [b"\r\n", b"\n", b"\r\n\r\n"]))
    line = b" ".join([draw(methods), draw(targets), draw(versions)]) + draw(line_ends)
    lines = b"".join(draw(st.lists(fields, max_size=6)))
    return (
        start
        + line
        + lines
        + draw(line_ends)
        + draw(st.sampled_from([b"", b"\x16\x03\x01", b"GET / HTTP/1.1\r\n\r\n"]))
    )


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    data = bytearray(draw(st.one_of(built(), st.sampled_from(CAPTURES))))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(data)))
        piece = draw(
            st.one_of(
                st.sampled_from([b"", b"\r", b"\n", b"\r\n", b" ", b":", b"\0", b"Host: b\r\n"]), st.binary(max_size=2)
            )
        )
        data[at : at + draw(st.integers(0, 2))] = piece
    return bytes(data)


@st.composite
def tidy(draw: st.DrawFn) -> bytes:
    """What the plain reader may take: lines in order, of fields that clients send, some of them too often."""
    method, target = (
        draw(st.sampled_from([b"GET", b"POST", b"CONNECT"])),
        draw(st.sampled_from([b"/x?y", b"http://a/"])),
    )
    lines = draw(st.lists(usual_field, max_size=5))
    return (
        method + b" " + target + draw(st.sampled_from([b" HTTP/1.1\r\n", b" HTTP/1.0\r\n"])) + b"".join(lines) + b"\r\n"
    )


heads = st.one_of(tidy(), mutated(), st.binary(max_size=60))
limits = st.one_of(
    st.just(ROOMY), st.builds(HeadLimits, st.integers(1, 200), st.integers(0, 5), st.integers(1, 60))
)  # fmt: skip


@given(heads, limits)
def test_any_bytes_end_in_a_documented_outcome(data: bytes, limits: HeadLimits):
    result = outcome(lambda received: parse_request_head(received, limits), data)
    assert result is None or isinstance(result, RequestHead) or result in DOCUMENTED


@given(heads, limits, st.lists(st.integers(0, 300), max_size=8))
@settings(max_examples=300, deadline=None)
def test_any_split_gives_the_same_answer(data: bytes, limits: HeadLimits, cuts: list[int]):
    def parse(received: bytes) -> RequestHead | None:
        return parse_request_head(received, limits)

    whole = outcome(parse, data)
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    assert outcome_in_pieces(parse, [data[start:end] for start, end in pairwise(edges)]) == whole
    assert outcome_in_pieces(parse, [data[i : i + 1] for i in range(len(data))]) == whole


@given(heads)
@settings(max_examples=300, deadline=None)
def test_a_cut_head_is_never_an_answer(data: bytes):
    head = outcome(lambda received: parse_request_head(received, ROOMY), data)
    if isinstance(head, RequestHead):
        assert all(parse_request_head(data[:cut], ROOMY) is None for cut in range(head.length))


@given(heads, limits)
@settings(max_examples=500, deadline=None)
@example(b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\nX:\t \r\n\r\n", ROOMY)
@example(b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nX:\t \xe9\r\n\r\n", ROOMY)
@example(b"GET / HTTP/1.1\r\nContent-Length: 5\r\nHost: a\r\nContent-Length: 6\r\n\r\n", ROOMY)
@example(b"GET / HTTP/1.0\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", ROOMY)
def test_what_the_plain_reader_accepts_the_strict_one_accepts_with_the_same_meaning(data: bytes, limits: HeadLimits):
    head = outcome(lambda received: parse_request_head(received, limits), data)
    strict = outcome(lambda received: request_head._parse_strictly(received, limits), data)
    assert head == strict


@given(heads)
@settings(max_examples=500, deadline=None)
def test_what_is_accepted_h11_accepts_with_the_same_meaning_and_has_no_octet_out_of_place(data: bytes):
    head = outcome(lambda received: parse_request_head(received, ROOMY), data)
    if not isinstance(head, RequestHead):
        return
    arbiter = h11.Connection(h11.SERVER)
    arbiter.receive_data(data[: head.length].removeprefix(b"\r\n"))
    request = arbiter.next_event()
    assert isinstance(request, h11.Request)
    assert request.method == head.method.encode()
    assert request.target == head.target.encode()
    assert request.http_version == head.http_version.encode()
    ours = [(name.encode(), value.encode("latin-1")) for name, value in head.headers()]
    framing = {b"content-length", b"transfer-encoding"}  # h11 rewrites them: duplicates merged, lower case
    assert [field for field in ours if field[0] not in framing] == [
        field for field in request.headers if field[0] not in framing
    ]
    if head.method == "CONNECT":
        assert not any(name == b"transfer-encoding" for name, _ in ours)
        assert all(set(value) <= set(b"0, ") for name, value in ours if name == b"content-length")
    lines = data[: head.length].split(b"\r\n")
    assert not any(re.search(rb"[\x00-\x08\x0a-\x1f\x7f]", line) for line in lines)
    assert not any(line[:1] in (b" ", b"\t") for line in lines)
