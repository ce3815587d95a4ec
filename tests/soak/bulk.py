"""Both ends of tunnels that carry much, hashed on either side.

Every MiB is the same pseudo-random block with its own number stamped into the front: what is lost, doubled or out of order
shows at the next stamp, and any other byte in the hash. A reader may stall on the way until the test lets it go on.
"""

from __future__ import annotations

import hashlib
import random
import socket
import struct
import threading
from typing import NamedTuple

from soak.apart import Line
from soak.sockets import WAIT_S, bounded, exactly, open_tunnel

MIB = 1 << 20
NEVER = 0xFFFFFFFF
TELL_S = 0.2
"""Between two words about how far it is."""
_PLAN = struct.Struct("!5I")
PLAN_BYTES = _PLAN.size
"""Sent up in front of everything: the tunnel's plan."""


class Plan(NamedTuple):
    """What one tunnel carries, in MiB, and after how many of them the reader stalls.

    up, up_stall      client to origin, the origin reads
    down, down_stall  origin to client, the client reads
    """

    number: int
    up: int
    down: int
    up_stall: int = NEVER
    down_stall: int = NEVER


class Progress(NamedTuple):
    """Of one end of one tunnel, in bytes. `stalled`: the reader waits to be told to go on."""

    sent: int
    received: int
    stalled: bool


class Ended(NamedTuple):
    """What one end of one tunnel sent and received: sha256."""

    sent: str
    received: str


def origin(line: Line, tunnels: int) -> dict[int, Ended]:
    """Accept so many tunnels, then carry. Says its port first."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        line.say(listening.getsockname()[1])
        listening.settimeout(WAIT_S)
        ends = []
        for _ in range(tunnels):
            sock = bounded(listening.accept()[0])
            plan = Plan(*_PLAN.unpack(exactly(sock, _PLAN.size)))
            ends.append(
                _End(
                    sock, plan.number, (plan.down, f"down {plan.number}"), (plan.up, f"up {plan.number}"), plan.up_stall
                )
            )
        return _carry(line, ends)


def client(line: Line, proxy: int, target: str, plans: list[Plan]) -> dict[int, Ended]:
    """Open the tunnels, then carry."""
    ends = []
    for plan in plans:
        sock = open_tunnel(proxy, target)
        sock.sendall(_PLAN.pack(*plan))
        ends.append(
            _End(sock, plan.number, (plan.up, f"up {plan.number}"), (plan.down, f"down {plan.number}"), plan.down_stall)
        )
    return _carry(line, ends)


def _carry(line: Line, ends: list[_End]) -> dict[int, Ended]:
    for end in ends:
        end.start()
    while any(end.at_work for end in ends):
        line.say({end.number: end.progress for end in ends})
        if line.hear(TELL_S) is not None:
            for end in ends:
                end.go_on.set()
        for end in ends:
            end.check()
    return {end.number: end.ended() for end in ends}


class _End:
    """One end of one tunnel: a thread that sends and one that receives. Hashing and system calls let go of the interpreter."""

    def __init__(
        self, sock: socket.socket, number: int, out: tuple[int, str], into: tuple[int, str], stall_after: int
    ) -> None:
        """`out`, `into`: MiB and the seed of their bytes."""
        self.number = number
        self.go_on = threading.Event()
        self._sock = sock
        self._sent = self._received = 0
        self._stalled = False
        self._hashes: dict[str, str] = {}
        self._failures: list[BaseException] = []
        self._threads = [
            threading.Thread(target=self._guard, args=(self._send, *out), daemon=True),
            threading.Thread(target=self._guard, args=(self._receive, *into, stall_after), daemon=True),
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    @property
    def at_work(self) -> bool:
        return any(thread.is_alive() for thread in self._threads)

    @property
    def progress(self) -> Progress:
        return Progress(self._sent, self._received, self._stalled)

    def check(self) -> None:
        """Raise what went wrong in one of its threads."""
        if self._failures:
            raise self._failures[0]

    def ended(self) -> Ended:
        self.check()
        self._sock.close()
        return Ended(self._hashes["sent"], self._hashes["received"])

    def _guard(self, work: object, *arguments: object) -> None:
        try:
            work(*arguments)  # type: ignore[operator]  # one of the two below
        except BaseException as failure:
            self._failures.append(failure)

    def _send(self, mebibytes: int, seed: str) -> None:
        block, digest = _block(seed), hashlib.sha256()
        for number in range(mebibytes):
            block[:8] = number.to_bytes(8)
            digest.update(block)
            left = memoryview(block)
            while left:
                sent = self._sock.send(left)
                self._sent += sent
                left = left[sent:]
        self._sock.shutdown(socket.SHUT_WR)
        self._hashes["sent"] = digest.hexdigest()

    def _receive(self, mebibytes: int, seed: str, stall_after: int) -> None:
        expected, digest = _block(seed), hashlib.sha256()
        buffer = bytearray(MIB)
        view = memoryview(buffer)
        for number in range(mebibytes):
            if number == stall_after:
                self._stalled = True
                self.go_on.wait()
                self._stalled = False
            at = 0
            while at < MIB:
                count = self._sock.recv_into(view[at:])
                assert count, f"{seed}: the end after {number} MiB and {at} bytes of {mebibytes} MiB"
                at += count
                self._received += count
            stamp = int.from_bytes(buffer[:8])
            assert stamp == number, f"{seed}: MiB {number} bears the number {stamp}; its other bytes are " + (
                "right" if buffer[8:] == expected[8:] else "wrong, too"
            )
            digest.update(buffer)
        assert not self._sock.recv(1), f"{seed}: more than {mebibytes} MiB came"
        self._hashes["received"] = digest.hexdigest()


def _block(seed: str) -> bytearray:
    return bytearray(random.Random(seed).randbytes(MIB))
