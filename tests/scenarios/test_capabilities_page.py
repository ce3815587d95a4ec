"""docs/capabilities.md answers every row, and what it calls as witness exists."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest
from scenarios.edition import PUBLISHED_FILES
from support.proxy import ROOT

PAGE = (ROOT / "docs" / "capabilities.md").read_text()
TESTS = ROOT / "tests"
ROWS = re.findall(r"^\| ([A-Z]\d\d) \| ([^|]+) \| ([^|]+) \| (.+) \|$", PAGE, re.M)
WITNESSES = sorted(set(re.findall(r"`([\w/]+\.py)::(test_\w+)`", PAGE)))
LAST = {"C": 15, "P": 9, "S": 17, "V": 11, "T": 20, "G": 15, "W": 16, "K": 9, "L": 6, "B": 5, "A": 13}
IDS = [f"{letter}{number:02}" for letter, last in LAST.items() for number in range(1, last + 1)]


@functools.cache
def names_in(file: Path) -> frozenset[str]:
    found = ast.walk(ast.parse(file.read_text()))
    return frozenset(each.name for each in found if isinstance(each, (ast.FunctionDef, ast.AsyncFunctionDef)))


def test_every_id_has_one_row_in_order() -> None:
    assert [row[0] for row in ROWS] == IDS


def test_the_ids_are_those_of_the_documents() -> None:
    published = PUBLISHED_FILES / "CAPABILITIES.md"
    if not published.exists():
        pytest.skip("the documents' list is not at hand")
    assert re.findall(r"^\| ([A-Z]\d\d)\b", published.read_text(), re.M) == IDS


@pytest.mark.parametrize(("file", "name"), WITNESSES)
def test_a_test_that_is_named_exists(file: str, name: str) -> None:
    assert (TESTS / file).is_file()
    assert name in names_in(TESTS / file)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_a_row_says_what_becomes_of_it_and_what_works_has_a_witness(row: tuple[str, str, str, str]) -> None:
    _, _, here, why = row
    assert here in ("works", "the mesh's", "not yet")
    if here == "works":
        assert "`" in why
        assert "::test_" in why
