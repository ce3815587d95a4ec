"""Read and write the header of the PROXY protocol, versions 1 and 2: where a connection came from before a proxy took it.

By HAProxy's proxy-protocol.txt, whose sections are named below. `parse_proxy_header` ends one of three ways, for any
bytes:

1. it returns what was announced; what follows `length` bytes is the client's own stream;
2. it returns None: all is well so far, more is needed;
3. it raises MalformedProxyHeader.

The answer depends on the stream alone and never on how it was cut into reads. What is not this protocol is refused at its
first wrong byte; an IPv6 address in text is judged when it is complete, and the extensions of version 2 (TLVs) when the
header is.

Two places where the document leaves a choice. A header that announces UDP or a UNIX socket is refused: rules about clients
would take the sender for the client. One that announces nothing (LOCAL, UNKNOWN, UNSPEC: health checks, or a sender that
does not know) is accepted, and the sender's own address stands.

Not here: who may send a header (`proxy_protocol.from` of a listener), how long to wait for it, and what TLVs mean. Only
their form and the checksum are looked at.
"""

from __future__ import annotations

import re
import struct
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING, Literal, NamedTuple

from egressproxy.errors import MalformedProxyHeader

if TYPE_CHECKING:
    from collections.abc import Callable


class Announced(NamedTuple):
    """What a header says of the connection behind it.

    source       the client's address, standard spelling, mapped IPv4 unmapped, and port; None where the header announces
                 nothing and the socket's own peer stands
    destination  address and port that the client connected to, likewise
    length       bytes of the stream that the header took
    """

    source: tuple[str, int] | None
    destination: tuple[str, int] | None
    length: int


MAX_V2_BYTES = 4096
"""Longest header of version 2 that is read, TLVs included. Ours: addresses take 52 bytes at most and a client's
certificate name some hundred more. The format would allow 65,551."""
MAX_TLVS = 64
"""Most TLVs in one header. Ours: about a dozen types are registered (section 2.2), and 24 left to private use."""

# Distinct addresses kept, per direction. A hit costs 60 ns instead of 1 to 3 us; an entry takes about 200 bytes.
_CACHE = 4096

# --- the grammar of version 1 (section 2.1) -----------------------------------------------------------------------

_V1_BYTES = 107  # the longest line, CRLF included
_OCTET = rb"(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_V4 = rb"(?:" + _OCTET + rb"\.){3}" + _OCTET
_V6 = rb"[0-9A-Fa-f:.]{2,39}"  # its characters; whether it is an address is asked separately
_PORT = rb"(?:6553[0-5]|655[0-2][0-9]|65[0-4][0-9]{2}|6[0-4][0-9]{3}|[1-5][0-9]{4}|[1-9][0-9]{0,3}|0)"
_match_v1 = re.compile(
    rb"PROXY TCP(?:4 (" + _V4 + rb") (" + _V4 + rb")|6 (" + _V6 + rb") (" + _V6 + rb")) "
    rb"(" + _PORT + rb") (" + _PORT + rb")\r\n"
).match  # fmt: skip

# "The receiver must ignore anything presented before the CRLF"; 93 bytes of the longest line are left for it and the CRLF.
_IGNORED = rb"(?: [^\r\n]{0,91})?"
_match_unknown = re.compile(rb"PROXY UNKNOWN" + _IGNORED + rb"\r\n").match
_may_be_unknown = re.compile(rb"PROXY UNKNOWN" + _IGNORED + rb"\r?").fullmatch

# --- the constants of version 2 (section 2.2) ---------------------------------------------------------------------

_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
_LOCAL, _PROXY = 0x20, 0x21  # version 2 in the upper four bits, the command in the lower
_FIXED = struct.Struct("!12sBBH")
_TCP4 = struct.Struct("!4s4sHH")
_TCP6 = struct.Struct("!16s16sHH")
_UNSPEC = 0x00
_FAMILIES = {0x11: _TCP4, 0x21: _TCP6}
_REFUSED_FAMILIES = {0x12: "UDP over IPv4", 0x22: "UDP over IPv6", 0x31: "a UNIX socket", 0x32: "a UNIX socket"}
_TLV = struct.Struct("!BH")
_CRC32C = 0x03
_MAPPED = b"\0" * 10 + b"\xff\xff"  # RFC 4291 section 2.5.5.2

