"""Parents: other proxies that tunnels and plain requests are sent through, by CONNECT (RFC 9110 section 9.3.6).

The parent looks the target up and dials it. So no address of the target is judged here; what is dialled is the parent, an
address that the operator wrote down.
"""

from __future__ import annotations

import base64
import os
from typing import TYPE_CHECKING

from egressproxy.errors import (
    ConnectFailed,
    ConnectTimeout,
    CredentialMissing,
    ParentRefused,
    UpstreamProtocolError,
)
from egressproxy.hostport import HostPattern
from egressproxy.model import Endpoint
from egressproxy.stream import StreamExpired
from egressproxy.wire.request_head import HeadLimits
from egressproxy.wire.response_head import parse_response_head

if TYPE_CHECKING:
    from collections.abc import Sequence

    from egressproxy.config.schema.config import Config
    from egressproxy.config.schema.services import Parent as ParentSettings
    from egressproxy.deadlines import DeadlineQueue
    from egressproxy.model import Target
    from egressproxy.stream import TcpStream

_READ_BYTES = 4096
_MAX_CREDENTIALS = 1024
_LIMITS = HeadLimits(16_384, 100, 8192)
_OK = range(200, 300)


class Parent:
    """One parent. Immutable, but for the credentials that it has read.

    host, port  where it listens; `is_address`: nothing to look up
    """

    __slots__ = ("_authorization", "_credentials", "_seen", "host", "is_address", "name", "port")

    def __init__(self, settings: ParentSettings) -> None:
        self.name = settings.name
        self.host = settings.address
        self.is_address = HostPattern("exact", settings.address).is_address
        self.port = settings.port
        self._credentials = settings.credentials
        self._seen: tuple[int, int, int] | None = None  # of the file when it was read: inode, size, time of change
        self._authorization = ""

    async def open(self, stream: TcpStream, target: Target) -> None:
        """Have the parent connect to the target: from here on the stream leads there. The caller sets a deadline.

        Raises ParentRefused, ConnectFailed, UpstreamProtocolError or CredentialMissing; StreamExpired passes through.
        """
        endpoint = Endpoint(stream.address, stream.port)
        ask = f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{self._authorize()}\r\n"
        try:
            await stream.write(ask.encode("ascii"))
            await self._read_answer(stream, endpoint, target)
        except OSError as error:
            raise ConnectFailed(
                f"parent {self.name} ({endpoint}) broke off: {error.strerror or error}", endpoint=endpoint
            ) from error

    async def _read_answer(self, stream: TcpStream, endpoint: Endpoint, target: Target) -> None:
        data = b""
        while True:
            received = await stream.read(_READ_BYTES)
            if not received:
                raise ConnectFailed(f"parent {self.name} ({endpoint}) closed without an answer", endpoint=endpoint)
            data += received
            try:
                head = parse_response_head(data, _LIMITS)
            except UpstreamProtocolError as error:
                raise UpstreamProtocolError(f"parent {self.name} ({endpoint}): {error}", endpoint=endpoint) from error
            if head is not None:
                break
        if head.status not in _OK:
            raise ParentRefused(
                f"parent {self.name} ({endpoint}) answered {head.status} to CONNECT {target}", endpoint=endpoint
            )
        if len(data) > head.length:
            stream.unread(data[head.length :])

    def _authorize(self) -> str:
        """The field with the credentials, read again when their file has changed. A stat for each connection: 2 us."""
        if self._credentials is None:
            return ""
        try:
            found = os.stat(self._credentials)  # noqa: PTH116 - pathlib's takes three times as long
            seen = (found.st_ino, found.st_size, found.st_mtime_ns)
            if seen != self._seen:
                self._authorization = _basic(self._credentials.read_bytes()[: _MAX_CREDENTIALS + 1])
                self._seen = seen
        except (OSError, ValueError) as error:
            raise CredentialMissing(f"the credentials of parent {self.name}: {error}") from error
        return self._authorization


async def go_through(parent: Parent, upstream: TcpStream, target: Target, deadlines: DeadlineQueue) -> None:
    """Have the parent connect to the target, within the time of a connection. Raises as `Parent.open`, and ConnectTimeout."""
    deadlines.start(upstream)
    try:
        await parent.open(upstream, target)
    except StreamExpired as error:
        endpoint = Endpoint(upstream.address, upstream.port)
        facts = f"parent {parent.name} ({endpoint}) did not answer within {deadlines.delay_s:g} s"
        raise ConnectTimeout(facts, endpoint=endpoint) from error
    finally:
        deadlines.stop(upstream)


def _basic(content: bytes) -> str:
    """The field of Basic authentication (RFC 7617). Raises ValueError."""
    line = content.strip(b"\r\n")
    if not 0 < len(line) <= _MAX_CREDENTIALS or b":" not in line or any(byte < 0x20 for byte in line):
        raise ValueError(f"expected one line USER:PASSWORD of at most {_MAX_CREDENTIALS} bytes")
    return f"Proxy-Authorization: Basic {base64.b64encode(line).decode('ascii')}\r\n"


def parents_of(config: Config) -> Sequence[Parent]:
    """The parents of a configuration, in its order."""
    return [Parent(each) for each in config.parents]
