"""Watched: values that are made of files, and made again when the files change.

**What is good is put in place, what is not is refused and said, and what was there stays**: half a file, a key of another
certificate, a secret that is taken away. What is out of date is not good either, as long as what was there is in date; what is
good from a later time on is looked at again then.

**Reading consistently.** Kubernetes swaps a folder of files by moving one link (`..data`); others rewrite files one after the
other. So a set of files that has changed is read only when it has been the same for two looks, and what was read counts only if
the files are the same behind it as before it.

What is in the files is for the sources to know. Nothing here logs, and no message holds what was read.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, NamedTuple, Protocol, TypeVar

from egressproxy.certificates import date_text

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

READ_TRIES = 5
"""How often files are read that change while they are read."""

_now = time.time


class Unusable(Exception):
    """Files that are missing or cannot be used. The message says which and why."""


class _Unsettled(Exception):
    """Files that changed each time while they were read."""


_Signature = tuple["tuple[int, int, int, int, int] | None", ...]
V = TypeVar("V")
_V_co = TypeVar("_V_co", covariant=True)


def _signature(paths: Sequence[Path]) -> _Signature:
    """By which a change of the files is noticed: of what links lead to, in the end."""
    found: list[tuple[int, int, int, int, int] | None] = []
    for path in paths:
        try:
            facts = os.stat(path)  # noqa: PTH116 - a third of the time of Path.stat, for thousands of files each second
        except (OSError, ValueError):
            found.append(None)
        else:
            found.append((facts.st_dev, facts.st_ino, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_size))
    return tuple(found)


def _content(path: Path, longest: int) -> bytes:
    """What is in a file. Raises Unusable."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe would keep the reader waiting
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise Unusable(f"{path}: not a file")
            with open(descriptor, "rb", closefd=False) as file:
                data = file.read(longest + 1)
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        raise Unusable(f"{path}: no such file") from None
    except OSError as error:
        raise Unusable(f"{path}: {error.strerror}") from error
    if len(data) > longest:
        raise Unusable(f"{path}: more than {longest} bytes")
    return data


class Dates(NamedTuple):
    """From when until when a file is of use: Unix time, seconds."""

    begins: float
    ends: float


@dataclass(frozen=True, slots=True)
class Made(Generic[V]):
    """What was made of files.

    dates   of the files that have any, by path
    digest  of all of them
    """

    value: V
    dates: Mapping[str, Dates]
    digest: bytes

    def late(self, now: float) -> str | None:
        """A file that is of no more use; None: there is none."""
        return next((path for path, dates in self.dates.items() if dates.ends <= now), None)

    def early(self, now: float) -> str | None:
        """A file that is of no use yet; None: there is none."""
        return next((path for path, dates in self.dates.items() if now < dates.begins), None)


Roles = dict[str, "Path"]
"""The files that count, by what they are for: `certificate`, `key`, `ca`, `system` (authorities of the system), `value`."""


class Source(Protocol[_V_co]):
    """Files, and what is made of them.

    label     by which metrics and messages name it
    paths     all that a change may come by
    longest   bytes that one of them may have
    optional  they may come later
    """

    @property
    def label(self) -> str: ...
    @property
    def paths(self) -> Sequence[Path]: ...
    @property
    def longest(self) -> int: ...
    @property
    def optional(self) -> bool: ...

    def choose(self) -> Roles:
        """The files that count now. Raises Unusable where one is missing."""

    def make(self, chosen: Roles, contents: dict[str, bytes]) -> tuple[_V_co, Mapping[str, Dates]]:
        """The value, and the dates of the files, by path. Raises Unusable."""


class Change(NamedTuple):
    """Files that were put to use (`good`), or refused. `text` is for the log, `label` that of the source."""

    label: str
    good: bool
    text: str


class Found(NamedTuple):
    """A change that a look has found: `take` puts it to use, or notes its refusal, in the event loop."""

    take: Callable[[], Change]


