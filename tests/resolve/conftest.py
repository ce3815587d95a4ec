"""A real DNS server on loopback, real files, a clock that tests move, and resolvers that are closed afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.dns import DnsServer
from support.resolving import Clock, Files

from egressproxy.config.schema.stages import Dns
from egressproxy.resolve.resolver import Resolver


@pytest.fixture
def dns() -> Iterator[DnsServer]:
    with DnsServer() as server:
        yield server


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


@pytest.fixture
def make(dns: DnsServer, clock: Clock, files: Files) -> Iterator[Callable[..., Resolver]]:
    made: list[Resolver] = []

    def make_resolver(**settings: Any) -> Resolver:
        settings.setdefault("servers", (dns.address,))
        settings.setdefault("tries", 1)
        settings.setdefault("search", True)
        resolver = Resolver(
            Dns(**settings), resolv_conf=str(files.resolv_conf), hosts_file=str(files.hosts), clock=clock
        )
        made.append(resolver)
        return resolver

    yield make_resolver
    for resolver in made:
        resolver.close()


@pytest.fixture
def resolver(make: Callable[..., Resolver]) -> Resolver:
    return make()
