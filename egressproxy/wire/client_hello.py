"""Read a TLS ClientHello as it arrives on a TCP stream: bytes to a value, nothing decrypted, nothing consumed.

`parse_client_hello`, and `HelloReader.read` for a hello that comes in pieces, end one of three ways, for any bytes:

1. they return a ClientHello; what follows `length` bytes is the stream's own;
2. they return None: all is well so far, more is needed. Every cut of a hello that is accepted ends so;
3. they raise NotTls, MalformedHello or HelloTooLarge.

The answer depends on the stream alone and never on how it was cut into reads: bytes are judged in the order in which
they arrive, so the first fault decides. A wrong octet of a record header is refused as soon as it is there. What is
inside the hello is judged when its last byte is; the record that holds it need not be complete.

One reading. The origin gets the same bytes and takes the name from them with a parser of its own, so whatever two parsers
could read in two ways is malformed, and never "no server name": an extension twice, two names, a type of name other than
host_name, a list, name or block whose length does not fill what is around it, and any name that `hostport` would not take
for a name. A trailing dot is the one liberty: RFC 6066 has names without, browsers send it when it is in the URL, OpenSSL
and NGINX take it, and DNS gives it no other meaning; it is dropped from the canonical form and kept in the one as sent.

Not here: what is in the extensions that are not named below (RFC 8446 leaves that to the server, as the order of
pre_shared_key), QUIC and DTLS (not TCP), and hellos in the style of SSL 2.0 (they have no name; RFC 6176): malformed. What
stands before a second ClientHello, after a HelloRetryRequest, is skipped by a SecondHelloReader.

Documents: RFC 8446 sections 4.1.2 (ClientHello), 4.2 (extensions) and 5.1 (records), RFC 6066 section 3 (server_name),
RFC 7301 section 3.1 (ALPN), RFC 9849 section 5 (Encrypted Client Hello), RFC 8701 (GREASE).
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import Literal, NamedTuple

from egressproxy.errors import HelloError, HelloTooLarge, MalformedHello, MalformedTarget, NotTls
from egressproxy.hostport import canonical_host

# RFC 8446 section 5.1: ContentType handshake(22), and at most 2^14 bytes in a plaintext record. The version in its
# header says nothing of the version of TLS; clients send 0x0301 and 0x0303, and its first octet has been 3 since SSL 3.0.
_HANDSHAKE = 22
_MAJOR = 3
_OTHER_RECORDS = (20, 21, 23, 24)  # change_cipher_spec, alert, application_data; heartbeat of RFC 6520
_BEFORE_SECOND_HELLO = (20, 21, 23)  # RFC 8446 appendix D.4, section 6, and early data, which the server throws away
_MAX_CIPHERTEXT = (1 << 14) + 2048
_RECORD_HEADER = 5
_MAX_RECORD = 1 << 14

# RFC 8446 section 4: msg_type and a length of three bytes.
_CLIENT_HELLO = 1
_MESSAGE_HEADER = 4

# RFC 8446 section 4.1.2: legacy_version, 32 bytes of random, legacy_session_id<0..32>, cipher_suites<2..2^16-2>,
# legacy_compression_methods<1..2^8-1>, extensions
_SESSION_ID_AT = 2 + 32
_MAX_SESSION_ID = 32
_MIN_BODY = _SESSION_ID_AT + 1 + 2 + 2 + 1 + 1

# IANA's registry of TLS ExtensionType values
_SERVER_NAME = 0
_ALPN = 16
_SUPPORTED_VERSIONS = 43
_ENCRYPTED_CLIENT_HELLO = 0xFE0D

_HOST_NAME = 0  # NameType, RFC 6066 section 3
_ECH_OUTER, _ECH_INNER = 0, 1  # ECHClientHelloType, RFC 9849 section 5

TLS_1_3 = 0x0304
"""From this version on a server may ask for a second ClientHello."""
MAX_HELLO_BYTES = 65_536
"""Bytes of the stream that a hello may take. A post-quantum share is 1.2 KiB; OpenSSL's server takes 128 KiB, Go's 64."""
MAX_BEFORE_SECOND_BYTES = 65_536
"""That may stand before a second hello: the early data of a client that was not asked yet. Servers let 16 KiB come."""

# Distinct lists of protocols and of versions that are kept once they were read: clients send a few, each the same every
# time. Longer lists of protocols are read anew, so that what the cache holds is bounded in bytes, too.
_CACHE = 256
_MAX_CACHED = 64
_MAX_ALPN = 4096  # clients send a few names in some twenty bytes; thirty thousand of them would take milliseconds

_unpack_start = struct.Struct(
    ">BBxHI"
).unpack_from  # of a stream: the record's header, then the message's as one number
_unpack_extension = struct.Struct(">HH").unpack_from  # type, length
_unpack_server_name = struct.Struct(
    ">2xHHBH"
).unpack_from  # extension's length, list's length, type of name, its length
_unpack_length = struct.Struct(">H").unpack_from


class ClientHello(NamedTuple):
    """What a proxy needs to know of a ClientHello.

    server_name          canonical, as `hostport.canonical_host` makes it, and never an address; None: no server_name
    server_name_as_sent  ASCII, letter case and trailing dot kept; empty if there is none
    alpn                 protocols that are offered, in order; the backslash, and what is not printable ASCII, as `\\xNN`
    versions             of supported_versions, in order and without GREASE; without that extension legacy_version alone
    ech                  encrypted_client_hello: `outer` (also a GREASE one, no one can tell) or `inner`; None: absent
    records              TLS records that hold a part of the hello
    length               bytes of the stream up to the hello's last one, headers of records included
    """

    server_name: str | None
    server_name_as_sent: str
    alpn: tuple[str, ...]
    versions: tuple[int, ...]
    ech: Literal["outer", "inner"] | None
    records: int
    length: int

    @property
    def may_be_asked_again(self) -> bool:
        """A server may want a second one: TLS 1.3, which some offer by the number of a draft, or whatever comes after it."""
        return TLS_1_3 in self.versions or max(self.versions, default=0) > TLS_1_3


def parse_client_hello(data: bytes) -> ClientHello | None:
    """Read the hello that begins `data`; None when it is not complete yet. Hot: once per connection.

    `data` is everything that has arrived, from the first byte of the stream on. Time is linear in MAX_HELLO_BYTES at most;
    who calls it again and again on a stream of tiny records pays for each record each time: a HelloReader pays once.

    Raises:
        NotTls: the first bytes are no record of a TLS handshake.
        MalformedHello: a TLS handshake that does not begin with a ClientHello, or with one that can be misread.
        HelloTooLarge: over MAX_HELLO_BYTES, told from its header and not awaited.
    """
    # Nearly every hello is there at once, in one record.
    if len(data) > _RECORD_HEADER + _MESSAGE_HEADER:
        kind, major, size, start = _unpack_start(data)
        length = start - (_CLIENT_HELLO << 24)
        end = length + _RECORD_HEADER + _MESSAGE_HEADER
        if (
            kind == _HANDSHAKE
            and major == _MAJOR
            and _MIN_BODY <= length <= size - _MESSAGE_HEADER
            and size <= _MAX_RECORD
            and end <= len(data)
        ):
            return _read_body(data[_RECORD_HEADER + _MESSAGE_HEADER : end], 1, end)
    return HelloReader().read(data)


class HelloReader:
    """Reads one hello in pieces, as `parse_client_hello` does; each record is looked at once, whatever the number of calls."""

    __slots__ = ("_at", "_length", "_message", "_records")

    def __init__(self) -> None:
        self._at = 0  # where the first record begins that was not complete
        self._records = 0  # complete ones before it
        self._message = bytearray()  # what they hold
        self._length = _MESSAGE_HEADER  # of the message, header included; what is known of it

    def read(self, data: bytes) -> ClientHello | None:
        """As `parse_client_hello`. `data` is everything that has arrived: what was given before, and more behind it."""
        message = self._message
        while True:
            begin = self._at + _RECORD_HEADER
            size = _record_size(data[self._at : begin], first=self._at == 0)
            if size is None:
                return None
            received = min(size, len(data) - begin)
            if len(message) < _MESSAGE_HEADER:
                self._length = _message_length(message + data[begin : begin + min(received, _MESSAGE_HEADER)])
            missing = self._length - len(message)
            end = begin + missing
            if end > MAX_HELLO_BYTES:
                raise HelloTooLarge(
                    f"expected a ClientHello of at most {MAX_HELLO_BYTES} bytes with its record headers, "
                    f"got one that takes {end} or more"
                )
            if missing <= received:
                body = bytes(message + data[begin:end])[_MESSAGE_HEADER:]
                return _read_body(body, self._records + 1, end)
            if received < size:
                return None
            message += data[begin : begin + size]
            self._at = begin + size
            self._records += 1


class SecondHelloReader:
    """Reads what a client sends behind its first hello, up to the end of a second one; each record is looked at once.

    at  where the record begins that is looked at next, or the second hello
    """

    __slots__ = ("_reader", "at")

    def __init__(self) -> None:
        self.at = 0
        self._reader: HelloReader | None = None

    @property
    def found(self) -> bool:
        """The second hello has begun."""
        return self._reader is not None

    def read(self, data: bytes) -> ClientHello | None:
        """As `HelloReader.read`, `length` counted from `at`. `data`: all that came behind the first hello.

        Raises MalformedHello also for a record that cannot stand before it, HelloTooLarge also for too many that can.
        """
        if self._reader is None:
            if not self._skip(data):
                return None
            self._reader = HelloReader()
        return self._reader.read(data[self.at :])

    def _skip(self, data: bytes) -> bool:
        """True when `at` is where a handshake record begins."""
        at = self.at
        while len(data) - at >= _RECORD_HEADER:
            kind, major, size = data[at], data[at + 1], data[at + 3] << 8 | data[at + 4]
            if kind == _HANDSHAKE:
                return True
            if kind not in _BEFORE_SECOND_HELLO or major != _MAJOR or not 0 < size <= _MAX_CIPHERTEXT:
                raise MalformedHello(f"expected a second ClientHello, got a record of type {kind} with {size} bytes")
            at += _RECORD_HEADER + size
            if at > MAX_BEFORE_SECOND_BYTES:
                raise HelloTooLarge(
                    f"expected a second ClientHello within {MAX_BEFORE_SECOND_BYTES} bytes, got {at} or more"
                )
            self.at = at
        return False


def _record_size(header: bytes, *, first: bool) -> int | None:
    """The size of a record's contents, None while its header is not complete. Raises at the first wrong octet."""
    error: type[HelloError] = NotTls if first else MalformedHello
    if first and header[:1] >= b"\x80":
        # SSL 2.0 sets the highest bit of its length, and the message's type comes third.
        if len(header) < 3:
            return None
        if header[2] == _CLIENT_HELLO:
            raise MalformedHello("expected a record of a TLS handshake (0x16), got a hello in the style of SSL 2.0")
    if header and header[0] != _HANDSHAKE:
        if header[0] in _OTHER_RECORDS:
            error = MalformedHello  # TLS, and some servers overlook it and go on with the hello behind it
        what = _OTHER_PROTOCOLS.get(header[0], "") if first else " in the middle of the ClientHello"
        raise error(f"expected a record of a TLS handshake (0x16), got 0x{header[0]:02x}{what}")
    if len(header) > 1 and header[1] != _MAJOR:
        raise error(f"expected a TLS record of version 0x03.., got 0x{header[1]:02x}..")
    if len(header) < _RECORD_HEADER:
        return None
    (size,) = _unpack_length(header, 3)
    if not 0 < size <= _MAX_RECORD:
        raise MalformedHello(f"expected a handshake record of 1 to {_MAX_RECORD} bytes, got one of {size}")
    return int(size)


