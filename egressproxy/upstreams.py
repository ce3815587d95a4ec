"""Upstreams: connections for plain requests, kept between them.

A connection is kept under what it is: the host it was made for, the endpoint, and the TLS identity it was secured with. Only a
request for the same three gets it, so that nobody inherits trust that is not his. The endpoints are judged anew for each
request, by name and by address, before anything here is asked.

**While it is kept** a connection has nothing to say. Whatever it says (its end, most often) makes it useless, and it is closed
at once; only TLS has words of its own, as new session tickets, which mean nothing. What its peer closes at the very moment it
is taken is found out by whoever takes it: `used` says that it is worth another try.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from egressproxy.deadlines import DeadlineQueue, DeadlineQueues
from egressproxy.errors import ConnectFailed, TlsTimeout, UpstreamTlsError
from egressproxy.originate import keep_session, originate, tls_version
from egressproxy.parents import Parent, go_through
from egressproxy.stream import TcpStream, TlsStream

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence

    from egressproxy.capture import OwnConnections
    from egressproxy.deadlines import Expires
    from egressproxy.dial import Dialer
    from egressproxy.identities import UpstreamIdentity
    from egressproxy.model import Endpoint, Target
    from egressproxy.registry import Route

_now = time.monotonic
_Key = tuple[str, "Endpoint", "UpstreamIdentity | None"]


class Through(NamedTuple):
    """A parent that a connection goes through, and what it leads to."""

    parent: Parent
    target: Target


def _known_as(host: str, through: Through | None) -> str:
    """The first part of a key: where the parent is the endpoint, it tells the port as well."""
    return host if through is None else f"{host} as {through.target} by {through.parent.name}"


class Upstream:
    """One connection to an upstream. Whoever took it gives it back or closes it.

    stream  what is spoken through: `tcp` itself, or TLS on top of it
    used    requests that it has served
    tls     version of the TLS on it, as `TLSv1.3`; None: there is none
    """

    __slots__ = ("_pool", "endpoint", "key", "made_at", "stream", "tcp", "tls", "used")

    def __init__(
        self, pool: Upstreams, key: _Key, tcp: TcpStream, stream: TcpStream | TlsStream, tls: str | None
    ) -> None:
        self._pool = pool
        self.key = key
        self.endpoint = key[1]
        self.tcp = tcp
        self.stream = stream
        self.tls = tls
        self.made_at = _now()
        self.used = 0

    def __repr__(self) -> str:
        return f"<Upstream {self.key[0]} at {self.endpoint}, used {self.used}>"

    def close(self) -> None:
        """Close it. Harmless twice."""
        if type(self.stream) is TlsStream and self.stream.fd >= 0:
            keep_session(self.stream)
            try:
                self.stream.end_writing()
            except (OSError, ValueError):
                pass  # gone
        self.stream.close()

    def expire(self) -> None:
        """It was kept for long enough."""
        self._pool.drop(self, "idle")

    def hear(self, _events: int) -> None:
        """Something came while it was kept."""
        if type(self.stream) is not TlsStream or not self.is_quiet():
            self._pool.drop(self, "closed_by_upstream")

    def is_quiet(self) -> bool:
        """It has nothing to say that was not asked for, nor an end. Words that TLS has with itself do not count."""
        try:
            return self.stream.try_read(1) is None and not self.tcp.hung_up and not self.tcp.expired
        except OSError:
            return False


class Upstreams:
    """The kept connections of one worker.

    handshakes  how TLS on them went: `secured`, or the slug of the error
    outcomes    how connections began and ended: `made`, `reused`; `idle`, `old`, `full`, `closed_by_upstream`, `not_reusable`
    """

    def __init__(
        self, dialer: Dialer, own_connections: OwnConnections, loop: asyncio.AbstractEventLoop, idle_s: float
    ) -> None:
        self._dialer = dialer
        self._own_connections = own_connections
        self._loop = loop
        self._kept: dict[_Key, list[Upstream]] = {}
        self._idle_deadlines = DeadlineQueue("upstream_idle", idle_s, loop)
        self._connect_deadlines = DeadlineQueues("connect_timeout", loop)
        self.outcomes = dict.fromkeys(
            ("made", "reused", "idle", "old", "full", "closed_by_upstream", "not_reusable"), 0
        )
        self.handshakes = {"secured": 0}
        self.max_kept = 0
        self.max_kept_each = 0
        self.lifetime_s = 0.0

    def configure(self, *, max_kept: int, max_kept_each: int, idle_s: float, lifetime_s: float) -> None:
        """Change the limits, for connections that are kept from now on."""
        self.max_kept, self.max_kept_each, self.lifetime_s = max_kept, max_kept_each, lifetime_s
        if idle_s != self._idle_deadlines.delay_s:
            self._idle_deadlines.pass_all()
            self._idle_deadlines = DeadlineQueue("upstream_idle", idle_s, self._loop)

    @property
    def idle(self) -> int:
        """Connections that are kept now."""
        return len(self._idle_deadlines)

    @property
    def connect_s(self) -> float:
        """The usual time for a connection."""
        return self._dialer.whole.delay_s

    def connect_deadlines(self, connect_s: float | None) -> DeadlineQueue:
        """For connections that have this time; None: the usual."""
        return self._dialer.whole if connect_s is None else self._connect_deadlines.of(connect_s)

    def take(
        self,
        host: str,
        endpoints: Sequence[Endpoint],
        identity: UpstreamIdentity | None,
        through: Through | None = None,
    ) -> Upstream | None:
        """A kept connection to one of the endpoints. Hot: once per request.

        One that has something to say is none, even if the poller has not told of it yet: an answer that is there before its
        request is somebody else's, and each one after it would be too.
        """
        if through is not None:
            host = _known_as(host, through)
        for endpoint in endpoints:
            key = (host, endpoint, identity)
            while (kept := self._kept.get(key)) is not None:
                upstream = kept.pop()
                if not kept:
                    del self._kept[key]
                self._idle_deadlines.stop(upstream)
                upstream.tcp.unawaited = None
                if upstream.is_quiet():
                    self.outcomes["reused"] += 1
                    return upstream
                self._close(upstream, "closed_by_upstream")
        return None

    async def make(
        self,
        host: str,
        endpoints: Sequence[Endpoint],
        identity: UpstreamIdentity | None,
        connect_s: float | None,
        preface: bytes = b"",
        begun: Callable[[Expires], None] | None = None,
        through: Through | None = None,
    ) -> Upstream:
        """A new connection to one of the endpoints, the next one where TLS fails too.

        connect_s  for the connection, and once more for TLS; None: the usual
        preface    what is sent before anything else
        begun      called with each step that is under way: to let that expire is to let its time be over
        through    a parent, whose the endpoints are, and the target that it is to connect to

        Raises what `Dialer.dial`, `originate` and `Parent.open` raise, of the last endpoint.
        """
        whole = self.connect_deadlines(connect_s)
        while True:
            tcp = await self._dialer.dial(endpoints, whole, begun)
            if begun is not None:
                begun(tcp)
            endpoint = next(each for each in endpoints if each[0] == tcp.address and each[1] == tcp.port)
            connected_at = self._loop.time()
            self._own_connections.add(tcp)
            stream: TcpStream | TlsStream = tcp
            tls = None
            try:
                if preface:
                    await tcp.write(preface)
                if through is not None:
                    await go_through(through.parent, tcp, through.target, whole)
                if identity is not None:
                    stream = await originate(tcp, identity, host, endpoint, whole)
                    tls = tls_version(stream)
                    self.handshakes["secured"] += 1
            except UpstreamTlsError as error:
                self._abandon(tcp)
                self.handshakes[error.slug] = self.handshakes.get(error.slug, 0) + 1
                # The time may be over because nobody waits for it any more: then it says nothing of the endpoint.
                if not isinstance(error, TlsTimeout) or self._loop.time() - connected_at >= whole.delay_s:
                    self._dialer.note_failure(endpoint)
                endpoints = [each for each in endpoints if each != endpoint]
                if not endpoints:
                    raise
            except OSError as error:
                self._abandon(tcp)
                raise ConnectFailed(
                    f"{endpoint}: broke at its first bytes: {error.strerror}", endpoint=endpoint
                ) from error
            except BaseException:
                self._abandon(tcp)
                raise
            else:
                self.outcomes["made"] += 1
                return Upstream(self, (_known_as(host, through), endpoint, identity), tcp, stream, tls)

    def _abandon(self, tcp: TcpStream) -> None:
        self._own_connections.discard(tcp)
        tcp.close()

    def give(self, upstream: Upstream) -> None:
        """Take a connection back that may serve another request. Hot: once per request."""
        upstream.used += 1
        if _now() - upstream.made_at >= self.lifetime_s:
            self._close(upstream, "old")
            return
        if upstream.tcp.expired:  # whoever waited for it next would be the one who was too slow
            self._close(upstream, "not_reusable")
            return
        if upstream.tcp.may_have_more and not upstream.is_quiet():
            self._close(upstream, "closed_by_upstream")
            return
        kept = self._kept.get(upstream.key, ())
        if len(kept) >= self.max_kept_each or not self.max_kept:
            self._close(upstream, "full")
            return
        if self.idle >= self.max_kept:
            oldest = self._idle_deadlines.first()
            assert isinstance(oldest, Upstream)  # nothing else is entered
            self.drop(oldest, "full")
        self._kept.setdefault(upstream.key, []).append(upstream)
        self._idle_deadlines.start(upstream)
        upstream.tcp.unawaited = upstream.hear
        upstream.tcp.listen()

    def discard(self, upstream: Upstream) -> None:
        """Close a connection that may not serve another request."""
        self._close(upstream, "not_reusable")

    def drop(self, upstream: Upstream, why: str) -> None:
        """Close one that is kept."""
        self._idle_deadlines.stop(upstream)
        kept = self._kept[upstream.key]
        kept.remove(upstream)
        if not kept:
            del self._kept[upstream.key]
        self._close(upstream, why)

    def _close(self, upstream: Upstream, why: str) -> None:
        self.outcomes[why] += 1
        upstream.tcp.unawaited = None
        self._own_connections.discard(upstream.tcp)
        upstream.close()

    def close(self) -> None:
        """Close all that are kept."""
        self._idle_deadlines.pass_all()
        self._idle_deadlines.close()
        self._connect_deadlines.close()


class Turns:
    """Whose turn it is among the endpoints of a service: round robin by weight, smoothly.

    Each turn, every endpoint gains its weight and the one with the most gives all weights back: an endpoint of weight 5 among
    others of weight 1 is not asked five times in a row (the algorithm is NGINX's).
    """

    def __init__(self, weights: Sequence[int]) -> None:
        self._weights = weights
        self._total = sum(weights)
        self._current = [0] * len(weights)

    def next(self) -> int:
        """Index of the next one."""
        current = self._current
        best = 0
        for index, weight in enumerate(self._weights):
            current[index] += weight
            if current[index] > current[best]:
                best = index
        current[best] -= self._total
        return best


class Balancer:
    """The turns of all services and routes of one configuration."""

    def __init__(self) -> None:
        self._turns: dict[int, Turns] = {}
        self._of_routes: dict[int, Turns] = {}

    def turn(self, route: int, weights: Sequence[int]) -> int:
        """Index of the destination whose turn it is, of the route with this index in the configuration."""
        if len(weights) == 1:
            return 0
        turns = self._of_routes.get(route)
        if turns is None:
            turns = self._of_routes[route] = Turns(weights)
        return turns.next()

    def in_turn(self, route: Route) -> Sequence[int]:
        """Indices of the route's endpoints, beginning with the one whose turn it is; the others follow in order."""
        count = len(route.endpoints)
        if count == 1:
            return (0,)
        turns = self._turns.get(route.service)
        if turns is None:
            turns = self._turns[route.service] = Turns([endpoint.weight for endpoint in route.endpoints])
        first = turns.next()
        return [*range(first, count), *range(first)]
