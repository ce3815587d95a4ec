"""Records become addresses, and two halves become one answer."""

from __future__ import annotations

import pycares
import pytest

from egressproxy.resolve.answers import AAAA, NO_ADDRESS, NO_NAME, TIMEOUT, A, Answer, merge, read_answer

CNAME = pycares.QUERY_TYPE_CNAME
FAILED = Answer("failed", problem="the name server said SERVFAIL")


def result(*records: pycares.DNSRecord) -> pycares.DNSResult:
    return pycares.DNSResult(answer=list(records), authority=[], additional=[])


def a(name: str, address: str, ttl: int = 60) -> pycares.DNSRecord:
    return pycares.DNSRecord(name=name, type=A, record_class=1, ttl=ttl, data=pycares.ARecordData(address))


def aaaa(name: str, address: str, ttl: int = 60) -> pycares.DNSRecord:
    return pycares.DNSRecord(name=name, type=AAAA, record_class=1, ttl=ttl, data=pycares.AAAARecordData(address))


def cname(name: str, to: str, ttl: int = 60) -> pycares.DNSRecord:
    return pycares.DNSRecord(name=name, type=CNAME, record_class=1, ttl=ttl, data=pycares.CNAMERecordData(to))


def test_addresses_come_in_the_servers_order_with_the_shortest_ttl() -> None:
    given = result(a("a.test", "192.0.2.2", 90), a("A.Test", "192.0.2.1", 30), a("a.test", "192.0.2.2", 60))
    assert read_answer("a.test", A, given, 0) == Answer("found", ("192.0.2.2", "192.0.2.1"), 30)


def test_aliases_are_followed_in_whatever_order_they_come_and_their_ttl_counts() -> None:
    given = result(a("c.test", "192.0.2.1"), cname("b.test", "C.test", 20), cname("a.test", "B.test", 40))
    assert read_answer("a.test", A, given, 0) == Answer("found", ("192.0.2.1",), 20)


def test_an_alias_loop_has_no_address() -> None:
    given = result(cname("a.test", "b.test"), cname("b.test", "a.test"))
    assert read_answer("a.test", A, given, 0) == NO_ADDRESS


def test_records_of_other_names_and_kinds_are_passed_over() -> None:
    given = result(a("b.test", "192.0.2.66"), aaaa("a.test", "2001:db8::66"), aaaa("a.test", "192.0.2.66"))
    assert read_answer("a.test", A, given, 0) == NO_ADDRESS
    assert read_answer("a.test", AAAA, given, 0).addresses == ("2001:db8::66",)


def test_a_ttl_with_the_top_bit_set_is_zero() -> None:
    assert read_answer("a.test", A, result(a("a.test", "192.0.2.1", 1 << 31)), 0).ttl_s == 0


@pytest.mark.parametrize(
    ("status", "answer"),
    [
        (pycares.errno.ARES_ENOTFOUND, NO_NAME),
        (pycares.errno.ARES_EBADNAME, NO_NAME),
        (pycares.errno.ARES_ENODATA, NO_ADDRESS),
        (pycares.errno.ARES_ETIMEOUT, TIMEOUT),
        (pycares.errno.ARES_ESERVFAIL, FAILED),
        (pycares.errno.ARES_ECONNREFUSED, Answer("failed", problem="Could not contact DNS servers")),
    ],
)
def test_no_result_says_why(status: int, answer: Answer) -> None:
    assert read_answer("a.test", A, None, status) == answer


def test_addresses_of_one_family_are_enough() -> None:
    found = Answer("found", ("192.0.2.1",), 60)
    for other in (NO_NAME, NO_ADDRESS, FAILED, TIMEOUT):
        assert merge({A: found, AAAA: other}) == found
        assert merge({AAAA: other, A: found}) == found


def test_both_families_make_one_list_with_the_shortest_ttl() -> None:
    v4, v6 = Answer("found", ("127.0.0.1",), 60), Answer("found", ("fe80::1",), 30)
    assert merge({AAAA: v6, A: v4}) == Answer("found", ("127.0.0.1", "fe80::1"), 30)


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [
        (NO_NAME, NO_NAME, NO_NAME),
        (NO_NAME, NO_ADDRESS, NO_ADDRESS),
        (NO_NAME, FAILED, FAILED),
        (NO_ADDRESS, FAILED, FAILED),
        (NO_ADDRESS, TIMEOUT, TIMEOUT),
        (FAILED, TIMEOUT, TIMEOUT),
    ],
)
def test_a_no_is_believed_only_if_both_families_say_so(one: Answer, other: Answer, both: Answer) -> None:
    assert merge({A: one, AAAA: other}) == both
    assert merge({A: other, AAAA: one}) == both
