"""Addresses as text: one spelling, and RFC 6724's order as far as it is kept."""

from __future__ import annotations

import pytest

from egressproxy.resolve.addresses import has_route, in_order, is_below_ipv4, standard_spelling

V4 = ("192.0.2.9", "192.0.2.1")


def reachable(address: str) -> bool:
    return True


def unreachable(address: str) -> bool:
    return False


def never_asked(address: str) -> bool:
    raise AssertionError(address)


@pytest.mark.parametrize(
    ("text", "spelling"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:0DB8:0:0:0:0:0:00AA", "2001:db8::aa"),
        ("::FFFF:10.0.0.1", "::ffff:10.0.0.1"),
        ("::ffff:a00:1", "::ffff:10.0.0.1"),
        ("fe80::1%eth0", None),
        ("[::1]", None),
        ("10.1", None),
        ("010.0.0.1", None),
        ("a.test", None),
        ("", None),
    ],
)
def test_an_address_has_one_spelling_and_nothing_else_has_any(text: str, spelling: str | None) -> None:
    assert standard_spelling(text) == spelling


def test_one_family_alone_keeps_the_servers_order_and_no_route_is_looked_for() -> None:
    assert in_order(V4, (), never_asked) == V4
    assert in_order((), ("fd00::1", "2001:db8::1"), never_asked) == ("fd00::1", "2001:db8::1")
    assert in_order((), (), never_asked) == ()


def test_ipv6_comes_first_where_there_is_a_route_and_last_where_there_is_none() -> None:
    assert in_order(V4, ("2001:db8::2", "2001:db8::1"), reachable) == ("2001:db8::2", "2001:db8::1", *V4)
    assert in_order(V4, ("2001:db8::2", "2001:db8::1"), unreachable) == (*V4, "2001:db8::2", "2001:db8::1")


def test_ranges_that_rank_below_ipv4_come_behind_it_each_in_the_servers_order() -> None:
    v6 = ("fd00::1", "2001:db8::1", "2002::1", "2001:db8::2")
    assert in_order(V4, v6, reachable) == ("2001:db8::1", "2001:db8::2", *V4, "fd00::1", "2002::1")


@pytest.mark.parametrize(
    "address", ["2002::1", "2001::1", "fc00::1", "fdff::1", "fec0::1", "feff::1", "3ffe::1", "::2"]
)
def test_knows_what_ranks_below_ipv4(address: str) -> None:
    assert is_below_ipv4(address)


@pytest.mark.parametrize("address", ["::1", "2001:db8::1", "2003::1", "fe80::1", "ff02::1", "::ffff:10.0.0.1"])
def test_knows_what_does_not_rank_below_ipv4(address: str) -> None:
    assert not is_below_ipv4(address)


def test_there_is_no_route_to_a_link_local_address_without_a_zone() -> None:
    assert not has_route("fe80::1")
