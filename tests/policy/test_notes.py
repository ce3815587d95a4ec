from egressproxy.config.schema.config import Config
from egressproxy.policy.policy import Policy

LISTENER = {"protocol": "http-proxy", "port": 3128}


def findings(**settings):
    config = Config.model_validate({"listeners": [{**LISTENER, "address": "127.0.0.1"}], **settings})
    return Policy.from_config(config, lambda address, port: False).notes()


def notes(**settings):
    return tuple(message for _, message in findings(**settings))


def ways(**settings):
    return [way for way, _ in findings(**settings)]


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
    for other in ({"ports": [443]}, {"clients": ["10.0.0.0/8"]}, {"methods": ["CONNECT"]}, {"paths": ["/a"]}):
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


# --- which setting a note is about --------------------------------------------------------------------------------


def test_each_note_names_its_setting():
    deny, lost = {"action": "deny"}, {"action": "allow", "hosts": ["a.com"]}
    assert ways(rules=[deny, lost], services=[{"hosts": ["a.com"], "ports": [{"number": 1}]}]) == [
        ("rules", 1),
        ("services",),
    ]
    assert ways(rules=[deny], outbound="allow_any") == [("outbound",)]
    assert ways(rules=[deny], allow=["a.com"], outbound="allow_any") == [("allow",)]
    assert ways(report=True, allow=["a.com"]) == [("report",)]
    assert ways(outbound="allow_any", allow=["a.com"]) == [("allow",)]
    assert ways() == [()]
    assert ways(rules=[{**lost, "name": "outbound"}]) == [("rules", 0, "name")]
    assert ways(rules=[lost, {"action": "allow", "hosts": ["10.0.0.1"]}]) == [("rules", 1, "hosts")]
    assert ways(allow=["10.0.0.1:22"]) == [("allow",)]
    assert ways(services=[{"hosts": ["10.0.0.1"], "ports": [{"number": 1}]}]) == [("services",)]
    assert ways(allow=["a.com"], guard={"allow": ["10.0.0.0/8", "fd00:ec2::/32"]})[0] == ("guard", "allow", 1)


# --- open doors ---------------------------------------------------------------------------------------------------


def doors(**settings):
    return [way for way, message in findings(**settings) if message.startswith("whoever reaches")]


OPEN_TO_THE_NETWORK = {**LISTENER, "address": "0.0.0.0"}
FOR_ALL = {"name": "web", "action": "allow", "ports": [443]}
DENY = {"action": "deny"}


def test_a_listener_for_the_network_with_a_policy_for_everything_is_an_open_door():
    (finding,) = findings(listeners=[OPEN_TO_THE_NETWORK], outbound="allow_any")
    assert finding == (
        ("outbound",),
        "whoever reaches http-proxy:3128 (0.0.0.0 port 3128) may go wherever no rule refuses it; to have it otherwise name "
        "clients or hosts in rules, or listen on 127.0.0.1",
    )
    (finding,) = findings(listeners=[OPEN_TO_THE_NETWORK], rules=[FOR_ALL])
    assert finding == (
        ("rules", 0),
        "whoever reaches http-proxy:3128 (0.0.0.0 port 3128) may go to any host by this rule; to have it otherwise name "
        "clients or hosts in rules, or listen on 127.0.0.1",
    )


def test_conditions_that_everything_meets_are_none():
    for asks_nothing in ({"hosts": ["a.com", "*"]}, {"clients": ["0.0.0.0/0"]}, {"clients": ["10.0.0.0/8", "::/0"]}):
        assert doors(listeners=[OPEN_TO_THE_NETWORK], rules=[{**FOR_ALL, **asks_nothing}]) == [("rules", 0)]


def test_a_rule_for_some_hosts_or_some_clients_is_no_open_door():
    for asks in ({"hosts": ["*.a.com"]}, {"clients": ["10.0.0.0/8"]}):
        assert doors(listeners=[OPEN_TO_THE_NETWORK], rules=[{**FOR_ALL, **asks}]) == []


def test_a_rule_that_is_not_reached_opens_nothing():
    assert doors(listeners=[OPEN_TO_THE_NETWORK], rules=[DENY, FOR_ALL], outbound="allow_any") == []
    assert doors(listeners=[OPEN_TO_THE_NETWORK], rules=[FOR_ALL, DENY]) == [("rules", 0)]


