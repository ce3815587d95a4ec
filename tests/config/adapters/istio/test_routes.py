"""Which way requests and tunnels go, as Istio's sidecars and gateways would send them: one table row for each rule."""

from __future__ import annotations

import pytest
from support.istio import ALLOW_ANY, GATEWAY_HOST, REGISTRY_ONLY, entry, meets, thing, to, virtual_service

CNN = entry("edition.cnn.com", "80 HTTP", "443 HTTPS")
SUBSET = thing("DestinationRule to-gateway", f"{{host: {GATEWAY_HOST}, subsets: [{{name: cnn}}]}}")
OPEN = thing(
    "Gateway egress",
    "{selector: {istio: egressgateway}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: [edition.cnn.com]}]}",
)
THROUGH = virtual_service(
    "edition.cnn.com",
    "{gateways: [egress, mesh], http: ["
    f"{{match: [{{gateways: [mesh], port: 80}}], route: [{to(GATEWAY_HOST, 80, 'cnn')}]}}, "
    f"{{match: [{{gateways: [egress], port: 80}}], route: [{to('edition.cnn.com', 80)}]}}]}}",
)

# --- the outbound policy ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ask", "registry_only", "allow_any"),
    [
        ("get edition.cnn.com:80/", "outbound|80||edition.cnn.com", "outbound|80||edition.cnn.com"),
        ("tunnel edition.cnn.com:443", "outbound|443||edition.cnn.com", "outbound|443||edition.cnn.com"),
        ("get unknown.example:80/", "refused", "passes"),
        ("tunnel unknown.example:443", "refused", "passes"),
        # No HTTP service has the port, so that nothing parses requests on it.
        ("get unknown.example:8000/", "close", "passes"),
        ("get edition.cnn.com:443/", "close", "outbound|443||edition.cnn.com"),
        # A port that is declared HTTP parses HTTP, whatever comes.
        ("tunnel edition.cnn.com:80", "close", "close"),
    ],
)
def test_what_is_not_registered_meets_the_mesh_s_policy(ask: str, registry_only: str, allow_any: str) -> None:
    how, what = ask.split()
    assert getattr(meets(REGISTRY_ONLY, CNN), how)(what) == registry_only
    assert getattr(meets(ALLOW_ANY, CNN), how)(what) == allow_any


def test_a_request_to_a_port_of_tcp_is_carried_like_anything_else() -> None:
    found = meets(REGISTRY_ONLY, entry("db.example", "3306 TCP", more="addresses: [192.0.2.1]"))
    assert found.get("192.0.2.1:3306/") == "outbound|3306||db.example"
    assert found.tunnel("192.0.2.1:3306") == "outbound|3306||db.example"
    assert found.tunnel("db.example:3306") == "refused"  # a label, which takes part in no match


def test_services_of_native_settings_are_spared() -> None:
    beside = {
        "listeners": [{"protocol": "http", "port": 8080}],
        "services": [{"hosts": ["own.example"], "ports": [{"number": 8000, "protocol": "HTTP"}]}],
    }
    data = meets(REGISTRY_ONLY, CNN, beside=beside).data
    assert data["routes"][-1] == {
        "name": "unregistered-requests",
        "carries": "requests",
        "none": [{"ports": [80, 8000]}],
        "refuse": "close",
    }


