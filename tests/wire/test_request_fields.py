"""What stays on this connection, what goes on, and which requests could be read in two ways and are refused."""

from __future__ import annotations

import pytest

from egressproxy.errors import MalformedRequest
from egressproxy.wire import request_fields as request_fields_module
from egressproxy.wire.request_fields import RequestFields, request_fields
from egressproxy.wire.request_head import HeadLimits, RequestHead, parse_request_head

LIMITS = HeadLimits(max_bytes=16_384, max_headers=100, max_target_bytes=8192)


def fields(*lines: bytes, version: str = "1.1") -> RequestFields:
    """What these field lines and a Host mean, in a request as the head parser gives it."""
    head = b"\r\n".join([b"POST http://a.example/ HTTP/" + version.encode(), b"Host: a.example", *lines, b"", b""])
    read = parse_request_head(head, LIMITS)
    assert read is not None
    return request_fields(read)


def raw(*lines: bytes, version: str = "1.1") -> RequestFields:
    """The same of lines that h11 may refuse before: this is for what is held here alone."""
    return request_fields(RequestHead("POST", "/", version, b"".join(line + b"\r\n" for line in lines), 0))


NOTHING = RequestFields("a.example", None, False, True, False, None, b"", None, None, None, None, False, False, None)


def test_what_curl_sends():
    read = fields(b"User-Agent: curl/7.88.1", b"Accept: */*", b"Proxy-Connection: Keep-Alive")
    assert read == NOTHING._replace(forward=b"User-Agent: curl/7.88.1\r\nAccept: */*\r\n", user_agent="curl/7.88.1")


@pytest.mark.parametrize(
    ("line", "changed"),
    [
        (b"Content-Length: 5", {"length": 5}),
        (b"content-length:0", {"length": 0}),
        (b"Transfer-Encoding: Chunked", {"chunked": True}),
        (b"Expect: 100-Continue", {"expects_continue": True}),
        (b"Expect:", {}),
        (b"Via: 1.1 a", {"via": "1.1 a"}),
        (b"Via:", {}),
        (b"X-Forwarded-For: 192.0.2.1", {"forwarded_for": "192.0.2.1"}),
        (b"X-Request-Id: abc", {"request_id": "abc"}),
        (b"X-Request-ID: \t", {}),
        (b"TE: trailers", {"accepts_trailers": True}),
        (b"TE: gzip;q=0.5,\tTrailers", {"accepts_trailers": True}),
        (b"TE: gzip", {}),
        (b"TE:", {}),
        (b"User-Agent: caf\xe9", {"user_agent": "café", "forward": b"User-Agent: caf\xe9\r\n"}),
        (b"User-Agent:", {"forward": b"User-Agent:\r\n"}),
        (b"Authorization: Basic x", {"authorization": True, "forward": b"Authorization: Basic x\r\n"}),
        (b"Connection: close", {"keep_alive": False}),
        (b"Connection: keep-alive", {}),
        (b"Connection:", {}),
        (b"Keep-Alive: timeout=5", {}),
        (b"Proxy-Connection: close", {"keep_alive": False}),
        (b"Proxy-Authorization: Basic c2VjcmV0", {}),
        (b"Proxy-Authenticate: Basic", {}),
        (b"Upgrade: websocket", {}),  # Connection does not name it: it was meant for another hop
        (b"Trailer: X-Sum", {"forward": b"Trailer: X-Sum\r\n"}),
        (b"X:  as \t sent \xff ", {"forward": b"X:  as \t sent \xff \r\n"}),
    ],
)
def test_one_field(line, changed):
    assert fields(line) == NOTHING._replace(**changed)
    name, _, value = line.partition(b":")
    shouted = fields(name.upper() + b":" + value)._replace(forward=b"")
    assert shouted == NOTHING._replace(**changed)._replace(forward=b"")


@pytest.mark.parametrize(
    ("version", "lines", "keep_alive"),
    [
        ("1.1", [], True),
        ("1.0", [], False),
        ("1.0", [b"Connection: Keep-Alive"], True),
        ("1.0", [b"Proxy-Connection: Keep-Alive"], True),
        ("1.0", [b"Connection: x", b"Proxy-Connection: Keep-Alive"], True),
        ("1.0", [b"Connection: close", b"Proxy-Connection: Keep-Alive"], False),
        ("1.1", [b"Connection: keep-alive", b"Proxy-Connection: close"], True),
        ("1.1", [b"Connection: TE", b"Proxy-Connection: close"], False),
        ("1.1", [b"Connection: keep-alive, close"], False),
        ("1.1", [b"Connection: keep-alive", b"Connection: Close"], False),
        ("1.1", [b"Proxy-Connection: keep-alive, close"], False),
        ("1.1", [b"Connection: closed"], True),
        ("1.1", [b"Proxy-Connection: closed"], True),
    ],
)
def test_whether_more_requests_follow(version, lines, keep_alive):
    assert fields(*lines, version=version).keep_alive is keep_alive


