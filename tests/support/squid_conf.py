"""squid.conf in tests: text in, the native form or what is said about it out. Files are in memory, `/etc/squid` is theirs."""

from __future__ import annotations

import fnmatch
import posixpath
from typing import TYPE_CHECKING, Any

from egressproxy.config.adapters.adapter import FileUnreadable, Source
from egressproxy.config.adapters.squid.squid import translate
from egressproxy.config.native import unmark

if TYPE_CHECKING:
    from collections.abc import Sequence

    from egressproxy.config.adapters.adapter import Adapted
    from egressproxy.config.faults import Fault

MAIN = "/etc/squid/squid.conf"


class Folder:
    """Files by their names. `names` has all that were read, in the order of their numbers."""

    def __init__(self, content: dict[str, str | bytes], writable: Sequence[str] = ()) -> None:
        self._content = content
        self._writable = writable
        self.names: list[str] = []

    def read(self, name: str) -> Source:
        """As `Files` has it."""
        if name not in self._content:
            raise FileUnreadable("cannot be read: No such file or directory")
        content = self._content[name]
        self.names.append(name)
        return Source(len(self.names) - 1, name, content if isinstance(content, bytes) else content.encode())

    def matching(self, pattern: str) -> list[str]:
        """As `Files` has it."""
        return sorted(fnmatch.filter(self._content, pattern))

    def real_name(self, name: str) -> str:
        """As `Files` has it."""
        return posixpath.normpath(name)

    def may_write(self, name: str) -> bool:
        """As `Files` has it."""
        return name in self._writable


def adapted(
    text: str | bytes,
    files: dict[str, str | bytes] | None = None,
    *,
    lenient: bool = False,
    writable: Sequence[str] = (),
) -> tuple[Adapted, Folder]:
    """What becomes of a squid.conf that stands beside these files."""
    folder = Folder({MAIN: text, **(files or {})}, writable)
    return translate(folder.read(MAIN), folder, lenient=lenient), folder


def native(text: str, files: dict[str, str | bytes] | None = None, **options: Any) -> dict[str, Any]:
    """The native form of a squid.conf with which nothing is wrong."""
    result, folder = adapted(text, files, **options)
    assert said(result.faults, folder) == []
    assert result.data is not None
    return result.data


def faults(text: str | bytes, files: dict[str, str | bytes] | None = None, **options: Any) -> list[str]:
    """What is wrong with it, as `FILE:LINE: DIRECTIVE: MESSAGE`; without the file where it is the main one."""
    result, folder = adapted(text, files, **options)
    return said(result.faults, folder)


def notes(text: str, files: dict[str, str | bytes] | None = None, **options: Any) -> list[str]:
    """What is worth a note, in the same form."""
    result, folder = adapted(text, files, **options)
    assert said(result.faults, folder) == []
    return said(result.notes, folder)


def said(found: Sequence[Fault], folder: Folder) -> list[str]:
    """Faults in words, in the order of their places."""
    lines = []
    for fault in sorted(found, key=lambda fault: fault.mark):
        source, line = unmark(fault.mark)
        name = folder.names[source]
        directive = "".join(f" {step}:" for step in fault.path)
        lines.append(f"{'' if name == MAIN else name + ':'}{line}:{directive} {fault.message}")
    return lines


def conditions(line: str, acls: str = "") -> dict[str, Any]:
    """The conditions of the one rule that a line of `http_access` becomes, behind these `acl` lines."""
    (rule, *_rest) = native(f"{acls}\nhttp_access {line}\nhttp_access deny all\n")["rules"]
    return {key: value for key, value in rule.items() if key not in ("name", "action", "private_addresses")}
