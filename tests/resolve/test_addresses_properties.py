"""Order, for any addresses: a rearrangement, and a stable one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from support.addresses import low_v6, v4, v6

from egressproxy.resolve.addresses import in_order, is_below_ipv4


@given(st.lists(v4, unique=True, max_size=4), st.lists(v6 | low_v6, unique=True, max_size=4), st.booleans())
def test_ordering_loses_nothing_and_keeps_each_familys_order_within_a_rank(
    old: list[str], new: list[str], reachable: bool
) -> None:
    ordered = in_order(tuple(old), tuple(new), lambda _: reachable)
    assert sorted(ordered) == sorted(old + new)
    assert [one for one in ordered if "." in one and ":" not in one] == old
    below = [one for one in ordered if ":" in one and is_below_ipv4(one)]
    assert below == [one for one in new if is_below_ipv4(one)]
    above = [one for one in ordered if ":" in one and not is_below_ipv4(one)]
    assert above == [one for one in new if not is_below_ipv4(one)]
