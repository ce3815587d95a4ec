"""Sockets of the soak runs: plain blocking ones, which cost one system call per operation, bounded by the kernel."""

from __future__ import annotations

import socket
import struct

from support.clients import ESTABLISHED, connect_head

WAIT_S = 60
"""Longest wait of one operation, the pauses of a stalling reader included. Past it: BlockingIOError."""
_WAIT = struct.pack("ll", WAIT_S, 0)
_IP_BIND_ADDRESS_NO_PORT = 24  # ip(7): choose the port at connect, so that one in TIME_WAIT can serve again


def bounded(sock: socket.socket) -> socket.socket:
    """Blocking, with bounds; no delay."""
    sock.setblocking(True)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _WAIT)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _WAIT)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def dial(port: int, source: str | None = None) -> socket.socket:
    """A connection to the proxy on this port of loopback, from this address of this host."""
    sock = bounded(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
    try:
        if source is not None:
            sock.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
            sock.bind((source, 0))
        sock.connect(("127.0.0.1", port))
    except BaseException:
        sock.close()
        raise
    return sock


def open_tunnel(port: int, target: str, source: str | None = None) -> socket.socket:
    """A tunnel through the proxy on this port. The caller closes it."""
    sock = dial(port, source)
    try:
        sock.sendall(connect_head(target))
        reply = exactly(sock, len(ESTABLISHED))
        assert reply == ESTABLISHED, reply
    except BaseException:
        sock.close()
        raise
    return sock


def exactly(sock: socket.socket, size: int) -> bytes:
    """So many bytes, or fewer at the end."""
    data = sock.recv(size) if size else b""
    while len(data) < size and (more := sock.recv(size - len(data))):
        data += more
    return data


def to_the_end(sock: socket.socket) -> bytes:
    """Everything up to an orderly end."""
    data = b""
    while more := sock.recv(1 << 20):
        data += more
    return data


def reset(sock: socket.socket) -> None:
    """Close with a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()
