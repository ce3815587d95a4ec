"""What keeps a file from being YAML, in words that lead to what is to be changed.

A reader of YAML tells where it got stuck and what it was waiting for, which is seldom where the slip is. What is said here is
read off the lines around that place; where more than one slip may be behind it, the reader's own words follow ours. Both of
PyYAML's readers, libyaml's and the one in pure Python, are understood.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from egressproxy.config.faults import shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    import yaml

TEMPLATE = "{{ }} looks like a template (of Helm, for example); render it first, and give what comes out"
TAB = "a tab cannot indent; use spaces"
_NEVER_CLOSED = "a quote is opened here and never closed"
_NO_PAIR = "expected KEY: VALUE, got a line without a colon and a blank behind it"
_MISFIT = "the indentation does not fit the lines above"

_CONFLICT = re.compile(r"(<{7}|={7}|>{7}|\|{7})(?: |$)")
_SECTION = re.compile(r"\[[\w .:-]+\]\s*$")
_CLINGING = re.compile(r"([A-Za-z_][\w.-]*):(?!//)\S")
_COLON = re.compile(r":(?:\s|$)")
_INDENT = re.compile(r" *(?:- +)*")


def explain(error: yaml.MarkedYAMLError, content: bytes) -> tuple[int, str]:
    """The line, counted from 1, and the words for a syntax error in text that is valid UTF-8."""
    at: Any = error.problem_mark or error.context_mark
    if at is None:
        return 1, f"not YAML: {error.problem}"
    start: Any = error.context_mark or at
    lines = content.decode("utf-8-sig").splitlines() or [""]
    line, words = _Stuck(error, lines, (at.line, at.column), (start.line, start.column)).explained()
    return line + 1, words


class _Stuck:
    """The place where a reader got stuck. Lines and columns are counted from 0.

    at     where it met what it did not expect
    start  where that began which it was reading
    """

    def __init__(
        self, error: yaml.MarkedYAMLError, lines: Sequence[str], at: tuple[int, int], start: tuple[int, int]
    ) -> None:
        self._lines = lines
        self._line, self._column = at
        self._opened, self._opened_column = start
        self._problem, self._context = str(error.problem), str(error.context)
        where = f" {error.context}" if error.context else ""
        self._said = f"not YAML{where}: {error.problem}"
        self._text = self._at(self._line)
        self._character = self._text[self._column : self._column + 1]

    def explained(self) -> tuple[int, str]:
        """The line and the words."""
        sure = self._sure()
        if sure is not None:
            return sure
        likely = self._foreign() or self._likely()
        if likely is None:
            return self._line, self._said
        line, words = likely
        return line, f"{words} ({self._said})"

    # --- what can be nothing else

    def _sure(self) -> tuple[int, str] | None:
        problem, text = self._problem, self._text
        if "scanning an alias" in self._context:
            return self._opened, 'a value that begins with * needs quotes, like "*.example.com"'
        if "tab character that violates" in problem:
            return self._line, TAB
        if "cannot start any token" in problem and "{%" not in text:
            tab = self._character == "\t"
            return self._line, TAB if tab else f"a value that begins with {shown(self._character)} needs quotes"
        if "quoted scalar" in self._context and ("end of stream" in problem or "unexpected document" in problem):
            return self._opened, _NEVER_CLOSED
        if self._bracket and self._is_behind_all():
            return self._opened, f"{self._bracket} is opened here and never closed"
        if "::" in text:
            return self._line, 'a value that begins or ends with :: needs quotes, like "::"'
        if "mapping values are not allowed" in problem and _COLON.search(text, 0, self._column):
            return self._line, "a second colon; quote a value that has a colon in it"
        return None

    @property
    def _bracket(self) -> str:
        """The bracket that something was read in."""
        if "'}'" in self._problem and "mapping" in self._context:
            return "{"
        return "[" if "']'" in self._problem and "sequence" in self._context else ""

    def _is_behind_all(self) -> bool:
        last = len(self._lines) - 1
        return self._line > last or (self._line == last and self._column >= len(self._text))

    # --- marks of merges and templates, which are no YAML wherever they stand

    def _foreign(self) -> tuple[int, str] | None:
        lines = [line for line in (self._opened, self._above(self._line), self._line) if line is not None]
        for line in lines:
            conflict = _CONFLICT.match(self._at(line))
            if conflict is not None:
                return line, f"the conflict marker {conflict[1]} of a merge stands here; keep one side, and no marker"
        for line in lines:
            if "{{" in self._at(line) or "{%" in self._at(line):
                return line, TEMPLATE
        return None

    # --- what is likely

    def _likely(self) -> tuple[int, str] | None:
        problem = self._problem
        if "could not find expected ':'" in problem:
            return self._opened, _without_pair(self._at(self._opened)[self._opened_column :])
        if "mapping values are not allowed" in problem:
            return self._unexpected_pair()
        if "unknown escape character" in problem:
            return self._line, "a backslash in double quotes begins an escape; write it twice, or use single quotes"
        opener = self._late_quote()
        if opener is not None:
            return opener, f"the quote that opens here is closed on line {self._line + 1} only; is one missing?"
        if "<document start>" in problem:
            return self._second_root()
        if self._bracket:
            return self._in_brackets()
        if "expected key" in problem or "'-' indicator" in problem or "<block end>" in problem:
            return self._in_block()
        return None

    def _unexpected_pair(self) -> tuple[int, str]:
        """The first colon of a line stands where none may: the line goes on with what is above it."""
        above = self._above(self._line)
        if above is None or _COLON.search(self._at(above)) or self._indent(above) != self._indent(self._line):
            return self._line, _MISFIT
        first = above
        while (over := self._above(first)) is not None and self._indent(over) == self._indent(first):
            if _COLON.search(self._at(over)) or self._at(first).lstrip().startswith("- "):
                break
            first = over
        begins = over is None or _COLON.search(self._at(over).rstrip() + " ", max(len(self._at(over).rstrip()) - 1, 0))
        dashed = self._at(first).lstrip().startswith("- ")
        body = self._at(first)[self._indent(first) :]
        if (begins and not dashed) or _CLINGING.match(body):
            return first, _without_pair(body)
        return self._line, _MISFIT

    def _second_root(self) -> tuple[int, str]:
        """Something stands behind a whole value, which the first line is or begins."""
        first = self._first_of_document()
        if _SECTION.match(self._at(first)):
            return first, "a section in brackets, as in an ini file; expected YAML, KEY: VALUE on each line"
        if self._indent(first) > self._indent(self._line):
            return self._line, _MISFIT
        return self._line, f"does not belong to what stands before it, which begins on line {first + 1} and is whole"

    def _in_brackets(self) -> tuple[int, str]:
        """Neither a comma nor the closing bracket came."""
        bracket = self._bracket
        closing = "}" if bracket == "{" else "]"
        if self._character in ("]", "}"):
            return self._line, f"expected {closing} for the {bracket} of line {self._opened + 1}, got {self._character}"
        if self._opened < self._line and self._indent(self._line) <= self._indent(self._opened):
            return self._opened, f"{bracket} is opened here and not closed before line {self._line + 1}"
        return self._line, f"expected a comma, or {closing} for the {bracket} of line {self._opened + 1}"

    def _in_block(self) -> tuple[int, str] | None:
        """Neither an entry nor the end of a mapping or list that is written in lines."""
        if self._character in ("]", "}"):
            return self._line, f"{self._character} closes what was never opened"
        if self._character == ":":
            return None
        before = self._text[: self._column]
        if before.strip(" -"):
            if before.rstrip()[-1:] in ("'", '"'):
                return self._line, "text behind a closing quote; inside double quotes write \\\", inside single ones ''"
            return None
        opened = self._at(self._opened)[self._opened_column :]
        if re.match(r"-[^\s-]", opened):
            return self._opened, "a blank belongs behind the -"
        return self._line, f"{_MISFIT}; what is open there begins on line {self._opened + 1}"

    def _late_quote(self) -> int | None:
        """The line of the quote that is closed right before the place, if it is another line."""
        before = self._text[: self._column]
        quote = before[-1:]
        if quote not in ("'", '"') or quote in before[:-1]:
            return None
        line = next((line for line in range(self._line - 1, -1, -1) if quote in self._at(line)), None)
        opens = line is not None and re.search(rf"(?:^|[\s\[{{,]){quote}[^{quote}]*$", self._at(line))
        return line if opens else None

    # --- lines

    def _at(self, line: int) -> str:
        return self._lines[line] if line < len(self._lines) else ""

    def _above(self, line: int) -> int | None:
        """The next line above that says something."""
        for other in range(min(line, len(self._lines)) - 1, -1, -1):
            text = self._lines[other].strip()
            if text and not text.startswith("#"):
                return None if text == "---" else other
        return None

    def _first_of_document(self) -> int:
        first = self._line
        while (above := self._above(first)) is not None:
            first = above
        return first

    def _indent(self, line: int) -> int:
        """Where the text of a line begins, behind the dashes of lists."""
        match = _INDENT.match(self._at(line))
        return match.end() if match is not None else 0


def _without_pair(text: str) -> str:
    """The words for a line that should hold a key and has none."""
    if (clinging := _CLINGING.match(text)) is not None:
        return f"a blank belongs behind the colon of {shown(clinging[1])}"
    if re.fullmatch(r"-{2,}\s*", text):
        return "three hyphens and nothing else part two documents"
    if re.match(r"-[^\s-]", text):
        return "a blank belongs behind the -"
    return _NO_PAIR
