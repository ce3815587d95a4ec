"""What name servers say, as values. Pure: records in, addresses out.

A question to the servers ends as one Answer per address family; `merge` makes the halves into the Answer for a name.
Nothing passes that was not asked for: records of other names and other kinds are passed over, and so is whatever has
no standard spelling as an address.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import pycares

from egressproxy.resolve.addresses import in_order, standard_spelling

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

A, AAAA = pycares.QUERY_TYPE_A, pycares.QUERY_TYPE_AAAA

MAX_ADDRESSES = 16
"""Addresses of one family that are kept. A DNS message has room for 4,000; the cache needs a bound in bytes too."""

Status = Literal["found", "no_address", "no_name", "failed", "timeout"]

# Of two halves that found nothing, the later in this list speaks for the name: "no" needs both to say so.
_WEIGHT: dict[Status, int] = {"no_name": 0, "no_address": 1, "failed": 2, "timeout": 3}


class Answer(NamedTuple):
    """What came of a question, about one address family or a whole name.

    status   `found`: addresses, and how long they are good for. `no_name`, `no_address`: the servers say that there are
             none. `failed`, `timeout`: they do not say
    problem  what is to be told where nothing was found, fit to stand behind the name
    """

    status: Status
    addresses: tuple[str, ...] = ()
    ttl_s: float = 0.0
    problem: str = ""


NO_NAME = Answer("no_name", problem="does not exist (NXDOMAIN)")
NO_ADDRESS = Answer("no_address", problem="has no address (NODATA)")
TIMEOUT = Answer("timeout", problem="no name server answered in time")

_SAID = {
    pycares.errno.ARES_ESERVFAIL: "SERVFAIL",
    pycares.errno.ARES_EREFUSED: "REFUSED",
    pycares.errno.ARES_ENOTIMP: "NOTIMP",
    pycares.errno.ARES_EFORMERR: "FORMERR",
}
_WITHOUT_RESULT = {
    pycares.errno.ARES_ENOTFOUND: NO_NAME,
    pycares.errno.ARES_EBADNAME: NO_NAME,
    pycares.errno.ARES_ENODATA: NO_ADDRESS,
    pycares.errno.ARES_ETIMEOUT: TIMEOUT,
    **{status: Answer("failed", problem=f"the name server said {word}") for status, word in _SAID.items()},
}


def read_answer(name: str, kind: int, result: pycares.DNSResult | None, status: int) -> Answer:
    """What c-ares hands over for the question `name`, `kind` (A or AAAA): a result, or None and its status."""
    if result is None:
        known = _WITHOUT_RESULT.get(status)
        return Answer("failed", problem=str(pycares.errno.strerror(status))) if known is None else known
    owner, ttl_s = _end_of_aliases(name, result.answer)
    found: dict[str, None] = {}
    for record in result.answer:
        if record.type != kind or record.name.lower() != owner or len(found) == MAX_ADDRESSES:
            continue
        if isinstance(record.data, (pycares.ARecordData, pycares.AAAARecordData)):
            address = standard_spelling(record.data.addr)
            if address is not None and (":" in address) == (kind == AAAA):
                found[address] = None
                ttl_s = min(ttl_s, _ttl(record))
    return Answer("found", tuple(found), ttl_s) if found else NO_ADDRESS


def _end_of_aliases(name: str, records: Sequence[pycares.DNSRecord]) -> tuple[str, float]:
    """The name at the end of the chain of CNAMEs, and the shortest TTL on the way. Each alias is followed once."""
    aliases = {
        record.name.lower(): (record.data.cname.lower(), _ttl(record))
        for record in records
        if isinstance(record.data, pycares.CNAMERecordData) and record.type == pycares.QUERY_TYPE_CNAME
    }
    shortest_s = float("inf")
    while (alias := aliases.pop(name, None)) is not None:
        name, ttl_s = alias
        shortest_s = min(shortest_s, ttl_s)
    return name, shortest_s


def _ttl(record: pycares.DNSRecord) -> int:
    """RFC 2181 section 8: a TTL with the top bit set is zero."""
    return record.ttl if record.ttl < 1 << 31 else 0


def merge(halves: Mapping[int, Answer]) -> Answer:
    """What the families say together, at least one of them. Addresses of one are enough; the shortest TTL counts."""
    found = [half for half in halves.values() if half.addresses]
    if not found:
        return max(halves.values(), key=lambda half: _WEIGHT[half.status])
    v4, v6 = halves.get(A, NO_ADDRESS), halves.get(AAAA, NO_ADDRESS)
    return Answer("found", in_order(v4.addresses, v6.addresses), min(half.ttl_s for half in found))
