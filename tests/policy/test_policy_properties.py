"""The index says what a walk through the rules says; spelling and the number of entries change no verdict."""

from dataclasses import replace
from ipaddress import ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from egressproxy.config.schema.config import Config
from egressproxy.config.schema.rules import Rule
from egressproxy.hostport import HostPattern, parse_allow_entry, parse_authority
from egressproxy.model import Intent
from egressproxy.policy.policy import Policy

LISTENERS = [{"protocol": "http-proxy", "port": 3128}]

# Few words, so that patterns and targets meet often.
labels = st.sampled_from(["a", "b", "www", "xn--bcher-kva"])
names = st.lists(labels, min_size=1, max_size=4).map(".".join)
addresses = st.sampled_from(["192.0.2.1", "10.0.0.1", "2001:db8::1"])
patterns = st.one_of(names, names.map(lambda name: f"*.{name}"), addresses, st.just("*"))
port_ranges = st.sampled_from([80, 443, "443-444", "1-65535"])
networks = st.sampled_from(["10.0.0.0/8", "10.1.0.0/16", "0.0.0.0/0", "2001:db8::/32", "10.1.2.3/32"])


def some(values):
    return st.none() | st.lists(values, min_size=1, max_size=3)


rules = st.builds(
    dict,
    action=st.sampled_from(["allow", "deny"]),
    hosts=some(patterns),
    ports=some(port_ranges),
    clients=some(networks),
    methods=some(st.sampled_from(["CONNECT", "GET"])),
    paths=some(st.sampled_from(["/*", "/a/*", "/a", "/a/b"])),
).map(lambda rule: {key: value for key, value in rule.items() if value is not None})
allow_entries = st.tuples(
    st.one_of(names, names.map(lambda name: f"*.{name}"), st.sampled_from(["192.0.2.1", "[2001:db8::1]", "*"])),
    st.sampled_from(["", ":443", ":80", ":*", ":443-444"]),
).map("".join)
services = st.builds(
    dict,
    hosts=st.lists(names | names.map(lambda name: f"*.{name}"), min_size=1, max_size=2),
    ports=st.lists(st.sampled_from([80, 443]), min_size=1, max_size=2, unique=True).map(
        lambda numbers: [{"number": number} for number in numbers]
    ),
)
configs = st.builds(
    dict,
    listeners=st.just(LISTENERS),
    rules=st.lists(rules, max_size=6),
    allow=st.lists(allow_entries, max_size=3),
    services=st.lists(services, max_size=2),
    outbound=st.sampled_from(["registry_only", "allow_any"]),
).map(Config.model_validate)
targets = st.tuples(
    st.one_of(names, names, st.sampled_from(["192.0.2.1", "10.0.0.1", "[2001:db8::1]"])),
    st.sampled_from([80, 443, 444, 22]),
).map(lambda pair: f"{pair[0]}:{pair[1]}")
intents = st.builds(
    Intent,
    client=st.sampled_from(["10.1.2.3", "10.2.0.1", "192.0.2.7", "2001:db8::7"]),
    listener=st.just("l"),
    method=st.sampled_from(["CONNECT", "GET"]),
    target=targets.map(parse_authority),
    path=st.sampled_from([None, "/", "/a", "/a/", "/a/b", "*"]),  # how others are read is for test_paths_properties.py
)


def policy(config):
    return Policy.from_config(config, lambda address, port: False)


def names_host(pattern, target):
    if pattern.kind == "any":
        return True
    if pattern.kind == "suffix":
        return not target.is_address and target.host.endswith("." + pattern.host)
    return target.host == pattern.host


def names_path(pattern, path):
    return path.startswith(pattern[:-1]) if pattern.endswith("/*") else path == pattern


def decided_slowly(config, intent):
    """What DESIGN says, read aloud: (allowed, rule)."""
    target = intent.target
    for number, rule in enumerate(config.rules, 1):
        client = ip_address(intent.client)
        if (
            (rule.hosts is None or any(names_host(pattern, target) for pattern in rule.hosts))
            and (rule.ports is None or any(low <= target.port <= high for low, high in rule.ports))
            and (rule.methods is None or intent.method in rule.methods)
            and (
                rule.paths is None or (intent.path and any(names_path(pattern, intent.path) for pattern in rule.paths))
            )
            and (rule.clients is None or any(client in net for net in rule.clients if net.version == client.version))
        ):
            return rule.action == "allow", rule.name or f"rule-{number}"
    for entry in config.allow:
        pattern, (low, high) = parse_allow_entry(entry)
        if names_host(pattern, target) and low <= target.port <= high:
            return True, "allow"
    for service in config.services:
        registered = target.port in [port.number for port in service.ports]
        if registered and any(names_host(pattern, target) for pattern in service.hosts):
            return True, "service"
    return config.outbound == "allow_any", "outbound"


