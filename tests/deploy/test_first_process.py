"""The proxy as the first process of a container, for which the kernel drops every signal without a handler."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.proxy import ROOT, free_port
from support.waiting import WAIT_S, eventually

HOSTS = 300_000
"""Enough for a start that takes seconds."""


@pytest.mark.skipif(sys.platform != "linux", reason="process namespaces are Linux's")
def test_sigterm_during_the_start_ends_it(tmp_path: Path) -> None:
    if shutil.which("unshare") is None or os.geteuid() != 0:
        pytest.skip("needs unshare, as root")
    file = tmp_path / "proxy.yaml"
    with file.open("w") as out:
        out.write(
            f"listeners: [{{protocol: http-proxy, address: 127.0.0.1, port: {free_port()}}}]\nadmin: null\nallow:\n"
        )
        out.writelines(f"- host-{number}.example.test\n" for number in range(HOSTS))
    command = ["unshare", "--pid", "--fork", "--kill-child", sys.executable, "-m", "egressproxy", "run", str(file)]
    with (tmp_path / "words").open("w") as words:
        outer = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stderr=words)
    try:
        children = Path(f"/proc/{outer.pid}/task/{outer.pid}/children")
        first = int(eventually(lambda: children.read_text().split(), "it is started")[0])
        eventually(lambda: handles(first, signal.SIGTERM), "it has a handler")
        os.kill(first, signal.SIGTERM)
        assert outer.wait(WAIT_S) == 128 + signal.SIGTERM, "ended at once, and not after it had been ready"
    finally:
        outer.kill()
        outer.wait()
    assert "listens on" not in (tmp_path / "words").read_text()


def handles(pid: int, number: signal.Signals) -> bool:
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return bool(int(status["SigCgt"], 16) >> (number - 1) & 1)
