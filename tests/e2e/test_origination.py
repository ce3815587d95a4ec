"""Plain HTTP in, HTTPS out, end to end: a real NGINX behind the proxy, whose log says what came, and curl and openssl in front.

Also what else belongs to services: their endpoints and aliases, times, secrets that change, and header fields.
"""

from __future__ import annotations

import functools
import random
import re
import socket
import ssl
import sys
import threading
import time
from collections import Counter
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
from support.plain_http import CLOSE, STALL, Ends, Message, RawOrigin, request, response
from support.proxy import ROOT, Proxy, free_port
from support.tls_servers import Mounted, TlsServer, documented, secret_of, server_context, write_ca, write_pair
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


@pytest.fixture
def configured(changing: Proxy) -> Configure:
    """A proxy with these services, and other settings."""
    return configurable(changing)


@pytest.fixture
def watchful(watching: Proxy) -> Configure:
    """The same, and it looks at files often."""
    return configurable(watching)


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
    ("times", "slug"),
    [
        ({"connect_timeout_s": SHORT_S}, "connect_timeout"),
        ({"timeout_s": SHORT_S}, "upstream_timeout"),  # from the end of the request on, over all attempts
        ({"connect_timeout_s": SHORT_S, "timeout_s": 9}, "connect_timeout"),
    ],
)
def test_a_service_that_takes_no_connection_is_504_in_its_time(
    configured: Configure, times: dict[str, float], slug: str
) -> None:
    with deaf() as port:
        proxy = configured(service(SITE, port, **times))
        reply = ask(proxy, f"http://{SITE}/")
        assert (reply.status, reply.slug) == (504, slug)
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


# --- bodies -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("framing", [[], ["-H", "Transfer-Encoding: chunked"]])
def test_long_bodies_go_both_ways_through_tls(
    configured: Configure, web: Web, tmp_path: Path, framing: list[str]
) -> None:
    body = random.randbytes(3_000_000)
    (tmp_path / "body").write_bytes(body)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority().issue_cert(SITE).configure_cert(context)
    with RawOrigin(lambda asked: [response(asked.body)], tls=context) as origin:
        proxy = configured(simple(web, port=origin.port), timeouts={"idle_s": 10})
        command = ["--data-binary", f"@{tmp_path}/body", "-H", "Expect:", "-o", f"{tmp_path}/back", *framing]
        curl(proxy, web, "http", *command, f"http://{SITE}/")
    assert (tmp_path / "back").read_bytes() == body
    record = the_only_record(proxy)
    assert (record["bytes_up"], record["bytes_down"]) == (len(body), len(body))


@pytest.mark.parametrize("says_so", [True, False])
def test_a_body_that_ends_with_the_connection_is_whole_only_if_tls_says_so(
    configured: Configure, web: Web, says_so: bool
) -> None:
    """Without close_notify anybody on the path can have cut it (RFC 8446 section 6.1)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority().issue_cert(SITE).configure_cert(context)
    with RawOrigin(tls=context) as origin:
        proxy = configured(simple(web, port=origin.port), timeouts={"idle_s": 10})
        with Ends(proxy) as client:
            client.send(request(f"http://{SITE}/"))
            upstream = origin.take()
            upstream.request()
            upstream.send(b"HTTP/1.1 200 OK\r\n\r\nall of it")
            assert isinstance(upstream.sock, ssl.SSLSocket)
            if says_so:
                upstream.sock.setblocking(False)
                try:
                    upstream.sock.unwrap()
                except ssl.SSLWantReadError:
                    pass  # the proxy has not said so in turn
            socket.socket.shutdown(upstream.sock, socket.SHUT_WR)
            reply = client.response()
    assert (reply.status, reply.body, reply.complete) == (200, b"all of it", says_so)
    assert the_only_record(proxy)["outcome"] == ("answered" if says_so else "upstream_closed")


# --- whom the proxy trusts, and as whom it comes ------------------------------------------------------------------


def numbered(cases: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The services on ports of their own, so that one configuration has them all."""
    for number, each in enumerate(cases.values(), 8001):
        each["ports"][0]["number"] = number
    return cases


def url_of(settings: dict[str, Any], path: str) -> str:
    return f"http://{settings['hosts'][0]}:{settings['ports'][0]['number']}{path}"


def refused(web: Web) -> dict[str, dict[str, Any]]:
    cases = {
        "system": service(SITE, web.tls, {"mode": "simple"}),
        "stranger": simple(web, STRANGER),
        "stranger, chain": simple(web, STRANGER, verify="chain"),
        "nameless": simple(web, NAMELESS),
        "sni": simple(web, sni=NAMELESS),
        "names": simple(web, subject_alt_names=["spiffe://x", NAMELESS]),
        "names, chain": simple(web, subject_alt_names=[NAMELESS], verify="chain"),
        "expired": simple(web, EXPIRED),
        "expired, chain": simple(web, EXPIRED, verify="chain"),
        "version": simple(web, port=web.older, minimum_version="1.3"),
        "plain": simple(web, port=web.plain),
    }
    return numbered(cases)


