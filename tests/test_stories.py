"""Stories: driven by signals and futures, cancelled, and counted until they are over. Signals work for tasks as well."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from support.loops import LOOPS, run_on

from egressproxy.stories import Signal, Stories

pytestmark = pytest.mark.parametrize("kind", LOOPS)


def run(kind: str, body: Callable[[Stories], Any]) -> None:
    """Run the body with stories of a loop of its own; none may be left."""

    async def main() -> None:
        stories = Stories(asyncio.get_running_loop())
        await body(stories)
        assert not len(stories)

    run_on(kind, main())


def test_a_story_runs_its_first_step_at_once_and_goes_on_in_a_later_turn(kind: str) -> None:
    told = []

    async def story(signal: Signal) -> None:
        told.append("begun")
        await signal
        told.append("gone on")

    async def body(stories: Stories) -> None:
        signal = Signal()
        stories.start(story(signal))
        assert told == ["begun"]
        signal.fire()
        assert told == ["begun"]
        assert await stories.wait(5)
        assert told == ["begun", "gone on"]

    run(kind, body)


def test_a_signal_that_has_fired_is_not_waited_for(kind: str) -> None:
    async def body(stories: Stories) -> None:
        signal = Signal()
        signal.fire()
        signal.fire()
        told = []

        async def story() -> None:
            await signal
            await signal
            told.append("over")

        stories.start(story())
        assert told == ["over"]

    run(kind, body)


def test_a_story_awaits_futures_and_gets_their_results_and_errors(kind: str) -> None:
    async def body(stories: Stories) -> None:
        loop = asyncio.get_running_loop()
        good, bad = loop.create_future(), loop.create_future()
        told = []

        async def story() -> None:
            told.append(await good)
            try:
                await bad
            except ValueError as error:
                told.append(str(error))

        stories.start(story())
        good.set_result("good")
        await asyncio.sleep(0)
        bad.set_exception(ValueError("bad"))
        assert await stories.wait(5)
        assert told == ["good", "bad"]

    run(kind, body)


def test_many_that_are_woken_together_go_on_in_the_order_of_their_waking(kind: str) -> None:
    async def body(stories: Stories) -> None:
        signals = [Signal() for _ in range(100)]
        told = []

        async def story(number: int) -> None:
            await signals[number]
            told.append(number)

        for number in range(100):
            stories.start(story(number))
        for signal in reversed(signals):
            signal.fire()
        assert await stories.wait(5)
        assert told == list(range(99, -1, -1))

    run(kind, body)


def test_a_defect_is_told_to_the_loop_and_ends_only_its_own_story(kind: str) -> None:
    async def body(stories: Stories) -> None:
        told: list[str] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(str(context["exception"])))
        signals = [Signal(), Signal()]

        async def defect() -> None:
            await signals[0]
            raise RuntimeError("a defect")

        async def good() -> None:
            await signals[1]
            told.append("good")

        stories.start(defect())
        stories.start(good())
        for signal in signals:
            signal.fire()
        assert await stories.wait(5)
        assert told == ["a defect", "good"]

    run(kind, body)


def test_cancelling_throws_into_every_story_and_runs_its_finally(kind: str) -> None:
    async def body(stories: Stories) -> None:
        loop = asyncio.get_running_loop()
        signal, future = Signal(), loop.create_future()
        told = []

        async def story(awaited: Any) -> None:
            try:
                await awaited
            except asyncio.CancelledError:
                told.append("cancelled")
                raise
            finally:
                told.append("finally")

        stories.start(story(signal))
        stories.start(story(future))
        assert not await stories.wait(0.01)
        await stories.cancel()
        assert told == ["cancelled", "finally"] * 2
        signal.fire()
        future.set_result(None)
        await asyncio.sleep(0.01)
        assert len(told) == 4

    run(kind, body)


def test_one_that_was_woken_and_then_cancelled_is_cancelled(kind: str) -> None:
    async def body(stories: Stories) -> None:
        signal = Signal()
        told = []

        async def story() -> None:
            try:
                await signal
                told.append("gone on")
            except asyncio.CancelledError:
                told.append("cancelled")

        stories.start(story())
        signal.fire()
        await stories.cancel()
        await asyncio.sleep(0.01)
        assert told == ["cancelled"]

    run(kind, body)


def test_a_story_may_wait_once_more_when_it_is_cancelled(kind: str) -> None:
    async def body(stories: Stories) -> None:
        first, last_words = Signal(), Signal()
        told = []

        async def story() -> None:
            try:
                await first
            except asyncio.CancelledError:
                try:
                    await last_words
                finally:
                    told.append("over")

        stories.start(story())
        await stories.cancel()
        assert told == ["over"]

    run(kind, body)


def test_a_task_of_asyncio_may_wait_for_a_signal_and_be_cancelled_at_it(kind: str) -> None:
    async def body(stories: Stories) -> None:
        signal = Signal()
        told = []

        async def wait() -> None:
            await signal
            told.append("gone on")

        async with asyncio.timeout(5):
            task = asyncio.ensure_future(wait())
            await asyncio.sleep(0)
            signal.fire()
            assert told == []  # never inside the code that fires
            await task
        assert told == ["gone on"]
        never = asyncio.ensure_future(_wait(Signal()))
        await asyncio.sleep(0)
        never.cancel()
        with pytest.raises(asyncio.CancelledError):
            await never

    run(kind, body)


async def _wait(signal: Signal) -> None:
    await signal


def test_nothing_holds_a_story_that_is_over(kind: str) -> None:
    class Kept:
        pass

    async def body(stories: Stories) -> None:
        signal, kept = Signal(), Kept()
        seen = weakref.ref(kept)

        async def story(held: Kept) -> None:
            await signal
            assert held is not None

        stories.start(story(kept))
        del kept
        gc.disable()
        try:
            signal.fire()
            assert await stories.wait(5)
            await asyncio.sleep(0)
            assert seen() is None
        finally:
            gc.enable()

    run(kind, body)
