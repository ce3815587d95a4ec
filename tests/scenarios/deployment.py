"""The proxy in its pod, run with the scenarios' files.

**alone**: with these files and nothing else, on the listeners, logs and admin port that they imply.
**captured**: beside native settings that say where captured clients arrive, with the scenario's files in a folder, applied and
deleted as Kubernetes' objects are. The application's connections are brought there by `egressproxy redirect`.
"""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from scenarios import lines
from scenarios.pods import Pod
from scenarios.world import World
from support import nursery
from support.clients import Done
from support.proxy import ROOT, Proxy
from support.waiting import eventually

CAPTURED_PORT, CAPTURED_TCP_PORT = 15001, 15006
ADMIN_PORT, DEFAULT_ADMIN_PORT = 15000, 9090


class Deployment(Proxy):
    """One proxy in a pod. A context manager."""

    def __init__(self, pod: Pod, folder: Path, files: Sequence[Path | str], **options: Any) -> None:
        self.pod = pod
        super().__init__(folder, arguments=tuple(map(str, files)), **options)
        self._fresh = False  # a fork may have arguments of its own; there is nothing else to it
        self.admin_port = DEFAULT_ADMIN_PORT
        self._told = 0

    def spawn(self) -> Self:
        self.pod.call(super().spawn)
        return self

    def get(self, path: str, accept: str = "*/*") -> tuple[int, str]:
        return self.pod.call(super().get, path, accept)

    def log(self, file: Path | None = None) -> list[str]:
        """The complete lines of a log; without a file of the one on standard output."""
        text = (file or self.folder / "stdout").read_text()
        return text[: text.rfind("\n") + 1].splitlines()

    def told(self, count: int = 1) -> list[str]:
        """Wait for so many new lines on standard output, which are no more than that."""
        eventually(lambda: len(self.log()) >= self._told + count, f"{count} new lines on standard output")
        new = self.log()[self._told :]
        self._told += len(new)
        assert len(new) == count, new
        return new

    def envoy_line(self) -> lines.EnvoyLine:
        """The only new line on standard output, in Istio's form of today."""
        (line,) = self.told()
        return lines.of_today(line)

    def says_nothing(self) -> None:
        """Nothing was logged since the last look, and nothing will be: every connection has ended."""
        eventually(lambda: self.metric("connections_open") == 0, "no connection is open")
        assert self.log()[self._told :] == []


class Captured(Deployment):
    """A proxy for captured clients. `apply` and `delete` say which of the scenario's files are in force."""

    def __init__(self, world: World, folder: Path, **settings: Any) -> None:
        self.objects = folder / "objects"
        self.objects.mkdir()
        self.istio_1_7 = folder / "istio-1.7.log"
        self._settings = settings
        self._read_1_7 = 0
        super().__init__(world.proxy, folder, [folder / "egressproxy.yaml", self.objects])
        self.admin_port = ADMIN_PORT
        self.write_config({})

    def write_config(self, config: dict[str, Any]) -> dict[str, Any]:
        """The native settings beside the scenario's files."""
        settings = {
            "listeners": [
                {"name": "captured", "protocol": "auto", "port": CAPTURED_PORT, "transparent": "redirect"},
                {"name": "captured-tcp", "protocol": "tcp", "port": CAPTURED_TCP_PORT, "transparent": "redirect"},
            ],
            "access_log": [
                {"format": "squid", "path": str(self.squid_log)},
                {"format": "json", "path": str(self.json_log)},
                {"format": "istio-1.7", "path": str(self.istio_1_7)},
            ],
            "admin": {"address": "127.0.0.1", "port": ADMIN_PORT},
            **self._settings,
            **config,
        }
        self.config_file.write_text(json.dumps(settings, indent=1))
        return settings

    def put(self, files: Iterable[Path]) -> None:
        """Have these files in the folder, in this order and unchanged, and no others."""
        wanted = {f"{number:02}-{file.name}": file for number, file in enumerate(files)}
        for old in self.objects.iterdir():
            if old.name not in wanted:
                old.unlink()
        for name, file in wanted.items():
            shutil.copyfile(file, self.objects / name)

    def apply(self, *files: Path) -> None:
        """Put them in force, and no others."""
        self.put(files)
        assert self.reload_as_written(), self.stderr

    def line_of_1_7(self) -> lines.EnvoyLine:
        """The only new line, in the form of Istio 1.7, for a connection that has ended."""
        eventually(lambda: len(self.log(self.istio_1_7)) > self._read_1_7, "a new line in the form of Istio 1.7")
        (line,) = self.log(self.istio_1_7)[self._read_1_7 :]
        self._read_1_7 += 1
        return lines.of_1_7(line)

    def skip_lines(self) -> None:
        """Look only at what is logged from now on."""
        self.settled()  # which is of two logs; each is written by a thread of its own
        count = len(self.log(self.squid_log))
        eventually(lambda: len(self.log()) == len(self.log(self.istio_1_7)) == count, "all logs have all lines")
        self._told, self._read_1_7 = len(self.log()), len(self.log(self.istio_1_7))


def command(pod: Pod, *words: str, code: int = 0) -> Done:
    """What `egressproxy WORDS` prints in a pod, and the exit code it must have."""
    done = pod.call(nursery.run, *words)
    assert done.returncode == code, f"{words}: {done}"
    return Done(done.returncode, done.stdout, done.stderr)


@contextmanager
def capture(pod: Pod, port: int, *words: str) -> Iterator[None]:
    """What is routed through the pod goes to this port of it, in place of what was captured before."""
    before = pod.run("nft", "list", "table", "inet", "egressproxy", folder=ROOT, code=None)
    command(pod, "redirect", "--port", str(port), "--no-own", "--routed", "--apply", *words)
    try:
        yield
    finally:
        pod.run("nft", "delete", "table", "inet", "egressproxy", folder=ROOT)
        if before.code == 0:
            pod.run("nft", "-f", "-", folder=ROOT, stdin=before.out)


def refuses(pod: Pod, address: str, port: int) -> bool:
    """Whether nobody in reach of the pod listens there."""

    def dial() -> bool:
        with socket.socket() as sock:
            return sock.connect_ex((address, port)) != 0

    return pod.call(dial)