def _message_length(start: bytes | bytearray) -> int:
    """The length of the message that begins so, header included; that of the header while it is not complete."""
    if start[:1] and start[0] != _CLIENT_HELLO:
        raise MalformedHello(f"expected a ClientHello (1) as first handshake message, got type {start[0]}")
    if len(start) < _MESSAGE_HEADER:
        return _MESSAGE_HEADER
    length = int.from_bytes(start[1:_MESSAGE_HEADER], "big")
    if length < _MIN_BODY:
        raise MalformedHello(f"expected a ClientHello of at least {_MIN_BODY} bytes, got one of {length}")
    return _MESSAGE_HEADER + length


# --- the hello itself ---------------------------------------------------------------------------------------------


def _read_body(body: bytes, records: int, length: int) -> ClientHello:
    """The hello whose message, without header, is exactly `body`. Whatever would be read behind its end is malformed."""
    server_name, as_sent, ech = None, "", None
    alpn: tuple[str, ...] = ()
    versions: tuple[int, ...] = (body[0] << 8 | body[1],)
    try:
        extensions = _extensions(body)
        if (at := extensions.get(_SERVER_NAME)) is not None:
            size, list_size, kind, name_size = _unpack_server_name(body, at)
            if not (list_size == size - 2 and kind == _HOST_NAME and name_size == size - 5):
                raise MalformedHello(_what_is_wrong_with_names(size, list_size, kind, name_size))
            as_sent, server_name = _server_name(body[at + 9 : at + 9 + name_size])
        if (at := extensions.get(_SUPPORTED_VERSIONS)) is not None:
            versions = _versions(_value(body, at))
        if (at := extensions.get(_ALPN)) is not None:
            value = _value(body, at)
            alpn = _usual_protocols(value) if len(value) <= _MAX_CACHED else _protocols(value)
        if (at := extensions.get(_ENCRYPTED_CLIENT_HELLO)) is not None:
            ech = _ech(_value(body, at))
    except (IndexError, struct.error):
        raise MalformedHello("expected a ClientHello, got one that ends in the middle of a field") from None
    return ClientHello(server_name, as_sent, alpn, versions, ech, records, length)


