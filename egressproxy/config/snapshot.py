"""What a load has seen of the file system, and whether it is still so.

Everything that a load asks of the file system it asks through a Snapshot, which remembers the answers: the contents of
files, as a digest, that others could not be read, the names in folders, which of them are folders again, and those that
match a pattern. So one object says
whether all that was read belongs together (nothing changed before the last of it was read), whether something changed since
(`changed`), whether two loads read the same (`digest`), and which places on the disk that depends on (`folders_and_files`).

It knows nothing of configurations, starts nothing and, unless it is told to, never waits: what is no regular file is not
opened at all, as a named pipe would keep the reader until somebody writes, and a device may do anything.
"""

# os.path answers False where pathlib raises: a name too long, a folder that may not be searched.
# ruff: noqa: PTH100, PTH110, PTH112, PTH114, PTH115, PTH116, PTH117, PTH118, PTH120, PTH206, PTH207, PTH208

from __future__ import annotations

import errno
import hashlib
import os
import stat
import time
from glob import glob, has_magic
from typing import NamedTuple

MAX_FILE_BYTES = 64 * 1024 * 1024
"""A million hosts take 30 MB. What is larger than this is not a configuration; reading stops there."""

CLOCK_TICK_NS = 50_000_000
"""How coarse the times of files may be: a second change within it may leave them as they are. Linux takes 4 or 10 ms on disks
of its own; a file that is younger than this when it is read is read again, later, before it counts as unchanged."""

_Signature = tuple[int, ...]


class _Seen(NamedTuple):
    """A file as it was read.

    signature  what tells a changed file by its inode; None where it could not be read, or changed while it was
    digest     of its content, or why there is none
    young      it had changed just before, so that its signature may stay the same when it changes again
    once       it was a pipe or the like: what was read is gone, and looking again would wait for more
    """

    signature: _Signature | None
    digest: bytes | str
    young: bool
    once: bool = False


class Snapshot:
    """The answers of the file system to one load. Not to be used by two threads at once."""

    def __init__(self, *, waits: bool = True) -> None:
        """`waits`: for those who write to a pipe, where `read` may do that."""
        self._waits = waits
        self._files: dict[str, _Seen] = {}
        self._folders: dict[str, list[str] | str] = {}
        self._patterns: dict[str, list[str]] = {}
        self._kinds: dict[str, bool] = {}
        self._wanted: dict[str, bool] = {}

    def clear(self) -> None:
        """Forget everything: the load begins anew."""
        self.__init__(waits=self._waits)  # type: ignore[misc]  # the beginning is written once

    # --- asking ---------------------------------------------------------------------------------------------------

    def read(self, path: str, *, may_wait: bool = False) -> bytes | str:
        """The bytes of a file, or why there are none. `may_wait`: it may be a pipe, too, if this snapshot waits for one."""
        content, self._files[path] = _read(path, may_wait and self._waits)
        return content

    def is_folder(self, path: str) -> bool:
        """Whether this is a folder."""
        found = self._kinds[path] = os.path.isdir(path)
        return found

    def names(self, folder: str) -> list[str] | str:
        """The names in a folder that do not begin with a dot, in order, or why there are none."""
        found = self._folders[folder] = _names(folder)
        return found

    def matching(self, pattern: str) -> list[str]:
        """The names that match a shell pattern, in order."""
        found = self._patterns[pattern] = sorted(glob(pattern))
        return found

    def want(self, path: str) -> None:
        """Note whether this exists, without reading it: a change would be told by `changed`."""
        self._wanted[path] = os.path.exists(path)

    # --- afterwards -----------------------------------------------------------------------------------------------

    @property
    def paths(self) -> int:
        """How many files and folders it depends on."""
        return len(self._files) + len(self._folders)

    @property
    def digest(self) -> bytes:
        """Of the names and contents of all files that were read: where two are equal, the same was read."""
        whole = hashlib.sha256()
        for path, seen in self._files.items():
            told = seen.digest if isinstance(seen.digest, bytes) else seen.digest.encode()
            whole.update(b"%d %b%b" % (len(path), os.fsencode(path), hashlib.sha256(told).digest()))
        return whole.digest()

    def changed(self) -> str | None:
        """The first file, folder or pattern that would give another answer now; None: all of it is as it was.

        Costs one stat for each file. A file is read again only where that says that it may have changed.
        """
        for path, seen in self._files.items():
            if seen.once and _is_stream(path):
                continue
            if seen.young or seen.signature is None or seen.signature != _signature(path):
                _, now = _read(path, may_wait=False)
                if now.digest != seen.digest:
                    return path
                self._files[path] = now
        for folder, names in self._folders.items():
            if _names(folder) != names:
                return folder
        for pattern, found in self._patterns.items():
            if sorted(glob(pattern)) != found:
                return pattern
        for path, was_folder in self._kinds.items():
            if os.path.isdir(path) != was_folder:
                return path
        for path, existed in self._wanted.items():
            if os.path.exists(path) != existed:
                return path
        return None

    def glance(self) -> tuple[object, ...]:
        """What stat and the folders say now, to be compared with another glance: equal while nobody writes."""
        return (
            *(_signature(path) for path in self._files),
            *(_looks_of(folder) for folder in self._folders),
            *(tuple(sorted(glob(pattern))) for pattern in self._patterns),
            *(os.path.isdir(path) for path in self._kinds),
            *(os.path.exists(path) for path in self._wanted),
        )

    def ends_in_mid_line(self) -> bool:
        """Whether a file, as it is now, ends without a line end: perhaps somebody is still writing it."""
        return any(_ends_in_mid_line(path) for path in self._files if not _is_stream(path))

    def folders_and_files(self) -> set[str]:
        """Every place whose change could change an answer: the files, and the folders that their names lead through.

        A name leads through the folder that it stands in and, where it or a folder on the way to it is a link, through
        the folder of the link and those of what it points to. Absolute; only what exists, or the nearest folder that does.
        """
        found: set[str] = set()
        for path in (*self._files, *self._wanted):
            _add_way_to(path, found)
        for folder, names in self._folders.items():
            _add_way_to(os.path.join(folder, "."), found)
            for name in names if isinstance(names, list) else ():
                _add_way_to(os.path.join(folder, name), found)
        for pattern, matches in self._patterns.items():
            _add_way_to(_fixed_part(pattern), found)
            for match in matches:
                _add_way_to(match, found)
        return found


