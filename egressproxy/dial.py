"""Dial: from judged addresses to one connected socket, by Happy Eyeballs.

RFC 8305: addresses of both families are tried in turn, the next one when the last has failed or after the Connection
Attempt Delay, while the earlier attempts go on; the first that connects wins and the others are closed. The usual case,
where the first address answers at once, costs one attempt and no task: all attempts are driven from one coroutine.

This is the only module that connects. It dials what it is given and nothing else: names, and what may be dialled, are
decided before.
"""

from __future__ import annotations

import _socket  # the raw socket, without the Python layer that costs a microsecond for each connection
import errno
import os
import socket
from typing import TYPE_CHECKING

from egressproxy.deadlines import Deadline, DeadlineQueue
from egressproxy.errors import ConnectFailed, ConnectRefused, ConnectTimeout, OutOfDescriptors, UpstreamError
from egressproxy.poller import WRITE
from egressproxy.stream import TcpStream

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence

    from egressproxy.model import Endpoint
    from egressproxy.poller import Poller

ATTEMPT_DELAY_S = 0.25
"""RFC 8305 section 5, Connection Attempt Delay: the recommended value."""

_SOCKET_KIND = socket.SOCK_STREAM | getattr(socket, "SOCK_NONBLOCK", 0) | getattr(socket, "SOCK_CLOEXEC", 0)
_OUT_OF_CAPACITY = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL, errno.EAGAIN}
)
"""No descriptor, no memory, no free port: the proxy's own want, whatever the address."""
_MAX_ADDRESSES = 16
"""Addresses of one name that are tried. An answer of hundreds must not keep a client waiting for hundreds of attempts."""


class Dialer:
    """Connects. Counts how it went in `outcomes`, by the slug of the error or `connected`, and each try in `attempts`."""

    def __init__(self, poller: Poller, loop: asyncio.AbstractEventLoop, connect_s: float) -> None:
        self._poller = poller
        self._loop = loop
        self._whole = DeadlineQueue("connect_timeout", connect_s, loop)
        self._between = DeadlineQueue("next_attempt", ATTEMPT_DELAY_S, loop)
        self.attempts = 0
        self.outcomes: dict[str, int] = {}

    async def dial(self, endpoints: Sequence[Endpoint]) -> TcpStream:
        """Connect to one of the endpoints; the caller closes the stream.

        Raises ConnectRefused, ConnectFailed, ConnectTimeout or OutOfDescriptors; the error names each address that was
        tried and carries the last one as `endpoint`. Hot: once per connection.
        """
        race = _Race(self._loop)
        outcome = "cancelled"
        try:
            with Deadline(self._whole, lambda: self._timed_out(race)):
                stream = await self._run(race, in_turn(endpoints))
            outcome = "connected"
            return stream
        except UpstreamError as error:
            outcome = error.slug
            raise
        except OutOfDescriptors as error:
            outcome = error.slug
            raise
        finally:
            for fd, (sock, _) in race.in_flight.items():
                self._poller.forget(fd)
                sock.close()
            self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1

    async def _run(self, race: _Race, endpoints: Sequence[Endpoint]) -> TcpStream:
        in_flight = race.in_flight
        waiting = len(endpoints)
        while True:
            if waiting:
                endpoint = endpoints[-waiting]
                waiting -= 1
                self._begin(race, endpoint)
            elif not in_flight:
                raise _failure(race)
            if not in_flight:
                continue
            fd = await race.next_ready(self._between if waiting else None)
            if fd is None:
                continue  # the delay has passed: begin the next attempt beside those under way
            sock, endpoint = in_flight.pop(fd)
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if not code:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return TcpStream(sock, self._poller, endpoint.address, endpoint.port)
            self._poller.forget(fd)
            sock.close()
            race.failed.append((endpoint, code))

    def _begin(self, race: _Race, endpoint: Endpoint) -> None:
        self.attempts += 1
        race.last = endpoint
        try:
            sock = _socket.socket(socket.AF_INET6 if ":" in endpoint.address else socket.AF_INET, _SOCKET_KIND, 0)
        except OSError as error:
            race.failed.append((endpoint, error.errno or errno.EIO))
            return
        sock.setblocking(False)
        code = sock.connect_ex((endpoint.address, endpoint.port))
        if code not in (0, errno.EINPROGRESS):
            race.failed.append((endpoint, code))
            sock.close()
            return
        fd = sock.fileno()
        race.in_flight[fd] = (sock, endpoint)
        self._poller.watch_once(fd, WRITE, race.ready_handler(fd))

    def _timed_out(self, race: _Race) -> ConnectTimeout:
        tried = ", ".join(str(endpoint) for _, endpoint in race.in_flight.values())
        return ConnectTimeout(f"no answer from {tried} within {self._whole.delay_s:g} s", endpoint=race.last)

    def configure(self, connect_s: float) -> None:
        """Change the deadline of dials to come."""
        if connect_s != self._whole.delay_s:
            self._whole = DeadlineQueue("connect_timeout", connect_s, self._loop)

    def close(self) -> None:
        """Give the timers back."""
        self._whole.close()
        self._between.close()


