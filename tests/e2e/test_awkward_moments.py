"""Signals that come while something else is under way: at the start, during a reload, near the end."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.clients import ask, connect_head, open_tunnel, receive, receive_all
from support.origin import TcpOrigin
from support.proxy import Proxy, free_port
from support.waiting import eventually, once_at_rest

Start = Callable[..., Proxy]

OLD_ADMIN_S = 1.0
"""How long the old admin port waits at least for those who do not read their answers."""

TOLD_TO_END_WHILE_THE_ADMIN_PORT_OPENS = """
import asyncio, signal
from egressproxy.runtime import worker

start_admin, calls = worker.start_admin, []

async def start_and_be_told_to_end(state, sock):
    calls.append(sock)
    if len(calls) == {which}:
        signal.raise_signal(signal.SIGTERM)
        while state.ready != "draining":
            await asyncio.sleep(0)
    return await start_admin(state, sock)

worker.start_admin = start_and_be_told_to_end
"""
"""The one moment in which a configuration is put in place and others may run, made as long as it takes."""


def still_works(tunnel: socket.socket) -> None:
    """The tunnel leads to an echo."""
    tunnel.sendall(b"still here")
    assert receive(tunnel, 10) == b"still here"


def listening_ports(proxy: Proxy) -> set[int]:
    return {port for _, port in proxy.listening()}


def listeners_on(*ports: int) -> list[dict[str, Any]]:
    return [{"protocol": "http-proxy", "address": "127.0.0.1", "port": port} for port in ports]


def unread_bytes(sock: socket.socket) -> int:
    return int.from_bytes(fcntl.ioctl(sock, termios.FIONREAD, b"\0\0\0\0"), sys.byteorder)


HANGS_SOON = """
from egressproxy.runtime import worker
worker.READ_HANGS_S = 0.2
worker.MAX_HANGING = 1
"""


def replace_by_fifo(file: Path) -> Path:
    """The file is a FIFO from now on: who opens it waits for who opens it at the other end."""
    file.unlink()
    os.mkfifo(file)
    return file


# --- at the start -------------------------------------------------------------------------------------------------


def test_told_to_end_before_it_serves_it_ends_in_order(tmp_path: Path) -> None:
    proxy = Proxy(tmp_path, prelude=TOLD_TO_END_WHILE_THE_ADMIN_PORT_OPENS.format(which=1)).spawn()
    assert proxy.wait() == 0
    proxy.end()
    assert "listens on" not in proxy.stderr
    assert proxy.stderr.endswith("stopped: no tunnel was cut\n")


def test_signals_that_come_before_the_configuration_is_read_do_not_end_it(tmp_path: Path) -> None:
    proxy = Proxy(tmp_path)
    text = proxy.config_file.read_text()
    replace_by_fifo(proxy.config_file)
    proxy.spawn()
    try:
        with proxy.config_file.open("w") as config:  # it reads
            proxy.signal(signal.SIGHUP)
            proxy.signal(signal.SIGUSR1)
            config.write(text)
        eventually(lambda: proxy.has_ended or proxy.ready, "it is ready all the same")
        assert not proxy.has_ended, f"ended with {proxy.exit_code}"
    finally:
        proxy.end()


# --- during a reload ----------------------------------------------------------------------------------------------


def test_told_to_end_while_the_admin_port_moves_the_new_listeners_are_never_opened(
    start: Start, open_config: dict[str, Any], echo_origin: TcpOrigin
) -> None:
    proxy = start(open_config, prelude=TOLD_TO_END_WHILE_THE_ADMIN_PORT_OPENS.format(which=2))
    with open_tunnel(proxy, echo_origin.target) as tunnel:
        moved = {**open_config, "admin": {"port": free_port()}, "listeners": listeners_on(proxy.port, free_port())}
        proxy.write_config(moved)
        proxy.signal(signal.SIGHUP)
        eventually(lambda: "reload given up: the proxy is draining" in proxy.stderr, "the reload is over")
        assert listening_ports(proxy) == {proxy.admin_port}, "the pages stay where they were"
        assert proxy.get("/readyz") == (503, "draining\n")
        assert proxy.metric("config_generation") == 1
        still_works(tunnel)
    assert proxy.wait() == 0
    assert [record["outcome"] for record in proxy.logged().records] == ["closed"]


def test_told_to_end_while_the_old_admin_port_closes_the_new_listeners_close_too(
    start: Start, open_config: dict[str, Any], echo_origin: TcpOrigin
) -> None:
    proxy = start(open_config)
    old_admin, new_admin, first, second = proxy.admin_port, free_port(), proxy.port, free_port()
    with open_tunnel(proxy, echo_origin.target) as tunnel, socket.create_connection(("127.0.0.1", old_admin)) as reader:
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        reader.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 1000)  # more answers than fit on the way
        once_at_rest(lambda: unread_bytes(reader))
        proxy.write_config({**open_config, "admin": {"port": new_admin}, "listeners": listeners_on(first, second)})
        proxy.signal(signal.SIGHUP)
        signalled = time.monotonic()
        proxy.admin_port = new_admin
        eventually(
            lambda: proxy.ready, "the pages are at their new place, and the old one is busy with its last answers"
        )
        assert "reloaded" not in proxy.stderr or time.monotonic() - signalled > OLD_ADMIN_S
        assert {first, second} < listening_ports(proxy), "nobody waits for that"
        proxy.signal(signal.SIGTERM)
        eventually(lambda: "reloaded: configuration 2 is in force" in proxy.stderr, "the reload is over")
        eventually(lambda: listening_ports(proxy) == {new_admin}, "nobody else listens any more")
        still_works(tunnel)
    assert proxy.wait() == 0


def test_told_to_end_while_the_files_are_read_the_new_configuration_is_given_back(
    start: Start, open_config: dict[str, Any], echo_origin: TcpOrigin
) -> None:
    proxy = start(open_config)
    with open_tunnel(proxy, echo_origin.target) as tunnel:
        moved = {**open_config, "admin": {"port": free_port()}, "listeners": listeners_on(proxy.port, free_port())}
        proxy.write_config(moved)
        text = proxy.config_file.read_text()
        replace_by_fifo(proxy.config_file)
        proxy.signal(signal.SIGHUP)
        with proxy.config_file.open("w") as config:  # it reads
            proxy.signal(signal.SIGTERM)
            eventually(lambda: proxy.port not in listening_ports(proxy), "it drains")
            config.write(text)
        eventually(lambda: "reload given up" in proxy.stderr, "the reload is over")
        assert listening_ports(proxy) == {proxy.admin_port}
        still_works(tunnel)
    assert proxy.wait() == 0
    assert "reloaded" not in proxy.stderr


def test_files_that_cannot_be_read_to_their_end_do_not_hold_up_that_of_the_proxy(
    start: Start, open_config: dict[str, Any]
) -> None:
    proxy = start(open_config)
    replace_by_fifo(proxy.config_file)
    proxy.signal(signal.SIGHUP)
    with proxy.config_file.open("w"):  # it reads
        proxy.signal(signal.SIGTERM)
        assert proxy.wait() == 0


def test_reading_that_does_not_come_back_is_told_and_another_reload_may_follow(
    tmp_path: Path, open_config: dict[str, Any]
) -> None:
    proxy = Proxy(tmp_path, open_config, prelude=HANGS_SOON).start()
    try:
        text = proxy.config_file.read_text()
        hangs = replace_by_fifo(proxy.config_file)
        proxy.signal(signal.SIGHUP)
        told = "reload: reading the files has not ended after 0.2 s; does a file system hang? SIGHUP reads them anew"
        eventually(lambda: told in proxy.stderr, "it waits no longer")
        assert proxy.metric("config_last_reload_successful") == 0
        assert told.removeprefix("reload: ") in str(proxy.get_json("/config")["last_reload_problems"])
        proxy.signal(signal.SIGHUP)
        eventually(lambda: "1 have not come back yet" in proxy.stderr, "there is a bound")
        hangs = hangs.rename(tmp_path / "hangs")
        proxy.config_file.write_text(text)
        with hangs.open("w") as late:
            late.write(text)
        eventually(
            lambda: proxy.metric("config_last_reload_successful") == 1, "it came back, and reads what there is now"
        )
        proxy.signal(signal.SIGHUP)
        eventually(lambda: proxy.metric("config_generation") == 2, "and the next one is in force")
    finally:
        proxy.end()


def test_a_reload_during_the_drain_is_not_looked_at(
    start: Start, open_config: dict[str, Any], echo_origin: TcpOrigin
) -> None:
    proxy = start(open_config)
    with open_tunnel(proxy, echo_origin.target) as tunnel:
        proxy.signal(signal.SIGTERM)
        eventually(lambda: proxy.get("/readyz") == (503, "draining\n"), "it drains")
        assert proxy.metric("config_generation") == 1
        proxy.config_file.write_text("not: a configuration\n")
        proxy.signal(signal.SIGHUP)
        proxy.signal(signal.SIGUSR1)
        eventually(lambda: "access logs reopened" in proxy.stderr, "the signals have arrived, the later one too")
        assert proxy.get_json("/config")["last_reload_problems"] == []
        still_works(tunnel)
    assert proxy.wait() == 0
    assert "reload refused" not in proxy.stderr


# --- with a standard error or output that nobody reads ------------------------------------------------------------


@pytest.fixture
def full_pipe() -> Iterator[int]:
    """The end for writing of a pipe that holds all it can, and that nobody reads."""
    reader, writer = os.pipe()
    size = fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    assert os.write(writer, bytes(size)) == size
    yield writer
    os.close(writer)
    os.close(reader)


def test_reloads_whose_complaints_nobody_reads_hold_up_no_tunnel(
    start: Start, open_config: dict[str, Any], echo_origin: TcpOrigin, full_pipe: int
) -> None:
    proxy = start(open_config, stderr=full_pipe)
    wrong = {**open_config, "rules": [{"action": "perhaps"}] * 60}  # some fifty lines each time
    with open_tunnel(proxy, echo_origin.target) as tunnel:
        for _ in range(25):  # more lines than may wait
            assert not proxy.reload(wrong)
            still_works(tunnel)
        assert ask(proxy, connect_head("refused..example:443")).status == 400
        assert proxy.reload(open_config)
        still_works(tunnel)
        proxy.signal(signal.SIGTERM)
        eventually(lambda: proxy.get("/readyz")[0] == 503, "it drains")
        still_works(tunnel)
    assert proxy.wait() == 0


def test_signals_that_come_while_the_last_lines_are_written_do_not_change_the_end(
    start: Start, open_config: dict[str, Any], echo_origin: TcpOrigin, full_pipe: int
) -> None:
    proxy = start({**open_config, "access_log": [{"path": "-"}]}, stdout=full_pipe)
    with open_tunnel(proxy, echo_origin.target) as tunnel:
        still_works(tunnel)
    eventually(lambda: proxy.metric("connections_open") == 0, "its line waits for the pipe")
    proxy.signal(signal.SIGTERM)
    eventually(lambda: proxy.has_ended or not listening_ports(proxy), "all that is left are the last lines")
    assert not proxy.has_ended
    proxy.signal(signal.SIGHUP)
    proxy.signal(signal.SIGUSR1)
    proxy.signal(signal.SIGTERM)  # who has sent one may send another
    assert proxy.wait() == 0


# --- the last word ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("tunnels", "said"), [(1, "1 tunnel cut"), (2, "2 tunnels cut")])
def test_the_last_line_says_how_many_tunnels_were_cut(
    start: Start, open_config: dict[str, Any], echo_origin: TcpOrigin, tunnels: int, said: str
) -> None:
    proxy = start({**open_config, "timeouts": {"drain_s": 0}})
    opened = [open_tunnel(proxy, echo_origin.target) for _ in range(tunnels)]
    proxy.signal(signal.SIGTERM)
    for tunnel in opened:
        with tunnel:
            assert receive_all(tunnel) == b""
    assert proxy.wait() == 0
    assert proxy.stderr.endswith(f" INFO stopped: {said}\n")
