"""What the policy would do with an intent, and why: one value for the command line and the admin port."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from egressproxy.errors import AddressDenied, LoopDetected

if TYPE_CHECKING:
    from egressproxy.model import Intent, Verdict
    from egressproxy.policy.addresses import AddressClass

MAX_NEAR = 20  # close rules told; a screenful


class NearMiss(NamedTuple):
    """A rule that names the host, or any, and still does not match. `failed` says why, one sentence per condition."""

    rule: str
    failed: tuple[str, ...]


class AddressFinding(NamedTuple):
    """One address: its class (None: ordinary and public), whether it would be dialled, and why or why not.

    own  a connection there would come back to this proxy, which refuses the target whatever its other addresses are
    """

    address: str
    special: AddressClass | None
    dialled: bool
    reason: str
    own: bool = False


class Explanation(NamedTuple):
    """Why an intent is allowed or refused.

    near       rules that came close before the one that decided, in order, at most `MAX_NEAR`
    asks_dns   the name would be looked up: it is allowed, and not an address
    addresses  what the address guard says of each address given, or of the target if it is one
    """

    intent: Intent
    verdict: Verdict
    near: tuple[NearMiss, ...]
    asks_dns: bool
    addresses: tuple[AddressFinding, ...]

    @property
    def allowed(self) -> bool:
        """Allowed by name, and by address as far as addresses are known."""
        return self.verdict.allowed and self._closed() is None

    def _closed(self) -> tuple[str, AddressFinding] | None:
        """The slug and the address that decide where the addresses refuse what the name was allowed."""
        for finding in self.addresses:
            if finding.own:
                return LoopDetected.slug, finding
        if self.addresses and not any(finding.dialled for finding in self.addresses):
            return AddressDenied.slug, self.addresses[0]
        return None

    def lines(self) -> tuple[str, ...]:
        """For people."""
        intent, verdict = self.intent, self.verdict
        word = "allow, report only" if verdict.reported else "allow" if verdict.allowed else "deny"
        by_name = f"{word} ({verdict.rule}): {verdict.reason}"
        lines = [f"{intent.method} {intent.target} from {intent.client}"]
        closed = self._closed() if verdict.allowed else None
        if closed is None:
            lines.append(by_name)
        else:
            slug, finding = closed
            reason = finding.reason if finding.own else f"{finding.address} is {finding.reason}"
            lines += [f"deny ({slug}): {reason}", f"  by name: {by_name}"]
        lines += [f"  close: {miss.rule}: {'; '.join(miss.failed)}" for miss in self.near]
        if self.asks_dns:
            lines.append(f"DNS is asked for {intent.target.host}")
        else:
            lines.append("DNS is not asked: " + ("the target is an address" if verdict.allowed else "refused by name"))
        lines += [
            f"  {finding.address}: {'dialled' if finding.dialled else 'not dialled'}: {finding.reason}"
            for finding in self.addresses
        ]
        return tuple(lines)

    def _decided_by(self) -> str:
        closed = self._closed() if self.verdict.allowed else None
        return self.verdict.rule if closed is None else closed[0]

    def as_dict(self) -> dict[str, Any]:
        """For programs: only what JSON can hold. `allowed` is the last word, `by_name` what came before the addresses."""
        intent, verdict = self.intent, self.verdict
        return {
            "target": str(intent.target),
            "client": intent.client,
            "listener": intent.listener,
            "method": intent.method,
            "allowed": self.allowed,
            "decided_by": self._decided_by(),
            "by_name": {
                "allowed": verdict.allowed,
                "reported": verdict.reported,
                "rule": verdict.rule,
                "reason": verdict.reason,
                "private_addresses": verdict.private_addresses,
            },
            "near": [{"rule": miss.rule, "failed": list(miss.failed)} for miss in self.near],
            "asks_dns": self.asks_dns,
            "addresses": [
                {
                    "address": finding.address,
                    "class": finding.special.name if finding.special else "public",
                    "network": finding.special.network if finding.special else None,
                    "source": finding.special.source if finding.special else None,
                    "dialled": finding.dialled,
                    "reason": finding.reason,
                }
                for finding in self.addresses
            ],
        }