def _extensions(body: bytes) -> dict[int, int]:
    """Where each extension begins, by type. Raises IndexError or struct.error where a field has no room for its length."""
    if body[0] != _MAJOR:
        raise MalformedHello(f"expected a ClientHello of version 0x03.., got 0x{body[0]:02x}{body[1]:02x}")
    session_id = body[_SESSION_ID_AT]
    at = _SESSION_ID_AT + 1 + session_id
    (suites,) = _unpack_length(body, at)
    at += 2 + suites
    compressions = body[at]
    at += 1 + compressions
    if session_id > _MAX_SESSION_ID or not suites or suites % 2 or not compressions:
        raise MalformedHello(
            f"expected a session id of 0 to {_MAX_SESSION_ID} bytes, cipher suites of 2 bytes each and a compression method, "
            f"got {session_id}, {suites} and {compressions} bytes"
        )
    found: dict[int, int] = {}
    end = len(body)
    if at == end:
        return found  # RFC 8446 section 4.1.2: there may be none, from clients older than TLS 1.3
    (block,) = _unpack_length(body, at)
    at += 2
    if at + block != end:
        raise MalformedHello(f"expected {block} bytes of extensions to end the ClientHello, got {end - at} bytes there")
    while at < end:
        kind, size = _unpack_extension(body, at)
        if kind in found:
            raise MalformedHello(f"expected each extension once (RFC 8446 section 4.2), got type {kind} twice")
        found[kind] = at
        at += 4 + size
    if at != end:
        raise MalformedHello("expected the extensions to fill their block, got a last one that is longer")
    return found


