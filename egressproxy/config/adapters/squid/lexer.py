"""The text of a squid.conf: bytes into statements, words and the values that an `acl` line reads from files.

Squid's own reader is the measure (`src/cache_cf.cc` and `src/ConfigParser.cc` of Squid 5): a line that begins with `#` is no
line, even between a line and its continuation; `#` at the front of a word ends the statement; a backslash ends a line that
goes on in the next; quotes mean something only around the name of a file. What two versions of Squid read in two ways is
refused. Comments may be in any encoding, and nothing else in another than UTF-8.
"""

from __future__ import annotations

import posixpath
import re
from typing import TYPE_CHECKING, NamedTuple

from egressproxy.config.adapters.adapter import FileUnreadable
from egressproxy.config.faults import MAX_FAULTS, Fault, shown
from egressproxy.config.native import byte_order_mark, mark, not_text, old_line_ends

if TYPE_CHECKING:
    from collections.abc import Iterator

    from egressproxy.config.adapters.adapter import Files, Source

MAX_LINE = 8190
"""Characters of one line: Squid reads a longer one as two (BUFSIZ of glibc, less the line end and the NUL)."""

MAX_VALUE_LINE = 2046
"""The same in a file of values (CONFIG_LINE_LIMIT of Squid 5)."""

MAX_DEPTH = 16
"""How deep files may include each other, as in Squid."""

MAX_INCLUDED = 1000
"""Files of one configuration. Squid has no bound; two files that each include both are 65,536 at its depth."""

_BLANKS = " \t"
_BLANK = re.compile(r"[ \t]+")
_WORD = re.compile(
    r"[^ \t]+"
)  # what else Unicode calls a blank, and a form feed, is a character like any other to Squid


_STRANGE = re.compile("[\udc80-\udcff]")
"""A byte that is no UTF-8, as `surrogateescape` keeps it."""
_COMMENT = re.compile(r"(?:^|(?<!\\)[ \t])#")
_BACKSLASH_AND_BLANK = re.compile(r"\\[ \t]+$")
_BLANK_BEHIND = "has a blank behind the backslash at the end of the line, so the line ends there; leave the blank out"
_WITHOUT_COMMENTS = frozenset({"if", "include", "logformat"})
"""Directives to which a `#` is a character like any other."""


class Statement(NamedTuple):
    """One directive with what stands behind it, continuation lines joined.

    mark    of its first line
    line    the number of that line
    source  the file it stands in
    name    of the directive
    rest    the text behind the name, without blanks around it
    """

    mark: int
    line: int
    source: Source
    name: str
    rest: str

    def fault(self, message: str) -> Fault:
        """What is wrong with it, or worth a note."""
        return Fault(self.mark, (self.name,), message)

    @property
    def words(self) -> list[str]:
        """What stands behind its name, word by word, up to a comment."""
        return words_of(self.rest)


class Value(NamedTuple):
    """One value of an `acl` line, with the mark of where it stands: there, or in a file."""

    mark: int
    text: str


def cut(text: str, pieces: int) -> list[str]:
    """The first words, and as the last piece all that stands behind them; empty where there is none."""
    found = _BLANK.split(text.strip(_BLANKS), maxsplit=pieces - 1)
    return found + [""] * (pieces - len(found))


def words_of(text: str) -> list[str]:
    """Words up to the first that begins with `#`."""
    found = []
    for word in _WORD.findall(text):
        if word[0] == "#":
            break
        found.append(word)
    return found


_PATTERN = re.compile(r"(?:\\.|[^\\ \t])+|\\$")


def patterns_of(text: str) -> list[str]:
    r"""The same for regular expressions, in which `\` keeps a blank from ending the word."""
    found = []
    for word in _PATTERN.findall(text):
        if word[0] == "#":
            break
        found.append(word)
    return found


