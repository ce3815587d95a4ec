"""Plain HTTP in, HTTPS out, end to end: a real NGINX behind the proxy, whose log says what came, and curl and openssl in front.

Also what else belongs to services: their endpoints and aliases, times, secrets that change, and header fields.
"""

from __future__ import annotations

import functools
import re
import ssl
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import trustme
from support.certificates import authority, other_authority
from support.clients import connect_head, run
from support.dns import DnsServer
from support.nginx import Nginx, deaf
from support.plain_http import STALL, Ends, Message, RawOrigin, request, response
from support.proxy import Proxy, free_port
from support.tls_servers import documented, write_ca, write_pair
from support.waiting import eventually

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
UNKNOWN = "unknown.example.test"
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


@functools.cache
def client_certificate(name: str) -> trustme.LeafCert:
    return client_authority().issue_cert(common_name=name)


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


@pytest.fixture(scope="module")
def changing(tmp_path_factory: pytest.TempPathFactory, config: dict[str, Any]) -> Iterator[Proxy]:
    """The proxy of `configured`."""
    proxy = Proxy(tmp_path_factory.mktemp("changing"))
    logs = [
        {"format": "squid", "path": str(proxy.squid_log)},
        {"format": "json", "path": str(proxy.json_log)},
        {"format": "istio", "path": str(proxy.folder / "istio.log")},
    ]
    proxy.write_config({**with_doors(config), "access_log": logs})
    with proxy:
        yield proxy


@pytest.fixture
def configured(changing: Proxy) -> Configure:
    """A proxy with these services, and other settings."""
    base = {key: changing.config[key] for key in ("guard", "dns", "listeners", "access_log", "admin")}

    def configure(*services: dict[str, Any], **settings: Any) -> Proxy:
        changing.settled()
        assert changing.reload({**base, "services": services, **settings}), changing.stderr
        return changing

    return configure


def service(host: str, port: int, tls: dict[str, Any] | None = None, **settings: Any) -> dict[str, Any]:
    """A service whose port 80 is reached on another one."""
    ports = [{"number": 80, "protocol": "HTTP", "target_port": port}]
    return {"hosts": [host], "ports": ports, **({} if tls is None else {"tls": tls}), **settings}


def ask(proxy: Proxy, url: str, *fields: str, method: str = "GET") -> Message:
    """One request through the proxy, on a connection of its own."""
    with Ends(proxy) as client:
        return client.ask(request(url, *fields, method=method), method)


def the_only_record(proxy: Proxy) -> dict[str, Any]:
    (record,) = proxy.settled().records
    return record


# --- HTTP becomes HTTPS -------------------------------------------------------------------------------------------


WAYS = ["http-proxy", "http"]


def curl(proxy: Proxy, web: Web, way: str, *words: str) -> str:
    """Standard output of curl that knows a proxy, or of one whose connections are taken to the listeners."""
    if way == "http-proxy":
        way_in = ["-x", proxy.url, "--suppress-connect-headers"]
    else:
        ports = doors(proxy)
        way_in = ["--connect-to", f":80:127.0.0.1:{ports.web}", "--connect-to", f":443:127.0.0.1:{ports.sni}"]
    return run("curl", "-sS", *way_in, "--cacert", web.ca, *words, folder=web.folder).out


def statuses(output: str) -> list[int]:
    """Of the heads that curl shows."""
    return [int(status) for status in re.findall(r"^HTTP/1\.1 (\d{3}) ", output, re.MULTILINE)]


def site_ports(web: Web, port_80: int) -> list[dict[str, Any]]:
    return [
        {"number": 80, "protocol": "HTTP", "target_port": port_80},
        {"number": 443, "protocol": "TLS", "target_port": web.tls},
    ]


@pytest.mark.parametrize("way", WAYS)
def test_a_redirect_to_https_is_followed_by_the_client_without_origination(
    configured: Configure, web: Web, way: str
) -> None:
    proxy = configured({"hosts": [SITE], "ports": site_ports(web, web.plain)})
    out = curl(proxy, web, way, "-L", "-D", "-", f"http://{SITE}/without-{way}")
    assert statuses(out) == [301, 200]
    assert f"Location: https://{SITE}/without-{way}" in out
    first, second = proxy.settled().records
    assert (first["status"], first["method"], first["port"], first["tls"]) == (301, "GET", 80, None)
    protocol = "sni" if way == "http" else way
    assert (second["method"], second["port"], second["protocol"]) == ("CONNECT", 443, protocol)