def _value(body: bytes, at: int) -> bytes:
    """What the extension that begins at `at` holds."""
    (size,) = _unpack_length(body, at + 2)
    return body[at + 4 : at + 4 + size]


def _server_name(name: bytes) -> tuple[str, str]:
    """The name as sent, and canonical."""
    try:
        as_sent = name.decode("ascii")
        host, is_address = canonical_host(as_sent)
    except (UnicodeDecodeError, MalformedTarget) as error:
        why = str(error) if isinstance(error, MalformedTarget) else f"expected ASCII, got {name[:80]!r}"
        raise MalformedHello(f"server_name: {why}") from None
    if is_address:
        # RFC 6066 section 3 keeps address literals out of host_name.
        raise MalformedHello(f"server_name: expected a host name, got the address {host}")
    return as_sent, host


@lru_cache(_CACHE)
def _versions(value: bytes) -> tuple[int, ...]:
    """What supported_versions lists, RFC 8446 section 4.2.1, without GREASE."""
    if len(value) < 3 or value[0] != len(value) - 1 or value[0] % 2:
        raise MalformedHello("supported_versions: expected a list of versions, got one whose length does not fit")
    listed = [value[at] << 8 | value[at + 1] for at in range(1, len(value), 2)]
    return tuple(version for version in listed if version & 0x0F0F != 0x0A0A or version >> 8 != version & 0xFF)