class Lexer:
    """Reads one squid.conf and what it includes. What is wrong goes to `faults`."""

    def __init__(self, files: Files, faults: list[Fault]) -> None:
        self._files = files
        self._faults = faults
        self._included = 0
        self.is_whole = True
        """False once a file could not be read, so that what seems to be missing may stand there."""

    def statements(self, source: Source, around: tuple[str, ...] = ()) -> Iterator[Statement]:
        """All statements in order, those of included files in their place.

        around  the files that include this one, from the outermost on
        """
        files = (*around, self._files.real_name(source.name))
        conditions: list[tuple[int, bool]] = []
        for statement in self._own_statements(source):
            if statement.name in ("if", "else", "endif"):
                self._branch(statement, conditions)
            elif not all(holds for _, holds in conditions):
                continue
            elif statement.name == "include":
                for included in self._included_by(statement, files):
                    yield from self.statements(included, files)
            else:
                yield statement
        self._faults += [Fault(place, ("if",), "has no endif in this file") for place, _ in conditions]

    def _own_statements(self, source: Source) -> Iterator[Statement]:
        """Those of one file, less comments that are no UTF-8. None where anything else is none."""
        lines = self._lines(source, MAX_LINE)
        if source.content.isascii() or not any(map(_STRANGE.search, lines)):
            yield from _joined(source, lines, self._faults)
            return
        for statement in map(_without_strange_comment, _joined(source, lines, [])):
            text = f"{statement.name} {statement.rest}"
            if _STRANGE.search(text):
                numbers = (
                    number
                    for number, line in enumerate(lines, 1)
                    if number >= statement.line and _STRANGE.search(line) and line.lstrip(_BLANKS)[0] != "#"
                )
                self._refuse_as_no_text(mark(source.number, next(numbers)), text)
                return
        yield from map(_without_strange_comment, _joined(source, lines, self._faults))

    def _lines(self, source: Source, longest: int) -> list[str]:
        """Lines without their ends; bytes that are no UTF-8 are `_STRANGE`. None where the file cannot be text."""
        content, number = source.content, source.number
        ends = not_text(content, number) if b"\0" in content else old_line_ends(content, number)
        fault = ends or byte_order_mark(content, number)
        if fault is not None:
            self._faults.append(fault)
            self.is_whole = False
            return []
        text = source.content.decode(errors="surrogateescape")
        lines = [line.partition("\r")[0] for line in text.split("\n")]
        for number, text in enumerate(lines, 1):
            if len(text) > longest:
                message = f"expected at most {longest} characters in a line, got {len(text)}; Squid reads it as two"
                self._faults.append(Fault(mark(source.number, number), (), message))
                self.is_whole = False
                return []
        return lines

    def _refuse_as_no_text(self, place: int, text: str) -> None:
        found = _STRANGE.search(text)
        assert found is not None
        message = (
            f"expected text in UTF-8, got the byte 0x{found[0].encode(errors='surrogateescape').hex()}; where the file is in "
            "Latin-1, convert it: iconv -f latin1 -t utf-8"
        )
        self._faults.append(Fault(place, (), message))
        self.is_whole = False

    # --- if and include

    def _branch(self, statement: Statement, conditions: list[tuple[int, bool]]) -> None:
        if statement.name == "if":
            conditions.append((statement.mark, self._holds(statement)))
        elif not conditions:
            self._faults.append(statement.fault("has no if before it in this file"))
        elif statement.name == "else":
            place, holds = conditions.pop()
            conditions.append((place, not holds))
        else:
            conditions.pop()

    def _holds(self, statement: Statement) -> bool:
        text = statement.rest
        if text in ("true", "false"):
            return text == "true"
        match = re.fullmatch(r"([0-9]+)[ \t]*=[ \t]*([0-9]+)", text)
        if match is not None:
            return int(match[1]) == int(match[2])
        self._faults.append(statement.fault(f"expected true, false or N = M, got {shown(text)}"))
        return False

    def _included_by(self, statement: Statement, files: tuple[str, ...]) -> Iterator[Source]:
        patterns = [word.strip("\"'") for word in re.findall(r'"[^"]*"|[^ \t]+', statement.rest)]
        if not patterns:
            self._faults.append(statement.fault("expected the name of a file"))
        if len(files) > MAX_DEPTH:
            self._faults.append(statement.fault(f"expected files at most {MAX_DEPTH} deep in each other"))
            return
        for pattern in patterns:
            if pattern[:1] in ("!", "|"):
                self._faults.append(statement.fault("is the output of a program, which is never run; include a file"))
                continue
            names = self._files.matching(_beside(statement.source, pattern))
            if not names:
                self.is_whole = False
                self._faults.append(statement.fault(f"no file matches {shown(pattern)}"))
            for name in names:
                real_name = self._files.real_name(name)
                if real_name in files:
                    what = "is this very file" if real_name == files[-1] else "includes this file in turn"
                    self._faults.append(statement.fault(f"{shown(name)} {what}, so it would have no end; leave it out"))
                    continue
                self._included += 1
                if self._included > MAX_INCLUDED:
                    self._faults.append(statement.fault(f"expected at most {MAX_INCLUDED} files in all"))
                    return
                source = self._read(name, statement)
                if source is not None:
                    yield source
                else:
                    self.is_whole = False

    def _read(self, name: str, statement: Statement, advice: str = "") -> Source | None:
        try:
            return self._files.read(name)
        except FileUnreadable as error:
            self._faults.append(statement.fault(f"{shown(name)} {error}{advice}"))
            return None

    # --- values

    def values(self, statement: Statement, words: list[str]) -> list[Value]:
        """Values of an `acl` line, with those of the files that it names in quotes: one a line."""
        found = []
        for index, word in enumerate(words):
            if word[0] not in "\"'":
                found.append(Value(statement.mark, word))
                continue
            name, *closed = re.split("[\"']", word[1:], maxsplit=1)
            if name == "":
                what = (
                    "has two quotes with nothing in them" if closed else "has a quote that is opened and never closed"
                )
                self._faults.append(statement.fault(f"{what}; expected the name of a file in quotes"))
                break
            if index + 1 < len(words):
                self._faults.append(
                    statement.fault(
                        f"has values behind the file {shown(name)}, which Squid reads from version 6 on and ignores "
                        "before; give them a line of their own"
                    )
                )
            advice = "" if closed else "; the quote before it is never closed"
            source = self._read(_beside(statement.source, name), statement, advice)
            if source is not None:
                found += self._values_in(source)
            break
        return found

    def _values_in(self, source: Source) -> list[Value]:
        found = []
        for number, line in enumerate(self._lines(source, MAX_VALUE_LINE), 1):
            text = re.split(r"(?:^|[ \t]+)#", line.strip(_BLANKS), maxsplit=1)[0]
            if not text.isascii() and _STRANGE.search(text):
                self._refuse_as_no_text(mark(source.number, number), text)
                return []
            if text:
                found.append(Value(mark(source.number, number), text))
        return found


