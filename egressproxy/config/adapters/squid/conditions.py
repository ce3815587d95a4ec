"""What is asked of a request, as Squid combines it, and the same as a condition of the native form.

A term is one native condition (`Is`), all of some terms, one of some terms, or the opposite of one. `ALWAYS` and `NEVER` are
all and one of none. Terms are made by `all_of`, `one_of` and `opposite`, which leave out what says nothing, so that the native
form reads as a person would have written it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from egressproxy.config.adapters.adapter import At


@dataclass(frozen=True, slots=True)
class Is:
    """One key of a native condition: one of the values holds."""

    key: str
    values: tuple[At | str, ...]


@dataclass(frozen=True, slots=True)
class AllOf:
    """Each of the terms holds."""

    terms: tuple[Term, ...]


@dataclass(frozen=True, slots=True)
class OneOf:
    """One of the terms holds."""

    either: tuple[Term, ...]


@dataclass(frozen=True, slots=True)
class Not:
    """The term does not hold."""

    term: Term


Term = Is | AllOf | OneOf | Not

ALWAYS = AllOf(())
NEVER = OneOf(())


def all_of(terms: Iterable[Term]) -> Term:
    """What holds if each of the terms does."""
    found: list[Term] = []
    for term in terms:
        if term == NEVER:
            return NEVER
        found += [part for part in (term.terms if isinstance(term, AllOf) else (term,)) if part not in found]
    return found[0] if len(found) == 1 else AllOf(tuple(found))


def one_of(terms: Iterable[Term]) -> Term:
    """What holds if one of the terms does. Those about the same thing become one."""
    found: list[Term] = []
    values: dict[str, list[At | str]] = {}  # of each key, and where in `found` it stands
    places: dict[str, int] = {}
    for term in terms:
        if term == ALWAYS:
            return ALWAYS
        for part in term.either if isinstance(term, OneOf) else (term,):
            if isinstance(part, Is):
                if part.key not in places:
                    places[part.key] = len(found)
                    found.append(part)
                values.setdefault(part.key, []).extend(part.values)
            elif part not in found:
                found.append(part)
    for key, place in places.items():
        found[place] = Is(key, tuple(values[key]))
    return found[0] if len(found) == 1 else OneOf(tuple(found))


def opposite(term: Term) -> Term:
    """What holds if the term does not."""
    if isinstance(term, Not):
        return term.term
    if term in (ALWAYS, NEVER):
        return NEVER if term == ALWAYS else ALWAYS
    return Not(term)


def condition(term: Term) -> dict[str, Any]:
    """The native condition, empty for `ALWAYS`. `NEVER` has none: callers leave out what never holds."""
    assert term != NEVER
    found: dict[str, Any] = {}
    for part in term.terms if isinstance(term, AllOf) else (term,):
        if isinstance(part, Not):
            refused = part.term.either if isinstance(part.term, OneOf) else (part.term,)
            found.setdefault("none", []).extend(condition(each) for each in refused)
        elif isinstance(part, OneOf):
            _put(found, "any", [condition(each) for each in part.either])
        else:
            assert isinstance(part, Is)  # all in all is one all
            _put(found, part.key, _each_once(part.values))
    return found


def _each_once(values: tuple[At | str, ...]) -> list[At | str]:
    return list({repr(value if isinstance(value, str) else value.value): value for value in values}.values())


def _put(into: dict[str, Any], key: str, value: list[Any]) -> None:
    """As a key of its own, or where that is taken as one more condition."""
    if key in into:
        into.setdefault("all", []).append({key: value})
    else:
        into[key] = value


def mentions(term: Term, key: str) -> bool:
    """Whether this key of a condition is asked somewhere in a term."""
    if isinstance(term, Is):
        return term.key == key
    if isinstance(term, Not):
        return mentions(term.term, key)
    return any(mentions(part, key) for part in (term.terms if isinstance(term, AllOf) else term.either))


def size(term: Term) -> int:
    """How many values are asked for in a term, with one for each of its parts."""
    if isinstance(term, Is):
        return len(term.values)
    if isinstance(term, Not):
        return 1 + size(term.term)
    return 1 + sum(map(size, term.terms if isinstance(term, AllOf) else term.either))
