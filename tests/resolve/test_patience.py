"""Who has waited for long enough gets an error of its own, and the answer still comes for others."""

import asyncio

import pytest

from egressproxy.deadlines import DeadlineQueue
from egressproxy.errors import UpstreamTimeout
from egressproxy.resolve.patience import Patience


def patience(delay_s):
    return Patience(DeadlineQueue("patience", delay_s, asyncio.get_running_loop()), UpstreamTimeout("too slow"))


async def test_an_answer_in_time_is_the_answer():
    asker = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(asker.set_result, ("192.0.2.1",))
    with patience(60) as waits:
        assert await waits.wait_for(asker) == ("192.0.2.1",)
        waits.expire()  # behind the answer it touches nothing


async def test_no_answer_in_time_is_the_error():
    asker = asyncio.get_running_loop().create_future()
    with patience(0.01) as waits, pytest.raises(UpstreamTimeout, match="too slow"):
        await waits.wait_for(asker)
    assert asker.done()


async def test_the_time_is_for_all_names_together():
    with patience(0.01) as waits:
        first, second = (asyncio.get_running_loop().create_future() for _ in range(2))
        with pytest.raises(UpstreamTimeout):
            await waits.wait_for(first)
        with pytest.raises(UpstreamTimeout):
            await waits.wait_for(second)
        assert second.cancelled()


async def test_who_is_done_in_time_has_no_deadline_any_more():
    waits = patience(60)
    deadlines = waits._deadlines
    with waits:
        assert len(deadlines) == 1
    assert len(deadlines) == 0
    deadlines.close()
