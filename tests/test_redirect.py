"""The text of the capture rules. What they do in a kernel is tried in runtime/test_nftables.py."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.addresses import v4, v6

from egressproxy.hostport import PortRange
from egressproxy.redirect import (
    Capture,
    faults,
    notes,
    parse_networks,
    parse_ports,
    printed,
    removal,
    routing,
    routing_removal,
    rules,
)

OWN = Capture(15_001, uid=1337)
ROUTED = Capture(15_001, own=False, routed=True)


def networks(*texts: str):
    return tuple(map(ip_network, texts))


# --- what is printed ----------------------------------------------------------------------------------------------


def test_the_rules_for_a_pod_of_its_own():
    assert printed(OWN) == (
        "# TCP to ports 443 of programs on this host goes to port 15001 (redirect).\n"
        "# Note: only TCP is captured: QUIC (UDP) goes past the proxy unless a firewall stops it.\n"
        "# Note: the listener should have the address ::, which takes IPv4 and IPv6; where it does not listen, what is "
        "captured is refused.\n"
        "table inet egressproxy\n"
        "delete table inet egressproxy\n"
        "table inet egressproxy {\n"
        "\tchain capture {\n"
        "\t\ttcp dport { 443 } redirect to :15001\n"
        "\t}\n"
        "\n"
        "\tchain output {\n"
        "\t\ttype nat hook output priority -105; policy accept;\n"
        '\t\toifname "lo" return\n'
        "\t\tmeta skuid 1337 return\n"
        "\t\ttcp flags & (fin | syn | rst | ack) == syn jump capture\n"
        "\t}\n"
        "\n"
        "\tchain strays {\n"
        "\t\ttype filter hook postrouting priority 0; policy accept;\n"
        '\t\toifname "lo" return\n'
        "\t\tmeta skuid 1337 return\n"
        "\t\tfib saddr type != local return\n"
        "\t\tct state != invalid return\n"
        "\t\ttcp dport { 443 } drop\n"
        "\t}\n"
        "}\n"
    )


def test_tproxy_is_printed_with_the_routing_that_it_needs():
    lines = printed(OWN._replace(mode="tproxy")).splitlines()
    assert [line for line in lines if line.startswith("#   ")] == [
        "#   ip -4 route replace local default dev lo table 8192",
        "#   ip -4 rule add pref 8 fwmark 0x2000/0x2000 lookup 8192",
        "#   ip -6 route replace local default dev lo table 8192",
        "#   ip -6 rule add pref 8 fwmark 0x2000/0x2000 lookup 8192",
    ]
    assert "\t\tmeta l4proto tcp tproxy to :15001 meta mark set meta mark or 0x2000 accept" in lines


def test_everything_but_the_rules_is_in_comments():
    for capture in (OWN, ROUTED, OWN._replace(mode="tproxy", routed=True, uid=0)):
        text = printed(capture)
        comments = "".join(line for line in text.splitlines(keepends=True) if line.startswith("#"))
        assert text == comments + rules(capture)


def test_each_way_has_its_hook():
    for mode, hook in (("redirect", "type nat hook"), ("tproxy", "type route hook")):
        assert f"{hook} output" in rules(OWN._replace(mode=mode))
        assert "hook output" not in rules(ROUTED._replace(mode=mode))
    assert "hook prerouting" not in rules(OWN)
    assert "type nat hook prerouting" in rules(ROUTED)


def test_without_own_no_user_is_looked_at():
    assert "skuid" not in rules(ROUTED) + rules(ROUTED._replace(mode="tproxy"))


@pytest.mark.parametrize("mode", ["redirect", "tproxy"])
@pytest.mark.parametrize(
    ("include", "exclude", "expected"),
    [
        ((), (), []),
        ((), ("10.0.0.0/8", "fd00::/8"), ["ip daddr { 10.0.0.0/8 } return", "ip6 daddr { fd00::/8 } return"]),
        ((), ("10.0.0.0/8", "10.1.0.0/16", "10.0.0.1"), ["ip daddr { 10.0.0.0/8 } return"]),
        ((), ("192.0.2.0/25", "192.0.2.128/25"), ["ip daddr { 192.0.2.0/24 } return"]),
        ((), ("192.0.2.1", "192.0.2.9"), ["ip daddr { 192.0.2.1/32, 192.0.2.9/32 } return"]),
        ((), ("0.0.0.0/0",), ["meta nfproto ipv4 return"]),
        ((), ("::/1", "8000::/1"), ["meta nfproto ipv6 return"]),
        (("192.0.2.0/24",), (), ["ip daddr != { 192.0.2.0/24 } return", "meta nfproto ipv6 return"]),
        (("2001:db8::/32",), (), ["meta nfproto ipv4 return", "ip6 daddr != { 2001:db8::/32 } return"]),
        (("0.0.0.0/0", "::/0"), (), []),
        (
            ("0.0.0.0/0", "2001:db8::/32"),
            ("10.0.0.0/8", "2001:db8::1"),
            [
                "ip daddr { 10.0.0.0/8 } return",
                "ip6 daddr { 2001:db8::1/128 } return",
                "ip6 daddr != { 2001:db8::/32 } return",
            ],
        ),
    ],
)
def test_networks_are_left_out_before_ports_are_looked_at(mode, include, exclude, expected):
    text = rules(OWN._replace(mode=mode, include=networks(*include), exclude=networks(*exclude)))
    capture, strays = (text.partition(f"chain {name} {{\n")[2].partition("\t}\n")[0] for name in ("capture", "strays"))
    assert [line.strip() for line in capture.splitlines()[:-1]] == expected
    assert [line.strip() for line in strays.splitlines()[-1 - len(expected) : -1]] == expected


def test_removal_names_the_table_first_so_that_it_need_not_be_there():
    assert removal() == "table inet egressproxy\ndelete table inet egressproxy\n"
    assert rules(OWN).startswith(removal())


def test_routing_is_taken_back_as_it_was_put():
    for family in ("-4", "-6"):
        (route, rule), (no_rule, no_route) = routing(family), routing_removal(family)
        assert [word for word in route if word != "replace"] == [word for word in no_route if word != "del"]
        assert [word for word in rule if word != "add"] == [word for word in no_rule if word != "del"]


def test_a_capture_is_told_in_one_line():
    assert str(ROUTED._replace(mode="tproxy", own=True, ports=parse_ports("443,8000-8100"))) == (
        "TCP to ports 443, 8000-8100 of programs on this host and what is routed through it goes to port 15001 (tproxy)"
    )


# --- what people write --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("443", "443"),
        ("443,80", "80 443"),
        ("80, 443 ,8000-8100", "80 443 8000-8100"),
        ("80,80", "80"),
        ("80-90,85-100,101,103", "80-101 103"),
        ("8000-8100,8050", "8000-8100"),
        ("1-65535", "1-52 54-65535"),
        ("52-53", "52"),
        ("53-54", "54"),
        ("53,443", "443"),
    ],
)
def test_ports_are_sorted_and_merged_and_dns_is_none_of_them(text, expected):
    assert " ".join(map(str, parse_ports(text))) == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("53", "expected ports other than 53: DNS is not captured"),
        ("53-53", "expected ports other than 53"),
        ("", "expected a port like 443 or a range like 8000-8100, got ''"),
        ("80,", "got ''"),
        ("0", "got '0'"),
        ("80-65536", "expected ports from 1 to 65535"),
        ("90-80", "expected the lower port first"),
        ("https", "got 'https'"),
    ],
)
def test_wrong_ports_are_named(text, said):
    with pytest.raises(ValueError) as caught:
        parse_ports(text)
    assert said in str(caught.value)


@given(st.lists(st.tuples(st.integers(1, 120), st.integers(0, 9)), min_size=1, max_size=8))
def test_parsed_ports_are_the_ports_that_were_written(pairs):
    wanted = {port for low, more in pairs for port in range(low, low + more + 1)} - {53}
    text = ",".join(str(PortRange(low, low + more)) for low, more in pairs)
    if not wanted:
        return
    found = parse_ports(text)
    assert {port for low, high in found for port in range(low, high + 1)} == wanted
    assert all(one.high + 1 < other.low for one, other in pairwise(found))


def test_networks_may_be_repeated_or_have_commas():
    assert parse_networks(["10.0.0.0/8,fd00::/8", "192.0.2.1"]) == networks("10.0.0.0/8", "fd00::/8", "192.0.2.1/32")
    assert parse_networks([]) == ()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("10.0.0.1/8", "'10.0.0.1/8' has host bits set; did you mean 10.0.0.0/8?"),
        (
            "::ffff:10.0.0.0/104",
            "'::ffff:10.0.0.0/104' is a network of IPv4 addresses; write it as such, like 10.0.0.0/8",
        ),
        ("cluster", "expected a network like 10.0.0.0/8 or fd00::/8, got 'cluster'"),
        ("10.0.0.0/8,", "got ''"),
        ("10.0.0.0/33", "got '10.0.0.0/33'"),
        ("fe80::1%eth0", "got 'fe80::1%eth0'"),
        ("fe80::%a;drop/64", "got 'fe80::%a;drop/64'"),
    ],
)
def test_wrong_networks_are_named(text, said):
    with pytest.raises(ValueError) as caught:
        parse_networks([text])
    assert said in str(caught.value)


@given(st.lists(st.one_of(v4, v6), max_size=5), st.one_of(v4, v6))
def test_excluded_addresses_are_in_the_rules_and_no_others(excluded, other):
    text = rules(OWN._replace(exclude=networks(*excluded)))
    listed = [ip_network(word.strip(" ,")) for word in text.split() if "/" in word]
    inside = any(ip_address(other) in network for network in listed)
    assert inside == any(ip_address(other) == ip_address(address) for address in excluded)
    assert all(any(ip_address(address) in network for network in listed) for address in excluded)


# --- what is wrong, and what is to be known -----------------------------------------------------------------------


def test_rules_that_would_catch_the_proxy_are_refused():
    assert faults(OWN) == faults(ROUTED) == []
    (said,) = faults(OWN._replace(uid=None))
    assert said.startswith("expected the proxy's own user (--user), or its connections would come back to it")


def test_rules_that_capture_nothing_are_refused():
    assert faults(ROUTED._replace(routed=False)) == [
        "nothing would be captured: neither programs on this host nor what is routed through it"
    ]


def test_under_tproxy_the_listeners_port_is_not_captured():
    wide = OWN._replace(ports=parse_ports("1-65535"))
    assert faults(wide) == []
    (said,) = faults(wide._replace(mode="tproxy"))
    assert "the listener's own, 15001, cannot be among them" in said
    assert faults(OWN._replace(mode="tproxy")) == []


def test_root_as_the_proxys_user_is_noted():
    assert any("root" in note for note in notes(OWN._replace(uid=0)))
    assert not any("root" in note for note in notes(OWN))


def test_what_tproxy_needs_is_noted():
    assert any("CAP_NET_ADMIN" in note for note in notes(OWN._replace(mode="tproxy")))
    assert not any("CAP_NET_ADMIN" in note for note in notes(OWN))
