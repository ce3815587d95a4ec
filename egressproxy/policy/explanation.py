"""What the policy would do with an intent, and why: one value for the command line and the admin port."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from egressproxy.errors import AddressDenied, LoopDetected

if TYPE_CHECKING:
    from collections.abc import Iterator

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
        if verdict.allowed:
            lines += self._inside()
        if self.asks_dns:
            lines.append(f"DNS is asked for {intent.target.host}")
        else:
            lines.append("DNS is not asked: " + ("the target is an address" if verdict.allowed else "refused by name"))
        lines += [
            f"  {finding.address}: {'dialled' if finding.dialled else 'not dialled'}: {finding.reason}"
            for finding in self.addresses
        ]
        return tuple(lines)

    def _inside(self) -> Iterator[str]:
        """What is asked of the TLS inside a tunnel, and told to the upstream."""
        verdict, port = self.verdict, self.intent.target.port
        check = verdict.check_on(port)
        must_be_tls = check == "enforce" if verdict.require_tls is None else verdict.require_tls
        if check == "off":
            only_ech = "not looked at" if verdict.ech else "looked at for ECH only"
            yield "inside a CONNECT: " + ("must be TLS, for any name" if must_be_tls else only_ech)
        else:
            subject = (
                "the address, or a name that is allowed" if self.intent.target.is_address else self.intent.target.host
            )
            other = "TLS only" if must_be_tls else "what is not TLS passes"
            yield f"inside a CONNECT: the ClientHello must ask for {subject} ({check}); {other}"
        if not verdict.ech:
            yield "a ClientHello with ECH is refused" + (
                "; inside a CONNECT it is reported" if check == "report" else ""
            )
        if verdict.proxy_protocol:
            yield f"the upstream is told the client's address (PROXY protocol version {verdict.proxy_protocol})"
        if verdict.dials_original:
            yield "a captured connection goes on to the address that it dialled (resolution: none)"

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
                "sni_check": verdict.check_on(self.intent.target.port),
                "require_tls": verdict.require_tls,
                "ech": "allow" if verdict.ech else "deny",
                "proxy_protocol": f"v{verdict.proxy_protocol}" if verdict.proxy_protocol else None,
                "resolution": "none" if verdict.dials_original else "dns",
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
