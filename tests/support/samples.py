"""Log lines of the real programs, where they are at hand: beside the checkout."""

from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[3] / "shared" / "istio" / "sample-logs"


def sample_lines(name: str) -> list[str]:
    """The lines of one log. Skips the test where there are no samples."""
    file = FOLDER / name
    if not file.exists():
        pytest.skip(f"no sample logs at {file}")
    lines = file.read_text().splitlines()
    assert lines
    return lines
