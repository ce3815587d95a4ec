"""The configuration's rules as clauses: what is asked of an intent besides its host, and the verdict if all hold.

Everything that can decide becomes a clause, in this order: `rules`, the `allow` shorthand, `routes`, `services`, and last
`outbound`, which asks nothing and so always decides. Hosts are not part of a clause: `hostnames` finds those for one.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, Literal, NamedTuple

from egressproxy.hostport import ANY_HOST, ANY_PORT, HostPattern, PortRange, canonical_host, parse_allow_entry
from egressproxy.model import Verdict
from egressproxy.policy.addresses import judge
from egressproxy.policy.conditions import AskedPort, Carries, InNetworks, all_of, further_test, method_set
from egressproxy.policy.networks import NetworkSet
from egressproxy.policy.paths import PathSet

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from ipaddress import IPv4Network, IPv6Network

    from egressproxy.config.schema.config import Config
    from egressproxy.config.schema.rules import Route, Rule
    from egressproxy.config.schema.services import Service
    from egressproxy.policy.conditions import Surroundings, Test

# Rule names of what decides without a rule.
ALLOW = "allow"
SERVICE = "service"
ROUTE = "route"
OUTBOUND = "outbound"

Bounds = tuple[int, ...]  # ascending: first port of a range, first port after it, first port of the next, ...


class Clause(NamedTuple):
    """The conditions besides the host, and what they lead to. A condition that is None always holds.

    position  its place among all clauses: the lowest that matches decides. The parts of `allow` share one.
    ports     see `Bounds`: a port is in a range if an odd number of bounds lie at or below it
    further   all that is asked besides; see `conditions`
    """

    position: int
    ports: Bounds | None
    methods: frozenset[str] | None
    clients: NetworkSet | None
    paths: PathSet | None
    further: Test | None
    verdict: Verdict

    def asks_less_than(self, later: Clause) -> bool:
        """Where both name the host, this one matches whenever the later one would."""
        return (
            (self.ports is None or self.ports == later.ports)
            and (
                self.methods is None
                or (
                    type(self.methods) is type(later.methods) and self.methods == later.methods
                )  # so in letter case, too
            )
            and (self.clients is None or self.clients is later.clients)
            and (self.paths is None or (later.paths is not None and self.paths.covers(later.paths)))
            and self.further is None
        )


def rule_name(rule: Rule, number: int) -> str:
    """The word for a rule in logs and metrics. `number` counts from 1 over all rules."""
    return rule.name or f"rule-{number}"


def clauses_of(config: Config, surroundings: Surroundings) -> Iterator[tuple[Sequence[HostPattern], Clause]]:
    """Each clause with the hosts it is for, in order of position. No hosts: it is for any."""
    interned = _Interned()
    for position, rule in enumerate(config.rules):
        clause = Clause(
            position,
            interned.bounds(rule.ports),
            None if rule.methods is None else method_set(rule.methods, rule.action == "deny"),
            interned.networks(rule.clients),
            interned.paths(rule.paths, rule.action == "deny"),
            further_test(rule, surroundings, lets_pass=rule.action == "allow"),
            _rule_verdict(rule, rule_name(rule, position + 1), config),
        )
        yield _named(rule.hosts or ()), clause
    position = len(config.rules)
    for hosts, ports, verdict in _allow_parts(config):
        yield _named(hosts), Clause(position, interned.bounds((ports,)), None, None, None, None, verdict)
    position += 1
    yield from route_clauses(config, surroundings, position)
    position += len(config.routes)
    for service in config.services:
        numbers = interned.bounds(tuple(PortRange(port.number, port.number) for port in service.ports))
        verdict = _service_verdict(service, config)
        names = (*service.hosts, *(HostPattern("exact", alias) for alias in service.aliases))
        if names:
            yield names, Clause(position, numbers, None, None, None, None, verdict)
        if service.addresses:
            known_by = InNetworks(service.addresses)
            yield (), Clause(position, numbers, None, None, None, known_by, verdict)
        position += 1
    yield (), Clause(position, None, None, None, None, None, _outbound_verdict(config))


def route_clauses(
    config: Config, surroundings: Surroundings, position: int = 0
) -> Iterator[tuple[Sequence[HostPattern], Clause]]:
    """The clauses of `routes`, as `clauses_of` has them, from this position on."""
    interned = _Interned()
    services = {service.label: service for service in reversed(config.services)}
    for index, route in enumerate(config.routes):
        lets_pass = route.refuse is None
        further = all_of(
            further_test(route, surroundings, lets_pass=lets_pass), _ports_of_destinations(route, services)
        )
        clause = Clause(
            position + index,
            interned.bounds(route.ports),
            None if route.methods is None else method_set(route.methods, not lets_pass),
            interned.networks(route.clients),
            interned.paths(route.paths, not lets_pass),
            all_of(None if route.carries is None else Carries(route.carries), further),
            _route_verdict(config, index, route, services),
        )
        yield _named(route.hosts or ()), clause


def _ports_of_destinations(route: Route, services: Mapping[str, Service]) -> Test | None:
    """Where a destination is reached on the port that was asked for: that its service has it, of several ports."""
    tests = [
        AskedPort(frozenset(port.number for port in services[each.service].ports))
        for each in route.to
        if each.port is None and len(services[each.service].ports) > 1
    ]
    return all_of(*tests)


def bounds_of(ports: Iterable[PortRange]) -> Bounds:
    """Ranges in any order, overlapping or not, as `Bounds`."""
    bounds: list[int] = []
    for low, high in sorted(ports):
        if bounds and low <= bounds[-1]:
            bounds[-1] = max(bounds[-1], high + 1)
        else:
            bounds += [low, high + 1]
    return tuple(bounds)


def in_bounds(bounds: Bounds, port: int) -> bool:
    """Whether one of the ranges holds the port. `Policy.decide` says the same in line, to save the call."""
    return bisect_right(bounds, port) & 1 == 1


def ranges_text(bounds: Bounds) -> str:
    """`80, 443, 8000-8100`, cut after ten."""
    ranges = [str(PortRange(low, after - 1)) for low, after in zip(bounds[::2], bounds[1::2], strict=True)]
    return ", ".join(ranges[:10]) + (f" and {len(ranges) - 10} more" if len(ranges) > 10 else "")


def guard_lets_pass(verdict: Verdict, address: str, guard: NetworkSet) -> bool:
    """Whether a special address may be dialled under this verdict. `guard` holds the ranges of `guard.allow`.

    Raises ValueError if it is not an address.
    """
    special, subjects, _ = judge(address)
    if special is not None and special.name == "metadata":
        return verdict.private_addresses and canonical_host(address)[0] in verdict.named_addresses
    return verdict.private_addresses or all(subject in guard for subject in subjects)


_PROXY_PROTOCOLS: dict[str | None, Literal[0, 1, 2]] = {None: 0, "v1": 1, "v2": 2}
_NO_ADDRESSES: frozenset[str] = frozenset()  # CPython makes each empty one anew, 216 bytes


class _Interned:
    """Equal conditions of a million rules are one object."""

    def __init__(self) -> None:
        self._bounds: dict[tuple[PortRange, ...], Bounds | None] = {}
        self._networks: dict[tuple[IPv4Network | IPv6Network, ...], NetworkSet] = {}
        self._paths: dict[tuple[tuple[str, ...], bool], PathSet] = {}

    def bounds(self, ports: tuple[PortRange, ...] | None) -> Bounds | None:
        if ports is None:
            return None
        if ports not in self._bounds:
            bounds = bounds_of(ports)
            self._bounds[ports] = None if bounds == bounds_of([ANY_PORT]) else bounds
        return self._bounds[ports]

    def networks(self, clients: tuple[IPv4Network | IPv6Network, ...] | None) -> NetworkSet | None:
        if clients is None:
            return None
        if clients not in self._networks:
            self._networks[clients] = NetworkSet(clients)
        return self._networks[clients]

    def paths(self, patterns: tuple[str, ...] | None, denies: bool) -> PathSet | None:
        if patterns is None:
            return None
        key = patterns, denies
        if key not in self._paths:
            self._paths[key] = PathSet(*key)
        return self._paths[key]


def _named(hosts: Sequence[HostPattern]) -> Sequence[HostPattern]:
    """The patterns, or none where `*` is among them."""
    return () if ANY_HOST in hosts else hosts


def _addresses(hosts: Iterable[HostPattern]) -> frozenset[str]:
    # Of a million names only those that end like an address are looked at closely.
    found = [host for kind, host in hosts if kind == "exact" and (":" in host or host[-1:].isdigit())]
    found = [host for host in found if HostPattern("exact", host).is_address]
    return frozenset(found) if found else _NO_ADDRESSES


def _rule_verdict(rule: Rule, name: str, config: Config) -> Verdict:
    ech = (rule.ech or config.ech) == "allow"
    if rule.action == "allow":
        return Verdict(
            allowed=True,
            rule=name,
            reason=f"allowed by rule {name}",
            private_addresses=rule.private_addresses,
            named_addresses=_addresses(rule.hosts or ()),
            sni_check=rule.sni_check or config.sni_check,
            require_tls=rule.require_tls,
            ech=ech,
            proxy_protocol=_PROXY_PROTOCOLS[rule.proxy_protocol],
            parent=_parent(rule, config),
            by_default=_check_by_default(config),
        )
    reported = rule.report or config.report
    reason = f"refused by rule {name}"
    return Verdict(
        allowed=reported,
        rule=name,
        reason=reason,
        reported=reported,
        sni_check=config.sni_check,
        ech=ech,
        by_default="report",
    )


def _parent(rule: Rule, config: Config) -> int | None:
    return next((index for index, parent in enumerate(config.parents) if parent.name == rule.parent), None)


def _allow_parts(config: Config) -> Iterator[tuple[list[HostPattern], PortRange, Verdict]]:
    """The `allow` shorthand by ports, which few entries differ in. One verdict for all."""
    by_ports: dict[PortRange, list[HostPattern]] = {}
    for entry in config.allow:
        pattern, ports = parse_allow_entry(entry)
        by_ports.setdefault(ports, []).append(pattern)
    named = _addresses(pattern for hosts in by_ports.values() for pattern in hosts)
    verdict = Verdict(
        allowed=True,
        rule=ALLOW,
        reason="allowed by an entry of allow",
        named_addresses=named,
        sni_check=config.sni_check,
        ech=config.ech == "allow",
        by_default=_check_by_default(config),
    )
    for ports, hosts in by_ports.items():
        yield hosts, ports, verdict


def _service_verdict(service: Service, config: Config) -> Verdict:
    return Verdict(
        allowed=True,
        rule=SERVICE,
        reason="registered as a service",
        private_addresses=service.private_addresses,
        named_addresses=_addresses(service.hosts),
        sni_check=config.sni_check,
        ech=config.ech == "allow",
        by_default=_check_by_default(config),
        dials_original=service.resolution == "none",
    )


def _route_verdict(config: Config, index: int, route: Route, services: Mapping[str, Service]) -> Verdict:
    """Of a route that leads to services, which are registered and so let pass; or of one that refuses."""
    called = f"route {route.name or index + 1}"
    if route.refuse is not None:
        return Verdict(
            allowed=config.report,
            rule=OUTBOUND if route.refuse == "unknown" else ROUTE,
            reason=f"refused by {called}",
            reported=config.report,
            sni_check=config.sni_check,
            ech=config.ech == "allow",
            by_default=_check_by_default(config),
            route=index,
            refusal=route.refuse,
        )
    led_to = [services[each.service] for each in route.to]
    return Verdict(
        allowed=True,
        rule=ROUTE,
        reason=f"{called} leads to {', '.join(each.label for each in led_to[:3])}",
        private_addresses=all(each.private_addresses for each in led_to),
        sni_check=config.sni_check,
        ech=config.ech == "allow",
        by_default=_check_by_default(config),
        dials_original=all(each.resolution == "none" for each in led_to),
        route=index,
    )


def _outbound_verdict(config: Config) -> Verdict:
    registry = config.outbound == "registry_only"
    return Verdict(
        allowed=config.report or not registry,
        rule=OUTBOUND,
        reason=(
            "no rule, allow entry or service lets this host and port pass"
            if registry
            else "no rule decides, and outbound is allow_any"
        ),
        reported=config.report and registry,
        sni_check=config.sni_check,
        ech=config.ech == "allow",
        by_default=_check_by_default(config),
    )


def _check_by_default(config: Config) -> Literal["enforce", "report"]:
    return "report" if config.report else "enforce"
