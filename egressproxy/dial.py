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

from egressproxy.deadlines import DeadlineQueue
from egressproxy.errors import ConnectFailed, ConnectRefused, ConnectTimeout, OutOfDescriptors, UpstreamError
from egressproxy.poller import WRITE
from egressproxy.stories import Signal
from egressproxy.stream import TcpStream

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence

    from egressproxy.model import Endpoint
    from egressproxy.poller import Poller

ATTEMPT_DELAY_S = 0.25
"""RFC 8305 section 5, Connection Attempt Delay: the recommended value."""

_BORN_NON_BLOCKING = hasattr(socket, "SOCK_NONBLOCK")
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
        """`connect_s`: for one dial, over all its addresses."""
        self._poller = poller
        self._loop = loop
        self._whole = DeadlineQueue("connect_timeout", connect_s, loop)
        self._between = DeadlineQueue("next_attempt", ATTEMPT_DELAY_S, loop)
        self.attempts = 0
        self.outcomes: dict[str, int] = {"connected": 0}

    async def dial(self, endpoints: Sequence[Endpoint]) -> TcpStream:
        """Connect to one of the endpoints; the caller closes the stream.

        Raises ConnectRefused, ConnectFailed, ConnectTimeout or OutOfDescriptors; the error names each address that was
        tried and carries the last one as `endpoint`. Hot: once per connection.
        """
        race = _Race(self._poller, in_turn(endpoints))
        self._whole.start(race)
        try:
            while (attempt := race.take_winner()) is None:
                if race.waiting:
                    self.attempts += 1
                    race.begin_next()
                elif not race.under_way:
                    raise _failure(race.failed)
                if race.under_way and not race.ended:
                    await self._something_to_look_at(race)
        except (UpstreamError, OutOfDescriptors) as error:
            self.outcomes[error.slug] = self.outcomes.get(error.slug, 0) + 1
            raise
        finally:
            self._whole.stop(race)
            race.give_up()
        self.outcomes["connected"] += 1
        attempt.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return TcpStream(attempt.sock, self._poller, attempt.endpoint.address, attempt.endpoint.port)

    async def _something_to_look_at(self, race: _Race) -> None:
        """Return when an attempt has ended, or when it is time for the next one beside it. Raises ConnectTimeout."""
        if not race.timed_out:  # it may have been while a failure was looked at; no other wake-up would come
            race.waiter = Signal()
            if race.waiting:
                pause = _Pause(race)
                self._between.start(pause)
                try:
                    await race.waiter
                finally:
                    self._between.stop(pause)
            else:
                await race.waiter
        if race.timed_out and not race.ended:
            silent = ", ".join(str(attempt.endpoint) for attempt in race.under_way)
            facts = "; ".join([f"no answer from {silent} within {self._whole.delay_s:g} s", *_facts(race.failed)])
            raise ConnectTimeout(facts, endpoint=race.under_way[-1].endpoint)

    def configure(self, connect_s: float) -> None:
        """Change the deadline of dials to come."""
        if connect_s != self._whole.delay_s:
            self._whole = DeadlineQueue("connect_timeout", connect_s, self._loop)

    def close(self) -> None:
        """Give the timers back."""
        self._whole.close()
        self._between.close()


class _Attempt:
    """One connection under way; its call is what the poller does when it has ended either way."""

    __slots__ = ("_race", "endpoint", "fd", "sock")

    def __init__(self, race: _Race, sock: _socket.socket, endpoint: Endpoint) -> None:
        self._race = race
        self.sock = sock
        self.fd = sock.fileno()
        self.endpoint = endpoint

    def __call__(self, _events: int) -> None:
        self._race.ended.append(self)
        self._race.wake()


class _Race:
    """The attempts of one dial.

    waiting    endpoints not tried yet
    under_way  attempts that have not been looked at since they began
    ended      those of them that have something to say
    failed     endpoint and errno of each that came to nothing
    """

    __slots__ = ("_poller", "ended", "failed", "timed_out", "under_way", "waiter", "waiting")

    def __init__(self, poller: Poller, endpoints: Sequence[Endpoint]) -> None:
        self._poller = poller
        self.waiting = list(reversed(endpoints))
        self.under_way: list[_Attempt] = []
        self.ended: list[_Attempt] = []
        self.failed: list[tuple[Endpoint, int]] = []
        self.waiter: Signal | None = None
        self.timed_out = False

    def begin_next(self) -> None:
        """Start connecting to the next endpoint."""
        endpoint = self.waiting.pop()
        address = endpoint.address
        try:
            sock = _socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, _SOCKET_KIND, 0)
        except OSError as error:
            self.failed.append((endpoint, error.errno or errno.EIO))
            return
        if not _BORN_NON_BLOCKING:
            sock.setblocking(False)
        code = sock.connect_ex((address, endpoint.port))
        if code and code != errno.EINPROGRESS:
            sock.close()
            self.failed.append((endpoint, code))
            return
        attempt = _Attempt(self, sock, endpoint)
        self.under_way.append(attempt)
        self._poller.watch_once(attempt.fd, WRITE, attempt)

    def take_winner(self) -> _Attempt | None:
        """The first attempt that has ended, if it is connected; one that is not is closed and noted. None otherwise."""
        if not self.ended:
            return None
        attempt = self.ended.pop(0)
        self.under_way.remove(attempt)
        code = attempt.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if not code:
            return attempt
        self._poller.forget(attempt.fd)
        attempt.sock.close()
        self.failed.append((attempt.endpoint, code))
        return None

    def give_up(self) -> None:
        """Close what is still under way: another attempt has won, or nobody waits any more."""
        for attempt in self.under_way:
            self._poller.forget(attempt.fd)
            attempt.sock.close()
        self.under_way.clear()

    def expire(self) -> None:
        """The time for the whole dial has passed; called by its queue."""
        self.timed_out = True
        self.wake()

    def wake(self) -> None:
        """Let the dialling coroutine look again."""
        if self.waiter is not None:
            self.waiter.fire()


class _Pause:
    """The delay before the next attempt joins a race."""

    __slots__ = ("_race",)

    def __init__(self, race: _Race) -> None:
        self._race = race

    def expire(self) -> None:
        self._race.wake()


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


def _facts(failed: Sequence[tuple[Endpoint, int]]) -> list[str]:
    return [f"{endpoint}: {os.strerror(code)}" for endpoint, code in failed]


def _failure(failed: Sequence[tuple[Endpoint, int]]) -> UpstreamError | OutOfDescriptors:
    """What all the failed attempts together come to."""
    codes = {code for _, code in failed}
    facts = "; ".join(_facts(failed))
    if codes <= _OUT_OF_CAPACITY:
        return OutOfDescriptors(facts)
    last = failed[-1][0]
    if codes == {errno.ECONNREFUSED}:
        return ConnectRefused(facts, endpoint=last)
    if codes == {errno.ETIMEDOUT}:
        return ConnectTimeout(facts, endpoint=last)
    return ConnectFailed(facts, endpoint=last)
