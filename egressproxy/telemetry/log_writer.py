"""One log, written by a thread of its own, so that a slow disk or a pipe that nobody reads never holds up traffic.

The event loop appends a line to a bounded queue. The thread takes what has gathered every 50 ms, joins it and writes it
with one call. It sleeps without any timer while there is nothing to write, and is woken once for many lines.

What can go wrong, and what becomes of the lines:

- the reader of a pipe is slow, or the disk hangs: lines wait in the queue; when it is full, new ones are dropped;
- writing fails (no space, input/output error, pipe closed): the lines in hand are dropped and the log is opened again,
  at most once a second;
- the file was moved away: a new one is begun. Where that fails, lines still go to the old file, unless it was deleted.

Every dropped line is counted by reason. Trouble is told on standard error once when it begins and once when it is over.

Pipes get whole lines in pieces of at most PIPE_BUF bytes, which the system keeps in one piece (POSIX write(2)), so that
several processes can share one standard output.
"""

from __future__ import annotations

import errno
import logging
import os
import select
import stat
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger(__name__)

STANDARD_OUTPUT = "-"

_STANDARD_OUTPUT_FD: Final = 1
_GATHER_S: Final = 0.05  # half of the 100 ms within which a line shall be seen
_RETRY_S: Final = 1.0  # between two attempts to open, and between two looks for a rotated file
_LOOK_S: Final = 0.25  # a thread that waits for a blocked pipe looks this often whether it shall end
_BATCH_LINES: Final = 2000  # about 300 KiB; popping them holds the interpreter for some 100 microseconds
_FILE_MODE: Final = 0o640
_LINE_END: Final = 0x0A

_REASONS = {
    errno.ENOSPC: "no_space",
    errno.EDQUOT: "no_space",
    errno.EFBIG: "no_space",
    errno.EPIPE: "closed_pipe",
    errno.ENXIO: "closed_pipe",
}


class LogUnusable(OSError):
    """A log cannot be opened for writing. `strerror` says why and `filename` which."""


