"""START HERE: the life of one connection, from accept to record.

A tunnel (CONNECT or SNI) carries one intent. Plain HTTP carries many, one request after the other: each is sniffed, judged,
resolved, exchanged and recorded by itself, under the configuration that is in force when it comes. Both are told top to
bottom, and no way out skips the record.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from egressproxy.agreement import agreement_for
from egressproxy.capture import original_destination
from egressproxy.destination import addresses_to_judge, locate
from egressproxy.errors import (
    AnnouncerDenied,
    ClientGone,
    ClientTlsFailed,
    ConnectFailed,
    Draining,
    EgressError,
    InternalError,
    MalformedProxyHeader,
    NoRoute,
)
from egressproxy.exchange import Exchange
from egressproxy.hostport import plain_address
from egressproxy.model import Endpoint
from egressproxy.parents import go_through
from egressproxy.policy.networks import parse_client
from egressproxy.poller import READ
from egressproxy.stream import Stream, StreamExpired, TcpStream, TlsStream
from egressproxy.telemetry.manager import page
from egressproxy.tls import handshake_problem
from egressproxy.wire.proxy_protocol import parse_proxy_header, proxy_header
from egressproxy.wire.replies import page_reply

if TYPE_CHECKING:
    from collections.abc import Sequence

    from egressproxy.admission import Admission
    from egressproxy.capture import OwnConnections
    from egressproxy.deadlines import DeadlineQueue
    from egressproxy.destination import Destination
    from egressproxy.dial import Dialer
    from egressproxy.exchange import Carriage
    from egressproxy.frontends.frontend import Frontend
    from egressproxy.model import Verdict
    from egressproxy.parents import Parent
    from egressproxy.policy.networks import NetworkSet
    from egressproxy.policy.policy import Policy
    from egressproxy.registry import Registry
    from egressproxy.relay.relay import Relay
    from egressproxy.resolve.resolver import Resolver
    from egressproxy.telemetry.record import RecordDraft
    from egressproxy.telemetry.telemetry import Telemetry
    from egressproxy.upstreams import Balancer

logger = logging.getLogger(__name__)

ANNOUNCEMENT_READ_BYTES = 4096
FIRST_READ_BYTES = 4096
"""Of a kept-alive client's next request: most heads come in one read."""
LINGER_READS = 64
LINGER_READ_BYTES = 16_384
"""Read and thrown away after a refusal, at most."""
LINGER_ROUNDS = 30
"""Moments for who has not got all of its last answer: half a minute in all, as NGINX's lingering_time."""


@dataclass(frozen=True, slots=True)
class Entrance:
    """How clients of one listener come in.

    tls          the listener itself speaks TLS
    transparent  they are captured on their way to somewhere else: `redirect` or `tproxy`
    announcers   each is announced by a PROXY protocol header, from one of these networks
    port         the listener's own
    """

    label: str
    frontend: Frontend
    tls: ssl.SSLContext | None = None
    transparent: Literal["redirect", "tproxy"] | None = None
    announcers: NetworkSet | None = None
    port: int = 0


@dataclass(frozen=True, slots=True)
class Services:
    """What the connections of one listener are served with: one whole configuration, put to work. A reload makes another one.

    registry  None where no service is registered
    parents   by their index in the configuration
    lifetime_s  how old a client's connection may be that waits for another request
    """

    policy: Policy
    registry: Registry | None
    parents: Sequence[Parent]
    balancer: Balancer
    resolver: Resolver
    dialer: Dialer
    relay: Relay
    carriage: Carriage
    telemetry: Telemetry
    admission: Admission
    head_deadlines: DeadlineQueue
    keep_alive_deadlines: DeadlineQueue
    linger_deadlines: DeadlineQueue
    max_hello_bytes: int
    lifetime_s: float
    own_connections: OwnConnections


class Door(Protocol):
    """Where a client came in, as it is now."""

    @property
    def entrance(self) -> Entrance:
        """How clients come in."""

    @property
    def services(self) -> Services:
        """What they are served with."""

    @property
    def closed(self) -> bool:
        """No new clients are taken."""


