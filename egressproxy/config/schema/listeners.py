"""Where clients come in."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from egressproxy.config.schema.settings import Settings
from egressproxy.config.words import MAX_ENTRIES, Address, Flag, HostPort, Name, Network, Port, Seconds, together

if TYPE_CHECKING:
    from egressproxy.config.faults import Finding


class ListenerTls(Settings):
    """The listener itself speaks TLS: `curl -x https://proxy`."""

    certificate: Path
    """PEM file with the certificate chain shown to clients."""
    key: Path
    """PEM file with its private key."""
    client_ca: Path | None = None
    """PEM file with authorities; set, a client must show a certificate that one of them signed."""


class ListenerProxyProtocol(Settings):
    """Each client is announced by a PROXY protocol header (version 1 or 2), as a load balancer in front sends it."""

    announcers: Annotated[tuple[Network, ...], Field(alias="from", min_length=1, max_length=MAX_ENTRIES)]
    """Networks that may announce clients. A connection from elsewhere, or without a header, is closed."""


class ListenerTimeouts(Settings):
    """Time limits for the clients of one listener. What is absent is as the general `timeouts` say."""

    head_s: Seconds | None = None
    """For a complete request head or ClientHello, and for a PROXY protocol header."""
    connect_s: Seconds | None = None
    """For a connection to the target. A service's `connect_timeout_s` goes before it."""
    idle_s: Seconds | None = None
    """A tunnel in which no byte moves either way is closed after this; so is a plain request, whose service's
    `idle_timeout_s` goes before it."""
    half_close_s: Seconds | None = None
    """The same, once one side has ended its half."""


class Listener(Settings):
    """One address and port that clients connect to."""

    protocol: Literal["http-proxy", "http", "sni", "auto", "tcp"]
    """`http-proxy`: CONNECT, and requests with a whole URL, as HTTPS_PROXY, HTTP_PROXY and `curl -x` speak it. `http`:
    requests by their Host field, from clients that know no proxy. `sni`: TLS, forwarded undecrypted to the server that its
    ClientHello names. `auto`: all of these, TLS and HTTP told apart by the first byte. `tcp`: anything, not looked at,
    forwarded to `target`, or with `transparent` to where the client was on its way to."""
    name: Name | None = None
    """Word for logs and metrics. Default: the protocol and the port, as `http-proxy:3128`."""
    address: Address = "0.0.0.0"  # noqa: S104 - a proxy with written rules serves its network; the default without any configuration is loopback
    """Address to listen on. `::` takes IPv4 as well; where the kernel has no IPv6, IPv4 alone."""
    port: Port
    """TCP port."""
    tls: ListenerTls | None = None
    """http-proxy and http: set, clients speak TLS to the proxy."""
    service_port: Port | None = None
    """sni, http and auto: the port of the server that is dialled, and that rules see. Default: 443, on http 80; on auto it is
    that of TLS. A Host field with a port goes there."""
    target: HostPort | None = None
    """tcp: where clients are taken to. sni: where those are taken whose TLS names no server, and who speak no TLS; absent:
    they are refused."""
    manager: Flag = False
    """http-proxy: serve Squid's manager pages, `/squid-internal-mgr/`, to whom the rules let reach them at the
    listener's port of `localhost`, whatever the Host field says."""
    transparent: Literal["redirect", "tproxy"] | None = None
    """sni, http, auto and tcp: clients are captured by the kernel (nftables REDIRECT or TPROXY, see `egressproxy redirect`).
    The port they were on their way to then takes the place of `service_port`."""
    proxy_protocol: ListenerProxyProtocol | None = None
    """Set, every client must be announced by a PROXY protocol header; its address there is the one that rules and logs see."""
    timeouts: ListenerTimeouts | None = None
    """Time limits for the clients of this listener, in place of the general ones."""

    @property
    def label(self) -> str:
        """The word for this listener in logs and metrics."""
        return self.name or f"{self.protocol}:{self.port}"

    @model_validator(mode="after")
    def _check(self) -> Listener:
        found: list[Finding] = []
        if self.protocol == "http-proxy":
            found += [
                (
                    (key,),
                    "belongs on a listener that is no http-proxy: its clients say where they want to go",
                )
                for key in ("service_port", "transparent")
                if getattr(self, key) is not None
            ]
        if self.protocol == "tcp":
            if (self.target is None) == (self.transparent is None):
                found.append((("target",), "a tcp listener needs either target, or transparent"))
            if self.service_port is not None:
                found.append((("service_port",), "has no meaning on a tcp listener: target says where clients go"))
        elif self.target is not None and self.protocol != "sni":
            found.append((("target",), "belongs on a listener with protocol tcp or sni"))
        if self.manager and self.protocol != "http-proxy":
            found.append((("manager",), "belongs on a listener with protocol http-proxy"))
        if self.protocol != "http-proxy" and self.tls is not None and self.protocol != "http":
            found.append(
                (
                    ("tls",),
                    f"belongs on an http-proxy or http listener: {self.protocol} forwards TLS and does not end it",
                )
            )
        return together(self, found)
