"""One squid.conf, and what it includes, into the native form.

Rules keep the order and the line numbers of their `http_access` lines. They are bound to the listeners of the same file, so
that other files may be merged in; the last of them is what Squid does when no line is for a request: the opposite of the last
line.
"""

from __future__ import annotations

import posixpath
import re
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from egressproxy.config.adapters.adapter import Adapted, At, settle
from egressproxy.config.adapters.squid import peers, values
from egressproxy.config.adapters.squid.acls import Acls, Unusable
from egressproxy.config.adapters.squid.conditions import ALWAYS, NEVER, Term, all_of, condition, mentions, size
from egressproxy.config.adapters.squid.directives import FATES, Fate
from egressproxy.config.adapters.squid.lexer import Lexer, Statement
from egressproxy.config.adapters.squid.logs import Logs
from egressproxy.config.adapters.squid.ports import Port, port
from egressproxy.config.faults import MAX_FAULTS, Fault, shown
from egressproxy.config.native import REFUSED, mark
from egressproxy.config.words import MAX_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from egressproxy.config.adapters.adapter import Files, Source
    from egressproxy.config.adapters.squid.peers import Line, Ways

_ADDRESS_NOTE = (
    "Squid has no address guard, so allow rules carry private_addresses: true; metadata addresses stay closed unless a rule "
    "names them"
)
_SNI_NOTE = (
    "Squid looks into no tunnel; here TLS on port 443 must ask for the host that the tunnel was granted for. A native file "
    "with sni_check: off beside this one lets everything pass"
)
_LOOKS_BACK_NOTE = (
    "Squid asks for the name of a target that is an address (PTR), which is not done here: this line refuses every such "
    "target. With -n in the acl (dstdomain, dstdom_regex) addresses have no name, in Squid as well"
)

_GUARDED = frozenset(
    {"acl", "http_access", "http_port", "https_port", "never_direct", "always_direct", "cache_peer_access"}
)
"""Directives that a slip of the pen must not make disappear."""
_SOUNDS_LIKE_SECURITY = re.compile("access|acl|auth|allow|deny|ssl|tls|cert|secur|user|filter")
_NO_FATE = Fate("noted", "")

MAX_SPLIT = 10_000
"""Rules that all lines of `http_access` together may become where they are split by the ways that requests go."""
MAX_VALUES = 5_000_000
"""Values of ACLs in all rules. Squid has each ACL once; here it is written out in each rule that asks for it."""

_Access = tuple[Statement, bool, list[tuple[str, bool]]]
"""One line of an access list: whether it says allow, and the ACLs that must all hold."""


def translate(source: Source, files: Files, *, lenient: bool, taken: Collection[str] = ()) -> Adapted:
    """The native form of one squid.conf.

    taken    names of rules of other files: where some are of this kind, those of this file are named after it
    lenient  what is unknown, or of effect and not to be expressed, is noted and left out, unless it is about security
    """
    reading = _Reading(source, files, lenient, taken)
    for statement in reading.lexer.statements(source):
        reading.take(statement)
        if len(reading.faults) >= MAX_FAULTS:
            return Adapted(None, None, reading.faults, reading.notes)
    return reading.adapted()


