"""The hosts file and resolv.conf: text to values, and a change is noticed."""

from __future__ import annotations

from pathlib import Path

import pytest

from egressproxy.resolve.files import MAX_NDOTS, ResolvConf, WatchedFile, parse_hosts, parse_resolv_conf


def test_a_hosts_line_gives_its_address_to_all_names_on_it() -> None:
    text = "# comment\n\n10.1.2.3\tother WWW.Example.Test. # x\n10.1.2.4 # nobody\n"
    assert parse_hosts(text, ipv6=True) == {"other": ("10.1.2.3",), "www.example.test": ("10.1.2.3",)}


def test_a_hosts_name_has_the_addresses_of_all_its_lines_ipv6_first_and_what_is_no_address_is_passed_over() -> None:
    text = "10.0.0.1 a\nfd00::0001 a\n10.0.0.1 a\nbroken a\nfe80::1%eth0 a\n"
    assert parse_hosts(text, ipv6=True) == {"a": ("fd00::1", "10.0.0.1")}
    assert parse_hosts(text, ipv6=False) == {"a": ("10.0.0.1",)}


@pytest.mark.parametrize(
    ("text", "servers"),
    [
        ("", ("127.0.0.1:53",)),
        ("nameserver\nnameserver nonsense\n", ("127.0.0.1:53",)),
        ("nameserver 10.0.0.1 # first\n;nameserver 10.0.0.2\nnameserver ::1\n", ("10.0.0.1:53", "[::1]:53")),
        ("nameserver 10.0.0.1:5353\nnameserver [::1]:5353\n", ("10.0.0.1:5353", "[::1]:5353")),
        ("nameserver fe80::1%eth0.5\nnameserver fe80::1%a,b\nnameserver fe80::1%\n", ("[fe80::1]:53%eth0.5",)),
        ("nameserver 10.0.0.1:0\nnameserver 10.0.0.1:65536\nnameserver 10.0.0.1:x\n", ("127.0.0.1:53",)),
    ],
)
def test_reads_the_servers_of_resolv_conf(text: str, servers: tuple[str, ...]) -> None:
    assert parse_resolv_conf(text).servers == servers


@pytest.mark.parametrize(
    ("text", "search", "ndots"),
    [
        ("search a.test B.test. a.test .\n", ("a.test", "b.test"), 1),
        ("search a.test\ndomain b.test\n", ("b.test",), 1),
        ("options rotate ndots:5 timeout:1\n", (), 5),
        ("options ndots:99\n", (), MAX_NDOTS),
        ("options ndots:x ndots:\n", (), 1),
    ],
)
def test_reads_the_search_list_of_resolv_conf(text: str, search: tuple[str, ...], ndots: int) -> None:
    conf = parse_resolv_conf(text)
    assert (conf.search, conf.ndots) == (search, ndots)


@pytest.mark.parametrize(
    ("host", "ndots", "names"),
    [
        ("git", 1, ("git.a.test", "git.b.test", "git")),
        ("git", 0, ("git", "git.a.test", "git.b.test")),
        ("cart.shop", 1, ("cart.shop",)),
        ("cart.shop", 2, ("cart.shop", "cart.shop.a.test", "cart.shop.b.test")),
        ("abc.onion", 5, ("abc.onion",)),
    ],
)
def test_names_that_may_be_meant_come_in_order(host: str, ndots: int, names: tuple[str, ...]) -> None:
    assert ResolvConf((), ("a.test", "b.test"), ndots).names_for(host) == names


def test_a_watched_file_is_read_when_it_appears_changes_and_goes(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    file = WatchedFile(str(path), str.upper)
    assert file.value == ""
    assert file.refresh(), "the first look"
    assert not file.refresh(), "still missing"
    path.write_text("one")
    assert file.refresh()
    assert file.value == "ONE"
    assert not file.refresh(), "the same as before"
    fresh = tmp_path / "fresh"
    fresh.write_text("two")
    fresh.replace(path)
    assert file.refresh(), "of the same size, but another file"
    assert file.value == "TWO"
    path.unlink()
    assert file.refresh()
    assert file.value == ""


def test_a_watched_file_that_cannot_be_read_is_empty_and_bytes_that_are_no_text_do_not_matter(tmp_path: Path) -> None:
    folder = WatchedFile(str(tmp_path), str.upper)
    assert folder.refresh()
    assert folder.value == ""
    (tmp_path / "hosts").write_bytes(b"10.0.0.1 a\n\xff\xfe\n")
    file = WatchedFile(str(tmp_path / "hosts"), lambda text: parse_hosts(text, ipv6=True))
    assert file.refresh()
    assert file.value == {"a": ("10.0.0.1",)}
