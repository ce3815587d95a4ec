"""The `tcp` listener: whatever the client speaks, forwarded without a look at it.

Where to is settled before the first byte: to the listener's `target`, or to where a captured client was on its way to. So
protocols pass in which the server speaks first. To the policy this is a tunnel like any other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from egressproxy.errors import EgressError, HeadTimeout, MalformedTarget
from egressproxy.model import Intent, Target

if TYPE_CHECKING:
    from egressproxy.stream import Stream
    from egressproxy.telemetry.record import RecordDraft


class TcpFrontend:
    """Takes the clients of one listener to one place, or each to where it was going."""

    name = "tcp"
    too_slow: ClassVar[type[EgressError]] = HeadTimeout

    def __init__(self, listener: str, target: Target | None) -> None:
        """`listener`: its word in logs and metrics. `target`: None where clients are captured."""
        self._listener = listener
        self._target = target

    async def read_intent(self, client: Stream, draft: RecordDraft) -> Intent:
        """Reads nothing. Raises MalformedTarget for a client that came to a capturing listener by itself."""
        draft.method = "CONNECT"
        dialled = draft.dialled
        if self._target is not None:
            target = self._target
        elif dialled is not None:
            target = Target(dialled[0], dialled[1], True)
        else:
            raise MalformedTarget("the client was not captured on its way to somewhere, so there is nowhere to go")
        draft.target_text = str(target)
        return Intent(client.address, self._listener, "CONNECT", target, None, dialled)

    async def grant(self, client: Stream, draft: RecordDraft) -> None:
        """Nothing to say."""
        draft.status = 200

    def refuse(self, client: Stream, error: EgressError, draft: RecordDraft) -> bool:
        """Close without a word: there is none that every protocol knows."""
        draft.status = draft.status or error.status
        return False
