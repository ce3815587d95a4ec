"""What in a configuration has no effect, another one than it seems, or a wider one than is often meant."""

from __future__ import annotations

from ipaddress import ip_address
from itertools import islice
from typing import TYPE_CHECKING

from egressproxy.hostport import HostPattern
from egressproxy.model import HTTP_PORT, TLS_PORT
from egressproxy.policy.addresses import METADATA, classify, parse_address
from egressproxy.policy.networks import NetworkSet
from egressproxy.policy.rules import ALLOW, OUTBOUND, ROUTE, SERVICE, guard_lets_pass

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from egressproxy.config.faults import Finding, Way
    from egressproxy.config.schema.config import Config
    from egressproxy.config.schema.rules import Rule
    from egressproxy.policy.hostnames import HostIndex
    from egressproxy.policy.rules import Clause
    from egressproxy.policy.table import ClauseTable
    from egressproxy.registry import Registry

_MAX_UNREACHED = 20  # more of the same would bury the other notes
_MAX_OPEN = 5  # rules that are open to all: one is enough to look at it
_MAX_COMPARED = 100  # earlier clauses for one host; keeps a million rules for the same host from taking hours


def notes_on(config: Config, table: ClauseTable, guard: NetworkSet, registry: Registry) -> Iterator[Finding]:
    """The setting and a sentence, for each note. All but `config` are what was made of it."""
    clauses, index = table.clauses, table.index
    rules = clauses[: len(config.rules)]
    catch_all = next((i for i, clause in enumerate(rules) if _catches_all(config, i, clause)), None)
    yield from islice(_unreached(config, rules, index, catch_all), _MAX_UNREACHED)
    yield from _sections(config, rules, catch_all)
    yield from _names(config)
    yield from _closed(config, clauses, guard)
    yield from _guard(config)
    yield from _checks(config)
    yield from islice(_paths(config), _MAX_UNREACHED)
    yield from islice(_services(registry), _MAX_UNREACHED)
    yield from islice(_origination(config), _MAX_UNREACHED)
    yield from _open_doors(config, catch_all)


def _asks_for_hosts(config: Config, position: int) -> bool:
    hosts = config.rules[position].hosts
    return hosts is not None and all(pattern.kind != "any" for pattern in hosts)


def _catches_all(config: Config, position: int, clause: Clause) -> bool:
    asks_nothing = clause[1:6] == (None,) * 5
    return asks_nothing and not _asks_for_hosts(config, position)


def _unreached(config: Config, rules: Sequence[Clause], index: HostIndex, catch_all: int | None) -> Iterator[Finding]:
    """Rules that never decide, because earlier ones take all that they are for."""
    for position, clause in enumerate(rules):
        name = clause.verdict.rule
        if catch_all is not None and position > catch_all:
            before_it = rules[catch_all].verdict.rule
            yield ("rules", position), f"rule {name} is never reached: rule {before_it} before it decides everything"
            continue
        if not _asks_for_hosts(config, position):
            continue
        before = None
        for pattern in config.rules[position].hosts or ():
            earlier = islice(index.naming_all_of(pattern), _MAX_COMPARED)
            before = next((one for one in earlier if one.position < position and one.asks_less_than(clause)), None)
            if before is None:
                break
        if before is not None:
            message = f"rule {name} is never reached: earlier rules, as {before.verdict.rule}, take all of its hosts"
            yield ("rules", position), message


def _sections(config: Config, rules: Sequence[Clause], catch_all: int | None) -> Iterator[Finding]:
    sections = ("allow", config.allow), ("routes", config.routes), ("services", config.services)
    behind = [key for key, used in sections if used]
    if config.outbound == "allow_any":
        behind.append("outbound: allow_any")
    if catch_all is not None and behind:
        message = f"never reached: {', '.join(behind)}; rule {rules[catch_all].verdict.rule} before decides everything"
        yield (behind[0].partition(":")[0],), message
    if config.report:
        yield (
            ("report",),
            "report is on for all rules: nothing is refused by name, refusals are only logged and counted",
        )
    elif catch_all is None and config.outbound == "allow_any" and config.allow:
        yield ("allow",), "allow adds nothing: outbound is allow_any, which lets pass all that no rule refuses"
    if not any(clause.verdict.allowed for clause in rules) and not behind and not config.report:
        what = "there is no allow rule, no allow entry and no service, and outbound is registry_only"
        yield (), f"nothing is allowed: {what}"


def _names(config: Config) -> Iterator[Finding]:
    for position, rule in enumerate(config.rules):
        if rule.name in (ALLOW, ROUTE, SERVICE, OUTBOUND):
            message = f"a rule is named {rule.name}, which stands for something else in logs and metrics too"
            yield ("rules", position, "name"), message


def _closed(config: Config, clauses: Sequence[Clause], guard: NetworkSet) -> Iterator[Finding]:
    """Addresses that a rule names and the address guard refuses all the same."""
    seen = None
    for clause in clauses:
        verdict = clause.verdict
        if verdict is seen or verdict.private_addresses:  # the parts of `allow` share one verdict
            continue
        seen = verdict
        for address in sorted(verdict.named_addresses):
            special = classify(address)
            if special is not None and not guard_lets_pass(verdict, address, guard):
                message = (
                    f"{verdict.rule} names {address}, which stays closed: it is {special}; "
                    "to open it name it in a rule with private_addresses: true"
                )
                yield _way_to(config, clause), message


def _guard(config: Config) -> Iterator[Finding]:
    for position, network in enumerate(config.guard.allow):
        alone = NetworkSet([network])
        for address in METADATA:
            if parse_address(address) in alone:
                message = f"guard.allow holds {network}, but the metadata address {address} in it stays closed"
                yield ("guard", "allow", position), message


