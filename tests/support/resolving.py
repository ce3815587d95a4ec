"""What the resolver's tests share: a clock that they move, the files of one test, and what a resolver has counted."""

from __future__ import annotations

from pathlib import Path

import pytest

from egressproxy.resolve.resolver import Resolver

NAME = "www.example.test"


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


class Files:
    """resolv.conf and the hosts file of one test. Replaced by renaming, as kubelet and NetworkManager do it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.resolv_conf = folder / "resolv.conf"
        self.hosts = folder / "hosts"
        self.write(self.resolv_conf, "nameserver 127.0.0.1:1\n")
        self.write(self.hosts, "")

    def write(self, path: Path, text: str) -> None:
        fresh = self._folder / "fresh"
        fresh.write_text(text)
        fresh.replace(path)


def counts(resolver: Resolver) -> dict[str, int]:
    """How the questions were answered, without the ways that were not taken."""
    return {outcome: number for outcome, number in resolver.outcomes.items() if number}


def open_sockets() -> list[str]:
    """Every socket of this process by inode; the test server's thread may close a TCP connection meanwhile."""
    if not Path("/proc/self/fd").exists():
        pytest.skip("descriptors are counted in /proc")
    found = []
    for fd in Path("/proc/self/fd").iterdir():
        try:
            target = str(fd.readlink())
        except OSError:
            continue
        if target.startswith("socket:"):
            found.append(target)
    return sorted(found)
