"""One worker: a whole proxy, from its first configuration through reloads to the end of its last tunnel.

**Reload.** SIGHUP, or a change of what was read (`watch`), reads the configuration again and builds everything that is new
beside what runs (`parts`). Only when all of that has worked is it put in place, in one step of the event loop; otherwise it
is given back, the errors are logged and shown on /config, and the old configuration stays. A connection is served to its end
by the configuration it was accepted under; open tunnels go on, and only their idle times follow the new one, unless
`on_policy_change: cut` has those ended that it would refuse (`rejudge`). Who asks by SIGHUP gets a new configuration each time,
but that those who ask before reading has begun get one together; a change makes one only where something else was read.
Reading that does not come back, from a network file system that hangs, is a refused reload after a while, and the next SIGHUP
reads anew beside it.

**End.** SIGTERM or SIGINT: not ready any more, listeners closed, no new tunnels; open ones may go on for `drain_s` and are
then cut. Who has a kept connection may bring one more request, for a moment, and hears that it was the last. A second SIGINT
stops at once. A configuration that is not in place by then is given back.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from egressproxy._version import __version__
from egressproxy.accept import Listener
from egressproxy.admission import Admission
from egressproxy.capture import OwnConnections
from egressproxy.config.snapshot import Snapshot
from egressproxy.connection import Services
from egressproxy.errors import ConfigError
from egressproxy.model import Endpoint, Problem
from egressproxy.poller import create_poller
from egressproxy.runtime.means import Means, entrance_of
from egressproxy.runtime.parts import Parts, Place, build
from egressproxy.runtime.refresh import Refresher
from egressproxy.runtime.rejudge import Rejudging
from egressproxy.runtime.sockets import BindError, raise_descriptor_limit
from egressproxy.runtime.watch import Watch
from egressproxy.stories import Stories
from egressproxy.tasks import Tasks
from egressproxy.telemetry.admin import AdminServer, start_admin
from egressproxy.telemetry.clusters import counts_clusters
from egressproxy.telemetry.metrics import Metrics
from egressproxy.telemetry.telemetry import Telemetry

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Coroutine, Sequence

    from egressproxy.config.faults import Way
    from egressproxy.config.load import Loaded
    from egressproxy.config.schema.config import Config
    from egressproxy.policy.policy import Policy
    from egressproxy.runtime.handed_sockets import HandedSockets
    from egressproxy.runtime.service_manager import ServiceManager
    from egressproxy.telemetry.record import RecordDraft

logger = logging.getLogger("egressproxy")

SPARE_DESCRIPTORS = 128
"""Beside two for each tunnel: listeners, logs, resolver, pipes, admin connections."""
LAST_REQUESTS_S = 2.0
"""How long, during a drain, kept connections may bring one more request: one may be on its way. Half of the drain at most."""
LAST_RECORDS_S = 0.25
"""How long connections that were cut may take to write their records."""
LAST_LINES_S = 2.0
"""How long a log that is replaced, or all of them at the end, may take to write what is waiting."""
READ_HANGS_S = 30.0
"""A configuration that takes longer than this to read hangs: a million hosts take seconds."""
MAX_HANGING = 4
"""Threads that are left to read what hangs, each for a SIGHUP; they cannot be ended."""
EXIT_AT_ONCE = 130
"""The exit code after a second SIGINT: 128 + SIGINT, as shells have it."""


class Worker:
    """Serves. Also what the admin pages look at (`telemetry.admin.AdminState`)."""

    def __init__(
        self,
        load: Callable[[Snapshot], Loaded],
        loop_name: str,
        handed: HandedSockets,
        manager: ServiceManager,
        *,
        watches: bool = False,
    ) -> None:
        """`load` reads the configuration, now and at every reload. `loop_name`: the event loop's, for the build info.

        handed   sockets of the service manager, each for a listener
        manager  is told of start, reloads and end
        watches  changes of what was read bring about a reload
        """
        self._load = load
        self._handed = handed
        self._manager = manager
        self._watches = watches
        self._watch: Watch | None = None
        self._seen = Snapshot()  # what was read last, whatever became of it
        self._digest = b""  # of what the configuration in force was read from
        self._first: Parts | None = None
        self._listeners: dict[Place, Listener] = {}
        self._admin: tuple[Place, AdminServer] | None = None
        self._replaced_admins: list[AdminServer] = []  # not closed yet
        self._means: Means | None = None
        self._config: Config | None = None
        self._stopping = False
        self._tunnels_cut = 0
        self._reloading = asyncio.Lock()
        self._asked = False  # by SIGHUP, and nothing has been read for it yet
        self._hanging = 0  # threads that read the configuration and have not come back
        self._admission = Admission(0)
        self._own_connections = OwnConnections()
        self.metrics = Metrics(version=__version__, loop=loop_name, live_drafts=self.open_drafts)
        self._telemetry = Telemetry((), self.metrics)
        self.sources: Sequence[str] = ()
        self.generation = 0
        self.loaded_at_unix_s = 0.0
        self.last_reload_problems: Sequence[Problem] = ()
        self.notes: Sequence[Problem] = ()
        self._locate: Callable[[Way], tuple[str, int | None]] | None = None

    # --- what the admin pages see ---------------------------------------------------------------------------------

    @property
    def ready(self) -> str | None:
        """None when connections are taken, else why not."""
        if self._stopping:
            return "draining"
        return None if self._means is not None else "starting"

    @property
    def config(self) -> Config:
        """The configuration in force."""
        assert self._config is not None, "asked before the first configuration was put in place"
        return self._config

    @property
    def policy(self) -> Policy:
        """The policy in force."""
        assert self._means is not None, "asked before the first configuration was put in place"
        return self._means.policy

    def locate(self, way: Way) -> tuple[str, int | None]:
        """File and line of a setting in force."""
        assert self._locate is not None, "asked before the first configuration was put in place"
        return self._locate(way)

    def open_drafts(self) -> Collection[RecordDraft]:
        """The open connections."""
        return self._admission.drafts

    # --- the life of the worker -----------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Read the first configuration and bind. Raises ConfigError or BindError before anything has started."""
        self._first = build(self._load(self._seen), listening={}, admin=None, before=None, handed=self._handed)

    async def serve(self) -> int:
        """Run until told to end; the exit code."""
        first, self._first = self._first, None
        assert first is not None, "prepare() comes first"
        loop = self._loop = asyncio.get_running_loop()
        self._poller = create_poller(loop)
        self._tasks = Tasks(loop)
        self._stories = Stories(loop)
        self._refresher = Refresher(loop)
        self._rejudging = Rejudging(self._admission, self._tasks)
        if self._watches:
            self._watch = Watch(loop, lambda: self._in_background(self._reload(asked=False), "reload"))
        self._end: asyncio.Future[int] = loop.create_future()
        for number, action in self._signals().items():
            loop.add_signal_handler(number, action)
        try:
            if await self._put_in_place(first):
                self._announce()
                self._manager.ready()
                if self._watch is not None:
                    self._watch.use(self._seen)
            del first  # what only loading needs of it is large when the configuration is
            gc.collect()
            gc.freeze()
            return await self._end
        finally:
            await self._give_up_everything()

    def _signals(self) -> dict[signal.Signals, Callable[[], None]]:
        return {
            signal.SIGTERM: self._drain_soon,
            signal.SIGINT: self._interrupt,
            signal.SIGHUP: self._reload_soon,
            signal.SIGUSR1: self._reopen_logs,
        }

    def _in_background(self, coroutine: Coroutine[Any, Any, None], name: str) -> None:
        self._tasks.start(coroutine, name)

    def _announce(self) -> None:
        for listener in self._listeners.values():
            logger.info("%s listens on %s port %d", listener.entrance.label, *listener.sock.getsockname()[:2])
        if self._admin is not None:
            logger.info("admin pages on http://%s/", Endpoint(*self._admin[0]))

    # --- configurations -------------------------------------------------------------------------------------------

    async def _put_in_place(self, parts: Parts) -> bool:
        """From here on new connections are served by this configuration; False if the end came first.

        What is new is started before anything changes; then all changes in one step, which no signal can come between; what
        is replaced is closed behind it.
        """
        config = parts.loaded.config
        for note in parts.notes:
            if note not in self.notes:  # told when what is in force came into force
                logger.warning("%s", note)
        warn_of_descriptors(config)
        try:
            new_admin = await self._start_admin(config, parts)
        except BaseException:
            parts.give_back()
            raise
        if self._stopping:
            if new_admin is not None:
                await new_admin.close()
            parts.give_back()
            return False
        self._change_admin(config, new_admin)
        replaced_logs = self._telemetry.use_logs(parts.logs)
        if self._means is None:
            self._means = self._first_means(config)
        means = self._means
        services = means.use(config, parts)
        self.metrics.watch(means.resolver, means.dialer, means.upstreams)
        self.metrics.watch_identities(means.identities)
        self._config = config
        self._digest = parts.loaded.snapshot.digest
        self._refresher.use(parts.identities)
        self._change_listeners(config, services, parts)
        self.sources, self.notes = parts.loaded.sources, parts.notes
        self._locate = parts.loaded.locate
        self.metrics.counts_clusters = counts_clusters(config)
        self.generation += 1
        self.loaded_at_unix_s = time.time()
        self.last_reload_problems = ()
        self.metrics.config_loaded(self.generation, self.loaded_at_unix_s)
        writers = [log.writer for log in replaced_logs]
        closing = [self._loop.run_in_executor(None, writer.close, LAST_LINES_S) for writer in writers]
        await self._close_replaced_admins()
        for each in closing:
            await each
        self.metrics.logs_closed(writers)
        return True

    def _first_means(self, config: Config) -> Means:
        return Means(
            self._loop,
            self._poller,
            self._stories,
            self._telemetry,
            self._admission,
            self._own_connections,
            config,
        )

    def _change_listeners(self, config: Config, services: dict[Place, Services], parts: Parts) -> None:
        wanted: set[Place] = set()
        asked = config.asked
        for settings in config.listeners:
            place = (settings.address, settings.port)
            wanted.add(place)
            entrance = entrance_of(settings, config.limits, parts.contexts.get(place), parts.registry, asked)
            if place in self._listeners:
                self._listeners[place].use(entrance, services[place])
            else:
                listener = Listener(
                    parts.sockets[place], entrance, services[place], self._poller, self._stories, self._loop
                )
                self._listeners[place] = listener
                listener.start()
        for place in self._listeners.keys() - wanted:
            self._listeners.pop(place).stop()

    async def _start_admin(self, config: Config, parts: Parts) -> AdminServer | None:
        """The admin pages at their new place; None where they stay where they are, or are not wanted."""
        sock = None if config.admin is None else parts.sockets.get((config.admin.address, config.admin.port))
        return None if sock is None else await start_admin(self, sock)

    def _change_admin(self, config: Config, new: AdminServer | None) -> None:
        """Show the pages at the new place, or nowhere, if they leave the old one."""
        if self._admin is not None and (new is not None or config.admin is None):
            self._replaced_admins.append(self._admin[1])
            self._admin = None
        if config.admin is not None and new is not None:
            self._admin = (config.admin.address, config.admin.port), new

    async def _close_replaced_admins(self) -> None:
        while self._replaced_admins:
            await self._replaced_admins[-1].close()
            self._replaced_admins.pop()

    def _reload_soon(self) -> None:
        """Who asks while another one who asked still waits means the same: what is read then is read for both."""
        if not self._asked:
            self._asked = True
            self._in_background(self._reload_and_tell(), "reload")

    async def _reload_and_tell(self) -> None:
        self._manager.reloading()
        await self._reload()
        if not self._stopping:
            self._manager.ready()

    async def _reload(self, *, asked: bool = True) -> None:
        """`asked`: by somebody, so that what was read counts as news even where it is the same."""
        async with self._reloading:
            if asked:
                self._asked = False
            if self._stopping:
                return
            if self._hanging == MAX_HANGING:
                self._refuse(_reload_fault(f"{MAX_HANGING} have not come back yet from reading the files"), asked)
                return
            snapshot = Snapshot(waits=asked)
            building = self._build_again(snapshot, asked)
            try:
                came_back, _ = await asyncio.wait((building,), timeout=READ_HANGS_S)
            except asyncio.CancelledError:  # the end came meanwhile, and nothing stops the thread
                building.add_done_callback(give_back)
                raise
            if not came_back:
                self._leave_hanging(building, asked)
                return
            self._seen = snapshot
            if self._watch is not None:
                self._watch.use(snapshot)
            try:
                parts = building.result()
            except (ConfigError, BindError) as error:
                self._refuse(error, asked)
                return
            except Exception as error:
                logger.exception("a defect, while the configuration was read")
                defect = f"a defect ({type(error).__name__}); the proxy's own log has the details"
                self._refuse(_reload_fault(defect), asked)
                return
            if parts is None:
                self._go_on_as_before()
                return
            if self.ready == "draining":  # since the files were read
                parts.give_back()
            elif await self._put_in_place(parts):
                logger.info("reloaded: configuration %d is in force", self.generation)
                self._rejudging.begin(parts.loaded.config, parts.policy)
                return
            logger.info("reload given up: the proxy is draining")

    def _leave_hanging(self, building: asyncio.Future[Parts | None], asked: bool) -> None:
        """Wait no longer. What it makes after all is out of date: should it ever come back, the files are read again."""
        self._hanging += 1

        def came_back(building: asyncio.Future[Parts | None]) -> None:
            self._hanging -= 1
            give_back(building)
            if not self._stopping:
                self._in_background(self._reload(asked=False), "reload")

        building.add_done_callback(came_back)
        hangs = (
            f"reading the files has not ended after {READ_HANGS_S:g} s; does a file system hang? SIGHUP reads them anew"
        )
        self._refuse(_reload_fault(hangs), asked)

    def _refuse(self, error: ConfigError | BindError, asked: bool) -> None:
        """Tell why what was read is not put in place; what somebody did not ask for, and is as before, without words."""
        problems = error.problems if isinstance(error, ConfigError) else (Problem("reload", None, "", str(error)),)
        self.metrics.reload_failed()
        if asked or problems != self.last_reload_problems:
            self.last_reload_problems = problems
            for problem in problems:
                logger.error("%s", problem)
            logger.error("reload refused: the configuration of before stays in force")

    def _go_on_as_before(self) -> None:
        """What was read is what is in force; before it something may have been refused."""
        if self.last_reload_problems:
            self.last_reload_problems = ()
            self.metrics.config_loaded(self.generation, self.loaded_at_unix_s)
            logger.info("the files say again what is in force, which is configuration %d", self.generation)

    def _build_again(self, snapshot: Snapshot, asked: bool) -> asyncio.Future[Parts | None]:
        """In a thread, so that a million host names do not hold up a single tunnel, nor files that cannot be read the end.

        snapshot  is filled with what was seen
        asked     False: None is the result where what was read is what the configuration in force was read from
        """
        listening = {place: listener.entrance.transparent for place, listener in self._listeners.items()}
        admin = self._admin[0] if self._admin is not None else None
        before = None if self._means is None else self._means.identities
        in_force = None if asked else self._digest
        built: asyncio.Future[Parts | None] = self._loop.create_future()

        def read() -> Parts | None:
            loaded = self._load(snapshot)
            return None if snapshot.digest == in_force else build(loaded, listening, admin, before, self._handed)

        def work() -> None:
            try:
                settle = partial(built.set_result, read())
            except Exception as error:
                settle = partial(built.set_exception, error)
            try:
                self._loop.call_soon_threadsafe(settle)
            except RuntimeError:
                pass  # the loop is closed, and the process about to end

        threading.Thread(target=work, name="reload", daemon=True).start()
        return built

    def _reopen_logs(self) -> None:
        self._telemetry.reopen_logs()
        logger.info("access logs reopened")

    # --- the end --------------------------------------------------------------------------------------------------

    def _interrupt(self) -> None:
        if not self._stopping:
            self._drain_soon()
        elif not self._end.done():
            logger.warning("interrupted again: stopping at once")
            self._end.set_result(EXIT_AT_ONCE)

    def _drain_soon(self) -> None:
        if not self._stopping:
            self._stopping = True
            self._in_background(self._drain(), "drain")

    async def _drain(self) -> None:
        drain_s = self._config.timeouts.drain_s if self._config is not None else 0.0  # None: told so during the start
        self._manager.stopping(drain_s)
        self._admission.last_requests = True
        for listener in self._listeners.values():
            listener.stop()
        logger.info("draining: no new tunnels; %d connections may go on for %g s", len(self._admission), drain_s)
        await asyncio.sleep(0)  # those who were still in the kernel's queue have sent their heads: let them be read
        await asyncio.sleep(0)
        self._admission.draining = True
        parting = self._loop.call_later(min(LAST_REQUESTS_S, drain_s / 2), self._part_with_kept) if drain_s else None
        if parting is None:
            self._part_with_kept()
        if not await self._admission.wait_until_empty(drain_s):
            logger.warning("drain deadline: %d connections cut", len(self._admission))
            self._cut_tunnels("drained")
        if parting is not None:
            parting.cancel()
        if not self._end.done():
            self._end.set_result(0)

    def _part_with_kept(self) -> None:
        """Close what was kept for another request that did not come."""
        self._admission.last_requests = False
        if self._means is not None:
            self._means.let_go_of_idle_clients()

    def _cut_tunnels(self, end: str) -> None:
        if self._means is not None:
            self._tunnels_cut += self._means.cut_tunnels(end)

    async def _give_up_everything(self) -> None:
        """Close whatever is still open, with a bound on every wait."""
        for number in self._signals():
            self._loop.remove_signal_handler(number)
        for late in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
            signal.signal(late, signal.SIG_IGN)  # their default would end the process before its last lines are written
        for listener in self._listeners.values():
            listener.stop()
        self._refresher.close()
        if self._watch is not None:
            self._watch.close()
        self._cut_tunnels("cut")
        await self._stories.wait(LAST_RECORDS_S)
        await self._stories.cancel()
        await self._tasks.cancel()
        if self._means is not None:
            self._means.close()
        if self._admin is not None:
            await self._admin[1].close()
        await self._close_replaced_admins()
        self._telemetry.close(LAST_LINES_S)
        self._poller.close()
        cut = self._tunnels_cut
        logger.info("stopped: %s", f"{cut} tunnel{'' if cut == 1 else 's'} cut" if cut else "no tunnel was cut")


def _reload_fault(message: str) -> ConfigError:
    """What is wrong with a reload, and not with a file."""
    return ConfigError([Problem("reload", None, "", message)])


def give_back(building: asyncio.Future[Parts | None]) -> None:
    """What was built for a reload that nobody waits for any more."""
    if not building.cancelled() and building.exception() is None and (parts := building.result()) is not None:
        parts.give_back()


def warn_of_descriptors(config: Config) -> None:
    """Raise the limit of open files as far as it goes, and say so where that is not enough for `limits.max_tunnels`."""
    wanted = 2 * config.limits.max_tunnels + SPARE_DESCRIPTORS
    granted = raise_descriptor_limit(wanted)
    if granted < wanted:
        logger.warning(
            "limits.max_tunnels %d needs %d descriptors and %d are allowed (ulimit -n): above about %d tunnels clients wait",
            config.limits.max_tunnels,
            wanted,
            granted,
            max(0, (granted - SPARE_DESCRIPTORS) // 2),
        )
