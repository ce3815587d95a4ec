"""Which files the scenarios run from, and the names that stand in them.

The documents' own files, where they lie next to the repository; else ours in config/istio/scenarios, which say the same with
other names. `EGRESSPROXY_SCENARIOS=own` asks for ours in any case.

A file is known by its folder and by what its name begins with, which both editions share: `files("egress-control", "01")`.
Variants are called by the documents' versions there and by what they say here: `variant` takes the documents' beginning.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import pytest
from support.proxy import ROOT

PUBLISHED_FILES = ROOT.parent / "shared" / "istio"
OWN_FILES = ROOT / "config" / "istio" / "scenarios"

IS_PUBLISHED = PUBLISHED_FILES.is_dir() and os.environ.get("EGRESSPROXY_SCENARIOS") != "own"
FILES = PUBLISHED_FILES if IS_PUBLISHED else OWN_FILES


class Names(NamedTuple):
    """Names in the files of one edition.

    news           a site that redirects HTTP to HTTPS
    echo           a site that tells its clients what they sent, over plain HTTP
    search         another site with HTTPS
    almanac        a domain; `en.`, `de.` and `www.` below it are sites with HTTPS
    server         a server that may ask for client certificates, by its name inside the cluster
    client         subject of the certificate that such clients show
    proxy          the label of a TCP ServiceEntry for another proxy
    echo_service   the Service of type ExternalName that stands for `echo`
    sni_proxy      the label of the ServiceEntry for the SNI proxy beside the gateway
    pages_service  the Service with hand-written Endpoints
    cluster_address  its address in the cluster
    endpoints      the addresses in its Endpoints
    proxy_address  of the other proxy
    """

    news: str
    echo: str
    search: str
    almanac: str
    server: str
    client: str
    proxy: str
    echo_service: str
    sni_proxy: str
    pages_service: str
    cluster_address: str
    endpoints: tuple[str, str]
    proxy_address: str


PUBLISHED_NAMES = Names(
    news="edition.cnn.com",
    echo="httpbin.org",
    search="www.google.com",
    almanac="wikipedia.org",
    server="my-nginx.mesh-external.svc.cluster.local",
    client="CN=client.example.com",
    proxy="my-company-proxy.com",
    echo_service="my-httpbin.default.svc.cluster.local",
    sni_proxy="sni-proxy.local",
    pages_service="my-wikipedia.default.svc.cluster.local",
    cluster_address="172.21.156.230",
    endpoints=("91.198.174.192", "198.35.26.96"),
    proxy_address="172.30.109.95",
)
OWN_NAMES = Names(
    news="news.example.com",
    echo="echo.example.com",
    search="search.example.com",
    almanac="almanac.example.org",
    server="vault.outside.svc.cluster.local",
    client="CN=egress.example.com",
    proxy="upstream-proxy.example.com",
    echo_service="echo.default.svc.cluster.local",
    sni_proxy="by-name.local",
    pages_service="almanac.default.svc.cluster.local",
    cluster_address="172.21.7.7",
    endpoints=("198.41.30.10", "198.41.30.11"),
    proxy_address="172.30.109.95",
)
NAMES = PUBLISHED_NAMES if IS_PUBLISHED else OWN_NAMES


def folder(scenario: str) -> Path:
    """The folder of a scenario; the test is skipped where this edition has none."""
    found = FILES / scenario
    if not found.is_dir():
        pytest.skip(f"no {scenario} among {FILES.name}")
    return found


def files(scenario: str, *beginnings: str) -> list[Path]:
    """The YAML files of a scenario whose names begin so, in the order asked for; without `beginnings` the numbered ones."""
    if not beginnings:
        return sorted(folder(scenario).glob("[0-9]*.yaml"))
    return [file(scenario, beginning) for beginning in beginnings]


def file(scenario: str, beginning: str) -> Path:
    """The one file of a scenario whose name begins so."""
    found = sorted(folder(scenario).glob(f"{beginning}*"))
    assert len(found) == 1, f"{beginning} in {scenario}: {[each.name for each in found]}"
    return found[0]


OWN_VARIANTS = {
    "egress-control": {"1.0": "with-route-02-"},
    "egress-gateway-http": {
        "seed-004-01": "echo-01-",
        "seed-004-02": "echo-02-",
        "seed-004-03": "echo-03-",
    },
    "egress-gateway-https": {
        "1.1-02-mtls-enabled-tcp-route": "mesh-tls-02-",
        "1.1-02-passthrough-snake-case": "old-spelling-02-",
    },
    "egress-gateway-tls-origination-mutual-file-mount": {"1.1-serviceentry": "named-endpoint-"},
    "egress-gateway-tls-origination-simple": {
        "1.1-02": "mesh-files-whole-host-02-",
        "1.2-02": "mesh-files-02-",
        "1.5-02": "plain-http-02-",
        "seed-003-01": "http-on-443-01-",
        "seed-003-02-gateway-destinationrule": "http-on-443-02-gateway-",
        "seed-003-02-mtls": "http-on-443-02-mtls-",
        "seed-003-03": "http-on-443-03-",
    },
    "egress-tls-origination": {
        "1.1-01": "old-spelling-01-",
        "1.1-02": "http-on-443-02-",
        "1.3-02": "no-subset-02-",
        "1.4-02": "whole-02-",
        "1.8-01": "target-port-01-",
        "1.8-02": "target-port-02-",
    },
    "wildcard-arbitrary-sni-proxy": {
        "1.1-03-mtls-enabled": "old-filters-whole-host-03-",
        "1.1-03-passthrough": "passthrough-old-spelling-03-",
        "1.2-03-mtls-enabled": "old-filters-old-spelling-03-",
        "1.5-03-mtls-enabled": "old-filters-03-",
        "1.5-03-passthrough": "passthrough-03-",
    },
    "wildcard-direct": {"1.1-malformed": "malformed-", "1.2": "old-spelling-", "1.5": "with-route-"},
    "wildcard-gateway-single-host": {
        "1.1-01": "old-spelling-01-",
        "1.1-02": "old-spelling-02-",
        "1.5-01": "declared-tls-01-",
    },
}
"""What the names of our variants begin with, by scenario and by what the documents' begin with."""


def variant(scenario: str, beginning: str) -> Path:
    """The one file below `variants` that the documents' edition knows by this beginning."""
    return file(scenario, f"variants/{beginning if IS_PUBLISHED else OWN_VARIANTS[scenario][beginning]}")


def mesh(mode: str) -> Path:
    """The mesh's ConfigMap with this mode: `allow-any` or `registry-only`."""
    return file("common", f"configmap-istio-{mode}")
