"""Values and ways in messages: on one line, bounded, and in words an operator knows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egressproxy.config.faults import path_text, shown, shown_expression


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("text", "'text'"),
        ("a\n\x1b[31mb\ud800", r"'a\n\x1b[31mb\ud800'"),
        ("x" * 41, f"'{'x' * 37}...'"),
        (443, "443"),
        (1.5, "1.5"),
        (True, "true"),
        (False, "false"),
        (None, "nothing"),
        ([], "a list of 0"),
        ([1, 2], "a list of 2"),
        ({"a": 1}, "a mapping"),
    ],
)
def test_a_value_is_shown_in_the_words_of_the_file(value: object, expected: str) -> None:
    assert shown(value) == expected


def test_an_expression_is_shown_as_it_stands_in_the_file() -> None:
    assert shown_expression(r"^\\.gif\\") == r"'^\\.gif\\'"
    assert shown_expression("a\n\x1b\\d'") == '"' + r"a\n\x1b\d'" + '"'
    assert len(shown_expression("\\" * 50)) == 42


def test_a_way_reads_as_it_would_be_typed() -> None:
    assert path_text(("rules", 2, "hosts", 0)) == "rules[2].hosts[0]"
    assert path_text(()) == ""
    assert path_text((0, "a")) == "[0].a"
    assert path_text(("a b", "c\n")) == r"'a b'.'c\n'"


def test_what_comes_first_and_looks_like_no_directive_is_cut_soonest() -> None:
    """A file of secrets that is given by mistake."""
    assert path_text(("root:$y$j9T$abcdefghijklmnop",)) == "'root:$y$j9T$abcde...'"
    assert path_text(("MIIEvQIBADANBgkqhkiG9w0BAQEF", "a")) == "'MIIEvQIBADANBgkqh...'.a"
    assert path_text(("sslproxy_session_cache_size",)) == "sslproxy_session_cache_size"
    assert path_text(("RequestAuthentication", "x")) == "RequestAuthentication.x"


@given(st.text(max_size=200), st.lists(st.text(max_size=100) | st.integers(0, 9), max_size=5))
def test_nothing_leaves_its_line(value: str, way: list[str | int]) -> None:
    for text in (shown(value), path_text(way)):
        assert text.isascii()
        assert text.isprintable()
