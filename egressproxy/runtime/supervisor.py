"""Start: from a configuration to a running worker and its exit code."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from typing import TYPE_CHECKING

from egressproxy.runtime.handed_sockets import HandedSockets
from egressproxy.runtime.own_log import OwnLog
from egressproxy.runtime.service_manager import ServiceManager
from egressproxy.runtime.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable

    from egressproxy.config.load import Loaded
    from egressproxy.config.snapshot import Snapshot

GC_THRESHOLDS = (100_000, 20, 50)
"""A tunnel makes no reference cycles: the collector is a safety net, and looking through all open tunnels often is waste."""


def run(load: Callable[[Snapshot], Loaded], *, watches: bool) -> int:
    """Serve until a signal ends it; the exit code. `load` reads the configuration, now and at every reload.

    watches  changes of what was read bring about a reload, as SIGHUP does

    Sockets that a service manager hands over are used in the place of own ones, and it is told of the start and the end.

    Raises ConfigError when the first configuration cannot be used, and BindError when an address cannot be listened on.
    """
    for early in (signal.SIGHUP, signal.SIGUSR1):
        signal.signal(early, signal.SIG_IGN)  # until the worker takes them: their default is to end the process
    loop_factory = event_loop_factory()
    own_log = OwnLog()
    own_log.start()
    handed = HandedSockets()
    try:
        handed = HandedSockets.from_environment(os.environ)
        manager = ServiceManager.from_environment(os.environ)
        worker = Worker(load, loop_factory.__module__.partition(".")[0], handed, manager, watches=watches)
        worker.prepare()
        gc.set_threshold(*GC_THRESHOLDS)
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            return runner.run(worker.serve())
    finally:
        handed.close()
        own_log.close()


def event_loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    """uvloop where it is installed, else the system's own."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop
    return uvloop.new_event_loop
