"""What Squid combines by names and `!`, as native conditions."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egressproxy.config.adapters.squid.conditions import (
    ALWAYS,
    NEVER,
    AllOf,
    Is,
    Not,
    OneOf,
    Term,
    all_of,
    condition,
    mentions,
    one_of,
    opposite,
)

A, B, C = Is("hosts", ("a",)), Is("hosts", ("b",)), Is("ports", ("c",))


@pytest.mark.parametrize(
    ("term", "expected"),
    [
        (ALWAYS, {}),
        (A, {"hosts": ["a"]}),
        (all_of([A, C]), {"hosts": ["a"], "ports": ["c"]}),
        (all_of([A, B]), {"hosts": ["a"], "all": [{"hosts": ["b"]}]}),
        (one_of([A, B]), {"hosts": ["a", "b"]}),
        (one_of([A, A]), {"hosts": ["a"]}),
        (one_of([A, C]), {"any": [{"hosts": ["a"]}, {"ports": ["c"]}]}),
        (all_of([A, opposite(C)]), {"hosts": ["a"], "none": [{"ports": ["c"]}]}),
        (opposite(one_of([A, C])), {"none": [{"hosts": ["a"]}, {"ports": ["c"]}]}),
        (opposite(all_of([A, C])), {"none": [{"hosts": ["a"], "ports": ["c"]}]}),
        (
            all_of([one_of([A, C]), one_of([B, C])]),
            {"any": [{"hosts": ["a"]}, {"ports": ["c"]}], "all": [{"any": [{"hosts": ["b"]}, {"ports": ["c"]}]}]},
        ),
    ],
)
def test_terms_become_conditions(term: Term, expected: dict[str, Any]) -> None:
    assert condition(term) == expected


def test_what_says_nothing_is_left_out() -> None:
    assert all_of([A, ALWAYS]) == A
    assert all_of([A, NEVER]) == NEVER
    assert one_of([A, NEVER]) == A
    assert one_of([A, ALWAYS]) == ALWAYS
    assert opposite(opposite(A)) == A
    assert opposite(ALWAYS) == NEVER != ALWAYS
    assert opposite(NEVER) == ALWAYS


def test_what_is_asked_is_found_however_deep() -> None:
    assert mentions(all_of([A, opposite(one_of([B, C]))]), "ports")
    assert not mentions(all_of([A, opposite(B)]), "ports")


LEAVES = st.builds(lambda key: Is(key, ("x",)), st.sampled_from(["k0", "k1", "k2", "k3"])) | st.sampled_from(
    [ALWAYS, NEVER]
)
TREES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda terms: ("all", terms)),
        st.lists(inner, max_size=3).map(lambda terms: ("one", terms)),
        inner.map(lambda term: ("not", term)),
    ),
    max_leaves=8,
)


def made(tree: Any) -> Term:
    """The term of a tree."""
    if isinstance(tree, tuple):
        kind, inner = tree
        return opposite(made(inner)) if kind == "not" else {"all": all_of, "one": one_of}[kind](map(made, inner))
    assert isinstance(tree, (Is, AllOf, OneOf, Not))
    return tree


def meant(tree: Any, facts: frozenset[str]) -> bool:
    """What a tree says, by the plain rules of logic."""
    if tree in (ALWAYS, NEVER):
        return bool(tree == ALWAYS)
    if isinstance(tree, Is):
        return tree.key in facts
    kind, inner = tree
    if kind == "not":
        return not meant(inner, facts)
    answers = [meant(each, facts) for each in inner]
    return all(answers) if kind == "all" else any(answers)


def holds(found: dict[str, Any], facts: frozenset[str]) -> bool:
    """What a native condition says."""
    answers = [key in facts for key in found if key.startswith("k")]
    answers += [holds(each, facts) for each in found.get("all", ())]
    answers += [any(holds(each, facts) for each in found["any"])] if "any" in found else []
    answers += [not holds(each, facts) for each in found.get("none", ())]
    return all(answers)


@given(TREES, st.frozensets(st.sampled_from(["k0", "k1", "k2", "k3"])))
def test_the_native_condition_says_what_the_tree_says(tree: Any, facts: frozenset[str]) -> None:
    term = made(tree)
    said = False if term == NEVER else holds(condition(term), facts)
    assert said == meant(tree, facts)
