"""One byte there and back: an origin that echoes, a client with one tunnel, and one with thousands at once."""

from __future__ import annotations

import select
import socket
import struct
import time
from array import array
from typing import NamedTuple

from soak.apart import Line
from soak.sockets import exactly, open_tunnel

END, ECHO_AND_BREAK, BREAK = b"\xfd", b"\xfe", b"\xff"
"""The origin echoes it and ends in order; echoes it and resets; resets."""
PLAIN = 0xFD
"""Byte values below have no meaning to the origin."""
_RESET = struct.pack("ii", 1, 0)


class Served(NamedTuple):
    """What the origin saw. `left`: connections that the proxy has not closed."""

    accepted: int
    left: int


def origin(line: Line) -> Served:
    """Echo on every loopback address until any word is said. Says its port first."""
    listening = socket.create_server(("0.0.0.0", 0), backlog=4096)
    listening.setblocking(False)
    line.say(listening.getsockname()[1])
    door, word = listening.fileno(), line.fileno()
    epoll = select.epoll()
    epoll.register(door, select.EPOLLIN)
    epoll.register(word, select.EPOLLIN)
    open_sockets: dict[int, socket.socket] = {}
    accepted = 0
    while True:
        for fd, _ in epoll.poll(None, 256):
            if fd == door:
                for _ in range(64):
                    try:
                        sock, _peer = listening.accept()
                    except BlockingIOError:
                        break
                    accepted += 1
                    sock.setblocking(False)
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    open_sockets[sock.fileno()] = sock
                    epoll.register(sock, select.EPOLLIN)
            elif fd == word:
                return Served(accepted, len(open_sockets))
            else:
                sock = open_sockets[fd]
                try:
                    data = sock.recv(65_536)
                    if data:
                        if data != BREAK:
                            sock.send(data)  # a few bytes: they always fit
                        if data[-1] > END[0]:
                            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                except (ConnectionError, BlockingIOError):  # a client that is gone, or takes nothing: so much for it
                    data = b""
                if not data or data[-1] >= PLAIN:
                    del open_sockets[fd]
                    sock.close()


def ping_pong(line: Line, proxy: int, target: str, times: int) -> list[int]:
    """So many bytes there and back through one tunnel, one at a time; the time of each in nanoseconds, sorted."""
    taken = array("q", bytes(8 * times))
    pings = [bytes([value]) for value in range(PLAIN)]
    with open_tunnel(proxy, target) as sock:
        send, receive, now = sock.send, sock.recv, time.perf_counter_ns
        for number in range(times):
            ping = pings[number % PLAIN]
            start = now()
            send(ping)
            pong = receive(16)
            taken[number] = now() - start
            assert pong == ping, f"exchange {number}: sent {ping!r}, got {pong!r}"
    return sorted(taken)


def crowd(line: Line, proxy: int, target: str, tunnels: int) -> None:
    """Open so many tunnels, each with one echo, and keep them; at a word, one more echo in each; at the next, close them."""
    sockets = []
    for number in range(tunnels):
        sockets.append(open_tunnel(proxy, target))
        _echo(sockets[-1], number)
    line.say("open")
    line.hear()
    for number, sock in enumerate(sockets):
        _echo(sock, number + 1)
    line.say("echoed")
    line.hear()
    for sock in sockets:
        sock.close()


def _echo(sock: socket.socket, number: int) -> None:
    byte = bytes([number % PLAIN])
    sock.send(byte)
    answer = exactly(sock, 1)
    assert answer == byte, f"tunnel {number}: sent {byte!r}, got {answer!r}"
