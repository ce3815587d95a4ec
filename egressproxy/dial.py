"""Dial: from judged addresses to one connected socket, by Happy Eyeballs.

RFC 8305: addresses of both families are tried in turn, the next one when the last has failed or after the Connection
Attempt Delay, while the earlier attempts go on; the first that connects wins and the others are closed. The usual case,
where the first address answers at once, is told first and costs one attempt; only when it has not is there a race.

**What failed comes last.** An endpoint that could not be connected to, or was so slow that one which began after it was faster,
is remembered for `FAILED_S`. Whoever may choose among endpoints that serve the same asks the others first meanwhile
(`failed_last`), which saves the wait and leaves kept connections in use. It is never left out: with no other, it is tried.

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
    from collections.abc import Callable, Sequence

    from egressproxy.deadlines import Expires
    from egressproxy.model import Endpoint
    from egressproxy.poller import Poller

ATTEMPT_DELAY_S = 0.25
"""RFC 8305 section 5, Connection Attempt Delay: the recommended value."""
FAILED_S = 10.0
"""For how long an endpoint that failed comes last: NGINX's default (`fail_timeout`). Then whoever gets it tries again."""
MAX_FAILED = 1024
"""Endpoints that are remembered so; the oldest is forgotten first. About 200 KB."""

_BORN_NON_BLOCKING = hasattr(socket, "SOCK_NONBLOCK")
_SOCKET_KIND = socket.SOCK_STREAM | getattr(socket, "SOCK_NONBLOCK", 0) | getattr(socket, "SOCK_CLOEXEC", 0)
_OUT_OF_CAPACITY = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL, errno.EAGAIN}
)
"""No descriptor, no memory, no free port: the proxy's own want, whatever the address."""
_MAX_ADDRESSES = 16
"""Addresses of one name that are tried. An answer of hundreds must not keep a client waiting for hundreds of attempts."""


