"""Squid's manager pages on the proxy's own port, for whom the rules let reach them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from support.clients import ask, dial, receive_all
from support.proxy import Proxy

Start = Callable[..., Proxy]
RULES = [
    {"action": "allow", "clients": ["127.0.0.1"], "urls_matching": ["^http://[^/]+/squid-internal-mgr/"]},
    {"action": "deny", "urls_matching": ["^http://[^/]+/squid-internal-mgr/"]},
    {"action": "allow"},
]
MANAGED: dict[str, Any] = {"listeners": [{"protocol": "http-proxy", "manager": True}], "rules": RULES}


def asked(target: str, method: str = "GET") -> bytes:
    return f"{method} {target} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode()


def test_localhost_reads_them_by_path_or_by_the_proxys_own_port(start: Start) -> None:
    proxy = start(MANAGED)
    for target in ("/squid-internal-mgr/info", f"http://127.0.0.1:{proxy.port}/squid-internal-mgr/info"):
        reply = ask(proxy, asked(target))
        assert (reply.status, reply.headers["content-type"]) == (200, "text/plain; charset=utf-8")
        assert b"Number of HTTP requests received" in reply.body
    with dial(proxy) as client:
        client.sendall(asked("/squid-internal-mgr/menu", "HEAD"))
        head = receive_all(client)
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert head.endswith(b"\r\n\r\n"), "a HEAD has no body"
    first, _, third = proxy.settled().squid
    assert " TCP_MISS/200 " in first
    assert first.endswith("/squid-internal-mgr/info - HIER_NONE/- text/plain")
    assert " HEAD " in third


def test_nobody_else_does(start: Start) -> None:
    proxy = start(MANAGED)
    assert ask(proxy, asked("/squid-internal-mgr/info"), source="127.0.0.9").slug == "rule_denied"
    (line,) = proxy.settled().squid
    assert " TCP_DENIED/403 " in line


@pytest.mark.parametrize("way", ["path", "own port"])
def test_who_may_reach_another_host_does_not_by_naming_it(start: Start, way: str) -> None:
    allowed = {"action": "allow", "hosts": ["allowed.example"]}
    proxy = start({**MANAGED, "rules": [allowed, {"action": "deny"}]})
    target = "/squid-internal-mgr/info" if way == "path" else f"http://127.0.0.1:{proxy.port}/squid-internal-mgr/info"
    for host in ("allowed.example", f"allowed.example:{proxy.port}"):
        request = f"GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
        assert ask(proxy, request).slug == "rule_denied"
    proxy.settled()


def test_they_are_judged_as_this_hosts(start: Start) -> None:
    proxy = start({**MANAGED, "rules": [{"action": "allow", "hosts": ["localhost"]}, {"action": "deny"}]})
    request = b"GET /squid-internal-mgr/info HTTP/1.1\r\nHost: other.example\r\nConnection: close\r\n\r\n"
    assert ask(proxy, request).status == 200
    proxy.settled()


def test_a_page_that_is_none_is_404(start: Start) -> None:
    proxy = start(MANAGED)
    assert ask(proxy, asked("/squid-internal-mgr/shutdown")).status == 404
    proxy.settled()


def test_without_the_setting_a_path_is_no_target(start: Start) -> None:
    proxy = start({"rules": RULES})
    assert ask(proxy, asked("/squid-internal-mgr/info")).status == 400
    own = f"http://127.0.0.1:{proxy.port}/squid-internal-mgr/info"
    assert ask(proxy, asked(own)).status == 508
    proxy.settled()


def test_the_page_of_another_host_is_that_hosts(start: Start) -> None:
    proxy = start(MANAGED)
    assert ask(proxy, asked("http://nowhere.invalid/squid-internal-mgr/info")).status == 503
    proxy.settled()
