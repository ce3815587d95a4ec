"""Wait for something to come true in another process or thread: look again and again, within a bound."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

WAIT_S = 30.0
"""Longest wait of a test: far more than any needs, so that a defect fails and does not hang."""
LOOK_S = 0.005
"""Between two looks."""
REST_S = 0.5
"""What has not changed for this long has come to rest: many times what a busy machine holds a process up."""


def eventually(look: Callable[[], T], what: str, wait_s: float = WAIT_S) -> T:
    """What `look` returns, as soon as that is true; AssertionError with the last value when it never is."""
    give_up_at = time.monotonic() + wait_s
    while not (found := look()):
        assert time.monotonic() < give_up_at, f"not within {wait_s:g} s: {what} (last: {found!r})"
        time.sleep(LOOK_S)
    return found


def once_at_rest(look: Callable[[], T]) -> T:
    """What `look` returns, once it has been true and the same for a while."""
    last, since = look(), time.monotonic()

    def unchanged() -> bool:
        nonlocal last, since
        if (now := look()) != last or not now:
            last, since = now, time.monotonic()
        return time.monotonic() - since >= REST_S

    eventually(unchanged, "it moves no more")
    return last
