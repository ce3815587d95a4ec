"""`?filter=`: which names of statistics somebody wants to see, as a regular expression that cannot run away.

Python's engine tries again and again where repetitions stand in repetitions, and while it does the event loop carries no
tunnel. So groups and counted repetitions are not taken, and in one alternative two repetitions without end at most, and few
optional characters: what is left takes time in proportion to the third power of a name's length at worst, which is short.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from egressproxy.config.faults import shown

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_LENGTH = 200
MAX_ENDLESS = 2
"""`*` and `+` in one alternative, `.*` at its ends not counted."""
MAX_OPTIONAL = 4
"""`?` in one alternative."""

_PIECE = re.compile(
    r"""
      (?P<atom> \\[^a-zA-Z0-9] | \\[dws] | \[\^?\]?[^\]\\\[]*\] | [^\\\[\](){}*+?|] )
      (?P<times> [*+?]? )
    | (?P<bar> \| )
    """,
    re.VERBOSE,
)
_SURROUNDING = re.compile(r"^\.\*|(?<!\\)\.\*$")


def name_filter(text: str) -> Callable[[str], object]:
    """What says of a name whether the expression is found in it. Raises ValueError, with what is taken."""
    if len(text) > MAX_LENGTH:
        raise ValueError(f"expected a filter of at most {MAX_LENGTH} characters, got {len(text)}")
    parts = [_SURROUNDING.sub("", part) for part in _alternatives(text)]
    for part in parts:
        times = [match["times"] for match in _PIECE.finditer(part)]
        for most, what, count in (
            (MAX_ENDLESS, "* and +", times.count("*") + times.count("+")),
            (MAX_OPTIONAL, "?", times.count("?")),
        ):
            if count > most:
                raise ValueError(f"expected at most {most} of {what} between two |, got {count} in {shown(part)}")
    try:
        return re.compile("|".join(parts)).search
    except re.error as error:
        raise ValueError(f"expected a regular expression, got {shown(text)}: {error}") from None


def _alternatives(text: str) -> list[str]:
    parts = [""]
    at = 0
    while at < len(text):
        match = _PIECE.match(text, at)
        if match is None:
            raise ValueError(
                f"expected a filter of characters, classes like [0-9], and . * + ? | ^ $, got {shown(text[at:])}; "
                "a backslash makes other characters plain"
            )
        if match["bar"] is None:
            parts[-1] += match[0]
        else:
            parts.append("")
        at = match.end()
    if len(parts) > 1 and "" in parts:
        raise ValueError(r"expected something on both sides of |; the bar in the name of a cluster is written \|")
    return parts
