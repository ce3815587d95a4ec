"""The client's direction of a tunnel whose first bytes are judged before the upstream sees one.

Three phases, the last two only where the gate asks for them:

1. what the client sends is held until the gate lets a first part of it pass;
2. the part has gone on, the rest is held, and the first bytes of the upstream say whether the client has to speak again;
3. it has, and what it sends is held until the gate lets that pass, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from egressproxy.errors import EgressError
from egressproxy.relay.copying import CopyFlow
from egressproxy.stream import TcpStream

if TYPE_CHECKING:
    from egressproxy.deadlines import DeadlineQueue
    from egressproxy.relay.tunnel import Tunnel
    from egressproxy.stream import Stream

READ_BYTES = 4096
"""Read at a time, and all that is read before the rest has been judged."""
MAX_HELD_BYTES = 65_536
"""Held for an upstream that has not answered yet; the client is not read beyond that."""
ANSWER_BYTES = 64
"""Of the upstream's first bytes that the gate is shown at most."""


class Gate(Protocol):
    """Judges the first bytes of a client. Whatever judges raises EgressError where they must not pass.

    patient    a client that says nothing may go on saying nothing: the deadline begins with its first byte
    deadlines  where that deadline is set
    judged     bytes of the client that have been judged before
    listens    set by `judge`: the upstream's answer decides whether the client has to be judged again
    """

    patient: bool
    deadlines: DeadlineQueue
    judged: int
    listens: bool

    def judge(self, data: bytes) -> int | None:
        """With all that came so far: how much of it may pass now, at least something, or None when more is needed."""

    def hear(self, answer: bytes) -> bool | None:
        """With the first bytes of the upstream: whether the client has to be judged again; None when more is needed."""

    def judge_again(self, data: bytes) -> bool:
        """With all that came behind what `judge` let pass: True when it may pass, False when more is needed."""

    def end(self, data: bytes) -> None:
        """No more comes, in a phase that waits for it. Returns when what came may pass."""

    def expire(self, data: bytes) -> None:
        """As `end`: no more came in time."""


