"""What the fields of a request mean to a proxy that forwards it: RequestHead to RequestFields, strictly by RFC 9112.

`request_fields` ends one of two ways: it returns what the fields say, or it raises MalformedRequest. Where a request
could be read in two ways (its length, above all) it is refused: what is behind us would read it the other way.

What is about one connection stays on it (RFC 9110 section 7.6.1); what is from end to end goes on as it was sent, octet
for octet and in order. Fields that the forwarder writes anew are told apart from both.
"""

from __future__ import annotations

from typing import NamedTuple

from egressproxy.errors import MalformedRequest
from egressproxy.wire.field_lines import (
    CLIENT,
    NO_OPTIONS,
    PER_HOP,
    check_chunked,
    connection_options,
    excerpt,
    members,
    plain_number,
    sort_out,
    without,
)
from egressproxy.wire.request_head import RequestHead


class RequestFields(NamedTuple):
    """What the fields of a request mean to a proxy that forwards it.

    host              Host as sent; None where there is none, in HTTP/1.0 only
    length            Content-Length; None where there is none
    chunked           the body is in the chunked coding. Neither this nor a length: there is no body
    keep_alive        the client means to send more on this connection
    expects_continue  the client waits for 100 (Continue) before it sends the body
    upgrade           the protocol the client would rather speak, where Connection names the field; HTTP/1.1 only, and only
                      a protocol that carries no other requests: `websocket`
    forward           end-to-end field lines as sent and in order, each with its CRLF
    via               all Via values, joined by ", "; None where there is none
    forwarded_for     the same of X-Forwarded-For
    request_id        the first X-Request-Id; None where there is none or it is empty
    user_agent        the first User-Agent, likewise. Its line is in `forward`
    accepts_trailers  TE names `trailers`
    authorization     there is an Authorization field. Its line is in `forward`
    max_forwards      Max-Forwards of a TRACE or OPTIONS; None where there is none, and of other methods, which it says
                      nothing to: then its line is in `forward`

    Not in `forward`: what has its own member here (the two whose line is said to be there apart), fields about this
    connection (RFC 9110 section 7.6.1), those for this proxy (section 11.7), and every field that Connection names; nor any
    of the first three with underscores for hyphens.
    Trailer goes on: the trailers do.
    """

    host: str | None
    length: int | None
    chunked: bool
    keep_alive: bool
    expects_continue: bool
    upgrade: str | None
    forward: bytes
    via: str | None
    forwarded_for: str | None
    request_id: str | None
    user_agent: str | None
    accepts_trailers: bool
    authorization: bool
    max_forwards: int | None


# The fields read here, and whether their lines go on.
_READ_HERE = {
    **dict.fromkeys(PER_HOP, False),
    b"proxy-authenticate": False,
    b"proxy-authorization": False,
    b"host": False,
    b"content-length": False,
    b"transfer-encoding": False,
    b"expect": False,
    b"http2-settings": False,  # RFC 7540 section 3.2.1: asks for requests that nobody would judge
    b"via": False,
    b"x-forwarded-for": False,
    b"x-request-id": False,
    b"user-agent": True,
    b"authorization": True,
    b"max-forwards": True,
}
_COUNTED = frozenset({"TRACE", "OPTIONS"})  # RFC 9110 section 7.6.2: the methods that Max-Forwards is for

# Written anew, or for nobody behind this proxy. To CGI and its kin a hyphen and an underscore are the same: a client's
# X_Forwarded_For would stand where the proxy's own word is looked for.
_NOT_HANDED_ON = frozenset(name for name, goes_on in _READ_HERE.items() if not goes_on)

# RFC 9110 section 7.6.1: no sender may name a field in Connection that is for all recipients. Of these, a proxy that
# obeys and one that does not make two different requests.
_NEVER_PER_HOP = frozenset({b"host", b"content-length", b"transfer-encoding"})

# Options that name no field, or one whose lines are left out in any case.
_NAME_NO_MORE = frozenset({b"close", *_NOT_HANDED_ON}) - _NEVER_PER_HOP


# Requests of one client to one host have the same fields, again and again. What was read of them is kept: finding it costs
# 0.2 us instead of 4. Only what tells nothing of anybody is kept: a field that may be a credential is on no list of such.
_HARMLESS = frozenset(
    b"accept accept-charset accept-encoding accept-language cache-control connection content-length content-type expect host"
    b" pragma proxy-connection te transfer-encoding upgrade-insecure-requests user-agent".split()
)
_KEPT = 1024
_MAX_KEPT_BYTES = 1024
_kept: dict[tuple[bytes, str], RequestFields] = {}


