import json

import pytest

from egressproxy.config.schema import Config
from egressproxy.hostport import parse_authority
from egressproxy.model import Intent
from egressproxy.policy.policy import Policy

SETTINGS = {
    "listeners": [{"protocol": "http-proxy", "port": 3128}],
    "rules": [
        {"name": "ci", "action": "allow", "clients": ["10.1.0.0/16"], "hosts": ["*.packages.example"], "ports": [443]},
        {
            "name": "git",
            "action": "allow",
            "hosts": ["git.corp.example"],
            "ports": [443, 22],
            "private_addresses": True,
        },
        {"name": "gets", "action": "deny", "methods": ["GET"]},
    ],
    "allow": ["api.github.com:443"],
    "services": [{"hosts": ["db.example"], "ports": [{"number": 5432}]}],
}


def explain(target, *addresses, client="10.1.2.3", method="CONNECT", **settings):
    config = Config.model_validate({**SETTINGS, **settings})
    judge = Policy.from_config(config, lambda address, port: (address, port) == ("127.0.0.1", 3128))
    return judge.explain(Intent(client, "l", method, parse_authority(target)), addresses)


def test_tells_the_rule_that_decides_and_that_dns_is_asked():
    assert explain("a.packages.example:443", "151.101.0.1").lines() == (
        "CONNECT a.packages.example:443 from 10.1.2.3",
        "allow (ci): allowed by rule ci",
        "inside a CONNECT: the ClientHello must ask for a.packages.example (enforce); TLS only",
        "DNS is asked for a.packages.example",
        "  151.101.0.1: dialled: public",
    )


def test_tells_which_conditions_of_a_close_rule_failed():
    assert explain("a.packages.example:80", client="10.9.0.1").lines() == (
        "CONNECT a.packages.example:80 from 10.9.0.1",
        "deny (outbound): no rule, allow entry or service lets this host and port pass",
        "  close: ci: port 80 is not among 443; client 10.9.0.1 is in none of its 1 networks",
        "  close: gets: method CONNECT is not among GET",
        "DNS is not asked: refused by name",
    )


@pytest.mark.parametrize(("target", "rule"), [("api.github.com:22", "allow"), ("db.example:5433", "service")])
def test_allow_entries_and_services_come_close_too(target, rule):
    assert rule in [miss.rule for miss in explain(target).near]


def test_a_rule_for_the_names_below_is_told_to_who_asks_for_the_apex():
    (_, miss) = explain("packages.example:443").near
    assert miss.rule == "ci"
    assert miss.failed == ("*.packages.example is every name below packages.example and not packages.example itself",)


def test_rules_after_the_deciding_one_are_not_told():
    rules = [{"action": "allow", "hosts": ["a"]}, {"action": "deny", "hosts": ["a"], "ports": [1]}]
    assert explain("a:443", rules=rules).near == ()


def test_many_close_rules_are_cut():
    rules = [{"action": "allow", "hosts": ["a", "*.a"], "ports": [port]} for port in range(1, 100)]
    assert len(explain("a:443", rules=rules).near) == 20


def test_each_address_has_its_class_and_the_next_step():
    explanation = explain("api.github.com:443", "10.0.0.1", "1.1.1.1", "64:ff9b::169.254.169.254")
    closed, public, metadata = explanation.addresses
    assert (closed.special.name, closed.dialled) == ("private", False)
    assert "write a rule for this host with private_addresses: true" in closed.reason
    assert (public.special, public.dialled) == (None, True)
    assert (metadata.special.name, metadata.dialled) == ("metadata", False)
    assert explanation.allowed


def test_open_special_addresses_say_what_opens_them():
    assert explain("git.corp.example:22", "10.0.0.1").addresses[0].reason.endswith("open by private_addresses")
    guarded = explain("api.github.com:443", "10.0.0.1", guard={"allow": ["10.0.0.0/8"]})
    assert guarded.addresses[0].reason.endswith("open by guard.allow")


def test_an_address_as_target_is_judged_and_not_looked_up():
    explanation = explain("127.0.0.1:3128", allow=["127.0.0.1:3128"])
    assert not explanation.asks_dns
    assert explanation.verdict.allowed
    assert not explanation.allowed
    assert explanation.lines()[-2:] == (
        "DNS is not asked: the target is an address",
        "  127.0.0.1: not dialled: it is this proxy itself",
    )


def test_nothing_is_dialled_where_the_name_is_refused():
    assert [finding.dialled for finding in explain("other:443", "1.1.1.1", "10.0.0.1").addresses] == [False, False]


def test_a_rule_that_refuses_is_not_advised_to_lift_the_guard():
    (finding,) = explain("other:443", "10.0.0.1", method="GET").addresses
    assert finding.reason == "private (10.0.0.0/8, RFC 1918); and the target is refused by name"


def test_the_first_word_is_the_last_one_where_the_guard_refuses_every_address():
    explanation = explain("api.github.com:443", "10.0.0.1", "10.0.0.2")
    told = explanation.lines()
    assert told[1].startswith(
        "deny (address_denied): 10.0.0.1 is private (10.0.0.0/8, RFC 1918); to open it write a rule"
    )
    assert told[2] == "  by name: allow (allow): allowed by an entry of allow"
    assert (explanation.as_dict()["allowed"], explanation.as_dict()["decided_by"]) == (False, "address_denied")


def test_a_target_that_leads_back_here_is_refused_whatever_its_other_addresses():
    explanation = explain("git.corp.example:3128", "1.1.1.1", "127.0.0.1", outbound="allow_any")
    assert explanation.lines()[1] == "deny (loop_detected): it is this proxy itself"
    assert (explanation.allowed, explanation.as_dict()["decided_by"]) == (False, "loop_detected")


def test_a_reported_refusal_is_told_as_one():
    explanation = explain("other:443", report=True)
    assert explanation.lines()[1].startswith("allow, report only (outbound): no rule")


def test_the_dictionary_is_json():
    told = json.loads(json.dumps(explain("a.packages.example:80", "10.0.0.1").as_dict()))
    assert told["allowed"] is False
    assert told["by_name"]["rule"] == "outbound"
    assert told["near"][0] == {"rule": "ci", "failed": ["port 80 is not among 443"]}
    assert told["addresses"][0]["class"] == "private"
    assert told["addresses"][0]["source"] == "RFC 1918"


@pytest.mark.parametrize(("client", "method"), [("nobody", "CONNECT"), ("10.0.0.1\n", "CONNECT"), ("10.0.0.1", "A\nB")])
def test_what_cannot_be_printed_or_is_no_client_is_a_value_error(client, method):
    with pytest.raises(ValueError):
        explain("a:443", client=client, method=method)


@pytest.mark.parametrize(
    ("settings", "lines"),
    [
        ({}, ("inside a CONNECT: not looked at",)),
        ({"ech": "deny"}, ("inside a CONNECT: looked at for ECH only", "a ClientHello with ECH is refused")),
        (
            {"ech": "deny", "sni_check": "report"},
            (
                "inside a CONNECT: the ClientHello must ask for git.corp.example (report); what is not TLS passes",
                "a ClientHello with ECH is refused; inside a CONNECT it is reported",
            ),
        ),
    ],
)
def test_tells_what_becomes_of_a_hidden_name(settings, lines):
    told = explain("git.corp.example:22", **settings).lines()
    assert told[2 : 2 + len(lines)] == lines
