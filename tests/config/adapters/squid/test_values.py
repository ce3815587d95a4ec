"""Times, sizes, switches and numbers as squid.conf writes them."""

from __future__ import annotations

import pytest

from egressproxy.config.adapters.squid.values import count, seconds, size, switch


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("30 seconds", 30),
        ("1 minute", 60),
        ("1.5 hours", 5400),
        ("500 milliseconds", 0.5),
        ("90", 90),
        ("0 seconds", 0),
        ("2 weeks", 1_209_600),
        ("1 Day", 86_400),
    ],
)
def test_times(text: str, expected: float) -> None:
    assert seconds(text.split()) == expected


@pytest.mark.parametrize(
    ("text", "unit", "expected"),
    [("64 KB", "KB", 65_536), ("64", "KB", 65_536), ("64", "bytes", 64), ("1.5 MB", "KB", 1_572_864), ("0", "KB", 0)],
)
def test_sizes(text: str, unit: str, expected: int) -> None:
    assert size(text.split(), unit) == expected


@pytest.mark.parametrize("text", ["", "fast", "-1 second", "1 blink", "1 minute more", "1e3 seconds"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(ValueError, match="expected a time like 30 seconds"):
        seconds(text.split())


@pytest.mark.parametrize("text", ["", "big", "1 TB", "-1", "1 KB more"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="expected a size like 64 KB"):
        size(text.split(), "KB")


def test_switches_and_numbers() -> None:
    assert (switch(["on"]), switch(["disable"]), count(["12"])) == (True, False, 12)
    for words in ([], ["yes"], ["on", "off"]):
        with pytest.raises(ValueError, match="expected on or off"):
            switch(words)
    with pytest.raises(ValueError, match="expected a number"):
        count(["many"])
