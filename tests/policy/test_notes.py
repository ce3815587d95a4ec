from egressproxy.config.schema import Config
from egressproxy.policy.policy import Policy


def notes(**settings):
    config = Config.model_validate({"listeners": [{"protocol": "http-proxy", "port": 3128}], **settings})
    return Policy.from_config(config, lambda address, port: False).notes()


def test_a_plain_configuration_has_no_notes():
    assert notes(rules=[{"action": "allow", "hosts": ["*.a.com"], "ports": [443]}, {"action": "deny"}]) == ()
    assert notes(allow=["a.com:443"]) == ()
    assert notes(outbound="allow_any") == ()


def test_rules_behind_one_that_decides_everything():
    found = notes(
        rules=[
            {"action": "allow", "hosts": ["a.com"]},
            {"name": "all", "action": "deny", "hosts": ["b.com", "*"]},
            {"name": "lost", "action": "allow", "hosts": ["b.com"]},
        ],
        allow=["c.com:443"],
        outbound="allow_any",
    )
    assert found == (
        "rule lost is never reached: rule all before it decides everything",
        "never reached: allow, outbound: allow_any; rule all before decides everything",
    )


def test_a_rule_whose_hosts_all_belong_to_earlier_rules():
    found = notes(
        rules=[
            {"name": "wide", "action": "allow", "hosts": ["*.a.com", "b.com"]},
            {"name": "lost", "action": "deny", "hosts": ["bad.a.com", "*.x.a.com", "b.com"], "ports": [22]},
            {"name": "found", "action": "deny", "hosts": ["bad.a.com", "a.com"]},
        ]
    )
    assert found == ("rule lost is never reached: earlier rules, as wide, take all of its hosts",)


def test_an_earlier_rule_with_other_conditions_hides_nothing():
    for other in ({"ports": [443]}, {"clients": ["10.0.0.0/8"]}, {"methods": ["CONNECT"]}):
        assert (
            notes(rules=[{"action": "allow", "hosts": ["a.com"], **other}, {"action": "deny", "hosts": ["a.com"]}])
            == ()
        )
    same = {"hosts": ["a.com"], "ports": [443], "clients": ["10.0.0.0/8"]}
    assert len(notes(rules=[{"action": "allow", **same}, {"action": "deny", **same}])) == 1


def test_many_rules_behind_one_are_not_all_listed():
    assert len(notes(rules=[{"action": "deny"}] + [{"action": "allow", "hosts": ["a"]}] * 100)) < 30


def test_nothing_is_allowed():
    (note,) = notes(rules=[{"action": "deny", "hosts": ["a.com"]}])
    assert note.startswith("nothing is allowed")
    assert notes()[0].startswith("nothing is allowed")


def test_report_for_all_is_told():
    assert any(note.startswith("report is on") for note in notes(report=True, allow=["a.com"]))


def test_allow_adds_nothing_to_allow_any():
    assert any(note.startswith("allow adds nothing") for note in notes(outbound="allow_any", allow=["a.com"]))


def test_a_rule_with_a_word_that_is_taken():
    (note,) = notes(rules=[{"name": "outbound", "action": "allow", "hosts": ["a.com"]}])
    assert "named outbound" in note


def test_named_addresses_that_the_guard_keeps_closed():
    found = notes(rules=[{"action": "allow", "hosts": ["10.0.0.1", "1.1.1.1"]}], allow=["127.0.0.1:80", "10.0.0.2:22"])
    assert [note.partition(",")[0] for note in found] == [
        "rule-1 names 10.0.0.1",
        "allow names 10.0.0.2",
        "allow names 127.0.0.1",
    ]
    opened = {"guard": {"allow": ["10.0.0.0/8"]}}
    assert notes(rules=[{"action": "allow", "hosts": ["10.0.0.1"]}], **opened) == ()
    assert notes(rules=[{"action": "allow", "hosts": ["10.0.0.1"], "private_addresses": True}]) == ()


def test_guard_allow_does_not_open_metadata():
    found = notes(allow=["a.com"], guard={"allow": ["169.254.169.0/24", "10.0.0.0/8"]})
    assert found == ("guard.allow holds 169.254.169.0/24, but the metadata address 169.254.169.254 in it stays closed",)