async def handle_connection(tcp: TcpStream, door: Door) -> None:
    """Carry one client from accept to close. Closes `tcp` and writes one record on every way out, or one for each request."""
    entrance, services = door.entrance, door.services
    client: Stream = tcp
    announced_for: tuple[str, int] | None = None
    frontend = entrance.frontend
    now = time.monotonic
    came_at = now()
    draft = services.admission.begin(entrance.label, frontend.name, tcp.address, tcp.port, came_at)
    requests = 0
    goes_on = True
    while goes_on:
        exchange: Exchange | None = None
        goes_on = parts = False
        try:
            if not requests:
                services.head_deadlines.start(tcp)
                announced_for = await learn_of(tcp, entrance, services, draft)
                if entrance.tls is not None:
                    client = tls = TlsStream(tcp, entrance.tls, server_side=True)
                    await shake_hands(tls)
            if services.telemetry.wants_addresses:
                draft.local = tcp.here()
            intent = draft.intent = await frontend.read_intent(client, draft)  # sniff
            services.head_deadlines.stop(tcp)
            draft.head_at = now()
            services.admission.admit(kept=requests > 0)
            if intent.request is not None:
                requests += 1
                draft.begin_exchange(requests, intent.request)
            verdict = draft.verdict = services.policy.decide(intent)  # decide, by name
            addresses = None
            if verdict.needs_addresses:  # a rule asks for them
                addresses = await addresses_to_judge(intent, services)
                verdict = draft.verdict = services.policy.decide(intent, addresses)
            verdict.enforce(intent)
            if intent.manager is not None:
                await show_page(client, intent.manager, draft, services)
                continue  # to the end: the connection is closed behind the page
            where = await locate(intent, verdict, addresses, draft, services)  # resolve; decide, by address
            draft.resolved_at = now()
            introduced = introduction(tcp, draft.dialled or announced_for, verdict) if verdict.proxy_protocol else b""
            if intent.request is None:
                await carry_tunnel(client, tcp, entrance, where, introduced, draft, services)  # dial, relay
            else:
                exchange = Exchange(services.carriage, client, tcp, intent, where, draft, introduced)
                goes_on = await exchange.run()  # dial, or a connection that was kept; there and back
                parts = not goes_on and draft.relay is None and not exchange.reads_client
        except EgressError as error:
            draft.error = error
            goes_on = frontend.refuse(client, error, draft)
            was_told = draft.reply_bytes or isinstance(error, ClientTlsFailed)
            if was_told and not goes_on and (exchange is None or not (exchange.reads_client or exchange.breaks_off)):
                await linger(tcp if isinstance(error, ClientTlsFailed) else client, services.linger_deadlines)
        except StreamExpired:
            draft.error = frontend.too_slow(
                f"the client kept the proxy waiting for {services.head_deadlines.delay_s:g} s (timeouts.head_s)"
            )
            frontend.refuse(client, draft.error, draft)
        except asyncio.CancelledError:
            draft.error = Draining("the proxy shut down before the tunnel was ready")
            frontend.refuse(client, draft.error, draft)
            if exchange is not None and not exchange.breaks_off:
                exchange = None  # there is no time to be polite
            raise
        except Exception as error:
            logger.exception("a defect, while serving %s", tcp)
            draft.error = InternalError(f"{type(error).__name__}; the proxy's own log has the details")
            frontend.refuse(client, draft.error, draft)
        finally:
            if draft.head_at is None or entrance.tls is not None:
                services.head_deadlines.stop(tcp)
            if not (goes_on or parts):
                if exchange is not None and exchange.breaks_off:
                    client.abort()
                elif exchange is not None:
                    await exchange.finish(client)
                client.close()
            services.telemetry.closed(draft.finish(now(), time.time()))  # record
            draft.error = None  # its traceback holds this frame, which holds the draft: a cycle, unless cut here
            if not (goes_on or parts):
                services.admission.end(draft)
        if goes_on:
            draft = services.admission.next(draft, now())
            is_old = now() - came_at >= services.lifetime_s
            is_closed = door.closed and not services.admission.last_requests
            goes_on = not (is_closed or is_old) and await another_request(client, tcp, services)
            before, entrance, services = entrance, door.entrance, door.services
            if entrance is not before:  # the configuration is another one
                goes_on = goes_on and leads_on(before, entrance, tcp)
                frontend, draft.listener = entrance.frontend, entrance.label
            parts = not goes_on
        if parts:
            await part(client, tcp, services.linger_deadlines)
            services.admission.end(draft)
        elif goes_on:
            services.head_deadlines.start(tcp)
            draft.accepted_at = now()


async def learn_of(
    tcp: TcpStream, entrance: Entrance, services: Services, draft: RecordDraft
) -> tuple[str, int] | None:
    """Who the client is, and where it was on its way to, as far as others than itself say so. Returns what an announcer says.

    Raises what `take_announcement` raises, and LoopDetected.
    """
    announced_for = None
    if entrance.announcers is not None:
        announced_for = await take_announcement(tcp, entrance.announcers, draft)
    if entrance.transparent is not None:
        draft.dialled = original_destination(tcp.sock, entrance.transparent, entrance.port)
        services.own_connections.refuse(tcp)
    return announced_for


