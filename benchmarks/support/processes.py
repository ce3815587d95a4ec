"""Child processes: started on one core, asked for CPU time and memory, and ended by process id. Linux only."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import subprocess
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
"""The repository: children run in it, so that they find the packages."""

_libc = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


class Cores(NamedTuple):
    """Where things run: the proxy under test alone on one core; load, origins and everything else on the other."""

    proxy: int
    load: int

    @property
    def shared(self) -> bool:
        """There is one core only, so the rates say little; CPU time still does."""
        return self.proxy == self.load


def choose_cores() -> Cores:
    """The first two cores this process may use."""
    allowed = sorted(os.sched_getaffinity(0))
    return Cores(allowed[0], allowed[min(1, len(allowed) - 1)])


def spawn(
    command: Sequence[str], core: int, *, stdout: IO[bytes] | int, stderr: IO[bytes] | int | None = None
) -> subprocess.Popen[bytes]:
    """Start a child on `core`. It ends when this process does, however that ends; the caller stops it before."""

    def prepare() -> None:
        os.sched_setaffinity(0, {core})
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)

    # preexec_fn is unsafe beside threads; this process has none.
    return subprocess.Popen(
        list(command), cwd=ROOT, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, preexec_fn=prepare
    )


def stop(child: subprocess.Popen[bytes], patience_s: float = 10.0) -> None:
    """End a child and all its descendants: SIGTERM, and SIGKILL for what is left after `patience_s`."""
    family = tree(child.pid)
    child.terminate()
    try:
        child.wait(patience_s)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
    if child.stdout is not None:
        child.stdout.close()
    deadline = time.monotonic() + patience_s
    for pid in family[1:]:
        while _alive(pid):
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
                break
            time.sleep(0.01)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def tree(pid: int) -> list[int]:
    """`pid` and its descendants: workers and helpers belong to the proxy, and their CPU time and memory do too."""
    found = [pid]
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += tree(int(child))
    except (FileNotFoundError, ProcessLookupError):
        pass
    return found


def cpu_s(pids: Iterable[int]) -> float:
    """CPU seconds of these processes so far, user and system, over all threads, to the nanosecond.

    From each process's CPU clock (clock_getcpuclockid, POSIX): /proc/PID/stat counts in ticks of 10 ms.
    """
    total = 0.0
    for pid in pids:
        clock = ctypes.c_int()
        error = _libc.clock_getcpuclockid(pid, ctypes.byref(clock))
        if error:
            raise OSError(error, f"no CPU clock of process {pid}: {os.strerror(error)}")
        total += time.clock_gettime(clock.value)
    return total


def kernel_s(pids: Iterable[int]) -> float:
    """The part of `cpu_s` spent in the kernel, in ticks of 10 ms: good for a share over a second or more."""
    ticks = sum(int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[12]) for pid in pids)  # stime
    return ticks / os.sysconf("SC_CLK_TCK")


class OtherWork:
    """How much of the two cores went to processes that are not ours: neighbours, or the host of a virtual machine."""

    def __init__(self, cores: Cores) -> None:
        self._names = {f"cpu{core}" for core in cores}
        self._last = self._read()

    def share(self) -> float:
        """Since the last time it was asked, from 0 to 1."""
        before, self._last = self._last, self._read()
        wall_s, busy_s, ours_s = (now - then for now, then in zip(self._last, before, strict=True))
        return max(0.0, (busy_s - ours_s) / (wall_s * len(self._names)))

    def _read(self) -> tuple[float, float, float]:
        ticks = 0
        for line in Path("/proc/stat").read_text().splitlines():
            name, _, numbers = line.partition(" ")
            if name in self._names:
                user, nice, system, _idle, _iowait, irq, softirq, steal, *_ = map(int, numbers.split())
                ticks += user + nice + system + irq + softirq + steal
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        ours_s = cpu_s(tree(os.getpid())) + ended.ru_utime + ended.ru_stime
        return time.perf_counter(), ticks / os.sysconf("SC_CLK_TCK"), ours_s


def memory_bytes(pids: Iterable[int]) -> int:
    """User-space memory of these processes: the proportional set size, so pages that workers share count once."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1]) * 1024
    return total


def descriptor_limit() -> int:
    """How many descriptors this process and its children may have open."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def raise_descriptor_limit(needed: int) -> str | None:
    """Let this process and children started from now on open `needed` descriptors. None, or in words why not."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for wanted in (max(needed, hard), hard):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))
            break
        except (ValueError, PermissionError):
            continue
    if descriptor_limit() >= needed:
        return None
    return f"{needed} descriptors are needed, the hard limit is {hard}, and raising it (ulimit -Hn) is not permitted"
