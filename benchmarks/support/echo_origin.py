"""The echo origin: accepts on several ports, sends back what comes, closes when the other side has.

    python -m benchmarks.support.echo_origin [PORTS]

Prints its ports as one JSON line. Several ports, because each gives the proxy a range of local ports of its own: with
one, thousands of tunnels a second would make the kernel search among ports still in TIME_WAIT, at the proxy's cost.
"""

from __future__ import annotations

import gc
import json
import os
import select
import socket
import sys

_BACKLOG = 4096
_ACCEPT_AFTER_DATA_S = 1  # the byte is there when accept returns: one wake-up less per tunnel


def listen() -> socket.socket:
    """A listening socket on a port of the kernel's choice."""
    listener = socket.socket()
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, _ACCEPT_AFTER_DATA_S)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # accepted sockets inherit it
    listener.bind(("127.0.0.1", 0))
    listener.listen(_BACKLOG)
    listener.setblocking(False)
    return listener


def serve(listeners: list[socket.socket]) -> None:
    """Echo for ever. Connections are bare descriptors: no object per connection."""
    accepting = {listener.fileno(): listener._accept for listener in listeners}  # type: ignore[attr-defined]  # the C accept: a descriptor, no wrapper
    poll = select.epoll()
    for descriptor in accepting:
        poll.register(descriptor, select.EPOLLIN)
    read, write, close = os.read, os.write, os.close
    while True:
        for descriptor, _ in poll.poll():
            if accept := accepting.get(descriptor):
                try:
                    while True:
                        poll.register(accept()[0], select.EPOLLIN)
                except BlockingIOError:
                    pass
                continue
            try:
                data = read(descriptor, 65536)
                if data:
                    write(descriptor, data)
                    continue
            except ConnectionError:
                pass
            close(descriptor)


def main() -> None:
    """Listen, say where, serve."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 4
    listeners = [listen() for _ in range(count)]
    print(json.dumps([listener.getsockname()[1] for listener in listeners]), flush=True)
    gc.disable()
    serve(listeners)


if __name__ == "__main__":
    main()
