import pytest

from egressproxy.config.schema import Config
from egressproxy.hostport import PortRange
from egressproxy.policy.rules import bounds_of, clauses_of, in_bounds, ranges_text


def clauses(**settings):
    config = Config.model_validate({"listeners": [{"protocol": "http-proxy", "port": 3128}], **settings})
    return list(clauses_of(config))


@pytest.mark.parametrize(
    ("ranges", "bounds"),
    [
        ([(443, 443)], (443, 444)),
        ([(443, 443), (80, 80)], (80, 81, 443, 444)),
        ([(80, 81), (82, 83)], (80, 84)),
        ([(80, 90), (85, 87), (88, 95)], (80, 96)),
        ([(1, 65535)], (1, 65536)),
    ],
)
def test_ranges_become_ascending_bounds(ranges, bounds):
    assert bounds_of([PortRange(*ports) for ports in ranges]) == bounds


def test_bounds_hold_the_first_and_last_port_of_each_range():
    bounds = bounds_of([PortRange(443, 443), PortRange(8000, 8100), PortRange(65535, 65535)])
    inside = [port for port in (442, 443, 444, 7999, 8000, 8100, 8101, 65534, 65535) if in_bounds(bounds, port)]
    assert inside == [443, 8000, 8100, 65535]


def test_ranges_are_written_short():
    assert ranges_text((80, 81, 8000, 8101)) == "80, 8000-8100"
    assert ranges_text(bounds_of(PortRange(2 * n, 2 * n) for n in range(1, 15))).endswith(", 20 and 4 more")


def test_everything_that_decides_is_a_clause_in_order():
    found = clauses(
        rules=[{"action": "deny", "hosts": ["a.com"]}, {"name": "two", "action": "allow", "hosts": ["b.com"]}],
        allow=["c.com:443", "d.com:443", "e.com:22"],
        services=[{"hosts": ["f.com"], "ports": [{"number": 443}]}],
    )
    assert [(clause.position, clause.verdict.rule, [str(host) for host in hosts]) for hosts, clause in found] == [
        (0, "rule-1", ["a.com"]),
        (1, "two", ["b.com"]),
        (2, "allow", ["c.com", "d.com"]),
        (2, "allow", ["e.com"]),
        (3, "service", ["f.com"]),
        (4, "outbound", []),
    ]


def test_a_star_among_the_hosts_means_any_host():
    ((hosts, clause), _) = clauses(rules=[{"action": "allow", "hosts": ["192.0.2.1", "*"], "private_addresses": True}])
    assert hosts == ()
    assert clause.verdict.named_addresses == {"192.0.2.1"}


def test_equal_conditions_of_many_rules_are_one_object():
    rules = [{"action": "allow", "clients": ["10.0.0.0/8"], "ports": [443], "hosts": [f"h{n}.com"]} for n in range(3)]
    found = [clause for _, clause in clauses(rules=rules)][:3]
    assert len({id(clause.clients) for clause in found}) == 1
    assert len({id(clause.ports) for clause in found}) == 1


def test_all_ports_is_no_condition():
    ((_, clause), _) = clauses(rules=[{"action": "allow", "ports": ["1-100", "101-65535"]}])
    assert clause.ports is None


def test_addresses_that_a_rule_names_are_in_its_verdict():
    hosts = ["192.0.2.1", "[2001:DB8::1]", "h1", "1.2.3.4.x1", "*.example.com"]
    ((_, clause), _) = clauses(rules=[{"action": "allow", "hosts": hosts}])
    assert clause.verdict.named_addresses == {"192.0.2.1", "2001:db8::1"}
