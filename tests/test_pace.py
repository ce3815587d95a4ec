"""How much of a body is read at a time, over real sockets; that others have their turn: tests/e2e/forwarding."""

from __future__ import annotations

import asyncio

import pytest
from support.peers import Peer, socket_pair, tcp_stream

from egressproxy import pace as module
from egressproxy.pace import PIECE_BYTES, SMALL_PIECE_BYTES, Pace
from egressproxy.poller import create_poller
from egressproxy.stories import Stories
from egressproxy.stream import StreamExpired


@pytest.fixture
async def pair():
    loop = asyncio.get_running_loop()
    poller = create_poller(loop)
    theirs, ours = socket_pair()
    peer, stream = Peer(theirs), tcp_stream(ours, poller)
    yield peer, stream, Stories(loop)
    stream.close()
    peer.close()
    poller.close()


async def test_a_body_of_known_length_is_read_in_large_pieces_and_one_in_chunks_in_small_ones_at_first(pair):
    peer, stream, stories = pair
    await peer.send(bytes(PIECE_BYTES))
    pace = Pace(stories, in_chunks=True)
    assert len(await pace.read(stream)) == SMALL_PIECE_BYTES
    pace.found(SMALL_PIECE_BYTES - 10, SMALL_PIECE_BYTES)  # large chunks
    assert len(await pace.read(stream)) > SMALL_PIECE_BYTES
    await peer.send(bytes(PIECE_BYTES))
    pace.found(10, 100)  # mostly framing
    assert len(await pace.read(stream)) == SMALL_PIECE_BYTES
    assert len(await Pace(stories, in_chunks=False).read(stream)) > SMALL_PIECE_BYTES


async def test_others_have_their_turn_between_two_reads_that_need_no_wait(pair, monkeypatch):
    peer, stream, stories = pair
    monkeypatch.setattr(module, "TURN_S", 0.0)
    turns = []
    pace = Pace(stories, in_chunks=False)
    for number in range(3):
        await peer.send(b"x")
        asyncio.get_running_loop().call_soon(turns.append, number)
        assert await pace.read(stream) == b"x"
        assert turns == list(range(number + 1))


async def test_a_deadline_that_passes_in_the_turn_of_others_ends_a_body_that_keeps_coming(pair, monkeypatch):
    peer, stream, stories = pair
    monkeypatch.setattr(module, "TURN_S", 0.0)
    await peer.send(b"more")
    asyncio.get_running_loop().call_soon(stream.expire)
    with pytest.raises(StreamExpired):
        await Pace(stories, in_chunks=False).read(stream)


async def test_it_waits_for_what_has_not_come(pair):
    peer, stream, stories = pair
    reading = asyncio.ensure_future(Pace(stories, in_chunks=False).read(stream))
    await asyncio.sleep(0)
    assert not reading.done()
    await peer.send(b"late")
    async with asyncio.timeout(5):
        assert await reading == b"late"
    await peer.end()
    assert await Pace(stories, in_chunks=False).read(stream) == b""
