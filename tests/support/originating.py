"""What the tests of TLS origination share, those in tests/e2e/origination: names, services, NGINX and the proxy before it."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import trustme
from support.clients import run
from support.nginx import Nginx
from support.plain_http import Ends, Message, request
from support.proxy import Proxy, free_port
from support.tls_servers import write_pair

Start = Callable[..., Proxy]
Configure = Callable[..., Proxy]

SITE = "edition.example.test"
BILLING = "billing.example.test"
EXPIRED = "expired.example.test"
STRANGER = "stranger.example.test"
"""Whose certificate is of an authority that nobody trusts."""
NAMELESS = "nameless.example.test"
"""Is at NGINX, whose certificate is not for it."""
OLD = "origin.example.test"
"""Whose certificate is made as the documents of old make it."""
UNKNOWN = "unregistered.example.test"
"""Which no service registers."""
SHORT_S = 0.3
"""A time that passes within a test."""

LOOK_OFTEN = """
import time
from egressproxy.runtime.refresh import Refresher
Refresher.__init__.__defaults__ = (time.time, 0.02)
"""
"""For tests of what changes: files are looked at every 20 ms, in place of every second."""


@functools.cache
def client_authority() -> trustme.CA:
    """Who signs the certificates that the proxy shows."""
    return trustme.CA(organization_name="of clients")


SOON = (datetime.now(UTC) + timedelta(days=3, hours=1)).replace(microsecond=0)


@functools.cache
def client_certificate(name: str) -> trustme.LeafCert:
    """For a while, or, called `soon`, until then."""
    return client_authority().issue_cert(common_name=name, not_after=SOON if name == "soon" else None)


def common_name(subject: str) -> str:
    """Of a subject as NGINX writes it; empty where no certificate was shown."""
    found = re.search(r"CN=([^,]*)", subject)
    return found[1] if found else ""


class Web(NamedTuple):
    """NGINX and its ports.

    plain   redirects to https://
    tls     answers over TLS, whoever asks
    mutual  wants a client certificate (`ssl_verify_client on`), and ends each connection after 10 requests
    older   speaks TLS 1.2 alone
    old     has the certificates that the documents of old make, and wants such a one
    """

    nginx: Nginx
    folder: Path
    plain: int
    tls: int
    mutual: int
    older: int
    old: int

    @property
    def ca(self) -> str:
        """File of the authority of its certificates."""
        return str(self.folder / "ca.pem")

    @property
    def stranger_ca(self) -> str:
        return str(self.folder / "stranger-ca.pem")

    def pair(self, name: str) -> dict[str, str]:
        """Settings with a client certificate that it takes."""
        pair = write_pair(self.folder, client_certificate(name), (f"{name}.pem", f"{name}.key"))
        return {"certificate": str(pair.certificate), "key": str(pair.key)}


class Doors(NamedTuple):
    """The ports of listeners beside http-proxy."""

    web: int
    sni: int
    sni_80: int


def with_doors(config: dict[str, Any]) -> dict[str, Any]:
    listeners = [
        {"protocol": "http-proxy"},
        {"protocol": "http", "name": "web", "port": free_port(), "service_port": 80},
        {"protocol": "sni", "name": "sni", "port": free_port(), "service_port": 443},
        {"protocol": "sni", "name": "sni-80", "port": free_port(), "service_port": 80},
    ]
    return {**config, "listeners": listeners}


def doors(proxy: Proxy) -> Doors:
    return Doors(*(each["port"] for each in proxy.config["listeners"][1:4]))


def proxy_of(folder: Path, config: dict[str, Any], **options: Any) -> Proxy:
    """With all its listeners and three logs, not started."""
    proxy = Proxy(folder, **options)
    logs = [
        {"format": "squid", "path": str(proxy.squid_log)},
        {"format": "json", "path": str(proxy.json_log)},
        {"format": "istio", "path": str(folder / "istio.log")},
    ]
    proxy.write_config({**with_doors(config), "access_log": logs})
    return proxy


def said_at_its_start(proxy: Proxy) -> str:
    return proxy.stderr.partition(" reloaded: ")[0]


def configurable(proxy: Proxy) -> Configure:
    base = {key: proxy.config[key] for key in ("guard", "dns", "listeners", "access_log", "admin")}

    def configure(*services: dict[str, Any], **settings: Any) -> Proxy:
        proxy.settled()
        wanted = {**base, "services": [*services], **settings}
        if wanted != proxy.config:  # or it was asked for by the test before
            assert proxy.reload(wanted), proxy.stderr
        return proxy

    return configure


def service(host: str, port: int, tls: dict[str, Any] | None = None, **settings: Any) -> dict[str, Any]:
    """A service whose port 80 is reached on another one."""
    ports = [{"number": 80, "protocol": "HTTP", "target_port": port}]
    return {"hosts": [host], "ports": ports, **({} if tls is None else {"tls": tls}), **settings}


def simple(web: Web, host: str = SITE, port: int | None = None, **tls: Any) -> dict[str, Any]:
    """A service over TLS, checked against the authority of NGINX's certificates unless the settings say else."""
    return service(host, web.tls if port is None else port, {"mode": "simple", "ca": web.ca, **tls})


def mutual(web: Web, name: str, host: str = SITE, **tls: Any) -> dict[str, Any]:
    """A service that the proxy shows a certificate with this common name."""
    return service(host, web.mutual, {"mode": "mutual", "ca": web.ca, **web.pair(name), **tls})


def worth_a_warning(web: Web) -> list[dict[str, Any]]:
    """Nobody knows who the one is, and the certificate for the other is over soon."""
    return [service(STRANGER, web.tls, {"mode": "simple", "verify": False}), mutual(web, "soon", BILLING)]


def ask(proxy: Proxy, url: str, *fields: str, method: str = "GET") -> Message:
    """One request through the proxy, on a connection of its own."""
    with Ends(proxy) as client:
        return client.ask(request(url, *fields, method=method), method)


def the_only_record(proxy: Proxy) -> dict[str, Any]:
    (record,) = proxy.settled().records
    return record


def curl(proxy: Proxy, web: Web, way: str, *words: str) -> str:
    """Standard output of curl that knows a proxy, or of one whose connections are taken to the listeners."""
    if way == "http-proxy":
        way_in = ["-x", proxy.url, "--suppress-connect-headers"]
    else:
        ports = doors(proxy)
        way_in = ["--connect-to", f":80:127.0.0.1:{ports.web}", "--connect-to", f":443:127.0.0.1:{ports.sni}"]
    return run("curl", "-sS", *way_in, "--cacert", web.ca, *words, folder=web.folder).out