@pytest.mark.parametrize("way", WAYS)
def test_with_origination_it_is_a_single_200(configured: Configure, web: Web, way: str) -> None:
    tls = {"mode": "simple", "ca": web.ca}
    proxy = configured({"hosts": [SITE], "ports": site_ports(web, web.tls), "tls": tls})
    out = curl(proxy, web, way, "-L", "-D", "-", f"http://{SITE}/with-{way}")
    assert statuses(out) == [200]
    assert out.endswith(f"GET {SITE} on {web.tls}")
    (seen,) = web.nginx.seen(f"/with-{way}")
    assert (seen.name, seen.host, seen.version, seen.subject) == (SITE, SITE, "TLSv1.3", "")
    record = the_only_record(proxy)
    assert (record["status"], record["outcome"], record["host"], record["port"]) == (200, "answered", SITE, 80)
    assert (record["upstream"], record["tls"]) == (f"127.0.0.1:{web.tls}", "TLSv1.3")


@pytest.mark.parametrize("port", [443, 80])
@pytest.mark.parametrize("way", ["http-proxy", "sni"])
def test_who_speaks_https_gets_the_sites_own_certificate_and_is_not_encrypted_twice(
    configured: Configure, web: Web, way: str, port: int
) -> None:
    proxy = configured(
        {"hosts": [SITE], "ports": site_ports(web, web.tls), "tls": {"mode": "simple", "ca": web.ca}},
        sni_check="enforce",
    )
    path = f"/own-{way}-{port}"
    door = doors(proxy).sni if port == 443 else doors(proxy).sni_80
    if way == "http-proxy":
        curl_in, openssl_in = ["-x", proxy.url], ["-proxy", f"127.0.0.1:{proxy.port}", "-connect", f"{SITE}:{port}"]
    else:
        curl_in, openssl_in = ["--connect-to", f"::127.0.0.1:{door}"], ["-connect", f"127.0.0.1:{door}"]
    url = f"https://{SITE}:{port}{path}"
    out = run("curl", "-sS", *curl_in, "--tls-max", "1.2", "--cacert", web.ca, url, folder=web.folder).out
    assert out.endswith(f" on {web.tls}")
    (seen,) = web.nginx.seen(path)
    assert (seen.name, seen.version) == (SITE, "TLSv1.2"), "as the client wanted it, and not the proxy"
    command = ["openssl", "s_client", *openssl_in, "-servername", SITE, "-CAfile", web.ca, "-verify_return_error"]
    shown = run(*command, "-verify_hostname", SITE, folder=web.folder).out
    assert "Verify return code: 0 (ok)" in shown
    certificate = ssl.PEM_cert_to_DER_cert((web.folder / "site.crt").read_text().partition("-----END")[0] + _END)
    assert ssl.PEM_cert_to_DER_cert(shown[shown.index(_BEGIN) : shown.index(_END) + len(_END)]) == certificate
    assert [(each["method"], each["upstream"]) for each in proxy.settled().records] == [
        ("CONNECT", f"127.0.0.1:{web.tls}")
    ] * 2


_BEGIN, _END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"


# --- time ---------------------------------------------------------------------------------------------------------


def slow_origin() -> RawOrigin:
    """Speaks TLS as the site does, and answers `/delay/...` only when the test says so; it begins with `/half/...`."""

    def script(asked: Message) -> list[Any]:
        whole = response(b"at last")
        if asked.target.startswith("/half/"):
            return [whole[:-3], STALL, whole[-3:]]
        return [STALL, whole] if asked.target.startswith("/delay/") else [whole]

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority().issue_cert(SITE).configure_cert(context)
    return RawOrigin(script, tls=context)


def test_a_slow_answer_is_504_in_3_seconds_with_one_line(configured: Configure, web: Web) -> None:
    with slow_origin() as origin:
        proxy = configured(service(SITE, origin.port, {"mode": "simple", "ca": web.ca}, timeout_s=3))
        istio_log = proxy.folder / "istio.log"
        before = istio_log.read_text()
        out = curl(proxy, web, "http", "-w", "\n%{http_code} %{time_total}", f"http://{SITE}/delay/5")
        body, told = out.split("\n")
        status, took = told.split()
        assert (body, status) == ("upstream request timeout", "504")
        assert 3.0 <= float(took) <= 3.2
        record = the_only_record(proxy)
        assert (record["status"], record["outcome"]) == (504, "upstream_timeout")
        eventually(lambda: istio_log.read_text() != before, "Istio's line is written")
        (line,) = istio_log.read_text()[len(before) :].splitlines()
        assert re.search(r'"GET /delay/5 HTTP/1\.1" 504 UT ', line), line


