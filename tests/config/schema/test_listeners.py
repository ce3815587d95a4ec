"""Settings of listeners: what goes together, and what has no meaning where."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from egressproxy.config.schema.config import Config
from egressproxy.config.schema.listeners import ListenerTimeouts
from egressproxy.config.schema.stages import Timeouts


def listen(*places: tuple[str, int], admin: object = None) -> Config:
    listeners = [
        {"protocol": "http-proxy", "name": f"l{number}", "address": address, "port": port}
        for number, (address, port) in enumerate(places)
    ]
    return Config.model_validate({"listeners": listeners, "admin": admin})


LISTENERS = [
    {"protocol": "sni", "port": 1, "service_port": 8443, "transparent": "redirect"},
    {"protocol": "auto", "port": 2, "service_port": 1, "transparent": "tproxy"},
    {"protocol": "sni", "port": 3, "proxy_protocol": {"from": ["10.0.0.0/8", "::1"]}},
    {"protocol": "auto", "port": 4, "proxy_protocol": {"from": ["10.0.0.1"]}},
    {"protocol": "http-proxy", "port": 5, "proxy_protocol": {"from": ["0.0.0.0/0", "::/0"]}},
    {"protocol": "http-proxy", "port": 6, "tls": {"certificate": "c.pem", "key": "k.pem"}},
]


@pytest.mark.parametrize("listener", LISTENERS, ids=repr)
def test_each_listener_takes_what_has_a_meaning_there(listener: dict[str, object]) -> None:
    (read,) = Config.model_validate({"listeners": [listener]}).listeners
    assert read.label == f"{listener['protocol']}:{listener['port']}"
    assert read.service_port == listener.get("service_port")
    assert read.transparent == listener.get("transparent")


@pytest.mark.parametrize(
    "listener",
    [
        {"protocol": "http-proxy", "port": 1, "service_port": 443},
        {"protocol": "http-proxy", "port": 1, "transparent": "redirect"},
        {"protocol": "sni", "port": 1, "tls": {"certificate": "c.pem", "key": "k.pem"}},
        {"protocol": "auto", "port": 1, "tls": {"certificate": "c.pem", "key": "k.pem"}},
        {"protocol": "sni", "port": 1, "service_port": 0},
        {"protocol": "sni", "port": 1, "service_port": "443"},
        {"protocol": "sni", "port": 1, "transparent": "nat"},
        {"protocol": "sni", "port": 1, "transparent": True},
        {"protocol": "sni", "port": 1, "proxy_protocol": True},
        {"protocol": "sni", "port": 1, "proxy_protocol": {}},
        {"protocol": "sni", "port": 1, "proxy_protocol": {"from": []}},
        {"protocol": "sni", "port": 1, "proxy_protocol": {"from": ["10.0.0.1/8"]}},
        {"protocol": "sni", "port": 1, "proxy_protocol": {"from": "10.0.0.0/8"}},
        {"protocol": "sni", "port": 1, "proxy_protocol": {"from": ["any"]}},
        {"protocol": "sni", "port": 1, "proxy_protocol": {"announcers": ["10.0.0.0/8"]}},
    ],
    ids=repr,
)
def test_what_has_no_meaning_on_a_listener_is_refused(listener: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Config.model_validate({"listeners": [listener]})


def test_a_listener_has_the_general_times_where_it_has_none_of_its_own() -> None:
    listeners = [
        {"protocol": "sni", "port": 1, "timeouts": {"head_s": 3, "half_close_s": 4}},
        {"protocol": "sni", "port": 2},
        {"protocol": "sni", "port": 3, "timeouts": {}},
    ]
    config = Config.model_validate({"listeners": listeners, "timeouts": {"connect_s": 5, "half_close_s": 6}})
    usual = config.timeouts
    own, none, empty = (usual.at(listener) for listener in config.listeners)
    assert own == Timeouts(head_s=3, connect_s=5, half_close_s=4)
    assert none == empty == usual


@pytest.mark.parametrize("key", sorted(Timeouts.model_fields.keys() - ListenerTimeouts.model_fields.keys()))
def test_a_time_that_is_no_matter_of_one_listener_is_refused_there(key: str) -> None:
    with pytest.raises(ValidationError):
        Config.model_validate({"listeners": [{"protocol": "sni", "port": 1, "timeouts": {key: 1}}]})


def test_announcers_are_networks() -> None:
    settings = Config.model_validate({"listeners": LISTENERS[2:3]})
    announced = settings.listeners[0].proxy_protocol
    assert announced is not None
    assert [str(network) for network in announced.announcers] == ["10.0.0.0/8", "::1/128"]
    printed = settings.model_dump(mode="json", exclude_defaults=True, by_alias=True)
    assert printed["listeners"][0]["proxy_protocol"] == {"from": ["10.0.0.0/8", "::1/128"]}
    assert Config.model_validate(printed) == settings


@pytest.mark.parametrize(
    "places",
    [
        [("127.0.0.1", 1), ("127.0.0.1", 1)],
        [("127.0.0.1", 1), ("0.0.0.0", 1)],
        [("::", 1), ("127.0.0.1", 1)],
        [("::1", 1), ("::", 1)],
    ],
    ids=repr,
)
def test_two_listeners_cannot_share_a_place(places: list[tuple[str, int]]) -> None:
    with pytest.raises(ValidationError, match="is taken by"):
        listen(*places)


def test_listeners_may_share_a_port_on_addresses_apart() -> None:
    assert len(listen(("127.0.0.1", 1), ("::1", 1), ("127.0.0.2", 1), ("127.0.0.1", 2)).listeners) == 4
    assert len(listen(("0.0.0.0", 1), ("::1", 1)).listeners) == 2
