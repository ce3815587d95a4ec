"""The mesh's ConfigMap, IstioOperator, Helm values, and the EnvoyFilters that are recognised."""

from __future__ import annotations

from typing import Any

import pytest
from support.istio import ALLOW_ANY, REGISTRY_ONLY, entry, meets, thing


def mesh(inside: str) -> str:
    lines = "\n".join(f"    {line}" for line in inside.splitlines())
    return f"apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\ndata:\n  mesh: |-\n{lines}\n"


# --- the mesh -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inside", "expected"),
    [
        ("outboundTrafficPolicy: {mode: REGISTRY_ONLY}", "registry_only"),
        ("outboundTrafficPolicy: {mode: ALLOW_ANY}", "allow_any"),
        ("outboundTrafficPolicy: {}", "registry_only"),  # the first word of the protocol's enumeration
        ("rootNamespace: istio-system", "allow_any"),  # a mesh without a policy
    ],
)
def test_the_outbound_policy(inside: str, expected: str) -> None:
    assert meets(mesh(inside)).data["outbound"] == expected


def test_without_settings_of_the_mesh_what_is_not_registered_is_refused_and_noted() -> None:
    found = meets(entry("a.example", "80 HTTP"))
    assert "outbound" not in found.data
    assert found.config.outbound == "registry_only"
    assert "no settings of the mesh are among the files: what is not registered is refused" in found.notes[0]
    native = {"listeners": [{"protocol": "http", "port": 8080}], "outbound": "allow_any"}
    assert meets(entry("a.example", "80 HTTP"), beside=native).notes == []


@pytest.mark.parametrize(
    ("inside", "expected"),
    [
        ("accessLogFile: /dev/stdout", [{"format": "istio", "path": "-"}]),
        ("accessLogFile: /var/log/istio.log", [{"format": "istio", "path": "/var/log/istio.log"}]),
        ("accessLogFile: ''", []),
        ("trustDomain: cluster.local", []),
        (
            "accessLogFile: /dev/stdout\naccessLogFormat: |\n  [%START_TIME%] %RESPONSE_CODE%",
            [{"format": "istio", "template": "[%START_TIME%] %RESPONSE_CODE%", "path": "-"}],
        ),
        ("accessLogFile: /dev/stdout\naccessLogEncoding: JSON", [{"format": "istio-json", "path": "-"}]),
    ],
)
def test_the_access_log(inside: str, expected: list[dict[str, Any]]) -> None:
    assert meets(mesh(inside)).data["access_log"] == expected


def test_other_settings_are_noted_with_the_line_inside_the_config_map() -> None:
    found = meets(mesh("accessLogFile: /dev/stdout\nenableTracing: true\nconnectTimeout: 2s\nlocalityLbSetting: {}"))
    assert found.notes == [
        "7 ConfigMap.istio.data.mesh.enableTracing: is about the mesh itself, and has no meaning here",
        "9 ConfigMap.istio.data.mesh.localityLbSetting: is about the mesh itself, and has no meaning here",
    ]
    assert found.data["timeouts"] == {"connect_s": 2.0}


@pytest.mark.parametrize(
    ("inside", "fault"),
    [
        (
            "outboundTrafficPolicy: {mode: ANY}",
            "6 ConfigMap.istio.data.mesh.outboundTrafficPolicy.mode: expected one of",
        ),
        ("a: 1\na: 2", "7 a: is written twice; the first is on line 6"),
        ("- a", "5 ConfigMap.istio.data.mesh: expected settings, got a list of 1"),
        (
            "discoverySelectors: [{matchLabels: {istio: here}}]",
            "6 ConfigMap.istio.data.mesh.discoverySelectors: leaves out objects by labels of their namespaces",
        ),
        ("defaultServiceExportTo: ['.']", "6 ConfigMap.istio.data.mesh.defaultServiceExportTo: write exportTo into"),
        (
            "accessLogFile: /dev/stdout\naccessLogEncoding: JSON\naccessLogFormat: '{}'",
            "8 ConfigMap.istio.data.mesh.accessLogFormat: fields of one's own are not written as JSON",
        ),
    ],
)
def test_what_is_wrong_in_the_mesh_is_said(inside: str, fault: str) -> None:
    assert meets(mesh(inside)).faults[0].startswith(fault)


def test_the_root_namespace_is_the_mesh_s_to_set() -> None:
    rule = thing("DestinationRule d root", "{host: a.example, trafficPolicy: {tls: {mode: SIMPLE}}}")
    pieces = (entry("a.example", "80 HTTP"), rule)
    assert "tls" in meets(mesh("rootNamespace: root"), *pieces).services["outbound|80||a.example"]
    assert "tls" not in meets(mesh("rootNamespace: other"), *pieces).services["outbound|80||a.example"]


