"""Deadlines by the thousand: one queue per duration, one loop timer per queue.

Every connection waits for the same few durations (head, connect, the last words after a refusal). Deadlines that all lie
equally far ahead fall due in the order in which they were set, so a queue is an ordered dict and needs no heap: setting,
moving and clearing one costs a tenth of a microsecond, where a timer of the event loop for each costs several. The
queue's own timer is set for the oldest deadline and nothing runs while the queue is empty.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import asyncio

SLACK_S = 0.005
"""A deadline may be noticed this much late, so that a burst of them is one wake-up."""


class Expires(Protocol):
    """Whatever can have a deadline. Hashed by identity."""

    def expire(self) -> None:
        """The deadline has passed. The item is no longer in the queue."""


class DeadlineQueue:
    """Deadlines `delay_s` seconds ahead of the moment they are set. `name` says what it means when one passes."""

    def __init__(self, name: str, delay_s: float, loop: asyncio.AbstractEventLoop) -> None:
        self.name = name
        self.delay_s = delay_s
        self._loop = loop
        self._due: dict[Expires, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._due)

    def __contains__(self, item: Expires) -> bool:
        """Whether the item has a deadline that has not passed."""
        return item in self._due

    def start(self, item: Expires) -> None:
        """Set the item's deadline, or move it: `delay_s` from now."""
        due = self._due
        due.pop(item, None)
        due[item] = self._loop.time() + self.delay_s
        if self._timer is None:
            self._timer = self._loop.call_later(self.delay_s + SLACK_S, self._fire)

    def stop(self, item: Expires) -> None:
        """Clear the item's deadline, if it has one."""
        self._due.pop(item, None)

    def first(self) -> Expires | None:
        """The item that is due next."""
        return next(iter(self._due), None)

    def pass_all(self) -> None:
        """Let every deadline pass now."""
        while (item := self.first()) is not None:
            del self._due[item]
            item.expire()

    def close(self) -> None:
        """Forget every deadline and give the timer back."""
        self._due.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _fire(self) -> None:
        self._timer = None
        now = self._loop.time()
        passed = []
        for item, due in self._due.items():
            if due > now:
                self._timer = self._loop.call_later(due - now + SLACK_S, self._fire)
                break
            passed.append(item)
        for item in passed:
            del self._due[item]
        for item in passed:
            item.expire()


class DeadlineQueues:
    """Queues of one meaning, one for each duration that somebody asks for; durations are those of the configuration."""

    def __init__(self, name: str, loop: asyncio.AbstractEventLoop) -> None:
        self._name = name
        self._loop = loop
        self._queues: dict[float, DeadlineQueue] = {}

    def of(self, delay_s: float) -> DeadlineQueue:
        """The queue of this duration."""
        queue = self._queues.get(delay_s)
        if queue is None:
            queue = self._queues[delay_s] = DeadlineQueue(self._name, delay_s, self._loop)
        return queue

    def pass_all(self) -> None:
        """Let every deadline pass now."""
        for queue in self._queues.values():
            queue.pass_all()

    def close(self) -> None:
        """Close them all."""
        for queue in self._queues.values():
            queue.close()
