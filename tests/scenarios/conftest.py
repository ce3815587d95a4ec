"""What the scenarios share: the world they happen in, and proxies with their files."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from scenarios.deployment import CAPTURED_PORT, Captured, Deployment, capture
from scenarios.edition import mesh
from scenarios.pods import need_pods
from scenarios.world import World
from scenarios.world import world as made_world
from support.proxy import STARTED

if sys.platform != "linux":
    collect_ignore_glob = ["test_*.py"]

MOST_OUTPUT = 8000
"""Characters of each stream that a failing test shows: the end of it."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, Any, Any]:
    report: Any = yield
    if report.failed:
        for proxy in STARTED:
            for name in ("stderr", "stdout"):
                report.sections.append((f"egressproxy {name}", getattr(proxy, name)[-MOST_OUTPUT:]))
    return report


def pytest_runtest_setup() -> None:
    STARTED[:] = [proxy for proxy in STARTED if not proxy.has_ended]


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    need_pods("nginx", "nft", "curl", "openssl")
    with made_world(tmp_path_factory.mktemp("world")) as made:
        yield made


@pytest.fixture
def alone(world: World, tmp_path: Path) -> Iterator[Callable[..., Deployment]]:
    """Starts a proxy with these files and nothing else, in the proxy's pod or another; the test's end ends and checks it."""
    started: list[Deployment] = []

    def start(*files: Path | str, **options: Any) -> Deployment:
        folder = tmp_path / f"alone-{len(started)}"
        folder.mkdir()
        deployment = Deployment(options.pop("pod", world.proxy), folder, files, **options)
        started.append(deployment)
        deployment.start()
        return deployment

    yield start
    for deployment in reversed(started):
        deployment.end()


@pytest.fixture(scope="session")
def captured_for_good(world: World) -> Iterator[None]:
    with capture(world.proxy, CAPTURED_PORT, "--ports", "80,443,8000"):
        yield


@pytest.fixture(scope="module")
def captured(world: World, tmp_path_factory: pytest.TempPathFactory, captured_for_good: None) -> Iterator[Captured]:
    """A proxy in whose hands the application's connections are, at first with the mesh's settings alone: REGISTRY_ONLY."""
    deployment = Captured(world, tmp_path_factory.mktemp("captured"))
    deployment.put([mesh("registry-only")])
    with ExitStack() as stack:
        stack.enter_context(deployment)
        yield deployment


@pytest.fixture
def in_mesh(captured: Captured) -> Captured:
    """The same, for one test: what others logged is behind it."""
    captured.skip_lines()
    return captured