@pytest.mark.parametrize(
    ("case", "slug", "said"),
    [
        ("system", "tls_unknown_ca", "who is not among the trusted authorities (those of the system"),
        ("stranger", "tls_unknown_ca", "another one"),
        ("stranger, chain", "tls_unknown_ca", STRANGER),
        ("nameless", "tls_wrong_host", f"asked for {NAMELESS}: the certificate is for {SITE}, {BILLING}"),
        ("sni", "tls_wrong_host", f"asked for {NAMELESS}"),
        ("names", "tls_wrong_host", f"{SITE} has none of its subject_alt_names (spiffe://x, {NAMELESS})"),
        ("names, chain", "tls_wrong_host", f"none of its subject_alt_names ({NAMELESS})"),
        ("expired", "tls_certificate_expired", f"{EXPIRED}: the certificate expired on "),
        ("expired, chain", "tls_certificate_expired", "the certificate expired on "),
        ("version", "tls_version", "speaks no version of TLS from 1.3 on"),
        ("plain", "tls_failed", "it did not answer in TLS; is this its port for TLS?"),
    ],
)
def test_a_server_that_is_not_trusted_gets_no_request(
    configured: Configure, web: Web, case: str, slug: str, said: str
) -> None:
    services = refused(web)
    proxy = configured(*services.values())
    before = proxy.metric("upstream_handshakes_total", outcome=slug)
    path = f"/refused-{slug}"
    with Ends(proxy) as client:
        for _ in range(2):
            reply = client.ask(request(url_of(services[case], path)))
            assert (reply.status, reply.slug, reply.get("connection")) == (503, slug, "keep-alive")
    records = proxy.settled().records
    assert [(each["status"], each["outcome"]) for each in records] == [(503, slug)] * 2
    assert all(said in each["detail"] for each in records), records[0]
    assert proxy.metric("upstream_handshakes_total", outcome=slug) == before + 2
    assert not [line for line in web.nginx.lines() if line.path == path]


def accepted(web: Web) -> dict[str, dict[str, Any]]:
    cases = {
        "stranger": simple(web, STRANGER, ca=web.stranger_ca),
        "sni": simple(web, NAMELESS, sni=SITE),
        "names": simple(web, NAMELESS, subject_alt_names=[NAMELESS, BILLING.upper()]),
        "names, sni": simple(web, NAMELESS, subject_alt_names=[BILLING], sni="other.example.test"),
        "chain": simple(web, NAMELESS, verify="chain"),
        "unverified": service(EXPIRED, web.tls, {"mode": "simple", "verify": False}),
        "older": simple(web, port=web.older),
        "address": simple(web, "127.0.0.1"),
        "no alpn": simple(web, alpn=[]),
    }
    return numbered(cases)


@pytest.mark.parametrize(
    ("case", "name"),
    [
        ("stranger", STRANGER),
        ("sni", SITE),
        ("names", NAMELESS),
        ("names, sni", "other.example.test"),
        ("chain", NAMELESS),
        ("unverified", EXPIRED),
        ("older", SITE),
        ("address", ""),
        ("no alpn", SITE),
    ],
)
def test_a_server_that_is_trusted_gets_the_request(configured: Configure, web: Web, case: str, name: str) -> None:
    services = accepted(web)
    proxy = configured(*services.values())
    path = f"/accepted-{case.replace(', ', '-').replace(' ', '-')}"
    assert ask(proxy, url_of(services[case], path)).status == 200
    (seen,) = web.nginx.seen(path)
    assert (seen.name, seen.subject) == (name, "")
    assert url_of(services[case], "") == f"http://{seen.host}", "Host goes on as the client wrote it"
    assert the_only_record(proxy)["tls"] == ("TLSv1.2" if case == "older" else "TLSv1.3")


def test_who_is_not_verified_is_said_at_the_start_and_counted(watching: Proxy, watchful: Configure, web: Web) -> None:
    said = said_at_its_start(watching)
    assert re.search(rf"WARNING .*verify: false: {STRANGER} may be anybody, its certificate is not checked", said)
    assert BILLING not in said
    proxy = watchful(*worth_a_warning(web))
    assert proxy.metric("upstream_unverified", service=STRANGER) == proxy.metric("upstream_unverified") == 1
    assert ask(proxy, f"http://{STRANGER}/").status == 200


def test_a_client_certificate_is_shown_and_its_subject_is_in_the_servers_log(configured: Configure, web: Web) -> None:
    proxy = configured(mutual(web, "teller"))
    reply = ask(proxy, f"http://{SITE}/mutual")
    assert (reply.status, reply.body) == (200, f"GET {SITE} on {web.mutual}".encode())
    (seen,) = web.nginx.seen("/mutual")
    assert common_name(seen.subject) == "teller"


