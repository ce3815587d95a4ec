"""The pages of the admin port: metrics, health, open tunnels, the running configuration, and why a target is refused.

Everything here only reads, so GET and HEAD are the only methods. No page asks DNS or anything else outside, and each is
bounded, because the event loop that serves it carries the tunnels too.
"""

from __future__ import annotations

import asyncio
import logging
import time
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol

from aiohttp import hdrs, web
from pydantic import BaseModel

from egressproxy.errors import MalformedTarget
from egressproxy.policy.explanation import intent_about

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable, Collection, Sequence

    from egressproxy.config.schema import Config
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

_MAX_LINE_BYTES = 8190
_KEEP_ALIVE_S = 15.0
_SHUTDOWN_S = 1.0
_READ_METHODS = (hdrs.METH_GET, hdrs.METH_HEAD)

INDEX = """\
egressproxy admin port

/metrics   counters, for Prometheus or OpenMetrics
/livez     200 while the process runs
/readyz    200 when new tunnels are taken, 503 with the reason otherwise
/tunnels   open connections, oldest first; ?limit=N
/config    the configuration in use, and why the last reload was refused
/explain   what the policy says: ?to=HOST:PORT, or ?to=http://HOST/PATH for a plain request, and if wanted &client=IP
           &method=GET &listener=NAME &address=IP
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
                "last_reload_problems": [problem._asdict() for problem in state.last_reload_problems],
                "not_shown": not_shown,
                "config": shown,
            }
        )

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
                query.get("listener", state.config.listeners[0].label),
                query.get("method"),
            )
            explanation = state.policy.explain(intent, addresses)
        except (ValueError, MalformedTarget) as error:
            raise web.HTTPBadRequest(text=f"{_visible(str(error))}\n") from error
        if "text/" in request.headers.get(hdrs.ACCEPT, ""):
            return web.Response(text="".join(f"{_visible(line)}\n" for line in explanation.lines()))
        return web.json_response(explanation.as_dict())


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
