"""Asking a parent proxy: what is sent, and what each answer comes to. The parent is a socket."""

from __future__ import annotations

import asyncio
import base64

import pytest
from support.peers import Peer, socket_pair, tcp_stream, together

from egressproxy.config.schema.services import Parent as ParentSettings
from egressproxy.deadlines import DeadlineQueue
from egressproxy.errors import (
    ConnectFailed,
    ConnectTimeout,
    CredentialMissing,
    EgressError,
    ParentRefused,
    UpstreamProtocolError,
)
from egressproxy.model import Target
from egressproxy.parents import Parent, go_through
from egressproxy.poller import create_poller

SITE = Target("www.example.test", 443, False)


def parent(**settings):
    return Parent(
        ParentSettings.model_validate({"name": "up", "address": "proxy.example.test", "port": 3128, **settings})
    )


@pytest.fixture
async def ends():
    poller = create_poller(asyncio.get_running_loop())
    theirs, ours = socket_pair()
    peer, stream = Peer(theirs), tcp_stream(ours, poller)
    yield peer, stream
    stream.close()
    peer.close()
    assert len(poller) == 0
    poller.close()


async def answered(ends, answer, asked=None):
    """What opening comes to when the parent says this; `asked` gets what it was asked."""
    peer, stream = ends

    async def play():
        data = b""
        while not data.endswith(b"\r\n\r\n"):
            data += await peer.receive_some()
        if asked is not None:
            asked.append(data)
        await peer.send(answer)
        if not answer.endswith(b"\r\n\r\n") and b"more" not in answer:
            await peer.end()

    await together(parent().open(stream, SITE), play())


async def test_the_target_is_asked_for_and_the_stream_leads_there(ends):
    asked: list[bytes] = []
    await answered(ends, b"HTTP/1.1 200 Connection established\r\n\r\nmore", asked)
    assert asked == [b"CONNECT www.example.test:443 HTTP/1.1\r\nHost: www.example.test:443\r\n\r\n"]
    assert await ends[1].read(10) == b"more"


async def test_an_ipv6_target_is_written_in_brackets(ends):
    peer, stream = ends
    await together(parent().open(stream, Target("2001:db8::1", 443, True)), peer.send(b"HTTP/1.1 200 OK\r\n\r\n"))
    assert (await peer.receive_some()).startswith(b"CONNECT [2001:db8::1]:443 HTTP/1.1\r\n")


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (b"HTTP/1.1 403 Forbidden\r\n\r\n", ParentRefused, "answered 403 to CONNECT www.example.test:443"),
        (b"HTTP/1.1 407 No\r\nProxy-Authenticate: Basic\r\n\r\n", ParentRefused, "answered 407"),
        (b"SSH-2.0-x\r\n", UpstreamProtocolError, "parent up"),
        (b"HTTP/1.1 200 OK\r\n", ConnectFailed, "closed without an answer"),
        (b"", ConnectFailed, "closed without an answer"),
    ],
)
async def test_any_other_answer_is_an_error_that_names_the_parent(ends, answer, error, words):
    with pytest.raises(error, match=words) as caught:
        await answered(ends, answer)
    assert isinstance(caught.value, EgressError)
    assert "parent up" in str(caught.value)


async def test_a_parent_that_says_nothing_has_the_time_of_a_connection(ends):
    deadlines = DeadlineQueue("connect", 0.05, asyncio.get_running_loop())
    with pytest.raises(ConnectTimeout, match=r"did not answer within 0\.05 s"):
        await go_through(parent(), ends[1], SITE, deadlines)
    assert len(deadlines) == 0
    deadlines.close()


async def test_credentials_are_read_from_their_file_and_again_when_it_changes(ends, tmp_path):
    peer, stream = ends
    file = tmp_path / "login"
    through = parent(credentials=str(file))

    async def authorization():
        await together(through.open(stream, SITE), peer.send(b"HTTP/1.1 200 OK\r\n\r\n"))
        asked = (await peer.receive_some()).decode()
        return base64.b64decode(asked.partition("Proxy-Authorization: Basic ")[2].partition("\r\n")[0])

    file.write_bytes(b"user:one\n")
    assert await authorization() == b"user:one"
    file.write_bytes(b"user:second")
    assert await authorization() == b"user:second"


@pytest.mark.parametrize("content", [None, b"", b"no colon", b"a:b\r\nX-Smuggled: 1", b"a:" + b"b" * 2000])
async def test_credentials_that_are_none_are_not_sent(ends, tmp_path, content):
    file = tmp_path / "login"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(CredentialMissing, match="credentials of parent up"):
        await parent(credentials=str(file)).open(ends[1], SITE)
