"""What the proxy tells a service manager that listens on NOTIFY_SOCKET, as systemd does for Type=notify (sd_notify(3)).

One datagram with a line for each thing said. Nobody waits for it and nothing depends on it: who does not listen misses it.
"""

from __future__ import annotations

import math
import socket
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import MutableMapping

SPARE_S = 10.0
"""What the end may take beside the drain: last records, last lines of the logs."""


class ServiceManager:
    """Told of; silent where there is none."""

    def __init__(self, address: str = "") -> None:
        """`address` of its socket: a path, or a name of Linux's own behind an @. Empty: there is no manager."""
        self._address = "\0" + address[1:] if address.startswith("@") else address

    @classmethod
    def from_environment(cls, environment: MutableMapping[str, str]) -> ServiceManager:
        """The one that the environment names. Removes the variable: it is for nobody that this process starts."""
        return cls(environment.pop("NOTIFY_SOCKET", ""))

    def ready(self) -> None:
        """Connections are taken: after the start, and at the end of each reload that was announced."""
        self._say("READY=1")

    def reloading(self) -> None:
        """A reload has begun."""
        self._say("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self, drain_s: float) -> None:
        """The end has begun, and may take this long: the manager's patience (TimeoutStopSec) need not know of it."""
        self._say("STOPPING=1", f"EXTEND_TIMEOUT_USEC={math.ceil((drain_s + SPARE_S) * 1e6)}")

    def _say(self, *lines: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.setblocking(False)
                sock.sendto("\n".join(lines).encode(), self._address)
        except OSError:
            pass  # gone, or too busy to listen
