"""The policy: by name before DNS, by address before dialling, and on request in words.

All tables are built when the configuration is loaded. Nothing here changes afterwards but bounded caches, so a reload
is a new Policy and connections go on with the verdict they have.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from egressproxy.config.schema.config import BUILT_IN
from egressproxy.errors import AddressDenied, EgressError, LoopDetected
from egressproxy.hostport import parse_allow_entry
from egressproxy.model import Endpoint, Target, Verdict
from egressproxy.policy.addresses import AddressClass, judge
from egressproxy.policy.conditions import Surroundings
from egressproxy.policy.explanation import (
    MAX_NEAR,
    AddressFinding,
    Destination,
    Explanation,
    NearMiss,
    Otherwise,
    Place,
    Sent,
)
from egressproxy.policy.networks import NetworkSet, parse_client
from egressproxy.policy.notes import notes_on
from egressproxy.policy.paths import readings_of
from egressproxy.policy.rules import (
    ALLOW,
    OUTBOUND,
    ROUTE,
    SERVICE,
    Clause,
    clauses_of,
    guard_lets_pass,
    in_bounds,
    ranges_text,
    route_clauses,
)
from egressproxy.policy.table import ClauseTable
from egressproxy.registry import Registry, cluster_name, endpoint_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from time import struct_time

    from egressproxy.config.faults import Finding, Way
    from egressproxy.config.schema.config import Config
    from egressproxy.config.schema.services import Parent
    from egressproxy.model import Intent
    from egressproxy.registry import Route

Locate = Callable[[tuple[str | int, ...]], tuple[str, int | None]]
"""File and line of a setting, see `config.load.Loaded`."""

# Entries of a list that are looked through for the one that was meant. The lines of longer lists are not kept, either.
_MAX_SEARCHED = 1000

_UNDECIDED = Verdict(allowed=False, rule=OUTBOUND, reason="the target's addresses are not known", needs_addresses=True)


def _nowhere(_way: Way) -> tuple[str, int | None]:
    return "", None


def _no_time() -> struct_time:
    raise ValueError("a rule asks for the time, and nobody tells it")


class Policy:
    """Who may go where. Made by `from_config`, immutable.

    registry  the services of the same configuration
    """

    __slots__ = ("_aliases", "_config", "_guard", "_is_own", "_routes", "_table", "registry")

    def __init__(
        self, config: Config, is_own: Callable[[str, int], bool], local_time: Callable[[], struct_time]
    ) -> None:
        """See `from_config`."""
        surroundings = Surroundings(config.listeners, local_time)
        self._config = config
        self._aliases: dict[str, list[str]] = {}  # several services may have one alias, on several ports
        for service in config.services:
            for alias in service.aliases:
                self._aliases.setdefault(alias, []).append(service.hosts[0].host)
        self._table = ClauseTable(clauses_of(config, surroundings), _UNDECIDED)
        self._routes = ClauseTable(route_clauses(config, surroundings), _UNDECIDED) if config.routes else None
        self._guard = NetworkSet(config.guard.allow)
        self._is_own = is_own
        self.registry = Registry.from_config(config)

    @classmethod
    def from_config(
        cls,
        config: Config,
        is_own: Callable[[str, int], bool],
        local_time: Callable[[], struct_time] = _no_time,
    ) -> Policy:
        """The policy that a configuration describes. A million hosts take under a second.

        is_own(address, port)  whether a connection there would arrive at a listener or the admin port of this proxy.
                               Asked for each address of a connection and, where that embeds an IPv4 address or is
                               unspecified, for what it leads to.
        local_time             tells the time to rules with `times`
        """
        return cls(config, is_own, local_time)

    def decide(self, intent: Intent, addresses: Sequence[str] | None = None) -> Verdict:
        """The verdict of the first rule that matches. Runs once per connection or request, before any look-up of the name.

        addresses  of all that may be dialled for it. Without them the verdict may be that it `needs_addresses`: then it is
                   asked again with them

        Raises ValueError if a rule asks for clients and `intent.client` is not an address.
        """
        verdict = self._table.first(intent, addresses)
        assert verdict is not None  # the clause of `outbound` asks nothing
        others = self._other_targets(intent.target)
        return (self._other_verdict(verdict, others, intent, addresses) or verdict) if others else verdict

    def _other_targets(self, target: Target) -> Sequence[Target]:
        """What the target is another way to."""
        host, port, is_address = target
        if is_address:
            # An IPv4 address that it embeds (mapped, NAT64, ...) is where it leads to.
            return [Target(address, port, True) for address in judge(host).aliases] if ":" in host else ()
        if host not in self._aliases:
            return ()
        known = self.registry.find(host, port)
        return [Target(name, port, False) for name in (self._aliases[host] if known is None else (known.host,))]

    def _other_verdict(
        self, own: Verdict, targets: Sequence[Target], intent: Intent, addresses: Sequence[str] | None
    ) -> Verdict | None:
        """What goes before the intent's own verdict: what a rule refuses one of these targets with, to which it is another way.

        Where none refuses: that the addresses are needed, for a rule that may refuse then, or that one would refuse which is
        only reported.
        """
        later = None
        for target in targets:
            verdict = self._table.first(intent._replace(target=target), addresses)
            assert verdict is not None  # the clause of `outbound` asks nothing
            if verdict.needs_addresses:
                later = verdict
            elif verdict.rule in (OUTBOUND, ROUTE):
                continue
            elif not verdict.allowed:
                return verdict
            elif verdict.reported and not own.reported:
                later = later or replace(own, rule=verdict.rule, reason=verdict.reason, reported=True)
        return later if own.allowed else None

    def ways(self, intent: Intent) -> tuple[Route, ...]:
        """Every way that an intent may be sent if it is allowed: all that its route leads to, or the service that it names."""
        host, port, _ = intent.target
        found = None if self._routes is None else self._routes.first(intent)
        if found is not None and found.route is not None and found.refusal is None:
            number = found.route
            turns = range(len(self.registry.weights[number]))
            return tuple(self.registry.routed(number, turn, host, port) for turn in turns)
        route = self.registry.find(host, port)
        return () if route is None else (route,)

    def route(self, intent: Intent, verdict: Verdict) -> int | None:
        """Which of `config.routes` an allowed intent is sent by; None: by none, so its own name says where it goes.

        Raises what a route means that refuses. Runs once per connection or request.
        """
        if self._routes is None:
            return None
        if verdict.route is None:
            found = self._routes.first(intent)
            if found is None:
                return None
            found.enforce(intent)
            verdict = found
        return verdict.route if verdict.refusal is None else None  # refused, and only reported

    def agree(self, intent: Intent, verdict: Verdict, server_name: str | None, ech: bool) -> str:
        """Whether the TLS inside a tunnel asks for what the tunnel was granted for: `match`, `mismatch`, `no_sni` or `ech`.

        server_name  of the ClientHello, canonical; None where it names none
        ech          it may hide another name

        A tunnel to an alias of a service was granted for the host that it stands for, too: that name may be inside. A tunnel
        to an address was granted for the address: inside it is no name, or one that may be reached on that port by itself, or
        any where the address is one by which a service is known.
        Runs once per checked tunnel.
        """
        if ech and not verdict.ech:
            return "ech"
        target = intent.target
        if server_name == target.host:
            return "match"
        if server_name is None:
            return "match" if target.is_address else "no_sni"
        route = self.registry.find(target.host, target.port)
        if route is not None and (route.by_address or server_name == route.host):
            return "match"
        if not target.is_address:
            return "mismatch"
        by_itself = self.decide(intent._replace(target=Target(server_name, target.port, False)))
        if ech and not by_itself.ech:
            return "ech"
        return "match" if by_itself.allowed else "mismatch"

    def screen(
        self,
        intent: Intent,
        verdict: Verdict,
        addresses: Sequence[str],
        port: int | None = None,
        written_down: bool = False,
    ) -> tuple[Endpoint, ...]:
        """The addresses that may be dialled, in the order given. Runs once per connection or request, before dialling.

        port          the one that is dialled; None: that of the target
        written_down  the addresses are endpoints of a service, by the operator's own word, which the guard does not doubt

        Raises LoopDetected if one of them leads back to this proxy, whoever wrote it down; AddressDenied if none may be
        dialled; ValueError if one is not an address.
        """
        if port is None:
            port = intent.target.port
        kept = []
        for address in addresses:
            special, _, aliases = judge(address)
            if self._is_own(address, port) or (aliases and self._owns_one_of(aliases, port)):
                raise LoopDetected(f"{intent.target} is this proxy itself ({Endpoint(address, port)})")
            if special is None or written_down or guard_lets_pass(verdict, address, self._guard):
                kept.append(Endpoint(address, port))
        if not kept:
            raise AddressDenied(self._denial(intent, verdict, addresses))
        return tuple(kept)

    def explain(
        self,
        intent: Intent,
        addresses: Sequence[str] = (),
        *,
        judged: Sequence[str] | None = None,
        locate: Locate = _nowhere,
    ) -> Explanation:
        """What would become of an intent, and why. Looks nothing up.

        addresses  what the names stand for that would be looked up
        judged     those of the target, where a rule asks for them; None: `addresses`, as far as there are any
        locate     file and line of a setting

        Raises ValueError if the client or an address is not an address, or the method or the path not a word.
        """
        parse_client(intent.client)
        for what, word in (("a method like CONNECT", intent.method), ("a path like /api", intent.path or "/")):
            if not (word.isascii() and word.isprintable()):
                raise ValueError(f"expected {what}, got {word[:80]!a}")
        judged = judged or addresses or None
        verdict = self.decide(intent, judged)
        # Judged are the addresses of all that may be dialled, and those that are known without DNS are among them.
        candidates = [_reached(intent, verdict, way) for way in self.ways(intent) or (None,)]
        known = tuple(address for each in candidates for address, _ in each.known)
        if known and (judged is not None or not any(each.names for each in candidates)):
            judged = (*(judged or ()), *known)
            verdict = self.decide(intent, judged)
        sent, destinations = self._ways(intent, verdict, locate)
        parent = None if verdict.parent is None else self._config.parents[verdict.parent]
        dialled = candidates if verdict.needs_addresses else _dialled(intent, verdict, destinations, parent)
        refused = not (verdict.allowed or verdict.needs_addresses) or (sent is not None and sent.refusal is not None)
        if refused and verdict.allowed:  # by a route: nothing is looked up, nor dialled
            dialled, addresses = [], ()
        asked_path = intent.path is not None and self._asks_paths(intent)
        clause = self._decider(intent, verdict, judged)
        return Explanation(
            intent=intent,
            verdict=verdict,
            near=tuple(self._near(intent, verdict, judged, locate)),
            looks_up=() if refused else tuple(dict.fromkeys(name for each in dialled for name in each.names)),
            addresses=tuple(self._findings(intent, verdict, dialled, addresses)),
            readings=readings_of(intent.path) if asked_path and intent.path is not None else None,
            place=None if clause is None else _place(locate, self._written(clause, intent)),
            sent=sent,
            destinations=destinations,
            parent=parent,
            asking=self._called(clause) if clause is not None and verdict.needs_addresses else None,
            otherwise=self._otherwise(intent, locate) if verdict.needs_addresses else None,
        )

    def notes(self) -> tuple[Finding, ...]:
        """What in the configuration has no effect, or another than it seems. Takes seconds with a million rules."""
        return tuple(notes_on(self._config, self._table, self._guard, self.registry))

    # --- by address -----------------------------------------------------------------------------------------------

    def _owns_one_of(self, addresses: Sequence[str], port: int) -> bool:
        return any(self._is_own(address, port) for address in addresses)

    def _denial(self, intent: Intent, verdict: Verdict, addresses: Sequence[str]) -> str:
        """Which addresses of what class, and what an operator who wants them open may do."""
        if not addresses:
            return f"{intent.target} has no address"
        found = [(address, special) for address in addresses if (special := judge(address).special) is not None]
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        facts = ", ".join(f"{address} is {special}" for address, special in found[:3]) + more
        about = facts if intent.target.is_address else f"{intent.target} leads to closed addresses: {facts}"
        return f"{about}; {self._next_step(intent, verdict, *found[0])}"

    def _next_step(self, intent: Intent, verdict: Verdict, address: str, special: AddressClass) -> str:
        if (
            verdict.allowed
            and not verdict.reported
            and special.name != "metadata"
            and self._is_of_istio(intent, verdict)
        ):
            return (
                "to open it write in a native file, beside those of Istio, "
                f"rules: [{{action: allow, hosts: [{intent.target.host}], private_addresses: true}}]"
            )
        return _next_step(verdict, address, special)

    def _is_of_istio(self, intent: Intent, verdict: Verdict) -> bool:
        """Whether it is reached by services that Istio's files made, in which nothing can be set."""
        if verdict.rule == ROUTE and verdict.route is not None:
            names = [to.service for to in self._config.routes[verdict.route].to]
        elif verdict.rule == SERVICE and (found := self.registry.find(*intent.target[:2])) is not None:
            names = [found.name]
        else:
            return False
        return any(name.startswith("outbound|") for name in names)

    def _finding(
        self, intent: Intent, verdict: Verdict, address: str, port: int, written_down: bool = False
    ) -> AddressFinding:
        special, _, aliases = judge(address)
        other_port = None if port == intent.target.port else port
        if self._is_own(address, port) or self._owns_one_of(aliases, port):
            return AddressFinding(address, special, False, "it is this proxy itself", True, other_port)
        dialled = verdict.allowed
        if special is None:
            reason = "public" if verdict.allowed else "refused by name"
        elif written_down:
            reason = f"{special}, open as an endpoint that is written down"
        elif guard_lets_pass(verdict, address, self._guard):
            by = "private_addresses" if verdict.private_addresses else "guard.allow"
            reason = f"{special}, open by {by}"
        else:
            dialled = False
            reason = f"{special}; {self._next_step(intent, verdict, address, special)}"
        return AddressFinding(address, special, dialled, reason, False, other_port)

    def _findings(
        self, intent: Intent, verdict: Verdict, dialled: Sequence[_Dialled], addresses: Sequence[str]
    ) -> list[AddressFinding]:
        """Of the addresses that are known, and of those that names stand for, on each port once."""
        found: dict[tuple[str, int], AddressFinding] = {}
        for each in dialled:
            for address, port in each.known:
                if (address, port) not in found:
                    written = each.written_down or _writes_down(each.route, address)
                    found[address, port] = self._finding(intent, verdict, address, port, written)
        for each in dialled:
            for address in addresses:
                if (address, each.port) not in found:
                    written = each.names_written_down or _writes_down(each.route, address)
                    found[address, each.port] = self._finding(intent, verdict, address, each.port, written)
        return list(found.values())

    # --- the way --------------------------------------------------------------------------------------------------

    def _ways(self, intent: Intent, verdict: Verdict, locate: Locate) -> tuple[Sent | None, tuple[Destination, ...]]:
        """The route that an intent is sent by, if any, and where it may be taken. Nowhere, if it is refused by name."""
        host, port, _ = intent.target
        try:
            number = self.route(intent, verdict) if verdict.allowed else None
        except EgressError as error:
            return self._refused_by(intent, error, locate), ()
        if not verdict.allowed:
            return None, ()
        if number is None:
            return None, (self._destination(intent, verdict, self.registry.find(host, port), 1, locate),)
        settings = self._config.routes[number]
        ways = [self.registry.routed(number, turn, host, port) for turn in range(len(settings.to))]
        destinations = [
            self._destination(intent, verdict, way, to.weight, locate)
            for way, to in zip(ways, settings.to, strict=True)
        ]
        return Sent(settings.name or str(number + 1), _place(locate, ("routes", number))), tuple(destinations)

    def _refused_by(self, intent: Intent, error: EgressError, locate: Locate) -> Sent:
        """The route that refuses what the rules have allowed."""
        assert self._routes is not None  # one of them has raised the error
        found = self._routes.first(intent)
        assert found is not None
        assert found.route is not None
        settings = self._config.routes[found.route]
        return Sent(settings.name or str(found.route + 1), _place(locate, ("routes", found.route)), error)

    def _destination(
        self, intent: Intent, verdict: Verdict, route: Route | None, weight: int, locate: Locate
    ) -> Destination:
        host, port, _ = intent.target
        if route is None:
            return Destination(None, weight, cluster_name(verdict.rule, None, port, host))
        known_by = route.port if intent.path is not None and route.tls is not None else port
        place = _place(locate, self._registration(route, host))
        return Destination(route, weight, cluster_name(verdict.rule, route.name, known_by, host), place)

    def _registration(self, route: Route, host: str) -> Way:
        """The setting by which a service has a host."""
        service = self._config.services[route.service]
        way: Way = ("services", route.service)
        for name in (host, route.host):
            for index, pattern in enumerate(service.hosts[:_MAX_SEARCHED]):
                if pattern.host == name if pattern.kind == "exact" else name.endswith(f".{pattern.host}"):
                    return (*way, "hosts", index)
            if name in service.aliases:
                return (*way, "aliases", service.aliases.index(name))
        return way

    # --- in words -------------------------------------------------------------------------------------------------

    def _asks_paths(self, intent: Intent) -> bool:
        """Whether a rule with paths came close or decided."""
        for clause in islice(self._table.about(intent.target.host), MAX_NEAR + 1):
            if clause.paths is not None:
                return True
            if not any(_failures(clause, intent, ())):
                break
        return False

    def _near(
        self, intent: Intent, verdict: Verdict, addresses: Sequence[str] | None, locate: Locate
    ) -> Iterator[NearMiss]:
        """Rules that are for the host and come before the one that decided; for a refusal also those for names below."""
        count = 0
        host = intent.target.host
        for clause in self._table.about(host):
            failed = tuple(_failures(clause, intent, addresses))
            if not failed or count == MAX_NEAR:
                break
            count += 1
            yield NearMiss(self._called(clause), failed, _place(locate, self._written(clause, intent)))
        if not (verdict.allowed or verdict.needs_addresses) or verdict.reported:
            for clause in self._table.index.below(host)[: MAX_NEAR - count]:
                failed = (f"*.{host} is every name below {host} and not {host} itself",)
                yield NearMiss(self._called(clause), failed, _place(locate, self._written(clause, intent)))

    def _called(self, clause: Clause) -> str:
        """The word for a clause: its rule, or which route or service it is."""
        key, index = self._origin(clause)
        if key == "routes":
            return f"route {self._config.routes[index].name or index + 1}"
        return f"service {self._config.services[index].label}" if key == "services" else clause.verdict.rule

    def _origin(self, clause: Clause) -> tuple[str, int]:
        """Which list of the configuration a clause is from, and which entry. See `clauses_of` for the order."""
        config, index = self._config, clause.position
        for key, count in (
            ("rules", len(config.rules)),
            ("allow", 1),
            ("routes", len(config.routes)),
            ("services", len(config.services)),
        ):
            if index < count:
                return key, index
            index -= count
        return "outbound", 0

    def _written(self, clause: Clause, intent: Intent) -> Way:
        """The setting that a clause was made of; of the entries of `allow` the one that lets the intent pass."""
        key, index = self._origin(clause)
        if key == "allow":
            return self._allow_entry(intent.target)
        return (key,) if key == "outbound" else (key, index)

    def _allow_entry(self, target: Target) -> Way:
        for index, entry in enumerate(self._config.allow[:_MAX_SEARCHED]):
            pattern, ports = parse_allow_entry(entry)
            fits = {
                "any": True,
                "exact": pattern.host == target.host,
                "suffix": target.host.endswith(f".{pattern.host}"),
            }
            if fits[pattern.kind] and ports.low <= target.port <= ports.high:
                return "allow", index
        return ("allow",)

    def _decider(self, intent: Intent, verdict: Verdict, addresses: Sequence[str] | None) -> Clause | None:
        """The clause that has decided, or that has to know the addresses first."""
        for target in (intent.target, *self._other_targets(intent.target)):
            asked = intent._replace(target=target)
            for clause in self._table.about(target.host):
                if clause.verdict is verdict:
                    return clause
                if verdict.needs_addresses and not any(_failures(clause, asked, addresses)):
                    if clause.further is not None and not clause.further.holds(asked, None):
                        return clause
                    break  # by itself this target is decided
        return None

    def _otherwise(self, intent: Intent, locate: Locate) -> Otherwise | None:
        """What decides where no clause matches that asks for addresses."""
        asking: list[str] = []
        for clause in self._table.about(intent.target.host):
            if any(_failures(clause, intent, None)):
                continue
            if clause.further is None or clause.further.holds(intent, None):
                asking += self._asking_for_others(intent)
                return Otherwise(tuple(asking), clause.verdict, _place(locate, self._written(clause, intent)))
            asking.append(self._called(clause))
        return None

    def _asking_for_others(self, intent: Intent) -> Iterator[str]:
        """Clauses that ask for addresses because the target is another way to a host of theirs."""
        for target in self._other_targets(intent.target):
            asked = intent._replace(target=target)
            for clause in self._table.about(target.host):
                if any(_failures(clause, asked, None)):
                    continue
                if clause.further is None or clause.further.holds(asked, None):
                    break
                yield self._called(clause)


