"""Applications speak plain HTTP, the proxy speaks HTTPS to the site."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from scenarios import lines
from scenarios.deployment import Captured, Deployment
from scenarios.edition import NAMES, files, mesh, variant
from scenarios.world import NEWS, NEWS_TOO, World, dialling, told_by_address

SCENARIO = "egress-tls-origination"
FIRST, SECOND = ("1.1-01", "01"), ("1.4-02", "02")


def heads(world: World, *words: str) -> list[str]:
    """The status lines of what `curl -sL` went through."""
    done = world.curl("-L", "-o", "/dev/null", "-D", "-", *words)
    return [line.strip() for line in done.out.splitlines() if line.startswith("HTTP/")]


def of(beginning: str) -> Path:
    """A numbered file, or a variant."""
    return files(SCENARIO, beginning)[0] if len(beginning) == 2 else variant(SCENARIO, beginning)


@pytest.mark.parametrize("first", FIRST)
def test_without_it_the_redirect_is_seen(world: World, in_mesh: Captured, first: str) -> None:
    in_mesh.apply(mesh("registry-only"), of(first))
    assert heads(world, f"http://{NAMES.news}/politics") == ["HTTP/1.1 301 Moved Permanently", "HTTP/2 200"]
    plain, secure = map(lines.of_today, in_mesh.told(2))
    assert (plain.request, plain.code, plain.cluster) == ("GET /politics HTTP/1.1", "301", f"outbound|80||{NAMES.news}")
    assert (secure.request, secure.cluster) == ("- - -", f"outbound|443||{NAMES.news}")
    assert secure.server_name == NAMES.news


@pytest.mark.parametrize("second", SECOND)
def test_with_it_one_answer_and_no_redirect(world: World, in_mesh: Captured, second: str) -> None:
    in_mesh.apply(mesh("registry-only"), of("01"), of(second))
    path = f"/?{second}"
    assert heads(world, *dialling(NAMES.news, NEWS_TOO), f"http://{NAMES.news}{path}") == ["HTTP/1.1 200 OK"]
    line = in_mesh.line_of_1_7()
    assert (line.request, line.code, line.flags) == (f"GET {path} HTTP/1.1", "200", "-")
    assert (line.upstream, line.cluster) == (f"{NEWS}:443", f"outbound|443|tls-origination|{NAMES.news}")
    assert line.downstream_local == f"{NEWS_TOO}:80"
    (seen,) = world.sites.seen(path)
    assert (seen.port, seen.name, seen.host) == ("443", NAMES.news, NAMES.news)
    assert seen.version.startswith("TLSv1.")


@pytest.mark.parametrize("second", [*SECOND, "1.3-02", "1.8-02"])
def test_who_speaks_https_already_is_not_encrypted_twice(world: World, in_mesh: Captured, second: str) -> None:
    in_mesh.apply(mesh("registry-only"), of("01"), of(second))
    assert heads(world, f"https://{NAMES.news}/politics") == ["HTTP/2 200"]
    line = in_mesh.envoy_line()
    assert (line.request, line.cluster, line.server_name) == ("- - -", f"outbound|443||{NAMES.news}", NAMES.news)


def test_a_port_that_is_declared_http_takes_no_tls(world: World, in_mesh: Captured) -> None:
    in_mesh.apply(mesh("registry-only"), of("1.1-02"))
    assert heads(world, f"http://{NAMES.news}/politics") == ["HTTP/1.1 200 OK"]
    assert in_mesh.envoy_line().cluster == f"outbound|443||{NAMES.news}"
    world.curl(f"https://{NAMES.news}/politics", code=35)


def test_a_port_with_another_target_port_needs_no_route(world: World, in_mesh: Captured) -> None:
    in_mesh.apply(mesh("registry-only"), of("1.8-01"))
    assert heads(world, f"http://{NAMES.news}/politics") == ["HTTP/1.1 301 Moved Permanently", "HTTP/2 200"]
    in_mesh.skip_lines()
    in_mesh.apply(mesh("registry-only"), of("1.8-02"))
    assert heads(world, f"http://{NAMES.news}/politics") == ["HTTP/1.1 200 OK"]
    line = in_mesh.envoy_line()
    assert (line.upstream, line.cluster) == (f"{NEWS}:443", f"outbound|80||{NAMES.news}")


def test_with_these_files_alone(world: World, alone: Callable[..., Deployment]) -> None:
    deployment = alone(mesh("registry-only"), *files(SCENARIO))
    assert heads(world, *told_by_address(), f"http://{NAMES.news}/politics") == ["HTTP/1.1 200 OK"]
    assert deployment.envoy_line().cluster == f"outbound|443|tls-origination|{NAMES.news}"
    assert heads(world, *told_by_address(), f"https://{NAMES.news}/politics") == ["HTTP/2 200"]
    assert deployment.envoy_line().cluster == f"outbound|443||{NAMES.news}"
