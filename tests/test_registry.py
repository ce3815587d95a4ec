"""How registered hosts are reached."""

import gc
import weakref

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egressproxy.config.schema.config import Config
from egressproxy.hostport import HostPattern
from egressproxy.registry import Registry, Route, RouteEndpoint

LISTENERS = [{"protocol": "http", "port": 8080}]
PLAIN = [{"number": 80, "protocol": "HTTP"}]


def config(*services):
    return Config.model_validate({"listeners": LISTENERS, "services": services})


def registry(*services):
    return Registry.from_config(config(*services))


def service(*hosts, **settings):
    return {"hosts": hosts, "ports": PLAIN, **settings}


def found_by(known, host, port=80):
    route = known.find(host, port)
    return None if route is None else route.service


def test_what_nobody_registered_has_no_route():
    assert registry().find("a.example", 80) is None
    known = registry(service("a.example"))
    assert known.find("b.example", 80) is None
    assert known.find("a.example", 443) is None


def test_a_route_says_all_that_the_service_does():
    known = registry(
        service("other.example"),
        {
            "hosts": ["edition.cnn.com", "*.cnn.com"],
            "ports": [{"number": 80, "protocol": "HTTP", "target_port": 443}, {"number": 8080}],
            "tls": {"mode": "simple"},
            "timeout_s": 3,
            "connect_timeout_s": 1.5,
            "idle_timeout_s": 60,
            "set_headers": {"Authorization": {"file": "token"}},
        },
    )
    route = known.find("www.cnn.com", 80)
    assert route is not None
    assert route.tls is not None
    assert route == Route(
        service=1,
        name="edition.cnn.com",
        host="www.cnn.com",
        port=443,
        resolution="dns",
        endpoints=(),
        tls=route.tls,
        timeout_s=3,
        connect_timeout_s=1.5,
        idle_timeout_s=60,
        has_headers=True,
        declared_tls=False,
    )
    assert route.tls.mode == "simple"
    other = known.find("www.cnn.com", 8080)
    assert other is not None
    assert other.port == 8080


def test_what_is_left_out_is_none():
    route = registry(service("a.example")).find("a.example", 80)
    assert route == Route(0, "a.example", "a.example", 80, "dns", (), None, None, None, None, False, False)


def test_tls_that_is_disabled_is_none():
    assert registry(service("a.example", tls={"mode": "disable"})).find("a.example", 80).tls is None


def test_endpoints_are_names_and_addresses():
    endpoints = [
        {"address": "192.0.2.1"},
        {"address": "[2001:DB8::1]", "port": 8080, "weight": 3},
        {"address": "B.Example."},
    ]
    route = registry(service("a.example", endpoints=endpoints)).find("a.example", 80)
    assert route.endpoints == (
        RouteEndpoint("192.0.2.1", True, None, 1),
        RouteEndpoint("2001:db8::1", True, 8080, 3),
        RouteEndpoint("b.example", False, None, 1),
    )
    assert route.resolution == "dns"
    static = registry(service("a.example", endpoints=endpoints[:2], resolution="static")).find("a.example", 80)
    assert static.resolution == "static"


def test_an_alias_leads_to_the_host_that_it_stands_for():
    known = registry(service("wikipedia.org", aliases=["my-wiki", "my-wiki.default.svc"]))
    for host in ("my-wiki", "my-wiki.default.svc", "wikipedia.org"):
        route = known.find(host, 80)
        assert (route.name, route.host) == ("wikipedia.org", "wikipedia.org")
    assert known.find("my-wiki.default", 80) is None


def test_the_exact_name_goes_first_then_the_longest_suffix():
    known = registry(
        service("*.example"),
        service("*.b.example"),
        service("*.a.b.example"),
        service("x.a.b.example"),
        service("10.0.0.1"),
    )
    assert found_by(known, "x.a.b.example") == 3
    assert found_by(known, "y.a.b.example") == 2
    assert found_by(known, "z.y.a.b.example") == 2
    assert found_by(known, "a.b.example") == 1
    assert found_by(known, "b.example") == 0
    assert found_by(known, "example") is None
    assert found_by(known, "10.0.0.1") == 4


