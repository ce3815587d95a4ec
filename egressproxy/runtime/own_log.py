"""The proxy's own log, on standard error: what it does and what is wrong with it. Not the access log.

Lines go through a bounded queue to a thread: a standard error that nobody reads must not hold up a single tunnel. What does
not fit is dropped, and said when there is room again.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
from logging.handlers import QueueHandler
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

WAITING_LINES = 1000
"""Lines that may wait for standard error."""
LAST_LINES_S = 1.0
"""How long they may take to be written at the end."""

_STDERR = 2

_Queue = queue.Queue["logging.LogRecord | None"]


class _Door(QueueHandler):
    """Never waits and never fails."""

    def __init__(self, waiting: _Queue) -> None:
        super().__init__(waiting)
        self.dropped = 0

    def enqueue(self, record: logging.LogRecord) -> None:
        try:
            self.queue.put_nowait(record)
        except queue.Full:
            self.dropped += 1


class OwnLog:
    """Writes what is logged to standard error from `start` to `close`."""

    def __init__(self) -> None:
        self._waiting: _Queue = queue.Queue(WAITING_LINES)
        self._door = _Door(self._waiting)
        self._format = logging.Formatter("%(asctime)s %(levelname)s %(message)s").format
        self._thread = threading.Thread(target=self._write, name="own log", daemon=True)

    def start(self) -> None:
        """Take over the root logger."""
        root = logging.getLogger()
        root.addHandler(self._door)
        root.setLevel(logging.INFO)
        self._thread.start()

    def close(self) -> None:
        """Write what waits, for LAST_LINES_S at most, and give the root logger back."""
        logging.getLogger().removeHandler(self._door)
        logging.lastResort = None  # it would write to standard error itself, and wait
        try:
            self._waiting.put(None, timeout=LAST_LINES_S)
        except queue.Full:
            return  # nobody reads: the thread ends with the process
        self._thread.join(LAST_LINES_S)

    def _write(self) -> None:
        # Not through sys.stderr: a write that hangs in there would hold its lock, and with it the end of the process.
        for record in self._records():
            line = (self._format(record) + "\n").encode("utf-8", "backslashreplace")
            try:
                while line:
                    line = line[os.write(_STDERR, line) :]
            except OSError:  # closed, or full and not waiting: nobody is left to be told
                self._door.dropped += 1

    def _records(self) -> Iterator[logging.LogRecord]:
        while (record := self._waiting.get()) is not None:
            yield record
            dropped, self._door.dropped = self._door.dropped, 0
            if dropped:
                text = f"{dropped} lines of this log were dropped: standard error was not read"
                yield logging.LogRecord("egressproxy", logging.WARNING, __file__, 0, text, None, None)
