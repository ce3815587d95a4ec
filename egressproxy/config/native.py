"""One YAML file: from bytes to plain values that know their lines.

This composes YAML's events itself, because PyYAML's loader has habits that a policy file must not depend on: of two
equal keys the last wins, `yes` is true and `22:22` is 1342, tags may build objects, aliases may blow up, and a second
document disappears. Here each of those is a fault with its line. What a plain scalar means is the common ground of YAML
1.1 and 1.2; where the two disagree (`on`, `010`, `12:30`) the scalar is refused and the reader asked for quotes.

`compose` takes any bytes and always returns: the values, or what is wrong with them, all faults at once where the file
is still readable behind them. It opens no file.
"""

from __future__ import annotations

import codecs
import re
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import yaml

from egressproxy.config.faults import MAX_FAULTS, Fault, shown
from egressproxy.config.yaml_errors import TEMPLATE, explain

if TYPE_CHECKING:
    from collections.abc import Callable

    from egressproxy.config.faults import Way

# The schema nests five deep. A bound far below the interpreter's own keeps every later walk simple.
MAX_DEPTH = 32

# Values that aliases may add to those that are written out. Lists are shared by anchors, bombs are not.
MAX_ALIASED = 100_000

# Keys of one mapping. The schema knows a dozen at most; a file of nothing but keys is no reason for a million faults.
MAX_KEYS = 1000

# C where PyYAML was built with libyaml: a million events in a second instead of half a minute. Same events either way.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Refused:
    """Stands where a value was refused, so that the fault already told is not told again."""


REFUSED = Refused()


# A mark is a file's number and a line in one int: a million of them cost what the list that holds them costs.
_LINE_BITS = 32


def mark(source: int, line: int) -> int:
    """The mark of a line, counted from 1, in the file with this number."""
    return source << _LINE_BITS | line


def unmark(place: int) -> tuple[int, int]:
    """File number and line of a mark."""
    return place >> _LINE_BITS, place & (1 << _LINE_BITS) - 1


class Places:
    """Where a list or mapping stands, and what is in it. A scalar's place is its mark alone.

    mark      where it begins
    keys      of a mapping: the mark of each key
    children  places by key or position
    """

    __slots__ = ("children", "keys", "mark")

    def __init__(self, mark: int, children: Any, keys: dict[str, int]) -> None:
        self.mark = mark
        self.children = children
        self.keys = keys


class Composed(NamedTuple):
    """What one file holds.

    data    the top-level mapping; None where the file has none that could be read
    places  the lines of it
    faults  all that is wrong; empty means that the data is whole
    """

    data: dict[str, Any] | None
    places: Places | None
    faults: tuple[Fault, ...]


def compose(content: bytes, source: int = 0) -> Composed:
    """Read one native YAML file. `source` is its number, to be found again in every mark."""
    fault = not_text(content, source)
    if fault is not None:
        return Composed(None, None, (fault,))
    composer = _Composer(source)
    try:
        composer.read(_Loader(content))
    except _Stop:
        pass
    except yaml.MarkedYAMLError as error:
        composer.fault(*_syntax(error, content, source))
    except yaml.reader.ReaderError as error:
        composer.fault(*_unreadable(error, content, source))
    data, places = composer.data, composer.places
    if isinstance(data, dict):
        return Composed(data, places, tuple(composer.faults))
    if not composer.faults:
        got = "an empty file" if data is None else shown(data)
        composer.fault(mark(source, 1), f"expected settings like listeners and allow, got {got}")
    return Composed(None, None, tuple(composer.faults))


class Document(NamedTuple):
    """One of several documents in a file.

    data    what it holds, of any kind; None for an empty one
    places  the lines of it: `Places` of a list or mapping, else a mark
    """

    data: Any
    places: Any


