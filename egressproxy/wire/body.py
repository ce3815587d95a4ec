"""Where a body ends, and what of it is payload. RFC 9112 section 6.3 says which of these a message has.

A body takes the bytes of a stream as they arrive and gives back the payload in them. It is `done` when its end has been
seen; what came behind the end is `excess`, of the next message. A wrong octet is refused as soon as it is there. How the
stream was cut into reads changes neither the payload nor the answer; only payload before a wrong octet in the same piece
is not given any more.

Time is linear, for single octets too, and nothing is held but the trailers. Payload is copied once at most, and not at all
where a piece is payload from end to end.
"""

from __future__ import annotations

import re
from typing import Protocol

from egressproxy.errors import EgressError
from egressproxy.wire.field_lines import PER_HOP, excerpt, octet


class Body(Protocol):
    """The body of one message.

    done      its end has been seen
    excess    the bytes behind the end that `take` was given
    trailers  chunked only: trailer field lines, each with its CRLF, complete when `done`
    """

    done: bool
    excess: bytes
    trailers: bytes

    def take(self, data: bytes) -> bytes:
        """The payload in `data`, the next bytes of the stream; none once `done`: then all is excess."""

    def end(self) -> bool:
        """Whether the body may end here, where the stream does."""


class LengthBody:
    """So many bytes (RFC 9112 section 6.2)."""

    __slots__ = ("_left", "done", "excess", "trailers")

    def __init__(self, length: int) -> None:
        self._left = length
        self.done = not length
        self.excess = b""
        self.trailers = b""

    def take(self, data: bytes) -> bytes:
        """The payload in `data`. Raises nothing."""
        self._left -= len(data)
        if self._left > 0:
            return data
        self.done = True
        if self._left == 0:
            return data
        end = len(data) + self._left
        self._left = 0
        self.excess += data[end:]
        return data[:end]

    def end(self) -> bool:
        """True only when all is there (RFC 9112 section 8)."""
        return self.done


class ClosedBody:
    """All there is until the stream ends. Of responses only (RFC 9112 section 6.3, rule 8)."""

    __slots__ = ("done", "excess", "trailers")

    def __init__(self) -> None:
        self.done = False
        self.excess = b""
        self.trailers = b""

    def take(self, data: bytes) -> bytes:
        """`data`. Raises nothing."""
        return data

    def end(self) -> bool:
        """True: this is how it ends."""
        self.done = True
        return True


# --- the chunked coding (RFC 9112 section 7.1) --------------------------------------------------------------------
#
#   chunked-body   = *chunk last-chunk trailer-section CRLF
#   chunk          = chunk-size [ chunk-ext ] CRLF chunk-data CRLF
#   last-chunk     = 1*("0") [ chunk-ext ] CRLF
#   chunk-ext      = *( ";" chunk-ext-name [ "=" chunk-ext-val ] )        without its BWS, which no sender may send
#   chunk-ext-val  = token / quoted-string
#
# All but the chunk data is read octet by octet through one table: what may come next, and what is then the state. There
# is no other transition, one aside: a size line without extensions, which is what is sent, is taken whole by an
# expression that matches nothing else than the table does.

_HEX = b"0123456789abcdefABCDEF"
_TCHAR = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_BEYOND_ASCII = bytes(range(0x80, 0x100))
_VALUE_OCTETS = b"\t" + bytes(range(0x20, 0x7F)) + _BEYOND_ASCII
_QDTEXT = bytes(value for value in _VALUE_OCTETS if value not in b'"\\')  # RFC 9110 section 5.6.4

(
    _REFUSED,  # not a state: no octet leads here that is accepted
    _SIZE_BEGINS,
    _SIZE,
    _EXT_NAME_BEGINS,
    _EXT_NAME,
    _EXT_VALUE_BEGINS,
    _EXT_VALUE,
    _EXT_QUOTED,
    _EXT_ESCAPED,
    _EXT_QUOTE_ENDS,
    _SIZE_LF,
    _DATA,
    _DATA_CR,
    _DATA_LF,
    _TRAILER_BEGINS,
    _TRAILER_NAME,
    _TRAILER_VALUE,
    _TRAILER_LF,
    _END_LF,
    _END,
) = range(20)

