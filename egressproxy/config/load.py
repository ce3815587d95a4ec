"""Configuration files to one Config. What it reads it reads through a `Snapshot`, as one consistent set.

A CONFIG is native YAML, a squid.conf, an nginx.conf, or Istio and Kubernetes objects, told apart by content; `squid:PATH`,
`nginx:PATH` and `istio:PATH` force one. All become native data (`adapters`) before they are merged and validated. Istio's
objects speak of each other, so those of all files are translated together, and come last.

Several CONFIGs are merged in the order they are given: lists are joined, mappings are merged key by key, and a setting
that has one value here and another there is an error that names both places. A folder stands for the `*.yaml`, `*.yml`
and `*.conf` in it, in the order of their names; hidden files are left out, and with them the links by which Kubernetes swaps
a ConfigMap. A relative path in a file starts from the folder that the file stands in. Only a CONFIG that is given by its own
name may be a pipe (`/dev/stdin`, the `<(...)` of shells).

Nothing is half used: either the whole is right, or ConfigError tells everything that is wrong with it. And nothing is mixed:
where a file or a folder changed before the last of them was read, all are read again.
"""

# os.path answers False where pathlib raises: a name too long, a folder that may not be searched.
# ruff: noqa: PTH100, PTH112, PTH113, PTH118, PTH120

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ValidationError

from egressproxy.config.adapters.adapter import Adapted, FileUnreadable, Source
from egressproxy.config.adapters.istio import istio
from egressproxy.config.adapters.nginx import nginx
from egressproxy.config.adapters.squid import squid
from egressproxy.config.faults import MAX_FAULTS, Fault, is_windows_path, path_text, shown
from egressproxy.config.native import REFUSED, Places, compose, kind_of, mark, unmark
from egressproxy.config.schema.config import Config, built_in
from egressproxy.config.snapshot import Snapshot, is_whole_line_end, printable
from egressproxy.config.translate import faults_of, place_of
from egressproxy.errors import ConfigError
from egressproxy.model import Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from egressproxy.config.faults import Finding, Way
    from egressproxy.config.native import Kind

_Holds = Literal["file", "folder", "log"]

# Times that all is read because something changed meanwhile. Reading takes milliseconds, so each is another chance.
_READ_TRIES = 5

# Problems told; who has more has given the wrong file, and its content should not fill the terminal.
_MAX_TOLD = 50

# Entries of a list whose lines are remembered while a configuration is in the making.
_LONG_LIST = 1000

# File names are shown whole: Linux has none that is longer.
_SHOWN_NAME = 4096

_NO_FILE = {
    "": "expected the name of a file or folder",
    "-": "expected the name of a file or folder; standard input is gone when the proxy reloads, and where nothing reloads "
    "/dev/stdin names it",
}

_FORCED: dict[str, Kind] = {"squid:": "squid", "nginx:": "nginx", "istio:": "istio"}
_SUFFIXES = (".yaml", ".yml", ".conf")


