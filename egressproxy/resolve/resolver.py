"""The door of the package: a host goes in, addresses come out. The story of one question is `Resolver.resolve`."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import TYPE_CHECKING

from egressproxy.errors import NameNotFound, ResolverFailed, ResolverTimeout
from egressproxy.resolve.answers import AAAA, A
from egressproxy.resolve.cache import Cache
from egressproxy.resolve.files import WatchedFile, parse_hosts, parse_resolv_conf
from egressproxy.resolve.lookup import Lookup
from egressproxy.resolve.servers import Servers

if TYPE_CHECKING:
    from collections.abc import Callable

    from egressproxy.config.schema.stages import Dns
    from egressproxy.errors import UpstreamError
    from egressproxy.resolve.answers import Answer
    from egressproxy.resolve.cache import Entry
    from egressproxy.resolve.patience import Patience

OUTCOMES = (
    "cache",  # an answer that was still good
    "negative_cache",  # a "no" that was still good
    "stale",  # an answer that ran out, because the servers fail
    "local",  # the hosts file, or localhost
    "joined",  # waited for a lookup that another asker had begun
    "network",  # the servers gave addresses
    "not_found",  # the servers said that there are none
    "failed",  # the servers failed, or could not be asked
    "timeout",  # the servers did not answer in time
)
"""The closed set of keys of `Resolver.outcomes`. Each question counts once, under one of them."""

STALE_ANSWER_AFTER_S = 1.8
"""RFC 8767 section 5: with an old answer at hand nobody waits longer than this; the lookup goes on behind."""

FILE_CHECK_S = 2.0
"""How often resolv.conf and the hosts file are looked at, and how long what the hosts file says is kept."""


class Resolver:
    """Looks names up, and remembers. One per worker; not for use by several threads.

    outcomes  how often each way of answering was taken: plain integers under the keys `OUTCOMES`

    Nothing is opened before the first lookup, which binds it to the running loop. Whoever makes it calls `close`.
    """

    def __init__(
        self,
        settings: Dns,
        *,
        resolv_conf: str | None = None,
        hosts_file: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.outcomes = dict.fromkeys(OUTCOMES, 0)
        self._settings = settings
        self._clock = clock
        self._cache = Cache(settings, clock)
        self._known = self._cache.entries
        self._pending: dict[str, _Pending] = {}
        self._resolv_conf = WatchedFile(resolv_conf or "/etc/resolv.conf", parse_resolv_conf)
        self._hosts = WatchedFile(hosts_file or "/etc/hosts", partial(parse_hosts, ipv6=settings.ipv6))
        self._next_look_s = float("-inf")
        self._servers: Servers | None = None
        self._retired: set[Servers] = set()
        self._closed = False

    @property
    def entries(self) -> int:
        """Names in the cache, those that ran out included. At most `cache_entries`."""
        return len(self._known)

    def cached(self, host: str) -> tuple[str, ...] | None:
        """The addresses of `host`, if they are known without asking; None if not. Runs once per connection.

        Raises NameNotFound when it is known that there are none.
        """
        entry = self._known.get(host)
        if entry is None or entry[0] <= self._clock():  # `expires_s`; by index, a sixth of the whole is saved
            return None
        self._known.move_to_end(host)
        self.outcomes[entry[2]] += 1
        if entry[1]:
            return entry[1]
        raise NameNotFound(entry.problem)

    async def resolve(self, host: str, patience: Patience | None = None) -> tuple[str, ...]:
        """The addresses of `host`, best first by RFC 6724, in standard spelling, without duplicates; never empty.

        host      a canonical name
        patience  how long the asker waits, where that is less than a lookup may last

        Askers of one name share one lookup, which goes on when they are cancelled or have waited for long enough, and
        lasts at most `timeout_s` x `tries` x number of servers. Raises NameNotFound, ResolverFailed, ResolverTimeout, and
        what `patience` raises.
        """
        addresses = self.cached(host)
        if addresses is not None:
            return addresses
        if self._closed:
            raise ResolverFailed(f"{host} was not looked up: the resolver is closed")
        self._look_at_files()
        addresses = self._local(host)
        if addresses is not None:
            self.outcomes["local"] += 1
            self._cache.keep_local(host, addresses, FILE_CHECK_S)
            return addresses
        pending = self._pending.get(host)
        if pending is not None:
            self.outcomes["joined"] += 1
            asker = pending.join()
        else:
            asker = self._look_up(host)
        return await (asker if patience is None else patience.wait_for(asker))

    def close(self) -> None:
        """Give every asker ResolverFailed, and close all sockets. May be called twice."""
        self._closed = True
        for host, pending in self._pending.items():
            pending.stop()
            pending.fail(ResolverFailed, f"{host} was not looked up: the resolver was closed")
        self._pending.clear()
        for servers in (self._servers, *self._retired):
            if servers is not None:
                servers.close()
        self._servers = None
        self._retired.clear()

    # --- what this machine knows --------------------------------------------------------------------------------

    def _local(self, host: str) -> tuple[str, ...] | None:
        """RFC 6761 section 6.3 for localhost; else what the hosts file has, and then there are no others."""
        if host == "localhost" or host.endswith(".localhost"):
            return ("::1", "127.0.0.1") if self._settings.ipv6 else ("127.0.0.1",)
        return self._hosts.value.get(host)

    def _look_at_files(self) -> None:
        """Read resolv.conf and the hosts file when they changed, looking at most every FILE_CHECK_S."""
        now = self._clock()
        if now < self._next_look_s:
            return
        self._next_look_s = now + FILE_CHECK_S
        before = self._hosts.value
        if self._hosts.refresh():
            for host, _ in before.items() ^ self._hosts.value.items():
                self._cache.forget(host)
        if self._resolv_conf.refresh():
            self._retire_servers()

    # --- what the servers know ----------------------------------------------------------------------------------

    def _look_up(self, host: str) -> asyncio.Future[tuple[str, ...]]:
        """Begin a lookup, with one who waits for it."""
        pending = self._pending[host] = _Pending(host, self._cache.stale(host))
        joined = pending.join()  # first: the lookup may come to its end before it has quite begun
        pending.lookup = Lookup(
            host,
            self._resolv_conf.value.names_for(host) if self._settings.search else (host,),
            (A, AAAA) if self._settings.ipv6 else (A,),
            self._open_servers,
            partial(self._answered, pending),
            float("inf") if pending.stale is None else STALE_ANSWER_AFTER_S,
        )
        pending.lookup.start()
        return joined

    def _answered(self, pending: _Pending, answer: Answer) -> None:
        """The end of a lookup, or news after it."""
        if pending.lookup is None:
            self._keep_late(pending, answer)
        else:
            self._conclude(pending, answer)
        if pending.host in self._hosts.value:
            self._cache.forget(pending.host)  # it came into the hosts file meanwhile, and that goes first

    def _conclude(self, pending: _Pending, answer: Answer) -> None:
        """Remember what came of it, and tell those who wait."""
        host = pending.host
        pending.lookup = None  # it knows `pending`: this leaves no cycle behind
        del self._pending[host]
        if answer.status == "found":
            self.outcomes["network"] += 1
            pending.entry = self._cache.keep(host, answer.addresses, answer.ttl_s)
            pending.give(answer.addresses)
        elif answer.status in ("no_name", "no_address"):
            message = f"{host} {answer.problem}"
            self.outcomes["not_found"] += 1
            self._cache.keep_no(host, message)
            pending.fail(NameNotFound, message)
        else:
            self._servers_failed(pending, answer)

    def _servers_failed(self, pending: _Pending, answer: Answer) -> None:
        """The old answer if there is one, else the error."""
        host, stale = pending.host, pending.stale
        if stale is not None and self._cache.keep_stale(host, stale):
            self.outcomes["stale"] += 1
            pending.give(stale.addresses)
            return
        timeout = answer.status == "timeout"
        self.outcomes["timeout" if timeout else "failed"] += 1
        error = ResolverTimeout if timeout else ResolverFailed
        pending.fail(error, f"{host} could not be looked up: {answer.problem}")

    def _keep_late(self, pending: _Pending, answer: Answer) -> None:
        """Addresses after the askers have gone. They still are news: the other half, or the end of a stale time.

        Only what this lookup wrote itself, or nothing, is written over: another lookup may know better.
        """
        if self._closed:
            return
        known, mine = self._known.get(pending.host), pending.entry
        if mine is None and (known is None or known.outcome == "stale"):
            pending.entry = self._cache.keep(pending.host, answer.addresses, answer.ttl_s)
        elif mine is not None and known is mine:
            pending.entry = self._cache.keep(pending.host, answer.addresses, answer.ttl_s, mine.expires_s)

    def _open_servers(self) -> Servers:
        """Those that the settings name, or resolv.conf. Raises ServersUnusable."""
        if self._servers is None:
            self._servers = Servers(self._settings, self._settings.servers or self._resolv_conf.value.servers)
        return self._servers

    def _retire_servers(self) -> None:
        """Let the queries that are out come to their end; new ones go to the servers that resolv.conf names now."""
        servers, self._servers = self._servers, None
        if servers is not None:
            self._retired.add(servers)
            servers.retire(self._retired.discard)


class _Pending:
    """A name that is being looked up: who waits for it, and what the cache has of it.

    lookup  until its end, or None
    stale   the answer that ran out, to be used if the servers fail
    entry   what this lookup put into the cache
    """

    __slots__ = ("_askers", "entry", "host", "lookup", "stale")

    def __init__(self, host: str, stale: Entry | None) -> None:
        self.host = host
        self.stale = stale
        self.entry: Entry | None = None
        self.lookup: Lookup | None = None
        self._askers: list[asyncio.Future[tuple[str, ...]]] = []

    def join(self) -> asyncio.Future[tuple[str, ...]]:
        """A future of one's own: cancelling it touches no other asker, nor the lookup, which is not a task."""
        asker: asyncio.Future[tuple[str, ...]] = asyncio.get_running_loop().create_future()
        self._askers.append(asker)
        return asker

    def stop(self) -> None:
        """End the lookup without an answer."""
        if self.lookup is not None:
            self.lookup.stop()
            self.lookup = None

    def give(self, addresses: tuple[str, ...]) -> None:
        """Answer all who still wait."""
        for asker in self._take_askers():
            asker.set_result(addresses)

    def fail(self, error: type[UpstreamError], message: str) -> None:
        """Give all who still wait an exception of their own."""
        for asker in self._take_askers():
            asker.set_exception(error(message))

    def _take_askers(self) -> list[asyncio.Future[tuple[str, ...]]]:
        askers, self._askers = self._askers, []
        return [asker for asker in askers if not asker.done()]