def test_a_field_that_connection_names_stays_here():
    read = fields(
        b"X-Mine: 1",
        b"Cookie: a",
        b"Connection: x-mine, Cookie",
        b"Authorization: b",
        b"x-MINE: 2",
        b"X-Mine-Too: 3",
        b"Connection: authorization",
    )
    assert read.forward == b"X-Mine-Too: 3\r\n"


def test_lines_that_go_on_keep_their_order_and_their_octets():
    read = fields(b"b: 1", b"A:2", b"Host-Name: x", b"b:\t3 ", b"Via: x", b"Accept: */*", b"a: 4")
    assert read.forward == b"b: 1\r\nA:2\r\nHost-Name: x\r\nb:\t3 \r\nAccept: */*\r\na: 4\r\n"


def test_lists_are_joined_and_other_fields_count_once():
    read = fields(
        b"Via: 1.1 a",
        b"X-Request-Id: one, and the same",
        b"X-Forwarded-For: 192.0.2.1",
        b"via: 1.0 b, 1.1 c",
        b"X-Forwarded-For: 192.0.2.2",
        b"X-Request-Id: two",
        b"User-Agent: a",
        b"User-Agent: b",
        b"TE: gzip",
        b"TE: trailers",
    )
    assert read.via == "1.1 a, 1.0 b, 1.1 c"
    assert read.forwarded_for == "192.0.2.1, 192.0.2.2"
    assert (read.request_id, read.user_agent) == ("one, and the same", "a")
    assert read.accepts_trailers