class _Race:
    """The attempts of one dial: those under way, those that failed, those that have something to say."""

    __slots__ = ("_loop", "_ready", "_waiter", "failed", "in_flight", "last")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._ready: list[int] = []
        self._waiter: asyncio.Future[None] | None = None
        self.in_flight: dict[int, tuple[_socket.socket, Endpoint]] = {}
        self.failed: list[tuple[Endpoint, int]] = []
        self.last: Endpoint | None = None

    def ready_handler(self, fd: int) -> _Ready:
        return _Ready(self, fd)

    async def next_ready(self, delay: DeadlineQueue | None) -> int | None:
        """The descriptor of an attempt that ended either way; None when the delay passed first."""
        if not self._ready:
            self._waiter = self._loop.create_future()
            if delay is not None:
                delay.start(self)
            try:
                await self._waiter
            finally:
                self._waiter = None
                if delay is not None:
                    delay.stop(self)
        return self._ready.pop(0) if self._ready else None

    def expire(self) -> None:
        """The delay between attempts has passed; called by the queue."""
        self.wake()

    def mark_ready(self, fd: int) -> None:
        self._ready.append(fd)
        self.wake()

    def wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class _Ready:
    """The poller's handler of one attempt."""

    __slots__ = ("_fd", "_race")

    def __init__(self, race: _Race, fd: int) -> None:
        self._race = race
        self._fd = fd

    def __call__(self, _events: int) -> None:
        self._race.mark_ready(self._fd)


def in_turn(endpoints: Sequence[Endpoint]) -> Sequence[Endpoint]:
    """The order of attempts: families in turn, beginning with the family that the resolver put first (RFC 8305 section 4)."""
    if len(endpoints) < 2:
        return endpoints
    first_is_v6 = ":" in endpoints[0].address
    same = [endpoint for endpoint in endpoints if (":" in endpoint.address) is first_is_v6]
    other = [endpoint for endpoint in endpoints if (":" in endpoint.address) is not first_is_v6]
    ordered: list[Endpoint] = []
    for position in range(max(len(same), len(other))):
        ordered += same[position : position + 1] + other[position : position + 1]
    return ordered[:_MAX_ADDRESSES]


def _failure(race: _Race) -> UpstreamError | OutOfDescriptors:
    """What all the failed attempts together come to."""
    codes = {code for _, code in race.failed}
    facts = "; ".join(f"{endpoint}: {os.strerror(code)}" for endpoint, code in race.failed)
    if codes <= _OUT_OF_CAPACITY:
        return OutOfDescriptors(facts)
    if codes == {errno.ECONNREFUSED}:
        return ConnectRefused(facts, endpoint=race.last)
    if codes == {errno.ETIMEDOUT}:
        return ConnectTimeout(facts, endpoint=race.last)
    return ConnectFailed(facts, endpoint=race.last)
