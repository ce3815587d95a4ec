"""TLS with a client certificate out of a Secret."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from scenarios.deployment import Captured, Deployment
from scenarios.edition import NAMES, file, files, mesh
from scenarios.server import GATEWAY_NAMESPACE, Scenario, other_authoritys_pem
from scenarios.world import SERVER, WELCOME, World, title_of, told_by_address
from support.waiting import eventually

SCENARIO = "egress-gateway-tls-origination-mutual-sds"
PAGE = f"http://{NAMES.server}"


@pytest.fixture(scope="module")
def scenario(world: World) -> Scenario:
    return Scenario(world, SCENARIO)


@pytest.fixture(scope="module")
def server_log(scenario: Scenario) -> Iterator[Path]:
    with scenario.served(('"$http_user_agent"', '"$ssl_client_s_dn" $ssl_server_name')) as log:
        yield log


def objects() -> list[Path]:
    return [mesh("registry-only"), file(SCENARIO, "server-service"), *files(SCENARIO)]


@pytest.fixture
def secrets(scenario: Scenario, tmp_path: Path) -> Path:
    filled = tmp_path / "secrets.yaml"
    filled.write_text(scenario.secrets)
    return filled


def test_the_page_arrives_and_the_server_sees_the_client(
    world: World, in_mesh: Captured, server_log: Path, secrets: Path
) -> None:
    in_mesh.apply(*objects(), secrets)
    assert title_of(world.curl(PAGE).out) == WELCOME
    line = in_mesh.line_of_1_7()
    assert (line.request, line.code, line.flags, line.sent) == ("GET / HTTP/1.1", "200", "-", "615")
    assert (line.upstream, line.cluster) == (f"{SERVER}:443", f"outbound|443||{NAMES.server}")
    eventually(server_log.read_text, "the server has logged the request")
    logged = server_log.read_text()
    assert NAMES.client in logged
    assert f'" {NAMES.server} "' in logged, "the name that was asked for in TLS"


def test_a_secret_that_is_replaced_takes_effect_without_a_restart(
    world: World, in_mesh: Captured, server_log: Path, scenario: Scenario, secrets: Path, tmp_path: Path
) -> None:
    in_mesh.apply(*objects(), secrets)
    assert world.status(PAGE) == "200"
    in_mesh.skip_lines()
    (secret,) = scenario.secrets_in(GATEWAY_NAMESPACE)
    secret["data"]["ca.crt"] = base64.b64encode(other_authoritys_pem()).decode()
    other = tmp_path / "other.yaml"
    other.write_text(yaml.safe_dump(secret))
    in_mesh.apply(*objects(), other)
    assert world.status(PAGE) == "503"
    line = in_mesh.envoy_line()
    assert (line.code, line.flags.split(",")[0]) == ("503", "UF")
    assert "CERTIFICATE_VERIFY_FAILED" in line.transport_failure
    in_mesh.apply(*objects(), secrets)
    assert world.status(PAGE) == "200"


def test_with_these_files_alone(
    world: World, server_log: Path, secrets: Path, alone: Callable[..., Deployment]
) -> None:
    deployment = alone(*objects(), secrets)
    assert title_of(world.curl(*told_by_address(), PAGE).out) == WELCOME
    assert deployment.envoy_line().upstream == f"{SERVER}:443"
