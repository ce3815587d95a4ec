"""Names become addresses: hosts file, DNS by c-ares, and a cache that outlives a dead name server.

What happens to a name, in order:

1. `localhost` and all names below it are loopback and never leave the machine (RFC 6761 section 6.3).
2. The hosts file. A name that stands there has the addresses written there and no others.
3. The name servers, for A and AAAA at once. RFC 8305 section 3: as soon as one half has addresses, the other has 50 ms
   left. A half that fails or stays silent costs that and nothing more; if it comes later, it joins the cache entry.
4. Search domains of resolv.conf. A name with a dot is absolute first: only if it does not exist, and has fewer dots
   than `ndots`, are they tried, so that no search domain can take over a name that exists. A name without a dot tries
   them first (after itself if `ndots` is 0). A failing server ends the search: a name must not change its meaning with
   the health of a server.

Answers are kept for their TTL between floor and ceiling, "no such name" and "no address" for a fixed time, failures not
at all. When the servers fail, an answer that ran out is used a while longer (RFC 8767).

Which parts are whose. c-ares asks: retries, failover, EDNS, cookies, TCP after truncation, and disbelief of what was
not asked for. This module keeps the cache, the hosts file and the search list, because c-ares (1.34, by pycares 5)

- has a cache of its own that ignores our floor and ceiling and that pycares cannot switch off (`_Servers.flush`);
- goes to the servers for the family that a hosts entry lacks, believes a hosts entry that moves `localhost`, and finds
  the hosts file by an environment variable only;
- tries search domains after *any* absolute name, however many dots it has, unless it ends in a dot (its plain query,
  which is what is used here, never searches: with or without the dot the name is absolute);
- answers A and AAAA in one piece, when the slower one is in or has timed out;
- gets a dangling pointer when pycares 5.2 is given the path of a resolv.conf, so that is read here as well. c-ares reads
  /etc/resolv.conf too, but all that is left for it are options like `rotate` and `use-vc`.

Not here: policy (a refused name never arrives), address literals, and which address is dialled.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections import OrderedDict
from functools import partial
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pycares

from egressproxy.errors import NameNotFound, ResolverFailed, ResolverTimeout, UpstreamError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from egressproxy.config.schema import Dns

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

RESOLUTION_DELAY_S = 0.05
"""RFC 8305 section 8: how long one address family waits for the other."""

STALE_ANSWER_AFTER_S = 1.8
"""RFC 8767 section 5: with an old answer at hand nobody waits longer than this; the lookup goes on behind."""

STALE_RETRY_S = 30.0
"""RFC 8767 section 5: servers that failed are not asked for the same name again before this."""

FILE_CHECK_S = 2.0
"""How often resolv.conf and the hosts file are looked at, and how long what the hosts file says is kept."""

TICK_S = 0.1
"""How often c-ares looks for queries that timed out, while any is out. Its shortest time-out is 250 ms."""

MAX_ADDRESSES = 256
"""Addresses of one family that are kept. A DNS message has room for 4,000; the cache needs a bound in bytes too."""

MAX_NDOTS = 15
"""resolv.conf(5): a larger `ndots` counts as this."""

_A, _AAAA = pycares.QUERY_TYPE_A, pycares.QUERY_TYPE_AAAA
_BAD = pycares.ARES_SOCKET_BAD

_NO_NAME = frozenset({pycares.errno.ARES_ENOTFOUND, pycares.errno.ARES_EBADNAME})
_SAID = {
    pycares.errno.ARES_ESERVFAIL: "SERVFAIL",
    pycares.errno.ARES_EREFUSED: "REFUSED",
    pycares.errno.ARES_ENOTIMP: "NOTIMP",
    pycares.errno.ARES_EFORMERR: "FORMERR",
}


class _Entry(NamedTuple):
    """What the cache knows of a name. No addresses: it has none, and `problem` says so."""

    expires_s: float  # by the resolver's clock
    addresses: tuple[str, ...]
    outcome: str  # what a hit counts as
    stale_until_s: float
    problem: str


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
        self._kinds = (_A, _AAAA) if settings.ipv6 else (_A,)
        self._cache: OrderedDict[str, _Entry] = OrderedDict()  # least recently used first
        self._lookups: dict[str, _Lookup] = {}
        self._servers: _Servers | None = None
        self._retired: set[_Servers] = set()
        self._resolv_conf = _WatchedFile(resolv_conf or "/etc/resolv.conf")
        self._hosts_file = _WatchedFile(hosts_file or "/etc/hosts")
        self._hosts: dict[str, tuple[str, ...]] = {}
        self._system = _parse_resolv_conf("")
        self._next_check_s: float | None = None
        self._closed = False

    @property
    def entries(self) -> int:
        """Names in the cache, those that ran out included. At most `cache_entries`."""
        return len(self._cache)

    def cached(self, host: str) -> tuple[str, ...] | None:
        """The addresses of `host`, if they are known without asking; None if not. Runs once per connection.

        Raises NameNotFound when it is known that there are none.
        """
        entry = self._cache.get(host)
        if entry is None or entry[0] <= self._clock():
            return None
        self._cache.move_to_end(host)
        self.outcomes[entry[2]] += 1
        if entry[1]:
            return entry[1]
        raise NameNotFound(entry[4])

    async def resolve(self, host: str) -> tuple[str, ...]:
        """The addresses of `host`, best first by RFC 6724, in standard spelling, without duplicates; never empty.

        `host` is a canonical name. Askers of one name share one lookup, which goes on when they are cancelled, and
        lasts at most `timeout_s` x `tries` x number of servers. Raises NameNotFound, ResolverFailed, ResolverTimeout.
        """
        addresses = self.cached(host)
        if addresses is not None:
            return addresses
        if self._closed:
            raise ResolverFailed(f"{host} was not looked up: the resolver is closed")
        self._check_files()
        addresses = self._local(host)
        if addresses is not None:
            self.outcomes["local"] += 1
            self._store(host, _Entry(self._clock() + FILE_CHECK_S, addresses, "local", 0.0, ""))
            return addresses
        answer: asyncio.Future[tuple[str, ...]] = asyncio.get_running_loop().create_future()
        lookup = self._lookups.get(host)
        if lookup is None:
            lookup = self._lookups[host] = _Lookup(self, host)
            # Each asker has a future of its own: cancelling one touches no other, nor the lookup, which is not a task.
            lookup.askers.append(answer)
            lookup.ask()
        else:
            self.outcomes["joined"] += 1
            lookup.askers.append(answer)
        return await answer

    def close(self) -> None:
        """Give every asker ResolverFailed, and close all sockets. May be called twice."""
        self._closed = True
        for lookup in list(self._lookups.values()):
            lookup.fail(ResolverFailed, f"{lookup.host} was not looked up: the resolver was closed")
        for servers in (self._servers, *self._retired):
            if servers is not None:
                servers.close()
        self._servers = None
        self._retired.clear()

    # --- what is known without asking ---------------------------------------------------------------------------

    def _local(self, host: str) -> tuple[str, ...] | None:
        if host == "localhost" or host.endswith(".localhost"):
            return ("::1", "127.0.0.1") if self._settings.ipv6 else ("127.0.0.1",)
        return self._hosts.get(host)

    def _check_files(self) -> None:
        """Read resolv.conf and the hosts file when they changed, looking at most every FILE_CHECK_S."""
        now = self._clock()
        if self._next_check_s is not None and now < self._next_check_s:
            return
        self._next_check_s = now + FILE_CHECK_S
        text = self._hosts_file.changed()
        if text is not None:
            hosts = _parse_hosts(text, ipv6=self._settings.ipv6)
            for host in hosts.keys() | self._hosts.keys():
                if hosts.get(host) != self._hosts.get(host):
                    self._cache.pop(host, None)
            self._hosts = hosts
        text = self._resolv_conf.changed()
        if text is not None:
            self._system = _parse_resolv_conf(text)
            self._retire_servers()

    def _names(self, host: str) -> tuple[str, ...]:
        """The names to ask for, in order."""
        if host.endswith(".onion"):
            return (host,)  # RFC 7686 section 2: never sent anywhere. c-ares refuses it, but not below a search domain
        searched = tuple(f"{host}.{domain}" for domain in self._system.search)
        dots = host.count(".")
        if dots == 0 and self._system.ndots > 0:
            return (*searched, host)
        return (host, *searched) if dots < max(self._system.ndots, 1) else (host,)

    # --- the cache ----------------------------------------------------------------------------------------------

    def _store(self, host: str, entry: _Entry) -> None:
        self._cache[host] = entry
        self._cache.move_to_end(host)
        if len(self._cache) > self._settings.cache_entries:
            self._cache.popitem(last=False)

    def _keep(self, host: str, addresses: tuple[str, ...], expires_s: float) -> _Entry:
        entry = _Entry(expires_s, addresses, "cache", expires_s + self._settings.stale_s, "")
        self._store(host, entry)
        return entry

    def _expiry(self, ttl_s: float) -> float:
        return self._clock() + min(max(ttl_s, self._settings.min_ttl_s), self._settings.max_ttl_s)

    def _keep_negative(self, host: str, problem: str) -> None:
        self._store(host, _Entry(self._clock() + self._settings.negative_ttl_s, (), "negative_cache", 0.0, problem))

    def _stale(self, host: str) -> _Entry | None:
        """The entry of `host`, if it has run out and may still be used."""
        entry = self._cache.get(host)
        usable = entry is not None and entry.addresses and self._clock() < entry.stale_until_s
        return entry if usable else None

    # --- the servers --------------------------------------------------------------------------------------------

    def _open_servers(self) -> _Servers:
        """Raises pycares.AresError when c-ares cannot use the servers that are configured."""
        if self._servers is None:
            addresses = self._settings.servers or self._system.servers
            self._servers = _Servers(self._settings, addresses, self._retired.discard)
        return self._servers

    def _retire_servers(self) -> None:
        """Let the queries that are out come to their end; new ones go to the servers that resolv.conf names now."""
        servers, self._servers = self._servers, None
        if servers is not None:
            self._retired.add(servers)
            servers.retire()


class _Answer(NamedTuple):
    """What came of one query: addresses and their TTL, or none and a c-ares status."""

    addresses: tuple[str, ...]
    ttl_s: float
    status: int


class _Lookup:
    """The way of one name through the servers: callbacks of c-ares and timers, no task that could be left behind."""

    __slots__ = (
        "_answers",
        "_deadline",
        "_deadline_s",
        "_delay",
        "_entry",
        "_finished",
        "_loop",
        "_names",
        "_resolver",
        "_stale",
        "_step",
        "askers",
        "host",
    )

    def __init__(self, resolver: Resolver, host: str) -> None:
        self.host = host
        self.askers: list[asyncio.Future[tuple[str, ...]]] = []
        self._resolver = resolver
        self._loop = asyncio.get_running_loop()
        self._names = resolver._names(host)
        self._step = 0
        self._answers: dict[int, _Answer] = {}
        self._stale = resolver._stale(host)
        self._entry: _Entry | None = None
        self._delay: asyncio.TimerHandle | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._deadline_s = 0.0
        self._finished = False

    def ask(self) -> None:
        """Send the queries for the present name."""
        if self._finished:
            return
        self._answers.clear()
        try:
            servers = self._resolver._open_servers()
            servers.flush()
        except pycares.AresError as error:
            self._end(ResolverFailed, f"the name servers cannot be used: {error}")
            return
        if self._deadline is None:
            settings = self._resolver._settings
            wait_s = settings.timeout_s * settings.tries * servers.number
            self._deadline_s = self._loop.time() + wait_s
            if self._stale is not None:
                wait_s = min(wait_s, STALE_ANSWER_AFTER_S)
            self._deadline = self._loop.call_later(wait_s, self._out_of_time)
        for kind in self._resolver._kinds:
            servers.query(self._names[self._step], kind, partial(self._answered, self._step, kind))

    def fail(self, kind: type[UpstreamError], message: str) -> None:
        """End it with this error for every asker."""
        for asker in self._finish():
            asker.set_exception(kind(message))

    def _ask_again(self, step: int, kind: int) -> None:
        servers = self._resolver._servers
        if self._finished or step != self._step:
            return
        if servers is None:
            self.ask()  # resolv.conf changed: everything anew, with the servers it names now
        else:
            servers.query(self._names[step], kind, partial(self._answered, step, kind))

    def _answered(self, step: int, kind: int, result: pycares.DNSResult | None, status: int) -> None:
        """c-ares calls this, once for each query; maybe before `query` returns. It must not raise."""
        answer = _read_answer(self._names[step], kind, result, status)
        if self._finished:
            self._late(kind, answer)
            return
        if step != self._step:
            return
        halfway = any(known.addresses for known in self._answers.values())
        if status == pycares.errno.ARES_ETIMEOUT and not halfway and self._loop.time() < self._deadline_s:
            # c-ares shortens its time-outs to five times the server's average (at least 250 ms), which is less than a
            # recursive server needs for a far name. What `timeout_s` and `tries` promise is kept by asking again.
            self._loop.call_soon(self._ask_again, step, kind)
            return
        self._answers[kind] = answer
        if len(self._answers) == len(self._resolver._kinds):
            self._conclude()
        elif answer.addresses:
            self._delay = self._loop.call_later(RESOLUTION_DELAY_S, self._conclude)

    def _conclude(self) -> None:
        """All answers are in, or those that are have waited long enough."""
        answers = self._answers.values()
        if any(answer.addresses for answer in answers):
            self._succeed()
            return
        failure = next((answer for answer in answers if not _is_negative(answer.status)), None)
        if failure is not None:
            if failure.status == pycares.errno.ARES_ETIMEOUT:
                self._out_of_time()
            else:
                self._end(ResolverFailed, _said(failure.status))
            return
        exists = any(answer.status not in _NO_NAME for answer in answers)
        last = self._step + 1 == len(self._names)
        if last or (exists and self._names[self._step] == self.host and "." in self.host):
            problem = "has no address (NODATA)" if exists else "does not exist (NXDOMAIN)"
            message = f"{self.host} {problem}{self._where()}"
            self._resolver.outcomes["not_found"] += 1
            self._resolver._keep_negative(self.host, message)
            self.fail(NameNotFound, message)
        else:
            self._step += 1
            # Not from within a callback of c-ares, which may still be using its list of servers.
            self._loop.call_soon(self.ask)

    def _succeed(self) -> None:
        addresses, ttl_s = self._merged()
        resolver = self._resolver
        resolver.outcomes["network"] += 1
        self._entry = resolver._keep(self.host, addresses, resolver._expiry(ttl_s))
        for asker in self._finish():
            asker.set_result(addresses)

    def _merged(self) -> tuple[tuple[str, ...], float]:
        found = [answer for answer in self._answers.values() if answer.addresses]
        v4 = self._answers.get(_A)
        v6 = self._answers.get(_AAAA)
        addresses = _order(v4.addresses if v4 else (), v6.addresses if v6 else ())
        return addresses, min(answer.ttl_s for answer in found)

    def _late(self, kind: int, answer: _Answer) -> None:
        """An answer after the askers have gone. It still is news: the other half, or the end of a stale time."""
        resolver = self._resolver
        if not answer.addresses or resolver._closed:
            return
        if self._entry is None:
            self._answers = {kind: answer}
            known = resolver._cache.get(self.host)
            # Only what this lookup wrote itself, or nothing, is written over: another lookup may know better.
            if known is not None and known.outcome != "stale":
                return
        elif resolver._cache.get(self.host) is self._entry:
            self._answers[kind] = answer
        else:
            return
        addresses, ttl_s = self._merged()
        expires_s = resolver._expiry(ttl_s)
        if self._entry is not None:
            expires_s = min(expires_s, self._entry.expires_s)
        self._entry = resolver._keep(self.host, addresses, expires_s)

    def _out_of_time(self) -> None:
        if any(answer.addresses for answer in self._answers.values()):
            self._succeed()
        else:
            self._end(ResolverTimeout, "no name server answered in time")

    def _end(self, kind: type[UpstreamError], problem: str) -> None:
        """The servers failed: the old answer if there is one, else the error."""
        resolver = self._resolver
        stale = self._stale
        now = resolver._clock()
        if stale is not None and now < stale.stale_until_s:
            resolver.outcomes["stale"] += 1
            again_s = min(now + STALE_RETRY_S, stale.stale_until_s)
            if resolver._cache.get(self.host) in (stale, None):
                resolver._store(self.host, stale._replace(expires_s=again_s, outcome="stale"))
            for asker in self._finish():
                asker.set_result(stale.addresses)
            return
        resolver.outcomes["timeout" if kind is ResolverTimeout else "failed"] += 1
        self.fail(kind, f"{self.host} could not be looked up: {problem}{self._where()}")

    def _where(self) -> str:
        """What was asked for, where it is not the host itself."""
        return "" if len(self._names) == 1 else f", asked as {', '.join(self._names[: self._step + 1])}"

    def _finish(self) -> list[asyncio.Future[tuple[str, ...]]]:
        """Stop the timers, leave the table, and name the askers that still wait."""
        self._finished = True
        for timer in (self._delay, self._deadline):
            if timer is not None:
                timer.cancel()
        if self._resolver._lookups.get(self.host) is self:
            del self._resolver._lookups[self.host]
        askers, self.askers = self.askers, []
        return [asker for asker in askers if not asker.done()]


class _Servers:
    """A c-ares channel on the running loop: its sockets are watched here, its time-outs are driven from here.

    aiodns would do this in a thread per channel, with four descriptors and an inotify watch. That costs as much CPU per
    lookup or more (127 microseconds against 109 on uvloop, the same on plain asyncio), and its answers compete with the
    loop for the interpreter lock. Without the thread nothing is open while no query is out. (pycares itself keeps one
    idle thread per process, for closing channels.)
    """

    def __init__(self, settings: Dns, addresses: tuple[str, ...], ended: Callable[[_Servers], None]) -> None:
        """`ended` is called when it was retired and its last query has come to an end.

        Raises pycares.AresError when the servers cannot be used.
        """
        self._loop = asyncio.get_running_loop()
        self._channel = pycares.Channel(
            timeout=settings.timeout_s,
            tries=settings.tries,
            servers=addresses,
            sock_state_cb=self._watch,
        )
        self._servers = self._channel.servers
        self.number = len(self._servers)
        self._ended = ended
        self._out = 0
        self._reading: set[int] = set()
        self._writing: set[int] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._retired = False
        self._closed = False

    def flush(self) -> None:
        """Empty the cache of c-ares, so that the next query goes out.

        c-ares keeps answers for their TTL up to an hour, negative ones for the minimum of the zone's SOA; that would
        break `max_ttl_s`, `negative_ttl_s` and the counts. pycares has no switch for it (it does not hand on
        `qcache_max_ttl`), but c-ares empties the cache whenever its list of servers changes. So a server that nobody
        asks comes and goes; the real ones keep their sockets, statistics and queries. Takes 10 microseconds.
        """
        self._channel.servers = [*self._servers, _NOBODY]
        self._channel.servers = self._servers

    def query(self, name: str, kind: int, answered: Callable[[pycares.DNSResult | None, int], None]) -> None:
        """Ask. `answered` gets the result and 0, or None and a c-ares status; once, maybe before this returns."""
        before = self._out
        self._out = before + 1
        try:
            self._channel.query(name, kind, callback=partial(self._answered, answered))
        except pycares.AresError as error:
            # For a name it cannot send, c-ares calls back and pycares raises as well.
            if self._out > before:
                self._answered(answered, None, int(error.args[0]))
        if self._out and self._timer is None:
            self._timer = self._loop.call_later(TICK_S, self._tick)

    def retire(self) -> None:
        """Close once the last query has come to its end."""
        self._retired = True
        if not self._out:
            self._end()

    def close(self) -> None:
        """Close now; queries that are out are called back with ARES_ECANCELLED."""
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

    def _answered(
        self,
        answered: Callable[[pycares.DNSResult | None, int], None],
        result: pycares.DNSResult | None,
        status: int | None,
    ) -> None:
        self._out -= 1
        answered(result, status or 0)
        if self._retired and not self._out and not self._closed:
            self._loop.call_soon(self._end)

    def _end(self) -> None:
        self.close()
        self._ended(self)

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


_NOBODY = "[100::]:1"
"""In the discard prefix (RFC 6666): never a name server, and never asked."""


class _WatchedFile:
    """A text file that others may replace at any time."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._seen: tuple[int, int, int] | None = None
        self._first = True

    def changed(self) -> str | None:
        """The text, if it is not the one seen last; None if it is. A file that cannot be read is empty."""
        try:
            stat = self._path.stat()
            seen = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
        except OSError:
            seen = None
        if seen == self._seen and not self._first:
            return None
        self._seen, self._first = seen, False
        try:
            return self._path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""