_OTHER_PROTOCOLS = (
    (re.compile(rb"\x16\x03"), "a TLS handshake"),
    (re.compile(rb"[A-Z]{3,10} [!-~]"), "an HTTP request"),
)
_EXCERPT_BYTES = 40  # as much as identifies a sender's mistake and no more


def parse_proxy_header(data: bytes) -> Announced | None:
    """Read the header that begins `data`; None when it is not complete yet.

    `data` is all that has arrived, the client's bytes behind the header included. Hot: once per connection, where a
    listener asks for the header.

    Raises:
        MalformedProxyHeader: not a header of the PROXY protocol, one of another transport than TCP, one beyond
            `MAX_V2_BYTES` or `MAX_TLVS`, or one whose checksum is wrong.
    """
    if data[:1] == b"P":
        return _parse_v1(data)
    if data[:1] == b"\r":
        return _parse_v2(data)
    if data:
        raise _not_a_header(data)
    return None


def proxy_header(version: Literal[1, 2], source: tuple[str, int], destination: tuple[str, int]) -> bytes:
    """The header that announces a TCP connection from `source` to `destination`, each an address and a port.

    Where one address is IPv4 and the other IPv6, the IPv4 address is written as a mapped one. Hot: once per connection,
    where a rule asks for the header. Raises ValueError for what is no address (a name, a zone) or no port.
    """
    client, client_port = _packed(source[0]), source[1]
    server, server_port = _packed(destination[0]), destination[1]
    if not (0 <= client_port <= 0xFFFF and 0 <= server_port <= 0xFFFF):
        raise ValueError(f"expected ports from 0 to 65535, got {client_port} and {server_port}")
    both_v4 = len(client) == len(server) == 4
    if not both_v4:
        client, server = _widened(client), _widened(server)
    if version == 1:
        family = 4 if both_v4 else 6
        return f"PROXY TCP{family} {_text(client)} {_text(server)} {client_port} {server_port}\r\n".encode()
    protocol, layout = (0x11, _TCP4) if both_v4 else (0x21, _TCP6)
    addresses = layout.pack(client, server, client_port, server_port)
    return _FIXED.pack(_SIGNATURE, _PROXY, protocol, layout.size) + addresses


# --- version 1 ----------------------------------------------------------------------------------------------------


def _parse_v1(data: bytes) -> Announced | None:
    match = _match_v1(data)
    if match is not None:
        client4, server4, client6, server6, client_port, server_port = match.groups()
        if client4 is not None:
            client, server = client4.decode(), server4.decode()
        else:
            client, server = _read_v6(client6), _read_v6(server6)
        if client and server:
            return Announced((client, int(client_port)), (server, int(server_port)), match.end())
    match = _match_unknown(data)
    if match is not None:
        return Announced(None, None, match.end())
    _check_v1_so_far(data[:_V1_BYTES])
    return None


@lru_cache(_CACHE)
def _read_v6(spelled: bytes) -> str:
    """An address of TCP6 in standard spelling; empty if it is none."""
    try:
        return _text_unmapped(IPv6Address(spelled.decode()).packed)
    except ValueError:
        return ""


def _word(spelling: bytes) -> Callable[[bytes], object]:
    return re.compile(spelling).fullmatch


def _beginning(*words: bytes) -> Callable[[bytes], object]:
    """Whether some bytes may become one of these words."""
    return lambda got: any(word.startswith(got) for word in words)


_NEVER = _word(rb"(?!)")
_V4_SO_FAR = _word(rb"(?:" + _OCTET + rb"\.){0,3}(?:" + _OCTET + rb")?")
_V6_SO_FAR = _word(rb"[0-9A-Fa-f:.]{0,39}")

