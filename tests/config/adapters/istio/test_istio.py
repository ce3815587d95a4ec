"""All files of one load: kinds, versions, places of faults, the published files, and the way through `load` and `convert`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.istio import LISTENERS, REGISTRY_ONLY, Meets, entry, meets, thing, to, virtual_service

from egressproxy.config.load import Loaded, load
from egressproxy.config.native_text import native_lines
from egressproxy.errors import ConfigError

PUBLISHED = Path(__file__).parents[5] / "shared" / "istio"
OWN = Path(__file__).parents[4] / "config" / "istio"

A = entry("a.example", "80 HTTP")


# --- kinds and versions -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["v1alpha3", "v1beta1", "v1"])
def test_versions_mean_the_same(version: str) -> None:
    assert meets(A.replace("io/v1", f"io/{version}")).data == meets(A).data


def test_another_version_is_a_fault() -> None:
    assert meets(A.replace("io/v1", "io/v2")).faults == [
        "1 ServiceEntry.a.example.apiVersion: expected networking.istio.io in one of v1alpha3, v1beta1, v1, got v2"
    ]


@pytest.mark.parametrize(
    ("api", "kind"),
    [
        ("security.istio.io/v1", "AuthorizationPolicy"),
        ("security.istio.io/v1", "RequestAuthentication"),
        ("extensions.istio.io/v1alpha1", "WasmPlugin"),
        ("gateway.networking.k8s.io/v1", "Gateway"),
        ("gateway.networking.k8s.io/v1", "HTTPRoute"),
        ("rbac.istio.io/v1alpha1", "ClusterRbacConfig"),
        ("rbac.istio.io/v1alpha1", "ServiceRole"),
        ("config.istio.io/v1alpha2", "rule"),
        ("networking.istio.io/v1", "Novelty"),
        ("security.istio.io/v1", "AuthorisationPolicy"),
        ("security.istio.io/v1", "authorizationpolicy"),
        ("extensions.istio.io/v1alpha1", "Wasmplugin"),
        ("gateway.networking.k8s.io/v1", "HttpRoute"),
        ("rbac.istio.io/v1alpha1", "RbacConfigs"),
    ],
)
def test_kinds_that_decide_who_may_go_where_are_refused(api: str, kind: str) -> None:
    (fault,) = meets(f"apiVersion: {api}\nkind: {kind}\nmetadata: {{name: x}}\nspec: {{}}\n", lenient=True).faults
    assert fault.startswith(f"2 {kind}.x")
    assert "refused rather than ignored" in fault


@pytest.mark.parametrize(
    ("group", "meant"),
    [
        ("networking.istio.oi", "networking.istio.io"),
        ("network.istio.io", "networking.istio.io"),
        ("securty.istio.io", "security.istio.io"),
    ],
)
def test_a_slip_in_the_group_is_refused(group: str, meant: str) -> None:
    (fault,) = meets(f"apiVersion: {group}/v1\nkind: Door\nmetadata: {{name: x}}\nspec: {{}}\n", lenient=True).faults
    assert fault == f"1 Door.x.apiVersion: no such group; it is refused rather than ignored; did you mean {meant}?"


@pytest.mark.parametrize("second", ["Sidecar b default", "Sidecar b", "Sidecar a default"])
def test_two_sidecars_for_clients_are_a_conflict(second: str) -> None:
    found = meets(
        thing("Sidecar a", "{outboundTrafficPolicy: {mode: ALLOW_ANY}}"),
        thing(second, "{outboundTrafficPolicy: {mode: REGISTRY_ONLY}}"),
    )
    (fault,) = found.faults
    assert "two Sidecars are for clients in default: the other is a in mesh.yaml:4; leave one" in fault


@pytest.mark.parametrize(
    ("api", "kind"),
    [
        ("apps/v1", "Deployment"),
        ("networking.k8s.io/v1", "NetworkPolicy"),
        ("v1", "Namespace"),
        ("v1", "ServiceAccount"),
        ("security.istio.io/v1", "PeerAuthentication"),
        ("telemetry.istio.io/v1", "Telemetry"),
        ("networking.istio.io/v1", "WorkloadEntry"),
        ("serving.knative.dev/v1", "Service"),
        ("networking.internal.knative.dev/v1alpha1", "Gateway"),
        ("appmesh.k8s.aws/v1beta2", "VirtualService"),
        ("policy.linkerd.io/v1alpha1", "AuthorizationPolicy"),
    ],
)
def test_kinds_without_meaning_here_are_noted_once(api: str, kind: str) -> None:
    found = meets(REGISTRY_ONLY, f"apiVersion: {api}\nkind: {kind}\nmetadata: {{name: x}}\nspec: {{a: [b]}}\n")
    assert (found.faults, found.notes) == ([], [f"9 {kind}.x: has no meaning for a proxy outside the mesh"])


NET = "networking.istio.io/v1"


@pytest.mark.parametrize(
    ("api", "kind", "meant"),
    [
        ("networking.istio/v1", "Sidecar", NET),
        ("networking.istio/v1", "ServiceEntry", NET),
        ("network.istio.io/v1", "Gateway", NET),
        ("v1", "VirtualService", NET),
        ("security.istio.io/v1", "EnvoyFilter", "networking.istio.io/v1alpha3"),
        ("security.istio/v1", "AuthorizationPolicy", "security.istio.io/v1"),
        ("networking.istio.io/v1", "AuthorizationPolicy", "security.istio.io/v1"),
        ("policy.linkerd.io/v1", "Sidecar", NET),
    ],
)
def test_a_kind_of_istios_in_a_group_that_has_none_is_refused(api: str, kind: str, meant: str) -> None:
    found = meets(f"apiVersion: {api}\nkind: {kind}\nmetadata: {{name: x}}\nspec: {{}}\n", lenient=True)
    advice = f"it is refused rather than ignored; did you mean {meant}?"
    assert found.faults == [f"1 {kind}.x.apiVersion: '{api}' is not known to have a {kind}; {advice}"]


@pytest.mark.parametrize(
    ("api", "kind", "meant"),
    [
        ("networking.istio.io/v1", "serviceEntry", "ServiceEntry"),
        ("networking.istio.io/v1", "VirtualServices", "VirtualService"),
        ("security.istio.io/v1", "AuthorisationPolicy", "AuthorizationPolicy"),
        ("security.istio.io/v1", "sidecar", f"Sidecar of {NET}"),
        ("networking.istio/v1", "sidecar", f"Sidecar of {NET}"),
    ],
)
def test_a_kind_that_is_nearly_one_of_istios_is_refused_with_what_was_meant(api: str, kind: str, meant: str) -> None:
    (fault,) = meets(f"apiVersion: {api}\nkind: {kind}\nmetadata: {{name: x}}\nspec: {{}}\n", lenient=True).faults
    assert fault.startswith(f"2 {kind}.x.kind: no such kind, or one that is not known here; ")
    assert fault.endswith(f"; did you mean {meant}?")


# --- through load -------------------------------------------------------------------------------------------------


def write(folder: Path, **files: str) -> list[str]:
    paths = []
    for name, content in files.items():
        path = folder / f"{name}.yaml"
        path.write_text(content)
        paths.append(str(path))
    return paths


def notes(loaded: Loaded) -> list[str]:
    return [str(note) for note in loaded.notes]


def test_a_fault_of_the_whole_names_the_line_of_the_object(tmp_path: Path) -> None:
    rule = thing(
        "DestinationRule d", "\n  host: a.example\n  trafficPolicy:\n    tls:\n      mode: SIMPLE\n      sni: '*.x'"
    )
    files = write(tmp_path, a=REGISTRY_ONLY + "---\n" + A, b=rule)
    with pytest.raises(ConfigError) as caught:
        load(files)
    (problem,) = caught.value.problems
    assert str(problem).startswith(f"{files[1]}:8: services[0].tls.sni: expected one host name, got '*.x'")


def test_objects_of_several_files_speak_of_each_other_beside_native_settings(tmp_path: Path) -> None:
    native = "listeners: [{protocol: http, port: 8000}]\nguard: {allow: [127.0.0.0/8]}\n"
    config = load(write(tmp_path, a=native, b=REGISTRY_ONLY, c=A)).config
    assert [listener.port for listener in config.listeners] == [8000]
    assert [service.name for service in config.services] == ["outbound|80||a.example"]


def test_a_conflict_with_native_settings_names_both_places(tmp_path: Path) -> None:
    files = write(tmp_path, a="listeners: [{protocol: http, port: 8000}]\noutbound: allow_any\n", b=REGISTRY_ONLY)
    with pytest.raises(ConfigError) as caught:
        load(files)
    (problem,) = caught.value.problems
    assert (
        str(problem)
        == f"{files[1]}:6: outbound: is 'registry_only' here and 'allow_any' in {files[0]}:2; expected one value"
    )


# --- the published files ------------------------------------------------------------------------------------------

needs_published = pytest.mark.skipif(not PUBLISHED.is_dir(), reason="the published files are not beside the repository")

# What cannot load by itself, and the first words of why.
CANNOT: dict[str, str] = {
    "bypass-ip-ranges/platform-ranges.yaml": "2: expected Kubernetes objects with apiVersion and kind; this has neither",
    "external-https-proxy/serviceentry-proxy.template.yaml": "9: ServiceEntry.proxy.spec.addresses[0]: expected an address",
    "external-https-proxy/variants/1.1-serviceentry-proxy.template.yaml": "9: ServiceEntry.proxy.spec.addresses[0]: expected",
    "wildcard-arbitrary-sni-proxy/deployment-patch-sni-proxy.yaml": "1: expected Kubernetes objects with apiVersion and kind",
    "wildcard-direct/variants/1.1-malformed.yaml": "23: spec.tls[0]: the indentation does not fit the lines above",
}


def published() -> list[str]:
    return sorted(str(path.relative_to(PUBLISHED)) for path in PUBLISHED.rglob("*.yaml"))


@needs_published
@pytest.mark.parametrize("name", published())
def test_every_published_file_loads_or_says_exactly_why_not(name: str) -> None:
    path = f"istio:{PUBLISHED / name}"
    if name in CANNOT:
        with pytest.raises(ConfigError) as caught:
            load([path])
        assert str(caught.value.problems[0]).removeprefix(f"{PUBLISHED / name}:").startswith(CANNOT[name])
    else:
        assert load([path]).config.listeners


def scenario(*names: str) -> Any:
    """The objects of some published files, taken together."""
    return meets(*(f"{(PUBLISHED / name).read_text().rstrip()}\n" for name in names))


POLICY = "common/configmap-istio-registry-only.yaml"
CNN, CNN_TLS = "outbound|80||edition.cnn.com", "outbound|443||edition.cnn.com"
NGINX = "outbound|443||my-nginx.mesh-external.svc.cluster.local"
NGINX_HOST = "my-nginx.mesh-external.svc.cluster.local"
SCENARIOS: list[tuple[list[str], dict[str, str]]] = [
    (
        ["external-https-proxy/serviceentry-proxy.yaml"],
        {
            "tunnel 172.30.109.95:3128": "outbound|3128||my-company-proxy.com",
            "tunnel 172.30.109.96:3128": "refused",
            "tunnel en.wikipedia.org:443": "refused",
        },
    ),
    (
        ["egress-control/01-serviceentry-httpbin-ext.yaml", "egress-control/02-serviceentry-google.yaml"],
        {
            "get httpbin.org:80/headers": "outbound|80||httpbin.org",
            "tunnel www.google.com:443": "outbound|443||www.google.com",
            "tunnel edition.cnn.com:443": "refused",
            "get edition.cnn.com:80/": "refused",
        },
    ),
    (["egress-tls-origination/01-serviceentry-virtualservice.yaml"], {"get edition.cnn.com:80/politics": CNN}),
    (
        [
            "egress-tls-origination/01-serviceentry-virtualservice.yaml",
            "egress-tls-origination/02-virtualservice-destinationrule.yaml",
        ],
        {
            "get edition.cnn.com:80/politics": "outbound|443|tls-origination|edition.cnn.com",
            "tunnel edition.cnn.com:443": CNN_TLS,
        },
    ),
    (
        ["egress-tls-origination/variants/1.1-02-port-443-declared-http.yaml"],
        {"get edition.cnn.com:80/": CNN_TLS, "tunnel edition.cnn.com:443": "close"},
    ),
    (
        ["egress-tls-origination/variants/1.3-02-port-443-declared-https.yaml"],
        {"get edition.cnn.com:80/": CNN_TLS, "tunnel edition.cnn.com:443": CNN_TLS},
    ),
    (
        ["egress-tls-origination/variants/1.8-02-targetport.yaml"],
        {"get edition.cnn.com:80/": CNN, "tunnel edition.cnn.com:443": CNN_TLS},
    ),
    (
        [
            "egress-gateway-http/01-serviceentry.yaml",
            "egress-gateway-http/02-gateway-destinationrule.yaml",
            "egress-gateway-http/03-virtualservice.yaml",
        ],
        {
            "get edition.cnn.com:80/politics": CNN,
            "tunnel edition.cnn.com:443": CNN_TLS,
            "get x.example:80/": "not_found",
        },
    ),
    (
        [
            "egress-gateway-https/01-serviceentry.yaml",
            "egress-gateway-https/02-gateway-destinationrule-virtualservice.yaml",
        ],
        {"tunnel edition.cnn.com:443": CNN_TLS, "tunnel x.example:443": "refused"},
    ),
    (
        [
            "egress-gateway-https/01-serviceentry.yaml",
            "egress-gateway-https/variants/1.1-02-mtls-enabled-tcp-route.yaml",
        ],
        {"tunnel edition.cnn.com:443": CNN_TLS},
    ),
    (
        [
            "egress-gateway-tls-origination-simple/01-serviceentry.yaml",
            "egress-gateway-tls-origination-simple/02-gateway-destinationrule.yaml",
        ],
        {"get edition.cnn.com:80/politics": CNN},
    ),
    (
        [
            "egress-gateway-tls-origination-simple/01-serviceentry.yaml",
            "egress-gateway-tls-origination-simple/02-gateway-destinationrule.yaml",
            "egress-gateway-tls-origination-simple/03-virtualservice-destinationrule.yaml",
        ],
        {"get edition.cnn.com:80/politics": CNN_TLS, "tunnel edition.cnn.com:443": CNN_TLS},
    ),
    (
        [
            "egress-gateway-tls-origination-simple/variants/seed-003-01-serviceentry.yaml",
            "egress-gateway-tls-origination-simple/variants/seed-003-02-gateway-destinationrule.yaml",
        ],
        {"get edition.cnn.com:443/": "not_found", "tunnel edition.cnn.com:443": "close"},
    ),
    (
        [
            "egress-gateway-tls-origination-simple/variants/seed-003-01-serviceentry.yaml",
            "egress-gateway-tls-origination-simple/variants/seed-003-02-gateway-destinationrule.yaml",
            "egress-gateway-tls-origination-simple/variants/seed-003-03-virtualservice-destinationrule.yaml",
        ],
        {"get edition.cnn.com:80/": CNN_TLS, "get edition.cnn.com:443/": CNN_TLS},
    ),
    *(
        (
            [
                f"egress-gateway-tls-origination-{kind}/server-service-deployment.yaml",
                f"egress-gateway-tls-origination-{kind}/01-gateway-destinationrule.yaml",
                f"egress-gateway-tls-origination-{kind}/02-virtualservice.yaml",
            ],
            {f"get {NGINX_HOST}:80/": NGINX, f"tunnel {NGINX_HOST}:443": NGINX},
        )
        for kind in ("mutual-file-mount", "mutual-sds", "simple-sds")
    ),
    (
        [
            "egress-gateway-tls-origination-simple-sds/server-service-deployment.yaml",
            "egress-gateway-tls-origination-simple-sds/01-gateway-destinationrule.yaml",
            "egress-gateway-tls-origination-simple-sds/02-virtualservice.yaml",
            "egress-gateway-tls-origination-simple-sds/03-destinationrule-originate-tls.yaml",
        ],
        {f"get {NGINX_HOST}:80/": "unavailable"},  # the Secret is not there yet
    ),
    (
        ["wildcard-direct/serviceentry-wikipedia.yaml"],
        {"tunnel en.wikipedia.org:443": "outbound|443||*.wikipedia.org", "tunnel wikipedia.org:443": "refused"},
    ),
    (
        ["wildcard-direct/variants/1.5-serviceentry-virtualservice.yaml"],
        {"tunnel en.wikipedia.org:443": "outbound|443||*.wikipedia.org"},
    ),
    (
        [
            "wildcard-gateway-single-host/01-gateway-destinationrule-virtualservice.yaml",
            "wildcard-gateway-single-host/02-serviceentry-www-wikipedia.yaml",
        ],
        {
            "tunnel en.wikipedia.org:443": "outbound|443||www.wikipedia.org",
            "tunnel de.wikipedia.org:443": "outbound|443||www.wikipedia.org",
            "tunnel wikipedia.org:443": "refused",
        },
    ),
    (
        ["wildcard-gateway-single-host/01-gateway-destinationrule-virtualservice.yaml"],
        {"tunnel en.wikipedia.org:443": "unavailable"},
    ),
    (
        [
            "wildcard-arbitrary-sni-proxy/01-serviceentry-destinationrule-sni-proxy.yaml",
            "wildcard-arbitrary-sni-proxy/02-serviceentry-wikipedia.yaml",
            "wildcard-arbitrary-sni-proxy/03-gateway-destinationrule-virtualservice-envoyfilter.yaml",
            "wildcard-arbitrary-sni-proxy/04-envoyfilter-sni-verifier.yaml",
        ],
        {"tunnel en.wikipedia.org:443": "outbound|8443||sni-proxy.local", "tunnel wikipedia.org:443": "refused"},
    ),
    (
        ["kubernetes-services-externalname/01-service-my-httpbin.yaml"],
        {"get my-httpbin.default.svc.cluster.local:80/headers": "outbound|80||my-httpbin.default.svc.cluster.local"},
    ),
    (
        [
            "kubernetes-services-endpoints/01-service-my-wikipedia.with-cluster-ip.yaml",
            "kubernetes-services-endpoints/02-endpoints-my-wikipedia.yaml",
            "kubernetes-services-endpoints/03-destinationrule-my-wikipedia.yaml",
        ],
        {"tunnel 172.21.156.230:443": "outbound|443||my-wikipedia.default.svc.cluster.local"},
    ),
]


@needs_published
@pytest.mark.parametrize(("names", "asks"), SCENARIOS, ids=lambda value: value[-1] if isinstance(value, list) else "")
def test_what_clients_meet_in_the_published_scenarios(names: list[str], asks: dict[str, str]) -> None:
    found = scenario(POLICY, *names)
    got = {ask: getattr(found, ask.partition(" ")[0])(ask.partition(" ")[2]) for ask in asks}
    assert got == asks


@needs_published
@pytest.mark.parametrize(
    ("one", "other"),
    [
        (
            "egress-gateway-https/02-gateway-destinationrule-virtualservice.yaml",
            "egress-gateway-https/variants/1.1-02-passthrough-snake-case.yaml",
        ),
        (
            "wildcard-arbitrary-sni-proxy/variants/1.1-03-mtls-enabled.yaml",
            "wildcard-arbitrary-sni-proxy/variants/1.5-03-mtls-enabled.yaml",
        ),
    ],
)
def test_variants_that_mean_the_same_come_to_the_same(one: str, other: str) -> None:
    assert scenario(POLICY, one).data == scenario(POLICY, other).data


@needs_published
def test_the_published_filters_are_recognised_in_both_shapes() -> None:
    old = scenario(POLICY, "wildcard-arbitrary-sni-proxy/variants/1.1-03-mtls-enabled.yaml").data["sni_check"]
    new = scenario(POLICY, "wildcard-arbitrary-sni-proxy/04-envoyfilter-sni-verifier.yaml").data["sni_check"]
    assert (old, new) == ("enforce", "enforce")


# --- convert ------------------------------------------------------------------------------------------------------


def converted(loaded: Loaded, folder: Path) -> Loaded:
    """The configuration that `convert` prints, loaded."""
    path = folder / "native.yaml"
    path.write_text("\n".join(native_lines(loaded.config, loaded.locate)) + "\n")
    return load([str(path)])


@needs_published
@pytest.mark.parametrize("names", [names for names, _ in SCENARIOS], ids=lambda names: str(names[-1]))
def test_what_convert_prints_is_the_same_configuration(names: list[str], tmp_path: Path) -> None:
    loaded = load([f"istio:{PUBLISHED / name}" for name in (POLICY, *names)])
    assert converted(loaded, tmp_path).config == loaded.config


# --- our own examples ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(OWN.glob("*.yaml")), ids=lambda path: path.stem)
def test_our_own_examples_load_and_convert_to_themselves(path: Path, tmp_path: Path) -> None:
    loaded = load([str(path)])
    assert loaded.config.services
    assert converted(loaded, tmp_path).config == loaded.config


def example(name: str) -> Meets:
    return meets((OWN / f"{name}.yaml").read_text())


@pytest.mark.parametrize(
    ("name", "asks"),
    [
        (
            "registry",
            {
                "get httpbin.org:80/get": "outbound|80||httpbin.org",
                "tunnel www.example.com:443": "outbound|443||www.example.com",
                "tunnel en.wikipedia.org:443": "outbound|443||*.wikipedia.org",
                "tunnel wikipedia.org:443": "refused",
                "get unknown.example:80/": "refused",
            },
        ),
        (
            "tls-origination",
            {
                "get edition.cnn.com:80/politics": "outbound|443|tls-origination|edition.cnn.com",
                "tunnel edition.cnn.com:443": "outbound|443||edition.cnn.com",
            },
        ),
        (
            "gateway",
            {
                "get edition.cnn.com:80/politics": "outbound|443||edition.cnn.com",
                "tunnel en.wikipedia.org:443": "outbound|443||www.wikipedia.org",
                "get unknown.example:80/": "refused",
            },
        ),
    ],
)
def test_what_clients_meet_in_our_own_examples(name: str, asks: dict[str, str]) -> None:
    found = example(name)
    assert {ask: getattr(found, ask.partition(" ")[0])(ask.partition(" ")[2]) for ask in asks} == asks


UNSEEN = "has no effect: exportTo shows it to other, and it is looked at from default (clients are in default)"


@pytest.mark.parametrize(
    ("hidden", "said"),
    [
        (
            entry("b.example", "80 HTTP", more="resolution: DNS, exportTo: ['.']", title="ServiceEntry b other"),
            f"ServiceEntry.b: {UNSEEN}; add that to exportTo, or move the object there",
        ),
        (
            virtual_service("a.example", f"{{exportTo: [other], http: [{{route: [{to('a.example')}]}}]}}"),
            f"VirtualService.routes: {UNSEEN}; add that to exportTo, or move the object there",
        ),
        (
            thing("DestinationRule d default", "{host: a.example, exportTo: [other]}"),
            f"DestinationRule.d: {UNSEEN}; add that to exportTo, or move the object there",
        ),
        (
            thing("DestinationRule d elsewhere", "{host: a.example}"),
            "DestinationRule.d: has no effect: no DestinationRule is looked for in namespace elsewhere, where no client, "
            "gateway or service is; move it to default, or to the service's",
        ),
        (entry("b.example", "80 HTTP", more="resolution: DNS, exportTo: [other, default]"), None),
        (entry("b.example", "80 HTTP", title="ServiceEntry b other"), None),
    ],
)
def test_what_is_hidden_from_all_who_look_is_noted(hidden: str, said: str | None) -> None:
    notes = [each.partition(" ")[2] for each in meets(REGISTRY_ONLY, entry("a.example", "80 HTTP"), hidden).notes]
    assert notes == ([] if said is None else [said])


@pytest.mark.parametrize(
    ("host", "more"),
    [("db.corp.internal", "resolution: DNS"), ("db.example", "resolution: DNS, location: MESH_INTERNAL")],
)
def test_that_private_names_meet_the_address_guard_is_noted_once(host: str, more: str) -> None:
    entries = entry(host, "443 TLS", more=more), entry("z.internal", "443 TLS")
    rule = {"action": "allow", "hosts": [host], "private_addresses": True}
    (note,) = (each for each in meets(REGISTRY_ONLY, *entries).notes if "address guard" in each)
    assert note.endswith(f"rules: [{{action: allow, hosts: ['{host}'], private_addresses: true}}]")
    opened = meets(REGISTRY_ONLY, *entries, beside={"listeners": LISTENERS, "rules": [rule]})
    assert not [each for each in opened.notes if "address guard" in each]
