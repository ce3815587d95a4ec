"""The people at the other ends: real sockets on loopback that send, receive, end their half, leave or reset.

A peer keeps count and never reads ahead, so a test sees exactly how far the proxy let it go. Peers share no code with the
streams of the package.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
import ssl
import struct
import termios
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

from support.certificates import NAME

from egressproxy.stream import TcpStream

if TYPE_CHECKING:
    from egressproxy.poller import Poller

READ_BYTES = 65_536
SMALL_BUFFER = 65_536
"""For tests of back-pressure: what the kernel may hold for one socket, as asked for (it takes twice that)."""


class Truncated(Exception):
    """The TLS peer closed without a close_notify: what came may not be the whole."""


BROKEN = (ConnectionResetError, BrokenPipeError, Truncated)
"""How a peer notices that the other side did not end in order."""


class Peer:
    """One end of a TCP connection. `sent` and `received` count payload bytes."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.sent = 0
        self.received = 0
        self.waits_to_send = False

    async def send(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            taken = await self._try_send(view[:READ_BYTES])
            self.sent += taken
            view = view[taken:]

    async def _try_send(self, view: memoryview) -> int:
        while True:
            try:
                return self.sock.send(view)
            except BlockingIOError:
                self.waits_to_send = True
                await self._ready(write=True)
                self.waits_to_send = False

    async def _receive_raw(self, size: int) -> bytes:
        while True:
            try:
                return self.sock.recv(size)
            except BlockingIOError:
                await self._ready(write=False)

    async def _ready(self, *, write: bool) -> None:
        loop = asyncio.get_running_loop()
        ready = loop.create_future()

        def wake() -> None:
            if not ready.done():
                ready.set_result(None)

        fd = self.sock.fileno()
        if write:
            loop.add_writer(fd, wake)
        else:
            loop.add_reader(fd, wake)
        try:
            await ready
        finally:
            if write:
                loop.remove_writer(fd)
            else:
                loop.remove_reader(fd)

    async def receive_some(self, size: int = READ_BYTES) -> bytes:
        """At least one byte; empty at the end."""
        data = await self._receive_raw(size)
        self.received += len(data)
        return data

    async def receive(self, size: int) -> bytes:
        """Exactly `size` bytes."""
        data = bytearray()  # bytes would be copied whole for each piece
        while len(data) < size:
            more = await self.receive_some(min(size - len(data), READ_BYTES))
            assert more, f"the end after {len(data)} of {size} bytes"
            data += more
        return bytes(data)

    async def receive_all(self, sink: Callable[[bytes], object] | None = None) -> bytes:
        """Everything until the end; given to `sink` piece by piece if there is one."""
        pieces = []
        while data := await self.receive_some():
            if sink is None:
                pieces.append(data)
            else:
                sink(data)
        return b"".join(pieces)

    async def end(self) -> None:
        """No more comes from here."""
        self.sock.shutdown(socket.SHUT_WR)

    def wait_until_delivered(self) -> None:
        """Return when the other side's kernel has all that was sent; blocks the loop, so that nobody has read it yet."""
        unsent = 1
        while unsent:
            (unsent,) = struct.unpack("i", fcntl.ioctl(self.sock, termios.TIOCOUTQ, b"\0\0\0\0"))

    def close(self) -> None:
        if self.sock.fileno() >= 0:
            loop = asyncio.get_running_loop()
            loop.remove_reader(self.sock.fileno())
            loop.remove_writer(self.sock.fileno())
            self.sock.close()

    def reset(self) -> None:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()


class TlsPeer(Peer):
    """One end of a TLS connection. Its end is a close_notify and leaves TCP open."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, *, server_side: bool) -> None:
        super().__init__(sock)
        self._from_net, self._to_net = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(
            self._from_net, self._to_net, server_side=server_side, server_hostname=None if server_side else NAME
        )
        self._ahead = b""

    async def handshake(self) -> Self:
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._push()
                await self._pull()
            except ssl.SSLError:
                await self._push()
                raise
            else:
                await self._push()
                return self

    async def _push(self) -> None:
        view = memoryview(self._to_net.read())
        while view:
            view = view[await self._try_send(view) :]

    async def _pull(self) -> None:
        data = await self._receive_raw(READ_BYTES)
        if not data:
            raise Truncated
        self._from_net.write(data)

    async def send(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            taken = self.tls.write(view[:16_384])
            await self._push()
            self.sent += taken
            view = view[taken:]

    async def receive_some(self, size: int = READ_BYTES) -> bytes:
        if self._ahead:
            data, self._ahead = self._ahead[:size], self._ahead[size:]
            return data
        while True:
            try:
                data = self.tls.read(size)
            except ssl.SSLWantReadError:
                await self._pull()
                continue
            except ssl.SSLZeroReturnError:
                data = b""
            self.received += len(data)
            return data

    async def end(self) -> None:
        try:
            while data := self.tls.read(READ_BYTES):  # out of the reach of `unwrap`, which cannot bear it
                self._ahead += data
                self.received += len(data)
        except (ssl.SSLWantReadError, ssl.SSLZeroReturnError):
            pass
        try:
            self.tls.unwrap()
        except ssl.SSLWantReadError:
            pass
        await self._push()


def listening(*, buffer: int | None = None, host: str = "127.0.0.1", backlog: int = 16) -> socket.socket:
    """A listening socket; the caller closes it. `buffer`: size of the kernel's buffers of what it accepts."""
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    if buffer is not None:
        set_buffers(sock, buffer)
    sock.bind((host, 0))
    sock.listen(backlog)
    return sock


def set_buffers(sock: socket.socket, size: int) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)


def socket_pair(*, buffer: int | None = None) -> tuple[socket.socket, socket.socket]:
    """Two ends of one TCP connection: the one that connected, the one that accepted."""
    with listening(buffer=buffer) as listener:
        connecting = socket.socket()
        if buffer is not None:
            set_buffers(connecting, buffer)
        connecting.connect(listener.getsockname())
        accepted, _ = listener.accept()
    for sock in (connecting, accepted):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connecting, accepted


@contextmanager
def as_number(number: int) -> Iterator[socket.socket]:
    """Open a socket under this descriptor number, which must be free; yields the other end of it."""
    one, other = socket.socketpair()
    if other.fileno() == number:
        one, other = other, one
    with one, other:
        if one.fileno() != number:
            os.dup2(one.fileno(), number)
        try:
            yield other
        finally:
            if one.fileno() != number:
                os.close(number)


def tcp_stream(sock: socket.socket, poller: Poller) -> TcpStream:
    """The socket as a stream of the package, which owns it from here on."""
    address, port = sock.getpeername()[:2]
    sock.setblocking(False)
    return TcpStream(sock, poller, address, port)


async def together(*awaitables: Awaitable[object]) -> list[object]:
    """Run all at once; the first error ends them all."""
    tasks = [asyncio.ensure_future(each) for each in awaitables]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
