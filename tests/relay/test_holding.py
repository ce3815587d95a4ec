"""A tunnel whose client is judged first: nothing of it passes unjudged, nothing is lost or doubled, nothing is left behind.

The gate here asks for a word and says no to everything else. That a tunnel which was held is a tunnel like any other, once
its bytes may pass, is said by the suite in test_tunnel.py, whose setups have a held one.
"""

from __future__ import annotations

import asyncio
import gc
import os
import socket
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.loops import at_rest, until
from support.peers import BROKEN, SMALL_BUFFER, Peer, socket_pair, tcp_stream, together
from support.tunnels import HELD, LONG_S, Filled, Setup, on, run_setup

from egressproxy.errors import HelloTimeout, MalformedHello, NotTls, SniMismatch
from egressproxy.model import Transfer
from egressproxy.relay import tunnel as tunnel_module
from egressproxy.relay.flow import COPY_BYTES
from egressproxy.relay.holding import MAX_HELD_BYTES, READ_BYTES, HeldFlow
from egressproxy.relay.tunnel import Tunnel

WORD = b"open sesame"
SHORT_S = 0.03
"""A deadline that a test waits for."""
SETUPS = [*HELD, Setup("copy", "loop", "asyncio", held=True)]

on_every_held_setup = on(SETUPS)


class Doorkeeper:
    """Lets pass what begins with the word, and refuses what cannot any more. `asked`: what it was shown, each time.

    strict  what has not said the word at its end or deadline is refused; else it passes
    """

    def __init__(self, bench, *, word=WORD, patient=False, strict=True, within_s=LONG_S):
        self.word = word
        self.patient = patient
        self.strict = strict
        self.deadlines = bench.deadlines
        if within_s != LONG_S:
            self.deadlines.delay_s = within_s
        self.asked = []
        self.judged = 0
        self.listens = False

    def judge(self, data):
        self.asked.append(data)
        if data[: len(self.word)] != self.word[: len(data)]:
            raise NotTls("expected the word")
        return len(data) if len(data) >= len(self.word) else None

    def end(self, data):
        if data and self.strict:
            raise MalformedHello("the end before the word")

    def expire(self, data):
        if self.strict:
            raise HelloTimeout("not the word in time")


AGAIN = b"say it again"
SECOND = b"open sesame twice"


class Twice(Doorkeeper):
    """Lets the word pass and listens: where the upstream answers AGAIN, nothing else than SECOND may come behind it."""

    def __init__(self, bench, *, judged=0, **more):
        super().__init__(bench, **more)
        self.judged = judged
        self.asked_again = []

    def judge(self, data):
        self.listens = super().judge(data) is not None
        return len(self.word) if self.listens else None

    def hear(self, answer):
        if answer.startswith(AGAIN):
            return True
        return None if AGAIN.startswith(answer) else False

    def judge_again(self, data):
        self.asked_again.append(data)
        if data[: len(SECOND)] != SECOND[: len(data)]:
            raise SniMismatch("expected the second word")
        return len(data) >= len(SECOND)


def has_nothing_to_read(peer):
    try:
        return not peer.sock.recv(1)
    except BlockingIOError:
        return True


async def end_in_order(joined):
    await joined.client.end()
    assert await joined.upstream.receive_all() == b""
    await joined.upstream.end()
    assert await joined.client.receive_all() == b""
    return await joined.over()


async def refused(joined, error):
    """The tunnel ends with this error, and the upstream has had nothing."""
    with pytest.raises(error):
        await joined.over()
    assert await joined.upstream.receive_all() == b""
    assert joined.tunnel.bytes_up == 0


# --- judged -------------------------------------------------------------------------------------------------------


@on_every_held_setup
async def test_no_byte_passes_before_the_gate_says_so_and_then_every_byte_does(bench):
    joined = await bench.join(gate=(gate := Doorkeeper(bench)))
    for number in range(1, len(WORD)):
        await joined.client.send(WORD[number - 1 : number])
        await until(lambda number=number: len(gate.asked) == number)
        assert has_nothing_to_read(joined.upstream)
    assert gate.asked == [WORD[:number] for number in range(1, len(WORD))]
    await joined.client.send(WORD[-1:] + b" and more")
    assert await joined.upstream.receive(len(WORD) + 9) == WORD + b" and more"
    await joined.client.send(b", not asked about")
    assert await joined.upstream.receive(17) == b", not asked about"
    assert len(gate.asked) == len(WORD)
    assert await end_in_order(joined) == Transfer(len(WORD) + 26, 0, "client", "closed")


@on_every_held_setup
async def test_what_the_gate_refuses_never_reaches_the_upstream(bench):
    joined = await bench.join(gate=Doorkeeper(bench))
    await joined.client.send(b"open up!")
    await refused(joined, NotTls)


@on_every_held_setup
async def test_bytes_that_came_with_the_head_are_judged_without_an_event(bench):
    joined = await bench.join(unread=WORD + b" and more", gate=Doorkeeper(bench))
    assert await joined.upstream.receive(len(WORD) + 9) == WORD + b" and more"
    assert (await end_in_order(joined)).bytes_up == len(WORD) + 9
    await refused(await bench.join(unread=b"no word", gate=Doorkeeper(bench)), NotTls)


