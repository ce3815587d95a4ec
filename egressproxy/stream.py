"""One peer's connection: read, replay, write, end one half, close. Over TCP, or over TLS on top of TCP.

A stream offers each step twice: `try_*` never waits (the relay drives it from the poller's events), the coroutine of the
same name waits. Bytes that an earlier stage read too far are put back with `unread` and come first again, so no stage
cares that another one looked.

Errors: every method may raise OSError when the connection is broken (`ssl.SSLError` is one). Whoever calls knows which
peer it is, and translates. A stream is closed by whoever opened it; closing twice is harmless.
"""

from __future__ import annotations

import fcntl
import socket
import ssl
import struct
import sys
import termios
from typing import TYPE_CHECKING, Protocol

from egressproxy.hostport import plain_address
from egressproxy.poller import HUNG_UP, READ, WRITE
from egressproxy.stories import Signal

if TYPE_CHECKING:
    from _socket import socket as RawSocket
    from collections.abc import Callable

    from egressproxy.poller import Poller
    from egressproxy.sessions import Resumption

TLS_CHUNK_BYTES = 65_536
"""Plaintext encrypted at a time. A TLS record holds at most 16 KiB."""
MAX_OWED_BYTES = 4 * TLS_CHUNK_BYTES
"""Ciphertext that may wait for the peer. A write takes one chunk at most; more than a few are answers it makes us give."""
TLS_READ_BYTES = 16_384
"""Ciphertext read at a time. It may be hundreds of records that hold nothing: so much work is one turn."""

_LINGER_FOR_NOTHING = struct.pack("ii", 1, 0)
"""struct linger: on, for 0 seconds. Closing then sends a reset."""


class StreamExpired(Exception):
    """The stream's deadline passed while something waited for its peer."""


class Stream(Protocol):
    """What the stages see of a connection.

    address, port  the peer's, address in standard spelling
    fd             the descriptor to watch
    """

    address: str
    port: int
    fd: int

    @property
    def expired(self) -> bool:
        """A deadline for the peer has passed. Trying goes on working: whoever need not wait has to ask."""

    @property
    def has_unread(self) -> bool:
        """Bytes have come, or were put back, that no event will tell of: try to read before waiting for one."""

    def try_read(self, size: int) -> bytes | None:
        """Up to `size` bytes; empty at the end of the stream, None if there is nothing yet."""

    def try_write(self, data: bytes | memoryview) -> int:
        """Take as many bytes as fit now and return how many; 0 if none."""

    def try_flush(self) -> bool:
        """Push out what was taken and is still held; True when nothing is left."""

    async def read(self, size: int) -> bytes:
        """Up to `size` bytes, at least one; empty at the end of the stream."""

    async def write(self, data: bytes) -> None:
        """Write all of it, and what was taken before and is still held."""

    def unread(self, data: bytes) -> None:
        """Put bytes back: they are read next."""

    def take_unread(self) -> bytes:
        """The bytes that were put back and not read again."""

    def unsent_bytes(self) -> int:
        """Bytes on their way that the peer's system has not acknowledged; 0 where that cannot be known."""

    def end_writing(self) -> None:
        """Tell the peer that no more comes; it may go on sending. After a `try_flush` that said True."""

    def expire(self) -> None:
        """A deadline for the peer has passed: what waits for it, now or later, gets StreamExpired."""

    def renew(self) -> None:
        """Forget a deadline that has passed: another one begins."""

    def close(self) -> None:
        """Close, giving the kernel what is still unsent."""

    def abort(self) -> None:
        """Close with a reset, so that the peer cannot take what it got for the whole."""