def compose_all(content: bytes, source: int, first_line: int = 1) -> tuple[list[Document], tuple[Fault, ...]]:
    """Read a file of any number of YAML or JSON documents as Kubernetes does, and all that is wrong with it.

    As strict as `compose` with keys, tags and aliases. Scalars that readers of YAML differ about are read as Kubernetes reads
    them, whose library keeps to YAML 1.1: `yes` is true, `010` is 8. Documents before a syntax error are returned too.

    first_line  where the content begins, if it is itself a value in a file
    """
    fault = not_text(content, source)
    if fault is not None:
        return [], (fault._replace(mark=fault.mark + first_line - 1),)
    composer = _DocumentsComposer(source, first_line)
    try:
        composer.read(_Loader(content))
    except _Stop:
        pass
    except yaml.MarkedYAMLError as error:
        place, message = _syntax(error, content, source)
        composer.fault(place + first_line - 1, message)
    except yaml.reader.ReaderError as error:
        place, message = _unreadable(error, content, source)
        composer.fault(place + first_line - 1, message)
    return composer.documents, tuple(composer.faults)


# --- before YAML --------------------------------------------------------------------------------------------------


def not_text(content: bytes, source: int) -> Fault | None:
    """What keeps the bytes of a file, of whatever format, from being text; None: nothing, they may be decoded."""
    zero = content.find(b"\0")
    try:
        content.decode()
    except UnicodeDecodeError as error:
        if zero < 0 or error.start < zero:
            got = f"the byte 0x{content[error.start]:02x}"
            return Fault(_mark_at(content, error.start, source), (), f"expected text in UTF-8, got {got}")
    if zero >= 0:
        return Fault(_mark_at(content, zero, source), (), "expected text, got a NUL byte")
    return old_line_ends(content, source)


def old_line_ends(content: bytes, source: int) -> Fault | None:
    """Lines of old Macintoshes, which would be one line, and behind a `#` nothing but a comment."""
    if b"\r" in content and b"\n" not in content:
        return Fault(mark(source, 1), (), "lines end with a carriage return (CR) alone; save the file with LF or CRLF")
    return None


def byte_order_mark(content: bytes, source: int) -> Fault | None:
    """The mark that editors of Windows put at the front of UTF-8; programs that know none take it for a part of a word."""
    if not content.startswith(codecs.BOM_UTF8):
        return None
    return Fault(mark(source, 1), (), "begins with a byte order mark (BOM); save the file as UTF-8 without one")


def _mark_at(content: bytes, offset: int, source: int) -> int:
    return mark(source, content.count(b"\n", 0, offset) + 1)


Kind = Literal["native", "squid", "nginx", "istio"]
"""The formats."""

_SQUID = re.compile(rb"^(?:http_access|http_port|acl|cache_peer|https_port|visible_hostname)[ \t]", re.M)
_NGINX = re.compile(rb"^[ \t]*(?:events|stream|http|server)\s*\{|^[ \t]*worker_processes[ \t]", re.M)
_KUBERNETES = (re.compile(rb"^[\"']?apiVersion[\"']?[ \t]*:", re.M), re.compile(rb"^[\"']?kind[\"']?[ \t]*:", re.M))
_JSON_OBJECT = re.compile(rb"\s*\{")


def kind_of(content: bytes) -> Kind:
    """Which format a file is in, by its content. What is none of the others counts as native, and hears what is wrong."""
    if all(expression.search(content) for expression in _KUBERNETES):
        return "istio"
    if _JSON_OBJECT.match(content) and b'"apiVersion"' in content and b'"kind"' in content:
        return "istio"
    if _SQUID.search(content):
        return "squid"
    return "nginx" if _NGINX.search(content) else "native"


# --- events to values ---------------------------------------------------------------------------------------------


class _Stop(Exception):
    """The file cannot be read any further; the fault is noted."""


class _Frame:
    """A list or mapping whose end has not come yet."""

    __slots__ = ("anchor", "children", "data", "key", "keys", "mark", "size")

    def __init__(self, data: Any, mark: int, anchor: str | None, size: int) -> None:
        self.data = data
        self.mark = mark
        self.anchor = anchor
        self.size = size  # values read before it began
        self.key: str | None = None  # of a mapping: the key whose value comes next
        self.keys: dict[str, int] = {}
        self.children: Any = {} if isinstance(data, dict) else []


