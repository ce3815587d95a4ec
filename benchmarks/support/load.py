"""The load generator: sockets and one epoll, no object per connection. It runs in the benchmark's own process.

Each function drives one kind of traffic through a warm-up and a timed window, verifies every answer on the way, and
returns what happened in the window. The CPU clock of the proxy is read at both ends of it.
"""

from __future__ import annotations

import gc
import itertools
import os
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from socket import AF_INET, MSG_TRUNC, SOCK_NONBLOCK, SOCK_STREAM, SocketType
from typing import NamedTuple

from benchmarks.support.errors import WrongAnswer
from benchmarks.support.messages import Exchange, read_answer
from benchmarks.support.proxy import Route

_RECEIVE_BYTES = 4 << 20
_PATIENCE_S = 10.0
_ANSWER_BYTES = 65536


class Window(NamedTuple):
    """What happened between the end of the warm-up and the end of the trial.

    done    tunnels, exchanges or bytes within the window
    cpu_s   the proxy's CPU time within it
    total   the same as done, over the whole trial
    """

    wall_s: float
    cpu_s: float
    done: int
    total: int

    @property
    def rate(self) -> float:
        """Done per second."""
        return self.done / self.wall_s

    @property
    def cpu_each_s(self) -> float:
        """CPU seconds for one of them."""
        return self.cpu_s / self.done

    @property
    def busy(self) -> float:
        """How much of its core the proxy used: near 1 it is the proxy that sets the rate, well below 1 the ends do."""
        return self.cpu_s / self.wall_s


class Clock:
    """Opens the window after the warm-up and closes it: `due(count)` is asked now and then, and is true at the end."""

    def __init__(self, warm_s: float, timed_s: float, cpu: Callable[[], float]) -> None:
        self._cpu = cpu
        self._timed_s = timed_s
        self._next = time.perf_counter() + warm_s
        self._start: tuple[float, float, int] | None = None
        self._end: tuple[float, float, int] | None = None

    @property
    def opened(self) -> bool:
        """The warm-up is over."""
        return self._start is not None

    def due(self, count: int) -> bool:
        """The window is over."""
        now = time.perf_counter()
        if now < self._next:
            return False
        reading = (now, self._cpu(), count)
        if self._start is None:
            self._start = reading
            self._next = time.perf_counter() + self._timed_s
            return False
        self._end = reading
        return True

    def window(self, total: int) -> Window:
        """After `due` was true."""
        assert self._start is not None
        assert self._end is not None
        wall_s, cpu_s, count = (after - before for before, after in zip(self._start, self._end, strict=True))
        if count <= 0:
            raise WrongAnswer("nothing was completed within the window; make it longer")
        return Window(wall_s, cpu_s, int(count), total)


@contextmanager
def _no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def open_and_close(
    routes: Sequence[Route],
    message: bytes,
    *,
    concurrency: int,
    warm_s: float,
    timed_s: float,
    cpu: Callable[[], float],
) -> Window:
    """Tunnels as fast as they go, `concurrency` at a time: opened, `message` echoed, closed in order. Counts tunnels.

    Without a message the answer to the opening is all that comes.
    """
    clock = Clock(warm_s, timed_s, cpu)
    poll = select.epoll()
    asking: dict[int, tuple[SocketType, bytes]] = {}  # waits for the answer to its opening
    echoing: dict[int, SocketType] = {}  # waits for its byte
    turns = itertools.cycle(routes)
    edge = select.EPOLLIN | select.EPOLLET

    def start() -> None:
        address, opening, granted = next(turns)
        sock = SocketType(AF_INET, SOCK_STREAM | SOCK_NONBLOCK)
        sock.connect_ex(address)  # over loopback the handshake is complete when this returns
        descriptor = sock.fileno()
        if granted:
            sock.send(opening)
            asking[descriptor] = sock, granted
        else:
            sock.send(opening + message)
            echoing[descriptor] = sock
        poll.register(descriptor, edge)

    finishing, done = False, 0
    with _no_collector():
        for _ in range(concurrency):
            start()
        while asking or echoing:
            events = poll.poll(_PATIENCE_S)
            if not events:
                raise WrongAnswer(
                    f"{len(asking)} tunnels got no answer and {len(echoing)} no echo for {_PATIENCE_S:g} s"
                )
            for descriptor, _ in events:
                if descriptor in asking:
                    sock, granted = asking.pop(descriptor)
                    answer = sock.recv(4096)
                    if not answer.startswith(granted):
                        raise WrongAnswer(f"expected {granted!r}, got {answer[:200]!r}")
                    if message:
                        sock.send(message)
                        echoing[descriptor] = sock
                        continue
                else:
                    sock = echoing.pop(descriptor)
                    answer = sock.recv(4096)
                    if answer != message:
                        raise WrongAnswer(f"expected the echo {message!r}, got {answer!r}")
                sock.close()
                done += 1
                if not finishing:
                    start()
            if not finishing:
                finishing = clock.due(done)
    poll.close()
    return clock.window(done)


