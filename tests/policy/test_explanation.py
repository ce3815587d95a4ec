import json

import pytest

from egressproxy.config.schema.config import Config
from egressproxy.hostport import parse_authority
from egressproxy.model import Intent
from egressproxy.policy.explanation import intent_about, listener_for
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


def policy(**settings):
    config = Config.model_validate({**SETTINGS, **settings})
    return Policy.from_config(config, lambda address, port: (address, port) == ("127.0.0.1", 3128))


def explain(target, *addresses, client="10.1.2.3", method="CONNECT", **settings):
    return policy(**settings).explain(Intent(client, "l", method, parse_authority(target)), addresses)


def explain_url(url, *addresses, method=None, **settings):
    return policy(**settings).explain(intent_about(url, "10.1.2.3", "l", method), addresses)


def test_tells_the_rule_that_decides_and_that_dns_is_asked():
    assert explain("a.packages.example:443", "151.101.0.1").lines() == (
        "CONNECT a.packages.example:443 from 10.1.2.3 by l",
        "allow (ci): allowed by rule ci",
        "cluster in Istio's logs: outbound|443||a.packages.example",
        "inside a CONNECT: the ClientHello must ask for a.packages.example (enforce); TLS only",
        "DNS is asked for a.packages.example",
        "  151.101.0.1: dialled: public",
    )


def test_tells_which_conditions_of_a_close_rule_failed():
    assert explain("a.packages.example:80", client="10.9.0.1").lines() == (
        "CONNECT a.packages.example:80 from 10.9.0.1 by l",
        "deny (outbound): no rule, allow entry or service lets this host and port pass",
        "  close: ci: port 80 is not among 443; client 10.9.0.1 is in none of its 1 networks",
        "  close: gets: method CONNECT is not among GET",
        "DNS is not asked: refused by name",
    )


@pytest.mark.parametrize(
    ("target", "rule"), [("api.github.com:22", "allow"), ("db.example:5433", "service db.example")]
)
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
    assert told["near"][0] == {"rule": "ci", "failed": ["port 80 is not among 443"], "at": None}
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
    assert told[3 : 3 + len(lines)] == lines


# --- what is asked about ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("to", "method", "meant"),
    [
        ("a.com:8443", None, ("CONNECT", "a.com:8443", None)),
        ("https://a.com/x?y", None, ("CONNECT", "a.com:443", None)),
        ("https://a.com/x", "CONNECT", ("CONNECT", "a.com:443", None)),
        ("http://a.com/x/y?q#f", None, ("GET", "a.com:80", "/x/y")),
        ("http://a.com:8080", None, ("GET", "a.com:8080", "/")),
        ("http://a.com?q", "POST", ("POST", "a.com:80", "/")),
        ("http://a.com/x", "CONNECT", ("CONNECT", "a.com:80", None)),
        ("a.com:80", "GET", ("GET", "a.com:80", "/")),
    ],
)
def test_an_http_url_is_a_plain_request_and_all_else_a_tunnel(to, method, meant):
    intent = intent_about(to, "10.0.0.1", "l", method)
    assert (intent.method, str(intent.target), intent.path) == meant
    assert (intent.client, intent.listener) == ("10.0.0.1", "l")


def test_what_is_asked_inside_of_https_is_not_seen():
    with pytest.raises(ValueError, match="an https URL is asked for by CONNECT"):
        intent_about("https://a.com/x", "10.0.0.1", "l", "GET")


# --- plain requests -----------------------------------------------------------------------------------------------

PATHS = [
    {"name": "api", "action": "allow", "hosts": ["a.com"], "methods": ["GET"], "paths": ["/api/*"]},
    {"name": "no", "action": "deny", "hosts": ["a.com"], "paths": ["/api/admin"]},
    {"name": "rest", "action": "allow", "hosts": ["b.com"]},
]


def test_a_plain_request_is_told_with_its_path_and_nothing_of_tunnels():
    assert explain_url("http://a.com/api/x?q", rules=PATHS).lines() == (
        "GET http://a.com:80/api/x from 10.1.2.3 by l",
        "allow (api): allowed by rule api",
        "cluster in Istio's logs: outbound|80||a.com",
        "DNS is asked for a.com",
    )


