"""What is read from servers: any records in, only addresses of the kind asked for out."""

from __future__ import annotations

from ipaddress import ip_address

import pycares
from hypothesis import given
from hypothesis import strategies as st
from support.addresses import v4, v6

from egressproxy.hostport import canonical_host
from egressproxy.resolve.answers import AAAA, A, read_answer

CNAME, TXT = pycares.QUERY_TYPE_CNAME, pycares.QUERY_TYPE_TXT

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


@given(st.lists(records, max_size=12), st.sampled_from([A, AAAA]))
def test_whatever_records_come_only_addresses_of_the_kind_asked_for_pass(
    answer: list[pycares.DNSRecord], kind: int
) -> None:
    result = pycares.DNSResult(answer=answer, authority=[], additional=[])
    read = read_answer("a.test", kind, result, 0)
    assert len(set(read.addresses)) == len(read.addresses)
    for address in read.addresses:
        assert canonical_host(address) == (address, True)
        assert ip_address(address).version == (4 if kind == A else 6)
    assert read.status == ("found" if read.addresses else "no_address")
    if read.addresses:
        assert 0 <= read.ttl_s < 2**31
