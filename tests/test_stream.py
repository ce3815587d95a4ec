"""One list for TCP and TLS streams, then what TLS alone must do: above all, end one half without losing the other."""

from __future__ import annotations

import asyncio
import os
import shutil
import ssl
import subprocess

import pytest
from support.certificates import TLS_1_2, TLS_1_3, client_context, server_context, write_files
from support.loops import left_open, open_descriptors, until
from support.peers import BROKEN, SMALL_BUFFER, Peer, TlsPeer, Truncated, listening, socket_pair, tcp_stream, together

from egressproxy.deadlines import DeadlineQueue
from egressproxy.poller import READ, create_poller
from egressproxy.stream import StreamExpired, TlsStream

VERSIONS = {"1.2": TLS_1_2, "1.3": TLS_1_3}
OPENSSL = shutil.which("openssl")


@pytest.fixture
async def poller():
    """Nothing may be left watched, and no descriptor open."""
    before = open_descriptors()
    poller = create_poller(asyncio.get_running_loop())
    yield poller
    assert len(poller) == 0
    poller.close()
    assert left_open(before) == {}


async def connect(kind, poller, *, buffer=None, server_side=True):
    """A stream of the package and the peer at its other end: `tcp`, or the one TLS version to speak."""
    peer_end, our_end = socket_pair(buffer=buffer)
    tcp = tcp_stream(our_end, poller)
    if kind == "tcp":
        return tcp, Peer(peer_end)
    version = VERSIONS[kind]
    if server_side:
        stream = TlsStream(tcp, server_context(version), server_side=True)
        peer = TlsPeer(peer_end, client_context(version), server_side=False)
    else:
        stream = TlsStream(tcp, trusting_context(version), server_side=False)
        peer = TlsPeer(peer_end, server_context(version), server_side=True)
    await together(stream.handshake(), peer.handshake())
    assert peer.tls.version() == f"TLSv{kind}"
    return stream, peer


def trusting_context(version):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version = context.maximum_version = version
    return context


@pytest.fixture(params=["tcp", "1.2", "1.3", "1.3-as-client", "1.2-as-client"])
async def ends(request, poller):
    kind, _, as_client = request.param.partition("-")
    stream, peer = await connect(kind, poller, buffer=SMALL_BUFFER, server_side=not as_client)
    yield stream, peer
    stream.close()
    stream.close()
    peer.close()


# --- the list -----------------------------------------------------------------------------------------------------


async def test_reads_what_came_and_then_the_end(ends):
    stream, peer = ends
    assert stream.try_read(10) is None
    await peer.send(b"hello")
    assert await stream.read(2) == b"he"
    assert await stream.read(10) == b"llo"
    await peer.end()
    assert await stream.read(10) == b""
    assert await stream.read(10) == b""
    assert stream.try_read(10) == b""


async def test_bytes_put_back_come_first(ends):
    stream, peer = ends
    await peer.send(b"third")
    stream.unread(b"second")
    stream.unread(b"first ")
    assert stream.try_read(6) == b"first "
    assert stream.try_read(3) == b"sec"
    assert stream.take_unread() == b"ond"
    assert stream.take_unread() == b""
    assert await stream.read(100) == b"third"


async def test_bytes_put_back_come_before_the_end(ends):
    stream, peer = ends
    await peer.end()
    assert await stream.read(10) == b""
    stream.unread(b"again")
    assert await stream.read(10) == b"again"
    assert await stream.read(10) == b""


async def test_writes_all_of_it_to_a_slow_reader(ends):
    stream, peer = ends
    payload = os.urandom(2_000_000)
    writing = asyncio.ensure_future(stream.write(payload))
    await asyncio.sleep(0)
    assert not writing.done(), "the reader holds the writer up"
    assert await peer.receive(len(payload)) == payload
    await writing


async def test_takes_no_more_than_fits(ends):
    stream, peer = ends
    payload = memoryview(os.urandom(4_000_000))
    taken = 0
    while now := stream.try_write(payload[taken:]):
        taken += now
    assert 0 < taken < 2_000_000
    received = peer.receive(taken)
    reading = asyncio.ensure_future(received)
    await until(stream.try_flush)
    assert await reading == payload[:taken]
    assert stream.try_flush()