# --- pure functions -----------------------------------------------------------------------------------------------


def _read_answer(name: str, kind: int, result: pycares.DNSResult | None, status: int) -> _Answer:
    """The addresses that `result` gives for `name`, along its CNAMEs; other names and kinds are passed over."""
    if result is None:
        return _Answer((), 0.0, status)
    aliases = {
        record.name.lower(): record
        for record in result.answer
        if isinstance(record.data, pycares.CNAMERecordData) and record.type == pycares.QUERY_TYPE_CNAME
    }
    ttl_s = float("inf")
    while (alias := aliases.pop(name, None)) is not None:
        assert isinstance(alias.data, pycares.CNAMERecordData)
        name = alias.data.cname.lower()
        ttl_s = min(ttl_s, _ttl(alias.ttl))
    found: dict[str, None] = {}
    for record in result.answer:
        data = record.data
        if record.type != kind or record.name.lower() != name or len(found) == MAX_ADDRESSES:
            continue
        if isinstance(data, (pycares.ARecordData, pycares.AAAARecordData)):
            address = _address(data.addr)
            if address is not None and (":" in address) == (kind == _AAAA):
                found[address] = None
                ttl_s = min(ttl_s, _ttl(record.ttl))
    return _Answer(tuple(found), ttl_s, pycares.errno.ARES_ENODATA if not found else 0)


