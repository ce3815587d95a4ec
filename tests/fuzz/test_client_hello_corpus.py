"""The fuzz target's invariant holds for hellos of all kinds, whole, cut, joined and overwritten."""

from __future__ import annotations

import random

import pytest
from fuzz.client_hello import check
from support.hellos import CAPTURES, alpn, browser_hello, hello, message_of, openssl_hello, record, records, server_name

WHOLE = [
    *(path.read_bytes() for path in CAPTURES),
    openssl_hello("www.example.test"),
    openssl_hello(None),
    browser_hello("www.example.test"),
    browser_hello("www.example.test", ech="inner"),
    browser_hello(None, ech=None),
    records(message_of(browser_hello("www.Example.test.")), 3, 1, 200),
    record(hello(server_name("a.example", "b.example"), alpn(b"h2"))),
    record(hello(server_name("192.0.2.1"), alpn(b"\0"))),
    record(hello(server_name("a.example", kind=1))),
    record(hello(block=b"")),
    b"",
    b"GET / HTTP/1.1\r\n\r\n",
    b"\x80\x2e\x01\x03\x01",
]
PIECES = [
    b"",
    b"\0",
    b"\xff",
    b"\0\0",
    b"\0\x10",
    b"\0\x2b",
    b"\xfe\x0d",
    server_name("b.example"),
    b"\x16\x03\x01\0\1",
]


def mutated(seed: int) -> bytes:
    chance = random.Random(seed)
    data = bytearray(chance.choice(WHOLE))
    for _ in range(chance.randint(1, 3)):
        at = chance.randint(0, min(len(data), chance.choice((12, 60, 2000))))
        piece = chance.choice([*PIECES, chance.randbytes(chance.randint(1, 3)), chance.choice(WHOLE)])
        data[at : at + chance.choice((0, len(piece), chance.randint(0, 40)))] = piece
    return bytes(data)


@pytest.mark.parametrize("data", WHOLE, ids=range(len(WHOLE)))
def test_holds_for_whole_hellos(data):
    check(data)


@pytest.mark.parametrize("seed", range(10))
def test_holds_for_mutated_hellos(seed):
    for each in range(60):
        check(mutated(seed * 1000 + each))
