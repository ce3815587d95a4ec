"""What the tests of plain requests share, those in tests/e2e/forwarding: clients, scripts, and what was logged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from support.plain_http import Ends, Message, RawOrigin, response
from support.proxy import Proxy

Start = Callable[..., Proxy]

SHORT_S = 0.3
"""A time that passes within a test."""


def web(proxy: Proxy) -> Ends:
    """A client of the listener that goes by Host."""
    (port,) = (each["port"] for each in proxy.config["listeners"] if each.get("name") == "web")
    return Ends(proxy, port)


def the_only_record(proxy: Proxy) -> dict[str, Any]:
    (record,) = proxy.settled().records
    return record


def outcomes(proxy: Proxy) -> list[tuple[Any, Any]]:
    """Status and outcome of each request since the last look."""
    return [(record["status"], record["outcome"]) for record in proxy.settled().records]


def answer(asked: Message) -> list[bytes]:
    """A script: say what was asked for."""
    return [response(f"{asked.method} {asked.target}".encode() + asked.body)]


def service(origin: RawOrigin, **settings: Any) -> dict[str, Any]:
    endpoint = {"address": "127.0.0.1", "port": origin.port}
    return {
        "hosts": ["api.example.test"], "ports": [{"number": 80, "protocol": "HTTP"}], "resolution": "static",
        "endpoints": [endpoint], **settings,
    }  # fmt: skip
