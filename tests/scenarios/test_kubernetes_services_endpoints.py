"""A Service without pods, with hand-written Endpoints outside, reached by its cluster address."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from scenarios import lines
from scenarios.deployment import Captured, Deployment
from scenarios.edition import NAMES, files, mesh
from scenarios.world import ENGLISH, PROXY, World, dialling, title_of

SCENARIO = "kubernetes-services-endpoints"
HOST = f"en.{NAMES.almanac}"
CLUSTER = f"outbound|443||{NAMES.pages_service}"


def objects() -> list[Path]:
    """The files, the Service with the cluster address that the documents' cluster gave it."""
    return [mesh("registry-only"), *files(SCENARIO, "01-*with-cluster-ip", "02", "03")]


def test_an_endpoint_is_reached_through_the_cluster_address(world: World, in_mesh: Captured) -> None:
    in_mesh.apply(*objects())
    place = dialling(HOST, NAMES.cluster_address, 443)
    done = world.curl("-v", *place, f"https://{HOST}/wiki/Main_Page")
    assert f"Trying {NAMES.cluster_address}:443" in done.err
    assert title_of(done.out) == ENGLISH
    line = in_mesh.line_of_1_7()
    assert (line.request, line.code, line.cluster) == ("- - -", "0", CLUSTER)
    assert line.downstream_local == f"{NAMES.cluster_address}:443"
    assert line.upstream_address in NAMES.endpoints
    assert line.server_name == "-", "the address says it all: nobody looks into the TLS"


def test_endpoints_take_turns(world: World, in_mesh: Captured) -> None:
    in_mesh.apply(*objects())
    for _ in range(4):
        assert world.status(*dialling(HOST, NAMES.cluster_address, 443), f"https://{HOST}/") == "200"
    upstreams = [lines.of_today(line).upstream_address for line in in_mesh.told(4)]
    assert sorted(upstreams) == sorted(NAMES.endpoints * 2)


def test_the_address_identifies_the_service_whatever_the_name_in_tls(world: World, in_mesh: Captured) -> None:
    in_mesh.apply(*objects())
    name = f"www.{NAMES.almanac}"
    assert world.status(*dialling(name, NAMES.cluster_address, 443), f"https://{name}/") == "200"
    assert in_mesh.envoy_line().cluster == CLUSTER
    # And the name identifies nothing.
    world.curl(f"https://{HOST}/", code=35)
    assert in_mesh.envoy_line().flags == "UH"


def test_without_endpoints_it_is_closed(world: World, in_mesh: Captured) -> None:
    service, _, rule = objects()[1:]
    in_mesh.apply(mesh("registry-only"), service, rule)
    world.curl(*dialling(HOST, NAMES.cluster_address, 443), f"https://{HOST}/", code=35)
    line = in_mesh.envoy_line()
    assert (line.flags, line.upstream) == ("UH", "-")


def test_with_these_files_alone(world: World, alone: Callable[..., Deployment]) -> None:
    """Who is told the proxy asks it for the cluster address."""
    deployment = alone(*objects())
    place = ("-x", f"http://{PROXY}:3128", "--connect-to", f"{HOST}:443:{NAMES.cluster_address}:443")
    assert title_of(world.curl(*place, f"https://{HOST}/").out) == ENGLISH
    line = deployment.envoy_line()
    assert (line.cluster, line.host) == (CLUSTER, f"{NAMES.cluster_address}:443")
    assert line.upstream_address in NAMES.endpoints
