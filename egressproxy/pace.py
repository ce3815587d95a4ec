"""Pace: how much of a body is read at a time, and how long in a row.

A body that keeps coming would never let anybody else have a turn of the event loop: no other connection, and no deadline of its
own. And a body of chunks of one byte takes a thousand times as long to read as one of large chunks, so little of it is
read at a time until it shows which it is.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from egressproxy.stream import StreamExpired

if TYPE_CHECKING:
    from egressproxy.stories import Stories
    from egressproxy.stream import Stream

PIECE_BYTES = 65_536
"""Of a body, read at a time."""
SMALL_PIECE_BYTES = 4096
"""The same while it is mostly framing: 4 ms of the event loop at worst."""
TURN_S = 0.002
"""In a row. Then the others have their turn."""

_now = time.monotonic


class Pace:
    """Of one body. Hot: once per piece."""

    __slots__ = ("_began_at", "_size", "_stories")

    def __init__(self, stories: Stories, *, in_chunks: bool) -> None:
        self._stories = stories
        self._size = SMALL_PIECE_BYTES if in_chunks else PIECE_BYTES
        self._began_at = _now()

    async def read(self, stream: Stream) -> bytes:
        """The next bytes of the stream, as `Stream.read`, after a turn for everybody else where it is time.

        A deadline of the stream passes in such a turn, and ends the body though more of it has come. Raises StreamExpired.
        """
        if _now() - self._began_at >= TURN_S:
            await self._stories.next_turn()
            if stream.expired:
                raise StreamExpired
            self._began_at = _now()
        data = stream.try_read(self._size)
        if data is None:
            data = await stream.read(self._size)
            self._began_at = _now()
        return data

    def found(self, payload: int, data: int) -> None:
        """So many bytes of payload were in so many bytes read."""
        self._size = PIECE_BYTES if 2 * payload >= data else SMALL_PIECE_BYTES