@settings(max_examples=400)
@given(configs, st.lists(intents, min_size=1, max_size=5))
def test_says_what_a_walk_through_the_rules_says(config, asked):
    judge = policy(config)
    for intent in asked:
        verdict = judge.decide(intent)
        assert (verdict.allowed, verdict.rule) == decided_slowly(config, intent)


@given(configs, intents, st.data())
def test_letter_case_and_one_trailing_dot_change_no_verdict(config, intent, data):
    host, _, port = str(intent.target).rpartition(":")
    other = "".join(data.draw(st.sampled_from([letter, letter.upper()])) for letter in host)
    if not intent.target.is_address:
        other += data.draw(st.sampled_from(["", "."]))
    judge = policy(config)
    assert judge.decide(intent._replace(target=parse_authority(f"{other}:{port}"))) is judge.decide(intent)


@given(configs, intents, st.none() | names, st.booleans())
def test_a_name_inside_passes_if_it_is_the_one_granted_or_may_be_reached_by_itself(config, intent, server_name, ech):
    judge = policy(config)
    verdict = judge.decide(intent)
    outcome = judge.agree(intent, verdict, server_name, ech)
    target = intent.target
    if not target.is_address:
        expected = "no_sni" if server_name is None else "match" if server_name == target.host else "mismatch"
    elif server_name is None:
        expected = "match"
    else:
        inside = intent._replace(target=parse_authority(f"{server_name}:{target.port}"))
        expected = "match" if decided_slowly(config, inside)[0] else "mismatch"
    assert outcome == expected
    assert judge.agree(intent, replace(verdict, ech=False), server_name, ech) == ("ech" if ech else expected)


@given(configs)
def test_any_configuration_can_be_told_about(config):
    assert all(message.isprintable() for _, message in policy(config).notes())


@given(configs, intents, st.lists(st.sampled_from(["1.1.1.1", "10.0.0.1", "::1", "169.254.169.254"]), max_size=3))
def test_an_explanation_ends_in_the_verdict_of_the_decision(config, intent, found):
    judge = policy(config)
    explanation = judge.explain(intent, found)
    assert explanation.verdict is judge.decide(intent)
    assert explanation.asks_dns == (explanation.verdict.allowed and not intent.target.is_address)
    assert all(line.isprintable() for line in explanation.lines())


# --- the number of entries ----------------------------------------------------------------------------------------

MEANT = ["api.example.com", "*.example.org", "192.0.2.1", "2001:db8::1"]
ASKED = [
    "api.example.com:443",
    "api.example.com:80",
    "www.api.example.com:443",
    "example.com:443",
    "a.b.example.org:443",
    "example.org:443",
    "192.0.2.1:443",
    "192.0.2.2:443",
    "[2001:db8::1]:443",
    "host-7.of-many.example.net:443",
]
EXPECTED = [True, False, False, False, True, False, True, False, True]


def filled(count):
    """MEANT in the middle of `count` other entries of one rule."""
    config = Config.model_validate(
        {"listeners": LISTENERS, "rules": [{"action": "allow", "hosts": MEANT, "ports": [443]}, {"action": "deny"}]}
    )
    fill = [HostPattern("exact", f"host-{number}.of-many.example.net") for number in range(count)]
    first = config.rules[0].model_copy(
        update={"hosts": (*fill[: count // 2], *(config.rules[0].hosts or ()), *fill[count // 2 :])}
    )
    return config.model_copy(update={"rules": (first, config.rules[1])})


@pytest.mark.parametrize("count", [1, 100, 10_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_verdicts_are_equal_with_any_number_of_entries(count):
    judge = policy(filled(count))
    verdicts = [judge.decide(Intent("10.0.0.1", "l", "CONNECT", parse_authority(text))) for text in ASKED]
    assert [verdict.allowed for verdict in verdicts[:-1]] == EXPECTED
    assert verdicts[-1].allowed is (count > 7)


@pytest.mark.parametrize("count", [1, 100, 10_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_verdicts_are_equal_with_any_number_of_rules(count):
    one = Rule.model_validate({"action": "allow", "hosts": ["a"], "ports": [443]})
    fill = [one.model_copy(update={"hosts": (HostPattern("exact", f"host-{n}.net"),)}) for n in range(count)]
    meant = Rule.model_validate({"name": "meant", "action": "allow", "hosts": MEANT, "ports": [443]})
    rest = Rule.model_validate({"name": "rest", "action": "deny"})
    config = Config.model_validate({"listeners": LISTENERS}).model_copy(update={"rules": (*fill, meant, rest)})
    judge = policy(config)
    verdicts = [judge.decide(Intent("10.0.0.1", "l", "CONNECT", parse_authority(text))) for text in ASKED[:-1]]
    assert [verdict.allowed for verdict in verdicts] == EXPECTED
    assert {verdict.rule for verdict in verdicts} == {"meant", "rest"}
    assert judge.decide(Intent("10.0.0.1", "l", "CONNECT", parse_authority(f"host-{count - 1}.net:443"))).rule == (
        f"rule-{count}"
    )
