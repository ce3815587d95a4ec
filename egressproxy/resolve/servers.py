"""The wire: one question to the name servers, by c-ares.

c-ares speaks DNS, and says which sockets it waits for; watching them, and driving its time-outs, is done here, on the
running loop. aiodns would do that in a thread per channel, with four descriptors and an inotify watch. That costs as
much CPU per lookup or more (127 microseconds against 109 on uvloop, the same on plain asyncio), and its answers compete
with the loop for the interpreter lock. Without the thread nothing is open while no query is out. (pycares itself keeps
one idle thread per process, for closing channels.)
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

import pycares

from egressproxy.resolve.answers import Answer, read_answer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from egressproxy.config.schema.stages import Dns

TICK_S = 0.1
"""How often c-ares looks for queries that timed out, while any is out. Its shortest time-out is 250 ms."""

_BAD = pycares.ARES_SOCKET_BAD

_NOBODY = "[100::]:1"
"""In the discard prefix (RFC 6666): never a name server, and never asked."""


class ServersUnusable(Exception):
    """c-ares cannot use the name servers that are configured. The message is its own word for why."""


class Servers:
    """A c-ares channel to one list of servers.

    patience_s  how long a question may take at most, seconds: every server, every try

    Holds sockets only while a query is out. Whoever makes it calls `close`, or `retire` to let queries come to an end.
    """

    def __init__(self, settings: Dns, addresses: tuple[str, ...]) -> None:
        """`addresses` as c-ares spells them, like `10.0.0.1:53` and `[fe80::1]:53%eth0`. Raises ServersUnusable."""
        self._loop = asyncio.get_running_loop()
        try:
            self._channel = pycares.Channel(
                timeout=settings.timeout_s, tries=settings.tries, servers=addresses, sock_state_cb=self._watch
            )
        except pycares.AresError as error:
            raise ServersUnusable(str(error)) from error
        self._addresses = self._channel.servers
        self.patience_s = settings.timeout_s * settings.tries * len(self._addresses)
        self._out = 0
        self._reading: set[int] = set()
        self._writing: set[int] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._ended: Callable[[Servers], None] | None = None
        self._closed = False

    # --- asking -------------------------------------------------------------------------------------------------

    def ask(self, name: str, kinds: Iterable[int], answered: Callable[[int, Answer], None]) -> None:
        """Ask for the records of `name` of these kinds, A and AAAA; `name` is absolute.

        `answered` gets the kind and what came of it, once for each; maybe before this returns. It must not raise, nor
        ask again there and then: c-ares may still be using its list of servers. Raises ServersUnusable.
        """
        self._empty_cache()
        for kind in kinds:
            self._query(name, kind, partial(self._answered, name, kind, answered))
        if self._out and self._timer is None:
            self._timer = self._loop.call_later(TICK_S, self._tick)

    def _empty_cache(self) -> None:
        """Make c-ares forget, so that the next query goes out.

        c-ares keeps answers for their TTL up to an hour, negative ones for the minimum of the zone's SOA; that would
        break `max_ttl_s`, `negative_ttl_s` and the counts. pycares has no switch for it (it does not hand on
        `qcache_max_ttl`), but c-ares empties the cache whenever its list of servers changes. So a server that nobody
        asks comes and goes; the real ones keep their sockets, statistics and queries. Takes 10 microseconds.
        """
        try:
            self._channel.servers = [*self._addresses, _NOBODY]
            self._channel.servers = self._addresses
        except pycares.AresError as error:
            raise ServersUnusable(str(error)) from error

    def _query(self, name: str, kind: int, callback: Callable[[pycares.DNSResult | None, int | None], None]) -> None:
        before = self._out
        self._out = before + 1
        try:
            self._channel.query(name, kind, callback=callback)
        except pycares.AresError as error:
            # For a name it cannot send, c-ares calls back and pycares raises as well.
            if self._out > before:
                callback(None, int(error.args[0]))

    def _answered(
        self,
        name: str,
        kind: int,
        answered: Callable[[int, Answer], None],
        result: pycares.DNSResult | None,
        status: int | None,
    ) -> None:
        """c-ares calls this, once for each query."""
        self._out -= 1
        answered(kind, read_answer(name, kind, result, status or 0))
        if self._ended is not None and not self._out and not self._closed:
            self._loop.call_soon(self._end)

    # --- what c-ares wants of the loop --------------------------------------------------------------------------

    def _watch(self, fd: int, readable: bool, writable: bool) -> None:
        """c-ares calls this when it opens a socket, closes it, or waits for something else."""
        if self._closed:
            return  # the call comes from pycares' thread, and the loop has long let go
        if readable and fd not in self._reading:
            self._reading.add(fd)
            self._loop.add_reader(fd, self._channel.process_fd, fd, _BAD)
        elif not readable and fd in self._reading:
            self._reading.discard(fd)
            self._loop.remove_reader(fd)
        if writable and fd not in self._writing:
            self._writing.add(fd)
            self._loop.add_writer(fd, self._channel.process_fd, _BAD, fd)
        elif not writable and fd in self._writing:
            self._writing.discard(fd)
            self._loop.remove_writer(fd)

    def _tick(self) -> None:
        self._timer = None
        if self._out:
            self._channel.process_fd(_BAD, _BAD)
        if self._out and not self._closed:
            self._timer = self._loop.call_later(TICK_S, self._tick)

    # --- the end ------------------------------------------------------------------------------------------------

    def retire(self, ended: Callable[[Servers], None]) -> None:
        """Close once the last query has come to its end, and tell `ended` then."""
        self._ended = ended
        if not self._out:
            self._end()

    def _end(self) -> None:
        self.close()
        if self._ended is not None:
            self._ended(self)

    def close(self) -> None:
        """Close now; what is still out is answered `failed`. May be called twice."""
        if self._closed:
            return
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._loop.is_closed():
            for fd in self._reading:
                self._loop.remove_reader(fd)
            for fd in self._writing:
                self._loop.remove_writer(fd)
        self._reading.clear()
        self._writing.clear()
        self._channel.cancel()  # closes its sockets, here and now
        self._channel.close()  # frees the memory, in pycares' thread
