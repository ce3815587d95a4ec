"""Bytes through the real process: in order, all of them, both ways at once, and nothing left behind."""

from __future__ import annotations

import hashlib
import random
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support import certificates
from support.clients import ESTABLISHED, connect_head, dial, open_tunnel, receive, receive_all
from support.origin import NAME, PAGE, TcpOrigin, TlsOrigin
from support.proxy import Proxy
from support.waiting import once_at_rest

MIB = 1024 * 1024
BLOCK = random.Random(20_261_120).randbytes(4 * MIB)  # noqa: S311, RUF100 - test data


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory, open_config: dict[str, Any]) -> Iterator[Proxy]:
    with Proxy(tmp_path_factory.mktemp("proxy"), open_config) as proxy:
        with TcpOrigin() as origin:
            swap(proxy, origin, 4 * len(BLOCK))  # so that the pipes it keeps are there before anything is counted
        yield proxy


@pytest.fixture(scope="module")
def at_rest(proxy: Proxy) -> int:
    """Descriptors of a proxy that has carried much and carries nothing."""
    proxy.settled()
    return proxy.descriptors()


@pytest.fixture(autouse=True)
def _nothing_is_left(proxy: Proxy, at_rest: int) -> Iterator[None]:
    yield
    proxy.settled()
    assert {record["outcome"] for record in proxy.logged().records} == {"closed"}
    proxy.wait_at_rest(at_rest)
    assert proxy.metric("tunnels_open") == 0


