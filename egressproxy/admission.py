"""Who is inside: every open connection of a worker, how many may be, and whether anyone new may come."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from egressproxy.errors import Draining, TunnelLimit
from egressproxy.telemetry.record import RecordDraft

if TYPE_CHECKING:
    from collections.abc import Collection

OVERFLOW = 256
"""Connections accepted beyond the limit, so that they can be told 503. Beyond these, clients wait in the kernel's queue."""


class Admission:
    """The open connections of one worker.

    draining       nobody new may come
    last_requests  and yet: who is kept may bring one more request, and hears with its answer that it was the last
    """

    def __init__(self, max_tunnels: int) -> None:
        self.max_tunnels = max_tunnels
        self.draining = False
        self.last_requests = False
        self._open: dict[int, RecordDraft] = {}
        self._number = 0
        self._empty = asyncio.Event()

    def __len__(self) -> int:
        return len(self._open)

    @property
    def full(self) -> bool:
        """Not even a 503 can be given to one more."""
        return len(self._open) >= self.max_tunnels + OVERFLOW

    @property
    def drafts(self) -> Collection[RecordDraft]:
        """The open connections, oldest first."""
        return self._open.values()

    def begin(self, listener: str, protocol: str, client: str, client_port: int, at: float) -> RecordDraft:
        """Enter a connection that was accepted at monotonic time `at`. Hot: once per connection."""
        self._number += 1
        draft = self._open[self._number] = RecordDraft(self._number, listener, protocol, client, client_port, at)
        return draft

    def next(self, before: RecordDraft, at: float) -> RecordDraft:
        """The connection goes on: a draft for its next request, in the place of the one before. Hot: once per request."""
        draft = self._open[before.number] = RecordDraft(
            before.number, before.listener, before.protocol, before.client, before.client_port, at
        )
        draft.dialled = before.dialled
        return draft

    def admit(self, *, kept: bool = False) -> None:
        """Raise TunnelLimit or Draining where nothing new may begin. `kept`: the client has had an answer before."""
        if self.draining and not (kept and self.last_requests):
            raise Draining("the proxy is shutting down; ask again, another one may answer")
        if len(self._open) > self.max_tunnels:
            raise TunnelLimit(f"{self.max_tunnels} connections are open, the limit of this worker (limits.max_tunnels)")

    def end(self, draft: RecordDraft) -> None:
        """The connection is closed and recorded."""
        del self._open[draft.number]
        if not self._open:
            self._empty.set()

    async def wait_until_empty(self, timeout_s: float) -> bool:
        """Wait until nobody is inside, `timeout_s` seconds at most; True if so."""
        if self._open:
            self._empty.clear()
            try:
                async with asyncio.timeout(timeout_s):
                    await self._empty.wait()
            except TimeoutError:
                return not self._open
        return True
