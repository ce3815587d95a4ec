"""Write the heads of messages that are handed on: a client's request to an origin, an origin's response to a client.

What is from end to end goes on as it was sent. What is about one connection is written anew for the next (RFC 9110 section
7.6.1), framing included, so that what was judged on the one side is what is said on the other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

    from egressproxy.wire.request import Request
    from egressproxy.wire.response_head import ResponseFields, ResponseHead

MAX_HOPS = 32
"""Entries of Via that a request may bring. More is a loop that does not know itself."""


def request_head(request: Request, forward: bytes, added: str) -> bytes:
    """The head of a request in origin-form (RFC 9112 section 3.2.1), always in HTTP/1.1.

    forward  end-to-end field lines
    added    field lines of the proxy's own; ASCII or ISO-8859-1
    """
    method, path, authority, _, fields = request
    lines = added
    if fields.chunked:
        lines += "Transfer-Encoding: chunked\r\n"
    elif fields.length is not None:
        lines += f"Content-Length: {fields.length}\r\n"
    if fields.max_forwards is not None:  # RFC 9110 section 7.6.2: one with 0 is not forwarded
        lines += f"Max-Forwards: {fields.max_forwards - 1}\r\n"
    if fields.expects_continue:
        lines += "Expect: 100-continue\r\n"
    if fields.upgrade is not None:
        lines += f"Connection: Upgrade\r\nUpgrade: {fields.upgrade}\r\n"
    elif fields.accepts_trailers:
        lines += "Connection: TE\r\nTE: trailers\r\n"
    return (
        f"{method} {path} HTTP/1.1\r\nHost: {authority}\r\n".encode("latin-1")
        + forward
        + f"{lines}\r\n".encode("latin-1")
    )


def response_head(
    head: ResponseHead, fields: ResponseFields, added: str, *, chunked: bool, length: int | None, connection: str
) -> bytes:
    """The head of a response, in HTTP/1.1 whatever the client speaks (RFC 9110 section 2.5).

    added       field lines of the proxy's own
    chunked     the body goes on in the chunked coding
    length      Content-Length, where there is one to be sent
    connection  value of the Connection field; empty: none
    """
    lines = added
    if length is not None:
        lines += f"Content-Length: {length}\r\n"
    elif chunked:
        lines += "Transfer-Encoding: chunked\r\n"
    if connection:
        lines += f"Connection: {connection}\r\n"
    return (
        f"HTTP/1.1 {head.status} {head.reason}\r\n".encode("latin-1")
        + fields.forward
        + f"{lines}\r\n".encode("latin-1")
    )


def without(lines: bytes, names: Collection[bytes]) -> bytes:
    """Field lines, but none of these names (in lower case), nor with underscores for hyphens: to CGI they are the same."""
    return b"".join(
        line
        for line in lines.splitlines(keepends=True)
        if line.partition(b":")[0].lower().replace(b"_", b"-") not in names
    )


def via(before: str | None, http_version: str, name: str) -> str:
    """The Via line, with this proxy behind those before it (RFC 9110 section 7.6.3)."""
    return f"Via: {http_version} {name}\r\n" if before is None else f"Via: {before}, {http_version} {name}\r\n"


def has_passed(before: str | None, name: str) -> bool:
    """Whether a message that brings this Via has been here already, or everywhere."""
    if before is None:
        return False
    return before.count(",") >= MAX_HOPS or any(
        name in entry.split(" ") for entry in before.replace("\t", " ").split(",")
    )
