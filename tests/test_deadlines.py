from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.loops import LOOPS, WAIT_S, run_on, until

from egressproxy.deadlines import SLACK_S, Deadline, DeadlineQueue
from egressproxy.errors import ConnectTimeout, HeadTimeout

SHORT_S = 0.02
LONG_S = 60.0


class Item:
    def __init__(self, name, log, action=None):
        self.name = name
        self.log = log
        self.action = action

    def expire(self):
        self.log.append(self.name)
        if self.action is not None:
            self.action()


class Clock:
    """Stands in for the loop: time passes when the test says so."""

    def __init__(self):
        self.now = 100.0
        self.timers = []

    def time(self):
        return self.now

    def call_later(self, delay_s, callback):
        timer = (self.now + delay_s, callback)
        self.timers.append(timer)
        return timer

    def advance(self, by_s):
        end = self.now + by_s
        while self.timers and min(self.timers, key=lambda timer: timer[0])[0] <= end:
            timer = min(self.timers, key=lambda timer: timer[0])
            self.timers.remove(timer)
            self.now = timer[0]
            timer[1]()
        self.now = end


@pytest.fixture(params=LOOPS)
def on_loop(request):
    return lambda coroutine: run_on(request.param, coroutine)


def queue(delay_s=SHORT_S, name="head_timeout"):
    return DeadlineQueue(name, delay_s, asyncio.get_running_loop())


# --- the queue ----------------------------------------------------------------------------------------------------


def test_deadlines_pass_in_the_order_in_which_they_were_set(on_loop):
    async def story():
        due, log = queue(), []
        for name in "abc":
            due.start(Item(name, log))
        assert len(due) == 3
        await until(lambda: log)
        assert log == ["a", "b", "c"], "a burst is one wake-up"
        assert len(due) == 0

    on_loop(story())


def test_no_deadline_passes_early_and_each_is_noticed_soon_after(on_loop):
    async def story():
        due, log = queue(), []
        loop = asyncio.get_running_loop()
        started, passed = {}, {}
        for name in range(5):
            started[name] = loop.time()
            due.start(Item(name, log, lambda name=name: passed.setdefault(name, loop.time())))
            await asyncio.sleep(SHORT_S / 4)
        await until(lambda: len(log) == 5)
        assert all(passed[name] - started[name] >= SHORT_S * 0.95 for name in range(5))
        assert SLACK_S <= 0.01

    on_loop(story())


def test_a_deadline_that_is_set_again_moves_behind_the_others(on_loop):
    async def story():
        due, log = queue(), []
        first, second = Item("first", log), Item("second", log)
        due.start(first)
        due.start(second)
        due.start(first)
        assert len(due) == 2
        await until(lambda: len(log) == 2)
        assert log == ["second", "first"]

    on_loop(story())


def test_a_deadline_that_moves_all_the_time_never_passes():
    clock = Clock()
    due, log = DeadlineQueue("idle_timeout", 10.0, clock), []
    busy, quiet = Item("busy", log), Item("quiet", log)
    due.start(quiet)
    for _ in range(100):
        due.start(busy)
        clock.advance(1.0)
    assert log == ["quiet"]
    clock.advance(10.0 + SLACK_S)
    assert log == ["quiet", "busy"]


def test_a_deadline_that_is_cleared_does_not_pass(on_loop):
    async def story():
        due, log = queue(), []
        kept, cleared = Item("kept", log), Item("cleared", log)
        due.start(cleared)
        due.start(kept)
        due.stop(cleared)
        due.stop(cleared)
        await until(lambda: log)
        await asyncio.sleep(SHORT_S)
        assert log == ["kept"]

    on_loop(story())


def test_an_item_can_be_set_again_when_its_deadline_passes(on_loop):
    async def story():
        due, log = queue(SHORT_S / 4), []
        item = Item("again", log)
        item.action = lambda: due.start(item) if len(log) < 3 else None
        due.start(item)
        await until(lambda: len(log) == 3)
        assert len(due) == 0

    on_loop(story())


def test_an_empty_queue_works_again_after_its_timer_has_run_out(on_loop):
    async def story():
        due, log = queue(SHORT_S / 4), []
        item = Item("x", log)
        due.start(item)
        due.stop(item)
        await asyncio.sleep(SHORT_S)
        due.start(item)
        await until(lambda: log)

    on_loop(story())


def test_a_closed_queue_has_forgotten_everything(on_loop):
    async def story():
        due, log = queue(SHORT_S / 4), []
        due.start(Item("x", log))
        due.close()
        due.close()
        assert len(due) == 0
        await asyncio.sleep(SHORT_S)
        assert log == []

    on_loop(story())


def test_a_hundred_thousand_deadlines_share_one_timer():
    clock = Clock()
    due = DeadlineQueue("idle_timeout", 10.0, clock)
    for number in range(100_000):
        due.start(Item(number, []))
    assert len(due) == 100_000
    assert len(clock.timers) == 1


@given(steps=st.lists(st.tuples(st.sampled_from(["start", "stop", "advance"]), st.integers(0, 5)), max_size=60))
def test_whatever_happens_each_deadline_passes_once_and_in_time(steps):
    clock, log = Clock(), []
    due = DeadlineQueue("idle_timeout", 10.0, clock)
    items = [Item(number, log) for number in range(6)]
    expected = {}
    for step, number in steps:
        if step == "start":
            due.start(items[number])
            expected[number] = clock.now + 10.0
        elif step == "stop":
            due.stop(items[number])
            expected.pop(number, None)
        else:
            log.clear()
            clock.advance(number * 3.0)
            must = {number for number, at in expected.items() if at + SLACK_S < clock.now}
            may = {number for number, at in expected.items() if at <= clock.now}
            assert must <= set(log) <= may
            assert len(log) == len(set(log))
            for passed in log:
                del expected[passed]
        assert len(due) == len(expected)
    assert len(clock.timers) <= 1