def test_paths_that_came_close_are_told_with_the_reading_that_failed():
    assert explain_url("http://a.com/api/..%2fadmin", rules=PATHS, services=[]).lines() == (
        "GET http://a.com:80/api/..%2fadmin from 10.1.2.3 by l",
        "deny (outbound): no rule, allow entry or service lets this host and port pass",
        "  close: api: path /api/..%2fadmin may be read as /admin, which is not among /api/*",
        "  close: no: path /api/..%2fadmin is in none of its readings among /api/admin",
        "the path is read as /api/..%2Fadmin, /api/../admin, /admin",
        "DNS is not asked: refused by name",
    )
    assert explain_url("http://a.com/x", rules=PATHS).near[0].failed == ("path /x is not among /api/*",)
    (near, _) = explain("a.com:443", rules=PATHS).near
    assert near.failed == (
        "method CONNECT is not among GET",
        "what is asked inside a tunnel is not seen, so paths never match",
    )


def test_a_path_that_is_written_oddly_is_told_as_it_is_read():
    denied = explain_url("http://a.com/x/../api/%61dmin", method="POST", rules=PATHS)
    assert denied.lines()[1:4] == (
        "deny (no): refused by rule no",
        "  close: api: method POST is not among GET",
        "the path is read as /api/admin",
    )
    assert denied.as_dict()["readings"] == ["/api/admin"]


def test_an_unreadable_path_is_told_as_one():
    denied = explain_url("http://a.com/api/%c0%ae", rules=PATHS)
    assert denied.lines()[1:4] == (
        "deny (no): refused by rule no",
        "  close: api: servers read this path in too many ways, or only a broken one does",
        "the path is unreadable: servers take it in too many ways, or only a broken one does",
    )


def test_many_readings_are_cut():
    told = explain_url("http://a.com/api/;a%2Fb//c", rules=PATHS)
    assert len(told.readings) > 8
    (line,) = [line for line in told.lines() if line.startswith("the path is read as")]
    assert line.endswith(f" and {len(told.readings) - 8} more")


def test_readings_are_left_out_where_no_rule_asks_for_paths():
    told = explain_url("http://b.com//x", rules=PATHS)
    assert told.readings is None
    assert not [line for line in told.lines() if "read as" in line]
    assert told.as_dict()["path"] == "//x"


def test_a_path_that_cannot_be_printed_is_a_value_error():
    with pytest.raises(ValueError, match="expected a path"):
        policy().explain(Intent("10.0.0.1", "l", "GET", parse_authority("a:80"), path="/\n"))


# --- routes -------------------------------------------------------------------------------------------------------

PORTS = [{"number": 80, "protocol": "HTTP", "target_port": 443}, {"number": 443}]
CNN = {"hosts": ["edition.cnn.com"], "ports": PORTS, "tls": {"mode": "simple"}}


def way(url, **settings):
    """What is told between the verdict and DNS."""
    told = explain_url(url, services=[settings], rules=[], allow=[]).lines()
    assert told[1] == "allow (service): registered as a service"
    return told[2 : next(number for number, line in enumerate(told) if line.startswith("DNS "))]


def test_a_registered_host_is_told_with_the_way_to_it():
    assert way("http://edition.cnn.com/politics", **CNN, timeout_s=3, connect_timeout_s=1.5, idle_timeout_s=60) == (
        "service edition.cnn.com: reached by DNS (dns), port 443",
        "  TLS simple: server name edition.cnn.com, the certificate must come from the system's authorities and be for "
        "edition.cnn.com",
        "  at most: whole answer 3 s, connection 1.5 s, without a byte 60 s",
        "  cluster in Istio's logs: outbound|443||edition.cnn.com",
    )


def test_a_tunnel_to_a_registered_host_gets_no_second_tls():
    assert way("https://edition.cnn.com/", **CNN, timeout_s=3, connect_timeout_s=1.5) == (
        "service edition.cnn.com: reached by DNS (dns), port 443",
        "  at most: connection 1.5 s",
        "  cluster in Istio's logs: outbound|443||edition.cnn.com",
        "inside a CONNECT: the ClientHello must ask for edition.cnn.com (enforce); TLS only",
    )