@on_every_held_setup
async def test_all_that_came_with_the_head_is_judged_however_much_it_is(bench):
    word = os.urandom(3 * READ_BYTES + 7)
    joined = await bench.join(unread=word[:-7], gate=(gate := Doorkeeper(bench, word=word)))
    await until(lambda: gate.asked and len(gate.asked[-1]) == 3 * READ_BYTES)
    assert has_nothing_to_read(joined.upstream)
    await joined.client.send(word[-7:])
    assert await joined.upstream.receive(len(word)) == word
    assert (await end_in_order(joined)).bytes_up == len(word)


@on([setup for setup in SETUPS if setup.tls])
async def test_bytes_that_came_with_the_handshake_are_judged_without_an_event(bench):
    joined = await bench.join(early=WORD + b" and more", gate=Doorkeeper(bench))
    assert await joined.upstream.receive(len(WORD) + 9) == WORD + b" and more"
    assert (await end_in_order(joined)).bytes_up == len(WORD) + 9


@on_every_held_setup
async def test_much_behind_the_word_arrives_whole_and_once(bench):
    joined = await bench.join(buffer=SMALL_BUFFER, gate=Doorkeeper(bench))
    payload = WORD + os.urandom(1_500_000)

    async def give():
        await joined.client.send(payload)
        await joined.client.end()

    received, _ = await together(joined.upstream.receive_all(), give())
    assert received == payload
    await joined.upstream.end()
    assert await joined.client.receive_all() == b""
    assert await joined.over() == Transfer(len(payload), 0, "client", "closed")


@on_every_held_setup
@pytest.mark.parametrize("by", ["word", "deadline"])
async def test_what_may_pass_waits_for_an_upstream_that_takes_nothing(bench, by):
    """And then goes out without another byte from the client."""
    full = Filled()
    gate = Doorkeeper(bench) if by == "word" else Doorkeeper(bench, strict=False, within_s=SHORT_S)
    joined = await bench.join(buffer=SMALL_BUFFER, before=full, gate=gate)
    sent = WORD if by == "word" else WORD[:-1]
    await joined.client.send(sent)
    await until(lambda: joined.tunnel.up.blocked)
    assert joined.tunnel.bytes_up == 0
    calls = count_pumps(joined.tunnel.up)
    await joined.client.send(b"!" * 10_000)
    joined.client.wait_until_delivered()
    await asyncio.sleep(SHORT_S)
    assert len(calls) <= 2, "it waits, and does not ask again and again"
    assert await joined.upstream.receive(full.size) == b"." * full.size
    assert await joined.upstream.receive(len(sent) + 10_000) == sent + b"!" * 10_000
    assert (await end_in_order(joined)).bytes_up == len(sent) + 10_000


def count_pumps(flow):
    calls = []
    pump = type(flow).pump

    class Counting(type(flow)):
        __slots__ = ()

        def pump(self):
            calls.append(self)
            return pump(self)

    flow.__class__ = Counting
    return calls


@pytest.mark.parametrize("setup", SETUPS[:2], ids=str)
@settings(max_examples=25, deadline=None)
@given(
    begins=st.sampled_from([WORD, b"open season", b"x", b""]),
    rest=st.binary(max_size=50) | st.integers(1, 100_000).map(os.urandom),
    cuts=st.lists(st.integers(0, 30), max_size=8),
    answer=st.binary(max_size=50),
    strict=st.booleans(),
)
def test_all_of_it_passes_or_nothing_does_however_it_is_cut(setup, begins, rest, cuts, answer, strict):
    said = begins + rest

    async def story(bench):
        joined = await bench.join(gate=Doorkeeper(bench, strict=strict))
        edges = [0, *sorted(cut for cut in cuts if cut < len(said)), len(said)]

        async def speak():
            try:
                for start, end in pairwise(edges):
                    await joined.client.send(said[start:end])
                    await asyncio.sleep(0)
                await joined.client.end()
            except OSError:
                pass  # refused in the middle

        async def hear():
            heard = b""
            try:
                while data := await joined.upstream.receive_some():
                    heard += data
                await joined.upstream.send(answer)
                await joined.upstream.end()
            except OSError:
                pass  # its client was refused
            return heard

        heard, _ = await together(hear(), speak())
        passes = said.startswith(WORD) or not said or (not strict and WORD.startswith(said))
        assert heard == (said if passes else b"")
        if passes:
            assert await joined.client.receive_all() == answer
            assert await joined.over() == Transfer(len(said), len(answer), "client", "closed")
        else:
            with pytest.raises((NotTls, MalformedHello)):
                await joined.over()
            assert joined.tunnel.bytes_up == 0

    run_setup(setup, story)


ACTS = st.tuples(
    st.sampled_from(["client", "upstream"]),
    st.sampled_from(["send", "send", "send", "end", "reset", "close", "turn", "cut", "late"]),
    st.integers(1, 12),
)


