"""What a service manager is told, by datagram."""

from __future__ import annotations

import secrets
import socket
import sys
import time
from pathlib import Path

import pytest

from egressproxy.runtime.service_manager import SPARE_S, ServiceManager


@pytest.fixture
def ear(tmp_path: Path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.setblocking(False)
        yield sock


def heard(ear: socket.socket) -> dict[str, str]:
    return dict(line.split("=", 1) for line in ear.recv(4096).decode().split("\n"))


def test_it_is_told_of_the_start_reloads_and_the_end(ear):
    environment = {"NOTIFY_SOCKET": ear.getsockname()}
    manager = ServiceManager.from_environment(environment)
    assert environment == {}
    manager.ready()
    assert heard(ear) == {"READY": "1"}
    before = time.monotonic_ns() // 1000
    manager.reloading()
    told = heard(ear)
    assert told.keys() == {"RELOADING", "MONOTONIC_USEC"}
    assert before <= int(told["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000
    manager.stopping(0.5)
    assert heard(ear) == {"STOPPING": "1", "EXTEND_TIMEOUT_USEC": str(int((0.5 + SPARE_S) * 1e6))}


@pytest.mark.skipif(sys.platform != "linux", reason="names that are no files are Linux's")
def test_its_socket_may_have_a_name_that_is_no_file():
    name = f"egressproxy-test-{secrets.token_hex(8)}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.bind(f"\0{name}")
        ear.setblocking(False)
        ServiceManager(f"@{name}").ready()
        assert heard(ear) == {"READY": "1"}


def test_without_one_nothing_is_said(monkeypatch):
    monkeypatch.setattr(socket, "socket", None)
    ServiceManager.from_environment({}).ready()


def test_one_that_is_gone_or_never_listens_holds_nothing_up(ear, tmp_path):
    ServiceManager(str(tmp_path / "nobody")).ready()
    manager = ServiceManager(ear.getsockname())
    waiting = Path("/proc/sys/net/unix/max_dgram_qlen")
    for _ in range(int(waiting.read_text()) + 10 if waiting.exists() else 100):
        manager.ready()
