import gc
import weakref

from egressproxy.hostport import parse_host_pattern
from egressproxy.model import Verdict
from egressproxy.policy.hostnames import HostIndex
from egressproxy.policy.rules import Clause


def clause(position):
    return Clause(position, None, None, None, None, None, Verdict(True, f"rule-{position}", ""))


def index_of(*lists):
    """One clause per list of patterns."""
    index = HostIndex()
    for position, patterns in enumerate(lists):
        index.add([parse_host_pattern(pattern) for pattern in patterns], clause(position))
    return index


def positions(index, host):
    return [found.position for found in index.finder()(host)]


def test_finds_exact_names_and_nothing_beside_them():
    index = index_of(["example.com"], ["example.org"])
    assert positions(index, "example.com") == [0]
    assert positions(index, "www.example.com") == []
    assert positions(index, "com") == []


def test_a_suffix_is_every_name_below_and_never_the_apex():
    index = index_of(["*.example.com"])
    assert positions(index, "www.example.com") == [0]
    assert positions(index, "a.b.c.d.e.f.example.com") == [0]
    assert positions(index, "example.com") == []
    assert positions(index, "badexample.com") == []
    assert positions(index, "example.com.evil.net") == []


def test_an_address_matches_no_suffix():
    index = index_of(["*.example.com", "192.0.2.1", "2001:db8::1"])
    assert positions(index, "192.0.2.1") == [0]
    assert positions(index, "2001:db8::1") == [0]
    assert positions(index, "192.0.2.2") == []


def test_clauses_for_one_host_come_in_order_and_once():
    index = index_of(["*.com"], ["a.b.com", "*.b.com"], ["x.com"], ["a.b.com", "a.b.com"], ["*.b.com", "*.com"])
    assert positions(index, "a.b.com") == [0, 1, 3, 4]
    assert positions(index, "c.b.com") == [0, 1, 4]
    assert positions(index, "x.com") == [0, 2, 4]


def test_a_second_clause_for_one_host_leaves_the_other_hosts_of_the_first_alone():
    index = index_of(["a.com", "b.com"], ["a.com"], ["a.com"])
    assert positions(index, "a.com") == [0, 1, 2]
    assert positions(index, "b.com") == [0]


def test_says_which_clauses_have_a_pattern_for_all_that_another_names():
    index = index_of(["*.example.com"], ["www.example.com"], ["*.com"])

    def naming(pattern):
        return [found.position for found in index.naming_all_of(parse_host_pattern(pattern))]

    assert naming("www.example.com") == [0, 1, 2]
    assert naming("*.example.com") == [0, 2]
    assert naming("*.www.example.com") == [0, 2]
    assert naming("example.com") == [2]


def test_a_dropped_index_is_gone_without_the_garbage_collector():
    index = index_of(["a.com"])
    find = index.finder()
    find("a.com")
    gone = weakref.ref(find)
    gc.disable()
    try:
        del find, index
        assert gone() is None
    finally:
        gc.enable()
