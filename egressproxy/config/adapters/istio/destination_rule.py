"""DestinationRule: how services are reached, and their subsets, read and checked.

istio.io/docs/reference/config/networking/destination-rule
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, Literal

from egressproxy.config.adapters.istio.objects import (
    ClientTls,
    DestinationRule,
    Subset,
    TrafficPolicy,
    export_to_of,
    host_of,
    namespace_of,
    spec_of,
)
from egressproxy.config.faults import shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from egressproxy.config.adapters.istio.documents import Thing
    from egressproxy.config.adapters.istio.fields import Fields


_TLS_MODES: tuple[Literal["DISABLE", "SIMPLE", "MUTUAL", "ISTIO_MUTUAL"], ...] = (
    "DISABLE",
    "SIMPLE",
    "MUTUAL",
    "ISTIO_MUTUAL",
)
_BALANCING = "endpoints are asked in turn, by weight"


def destination_rule(thing: Thing) -> DestinationRule | None:
    """What a DestinationRule says."""
    spec = spec_of(thing)
    if spec is None:
        return None
    host = host_of(spec, "host", namespace_of(thing))
    policy = spec.below("trafficPolicy")
    subsets: dict[str, Subset] = {}
    for fields in spec.each("subsets"):
        name, labels, own = fields.required_text("name"), fields.labels("labels"), fields.below("trafficPolicy")
        fields.done()
        if name in subsets:
            fields.fault("name", f"two subsets are called {shown(name)}")
        elif name is not None:
            subsets[name] = Subset(
                labels=labels, policy=None if own is None else _traffic_policy(own), mark=fields.mark("name")
            )
    found = None
    if host is not None:
        found = DestinationRule(
            name=thing.name,
            namespace=thing.namespace,
            age=thing.age,
            host=host,
            policy=None if policy is None else _traffic_policy(policy),
            subsets=subsets,
            export_to=export_to_of(spec),
            mark=spec.mark("host"),
        )
    spec.done(refused={"workloadSelector": "selects pods, which are not known here; leave it out, or the rule"})
    return found


def _traffic_policy(fields: Fields, *, of_port: bool = False) -> TrafficPolicy:
    ports: dict[int, TrafficPolicy] = {}
    for each in () if of_port else fields.each("portLevelSettings"):
        port = each.below("port")
        number = port.port("number") if port is not None else None
        if number is None:
            each.fault("port", "expected the number of a port")
        elif number in ports:
            each.fault("port", f"port {number} is set twice")
        else:
            ports[number] = _traffic_policy(each, of_port=True)
    tls, pool, balancer = fields.below("tls"), fields.below("connectionPool"), fields.below("loadBalancer")
    connect_timeout_s = None
    if pool is not None:
        tcp = pool.below("tcp")
        if tcp is not None:
            connect_timeout_s = tcp.seconds("connectTimeout")
            _note_rest(tcp, "has no effect here: see timeouts and limits of the native form")
        _note_rest(pool, "has no effect here: see timeouts and limits of the native form")
    if balancer is not None:
        if balancer.text("simple") == "PASSTHROUGH":
            balancer.fault("simple", "going where the client dialled is resolution NONE of a ServiceEntry; write that")
        elif balancer.text("simple") not in (None, "ROUND_ROBIN"):
            balancer.note("simple", _BALANCING)
        _note_rest(balancer, _BALANCING)
    fields.done(
        silent=("port",) if of_port else (),
        noted={"outlierDetection": "an endpoint that fails is passed over for this connection only"},
        refused={
            "tunnel": "a proxy on the way is a parent in the native form",
            "proxyProtocol": "is set on a rule in the native form",
            **{name: f"no such field; did you mean {meant}?" for name, meant in _slips(fields.unread()).items()},
        },
        secure=False,
    )
    own = None if tls is None else _client_tls(tls)
    if own is not None and own.mode in ("SIMPLE", "MUTUAL"):
        for number, policy in ports.items():
            if policy.tls is None:
                message = f"port {number} has no tls of its own and takes none over: what is plain goes out as it is"
                fields.note("portLevelSettings", message)
    return TrafficPolicy(tls=own, connect_timeout_s=connect_timeout_s, ports=ports)


def _slips(names: Sequence[str]) -> dict[str, str]:
    """Fields that seem to be meant for those that decide about TLS. Left out, what they say would go in the clear."""
    found = {}
    for name in names:
        plain = name.lower()
        if name not in ("outlierDetection", "tunnel", "proxyProtocol"):
            close = get_close_matches(plain, ("tls", "portlevelsettings"), n=1)
            if "tls" in plain or "ssl" in plain or close == ["tls"]:
                found[name] = "tls"
            elif close or plain.startswith("port"):
                found[name] = "portLevelSettings"
    found.pop("port", None)
    return found


def _note_rest(fields: Fields, message: str) -> None:
    """What is left of a mapping is about load, not about who may go where."""
    fields.done(noted=dict.fromkeys(fields.unread(), message))


def _client_tls(fields: Fields) -> ClientTls | None:
    mode = fields.word("mode", _TLS_MODES, "DISABLE")
    texts = {
        name: fields.text(name)
        for name in ("clientCertificate", "privateKey", "caCertificates", "credentialName", "sni")
    }
    names, skips = fields.words("subjectAltNames"), fields.flag("insecureSkipVerify")
    fields.done(refused={"caCrl": "revocation lists are not asked; without one a revoked certificate would be taken"})
    if mode is None:
        return None
    files = [name for name in ("clientCertificate", "privateKey", "caCertificates") if texts[name] is not None]
    if mode == "ISTIO_MUTUAL":
        wrong = [*files, *(name for name in ("credentialName",) if texts[name] is not None)]
        for name in wrong:
            fields.fault(name, "belongs to SIMPLE or MUTUAL: in ISTIO_MUTUAL the mesh brings its own")
    elif texts["credentialName"] is not None:
        for name in files:
            fields.fault(name, "is given by credentialName already; write one or the other")
    elif mode == "MUTUAL":
        for name in ("clientCertificate", "privateKey"):
            if texts[name] is None:
                fields.fault("mode", f"MUTUAL needs {name}, or credentialName")
    return ClientTls(
        mode=next(each for each in _TLS_MODES if each == mode),
        certificate=texts["clientCertificate"],
        key=texts["privateKey"],
        ca=texts["caCertificates"],
        credential=texts["credentialName"],
        sni=texts["sni"],
        subject_alt_names=names,
        skips_verification=skips,
        mark=fields.mark("mode"),
    )
