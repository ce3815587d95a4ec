"""Run a parser of the shape "value, None for more, or a documented error" over a stream that arrives in every way."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

T = TypeVar("T")

TRAILERS = (b"\0", b"\r\n", b"\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01" + bytes(range(256)))


def outcome(parse: Callable[[bytes], T | None], data: bytes) -> T | type[Exception] | None:
    """What came of `data`: the value, None, or the type of the error."""
    try:
        return parse(data)
    except Exception as error:
        return type(error)


def outcome_in_pieces(parse: Callable[[bytes], T | None], pieces: Iterable[bytes]) -> T | type[Exception] | None:
    """What a connection sees that parses after every read, and stops at the first answer."""
    data = b""
    result: T | type[Exception] | None = None
    for piece in pieces:
        data += piece
        result = outcome(parse, data)
        if result is not None:
            break
    return result


def parse_every_way(parse: Callable[[bytes], T | None], data: bytes) -> T | type[Exception] | None:
    """The outcome of `data`, after checking that it is the same whole, byte by byte, and with bytes behind it."""
    whole = outcome(parse, data)
    bytewise = outcome_in_pieces(parse, (data[i : i + 1] for i in range(len(data))))
    assert bytewise == whole, f"byte by byte {bytewise!r}, whole {whole!r}"
    if whole is not None:
        for trailer in TRAILERS:
            trailed = outcome(parse, data + trailer)
            assert trailed == whole, f"followed by {trailer[:20]!r}: {trailed!r}, alone {whole!r}"
    return whole
