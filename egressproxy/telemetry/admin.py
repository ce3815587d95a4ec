"""The pages of the admin port: metrics, health, open tunnels, the running configuration, and why a target is refused.

Some have the names and shapes of Envoy's admin interface (https://www.envoyproxy.io/docs/envoy/latest/operations/admin), for
people and tools that look there: `/clusters`, `/stats`, `/listeners`, `/config_dump`.

Everything here only reads, so GET and HEAD are the only methods. No page asks DNS or anything else outside, and each is
bounded, because the event loop that serves it carries the tunnels too.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import Counter
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, Protocol

from aiohttp import hdrs, web
from pydantic import BaseModel

from egressproxy.errors import MalformedTarget
from egressproxy.model import Endpoint
from egressproxy.policy.explanation import intent_about, listener_for
from egressproxy.telemetry.clusters import Line, Table, known_clusters
from egressproxy.telemetry.name_filter import name_filter
from egressproxy.telemetry.route_tables import config_dump, listener_statuses, listeners, route_tables

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Sequence

    from egressproxy.config.faults import Way
    from egressproxy.config.schema.config import Config
    from egressproxy.model import Problem
    from egressproxy.policy.policy import Policy
    from egressproxy.telemetry.metrics import Metrics
    from egressproxy.telemetry.record import RecordDraft

logger = logging.getLogger(__name__)

TUNNELS_SHOWN = 100
MAX_TUNNELS_SHOWN = 1000
"""At most this many in one answer: some 10 ms of the event loop."""

MAX_LISTED = 1000
"""Entries shown of one list of the configuration, and MAX_LISTED_WITHIN of a list inside such an entry."""
MAX_LISTED_WITHIN = 50

MAX_CONNECTIONS = 64
"""Open at once; one more is closed."""

_QUESTIONS = frozenset({"to", "client", "method", "listener", "address"})

MAX_ADDRESSES = 16
"""Addresses that one /explain judges."""

MAX_LINES = 10_000
"""Of `/clusters` and `/stats`."""
SLICE_S = 0.002
"""How long one of these is put together in a row, before everybody else has a turn."""
MAX_ANSWER_S = 5.0
"""And in all. A filter that takes longer is too hard."""
_FILTERED = frozenset({"filter", "format", "usedonly"})

_NOT_COUNTED = "# nothing is counted by cluster: no services, no routes, and outbound is registry_only\n"

_MAX_LINE_BYTES = 8190
_KEEP_ALIVE_S = 15.0
_SHUTDOWN_S = 1.0
_READ_METHODS = (hdrs.METH_GET, hdrs.METH_HEAD)

INDEX = """\
egressproxy admin port

/metrics      counters, for Prometheus or OpenMetrics
/livez        200 while the process runs
/readyz       200 when new tunnels are taken, 503 with the reason otherwise
/tunnels      open connections, oldest first; ?limit=N
/config       the configuration in use, notes on it, and why the last reload was refused
/mode         what becomes of hosts that nothing names: ALLOW_ANY or REGISTRY_ONLY
/explain      what the policy says: ?to=HOST:PORT, or ?to=http://HOST/PATH for a plain request, and if wanted &client=IP
              &method=GET &listener=NAME &address=IP

