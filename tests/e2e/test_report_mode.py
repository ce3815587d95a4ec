"""Report only: what would be refused is let through, counted and marked; the address guard holds all the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from support.clients import ask, connect_head, open_tunnel, receive
from support.dns import DnsServer
from support.origin import NAME, TcpOrigin
from support.proxy import Proxy

CLOSED = {"name": "closed", "action": "deny", "hosts": [NAME]}
MODES: dict[str, dict[str, Any]] = {
    "everything": {"report": True, "outbound": "registry_only", "rules": [CLOSED]},
    "one rule": {"rules": [{**CLOSED, "report": True}, {"name": "rest", "action": "deny"}]},
}


@pytest.fixture(params=MODES)
def proxy(request: pytest.FixtureRequest, start: Callable[..., Proxy], open_config: dict[str, Any]) -> Proxy:
    return start({**open_config, **MODES[request.param]})


def test_what_would_be_refused_passes_and_is_marked(proxy: Proxy, echo_origin: TcpOrigin) -> None:
    with open_tunnel(proxy, f"{NAME}:{echo_origin.port}") as tunnel:
        tunnel.sendall(b"passes")
        assert receive(tunnel, 6) == b"passes"
        assert proxy.get_json("/tunnels")["tunnels"][0]["reported"] is True
    logged = proxy.settled()
    (record,) = logged.records
    assert (record["rule"], record["reported"], record["status"], record["outcome"]) == ("closed", True, 200, "closed")
    assert "closed" in record["reason"]
    assert " TCP_TUNNEL/200 " in logged.squid[0]
    assert proxy.metric("connections_total", rule="closed", outcome="closed", reported="true") == 1
    assert proxy.metric("connections_total", reported="false") == 0


def test_what_is_not_just_reported_is_refused(start: Callable[..., Proxy], open_config: dict[str, Any]) -> None:
    proxy = start({**open_config, **MODES["one rule"]})
    assert ask(proxy, connect_head("other.example.test:443")).slug == "rule_denied"
    (record,) = proxy.settled().records
    assert (record["rule"], record["reported"]) == ("rest", False)


def test_the_address_guard_is_no_report(
    start: Callable[..., Proxy], open_config: dict[str, Any], dns: DnsServer
) -> None:
    dns.add("private.example.test", "A", "10.0.0.1")
    proxy = start({**open_config, **MODES["everything"]})
    for target in ("10.0.0.1:443", "private.example.test:443", "169.254.169.254:80"):
        assert ask(proxy, connect_head(target)).slug == "address_denied"
    assert ask(proxy, connect_head(f"127.0.0.1:{proxy.admin_port}")).slug == "loop_detected"
    assert [record["reported"] for record in proxy.settled().records] == [True] * 4
