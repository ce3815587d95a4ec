"""ClientHellos: built from parts, made by the OpenSSL of this Python, recorded from programs, and read from files.

What is built is a message; `records` puts it into TLS records, as many as a test likes. The builders know nothing of the
parser under test.
"""

from __future__ import annotations

import os
import random
import socket
import ssl
import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path

from support.waiting import WAIT_S

CAPTURES = sorted((Path(__file__).parent.parent / "data" / "client_hellos").glob("*.bin"))
"""First flights of real programs; the README beside them says whose. Each asks for `CAPTURED_NAME`."""
CAPTURED_NAME = "captured.example.test"

SERVER_NAME, ALPN, SUPPORTED_VERSIONS, ECH = 0, 16, 43, 0xFE0D

X25519MLKEM768 = 0x11EC
MLKEM_SHARE_BYTES = 1216
"""An encapsulation key of ML-KEM-768 (1184) and a key of X25519 (32)."""


# --- parts --------------------------------------------------------------------------------------------------------


def counted(data: bytes, width: int = 2) -> bytes:
    """The data behind its length, a number of `width` bytes: what TLS calls a vector."""
    return len(data).to_bytes(width, "big") + data


def extension(kind: int, value: bytes = b"") -> bytes:
    return kind.to_bytes(2, "big") + counted(value)


def server_name(*names: str | bytes, kind: int = 0) -> bytes:
    """The extension with these names in its list: one, if it is to be well-formed."""
    listed = b"".join(bytes([kind]) + counted(name.encode() if isinstance(name, str) else name) for name in names)
    return extension(SERVER_NAME, counted(listed))


def alpn(*protocols: bytes) -> bytes:
    return extension(ALPN, counted(b"".join(counted(protocol, 1) for protocol in protocols)))


def supported_versions(*versions: int) -> bytes:
    return extension(SUPPORTED_VERSIONS, counted(b"".join(version.to_bytes(2, "big") for version in versions), 1))


def ech_outer(enc: int = 32, payload: int = 144) -> bytes:
    """RFC 9849 section 5. A GREASE one (section 6.2) looks the same."""
    suite, config_id = bytes.fromhex("00010001"), b"\x2a"
    return extension(ECH, b"\0" + suite + config_id + counted(bytes(enc)) + counted(bytes(payload)))


def hello(
    *extensions: bytes,
    legacy_version: int = 0x0303,
    session_id: bytes = bytes(32),
    suites: bytes = bytes.fromhex("130113021303"),
    compressions: bytes = b"\0",
    block: bytes | None = None,
) -> bytes:
    """The message. `block`: all that is behind the compression methods, instead of the extensions with their length."""
    body = legacy_version.to_bytes(2, "big") + bytes(range(32))
    body += counted(session_id, 1) + counted(suites) + counted(compressions, 1)
    body += counted(b"".join(extensions)) if block is None else block
    return b"\x01" + counted(body, 3)


def record(content: bytes, kind: int = 22, version: int = 0x0301) -> bytes:
    return bytes([kind]) + version.to_bytes(2, "big") + counted(content)


def records(message: bytes, *sizes: int, version: int = 0x0301) -> bytes:
    """The message in records of these sizes, the last of which is used on and on."""
    stream, at, left = b"", 0, list(sizes) or [16_384]
    while at < len(message):
        size = left.pop(0) if len(left) > 1 else left[0]
        stream += record(message[at : at + size], version=version)
        at += size
    return stream


def message_of(stream: bytes) -> bytes:
    """What the records of a stream hold."""
    message, at = b"", 0
    while at < len(stream):
        (size,) = struct.unpack_from(">H", stream, at + 3)
        message += stream[at + 5 : at + 5 + size]
        at += 5 + size
    return message


# --- whole ones ---------------------------------------------------------------------------------------------------


