"""The registry as sidecars and gateways see it: visibility, destination rules, TLS, secrets, and the clusters they come to."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from support.istio import GATEWAY_HOST, REGISTRY_ONLY, entry, meets, thing, to, virtual_service

A = entry("a.example", "80 HTTP", "443 TLS")


def rule(inside: str, host: str = "a.example", title: str = "DestinationRule a") -> str:
    return thing(title, f"{{host: '{host}', {inside}}}")


# --- which object counts, and who sees it -------------------------------------------------------------------------


def test_of_two_entries_for_one_host_and_port_the_oldest_counts() -> None:
    young = entry(
        "a.example", "80 HTTP", more="resolution: STATIC, endpoints: [{address: 192.0.2.1}]", title="ServiceEntry a"
    )
    old = entry("a.example", "80 HTTP", title="ServiceEntry b", metadata='creationTimestamp: "2020-01-01T00:00:00Z"')
    found = meets(young, old)
    assert "resolution" not in found.services["outbound|80||a.example"]
    assert "a.example port 80 is registered by an earlier object" in found.notes[-1]


def test_entries_for_other_ports_of_one_host_go_together() -> None:
    found = meets(REGISTRY_ONLY, entry("a.example", "80 HTTP"), entry("a.example", "443 TLS", title="ServiceEntry b"))
    assert found.get("a.example:80/") == "outbound|80||a.example"
    assert found.tunnel("a.example:443") == "outbound|443||a.example"


@pytest.mark.parametrize(
    ("namespace", "export_to", "expected"),
    [
        ("default", "", "outbound|443||a.example"),
        ("other", "", "outbound|443||a.example"),
        ("other", "exportTo: ['*']", "outbound|443||a.example"),
        ("other", "exportTo: [default]", "outbound|443||a.example"),
        ("default", "exportTo: ['.']", "outbound|443||a.example"),
        ("other", "exportTo: ['.']", "refused"),
        ("default", "exportTo: [other]", "refused"),
    ],
)
def test_an_entry_is_seen_where_it_is_exported_to(namespace: str, export_to: str, expected: str) -> None:
    found = meets(REGISTRY_ONLY, entry("a.example", "443 TLS", more=export_to, title=f"ServiceEntry a {namespace}"))
    assert found.tunnel("a.example:443") == expected


@pytest.mark.parametrize(
    ("hosts", "expected"),
    [
        ("'*/*'", ["outbound|80||a.example", "outbound|80||b.example"]),
        ("./*", ["outbound|80||a.example", "refused"]),
        ("other/*", ["refused", "outbound|80||b.example"]),
        ("'*/b.example'", ["refused", "outbound|80||b.example"]),
        ("~/*", ["refused", "refused"]),
    ],
)
def test_a_sidecar_limits_what_clients_see(hosts: str, expected: list[str]) -> None:
    found = meets(
        REGISTRY_ONLY,
        entry("a.example", "80 HTTP"),
        entry("b.example", "80 HTTP", title="ServiceEntry b other"),
        thing("Sidecar default", f"{{egress: [{{hosts: [{hosts}]}}]}}"),
    )
    assert [found.get(f"{name}.example:80/") for name in "ab"] == expected


@pytest.mark.parametrize(
    ("shown", "expected"),
    [("*.example", "outbound|443||*.example"), ("*", "outbound|443||*.example"), ("a.example", "refused")],
)
def test_a_sidecar_that_names_a_part_of_a_wildcard_does_not_show_the_whole(shown: str, expected: str) -> None:
    found = meets(
        REGISTRY_ONLY,
        entry("*.example", "443 TLS", more="resolution: NONE"),
        thing("Sidecar default", f"{{egress: [{{hosts: ['*/{shown}']}}]}}"),
    )
    assert found.tunnel("b.example:443") == expected


@pytest.mark.parametrize(("namespace", "counts"), [("default", True), ("istio-system", True), ("other", False)])
def test_the_sidecar_of_the_clients_namespace_or_of_the_root_sets_the_policy(namespace: str, counts: bool) -> None:
    sidecar = thing(f"Sidecar s {namespace}", "{outboundTrafficPolicy: {mode: ALLOW_ANY}}")
    assert meets(REGISTRY_ONLY, sidecar).data["outbound"] == ("allow_any" if counts else "registry_only")


# --- which destination rule ---------------------------------------------------------------------------------------


def named(subset: str, host: str, title: str) -> str:
    return rule(f"subsets: [{{name: {subset}}}]", host, title)


ROUTE = virtual_service("a.example", f"{{http: [{{route: [{to('a.example', 80, 'v1')}]}}]}}")


@pytest.mark.parametrize(
    ("rules", "found_there"),
    [
        ([named("v1", "a.example", "DestinationRule r default")], True),
        ([named("v1", "a.example", "DestinationRule r istio-system")], True),  # the root namespace
        ([named("v1", "a.example", "DestinationRule r owner")], True),  # that of the service
        ([named("v1", "a.example", "DestinationRule r elsewhere")], False),
        ([named("v1", "*.example", "DestinationRule r default")], True),
        # the most specific host of the first namespace that has any, and no other
        ([named("v1", "*.example", "DestinationRule r"), named("v2", "a.example", "DestinationRule s")], False),
        ([named("v2", "*.example", "DestinationRule r"), named("v1", "a.example", "DestinationRule s owner")], False),
        # two for one host: their subsets are united
        ([named("v2", "a.example", "DestinationRule r"), named("v1", "a.example", "DestinationRule s")], True),
    ],
)
def test_where_a_destination_rule_is_looked_for(rules: list[str], found_there: bool) -> None:
    found = meets(entry("a.example", "80 HTTP", title="ServiceEntry a owner"), ROUTE, *rules)
    assert found.get("a.example:80/") == ("outbound|80|v1|a.example" if found_there else "unavailable")


def test_of_several_services_the_one_that_is_seen_says_where_its_rules_are() -> None:
    hidden = entry(
        "a.example",
        "80 HTTP",
        more="exportTo: ['.']",
        title="ServiceEntry a hiding",
        metadata='creationTimestamp: "2020-01-01T00:00:00Z"',
    )
    on_443 = entry("a.example", "443 TLS", title="ServiceEntry b other")
    seen = entry("a.example", "80 HTTP", title="ServiceEntry c owner")
    tls = rule("trafficPolicy: {tls: {mode: SIMPLE}}", title="DestinationRule r owner")
    found = meets(hidden, on_443, seen, tls)
    assert found.services["outbound|80||a.example"]["tls"] == {"mode": "simple"}
    assert "tls" not in found.services["outbound|443||a.example"]


def test_a_rule_without_namespace_is_seen_by_gateways_and_one_in_default_is_not() -> None:
    pieces = (
        entry("a.example", "80 HTTP", title="ServiceEntry a owner"),
        thing(
            "Gateway egress",
            "{selector: {istio: egressgateway}, servers: [{port: {number: 80, name: p, protocol: HTTP}, hosts: [a.example]}]}",
        ),
        virtual_service(
            "a.example",
            f"{{gateways: [egress, mesh], http: [{{match: [{{gateways: [mesh]}}], route: [{to(GATEWAY_HOST, 80)}]}}, "
            f"{{match: [{{gateways: [egress]}}], route: [{to('a.example', 80, 'v1')}]}}]}}",
        ),
    )
    assert (
        meets(*pieces, named("v1", "a.example", "DestinationRule r")).get("a.example:80/") == "outbound|80|v1|a.example"
    )
    stated = named("v1", "a.example", "DestinationRule r default")
    assert meets(*pieces, stated).get("a.example:80/") == "unavailable"


# --- what a rule says ---------------------------------------------------------------------------------------------

SIMPLE = {"mode": "simple"}


@pytest.mark.parametrize(
    ("inside", "on_80", "on_443"),
    [
        ("trafficPolicy: {tls: {mode: SIMPLE}}", SIMPLE, SIMPLE),
        ("trafficPolicy: {tls: {mode: DISABLE}}", None, None),
        ("trafficPolicy: {portLevelSettings: [{port: {number: 80}, tls: {mode: SIMPLE}}]}", SIMPLE, None),
        # what is set for a port takes the place of all the rest
        ("trafficPolicy: {tls: {mode: SIMPLE}, portLevelSettings: [{port: {number: 80}}]}", None, SIMPLE),
        ("subsets: [{name: v1, trafficPolicy: {tls: {mode: SIMPLE}}}]", None, None),  # nobody asks for the subset
    ],
)
def test_tls_by_port(inside: str, on_80: Any, on_443: Any) -> None:
    services = meets(A, rule(inside)).services
    assert services["outbound|80||a.example"].get("tls") == on_80
    assert services["outbound|443||a.example"].get("tls") == on_443


@pytest.mark.parametrize(
    ("whole", "part", "expected"),
    [
        ("{tls: {mode: SIMPLE}}", "{}", SIMPLE),
        ("{tls: {mode: SIMPLE}}", "{tls: {mode: DISABLE}}", None),
        ("{tls: {mode: SIMPLE}}", "{portLevelSettings: [{port: {number: 80}, tls: {mode: DISABLE}}]}", None),
        ("{tls: {mode: SIMPLE}}", "{portLevelSettings: [{port: {number: 443}, tls: {mode: DISABLE}}]}", SIMPLE),
        ("{tls: {mode: DISABLE}}", "{tls: {mode: SIMPLE}}", SIMPLE),
    ],
)
def test_a_subset_overrides_its_rule(whole: str, part: str, expected: Any) -> None:
    found = meets(A, ROUTE, rule(f"trafficPolicy: {whole}, subsets: [{{name: v1, trafficPolicy: {part}}}]"))
    assert found.services["outbound|80|v1|a.example"].get("tls") == expected


TLS_TABLE = [
    # the system's authorities, and the name of the request
    ("mode: SIMPLE", {"mode": "simple"}, None),
    ("mode: SIMPLE, sni: b.example", {"mode": "simple", "sni": "b.example"}, None),
    ("mode: SIMPLE, caCertificates: /ca.pem", {"mode": "simple", "ca": "/ca.pem"}, None),
    # a sni beside an authority of one's own switches the check of names off
    (
        "mode: SIMPLE, caCertificates: /ca.pem, sni: b.example",
        {"mode": "simple", "sni": "b.example", "ca": "/ca.pem", "verify": "chain"},
        "name it in subjectAltNames to have it checked",
    ),
    (
        "mode: SIMPLE, caCertificates: /ca.pem, sni: b.example, subjectAltNames: [c.example]",
        {"mode": "simple", "sni": "b.example", "ca": "/ca.pem", "subject_alt_names": ["c.example"]},
        None,
    ),
    (
        "mode: SIMPLE, caCertificates: /ca.pem, insecureSkipVerify: true",
        {"mode": "simple", "verify": False},
        "insecureSkipVerify: a.example may be anybody, its certificate is not checked",
    ),
    (
        "mode: MUTUAL, clientCertificate: /c.pem, privateKey: /k.pem",
        {"mode": "mutual", "certificate": "/c.pem", "key": "/k.pem"},
        None,
    ),
]


@pytest.mark.parametrize(("inside", "expected", "note"), TLS_TABLE)
def test_tls_in_native_words(inside: str, expected: dict[str, Any], note: str | None) -> None:
    found = meets(REGISTRY_ONLY, A, rule(f"trafficPolicy: {{tls: {{{inside}}}}}"))
    assert found.services["outbound|80||a.example"]["tls"] == expected
    assert [each.endswith(note or "") for each in found.notes] == ([] if note is None else [True])


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (rule("trafficPolicy: {tls: {mode: DISABLE}}"), "DestinationRule b"),
        (rule("subsets: []"), "DestinationRule b owner"),
        (rule("trafficPolicy: {connectionPool: {tcp: {connectTimeout: 1s}}}"), "DestinationRule b istio-system"),
    ],
)
def test_tls_of_a_rule_that_does_not_count_is_noted(first: str, second: str) -> None:
    hidden = rule("trafficPolicy: {tls: {mode: SIMPLE}}", title=second)
    found = meets(entry("a.example", "80 HTTP", title="ServiceEntry a owner"), first, hidden)
    assert "tls" not in found.services["outbound|80||a.example"]
    notes = [note for note in found.notes if "asks for TLS, and does not count for a.example on port 80" in note]
    assert len(notes) == 1
    alone = meets(entry("a.example", "80 HTTP"), rule("trafficPolicy: {tls: {mode: SIMPLE}}"))
    assert not any("does not count" in note for note in alone.notes)


def test_a_port_with_settings_of_its_own_takes_over_no_tls() -> None:
    inside = (
        "tls: {mode: SIMPLE}, portLevelSettings: [{port: {number: 80}, connectionPool: {tcp: {connectTimeout: 1s}}}]"
    )
    found = meets(A, rule(f"trafficPolicy: {{{inside}}}"))
    assert "tls" not in found.services["outbound|80||a.example"]
    assert any("port 80 has no tls of its own and takes none over" in note for note in found.notes)


def test_names_of_the_entry_count_where_the_rule_has_none() -> None:
    named_entry = entry("a.example", "80 HTTP", more="resolution: DNS, subjectAltNames: [s.example]")
    found = meets(named_entry, rule("trafficPolicy: {tls: {mode: SIMPLE}}"))
    assert found.services["outbound|80||a.example"]["tls"]["subject_alt_names"] == ["s.example"]


def test_istio_mutual_with_a_service_is_unavailable_and_noted() -> None:
    found = meets(REGISTRY_ONLY, A, rule("trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}"))
    assert found.get("a.example:80/") == "unavailable"
    assert any("ISTIO_MUTUAL with a.example needs a certificate of the mesh" in note for note in found.notes)


def test_a_connect_timeout_is_that_of_the_service() -> None:
    found = meets(A, rule("trafficPolicy: {connectionPool: {tcp: {connectTimeout: 500ms, maxConnections: 9}}}"))
    assert found.services["outbound|80||a.example"]["connect_timeout_s"] == 0.5
    assert "maxConnections: has no effect here" in found.notes[0]


# --- secrets ------------------------------------------------------------------------------------------------------

CREDENTIAL = rule("trafficPolicy: {tls: {mode: SIMPLE, credentialName: cred, sni: a.example}}")


def secret(name: str, namespace: str | None = "istio-system", key: str = "ca.crt") -> str:
    where = f", namespace: {namespace}" if namespace else ""
    data = base64.b64encode(b"PEM\n").decode()
    return f"apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}{where}}}\ndata: {{{key}: {data}}}\n"


@pytest.mark.parametrize(
    ("text", "inline"),
    [
        (secret("cred"), {"cred": {"ca.crt": "PEM\n"}}),
        (secret("cred-cacert"), {"cred-cacert": {"ca.crt": "PEM\n"}}),
        (secret("cred", None), {"cred": {"ca.crt": "PEM\n"}}),  # put where it is asked for
        (secret("cred", "elsewhere"), None),  # gateways read their own namespace
        (secret("cred", "default"), None),
        (secret("cred", key="token"), None),
        (secret("other"), None),
    ],
)
def test_which_secret_a_gateway_uses(text: str, inline: Any) -> None:
    found = meets(REGISTRY_ONLY, A, CREDENTIAL, text)
    assert found.data.get("secrets") == (None if inline is None else {"inline": inline})
    assert found.get("a.example:80/") == ("unavailable" if inline is None else "outbound|80||a.example")
    if inline is None:
        assert any("no Secret cred is among the files" in note for note in found.notes)


@pytest.mark.parametrize("name", ["istio-cred", "prometheus-cred"])
def test_a_secret_of_the_mesh_itself_is_not_used(name: str) -> None:
    found = meets(REGISTRY_ONLY, A, CREDENTIAL.replace("cred,", f"{name},"), secret(name))
    assert found.get("a.example:80/") == "unavailable"


def test_a_folder_of_secrets_in_native_settings_counts(tmp_path: Any) -> None:
    beside = {"listeners": [{"protocol": "http", "port": 8080}], "secrets": {"directory": str(tmp_path)}}
    found = meets(REGISTRY_ONLY, A, CREDENTIAL, beside=beside)
    assert found.get("a.example:80/") == "outbound|80||a.example"
    assert found.services["outbound|80||a.example"]["tls"]["credential"] == "cred"


def test_a_secret_that_is_no_base64_is_a_fault_where_it_is_used() -> None:
    broken = secret("cred").replace("UEVNCg==", '"@BASE64(a.crt)@"')
    assert [fault.partition(" ")[2] for fault in meets(A, CREDENTIAL, broken).faults] == [
        "Secret.cred.data.ca.crt: expected text in base64; fill in what the template leaves open"
    ]
    assert meets(A, broken).faults == []


# --- clusters as native services ----------------------------------------------------------------------------------

HTTP_80 = [{"number": 80, "protocol": "HTTP"}]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            entry("a.example", "80 HTTP"),
            {"name": "outbound|80||a.example", "hosts": ["a.example"], "ports": HTTP_80},
        ),
        (
            entry("a.example", "80 HTTP", more="resolution: STATIC, endpoints: [{address: 192.0.2.1, weight: 3}]"),
            {
                "name": "outbound|80||a.example",
                "hosts": ["a.example"],
                "ports": HTTP_80,
                "resolution": "static",
                "endpoints": [{"address": "192.0.2.1", "weight": 3}],
            },
        ),
        (
            entry(
                "a.example", "80 HTTP", more="resolution: DNS, endpoints: [{address: b.example, ports: {p80: 8080}}]"
            ),
            {
                "name": "outbound|80||a.example",
                "hosts": ["a.example"],
                "ports": HTTP_80,
                "endpoints": [{"address": "b.example", "port": 8080}],
            },
        ),
        (
            entry("a.example", "80 HTTP").replace("protocol: HTTP", "protocol: HTTP, targetPort: 8443"),
            {
                "name": "outbound|80||a.example",
                "hosts": ["a.example"],
                "ports": [{"number": 80, "protocol": "HTTP", "target_port": 8443}],
            },
        ),
        (
            entry("a.example", "443 HTTPS", more="addresses: [192.0.2.0/28], resolution: NONE"),
            {
                "name": "outbound|443||a.example",
                "hosts": ["a.example"],
                "addresses": ["192.0.2.0/28"],
                "ports": [{"number": 443, "protocol": "TLS"}],
                "resolution": "none",
            },
        ),
        (
            entry("label.example", "3128 TCP", more="addresses: [192.0.2.1/32]"),
            {
                "name": "outbound|3128||label.example",
                "addresses": ["192.0.2.1"],
                "ports": [{"number": 3128, "protocol": "TCP"}],
                "resolution": "none",
            },
        ),
        (
            entry("a.example", "27017 mongo", more="resolution: STATIC, endpoints: [{address: 192.0.2.1}]"),
            {
                "name": "outbound|27017||a.example",
                "hosts": ["a.example"],
                "ports": [{"number": 27017, "protocol": "TCP"}],
                "resolution": "static",
                "endpoints": [{"address": "192.0.2.1"}],
            },
        ),
    ],
)
def test_an_entry_as_native_service(text: str, expected: dict[str, Any]) -> None:
    found = meets(REGISTRY_ONLY, text)
    assert found.data["services"] == [expected]
    assert found.config.services[0].label == expected["name"]


def test_tcp_without_addresses_is_noted() -> None:
    found = meets(REGISTRY_ONLY, entry("db.example", "3306 TCP"))
    assert found.notes == [
        "11 ServiceEntry.db.example: TCP without addresses is known by the name db.example; Istio takes all that goes to "
        "port 3306"
    ]


def test_a_subset_is_reached_by_routes_only_and_has_the_endpoints_with_its_labels() -> None:
    endpoints = "[{address: 192.0.2.1, labels: {v: one}}, {address: 192.0.2.2, labels: {v: two}}]"
    found = meets(
        entry("a.example", "80 HTTP", more=f"resolution: STATIC, endpoints: {endpoints}"),
        rule("subsets: [{name: v1, labels: {v: two}}]"),
        ROUTE,
    )
    subset = found.services["outbound|80|v1|a.example"]
    assert subset["endpoints"] == [{"address": "192.0.2.2"}]
    assert "hosts" not in subset


def test_a_subset_whose_labels_no_endpoint_has_is_unavailable() -> None:
    found = meets(A, rule("subsets: [{name: v1, labels: {v: two}}]"), ROUTE)
    assert found.get("a.example:80/") == "unavailable"


# --- the way back to this proxy -----------------------------------------------------------------------------------

SNI_PROXY = (
    entry("sni-proxy.local", "8443 TCP", more="resolution: STATIC, endpoints: [{address: 127.0.0.1}]"),
    entry("*.wiki.example", "443 TLS", more="resolution: NONE"),
    virtual_service(
        "*.wiki.example",
        f"{{tls: [{{match: [{{sniHosts: ['*.wiki.example']}}], route: [{to('sni-proxy.local', 8443)}]}}]}}",
    ),
)


@pytest.mark.parametrize(
    ("listener", "folds"),
    [
        ({"protocol": "sni", "address": "127.0.0.1", "port": 8443}, True),
        ({"protocol": "sni", "port": 8443}, True),  # every address of this machine
        ({"protocol": "auto", "port": 8443}, True),
        ({"protocol": "sni", "address": "192.0.2.1", "port": 8443}, False),
        ({"protocol": "sni", "port": 8444}, False),
        ({"protocol": "http", "port": 8443}, False),
    ],
)
def test_a_cluster_that_is_this_proxy_s_own_sni_listener_is_followed_at_once(
    listener: dict[str, Any], folds: bool
) -> None:
    found = meets(REGISTRY_ONLY, *SNI_PROXY, beside={"listeners": [listener]})
    assert found.tunnel("en.wiki.example:443") == "outbound|8443||sni-proxy.local"
    service = found.services["outbound|8443||sni-proxy.local"]
    if folds:
        assert service["hosts"] == ["*.wiki.example"]
        assert service["ports"] == [{"number": 443, "protocol": "TLS"}]
        assert "endpoints" not in service
        assert found.tunnel("en.wiki.example:8443") == "refused"
        assert found.tunnel("sni-proxy.local:8443") == "close"
    else:
        assert service["endpoints"] == [{"address": "127.0.0.1"}]
        assert service["hosts"] == ["sni-proxy.local"]


@pytest.mark.parametrize(("other", "conflicts"), [("one", False), ("two", True)])
def test_secrets_of_one_name_in_two_namespaces_of_gateways_hold_the_same(other: str, conflicts: bool) -> None:
    def secret(namespace: str, text: str) -> str:
        return (
            f"apiVersion: v1\nkind: Secret\nmetadata: {{name: cred, namespace: {namespace}}}\n"
            f"stringData: {{ca.crt: {text}}}\n"
        )

    gateway_service = (
        "apiVersion: v1\nkind: Service\nmetadata: {name: gw, namespace: team}\n"
        "spec: {selector: {istio: gw}, ports: [{name: http, port: 80}]}\n"
    )
    found = meets(
        A,
        gateway_service,
        thing(
            "Gateway g",
            "{selector: {istio: gw}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}]}",
        ),
        rule("trafficPolicy: {tls: {mode: SIMPLE, credentialName: cred}}"),
        secret("istio-system", "one"),
        secret("team", other),
    )
    assert any("another Secret cred of a gateway" in fault for fault in found.faults) == conflicts


def test_an_export_to_nobody_stands_alone() -> None:
    (fault,) = meets(entry("a.example", "443 TLS", more="exportTo: ['~', '*']")).faults
    assert "exportTo: '~' shows the object to nobody, and stands alone" in fault
