from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import textwrap
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.loops import left_open, open_descriptors, run_on, until
from support.peers import listening

from egressproxy import dial
from egressproxy.deadlines import DeadlineQueue
from egressproxy.dial import ATTEMPT_DELAY_S, Dialer, in_turn
from egressproxy.errors import ConnectFailed, ConnectRefused, ConnectTimeout
from egressproxy.model import Endpoint
from egressproxy.poller import LoopPoller, create_poller

LONG_S = 30.0
LINUX = sys.platform == "linux"


class Place:
    """The dialler under test, and the addresses it dials."""

    def __init__(self, poller):
        self.poller = poller
        self.dialer = Dialer(poller, asyncio.get_running_loop(), LONG_S)
        self._sockets = []
        self._served = None

    def answering(self, host="127.0.0.1"):
        sock = listening(host=host)
        self._sockets.append(sock)
        return Endpoint(host, sock.getsockname()[1])

    def refusing(self, host="127.0.0.1"):
        sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        sock.bind((host, 0))  # bound and not listening: nobody else can answer there
        self._sockets.append(sock)
        return Endpoint(host, sock.getsockname()[1])

    def silent(self, host="127.0.0.1"):
        """Listens with a full queue: the kernel drops what asks to connect."""
        sock = listening(host=host, backlog=0)
        self._sockets.append(sock)
        while True:
            filler = socket.socket(sock.family)
            filler.setblocking(False)
            filler.connect_ex(sock.getsockname())
            self._sockets.append(filler)
            filler.settimeout(0.02)
            try:
                filler.send(b"x")
            except OSError:
                break  # this one is not connected any more: full
        return Endpoint(host, sock.getsockname()[1]), sock

    def make_room(self, listener):
        """Take everybody out of the queue of a silent listener, also those who ask again."""
        listener.setblocking(False)
        asyncio.get_running_loop().add_reader(listener, lambda: self._sockets.append(listener.accept()[0]))
        self._served = listener

    def close(self):
        self.dialer.close()
        if self._served is not None:
            asyncio.get_running_loop().remove_reader(self._served)
        for sock in self._sockets:
            sock.close()


@pytest.fixture(params=["uvloop", "asyncio", "asyncio-without-epoll"])
def with_place(request):
    """Runs a story at a place, and checks that nothing is left: watches, deadlines, descriptors."""
    kind, _, without_epoll = request.param.partition("-")

    def run(story):
        async def framed():
            await asyncio.sleep(0)
            before = open_descriptors()
            loop = asyncio.get_running_loop()
            poller = LoopPoller(loop) if without_epoll else create_poller(loop)
            place = Place(poller)
            try:
                await story(place)
                assert len(poller) == 0
                assert len(place.dialer.whole) == len(place.dialer._between) == 0
            finally:
                place.close()
                poller.close()
            assert left_open(before) == {}

        run_on(kind, framed())

    return run


def passed_since(started):
    return asyncio.get_running_loop().time() - started


# --- one address --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_an_address_that_answers_is_connected(with_place, host):
    async def story(place):
        endpoint = place.answering(host)
        stream = await place.dialer.dial([endpoint])
        assert (stream.address, stream.port) == endpoint
        assert stream.sock.getpeername()[:2] == endpoint
        assert stream.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert not os.get_inheritable(stream.fd)
        assert not stream.sock.getblocking()
        assert stream.try_read(1) is None
        stream.close()
        assert place.dialer.outcomes["connected"] == 1
        assert place.dialer.attempts == 1

    with_place(story)


def test_a_refusal_is_told_with_the_address(with_place):
    async def story(place):
        endpoint = place.refusing()
        with pytest.raises(ConnectRefused, match=f"{endpoint}: Connection refused") as caught:
            await place.dialer.dial([endpoint])
        assert caught.value.endpoint == endpoint
        assert place.dialer.outcomes["connect_refused"] == 1

    with_place(story)


@pytest.mark.skipif(not LINUX, reason="the kernel's treatment of a full queue")
def test_silence_is_a_timeout_that_names_the_address(with_place):
    async def story(place):
        endpoint, _ = place.silent()
        place.dialer.configure(0.05)
        started = asyncio.get_running_loop().time()
        with pytest.raises(ConnectTimeout, match=f"{endpoint} within 0.05 s") as caught:
            await place.dialer.dial([endpoint])
        assert passed_since(started) >= 0.045
        assert caught.value.endpoint == endpoint
        assert place.dialer.outcomes["connect_timeout"] == 1

    with_place(story)


