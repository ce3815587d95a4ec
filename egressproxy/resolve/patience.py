"""Patience: who asks for a name may have less time than a lookup takes. The lookup goes on for those who wait longer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    import asyncio

    from egressproxy.deadlines import DeadlineQueue
    from egressproxy.errors import UpstreamError


class Patience:
    """How long somebody waits for answers, all together, and the error that it is when they take longer."""

    def __init__(self, deadlines: DeadlineQueue, error: UpstreamError) -> None:
        self._deadlines = deadlines
        self._error = error
        self._asker: asyncio.Future[tuple[str, ...]] | None = None
        self._is_over = False

    def __enter__(self) -> Self:
        self._deadlines.start(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._deadlines.stop(self)

    def expire(self) -> None:
        """It is over."""
        self._is_over = True
        if self._asker is not None and not self._asker.done():
            self._asker.set_exception(self._error)

    async def wait_for(self, asker: asyncio.Future[tuple[str, ...]]) -> tuple[str, ...]:
        """What the asker gets, unless that takes too long. Raises the error."""
        if self._is_over:
            asker.cancel()
            raise self._error
        self._asker = asker
        try:
            return await asker
        finally:
            self._asker = None
