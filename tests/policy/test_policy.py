import pytest

from egressproxy.config.schema.config import Config, built_in
from egressproxy.errors import (
    AddressDenied,
    EchDenied,
    HostUnknown,
    LoopDetected,
    NoEndpoint,
    NoRoute,
    RuleDenied,
)
from egressproxy.hostport import parse_authority
from egressproxy.model import Endpoint, Intent
from egressproxy.policy.policy import Policy

OWN = {("127.0.0.1", 3128), ("::1", 3128), ("203.0.113.9", 3128), ("127.0.0.1", 9090)}


def policy(**settings):
    config = Config.model_validate({"listeners": [{"protocol": "http-proxy", "port": 3128}], **settings})
    return Policy.from_config(config, lambda address, port: (address, port) in OWN)


def intent(target, client="10.1.2.3", method="CONNECT", path=None):
    return Intent(client, "http-proxy:3128", method, parse_authority(target, 443), path=path)


def decided_by(judge, target, **who):
    """The rule that decides, with a sign: does it let the target pass?"""
    verdict = judge.decide(intent(target, **who))
    return ("+" if verdict.allowed else "-") + verdict.rule + ("?" if verdict.reported else "")


def screened(judge, target, *addresses, **who):
    asked = intent(target, **who)
    return [endpoint.address for endpoint in judge.screen(asked, judge.decide(asked), addresses)]


# --- by name ------------------------------------------------------------------------------------------------------


def test_nothing_is_allowed_where_nothing_is_written():
    assert decided_by(policy(), "example.com") == "-outbound"
    with pytest.raises(RuleDenied, match=r"no rule, allow entry or service .*: example\.com:443"):
        policy().decide(intent("example.com")).enforce(intent("example.com"))


def test_the_first_rule_that_matches_decides():
    rules = [
        {"name": "no", "action": "deny", "hosts": ["bad.example.com"]},
        {"name": "yes", "action": "allow", "hosts": ["*.example.com"]},
        {"name": "never", "action": "deny", "hosts": ["*.example.com"]},
    ]
    judge = policy(rules=rules)
    assert decided_by(judge, "bad.example.com") == "-no"
    assert decided_by(judge, "good.example.com") == "+yes"
    assert decided_by(policy(rules=rules[::-1]), "good.example.com") == "-never"


def test_rules_for_any_host_take_their_place_among_those_that_name_one():
    judge = policy(
        rules=[
            {"action": "deny", "ports": [22]},
            {"action": "allow", "hosts": ["git.example.com"]},
            {"action": "deny", "hosts": ["*"], "methods": ["GET"]},
            {"action": "allow", "hosts": ["*.example.com"]},
            {"action": "deny"},
        ]
    )
    assert decided_by(judge, "git.example.com:22") == "-rule-1"
    assert decided_by(judge, "git.example.com:443") == "+rule-2"
    assert decided_by(judge, "git.example.com:443", method="GET") == "+rule-2"
    assert decided_by(judge, "www.example.com:443", method="GET") == "-rule-3"
    assert decided_by(judge, "www.example.com:443") == "+rule-4"
    assert decided_by(judge, "other.net") == "-rule-5"


def test_all_conditions_of_a_rule_must_hold():
    judge = policy(
        rules=[
            {
                "action": "allow",
                "clients": ["10.1.0.0/16", "2001:db8::/32"],
                "hosts": ["*.packages.example", "files.example.net"],
                "ports": [443, "8000-8100"],
                "methods": ["CONNECT"],
            }
        ]
    )
    assert decided_by(judge, "a.packages.example") == "+rule-1"
    assert decided_by(judge, "files.example.net:8100", client="2001:db8::5") == "+rule-1"
    assert decided_by(judge, "packages.example") == "-outbound"
    assert decided_by(judge, "a.packages.example:8101") == "-outbound"
    assert decided_by(judge, "a.packages.example", client="10.2.0.1") == "-outbound"
    assert decided_by(judge, "a.packages.example", method="GET") == "-outbound"


def test_methods_are_compared_letter_for_letter():
    judge = policy(rules=[{"action": "allow", "methods": ["GET", "HEAD", "M-SEARCH"]}])
    for method in ("GET", "HEAD", "M-SEARCH"):
        assert decided_by(judge, "a.com:80", method=method, path="/") == "+rule-1"
    for method in ("get", "Get", "POST", "GETS", "CONNECT", ""):
        assert decided_by(judge, "a.com:80", method=method, path="/") == "-outbound"


