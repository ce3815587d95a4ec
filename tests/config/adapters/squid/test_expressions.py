"""POSIX extended expressions in RE2's words. `grep -E` reads them as Squid does: both ask glibc."""

from __future__ import annotations

import re
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from egressproxy.config.adapters.squid.expressions import native_expression
from egressproxy.policy.expressions import compile_expression


@pytest.mark.parametrize(
    ("posix", "native"),
    [
        (r"\.gif$", r"\.gif$"),
        ("^http://", "^http://"),
        ("a(b|c)+d?", "a(b|c)+d?"),
        ("[[:digit:]]{1,3}", "[0-9]{1,3}"),
        (r"[\.]", r"[\\.]"),  # a backslash in brackets is itself
        ("[]a]", r"[\]a]"),
        ("[^]a-f-]", r"[^\]a-f\-]"),
        (r"\bword\b", r"\bword\b"),
        ("x{,3}", "x{0,3}"),
        ("a]b}", r"a\]b\}"),
        ("caf\u00e9", "caf\u00e9"),
    ],
)
def test_what_means_the_same_stays_and_the_rest_is_rewritten(posix: str, native: str) -> None:
    assert native_expression(posix, any_case=False) == native


def test_either_case_is_a_flag_in_front() -> None:
    assert native_expression("ads", any_case=True) == "(?i)ads"


@pytest.mark.parametrize(
    ("posix", "reason"),
    [
        (r"\.a\d+", r"'\d' in '\.a\d+' is not what it seems to Squid"),
        (r"\d+", "is not what it seems to Squid; a digit is [0-9]"),
        (r"(a)\1", "is not what it seems to Squid"),
        (r"\<word", "is not what it seems to Squid"),
        ("a+?", "repeats nothing, or what is repeated already"),
        ("*a", "repeats nothing"),
        ("(?:a)", "repeats nothing"),
        ("a{x}", "expected an interval"),
        ("[[.a.]]", "expected a class like [:digit:]"),
        ("[[:nope:]]", "expected a class like [:digit:]"),
        ("[abc", "expected ] behind ["),
        ("(a", "expected a regular expression"),
        ("a\\", "is not what it seems to Squid"),
    ],
)
def test_what_was_probably_not_meant_so_is_refused(posix: str, reason: str) -> None:
    with pytest.raises(ValueError, match=re.escape(reason)):
        native_expression(posix, any_case=False)


PIECES = st.sampled_from(
    [
        r"a",
        r"b",
        r"ab",
        r".",
        r"[ab]",
        r"[^a]",
        r"[]b]",
        r"[\a]",
        r"[[:alpha:]]",
        r"(a|b)",
        r"(ab)",
        r"a*",
        r"b+",
        r"a?",
        r"b{2}",
        r"^",
        r"$",
        r"\.",
        r"|",
    ]
)


@settings(max_examples=150, deadline=None)
@given(st.lists(PIECES, min_size=1, max_size=6), st.lists(st.text("ab.\\]-", max_size=6), min_size=1, max_size=20))
def test_grep_finds_what_we_find(pieces: list[str], subjects: list[str]) -> None:
    posix = "".join(pieces)
    try:
        native = native_expression(posix, any_case=False)
    except ValueError:
        return
    text = "".join(f"{subject}\n" for subject in subjects)
    done = subprocess.run(["grep", "-E", "-e", posix], input=text, capture_output=True, text=True, check=False)
    assert done.returncode < 2, done.stderr
    assert done.stdout.splitlines() == [subject for subject in subjects if compile_expression(native).search(subject)]