def _protocols(value: bytes) -> tuple[str, ...]:
    """What application_layer_protocol_negotiation lists."""
    size = len(value) - 2
    if size > _MAX_ALPN:
        raise MalformedHello(f"ALPN: expected a list of at most {_MAX_ALPN} bytes, got one of {size}")
    if size < 2 or _unpack_length(value)[0] != size:
        raise MalformedHello(
            "ALPN: expected a list of protocols that fills the extension, got one whose length does not fit"
        )
    names = []
    at, end = 2, len(value)
    while at < end:
        begin = at + 1
        at = begin + value[at]
        if at == begin or at > end:
            raise MalformedHello("ALPN: expected the names to fill the list, got one that is empty or too long for it")
        names.append(_printable(value[begin:at]))
    return tuple(names)


_usual_protocols = lru_cache(_CACHE)(_protocols)


def _ech(value: bytes) -> Literal["outer", "inner"]:
    """Which ECHClientHello this is, RFC 9849 section 5. Raises IndexError or struct.error where it is cut."""
    kind = value[0]
    if kind == _ECH_OUTER:
        enc_at = 6  # behind the type, the cipher suite (4) and config_id (1)
        payload_at = enc_at + 2 + _unpack_length(value, enc_at)[0]
        (payload,) = _unpack_length(value, payload_at)
        if payload and payload_at + 2 + payload == len(value):
            return "outer"
    elif kind == _ECH_INNER and len(value) == 1:
        return "inner"
    raise MalformedHello(
        f"encrypted_client_hello: expected an outer or inner one, got type {kind} in {len(value)} bytes"
    )


def _printable(octets: bytes) -> str:
    """Printable ASCII, anything else and the backslash escaped: two names never look the same."""
    return "".join(chr(each) if 0x20 <= each < 0x7F and each != 0x5C else f"\\x{each:02x}" for each in octets)


# --- what is wrong ------------------------------------------------------------------------------------------------

_OTHER_PROTOCOLS = {
    0x04: " (SOCKS4)",
    0x05: " (SOCKS5)",
    0x0D: " (the beginning of a PROXY protocol header of version 2?)",
    0x15: " (a TLS alert)",
    0x17: " (TLS application data)",
    **dict.fromkeys(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ", " (a letter: HTTP or another text protocol?)"),
}
"""First bytes that tell what came instead of a handshake."""


def _what_is_wrong_with_names(size: int, list_size: int, kind: int, name_size: int) -> str:
    if size < 5 or list_size != size - 2:
        return f"server_name: expected a list that fills the {size} bytes of the extension, got one that does not"
    if kind != _HOST_NAME:
        return f"server_name: expected a name of type host_name (0), got type {kind}"
    return f"server_name: expected one name that fills the list of {list_size} bytes, got one of {name_size} bytes"
