"""`map $ssl_preread_server_name $variable { ... }`: which names lead to which value, in the order in which NGINX asks.

nginx.org/en/docs/stream/ngx_stream_map_module.html: an exact name first; then, with `hostnames`, the longest name that begins
with `*.` or `.`, and the longest that ends with `.*`; then regular expressions as they stand in the file; then `default`, which
is empty unless it is written.

NGINX compares names whatever their letter case, but gives expressions the name as the client wrote it. Here a host has one
spelling, in small letters, for expressions too: a `~` expression does not miss a name because a client shouts it. What closes
a name in one spelling closes it in all.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

from egressproxy.config.adapters.adapter import At
from egressproxy.config.adapters.nginx.expressions import read_expression
from egressproxy.config.adapters.nginx.syntax import missing_end
from egressproxy.config.faults import shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from egressproxy.config.adapters.nginx.syntax import Directive, Findings

SERVER_NAME = "ssl_preread_server_name"
"""The one variable that a map may ask."""

_VARIABLE = re.compile(r"\$(?:\{([A-Za-z0-9_]+)\}|([A-Za-z0-9_]+))")


def variables_of(text: str) -> list[str]:
    """Names of the variables in a text. Raises ValueError for a `$` that begins none."""
    if "$" in _VARIABLE.sub("", text):
        raise ValueError(f"expected a variable behind $, got {shown(text)}")
    return [match[1] or match[2] for match in _VARIABLE.finditer(text)]


def filled_in(text: str, variable: str, value: str) -> str:
    """The text with a value in the place of a variable."""
    return _VARIABLE.sub(lambda match: value if variable in match.groups() else match[0], text)


class Entry(NamedTuple):
    """Names that have one value, which is not looked into here.

    condition  what native conditions ask: `hosts` or `hosts_matching`; empty for all names that are left
    written    the line
    """

    condition: dict[str, Any]
    value: str
    written: Directive


class NameMap(NamedTuple):
    """One map.

    entries  in the order in which they are asked; the last one takes what is left
    unnamed  what those get who name no server
    """

    entries: tuple[Entry, ...]
    unnamed: Entry


class _Reading:
    """The lines of one map, by kind. Hosts are keys in small letters.

    hostnames  it has this word somewhere
    is_behind  and what is read stands behind it: to NGINX `*` means something only there
    """

    def __init__(self, statement: Directive) -> None:
        self.hostnames = any(line.name == "hostnames" and not line.words for line in statement.block or ())
        self.is_behind = False
        self.exact: dict[str, Entry] = {}
        self.below: dict[str, Entry] = {}
        self.above: dict[str, Entry] = {}
        self.matching: list[Entry] = []
        self.default: Entry | None = None


def read_map(statement: Directive, findings: Findings) -> NameMap:
    """What one `map` on the server name says. Lines that are wrong are told and left out."""
    reading = _Reading(statement)
    for line in statement.block or ():
        if not line.words and line.name in ("hostnames", "volatile"):
            reading.is_behind |= line.name == "hostnames"
        else:
            try:
                _take(line, reading, findings)
            except ValueError as error:
                findings.fault(line, str(error))
    default = reading.default or Entry({}, "", statement)
    unnamed = reading.exact.pop("", default)  # expressions are asked about names only
    return NameMap((*_in_order(reading), default), unnamed)


def _take(line: Directive, reading: _Reading, findings: Findings) -> None:
    if len(line.words) != 1 or line.block is not None:
        end = missing_end((line.name, *line.words[: line.breaks[0]])) if line.breaks and line.breaks[0] else ""
        raise ValueError(f"expected a name and one value, got {len(line.words) + 1} words{end}")
    key, value = line.name, line.words[0]
    if key == "default":
        if reading.default is not None:
            raise ValueError(f"is written twice; the first is {findings.place(reading.default.written, line)}")
        reading.default = Entry({}, value, line)
    elif key.startswith("~"):
        expression = read_expression(key)
        reading.matching.append(Entry({"hosts_matching": [At(line.mark, expression.native)]}, value, line))
    else:
        _take_name(key.removeprefix("\\").lower(), value, line, reading, findings)


def _take_name(key: str, value: str, line: Directive, reading: _Reading, findings: Findings) -> None:
    group, name, host = reading.exact, key, key
    if reading.hostnames and not reading.is_behind and ("*" in key or key.startswith(".")):
        raise ValueError("stands before `hostnames`, so that to NGINX it means no other names; put `hostnames;` first")
    if reading.hostnames and key.startswith("."):
        name = key[1:]
        _put(reading.exact, name, Entry({"hosts": [At(line.mark, name)]}, value, line), findings)
        group, host = reading.below, f"*.{name}"
    elif reading.hostnames and key.startswith("*."):
        group, name = reading.below, key[2:]
    elif reading.hostnames and key.endswith(".*"):
        group, name = reading.above, key[:-2]
    elif key and ("*" in key or key.startswith(".")):
        if reading.hostnames:
            raise ValueError(f"expected a name, *.name, .name or name.*, got {shown(key)}")
        findings.note(line, "without `hostnames` in this map it means no other names, and no client writes this one")
        return
    if "*" in name or (not name and group is not reading.exact):
        raise ValueError(f"expected one * at one end, as in *.example.com, got {shown(key)}")
    if group is reading.above:
        expression = rf"^{re.escape(name)}\..+$"
        _put(group, name, Entry({"hosts_matching": [At(line.mark, expression)]}, value, line), findings)
    else:
        _put(group, name, Entry({"hosts": [At(line.mark, host)]}, value, line), findings)


def _put(group: dict[str, Entry], name: str, entry: Entry, findings: Findings) -> None:
    earlier = group.setdefault(name, entry)
    if earlier is not entry:
        where = findings.place(earlier.written, entry.written)
        raise ValueError(f"{shown(name)} is written twice; the first is {where}")


def in_small_letters(entry: Entry, findings: Findings, *, closes: bool) -> Entry:
    """The entry as names in small letters are to be asked. One that closes takes every name that NGINX closes in any spelling.

    Raises ValueError where that cannot be told.
    """
    key = entry.written.name
    expression = read_expression(key) if key.startswith("~") else None
    if expression is None or expression.any_case:
        return entry
    if expression.excludes and (closes or expression.capitals):
        raise ValueError("which names it leaves out depends on their letter case, which does not count here; write ~*")
    if closes:
        at_any_case = expression._replace(any_case=True).native
        return entry._replace(condition={"hosts_matching": [At(entry.written.mark, at_any_case)]})
    if expression.capitals:
        findings.note(
            entry.written, "names are compared in small letters here, so that the capitals in it match nothing"
        )
    return entry


# --- order --------------------------------------------------------------------------------------------------------


def _in_order(reading: _Reading) -> Iterator[Entry]:
    yield from _joined(reading.exact.values())
    for group in (reading.below, reading.above):
        by_length: dict[int, list[Entry]] = {}
        for name, entry in group.items():
            by_length.setdefault(name.count("."), []).append(entry)
        for _, entries in sorted(by_length.items(), reverse=True):
            yield from _joined(entries)
    yield from reading.matching


def _joined(entries: Iterable[Entry]) -> Iterator[Entry]:
    """Entries of which a name matches one at most, so that those with one value may become one."""
    by_value: dict[tuple[str, str], list[Entry]] = {}
    for entry in entries:
        (key,) = entry.condition
        by_value.setdefault((entry.value, key), []).append(entry)
    for (value, key), alike in by_value.items():
        yield Entry({key: [each for entry in alike for each in entry.condition[key]]}, value, alike[0].written)
