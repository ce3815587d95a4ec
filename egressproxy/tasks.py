"""Where tasks are born: each has a name, a reference is kept until it ends, and a defect in one is never silent."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Coroutine


class Tasks:
    """The tasks of one owner. The event loop itself keeps only weak references to tasks."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._running: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        return len(self._running)

    def start(self, coroutine: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Run the coroutine as a task of this owner. Hot: once per connection."""
        task = self._loop.create_task(coroutine, name=name)
        self._running.add(task)
        # Nobody asks the task for its exception, so the loop logs one, with the task's name.
        task.add_done_callback(self._running.discard)
        return task

    async def wait(self, timeout_s: float) -> bool:
        """Wait until all have ended, `timeout_s` seconds at most; True if they have."""
        if self._running:
            await asyncio.wait(self._running, timeout=timeout_s)
        return not self._running

    async def cancel(self) -> None:
        """Cancel what still runs and wait for it."""
        while self._running:
            for task in self._running:
                task.cancel()
            await asyncio.wait(self._running)