Findings = tuple[Found, ...]
"""What a look has found. Empty: nothing."""


class Watched(Generic[V]):
    """One source and what was made of it last. `look` belongs to the thread that looks, `Found.take` to the event loop.

    made     None: nothing good has been there yet
    problem  what is wrong with the files as they were seen last; None: nothing
    """

    __slots__ = ("_again_at", "_pending", "_seen", "made", "problem", "source")

    def __init__(self, source: Source[V], before: Watched[V] | None) -> None:
        """Read the files. Where they hold the same as `before`, or nothing good, what was made then stays. Blocks."""
        self.source = source
        self.made: Made[V] | None = None if before is None else before.made
        self.problem: str | None = None
        self._seen: _Signature = ()
        self._pending: _Signature | None = None
        self._again_at: float | None = None  # the files are worth another look then, changed or not
        try:
            self.made = self._read()
        except Unusable as error:
            self.problem = str(error)
        except _Unsettled:
            self.problem = f"{source.label}: the files change while they are read"

    def _read(self) -> Made[V]:
        """What the files make now; the very same as before where they hold the same. Raises Unusable or _Unsettled."""
        source = self.source
        self._again_at = None
        for _ in range(READ_TRIES):
            signature = _signature(source.paths)
            made = self.made
            problem: Unusable | None = None
            settled = True
            try:
                chosen = source.choose()
                contents = {role: _content(path, source.longest) for role, path in chosen.items()}
                digest = _digest(chosen, contents)
                if made is None or made.digest != digest:
                    made = Made(*source.make(chosen, contents), digest)
                    self._check_dates(made)
                settled = contents == {role: _content(path, source.longest) for role, path in chosen.items()}
            except Unusable as error:
                problem = error
            if settled and _signature(source.paths) == signature:
                self._seen = signature
                if problem is not None:
                    raise problem
                assert made is not None  # it was there, or was made
                return made
        raise _Unsettled

    def _check_dates(self, new: Made[V]) -> None:
        """Raise Unusable for what is out of date where what is in use is not."""
        now, old = _now(), self.made
        if old is None or old.late(now) or old.early(now):
            return  # it is no worse
        if path := new.late(now):
            raise Unusable(f"{path}: has expired, on {date_text(new.dates[path].ends)}")
        if path := new.early(now):
            self._again_at = new.dates[path].begins
            raise Unusable(f"{path}: is not valid before {date_text(self._again_at)}")

    def look(self) -> Found | None:
        """What has changed since it was last read, once that has been the same for two looks. Blocks."""
        now = _signature(self.source.paths)
        if now == self._seen and (self._again_at is None or _now() < self._again_at):
            self._pending = None
            return None
        if now != self._pending:
            self._pending = now
            return None
        self._pending = None
        try:
            made = self._read()
        except _Unsettled:
            return None
        except Unusable as error:
            problem = str(error)
            return Found(lambda: self._refuse(problem))
        if made is self.made:
            # Touched; or bad in between, and good again.
            return None if self.problem is None else Found(lambda: self._put(made))
        return Found(lambda: self._put(made))

    def _put(self, made: Made[V]) -> Change:
        same, self.made, self.problem = made is self.made, made, None
        what = "is again what is in use" if same else "is new: it serves the connections to come"
        return Change(self.source.label, True, f"{self.source.label} {what}")

    def _refuse(self, problem: str) -> Change:
        self.problem = problem
        stays = "there is none to serve with" if self.made is None else "what was read before stays in use"
        return Change(self.source.label, False, f"{problem}; {stays}")


def _digest(chosen: Roles, contents: dict[str, bytes]) -> bytes:
    whole = hashlib.sha256()
    for role, path in chosen.items():
        part = hashlib.sha256(contents[role]).digest()
        whole.update(f"{role} {path}\0".encode("utf-8", "surrogateescape") + part)
    return whole.digest()
