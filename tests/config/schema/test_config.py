"""The whole: defaults, spellings that are taken, and what goes together."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from egressproxy.config.schema.config import Config, built_in
from egressproxy.hostport import HostPattern, PortRange

LISTENER = {"protocol": "http-proxy", "port": 3128}


def config(**settings: object) -> Config:
    return Config.model_validate({"listeners": [LISTENER], **settings})


SERVICE = {"hosts": ["a.example"], "ports": [{"number": 443}]}


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
