"""Read a request head: bytes to values, strictly by RFC 9112.

`parse_request_head` ends one of three ways, for any bytes:

1. it returns a RequestHead; what follows `length` bytes belongs to the tunnel;
2. it returns None: all is well so far, more is needed;
3. it raises MalformedRequest, HeadTooLarge or TargetTooLong.

The answer depends on the stream alone and never on how it was cut into reads: bytes are judged in the order in which
they arrive, so the first fault decides. A wrong octet is refused as soon as it is there, and nothing that comes later
changes an answer.

Two readers. The plain one is two regular expressions, for CONNECT and for all other methods, that accept well-formed
heads in the shapes real clients send, in a microsecond or two. It refuses nothing: whatever it does not match, or is
beyond a limit, goes to the strict one, which checks the octets itself (`field_lines` says why) and leaves the meaning
to h11.

Not here: what the target means (`hostport` for CONNECT, `request_target` for the others), which methods are served
(`frontends`), and what the fields of a method other than CONNECT mean, its body's framing among it (`request_fields`).
"""

from __future__ import annotations

import re
from typing import NamedTuple

import h11

from egressproxy.errors import MalformedRequest, TargetTooLong
from egressproxy.wire.field_lines import (
    CLIENT,
    PLAIN_FRAMING,
    TOKEN,
    await_more,
    end_of_fields,
    excerpt,
    octet,
    plain_fields,
)

MISSING_HOST = "expected a Host field that says where to, got none"
"""What a request without one is told (RFC 9112 section 3.2). Logs have a word of their own for it."""


class HeadLimits(NamedTuple):
    """What a head may take.

    max_bytes         from the first byte to the end of the empty line
    max_headers       field lines
    max_target_bytes  the request target alone
    """

    max_bytes: int
    max_headers: int
    max_target_bytes: int


class RequestHead(NamedTuple):
    """A complete and well-formed request head.

    method        as sent: methods are case-sensitive
    target        as sent: printable ASCII, not yet understood
    http_version  `1.0` or `1.1`
    raw_headers   the field lines, each with its CRLF; few requests need them apart
    length        bytes of the whole head, the empty line included
    """

    method: str
    target: str
    http_version: str
    raw_headers: bytes
    length: int

    def headers(self) -> tuple[tuple[str, str], ...]:
        """The fields in order as (name, value): names in lower case, values without surrounding white space.

        Octets beyond ASCII are read as ISO-8859-1 (RFC 9110 section 5.5 leaves them opaque).
        """
        fields = []
        for line in self.raw_headers.decode("latin-1").split("\r\n")[:-1]:
            name, _, value = line.partition(":")
            fields.append((name.lower(), value.strip(" \t")))
        return tuple(fields)


# --- the grammar, with that of field lines in `field_lines` -------------------------------------------------------

# RFC 9112 section 3: request-line = method SP request-target SP HTTP-version. All forms of target are visible ASCII.
_VISIBLE = rb"[!-~]++"
_REQUEST_LINE = re.compile(TOKEN + rb" (" + _VISIBLE + rb") HTTP/1\.[01]\r\n")
_METHOD = re.compile(TOKEN)
_TARGET = re.compile(_VISIBLE)
_VERSIONS = (b"HTTP/1.1\r\n", b"HTTP/1.0\r\n")

# RFC 9112 section 3.2: Host = uri-host [ ":" port ], possibly empty, in the characters of RFC 3986 section 3.2.2.
_HOST_LINE = re.compile(rb"\r\nhost:", re.IGNORECASE)
_HOST_VALUE = re.compile(rb"[-0-9A-Za-z._~%!$&'()*+,;=:\[\]]*+")

# The plain reader's shapes: one Host at most, in unmistakable characters.
_PLAIN_HOST = rb"([Hh][Oo][Ss][Tt]): ?[-0-9A-Za-z._:\[\]]*+\r\n"

