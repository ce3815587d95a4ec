"""What is said of text that is no YAML: the line of the slip, and what to change, the same with libyaml and without."""

from __future__ import annotations

import pytest

from egressproxy.config.native import compose_all
from egressproxy.config.yaml_errors import TAB, TEMPLATE

pytestmark = pytest.mark.usefixtures("each_yaml_loader")

MISFIT = "the indentation does not fit the lines above"
NO_PAIR = "expected KEY: VALUE, got a line without a colon and a blank behind it"
RESOLUTION = "a blank belongs behind the colon of 'resolution'"
CONFLICT = "the conflict marker <<<<<<< of a merge stands here; keep one side, and no marker"
SECTION = "a section in brackets, as in an ini file; expected YAML, KEY: VALUE on each line"
BACKSLASH = "a backslash in double quotes begins an escape; write it twice, or use single quotes"
BEHIND_QUOTE = "text behind a closing quote; inside double quotes write \\\", inside single ones ''"


def late(line: int) -> str:
    return f"the quote that opens here is closed on line {line} only; is one missing?"


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        # --- indentation
        ("a:\n  - b: 1\n    c: 2\n   d: 3\n", 4, f"{MISFIT}; what is open there begins on line 2"),
        ("a:\n    b: 1\n  c: 2\n", 3, f"{MISFIT}; what is open there begins on line 1"),
        ("a:\n    - b\n  - c\n", 3, f"{MISFIT}; what is open there begins on line 1"),
        ("- a\nb: 1\n", 2, f"{MISFIT}; what is open there begins on line 1"),
        ("  a: 1\nb: 2\n", 2, MISFIT),
        ("a: 1\n  b: 2\n", 2, MISFIT),
        ("a:\n- b\n  c: 1\n", 3, MISFIT),
        ("a: some\n text\n b: 1\n", 3, MISFIT),
        ("a: 1\n--- b\nc: 1\n", 3, MISFIT),
        # --- a key without its colon
        ("spec:\n  resolution:DNS\n  ports: []\n", 2, RESOLUTION),
        ("spec:\n  hosts: [a]\n  resolution:DNS\n  ports: []\n", 3, RESOLUTION),
        ("spec:\n  hosts: [a]\n  resolution:DNS\n", 3, RESOLUTION),
        ("resolution:DNS\nports: []\n", 1, RESOLUTION),
        ("- resolution:DNS\n  ports: []\n", 1, RESOLUTION),
        ("spec:\n  hosts: [a]\n  resolution DNS\n\n  ports: []\n", 3, NO_PAIR),
        ("a: 1\nhttp://a.example\nb: 2\n", 2, NO_PAIR),
        ("a:\n-b\n-c\nd: 1\n", 2, "a blank belongs behind the -"),
        ("a:\n  -b: 1\n  - c: 2\n", 2, "a blank belongs behind the -"),
        ("a: 1\n----\nb: 1\n", 2, "three hyphens and nothing else part two documents"),
        # --- what is no YAML at all
        ("$ kubectl get -o yaml\n\napiVersion: v1\nkind: Service\n", 1, NO_PAIR),
        ("from here on\nit is YAML\na: 1\n", 1, NO_PAIR),
        ("# comment\n[proxy]\nport = 1\n", 2, SECTION),
        ("a: 1\n---\n[proxy]\nport: 1\n", 3, SECTION),
        ("{a: 1}\nb: 2\n", 2, "does not belong to what stands before it, which begins on line 1 and is whole"),
        ("<<<<<<< HEAD\na: 1\n=======\na: 2\n>>>>>>> b\n", 1, CONFLICT),
        ("x: 1\n<<<<<<< HEAD\na: 1\n=======\na: 2\n>>>>>>> b\n", 2, CONFLICT),
        ("x:\n- a\n<<<<<<< HEAD\n- b\n=======\n- c\n>>>>>>> b\n", 3, CONFLICT),
        ("a: 1\n{{- if .Values.x }}\nb: 1\n{{- end }}\n", 2, TEMPLATE),
        ("a: 1\n{% if x %}\nb: 1\n{% endif %}\n", 2, TEMPLATE),
        # --- quotes and brackets
        ('a: "b\nc: "d"\ne: f\n', 1, late(2)),
        ("a: 'b\n\nc: 'd'\ne: f\n", 1, late(3)),
        ('a: ["b, c]\nd: "e"\n', 1, late(2)),
        ("a:\n- 'b\n- 'c'\n", 2, late(3)),
        ('"a: 1\nb: "c"\n', 1, late(2)),
        ("# don't\na: 'it's'\n", 2, BEHIND_QUOTE),
        ("a: [b, c\nd: e\n", 1, "[ is opened here and not closed before line 2"),
        ("a: {b: c\nd: e\n", 1, "{ is opened here and not closed before line 2"),
        ("a: [b}\n", 1, "expected ] for the [ of line 1, got }"),
        ("a: {b: 1 c: 2}\n", 1, "expected a comma, or } for the { of line 1"),
        ('{\n "a": 1\n "b": 2\n}\n', 3, "expected a comma, or } for the { of line 1"),
        ("a: [b]]\n", 1, "] closes what was never opened"),
        ('a: "C:\\logs"\n', 1, BACKSLASH),
    ],
)
def test_a_slip_is_told_at_its_line_before_the_readers_own_words(text: str, line: int, words: str) -> None:
    (fault,) = compose_all(text.encode(), 0)[1]
    assert (fault.mark, fault.message.partition(" (not YAML")[0]) == (line, words)
    assert fault.message.endswith(")")


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a:\n\tb: 1\n", 2, TAB),
        ("a:\n  b: 1\n\tc: 1\n", 3, TAB),
        ("a:\n  - b: 1\n  \tc: 1\n", 3, TAB),
        ("a: {{ .Values.port }}\nb: 1\n", 1, TEMPLATE),
        ('b: 1\na:\n  - {{ include "x" . | quote }}\n', 3, TEMPLATE),
        ('a:\n  {{- include "x" . | nindent 4 }}\n', 2, TEMPLATE),
        ("a: { {b: 1}: 2 }\n", 1, "expected a key, got a mapping"),
        ('a: 1\nb: "c\nd: e\n', 2, "a quote is opened here and never closed"),
        ('a: 1\nb: "c\n---\nd: "e"\n', 2, "a quote is opened here and never closed"),
        ("a: b: c\n", 1, "a second colon; quote a value that has a colon in it"),
    ],
)
def test_what_can_be_nothing_else_needs_no_more_words(text: str, line: int, words: str) -> None:
    (fault,) = compose_all(text.encode(), 0)[1]
    assert (fault.mark, fault.message) == (line, words)


