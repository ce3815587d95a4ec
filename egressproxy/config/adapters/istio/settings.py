"""What concerns the whole mesh: its ConfigMap, an IstioOperator, values of the Helm chart; and the two known EnvoyFilters.

Most of a mesh's settings are about its own sidecars, certificates and telemetry, and have no meaning for a proxy outside it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from difflib import get_close_matches
from ipaddress import ip_network
from typing import TYPE_CHECKING, Any

from egressproxy.config.adapters.adapter import At
from egressproxy.config.adapters.istio.fields import Fields
from egressproxy.config.adapters.istio.kubernetes import pods_of
from egressproxy.config.faults import shown
from egressproxy.config.native import Places, compose_all, kind_of, unmark

if TYPE_CHECKING:
    from collections.abc import Sequence

    from egressproxy.config.adapters.istio.documents import Thing
    from egressproxy.config.adapters.istio.fields import Report

OUTBOUND = {"ALLOW_ANY": "allow_any", "REGISTRY_ONLY": "registry_only"}
STDOUT = "/dev/stdout"
TLS_PORT = 443


@dataclass(slots=True)
class Settings:
    """What was found. Values are `At`, with the line they were written on; None: nothing says so.

    outbound_by_default  what a whole MeshConfig without a policy means; parts of one mean nothing by that
    gateways  labels of egress gateways that an IstioOperator describes, by name
    sni_check  with whether the filter is for port 443 alone
    """

    outbound: At | None = None
    outbound_by_default: At | None = None
    access_log: At | None = None
    root_namespace: str = "istio-system"
    connect_timeout_s: At | None = None
    include: At | None = None
    exclude: At | None = None
    sni_check: At | None = None
    sni_check_on_443_only: bool = True
    forwards_sni: bool = False
    gateways: dict[str, dict[str, str]] = field(default_factory=dict)

    def set_outbound(self, mode: At, fields: Fields) -> None:
        """Set it once; another value elsewhere is a conflict."""
        if self.outbound is not None and self.outbound.value != mode.value:
            where = fields.report.place(self.outbound.mark)
            fields.fault("mode", f"is {mode.value} here and {self.outbound.value} in {where}; expected one value")
        else:
            self.outbound = mode


# --- the mesh -----------------------------------------------------------------------------------------------------


def mesh_config_map(thing: Thing, settings: Settings, report: Report) -> bool:
    """Take the mesh's settings from its ConfigMap. False: it is another ConfigMap."""
    data = thing.fields.data.get("data")
    if (
        not (thing.name == "istio" or thing.name.startswith("istio-"))
        or not isinstance(data, dict)
        or "mesh" not in data
    ):
        return _holds_configuration(thing, report)
    fields = thing.fields.below("data")
    text = fields.text("mesh") if fields is not None else None
    if fields is None or text is None:
        return True
    source, line = unmark(fields.places.children["mesh"])
    documents, faults = compose_all(text.encode(), source, line)
    report.faults += faults
    for document in documents:
        if isinstance(document.data, dict) and isinstance(document.places, Places):
            below = Fields(document.data, document.places, (*fields.way, "mesh"), report)
            mesh_config(below, settings)
            if not below.has("outboundTrafficPolicy"):
                settings.outbound_by_default = At(fields.mark("mesh"), "allow_any")
        elif document.data is not None:
            fields.fault("mesh", f"expected settings, got {shown(document.data)}")
    if not faults and settings.access_log is None:
        settings.access_log = At(fields.mark("mesh"), [])
    return True


def _holds_configuration(thing: Thing, report: Report) -> bool:
    """Note the configurations of other proxies that another ConfigMap holds. False: it holds none."""
    data, found = thing.fields.data.get("data"), False
    for key, text in data.items() if isinstance(data, dict) else ():
        kind = kind_of(text.encode(errors="surrogatepass")) if isinstance(text, str) else "native"
        if kind in ("squid", "nginx"):
            place = thing.fields.places.children["data"].keys[key]
            message = f"holds a {kind}.conf, which is not read from here; give its text as a file of its own"
            report.note(place, (*thing.fields.way, "data", key), message)
            found = True
    return found


_MESH_REFUSED = {
    "proxyHttpPort": "an http-proxy listener stands in the native form",
    "caCertificates": "certificates of the mesh are not known here",
    "discoverySelectors": "leaves out objects by labels of their namespaces, which are not known here; leave it out, and them",
}


# What is said of the fields that are followed. A slip in one of them would be taken for a field about the mesh itself, and in
# the policy it would open everything. So alike as this no other field of a MeshConfig is (`inboundTrafficPolicy` is less so).
_MESH_FOLLOWED = {
    name.lower(): name
    for name in (
        "outboundTrafficPolicy",
        "rootNamespace",
        "connectTimeout",
        "accessLogFile",
        "accessLogFormat",
        "accessLogEncoding",
    )
}
_MESH_LIKENESS = 0.9


