"""Where an allowed intent goes: by which route, service or parent, and to which addresses, judged before anyone dials them.

What a request may take in all (`timeout_s` of its service) includes finding out where to.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, NamedTuple, Protocol

from egressproxy.errors import AddressDenied, EgressError, PolicyError, TlsRequired, UpstreamError, UpstreamTimeout
from egressproxy.model import Target
from egressproxy.resolve.patience import Patience

if TYPE_CHECKING:
    from collections.abc import Sequence

    from egressproxy.dial import Dialer
    from egressproxy.exchange import Carriage
    from egressproxy.model import Endpoint, Intent, Verdict
    from egressproxy.parents import Parent
    from egressproxy.policy.policy import Policy
    from egressproxy.registry import Registry, Route
    from egressproxy.resolve.resolver import Resolver
    from egressproxy.telemetry.record import RecordDraft
    from egressproxy.upstreams import Balancer


class Destination(NamedTuple):
    """Where to, and how.

    route      how a registered host is reached; None: by its own name
    parent     the proxy that is asked to connect to the target; the endpoints are then its own
    endpoints  judged; none for a request that goes no further than here
    """

    route: Route | None
    parent: Parent | None
    endpoints: Sequence[Endpoint]


class Guides(Protocol):
    """Who knows the way."""

    @property
    def policy(self) -> Policy:
        """Which route, and which addresses."""

    @property
    def registry(self) -> Registry | None:
        """The services."""

    @property
    def parents(self) -> Sequence[Parent]:
        """By their index in the configuration."""

    @property
    def balancer(self) -> Balancer:
        """Whose turn it is."""

    @property
    def resolver(self) -> Resolver:
        """Names to addresses."""

    @property
    def dialer(self) -> Dialer:
        """Knows which endpoints failed not long ago."""

    @property
    def carriage(self) -> Carriage:
        """Has the deadlines of requests."""


async def locate(
    intent: Intent, verdict: Verdict, judged: Sequence[str] | None, draft: RecordDraft, guides: Guides
) -> Destination:
    """Where an allowed intent goes. Notes in `draft` what it finds, as soon as it does.

    judged  the addresses that a rule was asked about, where one asks for them: no others are dialled

    Raises what a route means that refuses, TlsRequired, what `Resolver.resolve` and `Policy.screen` raise, and UpstreamTimeout.
    """
    route = _route_of(intent, verdict, guides)
    patience = None
    if route is not None:
        secured = intent.request is not None and route.tls is not None
        draft.service, draft.service_port = route.name, route.port if secured else intent.target.port
        if route.needs_tls and intent.request is not None:
            raise TlsRequired(f"{intent.target} is for TLS alone (protocol of this port of {route.name})")
        if draft.exchange is not None:
            draft.exchange.route = route.route
            if route.timeout_s is not None:
                patience = _patience(intent, route, route.timeout_s, guides)
    if verdict.parent is not None:
        parent = guides.parents[verdict.parent]
        draft.parent = parent.name
        if intent.target.is_address:  # what needs no looking up is judged here as well
            guides.policy.screen(intent, verdict, (intent.target.host,))
        return Destination(route, parent, await _endpoints_of_parent(intent, verdict, parent, guides))
    if intent.request is not None and intent.request.fields.max_forwards == 0:
        return Destination(route, None, ())
    with patience or nullcontext():
        if route is not None and route.endpoints and not verdict.dials_original:
            endpoints = await _endpoints_of_service(intent, verdict, route, guides, patience)
        else:
            endpoints = await _endpoints(intent, verdict, route, guides, patience)
    if judged is not None:
        endpoints = [each for each in endpoints if each.address in judged]
        if not endpoints:
            raise AddressDenied(f"{intent.target} has other addresses by now than those that were judged; ask again")
    return Destination(route, None, endpoints)


async def addresses_to_judge(intent: Intent, guides: Guides) -> Sequence[str]:
    """All that may be dialled for an intent, for rules that ask for addresses. Raises what `Resolver.resolve` raises."""
    ways = guides.policy.ways(intent)
    if not ways:
        return await addresses_of(intent.target, guides.resolver)
    found: dict[str, None] = {}
    for route in ways:
        if route.resolution == "none" and intent.dialled is not None:
            found[intent.dialled[0]] = None
        elif route.endpoints:
            for host, is_address, _, _ in route.endpoints:
                found |= dict.fromkeys(await addresses_of(Target(host, 0, is_address), guides.resolver))
        else:
            is_address = intent.target.is_address and route.host == intent.target.host
            found |= dict.fromkeys(await addresses_of(Target(route.host, 0, is_address), guides.resolver))
    return tuple(found)


async def addresses_of(target: Target, resolver: Resolver, patience: Patience | None = None) -> Sequence[str]:
    """What the target's host stands for. Raises what `Resolver.resolve` raises."""
    host, _, is_address = target
    return (host,) if is_address else resolver.cached(host) or await resolver.resolve(host, patience)