def ask_and_answer(
    exchanges: Sequence[Exchange],
    *,
    kept: bool,
    warm_s: float,
    timed_s: float,
    cpu: Callable[[], float],
) -> Window:
    """Requests as fast as they are answered, one in flight for each exchange. Counts answers.

    kept  each has one connection, which stays open; otherwise a new one for each request, closed by us after the answer

    Every answer is compared: a head once for each way it is written, because they differ in a date at most, the body always.
    """
    clock = Clock(warm_s, timed_s, cpu)
    poll = select.epoll()
    edge = select.EPOLLIN | select.EPOLLET
    asked: dict[int, tuple[SocketType, Exchange]] = {}
    started: dict[int, bytes] = {}  # answers of which more must come
    right: set[bytes] = set()  # heads that were read and are right

    def start(exchange: Exchange) -> None:
        sock = SocketType(AF_INET, SOCK_STREAM | SOCK_NONBLOCK)
        sock.connect_ex(exchange.address)  # over loopback the handshake is complete when this returns
        descriptor = sock.fileno()
        asked[descriptor] = sock, exchange
        sock.send(exchange.request)
        poll.register(descriptor, edge)

    def close_all() -> None:
        for sock, _ in asked.values():
            sock.close()

    waiting, finishing, done = len(exchanges), False, 0
    with ExitStack() as stack:
        stack.callback(close_all)
        stack.callback(poll.close)
        stack.enter_context(_no_collector())
        for exchange in exchanges:
            start(exchange)
        while waiting:
            events = poll.poll(_PATIENCE_S)
            if not events:
                raise WrongAnswer(f"{waiting} requests got no answer for {_PATIENCE_S:g} s")
            for descriptor, _ in events:
                sock, exchange = asked[descriptor]
                body = exchange.body
                data = piece = sock.recv(_ANSWER_BYTES)
                if started:
                    data = started.pop(descriptor, b"") + data
                head = data[: -len(body)]
                if head not in right or not data.endswith(body):
                    if not piece:
                        raise WrongAnswer(f"the connection was closed after {done} answers in all, with {data[:200]!r}")
                    found = read_answer(data, body)
                    if found is None:
                        started[descriptor] = data
                        continue
                    right.add(found)
                done += 1
                if kept and not finishing:
                    sock.send(exchange.request)
                    continue
                del asked[descriptor]
                sock.close()
                if finishing:
                    waiting -= 1
                else:
                    start(exchange)
            if not finishing:
                finishing = clock.due(done)
    return clock.window(done)


def receive_bulk(sock: socket.socket, *, warm_s: float, timed_s: float, cpu: Callable[[], float]) -> Window:
    """Take what comes, dropped in the kernel. Counts bytes."""
    clock = Clock(warm_s, timed_s, cpu)
    buffer, total = bytearray(_RECEIVE_BYTES), 0
    with _no_collector():
        while not clock.due(total):
            got = sock.recv_into(buffer, _RECEIVE_BYTES, MSG_TRUNC)
            if not got:
                raise WrongAnswer(f"the stream ended after {total} bytes")
            total += got
    return clock.window(total)


def send_bulk(
    sock: socket.socket, source: int, *, size: int, warm_s: float, timed_s: float, cpu: Callable[[], float]
) -> Window:
    """Send the file in memory `source` of `size` bytes over and over, uncopied. Counts bytes handed to the kernel."""
    clock = Clock(warm_s, timed_s, cpu)
    total, descriptor = 0, sock.fileno()
    with _no_collector():
        while not clock.due(total):
            offset = total % size
            total += os.sendfile(descriptor, source, offset, size - offset)
    return clock.window(total)


def ping_pong(
    sockets: Sequence[socket.socket], payload: bytes, *, warm_s: float, timed_s: float, cpu: Callable[[], float]
) -> tuple[Window, list[int]]:
    """One message in flight on each tunnel, the next when its echo is back. Counts exchanges, and lists their ns."""
    clock = Clock(warm_s, timed_s, cpu)
    with _no_collector():
        if len(sockets) == 1:
            return _ping_pong_one(sockets[0], payload, clock)
        return _ping_pong_many(sockets, payload, clock)


def _ping_pong_one(sock: socket.socket, payload: bytes, clock: Clock) -> tuple[Window, list[int]]:
    send, receive, now, size = sock.send, sock.recv, time.perf_counter_ns, len(payload)
    times: list[int] = []
    total = 0
    while not clock.due(total):
        if not clock.opened:
            times.clear()
        for _ in range(10):
            started = now()
            send(payload)
            answer = receive(size)
            times.append(now() - started)
            if answer != payload:
                raise WrongAnswer(f"expected the message sent, got {answer!r}")
        total += 10
    return clock.window(total), times


def _ping_pong_many(sockets: Sequence[socket.socket], payload: bytes, clock: Clock) -> tuple[Window, list[int]]:
    poll, now, size = select.epoll(), time.perf_counter_ns, len(payload)
    calls = {sock.fileno(): (sock.send, sock.recv) for sock in sockets}
    sent: dict[int, int] = {}
    times: list[int] = []
    total = 0
    for descriptor, (send, _) in calls.items():
        poll.register(descriptor, select.EPOLLIN)
        sent[descriptor] = now()
        send(payload)
    while not clock.due(total):
        if not clock.opened:
            times.clear()
        events = poll.poll(_PATIENCE_S)
        if not events:
            raise WrongAnswer(f"no echo for {_PATIENCE_S:g} s")
        for descriptor, _ in events:
            send, receive = calls[descriptor]
            if (answer := receive(size)) != payload:
                raise WrongAnswer(f"expected the message sent, got {answer!r}")
            at = now()
            times.append(at - sent[descriptor])
            sent[descriptor] = at
            send(payload)
        total += len(events)
    poll.close()
    return clock.window(total), times


def reset(sock: socket.socket) -> None:
    """Close at once with a reset: for the end of a stream that would never end by itself."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()
