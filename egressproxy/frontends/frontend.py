"""What every front end offers, and how each of them reads, and refuses a client that speaks TLS."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Protocol

from egressproxy.errors import ClientGone, HelloError, PolicyError
from egressproxy.wire.alerts import alert_record

if TYPE_CHECKING:
    from egressproxy.errors import EgressError
    from egressproxy.model import Intent
    from egressproxy.stream import Stream
    from egressproxy.telemetry.record import RecordDraft


READ_BYTES = 4096
"""Read at a time. Heads of real clients are 60 to 500 bytes, ClientHellos 200 to 2,000."""


SHORT_HEAD_BYTES = 1024
"""A head may come byte by byte. Up to here it is looked at each time, so that what is no head is refused at once."""


def may_have_changed(data: bytes, known: int, limit: int) -> bool:
    """Whether a head is worth another look, of which `known` bytes have been looked at: a line has ended, or it is too long."""
    return known <= SHORT_HEAD_BYTES or len(data) > limit or data.find(b"\n", known) >= 0


async def receive(client: Stream, data: bytes, what: str) -> bytes:
    """What came so far, and at least a byte more of `what` it is to become. Hot: once per connection. Raises ClientGone."""
    try:
        received = client.try_read(READ_BYTES)  # the kernel hands clients over with their first bytes
        if received is None:
            received = await client.read(READ_BYTES)
    except OSError as error:
        raise ClientGone(f"the client's connection broke after {len(data)} bytes of {what}") from error
    if not received:
        raise ClientGone(f"the client left after {len(data)} bytes of {what}")
    return data + received if data else received


def is_about_what_is_inside(error: EgressError) -> bool:
    """Whether an open tunnel is ended for what its client says in it: then that is answered with an alert."""
    return isinstance(error, (HelloError, PolicyError))


def send_alert(client: Stream, error: EgressError) -> int:
    """Tell a client that speaks TLS why not, and that no more comes; how many bytes it was. Never raises, never waits."""
    alert = alert_record(error.alert)
    try:
        sent = client.try_write(alert)
        client.end_writing()
    except OSError:
        return 0  # gone
    return sent


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

    def refuse(self, client: Stream, error: EgressError, draft: RecordDraft) -> bool:
        """Tell the client why not, if it can still be told. Never raises, never waits.

        True: the connection may carry another request. Else the caller closes the stream.
        """
