"""Maps on the server name: which entry a name meets, in NGINX's order."""

from __future__ import annotations

import pytest
from support.adapting import MAIN, MemoryFiles, told

from egressproxy.config.adapters.adapter import Source
from egressproxy.config.adapters.nginx.maps import filled_in, read_map, variables_of
from egressproxy.config.adapters.nginx.syntax import Findings, read


def mapped(lines):
    """The map with these lines, and what was found wrong or worth a note."""
    files, findings = MemoryFiles({}), Findings(lenient=False)
    (statement,) = read(Source(0, MAIN, f"map $ssl_preread_server_name $x {{\n{lines}\n}}".encode()), files, findings)
    found = read_map(statement, findings)
    return found, [told(each, files) for each in findings.faults], [told(each, files) for each in findings.notes]


def entries(lines):
    """Conditions and values, in the order in which they are asked."""
    found, faults, _ = mapped(lines)
    assert faults == []
    return [
        (*([at.value for at in names] for names in entry.condition.values()), entry.value) for entry in found.entries
    ]


def test_exact_names_come_first_and_one_value_is_one_entry():
    assert entries("default d; a.example one; B.example two; c.example one;") == [
        (["a.example", "c.example"], "one"),
        (["b.example"], "two"),
        ("d",),
    ]


def test_the_longest_wildcard_comes_first_and_a_leading_one_before_a_trailing_one():
    assert entries(
        "hostnames;\nwww.* tail; *.example.com short; www.example.* longer; *.a.example.com long; x.example.com exact;"
    ) == [
        (["x.example.com"], "exact"),
        (["*.a.example.com"], "long"),
        (["*.example.com"], "short"),
        ([r"^www\.example\..+$"], "longer"),
        ([r"^www\..+$"], "tail"),
        ("",),
    ]


def test_a_leading_dot_is_the_name_and_all_below_it():
    assert entries("hostnames; .example.com one; *.example.org one;") == [
        (["example.com"], "one"),
        (["*.example.com", "*.example.org"], "one"),
        ("",),
    ]


def test_expressions_keep_their_order_and_come_last():
    assert entries("~^b b; '~*^A{2}$' a; exact e; default d;") == [
        (["exact"], "e"),
        (["^b"], "b"),
        (["(?i)^A{2}$"], "a"),
        ("d",),
    ]


def test_a_backslash_takes_the_meaning_of_a_key_away():
    assert entries(r"\default one; \hostnames two; default d;") == [
        (["default"], "one"),
        (["hostnames"], "two"),
        ("d",),
    ]


@pytest.mark.parametrize(
    ("lines", "value"),
    [
        ("a.example one; default d;", "d"),
        ("a.example one;", ""),
        ('"" none; default d;', "none"),
        ("~.* any; default d;", "d"),
        ("~^$ empty;", ""),
        ("~.* any; '' none;", "none"),
    ],
)
def test_who_names_no_server_has_the_empty_name(lines, value):
    found, faults, _ = mapped(lines)
    assert (faults, found.unnamed.value) == ([], value)


def test_without_hostnames_a_wildcard_is_a_name_that_nobody_has():
    found, faults, notes = mapped("*.example.com one; .example.org two;")
    assert (faults, len(found.entries)) == ([], 1)
    assert notes == [
        '2 "*.example.com": without `hostnames` in this map it means no other names, and no client writes this one'.replace(
            '"', "'"
        ),
        "2 .example.org: without `hostnames` in this map it means no other names, and no client writes this one",
    ]


@pytest.mark.parametrize(
    ("lines", "fault"),
    [
        ("a one; a two;", "2 a: 'a' is written twice; the first is on line 2"),
        ("hostnames; a one;\n.A two;", "3 .A: 'a' is written twice; the first is on line 2"),
        ("default a;\ndefault b;", "3 default: is written twice; the first is on line 2"),
        ("a b c;", "2 a: expected a name and one value, got 3 words"),
        (
            "a b\nc d;",
            "2 a: expected a name and one value, got 4 words; is a \";\" missing behind 'a b'?",
        ),
        ("a;", "2 a: expected a name and one value, got 1 words"),
        ("a {}", "2 a: expected a name and one value, got 1 words"),
        ("hostnames; * a;", "2 '*': expected a name, *.name, .name or name.*, got '*'"),
        ("hostnames; www.*.com a;", "2 'www.*.com': expected a name, *.name, .name or name.*, got 'www.*.com'"),
        ("hostnames; *.www.* a;", "2 '*.www.*': expected one * at one end, as in *.example.com, got '*.www.*'"),
        ("hostnames; . a;", "2 .: expected one * at one end, as in *.example.com, got '.'"),
        (
            "*.a b;\nhostnames; *.c d;",
            "2 '*.a': stands before `hostnames`, so that to NGINX it means no other names; put `hostnames;` first",
        ),
        (
            ".a b;\nhostnames;",
            "2 .a: stands before `hostnames`, so that to NGINX it means no other names; put `hostnames;` first",
        ),
        ("~( a;", "2 '~(': expected a regular expression, got '~(': missing ): '('"),
    ],
)
def test_what_is_wrong_in_a_map(lines, fault):
    _, faults, _ = mapped(lines)
    assert faults == [fault]


# --- variables ----------------------------------------------------------------------------------------------------


def test_variables_of_a_text():
    assert variables_of("$a:443") == ["a"]
    assert variables_of("${a}b$c") == ["a", "c"]
    assert variables_of("none") == []
    for text in ("$", "a$:1", "${a"):
        with pytest.raises(ValueError, match="expected a variable behind"):
            variables_of(text)


def test_a_value_takes_the_place_of_its_variable_alone():
    assert filled_in("$a:${b}:$ab", "a", r"\1x") == r"\1x:${b}:$ab"
