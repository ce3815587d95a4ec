from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.loops import LOOPS, run_on, until

from egressproxy.deadlines import SLACK_S, DeadlineQueue, DeadlineQueues

SHORT_S = 0.02


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


def test_queues_of_one_meaning_pass_all_of_theirs_at_once():
    log = []
    queues = DeadlineQueues("keep_alive", Clock())
    for number, delay_s in enumerate((5.0, 60.0, 5.0)):
        queues.of(delay_s).start(Item(number, log))
    queues.pass_all()
    assert log == [0, 2, 1]
    assert not len(queues.of(5.0)) + len(queues.of(60.0))


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