def test_paths_are_conditions_like_others():
    judge = policy(
        rules=[
            {"name": "not-that", "action": "deny", "hosts": ["a.com"], "paths": ["/api/admin/*", "/api/admin"]},
            {"name": "api", "action": "allow", "hosts": ["a.com"], "methods": ["GET"], "paths": ["/api/*"]},
            {"name": "tunnels", "action": "allow", "hosts": ["a.com"], "ports": [443], "methods": ["CONNECT"]},
        ]
    )

    def asked(path, method="GET"):
        return decided_by(judge, "a.com:80", method=method, path=path)

    assert asked("/api/users") == "+api"
    assert asked("/api/users", method="POST") == "-outbound"
    assert asked("/other") == "-outbound"
    assert asked("/API/users") == "-outbound"
    assert asked("/api/admin") == asked("/api/admin/x") == "-not-that"
    assert asked("/api/%61dmin") == asked("/api/x/..%2fadmin") == asked("/api//admin/") == "-not-that"
    assert asked("/api/..%2fother") == "-outbound"
    assert asked("*", method="OPTIONS") == "-outbound"
    assert decided_by(judge, "b.com:80", method="GET", path="/api/users") == "-outbound"


def test_a_tunnel_meets_no_rule_with_paths():
    judge = policy(
        rules=[
            {"action": "deny", "paths": ["/*"]},
            {"action": "allow", "paths": ["/*"]},
            {"name": "x", "action": "allow"},
        ]
    )
    assert decided_by(judge, "a.com") == "+x"
    assert decided_by(judge, "a.com:80", method="GET", path="/") == "-rule-1"
    assert decided_by(judge, "a.com:80", method="OPTIONS", path="*") == "+x"


def test_rule_names_count_all_rules_from_one():
    judge = policy(rules=[{"name": "a", "action": "deny", "hosts": ["a"]}, {"action": "deny", "hosts": ["b"]}])
    assert decided_by(judge, "b") == "-rule-2"


def test_allow_comes_after_the_rules_as_one_rule():
    judge = policy(
        rules=[{"action": "deny", "hosts": ["secret.wikipedia.org"]}],
        allow=["*.wikipedia.org:443", "api.github.com", "git.example.com:22", "any.example.com:*", "[2001:db8::1]:443"],
    )
    assert decided_by(judge, "en.wikipedia.org") == "+allow"
    assert decided_by(judge, "secret.wikipedia.org") == "-rule-1"
    assert decided_by(judge, "wikipedia.org") == "-outbound"
    assert decided_by(judge, "en.wikipedia.org:80") == "-outbound"
    assert decided_by(judge, "api.github.com:443") == "+allow"
    assert decided_by(judge, "api.github.com:22") == "-outbound"
    assert decided_by(judge, "git.example.com:22") == "+allow"
    assert decided_by(judge, "any.example.com:65535") == "+allow"
    assert decided_by(judge, "[2001:db8::1]:443") == "+allow"


def test_a_star_matches_names_and_addresses_and_a_suffix_only_names():
    assert decided_by(policy(allow=["*:443"]), "192.0.2.1:443") == "+allow"
    assert decided_by(policy(allow=["*:443"]), "[2001:db8::1]:443") == "+allow"
    assert decided_by(policy(allow=["*:443"]), "name:443") == "+allow"
    assert decided_by(policy(allow=["*.com:443"]), "192.0.2.1:443") == "-outbound"


def test_services_decide_what_no_rule_does_on_their_ports():
    judge = policy(
        rules=[{"action": "deny", "hosts": ["edition.cnn.com"], "clients": ["10.9.0.0/16"]}],
        services=[
            {"hosts": ["edition.cnn.com", "*.cdn.cnn.com"], "ports": [{"number": 443}, {"number": 8443}]},
            {"hosts": ["db.corp.example"], "ports": [{"number": 5432, "protocol": "TCP"}], "private_addresses": True},
        ],
    )
    assert decided_by(judge, "edition.cnn.com") == "+service"
    assert decided_by(judge, "a.cdn.cnn.com:8443") == "+service"
    assert decided_by(judge, "edition.cnn.com:80") == "-outbound"
    assert decided_by(judge, "edition.cnn.com", client="10.9.1.1") == "-rule-1"
    assert screened(judge, "db.corp.example:5432", "10.0.0.5") == ["10.0.0.5"]
    with pytest.raises(AddressDenied, match="private_addresses: true on the service"):
        screened(judge, "edition.cnn.com", "10.0.0.5")


