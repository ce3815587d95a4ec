"""The `auto` listener: TLS and HTTP on one port, told apart by the first byte.

A TLS connection begins with a handshake record, whose first byte is 22 (RFC 8446 section 5.1); a request begins with a
letter. What begins with 22 is for `sni`, everything else for `http-proxy`, each with its own limits and answers. The first byte
of the connection decides for all of it. A captured client that was on its way to an address by which a service is known is
not looked at: that is for `tcp`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from egressproxy.errors import EgressError, HeadTimeout
from egressproxy.frontends.frontend import receive
from egressproxy.stream import StreamExpired

if TYPE_CHECKING:
    from collections.abc import Callable

    from egressproxy.frontends.frontend import Frontend
    from egressproxy.model import Intent
    from egressproxy.stream import Stream
    from egressproxy.telemetry.record import RecordDraft

_HANDSHAKE = 22


class AutoFrontend:
    """Hands each client to one of two front ends. `draft.protocol` says which it was."""

    name = "auto"
    too_slow: ClassVar[type[EgressError]] = HeadTimeout

    def __init__(
        self, http: Frontend, tls: Frontend, unseen: Frontend, takes_unseen: Callable[[str, int], bool]
    ) -> None:
        """`takes_unseen(address, port)`: whether a service is known by what the client dialled, so that `unseen` has it."""
        self._http = http
        self._tls = tls
        self._unseen = unseen
        self._takes_unseen = takes_unseen

    async def read_intent(self, client: Stream, draft: RecordDraft) -> Intent:
        """Raises ClientGone, and what the front end raises that the client is for."""
        if draft.protocol != self.name:  # another request of a client that speaks HTTP
            return await self._chosen(draft).read_intent(client, draft)
        if draft.dialled is not None and self._takes_unseen(*draft.dialled):
            draft.protocol = self._unseen.name
            return await self._unseen.read_intent(client, draft)
        first = await receive(client, b"", "a request head or a ClientHello")
        client.unread(first)
        chosen = self._tls if first[0] == _HANDSHAKE else self._http
        draft.protocol = chosen.name
        try:
            return await chosen.read_intent(client, draft)
        except StreamExpired as error:  # which of the two it was too slow for is known here only
            raise chosen.too_slow("the client did not say what it wants within timeouts.head_s") from error

    async def grant(self, client: Stream, draft: RecordDraft) -> None:
        """As the client's own front end does."""
        await self._chosen(draft).grant(client, draft)

    def refuse(self, client: Stream, error: EgressError, draft: RecordDraft) -> bool:
        """As the client's own front end does. One that has not said a word hears none."""
        return draft.protocol != self.name and self._chosen(draft).refuse(client, error, draft)

    def _chosen(self, draft: RecordDraft) -> Frontend:
        return next((each for each in (self._tls, self._unseen) if draft.protocol == each.name), self._http)