# --- http routes in the mesh --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("match", "ask", "expected"),
    [
        ("{}", "a.example:80/", "outbound|80||b.example"),
        ("{port: 80}", "a.example:80/", "outbound|80||b.example"),
        (
            "{port: 8080}",
            "a.example:80/",
            "outbound|80||a.example",
        ),  # no route for the port: the object counts for nothing
        ("{gateways: [other]}", "a.example:80/", "outbound|80||a.example"),
        ("{uri: {exact: /x}}", "a.example:80/x", "outbound|80||b.example"),
        ("{uri: {exact: /x}}", "a.example:80/xy", "not_found"),
        ("{uri: {prefix: /x}}", "a.example:80/xy", "outbound|80||b.example"),
        ("{uri: {prefix: /x}}", "a.example:80/y", "not_found"),
        ("{uri: {prefix: /x}}", "a.example:80/x/../y", "not_found"),  # who reads it in another way finds another path
        ("{uri: {prefix: /x}}", "a.example:80/x/%2e%2e/y", "not_found"),
        ("{uri: {prefix: /x/}}", "a.example:80/x/y", "outbound|80||b.example"),
        ("{uri: {prefix: /x/}}", "a.example:80/xy", "not_found"),
        ("{uri: {prefix: /}}", "a.example:80/", "outbound|80||b.example"),
        ("{uri: {regex: '/v[0-9]+'}}", "a.example:80/v12", "outbound|80||b.example"),
        ("{uri: {regex: '/v[0-9]+'}}", "a.example:80/v12/x", "not_found"),
        ("{method: {exact: POST}}", "a.example:80/", "not_found"),
        ("{method: {exact: GET}, uri: {prefix: /x}}", "a.example:80/x", "outbound|80||b.example"),
    ],
)
def test_conditions_of_a_route(match: str, ask: str, expected: str) -> None:
    found = meets(
        entry("a.example", "80 HTTP"),
        entry("b.example", "80 HTTP"),
        virtual_service("a.example", f"{{http: [{{match: [{match}], route: [{to('b.example')}]}}]}}"),
    )
    assert found.get(ask) == expected


@pytest.mark.parametrize(
    ("uri", "path", "narrow", "closed"),
    [
        # The host of the first route, and of a first route that leads nowhere.
        ("prefix: /admin", "/administrator", "b", "unavailable"),
        ("prefix: /admin", "/other/..", "c", "c"),
        ("prefix: /admin", "/x/../admin", "b", "unavailable"),
        ("prefix: /admin", "/%61dmin", "b", "unavailable"),
        # Where servers differ, one of them may find what the first route is for.
        ("prefix: /admin", "//admin", "not_found", "unavailable"),
        ("prefix: /admin", "/x/..%2fadmin", "not_found", "unavailable"),
        ("prefix: /admin", "/x/%c0%afadmin", "not_found", "unavailable"),
        ("prefix: /admin/", "//admin/x", "not_found", "unavailable"),
        ("prefix: /admin/", "/admin/../x", "c", "c"),
        ("exact: /admin", "//admin", "not_found", "unavailable"),
        ("exact: /admin", "/x/../admin", "b", "unavailable"),
        ("exact: /admin/*", "/admin/x", "c", "c"),  # a star as it stands
        ("regex: '/adm.*'", "/x/admin", "c", "c"),
        ("regex: '/adm.*'", "/.;x/admin", "not_found", "unavailable"),
        ("regex: '/adm[[:alpha:]]*'", "/admin", "b", "unavailable"),
    ],
)
def test_no_way_of_writing_a_path_falls_through_to_a_wider_route(uri: str, path: str, narrow: str, closed: str) -> None:
    def expected(end: str) -> str:
        return f"outbound|80||{end}.example" if len(end) == 1 else end

    for host, end in (("b", narrow), ("unknown", closed)):
        routes = (
            f"{{http: [{{match: [{{uri: {{{uri}}}}}], route: [{to(f'{host}.example')}]}}, "
            f"{{route: [{to('c.example')}]}}]}}"
        )
        found = meets(*(entry(f"{name}.example", "80 HTTP") for name in "abc"), virtual_service("a.example", routes))
        assert found.get(f"a.example:80{path}") == expected(end), host


def test_an_expression_sees_the_path_and_not_the_query() -> None:
    routes = f"{{http: [{{match: [{{uri: {{regex: '.*[.]png'}}}}], route: [{to('a.example')}]}}]}}"
    found = meets(entry("a.example", "80 HTTP"), virtual_service("a.example", routes))
    assert found.get("a.example:80/x.png?size=1") == "outbound|80||a.example"
    assert found.get("a.example:80/x.txt?x=.png") == "not_found"


