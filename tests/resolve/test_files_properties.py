"""What is read from files: any text in, only names, addresses and servers out."""

from __future__ import annotations

import pycares
from hypothesis import given
from hypothesis import strategies as st
from support.addresses import v4, v6

from egressproxy.hostport import canonical_host
from egressproxy.resolve.files import MAX_NDOTS, parse_hosts, parse_resolv_conf

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


@given(config_text)
def test_any_resolv_conf_gives_servers_that_c_ares_takes(text: str) -> None:
    conf = parse_resolv_conf(text)
    assert 0 <= conf.ndots <= MAX_NDOTS
    channel = pycares.Channel(servers=conf.servers, sock_state_cb=lambda *_: None)
    assert channel.servers
    channel.close()


@given(config_text)
def test_any_hosts_file_gives_canonical_names_with_addresses(text: str) -> None:
    for name, addresses in parse_hosts(text, ipv6=True).items():
        assert name == name.lower()
        assert addresses
        assert all(canonical_host(address) == (address, True) for address in addresses)
    assert all(":" not in address for addresses in parse_hosts(text, ipv6=False).values() for address in addresses)


@given(config_text, st.sampled_from(["a", "a.test", "a.b.test", "x.onion"]))
def test_whatever_is_searched_for_the_name_itself_is_asked_for_once_and_nothing_twice(text: str, host: str) -> None:
    names = parse_resolv_conf(text).names_for(host)
    assert names.count(host) == 1
    assert len(set(names)) == len(names)
    assert all(name == host or name.startswith(f"{host}.") for name in names)