@pytest.mark.parametrize(
    ("inside", "meant"),
    [
        ("outboundTraficPolicy: {mode: REGISTRY_ONLY}", "outboundTrafficPolicy"),
        ("OutboundTrafficPolicy: {mode: REGISTRY_ONLY}", "outboundTrafficPolicy"),
        ("outbound_trafic_policy: {mode: REGISTRY_ONLY}", "outboundTrafficPolicy"),
        ("outboundTrafficPolicies: {mode: REGISTRY_ONLY}", "outboundTrafficPolicy"),
        ("acessLogFile: /dev/stdout", "accessLogFile"),
    ],
)
def test_a_slip_in_a_field_that_counts_is_not_taken_for_one_about_the_mesh_itself(inside: str, meant: str) -> None:
    (fault,) = meets(mesh(inside)).faults
    assert fault.startswith("6 ConfigMap.istio.data.mesh.")
    assert fault.endswith(f"no such setting of a mesh; did you mean {meant}?")


def test_fields_of_a_mesh_that_look_alike_are_not_taken_for_slips() -> None:
    found = meets(mesh("inboundTrafficPolicy: {mode: LOCALHOST}\naccessLogFile: /dev/stdout"))
    assert found.faults == []


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("http_port 3128\n    http_access deny all", "squid"),
        ("stream {\n    }", "nginx"),
    ],
)
def test_a_config_map_with_the_configuration_of_another_proxy_says_that_it_is_not_read(text: str, kind: str) -> None:
    other = f"apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: proxy}}\ndata:\n  proxy.conf: |\n    {text}\n"
    found = meets(entry("a.example", "80 HTTP"), other)
    assert found.faults == []
    assert any(
        f"holds a {kind}.conf, which is not read from here; give its text as a file of its own" in note
        for note in found.notes
    )


def test_another_config_map_is_noted_only() -> None:
    other = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: proxy}\ndata: {squid.html: Port 3128}\n"
    assert meets(REGISTRY_ONLY, other).notes == ["9 ConfigMap.proxy: has no meaning for a proxy outside the mesh"]


# --- the installer ------------------------------------------------------------------------------------------------

OPERATOR = "apiVersion: install.istio.io/v1alpha1\nkind: IstioOperator\n"


@pytest.mark.parametrize("head", ["", OPERATOR], ids=["spec alone", "whole"])
def test_an_operator_sets_the_policy_of_the_mesh(head: str) -> None:
    found = meets(head + "spec: {meshConfig: {outboundTrafficPolicy: {mode: ALLOW_ANY}, accessLogFile: /dev/stdout}}\n")
    assert (found.data["outbound"], found.data["access_log"]) == ("allow_any", [{"format": "istio", "path": "-"}])


def test_without_a_file_for_it_an_operator_s_mesh_has_no_access_log_and_leaves_one_that_is_set() -> None:
    silent = OPERATOR + "spec: {meshConfig: {outboundTrafficPolicy: {mode: REGISTRY_ONLY}}}\n"
    logged = mesh("accessLogFile: /dev/stdout\noutboundTrafficPolicy: {mode: REGISTRY_ONLY}")
    assert meets(silent).data["access_log"] == []
    for pieces in ((silent, logged), (logged, silent)):
        assert meets(*pieces).data["access_log"] == [{"format": "istio", "path": "-"}]


def test_an_operator_that_says_no_policy_says_nothing_of_it() -> None:
    found = meets(OPERATOR + "spec: {profile: demo, components: {egressGateways: [{name: x}], pilot: {}}}\n")
    assert "outbound" not in found.data
    assert [note.partition(": ")[0] for note in found.notes] == [
        "3 IstioOperator.spec.components.pilot",
        "3 IstioOperator.spec.profile",
        "0 no settings of the mesh are among the files",
    ]


def test_two_policies_of_one_mesh_are_a_conflict() -> None:
    operator = OPERATOR + "spec: {meshConfig: {outboundTrafficPolicy: {mode: ALLOW_ANY}}}\n"
    (fault,) = meets(REGISTRY_ONLY, operator).faults
    assert fault.endswith("mode: is allow_any here and registry_only in mesh.yaml:6; expected one value")
    assert meets(ALLOW_ANY, operator).faults == []


def test_two_policies_under_one_name_are_a_conflict_too() -> None:
    (fault,) = meets(REGISTRY_ONLY, ALLOW_ANY).faults
    assert "is allow_any here and registry_only in mesh.yaml:6" in fault
    assert meets(REGISTRY_ONLY, REGISTRY_ONLY).faults == []


@pytest.mark.parametrize(
    ("values", "capture"),
    [
        ("includeIPRanges: 10.0.0.0/24", {"include": ["10.0.0.0/24"]}),
        ("includeIPRanges: '10.0.0.1/24, 10.4.0.0/14'", {"include": ["10.0.0.0/24", "10.4.0.0/14"]}),
        (
            "includeIPRanges: '*'\n    excludeIPRanges: 34.192.0.0/10,35.153.0.0/16",
            {"include": [], "exclude": ["34.192.0.0/10", "35.153.0.0/16"]},
        ),
    ],
)
def test_ranges_to_capture(values: str, capture: dict[str, Any]) -> None:
    found = meets(f"global:\n  proxy:\n    {values}\n")
    assert found.data["capture"] == capture
    assert any("host bits set" in note for note in found.notes) == ("10.0.0.1" in values)


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ("includeIPRanges: ''", "an empty list captures nothing: leave egressproxy redirect out, or write '*'"),
        ("includeIPRanges: 10.0.0.0/33", "expected networks like 10.0.0.0/8, got '10.0.0.0/33'"),
        ("excludeIPRanges: '*'", "expected networks; '*' would leave nothing to capture"),
    ],
)
def test_ranges_that_are_none(values: str, fault: str) -> None:
    assert [each.partition("Ranges: ")[2] for each in meets(f"global: {{proxy: {{{values}}}}}\n").faults] == [fault]