def test_alternatives_of_a_match_and_the_order_of_routes() -> None:
    found = meets(
        *(entry(f"{name}.example", "80 HTTP") for name in "abc"),
        virtual_service(
            "a.example",
            f"{{http: [{{match: [{{uri: {{exact: /x}}}}, {{uri: {{exact: /y}}}}], route: [{to('b.example')}]}}, "
            f"{{route: [{to('c.example')}]}}, {{route: [{to('b.example')}]}}]}}",
        ),
    )
    assert [found.get(f"a.example:80{path}") for path in ("/x", "/y", "/z")] == [
        "outbound|80||b.example",
        "outbound|80||b.example",
        "outbound|80||c.example",
    ]


def test_a_route_for_a_host_without_service_counts_on_port_80_alone() -> None:
    found = meets(
        REGISTRY_ONLY,
        entry("b.example", "80 HTTP", "8080 HTTP"),
        virtual_service("a.example", f"{{http: [{{route: [{to('b.example', 80)}]}}]}}"),
    )
    assert found.get("a.example:80/") == "outbound|80||b.example"
    assert found.get("a.example:8080/") == "refused"


def test_a_route_counts_on_every_http_port_of_its_service() -> None:
    found = meets(
        entry("a.example", "8080 HTTP", "9090 HTTP", "443 TLS"),
        entry("b.example", "80 HTTP"),
        virtual_service("a.example", f"{{http: [{{route: [{to('b.example')}]}}]}}"),
    )
    assert [found.get(f"a.example:{port}/") for port in (8080, 9090)] == ["outbound|80||b.example"] * 2
    assert found.tunnel("a.example:443") == "outbound|443||a.example"


def test_an_exact_host_goes_before_a_longer_wildcard_and_that_before_a_shorter_one() -> None:
    found = meets(
        *(entry(f"{name}.test", "80 HTTP") for name in "xyz"),
        virtual_service("*.example", f"{{http: [{{route: [{to('x.test')}]}}]}}", title="VirtualService a"),
        virtual_service("*.b.example", f"{{http: [{{route: [{to('y.test')}]}}]}}", title="VirtualService b"),
        virtual_service("a.b.example", f"{{http: [{{route: [{to('z.test')}]}}]}}", title="VirtualService c"),
    )
    assert [found.get(f"{host}:80/") for host in ("a.b.example", "c.b.example", "d.example")] == [
        "outbound|80||z.test",
        "outbound|80||y.test",
        "outbound|80||x.test",
    ]
    assert found.get("example:80/") == "refused"  # a wildcard is never for the apex


def test_of_two_virtual_services_for_a_host_the_oldest_counts_in_the_mesh() -> None:
    def routes(host: str, name: str, created: str) -> str:
        return virtual_service(
            "a.example",
            f"{{http: [{{route: [{to(host)}]}}]}}",
            title=f"VirtualService {name}",
            metadata=f'creationTimestamp: "{created}"',
        )

    entries = [entry(f"{name}.example", "80 HTTP") for name in "abc"]
    younger, older = routes("b.example", "b", "2026-02-01T00:00:00Z"), routes("c.example", "c", "2026-01-01T00:00:00Z")
    found = meets(*entries, younger, older)
    assert found.get("a.example:80/") == "outbound|80||c.example"
    assert "a.example port 80 has routes of an older VirtualService" in found.notes[-1]
    same_age = [each.replace("2026-02", "2026-01") for each in (older, younger)]
    assert meets(*entries, *same_age).get("a.example:80/") == "outbound|80||b.example"  # by name