@pytest.mark.parametrize(
    ("tls", "told"),
    [
        ({"mode": "disable"}, "plain HTTP goes out"),
        (
            {"mode": "simple", "ca": "/etc/ca.pem", "sni": "other.com"},
            "TLS simple: server name other.com, the certificate must come from /etc/ca.pem and be for other.com",
        ),
        (
            {"mode": "mutual", "credential": "client", "subject_alt_names": ["x.com", "spiffe://y"]},
            "TLS mutual: server name a.com, the certificate must come from the credential client and be for x.com or spiffe://y",
        ),
        (
            {"mode": "simple", "verify": "chain"},
            "TLS simple: server name a.com, the certificate must come from the system's authorities and be for any name",
        ),
        ({"mode": "simple", "verify": False}, "TLS simple: server name a.com, the certificate is not checked"),
    ],
)
def test_tls_is_told_with_its_name_and_its_checks(tls, told):
    settings = {"services": [{"hosts": ["a.com"], "ports": PORTS, "tls": tls}], "secrets": {"directory": "/x"}}
    assert explain_url("http://a.com/", rules=[], **settings).lines()[3] == f"  {told}"


def test_header_fields_that_are_set_are_told_without_their_values():
    headers = {"Authorization": {"file": "/token"}}
    assert way("http://edition.cnn.com/", **CNN, set_headers=headers)[-2] == (
        "  header fields of the service take the place of the client's"
    )


def test_an_alias_is_looked_up_as_the_host_that_it_stands_for():
    told = explain_url(
        "http://wiki/", services=[{"hosts": ["wikipedia.org"], "aliases": ["wiki"], "ports": PORTS}], rules=[]
    )
    assert told.lines()[2] == "service wikipedia.org: reached as wikipedia.org by DNS (dns), port 443"
    assert told.lines()[-1] == "DNS is asked for wikipedia.org"
    assert told.looks_up == ("wikipedia.org",)


@pytest.mark.parametrize("asks", [{}, {"addresses": ["10.0.0.0/8"]}])
def test_a_rule_for_the_host_of_an_alias_is_named(asks):
    judge = policy(
        services=[{"hosts": ["wikipedia.org"], "aliases": ["wiki"], "ports": PORTS}],
        rules=[
            {"name": "other", "action": "deny", "hosts": ["a.com"]},
            {"name": "closed", "action": "deny", "hosts": ["wikipedia.org"], **asks},
            {"name": "open", "action": "allow", "hosts": ["wiki"]},
        ],
    )
    asked = intent_about("http://wiki/", "10.1.2.3", "l", None)
    told = judge.explain(asked, (), locate=lambda way: (f"{way[0]}[{way[1]}]", 7))
    assert told.place is not None
    assert "rules[1]" in told.place
    assert told.asking == ("closed" if asks else None)
    assert told.otherwise is None or told.otherwise.asking == ("closed",)


def test_static_endpoints_are_judged_without_dns():
    endpoints = [{"address": "10.0.0.1"}, {"address": "1.1.1.1", "port": 8080}, {"address": "127.0.0.1", "port": 3128}]
    static = {"hosts": ["a.com"], "ports": [{"number": 80}], "resolution": "static", "endpoints": endpoints[:2]}
    told = explain_url("http://a.com/", services=[static], rules=[])
    assert told.lines()[2:] == (
        "service a.com: reached by 2 endpoints (static), port 80",
        "  plain HTTP goes out",
        "  cluster in Istio's logs: outbound|80||a.com",
        "DNS is not asked: the endpoints are addresses",
        "  10.0.0.1: dialled: private (10.0.0.0/8, RFC 1918), open as an endpoint that is written down",
        "  1.1.1.1 port 8080: dialled: public",
    )
    own = explain_url("http://a.com/", services=[{**static, "endpoints": endpoints}], rules=[])
    assert own.lines()[1] == "deny (loop_detected): it is this proxy itself"


def test_endpoints_that_are_names_are_looked_up():
    endpoints = [{"address": "b.com"}, {"address": "10.0.0.1"}, {"address": "c.com"}, {"address": "b.com", "port": 81}]
    told = explain_url(
        "http://a.com/", "1.1.1.1", services=[{"hosts": ["a.com"], "ports": PORTS, "endpoints": endpoints}], rules=[]
    )
    assert told.looks_up == ("b.com", "c.com")
    assert told.lines()[-3:] == (
        "DNS is asked for b.com, c.com",
        "  10.0.0.1 port 443: dialled: private (10.0.0.0/8, RFC 1918), open as an endpoint that is written down",
        "  1.1.1.1 port 443: dialled: public",
    )