# CONNECT: no field that frames a body or changes the protocol.
_CONNECT_FIELDS = rb"(?:(?!(?i:host|content-length|transfer-encoding|upgrade):)" + TOKEN + rb":[\t -~]*+\r\n)*"
_match_connect = re.compile(
    rb"CONNECT (" + _VISIBLE + rb") HTTP/1\.([01])\r\n"
    rb"(" + _CONNECT_FIELDS + rb"(?:" + _PLAIN_HOST + _CONNECT_FIELDS + rb")?)\r\n"
).match  # fmt: skip

# Other methods, with a target in origin-form or absolute-form: what frames a body once, before Host or behind it.
_FIELDS = plain_fields(b"host", b"content-length", b"transfer-encoding")
_match_plain = re.compile(
    rb"(?!CONNECT )([A-Z]++) ((?:/|http://)[!-~]*+) HTTP/1\.([01])\r\n"
    rb"(" + _FIELDS + rb"(?:" + _PLAIN_HOST + _FIELDS + rb"(?:" + PLAIN_FRAMING + _FIELDS + rb")?"
    rb"|" + PLAIN_FRAMING + _FIELDS + _PLAIN_HOST + _FIELDS + rb")?)\r\n"
).match  # fmt: skip

# First bytes of protocols that are sent to a proxy's port by mistake. None can begin a method.
_OTHER_PROTOCOLS = {
    0x04: "SOCKS4 (0x04); this listener is an HTTP proxy: set an http:// proxy in the client, not socks4://",
    0x05: "SOCKS5 (0x05); this listener is an HTTP proxy: set an http:// proxy in the client, not socks5://",
    0x16: "a TLS handshake (0x16); this listener speaks plain HTTP: set an http:// proxy in the client, "
    "or give the listener `tls:` to serve https:// proxy URLs",
}
_HTTP2_PREFACE = b"PRI * HTTP/2"
_CR = 0x0D
_SPACE = 0x20


def parse_request_head(data: bytes, limits: HeadLimits) -> RequestHead | None:
    """Read the head that begins `data`; None when it is not complete yet. Runs once per read until the head is there.

    `data` is all that has arrived, tunnel bytes behind the head included. Time is linear in `limits.max_bytes` at most.

    Raises:
        MalformedRequest: not a request in HTTP/1.0 or HTTP/1.1, or a CONNECT with a body.
        HeadTooLarge: over `max_bytes` or `max_headers`, complete or not.
        TargetTooLong: the target is over `max_target_bytes`, complete or not.
    """
    match = _match_connect(data, 0, limits.max_bytes)
    if match is not None:
        target, minor, fields, host = match.groups()
        if (
            len(target) <= limits.max_target_bytes
            and fields.count(b"\n") <= limits.max_headers
            and (host is not None or minor == b"0")
        ):
            return RequestHead("CONNECT", target.decode(), "1.1" if minor == b"1" else "1.0", fields, match.end())
        return _parse_strictly(data, limits)
    match = _match_plain(data, 0, limits.max_bytes)
    if match is not None:
        method, target, minor, fields, host, late_host = match.groups()
        if (
            len(target) <= limits.max_target_bytes
            and fields.count(b"\n") <= limits.max_headers
            and (host is not None or late_host is not None or minor == b"0")
        ):
            return RequestHead(method.decode(), target.decode(), "1.1" if minor == b"1" else "1.0", fields, match.end())
    return _parse_strictly(data, limits)