def test_shares_and_times() -> None:
    found = meets(
        *(entry(f"{name}.example", "80 HTTP") for name in "abc"),
        virtual_service(
            "a.example",
            f"{{http: [{{route: [{to('b.example', weight=75)}, {to('c.example', weight=25)}], timeout: 1m30s, name: split}}]}}",
        ),
    )
    assert found.get("a.example:80/") == "outbound|80||b.example x75 or outbound|80||c.example x25"
    assert found.data["routes"][0]["timeout_s"] == 90
    assert found.data["routes"][0]["name"] == "split"


# --- tls and tcp routes in the mesh -------------------------------------------------------------------------------

SNI = f"{{tls: [{{match: [{{port: 443, sniHosts: [en.wiki.example]}}], route: [{to('www.wiki.example', 443)}]}}]}}"


def test_a_tls_route_needs_a_registered_tls_service_that_overlaps() -> None:
    routes = virtual_service("*.wiki.example", SNI)
    with_service = meets(REGISTRY_ONLY, entry("www.wiki.example", "443 TLS"), routes)
    assert with_service.tunnel("en.wiki.example:443") == "outbound|443||www.wiki.example"
    assert with_service.tunnel("de.wiki.example:443") == "refused"
    assert (
        meets(REGISTRY_ONLY, entry("www.other.example", "443 TLS"), routes).tunnel("en.wiki.example:443") == "refused"
    )
    on_another_port = meets(REGISTRY_ONLY, entry("www.wiki.example", "8443 TLS"), routes)
    assert on_another_port.tunnel("en.wiki.example:443") == "refused"


def test_a_service_with_a_tls_route_takes_no_other_names() -> None:
    found = meets(
        REGISTRY_ONLY,
        entry("*.wiki.example", "443 TLS", more="resolution: NONE"),
        entry("www.wiki.example", "443 TLS", title="ServiceEntry exact"),
        virtual_service("*.wiki.example", SNI.replace("port: 443, ", "")),
    )
    assert found.tunnel("en.wiki.example:443") == "outbound|443||www.wiki.example"
    assert found.tunnel("de.wiki.example:443") == "close"


def test_a_tls_service_without_routes_is_relayed_by_its_name() -> None:
    found = meets(REGISTRY_ONLY, entry("*.wiki.example", "443 HTTPS", more="resolution: NONE"))
    assert found.tunnel("en.wiki.example:443") == "outbound|443||*.wiki.example"
    assert found.tunnel("wiki.example:443") == "refused"
    assert found.services["outbound|443||*.wiki.example"]["resolution"] == "none"


def test_a_tcp_route_leads_what_asks_for_the_service_s_address() -> None:
    found = meets(
        entry("db.example", "3306 TCP", more="addresses: [192.0.2.1]"),
        entry("other.example", "3306 TCP", more="addresses: [192.0.2.2]"),
        virtual_service("db.example", f"{{tcp: [{{match: [{{port: 3306}}], route: [{to('other.example', 3306)}]}}]}}"),
    )
    assert found.tunnel("192.0.2.1:3306") == "outbound|3306||other.example"


# --- destinations that lead nowhere -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("destination", "why"),
    [
        (to("nobody.example"), "nobody.example is in no registry that is seen here, so that nothing is reached"),
        (to("a.example", 81), "a.example has no port 81, so that nothing is reached"),
        (to("a.example", 80, "v1"), "no DestinationRule that is seen here defines subset v1 of a.example"),
    ],
)
def test_a_destination_that_is_nowhere_is_unavailable(destination: str, why: str) -> None:
    found = meets(
        entry("a.example", "80 HTTP"), virtual_service("a.example", f"{{http: [{{route: [{destination}]}}]}}")
    )
    assert found.get("a.example:80/") == "unavailable"
    assert any(note.endswith(f"{why}: requests get 503, tunnels are closed") for note in found.notes)


def test_shares_of_which_one_leads_nowhere_are_a_fault() -> None:
    found = meets(
        entry("a.example", "80 HTTP"),
        virtual_service(
            "a.example", f"{{http: [{{route: [{to('a.example', weight=1)}, {to('nobody.example', weight=1)}]}}]}}"
        ),
    )
    assert [fault.partition(": ")[2][:40] for fault in found.faults] == ["shares between destinations of which one"]


