"""One list for every relay: whatever engine moves the bytes, over TCP or TLS, on either poller and either loop.

Each test ends with the checks of `Bench.close`: nothing watched, no deadline set, every pipe back, no descriptor left.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.loops import at_rest, until
from support.peers import BROKEN, SMALL_BUFFER, as_number, together
from support.tunnels import EVERY, FASTEST, Filled, on, on_every_engine, on_every_setup, on_splice, run_setup

from egressproxy.model import Transfer
from egressproxy.poller import READ
from egressproxy.relay import copying
from egressproxy.relay import tunnel as tunnel_module
from egressproxy.relay.copying import CopyFlow
from egressproxy.relay.flow import COPY_BYTES, TURN_BYTES, TURN_READS
from egressproxy.relay.pipes import PIPE_BYTES, PipePool
from egressproxy.relay.splicing import SpliceFlow
from egressproxy.stories import Signal
from egressproxy.stream import TcpStream

PING_PONGS = 2_000
"""The full exercise is 100,000; this many show the same and take a moment."""
CHAOS_EXAMPLES = 20
LARGE = 24 * 1024 * 1024
LARGE_TLS = 6 * 1024 * 1024
SHORT_S = 0.03
"""A timeout that a test waits for."""


def kernel_bytes(sockets=4):
    """What the kernel may hold on the way through one tunnel when SMALL_BUFFER was asked for, with room for its overhead."""
    return sockets * 4 * SMALL_BUFFER


def held_at_most(setup):
    return kernel_bytes() + (PIPE_BYTES if setup.engine == "splice" else 4 * COPY_BYTES)


async def end_in_order(joined):
    await joined.client.end()
    assert await joined.upstream.receive_all() == b""
    await joined.upstream.end()
    assert await joined.client.receive_all() == b""
    return await joined.over()


# --- bytes --------------------------------------------------------------------------------------------------------


@on_every_setup
async def test_carries_bytes_both_ways(bench):
    joined = await bench.join()
    await joined.client.send(b"up")
    assert await joined.upstream.receive(2) == b"up"
    await joined.upstream.send(b"downwards")
    assert await joined.client.receive(9) == b"downwards"
    assert (joined.tunnel.bytes_up, joined.tunnel.bytes_down) == (2, 9)
    assert await end_in_order(joined) == Transfer(2, 9, "client", "closed")


@on_every_engine
async def test_carries_thousands_of_one_byte_ping_pongs(bench):
    joined = await bench.join()

    async def echo():
        while data := await joined.upstream.receive_some():
            await joined.upstream.send(data)
        await joined.upstream.end()

    async def ask():
        for number in range(PING_PONGS):
            await joined.client.send(bytes([number % 256]))
            assert await joined.client.receive(1) == bytes([number % 256])
        await joined.client.end()
        assert await joined.client.receive_all() == b""

    await together(echo(), ask())
    assert await joined.over() == Transfer(PING_PONGS, PING_PONGS, "client", "closed")


@on_every_setup
async def test_carries_large_transfers_both_ways_at_once(bench):
    size = LARGE_TLS if bench.setup.tls else LARGE
    block = os.urandom(1024 * 1024 - 7)
    joined = await bench.join()

    async def give(peer):
        for _ in range(size // len(block)):
            await peer.send(block)
        await peer.end()

    async def take(peer):
        digest = hashlib.blake2b()
        await peer.receive_all(digest.update)
        return digest.digest()

    up, down, _, _ = await together(
        take(joined.upstream), take(joined.client), give(joined.client), give(joined.upstream)
    )
    sent = hashlib.blake2b(block * (size // len(block))).digest()
    assert up == sent
    assert down == sent
    transfer = await joined.over()
    assert transfer[:2] == (joined.client.sent, joined.upstream.sent)
    assert transfer.end == "closed"


PIECES = st.lists(st.binary(min_size=1, max_size=200) | st.integers(1, 200_000).map(os.urandom), max_size=6)


@pytest.mark.parametrize("setup", [setup for setup in FASTEST if setup.runs_here], ids=str)
@settings(max_examples=12, deadline=None)
@given(up=PIECES, down=PIECES)
def test_whatever_is_written_in_whatever_pieces_arrives_in_order(setup, up, down):
    async def exchange(bench):
        joined = await bench.join(unread=b"first")

        async def give(peer, pieces):
            for piece in pieces:
                await peer.send(piece)
                await asyncio.sleep(0)
            await peer.end()

        got_up, got_down, _, _ = await together(
            joined.upstream.receive_all(),
            joined.client.receive_all(),
            give(joined.client, up),
            give(joined.upstream, down),
        )
        assert got_up == b"first" + b"".join(up)
        assert got_down == b"".join(down)
        transfer = await joined.over()
        assert (transfer.bytes_up, transfer.bytes_down, transfer.end) == (len(got_up), len(got_down), "closed")

    run_setup(setup, exchange)


@on_every_setup
async def test_bytes_put_back_come_first(bench):
    joined = await bench.join(unread=b"read too far")
    assert await joined.upstream.receive(12) == b"read too far"
    await joined.client.send(b", and on")
    assert await joined.upstream.receive(8) == b", and on"
    assert await end_in_order(joined) == Transfer(20, 0, "client", "closed")


@on_every_setup
async def test_bytes_put_back_on_the_upstream_come_first_too(bench):
    joined = await bench.join(upstream_unread=b"a greeting")
    assert await joined.client.receive(10) == b"a greeting"
    assert await end_in_order(joined) == Transfer(0, 10, "client", "closed")


@on_every_setup
async def test_bytes_put_back_come_first_though_the_upstream_takes_nothing_yet(bench):
    full = Filled()
    joined = await bench.join(unread=b"A" * 50_000, buffer=SMALL_BUFFER, before=full)
    sending = asyncio.ensure_future(joined.client.send(b"B" * 50_000))
    await until(lambda: joined.tunnel.up.blocked)
    assert joined.tunnel.bytes_up < 50_000
    assert await joined.upstream.receive(full.size) == b"." * full.size
    assert await joined.upstream.receive(100_000) == b"A" * 50_000 + b"B" * 50_000
    await sending
    assert await end_in_order(joined) == Transfer(100_000, 0, "client", "closed")


@on([setup for setup in EVERY if setup.engine != "splice"])
async def test_a_flow_whose_turn_is_over_goes_on_with_what_no_event_announces(bench, monkeypatch):
    monkeypatch.setattr(copying, "TURN_READS", 1)
    joined = await bench.join()
    payload = os.urandom(60_000)  # several TLS records, which arrive together
    await joined.client.send(payload)
    joined.client.wait_until_delivered()
    assert await joined.upstream.receive(len(payload)) == payload
    assert await end_in_order(joined) == Transfer(len(payload), 0, "client", "closed")


# --- half-close ---------------------------------------------------------------------------------------------------


@on_every_setup
@pytest.mark.parametrize("first", ["client", "upstream"])
async def test_one_half_ends_and_the_other_goes_on(bench, first):
    joined = await bench.join()
    one, other = (joined.client, joined.upstream) if first == "client" else (joined.upstream, joined.client)
    await one.send(b"question")
    await one.end()
    assert await other.receive_all() == b"question"
    for number in range(20):
        await other.send(b"answer %2d" % number)
        assert await one.receive(9) == b"answer %2d" % number
    assert not joined.task.done()
    await other.send(b"x" * 300_000)
    await other.end()
    assert await one.receive_all() == b"x" * 300_000
    transfer = await joined.over()
    assert (transfer.closed_by, transfer.end) == (first, "closed")
    assert sorted(transfer[:2]) == [8, 300_180]


@on_every_setup
@pytest.mark.parametrize("first", ["client", "upstream"])
async def test_an_end_behind_a_full_buffer_is_passed_on_after_the_bytes(bench, first):
    joined = await bench.join(buffer=SMALL_BUFFER)
    one, other = (joined.client, joined.upstream) if first == "client" else (joined.upstream, joined.client)
    payload = os.urandom(held_at_most(bench.setup))

    async def give():
        await one.send(payload)
        await one.end()

    giving = asyncio.ensure_future(give())
    await at_rest(lambda: one.sent)
    for number in range(10):  # the other way is open all the time
        await other.send(b"still here")
        assert await one.receive(10) == b"still here", number
    received, _ = await together(other.receive_all(), giving)
    assert received == payload
    await other.end()
    assert await one.receive_all() == b""
    transfer = await joined.over()
    assert (transfer.closed_by, transfer.end) == (first, "closed")


@on_every_setup
async def test_both_ends_at_once_with_data_in_flight_both_ways(bench):
    joined = await bench.join(buffer=SMALL_BUFFER)
    up, down = os.urandom(700_000), os.urandom(900_000)

    async def give(peer, payload):
        await peer.send(payload)
        await peer.end()

    got_up, got_down, _, _ = await together(
        joined.upstream.receive_all(), joined.client.receive_all(), give(joined.client, up), give(joined.upstream, down)
    )
    assert got_up == up
    assert got_down == down
    assert (await joined.over()).end == "closed"


class Narrow:
    """A real socket that takes at most `room` bytes; None: what the kernel takes."""

    def __init__(self, sock):
        self._sock = sock
        self.room = None

    def __getattr__(self, name):
        return getattr(self._sock, name)

    def send(self, data):
        if self.room is None:
            return self._sock.send(data)
        if not self.room:
            raise BlockingIOError
        taken = self._sock.send(data[: self.room])
        self.room -= taken
        return taken


@on([setup for setup in EVERY if setup.tls])
@pytest.mark.parametrize("client_ended", [False, True])
@pytest.mark.parametrize("room", [0, 10])
async def test_a_close_notify_that_does_not_fit_yet_is_sent_later(bench, client_ended, room):
    narrow = None

    def wrap(client, _upstream):
        nonlocal narrow
        narrow = client.tcp.sock = Narrow(client.tcp.sock)

    joined = await bench.join(before=wrap)
    await joined.upstream.send(b"x" * 1000)
    assert await joined.client.receive(1000) == b"x" * 1000
    if client_ended:
        await joined.client.end()
        assert await joined.upstream.receive_all() == b""
    narrow.room = room
    await joined.upstream.end()
    await until(lambda: joined.tunnel.down.blocked, "the end waits")
    assert not joined.task.done()
    narrow.room = None
    assert await joined.client.receive_all() == b""
    if not client_ended:
        await joined.client.end()
    assert (await joined.over()).end == "closed"


# --- back-pressure ------------------------------------------------------------------------------------------------


@on_every_setup
@pytest.mark.parametrize("reader", ["upstream", "client"])
async def test_a_reader_that_stalls_holds_the_writer_up(bench, reader):
    joined = await bench.join(buffer=SMALL_BUFFER)
    writer, reader = (joined.client, joined.upstream) if reader == "upstream" else (joined.upstream, joined.client)
    bound = held_at_most(bench.setup)
    payload = os.urandom(64 * 1024) * (3 * bound // (64 * 1024))
    sending = asyncio.ensure_future(writer.send(payload))
    accepted = await at_rest(lambda: writer.sent)
    assert writer.waits_to_send
    assert 0 < accepted <= bound
    await reader.send(b"the other way is free")
    assert await writer.receive(21) == b"the other way is free"
    assert await reader.receive(len(payload)) == payload
    await sending
    assert (await end_in_order(joined)).end == "closed"


@on_every_engine
async def test_both_readers_stall_at_once_and_then_everything_arrives(bench):
    joined = await bench.join(buffer=SMALL_BUFFER)
    bound = held_at_most(bench.setup)
    payload = os.urandom(2 * bound)
    sending = [asyncio.ensure_future(peer.send(payload)) for peer in (joined.client, joined.upstream)]
    await at_rest(lambda: (joined.client.sent, joined.upstream.sent))
    assert joined.tunnel.up.blocked
    assert joined.tunnel.down.blocked
    assert max(joined.client.sent, joined.upstream.sent) <= bound
    up, down = await together(joined.upstream.receive(len(payload)), joined.client.receive(len(payload)))
    assert up == payload
    assert down == payload
    await together(*sending)
    assert await end_in_order(joined) == Transfer(len(payload), len(payload), "client", "closed")


@on_every_engine
async def test_a_stalled_tunnel_costs_no_time(bench):
    joined = await bench.join(buffer=SMALL_BUFFER)
    payload = bytes(2 * held_at_most(bench.setup))
    sending = [asyncio.ensure_future(peer.send(payload)) for peer in (joined.client, joined.upstream)]
    await at_rest(lambda: (joined.client.sent, joined.upstream.sent))
    calls = 0
    pump = type(joined.tunnel.up).pump

    class Counting(type(joined.tunnel.up)):
        __slots__ = ()

        def pump(self):
            nonlocal calls
            calls += 1
            return pump(self)

    joined.tunnel.up.__class__ = joined.tunnel.down.__class__ = Counting
    await asyncio.sleep(SHORT_S)
    assert calls == 0
    joined.tunnel.cut("cut")
    await joined.over()
    for task in sending:
        task.cancel()
    await asyncio.gather(*sending, return_exceptions=True)


# --- breakage -----------------------------------------------------------------------------------------------------


@on_every_setup
async def test_a_client_that_resets_is_a_reset_for_the_upstream(bench):
    joined = await bench.join()
    await joined.client.send(b"last words")
    assert await joined.upstream.receive(10) == b"last words"
    joined.client.reset()
    with pytest.raises(BROKEN):
        await joined.upstream.receive_all()
    assert await joined.over() == Transfer(10, 0, "client", "client_reset")


@on_every_setup
async def test_a_client_that_resets_in_the_middle_of_a_download_ends_it_at_once(bench):
    joined = await bench.join(buffer=SMALL_BUFFER)

    async def pour():
        while True:
            await joined.upstream.send(bytes(COPY_BYTES))

    pouring = asyncio.ensure_future(pour())
    await joined.client.receive(1_000_000)
    started = bench.loop.time()
    joined.client.reset()
    with pytest.raises(BROKEN):
        await pouring
    transfer = await joined.over()
    assert (transfer.closed_by, transfer.end) == ("client", "client_reset")
    assert bench.loop.time() - started < tunnel_module.LINGER_S / 2


@on_every_setup
async def test_an_upstream_that_resets_in_the_middle_of_an_upload_ends_it_at_once(bench):
    joined = await bench.join(buffer=SMALL_BUFFER)

    async def pour():
        while True:
            await joined.client.send(bytes(COPY_BYTES))

    pouring = asyncio.ensure_future(pour())
    await joined.upstream.receive(1_000_000)
    started = bench.loop.time()
    joined.upstream.reset()
    with pytest.raises(BROKEN):
        await pouring
    transfer = await joined.over()
    assert (transfer.closed_by, transfer.end) == ("upstream", "upstream_reset")
    assert bench.loop.time() - started < tunnel_module.LINGER_S / 2


@on_every_setup
@pytest.mark.parametrize("size", [1, 20_000])
async def test_all_that_an_upstream_sent_before_its_reset_reaches_the_client(bench, size):
    joined = await bench.join()
    payload = os.urandom(size)
    await joined.upstream.send(payload)  # without a turn of the loop: the tunnel finds bytes and reset together
    joined.upstream.wait_until_delivered()
    joined.upstream.reset()
    assert joined.tunnel.bytes_down == 0
    assert await joined.client.receive(size) == payload
    with pytest.raises(BROKEN):
        await joined.client.receive_all()
    assert await joined.over() == Transfer(0, size, "upstream", "upstream_reset")


@on_every_setup
async def test_all_that_an_upstream_sent_before_its_reset_reaches_a_slow_client(bench):
    joined = await bench.join(buffer=SMALL_BUFFER)
    payload = os.urandom(600_000)
    sending = asyncio.ensure_future(joined.upstream.send(payload))
    await at_rest(lambda: joined.upstream.sent)
    carried = joined.upstream.sent
    await until(lambda: joined.tunnel.down.blocked or sending.done())
    joined.upstream.reset()
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)
    received = b""
    try:
        while data := await joined.client.receive_some():
            received += data
    except BROKEN:
        pass
    transfer = await joined.over()
    assert (transfer.closed_by, transfer.end) == ("upstream", "upstream_reset")
    # A reset destroys what the upstream's own kernel had not sent yet. All that the tunnel took must arrive.
    assert transfer.bytes_down <= carried
    assert len(received) == transfer.bytes_down
    assert payload.startswith(received)


@on_every_setup
@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_response_survives_an_upstream_that_leaves_during_the_upload(bench, how):
    end = "closed" if how == "close" else "upstream_reset"  # it had ended in order, before it went away
    joined = await bench.join(buffer=SMALL_BUFFER)
    response = os.urandom(150_000)  # more than the client's own kernel takes, so some of it is still under way

    async def upload():
        while True:
            await joined.client.send(bytes(COPY_BYTES))

    uploading = asyncio.ensure_future(upload())
    await joined.upstream.receive(100_000)
    await joined.upstream.send(response)
    await until(lambda: joined.tunnel.bytes_down == len(response), "the tunnel took all of the response")
    if how == "close":
        await joined.upstream.end()
        joined.upstream.close()  # over unread bytes: the kernel sends a reset behind the end
    else:
        joined.upstream.reset()
    await until(lambda: joined.tunnel.up.broken or joined.task.done(), "the tunnel noticed")
    received = b""
    try:
        while data := await joined.client.receive_some():
            received += data
    except BROKEN:
        pass
    assert len(received) == len(response)
    assert received == response
    uploading.cancel()
    await asyncio.gather(uploading, return_exceptions=True)
    joined.client.close()
    transfer = await joined.over()
    assert (transfer.bytes_down, transfer.closed_by, transfer.end) == (len(response), "upstream", end)


@on_every_engine
async def test_a_client_that_never_takes_what_is_under_way_is_given_up(bench, monkeypatch):
    monkeypatch.setattr(tunnel_module, "LINGER_S", SHORT_S)
    joined = await bench.join(buffer=SMALL_BUFFER)
    await joined.upstream.send(bytes(150_000))
    await until(lambda: joined.tunnel.bytes_down == 150_000)
    joined.upstream.reset()
    assert await joined.over() == Transfer(0, 150_000, "upstream", "upstream_reset")


@on_every_setup
async def test_an_orderly_end_is_passed_on_as_one_though_a_write_found_the_upstream_gone(bench):
    """The upstream answers, ends, and leaves over unread bytes. The tunnel meets that first when it writes the next ones."""
    joined = await bench.join()
    await joined.client.send(b"request")
    await until(lambda: joined.tunnel.bytes_up == 7)
    # From here to the next `await` that waits the tunnel has no turn, and then finds the client's bytes first.
    await joined.client.send(b"more")
    await joined.upstream.send(b"response")
    await joined.upstream.end()
    joined.upstream.close()
    assert await joined.client.receive_all() == b"response"
    joined.client.close()
    transfer = await joined.over()
    assert (transfer.bytes_down, transfer.closed_by) == (8, "upstream")


@on([setup for setup in EVERY if setup.tls])
async def test_a_close_notify_that_never_fits_does_not_keep_a_dead_tunnel(bench, monkeypatch):
    """As above, but the client takes the answer and not a byte more."""
    monkeypatch.setattr(tunnel_module, "LINGER_S", SHORT_S)
    narrow = None

    def wrap(client, _upstream):
        nonlocal narrow
        narrow = client.tcp.sock = Narrow(client.tcp.sock)

    joined = await bench.join(before=wrap)
    await joined.client.send(b"request")
    await until(lambda: joined.tunnel.bytes_up == 7)
    narrow.room = 5 + 8 + 1 + 16  # one record of TLS 1.3: header, "response", its type, tag
    await joined.client.send(b"more")
    await joined.upstream.send(b"response")
    await joined.upstream.end()
    joined.upstream.close()
    transfer = await joined.over()
    assert (transfer.bytes_down, transfer.closed_by) == (8, "upstream")


@on_every_setup
async def test_a_client_that_reads_nothing_from_a_dead_upstream_has_the_half_close_time(bench):
    bench.configure(half_close_s=SHORT_S)
    joined = await bench.join(buffer=SMALL_BUFFER)
    sending = asyncio.ensure_future(joined.upstream.send(bytes(2 * held_at_most(bench.setup))))
    await at_rest(lambda: joined.upstream.sent)
    assert joined.tunnel.down.blocked
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)
    joined.upstream.reset()
    while not (joined.tunnel.up.broken or joined.task.done()):
        await joined.client.send(b"a")  # the upstream is not read at the moment: only a write can find out
        await asyncio.sleep(0)
    transfer = await joined.over()
    assert (transfer.bytes_down, transfer.closed_by, transfer.end) == (
        joined.tunnel.bytes_down,
        "proxy",
        "half_close_timeout",
    )


@on_every_setup
async def test_an_upstream_that_stops_reading_does_not_cut_the_response_short(bench):
    joined = await bench.join()
    await joined.client.send(b"request")
    assert await joined.upstream.receive(7) == b"request"
    await joined.upstream.send(b"response")
    await joined.upstream.end()
    joined.upstream.close()
    assert await joined.client.receive_all() == b"response"
    for _ in range(20):  # into a closed socket, for a while
        await joined.client.send(b"more of the upload")
    await joined.client.end()
    transfer = await joined.over()
    assert transfer.bytes_down == 8
    assert transfer.closed_by == "upstream"


@on_every_engine
async def test_bytes_for_nobody_are_read_for_a_bounded_time(bench):
    joined = await bench.join()
    await joined.upstream.send(b"all there is")
    await joined.upstream.end()
    joined.upstream.close()
    assert await joined.client.receive_all() == b"all there is"

    async def upload():
        while True:
            await joined.client.send(bytes(1000))
            await asyncio.sleep(0)

    with pytest.raises(BROKEN):
        await upload()
    transfer = await joined.over()
    assert (transfer.closed_by, transfer.end) == ("upstream", "closed")


WHO = st.sampled_from(["client", "upstream"])
ACTS = st.tuples(
    WHO,
    st.one_of(
        st.tuples(st.just("send"), st.integers(1, 300_000)),
        st.tuples(st.just("take"), st.integers(1, 300_000)),
        st.tuples(st.sampled_from(["end", "reset", "close", "turns"]), st.integers(1, 5)),
    ),
)


@pytest.mark.parametrize("setup", [setup for setup in FASTEST if setup.runs_here], ids=str)
@settings(max_examples=CHAOS_EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(acts=st.lists(ACTS, max_size=12))
def test_whatever_peers_do_nothing_is_made_up_and_nothing_is_left(setup, monkeypatch, acts):
    """Both send, read, end, leave and reset as they like: what arrives is how the other began, and all of it when in order."""
    monkeypatch.setattr(tunnel_module, "LINGER_S", SHORT_S)

    async def story(bench):
        joined = await bench.join(buffer=SMALL_BUFFER)
        people = {"client": Player(joined.client), "upstream": Player(joined.upstream)}
        for who, (act, number) in acts:
            await people[who].act(act, number)
        await together(*(player.finish() for player in people.values()))
        transfer = await joined.over()
        client, upstream = people["client"], people["upstream"]
        assert bytes(client.said).startswith(bytes(upstream.heard))
        assert bytes(upstream.said).startswith(bytes(client.heard))
        assert len(upstream.heard) <= transfer.bytes_up <= len(client.said)
        assert len(client.heard) <= transfer.bytes_down <= len(upstream.said)
        if not client.left and not upstream.left:
            assert transfer.end == "closed"
            assert client.heard == upstream.said
            assert upstream.heard == client.said

    run_setup(setup, story)


class Player:
    """A peer that acts without a plan. `said`: what it wanted to send; `heard`: what it read."""

    def __init__(self, peer):
        self.peer = peer
        self.said = bytearray()
        self.heard = bytearray()
        self.sending = []
        self.ended = False
        self.left = False

    async def act(self, act, number):
        if self.left:
            return
        if act == "turns":
            await asyncio.sleep(0.001 * number)
        elif act == "send" and not self.ended:
            data = random.Random(len(self.said)).randbytes(number)
            self.said += data
            self._after_the_others(self.peer.send(data))
        elif act == "end" and not self.ended:
            self.ended = True
            self._after_the_others(self.peer.end())
        elif act == "take":
            await self._take(number)
        elif act in ("close", "reset"):
            self.left = True
            for task in self.sending:
                task.cancel()
            await asyncio.gather(*self.sending, return_exceptions=True)
            getattr(self.peer, act)()
        await asyncio.sleep(0)

    def _after_the_others(self, doing):
        async def in_turn(before):
            try:
                await asyncio.gather(*before)
                await doing
            except OSError:
                pass
            finally:
                doing.close()

        self.sending.append(asyncio.ensure_future(in_turn(self.sending[-1:])))

    async def _take(self, number):
        try:
            async with asyncio.timeout(0.002):
                self.heard += await self.peer.receive_some(number)
        except (TimeoutError, *BROKEN):
            pass

    async def finish(self):
        """Read the rest, end, and go."""
        if self.left:
            return
        await self.act("end", 1)
        try:
            while data := await self.peer.receive_some():
                self.heard += data
        except BROKEN:
            self.left = True
        await asyncio.gather(*self.sending)


@on([setup for setup in FASTEST if setup.engine == "tls-client"])
async def test_a_flood_of_tiny_records_leaves_the_loop_to_others(bench):
    """Each byte is a TLS record of its own, and all of them lie in the socket before the first is read."""
    joined = await bench.join()
    engine, tiny = joined.client.tls, 4000
    for _ in range(tiny):
        engine.write(b".")
    turns = 0

    def another_turn():
        nonlocal turns
        turns += 1
        if not counted.done():
            bench.loop.call_soon(another_turn)

    counted = bench.loop.create_future()
    another_turn()
    sending = asyncio.ensure_future(joined.client._push())
    assert await joined.upstream.receive(tiny) == b"." * tiny
    counted.set_result(None)
    assert turns >= tiny // (3 * TURN_READS)  # an event and a turn of its own may fall into one round of the loop
    await sending
    assert (await end_in_order(joined)).bytes_up == tiny


# --- time ---------------------------------------------------------------------------------------------------------


@on_every_engine
async def test_an_idle_tunnel_ends(bench):
    bench.configure(idle_s=SHORT_S)
    started = bench.loop.time()
    joined = await bench.join()
    assert await joined.over() == Transfer(0, 0, "proxy", "idle_timeout")
    assert bench.loop.time() - started >= SHORT_S * 0.9


@on_every_engine
async def test_a_tunnel_may_have_a_life_of_its_own_that_no_activity_makes_longer(bench):
    bench.configure(lifetime_s=4 * SHORT_S)
    started = bench.loop.time()
    joined = await bench.join()
    while not joined.task.done():
        try:
            await joined.client.send(b".")
            await joined.upstream.receive(1)
        except (OSError, EOFError, AssertionError):
            break  # it is over
        await asyncio.sleep(SHORT_S / 5)
    assert (await joined.over()).end == "lifetime"
    assert bench.loop.time() - started >= 3.5 * SHORT_S


@on_every_engine
@pytest.mark.parametrize("who", ["client", "upstream"])
async def test_activity_either_way_moves_the_idle_timeout(bench, who):
    bench.configure(idle_s=4 * SHORT_S)
    joined = await bench.join()
    one, other = (joined.client, joined.upstream) if who == "client" else (joined.upstream, joined.client)
    started = bench.loop.time()
    while bench.loop.time() - started < 6 * SHORT_S:
        await one.send(b".")
        await other.receive(1)
        last = bench.loop.time()
        await asyncio.sleep(SHORT_S / 5)
    assert not joined.task.done()
    assert (await joined.over()).end == "idle_timeout"
    assert bench.loop.time() - last >= 3.5 * SHORT_S


@on_every_engine
@pytest.mark.parametrize("first", ["client", "upstream"])
async def test_half_a_tunnel_ends_sooner(bench, first):
    bench.configure(half_close_s=SHORT_S)
    joined = await bench.join()
    await (joined.client if first == "client" else joined.upstream).end()
    assert await joined.over() == Transfer(0, 0, "proxy", "half_close_timeout")


@on_every_engine
async def test_activity_moves_the_half_close_timeout(bench):
    bench.configure(half_close_s=4 * SHORT_S)
    joined = await bench.join()
    await joined.client.end()
    assert await joined.upstream.receive_all() == b""
    started = bench.loop.time()
    while bench.loop.time() - started < 6 * SHORT_S:
        await joined.upstream.send(b".")
        await joined.client.receive(1)
        await asyncio.sleep(SHORT_S / 5)
    assert not joined.task.done()
    assert (await joined.over()).end == "half_close_timeout"


@on_every_engine
async def test_new_times_hold_for_open_tunnels_too(bench):
    joined = await bench.join()
    await asyncio.sleep(1.5 * SHORT_S)  # longer than the new time: it does not end by the change itself
    started = bench.loop.time()
    bench.configure(idle_s=SHORT_S)
    assert (await joined.over()).end == "idle_timeout"
    assert bench.loop.time() - started >= SHORT_S * 0.9
    bench.configure()
    other = await bench.join()
    await asyncio.sleep(2 * SHORT_S)
    assert not other.task.done()
    assert (await end_in_order(other)).end == "closed"


# --- ends from inside ---------------------------------------------------------------------------------------------


@on_every_setup
async def test_a_tunnel_can_be_cut(bench):
    joined = await bench.join()
    await joined.client.send(b"abc")
    assert await joined.upstream.receive(3) == b"abc"
    joined.tunnel.cut("drained")
    joined.tunnel.cut("again")
    assert await joined.over() == Transfer(3, 0, "proxy", "drained")


@on_every_engine
async def test_a_tunnel_that_was_cut_before_it_ran_does_not_run(bench):
    joined = await bench.join(before=lambda client, upstream: None)
    early = bench.relay.open(joined.client_stream, joined.upstream_stream)
    early.cut("drained")
    joined.tunnel.cut("cut")
    await joined.over()
    assert early not in bench.relay.tunnels


@on_every_engine
async def test_all_tunnels_can_be_cut_at_once(bench):
    several = [await bench.join() for _ in range(5)]
    assert bench.relay.cut_all("drained") == 5
    for joined in several:
        assert await joined.over() == Transfer(0, 0, "proxy", "drained")
    assert bench.relay.cut_all("drained") == 0


@on_every_setup
@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
async def test_a_cancelled_tunnel_leaves_nothing(bench, busy):
    joined = await bench.join(buffer=SMALL_BUFFER)
    tasks = []
    if busy:
        payload = bytes(8 * 1024 * 1024)
        for peer in (joined.client, joined.upstream):
            tasks.append(asyncio.ensure_future(peer.send(payload)))
            tasks.append(asyncio.ensure_future(peer.receive(len(payload))))
        await until(lambda: joined.tunnel.bytes_up and joined.tunnel.bytes_down)
    joined.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await joined.over()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.sleep(0)
    await asyncio.sleep(0)


@on([setup for setup in EVERY if setup.engine != "splice"])
async def test_a_cancelled_tunnel_that_was_about_to_go_on_leaves_nothing(bench, monkeypatch):
    """A flow that ended its turn early goes on in the next turn of the loop, without an event."""
    monkeypatch.setattr(copying, "TURN_READS", 1)
    joined = await bench.join()
    payload = bytes(4 * 1024 * 1024)
    tasks = [
        asyncio.ensure_future(joined.client.send(payload)),
        asyncio.ensure_future(joined.upstream.receive(len(payload))),
    ]
    await until(lambda: joined.tunnel.bytes_up)
    while not joined.tunnel.up.more():  # noqa: ASYNC110 - the very next turn of the loop matters
        await asyncio.sleep(0)
    joined.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await joined.over()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@on([setup for setup in EVERY if setup.engine != "tls-both"])  # a TLS upstream is closed by the tunnel's task itself
async def test_a_number_that_is_used_again_at_once_is_left_alone(bench):
    """A reset closes the other side inside the event; the number may be somebody else's before the tunnel's own task runs."""
    joined = await bench.join()
    upstream = joined.upstream_stream
    number = upstream.fd
    joined.client.reset()
    while upstream.fd >= 0:  # noqa: ASYNC110 - the very next turn of the loop matters
        await asyncio.sleep(0)
    with as_number(number) as other:
        ready = Signal()
        bench.poller.watch_once(number, READ, ready.fire)
        await joined.over()
        other.send(b"x")
        async with asyncio.timeout(5):
            await ready
        bench.poller.forget(number)


# --- pipes --------------------------------------------------------------------------------------------------------


@on_splice
async def test_large_transfers_take_a_pipe_and_give_it_back(bench):
    joined = await bench.join()
    payload = bytes(LARGE)
    received, _ = await together(joined.upstream.receive(LARGE), joined.client.send(payload))
    assert received == payload
    assert bench.relay.pipes.made == 1
    assert (await end_in_order(joined)).bytes_up == LARGE


@on_splice
async def test_without_a_pipe_to_be_had_bytes_are_copied(bench):
    bench.relay.pipes = PipePool(limit=0)
    joined = await bench.join()
    payload = os.urandom(1024 * 1024) * 8
    up, down, _, _ = await together(
        joined.upstream.receive(len(payload)),
        joined.client.receive(len(payload)),
        joined.client.send(payload),
        joined.upstream.send(payload),
    )
    assert up == payload
    assert down == payload
    assert bench.relay.pipes.made == 0
    assert await end_in_order(joined) == Transfer(len(payload), len(payload), "client", "closed")


@on_splice
async def test_a_pipe_with_bytes_of_a_cut_tunnel_never_serves_another(bench):
    bench.relay.pipes = PipePool(limit=1)
    joined = await bench.join(buffer=SMALL_BUFFER)
    sending = asyncio.ensure_future(joined.client.send(b"S" * 4 * held_at_most(bench.setup)))
    await at_rest(lambda: joined.client.sent)
    assert bench.relay.pipes.made == 1
    joined.tunnel.cut("cut")
    await joined.over()
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)
    assert bench.relay.pipes.made == 0
    other = await bench.join()
    payload = os.urandom(1024 * 1024) * 4
    received, _ = await together(other.upstream.receive(len(payload)), other.client.send(payload))
    assert received == payload
    assert bench.relay.pipes.made == 1
    assert (await end_in_order(other)).bytes_up == len(payload)


class Endless:
    """A socket that always has more to read, and takes all."""

    def recv_into(self, buffer):
        return len(buffer)

    def recv(self, size):
        return bytes(size)

    def send(self, data):
        return len(data)

    def fileno(self):
        return -1


@pytest.mark.parametrize("engine", ["splice", "copy"])
def test_a_source_that_never_pauses_leaves_the_others_their_turn(engine):
    """No pipe is to be had: the case in which nothing else bounds what one event moves."""
    one, other = (TcpStream(Endless(), None, "192.0.2.1", 443) for _ in range(2))
    flow = SpliceFlow(one, other, PipePool(limit=0)) if engine == "splice" else CopyFlow(one, other)
    flow.pump()
    assert flow.carried == TURN_BYTES
    flow.pump()
    assert flow.carried == 2 * TURN_BYTES
