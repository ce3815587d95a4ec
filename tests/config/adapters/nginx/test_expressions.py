"""Expressions of a map: what both languages read alike is taken, all else refused."""

from __future__ import annotations

import re

import pytest

from egressproxy.config.adapters.nginx.expressions import read_expression


def test_names_of_groups_are_spelled_in_one_way():
    found = read_expression(r"~^(?<sub>[a-z]+)(?'b'x)(?P<c>y)[(?<n>]\(?<n>").native
    assert found == r"^(?P<sub>[a-z]+)(?P<b>x)(?P<c>y)[(?<n>]\(?<n>"


@pytest.mark.parametrize(
    "key",
    [
        "~[[:alpha:]]",
        "~[^[:alpha:]]",
        "~[a[:digit:]]",
        "~[^a-f[:digit:]_]",
        "~[a[.b.]]",
        "~[][=a=]]",
        r"~[\d[:alpha:]]",
        "~[a--b]",
        "~[a&&b]",
        r"~[a\h]",
        "~a{,3}",
        "~a{ 1,2}",
        "~a++b",
        "~a{3}+b",
        "~(?>a)",
        r"~\N",
        r"~a\Z",
        r"~a\z",
        r"~\h+",
        r"~\R",
        r"~\Ka",
        r"~\10",
        r"~\k<n>",
        r"~\u0041",
        r"~\Qa.b\E",
        "~(?|a|b)",
        r"~\p{L}",
        "~(*UTF8)a",
        "~(?R)",
        "~(?#[)a",
        "~(?x)a b",
        "~(?!a)",
        "~(?<!a)b",
        "~(?=a)",
        r"~(a)\1",
        "~(?<n>a)(?P=n)",
        "~(?-i:a)",
        "~(?(1)a|b)",
        "~a(?i)b",
        "~*(?i)a(?x)",
        "~é",
        "~" + "(" * 200,
    ],
)
def test_an_expression_that_means_something_else_here_is_refused(key):
    with pytest.raises(ValueError, match="expression"):
        read_expression(key)


@pytest.mark.parametrize(
    ("key", "native"),
    [
        ("~^a$", "^a$"),
        (r"~*^[a-z0-9-]+\.example\.(com|org)$", r"(?i)^[a-z0-9-]+\.example\.(com|org)$"),
        ("~(?:a|b){1,3}?", "(?:a|b){1,3}?"),
        (r"~^\w+\d*$", r"^\w+\d*$"),
        (r"~[]\[a^][^]a]]", r"[]\[a^][^]a]]"),
        (r"~(?<n>a)(?i:b)", r"(?P<n>a)(?i:b)"),
        ("~(?i)a", "(?i)a"),
        ("~*(?i)a", "(?i)a"),
        (r"~\x61\.\-\_", r"\x61\.\-\_"),
    ],
)
def test_an_expression_that_both_languages_have_is_taken(key, native):
    assert read_expression(key).native == native
    re.compile(native)


@pytest.mark.parametrize(
    ("key", "capitals", "excludes"),
    [
        ("~a", False, False),
        ("~^WWW", True, False),
        (r"~^\S\W\D(?<Name>x)[\W]", False, False),
        ("~[A-Z]", True, False),
        ("~[^.][^0-9-]", False, False),
        (r"~[^a-z]", False, True),
        (r"~[^a-zA-Z]", True, False),
        (r"~[^0-_]", False, True),
    ],
)
def test_what_letter_case_has_to_do_with_it(key, capitals, excludes):
    found = read_expression(key)
    assert (found.capitals, found.excludes) == (capitals, excludes)
