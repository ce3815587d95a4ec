"""Clients whose connections are short, and end in every way that one can end."""

from __future__ import annotations

import random
import socket
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from soak.apart import Line
from soak.echoes import BREAK, ECHO_AND_BREAK, END
from soak.sockets import dial, exactly, reset, to_the_end
from support.clients import ESTABLISHED, connect_head

NAMES = 8
"""Of each kind's targets: `0.KIND.soak.test` and so on."""

BULK = bytes(1 << 20)


class Places(NamedTuple):
    """proxy: its port. origin: the port of one that echoes. closed: a port where nobody listens."""

    proxy: int
    origin: int
    closed: int


class _Client:
    """Makes connections of every kind, and checks what the client sees of each."""

    def __init__(self, places: Places, source: str) -> None:
        self.places = places
        self.source = source
        self.number = 0

    def target(self, kind: str, port: int | None = None) -> str:
        self.number += 1
        return f"{self.number % NAMES}.{kind}.soak.test:{port or self.places.origin}"

    def head(self, kind: str, port: int | None = None) -> bytes:
        return connect_head(self.target(kind, port))

    def echoed(self, kind: str, byte: bytes) -> socket.socket:
        sock = dial(self.places.proxy, self.source)
        sock.sendall(self.head(kind))
        assert (reply := exactly(sock, len(ESTABLISHED))) == ESTABLISHED, reply
        sock.send(byte)
        assert (echo := exactly(sock, 1)) == byte, echo
        return sock

    def client_ends(self) -> None:
        with self.echoed("client-ends", b"!"):
            pass

    def eager(self) -> None:
        with dial(self.places.proxy, self.source) as sock:
            sock.sendall(self.head("eager") + b"!")
            reply = exactly(sock, len(ESTABLISHED) + 1)
            assert reply == ESTABLISHED + b"!", reply

    def origin_ends(self) -> None:
        with self.echoed("origin-ends", END) as sock:
            assert not to_the_end(sock)

    def client_resets(self) -> None:
        reset(self.echoed("client-resets", b"!"))

    def origin_resets(self) -> None:
        with self.echoed("origin-resets", b"!") as sock:
            sock.send(BREAK)
            self._expect_reset(sock)

    def origin_resets_at_once(self) -> None:
        """Right behind a byte that the client must still get."""
        with self.echoed("origin-resets-at-once", ECHO_AND_BREAK) as sock:
            self._expect_reset(sock)

    def _expect_reset(self, sock: socket.socket) -> None:
        try:
            end = sock.recv(1)
        except ConnectionResetError:
            return
        raise AssertionError(f"an upstream's reset came as {end!r}")

    def leaves_in_bulk(self) -> None:
        """While the tunnel has the pipes full, both ways."""
        sock = self.echoed("leaves-in-bulk", b"!")
        sock.sendall(BULK)
        sock.recv(65_536)
        reset(sock)

    def leaves_early(self) -> None:
        sock = dial(self.places.proxy, self.source)
        sock.sendall(self.head("leaves-early"))
        reset(sock)

    def refused(self) -> None:
        self._answered(self.head("refused"), b"HTTP/1.1 403 ")

    def closed_port(self) -> None:
        self._answered(self.head("closed-port", self.places.closed), b"HTTP/1.1 503 ")

    def no_name(self) -> None:
        self._answered(self.head("no-name"), b"HTTP/1.1 503 ")

    def malformed(self) -> None:
        self._answered(b"CONNECT \x16\x03\x01 HTTP/9.9\r\n\r\n", b"HTTP/1.1 400 ")

    def half_a_head(self) -> None:
        with dial(self.places.proxy, self.source) as sock:
            sock.sendall(self.head("half-a-head")[:40])

    def _answered(self, request: bytes, expected: bytes) -> None:
        with dial(self.places.proxy, self.source) as sock:
            sock.sendall(request)
            reply = to_the_end(sock)
            assert reply.startswith(expected), reply


KINDS: dict[str, tuple[int, Callable[[_Client], None], frozenset[str]]] = {
    "client-ends": (30, _Client.client_ends, frozenset({"closed"})),
    "eager": (10, _Client.eager, frozenset({"closed"})),
    "origin-ends": (10, _Client.origin_ends, frozenset({"closed"})),
    "client-resets": (10, _Client.client_resets, frozenset({"client_reset"})),
    "origin-resets": (9, _Client.origin_resets, frozenset({"upstream_reset"})),
    "origin-resets-at-once": (1, _Client.origin_resets_at_once, frozenset({"upstream_reset"})),
    "leaves-in-bulk": (1, _Client.leaves_in_bulk, frozenset({"client_reset", "upstream_reset"})),
    "leaves-early": (4, _Client.leaves_early, frozenset({"client_gone", "client_reset"})),
    "refused": (8, _Client.refused, frozenset({"rule_denied"})),
    "closed-port": (5, _Client.closed_port, frozenset({"connect_refused"})),
    "no-name": (4, _Client.no_name, frozenset({"name_not_found"})),
    "malformed": (5, _Client.malformed, frozenset({"malformed_request"})),
    "half-a-head": (3, _Client.half_a_head, frozenset({"client_gone"})),
}
"""Of 100 connections so many are of this kind; how it is made; the outcomes it may have in the log."""


def client(line: Line, places: Places, source: str, portions: list[int]) -> None:
    """Make so many connections, one after the other, kinds drawn by lot; say how many of each; wait for a word; make more."""
    me = _Client(places, source)
    draw = random.Random(source)
    for connections in portions:
        drawn = draw.choices(list(KINDS), [share for share, _, _ in KINDS.values()], k=connections)
        for kind in drawn:
            KINDS[kind][1](me)
        line.say(Counter(drawn))
        line.hear()