@pytest.mark.parametrize("setup", SETUPS, ids=str)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(acts=st.lists(ACTS, max_size=10), word=st.booleans(), strict=st.booleans())
def test_whatever_peers_do_nothing_unjudged_is_heard_and_nothing_is_left(setup, monkeypatch, acts, word, strict):
    """Either may send, end, leave or reset at any moment, and the tunnel be cut or out of time."""
    monkeypatch.setattr(tunnel_module, "LINGER_S", SHORT_S)
    script = (WORD if word else b"open season") + b"." * 100

    async def story(bench):
        joined = await bench.join(gate=Doorkeeper(bench, strict=strict))
        peers = {"client": joined.client, "upstream": joined.upstream}
        silent, said, late = set(), 0, False
        for who, act, number in acts:
            peer = peers[who]
            if act == "cut":
                joined.tunnel.cut("cut")
            elif act == "late" and isinstance(joined.tunnel.up, HeldFlow):
                late = True
                joined.tunnel.up.expire()
            elif act == "turn":
                await asyncio.sleep(0.0005 * number)
            elif act in ("send", "end") and who not in silent:
                try:
                    await (peer.end() if act == "end" else peer.send(script[said : said + number]))
                    said += number if act == "send" and who == "client" else 0
                except OSError:
                    pass  # the other side is gone
            elif act in ("reset", "close") and f"{who} left" not in silent:
                getattr(peer, act)()
            if act in ("end", "reset", "close"):
                silent.add(who)
            if act in ("reset", "close"):
                silent.add(f"{who} left")
            await asyncio.sleep(0)
        heard = b""
        if "upstream left" not in silent:
            if "client" not in silent:
                joined.client.close()
            try:
                while data := await joined.upstream.receive_some():
                    heard += data
            except BROKEN:
                pass
        for peer in peers.values():
            peer.close()
        try:
            transfer = await joined.over()
        except (NotTls, MalformedHello, HelloTimeout):
            assert heard == b""
        else:
            assert len(heard) <= transfer.bytes_up <= said
        assert script[:said].startswith(heard)
        if heard and not (word and said >= len(WORD)):  # not the word: then by the gate's grace at the end of it
            assert not strict
            assert late or WORD.startswith(heard)

    run_setup(setup, story)


# --- judged twice -------------------------------------------------------------------------------------------------


async def pass_the_word(bench, **more):
    """A tunnel in which the word has been let pass, and the upstream has not answered."""
    joined = await bench.join(gate=(gate := Twice(bench, **more)))
    await joined.client.send(WORD)
    assert await joined.upstream.receive(len(WORD)) == WORD
    return joined, gate


@on_every_held_setup
@pytest.mark.parametrize("cut", [0, 1, 5, len(AGAIN) - 1, len(AGAIN)])
@pytest.mark.parametrize("second", [SECOND, b"open season"])
async def test_who_is_asked_again_is_judged_again_however_the_question_is_cut(bench, cut, second):
    joined, gate = await pass_the_word(bench)
    for part in (AGAIN[:cut], AGAIN[cut:]):
        await joined.upstream.send(part)
        assert await joined.client.receive(len(part)) == part
    for number in range(len(second)):
        assert has_nothing_to_read(joined.upstream)
        try:
            await joined.client.send(second[number : number + 1])
        except OSError:
            break  # refused already
        await until(lambda number=number: len(gate.asked_again) > number or joined.task.done())
    if second == SECOND:
        await joined.client.send(b" and more")
        assert await joined.upstream.receive(len(SECOND) + 9) == SECOND + b" and more"
        transfer = await end_in_order(joined)
        assert transfer == Transfer(len(WORD + SECOND) + 9, len(AGAIN), "client", "closed")
    else:
        with pytest.raises(SniMismatch):
            await joined.over()
        assert await joined.upstream.receive_all() == b""
        assert (joined.tunnel.bytes_up, joined.tunnel.bytes_down) == (len(WORD), len(AGAIN))


@on_every_held_setup
@pytest.mark.parametrize("answer", [b"welcome", AGAIN[:5] + b"?", b"\0"])
@pytest.mark.parametrize("cut", [0, 3])
async def test_behind_another_answer_everything_passes(bench, answer, cut):
    joined, gate = await pass_the_word(bench)
    await joined.client.send(b"held")
    for part in (answer[:cut], answer[cut:]):
        await joined.upstream.send(part)
        assert await joined.client.receive(len(part)) == part
    assert await joined.upstream.receive(4) == b"held"
    await joined.client.send(b", and on")
    assert await joined.upstream.receive(8) == b", and on"
    assert gate.asked_again == []
    assert await end_in_order(joined) == Transfer(len(WORD) + 12, len(answer), "client", "closed")


@on_every_held_setup
async def test_nothing_passes_before_the_upstream_has_answered(bench):
    joined, _ = await pass_the_word(bench)
    await joined.client.send(b"as if it had been asked")
    joined.client.wait_until_delivered()
    await asyncio.sleep(SHORT_S)
    assert has_nothing_to_read(joined.upstream)
    assert len(bench.deadlines) == 0  # it is the upstream's turn
    joined.tunnel.cut("cut")
    assert await joined.over() == Transfer(len(WORD), 0, "proxy", "cut")


