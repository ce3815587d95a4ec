"""Advice can be followed: what is offered for pasting is taken, and means what was meant."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egressproxy.config import slips
from egressproxy.config.native import compose
from egressproxy.config.schema.config import Config
from egressproxy.hostport import parse_allow_entry

# --- one for many -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "advice"),
    [
        ("api.x", "; write it as a list: [api.x]"),
        ("api.x:443", "; write it as a list: [api.x:443]"),
        ("*.x", '; write it as a list: ["*.x"]'),
        ("10.0.0.0/8", "; write it as a list: [10.0.0.0/8]"),
        ("192.0.2.1", '; write it as a list: ["192.0.2.1"]'),
        ("a.x, b.x c.x,", "; write it as a list: [a.x, b.x, c.x]"),
        ("8000-8100", '; write it as a list: ["8000-8100"]'),
        ("no", '; write it as a list: ["no"]'),
        ("0x0 0b1 1e5 0o17", '; write it as a list: ["0x0", "0b1", "1e5", "0o17"]'),
        (443, "; write it as a list: [443]"),
        ("", "; write it as a list, like [one, other]"),
        ("a\x1b[31mb", "; write it as a list, like [one, other]"),
        ("a" * 61, "; write it as a list, like [one, other]"),
        ({"a.x": 443}, "; write it as a list: [a.x:443]"),
        ({"a.x": 443, "b.x": "*"}, '; write it as a list: [a.x:443, "b.x:*"]'),
        ({"a.x": None}, ""),
        ({"a.x": [1]}, ""),
        (None, ""),
        (True, ""),
        (1.5, ""),
    ],
)
def test_one_thing_where_a_list_belongs(value: object, advice: str) -> None:
    assert slips.single_for_list(value) == advice


@pytest.mark.parametrize(
    ("keys", "value", "advice"),
    [
        (("services", "tls"), "simple", "; write it like {mode: simple}"),
        (("services", "endpoints"), "10.0.0.1", '; write it like {address: "10.0.0.1"}'),
        (("services", "set_headers", "X-Key"), "./key", '; write it like {file: "./key"}'),
        (("secrets",), "secrets", "; write it like {directory: secrets}"),
        (("secrets",), "a b", ""),
        (("secrets",), "a" * 61, ""),
        (("dns",), "10.0.0.1", ""),
    ],
)
def test_one_word_where_a_mapping_belongs(keys: tuple[str, ...], value: str, advice: str) -> None:
    assert slips.word_for_mapping(keys, value) == advice


@pytest.mark.parametrize(
    ("key", "value", "advice"),
    [
        ("rules", {"action": "deny"}, "; put - before it, or [ ] around it"),
        ("listeners", 3128, slips.LISTENERS),
        ("listeners", [], slips.LISTENERS),
        ("access_log", "logs/access.log", "; write it as a list: [{path: logs/access.log}]"),
        ("access_log", "-", '; write it as a list: [{path: "-"}]'),
        ("access_log", "a: b", ""),
        ("rules", "deny", ""),
    ],
)
def test_one_thing_where_a_list_of_mappings_belongs(key: str, value: object, advice: str) -> None:
    assert slips.single_for_mappings(key, value) == advice


WORDS = st.from_regex(r"\A[A-Za-z0-9*._:/-]{1,12}\Z").filter(lambda word: not word.endswith(":"))


@given(st.lists(WORDS, min_size=1, max_size=4), st.sampled_from([" ", ",", ", "]))
def test_the_list_to_paste_holds_the_words_that_were_written(words: list[str], between: str) -> None:
    advice = slips.single_for_list(between.join(words))
    composed = compose(advice.replace("; write it as a list:", "allow:").encode())
    assert composed.faults == ()
    assert composed.data == {"allow": words}


# --- seconds ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5m", "300"),
        ("90s", "90"),
        ("1h30m", "5400"),
        ("2 minutes", "120"),
        ("1 Hour", "3600"),
        ("500ms", "0.5"),
        ("1.5s", "1.5"),
        ("1d", "86400"),
        ("2h ", "7200"),
    ],
)
def test_a_span_is_told_in_seconds(text: str, seconds: str) -> None:
    assert slips.span_for_seconds(text) == f"; write it in seconds, without a unit: {seconds}"


@pytest.mark.parametrize("text", ["", "5", "m", "5 x", "-5m", "5m!", ".5m", "1e3s", "5" * 50 + "m", "5m\n\x1b"])
def test_other_text_is_no_span(text: str) -> None:
    assert slips.span_for_seconds(text) == ""


# --- URLs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "entry"),
    [
        ("https://a.example", "a.example:443"),
        ("https://A.Example./path?query#x", "a.example:443"),
        ("http://a.example/", "a.example:80"),
        ("wss://a.example/socket", "a.example:443"),
        ("https://a.example:8443/", "a.example:8443"),
        ("https://user:word@a.example/", "a.example:443"),
        ("https://*.a.example/*", "*.a.example:443"),
        ("ssh://git@a.example:22/x.git", "a.example:22"),
        ("https://192.0.2.1/", "192.0.2.1:443"),
        ("https://[2001:db8::1]/", "[2001:db8::1]:443"),
    ],
)
def test_a_url_is_told_as_an_entry_of_allow(url: str, entry: str) -> None:
    assert slips.url_for_host(url, with_port=True) == f"; did you mean {entry}?"
    parse_allow_entry(entry)


@pytest.mark.parametrize(
    "url",
    ["a.example", "ftp://a.example/", "https://", "https:///x", "https://a b/", "https://0x7f.1/", "https://a:b/"],
)
def test_what_names_no_host_and_port_gets_no_advice(url: str) -> None:
    assert slips.url_for_host(url, with_port=True) == ""


def test_where_only_hosts_belong_the_port_is_sent_elsewhere() -> None:
    assert (
        slips.url_for_host("https://a.example/", with_port=False)
        == "; did you mean a.example? its port 443 belongs in ports"
    )


@given(st.text(max_size=100))
def test_whatever_a_file_holds_stays_on_its_line(text: str) -> None:
    advice = [slips.single_for_list(text), slips.span_for_seconds(text)]
    advice += [slips.url_for_host(f"https://{text}", with_port=with_port) for with_port in (True, False)]
    for piece in advice:
        assert re.fullmatch(r"(; [ -~]+)?", piece)


# --- the rest -----------------------------------------------------------------------------------------------------


def test_the_example_of_a_listener_is_one() -> None:
    composed = compose(slips.LISTENERS.removeprefix("; for example ").encode())
    (listener,) = Config.model_validate(composed.data).listeners
    assert (listener.address, listener.port) == ("127.0.0.1", 3128)


@pytest.mark.parametrize(
    ("value", "advice"),
    [
        (False, "; to have no admin port write admin: null"),
        (9091, "; write admin: {port: 9091}"),
        (True, "admin: null for none"),
        ("0.0.0.0:9090", "admin: null for none"),
        ([], "admin: null for none"),
    ],
)
def test_a_single_value_for_the_admin_port(value: object, advice: str) -> None:
    assert slips.word_for_admin(value).endswith(advice)