def _open_doors(config: Config, catch_all: int | None) -> Iterator[Finding]:
    """Doors that more people may go through than is often meant: whoever reaches them."""
    reached = [
        listener
        for listener in config.listeners
        if not ip_address(listener.address).is_loopback
        and (listener.tls is None or listener.tls.client_ca is None)  # else it asks who it is
        and listener.proxy_protocol is None  # else others are closed
    ]
    if reached:
        whoever = f"whoever reaches {reached[0].label} ({reached[0].address} port {reached[0].port}) may go"
        close = "name clients or hosts in rules, or listen on 127.0.0.1"
        if config.outbound == "allow_any" and catch_all is None:
            yield ("outbound",), f"{whoever} wherever no rule refuses it; to have it otherwise {close}"
        asked = config.rules if catch_all is None else config.rules[: catch_all + 1]
        open_rules = (n for n, rule in enumerate(asked) if rule.action == "allow" and _is_for_all(rule))
        for position in islice(open_rules, _MAX_OPEN):
            yield ("rules", position), f"{whoever} to any host by this rule; to have it otherwise {close}"
    admin = config.admin
    if admin is not None and not ip_address(admin.address).is_loopback:
        yield (
            ("admin", "address"),
            f"whoever reaches {admin.address} port {admin.port} sees open tunnels, rules and counters: the admin port asks "
            "nobody who it is; keep it closed to others, or listen on 127.0.0.1",
        )


def _is_for_all(rule: Rule) -> bool:
    if any(getattr(rule, key) is not None for key in ("hosts_matching", "urls_matching", "addresses", "all", "any")):
        return False
    any_host = rule.hosts is None or any(pattern.kind == "any" for pattern in rule.hosts)
    return any_host and (rule.clients is None or any(network.prefixlen == 0 for network in rule.clients))


def _way_to(config: Config, clause: Clause) -> Way:
    """Where the configuration has what became this clause."""
    if clause.position < len(config.rules):
        return "rules", clause.position, "hosts"
    if clause.verdict.route is not None:
        return "routes", clause.verdict.route
    return ("allow",) if clause.verdict.rule == ALLOW else ("services",)


def _checks(config: Config) -> Iterator[Finding]:
    """The check of the TLS inside tunnels where it is off or only tried, and settings that no listener makes use of."""
    if config.sni_check == "off":
        yield ("sni_check",), "off: a tunnel that was granted for one host may ask for another inside"
    elif config.sni_check == "report":
        yield ("sni_check",), "report: tunnels that ask for another host inside are logged and counted, and pass"
    captured = any(listener.transparent is not None for listener in config.listeners)
    for position, service in enumerate(config.services):
        if service.resolution == "none":
            message = (
                "none: a captured client that writes an allowed name into its ClientHello reaches any public address"
                if captured
                else "none has no effect: no listener is transparent"
            )
            yield ("services", position, "resolution"), message


def _paths(config: Config) -> Iterator[Finding]:
    """Rules with paths that can only meet tunnels, whose requests nobody sees, and a path that is easily forgotten."""
    only_tunnels = all(listener.protocol == "sni" for listener in config.listeners)
    for position, rule in enumerate(config.rules):
        if rule.paths is None:
            continue
        way = "rules", position, "paths"
        why = "this rule is for CONNECT" if rule.methods == ("CONNECT",) else ""
        why = "all listeners are sni" if only_tunnels else why
        if why:
            yield way, f"never matches: a rule with paths is for plain requests, and {why}"
        elif rule.ports is not None and all(ports == (TLS_PORT, TLS_PORT) for ports in rule.ports):
            yield (
                way,
                "matches no tunnel, and on port 443 little else is asked for: what is inside a tunnel is not seen",
            )
        elif rule.action == "deny":
            if any(listener.protocol in ("http-proxy", "auto") for listener in config.listeners):
                yield (
                    way,
                    "matches no tunnel: a CONNECT to these hosts is left to other rules, whatever is asked for inside",
                )
            for pattern in rule.paths:
                if len(pattern) > len("/*") and pattern.endswith("/*") and pattern[:-2] not in rule.paths:
                    yield (
                        way,
                        f"{pattern} is what is below {pattern[:-2]} and not {pattern[:-2]} itself, which is left to others",
                    )


def _services(registry: Registry) -> Iterator[Finding]:
    """Services that others hide."""
    for position, host, port, first in islice(registry.hidden(), _MAX_UNREACHED):
        yield (
            ("services", position),
            f"{host} port {port} is registered by services[{first}] already, and reached as that says",
        )


def _origination(config: Config) -> Iterator[Finding]:
    """Services whose ports and TLS do not belong together, and server names that are none."""
    for position, service in enumerate(config.services):
        tls = None if service.tls is None or service.tls.mode == "disable" else service.tls
        if tls is not None and tls.sni is not None and HostPattern("exact", tls.sni).is_address:
            yield (
                ("services", position, "tls", "sni"),
                f"{tls.sni} is an address, which is never sent as a server name (RFC 6066): the service hears none",
            )
        if service.endpoints and all(endpoint.port is not None for endpoint in service.endpoints):
            continue  # what is dialled is said there
        for index, port in enumerate(service.ports):
            dialled = port.target_port or port.number
            if tls is not None and port.number == dialled == HTTP_PORT:
                message = f"tls {tls.mode}: plain requests to port 80 are sent in TLS to port 80, for want of target_port: 443"
                yield ("services", position, "ports", index), message
            elif tls is None and port.protocol in (None, "HTTP") and port.number != dialled == TLS_PORT:
                message = "443: plain requests are sent there in the clear, for want of tls: {mode: simple}"
                yield ("services", position, "ports", index, "target_port"), message