def test_a_route_is_json_and_none_where_nobody_registered():
    told = json.loads(
        json.dumps(explain_url("http://edition.cnn.com/", services=[{**CNN, "timeout_s": 3}], rules=[]).as_dict())
    )
    assert told["path"] == "/"
    assert told["looks_up"] == ["edition.cnn.com"]
    route = told["route"]
    assert (route["service"], route["host"], route["port"], route["timeout_s"]) == (
        "edition.cnn.com",
        "edition.cnn.com",
        443,
        3,
    )
    assert route["tls"] == {
        "mode": "simple",
        "sni": "edition.cnn.com",
        "verify": True,
        "subject_alt_names": [],
        "minimum_version": "1.2",
    }
    assert explain("api.github.com:443").as_dict()["route"] is None


def test_a_plain_request_to_a_port_for_tls_alone_is_told_as_refused():
    service = {"hosts": ["db.example"], "ports": [{"number": 8443, "protocol": "TLS"}]}
    told = explain_url("http://db.example:8443/", "192.0.2.1", services=[service], rules=[])
    assert told.lines() == (
        "GET http://db.example:8443/ from 10.1.2.3 by l",
        "deny (tls_required): the service has this port for TLS alone",
        "  by name: allow (service): registered as a service",
        "service db.example: reached by DNS (dns), port 8443",
        "  nothing goes out",
        "  cluster in Istio's logs: outbound|8443||db.example",
        "DNS is not asked: refused as plain HTTP",
    )
    assert (told.allowed, told.as_dict()["decided_by"], told.asks_dns) == (False, "tls_required", False)
    tunnel = explain("db.example:8443", services=[service], rules=[])
    assert tunnel.allowed
    assert "inside a CONNECT: the ClientHello must ask for db.example (enforce); TLS only" in tunnel.lines()


# --- where it is written ------------------------------------------------------------------------------------------


def locate(way):
    """As if each entry of a list stood on a line of its own, and each list in a file of its name."""
    if way == ("outbound",):
        return "none.yaml", None
    numbers = [step for step in way if isinstance(step, int)]
    return f"{way[0]}.yaml", 10 * (numbers[0] if numbers else 0) + 1 + (numbers[1] if len(numbers) > 1 else 0)


def located(to, *addresses, method=None, **settings):
    return policy(**settings).explain(intent_about(to, "10.1.2.3", "l", method), addresses, locate=locate)


@pytest.mark.parametrize(
    ("to", "place"),
    [
        ("a.packages.example:443", "rules.yaml:1"),
        ("git.corp.example:22", "rules.yaml:11"),
        ("api.github.com:443", "allow.yaml:1"),
        ("www.other.example:8443", "allow.yaml:11"),
        ("db.example:5432", "services.yaml:1"),
    ],
)
def test_what_decided_is_told_with_its_place(to, place):
    explanation = located(to, allow=["api.github.com:443", "*.other.example:8000-9000"])
    assert f"  written at {place}" in explanation.lines()
    file, line = place.split(":")
    assert explanation.as_dict()["by_name"]["at"] == {"file": file, "line": int(line)}


def test_what_is_written_nowhere_has_no_place():
    explanation = located("nobody.example:443")
    assert explanation.verdict.rule == "outbound"
    assert explanation.place is None
    assert not [line for line in explanation.lines() if "written at" in line]


def test_what_came_close_is_told_with_its_place():
    explanation = located("a.packages.example:80")
    assert "  close: ci: port 80 is not among 443 (rules.yaml:1)" in explanation.lines()
    assert explanation.as_dict()["near"][1]["at"] == {"file": "rules.yaml", "line": 21}


def test_the_host_is_told_with_the_place_that_registers_it():
    service = {"hosts": ["x.example", "*.y.example"], "ports": [{"number": 443}]}
    (destination,) = located("a.y.example:443", services=[{**service}], rules=[]).destinations
    assert str(destination.place) == "services.yaml:2"


# --- which route, and where to ------------------------------------------------------------------------------------

