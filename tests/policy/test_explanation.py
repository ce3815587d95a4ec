import json

import pytest

from egressproxy.config.schema import Config
from egressproxy.hostport import parse_authority
from egressproxy.model import Intent
from egressproxy.policy.explanation import intent_about
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
    )


def test_a_tunnel_to_a_registered_host_gets_no_second_tls():
    assert way("https://edition.cnn.com/", **CNN, timeout_s=3, connect_timeout_s=1.5) == (
        "service edition.cnn.com: reached by DNS (dns), port 443",
        "  at most: connection 1.5 s",
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
    assert way("http://edition.cnn.com/", **CNN, set_headers=headers)[-1] == (
        "  header fields of the service take the place of the client's"
    )


def test_an_alias_is_looked_up_as_the_host_that_it_stands_for():
    told = explain_url(
        "http://wiki/", services=[{"hosts": ["wikipedia.org"], "aliases": ["wiki"], "ports": PORTS}], rules=[]
    )
    assert told.lines()[2] == "service wikipedia.org: reached as wikipedia.org by DNS (dns), port 443"
    assert told.lines()[-1] == "DNS is asked for wikipedia.org"
    assert told.looks_up == ("wikipedia.org",)


def test_static_endpoints_are_judged_without_dns():
    endpoints = [{"address": "10.0.0.1"}, {"address": "1.1.1.1", "port": 8080}, {"address": "127.0.0.1", "port": 3128}]
    static = {"hosts": ["a.com"], "ports": [{"number": 80}], "resolution": "static", "endpoints": endpoints[:2]}
    told = explain_url("http://a.com/", services=[static], rules=[])
    assert told.lines()[2:] == (
        "service a.com: reached by 2 endpoints (static), port 80",
        "  plain HTTP goes out",
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
        "DNS is not asked: refused as plain HTTP",
    )
    assert (told.allowed, told.as_dict()["decided_by"], told.asks_dns) == (False, "tls_required", False)
    tunnel = explain("db.example:8443", services=[service], rules=[])
    assert tunnel.allowed
    assert "inside a CONNECT: the ClientHello must ask for db.example (enforce); TLS only" in tunnel.lines()
