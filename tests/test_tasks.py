from __future__ import annotations

import asyncio
import gc
import weakref

import pytest
from support.loops import until

from egressproxy.tasks import Tasks

LONG_S = 60.0


@pytest.fixture
async def tasks():
    return Tasks(asyncio.get_running_loop())


async def test_a_task_has_its_name_and_is_let_go_of_when_it_ends(tasks):
    done = asyncio.Event()
    task = tasks.start(done.wait(), "client 192.0.2.1 port 5")
    assert task.get_name() == "client 192.0.2.1 port 5"
    assert len(tasks) == 1
    done.set()
    await task
    await until(lambda: len(tasks) == 0)


async def test_a_task_that_nobody_else_knows_is_kept_alive(tasks):
    begun = []

    async def lonely():
        begun.append(True)
        await asyncio.get_running_loop().create_future()  # nothing else refers to it

    seen = weakref.ref(tasks.start(lonely(), "lonely"))
    await until(lambda: begun)
    gc.collect()
    assert seen() is not None
    await tasks.cancel()


async def test_a_defect_is_reported_with_the_name_of_its_task(tasks):
    reports = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: reports.append(context))

    async def defect():
        raise ZeroDivisionError("a defect")

    tasks.start(defect(), "client 192.0.2.1 port 5")
    await until(lambda: len(tasks) == 0)
    gc.collect()
    assert len(reports) == 1
    assert isinstance(reports[0]["exception"], ZeroDivisionError)
    assert "client 192.0.2.1 port 5" in repr(reports[0]["future"])


async def test_waiting_tells_whether_all_have_ended(tasks):
    assert await tasks.wait(0.01)
    done = asyncio.Event()
    tasks.start(done.wait(), "one")
    assert not await tasks.wait(0.01)
    done.set()
    assert await tasks.wait(10)


async def test_cancelling_waits_until_all_have_cleaned_up(tasks):
    cleaned = []

    async def careful(name):
        try:
            await asyncio.sleep(LONG_S)
        finally:
            await asyncio.sleep(0)
            cleaned.append(name)

    for name in ("a", "b", "c"):
        tasks.start(careful(name), name)
    await asyncio.sleep(0)
    await tasks.cancel()
    assert sorted(cleaned) == ["a", "b", "c"]
    assert len(tasks) == 0


async def test_cancelling_reaches_what_a_cancelled_task_started(tasks):
    async def child():
        await asyncio.sleep(LONG_S)

    async def parent():
        try:
            await asyncio.sleep(LONG_S)
        finally:
            tasks.start(child(), "child")

    tasks.start(parent(), "parent")
    await asyncio.sleep(0)
    await tasks.cancel()
    assert len(tasks) == 0