class TcpStream:
    """A connected, non-blocking TCP socket. Owns it.

    One coroutine may wait to read and another one to write.

    expired    see `Stream.expired`
    has_ended  the end of the peer's half was read
    was_reset  a write found out that the peer has reset the connection. The kernel says so only once; a reader that finds
               the end afterwards is told, too.
    hung_up    the poller has told of the end of the peer's half, or of a failure; what it sent before may be unread
    unawaited  called with the poller's events while nobody waits to read; None: they are for nobody
    """

    __slots__ = (
        "_drained",
        "_reader",
        "_unread",
        "_writer",
        "address",
        "expired",
        "fd",
        "has_ended",
        "hung_up",
        "poller",
        "port",
        "sock",
        "unawaited",
        "was_reset",
    )

    def __init__(self, sock: RawSocket, poller: Poller, address: str, port: int) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self.poller = poller
        self.address = address
        self.port = port
        self.was_reset = False
        self.hung_up = False
        self.has_ended = False
        self.expired = False
        self.unawaited: Callable[[int], None] | None = None
        self._unread = b""
        self._drained = False  # nothing is left to read of which the poller has told
        self._reader: Signal | None = None
        self._writer: Signal | None = None

    def __repr__(self) -> str:
        return f"<TcpStream {self.address} port {self.port} {'closed' if self.fd < 0 else f'fd {self.fd}'}>"

    def here(self) -> tuple[str, int]:
        """Our own end, address in standard spelling. A connection that is over has none any more: empty, and 0."""
        try:
            name = self.sock.getsockname()
        except OSError:
            return "", 0
        return plain_address(name[0]), name[1]

    @property
    def has_unread(self) -> bool:
        return bool(self._unread)

    def try_read(self, size: int) -> bytes | None:
        if self._unread:
            data, self._unread = self._unread[:size], self._unread[size:]
            return data
        try:
            data = self.sock.recv(size)
        except BlockingIOError:
            self._drained = True
            return None
        if len(data) < size:
            # An end of the stream that came before the poller told of these bytes was told with them; one that came since
            # will be told.
            self._drained = not self.hung_up
            if not data:
                self.has_ended = True
                if self.was_reset:
                    raise ConnectionResetError("the peer has reset the connection")
        else:
            self._drained = False
        return data

    def try_write(self, data: bytes | memoryview) -> int:
        try:
            return self.sock.send(data)
        except BlockingIOError:
            return 0
        except BrokenPipeError:  # it had ended its own half in order before
            raise
        except OSError:
            self.was_reset = True
            raise

    def try_flush(self) -> bool:
        return True

    async def wait(self, events: int) -> None:
        """Return when the socket is ready for one of the events, or broken; or a little earlier. Raises StreamExpired.

        events  READ, after `try_read` has had nothing or less than it could take, or WRITE
        """
        if not self.expired:
            waiter = Signal()
            poller = self.poller
            if events == READ:
                self._reader = waiter
                if not (self._drained and poller.is_armed(self.fd, self)):
                    poller.arm(self.fd, READ if self._writer is None else READ | WRITE, self)
            else:
                self._writer = waiter
                poller.arm(self.fd, READ | WRITE, self)
            try:
                await waiter
            finally:
                if self._reader is waiter:
                    self._reader = None
                else:
                    self._writer = None
        if self.expired:
            raise StreamExpired

    @property
    def may_have_more(self) -> bool:
        """There may be something to read of which nobody will be told any more: trying will tell."""
        return not self._drained

    def listen(self) -> None:
        """Have `unawaited` told of what comes from now on, and of what is there."""
        if not self.poller.is_armed(self.fd, self):
            self.poller.arm(self.fd, READ, self)

    def __call__(self, events: int) -> None:
        """As the poller's handler."""
        if events & HUNG_UP:
            self.hung_up = True
            self._drained = False
        if events != WRITE:
            if self._reader is not None:
                self._reader.fire()
            else:
                self._drained = False  # whoever reads next is not told of this again
                if self.unawaited is not None:
                    self.unawaited(events)
        if events != READ and self._writer is not None:
            self._writer.fire()

    def expire(self) -> None:
        self.expired = True
        if self._reader is not None:
            self._reader.fire()
        if self._writer is not None:
            self._writer.fire()

    def renew(self) -> None:
        self.expired = False

    async def read(self, size: int) -> bytes:
        while (data := self.try_read(size)) is None:
            await self.wait(READ)
        return data

    async def write(self, data: bytes) -> None:
        sent = self.try_write(data)
        while sent < len(data):
            await self.wait(WRITE)
            sent += self.try_write(memoryview(data)[sent:])

    def unread(self, data: bytes) -> None:
        self._unread = data + self._unread

    def take_unread(self) -> bytes:
        data, self._unread = self._unread, b""
        return data

    def unsent_bytes(self) -> int:
        try:  # SIOCOUTQ of tcp(7), which has the number of TIOCOUTQ
            answer = fcntl.ioctl(self.fd, termios.TIOCOUTQ, b"\0\0\0\0")
        except (OSError, ValueError):  # closed
            return 0
        return int.from_bytes(answer, sys.byteorder)

    def end_writing(self) -> None:
        self.sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        if self.fd >= 0:
            self.poller.forget(self.fd)
            self.fd = -1
            self.sock.close()

    def abort(self) -> None:
        if self.fd >= 0:
            try:
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_FOR_NOTHING)
            except OSError:
                pass  # reset by the peer before
            self.close()


