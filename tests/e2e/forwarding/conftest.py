"""Two proxies for the tests of plain requests, one that stays as it is and one that is reconfigured; an origin and a client.

The tests speak for both ends themselves, so each reads as the dialogue that it is about.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.plain_http import Ends, RawOrigin
from support.proxy import Proxy, free_port


@pytest.fixture(scope="module")
def config(open_config: dict[str, Any]) -> dict[str, Any]:
    return {**open_config, "guard": {"allow": ["127.0.0.0/8"]}}


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory, config: dict[str, Any]) -> Iterator[Proxy]:
    """Everything goes. Two ways in: as a proxy, and by the Host field."""
    proxy = Proxy(tmp_path_factory.mktemp("proxy"))
    listeners = [{"protocol": "http-proxy"}, {"protocol": "http", "name": "web", "port": free_port()}]
    proxy.write_config({**config, "listeners": listeners})
    with proxy:
        yield proxy


@pytest.fixture(scope="module")
def changing(tmp_path_factory: pytest.TempPathFactory, config: dict[str, Any]) -> Iterator[Proxy]:
    """The proxy of `configured`."""
    with Proxy(tmp_path_factory.mktemp("changing"), config) as proxy:
        yield proxy


@pytest.fixture
def configured(changing: Proxy, config: dict[str, Any]) -> Callable[..., Proxy]:
    """A proxy with these settings besides."""

    def configure(**settings: Any) -> Proxy:
        changing.settled()
        assert changing.reload({**config, **settings}), changing.stderr
        return changing

    return configure


@pytest.fixture
def origin() -> Iterator[RawOrigin]:
    with RawOrigin() as origin:
        yield origin


@pytest.fixture
def client(proxy: Proxy) -> Iterator[Ends]:
    with Ends(proxy) as client:
        yield client


@pytest.fixture
def new_lines_only(proxy: Proxy) -> None:
    """Of a test that looks at log lines: those before have been looked at."""
    proxy.settled()