# What stands between the spaces: what it is, whether a word is it, whether a word can still become it. The last word has
# its CRLF and is never found whole here: then all of the line is, and was read.
_Grammar = tuple[tuple[str, "Callable[[bytes], object]", "Callable[[bytes], object]"], ...]
_FIRST_WORDS: _Grammar = (
    ("PROXY", _word(b"PROXY"), _beginning(b"PROXY")),
    ("TCP4, TCP6 or UNKNOWN", _word(b"TCP[46]"), _beginning(b"TCP4", b"TCP6", b"UNKNOWN")),
)
_PORTS: _Grammar = (
    ("the source port", _word(_PORT), _word(_PORT + b"?")),
    ("the destination port and CRLF", _NEVER, _word(rb"(?:" + _PORT + rb"\r?)?")),
)
_V4_WORDS: _Grammar = (
    *_FIRST_WORDS,
    ("the source, an IPv4 address,", _word(_V4), _V4_SO_FAR),
    ("the destination, an IPv4 address,", _word(_V4), _V4_SO_FAR),
    *_PORTS,
)
_V6_WORDS: _Grammar = (
    *_FIRST_WORDS,
    ("the source, an IPv6 address,", _read_v6, _V6_SO_FAR),
    ("the destination, an IPv6 address,", _read_v6, _V6_SO_FAR),
    *_PORTS,
)


def _check_v1_so_far(line: bytes) -> None:
    """Raise unless the line, at most as long as one may be and not complete, can still become a header."""
    if line.startswith(b"PROXY UNKNOWN"):
        if not _may_be_unknown(line):
            raise MalformedProxyHeader(
                f"expected CRLF within {_V1_BYTES} bytes of a PROXY UNKNOWN header, got {_excerpt(line)}"
            )
        return
    words = line.split(b" ")
    grammar = _V6_WORDS if line.startswith(b"PROXY TCP6 ") else _V4_WORDS
    for word, (expected, is_whole, _) in zip(words[:-1], grammar, strict=False):
        if not is_whole(word):
            raise _wrong_word(expected, word, line)
    expected, _, may_become = grammar[len(words) - 1]
    if not may_become(words[-1]):
        raise _wrong_word(expected, words[-1], line)


def _wrong_word(expected: str, word: bytes, line: bytes) -> MalformedProxyHeader:
    if not line.startswith(b"PROXY "[: len(line)]):
        return _not_a_header(line)
    return MalformedProxyHeader(f"expected {expected} in a PROXY header of version 1, got {_excerpt(word)}")


# --- version 2 ----------------------------------------------------------------------------------------------------


def _parse_v2(data: bytes) -> Announced | None:
    if len(data) < _FIXED.size:
        _check_v2_so_far(data)
        return None
    signature, command, protocol, size = _FIXED.unpack_from(data)
    layout = _FAMILIES.get(protocol)
    if signature != _SIGNATURE or not (command == _PROXY and layout is not None and layout.size <= size):
        _check_v2_so_far(data)
        layout = None  # the addresses, whatever their form, are to be ignored
    length = _FIXED.size + size
    if length > MAX_V2_BYTES:
        raise _too_long(length)
    if len(data) < length:
        return None
    if layout is None:
        return Announced(None, None, length)
    client, server, client_port, server_port = layout.unpack_from(data, _FIXED.size)
    first_tlv = _FIXED.size + layout.size
    if first_tlv != length:
        _check_tlvs(data[:length], first_tlv)
    return Announced((_text_unmapped(client), client_port), (_text_unmapped(server), server_port), length)


def _check_v2_so_far(data: bytes) -> None:
    """Raise unless these bytes, or as many of them as are fixed, begin a header of a kind that is read here."""
    if not _SIGNATURE.startswith(data[:12]):
        raise _not_a_header(data)
    if len(data) > 12 and data[12] not in (_LOCAL, _PROXY):
        raise MalformedProxyHeader(
            f"expected version 2 and the command PROXY (0x21) or LOCAL (0x20) in a PROXY header, got 0x{data[12]:02x}"
        )
    if len(data) > 13 and data[12] == _PROXY and data[13] != _UNSPEC:
        layout = _FAMILIES.get(data[13])
        if layout is None:
            what = _REFUSED_FAMILIES.get(data[13], "an unknown family")
            raise MalformedProxyHeader(
                "expected TCP over IPv4 (0x11) or IPv6 (0x21), or nothing (0x00), in a PROXY header of version 2, "
                f"got {what} (0x{data[13]:02x})"
            )
        if len(data) > 15 and (size := int.from_bytes(data[14:16])) < layout.size:
            raise MalformedProxyHeader(
                f"expected at least {layout.size} bytes of addresses in a PROXY header of version 2, got {size}"
            )
    if len(data) > 14 and (length := _FIXED.size + (data[14] << 8)) > MAX_V2_BYTES:
        raise _too_long(length)


