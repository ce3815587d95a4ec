"""The draft of a record: filled step by step while the connection lives, then turned into one ConnectionRecord.

A draft has no clock: whoever fills it says when. Live, it also answers what `/tunnels` asks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from egressproxy.errors import ClientGone, ClientTlsFailed, EgressError, UpstreamError
from egressproxy.model import ConnectionRecord, Endpoint, Exchange

if TYPE_CHECKING:
    from egressproxy.model import Intent, Transfer, Verdict
    from egressproxy.wire.kept_fields import KeptFields
    from egressproxy.wire.request import Request

ANSWERED = "answered"
"""Outcome of a plain request whose response came whole from its upstream, or from the proxy, being the last to be asked."""

MAX_PATH = 300
"""Characters of a path that `/tunnels` shows."""


class Relaying(Protocol):
    """A relay at work: payload bytes so far."""

    @property
    def bytes_up(self) -> int:
        """Client to upstream."""

    @property
    def bytes_down(self) -> int:
        """Upstream to client."""


class ExchangeDraft:
    """One plain HTTP request so far; see `model.Exchange`. Hot: made and finished once per request.

    response_at  monotonic seconds, when the head of the response was complete
    """

    __slots__ = (
        "attempts",
        "authority",
        "bytes_down",
        "bytes_up",
        "complete",
        "content_type",
        "forwarded_for",
        "path",
        "request",
        "request_id",
        "response_at",
        "reused",
        "route",
        "tls",
        "upgraded",
        "upstream_status",
        "user_agent",
    )

    def __init__(self, request: int, path: str, authority: str) -> None:
        self.request = request
        self.path = path
        self.authority = authority
        self.user_agent: str | None = None
        self.request_id: str | None = None
        self.forwarded_for: str | None = None
        self.upstream_status: int | None = None
        self.content_type: str | None = None
        self.response_at: float | None = None
        self.reused = False
        self.attempts = 0
        self.tls: str | None = None
        self.upgraded = False
        self.complete = False
        self.route: str | None = None
        self.bytes_up = 0
        self.bytes_down = 0

    def finish(self, head_at: float | None) -> Exchange:
        """As a value. `head_at`: when the request head was complete."""
        response_s = None if self.response_at is None or head_at is None else self.response_at - head_at
        return Exchange._make(
            (
                self.request,
                self.path,
                self.authority,
                self.user_agent,
                self.request_id,
                self.forwarded_for,
                self.upstream_status,
                self.content_type,
                response_s,
                self.reused,
                self.attempts,
                self.tls,
                self.upgraded,
                self.complete,
                self.route,
            )
        )


class RecordDraft:
    """One connection so far, or one request of it. Hot: made and finished once per connection.

    Times are monotonic seconds of one clock; None until the phase has ended:

    accepted_at   the connection was accepted
    head_at       the request head was complete
    resolved_at   the addresses were known; may stay None for an address literal
    connected_at  the upstream was connected

    method, target_text, http_version  from the head, set even where no intent comes of it
    opened       the client was told that its tunnel stands (set by Telemetry.opened)
    status       HTTP status sent to the client
    reply_bytes  size of what the proxy itself sent: a refusal, or the head of the 200
    relay        the running relay, while there is one
    dialled      where a captured client was on its way to
    server_name, sni_check, preread_bytes  as in the record
    exchange     the plain request, where it is one
    local, upstream_local  the proxy's own ends of the two connections, where a log asks for them
    reply_body_bytes  of reply_bytes, those behind the head
    service, service_port  the registered service that says how the target is reached, and the port it is known by
    parent       name of the parent proxy that it goes through
    kept         the header fields that a log asks for, where one asks for any
    may_go_on    a refusal may leave the connection open: the plain request that it is about was read to its end
    judged_bytes  of a ClientHello that opened the tunnel, where the server may ask for another one; else 0
    """

    __slots__ = (
        "accepted_at",
        "client",
        "client_port",
        "connected",
        "connected_at",
        "dialled",
        "error",
        "exchange",
        "head_at",
        "http_version",
        "intent",
        "judged_bytes",
        "kept",
        "listener",
        "local",
        "may_go_on",
        "method",
        "number",
        "opened",
        "parent",
        "preread_bytes",
        "protocol",
        "relay",
        "reply_body_bytes",
        "reply_bytes",
        "resolved_at",
        "server_name",
        "service",
        "service_port",
        "sni_check",
        "status",
        "target_text",
        "transfer",
        "upstream",
        "upstream_local",
        "user",
        "verdict",
    )

    def __init__(
        self, number: int, listener: str, protocol: str, client: str, client_port: int, accepted_at: float
    ) -> None:
        self.number = number
        self.listener = listener
        self.protocol = protocol
        self.client = client
        self.client_port = client_port
        self.accepted_at = accepted_at
        self.head_at: float | None = None
        self.resolved_at: float | None = None
        self.connected_at: float | None = None
        self.intent: Intent | None = None
        self.method: str | None = None
        self.target_text: str | None = None
        self.http_version: str | None = None
        self.user: str | None = None
        self.verdict: Verdict | None = None
        self.upstream: Endpoint | None = None
        self.connected = False
        self.opened = False
        self.status: int | None = None
        self.reply_bytes = 0
        self.relay: Relaying | None = None
        self.transfer: Transfer | None = None
        self.error: EgressError | None = None
        self.dialled: tuple[str, int] | None = None
        self.server_name: str | None = None
        self.sni_check: str | None = None
        self.preread_bytes = 0
        self.judged_bytes = 0
        self.may_go_on = False
        self.exchange: ExchangeDraft | None = None
        self.local: tuple[str, int] | None = None
        self.upstream_local: tuple[str, int] | None = None
        self.reply_body_bytes = 0
        self.service: str | None = None
        self.service_port: int | None = None
        self.parent: str | None = None
        self.kept: KeptFields | None = None

    def begin_exchange(self, number: int, request: Request) -> None:
        """The intent is a plain request, the `number`th of its connection."""
        fields = request.fields
        exchange = self.exchange = ExchangeDraft(number, request.path, request.authority)
        exchange.user_agent, exchange.request_id = fields.user_agent, fields.request_id
        self.may_go_on = fields.keep_alive and not (fields.length or fields.chunked)

    def finish(self, ended_at: float, unix_time_s: float) -> ConnectionRecord:
        """The record of this connection, which has ended.

        ended_at     monotonic seconds, the clock of the other times
        unix_time_s  the same moment as seconds since the epoch

        Whatever failed, the bytes are those that the relay carried, and the outcome is the error's. With neither a
        transfer nor an error the connection was ended from inside: the outcome is `cut`.
        """
        intent = self.intent
        if intent is None:
            method = self.method
            target = None
        else:
            method = intent.method
            target = intent.target

        verdict = self.verdict
        if verdict is None:
            rule = reason = None
            reported = False
        else:
            rule = verdict.rule
            reason = verdict.reason
            reported = verdict.reported

        transfer = self.transfer
        exchange = self.exchange
        if exchange is not None and not exchange.upgraded:
            bytes_up, bytes_down = exchange.bytes_up, exchange.bytes_down
            closed_by, outcome = "proxy", ANSWERED if exchange.complete else "cut"
        elif transfer is not None:
            bytes_up, bytes_down, closed_by, outcome = transfer
        else:
            relay = self.relay
            bytes_up, bytes_down = (0, 0) if relay is None else (relay.bytes_up, relay.bytes_down)
            closed_by = "proxy"
            outcome = "cut"

        error = self.error
        upstream = self.upstream
        detail = None
        if error is not None:
            outcome = error.slug
            detail = str(error)
            if transfer is None and isinstance(error, (ClientGone, ClientTlsFailed)):
                closed_by = "client"
            if upstream is None and isinstance(error, UpstreamError):
                upstream = error.endpoint

        head_at = self.head_at
        resolved_at = self.resolved_at
        connected_at = self.connected_at
        tunnel_s = head_s = resolve_s = connect_s = None
        if head_at is not None:
            tunnel_s = ended_at - head_at
            head_s = head_at - self.accepted_at
            if resolved_at is not None:
                resolve_s = resolved_at - head_at
            if connected_at is not None:
                connect_s = connected_at - (head_at if resolved_at is None else resolved_at)

        # One tuple for all, not 41 arguments: twice as fast.
        return ConnectionRecord._make(
            (
                self.number,
                self.listener,
                self.protocol,
                self.client,
                self.client_port,
                unix_time_s,
                ended_at - self.accepted_at,
                tunnel_s,
                method,
                target,
                self.target_text,
                self.http_version,
                self.user,
                rule,
                reason,
                reported,
                self.status,
                outcome,
                detail,
                upstream,
                self.connected,
                self.opened,
                self.reply_bytes,
                bytes_up,
                bytes_down,
                closed_by,
                head_s,
                resolve_s,
                connect_s,
                self.server_name,
                self.sni_check,
                self.preread_bytes,
                self.dialled,
                None if exchange is None else exchange.finish(self.head_at),
                self.local,
                self.upstream_local,
                self.reply_body_bytes,
                self.service,
                self.service_port,
                self.parent,
                self.kept,
            )
        )

    def phase(self) -> str:
        """Where it is: `head`, `resolve`, `connect` or `open`; a plain request with an upstream is `exchange`."""
        if self.opened:
            return "open"
        if self.exchange is not None and self.exchange.attempts:
            return "exchange"
        if self.resolved_at is not None:
            return "connect"
        return "head" if self.head_at is None else "resolve"

    def view(self, now: float) -> dict[str, object]:
        """What `/tunnels` shows of this connection at `now`, monotonic seconds: plain values, fit for JSON."""
        intent, verdict, upstream = self.intent, self.verdict, self.upstream
        exchange = self.exchange
        carried = exchange if exchange is not None and not exchange.upgraded else self.relay
        return {
            "connection": self.number,
            "listener": self.listener,
            "client": self.client,
            "client_port": self.client_port,
            "phase": self.phase(),
            "method": self.method if intent is None else intent.method,
            "target": None if intent is None else str(intent.target),
            "path": None if exchange is None else exchange.path.partition("?")[0][:MAX_PATH],
            "request": None if exchange is None else exchange.request,
            "rule": None if verdict is None else verdict.rule,
            "reported": verdict is not None and verdict.reported,
            "dialled": None if self.dialled is None else str(Endpoint(*self.dialled)),
            "server_name": self.server_name,
            "sni_check": self.sni_check,
            "upstream": None if upstream is None else str(upstream),
            "age_s": round(now - self.accepted_at, 3),
            "bytes_up": 0 if carried is None else carried.bytes_up,
            "bytes_down": 0 if carried is None else carried.bytes_down,
        }
