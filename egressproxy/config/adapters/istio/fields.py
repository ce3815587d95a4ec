"""One mapping of an object, read field by field: what nobody has read is unknown, and said.

Field names are taken in camelCase and snake_case alike, as protobuf's JSON form takes them (`sniHosts`, `sni_hosts`). A field
with nothing behind it is a fault: a match without its condition must not come to match everything.
"""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from egressproxy.config.faults import Fault, shown
from egressproxy.config.native import REFUSED, Places, unmark
from egressproxy.config.snapshot import printable
from egressproxy.hostport import parse_host_pattern

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from egressproxy.config.faults import Way
    from egressproxy.hostport import HostPattern

_SNAKE = re.compile(r"(?<=[a-z0-9])_([a-z0-9])")
# google.protobuf.Duration in its JSON form, and the longer spellings of Go that Kubernetes users write.
_DURATION = re.compile(r"(?:[0-9]+(?:\.[0-9]+)?(?:h|ms|m|s))+")
_DURATION_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(h|ms|m|s)")
_UNITS_S = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}

_UNKNOWN = "no such field, or one that is not known here; it is refused rather than ignored"
_LIKENESS = 0.75


class Report:
    """What is found in one translation.

    lenient  what is not known is noted instead of refused, unless it is about security
    files    their names, by number
    """

    def __init__(self, *, lenient: bool, files: Mapping[int, str] | None = None) -> None:
        self.lenient = lenient
        self._files = files or {}
        self.faults: list[Fault] = []
        self.notes: list[Fault] = []
        self._noted: set[tuple[int, str]] = set()

    def fault(self, mark: int, way: Way, message: str) -> None:
        """Say what is wrong."""
        self.faults.append(Fault(mark, way, message))

    def place(self, mark: int) -> str:
        """File and line, for a message that is told elsewhere."""
        source, line = unmark(mark)
        return f"{printable(self._files[source])}:{line}" if source in self._files else f"line {line}"

    def note(self, mark: int, way: Way, message: str) -> None:
        """Say, once in each place, what is worth knowing."""
        if (mark, message) not in self._noted:
            self._noted.add((mark, message))
            self.notes.append(Fault(mark, way, message))


