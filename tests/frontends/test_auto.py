"""One port, two protocols: the first byte decides, and each is served as its own listener would."""

from __future__ import annotations

import asyncio

import pytest
from support.hellos import browser_hello, openssl_hello
from support.peers import together

from egressproxy.deadlines import DeadlineQueue
from egressproxy.errors import (
    ClientGone,
    EgressError,
    HeadTimeout,
    HeadTooLarge,
    HelloTimeout,
    HelloTooLarge,
    MalformedRequest,
    MalformedTarget,
    RuleDenied,
)
from egressproxy.frontends.auto import AutoFrontend
from egressproxy.frontends.http import HttpFrontend
from egressproxy.frontends.sni import SniFrontend
from egressproxy.frontends.tcp import TcpFrontend
from egressproxy.model import Target
from egressproxy.stream import StreamExpired
from egressproxy.wire.alerts import alert_record
from egressproxy.wire.replies import ESTABLISHED
from egressproxy.wire.request_head import HeadLimits

NAME = "www.example.test"
HELLO = openssl_hello(NAME)
KNOWN = ("10.3.2.1", 3128)
HEAD = f"CONNECT {NAME}:443 HTTP/1.1\r\nHost: {NAME}:443\r\n\r\n".encode()


def front(*, max_hello_bytes=65_536, max_head_bytes=16_384):
    http = HttpFrontend("auto:1", HeadLimits(max_head_bytes, 100, 8192))
    return AutoFrontend(
        http,
        SniFrontend("auto:1", 8443, max_hello_bytes),
        TcpFrontend("auto:1", None),
        lambda address, port: (address, port) == KNOWN,
    )


@pytest.fixture
def auto_ends(ends):
    ends.draft.protocol = AutoFrontend.name
    return ends


async def intent_of(ends, data, frontend=None):
    intent, _ = await together((frontend or front()).read_intent(ends.stream, ends.draft), ends.peer.send(data))
    return intent


async def test_tls_is_a_tunnel_by_its_server_name(auto_ends):
    intent = await intent_of(auto_ends, HELLO + b"more")
    assert (str(intent.target), intent.http_version) == (f"{NAME}:8443", None)
    assert (auto_ends.draft.protocol, auto_ends.draft.server_name) == ("sni", NAME)
    assert auto_ends.stream.take_unread() == HELLO + b"more"


async def test_connect_is_a_tunnel_by_its_target(auto_ends):
    intent = await intent_of(auto_ends, HEAD + b"more")
    assert (str(intent.target), intent.http_version) == (f"{NAME}:443", "1.1")
    assert (auto_ends.draft.protocol, auto_ends.draft.server_name) == ("http-proxy", None)
    assert auto_ends.stream.take_unread() == b"more"


@pytest.mark.parametrize("data", [HELLO, HEAD], ids=["sni", "http-proxy"])
async def test_the_rest_may_come_byte_by_byte(auto_ends, data):
    intent, _ = await together(
        front().read_intent(auto_ends.stream, auto_ends.draft), auto_ends.send_byte_by_byte(data)
    )
    assert intent.target.host == NAME


@pytest.mark.parametrize("first", [0, 4, 5, 13, 20, 21, 22, 23, 32, 67, 71, 128, 150, 255])
async def test_the_first_byte_decides(auto_ends, first):
    await auto_ends.peer.send(bytes([first]))
    await auto_ends.peer.end()
    with pytest.raises(EgressError):
        await front().read_intent(auto_ends.stream, auto_ends.draft)
    assert auto_ends.draft.protocol == ("sni" if first == 22 else "http-proxy")


async def test_each_has_its_own_limits(auto_ends):
    with pytest.raises(HelloTooLarge):
        await intent_of(auto_ends, browser_hello(NAME), front(max_hello_bytes=512, max_head_bytes=16_384))


async def test_each_has_its_own_limits_the_other_way(auto_ends):
    with pytest.raises(HeadTooLarge):
        await intent_of(auto_ends, HEAD[:-2] + b"X: " + b"x" * 2000, front(max_head_bytes=512))


async def test_a_plain_request_is_one_for_its_own_listener(auto_ends):
    intent = await intent_of(auto_ends, b"GET http://example.test/ HTTP/1.1\r\nHost: example.test\r\n\r\n")
    assert (intent.method, intent.target, intent.path) == ("GET", Target("example.test", 80, False), "/")
    assert auto_ends.draft.protocol == "http-proxy"


