"""The first clause that matches, and what is said while that cannot be known."""

from egressproxy.hostport import HostPattern, parse_authority
from egressproxy.model import Intent, Verdict
from egressproxy.policy.rules import Clause
from egressproxy.policy.table import ClauseTable

UNDECIDED = Verdict(False, "later", "", needs_addresses=True)


class Says:
    """A test whose answer is written down; what it answers with addresses is another matter."""

    def __init__(self, without, with_addresses=None):
        self.without, self.with_addresses = without, with_addresses

    def holds(self, intent, addresses):
        return self.without if addresses is None else self.with_addresses

    def why_not(self, intent):
        return "it says so"


def clause(position, further=None, ports=None):
    return Clause(position, ports, None, None, None, further, Verdict(True, f"rule-{position}", ""))


def table(*clauses):
    return ClauseTable(clauses, UNDECIDED)


def first(found, host="a.example", addresses=None):
    verdict = found.first(Intent("10.0.0.1", "l", "CONNECT", parse_authority(host, 443)), addresses)
    return None if verdict is None else verdict.rule


NAMED = (HostPattern("exact", "a.example"),)
ANY = ()


def test_none_matches_where_there_is_none():
    assert first(table()) is None
    assert first(table((NAMED, clause(0))), "b.example") is None
    assert first(table((ANY, clause(0, ports=(80, 81))))) is None


def test_the_lowest_position_wins_whether_it_names_the_host_or_any():
    assert first(table((NAMED, clause(0)), (ANY, clause(1)))) == "rule-0"
    assert first(table((ANY, clause(0)), (NAMED, clause(1)))) == "rule-0"


def test_what_further_conditions_refuse_is_passed_over():
    assert first(table((NAMED, clause(0, Says(False))), (ANY, clause(1, Says(True))))) == "rule-1"


def test_a_doubt_that_comes_first_is_the_answer_until_addresses_are_known():
    found = table((NAMED, clause(0, Says(None, True))), (ANY, clause(1)))
    assert first(found) == "later"
    assert first(found, addresses=("10.0.0.9",)) == "rule-0"
    found = table((ANY, clause(0, Says(None, False))), (NAMED, clause(1)))
    assert first(found) == "later"
    assert first(found, addresses=("10.0.0.9",)) == "rule-1"


def test_a_doubt_behind_what_matches_is_none():
    assert first(table((ANY, clause(0)), (NAMED, clause(1, Says(None))))) == "rule-0"
    assert first(table((NAMED, clause(0)), (ANY, clause(1, Says(None))))) == "rule-0"


def test_the_clauses_about_a_host_come_in_order():
    found = table((ANY, clause(0)), (NAMED, clause(1)), (ANY, clause(2)))
    assert [each.position for each in found.about("a.example")] == [0, 1, 2]
    assert [each.position for each in found.about("b.example")] == [0, 2]
