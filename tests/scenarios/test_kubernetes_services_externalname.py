"""A Service of type ExternalName stands for a site outside."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from scenarios.deployment import Captured, Deployment
from scenarios.edition import NAMES, files, mesh
from scenarios.world import ECHO, OTHER_ECHO, World, dialling, told_by_address

SCENARIO = "kubernetes-services-externalname"
SERVICE = NAMES.echo_service
CLUSTER = f"outbound|80||{SERVICE}"


@pytest.fixture(scope="module", autouse=True)
def cluster_dns(world: World) -> Iterator[None]:
    """The name server of a cluster answers for such a Service with the name that it stands for."""
    world.dns.add(SERVICE, "CNAME", NAMES.echo)
    yield
    world.dns.remove(SERVICE)


def test_the_external_site_is_reached_by_the_name_of_the_service(world: World, in_mesh: Captured) -> None:
    in_mesh.apply(mesh("registry-only"), *files(SCENARIO))
    headers = json.loads(world.curl(f"http://{SERVICE}/headers").out)["headers"]
    assert headers["Host"] == SERVICE, "it is never rewritten"
    line = in_mesh.line_of_1_7()
    assert (line.request, line.code, line.flags) == ("GET /headers HTTP/1.1", "200", "-")
    assert (line.host, line.upstream, line.cluster) == (SERVICE, f"{ECHO}:80", CLUSTER)


def test_short_names_of_the_service_do_as_well(world: World, in_mesh: Captured) -> None:
    in_mesh.apply(mesh("registry-only"), *files(SCENARIO))
    name, namespace, *_ = SERVICE.split(".")
    for short in (name, f"{name}.{namespace}", f"{name}.{namespace}.svc"):
        assert world.status(*dialling(short, ECHO), f"http://{short}/headers") == "200"
        assert in_mesh.envoy_line().cluster == CLUSTER


def test_who_is_not_captured_gets_the_same_answer(world: World) -> None:
    headers = json.loads(world.curl(f"http://{SERVICE}/headers", pod=world.external).out)["headers"]
    assert sorted(headers) == ["Accept", "Host", "User-Agent"]


def test_changing_the_service_changes_the_target_and_not_the_client(
    world: World, in_mesh: Captured, tmp_path: Path
) -> None:
    in_mesh.apply(mesh("registry-only"), *files(SCENARIO))
    (service,) = files(SCENARIO, "01")
    other = f"other.{NAMES.echo}"
    moved = tmp_path / "moved.yaml"
    moved.write_text(service.read_text().replace(NAMES.echo, other))
    world.dns.add(other, "A", OTHER_ECHO)
    in_mesh.apply(mesh("registry-only"), moved)
    assert world.status(f"http://{SERVICE}/moved") == "200"
    assert in_mesh.envoy_line().upstream == f"{OTHER_ECHO}:80"
    assert [each.address for each in world.echo.seen if each.path == "/moved"] == [OTHER_ECHO]


def test_with_these_files_alone(world: World, alone: Callable[..., Deployment]) -> None:
    deployment = alone(mesh("registry-only"), *files(SCENARIO))
    assert world.status(*told_by_address(), f"http://{SERVICE}/headers") == "200"
    assert deployment.envoy_line().cluster == CLUSTER
    assert world.status(*told_by_address(), f"http://{NAMES.echo}/headers") == "502", "only the Service is registered"