def request_fields(head: RequestHead) -> RequestFields:
    """Read the fields of `head`. Time is linear.

    Raises MalformedRequest: a length that is not one plain number; a transfer coding other than one `chunked`, or in
    HTTP/1.0, or beside a length; an expectation other than 100-continue; a Connection that names a field on which the
    meaning of the request hangs; a Max-Forwards that counts, and is not one plain number.
    """
    key = (head.raw_headers, head.http_version)
    fields = _kept.get(key)
    if fields is None:
        fields = _read(head)
        if len(head.raw_headers) <= _MAX_KEPT_BYTES and _is_harmless(head.raw_headers):
            if len(_kept) >= _KEPT:
                _kept.clear()
            _kept[key] = fields
    return fields


def _is_harmless(raw_headers: bytes) -> bool:
    return all(line.partition(b":")[0].lower() in _HARMLESS for line in raw_headers.split(b"\r\n")[:-1])


def _read(head: RequestHead) -> RequestFields:
    """`request_fields`, every time anew."""
    said, lines = sort_out(head.raw_headers, _READ_HERE)
    get = said.get
    is_1_1 = head.http_version == "1.1"
    if b"_" in head.raw_headers:
        lines = [line for line in lines if not _is_twin(line)]
    options = NO_OPTIONS
    if (connection := get(b"connection")) is not None:
        options = connection_options(connection, CLIENT)
        if not options <= _NAME_NO_MORE:
            if not options.isdisjoint(_NEVER_PER_HOP):
                raise MalformedRequest("expected no host, content-length or transfer-encoding named in Connection")
            lines = without(lines, options)

    host = get(b"host")
    length = get(b"content-length")
    coding = get(b"transfer-encoding")
    if coding is not None:
        check_chunked(coding, length, head.http_version, CLIENT)
    expect = get(b"expect")
    te = get(b"te")
    via = get(b"via")
    forwarded_for = get(b"x-forwarded-for")
    request_id = get(b"x-request-id")
    user_agent = get(b"user-agent")
    max_forwards = get(b"max-forwards") if head.method in _COUNTED else None
    if max_forwards is not None:
        lines = without(lines, frozenset({b"max-forwards"}))
    return RequestFields(
        None if host is None else host.decode("latin-1"),
        None if length is None else plain_number("Content-Length", length, CLIENT),
        coding is not None,
        _keeps_alive(options, get(b"proxy-connection"), is_1_1),
        expect is not None and is_1_1 and _expects_continue(expect),
        _upgrade(said.get(b"upgrade", b"")) if is_1_1 and b"upgrade" in options else None,
        b"\r\n".join(lines),
        via.decode("latin-1") if via else None,
        forwarded_for.decode("latin-1") if forwarded_for else None,
        request_id.decode("latin-1") if request_id else None,
        user_agent.decode("latin-1") if user_agent else None,
        te is not None and b"trailers" in members(te),  # RFC 9110 section 10.1.4: `trailers` takes no weight
        b"authorization" in said,
        None if max_forwards is None else plain_number("Max-Forwards", max_forwards, CLIENT),
    )


def _is_twin(line: bytes) -> bool:
    """A field that is not handed on, but for its underscores."""
    name = line.partition(b":")[0].lower()
    return b"_" in name and name.replace(b"_", b"-") in _NOT_HANDED_ON


def _upgrade(value: bytes) -> str | None:
    """RFC 9110 section 7.8. What else may be asked for (h2c, TLS, another HTTP) would be a tunnel for more requests."""
    offered = [protocol.strip() for protocol in value.decode("latin-1").split(",")]
    return next((protocol for protocol in offered if protocol.lower() == "websocket"), None)


def _keeps_alive(options: frozenset[bytes], proxy_connection: bytes | None, is_1_1: bool) -> bool:
    """RFC 9112 section 9.3. Proxy-Connection, which is older and still sent, counts where Connection says nothing."""
    if b"close" in options:
        return False
    if b"keep-alive" in options:
        return True
    if proxy_connection is not None:
        options = members(proxy_connection)
        return b"close" not in options and (is_1_1 or b"keep-alive" in options)
    return is_1_1


def _expects_continue(value: bytes) -> bool:
    """RFC 9110 section 10.1.1: 100-continue is the only expectation there is. In HTTP/1.0 it is to be ignored."""
    if value and value.lower() != b"100-continue":
        raise MalformedRequest(f"expected no expectation but 100-continue in the Expect field, got {excerpt(value)}")
    return bool(value)
