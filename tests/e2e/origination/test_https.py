"""HTTP becomes HTTPS: redirects, long bodies, and who speaks HTTPS already."""

from __future__ import annotations

import random
import re
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest
from support.certificates import authority
from support.clients import run
from support.originating import SITE, Configure, Web, curl, doors, simple, the_only_record
from support.plain_http import Ends, RawOrigin, request, response

# --- HTTP becomes HTTPS -------------------------------------------------------------------------------------------

WAYS = ["http-proxy", "http"]


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
