"""Processes of the package that start at once: one has imported everything, and each of them is a fork of it.

    child = spawn(["run", "egressproxy.yaml"], environment, stdout, stderr)    # as subprocess.Popen
    child.send_signal(signal.SIGTERM)
    assert child.wait(WAIT_S) == 0

    done = run("check", "egressproxy.yaml")                                    # as subprocess.run
    assert done.returncode == 0, done.stderr

Most of what a start costs is imports, and the tests start some hundreds of proxies. A forked one differs from one that was
started from nothing only in that: it has its own arguments, environment and descriptors (0, 1, 2 and no more), is among the
network and the mounts of the thread that asked for it, runs the same `main`, and its interpreter ends in the ordinary way,
with what that has to say of things left open.

There is one nursery for each test process. It ends when that closes its end of the socket between them, however it ends.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

_ROOT = Path(__file__).parents[2]
_MOST_BYTES = 200_000
"""Of a request: arguments and environment."""
_NAMESPACES = {"net": 0x4000_0000, "mnt": 0x2_0000}
"""Those that tests go into, with their flags in linux/sched.h."""

# --- in the test process ------------------------------------------------------------------------------------------


class Child:
    """A process that was forked, with what is used of subprocess.Popen."""

    def __init__(self, reports: socket.socket) -> None:
        self.returncode: int | None = None
        self._reports = reports
        self.pid = int(reports.recv(20))

    def poll(self) -> int | None:
        """The exit code, None while it runs; negative: the signal that ended it."""
        return self._look(0)

    def wait(self, timeout_s: float) -> int:
        """Wait until it has ended; its exit code. subprocess.TimeoutExpired if it has not in time."""
        if self._look(timeout_s) is None:
            raise subprocess.TimeoutExpired(f"egressproxy {self.pid}", timeout_s)
        assert self.returncode is not None
        return self.returncode

    def _look(self, timeout_s: float) -> int | None:
        if self.returncode is None and select.select([self._reports], [], [], timeout_s)[0]:
            self.returncode = int(self._reports.recv(20))
            self._reports.close()
        return self.returncode

    def send_signal(self, number: signal.Signals) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def spawn(arguments: Sequence[str], environment: Mapping[str, str], stdout: int, stderr: int) -> Child:
    """Run `egressproxy ARGUMENTS` with nothing on standard input, in the root of the checkout."""
    request = json.dumps([list(arguments), dict(environment)]).encode()
    assert len(request) < _MOST_BYTES
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    # A namespace is of a thread (see support.namespaces). Missed, what a test does to a host of its own is done to this one.
    namespaces = [os.open(_namespace(kind), os.O_RDONLY) for kind in _NAMESPACES]
    try:
        with theirs:
            socket.send_fds(_nursery(), [request], [stdout, stderr, theirs.fileno(), *namespaces])
    finally:
        for fd in namespaces:
            os.close(fd)
    return Child(ours)


def _namespace(kind: str) -> str:
    """Where this thread's own is."""
    return f"/proc/thread-self/ns/{kind}"


def run(*arguments: str, timeout_s: float = 30.0) -> subprocess.CompletedProcess[str]:
    """What `egressproxy ARGUMENTS` printed, and its exit code. Where nothing can be forked, of one started from nothing."""
    if sys.platform != "linux":
        command = [sys.executable, "-m", "egressproxy", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False, cwd=_ROOT)
    with tempfile.TemporaryFile("w+") as stdout, tempfile.TemporaryFile("w+") as stderr:
        child = spawn(arguments, os.environ, stdout.fileno(), stderr.fileno())
        try:
            code = child.wait(timeout_s)
        finally:
            child.kill()
        stdout.seek(0)
        stderr.seek(0)
        return subprocess.CompletedProcess(arguments, code, stdout.read(), stderr.read())


@functools.cache
def _nursery() -> socket.socket:
    """The one of this process."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-W", "always::ResourceWarning", __file__, str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            cwd=_ROOT,
            pass_fds=[theirs.fileno()],
        )

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours


# --- in the nursery -----------------------------------------------------------------------------------------------


def _serve(fd: int) -> None:
    """Fork for each request, and report how each child ends. Returns in a child only."""
    requests = socket.socket(fileno=fd)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's is for the tests
    running: dict[int, tuple[int, socket.socket]] = {}  # by the descriptor that tells of its end
    while True:
        ready, _, _ = select.select([requests, *running], [], [])
        for ended in ready:
            if ended is not requests:
                pid, report = running.pop(ended)
                os.close(ended)
                _say(report, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
                report.close()
        if requests not in ready:
            continue
        request, descriptors, _, _ = socket.recv_fds(requests, _MOST_BYTES, 3 + len(_NAMESPACES))
        if not request:
            os._exit(0)  # what still runs is nobody's any more
        pid = os.fork()
        if pid == 0:
            requests.close()
            for fd, (_, report) in running.items():
                os.close(fd)
                report.close()
            _become(*json.loads(request), *descriptors)
            return
        stdout, stderr, reporting, *namespaces = descriptors
        for fd in (stdout, stderr, *namespaces):
            os.close(fd)
        report = socket.socket(fileno=reporting)
        running[os.pidfd_open(pid)] = pid, report
        _say(report, pid)


def _say(report: socket.socket, number: int) -> None:
    try:
        report.send(b"%d" % number)
    except OSError:
        pass  # nobody asks any more


def _become(
    arguments: list[str], environment: dict[str, str], stdout: int, stderr: int, report: int, *namespaces: int
) -> None:
    for fd, (kind, flag) in zip(namespaces, _NAMESPACES.items(), strict=True):
        _enter(fd, kind, flag)
    os.chdir(_ROOT)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)
    for fd in (stdout, stderr, report, *namespaces):
        os.close(fd)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv[1:] = arguments


def _enter(fd: int, kind: str, flag: int) -> None:
    """Go into this namespace, or end: nothing may run in another one than it was meant for."""
    if os.path.samestat(os.fstat(fd), os.stat(_namespace(kind))):  # noqa: PTH116
        return  # and no rights are needed
    if ctypes.CDLL(None, use_errno=True).setns(fd, flag) != 0:
        os._exit(70)


if __name__ == "__main__":
    sys.path[0] = str(_ROOT)
    import uvloop  # noqa: F401

    import egressproxy.config.load
    import egressproxy.runtime.supervisor  # noqa: F401
    from egressproxy.cli import main

    _serve(int(sys.argv[1]))
    main()
