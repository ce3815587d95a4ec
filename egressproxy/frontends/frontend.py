"""What every front end offers."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Protocol

if TYPE_CHECKING:
    from egressproxy.errors import EgressError
    from egressproxy.model import Intent
    from egressproxy.stream import Stream
    from egressproxy.telemetry.record import RecordDraft


class Frontend(Protocol):
    """One protocol that a listener speaks with its clients."""

    name: str
    """The protocol's word in the configuration."""
    too_slow: ClassVar[type[EgressError]]
    """What it is when the client's deadline passes before it has said what it wants."""

    async def read_intent(self, client: Stream, draft: RecordDraft) -> Intent:
        """Read until it is clear what the client wants; bytes that came behind that are put back into the stream.

        Notes what it learned in `draft`, also when it raises: ClientError, for a client that is wrong or gone. StreamExpired
        passes through: the caller has set the client's deadline.
        """

    async def grant(self, client: Stream, draft: RecordDraft) -> None:
        """Tell the client that the upstream is connected. Raises ClientGone."""

    def refuse(self, client: Stream, error: EgressError, draft: RecordDraft) -> None:
        """Tell the client why not, if it can still be told. Never raises, never waits; the caller closes the stream."""
