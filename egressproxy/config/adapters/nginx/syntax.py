"""The text of an nginx.conf: words, statements, blocks, includes.

As NGINX reads it: a statement is words up to `;` or a block in braces; words are parted by blanks and line ends, and may stand
in quotes of either kind; a backslash takes the next character's meaning away; `#` begins a comment where a word could begin.
What NGINX would not start with is refused, with the line. `include` is followed here: nobody behind this module sees it.
"""

from __future__ import annotations

import posixpath
import re
from typing import TYPE_CHECKING, NamedTuple

from egressproxy.config.adapters.adapter import FileUnreadable
from egressproxy.config.faults import MAX_FAULTS, STRANGE_CHARACTERS, Fault, shown
from egressproxy.config.native import byte_order_mark, mark, not_text, unmark

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from egressproxy.config.adapters.adapter import Files, Source

MAX_WORD = 4096
"""Characters of one word. NGINX's buffer, which bounds them there, has as many bytes."""

MAX_DEPTH = 16
"""Blocks in blocks. NGINX's own have four."""

MAX_INCLUDES = 8
"""Files that include each other, one in the other."""

MAX_FILES = 1000
"""Files of one configuration."""

MAX_BYTES = 64 * 1024 * 1024
"""Bytes of all of them together."""


class Directive(NamedTuple):
    """One statement.

    words   behind its name
    mark    where its name stands
    block   the statements in its braces; None: it ends with `;`
    breaks  the positions of those words that begin a line
    """

    name: str
    words: tuple[str, ...]
    mark: int
    block: tuple[Directive, ...] | None
    breaks: tuple[int, ...] = ()


class Findings:
    """What is found in the files of one translation.

    lenient  what this proxy lacks is noted and left out, unless it is about security
    """

    def __init__(self, lenient: bool) -> None:
        self.lenient = lenient
        self.faults: list[Fault] = []
        self.notes: list[Fault] = []
        self._names: dict[int, str] = {}
        self._told: set[Fault] = set()

    def name_source(self, source: Source) -> None:
        """From now on the file may be spoken of."""
        self._names[source.number] = source.name

    def fault(self, at: Directive, message: str) -> None:
        """It is wrong, or cannot be done."""
        self._tell(self.faults, Fault(at.mark, (at.name,), message))

    def note(self, at: Directive, message: str) -> None:
        """It has another meaning here, or none."""
        self._tell(self.notes, Fault(at.mark, (at.name,), message))

    def lacking(self, at: Directive, message: str) -> None:
        """It cannot be done, and who asks for leniency does without."""
        if self.lenient:
            self.note(at, f"left out: {message}")
        else:
            self.fault(at, f"{message}; take it out, or leave it out with --lenient")

    def _tell(self, told: list[Fault], fault: Fault) -> None:
        """Once: what stands in the stream is met again for every server."""
        if fault not in self._told and len(told) < MAX_FAULTS:
            self._told.add(fault)
            told.append(fault)

    def place(self, of: Directive, seen_from: Directive) -> str:
        """Where a directive stands, in words, for a message about another one."""
        (source, line), (here, _) = unmark(of.mark), unmark(seen_from.mark)
        return f"on line {line}" if source == here else f"in {self._names.get(source, '?')}:{line}"


class _Broken(Exception):
    """The text cannot be read any further."""

    def __init__(self, place: int, message: str) -> None:
        super().__init__(message)
        self.place = place
        self.message = message


def read(source: Source, files: Files, findings: Findings) -> tuple[Directive, ...] | None:
    """The statements of one nginx.conf and of all that it includes; None where they cannot be read, which is a fault."""
    try:
        return tuple(_Reader(files, posixpath.dirname(source.name), findings).statements(source, 0))
    except _Broken as broken:
        findings.faults.append(Fault(broken.place, (), broken.message))
        return None


