"""Watching real files: what is told, how soon, and how often."""

# ruff: noqa: ASYNC240 - files change in the loop, between two waits, on purpose

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from support.proxy import ROOT

from egressproxy.config.snapshot import Snapshot
from egressproxy.runtime import watch as watch_module
from egressproxy.runtime.watch import Watch

PROMPT_S = 10.0
"""How soon a change is told, on a busy machine. What users are promised is told by e2e/test_live.py."""
QUIET_S = 1.5
"""How long nothing may be told where there is nothing to tell."""


class Watched:
    """A snapshot of some files under watch; what was told is counted."""

    def __init__(self, take: Callable[[Snapshot], object]) -> None:
        self.take = take
        self.told = asyncio.Event()
        self.times = 0
        self.watch = Watch(asyncio.get_running_loop(), self._changed)

    def _changed(self) -> None:
        self.times += 1
        self.told.set()

    async def again(self) -> None:
        """Read anew, as a reload does; back once the kernel has been asked to watch."""
        self.told.clear()
        snapshot = Snapshot()
        self.take(snapshot)
        self.watch.use(snapshot)
        await asyncio.sleep(0.1)

    async def tells(self, within_s: float = PROMPT_S) -> None:
        async with asyncio.timeout(within_s):
            await self.told.wait()

    async def tells_nothing(self) -> None:
        with pytest.raises(TimeoutError):
            await self.tells(QUIET_S)


@pytest.fixture
async def watching() -> AsyncIterator[Callable[..., Watched]]:
    made: list[Watched] = []

    def start(take: Callable[[Snapshot], object]) -> Watched:
        made.append(Watched(take))
        return made[-1]

    yield start
    for each in made:
        each.watch.close()
    assert not any(thread.name == "watch" for thread in threading.enumerate())


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "a.yaml"
    file.write_text("one\n")
    return file


def rename_over(file: Path) -> None:
    fresh = file.with_suffix(".new")
    fresh.write_text("two\n")
    fresh.replace(file)


def as_vim_writes(file: Path) -> None:
    file.rename(f"{file}~")
    file.write_text("two\n")
    Path(f"{file}~").unlink()


@pytest.mark.parametrize("change", [lambda file: file.write_text("two\n"), rename_over, as_vim_writes, os.remove])
async def test_a_file_that_changes_is_told_once(
    watching: Callable[..., Watched], file: Path, change: Callable[[Path], object]
) -> None:
    watched = watching(lambda snapshot: snapshot.read(str(file)))
    await watched.again()
    change(file)
    await watched.tells()
    await watched.again()
    await watched.tells_nothing()
    assert watched.times == 1


async def test_a_file_that_vanished_is_told_when_it_comes_back(watching: Callable[..., Watched], file: Path) -> None:
    watched = watching(lambda snapshot: snapshot.read(str(file)))
    await watched.again()
    shutil.rmtree(file.parent)
    await watched.tells()
    await watched.again()
    file.parent.mkdir()
    file.write_text("two\n")
    await watched.tells()
    await watched.again()
    file.write_text("three\n")  # the folder is another one than at first
    await watched.tells()


async def test_the_swap_of_a_configmap_is_told(watching: Callable[..., Watched], tmp_path: Path) -> None:
    mounted = tmp_path / "mounted"
    for number in (1, 2):
        (mounted / f"..{number}").mkdir(parents=True)
        (mounted / f"..{number}" / "a.yaml").write_text(f"{number}\n")
    (mounted / "..data").symlink_to("..1")
    (mounted / "a.yaml").symlink_to("..data/a.yaml")
    own = tmp_path / "own"
    own.mkdir()
    (own / "link.yaml").symlink_to(mounted / "a.yaml")
    watched = watching(lambda snapshot: snapshot.read(str(own / "link.yaml")))
    await watched.again()
    (mounted / "..tmp").symlink_to("..2")
    (mounted / "..tmp").rename(mounted / "..data")
    shutil.rmtree(mounted / "..1")
    await watched.tells()
    await watched.again()
    await watched.tells_nothing()


