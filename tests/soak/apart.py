"""A part of a soak run in a process of its own, so that load, origin and test share no interpreter.

    with Apart(echoes.origin) as origin:
        port = origin.word()                 # what the function said first
        ...
        assert origin.result() == expected   # what it returned

The function runs in a fresh interpreter and gets the arguments and a `Line` to talk over. Leaving the block without
`result` kills it.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any, Self

TESTS = Path(__file__).parents[1]
SILENCE_S = 300.0
"""Longest wait for a word. Ends bound each of their own waits far below it, so this is for a process that hangs."""


class Line:
    """What a function apart talks to the test over."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def say(self, word: object) -> None:
        self._connection.send(("said", word))

    def hear(self, wait_s: float = SILENCE_S) -> Any:
        """The next word of the test; None when none comes within this time, or the test is gone."""
        try:
            return self._connection.recv() if self._connection.poll(wait_s) else None
        except EOFError:
            return None

    def fileno(self) -> int:
        """Readable when there is a word."""
        return self._connection.fileno()


class Apart:
    """The test's side of it."""

    def __init__(self, work: Callable[..., Any], **arguments: Any) -> None:
        self.name = f"{work.__module__}:{work.__name__}"
        self._result: Any = None
        self._done = False
        self._connection, theirs = Pipe()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "soak.apart", self.name, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                cwd=TESTS,
                env={**os.environ, "PYTHONPATH": str(TESTS)},
                pass_fds=(theirs.fileno(),),
            )
        self._connection.send(arguments)

    @property
    def pid(self) -> int:
        return self._process.pid

    def tell(self, word: object) -> None:
        self._connection.send(word)

    def word(self, wait_s: float = SILENCE_S) -> Any:
        """The next word it says; None once it has returned."""
        if self._done:
            return None
        assert self._connection.poll(wait_s), f"{self.name} said nothing for {wait_s:g} s"
        try:
            kind, what = self._connection.recv()
        except EOFError:
            raise AssertionError(f"{self.name} died: exit code {self._process.wait()}") from None
        assert kind != "failed", f"{self.name} failed:\n{what}"
        if kind == "said":
            return what
        self._done, self._result = True, what
        return None

    def words(self) -> Iterator[Any]:
        """Every word until it returns."""
        while (word := self.word()) is not None:
            yield word

    def latest(self) -> Any:
        """One word from now, whatever was said before passed over; None once it has returned."""
        word = self.word()
        while not self._done and self._connection.poll(0):
            word = self.word()
        return word

    def result(self) -> Any:
        """Wait until it returns; what it returned."""
        for _ in self.words():
            pass
        return self._result

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._done:
            self._process.kill()
        self._process.wait()
        self._connection.close()


def main(name: str, descriptor: str) -> None:
    connection = Connection(int(descriptor))
    module, _, function = name.partition(":")
    arguments = connection.recv()
    try:
        result = getattr(importlib.import_module(module), function)(Line(connection), **arguments)
    except BaseException:
        connection.send(("failed", traceback.format_exc()))
        raise SystemExit(1) from None
    connection.send(("done", result))


if __name__ == "__main__":
    main(*sys.argv[1:])
