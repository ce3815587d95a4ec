"""Kernel pipes for the flows that move much at the moment.

A pipe pair per tunnel from the start would cost 30 microseconds and two descriptors for nothing: most tunnels never move
much. So there is a pool, and a flow holds a pipe only while bytes are in it.
"""

from __future__ import annotations

import fcntl
import os

PIPE_BYTES = 1024 * 1024
"""Capacity asked for a pipe: the most that an unprivileged process is granted (/proc/sys/fs/pipe-max-size)."""
POOL_PIPES = 32
"""Pipes at most. Past 64 MiB of them the kernel gives an unprivileged user pipes of a page or two (pipe(7))."""


class Pipe:
    """A kernel pipe, and how many bytes are in it."""

    __slots__ = ("held", "reader", "writer")

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.held = 0
        try:
            fcntl.fcntl(self.writer, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        except OSError:  # over the user's share: a smaller pipe works as well, only with more calls
            pass

    def close(self) -> None:
        os.close(self.reader)
        os.close(self.writer)


class PipePool:
    """At most `limit` pipes."""

    def __init__(self, limit: int = POOL_PIPES) -> None:
        self._limit = limit
        self._free: list[Pipe] = []
        self.made = 0

    def take(self) -> Pipe | None:
        """An empty pipe, or None when all are in use or none can be made: then copy."""
        if self._free:
            return self._free.pop()
        if self.made >= self._limit:
            return None
        try:
            pipe = Pipe()
        except OSError:
            return None
        self.made += 1
        return pipe

    def give(self, pipe: Pipe) -> None:
        """Take the pipe back. One that still holds bytes of a broken tunnel is closed: they must never reach another."""
        if pipe.held:
            pipe.close()
            self.made -= 1
        else:
            self._free.append(pipe)

    def close(self) -> None:
        for pipe in self._free:
            pipe.close()
        self.made -= len(self._free)
        self._free.clear()
