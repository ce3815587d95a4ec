"""Which addresses are captured at all."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scenarios.deployment import CAPTURED_PORT, Captured, capture
from scenarios.edition import NAMES, file, mesh
from scenarios.world import ECHO, World

SCENARIO = "bypass-ip-ranges"
ADDED = {"X-Request-Id", "Via"}


@contextmanager
def captured_as(world: World, deployment: Captured, values: Path) -> Iterator[None]:
    """Capture what the values of an installation say."""
    with capture(world.proxy, CAPTURED_PORT, "--ports", "80,443", str(deployment.config_file), f"istio:{values}"):
        yield


def headers(world: World) -> set[str]:
    """Names of the header fields that the echo site gets."""
    return set(json.loads(world.curl(f"http://{NAMES.echo}/headers").out)["headers"])


def test_only_included_ranges_are_captured(world: World, in_mesh: Captured) -> None:
    in_mesh.apply(mesh("registry-only"))
    assert world.status(f"http://{NAMES.echo}/headers") == "502"
    in_mesh.skip_lines()
    with captured_as(world, in_mesh, file(SCENARIO, "values-include")):
        assert headers(world) == {"Accept", "Host", "User-Agent"}
        assert world.echo.seen[-1].address == ECHO
        assert world.echo.seen[-1].client == "10.201.1.2", "nobody stands between"
    in_mesh.says_nothing()


def test_excluded_ranges_are_not_captured_and_others_are(world: World, in_mesh: Captured) -> None:
    in_mesh.apply(mesh("registry-only"))
    with captured_as(world, in_mesh, file(SCENARIO, "values-exclude")):
        assert headers(world) == {"Accept", "Host", "User-Agent"}
        in_mesh.says_nothing()
        world.curl(f"https://{NAMES.search}/", code=35)
        assert in_mesh.envoy_line().flags == "UH"


def test_captured_requests_show_it(world: World, in_mesh: Captured) -> None:
    in_mesh.apply(mesh("allow-any"))
    assert headers(world) == {"Accept", "Host", "User-Agent", *ADDED}
    assert in_mesh.envoy_line().cluster == "PassthroughCluster"
