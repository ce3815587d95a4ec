"""NGINX as an origin: a child process on loopback, with a folder of its own. Its log says what it has seen of each request.

with Nginx(folder, servers) as nginx:                # `servers`: blocks of its configuration
    ...
    (seen,) = nginx.seen("/politics")                # waits for the line of that request
    assert seen.subject == "CN=client"
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Self

import pytest
from support.waiting import WAIT_S, eventually

_VARIABLES = {
    "method": "request_method",
    "path": "request_uri",
    "status": "status",
    "host": "http_host",
    "port": "server_port",
    "version": "ssl_protocol",
    "name": "ssl_server_name",
    "subject": "ssl_client_s_dn",
    "reused": "ssl_session_reused",
    "connection": "connection",
    "request": "connection_requests",
    "client": "remote_addr",
    "address": "server_addr",
}


class Seen(NamedTuple):
    """One request as NGINX logs it; an empty text is what it does not know.

    name        the server name in the ClientHello
    subject     of the client certificate
    reused      `r`: the TLS session was resumed; `.`: it was not
    connection  number of the connection, in the order in which they came
    request     number of the request on its connection
    client      address that the connection came from
    address     that it was made to
    """

    method: str
    path: str
    status: str
    host: str
    port: str
    version: str
    name: str
    subject: str
    reused: str
    connection: str
    request: str
    client: str
    address: str


class Nginx:
    """One process without a master. Serves `servers`, which may refer to files in `folder` by their names."""

    def __init__(self, folder: Path, servers: str) -> None:
        self.folder = folder
        self._log = folder / "seen.json"
        self._log.touch()
        fields = ",".join(f'"{name}":"${variable}"' for name, variable in _VARIABLES.items())
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        folders = "".join(f"{kind}_temp_path {folder}/{kind};\n" for kind in kinds)
        (folder / "nginx.conf").write_text(
            f"daemon off; master_process off; pid {folder}/nginx.pid; error_log {folder}/error.log info;\n"
            "events { worker_connections 512; }\n"
            "http {\n"
            f"log_format seen escape=json '{{{fields}}}';\n"
            f"access_log {self._log} seen;\n"
            f"{folders}default_type text/plain;\n{servers}\n"
            "}\n"
        )
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        program = shutil.which("nginx", path="/usr/local/sbin:/usr/sbin:/usr/local/bin:/usr/bin")
        if program is None:
            pytest.skip("nginx is not installed")
        log = self.folder / "error.log"
        self._process = subprocess.Popen(
            [program, "-p", str(self.folder), "-e", str(log), "-c", str(self.folder / "nginx.conf")],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        pid_file = self.folder / "nginx.pid"  # written when it listens
        eventually(lambda: pid_file.exists() or self._process.poll() is not None, "nginx listens")  # type: ignore[union-attr]
        assert self._process.poll() is None, log.read_text()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait(WAIT_S)

    def lines(self) -> list[Seen]:
        """All that was asked so far, in the order in which the answers ended."""
        text = self._log.read_text()
        return [Seen(**json.loads(line)) for line in text[: text.rfind("\n") + 1].splitlines()]

    def lines_of(self, path: str) -> list[Seen]:
        """Those of one path."""
        return [line for line in self.lines() if line.path == path]

    def seen(self, path: str, count: int = 1) -> list[Seen]:
        """Wait until the path was asked for so often; those lines, which are no more than that."""

        eventually(lambda: len(self.lines_of(path)) >= count, f"nginx has answered {path} {count} times")
        lines = self.lines_of(path)
        assert len(lines) == count, lines
        return lines


@contextmanager
def deaf() -> Iterator[int]:
    """A port that takes no connection: the queue of its socket is full, and the kernel answers nobody else."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as deaf, socket.socket() as one, socket.socket() as other:
        for filler in (one, other):
            filler.setblocking(False)
            filler.connect_ex(deaf.getsockname())
        yield deaf.getsockname()[1]
