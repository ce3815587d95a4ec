from __future__ import annotations

import asyncio
import socket
import sys

import pytest
from support.loops import LOOPS, left_open, open_descriptors, run_on, until
from support.peers import as_number, socket_pair

from egressproxy.poller import READ, WRITE, EpollPoller, LoopPoller, create_poller
from egressproxy.stories import Signal

POLLERS = [LoopPoller] + ([EpollPoller] if sys.platform == "linux" else [])
SOON_S = 0.02


@pytest.fixture(params=[(kind, loop) for kind in POLLERS for loop in LOOPS], ids=lambda p: f"{p[0].__name__}-{p[1]}")
def with_poller(request):
    """Runs a story with a poller and both ends of a TCP connection; nothing may be left watched."""
    kind, loop = request.param

    def run(story):
        async def framed():
            await asyncio.sleep(0)
            before = open_descriptors()
            poller = kind(asyncio.get_running_loop())
            ours, theirs = socket_pair()
            ours.setblocking(False)
            with ours, theirs:
                try:
                    await story(poller, ours, theirs)
                    poller.forget(ours.fileno())
                    assert len(poller) == 0
                finally:
                    poller.close()
                    poller.close()
            assert left_open(before) == {}

        run_on(loop, framed())

    return run


class Events(list):
    def __call__(self, events):
        self.append(events)


def fill(sock):
    """Write until the kernel takes no more."""
    sock.setblocking(False)
    try:
        while True:
            sock.send(bytes(65_536))
    except BlockingIOError:
        pass


def test_a_readable_socket_is_announced_until_it_was_read(with_poller):
    async def story(poller, ours, theirs):
        seen = Events()
        poller.watch(ours.fileno(), READ, seen)
        await asyncio.sleep(SOON_S)
        assert seen == []
        theirs.send(b"x")
        await until(lambda: len(seen) >= 3, "level-triggered: again and again")
        assert set(seen) == {READ}
        ours.recv(1)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        count = len(seen)
        await asyncio.sleep(SOON_S)
        assert len(seen) <= count + 1

    with_poller(story)


def test_a_writable_socket_is_announced(with_poller):
    async def story(poller, ours, theirs):
        seen = Events()
        poller.watch(ours.fileno(), WRITE, seen)
        await until(lambda: seen)
        assert set(seen) == {WRITE}

    with_poller(story)


def test_the_last_watch_of_a_descriptor_counts(with_poller):
    async def story(poller, ours, theirs):
        first, second = Events(), Events()
        theirs.send(b"x")
        poller.watch(ours.fileno(), READ, first)
        poller.watch(ours.fileno(), READ, second)
        await until(lambda: second)
        assert first == []
        fill(ours)
        poller.watch(ours.fileno(), WRITE, first)
        await asyncio.sleep(0)
        count = len(second)
        await asyncio.sleep(SOON_S)
        assert len(second) == count, "reading is not watched any more"
        assert first == []

    with_poller(story)


def test_both_directions_are_watched_at_once(with_poller):
    async def story(poller, ours, theirs):
        seen = Events()
        poller.watch(ours.fileno(), READ | WRITE, seen)
        theirs.send(b"x")
        await until(lambda: READ in seen or READ | WRITE in seen)
        await until(lambda: WRITE in seen or READ | WRITE in seen)

    with_poller(story)


def test_no_events_is_not_watched_and_can_be_watched_again(with_poller):
    async def story(poller, ours, theirs):
        seen = Events()
        poller.watch(ours.fileno(), 0, seen)
        poller.watch(ours.fileno(), READ, seen)
        poller.watch(ours.fileno(), 0, seen)
        theirs.send(b"x")
        await asyncio.sleep(SOON_S)
        assert seen == []
        poller.watch(ours.fileno(), READ, seen)
        await until(lambda: seen)

    with_poller(story)


def test_a_hang_up_of_a_socket_that_is_not_watched_costs_nothing(with_poller):
    async def story(poller, ours, theirs):
        seen = Events()
        poller.watch(ours.fileno(), READ, seen)
        poller.watch(ours.fileno(), 0, seen)
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        theirs.close()
        await asyncio.sleep(SOON_S)
        assert seen == []

    with_poller(story)


def test_once_is_once(with_poller):
    async def story(poller, ours, theirs):
        seen = Events()
        theirs.send(b"x")
        poller.watch_once(ours.fileno(), READ, seen)
        await until(lambda: seen)
        await asyncio.sleep(SOON_S)
        assert len(seen) == 1
        poller.watch_once(ours.fileno(), READ, seen)
        await until(lambda: len(seen) == 2)
        poller.watch(ours.fileno(), READ, seen)
        await until(lambda: len(seen) > 4)

    with_poller(story)


async def waited(signal):
    await signal


def once(poller, fd, events):
    ready = Signal()
    poller.watch_once(fd, events, ready.fire)
    return ready


