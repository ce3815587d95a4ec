"""Plain HTTP in, HTTPS out: a real NGINX behind the proxy, whose log says what came, and curl and openssl in front."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from support.certificates import authority, other_authority
from support.dns import DnsServer
from support.nginx import Nginx
from support.originating import (
    BILLING,
    EXPIRED,
    LOOK_OFTEN,
    NAMELESS,
    OLD,
    SITE,
    STRANGER,
    UNKNOWN,
    Configure,
    Web,
    client_authority,
    configurable,
    proxy_of,
    worth_a_warning,
)
from support.proxy import Proxy, free_port
from support.tls_servers import documented, write_ca, write_pair


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    folder = tmp_path_factory.mktemp("nginx")
    write_ca(folder)
    write_ca(folder, other_authority(), "stranger-ca.pem")
    write_ca(folder, client_authority(), "client-ca.pem")
    documented(folder)
    yesterday = datetime.now(UTC) - timedelta(days=1)
    leaves = {
        "site": authority().issue_cert(SITE, BILLING, "127.0.0.1"),
        "expired": authority().issue_cert(EXPIRED, not_before=yesterday - timedelta(days=9), not_after=yesterday),
        "stranger": other_authority().issue_cert(STRANGER),
    }
    for name, leaf in leaves.items():
        write_pair(folder, leaf, (f"{name}.crt", f"{name}.key"))
    (folder / "big").write_bytes(b"x" * 120_000)
    plain, tls, mutual, older, old = (free_port() for _ in range(5))

    def server(port: int, certificate: str, *settings: str, name: str = "_") -> str:
        return f"""server {{
            listen 127.0.0.1:{port} ssl; server_name {name};
            ssl_certificate {folder}/{certificate}.crt; ssl_certificate_key {folder}/{certificate}.key;
            ssl_session_cache shared:all:1m;
            {" ".join(f"{setting};" for setting in settings)}
            location / {{ return 200 "$request_method $http_host on $server_port"; }}
            location /slow {{ limit_rate 40k; alias {folder}/big; }}
        }}"""

    both = "ssl_protocols TLSv1.2 TLSv1.3"
    wanted = f"ssl_client_certificate {folder}/client-ca.pem", "ssl_verify_client on"
    servers = [
        f"server {{ listen 127.0.0.1:{plain}; location / {{ return 301 https://$host$request_uri; }} }}",
        server(tls, "site", both),
        server(tls, "expired", name=EXPIRED),
        server(tls, "stranger", name=STRANGER),
        server(mutual, "site", both, *wanted, "keepalive_requests 10"),
        server(older, "site", "ssl_protocols TLSv1.2"),
        server(old, "old-0", f"ssl_client_certificate {folder}/old.crt", "ssl_verify_client on"),
    ]
    with Nginx(folder, "\n".join(servers)) as nginx:
        yield Web(nginx, folder, plain, tls, mutual, older, old)


@pytest.fixture(scope="module", autouse=True)
def _names(dns: DnsServer) -> None:
    for name in (SITE, BILLING, EXPIRED, STRANGER, NAMELESS, OLD, UNKNOWN):
        dns.add(name, "A", "127.0.0.1")


@pytest.fixture(scope="module")
def config(dns: DnsServer) -> dict[str, Any]:
    """Loopback is open; services say the rest."""
    return {"guard": {"allow": ["127.0.0.0/8"]}, "dns": {"servers": [dns.address], "ipv6": False}}


@pytest.fixture(scope="module")
def changing(tmp_path_factory: pytest.TempPathFactory, config: dict[str, Any]) -> Iterator[Proxy]:
    """The proxy of `configured`."""
    with proxy_of(tmp_path_factory.mktemp("changing"), config) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def watching(tmp_path_factory: pytest.TempPathFactory, config: dict[str, Any], web: Web) -> Iterator[Proxy]:
    """The proxy of `watchful`. It starts with what it has to warn of."""
    started_with = {**config, "services": worth_a_warning(web)}
    with proxy_of(tmp_path_factory.mktemp("watching"), started_with, prelude=LOOK_OFTEN) as proxy:
        yield proxy


@pytest.fixture
def configured(changing: Proxy) -> Configure:
    """A proxy with these services, and other settings."""
    return configurable(changing)


@pytest.fixture
def watchful(watching: Proxy) -> Configure:
    """The same, and it looks at files often."""
    return configurable(watching)
