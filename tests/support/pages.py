"""Pages in Markdown as tests read them: fenced blocks with the marks in front of them, links, and headings.

A mark is a comment on the line above a block, which readers do not see:

    run                 for bash; must end with 0
    run: exit N         must end with N
    run: until          again and again, until it prints the block marked `output` behind it
    serve: PORT         for bash; stays, and is there when the port is listened on; replaces what was served there
    output              what the block before it prints; `...` stands for any text, on a line of its own for any lines
    output: shape       the same, any number or month standing for any other, but for status codes
    file: NAME          is written to this file, which `egressproxy check` must pass
    part: NAME          is written to this file, which means something only beside others
    check               a configuration that `egressproxy check` must pass by itself
    not run: WHY        for what no test can do
    needs: PROGRAMS     at the top of a page, in front of no block: what its commands need
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

_FENCE = re.compile(r"^```(?P<language>\S*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_MARK = re.compile(r"<!-- (?P<kind>run|serve|output|file|part|check|not run)(?:: (?P<rest>[^\n]*?))? -->\n\Z")
_NEEDS = re.compile(r"^<!-- needs: (.*?) -->$", re.MULTILINE)
_LINK = re.compile(r"\[[^\]\[]*(?:\[[^\]]*\][^\]\[]*)?\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)
_NUMBER = re.compile(r"\d+|(?<=/)[A-Z][a-z]{2}(?=/)")
_STATUS = re.compile(r"(?<=[/\]:])\d{3}\b|(?<=HTTP/1.1\" )\d{3}\b")


class Block(NamedTuple):
    """A fenced block. `kind` is empty where there is no mark."""

    line: int
    language: str
    kind: str
    rest: str
    text: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.text}"


class Page:
    """One file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.text = path.read_text()
        needs = _NEEDS.search(self.text)
        self.needs = tuple(needs[1].split(", ")) if needs else ()
        self.blocks: list[Block] = []
        for found in _FENCE.finditer(self.text):
            line = self.text.count("\n", 0, found.start()) + 1
            mark = _MARK.search(self.text, 0, found.start())
            kind, rest = (mark["kind"], mark["rest"] or "") if mark else ("", "")
            self.blocks.append(Block(line, found["language"], kind, rest, found["text"]))

    @property
    def prose(self) -> str:
        """Without its fenced blocks."""
        return _FENCE.sub("", self.text)

    @property
    def links(self) -> list[str]:
        """Where its links lead."""
        return _LINK.findall(re.sub(r"`[^`\n]*`", "", self.prose))

    @property
    def anchors(self) -> set[str]:
        """Of its headings, as GitHub makes them."""
        found: set[str] = set()
        for heading in _HEADING.findall(self.prose):
            words = re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower()).replace(" ", "-")
            anchor, number = words, 0
            while anchor in found:
                number += 1
                anchor = f"{words}-{number}"
            found.add(anchor)
        return found

    def expected(self, block: Block) -> Block | None:
        """What a block prints, where the page says so."""
        behind = self.blocks[self.blocks.index(block) + 1 :]
        return behind[0] if behind and behind[0].kind == "output" else None


def prints(block: Block, printed: str) -> bool:
    """Whether that is what the block, which is marked `output`, says."""
    shape = block.rest == "shape"
    lines = [_line(line, shape) for line in block.text.splitlines()]
    pattern = "".join(r"(?:.*\n)*?" if line is None else f"{line} *\n" for line in lines)
    printed = printed.replace("\r\n", "\n")
    if printed and not printed.endswith("\n"):
        printed += "\n"
    return re.fullmatch(pattern, printed) is not None


def _line(line: str, shape: bool) -> str | None:
    """As an expression; None for any lines."""
    if line.strip() == "...":
        return None
    return ".*?".join(_shaped(part) if shape else re.escape(part) for part in line.rstrip().split("..."))


def _shaped(text: str) -> str:
    kept = {match.start() for match in _STATUS.finditer(text)}
    pattern, end = "", 0
    for number in _NUMBER.finditer(text):
        pattern += _blanks(text[end : number.start()])
        pattern += number[0] if number.start() in kept else r"\w+"
        end = number.end()
    return pattern + _blanks(text[end:])


def _blanks(text: str) -> str:
    """Any number of blanks for several: columns move with the numbers in them."""
    return re.sub(r"(?:\\ ){2,}", " +", re.escape(text))
