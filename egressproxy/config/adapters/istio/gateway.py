"""Gateway and Sidecar: what gateways serve, and what sidecars see, read and checked.

istio.io/docs/reference/config/networking/gateway, .../sidecar
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from egressproxy.config.adapters.istio.objects import (
    NOT_HERE,
    Gateway,
    Server,
    Sidecar,
    TlsMode,
    namespace_of,
    spec_of,
    spoken_on,
)
from egressproxy.config.faults import shown
from egressproxy.hostport import HostPattern, parse_host_pattern

if TYPE_CHECKING:
    from egressproxy.config.adapters.istio.documents import Thing
    from egressproxy.config.adapters.istio.fields import Fields


_SERVER_MODES: tuple[TlsMode, ...] = ("PASSTHROUGH", "SIMPLE", "MUTUAL", "ISTIO_MUTUAL")
_SERVER_FILES = ("serverCertificate", "privateKey", "caCertificates", "credentialName")


def gateway(thing: Thing) -> Gateway:
    """What a Gateway says."""
    spec = spec_of(thing)
    servers: list[Server] = []
    selector: dict[str, str] = {}
    names: set[str] = set()
    if spec is not None:
        selector = spec.labels("selector")
        for fields in spec.each("servers"):
            server = _server(fields, names)
            if server is not None:
                servers.append(server)
        if not spec.has("servers"):
            spec.fault("servers", "expected at least one server")
        spec.done()
    return Gateway(
        name=thing.name,
        namespace=namespace_of(thing),
        age=thing.age,
        selector=selector,
        servers=tuple(servers),
        mark=thing.fields.mark("spec"),
    )


def _server(fields: Fields, names: set[str]) -> Server | None:
    port = fields.below("port")
    number = name = word = spoken = None
    if port is None:
        fields.fault("port", "is missing")
    else:
        number, name, spoken = port.port("number"), port.required_text("name"), spoken_on(port)
        word = (port.text("protocol") or "").upper()
        port.done(silent=("targetPort",))
        if name in names:
            port.fault("name", f"two ports are called {shown(name)}")
        if name is not None:
            names.add(name)
    hosts = _server_hosts(fields)
    tls = fields.below("tls")
    mode: TlsMode = "NONE"
    if tls is not None:
        mode = _server_tls(tls)
    fields.done(silent=("name",), noted={"bind": "the listeners of this proxy say where it listens"})
    if number is None or spoken is None:
        return None
    if spoken == "TLS" and mode == "NONE":
        fields.fault("tls", f"protocol {word} needs tls with a mode")
        return None
    if spoken == "HTTP" and mode != "NONE":
        fields.fault("tls", f"protocol {word} has no TLS; set HTTPS, or leave tls out")
        return None
    routes: Literal["http", "tls", "tcp"] = "tcp"
    if mode == "PASSTHROUGH":
        routes = "tls"
    elif spoken == "HTTP" or word == "HTTPS":
        routes = "http"
    return Server(port=number, routes=routes, mode=mode, hosts=hosts, mark=fields.mark())


def _server_hosts(fields: Fields) -> tuple[tuple[str, HostPattern], ...]:
    found = []
    for index, text in enumerate(fields.words("hosts")):
        namespace, slash, host = text.rpartition("/")
        try:
            found.append((namespace if slash else "*", parse_host_pattern(host)))
        except ValueError as error:
            fields.fault_in("hosts", index, str(error))
    if not fields.filled("hosts"):
        fields.fault("hosts", "expected at least one host")
    return tuple(found)


def _server_tls(tls: Fields) -> TlsMode:
    mode = tls.word("mode", _SERVER_MODES, "PASSTHROUGH")
    given = [name for name in _SERVER_FILES if tls.text(name) is not None]
    if tls.flag("httpsRedirect"):
        tls.fault("httpsRedirect", f"{NOT_HERE}: answering with a redirect")
    tls.done(
        silent=("minProtocolVersion", "maxProtocolVersion", "cipherSuites"),
        refused=dict.fromkeys(
            ("subjectAltNames", "verifyCertificateSpki", "verifyCertificateHash", "caCrl"),
            "who may come to the gateway is not judged by certificates here; clients of a rule are networks",
        ),
    )
    if mode is None:
        return "NONE" if not tls.has("mode") else "PASSTHROUGH"
    if mode == "ISTIO_MUTUAL" or mode == "PASSTHROUGH":
        for name in given:
            tls.fault(name, f"has no meaning with mode {mode}")
    elif "credentialName" not in given:
        needed = _SERVER_FILES[: 3 if mode == "MUTUAL" else 2]
        for name in needed:
            if name not in given:
                tls.fault("mode", f"{mode} needs {name}, or credentialName")
    return next(each for each in _SERVER_MODES if each == mode)


# --- Sidecar ------------------------------------------------------------------------------------------------------


def sidecar(thing: Thing) -> Sidecar:
    """What a Sidecar says of what leaves its pods."""
    spec = spec_of(thing)
    outbound: str | None = None
    hosts: tuple[tuple[str, HostPattern], ...] | None = None
    if spec is not None:
        policy = spec.below("outboundTrafficPolicy")
        if policy is not None:
            outbound = policy.word("mode", ("ALLOW_ANY", "REGISTRY_ONLY"), "REGISTRY_ONLY")
            policy.done()
        listeners = spec.each("egress")
        if listeners:
            hosts = ()
        for fields in listeners:
            hosts = (*(hosts or ()), *_visible_hosts(fields))
            fields.done(
                refused=dict.fromkeys(
                    ("port", "bind", "captureMode"), "a Sidecar for one port or address is not followed"
                )
            )
        spec.done(
            noted=dict.fromkeys(("ingress", "inboundConnectionPool"), "is about traffic that comes in"),
            refused={"workloadSelector": "selects pods, which are not known here; write rules with clients instead"},
        )
    return Sidecar(
        name=thing.name,
        namespace=namespace_of(thing),
        outbound=outbound,
        hosts=hosts,
        mark=thing.fields.mark("spec"),
    )


def _visible_hosts(fields: Fields) -> list[tuple[str, HostPattern]]:
    found = []
    for index, text in enumerate(fields.words("hosts")):
        namespace, slash, host = text.partition("/")
        try:
            if not slash:
                raise ValueError(f"expected NAMESPACE/HOST, got {shown(text)}")
            if namespace != "~":
                found.append((namespace, parse_host_pattern(host)))
        except ValueError as error:
            fields.fault_in("hosts", index, str(error))
    return found
