"""A plain request as the front end hands it on: read, and not yet judged."""

from __future__ import annotations

from typing import NamedTuple

from egressproxy.wire.request_fields import RequestFields


class Request(NamedTuple):
    """What is asked of an origin, in its own words.

    path       path and query, as the origin is asked for them
    authority  what the origin is sent as Host: of the target, where it is a whole URL, else the client's own Host
    fields     what the fields mean; those that go on are in it
    """

    method: str
    path: str
    authority: str
    http_version: str
    fields: RequestFields