class _Reading:
    """One configuration: what its statements said so far."""

    def __init__(self, source: Source, files: Files, lenient: bool, taken: Collection[str]) -> None:
        self._source = source
        self._files = files
        self._lenient = lenient
        self._taken = taken
        self._is_alone = not any(name.startswith("http_access-") for name in taken)
        self._first = mark(source.number, 1)
        self.faults: list[Fault] = []
        self.notes: list[Fault] = []
        self.lexer = Lexer(files, self.faults)
        self._acls = Acls(self.lexer, self.faults, self.notes)
        self._logs = Logs(self.faults, self.notes)
        self._ports: list[tuple[Statement, Port]] = []
        self._lost_port = False
        self._parents: dict[str, At] = {}
        self._access: dict[str, list[_Access]] = {}
        self._settings: dict[str, dict[str, Any]] = {"http": {"forwarded_for": "append"}}
        self._has_own_name = False  # by unique_hostname
        self._split = 0  # rules that lines became which are split by ways
        self._values = 0  # in all rules
        self._handlers: dict[str, Callable[[Statement], None]] = {
            "acl": self._acls.define,
            "access_log": self._logs.add,
            "cache_access_log": self._logs.add,
            "logformat": self._logs.define,
            "http_port": self._port,
            "ascii_port": self._port,
            "https_port": self._port,
            "http_access": self._line,
            "always_direct": self._line,
            "never_direct": self._line,
            "cache_peer_access": self._peer_line,
            "cache_peer": self._parent,
            "forwarded_for": self._forwarded_for,
            "visible_hostname": self._via_name,
            "unique_hostname": self._via_name,
            "dns_nameservers": self._dns_servers,
            **dict.fromkeys(_SETTINGS, self._setting),
        }

    def take(self, statement: Statement) -> None:
        """Take one statement: translate it, note it or refuse it."""
        handler = self._handlers.get(statement.name)
        if handler is None:
            self._by_fate(statement)
            return
        try:
            handler(statement)
        except ValueError as error:
            self.faults.append(statement.fault(str(error)))
            self._lost_port |= handler == self._port

    def _by_fate(self, statement: Statement) -> None:
        fate = FATES.get(statement.name)
        if fate is None:
            self._unknown(statement)
        elif " ".join(statement.words) in fate.unless:
            self._note(statement, "says what holds here anyway")
        elif fate.kind == "noted":
            self._note(statement, f"has no meaning here: {fate.reason}")
        else:
            self._fault(statement, f"cannot be expressed: {fate.reason}", may_pass=fate.kind == "missed")

    def _unknown(self, statement: Statement) -> None:
        """A word that Squid does not know. What looks like one about security is never left out."""
        close = get_close_matches(statement.name[:60].lower(), [*self._handlers, *FATES], n=1, cutoff=0.75)
        advice = f"; did you mean {close[0]}?" if close else ""
        guarded = close and (close[0] in _GUARDED or FATES.get(close[0], _NO_FATE).kind == "refused")
        sounds = _SOUNDS_LIKE_SECURITY.search(statement.name.lower()) is not None
        self._fault(statement, f"is no directive of Squid 3.5 to 6{advice}", may_pass=not guarded and not sounds)

    def _note(self, statement: Statement, message: str) -> None:
        self.notes.append(statement.fault(message))

    def _fault(self, statement: Statement, message: str, *, may_pass: bool) -> None:
        if may_pass and self._lenient:
            self._note(statement, f"{message}; left out")
        else:
            self.faults.append(statement.fault(message))

    # --- statements

    def _port(self, statement: Statement) -> None:
        found, notes = port(statement, tls=statement.name == "https_port")
        label, names = found.label, [each.label for _, each in self._ports]
        if label in names:
            label = f"{label}-{len(names) + 1}"
            found = found._replace(
                label=label, listener=At(found.listener.mark, found.listener.value | {"name": label})
            )
        if found.name in self._acls.port_names:
            raise ValueError(f"two ports are called {shown(found.name)}; give one a name=")
        self._acls.port_names[found.name] = label
        self._acls.captures |= "transparent" in found.listener.value
        self._ports.append((statement, found))
        self.notes += [statement.fault(note) for note in notes]

    def _line(self, statement: Statement) -> None:
        self._add_line(statement.name, statement, statement.words)

    def _peer_line(self, statement: Statement) -> None:
        name, *words = statement.words or [""]
        if name not in self._parents:
            raise ValueError(f"no cache_peer before this line is called {shown(name)}")
        self._add_line(f"cache_peer_access {name}", statement, words)

    def _add_line(self, list_name: str, statement: Statement, words: Sequence[str]) -> None:
        if len(words) < 2 or words[0] not in ("allow", "deny"):
            raise ValueError(f"expected allow or deny and at least one ACL, got {shown(' '.join(words))}")
        names = self._acls.references(statement, words[1:])
        if names is not None:
            self._access.setdefault(list_name, []).append((statement, words[0] == "allow", names))

    def _parent(self, statement: Statement) -> None:
        native, name, notes = peers.parent(statement)
        if name in self._parents:
            raise ValueError(f"two parents are called {shown(name)}; give one a name=")
        self._parents[name] = native
        self.notes += [statement.fault(note) for note in notes]

    def _forwarded_for(self, statement: Statement) -> None:
        word = " ".join(statement.words)
        known = {"on": "append", "transparent": "off", "truncate": "replace", "delete": "delete", "off": "off"}
        if word not in known:
            raise ValueError(f"expected on, off, transparent, truncate or delete, got {shown(word)}")
        if word == "off":
            self._note(statement, "adds nothing here, where Squid adds the word unknown")
        self._set("http", "forwarded_for", At(statement.mark, known[word]))

    def _via_name(self, statement: Statement) -> None:
        """Of Via: `visible_hostname`, or what goes before it there, `unique_hostname`, wherever the two stand."""
        if len(statement.words) != 1:
            raise ValueError("expected one host name")
        is_shared = statement.name == "visible_hostname"
        if not (is_shared and self._has_own_name):
            self._set("http", "via_name", At(statement.mark, statement.words[0]))
        self._has_own_name |= not is_shared

    def _dns_servers(self, statement: Statement) -> None:
        servers = [At(statement.mark, word) for word in statement.words]
        if not servers:
            raise ValueError("expected addresses of name servers")
        self._settings.setdefault("dns", {}).setdefault("servers", []).extend(servers)

    def _setting(self, statement: Statement) -> None:
        group, key, read = _SETTINGS[statement.name]
        value = read(statement.words)
        if value is None:
            self._note(statement, "no bound, as here without it")
        else:
            self._set(group, key, At(statement.mark, value))

    def _set(self, group: str, key: str, value: At) -> None:
        """As in Squid the last line counts."""
        self._settings.setdefault(group, {})[key] = value

    # --- the whole

    def adapted(self) -> Adapted:
        """What became of all statements."""
        data: dict[str, Any] = {}
        if self._ports:
            data["listeners"] = [found.listener for _, found in self._ports]
        elif self._lost_port or not self.lexer.is_whole:
            data["listeners"] = REFUSED  # one is written, or may be; that there is none would be the wrong thing to say
        data["rules"] = self._rules()
        if self._parents:
            data["parents"] = list(self._parents.values())
        data |= self._settings
        logs, notes = self._logs.native(self._files, self._first)
        data["access_log"] = logs
        self.notes += [Fault(self._first, ("access_log",), note) for note in notes]
        plain, places = settle(At(self._first, data))
        return Adapted(plain, places, self.faults, self.notes)

    def _rules(self) -> list[At]:
        lines = self._access.get("http_access", [])
        default = _unused(self._name(self._source, "default"), set(self._taken))
        ways = self._ways()
        rules: list[At] = []
        names = set(self._taken)
        for statement, allow, references in lines:
            term = self._term(statement, references, refuses=not allow)
            if term is None:
                continue
            if term != self._term(statement, references):
                self._note(statement, _LOOKS_BACK_NOTE)
            if term == NEVER:
                self._note(statement, "never holds, so it is left out")
                continue
            name = _unused(self._rule_name(statement), names)
            rules += (
                self._allow(statement, name, term, ways) if allow else [self._rule(statement.mark, name, "deny", term)]
            )
        if not lines:
            self.notes.append(Fault(self._first, ("http_access",), "there is none, so everything is refused"))
            return [self._rule(self._first, default, "deny", ALWAYS)]
        self._note(lines[0][0], _SNI_NOTE)
        if any(allow for _, allow, _ in lines) and any(way.kind == "direct" for _, way in ways):
            self._note(next(statement for statement, allow, _ in lines if allow), _ADDRESS_NOTE)
        last, allows, references = lines[-1]
        if self._term(last, references, again=True) != ALWAYS:
            if allows:
                rules.append(self._rule(last.mark, default, "deny", ALWAYS))
            else:
                rules += self._allow(last, default, ALWAYS, ways)
                self._note(
                    last, "is the last line and says deny, so whatever no line is for is allowed; end with deny all"
                )
        return rules

    def _allow(self, statement: Statement, name: str, term: Term, ways: Ways) -> list[At]:
        """The rules of one line that allows, one for each way that what it allows may go."""
        found: list[At] = []
        for number, (where, way) in enumerate(ways):
            both = all_of((term, where))
            if both == NEVER:
                continue
            self._split += len(ways) > 1
            if self._split > MAX_SPLIT:
                self._too_many(
                    f"expected at most {MAX_SPLIT} rules of all http_access lines together, each of which is split by what "
                    "always_direct, never_direct and cache_peer_access say; name fewer ACLs there, each with more values"
                )
                return found
            one = f"{name}-{number + 1}" if len(ways) > 1 else name
            if way.kind == "direct":
                found.append(self._rule(statement.mark, one, "allow", both, private_addresses=True))
            elif way.kind == "parent":
                if mentions(both, "addresses"):
                    self._unexpressed(statement, "a parent looks the name up, so the address (dst) is not known here")
                found.append(self._rule(statement.mark, one, "allow", both, parent=way.parent))
            elif way.kind == "nobody":
                found.append(self._rule(statement.mark, one, "deny", both))
            else:
                self._undecided()
                return []
            if both == term:
                break
        return found

    def _too_many(self, message: str) -> None:
        """What would take too long and too much room is refused once, and nothing more is made of the rest."""
        fault = Fault(self._first, ("http_access",), message)
        if fault not in self.faults:
            self.faults.append(fault)

    def _undecided(self) -> None:
        place = next(iter(self._parents.values())).mark
        message = (
            "neither always_direct nor never_direct says whether it takes all that is allowed, and Squid would try one way "
            "after the other; write never_direct allow all, with always_direct allow ACL for what goes out directly"
        )
        fault = Fault(place, ("cache_peer",), message)
        if fault not in self.faults:
            self.faults.append(fault)

    def _unexpressed(self, statement: Statement, message: str) -> None:
        fault = statement.fault(message)
        if fault not in self.faults:
            self.faults.append(fault)

    def _ways(self) -> Ways:
        try:
            return peers.ways(
                self._lines("always_direct"),
                self._lines("never_direct"),
                [(name, self._lines(f"cache_peer_access {name}")) for name in self._parents],
            )
        except ValueError as error:
            self.faults.append(Fault(self._first, ("never_direct",), str(error)))
            return [(ALWAYS, peers.DIRECT)]

    def _lines(self, list_name: str) -> list[Line]:
        found = [(allow, self._term(line, names)) for line, allow, names in self._access.get(list_name, [])]
        return [(allow, term) for allow, term in found if term is not None]

    def _term(
        self,
        statement: Statement,
        references: list[tuple[str, bool]],
        *,
        refuses: bool | None = None,
        again: bool = False,
    ) -> Term | None:
        try:
            return self._acls.term(references, refuses=refuses)
        except Unusable as error:
            if not again:
                self.faults.append(statement.fault(f"cannot be expressed: {error}"))
            return None

    def _rule(self, place: int, name: str, action: str, term: Term, **more: Any) -> At:
        self._values += size(term)
        if self._values > MAX_VALUES:
            self._too_many(
                f"expected at most {MAX_VALUES} values of ACLs in all rules together; name long lists on fewer lines"
            )
            term = ALWAYS  # of a configuration that is refused
        conditions = condition(term)
        if self._ports and "listeners" not in conditions:
            conditions = {"listeners": [found.label for _, found in self._ports], **conditions}
        return At(place, {"name": name, "action": action, **conditions, **more})

    def _rule_name(self, statement: Statement) -> str:
        """`http_access-LINE`; of an included file with its name, as lines are counted anew there."""
        return self._name(statement.source, str(statement.line))

    def _name(self, source: Source, word: str) -> str:
        if source == self._source and self._is_alone:
            return f"http_access-{word}"
        file = re.sub(r"[^A-Za-z0-9_.-]", "_", posixpath.basename(source.name))[-30:]
        return f"http_access-{file}-{word}"


