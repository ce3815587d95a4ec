"""Settings of rules that ask something of a tunnel."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from egressproxy.config.schema.config import Config

LISTENER = {"protocol": "http-proxy", "port": 3128}


def config(**settings: object) -> Config:
    return Config.model_validate({"listeners": [LISTENER], **settings})


RULE = {
    "action": "allow",
    "hosts": ["a.example"],
    "sni_check": "report",
    "require_tls": False,
    "ech": "deny",
    "proxy_protocol": "v2",
}


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
