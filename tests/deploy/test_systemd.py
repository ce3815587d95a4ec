"""The units: what systemd says of them, and that the proxy lives within what they leave it."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from support.clients import connect_head, receive, run
from support.origin import TcpOrigin, echo
from support.proxy import ROOT, Proxy
from support.waiting import WAIT_S, eventually

from egressproxy.config.schema.stages import Limits

UNITS = ROOT / "config/systemd"
MOST_EXPOSURE = 1.5
"""Of 10, by systemd's own count: what is left is the network, which is the proxy's business."""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="systemd is Linux's")


@pytest.fixture
def units(tmp_path: Path) -> list[Path]:
    """Copies of the units, with a program in the place of the one that an installation puts there."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    program = tmp_path / "egressproxy"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    copies = []
    for name in ("egressproxy.service", "egressproxy.socket"):
        copies.append(tmp_path / name)
        text = (UNITS / name).read_text().replace("/opt/egressproxy/bin/egressproxy", str(program))
        copies[-1].write_text(text)
    return copies


def test_the_page_asks_for_the_python_that_the_project_needs() -> None:
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"].removeprefix(">=")
    assert f"Python {needed} or later" in (UNITS / "README.md").read_text()


def settings(unit: str) -> list[tuple[str, str]]:
    lines = (UNITS / unit).read_text().splitlines()
    return [(key, value) for key, mark, value in (line.partition("=") for line in lines if line[:1] != "#") if mark]


def test_systemd_has_nothing_to_complain_of(units: list[Path], tmp_path: Path) -> None:
    done = run("systemd-analyze", "verify", "--man=no", "--recursive-errors=no", *units, folder=tmp_path)
    assert (done.out, done.err) == ("", "")


def test_systemd_finds_it_locked_in(units: list[Path], tmp_path: Path) -> None:
    done = run("systemd-analyze", "security", "--offline=yes", "--no-pager", units[0], folder=tmp_path, code=None)
    if "offline" in done.err:
        pytest.skip("this systemd-analyze cannot look at a file")
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.out)
    assert found, done
    assert float(found[1]) <= MOST_EXPOSURE, done.out


def test_its_user_is_made_without_a_password_or_a_shell(tmp_path: Path) -> None:
    if shutil.which("systemd-sysusers") is None or os.geteuid() != 0:
        pytest.skip("needs systemd-sysusers, as root")
    (tmp_path / "etc").mkdir()
    run("systemd-sysusers", f"--root={tmp_path}", UNITS / "egressproxy.sysusers", folder=tmp_path)
    (line,) = [line for line in (tmp_path / "etc/passwd").read_text().splitlines() if line.startswith("egressproxy:")]
    assert line.endswith(":/:/usr/sbin/nologin")


def test_the_units_name_the_user_that_is_made() -> None:
    made = (UNITS / "egressproxy.sysusers").read_text().splitlines()[-1].split()[1]
    assert {value for key, value in settings("egressproxy.service") if key in ("User", "Group")} == {made}


def test_the_service_says_what_no_score_asks_for() -> None:
    said = dict(settings("egressproxy.service"))
    assert said["Type"] == "notify", "whoever waits for it finds it listening"
    assert said["KillMode"] == "mixed", "SIGTERM for the first process alone, and at the end nothing is left"
    assert int(said["LimitNOFILE"]) > 2 * Limits().max_tunnels
    assert (said["ProtectSystem"], said["ProtectHome"], said["CapabilityBoundingSet"]) == ("strict", "yes", "")
    assert said["NoNewPrivileges"] == said["PrivateUsers"] == said["PrivateDevices"] == "yes"


def carry_out(key: str, proxy: Proxy) -> int:
    """What systemd does under this key, one after the other and none behind one that fails; the last exit code."""
    here = {
        "/opt/egressproxy/bin/egressproxy": f"{sys.executable} -m egressproxy",
        "/etc/egressproxy": str(proxy.config_file),
        "$MAINPID": str(proxy.pid),
    }
    listed = [value for name, value in settings("egressproxy.service") if name == key]
    assert listed, f"nothing is done under {key}"
    for command in listed:
        words = shlex.split(" ".join(here.get(word, word) for word in command.split()))
        code = subprocess.run(words, cwd=ROOT, capture_output=True, timeout=60, check=False).returncode
        if code != 0:
            return code
    return 0


