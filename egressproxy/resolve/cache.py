"""What is remembered of names, and how long.

An answer is kept for its TTL between a floor and a ceiling, "no such name" and "no address" for a fixed time, a failure
of the servers not at all. When the servers fail, an answer that ran out is used a while longer (RFC 8767): it stays in
its place until then, or until the least recently used name has to go.

Times are seconds by the clock that is given. Nothing here waits or asks.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from egressproxy.config.schema.stages import Dns

STALE_RETRY_S = 30.0
"""RFC 8767 section 5: servers that failed are not asked for the same name again before this."""


class Entry(NamedTuple):
    """What is known of a name. No addresses: it has none, and `problem` says so."""

    expires_s: float
    addresses: tuple[str, ...]
    outcome: str  # what a hit counts as, one of the resolver's OUTCOMES
    problem: str = ""
    stale_until_s: float = 0.0


class Cache:
    """Names and what is known of them, at most `cache_entries`.

    entries  the least recently used first, those that ran out included. The resolver reads it once per connection, and
             then moves the name to the end; it is written here only
    """

    def __init__(self, settings: Dns, clock: Callable[[], float]) -> None:
        self.entries: OrderedDict[str, Entry] = OrderedDict()
        self._settings = settings
        self._clock = clock

    def keep(self, host: str, addresses: tuple[str, ...], ttl_s: float, until_s: float = float("inf")) -> Entry:
        """Keep what the servers gave, for its TTL within bounds, at most until `until_s`."""
        settings = self._settings
        expires_s = min(self._clock() + min(max(ttl_s, settings.min_ttl_s), settings.max_ttl_s), until_s)
        return self._store(host, Entry(expires_s, addresses, "cache", stale_until_s=expires_s + settings.stale_s))

    def keep_no(self, host: str, problem: str) -> None:
        """Keep that there are no addresses, with the sentence that says so."""
        self._store(host, Entry(self._clock() + self._settings.negative_ttl_s, (), "negative_cache", problem))

    def keep_local(self, host: str, addresses: tuple[str, ...], for_s: float) -> None:
        """Keep what this machine itself knows. It is never used beyond its time."""
        self._store(host, Entry(self._clock() + for_s, addresses, "local"))

    def keep_stale(self, host: str, old: Entry) -> bool:
        """Use an entry that `stale` gave until it is time to ask again. False: its time is over.

        What was learnt of the name meanwhile is left alone.
        """
        now = self._clock()
        if now >= old.stale_until_s:
            return False
        if self.entries.get(host) in (old, None):
            again_s = min(now + STALE_RETRY_S, old.stale_until_s)
            self._store(host, old._replace(expires_s=again_s, outcome="stale"))
        return True

    def stale(self, host: str) -> Entry | None:
        """The entry of a name that ran out, if it may still be used when the servers fail."""
        entry = self.entries.get(host)
        usable = entry is not None and entry.addresses and self._clock() < entry.stale_until_s
        return entry if usable else None

    def forget(self, host: str) -> None:
        """Drop what is known of a name, if anything."""
        self.entries.pop(host, None)

    def _store(self, host: str, entry: Entry) -> Entry:
        self.entries[host] = entry
        self.entries.move_to_end(host)
        if len(self.entries) > self._settings.cache_entries:
            self.entries.popitem(last=False)
        return entry
