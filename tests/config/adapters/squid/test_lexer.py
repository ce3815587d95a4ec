"""Lines, words, files: as Squid 5 reads them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support.squid_conf import MAIN, Folder, adapted, conditions, faults, native

from egressproxy.config.adapters.squid.lexer import MAX_DEPTH, MAX_LINE, Lexer, patterns_of, words_of

if TYPE_CHECKING:
    from egressproxy.config.faults import Fault


def statements(text: str, **files: str) -> list[tuple[int, str, str]]:
    """Line, name and rest of each statement. Nothing is wrong."""
    found: list[Fault] = []
    folder = Folder({MAIN: text, **{f"/etc/squid/{name}.conf": content for name, content in files.items()}})
    lexer = Lexer(folder, found)
    result = [(each.line, each.name, each.rest) for each in lexer.statements(folder.read(MAIN))]
    assert found == []
    return result


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("via on\n", [(1, "via", "on")]),
        ("via on", [(1, "via", "on")]),
        ("\tvia  \t on \t\n", [(1, "via", "on")]),
        ("via on\r\nvia off\r\n", [(1, "via", "on"), (2, "via", "off")]),
        ("# via on\n  # via on\n\nvia off\n", [(4, "via", "off")]),
        ("acl a port 80 \\\n  443\n", [(1, "acl", "a port 80 443")]),
        ("acl a po\\\nrt 80\n", [(1, "acl", "a port 80")]),  # joined without a blank
        ("acl a port 80 \\\n# not a line\n\n 443\nvia on\n", [(1, "acl", "a port 80 443"), (5, "via", "on")]),
        ("# comment \\\nvia on\n", [(2, "via", "on")]),  # a comment goes on in no other line
        ("chroot\n", [(1, "chroot", "")]),
    ],
)
def test_lines_become_statements(text: str, expected: list[tuple[int, str, str]]) -> None:
    assert statements(text) == expected


def test_a_word_that_begins_with_a_hash_ends_the_statement() -> None:
    assert words_of("a b#c #d e") == ["a", "b#c"]


@pytest.mark.parametrize("char", ["\u00a0", "\u2003", "\u3000", "\u2028", "\x85", "\x0b", "\x0c", "\x1c"])
def test_only_blanks_and_tabs_part_words(char: str) -> None:
    assert words_of(f"a{char}b {char}") == [f"a{char}b", char]
    assert statements(f"via{char}on\n") == [(1, f"via{char}on", "")]
    one = f"a.example.com{char}b.example.com"
    for text in (f"acl x dstdomain {one}\n", f"acl x{char}dstdomain a.example.com\n", 'acl x dstdomain "f"\n'):
        found = faults(f"{text}http_access deny all\n", {"/etc/squid/f": f"{one}{char}\n"})
        assert len(found) == 1, found


def test_a_backslash_keeps_a_blank_in_an_expression() -> None:
    assert patterns_of(r"a\ b \.gif$ #x") == [r"a\ b", r"\.gif$"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("if true\nvia on\nelse\nvia off\nendif\nvia x\n", ["on", "x"]),
        ("if false\nvia on\nelse\nvia off\nendif\n", ["off"]),
        ("if 1 = 1\nif 1=2\nvia on\nendif\nvia off\nendif\n", ["off"]),
    ],
)
def test_branches(text: str, expected: list[str]) -> None:
    assert [rest for _, _, rest in statements(text)] == expected


def test_included_files_stand_in_the_place_of_the_line() -> None:
    found = statements(
        "via 1\ninclude a.conf\ninclude /etc/squid/b*.conf\nvia 5\n", a="via 2\n", b2="via 4\n", b1="via 3\n"
    )
    assert [rest for _, _, rest in found] == ["1", "2", "3", "4", "5"]


EXPECTED = "expected the name of a file in quotes"
BLANK = "has a blank behind the backslash at the end of the line, so the line ends there; leave the blank out"
LATIN = "expected text in UTF-8, got the byte 0xe9; where the file is in Latin-1, convert it: iconv -f latin1 -t utf-8"


@pytest.mark.parametrize(
    ("text", "files", "expected"),
    [
        ("include none*.conf\n", {}, ["1: include: no file matches 'none*.conf'"]),
        ("include\n", {}, ["1: include: expected the name of a file"]),
        ("include !date\n", {}, ["1: include: is the output of a program, which is never run; include a file"]),
        ("endif\n", {}, ["1: endif: has no if before it in this file"]),
        ("else\n", {}, ["1: else: has no if before it in this file"]),
        ("via on\nif true\n", {}, ["2: if: has no endif in this file"]),
        ("if ${process_number}=1\nendif\n", {}, ["1: if: expected true, false or N = M, got '${process_number}=1'"]),
        (b"via on\n\nvia \\\n# \xe9\non\\\ncaf\xe9 # \xe8\n", {}, [f"6: {LATIN}"]),
        (b"via\xe9 on\n", {}, [f"1: {LATIN}"]),
        (b"http_port 3128 name=caf\xe9 # \xe8\nvia x\n", {}, [f"1: {LATIN}"]),
        (b"acl a url_regex x\\ #\xe9\n", {}, [f"1: {LATIN}"]),
        (b"logformat a %>a # \xe9\n", {}, [f"1: {LATIN}"]),
        (b"include # \xe9\n", {}, [f"1: {LATIN}"]),
        ('acl a dstdomain "f"\n', {"/etc/squid/f": b"a.example\ncaf\xe9.example\n"}, [f"/etc/squid/f:2: {LATIN}"]),
        (b"via caf\xe9\n\0\n", {}, ["1: expected text in UTF-8, got the byte 0xe9"]),
        (
            b"\xef\xbb\xbfvia on\n",
            {},
            ["1: begins with a byte order mark (BOM); save the file as UTF-8 without one"],
        ),
        (b"via on\n\0\n", {}, ["2: expected text, got a NUL byte"]),
        ("via on \\\n", {}, ["1: goes on in a next line that never comes; leave out the backslash"]),
        (
            "via on\n#" + "x" * MAX_LINE + "\n",
            {},
            [f"2: expected at most {MAX_LINE} characters in a line, got {MAX_LINE + 1}; Squid reads it as two"],
        ),
        (
            "acl a dstdomain .example.com \\ \n .example.org\nvia x\n",
            {},
            [f"1: acl: {BLANK}", "3: via: expected on or off, got 'x'"],
        ),
        ("acl a dstdomain .example.com \\\n .example.org\\\t \nhttp_access allow a\n", {}, [f"2: acl: {BLANK}"]),
        ("acl a dstdomain .example.com # \\ \nvia x\n", {}, ["2: via: expected on or off, got 'x'"]),
        ("acl a url_regex a \\ \n b\n", {}, [f"1: acl: {BLANK}"]),
        ("acl a url_regex a\\ \nvia x\n", {}, [f"1: acl: {BLANK}", "2: via: expected on or off, got 'x'"]),
        ("\\ \nvia on\n", {}, [f"1: \\: {BLANK}"]),
        ("via on \\ ", {}, [f"1: via: {BLANK}"]),
        ('acl a dstdomain "\n', {}, [f"1: acl: has a quote that is opened and never closed; {EXPECTED}"]),
        ('acl a dstdomain ""\n', {}, [f"1: acl: has two quotes with nothing in them; {EXPECTED}"]),
        (
            'acl a dstdomain "no\n',
            {},
            [
                "1: acl: '/etc/squid/no' cannot be read: No such file or directory; the quote before it is never closed",
            ],
        ),
        (
            "include a.conf\n",
            {"/etc/squid/a.conf": "via on\nvia x\n"},
            ["/etc/squid/a.conf:2: via: expected on or off, got 'x'"],
        ),
        ('acl a dstdomain "no"\n', {}, ["1: acl: '/etc/squid/no' cannot be read: No such file or directory"]),
        (
            'acl a dstdomain "f" x.example\n',
            {"/etc/squid/f": "a.example\n"},
            [
                "1: acl: has values behind the file 'f', which Squid reads from version 6 on and ignores before; give them a "
                "line of their own"
            ],
        ),
        (
            'acl a dstdomain "f"\nhttp_access allow a\n',
            {"/etc/squid/f": "a.example\n\nb_*\n"},
            ["/etc/squid/f:3: acl: expected a name, or .example.com for it and all below, got 'b_*'"],
        ),
    ],
)
def test_what_is_malformed_is_told_with_its_place(
    text: str | bytes, files: dict[str, str | bytes], expected: list[str]
) -> None:
    assert [fault for fault in faults(text, files) if "there is none" not in fault] == expected


@pytest.mark.parametrize("name", ["squid.conf", "/etc/squid/*.conf"])
def test_a_file_that_includes_itself_hears_that_alone(name: str) -> None:
    found = faults(f"http_port 3128\ninclude {name}\nhttp_access deny all\n")
    (told,) = found
    assert told.startswith("2: include: '/etc/squid/")
    assert told.endswith("squid.conf' is this very file, so it would have no end; leave it out")


def test_files_that_include_each_other_hear_where() -> None:
    text = "include a.conf b.conf\n"
    found = faults(text, {"/etc/squid/a.conf": "include squid.conf\n", "/etc/squid/b.conf": text})
    end = "so it would have no end; leave it out"
    in_turn = f"/etc/squid/a.conf:1: include: '/etc/squid/squid.conf' includes this file in turn, {end}"
    assert found == [in_turn, f"/etc/squid/b.conf:1: include: '/etc/squid/b.conf' is this very file, {end}", in_turn]


def test_files_in_each_other_have_an_end_all_the_same() -> None:
    files: dict[str, str | bytes] = {f"/etc/squid/{n}": f"include {n + 1}\n" for n in range(MAX_DEPTH + 5)}
    last = f"/etc/squid/{MAX_DEPTH - 1}"
    assert faults("include 0\n", files) == [f"{last}:1: include: expected files at most {MAX_DEPTH} deep in each other"]
    pairs: dict[str, str | bytes] = {f"/etc/squid/{n}": f"include {n + 1} {n + 1}\n" for n in range(MAX_DEPTH)}
    found = faults("include 0\n", {**pairs, f"/etc/squid/{MAX_DEPTH}": ""})
    assert any(each.endswith("expected at most 1000 files in all") for each in found)


def test_values_in_a_file_stand_one_on_a_line_with_comments() -> None:
    files: dict[str, str | bytes] = {"/etc/squid/sites": "# all of them\n a.example  # first\n\nb.example\r\n"}
    data = native('acl s dstdomain "sites"\nhttp_access allow s\n', files)
    assert data["rules"][0]["hosts"] == ["a.example", "b.example"]


def test_comments_may_be_in_another_encoding() -> None:
    text = (
        b"# \xe9\n \t#\xe9\nhttp_port 3128 # \xe9\nvia on #\xe9 # \xe8\nacl s \\\n# \xe9\n dstdomain \\\n a.example # \xe9\n"
        b'acl u url_regex b #\xe9\nacl t dstdomain "sites" # \xe9\nhttp_access allow t #\xe9\nhttp_access deny all\n'
    )
    files: dict[str, str | bytes] = {"/etc/squid/sites": b"# \xe9\nb.example # \xe9\n"}
    assert faults(text, files) == []
    data, _ = adapted(text, files)
    assert data.data is not None
    assert data.data["rules"][0]["hosts"] == ["b.example"]


def test_a_quote_that_is_never_closed_is_enough_as_in_squid() -> None:
    data = native('acl s dstdomain "sites\nhttp_access allow s\n', {"/etc/squid/sites": "a.example\n"})
    assert data["rules"][0]["hosts"] == ["a.example"]


def test_an_expression_in_a_file_may_have_blanks() -> None:
    files: dict[str, str | bytes] = {"/etc/squid/urls": "a b\n"}
    data = native('acl s url_regex "/etc/squid/urls"\nhttp_access allow s\n', files)
    assert data["rules"][0]["urls_matching"] == ["a b"]


def test_quotes_mean_nothing_elsewhere() -> None:
    assert conditions("allow a", 'acl a url_regex x"y') == {"urls_matching": ['x"y']}