def test_waiting_ends_when_the_descriptor_is_ready(with_poller):
    async def story(poller, ours, theirs):
        async with asyncio.timeout(10):
            await once(poller, ours.fileno(), WRITE)
            waiting = asyncio.ensure_future(waited(once(poller, ours.fileno(), READ)))
            await asyncio.sleep(0)
            assert not waiting.done()
            theirs.send(b"x")
            await waiting
            await once(poller, ours.fileno(), READ)  # still unread

    with_poller(story)


@pytest.mark.parametrize("events", [READ, WRITE])
def test_waiting_ends_when_the_connection_breaks(with_poller, events):
    async def story(poller, ours, theirs):
        if events == WRITE:
            fill(ours)
        waiting = asyncio.ensure_future(waited(once(poller, ours.fileno(), events)))
        await asyncio.sleep(0)
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        theirs.close()
        async with asyncio.timeout(10):
            await waiting

    with_poller(story)


def test_whoever_waits_may_end_the_wait_and_begin_another(with_poller):
    async def story(poller, ours, theirs):
        waiting = once(poller, ours.fileno(), READ)
        waiting.fire()
        theirs.send(b"x")
        async with asyncio.timeout(10):
            await waiting
            await once(poller, ours.fileno(), READ)

    with_poller(story)


def test_a_cancelled_wait_leaves_the_descriptor_free_for_the_next(with_poller):
    async def story(poller, ours, theirs):
        waiting = asyncio.ensure_future(waited(once(poller, ours.fileno(), READ)))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        theirs.send(b"x")
        await asyncio.sleep(SOON_S)
        async with asyncio.timeout(10):
            await once(poller, ours.fileno(), READ)

    with_poller(story)


def test_an_armed_descriptor_is_told_of_what_is_there_and_of_what_comes(with_poller):
    async def story(poller, ours, theirs):
        seen = Events()
        fd = ours.fileno()

        async def told(count):
            if not poller.is_armed(fd, seen):
                poller.arm(fd, READ, seen)
            await until(lambda: len(seen) >= count)

        theirs.send(b"x")
        poller.arm(fd, READ, seen)
        await told(1)
        assert ours.recv(10) == b"x"
        theirs.send(b"y")
        await told(2)
        assert ours.recv(10) == b"y"
        theirs.close()
        await told(3)
        assert ours.recv(10) == b""

    with_poller(story)


def test_what_is_armed_is_not_told_again_and_again_of_what_it_leaves_unread(with_poller):
    async def story(poller, ours, theirs):
        seen = Events()
        theirs.send(b"x")
        poller.arm(ours.fileno(), READ, seen)
        await until(lambda: seen)
        await asyncio.sleep(SOON_S)
        assert len(seen) == 1
        poller.arm(ours.fileno(), READ, seen)  # armed anew, it is told of the state
        await until(lambda: len(seen) == 2)

    with_poller(story)


def test_a_descriptor_may_be_armed_after_it_was_watched_or_forgotten_and_the_other_way_round(with_poller):
    async def story(poller, ours, theirs):
        armed, watched = Events(), Events()
        fd = ours.fileno()
        theirs.send(b"x")
        poller.watch(fd, READ, watched)
        poller.arm(fd, READ, armed)
        await until(lambda: armed)
        poller.forget(fd)
        assert not poller.is_armed(fd, armed)
        poller.arm(fd, READ, armed)
        await until(lambda: len(armed) == 2)
        poller.watch(fd, READ, watched)
        assert not poller.is_armed(fd, armed)
        await until(lambda: len(watched) > 2)
        assert len(armed) == 2

    with_poller(story)


def test_a_forgotten_descriptor_may_be_closed_and_its_number_used_again(with_poller):
    async def story(poller, ours, theirs):
        first = Events()
        number = ours.fileno()
        poller.watch(number, READ, first)
        poller.forget(number)
        poller.forget(number)
        ours.close()
        with as_number(number) as other:
            second = Events()
            poller.watch(number, READ, second)
            other.send(b"x")
            await until(lambda: second)
            assert first == []
            poller.forget(number)

    with_poller(story)


def test_more_descriptors_than_one_batch_are_all_served(with_poller):
    async def story(poller, ours, theirs):
        pairs = [socket.socketpair() for _ in range(300)]
        seen = set()

        def handler_of(one):
            def handler(_events):
                one.recv(1)
                seen.add(one)

            return handler

        for one, other in pairs:
            poller.watch(one.fileno(), READ, handler_of(one))
            other.send(b"x")
        await until(lambda: len(seen) == 300)
        for one, other in pairs:
            poller.forget(one.fileno())
            one.close()
            other.close()

    with_poller(story)


def test_closing_leaves_the_watched_descriptors_open(with_poller):
    async def story(poller, ours, theirs):
        poller.watch(ours.fileno(), READ, Events())
        poller.close()
        theirs.send(b"x")
        await asyncio.sleep(SOON_S)
        assert ours.recv(1) == b"x"

    with_poller(story)


async def test_the_poller_of_this_system_is_its_fastest():
    poller = create_poller(asyncio.get_running_loop())
    assert type(poller) is (EpollPoller if sys.platform == "linux" else LoopPoller)
    poller.close()