@on_every_held_setup
@pytest.mark.parametrize("second", [SECOND + b" and more", b"open season"])
@pytest.mark.parametrize("ends", [False, True])
async def test_who_speaks_again_before_being_asked_is_judged_when_asked(bench, second, ends):
    joined, _ = await pass_the_word(bench)
    await joined.client.send(second)
    if ends:
        await joined.client.end()
    await until(lambda: joined.tunnel.up._held == second and joined.tunnel.up._source_ended is ends)
    await joined.upstream.send(AGAIN)
    if second == b"open season":
        with pytest.raises(SniMismatch):
            await joined.over()
        assert await joined.upstream.receive_all() == b""
        assert joined.tunnel.bytes_down == 0  # it need not hear the question any more
    else:
        assert await joined.client.receive(len(AGAIN)) == AGAIN
        assert await joined.upstream.receive(len(second)) == second
        if not ends:
            await joined.client.end()
        assert await joined.upstream.receive_all() == b""
        await joined.upstream.end()
        assert await joined.client.receive_all() == b""
        assert await joined.over() == Transfer(len(WORD + second), len(AGAIN), "client", "closed")


@on_every_held_setup
async def test_who_is_asked_again_and_has_ended_in_the_middle_is_the_gates_to_judge(bench):
    joined, _ = await pass_the_word(bench)
    await joined.client.send(SECOND[:3])
    await joined.client.end()
    await joined.upstream.send(AGAIN)
    with pytest.raises(MalformedHello):
        await joined.over()
    assert await joined.upstream.receive_all() == b""


@on_every_held_setup
@pytest.mark.parametrize("listener", [False, True])
async def test_who_ends_behind_the_word_is_told_to_the_upstream_at_once(bench, listener):
    """It can say nothing more, so there is nothing to wait for; and an upstream may never answer."""
    if listener:
        joined = await bench.join(unread=WORD, gate=Twice(bench, judged=len(WORD)))
        assert await joined.upstream.receive(len(WORD)) == WORD
    else:
        joined, _ = await pass_the_word(bench)
    await joined.client.end()
    assert await joined.upstream.receive_all() == b""
    await joined.upstream.send(AGAIN + b", and goodbye")
    await joined.upstream.end()
    assert await joined.client.receive_all() == AGAIN + b", and goodbye"
    assert await joined.over() == Transfer(len(WORD), len(AGAIN) + 13, "client", "closed")


@on_every_held_setup
async def test_who_says_more_and_ends_is_told_once_the_upstream_has_answered(bench):
    joined, _ = await pass_the_word(bench)
    await joined.client.send(b"held")
    await joined.client.end()
    joined.client.wait_until_delivered()
    await asyncio.sleep(SHORT_S)
    assert has_nothing_to_read(joined.upstream)
    await joined.upstream.send(b"welcome")
    assert await joined.upstream.receive_all() == b"held"
    await joined.upstream.send(b", and goodbye")
    await joined.upstream.end()
    assert await joined.client.receive_all() == b"welcome, and goodbye"
    assert await joined.over() == Transfer(len(WORD) + 4, 20, "client", "closed")


@on_every_held_setup
async def test_who_has_ended_does_not_wait_for_an_answer_longer_than_a_half_closed_tunnel_may(bench):
    bench.configure(half_close_s=SHORT_S)
    joined, _ = await pass_the_word(bench)
    await joined.client.send(b"held")
    await joined.client.end()
    assert await joined.over() == Transfer(len(WORD), 0, "proxy", "half_close_timeout")
    assert await joined.upstream.receive_all() == b""


@on_every_held_setup
@pytest.mark.parametrize("answer", [b"", AGAIN[:4]])
async def test_an_upstream_that_ends_without_an_answer_still_gets_what_was_held(bench, answer):
    joined, _ = await pass_the_word(bench)
    await joined.client.send(b"held")
    await joined.upstream.send(answer)
    await joined.upstream.end()
    assert await joined.client.receive_all() == answer
    assert await joined.upstream.receive(4) == b"held"
    await joined.client.end()
    assert await joined.upstream.receive_all() == b""
    assert await joined.over() == Transfer(len(WORD) + 4, len(answer), "upstream", "closed")


@on_every_held_setup
async def test_who_is_asked_again_has_the_time_once_more(bench):
    joined, _ = await pass_the_word(bench, within_s=4 * SHORT_S)
    await asyncio.sleep(5 * SHORT_S)
    assert not joined.task.done()
    await joined.upstream.send(AGAIN)
    with pytest.raises(HelloTimeout):
        await joined.over()
    assert joined.tunnel.bytes_up == len(WORD)


@on_every_held_setup
async def test_a_gate_that_is_not_strict_lets_pass_who_does_not_speak_again_in_time(bench):
    joined, _ = await pass_the_word(bench, strict=False, within_s=2 * SHORT_S)
    await joined.client.send(SECOND[:4])
    await joined.upstream.send(AGAIN)
    assert await joined.client.receive(len(AGAIN)) == AGAIN
    assert await joined.upstream.receive(4) == SECOND[:4]
    assert (await end_in_order(joined)).bytes_up == len(WORD) + 4


@on_every_held_setup
@pytest.mark.parametrize("asked", [False, True])
async def test_a_client_that_resets_between_the_two_ends_it(bench, asked):
    joined, _ = await pass_the_word(bench)
    if asked:
        await joined.upstream.send(AGAIN)
        assert await joined.client.receive(len(AGAIN)) == AGAIN
    await joined.client.send(SECOND[:4])
    await until(lambda: joined.tunnel.up._held)
    joined.client.reset()
    with pytest.raises(ConnectionResetError):
        await joined.upstream.receive_all()
    transfer = await joined.over()
    assert (transfer.bytes_up, transfer.end) == (len(WORD), "client_reset")