@pytest.mark.parametrize("shows", ["none", "of-another-authority"])
def test_nginx_answers_400_where_it_wants_another_certificate_and_that_is_relayed(
    configured: Configure, web: Web, tmp_path: Path, shows: str
) -> None:
    if shows == "none":
        settings = simple(web, port=web.mutual)
    else:
        pair = write_pair(tmp_path, other_authority().issue_cert(common_name="somebody"))
        settings = mutual(web, "teller", certificate=str(pair.certificate), key=str(pair.key))
    proxy = configured(settings)
    reply = ask(proxy, f"http://{SITE}/unwelcome")
    assert (reply.status, (reply.get("server") or "")[:6], reply.get("proxy-status")) == (400, "nginx/", None)
    what = b"No required SSL certificate was sent" if shows == "none" else b"The SSL certificate error"
    assert what in reply.body
    record = the_only_record(proxy)
    assert (record["status"], record["outcome"], record["tls"]) == (400, "answered", "TLSv1.3")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_server_that_ends_the_handshake_for_want_of_a_client_certificate(
    configured: Configure, web: Web, version: ssl.TLSVersion
) -> None:
    """In TLS 1.3 it says so only when the proxy has sent its request already."""
    context = server_context(version=version, client_ca=web.folder / "client-ca.pem")
    with TlsServer(context) as server:
        proxy = configured(simple(web, OLD, port=server.endpoint.port))
        for method in ("GET", "POST"):
            reply = ask(proxy, f"http://{OLD}/", method=method)
            assert (reply.status, reply.slug) == (503, "tls_client_certificate_required")
        assert [each["outcome"] for each in proxy.settled().records] == ["tls_client_certificate_required"] * 2
        settings = mutual(web, "teller", OLD)
        settings["ports"][0]["target_port"] = server.endpoint.port
        assert ask(configured(settings, limits={"max_pooled": 0}), f"http://{OLD}/").body == b"ok"
        (seen,) = server.seen
        assert (seen.subject, seen.server_name) == ("teller", OLD)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_client_certificate_that_a_server_does_not_take_is_told_as_that(
    configured: Configure, web: Web, tmp_path: Path, version: ssl.TLSVersion
) -> None:
    pair = write_pair(tmp_path, other_authority().issue_cert(common_name="somebody"))
    with TlsServer(server_context(version=version, client_ca=web.folder / "client-ca.pem")) as server:
        settings = mutual(web, "teller", OLD, certificate=str(pair.certificate), key=str(pair.key))
        settings["ports"][0]["target_port"] = server.endpoint.port
        proxy = configured(settings)
        reply = ask(proxy, f"http://{OLD}/")
        assert (reply.status, reply.slug) == (503, "tls_client_certificate_required")
        assert "does not know the authority of the client certificate" in the_only_record(proxy)["detail"]


def test_certificates_as_the_old_documents_make_them_work_where_only_the_chain_is_checked(
    configured: Configure, web: Web
) -> None:
    files = {"ca": "old.crt", "certificate": "old-1.crt", "key": "old-1.key"}
    tls = {"mode": "mutual", **{key: str(web.folder / name) for key, name in files.items()}}
    proxy = configured(service(OLD, web.old, tls))
    reply = ask(proxy, f"http://{OLD}/old")
    assert (reply.status, reply.slug) == (503, "tls_wrong_host")
    detail = the_only_record(proxy)["detail"]
    assert "no name at all (it has no subject alternative name" in detail
    assert "or set verify: chain" in detail
    proxy = configured(service(OLD, web.old, {**tls, "verify": "chain"}))
    assert ask(proxy, f"http://{OLD}/old").status == 200
    (seen,) = web.nginx.seen("/old")
    assert common_name(seen.subject) == "caller.example.test"
    assert "O=a client" in seen.subject


def test_two_services_at_one_address_never_share_a_connection(configured: Configure, web: Web) -> None:
    """Nor do two ports of one host, which have the same name and address."""
    third = mutual(web, "third", SITE)
    third["ports"] = [{"number": 8080, "protocol": "HTTP", "target_port": web.mutual}]
    proxy = configured(mutual(web, "first", SITE), mutual(web, "second", BILLING), third)
    urls = {"first": f"http://{SITE}", "second": f"http://{BILLING}", "third": f"http://{SITE}:8080"}
    with Ends(proxy) as one, Ends(proxy) as other:
        for number in range(3):
            for name, url in urls.items():
                client = (one, other)[number % 2]
                assert client.ask(request(f"{url}/shared-{name}")).status == 200
    for name in urls:
        lines = web.nginx.seen(f"/shared-{name}", 3)
        assert {common_name(line.subject) for line in lines} == {name}
        assert len({line.connection for line in lines}) == 1, "and each service's own is kept"
    assert {each["service"] for each in proxy.settled().records} == {SITE, BILLING}


@pytest.mark.parametrize("port", ["tls", "older", "mutual"])
def test_sessions_are_resumed(configured: Configure, web: Web, port: str) -> None:
    settings = mutual(web, "teller") if port == "mutual" else simple(web, port=getattr(web, port))
    proxy = configured(settings, limits={"max_pooled": 0})
    for _ in range(3):
        assert ask(proxy, f"http://{SITE}/resumed-{port}").status == 200
    lines = web.nginx.seen(f"/resumed-{port}", 3)
    assert [line.reused for line in lines] == [".", "r", "r"]
    assert len({line.connection for line in lines}) == 3
    if port == "mutual":
        assert {common_name(line.subject) for line in lines} == {"teller"}


