"""What the policy would do with an intent, and why: one value for the command line and the admin port."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from egressproxy.errors import AddressDenied, LoopDetected, TlsRequired
from egressproxy.hostport import parse_question
from egressproxy.model import Intent
from egressproxy.policy.paths import cut

if TYPE_CHECKING:
    from collections.abc import Iterator

    from egressproxy.config.schema import UpstreamTls
    from egressproxy.model import Verdict
    from egressproxy.policy.addresses import AddressClass
    from egressproxy.registry import Route

MAX_NEAR = 20  # close rules told; a screenful
_MAX_READINGS = 8  # of a path
_MAX_NAMES = 20  # looked up

_RESOLUTIONS = {"dns": "by DNS", "static": "by its endpoints", "none": "where a captured client dialled, others by DNS"}


def intent_about(to: str, client: str, listener: str, method: str | None = None) -> Intent:
    """The intent that a person asks about.

    to      `host:port`, or an http or https URL
    method  None: GET for an http URL, else CONNECT. Any other than CONNECT makes it a plain request.

    Raises MalformedTarget for a target that is none, ValueError for a plain request of https.
    """
    question = parse_question(to)
    if method is None:
        method = "GET" if question.scheme == "http" else "CONNECT"
    if method == "CONNECT":
        return Intent(client, listener, method, question.target)
    if question.scheme == "https":
        raise ValueError(
            f"an https URL is asked for by CONNECT, and what is asked inside is not seen; got {method[:32]!a}"
        )
    return Intent(client, listener, method, question.target, path=question.path or "/")


class NearMiss(NamedTuple):
    """A rule that names the host, or any, and still does not match. `failed` says why, one sentence per condition."""

    rule: str
    failed: tuple[str, ...]


class AddressFinding(NamedTuple):
    """One address: its class (None: ordinary and public), whether it would be dialled, and why or why not.

    own   a connection there would come back to this proxy, which refuses the target whatever its other addresses are
    port  the one that is dialled; None: that of the target
    """

    address: str
    special: AddressClass | None
    dialled: bool
    reason: str
    own: bool = False
    port: int | None = None

    def __str__(self) -> str:
        """`ADDRESS: dialled: why`."""
        port = "" if self.port is None else f" port {self.port}"
        return f"{self.address}{port}: {'dialled' if self.dialled else 'not dialled'}: {self.reason}"


class Explanation(NamedTuple):
    """Why an intent is allowed or refused.

    near       rules that came close before the one that decided, in order, at most `MAX_NEAR`
    looks_up   names that would be looked up: none for addresses, and for what is refused by name
    addresses  what the address guard says of each address given, of the target if it is one, and of endpoints
    route      how a registered host is reached; None: no service has this host and port
    readings   of the path, where a rule with paths had a say; empty: unreadable; None: no rule had
    """

    intent: Intent
    verdict: Verdict
    near: tuple[NearMiss, ...]
    looks_up: tuple[str, ...]
    addresses: tuple[AddressFinding, ...]
    route: Route | None = None
    readings: tuple[str, ...] | None = None

    @property
    def asks_dns(self) -> bool:
        """A name would be looked up."""
        return bool(self.looks_up)

    @property
    def allowed(self) -> bool:
        """Allowed by name, as what it is, and by address as far as addresses are known."""
        return self.verdict.allowed and not self._needs_tls() and self._closed() is None

    def _needs_tls(self) -> bool:
        """It is plain, and what it asks for is for TLS alone."""
        return self.intent.path is not None and self.route is not None and self.route.needs_tls

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
        what = intent.target if intent.path is None else f"http://{intent.target}{intent.path}"
        lines = [f"{intent.method} {what} from {intent.client}"]
        closed = self._closed() if verdict.allowed else None
        if verdict.allowed and self._needs_tls():
            lines += [f"deny ({TlsRequired.slug}): the service has this port for TLS alone", f"  by name: {by_name}"]
        elif closed is None:
            lines.append(by_name)
        else:
            slug, finding = closed
            reason = finding.reason if finding.own else f"{finding.address} is {finding.reason}"
            lines += [f"deny ({slug}): {reason}", f"  by name: {by_name}"]
        lines += [f"  close: {miss.rule}: {'; '.join(miss.failed)}" for miss in self.near]
        lines += self._path()
        if verdict.allowed:
            lines += self._way()
            lines += self._inside()
        if self.looks_up:
            lines.append(f"DNS is asked for {', '.join(self.looks_up[:_MAX_NAMES])}")
        elif not verdict.allowed:
            lines.append("DNS is not asked: refused by name")
        elif self._needs_tls():
            lines.append("DNS is not asked: refused as plain HTTP")
        else:
            endpoints = self.route is not None and self.route.endpoints
            lines.append(
                f"DNS is not asked: {'the endpoints are addresses' if endpoints else 'the target is an address'}"
            )
        lines += [f"  {finding}" for finding in self.addresses]
        return tuple(lines)

    def _path(self) -> Iterator[str]:
        """What the path may be taken for, where that is not plain."""
        readings = self.readings
        if readings is None or readings == (self.intent.path,) or self.intent.path == "*":
            return
        if not readings:
            yield "the path is unreadable: servers take it in too many ways, or only a broken one does"
        else:
            more = f" and {len(readings) - _MAX_READINGS} more" if len(readings) > _MAX_READINGS else ""
            yield f"the path is read as {', '.join(map(cut, readings[:_MAX_READINGS]))}{more}"

    def _way(self) -> Iterator[str]:
        """How a registered host is reached."""
        route, tls = self.route, None if self.route is None else self.route.tls
        if route is None:
            return
        how = f"by {len(route.endpoints)} endpoints" if route.endpoints else _RESOLUTIONS[route.resolution]
        stands_for = f" as {route.host}" if route.host != self.intent.target.host else ""
        yield f"service {route.name}: reached{stands_for} {how} ({route.resolution}), port {route.port}"
        plain = self.intent.path is not None
        if plain:
            yield (
                "  nothing goes out"
                if route.needs_tls
                else "  plain HTTP goes out"
                if tls is None
                else f"  TLS {tls.mode}: {_checks(tls, route.host)}"
            )
        times = [
            f"{what} {seconds:g} s"
            for what, seconds, counts in (
                ("whole answer", route.timeout_s, plain),
                ("connection", route.connect_timeout_s, True),
                ("without a byte", route.idle_timeout_s, plain),
            )
            if counts and seconds is not None
        ]
        if times:
            yield f"  at most: {', '.join(times)}"
        if plain and route.has_headers:
            yield "  header fields of the service take the place of the client's"

    def _inside(self) -> Iterator[str]:
        """What is asked of the TLS inside a tunnel, and told to the upstream."""
        verdict = self.verdict
        if self.intent.path is None:
            yield from self._inside_tunnel(self._tunnel_port())
        if verdict.proxy_protocol:
            yield f"the upstream is told the client's address (PROXY protocol version {verdict.proxy_protocol})"
        if verdict.dials_original:
            yield "a captured connection goes on to the address that it dialled (resolution: none)"

    def _tunnel_port(self) -> int:
        return (None if self.route is None else self.route.tunnel_port) or self.intent.target.port

    def _inside_tunnel(self, port: int) -> Iterator[str]:
        verdict = self.verdict
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

    def _decided_by(self) -> str:
        if self.verdict.allowed and self._needs_tls():
            return TlsRequired.slug
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
            "path": intent.path,
            "readings": None if self.readings is None else list(self.readings),
            "allowed": self.allowed,
            "decided_by": self._decided_by(),
            "by_name": {
                "allowed": verdict.allowed,
                "reported": verdict.reported,
                "rule": verdict.rule,
                "reason": verdict.reason,
                "private_addresses": verdict.private_addresses,
                "sni_check": verdict.check_on(self._tunnel_port()),
                "require_tls": verdict.require_tls,
                "ech": "allow" if verdict.ech else "deny",
                "proxy_protocol": f"v{verdict.proxy_protocol}" if verdict.proxy_protocol else None,
                "resolution": "none" if verdict.dials_original else "dns",
            },
            "near": [{"rule": miss.rule, "failed": list(miss.failed)} for miss in self.near],
            "route": None if self.route is None else _route_dict(self.route),
            "asks_dns": self.asks_dns,
            "looks_up": list(self.looks_up),
            "addresses": [
                {
                    "address": finding.address,
                    "port": finding.port or intent.target.port,
                    "class": finding.special.name if finding.special else "public",
                    "network": finding.special.network if finding.special else None,
                    "source": finding.special.source if finding.special else None,
                    "dialled": finding.dialled,
                    "reason": finding.reason,
                }
                for finding in self.addresses
            ],
        }


def _checks(tls: UpstreamTls, host: str) -> str:
    """What is said in the handshake, and asked of the certificate."""
    sni = tls.sni or host
    if tls.verify is False:
        return f"server name {sni}, the certificate is not checked"
    if tls.credential is not None:
        by = f"the credential {tls.credential}"
    else:
        by = "the system's authorities" if tls.ca is None else str(tls.ca)
    whom = " or ".join(tls.subject_alt_names) or ("any name" if tls.verify == "chain" else sni)
    return f"server name {sni}, the certificate must come from {by} and be for {whom}"


def _route_dict(route: Route) -> dict[str, Any]:
    tls = route.tls
    return {
        "service": route.name,
        "host": route.host,
        "port": route.port,
        "resolution": route.resolution,
        "endpoints": [
            {"address": one.host, "port": one.port or route.port, "weight": one.weight} for one in route.endpoints
        ],
        "tls": None
        if tls is None
        else {
            "mode": tls.mode,
            "sni": tls.sni or route.host,
            "verify": tls.verify,
            "subject_alt_names": list(tls.subject_alt_names),
            "minimum_version": tls.minimum_version,
        },
        "declared_tls": route.declared_tls,
        "timeout_s": route.timeout_s,
        "connect_timeout_s": route.connect_timeout_s,
        "idle_timeout_s": route.idle_timeout_s,
        "sets_headers": route.has_headers,
    }