# --- EnvoyFilter --------------------------------------------------------------------------------------------------


def new_shape(name: str, port: int = 443, rest: str = "config: {}") -> str:
    return thing(
        f"EnvoyFilter {name.replace('_', '-')}",
        "{workloadSelector: {labels: {app: x}}, configPatches: [{applyTo: NETWORK_FILTER, "
        f"match: {{context: GATEWAY, listener: {{portNumber: {port}}}}}, "
        f"patch: {{operation: INSERT_BEFORE, value: {{name: {name}, {rest}}}}}}}]}}",
    )


def old_shape(name: str, port: int = 443) -> str:
    return thing(
        f"EnvoyFilter {name.replace('_', '-')}",
        f"{{workloadLabels: {{app: x}}, filters: [{{listenerMatch: {{portNumber: {port}, listenerType: GATEWAY}}, "
        f"filterName: {name}, filterType: NETWORK, filterConfig: {{}}}}]}}",
    )


TYPED = "typed_config: {'@type': type.googleapis.com/x}"
DB = entry("db.example", "3306 TCP", more="addresses: [192.0.2.1]")


@pytest.mark.parametrize(
    "text",
    [new_shape("sni_verifier"), old_shape("sni_verifier"), new_shape("sni_verifier", rest=TYPED)],
    ids=["configPatches", "filters", "typed"],
)
def test_sni_verifier_in_both_shapes(text: str) -> None:
    found = meets(REGISTRY_ONLY, text)
    assert (found.data["sni_check"], found.faults) == ("enforce", [])
    assert "sni_verifier became sni_check: enforce" in found.notes[0]


def test_sni_verifier_for_port_443_spares_services_of_tcp_on_others() -> None:
    found = meets(REGISTRY_ONLY, DB, new_shape("sni_verifier"))
    assert "sni_check" not in found.data  # and so enforced on port 443
    assert "sni_verifier is held on port 443 by itself" in found.notes[0]
    assert meets(REGISTRY_ONLY, DB, new_shape("sni_verifier", port=8443)).data["sni_check"] == "enforce"
    # Native settings that say otherwise are a conflict, which the merge tells.
    beside = {"listeners": [{"protocol": "http", "port": 8080}], "sni_check": "off"}
    assert meets(REGISTRY_ONLY, DB, new_shape("sni_verifier"), beside=beside).data["sni_check"] == "enforce"


@pytest.mark.parametrize("shape", [new_shape, old_shape])
def test_forwarding_the_server_name_is_noted(shape: Any) -> None:
    found = meets(REGISTRY_ONLY, shape("forward_downstream_sni"))
    assert (found.faults, len(found.notes)) == ([], 1)
    assert "sni_check" not in found.data


@pytest.mark.parametrize(
    "text",
    [
        new_shape("envoy.filters.network.rbac"),
        new_shape("sni_verifier", rest="config: {allow: all}"),
        new_shape("sni_verifier").replace("NETWORK_FILTER", "HTTP_FILTER"),
        new_shape("sni_verifier").replace("INSERT_BEFORE", "REMOVE"),
        old_shape("mixer"),
        thing("EnvoyFilter empty", "{}"),
    ],
)
def test_any_other_envoy_filter_is_refused_even_leniently(text: str) -> None:
    (fault,) = meets(REGISTRY_ONLY, text, lenient=True).faults
    assert "changes Envoy from inside, which nothing here can follow" in fault


@pytest.mark.parametrize(
    "text",
    [
        "outboundPolicy: {mode: REGISTRY_ONLY}",
        "outboundTraffic: {mode: REGISTRY_ONLY}",
        "trafficPolicy: {mode: REGISTRY_ONLY}",
        "meshConfig: {outboundTrafficPolicy: {mode: REGISTRY_ONLY}}",
        "defaultConfig: {outboundTrafficPolicy: {mode: REGISTRY_ONLY}}",
    ],
)
def test_a_policy_that_is_not_read_is_refused(text: str) -> None:
    found = meets(REGISTRY_ONLY.replace("outboundTrafficPolicy: {mode: REGISTRY_ONLY}", text), lenient=True)
    (fault,) = found.faults
    assert fault.endswith("outboundTrafficPolicy stands at the top of these settings")


def test_other_policies_of_a_mesh_are_noted() -> None:
    text = "inboundTrafficPolicy: {mode: PASSTHROUGH}\n    outboundClusterStatName: x\n    h2UpgradePolicy: UPGRADE"
    assert meets(REGISTRY_ONLY.replace("outboundTrafficPolicy: {mode: REGISTRY_ONLY}", text)).faults == []
