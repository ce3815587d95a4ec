"""The stages of a connection, and the pages about them: how each one works."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from egressproxy.config.faults import Misplaced
from egressproxy.config.schema.listeners import Listener
from egressproxy.config.schema.settings import Settings
from egressproxy.config.templates import LANGUAGES, asked_fields
from egressproxy.config.words import (
    Address,
    Count,
    DnsServer,
    Flag,
    LogFormat,
    Network,
    Number,
    Port,
    Seconds,
    ViaName,
    together,
)
from egressproxy.model import AskedFields

if TYPE_CHECKING:
    from egressproxy.config.faults import Finding


class Guard(Settings):
    """The address guard: which special ranges every rule may reach."""

    allow: tuple[Network, ...] = ()
    """Special ranges (private, loopback, ...) that are open to every rule. Never opens a metadata address."""


class Dns(Settings):
    """How names become addresses. Without `servers`: resolv.conf, and always the hosts file."""

    servers: tuple[DnsServer, ...] = ()
    """Name servers to ask instead of those in resolv.conf, `ADDRESS` or `ADDRESS:PORT`."""
    ipv6: Flag = True
    """Ask for AAAA records as well as A."""
    search: Flag = False
    """Complete names with the search domains of resolv.conf. Rules judge the name that was asked for: with this on, one that
    refuses `*.corp.example` does not catch `db`, which may become `db.corp.example`."""
    timeout_s: Seconds = 2.0
    """Wait for one server's answer before the next try."""
    tries: Annotated[Count, Field(ge=1, le=10)] = 3
    """How often the list of servers is gone through."""
    min_ttl_s: Annotated[Number, Field(ge=0, le=3600)] = 5.0
    """An answer is kept at least this long, whatever its TTL."""
    max_ttl_s: Seconds = 300.0
    """An answer is kept at most this long, whatever its TTL."""
    negative_ttl_s: Annotated[Number, Field(ge=0, le=3600)] = 5.0
    """`no such name` and `no address` are kept this long; failures of the servers are not kept."""
    stale_s: Annotated[Number, Field(ge=0, le=7 * 86400)] = 3600.0
    """An answer that ran out may still be used for this long when the servers fail. 0: never."""
    cache_entries: Annotated[Count, Field(ge=1, le=10_000_000)] = 10_000
    """Names kept; the least recently used one goes first."""

    @model_validator(mode="after")
    def _check(self) -> Dns:
        if self.min_ttl_s > self.max_ttl_s:
            raise Misplaced((("min_ttl_s",), f"{self.min_ttl_s:g} is above max_ttl_s, which is {self.max_ttl_s:g}"))
        return self


class Timeouts(Settings):
    """How long the proxy waits for others."""

    head_s: Seconds = 10.0
    """For a complete request head, TLS handshake included; then 408. For a complete ClientHello; then an alert."""
    connect_s: Seconds = 10.0
    """For a connection to the target, over all its addresses. Then 504."""
    idle_s: Seconds = 3600.0
    """A tunnel in which no byte moves either way is closed after this."""
    half_close_s: Seconds = 60.0
    """The same, once one side has ended its half."""
    lifetime_s: Seconds | None = None
    """A tunnel that has been open for this long is closed, whatever moves in it; so is a client's connection, in place of
    waiting for its next plain request. Absent: neither has a bound."""
    keep_alive_s: Seconds = 60.0
    """How long a client's connection may wait for its next plain request."""
    upstream_idle_s: Seconds = 50.0
    """How long a connection to an upstream is kept for the next plain request: shorter than most servers keep theirs (60 s and
    more), so that few are found closed."""
    upstream_lifetime_s: Seconds = 3600.0
    """How old such a connection may become; then a new one is made, with new addresses."""
    drain_s: Annotated[Number, Field(ge=0, le=86400)] = 30.0
    """After SIGTERM open tunnels may go on this long; then they are cut."""

    def at(self, listener: Listener) -> Timeouts:
        """As they are for the clients of a listener."""
        own = listener.timeouts
        return self if own is None else self.model_copy(update={key: each for key, each in own if each is not None})