def test_a_service_of_istio_is_opened_by_a_rule_of_a_native_file():
    service = {"name": "outbound|443||db.corp.example", "hosts": ["db.corp.example"], "ports": [{"number": 443}]}
    leads = [{"service": service["name"], "port": 443}]
    for host, routes in (("db.corp.example", []), ("other.example", [{"hosts": ["other.example"], "to": leads}])):
        judge = policy(services=[service], routes=routes)
        advice = rf"in a native file, .* rules: \[\{{action: allow, hosts: \[{host}\], private_addresses: true\}}\]"
        with pytest.raises(AddressDenied, match=advice):
            screened(judge, host, "10.0.0.5")


def test_an_alias_is_a_host_of_its_service():
    wiki = {"hosts": ["wikipedia.org"], "aliases": ["my-wiki", "my-wiki.default"], "ports": [{"number": 443}]}
    judge = policy(rules=[{"action": "deny", "hosts": ["my-wiki.default"]}], services=[wiki])
    assert decided_by(judge, "wikipedia.org") == "+service"
    assert decided_by(judge, "my-wiki") == "+service"
    assert decided_by(judge, "my-wiki:80") == "-outbound"
    assert decided_by(judge, "my-wiki.default") == "-rule-1"
    assert decided_by(judge, "other.my-wiki") == "-outbound"


def test_allow_any_lets_pass_what_no_rule_refuses():
    judge = policy(
        outbound="allow_any",
        rules=[{"action": "deny", "hosts": ["bad.com"]}],
        services=[{"hosts": ["db"], "ports": [{"number": 1}], "private_addresses": True}],
    )
    assert decided_by(judge, "bad.com") == "-rule-1"
    assert decided_by(judge, "good.com:1234") == "+outbound"
    assert decided_by(judge, "db:1") == "+service"
    assert decided_by(judge, "db:2") == "+outbound"
    with pytest.raises(AddressDenied, match="write a rule for this host"):
        screened(judge, "good.com", "10.0.0.5")


def test_report_lets_pass_and_says_what_it_would_refuse():
    judge = policy(
        rules=[{"action": "deny", "hosts": ["try.com"], "report": True}, {"action": "deny", "hosts": ["bad.com"]}]
    )
    assert decided_by(judge, "try.com") == "+rule-1?"
    assert decided_by(judge, "bad.com") == "-rule-2"
    assert judge.decide(intent("try.com")).reason == "refused by rule rule-1"


def test_report_for_all_lets_everything_pass_but_closed_addresses():
    judge = policy(report=True, rules=[{"action": "deny", "hosts": ["bad.com"]}], allow=["good.com:443"])
    assert decided_by(judge, "bad.com") == "+rule-1?"
    assert decided_by(judge, "other.com") == "+outbound?"
    assert decided_by(judge, "good.com") == "+allow"
    with pytest.raises(AddressDenied, match="report lets refused names pass, never closed addresses"):
        screened(judge, "bad.com", "10.0.0.5")


def test_the_verdict_of_a_rule_is_one_object():
    judge = policy(allow=["a.com:443", "b.com:22"])
    assert judge.decide(intent("a.com:443")) is judge.decide(intent("b.com:22"))


def test_a_client_that_is_no_address_never_matches_by_accident():
    judge = policy(rules=[{"action": "deny", "clients": ["10.0.0.0/8"]}, {"action": "allow"}])
    with pytest.raises(ValueError):
        judge.decide(intent("a.com", client="nonsense"))


def test_the_built_in_configuration_allows_public_addresses_on_80_and_443():
    judge = Policy.from_config(Config.model_validate(built_in()), lambda address, port: False)
    assert decided_by(judge, "example.com:80") == "+built-in"
    assert decided_by(judge, "192.0.2.1:443") == "+built-in"
    assert decided_by(judge, "example.com:22") == "-outbound"
    with pytest.raises(AddressDenied):
        screened(judge, "example.com", "127.0.0.1")


# --- by the name inside -------------------------------------------------------------------------------------------

RULES = [
    {"name": "web", "action": "allow", "hosts": ["a.com", "*.b.com"], "ports": [443]},
    {"name": "mail", "action": "allow", "hosts": ["mail.c.com"], "ports": [993], "clients": ["10.1.0.0/16"]},
    {"name": "addresses", "action": "allow", "hosts": ["192.0.2.1", "[2001:db8::1]"]},
    {"name": "tried", "action": "deny", "hosts": ["tried.com"], "report": True},
]


