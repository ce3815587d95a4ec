"""What the soak runs share: a proxy each, and a way to tell what was measured."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from soak.footprint import Soaked
from support.dns import DnsServer
from support.proxy import STARTED, Proxy


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        for proxy in STARTED[-1:]:
            report.sections.append(("the proxy's standard error", proxy.stderr[-8000:]))
    return report


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """Tell what is measured, at once and whether output is captured or not."""

    def tell(text: str) -> None:
        with capsys.disabled():
            sys.stdout.write(f"  {text}\n")
            sys.stdout.flush()

    with capsys.disabled():
        sys.stdout.write("\n")
    return tell


@pytest.fixture(scope="session")
def dns() -> Iterator[DnsServer]:
    with DnsServer() as server:
        yield server


@pytest.fixture
def start(tmp_path: Path, dns: DnsServer, say: Callable[[str], None]) -> Iterator[Callable[..., Soaked]]:
    """Starts the proxy of one test, which is ended and checked behind it."""
    with ExitStack() as stack:

        def start_one(**config: Any) -> Soaked:
            proxy = Proxy(
                tmp_path,
                {
                    "outbound": "allow_any",
                    "guard": {"allow": ["127.0.0.0/8"]},
                    "dns": {"servers": [dns.address], "ipv6": False},
                    **config,
                },
                fresh=True,
            )
            return Soaked(stack.enter_context(proxy), say)

        yield start_one
