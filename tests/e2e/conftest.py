"""What the end-to-end tests share: origins, a name server, authorities, and the proxy's own words where a test fails."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import certificates
from support.dns import DnsServer
from support.origin import NAME, TcpOrigin, TlsOrigin, echo
from support.proxy import STARTED, Proxy

if sys.platform != "linux":
    collect_ignore_glob = ["test_*.py", "*/test_*.py"]  # they look at /proc, and come from all of 127.0.0.0/8

MOST_OUTPUT = 8000
"""Characters of each stream that a failing test shows: the end of it."""


def pytest_runtest_setup() -> None:
    STARTED[:] = [proxy for proxy in STARTED if not proxy.has_ended]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, Any, Any]:
    report: Any = yield
    if report.failed:
        for proxy in STARTED:
            for name in ("stderr", "stdout"):
                text = getattr(proxy, name)
                report.sections.append((f"egressproxy {name}", text[-MOST_OUTPUT:]))
    return report


@pytest.fixture(scope="session")
def dns() -> Iterator[DnsServer]:
    """Knows NAME, which is on loopback. Tests that count queries use names of their own."""
    with DnsServer() as server:
        server.add(NAME, "A", "127.0.0.1")
        yield server


@pytest.fixture(scope="session")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of what the TLS origin serves."""
    return tmp_path_factory.mktemp("pages")


@pytest.fixture(scope="session")
def origin(pages: Path) -> Iterator[TlsOrigin]:
    with TlsOrigin(pages) as server:
        yield server


@pytest.fixture(scope="session")
def echo_origin() -> Iterator[TcpOrigin]:
    with TcpOrigin(echo) as server:
        yield server


@pytest.fixture(scope="session")
def ca_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The authority that signed the origin's certificate and the proxy's own."""
    file = tmp_path_factory.mktemp("authority") / "ca.pem"
    file.write_bytes(certificates.authority().cert_pem.bytes())
    return file


@pytest.fixture(scope="session")
def open_config(dns: DnsServer) -> dict[str, Any]:
    """Everything goes, this host's own loopback address included."""
    return {
        "outbound": "allow_any",
        "guard": {"allow": ["127.0.0.1/32", "::1/128"]},
        "dns": {"servers": [dns.address]},
    }


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Proxy]]:
    """Starts a proxy for one test, which is ended and checked behind it."""
    started: list[Proxy] = []

    def start_one(config: dict[str, Any] | None = None, **options: Any) -> Proxy:
        folder = tmp_path / f"proxy-{len(started)}"
        folder.mkdir()
        proxy = Proxy(folder, config, **options)
        started.append(proxy)
        return proxy.start()

    yield start_one
    for proxy in started:
        proxy.end()