def agreed(target, server_name, *, ech=False, judge=None, **who):
    judge = judge or policy(rules=RULES)
    asked = intent(target, **who)
    return judge.agree(asked, judge.decide(asked), server_name, ech)


@pytest.mark.parametrize(
    ("target", "server_name", "outcome"),
    [
        ("a.com", "a.com", "match"),
        ("A.com.", "a.com", "match"),
        ("x.b.com", "x.b.com", "match"),
        ("x.b.com", "y.b.com", "mismatch"),  # allowed, and not what this tunnel was granted for
        ("a.com", "x.b.com", "mismatch"),
        ("a.com", "a.com.evil.net", "mismatch"),
        ("a.com", "x.a.com", "mismatch"),
        ("a.com", None, "no_sni"),
        ("tried.com", "tried.com", "match"),
        ("tried.com", "a.com", "mismatch"),
    ],
)
def test_the_name_inside_must_be_the_one_the_tunnel_was_granted_for(target, server_name, outcome):
    assert agreed(target, server_name) == outcome


@pytest.mark.parametrize(
    ("target", "server_name", "outcome"),
    [
        ("192.0.2.1:443", None, "match"),
        ("[2001:db8::1]:443", None, "match"),
        ("192.0.2.1:443", "a.com", "match"),
        ("[2001:db8::1]:443", "x.b.com", "match"),
        ("192.0.2.1:443", "other.com", "mismatch"),
        ("192.0.2.1:8443", "a.com", "mismatch"),  # a.com may be reached on 443 only
        ("192.0.2.1:993", "mail.c.com", "match"),
        ("192.0.2.1:443", "tried.com", "match"),  # its refusal is only reported
    ],
)
def test_a_tunnel_to_an_address_may_hold_a_name_that_may_be_reached_by_itself(target, server_name, outcome):
    assert agreed(target, server_name, client="10.1.2.3") == outcome


def test_the_name_inside_a_tunnel_to_an_address_is_judged_for_that_client_and_method():
    assert agreed("192.0.2.1:993", "mail.c.com", client="10.2.0.1") == "mismatch"
    judge = policy(rules=[{"action": "allow", "hosts": ["a.com"], "methods": ["GET"]}], allow=["192.0.2.1:443"])
    assert agreed("192.0.2.1:443", "a.com", judge=judge) == "mismatch"


def test_a_tunnel_to_an_alias_may_hold_the_alias_or_the_host_that_it_stands_for():
    wiki = {"hosts": ["wikipedia.org"], "aliases": ["my-wiki"], "ports": [{"number": 443}]}
    judge = policy(services=[wiki], rules=[{"action": "allow", "hosts": ["my-wiki"], "sni_check": "enforce"}])
    assert agreed("my-wiki", "my-wiki", judge=judge) == "match"
    assert agreed("my-wiki", "wikipedia.org", judge=judge) == "match"
    assert agreed("my-wiki", "en.wikipedia.org", judge=judge) == "mismatch"
    assert agreed("my-wiki", None, judge=judge) == "no_sni"
    assert agreed("my-wiki:8443", "my-wiki", judge=judge) == "match"
    assert agreed("my-wiki:8443", "wikipedia.org", judge=judge) == "mismatch"  # there it is a name like others
    assert agreed("wikipedia.org", "my-wiki", judge=judge) == "mismatch"


@pytest.mark.parametrize("server_name", ["a.com", "other.com", None])
def test_ech_denied_comes_before_every_name(server_name):
    judge = policy(rules=[{"action": "allow", "hosts": ["a.com"], "ech": "deny"}])
    assert agreed("a.com", server_name, ech=True, judge=judge) == "ech"
    assert agreed("a.com", "a.com", judge=judge) == "match"


@pytest.mark.parametrize(("server_name", "outcome"), [("a.com", "match"), ("other.com", "mismatch"), (None, "no_sni")])
def test_ech_allowed_is_judged_by_its_outer_name(server_name, outcome):
    assert agreed("a.com", server_name, ech=True) == outcome


def test_a_captured_client_with_ech_is_refused_where_ech_is_denied():
    judge = policy(ech="deny", rules=[{"action": "allow", "hosts": ["a.com"]}])
    asked = intent("a.com")._replace(ech=True)
    with pytest.raises(EchDenied, match=r"a\.com:443 may hide another name, and ech is deny \(rule-1\)"):
        judge.decide(asked).enforce(asked)
    judge.decide(asked).enforce(asked._replace(ech=False))
    policy(rules=RULES).decide(asked).enforce(asked)


