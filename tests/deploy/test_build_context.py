"""What the image is built from: named file by file, so that nothing else in a checkout can slip into a layer."""

from __future__ import annotations

from support.proxy import ROOT


def rules() -> list[str]:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def test_everything_is_left_out_but_what_is_named() -> None:
    """The first line leaves out all; what lets in again names a whole file or folder; the last line that fits counts."""
    first, *others = rules()
    assert first == "*"
    let_in = [rule for rule in others if rule.startswith("!")]
    assert others[: len(let_in)] == let_in
    assert {rule[1:] for rule in let_in} == {"egressproxy", "pyproject.toml", "README.md", "LICENSE"}
    assert all((ROOT / rule[1:]).exists() for rule in let_in)


def test_what_python_makes_of_the_sources_is_left_out() -> None:
    assert {"**/__pycache__", "**/*.pyc"} <= set(rules())
