"""Both ends of tunnels in which one direction ends first, and the other carries on."""

from __future__ import annotations

import random
import socket
import struct
from typing import NamedTuple

from soak.apart import Line
from soak.sockets import WAIT_S, bounded, exactly, open_tunnel, to_the_end

SIZES = (0, 1, 1_000, 65_536, 65_537, 400_000)
"""Of what comes before the end and of what comes after, in every combination: one read, one full read, many reads."""
CLIENT, ORIGIN = 0, 1
_NUMBER = struct.Struct("!I")
_BYTES = random.Random("half-close").randbytes(max(SIZES) + 65_536)


class Plan(NamedTuple):
    """Of one tunnel, by its number. first: CLIENT or ORIGIN, who ends first."""

    number: int
    first: int
    before: int
    after: int

    @classmethod
    def of(cls, number: int) -> Plan:
        turn, first = divmod(number, 2)
        return cls(number, first, SIZES[turn % len(SIZES)], SIZES[turn // len(SIZES) % len(SIZES)])

    @property
    def said_before(self) -> bytes:
        return _bytes(self.number, self.before)

    @property
    def said_after(self) -> bytes:
        return _bytes(self.number + 7, self.after)

    @property
    def carried(self) -> tuple[int, int]:
        """Bytes up and down."""
        up, down = (self.before, self.after) if self.first == CLIENT else (self.after, self.before)
        return _NUMBER.size + up, down


def origin(line: Line, tunnels: int) -> int:
    """Serve so many, one after the other; how many went as planned. Says its port first."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        line.say(listening.getsockname()[1])
        listening.settimeout(WAIT_S)
        for number in range(tunnels):
            with bounded(listening.accept()[0]) as sock:
                (came,) = _NUMBER.unpack(exactly(sock, _NUMBER.size))
                assert came == number, f"tunnel {came} came in place of {number}"
                _play(sock, Plan.of(number), ORIGIN)
    return tunnels


def client(line: Line, proxy: int, target: str, tunnels: int) -> int:
    """Open so many, one after the other; how many went as planned."""
    for number in range(tunnels):
        with open_tunnel(proxy, target) as sock:
            sock.sendall(_NUMBER.pack(number))
            _play(sock, Plan.of(number), CLIENT)
    return tunnels


def _play(sock: socket.socket, this: Plan, me: int) -> None:
    """The one that ends first says what it has, ends, and then listens to what the other has to say after that end."""
    if this.first == me:
        sock.sendall(this.said_before)
        sock.shutdown(socket.SHUT_WR)
        _check(to_the_end(sock), this.said_after, f"{this} after the end")
    else:
        _check(to_the_end(sock), this.said_before, f"{this} before the end")
        sock.sendall(this.said_after)
        sock.shutdown(socket.SHUT_WR)


def _check(got: bytes, expected: bytes, what: str) -> None:
    assert len(got) == len(expected), f"{what}: {len(got)} bytes came, expected {len(expected)}"
    assert got == expected, f"{what}: other bytes came"


def _bytes(offset: int, size: int) -> bytes:
    return _BYTES[offset % 65_536 :][:size]