class Dialer:
    """Connects. Counts how it went in `outcomes`, by the slug of the error or `connected`, and each try in `attempts`.

    whole  the usual time for one dial, over all its addresses
    """

    def __init__(self, poller: Poller, loop: asyncio.AbstractEventLoop, connect_s: float) -> None:
        """`connect_s`: for one dial, over all its addresses."""
        self._poller = poller
        self._loop = loop
        self.whole = DeadlineQueue("connect_timeout", connect_s, loop)
        self._between = DeadlineQueue("next_attempt", ATTEMPT_DELAY_S, loop)
        self._failed: dict[Endpoint, float] = {}  # until when each comes last, the oldest first
        self.attempts = 0
        self.outcomes: dict[str, int] = {"connected": 0}

    async def dial(
        self,
        endpoints: Sequence[Endpoint],
        whole: DeadlineQueue | None = None,
        begun: Callable[[Expires], None] | None = None,
    ) -> TcpStream:
        """Connect to one of the endpoints; the caller closes the stream.

        whole  the time for it, where it is not the usual one
        begun  called with what is under way: to let that expire is to let the time be over

        Raises ConnectRefused, ConnectFailed, ConnectTimeout or OutOfDescriptors; the error names each address that was
        tried and carries the last one as `endpoint`. Hot: once per connection.
        """
        endpoints = in_turn(endpoints)
        if whole is None:  # an empty queue is false
            whole = self.whole
        first = self._begin(endpoints[0])
        winner = pause = None
        whole.start(first)
        if begun is not None:
            begun(first)
        try:
            if len(endpoints) > 1:
                pause = self._pause_before_next(first)
            if first.code is None:
                await first
            winner = first if first.code == 0 else await self._race(first, endpoints, whole)
        except (UpstreamError, OutOfDescriptors) as error:
            self.outcomes[error.slug] = self.outcomes.get(error.slug, 0) + 1
            raise
        finally:
            whole.stop(first)
            if pause is not None:
                self._between.stop(pause)
            if winner is not first:
                self._give_up(first)
        self.outcomes["connected"] += 1
        if self._failed:
            self._failed.pop(winner.endpoint, None)
        sock = winner.sock
        assert sock is not None  # it is connected
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        address, port = winner.endpoint
        return TcpStream(sock, self._poller, address, port)

    def failed_last(self, endpoints: Sequence[Endpoint]) -> Sequence[Endpoint]:
        """The endpoints in their order, those that failed not long ago behind the others. Hot: once per connection."""
        if not self._failed:
            return endpoints
        now = self._loop.time()
        failed = [each for each in endpoints if self._failed.get(each, now) > now]
        return [*(each for each in endpoints if each not in failed), *failed] if failed else endpoints

    def note_failure(self, *endpoints: Endpoint) -> None:
        """They could not be used: from now on they come last, for `FAILED_S` or until they connect."""
        for endpoint in endpoints:
            self._failed.pop(endpoint, None)
            if len(self._failed) >= MAX_FAILED:
                del self._failed[next(iter(self._failed))]
            self._failed[endpoint] = self._loop.time() + FAILED_S

    async def _race(self, first: _Attempt, endpoints: Sequence[Endpoint], whole: DeadlineQueue) -> _Attempt:
        """The first attempt has failed, or takes its time: others join it, until one is connected. `first` has the deadline."""
        waiting = list(reversed(endpoints[1:]))
        under_way = [first]
        failed: list[tuple[Endpoint, int]] = []
        try:
            while True:
                for attempt in tuple(under_way):
                    if attempt.code is not None:
                        begun_before = under_way.index(attempt)
                        del under_way[begun_before]
                        if not attempt.code:
                            self.note_failure(*(slower.endpoint for slower in under_way[:begun_before]))
                            return attempt
                        self._give_up(attempt)
                        failed.append((attempt.endpoint, attempt.code))
                        if attempt.code not in _OUT_OF_CAPACITY:
                            self.note_failure(attempt.endpoint)
                if first.timed_out and under_way:
                    if first not in whole:  # else it is not the time that is over: nobody waits for it any more
                        self.note_failure(*(attempt.endpoint for attempt in under_way))
                    silent = ", ".join(str(attempt.endpoint) for attempt in under_way)
                    facts = "; ".join([f"no answer from {silent} within {whole.delay_s:g} s", *_facts(failed)])
                    raise ConnectTimeout(facts, endpoint=under_way[-1].endpoint)
                if waiting:
                    under_way.append(self._begin(waiting.pop()))
                elif not under_way:
                    raise _failure(failed)
                if not first.timed_out and all(attempt.code is None for attempt in under_way):
                    await self._something_to_look_at([first, *under_way], pause=bool(waiting))
        finally:
            for attempt in under_way:
                self._give_up(attempt)

    async def _something_to_look_at(self, attempts: Sequence[_Attempt], *, pause: bool) -> None:
        """Return when one of the attempts has fired, or after a pause, when it is time for the next one beside them."""
        either = Signal()
        for attempt in attempts:
            attempt.add_done_callback(either.fire)
        if not pause:
            await either
            return
        passed = self._pause_before_next(either)
        try:
            await either
        finally:
            self._between.stop(passed)

    def _pause_before_next(self, ends: Signal) -> _Pause:
        pause = _Pause(ends)
        self._between.start(pause)
        return pause

    def _begin(self, endpoint: Endpoint) -> _Attempt:
        """Start connecting. It may have failed on return."""
        self.attempts += 1
        try:
            sock = _socket.socket(socket.AF_INET6 if ":" in endpoint.address else socket.AF_INET, _SOCKET_KIND, 0)
        except OSError as error:
            return _Attempt(endpoint, None, error.errno or errno.EIO)
        if not _BORN_NON_BLOCKING:
            sock.setblocking(False)
        code = sock.connect_ex(endpoint)
        if code and code != errno.EINPROGRESS:
            sock.close()
            return _Attempt(endpoint, None, code)
        attempt = _Attempt(endpoint, sock, None)
        self._poller.watch_once(sock.fileno(), WRITE, attempt)
        return attempt

    def _give_up(self, attempt: _Attempt) -> None:
        """Close what has failed, or has lost, or nobody waits for any more. Harmless twice."""
        sock, attempt.sock = attempt.sock, None
        if sock is not None:
            self._poller.forget(sock.fileno())
            sock.close()

    def configure(self, connect_s: float) -> None:
        """Change the deadline of dials to come."""
        if connect_s != self.whole.delay_s:
            self.whole = DeadlineQueue("connect_timeout", connect_s, self._loop)

    def close(self) -> None:
        """Give the timers back."""
        self.whole.close()
        self._between.close()


class _Attempt(Signal):
    """One connection under way. Fires when it has ended either way; also a deadline's item, whose passing makes it fire.

    sock       None where none could be made, and once it was given up
    code       None while it is under way, 0 when it is connected, else the errno
    timed_out  its deadline has passed
    """

    __slots__ = ("code", "endpoint", "sock", "timed_out")

    def __init__(self, endpoint: Endpoint, sock: _socket.socket | None, code: int | None) -> None:
        Signal.__init__(self)
        self.endpoint = endpoint
        self.sock = sock
        self.code = code
        self.timed_out = False

    def __call__(self, events: int) -> None:
        """As the poller's handler."""
        if events == WRITE:  # nearly always: an attempt that has failed has other bits as well
            self.code = 0
        else:
            assert self.sock is not None  # it is watched
            self.code = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        self.fire()

    def expire(self) -> None:
        self.timed_out = True
        self.fire()


class _Pause:
    """The delay before the next attempt joins."""

    __slots__ = ("_ends",)

    def __init__(self, ends: Signal) -> None:
        self._ends = ends

    def expire(self) -> None:
        self._ends.fire()


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
