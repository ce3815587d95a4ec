"""The policy: by name before DNS, by address before dialling, and on request in words.

All tables are built when the configuration is loaded. Nothing here changes afterwards but bounded caches, so a reload
is a new Policy and connections go on with the verdict they have.
"""

from __future__ import annotations

from bisect import bisect_right
from heapq import merge
from itertools import islice
from operator import attrgetter
from typing import TYPE_CHECKING

from egressproxy.config.schema import BUILT_IN
from egressproxy.errors import AddressDenied, LoopDetected
from egressproxy.model import Endpoint, Target
from egressproxy.policy.addresses import AddressClass, judge
from egressproxy.policy.explanation import MAX_NEAR, AddressFinding, Explanation, NearMiss
from egressproxy.policy.hostnames import HostIndex
from egressproxy.policy.networks import NetworkSet, parse_client
from egressproxy.policy.notes import notes_on
from egressproxy.policy.paths import readings_of
from egressproxy.policy.rules import (
    ALLOW,
    OUTBOUND,
    SERVICE,
    Clause,
    clauses_of,
    guard_lets_pass,
    in_bounds,
    ranges_text,
)
from egressproxy.registry import Registry, endpoint_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from egressproxy.config.faults import Finding
    from egressproxy.config.schema import Config
    from egressproxy.model import Intent, Verdict
    from egressproxy.registry import Route

_BEHIND_ALL = 1 << 62  # a position no clause has

_in_order = attrgetter("position")


class Policy:
    """Who may go where. Made by `from_config`, immutable.

    registry  the routes of the same configuration
    """

    __slots__ = ("_any_host", "_clauses", "_config", "_find", "_guard", "_index", "_is_own", "registry")

    def __init__(self, config: Config, is_own: Callable[[str, int], bool]) -> None:
        """See `from_config`."""
        index = HostIndex()
        clauses: list[Clause] = []
        any_host: list[Clause] = []
        for patterns, clause in clauses_of(config):
            clauses.append(clause)
            if patterns:
                index.add(patterns, clause)
            else:
                any_host.append(clause)
        self._config = config
        self._clauses = clauses
        self._index = index
        self._find = index.finder()
        self._any_host = any_host  # in order; the last one asks nothing
        self._guard = NetworkSet(config.guard.allow)
        self._is_own = is_own
        self.registry = Registry.from_config(config)

    @classmethod
    def from_config(cls, config: Config, is_own: Callable[[str, int], bool]) -> Policy:
        """The policy that a configuration describes. A million hosts take under a second.

        is_own(address, port)  whether a connection there would arrive at a listener or the admin port of this proxy.
                               Asked for each address of a connection and, where that embeds an IPv4 address or is
                               unspecified, for what it leads to.
        """
        return cls(config, is_own)

    def decide(self, intent: Intent) -> Verdict:
        """The verdict of the first rule that matches. Runs once per connection or request, before any look-up of the name.

        Raises ValueError if a rule asks for clients and `intent.client` is not an address.
        """
        target = intent.target
        port = target.port
        best = None
        best_position = _BEHIND_ALL
        for clauses in (self._find(target.host), self._any_host):
            for clause in clauses:
                position, ports, methods, clients, paths, verdict = clause
                if position > best_position:
                    break
                if (
                    (ports is None or bisect_right(ports, port) & 1)
                    and (methods is None or intent.method in methods)
                    and (clients is None or parse_client(intent.client) in clients)
                    and (paths is None or intent.path in paths)
                ):
                    best, best_position = verdict, position
                    break
        assert best is not None  # the clause of `outbound` asks nothing
        return best

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
        verdict = self.decide(intent)
        target = intent.target
        route = self.registry.find(target.host, target.port)
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
            near=tuple(self._near(intent, verdict)),
            looks_up=names if verdict.allowed else (),
            addresses=tuple(findings),
            route=route,
            readings=readings_of(intent.path) if asked_path and intent.path is not None else None,
        )

    def notes(self) -> tuple[Finding, ...]:
        """What in the configuration has no effect, or another than it seems. Takes seconds with a million rules."""
        return tuple(notes_on(self._config, self._clauses, self._index, self._guard, self.registry))

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

    # --- in words -------------------------------------------------------------------------------------------------

    def _asks_paths(self, intent: Intent) -> bool:
        """Whether a rule with paths came close or decided."""
        asked = merge(self._find(intent.target.host), self._any_host, key=_in_order)
        for clause in islice(asked, MAX_NEAR + 1):
            if clause.paths is not None:
                return True
            if not any(_failures(clause, intent)):
                break
        return False

    def _near(self, intent: Intent, verdict: Verdict) -> Iterator[NearMiss]:
        """Rules that are for the host and come before the one that decided; for a refusal also those for names below."""
        count = 0
        host = intent.target.host
        for clause in merge(self._find(host), self._any_host, key=_in_order):
            failed = tuple(_failures(clause, intent))
            if not failed or count == MAX_NEAR:
                break
            count += 1
            yield NearMiss(clause.verdict.rule, failed)
        if not verdict.allowed or verdict.reported:
            for clause in self._index.below(host)[: MAX_NEAR - count]:
                yield NearMiss(clause.verdict.rule, (f"*.{host} is every name below {host} and not {host} itself",))


def _destinations(target: Target, route: Route | None) -> tuple[tuple[tuple[str, int], ...], tuple[str, ...]]:
    """Addresses with their ports that are known without DNS, and names to ask it for."""
    host, port = (target.host, target.port) if route is None else (route.host, route.port)
    places = (route.endpoints if route is not None else ()) or (endpoint_of(host, port, 1),)
    known = tuple((place.host, place.port or port) for place in places if place.is_address)
    return known, tuple(dict.fromkeys(place.host for place in places if not place.is_address))


def _failures(clause: Clause, intent: Intent) -> Iterator[str]:
    """The conditions of a clause that do not hold. Its hosts are not asked."""
    _, ports, methods, clients, paths, _ = clause
    port = intent.target.port
    if ports is not None and not in_bounds(ports, port):
        yield f"port {port} is not among {ranges_text(ports)}"
    if methods is not None and intent.method not in methods:
        yield f"method {intent.method} is not among {', '.join(sorted(methods))}"
    if clients is not None and parse_client(intent.client) not in clients:
        yield f"client {intent.client} is in none of its {clients.count} networks"
    if paths is not None and intent.path not in paths:
        yield paths.why_not(intent.path)


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
    where = "the service" if verdict.rule == SERVICE else f"rule {verdict.rule}"
    return f"to open it set private_addresses: true on {where}"