def _ttl(ttl_s: int) -> int:
    """RFC 2181 section 8: a TTL with the top bit set is zero."""
    return ttl_s if ttl_s < 1 << 31 else 0


def _address(text: str) -> str | None:
    """The standard spelling of an address without a zone; None for anything else."""
    try:
        return str(ip_address(text)) if "%" not in text else None
    except ValueError:
        return None


def _is_negative(status: int) -> bool:
    """The servers answered, and the answer is no."""
    return status == pycares.errno.ARES_ENODATA or status in _NO_NAME


def _said(status: int) -> str:
    word = _SAID.get(status)
    return str(pycares.errno.strerror(status)) if word is None else f"the name server said {word}"


_BELOW_IPV4 = ((0x2002, 112), (0x2001_0000, 96), (0xFC >> 1, 121), (0xFEC0 >> 6, 118), (0x3FFE, 112), (0, 32))
"""RFC 6724 section 2.1: the IPv6 ranges whose precedence is below IPv4's, as prefix and shift: 6to4, Teredo, unique
local, site-local, 6bone, IPv4-compatible."""


def _order(v4: tuple[str, ...], v6: tuple[str, ...]) -> tuple[str, ...]:
    """Both families by RFC 6724 section 6, rules 1 (what can be reached), 6 (precedence), 10 (as the server gave it).

    The rules between them compare with our own addresses of the same site, and the longest common prefix (rule 9) would
    undo the rotation by which servers spread load; the RFC lets that rule go.
    """
    if not v4 or not v6:
        return v4 or v6
    if not _has_route(v6[0]):
        return v4 + v6
    behind = tuple(address for address in v6 if _is_below_ipv4(address))
    if not behind:
        return v6 + v4
    return tuple(address for address in v6 if address not in behind) + v4 + behind