def test_what_is_not_understood_is_told_in_the_readers_words() -> None:
    (fault,) = compose_all(b"a: ,b\n", 0)[1]
    assert (fault.mark, fault.message[:37]) == (1, "not YAML while parsing a block node: ")


OBJECT = "apiVersion: v1\nkind: A\nmetadata: {name: a}\nspec: {}\n"


def test_objects_that_nothing_parts_are_told_once_each() -> None:
    message = "begins another object, the first is on line 1; put --- on a line before it"
    faults = compose_all((OBJECT * 3).encode(), 0)[1]
    assert [(fault.mark, fault.path, fault.message) for fault in faults] == [
        (5, ("apiVersion",), message),
        (9, ("apiVersion",), message),
    ]


@pytest.mark.parametrize("more", ["kind: B\n", "kind: B\nspec: {}\n", "metadata: {}\n", "---\na: 1\n"])
def test_single_keys_that_are_written_twice_are_told_as_such(more: str) -> None:
    faults = compose_all((OBJECT + more).encode(), 0)[1]
    assert [fault.message.partition(";")[0] for fault in faults] == ["is written twice"] * (
        more.count("\n") if "---" not in more else 0
    )


def test_what_is_written_twice_is_told_before_a_syntax_error_too() -> None:
    faults = compose_all((OBJECT + OBJECT + "a: [b\n").encode(), 0)[1]
    assert sorted((fault.mark, fault.message[:20]) for fault in faults) == [
        (5, "begins another objec"),
        (9, "[ is opened here and"),
    ]
