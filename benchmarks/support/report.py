"""What is printed and kept: the table, the machine, the files under `results/`, the numbers in the README.

A result names the processor, the kernel, the versions and the commit, and the command that makes it again. It never
names a host, a user or a path.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.support.compare import Row
from benchmarks.support.processes import ROOT, Cores

RESULTS = ROOT / "benchmarks" / "results"
README = ROOT / "benchmarks" / "README.md"
_BEGIN = "<!-- numbers: begin -->"
_END = "<!-- numbers: end -->"
_NOTHING = "-"
_QUIET = 0.05  # below what a rate varies by anyway


def describe_machine(cores: Cores) -> dict[str, Any]:
    """What one has to know of the machine to read the figures."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "proxy_on_core": cores.proxy,
        "load_on_core": cores.load,
        "kernel": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def commit() -> str:
    """The short commit, with a `+` when the package was changed since."""
    try:
        head = _git("rev-parse", "--short", "HEAD")
        return head + ("+" if _git("status", "--porcelain", "--", "egressproxy") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def table(rows: Sequence[Row], ours: str) -> str:
    """The rows as a Markdown table, aligned to be read as it is."""
    lines = [["benchmark", "figure", ours, "peer", "its figure", "ratio", "lowest to highest", "goal", ""]]
    for row in rows:
        spread = "" if row.lowest is None or row.highest is None else f"{row.lowest:.2f} to {row.highest:.2f}"
        verdict = "within bound" if row.within else {True: "met", False: "MISSED", None: ""}[row.met]
        lines.append(
            [
                row.benchmark,
                row.title,
                _figure(row.own),
                row.peer,
                _figure(row.other),
                _NOTHING if row.ratio is None else f"{row.ratio:.2f}",
                spread,
                row.goal,
                verdict,
            ]
        )
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    )


def judge_neighbours(other_work: Mapping[str, float]) -> str:
    """What the share of other work in each benchmark's worst round means for the reader."""
    shares = ", ".join(f"{name} {share:.0%}" for name, share in other_work.items())
    said = f"Other work on the two cores in the worst round: {shares}."
    if max(other_work.values()) < _QUIET:
        return said
    return f"{said} Where it is much, trust the CPU figures and not the rates."


def _figure(value: float | None) -> str:
    if value is None:
        return _NOTHING
    for limit, places in ((100, 0), (10, 1), (1, 2)):
        if abs(value) >= limit:
            return f"{value:,.{places}f}"
    return f"{value:.3f}"


def as_markdown(result: dict[str, Any]) -> str:
    """A kept result as a page: how it was made, the table, what was not run."""
    machine, settings = result["machine"], result["settings"]
    where = (
        f"{machine['processor']}, {machine['cores']} cores (proxy on core {machine['proxy_on_core']}, load and origin "
        f"on core {machine['load_on_core']}), {machine['kernel']}, {machine['python']}"
    )
    rows = [Row(**row) for row in result["rows"]]
    parts = [
        f"{result['date']}, commit {result['commit']}: `{result['command']}`",
        f"{where}. {'; '.join(result['versions'])}.",
        f"Medians of {settings['rounds']} rounds of {settings['seconds']:g} s; ratios within a round.",
        table(rows, result["ours"]),
        judge_neighbours(result["other_work"]),
        *(f"Not run: {line}" for line in result["missing"]),
    ]
    return "\n\n".join(parts) + "\n"


def save(result: dict[str, Any], what: str, folder: Path = RESULTS) -> Path:
    """Write `<date>-<what>.json` and `.md`, a later one of the day with a number. The path of the JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{datetime.now(UTC):%Y-%m-%d}-{what}"
    name, number = stem, 1
    while (folder / f"{name}.json").exists():
        number += 1
        name = f"{stem}-{number}"
    path = folder / f"{name}.json"
    path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    path.with_suffix(".md").write_text(f"# {what}\n\n{as_markdown(result)}")
    return path


def put_into_readme(path: Path, readme: Path = README) -> None:
    """Replace the numbers in the README by those of a kept result. Raises ValueError when it has no place for them."""
    text = readme.read_text()
    before, begin, rest = text.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise ValueError(f"{readme.name} has no place for numbers: {_BEGIN} and {_END}")
    numbers = as_markdown(json.loads(path.read_text()))
    readme.write_text(f"{before}{_BEGIN}\nFrom `results/{path.name}`.\n\n{numbers}{_END}{after}")
