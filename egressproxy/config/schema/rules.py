"""What passes, and what it is routed to: conditions, rules and routes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, model_validator

from egressproxy.config.faults import Misplaced
from egressproxy.config.schema.settings import Settings
from egressproxy.config.words import (
    MAX_ENTRIES,
    Clock,
    Count,
    Day,
    Ech,
    Flag,
    Method,
    Name,
    Network,
    PathPattern,
    Patterns,
    Port,
    Ports,
    Regex,
    Seconds,
    ServiceName,
    SniCheck,
    together,
)

if TYPE_CHECKING:
    from egressproxy.config.faults import Finding

MAX_NESTED = 4
"""How deep conditions may stand in conditions."""


class TimeSpan(Settings):
    """A part of the week, in the local time of the proxy."""

    days: tuple[Day, ...] = ()
    """Days of the week. Empty: each."""
    start: Clock = "00:00"
    """From this minute on."""
    end: Clock = "24:00"
    """Up to the end of this minute."""

    @model_validator(mode="after")
    def _check(self) -> TimeSpan:
        if self.start > self.end:
            raise Misplaced((("end",), f"{self.end} is before start, which is {self.start}; write two spans"))
        return self


class Condition(Settings):
    """What may be asked of a connection or a request. All that is present must hold; of a list, one entry."""

    clients: Annotated[tuple[Network, ...], Field(max_length=MAX_ENTRIES)] | None = None
    """The client's address lies in one of these networks. Absent: any client."""
    hosts: Patterns | None = None
    """The target host matches one of these. Absent: any host."""
    hosts_matching: Annotated[tuple[Regex, ...], Field(max_length=MAX_ENTRIES)] | None = None
    """One of these expressions is found in the target host."""
    ports: tuple[Ports, ...] | None = None
    """The target port is one of these (`443`, `"8000-8100"`). Absent: any port."""
    methods: tuple[Method, ...] | None = None
    """The request method is one of these: `CONNECT` for a tunnel (TLS by server name too), `GET` and others for a plain
    request. Letter case counts where a rule lets pass; where it refuses, `post` is `POST`. Absent: any method."""
    paths: Annotated[tuple[PathPattern, ...], Field(max_length=MAX_ENTRIES)] | None = None
    """The path of a plain request, without its query, is one of these: `/exact/path`, `/below/*` (what begins with `/below/`),
    or `/*`. Letter case counts. A path that servers may read in several ways (encoded slashes and dots, `//`, `;`, ...) matches
    an allow rule if it does in every reading, a deny rule if in one. A rule with paths never matches a tunnel, whose requests
    are not seen; to refuse those too write a rule without paths. Absent: any path, and tunnels."""
    paths_matching: Annotated[tuple[Regex, ...], Field(max_length=MAX_ENTRIES)] | None = None
    """One of these expressions is found in the path of a plain request, query included, as it was sent.

    Where it is encoded, it is found in what that comes to as well: to allow `/a%20b` write `^/a(%20| )b$`."""
    bare_paths_matching: Annotated[tuple[Regex, ...], Field(max_length=MAX_ENTRIES)] | None = None
    """One of these expressions is found in the path of a plain request without its query, as `paths` reads it."""
    urls_matching: Annotated[tuple[Regex, ...], Field(max_length=MAX_ENTRIES)] | None = None
    """One of these expressions is found in the URL: `http://host/path?query` of a plain request, `host:port` of a tunnel."""
    listeners: Annotated[tuple[Name, ...], Field(max_length=1000)] | None = None
    """The client came in by one of these listeners, by their names."""
    listener_ports: tuple[Ports, ...] | None = None
    """The client came in on one of these ports of the proxy."""
    addresses: Annotated[tuple[Network, ...], Field(max_length=MAX_ENTRIES)] | None = None
    """The addresses that may be dialled (those of the target, or of the service that it is) lie in these networks: for an allow
    rule all of them, for a deny rule one. A name is looked up before such a rule can say, even if it is refused in the end."""
    times: Annotated[tuple[TimeSpan, ...], Field(max_length=1000)] | None = None
    """It is one of these times."""
    all: Annotated[tuple[Condition, ...], Field(max_length=1000)] | None = None
    """Each of these conditions holds."""
    any: Annotated[tuple[Condition, ...], Field(max_length=MAX_ENTRIES)] | None = None
    """One of these conditions holds."""
    none: Annotated[tuple[Condition, ...], Field(max_length=1000)] | None = None
    """None of these conditions holds."""

    @model_validator(mode="after")
    def _check_conditions(self) -> Self:
        found: list[Finding] = [
            ((key,), "expected at least one entry, got an empty list; leave the key out to match any")
            for key in CONDITIONS
            if getattr(self, key) == ()
        ]
        if type(self) is Condition and all(getattr(self, key) is None for key in CONDITIONS):
            found.append(((), f"expected one of {', '.join(CONDITIONS)}"))
        if self.nesting > MAX_NESTED:
            found.append(((), f"expected conditions at most {MAX_NESTED} deep in each other, got {self.nesting}"))
        return together(self, found)

    @property
    def nesting(self) -> int:
        """How deep other conditions stand in it."""
        below = [each.nesting for group in (self.all, self.any, self.none) for each in group or ()]
        return 1 + max(below) if below else 0


