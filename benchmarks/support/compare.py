"""The comparison: proxies take turns, a ratio is taken within a round, and the median of the rounds is what counts.

On a shared machine an absolute figure means nothing a minute later. Two figures taken seconds apart on the same core
can be divided; the order within a round alternates, so a drift favours nobody.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import NamedTuple

from benchmarks.support.origins import Origins
from benchmarks.support.processes import Cores, OtherWork
from benchmarks.support.proxy import Proxy, Way


class Settings(NamedTuple):
    """What the command line decides.

    rounds        turns of every proxy
    seconds       the timed part of one trial
    concurrency   tunnels being set up, or requests in flight, at once
    idle_tunnels  tunnels held open for the memory figure
    """

    rounds: int = 3
    seconds: float = 2.5
    concurrency: int = 32
    idle_tunnels: int = 8000

    @property
    def warm_s(self) -> float:
        """The warm-up before the timed part."""
        return min(0.5, self.seconds / 4)


class AtMost(NamedTuple):
    """A goal: the ratio to the peer (or, with `absolute`, our own figure) is no more than this.

    bound  on the way to the goal: more than this is out of the question
    """

    limit: float
    absolute: bool = False
    bound: float | None = None

    def met(self, ratio: float, value: float) -> bool:
        """Whether it is reached."""
        return (value if self.absolute else ratio) <= self.limit

    def __str__(self) -> str:
        bound = f", bound {self.bound:g}" if self.bound is not None else ""
        return f"≤ {self.limit:g}{' itself' if self.absolute else ''}{bound}"


class AtLeast(NamedTuple):
    """A goal: the ratio to the peer is no less than this."""

    limit: float

    def met(self, ratio: float, value: float) -> bool:
        """Whether it is reached."""
        return ratio >= self.limit

    def __str__(self) -> str:
        return f"≥ {self.limit:g}"


Goal = AtMost | AtLeast
ANY = "*"


class Measure(NamedTuple):
    """One figure that a trial gives.

    goals  by peer, or `ANY`; DESIGN's goals for the proxy, none for figures that only help to read the others
    """

    key: str
    title: str
    goals: Mapping[str, Goal] = {}

    def goal(self, peer: str) -> Goal | None:
        """What we hold ourselves to beside this peer."""
        return self.goals.get(peer) or self.goals.get(ANY)


class Benchmark(NamedTuple):
    """One question.

    check  raises WrongAnswer unless the proxy does what will be timed, and does it right
    trial  one turn of one proxy: figures by key of measure
    fresh  every trial gets a newly started proxy
    way    how the proxies are used; None: each proxy's own first way, because it does not matter here
    peers  with whom it is compared when nobody says otherwise
    """

    name: str
    question: str
    measures: Sequence[Measure]
    check: Callable[[Proxy, Origins], None]
    trial: Callable[[Proxy, Origins, Settings], dict[str, float]]
    fresh: bool = False
    way: Way | None = None
    peers: Sequence[str] = ("squid",)


class Row(NamedTuple):
    """One line of the table: a figure of the proxy, the peer's, and what follows.

    own, other, ratio  medians over the rounds; None where there is nothing to measure or divide
    lowest, highest    of the ratios of the rounds
    met                the goal is reached
    within             it is not, but its bound is kept
    """

    benchmark: str
    title: str
    peer: str
    own: float | None
    other: float | None
    ratio: float | None
    lowest: float | None
    highest: float | None
    goal: str
    met: bool | None
    within: bool = False


class Round(NamedTuple):
    """One turn of every proxy.

    figures     by proxy, by key of measure
    other_work  the share of the two cores, 0 to 1, that went to processes that are not ours
    """

    figures: dict[str, dict[str, float]]
    other_work: float


def run(
    benchmark: Benchmark,
    proxies: Sequence[type[Proxy]],
    origins: Origins,
    cores: Cores,
    settings: Settings,
    say: Callable[[str], None],
) -> list[Round]:
    """Check every proxy, then let them take turns. The first is ours."""
    rounds: list[Round] = []
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="egressproxy-bench-")))
        scratch.chmod(0o755)  # started by root, peers go on as users who have to get at their own folders in it

        def make(kind: type[Proxy], place: int, turn: int) -> Proxy:
            folder = scratch / f"{kind.name}-{place}-{turn}"
            folder.mkdir()
            return kind(origins, folder, cores.proxy, benchmark.way)

        def try_once(place: int, turn: int) -> dict[str, float]:
            if not benchmark.fresh:
                return benchmark.trial(running[place], origins, settings)
            with make(proxies[place], place, turn) as proxy:
                benchmark.check(proxy, origins)
                return benchmark.trial(proxy, origins, settings)

        running: list[Proxy] = []
        if not benchmark.fresh:
            running = [stack.enter_context(make(kind, place, 0)) for place, kind in enumerate(proxies)]
            for proxy in running:
                benchmark.check(proxy, origins)
        other_work = OtherWork(cores)
        for turn in range(settings.rounds):
            order = range(len(proxies)) if turn % 2 == 0 else reversed(range(len(proxies)))
            found = {place: try_once(place, turn) for place in order}
            figures = {_label(proxies, place): found[place] for place in range(len(proxies))}
            rounds.append(Round(figures, other_work.share()))
            say(f"{benchmark.name}: round {turn + 1} of {settings.rounds}, other work {rounds[-1].other_work:.0%}")
    return rounds


def _label(proxies: Sequence[type[Proxy]], place: int) -> str:
    name = proxies[place].name
    return name if name not in [proxy.name for proxy in proxies[:place]] else f"{name} again"


def rows(benchmark: Benchmark, rounds: Sequence[Round]) -> list[Row]:
    """The table of one benchmark: per measure one line for each peer."""
    turns = [one.figures for one in rounds]
    ours, *peers = turns[0]
    lines = []
    for measure in benchmark.measures:
        own = [one[ours][measure.key] for one in turns if measure.key in one[ours]]
        value = median(own) if own else None
        for peer in peers:
            pairs = [(one[ours].get(measure.key), one[peer].get(measure.key)) for one in turns]
            ratios = [a / b for a, b in pairs if a is not None and b]
            other = [b for _, b in pairs if b is not None]
            if not other:
                continue
            ratio = median(ratios) if ratios else None
            goal = measure.goal(peer)
            met, within = None, False
            if goal is not None and value is not None and (ratio is not None or getattr(goal, "absolute", False)):
                met = goal.met(ratio if ratio is not None else 0.0, value)
                bound = getattr(goal, "bound", None)
                within = not met and bound is not None and ratio is not None and ratio <= bound
            lines.append(
                Row(
                    benchmark.name,
                    measure.title,
                    peer,
                    value,
                    median(other),
                    ratio,
                    min(ratios, default=None),
                    max(ratios, default=None),
                    str(goal) if goal is not None else "",
                    met,
                    within,
                )
            )
    return lines