def test_who_is_refused_by_name_hears_that_and_not_of_ech():
    asked = intent("a.com")._replace(ech=True)
    with pytest.raises(RuleDenied):
        policy(ech="deny").decide(asked).enforce(asked)


# --- by address ---------------------------------------------------------------------------------------------------


def test_public_addresses_pass_in_the_order_given():
    judge = policy(allow=["example.com:443"])
    asked = intent("example.com")
    found = judge.screen(asked, judge.decide(asked), ["2606:4700::1", "93.184.216.34", "64:ff9b::8.8.8.8"])
    assert found == (
        Endpoint("2606:4700::1", 443),
        Endpoint("93.184.216.34", 443),
        Endpoint("64:ff9b::8.8.8.8", 443),
    )


def test_closed_addresses_are_left_out_while_others_remain():
    assert screened(policy(allow=["a.com"]), "a.com", "10.0.0.1", "1.1.1.1", "::1", "fe80::1") == ["1.1.1.1"]


def test_denies_private_address_after_allowed_name():
    judge = policy(rules=[{"name": "web", "action": "allow", "hosts": ["rebind.example"]}])
    with pytest.raises(AddressDenied) as caught:
        screened(judge, "rebind.example", "10.0.0.1", "169.254.169.254")
    assert str(caught.value) == (
        "rebind.example:443 leads to closed addresses: 10.0.0.1 is private (10.0.0.0/8, RFC 1918), "
        "169.254.169.254 is metadata (169.254.169.254, metadata of AWS, Azure, Google and others); "
        "to open it set private_addresses: true on rule web"
    )


def test_a_denial_of_many_addresses_stays_short():
    with pytest.raises(AddressDenied, match=r"and 497 more; ") as caught:
        screened(policy(allow=["a.com"]), "a.com", *(f"10.0.{n // 250}.{n % 250}" for n in range(500)))
    assert len(str(caught.value)) < 400


def test_a_name_without_addresses_is_denied():
    with pytest.raises(AddressDenied, match="has no address"):
        screened(policy(allow=["a.com"]), "a.com")


@pytest.mark.parametrize(
    "address", ["10.0.0.1", "127.0.0.1", "::1", "fd00::1", "100.64.0.1", "2002:a00:1::", "::ffff:10.0.0.1"]
)
def test_private_addresses_lifts_the_guard_for_its_rule_alone(address):
    judge = policy(
        rules=[
            {"action": "allow", "hosts": ["git.corp.example"], "private_addresses": True},
            {"action": "allow", "hosts": ["www.corp.example"]},
        ]
    )
    assert screened(judge, "git.corp.example", address) == [address]
    with pytest.raises(AddressDenied):
        screened(judge, "www.corp.example", address)


@pytest.mark.parametrize("address", ["169.254.169.254", "fd00:ec2::254", "100.100.100.200", "192.0.0.192"])
def test_a_metadata_address_needs_its_literal_and_private_addresses(address):
    literal = f"[{address}]" if ":" in address else address

    def rule(hosts, private):
        return policy(
            rules=[{"action": "allow", "hosts": hosts, "private_addresses": private}],
            guard={"allow": ["0.0.0.0/0", "::/0"]},
        )

    assert screened(rule([address], True), literal, address) == [address]
    assert screened(rule(["meta.internal", address], True), "meta.internal", address) == [address]
    for judge, target in (
        (rule(["*"], True), literal),
        (rule(["meta.internal"], True), "meta.internal"),
        (rule([address], False), literal),
        (rule(["*", "169.254.169.1"], True), literal),
    ):
        with pytest.raises(AddressDenied, match=f"to open it name {address} itself in the hosts of a rule"):
            screened(judge, target, address)


def test_a_metadata_address_in_disguise_is_not_what_the_rule_names():
    judge = policy(rules=[{"action": "allow", "hosts": ["*", "169.254.169.254"], "private_addresses": True}])
    assert screened(judge, "169.254.169.254", "169.254.169.254") == ["169.254.169.254"]
    for disguise in ("::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::1"):
        with pytest.raises(AddressDenied, match="metadata"):
            screened(judge, f"[{disguise}]", disguise)


