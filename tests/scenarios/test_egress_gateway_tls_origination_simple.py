"""Plain HTTP up to the gateway, HTTPS from there on."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from scenarios import lines
from scenarios.deployment import Captured, Deployment
from scenarios.edition import NAMES, files, mesh, variant
from scenarios.world import APPLICATION, NEWS, PROXY, World, told_by_address

SCENARIO = "egress-gateway-tls-origination-simple"
HEADS = ("-L", "-o", "/dev/null", "-D", "-")
PAGE = f"http://{NAMES.news}/politics"


def test_before_the_route_the_redirect_is_seen(world: World, in_mesh: Captured) -> None:
    in_mesh.apply(mesh("registry-only"), *files(SCENARIO, "01", "02"))
    out = world.curl(*HEADS, PAGE).out
    assert out.startswith("HTTP/1.1 301 Moved Permanently")
    assert "HTTP/2 200" in out
    plain, secure = map(lines.of_today, in_mesh.told(2))
    assert (plain.cluster, secure.cluster) == (f"outbound|80||{NAMES.news}", f"outbound|443||{NAMES.news}")


def test_one_answer_and_the_request_is_readable_in_the_log(world: World, in_mesh: Captured) -> None:
    in_mesh.apply(mesh("registry-only"), *files(SCENARIO))
    out = world.curl(*HEADS, PAGE).out
    assert [line.strip() for line in out.splitlines() if line.startswith("HTTP/")] == ["HTTP/1.1 200 OK"]
    line = in_mesh.line_of_1_7()
    assert (line.request, line.code, line.flags) == ("GET /politics HTTP/1.1", "200", "-")
    assert (line.upstream, line.cluster) == (f"{NEWS}:443", f"outbound|443||{NAMES.news}")
    assert (line.forwarded_for, line.host, line.client) == (APPLICATION, NAMES.news, APPLICATION)
    assert int(line.sent) >= 200_000
    assert 0 <= int(line.service_time) <= int(line.duration)
    assert line.request_id != "-"


@pytest.mark.parametrize("form", ["1.1-02", "1.2-02", "1.5-02"])
def test_other_published_gateways_do_the_same(world: World, in_mesh: Captured, form: str) -> None:
    first, _, third = files(SCENARIO)
    in_mesh.apply(mesh("registry-only"), first, variant(SCENARIO, form), third)
    assert world.status(PAGE) == "200"
    assert in_mesh.envoy_line().upstream == f"{NEWS}:443"


def test_https_of_the_application_is_not_touched(world: World, in_mesh: Captured) -> None:
    in_mesh.apply(mesh("registry-only"), *files(SCENARIO))
    assert world.curl(*HEADS, f"https://{NAMES.news}/politics").out.startswith("HTTP/2 200")
    assert in_mesh.envoy_line().server_name == NAMES.news


def test_the_gateway_itself_with_these_files_alone(world: World, alone: Callable[..., Deployment]) -> None:
    deployment = alone(mesh("registry-only"), *files(SCENARIO))
    assert world.status(*told_by_address(), PAGE) == "200"
    line = deployment.envoy_line()
    assert (line.upstream, line.cluster) == (f"{NEWS}:443", f"outbound|443||{NAMES.news}")
    assert line.downstream_local == f"{PROXY}:8080"


@pytest.mark.parametrize("second", ["seed-003-02-gateway-destinationrule", "seed-003-02-mtls"])
def test_plain_http_on_port_443_of_the_gateway(world: World, alone: Callable[..., Deployment], second: str) -> None:
    """The form of 2018: HTTP is declared on 443, and the gateway is asked there."""
    first, third = (variant(SCENARIO, f"seed-003-{number}") for number in ("01", "03"))
    deployment = alone(mesh("registry-only"), first, variant(SCENARIO, second), third)
    asked = ("--connect-to", f":80:{PROXY}:8443") if "mtls" not in second else told_by_address()
    assert world.status(*asked, PAGE) == "200"
    assert deployment.envoy_line().upstream == f"{NEWS}:443"


def test_a_gateway_without_a_route_answers_404_and_shows_its_table(
    world: World, alone: Callable[..., Deployment]
) -> None:
    objects = [variant(SCENARIO, f"seed-003-{name}") for name in ("01", "02-gateway-destinationrule")]
    deployment = alone(mesh("registry-only"), *objects)
    assert world.status("-H", f"Host: {NAMES.news}", f"http://{PROXY}:8443/politics") == "404"
    line = deployment.envoy_line()
    assert (line.code, line.flags, line.details) == ("404", "NR", "route_not_found")
    (listener,) = (
        each
        for each in deployment.get_json("/listeners?format=json")["listener_statuses"]
        if each["name"] == "0.0.0.0_443"
    )
    assert listener["local_address"]["socket_address"] == {"address": "0.0.0.0", "port_value": 8443}
    (table,) = (each for each in deployment.get_json("/routes") if each["name"] == "http.443")
    *_, last = table["virtual_hosts"]
    assert (last["name"], last["domains"]) == ("blackhole:443", ["*"])
    assert last["routes"] == [{"match": {"prefix": "/"}, "direct_response": {"status": 404}}]
