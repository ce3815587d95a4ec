import time

import pytest

from egressproxy.config.schema.config import Config
from egressproxy.hostport import PortRange
from egressproxy.policy.conditions import Surroundings
from egressproxy.policy.rules import bounds_of, clauses_of, in_bounds, ranges_text


def clauses(**settings):
    config = Config.model_validate({"listeners": [{"protocol": "http-proxy", "port": 3128}], **settings})
    return list(clauses_of(config, Surroundings(config.listeners, time.localtime)))


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


def test_equal_paths_of_rules_that_say_the_same_are_one_object():
    rules = [
        {"action": action, "paths": ["/a/*"], "hosts": [f"h{n}.com"]}
        for n, action in enumerate(["allow", "allow", "deny"])
    ]
    one, two, other = [clause.paths for _, clause in clauses(rules=rules)][:3]
    assert one is two
    assert one is not other


def test_aliases_are_hosts_of_their_service():
    service = {"hosts": ["f.com"], "aliases": ["f"], "ports": [{"number": 443}]}
    ((hosts, clause), _) = clauses(services=[service])
    assert [str(host) for host in hosts] == ["f.com", "f"]
    assert clause.verdict.rule == "service"


def test_all_ports_is_no_condition():
    ((_, clause), _) = clauses(rules=[{"action": "allow", "ports": ["1-100", "101-65535"]}])
    assert clause.ports is None


def test_addresses_that_a_rule_names_are_in_its_verdict():
    hosts = ["192.0.2.1", "[2001:DB8::1]", "h1", "1.2.3.4.x1", "*.example.com"]
    ((_, clause), _) = clauses(rules=[{"action": "allow", "hosts": hosts}])
    assert clause.verdict.named_addresses == {"192.0.2.1", "2001:db8::1"}


# --- what a verdict carries into the tunnel -----------------------------------------------------------------------

ALLOWED = {"action": "allow", "hosts": ["a.com"]}
SERVICE = {"hosts": ["f.com"], "ports": [{"number": 443}]}


def verdicts(**settings):
    """By the word for what decides."""
    return {clause.verdict.rule: clause.verdict for _, clause in clauses(**settings)}


def verdict_of(**rule):
    return verdicts(rules=[{**ALLOWED, **rule}])["rule-1"]


def everything(**settings):
    """The verdicts of all that can decide, under these settings."""
    rules = [ALLOWED, {"action": "deny", "hosts": ["b.com"], "report": True}]
    found = verdicts(rules=rules, allow=["c.com"], services=[SERVICE], **settings)
    assert list(found) == ["rule-1", "rule-2", "allow", "service", "outbound"]
    return found.values()


def test_without_settings_tls_is_checked_on_443_and_ech_may_pass():
    for verdict in everything():
        assert (verdict.sni_check, verdict.require_tls, verdict.ech) == (None, None, True)
        assert (verdict.check_on(443), verdict.check_on(8443)) == ("report" if verdict.reported else "enforce", "off")
        assert (verdict.proxy_protocol, verdict.dials_original) == (0, False)


@pytest.mark.parametrize("word", ["enforce", "report", "off"])
def test_what_is_set_for_all_holds_for_everything_that_decides_and_on_every_port(word):
    for verdict in everything(sni_check=word, ech="deny"):
        assert (verdict.check_on(443), verdict.check_on(8443), verdict.ech) == (word, word, False)
    for verdict in everything(outbound="allow_any", sni_check=word, ech="deny"):
        assert (verdict.check_on(443), verdict.ech) == (word, False)


@pytest.mark.parametrize("everywhere", [{}, {"sni_check": "enforce", "ech": "deny"}, {"sni_check": "off"}], ids=repr)
@pytest.mark.parametrize("word", ["enforce", "report", "off"])
def test_a_rule_says_otherwise_for_itself_alone(everywhere, word):
    rules = [{**ALLOWED, "sni_check": word, "ech": "allow"}, {"action": "allow", "hosts": ["b.com"]}]
    found = verdicts(rules=rules, **everywhere)
    assert (found["rule-1"].check_on(443), found["rule-1"].check_on(22), found["rule-1"].ech) == (word, word, True)
    assert found["rule-2"].sni_check == everywhere.get("sni_check")
    assert found["rule-2"].ech is (everywhere.get("ech") != "deny")


@pytest.mark.parametrize("value", [True, False])
def test_whether_tls_is_required_is_the_rules_to_say(value):
    assert verdict_of(require_tls=value).require_tls is value
    assert verdict_of(require_tls=value).sni_check is None


@pytest.mark.parametrize(("word", "version"), [("v1", 1), ("v2", 2)])
def test_the_header_for_the_upstream_is_the_rules_to_ask_for(word, version):
    assert verdict_of(proxy_protocol=word).proxy_protocol == version
    assert verdict_of().proxy_protocol == 0


def test_only_a_service_without_resolution_dials_what_was_dialled():
    services = [{**SERVICE, "resolution": "none"}]
    found = verdicts(rules=[ALLOWED], allow=["c.com"], services=services, outbound="allow_any")
    assert [name for name, verdict in found.items() if verdict.dials_original] == ["service"]
    assert not verdicts(services=[{**SERVICE, "resolution": "dns"}])["service"].dials_original