def test_without_a_time_limit_the_slow_answer_passes(configured: Configure, web: Web) -> None:
    with slow_origin() as origin:
        proxy = configured(service(SITE, origin.port, {"mode": "simple", "ca": web.ca}))
        with Ends(proxy) as client:
            client.send(request(f"http://{SITE}/delay/1"))
            eventually(lambda: origin.connections and origin.connections[0].received, "the request is there")
            origin.go_on()
            assert client.response().body == b"at last"


def test_the_time_of_a_service_is_over_before_a_body_is_whole(configured: Configure, web: Web) -> None:
    with slow_origin() as origin:
        proxy = configured(service(SITE, origin.port, {"mode": "simple", "ca": web.ca}, timeout_s=SHORT_S))
        reply = ask(proxy, f"http://{SITE}/half/1")
        assert (reply.status, reply.complete, reply.body) == (200, False, b"at l")
        assert the_only_record(proxy)["outcome"] == "upstream_timeout"


def test_the_time_of_a_service_begins_behind_the_request(configured: Configure, web: Web) -> None:
    """A client may take longer than that to send its body."""
    with slow_origin() as origin:
        proxy = configured(service(SITE, origin.port, {"mode": "simple", "ca": web.ca}, timeout_s=SHORT_S))
        with Ends(proxy) as client:
            client.send(request(f"http://{SITE}/", "Content-Length: 2", method="POST") + b"a")
            started = time.monotonic()
            eventually(lambda: time.monotonic() - started > 2 * SHORT_S, "more than the time has passed")
            client.send(b"b")
            assert client.response().status == 200


def test_an_idle_service_is_504_and_others_have_the_usual_time(configured: Configure, web: Web) -> None:
    tls = {"mode": "simple", "ca": web.ca}
    with slow_origin() as origin:
        proxy = configured(service(SITE, origin.port, tls, idle_timeout_s=SHORT_S))
        reply = ask(proxy, f"http://{SITE}/delay/1")
        assert (reply.status, reply.slug) == (504, "upstream_idle_timeout")
        record = the_only_record(proxy)
        assert record["outcome"] == "upstream_idle_timeout"
        assert record["duration_ms"] < 1000 * (SHORT_S + 1)


@pytest.mark.parametrize(
    "times",
    [{"connect_timeout_s": SHORT_S}, {"timeout_s": SHORT_S}, {"connect_timeout_s": SHORT_S, "timeout_s": 9}],
)
def test_a_service_that_takes_no_connection_is_504_in_its_time(configured: Configure, times: dict[str, float]) -> None:
    with deaf() as port:
        proxy = configured(service(SITE, port, **times))
        reply = ask(proxy, f"http://{SITE}/")
        assert (reply.status, reply.slug) == (504, "connect_timeout")
        assert 1000 * SHORT_S <= the_only_record(proxy)["duration_ms"] < 1000 * (SHORT_S + 1)


def test_a_long_time_for_the_answer_is_none_for_the_connection(configured: Configure) -> None:
    with deaf() as port:
        proxy = configured(service(SITE, port, timeout_s=9), timeouts={"connect_s": SHORT_S})
        reply = ask(proxy, f"http://{SITE}/")
        assert (reply.status, reply.slug) == (504, "connect_timeout")
        assert the_only_record(proxy)["duration_ms"] < 1000 * (SHORT_S + 1)


def test_a_tunnel_to_a_service_has_its_time_to_connect_too(configured: Configure) -> None:
    with deaf() as port:
        proxy = configured(service(SITE, port, connect_timeout_s=SHORT_S))
        with Ends(proxy) as client:
            assert client.ask(connect_head(f"{SITE}:80")).slug == "connect_timeout"
        assert the_only_record(proxy)["duration_ms"] < 1000 * (SHORT_S + 1)


def test_a_service_that_does_not_answer_the_handshake_is_504_in_its_time(configured: Configure) -> None:
    with RawOrigin() as origin:
        proxy = configured(service(SITE, origin.port, {"mode": "simple", "verify": False}, connect_timeout_s=SHORT_S))
        reply = ask(proxy, f"http://{SITE}/")
        assert (reply.status, reply.slug) == (504, "tls_timeout")
        the_only_record(proxy)
