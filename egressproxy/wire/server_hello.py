"""Read from a server's first bytes whether it asks for a second ClientHello.

A TLS 1.3 server that cannot go on with a ClientHello answers with a HelloRetryRequest: a ServerHello whose random is a fixed
value (RFC 8446 section 4.1.3). The client's second hello comes in the clear like the first, and may name another server,
which few servers mind. Whoever judged the first must then judge the second.
"""

from __future__ import annotations

ENOUGH_BYTES = 64
"""Of a server's first bytes: a ServerHello's random ends with byte 43, and warnings may stand before it."""

_ALERT, _HANDSHAKE = 21, 22  # content types, RFC 8446 section 5.1
_RECORD_HEADER = 5
_FATAL = b"\x02"
_SERVER_HELLO = 2
_RANDOM_AT = 6  # of the message: behind its header (4) and the version (2)
_RETRY = bytes.fromhex("CF21AD74E59A6111BE1D8C021E65B891C2A211167ABB8C5E079E09E2C8A8339C")
_RANDOM_END = _RANDOM_AT + len(_RETRY)


def asks_again(head: bytes) -> bool | None:
    """Whether the bytes that a server sends first are a HelloRetryRequest; None while that cannot be told. Hot.

    What cannot be told from ENOUGH_BYTES, because it is warnings or tiny records, may be one: True.
    """
    if len(head) >= _RECORD_HEADER + _RANDOM_END and head[0] == _HANDSHAKE and (head[3] or head[4] >= _RANDOM_END):
        return head[5] == _SERVER_HELLO and head.startswith(_RETRY, _RECORD_HEADER + _RANDOM_AT)  # nearly always
    message = b""
    at = 0
    while at < len(head) and len(message) < _RANDOM_END:
        if head[at] not in (_ALERT, _HANDSHAKE):
            return False
        begin = at + _RECORD_HEADER
        at = begin + int.from_bytes(head[begin - 2 : begin], "big")
        fragment = head[begin:at]
        if head[begin - _RECORD_HEADER] == _HANDSHAKE:
            message += fragment
        elif fragment[:1] == _FATAL:
            return False
        # else a warning: "I do not know that name, and go on"
    if message and not (message[0] == _SERVER_HELLO and _RETRY.startswith(message[_RANDOM_AT:_RANDOM_END])):
        return False
    return True if len(message) >= _RANDOM_END or len(head) >= ENOUGH_BYTES else None