class _Composer:
    """Builds values from events. The stack holds the open lists and mappings, so depth costs no recursion."""

    _max_depth = MAX_DEPTH
    _blocks_begin_below: tuple[str, ...] = ()  # styles of scalars whose place is the line behind their beginning

    def __init__(self, source: int, first_line: int = 1) -> None:
        self._first = mark(source, first_line)
        self.faults: list[Fault] = []
        self.data: Any = None
        self.places: Any = None
        self._stack: list[_Frame] = []
        self._anchors: dict[str, tuple[Any, Any, int]] = {}  # value, place, how many values it holds
        self._size = 0
        self._aliased = 0
        self._opened = -1  # where the newest list or mapping begins, if it is a mapping

    def fault(self, place: int, message: str) -> None:
        """Note a fault at the place the composer has come to."""
        if len(self.faults) < MAX_FAULTS:
            self.faults.append(Fault(place, self._path(), message))

    def read(self, loader: Any) -> None:
        """Compose the document, or documents. Raises _Stop and PyYAML's own errors."""
        documents = 0
        next_event: Callable[[], Any] = loader.get_event
        while True:
            event = next_event()
            kind = type(event)
            if kind is yaml.ScalarEvent:
                self._scalar(event)
            elif kind is yaml.MappingStartEvent:
                self._open({}, event, "tag:yaml.org,2002:map")
            elif kind is yaml.SequenceStartEvent:
                self._open([], event, "tag:yaml.org,2002:seq")
            elif kind is yaml.MappingEndEvent or kind is yaml.SequenceEndEvent:
                self._close()
            elif kind is yaml.AliasEvent:
                self._alias(event)
            elif kind is yaml.DocumentStartEvent:
                documents += 1
                self._begin(documents, event.start_mark.line + self._first)
            elif kind is yaml.DocumentEndEvent:
                self._end()
            elif kind is yaml.StreamEndEvent:
                return

    def _begin(self, number: int, place: int) -> None:
        """A document begins, counted from 1."""
        if number > 1:
            self.fault(place, "expected one document, got a second one behind ---; give it its own file")
            raise _Stop

    def _end(self) -> None:
        """A document ends."""

    def _scalar(self, event: Any) -> None:
        place = event.start_mark.line + self._first
        value = event.value
        frame = self._stack[-1] if self._stack else None
        if frame is not None and frame.key is None and type(frame.data) is dict:
            self._key(frame, value, event, place)
            return
        if not event.style and event.tag is None and value[:1] in _NOT_ONLY_TEXT:
            value = self._plain(value, place)
        elif event.tag is not None and event.tag not in ("!", "tag:yaml.org,2002:str"):
            self.fault(place, f"expected a plain value, got the tag {shown(event.tag)}; leave the tag out")
            value = REFUSED
        self._size += 1
        if event.anchor is not None:
            self._anchor(event.anchor, value, place, 1, place)
        if event.style in self._blocks_begin_below:
            place += 1
        self._add(value, place)

    def _key(self, frame: _Frame, key: str, event: Any, place: int) -> None:
        if event.anchor is not None:
            self._anchor(event.anchor, key, place, 1, place)
        if not event.style and key == "<<":
            self.fault(place, "expected a key, got << to merge another mapping; write its keys out")
        if len(frame.keys) == MAX_KEYS:
            self.fault(place, f"expected at most {MAX_KEYS} keys in a mapping")
            raise _Stop
        frame.key = key
        if key in frame.keys:
            self._tell_twice(frame, key, place)
        else:
            frame.keys[key] = place

    def _tell_twice(self, frame: _Frame, key: str, place: int) -> None:
        self.fault(place, f"is written twice; the first is on line {unmark(frame.keys[key])[1]}")

    def _plain(self, text: str, place: int) -> Any:
        """The meaning of an unquoted scalar that may be more than text."""
        if text in _WORDS:
            return _WORDS[text]
        if _INTEGER.fullmatch(text):
            return int(text)
        if _DECIMAL.fullmatch(text):
            return float(text)
        for expression, reading in _AMBIGUOUS:
            if expression.fullmatch(text):
                self.fault(place, f"{shown(text)} without quotes {reading}")
                return REFUSED
        return text

    def _open(self, data: Any, event: Any, tag: str) -> None:
        place = event.start_mark.line + self._first
        frame = self._stack[-1] if self._stack else None
        if frame is not None and frame.key is None and type(frame.data) is dict:
            if event.start_mark.index == self._opened + 1 and not frame.keys:
                self.fault(place, TEMPLATE)
            else:
                self.fault(place, f"expected a key, got {'a list' if type(data) is list else 'a mapping'}")
            raise _Stop
        if event.tag is not None and event.tag not in ("!", tag):
            self.fault(place, f"expected a plain value, got the tag {shown(event.tag)}; leave the tag out")
        if len(self._stack) == self._max_depth:
            self.fault(place, f"expected at most {self._max_depth} lists and mappings inside each other")
            raise _Stop
        self._stack.append(_Frame(data, place, event.anchor, self._size))
        self._opened = event.start_mark.index if type(data) is dict else -1

    def _close(self) -> None:
        frame = self._stack.pop()
        self._size += 1
        places = Places(frame.mark, frame.children, frame.keys)
        if frame.anchor is not None:
            self._anchor(frame.anchor, frame.data, places, self._size - frame.size, frame.mark)
        self._add(frame.data, places)

    def _alias(self, event: Any) -> None:
        place = event.start_mark.line + self._first
        frame = self._stack[-1] if self._stack else None
        if frame is not None and frame.key is None and type(frame.data) is dict:
            self.fault(place, f"expected a key, got the alias {shown('*' + event.anchor)}")
            raise _Stop
        found = self._anchors.get(event.anchor)
        if found is None:
            name = shown("*" + event.anchor)
            self.fault(place, f"{name} without quotes is an alias, and no anchor has its name; quote it")
            found = (REFUSED, place, 1)
        value, value_place, size = found
        self._size += size
        self._aliased += size
        if self._aliased > MAX_ALIASED:
            self.fault(place, f"expected at most {MAX_ALIASED} values from aliases; write them out or split the file")
            raise _Stop
        self._add(value, value_place)

    def _anchor(self, name: str, value: Any, value_place: Any, size: int, place: int) -> None:
        if name in self._anchors:
            self.fault(place, f"the anchor {shown('&' + name)} is set twice")
        else:
            self._anchors[name] = (value, value_place, size)

    def _add(self, value: Any, place: Any) -> None:
        """Put a whole value into the list or mapping that waits for it."""
        if not self._stack:
            self.data, self.places = value, place
            return
        frame = self._stack[-1]
        if type(frame.data) is list:
            frame.data.append(value)
            frame.children.append(place)
            return
        key, frame.key = frame.key, None
        if key not in frame.data:  # of two equal keys the first stays; the fault is noted
            frame.data[key] = value
            frame.children[key] = place

    def _path(self) -> Way:
        steps = (len(frame.data) if type(frame.data) is list else frame.key for frame in self._stack)
        return tuple(step for step in steps if step is not None)


