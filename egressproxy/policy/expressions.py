"""Regular expressions of the configuration, searched in what clients send: in a time that grows with the text, and no faster.

They are RE2's (https://github.com/google/re2/wiki/Syntax), as Envoy's are. An engine that backtracks, like Python's own, takes
minutes for one request where an expression is no more than `.*/ads/.*[.]gif$`, and a proxy that stops for one client stops for
all.
What RE2 cannot search in that time (references to earlier groups, looking ahead and behind) it does not know.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, cast

import re2

from egressproxy.config.faults import shown_expression

if TYPE_CHECKING:
    from typing import Protocol

    class Expression(Protocol):
        """A compiled expression."""

        def search(self, text: str) -> object | None:
            """Something, where it is found in the text."""


_MAX_MEMORY = 1 << 20
"""Bytes that one expression may take, compiled; those that people write take some kilobytes."""


def _options() -> re2.Options:
    options = re2.Options()
    options.log_errors = False
    options.max_mem = _MAX_MEMORY
    options.dot_nl = True  # a line end is as good a character as any: `%0a` must not part what an expression looks for
    return options


_OPTIONS = _options()


@lru_cache(4096)
def compile_expression(text: str) -> Expression:
    """An expression, ready to be searched; equal ones are one object. Raises ValueError with what is wrong with it."""
    try:
        return cast("Expression", re2.compile(text, options=_OPTIONS))
    except re2.error as error:
        what = error.args[0].decode(errors="replace") if error.args and isinstance(error.args[0], bytes) else str(error)
        problem, colon, piece = what.partition(": ")  # RE2 repeats the piece as it is, and all of it
        raise ValueError(f"{problem}{colon}{shown_expression(piece) if colon else ''}") from None
