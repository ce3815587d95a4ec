"""Whom the proxy trusts, and as whom it comes."""

from __future__ import annotations

import re
import ssl
from pathlib import Path
from typing import Any

import pytest
from support.certificates import other_authority
from support.originating import (
    BILLING,
    EXPIRED,
    NAMELESS,
    OLD,
    SITE,
    STRANGER,
    Configure,
    Web,
    ask,
    common_name,
    mutual,
    said_at_its_start,
    service,
    simple,
    the_only_record,
    worth_a_warning,
)
from support.plain_http import Ends, request
from support.proxy import Proxy
from support.tls_servers import TlsServer, server_context, write_pair


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