MESH = {
    "rules": [{"name": "office", "action": "allow", "clients": ["10.1.0.0/16"], "hosts": ["ruled.example"]}],
    "allow": [],
    "services": [
        {"name": "v1", "hosts": ["one.example"], "ports": [{"number": 80}]},
        {"name": "outbound|80|v2|two.example", "hosts": ["two.example"], "ports": [{"number": 80, "protocol": "HTTP"}]},
        {"name": "canary", "hosts": ["three.example"], "ports": [{"number": 80}]},
    ],
    "routes": [
        {
            "name": "split",
            "hosts": ["shop.example", "ruled.example"],
            "to": [
                {"service": "v1", "weight": 75},
                {"service": "outbound|80|v2|two.example", "weight": 25},
                {"service": "canary", "weight": 0},
            ],
        },
        {"hosts": ["gone.example"], "refuse": "not_found"},
        {"hosts": ["half.example"], "to": [{"service": "canary"}]},
    ],
}


def test_a_route_is_told_with_all_its_destinations_and_their_weights():
    explanation = located("http://shop.example/", **MESH)
    assert explanation.lines()[1:] == (
        "allow (route): route split leads to v1, outbound|80|v2|two.example, canary",
        "  written at routes.yaml:1",
        "route split says where to by weight, 100 in all (written at routes.yaml:1)",
        "service v1: reached as one.example by DNS (dns), port 80, weight 75 (registered at services.yaml:1)",
        "  plain HTTP goes out",
        "  cluster in Istio's logs: outbound|80||v1",
        "service outbound|80|v2|two.example: reached as two.example by DNS (dns), port 80, weight 25 "
        "(registered at services.yaml:11)",
        "  plain HTTP goes out",
        "  cluster in Istio's logs: outbound|80|v2|two.example",
        "service canary: reached as three.example by DNS (dns), port 80, weight 0 (registered at services.yaml:21)",
        "  plain HTTP goes out",
        "  cluster in Istio's logs: outbound|80||canary",
        "DNS is asked for one.example, two.example",
    )
    told = json.loads(json.dumps(explanation.as_dict()))
    assert [(each["cluster"], each["weight"]) for each in told["destinations"]] == [
        ("outbound|80||v1", 75),
        ("outbound|80|v2|two.example", 25),
        ("outbound|80||canary", 0),
    ]
    assert told["cluster"] == "outbound|80||v1"
    assert told["sent_by"] == {"route": "split", "at": {"file": "routes.yaml", "line": 1}, "refusal": None}


def test_a_rule_lets_pass_and_a_route_says_where_to():
    lines = located("http://ruled.example/", **MESH).lines()
    assert lines[1:3] == ("allow (office): allowed by rule office", "  written at rules.yaml:1")
    assert lines[3].startswith("route split says where to by weight")


def test_a_route_that_refuses_has_the_last_word_on_what_a_rule_allows():
    rules = [{"name": "office", "action": "allow", "hosts": ["gone.example"]}]
    explanation = located("http://gone.example/", **{**MESH, "rules": rules})
    assert explanation.lines()[1:] == (
        "deny (no_route): refused by route 2: gone.example:80",
        "  by name: allow (office): allowed by rule office",
        "  written at rules.yaml:1",
        "route 2 refuses (written at routes.yaml:11)",
        "DNS is not asked: refused by name",
    )
    assert (explanation.allowed, explanation.looks_up) == (False, ())
    assert explanation.as_dict()["decided_by"] == "no_route"
    assert explanation.as_dict()["cluster"] is None


def test_a_route_that_nothing_overrules_refuses_at_its_place():
    lines = located("http://gone.example/", **MESH).lines()
    assert lines[1:] == (
        "deny (route): refused by route 2",
        "  written at routes.yaml:11",
        "DNS is not asked: refused by name",
    )


def test_routes_and_services_that_came_close_say_which_they_are():
    routes = [{"name": "news", "hosts": ["one.example"], "paths": ["/news"], "to": [{"service": "v1"}]}]
    explanation = located("http://one.example:81/", **{**MESH, "routes": routes})
    assert [miss.rule for miss in explanation.near] == ["route news", "service v1"]


def test_what_only_the_default_lets_pass_is_the_passthrough_cluster():
    explanation = located("https://nobody.example/", outbound="allow_any", services=[], rules=[], allow=[])
    assert explanation.lines()[2] == "cluster in Istio's logs: PassthroughCluster"


