"""Connections that are kept between requests, over real sockets. How requests use them: tests/e2e/forwarding."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.loops import left_open, open_descriptors, until
from support.peers import listening

from egressproxy.capture import OwnConnections
from egressproxy.dial import Dialer
from egressproxy.errors import ConnectRefused
from egressproxy.model import Endpoint
from egressproxy.poller import create_poller
from egressproxy.registry import Route, RouteEndpoint
from egressproxy.upstreams import Balancer, Turns, Upstreams

HOST = "a.test"


class Place:
    """The pool under test, and an upstream that listens."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.poller = create_poller(loop)
        self.dialer = Dialer(self.poller, loop, 30.0)
        self.own = OwnConnections()
        self.own.watched = True
        self.pool = Upstreams(self.dialer, self.own, loop, 30.0)
        self.configure()
        self.server = listening()
        self.server.setblocking(False)
        self.endpoint = Endpoint("127.0.0.1", self.server.getsockname()[1])
        self.accepted = []

    def configure(self, **changes):
        self.pool.configure(**({"max_kept": 10, "max_kept_each": 5, "idle_s": 30.0, "lifetime_s": 100.0} | changes))

    async def make(self, host=HOST, preface=b""):
        upstream = await self.pool.make(host, (self.endpoint,), None, None, preface)
        peer, _ = await asyncio.get_running_loop().sock_accept(self.server)
        self.accepted.append(peer)
        return upstream

    def take(self, host=HOST, endpoint=None, identity=None):
        return self.pool.take(host, (endpoint or self.endpoint,), identity)


@pytest.fixture
async def place():
    """Nothing may be left open, watched, or known as an own connection."""
    await asyncio.sleep(0)
    before = open_descriptors()
    place = Place()
    yield place
    place.pool.close()
    place.dialer.close()
    for sock in (*place.accepted, place.server):
        sock.close()
    assert place.pool.idle == 0
    assert len(place.own) == 0
    place.poller.close()
    assert left_open(before) == {}


async def test_a_connection_whose_time_was_over_is_not_kept(place):
    """Whoever took it next would be told at his first wait that he was too slow."""
    late = await place.make()
    late.tcp.expire()
    place.pool.give(late)
    assert place.pool.idle == 0
    assert place.pool.outcomes["not_reusable"] == 1


async def test_a_connection_whose_time_is_over_is_not_taken(place):
    late = await place.make()
    place.pool.give(late)
    late.tcp.expire()
    assert place.take() is None
    assert place.pool.idle == 0


async def test_a_connection_that_was_given_back_is_taken_again(place):
    made = await place.make()
    assert place.take() is None
    place.pool.give(made)
    assert (place.pool.idle, made.used) == (1, 1)
    assert place.take() is made
    assert place.pool.idle == 0
    assert place.take() is None
    place.pool.discard(made)
    assert Counter(place.pool.outcomes) == Counter(made=1, reused=1, not_reusable=1)


async def test_nobody_gets_a_connection_that_was_made_for_another_host_endpoint_or_identity(place):
    place.pool.give(await place.make())
    assert place.take(host="b.test") is None
    assert place.take(endpoint=Endpoint("127.0.0.2", place.endpoint.port)) is None
    assert place.take(identity=object()) is None
    assert place.pool.idle == 1


async def test_the_one_that_was_used_last_is_taken_first(place):
    first, second = await place.make(), await place.make()
    place.pool.give(first)
    place.pool.give(second)
    assert place.take() is second
    place.pool.discard(second)


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 408 Request Timeout\r\n\r\n"])
async def test_one_whose_upstream_ends_it_or_speaks_out_of_turn_is_closed(place, said):
    place.pool.give(await place.make())
    if said:
        place.accepted[0].send(said)
    else:
        place.accepted[0].close()
    await until(lambda: place.pool.idle == 0)
    assert place.take() is None
    assert place.pool.outcomes["closed_by_upstream"] == 1


