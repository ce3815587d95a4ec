"""The `http-proxy` and `http` listeners: CONNECT (RFC 9110 section 9.3.6), and plain requests, in HTTP/1.1 and HTTP/1.0.

A client that knows of the proxy sends CONNECT, or a request with a whole URL (absolute-form). One that does not sends the
path alone (origin-form), and its Host field says where to. In a whole URL the authority counts and Host does not (RFC 9112
section 3.2.2).

A tunnel is answered 200 when the upstream is connected and never before, and every byte behind its head belongs to it. A plain
request is answered by the upstream itself; every byte behind it belongs to the next one.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, ClassVar

from egressproxy.errors import (
    ClientGone,
    EgressError,
    HeadTimeout,
    MalformedRequest,
    MalformedTarget,
    MethodNotImplemented,
    PolicyError,
    UpstreamError,
)
from egressproxy.frontends.frontend import is_about_what_is_inside, may_have_changed, receive, send_alert
from egressproxy.hostport import parse_authority
from egressproxy.model import HTTP_PORT, OUTBOUND, Intent, Target
from egressproxy.wire.kept_fields import KeptFields
from egressproxy.wire.replies import ESTABLISHED, refusal
from egressproxy.wire.request import Request
from egressproxy.wire.request_fields import request_fields
from egressproxy.wire.request_head import MISSING_HOST, HeadLimits, RequestHead, parse_request_head
from egressproxy.wire.request_target import parse_http_target

if TYPE_CHECKING:
    from egressproxy.model import AskedFields
    from egressproxy.stream import Stream
    from egressproxy.telemetry.record import RecordDraft

MANAGER_PATH = "/squid-internal-mgr/"
"""Where Squid has its manager pages."""
OWN_HOSTS = ("localhost", "127.0.0.1", "[::1]")
"""How the host of the proxy is called by who is on it. The first is what requests for manager pages are judged by that have a
path alone: by its Host field a client could choose a host that the rules let it reach."""


class HttpFrontend:
    """Speaks HTTP with the clients of one listener."""

    too_slow: ClassVar[type[EgressError]] = HeadTimeout

    def __init__(
        self,
        listener: str,
        limits: HeadLimits,
        *,
        is_proxy: bool = True,
        by_host: int | None = None,
        manager: int | None = None,
        asked: AskedFields | None = None,
    ) -> None:
        """What the listener serves.

        listener  its word in logs and metrics
        is_proxy  CONNECT is served
        by_host   requests by their Host field are served; the port where neither Host nor a capture names one
        manager   Squid's manager pages are served; the listener's own port
        asked     header fields that are kept for access logs; None: none are
        """
        self.name = "http-proxy" if is_proxy else "http"
        self._listener = listener
        self._limits = limits
        self._is_proxy = is_proxy
        self._by_host = by_host
        self._manager = manager
        self._asked = asked

    async def read_intent(self, client: Stream, draft: RecordDraft) -> Intent:
        """Read one request head.

        Raises MalformedRequest, MalformedTarget, HeadTooLarge, TargetTooLong, MethodNotImplemented or ClientGone.
        """
        head = await self._read_head(client)
        draft.method = head.method
        target = head.target
        if "@" in target:
            target = without_user(target, of_tunnel=head.method == "CONNECT")
        draft.target_text = target
        draft.http_version = head.http_version
        if self._asked is not None:
            draft.kept = KeptFields(self._asked, head.raw_headers)
        if head.method == "CONNECT":
            if not self._is_proxy:
                raise MethodNotImplemented(
                    "this listener serves requests by their Host field; CONNECT is for a listener with protocol http-proxy"
                )
            return Intent(client.address, self._listener, "CONNECT", parse_authority(target), head.http_version)
        return self._plain(client, head, target, draft.dialled)

    async def _read_head(self, client: Stream) -> RequestHead:
        data = b""
        while True:
            known = len(data)
            data = await receive(client, data, "a request head")
            if not may_have_changed(data, known, self._limits.max_bytes):
                continue
            head = parse_request_head(data, self._limits)
            if head is not None:
                if len(data) > head.length:
                    client.unread(data[head.length :])
                return head

    def _plain(self, client: Stream, head: RequestHead, target_text: str, dialled: tuple[str, int] | None) -> Intent:
        """A request that is not a CONNECT. Raises MalformedRequest or MalformedTarget."""
        written, path = parse_http_target(head.method, target_text)
        fields = request_fields(head)
        manager = None
        if self._manager is not None and path.startswith(MANAGER_PATH) and head.method in ("GET", "HEAD"):
            manager = self._manager_page(written, path)
        if manager is not None:
            authority = written or f"{OWN_HOSTS[0]}:{self._manager}"
            target = parse_authority(authority)
        elif written is not None:
            authority = written
            target = self._where(written, HTTP_PORT, dialled)
        else:
            authority = self._host(fields.host)
            assert self._by_host is not None  # `_host` has asked
            target = self._where(authority, self._by_host, dialled)
        request = Request(head.method, path, authority, head.http_version, fields)
        return Intent(
            client.address,
            self._listener,
            head.method,
            target,
            head.http_version,
            dialled,
            False,
            path.partition("?")[0],
            request,
            manager,
        )

    def _manager_page(self, written: str | None, path: str) -> str | None:
        """The manager page that is asked for, of this proxy: by its path alone, or at its own port of this host."""
        if written is not None and written not in (f"{host}:{self._manager}" for host in OWN_HOSTS):
            return None
        return path.partition("?")[0].removeprefix(MANAGER_PATH)

    def _host(self, host: str | None) -> str:
        if self._by_host is None:
            raise MalformedTarget(
                "expected a whole URL like http://example.com/ as request target, got a path: this listener is a proxy; "
                "one with protocol http serves clients that know none"
            )
        if not host:
            raise MalformedRequest(MISSING_HOST)
        return host

    def _where(self, authority: str, default_port: int, dialled: tuple[str, int] | None) -> Target:
        """Where a Host field or a URL leads: for who was captured, to the port that it was on its way to, and to no other."""
        if dialled is None:
            return parse_authority(authority, default_port)
        target = parse_authority(authority, dialled[1])
        if target.port != dialled[1]:
            raise MalformedTarget(
                f"expected port {dialled[1]}, which the client dialled, or none in its Host field or URL, got {target.port}"
            )
        return target

    async def grant(self, client: Stream, draft: RecordDraft) -> None:
        """Answer 200. Raises ClientGone."""
        try:
            sent = client.try_write(ESTABLISHED)
            if sent < len(ESTABLISHED) or not client.try_flush():
                await client.write(ESTABLISHED[sent:])
        except OSError as error:
            raise ClientGone("the client left before its tunnel was ready") from error
        draft.status = 200
        draft.reply_bytes = len(ESTABLISHED)

    def refuse(self, client: Stream, error: EgressError, draft: RecordDraft) -> bool:
        """Answer with the error's status; behind a 200, what is inside the tunnel gets an alert. Nothing to one who is gone."""
        if error.status is None:
            return False
        if draft.status is not None:
            if is_about_what_is_inside(error) and draft.exchange is None:
                draft.reply_bytes += send_alert(client, error)
            return False
        goes_on = draft.may_go_on and isinstance(error, (PolicyError, UpstreamError))
        status = error.status
        unknown = status == 403 and draft.verdict is not None and draft.verdict.rule == OUTBOUND
        unknown = unknown and (self.name == "http" or (draft.target_text or "").startswith("/"))
        if unknown:
            status = 502  # as a gateway with a registry says it: nothing is known of this host
        reply = refusal(
            error, status=status, has_body=not unknown, body_is_sent=draft.method != "HEAD", keep_alive=goes_on
        )
        try:
            sent = client.try_write(reply)  # nothing of a reply was sent before: it fits the send buffer
        except OSError:
            return False  # gone, or its TLS handshake is not complete: it has heard nothing
        draft.status = status
        draft.reply_bytes = len(reply)
        draft.reply_body_bytes = len(reply) - reply.index(b"\r\n\r\n") - 4
        if goes_on and sent == len(reply) and client.try_flush():
            return True
        try:
            client.end_writing()
        except OSError:
            pass  # gone now
        return False


_HOST_AND_PORT = re.compile(r"(?:\[[^]]*\]|[^:]*)(?::[0-9]*)?")


def without_user(target: str, *, of_tunnel: bool) -> str:
    """A request target, to be told of, with stars for user name and password: such a target is refused, and logged.

    A password may have characters in it that end a host, and then what stands before them has no port.
    """
    if target.startswith("/"):
        return target  # a path
    scheme, separator, rest = target.partition("://")
    if of_tunnel or not separator:
        return f"***@{target.rpartition('@')[2]}"
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    user, at, _ = authority.rpartition("@")
    if at:
        return f"{scheme}://***{rest[len(user) :]}"
    return target if _HOST_AND_PORT.fullmatch(authority) else f"{scheme}://***@{rest.rpartition('@')[2]}"
