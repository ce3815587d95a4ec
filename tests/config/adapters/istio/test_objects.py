"""Patterns of hosts: which covers which, and what two have in common."""

from __future__ import annotations

import pytest

from egressproxy.config.adapters.istio.objects import ByHost, covers, full_pattern, is_address, is_loopback, meet, wider
from egressproxy.hostport import parse_host_pattern


@pytest.mark.parametrize(
    ("one", "other", "common"),
    [
        ("a.example", "a.example", "a.example"),
        ("a.example", "b.example", None),
        ("*.example", "a.example", "a.example"),
        ("*.example", "a.b.example", "a.b.example"),
        ("*.example", "example", None),
        ("*.example", "*.b.example", "*.b.example"),
        ("*.example", "*.example", "*.example"),
        ("*.a.example", "*.b.example", None),
        ("*", "*.example", "*.example"),
        ("*", "192.0.2.1", "192.0.2.1"),
        ("*.ample", "*.example", None),
    ],
)
def test_what_two_patterns_have_in_common(one: str, other: str, common: str | None) -> None:
    pair = parse_host_pattern(one), parse_host_pattern(other)
    for first, second in (pair, pair[::-1]):
        found = meet(first, second)
        assert (None if found is None else str(found)) == common
    assert covers(*pair) == (common == other)


@pytest.mark.parametrize(
    ("name", "whole"),
    [
        ("db", "db.ns.svc.cluster.local"),
        ("db.other", "db.other"),
        ("*.example", "*.example"),
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::1"),
    ],
)
def test_a_short_name_is_a_service_of_the_namespace(name: str, whole: str) -> None:
    assert str(full_pattern(parse_host_pattern(name), "ns")) == whole


def test_addresses() -> None:
    assert [is_address(text) for text in ("192.0.2.1", "::1", "a.example")] == [True, True, False]
    assert [is_loopback(text) for text in ("127.0.0.2", "::1", "192.0.2.1", "localhost")] == [True, True, False, False]


def test_what_covers_a_pattern_comes_from_the_narrowest_on() -> None:
    def names(pattern: str) -> list[str]:
        return [str(each) for each in wider(parse_host_pattern(pattern))]

    assert names("a.b.example") == ["a.b.example", "*.b.example", "*.example", "*"]
    assert names("*.b.example") == ["*.b.example", "*.example", "*"]
    assert names("192.0.2.1") == ["192.0.2.1", "*"]
    assert names("*") == ["*"]


PATTERNS = ["*.example", "a.example", "*", "a.b.example", "*.b.example", "192.0.2.1", "a.example"]


@pytest.mark.parametrize("pattern", [*PATTERNS, "c.b.example", "*.a.b.example", "other.test"])
def test_an_index_finds_what_going_through_all_would_find_in_the_same_order(pattern: str) -> None:
    things = [(parse_host_pattern(text), number) for number, text in enumerate(PATTERNS)]
    index, asked = ByHost(things), parse_host_pattern(pattern)
    assert index.covering(asked) == [number for each, number in things if covers(each, asked)]
    assert index.meeting(asked) == [number for each, number in things if meet(each, asked) is not None]
    assert index.exactly(asked) == [number for each, number in things if each == asked]
