"""The `http-proxy` listener: CONNECT, in HTTP/1.1 and HTTP/1.0 (RFC 9110 section 9.3.6).

Other methods are answered 501. Nothing is answered 200 before the upstream is connected, and every byte behind the head
belongs to the tunnel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from egressproxy.errors import ClientGone, EgressError, HeadTimeout, MethodNotImplemented
from egressproxy.frontends.frontend import is_about_what_is_inside, receive, send_alert
from egressproxy.hostport import parse_authority
from egressproxy.model import Intent
from egressproxy.wire.replies import ESTABLISHED, refusal
from egressproxy.wire.request_head import HeadLimits, RequestHead, parse_request_head

if TYPE_CHECKING:
    from egressproxy.stream import Stream
    from egressproxy.telemetry.record import RecordDraft


class ConnectFrontend:
    """Speaks CONNECT with the clients of one listener."""

    name = "http-proxy"
    too_slow: ClassVar[type[EgressError]] = HeadTimeout

    def __init__(self, listener: str, limits: HeadLimits) -> None:
        """`listener`: its word in logs and metrics."""
        self._listener = listener
        self._limits = limits

    async def read_intent(self, client: Stream, draft: RecordDraft) -> Intent:
        """Read one request head.

        Raises MalformedRequest, MalformedTarget, HeadTooLarge, TargetTooLong, MethodNotImplemented or ClientGone.
        """
        head = await self._read_head(client)
        draft.method = head.method
        draft.target_text = head.target
        draft.http_version = head.http_version
        if head.method != "CONNECT":
            raise MethodNotImplemented(
                f"this listener serves CONNECT only, got {head.method}; use an https:// URL, or have plain HTTP tunnelled too"
            )
        return Intent(client.address, self._listener, "CONNECT", parse_authority(head.target), head.http_version)

    async def _read_head(self, client: Stream) -> RequestHead:
        data = b""
        while True:
            data = await receive(client, data, "a request head")
            head = parse_request_head(data, self._limits)
            if head is not None:
                if len(data) > head.length:
                    client.unread(data[head.length :])
                return head

    async def grant(self, client: Stream, draft: RecordDraft) -> None:
        """Answer 200. Raises ClientGone."""
        try:
            sent = client.try_write(ESTABLISHED)
            if sent < len(ESTABLISHED):
                await client.write(ESTABLISHED[sent:])
        except OSError as error:
            raise ClientGone("the client left before its tunnel was ready") from error
        draft.status = 200
        draft.reply_bytes = len(ESTABLISHED)

    def refuse(self, client: Stream, error: EgressError, draft: RecordDraft) -> None:
        """Answer with the error's status; behind a 200, what is inside the tunnel gets an alert. Nothing to one who is gone."""
        if error.status is None:
            return
        if draft.status is not None:
            if is_about_what_is_inside(error):
                draft.reply_bytes += send_alert(client, error)
            return
        reply = refusal(error)
        try:
            client.try_write(reply)  # the first bytes to this client: they fit its empty send buffer
        except OSError:
            return  # gone, or its TLS handshake is not complete: it has heard nothing
        draft.status = error.status
        draft.reply_bytes = len(reply)
        try:
            client.end_writing()
        except OSError:
            pass  # gone now
