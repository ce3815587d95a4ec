"""One direction of a tunnel: what every engine offers, and how much it moves at a time.

**Back-pressure.** A flow holds at most one chunk (or one pipe) that its sink has not taken. While it holds any, it does not
read its source, so the source's peer is held up by TCP.
"""

from __future__ import annotations

from typing import Protocol

COPY_BYTES = 65_536
"""Read at a time when copying. A read that fills it hints that more is waiting."""
TURN_BYTES = 4 * 1024 * 1024
"""Moved for one flow in one event at most; then the other tunnels get their turn."""
TURN_READS = 64
"""Reads for one flow in one event at most. A peer may put every single byte into a TLS record of its own."""


class Flow(Protocol):
    """One direction.

    reading  waits for its source to be readable
    blocked  waits for its sink to be writable
    done     its source has ended, and its sink has all that came
    broken   `source` or `sink`, when one of them broke
    carried  bytes its sink has taken
    """

    reading: bool
    blocked: bool
    done: bool
    broken: str | None
    carried: int

    def pump(self) -> bool:
        """Move what can be moved now; True when `reading`, `blocked`, `done` or `broken` may have changed. No OSError."""

    def tell_end(self, *, closing: bool) -> None:
        """Pass the end on to the sink, once `done`. `closing`: the sink is closed next, which tells it as well."""

    def abandon(self) -> None:
        """Its sink is of no use any more: what still comes is read and thrown away."""

    def more(self) -> bool:
        """The source holds bytes that no event will announce."""

    def release(self) -> None:
        """Give back what the flow holds besides its streams."""
