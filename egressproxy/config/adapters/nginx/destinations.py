"""Where `proxy_pass` leads: to the name that the client asks for, to the servers of an `upstream`, to one place, or nowhere.

Servers take turns by weight. NGINX looks their names up once, when it starts, with the system's resolver; here they are looked
up as those of clients are, and again when the answer ran out.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

from egressproxy.config.adapters.adapter import At
from egressproxy.config.adapters.nginx.directives import sort_out
from egressproxy.config.adapters.nginx.maps import SERVER_NAME
from egressproxy.config.adapters.nginx.values import Place, place
from egressproxy.config.faults import shown

if TYPE_CHECKING:
    from collections.abc import Iterable

    from egressproxy.config.adapters.nginx.syntax import Directive, Findings


class Through(NamedTuple):
    """To the server that the client names, on this port."""

    port: int


class Into(NamedTuple):
    """To a service.

    name   by which routes know it
    first  one of its places
    dials  names must be looked up, which NGINX does when a client comes
    """

    name: str
    first: Place
    dials: bool


class Nowhere(NamedTuple):
    """The session ends."""


Destination = Through | Into | Nowhere

_THROUGH = re.compile(rf"\$(?:{SERVER_NAME}|\{{{SERVER_NAME}\}}):([0-9]{{1,5}})")
_OF_HEALTH = frozenset({"max_fails", "fail_timeout", "slow_start"})
_NOT_HAD = frozenset({"max_conns", "route", "service"})
_AS_HERE = frozenset({"resolve", "max_conns=0"})
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_.:|*-]")


class Services:
    """The services of one configuration: those that something leads to become native ones."""

    def __init__(self, upstreams: Iterable[Directive], findings: Findings) -> None:
        self._findings = findings
        self._upstreams: dict[str, Directive] = {}
        self._made: dict[str, Into | Nowhere] = {}
        self.native: list[At] = []
        for upstream in upstreams:
            earlier = self._upstreams.setdefault(upstream.words[0].lower(), upstream)
            if earlier is not upstream:
                where = findings.place(earlier, upstream)
                findings.fault(upstream, f"{shown(upstream.words[0])} is written twice; the first is {where}")

    def find(self, text: str, written: Directive, *, in_variable: bool) -> Destination:
        """What an address without variables but the server's name means.

        written      the directive it stands in
        in_variable  it comes out of a variable: what makes no sense then ends the session, not the start of NGINX

        Raises ValueError for what this proxy cannot do.
        """
        through = _THROUGH.fullmatch(text)
        if through is not None:
            port = int(through[1])
            if not 0 < port < 65536:
                raise ValueError(f"expected a port from 1 to 65535, got {port}")
            return Through(port)
        if "$" in text:
            raise ValueError(f"expected ${SERVER_NAME}:PORT, HOST:PORT or the name of an upstream, got {shown(text)}")
        if text.lower() in self._upstreams:
            return self._of_upstream(self._upstreams[text.lower()])
        if not text and in_variable:
            return Nowhere()
        try:
            target = place(text)
        except ValueError:
            if in_variable and ":" not in text:
                self._findings.note(
                    written, f"{shown(text)} is no upstream and has no port: such sessions are closed, as NGINX does"
                )
                return Nowhere()
            raise
        if not in_variable and target.host in self._upstreams:
            raise ValueError(f"the upstream {shown(target.host)} has the ports of its servers; write its name alone")
        made = self._made.get(target.text)
        if made is None:
            if not in_variable:
                self._note_look_up(target, written)
            made = Into(_name(target.text), target, not target.is_address)
            self._add(made, [(At(written.mark, {}), target)], written)
            self._made[target.text] = made
        return made

    def _of_upstream(self, upstream: Directive) -> Into | Nowhere:
        """The service of an `upstream` block."""
        key = upstream.words[0].lower()
        if key in self._made:
            return self._made[key]
        findings = self._findings
        found = sort_out(upstream.block or (), "upstream", findings).all("server")
        if not found:
            findings.fault(upstream, "expected at least one server")
        servers = []
        for server in found:
            try:
                taken = self._server(server)
            except ValueError as error:
                findings.fault(server, str(error))
            else:
                servers += [taken] if taken is not None else []
        made: Into | Nowhere = Nowhere()
        if servers:
            made = Into(_name(upstream.words[0]), servers[0][1], False)
            self._add(made, servers, upstream)
        self._made[key] = made
        return made

    def _server(self, server: Directive) -> tuple[At, Place] | None:
        """One server's own native settings and its place; None for one that is not to be used. Raises ValueError."""
        target = place(server.words[0])
        settings: dict[str, Any] = {}
        for word in server.words[1:]:
            key, equals, value = word.partition("=")
            if word == "down":
                return None
            if word == "backup":
                self._findings.lacking(server, "there are no servers here that wait until the others fail")
                return None
            if key == "weight" and value.isdigit():
                settings["weight"] = int(value)
            elif key in _OF_HEALTH and equals:
                message = f"{key} has no meaning here: a connection that fails goes to the next server"
                self._findings.note(server, message)
            elif key in _NOT_HAD and equals and word not in _AS_HERE:
                self._findings.lacking(server, f"{key} is not known to this proxy")
            elif word not in _AS_HERE:
                raise ValueError(f"expected a parameter like weight=2 or down, got {shown(word)}")
        self._note_look_up(target, server)
        return At(server.mark, settings), target

    def _note_look_up(self, target: Place, written: Directive) -> None:
        if not target.is_address:
            self._findings.note(
                written,
                f"{shown(target.host)} is looked up when needed, without search domains, where NGINX does so when it starts",
            )

    def _add(self, made: Into, servers: list[tuple[At, Place]], written: Directive) -> None:
        ports = {target.port for _, target in servers}
        endpoints = []
        for settings, target in servers:
            own_port = {} if len(ports) == 1 else {"port": target.port}
            endpoints.append(At(settings.mark, {"address": target.host, **own_port, **settings.value}))
        names = any(not target.is_address for _, target in servers)
        service: dict[str, Any] = {
            "name": made.name,
            "ports": [{"number": made.first.port, "protocol": "TCP"}],
            "resolution": "dns" if names else "static",
            "endpoints": endpoints,
        }
        if names:
            service["private_addresses"] = True
        self.native.append(At(written.mark, service))


def _name(text: str) -> str:
    """A word for a service."""
    name = _NOT_IN_NAMES.sub("-", text.strip("[").replace("]:", ":"))
    return name if name[:1].isalnum() else f"to{name}"
