"""Write the replies of the proxy itself: one that opens a tunnel, and refusals.

curl, Go, Python and Java show their user nothing of a refused CONNECT but the status line. So the cause stands in the
reason phrase, where people see it; in Proxy-Status (RFC 9209), where programs find it; and in the body, with what to do
next. It begins with the error's slug everywhere.

An error's message may quote what a client or an origin sent. Nothing of it leaves unescaped: the head is printable
ASCII whatever the message holds, strings are quoted as RFC 9651 has it, and the body is escaped for HTML.

There is no Date field: RFC 9110 section 6.6.1 allows that where there is no clock, and nothing here may be cached.
"""

from __future__ import annotations

import html
import re

from egressproxy.errors import (
    ClientError,
    EgressError,
    PolicyError,
    ProxyError,
    UpstreamError,
    UpstreamProtocolError,
    UpstreamTimeout,
    UpstreamTlsError,
)

ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"
"""Opens a tunnel. Byte for byte as Squid sends it: its length, 39, is part of the sizes in Squid's log."""

ALLOWED_METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
"""What an OPTIONS that may go no further is told: methods that are handed on as they are, where a rule lets them."""

CONTENT_TYPE = "text/html"
"""The media type of a refusal, as the access log writes it. HTML as Squid's: readers of its log count on that."""

PROXY_NAME = "egressproxy"
"""How Proxy-Status names this intermediary (RFC 9209 section 2)."""

MAX_CAUSE_CHARS = 200
"""The cause in a reply is cut here: enough for a reason and most names, short enough for every client's status line."""

MAX_TEXT_CHARS = 1000
"""And in the body, which has room for what to do about it."""

# Every status of the error tree. RFC 9110 section 15, RFC 6585 (431), RFC 5842 (508).
_REASON_PHRASES = {
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    408: "Request Timeout",
    413: "Content Too Large",
    414: "URI Too Long",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    501: "Not Implemented",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Timeout",
    508: "Loop Detected",
}

_NEXT_STEPS: tuple[tuple[type[EgressError], str], ...] = (
    (ClientError, "The proxy cannot serve this request. Check the proxy settings of the program that sent it."),
    (
        PolicyError,
        "The proxy does not let this through. Ask its operator: `egressproxy explain CONFIG --to HOST:PORT`, or `--to URL` "
        "for plain HTTP, tells which rule decides.",
    ),
    (
        UpstreamTlsError,
        "The proxy lets this through, and cannot speak TLS with it as it should. The certificate there, or the `tls` settings "
        "of the service here, have to change.",
    ),
    (
        UpstreamProtocolError,
        "The proxy lets this through, and the answer cannot be handed on: it is not HTTP as it should be. Tell the operator of "
        "the service.",
    ),
    (
        UpstreamError,
        "The proxy lets this through but cannot reach it. Try again later, or ask the operator of the proxy to look at "
        "name resolution and routes there.",
    ),
    (ProxyError, "The proxy itself cannot serve this now. Try again later, or tell its operator."),
)

_NOT_PRINTABLE = re.compile(r"[^ -~]")


def own_options(*, keep_alive: bool) -> bytes:
    """The whole reply to an OPTIONS whose last recipient is the proxy (RFC 9110 sections 7.6.2 and 9.3.7)."""
    connection = "keep-alive" if keep_alive else "close"
    return (
        f"HTTP/1.1 200 OK\r\nAllow: {ALLOWED_METHODS}\r\nContent-Length: 0\r\nConnection: {connection}\r\n\r\n".encode()
    )


def refusal(
    error: EgressError,
    *,
    status: int | None = None,
    has_body: bool = True,
    body_is_sent: bool = True,
    keep_alive: bool = False,
) -> bytes:
    """The whole reply to a request that ends in `error`.

    status        another one than the error's own
    has_body      False: the body is empty
    body_is_sent  False: as a HEAD is answered, with the length of the body and without it (RFC 9110 section 9.3.2)
    keep_alive    the connection is not closed behind it

    Raises ValueError for an error whose `status` is None: there is nobody left to answer.
    """
    status = status or error.status
    if status is None:
        raise ValueError(f"{error.slug} has no HTTP status: the client can no longer be answered")
    phrase = _REASON_PHRASES[status]
    cause = _cause(error, MAX_CAUSE_CHARS)
    if not has_body:
        body = content = ""
    elif isinstance(error, UpstreamTimeout):  # Envoy's words, which people look for
        body, content = "upstream request timeout", "Content-Type: text/plain\r\n"
    else:
        next_step = next(text for kind, text in _NEXT_STEPS if isinstance(error, kind))
        body = (
            f"<!DOCTYPE html>\n<title>{status} {phrase}</title>\n"
            f"<p>{PROXY_NAME}: {html.escape(_cause(error, MAX_TEXT_CHARS), quote=False)}</p>\n<p>{next_step}</p>\n"
        )
        content = f"Content-Type: {CONTENT_TYPE}; charset=utf-8\r\n"
    return (
        f"HTTP/1.1 {status} {phrase}: {cause}\r\n"
        f"Proxy-Status: {PROXY_NAME}; error={error.proxy_status}; details={_quoted(cause)}\r\n"
        f"{content}"
        f"Content-Length: {len(body)}\r\n"
        "Cache-Control: no-store\r\n"
        f"Connection: {'keep-alive' if keep_alive else 'close'}\r\n"
        f"\r\n{body if body_is_sent else ''}"
    ).encode("ascii")


def page_reply(text: str) -> tuple[bytes, bytes]:
    """Head and body of a page of the proxy's own, behind which the connection is closed."""
    body = text.encode()
    head = (
        "HTTP/1.1 200 OK\r\n"
        "Content-Type: text/plain; charset=utf-8\r\n"
        f"Content-Length: {len(body)}\r\n"
        "Cache-Control: no-store\r\n"
        "Connection: close\r\n\r\n"
    )
    return head.encode("ascii"), body


def _cause(error: EgressError, longest: int) -> str:
    """`slug: message`, at most so many characters, everything but printable ASCII written as a Python escape."""
    message = str(error)
    cause = f"{error.slug}: {message[:longest]}" if message else error.slug
    cause = _NOT_PRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), cause)
    return cause if len(cause) <= longest else f"{cause[: longest - 3]}..."


def _quoted(text: str) -> str:
    """A string of RFC 9651 section 3.3.3, of printable ASCII."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
