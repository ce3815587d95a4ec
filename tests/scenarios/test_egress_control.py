"""Which sites may be reached: the mesh's policy, and what is registered one by one."""

from __future__ import annotations

from scenarios.deployment import Captured
from scenarios.edition import NAMES, files, mesh
from scenarios.world import ECHO, World

SCENARIO = "egress-control"


def test_under_allow_any_unknown_sites_pass(world: World, in_mesh: Captured) -> None:
    in_mesh.apply(mesh("allow-any"))
    for host in (NAMES.search, NAMES.news):
        assert "HTTP/2 200" in world.curl("-I", f"https://{host}").out
        line = in_mesh.envoy_line()
        assert (line.request, line.code, line.flags) == ("- - -", "0", "-")
        assert (line.cluster, line.server_name) == ("PassthroughCluster", host)


def test_a_registered_http_host_is_reached_and_logged(world: World, in_mesh: Captured) -> None:
    in_mesh.apply(mesh("registry-only"), *files(SCENARIO, "01"))
    assert world.status(f"http://{NAMES.echo}/headers") == "200"
    line = in_mesh.envoy_line()
    assert (line.request, line.code, line.upstream) == ("GET /headers HTTP/1.1", "200", f"{ECHO}:80")
