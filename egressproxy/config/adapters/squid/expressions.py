r"""Squid's regular expressions, POSIX extended ones as glibc reads them (regex(7)), in the native form's, RE2's.

The two agree in most of what people write and differ where it hurts: a backslash in brackets is itself, `\d` is the letter
d, and a `?` behind a repetition repeats once more instead of making it lazy. What is the same in both stays as it was
written; what means something else is rewritten; what was probably not meant as POSIX reads it is refused.
"""

from __future__ import annotations

import re
import string

from egressproxy.config.faults import shown_expression
from egressproxy.policy.expressions import compile_expression

_CLASSES = {
    "alnum": "a-zA-Z0-9",
    "alpha": "a-zA-Z",
    "blank": r" \t",
    "cntrl": r"\x00-\x1f\x7f",
    "digit": "0-9",
    "graph": "!-~",
    "lower": "a-z",
    "print": " -~",
    "punct": r"!-/:-@\[-`{-~",
    "space": r" \t-\r",
    "upper": "A-Z",
    "xdigit": "0-9A-Fa-f",
}
"""In the C locale, which Squid runs in."""

_GNU = {"w": r"\w", "W": r"\W", "s": r"\s", "S": r"\S", "b": r"\b", "B": r"\B", "`": r"\A", "'": r"\z"}
"""Escapes that glibc knows beyond POSIX."""

_INTERVAL = re.compile(r"\{(?:[0-9]{1,3}(?:,[0-9]{0,3})?|,[0-9]{1,3})\}")
_CLASS = re.compile(r"\[([:.=])(.*?)\1\]")


def native_expression(text: str, *, any_case: bool) -> str:
    """The expression as the native form has it, which is RE2's. Raises ValueError with what to write instead."""
    found = ""
    at = 0
    may_repeat = False
    while at < len(text):
        char = text[at]
        if char == "[":
            piece, at = _bracket(text, at)
            may_repeat = True
        elif char == "\\":
            piece, at = _escape(text, at), at + 2
            may_repeat = True
        elif char in "*+?" or char == "{":
            piece, at = _repetition(text, at, may_repeat)
            may_repeat = False
        else:
            piece, at = {"}": r"\}", "]": r"\]"}.get(char, char), at + 1
            may_repeat = char not in "(|^"
        found += piece
    found = f"(?i){found}" if any_case else found
    try:
        compile_expression(found)
    except ValueError as error:
        raise ValueError(f"expected a regular expression, got {shown_expression(text)}: {error}") from None
    return found


def _repetition(text: str, at: int, may_repeat: bool) -> tuple[str, int]:
    match = _INTERVAL.match(text, at)
    piece = match[0] if match is not None else text[at]
    if piece == "{":
        raise ValueError(rf"expected an interval like {{2,5}} in {shown_expression(text)}; the character itself is \{{")
    if not may_repeat:
        raise ValueError(
            f"{shown_expression(piece)} in {shown_expression(text)} repeats nothing, or what is repeated already; write it "
            "plainly"
        )
    written = f"{{0{piece[1:]}" if piece.startswith("{,") else piece
    return written, at + len(piece)


def _escape(text: str, at: int) -> str:
    char = text[at + 1 : at + 2]
    if char in _GNU:
        return _GNU[char]
    if char == "" or char.isalnum() or char in "<>":
        digits = "; a digit is [0-9]" if char == "d" else ""
        raise ValueError(
            f"{shown_expression(text[at : at + 2])} in {shown_expression(text)} is not what it seems to Squid{digits}"
        )
    return re.escape(char)


def _bracket(text: str, begin: int) -> tuple[str, int]:
    """A bracket expression (regex(7)): `]` at its front is itself, and so is a backslash anywhere."""
    at = begin + 1
    found = "["
    if text[at : at + 1] == "^":
        found, at = "[^", at + 1
    first = at
    while at < len(text) and (text[at] != "]" or at == first):
        match = _CLASS.match(text, at)
        if match is not None:
            if match[1] != ":" or match[2] not in _CLASSES:
                raise ValueError(
                    f"expected a class like [:digit:] in {shown_expression(text)}, got {shown_expression(match[0])}"
                )
            found, at = found + _CLASSES[match[2]], match.end()
        else:
            is_range = text[at] == "-" and at > first and text[at + 1 : at + 2] not in ("", "]")
            found += "-" if is_range else _plain(text[at])
            at += 1
    if at >= len(text):
        raise ValueError(f"expected ] behind [ in {shown_expression(text)}")
    return found + "]", at + 1


def _plain(char: str) -> str:
    return char if char in string.ascii_letters + string.digits + "_./:@%=,;" else re.escape(char)
