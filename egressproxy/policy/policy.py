"""The policy: by name before DNS, by address before dialling, and on request in words.

All tables are built when the configuration is loaded. Nothing here changes afterwards but bounded caches, so a reload
is a new Policy and connections go on with the verdict they have.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from egressproxy.config.schema import BUILT_IN
from egressproxy.errors import AddressDenied, EgressError, LoopDetected
from egressproxy.model import Endpoint, Target, Verdict
from egressproxy.policy.addresses import AddressClass, judge
from egressproxy.policy.conditions import Surroundings
from egressproxy.policy.explanation import MAX_NEAR, AddressFinding, Explanation, NearMiss
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
from egressproxy.registry import Registry, endpoint_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from time import struct_time

    from egressproxy.config.faults import Finding
    from egressproxy.config.schema import Config
    from egressproxy.model import Intent
    from egressproxy.registry import Route

_UNDECIDED = Verdict(allowed=False, rule=OUTBOUND, reason="the target's addresses are not known", needs_addresses=True)


def _no_time() -> struct_time:
    raise ValueError("a rule asks for the time, and nobody tells it")


class Policy:
    """Who may go where. Made by `from_config`, immutable.

    registry  the services of the same configuration
    """

    __slots__ = ("_config", "_guard", "_is_own", "_routes", "_table", "registry")

    def __init__(
        self, config: Config, is_own: Callable[[str, int], bool], local_time: Callable[[], struct_time]
    ) -> None:
        """See `from_config`."""
        surroundings = Surroundings(config.listeners, local_time)
        self._config = config
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

        addresses  of the target. Without them the verdict may be that it `needs_addresses`: then it is asked again with them

        Raises ValueError if a rule asks for clients and `intent.client` is not an address.
        """
        verdict = self._table.first(intent, addresses)
        assert verdict is not None  # the clause of `outbound` asks nothing
        return verdict

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
        to an address was granted for the address: inside it is no name, or one that may be reached on that port by itself.
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
        if route is not None and server_name == route.host:
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

    def explain(self, intent: Intent, addresses: Sequence[str] = ()) -> Explanation:
        """What would become of an intent, and why. Looks nothing up: `addresses` are what the name stands for.

        Raises ValueError if the client or an address is not an address, or the method or the path not a word.
        """
        parse_client(intent.client)
        for what, word in (("a method like CONNECT", intent.method), ("a path like /api", intent.path or "/")):
            if not (word.isascii() and word.isprintable()):
                raise ValueError(f"expected {what}, got {word[:80]!a}")
        verdict = self.decide(intent, addresses or None)
        target = intent.target
        route = self._way(intent, verdict)
        port = target.port if route is None else route.port
        written_down = route is not None and bool(route.endpoints)
        known, names = _destinations(target, route)
        if route is not None and route.needs_tls and intent.path is not None:  # nothing is looked up, nor dialled
            known, names, addresses = (), (), ()
        findings = [self._finding(intent, verdict, address, dialled, written_down) for address, dialled in known]
        findings += [
            self._finding(intent, verdict, address, port) for address in addresses if (address, port) not in known
        ]
        asked_path = intent.path is not None and self._asks_paths(intent)
        return Explanation(
            intent=intent,
            verdict=verdict,
            near=tuple(self._near(intent, verdict, addresses or None)),
            looks_up=names if verdict.allowed or verdict.needs_addresses else (),
            addresses=tuple(findings),
            route=route,
            readings=readings_of(intent.path) if asked_path and intent.path is not None else None,
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
        return f"{about}; {_next_step(verdict, *found[0])}"

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
            reason = f"{special}; {_next_step(verdict, address, special)}"
        return AddressFinding(address, special, dialled, reason, False, other_port)

    def _way(self, intent: Intent, verdict: Verdict) -> Route | None:
        """How an intent would be reached: of the destinations of a route the first."""
        target = intent.target
        try:
            number = self.route(intent, verdict) if verdict.allowed else verdict.route
        except EgressError:
            return None
        if number is None:
            return self.registry.find(target.host, target.port)
        return None if verdict.refusal is not None else self.registry.routed(number, 0, target.host, target.port)

    # --- in words -------------------------------------------------------------------------------------------------

    def _asks_paths(self, intent: Intent) -> bool:
        """Whether a rule with paths came close or decided."""
        for clause in islice(self._table.about(intent.target.host), MAX_NEAR + 1):
            if clause.paths is not None:
                return True
            if not any(_failures(clause, intent, ())):
                break
        return False

    def _near(self, intent: Intent, verdict: Verdict, addresses: Sequence[str] | None) -> Iterator[NearMiss]:
        """Rules that are for the host and come before the one that decided; for a refusal also those for names below."""
        count = 0
        host = intent.target.host
        for clause in self._table.about(host):
            failed = tuple(_failures(clause, intent, addresses))
            if not failed or count == MAX_NEAR:
                break
            count += 1
            yield NearMiss(clause.verdict.rule, failed)
        if not verdict.allowed or verdict.reported:
            for clause in self._table.index.below(host)[: MAX_NEAR - count]:
                yield NearMiss(clause.verdict.rule, (f"*.{host} is every name below {host} and not {host} itself",))


def _destinations(target: Target, route: Route | None) -> tuple[tuple[tuple[str, int], ...], tuple[str, ...]]:
    """Addresses with their ports that are known without DNS, and names to ask it for."""
    host, port = (target.host, target.port) if route is None else (route.host, route.port)
    places = (route.endpoints if route is not None else ()) or (endpoint_of(host, port, 1),)
    known = tuple((place.host, place.port or port) for place in places if place.is_address)
    return known, tuple(dict.fromkeys(place.host for place in places if not place.is_address))


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
