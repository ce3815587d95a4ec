"""The Kubernetes manifests: valid, whole, restricted; and their containers start, answer their probes and do their work."""

from __future__ import annotations

import http.client
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Any, NamedTuple

import kubernetes_validate
import pytest
import yaml
from scenarios.pods import Pod
from support.certificates import authority
from support.clients import Done, installed
from support.containers import Running, Volumes, check, need_containers
from support.manifests import FOLDER, GATEWAY_PATCH, OVERLAYS, Container, Objects, assembled, kustomize, patched_gateway
from support.namespaces import Namespace, connect
from support.proxy import ROOT, Proxy
from support.sites import Site
from support.tls_servers import secret_of
from support.waiting import WAIT_S, eventually

from egressproxy.policy.addresses import _SPECIAL_V4, _SPECIAL_V6, METADATA

PUBLISHED = ROOT.parent / "shared" / "istio"
"""The documents' scenarios, where they are at hand."""

OLDEST, NEWEST = "1.30", "1.37"
OPERATORS_OWN = {"PodMonitor", "PrometheusRule"}
"""Kinds that Kubernetes itself does not have."""
NAT64 = IPv6Network("64:ff9b::/96")
"""Where IPv4 addresses are, for a network without IPv4 (RFC 6052)."""

BY_OTHERS = {
    "overlays/squid-substitute/deployment": {"proxy-configmap"},
    "overlays/sni-proxy/deployment": {"egress-sni-proxy-configmap"},
}
"""ConfigMaps that somebody else has made before."""

SPARE_S = 5
"""Behind the drain, until the kubelet kills."""
SQUIDS_LIFETIME_S = 30
"""The drain of a squid.conf without `shutdown_lifetime`."""


# --- the files ----------------------------------------------------------------------------------------------------


def test_every_file_is_valid_yaml_and_belongs_to_something() -> None:
    files = {file for file in FOLDER.rglob("*") if file.is_file()}
    used = {GATEWAY_PATCH, FOLDER / "README.md"}
    for file in files:
        if file.suffix == ".yaml":
            list(yaml.safe_load_all(file.read_text()))
        if file.name == "kustomization.yaml":
            used |= {file, *named_by(file)}
    assert files == used


def named_by(kustomization: Path) -> set[Path]:
    """The files that a kustomization names; its folders hold one of their own."""
    content = yaml.safe_load(kustomization.read_text())
    names = [*content["resources"], *(patch["path"] for patch in content.get("patches", ()) if "path" in patch)]
    for generator in content.get("configMapGenerator", ()):
        names += [name.rpartition("=")[2] for name in generator.get("files", ())]
    found = {(kustomization.parent / name).resolve() for name in names}
    assert {path for path in found if not path.exists()} == set(), kustomization
    return {path for path in found if path.is_file()}


def test_the_file_in_squids_place_is_the_one_that_is_an_example() -> None:
    copy = FOLDER / "overlays" / "squid-substitute" / "proxy.conf"
    assert copy.read_bytes() == (ROOT / "config" / "squid" / "proxy.conf").read_bytes()


def test_the_readme_names_every_overlay() -> None:
    text = (FOLDER / "README.md").read_text()
    assert [overlay for overlay in OVERLAYS if f"config/kubernetes/{overlay}" not in text] == []


def commands_of_the_readme() -> list[str]:
    text = (FOLDER / "README.md").read_text().replace("|\n  kubectl", "| kubectl")
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [line for language, block in blocks if not language for line in block.splitlines()]