@pytest.mark.skipif(not LINUX, reason="the kernel's treatment of a full queue")
def test_another_time_than_the_usual_is_kept(with_place):
    async def story(place):
        endpoint, _ = place.silent()
        short = DeadlineQueue("connect_timeout", 0.05, asyncio.get_running_loop())
        with pytest.raises(ConnectTimeout, match=f"{endpoint} within 0.05 s"):
            await asyncio.wait_for(place.dialer.dial([endpoint], short), 5)
        short.close()

    with_place(story)


def test_an_address_that_cannot_be_reached_is_no_refusal(with_place):
    async def story(place):
        endpoint = Endpoint("255.255.255.255", 443)  # the kernel itself says no, at once
        with pytest.raises(ConnectFailed) as caught:
            await place.dialer.dial([endpoint])
        assert caught.value.endpoint == endpoint
        assert place.dialer.outcomes["connect_failed"] == 1

    with_place(story)


# --- several ------------------------------------------------------------------------------------------------------


def test_the_first_address_that_answers_is_the_only_one_tried(with_place):
    async def story(place):
        endpoints = [place.answering(), place.answering()]
        stream = await place.dialer.dial(endpoints)
        assert stream.port == endpoints[0].port
        assert place.dialer.attempts == 1
        stream.close()

    with_place(story)


def test_after_a_refusal_the_next_is_tried_at_once(with_place):
    async def story(place):
        endpoints = [place.refusing(), place.refusing("::1"), place.answering()]
        started = asyncio.get_running_loop().time()
        stream = await place.dialer.dial(endpoints)
        assert stream.port == endpoints[2].port
        assert place.dialer.attempts == 3
        assert passed_since(started) < ATTEMPT_DELAY_S
        assert place.dialer.outcomes == {"connected": 1}
        stream.close()

    with_place(story)


def test_after_an_address_that_cannot_be_reached_the_next_is_tried_at_once(with_place):
    async def story(place):
        endpoints = [Endpoint("255.255.255.255", 443), place.answering()]
        stream = await place.dialer.dial(endpoints)
        assert stream.port == endpoints[1].port
        stream.close()

    with_place(story)


@pytest.mark.skipif(not LINUX, reason="the kernel's treatment of a full queue")
def test_beside_a_silent_address_the_next_is_tried_after_the_delay_and_the_loser_is_closed(with_place):
    async def story(place):
        silent, _ = place.silent()
        answering = place.answering()
        started = asyncio.get_running_loop().time()
        stream = await place.dialer.dial([silent, answering])
        assert passed_since(started) >= ATTEMPT_DELAY_S * 0.95
        assert stream.port == answering.port
        assert place.dialer.attempts == 2
        assert len(place.poller) == 1, "the winner alone"
        stream.close()

    with_place(story)


@pytest.mark.skipif(not LINUX, reason="the kernel's treatment of a full queue")
@pytest.mark.parametrize(
    "with_place", ["uvloop"], indirect=True
)  # the kernel asks again after a second: once is enough
def test_a_slow_first_address_may_still_win(with_place):
    async def story(place):
        first, listener = place.silent()
        second, _ = place.silent()
        dialling = asyncio.ensure_future(place.dialer.dial([first, second]))
        await until(lambda: place.dialer.attempts == 2, "both are under way")
        place.make_room(listener)  # the kernel asks again after a second
        stream = await dialling
        assert stream.port == first.port
        stream.close()

    with_place(story)


@pytest.mark.skipif(not LINUX, reason="the kernel's treatment of a full queue")
def test_a_refusal_beside_a_silent_address_is_not_the_end(with_place):
    async def story(place):
        silent, _ = place.silent()
        endpoints = [silent, place.refusing(), place.answering()]
        stream = await place.dialer.dial(endpoints)
        assert stream.port == endpoints[2].port
        stream.close()

    with_place(story)


@pytest.mark.skipif(not LINUX, reason="the kernel's treatment of a full queue")
def test_a_timeout_together_with_the_failure_of_another_address_is_noticed(with_place):
    """The loop is late, so that the refusal and the end of all time are found in the same turn."""

    async def story(place):
        silent, _ = place.silent()
        refusing = place.refusing()
        watch_once = place.poller.watch_once

        def late(fd, events, handler):
            watch_once(fd, events, handler)
            if place.dialer.attempts == 2:
                time.sleep(0.15)  # the loop is to be held up

        place.poller.watch_once = late
        place.dialer.configure(ATTEMPT_DELAY_S + 0.1)
        async with asyncio.timeout(5):
            with pytest.raises(ConnectTimeout):
                await place.dialer.dial([silent, refusing])
        del place.poller.watch_once

    with_place(story)


