"""A namespace locked down: its pods reach the name server and the proxy's port, and by that what the proxy's rules allow."""

from __future__ import annotations

import json
from pathlib import Path

from scenarios.deployment import DEFAULT_ADMIN_PORT, Deployment
from scenarios.edition import NAMES
from scenarios.only_way_out import only_way_out
from scenarios.world import APPLICATION, ENGLISH, EXTERNAL, NAME_SERVER, SEARCH, World, title_of

PAGE = f"https://en.{NAMES.almanac}/wiki/locked-down"
ELSEWHERE = f"https://{NAMES.search}/"
PROXY_URL = f"http://{EXTERNAL}:3128"

TIMED_OUT, REFUSED_BY_PROXY, NOBODY_THERE = 28, 56, 7
"""Exit codes of curl."""


def test_the_proxy_is_the_only_way_out_and_as_wide_as_its_rules(world: World, tmp_path: Path) -> None:
    assert title_of(world.curl(PAGE).out) == ENGLISH, "there is a way, before it is closed"
    settings = {
        "listeners": [{"protocol": "http-proxy", "address": EXTERNAL, "port": 3128}],
        "allow": [f"*.{NAMES.almanac}:443"],
        "dns": {"servers": [f"{NAME_SERVER}:53"]},
        "access_log": [{"format": "squid"}],
        "admin": {"address": "0.0.0.0", "port": DEFAULT_ADMIN_PORT},
    }
    file = tmp_path / "proxy.yaml"
    file.write_text(json.dumps(settings))
    deployment = Deployment(world.external, tmp_path, [file])
    allowed = (f"ip daddr {NAME_SERVER} udp dport 53", f"ip daddr {EXTERNAL} tcp dport 3128")
    with only_way_out(world.application, *allowed):
        with deployment:
            asked = world.dns.count(f"en.{NAMES.almanac}")
            dropped(world, PAGE)
            assert world.dns.count(f"en.{NAMES.almanac}") > asked, "names are still looked up"
            dropped(world, "--insecure", f"https://{SEARCH}/")
            dropped(world, f"http://{EXTERNAL}:{DEFAULT_ADMIN_PORT}/metrics")
            deployment.says_nothing()
            assert title_of(world.curl("-x", PROXY_URL, PAGE).out) == ENGLISH
            assert "403" in world.curl("-x", PROXY_URL, ELSEWHERE, code=REFUSED_BY_PROXY).err
            passed, refused = deployment.told(2)
            assert "TCP_TUNNEL/200" in passed
            assert "TCP_DENIED/403" in refused
        world.curl("-x", PROXY_URL, PAGE, code=NOBODY_THERE)
        dropped(world, PAGE)
    assert [seen.client for seen in world.sites.seen("/wiki/locked-down", 2)] == [APPLICATION, EXTERNAL]


def dropped(world: World, *words: str) -> None:
    """Asked without the proxy, nobody answers, not even that it may not be."""
    done = world.curl("--noproxy", "*", "--connect-timeout", "0.3", *words, code=TIMED_OUT)
    assert done.out == ""
