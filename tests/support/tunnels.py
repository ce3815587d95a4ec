"""Tunnels between two real peers, over every engine, poller and event loop."""

from __future__ import annotations

import asyncio
import functools
import inspect
import socket
import ssl
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from support.certificates import client_context, server_context
from support.loops import WAIT_S, left_open, open_descriptors, run_on, until
from support.peers import SMALL_BUFFER, Peer, TlsPeer, socket_pair, tcp_stream, together

from egressproxy.deadlines import DeadlineQueue
from egressproxy.model import Transfer
from egressproxy.poller import EpollPoller, LoopPoller
from egressproxy.relay.copying import CopyFlow
from egressproxy.relay.flow import COPY_BYTES, Flow
from egressproxy.relay.holding import Gate, HeardFlow, HeldFlow
from egressproxy.relay.relay import Relay
from egressproxy.relay.splicing import SpliceFlow
from egressproxy.stream import TLS_READ_BYTES, Stream, TcpStream, TlsStream

LONG_S = 60.0
"""A timeout that no test reaches."""


class Setup(NamedTuple):
    """engine: `splice`, `copy`, `tls-client` or `tls-both`; poller: `epoll` or `loop`; loop: `uvloop` or `asyncio`.

    held  what the client sends is held first, and let pass at its first byte or its end
    """

    engine: str
    poller: str
    loop: str
    held: bool = False

    def __str__(self) -> str:
        return "-".join((*self[:3], "held") if self.held else self[:3])

    @property
    def runs_here(self) -> bool:
        return sys.platform == "linux" or (self.engine != "splice" and self.poller != "epoll")

    @property
    def tls(self) -> bool:
        return self.engine.startswith("tls")


class CopyingRelay(Relay):
    """As on a system without splice."""

    def flow(self, source: Stream, sink: Stream) -> Flow:
        return CopyFlow(source, sink)


class Open:
    """A gate that lets everything pass as soon as there is something."""

    patient = True
    judged = 0
    listens = False

    def __init__(self, deadlines: DeadlineQueue) -> None:
        self.deadlines = deadlines

    def judge(self, data: bytes) -> int:
        assert data
        return len(data)

    def hear(self, answer: bytes) -> bool | None:
        raise AssertionError("nothing was asked of the upstream")

    def judge_again(self, data: bytes) -> bool:
        raise AssertionError("nothing was to be judged again")

    def end(self, data: bytes) -> None:
        assert not data

    def expire(self, data: bytes) -> None:
        raise AssertionError("a deadline that nobody reaches")


class Filled:
    """For `Bench.join(before=)`: the upstream takes nothing more until its peer reads. `size`: bytes that it took.

    A full socket may have room again without anybody reading: a probe of the window, 200 ms later, moves some tens of KiB on
    to the peer's. So once full its buffer is made smaller than what then still waits in it.
    """

    def __init__(self) -> None:
        self.size = 0

    def __call__(self, _client: Stream, upstream: Stream) -> None:
        while taken := upstream.try_write(b"." * COPY_BYTES):
            self.size += taken
        tcp = upstream.tcp if isinstance(upstream, TlsStream) else upstream
        assert isinstance(tcp, TcpStream)
        tcp.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL_BUFFER // 8)


class Joined:
    """Two peers and the tunnel between them, which runs."""

    def __init__(
        self, bench: Bench, client: Peer, upstream: Peer, inner: Stream, outer: Stream, gate: Gate | None
    ) -> None:
        self.client = client
        self.upstream = upstream
        self.client_stream = inner
        self.upstream_stream = outer
        self.tunnel = bench.relay.open(inner, outer, gate)
        self.task = asyncio.ensure_future(self._story())

    async def _story(self) -> Transfer:
        try:
            return await self.tunnel.run()
        finally:
            self.client_stream.close()
            self.upstream_stream.close()

    async def over(self) -> Transfer:
        """What the tunnel carried, once it is over."""
        async with asyncio.timeout(WAIT_S):
            return await self.task