as Envoy has them:
/clusters     counters by cluster and endpoint; ?filter=REGEX
/stats        counters by cluster, by listener, and of the SNI check; ?filter=REGEX ?usedonly ?format=prometheus
/listeners    names and addresses; ?format=json
/routes       where hosts lead, as JSON: one table per port of a service
/config_dump  listeners and routes, as JSON
"""


class AdminState(Protocol):
    """What the pages show, as it is at the moment of asking."""

    @property
    def ready(self) -> str | None:
        """None when new tunnels are taken, else why not, in words."""

    @property
    def config(self) -> Config:
        """The configuration in use."""

    @property
    def generation(self) -> int:
        """Its number: 1 at start, one more per reload."""

    @property
    def loaded_at_unix_s(self) -> float:
        """When it was loaded."""

    @property
    def sources(self) -> Sequence[str]:
        """The files it was read from; empty for the built-in default."""

    def locate(self, way: Way, /) -> tuple[str, int | None]:
        """File and line of a setting; no line where it is not written."""

    @property
    def notes(self) -> Sequence[Problem]:
        """What is worth knowing about the configuration in use."""

    @property
    def last_reload_problems(self) -> Sequence[Problem]:
        """Why the last reload was refused; empty if it was not."""

    @property
    def policy(self) -> Policy:
        """The policy in use."""

    @property
    def metrics(self) -> Metrics:
        """The counters."""

    def open_drafts(self) -> Collection[RecordDraft]:
        """The open connections, oldest first."""


class AdminServer:
    """The admin port at work. `close` ends it and closes its socket."""

    def __init__(self, runner: web.AppRunner, listening: asyncio.Server) -> None:
        """See `start_admin`."""
        self._runner = runner
        self._listening = listening

    async def close(self) -> None:
        """Stop serving; requests under way have a second. Safe to call again."""
        self._listening.close()
        await self._runner.cleanup()


async def start_admin(state: AdminState, sock: socket.socket) -> AdminServer:
    """Serve the pages on a socket that is bound already. The server owns the socket; the caller closes the server."""
    runner = web.AppRunner(
        _application(state),
        handle_signals=False,
        access_log=None,
        keepalive_timeout=_KEEP_ALIVE_S,
        lingering_time=0.0,
        shutdown_timeout=_SHUTDOWN_S,
        max_line_size=_MAX_LINE_BYTES,
        max_field_size=_MAX_LINE_BYTES,
    )
    await runner.setup()
    # What clients get wrong is answered 400; aiohttp would also log each with a traceback.
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)
    server = runner.server
    assert server is not None, "setup() makes it"

    def admit() -> asyncio.BaseProtocol:
        return server() if len(server.connections) < MAX_CONNECTIONS else _TurnedAway()

    listening = await asyncio.get_running_loop().create_server(admit, sock=sock)
    return AdminServer(runner, listening)


class _TurnedAway(asyncio.Protocol):
    """One connection too many: closed at once, so that those to the admin port never take the tunnels' descriptors."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


def _application(state: AdminState) -> web.Application:
    pages = _Pages(state)
    application = web.Application(middlewares=[_reading_only], client_max_size=1024)
    application.on_response_prepare.append(_say_how_to_treat_it)
    application.add_routes(
        [
            web.get("/", pages.index),
            web.get("/metrics", pages.metrics),
            web.get("/livez", pages.livez),
            web.get("/readyz", pages.readyz),
            web.get("/tunnels", pages.tunnels),
            web.get("/config", pages.config),
            web.get("/explain", pages.explain),
            web.get("/mode", pages.mode),
            web.get("/clusters", pages.clusters),
            web.get("/stats", pages.stats),
            web.get("/listeners", pages.listeners),
            web.get("/routes", pages.routes),
            web.get("/config_dump", pages.config_dump),
        ]
    )
    return application