def test_a_plain_request_that_goes_out_in_tls_is_called_by_the_port_it_is_sent_to():
    assert located("http://edition.cnn.com/", services=[CNN], rules=[]).as_dict()["cluster"] == (
        "outbound|443||edition.cnn.com"
    )
    plain = [{"hosts": ["edition.cnn.com"], "ports": PORTS}]
    assert located("http://edition.cnn.com/", services=plain, rules=[]).as_dict()["cluster"] == (
        "outbound|80||edition.cnn.com"
    )


def test_a_service_that_is_known_by_a_private_address_is_reached_there():
    service = {"addresses": ["10.9.0.0/16"], "name": "db", "resolution": "none", "ports": [{"number": 5432}]}
    explanation = located("10.9.1.1:5432", services=[service], rules=[], allow=[])
    assert explanation.allowed
    assert explanation.addresses[0].reason.endswith("open as an endpoint that is written down")


@pytest.mark.parametrize(
    ("known_by", "asked", "allowed"),
    [
        ("0.0.0.0/0", "10.9.1.1", False),  # the Internet, and what is special in it by nobody's word
        ("0.0.0.0/0", "127.0.0.1", False),
        ("0.0.0.0/0", "169.254.169.254", False),
        ("0.0.0.0/0", "192.0.1.1", True),
        ("169.254.0.0/16", "169.254.169.254", False),
        ("169.254.169.254", "169.254.169.254", True),
        ("10.0.0.0/7", "10.9.1.1", False),
        ("10.0.0.0/8", "10.9.1.1", True),
        ("64:ff9b::/96", "64:ff9b::a00:1", False),
        ("::/0", "fd00::1", False),
        ("::/0", "4000::1", False),
        ("fd00::/8", "fd00::1", True),
    ],
)
def test_a_network_that_a_service_is_known_by_opens_only_what_it_is_about(known_by, asked, allowed):
    service = {"addresses": [known_by], "name": "db", "resolution": "none", "ports": [{"number": 5432}]}
    target = f"[{asked}]:5432" if ":" in asked else f"{asked}:5432"
    assert located(target, services=[service], rules=[], allow=[]).allowed is allowed


# --- parents ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "dns"),
    [
        ("proxy.corp.example", "DNS is asked for proxy.corp.example"),
        ("10.0.0.9", "DNS is not asked: the parent is an address"),
    ],
)
def test_what_is_sent_through_a_parent_is_told_with_it(address, dns):
    settings = {
        "parents": [{"name": "corp", "address": address, "port": 3129}],
        "rules": [{"name": "all", "action": "allow", "parent": "corp"}],
        "services": [],
    }
    explanation = explain("10.0.0.1:443", **settings)
    assert explanation.allowed, "no address of the target is judged here"
    assert dns in explanation.lines()
    (told,) = [line for line in explanation.lines() if "parent corp" in line]
    assert told.startswith(f"sent through the parent corp, {address} port 3129, by CONNECT")
    assert explanation.as_dict()["parent"] == {"name": "corp", "address": address, "port": 3129}
    assert explanation.as_dict()["cluster"] == "outbound|443||10.0.0.1"


# --- rules that ask for addresses ---------------------------------------------------------------------------------

BY_ADDRESS = {
    "rules": [
        {"name": "no-lan", "action": "deny", "addresses": ["10.0.0.0/8"]},
        {"name": "rest", "action": "allow"},
    ],
    "services": [{"hosts": ["svc.example"], "ports": [{"number": 443}], "endpoints": [{"address": "end.example"}]}],
}


def test_a_rule_that_asks_for_addresses_leaves_it_undecided_and_says_so():
    explanation = located("a.example:443", **BY_ADDRESS)
    assert explanation.lines()[1:] == (
        "undecided: no-lan asks for the target's addresses, which are looked up first: "
        "judge them by --resolve, on the admin port by &address=IP",
        "  written at rules.yaml:1",
        "  if no-lan does not match: allow (rest): allowed by rule rest (rules.yaml:11)",
        "DNS is asked for a.example",
    )
    assert not explanation.allowed
    told = explanation.as_dict()
    assert (told["decided_by"], told["asks_for_addresses"], told["looks_up"]) == (None, "no-lan", ["a.example"])