@on_every_held_setup
@pytest.mark.parametrize("asked", [False, True])
async def test_an_upstream_that_resets_between_the_two_ends_it(bench, asked):
    joined, _ = await pass_the_word(bench)
    await joined.client.send(SECOND[:4])
    if asked:
        await joined.upstream.send(AGAIN)
        assert await joined.client.receive(len(AGAIN)) == AGAIN
    joined.upstream.reset()
    with pytest.raises(BROKEN):
        await joined.client.receive_all()
    transfer = await joined.over()
    assert (transfer.bytes_up, transfer.end) == (len(WORD), "upstream_reset")


@on_every_held_setup
async def test_much_that_comes_before_the_answer_is_held_up(bench):
    joined = await bench.join(buffer=SMALL_BUFFER, gate=Twice(bench))
    payload = os.urandom(1_500_000)
    await joined.client.send(WORD)
    assert await joined.upstream.receive(len(WORD)) == WORD
    sending = asyncio.ensure_future(joined.client.send(payload))
    sent = await at_rest(lambda: joined.client.sent)
    assert sent < MAX_HELD_BYTES + READ_BYTES + 12 * SMALL_BUFFER
    assert has_nothing_to_read(joined.upstream)
    await joined.upstream.send(b"welcome")
    assert await joined.client.receive(7) == b"welcome"
    assert await joined.upstream.receive(len(payload)) == payload
    await sending
    assert (await end_in_order(joined)).bytes_up == len(WORD) + len(payload)


@on_every_held_setup
async def test_much_behind_the_answer_arrives_whole_by_the_fastest_engine(bench):
    joined, _ = await pass_the_word(bench)
    await joined.upstream.send(b"welcome")
    assert await joined.client.receive(7) == b"welcome"
    payload = os.urandom(3_000_000)

    async def give():
        await joined.upstream.send(payload)
        await joined.upstream.end()

    received, _ = await together(joined.client.receive_all(), give())
    assert received == payload
    assert type(joined.tunnel.down) is type(bench.relay.flow(joined.upstream_stream, joined.client_stream))
    await joined.client.end()
    assert await joined.upstream.receive_all() == b""
    assert await joined.over() == Transfer(len(WORD), 7 + len(payload), "upstream", "closed")


@on_every_held_setup
@pytest.mark.parametrize("judged", [False, True])
async def test_a_word_that_waits_for_the_upstream_costs_no_time(bench, judged):
    """`judged`: before the tunnel, by the listener."""
    full = Filled()
    gate = Twice(bench, judged=len(WORD) if judged else 0)
    joined = await bench.join(buffer=SMALL_BUFFER, before=full, gate=gate, unread=WORD if judged else b"")
    if not judged:
        await joined.client.send(WORD)
    await until(lambda: joined.tunnel.up.blocked)
    await joined.client.send(b"held")
    await until(lambda: joined.tunnel.up._held == b"held")
    calls = count_pumps(joined.tunnel.up)
    await asyncio.sleep(SHORT_S)
    assert len(calls) <= 2, "while it waits"
    assert await joined.upstream.receive(full.size + len(WORD)) == b"." * full.size + WORD
    await until(lambda: not joined.tunnel.up.blocked)
    calls.clear()
    await asyncio.sleep(SHORT_S)
    assert len(calls) <= 2, "and afterwards"
    await joined.upstream.send(b"welcome")
    assert await joined.client.receive(7) == b"welcome"
    assert await joined.upstream.receive(4) == b"held"
    assert (await end_in_order(joined)).bytes_up == len(WORD) + 4


@on_every_held_setup
@pytest.mark.parametrize("behind", [b"", b"held", SECOND])
@pytest.mark.parametrize("answer", [b"welcome", AGAIN])
async def test_what_a_listener_has_judged_goes_on_at_once_and_the_rest_is_held(bench, behind, answer):
    gate = Twice(bench, judged=len(WORD))
    joined = await bench.join(unread=WORD + behind, gate=gate)
    assert await joined.upstream.receive(len(WORD)) == WORD
    assert gate.asked == []
    assert has_nothing_to_read(joined.upstream)
    await joined.upstream.send(answer)
    if behind == b"held" and answer == AGAIN:
        with pytest.raises(SniMismatch):
            await joined.over()
        assert await joined.upstream.receive_all() == b""
        return
    assert await joined.client.receive(len(answer)) == answer
    if not behind and answer == AGAIN:
        await joined.client.send(SECOND)
        behind = SECOND
    assert await joined.upstream.receive(len(behind)) == behind
    assert (await end_in_order(joined)).bytes_up == len(WORD + behind)


def pieces(data, cuts):
    edges = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


CUTS = st.lists(st.integers(0, 30), max_size=4)


