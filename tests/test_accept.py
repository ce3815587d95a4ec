from __future__ import annotations

import asyncio
import json
import logging
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from support.loops import WAIT_S, left_open, open_descriptors, until
from support.peers import listening

from egressproxy import admission as admission_module
from egressproxy.accept import BATCH, PAUSE_S, Listener
from egressproxy.admission import Admission
from egressproxy.capture import OwnConnections
from egressproxy.connection import Entrance, Services
from egressproxy.deadlines import DeadlineQueue
from egressproxy.errors import ClientGone
from egressproxy.poller import create_poller
from egressproxy.runtime.sockets import listen
from egressproxy.stories import Stories
from egressproxy.telemetry.metrics import Metrics
from egressproxy.telemetry.telemetry import Telemetry


class Doorman:
    """A front end that notes who came, and lets them wait until it is told to send them away."""

    name = "http-proxy"

    def __init__(self):
        self.seen = []
        self.go = asyncio.Event()
        self.go.set()

    async def read_intent(self, client, draft):
        self.seen.append((client.address, client.port))
        await self.go.wait()
        raise ClientGone("sent away")

    async def grant(self, client, draft):
        raise AssertionError("nobody gets that far")

    def refuse(self, client, error, draft):
        return False


class Door:
    """A listener at work, with a doorman behind it."""

    def __init__(self, sock, max_tunnels=100_000):
        loop = asyncio.get_running_loop()
        sock.setblocking(False)
        self.address = sock.getsockname()
        self.poller = create_poller(loop)
        self.doorman = Doorman()
        self.admission = Admission(max_tunnels)
        self.stories = Stories(loop)
        self.queues = [DeadlineQueue("head_timeout", 60, loop), DeadlineQueue("linger", 0.01, loop)]
        self.services = Services(
            policy=None,
            registry=None,
            parents=(),
            balancer=None,
            resolver=None,
            dialer=None,
            relay=None,
            carriage=None,
            telemetry=Telemetry([], Metrics(version="0", loop="asyncio")),
            admission=self.admission,
            head_deadlines=self.queues[0],
            keep_alive_deadlines=None,
            linger_deadlines=self.queues[1],
            max_hello_bytes=65_536,
            lifetime_s=float("inf"),
            own_connections=OwnConnections(),
        )
        self.listener = Listener(
            sock, Entrance("http-proxy:3128", self.doorman, None), self.services, self.poller, self.stories, loop
        )

    @property
    def seen(self):
        return self.doorman.seen

    async def close(self):
        self.doorman.go.set()
        self.listener.stop()
        assert await self.stories.wait(WAIT_S)
        assert len(self.admission) == 0
        for queue in self.queues:
            assert len(queue) == 0
            queue.close()
        self.poller.close()


@pytest.fixture
async def opened():
    """Opens doors, and checks in the end that nothing is left open."""
    complaints = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: complaints.append(context))
    before = open_descriptors()
    doors = []

    def door(sock=None, **arguments):
        doors.append(Door(sock or listening(backlog=1000), **arguments))
        return doors[-1]

    yield door
    for each in doors:
        await each.close()
    await asyncio.sleep(0)
    assert complaints == []
    assert left_open(before) == {}


@pytest.fixture
def knock():
    """Connects, without waiting to be accepted; closes in the end."""
    clients = []

    def connect(address):
        clients.append(socket.create_connection(address[:2]))
        return clients[-1]

    yield connect
    for client in clients:
        client.close()


async def test_a_client_is_handed_to_its_front_end(opened, knock):
    door = opened()
    door.listener.start()
    client = knock(door.address)
    await until(lambda: door.seen)
    assert door.seen == [client.getsockname()]


async def test_clients_are_taken_in_batches(opened, knock):
    door = opened()
    clients = [knock(door.address) for _ in range(BATCH + 10)]
    door.listener.start()
    steps = []
    while len(door.seen) < len(clients):
        before = len(door.stories) + len(door.seen)
        await asyncio.sleep(0)
        steps.append(len(door.seen) - before)
        assert len(steps) < 10_000
    assert max(steps) <= BATCH
    assert sorted(door.seen) == sorted(client.getsockname() for client in clients)


async def test_a_new_configuration_serves_the_clients_to_come(opened, knock):
    door = opened()
    door.listener.start()
    knock(door.address)
    await until(lambda: len(door.seen) == 1)
    other = Doorman()
    door.listener.use(Entrance("http-proxy:3128", other, None), door.services)
    knock(door.address)
    await until(lambda: other.seen)
    assert len(door.seen) == 1


