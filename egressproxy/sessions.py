"""Sessions: what makes the next TLS handshake with the same server shorter.

They belong to one identity, so what was trusted by another one, or with another certificate shown, is never resumed. A resumed
handshake verifies nothing, so how long that may go on is bounded here, whatever the server says.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from egressproxy.model import Endpoint

MAX_SESSIONS = 256
"""TLS sessions kept for one identity, one for each server. A session takes some kilobytes."""
SESSION_LIFETIME_S = 3600.0
"""A session is offered for this long after the certificate was verified: whoever trusts it again looks again. RFC 8446 section
4.6.1 allows seven days."""


class Sessions:
    """TLS sessions to resume, by server name and endpoint; the least recently used goes first when there are too many."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._kept: OrderedDict[tuple[str, Endpoint], tuple[ssl.SSLSession, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def find(self, server_name: str, endpoint: Endpoint) -> tuple[ssl.SSLSession | None, float]:
        """The session to offer, and until when (Unix time) it may be."""
        key = (server_name, endpoint)
        found = self._kept.get(key)
        if found is None:
            return None, 0.0
        if found[1] <= self._clock():
            del self._kept[key]
            return None, 0.0
        self._kept.move_to_end(key)
        return found

    def keep(self, server_name: str, endpoint: Endpoint, session: ssl.SSLSession, until: float) -> None:
        """Offer this one next time, until then (Unix time)."""
        key = (server_name, endpoint)
        self._kept[key] = session, until
        self._kept.move_to_end(key)
        if len(self._kept) > MAX_SESSIONS:
            self._kept.popitem(last=False)

    def forget(self, server_name: str, endpoint: Endpoint) -> None:
        """Never offer it again. Harmless where there is none."""
        self._kept.pop((server_name, endpoint), None)


class Resumption(NamedTuple):
    """Where the session of one connection is kept. `until`: Unix time after which its server is to be verified anew."""

    sessions: Sessions
    server_name: str
    endpoint: Endpoint
    until: float

    def keep(self, session: ssl.SSLSession) -> None:
        """Keep it."""
        self.sessions.keep(self.server_name, self.endpoint, session, self.until)
