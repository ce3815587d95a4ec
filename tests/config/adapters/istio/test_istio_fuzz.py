"""Whatever stands in the objects: the adapter says what is wrong with it and never raises, and what it lets through is whole.

Our own examples and one object of every kind are taken apart, and a part of them is replaced by something else.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from support.adapting import MemoryFiles

from egressproxy.config.adapters.adapter import Source
from egressproxy.config.adapters.istio import istio

EXAMPLES = Path(__file__).parents[4] / "config" / "istio"

EVERY_KIND = """
{apiVersion: v1, kind: Service, metadata: {name: db, annotations: {networking.istio.io/exportTo: "*"}},
 spec: {clusterIP: 10.0.0.1, selector: {istio: egressgateway}, ports: [{port: 80, name: http, targetPort: 8080}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: ext}, spec: {type: ExternalName, externalName: a.example, ports: [{port: 80}]}}
---
{apiVersion: v1, kind: Endpoints, metadata: {name: db},
 subsets: [{addresses: [{ip: 192.0.2.1}], ports: [{name: http, port: 80}]}]}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: x, labels: {kubernetes.io/service-name: db}},
 endpoints: [{addresses: [192.0.2.1], conditions: {ready: true}}], ports: [{name: http, port: 80}]}
---
{apiVersion: v1, kind: Secret, metadata: {name: cred, namespace: istio-system}, data: {ca.crt: UEVNCg==}, stringData: {a: b}}
---
{apiVersion: install.istio.io/v1alpha1, kind: IstioOperator, metadata: {name: o},
 spec: {meshConfig: {accessLogFile: x}, components: {egressGateways: [{name: g, enabled: true, label: {a: b}}]},
 values: {global: {proxy: {includeIPRanges: "*", excludeIPRanges: 10.0.0.0/8}}}}}
---
{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {name: s, creationTimestamp: "2026-01-01T00:00:00Z"},
 spec: {hosts: [s.example], addresses: [192.0.2.0/24], ports: [{number: 443, name: t, protocol: TCP, targetPort: 8443}],
 resolution: STATIC, endpoints: [{address: 127.0.0.1, ports: {t: 8443}, weight: 2, labels: {v: one}}], exportTo: ["*"]}}
---
{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: d},
 spec: {host: s.example, trafficPolicy: {connectionPool: {tcp: {connectTimeout: 1s}}, loadBalancer: {simple: ROUND_ROBIN},
 tls: {mode: SIMPLE, credentialName: cred, sni: s.example, subjectAltNames: [s.example]}},
 subsets: [{name: one, labels: {v: one}, trafficPolicy: {portLevelSettings: [{port: {number: 443}, tls: {mode: DISABLE}}]}}]}}
---
{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: v},
 spec: {hosts: [s.example], gateways: [mesh, g], http: [{match: [{uri: {prefix: /x}, method: {exact: GET}, port: 80,
 gateways: [mesh]}], timeout: 1s, retries: {attempts: 1}, route: [{destination: {host: s.example, subset: one,
 port: {number: 443}}, weight: 50}, {destination: {host: ext}, weight: 50}]}],
 tcp: [{match: [{port: 443}], route: [{destination: {host: s.example}}]}]}}
---
{apiVersion: networking.istio.io/v1, kind: Sidecar, metadata: {name: c},
 spec: {outboundTrafficPolicy: {mode: ALLOW_ANY}, egress: [{hosts: ["*/*"]}]}}
---
{apiVersion: networking.istio.io/v1, kind: EnvoyFilter, metadata: {name: f},
 spec: {workloadSelector: {labels: {a: b}}, configPatches: [{applyTo: NETWORK_FILTER, match: {listener: {portNumber: 443}},
 patch: {operation: INSERT_BEFORE, value: {name: sni_verifier, config: {}}}}]}}
"""

SEEDS = [
    list(yaml.safe_load_all(text)) for text in (EVERY_KIND, *(path.read_text() for path in EXAMPLES.glob("*.yaml")))
]
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from(
        [0, -1, 1, 80, 443, 70000, 1.5, "", "x", "*", "*.example", "a.example", "mesh", "10.0.0.0/8", "3s", "UEVN"]
    ),
    st.sampled_from([[], {}, [None], [{}], {"a": None}, [[]], {"host": []}, ["a", 1], {"number": "x"}]),
)


def ways_of(value: Any, way: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [*([way] if way else []), *(inner for key, each in entries for inner in ways_of(each, (*way, key)))]


WAYS = [ways_of(seed) for seed in SEEDS]


def replaced(seed: list[Any], way: tuple[Any, ...], value: Any) -> list[Any]:
    whole = copy.deepcopy(seed)
    holder: Any = whole
    for step in way[:-1]:
        if not isinstance(holder, (dict, list)) or (isinstance(holder, list) and not isinstance(step, int)):
            return whole
        try:
            holder = holder[step]
        except (KeyError, IndexError):
            return whole
    if isinstance(holder, (dict, list)) and (isinstance(holder, dict) or way[-1] in range(len(holder))):
        holder[way[-1]] = value
    return whole


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_what_is_wrong_is_said_and_never_raised(data: st.DataObject) -> None:
    number = data.draw(st.integers(0, len(SEEDS) - 1))
    documents = SEEDS[number]
    for _ in range(data.draw(st.integers(1, 3))):
        documents = replaced(documents, data.draw(st.sampled_from(WAYS[number])), data.draw(VALUES))
    text = yaml.safe_dump_all(documents).encode()
    for beside in ({}, {"listeners": [{"protocol": "sni", "port": 8443}], "services": None, "secrets": 1}):
        found = istio.translate(
            [Source(0, "mesh.yaml", text)],
            MemoryFiles({}),
            lenient=data.draw(st.booleans()),
            beside=beside,
        )
        assert all(fault.message and fault.message.isprintable() for fault in (*found.faults, *found.notes))
        assert found.data is not None
