"""What lies behind the proxies: the origin processes, started together; that of TLS when it is first asked for."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from benchmarks.support import policy
from benchmarks.support.certificates import write_certificates
from benchmarks.support.processes import spawn, stop

_ECHO_PORTS = 4


class TlsOrigin(NamedTuple):
    """The HTTP origin in TLS. `authority`: the file of the certificate that it is verified by."""

    port: int
    authority: Path


class Origins:
    """The echo, bulk and HTTP origins and the name server, on the load's core. Use as a context manager."""

    def __init__(self, core: int) -> None:
        self._core = core
        self._stack = ExitStack()
        self.echo_ports: list[int] = []
        self.bulk_port = 0
        self.http_port = 0
        self.dns_port = 0

    @property
    def ports(self) -> list[int]:
        """The ports that tunnels may go to."""
        return [*self.echo_ports, self.bulk_port]

    @cached_property
    def tls(self) -> TlsOrigin:
        """Started now. Raises Unavailable when there is nothing to make certificates with."""
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="egressproxy-bench-")))
        folder.chmod(0o755)  # proxies that gave up root read the authority's certificate
        authority, chain = write_certificates(folder, policy.ORIGIN)
        return TlsOrigin(self._start("http_origin", str(chain)), authority)

    def __enter__(self) -> Self:
        try:
            self.echo_ports = self._start("echo_origin", str(_ECHO_PORTS))
            self.bulk_port = self._start("bulk_origin")
            self.http_port = self._start("http_origin")
            self.dns_port = self._start("dns_server")
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _start(self, module: str, *arguments: str) -> Any:
        command = [sys.executable, "-m", f"benchmarks.support.{module}", *arguments]
        child: subprocess.Popen[bytes] = spawn(command, self._core, stdout=subprocess.PIPE)
        self._stack.callback(stop, child)
        assert child.stdout is not None
        line = child.stdout.readline()
        if not line:
            raise RuntimeError(f"{module} did not start: exit status {child.wait()}")
        return json.loads(line)
