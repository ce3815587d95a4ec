"""Read a response head of an upstream, and what its fields mean to a proxy that forwards it. Strictly by RFC 9112.

`parse_response_head` ends one of three ways, for any bytes:

1. it returns a ResponseHead; what follows `length` bytes is the body, or the next head;
2. it returns None: all is well so far, more is needed;
3. it raises UpstreamProtocolError.

The answer depends on the stream alone and never on how it was cut into reads, and a wrong octet is refused as soon as it
is there: as in `request_head`, whose twin this is, with the same two readers. The plain one is a single regular expression
that accepts what real servers send; whatever it does not match goes to the strict one, which checks the octets itself and
leaves the meaning to h11.

An answer that could be read in two ways is refused as a request would be: the client behind us may share its connection.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import h11

from egressproxy.errors import UpstreamProtocolError
from egressproxy.wire.field_lines import (
    NO_OPTIONS,
    PER_HOP,
    PLAIN_FRAMING,
    UPSTREAM,
    await_more,
    check_chunked,
    connection_options,
    end_of_fields,
    excerpt,
    octet,
    plain_fields,
    plain_number,
    sort_out,
    without,
)
from egressproxy.wire.request_head import HeadLimits


class ResponseHead(NamedTuple):
    """A complete and well-formed response head.

    status        from 100 to 599
    reason        may be empty; octets beyond ASCII are read as ISO-8859-1
    http_version  `1.0` or `1.1`
    raw_headers   the field lines, each with its CRLF
    length        bytes of the whole head, the empty line included
    """

    status: int
    reason: str
    http_version: str
    raw_headers: bytes
    length: int


class ResponseFields(NamedTuple):
    """What the fields of a response mean to a proxy that forwards it.

    length        Content-Length; None where there is none. Where `body_is_forbidden` it only describes
    chunked       the body is in the chunked coding; likewise
    keep_alive    the upstream will take another request, if this body does not end with the connection
    upgrade       the protocols the upstream offers or changes to, where Connection names the field; HTTP/1.1 only
    forward       end-to-end field lines as sent and in order, each with its CRLF
    via           all Via values, joined by ", "; None where there is none
    content_type  media type without its parameters; None where there is none. Its line is in `forward`
    has_date      there is a Date field. Its line is in `forward`

    Not in `forward`: Content-Length, Transfer-Encoding, Via, fields about this connection (RFC 9110 section 7.6.1) or
    for this proxy (section 11.7), and every field that Connection names.
    """

    length: int | None
    chunked: bool
    keep_alive: bool
    upgrade: str | None
    forward: bytes
    via: str | None
    content_type: str | None
    has_date: bool


# --- the grammar, with that of field lines in `field_lines` -------------------------------------------------------

# RFC 9112 section 4: status-line = HTTP-version SP status-code SP [ reason-phrase ]. Octet by octet up to the end of the
# code, whose first digit is 1 to 5 (RFC 9110 section 15).
_DIGITS = b"0123456789"
_STATUS_LINE_OCTETS = (*(b"HTTP/1."[i : i + 1] for i in range(7)), b"01", b" ", b"12345", _DIGITS, _DIGITS)

# h11: "there are apparently a few too many servers out there that just leave out the reason phrase", its space included.
_REASON = rb"[\t -~\x80-\xff]*+"
_AFTER_STATUS = re.compile(rb"(?: (" + _REASON + rb"))?\r\n")
_AFTER_STATUS_SO_FAR = re.compile(rb"(?: " + _REASON + rb")?\r?\Z")
_match_reason = re.compile(rb"(?: " + _REASON + rb")?").match

_FIELDS = plain_fields(b"content-length", b"transfer-encoding")
_match_plain = re.compile(
    rb"HTTP/1\.([01]) ([1-5][0-9][0-9]) ([\t -~]*+)\r\n"
    rb"(" + _FIELDS + rb"(?:" + PLAIN_FRAMING + _FIELDS + rb")?)\r\n"
).match  # fmt: skip


def parse_response_head(data: bytes, limits: HeadLimits) -> ResponseHead | None:
    """Read the head that begins `data`; None when it is not complete yet. Runs once per read until the head is there.

    `data` is all that has arrived, bytes behind the head included. Time is linear in `limits.max_bytes` at most;
    `limits.max_target_bytes` is about requests.

    Raises UpstreamProtocolError: not a response in HTTP/1.0 or HTTP/1.1, or over a limit, complete or not.
    """
    match = _match_plain(data, 0, limits.max_bytes)
    if match is not None:
        minor, status, reason, fields = match.groups()
        if fields.count(b"\n") <= limits.max_headers:
            return ResponseHead(int(status), reason.decode(), "1.1" if minor == b"1" else "1.0", fields, match.end())
    return _parse_strictly(data, limits)


def _parse_strictly(data: bytes, limits: HeadLimits) -> ResponseHead | None:
    """The same as `parse_response_head`, without the plain reader. Judges no byte beyond `max_bytes`."""
    end = min(len(data), limits.max_bytes)
    for at, allowed in enumerate(_STATUS_LINE_OCTETS[:end]):
        if data[at] not in allowed:
            raise _no_status_line(data, at, end)
    after_status = _AFTER_STATUS.match(data, len(_STATUS_LINE_OCTETS), end)
    if after_status is None:
        if end > len(_STATUS_LINE_OCTETS):
            _check_after_status_so_far(data, end)
        await_more(data, limits.max_bytes, UPSTREAM)
        return None

    fields_begin = after_status.end()
    fields_end = end_of_fields(data, fields_begin, end, limits.max_headers, UPSTREAM)
    if fields_end is None:
        await_more(data, limits.max_bytes, UPSTREAM)
        return None

    length = fields_end + 2
    response = _ask_h11(data[:length])
    return ResponseHead(
        response.status_code,
        response.reason.decode("latin-1"),
        response.http_version.decode(),
        data[fields_begin:fields_end],
        length,
    )


# One that any response may answer, 101 included.
_ANY_REQUEST = h11.Request(
    method="GET", target="/", headers=[("Host", ""), ("Upgrade", "x"), ("Connection", "upgrade")]
)


def _ask_h11(head: bytes) -> h11.Response | h11.InformationalResponse:
    """What h11 makes of a head whose octets are in order."""
    arbiter = h11.Connection(h11.CLIENT)
    arbiter.send(_ANY_REQUEST)
    arbiter.send(h11.EndOfMessage())
    arbiter.receive_data(head)
    try:
        response = arbiter.next_event()
    except h11.RemoteProtocolError as error:
        raise UpstreamProtocolError(f"the response head is not valid HTTP: {error}") from error
    assert isinstance(response, (h11.Response, h11.InformationalResponse))  # the head is complete
    return response


def _no_status_line(data: bytes, at: int, end: int) -> UpstreamProtocolError:
    """What to raise for the octet `at`, which cannot be there in a status line."""
    got = excerpt(data[: min(end, at + 1)])
    if data.startswith(b"HTTP/2"):
        return UpstreamProtocolError(
            f"expected a response in HTTP/1.1 or HTTP/1.0, got {got}; HTTP/2 is not spoken here"
        )
    if at < 8 or (at == 8 and data[at] in b"\r\n"):
        return UpstreamProtocolError(f"expected a response in HTTP/1.1 or HTTP/1.0, got {got}")
    return UpstreamProtocolError(f"expected a status from 100 to 599 behind the HTTP version, got {got}")


def _check_after_status_so_far(data: bytes, end: int) -> None:
    """Raise unless the bytes behind the status code can still become the end of a status line."""
    begin = len(_STATUS_LINE_OCTETS)
    if _AFTER_STATUS_SO_FAR.match(data, begin, end):
        return
    reason = _match_reason(data, begin, end)
    assert reason is not None  # it matches the empty string
    at = reason.end()
    got = "CR without LF" if data[at] == 0x0D else octet(data[at])
    expected = "a space or CRLF behind the status" if at == begin else "CRLF at the end of the status line"
    raise UpstreamProtocolError(f"expected {expected}, got {got} (byte {at})")


# --- the fields ---------------------------------------------------------------------------------------------------

# The fields read here, and whether their lines go on.
_READ_HERE = {
    **dict.fromkeys(PER_HOP, False),
    b"proxy-authenticate": False,
    b"proxy-authentication-info": False,
    b"content-length": False,
    b"transfer-encoding": False,
    b"via": False,
    b"content-type": True,
    b"date": True,
}

# Options that name no field, or one whose lines are left out in any case.
_NAME_NO_MORE = frozenset({b"close", *(name for name, goes_on in _READ_HERE.items() if not goes_on)}) - {
    b"content-length"
}


def response_fields(head: ResponseHead) -> ResponseFields:
    """Read the fields of `head`. Time is linear.

    Raises UpstreamProtocolError: a length that is not one plain number; a transfer coding other than one `chunked`, or
    in HTTP/1.0, or beside a length; a body with a status that has none; a Connection that names Content-Length.
    Servers do name Transfer-Encoding there: it is about the connection anyway.
    """
    said, lines = sort_out(head.raw_headers, _READ_HERE)
    get = said.get
    is_1_1 = head.http_version == "1.1"
    options = NO_OPTIONS
    if (connection := get(b"connection")) is not None:
        options = connection_options(connection, UPSTREAM)
        if not options <= _NAME_NO_MORE:
            if b"content-length" in options:  # RFC 9110 section 7.6.1, as for requests
                raise UpstreamProtocolError("expected no content-length named in Connection, got one")
            lines = without(lines, options)

    length_text = get(b"content-length")
    length = None if length_text is None else plain_number("Content-Length", length_text, UPSTREAM)
    coding = get(b"transfer-encoding")
    if coding is not None:
        check_chunked(coding, length_text, head.http_version, UPSTREAM)
    # RFC 9112 section 6.1 and RFC 9110 section 8.6: these have no body, and no field that frames one. A length of 0 is
    # seen, and claims nothing. 304 may tell the length of what it does not send.
    if (coding is not None or length) and (head.status < 200 or head.status == 204):
        raise UpstreamProtocolError(f"expected no body with status {head.status}, got a field that frames one")
    via = get(b"via")
    content_type = get(b"content-type")
    return ResponseFields(
        length,
        coding is not None,
        (is_1_1 or b"keep-alive" in options) and b"close" not in options,  # RFC 9112 section 9.3
        said.get(b"upgrade", b"").decode("latin-1") or None if is_1_1 and b"upgrade" in options else None,
        b"\r\n".join(lines),
        via.decode("latin-1") if via else None,
        content_type.partition(b";")[0].rstrip(b" \t").decode("latin-1") or None if content_type else None,
        b"date" in said,
    )


def body_is_forbidden(method: str, status: int) -> bool:
    """Whether a response has no body whatever its fields say (RFC 9112 section 6.3, rules 1 and 2)."""
    return method == "HEAD" or status < 200 or status in (204, 304) or (method == "CONNECT" and 200 <= status < 300)
