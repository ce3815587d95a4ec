"""Nothing is read, nothing is said: where a client goes is settled before its first byte."""

from __future__ import annotations

import pytest

from egressproxy.errors import ConnectRefused, MalformedTarget, RuleDenied
from egressproxy.frontends.tcp import TcpFrontend
from egressproxy.model import Target

DATABASE = Target("db.example.test", 5432, False)


async def test_a_target_that_is_written_down_is_where_all_go(ends):
    intent = await TcpFrontend("tcp:1", DATABASE).read_intent(ends.stream, ends.draft)
    assert (intent.method, intent.target, intent.listener, intent.http_version) == ("CONNECT", DATABASE, "tcp:1", None)
    assert ends.draft.target_text == "db.example.test:5432"


async def test_a_captured_client_goes_where_it_was_going(ends):
    ends.draft.dialled = ("192.0.2.7", 22)
    intent = await TcpFrontend("tcp:1", None).read_intent(ends.stream, ends.draft)
    assert (intent.target, intent.dialled) == (Target("192.0.2.7", 22, True), ("192.0.2.7", 22))


async def test_who_was_not_captured_has_nowhere_to_go(ends):
    with pytest.raises(MalformedTarget, match="not captured"):
        await TcpFrontend("tcp:1", None).read_intent(ends.stream, ends.draft)


async def test_what_the_client_says_stays_in_the_stream(ends):
    frontend = TcpFrontend("tcp:1", DATABASE)
    await frontend.read_intent(ends.stream, ends.draft)
    await frontend.grant(ends.stream, ends.draft)
    await ends.peer.send(b"SSH-2.0-x\r\n")
    assert await ends.stream.read(100) == b"SSH-2.0-x\r\n"
    assert (ends.draft.status, ends.draft.reply_bytes) == (200, 0)


@pytest.mark.parametrize("error", [RuleDenied("no"), ConnectRefused("no")])
async def test_a_refusal_is_silence_with_a_status_for_the_log(ends, error):
    frontend = TcpFrontend("tcp:1", DATABASE)
    assert frontend.refuse(ends.stream, error, ends.draft) is False
    ends.stream.close()
    assert await ends.peer.receive_all() == b""
    assert ends.draft.status == error.status