# --- through the gateway ------------------------------------------------------------------------------------------


def test_the_two_hops_are_followed_to_their_end() -> None:
    found = meets(REGISTRY_ONLY, CNN, OPEN, SUBSET, THROUGH)
    assert found.get("edition.cnn.com:80/") == "outbound|80||edition.cnn.com"
    assert (
        found.tunnel("edition.cnn.com:443") == "outbound|443||edition.cnn.com"
    )  # only what is routed there goes there
    assert not any("outbound|80|cnn|" in name for name in found.services)


@pytest.mark.parametrize(
    ("left_out", "expected"),
    [
        (SUBSET, "unavailable"),  # the subset is not defined
        (OPEN, "unavailable"),  # no gateway listens
        (CNN, "unavailable"),  # the gateway's destination is in no registry
        (THROUGH, "not_found"),  # a gateway without route
    ],
)
def test_each_piece_of_the_way_is_needed(left_out: str, expected: str) -> None:
    pieces = [piece for piece in (CNN, OPEN, SUBSET, THROUGH) if piece is not left_out]
    assert meets(REGISTRY_ONLY, *pieces).get("edition.cnn.com:80/") == expected


def test_a_gateway_is_found_by_the_labels_of_its_service() -> None:
    service = (
        "apiVersion: v1\nkind: Service\nmetadata: {name: istio-egressgateway, namespace: istio-system}\n"
        "spec: {selector: {istio: LABEL}, ports: [{port: 80, name: http2, targetPort: 8080}]}\n"
    )
    pieces = (REGISTRY_ONLY, CNN, OPEN, SUBSET, THROUGH)
    fits = meets(*pieces, service.replace("LABEL", "egressgateway"))
    assert fits.get("edition.cnn.com:80/") == "outbound|80||edition.cnn.com"
    assert fits.get(f"{GATEWAY_HOST}:80/") == "not_found"  # the gateway knows no host of its own name
    # Then the name is that of an ordinary service, which has no such gateway behind it.
    assert GATEWAY_HOST in meets(*pieces, service.replace("LABEL", "another")).get("edition.cnn.com:80/")


def test_hosts_that_a_gateway_does_not_know_are_not_found() -> None:
    found = meets(REGISTRY_ONLY, CNN, entry("known.example", "80 HTTP"), OPEN, SUBSET, THROUGH)
    assert found.get("unknown.example:80/") == "not_found"
    assert found.get("known.example:80/") == "outbound|80||known.example"


def test_routes_of_several_virtual_services_are_joined_at_a_gateway() -> None:
    def at_gateway(name: str, match: str, host: str) -> str:
        rules = f"{{gateways: [egress], http: [{{match: [{match}], route: [{to(host)}]}}]}}"
        return virtual_service("edition.cnn.com", rules, title=f"VirtualService {name}")

    others = [entry(f"{name}.example", "80 HTTP") for name in "ab"]
    found = meets(
        *others, OPEN, at_gateway("a", "{port: 80}", "a.example"), at_gateway("b", "{uri: {exact: /x}}", "b.example")
    )
    assert found.get("edition.cnn.com:80/x") == "outbound|80||b.example"  # what always matches comes last
    assert found.get("edition.cnn.com:80/y") == "outbound|80||a.example"


def test_the_times_of_both_hops_count() -> None:
    through = THROUGH.replace("{match: [{gateways: [mesh]", "{timeout: 5s, match: [{gateways: [mesh]").replace(
        "{match: [{gateways: [egress]", "{timeout: 3s, match: [{gateways: [egress]"
    )
    assert meets(CNN, OPEN, SUBSET, through).data["routes"][0]["timeout_s"] == 3


