"""The engine for TCP on both sides, on Linux: copies, and splices while it pays.

Copying is cheapest for short exchanges. After two full reads in a row the flow takes a pipe and moves the bytes inside the
kernel, source to pipe and pipe to sink; when little comes it goes back to copying.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

from egressproxy.relay.flow import COPY_BYTES, TURN_BYTES
from egressproxy.relay.pipes import PIPE_BYTES

if TYPE_CHECKING:
    from _socket import socket as RawSocket

    from egressproxy.relay.pipes import Pipe, PipePool
    from egressproxy.stream import TcpStream

FULL_READS = 2
"""Full reads in a row before a flow takes a pipe: a single one is common in ordinary exchanges."""
_SPLICE_FLAGS = getattr(os, "SPLICE_F_MOVE", 0) | getattr(os, "SPLICE_F_NONBLOCK", 0)

_buffer = bytearray(COPY_BYTES)  # one for all flows: what a flow cannot hand on at once, it takes out
_view = memoryview(_buffer)


class SpliceFlow:
    """TCP to TCP: copies, and splices while it pays."""

    __slots__ = (
        "_bulk",
        "_full_reads",
        "_pending",
        "_pipe",
        "_pool",
        "_sink",
        "_sink_stream",
        "_source",
        "_source_ended",
        "_source_stream",
        "blocked",
        "broken",
        "carried",
        "done",
        "reading",
    )

    def __init__(self, source: TcpStream, sink: TcpStream, pool: PipePool) -> None:
        self._source_stream = source
        self._sink_stream = sink
        self._source: RawSocket = source.sock
        self._sink: RawSocket = sink.sock
        self._pool = pool
        self._pending = source.take_unread()
        self._pipe: Pipe | None = None
        self._bulk = False
        self._full_reads = 0
        self._source_ended = False
        self.reading = not self._pending
        self.blocked = bool(self._pending)  # the first bytes go out at the first pump, as if the sink had been full
        self.done = False
        self.broken: str | None = None
        self.carried = 0

    def more(self) -> bool:
        return False

    def pump(self) -> bool:
        changed = False
        if not self.reading:
            if not self.blocked or not self._hand_on():
                return False
            changed = True
            if not self.reading:
                return True
        moved = 0
        while moved < TURN_BYTES:
            if self._bulk:
                pipe = self._pool.take()
                if pipe is not None:
                    return self._splice(pipe) or changed
                self._bulk, self._full_reads = False, 0
            try:
                count = self._source.recv_into(_buffer)
            except BlockingIOError:
                return changed
            except OSError:
                return self._source_broke()
            if not count:
                return self._source_over()
            if self.broken:
                return changed  # nobody to hand it to
            try:
                sent = self._sink.send(_view[:count])
            except BlockingIOError:
                sent = 0
            except OSError as error:
                return self._sink_broke(error)
            self.carried += sent
            if sent < count:
                self._pending = bytes(_view[sent:count])
                return self._wait_for_sink()
            if count < COPY_BYTES:
                self._full_reads = 0
                return changed
            moved += count
            self._full_reads += 1
            self._bulk = self._full_reads >= FULL_READS
        return changed

    def _splice(self, pipe: Pipe) -> bool:
        """Through a pipe, as long as much is coming. What is left when the turn is over is announced again."""
        self._pipe = pipe
        source, sink = self._source.fileno(), self._sink.fileno()
        moved = 0
        while moved < TURN_BYTES:
            try:
                count = os.splice(source, pipe.writer, PIPE_BYTES, flags=_SPLICE_FLAGS)
            except BlockingIOError:
                break  # the source has nothing more: the pipe is empty here, so it cannot be full
            except OSError:
                self._return_pipe()
                return self._source_broke()
            if not count:
                self._return_pipe()
                return self._source_over()
            pipe.held = count
            moved += count
            if not self._empty_pipe(pipe, sink):
                return True
        if moved < COPY_BYTES:
            self._bulk, self._full_reads = False, 0
        self._return_pipe()
        return False

    def _empty_pipe(self, pipe: Pipe, sink: int) -> bool:
        """True when the sink has taken all that is in the pipe."""
        cut_short = False
        try:
            while pipe.held:
                count = os.splice(pipe.reader, sink, pipe.held, flags=_SPLICE_FLAGS)
                pipe.held -= count
                self.carried += count
                cut_short = True
        except BlockingIOError:
            self._wait_for_sink()
            return False
        except OSError as error:
            # A splice that a reset cuts short tells of the part it sent, and takes the kernel's only word of the reset with it.
            self._sink_stream.was_reset |= cut_short
            self._return_pipe()
            self._sink_broke(error)
            return False
        return True

    def _hand_on(self) -> bool:
        """What the sink did not take last time goes first. True when it has taken all now."""
        if self._pipe is not None:
            if not self._empty_pipe(self._pipe, self._sink.fileno()):
                return self.broken is not None
            self._return_pipe()
        elif self._pending:
            try:
                sent = self._sink.send(self._pending)
            except BlockingIOError:
                return False
            except OSError as error:
                return self._sink_broke(error)
            self.carried += sent
            self._pending = self._pending[sent:]
            if self._pending:
                return False
        self.blocked = False
        self.reading = not self._source_ended
        return True

    def _wait_for_sink(self) -> bool:
        self.blocked, self.reading = True, False
        return True

    def _source_over(self) -> bool:
        """The source has ended, and all it sent was handed on."""
        if self._source_stream.was_reset:
            return self._source_broke()
        self._source_ended = True
        self.reading = False
        self.done = True
        return True

    def tell_end(self, *, closing: bool) -> None:
        if closing or self.broken:
            return
        try:
            self._sink.shutdown(socket.SHUT_WR)
        except OSError:
            self.broken = "sink"

    def _source_broke(self) -> bool:
        self._source_ended = True
        self.reading = False
        self.done = True
        self.broken = self.broken or "source"
        return True

    def _sink_broke(self, error: OSError) -> bool:
        if not isinstance(error, BrokenPipeError):
            self._sink_stream.was_reset = True
        self.abandon()
        return True

    def abandon(self) -> None:
        self._return_pipe()
        self.broken = self.broken or "sink"
        self._pending = b""
        self._bulk = False
        self.blocked = False
        self.reading = not self._source_ended

    def _return_pipe(self) -> None:
        if self._pipe is not None:
            self._pool.give(self._pipe)
            self._pipe = None

    def release(self) -> None:
        self._return_pipe()
