"""One client and one upstream, joined.

**Half-close.** The end of one direction is passed on as the end of that direction; the other goes on. Both ended: the
tunnel is over.

**Breakage.** When one side dies (a reset), the living one still gets all that the dead one sent, and then meets the same
end: a reset after a reset, an end after an end. What it sends meanwhile is for nobody, but is read: unread bytes would turn
closing into a reset that destroys what is on its way to it. The kernel reports a reset once, to a read or to a write: the
stream remembers it for both.

**Timers.** No byte either way for `idle_s`: over. Once one direction has ended, `half_close_s` instead. An event only sets
a counter back; a timer looks at it eight times within that time, so a tunnel ends at most an eighth too late.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from egressproxy.model import Transfer
from egressproxy.poller import READ, WRITE

if TYPE_CHECKING:
    import asyncio

    from egressproxy.deadlines import DeadlineQueue
    from egressproxy.relay.relay import Relay
    from egressproxy.stream import Stream

PERIODS = 8
"""Parts of the idle and half-close time after which a tunnel is looked at."""
LINGER_S = 5.0
"""How long a living side may take to get what is on its way to it, when the other side is dead."""
LINGER_CHECK_S = 0.05
"""How often it is looked whether it has."""


class Tunnel:
    """`run` is the whole of it; the streams stay the caller's to close.

    up, down  client to upstream, upstream to client
    """

    __slots__ = (
        "_client",
        "_client_interest",
        "_closed_by",
        "_lingered_s",
        "_over",
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
        self._lingered_s = 0.0
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
        """A part of the idle, half-close or linger time has passed; called by the queue."""
        self._quiet += 1
        if self._timer is self._relay.linger:
            self._lingered_s += LINGER_CHECK_S
            self._wind_down()
        elif self._quiet > PERIODS:
            self._finish("proxy", self._timer.name)
        if self._result is None:
            self._timer.start(self)

    # --- events ---------------------------------------------------------------------------------------------------

    def _on_client(self, events: int) -> None:
        self._quiet = 0
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
        self._quiet = 0
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
        if self._result is None:
            self.up.pump()
            self.down.pump()
            self._settle()

    def _settle(self) -> None:
        """After a flow has changed: is it over, and if not, which events are wanted now."""
        if self._result is not None:
            return
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
            self._change_timer(self._relay.half_close)
        if self._result is None:
            self._watch()
            if up.more() or down.more():
                self._relay.loop.call_soon(self._resume)

    def _wind_down(self) -> None:
        """One side is dead: see that the living one gets everything, then end."""
        up, down = self.up, self.down
        if up.broken == "source" or down.broken == "sink":
            dead, last, lost, living = "client", up, down, self._upstream
        else:
            dead, last, lost, living = "upstream", down, up, self._client
        if lost.broken is None:
            lost.abandon()
        if last.broken == "sink":
            self._finish(dead, f"{dead}_reset")  # both are dead
        elif not last.done:
            self._change_timer(self._relay.half_close)
        elif self._timer is not self._relay.linger:
            self._change_timer(self._relay.linger)
            if self._closed_by != dead:  # else it was told when the dead one ended, before it died
                last.tell_end(closing=False)
            self._wind_down()
        elif not living.unsent_bytes():
            if last.broken == "source":
                living.abort()
            self._finish(dead, f"{dead}_reset")
        elif self._lingered_s >= LINGER_S:
            self._finish(dead, f"{dead}_reset")

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
        if self._result is None:
            self._result = (closed_by, end)
            if self._over is not None and not self._over.done():
                self._over.set_result(None)
