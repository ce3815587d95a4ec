"""Watch: whether the configuration on the disk is still the one that was read last.

**Why by the kernel's word, where certificates are looked at once a second** (`refresh`). People wait for a configuration: they
edit it, apply it and try it, so it should be in force at once; and what it was read from is a handful of folders, found out
anew at each load, which take one inotify instance together. Secrets may be many, nobody waits for them, and their files lie
on just those mounts of which the kernel tells nothing.

**Why not by the kernel's word alone.** It says that something happened in a folder, and not what that means: one swap of a
ConfigMap is a dozen events, and the access log may lie beside the configuration. So an event is only a reason to look, and
the look decides: everything that the load asked of the file system is asked again (`config.snapshot`). And as the kernel may
have nothing to say (a full table of inotify instances, a network file system, a folder replaced by another one just before
it was watched), there are looks without an event too, once a second where that is known, else now and then.

**Not too early.** Who writes has to have finished: a change is told once nothing has changed any more for a moment, for longer
where a file ends in mid-line, and after `HURRY_S` in any case. What is told is a reason to load, no more: a file that is
half-written all the same is for the load to refuse.

All of this is done in a thread of its own, which a hanging file system may keep as long as it likes.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from typing import TYPE_CHECKING

from watchfiles import watch

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterable, Iterator

    from egressproxy.config.snapshot import Snapshot

logger = logging.getLogger("egressproxy")

LOOK_S = 1.0
"""Between two looks where the kernel tells of nothing, and from the moment that it was asked to until the first look."""
LOOKS_SKIPPED = 10
"""Of those where it does: nine of ten."""
STEP_MS = 100
"""How often it is seen whether the kernel has told of something; events that follow each other faster are one."""
BURST_MS = 300
"""How long events that do not stop are waited for: the access log may lie in the same folder."""
SETTLED_S = 0.15
"""How long nothing may have changed before it is told: who writes a file in pieces, or renames several, pauses less."""
MID_LINE_S = 0.8
"""The same while a file ends in mid-line."""
HURRY_S = 1.2
"""A change is told after this at the latest, so that with all the rest it is in force within two seconds."""
LAST_LOOK_S = 0.25
"""How long the end waits for a look that is under way."""

_TOLD_OF = frozenset(
    {"ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "bcachefs", "tmpfs", "ramfs", "overlay", "vfat", "exfat"}
    | {"apfs", "hfs"}
)
"""File systems whose changes are all made on this machine, so that its kernel knows of them."""


class Watch:
    """Tells the event loop of changes, from the first `use` to `close`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, changed: Callable[[], None]) -> None:
        """Starts nothing yet. `changed` is called in the loop, once; then nothing is told until the next `use`."""
        self._loop = loop
        self._changed = changed
        self._snapshot: Snapshot | None = None
        self._news = threading.Event()  # another snapshot, or the end
        self._closed = False
        self._thread: threading.Thread | None = None
        self._told: set[str] = set()
        # It would tell of every event in the proxy's own log.
        logging.getLogger("watchfiles").setLevel(logging.WARNING)

    def use(self, snapshot: Snapshot) -> None:
        """From now on compare with this one, which is this object's from here on; in the event loop."""
        self._snapshot = snapshot
        self._news.set()
        if self._thread is None and snapshot.paths:
            self._thread = threading.Thread(target=self._look_on, name="watch", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Tell no more."""
        self._closed = True
        self._news.set()
        if self._thread is not None:
            self._thread.join(LAST_LOOK_S)

    # --- in the thread --------------------------------------------------------------------------------------------

    def _look_on(self) -> None:
        while not self._closed:
            self._news.clear()
            snapshot = self._snapshot
            assert snapshot is not None  # `use` has started this
            try:
                changed = self._watch(snapshot)
            except Exception:
                logger.exception("a defect while watching the configuration; it goes on in %g s", LOOK_S)
                self._news.wait(LOOK_S)
                continue
            if changed and not self._closed:
                try:
                    self._loop.call_soon_threadsafe(self._tell)
                except RuntimeError:
                    return  # the loop is closed
                self._news.wait()

    def _tell(self) -> None:
        if not self._closed:
            self._changed()

    def _watch(self, snapshot: Snapshot) -> bool:
        """Wait for a change; False where there is news before it comes."""
        places = _with_inodes(snapshot.folders_and_files())
        for _ in self._reasons_to_look(places):
            if self._news.is_set():
                return False
            if snapshot.changed() is not None:
                self._settle(snapshot)
                return True
            if _with_inodes(snapshot.folders_and_files()) != places:
                return False  # a folder in the place of another one is watched anew
        return False

    def _settle(self, snapshot: Snapshot) -> None:
        """Wait until nobody writes."""
        hurry_at = time.monotonic() + HURRY_S
        before, since = snapshot.glance(), time.monotonic()
        while (now := time.monotonic()) < hurry_at:
            needed_s = MID_LINE_S if snapshot.ends_in_mid_line() else SETTLED_S
            if now - since >= needed_s or self._news.wait(min(SETTLED_S / 3, hurry_at - now)):
                return
            seen = snapshot.glance()
            if seen != before:
                before, since = seen, time.monotonic()

    def _reasons_to_look(self, places: dict[str, tuple[int, int]]) -> Iterator[None]:
        """One for each burst of events, and one now and then. Ends when there is news."""
        try:
            silent = _silent_file_systems(places.values())
            if silent:
                self._say_once(f"configuration on {', '.join(sorted(silent))}")
                yield from self._now_and_then()
                return
            skipped = LOOKS_SKIPPED  # the first silence is a reason: something may have come before the watching
            for events in watch(
                *places,
                watch_filter=None,
                debounce=BURST_MS,
                step=STEP_MS,
                stop_event=self._news,
                rust_timeout=int(LOOK_S * 1000),
                yield_on_timeout=True,
                raise_interrupt=False,
                recursive=False,
            ):
                skipped += 1
                if events or skipped > LOOKS_SKIPPED:
                    skipped = 0
                    yield
        except (OSError, RuntimeError) as error:  # no inotify instance or watch left, or a folder that is gone
            if not isinstance(error, FileNotFoundError):
                self._say_once(str(error))
            yield from self._now_and_then()

    def _now_and_then(self) -> Iterator[None]:
        while not self._news.wait(LOOK_S):
            yield

    def _say_once(self, why: str) -> None:
        if why not in self._told:
            self._told.add(why)
            logger.warning(
                "changes of the configuration are looked for every %g s, as nothing tells of them: %s", LOOK_S, why
            )


def _with_inodes(places: Iterable[str]) -> dict[str, tuple[int, int]]:
    """What the kernel is asked to watch: names, and the files and folders that have them now."""
    found = {}
    for place in sorted(places):
        try:
            status = os.stat(place)  # noqa: PTH116 - a name that is never joined
        except OSError:
            continue  # gone since
        found[place] = (status.st_dev, status.st_ino)
    return found


def _silent_file_systems(inodes: Iterable[tuple[int, int]]) -> set[str]:
    """Those among the file systems of these that others may change without this kernel's knowing, by their types.

    As /proc/self/mountinfo has them (proc(5)); elsewhere none.
    """
    devices = {f"{os.major(device)}:{os.minor(device)}" for device, _ in inodes}
    found = set()
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as table:  # noqa: PTH123 - read once
            for line in table:
                fields, _, more = line.partition(" - ")
                if fields.split()[2] in devices:
                    found.add(more.split()[0])
    except (OSError, IndexError):
        return set()
    return found - _TOLD_OF
