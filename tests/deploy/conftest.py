"""What tests of deployments share: the world of the scenarios."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from scenarios.pods import need_pods
from scenarios.world import World
from scenarios.world import world as made_world


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    need_pods("nginx", "nft", "curl", "openssl")
    with made_world(tmp_path_factory.mktemp("world")) as made:
        yield made