class TlsStream:
    """TLS over a TcpStream, which it owns.

    The TLS engine works between two memory buffers and never touches the socket. That keeps half-close possible: the end
    of one direction is a close_notify alert (RFC 8446 section 6.1), and OpenSSL, asked to send one while it can read the
    socket, would also swallow what the peer still sends.

    cut_off     the peer's direction has ended without a close_notify: what came may not be the whole
    resumption  where the session is kept by which the next connection to the same server is made faster; None: nowhere
    """

    __slots__ = (
        "_ciphertext",
        "_engine",
        "_incoming",
        "_outgoing",
        "_peer_ended",
        "_plaintext",
        "address",
        "cut_off",
        "fd",
        "port",
        "resumption",
        "tcp",
    )

    def __init__(
        self,
        tcp: TcpStream,
        context: ssl.SSLContext,
        *,
        server_side: bool,
        server_name: str | None = None,
        session: ssl.SSLSession | None = None,
    ) -> None:
        """`server_name`: of the peer, where it is the server; `session`: what to offer it to resume."""
        self.tcp = tcp
        self.fd = tcp.fd
        self.address = tcp.address
        self.port = tcp.port
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._engine = context.wrap_bio(
            self._incoming, self._outgoing, server_side=server_side, server_hostname=server_name, session=session
        )
        self.resumption: Resumption | None = None
        self._plaintext = b""  # put back, or read ahead
        self._ciphertext = b""  # taken from the engine, not yet accepted by the socket
        self._peer_ended = False
        self.cut_off = False

    def __repr__(self) -> str:
        return f"<TlsStream over {self.tcp!r}>"

    @property
    def expired(self) -> bool:
        return self.tcp.expired

    @property
    def engine(self) -> ssl.SSLObject:
        """The TLS engine, for asking what was agreed and who the peer is. Not for reading or writing."""
        return self._engine

    async def handshake(self) -> None:
        """Complete the handshake. Raises ssl.SSLError or OSError; the alert that fits is sent first."""
        while True:
            try:
                self._engine.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                data = await self.tcp.read(TLS_READ_BYTES)
                if not data:
                    raise ConnectionResetError("the peer closed the connection during the TLS handshake") from None
                self._incoming.write(data)
            except ssl.SSLError:
                await self._flush()
                raise
            else:
                await self._flush()
                return

    @property
    def has_unread(self) -> bool:
        return bool(self._plaintext or self._incoming.pending or self._engine.pending())

    def try_read(self, size: int) -> bytes | None:
        if self._plaintext:
            ahead, self._plaintext = self._plaintext[:size], self._plaintext[size:]
            return ahead
        if self._peer_ended:
            return b""
        # To ask an engine that has nothing costs an exception, half as much as all the rest.
        data = self._decrypt(size) if self._incoming.pending or self._engine.pending() else None
        if data is None:
            # One read of the socket and no more, whether it holds data or not: a peer could send records without any for
            # ever. The poller tells of the rest.
            received = self.tcp.try_read(TLS_READ_BYTES)
            if received:
                self._incoming.write(received)
                data = self._decrypt(size)
            elif received is not None:
                # The end without a close_notify. Many clients leave so; what is inside the tunnel has its own guard.
                data = b""
                self.cut_off = True
            self._answer()
        if data == b"":
            self._peer_ended = True
        return data

    def _answer(self) -> None:
        """Send what the engine itself owes the peer, as after a key update. Raises when the peer reads none of it."""
        try:
            sent = self.try_flush()
        except OSError:
            return  # broken for writing; what there is to read still counts
        if not sent and len(self._ciphertext) > MAX_OWED_BYTES:
            raise ConnectionAbortedError("the peer makes TLS answer and does not read the answers")

    def _decrypt(self, size: int) -> bytes | None:
        """What the engine has of data: empty at the peer's close_notify, None when it needs more."""
        try:
            return self._engine.read(size)
        except ssl.SSLWantReadError:
            return None
        except ssl.SSLZeroReturnError:
            return b""

    def try_write(self, data: bytes | memoryview) -> int:
        if not self.try_flush():
            return 0
        taken = self._engine.write(memoryview(data)[:TLS_CHUNK_BYTES]) if data else 0
        self.try_flush()
        return taken

    def try_flush(self) -> bool:
        if self._outgoing.pending:
            made = self._outgoing.read()
            self._ciphertext = self._ciphertext + made if self._ciphertext else made
        while self._ciphertext:
            sent = self.tcp.try_write(self._ciphertext)
            if not sent:
                return False
            self._ciphertext = self._ciphertext[sent:]
        return True

    async def _flush(self) -> None:
        while not self.try_flush():
            await self.tcp.wait(WRITE)

    def expire(self) -> None:
        self.tcp.expire()

    def renew(self) -> None:
        self.tcp.renew()

    async def read(self, size: int) -> bytes:
        while (data := self.try_read(size)) is None:
            await self.tcp.wait(READ)
        return data

    async def write(self, data: bytes) -> None:
        await self._flush()  # for no data, too: what was taken before is still to be written
        view = memoryview(data)
        while view:
            taken = self.try_write(view)
            view = view[taken:]
            await self._flush()

    def unread(self, data: bytes) -> None:
        self._plaintext = data + self._plaintext

    def take_unread(self) -> bytes:
        data, self._plaintext = self._plaintext, b""
        return data

    def unsent_bytes(self) -> int:
        return len(self._ciphertext) + self._outgoing.pending + self.tcp.unsent_bytes()

    def end_writing(self) -> None:
        # `unwrap` sends our close_notify and then tries to read the peer's: everything that has arrived is taken out of
        # its reach first. What it raises is the want of that answer, or what is wrong with the peer's half, which the next
        # read will tell.
        if not self._peer_ended:
            ahead = b""
            try:
                while data := self._engine.read(TLS_CHUNK_BYTES):
                    ahead += data
                self._peer_ended = True
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLZeroReturnError:
                self._peer_ended = True
            self._plaintext += ahead
        try:
            self._engine.unwrap()
        except (ssl.SSLError, ValueError):
            pass
        self.try_flush()

    def close(self) -> None:
        self.fd = -1
        self.tcp.close()

    def abort(self) -> None:
        self.fd = -1
        self.tcp.abort()