def _check_tlvs(header: bytes, at: int) -> None:
    """Raise unless the TLVs from `at` on (section 2.2) fill the header exactly and its checksum, if any, is right."""
    end = len(header)
    checksum_at = 0
    count = 0
    while at < end:
        count += 1
        if count > MAX_TLVS:
            raise MalformedProxyHeader(f"expected at most {MAX_TLVS} TLVs in a PROXY header of version 2")
        if end - at < _TLV.size:
            raise MalformedProxyHeader(f"expected a TLV in a PROXY header of version 2, got {end - at} odd bytes")
        kind, size = _TLV.unpack_from(header, at)
        at += _TLV.size
        if at + size > end:
            raise MalformedProxyHeader(
                f"the TLV 0x{kind:02x} in a PROXY header of version 2 is {size} bytes long, {end - at} are left"
            )
        if kind == _CRC32C:
            if checksum_at or size != 4:
                raise MalformedProxyHeader("expected one checksum of 4 bytes in a PROXY header of version 2")
            checksum_at = at
        at += size
    if checksum_at:
        told = int.from_bytes(header[checksum_at : checksum_at + 4])
        found = crc32c(header[:checksum_at] + b"\0\0\0\0" + header[checksum_at + 4 :])
        if told != found:
            raise MalformedProxyHeader(
                f"the checksum in a PROXY header of version 2 is 0x{told:08x}, expected 0x{found:08x}"
            )


def _table() -> tuple[int, ...]:
    """What each octet adds. The polynomial of RFC 9260 appendix A, its bits in the order of transmission."""
    rows = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F6_3B78 if value & 1 else 0)
        rows.append(value)
    return tuple(rows)


_CRC_OF_OCTET = _table()


def crc32c(data: bytes) -> int:
    """The CRC-32C (Castagnoli) of RFC 9260 appendix A. 0.1 us per byte."""
    remainder = 0xFFFF_FFFF
    for octet in data:
        remainder = remainder >> 8 ^ _CRC_OF_OCTET[(remainder ^ octet) & 0xFF]
    return remainder ^ 0xFFFF_FFFF


# --- addresses ----------------------------------------------------------------------------------------------------


def _text_unmapped(packed: bytes) -> str:
    """Standard spelling of 4 or 16 bytes, a mapped IPv4 address as the IPv4 address it is."""
    return _text(packed.removeprefix(_MAPPED) if len(packed) == 16 else packed)


@lru_cache(_CACHE)
def _text(packed: bytes) -> str:
    """Standard spelling (RFC 5952 section 4), but a mapped address in hexadecimal: section 2.1 allows nothing else."""
    if len(packed) == 4:
        return str(IPv4Address(packed))
    if packed.startswith(_MAPPED):
        return f"::ffff:{int.from_bytes(packed[12:14]):x}:{int.from_bytes(packed[14:]):x}"
    return str(IPv6Address(packed))


@lru_cache(_CACHE)
def _packed(address: str) -> bytes:
    """4 or 16 bytes; a mapped IPv4 address as 4. Raises ValueError."""
    if "%" in address:
        raise ValueError(f"expected an address without a zone, got {address!a}")
    packed = ip_address(address).packed
    return packed.removeprefix(_MAPPED) if len(packed) == 16 else packed


def _widened(packed: bytes) -> bytes:
    return _MAPPED + packed if len(packed) == 4 else packed


# --- what is wrong ------------------------------------------------------------------------------------------------


def _not_a_header(data: bytes) -> MalformedProxyHeader:
    what = next((name for pattern, name in _OTHER_PROTOCOLS if pattern.match(data)), _excerpt(data))
    return MalformedProxyHeader(
        f"expected a header of the PROXY protocol, got {what}; this listener has proxy_protocol, so all of its clients must "
        "send one"
    )


def _too_long(length: int) -> MalformedProxyHeader:
    return MalformedProxyHeader(f"a PROXY header of version 2 may take {MAX_V2_BYTES} bytes, got {length} or more")


def _excerpt(data: bytes) -> str:
    """The beginning of `data`, quoted and escaped."""
    return repr(data[:_EXCERPT_BYTES])[1:] + ("..." if len(data) > _EXCERPT_BYTES else "")
