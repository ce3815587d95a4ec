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
import secrets
import signal
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from egressproxy._version import __version__
from egressproxy.accept import Listener
from egressproxy.admission import Admission
from egressproxy.capture import OwnConnections
from egressproxy.config.snapshot import Snapshot
from egressproxy.connection import Entrance, Services
from egressproxy.deadlines import DeadlineQueue, DeadlineQueues
from egressproxy.dial import Dialer
from egressproxy.errors import ConfigError
from egressproxy.exchange import Carriage
from egressproxy.frontends.auto import AutoFrontend
from egressproxy.frontends.http import HttpFrontend
from egressproxy.frontends.sni import SniFrontend
from egressproxy.frontends.tcp import TcpFrontend
from egressproxy.hostport import parse_authority
from egressproxy.model import HTTP_PORT, TLS_PORT, Endpoint, Problem
from egressproxy.parents import parents_of
from egressproxy.policy.networks import NetworkSet
from egressproxy.poller import create_poller
from egressproxy.relay.pipes import PipePool
from egressproxy.relay.relay import Relay
from egressproxy.resolve.resolver import Resolver
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
from egressproxy.upstreams import Balancer, Upstreams
from egressproxy.wire.replies import PROXY_NAME
from egressproxy.wire.request_head import HeadLimits

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Collection, Coroutine, Sequence

    from egressproxy.config.faults import Way
    from egressproxy.config.load import Loaded
    from egressproxy.config.schema.config import Config
    from egressproxy.config.schema.listeners import Listener as ListenerSettings
    from egressproxy.config.schema.stages import Limits
    from egressproxy.frontends.frontend import Frontend
    from egressproxy.model import AskedFields
    from egressproxy.policy.policy import Policy
    from egressproxy.registry import Registry
    from egressproxy.runtime.handed_sockets import HandedSockets
    from egressproxy.runtime.service_manager import ServiceManager
    from egressproxy.telemetry.record import RecordDraft

logger = logging.getLogger("egressproxy")

