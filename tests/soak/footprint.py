"""What a proxy takes of this machine: descriptors, watches, memory, CPU time; read from /proc and its metrics."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from support.proxy import Proxy
from support.waiting import eventually

MOST_PIPE_ENDS = 64
"""What the relay's pool may keep open."""


class Footprint(NamedTuple):
    """What a proxy at rest takes.

    descriptors  open ones, pipes left out
    pipe_ends    those of the relay's pool, which keeps pipes for the next bulk transfer
    watched      descriptors registered in its epolls
    names        in the DNS cache
    rss_kib      resident memory
    """

    descriptors: int
    pipe_ends: int
    watched: int
    names: int
    rss_kib: int

    @classmethod
    def of(cls, proxy: Proxy) -> Footprint:
        """Now: `names` is asked first, so that the connection to the admin port is over or seen by the next look."""
        names = int(proxy.metric("dns_cache_entries"))
        links = [_link(entry) for entry in Path(f"/proc/{proxy.pid}/fd").iterdir()]
        pipe_ends = sum(link.startswith("pipe:") for link in links)
        return cls(len(links) - pipe_ends, pipe_ends, _watched(proxy.pid), names, proxy.rss_kib())


class Soaked:
    """A proxy that is about to be soaked: everything it takes afterwards is held against what it took before."""

    def __init__(self, proxy: Proxy, say: Callable[[str], None]) -> None:
        self.proxy = proxy
        self._say = say
        self.before = self._at_rest()

    def mark(self) -> None:
        """Before is now: after a warm-up."""
        self.before = self._at_rest()

    def check_back(self, growth_kib: int) -> None:
        """Nothing is open, watched or cached that was not before, it burns no CPU, and memory has grown by less than this."""
        before = self.before

        def back() -> bool:
            self.after = Footprint.of(self.proxy)
            return self.after.descriptors <= before.descriptors and self.after.watched <= before.watched

        eventually(lambda: self.proxy.metric("connections_open") == 0, "no connection is open")
        try:
            eventually(back, "what was opened is closed")
        except AssertionError as late:
            raise AssertionError(f"not given back: {self.after}; before: {before}") from late
        after = self.after
        self._say(
            f"afterwards: {after.descriptors} descriptors ({before.descriptors} before), {after.watched} watched"
            f" ({before.watched}), {after.names} names ({before.names}), {after.pipe_ends} pipe ends"
            f" ({before.pipe_ends}), RSS {after.rss_kib} KiB ({after.rss_kib - before.rss_kib:+})"
        )
        assert after.pipe_ends <= MOST_PIPE_ENDS
        assert after.names <= before.names
        assert after.rss_kib - before.rss_kib < growth_kib, f"{before} before, {after} after"

    def _at_rest(self) -> Footprint:
        """What it takes once two looks in a row agree."""
        seen = [Footprint.of(self.proxy)]

        def calm() -> bool:
            seen.append(Footprint.of(self.proxy))
            return seen[-1][:3] == seen[-2][:3]

        eventually(calm, "the proxy is at rest")
        return seen[-1]


def cpu_ms(proxy: Proxy) -> float:
    """CPU time of all threads so far, to the nanosecond."""
    tasks = Path(f"/proc/{proxy.pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e6


def idle_cpu_ms(proxy: Proxy, seconds: float) -> float:
    """CPU time that it takes within so many seconds of nothing."""
    before = cpu_ms(proxy)
    time.sleep(seconds)
    return cpu_ms(proxy) - before


def rollup_kib(proxy: Proxy, what: str) -> int:
    """One line of smaps_rollup (proc_pid_smaps(5)): `Rss`, `Anonymous`."""
    text = Path(f"/proc/{proxy.pid}/smaps_rollup").read_text()
    found = re.search(rf"^{what}:\s+(\d+) kB", text, re.MULTILINE)
    assert found, text
    return int(found[1])


def _link(entry: Path) -> str:
    try:
        return os.readlink(entry)  # noqa: PTH115 - not a path
    except FileNotFoundError:
        return ""


def _watched(pid: int) -> int:
    """What is registered in the process's epolls: the lines `tfd:` (proc_pid_fdinfo(5))."""
    count = 0
    for entry in Path(f"/proc/{pid}/fdinfo").iterdir():
        try:
            count += sum(line.startswith("tfd:") for line in entry.read_text().splitlines())
        except FileNotFoundError:
            pass
    return count
