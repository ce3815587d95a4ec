from __future__ import annotations

import asyncio

import pytest

from egressproxy.admission import OVERFLOW, Admission
from egressproxy.errors import Draining, TunnelLimit


def begin(admission):
    return admission.begin("http-proxy:3128", "http-proxy", "192.0.2.1", 40_000, 12.5)


async def test_connections_are_numbered_and_listed_oldest_first():
    admission = Admission(10)
    drafts = [begin(admission) for _ in range(3)]
    assert [draft.number for draft in drafts] == [1, 2, 3]
    assert list(admission.drafts) == drafts
    admission.end(drafts[1])
    assert list(admission.drafts) == [drafts[0], drafts[2]]
    assert len(admission) == 2
    assert begin(admission).number == 4, "a number is never used again"


async def test_a_connection_begins_with_what_is_known_of_it():
    draft = begin(Admission(10))
    assert (draft.listener, draft.protocol, draft.client, draft.client_port) == (
        "http-proxy:3128",
        "http-proxy",
        "192.0.2.1",
        40_000,
    )
    assert draft.accepted_at == 12.5


async def test_the_limit_holds_and_names_itself():
    admission = Admission(2)
    first = begin(admission)
    begin(admission)
    admission.admit()
    begin(admission)
    with pytest.raises(TunnelLimit, match=r"2 connections are open.*limits\.max_tunnels"):
        admission.admit()
    admission.end(first)
    admission.admit()


async def test_a_new_limit_holds_at_once():
    admission = Admission(1)
    begin(admission)
    begin(admission)
    with pytest.raises(TunnelLimit):
        admission.admit()
    admission.max_tunnels = 2
    admission.admit()


async def test_beyond_the_limit_there_is_room_to_say_so_and_no_more():
    admission = Admission(3)
    for _ in range(3 + OVERFLOW - 1):
        begin(admission)
    assert not admission.full
    begin(admission)
    assert admission.full


async def test_while_draining_nobody_new_is_admitted():
    admission = Admission(10)
    begin(admission)
    admission.draining = True
    with pytest.raises(Draining):
        admission.admit()


async def test_waiting_until_it_is_empty():
    admission = Admission(10)
    assert await admission.wait_until_empty(0)
    drafts = [begin(admission), begin(admission)]
    assert not await admission.wait_until_empty(0.01)
    waiting = asyncio.ensure_future(admission.wait_until_empty(20))
    await asyncio.sleep(0)
    admission.end(drafts[0])
    await asyncio.sleep(0)
    assert not waiting.done()
    admission.end(drafts[1])
    assert await waiting
    begin(admission)
    assert not await admission.wait_until_empty(0.01), "empty once is not empty for ever"
