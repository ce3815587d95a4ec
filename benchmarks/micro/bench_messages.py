"""What does it cost to read the messages of plain HTTP: heads with what their fields mean, targets, and chunked bodies?

python benchmarks/micro/bench_messages.py
"""

from __future__ import annotations

import sys
import timeit
from collections.abc import Callable
from pathlib import Path

from egressproxy.errors import UpstreamProtocolError
from egressproxy.wire.body import ChunkedBody, LengthBody, as_chunk, last_chunk
from egressproxy.wire.request_fields import RequestFields, request_fields
from egressproxy.wire.request_head import HeadLimits, parse_request_head
from egressproxy.wire.request_target import HttpTarget, parse_http_target
from egressproxy.wire.response_head import ResponseFields, parse_response_head, response_fields

HEADS = Path(__file__).parents[2] / "tests" / "data" / "request_heads"
LIMITS = HeadLimits(max_bytes=16_384, max_headers=100, max_target_bytes=8192)

# As these programs send them through a proxy, the host aside.
REQUESTS = {
    "GET, curl (4 fields)": (HEADS / "curl-plain-http.http").read_bytes(),
    "GET, requests (5 fields)": (
        b"GET http://a.example/x HTTP/1.1\r\nHost: a.example\r\nUser-Agent: python-requests/2.32.3\r\n"
        b"Accept-Encoding: gzip, deflate\r\nAccept: */*\r\nConnection: keep-alive\r\n\r\n"
    ),
    "GET, Go (7 fields)": (
        b"GET http://a.example/x HTTP/1.1\r\nHost: a.example\r\nUser-Agent: Go-http-client/1.1\r\n"
        b"Authorization: Bearer 0123456789abcdef0123456789abcdef\r\nTraceparent: 00-0af7651916cd43dd8448eb211c80319c-"
        b"b7ad6b7169203331-01\r\nX-Tenant: blue\r\nAccept-Encoding: gzip\r\nX-Request-Id: 6f1c\r\n\r\n"
    ),
    "POST, a length (7 fields)": (
        b"POST http://a.example/x HTTP/1.1\r\nHost: a.example\r\nUser-Agent: python-requests/2.32.3\r\n"
        b"Accept-Encoding: gzip, deflate\r\nAccept: */*\r\nConnection: keep-alive\r\nContent-Length: 17\r\n"
        b"Content-Type: application/json\r\n\r\n"
    ),
    "GET, two lengths (h11)": b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\ncontent-length: 5\r\n\r\n",
}
RESPONSE = (
    b"HTTP/1.1 200 OK\r\nServer: nginx/1.22.1\r\nDate: Sat, 28 Nov 2026 06:00:00 GMT\r\nContent-Type: text/html\r\n"
    b"Content-Length: 615\r\nLast-Modified: Tue, 04 Dec 2025 14:00:00 GMT\r\nConnection: keep-alive\r\n"
    b'ETag: "65a0-267"\r\nAccept-Ranges: bytes\r\n\r\n'
)
RESPONSES = {
    "200, nginx (8 fields)": RESPONSE,
    "200, chunked (8 fields)": RESPONSE.replace(b"Content-Length: 615", b"Transfer-Encoding: chunked"),
    "304 (1 field)": b"HTTP/1.1 304 Not Modified\r\nDate: Sat, 28 Nov 2026 06:00:00 GMT\r\n\r\n",
    "200, no reason phrase (h11)": RESPONSE.replace(b" OK", b""),
}
SMALL = b"x" * 200
LARGE = b"x" * 65_536


def microseconds(call: Callable[[], object]) -> float:
    """Of one call, the best of many rounds: on a shared machine, most of them are disturbed."""
    return min(timeit.repeat(call, repeat=1_000, number=50)) / 50 * 1e6


def read_request(data: bytes) -> RequestFields:
    head = parse_request_head(data, LIMITS)
    assert head is not None
    return request_fields(head)


def read_response(data: bytes) -> ResponseFields:
    head = parse_response_head(data, LIMITS)
    assert head is not None
    return response_fields(head)


def read_chunks(pieces: list[bytes]) -> bytes:
    body = ChunkedBody(16_384, 100, UpstreamProtocolError)
    payload = b"".join([body.take(piece) for piece in pieces])
    assert body.done
    return payload


def read_length(piece: bytes) -> bytes:
    body = LengthBody(len(piece))
    payload = body.take(piece)
    assert body.done
    return payload


def report(what: str, call: Callable[[], object]) -> None:
    print(f"{what:50} {microseconds(call):8.2f} µs")


def main() -> None:
    """Check every answer, then time it."""
    print(f"Python {sys.version.split()[0]}")
    for name, data in REQUESTS.items():
        head = parse_request_head(data, LIMITS)
        assert head is not None
        assert head.length == len(data)
        report(f"{name}: the head", lambda data=data: parse_request_head(data, LIMITS))
        if "h11" not in name:
            assert read_request(data).host
            report(f"{name}: and its fields", lambda data=data: read_request(data))
    for target in ("/x?y=z", "http://a.example/x?y=z"):
        assert parse_http_target("GET", target) == HttpTarget("a.example" if "a" in target else None, "/x?y=z")
        report(f"target {target}", lambda target=target: parse_http_target("GET", target))
    for name, data in RESPONSES.items():
        assert read_response(data).has_date
        report(f"{name}: the head", lambda data=data: parse_response_head(data, LIMITS))
        report(f"{name}: and its fields", lambda data=data: read_response(data))
    once, often = as_chunk(SMALL) + last_chunk(b""), as_chunk(SMALL) * 100 + last_chunk(b"")
    for name, pieces, payload in (
        ("one chunk of 200 bytes", [once], SMALL),
        ("one chunk of 200 bytes, octet by octet", [once[i : i + 1] for i in range(len(once))], SMALL),
        ("one chunk of 200 bytes, with a trailer", [as_chunk(SMALL) + last_chunk(b"X-Sum: 0123\r\n")], SMALL),
        ("100 chunks of 200 bytes in one read", [often], SMALL * 100),
        ("a chunk of 64 KiB in four reads", [*_quarters(as_chunk(LARGE)), last_chunk(b"")], LARGE),
    ):
        assert read_chunks(pieces) == payload
        report(name, lambda pieces=pieces: read_chunks(pieces))
    assert read_length(LARGE) == LARGE
    report("a body of 64 KiB by its length", lambda: read_length(LARGE))


def _quarters(data: bytes) -> list[bytes]:
    step = len(data) // 4 + 1
    return [data[at : at + step] for at in range(0, len(data), step)]


if __name__ == "__main__":
    main()
