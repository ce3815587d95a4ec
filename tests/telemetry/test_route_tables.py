import json
from pathlib import Path

import pytest

from egressproxy.config.load import load
from egressproxy.config.schema.config import Config
from egressproxy.telemetry import route_tables as module
from egressproxy.telemetry.route_tables import config_dump, listener_statuses, route_tables

GATEWAY = [
    {"name": "web", "protocol": "http", "port": 8080, "service_port": 80},
    {"name": "plain", "protocol": "http", "port": 8443, "service_port": 443},
]
SNI = [{"name": "tls", "protocol": "sni", "port": 8443, "service_port": 443}]
CNN = {
    "name": "outbound|80||edition.cnn.com",
    "hosts": ["edition.cnn.com"],
    "ports": [{"number": 80, "protocol": "HTTP"}],
}


def config(listeners=GATEWAY, **settings):
    return Config.model_validate({"listeners": listeners, **settings})


def table(name, listeners=GATEWAY, **settings):
    """The virtual hosts of one table, each as its name, domains and routes."""
    (found,) = [each for each in route_tables(config(listeners, **settings)) if each["name"] == name]
    return [(host["name"], host["domains"], host["routes"]) for host in found["virtual_hosts"]]


def everywhere(**what):
    return {"match": {"prefix": "/"}, **what}


BLACK_HOLE_502 = ("blackhole:80", ["*"], [everywhere(direct_response={"status": 502})])


def test_each_port_of_a_listener_has_a_table_and_unknown_hosts_fall_into_a_black_hole():
    assert [each["name"] for each in route_tables(config())] == ["http.80", "http.443"]
    assert table("http.80") == [BLACK_HOLE_502]
    assert table("tls.443", SNI) == [("blackhole:443", ["*"], [everywhere(route={"cluster": "BlackHoleCluster"})])]


def test_what_lets_everything_pass_is_called_allow_any():
    assert table("http.80", outbound="allow_any") == [
        ("allow_any", ["*"], [everywhere(route={"cluster": "PassthroughCluster"})])
    ]


def test_a_service_is_a_virtual_host_of_the_tables_of_its_ports():
    service = {**CNN, "ports": [*CNN["ports"], {"number": 443, "protocol": "TLS"}], "timeout_s": 3}
    assert table("http.80", services=[service])[0] == (
        "edition.cnn.com:80",
        ["edition.cnn.com", "edition.cnn.com:80"],
        [everywhere(route={"cluster": "outbound|80||edition.cnn.com", "timeout": "3s"})],
    )
    assert [name for name, *_ in table("tls.443", services=[service])] == ["edition.cnn.com:443", "blackhole:443"]
    assert [name for name, *_ in table("http.443", services=[service])] == ["blackhole:443"]


def test_requests_that_go_out_in_tls_have_the_cluster_of_the_port_they_are_sent_to():
    service = {
        "hosts": ["a.example"],
        "ports": [{"number": 80, "protocol": "HTTP", "target_port": 443}],
        "tls": {"mode": "simple"},
    }
    assert table("http.80", services=[service])[0][2][0]["route"] == {"cluster": "outbound|443||a.example"}


def test_a_service_that_is_known_by_addresses_or_other_names_has_those_as_domains():
    service = {
        "hosts": ["a.example"],
        "aliases": ["b"],
        "addresses": ["10.0.0.0/8"],
        "ports": [{"number": 80, "protocol": "HTTP"}],
    }
    assert table("http.80", services=[service])[0][1] == ["a.example", "a.example:80", "b", "10.0.0.0/8"]


def test_routes_come_in_order_and_before_the_service_of_the_same_host():
    routes = [
        {"hosts": ["edition.cnn.com"], "paths": ["/news/*"], "refuse": "unavailable"},
        {"name": "rest", "hosts": ["edition.cnn.com"], "clients": ["10.0.0.0/8"], "refuse": "not_found"},
        {"hosts": ["edition.cnn.com"], "carries": "tunnels", "refuse": "close"},
        {"hosts": ["edition.cnn.com"], "ports": [8080], "refuse": "close"},
    ]
    (name, _, entries), _ = table("http.80", routes=routes, services=[CNN])
    assert name == "edition.cnn.com:80"
    assert entries == [
        {"match": {"paths": ["/news/*"]}, "direct_response": {"status": 503}},
        {
            "name": "rest",
            "match": {"prefix": "/"},
            "conditions": ["clients"],
            "direct_response": {"status": 404},
        },
        everywhere(route={"cluster": "outbound|80||edition.cnn.com"}),
    ]


def test_behind_a_route_that_takes_all_the_service_is_not_asked():
    other = {"name": "outbound|443||site", "ports": [{"number": 443}], "endpoints": [{"address": "10.0.0.1"}]}
    routes = [{"hosts": ["edition.cnn.com"], "to": [{"service": "outbound|443||site"}], "timeout_s": 1.5}]
    (_, _, entries), _ = table("http.80", routes=routes, services=[CNN, other])
    assert entries == [everywhere(route={"cluster": "outbound|443||site", "timeout": "1.5s"})]