class LogWriter:
    """Writes lines to one file, FIFO or standard output.

    dropped  lines lost since the start, by reason: `buffer_full`, `no_space`, `io_error`, `closed_pipe`, `cannot_open`,
             `closed` (written after, or unwritten at, `close`)

    The caller closes it. `write` and `dropped` belong to the event loop's thread, `reopen` and `close` to any.
    """

    def __init__(self, path: str, buffer_lines: int, say: Callable[[str], None] | None = None) -> None:
        """Open the log and start its thread.

        path          file to append to, or `-` for standard output
        buffer_lines  lines that may wait
        say           told of trouble in one line of text; standard error by default

        Raises LogUnusable. A FIFO without a reader is not an error: lines are dropped until a reader comes.
        """
        self.path = path
        self.dropped = dict.fromkeys(("buffer_full", "no_space", "io_error", "closed_pipe", "cannot_open", "closed"), 0)
        self._room = buffer_lines
        self._lines: deque[str] = deque()
        self._say = _say if say is None else say
        self._asleep = False
        self._wake = threading.Event()
        self._ended = threading.Event()
        self._reopen_asked = False
        self._give_up_at: float | None = None  # set by close: monotonic seconds
        self._trouble = ""  # the reason of the last failure, until lines are written where they belong again
        self._astray = False  # lines go to a file that no longer has the name
        self._torn: tuple[int, int] | None = None  # identity of a file that ends in half a line
        self._lost_before_trouble = 0
        self._fd = -1
        self._identity: tuple[int, int] | None = None  # device and inode of a regular file that we opened
        self._piece = 0  # bytes per write, 0 for any number
        self._looked_at = 0.0
        self._open_again_at = 0.0
        try:
            self._open()
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise LogUnusable(error.errno, error.strerror, path) from error
            self._fail("closed_pipe", error, 0)
        self._thread = threading.Thread(target=self._run, name=f"log {path}", daemon=True)
        self._thread.start()

    def write(self, line: str) -> None:
        """Queue one line, given without its line end. Hot: never waits, never fails; a full queue drops it and counts."""
        lines = self._lines
        if len(lines) >= self._room:
            self.dropped["buffer_full" if self._give_up_at is None else "closed"] += 1
            return
        lines.append(line)
        if self._asleep:
            self._asleep = False
            self._wake.set()

    def reopen(self) -> None:
        """Open the file by its name again before the next line, as after SIGUSR1. Lines queued so far may go to either."""
        self._reopen_asked = True
        self._wake.set()

    def close(self, deadline_s: float) -> None:
        """Write what waits, for at most `deadline_s` seconds, and end the thread. Blocks; safe to call again.

        What cannot be written in time is dropped and counted. A thread that the system holds in a write (a dead network
        disk) is left behind; it is a daemon and does not keep the process alive.
        """
        self._room = 0
        if self._give_up_at is None:
            self._give_up_at = time.monotonic() + deadline_s
        self._wake.set()
        # The thread gives up by itself at the deadline; a little longer lets it count and close what it has in hand.
        if not self._ended.wait(deadline_s + 2 * _LOOK_S):
            self.dropped["closed"] += len(self._lines)

    # --- the thread -----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while True:
                if not self._lines:
                    if self._give_up_at is not None:
                        return
                    self._sleep()
                if self._give_up_at is None:
                    time.sleep(_GATHER_S)
                self._look_after_file()
                if self._lines:
                    self._deliver(*self._take())
        finally:
            self._close_file()
            self._ended.set()

    def _sleep(self) -> None:
        """Until there is a line or something else to do. `write` appends first and looks at `_asleep` then, so that either
        it sees a sleeper to wake or the sleeper sees its line."""
        self._asleep = True
        if not self._lines and not self._reopen_asked and self._give_up_at is None:
            self._wake.wait()
        self._asleep = False
        self._wake.clear()

    def _take(self) -> tuple[bytes, int]:
        """The next lines as bytes, and how many they are."""
        pop = self._lines.popleft
        taken = [pop() for _ in range(min(len(self._lines), _BATCH_LINES))]
        taken.append("")
        return "\n".join(taken).encode("utf-8", "backslashreplace"), len(taken) - 1

    def _deliver(self, data: bytes, count: int) -> None:
        """Write `count` lines, or drop what is left of them when writing fails or the time is up."""
        if self._fd < 0:
            self._drop(self._trouble, count)
            return
        start, size, piece = 0, len(data), self._piece
        while start < size:
            end = size
            if piece and size - start > piece:
                # Up to the last line end that fits; a longer line than that is cut.
                end = data.rfind(b"\n", start, start + piece) + 1 or start + piece
            try:
                if piece and not self._wait_for_room():
                    self._drop("closed", data.count(b"\n", start))
                    return
                if self._torn is not None:
                    if self._torn == self._identity:
                        os.write(self._fd, b"\n")
                    self._torn = None
                start += os.write(self._fd, data[start:end] if piece or start else data)
            except BlockingIOError:
                time.sleep(_GATHER_S)  # there is room, but not for this piece: asking again at once would spin
                if self._is_late() or not self._wait_for_room():
                    self._drop("closed", data.count(b"\n", start))
                    return
            except OSError as error:
                if start and data[start - 1] != _LINE_END:
                    self._torn = self._identity
                self._fail(_REASONS.get(error.errno or 0, "io_error"), error, data.count(b"\n", start))
                return
        self._recovered()

    def _wait_for_room(self) -> bool:
        """Wait until the descriptor takes bytes. False when the writer is closed and its time is up."""
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        while True:
            give_up_at = self._give_up_at
            wait_s = _LOOK_S if give_up_at is None else min(_LOOK_S, max(give_up_at - time.monotonic(), 0.0))
            if poll.poll(wait_s * 1000.0):
                return True
            if self._is_late():
                return False

    def _is_late(self) -> bool:
        return self._give_up_at is not None and time.monotonic() >= self._give_up_at

    # --- the file -------------------------------------------------------------------------------------------------

    def _open(self) -> None:
        """Open the log by its name. Raises OSError; then the file that was open before is still in use."""
        if self.path == STANDARD_OUTPUT:
            fd = _STANDARD_OUTPUT_FD
        else:
            # Non-blocking, or opening a FIFO without a reader would wait for one.
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
            fd = os.open(self.path, flags, _FILE_MODE)
        try:
            status = os.fstat(fd)
        except OSError:
            if self.path != STANDARD_OUTPUT:
                os.close(fd)
            raise
        self._close_file()
        regular = stat.S_ISREG(status.st_mode)
        self._fd = fd
        self._identity = (status.st_dev, status.st_ino) if regular and self.path != STANDARD_OUTPUT else None
        self._piece = 0 if regular else select.PIPE_BUF
        self._looked_at = time.monotonic()
        self._astray = False

    def _close_file(self) -> None:
        if self._fd >= 0 and self.path != STANDARD_OUTPUT:
            os.close(self._fd)
        self._fd = -1
        self._identity = None

    def _look_after_file(self) -> None:
        """Open the log where it is not open, was moved away, or where that was asked for."""
        now = time.monotonic()
        if self._reopen_asked:
            self._reopen_asked = False
        elif self._fd < 0:
            if now < self._open_again_at:
                return
        elif self._identity is None or now - self._looked_at < _RETRY_S:
            return
        else:
            self._looked_at = now
            if not self._was_moved():
                return
        try:
            self._open()
        except OSError as error:
            if self._fd >= 0 and os.fstat(self._fd).st_nlink == 0:
                self._close_file()
            if self._fd < 0:
                self._fail(_REASONS.get(error.errno or 0, "cannot_open"), error, 0)
            else:
                self._astray = True
                self._tell("cannot_open", f"{error.strerror}; lines go to the file that was moved away")

    def _was_moved(self) -> bool:
        try:
            status = os.stat(self.path)  # noqa: PTH116 - once a second, and the path is a plain string
        except OSError:
            return True
        return (status.st_dev, status.st_ino) != self._identity

    # --- trouble --------------------------------------------------------------------------------------------------

    def _drop(self, reason: str, count: int) -> None:
        self.dropped[reason] += count

    def _fail(self, reason: str, error: OSError, count: int) -> None:
        """Give up on the open file and on `count` lines; try again in a second."""
        self._close_file()
        self._open_again_at = time.monotonic() + _RETRY_S
        self._tell(reason, f"{error.strerror}; lines are dropped and counted until it can be written again")
        self._drop(reason, count)

    def _tell(self, trouble: str, text: str) -> None:
        if not self._trouble:
            self._lost_before_trouble = sum(self.dropped.values())
            self._say(f"access log {self.path}: {text}")
        self._trouble = trouble

    def _recovered(self) -> None:
        if self._trouble and not self._astray:
            self._trouble = ""
            lost = sum(self.dropped.values()) - self._lost_before_trouble
            self._say(f"access log {self.path}: written again; {lost} lines were lost")


def _say(text: str) -> None:
    logger.warning("%s", text)