class _Reader:
    """Reads one main file and what it includes; `folder` is that of the main file, from which all relative names start."""

    def __init__(self, files: Files, folder: str, findings: Findings) -> None:
        self._files = files
        self._folder = folder
        self._findings = findings
        self._count = 0
        self._bytes = 0

    def statements(self, source: Source, depth: int) -> list[Directive]:
        """All of one file, includes among them. Raises _Broken."""
        self._findings.name_source(source)
        self._bytes += len(source.content)
        if self._bytes > MAX_BYTES:
            raise _Broken(mark(source.number, 1), f"expected at most {MAX_BYTES} bytes in all files together")
        found: list[Directive] = []
        open_blocks: list[tuple[Directive, list[Directive]]] = []
        words: list[str] = []
        breaks: list[int] = []
        first = line = last = 0
        for line, word, sign in _words(source):
            if word is not None:
                if first and line > last:
                    breaks.append(len(words) - 1)
                first, last = first or line, line
                words.append(word)
                continue
            place = mark(source.number, line)
            if sign == "}":
                if words or not open_blocks:
                    raise _Broken(place, f'unexpected "}}"{missing_end(words)}')
                opener, outer = open_blocks.pop()
                outer.append(opener._replace(block=tuple(found)))
                found = outer
                continue
            if not words:
                raise _Broken(place, f'unexpected "{sign}": no directive stands before it')
            statement = Directive(words[0], tuple(words[1:]), mark(source.number, first), None, tuple(breaks))
            words, breaks, first = [], [], 0
            if sign == "{":
                if len(open_blocks) == MAX_DEPTH:
                    raise _Broken(place, f"expected at most {MAX_DEPTH} blocks in each other")
                open_blocks.append((statement, found))
                found = []
            elif statement.name == "include":
                found += self._included(statement, depth)
            else:
                found.append(statement)
        if words:
            raise _Broken(mark(source.number, first), f"the file ends within this directive{missing_end(words)}")
        if open_blocks:
            opener = open_blocks[-1][0]
            raise _Broken(opener.mark, f'the block of {shown(opener.name)} is opened here and never closed with "}}"')
        return found

    def _included(self, statement: Directive, depth: int) -> list[Directive]:
        if len(statement.words) != 1 or not statement.words[0]:
            raise _Broken(statement.mark, f"include takes one file name or pattern, got {len(statement.words)} words")
        if depth == MAX_INCLUDES:
            raise _Broken(statement.mark, f"expected at most {MAX_INCLUDES} files that include each other")
        name = posixpath.join(self._folder, statement.words[0])
        names = [name]
        if any(character in name for character in "*?["):
            names = list(self._files.matching(name))
            if not names:
                self._findings.note(statement, f"no file matches {shown(name)}")
        found: list[Directive] = []
        for each in names:
            self._count += 1
            if self._count > MAX_FILES:
                raise _Broken(statement.mark, f"expected at most {MAX_FILES} included files")
            try:
                source = self._files.read(each)
            except FileUnreadable as error:
                raise _Broken(statement.mark, f"include {shown(each)}: {error}") from None
            found += self.statements(source, depth + 1)
        return found


def missing_end(words: Sequence[str]) -> str:
    """The end of a message about what goes on behind these words."""
    return f'; is a ";" missing behind {shown(" ".join(words[-2:]), STRANGE_CHARACTERS)}?' if words else ""


# --- words --------------------------------------------------------------------------------------------------------

_WORD = re.compile(
    r"""
    (?P<blank>   [ \t\r\n]+ | \#[^\n]* )
  | (?P<sign>    [;{}] )
  | (?P<quoted>  "(?:[^"\\]|\\[\s\S])*" | '(?:[^'\\]|\\[\s\S])*' )
  | (?P<plain>   (?!["']) (?: \$\{ | \\[\s\S] | [^ \t\r\n;{\\] )+ )
    """,
    re.VERBOSE,
)
_ESCAPE = re.compile(r"""\\(["'\\trn])""")
_ESCAPED = {"t": "\t", "r": "\r", "n": "\n"}
_BEHIND_QUOTES = frozenset(" \t\r\n;{)")


def _words(source: Source) -> Iterator[tuple[int, str | None, str]]:
    """Line, and a word or one of the signs `;`, `{`, `}`. Raises _Broken."""
    text = _text(source)
    at, line = 0, 1
    while at < len(text):
        match = _WORD.match(text, at)
        if match is None:
            what = (
                "a quote is opened here and never closed" if text[at] in "\"'" else "the file ends behind a backslash"
            )
            raise _Broken(mark(source.number, line), what)
        piece, at = match.group(), match.end()
        kind = match.lastgroup
        if kind == "sign":
            yield line, None, piece
        elif kind != "blank":
            if len(piece) > MAX_WORD:
                message = f"expected words of at most {MAX_WORD} characters, got {shown(piece)}; is a quote missing?"
                raise _Broken(mark(source.number, line), message)
            if kind == "quoted":
                if at < len(text) and text[at] not in _BEHIND_QUOTES:
                    last = line + piece.count("\n")
                    message = f"unexpected {shown(text[at])} right behind a quote; expected a blank or a ;"
                    raise _Broken(mark(source.number, last), message)
                piece = piece[1:-1]
            yield line, _ESCAPE.sub(lambda escape: _ESCAPED.get(escape[1], escape[1]), piece), ""
        line += match.group().count("\n")


def _text(source: Source) -> str:
    fault = not_text(source.content, source.number) or byte_order_mark(source.content, source.number)
    if fault is not None:
        raise _Broken(fault.mark, fault.message)
    return source.content.decode()