def test_no_resolution_at_a_gateway_is_an_empty_cluster() -> None:
    none = entry("edition.cnn.com", "80 HTTP", more="resolution: NONE")
    found = meets(none, OPEN, SUBSET, THROUGH)
    assert found.get("edition.cnn.com:80/") == "unavailable"
    assert any("a gateway does not know what its client dialled" in note for note in found.notes)


def test_a_gateway_s_port_of_tcp_knows_no_hosts() -> None:
    found = meets(REGISTRY_ONLY, CNN, gateway("TCP", None, port=8000))
    assert found.get("unknown.example:8000/") == "close"
    assert any("reached by routes only: TCP names no host by itself" in note for note in found.notes)


def test_a_gateway_s_route_to_a_gateway_ends() -> None:
    loop = THROUGH.replace(to("edition.cnn.com", 80), to(GATEWAY_HOST, 80))
    assert meets(CNN, OPEN, SUBSET, loop).get("edition.cnn.com:80/") == "unavailable"


# --- which servers of a gateway fit -------------------------------------------------------------------------------


def gateway(protocol: str, mode: str | None, port: int = 443, host: str = "edition.cnn.com") -> str:
    tls = f", tls: {{mode: {mode}}}" if mode else ""
    return thing(
        "Gateway egress",
        f"{{selector: {{istio: egressgateway}}, servers: [{{port: {{number: {port}, name: p, protocol: {protocol}}}, "
        f"hosts: ['{host}']{tls}}}]}}",
    )


def towards(mode: str | None, sni: str | None = None) -> str:
    """How the mesh speaks with the gateway."""
    inside = f"mode: {mode}" + (f", sni: {sni}" if sni else "")
    policy = f", trafficPolicy: {{tls: {{{inside}}}}}" if mode else ""
    return thing("DestinationRule to-gateway", f"{{host: {GATEWAY_HOST}, subsets: [{{name: cnn{policy}}}]}}")


def hops(kind_there: str, kind_behind: str, target_port: int) -> str:
    there = (
        "{gateways: [mesh], port: 80}" if kind_there == "http" else "{gateways: [mesh], sniHosts: [edition.cnn.com]}"
    )
    behind = "{gateways: [egress], port: 443}"
    if kind_behind == "tls":
        behind = "{gateways: [egress], sniHosts: [edition.cnn.com]}"
    one = f"{{match: [{there}], route: [{to(GATEWAY_HOST, 443, 'cnn')}]}}"
    two = f"{{match: [{behind}], route: [{to('edition.cnn.com', target_port)}]}}"
    rules = (
        f"{kind_there}: [{one}, {two}]"
        if kind_there == kind_behind
        else f"{kind_there}: [{one}], {kind_behind}: [{two}]"
    )
    return virtual_service("edition.cnn.com", f"{{gateways: [egress, mesh], {rules}}}")


