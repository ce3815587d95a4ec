"""What the policy would do with an intent, and why: one value for the command line and the admin port.

It follows the whole path: what decided and where that is written, what came close, where the route leads and through whom, what
DNS is asked, what is connected to and with which TLS, and how Istio's logs call that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from egressproxy.errors import AddressDenied, EgressError, LoopDetected, TlsRequired
from egressproxy.hostport import parse_question
from egressproxy.model import Intent
from egressproxy.policy.paths import cut

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from egressproxy.config.schema.listeners import Listener
    from egressproxy.config.schema.services import Parent, UpstreamTls
    from egressproxy.model import Verdict
    from egressproxy.policy.addresses import AddressClass
    from egressproxy.registry import Route, RouteEndpoint

TAKES_TUNNELS = frozenset({"http-proxy", "sni", "auto", "tcp"})
TAKES_REQUESTS = frozenset({"http", "http-proxy", "auto"})
"""Protocols of listeners."""

MAX_NEAR = 20  # close rules told; a screenful
_MAX_READINGS = 8  # of a path
_MAX_NAMES = 20  # looked up
_MAX_ASKING = 5  # rules that ask for addresses, named in one line

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


def listener_for(listeners: Sequence[Listener], intent: Intent, name: str | None = None) -> str:
    """The word for the listener by which an intent comes in: `name`, or the first that takes such intents.

    Raises ValueError where there is none.
    """
    takes, what = (TAKES_TUNNELS, "tunnels") if intent.path is None else (TAKES_REQUESTS, "plain requests")
    fit = [each.label for each in listeners if each.protocol in takes]
    if name is None:
        if not fit:
            raise ValueError(f"no listener takes {what}; those that there are take {_other(what)}")
        return fit[0]
    if name not in fit:
        known = ", ".join(fit[:_MAX_NAMES]) or "there is none"
        raise ValueError(f"expected a listener that takes {what} ({known}), got {name[:80]!a}")
    return name


def _other(what: str) -> str:
    return "plain requests: ask for http://HOST/PATH" if what == "tunnels" else "tunnels: ask for HOST:PORT"


class Place(NamedTuple):
    """Where something is written."""

    file: str
    line: int

    def __str__(self) -> str:
        """`FILE:LINE`."""
        return f"{self.file}:{self.line}"


class NearMiss(NamedTuple):
    """A rule that names the host, or any, and still does not match. `failed` says why, one sentence per condition."""

    rule: str
    failed: tuple[str, ...]
    place: Place | None = None


class Sent(NamedTuple):
    """The route that says which service is meant.

    called   its name, or its number, counting from 1
    refusal  what it raises where it refuses what rules have allowed
    """

    called: str
    place: Place | None
    refusal: EgressError | None = None


class Destination(NamedTuple):
    """Where an intent may be taken.

    route    how that is reached; None: by the name of the target
    weight   its share, relative to the others
    cluster  as Istio's logs call it
    place    where the host is registered
    """

    route: Route | None
    weight: int
    cluster: str
    place: Place | None = None


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


class Otherwise(NamedTuple):
    """What decides by name where the addresses, which are not known yet, do not fit the rules that ask for them.

    asking   those rules, in order
    """

    asking: tuple[str, ...]
    verdict: Verdict
    place: Place | None = None

    def __str__(self) -> str:
        """`if RULE does not match: allow (rest): why (FILE:LINE)`."""
        named = ", ".join(self.asking[:_MAX_ASKING])
        more = f" and {len(self.asking) - _MAX_ASKING} more" if len(self.asking) > _MAX_ASKING else ""
        condition = f"{named} does not match" if len(self.asking) == 1 else f"none of {named}{more} matches"
        at = "" if self.place is None else f" ({self.place})"
        return f"if {condition}: {_by_name(self.verdict)}{at}"


class Explanation(NamedTuple):
    """Why an intent is allowed or refused.

    near          rules that came close before the one that decided, in order, at most `MAX_NEAR`
    looks_up      names that would be looked up: none for addresses, and for what is refused by name
    addresses     what the address guard says of each address given, of the target if it is one, and of endpoints
    readings      of the path, where a rule with paths had a say; empty: unreadable; None: no rule had
    place         where what decided is written; None: nowhere
    sent          the route that says where to, if one does
    destinations  where it would be taken, one for each service of a route; empty where it is refused by name
    parent        the proxy that it is sent through
    asking        the rule that has to know the target's addresses before anything is decided
    otherwise     what decides if neither that rule nor others that ask for addresses match; None: it is decided
    """

    intent: Intent
    verdict: Verdict
    near: tuple[NearMiss, ...]
    looks_up: tuple[str, ...]
    addresses: tuple[AddressFinding, ...]
    readings: tuple[str, ...] | None = None
    place: Place | None = None
    sent: Sent | None = None
    destinations: tuple[Destination, ...] = ()
    parent: Parent | None = None
    asking: str | None = None
    otherwise: Otherwise | None = None

    @property
    def route(self) -> Route | None:
        """How a registered host is reached, of several destinations the first; None: no service has this host and port."""
        return self._first.route if self.destinations else None

    @property
    def _first(self) -> Destination:
        return next((each for each in self.destinations if each.weight), self.destinations[0])

    @property
    def asks_dns(self) -> bool:
        """A name would be looked up."""
        return bool(self.looks_up)

    @property
    def allowed(self) -> bool:
        """Allowed by name, as what it is, and by address as far as addresses are known."""
        return self.verdict.allowed and self._overruled() is None

    def _needs_tls(self) -> bool:
        """It is plain, and what it asks for is for TLS alone."""
        return self.intent.path is not None and self.route is not None and self.route.needs_tls

    def _overruled(self) -> tuple[str, str] | None:
        """The slug and the reason of what refuses after the name was allowed."""
        if self.sent is not None and self.sent.refusal is not None:
            return self.sent.refusal.slug, str(self.sent.refusal)
        if self._needs_tls():
            return TlsRequired.slug, "the service has this port for TLS alone"
        for finding in self.addresses:
            if finding.own:
                return LoopDetected.slug, finding.reason
        if self.addresses and not any(finding.dialled for finding in self.addresses):
            first = self.addresses[0]
            return AddressDenied.slug, f"{first.address} is {first.reason}"
        return None

    def lines(self) -> tuple[str, ...]:
        """For people."""
        intent, verdict = self.intent, self.verdict
        what = intent.target if intent.path is None else f"http://{intent.target}{intent.path}"
        lines = [f"{intent.method} {what} from {intent.client} by {intent.listener}"]
        by_name = _by_name(verdict)
        overruled = self._overruled() if verdict.allowed else None
        if verdict.needs_addresses:
            lines.append(
                f"undecided: {self.asking} asks for the target's addresses, which are looked up first: "
                "judge them by --resolve, on the admin port by &address=IP"
            )
        elif overruled is None:
            lines.append(by_name)
        else:
            slug, reason = overruled
            lines += [f"deny ({slug}): {reason}", f"  by name: {by_name}"]
        if self.place is not None:
            lines.append(f"  written at {self.place}")
        if self.otherwise is not None:
            lines.append(f"  {self.otherwise}")
        lines += [
            f"  close: {miss.rule}: {'; '.join(miss.failed)}{'' if miss.place is None else f' ({miss.place})'}"
            for miss in self.near
        ]
        lines += self._path()
        if verdict.allowed:
            lines += self._way()
            lines += self._inside()
        lines.append(self._dns(by_name_only=not verdict.allowed))
        lines += [f"  {finding}" for finding in self.addresses]
        return tuple(lines)

    def _dns(self, *, by_name_only: bool) -> str:
        if self.looks_up:
            more = f" and {len(self.looks_up) - _MAX_NAMES} more" if len(self.looks_up) > _MAX_NAMES else ""
            return f"DNS is asked for {', '.join(self.looks_up[:_MAX_NAMES])}{more}"
        if by_name_only or (self.sent is not None and self.sent.refusal is not None):
            return "DNS is not asked: refused by name"
        if self._needs_tls():
            return "DNS is not asked: refused as plain HTTP"
        if self.parent is not None:
            return "DNS is not asked: the parent is an address"
        endpoints = self.route is not None and self.route.endpoints
        return f"DNS is not asked: {'the endpoints are addresses' if endpoints else 'the target is an address'}"

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
        """Where it is taken: by a route, as a service, through a parent."""
        if self.sent is not None:
            at = "" if self.sent.place is None else f" (written at {self.sent.place})"
            if self.sent.refusal is not None:
                yield f"route {self.sent.called} refuses{at}"
                return
            total = sum(each.weight for each in self.destinations)
            several = f" by weight, {total} in all" if len(self.destinations) > 1 else ""
            if several or self.verdict.route is None:
                yield f"route {self.sent.called} says where to{several}{at}"
        for each in self.destinations:
            yield from self._to(each)
        if self.parent is not None:
            yield (
                f"sent through the parent {self.parent.name}, {self.parent.address} port {self.parent.port}, by CONNECT: "
                "it looks the name up, and no address is judged here"
            )

    def _to(self, destination: Destination) -> Iterator[str]:
        """How one destination is reached, and called."""
        route, place = destination.route, destination.place
        if route is not None:
            tls = route.tls
            how = f"by {_counted(route.endpoints)}" if route.endpoints else _RESOLUTIONS[route.resolution]
            stands_for = f" as {route.host}" if route.host != self.intent.target.host else ""
            share = f", weight {destination.weight}" if len(self.destinations) > 1 else ""
            at = "" if place is None else f" (registered at {place})"
            yield f"service {route.name}: reached{stands_for} {how} ({route.resolution}), port {route.port}{share}{at}"
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
        yield f"{'  ' if route is not None else ''}cluster in Istio's logs: {destination.cluster}"

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

    def _decided_by(self) -> str | None:
        if self.verdict.needs_addresses:
            return None
        overruled = self._overruled() if self.verdict.allowed else None
        return self.verdict.rule if overruled is None else overruled[0]

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
            "asks_for_addresses": self.asking,
            "otherwise": None
            if self.otherwise is None
            else {
                "unless": list(self.otherwise.asking),
                "allowed": self.otherwise.verdict.allowed,
                "reported": self.otherwise.verdict.reported,
                "rule": self.otherwise.verdict.rule,
                "reason": self.otherwise.verdict.reason,
                "at": _place_dict(self.otherwise.place),
            },
            "by_name": {
                "allowed": verdict.allowed,
                "reported": verdict.reported,
                "rule": verdict.rule,
                "reason": verdict.reason,
                "at": _place_dict(self.place),
                "private_addresses": verdict.private_addresses,
                "sni_check": verdict.check_on(self._tunnel_port()),
                "require_tls": verdict.require_tls,
                "ech": "allow" if verdict.ech else "deny",
                "proxy_protocol": f"v{verdict.proxy_protocol}" if verdict.proxy_protocol else None,
                "resolution": "none" if verdict.dials_original else "dns",
            },
            "near": [
                {"rule": miss.rule, "failed": list(miss.failed), "at": _place_dict(miss.place)} for miss in self.near
            ],
            "sent_by": None
            if self.sent is None
            else {
                "route": self.sent.called,
                "at": _place_dict(self.sent.place),
                "refusal": None if self.sent.refusal is None else self.sent.refusal.slug,
            },
            "route": None if self.route is None else _route_dict(self.route),
            "destinations": [
                {
                    "cluster": each.cluster,
                    "weight": each.weight,
                    "registered_at": _place_dict(each.place),
                    "route": None if each.route is None else _route_dict(each.route),
                }
                for each in self.destinations
            ],
            "parent": None
            if self.parent is None
            else {"name": self.parent.name, "address": self.parent.address, "port": self.parent.port},
            "cluster": self._first.cluster if self.destinations else None,
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


def _by_name(verdict: Verdict) -> str:
    word = "allow, report only" if verdict.reported else "allow" if verdict.allowed else "deny"
    return f"{word} ({verdict.rule}): {verdict.reason}"


def _counted(endpoints: Sequence[RouteEndpoint]) -> str:
    return f"{len(endpoints)} endpoint{'' if len(endpoints) == 1 else 's'}"


def _place_dict(place: Place | None) -> dict[str, Any] | None:
    return None if place is None else place._asdict()


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