async def test_one_that_has_something_to_say_is_not_taken_though_the_poller_has_not_told_of_it(place):
    """An answer that is there before its request is somebody else's."""
    place.pool.give(await place.make())
    await asyncio.sleep(0)
    place.accepted[0].send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    assert place.take() is None
    assert (place.pool.idle, place.pool.outcomes["closed_by_upstream"]) == (0, 1)


async def test_one_that_is_idle_for_too_long_is_closed(place):
    place.configure(idle_s=0.05)
    place.pool.give(await place.make())
    await until(lambda: place.pool.idle == 0)
    assert place.pool.outcomes["idle"] == 1
    assert await asyncio.get_running_loop().sock_recv(place.accepted[0], 1) == b""


async def test_one_that_is_too_old_is_not_kept(place):
    place.configure(lifetime_s=0.0)
    place.pool.give(await place.make())
    assert (place.pool.idle, place.pool.outcomes["old"]) == (0, 1)


async def test_no_more_are_kept_than_the_limits_say(place):
    place.configure(max_kept_each=2)
    for _ in range(2):
        place.pool.give(await place.make())
    made = [await place.make(), await place.make()]
    place.configure(max_kept_each=1)
    for one in made:
        place.pool.give(one)
    assert (place.pool.idle, place.pool.outcomes["full"]) == (2, 2)


async def test_over_all_upstreams_the_one_that_waits_longest_makes_room(place):
    place.configure(max_kept=2)
    for host in ("a.test", "b.test", "c.test"):
        place.pool.give(await place.make(host))
    assert (place.pool.idle, place.pool.outcomes["full"]) == (2, 1)
    assert place.take("a.test") is None
    for host in ("b.test", "c.test"):
        kept = place.take(host)
        assert kept is not None
        place.pool.discard(kept)


async def test_none_is_kept_where_none_may_be(place):
    place.configure(max_kept=0)
    place.pool.give(await place.make())
    assert place.pool.idle == 0


async def test_what_must_come_first_does(place):
    upstream = await place.make(preface=b"PROXY TCP4 ...\r\n")
    assert await asyncio.get_running_loop().sock_recv(place.accepted[0], 100) == b"PROXY TCP4 ...\r\n"
    place.pool.discard(upstream)


async def test_where_nobody_listens_nothing_is_left(place):
    place.server.close()
    with pytest.raises(ConnectRefused):
        await place.pool.make(HOST, (place.endpoint,), None, 5.0)


# --- turns --------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6))
def test_each_endpoint_is_asked_as_often_as_its_weight_says(weights):
    turns = Turns(weights)
    for _ in range(3):
        assert Counter(turns.next() for _ in range(sum(weights))) == Counter(dict(enumerate(weights)))


def test_a_heavy_endpoint_is_not_asked_in_one_go():
    turns = Turns([5, 1, 1])
    assert [turns.next() for _ in range(7)] == [0, 0, 1, 0, 2, 0, 0]


def test_the_others_follow_in_order():
    endpoints = tuple(RouteEndpoint(f"192.0.2.{number}", True, None, 1) for number in range(3))
    route = Route(0, "a", "a", 80, "static", endpoints, None, None, None, None, False, False)
    balancer = Balancer()
    assert [list(balancer.in_turn(route)) for _ in range(4)] == [[0, 1, 2], [1, 2, 0], [2, 0, 1], [0, 1, 2]]


@pytest.mark.parametrize("unasked", [b"HTTP/1.1 200 OK\r\n\r\n", b""])
async def test_what_came_while_nobody_listened_makes_a_connection_useless(place, unasked):
    """Behind an answer, while that is still being handed to a slow client: the poller tells of it once, and nobody hears."""
    made = await place.make()
    peer = place.accepted[0]
    peer.send(b"an answer")
    assert await made.stream.read(100) == b"an answer"
    made.tcp.listen()
    if unasked:
        peer.send(unasked)
    else:
        peer.close()
    await until(lambda: made.tcp.may_have_more)
    place.pool.give(made)
    assert place.take() is None
    assert Counter(place.pool.outcomes) == Counter(made=1, closed_by_upstream=1)