def test_guard_allow_opens_ranges_for_every_rule():
    judge = policy(allow=["a.com"], guard={"allow": ["10.80.0.0/16", "fd12::/16", "2002::/16"]})
    assert screened(judge, "a.com", "10.80.0.1", "10.81.0.1", "fd12::1", "fd13::1") == ["10.80.0.1", "fd12::1"]
    assert screened(judge, "a.com", "::ffff:10.80.0.1", "64:ff9b::10.80.0.1") == [
        "::ffff:10.80.0.1",
        "64:ff9b::10.80.0.1",
    ]
    assert screened(judge, "a.com", "2002:808:808::1", "2002:7f00:1::1") == ["2002:808:808::1"]
    with pytest.raises(AddressDenied):
        screened(judge, "a.com", "127.0.0.1")


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "::1", "203.0.113.9", "::ffff:127.0.0.1", "::ffff:7f00:1", "0.0.0.0", "::", "64:ff9b::203.0.113.9"],
)
def test_the_proxy_itself_is_never_a_target_whatever_the_rules(address):
    judge = policy(rules=[{"action": "allow", "private_addresses": True}], guard={"allow": ["0.0.0.0/0", "::/0"]})
    with pytest.raises(LoopDetected, match="is this proxy itself"):
        screened(judge, "a.com:3128", "1.1.1.1", address)
    assert screened(judge, "a.com:3129", address) == [address]


def test_a_loop_is_told_from_a_closed_address():
    with pytest.raises(LoopDetected):
        screened(policy(allow=["127.0.0.1:9090"]), "127.0.0.1:9090", "127.0.0.1")


def test_the_port_that_is_dialled_may_be_another_than_the_one_asked_for():
    judge = policy(allow=["a.com:80"])
    asked = intent("a.com:80")
    assert judge.screen(asked, judge.decide(asked), ["1.1.1.1"], 443) == (Endpoint("1.1.1.1", 443),)
    with pytest.raises(LoopDetected, match=r"203\.0\.113\.9:3128"):
        judge.screen(asked, judge.decide(asked), ["203.0.113.9"], 3128)
    own = intent("a.com:3128")
    assert judge.screen(own, judge.decide(own), ["1.1.1.1"], 80) == (Endpoint("1.1.1.1", 80),)


def test_what_the_operator_wrote_down_passes_the_guard_and_never_leads_back():
    judge = policy(allow=["a.com:80"])
    asked = intent("a.com:80")
    written = ["10.0.0.1", "169.254.169.254", "127.0.0.1", "fd00:ec2::254", "1.1.1.1"]
    kept = judge.screen(asked, judge.decide(asked), written, written_down=True)
    assert kept == tuple(Endpoint(address, 80) for address in written)
    assert judge.screen(asked, judge.decide(asked), written) == (Endpoint("1.1.1.1", 80),)
    for own in ("127.0.0.1", "::ffff:127.0.0.1", "::"):
        with pytest.raises(LoopDetected):
            judge.screen(asked, judge.decide(asked), ["10.0.0.1", own], 9090, written_down=True)


def test_an_address_that_is_none_is_a_value_error():
    with pytest.raises(ValueError):
        screened(policy(allow=["a.com"]), "a.com", "not an address")


def test_a_name_whose_own_rule_refuses_ech_may_not_hide_behind_an_address():
    judge = policy(rules=[{"action": "allow", "hosts": ["a.com"], "ech": "deny"}], allow=["192.0.2.1:443"])
    assert agreed("192.0.2.1:443", "a.com", ech=True, judge=judge) == "ech"
    assert agreed("192.0.2.1:443", "a.com", judge=judge) == "match"


# --- routes -------------------------------------------------------------------------------------------------------

SERVICES = [{"name": "www", "hosts": ["www.example.org"], "ports": [{"number": 443}]}]


def routes(*found, **settings):
    return policy(routes=found, services=SERVICES, **settings)


def test_a_route_lets_pass_what_it_leads_somewhere():
    judge = routes({"name": "all", "hosts": ["*.example.org"], "ports": [443], "to": [{"service": "www"}]})
    asked = intent("de.example.org")
    verdict = judge.decide(asked)
    assert (verdict.allowed, verdict.rule, verdict.reason) == (True, "route", "route all leads to www")
    assert judge.route(asked, verdict) == 0
    assert decided_by(judge, "de.example.org:80") == "-outbound"


def test_rules_and_allow_come_before_routes_and_routes_before_services():
    route = {"hosts": ["*.example.org"], "to": [{"service": "www"}]}
    judge = routes(route, rules=[{"action": "deny", "hosts": ["no.example.org"]}], allow=["yes.example.org:443"])
    assert decided_by(judge, "no.example.org") == "-rule-1"
    assert decided_by(judge, "yes.example.org") == "+allow"
    assert decided_by(judge, "www.example.org") == "+route"