def browser_hello(name: str | None, *, ech: str | None = "grease", seed: int = 0) -> bytes:
    """The record that a browser of the Chromium family sends, in about 1,750 bytes.

    GREASE (RFC 8701) among suites, groups, versions, shares and extensions, a share of X25519MLKEM768, ALPN, extensions
    in an order of their own for each `seed`, and `ech`: `grease`, `inner` (which no browser sends) or None.
    """
    chance = random.Random(seed)
    grease = [0x0A0A + 0x1010 * chance.randrange(16) for _ in range(4)]
    one, two = (0x0A0A + 0x1010 * nibble for nibble in chance.sample(range(16), 2))

    def numbers(*values: int) -> bytes:
        return b"".join(value.to_bytes(2, "big") for value in values)

    def share(group: int, size: int) -> bytes:
        return numbers(group) + counted(chance.randbytes(size))

    suites = numbers(grease[0], 0x1301, 0x1302, 0x1303, 0xC02B, 0xC02F, 0xC02C, 0xC030, 0xCCA9, 0xCCA8, 0xC013, 0xC014)
    suites += numbers(0x009C, 0x009D, 0x002F, 0x0035)
    signatures = numbers(0x0403, 0x0804, 0x0401, 0x0503, 0x0805, 0x0501, 0x0806, 0x0601)
    shares = share(grease[1], 1) + share(X25519MLKEM768, MLKEM_SHARE_BYTES) + share(0x001D, 32)
    middle = [
        extension(5, b"\x01\0\0\0\0"),  # status_request
        extension(10, counted(numbers(grease[1], X25519MLKEM768, 0x001D, 0x0017, 0x0018))),  # supported_groups
        extension(11, b"\x01\0"),  # ec_point_formats
        extension(13, counted(signatures)),  # signature_algorithms
        extension(18),  # signed_certificate_timestamp
        extension(23),  # extended_master_secret
        extension(27, counted(numbers(2), 1)),  # compress_certificate
        extension(35),  # session_ticket
        extension(45, b"\x01\x01"),  # psk_key_exchange_modes
        extension(51, counted(shares)),  # key_share
        extension(0x44CD, counted(counted(b"h2", 1))),  # application_settings
        extension(0xFF01, b"\0"),  # renegotiation_info
        alpn(b"h2", b"http/1.1"),
        supported_versions(grease[2], 0x0304, 0x0303),
    ]
    if name is not None:
        middle.append(server_name(name))
    if ech is not None:
        middle.append(
            ech_outer(payload=chance.choice((144, 176, 208, 240))) if ech == "grease" else extension(ECH, b"\x01")
        )
    chance.shuffle(middle)
    message = hello(
        extension(one), *middle, extension(two, b"\0"), session_id=chance.randbytes(32), suites=suites
    )  # fmt: skip
    return record(message)


def openssl_hello(name: str | bytes | None, *protocols: str, maximum: ssl.TLSVersion | None = None) -> bytes:
    """The record that the OpenSSL of this Python sends. `maximum`: the highest version that it offers."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    if maximum is not None:
        context.maximum_version = maximum
    if protocols:
        context.set_alpn_protocols(list(protocols))
    sent = ssl.MemoryBIO()
    tls = context.wrap_bio(ssl.MemoryBIO(), sent, server_hostname=name)
    try:
        tls.do_handshake()
    except ssl.SSLWantReadError:
        pass
    return sent.read()


def recorded(command: Sequence[str | Path], folder: Path) -> bytes:
    """The first record that a program sends to a port of loopback; then it is hung up on and ended.

    Each `{port}` in the command stands for the port. Home and working directory are `folder`; no proxy is set.
    """
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(WAIT_S)
        port = listening.getsockname()[1]
        with subprocess.Popen(
            [str(word).replace("{port}", str(port)) for word in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env={"PATH": os.environ["PATH"], "HOME": str(folder), "LC_ALL": "C.UTF-8"},
        ) as program:
            try:
                client, _ = listening.accept()
                with client, client.makefile("rb") as stream:
                    client.settimeout(WAIT_S)
                    header = stream.read(5)
                    return header + stream.read(int.from_bytes(header[3:], "big"))
            finally:
                program.kill()


# --- what OpenSSL takes them for ----------------------------------------------------------------------------------


class Judge:
    """The OpenSSL of this Python, as a server that hangs up once it has seen which name it is asked for."""

    def __init__(self) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.sni_callback = self._see
        self._seen: list[str | None] = []

    def _see(self, tls: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> int:
        self._seen.append(name)
        return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME

    def names(self, stream: bytes) -> list[str | None]:
        """The name that it read, None in it where the hello has none; nothing where it refuses the hello or awaits more."""
        self._seen.clear()
        received = ssl.MemoryBIO()
        received.write(stream)
        try:
            self._context.wrap_bio(received, ssl.MemoryBIO(), server_side=True).do_handshake()
        except ssl.SSLError:
            pass
        return list(self._seen)
