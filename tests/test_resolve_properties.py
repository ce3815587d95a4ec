"""What the resolver reads from files and servers: any text and any records in, only addresses out."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

import pycares
from hypothesis import given
from hypothesis import strategies as st

from egressproxy import resolve

A, AAAA, CNAME, TXT = (
    pycares.QUERY_TYPE_A,
    pycares.QUERY_TYPE_AAAA,
    pycares.QUERY_TYPE_CNAME,
    pycares.QUERY_TYPE_TXT,
)

v4 = st.integers(0, 2**32 - 1).map(lambda number: str(IPv4Address(number)))
v6 = st.integers(0, 2**128 - 1).map(lambda number: str(IPv6Address(number)))
low_v6 = st.integers(0, 2**40).map(lambda number: str(IPv6Address(number)))
names = st.sampled_from(["a.test", "A.TEST", "b.test", "c.test"])
junk = st.one_of(st.text(max_size=20), v4, v6)
records = st.builds(
    lambda name, kind, data, ttl: pycares.DNSRecord(name=name, type=kind, record_class=1, ttl=ttl, data=data),
    names,
    st.sampled_from([A, AAAA, CNAME, TXT]),
    st.one_of(
        st.builds(pycares.ARecordData, junk),
        st.builds(pycares.AAAARecordData, junk),
        st.builds(pycares.CNAMERecordData, names),
        st.builds(pycares.TXTRecordData, st.binary(max_size=8)),
    ),
    st.integers(0, 2**32 - 1),
)
words = st.sampled_from(
    [
        "nameserver",
        "search",
        "domain",
        "options",
        "ndots:3",
        "ndots:",
        "ndots:999999999999",
        "127.0.0.1",
        "::1",
        "a.test",
    ]
)
config_text = st.lists(st.lists(st.one_of(words, st.text(max_size=8), v4, v6), max_size=4).map(" ".join)).map("\n".join)


@given(st.lists(records, max_size=12), st.sampled_from([A, AAAA]))
def test_whatever_records_come_only_addresses_of_the_kind_asked_for_pass(
    answer: list[pycares.DNSRecord], kind: int
) -> None:
    result = pycares.DNSResult(answer=answer, authority=[], additional=[])
    read = resolve._read_answer("a.test", kind, result, 0)
    assert len(set(read.addresses)) == len(read.addresses)
    for address in read.addresses:
        assert str(ip_address(address)) == address
        assert ip_address(address).version == (4 if kind == A else 6)
    assert bool(read.addresses) == (read.status == 0)
    if read.addresses:
        assert 0 <= read.ttl_s < 2**31


@given(st.lists(v4, unique=True, max_size=4), st.lists(v6 | low_v6, unique=True, max_size=4))
def test_ordering_loses_nothing_and_keeps_each_familys_order_within_a_rank(old: list[str], new: list[str]) -> None:
    ordered = resolve._order(tuple(old), tuple(new))
    assert sorted(ordered) == sorted(old + new)
    assert [one for one in ordered if "." in one and ":" not in one] == old
    below = [one for one in ordered if ":" in one and resolve._is_below_ipv4(one)]
    assert below == [one for one in new if resolve._is_below_ipv4(one)]


@given(config_text)
def test_any_resolv_conf_gives_servers_that_c_ares_takes(text: str) -> None:
    system = resolve._parse_resolv_conf(text)
    assert 0 <= system.ndots <= resolve.MAX_NDOTS
    channel = pycares.Channel(servers=system.servers, sock_state_cb=lambda *_: None)
    assert channel.servers
    channel.close()


@given(config_text)
def test_any_hosts_file_gives_canonical_names_with_addresses(text: str) -> None:
    for name, addresses in resolve._parse_hosts(text, ipv6=True).items():
        assert name == name.lower()
        assert addresses
        assert all(str(ip_address(address)) == address for address in addresses)
    assert all(
        ":" not in address for addresses in resolve._parse_hosts(text, ipv6=False).values() for address in addresses
    )