class _DocumentsComposer(_Composer):
    """Any number of documents, with Kubernetes' reading of scalars."""

    # Schemas of custom resources, which stand among the files of a cluster, nest deeper than any setting here.
    _max_depth = 128
    # Files stand in ConfigMaps as blocks, and are told with lines of their own.
    _blocks_begin_below = ("|", ">")

    def __init__(self, source: int, first_line: int) -> None:
        super().__init__(source, first_line)
        self.documents: list[Document] = []
        self._twice: list[tuple[str, int, int]] = []  # keys of one object: the mark, and the line of the first

    def read(self, loader: Any) -> None:
        """Compose the documents. Raises _Stop and PyYAML's own errors."""
        try:
            super().read(loader)
        finally:
            self._tell_parting()

    def _begin(self, number: int, place: int) -> None:
        self.data = self.places = None
        self._anchors = {}

    def _end(self) -> None:
        self._tell_parting()
        self.documents.append(Document(self.data, self.places))

    def _tell_twice(self, frame: _Frame, key: str, place: int) -> None:
        if len(self._stack) > 1:
            super()._tell_twice(frame, key, place)
        elif len(self._twice) < MAX_FAULTS:
            self._twice.append((key, place, unmark(frame.keys[key])[1]))

    def _tell_parting(self) -> None:
        """What is written twice in one object. Where its kind and apiVersion are, the first such key begins another one."""
        twice, self._twice = self._twice, []
        words = {key for key, _, _ in twice}
        parted = {"kind", "apiVersion"} <= words
        for key, place, first in twice:
            if not parted:
                message = f"is written twice; the first is on line {first}"
            elif key == twice[0][0]:
                message = f"begins another object, the first is on line {first}; put --- on a line before it"
            else:
                continue
            if len(self.faults) < MAX_FAULTS:
                self.faults.append(Fault(place, (key,), message))

    def _plain(self, text: str, place: int) -> Any:
        if text in _WORDS:
            return _WORDS[text]
        if text in _KUBERNETES_WORDS:
            return _KUBERNETES_WORDS[text]
        if _KUBERNETES_INTEGER.fullmatch(text):
            return _kubernetes_integer(text)
        return float(text) if _KUBERNETES_DECIMAL.fullmatch(text) else text


