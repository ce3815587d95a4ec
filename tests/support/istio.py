"""Istio's objects, short to write, and what becomes of them as a client meets it: by the real policy and registry.

found = meets(entry("a.example", "80 HTTP"), virtual_service("a.example", "{http: [...]}"))
assert found.get("a.example:80/x") == "outbound|80||a.example"
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

from support.adapting import MemoryFiles, told

from egressproxy.config.adapters.adapter import Source
from egressproxy.config.adapters.istio import istio
from egressproxy.config.schema.config import Config
from egressproxy.hostport import parse_authority
from egressproxy.model import Intent
from egressproxy.policy.policy import Policy
from egressproxy.wire.request import Request

REGISTRY_ONLY = """\
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data:
  mesh: |
    outboundTrafficPolicy: {mode: REGISTRY_ONLY}
"""
ALLOW_ANY = REGISTRY_ONLY.replace("REGISTRY_ONLY", "ALLOW_ANY")
GATEWAY_HOST = "istio-egressgateway.istio-system.svc.cluster.local"
LISTENERS = [{"protocol": "http-proxy", "port": 3128}]


def thing(title: str, spec: str, *, version: str = "v1", metadata: str = "") -> str:
    """An object of networking.istio.io. `title` is KIND NAME, or KIND NAME NAMESPACE."""
    kind, name, *namespace = title.split()
    where = f", namespace: {namespace[0]}" if namespace else ""
    return (
        f"apiVersion: networking.istio.io/{version}\nkind: {kind}\n"
        f"metadata: {{name: {name}{where}{metadata and ', ' + metadata}}}\nspec: {spec}\n"
    )


def entry(host: str, *ports: str, more: str = "resolution: DNS", title: str = "", metadata: str = "") -> str:
    """A ServiceEntry. Each port is `NUMBER PROTOCOL`."""
    listed = ", ".join(
        f"{{number: {number}, name: p{number}, protocol: {protocol}}}"
        for number, protocol in (p.split() for p in ports)
    )
    title = title or f"ServiceEntry {host.replace('*', 'any')}"
    return thing(title, f"{{hosts: ['{host}'], ports: [{listed}], {more}}}", metadata=metadata)


def virtual_service(host: str, rules: str, *, title: str = "VirtualService routes", metadata: str = "") -> str:
    """A VirtualService for one host. `rules` is the rest of its spec, in braces."""
    return thing(title, f"{{hosts: ['{host}'], {rules.strip()[1:]}", metadata=metadata)


def to(host: str, port: int | None = None, subset: str = "", weight: int | None = None) -> str:
    """One entry of `route`."""
    inside = [f"host: '{host}'"]
    inside += [f"port: {{number: {port}}}"] if port else []
    inside += [f"subset: {subset}"] if subset else []
    share = f", weight: {weight}" if weight is not None else ""
    return f"{{destination: {{{', '.join(inside)}}}{share}}}"


class Meets:
    """What the objects come to.

    data    native settings
    faults, notes  as `support.adapting` tells them
    """

    def __init__(self, *texts: str, beside: dict[str, Any] | None = None, lenient: bool = False) -> None:
        files = MemoryFiles({})
        content = "---\n".join(texts).encode()
        self._beside = {"listeners": LISTENERS} if beside is None else beside
        adapted = istio.translate(
            [Source(0, "mesh.yaml", content)],
            files,
            lenient=lenient,
            beside=self._beside,
        )
        self.data: dict[str, Any] = adapted.data or {}
        self.faults = [told(fault, files) for fault in adapted.faults]
        self.notes = [told(note, files) for note in adapted.notes]

    @cached_property
    def config(self) -> Config:
        """The whole configuration, validated."""
        assert self.faults == []
        return Config.model_validate({**self._beside, **self.data})

    @cached_property
    def _policy(self) -> Policy:
        return Policy.from_config(self.config, lambda address, port: False)

    @property
    def services(self) -> dict[str, dict[str, Any]]:
        """Native services by their names."""
        return {each["name"]: each for each in self.data.get("services", [])}

    def get(self, url: str, method: str = "GET") -> str:
        """Where a request for HOST:PORT/PATH goes: the service's name, how it is refused, or `passes`."""
        authority, _, path = url.partition("/")
        return self._where(authority, method, f"/{path}")

    def tunnel(self, target: str) -> str:
        """The same for a tunnel, as TLS by its name asks for one."""
        return self._where(target, "CONNECT", None)

    def _where(self, authority: str, method: str, path: str | None) -> str:
        target = parse_authority(authority)
        listener = self.config.listeners[0].label
        request = None if path is None else Request(method, path, authority, "1.1", ())
        bare = None if path is None else path.partition("?")[0]
        verdict = self._policy.decide(Intent("192.0.2.9", listener, method, target, path=bare, request=request))
        if verdict.refusal is not None:
            return verdict.refusal
        if not verdict.allowed:
            return "refused"
        if verdict.route is not None:
            return " or ".join(
                f"{each.service} x{each.weight}" if each.weight != 1 else each.service
                for each in self.config.routes[verdict.route].to
            )
        found = self._policy.registry.find(target.host, target.port)
        return "passes" if found is None else found.name


def meets(*texts: str, beside: dict[str, Any] | None = None, lenient: bool = False) -> Meets:
    """What objects come to, with an http-proxy listener unless `beside` says otherwise."""
    return Meets(*texts, beside=beside, lenient=lenient)