def test_a_service_without_the_port_leaves_it_to_the_next_one():
    known = registry(
        service("a.b.example", ports=[{"number": 1}]),
        service("*.b.example", ports=[{"number": 2}]),
        service("*.example", ports=[{"number": 3}]),
        service("a.b.example", ports=[{"number": 4}, {"number": 1}]),
    )
    assert [found_by(known, "a.b.example", port) for port in (1, 2, 3, 4, 5)] == [0, 1, 2, 3, None]


def test_the_first_of_equal_services_wins():
    assert found_by(registry(service("a.example"), service("a.example"), service("a.example")), "a.example") == 0
    assert found_by(registry(service("*.example"), service("*.example")), "a.example") == 0
    assert found_by(registry(service("b.example", aliases=["a.example"]), service("a.example")), "a.example") == 0
    assert found_by(registry(service("a.example"), service("b.example", aliases=["a.example"])), "a.example") == 0


def test_one_destination_has_one_route():
    known = registry(service("*.example"))
    assert known.find("a.example", 80) is known.find("a.example", 80)


def test_the_tables_of_an_old_registry_wait_for_no_garbage_collector():
    settings = config(service("a.example"))
    witness = weakref.ref(settings.services[0])
    known = Registry.from_config(settings)
    assert found_by(known, "a.example") == 0
    gc.disable()
    try:
        del settings
        assert witness() is not None
        del known
        assert witness() is None
    finally:
        gc.enable()


labels = st.sampled_from(["a", "b", "c"])
names = st.lists(labels, min_size=1, max_size=4).map(".".join)
ports = st.lists(st.sampled_from([80, 443]), min_size=1, max_size=2, unique=True).map(
    lambda numbers: [{"number": number} for number in numbers]
)
services = st.builds(
    dict, hosts=st.lists(names | names.map("*.{}".format), min_size=1, max_size=2), ports=ports
) | st.builds(dict, hosts=names.map(lambda name: [name]), ports=ports, aliases=st.lists(names, max_size=2, unique=True))


def found_slowly(settings, host, port):
    """What the docstring of `find` says, read aloud: the service's position."""
    ranked = []
    for position, one in enumerate(settings.services):
        if port not in [each.number for each in one.ports]:
            continue
        if HostPattern("exact", host) in one.hosts or host in one.aliases:
            ranked.append((0, position))
        ranked += [
            (-len(pattern.host) + 1000, position)
            for pattern in one.hosts
            if pattern.kind == "suffix" and host.endswith(f".{pattern.host}")
        ]
    return min(ranked)[1] if ranked else None


@given(st.lists(services, max_size=6), names, st.sampled_from([80, 443, 22]))
def test_finds_what_a_walk_through_the_services_finds(described, host, port):
    settings = config(*described)
    assert found_by(Registry.from_config(settings), host, port) == found_slowly(settings, host, port)


@pytest.mark.parametrize("count", [1, 1000, 30_000])
def test_routes_are_equal_with_any_number_of_services(count):
    meant = config(service("*.example", timeout_s=5), service("api.example"))
    one = meant.services[1]
    fill = tuple(one.model_copy(update={"hosts": (HostPattern("exact", f"h{n}.test"),)}) for n in range(count))
    known = Registry.from_config(meant.model_copy(update={"services": (*fill, *meant.services)}))
    assert found_by(known, "x.example") == count
    assert found_by(known, "api.example") == count + 1
    assert found_by(known, f"h{count - 1}.test") == count - 1
    assert found_by(known, "example") is None


@pytest.mark.parametrize("protocol", ["TLS", "HTTPS"])
def test_a_port_that_is_declared_to_be_tls_has_its_tunnels_checked_and_needs_tls(protocol):
    declared = {"ports": [{"number": 8443, "protocol": protocol}, {"number": 80}]}
    known = registry(service("a.example", **declared), service("b.example", **declared, tls={"mode": "simple"}))
    route = known.find("a.example", 8443)
    assert (route.tunnel_port, route.needs_tls) == (443, True)
    assert not known.find("a.example", 80).needs_tls
    assert not known.find("b.example", 8443).needs_tls, "the proxy speaks it"