SPARE_DESCRIPTORS = 128
"""Beside two for each tunnel: listeners, logs, resolver, pipes, admin connections."""
REFUSED_LINGER_S = 1.0
"""How long a refused client is given to take its answer and close."""
RETIRED_RESOLVER_S = 600.0
"""A replaced resolver is closed after this. A look-up of its that is still under way fails then."""
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
        self._relays: WeakValueDictionary[Place, Relay] = WeakValueDictionary()  # as long as a client may need them
        self._services: Services | None = None  # of the first listener: but for time limits, those of all
        self._config: Config | None = None
        self._stopping = False
        self._tunnels_cut = 0
        self._reloading = asyncio.Lock()
        self._asked = False  # by SIGHUP, and nothing has been read for it yet
        self._hanging = 0  # threads that read the configuration and have not come back
        self._admission = Admission(0)
        self._own_connections = OwnConnections()
        self._via_name = f"{PROXY_NAME}-{secrets.token_hex(4)}"  # a loop is told by it, so no two workers share one
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
        return None if self._services is not None else "starting"

    @property
    def config(self) -> Config:
        """The configuration in force."""
        assert self._config is not None, "asked before the first configuration was put in place"
        return self._config

    @property
    def policy(self) -> Policy:
        """The policy in force."""
        assert self._services is not None, "asked before the first configuration was put in place"
        return self._services.policy

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
        self._pipes = PipePool()
        self._head_deadlines = DeadlineQueues("head_timeout", loop)
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
        services = self._new_services(config, parts)
        self._services = next(iter(services.values()))
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

    def _new_services(self, config: Config, parts: Parts) -> dict[Place, Services]:
        """Those of each listener. They differ in time limits, and share all else."""
        old, timeouts, limits = self._services, config.timeouts, config.limits
        if old is None:
            dialer = Dialer(self._poller, self._loop, timeouts.connect_s)
            linger = DeadlineQueue("linger", REFUSED_LINGER_S, self._loop)
            upstreams = Upstreams(dialer, self._own_connections, self._loop, timeouts.upstream_idle_s)
            keep_alive = DeadlineQueue("keep_alive", timeouts.keep_alive_s, self._loop)
        else:
            dialer, linger = old.dialer, old.linger_deadlines
            upstreams, keep_alive = old.carriage.upstreams, old.keep_alive_deadlines
            if keep_alive.delay_s != timeouts.keep_alive_s:
                keep_alive.pass_all()
                keep_alive = DeadlineQueue("keep_alive", timeouts.keep_alive_s, self._loop)
            dialer.configure(timeouts.connect_s)
        upstreams.configure(
            max_kept=limits.max_pooled,
            max_kept_each=limits.max_pooled_each,
            idle_s=timeouts.upstream_idle_s,
            lifetime_s=timeouts.upstream_lifetime_s,
        )
        resolver = self._resolver_for(config)
        self.metrics.watch(resolver, dialer, upstreams)
        self.metrics.watch_identities(parts.identities)
        self._admission.max_tunnels = config.limits.max_tunnels
        self._own_connections.watched = any(listener.transparent is not None for listener in config.listeners)
        own_fields = [frozenset(name.lower().encode() for name in each.set_headers) for each in config.services]
        idle = DeadlineQueues("idle_timeout", self._loop)
        half_close = DeadlineQueues("half_close_timeout", self._loop)
        response = DeadlineQueues("upstream_timeout", self._loop)
        registry = parts.registry if config.services else None
        parents, balancer = parents_of(config), Balancer()
        relays = self._change_relays(config)
        found: dict[Place, Services] = {}
        for listener in config.listeners:
            place, times = (listener.address, listener.port), timeouts.at(listener)
            carriage = Carriage(
                settings=config.http,
                name=config.http.via_name or self._via_name,
                limits=head_limits(limits),
                max_body_bytes=limits.max_body_bytes,
                identities=parts.identities,
                own_fields=own_fields,
                upstreams=upstreams,
                stories=self._stories,
                relay=relays[place],
                telemetry=self._telemetry,
                admission=self._admission,
                idle=idle,
                idle_s=times.idle_s,
                half_close=half_close,
                half_close_s=times.half_close_s,
                connect_s=None if listener.timeouts is None else listener.timeouts.connect_s,
                linger=linger,
                response=response,
            )
            found[place] = Services(
                policy=parts.policy,
                registry=registry,
                parents=parents,
                balancer=balancer,
                resolver=resolver,
                dialer=dialer,
                relay=relays[place],
                carriage=carriage,
                telemetry=self._telemetry,
                admission=self._admission,
                head_deadlines=self._head_deadlines.of(times.head_s),
                keep_alive_deadlines=keep_alive,
                linger_deadlines=linger,
                max_hello_bytes=limits.max_hello_bytes,
                lifetime_s=timeouts.lifetime_s or float("inf"),
                own_connections=self._own_connections,
            )
        return found

    def _change_relays(self, config: Config) -> dict[Place, Relay]:
        """Each listener's own, so that a short time of one has the tunnels of the others looked at no more often.

        Open tunnels follow the times of the listener they came in by; those of one that is gone, the general times.
        """
        before = dict(self._relays)
        times = dict.fromkeys(before, config.timeouts)
        times |= {(each.address, each.port): config.timeouts.at(each) for each in config.listeners}
        relays: dict[Place, Relay] = {}
        for place, each in times.items():
            limits = (each.idle_s, each.half_close_s, each.lifetime_s)
            relay = before.get(place)
            if relay is None:
                relay = self._relays[place] = Relay(self._poller, self._loop, *limits, pipes=self._pipes)
            else:
                relay.configure(*limits)
            relays[place] = relay
        return relays

    def _resolver_for(self, config: Config) -> Resolver:
        """The running resolver with its cache, unless the settings changed."""
        old = self._services
        if old is not None and self.config.dns == config.dns:
            return old.resolver
        if old is not None:
            self._loop.call_later(RETIRED_RESOLVER_S, old.resolver.close)
        return Resolver(config.dns)

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
        before = None if self._services is None else self._services.carriage.identities
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
        if self._services is not None:
            self._services.keep_alive_deadlines.pass_all()

    def _cut_tunnels(self, end: str) -> None:
        self._tunnels_cut += sum(relay.cut_all(end) for relay in self._relays.values())

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
        for relay in self._relays.values():
            relay.close()
        self._pipes.close()
        self._head_deadlines.close()
        if self._services is not None:
            self._services.carriage.close()
            self._services.keep_alive_deadlines.close()
            self._services.dialer.close()
            self._services.linger_deadlines.close()
            self._services.resolver.close()
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


def entrance_of(
    settings: ListenerSettings,
    limits: Limits,
    tls: ssl.SSLContext | None,
    registry: Registry,
    asked: AskedFields | None,
) -> Entrance:
    """How the clients of this listener come in. `asked`: header fields that are kept for access logs."""
    label, port = settings.label, settings.service_port
    target = None if settings.target is None else parse_authority(settings.target)
    heads = head_limits(limits)
    frontend: Frontend
    match settings.protocol:
        case "http-proxy":
            frontend = HttpFrontend(label, heads, manager=settings.port if settings.manager else None, asked=asked)
        case "http":
            frontend = HttpFrontend(label, heads, is_proxy=False, by_host=port or HTTP_PORT, asked=asked)
        case "sni":
            frontend = SniFrontend(label, port or TLS_PORT, limits.max_hello_bytes, target)
        case "auto":
            sni = SniFrontend(label, port or TLS_PORT, limits.max_hello_bytes)
            http = HttpFrontend(label, heads, by_host=HTTP_PORT, asked=asked)
            frontend = AutoFrontend(http, sni, TcpFrontend(label, None), registry.takes_unseen)
        case "tcp":
            frontend = TcpFrontend(label, target)
    announced = settings.proxy_protocol
    return Entrance(
        label,
        frontend,
        tls,
        settings.transparent,
        None if announced is None else NetworkSet(announced.announcers),
        settings.port,
    )


def head_limits(limits: Limits) -> HeadLimits:
    """What heads of messages may take."""
    return HeadLimits(limits.max_head_bytes, limits.max_headers, limits.max_target_bytes)


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