@pytest.mark.parametrize(
    ("protocol", "mode", "hop", "sni", "kinds", "expected"),
    [
        # plain requests, in the clear or in TLS of the mesh that ends at the gateway
        ("HTTP", None, None, None, "http http", "outbound|443||edition.cnn.com"),
        ("HTTPS", "ISTIO_MUTUAL", "ISTIO_MUTUAL", "edition.cnn.com", "http http", "outbound|443||edition.cnn.com"),
        ("HTTPS", "ISTIO_MUTUAL", "ISTIO_MUTUAL", None, "http http", "unavailable"),  # a name that no server has
        ("HTTPS", "ISTIO_MUTUAL", None, None, "http http", "unavailable"),  # plain text on a port of TLS
        ("HTTP", None, "ISTIO_MUTUAL", "edition.cnn.com", "http http", "unavailable"),  # the reverse
        ("TLS", "ISTIO_MUTUAL", "ISTIO_MUTUAL", "edition.cnn.com", "http tcp", "outbound|443||edition.cnn.com"),
        # TLS that passes through, or in TLS of the mesh
        ("TLS", "PASSTHROUGH", None, None, "tls tls", "outbound|443||edition.cnn.com"),
        ("HTTPS", "PASSTHROUGH", None, None, "tls tls", "outbound|443||edition.cnn.com"),
        ("HTTPS", "PASSTHROUGH", "ISTIO_MUTUAL", "edition.cnn.com", "tls tls", "unavailable"),
        ("TLS", "ISTIO_MUTUAL", "ISTIO_MUTUAL", "edition.cnn.com", "tls tcp", "outbound|443||edition.cnn.com"),
        ("TLS", "ISTIO_MUTUAL", "ISTIO_MUTUAL", None, "tls tcp", "unavailable"),
        ("TCP", None, None, None, "tls tcp", "outbound|443||edition.cnn.com"),
        ("HTTPS", "ISTIO_MUTUAL", "ISTIO_MUTUAL", "edition.cnn.com", "tls http", "unavailable"),  # TLS is no HTTP
    ],
)
def test_protocol_and_mode_of_a_server_decide_what_it_takes(
    protocol: str, mode: str | None, hop: str | None, sni: str | None, kinds: str, expected: str
) -> None:
    there, behind = kinds.split()
    found = meets(CNN, gateway(protocol, mode), towards(hop, sni), hops(there, behind, 443))
    ask = found.get("edition.cnn.com:80/") if there == "http" else found.tunnel("edition.cnn.com:443")
    assert ask == expected


FORWARDS = thing(
    "EnvoyFilter forward-downstream-sni",
    "{configPatches: [{applyTo: NETWORK_FILTER, match: {context: SIDECAR_OUTBOUND, listener: {portNumber: 443}}, "
    "patch: {operation: INSERT_BEFORE, value: {name: forward_downstream_sni, config: {}}}}]}",
)


def test_the_client_s_server_name_reaches_the_gateway_where_a_filter_forwards_it() -> None:
    pieces = (CNN, gateway("TLS", "ISTIO_MUTUAL"), towards("ISTIO_MUTUAL"), hops("tls", "tcp", 443))
    assert meets(*pieces).tunnel("edition.cnn.com:443") == "unavailable"
    assert meets(*pieces, FORWARDS).tunnel("edition.cnn.com:443") == "outbound|443||edition.cnn.com"


# --- who comes to the gateway by itself ---------------------------------------------------------------------------


def test_a_gateway_serves_its_routes_to_whoever_comes() -> None:
    at_gateway = virtual_service(
        "edition.cnn.com",
        f"{{gateways: [egress], http: [{{match: [{{port: 443}}], route: [{to('edition.cnn.com', 80)}]}}]}}",
    )
    found = meets(REGISTRY_ONLY, CNN, gateway("HTTP", None), at_gateway)
    assert found.get("edition.cnn.com:443/") == "outbound|80||edition.cnn.com"
    assert found.get("other.example:443/") == "not_found"


def test_a_wildcard_of_a_gateway_leaves_registered_hosts_to_the_mesh() -> None:
    found = meets(ALLOW_ANY, CNN, gateway("HTTP", None, port=80, host="*"))
    assert found.get("edition.cnn.com:80/") == "outbound|80||edition.cnn.com"
    assert found.get("unknown.example:80/") == "not_found"


def test_tls_that_a_gateway_passes_through_and_has_no_route_for_is_closed() -> None:
    found = meets(ALLOW_ANY, gateway("TLS", "PASSTHROUGH", host="*.cnn.com"))
    assert found.tunnel("edition.cnn.com:443") == "close"
    assert found.tunnel("other.example:443") == "passes"


def test_tls_that_ends_at_a_gateway_is_not_served_and_noted() -> None:
    found = meets(REGISTRY_ONLY, CNN, gateway("HTTPS", "ISTIO_MUTUAL", port=80))
    assert found.get("edition.cnn.com:80/") == "outbound|80||edition.cnn.com"  # as without the gateway
    assert "who comes to the gateway from outside the mesh is not served on this port" in found.notes[0]
