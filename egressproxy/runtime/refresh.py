"""Refresh: files of identities that change while the proxy runs are put to use, and those that are about to expire are told.

**Why by looking, and not by inotify.** What is watched lies on mounted volumes: secrets that a kubelet swaps by moving a link,
network file systems and bind mounts, for which the kernel tells of nothing or of the wrong folder; and a pod shares the few
inotify instances of its node. A look is one stat for each file, and a link that leads elsewhere is just another answer.

The looking is done in a thread of its own, which a hanging file system may keep as long as it likes. What it finds is put to
use in the event loop, so a request sees the old or the new, and nothing in between.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

from egressproxy.certificates import date_text

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from egressproxy.identities import Identities
    from egressproxy.watched import Findings

logger = logging.getLogger("egressproxy")

REFRESH_S = 1.0
"""Between two looks. A change is put to use after two that agree."""
EXPIRY_LOOK_S = 60.0
"""Between two looks at when certificates expire."""
WARN_AHEAD_S = 14 * 86400.0
"""How long before a certificate expires the warnings begin: enough for whoever renews by hand."""
WARN_AGAIN_S = 86400.0
"""Between two warnings of the same certificate."""
LAST_LOOK_S = 0.25
"""How long the end waits for a look that is under way."""


class Refresher:
    """Keeps the identities in use up to date, from `use` to `close`."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        clock: Callable[[], float] = time.time,
        refresh_s: float = REFRESH_S,
    ) -> None:
        """`clock`: Unix time. Starts nothing yet."""
        self._loop = loop
        self._clock = clock
        self._refresh_s = refresh_s
        self._identities: Identities | None = None
        self._thread: threading.Thread | None = None
        self._closed = threading.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._warned: dict[tuple[str, float], float] = {}  # when, by path and date of expiry

    def use(self, identities: Identities) -> None:
        """These from now on; in the event loop."""
        self._identities = identities
        self._look_at_expiries()
        if self._thread is None and identities.watches:
            self._thread = threading.Thread(target=self._look_on, name="refresh", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Look no more."""
        self._closed.set()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._thread is not None:
            self._thread.join(LAST_LOOK_S)

    def _look_on(self) -> None:
        while not self._closed.wait(self._refresh_s):
            identities = self._identities
            assert identities is not None  # `use` has started this
            try:
                findings = identities.look()
            except Exception:
                logger.exception("a defect while looking for changed certificates; looking goes on")
                continue
            if findings:
                try:
                    self._loop.call_soon_threadsafe(self._take, identities, findings)
                except RuntimeError:
                    return  # the loop is closed

    def _take(self, identities: Identities, findings: Findings) -> None:
        if self._closed.is_set():
            return
        for change in identities.take(findings):
            if change.good:
                logger.info("%s", change.text)
            else:
                logger.error("refused: %s", change.text)
        if identities is self._identities:
            self._look_at_expiries()

    def _look_at_expiries(self) -> None:
        """Warn of what expires soon, or has; and again later."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(EXPIRY_LOOK_S, self._look_at_expiries)
        assert self._identities is not None  # `use` comes first
        now = self._clock()
        warned: dict[tuple[str, float], float] = {}
        for path, expiry in self._identities.expiries().items():
            if expiry > now + WARN_AHEAD_S:
                continue
            last = self._warned.get((path, expiry))
            if last is None or now - last >= WARN_AGAIN_S:
                self._warn(path, expiry, now)
                last = now
            warned[path, expiry] = last
        self._warned = warned

    def _warn(self, path: str, expiry: float, now: float) -> None:
        if expiry <= now:
            logger.warning("%s has expired, on %s", path, date_text(expiry))
        else:
            logger.warning("%s expires on %s, in %d days", path, date_text(expiry), (expiry - now) // 86400)