async def test_a_write_ends_when_all_is_written_that_was_taken_before(ends):
    """For no data, too: who was told that all was taken, but not flushed, writes the nothing that is left."""
    stream, peer = ends
    payload = memoryview(os.urandom(4_000_000))
    taken = 0
    while now := stream.try_write(payload[taken:]):
        taken += now
    async with asyncio.timeout(10):
        received, _ = await together(peer.receive(taken), stream.write(b""))
    assert received == payload[:taken]
    assert stream.try_flush()


async def test_an_empty_write_is_nothing(ends):
    stream, peer = ends
    await stream.write(b"")
    assert stream.try_write(b"") == 0
    await stream.write(b"x")
    assert await peer.receive(1) == b"x"


async def test_after_its_end_a_stream_can_still_read(ends):
    stream, peer = ends
    await stream.write(b"last")
    stream.end_writing()
    assert await peer.receive_all() == b"last"
    payload = os.urandom(1_000_000)

    async def read_all():
        data = b""
        while more := await stream.read(65_536):
            data += more
        return data

    async def send():
        await peer.send(payload)
        await peer.end()

    received, _ = await together(read_all(), send())
    assert received == payload


async def test_after_the_peers_end_a_stream_can_still_write(ends):
    stream, peer = ends
    await peer.end()
    assert await stream.read(1) == b""
    payload = os.urandom(1_000_000)

    async def write():
        await stream.write(payload)
        stream.end_writing()

    received, _ = await together(peer.receive_all(), write())
    assert received == payload


async def test_closing_is_an_end_for_the_peer_and_harmless_twice(ends):
    stream, peer = ends
    await stream.write(b"bye")
    stream.end_writing()
    stream.close()
    stream.close()
    stream.abort()
    assert stream.fd == -1
    assert await peer.receive_all() == b"bye"
    assert "closed" in repr(stream)


async def test_aborting_is_no_orderly_end(ends):
    stream, peer = ends
    await stream.write(b"bye")
    assert await peer.receive(3) == b"bye"
    stream.abort()
    stream.abort()
    with pytest.raises(BROKEN):
        await peer.receive_all()


async def test_a_peer_that_resets_is_an_error(ends):
    stream, peer = ends
    peer.reset()
    with pytest.raises(OSError):
        await stream.read(1)


async def test_a_reset_that_a_write_found_is_an_error_for_the_reader_too(ends):
    stream, peer = ends
    peer.reset()
    with pytest.raises(ConnectionResetError):
        await stream.write(b"x")
    with pytest.raises(ConnectionResetError):
        await stream.read(1)


async def test_what_came_before_a_reset_can_be_read(ends):
    stream, peer = ends
    await peer.send(b"before")
    peer.wait_until_delivered()
    peer.reset()
    assert await stream.read(100) == b"before"
    with pytest.raises(OSError):
        await stream.read(1)


async def test_what_came_while_nobody_read_is_read_when_somebody_does(ends):
    """The poller tells of it once: whoever waits afterwards must not wait for more."""
    stream, peer = ends
    await peer.send(b"one")
    assert await stream.read(100) == b"one"
    tcp = stream.tcp if isinstance(stream, TlsStream) else stream
    heard = []
    tcp.unawaited = heard.append
    tcp.listen()
    await peer.send(b"two")
    await until(lambda: heard)
    tcp.unawaited = None
    async with asyncio.timeout(5):
        await tcp.wait(READ)
        assert await stream.read(100) == b"two"
    stream.close()
    peer.close()


async def test_a_stream_knows_its_peer(ends):
    stream, peer = ends
    assert (stream.address, stream.port) == peer.sock.getsockname()
    assert stream.address in repr(stream)