class _Dialled(NamedTuple):
    """What is dialled for one destination.

    known               addresses with their ports that are known without DNS
    names               to ask it for
    port                on which their addresses are dialled
    written_down        the guard does not doubt what is known, nor, with `names_written_down`, what the names stand for
    route               by whose addresses it was asked for, which the guard does not doubt
    """

    known: tuple[tuple[str, int], ...]
    names: tuple[str, ...]
    port: int
    written_down: bool
    names_written_down: bool = False
    route: Route | None = None


def _dialled(
    intent: Intent, verdict: Verdict, destinations: Sequence[Destination], parent: Parent | None
) -> list[_Dialled]:
    """What is dialled for each destination that has a share."""
    if parent is not None:
        place = endpoint_of(parent.address, parent.port, 1)
        known = ((place.host, parent.port),) if place.is_address else ()
        return [_Dialled(known, () if known else (place.host,), parent.port, True, True)]
    shares = [each.route for each in destinations if each.weight]
    if not destinations:
        shares = [None]  # refused, or not decided: what is known of the target itself
    return [
        _reached(intent, verdict, route)
        for route in shares
        if route is None or not route.needs_tls or intent.path is None  # else nothing is looked up, nor dialled
    ]


def _writes_down(route: Route | None, address: str) -> bool:
    return route is not None and route.writes_down((address,))


