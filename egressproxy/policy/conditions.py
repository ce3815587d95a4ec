"""Conditions beyond the usual ones of a rule: expressions, times, listeners, addresses, and conditions in conditions.

Each is a test of an intent with three answers: it holds, it does not, or that cannot be said before the target's addresses
are known (None). The usual conditions (hosts, ports, methods, clients, paths) are asked by `Policy.decide` itself where a rule
has them at its top, because nearly all rules have no others.

**Doubt.** A path has several readings and a name several addresses. Where a condition lets pass, all of them must match;
where it refuses, one is enough. Inside `none` it is the other way round.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple, Protocol
from urllib.parse import unquote

from egressproxy.model import HTTP_PORT
from egressproxy.policy.addresses import ends_of, parse_address
from egressproxy.policy.expressions import compile_expression
from egressproxy.policy.networks import NetworkSet, parse_client
from egressproxy.policy.paths import PathSet, cut, readings_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from ipaddress import IPv4Network, IPv6Network
    from time import struct_time

    from egressproxy.config.schema.listeners import Listener
    from egressproxy.config.schema.rules import Condition, TimeSpan
    from egressproxy.hostport import HostPattern, PortRange
    from egressproxy.model import Intent


_DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")


class Test(Protocol):
    """One condition."""

    def holds(self, intent: Intent, addresses: Sequence[str] | None) -> bool | None:
        """Whether it does; None: that depends on addresses, which are not known."""

    def why_not(self, intent: Intent) -> str:
        """Why it does not, in words."""


class Surroundings(NamedTuple):
    """What conditions are asked in.

    listeners   of the configuration: conditions name them and their ports
    local_time  tells the time, where a condition asks for it
    """

    listeners: Sequence[Listener]
    local_time: Callable[[], struct_time]


_TRIPLE = re.compile("%[0-9A-F]{2}")


def _in_small_letters(found: re.Match[str]) -> str:
    return found[0].lower()


def _hosts_of(intent: Intent) -> Sequence[str]:
    return (intent.target.host,)


def _paths_of(intent: Intent) -> Sequence[str] | None:
    """The path as sent, and what servers may read it as, each so and decoded, with the query as sent and decoded.

    None of a tunnel. Readings keep encoded what has no meaning in a path, as blanks, `<` and letters of other scripts, and
    expressions are written for these as well.
    """
    if intent.path is None:
        return ()
    query = "" if intent.request is None else intent.request.path[len(intent.path) :]
    queries = (query, unquote(query, "latin-1")) if "%" in query else (query,)
    if intent.path == "*":
        return (intent.path,)
    readings = readings_of(intent.path)
    if not readings:
        return None
    paths = (intent.path, *readings)
    if "%" in intent.path:
        paths = (*paths, *(unquote(path, "latin-1") for path in paths))
    return tuple(dict.fromkeys(path + text for path in paths for text in queries))


def _bare_paths_of(intent: Intent) -> Sequence[str] | None:
    """What servers may read the path as, without the query; none of a tunnel or of `*`."""
    if intent.path is None or intent.path == "*":
        return ()
    return readings_of(intent.path) or None


def _bare_paths_and_sent(intent: Intent) -> Sequence[str] | None:
    """The path as sent as well: where it refuses, an expression may be written for that."""
    readings = _bare_paths_of(intent)
    return (intent.path, *readings) if intent.path is not None and readings else readings


def _urls_of(intent: Intent) -> Sequence[str] | None:
    """`http://host[:port]/path?query` for each of the paths of a plain request, `host:port` of a tunnel."""
    if intent.path is None:
        return (str(intent.target),)
    paths = _paths_of(intent)
    if paths is None:
        return None
    host, port, _ = intent.target
    shown = f"[{host}]" if ":" in host else host
    origin = f"http://{shown}{'' if port == HTTP_PORT else f':{port}'}"
    return [origin + path for path in paths]


def further_test(condition: Condition, surroundings: Surroundings, *, lets_pass: bool) -> Test | None:
    """The test of what `Policy.decide` does not ask itself of a rule or route; None where there is nothing else."""
    return _together(_further(condition, surroundings, lets_pass))


def _whole_test(condition: Condition, surroundings: Surroundings, lets_pass: bool) -> Test:
    """The test of a condition that stands in another one: of all its keys."""
    tests: list[Test] = []
    if condition.hosts is not None:
        tests.append(_Hosts(condition.hosts))
    if condition.ports is not None:
        tests.append(_Ports(condition.ports))
    if condition.methods is not None:
        tests.append(_Methods(method_set(condition.methods, not lets_pass)))
    if condition.clients is not None:
        tests.append(_Clients(condition.clients))
    if condition.paths is not None:
        tests.append(_Paths(PathSet(condition.paths, not lets_pass)))
    test = _together([*tests, *_further(condition, surroundings, lets_pass)])
    assert test is not None  # the schema asks for one key at least
    return test


def _further(condition: Condition, surroundings: Surroundings, lets_pass: bool) -> list[Test]:
    tests: list[Test] = []
    if condition.listeners is not None:
        tests.append(_Listeners(condition.listeners, "listener"))
    if condition.listener_ports is not None:
        names = [each.label for each in surroundings.listeners if _in_ranges(each.port, condition.listener_ports)]
        tests.append(_Listeners(names, "port of the listener"))
    if condition.times is not None:
        tests.append(_Times(condition.times, surroundings.local_time))
    if condition.hosts_matching is not None:
        tests.append(_Found(condition.hosts_matching, _hosts_of, "host", lets_pass))
    if condition.paths_matching is not None:
        tests.append(_Found(condition.paths_matching, _paths_of, "path", lets_pass))
    if condition.bare_paths_matching is not None:
        bare_paths = _bare_paths_of if lets_pass else _bare_paths_and_sent
        tests.append(_Found(condition.bare_paths_matching, bare_paths, "path", lets_pass))
    if condition.urls_matching is not None:
        tests.append(_Found(condition.urls_matching, _urls_of, "URL", lets_pass))
    tests += [_whole_test(each, surroundings, lets_pass) for each in condition.all or ()]
    if condition.any is not None:
        tests.append(_Any([_whole_test(each, surroundings, lets_pass) for each in condition.any]))
    tests += [
        _Not(_whole_test(each, surroundings, not lets_pass), f"none[{index}]", each)
        for index, each in enumerate(condition.none or ())
    ]
    if condition.addresses is not None:  # last: what is known already may make it needless to look them up
        tests.append(_Addresses(condition.addresses, lets_pass))
    return tests


def _together(tests: Sequence[Test]) -> Test | None:
    if not tests:
        return None
    return tests[0] if len(tests) == 1 else _All(tests)


def _in_ranges(port: int, ranges: Iterable[PortRange]) -> bool:
    return any(low <= port <= high for low, high in ranges)


# --- of other tests -----------------------------------------------------------------------------------------------


class _All:
    __slots__ = ("_tests",)

    def __init__(self, tests: Sequence[Test]) -> None:
        self._tests = tests

    def holds(self, intent: Intent, addresses: Sequence[str] | None) -> bool | None:
        answer: bool | None = True
        for test in self._tests:
            one = test.holds(intent, addresses)
            if one is False:
                return False
            if one is None:
                answer = None
        return answer

    def why_not(self, intent: Intent) -> str:
        failed = [test.why_not(intent) for test in self._tests if test.holds(intent, ()) is False]
        return "; ".join(failed[:3]) or "its addresses are not known"


class _Any:
    __slots__ = ("_tests",)

    def __init__(self, tests: Sequence[Test]) -> None:
        self._tests = tests

    def holds(self, intent: Intent, addresses: Sequence[str] | None) -> bool | None:
        answer: bool | None = False
        for test in self._tests:
            one = test.holds(intent, addresses)
            if one is True:
                return True
            if one is None:
                answer = None
        return answer

    def why_not(self, intent: Intent) -> str:
        more = f" and {len(self._tests) - 3} more" if len(self._tests) > 3 else ""
        return f"none of any: {'; '.join(test.why_not(intent) for test in self._tests[:3])}{more}"


class _Not:
    __slots__ = ("_called", "_keys", "_test")

    def __init__(self, test: Test, called: str, condition: Condition) -> None:
        self._test = test
        self._called = called
        self._keys = [key for key in type(condition).model_fields if getattr(condition, key) is not None]

    def holds(self, intent: Intent, addresses: Sequence[str] | None) -> bool | None:
        one = self._test.holds(intent, addresses)
        return None if one is None else not one

    def why_not(self, intent: Intent) -> str:
        about = {
            "clients": f"client {intent.client}",
            "hosts": f"host {intent.target.host}",
            "ports": f"port {intent.target.port}",
            "methods": f"method {intent.method}",
        }
        return f"{self._called} holds: {', '.join(about.get(key, key) for key in self._keys)}"


# --- of one thing -------------------------------------------------------------------------------------------------


class _Hosts:
    __slots__ = ("_any", "_exact", "_suffixes")

    def __init__(self, patterns: Iterable[HostPattern]) -> None:
        self._any = False
        self._exact: set[str] = set()
        self._suffixes: set[str] = set()
        for kind, host in patterns:
            if kind == "any":
                self._any = True
            else:
                (self._exact if kind == "exact" else self._suffixes).add(host)

    def holds(self, intent: Intent, addresses: Sequence[str] | None) -> bool | None:
        host = intent.target.host
        if self._any or host in self._exact:
            return True
        if self._suffixes:
            dot = host.find(".")
            while dot >= 0:
                if host[dot + 1 :] in self._suffixes:
                    return True
                dot = host.find(".", dot + 1)
        return False

    def why_not(self, intent: Intent) -> str:
        return f"host {intent.target.host} is not among its {len(self._exact) + len(self._suffixes)}"


class _Ports:
    __slots__ = ("_ranges",)

    def __init__(self, ranges: Sequence[PortRange]) -> None:
        self._ranges = ranges

    def holds(self, intent: Intent, addresses: Sequence[str] | None) -> bool | None:
        return _in_ranges(intent.target.port, self._ranges)

    def why_not(self, intent: Intent) -> str:
        return f"port {intent.target.port} is not among {', '.join(map(str, self._ranges[:10]))}"


class _InAnyLetters(frozenset[str]):
    """Methods, in letters of either case."""

    __slots__ = ()

    def __contains__(self, method: object) -> bool:
        return super().__contains__(method) or (isinstance(method, str) and super().__contains__(method.upper()))


def method_set(methods: Iterable[str], denies: bool) -> frozenset[str]:
    """The methods of one rule, to be asked with `in`.

    `post` is not the method `POST` (RFC 9110 section 9.1), and yet there are servers that take it for it. So a rule that
    refuses (`denies`) takes a method in whatever letters it comes, and one that lets pass takes those that it says.
    """
    return _InAnyLetters(methods) if denies else frozenset(methods)


class _Methods:
    __slots__ = ("_methods",)

    def __init__(self, methods: frozenset[str]) -> None:
        self._methods = methods

    def holds(self, intent: Intent, addresses: Sequence[str] | None) -> bool | None:
        return intent.method in self._methods

    def why_not(self, intent: Intent) -> str:
        return f"method {intent.method} is not among {', '.join(sorted(self._methods))}"


class _Clients:
    __slots__ = ("_networks",)

    def __init__(self, networks: Iterable[IPv4Network | IPv6Network]) -> None:
        self._networks = NetworkSet(networks)

    def holds(self, intent: Intent, addresses: Sequence[str] | None) -> bool | None:
        return parse_client(intent.client) in self._networks

    def why_not(self, intent: Intent) -> str:
        return f"client {intent.client} is in none of its {self._networks.count} networks"


class _Paths:
    __slots__ = ("_paths",)

    def __init__(self, paths: PathSet) -> None:
        self._paths = paths

    def holds(self, intent: Intent, addresses: Sequence[str] | None) -> bool | None:
        return intent.path in self._paths

    def why_not(self, intent: Intent) -> str:
        return self._paths.why_not(intent.path)


class _Listeners:
    __slots__ = ("_names", "_what")

    def __init__(self, names: Iterable[str], what: str) -> None:
        self._names = frozenset(names)
        self._what = what

    def holds(self, intent: Intent, addresses: Sequence[str] | None) -> bool | None:
        return intent.listener in self._names

    def why_not(self, intent: Intent) -> str:
        return f"the {self._what} is another than that of {intent.listener}"


class _Times:
    __slots__ = ("_local_time", "_spans")

    def __init__(self, spans: Iterable[TimeSpan], local_time: Callable[[], struct_time]) -> None:
        self._spans = [
            (frozenset(_DAYS.index(day) for day in span.days or _DAYS), _minutes(span.start), _minutes(span.end))
            for span in spans
        ]
        self._local_time = local_time

    def holds(self, intent: Intent, addresses: Sequence[str] | None) -> bool | None:
        now = self._local_time()
        minute = now.tm_hour * 60 + now.tm_min
        return any(now.tm_wday in days and start <= minute <= end for days, start, end in self._spans)

    def why_not(self, intent: Intent) -> str:
        now = self._local_time()
        return f"it is {_DAYS[now.tm_wday]} {now.tm_hour:02}:{now.tm_min:02}"


def _minutes(clock: str) -> int:
    hours, _, minutes = clock.partition(":")
    return int(hours) * 60 + int(minutes)


def _spellings(text: str) -> Iterator[str]:
    """A text in the ways that expressions may write it.

    Hexadecimal digits are the same in capitals and in small letters (RFC 3986 section 6.2.2.1). What was decoded has one
    character for each byte, as Squid's expressions have it; others have one for all the bytes that UTF-8 makes of it.
    """
    both = (text, _TRIPLE.sub(_in_small_letters, text)) if "%" in text else (text,)
    yield from dict.fromkeys(both)
    if not text.isascii():
        for each in dict.fromkeys(both):
            yield each.encode("latin-1", "replace").decode(errors="replace")


class _Found:
    """One of some expressions is found in a text that belongs to the intent; where that has readings, in each or in one.

    What is unreadable (None for texts) fits where it refuses, and nowhere where it lets pass. A text is searched in each of
    its `_spellings`.
    """

    __slots__ = ("_every", "_expressions", "_texts_of", "_what")

    def __init__(
        self, expressions: Iterable[str], texts_of: Callable[[Intent], Sequence[str] | None], what: str, every: bool
    ) -> None:
        self._expressions = [compile_expression(each) for each in expressions]
        self._texts_of = texts_of
        self._what = what
        self._every = every

    def holds(self, intent: Intent, addresses: Sequence[str] | None) -> bool | None:
        texts = self._texts_of(intent)
        if texts is None:
            return not self._every
        if self._every:
            return bool(texts) and all(map(self._is_found_in, texts))
        return any(map(self._is_found_in, texts))

    def _is_found_in(self, text: str) -> bool:
        return any(each.search(spelling) for spelling in _spellings(text) for each in self._expressions)

    def why_not(self, intent: Intent) -> str:
        texts = self._texts_of(intent)
        if texts is None:
            return "servers read this path in too many ways, or only a broken one does"
        for text in texts:
            if not self._is_found_in(text):
                return f"none of its expressions is found in the {self._what} {cut(text)}"
        return f"what is asked inside a tunnel is not seen, so its {self._what} never matches"


class _Addresses:
    __slots__ = ("_every", "_networks")

    def __init__(self, networks: Iterable[IPv4Network | IPv6Network], every: bool) -> None:
        self._networks = NetworkSet(networks)
        self._every = every

    def holds(self, intent: Intent, addresses: Sequence[str] | None) -> bool | None:
        if addresses is None:
            if not intent.target.is_address:
                return None
            addresses = (intent.target.host,)
        if self._every:
            return bool(addresses) and all(parse_client(each) in self._networks for each in addresses)
        return any(end in self._networks for each in addresses for end in ends_of(each))

    def why_not(self, intent: Intent) -> str:
        return f"its addresses are not in its {self._networks.count} networks"


class InNetworks:
    """The target is an address in one of some networks: by which clients know a service."""

    __slots__ = ("_networks",)

    def __init__(self, networks: Iterable[IPv4Network | IPv6Network]) -> None:
        self._networks = NetworkSet(networks)

    def holds(self, intent: Intent, addresses: Sequence[str] | None) -> bool | None:
        """Never None: the target says it itself."""
        return intent.target.is_address and parse_address(intent.target.host) in self._networks

    def why_not(self, intent: Intent) -> str:
        """In words."""
        return f"{intent.target.host} is none of its addresses"


class Carries:
    """Only plain requests, or only tunnels."""

    __slots__ = ("_requests",)

    def __init__(self, what: str) -> None:
        self._requests = what == "requests"

    def holds(self, intent: Intent, addresses: Sequence[str] | None) -> bool | None:
        """Never None."""
        return (intent.path is not None) is self._requests

    def why_not(self, intent: Intent) -> str:
        """In words."""
        return f"it carries {'requests' if self._requests else 'tunnels'} only"


class AskedPort:
    """The port that is asked for is one of those that a service has."""

    __slots__ = ("_numbers",)

    def __init__(self, numbers: frozenset[int]) -> None:
        self._numbers = numbers

    def holds(self, intent: Intent, addresses: Sequence[str] | None) -> bool | None:
        """Never None."""
        return intent.target.port in self._numbers

    def why_not(self, intent: Intent) -> str:
        """In words."""
        return f"port {intent.target.port} is none of the service that it leads to"


def all_of(*tests: Test | None) -> Test | None:
    """The test that each of them holds; None where there is none."""
    return _together([each for each in tests if each is not None])