async def test_a_deadline_that_passes_ends_the_wait_for_bytes(ends):
    stream, _ = ends
    reading = asyncio.ensure_future(stream.read(1))
    await asyncio.sleep(0)
    assert not reading.done()
    stream.expire()
    with pytest.raises(StreamExpired):
        await reading


async def test_a_deadline_that_passes_ends_the_wait_for_room(ends):
    stream, _ = ends
    writing = asyncio.ensure_future(stream.write(bytes(2_000_000)))
    await asyncio.sleep(0)
    assert not writing.done()
    stream.expire()
    stream.expire()
    with pytest.raises(StreamExpired):
        await writing


async def test_after_its_deadline_nothing_is_waited_for_but_what_is_here_can_be_had(ends):
    stream, peer = ends
    await peer.send(b"here")
    peer.wait_until_delivered()
    stream.expire()
    assert await stream.read(10) == b"here"
    await stream.write(b"answer")
    assert await peer.receive(6) == b"answer"
    with pytest.raises(StreamExpired):
        await stream.read(1)


async def test_a_cancelled_read_can_be_tried_again(ends):
    stream, peer = ends
    reading = asyncio.ensure_future(stream.read(1))
    await asyncio.sleep(0)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    stream.unread(b"")
    await peer.send(b"x")
    assert await stream.read(1) == b"x"


async def test_a_queue_of_deadlines_moves_streams(ends):
    stream, _ = ends
    due = DeadlineQueue("head_timeout", 0.01, asyncio.get_running_loop())
    due.start(stream)
    with pytest.raises(StreamExpired):
        await stream.read(1)
    assert len(due) == 0


# --- TLS ----------------------------------------------------------------------------------------------------------


@pytest.fixture(params=list(VERSIONS))
def version(request):
    return request.param


@pytest.mark.parametrize("first", ["stream", "peer", "both"])
@pytest.mark.parametrize("server_side", [True, False])
async def test_half_an_end_with_data_in_flight_both_ways_loses_nothing(poller, version, first, server_side):
    """Ending one half must not swallow what the peer is sending: whole records, parts of one, or its own end."""
    for lead in (0, 1, 5, 4_000, 16_384, 16_385, 70_000, 140_000):
        stream, peer = await connect(version, poller, buffer=SMALL_BUFFER, server_side=server_side)
        up, down = os.urandom(300_000), os.urandom(250_000)

        async def peer_sends(peer=peer, up=up, lead=lead):
            if lead:
                await peer.send(up[:lead])
            await asyncio.sleep(0)
            await peer.send(up[lead:])
            await peer.end()

        async def stream_writes(stream=stream, down=down):
            await stream.write(down)
            stream.end_writing()

        async def stream_reads(stream=stream):
            data = b""
            while more := await stream.read(10_000):
                data += more
            return data

        if first == "stream":
            stream.try_write(b"")
            writing = asyncio.ensure_future(stream_writes())
            got_down, _ = await together(peer.receive_all(), writing)
            got_up, _ = await together(stream_reads(), peer_sends())
        elif first == "peer":
            got_up, _ = await together(stream_reads(), peer_sends())
            got_down, _ = await together(peer.receive_all(), stream_writes())
        else:
            sending = asyncio.ensure_future(peer_sends())
            writing = asyncio.ensure_future(stream_writes())
            # Two readers on one stream, as the relay has: it reads while it writes.
            got_down, got_up, _, _ = await together(peer.receive_all(), reads_without_waiting(stream), sending, writing)
        assert got_up == up, lead
        assert got_down == down, lead
        stream.close()
        peer.close()


async def reads_without_waiting(stream):
    data = b""
    while True:
        more = stream.try_read(10_000)
        if more is None:
            await asyncio.sleep(0)
        elif not more:
            return data
        else:
            data += more


async def test_an_end_with_unread_bytes_already_here_keeps_them(poller, version):
    stream, peer = await connect(version, poller)
    await peer.send(b"a" * 40_000)
    await peer.send(b"b" * 10)
    peer.wait_until_delivered()
    assert await stream.read(1) == b"a"  # the rest of the records waits inside the engine
    stream.end_writing()
    assert await peer.receive_all() == b""
    await peer.send(b"c" * 10)
    await peer.end()
    data = b""
    while more := await stream.read(7_000):
        data += more
    assert data == b"a" * 39_999 + b"b" * 10 + b"c" * 10
    stream.close()
    peer.close()