def _parse_strictly(data: bytes, limits: HeadLimits) -> RequestHead | None:
    """The same as `parse_request_head`, without the plain reader. Judges no byte beyond `max_bytes`."""
    end = min(len(data), limits.max_bytes)
    # RFC 9112 section 2.2: an empty line before the request line is ignored; one, and not one after another.
    begin = 2 if data.startswith(b"\r\n", 0, end) else 0
    request_line = _REQUEST_LINE.match(data, begin, end)
    if request_line is None:
        _check_request_line_so_far(data, begin, end, limits)
        await_more(data, limits.max_bytes, CLIENT)
        return None
    if len(request_line[1]) > limits.max_target_bytes:
        raise _target_too_long(limits)

    fields_begin = request_line.end()
    fields_end = end_of_fields(data, fields_begin, end, limits.max_headers, CLIENT)
    if fields_end is None:
        await_more(data, limits.max_bytes, CLIENT)
        return None

    length = fields_end + 2
    request = _ask_h11(data[begin:length])
    return RequestHead(
        request.method.decode(),
        request.target.decode(),
        request.http_version.decode(),
        data[fields_begin:fields_end],
        length,
    )


def _ask_h11(head: bytes) -> h11.Request:
    """What h11 makes of a head whose octets are in order, and what it does not ask of one."""
    arbiter = h11.Connection(h11.SERVER)
    arbiter.receive_data(head)
    try:
        request = arbiter.next_event()
    except h11.RemoteProtocolError as error:
        if b" HTTP/1.1\r\n" in head and _HOST_LINE.search(head) is None:
            raise MalformedRequest(MISSING_HOST) from error
        raise MalformedRequest(f"the request head is not valid HTTP: {error}") from error
    assert isinstance(request, h11.Request)  # the head is complete
    connect = request.method == b"CONNECT"
    for name, value in request.headers:
        if name == b"host" and not _HOST_VALUE.fullmatch(value):
            raise MalformedRequest("expected host or host:port in the Host field, got an octet that neither has")
        # RFC 9110 section 9.3.6: a CONNECT has no content. If it claims some, whose are the bytes behind the head?
        if connect and (name == b"transfer-encoding" or (name == b"content-length" and value != b"0")):
            raise MalformedRequest(f"a CONNECT request has no body, got {name.decode()}: {excerpt(value)}")
    return request


# --- what is wrong ------------------------------------------------------------------------------------------------


def _check_request_line_so_far(data: bytes, begin: int, end: int, limits: HeadLimits) -> None:
    """Raise unless the bytes from `begin` on can still become a request line; it did not match as a whole."""
    method = _METHOD.match(data, begin, end)
    at = begin if method is None else method.end()
    if at == end or (data[at] == _CR and at == 0 and end == 1):
        return
    if method is None:
        other = _OTHER_PROTOCOLS.get(data[at])
        raise MalformedRequest(f"expected an HTTP request, got {other or excerpt(data[at:end])}")
    if data[at] != _SPACE:
        raise MalformedRequest(
            f"expected a space behind the method {excerpt(method[0])}, got {octet(data[at])} (byte {at})"
        )
    target = _TARGET.match(data, at + 1, end)
    at = at + 1 if target is None else target.end()
    if target is not None and len(target[0]) > limits.max_target_bytes:
        raise _target_too_long(limits)
    if at == end:
        return
    if target is None or data[at] != _SPACE:
        raise MalformedRequest(
            f"expected a request target in visible ASCII and a space behind it, got {octet(data[at])} (byte {at})"
        )
    version = data[at + 1 : min(at + 11, end)]
    if not any(known.startswith(version) for known in _VERSIONS):
        hint = ""
        if version.startswith(b"HTTP/2"):
            # RFC 9113 section 3.4: the client preface of HTTP/2 begins as a request does, for this very purpose.
            prior_knowledge = " with prior knowledge" if data.startswith(_HTTP2_PREFACE, begin) else ""
            hint = f"; HTTP/2{prior_knowledge} is not served here"
        raise MalformedRequest(
            f"expected HTTP/1.1 or HTTP/1.0 and CRLF behind the request target, got {excerpt(version)}{hint}"
        )


def _target_too_long(limits: HeadLimits) -> TargetTooLong:
    return TargetTooLong(f"the request target is longer than {limits.max_target_bytes} bytes (limits.max_target_bytes)")
