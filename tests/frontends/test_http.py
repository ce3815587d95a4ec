"""A head is read, and answered: 200, a refusal, or, behind a 200, an alert for the TLS inside. Real clients: tests/e2e."""

from __future__ import annotations

import pytest
from support.leaves import LEAVES
from support.peers import together

from egressproxy.errors import ClientGone, HelloError, MethodNotImplemented, PolicyError, RuleDenied, SniMismatch
from egressproxy.frontends.http import HttpFrontend
from egressproxy.model import Intent, Target
from egressproxy.wire.alerts import alert_record
from egressproxy.wire.replies import ESTABLISHED, refusal
from egressproxy.wire.request_head import HeadLimits

HEAD = b"CONNECT WWW.example.test:443 HTTP/1.0\r\nHost: www.example.test:443\r\n\r\n"
FRONT = HttpFrontend("http-proxy:1", HeadLimits(16_384, 100, 8192))
ANSWERED = [leaf for leaf in LEAVES if leaf.status is not None]
OF_THE_TLS_INSIDE = [leaf for leaf in ANSWERED if issubclass(leaf, (HelloError, PolicyError))]


def slug(leaf):
    return leaf.slug


async def test_a_head_is_an_intent_and_what_is_behind_it_is_put_back(ends):
    intent, _ = await together(FRONT.read_intent(ends.stream, ends.draft), ends.send_byte_by_byte(HEAD))
    assert intent == Intent("127.0.0.1", "http-proxy:1", "CONNECT", Target("www.example.test", 443, False), "1.0")
    await ends.peer.send(HEAD + b"\x16\x03\x01")
    await FRONT.read_intent(ends.stream, ends.draft)
    assert ends.stream.take_unread() == b"\x16\x03\x01"
    assert (ends.draft.method, ends.draft.target_text) == ("CONNECT", "WWW.example.test:443")


async def test_another_method_is_not_served(ends):
    await ends.peer.send(b"GET http://www.example.test/ HTTP/1.1\r\nHost: www.example.test\r\n\r\n")
    with pytest.raises(MethodNotImplemented):
        await FRONT.read_intent(ends.stream, ends.draft)
    assert (ends.draft.method, ends.draft.target_text) == ("GET", "http://www.example.test/")


async def test_who_leaves_in_the_middle_is_gone(ends):
    await ends.peer.send(HEAD[:10])
    await ends.peer.end()
    with pytest.raises(ClientGone, match="left after 10 bytes"):
        await FRONT.read_intent(ends.stream, ends.draft)


async def test_a_tunnel_that_stands_is_answered_200(ends):
    await FRONT.grant(ends.stream, ends.draft)
    assert await ends.peer.receive(len(ESTABLISHED)) == ESTABLISHED
    assert (ends.draft.status, ends.draft.reply_bytes) == (200, 39)


@pytest.mark.parametrize("error", ANSWERED, ids=slug)
async def test_a_refusal_is_a_reply_and_the_end(ends, error):
    FRONT.refuse(ends.stream, error("no"), ends.draft)
    reply = await ends.peer.receive_all()
    assert reply == refusal(error("no"))
    assert (ends.draft.status, ends.draft.reply_bytes) == (error.status, len(reply))


@pytest.mark.parametrize("error", OF_THE_TLS_INSIDE, ids=slug)
async def test_behind_a_200_the_tls_inside_hears_an_alert_and_the_end(ends, error):
    await FRONT.grant(ends.stream, ends.draft)
    FRONT.refuse(ends.stream, error("no"), ends.draft)
    assert await ends.peer.receive_all() == ESTABLISHED + alert_record(error.alert)
    assert (ends.draft.status, ends.draft.reply_bytes) == (200, 39 + 7)


@pytest.mark.parametrize("error", [leaf for leaf in LEAVES if leaf not in OF_THE_TLS_INSIDE], ids=slug)
async def test_behind_a_200_nothing_else_is_said(ends, error):
    """It would land in the middle of what client and origin say to each other."""
    await FRONT.grant(ends.stream, ends.draft)
    FRONT.refuse(ends.stream, error("no"), ends.draft)
    ends.stream.close()
    assert await ends.peer.receive_all() == ESTABLISHED
    assert (ends.draft.status, ends.draft.reply_bytes) == (200, 39)


@pytest.mark.parametrize("granted", [False, True])
@pytest.mark.parametrize("error", [RuleDenied, SniMismatch], ids=slug)
async def test_refusing_who_is_gone_never_raises(ends, granted, error):
    if granted:
        await FRONT.grant(ends.stream, ends.draft)
    ends.peer.reset()
    FRONT.refuse(ends.stream, error("gone"), ends.draft)
    assert ends.draft.status == (200 if granted else None)
    assert ends.draft.reply_bytes == (39 if granted else 0)
