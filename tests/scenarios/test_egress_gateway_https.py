"""TLS through the egress gateway, which passes it on as it is."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from scenarios.deployment import Captured, Deployment
from scenarios.edition import NAMES, file, files, mesh, variant
from scenarios.world import APPLICATION, NEWS, PROXY, PROXY_OUTSIDE, World, told_by_address

SCENARIO = "egress-gateway-https"


def connections(deployment: Deployment) -> int:
    """`upstream_cx_total` of the site's cluster, as the statistics page tells it."""
    page = deployment.get("/stats")[1]
    found = re.search(rf"^cluster\.outbound\|443\|\|{re.escape(NAMES.news)}\.upstream_cx_total: (\d+)$", page, re.M)
    return int(found[1]) if found else 0


def test_https_passes_and_the_log_tells_the_name(world: World, in_mesh: Captured) -> None:
    in_mesh.apply(mesh("registry-only"), *files(SCENARIO))
    before = connections(in_mesh)
    out = world.curl("-L", "-o", "/dev/null", "-D", "-", f"https://{NAMES.news}/politics").out
    assert out.startswith("HTTP/2 200")
    line = in_mesh.line_of_1_7()
    assert (line.request, line.code, line.flags, line.policy) == ("- - -", "0", "-", "-")
    assert (line.upstream, line.cluster) == (f"{NEWS}:443", f"outbound|443||{NAMES.news}")
    assert line.upstream_local.startswith(f"{PROXY_OUTSIDE}:")
    assert (line.downstream_local, line.client) == (f"{NEWS}:443", APPLICATION)
    assert (line.server_name, line.route) == (NAMES.news, "-")
    assert int(line.sent) > 200_000 > int(line.received) > 500
    assert connections(in_mesh) == before + 1


def test_nothing_ends_the_tls_on_its_way(world: World, in_mesh: Captured) -> None:
    in_mesh.apply(mesh("registry-only"), *files(SCENARIO))
    done = world.application.run(
        *("openssl", "s_client", "-connect", f"{NAMES.news}:443", "-servername", NAMES.news, "-verify_return_error"),
        *("-verify_hostname", NAMES.news),
        folder=world.folder,
    )
    assert "Verify return code: 0 (ok)" in done.out
    assert in_mesh.envoy_line().server_name == NAMES.news


@pytest.mark.parametrize("form", ["1.1-02-mtls-enabled-tcp-route", "1.1-02-passthrough-snake-case"])
def test_other_published_forms_do_the_same(world: World, in_mesh: Captured, form: str) -> None:
    in_mesh.apply(mesh("registry-only"), *files(SCENARIO, "01"), variant(SCENARIO, form))
    assert world.status(f"https://{NAMES.news}/politics") == "200"
    assert in_mesh.envoy_line().cluster == f"outbound|443||{NAMES.news}"


def test_without_a_route_tls_is_relayed_all_the_same(world: World, in_mesh: Captured) -> None:
    in_mesh.apply(mesh("registry-only"), *files(SCENARIO, "01"))
    assert world.status(f"https://{NAMES.news}/politics") == "200"
    assert in_mesh.envoy_line().cluster == f"outbound|443||{NAMES.news}"


def test_the_gateway_itself_with_these_files_alone(world: World, alone: Callable[..., Deployment]) -> None:
    service = file("common", "istio-egressgateway-service")
    deployment = alone(mesh("registry-only"), service, *files(SCENARIO))
    assert world.status(*told_by_address(), f"https://{NAMES.news}/politics") == "200"
    line = deployment.envoy_line()
    assert (line.upstream, line.downstream_local) == (f"{NEWS}:443", f"{PROXY}:8443")
    assert connections(deployment) == 1
    seen = len(world.sites.lines())
    world.curl(*told_by_address(), f"https://{NAMES.search}/", code=35)
    line = deployment.envoy_line()
    assert (line.flags, line.upstream, line.server_name) == ("NR", "-", NAMES.search)
    assert len(world.sites.lines()) == seen
