"""DestinationRule: what is checked, and what has no effect here."""

from __future__ import annotations

import pytest
from support.istio import entry, meets, thing

A = entry("a.example", "80 HTTP")


def policy(inside: str) -> str:
    return thing("DestinationRule d", f"{{host: a.example, trafficPolicy: {{{inside}}}}}")


@pytest.mark.parametrize(
    ("inside", "fault"),
    [
        ("tls: {mode: simple}", "tls.mode: expected one of DISABLE, SIMPLE, MUTUAL, ISTIO_MUTUAL, got 'simple'"),
        ("tls: {mode: MUTUAL, privateKey: /k}", "tls.mode: MUTUAL needs clientCertificate, or credentialName"),
        ("tls: {mode: MUTUAL, clientCertificate: /c}", "tls.mode: MUTUAL needs privateKey, or credentialName"),
        (
            "tls: {mode: SIMPLE, credentialName: c, caCertificates: /ca}",
            "tls.caCertificates: is given by credentialName already; write one or the other",
        ),
        (
            "tls: {mode: ISTIO_MUTUAL, caCertificates: /ca}",
            "tls.caCertificates: belongs to SIMPLE or MUTUAL: in ISTIO_MUTUAL the mesh brings its own",
        ),
        (
            "tls: {mode: SIMPLE, caCrl: /crl}",
            "tls.caCrl: revocation lists are not asked; without one a revoked certificate would be taken",
        ),
        (
            "tls: {mode: SIMPLE, minTls: x}",
            "tls.minTls: no such field, or one that is not known here; it is refused rather than ignored",
        ),
        (
            "loadBalancer: {simple: PASSTHROUGH}",
            "loadBalancer.simple: going where the client dialled is resolution NONE of a ServiceEntry; write that",
        ),
        ("portLevelSettings: [{tls: {mode: DISABLE}}]", "portLevelSettings[0].port: expected the number of a port"),
        (
            "portLevelSettings: [{port: {number: 80}}, {port: {number: 80}}]",
            "portLevelSettings[1].port: port 80 is set twice",
        ),
        ("tunnel: {targetHost: x}", "tunnel: a proxy on the way is a parent in the native form"),
    ],
)
def test_what_is_wrong_is_said(inside: str, fault: str) -> None:
    assert meets(A, policy(inside)).faults[0].partition("trafficPolicy.")[2] == fault


@pytest.mark.parametrize(
    "inside",
    [
        "loadBalancer: {simple: LEAST_REQUEST}",
        "loadBalancer: {consistentHash: {useSourceIp: true}}",
        "connectionPool: {http: {http1MaxPendingRequests: 1}}",
        "outlierDetection: {consecutive5xxErrors: 1}",
    ],
)
def test_what_is_about_load_is_noted(inside: str) -> None:
    found = meets(A, policy(inside))
    assert (found.faults, len(found.notes)) == ([], 2)  # the other is about settings of the mesh


def test_an_unknown_field_about_load_is_noted_where_the_reader_is_lenient() -> None:
    assert len(meets(A, policy("novelty: {}")).faults) == 1
    assert meets(A, policy("novelty: {}"), lenient=True).faults == []
    assert len(meets(A, policy("tls: {mode: SIMPLE, novelty: {}}"), lenient=True).faults) == 1


def test_round_robin_is_what_happens_and_no_note() -> None:
    assert len(meets(A, policy("loadBalancer: {simple: ROUND_ROBIN}")).notes) == 1


def test_rules_for_some_pods_and_twice_the_same_subset_are_refused() -> None:
    spec = "{host: a.example, workloadSelector: {matchLabels: {a: b}}, subsets: [{name: x}, {name: x}]}"
    assert [
        fault.partition("spec.")[2].partition(":")[0] for fault in meets(thing("DestinationRule d", spec)).faults
    ] == [
        "subsets[1].name",
        "workloadSelector",
    ]


@pytest.mark.parametrize(
    ("slip", "meant"),
    [("tsl", "tls"), ("TLS", "tls"), ("tlsSettings", "tls"), ("portLevelSetting", "portLevelSettings")],
)
def test_a_slip_that_would_send_in_the_clear_is_refused_even_leniently(slip: str, meant: str) -> None:
    text = thing("DestinationRule a", f"{{host: a.example, trafficPolicy: {{{slip}: {{mode: SIMPLE}}}}}}")
    (fault,) = meets(text, lenient=True).faults
    assert fault.endswith(f"{slip}: no such field; did you mean {meant}?")
