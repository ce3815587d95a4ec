"""The table of clauses that is asked once per connection or request: which is the first that matches?"""

from __future__ import annotations

from bisect import bisect_right
from heapq import merge
from operator import attrgetter
from typing import TYPE_CHECKING

from egressproxy.policy.hostnames import HostIndex
from egressproxy.policy.networks import parse_client

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from egressproxy.hostport import HostPattern
    from egressproxy.model import Intent, Verdict
    from egressproxy.policy.rules import Clause

_BEHIND_ALL = 1 << 62  # a position no clause has

_in_order = attrgetter("position")


class ClauseTable:
    """Clauses in order, found by host. Filled once.

    clauses  all of them
    index    those for some hosts only
    """

    __slots__ = ("_any_host", "_find", "_undecided", "clauses", "index")

    def __init__(self, clauses: Iterable[tuple[Sequence[HostPattern], Clause]], undecided: Verdict) -> None:
        """`clauses`: each with the hosts it is for, none meaning any. `undecided`: see `first`."""
        self.index = HostIndex()
        self.clauses: list[Clause] = []
        self._any_host: list[Clause] = []
        self._undecided = undecided
        for patterns, clause in clauses:
            self.clauses.append(clause)
            if patterns:
                self.index.add(patterns, clause)
            else:
                self._any_host.append(clause)
        self._find = self.index.finder()

    def first(self, intent: Intent, addresses: Sequence[str] | None = None) -> Verdict | None:
        """The verdict of the first clause that matches; None if none does. Hot.

        addresses  of the target, where they are known. Where they are not, and whether the first one matches depends on them,
                   the answer is `undecided`

        Raises ValueError if a clause asks for clients and `intent.client` is not an address.
        """
        target = intent.target
        port = target.port
        best = None
        best_position = _BEHIND_ALL
        for clauses in (self._find(target.host), self._any_host):
            for clause in clauses:
                position, ports, methods, clients, paths, further, verdict = clause
                if position > best_position:
                    break
                if (
                    (ports is None or bisect_right(ports, port) & 1)
                    and (methods is None or intent.method in methods)
                    and (clients is None or parse_client(intent.client) in clients)
                    and (paths is None or intent.path in paths)
                ):
                    holds = True if further is None else further.holds(intent, addresses)
                    if holds is not False:
                        best, best_position = verdict if holds else self._undecided, position
                        break
        return best

    def about(self, host: str) -> Iterator[Clause]:
        """The clauses that are for a host, in order."""
        return merge(self._find(host), self._any_host, key=_in_order)
