"""Accept: take clients from one listening socket, in batches, and start the story of each.

**Out of capacity.** At the descriptor limit `accept` fails and the socket stays readable: a loop that tried again at once
would spin. The listener looks away for a named pause and tries again; clients wait in the kernel's queue meanwhile. The same
when the worker is full beyond even saying so. Any error of the socket itself that is not known to pass is left to rise.
"""

from __future__ import annotations

import _socket  # the raw socket, without the Python layer that costs a microsecond for each connection
import errno
import logging
import socket
from typing import TYPE_CHECKING

from egressproxy.connection import handle_connection
from egressproxy.hostport import plain_address
from egressproxy.stream import TcpStream

if TYPE_CHECKING:
    import asyncio

    from egressproxy.connection import Entrance, Services
    from egressproxy.poller import Poller
    from egressproxy.stories import Stories

logger = logging.getLogger(__name__)

BATCH = 64
"""Clients taken in one turn of the event loop."""
PAUSE_S = 0.1
"""How long a listener looks away when there is no capacity for one more client."""
TELL_S = 60.0
"""How often it tells of that. Each pause told would fill a pipe that nobody reads within a minute, and then the proxy waits."""
_OUT_OF_CAPACITY = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_THAT_CLIENT_ONLY = frozenset(
    {
        errno.ECONNABORTED,
        errno.EPERM,
        errno.EPROTO,
        errno.ENETDOWN,
        errno.ENOPROTOOPT,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
    }
    | {errno.EOPNOTSUPP, errno.ENETUNREACH, errno.EINTR, getattr(errno, "ENONET", errno.EPROTO)}
)
"""accept(2): errors already pending on the new connection; the listening socket is well."""


class Listener:
    """One listening socket at work. Owns it."""

    def __init__(
        self,
        sock: socket.socket,
        entrance: Entrance,
        services: Services,
        poller: Poller,
        stories: Stories,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.sock = sock
        self._family = int(sock.family)  # the property makes an enum member each time it is asked
        self.entrance = entrance
        self.services = services
        self._poller = poller
        self._stories = stories
        self._loop = loop
        self._pause: asyncio.TimerHandle | None = None
        self._tell_again_at = 0.0  # by the loop's clock
        self.pauses = 0

    def __repr__(self) -> str:
        return f"<Listener {self.entrance.label} {'closed' if self.sock.fileno() < 0 else self.sock.getsockname()}>"

    @property
    def closed(self) -> bool:
        """No new clients are taken."""
        return self.sock.fileno() < 0

    def start(self) -> None:
        """Begin to accept."""
        self._loop.add_reader(self.sock.fileno(), self._accept_batch)

    def use(self, entrance: Entrance, services: Services) -> None:
        """Serve the clients to come by another configuration."""
        self.entrance = entrance
        self.services = services

    def stop(self) -> None:
        """Take those who are already in the kernel's queue, then close the socket. Harmless twice."""
        if self.sock.fileno() < 0:
            return
        self._accept_all()
        self._look_away()  # afterwards: for want of room the last step may have begun a pause
        self.sock.close()

    def _accept_batch(self) -> None:
        for _ in range(BATCH):
            if not self._accept_one():
                return

    def _accept_all(self) -> None:
        while self._accept_one():
            pass

    def _accept_one(self) -> bool:
        """Take one client; False when there is none, or no room."""
        if self.services.admission.full:
            self._rest("limits.max_tunnels is reached")
            return False
        try:
            fd, peer = self.sock._accept()  # type: ignore[attr-defined]  # `accept` without making a socket of it
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno in _THAT_CLIENT_ONLY:
                return True
            if error.errno in _OUT_OF_CAPACITY:
                self._rest(error.strerror or "no descriptor left")
                return False
            self._rest(f"unexpected: {error}")
            return False
        sock = _socket.socket(self._family, socket.SOCK_STREAM, 0, fd)
        sock.setblocking(False)
        stream = TcpStream(sock, self._poller, plain_address(peer[0]), peer[1])
        self._stories.start(handle_connection(stream, self))
        return True

    def _rest(self, why: str) -> None:
        if self._pause is None and self.sock.fileno() >= 0:
            self.pauses += 1
            now = self._loop.time()
            if now >= self._tell_again_at:
                self._tell_again_at = now + TELL_S
                logger.warning(
                    "%s: not accepting for %g s: %s (told once in %g s)", self.entrance.label, PAUSE_S, why, TELL_S
                )
            self._loop.remove_reader(self.sock.fileno())
            self._pause = self._loop.call_later(PAUSE_S, self._go_on)

    def _go_on(self) -> None:
        self._pause = None
        self.start()
        self._accept_batch()

    def _look_away(self) -> None:
        self._loop.remove_reader(self.sock.fileno())
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
