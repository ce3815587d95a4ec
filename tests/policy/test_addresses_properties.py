"""An address that is special stays special however it is wrapped in IPv6."""

from ipaddress import IPv4Address, IPv6Address, ip_network

from hypothesis import given
from hypothesis import strategies as st

from egressproxy.policy.addresses import METADATA, classify, judge

LOW64 = st.integers(0, 2**64 - 1)

# Each form: the IPv4 address as a number, and 64 bits to fill what the form leaves free.
FORMS = {
    "mapped": lambda v4, _: 0xFFFF << 32 | v4,
    "compatible": lambda v4, _: v4,
    "translated": lambda v4, _: 0xFFFF_0000 << 32 | v4,
    "NAT64": lambda v4, _: 0x64_FF9B << 96 | v4,
    "NAT64 local /96": lambda v4, free: 0x64_FF9B_0001 << 80 | (free & 0xFFFF_FFFF_FFFF) << 32 | v4,
    "NAT64 local /48": lambda v4, free: (
        0x64_FF9B_0001 << 80 | v4 >> 16 << 64 | (v4 & 0xFFFF) << 40 | free & 0xFFFF_FFFF
    ),
    "NAT64 local /56": lambda v4, free: 0x64_FF9B_0001 << 80 | v4 >> 24 << 64 | (v4 & 0xFF_FFFF) << 32 | free >> 32,
    "NAT64 local /64": lambda v4, free: 0x64_FF9B_0001 << 80 | v4 << 24 | free & 0xFF_FFFF,
    "6to4": lambda v4, free: 0x2002 << 112 | v4 << 80 | free,
    "Teredo server": lambda v4, free: 0x2001_0000 << 96 | v4 << 64 | free,
    "Teredo client": lambda v4, free: 0x2001_0000 << 96 | (free >> 32) << 64 | v4 ^ 0xFFFF_FFFF,
    "ISATAP": lambda v4, free: (0x2A00 << 48 | free & 0xFFFF_FFFF_FFFF) << 64 | 0x5EFE << 32 | v4,
    "ISATAP universal": lambda v4, free: (0x2A00 << 48 | free & 0xFFFF_FFFF_FFFF) << 64 | 0x0200_5EFE << 32 | v4,
}

SPECIAL = [
    ip_network(text)
    for text in [
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24"),
        *("192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24"),
        "224.0.0.0/3",
    ]
]

special_v4 = st.sampled_from(SPECIAL).flatmap(
    lambda network: st.integers(int(network.network_address), int(network.broadcast_address))
)


@given(special_v4, st.sampled_from(sorted(FORMS)), LOW64)
def test_a_special_ipv4_address_is_special_in_every_embedding(v4, form, free):
    assert classify(str(IPv4Address(v4))) is not None
    assert classify(str(IPv6Address(FORMS[form](v4, free)))) is not None


@given(st.sampled_from([text for text in METADATA if ":" not in text]), st.sampled_from(sorted(FORMS)), LOW64)
def test_a_metadata_address_is_metadata_in_every_embedding(text, form, free):
    special = classify(str(IPv6Address(FORMS[form](int(IPv4Address(text)), free))))
    assert special is not None
    assert special.name == "metadata"


@given(st.integers(0, 2**32 - 1))
def test_mapped_and_nat64_say_what_the_ipv4_address_says(v4):
    plain = classify(str(IPv4Address(v4)))
    for form in ("mapped", "NAT64"):
        wrapped = classify(str(IPv6Address(FORMS[form](v4, 0))))
        assert (wrapped and wrapped.name) == (plain and plain.name)
        assert str(IPv4Address(v4)) in judge(str(IPv6Address(FORMS[form](v4, 0)))).aliases


@given(st.integers(0, 2**128 - 1).filter(lambda value: value >> 125 != 1))
def test_ipv6_outside_global_unicast_is_closed_but_for_mapped_and_nat64(value):
    assert classify(str(IPv6Address(value))) is not None or value >> 32 in (0xFFFF, 0x64_FF9B << 64)