# --- the context --------------------------------------------------------------------------------------------------


def head_timeout():
    return HeadTimeout("too slow")


def test_what_takes_too_long_is_interrupted_with_the_given_error(on_loop):
    async def story():
        due = queue()
        with pytest.raises(HeadTimeout, match="too slow"), Deadline(due, head_timeout):
            await asyncio.sleep(LONG_S)
        assert len(due) == 0
        assert asyncio.current_task().cancelling() == 0
        await asyncio.sleep(0)  # no cancellation is left over

    on_loop(story())


def test_what_ends_in_time_is_left_alone(on_loop):
    async def story():
        due = queue(SHORT_S)
        with Deadline(due, head_timeout):
            await asyncio.sleep(0)
        assert len(due) == 0
        await asyncio.sleep(2 * SHORT_S)

    on_loop(story())


def test_an_error_from_inside_passes_through(on_loop):
    async def story():
        due = queue(LONG_S)
        with pytest.raises(ZeroDivisionError), Deadline(due, head_timeout):
            raise ZeroDivisionError
        assert len(due) == 0
        due.close()

    on_loop(story())


def test_cancellation_from_outside_passes_through(on_loop):
    async def story():
        due = queue(LONG_S)

        async def guarded():
            with Deadline(due, head_timeout):
                await asyncio.sleep(LONG_S)

        task = asyncio.ensure_future(guarded())
        await until(lambda: len(due))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelled()
        assert len(due) == 0
        due.close()

    on_loop(story())


def test_cancellation_from_outside_wins_over_an_expiry_at_the_same_time(on_loop):
    async def story():
        due = queue(LONG_S)
        deadline = None

        async def guarded():
            nonlocal deadline
            deadline = Deadline(due, head_timeout)
            with deadline:
                await asyncio.sleep(LONG_S)

        for order in ("expiry first", "cancellation first"):
            task = asyncio.ensure_future(guarded())
            await until(lambda: len(due))
            for step in (deadline.expire, task.cancel)[:: 1 if order == "expiry first" else -1]:
                step()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert len(due) == 0
        due.close()

    on_loop(story())


@pytest.mark.parametrize("answered_first", [True, False])
def test_an_expiry_that_races_with_the_answer_gives_one_or_the_other(on_loop, answered_first):
    async def story():
        due = queue(LONG_S)
        answer = asyncio.get_running_loop().create_future()
        deadline = Deadline(due, head_timeout)

        async def guarded():
            with deadline:
                return await answer

        task = asyncio.ensure_future(guarded())
        await until(lambda: len(due))
        if answered_first:
            answer.set_result("answer")
            deadline.expire()
        else:
            deadline.expire()
            if not answer.done():
                answer.set_result("answer")
        with pytest.raises(HeadTimeout):
            await task
        assert task.cancelling() == 0
        due.close()

    on_loop(story())


def test_an_expiry_that_the_block_itself_survives_leaves_no_trace(on_loop):
    async def story():
        due = queue()
        with Deadline(due, head_timeout):
            try:
                await asyncio.sleep(LONG_S)
            except asyncio.CancelledError:
                pass  # a block that had its result already
        assert asyncio.current_task().cancelling() == 0
        await asyncio.sleep(0)

    on_loop(story())


@pytest.mark.parametrize(
    ("inner_s", "outer_s", "expected"), [(SHORT_S, LONG_S, ConnectTimeout), (LONG_S, SHORT_S, HeadTimeout)]
)
def test_of_nested_deadlines_the_one_that_passed_speaks(on_loop, inner_s, outer_s, expected):
    async def story():
        inner, outer = queue(inner_s), queue(outer_s)
        with pytest.raises(expected), Deadline(outer, head_timeout), Deadline(inner, lambda: ConnectTimeout("inner")):
            await asyncio.sleep(LONG_S)
        assert len(inner) == len(outer) == 0
        inner.close()
        outer.close()
        assert asyncio.current_task().cancelling() == 0

    on_loop(story())


def test_of_nested_deadlines_that_pass_together_the_outer_one_speaks(on_loop):
    async def story():
        due = queue(SHORT_S)
        with pytest.raises(HeadTimeout), Deadline(due, head_timeout), Deadline(due, lambda: ConnectTimeout("inner")):
            await asyncio.sleep(LONG_S)
        assert len(due) == 0
        assert asyncio.current_task().cancelling() == 0

    on_loop(story())


def test_an_inner_deadline_can_be_handled_and_the_outer_still_holds(on_loop):
    async def story():
        inner, outer = queue(SHORT_S / 2), queue(3 * SHORT_S)

        async def again_and_again():
            for _ in range(100):
                with pytest.raises(ConnectTimeout), Deadline(inner, lambda: ConnectTimeout("inner")):
                    await asyncio.sleep(LONG_S)

        with pytest.raises(HeadTimeout), Deadline(outer, head_timeout):
            await again_and_again()
        assert asyncio.current_task().cancelling() == 0

    async def within_bounds():
        async with asyncio.timeout(WAIT_S):
            await story()

    on_loop(within_bounds())