def test_a_listener_that_only_some_can_use_is_no_open_door():
    tls = {"certificate": "c.pem", "key": "k.pem"}
    asks_for_certificates = {**OPEN_TO_THE_NETWORK, "tls": {**tls, "client_ca": "ca.pem"}}
    behind_a_balancer = {**OPEN_TO_THE_NETWORK, "proxy_protocol": {"from": ["10.0.0.1"]}}
    for listener in ({**LISTENER, "address": "::1"}, asks_for_certificates, behind_a_balancer):
        assert doors(listeners=[listener], outbound="allow_any") == []
    assert doors(listeners=[{**OPEN_TO_THE_NETWORK, "tls": tls}], outbound="allow_any") == [("outbound",)]


def test_many_open_rules_are_not_all_listed():
    rules = [{**FOR_ALL, "name": f"web{number}"} for number in range(50)]
    assert len(doors(listeners=[OPEN_TO_THE_NETWORK], rules=rules)) == 5


def test_an_admin_port_for_the_network_is_told():
    assert doors(allow=["a.com"], admin={"address": "127.0.0.2"}) == []
    assert doors(allow=["a.com"], admin=None) == []
    (finding,) = findings(allow=["a.com"], admin={"address": "0.0.0.0"})
    assert finding == (
        ("admin", "address"),
        "whoever reaches 0.0.0.0 port 9090 sees open tunnels, rules and counters: the admin port asks nobody who it is; keep "
        "it closed to others, or listen on 127.0.0.1",
    )


def test_a_check_of_tunnels_that_is_off_or_only_tried():
    assert findings(allow=["a.com"], sni_check="enforce") == ()
    for word in ("off", "report"):
        ((way, message),) = findings(allow=["a.com"], sni_check=word)
        assert way == ("sni_check",)
        assert message.startswith(f"{word}: ")


def test_a_service_that_is_dialled_where_its_client_dialled():
    service = {"hosts": ["a.com"], "ports": [{"number": 443}], "resolution": "none"}
    assert findings(services=[service]) == (
        (("services", 0, "resolution"), "none has no effect: no listener is transparent"),
    )
    captured = {"protocol": "sni", "port": 1, "address": "127.0.0.1", "transparent": "redirect"}
    ((way, message),) = findings(services=[service], listeners=[captured])
    assert way == ("services", 0, "resolution")
    assert "reaches any public address" in message


# --- paths --------------------------------------------------------------------------------------------------------


NO_TUNNEL = "matches no tunnel: a CONNECT to these hosts is left to other rules, whatever is asked for inside"


def test_a_rule_whose_paths_all_belong_to_an_earlier_one():
    wide = {"name": "wide", "action": "allow", "hosts": ["a.com"], "paths": ["/a/*"]}
    lost = {"name": "lost", "action": "allow", "hosts": ["a.com"], "paths": ["/a/b", "/a/c/*"]}
    assert notes(rules=[wide, lost]) == ("rule lost is never reached: earlier rules, as wide, take all of its hosts",)
    assert notes(rules=[lost, wide]) == ()
    assert notes(rules=[wide, {**lost, "action": "deny", "paths": ["/a/b"]}]) == (NO_TUNNEL,)


def test_a_rule_for_any_path_leaves_tunnels_to_those_behind():
    assert notes(rules=[{"action": "allow", "paths": ["/*"]}, {"action": "deny"}]) == ()


def test_a_rule_with_paths_that_can_only_meet_tunnels():
    rule = {"action": "allow", "hosts": ["a.com"], "paths": ["/a"]}
    sni = {"protocol": "sni", "port": 8443, "address": "127.0.0.1"}
    way = "rules", 0, "paths"
    never = "never matches: a rule with paths is for plain requests, and"
    assert findings(rules=[rule]) == ()
    assert findings(rules=[rule], listeners=[sni]) == ((way, f"{never} all listeners are sni"),)
    assert findings(rules=[rule], listeners=[sni, {**LISTENER, "address": "127.0.0.1"}]) == ()
    assert findings(rules=[{**rule, "methods": ["CONNECT"]}]) == ((way, f"{never} this rule is for CONNECT"),)
    assert findings(rules=[{**rule, "methods": ["CONNECT", "GET"]}]) == ()
    assert findings(rules=[{**rule, "ports": [443]}]) == (
        (way, "matches no tunnel, and on port 443 little else is asked for: what is inside a tunnel is not seen"),
    )
    assert findings(rules=[{**rule, "ports": [443, 80]}]) == ()


