"""One `server` of the stream: its listeners, the clients it takes, and which names lead where.

NGINX judges clients (`allow`, `deny`) before it reads a byte. Here rules judge them, like everything else: who is refused is
refused, but the log line has the name that was asked for.

Names are followed in the order in which NGINX asks for them, and the last entry takes what is left. Where clients go to the
server they name, rules let them pass; where names lead to a service, routes do. What leads nowhere is closed, by whichever the
server has.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from egressproxy.config.adapters.adapter import At
from egressproxy.config.adapters.nginx.destinations import Into, Nowhere, Through
from egressproxy.config.adapters.nginx.listens import overlap, read_listens
from egressproxy.config.adapters.nginx.maps import (
    SERVER_NAME,
    Entry,
    filled_in,
    in_small_letters,
    read_map,
    variables_of,
)
from egressproxy.config.adapters.nginx.values import network, switch
from egressproxy.config.faults import shown

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from egressproxy.config.adapters.nginx.destinations import Destination, Services
    from egressproxy.config.adapters.nginx.directives import Block
    from egressproxy.config.adapters.nginx.listens import Listen
    from egressproxy.config.adapters.nginx.syntax import Directive, Findings

    Leads = list[tuple[Entry, Destination]]

NO_NAME = "no-server-name.invalid"
"""What those who name no server are taken to ask for, where a map says where they go. Nobody has this name (RFC 6761 section
6.4)."""

_OWN_PORT = "server_port"
"""The variable that is the port of the listener."""

_NO_TARGET = f"{NO_NAME}:443"
_IPV4, _EVERYBODY = ["0.0.0.0/0"], ["0.0.0.0/0", "::/0"]


class Server:
    """One server: its own directives, and those of the stream, which hold where it has none.

    listens   its sockets
    names     of its listeners, in the same order, as rules and routes know them
    timeouts  of its listeners, where they are not the general ones
    """

    def __init__(self, statement: Directive, own: Block, outer: Block, findings: Findings) -> None:
        self.statement = statement
        self.listens = read_listens(own.all("listen"), findings)
        self.names: list[str] = []
        self.timeouts: dict[str, At] = {}
        self._own = own
        self._outer = outer
        self._findings = findings
        for name, what in (("listen", "where clients come in, like listen 8443;"), ("proxy_pass", "where they go")):
            if own.one(name) is None:
                findings.fault(statement, f"expected {name}, which says {what}")
        self.reads_name = self.is_on("ssl_preread")

    @property
    def protocol(self) -> str:
        """Of its listeners."""
        return "sni" if self.reads_name else "tcp"

    def all(self, *names: str) -> list[Directive]:
        """All directives with one of the names that hold for it, in file order."""
        return self._own.all(*names) or self._outer.all(*names)

    def one(self, name: str) -> Directive | None:
        """The directive of a name that holds for it."""
        return self._own.one(name) or self._outer.one(name)

    def is_on(self, name: str) -> bool:
        """Whether a switch is on. What is no switch is told, and counts as off."""
        directive = self.one(name)
        if directive is None:
            return False
        try:
            return switch(directive.words[0])
        except ValueError as error:
            self._findings.fault(directive, str(error))
            return False


class Native:
    """The native lists that servers add to."""

    def __init__(self) -> None:
        self.listeners: list[At] = []
        self.rules: list[At] = []
        self.routes: list[At] = []


def add_server(
    server: Server, native: Native, maps: Mapping[str, Directive], services: Services, findings: Findings
) -> None:
    """Turn one server into listeners, rules and routes. What is wrong with it is told."""
    passes = server.one("proxy_pass")
    if passes is None or not server.listens:
        return
    try:
        leads, unnamed = _Following(server, maps, services, findings).follow(passes)
        port = _one_port(leads)
        announcers = _announcers(server, findings)
    except ValueError as error:
        findings.fault(passes, str(error))
        return
    target: str | None = None
    if isinstance(unnamed, Into):
        target = unnamed.first.text
        if len(leads) > 1:
            target = _NO_TARGET
            leads.insert(0, (Entry({"hosts": [NO_NAME]}, "", passes), unnamed))
    elif not server.reads_name:
        target = _NO_TARGET  # a tcp listener has one, even if all are closed
    _add_listeners(server, native, passes, target, port, announcers)
    _judge_clients(server, native, findings)
    _lead(server, native, leads)


# --- where names lead ---------------------------------------------------------------------------------------------


class _Following:
    """Follows `proxy_pass` of one server."""

    def __init__(self, server: Server, maps: Mapping[str, Directive], services: Services, findings: Findings) -> None:
        self._server = server
        self._maps = maps
        self._services = services
        self._findings = findings

    def follow(self, passes: Directive) -> tuple[Leads, Destination]:
        """Where names lead, in the order in which they are asked, and where those go who name no server. Raises ValueError."""
        text = self._with_own_port(passes.words[0])
        variables = variables_of(text)
        if variables and not self._server.reads_name:
            raise ValueError("no server name is known without `ssl_preread on;`")
        if not variables or variables == [SERVER_NAME]:
            found = self._find(text, passes, in_variable=bool(variables_of(passes.words[0])))
            if isinstance(found, Through):
                self._findings.note(passes, _OPEN)
                return [(Entry({}, text, passes), found)], Nowhere()
            return [(Entry({}, text, passes), found)], found
        if len(variables) > 1:
            raise ValueError(f"expected one variable, got {shown(text)}")
        statement = self._maps.get(variables[0])
        if statement is None:
            raise ValueError(
                f"the variable {shown('$' + variables[0])} is not known; expected ${SERVER_NAME}, or that of a map on it"
            )
        if statement.words[0] not in (f"${SERVER_NAME}", f"${{{SERVER_NAME}}}"):
            raise ValueError(
                f"the map of {shown('$' + variables[0])} asks {shown(statement.words[0])}; only ${SERVER_NAME} is known"
            )
        names = read_map(statement, self._findings)
        leads: Leads = []
        for entry in names.entries:
            found = self._in_map(entry, variables[0], text)
            leads.append((self._in_small_letters(entry, found), found))
        unnamed = self._in_map(names.unnamed, variables[0], text)
        return leads, Nowhere() if isinstance(unnamed, Through) else unnamed

    def _in_map(self, entry: Entry, variable: str, text: str) -> Destination:
        if not entry.value:
            return Nowhere()  # a port without a host, or nothing at all
        try:
            whole = self._with_own_port(filled_in(text, variable, entry.value))
            return self._find(whole, entry.written, in_variable=True)
        except ValueError as error:
            self._findings.fault(entry.written, str(error))
            return Nowhere()

    def _with_own_port(self, text: str) -> str:
        """The text with the port that the server listens on in place of its variable. Raises ValueError."""
        if _OWN_PORT not in variables_of(text):
            return text
        first, *others = sorted({listen.port for listen in self._server.listens})
        if others:
            raise ValueError(f"${_OWN_PORT} is {first} or {others[0]} here; write a server for each port")
        return filled_in(text, _OWN_PORT, str(first))

    def _in_small_letters(self, entry: Entry, found: Destination) -> Entry:
        try:
            return in_small_letters(entry, self._findings, closes=isinstance(found, Nowhere))
        except ValueError as error:
            self._findings.fault(entry.written, str(error))
            return entry

    def _find(self, text: str, written: Directive, *, in_variable: bool) -> Destination:
        found = self._services.find(text, written, in_variable=in_variable)
        asks_dns = isinstance(found, Through) or (isinstance(found, Into) and found.dials and in_variable)
        if asks_dns and self._server.one("resolver") is None:
            raise ValueError("NGINX looks up no name here without a resolver; add `resolver ADDRESS;` to the server")
        return found


_OPEN = (
    "any client may reach any name, on private addresses too; metadata addresses, this proxy's own ports and an address in "
    "place of the name stay closed, where NGINX goes there"
)


def _one_port(leads: Leads) -> int | None:
    """The port of those who go to the server they name. Raises ValueError."""
    ports = sorted({found.port for _, found in leads if isinstance(found, Through)})
    if len(ports) > 1:
        listed = " and ".join(map(str, ports))
        raise ValueError(f"leads to the servers that clients name on the ports {listed}; one listener has one of them")
    return ports[0] if ports else None


# --- listeners ----------------------------------------------------------------------------------------------------


def _add_listeners(
    server: Server, native: Native, passes: Directive, target: str | None, port: int | None, announcers: list[At]
) -> None:
    for listen, name in zip(server.listens, server.names, strict=True):
        listener: dict[str, Any] = {"protocol": server.protocol, "address": listen.address, "port": listen.port}
        if name != default_name(server.protocol, listen.port):
            listener["name"] = name
        if port is not None:
            listener["service_port"] = port
        if target is not None:
            listener["target"] = At(passes.mark, target)
        if listen.proxy_protocol:
            listener["proxy_protocol"] = {"from": announcers or _EVERYBODY}
        if server.timeouts:
            listener["timeouts"] = dict(server.timeouts)
        native.listeners.append(At(listen.written.mark, listener))


def default_name(protocol: str, port: int) -> str:
    """What a listener without a name is called."""
    return f"{protocol}:{port}"


def name_listeners(servers: Sequence[Server]) -> None:
    """Give every listener a name of its own: with its address, where the port alone does not tell it from others."""
    defaults = [default_name(server.protocol, listen.port) for server in servers for listen in server.listens]
    for server in servers:
        server.names = [
            f"{server.protocol}:{listen.address}:{listen.port}" if defaults.count(name) > 1 else name
            for listen in server.listens
            for name in [default_name(server.protocol, listen.port)]
        ]


def refuse_shared_ports(servers: Sequence[Server], findings: Findings) -> None:
    """Tell of each `listen` whose port another one has, in the words of the file, and leave it out."""
    taken: dict[int, list[Listen]] = {}
    for server in servers:
        kept = []
        for listen in server.listens:
            others = taken.setdefault(listen.port, [])
            earlier = next((other for other in others if overlap(listen.address, other.address)), None)
            if earlier is None:
                others.append(listen)
                kept.append(listen)
                continue
            where = findings.place(earlier.written, listen.written)
            mine, its = _socket(listen), _socket(earlier)
            if mine == its:
                findings.fault(listen.written, f'duplicate "{mine}" address and port pair; the first is {where}')
            else:
                findings.fault(listen.written, f'"{mine}" overlaps with "{its}" {where}; no two may here')
        server.listens = kept


def _socket(listen: Listen) -> str:
    return f"[{listen.address}]:{listen.port}" if ":" in listen.address else f"{listen.address}:{listen.port}"


def _announcers(server: Server, findings: Findings) -> list[At]:
    """Who may announce clients. Raises ValueError."""
    networks: list[At] = []
    trusted = server.all("set_real_ip_from")
    announced = [listen for listen in server.listens if listen.proxy_protocol]
    for directive in trusted:
        try:
            networks += [At(directive.mark, _cidr(directive, findings))]
        except ValueError as error:
            findings.fault(directive, str(error))
    if trusted and not announced:
        findings.note(trusted[0], "has no meaning without proxy_protocol in listen")
    if announced and not trusted:
        if server.all("allow", "deny"):
            raise ValueError(
                "without set_real_ip_from, allow and deny are about who connects, and here about who is announced; "
                "add set_real_ip_from with the networks of the load balancer"
            )
        findings.note(announced[0].written, "anybody may announce clients, and logs have the addresses so announced")
    elif announced:
        findings.note(
            announced[0].written, "who connects from outside set_real_ip_from is refused, where NGINX lets it pass"
        )
    return networks


def _cidr(directive: Directive, findings: Findings) -> str:
    found = network(directive.words[0])
    if found.masked:
        findings.note(directive, f"the last bits of {shown(directive.words[0])} do not count: it is {found.cidr}")
    return found.cidr


# --- clients ------------------------------------------------------------------------------------------------------


def _judge_clients(server: Server, native: Native, findings: Findings) -> None:
    """Rules that refuse clients: IPv4 where the socket is for IPv6 alone, and by `allow` and `deny`, the first that fits."""
    for listen, name in zip(server.listens, server.names, strict=True):
        if listen.only_ipv6:
            rule = {"action": "deny", "listeners": [name], "clients": _IPV4}
            native.rules.append(At(listen.written.mark, rule))
    allowed: list[At] = []
    denied: list[At] = []
    for directive in server.all("allow", "deny"):
        who = directive.words[0]
        if who == "unix:":
            continue  # nobody comes that way
        if denied and (directive.name == "allow" or who == "all"):
            native.rules.append(_refusal(server, denied[0].mark, denied, allowed))
            denied = []
        if who == "all":
            if directive.name == "deny":
                native.rules.append(_refusal(server, directive.mark, [], allowed))
            return
        try:
            networks = denied if directive.name == "deny" else allowed
            networks.append(At(directive.mark, _cidr(directive, findings)))
        except ValueError as error:
            findings.fault(directive, str(error))
    if denied:
        native.rules.append(_refusal(server, denied[0].mark, denied, allowed))


def _refusal(server: Server, mark: int, denied: list[At], allowed: list[At]) -> At:
    """A rule that refuses some clients, or without `denied` all of them, but for those that were allowed before."""
    rule: dict[str, Any] = {"action": "deny", "listeners": server.names}
    if denied:
        rule["clients"] = denied
    if allowed:
        rule["none"] = [{"clients": list(allowed)}]
    return At(mark, rule)


# --- rules and routes ---------------------------------------------------------------------------------------------


def _lead(server: Server, native: Native, leads: Leads) -> None:
    """Rules and routes for where names lead."""
    announces = {"proxy_protocol": "v1"} if server.is_on("proxy_protocol") else {}
    by_rules = bool(announces) or not any(isinstance(found, Into) for _, found in leads)
    by_rules = by_rules or any(isinstance(found, Through) for _, found in leads)
    bound = {"listeners": server.names}
    passed: list[dict[str, Any]] = []
    for entry, found in leads:
        asked = {**bound, **entry.condition}
        place = entry.written.mark
        if by_rules and not isinstance(found, Nowhere):
            native.rules.append(At(place, {"action": "allow", **asked, "private_addresses": True, **announces}))
        elif by_rules:
            native.rules.append(At(place, {"action": "deny", **asked}))
        but = {"none": list(passed)} if passed else {}
        if isinstance(found, Into):
            native.routes.append(At(place, {**asked, **but, "to": [{"service": found.name}]}))
        elif isinstance(found, Through):
            passed.append(entry.condition)
        elif not by_rules:
            native.routes.append(At(place, {**asked, "refuse": "close"}))