def test_several_destinations_have_their_weights():
    others = [{**CNN, "name": name, "hosts": [f"{name}.example"]} for name in ("v1", "v2")]
    routes = [{"hosts": ["a.example"], "to": [{"service": "v1", "weight": 75}, {"service": "v2", "weight": 25}]}]
    (_, _, entries), *_ = table("http.80", routes=routes, services=others)
    assert entries[0]["route"]["weighted_clusters"]["clusters"] == [
        {"name": "outbound|80||v1", "weight": 75},
        {"name": "outbound|80||v2", "weight": 25},
    ]


def test_a_gateway_without_routes_answers_404_to_every_host():
    routes = [{"ports": [443], "carries": "requests", "refuse": "not_found"}]
    assert table("http.443", routes=routes) == [("blackhole:443", ["*"], [everywhere(direct_response={"status": 404})])]
    assert table("http.80", routes=routes) == [BLACK_HOLE_502]


def test_routes_for_one_port_and_for_any_are_in_their_order():
    names = ["any", "only", "between", "again"]
    ports = [None, [80], ["79-81"], [80, 443]]
    routes = [
        {"name": name, "hosts": ["a.example"], "paths": [f"/{name}"], "refuse": "close"} | ({"ports": on} if on else {})
        for name, on in zip(names, ports, strict=True)
    ]
    (_, _, entries), _ = table("http.80", routes=routes)
    assert [entry["name"] for entry in entries] == names


def test_what_cannot_be_asked_on_a_port_is_left_out():
    routes = [
        {"none": [{"ports": [80]}], "refuse": "close"},
        {"listeners": ["plain"], "refuse": "not_found"},
        {"listeners": ["web"], "refuse": "unavailable"},
    ]
    assert table("http.80", routes=routes) == [("blackhole:80", ["*"], [everywhere(direct_response={"status": 503})])]


def test_a_listener_among_several_is_a_condition():
    both = [*GATEWAY, {"name": "proxy", "protocol": "http-proxy", "port": 3128}]
    (_, _, entries) = table("http.80", both, routes=[{"listeners": ["web"], "refuse": "not_found"}])[0]
    assert entries[0]["conditions"] == ["listeners: web"]
    assert entries[1] == everywhere(direct_response={"status": 502})


def test_rules_are_counted_because_they_are_asked_before():
    rules = [{"action": "deny", "hosts": ["a.example"]}]
    (first, _) = route_tables(config(rules=rules, allow=["b.example:443", "c.example:443"]))
    assert first["asked_before"] == {"rules": 1, "allow": 2}
    assert "asked_before" not in route_tables(config())[0]


def test_a_table_is_bounded_and_its_end_is_kept(monkeypatch):
    monkeypatch.setattr(module, "MAX_HOSTS", 3)
    services = [
        {"hosts": [f"h{number}.example"], "ports": [{"number": 80, "protocol": "HTTP"}]} for number in range(10)
    ]
    (found, _) = route_tables(config(services=services))
    assert [host["name"] for host in found["virtual_hosts"]] == [
        "h0.example:80",
        "h1.example:80",
        "h2.example:80",
        "blackhole:80",
    ]
    assert found["not_shown"] == 7


@pytest.mark.parametrize(
    ("listener", "name"),
    [
        ({"protocol": "http", "port": 8443, "service_port": 443}, "0.0.0.0_443"),
        ({"protocol": "http-proxy", "port": 3128}, "0.0.0.0_3128"),
        ({"protocol": "sni", "address": "::", "port": 15001}, "::_15001"),
    ],
)
def test_a_listener_is_called_as_istio_does_with_the_word_of_our_logs_beside_it(listener, name):
    settings = config([listener])
    (told,) = listener_statuses(settings)["listener_statuses"]
    (one,) = settings.listeners
    assert told == {
        "name": name,
        "label": one.label,
        "local_address": {"socket_address": {"address": one.address, "port_value": one.port}},
    }
    (dumped,) = config_dump(settings)["configs"][0]["dynamic_listeners"]
    assert dumped["name"] == dumped["active_state"]["listener"]["name"] == name
    assert dumped["active_state"]["listener"]["address"] == told["local_address"]


def test_the_dump_is_json_and_holds_the_tables():
    dumped = json.loads(json.dumps(config_dump(config(services=[CNN]))))
    tables = [each["route_config"] for each in dumped["configs"][1]["dynamic_route_configs"]]
    assert tables == route_tables(config(services=[CNN]))


# --- as published -------------------------------------------------------------------------------------------------

PUBLISHED = Path(__file__).parents[3] / "shared/istio/egress-gateway-tls-origination-simple/variants"


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="the published scenarios are not beside this repository")
def test_a_published_gateway_without_routes_is_dumped_as_its_page_shows_it():
    files = ("seed-003-01-serviceentry.yaml", "seed-003-02-gateway-destinationrule.yaml")
    settings = load([str(PUBLISHED / name) for name in files]).config
    assert "0.0.0.0_443" in [each["name"] for each in listener_statuses(settings)["listener_statuses"]]
    (found,) = [each for each in route_tables(settings) if each["name"] == "http.443"]
    last = found["virtual_hosts"][-1]
    assert (last["name"], last["domains"]) == ("blackhole:443", ["*"])
    assert last["routes"] == [everywhere(direct_response={"status": 404})]