def _is_below_ipv4(address: str) -> bool:
    number = int(IPv6Address(address))
    return number != 1 and any(number >> shift == prefix for prefix, shift in _BELOW_IPV4)


def _has_route(address: str) -> bool:
    """Whether the kernel knows a way there. Connecting a UDP socket asks just that and sends nothing."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.connect((address, 53))
    except OSError:
        return False
    return True


def _lines(text: str, comments: str) -> Iterable[list[str]]:
    """The words of each line that has any, without comments."""
    for line in text.splitlines():
        for mark in comments:
            line = line.partition(mark)[0]
        words = line.split()
        if words:
            yield words


def _canonical(name: str) -> str:
    return name.lower().removesuffix(".")


def _parse_hosts(text: str, *, ipv6: bool) -> dict[str, tuple[str, ...]]:
    """hosts(5): an address, then names. A name on several lines has all their addresses, IPv6 first."""
    found: dict[str, dict[str, None]] = {}
    for word, *names in _lines(text, "#"):
        address = _address(word)
        if address is None or (":" in address and not ipv6):
            continue
        for name in names:
            found.setdefault(_canonical(name), {})[address] = None
    return {name: tuple(sorted(addresses, key=lambda address: ":" not in address)) for name, addresses in found.items()}


class _System(NamedTuple):
    """What resolv.conf says."""

    servers: tuple[str, ...]  # as c-ares spells them
    search: tuple[str, ...]
    ndots: int


def _parse_resolv_conf(text: str) -> _System:
    """resolv.conf(5). The last `search` or `domain` line counts; without `nameserver` it is the one on this machine."""
    servers: list[str] = []
    search: tuple[str, ...] = ()
    ndots = 1
    for key, *values in _lines(text, "#;"):
        if key == "nameserver" and values and (server := _name_server(values[0])) is not None:
            servers.append(server)
        elif key in ("search", "domain"):
            search = tuple(dict.fromkeys(domain for value in values if (domain := _canonical(value))))
        elif key == "options":
            for value in values:
                number = value.removeprefix("ndots:")
                if number != value and number.isascii() and number.isdigit():
                    ndots = min(int(number[:9]), MAX_NDOTS)
    return _System(tuple(servers) or ("127.0.0.1:53",), search, ndots)


def _name_server(text: str) -> str | None:
    """One server of resolv.conf as c-ares spells it, `[fe80::1]:53%eth0`; None where it is none.

    A port, which c-ares knows and the C library does not, is `127.0.0.1:5353` or `[::1]:5353`.
    """
    if text.startswith("["):
        host, _, port = text[1:].partition("]")
        port = port.removeprefix(":")
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    else:
        host, port = text, ""
    host, mark, zone = host.partition("%")
    address = _address(host)
    port = port or "53"
    if address is None or not port.isdecimal() or not port.isascii() or not 0 < int(port[:6]) < 65536:
        return None
    if not zone.isascii() or (not zone.replace("-", "").replace("_", "").replace(".", "").isalnum() and mark):
        return None
    return f"{f'[{address}]' if ':' in address else address}:{port}{mark}{zone}"
