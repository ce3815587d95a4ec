"""Both ends of plain requests that carry much: one up, with a length, and one down, in chunks; hashed on either side.

Every MiB is the same pseudo-random block with its own number stamped into the front, as in `bulk`.
"""

from __future__ import annotations

import hashlib
import random
import re
import socket
import time
from collections.abc import Iterator
from typing import NamedTuple

from soak.apart import Line
from soak.sockets import WAIT_S, bounded, dial

MIB = 1 << 20
TELL_S = 0.2
"""Between two words about how far it is."""


class Carried(NamedTuple):
    """What went each way: sha256."""

    up: str
    down: str


class Progress(NamedTuple):
    """MiB so far."""

    up: int
    down: int


def origin(line: Line, mebibytes: int) -> Carried:
    """Take one body and give one, on one connection. Says its port first."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        line.say(listening.getsockname()[1])
        listening.settimeout(WAIT_S)
        with bounded(listening.accept()[0]) as sock:
            head, rest = _head(sock)
            assert head.startswith(b"PUT ")
            assert f"\r\nContent-Length: {mebibytes * MIB}\r\n".encode() in head
            up = hashlib.sha256()
            for piece in _body(sock, rest, mebibytes * MIB):
                up.update(piece)
            sock.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")
            head, rest = _head(sock)
            assert head.startswith(b"GET ")
            assert not rest
            sock.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            down = hashlib.sha256()
            for block in _blocks("down", mebibytes):
                down.update(block)
                sock.sendall(b"%x\r\n" % MIB)
                sock.sendall(block)
                sock.sendall(b"\r\n")
            sock.sendall(b"0\r\n\r\n")
            return Carried(up.hexdigest(), down.hexdigest())


def client(line: Line, proxy: int, target: str, mebibytes: int) -> Carried:
    """The same from the other side. Says its Progress now and then."""
    told = time.monotonic()

    def tell(up: int, down: int) -> None:
        nonlocal told
        if time.monotonic() - told > TELL_S:
            told = time.monotonic()
            line.say(Progress(up, down))

    with dial(proxy) as sock:
        length = mebibytes * MIB
        sock.sendall(f"PUT http://{target}/up HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n".encode())
        up = hashlib.sha256()
        for number, block in enumerate(_blocks("up", mebibytes)):
            up.update(block)
            sock.sendall(block)
            tell(number, 0)
        head, rest = _head(sock)
        assert head.startswith(b"HTTP/1.1 204 ")
        assert not rest
        sock.sendall(f"GET http://{target}/down HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        head, rest = _head(sock)
        assert head.startswith(b"HTTP/1.1 200 ")
        down, received = hashlib.sha256(), 0
        for piece in _chunks(sock, rest):
            down.update(piece)
            received += len(piece)
            tell(mebibytes, received // MIB)
        assert received == length
        return Carried(up.hexdigest(), down.hexdigest())


def _blocks(seed: str, mebibytes: int) -> Iterator[bytearray]:
    block = bytearray(random.Random(seed).randbytes(MIB))
    for number in range(mebibytes):
        block[:8] = number.to_bytes(8)
        yield block


def _head(sock: socket.socket) -> tuple[bytes, bytes]:
    """A head, and what came behind it."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = sock.recv(65_536)
        assert more, f"the end, and no head: {data!r}"
        data += more
    head, _, rest = data.partition(b"\r\n\r\n")
    return head + b"\r\n", rest


def _body(sock: socket.socket, ahead: bytes, size: int) -> Iterator[bytes]:
    yield ahead
    size -= len(ahead)
    buffer = memoryview(bytearray(MIB))
    while size:
        count = sock.recv_into(buffer, min(size, MIB))
        assert count, f"the end, {size} bytes too early"
        size -= count
        yield buffer[:count]


_SIZE_LINE = re.compile(rb"([0-9a-f]+)\r\n")


def _chunks(sock: socket.socket, ahead: bytes) -> Iterator[bytes]:
    """The payload of a body in chunks, without extensions and trailers."""
    data = ahead
    while True:
        while (line := _SIZE_LINE.match(data)) is None:
            more = sock.recv(MIB)
            assert more, "the end in the middle of a size"
            data += more
        size, data = int(line[1], 16), data[line.end() :]
        left = size + 2
        while left:
            if not data:
                data = sock.recv(MIB)
                assert data, "the end in the middle of a chunk"
            piece, data = data[:left], data[left:]
            left -= len(piece)
            yield piece[: max(0, len(piece) - max(0, 2 - left))]
        if not size:
            return
