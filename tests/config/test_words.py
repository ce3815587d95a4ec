"""Words that YAML readers take for something else, as people write them in a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from egressproxy.config.load import load
from egressproxy.errors import ConfigError

BEFORE = "listeners: [{protocol: http-proxy, port: 3128}]\nallow: [a.example]\n"


def loaded(folder: Path, text: str) -> object:
    file = folder / "proxy.yaml"
    file.write_text(BEFORE + text + "\n")
    return load([str(file)]).config


def test_off_is_a_word_of_the_settings_without_quotes_as_with_them(tmp_path: Path) -> None:
    for text in ("sni_check: off", 'sni_check: "off"'):
        assert loaded(tmp_path, text).sni_check == "off"  # type: ignore[attr-defined]  # a Config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sni_check: false", "sni_check: expected enforce or report or off, got false; did you mean off?"),
        ("report: off", "report: expected true or false, got 'off'; write false"),
        ("ech: false", "ech: expected allow or deny, got false"),
        (
            "rules: [{action: allow, proxy_protocol: 1}]",
            "rules[0].proxy_protocol: expected v1 or v2, got 1; did you mean v1?",
        ),
    ],
)
def test_what_is_nearly_a_word_is_refused_with_the_word(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        loaded(tmp_path, text)
    assert str(refused.value).endswith(f":3: {message}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "rules: [{action: allow, methods: [get]}]",
            "rules[0].methods[0]: expected a method in capitals like CONNECT, got 'get'",
        ),
        (
            "rules: [{action: allow, name: a b}]",
            "rules[0].name: expected a word of up to 64 letters, digits and _ . : -, got 'a b'",
        ),
        (
            "services: [{name: a b, hosts: [b.example], ports: [{number: 443}]}]",
            "services[0].name: expected a word of up to 512 letters, digits and _ . : | * -, got 'a b'",
        ),
        (
            "services: [{hosts: [b.example], ports: [{number: 80}], tls: {mode: simple, credential: ../b}}]",
            "services[0].tls.credential: expected the name of a secret, in letters, digits, . and -, got '../b'",
        ),
        (
            "rules: [{action: allow, name: 7}]",
            "rules[0].name: expected a word of up to 64 letters, digits and _ . : -, got 7; quote it to make it text",
        ),
    ],
)
def test_what_an_expression_does_not_match_hears_what_is_expected(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        loaded(tmp_path, text)
    assert str(refused.value).endswith(f":3: {message}")