async def test_an_end_after_the_peers_end_is_told(poller, version):
    stream, peer = await connect(version, poller)
    await peer.send(b"x")
    await peer.end()
    peer.wait_until_delivered()
    stream.end_writing()  # before anything was read
    assert await peer.receive_all() == b""
    assert await stream.read(10) == b"x"
    assert await stream.read(10) == b""
    assert not stream.cut_off
    stream.close()
    peer.close()


async def test_a_close_without_close_notify_reads_as_the_end(poller, version):
    stream, peer = await connect(version, poller)
    await stream.write(b"x")
    assert await peer.receive(1) == b"x"  # with the session tickets: a close over unread bytes would be a reset
    await peer.send(b"half a stor")
    peer.close()
    assert await stream.read(100) == b"half a stor"
    assert await stream.read(100) == b""
    assert stream.cut_off
    stream.close()


async def test_the_peer_can_tell_a_cut_from_an_end(poller, version):
    stream, peer = await connect(version, poller)
    await stream.write(b"half a stor")
    stream.close()
    assert await peer.receive(11) == b"half a stor"
    with pytest.raises(Truncated):
        await peer.receive_some()
    peer.close()


async def test_bytes_that_are_no_record_are_an_error(poller, version):
    stream, peer = await connect(version, poller)
    await Peer.send(peer, b"\x17\x03\x03\x00\x10" + bytes(16))
    with pytest.raises(ssl.SSLError):
        await stream.read(1)
    stream.close()
    peer.close()


# --- handshakes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "opening",
    [b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"CONNECT a:443 HTTP/1.1\r\n\r\n", bytes(64), b"\x16\x03\x01\x00\x05hello"],
)
async def test_what_is_no_tls_fails_the_handshake(poller, opening):
    peer_end, our_end = socket_pair()
    stream = TlsStream(tcp_stream(our_end, poller), server_context(), server_side=True)
    peer = Peer(peer_end)
    await peer.send(opening)
    with pytest.raises(ssl.SSLError):
        async with asyncio.timeout(10):
            await stream.handshake()
    stream.close()
    peer.close()


async def test_without_a_version_in_common_both_are_told(poller):
    peer_end, our_end = socket_pair()
    stream = TlsStream(tcp_stream(our_end, poller), server_context(TLS_1_3), server_side=True)
    peer = TlsPeer(peer_end, client_context(TLS_1_2), server_side=False)
    async with asyncio.timeout(20):
        failures = await asyncio.gather(stream.handshake(), peer.handshake(), return_exceptions=True)
    assert all(isinstance(failure, ssl.SSLError) for failure in failures), failures
    assert "PROTOCOL_VERSION" in failures[1].reason, "the alert came through"
    stream.close()
    peer.close()


@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01\x02\x00\x01"])
async def test_a_peer_that_leaves_during_the_handshake_is_an_error(poller, sent):
    peer_end, our_end = socket_pair()
    stream = TlsStream(tcp_stream(our_end, poller), server_context(), server_side=True)
    peer = Peer(peer_end)
    await peer.send(sent)
    peer.close()
    with pytest.raises(ConnectionResetError, match="during the TLS handshake"):
        await stream.handshake()
    stream.close()


async def test_a_cancelled_handshake_leaves_nothing(poller):
    peer_end, our_end = socket_pair()
    stream = TlsStream(tcp_stream(our_end, poller), server_context(), server_side=True)
    task = asyncio.ensure_future(stream.handshake())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    stream.close()
    peer_end.close()


async def test_bytes_read_before_the_handshake_belong_to_it(poller):
    peer_end, our_end = socket_pair()
    tcp = tcp_stream(our_end, poller)
    peer = TlsPeer(peer_end, client_context(), server_side=False)
    shaking = asyncio.ensure_future(peer.handshake())
    tcp.unread(await tcp.read(20))
    stream = TlsStream(tcp, server_context(), server_side=True)
    await together(stream.handshake(), shaking)
    await peer.send(b"x")
    assert await stream.read(1) == b"x"
    stream.close()
    peer.close()