def test_what_a_rule_lets_pass_is_sent_by_the_route_all_the_same():
    judge = routes({"hosts": ["*.example.org"], "to": [{"service": "www"}]}, allow=["yes.example.org:443"])
    asked = intent("yes.example.org")
    assert judge.route(asked, judge.decide(asked)) == 0
    elsewhere = intent("www.example.com")
    assert judge.route(elsewhere, judge.decide(elsewhere)) is None


def test_a_route_is_for_requests_or_tunnels_where_it_says_so():
    judge = routes({"carries": "requests", "hosts": ["a.example.org"], "to": [{"service": "www"}]})
    assert decided_by(judge, "a.example.org") == "-outbound"
    assert decided_by(judge, "a.example.org", method="GET", path="/") == "+route"
    judge = routes({"carries": "tunnels", "hosts": ["a.example.org"], "to": [{"service": "www"}]})
    assert decided_by(judge, "a.example.org") == "+route"
    assert decided_by(judge, "a.example.org", method="GET", path="/") == "-outbound"


@pytest.mark.parametrize(
    ("refuse", "error", "status"),
    [
        ("not_found", NoRoute, 404),
        ("unknown", RuleDenied, 403),
        ("unavailable", NoEndpoint, 503),
        ("close", HostUnknown, None),
    ],
)
def test_a_route_may_refuse_in_several_ways(refuse, error, status):
    judge = routes({"hosts": ["a.example.org"], "refuse": refuse}, allow=["a.example.org:80"], outbound="allow_any")
    asked = intent("a.example.org")
    with pytest.raises(error, match=r"refused by route 1: a\.example\.org:443") as caught:
        judge.decide(asked).enforce(asked)
    assert caught.value.status == status
    let_pass = intent("a.example.org:80")
    verdict = judge.decide(let_pass)
    verdict.enforce(let_pass)
    with pytest.raises(error):
        judge.route(let_pass, verdict)


def test_a_refusing_route_is_only_reported_where_all_is():
    judge = routes({"hosts": ["a.example.org"], "refuse": "not_found"}, report=True)
    asked = intent("a.example.org")
    verdict = judge.decide(asked)
    assert (verdict.allowed, verdict.reported) == (True, True)
    assert judge.route(asked, verdict) is None


def test_a_service_lets_pass_who_asks_for_one_of_its_addresses():
    judge = policy(services=[{"hosts": ["p.example"], "addresses": ["172.30.0.0/16"], "ports": [{"number": 3128}]}])
    assert decided_by(judge, "172.30.109.95:3128") == "+service"
    assert decided_by(judge, "172.30.109.95:443") == "-outbound"
    assert decided_by(judge, "172.31.0.1:3128") == "-outbound"
    assert decided_by(judge, "p.example:3128") == "+service"


def test_a_rule_sends_through_its_parent():
    parents = [{"name": name, "address": f"{name}.example", "port": 3128} for name in ("one", "two")]
    judge = policy(parents=parents, rules=[{"action": "allow", "hosts": ["a.example"], "parent": "two"}])
    assert judge.decide(intent("a.example")).parent == 1


def test_inside_a_tunnel_to_an_address_of_a_service_any_name_may_be():
    judge = policy(services=[{"hosts": ["w.svc.local"], "addresses": ["10.96.0.9"], "ports": [{"number": 443}]}])
    asked = intent("10.96.0.9:443")
    assert judge.agree(asked, judge.decide(asked), "en.wikipedia.org", False) == "match"
    other = intent("10.96.0.8:443")
    assert judge.agree(other, judge.decide(other), "en.wikipedia.org", False) == "mismatch"


@pytest.mark.parametrize(
    "disguise", ["[::ffff:198.51.100.3]:443", "[64:ff9b::c633:6403]:443", "[2002:c633:6403::1]:443"]
)
def test_what_refuses_an_address_refuses_those_that_embed_it(disguise):
    judge = policy(rules=[{"action": "deny", "hosts": ["198.51.100.3"]}], outbound="allow_any")
    assert decided_by(judge, "198.51.100.3:443") == "-rule-1"
    assert decided_by(judge, disguise) == "-rule-1"
    assert decided_by(judge, "[2001:db8::1]:443") == "+outbound"


def test_what_allows_an_address_does_not_allow_those_that_embed_it():
    judge = policy(rules=[{"action": "allow", "hosts": ["198.51.100.3"]}])
    assert decided_by(judge, "[::ffff:198.51.100.3]:443") == "-outbound"


WIKI = {"hosts": ["en.wikipedia.org"], "aliases": ["wiki", "wiki.default"], "ports": [{"number": 443}]}


