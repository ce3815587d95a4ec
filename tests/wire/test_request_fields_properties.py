"""Whatever is read from the fields of a request, h11 reads too; what goes on is a part of what came, and nothing per hop."""

from __future__ import annotations

import h11
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.parsing import outcome

from egressproxy.errors import MalformedRequest
from egressproxy.wire.body import last_chunk
from egressproxy.wire.request_fields import RequestFields, request_fields
from egressproxy.wire.request_head import HeadLimits, RequestHead, parse_request_head

ROOMY = HeadLimits(16_384, 100, 8192)
PER_HOP = (
    b"host content-length transfer-encoding expect connection proxy-connection keep-alive proxy-authorization"
    b" proxy-authenticate te upgrade via x-forwarded-for x-request-id".split()
)

names = st.sampled_from(
    b"Content-Length|content-length|Transfer-Encoding|Connection|connection|Proxy-Connection|Keep-Alive|Expect|Upgrade"
    b"|TE|Trailer|Via|X-Forwarded-For|X-Request-Id|User-Agent|Authorization|Proxy-Authorization|Cookie|X".split(b"|")
)
values = st.sampled_from(
    b"5|0|05|5, 5|+5|5 5|0x5|99999999999999999999|chunked|Chunked|gzip, chunked|identity|close|Close|keep-alive|upgrade"
    b"|keep-alive, upgrade|cookie, x|host|content-length|TE, close|,|a b|100-continue|100-Continue|websocket|trailers|"
    b"| \t x\t |\xe9".split(b"|")
)
usual = st.sampled_from(
    b"Content-Length: 5|content-length: 0|Transfer-Encoding: chunked|Connection: close|connection: Keep-Alive"
    b"|Connection: Upgrade|Upgrade: websocket|Connection: X, cookie|Expect: 100-continue|TE: trailers|Via: 1.1 a"
    b"|X: y|Cookie: a=b|User-Agent: curl/8.0|Proxy-Connection: close".split(b"|")
).map(lambda line: line + b"\r\n")
lines = st.one_of(usual, usual, st.builds(lambda name, value: name + b": " + value + b"\r\n", names, values))


@st.composite
def heads(draw: st.DrawFn) -> bytes:
    start = draw(st.sampled_from([b"POST / HTTP/1.1\r\n"] * 3 + [b"GET http://a/ HTTP/1.0\r\n"]))
    host = draw(st.sampled_from([b"Host: a\r\n"] * 8 + [b""]))
    before, behind = draw(st.lists(lines, max_size=3)), draw(st.lists(lines, max_size=5))
    return start + b"".join(before) + host + b"".join(behind) + b"\r\n"


def read(data: bytes) -> tuple[RequestHead, RequestFields] | None:
    """Head and fields where both are accepted; nothing but the documented error otherwise."""
    head = outcome(lambda received: parse_request_head(received, ROOMY), data)
    if not isinstance(head, RequestHead):
        assert head is MalformedRequest
        return None
    fields = outcome(lambda _: request_fields(head), data)
    if not isinstance(fields, RequestFields):
        assert fields is MalformedRequest
        return None
    return head, fields


@given(heads())
@settings(max_examples=200, deadline=None)
@example(b"POST / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
@example(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n")
def test_h11_reads_the_same_body_and_the_same_wishes(data: bytes):
    accepted = read(data)
    if accepted is None:
        return
    head, fields = accepted
    arbiter = h11.Connection(h11.SERVER)
    arbiter.receive_data(data)
    request = arbiter.next_event()
    assert isinstance(request, h11.Request)
    assert arbiter.client_is_waiting_for_100_continue == fields.expects_continue
    assert dict(request.headers).get(b"host") == (None if fields.host is None else fields.host.encode())

    body = last_chunk(b"") if fields.chunked else b"x" * min(fields.length or 0, 20)
    if body:
        assert arbiter.next_event() is h11.NEED_DATA
        arbiter.receive_data(body)
    event = arbiter.next_event()
    if isinstance(event, h11.Data):
        assert event.data == body
        event = arbiter.next_event()
    assert isinstance(event, h11.EndOfMessage)
    assert arbiter.trailing_data[0] == b""
    said = {name for name, _ in request.headers}
    # h11 knows no Proxy-Connection, leaves HTTP/1.0 to close, and with Upgrade waits for what the server does about it.
    if head.http_version == "1.1" and not said & {b"proxy-connection", b"upgrade"}:
        assert fields.keep_alive == (arbiter.their_state is not h11.MUST_CLOSE)


@given(heads())
@settings(max_examples=200, deadline=None)
def test_what_goes_on_is_what_came_without_what_is_per_hop(data: bytes):
    accepted = read(data)
    if accepted is None:
        return
    head, fields = accepted
    came = head.raw_headers.split(b"\r\n")[:-1]
    named = {
        option.strip().lower()
        for line in came
        if line.lower().startswith(b"connection:")
        for option in line[11:].split(b",")
    }
    expected = [line for line in came if (name := line.partition(b":")[0].lower()) not in PER_HOP and name not in named]
    assert fields.forward == b"".join(line + b"\r\n" for line in expected)
    assert request_fields(head._replace(raw_headers=fields.forward)).forward == fields.forward
