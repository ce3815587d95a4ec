"""Plain HTTP through the egress gateway."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from scenarios import lines
from scenarios.deployment import Captured, Deployment
from scenarios.edition import NAMES, files, mesh, variant
from scenarios.world import APPLICATION, ECHO, NEWS, PROXY, PROXY_OUTSIDE, World, told_by_address

SCENARIO = "egress-gateway-http"
HEADS = ("-L", "-o", "/dev/null", "-D", "-")


def test_the_client_sees_what_it_saw_without_a_gateway(world: World, in_mesh: Captured) -> None:
    in_mesh.apply(mesh("registry-only"), *files(SCENARIO))
    out = world.curl(*HEADS, f"http://{NAMES.news}/politics").out
    assert out.startswith("HTTP/1.1 301 Moved Permanently")
    assert f"location: https://{NAMES.news}/politics" in out.lower()
    assert "HTTP/2 200" in out
    plain, secure = map(lines.of_today, in_mesh.told(2))
    assert (plain.request, plain.code, plain.flags) == ("GET /politics HTTP/1.1", "301", "-")
    assert (plain.upstream, plain.cluster) == (f"{NEWS}:80", f"outbound|80||{NAMES.news}")
    assert (plain.forwarded_for, plain.client, plain.host) == (APPLICATION, APPLICATION, NAMES.news)
    assert plain.upstream_local.startswith(f"{PROXY_OUTSIDE}:")
    # Only port 80 is led through the gateway.
    assert (secure.cluster, secure.route, secure.forwarded_for) == (f"outbound|443||{NAMES.news}", "-", "-")


def test_the_gateway_itself_with_these_files_alone(world: World, alone: Callable[..., Deployment]) -> None:
    deployment = alone(mesh("registry-only"), *files(SCENARIO))
    assert world.status(*told_by_address(), f"http://{NAMES.news}/politics") == "301"
    line = deployment.envoy_line()
    assert (line.code, line.upstream, line.downstream_local) == ("301", f"{NEWS}:80", f"{PROXY}:8080")
    assert line.forwarded_for == APPLICATION
    assert deployment.get("/readyz")[0] == 200
    assert world.status("-H", "Host: other.example.com", f"http://{PROXY}:8080/") == "404"
    line = deployment.envoy_line()
    assert (line.code, line.flags, line.details, line.upstream) == ("404", "NR", "route_not_found", "-")


def test_what_has_no_resolution_does_not_go_round_at_the_gateway(
    world: World, alone: Callable[..., Deployment], tmp_path: Path
) -> None:
    """There the address that the client dialled is the gateway's own."""
    entry, *others = files(SCENARIO)
    text = entry.read_text()
    assert "resolution: DNS" in text
    unresolved = tmp_path / entry.name
    unresolved.write_text(text.replace("resolution: DNS", "resolution: NONE"))
    deployment = alone(mesh("registry-only"), unresolved, *others)
    for _ in range(3):
        assert world.status(*told_by_address(), f"http://{NAMES.news}/politics") == "503"
        line = deployment.envoy_line()
        assert (line.code, line.flags, line.upstream) == ("503", "UH", "-")
    deployment.says_nothing()
    assert deployment.metric("connections_total") == 3


def test_what_the_gateway_adds_is_who_asked(world: World, in_mesh: Captured) -> None:
    """The same for a site of the reader's own, with a Gateway of another name."""
    objects = [variant(SCENARIO, f"seed-004-0{number}") for number in (1, 2, 3)]
    in_mesh.apply(mesh("registry-only"), *objects)
    headers = json.loads(world.curl(f"http://{NAMES.echo}/headers").out)["headers"]
    assert headers["X-Forwarded-For"] == APPLICATION
    line = in_mesh.envoy_line()
    assert (line.upstream, line.cluster) == (f"{ECHO}:80", f"outbound|80||{NAMES.echo}")
    assert headers["X-Request-Id"] == line.request_id
    told = json.loads(world.curl(f"http://{NAMES.echo}/ip").out)
    assert told == {"origin": PROXY_OUTSIDE}, "the site sees the one door only"


def test_after_its_objects_are_deleted_the_site_is_reached_directly(world: World, in_mesh: Captured) -> None:
    in_mesh.apply(mesh("registry-only"), *files(SCENARIO))
    in_mesh.apply(mesh("registry-only"), *files(SCENARIO, "01"))
    assert world.status(f"http://{NAMES.news}/politics") == "301"
    line = in_mesh.envoy_line()
    assert (line.cluster, line.route, line.forwarded_for) == (f"outbound|80||{NAMES.news}", "default", "-")
