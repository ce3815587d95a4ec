"""The composer: values and lines out of YAML, the same with libyaml and without."""

from __future__ import annotations

from typing import Any

import pytest

from egressproxy.config.native import MAX_ALIASED, Places, compose, mark, unmark

pytestmark = pytest.mark.usefixtures("each_yaml_loader")


def value(text: str) -> Any:
    """What one value is read as."""
    composed = compose(f"key: {text}\n".encode())
    assert composed.faults == ()
    assert composed.data is not None
    return composed.data["key"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", None),
        ("~", None),
        ("null", None),
        ("true", True),
        ("FALSE", False),
        ("0", 0),
        ("-17", -17),
        ("443", 443),
        ("1.5", 1.5),
        ("-.5", -0.5),
        ("3.", 3.0),
        ('"443"', "443"),
        ("'true'", "true"),
        ("!!str 443", "443"),
        ("! 443", "443"),
        ("|\n  443\n", "443\n"),
        ("y", "y"),
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("1.2.3.4", "1.2.3.4"),
        ("8000-8100", "8000-8100"),
        ("2026-01-01", "2026-01-01"),
        ("0.pool.example", "0.pool.example"),
        ("on.example", "on.example"),
        ("1e3", "1e3"),
        (".inf", ".inf"),
        ("9" * 19, "9" * 19),
        ("fd00::1", "fd00::1"),
        ("[a, 1, [b], {c: d}]", ["a", 1, ["b"], {"c": "d"}]),
        ("!!map {a: !!seq [1]}", {"a": [1]}),
        ("{a: &x [1], b: *x}", {"a": [1], "b": [1]}),
    ],
)
def test_values_are_what_all_readers_of_yaml_agree_on(text: str, expected: object) -> None:
    assert value(text) == expected
    assert type(value(text)) is type(expected)


@pytest.mark.parametrize(
    "text",
    ["yes", "Yes", "YES", "no", "Off", "ON", "010", "0x1F", "0b1", "0o17", "1_000", "22:22", "1:2:3:4:5:6:7:8", "="],
)
def test_values_that_readers_of_yaml_do_not_agree_on_are_refused(text: str) -> None:
    (fault,) = compose(f"a: 1\nkey: {text}\n".encode()).faults
    assert (unmark(fault.mark), fault.path) == ((0, 2), ("key",))
    assert fault.message.startswith(f"'{text}' without quotes is ")
    assert value(f"'{text}'") == text


def test_every_value_knows_its_line_and_its_file() -> None:
    content = b"# comment\na:\n- x\n-\n  y: 1\n\n  z:\n    w\n"
    composed = compose(content, source=3)
    assert composed.places is not None
    assert unmark(composed.places.mark) == (3, 2)
    assert {key: unmark(place) for key, place in composed.places.keys.items()} == {"a": (3, 2)}
    entries = composed.places.children["a"]
    assert isinstance(entries, Places)
    first, second = entries.children
    assert unmark(first) == (3, 3)
    assert {key: unmark(place)[1] for key, place in second.keys.items()} == {"y": 5, "z": 7}
    assert unmark(second.children["z"]) == (3, 8)


def test_of_two_equal_keys_the_first_is_kept_beside_the_fault() -> None:
    composed = compose(b"a: {b: 1}\na: {b: 2, c: on}\n")
    assert composed.data == {"a": {"b": 1}}
    assert [(unmark(fault.mark)[1], fault.path) for fault in composed.faults] == [(2, ("a",)), (2, ("a", "c"))]


def test_aliases_may_share_and_may_not_blow_up() -> None:
    shared = "a: &a [" + "x," * 1000 + "]\n"
    assert compose((shared + "b: [" + "*a," * 90 + "]\n").encode()).faults == ()
    levels = "".join(f"k{level}: &k{level} [{f'*k{level - 1},' * 9}]\n" for level in range(1, 20))
    (fault,) = compose(("k0: &k0 [1]\n" + levels).encode()).faults
    assert fault.message == f"expected at most {MAX_ALIASED} values from aliases; write them out or split the file"


def test_an_alias_to_what_holds_it_is_refused() -> None:
    (fault,) = compose(b"a: &a [*a]\n").faults
    assert fault.path == ("a", 0)
    assert "no anchor has its name" in fault.message


def test_a_byte_order_mark_and_foreign_line_ends_are_read() -> None:
    composed = compose("\ufeffa: 1\r\nb: ü\r\nc: on\r\n".encode())
    assert [unmark(fault.mark)[1] for fault in composed.faults] == [3]
    assert composed.data is not None
    assert composed.data["b"] == "ü"


def test_a_mark_holds_file_and_line() -> None:
    assert unmark(mark(7, 123)) == (7, 123)
    assert sorted([mark(1, 2), mark(0, 9), mark(1, 1)]) == [mark(0, 9), mark(1, 1), mark(1, 2)]
