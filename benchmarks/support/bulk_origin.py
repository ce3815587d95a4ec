"""The bulk origin: sends from memory and receives into nothing, so that the ends cost next to nothing.

    python -m benchmarks.support.bulk_origin

Prints its port as JSON. A connection begins with one request: a letter and a number of eight bytes, big-endian.

    d N   send N bytes of the pattern, then close
    h N   receive N bytes, answer with their SHA-256
    c 0   receive to the end and count
    q 0   answer with the count of the last `c` as eight bytes; asked directly, because Squid does not know half-close

A ClientHello before it, which opens a tunnel through a proxy that forwards by server name, is sent back first.

Squid 5 closes a tunnel both ways when one side has ended its half, so an answer after the end would be lost in it.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import socket
import struct
import threading
from queue import Empty, SimpleQueue

REQUEST = struct.Struct(">cQ")
COUNT = struct.Struct(">Q")
ENDLESS = 1 << 62
PATTERN_BYTES = 4 << 20
_DISCARD_BYTES = 4 << 20
_COUNT_S = 10.0
_TLS_HANDSHAKE = 22  # content type, RFC 8446 section 5.1
_RECORD_HEADER_BYTES = 5


def pattern() -> bytes:
    """What is sent, over and over: random, and the same every time."""
    return random.Random(20).randbytes(PATTERN_BYTES)


def pattern_digest(size: int) -> bytes:
    """SHA-256 of the first `size` bytes of the repeated pattern."""
    digest, block = hashlib.sha256(), pattern()
    for _ in range(size // PATTERN_BYTES):
        digest.update(block)
    digest.update(block[: size % PATTERN_BYTES])
    return digest.digest()


def in_memory() -> int:
    """A descriptor of a file in memory that holds the pattern, for sendfile. The caller closes it."""
    descriptor = os.memfd_create("pattern")
    view = memoryview(pattern())
    while view:
        view = view[os.write(descriptor, view) :]
    return descriptor


def send_pattern(sock: socket.socket, source: int, size: int) -> None:
    """Send the first `size` bytes of the repeated pattern; the pages are handed over and not copied."""
    sent = 0
    while sent < size:
        offset = sent % PATTERN_BYTES
        sent += os.sendfile(sock.fileno(), source, offset, min(PATTERN_BYTES - offset, size - sent))


def receive_exactly(sock: socket.socket, size: int) -> bytes:
    """`size` bytes. EOFError when fewer come."""
    data = b""
    while len(data) < size:
        piece = sock.recv(size - len(data))
        if not piece:
            raise EOFError(f"expected {size} bytes, got {len(data)}")
        data += piece
    return data


def receive_digest(sock: socket.socket, size: int) -> bytes:
    """SHA-256 of the next `size` bytes."""
    digest, buffer, left = hashlib.sha256(), bytearray(1 << 20), size
    while left:
        got = sock.recv_into(buffer, min(left, len(buffer)))
        if not got:
            raise EOFError(f"{left} of {size} bytes are missing")
        digest.update(memoryview(buffer)[:got])
        left -= got
    return digest.digest()


def receive_nothing(sock: socket.socket) -> int:
    """Receive to the end and count. MSG_TRUNC on TCP drops the bytes in the kernel (tcp(7)) instead of copying them."""
    buffer, total = bytearray(_DISCARD_BYTES), 0
    while got := sock.recv_into(buffer, _DISCARD_BYTES, socket.MSG_TRUNC):
        total += got
    return total


def serve_one(sock: socket.socket, source: int, counts: SimpleQueue[int]) -> None:
    """One connection: one request, one answer. Closes the socket."""
    with sock:
        try:
            start = receive_exactly(sock, _RECORD_HEADER_BYTES)
            if start[0] == _TLS_HANDSHAKE:
                sock.sendall(start + receive_exactly(sock, int.from_bytes(start[3:], "big")))
                start = b""
            kind, size = REQUEST.unpack(start + receive_exactly(sock, REQUEST.size - len(start)))
            if kind == b"d":
                send_pattern(sock, source, size)
            elif kind == b"h":
                sock.sendall(receive_digest(sock, size))
            elif kind == b"c":
                counts.put(receive_nothing(sock))
            elif kind == b"q":
                sock.sendall(COUNT.pack(counts.get(timeout=_COUNT_S)))
        except (ConnectionError, EOFError, Empty):
            pass  # the other side has had enough


def main() -> None:
    """Listen, say where, serve each connection in a thread: there is one at a time."""
    source = in_memory()
    counts: SimpleQueue[int] = SimpleQueue()
    listener = socket.create_server(("127.0.0.1", 0))
    print(json.dumps(listener.getsockname()[1]), flush=True)
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=serve_one, args=(connection, source, counts), daemon=True).start()


if __name__ == "__main__":
    main()
