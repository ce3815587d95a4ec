from ipaddress import ip_address, ip_network

import pytest

from egressproxy.policy.addresses import METADATA, classify, judge, parse_address

# Range, class, the address before it and the address after it where those are public or of another class.
RANGES = [
    ("0.0.0.0/8", "reserved", None, None),
    ("10.0.0.0/8", "private", None, None),
    ("100.64.0.0/10", "cgnat", None, None),
    ("127.0.0.0/8", "loopback", None, None),
    ("169.254.0.0/16", "link-local", None, None),
    ("172.16.0.0/12", "private", None, None),
    ("192.0.0.0/24", "reserved", None, None),
    ("192.0.2.0/24", "documentation", None, None),
    ("192.88.99.0/24", "reserved", None, None),
    ("192.168.0.0/16", "private", None, None),
    ("198.18.0.0/15", "benchmarking", None, None),
    ("198.51.100.0/24", "documentation", None, None),
    ("203.0.113.0/24", "documentation", None, None),
    ("224.0.0.0/4", "multicast", None, "reserved"),
    ("233.252.0.0/24", "documentation", "multicast", "multicast"),
    ("240.0.0.0/4", "reserved", "multicast", None),
    ("255.255.255.255/32", "broadcast", "reserved", None),
    ("100::/64", "discard", "reserved", "reserved"),
    ("100:0:0:1::/64", "reserved", "discard", "reserved"),
    ("2001:2::/48", "benchmarking", "reserved", "reserved"),
    ("2001:10::/28", "orchid", "reserved", "orchid"),
    ("2001:20::/28", "orchid", "orchid", "orchid"),
    ("2001:30::/28", "orchid", "orchid", "reserved"),
    ("2001:db8::/32", "documentation", None, None),
    ("3fff::/20", "documentation", None, None),
    ("5f00::/16", "segment-routing", "reserved", "reserved"),
    ("fc00::/7", "private", "reserved", "reserved"),
    ("fe80::/10", "link-local", "reserved", "site-local"),
    ("fec0::/10", "site-local", "link-local", "multicast"),
    ("ff00::/8", "multicast", "site-local", None),
]


def name_of(address):
    special = classify(str(address))
    return special and special.name


@pytest.mark.parametrize(("text", "name", "before", "after"), RANGES)
def test_a_range_begins_and_ends_where_its_document_says(text, name, before, after):
    network = ip_network(text)
    first, last = network.network_address, network.broadcast_address
    assert name_of(last) == ("broadcast" if str(last) == "255.255.255.255" else name)
    assert name_of(first) == ("unspecified" if int(first) == 0 else name)
    assert name_of(first + (int(last) - int(first)) // 2) == name
    if int(first) > 0:
        assert name_of(first - 1) == before
    if int(last) < 2**network.max_prefixlen - 1:
        assert name_of(last + 1) == after


@pytest.mark.parametrize(
    ("text", "before", "after"),
    [
        ("2000::/3", "reserved", "reserved"),  # global unicast: all around it is nobody's
        ("2001::/23", None, None),
        ("2002::/16", None, None),
        ("64:ff9b:1::/48", "reserved", "reserved"),
        ("::ffff:0:0:0/96", "reserved", "reserved"),
    ],
)
def test_the_neighbours_of_a_block(text, before, after):
    network = ip_network(text)
    assert name_of(network.network_address - 1) == before
    assert name_of(network.broadcast_address + 1) == after


@pytest.mark.parametrize("text", ["2001::/23", "2001::/32", "2002::/16", "64:ff9b:1::/48", "::ffff:0:0:0/96", "::/96"])
def test_a_closed_block_is_closed_from_first_to_last(text):
    network = ip_network(text)
    assert name_of(network.network_address) is not None
    assert name_of(network.broadcast_address) is not None


@pytest.mark.parametrize(
    "address",
    [
        "1.1.1.1",
        "8.8.8.8",
        "9.255.255.255",
        "91.198.174.192",
        "192.31.196.1",  # AS112: reachable by design
        "223.255.255.255",
        "2606:4700::1111",
        "2a00:1450:4001::1",
        "2620:4f:8000::1",
        "3ffe::1",
    ],
)
def test_ordinary_addresses_have_no_class(address):
    assert classify(address) is None
    assert judge(address).subjects == ()


@pytest.mark.parametrize(
    ("address", "name"),
    [("0.0.0.0", "unspecified"), ("::", "unspecified"), ("::1", "loopback"), ("::2", "reserved"), ("1::", "reserved")],
)
def test_the_lowest_addresses(address, name):
    assert name_of(address) == name


def test_a_class_names_range_and_document():
    assert str(classify("10.1.2.3")) == "private (10.0.0.0/8, RFC 1918)"
    assert str(classify("64:ff9b::10.1.2.3")) == "private (10.0.0.0/8, RFC 1918; it embeds 10.1.2.3)"


# --- embeddings ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "form",
    [
        "::ffff:{v4}",
        "64:ff9b::{v4}",
        "2a00:1450::5efe:{v4}",  # ISATAP
        "2a00:1450::200:5efe:{v4}",
    ],
)
def test_an_open_form_is_as_open_as_the_address_in_it(form):
    assert classify(form.format(v4="8.8.8.8")) is None
    assert name_of(form.format(v4="10.0.0.1")) == "private"
    assert name_of(form.format(v4="127.0.0.1")) == "loopback"
    assert name_of(form.format(v4="169.254.169.254")) == "metadata"


