"""The settings themselves: defaults, spellings that are taken, and what goes together."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from egressproxy.config.schema import Config, Http, ListenerTimeouts, Timeouts, built_in
from egressproxy.hostport import HostPattern, PortRange

LISTENER = {"protocol": "http-proxy", "port": 3128}


def config(**settings: object) -> Config:
    return Config.model_validate({"listeners": [LISTENER], **settings})


def listen(*places: tuple[str, int], admin: object = None) -> Config:
    listeners = [
        {"protocol": "http-proxy", "name": f"l{number}", "address": address, "port": port}
        for number, (address, port) in enumerate(places)
    ]
    return Config.model_validate({"listeners": listeners, "admin": admin})


def test_the_defaults_are_closed() -> None:
    settings = config()
    assert settings.outbound == "registry_only"
    assert (settings.allow, settings.rules, settings.services, settings.report) == ((), (), (), False)
    assert settings.guard.allow == ()
    assert settings.admin is not None
    assert settings.admin.address == "127.0.0.1"


def test_the_built_in_default_is_valid_and_local() -> None:
    assert [listener.address for listener in Config.model_validate(built_in()).listeners] == ["127.0.0.1"]


def test_words_become_values_once() -> None:
    rule = {
        "action": "allow",
        "hosts": ["*.EXAMPLE.com.", "*"],
        "ports": [443, "80-90"],
        "clients": ["10.0.0.0/8", "::1"],
    }
    settings = config(rules=[rule], dns={"servers": ["10.0.0.1", "::1", "[::1]:54"]}, admin={"address": "0::1"})
    assert settings.rules[0].hosts == (HostPattern("suffix", "example.com"), HostPattern("any", ""))
    assert settings.rules[0].ports == (PortRange(443, 443), PortRange(80, 90))
    assert [str(network) for network in settings.rules[0].clients or ()] == ["10.0.0.0/8", "::1/128"]
    assert settings.dns.servers == ("10.0.0.1:53", "[::1]:53", "[::1]:54")
    assert settings.admin is not None
    assert settings.admin.address == "::1"


def test_a_configuration_survives_being_printed_and_read_again() -> None:
    rule = {"action": "allow", "hosts": ["*.example.com"], "ports": ["80-90"], "clients": ["fd00::/8"]}
    settings = config(rules=[rule], allow=["a.example:*"], guard={"allow": ["10.0.0.0/8"]}, admin=None)
    printed = settings.model_dump(mode="json", exclude_defaults=True)
    assert Config.model_validate(printed) == settings


# Every setting of a service, and what it stands for when it is left out.
FULL_SERVICES = [
    {
        "hosts": ["api.example"],
        "aliases": ["api", "api.default.svc"],
        "ports": [{"number": 80, "protocol": "HTTP", "target_port": 8443}, {"number": 443}],
        "private_addresses": True,
        "resolution": "static",
        "endpoints": [{"address": "10.0.0.1"}, {"address": "2001:DB8::1", "port": 9443, "weight": 3}],
        "tls": {
            "mode": "mutual",
            "ca": "ca.pem",
            "certificate": "c.pem",
            "key": "k.pem",
            "sni": "Other.Example.",
            "subject_alt_names": ["other.example", "spiffe://cluster.local/ns/a/sa/b"],
            "minimum_version": "1.3",
            "alpn": [],
        },
        "timeout_s": 3,
        "connect_timeout_s": 0.5,
        "idle_timeout_s": 60,
        "set_headers": {"Authorization": {"file": "token", "prefix": "Bearer "}, "X-Key": {"file": "key"}},
    },
    {"hosts": ["*.b.example"], "ports": [{"number": 80}], "endpoints": [{"address": "gate.b.example"}]},
    {
        "hosts": ["c.example"],
        "ports": [{"number": 80}],
        "tls": {"mode": "simple", "credential": "c", "verify": "chain"},
    },
    {"hosts": ["d.example"], "ports": [{"number": 80}], "tls": {"mode": "simple", "verify": False}},
    {"hosts": ["e.example"], "ports": [{"number": 80}], "tls": {"mode": "disable"}, "resolution": "none"},
]


def test_services_and_paths_survive_being_printed_and_read_again() -> None:
    rule = {"action": "allow", "methods": ["GET"], "paths": ["/%61/*", "/%c3%a9"]}
    settings = config(
        services=FULL_SERVICES,
        rules=[rule],
        secrets={"directory": "/run/secrets"},
        http={"via": False, "via_name": "a.test", "forwarded_for": "append", "request_id": False},
        limits={"max_body_bytes": 0},
        timeouts={"keep_alive_s": 5},
    )
    assert settings.rules[0].paths == ("/a/*", "/%C3%A9")
    for exclude in (True, False):
        printed = settings.model_dump(mode="json", by_alias=True, exclude_defaults=exclude, exclude_none=True)
        assert Config.model_validate(printed) == settings
    assert Config.model_validate_json(settings.model_dump_json(exclude_defaults=True, by_alias=True)) == settings


def test_the_settings_of_services_have_their_values() -> None:
    one, *_, last = config(services=FULL_SERVICES, secrets={"directory": "/x"}).services
    assert one.aliases == ("api", "api.default.svc")
    assert [(port.number, port.protocol, port.target_port) for port in one.ports] == [
        (80, "HTTP", 8443),
        (443, None, None),
    ]
    assert [(point.address, point.port, point.weight) for point in one.endpoints] == [
        ("10.0.0.1", None, 1),
        ("2001:db8::1", 9443, 3),
    ]
    assert one.tls is not None
    assert (one.tls.sni, one.tls.minimum_version, one.tls.alpn, one.tls.verify) == ("other.example", "1.3", (), True)
    assert [(name, str(value.file), value.prefix) for name, value in one.set_headers.items()] == [
        ("Authorization", "token", "Bearer "),
        ("X-Key", "key", ""),
    ]
    assert last.tls is not None
    assert (last.tls.mode, last.resolution) == ("disable", "none")


def test_what_a_service_leaves_out_is_safe() -> None:
    (service,) = config(services=[{**SERVICE, "tls": {"mode": "simple"}}]).services
    assert service.tls is not None
    assert (service.tls.verify, service.tls.minimum_version, service.tls.alpn) == (True, "1.2", ("http/1.1",))
    assert (service.private_addresses, service.resolution, service.endpoints) == (False, "dns", ())
    assert (service.timeout_s, service.connect_timeout_s, service.idle_timeout_s) == (None, None, None)
    settings = config()
    assert settings.http == Http(via=True, forwarded_for="off", request_id=True)
    assert settings.secrets.directory is None
    assert settings.limits.max_body_bytes is None


@pytest.mark.parametrize("version", ["1.2", "1.3", 1.2, 1.3])
def test_a_version_of_tls_needs_no_quotes(version: object) -> None:
    (service,) = config(services=[{**SERVICE, "tls": {"mode": "simple", "minimum_version": version}}]).services
    assert service.tls is not None
    assert service.tls.minimum_version == str(version)


@pytest.mark.parametrize("verify", [1, 0, "true", "off", "Chain", None, [], 1.0])
def test_no_other_word_switches_verification_off(verify: object) -> None:
    with pytest.raises(ValidationError):
        config(services=[{**SERVICE, "tls": {"mode": "simple", "verify": verify}}])


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "a b", "-a", "a\n", "a" * 254])
def test_the_name_of_a_secret_leads_nowhere_else(name: str) -> None:
    with pytest.raises(ValidationError):
        config(services=[{**SERVICE, "tls": {"mode": "simple", "credential": name}}], secrets={"directory": "/x"})


@pytest.mark.parametrize(
    "name",
    [
        "Host",
        "content-length",
        "TRANSFER-ENCODING",
        "Connection",
        "Keep-Alive",
        "Proxy-Connection",
        "TE",
        "Trailer",
        "Upgrade",
        "Expect",
        "Via",
        "Proxy-Authorization",
        "Proxy-Authenticate",
    ],
)
def test_fields_that_frame_a_message_are_not_set(name: str) -> None:
    service = {**SERVICE, "tls": {"mode": "simple"}, "set_headers": {name: {"file": "x"}}}
    with pytest.raises(ValidationError, match=f"{name} is the proxy's own to write"):
        config(services=[service])


@pytest.mark.parametrize(
    ("word", "template"),
    [("istio", "%REQ(x-key)%"), ("envoy", "%RESP(X-NONE?X_KEY)%"), ("squid", "%{X-Key}>h"), ("squid", "%{x-key}<h")],
)
def test_no_log_names_a_field_that_is_a_service_s_credential(word: str, template: str) -> None:
    service = {**SERVICE, "tls": {"mode": "simple"}, "set_headers": {"X-Key": {"file": "x"}}}
    logs = [{"format": "json"}, {"format": word, "template": template}]
    with pytest.raises(ValidationError, match=r"cannot name 'x.key': set_headers of service .* gives it a credential"):
        config(services=[service], access_log=logs)
    assert config(services=[SERVICE], access_log=logs).asked is not None


def test_fields_are_kept_for_all_logs_together_and_only_where_one_asks() -> None:
    none = [{"format": "istio"}, {"format": "envoy", "template": "%REQ(:PATH)%"}, {"format": "json"}]
    assert config(access_log=none).asked is None
    some = [{"format": "istio", "template": "%REQ(X-A)%"}, {"format": "squid", "template": "%{X-B}>h %{X-A}<h"}]
    assert config(access_log=[*none, *some]).asked == ({"x-a", "x-b"}, {"x-a"})


@pytest.mark.parametrize(
    "settings",
    [
        {"dns": {"servers": ["10.0.0.1:65536"]}},
        {"dns": {"servers": ["10.0.0.1:٣"]}},
        {"dns": {"servers": ["[10.0.0.1"]}},
        {"dns": {"servers": [53]}},
        {"dns": {"servers": ["fe80::1%eth0"]}},
        {"admin": {"address": "fe80::1%x\n"}},
        {"admin": {"address": 1}},
        {"guard": {"allow": [10]}},
        {"guard": {"allow": ["10.0.0.0/33"]}},
        {"rules": [{"action": "deny", "name": "a b"}]},
        {"rules": [{"action": "deny", "name": "x" * 65}]},
        {"rules": [{"action": "deny", "hosts": [7]}]},
        {"rules": [{"action": "deny", "hosts": "a.example"}]},
        {"rules": [{"action": "deny", "name": "rule-2"}, {"action": "deny"}]},
        {"listeners": [LISTENER, {**LISTENER, "address": "127.0.0.1"}]},
        {"access_log": [{"path": ""}]},
    ],
    ids=repr,
)
def test_settings_that_could_be_read_twice_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        config(**settings)


LISTENERS = [
    {"protocol": "sni", "port": 1, "service_port": 8443, "transparent": "redirect"},
    {"protocol": "auto", "port": 2, "service_port": 1, "transparent": "tproxy"},
    {"protocol": "sni", "port": 3, "proxy_protocol": {"from": ["10.0.0.0/8", "::1"]}},
    {"protocol": "auto", "port": 4, "proxy_protocol": {"from": ["10.0.0.1"]}},
    {"protocol": "http-proxy", "port": 5, "proxy_protocol": {"from": ["0.0.0.0/0", "::/0"]}},
    {"protocol": "http-proxy", "port": 6, "tls": {"certificate": "c.pem", "key": "k.pem"}},
]
RULE = {
    "action": "allow",
    "hosts": ["a.example"],
    "sni_check": "report",
    "require_tls": False,
    "ech": "deny",
    "proxy_protocol": "v2",
}
SERVICE = {"hosts": ["a.example"], "ports": [{"number": 443}]}


@pytest.mark.parametrize("listener", LISTENERS, ids=repr)
def test_each_listener_takes_what_has_a_meaning_there(listener: dict[str, object]) -> None:
    (read,) = Config.model_validate({"listeners": [listener]}).listeners
    assert read.label == f"{listener['protocol']}:{listener['port']}"
    assert read.service_port == listener.get("service_port")
    assert read.transparent == listener.get("transparent")


@pytest.mark.parametrize(
    "listener",
    [
        {"protocol": "http-proxy", "port": 1, "service_port": 443},
        {"protocol": "http-proxy", "port": 1, "transparent": "redirect"},
        {"protocol": "sni", "port": 1, "tls": {"certificate": "c.pem", "key": "k.pem"}},
        {"protocol": "auto", "port": 1, "tls": {"certificate": "c.pem", "key": "k.pem"}},
        {"protocol": "sni", "port": 1, "service_port": 0},
        {"protocol": "sni", "port": 1, "service_port": "443"},
        {"protocol": "sni", "port": 1, "transparent": "nat"},
        {"protocol": "sni", "port": 1, "transparent": True},
        {"protocol": "sni", "port": 1, "proxy_protocol": True},
        {"protocol": "sni", "port": 1, "proxy_protocol": {}},
        {"protocol": "sni", "port": 1, "proxy_protocol": {"from": []}},
        {"protocol": "sni", "port": 1, "proxy_protocol": {"from": ["10.0.0.1/8"]}},
        {"protocol": "sni", "port": 1, "proxy_protocol": {"from": "10.0.0.0/8"}},
        {"protocol": "sni", "port": 1, "proxy_protocol": {"from": ["any"]}},
        {"protocol": "sni", "port": 1, "proxy_protocol": {"announcers": ["10.0.0.0/8"]}},
    ],
    ids=repr,
)
def test_what_has_no_meaning_on_a_listener_is_refused(listener: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Config.model_validate({"listeners": [listener]})


def test_a_listener_has_the_general_times_where_it_has_none_of_its_own() -> None:
    listeners = [
        {"protocol": "sni", "port": 1, "timeouts": {"head_s": 3, "half_close_s": 4}},
        {"protocol": "sni", "port": 2},
        {"protocol": "sni", "port": 3, "timeouts": {}},
    ]
    config = Config.model_validate({"listeners": listeners, "timeouts": {"connect_s": 5, "half_close_s": 6}})
    usual = config.timeouts
    own, none, empty = (usual.at(listener) for listener in config.listeners)
    assert own == Timeouts(head_s=3, connect_s=5, half_close_s=4)
    assert none == empty == usual


@pytest.mark.parametrize("key", sorted(Timeouts.model_fields.keys() - ListenerTimeouts.model_fields.keys()))
def test_a_time_that_is_no_matter_of_one_listener_is_refused_there(key: str) -> None:
    with pytest.raises(ValidationError):
        Config.model_validate({"listeners": [{"protocol": "sni", "port": 1, "timeouts": {key: 1}}]})


def test_announcers_are_networks() -> None:
    settings = Config.model_validate({"listeners": LISTENERS[2:3]})
    announced = settings.listeners[0].proxy_protocol
    assert announced is not None
    assert [str(network) for network in announced.announcers] == ["10.0.0.0/8", "::1/128"]
    printed = settings.model_dump(mode="json", exclude_defaults=True, by_alias=True)
    assert printed["listeners"][0]["proxy_protocol"] == {"from": ["10.0.0.0/8", "::1/128"]}
    assert Config.model_validate(printed) == settings


@pytest.mark.parametrize("key", ["sni_check", "require_tls", "ech", "proxy_protocol"])
def test_what_is_asked_of_a_tunnel_belongs_on_a_rule_that_opens_one(key: str) -> None:
    assert getattr(config(rules=[RULE]).rules[0], key) == RULE[key]
    with pytest.raises(ValidationError, match="belongs on an allow rule"):
        config(rules=[{"action": "deny", key: RULE[key]}])
    with pytest.raises(ValidationError, match="belongs on an allow rule"):
        config(rules=[{"action": "deny", "report": True, key: RULE[key]}])


@pytest.mark.parametrize(
    "setting",
    [
        {"sni_check": "on"},
        {"sni_check": True},
        {"require_tls": "yes"},
        {"require_tls": 1},
        {"ech": False},
        {"ech": "report"},
        {"proxy_protocol": 1},
        {"proxy_protocol": "v3"},
        {"sni_check": None},
        {"require_tls": None},
        {"ech": None},
    ],
    ids=repr,
)
def test_other_words_for_what_is_asked_of_a_tunnel_are_refused(setting: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        config(rules=[{**RULE, **setting}])


@pytest.mark.parametrize(
    "settings",
    [
        {"sni_check": "on"},
        {"sni_check": None},
        {"ech": "off"},
        {"require_tls": True},  # of a rule
        {"services": [{**SERVICE, "resolution": "static"}]},
        {"services": [{**SERVICE, "resolution": "None"}]},
        {"services": [{**SERVICE, "resolution": None}]},
        {"services": [{**SERVICE, "sni_check": "off"}]},
        {"rules": [{"action": "allow", "resolution": "none"}]},
        {"limits": {"max_hello_bytes": 511}},
        {"limits": {"max_hello_bytes": 65_537}},
        {"access_log": [{"format": "nginx-stream", "decisions": True}]},
        {"access_log": [{"format": "nginx"}]},
    ],
    ids=repr,
)
def test_settings_of_tls_by_server_name_are_read_strictly(settings: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        config(**settings)


def test_defaults_of_tls_by_server_name() -> None:
    settings = config(services=[SERVICE], rules=[{"action": "allow"}])
    assert (settings.sni_check, settings.ech, settings.limits.max_hello_bytes) == (None, "allow", 65_536)
    assert settings.services[0].resolution == "dns"
    rule, listener = settings.rules[0], settings.listeners[0]
    assert (rule.sni_check, rule.require_tls, rule.ech, rule.proxy_protocol) == (None, None, None, None)
    assert (listener.service_port, listener.transparent, listener.proxy_protocol) == (None, None, None)


@pytest.mark.parametrize(
    "places",
    [
        [("127.0.0.1", 1), ("127.0.0.1", 1)],
        [("127.0.0.1", 1), ("0.0.0.0", 1)],
        [("::", 1), ("127.0.0.1", 1)],
        [("::1", 1), ("::", 1)],
    ],
    ids=repr,
)
def test_two_listeners_cannot_share_a_place(places: list[tuple[str, int]]) -> None:
    with pytest.raises(ValidationError, match="is taken by"):
        listen(*places)


def test_listeners_may_share_a_port_on_addresses_apart() -> None:
    assert len(listen(("127.0.0.1", 1), ("::1", 1), ("127.0.0.2", 1), ("127.0.0.1", 2)).listeners) == 4
    assert len(listen(("0.0.0.0", 1), ("::1", 1)).listeners) == 2