def _unused(name: str, names: set[str]) -> str:
    number = 1
    found = name
    while found in names:
        number += 1
        found = f"{name}-{number}"
    names.add(found)
    return found


def _above_0(words: Sequence[str]) -> float | None:
    return values.seconds(words) or None


def _lifetime(words: Sequence[str]) -> float | None:
    found_s = values.seconds(words)
    if not found_s:
        raise ValueError("expected more than 0: no connection would live")
    return found_s if found_s <= MAX_SECONDS else None


def _head_size(words: Sequence[str]) -> int:
    return values.size(words, "KB")


def _body_size(words: Sequence[str]) -> int | None:
    return values.size(words, "bytes") or None


_SETTINGS: dict[str, tuple[str, str, Callable[[Sequence[str]], Any]]] = {
    "connect_timeout": ("timeouts", "connect_s", values.seconds),
    "read_timeout": ("timeouts", "idle_s", values.seconds),
    "request_timeout": ("timeouts", "head_s", values.seconds),
    "client_lifetime": ("timeouts", "lifetime_s", _lifetime),
    "client_idle_pconn_timeout": ("timeouts", "keep_alive_s", values.seconds),
    "persistent_request_timeout": ("timeouts", "keep_alive_s", values.seconds),
    "server_idle_pconn_timeout": ("timeouts", "upstream_idle_s", values.seconds),
    "pconn_timeout": ("timeouts", "upstream_idle_s", values.seconds),
    "pconn_lifetime": ("timeouts", "upstream_lifetime_s", _above_0),
    "shutdown_lifetime": ("timeouts", "drain_s", values.seconds),
    "request_header_max_size": ("limits", "max_head_bytes", _head_size),
    "request_body_max_size": ("limits", "max_body_bytes", _body_size),
    "dns_retransmit_interval": ("dns", "timeout_s", values.seconds),
    "dns_defnames": ("dns", "search", values.switch),
    "positive_dns_ttl": ("dns", "max_ttl_s", values.seconds),
    "negative_dns_ttl": ("dns", "negative_ttl_s", values.seconds),
    "ipcache_size": ("dns", "cache_entries", values.count),
    "via": ("http", "via", values.switch),
}
"""Directives that are one native setting: the group, the key and the reader of the value, which gives None for no bound."""
