"""All tunnels of one worker, and what they share."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from egressproxy.deadlines import DeadlineQueue
from egressproxy.relay.copying import CopyFlow
from egressproxy.relay.pipes import PipePool
from egressproxy.relay.splicing import SpliceFlow
from egressproxy.relay.tunnel import LINGER_CHECK_S, PERIODS, Tunnel
from egressproxy.stream import Stream, TcpStream

if TYPE_CHECKING:
    import asyncio

    from egressproxy.poller import Poller
    from egressproxy.relay.flow import Flow


class Relay:
    """Opens tunnels, and holds their timers and pipes.

    tunnels  those that are open
    """

    def __init__(self, poller: Poller, loop: asyncio.AbstractEventLoop, idle_s: float, half_close_s: float) -> None:
        self.poller = poller
        self.loop = loop
        self.idle = DeadlineQueue("idle_timeout", idle_s / PERIODS, loop)
        self.half_close = DeadlineQueue("half_close_timeout", half_close_s / PERIODS, loop)
        self.linger = DeadlineQueue("linger", LINGER_CHECK_S, loop)
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
        self.pipes.close()