async def test_bytes_that_came_with_the_last_of_the_handshake_are_read(poller, version):
    """A client may send right behind its Finished: both arrive in one segment."""
    peer_end, our_end = socket_pair()
    stream = TlsStream(tcp_stream(our_end, poller), server_context(VERSIONS[version]), server_side=True)
    peer = TlsPeer(peer_end, client_context(VERSIONS[version]), server_side=False)

    async def eager():
        await peer.handshake()
        await peer.send(b"at once")

    await together(stream.handshake(), eager())
    assert await stream.read(100) == b"at once"
    stream.close()
    peer.close()


# --- a second opinion: the openssl program ------------------------------------------------------------------------


@pytest.mark.skipif(OPENSSL is None, reason="openssl is not installed")
async def test_openssl_updates_its_keys_and_ends_in_order(poller, tmp_path):
    """`K` in s_client asks for new keys on both sides (RFC 8446 section 4.6.3), `Q` ends with a close_notify."""
    files = write_files(tmp_path)
    loop = asyncio.get_running_loop()
    with listening() as listener:
        place = "{}:{}".format(*listener.getsockname())
        process = subprocess.Popen(  # noqa: ASYNC220 - it starts at once
            [OPENSSL, "s_client", "-connect", place, "-CAfile", files["authority"], "-tls1_3"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            bufsize=0,
        )
        stream = None
        try:
            async with asyncio.timeout(30):
                our_end, _ = await loop.run_in_executor(None, listener.accept)
                stream = TlsStream(tcp_stream(our_end, poller), server_context(), server_side=True)
                await stream.handshake()
                for number in range(3):
                    process.stdin.write(b"line %d" % number)
                    assert await stream.read(100) == b"line %d" % number
                    process.stdin.write(b"K\n")
                    while b"KEYUPDATE" not in await loop.run_in_executor(None, process.stderr.readline):
                        pass
                    await stream.write(b"answer")
                process.stdin.write(b"after")
                assert await stream.read(100) == b"after"
                stream.end_writing()
                process.stdin.write(b"Q\n")
                assert await stream.read(100) == b""
        finally:
            process.kill()
            process.wait()
            process.stdin.close()
            process.stderr.close()
            if stream is not None:
                stream.close()


@pytest.mark.skipif(OPENSSL is None, reason="openssl is not installed")
async def test_openssl_is_told_at_once_that_there_is_no_renegotiation(poller, tmp_path):
    """`R` in s_client begins a new handshake, as TLS 1.2 has it. The refusal goes out though nothing else is written."""
    files = write_files(tmp_path)
    loop = asyncio.get_running_loop()
    context = server_context(TLS_1_2)
    context.options |= ssl.OP_NO_RENEGOTIATION
    with listening() as listener:
        place = "{}:{}".format(*listener.getsockname())
        process = subprocess.Popen(  # noqa: ASYNC220 - it starts at once
            [OPENSSL, "s_client", "-connect", place, "-CAfile", files["authority"], "-tls1_2"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            bufsize=0,
        )
        stream = None
        try:
            async with asyncio.timeout(30):
                our_end, _ = await loop.run_in_executor(None, listener.accept)
                stream = TlsStream(tcp_stream(our_end, poller), context, server_side=True)
                await stream.handshake()
                process.stdin.write(b"hello")
                assert await stream.read(100) == b"hello"
                process.stdin.write(b"R\n")
                try:
                    assert await stream.read(100) == b""
                except OSError:
                    pass  # it may leave with an alert of its own, or without a word
                complaint = await loop.run_in_executor(None, process.stderr.read)
                assert b"no renegotiation" in complaint
        finally:
            process.kill()
            process.wait()
            process.stdin.close()
            process.stderr.close()
            if stream is not None:
                stream.close()
