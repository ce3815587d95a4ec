"""A hello is read, judged fit, and put back as it came; who is refused hears one alert and then the end."""

from __future__ import annotations

import asyncio

import pytest
from support.certificates import client_context, server_context
from support.hellos import (
    CAPTURED_NAME,
    CAPTURES,
    browser_hello,
    extension,
    hello,
    openssl_hello,
    record,
    records,
    server_name,
)
from support.leaves import LEAVES
from support.peers import TlsPeer, together

from egressproxy.deadlines import DeadlineQueue
from egressproxy.errors import (
    ClientGone,
    Draining,
    HelloTimeout,
    HelloTooLarge,
    MalformedHello,
    NotTls,
    RuleDenied,
    SniMismatch,
    SniMissing,
)
from egressproxy.frontends.frontend import READ_BYTES, send_alert
from egressproxy.frontends.sni import SniFrontend
from egressproxy.model import Intent, Target
from egressproxy.stream import StreamExpired, TlsStream
from egressproxy.wire import client_hello
from egressproxy.wire.alerts import alert_record

NAME = "www.example.test"
HELLO = openssl_hello(NAME)


def front(limit=65_536, service_port=443):
    return SniFrontend("sni:8443", service_port, limit)


async def intent_of(ends, data, frontend=None):
    """What becomes of a client that sends this and waits."""
    intent, _ = await together((frontend or front()).read_intent(ends.stream, ends.draft), ends.peer.send(data))
    return intent


# --- read ---------------------------------------------------------------------------------------------------------


async def test_the_name_in_a_hello_is_a_tunnel_to_the_service_port(ends):
    intent = await intent_of(ends, openssl_hello("WWW.Example.test"), front(service_port=8443))
    assert intent == Intent("127.0.0.1", "sni:8443", "CONNECT", Target(NAME, 8443, False), None)
    draft = ends.draft
    assert (draft.method, draft.server_name, draft.target_text) == ("CONNECT", "WWW.Example.test", "WWW.Example.test")
    assert draft.http_version is None


async def test_a_captured_client_keeps_the_port_it_was_on_its_way_to(ends):
    ends.draft.dialled = ("192.0.2.1", 8443)
    intent = await intent_of(ends, HELLO)
    assert (intent.target, intent.dialled) == (Target(NAME, 8443, False), ("192.0.2.1", 8443))


@pytest.mark.parametrize(("ech", "hidden"), [(None, False), ("grease", True), ("inner", True)])
async def test_a_hello_that_may_hide_its_name_says_so(ends, ech, hidden):
    assert (await intent_of(ends, browser_hello(NAME, ech=ech))).ech is hidden


@pytest.mark.parametrize(
    "data",
    [
        HELLO,
        HELLO + b"and what follows",
        browser_hello(NAME) + bytes(9000),
        records(hello(server_name(NAME), extension(0xFAFA, bytes(20_000))), 700),
        *(path.read_bytes() for path in CAPTURES),
    ],
    ids=len,
)
async def test_every_byte_is_put_back(ends, data):
    intent = await intent_of(ends, data)
    assert intent.target.host in (NAME, CAPTURED_NAME)
    back = ends.stream.take_unread()
    assert data.startswith(back)
    assert len(back) == ends.draft.preread_bytes
    assert len(back) >= min(len(data), READ_BYTES)


async def test_a_hello_that_comes_byte_by_byte_is_waited_for_and_looked_at_once(ends, monkeypatch):
    """Records of one byte, read anew each time, would be a minute's work for sixty kilobytes."""
    looks = 0
    look = client_hello._record_size

    def counted(*arguments, **more):
        nonlocal looks
        looks += 1
        return look(*arguments, **more)

    monkeypatch.setattr(client_hello, "_record_size", counted)
    data = records(hello(server_name(NAME), extension(0xFAFA, bytes(500))), 1)
    intent, _ = await together(front().read_intent(ends.stream, ends.draft), ends.send_byte_by_byte(data))
    assert intent.target.host == NAME
    assert looks > len(data) / 2
    assert looks < 2 * len(data)
    assert ends.stream.take_unread() == data


# --- not fit ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (openssl_hello(None), SniMissing),
        (b"GET / HTTP/1.1\r\n\r\n", NotTls),
        (b"\x15\x03\x01\x00\x02\x01\x00", MalformedHello),
        (b"\x16\x03\x01\x00\x00", MalformedHello),
        (record(hello(server_name("192.0.2.1"))), MalformedHello),
        (record(hello(server_name("[::1]"))), MalformedHello),
        (record(hello(server_name(""))), MalformedHello),
        (record(hello(server_name(NAME, NAME))), MalformedHello),
        (record(hello(server_name(b"www\0.example.test"))), MalformedHello),
        (record(hello(server_name("www.example.test\r\nx"))), MalformedHello),
        (record(hello(server_name("bücher.example"))), MalformedHello),
        (record(hello(server_name(NAME, kind=1))), MalformedHello),
    ],
)
async def test_what_names_no_server_for_sure_is_an_error(ends, data, error):
    with pytest.raises(error):
        await intent_of(ends, data)
    assert ends.draft.method == "CONNECT"
    assert ends.draft.server_name in (None, "")