@pytest.mark.parametrize("setup", SETUPS, ids=str)
@settings(max_examples=30, deadline=None)
@given(
    answer=st.sampled_from([AGAIN, AGAIN + b" please", b"say it against", b"s", b"welcome"]),
    behind=st.sampled_from([SECOND, SECOND + bytes(9000), b"open season", SECOND[:5], b""]),
    answer_cuts=CUTS,
    cuts=CUTS,
    waits=st.booleans(),
)
def test_all_or_nothing_passes_behind_an_answer_however_all_is_cut(setup, answer, behind, answer_cuts, cuts, waits):
    async def story(bench):
        joined, _ = await pass_the_word(bench)

        async def speak():
            try:
                if waits:
                    assert await joined.client.receive(len(answer)) == answer
                for piece in pieces(behind, cuts):
                    await joined.client.send(piece)
                    await asyncio.sleep(0)
                await joined.client.end()
            except OSError:
                pass  # refused in the middle

        async def answer_and_hear():
            heard = b""
            try:
                for piece in pieces(answer, answer_cuts):
                    await joined.upstream.send(piece)
                    await asyncio.sleep(0)
                await joined.upstream.end()
                while data := await joined.upstream.receive_some():
                    heard += data
            except OSError:
                pass
            return heard

        heard, _ = await together(answer_and_hear(), speak())
        asked = answer.startswith(AGAIN)
        passes = not asked or behind.startswith(SECOND) or not behind
        assert heard == (behind if passes else b"")
        if passes:
            assert (await joined.over()).end == "closed"
        else:
            with pytest.raises((SniMismatch, MalformedHello)):
                await joined.over()
            assert joined.tunnel.bytes_up == len(WORD)

    run_setup(setup, story)


# --- the upstream meanwhile ---------------------------------------------------------------------------------------


@on_every_held_setup
async def test_the_upstream_may_speak_first(bench):
    joined = await bench.join(gate=Doorkeeper(bench))
    for number in range(10):
        await joined.upstream.send(b"220 banner %d" % number)
        assert await joined.client.receive(12) == b"220 banner %d" % number
    await joined.client.send(WORD)
    assert await joined.upstream.receive(len(WORD)) == WORD
    assert await end_in_order(joined) == Transfer(len(WORD), 120, "client", "closed")


@on_every_held_setup
async def test_much_from_the_upstream_flows_while_the_client_is_held(bench):
    joined = await bench.join(buffer=SMALL_BUFFER, gate=Doorkeeper(bench))
    payload = os.urandom(1_500_000)
    sending = asyncio.ensure_future(joined.upstream.send(payload))
    await at_rest(lambda: joined.upstream.sent)
    await joined.client.send(WORD[:5])  # while the way down is full
    assert await joined.client.receive(len(payload)) == payload
    await sending
    assert has_nothing_to_read(joined.upstream)
    await joined.client.send(WORD[5:])
    assert await joined.upstream.receive(len(WORD)) == WORD
    assert await end_in_order(joined) == Transfer(len(WORD), len(payload), "client", "closed")


@on_every_held_setup
async def test_what_the_upstream_said_is_counted_though_the_client_is_refused(bench):
    joined = await bench.join(gate=Doorkeeper(bench))
    await joined.upstream.send(b"220 banner")
    assert await joined.client.receive(10) == b"220 banner"
    await joined.client.send(b"EHLO")
    await refused(joined, NotTls)
    assert joined.tunnel.bytes_down == 10


@on_every_held_setup
async def test_an_upstream_that_ends_first_is_told_and_the_client_is_still_judged(bench):
    joined = await bench.join(gate=Doorkeeper(bench))
    await joined.client.send(WORD[:3])
    await joined.upstream.send(b"bye")
    await joined.upstream.end()
    assert await joined.client.receive_all() == b"bye"
    assert has_nothing_to_read(joined.upstream)
    await joined.client.send(WORD[3:] + b".")
    assert await joined.upstream.receive(len(WORD) + 1) == WORD + b"."
    await joined.client.end()
    assert await joined.upstream.receive_all() == b""
    assert await joined.over() == Transfer(len(WORD) + 1, 3, "upstream", "closed")


@on_every_held_setup
async def test_a_client_is_refused_though_the_upstream_has_ended(bench):
    joined = await bench.join(gate=Doorkeeper(bench))
    await joined.upstream.end()
    assert await joined.client.receive_all() == b""
    await joined.client.send(b"no word")
    await refused(joined, NotTls)


@on_every_held_setup
async def test_both_end_without_a_word(bench):
    joined = await bench.join(gate=Doorkeeper(bench))
    await joined.upstream.end()
    assert await joined.client.receive_all() == b""
    await joined.client.end()
    assert await joined.upstream.receive_all() == b""
    assert await joined.over() == Transfer(0, 0, "upstream", "closed")


@on_every_held_setup
@pytest.mark.parametrize("said", [b"", WORD[:4]])
async def test_an_upstream_that_resets_ends_it_and_its_last_words_arrive(bench, said):
    joined = await bench.join(gate=(gate := Doorkeeper(bench)))
    if said:
        await joined.client.send(said)
        await until(lambda: gate.asked)
    await joined.upstream.send(b"last words")
    joined.upstream.wait_until_delivered()
    joined.upstream.reset()
    assert await joined.client.receive(10) == b"last words"
    with pytest.raises(BROKEN):
        await joined.client.receive_all()
    assert await joined.over() == Transfer(0, 10, "upstream", "upstream_reset")