class HeldFlow:
    """Carries no more than what is judged. When all may pass, the tunnel puts a flow that carries in its place.

    phase  1, 2 or 3, as above
    """

    __slots__ = (
        "_answer",
        "_deadlines",
        "_gate",
        "_held",
        "_more",
        "_passing",
        "_sink",
        "_source",
        "_source_ended",
        "_tunnel",
        "blocked",
        "broken",
        "carried",
        "done",
        "phase",
        "reading",
    )

    def __init__(self, tunnel: Tunnel, source: Stream, sink: Stream, gate: Gate) -> None:
        self._tunnel = tunnel
        self._source = source
        self._sink = sink
        self._gate = gate
        self._deadlines = gate.deadlines
        ahead = source.take_unread()
        self._passing = ahead[: gate.judged]
        self._held = b""
        self._answer = b""
        source.unread(ahead[gate.judged :])
        self.phase = 2 if gate.judged else 1
        self._source_ended = False
        # No event tells of what was put back, or waits inside a TLS engine.
        self._more = bool(ahead) or type(source) is not TcpStream
        self.reading = True
        self.blocked = bool(self._passing)
        self.done = False
        self.broken: str | None = None
        self.carried = 0
        if self.phase == 1 and not gate.patient:
            gate.deadlines.start(self)

    def more(self) -> bool:
        return self._more and self.reading

    def pump(self) -> bool:
        if self.done:
            return False
        changed = bool(self._passing) and self._pass_on()
        self._more = False
        if not self.reading:
            return True
        try:
            data = self._source.try_read(READ_BYTES)
        except OSError:
            self._end("source")
            return True
        if data is None:
            return changed
        if self.broken == "sink":  # nobody is left to pass it to
            if not data:
                self._end("sink")
            return True
        return self._take(data)

    def _take(self, data: bytes) -> bool:
        gate = self._gate
        if self.phase == 1 and gate.patient and not self._held:
            self._deadlines.start(self)
        self._held += data
        self._source_ended = not data
        self._more = bool(data)
        if self.phase == 2:
            if not data:
                if not self._held:
                    return self._let_pass()  # nothing comes any more that could be judged
                self._tunnel.half_closed()
            self.reading = bool(data) and len(self._held) < MAX_HELD_BYTES
            return True
        try:
            if not data:
                gate.end(self._held)
                return self._let_pass()
            return self._judge()
        except EgressError as error:
            self._refuse(error)
            return False

    def _judge(self) -> bool:
        """What is held, by the phase. Raises EgressError."""
        gate = self._gate
        if self.phase == 3:
            return self._let_pass() if gate.judge_again(self._held) else True
        part = gate.judge(self._held)
        if part is None:
            return True
        if not gate.listens:
            return self._let_pass()
        self._deadlines.stop(self)
        self._passing, self._held = self._held[:part], self._held[part:]
        self.phase = 2
        self._pass_on()
        return True

    def _pass_on(self) -> bool:
        """Hand the judged part to the sink; True when nothing of it waits any more."""
        try:
            sent = self._sink.try_write(self._passing)
        except OSError:
            self.abandon()
            return True
        self.carried += sent
        self._passing = self._passing[sent:]
        self.blocked = bool(self._passing)
        return not self.blocked

    def hear(self, data: bytes) -> bool:
        """What the upstream says, before the client gets it; False when the client is refused for what it had said before."""
        if self.phase != 2 or self.done or self.broken:
            return True
        gate = self._gate
        self._answer += data[: ANSWER_BYTES - len(self._answer)]
        try:
            again = gate.hear(self._answer)
            if again is None:
                return True
            if again:
                self.phase = 3
                self._deadlines.start(self)
                self.reading = self._more = not self._source_ended
                again = not (self._held and gate.judge_again(self._held))
                if again and self._source_ended:
                    gate.end(self._held)
                    again = False
        except EgressError as error:
            self._refuse(error)
            return False
        if not again:
            self._let_pass()
        return True

    def unheard(self) -> None:
        """The upstream has ended its half. One that has not answered by now never will."""
        if self.phase == 2 and not self.done and not self.broken:
            self._let_pass()

    def expire(self) -> None:
        """The client's deadline has passed."""
        if self.done:
            return
        tunnel = self._tunnel
        try:
            self._gate.expire(self._held)
        except EgressError as error:
            self._refuse(error)
        else:
            self._let_pass()
            tunnel.go_on()

    def _let_pass(self) -> bool:
        tunnel = self._tunnel
        self._source.unread(self._passing + self._held)
        self.release()
        return tunnel.let_pass()

    def _refuse(self, error: EgressError) -> None:
        self._stop()
        self._tunnel.refuse(error)

    def _end(self, broken: str) -> None:
        self._stop()
        self.broken = self.broken or broken

    def _stop(self) -> None:
        self._deadlines.stop(self)
        self.reading = False
        self.blocked = False
        self.done = True

    def tell_end(self, *, closing: bool) -> None:
        """The end of a direction that was never judged to its end is told by closing."""

    def abandon(self) -> None:
        self._deadlines.stop(self)
        self.broken = self.broken or "sink"
        self._held = self._passing = b""
        self.blocked = False
        self.reading = not self._source_ended

    def release(self) -> None:
        self._stop()
        self._held = self._passing = b""
        del self._tunnel, self._gate  # both lead to the tunnel, which holds this flow: a cycle, unless cut here


class Ear:
    """The upstream as the tunnel's other direction reads it while the client is held: the flow that holds it hears all."""

    __slots__ = ("_held", "_listens", "_upstream")

    def __init__(self, upstream: Stream, held: HeldFlow) -> None:
        self._upstream = upstream
        self._held = held
        self._listens = True

    def try_read(self, size: int) -> bytes | None:
        held = self._held
        if self._listens and held.done:  # pause once: here the fastest engine takes over
            self._listens = False
            return None
        data = self._upstream.try_read(READ_BYTES if held.phase == 2 else size)
        return data if not data or held.hear(data) else None


class HeardFlow(CopyFlow):
    """The upstream's direction while the client is held. Afterwards the tunnel puts the fastest engine in its place."""

    __slots__ = ()

    def __init__(self, upstream: Stream, client: Stream, held: HeldFlow) -> None:
        super().__init__(Ear(upstream, held), client)
        ahead = upstream.take_unread()
        upstream.unread(ahead)
        self._more = bool(ahead) or type(upstream) is not TcpStream

    @property
    def empty(self) -> bool:
        """Nothing that was read waits for the client, and the upstream may say more."""
        return not (self.blocked or self.done or self.broken or self._source_ended or self._pending)
