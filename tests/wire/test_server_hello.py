"""Whether a server asks for a second ClientHello: real answers of OpenSSL, and what may stand before them."""

from __future__ import annotations

import ssl

import pytest
from support.certificates import client_context, server_certificate
from support.hellos import record

from egressproxy.wire.server_hello import ENOUGH_BYTES, asks_again


def answer(*, retry: bool = False, version: ssl.TLSVersion | None = None) -> bytes:
    """The first bytes that OpenSSL's server sends."""
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), client_context(version)
    server_certificate().configure_cert(server)
    if retry:
        server.set_ecdh_curve("prime256v1")  # and clients of today offer a share for X25519
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    theirs = client.wrap_bio(to_client, to_server, server_hostname="www.example.test")
    ours = server.wrap_bio(to_server, to_client, server_side=True)
    for side in (theirs, ours):
        with pytest.raises(ssl.SSLWantReadError):
            side.do_handshake()
    return to_client.read()


RETRY = answer(retry=True)
WARNING = record(b"\x01\x70", 21)
FATAL = record(b"\x02\x28", 21)


def cut_up(stream: bytes, size: int) -> bytes:
    """The first record's contents in records of this size."""
    content = stream[5 : 5 + int.from_bytes(stream[3:5], "big")]
    return b"".join(record(content[at : at + size]) for at in range(0, len(content), size))


@pytest.mark.parametrize("before", [b"", WARNING, WARNING * 2, record(b"\x01\x70\x01\x5a", 21)])
def test_a_hello_retry_request_asks_again(before: bytes) -> None:
    assert asks_again(before + RETRY) is True
    assert asks_again((before + RETRY)[:ENOUGH_BYTES]) is True


@pytest.mark.parametrize(
    "said",
    [
        answer(),
        answer(version=ssl.TLSVersion.TLSv1_2),
        WARNING + answer(version=ssl.TLSVersion.TLSv1_2),
        FATAL,
        b"220 mail.example.test ESMTP\r\n",
        b"HTTP/1.1 400 Bad Request\r\n",
        b"\x00",
    ],
)
def test_anything_else_does_not(said: bytes) -> None:
    assert asks_again(said) is False


@pytest.mark.parametrize("whole", [RETRY, answer(), WARNING + RETRY], ids=["retry", "hello", "warning"])
def test_a_cut_answer_is_not_judged_wrongly(whole: bytes) -> None:
    last = asks_again(whole)
    for end in range(len(whole)):
        assert asks_again(whole[:end]) in (None, last)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 10, 37, 38, 64])
def test_records_may_cut_the_answer_anywhere(size: int) -> None:
    assert asks_again(cut_up(RETRY, size)) is True
    assert asks_again(cut_up(RETRY, size)[:ENOUGH_BYTES]) is True
    assert asks_again(WARNING + cut_up(RETRY, size)) is True
    for end in range(ENOUGH_BYTES):
        assert asks_again(cut_up(RETRY, size)[:end]) in (None, True)


@pytest.mark.parametrize("size", [5, 10, 37, 38])
def test_another_answer_in_small_records_does_not_ask(size: int) -> None:
    assert asks_again(cut_up(answer(), size)) is False


def test_what_cannot_be_told_may_be_one() -> None:
    assert asks_again(WARNING * 9) is None
    assert asks_again(WARNING * 10) is True
    assert asks_again((WARNING * 5 + RETRY)[:ENOUGH_BYTES]) is True