async def carry_tunnel(
    client: Stream,
    tcp: TcpStream,
    entrance: Entrance,
    where: Destination,
    introduced: bytes,
    draft: RecordDraft,
    services: Services,
) -> None:
    """Dial, tell the client that its tunnel stands, judge what is inside, and relay until both ends have ended.

    introduced  what the upstream gets first: the PROXY protocol header of the client

    Closes the upstream. Raises what `Dialer.dial`, `Parent.open` and `Frontend.grant` raise, and what the check of the TLS
    inside comes to.
    """
    intent, verdict = draft.intent, draft.verdict
    assert intent is not None  # the caller has decided on it
    assert verdict is not None
    route, parent, endpoints = where
    carriage = services.carriage
    connect_s = (None if route is None else route.connect_timeout_s) or carriage.connect_s
    deadlines = carriage.upstreams.connect_deadlines(connect_s)
    upstream = await services.dialer.dial(endpoints, deadlines)  # dial
    services.own_connections.add(upstream)
    try:
        if parent is not None:
            await go_through(parent, upstream, intent.target, deadlines)
        draft.connected_at = time.monotonic()
        draft.upstream = Endpoint(upstream.address, upstream.port)
        draft.connected = True
        if services.telemetry.wants_addresses:
            draft.upstream_local = upstream.here()
        if introduced:
            await introduce(upstream, introduced)
        if entrance.tls is None:
            await entrance.frontend.grant(client, draft)
        else:  # inside TLS even 39 bytes may have to wait for a client that reads nothing
            services.head_deadlines.start(tcp)
            await entrance.frontend.grant(client, draft)
            services.head_deadlines.stop(tcp)
        tunnel_port = None if route is None else route.tunnel_port
        check = agreement_for(intent, verdict, draft, services, tunnel_port)  # decide, by the name inside
        tunnel = draft.relay = services.relay.open(client, upstream, check)
        services.telemetry.opened(draft)
        draft.transfer = await tunnel.run()  # relay
    finally:
        services.own_connections.discard(upstream)
        upstream.close()


def leads_on(before: Entrance, now: Entrance, tcp: TcpStream) -> bool:
    """Whether who came in as it was before may go on as it is now: by the same protocol, and made known in the same way.

    Who announced the client must still be one who may, and the authorities of clients' certificates the same.
    """
    return (
        now.frontend.name == before.frontend.name
        and (now.tls is None) == (before.tls is None)
        and _asks_of_clients(now.tls) == _asks_of_clients(before.tls)
        and now.transparent == before.transparent
        and (now.announcers is None) == (before.announcers is None)
        and (now.announcers is None or _peer_is_in(now.announcers, tcp))
    )


def _asks_of_clients(tls: ssl.SSLContext | None) -> frozenset[bytes] | None:
    """The authorities of which a client must have a certificate; None: of none."""
    if tls is None or tls.verify_mode == ssl.CERT_NONE:
        return None
    return frozenset(tls.get_ca_certs(binary_form=True))


def _peer_is_in(networks: NetworkSet, tcp: TcpStream) -> bool:
    """Whether the connection itself comes from there, whoever was announced on it."""
    try:
        peer = tcp.sock.getpeername()[0]
    except OSError:
        return False  # gone
    return parse_client(plain_address(peer)) in networks


async def another_request(client: Stream, tcp: TcpStream, services: Services) -> bool:
    """Wait for the first byte of a kept-alive client's next request. False: it left, or none came within `keep_alive_s`."""
    deadlines = services.keep_alive_deadlines
    deadlines.start(tcp)
    try:
        if client.has_unread:
            # Who sends many at once does not have all of them served at once.
            await services.carriage.stories.next_turn()
            if tcp.expired:
                return False
        else:
            await tcp.wait(READ)
        first = await client.read(FIRST_READ_BYTES)
        client.unread(first)
    except (OSError, StreamExpired):
        return False
    finally:
        deadlines.stop(tcp)
    return bool(first)


async def shake_hands(client: TlsStream) -> None:
    """Complete the TLS handshake with the client. Raises ClientTlsFailed."""
    try:
        await client.handshake()
    except StreamExpired as error:
        raise ClientTlsFailed("the TLS handshake was not complete within timeouts.head_s") from error
    except OSError as error:  # ssl.SSLError is one
        try:
            client.tcp.end_writing()  # who does not speak TLS waits for more than an alert
        except OSError:
            pass  # gone
        raise ClientTlsFailed(f"TLS handshake: {handshake_problem(error)}") from error


