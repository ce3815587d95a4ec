"""A firewall around the applications that leaves them the name server and the proxy."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from scenarios.deployment import Deployment
from scenarios.edition import NAMES, files, folder, mesh
from scenarios.world import NAME_SERVER, PROXY, PROXY_OUTSIDE, World, told_by_address
from support.namespaces import need_namespaces

SCENARIO = "network-policy"
# What the network of a cluster makes of the NetworkPolicy: the rest is dropped in silence.
_POLICY = f"""
table inet only_way_out {{
  chain output {{
    type filter hook output priority 0; policy drop;
    oifname "lo" accept
    ct state established accept
    ip daddr {NAME_SERVER} udp dport 53 accept
    ip daddr {PROXY} accept
  }}
}}
"""


@pytest.fixture
def policy(world: World) -> Iterator[None]:
    need_namespaces("nft")
    world.application.run("nft", "-f", "-", stdin=_POLICY, folder=world.folder)
    yield
    world.application.run("nft", "delete", "table", "inet", "only_way_out", folder=world.folder)


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