# --- scalars ------------------------------------------------------------------------------------------------------

_WORDS: dict[str, bool | None] = {
    "": None,
    **dict.fromkeys(("~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_NOT_ONLY_TEXT = frozenset(["", *"~nNtTfFyYoO0123456789+-.="])

# Eighteen digits are more than any setting takes; a longer one stays text, and the schema refuses it as such.
_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,17})")
_DECIMAL = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,17})\.[0-9]{0,17}|[-+]?\.[0-9]{1,17}")

# YAML 1.1 (yaml.org/type/bool, int, value) reads these in its way, YAML 1.2 section 10.3 in another.
_AMBIGUOUS = (
    (
        re.compile(r"yes|Yes|YES|on|On|ON"),
        "is true to some readers of YAML and text to others; write true, or quote it",
    ),
    (
        re.compile(r"no|No|NO|Off|OFF"),  # `off` is a word of the settings, and text here as in YAML 1.2
        "is false to some readers of YAML and text to others; write false, or quote it",
    ),
    (
        re.compile(r"[-+]?(?:0[0-9_]+|0x[0-9a-fA-F_]+|0o[0-7]+|0b[01_]+)"),
        "is an octal, hexadecimal or binary number to some readers of YAML; write it in decimal, or quote it",
    ),
    (
        re.compile(r"[-+]?[1-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?"),
        "is a number to the base 60 to some readers of YAML; quote it",
    ),
    (re.compile(r"[-+]?[0-9][0-9_]*_[0-9_]*"), "is a number to some readers of YAML; leave the _ out, or quote it"),
    (re.compile(r"="), "is a special value to some readers of YAML; quote it"),
)


# What go-yaml version 2, the library of Kubernetes, makes of plain scalars (its resolve.go). It knows no base 60.
_KUBERNETES_WORDS = {
    **dict.fromkeys(("y", "Y", "yes", "Yes", "YES", "on", "On", "ON"), True),
    **dict.fromkeys(("n", "N", "no", "No", "NO", "off", "Off", "OFF"), False),
}
_KUBERNETES_INTEGER = re.compile(r"[-+]?(?:0b[01_]+|0x[0-9a-fA-F_]+|0o?[0-7_]+|[1-9][0-9_]*|0)")
_KUBERNETES_DECIMAL = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")


def _kubernetes_integer(text: str) -> int | float | str:
    """The integer; a float where it is too large for one, and text where it has no digits."""
    digits = text.replace("_", "")
    if len(digits) > 20:
        return float(digits) if digits.lstrip("+-").isdigit() else text
    if re.fullmatch(r"[-+]?0[0-7]+", digits):
        return int(digits, 8)
    try:
        return int(digits, 0)
    except ValueError:
        return text


# --- what YAML itself refuses -------------------------------------------------------------------------------------


def _unreadable(error: yaml.reader.ReaderError, content: bytes, source: int) -> tuple[int, str]:
    """A character that YAML does not take. The position counts bytes with libyaml, characters without."""
    code = error.character if isinstance(error.character, int) else ord(error.character[:1] or "\0")
    bad = chr(code).encode(errors="surrogatepass")
    place = _mark_at(content, max(content.find(bad), 0), source)
    return place, f"expected text, got the control character U+{code:04X}"


def _syntax(error: yaml.MarkedYAMLError, content: bytes, source: int) -> tuple[int, str]:
    """Mark and words for what keeps a file from being YAML."""
    line, words = explain(error, content)
    return mark(source, line), words
