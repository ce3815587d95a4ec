"""A Config as text: the native YAML that loads to the same Config, with the places it came from as comments.

The text keeps to what `native` reads in one way only: text that could be taken for anything else is quoted. Defaults are left
out, settings stand in the order of the schema, and short lists on one line.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from egressproxy.config.faults import Way
    from egressproxy.config.schema.config import Config

MAX_WIDTH = 120
"""Characters of a line that a list or mapping of plain values may take; a longer one takes a line for each."""

_PLAIN = re.compile(r"[A-Za-z/][A-Za-z0-9_./-]*")
# What readers of YAML take for a truth value or nothing, in any case of its letters.
_OTHER_MEANING = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null"})
_NAMED = frozenset({"listeners", "rules", "routes", "services", "parents"})
_LINES = re.compile(r"(?:[!-~][ -~]*\n)+")


def native_lines(config: Config, locate: Callable[[Way], tuple[str, int | None]]) -> Iterator[str]:
    """The lines of the file. `locate`: file and line of a setting, as `Loaded` has it."""
    for key, value in _data(config).items():
        yield from _comment(locate((key,)), "")
        if isinstance(value, list) and value and isinstance(value[0], dict):
            yield f"{key}:"
            before = locate((key,))
            for index, entry in enumerate(value):
                place = locate((key, index))
                if place != before:
                    yield from _comment(place, "  ")
                    before = place
                yield from _entry(entry, "  ")
        else:
            yield from _setting(key, value, "")


def _data(config: Config) -> dict[str, Any]:
    """The settings as YAML would hold them, without those that are the default."""
    data: dict[str, Any] = config.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    if config.secrets.inline:
        data["secrets"]["inline"] = {
            name: {file: text.get_secret_value() for file, text in files.items()}
            for name, files in config.secrets.inline.items()
        }
    for condition in (*data.get("rules", ()), *data.get("routes", ())):
        _write_ports_as_numbers(condition)
    return {key: [_names_first(entry) for entry in value] if key in _NAMED else value for key, value in data.items()}


def _names_first(entry: dict[str, Any]) -> dict[str, Any]:
    """What an entry is called and does, before its conditions."""
    return {key: entry[key] for key in ("name", "action") if key in entry} | entry


def _write_ports_as_numbers(condition: dict[str, Any]) -> None:
    """`443` in place of `"443"`, as people write it."""
    for key in ("ports", "listener_ports"):
        if key in condition:
            condition[key] = [int(port) if port.isdigit() else port for port in condition[key]]
    for key in ("all", "any", "none"):
        for below in condition.get(key, ()):
            _write_ports_as_numbers(below)


def _comment(place: tuple[str, int | None], indent: str) -> Iterator[str]:
    file, line = place
    if line is not None:
        yield f"{indent}# {file}:{line}"


def _setting(key: str, value: Any, indent: str) -> Iterator[str]:
    """The lines of one key of a mapping."""
    name = _scalar(key)
    inline = _inline(value)
    if _fits(value, f"{indent}{name}: {inline}"):
        yield f"{indent}{name}: {inline}"
    elif isinstance(value, dict):
        yield f"{indent}{name}:"
        for inner, below in value.items():
            yield from _setting(inner, below, indent + "  ")
    elif isinstance(value, list):
        yield f"{indent}{name}:"
        for entry in value:
            yield from _entry(entry, indent + "  ")
    else:
        yield f"{indent}{name}: |"
        yield from (f"{indent}  {line}" for line in value.splitlines())


def _entry(value: Any, indent: str) -> Iterator[str]:
    """The lines of one entry of a list."""
    inline = _inline(value)
    if not isinstance(value, dict) or _fits(value, f"{indent}- {inline}"):
        yield f"{indent}- {inline}"
        return
    lead = f"{indent}- "
    for key, inner in value.items():
        for line in _setting(key, inner, indent + "  "):
            yield lead + line[len(lead) :]
            lead = indent + "  "


def _fits(value: Any, line: str) -> bool:
    """Whether a value should stand on this line: plain ones do, lists and mappings where there is room."""
    if isinstance(value, (dict, list)):
        return not value or (len(line) <= MAX_WIDTH and not _has_lines(value))
    return not _has_lines(value)


def _has_lines(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_has_lines, value.values()))
    if isinstance(value, list):
        return any(map(_has_lines, value))
    return isinstance(value, str) and _LINES.fullmatch(value) is not None


def _inline(value: Any) -> str:
    """Any value on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_scalar(key)}: {_inline(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_inline, value)) + "]"
    return _scalar(value)


def _scalar(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):  # never with an exponent, which `native` takes for text
        return str(int(value)) if value.is_integer() else format(Decimal(repr(value)), "f")
    text = str(value)
    if _PLAIN.fullmatch(text) and text.lower() not in _OTHER_MEANING:
        return text
    return '"' + "".join(map(_quoted, text)) + '"'


def _quoted(character: str) -> str:
    """Within double quotes (YAML 1.2 section 5.7)."""
    if character in '"\\':
        return "\\" + character
    if character == "\n":
        return "\\n"
    if " " <= character <= "~":
        return character
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
