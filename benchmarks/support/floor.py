"""The least that a tunnelling proxy in Python can do: system calls, one epoll and a dict.

    python -m benchmarks.support.floor PORT...

A PORT takes CONNECT; a PORT:SERVICE_PORT takes TLS and forwards to that port. No event loop, no task, no policy, no name, no
guard, no limit, no log, no error handling: it connects to 127.0.0.1, whatever the host. Not for use; it shows which part of
the cost is the kernel's and the language's, and so how much the rest of egressproxy costs.
"""

from __future__ import annotations

import _socket
import select
import socket
import sys
from collections.abc import Sequence
from typing import Any

_ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"
_CONNECTING, _OPEN, _ENDED = range(3)


def listen(port: int) -> socket.socket:
    """A listening socket; a connection is accepted when its first bytes are there."""
    listener = socket.create_server(("127.0.0.1", port), backlog=4096)
    listener.setblocking(False)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 1)
    return listener


def main(doors: Sequence[str]) -> None:
    """Serve until killed."""
    # Descriptor: [how to accept, the port to connect to or 0: as the CONNECT says]
    accepting: dict[int, tuple[Any, int]] = {}
    poll = select.epoll()
    for door in doors:
        port, _, service_port = door.partition(":")
        listener = listen(int(port))
        # `accept` without making a socket of it
        accepting[listener.fileno()] = listener._accept, int(service_port or 0)  # type: ignore[attr-defined]  # not in the stubs
        poll.register(listener.fileno(), select.EPOLLIN)
    buffer = bytearray(65536)
    view = memoryview(buffer)
    # Descriptor: [state, its socket, the other socket, the other descriptor, the ClientHello to forward]
    sides: dict[int, list[Any]] = {}
    while True:
        for fd, _events in poll.poll(-1, 256):
            if fd in accepting:
                accept, fixed_port = accepting[fd]
                while True:
                    try:
                        number, _peer = accept()
                    except BlockingIOError:
                        break
                    client = _socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, number)
                    client.setblocking(False)
                    first = client.recv(4096)
                    target_port = fixed_port or int(first.split(b" ", 2)[1].rpartition(b":")[2])
                    upstream = _socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
                    upstream.connect_ex(("127.0.0.1", target_port))
                    sides[upstream.fileno()] = [_CONNECTING, upstream, client, number, first if fixed_port else b""]
                    poll.register(upstream.fileno(), select.EPOLLOUT)
                continue
            side = sides[fd]
            state, own, other, other_fd, hello = side
            if state == _CONNECTING:
                own.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                own.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if hello:
                    own.send(hello)
                else:
                    other.send(_ESTABLISHED)
                side[0] = _OPEN
                sides[other_fd] = [_OPEN, other, own, fd, b""]
                poll.modify(fd, select.EPOLLIN)
                poll.register(other_fd, select.EPOLLIN)
            elif count := own.recv_into(buffer):
                other.send(view[:count])
            elif sides[other_fd][0] == _OPEN:
                side[0] = _ENDED
                other.shutdown(socket.SHUT_WR)
                poll.unregister(fd)
            else:
                del sides[fd], sides[other_fd]
                own.close()
                other.close()


if __name__ == "__main__":
    main(sys.argv[1:])
