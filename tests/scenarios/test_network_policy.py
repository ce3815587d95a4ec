"""A firewall around the applications that leaves them the name server and the proxy."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from scenarios.deployment import Deployment
from scenarios.edition import NAMES, files, folder, mesh
from scenarios.only_way_out import only_way_out
from scenarios.world import NAME_SERVER, PROXY, PROXY_OUTSIDE, World, told_by_address

SCENARIO = "network-policy"


@pytest.fixture
def policy(world: World) -> Iterator[None]:
    with only_way_out(world.application, f"ip daddr {NAME_SERVER} udp dport 53", f"ip daddr {PROXY}"):
        yield


def test_the_proxy_is_the_only_way_out(world: World, policy: None, alone: Callable[..., Deployment]) -> None:
    objects = [*sorted(folder(SCENARIO).glob("*.yaml")), *files("egress-gateway-https")]
    deployment = alone(mesh("registry-only"), *objects)
    page = f"https://{NAMES.news}/only-way"
    before = world.dns.count(NAMES.news)
    done = world.curl("--connect-timeout", "0.5", page, code=28)
    assert "timed out" in done.err.lower() or "timeout" in done.err.lower()
    assert world.dns.count(NAMES.news) > before, "names are still looked up"
    deployment.says_nothing()
    assert world.status(*told_by_address(), page) == "404"
    line = deployment.envoy_line()
    assert (line.server_name, line.cluster) == (NAMES.news, f"outbound|443||{NAMES.news}")
    assert [each.client for each in world.sites.seen("/only-way")] == [PROXY_OUTSIDE]


def test_what_has_no_meaning_outside_a_cluster_is_told(world: World, alone: Callable[..., Deployment]) -> None:
    deployment = alone(mesh("registry-only"), *sorted(folder(SCENARIO).glob("*.yaml")))
    assert "networkpolicy.yaml:2: " in deployment.stderr