@pytest.mark.parametrize(
    "address",
    [
        "::8.8.8.8",
        "::ffff:0:8.8.8.8",
        "64:ff9b:1::8.8.8.8",
        "2002:808:808::1",
        "2001:0:808:808:0:ffff:f7f7:f7f7",
    ],
)
def test_a_deprecated_or_local_form_stays_closed_for_a_public_address(address):
    assert name_of(address) == "transition"


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("2002:7f00:1::", "loopback"),  # 6to4 of 127.0.0.1
        ("2001:0:7f00:1:0:ffff:f7f7:f7f7", "loopback"),  # Teredo by way of a server at 127.0.0.1
        ("2001:0:808:808:0:ffff:f5ff:fffe", "private"),  # Teredo, client 10.0.0.1
        ("2001:0:808:808:0:ffff:5601:5601", "metadata"),  # Teredo, client 169.254.169.254
        ("2002:a9fe:a9fe::", "metadata"),
        ("::169.254.169.254", "metadata"),
        ("::ffff:0:169.254.169.254", "metadata"),
        ("2002:808:808::5efe:100.100.100.200", "metadata"),  # ISATAP behind 6to4
        ("fe80::5efe:192.0.0.192", "metadata"),
        ("64:ff9b:1::169.254.169.254", "metadata"),  # RFC 6052, /96
        ("64:ff9b:1:0:a9:fea9:fe00:0", "metadata"),  # /64
        ("64:ff9b:1:a9:fe:a9fe::", "metadata"),  # /56
        ("64:ff9b:1:a9fe:a9:fe00::", "metadata"),  # /48
    ],
)
def test_an_embedded_address_is_judged_wherever_it_stands(address, name):
    assert name_of(address) == name


def test_metadata_addresses_are_a_class_of_their_own():
    for address in ("169.254.169.254", "fd00:ec2::254", "100.100.100.200", "192.0.0.192"):
        assert address in METADATA
        assert name_of(address) == "metadata"
    assert {name_of(address) for address in METADATA} == {"metadata"}
    assert name_of("169.254.169.253") == "link-local"
    assert name_of("fd00:ec2::253") == "private"


def test_spelling_does_not_matter():
    assert classify("FD00:0EC2:0:0:0:0:0:0254") == classify("fd00:ec2::254")
    assert name_of("::ffff:a9fe:a9fe") == "metadata"


@pytest.mark.parametrize(
    ("address", "aliases"),
    [
        ("127.0.0.1", ()),
        ("0.0.0.0", ("127.0.0.1",)),
        ("::", ("::1", "127.0.0.1")),
        ("64:ff9b::808:808", ("8.8.8.8",)),
        ("0:0::1", ("::1",)),
    ],
)
def test_aliases_are_where_a_connection_may_arrive(address, aliases):
    assert judge(address).aliases == aliases


def test_a_mapped_address_has_its_ipv4_address_as_alias():
    assert "127.0.0.1" in judge("::ffff:127.0.0.1").aliases


@pytest.mark.parametrize(
    "text", ["", "example.com", "1.2.3", "01.2.3.4", "1.2.3.4/32", "::1%lo", "fe80::1%eth0", ":::", "1"]
)
def test_what_is_no_address_is_a_value_error(text):
    with pytest.raises(ValueError):
        classify(text)


def test_an_address_becomes_a_number():
    assert parse_address("1.2.3.4") == (int(ip_address("1.2.3.4")), False)
    assert parse_address("2001:db8::1") == (int(ip_address("2001:db8::1")), True)