@pytest.mark.parametrize(
    ("rule", "decided"),
    [
        ({"action": "deny", "hosts": ["*.wikipedia.org"]}, "-no"),
        ({"action": "deny", "hosts": ["en.wikipedia.org"], "ports": [443]}, "-no"),
        ({"action": "deny", "hosts": ["en.wikipedia.org"], "ports": [80]}, "+service"),
        ({"action": "deny", "hosts": ["de.wikipedia.org"]}, "+service"),
        ({"action": "allow", "hosts": ["*.wikipedia.org"]}, "+service"),
    ],
)
def test_what_refuses_a_host_refuses_its_aliases(rule, decided):
    judge = policy(services=[WIKI], rules=[{"name": "no", **rule}])
    assert [decided_by(judge, alias) for alias in ("wiki", "wiki.default")] == [decided, decided]


def test_what_refuses_a_host_for_its_addresses_refuses_its_aliases():
    rule = {"name": "no", "action": "deny", "hosts": ["en.wikipedia.org"], "addresses": ["198.51.100.0/24"]}
    judge = policy(services=[WIKI], rules=[rule, {"name": "yes", "action": "allow", "hosts": ["wiki"]}])
    asked = intent("wiki")
    assert judge.decide(asked).needs_addresses
    assert judge.decide(asked, ("198.51.100.3",)).rule == "no"
    assert judge.decide(asked, ("203.0.113.3",)).rule == "yes"


def test_addresses_are_not_asked_for_where_the_alias_itself_is_refused():
    rule = {"action": "deny", "hosts": ["en.wikipedia.org"], "addresses": ["198.51.100.0/24"]}
    judge = policy(services=[WIKI], rules=[rule, {"name": "no", "action": "deny", "hosts": ["wiki"]}])
    assert decided_by(judge, "wiki") == "-no"
    assert not judge.decide(intent("wiki")).needs_addresses


def test_what_would_refuse_a_host_is_reported_for_its_aliases():
    rule = {"name": "no", "action": "deny", "hosts": ["en.wikipedia.org"], "report": True}
    granted = {"name": "yes", "action": "allow", "hosts": ["wiki"], "private_addresses": True}
    judge = policy(services=[WIKI], rules=[rule, granted])
    assert [decided_by(judge, alias) for alias in ("wiki", "wiki.default")] == ["+no?", "+no?"]
    assert judge.decide(intent("wiki")).private_addresses  # it goes on as if there were no such rule
    everything = policy(services=[WIKI], rules=[{**rule, "report": False}], report=True)
    assert decided_by(everything, "wiki") == "+no?"


def test_an_alias_of_two_services_is_refused_with_the_host_that_it_stands_for_on_that_port():
    plain = {"hosts": ["plain.wikipedia.org"], "aliases": ["wiki"], "ports": [{"number": 80}]}
    judge = policy(
        services=[plain, WIKI],
        rules=[
            {"name": "no", "action": "deny", "hosts": ["plain.wikipedia.org"]},
            {"name": "yes", "action": "allow", "hosts": ["wiki"]},
        ],
    )
    assert [decided_by(judge, f"wiki:{port}") for port in (80, 443, 22)] == ["-no", "+yes", "-no"]


def test_a_rule_for_an_alias_says_nothing_of_its_host():
    judge = policy(services=[WIKI], rules=[{"name": "no", "action": "deny", "hosts": ["wiki"]}])
    assert decided_by(judge, "wiki") == "-no"
    assert decided_by(judge, "wiki.default") == "+service"
    assert decided_by(judge, "en.wikipedia.org") == "+service"


def test_a_route_that_refuses_a_host_says_nothing_of_its_aliases():
    judge = policy(services=[WIKI], routes=[{"hosts": ["en.wikipedia.org"], "refuse": "not_found"}])
    assert decided_by(judge, "wiki") == "+service"


def test_a_route_leads_to_ports_that_its_service_has():
    two = {"name": "two", "hosts": ["a.example"], "ports": [{"number": 80}, {"number": 443}]}
    route = {"hosts": ["b.example"], "to": [{"service": "two"}]}
    judge = policy(services=[two], routes=[route])
    assert [decided_by(judge, f"b.example:{port}") for port in (80, 443, 22)] == ["+route", "+route", "-outbound"]
    sent = policy(services=[two], routes=[{**route, "to": [{"service": "two", "port": 443}]}])
    assert decided_by(sent, "b.example:22") == "+route"
