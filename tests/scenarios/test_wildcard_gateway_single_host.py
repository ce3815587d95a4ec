"""A whole domain through a gateway, all of it to one server."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from scenarios import lines
from scenarios.deployment import Captured, Deployment
from scenarios.edition import NAMES, files, mesh, variant
from scenarios.world import ENGLISH, GERMAN, PROXY, WWW_ALMANAC, World, dialling, told_by_address

SCENARIO = "wildcard-gateway-single-host"
CLUSTER = f"outbound|443||www.{NAMES.almanac}"


def served(deployment: Deployment) -> int:
    """`cx_total` of the one endpoint, in the table of clusters."""
    begins = f"{CLUSTER}::{WWW_ALMANAC}:443::cx_total::"
    page = deployment.get("/clusters")[1]
    return sum(int(line.removeprefix(begins)) for line in page.splitlines() if line.startswith(begins))


def test_all_languages_are_read_from_one_server(world: World, in_mesh: Captured) -> None:
    in_mesh.apply(mesh("registry-only"), *files(SCENARIO))
    before = served(in_mesh)
    assert world.titles() == [ENGLISH, GERMAN]
    for language, line in zip(("en", "de"), map(lines.of_today, in_mesh.told(2)), strict=True):
        assert (line.server_name, line.cluster) == (f"{language}.{NAMES.almanac}", CLUSTER)
        assert (line.upstream, line.downstream_local) == (f"{WWW_ALMANAC}:443", f"{NAMES.endpoints[0]}:443")
    assert served(in_mesh) == before + 2


def test_without_the_registered_host_the_route_leads_nowhere(world: World, in_mesh: Captured) -> None:
    in_mesh.apply(mesh("registry-only"), *files(SCENARIO, "01"))
    world.curl(f"https://en.{NAMES.almanac}/", code=35)
    assert in_mesh.envoy_line().upstream == "-"


@pytest.mark.parametrize("form", ["1.1", "1.5"])
def test_other_published_forms_do_the_same(world: World, in_mesh: Captured, form: str) -> None:
    second = variant(SCENARIO, "1.1-02") if form == "1.1" else files(SCENARIO, "02")[0]
    in_mesh.apply(mesh("registry-only"), variant(SCENARIO, f"{form}-01"), second)
    assert world.titles() == [ENGLISH, GERMAN]
    assert [lines.of_today(line).cluster for line in in_mesh.told(2)] == [CLUSTER] * 2


def test_names_outside_the_domain_are_refused(world: World, in_mesh: Captured) -> None:
    in_mesh.apply(mesh("registry-only"), *files(SCENARIO))
    world.curl(*dialling(NAMES.almanac, WWW_ALMANAC), f"https://{NAMES.almanac}/", code=35)
    assert in_mesh.envoy_line().upstream == "-"


def test_the_gateway_itself_with_these_files_alone(world: World, alone: Callable[..., Deployment]) -> None:
    deployment = alone(mesh("registry-only"), *files(SCENARIO))
    assert world.titles(*told_by_address()) == [ENGLISH, GERMAN]
    for line in map(lines.of_today, deployment.told(2)):
        assert (line.cluster, line.upstream, line.downstream_local) == (
            CLUSTER,
            f"{WWW_ALMANAC}:443",
            f"{PROXY}:8443",
        )
    assert served(deployment) == 2