CONDITIONS = tuple(Condition.model_fields)
"""The keys of conditions, which rules and routes share."""


class Rule(Condition):
    """One rule. All conditions that are present must hold; the first rule that matches decides."""

    name: Name | None = None
    """Word for logs and metrics. Default: `rule-N`, counting from 1."""
    action: Literal["allow", "deny"]
    """What the rule says when it matches."""
    private_addresses: Flag = False
    """Lift the address guard for this rule: private, loopback and other special addresses may be dialled. A metadata
    address must still be named, as a literal, in `hosts`."""
    report: Flag = False
    """On a deny rule: log and count what it would refuse, and let it pass. For trying a rule out."""
    sni_check: SniCheck | None = None
    """For the tunnels this rule allows; see the setting of the same name at the top level. Absent: as that says."""
    require_tls: Flag | None = None
    """Whether what is inside a tunnel must be TLS. Absent: yes where `sni_check` is `enforce`. `false` lets protocols pass
    that are not TLS from the first byte (SMTP, SSH), and the server may speak first; TLS is still checked."""
    ech: Ech | None = None
    """See the setting of the same name at the top level. Absent: as that says."""
    proxy_protocol: Literal["v1", "v2"] | None = None
    """The upstream gets a PROXY protocol header of this version first, with the client's address."""
    parent: Name | None = None
    """Name of a proxy in `parents` that what this rule allows is sent through. It looks the name up, and dials: only targets
    that are addresses themselves are judged here."""

    @model_validator(mode="after")
    def _check(self) -> Rule:
        found: list[Finding] = []
        if self.report and self.action == "allow":
            found.append((("report",), "belongs on a deny rule, or at the top level for all that is refused"))
        if self.private_addresses and self.action == "deny":
            found.append((("private_addresses",), "belongs on an allow rule"))
        if self.action == "deny":
            found += [
                ((key,), "belongs on an allow rule")
                for key in ("sni_check", "require_tls", "ech", "proxy_protocol", "parent")
                if getattr(self, key) is not None
            ]
        elif self.paths is not None:
            found += [
                ((key,), "has no meaning with paths: a rule with paths never matches a tunnel")
                for key in ("sni_check", "require_tls", "ech")
                if getattr(self, key) is not None
            ]
        if self.parent is not None and self.addresses is not None:
            found.append((("addresses",), "are not known where a parent looks the name up"))
        return together(self, found)


class Destination(Settings):
    """Where a route leads."""

    service: ServiceName
    """A service by its `name`, or by its first host where it has none."""
    port: Port | None = None
    """The service's port, by its `number`. Absent: the one that was asked for, which must be one of the service's, or its only
    one."""
    weight: Annotated[Count, Field(ge=0, le=1_000_000)] = 1
    """Its share, relative to the other destinations."""


class Route(Condition):
    """What is sent to a service that it does not ask for by name. The first route that matches decides, before `services`."""

    name: Name | None = None
    """Word for logs. Default: none."""
    carries: Literal["requests", "tunnels"] | None = None
    """Only plain requests, or only tunnels (CONNECT, and TLS by server name). Absent: both."""
    to: Annotated[tuple[Destination, ...], Field(max_length=1000)] = ()
    """Services that take turns, by weight."""
    refuse: Literal["not_found", "unknown", "unavailable", "close"] | None = None
    """In place of `to`. `not_found`: 404, as a gateway that has no route; `unknown`: 502, as a mesh that does not know the
    host; `unavailable`: 503, as a service without endpoints; `close`: without a word. A tunnel is closed in each case."""
    timeout_s: Seconds | None = None
    """Plain HTTP: from the end of the request to the end of the response. Absent: as the service says."""

    @model_validator(mode="after")
    def _check(self) -> Route:
        found: list[Finding] = []
        if bool(self.to) == (self.refuse is not None):
            found.append((("to",), "a route needs either to, or refuse"))
        if self.to and not any(each.weight for each in self.to):
            found.append((("to",), "expected a weight above 0 on one of them"))
        if self.addresses is not None:
            found.append((("addresses",), "belong in a rule: a route is found before addresses are known"))
        return together(self, found)
