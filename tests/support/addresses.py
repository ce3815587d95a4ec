"""Any address, for property tests."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

from hypothesis import strategies as st

v4 = st.integers(0, 2**32 - 1).map(lambda number: str(IPv4Address(number)))
v6 = st.integers(0, 2**128 - 1).map(lambda number: str(IPv6Address(number)))
low_v6 = st.integers(0, 2**40).map(lambda number: str(IPv6Address(number)))
"""Where `::1`, the IPv4-compatible and, at the upper end, almost the IPv4-mapped ones lie."""
