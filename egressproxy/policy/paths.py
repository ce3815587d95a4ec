"""Paths of plain requests: what a path may mean to the server that gets it, and which rules it falls under.

A path is sent on as the client wrote it, and servers do not agree on what it says. `/public/..%2fadmin` is a file in
`/public/` for one and `/admin` for the next. So a path has *readings*, one or several:

- Always the one of RFC 3986: encoded letters, digits and `-._~` are decoded (section 6.2.2.2), `.` and `..` taken out of it
  (section 5.2.4), hexadecimal digits in capitals. Most paths have no other.
- Where it holds anything that servers are known to take differently, all that comes of it by these steps, in any order
  and number: decode what is encoded; take backslashes for slashes; take several slashes for one; drop what stands behind
  `;` in a segment; end it at NUL, a line end, `?` or `#`; take `.` and `..` out.

A rule that allows matches where *every* reading matches, one that denies where *any* does. So no way of writing a path
comes to more than its plain readings, all of them. What has too many readings to go through, or bytes that only a broken
decoder reads, is *unreadable*: every denying rule with paths takes it, and of the allowing ones that with `/*`.

Letter case counts. What a server does beyond this (ignoring case or the end of a name, its own aliases and rewrites) is
not known here: rules that allow paths are safer than rules that deny them.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

ANY_PATH = "/*"

# Bounds on what a hostile path may cost, some milliseconds. Those seen in attacks have a few readings.
_MAX_READINGS = 16
_MAX_READ = 32_768  # characters in all readings

# Requests for one path come in a row, and several rules ask for its readings. At most 2 MiB.
_CACHE = 64

_PLAIN_CHARACTERS = r"-A-Za-z0-9._~!$&'()*+,:=@"  # RFC 3986 section 3.3, less `%` and `;`
_PLAIN = re.compile(rf"(?:/(?!\.\.?(?:/|\Z))[{_PLAIN_CHARACTERS}]+)*/?")
_SENT = re.compile(r"/[\x21-\x7e]*")

# A triple, or a character that is not written as itself. A lone `%` is one, and stands for itself.
_TO_ENCODE = re.compile(rf"%[0-9A-Fa-f]{{2}}|[^{_PLAIN_CHARACTERS};/?#]")
_TO_ENCODE_BUT_DOTS = re.compile(rf"%(?!2[Ee])[0-9A-Fa-f]{{2}}|(?!%2[Ee])[^{_PLAIN_CHARACTERS};/?#]")
_TRIPLE = re.compile(r"%([0-9A-F]{2})")
_UNRESERVED = re.compile(r"[A-Za-z0-9._~-]")  # RFC 3986 section 2.3

# What makes a path ambiguous, once it is encoded in the one way of `_encoded`: encoded text that has a meaning when decoded
# (an encoded quote, blank or letter of another script has none), or text that not all servers give the same meaning.
_AMBIGUOUS = re.compile(r"//|[;?#]|%(?:00|0A|0D|2[1346-9A-F]|3[ABDF]|40|5C|25[0-9A-Fa-fUu]{2})")
_DOT_SEGMENT = re.compile(r"/\.\.?(?:/|\Z)")
_ENCODED_DOT = re.compile(r"%2[Ee]")
# UTF-8 in more bytes than it takes (RFC 3629 section 3) was a slash or a dot to old decoders, and %uXXXX is to some.
_MISREAD = re.compile(r"%C[01]%[89AB]|%E0%[89]|%F0%8|%25[Uu][0-9A-Fa-f]{4}")

_PARAMETERS = re.compile(r";[^/]*")
_SLASHES = re.compile(r"//+")
_END = re.compile(r"%0[0AD]|[?#]")


@lru_cache(_CACHE)
def readings_of(path: str) -> tuple[str, ...]:
    """What a server may take the path of a request for, without repetition; none where it is unreadable. Never raises.

    The first one is that of RFC 3986. All are written with encoded text where RFC 3986 asks for it.
    """
    if not path:
        return ("/",)
    if _PLAIN.fullmatch(path) is not None:
        return (path,)
    if _SENT.fullmatch(path) is None:
        return ()
    plain = _encoded(path)
    dots_are_encoded = _ENCODED_DOT.search(path) is not None and _DOT_SEGMENT.search(plain) is not None
    if _AMBIGUOUS.search(plain) is None and not dots_are_encoded:
        return () if _MISREAD.search(plain) else (_without_dot_segments(plain),)
    # A dictionary, as a set that keeps its order.
    found = dict.fromkeys((_without_dot_segments(plain), plain))
    if dots_are_encoded:
        found[_TO_ENCODE_BUT_DOTS.sub(_encode, path).replace("%2e", "%2E")] = None
    waiting = list(found)
    length = sum(map(len, waiting))
    while waiting:
        reading = waiting.pop()
        if _MISREAD.search(reading):
            return ()
        for other in _steps(reading):
            if other not in found:
                found[other] = None
                waiting.append(other)
                length += len(other)
                if len(found) > _MAX_READINGS or length > _MAX_READ:
                    return ()
    return tuple(found)


def _steps(text: str) -> Iterator[str]:
    """What one more step of a server makes of it."""
    if "%" in text:
        yield _encoded(_TRIPLE.sub(_decode, text))
        yield text.replace("%5C", "/")
    if ";" in text:
        yield _PARAMETERS.sub("", text)
    yield _SLASHES.sub("/", text)
    yield _END.split(text, 1)[0]
    if "/." in text:
        yield _without_dot_segments(text)


def _encoded(text: str) -> str:
    """Equal texts in one spelling: unreserved characters as they are, others that need it as triples in capitals."""
    return _TO_ENCODE.sub(_encode, text)


def _encode(found: re.Match[str]) -> str:
    text = found[0]
    if len(text) == 1:
        return f"%{ord(text):02X}"
    character = chr(int(text[1:], 16))
    return character if _UNRESERVED.fullmatch(character) else text.upper()


def _decode(found: re.Match[str]) -> str:
    return chr(int(found[1], 16))


def _without_dot_segments(path: str) -> str:
    """RFC 3986 section 5.2.4. An empty segment is a segment: `/a//..` is `/a/`."""
    if "/." not in path:
        return path
    kept: list[str] = []
    segments = path.split("/")[1:]
    for segment in segments:
        if segment == "..":
            if kept:
                kept.pop()
        elif segment != ".":
            kept.append(segment)
    if segments[-1] in (".", ".."):
        kept.append("")
    return "/" + "/".join(kept)


# --- patterns -----------------------------------------------------------------------------------------------------


def parse_path_pattern(text: str) -> str:
    """The pattern in the spelling that readings have. Raises ValueError.

    `/exact/path` is that path; `/below/*` is `/below/` and all that begins with it, not `/below`; `/*` is any path.
    """
    got = ascii(text if len(text) <= 80 else f"{text[:77]}...")
    if text.startswith(("http://", "https://")):
        raise ValueError(f"expected a path like /api/*, got the URL {got}; its host belongs in hosts")
    if not text.startswith("/"):
        raise ValueError(f"expected a path like /api/*, got {got}")
    below = text.endswith("/*")
    path = text[:-1] if below else text
    if "*" in path:
        raise ValueError(f"expected * only behind the last slash, as in /api/*, got {got}")
    if "?" in path or "#" in path:
        raise ValueError(f"expected a path without a query, which rules do not see, got {got}")
    if _SENT.fullmatch(path) is None:
        raise ValueError(f"expected a path in ASCII, other characters percent-encoded, got {got}")
    readings = readings_of(path)
    if len(readings) != 1:
        raise ValueError(f"expected a path that all servers read alike, got {got}")
    if _DOT_SEGMENT.search(_encoded(path)):
        raise ValueError(f"expected a path without . and .. segments, got {got}; did you mean {readings[0]}?")
    return readings[0] + "*" if below else readings[0]


class PathSet:
    """The paths of one rule, to be asked with `in`. The time that takes does not grow with their number.

    patterns  as `parse_path_pattern` made them
    denies    the rule refuses what it matches: one reading is enough
    """

    __slots__ = ("_any", "_denies", "_depth", "_exact", "_prefixes", "patterns")

    def __init__(self, patterns: Iterable[str], denies: bool) -> None:
        """Of at least one pattern."""
        self.patterns = tuple(dict.fromkeys(patterns))
        self._denies = denies
        self._any = ANY_PATH in self.patterns
        self._exact = frozenset(pattern for pattern in self.patterns if not pattern.endswith("/*"))
        self._prefixes = frozenset(pattern[:-1] for pattern in self.patterns if pattern.endswith("/*"))
        self._depth = max((prefix.count("/") for prefix in self._prefixes), default=0)

    def __contains__(self, path: str | None) -> bool:
        """Whether the rule is for a request with this path as sent. None (a tunnel) and `*` (of the server) are no paths."""
        if path is None or path == "*":
            return False
        if self._any:
            return True
        readings = readings_of(path)
        if len(readings) == 1:  # as most have: `any` and `all` cost as much as the rest
            return self.has(readings[0])
        if self._denies:
            return not readings or any(map(self.has, readings))
        return bool(readings) and all(map(self.has, readings))

    def has(self, reading: str) -> bool:
        """Whether one of the patterns is for this reading."""
        return reading in self._exact or self._is_below(reading)

    def _is_below(self, reading: str) -> bool:
        """Whether it begins with one of the prefixes, which all begin and end with a slash."""
        end, prefixes = 1, self._prefixes
        for _ in range(1, self._depth):
            end = reading.find("/", end) + 1
            if not end:
                return False
            if reading[:end] in prefixes:
                return True
        return False

    def covers(self, other: PathSet) -> bool:
        """Whether every path that is in the other is in this one."""
        if self._any:
            return True
        if other._any or (other._denies and not self._denies):
            return False
        return all(map(self.has, other._exact)) and all(map(self._is_below, other._prefixes))

    def why_not(self, path: str | None) -> str:
        """Why a path is not in it, in words."""
        if path is None:
            return "what is asked inside a tunnel is not seen, so paths never match"
        if path == "*":
            return "OPTIONS * has no path"
        readings = readings_of(path)
        among = ", ".join(self.patterns[:10]) + (
            f" and {len(self.patterns) - 10} more" if len(self.patterns) > 10 else ""
        )
        if not readings:
            return "servers read this path in too many ways, or only a broken one does"
        other = next(reading for reading in readings if not self.has(reading))
        if len(readings) == 1:
            return f"path {cut(other)} is not among {among}"
        if self._denies:
            return f"path {cut(path)} is in none of its readings among {among}"
        return f"path {cut(path)} may be read as {cut(other)}, which is not among {among}"


def cut(path: str) -> str:
    """For a message."""
    return path if len(path) <= 120 else f"{path[:117]}..."
