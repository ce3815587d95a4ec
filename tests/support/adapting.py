"""Adapters of other programs' files, tried without files: text in, and native data, faults and notes out as people read them.

found = adapted(nginx.translate, "stream { ... }", {"more.conf": "..."})
assert found.notes == ["3 user: has no meaning here"]
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fnmatch import fnmatch
from typing import Any, NamedTuple

from egressproxy.config.adapters.adapter import Adapted, FileUnreadable, Source
from egressproxy.config.faults import Fault, path_text
from egressproxy.config.native import unmark

MAIN = "/etc/proxy/main.conf"


class MemoryFiles:
    """Files that exist in a mapping alone. The main file has number 0, the others are numbered as they are read."""

    def __init__(self, contents: Mapping[str, str | bytes]) -> None:
        self.contents = contents
        self.read_so_far: list[str] = [MAIN]

    def read(self, name: str) -> Source:
        if name not in self.contents:
            raise FileUnreadable("cannot be read: No such file or directory")
        self.read_so_far.append(name)
        content = self.contents[name]
        return Source(len(self.read_so_far) - 1, name, content.encode() if isinstance(content, str) else content)

    def matching(self, pattern: str) -> list[str]:
        return sorted(name for name in self.contents if fnmatch(name, pattern))


class Found(NamedTuple):
    """What an adapter made of a text.

    data    native settings
    faults  `LINE DIRECTIVE: message`, with the file before the line where it is not the main one
    notes   the same
    """

    data: dict[str, Any] | None
    faults: list[str]
    notes: list[str]


def adapted(
    translate: Callable[..., Adapted],
    text: str | bytes,
    others: Mapping[str, str | bytes] | None = None,
    *,
    lenient: bool = False,
) -> Found:
    """What becomes of a main file and others beside it, by absolute name."""
    files = MemoryFiles(others or {})
    source = Source(0, MAIN, text.encode() if isinstance(text, str) else text)
    data, _, faults, notes = translate(source, files, lenient=lenient)
    return Found(data, [told(fault, files) for fault in faults], [told(note, files) for note in notes])


def told(fault: Fault, files: MemoryFiles) -> str:
    number, line = unmark(fault.mark)
    file = "" if number == 0 else f"{files.read_so_far[number]}:"
    path = path_text(fault.path)
    return f"{file}{line} {path}: {fault.message}" if path else f"{file}{line} {fault.message}"
