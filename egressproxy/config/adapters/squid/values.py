"""Single values of directives: times, sizes, switches. Each reader takes words and raises ValueError with what was expected."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from egressproxy.config.faults import shown

if TYPE_CHECKING:
    from collections.abc import Sequence

_HOURS_PER_YEAR = 24 * 365.2522  # as Squid counts them

_UNITS_S = {
    "nanosecond": 1e-9,
    "microsecond": 1e-6,
    "millisecond": 1e-3,
    "second": 1.0,
    "minute": 60.0,
    "hour": 3600.0,
    "day": 86_400.0,
    "week": 604_800.0,
    "fortnight": 1_209_600.0,
    "month": 30 * 86_400.0,
    "year": _HOURS_PER_YEAR * 3600.0,
    "decade": _HOURS_PER_YEAR * 36_000.0,
}
_SIZES = {"BYTES": 1, "KB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30}
_NUMBER = re.compile(r"[0-9]{1,15}(?:\.[0-9]{1,9})?")


def seconds(words: Sequence[str]) -> float:
    """`30 seconds`, `1.5 hours`, or a number of seconds without a unit."""
    number, unit = [*words, "second"][:2] if len(words) in (1, 2) else ("", "")
    factor = next((factor for name, factor in _UNITS_S.items() if unit.lower().startswith(name)), None)
    if factor is None or not _NUMBER.fullmatch(number):
        raise ValueError(f"expected a time like 30 seconds or 1 minute, got {shown(' '.join(words))}")
    return _plain(float(number) * factor)


def size(words: Sequence[str], unit: str) -> int:
    """Bytes of `64 KB`, `1.5 MB`; `unit` counts where none is written."""
    number, written = [*words, unit][:2] if len(words) in (1, 2) else ("", "")
    factor = next((factor for name, factor in _SIZES.items() if written.upper().startswith(name)), None)
    if factor is None or not _NUMBER.fullmatch(number):
        raise ValueError(f"expected a size like 64 KB, got {shown(' '.join(words))}")
    return int(float(number) * factor)


def switch(words: Sequence[str]) -> bool:
    """`on` or `off`."""
    known = {"on": True, "enable": True, "off": False, "disable": False}
    if len(words) != 1 or words[0] not in known:
        raise ValueError(f"expected on or off, got {shown(' '.join(words))}")
    return known[words[0]]


def count(words: Sequence[str]) -> int:
    """One number."""
    if len(words) != 1 or not re.fullmatch(r"[0-9]{1,9}", words[0]):
        raise ValueError(f"expected a number, got {shown(' '.join(words))}")
    return int(words[0])


def _plain(number: float) -> float:
    """Without a fraction where there is none, so that the native form reads `60`."""
    rounded = round(number, 6)
    return int(rounded) if rounded == int(rounded) else rounded
