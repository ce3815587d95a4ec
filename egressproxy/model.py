"""The values that pass between the stages: what is wanted, what was decided, where it went, what came of it.

Values are immutable. The ones made anew for every connection are named tuples and not frozen dataclasses: a frozen
dataclass assigns each field through `object.__setattr__`, three times the cost, several microseconds per tunnel. The one
that is made once and read by every connection, `Verdict`, is a frozen dataclass: its fields are read in a third of the time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from egressproxy.errors import EchDenied, HostUnknown, NoEndpoint, NoRoute, RuleDenied

if TYPE_CHECKING:
    from egressproxy.errors import EgressError
    from egressproxy.wire.kept_fields import KeptFields
    from egressproxy.wire.request import Request

Refusal = Literal["not_found", "unknown", "unavailable", "close"]
"""How a route refuses."""
_REFUSALS: dict[Refusal, type[EgressError]] = {
    "not_found": NoRoute,
    "unknown": RuleDenied,
    "unavailable": NoEndpoint,
    "close": HostUnknown,
}

OUTBOUND = "outbound"
"""Name of the rule where no rule decides: what the setting of that name says."""
HTTP_PORT = 80
"""RFC 9110 section 4.2.1."""
TLS_PORT = 443
"""Where a tunnel is expected to carry TLS, and an `sni` listener forwards to, unless the configuration says otherwise."""


class Target(NamedTuple):
    """One host and one port, as `hostport` made them: canonical, and never in doubt.

    host        a name in canonical form (lower case, A-labels, no trailing dot) or an address in its standard spelling,
                IPv6 without brackets
    is_address  the host is an address literal: nothing to look up
    """

    host: str
    port: int
    is_address: bool

    def __str__(self) -> str:
        """`host:port`, IPv6 in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Intent(NamedTuple):
    """What one client asks for: the input of every decision.

    client    the client's address, standard spelling; a mapped IPv4 address already unmapped
    listener  name of the listener it came in by
    method    `CONNECT` for every tunnel, also one that a ClientHello asks for
    dialled   address and port that a captured client was on its way to
    ech       the ClientHello may hide another name than the one in the target (Encrypted Client Hello)
    path      of a plain request, without its query, as sent; None for a tunnel, whose requests nobody sees
    manager   the name of one of the proxy's own manager pages, which is asked for
    request   the plain request itself, for whoever forwards it; no decision looks at it
    """

    client: str
    listener: str
    method: str
    target: Target
    http_version: str | None = "1.1"
    dialled: tuple[str, int] | None = None
    ech: bool = False
    path: str | None = None
    request: Request | None = None
    manager: str | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the policy says of an intent by name.

    One verdict is made per rule when the configuration is loaded and shared by all connections: it holds nothing of them.

    allowed            the connection may go on (also when only because refusals are just reported)
    rule               the rule that decided; `outbound` where none did; bounded by the configuration, so fit for a label
    reason             why, in words an operator can act on
    reported           it would have been refused, but `report` lets it pass
    private_addresses  the address guard lets addresses of private and other special ranges pass
    named_addresses    address literals that the rule itself names: the only way to a metadata address
    sni_check          whether the TLS inside a CONNECT tunnel must ask for the tunnel's host: `enforce`, `report` or `off`;
                       None: `by_default` on port 443, `off` elsewhere
    by_default         `enforce`, or `report` where refusals are only reported
    require_tls        whether what is inside must be TLS; None: where `sni_check` says `enforce`
    ech                a ClientHello with Encrypted Client Hello may pass, judged by its outer name
    proxy_protocol     version of the PROXY protocol header that the upstream gets; 0: none
    dials_original     a captured connection goes on to the address it was on its way to, whatever the name stands for
    route              index in `config.routes`, where a route decided
    refusal            how that route refuses
    parent             index in `config.parents` of the proxy that it is sent through
    needs_addresses    nothing is decided yet: a rule that comes first asks for the target's addresses
    """

    allowed: bool
    rule: str
    reason: str
    reported: bool = False
    private_addresses: bool = False
    named_addresses: frozenset[str] = frozenset()
    sni_check: str | None = None
    require_tls: bool | None = None
    ech: bool = True
    proxy_protocol: Literal[0, 1, 2] = 0
    dials_original: bool = False
    by_default: str = "enforce"
    route: int | None = None
    refusal: Refusal | None = None
    parent: int | None = None
    needs_addresses: bool = False

    def check_on(self, port: int) -> str:
        """`enforce`, `report` or `off` for a tunnel to this port."""
        return self.sni_check or (self.by_default if port == TLS_PORT else "off")

    def enforce(self, intent: Intent) -> None:
        """Raise RuleDenied unless allowed, or what the route means that refuses; EchDenied for a hidden name that is not."""
        if not self.allowed:
            kind = RuleDenied if self.refusal is None else _REFUSALS[self.refusal]
            raise kind(f"{self.reason}: {intent.target}")
        if intent.ech and not self.ech:
            raise EchDenied(f"the ClientHello for {intent.target} may hide another name, and ech is deny ({self.rule})")


class Endpoint(NamedTuple):
    """An address that was judged and may be dialled. `address` in standard spelling, IPv6 without brackets."""

    address: str
    port: int

    def __str__(self) -> str:
        """`address:port`, IPv6 in brackets."""
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


class Transfer(NamedTuple):
    """What a relay carried.

    bytes_up    client to upstream, payload only
    bytes_down  upstream to client, payload only
    closed_by   who ended it first: `client`, `upstream` or `proxy`
    end         a slug: `closed` (in order, or reset behind one's own orderly end), `client_reset`, `upstream_reset`,
                `idle_timeout`, `half_close_timeout`, `lifetime`, `drained`, `cut`, `policy_changed` (a reload refuses it)
    """

    bytes_up: int
    bytes_down: int
    closed_by: str
    end: str


class AskedFields(NamedTuple):
    """Names, in lower case, of the header fields that access logs print beside those that every record has."""

    request: frozenset[str] = frozenset()
    response: frozenset[str] = frozenset()


class Exchange(NamedTuple):
    """One plain HTTP request and what came of it, beside what its record says of every connection.

    All text may hold anything that a client or an origin sent: formats escape and cap it. Bytes are those of bodies, without
    their framing.

    request          counts the requests of this connection, from 1
    path             path and query as sent to the upstream; `*` for OPTIONS of the server itself
    authority        the Host that the upstream is sent
    forwarded_for    X-Forwarded-For as it is sent on
    upstream_status  status of the upstream's response; None where none came: then the reply is our own
    content_type     media type of that response
    response_s       seconds from the complete request head to the head of the response
    reused           the upstream connection had served another request before
    attempts         upstream connections that were asked
    tls              version of the TLS that the proxy spoke with the upstream, as `TLSv1.3`; None: none
    upgraded         the connection became a tunnel (101)
    complete         all of the response was handed to the client
    route            name of the route that the service's answer came by, where it has one of its own; empty: it has none;
                     None: it is called after how the request was decided
    """

    request: int
    path: str
    authority: str
    user_agent: str | None = None
    request_id: str | None = None
    forwarded_for: str | None = None
    upstream_status: int | None = None
    content_type: str | None = None
    response_s: float | None = None
    reused: bool = False
    attempts: int = 0
    tls: str | None = None
    upgraded: bool = False
    complete: bool = False
    route: str | None = None


class ConnectionRecord(NamedTuple):
    """One connection from accept to close: what the access log, the metrics and `/tunnels` are made of.

    Of a connection that carries plain HTTP, each request is a record of its own, from its first byte to the end of its
    response: then `exchange` is set, `bytes_up` and `bytes_down` are its bodies', `reply_bytes` is the head that the client
    got, and `outcome` is `answered` for a response that came whole from the upstream. A connection that ends without a
    request is one record; the quiet end of one that had some is none.

    Times are seconds. A phase that was not reached is None; phases follow each other, each from the end of the one before.
    `outcome` is `closed` for a tunnel that ended in order, the relay's end or the error's slug otherwise.
    `method`, `target_text` and `detail` may hold anything a client sent: formats escape and cap them.

    A refused client of an `sni` listener gets an alert and no status: `status` is then the one that the same refusal has in
    HTTP, and 200 for a tunnel that opened.
    """

    number: int  # counts the connections of this worker
    listener: str
    protocol: str  # the front end: `http-proxy` or `sni`; `auto` where it could not be told
    client: str
    client_port: int
    ended_at_unix_s: float
    duration_s: float  # accept to close
    tunnel_s: float | None  # complete head to close: what Squid calls the response time; None without a complete head
    method: str | None
    target: Target | None
    target_text: str | None  # the target as received, for requests whose target is not one host and one port
    http_version: str | None  # `1.0` or `1.1`
    user: str | None
    rule: str | None
    reason: str | None
    reported: bool
    status: int | None  # HTTP status sent to the client
    outcome: str
    detail: str | None  # the error's message
    upstream: Endpoint | None  # the last address tried, or the one connected to
    connected: bool  # the upstream was connected
    opened: bool  # the client was told that its tunnel stands
    reply_bytes: int  # status line, head and body of our own reply; for a tunnel the head of the 200
    bytes_up: int
    bytes_down: int
    closed_by: str  # `client`, `upstream` or `proxy`
    head_s: float | None
    resolve_s: float | None
    connect_s: float | None
    server_name: str | None = None  # SNI as the client sent it, letter case kept; None where no ClientHello was read
    sni_check: str | None = None  # what the check of the TLS inside a tunnel found, see `agreement`; None: not checked
    # bytes read from the client before the tunnel opened that went into it: the ClientHello of `sni`
    preread_bytes: int = 0
    dialled: tuple[str, int] | None = None  # where a captured client was on its way to
    exchange: Exchange | None = None  # None for a tunnel, and for what ended before its request was understood
    local: tuple[str, int] | None = None  # the proxy's own end of the client's connection, where a log asks for it
    upstream_local: tuple[str, int] | None = None  # and of the upstream's
    reply_body_bytes: int = 0  # of `reply_bytes`, those behind the head
    service: str | None = None  # the registered service that says how the target is reached, by its first host
    service_port: int | None = None  # the port that this service is known by; None: the one that was dialled
    parent: str | None = (
        None  # the parent proxy that was asked to connect to the target; `upstream` is then its address
    )
    kept: KeptFields | None = None  # the header fields that an access log asks for, where one asks for any


class Problem(NamedTuple):
    """One thing wrong with a configuration, or worth a note. Printed as `FILE:LINE: PATH: message`.

    line  1-based; None where no line can be named
    path  of the key, as `rules[2].hosts[0]`; empty for the whole file
    """

    file: str
    line: int | None
    path: str
    message: str

    def __str__(self) -> str:
        """`FILE:LINE: PATH: message`, without the parts that are not known."""
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        return f"{place}: {self.path}: {self.message}" if self.path else f"{place}: {self.message}"
