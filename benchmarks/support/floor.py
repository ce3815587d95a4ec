"""The least that a CONNECT proxy in Python can do: system calls, one epoll and a dict. Its argument is a port.

No event loop, no task, no policy, no name, no guard, no limit, no log, no error handling: it connects to 127.0.0.1 at the port
that was asked for, whatever the host. Not for use; it shows which part of the cost is the kernel's and the language's, and
so how much the rest of egressproxy costs.
"""

from __future__ import annotations

import _socket
import select
import socket
import sys
from typing import Any

_ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"
_CONNECTING, _OPEN, _ENDED = range(3)


def main(port: int) -> None:
    """Serve until killed."""
    listener = socket.create_server(("127.0.0.1", port), backlog=4096)
    listener.setblocking(False)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 1)
    accept: Any = listener._accept  # type: ignore[attr-defined]  # `accept` without making a socket of it
    poll = select.epoll()
    poll.register(listener.fileno(), select.EPOLLIN)
    buffer = bytearray(65536)
    view = memoryview(buffer)
    # Descriptor: [state, its socket, the other socket, the other descriptor]
    sides: dict[int, list[Any]] = {}
    while True:
        for fd, _events in poll.poll(-1, 256):
            if fd == listener.fileno():
                while True:
                    try:
                        number, _peer = accept()
                    except BlockingIOError:
                        break
                    client = _socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, number)
                    client.setblocking(False)
                    target = client.recv(4096).split(b" ", 2)[1]
                    upstream = _socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
                    upstream.connect_ex(("127.0.0.1", int(target.rpartition(b":")[2])))
                    sides[upstream.fileno()] = [_CONNECTING, upstream, client, number]
                    poll.register(upstream.fileno(), select.EPOLLOUT)
                continue
            side = sides[fd]
            state, own, other, other_fd = side
            if state == _CONNECTING:
                own.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                own.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                other.send(_ESTABLISHED)
                side[0] = _OPEN
                sides[other_fd] = [_OPEN, other, own, fd]
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
    main(int(sys.argv[1]))