def _slips(names: Sequence[str]) -> dict[str, str]:
    """What is wrong with the fields that seem to be meant for one that is followed."""
    close = {name: get_close_matches(name.lower(), _MESH_FOLLOWED, n=1, cutoff=_MESH_LIKENESS) for name in names}
    return {
        name: f"no such setting of a mesh; did you mean {_MESH_FOLLOWED[found[0]]}?"
        for name, found in close.items()
        if found
    }


# Fields of a MeshConfig, of any release, that have one of these words in their names and are about something else.
_POLICY_WORDS = ("outbound", "trafficpolicy", "meshconfig")
_OTHER_POLICIES = frozenset({"inboundTrafficPolicy", "outboundClusterStatName"})


def _misplaced(fields: Fields) -> dict[str, str]:
    """What is wrong with fields that are not followed and seem to say, or hold, the policy for what is not registered.

    A mesh without a policy lets everything pass, so that one which is not read must not be noted in passing.
    """
    return {
        name: "no such setting of a mesh, or not in this place; outboundTrafficPolicy stands at the top of these settings"
        for name in fields.unread()
        if name not in _OTHER_POLICIES
        and (
            any(word in name.lower().replace("_", "") for word in _POLICY_WORDS) or _holds_policy(fields.value_of(name))
        )
    }


def _holds_policy(value: object) -> bool:
    """Whether the policy is written somewhere in a value."""
    if isinstance(value, list):
        return any(map(_holds_policy, value))
    if not isinstance(value, dict):
        return False
    return any(
        str(key).lower().replace("_", "") == "outboundtrafficpolicy" or _holds_policy(inner)
        for key, inner in value.items()
    )


def mesh_config(fields: Fields, settings: Settings) -> None:
    """Take what a MeshConfig says."""
    policy = fields.below("outboundTrafficPolicy")
    if policy is not None:
        # A policy without a mode has the first of the protocol's enumeration; a mesh without a policy has the other.
        mode = policy.word("mode", tuple(OUTBOUND), "REGISTRY_ONLY")
        policy.done()
        if mode is not None:
            settings.set_outbound(At(policy.mark("mode"), OUTBOUND[mode]), policy)
    root = fields.text("rootNamespace")
    if root:
        settings.root_namespace = root
    if (seconds := fields.seconds("connectTimeout")) is not None:
        settings.connect_timeout_s = At(fields.mark("connectTimeout"), seconds)
    _access_log(fields, settings)
    for name in fields.unread():
        if name.startswith("default") and name.endswith("ExportTo"):
            fields.fault(name, "write exportTo into the objects: a default for all is not followed")
            fields.words(name)
    fields.done(
        silent=("trustDomain",),
        noted=dict.fromkeys(fields.unread(), "is about the mesh itself, and has no meaning here"),
        refused=_misplaced(fields) | _MESH_REFUSED | _slips(fields.unread()),
    )


def _access_log(fields: Fields, settings: Settings) -> None:
    path, template = fields.text("accessLogFile"), fields.text("accessLogFormat")
    encoding = fields.word("accessLogEncoding", ("TEXT", "JSON"), "TEXT")
    if not path:
        if path is not None or fields.has("accessLogFile") or settings.access_log is None:
            settings.access_log = At(fields.mark("accessLogFile"), [])
        return
    log: dict[str, Any] = {"format": "istio" if encoding == "TEXT" else "istio-json"}
    if template:
        if encoding == "JSON":
            fields.fault("accessLogFormat", "fields of one's own are not written as JSON; leave it out, or set TEXT")
        else:
            log["template"] = At(fields.mark("accessLogFormat"), template.rstrip("\n"))
    log["path"] = "-" if path == STDOUT else path
    settings.access_log = At(fields.mark("accessLogFile"), [At(fields.mark("accessLogFile"), log)])


# --- the installer ------------------------------------------------------------------------------------------------


def operator(thing: Thing, settings: Settings) -> None:
    """Take what an IstioOperator says of the mesh and of its egress gateways."""
    spec = thing.fields.below("spec")
    if spec is None:
        return
    mesh = spec.below("meshConfig")
    if mesh is not None:
        mesh_config(mesh, settings)
    components = spec.below("components")
    if components is not None:
        for each in components.each("egressGateways"):
            _gateway(each, settings)
        for name in components.unread():
            components.note(name, "is about the mesh itself, and has no meaning here")
    values_below = spec.below("values")
    if values_below is not None:
        values(values_below, settings)
    for name in spec.unread():
        spec.note(name, "is about the installation, and has no meaning here")


