"""What in a configuration has no effect, or another one than it seems."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from egressproxy.policy.addresses import METADATA, classify, parse_address
from egressproxy.policy.networks import NetworkSet
from egressproxy.policy.rules import ALLOW, OUTBOUND, SERVICE, guard_lets_pass

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from egressproxy.config.schema import Config
    from egressproxy.policy.hostnames import HostIndex
    from egressproxy.policy.rules import Clause

_MAX_UNREACHED = 20  # more of the same would bury the other notes
_MAX_COMPARED = 100  # earlier clauses for one host; keeps a million rules for the same host from taking hours


def notes_on(config: Config, clauses: Sequence[Clause], index: HostIndex, guard: NetworkSet) -> Iterator[str]:
    """One sentence per note. `clauses`, `index` and `guard` are what was made of `config`."""
    rules = clauses[: len(config.rules)]
    catch_all = next((i for i, clause in enumerate(rules) if _catches_all(config, i, clause)), None)
    yield from islice(_unreached(config, rules, index, catch_all), _MAX_UNREACHED)
    yield from _sections(config, rules, catch_all)
    yield from _names(config)
    yield from _closed(clauses, guard)
    yield from _guard(config)


def _asks_for_hosts(config: Config, position: int) -> bool:
    hosts = config.rules[position].hosts
    return hosts is not None and all(pattern.kind != "any" for pattern in hosts)


def _catches_all(config: Config, position: int, clause: Clause) -> bool:
    return (clause.ports, clause.methods, clause.clients) == (None, None, None) and not _asks_for_hosts(
        config, position
    )


def _unreached(config: Config, rules: Sequence[Clause], index: HostIndex, catch_all: int | None) -> Iterator[str]:
    """Rules that never decide, because earlier ones take all that they are for."""
    for position, clause in enumerate(rules):
        name = clause.verdict.rule
        if catch_all is not None and position > catch_all:
            yield f"rule {name} is never reached: rule {rules[catch_all].verdict.rule} before it decides everything"
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
            yield f"rule {name} is never reached: earlier rules, as {before.verdict.rule}, take all of its hosts"


def _sections(config: Config, rules: Sequence[Clause], catch_all: int | None) -> Iterator[str]:
    behind = [key for key, used in (("allow", config.allow), ("services", config.services)) if used]
    if config.outbound == "allow_any":
        behind.append("outbound: allow_any")
    if catch_all is not None and behind:
        yield f"never reached: {', '.join(behind)}; rule {rules[catch_all].verdict.rule} before decides everything"
    if config.report:
        yield "report is on for all rules: nothing is refused by name, refusals are only logged and counted"
    elif catch_all is None and config.outbound == "allow_any" and config.allow:
        yield "allow adds nothing: outbound is allow_any, which lets pass all that no rule refuses"
    if not any(clause.verdict.allowed for clause in rules) and not behind and not config.report:
        yield "nothing is allowed: there is no allow rule, no allow entry and no service, and outbound is registry_only"


def _names(config: Config) -> Iterator[str]:
    for rule in config.rules:
        if rule.name in (ALLOW, SERVICE, OUTBOUND):
            yield f"a rule is named {rule.name}, which stands for something else in logs and metrics too"


def _closed(clauses: Sequence[Clause], guard: NetworkSet) -> Iterator[str]:
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
                yield (
                    f"{verdict.rule} names {address}, which stays closed: it is {special}; "
                    "to open it name it in a rule with private_addresses: true"
                )


def _guard(config: Config) -> Iterator[str]:
    for network in config.guard.allow:
        alone = NetworkSet([network])
        for address in METADATA:
            if parse_address(address) in alone:
                yield f"guard.allow holds {network}, but the metadata address {address} in it stays closed"