@on_every_held_setup
async def test_what_a_client_says_to_a_dead_upstream_is_read_and_asks_no_gate(bench):
    joined = await bench.join(buffer=SMALL_BUFFER, gate=(gate := Doorkeeper(bench)))
    await joined.client.send(WORD[:4])
    await until(lambda: gate.asked)
    await joined.upstream.send(bytes(100_000))
    await until(lambda: joined.tunnel.bytes_down == 100_000)
    joined.upstream.reset()
    await until(lambda: joined.tunnel.up.broken, "the tunnel noticed")
    assert len(bench.deadlines) == 0
    await joined.client.send(b"not the word" * 1000)
    received = 0
    try:
        while data := await joined.client.receive_some():
            received += len(data)
    except BROKEN:
        pass
    assert received == 100_000
    assert await joined.over() == Transfer(0, 100_000, "upstream", "upstream_reset")
    assert gate.asked == [WORD[:4]]


@on_every_held_setup
async def test_a_client_that_ends_beside_a_dead_upstream_is_heard_once(bench):
    joined = await bench.join(buffer=SMALL_BUFFER, gate=Doorkeeper(bench))
    await joined.upstream.send(bytes(150_000))
    await until(lambda: joined.tunnel.bytes_down == 150_000)
    joined.upstream.reset()
    await until(lambda: joined.tunnel.up.broken, "the tunnel noticed")
    await joined.client.end()
    await until(lambda: joined.tunnel.up.done, "and does not listen any more")
    assert not joined.task.done()
    assert len(await joined.client.receive(150_000)) == 150_000
    assert (await joined.over()).end == "upstream_reset"


# --- the client leaves --------------------------------------------------------------------------------------------


@on_every_held_setup
@pytest.mark.parametrize("said", [b"", WORD[:4]])
async def test_a_client_that_resets_is_a_reset_for_the_upstream_and_no_byte(bench, said):
    joined = await bench.join(gate=(gate := Doorkeeper(bench)))
    if said:
        await joined.client.send(said)
        await until(lambda: gate.asked)
    joined.client.reset()
    with pytest.raises(ConnectionResetError):
        await joined.upstream.receive_all()
    assert await joined.over() == Transfer(0, 0, "client", "client_reset")


@on_every_held_setup
async def test_a_client_that_resets_while_the_upstream_pours_ends_it_at_once(bench):
    joined = await bench.join(buffer=SMALL_BUFFER, gate=Doorkeeper(bench))

    async def pour():
        while True:
            await joined.upstream.send(bytes(COPY_BYTES))

    pouring = asyncio.ensure_future(pour())
    await joined.client.receive(500_000)
    await joined.client.send(WORD[:2])
    joined.client.reset()
    with pytest.raises(BROKEN):
        await pouring
    transfer = await joined.over()
    assert (transfer.bytes_up, transfer.closed_by, transfer.end) == (0, "client", "client_reset")


@on_every_held_setup
async def test_a_client_that_ends_without_a_word_may_still_listen(bench):
    joined = await bench.join(gate=Doorkeeper(bench))
    await joined.client.end()
    assert await joined.upstream.receive_all() == b""
    await joined.upstream.send(b"for you")
    await joined.upstream.end()
    assert await joined.client.receive_all() == b"for you"
    assert await joined.over() == Transfer(0, 7, "client", "closed")


@on_every_held_setup
async def test_a_client_that_ends_in_the_middle_is_the_gates_to_judge(bench):
    joined = await bench.join(gate=Doorkeeper(bench))
    await joined.client.send(WORD[:4])
    await joined.client.end()
    await refused(joined, MalformedHello)
    joined = await bench.join(gate=Doorkeeper(bench, strict=False))
    await joined.client.send(WORD[:4])
    await joined.client.end()
    assert await joined.upstream.receive_all() == WORD[:4]
    await joined.upstream.end()
    assert await joined.over() == Transfer(4, 0, "client", "closed")


# --- time ---------------------------------------------------------------------------------------------------------


@on_every_held_setup
@pytest.mark.parametrize("said", [b"", WORD[:4]])
async def test_who_has_not_said_the_word_in_time_is_refused(bench, said):
    joined = await bench.join(gate=Doorkeeper(bench, within_s=SHORT_S))
    await joined.client.send(said)
    started = bench.loop.time()
    await refused(joined, HelloTimeout)
    assert bench.loop.time() - started < 100 * SHORT_S


@on_every_held_setup
@pytest.mark.parametrize("patient", [False, True])
async def test_more_of_the_word_does_not_move_the_deadline(bench, patient):
    gate = Doorkeeper(bench, word=WORD * 10_000, patient=patient, within_s=3 * SHORT_S)
    joined = await bench.join(gate=gate)
    started = bench.loop.time()
    while not joined.task.done():
        try:
            await joined.client.send(gate.word[len(gate.asked) : len(gate.asked) + 1])
        except BROKEN:
            break
        await asyncio.sleep(SHORT_S / 10)
    assert bench.loop.time() - started < 50 * SHORT_S
    await refused(joined, HelloTimeout)


@on_every_held_setup
async def test_a_gate_may_let_pass_what_came_in_time(bench):
    joined = await bench.join(gate=Doorkeeper(bench, strict=False, within_s=SHORT_S))
    await joined.client.send(WORD[:4])
    assert await joined.upstream.receive(4) == WORD[:4]
    await joined.client.send(b"anything")
    assert await joined.upstream.receive(8) == b"anything"
    assert (await end_in_order(joined)).bytes_up == 12


