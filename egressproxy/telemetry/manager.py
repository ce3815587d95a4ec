"""Squid's manager pages, for the tools and fingers that ask for them: `/squid-internal-mgr/info` and the like.

They are served on the proxy's own port, to whom the rules let reach them, and only where the listener has `manager: true`
(https://wiki.squid-cache.org/Features/CacheManager). What Squid counts and this proxy has not (its cache, above all) is left
out; everything about the proxy that these pages do not know is on the admin port.
"""

from __future__ import annotations

import time
from email.utils import formatdate
from itertools import islice
from typing import TYPE_CHECKING

from egressproxy._version import __version__
from egressproxy.model import Endpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from egressproxy.telemetry.metrics import Metrics
    from egressproxy.telemetry.record import RecordDraft

MAX_ACTIVE = 1000
"""Connections listed on one page."""

_KIB = 1024


def page(name: str, metrics: Metrics, drafts: Collection[RecordDraft]) -> str | None:
    """The text of a page; None where there is none of that name. `drafts`: the open connections."""
    found = _PAGES.get(name or "menu")
    return None if found is None else found[1](metrics, drafts)


def _menu(metrics: Metrics, drafts: Collection[RecordDraft]) -> str:
    return "".join(f" {name:<22}\t{what:<40}\tpublic\n" for name, (what, _) in _PAGES.items())


def _info(metrics: Metrics, drafts: Collection[RecordDraft]) -> str:
    totals = metrics.totals()
    now = time.time()
    uptime_s = now - metrics.started_at_unix_s
    return (
        f"egressproxy {__version__}\n"
        f"Start Time:\t{formatdate(metrics.started_at_unix_s, usegmt=True)}\n"
        f"Current Time:\t{formatdate(now, usegmt=True)}\n"
        "Connection information:\n"
        f"\tNumber of clients accessing cache:\t{len({draft.client for draft in drafts})}\n"
        f"\tNumber of connections open:\t{len(drafts)}\n"
        f"\tNumber of HTTP requests received:\t{totals.requests}\n"
        f"\tAverage HTTP requests per minute since start:\t{totals.requests * 60 / max(uptime_s, 1):.1f}\n"
        "Resource usage:\n"
        f"\tUP Time:\t{uptime_s:.3f} seconds\n"
        f"\tCPU Time:\t{time.process_time():.3f} seconds\n"
    )


def _counters(metrics: Metrics, drafts: Collection[RecordDraft]) -> str:
    totals = metrics.totals()
    values = {
        "sample_time": f"{time.time():.6f}",
        "client_http.requests": totals.requests,
        "client_http.errors": totals.errors,
        "client_http.kbytes_in": totals.bytes_up // _KIB,
        "client_http.kbytes_out": totals.bytes_down // _KIB,
        "server.all.requests": totals.upstream_requests,
        "server.all.errors": totals.upstream_errors,
        "cpu_time": f"{time.process_time():.6f}",
    }
    return "".join(f"{name} = {value}\n" for name, value in values.items())


def _active_requests(metrics: Metrics, drafts: Collection[RecordDraft]) -> str:
    lines = []
    now = time.monotonic()
    for draft in islice(drafts, MAX_ACTIVE):
        view = draft.view(now)
        lines.append(
            f"Connection: {view['connection']}\n"
            f"\tremote: {Endpoint(draft.client, draft.client_port)}\n"
            f"\tin {view['bytes_up']}, out {view['bytes_down']}\n"
            f"uri {view['target'] or '-'}\n"
            f"method {view['method'] or '-'}\n"
            f"start {view['age_s']} seconds ago\n\n"
        )
    return "".join(lines)


_PAGES: dict[str, tuple[str, Callable[[Metrics, Collection[RecordDraft]], str]]] = {
    "menu": ("Cache Manager Menu", _menu),
    "info": ("General Runtime Information", _info),
    "counters": ("Traffic and Resource Counters", _counters),
    "active_requests": ("Client-side Active Requests", _active_requests),
}
