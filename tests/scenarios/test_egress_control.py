"""Which sites may be reached: the mesh's policy, and what is registered one by one."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

from scenarios.deployment import Captured, Deployment
from scenarios.edition import NAMES, files, mesh, variant
from scenarios.world import APPLICATION, ECHO, OTHER_ECHO, PROXY, SEARCH, World, dialling, told_by_address
from support.waiting import WAIT_S, eventually

SCENARIO = "egress-control"
RELOAD_S = 2.0
"""Longest that a change of a file takes to be in force."""


def test_under_allow_any_unknown_sites_pass(world: World, in_mesh: Captured) -> None:
    in_mesh.apply(mesh("allow-any"))
    for host in (NAMES.search, NAMES.news):
        assert "HTTP/2 200" in world.curl("-I", f"https://{host}").out
        line = in_mesh.envoy_line()
        assert (line.request, line.code, line.flags) == ("- - -", "0", "-")
        assert (line.cluster, line.server_name) == ("PassthroughCluster", host)
    assert world.status(f"http://{NAMES.echo}/headers") == "200"
    line = in_mesh.envoy_line()
    assert (line.code, line.cluster, line.route) == ("200", "PassthroughCluster", "allow_any")


def test_under_allow_any_a_registered_host_has_its_own_cluster(world: World, in_mesh: Captured) -> None:
    in_mesh.apply(mesh("allow-any"), *files(SCENARIO, "01"))
    assert world.status(f"http://{NAMES.echo}/headers") == "200"
    line = in_mesh.envoy_line()
    assert (line.cluster, line.route) == (f"outbound|80||{NAMES.echo}", "default")
    assert world.status(f"https://{NAMES.news}/politics") == "200"
    assert in_mesh.envoy_line().cluster == "PassthroughCluster"


def test_registry_only_closes_unknown_tls_before_any_byte(world: World, in_mesh: Captured) -> None:
    in_mesh.apply(mesh("registry-only"))
    asked, seen = world.dns.count(), len(world.sites.lines())
    for host in (NAMES.search, NAMES.news):
        assert "HTTP" not in world.curl("-I", *dialling(host, SEARCH), f"https://{host}", code=35).out
        line = in_mesh.envoy_line()
        assert (line.request, line.code, line.flags, line.upstream) == ("- - -", "0", "UH", "-")
        assert (line.downstream_local, line.client) == (f"{SEARCH}:443", APPLICATION)
    assert world.dns.count() == asked, "a name that is refused is not looked up"
    assert len(world.sites.lines()) == seen


def test_registry_only_answers_unknown_http_hosts(world: World, in_mesh: Captured) -> None:
    in_mesh.apply(mesh("registry-only"))
    seen = len(world.echo.seen)
    head, _, body = world.curl("-i", f"http://{NAMES.echo}/headers").out.partition("\n\n")
    assert head.startswith("HTTP/1.1 502 Bad Gateway")
    assert body == ""
    line = in_mesh.envoy_line()
    assert (line.request, line.code, line.flags) == ("GET /headers HTTP/1.1", "502", "-")
    assert (line.route, line.cluster, line.upstream, line.host) == ("block_all", "-", "-", NAMES.echo)
    assert len(world.echo.seen) == seen


def test_a_registered_host_that_has_no_address_is_503_and_its_tls_closed(
    world: World, in_mesh: Captured, tmp_path: Path
) -> None:
    objects = []
    for entry, known in zip(files(SCENARIO, "01", "02"), (NAMES.echo, NAMES.search), strict=True):
        moved = tmp_path / entry.name
        moved.write_text(entry.read_text().replace(known, f"nowhere.{known}"))
        objects.append(moved)
    in_mesh.apply(mesh("registry-only"), *objects)
    host = f"nowhere.{NAMES.echo}"
    assert world.status(*dialling(host, ECHO), f"http://{host}/") == "503"
    line = in_mesh.envoy_line()
    assert (line.code, line.flags, line.details, line.upstream) == ("503", "UH", "no_healthy_upstream", "-")
    host = f"nowhere.{NAMES.search}"
    world.curl(*dialling(host, SEARCH), f"https://{host}/", code=35)
    assert in_mesh.envoy_line().flags == "UH"


def test_http_on_a_port_without_http_services_is_closed_and_not_answered(world: World, in_mesh: Captured) -> None:
    in_mesh.apply(mesh("registry-only"), *files(SCENARIO, "01"))
    seen = len(world.echo.seen)
    world.curl(f"http://{NAMES.echo}:8000/headers", code=52)
    assert in_mesh.envoy_line().upstream == "-"
    assert len(world.echo.seen) == seen


def test_a_registered_http_host_is_reached_and_logged(world: World, in_mesh: Captured) -> None:
    in_mesh.apply(mesh("registry-only"), *files(SCENARIO, "01"))
    headers = json.loads(world.curl(f"http://{NAMES.echo}/headers").out)["headers"]
    assert headers["Host"] == NAMES.echo
    line = in_mesh.line_of_1_7()
    assert (line.request, line.code, line.flags) == ("GET /headers HTTP/1.1", "200", "-")
    assert (line.policy, line.transport_failure, line.received) == ("-", "-", "0")
    assert int(line.sent) > 50
    assert int(line.service_time) <= int(line.duration)
    assert (line.host, line.upstream) == (NAMES.echo, f"{ECHO}:80")
    assert (line.cluster, line.server_name, line.route) == (f"outbound|80||{NAMES.echo}", "-", "default")
    assert (line.downstream_local, line.client) == (f"{ECHO}:80", APPLICATION)
    assert line.agent.startswith("curl/")
    assert line.request_id == headers["X-Request-Id"]
    assert in_mesh.envoy_line().details == "via_upstream"


def test_a_registered_https_host_is_reached_by_its_name_in_tls_and_no_other(world: World, in_mesh: Captured) -> None:
    in_mesh.apply(mesh("registry-only"), *files(SCENARIO, "01", "02"))
    assert "HTTP/2 200" in world.curl("-I", f"https://{NAMES.search}").out
    line = in_mesh.line_of_1_7()
    assert (line.request, line.code, line.flags) == ("- - -", "0", "-")
    assert (line.upstream, line.cluster) == (f"{SEARCH}:443", f"outbound|443||{NAMES.search}")
    assert (line.server_name, line.route, line.host, line.agent) == (NAMES.search, "-", "-", "-")
    assert min(int(line.received), int(line.sent)) > 500
    # Another name on the same port, at the same address.
    world.curl("-I", *dialling(NAMES.news, SEARCH), f"https://{NAMES.news}", code=35)
    assert in_mesh.line_of_1_7().flags == "UH"


def test_the_form_of_1_0_with_a_route_does_the_same(world: World, in_mesh: Captured) -> None:
    in_mesh.apply(mesh("registry-only"), variant(SCENARIO, "1.0"))
    assert world.status(f"https://{NAMES.search}") == "200"
    assert in_mesh.envoy_line().cluster == f"outbound|443||{NAMES.search}"


def test_the_address_that_was_dialled_does_not_count_where_names_are_looked_up(world: World, in_mesh: Captured) -> None:
    in_mesh.apply(mesh("registry-only"), *files(SCENARIO, "01"))
    assert world.status(*dialling(NAMES.echo, OTHER_ECHO), f"http://{NAMES.echo}/spoofed") == "200"
    line = in_mesh.envoy_line()
    assert (line.upstream, line.downstream_local) == (f"{ECHO}:80", f"{OTHER_ECHO}:80")
    assert [each.address for each in world.echo.seen if each.path == "/spoofed"] == [ECHO]


def test_a_host_whose_registration_is_deleted_is_refused_again(world: World, in_mesh: Captured) -> None:
    in_mesh.apply(mesh("registry-only"), *files(SCENARIO, "01", "02"))
    assert world.status(f"http://{NAMES.echo}/headers") == "200"
    in_mesh.apply(mesh("registry-only"), *files(SCENARIO, "02"))
    assert world.status(f"http://{NAMES.echo}/headers") == "502"
    assert world.status(f"https://{NAMES.search}") == "200"
    in_mesh.apply(mesh("registry-only"))
    world.curl(f"https://{NAMES.search}", code=35)


def test_the_mode_is_switched_at_run_time_by_editing_the_configmap(
    world: World, alone: Callable[..., Deployment], tmp_path: Path
) -> None:
    """The documents' files alone, on the listeners that they imply; what applications are told is the gateway's address."""
    folder = tmp_path / "istio"
    folder.mkdir()
    config_map = folder / "istio.yaml"
    shutil.copyfile(mesh("registry-only"), config_map)
    deployment = alone(folder, watch=True)
    words = (*told_by_address(), "-I", f"https://{NAMES.search}")
    in_force = deployment.metric("config_generation")

    def edit(mode: str) -> None:
        nonlocal in_force
        config_map.write_bytes(mesh(mode).read_bytes())
        eventually(lambda: deployment.metric("config_generation") == in_force + 1, f"{mode} is in force", RELOAD_S * 2)
        in_force += 1

    world.curl(*words, code=35)
    assert "mode: REGISTRY_ONLY" in deployment.get("/mode")[1]
    edit("allow-any")
    assert "mode: ALLOW_ANY" in deployment.get("/mode")[1]
    assert "HTTP/2 200" in world.curl(*words).out
    with world.application.call(socket.create_connection, (PROXY, 3128), WAIT_S) as tunnel:
        tunnel.sendall(f"CONNECT {NAMES.echo}:80 HTTP/1.1\r\nHost: {NAMES.echo}:80\r\n\r\n".encode())
        assert b" 200 " in tunnel.recv(1000)
        edit("registry-only")
        tunnel.sendall(f"GET /headers HTTP/1.1\r\nHost: {NAMES.echo}\r\n\r\n".encode())
        assert b" 200 " in tunnel.recv(10_000), "what is open goes on"
    world.curl(*words, code=35)
    assert world.status(*told_by_address(), f"http://{NAMES.echo}/headers") == "502"