def test_a_path_is_not_among_those_below_it():
    allow = {"action": "allow", "hosts": ["a.com"]}
    deny = {"action": "deny", "paths": ["/admin/*", "/x/*", "/x", "/*"]}
    assert findings(rules=[deny, allow]) == (
        (("rules", 0, "paths"), NO_TUNNEL),
        (("rules", 0, "paths"), "/admin/* is what is below /admin and not /admin itself, which is left to others"),
    )
    assert notes(rules=[{**allow, "paths": ["/admin/*"]}]) == ()


# --- services -----------------------------------------------------------------------------------------------------

SERVICE = {"hosts": ["a.com"], "ports": [{"number": 80, "protocol": "HTTP"}, {"number": 443}]}


def test_two_services_with_one_host_and_port():
    other = {"hosts": ["b.com"], "aliases": ["a.com"], "ports": [{"number": 443}, {"number": 8443}]}
    below = {"hosts": ["*.c.com"], "ports": [{"number": 80}]}
    assert findings(services=[SERVICE, other, below, below]) == (
        (("services", 1), "a.com port 443 is registered by services[0] already, and reached as that says"),
        (("services", 3), "*.c.com port 80 is registered by services[2] already, and reached as that says"),
    )
    assert findings(services=[SERVICE, {**SERVICE, "ports": [{"number": 8080}]}, {**SERVICE, "hosts": ["*.com"]}]) == ()
    assert len(notes(services=[SERVICE] * 100)) == 20


# --- TLS with services --------------------------------------------------------------------------------------------


def of_service(*ports, **settings):
    return findings(services=[{"hosts": ["a.com"], "ports": ports, **settings}])


SIMPLE = {"mode": "simple"}
OTHER_PORT = [{"address": "192.0.2.1", "port": 8443}]


def test_tls_that_would_be_spoken_to_port_80():
    for tls in (SIMPLE, {"mode": "mutual", "certificate": "c.pem", "key": "k.pem"}):
        assert of_service({"number": 443}, {"number": 80}, tls=tls) == (
            (
                ("services", 0, "ports", 1),
                f"tls {tls['mode']}: plain requests to port 80 are sent in TLS to port 80, for want of target_port: 443",
            ),
        )
    assert len(of_service({"number": 80, "target_port": 80}, tls=SIMPLE)) == 1
    assert of_service({"number": 80, "target_port": 8443}, tls=SIMPLE) == ()
    assert of_service({"number": 80}, tls=SIMPLE, endpoints=OTHER_PORT) == ()
    assert len(of_service({"number": 80}, tls=SIMPLE, endpoints=[*OTHER_PORT, {"address": "192.0.2.2"}])) == 1
    assert of_service({"number": 80}, tls={"mode": "disable"}) == of_service({"number": 80}) == ()


def test_port_443_that_would_be_spoken_to_in_the_clear():
    plain = {"number": 80, "target_port": 443}
    for port in (plain, {**plain, "protocol": "HTTP"}):
        for settings in ({}, {"tls": {"mode": "disable"}}):
            assert of_service(port, **settings) == (
                (
                    ("services", 0, "ports", 0, "target_port"),
                    "443: plain requests are sent there in the clear, for want of tls: {mode: simple}",
                ),
            )
    assert of_service(plain, tls=SIMPLE) == ()
    assert of_service(plain, endpoints=OTHER_PORT) == ()
    for protocol in ("TLS", "HTTPS", "TCP"):
        assert of_service({"number": 8443, "target_port": 443, "protocol": protocol}) == ()
    assert of_service({"number": 443, "target_port": 443}) == ()


def test_a_server_name_that_is_an_address():
    for address in ("192.0.2.1", "2001:db8::1"):
        ((way, message),) = of_service({"number": 80, "target_port": 443}, tls={**SIMPLE, "sni": address})
        assert way == ("services", 0, "tls", "sni")
        assert message.startswith(f"{address} is an address, which is never sent as a server name")
    assert of_service({"number": 80, "target_port": 443}, tls={**SIMPLE, "sni": "b.com"}) == ()