async def test_a_hello_of_just_the_limit_is_read_and_one_byte_more_is_not(ends):
    intent = await intent_of(ends, HELLO + bytes(5000), front(len(HELLO)))
    assert intent.target.host == NAME
    ends.stream.take_unread()


@pytest.mark.parametrize("data", [HELLO, HELLO[:-1], HELLO + b"."], ids=["whole", "but one", "and one"])
async def test_a_hello_over_the_limit_is_an_error_as_soon_as_it_is(ends, data):
    with pytest.raises(HelloTooLarge, match=r"more than 300 bytes \(limits.max_hello_bytes\)"):
        await intent_of(ends, data, front(300))
    assert len(HELLO) > 301


@pytest.mark.parametrize("data", [b"", HELLO[:1], HELLO[:100], HELLO[:-1]], ids=len)
async def test_a_client_that_leaves_in_the_middle_is_gone(ends, data):
    await ends.peer.send(data)
    await ends.peer.end()
    with pytest.raises(ClientGone, match=f"after {len(data)} bytes of a ClientHello"):
        await front().read_intent(ends.stream, ends.draft)


async def test_a_client_that_resets_in_the_middle_is_gone(ends):
    ends.peer.reset()
    with pytest.raises(ClientGone, match="broke after 0 bytes"):
        await front().read_intent(ends.stream, ends.draft)


async def test_a_client_that_is_too_slow_is_the_callers_to_judge(ends):
    queue = DeadlineQueue("head", 0.01, asyncio.get_running_loop())
    queue.start(ends.stream)
    await ends.peer.send(HELLO[:50])
    with pytest.raises(StreamExpired):
        await front().read_intent(ends.stream, ends.draft)
    assert SniFrontend.too_slow is HelloTimeout


# --- answered -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [leaf for leaf in LEAVES if leaf.status is not None], ids=lambda leaf: leaf.slug)
async def test_who_is_refused_hears_the_alert_of_the_error_and_the_end(ends, error):
    front().refuse(ends.stream, error("no"), ends.draft)
    assert await ends.peer.receive_all() == alert_record(error.alert)
    assert (ends.draft.status, ends.draft.reply_bytes) == (error.status, 7)


@pytest.mark.parametrize("error", [leaf for leaf in LEAVES if leaf.status is None], ids=lambda leaf: leaf.slug)
async def test_who_cannot_be_answered_hears_nothing(ends, error):
    front().refuse(ends.stream, error("gone"), ends.draft)
    ends.stream.close()
    assert await ends.peer.receive_all() == b""
    assert (ends.draft.status, ends.draft.reply_bytes) == (None, 0)


async def test_granting_says_nothing_and_an_open_tunnel_hears_of_its_own_words_only(ends):
    await front().grant(ends.stream, ends.draft)
    front().refuse(ends.stream, Draining("the proxy's own affair"), ends.draft)
    assert (ends.draft.status, ends.draft.reply_bytes) == (200, 0)
    front().refuse(ends.stream, SniMismatch("another name when the server asks again"), ends.draft)
    ends.stream.close()
    assert await ends.peer.receive_all() == bytes((21, 3, 3, 0, 2, 2, 112))
    assert (ends.draft.status, ends.draft.reply_bytes) == (200, 7)


async def test_refusing_who_is_gone_never_raises(ends):
    ends.peer.reset()
    assert send_alert(ends.stream, RuleDenied("gone")) == 0
    front().refuse(ends.stream, RuleDenied("gone"), ends.draft)
    ends.stream.close()
    assert ends.draft.reply_bytes == 0


async def test_an_alert_goes_inside_the_tls_of_the_listener(ends):
    """Of a client that speaks TLS to the proxy, and again inside its tunnel."""
    stream = TlsStream(ends.stream, server_context(), server_side=True)
    peer = TlsPeer(ends.peer.sock, client_context(), server_side=False)
    await together(stream.handshake(), peer.handshake())
    assert send_alert(stream, RuleDenied("no")) == 7
    assert await peer.receive_all() == alert_record(RuleDenied.alert)
    stream.close()


async def test_an_alert_that_does_not_fit_is_not_waited_for(ends):
    while ends.stream.try_write(bytes(1 << 20)):
        pass
    assert send_alert(ends.stream, RuleDenied("no room")) == 0
