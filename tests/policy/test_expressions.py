"""Expressions of the configuration: found or not, and never for long."""

import time

import pytest

from egressproxy.policy.expressions import compile_expression


@pytest.mark.parametrize(
    ("expression", "text", "found"),
    [
        ("^cdn[0-9]+[.]", "cdn12.example.com", True),
        ("^cdn[0-9]+[.]", "my.cdn12.example.com", False),
        ("com$", "example.com", True),
        ("com$", "example.com\n", False),
        ("(?i)ADS", "/ads/", True),
        ("[[:digit:]]", "a1", True),
        ("caf\u00e9", "/caf\u00e9", True),
        ("", "anything", True),
    ],
)
def test_it_is_found_anywhere_unless_it_says_where(expression, text, found):
    assert bool(compile_expression(expression).search(text)) is found


@pytest.mark.parametrize("expression", ["(", "[a", "(?!x)a", "(a)\\1", "a{99999}", "\\Z", "(?P<n>a)(?P=n)"])
def test_what_cannot_be_searched_in_time_is_refused(expression):
    with pytest.raises(ValueError, match=r".+"):
        compile_expression(expression)


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("(\x1b[31m\n", r"missing ]: '[31m\n'"),
        ("(" * 2000, f"missing ): '{'(' * 37}...'"),
        ("a**", "bad repetition operator: '**'"),
        ("\u202e)", r"unexpected ): '\u202e)'"),
    ],
)
def test_what_is_wrong_is_one_short_printable_line(expression, message):
    with pytest.raises(ValueError) as refused:
        compile_expression(expression)
    assert str(refused.value) == message


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        (".*/ads/.*\\.gif$", "/ads/" * 1500),
        ("^(.*\\.)*example\\.com$", "a." * 120 + "x"),
        ("(a+)+$", "a" * 5000 + "b"),
        ("(x|x|x)*y", "x" * 5000),
    ],
)
def test_no_text_takes_long(expression, text):
    """Less than what a backtracking engine takes by many powers of ten; counted is the time of this thread alone."""
    compiled = compile_expression(expression)
    begun = time.clock_gettime(time.CLOCK_THREAD_CPUTIME_ID)
    assert not compiled.search(text)
    assert time.clock_gettime(time.CLOCK_THREAD_CPUTIME_ID) - begun < 0.2
