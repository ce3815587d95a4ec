"""A service manager for one program: sockets are bound here and handed over, as systemd does for a socket unit.

with Manager() as manager, listening() as sock:
    child = manager.start([sock], sys.executable, "-m", "egressproxy", "run", file)
    assert manager.word() == "READY=1"
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from support.proxy import ROOT
from support.waiting import WAIT_S

HANDED_OVER = """
import os, sys
count, numbers, command = int(sys.argv[1]), sys.argv[2].split(","), sys.argv[3:]
numbers = [int(number) for number in numbers if number]
kept = [os.dup(number) for number in numbers]  # above all of them, so that none is overwritten before it is moved
while kept and min(kept) < 3 + len(kept):
    kept = [os.dup(number) for number in kept]
for place, number in enumerate(kept, 3):
    os.dup2(number, place)
os.environ |= {"LISTEN_PID": os.environ.get("LISTEN_PID", str(os.getpid())), "LISTEN_FDS": str(count)}
os.execvp(command[0], command)
"""


class Manager:
    """Hands sockets over and hears what is told."""

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.address = str(Path(self._folder.name) / "notify")
        self._socket.bind(self.address)
        self._socket.settimeout(WAIT_S)
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        self._folder.cleanup()

    def start(
        self, handed: Sequence[socket.socket], *command: str, count: int | None = None, pid: str = "", **options: Any
    ) -> subprocess.Popen[str]:
        """The program, with these sockets. `count` and `pid`: another number, or another process, than is true."""
        numbers = ",".join(str(sock.fileno()) for sock in handed)
        environment = {**os.environ, "NOTIFY_SOCKET": self.address} | ({"LISTEN_PID": pid} if pid else {})
        return subprocess.Popen(
            [sys.executable, "-c", HANDED_OVER, str(len(handed) if count is None else count), numbers, *command],
            pass_fds=[sock.fileno() for sock in handed],
            stdin=subprocess.DEVNULL,
            cwd=ROOT,
            env=environment,
            text=True,
            **options,
        )

    def word(self) -> list[str]:
        """The lines of the next thing that is told."""
        return self._socket.recv(4096).decode().split("\n")
