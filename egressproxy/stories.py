"""Coroutines without tasks: one connection's story goes on when what it waits for has happened, and costs little else.

A task of asyncio is registered in a weak set, gets a name and a callback at its end, and takes the event loop's queue for its
first step and for each one after. For the few steps of a tunnel that is an eighth of its whole cost. A story awaits the same
things, and `Signal`s of its own sockets, which are cheaper still.

**Order.** A story runs its first step at once, where it is started. Woken, it goes on in the event loop's next turn, together
with all others that were woken: never inside the code that woke it.

**asyncio.** What runs here is not a task: `asyncio.timeout`, `asyncio.current_task` and the like do not work inside.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator
    from contextvars import Context


class Awaited(Protocol):
    """What a coroutine yields to whoever drives it: a Future, or a Signal."""

    _asyncio_future_blocking: bool

    def add_done_callback(self, then: Callable[[Any], object], /) -> None:
        """Call `then` with the thing itself once it is done."""

    def remove_done_callback(self, then: Callable[[Any], object], /) -> object:
        """Do not call it after all."""


class Signal:
    """Something that happens once. One coroutine may wait for it, in a story or in a task of asyncio."""

    __slots__ = ("_asyncio_future_blocking", "_then", "fired")

    def __init__(self) -> None:
        self.fired = False
        self._then: Callable[[Any], object] | None = None
        self._asyncio_future_blocking = False

    def fire(self, _events: int = 0) -> None:
        """It has happened. Harmless twice. May be a poller's handler, which is called with events."""
        self.fired = True
        then = self._then
        if then is not None:
            self._then = None
            then(self)

    def __await__(self) -> Generator[Signal, None, None]:
        if not self.fired:
            self._asyncio_future_blocking = True
            yield self

    # --- what else asyncio.Task asks of what it awaits ------------------------------------------------------------

    def add_done_callback(self, then: Callable[[Any], object], *, context: Context | None = None) -> None:
        """`context`: given by a task, which must not go on inside the code that fires."""
        if context is None:
            self._then = then
        else:
            loop = asyncio.get_running_loop()
            self._then = lambda signal: loop.call_soon(then, signal, context=context)

    def remove_done_callback(self, _then: Callable[[Any], object]) -> None:
        self._then = None

    def cancel(self, msg: str | None = None) -> bool:
        """A task that is cancelled goes on, and finds that out itself."""
        self.fire()
        return False

    def result(self) -> None:
        """Nothing."""

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """The one that runs."""
        return asyncio.get_running_loop()


class _Story:
    """One coroutine; its call is the callback of what it awaits."""

    __slots__ = ("_stories", "awaited", "coroutine")

    def __init__(self, stories: Stories, coroutine: Coroutine[Any, Any, None]) -> None:
        self._stories = stories
        self.coroutine = coroutine
        self.awaited: Awaited | None = None

    def __call__(self, awaited: Awaited) -> None:
        if awaited is self.awaited:  # else it was cancelled meanwhile
            self.awaited = None
            stories = self._stories
            if not stories.woken:
                stories.loop.call_soon(stories.go_on_with_all)
            stories.woken.append(self)


class Stories:
    """Those of one worker that are being told."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.woken: list[_Story] = []  # what they waited for has happened; they go on in the next turn
        self._told: set[_Story] = set()
        self._all_over = asyncio.Event()

    def __len__(self) -> int:
        return len(self._told)

    def start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Tell it, up to the first thing that it has to wait for. Hot: once per connection."""
        story = _Story(self, coroutine)
        self._told.add(story)
        self._go_on(story)

    def next_turn(self) -> Signal:
        """Fires in the event loop's next turn: whoever awaits it lets all others have theirs."""
        turn = Signal()
        self.loop.call_soon(turn.fire)
        return turn

    def go_on_with_all(self) -> None:
        """Tell on those that were woken."""
        woken, self.woken = self.woken, []
        for story in woken:
            if story in self._told:  # else it was cancelled meanwhile
                self._go_on(story)

    def _go_on(self, story: _Story, error: BaseException | None = None) -> None:
        coroutine = story.coroutine
        try:
            awaited = coroutine.send(None) if error is None else coroutine.throw(error)
        except (StopIteration, asyncio.CancelledError):
            self._end(story)
        except Exception as defect:
            self._end(story)
            self.loop.call_exception_handler({"message": f"a defect ended {coroutine!r}", "exception": defect})
        else:
            story.awaited = awaited
            awaited._asyncio_future_blocking = False
            awaited.add_done_callback(story)

    def _end(self, story: _Story) -> None:
        self._told.discard(story)
        if not self._told:
            self._all_over.set()

    async def wait(self, timeout_s: float) -> bool:
        """Wait until all are over, `timeout_s` seconds at most; True if they are."""
        if self._told:
            self._all_over.clear()
            try:
                async with asyncio.timeout(timeout_s):
                    await self._all_over.wait()
            except TimeoutError:
                pass
        return not self._told

    async def cancel(self) -> None:
        """Cancel those that are not over, and wait until they are."""
        while self._told:
            for story in tuple(self._told):
                awaited, story.awaited = story.awaited, None
                if awaited is not None:
                    awaited.remove_done_callback(story)
                self._go_on(story, asyncio.CancelledError())
            await asyncio.sleep(0)
