"""The request and the answer that `requests` and `origination` are made of. RFC 9112; lengths only, nothing chunked.

Every answer is tied to its request: the body begins with the target that was asked for. A proxy that hands a client the answer
to somebody else's request is found out.
"""

from __future__ import annotations

from typing import NamedTuple

from benchmarks.support.errors import Refused, WrongAnswer

BODY_BYTES = 100
SEEN = "/seen"
"""Its body is the head of the request as the origin got it."""

_END = b"\r\n\r\n"
_FIELDS = (
    "User-Agent: python-requests/2.32.3\r\nAccept-Encoding: gzip, deflate\r\nAccept: */*\r\nConnection: keep-alive\r\n"
)
_ANSWER_FIELDS = (
    "Content-Type: application/json",
    "Connection: keep-alive",
    "Cache-Control: no-cache",
    "Vary: Accept-Encoding",
    'ETag: "65f0c1a2-64"',
)


class Exchange(NamedTuple):
    """One GET, and what has to come back.

    address  where to connect
    request  its head; there is nothing else
    body     of the answer
    """

    address: tuple[str, int]
    request: bytes
    body: bytes


def request(authority: str, target: str, *, absolute: bool) -> bytes:
    """A GET with the header fields that Python's requests sends. `absolute`: as it is sent to a proxy."""
    place = f"http://{authority}" if absolute else ""
    return f"GET {place}{target} HTTP/1.1\r\nHost: {authority}\r\n{_FIELDS}\r\n".encode()


def body(target: bytes) -> bytes:
    """What the origin answers to a target."""
    return target.ljust(BODY_BYTES, b".")


def answer_head(date: str, size: int) -> bytes:
    """The head of the origin's answer: eight header fields, as a service behind NGINX would send them."""
    fields = ("Server: nginx/1.22.1", f"Date: {date}", f"Content-Length: {size}", *_ANSWER_FIELDS)
    return "\r\n".join(("HTTP/1.1 200 OK", *fields, "\r\n")).encode()


def read_answer(data: bytes, expected: bytes | None) -> bytes | None:
    """The head, blank line included, of a complete and right answer; None when there is more to come.

    expected  the body; None: any. Raises Refused for a status that is not 200, WrongAnswer for all else that is wrong.
    """
    if data and not data.startswith(b"HTTP/1.1 200 "[: len(data)]):
        raise Refused(f"expected 'HTTP/1.1 200', got {data[:200]!r}", data)
    head, end, rest = data.partition(_END)
    if not end:
        return None
    lengths = [value for name, value in fields(head) if name == "content-length"]
    if len(lengths) != 1:
        raise WrongAnswer(f"expected one Content-Length, got {head!r}")
    if len(rest) < int(lengths[0]):
        return None
    if len(rest) > int(lengths[0]) or (expected is not None and rest != expected):
        raise WrongAnswer(f"expected the body {expected!r}, got {data!r}")
    return head + end


def fields(head: bytes) -> list[tuple[str, str]]:
    """The header fields, names in lower case."""
    lines = head.decode("latin-1").split("\r\n")[1:]
    return [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines if line)]