class Limits(Settings):
    """How much the proxy takes."""

    max_tunnels: Annotated[Count, Field(ge=1, le=10_000_000)] = 9000
    """Connections open at once in one worker; one more is answered 503."""
    max_head_bytes: Annotated[Count, Field(ge=256, le=1_048_576)] = 16_384
    """Bytes in a request head. Then 431."""
    max_headers: Annotated[Count, Field(ge=1, le=1000)] = 100
    """Fields in a request head. Then 431."""
    max_target_bytes: Annotated[Count, Field(ge=64, le=65_536)] = 8192
    """Bytes in a request target. Then 414."""
    max_hello_bytes: Annotated[Count, Field(ge=512, le=65_536)] = 65_536
    """Bytes in a ClientHello. Then an alert."""
    max_body_bytes: Annotated[Count, Field(ge=0)] | None = None
    """Bytes in the body of a plain request. Then 413. Absent: no limit; it is never held in memory."""
    max_pooled: Annotated[Count, Field(ge=0, le=1_000_000)] = 1000
    """Connections to upstreams that are kept for the next plain request, over all upstreams."""
    max_pooled_each: Annotated[Count, Field(ge=0, le=1_000_000)] = 100
    """And to one upstream."""


class Http(Settings):
    """What is written into plain requests on their way."""

    via: Flag = True
    """Add Via, by which a request that comes back is noticed (508)."""
    via_name: ViaName | None = None
    """How this proxy calls itself there. Proxies that follow each other need different names. Absent: `egressproxy-` and a
    number that no two processes share."""
    forwarded_for: Literal["off", "append", "replace", "delete"] = "off"
    """X-Forwarded-For: `off` sends on what the client wrote; `append` adds the client's address; `replace` writes only that;
    `delete` takes out what the client wrote, and adds nothing."""
    request_id: Flag = True
    """Give a request an X-Request-Id, unless it has one."""


class AccessLog(Settings):
    """One access log: one line per tunnel and per plain request, written when it ends."""

    format: LogFormat = "squid"
    """`squid`: Squid's native format with the result codes of Squid 6 and 7; `squid-5`: with those of Squid 5.
    `nginx-stream`: the `log_stream` line of NGINX as an SNI proxy; `nginx-stream-1.22`: of NGINX up to 1.25.4, which did not
    count the ClientHello among the bytes received. `istio`: Istio's text format as it is today; `istio-1.0` to `istio-1.30`: as
    it was in that release; `istio-json`: as JSON; `envoy`: Envoy's own default."""
    template: str | None = None
    """The line in the format's own language, in place of its own. istio and envoy: Envoy's command operators, like
    `%START_TIME% %RESPONSE_CODE% %REQ(:AUTHORITY)%`; squid: Squid's codes, like `%ts.%03tu %>a %Ss/%03>Hs %ru`; nginx-stream:
    NGINX's variables, like `$remote_addr [$time_local] $status`. What is not known here is refused. istio, envoy and squid may
    name any header field, as in `%REQ(X-TEAM)%`, `%RESP(SERVER)%`, `%{X-Team}>h` and `%{Server}<h`, but none that holds a
    secret: (Proxy-)Authorization, Cookie, Set-Cookie, and those in a service's `set_headers`."""
    path: str = "-"
    """File to append to; `-` is standard output. Reopened on SIGUSR1 and when it was rotated away."""
    decisions: Flag = False
    """json only: one more line, `"event":"open"`, when a tunnel opens."""
    buffer_lines: Annotated[Count, Field(ge=1, le=10_000_000)] = 100_000
    """Lines that may wait for a slow disk or pipe; more are dropped and counted."""

    @model_validator(mode="after")
    def _check(self) -> AccessLog:
        found: list[Finding] = []
        if self.decisions and self.format != "json":
            found.append((("decisions",), "needs format: json; the others have one line per finished transaction"))
        if self.template is not None:
            if self.format not in LANGUAGES:
                found.append(
                    (
                        ("template",),
                        "needs format: istio, istio-1.N, envoy, squid or nginx-stream; "
                        f"{self.format} has a form of its own",
                    )
                )
            else:
                try:
                    LANGUAGES[self.format](self.template)
                except ValueError as error:
                    found.append((("template",), str(error)))
        if not self.path:
            found.append((("path",), "expected a file name, or - for standard output, got ''"))
        return together(self, found)

    @property
    def asked(self) -> AskedFields:
        """The header fields that are kept for this log's sake."""
        return AskedFields() if self.template is None else asked_fields(self.format, self.template)


class CaptureRanges(Settings):
    """Which connections `egressproxy redirect` brings to a transparent listener, by where they go."""

    include: Annotated[tuple[Network, ...], Field(max_length=1000)] = ()
    """Only what goes to these networks. Empty: everything."""
    exclude: Annotated[tuple[Network, ...], Field(max_length=1000)] = ()
    """Never what goes to these."""


class Admin(Settings):
    """The admin port: /metrics /livez /readyz /tunnels /config /mode /explain, and as Envoy has them /clusters /stats
    /listeners /routes /config_dump."""

    address: Address = "127.0.0.1"
    """Address to listen on."""
    port: Port = 9090
    """TCP port."""
