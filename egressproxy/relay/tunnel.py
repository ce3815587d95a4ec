"""One client and one upstream, joined.

**Half-close.** The end of one direction is passed on as the end of that direction; the other goes on. Both ended: the
tunnel is over.

**Breakage.** When one side dies (a reset), the living one still gets all that the dead one sent, and then meets the same
end: a reset after a reset, an end after an end. What it sends meanwhile is for nobody, but is read: unread bytes would turn
closing into a reset that destroys what is on its way to it. The kernel reports a reset once, to a read or to a write: the
stream remembers it for both.

**Held.** What the client sends may be held until its first bytes are judged (`holding`). The other direction flows meanwhile;
its first bytes are looked at where the judgement depends on them.

**Quiet.** No byte either way for `idle_s`: over. Once one direction has ended, `half_close_s` instead. An event only sets a
counter back; the relay looks at it every now and then, and at how old the tunnel is, where that has a bound.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from egressproxy.model import Transfer
from egressproxy.poller import READ, WRITE
from egressproxy.relay.holding import HeardFlow, HeldFlow
from egressproxy.stories import Signal

if TYPE_CHECKING:
    import asyncio

    from egressproxy.errors import EgressError
    from egressproxy.relay.flow import Flow
    from egressproxy.relay.holding import Gate
    from egressproxy.relay.relay import Relay
    from egressproxy.stream import Stream

LINGER_S = 5.0
"""How long a living side may take to get what is on its way to it, when the other side is dead."""
LINGER_FIRST_S = 0.002
LINGER_CHECK_S = 0.05
"""How soon it is looked whether it has: first, and at most. Its system may hold an acknowledgement back for 40 ms."""


class Tunnel:
    """`run` is the whole of it; the streams stay the caller's to close.

    up, down  client to upstream, upstream to client
    """

    __slots__ = (
        "_age_s",
        "_client",
        "_client_interest",
        "_closed_by",
        "_half_closed",
        "_held",
        "_linger_timer",
        "_lingered_s",
        "_over",
        "_quiet_s",
        "_refusal",
        "_relay",
        "_result",
        "_resume_due",
        "_upstream",
        "_upstream_interest",
        "down",
        "up",
    )

    def __init__(self, relay: Relay, client: Stream, upstream: Stream, gate: Gate | None = None) -> None:
        """`gate`: what the client sends is held until this lets it pass, or refuses it."""
        self._relay = relay
        self._client = client
        self._upstream = upstream
        self.up: Flow
        self.down: Flow
        self._held: HeldFlow | None = None  # until the upstream need not be heard any more
        if gate is None:
            self.up = relay.flow(client, upstream)
            self.down = relay.flow(upstream, client)
        else:
            self.up = self._held = HeldFlow(self, client, upstream, gate)
            self.down = HeardFlow(upstream, client, self._held)
        self._client_interest = READ
        self._upstream_interest = READ
        self._quiet_s = 0.0
        self._age_s = 0.0
        self._lingered_s: float | None = None  # a number while one side is dead and the other has not got everything
        self._linger_timer: asyncio.TimerHandle | None = None
        self._resume_due = False
        self._half_closed = False
        self._closed_by: str | None = None  # who ended first in order, and the other side was told
        self._over = Signal()
        self._result: tuple[str, str] | None = None
        self._refusal: EgressError | None = None

    @property
    def bytes_up(self) -> int:
        """Client to upstream, so far."""
        return self.up.carried

    @property
    def bytes_down(self) -> int:
        """Upstream to client, so far."""
        return self.down.carried

    async def run(self) -> Transfer:
        """Carry until both directions have ended or the tunnel is cut. Cancelling it leaves nothing behind.

        Raises what the gate refuses the client's first bytes with.
        """
        relay = self._relay
        poller = relay.poller
        client, upstream = self._client, self._upstream
        relay.enter(self)
        try:
            poller.watch(upstream.fd, READ, self._on_upstream)
            poller.watch(client.fd, READ, self._on_client)
            if self.up.blocked or self.down.blocked or self.up.more() or self.down.more():
                self._resume()
            if self._result is None:
                await self._over
            assert self._result is not None
            if self._refusal is not None:
                raise self._take_refusal()
            closed_by, end = self._result
            return Transfer(self.up.carried, self.down.carried, closed_by, end)
        finally:
            relay.tunnels.discard(self)
            if self._linger_timer is not None:
                self._linger_timer.cancel()
            if self._result is None:  # cancelled: a `_resume` on its way finds nothing to do
                self._result = ("proxy", "cut")
            poller.forget(client.fd)  # one that was reset is closed, and has none any more: its number may be another's
            poller.forget(upstream.fd)
            self.up.release()
            self.down.release()
            self._held = None

    def cut(self, end: str) -> None:
        """End it now, from outside; `end` says why."""
        self._finish("proxy", end)

    def let_pass(self) -> bool:
        """What was held may pass and has been put back: the flow that carries takes over. As `Flow.pump`."""
        self.up = self._in_place_of(self.up, self._client, self._upstream)
        self.up.pump()
        return True  # also when the sink takes nothing yet: it waits for other events than the flow before

    def _in_place_of(self, flow: Flow, source: Stream, sink: Stream) -> Flow:
        fastest = self._relay.flow(source, sink)
        fastest.carried = flow.carried
        return fastest

    def refuse(self, error: EgressError) -> None:
        """The held bytes must not pass: end it; `run` raises the error."""
        self._refusal = error
        self._finish("proxy", "refused")

    def half_closed(self) -> None:
        """One direction has ended, though what is held of it may not be passed on yet."""
        self._half_closed = True
        self._quiet_s = 0.0

    def go_on(self) -> None:
        """A flow has changed outside an event."""
        self._settle()

    def _take_refusal(self) -> EgressError:
        """Not in `run` itself: a frame that holds an error which holds the frame is a cycle."""
        error, self._refusal = self._refusal, None
        assert error is not None
        return error

    def look(self, passed_s: float) -> None:
        """`passed_s` seconds have passed since the relay looked last, or less since the tunnel opened or moved a byte."""
        self._quiet_s += passed_s
        self._age_s += passed_s
        if self._lingered_s is None:
            relay, half = self._relay, self._half_closed
            if self._quiet_s - passed_s >= (relay.half_close_s if half else relay.idle_s):
                self._finish("proxy", "half_close_timeout" if half else "idle_timeout")
            elif relay.lifetime_s is not None and self._age_s - passed_s >= relay.lifetime_s:
                self._finish("proxy", "lifetime")

    def count_anew(self) -> None:
        """Forget how long it has been quiet, and open."""
        self._quiet_s = self._age_s = 0.0

    # --- events ---------------------------------------------------------------------------------------------------

    def _on_client(self, events: int) -> None:
        self._quiet_s = 0.0
        if events == READ:  # nearly always
            if self.up.pump():
                self._settle()
            return
        changed = self.up.pump() if events & ~WRITE else False
        if events & ~READ:
            changed |= self.down.pump()
        if changed:
            self._settle()

    def _on_upstream(self, events: int) -> None:
        self._quiet_s = 0.0
        if events == READ:
            if self.down.pump():
                self._settle()
            return
        changed = self.down.pump() if events & ~WRITE else False
        if events & ~READ:
            changed |= self.up.pump()
        if changed:
            self._settle()

    def _resume(self) -> None:
        """Go on with what no event will announce: bytes read with the head, or inside a TLS engine."""
        self._resume_due = False
        if self._result is None:
            if self.up.blocked or self.up.more():
                self.up.pump()
            if self.down.blocked or self.down.more():
                self.down.pump()
            self._settle()

    def _settle(self) -> None:
        """After a flow has changed: is it over, and if not, which events are wanted now."""
        if self._result is not None:
            return
        if self._held is not None:
            self._hear_out(self._held)
        up, down = self.up, self.down
        if up.broken or down.broken:
            self._wind_down()
        elif up.done and down.done:
            up.tell_end(closing=True)
            down.tell_end(closing=True)
            if not (up.blocked or down.blocked):  # else the end is told in bytes that have to wait
                self._finish(self._closed_by or "client", "closed")
        elif (up.done or down.done) and self._closed_by is None:
            self._closed_by = "client" if up.done else "upstream"
            (up if up.done else down).tell_end(closing=False)
            self._half_closed = True
            self._quiet_s = 0.0
        if self._result is None:
            self._watch()
            if (up.more() or down.more()) and not self._resume_due:
                self._resume_due = True
                self._relay.loop.call_soon(self._resume)

    def _hear_out(self, held: HeldFlow) -> None:
        """Once the upstream has been heard, or has no more to say, it need not be any more."""
        down = self.down
        if down.done:
            if down.broken is None:
                held.unheard()
        elif self.up is not held and type(down) is HeardFlow and down.empty:
            self.down = self._in_place_of(down, self._upstream, self._client)
            self._held = None

    def _wind_down(self) -> None:
        """One side is dead: see that the living one gets everything, then end."""
        up, down = self.up, self.down
        if up.broken == "source" or down.broken == "sink":
            dead, last, lost, living = "client", up, down, self._upstream
        else:
            dead, last, lost, living = "upstream", down, up, self._client
        if lost.broken is None:
            lost.abandon()
        if last.broken == "sink":  # both are dead
            self._finish(dead, f"{dead}_reset")
            return
        if not last.done and self._lingered_s is None:
            # While it lingers it may be not done again: the end is told in bytes that wait. That must not last.
            self._half_closed = True
            return
        if self._lingered_s is None:
            self._lingered_s = 0.0
            if self._closed_by != dead:  # else it was told when the dead one ended, before it died
                last.tell_end(closing=False)
        unsent = living.unsent_bytes()
        if not unsent and last.broken == "source":
            living.abort()
        if not unsent or self._lingered_s >= LINGER_S:
            # A reset behind its own orderly end is how a peer closes that does not wait for the other's last words.
            self._finish(dead, f"{dead}_reset" if last.broken else "closed")
        elif self._linger_timer is None:
            pause_s = min(max(LINGER_FIRST_S, self._lingered_s), LINGER_CHECK_S)  # doubling
            self._linger_timer = self._relay.loop.call_later(pause_s, self._linger_on, pause_s)

    def _linger_on(self, passed_s: float) -> None:
        assert self._lingered_s is not None
        self._lingered_s += passed_s
        self._linger_timer = None
        self._wind_down()

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
        if self._result is None:
            self._result = (closed_by, end)
            self._over.fire()