@pytest.mark.skipif(not LINUX, reason="the kernel's treatment of a full queue")
def test_a_timeout_names_every_address_that_was_tried(with_place):
    async def story(place):
        refusing, (silent, _) = place.refusing(), place.silent()
        place.dialer.configure(0.05)
        with pytest.raises(ConnectTimeout) as caught:
            await place.dialer.dial([refusing, silent])
        assert str(refusing) in str(caught.value)
        assert str(silent) in str(caught.value)
        assert caught.value.endpoint == silent

    with_place(story)


def test_refusals_of_all_name_each(with_place):
    async def story(place):
        endpoints = [place.refusing(), place.refusing("::1"), place.refusing()]
        with pytest.raises(ConnectRefused) as caught:
            await place.dialer.dial(endpoints)
        assert [f"{endpoint}: Connection refused" for endpoint in endpoints] == str(caught.value).split("; ")
        assert caught.value.endpoint == endpoints[-1]

    with_place(story)


def test_a_refusal_and_an_unreachable_address_are_a_failure_that_names_both(with_place):
    async def story(place):
        endpoints = [place.refusing(), Endpoint("255.255.255.255", 443)]
        with pytest.raises(ConnectFailed) as caught:
            await place.dialer.dial(endpoints)
        assert all(str(endpoint) in str(caught.value) for endpoint in endpoints)

    with_place(story)


def test_no_more_than_sixteen_addresses_are_tried(with_place):
    async def story(place):
        endpoints = [place.refusing()] * 40
        with pytest.raises(ConnectRefused):
            await place.dialer.dial(endpoints)
        assert place.dialer.attempts == 16

    with_place(story)


@pytest.mark.skipif(not LINUX, reason="the kernel's treatment of a full queue")
def test_a_cancelled_dial_leaves_nothing(with_place):
    async def story(place):
        silent, _ = place.silent()
        other, _ = place.silent("::1")
        dialling = asyncio.ensure_future(place.dialer.dial([silent, other]))
        await until(lambda: place.dialer.attempts == 2)
        dialling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await dialling

    with_place(story)


def test_many_dials_at_once_do_not_mix(with_place):
    async def story(place):
        endpoints = [place.answering() if number % 3 else place.refusing() for number in range(30)]
        results = await asyncio.gather(
            *(place.dialer.dial([endpoint]) for endpoint in endpoints), return_exceptions=True
        )
        for number, (endpoint, result) in enumerate(zip(endpoints, results, strict=True)):
            if number % 3:
                assert result.sock.getpeername()[:2] == endpoint
                result.close()
            else:
                assert isinstance(result, ConnectRefused)
                assert result.endpoint == endpoint
        assert place.dialer.outcomes == {"connected": 20, "connect_refused": 10}

    with_place(story)


def test_a_new_deadline_holds_for_dials_to_come(with_place):
    async def story(place):
        place.dialer.configure(LONG_S)
        place.dialer.configure(1.0)
        stream = await place.dialer.dial([place.answering()])
        stream.close()

    with_place(story)


# --- out of descriptors -------------------------------------------------------------------------------------------

STARVED = """
    import asyncio, resource, socket, sys
    from egressproxy.dial import Dialer
    from egressproxy.errors import OutOfDescriptors
    from egressproxy.model import Endpoint
    from egressproxy.poller import create_poller

    async def main():
        loop = asyncio.get_running_loop()
        poller = create_poller(loop)
        dialer = Dialer(poller, loop, 10)
        listener = socket.create_server(("127.0.0.1", 0))
        endpoint = Endpoint("127.0.0.1", listener.getsockname()[1])
        resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
        taken = []
        try:
            while True:
                taken.append(socket.socket())
        except OSError:
            pass
        try:
            await dialer.dial([endpoint, endpoint])
        except OutOfDescriptors as error:
            print("starved:", error)
        print(dialer.outcomes)
        taken.pop().close()
        stream = await dialer.dial([endpoint])
        print("connected:", stream.port == endpoint.port)

    asyncio.run(main())
"""


def test_without_a_descriptor_left_the_want_is_the_proxys_own():
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(STARVED)], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stderr
    starved, outcomes, connected = done.stdout.splitlines()
    assert "Too many open files" in starved
    assert "'out_of_descriptors': 1" in outcomes
    assert connected == "connected: True"


