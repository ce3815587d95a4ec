"""What is remembered of names, and how long: values and a clock, nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from support.resolving import NAME, Clock

from egressproxy.config.schema.stages import Dns
from egressproxy.resolve.cache import STALE_RETRY_S, Cache

ADDRESSES = ("192.0.2.1",)


def cache(clock: Clock, **settings: Any) -> Cache:
    return Cache(Dns(**settings), clock)


@pytest.mark.parametrize(("ttl_s", "kept_s"), [(0.0, 5.0), (60.0, 60.0), (3600.0, 300.0)])
def test_an_answer_is_kept_for_its_ttl_between_floor_and_ceiling(clock: Clock, ttl_s: float, kept_s: float) -> None:
    entry = cache(clock, min_ttl_s=5.0, max_ttl_s=300.0, stale_s=10.0).keep(NAME, ADDRESSES, ttl_s)
    assert entry.addresses == ADDRESSES
    assert entry.expires_s == clock.now + kept_s
    assert entry.stale_until_s == clock.now + kept_s + 10.0


def test_what_completes_an_answer_does_not_lengthen_its_life(clock: Clock) -> None:
    known = cache(clock)
    first = known.keep(NAME, ADDRESSES, 30.0)
    clock.advance(10)
    assert known.keep(NAME, (*ADDRESSES, "192.0.2.2"), 60.0, first.expires_s).expires_s == first.expires_s


def test_only_an_answer_of_the_servers_that_ran_out_is_stale(clock: Clock) -> None:
    known = cache(clock, stale_s=100.0)
    entry = known.keep("found.test", ADDRESSES, 60.0)
    known.keep_no("gone.test", "gone.test does not exist")
    known.keep_local("local.test", ADDRESSES, 2.0)
    clock.advance(61)
    assert known.stale("found.test") is entry
    assert known.stale("gone.test") is None
    assert known.stale("local.test") is None
    assert known.stale("never.test") is None
    clock.advance(100)
    assert known.stale("found.test") is None


def test_a_stale_answer_is_used_until_it_is_time_to_ask_again(clock: Clock) -> None:
    known = cache(clock, stale_s=100.0)
    old = known.keep(NAME, ADDRESSES, 60.0)
    clock.advance(61)
    assert known.keep_stale(NAME, old)
    again = known.entries[NAME]
    assert (again.addresses, again.outcome) == (ADDRESSES, "stale")
    assert again.expires_s == clock.now + STALE_RETRY_S
    clock.advance(90)
    assert known.keep_stale(NAME, again)
    assert known.entries[NAME].expires_s == old.stale_until_s, "the pause between tries does not outlast stale_s"
    clock.advance(10)
    assert not known.keep_stale(NAME, old), "its time is over"


def test_what_was_learnt_meanwhile_is_not_written_over_by_a_stale_answer(clock: Clock) -> None:
    known = cache(clock)
    old = known.keep(NAME, ADDRESSES, 60.0)
    clock.advance(61)
    fresh = known.keep(NAME, ("192.0.2.2",), 60.0)
    assert known.keep_stale(NAME, old)
    assert known.entries[NAME] is fresh


def test_a_stale_answer_that_had_to_go_meanwhile_comes_back(clock: Clock) -> None:
    known = cache(clock)
    old = known.keep(NAME, ADDRESSES, 60.0)
    clock.advance(61)
    known.forget(NAME)
    assert known.keep_stale(NAME, old)
    assert known.entries[NAME].addresses == ADDRESSES


def test_the_name_written_or_used_longest_ago_has_to_go(clock: Clock) -> None:
    known = cache(clock, cache_entries=2)
    known.keep("a.test", ADDRESSES, 60.0)
    known.keep("b.test", ADDRESSES, 60.0)
    known.keep_no("a.test", "a.test does not exist")
    known.keep_local("c.test", ADDRESSES, 2.0)
    assert list(known.entries) == ["a.test", "c.test"]


def test_forgetting_a_name_that_is_not_known_is_fine(clock: Clock) -> None:
    known = cache(clock)
    known.forget(NAME)
    assert not known.entries