# state: what is expected, for whoever reads of it, and ((octets, next state), ...)
_TRANSITIONS: dict[int, tuple[str, tuple[tuple[bytes, int], ...]]] = {
    _SIZE_BEGINS: ("a chunk size in hexadecimal digits", ((_HEX, _SIZE),)),
    _SIZE: (
        "CRLF behind the chunk size",
        ((_HEX, _SIZE), (b";", _EXT_NAME_BEGINS), (b"\r", _SIZE_LF)),
    ),
    _EXT_NAME_BEGINS: ("the name of a chunk extension", ((_TCHAR, _EXT_NAME),)),
    _EXT_NAME: (
        "a chunk extension, and CRLF behind it",
        ((_TCHAR, _EXT_NAME), (b"=", _EXT_VALUE_BEGINS), (b";", _EXT_NAME_BEGINS), (b"\r", _SIZE_LF)),
    ),
    _EXT_VALUE_BEGINS: ("the value of a chunk extension", ((_TCHAR, _EXT_VALUE), (b'"', _EXT_QUOTED))),
    _EXT_VALUE: (
        "a chunk extension, and CRLF behind it",
        ((_TCHAR, _EXT_VALUE), (b";", _EXT_NAME_BEGINS), (b"\r", _SIZE_LF)),
    ),
    _EXT_QUOTED: (
        "a quoted string in a chunk extension",
        ((_QDTEXT, _EXT_QUOTED), (b"\\", _EXT_ESCAPED), (b'"', _EXT_QUOTE_ENDS)),
    ),
    _EXT_ESCAPED: ("a quoted string in a chunk extension", ((_VALUE_OCTETS, _EXT_QUOTED),)),
    _EXT_QUOTE_ENDS: (
        "CRLF behind a chunk extension",
        ((b";", _EXT_NAME_BEGINS), (b"\r", _SIZE_LF)),
    ),
    _SIZE_LF: ("LF behind the CR of a chunk size", ((b"\n", _DATA),)),
    _DATA_CR: ("CRLF behind the data of a chunk", ((b"\r", _DATA_LF),)),
    _DATA_LF: ("CRLF behind the data of a chunk", ((b"\n", _SIZE_BEGINS),)),
    _TRAILER_BEGINS: ("a trailer field or an empty line", ((_TCHAR, _TRAILER_NAME), (b"\r", _END_LF))),
    _TRAILER_NAME: (
        "a colon right behind the name of a trailer field",
        ((_TCHAR, _TRAILER_NAME), (b":", _TRAILER_VALUE)),
    ),
    _TRAILER_VALUE: (
        "CRLF at the end of a trailer field",
        ((_VALUE_OCTETS, _TRAILER_VALUE), (b"\r", _TRAILER_LF)),
    ),
    _TRAILER_LF: ("LF behind the CR of a trailer field", ((b"\n", _TRAILER_BEGINS),)),
    _END_LF: ("LF at the end of the chunked body", ((b"\n", _END),)),
}


def _row(transitions: tuple[tuple[bytes, int], ...]) -> bytes:
    """The next state for each of the 256 octets."""
    row = bytearray(256)
    for octets, state in transitions:
        for value in octets:
            row[value] = state
    return bytes(row)


_NEXT = [_row(_TRANSITIONS[state][1]) if state in _TRANSITIONS else b"" for state in range(_END + 1)]

_MAX_SIZE_DIGITS = 16
_MAX_SIZE = 2**60  # no chunk is larger than that; 64-bit counters elsewhere may add some to it
_MAX_EXTENSION_BYTES = 16 * 1024  # of one body; they are read and dropped. As much as a whole head may take by default
_COLON = ord(":")
_plain_size_line = re.compile(rb"([0-9A-Fa-f]{1,15})\r\n").match
_plain_size_line_behind_data = re.compile(rb"\r\n([0-9A-Fa-f]{1,15})\r\n").match

# RFC 9110 section 6.5.1: what no trailer may be, as a recipient that merges trailers into the head would then read the
# message, or those behind it, in another way.
_REFUSED_TRAILERS = frozenset({*PER_HOP, b"content-length", b"host", b"trailer", b"transfer-encoding"})

# The same section: authentication, request modifiers, response controls, content format; and fields by which proxies
# tell of the client. They come too late to mean anything, and are not handed on.
_DROPPED_TRAILERS = frozenset(
    b"accept accept-charset accept-encoding accept-language age allow authorization cache-control content-disposition"
    b" content-encoding content-language content-location content-range content-type cookie date expect expires"
    b" forwarded from if-match if-modified-since if-none-match if-range if-unmodified-since last-modified location"
    b" max-forwards origin pragma proxy-authenticate proxy-authentication-info proxy-authorization range referer"
    b" retry-after set-cookie set-cookie2 strict-transport-security user-agent vary via warning www-authenticate"
    b" x-forwarded-for x-forwarded-host x-forwarded-proto x-real-ip x-request-id".split()
)
_NOT_HANDED_ON = _DROPPED_TRAILERS | _REFUSED_TRAILERS  # refused as they are, dropped with underscores: CGI's spelling


