from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egressproxy.policy.networks import NetworkSet, parse_client


def in_networks(client, *networks):
    return parse_client(client) in NetworkSet([ip_network(network) for network in networks])


def test_finds_the_first_and_the_last_address_and_not_their_neighbours():
    assert not in_networks("10.0.255.255", "10.1.0.0/16")
    assert in_networks("10.1.0.0", "10.1.0.0/16")
    assert in_networks("10.1.255.255", "10.1.0.0/16")
    assert not in_networks("10.2.0.0", "10.1.0.0/16")


@pytest.mark.parametrize(
    ("client", "network", "inside"),
    [
        ("192.0.2.1", "192.0.2.1/32", True),
        ("192.0.2.1", "0.0.0.0/0", True),
        ("192.0.2.1", "::/0", False),
        ("2001:db8::1", "0.0.0.0/0", False),
        ("2001:db8::1", "::/0", True),
        ("2001:db8::1", "2001:db8::1/128", True),
        ("::ffff:10.1.2.3", "10.0.0.0/8", True),
        ("10.1.2.3", "::ffff:10.0.0.0/104", True),
        ("11.1.2.3", "::ffff:10.0.0.0/104", False),
        ("fe80::1%eth0", "fe80::/10", True),
        ("0.0.0.1", "::1/128", False),
    ],
)
def test_families_are_kept_apart_and_mapped_ipv4_is_ipv4(client, network, inside):
    assert in_networks(client, network) is inside


@pytest.mark.parametrize("client", ["", "localhost", "10.0.0", "10.0.0.0/8", "fe80::1%a\nb", "fe80::1%\u00e9"])
def test_a_client_that_is_no_address_is_a_value_error(client):
    with pytest.raises(ValueError):
        parse_client(client)


def test_a_hundred_thousand_networks_cost_no_more_than_their_prefix_lengths():
    many = NetworkSet(ip_network((0x0A00_0000 + 256 * number, 24)) for number in range(100_000))
    assert many.count == 100_000
    assert len(many._v4) == 1  # one set look-up, whatever the count
    assert parse_client("10.0.0.1") in many
    assert parse_client("11.134.159.255") in many
    assert parse_client("11.134.160.0") not in many


networks = st.one_of(
    st.tuples(st.integers(0, 255).map(lambda top: IPv4Address(top << 24 | 0x0001_0203)), st.integers(0, 32)),
    st.tuples(st.integers(0, 7).map(lambda top: IPv6Address(top << 125 | 0xFFFF)), st.integers(0, 128)),
).map(lambda pair: ip_network(f"{pair[0]}/{pair[1]}", strict=False))


@given(st.lists(networks, max_size=8), st.integers(0, 255), st.integers(0, 7))
def test_says_what_the_standard_library_says(listed, v4_top, v6_top):
    found = NetworkSet(listed)
    for address in (IPv4Address(v4_top << 24 | 0x0001_0203), IPv6Address(v6_top << 125 | 0xFFFF)):
        expected = any(ip_address(address) in network for network in listed if network.version == address.version)
        assert (parse_client(str(address)) in found) is expected
