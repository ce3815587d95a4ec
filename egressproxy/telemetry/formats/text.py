"""What all languages of access logs need: fields without anything that could break a line, and times."""

from __future__ import annotations

import re
import time
from functools import lru_cache

MAX_TEXT = 300
"""Characters of one field. A host has at most 253; what is longer is not worth a log line."""

_NOT_PLAIN = re.compile(r"[^!-~]")
_NOT_LOOSE = re.compile(r"[^ !#-~]")


def field(text: str | None) -> str:
    """One field of a line that is split at blanks: visible ASCII, the rest as %XX, at most MAX_TEXT characters read."""
    if not text:
        return "-"
    return _NOT_PLAIN.sub(percent, text[:MAX_TEXT])


def loose(text: str | None) -> str:
    """One field of a line between double quotes: as `field`, but blanks stay, and double quotes do not."""
    if not text:
        return "-"
    return _NOT_LOOSE.sub(percent, text[:MAX_TEXT])


def tight(text: str | None) -> str:
    """One field of a line that is split at blanks, whether or not double quotes stand around it: neither holds the other."""
    return field(text).replace('"', "%22")


def percent(match: re.Match[str]) -> str:
    """What was matched as %XX, octet for octet of its UTF-8."""
    return "".join(f"%{octet:02X}" for octet in match[0].encode("utf-8", "surrogatepass"))


def iso_time(unix_time_s: float) -> str:
    """ISO 8601 in UTC with milliseconds, `2018-12-07T05:21:05.248Z`."""
    milliseconds = round(unix_time_s * 1000.0)
    return f"{_iso_second(milliseconds // 1000)}.{milliseconds % 1000:03d}Z"


@lru_cache(8)
def _iso_second(unix_second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(unix_second))


@lru_cache(8)
def local_time(unix_second: int) -> str:
    """`08/Sep/2020:05:32:32 +0000`, in the time zone of the process."""
    return time.strftime("%d/%b/%Y:%H:%M:%S %z", time.localtime(unix_second))