def test_it_looks_at_the_configuration_before_it_starts_or_reloads(tmp_path: Path) -> None:
    with Proxy(tmp_path) as proxy:
        assert carry_out("ExecStartPre", proxy) == 0
        assert carry_out("ExecReload", proxy) == 0
        eventually(lambda: "reload" in proxy.stderr, "it has reloaded")
        told = proxy.stderr
        proxy.config_file.write_text("alow: []\n")
        assert carry_out("ExecStartPre", proxy) == 1
        assert carry_out("ExecReload", proxy) == 1
        assert proxy.stderr == told, "nobody has asked it to look"


# Set on the proxy's own process: memory that was writable never becomes executable (linux/prctl.h: PR_SET_MDWE, which is what
# MemoryDenyWriteExecute is on kernels that have it), and no new privileges.
LOCKED = """
import ctypes, sys
libc = ctypes.CDLL(None, use_errno=True)
if libc.prctl(65, 1, 0, 0, 0) != 0 or libc.prctl(38, 1, 0, 0, 0) != 0:
    sys.stderr.write(f"not to be had: errno {ctypes.get_errno()}\\n")
    sys.exit(77)
"""


def use(proxy: Proxy, origin: TcpOrigin) -> None:
    """What needs most of it: a tunnel that carries enough to be moved by the kernel, and a page."""
    with socket.create_connection(("127.0.0.1", proxy.port), WAIT_S) as tunnel:
        tunnel.sendall(connect_head(origin.target))
        assert receive(tunnel, 39).startswith(b"HTTP/1.1 200")
        for _ in range(20):
            tunnel.sendall(b"hello" * 20_000)
            assert receive(tunnel, 100_000) == b"hello" * 20_000
    eventually(lambda: proxy.metric("connections_total") >= 1, "the tunnel has ended and is counted")


OPEN: dict[str, Any] = {"outbound": "allow_any", "guard": {"allow": ["127.0.0.1/32"]}}


def test_it_needs_no_memory_that_is_both_written_and_run(tmp_path: Path) -> None:
    proxy = Proxy(tmp_path, OPEN, prelude=LOCKED)
    try:
        with TcpOrigin(echo) as origin, proxy:
            use(proxy, origin)
            assert proxy.reload(OPEN)
    except AssertionError:
        if proxy.exit_code == 77:
            pytest.skip(proxy.stderr.strip())
        raise


def test_it_asks_for_no_system_call_that_the_unit_forbids(tmp_path: Path) -> None:
    if shutil.which("strace") is None or shutil.which("systemd-analyze") is None:
        pytest.skip("needs strace and systemd-analyze")
    proxy = Proxy(tmp_path, OPEN, fresh=True)
    trace = tmp_path / "trace"
    command = [sys.executable, *proxy._command()]
    with (tmp_path / "words").open("w") as words, TcpOrigin(echo) as origin:
        traced = subprocess.Popen(
            ["strace", "-f", "-qq", "-e", "signal=none", "-o", trace, *command], cwd=ROOT, stderr=words
        )
        try:
            eventually(lambda: traced.poll() is not None or proxy_is_ready(proxy), "it is ready", 60)
            use(proxy, origin)
            child = int(trace.read_text().split(maxsplit=1)[0])
            os.kill(child, signal.SIGTERM)
            assert traced.wait(60) == 0
        finally:
            traced.kill()
    used = set(re.findall(r"^\d+ +([a-z0-9_]+)\(", trace.read_text(), re.MULTILINE))
    assert {"epoll_wait", "accept4", "connect"} <= used | {"epoll_pwait", "epoll_pwait2"}
    assert used - allowed(tmp_path) == set()


def proxy_is_ready(proxy: Proxy) -> bool:
    try:
        return proxy.get("/readyz")[0] == 200
    except OSError:
        return False


def allowed(folder: Path) -> set[str]:
    """What the unit's SystemCallFilter comes to."""
    listing: dict[str, list[str]] = {}
    name = ""
    for line in run("systemd-analyze", "syscall-filter", "--no-pager", folder=folder).out.splitlines():
        if line.startswith("@"):
            name = line.strip()
            listing[name] = []
        elif (word := line.strip()) and not word.startswith("#"):
            listing[name].append(word)

    def members(group: str) -> set[str]:
        found: set[str] = set()
        for word in listing[group]:
            found |= members(word) if word.startswith("@") else {word}
        return found

    total: set[str] = members("@default")
    for key, value in settings("egressproxy.service"):
        if key == "SystemCallFilter":
            for word in value.removeprefix("~").split():
                total = total - members(word) if value.startswith("~") else total | members(word)
    return total