async def test_a_folder_tells_of_files_that_come_and_go(watching: Callable[..., Watched], file: Path) -> None:
    def take(snapshot: Snapshot) -> None:
        for name in snapshot.names(str(file.parent)):
            snapshot.read(str(file.parent / name))

    watched = watching(take)
    await watched.again()
    (file.parent / "b.yaml").write_text("b\n")
    await watched.tells()
    await watched.again()
    (file.parent / "b.yaml").unlink()
    await watched.tells()


async def test_what_lies_beside_and_what_stays_the_same_is_not_told(
    watching: Callable[..., Watched], file: Path
) -> None:
    watched = watching(lambda snapshot: snapshot.read(str(file)))
    await watched.again()
    (file.parent / "access.log").write_text("a line\n")
    file.write_text("one\n")
    file.touch()
    await watched.tells_nothing()


async def test_a_burst_is_told_once_it_is_over(watching: Callable[..., Watched], file: Path) -> None:
    watched = watching(lambda snapshot: snapshot.read(str(file)))
    await watched.again()
    for number in range(8):
        file.write_text(f"{number}\n")
        assert watched.times == 0
        await asyncio.sleep(0.05)
    await watched.tells()
    assert file.read_text() == "7\n"


async def test_a_file_that_is_written_slowly_is_told_when_its_last_line_ends(
    watching: Callable[..., Watched], file: Path
) -> None:
    watched = watching(lambda snapshot: snapshot.read(str(file)))
    await watched.again()
    with file.open("w") as slow:
        slow.write("a: [1, ")
        slow.flush()
        await asyncio.sleep(0.5)
        assert watched.times == 0
        slow.write("2]\n")
    await watched.tells()


async def test_who_never_stops_writing_is_told_all_the_same(watching: Callable[..., Watched], file: Path) -> None:
    watched = watching(lambda snapshot: snapshot.read(str(file)))
    await watched.again()
    began = time.monotonic()
    while not watched.told.is_set():
        file.write_text(f"{time.monotonic()}\n")
        await asyncio.sleep(0.03)
        assert time.monotonic() - began < PROMPT_S + 0.5


async def test_a_change_between_the_load_and_the_watching_is_told(watching: Callable[..., Watched], file: Path) -> None:
    def read_and_change(snapshot: Snapshot) -> None:
        snapshot.read(str(file))
        file.write_text("two\n")

    watched = watching(read_and_change)
    await watched.again()
    await watched.tells()


async def test_where_the_kernel_may_tell_nothing_it_is_looked_and_said(
    watching: Callable[..., Watched], file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(watch_module, "_TOLD_OF", frozenset())
    watched = watching(lambda snapshot: snapshot.read(str(file)))
    await watched.again()
    file.write_text("two\n")
    await watched.tells()
    await watched.again()
    file.write_text("three\n")
    await watched.tells(PROMPT_S + 0.5)
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(said) == 1, said
    assert said[0].startswith("changes of the configuration are looked for every 1 s")


WITHOUT_INOTIFY = """
import asyncio, logging, pathlib, sys
pathlib.Path("/proc/sys/user/max_inotify_instances").write_text("0")
from egressproxy.config.snapshot import Snapshot
from egressproxy.runtime.watch import Watch

async def main(file):
    logging.basicConfig(stream=sys.stdout, format="%(message)s")
    told = asyncio.Event()
    watch = Watch(asyncio.get_running_loop(), told.set)
    snapshot = Snapshot()
    snapshot.read(str(file))
    watch.use(snapshot)
    await asyncio.sleep(0.5)
    file.write_text("two\\n")
    async with asyncio.timeout(2):
        await told.wait()
    watch.close()
    print("told")

asyncio.run(main(pathlib.Path(sys.argv[1])))
"""


def test_without_an_inotify_instance_left_it_is_looked(file: Path) -> None:
    command = ["unshare", "--user", "--map-root-user", sys.executable, "-c", WITHOUT_INOTIFY, str(file)]
    if shutil.which("unshare") is None or subprocess.run([*command[:3], "true"], check=False).returncode:
        pytest.skip("no user namespace may be made")
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, timeout=30)
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert said[-1] == "told"
    assert said[0].startswith("changes of the configuration are looked for every 1 s, as nothing tells of them:"), said
    assert "inotify" in said[0] or "os error 24" in said[0].lower() or "Too many open files" in said[0], said
    assert textwrap.shorten(said[0], 300) == said[0], "one line"
