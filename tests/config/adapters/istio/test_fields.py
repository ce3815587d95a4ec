"""The reader of one mapping: what is read, what is told of the rest."""

from __future__ import annotations

from typing import Any

import pytest

from egressproxy.config.adapters.istio.fields import Fields, Report
from egressproxy.config.native import Places, compose_all


def fields(text: str, *, lenient: bool = False) -> Fields:
    documents, _ = compose_all(text.encode(), 0)
    data, places = documents[0]
    assert isinstance(places, Places)
    return Fields(data, places, ("top",), Report(lenient=lenient))


def told(found: Fields) -> list[tuple[int, str, str]]:
    return [(fault.mark, str(fault.path[-1]), fault.message) for fault in found.report.faults]


@pytest.mark.parametrize(
    ("accessor", "text", "expected", "fault"),
    [
        ("text", "abc", "abc", None),
        ("text", "1", None, "expected text, got 1"),
        ("text", "", None, "expected a value, got nothing; leave the field out"),
        ("integer", "1", 1, None),
        ("integer", "true", None, "expected an integer, got true"),
        ("port", "443", 443, None),
        ("port", "0", None, "expected a port from 1 to 65535, got 0"),
        ("flag", "true", True, None),
        ("flag", "'true'", False, "expected true or false, got 'true'"),
        ("seconds", "1h1m1.5s", 3661.5, None),
        ("seconds", "100ms", 0.1, None),
        ("seconds", "3", None, "expected text, got 3"),
        ("seconds", "3d", None, "expected a duration like 3s, got '3d'"),
        ("words", "[a, b]", ("a", "b"), None),
        ("words", "a", (), "expected a list, got 'a'"),
        ("labels", "{a_b: c}", {"a_b": "c"}, None),
        ("numbers", "{a_b: 1}", {"a_b": 1}, None),
    ],
)
def test_values(accessor: str, text: str, expected: Any, fault: str | None) -> None:
    found = fields(f"# first\nfield: {text}\n")
    assert getattr(found, accessor)("field") == expected
    assert told(found) == ([] if fault is None else [(2, "field", fault)])


@pytest.mark.parametrize(
    ("accessor", "empty"), [("text", None), ("flag", False), ("words", ()), ("each", []), ("labels", {})]
)
def test_what_is_absent_is_none_or_empty(accessor: str, empty: Any) -> None:
    found = fields("a: 1\n")
    assert getattr(found, accessor)("field") == empty
    assert told(found) == []


def test_entries_that_are_wrong_are_told_one_by_one() -> None:
    found = fields("field:\n- a\n- 1\n- [b]\n")
    assert found.words("field") == ("a",)
    assert told(found) == [(3, "1", "expected text, got 1"), (4, "2", "expected text, got a list of 1")]


def test_both_spellings_of_a_field() -> None:
    for name in ("sniHosts", "sni_hosts"):
        assert fields(f"{name}: [a]\n").words("sniHosts") == ("a",)


def test_what_nobody_asked_for_is_told() -> None:
    text = "known: 1\nquiet: 1\nmeaningless: 1\nforbidden: 1\nother: 1\n"
    arguments: dict[str, Any] = {"silent": ("quiet",), "noted": {"meaningless": "n"}, "refused": {"forbidden": "r"}}
    found = fields(text)
    found.integer("known")
    found.done(**arguments)
    assert [note.message for note in found.report.notes] == ["n"]
    assert [(mark, name) for mark, name, _ in told(found)] == [(4, "forbidden"), (5, "other")]
    lenient = fields(text, lenient=True)
    lenient.integer("known")
    lenient.done(**arguments, secure=False)
    assert [(mark, name) for mark, name, _ in told(lenient)] == [(4, "forbidden")]
    assert [note.message for note in lenient.report.notes] == ["n", "not known here, left out"]


def test_a_value_that_was_refused_in_reading_is_not_told_again() -> None:
    found = fields("field: !!binary x\n")
    assert found.text("field") is None
    assert told(found) == []


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("host: [a]\n", "; did you mean hosts?"),
        ("hots: [a]\n", "; did you mean hosts?"),
        ("host: [a]\nhosts: [b]\n", ""),  # it is written, so that another one is meant
        ("novelty: [a]\n", ""),
    ],
)
def test_an_unknown_field_is_told_with_what_was_meant(text: str, advice: str) -> None:
    found = fields(text)
    found.words("hosts")
    found.done()
    ((_, name, message),) = told(found)
    assert name == text.partition(":")[0]
    assert message == f"no such field, or one that is not known here; it is refused rather than ignored{advice}"