@pytest.mark.parametrize(
    ("version", "lines", "upgrade"),
    [
        ("1.1", [b"Connection: Upgrade", b"Upgrade: websocket"], "websocket"),
        ("1.1", [b"Connection: keep-alive, upgrade", b"Upgrade: a/1, b", b"Upgrade: WebSocket"], "WebSocket"),
        # what would be a way for requests that nobody judges
        ("1.1", [b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAAQ"], None),
        ("1.1", [b"Connection: Upgrade", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAAQ"], None),
        ("1.1", [b"Connection: Upgrade", b"Upgrade: TLS/1.3, HTTP/2.0"], None),
        ("1.1", [b"Connection: upgrade"], None),
        ("1.1", [b"Connection: upgrade", b"Upgrade:"], None),
        ("1.0", [b"Connection: upgrade", b"Upgrade: websocket"], None),  # RFC 9110 section 7.8
    ],
)
def test_an_upgrade_is_one_where_connection_says_so(version, lines, upgrade):
    read = fields(*lines, version=version)
    assert (read.upgrade, read.forward) == (upgrade, b"")


def test_in_http_1_0_an_expectation_means_nothing():
    assert not fields(b"Expect: 100-continue", version="1.0").expects_continue
    assert not fields(b"Expect: something", version="1.0").expects_continue


def test_http_1_0_may_name_no_host():
    assert raw(version="1.0").host is None
    assert raw(b"Host:", version="1.0").host == ""


REFUSED = {
    "a length beside a coding": ([b"Content-Length: 5", b"Transfer-Encoding: chunked"], "got both"),
    "a coding beside a length": ([b"Transfer-Encoding: chunked", b"Content-Length: 0"], "got both"),
    "an equal length again": ([b"Content-Length: 5", b"Content-Length: 5"], "one Content-Length"),
    "another length": ([b"Content-Length: 5", b"Content-Length: 6"], "one Content-Length"),
    "a list of lengths": ([b"Content-Length: 5, 5"], "one Content-Length"),
    "a length with a sign": ([b"Content-Length: +5"], "one Content-Length"),
    "two numbers": ([b"Content-Length: 5 5"], "one Content-Length"),
    "an empty length": ([b"Content-Length:"], "one Content-Length"),
    "twenty digits": ([b"Content-Length: " + b"0" * 20], "one Content-Length"),
    "chunked twice": ([b"Transfer-Encoding: chunked, chunked"], "one `chunked`"),
    "chunked in two lines": ([b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"], "one `chunked`"),
    "another coding": ([b"Transfer-Encoding: gzip, chunked"], "one `chunked`"),
    "identity": ([b"Transfer-Encoding: identity"], "one `chunked`"),
    "no coding": ([b"Transfer-Encoding:"], "one `chunked`"),
    "an unknown expectation": ([b"Expect: 200-ok"], "100-continue"),
    "two expectations": ([b"Expect: 100-continue, 100-continue"], "100-continue"),
    "an expectation in two lines": ([b"Expect: 100-continue", b"Expect: x"], "100-continue"),
    "Connection names Host": ([b"Connection: Host"], "named in Connection"),
    "Connection names the length": ([b"Connection: close, content-length"], "named in Connection"),
    "Connection names the coding": ([b"Connection: x", b"Connection: Transfer-Encoding"], "named in Connection"),
    "Connection is no list of tokens": ([b"Connection: a b"], "options in the Connection"),
}


@pytest.mark.parametrize(("lines", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_refuses_what_could_be_read_in_two_ways(lines, message):
    with pytest.raises(MalformedRequest) as caught:
        raw(b"Host: a", *lines)
    assert message in str(caught.value)
    assert str(caught.value).isprintable()
    with pytest.raises(MalformedRequest):
        fields(*lines)


def test_refuses_a_coding_in_http_1_0():
    with pytest.raises(MalformedRequest, match=r"in HTTP/1\.0"):
        fields(b"Transfer-Encoding: chunked", version="1.0")


def test_fields_that_were_read_before_are_not_read_again_but_for_what_may_be_a_credential():
    request_fields_module._kept.clear()
    for line in (
        "Authorization: Basic eDp5",
        "cookie: a=b",
        "X-Api-Key: 1",
        "Proxy-Authorization: x",
        "Accept: " + "x" * 2000,
    ):
        head = parse_request_head(f"GET / HTTP/1.1\r\nHost: a\r\n{line}\r\n\r\n".encode(), LIMITS)
        assert head is not None
        assert request_fields(head) == request_fields(head)
    assert not request_fields_module._kept
    for number in range(request_fields_module._KEPT + 5):
        head = parse_request_head(f"GET / HTTP/1.1\r\nHost: a{number}\r\n\r\n".encode(), LIMITS)
        assert head is not None
        assert request_fields(head) is request_fields(head)
        assert len(request_fields_module._kept) <= request_fields_module._KEPT


# --- Max-Forwards -------------------------------------------------------------------------------------------------


def of_method(method: str, *lines: bytes) -> RequestFields:
    return request_fields(RequestHead(method, "/", "1.1", b"".join(line + b"\r\n" for line in lines), 0))


@pytest.mark.parametrize("method", ["TRACE", "OPTIONS"])
@pytest.mark.parametrize(("value", "count"), [(b"0", 0), (b"1", 1), (b"007", 7), (b"9" * 19, 10**19 - 1)])
def test_max_forwards_counts_for_trace_and_options(method: str, value: bytes, count: int):
    read = of_method(method, b"X: 1", b"max-FORWARDS: " + value)
    assert (read.max_forwards, read.forward) == (count, b"X: 1\r\n")
    assert of_method(method, b"X: 1").max_forwards is None


@pytest.mark.parametrize("value", [b"", b"-1", b"+1", b"1.0", b"1, 1", b"one", b"1" * 20, b"\xb2"])
def test_max_forwards_that_is_no_number_is_refused_where_it_counts(value: bytes):
    for method in ("TRACE", "OPTIONS"):
        with pytest.raises(MalformedRequest, match="expected one Max-Forwards"):
            of_method(method, b"Max-Forwards: " + value)
    line = b"Max-Forwards: " + value
    read = of_method("GET", line)
    assert (read.max_forwards, read.forward) == (None, line + b"\r\n")


def test_max_forwards_that_is_repeated_is_no_number():
    with pytest.raises(MalformedRequest, match="got '1, 0'"):
        of_method("OPTIONS", b"Max-Forwards: 1", b"Max-Forwards: 0")


def test_fields_that_are_not_handed_on_do_not_go_with_underscores_either():
    """CGI has one name for both spellings, and the one that the proxy did not write would be taken for its own."""
    twins = (b"X_Forwarded_For: 192.0.2.1", b"x_forwarded-for: 192.0.2.1", b"X_Request_Id: 1", b"Content_Length: 5")
    read = fields(*twins, b"X_Mine: 1", b"User_Agent: a")
    assert read == NOTHING._replace(forward=b"X_Mine: 1\r\nUser_Agent: a\r\n")
