"""Clients of the proxy: raw ones that send any bytes, and real programs with a clean environment."""

from __future__ import annotations

import os
import shutil
import socket
import struct
import subprocess
import threading
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self

import pytest
from support.waiting import WAIT_S

if TYPE_CHECKING:
    from support.proxy import Proxy

ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"


# --- raw ----------------------------------------------------------------------------------------------------------


class Reply(NamedTuple):
    """What the proxy answered. `status` is 0 when it closed without a word."""

    status: int
    reason: str
    headers: dict[str, str]
    body: bytes

    @property
    def slug(self) -> str:
        """The first word of the details in Proxy-Status: `rule_denied`; empty without an answer."""
        return self.headers.get("proxy-status", "").partition('details="')[2].partition(":")[0]


def connect_head(target: str, *fields: str, host: str | None = None, version: str = "1.1") -> bytes:
    """The head of a CONNECT, with a Host field (the target, or another `host`) and the fields given."""
    lines = (f"CONNECT {target} HTTP/{version}", f"Host: {target if host is None else host}", *fields, "", "")
    return "\r\n".join(lines).encode("latin-1")


def dial(proxy: Proxy, source: str | None = None) -> socket.socket:
    """A TCP connection to the proxy, from the given address of this host."""
    sock = socket.create_connection(("127.0.0.1", proxy.port), WAIT_S, (source, 0) if source else None)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def ask(proxy: Proxy, request: bytes, source: str | None = None) -> Reply:
    """Send bytes and read to the end of the connection."""
    with dial(proxy, source) as sock:
        try:
            sock.sendall(request)
        except (BrokenPipeError, ConnectionResetError):
            pass  # refused before the end: the answer says why
        return parse_reply(receive_all(sock))


def parse_reply(data: bytes) -> Reply:
    """A whole reply; its body is as long as it says."""
    if not data:
        return Reply(0, "", {}, b"")
    head, _, body = data.partition(b"\r\n\r\n")
    status_line, *fields = head.decode("ascii").split("\r\n")
    version, status, reason = status_line.split(" ", 2)
    assert version == "HTTP/1.1"
    headers = {name.lower(): value.strip() for name, _, value in (field.partition(":") for field in fields)}
    assert len(body) == int(headers.get("content-length", 0))
    return Reply(int(status), reason, headers, body)


def open_tunnel(proxy: Proxy, target: str, behind: bytes = b"") -> socket.socket:
    """A tunnel to the target, its 200 read; `behind` is sent in one write with the head. The caller closes it."""
    sock = dial(proxy)
    try:
        sock.sendall(connect_head(target) + behind)
        head = receive(sock, len(ESTABLISHED))
        assert head == ESTABLISHED, head + receive_all(sock)
    except BaseException:
        sock.close()
        raise
    return sock


def receive(sock: socket.socket, size: int) -> bytes:
    """Exactly `size` bytes, or fewer at the end."""
    data = b""
    while len(data) < size and (more := sock.recv(min(size - len(data), 1 << 20))):
        data += more
    return data


def receive_all(sock: socket.socket) -> bytes:
    """Everything to the end; a reset is an end, too."""
    pieces = []
    try:
        while data := sock.recv(1 << 18):
            pieces.append(data)
    except ConnectionResetError:
        pass
    return b"".join(pieces)


def reset(sock: socket.socket) -> None:
    """Close with a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


class CountingWire:
    """A wire in front of the proxy that counts what comes out of it. One connection at a time, then the next.

    Independent of what anybody says of sizes: these are the bytes that the client got.
    """

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self.received = 0
        self._thread = threading.Thread(target=self._accept, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listening.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            with client, dial(self._proxy) as upstream:
                up = threading.Thread(target=self._carry, args=(client, upstream))
                up.start()
                self.received += self._carry(upstream, client)
                up.join()

    def _carry(self, source: socket.socket, sink: socket.socket) -> int:
        """Until the source ends, also when the sink has left: what it would have got still came out of the wire."""
        carried, listens = 0, True
        try:
            while data := source.recv(65_536):
                carried += len(data)
                if listens:
                    listens = _send(sink, data)
        except OSError:
            pass  # a reset is an end
        try:
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        return carried


def _send(sink: socket.socket, data: bytes) -> bool:
    try:
        sink.sendall(data)
    except OSError:
        return False
    return True


# --- real programs ------------------------------------------------------------------------------------------------


class Done(NamedTuple):
    """What a program left."""

    code: int
    out: str
    err: str

    def __str__(self) -> str:
        return f"exit code {self.code}\n--- stdout\n{self.out}\n--- stderr\n{self.err}"


def run(
    *command: str | Path, folder: Path, stdin: str = "", variables: dict[str, str] | None = None, code: int | None = 0
) -> Done:
    """Run a program to its end, with `folder` as home and working directory and no proxy but those in `variables`.

    code  the exit code it must have; None for any
    """
    ended = subprocess.run(
        [str(word) for word in command],
        input=stdin.encode(),
        capture_output=True,
        timeout=30,
        check=False,
        cwd=folder,
        env={"PATH": os.environ["PATH"], "HOME": str(folder), "LC_ALL": "C.UTF-8", **(variables or {})},
    )
    done = Done(ended.returncode, ended.stdout.decode(errors="replace"), ended.stderr.decode(errors="replace"))
    assert code is None or done.code == code, f"{command[0]}: {done}"
    return done


def installed(program: str) -> str:
    """The program, or a skip that says what is missing."""
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    return program
