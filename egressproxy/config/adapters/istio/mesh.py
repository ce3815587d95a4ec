"""What the objects mean together: which hosts are registered, for whom, and how each cluster of them is reached.

A cluster is what Envoy has for one service on one port, or for a subset of it: `outbound|443||www.example.com`. Each that is
used becomes a native service of that name, so that logs and pages show it.

One process stands for the sidecars of all clients and for the egress gateways. A client has no namespace here: objects are
seen as from `default`, where the documents put clients. A DestinationRule is looked for there, then in the service's namespace,
then in the mesh's root namespace; for a gateway first in the gateway's own. A rule whose file does not say a namespace was put
where it is needed, so gateways see it too.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from egressproxy.config.adapters.adapter import At
from egressproxy.config.adapters.istio.objects import (
    DEFAULT_NAMESPACE,
    ByHost,
    ClientTls,
    DestinationRule,
    Endpoint,
    Port,
    Service,
    TrafficPolicy,
    covers,
    meet,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from egressproxy.config.adapters.istio.fields import Report
    from egressproxy.config.adapters.istio.objects import Destination, Sidecar, Spoken
    from egressproxy.hostport import HostPattern


class View(NamedTuple):
    """Through whose eyes the objects are seen.

    namespace   that of the proxy
    at_gateway  a gateway's: it has no address that its client dialled, and uses Secrets
    """

    namespace: str
    at_gateway: bool


CLIENTS = View(DEFAULT_NAMESPACE, False)
"""The sidecars."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """An end of a route: a native service by its name, and the port of it."""

    name: str
    port: int


@dataclass(frozen=True, slots=True)
class Refusal:
    """An end of a route that leads nowhere: the native word."""

    word: Literal["not_found", "unavailable", "close"]


End = Cluster | Refusal


class Secrets(NamedTuple):
    """Where `credentialName` finds what it names.

    find       the files of a Secret among the objects, by its name; None: there is none that a gateway would use
    elsewhere  other configuration names a folder of secrets
    """

    find: Callable[[str], Mapping[str, str] | None]
    elsewhere: bool


@dataclass(slots=True)
class _Used:
    """A cluster that is in use, as a native service in the making.

    patterns  hosts for which routes lead there, where the service dials the host that was asked for
    """

    service: Service
    port: Port
    subset: str
    native: dict[str, Any]
    endpoints: tuple[Endpoint, ...]
    resolution: str
    mark: int
    by_name: bool = False
    patterns: list[HostPattern] = field(default_factory=list)


def _asks_for_tls(policy: TrafficPolicy) -> bool:
    return policy.tls is not None and policy.tls.mode in ("SIMPLE", "MUTUAL")


class Mesh:
    """The registry as sidecars and gateways see it, and the clusters that were asked for so far."""

    def __init__(
        self,
        services: Sequence[Service],
        rules: Sequence[DestinationRule],
        *,
        root_namespace: str,
        sidecar: Sidecar | None,
        secrets: Secrets,
        own_sni: Callable[[str, int], int | None],
        report: Report,
    ) -> None:
        """What the objects register.

        services  in the order in which they count: of two with one host and port the first stays
        own_sni   the port that this proxy's own `sni` listener at an address and port dials; None: it has none there
        """
        in_order = sorted(rules, key=lambda rule: rule.seniority)
        self._rules = ByHost((rule.host, rule) for rule in in_order)
        self._root = root_namespace
        self._sidecar = sidecar
        self._secrets = secrets
        self._own_sni = own_sni
        self._report = report
        self._by_host: dict[HostPattern, list[Service]] = {}
        self._seen: list[tuple[Service, Port]] | None = None
        self._used: dict[str, _Used] = {}
        self._noted_tls: set[tuple[int, int]] = set()
        self._gateways: set[HostPattern] = set()
        self.credentials: dict[str, Mapping[str, str]] = {}
        self.services = services
        for one in services:
            self._by_host.setdefault(one.host, []).append(one)

    def set_gateways(self, hosts: Iterable[HostPattern]) -> None:
        """Services that are egress gateways: this process is what stands behind them, so they are no destinations."""
        self._gateways = set(hosts)

    # --- the registry

    def seen(self) -> list[tuple[Service, Port]]:
        """The services and ports that clients reach by themselves, gateways left out."""
        if self._seen is None:
            self._seen = self._find_seen()
        return self._seen

    def _find_seen(self) -> list[tuple[Service, Port]]:
        found = []
        for group in self._by_host.values():
            taken: set[int] = set()
            for one in group:
                if one.host in self._gateways or not self.sees(one, CLIENTS):
                    continue
                for port in one.ports:
                    if port.number not in taken:
                        taken.add(port.number)
                        found.append((one, port))
                    else:
                        self._report.note(
                            one.mark, (), f"{one.host} port {port.number} is registered by an earlier object"
                        )
        return found

    def sees(self, service: Service, view: View) -> bool:
        """Whether exportTo, and for clients their Sidecar, show the service."""
        return self.shows(service.export_to, service.namespace, service.host, view, whole=True)

    def shows(
        self, export_to: Sequence[str], namespace: str, host: HostPattern, view: View, *, whole: bool = False
    ) -> bool:
        """Whether exportTo, and for clients their Sidecar, show an object of a namespace that is for a host.

        whole  the Sidecar must name all of the host, as it must of a service: `a.example.com` does not show `*.example.com`
        """
        if not exported(export_to, namespace, view.namespace):
            return False
        limits = None if view.at_gateway or self._sidecar is None else self._sidecar.hosts
        return limits is None or any(
            each in ("*", namespace) or (each == "." and namespace == view.namespace)
            for each, pattern in limits
            if (covers(pattern, host) if whole else meet(pattern, host) is not None)
        )

    def is_known(self, host: HostPattern) -> bool:
        """Whether there is a service with this very host, seen or not."""
        return host in self._by_host

    def find(self, host: HostPattern, view: View, port: int | None = None) -> Service | None:
        """The service with this very host, and this port where one is given."""
        return next(
            (
                one
                for one in self._by_host.get(host, ())
                if self.sees(one, view) and (port is None or one.port(port) is not None)
            ),
            None,
        )

    def names_of(self, pattern: HostPattern) -> list[str]:
        """A host as conditions write it, with the shorter names of a Kubernetes Service."""
        found = self._by_host.get(pattern, ())
        return [str(pattern), *(alias for one in found[:1] for alias in one.aliases)]

    # --- destination rules

    def policy_for(self, host: HostPattern, port: int, subset: str, view: View) -> TrafficPolicy | None:
        """How a host is reached on a port; None: the subset is not defined."""
        rules = self._rules_for(host, port, view)
        whole = next((rule.policy for rule in rules if rule.policy is not None), None)
        policy = TrafficPolicy() if whole is None else whole.ports.get(port, whole)
        self._note_tls_that_does_not_count(host, port, policy, view)
        if not subset:
            return policy
        part = next((rule.subsets[subset] for rule in rules if subset in rule.subsets), None)
        if part is None:
            return None
        own = part.policy
        if own is None:
            return policy
        if port in own.ports:
            return own.ports[port]
        return TrafficPolicy(
            tls=own.tls or policy.tls, connect_timeout_s=own.connect_timeout_s or policy.connect_timeout_s
        )

    def _note_tls_that_does_not_count(self, host: HostPattern, port: int, counting: TrafficPolicy, view: View) -> None:
        """Rules for a host are not joined, as in Istio: one that counts may have no TLS, and go before one that has."""
        if _asks_for_tls(counting):
            return
        for rule in self._rules.covering(host):
            is_seen = rule.namespace is None or exported(rule.export_to, rule.namespace, view.namespace)
            if is_seen and rule.policy is not None and _asks_for_tls(rule.policy.ports.get(port, rule.policy)):
                place = (rule.mark, port)
                if place not in self._noted_tls:
                    self._noted_tls.add(place)
                    message = (
                        f"asks for TLS, and does not count for {host} on port {port}: what is plain goes out as it is"
                    )
                    self._report.note(rule.mark, (), message)

    def labels_of(self, host: HostPattern, port: int, subset: str, view: View) -> Mapping[str, str]:
        """Labels that the endpoints of a subset have."""
        rules = self._rules_for(host, port, view)
        return next((rule.subsets[subset].labels for rule in rules if subset in rule.subsets), {})

    def _rules_for(self, host: HostPattern, port: int, view: View) -> list[DestinationRule]:
        """The rules for the most specific host of the first namespace that has any, the oldest first.

        Of several services of the host that one's namespace counts which is seen, and has the port.
        """
        service = self.find(host, view, port) or self.find(host, view)
        places: list[str | None] = [view.namespace]
        if service is not None:
            places.append(service.namespace)
        places.append(self._root)
        default: str | None = DEFAULT_NAMESPACE
        if view.at_gateway:
            default = None
            places.append(None)
        covering = self._rules.covering(host)
        for place in places:
            fitting = [
                rule
                for rule in covering
                if (rule.namespace or default) == place
                and (rule.namespace is None or exported(rule.export_to, rule.namespace, view.namespace))
            ]
            if fitting:
                best = max(_depth(rule.host) for rule in fitting)
                return [rule for rule in fitting if _depth(rule.host) == best]
        return []

    # --- clusters

    def end(self, to: Destination, asked: HostPattern, arriving: int, view: View) -> End:
        """Where a destination leads that is no gateway.

        asked     the hosts that are sent there
        arriving  the port they were asked on, which counts where neither the destination nor the service says one
        """
        host = to.host
        known = self.find(host, view)
        if known is None:
            return self._refuse(to.mark, f"{host} is in no registry that is seen here, so that nothing is reached")
        number = to.port or (known.ports[0].number if len(known.ports) == 1 else arriving)
        service = self.find(host, view, number)
        if service is None:
            return self._refuse(to.mark, f"{host} has no port {number}, so that nothing is reached")
        if self.policy_for(host, number, to.subset, view) is None:
            return self._refuse(to.mark, f"no DestinationRule that is seen here defines subset {to.subset} of {host}")
        return self._cluster(service, number, to.subset, view, asked, to.mark)

    def register(self, service: Service, port: Port) -> End:
        """The cluster that a service is reached by without a route."""
        if self._folds(service, port, service.endpoints) is not None:
            return Refusal("close")  # who asks for this proxy by such a name goes nowhere
        end = self._cluster(service, port.number, "", CLIENTS, service.host, port.mark)
        if isinstance(end, Cluster):
            self._used[end.name].by_name = True
        if port.spoken == "TCP" and not service.addresses and not service.private:
            self._report.note(
                port.mark,
                (),
                f"TCP without addresses is known by the name {service.host}; Istio takes all that goes to port {port.number}",
            )
        return end

    def _cluster(self, service: Service, number: int, subset: str, view: View, asked: HostPattern, mark: int) -> End:
        port = service.port(number)
        policy = self.policy_for(service.host, number, subset, view)
        assert port is not None and policy is not None  # noqa: PT018 - who calls has looked
        host = service.host
        endpoints, resolution = service.endpoints, service.resolution
        if view.at_gateway and resolution == "none":
            return self._refuse(mark, f"{host} has resolution NONE: a gateway does not know what its client dialled")
        labels = self.labels_of(host, number, subset, view) if subset else {}
        if labels:
            endpoints = tuple(one for one in endpoints if labels.items() <= one.labels.items())
            if service.knows_pods or not endpoints:
                return self._refuse(mark, f"no endpoint of {host} is known here that has the labels of subset {subset}")
        if service.is_empty:
            return self._refuse(mark, f"{host} has no endpoints")
        tls = self._tls(policy.tls, service, view)
        if isinstance(tls, Refusal):
            return tls
        native: dict[str, Any] = {}
        if tls is not None:
            native["tls"] = tls
        if policy.connect_timeout_s:
            native["connect_timeout_s"] = policy.connect_timeout_s
        name = f"outbound|{number}|{subset}|{host}"
        used = self._used.get(name)
        if used is None:
            used = _Used(service, port, subset, native, endpoints, resolution, port.mark)
            self._used[name] = used
        elif used.native != native and view.at_gateway:
            self._report.fault(
                mark, (), f"cluster {name} has other settings at the gateway than at sidecars; name one subset"
            )
        if (dialled := self._folds(service, port, endpoints)) is not None:
            used.patterns.append(asked)
            self._report.note(
                mark,
                (),
                f"{host} port {number} is a listener of this proxy: the name in TLS is dialled on port {dialled} at once",
            )
            return Cluster(name, dialled)
        return Cluster(name, number)

    def _folds(self, service: Service, port: Port, endpoints: Sequence[Endpoint]) -> int | None:
        """The port that is dialled where all endpoints are this proxy's own `sni` listener."""
        if service.resolution != "static":
            return None
        found = {self._own_sni(one.address, _port_of(one, port)) for one in endpoints}
        return found.pop() if len(found) == 1 else None

    def _refuse(self, mark: int, why: str) -> Refusal:
        self._report.note(mark, (), f"{why}: requests get 503, tunnels are closed")
        return Refusal("unavailable")

    def _tls(self, tls: ClientTls | None, service: Service, view: View) -> At | Refusal | None:
        """TLS with a service in native words, every weakness with a note."""
        if tls is None or tls.mode == "DISABLE":
            return None
        host, note = service.host, self._report.note
        if tls.mode == "ISTIO_MUTUAL":
            return self._refuse(
                tls.mark, f"ISTIO_MUTUAL with {host} needs a certificate of the mesh, which is not known here"
            )
        native: dict[str, Any] = {"mode": "mutual" if tls.mode == "MUTUAL" else "simple"}
        if tls.credential is not None:
            if not self._has_secret(tls.credential):
                return self._refuse(
                    tls.mark,
                    f"no Secret {tls.credential} is among the files, nor in a folder of secrets in native settings",
                )
            native["credential"] = tls.credential
        if tls.mode == "MUTUAL" and tls.certificate is not None:
            native |= {"certificate": tls.certificate, "key": tls.key}
        if tls.sni is not None:
            native["sni"] = tls.sni
        names = tls.subject_alt_names or service.subject_alt_names
        has_own_ca = tls.ca is not None or tls.credential is not None
        if tls.skips_verification:
            native["verify"] = False
            note(tls.mark, (), f"insecureSkipVerify: {host} may be anybody, its certificate is not checked")
            return At(tls.mark, native)
        if tls.ca is not None:
            native["ca"] = tls.ca
        if names:
            native["subject_alt_names"] = list(names)
        elif has_own_ca and tls.sni is not None:
            native["verify"] = "chain"
            note(
                tls.mark,
                (),
                f"a sni switches the check of names off: any certificate of the authority passes for {host}; "
                "name it in subjectAltNames to have it checked",
            )
        return At(tls.mark, native)

    def _has_secret(self, name: str) -> bool:
        found = {each: files for each in (name, f"{name}-cacert") if (files := self._secrets.find(each)) is not None}
        self.credentials.update(found)
        return bool(found) or self._secrets.elsewhere

    # --- to native

    def native_services(self) -> list[At]:
        """The clusters that are in use, as native services: what clients reach by name first."""
        used = sorted(self._used.items(), key=lambda item: not item[1].by_name)
        return [At(one.mark, self._native(name, one)) for name, one in used]

    def _native(self, name: str, used: _Used) -> dict[str, Any]:
        service, port = used.service, used.port
        native: dict[str, Any] = {"name": name}
        dialled = self._folds(service, port, used.endpoints)
        if dialled is not None:  # a way back to this proxy's own `sni` listener: the names themselves
            native["hosts"] = [str(pattern) for pattern in dict.fromkeys(used.patterns)]
            return native | {"ports": [At(port.mark, {"number": dialled, "protocol": "TLS"})]}
        asks_by_address = port.spoken != "HTTP" and used.by_name and service.addresses
        by_label_only = asks_by_address and port.spoken == "TCP" and used.resolution == "none"
        dials_what_is_asked = not used.endpoints and (used.resolution == "none" or service.host.kind != "exact")
        if (used.by_name and not by_label_only) or (dials_what_is_asked and not by_label_only):
            native["hosts"] = [str(service.host)]
            if used.by_name and service.aliases:
                native["aliases"] = list(service.aliases)
        if asks_by_address:
            native["addresses"] = list(service.addresses)
        native["ports"] = [At(port.mark, _native_port(port))]
        if service.private:
            native["private_addresses"] = True
        if used.resolution != "dns":
            native["resolution"] = used.resolution
        endpoints = [At(one.mark, _native_endpoint(one, port)) for one in used.endpoints]
        if not endpoints and "hosts" not in native and used.resolution == "dns":
            endpoints = [At(service.mark, {"address": service.host.host})]
        if endpoints:
            native["endpoints"] = endpoints
        return native | used.native


