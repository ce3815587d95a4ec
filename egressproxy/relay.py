"""Relay: bytes both ways between a client and an upstream, until both directions have ended.

A `Tunnel` is two flows, one per direction, moved by the poller's events. Two engines move a flow, with one interface:

- `SpliceFlow`, for TCP on both sides on Linux: copies first, which is cheapest for the short exchanges most tunnels are
  made of, and after two full reads in a row moves the bytes through a pipe inside the kernel (`splice`).
- `CopyFlow`, for everything else: a TLS side, or a system without splice.

**Back-pressure.** A flow holds at most one chunk (or one pipe) that its sink has not taken. While it holds any, it does
not read its source, so the source's peer is held up by TCP.

**Half-close.** The end of one direction is passed on as the end of that direction; the other goes on. Both ended: the
tunnel is over.

**Breakage.** A source that breaks (a reset) ends the tunnel, after what it sent before was handed on and has arrived; then
the other side sees a reset too. The kernel reports a reset once, to a read or to a write: the stream remembers it for both.
A sink that breaks stops only its own direction: what still arrives for it is read and thrown away, so that the other
direction can end in order and closing does not destroy bytes in flight.

**Timers.** No byte either way for `idle_s`: over. Once one direction has ended, `half_close_s` instead. An event only sets
a counter back; a timer looks at it eight times within that time, so a tunnel ends at most an eighth too late.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import sys
import termios
from typing import TYPE_CHECKING, Protocol

from egressproxy.deadlines import DeadlineQueue
from egressproxy.model import Transfer
from egressproxy.poller import READ, WRITE
from egressproxy.stream import Stream, TcpStream

if TYPE_CHECKING:
    import asyncio
    from _socket import socket as RawSocket

    from egressproxy.poller import Poller

COPY_BYTES = 65_536
"""Read at a time when copying. A read that fills it hints that more is waiting."""
FULL_READS = 2
"""Full reads in a row before a flow takes a pipe: a single one is common in ordinary exchanges."""
TURN_BYTES = 4 * 1024 * 1024
"""Moved for one flow in one event at most; then the other tunnels get their turn."""
PIPE_BYTES = 1024 * 1024
"""Capacity asked for a pipe: the most that an unprivileged process is granted (/proc/sys/fs/pipe-max-size)."""
POOL_PIPES = 32
"""Pipes at most. Past 64 MiB of them the kernel gives an unprivileged user pipes of a page or two (pipe(7))."""
PERIODS = 8
"""Parts of the idle and half-close time after which a tunnel is looked at."""
LINGER_S = 5.0
"""After one side has broken and the other was told the end: how long bytes for nobody are still read and thrown away."""
PARTING_S = 0.05
"""How often to look whether a side has taken all that was under way to it when the other side broke. LINGER_S in all."""
_SIOCOUTQ_FORMAT = "i"

_buffer = bytearray(COPY_BYTES)  # one for all flows: what a flow cannot hand on at once, it takes out
_view = memoryview(_buffer)


class Flow(Protocol):
    """One direction.

    reading  waits for its source to be readable
    blocked  waits for its sink to be writable
    done     its source has ended, and its sink has all that came
    broken   `source` or `sink`, when one of them broke
    carried  bytes its sink has taken
    """

    reading: bool
    blocked: bool
    done: bool
    broken: str | None
    carried: int

    def pump(self) -> bool:
        """Move what can be moved now; True when `reading`, `blocked`, `done` or `broken` may have changed. No OSError."""

    def tell_end(self, *, closing: bool) -> None:
        """Pass the end on to the sink, once `done`. `closing`: the sink is closed next, which tells it as well."""

    def abandon(self) -> None:
        """Its sink is of no use any more: what still comes is read and thrown away."""

    def more(self) -> bool:
        """The source holds bytes that no event will announce."""

    def release(self) -> None:
        """Give back what the flow holds besides its streams."""


class CopyFlow:
    """Any stream to any stream."""

    __slots__ = (
        "_more",
        "_pending",
        "_sink",
        "_source",
        "_source_ended",
        "_told",
        "blocked",
        "broken",
        "carried",
        "done",
        "reading",
    )

    def __init__(self, source: Stream, sink: Stream) -> None:
        self._source = source
        self._sink = sink
        self._pending = memoryview(b"")
        self._source_ended = False
        self._told = False
        self._more = True
        self.reading = True
        self.blocked = False
        self.done = False
        self.broken: str | None = None
        self.carried = 0

    def more(self) -> bool:
        return self._more and self.reading

    def pump(self) -> bool:
        if self.done:
            return False
        moved = 0
        self._more = False
        while True:
            if not self._hand_on():
                return True
            if self._source_ended:
                self.done = True
                return True
            if moved >= TURN_BYTES:
                self._more = True
                return True
            try:
                data = self._source.try_read(COPY_BYTES)
            except OSError:
                self._source_ended = self.done = True
                self.reading = False
                self.broken = self.broken or "source"
                return True
            if data is None:
                return True
            if data:
                moved += len(data)
                if self.broken != "sink":
                    self._pending = memoryview(data)
            else:
                self._source_ended = True
                self.reading = False

    def _hand_on(self) -> bool:
        """True when the sink has taken all."""
        if self.broken == "sink":
            return True
        try:
            while self._pending:
                taken = self._sink.try_write(self._pending)
                if not taken:
                    self.blocked, self.reading = True, False
                    return False
                self.carried += taken
                self._pending = self._pending[taken:]
            if not self._sink.try_flush():
                self.blocked, self.reading = True, False
                return False
        except OSError:
            self.broken = self.broken or "sink"
            self._pending = memoryview(b"")
        self.blocked, self.reading = False, not self._source_ended
        return True

    def tell_end(self, *, closing: bool) -> None:
        if self._told or self.broken:
            return
        self._told = True
        try:
            self._sink.end_writing()  # also when closing: TLS tells an orderly end apart from a cut
            if not self._sink.try_flush():  # and says it in bytes, which may have to wait
                self.blocked, self.done = True, False
        except OSError:
            self.broken = "sink"

    def abandon(self) -> None:
        self.broken = self.broken or "sink"
        self._pending = memoryview(b"")
        self.blocked, self.reading = False, not self._source_ended

    def release(self) -> None:
        self._pending = memoryview(b"")


class Pipe:
    """A kernel pipe, and how many bytes are in it."""

    __slots__ = ("held", "reader", "writer")

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.held = 0
        try:
            fcntl.fcntl(self.writer, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        except OSError:  # over the user's share: a smaller pipe works as well, only with more calls
            pass

    def close(self) -> None:
        os.close(self.reader)
        os.close(self.writer)


class PipePool:
    """Pipes for the flows that move much at the moment. A flow holds one only while bytes are in it."""

    def __init__(self, limit: int = POOL_PIPES) -> None:
        self._limit = limit
        self._free: list[Pipe] = []
        self.made = 0

    def take(self) -> Pipe | None:
        """An empty pipe, or None when all are in use or none can be made: then copy."""
        if self._free:
            return self._free.pop()
        if self.made >= self._limit:
            return None
        try:
            pipe = Pipe()
        except OSError:
            return None
        self.made += 1
        return pipe

    def give(self, pipe: Pipe) -> None:
        """Take the pipe back. One that still holds bytes of a broken tunnel is closed: they must never reach another."""
        if pipe.held:
            pipe.close()
            self.made -= 1
        else:
            self._free.append(pipe)

    def close(self) -> None:
        for pipe in self._free:
            pipe.close()
        self.made -= len(self._free)
        self._free.clear()


if sys.platform == "linux":
    _SPLICE_FLAGS = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK

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
            if self.blocked:
                if not self._hand_on():
                    return False
                changed = True
            if not self.reading:
                return changed
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
            try:
                while pipe.held:
                    count = os.splice(pipe.reader, sink, pipe.held, flags=_SPLICE_FLAGS)
                    pipe.held -= count
                    self.carried += count
            except BlockingIOError:
                self._wait_for_sink()
                return False
            except OSError as error:
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


class Tunnel:
    """One client and one upstream, joined. `run` is the whole of it; the streams stay the caller's to close."""

    __slots__ = (
        "_client",
        "_client_interest",
        "_closed_by",
        "_over",
        "_part_by",
        "_quiet",
        "_relay",
        "_result",
        "_timer",
        "_upstream",
        "_upstream_interest",
        "down",
        "up",
    )

    def __init__(self, relay: Relay, client: Stream, upstream: Stream) -> None:
        self._relay = relay
        self._client = client
        self._upstream = upstream
        self.up = relay.flow(client, upstream)
        self.down = relay.flow(upstream, client)
        self._client_interest = READ
        self._upstream_interest = READ
        self._timer = relay.idle
        self._quiet = 0
        self._part_by = 0.0
        self._closed_by: str | None = None
        self._over: asyncio.Future[None] | None = None
        self._result: tuple[str, str] | None = None

    @property
    def bytes_up(self) -> int:
        """Client to upstream, so far."""
        return self.up.carried

    @property
    def bytes_down(self) -> int:
        """Upstream to client, so far."""
        return self.down.carried

    async def run(self) -> Transfer:
        """Carry until both directions have ended or the tunnel is cut. Cancelling it leaves nothing behind."""
        relay = self._relay
        poller = relay.poller
        relay.tunnels.add(self)
        try:
            self._over = relay.loop.create_future()
            self._timer.start(self)
            poller.watch(self._upstream.fd, READ, self._on_upstream)
            poller.watch(self._client.fd, READ, self._on_client)
            if self.up.blocked or self.down.blocked or self.up.more() or self.down.more():
                self._resume()
            if self._result is None:
                await self._over
            assert self._result is not None
            closed_by, end = self._result
            return Transfer(self.up.carried, self.down.carried, closed_by, end)
        finally:
            relay.tunnels.discard(self)
            self._timer.stop(self)
            if self._result is None:  # cancelled: a `_resume` on its way finds nothing to do
                self._result = ("proxy", "cut")
            for stream in (self._client, self._upstream):
                if stream.fd >= 0:  # one that was reset is closed, and its number may be somebody else's by now
                    poller.forget(stream.fd)
            self.up.release()
            self.down.release()

    def cut(self, end: str) -> None:
        """End it now, from outside; `end` says why."""
        self._finish("proxy", end)

    def expire(self) -> None:
        """A part of the idle or half-close time has passed, or all of the linger time; called by the queue."""
        relay = self._relay
        if self._timer is relay.parting:
            survivor = self._upstream if self.up.broken == "source" else self._client
            if relay.loop.time() < self._part_by and _unsent_bytes(survivor.fd):
                self._timer.start(self)
                return
        if self._timer is relay.linger or self._timer is relay.parting:
            self._finish(*self._broken_end())
            return
        self._quiet += 1
        if self._quiet > PERIODS:
            self._finish("proxy", self._timer.name)
        else:
            self._timer.start(self)

    def _broken_end(self) -> tuple[str, str]:
        """Who broke."""
        if self.up.broken == "sink" or (self.down.broken == "source" and not self.up.broken):
            return "upstream", "upstream_reset"
        return "client", "client_reset"

    def _on_client(self, events: int) -> None:
        self._quiet = 0
        changed = self.up.pump() if events & ~WRITE else False
        if events & ~READ:
            changed |= self.down.pump()
        if changed:
            self._settle()

    def _on_upstream(self, events: int) -> None:
        self._quiet = 0
        changed = self.down.pump() if events & ~WRITE else False
        if events & ~READ:
            changed |= self.up.pump()
        if changed:
            self._settle()

    def _resume(self) -> None:
        """Go on with what no event will announce: bytes read with the head, or inside a TLS engine."""
        if self._result is None:
            self.up.pump()
            self.down.pump()
            self._settle()

    def _settle(self) -> None:
        """After a flow has changed: is it over, and if not, which events are wanted now."""
        if self._result is not None:
            return
        up, down = self.up, self.down
        if up.broken == "source":
            self._part(self._upstream, down)
        elif down.broken == "source":
            self._part(self._client, up)
        elif up.done and down.done:
            up.tell_end(closing=True)
            down.tell_end(closing=True)
            if up.blocked or down.blocked:  # it cannot be told yet
                self._watch()
            elif up.broken or down.broken:
                self._finish(*self._broken_end())
            else:
                self._finish(self._closed_by or "client", "closed")
        else:
            if (up.done or down.done) and self._closed_by is None:
                self._closed_by = "client" if up.done else "upstream"
                (up if up.done else down).tell_end(closing=False)
                self._change_timer(self._relay.half_close)
            if self._closed_by is not None and (up.broken or down.broken):
                self._change_timer(self._relay.linger)
            self._watch()
            if up.more() or down.more():
                self._relay.loop.call_soon(self._resume)

    def _part(self, survivor: Stream, back: Flow) -> None:
        """A source broke: over, once its sink has all that was under way. What comes back meanwhile is for nobody, but must be
        read: closing over unread bytes would destroy those under way."""
        relay = self._relay
        if self._timer is relay.parting:
            self._watch()
        elif _unsent_bytes(survivor.fd):
            back.abandon()
            self._part_by = relay.loop.time() + LINGER_S
            self._change_timer(relay.parting)
            self._watch()
        else:
            self._finish(*self._broken_end())

    def _change_timer(self, timer: DeadlineQueue) -> None:
        if self._timer is not timer:
            self._timer.stop(self)
            self._timer = timer
            self._quiet = 0
            timer.start(self)

    def _watch(self) -> None:
        up, down = self.up, self.down
        client = (READ if up.reading else 0) | (WRITE if down.blocked else 0)
        if client != self._client_interest:
            self._client_interest = client
            self._relay.poller.watch(self._client.fd, client, self._on_client)
        upstream = (READ if down.reading else 0) | (WRITE if up.blocked else 0)
        if upstream != self._upstream_interest:
            self._upstream_interest = upstream
            self._relay.poller.watch(self._upstream.fd, upstream, self._on_upstream)

    def _finish(self, closed_by: str, end: str) -> None:
        if self._result is not None:
            return
        self._result = (closed_by, end)
        if end == "client_reset":
            pass_on_reset(self._upstream)
        elif end == "upstream_reset":
            pass_on_reset(self._client)
        if self._over is not None and not self._over.done():
            self._over.set_result(None)


