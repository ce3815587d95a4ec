r"""Expressions of a `map`, PCRE's, in the words of the native form, which are RE2's.

The two agree in most of what people write; only that is taken. What they read in two ways (`[a[:digit:]]` is a class of
characters to the one and a set with colons to the other) or what one of them has alone is refused, never guessed.

NGINX gives an expression the name as the client wrote it. Here a host has one spelling, in small letters, for expressions too.
"""

from __future__ import annotations

import re
import string
from typing import NamedTuple

from egressproxy.config.faults import shown_expression
from egressproxy.policy.expressions import compile_expression

_ESCAPE = r"\\(?:[dDwWsStnrf]|x[0-9A-Fa-f]{2}|[^A-Za-z0-9])"
_PIECE = re.compile(
    rf"(?P<escape>{_ESCAPE}|\\[bBA])"
    rf"|(?P<set>\[\^?+\]?+(?:{_ESCAPE}|(?!--|&&|\|\||~~)[^\[\]\\])*+\])"
    r"|(?:[*+?]|\{[0-9]{1,5}(?:,[0-9]{0,5})?\})\??(?![*+?{])"
    r"|\((?:\?(?::|[ims]+:))?(?![?*])"
    r"|(?P<named>\(\?(?:P?<(?P<name>[A-Za-z_][A-Za-z0-9_]*)>|'(?P<quoted>[A-Za-z_][A-Za-z0-9_]*)'))"
    r"|(?P<plain>[^\\\[{(*+?])",
    re.DOTALL,
)
"""What both languages read alike."""

_FLAGS = re.compile(r"\(\?[ims]+\)")
"""At the front. `m` and `s` are about line ends, which no name has."""

_ANY_ESCAPE = re.compile(r"\\.", re.DOTALL)


class Expression(NamedTuple):
    """One expression.

    text      in RE2's words, without what says that letter case does not count
    any_case  letter case does not count
    capitals  it has capitals, which no name in small letters has
    excludes  which names it leaves out may depend on their letter case
    """

    text: str
    any_case: bool
    capitals: bool
    excludes: bool

    @property
    def native(self) -> str:
        """The whole of it."""
        return f"(?i){self.text}" if self.any_case else self.text


def read_expression(key: str) -> Expression:
    """What `~expression` or `~*expression` means. Raises ValueError where the two languages differ."""
    written = key[1:].removeprefix("*")
    any_case = key.startswith("~*")
    if not written.isascii():
        raise ValueError(
            f"expected ASCII characters in the expression {shown_expression(written)}; names have no others"
        )
    flags = _FLAGS.match(written)
    at = 0 if flags is None else flags.end()
    if flags is not None:
        any_case = any_case or "i" in flags[0]
    pieces: list[str] = []
    capitals = excludes = False
    while at < len(written):
        piece = _PIECE.match(written, at)
        if piece is None:
            raise ValueError(
                f"{shown_expression(written[at : at + 12])} in the expression {shown_expression(written)} may mean something "
                "else here; write it with sets like [0-9a-f], groups and simple repetitions, and without looking ahead or back"
            )
        name = piece["name"] or piece["quoted"]
        pieces.append(f"(?P<{name}>" if name else piece[0])
        excludes = excludes or _excludes_one_case(piece["set"])
        letters = piece["plain"] or _ANY_ESCAPE.sub("", piece["set"] or "")
        capitals = capitals or letters != letters.lower()
        at = piece.end()
    found = Expression("".join(pieces), any_case, capitals, excludes)
    try:
        compile_expression(found.native)
    except ValueError as error:
        raise ValueError(f"expected a regular expression, got {shown_expression(key)}: {error}") from None
    return found


def _excludes_one_case(characters: str | None) -> bool:
    """Whether a set is of all characters but some, and has a letter in one case alone."""
    if characters is None or not characters.startswith("[^"):
        return False
    try:
        one = re.compile(characters)
    except re.error:
        return True  # told when the whole is compiled
    return any((one.match(letter) is None) != (one.match(letter.upper()) is None) for letter in string.ascii_lowercase)
