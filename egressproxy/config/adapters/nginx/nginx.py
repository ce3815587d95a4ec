"""An nginx.conf to native settings.

NGINX has most settings per server, this proxy has limits, name servers and access logs for all listeners together: where two
servers differ in one of them, both are named and the file is refused.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from egressproxy.config.adapters.adapter import Adapted, At, settle
from egressproxy.config.adapters.nginx.destinations import Services
from egressproxy.config.adapters.nginx.directives import sort_out
from egressproxy.config.adapters.nginx.logs import LogFormats
from egressproxy.config.adapters.nginx.servers import (
    Native,
    Server,
    add_server,
    name_listeners,
    refuse_shared_ports,
)
from egressproxy.config.adapters.nginx.syntax import Directive, Findings, missing_end, read
from egressproxy.config.adapters.nginx.times import Setting, Value, share_times
from egressproxy.config.adapters.nginx.values import seconds, size_bytes, switch
from egressproxy.config.faults import Fault, shown
from egressproxy.config.native import mark

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from egressproxy.config.adapters.adapter import Files, Source
    from egressproxy.config.adapters.nginx.directives import Block

DNS_TRIES = 3
"""How often name servers are asked within `resolver_timeout`."""

_NAME_SERVER = re.compile(r"[0-9.]+(?::[0-9]{1,5})?|\[?[0-9A-Fa-f]*:[0-9A-Fa-f:.]*(?:\](?::[0-9]{1,5})?)?")
"""What may be an address, rather than a name or a word that belongs elsewhere; the schema looks at it more closely."""

_CONSTANT_KEYS = ("$server_addr", "$server_port")
"""Variables that are the same for all clients of a listener."""


def translate(source: Source, files: Files, *, lenient: bool) -> Adapted:
    """The native form of one nginx.conf and of what it includes.

    lenient  what this proxy lacks is noted and left out, unless it is about security
    """
    findings = Findings(lenient)
    statements = read(source, files, findings)
    tree = None if statements is None else _whole(statements, source, findings)
    if tree is None:
        return Adapted(None, None, findings.faults, findings.notes)
    data, places = settle(tree)
    return Adapted(data, places, findings.faults, findings.notes)


def _whole(statements: Sequence[Directive], source: Source, findings: Findings) -> At | None:
    """Native settings; None where there are no listeners, which is a fault."""
    main = sort_out(statements, "main", findings)
    events = main.one("events")
    if events is not None:
        sort_out(events.block or (), "events", findings)
    stream = main.one("stream")
    if stream is None:
        findings.faults.append(Fault(mark(source.number, 1), (), "expected a stream block with servers in it"))
        return None
    outer = sort_out(stream.block or (), "stream", findings)
    servers = [
        Server(statement, sort_out(statement.block or (), "server", findings), outer, findings)
        for statement in outer.all("server")
    ]
    if not servers:
        findings.fault(stream, "expected a server in it, like server { listen 8443; ... }")
    refuse_shared_ports(servers, findings)
    name_listeners(servers)
    timeouts = share_times([server for server in servers if server.listens], findings)
    native = Native()
    services = Services(outer.all("upstream"), findings)
    maps = _maps(outer, findings)
    for server in servers:
        add_server(server, native, maps, services, findings)
    if not native.listeners:
        return None
    settings: dict[str, Any] = {
        "listeners": native.listeners,
        "rules": native.rules,
        "routes": native.routes,
        "services": services.native,
    }
    settings = {key: entries for key, entries in settings.items() if entries}
    return At(stream.mark, settings | _Common(servers, findings).settings(main, outer, timeouts))


def _maps(outer: Block, findings: Findings) -> dict[str, Directive]:
    """The `map` blocks by their variable, without its sign."""
    found: dict[str, Directive] = {}
    for statement in outer.all("map"):
        name = statement.words[1]
        if not name.startswith("$"):
            findings.fault(statement, f"expected a variable like $backend, got {shown(name)}")
        elif name[1:] in found:
            where = findings.place(found[name[1:]], statement)
            findings.fault(statement, f"{shown(name)} is made twice; the first is {where}")
        else:
            found[name[1:]] = statement
    return found


# --- what all servers have in common ------------------------------------------------------------------------------


_HELLO_BYTES = Setting("preread_buffer_size", "max_hello_bytes", "16k", size_bytes, True)


class _Common:
    """The settings that servers share."""

    def __init__(self, servers: Sequence[Server], findings: Findings) -> None:
        self._servers = [server for server in servers if server.listens]
        self._findings = findings

    def settings(self, main: Block, outer: Block, timeouts: dict[str, At]) -> dict[str, Any]:
        """Name servers, timeouts, limits and logs."""
        drain = main.one("worker_shutdown_timeout")
        if drain is not None:
            try:
                timeouts["drain_s"] = At(drain.mark, seconds(drain.words[0]))
            except ValueError as error:
                self._findings.fault(drain, str(error))
        found = {"dns": self._dns(), "timeouts": timeouts, "limits": self._hellos() | self._tunnels(outer)}
        return {key: value for key, value in found.items() if value} | {"access_log": self._logs(outer)}

    def _agree(self, name: str, say: Callable[[Server], Value | None]) -> Value | None:
        """What those servers say that say anything. Where they differ, the first counts and a fault is told."""
        first: Value | None = None
        for server in self._servers:
            try:
                value = say(server)
            except ValueError as error:
                written = server.one(name)
                assert written is not None  # defaults are right
                self._findings.fault(written, str(error))
                continue
            if value is None or first is None:
                first = first or value
            elif value.native != first.native:
                where = self._findings.place(first.written, value.written)
                self._findings.fault(
                    value.written,
                    f"{name} is {shown(value.words)} here and {shown(first.words)} {where}; "
                    "this proxy has one for all servers",
                )
        return first

    # --- names

    def _dns(self) -> Any:
        resolver = self._agree("resolver", _resolver)
        waits = self._agree("resolver_timeout", _resolver_timeout)
        if resolver is None:
            return None
        dns: dict[str, Any] = dict(resolver.native)
        if waits is not None:
            once = round(waits.native / (DNS_TRIES * len(dns["servers"])), 3)
            dns |= {"timeout_s": At(waits.written.mark, once), "tries": DNS_TRIES}
        return At(resolver.written.mark, dns)

    # --- limits

    def _hellos(self) -> dict[str, Any]:
        """How long a ClientHello may be."""
        value = self._agree(_HELLO_BYTES.name, _HELLO_BYTES.said_by)
        return {} if value is None else {_HELLO_BYTES.key: At(value.written.mark, value.native)}

    def _tunnels(self, outer: Block) -> dict[str, Any]:
        """`limit_conn`, where it is a limit for all clients together."""
        zones: dict[str, str] = {}
        for zone in outer.all("limit_conn_zone"):
            key, where = zone.words
            if not where.startswith("zone="):
                self._findings.fault(zone, f"expected zone=NAME:SIZE, got {shown(where)}")
            zones[where.removeprefix("zone=").partition(":")[0]] = key
        found: dict[str, Any] = {}
        for server in self._servers:
            for limit in server.all("limit_conn"):
                name, number = limit.words
                counted = zones.get(name)
                if counted is None:
                    self._findings.fault(limit, f"the zone {shown(name)} is not defined by a limit_conn_zone")
                elif server.is_on("limit_conn_dry_run"):
                    self._findings.note(limit, "limit_conn_dry_run is on: nothing is limited by it")
                elif counted not in _CONSTANT_KEYS:
                    self._findings.fault(
                        limit,
                        f"there is no limit for each {shown(counted)} here, only one for all clients together: "
                        f"write {_CONSTANT_KEYS[0]} in limit_conn_zone, or take it out",
                    )
                elif sum(len(each.listens) for each in self._servers) > 1:
                    self._findings.fault(limit, "a limit is for all listeners together here, and this file has several")
                elif not number.isdigit() or not 0 < int(number) < 65536:
                    self._findings.fault(limit, f"expected a number from 1 to 65535, got {shown(number)}")
                elif "max_tunnels" not in found or found["max_tunnels"].value > int(number):
                    found["max_tunnels"] = At(limit.mark, int(number))
        return found

    # --- logs

    def _logs(self, outer: Block) -> Any:
        formats = LogFormats(outer.all("log_format"), self._findings)
        native: dict[tuple[Directive, ...], list[At]] = {}

        def say(server: Server) -> Value:
            logs = tuple(server.all("access_log"))
            if logs not in native:
                native[logs] = formats.native(logs)
            words = " and ".join(log.words[0] for log in logs) or "off"
            return Value(logs[0] if logs else server.statement, words, settle(At(0, native[logs]))[0])

        if self._agree("access_log", say) is None:
            return []
        return native[tuple(self._servers[0].all("access_log"))]


def _resolver(server: Server) -> Value | None:
    """The native `dns` for `resolver`. Raises ValueError."""
    written = server.one("resolver")
    if written is None:
        return None
    dns: dict[str, Any] = {"servers": []}
    for at, word in enumerate(written.words):
        key, equals, value = word.partition("=")
        if not equals:
            if not _NAME_SERVER.fullmatch(word):
                end = missing_end(written.words[:at]) if at in written.breaks else ""
                raise ValueError(f"expected the address of a name server, got {shown(word)}{end}")
            dns["servers"].append(word)
        elif key == "valid":
            dns |= {"min_ttl_s": seconds(value), "max_ttl_s": seconds(value)}
        elif key == "ipv6":
            dns["ipv6"] = switch(value)
        elif key == "ipv4":
            if not switch(value):
                raise ValueError("ipv4=off is not known here: names are always looked up for IPv4; take it out")
        elif key != "status_zone":
            raise ValueError(f"expected an address, valid=, ipv4= or ipv6=, got {shown(word)}")
    if not dns["servers"]:
        raise ValueError("expected the address of a name server")
    return Value(written, " ".join(written.words), dns)


def _resolver_timeout(server: Server) -> Value | None:
    written = server.one("resolver_timeout")
    return None if written is None else Value(written, written.words[0], seconds(written.words[0]))
