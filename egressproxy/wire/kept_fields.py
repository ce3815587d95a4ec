"""The values of a few header fields, kept from when a head is read until its line is logged: those that a log asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from egressproxy.model import AskedFields

MAX_VALUE = 300
"""Octets of a value that are kept. No log shows more."""
MAX_LINES = 10
"""Lines of one field that are kept: with MAX_VALUE, what a peer can make a record hold."""


class KeptFields:
    """What one request, and the response to it, say in the fields that were asked for.

    request, response  values by name in lower case, one for each line, as sent; without the fields that there are not

    The response is the upstream's: what the proxy itself answers has no fields to tell of.
    """

    __slots__ = ("_asked", "request", "response")

    def __init__(self, asked: AskedFields, raw_headers: bytes) -> None:
        """`raw_headers`: the field lines of the request, each with its CRLF."""
        self._asked = asked
        self.request = _values(raw_headers, asked.request)
        self.response: Mapping[str, Sequence[str]] = {}

    def take_response(self, raw_headers: bytes) -> None:
        """Keep what the response's field lines say."""
        self.response = _values(raw_headers, self._asked.response)


def _values(raw_headers: bytes, names: frozenset[str]) -> Mapping[str, Sequence[str]]:
    found: dict[str, list[str]] = {}
    for line in raw_headers.split(b"\r\n") if names else ():
        name_octets, _, value = line.partition(b":")
        name = name_octets.decode("latin-1").lower()
        if name in names:
            values = found.setdefault(name, [])
            if len(values) < MAX_LINES:
                values.append(value.strip(b" \t")[:MAX_VALUE].decode("latin-1"))
    return found