@pytest.mark.parametrize("command", [line for line in commands_of_the_readme() if "(cluster)" not in line])
def test_a_command_of_the_readme_works(command: str) -> None:
    program, *words = command.split()
    if program == "egressproxy":
        done = subprocess.run(
            [sys.executable, "-m", program, *words], cwd=ROOT, capture_output=True, text=True, check=False
        )
    else:
        done = subprocess.run([installed(program), *words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_other_commands_name_files_that_are_there() -> None:
    marked = [line for line in commands_of_the_readme() if "(cluster)" in line]
    paths = {word for line in marked for word in line.split() if word.startswith("config/")}
    assert paths
    assert [path for path in paths if not (ROOT / path).exists()] == []
    applied = {line.split(" -k ")[1].split()[0] for line in marked if " -k " in line}
    assert applied == {f"config/kubernetes/{overlay}" for overlay in OVERLAYS}


# --- what they say ------------------------------------------------------------------------------------------------


@pytest.fixture(params=OVERLAYS)
def overlay(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def objects(overlay: str) -> Objects:
    return assembled(overlay)


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_kubernetes_takes_them(objects: Objects, version: str) -> None:
    for each in objects:
        if each["kind"] not in OPERATORS_OWN:
            kubernetes_validate.validate(each, version, strict=True)


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_kubernetes_takes_the_files_that_are_whole(version: str) -> None:
    """Also where no kustomize is at hand: what a kustomization names as a resource is an object, and not a patch of one."""
    kinds = set()
    for kustomization in FOLDER.rglob("kustomization.yaml"):
        for name in yaml.safe_load(kustomization.read_text())["resources"]:
            if (file := kustomization.parent / name).is_file():
                for each in yaml.safe_load_all(file.read_text()):
                    kinds.add(each["kind"])
                    if each["kind"] not in OPERATORS_OWN:
                        kubernetes_validate.validate(each, version, strict=True)
    assert kinds >= {"Deployment", "Service", "NetworkPolicy", "Namespace", "Job"}


def test_a_misspelt_field_would_be_found() -> None:
    (deployment,) = assembled("base").of_kind("Deployment")
    broken = yaml.safe_load(
        yaml.safe_dump(deployment).replace("terminationGracePeriodSeconds", "terminationGraceSeconds")
    )
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, OLDEST, strict=True)


def test_what_pods_refer_to_is_there(objects: Objects, overlay: str) -> None:
    accounts = {each["metadata"]["name"] for each in objects.of_kind("ServiceAccount")}
    known = set(objects.config_maps) | BY_OTHERS.get(overlay, set())
    for workload, template in objects.templates():
        spec = template["spec"]
        assert spec.get("serviceAccountName") in {None, *accounts}
        selector = workload["spec"].get("selector", {}).get("matchLabels", {})
        assert selector.items() <= template["metadata"]["labels"].items()
        volumes = {volume["name"]: volume for volume in spec.get("volumes", ())}
        mounts = [mount for each in all_containers(spec) for mount in each.get("volumeMounts", ())]
        assert {mount["name"] for mount in mounts} == {*volumes} - {"istio-envoy"}
        names = {volume["configMap"]["name"] for volume in volumes.values() if "configMap" in volume}
        for each in all_containers(spec):
            names |= {source["configMapRef"]["name"] for source in each.get("envFrom", ())}
        assert names <= known
        for constraint in spec.get("topologySpreadConstraints", ()):
            assert constraint["labelSelector"]["matchLabels"].items() <= template["metadata"]["labels"].items()


def all_containers(spec: dict[str, Any]) -> list[dict[str, Any]]:
    return [*spec.get("initContainers", ()), *spec["containers"]]


def test_no_pod_is_replaced_for_a_changed_configmap() -> None:
    for file in FOLDER.rglob("kustomization.yaml"):
        kustomization = yaml.safe_load(file.read_text())
        if "configMapGenerator" in kustomization:
            assert kustomization["generatorOptions"] == {"disableNameSuffixHash": True}, file


def test_every_configmap_is_used(objects: Objects) -> None:
    used = {"egressproxy-dashboard"}  # by Grafana
    for _, template in objects.templates():
        used |= {volume["configMap"]["name"] for volume in template["spec"].get("volumes", ()) if "configMap" in volume}
        for each in all_containers(template["spec"]):
            used |= {source["configMapRef"]["name"] for source in each.get("envFrom", ())}
    assert set(objects.config_maps) <= used


def test_services_budgets_and_scalers_have_their_pods(objects: Objects) -> None:
    templates = [(work, template) for work, template in objects.templates()]
    ports = {name for each in objects.containers() for name in each.ports}

    def pods_of(labels: dict[str, str]) -> list[Any]:
        return [template for _, template in templates if labels.items() <= template["metadata"]["labels"].items()]

    for service in objects.of_kind("Service"):
        assert pods_of(service["spec"]["selector"])
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports
        assert "admin" not in {port["targetPort"] for port in service["spec"]["ports"]}
    for budget in objects.of_kind("PodDisruptionBudget"):
        assert pods_of(budget["spec"]["selector"]["matchLabels"])
    for scaler in objects.of_kind("HorizontalPodAutoscaler"):
        target = objects.named("Deployment", scaler["spec"]["scaleTargetRef"]["name"])
        assert "replicas" not in target["spec"], "it would be set back by every apply"
    scaled = {each["spec"]["scaleTargetRef"]["name"] for each in objects.of_kind("HorizontalPodAutoscaler")}
    for each in objects.of_kind("Deployment"):
        if "istio" not in each["metadata"]["name"]:
            assert ("replicas" in each["spec"]) is (each["metadata"]["name"] not in scaled)


def test_the_base_is_whole() -> None:
    """Each part by itself is looked at where it is; none may be missing."""
    objects = assembled("base")
    assert sorted(each["kind"] for each in objects) == [
        "ConfigMap",
        "Deployment",
        "HorizontalPodAutoscaler",
        "NetworkPolicy",
        "PodDisruptionBudget",
        "Service",
        "ServiceAccount",
    ]
    (deployment,), (scaler,) = objects.of_kind("Deployment"), objects.of_kind("HorizontalPodAutoscaler")
    assert deployment["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0, "a new pod before an old one goes"
    pod = deployment["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] == "egressproxy"
    spread = {each["topologyKey"] for each in pod["topologySpreadConstraints"]}
    assert spread == {"kubernetes.io/hostname", "topology.kubernetes.io/zone"}
    assert 2 <= scaler["spec"]["minReplicas"] < scaler["spec"]["maxReplicas"], "one may be away, and more may come"
    (metric,) = scaler["spec"]["metrics"]
    target = metric["resource"]["target"]
    assert target["type"] == "AverageValue", (
        "of a core, which is what one process can fill, and not of what is requested"
    )
    assert 0 < int(target["averageValue"].removesuffix("m")) < 1000
    (budget,) = objects.of_kind("PodDisruptionBudget")
    assert budget["spec"]["maxUnavailable"] == 1, "a node can be drained"
    assert budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow", "also where no pod comes up"


def test_a_pod_has_the_time_that_its_pause_and_its_drain_take(objects: Objects) -> None:
    """As its configuration says it; that a proxy has read it so is seen where it runs."""
    for container in objects.proxies():
        mounted = {volume["configMap"]["name"] for volume in container.pod["volumes"] if "configMap" in volume}
        texts = [objects.config_maps[name]["settings.yaml"] for name in mounted if settings_in(objects, name)]
        (settings,) = map(yaml.safe_load, texts)
        drain_s = settings.get("timeouts", {}).get("drain_s", SQUIDS_LIFETIME_S)
        pause_s = container.spec["lifecycle"]["preStop"]["sleep"]["seconds"]
        assert pause_s > 0
        assert pause_s + drain_s + SPARE_S <= container.pod.get("terminationGracePeriodSeconds", 30)


def settings_in(objects: Objects, config_map: str) -> bool:
    return "settings.yaml" in objects.config_maps.get(config_map, ())


def test_each_credential_of_the_gateway_is_a_secret_that_may_come_later() -> None:
    objects = assembled("overlays/egress-gateway")
    (container,) = objects.proxies()
    documents = [each for text in objects.config_maps["egress-istio"].values() for each in yaml.safe_load_all(text)]
    named = set(re.findall(r"'credentialName': '([^']+)'", repr(documents)))
    assert named
    settings = yaml.safe_load(objects.config_maps["egressproxy"]["settings.yaml"])
    places = {mount["name"]: mount["mountPath"] for mount in container.spec["volumeMounts"]}
    secrets = {volume["name"]: volume["secret"] for volume in container.pod["volumes"] if "secret" in volume}
    assert {each["secretName"]: places[name] for name, each in secrets.items()} == {
        name: f"{settings['secrets']['directory']}/{name}" for name in named
    }
    assert all(each["optional"] for each in secrets.values())


def test_the_pods_are_restricted(objects: Objects) -> None:
    """The profile `restricted` of Kubernetes' Pod Security Standards, and a root that is read-only."""
    for container in objects.containers():
        if container.spec["name"] == "istio-proxy":
            continue
        pod, own = container.pod["securityContext"], container.spec["securityContext"]
        both = {**pod, **own}
        assert both["runAsNonRoot"] is True
        assert both["runAsUser"] >= 10_000
        assert both["seccompProfile"] == {"type": "RuntimeDefault"}
        assert own["allowPrivilegeEscalation"] is False
        assert own["capabilities"] == {"drop": ["ALL"]}
        assert own["readOnlyRootFilesystem"] is True
        assert not {"hostNetwork", "hostPID", "hostIPC"} & container.pod.keys()
        assert {"configMap", "secret", "emptyDir"}.issuperset(
            kind for volume in container.pod.get("volumes", ()) for kind in volume if kind != "name"
        )
        assert {"cpu", "memory"} <= container.spec["resources"]["requests"].keys()
        assert "memory" in container.spec["resources"]["limits"]
        assert "cpu" not in container.spec["resources"]["limits"], "a throttled event loop is late for everybody"


def test_no_pod_of_ours_gets_a_token(objects: Objects) -> None:
    for _, template in objects.templates():
        if not any(each["name"] == "istio-proxy" for each in template["spec"]["containers"]):
            assert template["spec"]["automountServiceAccountToken"] is False
    for account in objects.of_kind("ServiceAccount"):
        assert account["automountServiceAccountToken"] is False


def test_the_admin_port_is_for_the_kubelet_and_for_prometheus(objects: Objects) -> None:
    for container in objects.proxies():
        admin = container.ports["admin"]
        for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert container.number(container.spec[kind]["httpGet"]["port"]) == admin
        policies = [
            policy
            for policy in objects.of_kind("NetworkPolicy")
            if policy["spec"]["podSelector"].get("matchLabels", {}).items()
            <= container.template["metadata"]["labels"].items()
            and "Ingress" in policy["spec"]["policyTypes"]
            and policy["metadata"].get("namespace") == container.namespace
        ]
        assert policies, "without one everybody may come in"
        for rule in (rule for policy in policies for rule in policy["spec"]["ingress"]):
            assert rule["ports"], "without ports all are meant"
            if any(opens(port, container, admin) for port in rule["ports"]):
                assert rule["from"] == [
                    {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
                ]


def opens(port: dict[str, Any], container: Container, number: int) -> bool:
    if port["protocol"] != "TCP":
        return False
    first = container.number(port["port"]) if port["port"] in container.ports or isinstance(port["port"], int) else 0
    return bool(first <= number <= port.get("endPort", first))


def test_beside_the_gateway_one_port_is_closed_and_no_other() -> None:
    (policy,) = yaml.safe_load_all((FOLDER / "overlays/sni-proxy/deployment/networkpolicy.yaml").read_text())
    for_all = [port for rule in policy["spec"]["ingress"] if "from" not in rule for port in rule["ports"]]
    ranges = {
        protocol: {number for port in for_all if port["protocol"] == protocol for number in span(port)}
        for protocol in ("TCP", "UDP")
    }
    every = set(range(1, 2**16))
    assert ranges == {"TCP": every - {9090}, "UDP": every}


def span(port: dict[str, Any]) -> range:
    return range(port["port"], port.get("endPort", port["port"]) + 1)


def test_an_example_goes_away_so_that_another_image_can_be_applied() -> None:
    """A Job cannot be changed."""
    jobs = assembled("overlays/locked-down").of_kind("Job")
    assert jobs
    assert all("ttlSecondsAfterFinished" in each["spec"] for each in jobs)


@pytest.mark.parametrize(
    "name", ["overlays/squid-substitute", "overlays/egress-gateway", "overlays/sni-proxy", "overlays/locked-down"]
)
def test_every_image_is_set_in_one_place(name: str, tmp_path: Path) -> None:
    image = "registry.example/proxies/egressproxy:1.2.3"
    copy = tmp_path / "kubernetes"
    shutil.copytree(FOLDER, copy)
    if name == "overlays/sni-proxy":
        patch = copy / "patch.yaml"
        patch.write_text(GATEWAY_PATCH.read_text().replace("egressproxy:VERSION", image))
        objects = Objects([patched_gateway(patch)])
    else:
        file = copy / name / "kustomization.yaml"
        content = yaml.safe_load(file.read_text())
        assert content["images"] == [{"name": "egressproxy", "newName": "egressproxy", "newTag": "VERSION"}]
        content["images"] = [{"name": "egressproxy", "newName": image.rpartition(":")[0], "newTag": "1.2.3"}]
        file.write_text(yaml.safe_dump(content))
        objects = kustomize(copy / name)
    assert {each.spec["image"] for each in objects.containers()} - {"proxyv2"} == {image}


def test_the_locked_namespace_reaches_dns_and_the_proxy_and_nothing_else() -> None:
    objects = assembled("overlays/locked-down")
    locked = [each for each in objects.of_kind("NetworkPolicy") if each["metadata"]["namespace"] == "workloads"]
    assert all(each["spec"]["podSelector"] == {} for each in locked)
    (default,) = (each for each in locked if set(each["spec"]) == {"podSelector", "policyTypes"})
    assert default["spec"]["policyTypes"] == ["Ingress", "Egress"]
    ways = [rule for each in locked for rule in each["spec"].get("egress", ())]
    ports = sorted({port["port"] for rule in ways for port in rule["ports"]})
    assert (len(ways), ports) == (2, [53, 3128])
    assert all(len(rule["to"]) == 1 for rule in ways)
    (proxy,) = objects.proxies()
    names = {
        "to": [
            {
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}},
                "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}},
            }
        ],
        "ports": [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}],
    }
    assert names in ways
    assert names in objects.named("NetworkPolicy", "egressproxy")["spec"]["egress"]
    for each in objects.of_kind("Namespace"):
        assert each["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted", (
            "or hostNetwork is a way out"
        )
    (to_proxy,) = (rule["to"][0] for rule in ways if rule["ports"][0]["port"] == proxy.ports["proxy"])
    assert to_proxy["podSelector"]["matchLabels"].items() <= proxy.template["metadata"]["labels"].items()
    assert to_proxy["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": proxy.namespace}
    # Both ends agree: the namespace has the label that the proxy asks for, and the environment names the proxy's Service.
    policy = next(each for each in objects.of_kind("NetworkPolicy") if each["metadata"]["namespace"] == proxy.namespace)
    (wanted,) = (rule["from"][0] for rule in policy["spec"]["ingress"] if rule["ports"][0]["port"] == "proxy")
    assert (
        wanted["namespaceSelector"]["matchLabels"].items()
        <= objects.named("Namespace", "workloads")["metadata"]["labels"].items()
    )
    (service,) = objects.of_kind("Service")
    place = f"{service['metadata']['name']}.{service['metadata']['namespace']}.svc.cluster.local"
    environment = objects.config_maps["proxy-environment"]
    for name in ("HTTPS_PROXY", "HTTP_PROXY"):
        assert environment[name] == environment[name.lower()] == f"http://{place}:{service['spec']['ports'][0]['port']}"


def test_the_policy_of_the_locked_proxy_closes_what_its_guard_closes() -> None:
    """Every special range and metadata address, from end to end and behind NAT64; what is ordinary stays open."""
    (policy,) = yaml.safe_load_all((FOLDER / "overlays/locked-down/proxy/networkpolicy.yaml").read_text())
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert all(rule["to"] and rule["ports"] for rule in policy["spec"]["egress"]), "without one, all are meant"
    (outside,) = (rule for rule in policy["spec"]["egress"] if "ipBlock" in rule["to"][0])
    assert outside["ports"] == [{"port": 443, "protocol": "TCP"}]
    blocks = [way["ipBlock"] for way in outside["to"]]
    open_ranges = {ip_network(each["cidr"]): [ip_network(text) for text in each["except"]] for each in blocks}
    for whole, closed in open_ranges.items():
        assert all(each != whole and each.subnet_of(whole) for each in closed), "as Kubernetes asks for"

    def passes(address: IPv4Address | IPv6Address) -> bool:
        return any(
            address in whole and not any(address in each for each in closed) for whole, closed in open_ranges.items()
        )

    special = [ip_network(text) for text, *_ in (*_SPECIAL_V4, *_SPECIAL_V6)]
    special += [ip_network(address) for address in METADATA]
    ends = {address for each in special for address in (each[0], each[-1])}
    ends |= {NAT64[int(each)] for each in ends if each.version == 4}
    assert {str(each) for each in ends if passes(each)} == set()
    ordinary = [ip_address(each) for each in ("1.1.1.1", "151.101.1.1", "2606:4700::1111", "2a00:1450::1")]
    assert all(map(passes, [*ordinary, *(NAT64[int(each)] for each in ordinary if each.version == 4)]))


# --- what the documents say ---------------------------------------------------------------------------------------


def published(*names: str) -> Path:
    file = PUBLISHED.joinpath(*names)
    if not file.exists():
        pytest.skip(f"the documents' {'/'.join(names)} is not at hand")
    return file


def test_the_substitute_stands_where_squid_stood() -> None:
    """As the documents' commands name it; the next test reads the documents themselves, where they are at hand."""
    objects = assembled("overlays/squid-substitute")
    squid = objects.named("Deployment", "squid")
    assert squid["metadata"]["namespace"] == objects.of_kind("Namespace")[0]["metadata"]["name"] == "external"
    assert squid["spec"]["template"]["metadata"]["labels"]["app"] == "squid"
    assert squid["spec"]["replicas"] == 1
    assert squid["spec"]["selector"] == {"matchLabels": {"app": "squid"}}, "Squid's own, which cannot be changed"
    assert place_of_configuration(squid) == ("proxy-configmap", "/etc/squid")
    assert objects.config_maps["proxy-configmap"].keys() == {"squid.conf"}
    proxy = objects.container("egressproxy")
    assert proxy.ports["proxy"] == 3128
    assert "squid:/etc/squid/squid.conf" in proxy.spec["args"]
    assert "/var/log/squid" in {mount["mountPath"] for mount in proxy.spec["volumeMounts"]}


def test_the_sni_proxy_stands_where_nginx_stood() -> None:
    patch = yaml.safe_load(GATEWAY_PATCH.read_text())
    (container,) = patch["spec"]["template"]["spec"]["containers"]
    assert container["name"] == "sni-proxy"
    assert place_of_configuration(patch) == ("egress-sni-proxy-configmap", "/etc/nginx")
    (file,) = assembled("overlays/sni-proxy").config_maps["egress-sni-proxy-configmap"].items()
    assert file[0] == "nginx.conf"
    assert re.search(r"^ *listen +127\.0\.0\.1:8443;", file[1], re.MULTILINE)


def test_the_substitute_is_where_the_documents_look_for_squid() -> None:
    """By these `kubectl get pod`, `kubectl exec` and `kubectl delete` find it; one pod, because they expect one address."""
    (theirs,) = yaml.safe_load_all(published("external-https-proxy", "deployment-squid.yaml").read_text())
    objects = assembled("overlays/squid-substitute")
    ours = objects.named("Deployment", theirs["metadata"]["name"])
    assert ours["metadata"]["namespace"] == theirs["metadata"]["namespace"]
    assert (
        theirs["spec"]["template"]["metadata"]["labels"].items()
        <= ours["spec"]["template"]["metadata"]["labels"].items()
    )
    assert ours["spec"]["replicas"] == theirs["spec"]["replicas"] == 1
    assert ours["spec"]["selector"] == theirs["spec"]["selector"], "or it could not be applied over Squid's"
    assert place_of_configuration(ours) == place_of_configuration(theirs)
    config_map = yaml.safe_load(published("external-https-proxy", "configmap-proxy.yaml").read_text())
    assert objects.config_maps[config_map["metadata"]["name"]].keys() == config_map["data"].keys()


def test_the_sni_proxy_is_patched_in_where_the_documents_put_nginx() -> None:
    theirs = yaml.safe_load(published("wildcard-arbitrary-sni-proxy", "deployment-patch-sni-proxy.yaml").read_text())
    ours = yaml.safe_load(GATEWAY_PATCH.read_text())
    (container,), (their_container,) = (each["spec"]["template"]["spec"]["containers"] for each in (ours, theirs))
    assert container["name"] == their_container["name"]
    assert place_of_configuration(ours) == place_of_configuration(theirs)
    config_map = yaml.safe_load(published("wildcard-arbitrary-sni-proxy", "configmap-sni-proxy.yaml").read_text())
    objects = assembled("overlays/sni-proxy")
    assert objects.config_maps[config_map["metadata"]["name"]].keys() == config_map["data"].keys()


def place_of_configuration(deployment: dict[str, Any]) -> tuple[str, str]:
    """The ConfigMap of the first volume, and where the container sees it."""
    spec = deployment["spec"]["template"]["spec"]
    volume = next(each for each in spec["volumes"] if each["configMap"]["name"].endswith("proxy-configmap"))
    (place,) = (
        mount["mountPath"] for mount in spec["containers"][-1]["volumeMounts"] if mount["name"] == volume["name"]
    )
    return volume["configMap"]["name"], place


# --- the containers at work ---------------------------------------------------------------------------------------

NODE, POD = "151.101.1.1", "151.101.1.67"
"""Addresses that look public, so that the address guard is in force. The node is where clients, sites and the kubelet are."""
SITE, BILLING = "en.wikipedia.org", "billing.example.com"


class Place(NamedTuple):
    """A node with a site, and a pod on it with the volumes of one container."""

    node: Namespace
    pod: Pod
    volumes: Volumes
    container: Container
    folder: Path

    def start(self, **environment: str) -> Running:
        return Running(self.pod, self.folder, self.container, **environment)

    def probe(self, kind: str) -> int:
        """What the kubelet gets: the status, 0 where nobody answers."""
        get = self.container.spec[kind]["httpGet"]

        def ask() -> int:
            connection = http.client.HTTPConnection(POD, self.container.number(get["port"]), timeout=WAIT_S)
            try:
                connection.request("GET", get["path"])
                return connection.getresponse().status
            except OSError:
                return 0
            finally:
                connection.close()

        return self.node.call(ask)

    def status(self, *words: str, code: int | None = None) -> str:
        return self.curl("-o", "/dev/null", "-w", "%{http_code}", *words, code=code).out

    def curl(self, *words: str, host: Namespace | None = None, code: int | None = 0) -> Done:
        return (host or self.node).run("curl", "-sSk", "-m", "10", *words, folder=self.folder, code=code)

    def wait_until_ready(self, running: Running) -> None:
        eventually(lambda: running.has_ended or self.probe("readinessProbe") == 200, "the container is ready")
        assert not running.has_ended, running.err
        assert self.probe("startupProbe") == self.probe("livenessProbe") == 200


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Callable[..., Place]]:
    need_containers()
    with ExitStack() as stack:

        def make(container: Container, config_maps: dict[str, dict[str, str]]) -> Place:
            node, pod = stack.enter_context(Namespace("node")), stack.enter_context(Pod("pod"))
            connect(node, [f"{NODE}/24"], pod, [f"{POD}/24"])
            volumes = Volumes(pod, tmp_path, container, config_maps)
            with volumes.hosts.open("a") as hosts:
                hosts.write(f"\n{NODE} {SITE} {BILLING}\n")
            stack.enter_context(node.call(Site, NODE, 443, SITE, BILLING))
            return Place(node, pod, volumes, container, tmp_path)

        yield make


PROXIES = ["base", "overlays/egress-gateway", "overlays/locked-down", "overlays/sni-proxy", "overlays/squid-substitute"]
"""The overlays that run a proxy; the others are parts of these, or beside them."""


@pytest.mark.parametrize("name", PROXIES)
@pytest.mark.slow
def test_every_configuration_passes_check_where_it_is_mounted(name: str, place: Callable[..., Place]) -> None:
    objects = assembled(name)
    (container,) = objects.proxies()
    here = place(container, objects.config_maps)
    done = check(here.pod, container)
    assert (done.code, done.err) == (0, ""), str(done)
    told = done.out.splitlines()
    assert told[-1].startswith("ok: ")
    assert not [line for line in told if "ignored" in line or "cannot be written" in line]


@pytest.mark.parametrize("name", PROXIES)
@pytest.mark.slow
def test_a_container_starts_answers_its_probes_and_drains_before_it_would_be_killed(
    name: str, place: Callable[..., Place]
) -> None:
    objects = assembled(name)
    (container,) = objects.proxies()
    here = place(container, objects.config_maps)
    with here.start() as running:
        here.wait_until_ready(running)
        shown = here.curl(f"http://{POD}:{container.ports['admin']}/config").out
        config = yaml.safe_load(shown)
        read = {Path(source).name for source in config["sources"]}
        mounted = [volume["configMap"]["name"] for volume in container.pod["volumes"] if "configMap" in volume]
        assert read == {key for config_map in mounted for key in objects.config_maps[config_map]}
        listening = {port["port"] for port in config["config"]["listeners"]}
        assert set(container.ports.values()) - {container.ports["admin"]} <= listening
        grace = container.pod.get("terminationGracePeriodSeconds", 30)
        pause = container.spec["lifecycle"]["preStop"]["sleep"]["seconds"]
        assert pause + config["config"]["timeouts"]["drain_s"] + SPARE_S <= grace
        assert "Read-only" in here.pod.run("touch", "/tmp/file", folder=Path("/"), code=1).err, "as in a cluster"


@pytest.mark.slow
def test_the_example_of_the_locked_namespace_gets_its_page(place: Callable[..., Place]) -> None:
    objects = assembled("overlays/locked-down")
    (container,) = objects.proxies()
    here = place(container, objects.config_maps)
    trusted = here.folder / "ca.pem"
    authority().cert_pem.write_to_path(str(trusted))
    (service,) = objects.of_kind("Service")
    name = f"{service['metadata']['name']}.{service['metadata']['namespace']}.svc.cluster.local"
    told = {key: value.replace(name, POD) for key, value in objects.config_maps["proxy-environment"].items()}
    example = objects.container("example").spec
    with here.start() as running:
        here.wait_until_ready(running)
        done = here.node.run(
            *example["command"], *example["args"], variables={**told, "SSL_CERT_FILE": str(trusted)}, code=None
        )
        assert (done.code, done.out) == (0, f"<title>{SITE}</title>\n"), done.err
        eventually(lambda: f'"host":"{SITE}"' in running.out, "it came through the proxy")


SQUID = "overlays/squid-substitute"


@pytest.mark.parametrize("whose", ["ours", "published"])
@pytest.mark.slow
def test_in_squids_place_the_documents_commands_do_what_they_did(whose: str, place: Callable[..., Place]) -> None:
    objects = assembled(SQUID)
    config_maps = dict(objects.config_maps)
    if whose == "published":
        config_maps["proxy-configmap"] = {"squid.conf": published("external-https-proxy", "proxy.conf").read_text()}
    here = place(objects.container("egressproxy"), config_maps)
    with here.start() as running:
        here.wait_until_ready(running)
        page = here.node.run(
            *("curl", "-sSk", f"https://{SITE}/wiki/Main_Page"),
            folder=here.folder,
            variables={"HTTPS_PROXY": f"{POD}:3128"},
        ).out
        assert "<title>" in page

        def log() -> list[str]:
            return running.execute("tail", "/var/log/squid/access.log").out.splitlines()

        (line,) = eventually(log, "a line in Squid's log")
        assert f" {NODE} TCP_TUNNEL/200 " in line
        assert f" CONNECT {SITE}:443 - HIER_DIRECT/{NODE} -" in line
        assert "403" in here.curl("-x", f"http://{POD}:3128", f"https://{SITE}:22/", code=56).err


@pytest.mark.slow
def test_squids_log_is_turned_over_before_it_fills_the_volume(place: Callable[..., Place]) -> None:
    objects = assembled(SQUID)
    here = place(objects.container("egressproxy"), objects.config_maps)
    rotation = objects.container("log-rotation")
    limit = objects.named("Deployment", "squid")["spec"]["template"]["spec"]["volumes"]
    assert {"name": "log", "emptyDir": {"sizeLimit": "1Gi"}} in limit
    log = here.folder / "log" / "access.log"
    with here.start() as running, Running(here.pod, here.folder, rotation, MAX_BYTES="1000", EVERY_S="0.1"):
        here.wait_until_ready(running)
        sizes = set()

        def goes_on() -> bool:
            here.status("-x", f"http://{POD}:3128", f"https://{SITE}/")
            sizes.add(log.stat().st_size if log.exists() else 0)
            return log.with_name("access.log.1").exists() and log.exists()

        eventually(goes_on, "the log was turned over, and a new one is begun")
        assert max(sizes) > 500, "not before its time"
        assert SITE in log.with_name("access.log.1").read_text()


@pytest.mark.slow
def test_a_changed_configmap_is_in_force_and_a_wrong_one_is_not(place: Callable[..., Place]) -> None:
    objects = assembled("base")
    (container,) = objects.proxies()
    here = place(container, objects.config_maps)
    proxy, files = (
        f"http://{POD}:3128",
        {key: text.encode() for key, text in objects.config_maps["egressproxy"].items()},
    )
    volume = here.volumes.mounted["configuration"]

    def swap(policy: bytes) -> None:
        volume.swap(**{**files, "policy.yaml": policy})

    with here.start() as running:
        here.wait_until_ready(running)
        assert "<title>" in here.curl("-x", proxy, f"https://{SITE}/").out
        here.curl("-x", proxy, f"https://{BILLING}/", code=56)
        swap(files["policy.yaml"] + f"  - {BILLING}:443\n".encode())
        eventually(lambda: here.status("-x", proxy, f"https://{BILLING}/") == "200", "the changed policy is in force")
        swap(b"alow: []\n")
        eventually(lambda: "alow" in running.err, "the wrong one is told of")
        assert here.probe("readinessProbe") == 200
        assert here.status("-x", proxy, f"https://{BILLING}/") == "200"


@pytest.mark.parametrize("whose", ["ours", "published"])
@pytest.mark.slow
def test_in_nginxs_place_lines_are_on_standard_output(whose: str, place: Callable[..., Place]) -> None:
    objects = assembled("overlays/sni-proxy")
    config_maps = dict(objects.config_maps)
    if whose == "published":
        text = published("wildcard-arbitrary-sni-proxy", "sni-proxy.conf").read_text()
        config_maps["egress-sni-proxy-configmap"] = {"nginx.conf": text}
    here = place(objects.container("sni-proxy"), config_maps)
    with here.start() as running:
        here.wait_until_ready(running)
        through = ("--connect-to", "::127.0.0.1:8443")
        assert "<title>" in here.curl(*through, f"https://{SITE}/", host=here.pod).out
        line = eventually(lambda: running.out, "a line on standard output")
        assert line.startswith("127.0.0.1 [")
        assert f" TCP [{SITE}]200 " in line
        here.curl("--connect-to", f"::{POD}:8443", f"https://{SITE}/", code=7)  # on loopback only


@pytest.mark.slow
def test_the_gateway_serves_its_ports_and_takes_a_secret_when_it_comes(place: Callable[..., Place]) -> None:
    objects = assembled("overlays/egress-gateway")
    (container,) = objects.proxies()
    here = place(container, objects.config_maps)
    (service,) = objects.of_kind("Service")
    ports = {port["port"]: container.number(port["targetPort"]) for port in service["spec"]["ports"]}
    assert ports == {80: 8080, 443: 8443, 3128: 3128}
    with here.start() as running:
        here.wait_until_ready(running)
        tls = ("--connect-to", f"::{POD}:{ports[443]}")
        assert "<title>" in here.curl(*tls, f"https://{SITE}/").out
        here.curl(*tls, f"https://{BILLING}/", code=35)
        plain = (f"http://{BILLING}/", "--connect-to", f"::{POD}:{ports[80]}")
        assert here.status(*plain) == "503"
        secret = here.folder / "client-credential"
        for name, content in secret_of(authority().issue_cert("client.example"), authority()).items():
            (secret / name.replace("_", ".")).write_bytes(content)
        eventually(lambda: here.status(*plain) == "200", "the secret is used")
        assert "<title>" in here.curl(*plain).out
        assert here.status("-x", f"http://{POD}:{ports[3128]}", f"http://{BILLING}/") == "200"


def test_a_proxy_has_every_page_that_probes_and_prometheus_ask_for(tmp_path: Path) -> None:
    """Also where no pod can be had: the paths are those of a proxy that really runs."""
    paths = set()
    for file in FOLDER.rglob("*.yaml"):
        for document in yaml.safe_load_all(file.read_text()):
            paths |= set(paths_in(document))
    assert paths == {"/livez", "/readyz", "/metrics"}
    with Proxy(tmp_path) as proxy:
        assert {proxy.get(path)[0] for path in paths} == {200}


def paths_in(value: object) -> Iterator[str]:
    """Of HTTP probes and of endpoints that are scraped."""
    if isinstance(value, dict):
        if isinstance(value.get("path"), str) and value["path"].startswith("/") and "port" in value:
            yield value["path"]
        for inner in value.values():
            yield from paths_in(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from paths_in(inner)