class ChunkedBody:
    """A body in the chunked coding, with trailers."""

    __slots__ = (
        "_digits",
        "_error",
        "_extension_bytes",
        "_left",
        "_line",
        "_max_trailer_bytes",
        "_max_trailers",
        "_name_is_dropped",
        "_state",
        "_trailer_bytes",
        "_trailer_count",
        "_trailers",
        "done",
        "excess",
        "trailers",
    )

    def __init__(self, max_trailer_bytes: int, max_trailers: int, error: type[EgressError]) -> None:
        """`max_trailer_bytes`, `max_trailers`: of all trailers, dropped ones too. `error`: what `take` raises."""
        self._error = error
        self._max_trailers = max_trailers
        self._max_trailer_bytes = max_trailer_bytes
        self._state = _SIZE_BEGINS
        self._left = 0  # of the chunk; while its size is being read, what the digits so far say
        self._digits = 0
        self._extension_bytes = 0
        self._trailer_bytes = 0
        self._trailer_count = 0
        self._trailers = bytearray()
        self._line = bytearray()  # the trailer that is being read
        self._name_is_dropped = False
        self.done = False
        self.excess = b""
        self.trailers = b""

    def take(self, data: bytes) -> bytes:
        """The payload in `data`.

        Raises the error the body was made with: a size of more than 16 digits or from 2**60, more than 16 KiB of
        extensions, trailers over their limits or of a field that cannot be one, and every octet out of place.
        """
        if self.done:
            self.excess += data
            return b""
        end = len(data)
        if self._state == _DATA and end <= self._left:  # a large chunk arrives in many pieces
            self._leave_chunk(end)
            return data
        at = 0
        pieces: list[tuple[int, int]] = []
        while at < end:
            if self._state == _DATA:
                size = min(self._left, end - at)
                pieces.append((at, at + size))
                at += size
                self._leave_chunk(size)
                continue
            if self._state == _DATA_CR:
                line = _plain_size_line_behind_data(data, at)
            elif self._state == _SIZE_BEGINS:
                line = _plain_size_line(data, at)
            else:
                line = None
            if line is not None:
                self._left = int(line[1], 16)
                at = line.end()
                self._enter_chunk()
                continue
            at = self._step_through(data, at)
            if self._state == _END:
                self.done = True
                self.excess = data[at:]
                self.trailers = bytes(self._trailers)
                break
        if len(pieces) == 1:
            begin, stop = pieces[0]
            return data[begin:stop]
        whole = memoryview(data)
        return b"".join([whole[begin:stop] for begin, stop in pieces])

    def end(self) -> bool:
        """True only behind the last chunk and its empty line (RFC 9112 section 8)."""
        return self.done

    def _leave_chunk(self, size: int) -> None:
        """`size` bytes of the chunk have gone by."""
        self._left -= size
        if self._left == 0:
            self._state = _DATA_CR

    def _enter_chunk(self) -> None:
        """The size line is complete."""
        self._state = _DATA if self._left else _TRAILER_BEGINS
        self._digits = 0

    def _step_through(self, data: bytes, begin: int) -> int:
        """Octets from `begin` on by the table, until chunk data begins, the body ends, or `data` does. Where that is."""
        for at in range(begin, len(data)):
            value = data[at]
            before = self._state
            state = self._state = _NEXT[before][value]
            if state == _REFUSED:
                raise self._error(f"expected {_TRANSITIONS[before][0]}, got {octet(value)}")
            if state == _SIZE:
                self._add_digit(value)
            elif _EXT_NAME_BEGINS <= state <= _EXT_QUOTE_ENDS:
                self._extension_bytes += 1
                if self._extension_bytes > _MAX_EXTENSION_BYTES:
                    raise self._error(f"the chunk extensions of one body take more than {_MAX_EXTENSION_BYTES} bytes")
            elif state == _DATA:
                self._enter_chunk()
                if self._left:
                    return at + 1
            elif _TRAILER_BEGINS <= state <= _TRAILER_LF:
                self._add_to_trailer(before, value)
            elif state == _END:
                return at + 1
        return len(data)

    def _add_digit(self, digit: int) -> None:
        self._digits += 1
        self._left = self._left * 16 + int(chr(digit), 16)
        if self._digits > _MAX_SIZE_DIGITS or self._left >= _MAX_SIZE:
            raise self._error("expected a chunk size of at most 16 digits, below 2**60, got a larger one")

    def _add_to_trailer(self, before: int, value: int) -> None:
        """One octet of a trailer line, its CRLF included. `before`: the state it came in."""
        self._trailer_bytes += 1
        if self._trailer_bytes > self._max_trailer_bytes:
            raise self._error(f"the trailers take more than {self._max_trailer_bytes} bytes (limits.max_head_bytes)")
        if before == _TRAILER_NAME and value == _COLON:
            self._trailer_count += 1
            if self._trailer_count > self._max_trailers:
                raise self._error(f"there are more than {self._max_trailers} trailers (limits.max_headers)")
            name = bytes(self._line).lower()
            if name in _REFUSED_TRAILERS:
                raise self._error(f"expected trailers that frame and route nothing, got {excerpt(name)}")
            self._name_is_dropped = name.replace(b"_", b"-") in _NOT_HANDED_ON
        self._line.append(value)
        if before == _TRAILER_LF:
            if not self._name_is_dropped:
                self._trailers += self._line
            self._line.clear()


def as_chunk(payload: bytes) -> bytes:
    """`payload` as one chunk; nothing for nothing, as a chunk of no bytes would be the last one."""
    return b"%x\r\n%b\r\n" % (len(payload), payload) if payload else b""


def last_chunk(trailers: bytes) -> bytes:
    """The end of a chunked body. `trailers`: field lines, each with its CRLF."""
    return b"0\r\n%b\r\n" % trailers