def test_what_would_decide_behind_several_rules_that_ask_for_addresses_is_shown():
    rules = [
        *({"name": f"no-{number}", "action": "deny", "addresses": ["10.0.0.0/8"]} for number in range(6)),
        {"name": "ssh", "action": "deny", "ports": [22]},
        {"name": "rest", "action": "allow"},
    ]
    explanation = located("a.example:22", rules=rules)
    named = "no-0, no-1, no-2, no-3, no-4 and 1 more"
    assert f"  if none of {named} matches: deny (ssh): refused by rule ssh (rules.yaml:61)" in explanation.lines()
    assert explanation.as_dict()["otherwise"] == {
        "unless": [f"no-{number}" for number in range(6)],
        "allowed": False,
        "reported": False,
        "rule": "ssh",
        "reason": "refused by rule ssh",
        "at": {"file": "rules.yaml", "line": 61},
    }
    assert not explanation.allowed


def test_with_addresses_it_is_decided():
    assert located("a.example:443", "10.1.1.1", **BY_ADDRESS).verdict.rule == "no-lan"
    assert located("a.example:443", "1.1.1.1", **BY_ADDRESS).verdict.rule == "rest"


def test_addresses_of_the_target_are_judged_and_those_of_the_endpoint_dialled():
    intent = intent_about("svc.example:443", "10.1.2.3", "l")
    told = policy(**BY_ADDRESS).explain(intent, ["10.5.5.5"], judged=["1.1.1.1"])
    assert (told.verdict.rule, told.looks_up) == ("rest", ("end.example",))
    assert [(finding.address, finding.dialled) for finding in told.addresses] == [("10.5.5.5", False)]


ALIAS = {"hosts": ["a.example"], "aliases": ["x.example"], "ports": [{"number": 443}]}


def test_for_an_alias_dns_is_asked_for_the_host_that_it_stands_for():
    rules = [{**BY_ADDRESS["rules"][0], "hosts": ["a.example"]}, {"action": "allow", "name": "rest"}]
    assert located("x.example:443", rules=rules, services=[ALIAS]).looks_up == ("a.example",)


@pytest.mark.parametrize(("address", "decided"), [("10.1.1.1", "no-lan"), ("1.1.1.1", "rest")])
def test_addresses_that_are_written_down_are_judged_without_dns(address, decided):
    service = {"hosts": ["a.example"], "ports": [{"number": 443}], "endpoints": [{"address": address}]}
    told = located("a.example:443", **BY_ADDRESS | {"services": [service]})
    assert (told.verdict.rule, told.looks_up) == (decided, ())


# --- by which listener --------------------------------------------------------------------------------------------

DOORS = [
    {"protocol": "http", "port": 8080, "name": "web"},
    {"protocol": "sni", "port": 8443},
    {"protocol": "http-proxy", "port": 3128},
]


@pytest.mark.parametrize(
    ("to", "asked", "found"),
    [
        ("https://a.example/", None, "sni:8443"),
        ("http://a.example/", None, "web"),
        ("http://a.example/", "http-proxy:3128", "http-proxy:3128"),
    ],
)
def test_the_listener_is_the_one_that_was_asked_for_or_the_first_that_fits(to, asked, found):
    listeners = Config.model_validate({"listeners": DOORS}).listeners
    assert listener_for(listeners, intent_about(to, "10.1.2.3", ""), asked) == found


@pytest.mark.parametrize(
    ("to", "asked", "doors", "said"),
    [
        (
            "https://a.example/",
            "web",
            DOORS,
            r"expected a listener that takes tunnels \(sni:8443, http-proxy:3128\), got 'web'",
        ),
        ("http://a.example/", "none", DOORS, r"takes plain requests \(web, http-proxy:3128\), got 'none'"),
        ("https://a.example/", None, DOORS[:1], r"no listener takes tunnels; .* ask for http://HOST/PATH"),
        ("http://a.example/", None, DOORS[1:2], r"no listener takes plain requests; .* ask for HOST:PORT"),
    ],
)
def test_where_no_listener_fits_it_is_a_value_error(to, asked, doors, said):
    listeners = Config.model_validate({"listeners": doors}).listeners
    with pytest.raises(ValueError, match=said):
        listener_for(listeners, intent_about(to, "10.1.2.3", ""), asked)