def _read(path: str, may_wait: bool) -> tuple[bytes | str, _Seen]:
    now_ns = time.time_ns()
    try:
        if not may_wait:
            _expect_file(os.stat(path))  # before it is opened: opening is enough to set some devices going
        with open(path, "rb", opener=None if may_wait else _open_without_waiting) as file:
            found = os.fstat(file.fileno())
            if not may_wait:
                _expect_file(found)  # it may be another one since
            content = file.read(MAX_FILE_BYTES + 1)
            before, after = _signature_of(found), _signature_of(os.fstat(file.fileno()))
            if content is None:  # some files of the kernel's own have nothing to say yet
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    except _NoFile as refused:
        why = str(refused)
    except OSError as error:
        where = "" if os.path.isabs(path) else f" ({printable(os.path.abspath(path))})"
        why = f"cannot be read: {error.strerror}{where}"
    except ValueError:
        why = "cannot be read: its name has a NUL in it"
    else:
        digest = hashlib.sha256(content).digest()
        young = max(before[-2:]) > now_ns - CLOCK_TICK_NS
        seen = _Seen(before if before == after else None, digest, young, not stat.S_ISREG(found.st_mode))
        if len(content) > MAX_FILE_BYTES:
            return f"expected at most {MAX_FILE_BYTES} bytes; split the file", seen
        return content, seen
    return why, _Seen(None, why, False)


class _NoFile(Exception):
    """Neither a regular file nor a folder. The message says what was expected, and what it is."""


_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
}


def _expect_file(found: os.stat_result) -> None:
    """Raises _NoFile. A folder passes: that one cannot be read is for the system to say."""
    kind = _KINDS.get(stat.S_IFMT(found.st_mode))
    if kind is not None:
        raise _NoFile(
            f"expected a regular file, got {kind}; only a CONFIG of the command line may be one, "
            "which is read at the start and at SIGHUP"
        )


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)


def _is_stream(path: str) -> bool:
    """A pipe, a terminal or another thing that cannot be read twice."""
    try:
        return not stat.S_ISREG(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False


def _signature(path: str) -> _Signature | None:
    try:
        return _signature_of(os.stat(path))
    except (OSError, ValueError):
        return None


def _signature_of(found: os.stat_result) -> _Signature:
    # The time of the inode's last change cannot be set back, as that of the content can.
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _names(folder: str) -> list[str] | str:
    try:
        return sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    except ValueError:
        return "cannot be read: its name has a NUL in it"


def _looks_of(folder: str) -> object:
    names = _names(folder)
    return tuple(names) if isinstance(names, list) else names


_WHOLE_ENDS = (b"\n", b"}", b"]", b'"', b"'", b"")
"""The last bytes of a text that is not cut within a line; the brackets and quotes are those of JSON."""


def is_whole_line_end(last: bytes) -> bool:
    """Whether a file that ends with this byte ends with a whole line; an empty one does."""
    return last in _WHOLE_ENDS


def _ends_in_mid_line(path: str) -> bool:
    try:
        with open(path, "rb", opener=_open_without_waiting) as file:
            size = os.fstat(file.fileno()).st_size
            return not is_whole_line_end(os.pread(file.fileno(), 1, max(0, size - 1)))
    except (OSError, ValueError):
        return False


def printable(name: str) -> str:
    """A file's name on one line, whatever is in it."""
    return name if name.isprintable() else ascii(name)[1:-1]


# --- places -------------------------------------------------------------------------------------------------------

_MOST_LINKS = 40
"""Links that a name may lead through, as Linux has it (path_resolution(7))."""


def _add_way_to(path: str, found: set[str]) -> None:
    """Add the file, the folders that hold it and its links; or the nearest folder to where it would be."""
    for _ in range(_MOST_LINKS):
        link = _first_link(os.path.abspath(path))
        if link is None:
            break
        at, rest = link
        found.add(os.path.dirname(at))
        try:
            target = os.path.join(os.path.dirname(at), os.readlink(at))
        except OSError:
            break  # gone since
        path = os.path.join(target, rest) if rest else target
    path = os.path.abspath(path)
    if os.path.exists(path):
        found.add(path)
    folder = path if os.path.isdir(path) else os.path.dirname(path)
    while not os.path.isdir(folder) and folder != os.path.dirname(folder):
        folder = os.path.dirname(folder)
    found.add(folder)


def _first_link(path: str) -> tuple[str, str] | None:
    """The first part of an absolute name that is a link, and what follows it."""
    parts = path.split(os.sep)
    for count in range(2, len(parts) + 1):
        part = os.sep.join(parts[:count])
        if os.path.islink(part):
            return part, os.sep.join(parts[count:])
    return None


def _fixed_part(pattern: str) -> str:
    """The folder that a pattern's names are all below."""
    folder = os.path.dirname(pattern)
    while has_magic(folder):
        folder = os.path.dirname(folder)
    return folder or "."
