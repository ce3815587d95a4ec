"""TLS with an authority out of a Secret."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from scenarios.deployment import Captured, Deployment
from scenarios.edition import NAMES, file, files, mesh
from scenarios.server import GATEWAY_NAMESPACE, Scenario
from scenarios.world import APPLICATION, SERVER, WELCOME, World, title_of, told_by_address

SCENARIO = "egress-gateway-tls-origination-simple-sds"
PAGE = f"http://{NAMES.server}"


@pytest.fixture(scope="module")
def scenario(world: World) -> Scenario:
    return Scenario(world, SCENARIO)


@pytest.fixture(scope="module")
def server_log(scenario: Scenario) -> Iterator[Path]:
    with scenario.served() as log:
        yield log


def objects() -> list[Path]:
    return [mesh("registry-only"), file(SCENARIO, "server-service"), *files(SCENARIO)]


@pytest.fixture
def secrets(scenario: Scenario, tmp_path: Path) -> Path:
    filled = tmp_path / "secrets.yaml"
    filled.write_text(scenario.secrets)
    return filled


def test_the_page_arrives(world: World, in_mesh: Captured, server_log: Path, secrets: Path) -> None:
    in_mesh.apply(*objects(), secrets)
    assert title_of(world.curl(PAGE).out) == WELCOME
    line = in_mesh.line_of_1_7()
    assert (line.request, line.code, line.flags, line.sent) == ("GET / HTTP/1.1", "200", "-", "615")
    assert (line.upstream, line.cluster) == (f"{SERVER}:443", f"outbound|443||{NAMES.server}")
    assert (line.forwarded_for, line.host) == (APPLICATION, NAMES.server)


def test_without_the_secret_nothing_is_sent_and_with_it_all_works_without_a_restart(
    world: World, in_mesh: Captured, server_log: Path, secrets: Path
) -> None:
    in_mesh.apply(*objects())
    before = server_log.read_text()
    assert world.status(PAGE) == "503"
    line = in_mesh.envoy_line()
    assert (line.code, line.upstream) == ("503", "-")
    assert server_log.read_text() == before
    in_mesh.apply(*objects(), secrets)
    assert world.status(PAGE) == "200"
    in_mesh.apply(*objects())
    assert world.status(PAGE) == "503"


@pytest.mark.parametrize("rule", ["namespace", "name", "token"])
def test_secrets_that_gateways_may_not_use_are_not_used(
    world: World, in_mesh: Captured, server_log: Path, scenario: Scenario, tmp_path: Path, rule: str
) -> None:
    (secret,) = scenario.secrets_in(GATEWAY_NAMESPACE)
    name = secret["metadata"]["name"]
    objects_ = objects()
    if rule == "namespace":
        secret["metadata"]["namespace"] = "default"
    elif rule == "token":
        secret["data"]["token"] = secret["data"]["ca.crt"]
    else:
        secret["metadata"]["name"] = f"istio-{name}"
        credential = name.removesuffix("-cacert")
        changed = tmp_path / "rule.yaml"
        changed.write_text(objects_[-1].read_text().replace(credential, f"istio-{credential}"))
        objects_[-1] = changed
    made = tmp_path / "secrets.yaml"
    made.write_text(yaml.safe_dump(secret))
    in_mesh.apply(*objects_, made)
    assert world.status(PAGE) == "503"
    assert in_mesh.envoy_line().upstream == "-"


def test_the_admin_pages_do_not_show_secrets(in_mesh: Captured, scenario: Scenario, secrets: Path) -> None:
    in_mesh.apply(*objects(), secrets)
    (secret,) = scenario.secrets_in(GATEWAY_NAMESPACE)
    for page in ("/config", "/config_dump"):
        shown = in_mesh.get(page)[1]
        assert "BEGIN CERTIFICATE" not in shown
        assert all(value not in shown for value in secret["data"].values())


def test_with_these_files_alone(
    world: World, server_log: Path, secrets: Path, alone: Callable[..., Deployment]
) -> None:
    deployment = alone(*objects(), secrets)
    assert title_of(world.curl(*told_by_address(), PAGE).out) == WELCOME
    assert deployment.envoy_line().upstream == f"{SERVER}:443"
