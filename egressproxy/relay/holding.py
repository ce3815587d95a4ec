"""The client's direction of a tunnel whose first bytes are judged before the upstream sees one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from egressproxy.errors import EgressError
from egressproxy.stream import TcpStream

if TYPE_CHECKING:
    from egressproxy.deadlines import DeadlineQueue
    from egressproxy.relay.tunnel import Tunnel
    from egressproxy.stream import Stream

READ_BYTES = 4096
"""Read at a time, and all that is read before the rest has been judged."""


class Gate(Protocol):
    """Judges the first bytes of a client.

    patient    a client that says nothing may go on saying nothing: the deadline begins with its first byte
    deadlines  where that deadline is set
    """

    patient: bool
    deadlines: DeadlineQueue

    def judge(self, data: bytes) -> bool:
        """With all that came so far: True when it may pass, False when more is needed. Raises EgressError if it must not."""

    def end(self, data: bytes) -> None:
        """No more comes. Returns when what came may pass, raises EgressError if not."""

    def expire(self, data: bytes) -> None:
        """As `end`: no more came in time."""


class HeldFlow:
    """Carries nothing yet. When the gate lets the bytes pass, the tunnel puts the flow that carries in its place."""

    __slots__ = (
        "_deadlines",
        "_gate",
        "_held",
        "_more",
        "_source",
        "_tunnel",
        "blocked",
        "broken",
        "carried",
        "done",
        "reading",
    )

    def __init__(self, tunnel: Tunnel, source: Stream, gate: Gate) -> None:
        self._tunnel = tunnel
        self._source = source
        self._gate = gate
        self._deadlines = gate.deadlines
        self._held = b""
        ahead = source.take_unread()
        source.unread(ahead)
        self._more = bool(ahead) or type(source) is not TcpStream  # no event tells of what waits inside a TLS engine
        self.reading = True
        self.blocked = False
        self.done = False
        self.broken: str | None = None
        self.carried = 0
        if not gate.patient:
            gate.deadlines.start(self)

    def more(self) -> bool:
        return self._more and self.reading

    def pump(self) -> bool:
        if self.done:
            return False
        self._more = False
        try:
            data = self._source.try_read(READ_BYTES)
        except OSError:
            self._end("source")
            return True
        if data is None:
            return False
        if self.broken == "sink":  # nobody is left to pass it to
            if not data:
                self._end("sink")
            return True
        if not self._held and self._gate.patient:
            self._deadlines.start(self)
        self._held += data
        try:
            if not data:
                self._gate.end(self._held)
            elif not self._gate.judge(self._held):
                self._more = True  # of what was put back, or decrypted, no event tells either
                return True
        except EgressError as error:
            self._refuse(error)
            return False
        return self._let_pass()

    def expire(self) -> None:
        """The client's deadline has passed."""
        if self.done:
            return
        try:
            self._gate.expire(self._held)
        except EgressError as error:
            self._refuse(error)
        else:
            self._let_pass()
            self._tunnel.go_on()

    def _let_pass(self) -> bool:
        self._deadlines.stop(self)
        self._source.unread(self._held)
        return self._tunnel.let_pass()

    def _refuse(self, error: EgressError) -> None:
        self._stop()
        self._tunnel.refuse(error)

    def _end(self, broken: str) -> None:
        self._stop()
        self.broken = self.broken or broken

    def _stop(self) -> None:
        self._deadlines.stop(self)
        self.reading = False
        self.done = True

    def tell_end(self, *, closing: bool) -> None:
        """Nothing was carried, and the end of a direction that was never judged is told by closing."""

    def abandon(self) -> None:
        self._deadlines.stop(self)
        self.broken = self.broken or "sink"
        self._held = b""

    def release(self) -> None:
        self._stop()
        self._held = b""
        del self._tunnel, self._gate  # both lead to the tunnel, which holds this flow: a cycle, unless cut here