@web.middleware
async def _reading_only(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    if request.method not in _READ_METHODS:
        raise web.HTTPMethodNotAllowed(request.method[:32], _READ_METHODS, text="only GET and HEAD\n")
    try:
        return await handler(request)
    except web.HTTPException:
        raise
    except Exception:
        logger.exception("a defect, on the admin page %s", request.path)
        raise web.HTTPInternalServerError(text="a defect; the proxy's own log has the details\n") from None


async def _say_how_to_treat_it(_request: web.Request, response: web.StreamResponse) -> None:
    response.headers[hdrs.SERVER] = "egressproxy"
    response.headers[hdrs.CACHE_CONTROL] = "no-store"
    response.headers["X-Content-Type-Options"] = "nosniff"


class _Pages:
    """One method per page."""

    def __init__(self, state: AdminState) -> None:
        self._state = state
        self._drawing = asyncio.Lock()

    async def index(self, _request: web.Request) -> web.Response:
        return web.Response(text=INDEX)

    async def metrics(self, request: web.Request) -> web.Response:
        body, content_type = self._state.metrics.exposition(request.headers.get(hdrs.ACCEPT, ""))
        return web.Response(body=body, headers={hdrs.CONTENT_TYPE: content_type})

    async def livez(self, _request: web.Request) -> web.Response:
        return web.Response(text="alive\n")

    async def readyz(self, _request: web.Request) -> web.Response:
        reason = self._state.ready
        return web.Response(text="ready\n") if reason is None else web.Response(status=503, text=f"{reason}\n")

    async def tunnels(self, request: web.Request) -> web.Response:
        limit = _limit(request.query.get("limit"))
        drafts = self._state.open_drafts()
        now = time.monotonic()
        shown = [draft.view(now) for draft in islice(drafts, limit)]
        return web.json_response({"open": len(drafts), "shown": len(shown), "tunnels": shown})

    async def config(self, _request: web.Request) -> web.Response:
        state = self._state
        not_shown: dict[str, int] = {}
        config = _shortened(state.config, "", MAX_LISTED, not_shown)
        shown = config.model_dump(
            mode="json", exclude_none=True, by_alias=True
        )  # in the native form what is not set is left out,
        shown.setdefault("admin", None)  # and null is a word of the admin port only
        return web.json_response(
            {
                "generation": state.generation,
                "loaded_at": _iso_time(state.loaded_at_unix_s),
                "sources": list(state.sources),
                "notes": [note._asdict() for note in state.notes[:MAX_LISTED]],
                "last_reload_problems": [problem._asdict() for problem in state.last_reload_problems],
                "not_shown": not_shown,
                "config": shown,
            }
        )

    async def mode(self, _request: web.Request) -> web.Response:
        """As Istio's mesh configuration writes it."""
        return web.Response(text=f"outboundTrafficPolicy:\n  mode: {self._state.config.outbound.upper()}\n")

    async def clusters(self, request: web.Request) -> web.Response:
        wanted = _wanted(request)
        state = self._state
        table = await self._table()
        note = "" if state.metrics.counts_clusters else _NOT_COUNTED
        body = await _in_slices(
            f"{name}::{value}" if wanted(name, value) else None for name, value in table.cluster_lines()
        )
        return web.Response(text=note + body)

    async def stats(self, request: web.Request) -> web.Response:
        wanted = _wanted(request)
        match request.query.get("format", "text"):
            case "prometheus":
                return await self.metrics(request)
            case "text":
                pass
            case other:
                raise web.HTTPBadRequest(text=f"expected format=text or prometheus, got {_visible(other[:40])}\n")
        table = await self._table()
        lines = chain(table.stats_lines(), self._other_stats())
        return web.Response(
            text=await _in_slices(f"{name}: {value}" if wanted(name, value) else None for name, value in lines)
        )

    async def _table(self) -> Table:
        """What is known and what was counted, by cluster."""
        state, table = self._state, Table()
        for cluster, endpoint in known_clusters(state.config):
            table.know(cluster, endpoint)
        clock = _Slices()
        for cluster, endpoint, counts in state.metrics.clusters.entries(list(state.open_drafts())):
            table.add(cluster, endpoint, counts)
            await clock.breathe()
        return table

    def _other_stats(self) -> Iterator[Line]:
        """Connections by listener, open ones and all; and what the SNI check found."""
        state = self._state
        ended = state.metrics.connections_by_listener()
        active = Counter(draft.listener for draft in state.open_drafts())
        for each in listeners(state.config):
            name = f"listener.{each['name'].replace(':', '_')}"
            yield Line(f"{name}.downstream_cx_active", active[each["label"]])
            yield Line(f"{name}.downstream_cx_total", active[each["label"]] + ended.get(each["label"], 0))
        for statistic, count in state.metrics.sni_verifier().items():
            yield Line(f"sni_verifier.{statistic}", count)

    async def listeners(self, request: web.Request) -> web.Response:
        config = self._state.config
        if request.query.get("format") == "json":
            return web.json_response(listener_statuses(config))
        lines = (f"{each['name']}::{Endpoint(each['address'], each['port'])}\n" for each in listeners(config))
        return web.Response(text="".join(lines))

    async def routes(self, _request: web.Request) -> web.Response:
        return await self._drawn(route_tables)

    async def config_dump(self, _request: web.Request) -> web.Response:
        return await self._drawn(config_dump)

    async def _drawn(self, draw: Callable[[Config], object]) -> web.Response:
        """Tables of a large configuration take a second: one at a time, in a thread, so that connections go on meanwhile."""
        config = self._state.config
        async with self._drawing:
            text = await asyncio.to_thread(lambda: json.dumps(draw(config)))
        return web.Response(text=text, content_type="application/json")

    async def explain(self, request: web.Request) -> web.Response:
        state, query = self._state, request.query
        try:
            unknown = sorted(set(query) - _QUESTIONS)
            if unknown:
                raise ValueError(f"expected only {', '.join(sorted(_QUESTIONS))}, got {', '.join(unknown)[:80]!a}")
            if "to" not in query:
                raise ValueError("expected ?to=HOST:PORT, as in /explain?to=api.example.com:443")
            addresses = query.getall("address", [])
            if len(addresses) > MAX_ADDRESSES:
                raise ValueError(f"expected at most {MAX_ADDRESSES} addresses, got {len(addresses)}")
            intent = intent_about(
                query["to"],
                query.get("client", "127.0.0.1"),
                "",
                query.get("method"),
            )
            intent = intent._replace(listener=listener_for(state.config.listeners, intent, query.get("listener")))
            explanation = state.policy.explain(intent, addresses, locate=state.locate)
        except (ValueError, MalformedTarget) as error:
            raise web.HTTPBadRequest(text=f"{_visible(str(error))}\n") from error
        if "text/" in request.headers.get(hdrs.ACCEPT, ""):
            return web.Response(text="".join(f"{_visible(line)}\n" for line in explanation.lines()))
        return web.json_response(explanation.as_dict())


def _wanted(request: web.Request) -> Callable[[str, int], object]:
    """What says of a statistic whether it is asked for."""
    unknown = sorted(set(request.query) - _FILTERED)
    if unknown:
        raise web.HTTPBadRequest(
            text=f"expected only {', '.join(sorted(_FILTERED))}, got {', '.join(unknown)[:80]!a}\n"
        )
    try:
        matches = name_filter(request.query.get("filter", ""))
    except ValueError as error:
        raise web.HTTPBadRequest(text=f"{_visible(str(error))}\n") from error
    if "usedonly" in request.query:
        return lambda name, value: value and matches(name)
    return lambda name, _value: matches(name)


class _Slices:
    """Long work on the event loop, in slices, between which everybody else has a turn."""

    def __init__(self) -> None:
        now = time.monotonic()
        self._slice_ends_at, self._give_up_at = now + SLICE_S, now + MAX_ANSWER_S

    async def breathe(self) -> None:
        """Let others have their turn, if it is time. Raises HTTPBadRequest when all of it takes too long."""
        if time.monotonic() > self._slice_ends_at:
            await asyncio.sleep(0)
            now = time.monotonic()
            self._slice_ends_at = now + SLICE_S
            if now > self._give_up_at:
                raise web.HTTPBadRequest(text="this takes too long; ask with a simpler filter\n")


async def _in_slices(lines: Iterable[str | None]) -> str:
    """The lines as one text, `MAX_LINES` at most, and how many there are more. None: one that is not wanted."""
    clock = _Slices()
    kept: list[str] = []
    more = 0
    for line in lines:
        await clock.breathe()
        if line is None:
            continue
        if len(kept) < MAX_LINES:
            kept.append(line)
        else:
            more += 1
    if more:
        kept.append(f"# and {more} more: ask with ?filter=REGEX")
    return "".join(f"{line}\n" for line in kept)


def _limit(text: str | None) -> int:
    if text is None:
        return TUNNELS_SHOWN
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise web.HTTPBadRequest(text=f"expected limit=N with N from 0 to {MAX_TUNNELS_SHOWN}\n")
    return min(int(text), MAX_TUNNELS_SHOWN)


def _shortened(settings: BaseModel, path: str, limit: int, not_shown: dict[str, int]) -> BaseModel:
    """A copy of `settings` in which no list is longer than `limit`; `not_shown` says how much of which was left out."""
    update: dict[str, Any] = {}
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        place = f"{path}{name}"
        if isinstance(value, BaseModel):
            update[name] = _shortened(value, f"{place}.", limit, not_shown)
        if isinstance(value, dict) and len(value) > limit:
            not_shown[place] = len(value) - limit
            update[name] = dict(islice(value.items(), limit))
        if not isinstance(value, tuple):
            continue
        if len(value) > limit:
            not_shown[place] = len(value) - limit
        update[name] = tuple(
            _shortened(item, f"{place}[{index}].", MAX_LISTED_WITHIN, not_shown)
            if isinstance(item, BaseModel)
            else item
            for index, item in enumerate(value[:limit])
        )
    return settings.model_copy(update=update)


def _iso_time(unix_time_s: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(unix_time_s))


def _visible(text: str) -> str:
    """`text` without anything that could steer a terminal: what is not printable is written as an escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