def _nowhere(_way: Way) -> tuple[str, int | None]:
    return "built-in", None


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A configuration that may be used.

    notes    what is worth knowing about it, in file order
    sources  the files it came from, as they were opened; none for the built-in default
    snapshot what was seen of the file system
    locate   file and line of a setting, or of the nearest thing around it that is written somewhere
    """

    config: Config
    notes: tuple[Problem, ...]
    sources: tuple[str, ...]
    snapshot: Snapshot = field(default_factory=Snapshot, repr=False, compare=False)
    locate: Callable[[Way], tuple[str, int | None]] = field(default=_nowhere, repr=False, compare=False)

    def problem(self, way: Way, message: str) -> Problem:
        """What turned out to be wrong with a setting when it was put to use, with the place it is written in."""
        file, line = self.locate(way)
        return Problem(file, line, path_text(way), message)

    def noted(self, findings: Iterable[Finding]) -> tuple[Problem, ...]:
        """Its own notes, and what those who put it to use find worth one."""
        return (*self.notes, *(self.problem(way, message) for way, message in findings))


def load(paths: Sequence[str], snapshot: Snapshot | None = None, *, lenient: bool = False) -> Loaded:
    """The configuration in these files and folders; without any, the built-in default.

    snapshot  is filled with what was seen of the file system, also where the configuration is refused
    lenient   directives of other programs that are not known here are noted and left out, unless they are about security

    Raises ConfigError with all problems, in file order.
    """
    snapshot = Snapshot() if snapshot is None else snapshot
    if not paths:
        return Loaded(config=Config.model_validate(built_in()), notes=(), sources=(), snapshot=snapshot)
    reading = _read(paths, snapshot, lenient)
    config = reading.validate()
    if config is None or reading.faults:
        raise ConfigError(reading.problems(reading.faults))
    reading.note_unwritable_logs()
    return Loaded(
        config=config,
        notes=reading.problems(reading.notes),
        sources=tuple(reading.opened),
        snapshot=snapshot,
        locate=reading.locator(),
    )


def _read(paths: Sequence[str], snapshot: Snapshot, lenient: bool) -> _Reading:
    """Read all, as often as it takes until nothing changed meanwhile. Raises ConfigError where that takes too often."""
    changed = None
    for _ in range(_READ_TRIES):
        snapshot.clear()
        reading = _Reading(snapshot, lenient)
        for path in paths:
            reading.take(path)
        reading.take_istio()
        changed = snapshot.changed()
        if changed is None:
            return reading
    raise ConfigError([Problem(printable(str(changed)), None, "", "changed each time it was read; load it again")])


class _Reading:
    """One load: what was read and merged so far, and what was found. Every file or folder has a number, its place."""

    def __init__(self, snapshot: Snapshot, lenient: bool) -> None:
        self._snapshot = snapshot
        self._lenient = lenient
        self._istio: list[Source] = []
        self._has_squid = False
        self.faults: list[Fault] = []
        self.notes: list[Fault] = []
        self.opened: list[str] = []
        self._names: list[str] = []
        self._seen: set[str] = set()
        self._whole = True  # every file could be read to its end
        self._data: dict[str, Any] = {}
        self._places = Places(0, {}, {})

    # --- files and folders

    def take(self, path: str) -> None:
        """Read one CONFIG and merge it in."""
        forced = next((kind for prefix, kind in _FORCED.items() if path.startswith(prefix)), None)
        if forced is not None:
            path = path[len(forced) + 1 :]
        if path in _NO_FILE:
            self._fail(path or "''", _NO_FILE[path])
        elif self._snapshot.is_folder(path):
            self._take_folder(path, forced)
        else:
            self._take_content(path, self._snapshot.read(path, may_wait=True), forced)

    def take_istio(self) -> None:
        """Translate the objects of all files, which speak of each other, and merge them in."""
        if self._istio:
            adapted = istio.translate(self._istio, self, lenient=self._lenient, beside=self._data)
            self._take_adapted(adapted, self._istio[0].name)

    def _take_folder(self, folder: str, forced: Kind | None) -> None:
        names = self._snapshot.names(folder)
        if isinstance(names, str):
            self._fail(folder, names)
            return
        files = []
        for name in names:
            file = os.path.join(folder, name)
            if self._snapshot.is_folder(file):
                continue
            if name.endswith(_SUFFIXES):
                files.append(file)
            else:
                message = "ignored: not *.yaml, *.yml or *.conf"
                self.notes.append(Fault(self._number(file), (), message))
        if not files:
            self._fail(folder, "expected *.yaml, *.yml or *.conf files in this folder, got none")
        for file in files:
            self._take_content(file, self._snapshot.read(file), forced)

    def _take_content(self, path: str, content: bytes | str, forced: Kind | None) -> None:
        if isinstance(content, str):
            self._fail(path, content)
            return
        source = self._open(path, content)
        if source is None:
            return
        kind = forced or kind_of(content)
        # In an nginx.conf a brace would be missing too, which is a fault.
        if kind != "nginx" and not is_whole_line_end(content[-1:]):
            last = mark(source.number, content.count(b"\n") + 1)
            self.notes.append(Fault(last, (), "no line end behind the last line; was the file cut short?"))
        match kind:
            case "istio":
                self._istio.append(source)
            case "squid":
                self._has_squid = True
                self._take_adapted(squid.translate(source, self, lenient=self._lenient, taken=self._rule_names()), path)
            case "nginx":
                self._take_adapted(nginx.translate(source, self, lenient=self._lenient), path)
            case "native":
                self._take_native(source)

    def _rule_names(self) -> list[str]:
        """Of what was merged so far, checked or not."""
        rules = self._data.get("rules")
        named = [rule.get("name") for rule in rules if isinstance(rule, dict)] if isinstance(rules, list) else []
        return [name for name in named if isinstance(name, str)]

    def _open(self, path: str, content: bytes) -> Source | None:
        """A file that is read for the first time."""
        if os.path.realpath(path) in self._seen:
            self._fail(path, "is given twice")
            return None
        self._seen.add(os.path.realpath(path))
        self.opened.append(path)
        return Source(unmark(self._number(path))[0], path, content)

    def _take_native(self, source: Source) -> None:
        data, places, faults = compose(source.content, source.number)
        self._take_adapted(Adapted(data, places, faults, ()), source.name)

    def _take_adapted(self, adapted: Adapted, name: str) -> None:
        """Merge in what a file says. A relative name in it starts from the folder of `name`."""
        data, places, faults, notes = adapted
        self.faults += faults
        self.notes += notes
        if data is None or places is None:
            self._whole = False
            return
        _make_absolute(data, os.path.dirname(os.path.abspath(name)))
        self._merge(self._data, self._places, data, places, ())

    # --- what adapters may see of the file system (`adapters.adapter.Files`)

    def read(self, name: str) -> Source:
        """A file that a directive names. Raises FileUnreadable."""
        content = self._snapshot.read(name)
        if isinstance(content, str):
            raise FileUnreadable(content)
        self.opened.append(name)
        return Source(unmark(self._number(name))[0], name, content)

    def matching(self, pattern: str) -> list[str]:
        """Names of the files that match a shell pattern, in order."""
        return self._snapshot.matching(pattern)

    def real_name(self, name: str) -> str:
        """The one name of a file that may have several."""
        return os.path.realpath(name)

    def may_write(self, name: str) -> bool:
        """Whether this user could append to a file of that name."""
        return os.access(name if os.path.lexists(name) else os.path.dirname(name), os.W_OK)

    def _number(self, name: str) -> int:
        """The mark of a new file or folder as a whole."""
        self._names.append(name)
        return mark(len(self._names) - 1, 0)

    def _fail(self, name: str, message: str) -> None:
        self._whole = False
        self.faults.append(Fault(self._number(name), (), message))

    # --- merging

    def _merge(self, into: dict[str, Any], places: Places, more: dict[str, Any], its: Places, way: Way) -> None:
        """Put one mapping into another, which nobody else holds."""
        for key, value in more.items():
            here, below = (*way, key), its.children[key]
            if key not in into:
                places.keys[key] = its.keys[key]
                into[key], places.children[key] = _own(value, below)
                continue
            mine = into[key]
            if isinstance(mine, dict) and isinstance(value, dict):
                self._merge(mine, places.children[key], value, below, here)
            elif isinstance(mine, list) and isinstance(value, list):
                mine.extend(value)
                places.children[key].children.extend(below.children)
            elif REFUSED not in (mine, value) and (type(mine) is not type(value) or mine != value):
                first = self._where(places.keys[key])
                message = f"is {shown(value)} here and {shown(mine)} in {first}; expected one value"
                self.faults.append(Fault(its.keys[key], here, message))

    # --- the whole

    def validate(self) -> Config | None:
        """The merged whole, if the schema and the file system are content; what they are not goes to the faults."""
        config = None
        try:
            config = Config.model_validate(self._data)
        except ValidationError as error:
            for fault in faults_of(error, self._places):
                if fault.path == ("listeners",) and "listeners" not in self._data and self._has_squid:
                    fault = fault._replace(message=f"{fault.message}, or http_port 3128 in the squid.conf")
                # What is missing may stand in the file that could not be read.
                if self._whole or len(fault.path) != 1 or fault.path[0] in self._data:
                    self.faults.append(fault)
        for way, name, message in _missing_files(self._data):
            self.faults.append(Fault(place_of(way, self._places), way, message))
            self._snapshot.want(name)
        return config

    def note_unwritable_logs(self) -> None:
        """Say so where this user could not write a log. Another one may run the proxy, so it is no fault."""
        for kind, way, holder, key in _file_settings(self._data):
            name = holder[key]
            if kind == "log" and not os.access(name if os.path.lexists(name) else os.path.dirname(name), os.W_OK):
                message = (
                    f"{printable(name)} cannot be written by the user who asks; the one who runs it must be able to"
                )
                self.notes.append(Fault(place_of(way, self._places), way, message))

    def locator(self) -> Callable[[Way], tuple[str, int | None]]:
        """What `Loaded.locate` is. It does not keep the content of the files."""
        names, places, whole = self._names, _without_long_lists(self._places), (printable(self.opened[0]), None)

        def locate(way: Way) -> tuple[str, int | None]:
            source, line = unmark(place_of(way, places))
            return (printable(names[source]), line) if line else whole

        return locate

    def problems(self, faults: list[Fault]) -> tuple[Problem, ...]:
        """The faults with the names of their files, in file order, and not more than anybody reads."""
        faults.sort(key=lambda fault: fault.mark)
        found = []
        for fault in faults[:_MAX_TOLD]:
            source, line = unmark(fault.mark)
            found.append(Problem(printable(self._names[source]), line or None, path_text(fault.path), fault.message))
        if len(faults) > _MAX_TOLD:
            more = f"and {len(faults) - _MAX_TOLD}{' problems or' if len(faults) >= MAX_FAULTS else ''} more"
            found.append(Problem(found[-1].file, None, "", more))
        return tuple(found)

    def _where(self, place: int) -> str:
        source, line = unmark(place)
        return f"{printable(self._names[source])}:{line}"


def _own(value: Any, place: Any) -> tuple[Any, Any]:
    """A copy that may grow: anchors share lists and mappings, and a merge must not reach the other holders."""
    if isinstance(value, list):
        return list(value), Places(place.mark, list(place.children), place.keys)
    if isinstance(value, dict):
        pairs = {key: _own(inner, place.children[key]) for key, inner in value.items()}
        children = {key: child for key, (_, child) in pairs.items()}
        return {key: inner for key, (inner, _) in pairs.items()}, Places(place.mark, children, dict(place.keys))
    return value, place


def _without_long_lists(places: Places) -> Places:
    """The same without the place of each of a million hosts; that of their list is kept."""
    children = places.children
    if isinstance(children, dict):
        for child in children.values():
            if isinstance(child, Places):
                _without_long_lists(child)
    elif len(children) > _LONG_LIST and not isinstance(children[0], Places):
        places.children = []
    else:
        for child in children:
            if isinstance(child, Places):
                _without_long_lists(child)
    return places


# --- settings that name files -------------------------------------------------------------------------------------

# Ways to settings that hold the name of a file or folder; `*` stands for every entry of a list or mapping.
_FILES: tuple[tuple[_Holds, tuple[str, ...]], ...] = (
    ("file", ("listeners", "*", "tls", "certificate")),
    ("file", ("listeners", "*", "tls", "key")),
    ("file", ("listeners", "*", "tls", "client_ca")),
    ("file", ("services", "*", "tls", "ca")),
    ("file", ("services", "*", "tls", "certificate")),
    ("file", ("services", "*", "tls", "key")),
    ("file", ("services", "*", "set_headers", "*", "file")),
    ("file", ("parents", "*", "credentials")),
    ("folder", ("secrets", "directory")),
    ("log", ("access_log", "*", "path")),
)


def _file_settings(data: dict[str, Any]) -> Iterator[tuple[_Holds, Way, dict[str, Any], str]]:
    """Settings that name a file: its kind, the way, the mapping it stands in, the key. The data is not yet valid."""
    for kind, steps in _FILES:
        for way, holder in _holders(data, steps[:-1]):
            key = steps[-1]
            if isinstance(holder, dict) and isinstance(holder.get(key), str) and holder[key] not in ("", "-"):
                yield kind, (*way, key), holder, key


def _holders(value: Any, steps: Sequence[str]) -> Iterator[tuple[Way, Any]]:
    """What stands at the end of some steps, with the way to it."""
    if not steps:
        yield (), value
        return
    step, rest = steps[0], steps[1:]
    entries: Iterable[tuple[str | int, Any]] = ()
    if step != "*":
        entries = ((step, value[step]),) if isinstance(value, dict) and step in value else ()
    elif isinstance(value, (dict, list)):
        entries = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in entries:
        for way, holder in _holders(inner, rest):
            yield (key, *way), holder


def _make_absolute(data: dict[str, Any], folder: str) -> None:
    for _, _, holder, key in _file_settings(data):
        if not is_windows_path(holder[key]):
            holder[key] = os.path.join(folder, holder[key])


def _missing_files(data: dict[str, Any]) -> Iterator[tuple[Way, str, str]]:
    """Settings whose file the proxy could not open: the way, what would have to change, and what is wrong."""
    for kind, way, holder, key in _file_settings(data):
        name = holder[key]
        folder = os.path.dirname(name)
        if "\0" in name:
            yield way, name, f"expected the name of a file, got {shown(name, _SHOWN_NAME)}"
        elif is_windows_path(name):
            yield (
                way,
                name,
                f"expected a name like /var/log/access.log, got the Windows path {shown(name, _SHOWN_NAME)}",
            )
        elif kind == "log":
            if not os.path.isdir(folder):
                what = "does not exist: create it" if not os.path.lexists(folder) else "is not a folder: make it one"
                yield way, folder, f"the folder {printable(folder)} {what}, writable by the user who runs egressproxy"
            elif os.path.isdir(name):
                yield way, name, f"expected a file, got the folder {shown(name, _SHOWN_NAME)}"
        elif not (os.path.isfile(name) if kind == "file" else os.path.isdir(name)):
            yield way, name, f"expected a {kind} that exists, got {shown(name, _SHOWN_NAME)}"
        elif not os.access(name, os.R_OK if kind == "file" else os.R_OK | os.X_OK):
            yield (
                way,
                name,
                f"expected a {kind} that may be read, got {shown(name, _SHOWN_NAME)}; see its owner and mode",
            )
