"""One name on its way through the servers.

The names that may be meant are asked for in order (`ResolvConf.names_for`), each for A and AAAA at once:

- RFC 8305 section 3: as soon as one half has addresses, the other has 50 ms left. A half that fails or stays silent
  costs that and nothing more; if it comes later, it is reported as well.
- A failing server ends the search: a name must not change its meaning with the health of a server. And no search
  domain can take over a name that exists: a name with a dot is searched for only if it does not exist itself.
- A question that c-ares gave up early is asked again, until the time is up.

Callbacks of c-ares and timers, no task that could be left behind.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from egressproxy.resolve.answers import TIMEOUT, Answer, merge
from egressproxy.resolve.servers import ServersUnusable

if TYPE_CHECKING:
    from collections.abc import Callable

    from egressproxy.resolve.servers import Servers

RESOLUTION_DELAY_S = 0.05
"""RFC 8305 section 8: how long one address family waits for the other."""


class Lookup:
    """The search for one host. Ends as one Answer.

    `report` gets it once, maybe before `start` returns, and again, with all addresses so far, for each half that comes
    after the end. Whoever drops a lookup before its end calls `stop`.
    """

    __slots__ = (
        "_deadline",
        "_delay",
        "_finished",
        "_halves",
        "_host",
        "_kinds",
        "_loop",
        "_most_s",
        "_names",
        "_report",
        "_servers",
        "_step",
    )

    def __init__(
        self,
        host: str,
        names: tuple[str, ...],
        kinds: tuple[int, ...],
        servers: Callable[[], Servers],
        report: Callable[[Answer], None],
        most_s: float = float("inf"),
    ) -> None:
        """`kinds`: A, AAAA or both. `servers` gives those to ask now; it may raise ServersUnusable.

        The lookup takes `most_s` seconds at most, and never longer than `Servers.patience_s`.
        """
        self._host = host
        self._names = names
        self._kinds = kinds
        self._servers = servers
        self._report = report
        self._most_s = most_s
        self._loop = asyncio.get_running_loop()
        self._step = 0  # the place in `names` of the one that is being asked for
        self._halves: dict[int, Answer] = {}  # what is in about it, by kind
        self._delay: asyncio.TimerHandle | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._finished = False

    def start(self) -> None:
        """Ask for the first name."""
        self._ask(self._kinds)

    def stop(self) -> None:
        """Ask and wait no longer. What is out still comes in, and is reported as late."""
        self._finished = True
        for timer in (self._delay, self._deadline):
            if timer is not None:
                timer.cancel()

    def _ask(self, kinds: tuple[int, ...]) -> None:
        """Send the questions of these kinds for the present name."""
        if self._finished:
            return
        try:
            servers = self._servers()
            if self._deadline is None:
                self._deadline = self._loop.call_later(min(servers.patience_s, self._most_s), self._conclude)
            servers.ask(self._names[self._step], kinds, self._answered)
        except ServersUnusable as error:
            self._finish(Answer("failed", problem=f"the name servers cannot be used: {error}"))

    def _answered(self, kind: int, half: Answer) -> None:
        if self._finished:
            self._late(kind, half)
        elif half.status == "timeout" and not any(other.addresses for other in self._halves.values()):
            # c-ares shortens its time-outs to five times the server's average (at least 250 ms), which is less than a
            # recursive server needs for a far name. What `timeout_s` and `tries` promise is kept by asking again.
            self._loop.call_soon(self._ask, (kind,))
        else:
            self._halves[kind] = half
            if len(self._halves) == len(self._kinds):
                self._conclude()
            elif half.addresses:
                self._delay = self._loop.call_later(RESOLUTION_DELAY_S, self._conclude)

    def _conclude(self) -> None:
        """All halves are in, or those that are have waited long enough, or the time is up."""
        answer = merge(dict.fromkeys(self._kinds, TIMEOUT) | self._halves)
        if self._goes_on_after(answer):
            self._step += 1
            self._halves.clear()
            self._loop.call_soon(self._ask, self._kinds)
        else:
            self._finish(answer)

    def _goes_on_after(self, answer: Answer) -> bool:
        """Whether the next name is to be asked for."""
        if self._step + 1 == len(self._names):
            return False
        if answer.status == "no_address":
            return "." not in self._host or self._names[self._step] != self._host
        return answer.status == "no_name"

    def _finish(self, answer: Answer) -> None:
        self.stop()
        if answer.problem and len(self._names) > 1:
            asked = ", ".join(self._names[: self._step + 1])
            answer = answer._replace(problem=f"{answer.problem}, asked as {asked}")
        self._report(answer)

    def _late(self, kind: int, half: Answer) -> None:
        self._halves[kind] = half
        if half.addresses:
            self._report(merge(self._halves))