def _reached(intent: Intent, verdict: Verdict, route: Route | None) -> _Dialled:
    host, port = (intent.target.host, intent.target.port) if route is None else (route.host, route.port)
    endpoints = () if route is None or verdict.dials_original else route.endpoints
    places = endpoints or (endpoint_of(host, port, 1),)
    known = tuple((place.host, place.port or port) for place in places if place.is_address)
    names = tuple(dict.fromkeys(place.host for place in places if not place.is_address))
    return _Dialled(known, names, port, bool(endpoints), route=route)


def _place(locate: Locate, way: Way) -> Place | None:
    """Where a setting is written, if it is."""
    file, line = locate(way)
    return None if line is None else Place(file, line)


def _failures(clause: Clause, intent: Intent, addresses: Sequence[str] | None) -> Iterator[str]:
    """The conditions of a clause that do not hold, as far as can be said. Its hosts are not asked."""
    _, ports, methods, clients, paths, further, _ = clause
    port = intent.target.port
    if ports is not None and not in_bounds(ports, port):
        yield f"port {port} is not among {ranges_text(ports)}"
    if methods is not None and intent.method not in methods:
        yield f"method {intent.method} is not among {', '.join(sorted(methods))}"
    if clients is not None and parse_client(intent.client) not in clients:
        yield f"client {intent.client} is in none of its {clients.count} networks"
    if paths is not None and intent.path not in paths:
        yield paths.why_not(intent.path)
    if further is not None and further.holds(intent, addresses) is False:
        yield further.why_not(intent)


def _next_step(verdict: Verdict, address: str, special: AddressClass) -> str:
    """How an operator opens a closed address."""
    if not verdict.allowed:
        return "and the target is refused by name"
    if verdict.reported:
        return "report lets refused names pass, never closed addresses"
    if special.name == "metadata":
        return f"to open it name {address} itself in the hosts of a rule with private_addresses: true"
    if verdict.rule in (ALLOW, OUTBOUND):
        return "to open it write a rule for this host with private_addresses: true"
    if verdict.rule == BUILT_IN:
        return "to open it write a configuration with a rule that names this host and has private_addresses: true"
    where = "the service" if verdict.rule in (SERVICE, ROUTE) else f"rule {verdict.rule}"
    return f"to open it set private_addresses: true on {where}"
