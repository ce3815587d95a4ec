"""The table: each directive of Squid has one fate."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import pytest
from support.squid_conf import faults, native, notes

from egressproxy.config.adapters.squid.directives import FATES

DOCUMENTED = Path("/usr/share/doc/squid-common/squid.conf.documented.gz")
END = "http_access deny all\n"


def test_every_directive_that_squid_documents_has_a_fate() -> None:
    if not DOCUMENTED.exists():
        pytest.skip("Squid's documentation is not installed")
    text = gzip.decompress(DOCUMENTED.read_bytes()).decode()
    names = re.findall(r"^#  TAG: (\S+)", text, re.MULTILINE)
    assert len(names) > 300
    unknown = [name for name in names if any("is no directive of Squid" in each for each in faults(f"{name} x\n{END}"))]
    assert unknown == []


@pytest.mark.parametrize("name", [name for name, fate in FATES.items() if fate.kind == "refused"])
def test_what_is_about_security_is_a_fault_lenient_or_not(name: str) -> None:
    (found,) = faults(f"{name} some value\n{END}")
    assert found.startswith(f"1: {name}: cannot be expressed: ")
    assert faults(f"{name} some value\n{END}", lenient=True) == [found]


@pytest.mark.parametrize("name", [name for name, fate in FATES.items() if fate.kind == "missed"])
def test_what_has_an_effect_is_a_fault_unless_lenient(name: str) -> None:
    (found,) = faults(f"{name} some value\n{END}")
    assert found.startswith(f"1: {name}: cannot be expressed: ")
    assert any(
        f"1: {name}: " in note and "left out" in note for note in notes(f"{name} some value\n{END}", lenient=True)
    )


@pytest.mark.parametrize("name", [name for name, fate in FATES.items() if fate.kind == "noted"])
def test_what_has_no_meaning_here_is_noted_and_changes_nothing(name: str) -> None:
    assert any(note.startswith(f"1: {name}: has no meaning here: ") for note in notes(f"{name} some value\n{END}"))
    assert native(f"{name} some value\n{END}") | {"rules": []} == native(f"#\n{END}") | {"rules": []}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, fate in FATES.items() for value in fate.unless])
def test_what_says_what_holds_anyway_is_noted(name: str, value: str) -> None:
    assert f"1: {name}: says what holds here anyway" in notes(f"{name} {value}\n{END}")


@pytest.mark.parametrize(
    ("word", "advice"),
    [
        ("frobnicate", ""),
        ("vai", ""),
        ("cache_pear", "; did you mean cache_peer?"),
        ("refresh_patern", "; did you mean refresh_pattern?"),
    ],
)
def test_an_unknown_word_is_a_fault_unless_lenient(word: str, advice: str) -> None:
    message = f"1: {word}: is no directive of Squid 3.5 to 6{advice}"
    assert faults(f"{word} x\n{END}") == [message]
    assert f"{message}; left out" in notes(f"{word} x\n{END}", lenient=True)


@pytest.mark.parametrize("word", ["http_acces", "acll", "my_access", "never_directt", "tls_new_thing", "ssl_bumpp"])
def test_an_unknown_word_that_may_be_about_security_is_always_a_fault(word: str) -> None:
    assert len(faults(f"{word} deny all\n{END}", lenient=True)) == 1