def _joined(source: Source, lines: list[str], faults: list[Fault]) -> Iterator[Statement]:
    """Statements, each made of the lines that it goes on in."""
    text, first = "", 0
    for number, raw in enumerate(lines, 1):
        line = raw.lstrip(_BLANKS)
        if line == "" or line[0] == "#":
            continue
        first = first if text else number
        text += line
        if _BACKSLASH_AND_BLANK.search(line) and not _COMMENT.search(line) and len(faults) < MAX_FAULTS:
            faults.append(Fault(mark(source.number, number), (cut(text, 2)[0],), _BLANK_BEHIND))
            goes_on = lines[number : number + 1] and lines[number][:1] in (" ", "\t")  # as it was meant
            text = text.rstrip(_BLANKS)
            text = text if goes_on else f"{text[:-1]} "
        if text[-1] == "\\":
            text = text[:-1]
            continue
        if text != " ":
            yield _statement(source, first, text)
        text = ""
    if text:
        faults.append(
            Fault(mark(source.number, first), (), "goes on in a next line that never comes; leave out the backslash")
        )


def _without_strange_comment(statement: Statement) -> Statement:
    """Without its comment where that is not all UTF-8."""
    comment = None if statement.name in _WITHOUT_COMMENTS else _COMMENT.search(statement.rest)
    if comment is None or not _STRANGE.search(statement.rest, comment.start()):
        return statement
    return statement._replace(rest=statement.rest[: comment.start()])


def _statement(source: Source, line: int, text: str) -> Statement:
    name, rest = cut(text, 2)
    return Statement(mark(source.number, line), line, source, name, rest)


def _beside(source: Source, name: str) -> str:
    """A relative name starts from the folder of the file that it stands in."""
    return posixpath.join(posixpath.dirname(source.name), name)
