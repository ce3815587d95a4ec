"""START HERE: the life of one connection, from accept to record.

Two kinds of connection will live here. A tunnel (CONNECT or SNI) carries one intent. Plain HTTP will carry many, each
judged by itself. Both are told top to bottom, and no way out skips the record.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from egressproxy.agreement import agreement_for
from egressproxy.capture import original_destination
from egressproxy.errors import (
    AnnouncerDenied,
    ClientGone,
    ClientTlsFailed,
    ConnectFailed,
    Draining,
    EgressError,
    InternalError,
    MalformedProxyHeader,
)
from egressproxy.hostport import plain_address
from egressproxy.model import Endpoint
from egressproxy.policy.networks import parse_client
from egressproxy.stream import Stream, StreamExpired, TcpStream, TlsStream
from egressproxy.tls import handshake_problem
from egressproxy.wire.proxy_protocol import parse_proxy_header, proxy_header

if TYPE_CHECKING:
    import ssl

    from egressproxy.admission import Admission
    from egressproxy.capture import OwnConnections
    from egressproxy.deadlines import DeadlineQueue
    from egressproxy.dial import Dialer
    from egressproxy.frontends.frontend import Frontend
    from egressproxy.model import Intent, Verdict
    from egressproxy.policy.networks import NetworkSet
    from egressproxy.policy.policy import Policy
    from egressproxy.relay.relay import Relay
    from egressproxy.resolve.resolver import Resolver
    from egressproxy.telemetry.record import RecordDraft
    from egressproxy.telemetry.telemetry import Telemetry

logger = logging.getLogger(__name__)

ANNOUNCEMENT_READ_BYTES = 4096
LINGER_READS = 64
LINGER_READ_BYTES = 16_384
"""Read and thrown away after a refusal, at most."""


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
    """What a connection is served with: one whole configuration, put to work. A reload makes another one."""

    policy: Policy
    resolver: Resolver
    dialer: Dialer
    relay: Relay
    telemetry: Telemetry
    admission: Admission
    head_deadlines: DeadlineQueue
    linger_deadlines: DeadlineQueue
    max_hello_bytes: int
    own_connections: OwnConnections


async def handle_connection(tcp: TcpStream, entrance: Entrance, services: Services) -> None:
    """Carry one client from accept to close. Closes `tcp` and writes one record on every way out."""
    client: Stream = tcp
    upstream: TcpStream | None = None
    announced_for: tuple[str, int] | None = None
    frontend = entrance.frontend
    now = time.monotonic
    draft = services.admission.begin(entrance.label, frontend.name, tcp.address, tcp.port, now())
    try:
        services.head_deadlines.start(tcp)
        if entrance.announcers is not None:
            announced_for = await take_announcement(tcp, entrance.announcers, draft)
        if entrance.transparent is not None:
            draft.dialled = original_destination(tcp.sock, entrance.transparent, entrance.port)
            services.own_connections.refuse(tcp)
        if entrance.tls is not None:
            client = secured = TlsStream(tcp, entrance.tls, server_side=True)
            await shake_hands(secured)
        intent = draft.intent = await frontend.read_intent(client, draft)  # sniff
        services.head_deadlines.stop(tcp)
        draft.head_at = now()
        services.admission.admit()
        verdict = draft.verdict = services.policy.decide(intent)  # decide, by name
        verdict.enforce(intent)
        addresses = await find(intent, verdict, services.resolver)  # resolve
        draft.resolved_at = now()
        endpoints = services.policy.screen(intent, verdict, addresses)  # decide, by address
        upstream = await services.dialer.dial(endpoints)  # dial
        draft.connected_at = now()
        draft.upstream = Endpoint(upstream.address, upstream.port)
        draft.connected = True
        services.own_connections.add(upstream)
        if verdict.proxy_protocol:
            await introduce(tcp, upstream, draft.dialled or announced_for, verdict.proxy_protocol)
        if entrance.tls is not None:  # inside TLS even 39 bytes may have to wait for a client that reads nothing
            services.head_deadlines.start(tcp)
        await frontend.grant(client, draft)
        if entrance.tls is not None:
            services.head_deadlines.stop(tcp)
        check = agreement_for(intent, verdict, draft, services)  # decide, by the name inside
        tunnel = draft.relay = services.relay.open(client, upstream, check)
        services.telemetry.opened(draft)
        draft.transfer = await tunnel.run()  # relay
    except EgressError as error:
        draft.error = error
        frontend.refuse(client, error, draft)
        if upstream is not None:
            upstream.close()
        if draft.reply_bytes or isinstance(error, ClientTlsFailed):
            await linger(tcp if isinstance(error, ClientTlsFailed) else client, services.linger_deadlines)
    except StreamExpired:
        draft.error = frontend.too_slow(
            f"the client kept the proxy waiting for {services.head_deadlines.delay_s:g} s (timeouts.head_s)"
        )
        frontend.refuse(client, draft.error, draft)
    except asyncio.CancelledError:
        draft.error = Draining("the proxy shut down before the tunnel was ready")
        frontend.refuse(client, draft.error, draft)
        raise
    except Exception as error:
        logger.exception("a defect, while serving %s", tcp)
        draft.error = InternalError(f"{type(error).__name__}; the proxy's own log has the details")
        frontend.refuse(client, draft.error, draft)
    finally:
        if draft.head_at is None or entrance.tls is not None:
            services.head_deadlines.stop(tcp)
        client.close()
        if upstream is not None:
            services.own_connections.discard(upstream)
            upstream.close()
        services.telemetry.closed(draft.finish(now(), time.time()))  # record
        services.admission.end(draft)
        draft.error = None  # its traceback holds this frame, which holds the draft: a cycle, unless cut here


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


async def introduce(
    client: TcpStream, upstream: TcpStream, destination: tuple[str, int] | None, version: Literal[1, 2]
) -> None:
    """Write the PROXY protocol header of the client, on its way to `destination`; None: to this proxy. Raises ConnectFailed."""
    try:
        if destination is None:
            here = client.sock.getsockname()
            destination = plain_address(here[0]), here[1]
        await upstream.write(proxy_header(version, (client.address, client.port), destination))
    except OSError as error:
        endpoint = Endpoint(upstream.address, upstream.port)
        raise ConnectFailed(
            f"{endpoint}: broke at the PROXY protocol header: {error.strerror}", endpoint=endpoint
        ) from error


async def find(intent: Intent, verdict: Verdict, resolver: Resolver) -> tuple[str, ...]:
    """The target's addresses; an address literal is its own. Raises what `Resolver.resolve` raises."""
    target = intent.target
    if verdict.dials_original and intent.dialled is not None:
        return (intent.dialled[0],)
    if target.is_address:
        return (target.host,)
    return resolver.cached(target.host) or await resolver.resolve(target.host)


async def linger(client: Stream, deadlines: DeadlineQueue) -> None:
    """Wait a moment for the client to close first.

    Closing while its bytes are still arriving would reset the connection, and the reset could overtake our answer.
    """
    deadlines.start(client)
    try:
        for _ in range(LINGER_READS):
            if not await client.read(LINGER_READ_BYTES):
                break
    except (OSError, StreamExpired):
        pass
    finally:
        deadlines.stop(client)
