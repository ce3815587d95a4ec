"""Listening sockets that the service manager hands over, as systemd does for a socket unit (sd_listen_fds(3)).

The manager binds them, before the proxy runs and as root if it must, and keeps them while the proxy is replaced: clients
wait in the kernel's queue meanwhile, and none is refused. In the environment it says for whom they are (LISTEN_PID) and how
many (LISTEN_FDS); they are the descriptors from 3 on. Which one is whose is told by where it listens, so that names
(LISTEN_FDNAMES) need not agree with anything.

All of them belong to listeners of the configuration, or to its admin port, at the start and after each reload. A socket that
nobody accepts on would hold its clients forever, since the manager keeps it open whatever is done here.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Literal

from egressproxy.runtime.sockets import BindError, bound_address, prepare, takes_any_address

if TYPE_CHECKING:
    from collections.abc import Collection, MutableMapping

FIRST = 3
"""SD_LISTEN_FDS_START: behind standard input, output and error."""
MOST = 1024
"""No socket unit has more; a number beyond is a mistake, not a wish."""
_VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID")


class HandedSockets:
    """Those of this process. Whoever takes one owns it; `close` closes the others."""

    def __init__(self, sockets: Collection[socket.socket] = ()) -> None:
        """`sockets` listen already, each at a place of its own. Raises BindError on two at one place."""
        self._waiting: dict[tuple[str, int], socket.socket] = {}
        for sock in sockets:
            place = sock.getsockname()[:2]
            if place in self._waiting:
                raise BindError(f"two sockets were handed over for {_shown(place)}: expected one")
            self._waiting[place] = sock
        self.places = frozenset(self._waiting)

    @classmethod
    def from_environment(cls, environment: MutableMapping[str, str]) -> HandedSockets:
        """Those that the environment speaks of; none where it speaks to another process, or of none.

        Removes the variables: they are for nobody that this process starts. Raises BindError on what cannot be listened on.
        """
        pid, count, *_ = (environment.pop(name, "") for name in _VARIABLES)
        if not count or pid != str(os.getpid()):
            return cls()
        if not (count.isascii() and count.isdigit() and int(count) <= MOST):
            raise BindError(f"LISTEN_FDS: expected a number up to {MOST}, got {count[:20]!a}")
        sockets: list[socket.socket] = []
        try:
            for number in range(FIRST, FIRST + int(count)):
                sockets.append(_adopted(number))  # noqa: PERF401 - on an error, those that were adopted are closed
            return cls(sockets)
        except BindError:
            for sock in sockets:
                sock.close()
            raise

    def take(
        self, place: tuple[str, int], *, client_speaks_first: bool, transparent: Literal["redirect", "tproxy"] | None
    ) -> socket.socket | None:
        """The socket that listens there, set up as `sockets.listen` would; None if there is none, or it is taken.

        Raises BindError where the manager made it in another way than the listener needs. Then it is not taken.
        """
        place = _bound(place)
        sock = self._waiting.get(place)
        if sock is None:
            return None
        if place[0] == "::" and sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY):
            raise BindError(f"{_handed(place)} takes IPv6 only: expected IPv4 clients too (BindIPv6Only=both)")
        if transparent == "tproxy" and not takes_any_address(sock):
            raise BindError(f"{_handed(place)} is not transparent: expected one for tproxy (Transparent=yes)")
        try:
            prepare(sock, client_speaks_first=client_speaks_first)
        except OSError as error:
            raise BindError(f"{_handed(place)} cannot be used: {error.strerror}") from error
        return self._waiting.pop(place)

    def require_all_in(self, wanted: Collection[tuple[str, int]]) -> None:
        """Raise BindError if one was handed over for none of these places."""
        for place in sorted(self.places.difference(map(_bound, wanted))):
            raise BindError(
                f"{_handed(place)} has no listener: its clients would wait in vain; expected one of "
                f"{', '.join(_shown(each) for each in sorted(wanted))}: change the socket unit, or the configuration"
            )

    def close(self) -> None:
        """Close those that nobody took."""
        while self._waiting:
            self._waiting.popitem()[1].close()


def _adopted(number: int) -> socket.socket:
    """An inherited descriptor as a socket, not inherited any further. Raises BindError."""
    try:
        os.set_inheritable(number, False)
        sock = socket.socket(fileno=number)
    except OSError as error:
        raise BindError(
            f"descriptor {number} was announced as a socket (LISTEN_FDS) and is none: {error.strerror}"
        ) from error
    is_tcp = sock.family in (socket.AF_INET, socket.AF_INET6) and sock.type == socket.SOCK_STREAM
    if is_tcp and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return sock
    sock.close()
    raise BindError(
        f"descriptor {number} was handed over and does not listen for TCP: expected ListenStream=ADDRESS:PORT"
    )


def _bound(place: tuple[str, int]) -> tuple[str, int]:
    """Where the manager's socket for a listener is: for `::` it makes one of IPv4 where the kernel has nothing else."""
    return bound_address(place[0]), place[1]


def _handed(place: tuple[str, int]) -> str:
    return f"the socket that was handed over for {_shown(place)}"


def _shown(place: tuple[str, int]) -> str:
    address, port = place
    return f"{address} port {port}"