class Bench:
    """One worker's poller and relay, and the tunnels that a test opens on them."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.loop = asyncio.get_running_loop()
        self.poller = (EpollPoller if setup.poller == "epoll" else LoopPoller)(self.loop)
        self.relay = (Relay if setup.engine == "splice" else CopyingRelay)(self.poller, self.loop, LONG_S, LONG_S)
        self.deadlines = DeadlineQueue("hello", LONG_S, self.loop)
        self._joined: list[Joined] = []

    def configure(
        self, *, idle_s: float = LONG_S, half_close_s: float = LONG_S, lifetime_s: float | None = None
    ) -> None:
        self.relay.configure(idle_s, half_close_s, lifetime_s)

    async def join(
        self,
        *,
        early: bytes = b"",
        unread: bytes = b"",
        upstream_unread: bytes = b"",
        buffer: int | None = None,
        before: Callable[[Stream, Stream], object] | None = None,
        gate: Gate | None = None,
    ) -> Joined:
        """A tunnel at work.

        early   sent by the client before it runs, and behind TLS already taken in with the handshake
        buffer  size of every socket's buffers
        before  called with both streams before it runs
        gate    judges the client's first bytes; None: one that lets them pass, or none, as the setup says
        """
        client_end, inner_end = socket_pair(buffer=buffer)
        outer_end, upstream_end = socket_pair(buffer=buffer)
        inner: Stream = tcp_stream(inner_end, self.poller)
        outer: Stream = tcp_stream(outer_end, self.poller)
        client, upstream = Peer(client_end), Peer(upstream_end)
        if self.setup.tls:
            client = TlsPeer(client_end, client_context(), server_side=False)
            inner = await _secured(inner, client, server_side=True)
        if self.setup.engine == "tls-both":
            upstream = TlsPeer(upstream_end, server_context(), server_side=True)
            outer = await _secured(outer, upstream, server_side=False)
        if early:
            await client.send(early)
            client.wait_until_delivered()
            if isinstance(inner, TlsStream):
                inner._incoming.write(inner.tcp.try_read(TLS_READ_BYTES) or b"")
        if unread:
            inner.unread(unread)
        if upstream_unread:
            outer.unread(upstream_unread)
        if before is not None:
            before(inner, outer)
        if gate is None and self.setup.held:
            gate = Open(self.deadlines)
        joined = Joined(self, client, upstream, inner, outer, gate)
        self._joined.append(joined)
        engine = SpliceFlow if self.setup.engine == "splice" else CopyFlow
        assert isinstance(joined.tunnel.up, engine if gate is None else HeldFlow)
        assert isinstance(joined.tunnel.down, engine if gate is None else HeardFlow)
        await until(lambda: joined.tunnel in self.relay.tunnels or joined.task.done(), "the tunnel runs")
        return joined

    async def close(self) -> None:
        """Every tunnel is over by now; check that none has left anything behind."""
        assert all(joined.task.done() for joined in self._joined), "a tunnel is still open at the end of its test"
        assert len(self.poller) == 0, "descriptors are still watched"
        assert all(
            joined.tunnel._linger_timer is None or joined.tunnel._linger_timer.cancelled() for joined in self._joined
        )
        assert self.relay.tunnels == set()
        assert len(self.deadlines) == 0, "a deadline is still set"
        self.give_up()
        assert self.relay.pipes.made == 0, "a pipe was not given back"

    def give_up(self) -> None:
        for joined in self._joined:
            joined.task.cancel()
            joined.client.close()
            joined.upstream.close()
        self.deadlines.close()
        self.relay.close()
        self.poller.close()


async def _secured(stream: Stream, peer: Peer, *, server_side: bool) -> TlsStream:
    assert isinstance(stream, TcpStream)
    assert isinstance(peer, TlsPeer)
    # Without a name to verify, as the package itself never speaks TLS to an upstream yet.
    context = server_context() if server_side else _unnamed_client_context()
    tls = TlsStream(stream, context, server_side=server_side)
    await together(tls.handshake(), peer.handshake())
    return tls


@functools.cache
def _unnamed_client_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


ENGINES = ("splice", "copy", "tls-client", "tls-both")
# What is left out: splice without epoll under uvloop exists on no system, and uvloop takes a descriptor in error out of its
# own watch after one event.
HELD = [Setup(engine, "epoll", "uvloop", held=True) for engine in ("splice", "tls-client")]
EVERY = (
    [Setup(engine, "epoll", "uvloop") for engine in ENGINES]
    + [Setup(engine, "loop", "asyncio") for engine in ENGINES]
    + [Setup("splice", "epoll", "asyncio"), Setup("copy", "loop", "uvloop"), Setup("tls-client", "loop", "uvloop")]
    + HELD
)
FASTEST = [Setup(engine, "epoll", "uvloop") for engine in ENGINES] + HELD


def run_setup(setup: Setup, test: Callable[..., Any], *arguments: object) -> None:
    """Run an async test on one setup, and check afterwards that nothing is left: watches, deadlines, pipes, descriptors."""
    if setup.loop == "uvloop":
        pytest.importorskip("uvloop")

    async def conform() -> None:
        await asyncio.sleep(0)  # the loop opens descriptors of its own with its first turn
        before = open_descriptors()
        bench = Bench(setup)
        try:
            await test(bench, *arguments)
            await bench.close()
        finally:
            bench.give_up()
            await asyncio.sleep(0)
        left = left_open(before)
        assert not left, f"descriptors left open: {left}"

    run_on(setup.loop, conform())


def on(setups: list[Setup]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make an async test, whose first argument is the bench, into one that runs on each of the setups."""

    def wrap(test: Callable[..., Any]) -> Callable[..., Any]:
        @pytest.mark.parametrize("setup", [setup for setup in setups if setup.runs_here], ids=str)
        def run(setup: Setup, **arguments: object) -> None:
            run_setup(setup, functools.partial(test, **arguments))

        run.__name__, run.__doc__ = test.__name__, test.__doc__
        run.__module__ = test.__module__
        parameters = list(inspect.signature(test).parameters.values())[1:]
        setup_parameter = inspect.Parameter("setup", inspect.Parameter.KEYWORD_ONLY)
        run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]  # what pytest reads the arguments from
            [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters] + [setup_parameter]
        )
        run.pytestmark = getattr(test, "pytestmark", []) + run.pytestmark  # type: ignore[attr-defined]  # marks below `on`
        return run

    return wrap


on_every_setup = on(EVERY)
on_every_engine = on(FASTEST)
on_splice = on([setup for setup in EVERY if setup.engine == "splice" and not setup.held])