def _gateway(fields: Fields, settings: Settings) -> None:
    name = fields.text("name")
    labels = fields.labels("label")
    if name and not (fields.has("enabled") and not fields.flag("enabled")):
        settings.gateways[name] = {**pods_of(name), **labels}


def values(fields: Fields, settings: Settings) -> None:
    """Take the ranges to capture, and the settings of the mesh, from values of the Helm chart."""
    whole = fields.below("global")
    proxy = whole.below("proxy") if whole is not None else None
    if proxy is not None:
        settings.include = _ranges(proxy, "includeIPRanges") or settings.include
        settings.exclude = _ranges(proxy, "excludeIPRanges") or settings.exclude
        for name in proxy.unread():
            proxy.note(name, "is about sidecars, and has no meaning here")
    mesh = fields.below("meshConfig")
    if mesh is not None:
        mesh_config(mesh, settings)
    for below in (fields, whole):
        for name in () if below is None else below.unread():
            assert below is not None
            below.note(name, "is about the installation, and has no meaning here")


def _ranges(fields: Fields, name: str) -> At | None:
    """Networks with commas between them. `*` is everything, which native says by an empty list; for an empty list
    Istio captures nothing.
    """
    text = fields.text(name)
    if text is None:
        return None
    found = []
    words = [word.strip() for word in text.split(",") if word.strip()]
    if name.startswith("include") and not words:
        fields.fault(name, "an empty list captures nothing: leave egressproxy redirect out, or write '*'")
    for word in words:
        if word == "*":
            if name.startswith("exclude"):
                fields.fault(name, "expected networks; '*' would leave nothing to capture")
            continue
        try:
            network = ip_network(word, strict=False)
        except ValueError:
            fields.fault(name, f"expected networks like 10.0.0.0/8, got {shown(word)}")
            continue
        if str(network) != word:
            fields.note(name, f"{word} has host bits set; taken as {network}")
        found.append(str(network))
    return At(fields.mark(name), found)


# --- EnvoyFilter --------------------------------------------------------------------------------------------------

_FORWARD = "forward_downstream_sni"
_VERIFY = "sni_verifier"
_OTHER = (
    "changes Envoy from inside, which nothing here can follow; only forward_downstream_sni and sni_verifier are known. "
    "Say in native settings what it is for"
)


def envoy_filter(thing: Thing, settings: Settings) -> None:
    """Recognise the two filters of the pages about wildcard hosts, in both shapes that were published; refuse all others."""
    spec = thing.fields.below("spec")
    if spec is None:
        thing.fields.fault("spec", "is missing")
        return
    spec.labels("workloadLabels")
    selector = spec.below("workloadSelector")
    if selector is not None:
        selector.labels("labels")
        selector.done()
    found = [(each, _old_shape(each)) for each in spec.each("filters")]
    found += [(each, _new_shape(each)) for each in spec.each("configPatches")]
    spec.done(silent=("priority",))
    if not found:
        spec.report.fault(spec.mark(), spec.way, _OTHER)
    for fields, name in found:
        if name == _FORWARD:
            settings.forwards_sni = True
            fields.report.note(
                fields.mark(), fields.way, "the name inside a client's TLS is what routes see here in any case"
            )
        elif name == _VERIFY:
            settings.sni_check = At(fields.mark(), "enforce")
            settings.sni_check_on_443_only &= _listener_port(fields) == TLS_PORT
        else:
            fields.report.fault(fields.mark(), fields.way, _OTHER)


def _listener_port(fields: Fields) -> object:
    """The port of the listener that a filter is for; None: any."""
    where = fields.data.get("match", fields.data.get("listenerMatch"))
    where = where.get("listener", where) if isinstance(where, dict) else None
    return where.get("portNumber") if isinstance(where, dict) else None


def _old_shape(fields: Fields) -> str | None:
    """`filters:`, up to Istio 1.6."""
    name, kind, below = fields.text("filterName"), fields.text("filterType"), fields.below("filterConfig")
    where = fields.below("listenerMatch")
    fields.done(silent=("insertPosition",))
    plain = kind == "NETWORK" and (below is None or not below.data) and where is not None
    return name if plain else None


def _new_shape(fields: Fields) -> str | None:
    """`configPatches:`, from Istio 1.3 on."""
    kind, patch, where = fields.text("applyTo"), fields.below("patch"), fields.below("match")
    fields.done()
    if kind != "NETWORK_FILTER" or patch is None or where is None:
        return None
    operation, value = patch.text("operation"), patch.below("value")
    if operation not in ("INSERT_BEFORE", "INSERT_FIRST") or value is None:
        return None
    name = value.text("name")
    config = value.data.get("config", value.data.get("typed_config", {}))
    plain = isinstance(config, dict) and not (config.keys() - {"@type"})
    return name.rpartition(".")[2] if name is not None and plain else None
