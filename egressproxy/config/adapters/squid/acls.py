"""Squid's `acl` lines: names for what may be asked of a request.

Lines with one name, in letters of either case, are one ACL, and each of their values an alternative. A name may be used from
its first line on, and means all of its lines, later ones too; so terms are made when all has been read. Types that this proxy
cannot ask about are kept by name: to use one in a rule is a fault, to have it is none.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from egressproxy.config.adapters.adapter import At
from egressproxy.config.adapters.squid.conditions import ALWAYS, NEVER, Is, Not, Term, all_of, one_of, opposite
from egressproxy.config.adapters.squid.expressions import native_expression
from egressproxy.config.adapters.squid.lexer import cut, patterns_of, words_of
from egressproxy.config.adapters.squid.networks import networks
from egressproxy.config.faults import shown, shown_expression
from egressproxy.hostport import parse_host_pattern, parse_port_range

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from egressproxy.config.adapters.squid.lexer import Lexer, Statement, Value
    from egressproxy.config.faults import Fault

MANAGER = "^http://[^/]+/squid-internal-mgr/"
"""URLs of Squid's manager pages, as the predefined ACL of that name finds them; those of the scheme `cache_object`, which Squid
7 has given up, are no HTTP and refused by all listeners."""

IS_ADDRESS = r"^[0-9.]+$|:"
"""Hosts that are addresses: no name ends in a number or has a colon."""

MAX_IN_GROUPS = 100_000
"""ACLs that are asked for in groups (`any-of`, `all-of`), over all lines of one configuration. Squid asks them when a request
comes; here each is written out where it is used, and twenty groups that each name the one before twice are a million."""

_MAX_COMPARED = 1000
"""Words among which the one that was meant is looked for."""
_MAX_ADVISED = 50
"""Faults behind which nobody looks for more."""

_DAYS = dict(
    zip("SMTWHFA", ("sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday"), strict=True)
)
_WEEKDAYS = "MTWHF"
_CLOCKS = re.compile(r"([0-9]{1,2}):([0-9]{1,2})-([0-9]{1,2}):([0-9]{1,2})")
_METHOD = re.compile(r"[A-Z][A-Z-]{0,31}")


class Unusable(Exception):
    """An ACL cannot be asked about. The message says which, and why."""


@dataclass
class Acl:
    """One name and its type.

    alternatives  of values
    looks_back    Squid asks for the name of a target that is an address (PTR), and compares that
    port_names    values of a `myportname`
    groups        lines of an `any-of` or `all-of`: names, and whether they are asked for or their opposite
    """

    name: str
    type: str
    alternatives: list[Term] = field(default_factory=list)
    looks_back: bool = False
    port_names: list[Value] = field(default_factory=list)
    groups: list[list[tuple[str, bool]]] = field(default_factory=list)


class Acls:
    """All ACLs of one configuration.

    notes, faults  where to say things
    port_names     what `myportname` may say, with the native name of that listener; filled by others before terms are made
    captures       a port takes captured clients, for whom `localport` is the port that they dialled; set by others as well
    """

    def __init__(self, lexer: Lexer, faults: list[Fault], notes: list[Fault]) -> None:
        self._lexer = lexer
        self._faults = faults
        self._notes = notes
        self.port_names: dict[str, str] = {}
        self.captures = False
        self._acls = {acl.name.lower(): acl for acl in _predefined()}
        self._open: list[str] = []
        self._in_groups = 0
        self._made: dict[tuple[str, bool], Term] = {}

    def define(self, statement: Statement) -> None:
        """Take one `acl` line."""
        name, kind, rest = cut(statement.rest, 3)
        if not name or not kind or "#" in (name[0], kind[0]):
            self._faults.append(statement.fault("expected a name and a type, as in acl SSL_ports port 443"))
            return
        if name.lower() == "manager" and kind == "proto":
            self._notes.append(statement.fault("manager is predefined, and this line has no effect in Squid either"))
            return
        kind = _RENAMED.get(kind, kind)
        acl = self._acls.get(name.lower())
        if acl is None:
            acl = self._acls[name.lower()] = Acl(name, kind)
        elif acl.type != kind:
            self._faults.append(statement.fault(f"{shown(name)} has the type {acl.type} already"))
            return
        if kind in ("any-of", "all-of"):
            self._group(statement, acl, rest)
        elif kind == "time":
            acl.alternatives += self._times(statement, self._lexer.values(statement, words_of(rest)))
        elif kind == "myportname":
            acl.port_names += self._lexer.values(statement, words_of(rest))
        elif kind in _TYPES:
            self._values(statement, acl, rest)
        elif kind not in _UNUSABLE:
            advice = self._advice(kind, [*_TYPES, *_OTHER_TYPES, *_UNUSABLE, *_RENAMED])
            self._faults.append(statement.fault(f"{shown(kind)} is no type of ACL in Squid{advice}"))

    def references(self, statement: Statement, words: Sequence[str]) -> list[tuple[str, bool]] | None:
        """Names with whether they are asked for (`!` asks for the opposite). None where one is not known yet."""
        found = [(word.removeprefix("!"), not word.startswith("!")) for word in words]
        unknown = [name for name, _ in found if name.lower() not in self._acls]
        for name in unknown:
            advice = self._advice(name, [acl.name for acl in self._acls.values()])
            self._faults.append(statement.fault(f"no ACL before this line is called {shown(name)}{advice}"))
        return None if unknown else found

    def _advice(self, word: str, known: Sequence[str]) -> str:
        """The end of a message about a word that is not known: which one it is like. Looking for that takes its time."""
        if len(known) > _MAX_COMPARED or len(self._faults) > _MAX_ADVISED:
            return ""
        names = {each.lower(): each for each in known}
        close = get_close_matches(word[:60].lower(), names, n=1, cutoff=0.75)
        return f"; did you mean {shown(names[close[0]])}?" if close else ""

    def term(self, references: Iterable[tuple[str, bool]], *, refuses: bool | None = None) -> Term:
        """What holds if all of these do. Raises Unusable.

        refuses  whether the line that asks refuses what they hold for, or lets it pass; None: neither. Nobody is asked for the
                 names of addresses here, so for a line that refuses each address has the name that is asked for, and for one
                 that lets pass none has: `!` turns that round.
        """
        terms = []
        for name, wanted in references:
            term = self._term(name, refuses if wanted or refuses is None else not refuses)
            terms.append(term if wanted else opposite(term))
        return all_of(terms)

    def _term(self, name: str, refuses: bool | None) -> Term:
        acl = self._acls[name.lower()]
        if acl.type in _UNUSABLE:
            raise Unusable(f"the ACL {name} (type {acl.type}): {_UNUSABLE[acl.type]}")
        if acl.type == "localport" and self.captures:
            raise Unusable(f"the ACL {name} (type localport): {_CAPTURED}")
        if acl.type == "myportname":
            return one_of(self._port_name(value) for value in acl.port_names)
        if acl.type not in ("any-of", "all-of"):
            return self._plain_term(acl, with_addresses=bool(refuses and acl.looks_back))
        if acl.name in self._open:
            raise Unusable(f"the ACL {name} stands for itself")
        self._in_groups += sum(map(len, acl.groups))
        if self._in_groups > MAX_IN_GROUPS:
            raise Unusable(
                f"the ACL {name}: expected at most {MAX_IN_GROUPS} ACLs in groups of all lines together; name fewer groups in "
                "each other"
            )
        self._open.append(acl.name)
        try:
            if acl.type == "all-of":
                return one_of(self.term(names, refuses=refuses) for names in acl.groups)
            return one_of(self.term([one], refuses=refuses) for names in acl.groups for one in names)
        finally:
            self._open.pop()

    def _plain_term(self, acl: Acl, *, with_addresses: bool) -> Term:
        """Made once: a list of a hundred thousand names may be asked for on many lines."""
        found = self._made.get((acl.name, with_addresses))
        if found is None:
            addresses = [Is("hosts_matching", (IS_ADDRESS,))] if with_addresses else []
            found = self._made[acl.name, with_addresses] = one_of([*acl.alternatives, *addresses])
        return found

    def _port_name(self, value: Value) -> Term:
        if value.text not in self.port_names:
            raise Unusable(f"no http_port is called {shown(value.text)}; give it name={value.text}")
        return Is("listeners", (At(value.mark, self.port_names[value.text]),))

    def _group(self, statement: Statement, acl: Acl, rest: str) -> None:
        names = self.references(statement, words_of(rest))
        if names:
            acl.groups.append(names)
        elif names is not None:
            self._faults.append(statement.fault("expected names of ACLs"))

    def _values(self, statement: Statement, acl: Acl, rest: str) -> None:
        type_ = _TYPES[acl.type]
        words = (patterns_of if type_.is_pattern else words_of)(rest)
        words, options = self._options(statement, type_, words)
        any_case = options[-1:] == ["-i"]
        read = type_.read_plainly if type_.read_plainly is not None and "-n" in options else type_.read
        looks_back = type_.looks_back and "-n" not in options
        if not words:
            self._notes.append(statement.fault(f"{acl.name} has no value on this line"))
        values = self._lexer.values(statement, words)
        for value in values:
            if type_.is_pattern and value.text in ("-i", "+i"):
                any_case = value.text == "-i"
                continue
            try:
                acl.alternatives.append(read(value, any_case))
                acl.looks_back |= looks_back and (type_.is_pattern or not re.search(IS_ADDRESS, value.text))
            except ValueError as error:
                self._faults.append(statement._replace(mark=value.mark).fault(str(error)))

    def _options(self, statement: Statement, type_: _Type, words: list[str]) -> tuple[list[str], list[str]]:
        """The values behind the options, and those; of `-i` and `+i` the last one alone, behind all others."""
        found: list[str] = []
        while words and words[0][0] in "-+" and len(words[0]) > 1:
            option, words = words[0], words[1:]
            if option == "--":
                break
            if option in ("-i", "+i") and type_.is_pattern:
                found = [each for each in found if each not in ("-i", "+i")] + [option]
            elif option in type_.options:
                found.insert(0, option)
            else:
                self._faults.append(statement.fault(f"the option {shown(option)} is not known for this type here"))
        return words, found

    def _times(self, statement: Statement, values: Iterable[Value]) -> list[Term]:
        """Days, days with hours, hours; days count for the hours behind them."""
        found: list[Term] = []
        days = ""
        last = statement.mark
        for value in values:
            last = value.mark
            try:
                if value.text[0].isdigit():
                    found.append(_span(value.mark, days, *_clocks(value.text)))
                    days = ""
                else:
                    days += _days(value.text)
            except ValueError as error:
                self._faults.append(statement._replace(mark=value.mark).fault(str(error)))
        return [*found, _span(last, days)] if days else found


# --- values -------------------------------------------------------------------------------------------------------


def _client(value: Value, _any_case: bool) -> Term:
    return _networks("clients", value)


def _addresses(value: Value, _any_case: bool) -> Term:
    return _networks("addresses", value)


def _written_addresses(value: Value, any_case: bool) -> Term:
    """Of targets that are addresses: names are not looked up for it."""
    return all_of([Is("hosts_matching", (At(value.mark, IS_ADDRESS),)), _addresses(value, any_case)])


def _networks(key: str, value: Value) -> Term:
    found = networks(value.text)
    return ALWAYS if found is None else Is(key, tuple(At(value.mark, network) for network in found))


def _domain(value: Value, _any_case: bool) -> Term:
    text = value.text.lower()
    if text == "none":
        raise ValueError("none stands for addresses that have no name: they are not looked up backwards here")
    if "*" in text:
        raise ValueError(f"expected a name, or .example.com for it and all below, got {shown(text)}")
    below = text.startswith(".")
    pattern = str(parse_host_pattern(text.removeprefix(".")))
    return Is("hosts", tuple(At(value.mark, each) for each in ((pattern, f"*.{pattern}") if below else (pattern,))))


def _host_expression(value: Value, any_case: bool) -> Term:
    if re.search(r"\\[\[\]]|\[\^?\[(?![:.=])", value.text):
        raise ValueError(
            f"{shown_expression(value.text)} asks for a bracket, and IPv6 addresses have none here; write the address alone"
        )
    return _expression("hosts_matching", value, any_case)


def _url_expression(value: Value, any_case: bool) -> Term:
    return _expression("urls_matching", value, any_case)


def _path_expression(value: Value, any_case: bool) -> Term:
    return _expression("paths_matching", value, any_case)


def _expression(key: str, value: Value, any_case: bool) -> Term:
    return Is(key, (At(value.mark, native_expression(value.text, any_case=any_case)),))


def _port(value: Value, _any_case: bool) -> Term:
    return _ports("ports", value)


def _listener_port(value: Value, _any_case: bool) -> Term:
    return _ports("listener_ports", value)


def _ports(key: str, value: Value) -> Term:
    if value.text in ("0", "0-0"):
        return NEVER
    text = f"1{value.text[1:]}" if value.text.startswith("0-") else value.text  # no port is 0
    ports = parse_port_range(text)
    return Is(key, (At(value.mark, ports.low if ports.low == ports.high else str(ports)),))


def _method(value: Value, _any_case: bool) -> Term:
    method = value.text.upper()  # Squid takes letters of either case for the methods that it knows
    if _METHOD.fullmatch(method) is None or (method != value.text and method not in _METHODS):
        raise ValueError(f"expected a method like CONNECT, got {shown(value.text)}")
    return Is("methods", (At(value.mark, method),))


def _protocol(value: Value, _any_case: bool) -> Term:
    protocol = value.text.upper()
    if protocol not in _PROTOCOLS:
        raise ValueError(f"expected a protocol like HTTP, got {shown(value.text)}")
    tunnels = Is("methods", (At(value.mark, "CONNECT"),))  # whose protocol is NONE to Squid
    known: dict[str, Term] = {"HTTP": Not(tunnels), "NONE": tunnels}
    return known.get(protocol, NEVER)


def _days(text: str) -> str:
    found = text.replace("-", "").replace("D", _WEEKDAYS)
    if any(day not in _DAYS for day in found):
        raise ValueError(f"expected days as letters of SMTWHFA and D, got {shown(text)}")
    return found


def _clocks(text: str) -> tuple[str, str]:
    match = _CLOCKS.fullmatch(text)
    if match is not None:
        from_h, from_m, to_h, to_m = map(int, match.groups())
        if from_h < 24 and from_m < 60 and to_m < 60 and (to_h < 24 or (to_h, to_m) == (24, 0)):
            if (from_h, from_m) > (to_h, to_m):
                raise ValueError(f"expected the earlier time first, got {shown(text)}; write two lines")
            return f"{from_h:02}:{from_m:02}", f"{to_h:02}:{to_m:02}"
    raise ValueError(f"expected hours like 08:00-17:30, got {shown(text)}")


def _span(mark: int, days: str, start: str = "00:00", end: str = "24:00") -> Term:
    span: dict[str, Any] = {}
    if days:
        span["days"] = [_DAYS[day] for day in dict.fromkeys(days)]
    if (start, end) != ("00:00", "24:00"):
        span |= {"start": start, "end": end}
    return Is("times", (At(mark, span),)) if span else ALWAYS


# --- types --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Type:
    """How the values of a type are read.

    read          one value, the letters of an expression in any case or not; raises ValueError
    is_pattern    they are expressions
    options       that it takes besides
    read_plainly  the same with `-n`, where that changes anything
    looks_back    without `-n` Squid compares them with the name that an address has (PTR), too
    """

    read: Callable[[Value, bool], Term]
    is_pattern: bool = False
    options: tuple[str, ...] = ()
    read_plainly: Callable[[Value, bool], Term] | None = None
    looks_back: bool = False


_SNI_OPTIONS = ("--client-requested", "--consensus")

_TYPES = {
    "src": _Type(_client),
    "dst": _Type(_addresses, options=("-n",), read_plainly=_written_addresses),
    "dstdomain": _Type(_domain, options=("-n",), looks_back=True),
    "dstdom_regex": _Type(_host_expression, is_pattern=True, options=("-n",), looks_back=True),
    "ssl::server_name": _Type(_domain, options=_SNI_OPTIONS),
    "ssl::server_name_regex": _Type(_host_expression, is_pattern=True, options=_SNI_OPTIONS),
    "port": _Type(_port),
    "localport": _Type(_listener_port),
    "method": _Type(_method),
    "proto": _Type(_protocol),
    "url_regex": _Type(_url_expression, is_pattern=True),
    "urlpath_regex": _Type(_path_expression, is_pattern=True),
}

_OTHER_TYPES = ("any-of", "all-of", "time", "myportname")

_RENAMED = {"myip": "localip", "myport": "localport", "clientside_mark": "client_connection_mark"}

_WHY_UNUSABLE = {
    "users are not known to this proxy; ask for clients by their address (src)": (
        "proxy_auth proxy_auth_regex ident ident_regex ext_user ext_user_regex user_cert ca_cert max_user_ip urllogin"
    ),
    "fields of requests are not looked at for rules": "browser referer_regex req_header req_mime_type",
    "answers are not judged by rules": "rep_header rep_mime_type http_status hier_code",
    "addresses are not looked up backwards; name the addresses (src, dst)": "srcdomain srcdom_regex src_as dst_as",
    "it is about Squid's own work and says nothing of a request here": (
        "external tag note annotate_transaction annotate_client adaptation_service random has transaction_initiator at_step "
        "squid_error peername peername_regex snmp_community"
    ),
    "it is not known here": "connections_encrypted client_connection_mark arp eui64",
    "TLS is not decrypted here": "ssl_error server_cert_fingerprint",
    "name the http_port and ask for that name (myportname)": "localip",
    "connections are not counted by client": "maxconn",
}
_UNUSABLE = {name: reason for reason, names in _WHY_UNUSABLE.items() for name in names.split()}
"""Types that rules here cannot ask about, and why or what to write instead."""

_CAPTURED = (
    "of captured clients Squid takes the port that they dialled for it; name the http_port and ask for myportname"
)

_KNOWN_METHODS = (
    "GET POST PUT HEAD CONNECT TRACE OPTIONS DELETE PATCH PROPFIND PROPPATCH MKCOL COPY MOVE LOCK UNLOCK SEARCH PURGE"
)
_METHODS = frozenset(_KNOWN_METHODS.split())
_KNOWN_PROTOCOLS = (
    "NONE HTTP FTP HTTPS COAP COAPS GOPHER WAIS CACHE_OBJECT ICP HTCP URN WHOIS ICY TLS SSL UNKNOWN AUTHORITY_FORM"
)
_PROTOCOLS = frozenset(_KNOWN_PROTOCOLS.split())


def _predefined() -> list[Acl]:
    """As in Squid 5 and 6; `to_linklocal` came with 5.3."""

    def of(key: str, *values: str) -> list[Term]:
        return [Is(key, values)]  # their place is that of the rule

    return [
        Acl("all", "src", alternatives=[ALWAYS]),
        Acl("manager", "url_regex", alternatives=of("urls_matching", MANAGER)),
        Acl("localhost", "src", alternatives=of("clients", "127.0.0.1", "::1")),
        Acl("to_localhost", "dst", alternatives=of("addresses", "127.0.0.0/8", "0.0.0.0/32", "::1", "::")),
        Acl("to_linklocal", "dst", alternatives=of("addresses", "169.254.0.0/16", "fe80::/10")),
        Acl("CONNECT", "method", alternatives=of("methods", "CONNECT")),
    ]