# --- what failed comes last ---------------------------------------------------------------------------------------


def test_what_refused_comes_last_until_its_time_is_over(with_place, monkeypatch):
    async def story(place):
        refusing, one, two = place.refusing(), place.answering(), place.answering()
        (await place.dialer.dial([refusing, one])).close()
        assert place.dialer.failed_last([refusing, one, two]) == [one, two, refusing]
        assert place.dialer.failed_last([two, refusing, one]) == [two, one, refusing]
        assert place.dialer.failed_last([one, two]) == [one, two]
        assert place.dialer.failed_last([refusing]) == [refusing]
        monkeypatch.setattr(dial, "FAILED_S", 0.0)
        place.dialer.note_failure(refusing)
        assert place.dialer.failed_last([refusing, one]) == [refusing, one]

    with_place(story)


def test_what_connects_again_has_its_turn_again(with_place):
    async def story(place):
        answering, other = place.answering(), place.answering()
        place.dialer.note_failure(answering)
        (await place.dialer.dial([answering])).close()
        assert place.dialer.failed_last([answering, other]) == [answering, other]

    with_place(story)


@pytest.mark.skipif(not LINUX, reason="the kernel's treatment of a full queue")
def test_what_is_slower_than_one_that_began_after_it_comes_last(with_place):
    async def story(place):
        silent, _ = place.silent()
        answering = place.answering()
        (await place.dialer.dial([silent, answering])).close()
        assert place.dialer.failed_last([silent, answering]) == [answering, silent]

    with_place(story)


@pytest.mark.skipif(not LINUX, reason="the kernel's treatment of a full queue")
def test_silence_to_the_end_is_a_failure_and_a_client_that_leaves_is_none(with_place):
    async def story(place):
        silent, _ = place.silent()
        other = place.answering()
        with pytest.raises(ConnectTimeout):
            await place.dialer.dial([silent], begun=lambda step: step.expire())
        assert place.dialer.failed_last([silent, other]) == [silent, other]
        place.dialer.configure(0.05)
        with pytest.raises(ConnectTimeout):
            await place.dialer.dial([silent])
        assert place.dialer.failed_last([silent, other]) == [other, silent]

    with_place(story)


def test_only_so_many_failures_are_remembered(with_place, monkeypatch):
    monkeypatch.setattr(dial, "MAX_FAILED", 2)

    async def story(place):
        place.dialer.note_failure(v4(1), v4(2), v4(1), v4(3))  # the second is the oldest by then
        assert place.dialer.failed_last([v4(1), v4(2), v4(3)]) == [v4(2), v4(1), v4(3)]

    with_place(story)


# --- the order ----------------------------------------------------------------------------------------------------


def v4(number):
    return Endpoint(f"192.0.2.{number}", 443)


def v6(number):
    return Endpoint(f"2001:db8::{number}", 443)


@pytest.mark.parametrize(
    ("given_", "expected"),
    [
        ([], []),
        ([v4(1)], [v4(1)]),
        ([v4(1), v4(2)], [v4(1), v4(2)]),
        ([v6(1), v6(2), v4(1), v4(2)], [v6(1), v4(1), v6(2), v4(2)]),
        ([v4(1), v4(2), v6(1)], [v4(1), v6(1), v4(2)]),
        ([v6(1), v4(1), v4(2), v4(3)], [v6(1), v4(1), v4(2), v4(3)]),
        ([v4(1), v6(1), v6(2), v6(3)], [v4(1), v6(1), v6(2), v6(3)]),
    ],
)
def test_families_take_turns_beginning_with_the_first(given_, expected):
    assert list(in_turn(given_)) == expected


@given(st.lists(st.builds(v4, st.integers(1, 200)) | st.builds(v6, st.integers(1, 200)), unique=True, max_size=40))
def test_the_order_keeps_each_family_as_the_resolver_had_it(endpoints):
    ordered = list(in_turn(endpoints))
    assert len(ordered) == min(len(endpoints), 16)
    assert ordered[:1] == endpoints[:1]
    for is_v6 in (False, True):
        before = [endpoint for endpoint in endpoints if (":" in endpoint.address) is is_v6]
        after = [endpoint for endpoint in ordered if (":" in endpoint.address) is is_v6]
        assert after == before[: len(after)]
    families = [":" in endpoint.address for endpoint in ordered]
    shorter = min(families.count(True), families.count(False))
    if len(endpoints) <= 16:
        assert all(families[index] != families[index + 1] for index in range(2 * shorter - 1))
