"""Exchange: one plain request to an upstream, and its response back, both streamed.

**In order.** The head goes up, with as much of the body as has come; what is left of the body follows while the response is
already awaited, because an upstream may answer before it has seen all. Interim responses (1xx) are handed on. Then the
response's head goes down, and its body as it comes. 101, where the client has asked for it, makes a tunnel of both connections.

**Framing is written anew** on both sides: a body of a known length keeps it, any other is sent in chunks to who can read them.
So neither side can make the other see another boundary than we do.

**Back-pressure.** A piece of a body is read when the one before has been taken. Memory per exchange is one piece each way. How
long one exchange may keep the event loop is told in `pace`.

**Again.** A kept connection may be closed by its upstream just when a request is sent on it. If not a byte of a response has
come, the request may be repeated (RFC 9110 section 9.2.2) and none of its body is gone, it is sent once more on a new one.

**No further.** An OPTIONS whose Max-Forwards is used up is answered here, and a TRACE is refused.

**Deadlines.** `timeout_s` of a service counts from the end of the request to the end of the response. `idle_s`: no byte from
or to either side. A client that has ended its half may still wait for its answer, for `half_close_s`; one that is gone ends it
all.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from egressproxy.errors import (
    BodyTimeout,
    ClientGone,
    EgressError,
    LoopDetected,
    MethodNotImplemented,
    UpstreamClosed,
    UpstreamError,
    UpstreamProtocolError,
    UpstreamSilent,
    UpstreamTimeout,
)
from egressproxy.frontends.frontend import may_have_changed
from egressproxy.originate import upstream_tls_error
from egressproxy.pace import Pace
from egressproxy.poller import READ
from egressproxy.stream import StreamExpired, TcpStream, TlsStream
from egressproxy.upload import Upload
from egressproxy.upstreams import Through
from egressproxy.wire.body import Body, ChunkedBody, ClosedBody, LengthBody, as_chunk, last_chunk
from egressproxy.wire.forwarding import has_passed, request_head, response_head, via, without
from egressproxy.wire.replies import own_options
from egressproxy.wire.response_head import (
    ResponseFields,
    ResponseHead,
    body_is_forbidden,
    parse_response_head,
    response_fields,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from egressproxy.admission import Admission
    from egressproxy.config.schema.stages import Http
    from egressproxy.deadlines import DeadlineQueue, DeadlineQueues, Expires
    from egressproxy.destination import Destination
    from egressproxy.identities import Identities
    from egressproxy.model import Intent
    from egressproxy.relay.relay import Relay
    from egressproxy.stories import Stories
    from egressproxy.stream import Stream
    from egressproxy.telemetry.record import ExchangeDraft, RecordDraft
    from egressproxy.telemetry.telemetry import Telemetry
    from egressproxy.upstreams import Upstream, Upstreams
    from egressproxy.wire.request import Request
    from egressproxy.wire.request_head import HeadLimits

HEAD_READ_BYTES = 16_384
"""Of a response, while its head is awaited: a head and a small body come in one read."""
MAX_INTERIM = 16
"""Interim responses that one request may get. A client that waits for the real one must not be fed for ever."""
REPEATABLE = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
"""RFC 9110 section 9.2.2: idempotent, so that asking twice is asking once."""

TIME_STEPS = 20
"""In which the time of a service is counted that was spent before its endpoints were known."""

SWITCHING = 101
NO_CONTENT = 204

_FAILED = 0x18  # EPOLLHUP and EPOLLERR: nobody is left at the other end
_now = time.monotonic


@dataclass(frozen=True, slots=True)
class Carriage:
    """What plain requests are forwarded with: at one listener, of one configuration.

    name            how this proxy calls itself in Via
    own_fields      for each service, the names (lower case) of the fields that the proxy sets in place of the client's
    idle            deadlines by duration; `idle_s` is the usual one, and so with half_close
    connect_s       for a connection; None: as the dialer has it
    """

    settings: Http
    name: str
    limits: HeadLimits
    max_body_bytes: int | None
    identities: Identities
    own_fields: Sequence[frozenset[bytes]]
    upstreams: Upstreams
    stories: Stories
    relay: Relay
    telemetry: Telemetry
    admission: Admission
    idle: DeadlineQueues
    idle_s: float
    half_close: DeadlineQueues
    half_close_s: float
    connect_s: float | None
    linger: DeadlineQueue
    response: DeadlineQueues

    def close(self) -> None:
        """Close what is kept, and give the timers back."""
        self.upstreams.close()
        for queues in (self.idle, self.half_close, self.response):
            queues.close()


class Exchange:
    """One request on its way, and its response. `run` is the whole of it."""

    __slots__ = (
        "_carriage",
        "_client",
        "_client_tcp",
        "_draft",
        "_endpoints",
        "_exchange",
        "_failure",
        "_half_closed",
        "_heard",
        "_host",
        "_identity",
        "_idle",
        "_intent",
        "_limits",
        "_making",
        "_preface",
        "_request",
        "_route",
        "_telling",
        "_through",
        "_timed",
        "_upload",
        "_upstream",
        "breaks_off",
    )

    def __init__(
        self,
        carriage: Carriage,
        client: Stream,
        client_tcp: TcpStream,
        intent: Intent,
        where: Destination,
        draft: RecordDraft,
        preface: bytes = b"",
    ) -> None:
        """Notes what it finds in `draft`, and in its exchange.

        client_tcp  below the client's TLS, where it speaks that
        where       judged, by name and by address
        preface     what every connection to the upstream begins with: then it is for this request only

        Raises CredentialMissing.
        """
        request, exchange = intent.request, draft.exchange
        route, parent, endpoints = where
        assert request is not None  # it is no tunnel
        assert exchange is not None
        self._carriage = carriage
        self._client = client
        self._client_tcp = client_tcp
        self._intent = intent
        self._route = route
        self._endpoints = endpoints
        self._draft = draft
        self._preface = preface
        self._through = None if parent is None else Through(parent, intent.target)
        self._request: Request = request
        self._exchange: ExchangeDraft = exchange
        self._failure: EgressError | None = None
        self._upload: Upload | None = None
        self._upstream: Upstream | None = None
        self._limits: list[_Limit] = []  # that run, besides the idle one
        self._making: Expires | None = None  # the upstream connection that is not there yet
        self._timed = False  # the service's time runs
        self._half_closed = False  # the client has ended its half
        self._heard = False  # a byte of a response has come
        self.breaks_off = False  # the client takes the end of its connection for that of the response, which it is not
        self._telling = False  # the client is waited for, to take what it is told
        if route is None:
            self._host = intent.target.host
            self._identity = None
            self._idle = carriage.idle.of(carriage.idle_s)
        else:
            self._host = route.host
            self._identity = None if route.tls is None else carriage.identities.of(route.service)
            self._idle = carriage.idle.of(route.idle_timeout_s or carriage.idle_s)

    # --- the story ------------------------------------------------------------------------------------------------

    async def run(self) -> bool:
        """Carry the request up and its response down. True: the client's connection may carry another one.

        Raises EgressError; what the client has heard by then is in the draft's `status`. Leaves no upstream connection open
        that is not kept. `finish` comes next, on every way out.
        """
        client_tcp = self._client_tcp
        client_tcp.unawaited = self._on_client
        client_tcp.listen()
        self._idle.start(self)
        try:
            self._on_client(0)
            forward, added = self._fields()
            takes_trailers = self._route is None or not self._route.has_headers
            self._upload = Upload(
                self._client, self._request.fields, self._carriage, self._moved, takes_trailers=takes_trailers
            )
            if self._upload.is_at_hand:
                self._start_clock()
            if self._request.fields.max_forwards == 0:
                return await self._answer_as_the_last()
            upstream = self._take() or await self._make()
            try:
                head, rest = await self._ask(upstream, forward, added)
            except UpstreamClosed:
                repeatable = self._request.method in REPEATABLE and self._upload.nothing_gone and not self._heard
                if not upstream.used or not repeatable:
                    raise
                self._let_go()
                upstream = await self._make()
                head, rest = await self._ask(upstream, forward, added)
            if head.status == SWITCHING:
                return await self._become_tunnel(upstream, head, rest)
            return await self._answer(upstream, head, rest)
        except StreamExpired:
            if self._failure is None:  # the time of a connection, and nobody has said whose: not the client's
                raise UpstreamTimeout(f"{self._intent.target}: its connection was out of time") from None
            raise self._failure from None
        except UpstreamProtocolError as error:
            if error.endpoint is not None:
                raise
            where = self._draft.upstream
            raise UpstreamProtocolError(f"{where}: {error}", endpoint=where) from None
        finally:
            self._idle.stop(self)
            for limit in self._limits:
                limit.stop()
            self._let_go()
            client_tcp.unawaited = None
            # Each of these leads back here: a cycle for each request would be left to the garbage collector.
            self._limits.clear()
            self._failure = None
            if self._upload is not None:
                self._upload.tell_nobody()

    @property
    def reads_client(self) -> bool:
        """The client's body is still being read, if only to be thrown away."""
        return self._upload is not None and self._upload.is_running

    async def finish(self, client: Stream) -> None:
        """The client's connection is closed next: tell it, and let it get to read what it was told."""
        if self._upload is not None and self._upload.is_running:
            try:
                client.end_writing()
            except OSError:
                pass  # gone
            await self._upload.finish()

    # --- the request ----------------------------------------------------------------------------------------------

    def _fields(self) -> tuple[bytes, str]:
        """The client's end-to-end fields as they go on, and those of the proxy's own.

        Raises LoopDetected, MethodNotImplemented or CredentialMissing.
        """
        carriage, fields, exchange = self._carriage, self._request.fields, self._exchange
        settings = carriage.settings
        added = ""
        if settings.via:
            if has_passed(fields.via, carriage.name):
                raise LoopDetected(f"the request has passed {carriage.name} before, or too many others (Via)")
            added = via(fields.via, self._request.http_version, carriage.name)
        elif fields.via is not None:
            added = f"Via: {fields.via}\r\n"
        told = fields.forwarded_for
        if settings.forwarded_for == "delete":
            told = None
        elif settings.forwarded_for != "off":
            address = self._client.address
            told = address if told is None or settings.forwarded_for == "replace" else f"{told}, {address}"
        if told is not None:
            added += f"X-Forwarded-For: {told}\r\n"
        request_id = fields.request_id
        if request_id is None and settings.request_id:
            request_id = _new_request_id()
        if request_id is not None:
            added += f"X-Request-Id: {request_id}\r\n"
        exchange.forwarded_for = told
        exchange.request_id = request_id
        exchange.user_agent = fields.user_agent
        forward = fields.forward
        route = self._route
        if route is not None and route.has_headers:
            if self._request.method.upper() == "TRACE":  # methods have a case, and some servers do not know
                raise MethodNotImplemented(f"TRACE would tell the client what {route.name} is told in its place")
            forward = without(forward, carriage.own_fields[route.service])
            forward += carriage.identities.header_lines(route.service)
        return forward, added

    def _take(self) -> Upstream | None:
        """A kept connection for this request. Of a service with endpoints the one whose turn it is, so that all have theirs."""
        if self._preface:
            return None
        endpoints = self._endpoints if self._route is None or not self._route.endpoints else self._endpoints[:1]
        upstream = self._carriage.upstreams.take(self._host, endpoints, self._identity, self._through)
        if upstream is not None:
            self._use(upstream)
        return upstream

    async def _make(self) -> Upstream:
        """A new one. Raises what `Upstreams.make` raises."""
        route, upstreams = self._route, self._carriage.upstreams
        connect_s = (None if route is None else route.connect_timeout_s) or self._carriage.connect_s
        if route is not None and route.timeout_s is not None:
            connect_s = min(connect_s or upstreams.connect_s, route.timeout_s)
        try:
            upstream = await upstreams.make(
                self._host,
                self._endpoints,
                self._identity,
                connect_s,
                self._preface,
                self._is_making,
                self._through,
            )
        except UpstreamError as error:
            if self._failure is None:
                raise
            if isinstance(self._failure, UpstreamError):
                self._failure.endpoint = error.endpoint  # the one that was waited for
            raise self._failure from None
        finally:
            self._making = None
        self._use(upstream)
        if self._draft.connected_at is None:
            self._draft.connected_at = _now()
        if self._failure is not None:  # while it was in the making
            raise self._failure
        return upstream

    def _is_making(self, step: Expires) -> None:
        self._making = step
        if self._failure is not None:
            step.expire()

    def _use(self, upstream: Upstream) -> None:
        self._upstream = upstream
        draft, exchange = self._draft, self._exchange
        exchange.attempts += 1
        exchange.reused = upstream.used > 0
        exchange.tls = upstream.tls
        draft.upstream = upstream.endpoint
        draft.connected = True
        if self._carriage.telemetry.wants_addresses:
            draft.upstream_local = upstream.tcp.here()

    def _let_go(self) -> None:
        """The connection is not fit for another request."""
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            upstream.tcp.expire()  # a body may be waiting to go up
            self._carriage.upstreams.discard(upstream)

    async def _ask(self, upstream: Upstream, forward: bytes, added: str) -> tuple[ResponseHead, bytes]:
        """Send the request, and read until the head of its response, and what came behind that.

        Raises UpstreamClosed, UpstreamProtocolError and what the client's body raises.
        """
        upload = self._upload
        assert upload is not None
        stream = upstream.stream
        first = request_head(self._request, forward, added) + upload.first()
        try:
            sent = stream.try_write(first)
        except OSError as error:
            raise self._broken(upstream, error) from error
        if sent == len(first) and upload.is_complete and stream.try_flush():
            self._request_has_ended()
        else:
            upload.start(upstream, first[sent:], self._request_has_ended, self._fail)
        return await self._response_head(upstream)

    def _request_has_ended(self) -> None:
        """The upstream has all of it: from here on it is the response that is waited for."""
        self._draft.may_go_on = self._request.fields.keep_alive
        self._start_clock()

    def _start_clock(self) -> None:
        """The request has ended: from here on the service's time runs, for all attempts."""
        route = self._route
        if route is not None and route.timeout_s is not None and not self._timed:
            self._timed = True
            queue = self._carriage.response.of(self._time_left(route.timeout_s))
            facts = (
                f"{self._intent.target}: no complete response within {route.timeout_s:g} s (timeout_s of {route.name})"
            )
            self._limit(queue, UpstreamTimeout(facts))

    def _time_left(self, timeout_s: float) -> float:
        """Of the service's time, less what was spent on finding out where it is. In steps, which keeps the queues few."""
        step = timeout_s / TIME_STEPS
        head_at, resolved_at = self._draft.head_at, self._draft.resolved_at
        if self._draft.connected or head_at is None or resolved_at is None:
            return timeout_s
        return max(step, timeout_s - int((resolved_at - head_at) / step) * step)

    async def _answer_as_the_last(self) -> bool:
        """Answer a request that may go no further (RFC 9110 section 7.6.2). Raises MethodNotImplemented or ClientGone."""
        upload = self._upload
        assert upload is not None
        if self._request.method == "TRACE":  # it may hold what other proxies have put into it
            raise MethodNotImplemented("TRACE with Max-Forwards: 0 asks this proxy for an echo, which it does not give")
        keep_alive = self._request.fields.keep_alive and upload.is_complete and not self._carriage.admission.draining
        told = own_options(keep_alive=keep_alive)
        self._draft.status = 200
        self._draft.reply_bytes += len(told)
        await self._tell(told)
        self._exchange.complete = True
        return keep_alive

    # --- the response ---------------------------------------------------------------------------------------------

    async def _response_head(self, upstream: Upstream) -> tuple[ResponseHead, bytes]:
        stream = upstream.stream
        limits = self._carriage.limits
        interim = known = 0
        data = b""
        if not stream.has_unread:
            await upstream.tcp.wait(READ)  # it cannot have answered yet
        while True:
            head = (
                parse_response_head(data, limits) if data and may_have_changed(data, known, limits.max_bytes) else None
            )
            if head is not None:
                rest = data[head.length :]
                if head.status >= 200 or head.status == SWITCHING:
                    self._exchange.response_at = _now()
                    self._exchange.upstream_status = head.status
                    if self._draft.kept is not None:
                        self._draft.kept.take_response(head.raw_headers)
                    return head, rest
                interim += 1
                if interim > MAX_INTERIM:
                    raise UpstreamProtocolError(
                        f"{upstream.endpoint}: more than {MAX_INTERIM} interim responses (1xx)",
                        endpoint=upstream.endpoint,
                    )
                await self._hand_on_interim(head)
                known, data = 0, rest
                continue
            try:
                received = await stream.read(HEAD_READ_BYTES)
            except OSError as error:
                raise self._broken(upstream, error) from error
            if not received:
                kind = UpstreamProtocolError if data or interim else UpstreamClosed
                facts = f"{upstream.endpoint}: closed after {len(data)} bytes of a response head"
                raise kind(facts, endpoint=upstream.endpoint)
            known = len(data)
            data += received
            self._heard = True
            self._moved()

    async def _hand_on_interim(self, head: ResponseHead) -> None:
        if self._request.http_version == "1.0":
            return  # RFC 9110 section 15.2: 1.0 knows none
        fields = response_fields(head)
        await self._tell(response_head(head, fields, "", chunked=False, length=None, connection=""))

    async def _answer(self, upstream: Upstream, head: ResponseHead, rest: bytes) -> bool:
        """Hand the response on. True: the client's connection may carry another request."""
        request, draft, exchange, upload = self._request, self._draft, self._exchange, self._upload
        assert upload is not None
        fields = response_fields(head)
        exchange.content_type = fields.content_type
        body, chunked, length, until_closed = self._framing(head, fields)
        keep_alive = (
            request.fields.keep_alive
            and not until_closed
            and upload.is_complete
            and not self._carriage.admission.draining
        )
        payload = body.take(rest) if rest else b""
        told = response_head(
            head,
            fields,
            self._added_to_response(fields, head),
            chunked=chunked,
            length=length,
            connection=self._connection(keep_alive=keep_alive),
        )
        draft.status = head.status
        draft.reply_bytes += len(told)
        first = told + (as_chunk(payload) if chunked else payload)
        if chunked and body.done:
            first += last_chunk(body.trailers)
        self.breaks_off = until_closed
        await self._tell(first)
        exchange.bytes_down += len(payload)
        if not body.done:
            await self._stream_down(upstream, body, chunked=chunked)
        self.breaks_off = False
        exchange.complete = True
        ended_well = upload.is_complete and not body.excess and type(body) is not ClosedBody
        # Not kept: a connection whose preface said who the client is; and one that answered a HEAD, because a server that sends
        # a body all the same would be a response behind from there on.
        # And not one whose time was over before its response was: a deadline has passed for it.
        reusable = fields.keep_alive and ended_well and self._failure is None
        if reusable and not self._preface and request.method != "HEAD":
            self._upstream = None
            self._carriage.upstreams.give(upstream)
        return keep_alive

    def _framing(self, head: ResponseHead, fields: ResponseFields) -> tuple[Body, bool, int | None, bool]:
        """How the body comes; and how it goes on: in chunks, with a length that is said, or until the connection is closed."""
        if body_is_forbidden(self._request.method, head.status):
            return LengthBody(0), False, fields.length if head.status != NO_CONTENT else None, False
        if fields.length is not None and not fields.chunked:
            return LengthBody(fields.length), False, fields.length, False
        limits = self._carriage.limits
        body: Body = (
            ChunkedBody(limits.max_bytes, limits.max_headers, UpstreamProtocolError) if fields.chunked else ClosedBody()
        )
        if self._request.http_version == "1.0":
            return body, False, None, True
        return body, True, None, False

    async def _stream_down(self, upstream: Upstream, body: Body, *, chunked: bool) -> None:
        """Hand the rest of the body on as it comes. Raises UpstreamClosed where it ends too early."""
        stream, exchange = upstream.stream, self._exchange
        ended = False
        pace = Pace(self._carriage.stories, in_chunks=type(body) is ChunkedBody)
        while not ended:
            try:
                data = await pace.read(stream)
            except OSError as error:
                raise self._broken(upstream, error) from error
            if data:
                payload = body.take(data)
                pace.found(len(payload), len(data))
            elif body.end() and not (type(stream) is TlsStream and stream.cut_off):  # RFC 9112 section 9.8
                payload = b""
            else:
                raise UpstreamClosed(
                    f"{upstream.endpoint}: closed before its response was complete", endpoint=upstream.endpoint
                )
            ended = body.done
            told = as_chunk(payload) if chunked else payload
            if chunked and ended:
                told += last_chunk(body.trailers)
            if told:
                await self._tell(told)
                exchange.bytes_down += len(payload)
            self._moved()

    async def _tell(self, data: bytes) -> None:
        """Write to the client. Raises ClientGone."""
        client = self._client
        try:
            sent = client.try_write(data)
            if sent < len(data) or not client.try_flush():
                self._telling = True
                await client.write(data[sent:])
                self._telling = False
        except OSError as error:
            raise ClientGone(f"the client left after {self._exchange.bytes_down} bytes of its response") from error

    def _added_to_response(self, fields: ResponseFields, head: ResponseHead) -> str:
        carriage = self._carriage
        if carriage.settings.via:
            return via(fields.via, head.http_version, carriage.name)
        return "" if fields.via is None else f"Via: {fields.via}\r\n"

    def _connection(self, *, keep_alive: bool) -> str:
        if not keep_alive:
            return "close"
        return "keep-alive" if self._request.http_version == "1.0" else ""

    # --- another protocol -----------------------------------------------------------------------------------------

    async def _become_tunnel(self, upstream: Upstream, head: ResponseHead, rest: bytes) -> bool:
        """Both sides have agreed to speak something else (RFC 9110 section 7.8)."""
        fields = response_fields(head)
        request, draft, upload = self._request, self._draft, self._upload
        assert upload is not None
        asked, agreed = request.fields.upgrade, fields.upgrade
        if asked is None or agreed is None or not same_protocol(asked, agreed) or not upload.is_complete:
            raise UpstreamProtocolError(
                f"{upstream.endpoint}: 101 (Switching Protocols), which the client has not asked for",
                endpoint=upstream.endpoint,
            )
        added = self._added_to_response(fields, head) + f"Upgrade: {agreed}\r\n"
        told = response_head(head, fields, added, chunked=False, length=None, connection="Upgrade")
        draft.status = head.status
        draft.reply_bytes += len(told)
        await self._tell(told)
        self._idle.stop(self)
        for limit in self._limits:
            limit.stop()
        self._client_tcp.unawaited = None
        upstream.stream.unread(rest)
        self._exchange.upgraded = True
        tunnel = draft.relay = self._carriage.relay.open(self._client, upstream.stream)
        self._carriage.telemetry.opened(draft)
        draft.transfer = await tunnel.run()
        return False

    # --- what goes wrong ------------------------------------------------------------------------------------------

    def _moved(self) -> None:
        """A byte has come or gone."""
        self._idle.start(self)
        if self._upload is not None:
            self._exchange.bytes_up = self._upload.carried

    def expire(self) -> None:
        """Nothing has moved for the idle time."""
        if self._telling:
            self._fail(
                ClientGone(f"the client took no byte of its response for {self._idle.delay_s:g} s (timeouts.idle_s)")
            )
        elif self._upload is not None and self._upload.waits_for_client:
            self._fail(BodyTimeout(f"no byte of the request's body for {self._idle.delay_s:g} s (timeouts.idle_s)"))
        else:
            facts = f"{self._intent.target}: no byte for {self._idle.delay_s:g} s (timeouts.idle_s, idle_timeout_s)"
            self._fail(UpstreamSilent(facts))

    def _on_client(self, events: int) -> None:
        """Something comes from the client while nobody reads it: the next request, or its end."""
        if events & _FAILED:
            self._fail(ClientGone("the client left before its response was complete"))
        elif self._client_tcp.hung_up and not self._half_closed:
            self._half_closed = True
            queue = self._carriage.half_close.of(self._carriage.half_close_s)
            self._limit(
                queue, ClientGone(f"the client ended its half, and no complete response within {queue.delay_s:g} s")
            )

    def _limit(self, queue: DeadlineQueue, error: EgressError) -> None:
        limit = _Limit(self, queue, error)
        self._limits.append(limit)
        queue.start(limit)

    def _fail(self, error: EgressError) -> None:
        """End it with this error, whatever is being waited for."""
        if self._failure is None:
            self._failure = error
            if self._upstream is not None:
                self._upstream.tcp.expire()
            elif self._making is not None:
                self._making.expire()
            if self._telling:
                self._client_tcp.expire()

    def _broken(self, upstream: Upstream, error: OSError) -> EgressError:
        """What an OSError of the upstream's stream means."""
        if upstream.tls is not None:
            found = upstream_tls_error(error, upstream.endpoint, upstream.stream)
            if found is not None:
                return found
        return UpstreamClosed(
            f"{upstream.endpoint}: {error.strerror or error}, before its response was complete",
            endpoint=upstream.endpoint,
        )


def same_protocol(asked: str, agreed: str) -> bool:
    """Whether an upstream has agreed to one of the protocols that it was asked for, and to no more than one."""
    return agreed.lower() in [each.strip(" \t") for each in asked.lower().split(",")]


class _Limit:
    """A deadline with the error that it means."""

    __slots__ = ("_error", "_exchange", "_queue")

    def __init__(self, exchange: Exchange, queue: DeadlineQueue, error: EgressError) -> None:
        self._exchange = exchange
        self._queue = queue
        self._error = error

    def expire(self) -> None:
        self._exchange._fail(self._error)

    def stop(self) -> None:
        """It is not needed any more."""
        self._queue.stop(self)


def _new_request_id() -> str:
    """A random UUID (RFC 9562 section 5.4), as text."""
    number = random.getrandbits(128)
    text = f"{number:032x}"
    return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-{'89ab'[number & 3]}{text[17:20]}-{text[20:]}"