class Fields:
    """The fields of one mapping. Each is asked for once; `done` tells of those that nobody asked for.

    Accessors return None, or an empty collection, for what is absent and, with a fault, for what is wrong.
    """

    __slots__ = ("_names", "_read", "data", "places", "report", "way")

    def __init__(self, data: dict[str, Any], places: Places, way: Way, report: Report) -> None:
        self.data = data
        self.places = places
        self.way = way
        self.report = report
        self._read: set[str] = set()
        self._names: dict[str, str] = {}
        for name in data:
            camel = _SNAKE.sub(lambda match: match[1].upper(), name)
            if camel in self._names:
                self.fault(name, f"is written twice, as {self._names[camel]} too")
            else:
                self._names[camel] = name

    # --- what is said of it

    def mark(self, field: str | None = None) -> int:
        """Where a field is written, else where the mapping begins."""
        name = self._names.get(field or "", field or "")
        return self.places.keys.get(name, self.places.mark)

    def fault(self, field: str, message: str) -> None:
        """Say what is wrong with a field."""
        self.report.fault(self.mark(field), (*self.way, self._names.get(field, field)), message)

    def note(self, field: str, message: str) -> None:
        """Say what is worth knowing of a field."""
        self.report.note(self.mark(field), (*self.way, self._names.get(field, field)), message)

    def done(
        self,
        *,
        silent: Sequence[str] = (),
        noted: Mapping[str, str] | None = None,
        refused: Mapping[str, str] | None = None,
        secure: bool = True,
    ) -> None:
        """Tell of every field that was not asked for.

        silent   without meaning here, and no surprise
        noted    without meaning here, and why
        refused  what is lost without them has no place in the native form, and why
        secure   an unknown field may be about security, so that it is refused even if the reader is lenient
        """
        for field, name in self._names.items():
            if field in self._read or field in silent:
                continue
            if refused is not None and field in refused:
                self.fault(name, refused[field])
            elif noted is not None and field in noted:
                self.note(name, noted[field])
            elif self.report.lenient and not secure:
                self.note(name, "not known here, left out")
            else:
                self.fault(name, f"{_UNKNOWN}{self._meant(field)}")

    def _meant(self, field: str) -> str:
        """What an unknown field may be a slip for, among those that were asked for and are not written."""
        close = get_close_matches(field[:60], sorted(self._read - self._names.keys()), n=1, cutoff=_LIKENESS)
        return f"; did you mean {close[0]}?" if close else ""

    def unread(self) -> list[str]:
        """The fields that nobody has asked for."""
        return [field for field in self._names if field not in self._read]

    # --- what it holds

    def value_of(self, field: str) -> object:
        """What is written, as it is, for who looks at it and does not take it."""
        return self.data.get(self._names.get(field, field))

    def has(self, field: str) -> bool:
        """Whether a field is written."""
        return field in self._names

    def filled(self, field: str) -> bool:
        """Whether a list is written and has an entry."""
        name = self._names.get(field)
        return name is not None and bool(self.data[name])

    def text(self, field: str) -> str | None:
        """Text."""
        value = self._value(field)
        if value is None or isinstance(value, str):
            return value
        self._wrong(field, "text", value)
        return None

    def required_text(self, field: str) -> str | None:
        """Text that must be there."""
        if field not in self._names:
            self.report.fault(self.places.mark, self.way, f"{field} is missing")
        return self.text(field)

    def integer(self, field: str) -> int | None:
        """A whole number."""
        value = self._value(field)
        if value is None or type(value) is int:
            return value
        self._wrong(field, "an integer", value)
        return None

    def port(self, field: str) -> int | None:
        """A port, from 1 to 65535."""
        value = self.integer(field)
        if value is None or 0 < value < 65536:
            return value
        self._wrong(field, "a port from 1 to 65535", value)
        return None

    def flag(self, field: str) -> bool:
        """True or false; false where absent."""
        value = self._value(field)
        if value is None or isinstance(value, bool):
            return bool(value)
        self._wrong(field, "true or false", value)
        return False

    def word(self, field: str, words: Sequence[str], default: str) -> str | None:
        """One of some words, None where it is another."""
        value = self.text(field)
        if value is None:
            return None if field in self._names else default
        if value in words:
            return value
        self._wrong(field, f"one of {', '.join(words)}", value)
        return None

    def seconds(self, field: str) -> float | None:
        """A duration like `3s`, in seconds."""
        value = self.text(field)
        if value is None:
            return None
        if _DURATION.fullmatch(value) is None:
            self._wrong(field, "a duration like 3s", value)
            return None
        return sum(float(number) * _UNITS_S[unit] for number, unit in _DURATION_PART.findall(value))

    def words(self, field: str) -> tuple[str, ...]:
        """A list of text."""
        values = self._list(field)
        found = []
        for index, value in enumerate(values):
            if isinstance(value, str):
                found.append(value)
            elif value is not REFUSED:
                self._wrong_entry(field, index, "text", value)
        return tuple(found)

    def patterns(self, field: str) -> tuple[HostPattern, ...]:
        """A list of host patterns."""
        found = []
        for index, value in enumerate(self.words(field)):
            try:
                found.append(parse_host_pattern(value))
            except ValueError as error:
                self.fault_in(field, index, str(error))
        return tuple(found)

    def below(self, field: str) -> Fields | None:
        """A mapping."""
        value = self._value(field)
        if isinstance(value, dict):
            return Fields(value, self._place(field), (*self.way, self._names[field]), self.report)
        if value is not None:
            self._wrong(field, "a mapping", value)
        return None

    def each(self, field: str) -> list[Fields]:
        """A list of mappings."""
        found = []
        for index, value in enumerate(self._list(field)):
            if isinstance(value, dict):
                place = self._place(field).children[index]
                found.append(Fields(value, place, (*self.way, self._names[field], index), self.report))
            elif value is not REFUSED:
                self._wrong_entry(field, index, "a mapping", value)
        return found

    def labels(self, field: str) -> dict[str, str]:
        """A mapping from names, as they are written, to text."""
        below = self.below(field)
        found: dict[str, str] = {}
        for name, value in () if below is None else below.data.items():
            if isinstance(value, str):
                found[name] = value
            elif value is not REFUSED and below is not None:
                below.fault(name, f"expected text, got {shown(value)}; quote it")
        return found

    def numbers(self, field: str) -> dict[str, int]:
        """A mapping from names, as they are written, to whole numbers."""
        below = self.below(field)
        found: dict[str, int] = {}
        for name, value in () if below is None else below.data.items():
            if type(value) is int and 0 < value < 65536:
                found[name] = value
            elif value is not REFUSED and below is not None:
                below.fault(name, f"expected a port from 1 to 65535, got {shown(value)}")
        return found

    # --- inside

    def _value(self, field: str) -> Any:
        self._read.add(field)
        name = self._names.get(field)
        if name is None:
            return None
        value = self.data[name]
        if value is None:
            self.fault(name, "expected a value, got nothing; leave the field out")
        return None if value is REFUSED else value

    def _list(self, field: str) -> Sequence[Any]:
        value = self._value(field)
        if value is None:
            return ()
        if isinstance(value, list):
            return value
        self._wrong(field, "a list", value)
        return ()

    def _place(self, field: str) -> Any:
        return self.places.children[self._names[field]]

    def _wrong(self, field: str, expected: str, value: object) -> None:
        self.fault(field, f"expected {expected}, got {shown(value)}")

    def _wrong_entry(self, field: str, index: int, expected: str, value: object) -> None:
        self.fault_in(field, index, f"expected {expected}, got {shown(value)}")

    def fault_in(self, field: str, index: int, message: str) -> None:
        """Say what is wrong with an entry of a list."""
        place = self._place(field).children[index]
        mark = place.mark if isinstance(place, Places) else place
        self.report.fault(mark, (*self.way, self._names[field], index), message)
