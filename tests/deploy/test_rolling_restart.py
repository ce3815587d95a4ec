"""A Deployment is rolled over under load, and nobody notices.

What Kubernetes does of it is stood for by two parts of the test: `Service` sends each new connection to a pod that is ready and
not told to end, as kube-proxy does, and learns of both late; `roll` replaces a pod as a Deployment with maxUnavailable: 0
does: a new one first, then `preStop: sleep`, then SIGTERM to the old one, which drains. The proxies are real, so are load
and origin.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import pytest
from support.clients import connect_head
from support.proxy import Proxy
from support.waiting import WAIT_S

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the test's proxies look at /proc")

RATE = 60
"""Requests a second."""
PROBE_S = 0.2
"""Period of the readiness probe."""
LATE_S = 0.3
"""How long it takes until what the control plane knows is in force on a node."""
PRE_STOP_S = 1.0
"""How long a pod that is to end serves on: longer than LATE_S, which is what it is for."""
PAGE = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
PIECE = 16_384


@dataclass
class Pod:
    proxy: Proxy
    ready: bool = False
    served: int = 0
    probing: asyncio.Task[None] | None = None


@dataclass
class Service:
    """Connections to one port, spread over the pods that may have them."""

    pods: list[Pod] = field(default_factory=list)
    port: int = 0
    turn: int = 0
    carrying: set[asyncio.Task[None] | None] = field(default_factory=set)

    async def carry(self, client: asyncio.StreamReader, answer: asyncio.StreamWriter) -> None:
        self.carrying.add(here := asyncio.current_task())
        try:
            await self._carry(client, answer)
        finally:
            self.carrying.discard(here)

    async def _carry(self, client: asyncio.StreamReader, answer: asyncio.StreamWriter) -> None:
        able = [pod for pod in self.pods if pod.ready]
        if not able:
            answer.close()
            return
        self.turn += 1
        pod = able[self.turn % len(able)]
        pod.served += 1
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", pod.proxy.port)
        except OSError:
            answer.transport.abort()  # as the kernel of a pod that is gone would
            return
        try:
            await asyncio.gather(pour(client, writer), pour(reader, answer))
        finally:
            for each in (writer, answer):
                each.close()

    async def probe(self, pod: Pod) -> None:
        while True:
            ready = await is_ready(pod.proxy)
            await asyncio.sleep(PROBE_S)
            pod.ready = ready

    @asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        server = await asyncio.start_server(self.carry, "127.0.0.1", 0, backlog=512)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield
            await asyncio.wait_for(asyncio.gather(*filter(None, self.carrying)), WAIT_S)
        finally:
            server.close()


async def pour(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    try:
        while data := await source.read(PIECE):
            sink.write(data)
            await sink.drain()
        if not sink.is_closing():
            sink.write_eof()
    except OSError:
        sink.transport.abort()


async def is_ready(proxy: Proxy) -> bool:
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.admin_port)
    except OSError:
        return False
    try:
        writer.write(b"GET /readyz HTTP/1.0\r\n\r\n")
        status = (await asyncio.wait_for(reader.read(), WAIT_S)).split(b" ", 2)[1:2]
    except OSError:
        return False
    finally:
        writer.close()
    return status == [b"200"]


@asynccontextmanager
async def pages() -> AsyncIterator[int]:
    """An origin that answers a request with PAGE, and whatever else with the same."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while first := await reader.readline():
                if first.startswith(b"GET "):
                    while (await reader.readline()).strip():
                        pass
                    writer.write(PAGE)
                else:
                    writer.write(first)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, backlog=512)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


class Cluster:
    """Two pods behind a Service, and the Deployment that replaces them."""

    def __init__(self, folder: Path, origin: int) -> None:
        self._folder = folder
        self._origin = origin
        self.service = Service()
        self.ended: list[Pod] = []
        self._endings: list[asyncio.Task[None]] = []
        self._number = 0

    async def add(self) -> Pod:
        """A pod more, once it is ready and the nodes know."""
        folder = self._folder / f"pod-{self._number}"
        self._number += 1
        folder.mkdir()
        config = {
            "rules": [
                {
                    "name": "page",
                    "action": "allow",
                    "hosts": ["127.0.0.1"],
                    "ports": [self._origin],
                    "require_tls": False,
                }
            ],
            "guard": {"allow": ["127.0.0.1/32"]},
            "timeouts": {"drain_s": 120},
        }
        pod = Pod(await asyncio.to_thread(Proxy(folder, config).spawn))
        pod.probing = asyncio.get_running_loop().create_task(self.service.probe(pod))
        self.service.pods.append(pod)
        async with asyncio.timeout(WAIT_S):
            while not pod.ready:  # noqa: ASYNC110 - as a control plane looks
                await asyncio.sleep(PROBE_S / 4)
        return pod

    def remove(self, pod: Pod) -> None:
        """Begin its end, which is not waited for, as a Deployment does not."""
        self._endings.append(asyncio.get_running_loop().create_task(self._end(pod)))

    async def _end(self, pod: Pod) -> None:
        asyncio.get_running_loop().call_later(LATE_S, self.service.pods.remove, pod)
        await asyncio.sleep(PRE_STOP_S)
        assert pod.probing is not None
        pod.probing.cancel()
        self.ended.append(pod)
        await asyncio.to_thread(pod.proxy.end)  # SIGTERM, and the end: checked that it is in order

    async def roll(self) -> None:
        """Replace every pod, one after the other."""
        for pod in list(self.service.pods):
            await self.add()
            self.remove(pod)

    async def down(self) -> None:
        """End all, and wait until they have ended."""
        for pod in list(self.service.pods):
            self.remove(pod)
        await asyncio.gather(*self._endings)