async def test_stopping_takes_those_who_wait_and_nobody_after_them(opened, knock):
    door = opened()
    door.listener.start()
    clients = [knock(door.address) for _ in range(2 * BATCH + 3)]  # the loop has not turned since
    door.listener.stop()
    door.listener.stop()
    assert "closed" in repr(door.listener)
    with pytest.raises(ConnectionRefusedError):
        knock(door.address)
    await until(lambda: len(door.seen) == len(clients))


async def test_a_full_worker_looks_away_and_comes_back(opened, knock, monkeypatch, caplog):
    monkeypatch.setattr(admission_module, "OVERFLOW", 2)
    door = opened(max_tunnels=3)
    door.doorman.go.clear()
    door.listener.start()
    clients = [knock(door.address) for _ in range(5)]
    await until(lambda: len(door.seen) == 5)
    clients += [knock(door.address) for _ in range(3)]
    with caplog.at_level(logging.WARNING):
        await until(lambda: door.listener.pauses >= 2)
    assert len(door.seen) == len(door.admission) == 5
    assert f"http-proxy:3128: not accepting for {PAUSE_S:g} s" in caplog.text
    assert "max_tunnels" in caplog.text
    door.doorman.go.set()
    for client in clients:
        client.close()
    await until(lambda: len(door.seen) == 8)


async def test_stopping_while_there_is_no_room_is_the_end(opened, knock, monkeypatch):
    """The pause that was begun must not come back to a closed socket."""
    monkeypatch.setattr(admission_module, "OVERFLOW", 0)
    door = opened(max_tunnels=1)
    door.doorman.go.clear()
    door.listener.start()
    first = knock(door.address)
    await until(lambda: len(door.seen) == 1)
    knock(door.address)
    door.listener.stop()
    await asyncio.sleep(1.5 * PAUSE_S)
    first.close()


@pytest.mark.parametrize(("dialled", "shown"), [("127.0.0.1", "127.0.0.1"), ("::1", "::1")])
async def test_an_ipv4_client_of_a_dual_stack_socket_is_shown_as_ipv4(opened, knock, dialled, shown):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    door = opened(listen("::", port, client_speaks_first=False))
    door.listener.start()
    client = knock((dialled, port))
    await until(lambda: door.seen)
    assert door.seen == [(shown, client.getsockname()[1])]


# --- at the limit -------------------------------------------------------------------------------------------------

STARVING = """
    import asyncio, json, os, resource, sys, time
    sys.path[:0] = json.loads(sys.argv[1])
    from test_accept import Door
    from support.loops import until
    from support.peers import listening

    async def main():
        door = Door(listening(backlog=1000))
        door.doorman.go.clear()
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
        taken = []
        try:
            while True:
                taken.append(os.open("/dev/null", os.O_RDONLY))
        except OSError:
            pass
        for _ in range(3):
            os.close(taken.pop())
        door.listener.start()
        print(json.dumps(door.address), flush=True)
        await until(lambda: door.listener.pauses >= 2)
        seen, cpu, wall = len(door.seen), time.process_time(), time.monotonic()
        pauses = door.listener.pauses
        await until(lambda: door.listener.pauses >= pauses + 4)
        cpu, wall = time.process_time() - cpu, time.monotonic() - wall
        for fd in taken:
            os.close(fd)
        await until(lambda: len(door.seen) == 20)
        print(json.dumps({"seen": seen, "cpu_s": cpu, "wall_s": wall}), flush=True)
        await door.close()

    asyncio.run(main())
"""


def test_at_the_descriptor_limit_it_pauses_without_spinning_and_recovers(knock):
    folders = [*filter(None, sys.path), str(Path(__file__).parent)]
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(STARVING), json.dumps(folders)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        address = json.loads(process.stdout.readline())
        clients = [knock(address) for _ in range(20)]
        told = json.loads(process.stdout.readline())
        for client in clients:
            client.close()
        _, complaints = process.communicate(timeout=30)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 0, complaints
    assert told["seen"] == 3, "three descriptors were left"
    assert told["wall_s"] >= 3.5 * PAUSE_S
    assert told["cpu_s"] < 0.5 * told["wall_s"]
    assert "Too many open files" in complaints
