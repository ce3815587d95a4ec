"""Which open tunnels a new policy refuses, and that judging thousands leaves turns to everybody else."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from support.peers import socket_pair, tcp_stream

from egressproxy.admission import Admission
from egressproxy.config.schema.config import Config
from egressproxy.hostport import parse_authority
from egressproxy.model import Endpoint, Intent
from egressproxy.policy.policy import Policy
from egressproxy.poller import create_poller
from egressproxy.relay.relay import Relay
from egressproxy.relay.tunnel import Tunnel
from egressproxy.runtime import rejudge
from egressproxy.runtime.rejudge import Rejudging, refusal
from egressproxy.tasks import Tasks
from egressproxy.telemetry.record import RecordDraft

LISTENERS = [{"protocol": "http-proxy", "port": 3128}]


def config_of(**settings: Any) -> Config:
    return Config.model_validate({"listeners": LISTENERS, **settings})


def policy_of(**settings: Any) -> Policy:
    return Policy.from_config(config_of(**settings), lambda _address, _port: False)


def open_to(target: str, upstream: str | None = "93.184.215.14:443", **more: Any) -> RecordDraft:
    """The draft of a tunnel."""
    draft = RecordDraft(1, "http-proxy:3128", "http-proxy", "10.1.2.3", 4711, 0.0)
    draft.intent = Intent("10.1.2.3", "http-proxy:3128", "CONNECT", parse_authority(target), **more)
    if upstream is not None:
        host, port, _ = parse_authority(upstream)
        draft.upstream = Endpoint(host, port)
    return draft


def slug(draft: RecordDraft, **settings: Any) -> str | None:
    refused = refusal(policy_of(**settings), draft)
    return None if refused is None else refused.slug


SERVICE = {"hosts": ["db.example"], "ports": [{"number": 443}], "resolution": "static"}


@pytest.mark.parametrize(
    ("draft", "settings", "expected"),
    [
        (open_to("a.example:443"), {"allow": ["a.example"]}, None),
        (open_to("a.example:443"), {"allow": ["b.example"]}, "rule_denied"),
        (open_to("a.example:443"), {"rules": [{"action": "allow", "clients": ["10.9.0.0/16"]}]}, "rule_denied"),
        (open_to("a.example:443"), {"report": True}, None),
        (open_to("a.example:443", ech=True), {"allow": ["a.example"], "ech": "deny"}, "ech_denied"),
        # by address
        (open_to("a.example:443", "10.0.0.1:443"), {"allow": ["a.example"]}, "address_denied"),
        (open_to("a.example:443", "10.0.0.1:443"), {"allow": ["a.example"], "guard": {"allow": ["10.0.0.0/8"]}}, None),
        (
            open_to("a.example:443", "8.8.8.8:443"),
            {"outbound": "allow_any", "rules": [{"action": "deny", "addresses": ["8.8.0.0/16"]}]},
            "rule_denied",
        ),
        (
            open_to("a.example:443", "8.8.8.8:443"),
            {"rules": [{"action": "allow", "addresses": ["8.8.0.0/16"]}]},
            None,
        ),
        # endpoints that are written down
        (
            open_to("db.example:443", "10.0.0.1:443"),
            {"services": [{**SERVICE, "endpoints": [{"address": "10.0.0.1"}]}]},
            None,
        ),
        (
            open_to("db.example:443", "10.0.0.1:443"),
            {"services": [{**SERVICE, "endpoints": [{"address": "10.0.0.2"}]}]},
            "address_denied",
        ),
        (
            open_to("a.example:443", "10.0.0.2:443"),
            {
                "services": [
                    {**SERVICE, "name": "one", "endpoints": [{"address": "10.0.0.1"}]},
                    {**SERVICE, "name": "two", "endpoints": [{"address": "10.0.0.2"}]},
                ],
                "routes": [{"hosts": ["a.example"], "to": [{"service": "one"}, {"service": "two"}]}],
            },
            None,
        ),
        (
            open_to("a.example:443"),
            {"outbound": "allow_any", "routes": [{"hosts": ["a.example"], "refuse": "not_found"}]},
            "no_route",
        ),
    ],
)
def test_a_tunnel_is_judged_by_name_and_by_the_address_it_is_connected_to(
    draft: RecordDraft, settings: dict[str, Any], expected: str | None
) -> None:
    assert slug(draft, **settings) == expected


def test_a_tunnel_through_a_parent_is_judged_by_name_alone() -> None:
    parents = {"parents": [{"name": "up", "address": "10.0.0.9", "port": 3128}]}
    draft = open_to("a.example:443", "10.0.0.9:3128")
    draft.parent = "up"
    assert slug(draft, **parents, rules=[{"action": "allow", "hosts": ["a.example"], "parent": "up"}]) is None
    assert slug(draft, **parents, rules=[{"action": "allow", "hosts": ["b.example"], "parent": "up"}]) == "rule_denied"
    asks_for_addresses = [{"action": "deny", "addresses": ["8.8.0.0/16"]}, {"action": "allow"}]
    assert slug(draft, **parents, rules=asks_for_addresses) is not None, "nobody knows the address"


def test_the_name_inside_a_tunnel_to_an_address_is_judged_too() -> None:
    draft = open_to("93.184.215.14:443")
    draft.server_name = "Refused.Example"
    allow = {"hosts": ["93.184.215.14", "allowed.example"], "action": "allow"}
    assert slug(draft, rules=[allow]) == "sni_mismatch"
    assert slug(draft, rules=[{**allow, "sni_check": "off"}]) is None
    draft.server_name = "allowed.example"
    assert slug(draft, rules=[allow]) is None


# --- many ---------------------------------------------------------------------------------------------------------

MANY = 9000


@pytest.fixture
async def relay() -> AsyncIterator[Relay]:
    loop = asyncio.get_running_loop()
    poller = create_poller(loop)
    made = Relay(poller, loop, 60.0, 60.0)
    yield made
    made.close()
    poller.close()


@pytest.fixture
def tunnel(relay: Relay) -> Iterator[Any]:
    """Makes tunnels that carry nothing, all between the same two sockets."""
    one, other = socket_pair()
    client, upstream = tcp_stream(one, relay.poller), tcp_stream(other, relay.poller)
    yield lambda: Tunnel(relay, client, upstream)
    client.close()
    upstream.close()


def enter(admission: Admission, target: str, relay: Tunnel | None) -> RecordDraft:
    like = open_to(target)
    draft = admission.begin(like.listener, like.protocol, like.client, like.client_port, 0.0)
    draft.intent, draft.upstream, draft.relay = like.intent, like.upstream, relay
    return draft


async def test_thousands_are_judged_and_everybody_else_has_turns(tunnel: Any) -> None:
    admission, tasks = Admission(MANY), Tasks(asyncio.get_running_loop())
    kept = [enter(admission, "a.example:443", tunnel()) for _ in range(MANY // 2)]
    cut = [enter(admission, "b.example:443", tunnel()) for _ in range(MANY // 2)]
    config = config_of(allow=["a.example"], on_policy_change="cut")
    Rejudging(admission, tasks).begin(config, Policy.from_config(config, lambda _address, _port: False))
    turns = 0
    began = time.process_time()
    while len(tasks):
        turns += 1
        await asyncio.sleep(0)
    spent_s = time.process_time() - began
    assert turns >= 5, f"of {spent_s:g} s"
    assert all(draft.relay._result is None for draft in kept)  # type: ignore[union-attr]
    assert all(draft.relay._result == ("proxy", "policy_changed") for draft in cut)  # type: ignore[union-attr]


async def test_who_has_no_tunnel_yet_is_judged_when_there_is_one(tunnel: Any) -> None:
    admission, tasks = Admission(10), Tasks(asyncio.get_running_loop())
    opens, leaves = (enter(admission, "b.example:443", None) for _ in range(2))
    config = config_of(allow=["a.example"], on_policy_change="cut")
    Rejudging(admission, tasks).begin(config, Policy.from_config(config, lambda _address, _port: False))
    await asyncio.sleep(0.05)
    assert len(tasks) == 1
    opens.relay = late = tunnel()
    admission.end(leaves)
    assert await tasks.wait(5.0), "it ends when nobody is left to wait for"
    assert late._result == ("proxy", "policy_changed")


async def test_who_takes_very_long_is_judged_all_the_same(tunnel: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rejudge, "SETUP_S", 0.0)
    monkeypatch.setattr(rejudge, "LOOK_SELDOM_S", 0.05)
    admission, tasks = Admission(10), Tasks(asyncio.get_running_loop())
    opens = enter(admission, "b.example:443", None)
    config = config_of(allow=["a.example"], on_policy_change="cut")
    Rejudging(admission, tasks).begin(config, Policy.from_config(config, lambda _address, _port: False))
    await asyncio.sleep(0.2)
    opens.relay = late = tunnel()
    assert await tasks.wait(5.0)
    assert late._result == ("proxy", "policy_changed")


async def test_the_newest_policy_is_the_one_that_judges(tunnel: Any) -> None:
    admission, tasks = Admission(10), Tasks(asyncio.get_running_loop())
    waits = enter(admission, "b.example:443", None)
    rejudging = Rejudging(admission, tasks)
    for settings in ({"allow": ["a.example"], "on_policy_change": "cut"}, {"allow": ["a.example"]}):
        config = config_of(**settings)
        rejudging.begin(config, Policy.from_config(config, lambda _address, _port: False))
        await asyncio.sleep(0.05)
    assert len(tasks) == 0, "which keeps"
    waits.relay = opened = tunnel()
    assert opened._result is None
