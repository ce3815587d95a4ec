"""All tunnels of one listener, and what they share."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from egressproxy.relay.copying import CopyFlow
from egressproxy.relay.pipes import PipePool
from egressproxy.relay.splicing import SpliceFlow
from egressproxy.relay.tunnel import Tunnel
from egressproxy.stream import Stream, TcpStream

if TYPE_CHECKING:
    import asyncio

    from egressproxy.poller import Poller
    from egressproxy.relay.flow import Flow
    from egressproxy.relay.holding import Gate


PERIODS = 8
"""Looks at every tunnel within the shortest of their times: one that is quiet, or old, ends that much late at most."""


class Relay:
    """Opens tunnels, and holds what they share.

    tunnels               those that are open
    idle_s, half_close_s  how long one may be quiet, whole or half-closed
    lifetime_s            how long one may be open at all; None: no bound
    """

    def __init__(
        self,
        poller: Poller,
        loop: asyncio.AbstractEventLoop,
        idle_s: float,
        half_close_s: float,
        lifetime_s: float | None = None,
        pipes: PipePool | None = None,
    ) -> None:
        """`pipes`: shared with others. None: its own."""
        self.poller = poller
        self.loop = loop
        self.idle_s = idle_s
        self.half_close_s = half_close_s
        self.lifetime_s = lifetime_s
        self.pipes = PipePool() if pipes is None else pipes
        self.tunnels: set[Tunnel] = set()
        self._next_look: asyncio.TimerHandle | None = None

    def configure(self, idle_s: float, half_close_s: float, lifetime_s: float | None = None) -> None:
        """Change the times, for open tunnels too: they are counted from now, so that none ends by the change."""
        if (idle_s, half_close_s, lifetime_s) == (self.idle_s, self.half_close_s, self.lifetime_s):
            return
        self.idle_s = idle_s
        self.half_close_s = half_close_s
        self.lifetime_s = lifetime_s
        for tunnel in self.tunnels:
            tunnel.count_anew()
        if self._next_look is not None:
            self._next_look.cancel()
            self._look_later()

    def enter(self, tunnel: Tunnel) -> None:
        """The tunnel runs. Hot: once per tunnel."""
        self.tunnels.add(tunnel)
        if self._next_look is None:
            self._look_later()

    def _look_later(self) -> None:
        period_s = min(self.idle_s, self.half_close_s, self.lifetime_s or self.idle_s) / PERIODS
        self._next_look = self.loop.call_later(period_s, self._look, period_s)

    def _look(self, passed_s: float) -> None:
        """At all tunnels at once: a timer for each would cost more when they open and close than all the looking."""
        self._next_look = None
        if self.tunnels:
            for tunnel in tuple(self.tunnels):
                tunnel.look(passed_s)
            self._look_later()

    def open(self, client: Stream, upstream: Stream, gate: Gate | None = None) -> Tunnel:
        """Join the two; nothing moves before the tunnel's `run`. `gate` judges the client's first bytes."""
        return Tunnel(self, client, upstream, gate)

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
        if self._next_look is not None:
            self._next_look.cancel()
            self._next_look = None
        self.pipes.close()
