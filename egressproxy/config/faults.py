"""How faults in a configuration are told: where they stand, and values in words an operator knows.

All text here ends in front of a person, on one line: whatever came from a file is quoted, escaped and cut.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

# Longest piece of a value that a message repeats: enough to find it again, and one line on a terminal.
_SHOWN_CHARACTERS = 40

# The same of what should have been a directive and looks like none: another file than was meant, perhaps one of secrets.
STRANGE_CHARACTERS = 20

# Faults kept of one load. The first few are read; a million wrong lines must not take gigabytes to say so.
MAX_FAULTS = 1000

_DIRECTIVE = re.compile(r"[a-z][a-z0-9_]{1,60}|[A-Za-z]{1,40}")  # or a kind of object
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_.-]{1,60}")

_WINDOWS = re.compile(r"[A-Za-z]:[\\/\s]|\\\\")  # a blank: what an escape like \n in it comes to

Way = tuple[str | int, ...]
"""Keys and list positions from the top of the configuration down to a setting."""

Finding = tuple[Way, str]


class Fault(NamedTuple):
    """One thing wrong. `mark` is file and line in one number, as `native.mark` makes it; line 0: none in particular."""

    mark: int
    path: Way
    message: str


class Misplaced(ValueError):
    """Settings that are each well-formed and do not go together. Raised by the schema's validators.

    found  for each: the way to it from the value that is validated, and what is wrong
    """

    def __init__(self, *found: Finding) -> None:
        super().__init__("; ".join(message for _, message in found))
        self.found = found


def is_windows_path(name: str) -> bool:
    r"""Whether the name of a file begins as in Windows, `C:\` or `\\`: here it would be one in the configuration's folder."""
    return _WINDOWS.match(name) is not None


def shown(value: object, longest: int = _SHOWN_CHARACTERS) -> str:
    """A value as messages write it: text quoted, escaped and cut, the rest in YAML's words."""
    if isinstance(value, str):
        return ascii(value if len(value) <= longest else f"{value[: longest - 3]}...")
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, (list, tuple)):
        return f"a list of {len(value)}"
    return ascii(value)


def shown_expression(text: str) -> str:
    """A regular expression, or a piece of one, as `shown` has it, but each backslash once, as it stands in the file."""
    return shown(text).replace("\\\\", "\\")


def shown_directive(word: str) -> str:
    """What stands in the place of a directive, quoted and escaped; where it looks like none, little of it."""
    return shown(word, _SHOWN_CHARACTERS if _DIRECTIVE.fullmatch(word) else STRANGE_CHARACTERS)


def path_text(path: Sequence[str | int]) -> str:
    """`rules[2].hosts[0]` for the way to a setting. Odd keys are quoted, escaped and cut, soonest where they come first."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        elif not text and len(step) > STRANGE_CHARACTERS and not _DIRECTIVE.fullmatch(step):
            text = shown_directive(step)
        else:
            text += ("." if text else "") + (step if _PLAIN_KEY.fullmatch(step) else shown(step))
    return text