@pytest.mark.parametrize("declared", [{"protocol": "HTTP"}, {"protocol": "TCP"}, {}])
def test_what_else_is_declared_asks_for_nothing(declared):
    ports = [{"number": number, **declared} for number in (80, 443)]
    known = registry(service("a.example", ports=ports))
    route = known.find("a.example", 80)
    assert (route.tunnel_port, route.needs_tls) == (None, False)
    assert known.find("a.example", 443).tunnel_port == 443, "as everywhere"


# --- routes, names, addresses -------------------------------------------------------------------------------------

WIKI = {"name": "outbound|443||www.wikipedia.org", "hosts": ["www.wikipedia.org"], "ports": [{"number": 443}]}


def routed(host, port, turn=0, *, services, **route):
    config = Config.model_validate({"listeners": LISTENERS, "services": services, "routes": [route]})
    return Registry.from_config(config).routed(0, turn, host, port)


def test_a_route_leads_to_the_one_name_of_its_service():
    route = routed("de.wikipedia.org", 443, services=[WIKI], to=[{"service": WIKI["name"]}], timeout_s=3, name="all")
    assert (route.host, route.port, route.name) == ("www.wikipedia.org", 443, WIKI["name"])
    assert (route.timeout_s, route.route) == (3, "all")


def test_a_service_with_a_wildcard_is_reached_by_the_name_that_was_asked_for():
    several = {"name": "all", "hosts": ["*.wikipedia.org"], "ports": [{"number": 443}]}
    assert routed("de.wikipedia.org", 443, services=[several], to=[{"service": "all"}]).host == "de.wikipedia.org"


def test_a_destination_says_which_port_of_the_service():
    ports = [{"number": 80, "protocol": "HTTP"}, {"number": 443, "target_port": 8443}]
    both = {"name": "both", "hosts": ["a.example"], "ports": ports}
    assert routed("a.example", 80, services=[both], to=[{"service": "both", "port": 443}]).port == 8443
    assert routed("a.example", 443, services=[both], to=[{"service": "both"}]).port == 8443
    assert routed("a.example", 9, services=[both], to=[{"service": "both"}]).port == 9
    only = {"name": "only", "hosts": ["a.example"], "ports": [{"number": 443}]}
    assert routed("a.example", 80, services=[only], to=[{"service": "only"}]).port == 443


def test_destinations_take_turns_and_have_their_weights():
    services = [
        WIKI,
        {"name": "other", "endpoints": [{"address": "192.0.2.7"}], "resolution": "static", "ports": PLAIN},
    ]
    to = [{"service": "other", "weight": 9}, {"service": WIKI["name"]}]
    assert routed("x.example", 80, services=services, to=to).endpoints[0].host == "192.0.2.7"
    assert routed("x.example", 80, 1, services=services, to=to).host == "www.wikipedia.org"
    config = Config.model_validate({"listeners": LISTENERS, "services": services, "routes": [{"to": to}]})
    assert Registry.from_config(config).weights == [[9, 1]]


def test_a_service_is_known_by_its_addresses_on_its_ports():
    known = registry(
        service("a.example"),
        {"hosts": ["proxy.example"], "addresses": ["172.30.0.0/16"], "ports": [{"number": 3128}], "resolution": "none"},
        {
            "hosts": ["w.svc.local"],
            "addresses": ["10.96.0.9"],
            "ports": [{"number": 443}],
            "resolution": "static",
            "endpoints": [{"address": "192.0.2.1"}],
        },
    )
    route = known.find("172.30.109.95", 3128)
    assert route is not None
    assert (route.host, route.name, route.by_address) == ("172.30.109.95", "proxy.example", True)
    assert route.writes_down(["172.30.109.95"])
    assert not route.writes_down(["172.30.109.95", "10.0.0.1"])  # a name that leads to both is judged as everywhere
    assert known.find("172.31.0.1", 3128) is None
    assert known.find("172.30.109.95", 443) is None
    static = known.find("10.96.0.9", 443)
    assert static is not None
    assert [each.host for each in static.endpoints] == ["192.0.2.1"]
    assert known.takes_unseen("10.96.0.9", 443)
    assert not known.takes_unseen("10.96.0.9", 80)
    assert not known.takes_unseen("10.96.0.8", 443)
