"""Under a service manager: sockets are handed over, and it is told what goes on."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.clients import open_tunnel
from support.handing import Manager
from support.origin import TcpOrigin
from support.peers import listening
from support.proxy import DEFECTS, Proxy, free_port
from support.waiting import WAIT_S, eventually


@pytest.fixture
def manager() -> Iterator[Manager]:
    with Manager() as one:
        yield one


class Handed:
    """A proxy whose listener's socket is held here, and stays while proxies come and go."""

    def __init__(self, folder: Path, manager: Manager, config: dict[str, Any]) -> None:
        self._manager = manager
        self.proxy = Proxy(folder, config)  # its files and ports, and what can be read of it
        self.socket = socket.create_server(("127.0.0.1", self.proxy.port), backlog=512)
        self.words = folder / "stderr"
        self.words.touch()
        self._children: list[subprocess.Popen[str]] = []

    def start(self, *more: socket.socket) -> subprocess.Popen[str]:
        command = (sys.executable, "-W", "always::ResourceWarning", "-m", "egressproxy", "run", "--no-watch")
        with self.words.open("a") as words:
            child = self._manager.start(
                [self.socket, *more], *command, str(self.proxy.config_file), stderr=words, stdout=words
            )
        self._children.append(child)
        return child

    def close(self) -> None:
        for child in self._children:
            child.kill()
            child.wait()
        self.socket.close()


@pytest.fixture
def handed(tmp_path: Path, manager: Manager, open_config: dict[str, Any]) -> Iterator[Handed]:
    one = Handed(tmp_path, manager, open_config)
    yield one
    one.close()
    assert not DEFECTS.search(one.words.read_text()), one.words.read_text()


def test_it_serves_on_what_it_was_handed_and_tells_of_its_life(
    handed: Handed, manager: Manager, echo_origin: TcpOrigin
) -> None:
    child = handed.start()
    assert manager.word() == ["READY=1"]
    with open_tunnel(handed.proxy, echo_origin.target) as tunnel:
        tunnel.sendall(b"hello")
        assert tunnel.recv(5) == b"hello"
    child.send_signal(signal.SIGHUP)
    assert manager.word()[0] == "RELOADING=1"
    assert manager.word() == ["READY=1"]
    handed.proxy.config_file.write_text("listeners: [")
    child.send_signal(signal.SIGHUP)
    assert manager.word()[0] == "RELOADING=1"
    assert manager.word() == ["READY=1"], "refused, and ready as before"
    child.send_signal(signal.SIGTERM)
    assert manager.word()[0] == "STOPPING=1"
    assert child.wait(WAIT_S) == 0


def test_no_client_is_refused_while_one_proxy_replaces_another(
    handed: Handed, manager: Manager, echo_origin: TcpOrigin
) -> None:
    served, wrong, over = [0], [], threading.Event()

    def keep_coming() -> None:
        while not over.is_set():
            try:
                with open_tunnel(handed.proxy, echo_origin.target) as tunnel:
                    tunnel.sendall(b"hello")
                    if tunnel.recv(5) != b"hello":
                        raise AssertionError("no echo")
                    served[0] += 1
            except (OSError, AssertionError) as error:
                wrong.append(repr(error))
                return

    def more_are_served() -> None:
        goal = served[0] + 20
        eventually(lambda: wrong or served[0] >= goal, "clients are served")

    child = handed.start()
    assert manager.word() == ["READY=1"]
    client = threading.Thread(target=keep_coming)
    client.start()
    try:
        for _ in range(2):
            more_are_served()
            child.send_signal(signal.SIGTERM)
            assert manager.word()[0] == "STOPPING=1"
            assert child.wait(WAIT_S) == 0
            child = handed.start()
            assert manager.word() == ["READY=1"]
        more_are_served()
    finally:
        over.set()
        client.join(WAIT_S)
        child.send_signal(signal.SIGTERM)
        child.wait(WAIT_S)
    assert wrong == []


def test_a_socket_that_no_listener_has_ends_the_start(handed: Handed) -> None:
    with listening() as stray:
        port = stray.getsockname()[1]
        child = handed.start(stray)
        assert child.wait(WAIT_S) == 1
    assert f"the socket that was handed over for 127.0.0.1 port {port} has no listener" in handed.words.read_text()


def test_a_reload_cannot_leave_a_socket_behind(handed: Handed, manager: Manager, echo_origin: TcpOrigin) -> None:
    child = handed.start()
    assert manager.word() == ["READY=1"]
    moved = {
        **handed.proxy.config,
        "listeners": [{"protocol": "http-proxy", "address": "127.0.0.1", "port": free_port()}],
    }
    handed.proxy.write_config(moved)
    child.send_signal(signal.SIGHUP)
    (problem,) = eventually(lambda: handed.proxy.get_json("/config")["last_reload_problems"], "the reload is refused")
    assert "has no listener" in problem["message"]
    with open_tunnel(handed.proxy, echo_origin.target):
        pass  # served as before
    child.send_signal(signal.SIGTERM)
    assert child.wait(WAIT_S) == 0


@pytest.mark.parametrize(("address", "listen"), [("127.0.0.1", "127.0.0.1:{}"), ("::", "{}")])
def test_systemd_itself_can_start_it(
    tmp_path: Path, open_config: dict[str, Any], echo_origin: TcpOrigin, address: str, listen: str
) -> None:
    if shutil.which("systemd-socket-activate") is None:
        pytest.skip("systemd-socket-activate is not installed")
    proxy = Proxy(tmp_path, {**open_config, "listeners": [{"protocol": "http-proxy", "address": address}]})
    command = [
        *("systemd-socket-activate", "--listen", listen.format(proxy.port)),
        *(sys.executable, "-m", "egressproxy", "run", "--no-watch", str(proxy.config_file)),
    ]
    with (tmp_path / "stderr").open("w") as words:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=words, cwd=Path(__file__).parents[2])
    try:
        eventually(lambda: "Listening on" in (tmp_path / "stderr").read_text(), "systemd listens")
        with open_tunnel(proxy, echo_origin.target) as tunnel:  # it is started by this, and takes it
            tunnel.sendall(b"hello")
            assert tunnel.recv(5) == b"hello"
        child.send_signal(signal.SIGTERM)
        assert child.wait(WAIT_S) == 0
    finally:
        child.kill()
        child.wait()
    assert not DEFECTS.search((tmp_path / "stderr").read_text())
