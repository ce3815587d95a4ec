"""A head is read, and answered: 200, a refusal, or, behind a 200, an alert for the TLS inside. Real clients: tests/e2e."""

from __future__ import annotations

from contextlib import suppress

import pytest
from support.leaves import LEAVES
from support.peers import together

from egressproxy.errors import (
    ClientGone,
    HelloError,
    MalformedRequest,
    MalformedTarget,
    MethodNotImplemented,
    PolicyError,
    RuleDenied,
    SniMismatch,
)
from egressproxy.frontends.http import HttpFrontend
from egressproxy.model import OUTBOUND, AskedFields, Intent, Target, Verdict
from egressproxy.wire.alerts import alert_record
from egressproxy.wire.replies import ESTABLISHED, refusal
from egressproxy.wire.request_head import HeadLimits

HEAD = b"CONNECT WWW.example.test:443 HTTP/1.0\r\nHost: www.example.test:443\r\n\r\n"
FRONT = HttpFrontend("http-proxy:1", HeadLimits(16_384, 100, 8192))
BY_HOST = HttpFrontend("http:1", HeadLimits(16_384, 100, 8192), is_proxy=False, by_host=8080)
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


async def test_a_request_with_a_whole_url_goes_where_that_says(ends):
    """RFC 9112 section 3.2.2: the authority of the target counts, and Host does not."""
    await ends.peer.send(b"GET http://WWW.example.test:8080/a/b?c HTTP/1.1\r\nHost: other.test\r\nX: 1\r\n\r\nGET ")
    intent = await FRONT.read_intent(ends.stream, ends.draft)
    assert (intent.method, intent.target, intent.path) == ("GET", Target("www.example.test", 8080, False), "/a/b")
    assert intent.request is not None
    assert (intent.request.authority, intent.request.path) == ("WWW.example.test:8080", "/a/b?c")
    assert intent.request.fields.forward == b"X: 1\r\n"
    assert ends.stream.take_unread() == b"GET "
    assert (ends.draft.method, ends.draft.target_text) == ("GET", "http://WWW.example.test:8080/a/b?c")


async def test_a_proxy_does_not_serve_a_path_alone(ends):
    await ends.peer.send(b"GET / HTTP/1.1\r\nHost: www.example.test\r\n\r\n")
    with pytest.raises(MalformedTarget, match="this listener is a proxy"):
        await FRONT.read_intent(ends.stream, ends.draft)


@pytest.mark.parametrize(
    "asked", [None, AskedFields(response=frozenset({"server"})), AskedFields(frozenset({"x-team"}))]
)
@pytest.mark.parametrize("line", ["CONNECT a.test:443", "GET http://a.test/", "GET /no-url"])
async def test_fields_are_kept_where_a_log_asks_for_some_whatever_comes_of_the_request(ends, asked, line):
    front = HttpFrontend("http-proxy:1", HeadLimits(16_384, 100, 8192), asked=asked)
    await ends.peer.send(f"{line} HTTP/1.1\r\nHost: a.test\r\nX-Team: blue\r\n\r\n".encode())
    with suppress(MalformedTarget):
        await front.read_intent(ends.stream, ends.draft)
    if asked is None:
        assert ends.draft.kept is None
    else:
        assert ends.draft.kept.request == {name: ["blue"] for name in asked.request}


@pytest.mark.parametrize(
    ("host", "dialled", "target"),
    [
        ("www.example.test", None, Target("www.example.test", 8080, False)),  # the listener's service_port
        ("www.example.test:81", None, Target("www.example.test", 81, False)),
        ("WWW.example.test.", ("192.0.2.1", 8000), Target("www.example.test", 8000, False)),  # captured
        ("192.0.2.9:8000", ("192.0.2.1", 8000), Target("192.0.2.9", 8000, True)),
    ],
)
async def test_a_path_alone_goes_where_host_says(ends, host, dialled, target):
    ends.draft.dialled = dialled
    await ends.peer.send(f"HEAD /x HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    intent = await BY_HOST.read_intent(ends.stream, ends.draft)
    assert (intent.method, intent.target, intent.path, intent.dialled) == ("HEAD", target, "/x", dialled)
    assert intent.request is not None
    assert intent.request.authority == host  # as the client wrote it


@pytest.mark.parametrize(
    ("head", "dialled", "error"),
    [
        ("GET / HTTP/1.0\r\n\r\n", None, MalformedRequest),  # nobody says where to
        ("GET / HTTP/1.1\r\nHost:\r\n\r\n", None, MalformedRequest),
        ("GET / HTTP/1.1\r\nHost: a.test:81\r\n\r\n", ("192.0.2.1", 80), MalformedTarget),  # not where it was going
        ("GET / HTTP/1.1\r\nHost: 127.1\r\n\r\n", None, MalformedTarget),
        ("GET http://a.test:81/ HTTP/1.1\r\nHost: a.test\r\n\r\n", ("192.0.2.1", 80), MalformedTarget),
        ("CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\n\r\n", None, MethodNotImplemented),
    ],
)
async def test_what_leads_nowhere_by_its_host_is_refused(ends, head, dialled, error):
    ends.draft.dialled = dialled
    await ends.peer.send(head.encode())
    with pytest.raises(error):
        await BY_HOST.read_intent(ends.stream, ends.draft)


async def test_a_refusal_may_leave_the_connection_to_the_next_request(ends):
    ends.draft.may_go_on = True
    assert FRONT.refuse(ends.stream, RuleDenied("no"), ends.draft)
    reply = refusal(RuleDenied("no"), keep_alive=True)
    assert await ends.peer.receive(len(reply)) == reply


async def test_what_is_unknown_to_a_gateway_is_502_and_empty(ends):
    ends.draft.verdict = Verdict(allowed=False, rule=OUTBOUND, reason="unknown")
    BY_HOST.refuse(ends.stream, RuleDenied("no"), ends.draft)
    reply = await ends.peer.receive_all()
    assert reply == refusal(RuleDenied("no"), status=502, has_body=False)
    assert ends.draft.status == 502


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