# --- services -----------------------------------------------------------------------------------------------------


def static(*endpoints: dict[str, Any], **settings: Any) -> dict[str, Any]:
    ports = [{"number": 80, "protocol": "HTTP"}]
    whole = [{"address": "127.0.0.1", **each} for each in endpoints]
    return {"hosts": [SITE], "ports": ports, "resolution": "static", "endpoints": whole, **settings}


def test_endpoints_are_asked_in_turn_by_weight(configured: Configure, web: Web) -> None:
    tls = {"mode": "simple", "ca": web.ca}
    proxy = configured(static({"port": web.tls, "weight": 3}, {"port": web.older}, tls=tls))
    with Ends(proxy) as client:
        answers = [client.ask(request(f"http://{SITE}/")).body.decode() for _ in range(12)]
    ports = [int(answer.rpartition(" ")[2]) for answer in answers]
    assert Counter(ports) == {web.tls: 9, web.older: 3}
    for first in range(0, 12, 4):
        assert ports[first : first + 4].count(web.older) == 1
    asked = [each["upstream"] for each in proxy.settled().records]
    assert asked == [f"127.0.0.1:{port}" for port in ports]


def test_an_endpoint_that_cannot_be_asked_is_passed_over(configured: Configure, web: Web) -> None:
    """One refuses the connection, another speaks no TLS."""
    tls = {"mode": "simple", "ca": web.ca}
    proxy = configured(static({"port": free_port()}, {"port": web.plain}, {"port": web.tls}, tls=tls))
    answers = [ask(proxy, f"http://{SITE}/") for _ in range(6)]
    assert {answer.body for answer in answers} == {f"GET {SITE} on {web.tls}".encode()}
    proxy = configured(static({"port": free_port()}, {"port": web.plain}, tls=tls))
    assert [ask(proxy, f"http://{SITE}/").status for _ in range(2)] == [503, 503]


def test_while_one_endpoint_is_down_the_kept_connections_to_the_others_serve_on(configured: Configure) -> None:
    """It is tried once, and then it comes last."""
    with RawOrigin(lambda _: [response(b"here")]) as up, RawOrigin(lambda _: [response(b"there")]) as other:
        proxy = configured(static({"port": free_port()}, {"port": up.port}, {"port": other.port}))
        with Ends(proxy) as client:
            answers = Counter(client.ask(request(f"http://{SITE}/")).body for _ in range(12))
        assert answers == {b"here": 8, b"there": 4}  # whose turn it was hands it to the next
        assert (len(up.connections), len(other.connections)) == (1, 1)


@pytest.mark.parametrize("tls", [None, server_context()], ids=["silent", "of another host"])
def test_while_tls_with_one_endpoint_fails_the_kept_connections_to_the_others_serve_on(
    configured: Configure, web: Web, tls: ssl.SSLContext | None
) -> None:
    with RawOrigin(None if tls is None else lambda _: [response()], tls=tls) as wrong:
        settings = {"tls": {"mode": "simple", "ca": web.ca}, "connect_timeout_s": SHORT_S}
        proxy = configured(static({"port": wrong.port}, {"port": web.tls}, **settings))
        with Ends(proxy) as client:
            assert [client.ask(request(f"http://{SITE}/")).status for _ in range(6)] == [200] * 6
        assert wrong.contacts() == 1
        assert [record["reused"] for record in proxy.settled().records] == [False, True, True, True, True, True]


def test_endpoints_may_be_names_and_have_the_target_port(configured: Configure, web: Web) -> None:
    settings = service(SITE, web.tls, {"mode": "simple", "ca": web.ca}, endpoints=[{"address": BILLING}])
    proxy = configured(settings)
    assert ask(proxy, f"http://{SITE}/by-name").status == 200
    (seen,) = web.nginx.seen("/by-name")
    assert (seen.name, seen.host) == (SITE, SITE)


def test_an_alias_is_never_looked_up_and_host_goes_on_as_it_was_written(
    configured: Configure, web: Web, dns: DnsServer
) -> None:
    alias = "edition.shops.svc.cluster.local"
    proxy = configured(service(SITE, web.tls, {"mode": "simple", "ca": web.ca}, aliases=[alias]))
    with Ends(proxy, doors(proxy).web) as client:
        assert client.ask(request("/alias", host=alias.upper())).status == 200
        assert client.ask(request("/no-alias", host=SITE)).status == 200
    (seen,) = web.nginx.seen("/alias")
    assert (seen.name, seen.host) == (SITE, alias.upper())
    assert alias not in dns.asked_names()
    first, second = proxy.settled().records
    assert (first["host"], first["service"], second["reused"]) == (alias, SITE, True)


