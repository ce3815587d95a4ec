"""What lies behind the proxies: the three origin processes, started together."""

from __future__ import annotations

import json
import subprocess
import sys
from types import TracebackType
from typing import Any, Self

from benchmarks.support.processes import spawn, stop

_ECHO_PORTS = 4


class Origins:
    """The echo origin, the bulk origin and the name server, on the load's core. Use as a context manager."""

    def __init__(self, core: int) -> None:
        self._core = core
        self._children: list[subprocess.Popen[bytes]] = []
        self.echo_ports: list[int] = []
        self.bulk_port = 0
        self.dns_port = 0

    @property
    def ports(self) -> list[int]:
        """The ports that tunnels may go to."""
        return [*self.echo_ports, self.bulk_port]

    def __enter__(self) -> Self:
        try:
            self.echo_ports = self._start("echo_origin", str(_ECHO_PORTS))
            self.bulk_port = self._start("bulk_origin")
            self.dns_port = self._start("dns_server")
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def _start(self, module: str, *arguments: str) -> Any:
        command = [sys.executable, "-m", f"benchmarks.support.{module}", *arguments]
        child = spawn(command, self._core, stdout=subprocess.PIPE)
        self._children.append(child)
        assert child.stdout is not None
        line = child.stdout.readline()
        if not line:
            raise RuntimeError(f"{module} did not start: exit status {child.wait()}")
        return json.loads(line)

    def _stop(self) -> None:
        for child in self._children:
            stop(child)
        self._children.clear()
