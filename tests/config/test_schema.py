"""The settings themselves: defaults, spellings that are taken, and what goes together."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from egressproxy.config.schema import Config, built_in
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
