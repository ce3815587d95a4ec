"""NGINX as a TCP proxy: a child process that runs a configuration file as it stands.

with NginxStream(folder, folder / "nginx.conf"):
    ...                              # it listens where the file says
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import pytest
from support.waiting import WAIT_S, eventually

_PATH = "/usr/local/sbin:/usr/sbin:/usr/local/bin:/usr/bin"
_MODULE = Path("/usr/lib/nginx/modules/ngx_stream_module.so")
COUNTS_HELLO = (1, 25, 5)
"""The first release that counts the ClientHello among the bytes received."""


def version() -> tuple[int, ...]:
    """Of the NGINX that is installed. Skips the test where there is none, or none with the stream module."""
    program = shutil.which("nginx", path=_PATH)
    if program is None:
        pytest.skip("nginx is not installed")
    said = subprocess.run([program, "-V"], capture_output=True, text=True, check=True).stderr
    if not _MODULE.exists() and not re.search(r"--with-stream(?!=dynamic)\b", said):
        pytest.skip("nginx has no stream module (Debian: libnginx-mod-stream)")
    found = re.search(r"nginx/(\d+)\.(\d+)\.(\d+)", said)
    assert found is not None, said
    return tuple(map(int, found.groups()))


class NginxStream:
    """One process without a master. What the file itself leaves to the distribution (module, pid file) is given beside it."""

    def __init__(self, folder: Path, config: Path) -> None:
        self.folder = folder
        self.config = config
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, run: Callable[..., Any] = lambda function: function()) -> None:
        """`run` calls a function where the process is to live."""
        version()
        module = f"load_module {_MODULE}; " if _MODULE.exists() else ""
        pid_file = self.folder / "nginx.pid"
        settings = f"{module}daemon off; master_process off; pid {pid_file};"
        command = [shutil.which("nginx", path=_PATH), "-p", self.folder, "-e", self.folder / "error.log"]
        command += ["-c", self.config, "-g", settings]
        quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        process = self._process = run(lambda: subprocess.Popen(command, **quiet))
        eventually(lambda: pid_file.exists() or process.poll() is not None, "nginx listens")
        assert process.poll() is None, (self.folder / "error.log").read_text()

    def stop(self) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait(WAIT_S)
