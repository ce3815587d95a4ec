"""Event loops for tests that must hold on more than one, waiting for a condition, and counting descriptors."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import pytest

T = TypeVar("T")

WAIT_S = 20.0
"""Longest wait of a test: far more than any needs, so that a defect fails and does not hang."""
LOOK_S = 0.001
"""Between two looks at a condition."""
STEADY_LOOKS = 30
"""A value that is the same this many looks in a row has come to rest."""

LOOPS = ("asyncio", "uvloop")


def run_on(kind: str, coroutine: Coroutine[Any, Any, T]) -> T:
    """Run the coroutine on a new loop, `asyncio` or `uvloop`. Whatever a callback of the loop raised fails the test."""
    factory = pytest.importorskip("uvloop").new_event_loop if kind == "uvloop" else asyncio.SelectorEventLoop
    complaints: list[dict[str, Any]] = []

    async def watched() -> T:
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: complaints.append(context))
        async with asyncio.timeout(WAIT_S * 2):
            return await coroutine

    with asyncio.Runner(loop_factory=factory) as runner:
        result = runner.run(watched())
    assert not complaints, complaints
    return result


async def until(condition: Callable[[], object], what: str = "") -> None:
    """Return when the condition holds; fail after a bound."""
    loop = asyncio.get_running_loop()
    give_up = loop.time() + WAIT_S
    while not condition():
        assert loop.time() < give_up, f"not within {WAIT_S:g} s: {what or condition}"
        await asyncio.sleep(LOOK_S)


async def at_rest(value: Callable[[], T]) -> T:
    """The value, once it no longer changes."""
    last, looks = value(), 0
    while looks < STEADY_LOOKS:
        await asyncio.sleep(LOOK_S)
        now = value()
        last, looks = now, looks + 1 if now == last else 0
    return last


def open_descriptors() -> dict[int, str]:
    """Every open descriptor of this process and what it is; empty where the system does not show it."""
    found = {}
    if sys.platform == "linux":
        for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - names only, and fast
            try:
                found[int(name)] = os.readlink(f"/proc/self/fd/{name}")  # noqa: PTH115
            except OSError:
                pass  # the one that lists
    return found


def left_open(before: dict[int, str]) -> dict[int, str]:
    """Descriptors that are open now and were not `before`, beyond the standard three, which pytest exchanges."""
    return {fd: what for fd, what in open_descriptors().items() if fd > 2 and before.get(fd) != what}