async def test_a_client_that_began_with_http_stays_with_it(auto_ends):
    """A ClientHello behind a request is no request."""
    await intent_of(auto_ends, b"GET http://example.test/ HTTP/1.1\r\nHost: example.test\r\n\r\n")
    with pytest.raises(MalformedRequest, match="TLS handshake"):
        await intent_of(auto_ends, b"\x16\x03\x01\x00\x05")


async def test_a_request_without_a_host_is_refused_as_its_own_listener_does(auto_ends):
    with pytest.raises(MalformedTarget):
        await intent_of(auto_ends, b"GET /path HTTP/1.1\r\nHost: example.test\r\n\r\n")


async def test_who_leaves_or_breaks_before_the_first_byte_is_gone(auto_ends):
    await auto_ends.peer.end()
    with pytest.raises(ClientGone, match="left after 0 bytes"):
        await front().read_intent(auto_ends.stream, auto_ends.draft)
    assert auto_ends.draft.protocol == "auto"


async def test_who_resets_before_the_first_byte_is_gone(auto_ends):
    auto_ends.peer.reset()
    with pytest.raises(ClientGone, match="broke after 0 bytes"):
        await front().read_intent(auto_ends.stream, auto_ends.draft)


@pytest.mark.parametrize(
    ("data", "expected"),
    [(HELLO[:20], HelloTimeout), (HEAD[:20], HeadTimeout), (b"", StreamExpired)],
    ids=["sni", "http-proxy", "nothing"],
)
async def test_who_is_too_slow_is_too_slow_for_what_it_speaks(auto_ends, data, expected):
    """One who has said nothing is the caller's to judge, by `too_slow`."""
    queue = DeadlineQueue("head", 0.01, asyncio.get_running_loop())
    queue.start(auto_ends.stream)
    await auto_ends.peer.send(data)
    with pytest.raises(expected):
        await front().read_intent(auto_ends.stream, auto_ends.draft)
    assert AutoFrontend.too_slow is HeadTimeout


@pytest.mark.parametrize(("data", "status_line"), [(HELLO, b""), (HEAD, ESTABLISHED)], ids=["sni", "http-proxy"])
async def test_each_is_granted_its_own_way(auto_ends, data, status_line):
    await intent_of(auto_ends, data)
    await front().grant(auto_ends.stream, auto_ends.draft)
    auto_ends.stream.end_writing()
    assert await auto_ends.peer.receive_all() == status_line
    assert auto_ends.draft.status == 200


@pytest.mark.parametrize(
    ("data", "answer"),
    [(HELLO, alert_record(RuleDenied.alert)), (HEAD, b"HTTP/1.1 403 Forbidden: rule_denied"), (b"", b"")],
    ids=["sni", "http-proxy", "nothing"],
)
async def test_each_is_refused_its_own_way_and_silence_with_silence(auto_ends, data, answer):
    if data:
        await intent_of(auto_ends, data)
    front().refuse(auto_ends.stream, RuleDenied("no"), auto_ends.draft)
    auto_ends.stream.close()
    heard = await auto_ends.peer.receive_all()
    assert heard.startswith(answer)
    assert bool(heard) is bool(answer)
    assert auto_ends.draft.status == (403 if data else None)


async def test_who_was_on_its_way_to_a_service_known_by_its_address_is_not_looked_at(auto_ends):
    auto_ends.draft.dialled = KNOWN
    intent = await front().read_intent(auto_ends.stream, auto_ends.draft)  # without a byte of the client's
    assert (intent.method, intent.target, intent.dialled) == ("CONNECT", Target(*KNOWN, True), KNOWN)
    assert auto_ends.draft.protocol == "tcp"
    await front().grant(auto_ends.stream, auto_ends.draft)
    assert auto_ends.draft.status == 200
    assert auto_ends.draft.reply_bytes == 0


async def test_who_was_on_its_way_elsewhere_is_looked_at(auto_ends):
    auto_ends.draft.dialled = (KNOWN[0], 443)
    intent = await intent_of(auto_ends, HELLO)
    assert intent.target == Target(NAME, 443, False)