async def take_announcement(client: TcpStream, announcers: NetworkSet, draft: RecordDraft) -> tuple[str, int] | None:
    """Read the PROXY protocol header; from here on the client's address is the announced one. Returns where it was going.

    Raises AnnouncerDenied, MalformedProxyHeader or ClientGone.
    """
    if parse_client(client.address) not in announcers:
        raise AnnouncerDenied(f"{client.address} may not announce clients here (proxy_protocol.from)")
    data = b""
    while (announced := parse_proxy_header(data)) is None:
        try:
            received = await client.read(ANNOUNCEMENT_READ_BYTES)
        except StreamExpired as error:
            raise MalformedProxyHeader("no complete PROXY protocol header within timeouts.head_s") from error
        except OSError as error:
            raise ClientGone("the connection broke before a complete PROXY protocol header") from error
        if not received:
            raise ClientGone(f"the connection ended after {len(data)} bytes of a PROXY protocol header")
        data += received
    client.unread(data[announced.length :])
    if announced.source is not None:
        client.address, client.port = draft.client, draft.client_port = announced.source
    return announced.destination


def introduction(client: TcpStream, destination: tuple[str, int] | None, verdict: Verdict) -> bytes:
    """The PROXY protocol header of the client, on its way to `destination`; None: to this proxy."""
    assert verdict.proxy_protocol != 0  # the caller has asked
    return proxy_header(verdict.proxy_protocol, (client.address, client.port), destination or client.here())


async def introduce(upstream: TcpStream, header: bytes) -> None:
    """Write the PROXY protocol header of the client. Raises ConnectFailed."""
    try:
        await upstream.write(header)
    except OSError as error:
        endpoint = Endpoint(upstream.address, upstream.port)
        raise ConnectFailed(
            f"{endpoint}: broke at the PROXY protocol header: {error.strerror}", endpoint=endpoint
        ) from error


async def show_page(client: Stream, name: str, draft: RecordDraft, services: Services) -> None:
    """Answer with one of the proxy's own manager pages. Raises NoRoute or ClientGone."""
    text = page(name, services.telemetry.metrics, services.admission.drafts)
    if text is None:
        raise NoRoute(f"there is no manager page {name[:80]!a}; menu lists those that are")
    head, body = page_reply(text)
    try:
        await client.write(head if draft.method == "HEAD" else head + body)
        client.end_writing()
    except OSError as error:
        raise ClientGone("the client left before it had its page") from error
    exchange = draft.exchange
    assert exchange is not None  # it is a plain request
    draft.status, draft.reply_bytes = 200, len(head)
    exchange.complete, exchange.content_type = True, "text/plain"
    exchange.bytes_down = 0 if draft.method == "HEAD" else len(body)


async def part(client: Stream, tcp: TcpStream, deadlines: DeadlineQueue) -> None:
    """Close in good order a client's connection that carries no more requests (RFC 9112 section 9.6).

    A connection that is closed answers whatever comes with a reset, and so does one with bytes that nobody has read: what the
    client has not got by then is lost. So where it has not got all, or still talks, it is told the end and waited for.
    """
    try:
        if not tcp.has_ended and (client.unsent_bytes() or still_talks(client, tcp)):
            for _ in range(LINGER_ROUNDS):
                tcp.renew()
                if not await linger(client, deadlines) or not client.unsent_bytes():
                    break
        elif client is not tcp:
            client.end_writing()  # without its close_notify the last answer could be one that was cut
    except OSError:
        pass  # gone
    finally:
        client.close()


def still_talks(client: Stream, tcp: TcpStream) -> bool:
    """Something has come that nobody will read, as far as anybody was told."""
    try:
        return (client.has_unread or tcp.may_have_more) and bool(client.try_read(1))
    except OSError:
        return False


async def linger(client: Stream, deadlines: DeadlineQueue) -> bool:
    """Tell the client that no more comes, and wait a moment for it to close first. True: the moment passed, and it has not.

    Closing while its bytes are still arriving would reset the connection, and the reset could overtake our answer.
    """
    try:
        client.end_writing()
    except OSError:
        return False  # gone
    deadlines.start(client)
    try:
        if not client.try_flush():
            await client.write(b"")
        for _ in range(LINGER_READS):
            if not await client.read(LINGER_READ_BYTES):
                break
    except StreamExpired:
        return True
    except OSError:
        pass
    finally:
        deadlines.stop(client)
    return False
