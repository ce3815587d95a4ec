"""The text of an nginx.conf, read as NGINX reads it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.adapting import MAIN, MemoryFiles, told

from egressproxy.config.adapters.adapter import Source
from egressproxy.config.adapters.nginx.syntax import MAX_DEPTH, MAX_FILES, MAX_INCLUDES, MAX_WORD, Findings, read
from egressproxy.config.native import unmark


def parsed(text, others=None):
    """Statements as nested lists `[line, name, words..., block]`, or what keeps the text from being read."""
    files, findings = MemoryFiles(others or {}), Findings(lenient=False)
    source = Source(0, MAIN, text if isinstance(text, bytes) else text.encode())
    statements = read(source, files, findings)
    if statements is None:
        return [told(fault, files) for fault in findings.faults]
    return as_lists(statements)


def as_lists(statements):
    return [
        [unmark(each.mark)[1], each.name, *each.words, *([] if each.block is None else [as_lists(each.block)])]
        for each in statements
    ]


@pytest.mark.parametrize(
    ("text", "statements"),
    [
        ("", []),
        ("# nothing\n", []),
        ("a;", [[1, "a"]]),
        ("a b\n  c;\nd;", [[1, "a", "b", "c"], [3, "d"]]),
        ("a{b;}c;", [[1, "a", [[1, "b"]]], [1, "c"]]),
        ("a {\n  b {\n  }\n}", [[1, "a", [[2, "b", []]]]]),
        ("a\r\nb;\r\nc;", [[1, "a", "b"], [3, "c"]]),
        ("a # comment; {\n b;", [[1, "a", "b"]]),
        ("a b#c;", [[1, "a", "b#c"]]),
        ("a 'b c' \"d;{}#\";", [[1, "a", "b c", "d;{}#"]]),
        ("a 'one\ntwo' b;\nc;", [[1, "a", "one\ntwo", "b"], [3, "c"]]),
        ("a '' \"\";", [[1, "a", "", ""]]),
        (r"""a "\"" '\'' "\\" '\t\n\r' "\." b\;c\ d;""", [[1, "a", '"', "'", "\\", "\t\n\r", r"\.", r"b\;c\ d"]]),
        ("a ${b}c $d{e;}", [[1, "a", "${b}c", "$d", [[1, "e"]]]]),
        ("a b}c;", [[1, "a", "b}c"]]),
        ("a b'c'd;", [[1, "a", "b'c'd"]]),
        ('"a" "b";', [[1, "a", "b"]]),
        ("a é;", [[1, "a", "é"]]),
    ],
)
def test_words_and_blocks(text, statements):
    assert parsed(text) == statements


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a", "1 the file ends within this directive; is a \";\" missing behind 'a'?"),
        ("a;\nb c", "2 the file ends within this directive; is a \";\" missing behind 'b c'?"),
        ("a {\n b;\n", "1 the block of 'a' is opened here and never closed with \"}\""),
        ("a {\n b {\n c; }\n", "1 the block of 'a' is opened here and never closed with \"}\""),
        ("a {\n b\n}", '3 unexpected "}"; is a ";" missing behind \'b\'?'),
        ("a;\n}\n", '2 unexpected "}"'),
        (";", '1 unexpected ";": no directive stands before it'),
        ("\n{ }", '2 unexpected "{": no directive stands before it'),
        ("a\n'b", "2 a quote is opened here and never closed"),
        ('a "b\n\n', "1 a quote is opened here and never closed"),
        ("a 'b'c;", "1 unexpected 'c' right behind a quote; expected a blank or a ;"),
        ("a b\\", "1 the file ends behind a backslash"),
        (b"a;\n\xff;", "2 expected text in UTF-8, got the byte 0xff"),
        (b"\xef\xbb\xbfa;", "1 begins with a byte order mark (BOM); save the file as UTF-8 without one"),
        (b"a;\nb\0;", "2 expected text, got a NUL byte"),
        ("include;", "1 include takes one file name or pattern, got 0 words"),
        ("include a b;", "1 include takes one file name or pattern, got 2 words"),
        ("\ninclude no.conf;", "2 include '/etc/proxy/no.conf': cannot be read: No such file or directory"),
    ],
)
def test_what_cannot_be_read_is_told_with_its_line(text, message):
    assert parsed(text) == [message]


def test_words_and_depth_are_bounded():
    assert parsed(f"a {'b' * MAX_WORD};") == [[1, "a", "b" * MAX_WORD]]
    (message,) = parsed(f"a\n{'b' * (MAX_WORD + 1)};")
    assert message.startswith("2 expected words of at most 4096 characters")
    assert isinstance(parsed("a {" * MAX_DEPTH + "}" * MAX_DEPTH)[0], list)
    assert parsed("a {" * (MAX_DEPTH + 1)) == ["1 expected at most 16 blocks in each other"]


# --- include ------------------------------------------------------------------------------------------------------


def test_an_include_stands_for_its_content_and_starts_from_the_main_files_folder():
    others = {"/etc/proxy/b/one.conf": "x;\ninclude b/two.conf;", "/etc/proxy/b/two.conf": "y;", "/abs": "z;"}
    assert parsed("a { include b/one.conf; }\ninclude /abs;\nc;", others) == [
        [1, "a", [[1, "x"], [1, "y"]]],
        [1, "z"],
        [3, "c"],
    ]


def test_a_pattern_stands_for_its_files_in_order_and_may_match_none():
    others = {"/etc/proxy/d/2.conf": "two;", "/etc/proxy/d/1.conf": "one;", "/etc/proxy/d/x": "no;"}
    assert parsed("include d/*.conf;\ninclude e/*.conf;", others) == [[1, "one"], [1, "two"]]
    files, findings = MemoryFiles(others), Findings(lenient=False)
    read(Source(0, MAIN, b"include e/*.conf;"), files, findings)
    assert [told(note, files) for note in findings.notes] == ["1 include: no file matches '/etc/proxy/e/*.conf'"]


def test_what_is_wrong_in_an_included_file_is_told_with_its_own_line():
    assert parsed("include o;", {"/etc/proxy/o": "a;\nb"}) == [
        "/etc/proxy/o:2 the file ends within this directive; is a \";\" missing behind 'b'?"
    ]
    assert parsed("a { include o;", {"/etc/proxy/o": "}"}) == ['/etc/proxy/o:1 unexpected "}"']


def test_files_that_include_each_other_come_to_an_end():
    assert parsed("include o;", {"/etc/proxy/o": "include o;"}) == [
        f"/etc/proxy/o:1 expected at most {MAX_INCLUDES} files that include each other"
    ]
    twice = {"/etc/proxy/o": "include p;" * 40, "/etc/proxy/p": "include q;" * 40, "/etc/proxy/q": ""}
    assert parsed("include o;", twice) == [f"/etc/proxy/p:1 expected at most {MAX_FILES} included files"]


# --- any text -----------------------------------------------------------------------------------------------------


@given(st.text(alphabet=" \n;{}'\"\\#$ab", max_size=60))
def test_any_text_is_read_or_refused(text):
    found = parsed(text)
    assert all(isinstance(each, (list, str)) for each in found)


@given(st.lists(st.text(alphabet="ab ;{}#'\"$\\\n", max_size=8).map(lambda word: word.replace("\\", "")), min_size=1))
def test_any_word_may_be_said_in_quotes(words):
    quoted = " ".join('"' + word.replace('"', '\\"') + '"' for word in words)
    assert parsed(f"a {quoted};") == [[1, "a", *words]]
