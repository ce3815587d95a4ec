"""The Kubernetes manifests below config/kubernetes, assembled by kustomize itself, and what their objects say.

    objects = assembled("overlays/squid-substitute")
    (deployment,) = objects.of_kind("Deployment")

Where neither `kubectl` nor `kustomize` is installed, tests that need assembled objects are skipped, visibly.
"""

from __future__ import annotations

import functools
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from support.proxy import ROOT

FOLDER = ROOT / "config" / "kubernetes"
OVERLAYS = sorted(
    str(file.parent.relative_to(FOLDER)) for file in FOLDER.rglob("kustomization.yaml") if file.parent != FOLDER
)
GATEWAY_PATCH = FOLDER / "overlays" / "sni-proxy" / "gateway-patch.yaml"

_GATEWAY = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: istio-egressgateway-with-sni-proxy, namespace: istio-system}
spec:
  selector:
    matchLabels: {app: istio-egressgateway-with-sni-proxy, istio: egressgateway-with-sni-proxy}
  template:
    metadata:
      labels: {app: istio-egressgateway-with-sni-proxy, istio: egressgateway-with-sni-proxy}
    spec:
      securityContext: {runAsNonRoot: true, runAsUser: 1337, fsGroup: 1337, seccompProfile: {type: RuntimeDefault}}
      containers:
        - name: istio-proxy
          image: proxyv2
          ports: [{containerPort: 8080}, {containerPort: 15090, name: http-envoy-prom}]
          securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
      volumes:
        - {name: istio-envoy, emptyDir: {}}
"""
"""As much of a gateway as a patch of it needs."""


class Container(NamedTuple):
    """One container, the pod template that it stands in, and the namespace of that."""

    spec: dict[str, Any]
    template: dict[str, Any]
    namespace: str | None

    @property
    def pod(self) -> dict[str, Any]:
        """The pod's own spec."""
        return self.template["spec"]

    @property
    def ports(self) -> dict[str, int]:
        """Its ports by name."""
        return {port["name"]: port["containerPort"] for port in self.spec.get("ports", ()) if "name" in port}

    def number(self, port: str | int) -> int:
        """A port as a probe names it."""
        return port if isinstance(port, int) else self.ports[port]


class Objects(list[dict[str, Any]]):
    """Objects of one overlay."""

    def of_kind(self, kind: str) -> list[dict[str, Any]]:
        return [each for each in self if each["kind"] == kind]

    def named(self, kind: str, name: str) -> dict[str, Any]:
        """The only one of this kind and name."""
        (found,) = (each for each in self.of_kind(kind) if each["metadata"]["name"] == name)
        return found

    @property
    def config_maps(self) -> dict[str, dict[str, str]]:
        """The data of each."""
        return {each["metadata"]["name"]: each["data"] for each in self.of_kind("ConfigMap")}

    def templates(self) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
        """Each workload with its pod template."""
        for each in self:
            if "template" in each.get("spec", {}):
                yield each, each["spec"]["template"]

    def containers(self) -> list[Container]:
        """Those of all workloads, sidecars included."""
        return [
            Container(container, template, workload["metadata"].get("namespace"))
            for workload, template in self.templates()
            for container in (*template["spec"].get("initContainers", ()), *template["spec"]["containers"])
        ]

    def container(self, name: str) -> Container:
        """The only one of this name."""
        (found,) = (each for each in self.containers() if each.spec["name"] == name)
        return found

    def proxies(self) -> list[Container]:
        """The containers that run the proxy: those with an admin port."""
        return [each for each in self.containers() if "admin" in each.ports]


def kustomize(folder: Path) -> Objects:
    """The objects that kustomize makes of a folder."""
    if (program := shutil.which("kustomize")) is not None:
        command = [program, "build", str(folder)]
    elif (program := shutil.which("kubectl")) is not None:
        command = [program, "kustomize", str(folder)]
    else:
        pytest.skip("neither kubectl nor kustomize is installed")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return Objects(yaml.safe_load_all(done.stdout))


@functools.cache
def assembled(overlay: str) -> Objects:
    """The objects of an overlay, by its path below config/kubernetes. That of the SNI proxy has a patched gateway, too."""
    objects = kustomize(FOLDER / overlay)
    if "sni-proxy" in overlay:
        objects.append(patched_gateway(GATEWAY_PATCH))
    return objects


def patched_gateway(patch: Path) -> dict[str, Any]:
    """A gateway's Deployment after `kubectl patch` with this file."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not installed")
    command = [kubectl, "patch", "--local", "-f", "/dev/stdin", "--patch-file", str(patch), "-o", "yaml"]
    done = subprocess.run(command, input=_GATEWAY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return yaml.safe_load(done.stdout)
