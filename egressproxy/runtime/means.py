"""What the clients of each listener come in by, and what they are served with.

Most of it outlives the configuration that it was made for: connections that are kept, tunnels that are open, and deadlines that
run are handed on from one to the next, which only sets them anew.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from egressproxy.connection import Entrance, Services
from egressproxy.deadlines import DeadlineQueue, DeadlineQueues
from egressproxy.dial import Dialer
from egressproxy.exchange import Carriage
from egressproxy.frontends.auto import AutoFrontend
from egressproxy.frontends.http import HttpFrontend
from egressproxy.frontends.sni import SniFrontend
from egressproxy.frontends.tcp import TcpFrontend
from egressproxy.hostport import parse_authority
from egressproxy.model import HTTP_PORT, TLS_PORT
from egressproxy.parents import parents_of
from egressproxy.policy.networks import NetworkSet
from egressproxy.relay.pipes import PipePool
from egressproxy.relay.relay import Relay
from egressproxy.resolve.resolver import Resolver
from egressproxy.upstreams import Balancer, Upstreams
from egressproxy.wire.replies import PROXY_NAME
from egressproxy.wire.request_head import HeadLimits

if TYPE_CHECKING:
    import asyncio
    import ssl

    from egressproxy.admission import Admission
    from egressproxy.capture import OwnConnections
    from egressproxy.config.schema.config import Config
    from egressproxy.config.schema.listeners import Listener
    from egressproxy.config.schema.stages import Limits
    from egressproxy.frontends.frontend import Frontend
    from egressproxy.identities import Identities
    from egressproxy.model import AskedFields
    from egressproxy.policy.policy import Policy
    from egressproxy.poller import Poller
    from egressproxy.registry import Registry
    from egressproxy.runtime.parts import Parts, Place
    from egressproxy.stories import Stories
    from egressproxy.telemetry.telemetry import Telemetry

REFUSED_LINGER_S = 1.0
"""How long a refused client is given to take its answer and close."""
RETIRED_RESOLVER_S = 600.0
"""A replaced resolver is closed after this. A look-up of its that is still under way fails then."""


class Means:
    """Of one worker, from its first configuration to its end.

    policy, identities             of the configuration in force
    resolver, dialer, upstreams    shared by all listeners
    """

    policy: Policy
    identities: Identities

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        poller: Poller,
        stories: Stories,
        telemetry: Telemetry,
        admission: Admission,
        own_connections: OwnConnections,
        config: Config,
    ) -> None:
        """Serves nobody yet. `config` is the first one; `use` puts it in force."""
        times = config.timeouts
        self._loop = loop
        self._poller = poller
        self._stories = stories
        self._telemetry = telemetry
        self._admission = admission
        self._own_connections = own_connections
        self._via_name = f"{PROXY_NAME}-{secrets.token_hex(4)}"  # a loop is told by it, so no two workers share one
        self._dns = config.dns
        self.resolver = Resolver(config.dns)
        self.dialer = Dialer(poller, loop, times.connect_s)
        self.upstreams = Upstreams(self.dialer, own_connections, loop, times.upstream_idle_s)
        self._pipes = PipePool()
        self._relays: WeakValueDictionary[Place, Relay] = WeakValueDictionary()  # as long as a client may need them
        self._heads = DeadlineQueues("head_timeout", loop)
        self._keep_alive = DeadlineQueues("keep_alive", loop)
        self._linger = DeadlineQueue("linger", REFUSED_LINGER_S, loop)
        self._carriage: Carriage | None = None  # one of those in force

    def use(self, config: Config, parts: Parts) -> dict[Place, Services]:
        """What the clients of each listener are served with from now on: all of them the same, but for time limits."""
        timeouts, limits = config.timeouts, config.limits
        self.policy, self.identities = parts.policy, parts.identities
        self._use_resolver(config)
        self.dialer.configure(timeouts.connect_s)
        self.upstreams.configure(
            max_kept=limits.max_pooled,
            max_kept_each=limits.max_pooled_each,
            idle_s=timeouts.upstream_idle_s,
            lifetime_s=timeouts.upstream_lifetime_s,
        )
        self._admission.max_tunnels = limits.max_tunnels
        self._own_connections.watched = any(listener.transparent is not None for listener in config.listeners)
        own_fields = [frozenset(name.lower().encode() for name in each.set_headers) for each in config.services]
        idle = DeadlineQueues("idle_timeout", self._loop)
        half_close = DeadlineQueues("half_close_timeout", self._loop)
        response = DeadlineQueues("upstream_timeout", self._loop)
        registry = parts.registry if config.services else None
        parents, balancer = parents_of(config), Balancer()
        relays = self._use_relays(config)
        found: dict[Place, Services] = {}
        for listener in config.listeners:
            place, times = (listener.address, listener.port), timeouts.at(listener)
            carriage = self._carriage = Carriage(
                settings=config.http,
                name=config.http.via_name or self._via_name,
                limits=head_limits(limits),
                max_body_bytes=limits.max_body_bytes,
                identities=parts.identities,
                own_fields=own_fields,
                upstreams=self.upstreams,
                stories=self._stories,
                relay=relays[place],
                telemetry=self._telemetry,
                admission=self._admission,
                idle=idle,
                idle_s=times.idle_s,
                half_close=half_close,
                half_close_s=times.half_close_s,
                connect_s=None if listener.timeouts is None else listener.timeouts.connect_s,
                linger=self._linger,
                response=response,
            )
            found[place] = Services(
                policy=parts.policy,
                registry=registry,
                parents=parents,
                balancer=balancer,
                resolver=self.resolver,
                dialer=self.dialer,
                relay=relays[place],
                carriage=carriage,
                telemetry=self._telemetry,
                admission=self._admission,
                head_deadlines=self._heads.of(times.head_s),
                keep_alive_deadlines=self._keep_alive.of(timeouts.keep_alive_s),
                linger_deadlines=self._linger,
                max_hello_bytes=limits.max_hello_bytes,
                lifetime_s=timeouts.lifetime_s or float("inf"),
                own_connections=self._own_connections,
            )
        return found

    def _use_relays(self, config: Config) -> dict[Place, Relay]:
        """Each listener's own, so that a short time of one has the tunnels of the others looked at no more often.

        Open tunnels follow the times of the listener they came in by; those of one that is gone, the general times.
        """
        before = dict(self._relays)
        times = dict.fromkeys(before, config.timeouts)
        times |= {(each.address, each.port): config.timeouts.at(each) for each in config.listeners}
        relays: dict[Place, Relay] = {}
        for place, each in times.items():
            limits = (each.idle_s, each.half_close_s, each.lifetime_s)
            relay = before.get(place)
            if relay is None:
                relay = self._relays[place] = Relay(self._poller, self._loop, *limits, pipes=self._pipes)
            else:
                relay.configure(*limits)
            relays[place] = relay
        return relays

    def _use_resolver(self, config: Config) -> None:
        """The running one, with its cache, unless the settings changed."""
        if config.dns != self._dns:
            self._loop.call_later(RETIRED_RESOLVER_S, self.resolver.close)
            self._dns, self.resolver = config.dns, Resolver(config.dns)

    def let_go_of_idle_clients(self) -> None:
        """End the connections of clients that are between two requests."""
        self._keep_alive.pass_all()

    def cut_tunnels(self, end: str) -> int:
        """End all open tunnels, with this word in their records; how many there were."""
        return sum(relay.cut_all(end) for relay in self._relays.values())

    def close(self) -> None:
        """Give everything back, once no story uses it any more."""
        for relay in self._relays.values():
            relay.close()
        self._pipes.close()
        if self._carriage is not None:
            self._carriage.close()
        self._heads.close()
        self._keep_alive.close()
        self._linger.close()
        self.dialer.close()
        self.resolver.close()


def entrance_of(
    settings: Listener,
    limits: Limits,
    tls: ssl.SSLContext | None,
    registry: Registry,
    asked: AskedFields | None,
) -> Entrance:
    """How the clients of this listener come in. `asked`: header fields that are kept for access logs."""
    label, port = settings.label, settings.service_port
    target = None if settings.target is None else parse_authority(settings.target)
    heads = head_limits(limits)
    frontend: Frontend
    match settings.protocol:
        case "http-proxy":
            frontend = HttpFrontend(label, heads, manager=settings.port if settings.manager else None, asked=asked)
        case "http":
            frontend = HttpFrontend(label, heads, is_proxy=False, by_host=port or HTTP_PORT, asked=asked)
        case "sni":
            frontend = SniFrontend(label, port or TLS_PORT, limits.max_hello_bytes, target)
        case "auto":
            sni = SniFrontend(label, port or TLS_PORT, limits.max_hello_bytes)
            http = HttpFrontend(label, heads, by_host=HTTP_PORT, asked=asked)
            frontend = AutoFrontend(http, sni, TcpFrontend(label, None), registry.takes_unseen)
        case "tcp":
            frontend = TcpFrontend(label, target)
    announced = settings.proxy_protocol
    return Entrance(
        label,
        frontend,
        tls,
        settings.transparent,
        None if announced is None else NetworkSet(announced.announcers),
        settings.port,
    )


def head_limits(limits: Limits) -> HeadLimits:
    """What heads of messages may take."""
    return HeadLimits(limits.max_head_bytes, limits.max_headers, limits.max_target_bytes)
