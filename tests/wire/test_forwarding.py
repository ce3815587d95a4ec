from __future__ import annotations

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from egressproxy.wire.forwarding import MAX_HOPS, has_passed, request_head, response_head, via, without
from egressproxy.wire.request import Request
from egressproxy.wire.request_fields import request_fields
from egressproxy.wire.request_head import HeadLimits, parse_request_head
from egressproxy.wire.response_head import parse_response_head, response_fields

LIMITS = HeadLimits(16_384, 100, 8192)


def request_of(head: bytes, path: str = "/", authority: str = "a.test") -> Request:
    read = parse_request_head(head, LIMITS)
    assert read is not None
    return Request(read.method, path, authority, read.http_version, request_fields(read))


def forwarded(head: bytes, added: str = "") -> bytes:
    request = request_of(head)
    return request_head(request, request.fields.forward, added)


def answered(
    head: bytes, added: str = "", *, chunked: bool = False, length: int | None = None, connection: str = ""
) -> bytes:
    read = parse_response_head(head, LIMITS)
    assert read is not None
    return response_head(read, response_fields(read), added, chunked=chunked, length=length, connection=connection)


def test_a_request_goes_on_in_origin_form_with_its_own_fields_and_ours():
    assert (
        forwarded(
            b"GET http://b.test/x HTTP/1.0\r\nHost: c.test\r\nX-One: 1\r\nConnection: x-two, keep-alive\r\nX-Two: 2\r\n"
            b"Proxy-Authorization: Basic eDp5\r\nx-three:3 \r\n\r\n",
            "Via: 1.0 me\r\n",
        )
        == b"GET / HTTP/1.1\r\nHost: a.test\r\nX-One: 1\r\nx-three:3 \r\nVia: 1.0 me\r\n\r\n"
    )


@pytest.mark.parametrize("method", [b"TRACE", b"OPTIONS"])
def test_max_forwards_is_counted_down(method):
    asked = method + b" / HTTP/1.1\r\nHost: a.test\r\nMax-Forwards: 010\r\n\r\n"
    assert forwarded(asked) == method + b" / HTTP/1.1\r\nHost: a.test\r\nMax-Forwards: 9\r\n\r\n"


@pytest.mark.parametrize(
    ("field", "written"),
    [
        (b"Content-Length: 007", b"Content-Length: 7"),  # one spelling, whoever reads it
        (b"transfer-encoding: Chunked", b"Transfer-Encoding: chunked"),
        (b"Content-Length: 5\r\nExpect: 100-continue", b"Content-Length: 5\r\nExpect: 100-continue"),
        (b"Connection: upgrade\r\nUpgrade: websocket", b"Connection: Upgrade\r\nUpgrade: websocket"),
        (b"Connection: TE\r\nTE: trailers, deflate;q=0.5", b"Connection: TE\r\nTE: trailers"),
    ],
)
def test_what_is_about_one_connection_is_written_anew(field, written):
    assert forwarded(b"POST / HTTP/1.1\r\nHost: a.test\r\n" + field + b"\r\n\r\n") == (
        b"POST / HTTP/1.1\r\nHost: a.test\r\n" + written + b"\r\n\r\n"
    )


@pytest.mark.parametrize(
    ("arguments", "written"),
    [
        ({"length": 3}, b"Content-Length: 3\r\n"),
        ({"length": 0, "connection": "close"}, b"Content-Length: 0\r\nConnection: close\r\n"),
        ({"chunked": True}, b"Transfer-Encoding: chunked\r\n"),
        ({"added": "Via: 1.1 me\r\n", "connection": "keep-alive"}, b"Via: 1.1 me\r\nConnection: keep-alive\r\n"),
    ],
)
def test_a_response_goes_on_with_its_own_fields_and_the_framing_that_is_chosen(arguments, written):
    head = b"HTTP/1.0 404 Nicht \xe4hnlich\r\nContent-Length: 9\r\nX: \xff\r\nConnection: close, y\r\nY: 1\r\n\r\n"
    assert answered(head, **arguments) == b"HTTP/1.1 404 Nicht \xe4hnlich\r\nX: \xff\r\n" + written + b"\r\n"


@given(
    st.lists(st.sampled_from([b"A: 1\r\n", b"b:2\r\n", b"AUTHORIZATION: x:y\r\n", b"c: Authorization\r\n"]), max_size=8)
)
def test_lines_of_given_names_are_left_out_and_all_others_stay(lines):
    kept = without(b"".join(lines), {b"authorization"})
    assert kept == b"".join(line for line in lines if not line.startswith(b"AUTH"))


def test_via_names_each_hop_and_the_protocol_it_was_spoken_to_in():
    assert via(None, "1.1", "me") == "Via: 1.1 me\r\n"
    assert via("1.0 fred, 1.1 p.example", "1.0", "me") == "Via: 1.0 fred, 1.1 p.example, 1.0 me\r\n"


@pytest.mark.parametrize(
    ("before", "loops"),
    [
        (None, False),
        ("1.1 other", False),
        ("1.1 me", True),
        ("1.0 fred,\t1.1 me (egress)", True),
        ("1.1 mean", False),  # another name
        (", ".join(["1.1 other"] * MAX_HOPS), False),
        (", ".join(["1.1 other"] * (MAX_HOPS + 1)), True),  # a loop of those who do not know themselves
    ],
)
def test_a_request_that_was_here_before_is_known(before, loops):
    assert has_passed(before, "me") is loops


@given(
    method=st.sampled_from(["GET", "POST", "OPTIONS"]),
    fields=st.lists(st.sampled_from([b"X: 1", b"Connection: close", b"TE: trailers", b"Via: 1.1 a", b"Cookie: b=c"])),
    framing=st.sampled_from([b"", b"Content-Length: 4\r\n", b"Transfer-Encoding: chunked\r\n"]),
)
def test_whatever_is_written_h11_reads_with_the_same_framing(method, fields, framing):
    head = (
        method.encode()
        + b" / HTTP/1.1\r\nHost: a.test\r\n"
        + b"".join(line + b"\r\n" for line in fields)
        + framing
        + b"\r\n"
    )
    arbiter = h11.Connection(h11.SERVER)
    arbiter.receive_data(forwarded(head))
    event = arbiter.next_event()
    assert isinstance(event, h11.Request)
    assert (event.method, event.target) == (method.encode(), b"/")
    found = dict(event.headers)
    assert (b"content-length" in found) == framing.startswith(b"Content")
    assert (b"transfer-encoding" in found) == framing.startswith(b"Transfer")