async def tunnel(port: int, origin: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(connect_head(f"127.0.0.1:{origin}"))
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        writer.write(b"hello\n")
        assert await reader.readexactly(6) == b"hello\n"
        writer.write_eof()
        assert await reader.read() == b""
    finally:
        writer.close()


async def page(port: int, origin: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        target = f"127.0.0.1:{origin}"
        writer.write(f"GET http://{target}/ HTTP/1.1\r\nHost: {target}\r\nConnection: close\r\n\r\n".encode())
        answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 200"), answer
        assert answer.endswith(b"hello"), answer
    finally:
        writer.close()


async def long_tunnel(port: int, origin: int, over: asyncio.Event) -> int:
    """One that is open all the time, while its pod drains and others take its place; how often it was answered."""
    answered = 0
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(connect_head(f"127.0.0.1:{origin}"))
        await reader.readuntil(b"\r\n\r\n")
        while not over.is_set():
            writer.write(b"still there?\n")
            assert await reader.readline() == b"still there?\n"
            answered += 1
            await asyncio.sleep(0.1)
    finally:
        writer.close()
    return answered


async def kept_pages(port: int, origin: int, over: asyncio.Event) -> int:
    """A client that keeps its connection for as long as it is let; how many pages it has had. None of its requests is lost."""
    target, had = f"127.0.0.1:{origin}", 0
    while not over.is_set():
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            may_go_on = True
            while may_go_on:
                may_go_on = not over.is_set()
                last = "" if may_go_on else "Connection: close\r\n"
                writer.write(f"GET http://{target}/ HTTP/1.1\r\nHost: {target}\r\n{last}\r\n".encode())
                head = await reader.readuntil(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 200"), head
                assert await reader.readexactly(5) == b"hello"
                had += 1
                may_go_on = may_go_on and b"connection: close" not in head.lower()
                await asyncio.sleep(1 / RATE)
        finally:
            writer.close()
    return had


class Load(NamedTuple):
    requests: int
    wrong: list[str]


async def load(port: int, origin: int, seconds: float, over: asyncio.Event) -> Load:
    """RATE requests a second for this long, and then until it is over, whatever becomes of those before."""
    loop = asyncio.get_running_loop()
    begun, number = loop.time(), 0
    wrong: list[str] = []

    async def one(number: int) -> None:
        try:
            async with asyncio.timeout(WAIT_S):
                await (tunnel if number % 2 else page)(port, origin)
        except (OSError, AssertionError, asyncio.IncompleteReadError, TimeoutError) as error:
            wrong.append(f"request {number}, begun after {number / RATE:.2f} s: {error!r}")

    async with asyncio.TaskGroup() as group:
        while not over.is_set() or loop.time() - begun < seconds:
            group.create_task(one(number))
            number += 1
            await asyncio.sleep(max(0.0, begun + number / RATE - loop.time()))
    return Load(number, wrong)


@pytest.mark.parametrize(
    ("pods", "replacements", "seconds"),
    [
        pytest.param(1, 1, 2.0, id="one pod, once"),
        pytest.param(2, 2, 20.0, id="two pods, twice", marks=pytest.mark.soak),
    ],
)
async def test_no_request_is_lost_while_every_pod_is_replaced(
    tmp_path: Path, pods: int, replacements: int, seconds: float
) -> None:
    async with pages() as origin:
        cluster = Cluster(tmp_path, origin)
        async with cluster.service.at_work():
            for _ in range(pods):
                await cluster.add()
            rolled, over = asyncio.Event(), asyncio.Event()
            async with asyncio.TaskGroup() as group:
                loading = group.create_task(load(cluster.service.port, origin, seconds, rolled))
                staying = [group.create_task(long_tunnel(cluster.service.port, origin, over)) for _ in range(2 * pods)]
                keeping = [group.create_task(kept_pages(cluster.service.port, origin, over)) for _ in range(2 * pods)]
                for _ in range(replacements):
                    await asyncio.sleep(seconds / replacements / 4)
                    await cluster.roll()
                await asyncio.sleep(PRE_STOP_S + seconds / 10)  # the last of the old ones is sent its SIGTERM meanwhile
                rolled.set()
                loaded = await loading
                over.set()
            await cluster.down()
    assert loaded.wrong == []
    assert loaded.requests >= seconds * RATE * 0.9
    assert all(tunnel.result() > 10 for tunnel in staying), "none was cut"
    assert len(cluster.ended) == pods * (replacements + 1)
    assert all(pod.served for pod in cluster.ended), "each took part"
    records = [json.loads(line) for pod in cluster.ended for line in pod.proxy.json_log.read_text().splitlines()]
    carried = [record for record in records if record["event"] != "open"]
    assert len(carried) == loaded.requests + len(staying) + sum(client.result() for client in keeping)
    assert {record["outcome"] for record in carried} == {"closed", "answered"}
