"""Non-blocking sockets, watched together: one epoll of our own for all of them, itself one reader in the event loop.

The event loop's own way (a handle per socket, a callback object per event, a transport per connection) costs about
100 microseconds per tunnel. Here a socket is a key in a dict, an event is one call of the handler found there, and
the event loop sees a single descriptor that is readable whenever any of ours is ready.

Two ways to be told. `watch` is level-triggered: a handler may leave work undone and is called again. `arm` is edge-triggered: a
descriptor stays registered while it is read now and then, as a connection that carries one request after the other, and no
system call is spent between them; who is told must try until there is nothing. A descriptor must be forgotten before it is
closed; a stale event for a number that was reused is then at worst a spurious wake-up, which every handler takes calmly.
`LoopPoller` offers the same where there is no epoll.
"""

from __future__ import annotations

import asyncio
import select
import sys
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    Handler = Callable[[int], None]

READ = 1
"""Ready to read, or at the end of the stream (EPOLLIN)."""
WRITE = 4
"""Ready to write (EPOLLOUT)."""
ERROR = 8
"""It has failed, or may have: asking it will tell (EPOLLERR)."""
HUNG_UP = 0x2018
"""The peer has ended its half, or all of it is over (EPOLLRDHUP, EPOLLHUP, EPOLLERR)."""
_EDGE = 1 << 31 | 0x2000
"""EPOLLET: report changes, not states; and EPOLLRDHUP, the end of the peer's half."""
_ONCE = 1 << 30
"""EPOLLONESHOT: stay registered, but report nothing more until watched again."""
_BATCH = 256
"""Events taken at a time; the rest stays ready and is taken in the loop's next round, so timers and accepts get their turn."""


class Poller(Protocol):
    """Calls a handler with the events (`READ`, `WRITE`, or other bits for an error or hang-up) of a watched descriptor."""

    def watch(self, fd: int, events: int, handler: Handler) -> None:
        """Call `handler(events)` whenever the descriptor is ready; replaces an earlier watch of it. 0 events: not watched."""

    def watch_once(self, fd: int, events: int, handler: Handler) -> None:
        """As `watch`, for the next event only."""

    def arm(self, fd: int, events: int, handler: Handler) -> None:
        """Call `handler` when the descriptor is ready, or has failed or hung up, and at each change from then on.

        It may be called once only, or once more than there are changes: `is_armed` says whether it has to be armed again.
        """

    def is_armed(self, fd: int, handler: Handler) -> bool:
        """Whether this very handler still hears of changes."""

    def forget(self, fd: int) -> None:
        """Stop watching, before the descriptor is closed. Harmless for one that is not watched."""

    def close(self) -> None:
        """Give everything back to the loop. Watched descriptors stay open: they belong to others."""


def create_poller(loop: asyncio.AbstractEventLoop) -> Poller:
    """The fastest poller this system has."""
    return EpollPoller(loop) if sys.platform == "linux" else LoopPoller(loop)


if sys.platform == "linux":

    class EpollPoller:
        """All descriptors behind one epoll."""

        def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
            self._loop = loop
            self._handlers: dict[int, Handler] = {}
            self._epoll = select.epoll()
            self._poll = self._epoll.poll
            loop.add_reader(self._epoll.fileno(), self._dispatch)

        def __len__(self) -> int:
            return len(self._handlers)

        def _dispatch(self) -> None:
            find = self._handlers.get
            for fd, events in self._poll(0, _BATCH):
                handler = find(fd)
                if handler is not None:
                    handler(events)

        def watch(self, fd: int, events: int, handler: Handler) -> None:
            handlers = self._handlers
            if fd in handlers:
                if (
                    not events
                ):  # out of the epoll altogether: a hang-up is reported even to an empty mask, again and again
                    self._epoll.unregister(fd)
                    del handlers[fd]
                    return
                self._epoll.modify(fd, events)
            elif not events:
                return
            else:
                self._epoll.register(fd, events)
            handlers[fd] = handler

        def watch_once(self, fd: int, events: int, handler: Handler) -> None:
            self.watch(fd, events | _ONCE, handler)

        def arm(self, fd: int, events: int, handler: Handler) -> None:
            if fd in self._handlers:
                self._epoll.modify(fd, events | _EDGE)
            else:
                try:
                    self._epoll.register(fd, events | _EDGE)
                except FileExistsError:  # forgotten, and used on
                    self._epoll.modify(fd, events | _EDGE)
            self._handlers[fd] = handler

        def is_armed(self, fd: int, handler: Handler) -> bool:
            return self._handlers.get(fd) is handler

        def forget(self, fd: int) -> None:
            # Closing the last descriptor of a socket removes it from the epoll, so no system call is spent here. Nothing
            # duplicates our sockets: every descriptor is close-on-exec, and workers do not fork once they serve.
            self._handlers.pop(fd, None)

        def close(self) -> None:
            if not self._epoll.closed:
                self._loop.remove_reader(self._epoll.fileno())
                self._epoll.close()
            self._handlers.clear()


class LoopPoller:
    """The same through the event loop's own readers and writers, for systems without epoll."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._watched: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._watched)

    def watch(self, fd: int, events: int, handler: Handler) -> None:
        self._watched[fd] = events
        if events & READ:
            self._loop.add_reader(fd, handler, READ)
        else:
            self._loop.remove_reader(fd)
        if events & WRITE:
            self._loop.add_writer(fd, handler, WRITE)
        else:
            self._loop.remove_writer(fd)

    def watch_once(self, fd: int, events: int, handler: Handler) -> None:
        def once(ready: int) -> None:
            self.watch(fd, 0, handler)
            handler(ready | ERROR)  # the loop does not tell one from the other

        self.watch(fd, events, once)

    def arm(self, fd: int, events: int, handler: Handler) -> None:
        self.watch_once(fd, events, handler)

    def is_armed(self, fd: int, handler: Handler) -> bool:
        return False

    def forget(self, fd: int) -> None:
        if self._watched.pop(fd, None) is not None:
            self._loop.remove_reader(fd)
            self._loop.remove_writer(fd)

    def close(self) -> None:
        for fd in list(self._watched):
            self.forget(fd)
