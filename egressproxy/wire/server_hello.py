"""Read from a server's first bytes whether it asks for a second ClientHello.

A TLS 1.3 server that cannot go on with a ClientHello answers with a HelloRetryRequest: a ServerHello whose random is a fixed
value (RFC 8446 section 4.1.3). The client's second hello comes in the clear like the first, and may name another server,
which few servers mind. Whoever judged the first must then judge the second.
"""

from __future__ import annotations

ENOUGH_BYTES = 64
"""Of a server's first bytes: a ServerHello's random ends with byte 43, and warnings may stand before it."""

_ALERT, _HANDSHAKE = 21, 22  # content types, RFC 8446 section 5.1
_ALERT_BYTES = 7
_SERVER_HELLO = 2
_RANDOM_AT = 11  # behind the record's header (5), the message's (4) and the version (2)
_RETRY = bytes.fromhex("CF21AD74E59A6111BE1D8C021E65B891C2A211167ABB8C5E079E09E2C8A8339C")


def asks_again(head: bytes) -> bool | None:
    """Whether the bytes that a server sends first are a HelloRetryRequest; None while that cannot be told. Hot."""
    while head[:1] == b"\x15" and head[5:6] == b"\x01":  # a warning: "I do not know that name, and go on"
        head = head[_ALERT_BYTES:]
    if len(head) >= _RANDOM_AT + len(_RETRY):
        return head[0] == _HANDSHAKE and head[5] == _SERVER_HELLO and head.startswith(_RETRY, _RANDOM_AT)
    if not head or (head[0] == _ALERT and len(head) < _ALERT_BYTES):
        return None
    begins = head[0] == _HANDSHAKE and head[5:6] in (b"", b"\x02") and _RETRY.startswith(head[_RANDOM_AT:])
    return None if begins else False