@on_every_held_setup
async def test_who_may_be_silent_has_the_time_from_the_first_byte_on(bench):
    joined = await bench.join(gate=Doorkeeper(bench, patient=True, within_s=SHORT_S))
    assert len(bench.deadlines) == 0
    await asyncio.sleep(2 * SHORT_S)
    assert not joined.task.done()
    await joined.client.send(WORD[:4])
    await refused(joined, HelloTimeout)


@on_every_held_setup
async def test_no_deadline_is_set_any_more_once_the_bytes_may_pass(bench):
    joined = await bench.join(gate=Doorkeeper(bench))
    assert len(bench.deadlines) == 1
    await joined.client.send(WORD)
    assert await joined.upstream.receive(len(WORD)) == WORD
    assert len(bench.deadlines) == 0
    await end_in_order(joined)


@on_every_held_setup
async def test_a_deadline_of_a_client_that_is_refused_already_changes_nothing(bench):
    """Both may fall into one turn of the loop: what was found first stays."""
    joined = await bench.join(gate=Doorkeeper(bench))
    flow = joined.tunnel.up
    await joined.client.send(b"no word")
    joined.client.wait_until_delivered()
    while not flow.done:  # noqa: ASYNC110 - the very next turn of the loop matters
        await asyncio.sleep(0)
    assert len(bench.deadlines) == 0
    flow.expire()
    await refused(joined, NotTls)
    flow.expire()


@on_every_held_setup
async def test_who_may_be_silent_idles_out_as_others_do(bench):
    bench.configure(idle_s=SHORT_S)
    joined = await bench.join(gate=Doorkeeper(bench, patient=True))
    assert await joined.over() == Transfer(0, 0, "proxy", "idle_timeout")


# --- ends from inside ---------------------------------------------------------------------------------------------


@on_every_held_setup
@pytest.mark.parametrize("said", [b"", WORD[:4]])
async def test_a_held_tunnel_can_be_cut(bench, said):
    joined = await bench.join(gate=(gate := Doorkeeper(bench)))
    await joined.upstream.send(b"banner")
    assert await joined.client.receive(6) == b"banner"
    if said:
        await joined.client.send(said)
        await until(lambda: gate.asked)
    assert bench.relay.cut_all("drained") == 1
    assert await joined.over() == Transfer(0, 6, "proxy", "drained")
    assert await joined.upstream.receive_all() == b""


@on_every_held_setup
async def test_a_cancelled_held_tunnel_leaves_nothing(bench):
    joined = await bench.join(gate=(gate := Doorkeeper(bench)))
    await joined.client.send(WORD[:4])
    await until(lambda: gate.asked)
    joined.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await joined.over()
    assert await joined.upstream.receive_all() == b""


@on([setup for setup in SETUPS if not setup.tls])
@pytest.mark.parametrize("how", ["refused", "expired", "cut", "reset", "passed"])
async def test_a_held_tunnel_is_gone_without_the_garbage_collector(bench, how):
    """Refused tunnels come by the thousand when somebody tries, and the collector runs rarely."""
    said = {"refused": b"no", "passed": WORD}.get(how, WORD[:4])

    async def story(inner, outer):
        gate = Doorkeeper(bench, within_s=SHORT_S if how == "expired" else LONG_S)
        tunnel = bench.relay.open(inner, outer, gate)
        if how == "cut":
            bench.loop.call_soon(tunnel.cut, "cut")
        try:
            return (await tunnel.run()).end
        except (NotTls, HelloTimeout) as error:
            return error.slug

    def left():
        return [one for one in gc.get_objects() if isinstance(one, (Tunnel, HeldFlow, Doorkeeper))]

    gc.collect()
    gc.disable()
    try:
        (client, inner), (outer, upstream) = socket_pair(), socket_pair()
        streams = [tcp_stream(sock, bench.poller) for sock in (inner, outer)]
        with client, upstream:
            client.send(said)
            if how == "reset":
                Peer(client).reset()
            elif how == "passed":
                client.shutdown(socket.SHUT_WR)
                upstream.shutdown(socket.SHUT_WR)
            end = await story(*streams)
        assert (
            end
            == {
                "refused": "not_tls",
                "expired": "hello_timeout",
                "cut": "cut",
                "reset": "client_reset",
                "passed": "closed",
            }[how]
        )
        for stream in streams:
            stream.close()
        assert left() == []
    finally:
        gc.enable()


@on([setup for setup in SETUPS if not setup.tls])
async def test_a_refusal_leaves_both_streams_open_for_the_client_to_be_told(bench):
    (client, inner), (outer, upstream) = socket_pair(), socket_pair()
    inner, outer = tcp_stream(inner, bench.poller), tcp_stream(outer, bench.poller)
    with client, upstream:
        client.send(b"no word")
        with pytest.raises(NotTls):
            await bench.relay.open(inner, outer, Doorkeeper(bench)).run()
        assert inner.try_write(b"no") == 2
        assert client.recv(10) == b"no"
        inner.close()
        outer.close()
        assert upstream.recv(10) == b""