def test_what_is_not_registered_is_502_without_a_word_or_403_of_a_proxy(configured: Configure, web: Web) -> None:
    proxy = configured(simple(web))
    with Ends(proxy, doors(proxy).web) as client:
        for _ in range(2):
            reply = client.ask(request("/", host=UNKNOWN))
            assert (reply.status, reply.body) == (502, b"")
        assert client.ask(request("/", host=SITE)).status == 200
    reply = ask(proxy, f"http://{UNKNOWN}/")
    assert (reply.status, reply.slug) == (403, "rule_denied")
    reply = ask(proxy, f"http://{SITE}:81/")
    assert (reply.status, reply.slug) == (403, "rule_denied")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/rates", 200),
        ("HEAD", "/v1/rates?x=/admin", 200),
        ("POST", "/v1/rates", 403),
        ("GET", "/v1", 403),
        ("GET", "/v2/rates", 403),
        ("GET", "/v1/../admin", 403),
        ("GET", "/v1/%2e%2e/admin", 403),
        ("GET", "/v1/%2E%2E%2Fadmin", 403),
        ("GET", "/v1/..%2fadmin", 403),
        ("GET", "/v1/..;/admin", 403),
        ("GET", "/v1/..%5cadmin", 403),
        ("GET", "/v1/%252e%252e/admin", 403),
        ("GET", "/V1/rates", 403),
        ("GET", "/v1/internal/keys", 403),
        ("GET", "/v1/%69nternal/keys", 403),
        ("GET", "/v1//internal/keys", 403),
        ("GET", "/v1/x/..%2finternal/keys", 403),
        ("GET", "/v1/internal%2fkeys", 403),
    ],
)
def test_rules_with_methods_and_paths_are_not_widened_by_how_a_path_is_written(
    configured: Configure, web: Web, method: str, path: str, status: int
) -> None:
    rules = [
        {"name": "keys", "action": "deny", "hosts": [SITE], "paths": ["/v1/internal/*"]},
        {"name": "rates", "action": "allow", "hosts": [SITE], "methods": ["GET", "HEAD"], "paths": ["/v1/*"]},
        {"name": "rest", "action": "deny"},
    ]
    proxy = configured(simple(web), rules=rules)
    assert ask(proxy, f"http://{SITE}{path}", method=method).status == status
    record = the_only_record(proxy)
    if status == 200:
        (seen,) = web.nginx.seen(path)
        assert (seen.path, record["rule"]) == (path, "rates"), "as the client wrote it"
    else:
        assert record["outcome"] == "rule_denied"
        assert not [line for line in web.nginx.lines() if (line.method, line.path) == (method, path)]


# --- secrets that change ------------------------------------------------------------------------------------------


def as_secret(name: str, *, ca: trustme.CA | None = None) -> dict[str, bytes]:
    """What a mounted secret holds: a client certificate with this common name, and whom to trust."""
    return secret_of(client_certificate(name), ca or authority())


def by_secret(web: Web, name: str = "gateway", host: str = SITE) -> dict[str, Any]:
    return service(host, web.mutual, {"mode": "mutual", "credential": name})


class Load(NamedTuple):
    """Requests from several threads at once, until it is told to stop; `outcomes` counts their statuses."""

    stop: threading.Event
    outcomes: Counter[object]
    threads: list[threading.Thread]

    @classmethod
    def begin(cls, proxy: Proxy, url: str, *, kept: int, new: int) -> Load:
        """`kept`: threads that keep their connection; `new`: those that make one for each request."""
        load = cls(threading.Event(), Counter(), [])

        def one(*, keeps: bool) -> None:
            client = Ends(proxy)
            try:
                for number in range(2000):
                    if number and not keeps:
                        client.close()
                        client = Ends(proxy)
                    reply = client.ask(request(url))
                    load.outcomes[reply.status, reply.complete] += 1
                    if load.stop.wait(0.01):
                        return
            except Exception as error:
                load.outcomes[repr(error)] += 1
            finally:
                client.close()

        for number in range(kept + new):
            thread = threading.Thread(target=one, kwargs={"keeps": number < kept})
            load.threads.append(thread)
            thread.start()
        return load

    def end(self) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join()


def test_a_secret_is_rotated_under_load_and_every_request_succeeds(
    configured: Configure, web: Web, tmp_path: Path
) -> None:
    """At the pace of a real proxy. The next handshake behind the swap shows the new certificate, and so do all later ones."""
    secret = Mounted(tmp_path / "gateway", **as_secret("before"))
    proxy = configured(by_secret(web), secrets={"directory": str(tmp_path)})
    with Ends(proxy) as slow:
        slow.send(request(f"http://{SITE}/slow?rotated"))  # takes as long as all of this
        slow_head = slow.head()
        load = Load.begin(proxy, f"http://{SITE}/rotated", kept=3, new=2)
        try:
            eventually(lambda: len(web.nginx.lines_of("/rotated")) > 50, "there is load")
            secret.swap(**as_secret("after"))

            def new_ones() -> int:
                return sum(common_name(line.subject) == "after" for line in web.nginx.lines_of("/rotated"))

            eventually(lambda: new_ones() > 50, "requests come with the new certificate")
        finally:
            load.end()
        assert set(load.outcomes) == {(200, True)}
        lines = web.nginx.lines_of("/rotated")
        assert len(lines) == load.outcomes.total()
        assert slow_head is not None
        body = slow.exactly(int(slow_head.get("content-length") or 0))
        assert (slow_head.status, len(body)) == (200, 120_000)
    firsts = sorted(
        (int(line.connection), common_name(line.subject), line.reused) for line in lines if line.request == "1"
    )
    shown = [subject for _, subject, _ in firsts]
    assert shown == ["before"] * shown.count("before") + ["after"] * shown.count("after")
    assert shown.count("after") >= 2
    assert next(reused for _, subject, reused in firsts if subject == "after") == ".", "no session of the old one"
    assert {common_name(line.subject) for line in web.nginx.seen("/slow?rotated")} == {"before"}
    assert proxy.metric("credentials_refused_total", identity="gateway") == 0
    assert {each["outcome"] for each in proxy.settled().records} == {"answered"}


