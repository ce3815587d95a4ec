"""WebSocket (RFC 6455), as little of it as an echo needs: both handshakes, and frames of text that end in one."""

from __future__ import annotations

import base64
import hashlib
import os
import struct

from support.plain_http import Message, Wire, request

_MAGIC = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
TEXT, CLOSE = 1, 8
_FIN, _MASKED = 0x80, 0x80


def _accept(key: str) -> str:
    return base64.b64encode(hashlib.sha1((key + _MAGIC).encode(), usedforsecurity=False).digest()).decode()


def open_client(wire: Wire, url: str) -> Message:
    """The client's handshake (section 4.1). The answer, which is right."""
    key = base64.b64encode(os.urandom(16)).decode()
    fields = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {key}")
    wire.send(request(url, *fields))
    told = wire.response()
    assert told.status == 101, told
    assert told.get("sec-websocket-accept") == _accept(key)
    return told


def answer_client(wire: Wire) -> Message:
    """The server's handshake (section 4.2). What was asked."""
    asked = wire.request()
    key = asked.get("sec-websocket-key")
    assert key is not None
    wire.send(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {_accept(key)}\r\n\r\n".encode()
    )
    return asked


def frame(payload: bytes, opcode: int = TEXT, *, masked: bool) -> bytes:
    """Section 5.2. Clients mask, servers do not."""
    size = len(payload)
    short = size if size < 126 else 126 if size < 65_536 else 127
    length = b"" if size < 126 else struct.pack("!H" if size < 65_536 else "!Q", size)
    if not masked:
        return bytes((_FIN | opcode, short)) + length + payload
    mask = os.urandom(4)
    return bytes((_FIN | opcode, _MASKED | short)) + length + mask + _mask(payload, mask)


def read_frame(wire: Wire) -> tuple[int, bytes]:
    """Opcode and payload of the next frame."""
    first, second = wire.exactly(2)
    assert first & _FIN, "frames of these tests are whole messages"
    size = second & 0x7F
    if size >= 126:
        (size,) = struct.unpack("!H" if size == 126 else "!Q", wire.exactly(2 if size == 126 else 8))
    mask = wire.exactly(4) if second & _MASKED else b""
    payload = wire.exactly(size)
    return first & 0x0F, _mask(payload, mask) if mask else payload


def echo(wire: Wire) -> None:
    """Serve one client: send each message back, until it closes."""
    answer_client(wire)
    while True:
        opcode, payload = read_frame(wire)
        wire.send(frame(payload, opcode, masked=False))
        if opcode == CLOSE:
            return


def _mask(payload: bytes, mask: bytes) -> bytes:
    size = len(payload)
    whole = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(payload) ^ int.from_bytes(whole)).to_bytes(size)
