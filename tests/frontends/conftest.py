"""A client at one end of a real connection, and the proxy's stream of it at the other."""

from __future__ import annotations

import asyncio
import fcntl
import struct
import termios
from collections.abc import AsyncIterator
from typing import NamedTuple

import pytest
from support.loops import left_open, open_descriptors
from support.peers import Peer, socket_pair, tcp_stream

from egressproxy.poller import create_poller
from egressproxy.stream import TcpStream
from egressproxy.telemetry.record import RecordDraft


class Ends(NamedTuple):
    peer: Peer
    stream: TcpStream
    draft: RecordDraft

    async def send_byte_by_byte(self, data: bytes) -> None:
        """Each byte is read before the next is sent."""
        for at in range(len(data)):
            await self.peer.send(data[at : at + 1])
            while self._waiting_bytes():  # noqa: ASYNC110 - the very next turn of the loop matters
                await asyncio.sleep(0)

    def _waiting_bytes(self) -> int:
        return int(struct.unpack("i", fcntl.ioctl(self.stream.fd, termios.FIONREAD, b"\0\0\0\0"))[0])


@pytest.fixture
async def ends() -> AsyncIterator[Ends]:
    """Nothing may be left watched, and no descriptor open."""
    before = open_descriptors()
    poller = create_poller(asyncio.get_running_loop())
    theirs, ours = socket_pair()
    peer, stream = Peer(theirs), tcp_stream(ours, poller)
    yield Ends(peer, stream, RecordDraft(1, "front", "front", stream.address, stream.port, 0.0))
    stream.close()
    peer.close()
    assert len(poller) == 0
    poller.close()
    assert left_open(before) == {}