def pour(sock: socket.socket, size: int) -> None:
    """Send the block again and again, `size` bytes in all."""
    for _ in range(size // len(BLOCK)):
        sock.sendall(BLOCK)


def send_and_end(sock: socket.socket, data: bytes) -> None:
    """Send it all, and say that no more comes."""
    sock.sendall(data)
    sock.shutdown(socket.SHUT_WR)


def digest_of(sock: socket.socket, size: int) -> str:
    """The hash of the next `size` bytes."""
    digest, left, buffer = hashlib.sha256(), size, memoryview(bytearray(MIB))
    while left and (got := sock.recv_into(buffer, min(left, MIB))):
        digest.update(buffer[:got])
        left -= got
    assert not left, f"the end, {left} bytes too early"
    return digest.hexdigest()


def expected_digest(size: int) -> str:
    digest = hashlib.sha256()
    for _ in range(size // len(BLOCK)):
        digest.update(BLOCK)
    return digest.hexdigest()


def at_once(*jobs: Callable[[], object]) -> list[object]:
    """Run each in a thread; their results."""
    results: list[object] = [None] * len(jobs)

    def run(number: int) -> None:
        try:
            results[number] = jobs[number]()
        except Exception as error:
            results[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def swap(proxy: Proxy, origin: TcpOrigin, size: int) -> list[object]:
    """`size` bytes each way at the same time; the digests that client and origin make of what they get."""
    with open_tunnel(proxy, origin.target) as client, origin.take() as server:
        results = at_once(
            lambda: pour(client, size),
            lambda: pour(server, size),
            lambda: digest_of(client, size),
            lambda: digest_of(server, size),
        )
    return results[2:]


# --- the beginning ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 1000, 100_000])
def test_bytes_in_one_write_with_the_head_belong_to_the_tunnel(proxy: Proxy, size: int) -> None:
    data = BLOCK[:size]
    with TcpOrigin() as origin, open_tunnel(proxy, origin.target, behind=data) as client, origin.take() as server:
        assert receive(server, size) == data
        server.sendall(data)
        assert receive(client, size) == data


def test_a_head_and_a_client_hello_may_come_in_one_write(proxy: Proxy, origin: TlsOrigin) -> None:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = certificates.client_context().wrap_bio(incoming, outgoing, server_hostname=NAME)
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    with dial(proxy) as client:
        client.sendall(connect_head(origin.target) + outgoing.read())
        assert receive(client, len(ESTABLISHED)) == ESTABLISHED

        def step(action: Callable[[], Any]) -> Any:
            while True:
                try:
                    return action()
                except ssl.SSLWantReadError:
                    client.sendall(outgoing.read())
                    incoming.write(client.recv(65_536))
                finally:
                    client.sendall(outgoing.read())

        step(tls.do_handshake)
        step(lambda: tls.write(f"GET / HTTP/1.1\r\nHost: {NAME}\r\nConnection: close\r\n\r\n".encode()))
        answer = b""
        while not answer.endswith(PAGE):
            answer += step(lambda: tls.read(65_536))
        assert step(lambda: tls.read(1)) == b""
        step(tls.unwrap)


def test_a_head_byte_by_byte_opens_the_same_tunnel(proxy: Proxy) -> None:
    with TcpOrigin() as origin, dial(proxy) as client:
        for byte in connect_head(origin.target, "X-Test: 1") + b"!":
            client.sendall(bytes((byte,)))
        assert receive(client, len(ESTABLISHED)) == ESTABLISHED
        with origin.take() as server:
            assert receive(server, 1) == b"!"


# --- half-close ---------------------------------------------------------------------------------------------------


def test_a_client_that_ends_its_half_behind_the_head_still_gets_what_comes(proxy: Proxy) -> None:
    with TcpOrigin() as origin, dial(proxy) as client:
        client.sendall(connect_head(origin.target) + b"question")
        client.shutdown(socket.SHUT_WR)
        with origin.take() as server:
            assert receive_all(server) == b"question"
            server.sendall(b"answer")
        assert receive_all(client) == ESTABLISHED + b"answer"


@pytest.mark.parametrize("first", ["client", "upstream"])
@pytest.mark.parametrize("size", [0, 1, 8 * MIB])
def test_one_half_may_end_long_before_the_other(proxy: Proxy, first: str, size: int) -> None:
    with TcpOrigin() as origin, open_tunnel(proxy, origin.target) as client, origin.take() as server:
        ending, going_on = (client, server) if first == "client" else (server, client)
        data = (BLOCK + BLOCK)[:size]
        ending.sendall(b"the last words")
        ending.shutdown(socket.SHUT_WR)
        assert receive_all(going_on) == b"the last words"
        assert proxy.metric("tunnels_open") == 1
        assert at_once(lambda: send_and_end(going_on, data), lambda: receive_all(ending)) == [None, data]
    (record,) = proxy.settled().records
    assert record["closed_by"] == first
    assert (record["bytes_up"], record["bytes_down"]) == ((14, size) if first == "client" else (size, 14))


def test_both_halves_may_end_with_everything_still_under_way(proxy: Proxy) -> None:
    data = BLOCK[: 2 * MIB]
    with TcpOrigin() as origin, open_tunnel(proxy, origin.target) as client, origin.take() as server:
        results = at_once(
            lambda: send_and_end(client, data),
            lambda: send_and_end(server, data),
            lambda: receive_all(client),
            lambda: receive_all(server),
        )
    assert results == [None, None, data, data]


# --- small and large ----------------------------------------------------------------------------------------------


def test_ten_thousand_single_bytes_go_to_and_fro(proxy: Proxy, echo_origin: TcpOrigin) -> None:
    with open_tunnel(proxy, echo_origin.target) as client:
        for number in range(10_000):
            byte = bytes((number & 0xFF,))
            client.send(byte)
            assert client.recv(2) == byte
    (record,) = proxy.settled().records
    assert (record["bytes_up"], record["bytes_down"]) == (10_000, 10_000)


def test_a_reader_that_stalls_costs_no_memory_and_loses_nothing(proxy: Proxy) -> None:
    size = 64 * MIB
    with TcpOrigin() as origin, open_tunnel(proxy, origin.target) as client, origin.take() as server:
        pouring = threading.Thread(target=pour, args=(server, size))
        pouring.start()
        carried = once_at_rest(lambda: carried_down(proxy))
        assert carried < size / 2
        rss_kib, cpu_s, until = proxy.rss_kib(), proxy.cpu_s(), time.monotonic() + 2
        while time.monotonic() < until:
            assert proxy.rss_kib() - rss_kib < 2048
            time.sleep(0.05)
        assert proxy.cpu_s() - cpu_s < 0.2, "and no work either"
        assert carried_down(proxy) == carried
        assert digest_of(client, size) == expected_digest(size)
        pouring.join()
        assert proxy.rss_kib() - rss_kib < 4096


def carried_down(proxy: Proxy) -> int:
    (tunnel,) = proxy.get_json("/tunnels")["tunnels"]
    return int(tunnel["bytes_down"])


def test_sixty_four_mebibytes_go_both_ways_at_once(proxy: Proxy) -> None:
    size = 64 * MIB
    rss_kib = proxy.rss_kib()
    with TcpOrigin() as origin:
        assert swap(proxy, origin, size) == [expected_digest(size)] * 2
    assert proxy.rss_kib() - rss_kib < 4096


def test_a_thousand_tunnels_leave_nothing_in_memory(proxy: Proxy, echo_origin: TcpOrigin) -> None:
    def come_and_go(times: int) -> int:
        for _ in range(times):
            with open_tunnel(proxy, echo_origin.target) as client:
                client.send(b"x")
                assert client.recv(1) == b"x"
        proxy.settled()
        return proxy.rss_kib()

    before = come_and_go(200)
    assert come_and_go(1000) - before < 1024


def test_tunnels_side_by_side_do_not_mix(proxy: Proxy, echo_origin: TcpOrigin) -> None:
    size = 200_000

    def one(number: int) -> bool:
        data = bytes((number,)) * size
        with open_tunnel(proxy, echo_origin.target) as client:
            _, back = at_once(lambda: client.sendall(data), lambda: receive(client, size))
            return back == data

    assert at_once(*(lambda number=number: one(number) for number in range(40))) == [True] * 40