def whom_it_shows(proxy: Proxy, web: Web, url: str = f"http://{SITE}", door: int | None = None) -> str:
    """The certificate of the next request, from what NGINX logs."""
    path = f"/shows-{time.monotonic_ns()}"
    with Ends(proxy, door) as client:
        reply = client.ask(request(f"{url}{path}"))
    assert reply.status == 200, reply
    (seen,) = web.nginx.seen(path)
    return common_name(seen.subject)


def test_files_that_are_rewritten_in_place_are_used_when_they_are_whole_and_belong_together(
    watchful: Configure, web: Web, tmp_path: Path
) -> None:
    files = tmp_path / "client.pem", tmp_path / "client.key"
    write_pair(tmp_path, client_certificate("in-place-1"))
    (new := tmp_path / "new").mkdir()
    fresh = write_pair(new, client_certificate("in-place-2"))
    certificate, key = fresh.certificate.read_bytes(), fresh.key.read_bytes()
    proxy = watchful(mutual(web, "x", certificate=str(files[0]), key=str(files[1])))
    label = str(files[0])

    def refusals() -> float:
        return proxy.metric("credentials_refused_total", identity=label)

    assert whom_it_shows(proxy, web) == "in-place-1"
    files[0].write_bytes(certificate[: len(certificate) // 2])
    eventually(lambda: refusals() == 1, "half a certificate is refused")
    assert whom_it_shows(proxy, web) == "in-place-1"
    files[0].write_bytes(certificate)
    eventually(lambda: refusals() == 2, "a certificate without its key is refused")
    assert whom_it_shows(proxy, web) == "in-place-1"
    assert f"refused: {files[0]} with key {files[1]}: they do not belong together; what was read before" in proxy.stderr
    files[1].write_bytes(key)
    eventually(lambda: f"{label} is new" in proxy.stderr, "the pair is taken")
    assert whom_it_shows(proxy, web) == "in-place-2"
    assert refusals() == 2
    proxy = watchful(mutual(web, "x", certificate=str(files[0]), key=str(files[1])))
    assert refusals() == 2, "over reloads"


def test_a_secret_that_comes_later_is_waited_for_and_one_that_goes_stays_in_use(
    watchful: Configure, web: Web, tmp_path: Path
) -> None:
    proxy = watchful(by_secret(web, "late"), secrets={"directory": str(tmp_path)})
    assert "secret late: no tls.crt and tls.key" in proxy.stderr
    for client in (Ends(proxy), Ends(proxy, doors(proxy).web)):
        with client:
            reply = client.ask(request(f"http://{SITE}/too-early"))
            assert reply.status == 503
    first, second = proxy.settled().records
    assert first["outcome"] == second["outcome"] == "credential_missing"
    assert first["upstream"] is None, "nobody was connected to"
    secret = Mounted(tmp_path / "late", **as_secret("late"))
    eventually(lambda: "late is new" in proxy.stderr, "the secret is taken")
    assert whom_it_shows(proxy, web) == "late"
    secret.swap()
    eventually(lambda: proxy.metric("credentials_refused_total", identity="late") == 1, "it is noticed that it is gone")
    assert whom_it_shows(proxy, web) == "late"
    secret.swap(**as_secret("late-again"))
    eventually(lambda: whom_it_shows(proxy, web) == "late-again", "the new one is used")
    assert web.nginx.lines_of("/too-early") == []


def test_a_mounted_secret_with_another_key_is_refused_and_the_old_one_stays(
    watchful: Configure, web: Web, tmp_path: Path
) -> None:
    secret = Mounted(tmp_path / "mixed", **as_secret("good"))
    proxy = watchful(by_secret(web, "mixed"), secrets={"directory": str(tmp_path)})
    assert whom_it_shows(proxy, web) == "good"
    wrong_key = as_secret("other")["tls_key"]
    secret.swap(**{**as_secret("good"), "tls_key": wrong_key})
    eventually(lambda: proxy.metric("credentials_refused_total", identity="mixed") == 1, "it is refused")
    assert whom_it_shows(proxy, web) == "good"
    pem = wrong_key.decode().split("\n")[1]
    assert pem not in proxy.stderr + proxy.get("/metrics")[1] + proxy.get("/config")[1]


def test_an_authority_that_is_exchanged_holds_for_the_next_request(
    watchful: Configure, web: Web, tmp_path: Path
) -> None:
    """Connections that were made under the trust of before are not used any more."""
    secret = Mounted(tmp_path / "trust-cacert", **secret_of(ca=authority()))
    proxy = watchful(
        service(SITE, web.tls, {"mode": "simple", "credential": "trust"}), secrets={"directory": str(tmp_path)}
    )
    with Ends(proxy) as client:
        assert client.ask(request(f"http://{SITE}/")).status == 200
        secret.swap(**secret_of(ca=other_authority()))
        eventually(lambda: "trust is new" in proxy.stderr, "the authority is taken")
        reply = client.ask(request(f"http://{SITE}/"))
        assert (reply.status, reply.slug) == (503, "tls_unknown_ca")


def test_when_certificates_expire_is_counted_and_warned_of(watching: Proxy, watchful: Configure, web: Web) -> None:
    file = web.pair("soon")["certificate"]
    said = said_at_its_start(watching)
    assert re.search(rf"WARNING {file} expires on {SOON:%Y-%m-%d %H:%M:%S} UTC, in 3 days", said)
    assert f"{web.ca} expires" not in said
    proxy = watchful(*worth_a_warning(web))
    assert proxy.metric("certificate_expiry_timestamp_seconds", identity=file) == SOON.timestamp()
    assert proxy.metric("certificate_expiry_timestamp_seconds", identity=web.ca) > time.time() + 30 * 86400
    assert whom_it_shows(proxy, web, f"http://{BILLING}") == "soon"


# --- header fields that clients never see -------------------------------------------------------------------------


TOKEN, NEXT_TOKEN, KEY = "t0ken-of-the-first-day", "t0ken-of-the-second-day", "k3y-that-nobody-sees"


def everything_said(proxy: Proxy) -> str:
    """All that the proxy has written, and all its pages."""
    pages = [proxy.get(path)[1] for path in ("/config", "/metrics", "/tunnels", "/livez", "/readyz")]
    pages.append(proxy.get(f"/explain?to=http://{SITE}/")[1])
    files = [path.read_text() for path in proxy.folder.iterdir() if path != proxy.config_file]
    return "\n".join(pages + files)


def test_fields_are_set_in_place_of_the_clients_own_and_their_values_are_told_to_nobody(
    watchful: Configure, web: Web, tmp_path: Path
) -> None:
    token, key = tmp_path / "token", tmp_path / "key"
    token.write_text(f"{TOKEN}\n")
    key.write_text(KEY)
    fields = {"Authorization": {"file": str(token), "prefix": "Bearer "}, "X-Api-Key": {"file": str(key)}}
    own = (
        "authorization: Basic b3du",
        "AUTHORIZATION: Basic dHdpY2U=",
        "x-api-key: mine",
        "X-Api-Key-2: stays",
        "Connection: X-Api-Key, Authorization",
    )

    def script(asked: Message) -> list[Any]:
        return [b"HTTP/1.1 nonsense\r\n\r\n", CLOSE] if asked.target == "/broken" else [response(b"x")]

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority().issue_cert(SITE).configure_cert(context)
    with RawOrigin(script, tls=context) as origin:
        proxy = watchful(simple(web, port=origin.port, alpn=[]) | {"set_headers": fields})

        def asked(path: str) -> Message:
            with Ends(proxy) as client:
                reply = client.ask(request(f"http://{SITE}{path}", *own))
            assert not {TOKEN, NEXT_TOKEN, KEY} & set(re.findall(r"[\w-]+", repr(reply)))
            raw = b"".join(wire.received for wire in origin.connections)
            head = raw[raw.rindex(b"GET " + path.encode()) :].partition(b"\r\n\r\n")[0].decode("ascii")
            first, *lines = head.split("\r\n")
            pairs = tuple((name.lower(), value) for name, _, value in (line.partition(": ") for line in lines))
            return Message(first, pairs, b"", (), head.encode())

        told = asked("/first")
        assert [each for each in told.fields if "auth" in each[0] or "key" in each[0]] == [
            ("x-api-key-2", "stays"),
            ("authorization", f"Bearer {TOKEN}"),
            ("x-api-key", KEY),
        ]
        token.write_text(NEXT_TOKEN)
        eventually(lambda: asked("/again").get("authorization") == f"Bearer {NEXT_TOKEN}", "the new value is sent")
        token.write_text(f"{TOKEN}\nand another line")
        label = str(token)
        eventually(lambda: proxy.metric("credentials_refused_total", identity=label) == 1, "two lines are refused")
        assert asked("/third").get("authorization") == f"Bearer {NEXT_TOKEN}"
        with Ends(proxy) as client:
            assert client.ask(request(f"http://{SITE}/broken")).status == 502
    with Ends(proxy) as client:
        assert client.ask(request(f"http://{SITE}/gone")).slug == "connect_refused"
    assert {each["outcome"] for each in proxy.settled().records} == {
        "answered",
        "upstream_protocol_error",
        "connect_refused",
    }
    said = everything_said(proxy)
    assert label in said
    for secret in (TOKEN, NEXT_TOKEN, KEY, "and another line"):
        assert secret not in said


@pytest.mark.parametrize("method", ["TRACE", "trace"])
def test_who_is_told_a_credential_is_not_asked_what_he_was_told(
    watchful: Configure, web: Web, tmp_path: Path, method: str
) -> None:
    token = tmp_path / "token"
    token.write_text(TOKEN)
    proxy = watchful(simple(web) | {"set_headers": {"Authorization": {"file": str(token)}}})
    with Ends(proxy) as client:
        assert client.ask(request(f"http://{SITE}/", method=method)).slug == "method_not_implemented"


def test_no_request_goes_without_its_field(watchful: Configure, web: Web, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.touch()
    proxy = watchful(simple(web) | {"set_headers": {"Authorization": {"file": str(token)}}})
    reply = ask(proxy, f"http://{SITE}/without-field")
    assert (reply.status, reply.slug) == (503, "credential_missing")
    token.write_text(TOKEN)
    eventually(lambda: ask(proxy, f"http://{SITE}/with-field").status == 200, "the value is there")
    assert web.nginx.lines_of("/without-field") == []


def test_fields_for_who_is_not_verified_are_a_configuration_error(tmp_path: Path, config: dict[str, Any]) -> None:
    (tmp_path / "token").write_text(TOKEN)
    fields = {"Authorization": {"file": str(tmp_path / "token")}}
    without = [None, {"mode": "disable"}, {"mode": "simple", "verify": False}, {"mode": "simple", "verify": "chain"}]
    services = [service(SITE, 443, tls, set_headers=fields) for tls in without]
    proxy = Proxy(tmp_path, {**config, "services": services})
    done = run(sys.executable, "-m", "egressproxy", "check", proxy.config_file, folder=ROOT, code=1)
    for number in range(len(services)):
        assert f"services[{number}].set_headers: go over verified TLS only" in done.out + done.err
    assert TOKEN not in done.out + done.err


def client_hello(server_name: str) -> bytes:
    """What OpenSSL sends first."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    engine = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname=server_name)
    with pytest.raises(ssl.SSLWantReadError):
        engine.do_handshake()
    return outgoing.read()


def test_a_tunnel_to_the_plain_port_of_a_service_that_is_reached_over_tls_is_checked(
    configured: Configure, web: Web
) -> None:
    """Else a CONNECT to port 80 would be a way past the check of the very same server on port 443."""
    with RawOrigin() as origin:
        proxy = configured(service(SITE, origin.port, {"mode": "simple", "ca": web.ca}))
        with Ends(proxy) as client:
            client.send(connect_head(f"{SITE}:80") + client_hello("evil.example.test"))
            client.head()
            assert client.to_the_end()[:1] == b"\x15"  # an alert
        record = the_only_record(proxy)
        assert (record["sni_check"], record["outcome"]) == ("mismatch", "sni_mismatch")
        assert not [wire for wire in origin.connections if wire.received]


def test_a_plain_request_to_a_port_for_tls_alone_is_refused_and_its_client_kept(configured: Configure) -> None:
    """It would be sent where the other side takes it for broken TLS, with all that is secret in it."""
    with RawOrigin(lambda _: [response()]) as origin:
        ports = [{"number": origin.port, "protocol": "TLS"}]
        proxy = configured({"hosts": [SITE], "ports": ports}, {"hosts": [BILLING], "ports": [{"number": origin.port}]})
        with Ends(proxy) as client:
            refused = client.ask(request(f"http://{SITE}:{origin.port}/"))
            assert (refused.status, refused.slug) == (403, "tls_required")
            assert client.ask(request(f"http://{BILLING}:{origin.port}/")).status == 200  # where nothing is declared
        with Ends(proxy) as client:
            client.send(connect_head(f"{SITE}:{origin.port}") + b"GET / HTTP/1.1\r\n\r\n")
            client.head()
            assert client.to_the_end()[:1] == b"\x15"  # an alert
        outcomes = [(record["outcome"], record["sni_check"]) for record in proxy.settled().records]
        assert outcomes == [("tls_required", None), ("answered", None), ("not_tls", "not_tls")]


@pytest.mark.parametrize("name", [SITE, "evil.example.test"])
def test_a_tunnel_to_a_port_that_is_declared_to_be_tls_is_checked_whatever_the_port(
    configured: Configure, name: str
) -> None:
    with RawOrigin() as origin:
        proxy = configured({"hosts": [SITE], "ports": [{"number": origin.port, "protocol": "HTTPS"}]})
        hello = client_hello(name)
        with Ends(proxy) as client:
            client.send(connect_head(f"{SITE}:{origin.port}") + hello)
            client.head()
            with origin.take() as upstream:
                assert upstream.exactly(len(hello)) == (hello if name == SITE else b"")
        record = the_only_record(proxy)
        assert record["sni_check"] == ("match" if name == SITE else "mismatch")
