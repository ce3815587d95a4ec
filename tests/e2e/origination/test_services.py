"""Services: their endpoints and aliases, and who registers none."""

from __future__ import annotations

import ssl
from collections import Counter
from typing import Any

import pytest
from support.dns import DnsServer
from support.originating import (
    BILLING,
    SHORT_S,
    SITE,
    UNKNOWN,
    Configure,
    Web,
    ask,
    doors,
    service,
    simple,
    the_only_record,
)
from support.plain_http import Ends, RawOrigin, request, response
from support.proxy import free_port
from support.tls_servers import server_context


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
