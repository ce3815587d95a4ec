"""A route's time limit for slow answers."""

from __future__ import annotations

from collections.abc import Callable

from scenarios.deployment import Captured, Deployment
from scenarios.edition import NAMES, files, mesh
from scenarios.world import ECHO, World, told_by_address

SCENARIO = "timeout-virtualservice"
LIMIT_S = 3.0
SLACK_S = 0.5
"""What a busy machine may add to it."""


def test_without_a_limit_a_slow_answer_passes(world: World, in_mesh: Captured) -> None:
    in_mesh.apply(mesh("registry-only"), *files(SCENARIO, "01"))
    assert world.status(f"http://{NAMES.echo}/delay/{LIMIT_S + SLACK_S}") == "200"
    line = in_mesh.envoy_line()
    assert int(line.duration) >= (LIMIT_S + SLACK_S) * 1000


def test_with_it_the_client_is_told_504_when_it_is_over(world: World, in_mesh: Captured) -> None:
    in_mesh.apply(mesh("registry-only"), *files(SCENARIO))
    done = world.curl("-w", "\n%{http_code} %{time_total}", f"http://{NAMES.echo}/delay/5")
    body, _, told = done.out.rpartition("\n")
    status, took_s = told.split()
    assert status == "504"
    assert LIMIT_S <= float(took_s) < LIMIT_S + SLACK_S
    assert "timeout" in body
    line = in_mesh.line_of_1_7()
    assert (line.request, line.code, line.flags) == ("GET /delay/5 HTTP/1.1", "504", "UT")
    assert (line.service_time, line.sent) == ("-", str(len(body)))
    assert LIMIT_S * 1000 <= int(line.duration) < (LIMIT_S + SLACK_S) * 1000
    assert (line.upstream, line.cluster) == (f"{ECHO}:80", f"outbound|80||{NAMES.echo}")
    assert in_mesh.envoy_line().details == "response_timeout"


def test_an_answer_in_time_passes_with_these_files_alone(world: World, alone: Callable[..., Deployment]) -> None:
    deployment = alone(mesh("registry-only"), *files(SCENARIO))
    assert world.status(*told_by_address(), f"http://{NAMES.echo}/delay/0.2") == "200"
    line = deployment.envoy_line()
    assert (line.code, line.flags, line.cluster) == ("200", "-", f"outbound|80||{NAMES.echo}")