def exported(export_to: Sequence[str], owner: str, viewer: str) -> bool:
    """Whether an object of one namespace is seen in another."""
    return not export_to or "*" in export_to or viewer in export_to or ("." in export_to and owner == viewer)


def _depth(pattern: HostPattern) -> tuple[int, int]:
    """The more of a host a pattern names, the higher: exact names, then long suffixes, then `*`."""
    return {"exact": 2, "suffix": 1, "any": 0}[pattern.kind], pattern.host.count(".")


def by_depth(pattern: HostPattern) -> tuple[int, int]:
    """Key to sort patterns by, the most specific first."""
    kind, labels = _depth(pattern)
    return -kind, -labels


_NATIVE_SPOKEN: dict[Spoken, str] = {"HTTP": "HTTP", "TLS": "TLS", "TCP": "TCP", "ANY": "TCP"}


def _native_port(port: Port) -> dict[str, Any]:
    native: dict[str, Any] = {"number": port.number, "protocol": _NATIVE_SPOKEN[port.spoken]}
    if port.target is not None and port.target != port.number:
        native["target_port"] = port.target
    return native


def _port_of(endpoint: Endpoint, port: Port) -> int:
    return endpoint.ports.get(port.name) or port.target or port.number


def _native_endpoint(endpoint: Endpoint, port: Port) -> dict[str, Any]:
    native: dict[str, Any] = {"address": endpoint.address}
    if _port_of(endpoint, port) != (port.target or port.number):
        native["port"] = _port_of(endpoint, port)
    if endpoint.weight != 1:
        native["weight"] = endpoint.weight
    return native