class Relay:
    """All tunnels of one worker: their poller, timers, pipes, and the tunnels themselves."""

    def __init__(self, poller: Poller, loop: asyncio.AbstractEventLoop, idle_s: float, half_close_s: float) -> None:
        self.poller = poller
        self.loop = loop
        self.idle = DeadlineQueue("idle_timeout", idle_s / PERIODS, loop)
        self.half_close = DeadlineQueue("half_close_timeout", half_close_s / PERIODS, loop)
        self.linger = DeadlineQueue("linger", LINGER_S, loop)
        self.parting = DeadlineQueue("parting", PARTING_S, loop)
        self.pipes = PipePool()
        self.tunnels: set[Tunnel] = set()

    def configure(self, idle_s: float, half_close_s: float) -> None:
        """Change the times of tunnels to come; open ones keep theirs."""
        if idle_s / PERIODS != self.idle.delay_s:
            self.idle = DeadlineQueue("idle_timeout", idle_s / PERIODS, self.loop)
        if half_close_s / PERIODS != self.half_close.delay_s:
            self.half_close = DeadlineQueue("half_close_timeout", half_close_s / PERIODS, self.loop)

    def open(self, client: Stream, upstream: Stream) -> Tunnel:
        """Join the two; nothing moves before the tunnel's `run`."""
        return Tunnel(self, client, upstream)

    def flow(self, source: Stream, sink: Stream) -> Flow:
        """The fastest engine for the pair."""
        if sys.platform == "linux" and type(source) is TcpStream and type(sink) is TcpStream:
            return SpliceFlow(source, sink, self.pipes)
        return CopyFlow(source, sink)

    def cut_all(self, end: str) -> int:
        """End every tunnel; how many there were."""
        tunnels = list(self.tunnels)
        for tunnel in tunnels:
            tunnel.cut(end)
        return len(tunnels)

    def close(self) -> None:
        """Give timers and pipes back, once no tunnel is open."""
        self.idle.close()
        self.half_close.close()
        self.linger.close()
        self.parting.close()
        self.pipes.close()


def pass_on_reset(stream: Stream) -> None:
    """Reset the stream, unless bytes to its peer are still on their way: those are not destroyed."""
    if isinstance(stream, TcpStream) and stream.fd >= 0 and not _unsent_bytes(stream.fd):
        try:
            stream.abort()
        except OSError:
            pass


def _unsent_bytes(fd: int) -> int:
    """Bytes that the peer has not acknowledged (SIOCOUTQ, tcp(7); the same number as TIOCOUTQ)."""
    try:
        answer = fcntl.ioctl(fd, termios.TIOCOUTQ, struct.pack(_SIOCOUTQ_FORMAT, 0))
    except OSError:
        return 0
    return int(struct.unpack(_SIOCOUTQ_FORMAT, answer)[0])