def _route_of(intent: Intent, verdict: Verdict, guides: Guides) -> Route | None:
    """How the target is reached: as a route says that sends it, or as the service that it names. Raises as `Policy.route`."""
    registry = guides.registry
    if registry is None:
        # Without services routes can only refuse.
        guides.policy.route(intent, verdict)
        return None
    host, port, _ = intent.target
    number = guides.policy.route(intent, verdict)
    if number is None:
        return registry.find(host, port)
    return registry.routed(number, guides.balancer.turn(number, registry.weights[number]), host, port)


def _patience(intent: Intent, route: Route, timeout_s: float, guides: Guides) -> Patience:
    facts = f"{intent.target} was not found within {timeout_s:g} s (timeout_s of {route.name})"
    return Patience(guides.carriage.response.of(timeout_s), UpstreamTimeout(facts))


async def _endpoints(
    intent: Intent,
    verdict: Verdict,
    route: Route | None,
    guides: Guides,
    patience: Patience | None,
) -> Sequence[Endpoint]:
    """Where a host is that is reached by a name or an address."""
    target = intent.target
    if route is not None:
        is_address = target.is_address and route.host == target.host
        target = Target(route.host, route.port, is_address)
    if verdict.dials_original and intent.dialled is not None:
        addresses: Sequence[str] = (intent.dialled[0],)
    else:
        addresses = await addresses_of(target, guides.resolver, patience)
    written_down = route is not None and route.writes_down(addresses)
    return guides.policy.screen(intent, verdict, addresses, target.port, written_down)


async def _endpoints_of_parent(intent: Intent, verdict: Verdict, parent: Parent, guides: Guides) -> Sequence[Endpoint]:
    """Where the parent is; LoopDetected where it is this proxy."""
    addresses = await addresses_of(Target(parent.host, parent.port, parent.is_address), guides.resolver)
    return guides.policy.screen(intent, verdict, addresses, parent.port, written_down=True)


async def _endpoints_of_service(
    intent: Intent, verdict: Verdict, route: Route, guides: Guides, patience: Patience | None
) -> Sequence[Endpoint]:
    """The endpoints that the service names, beginning with the one whose turn it is; those that failed not long ago come last.

    Those that are not found, or may not be dialled, are left out. Raises as `locate`, when none is left.
    """
    screen = guides.policy.screen
    found: list[Endpoint] = []
    last: EgressError | None = None
    for index in guides.balancer.in_turn(route):
        host, is_address, port, _ = route.endpoints[index]
        port = port or route.port
        try:
            addresses = await addresses_of(Target(host, port, is_address), guides.resolver, patience)
            found += screen(intent, verdict, addresses, port, written_down=is_address)
        except (UpstreamError, PolicyError) as error:
            last = error
    if not found:
        assert last is not None  # there is an endpoint
        raise last
    return guides.dialer.failed_last(found)
