"""Which API group and version each kind of Istio's is of, and which groups of others have a kind of the same name.

A group that is misspelt would make an object somebody else's, and what it refuses would pass.
"""

from __future__ import annotations

from difflib import get_close_matches

ISTIO = "networking.istio.io"

_SECURITY = "security.istio.io/v1"

_APIS: dict[str, str] = {
    **dict.fromkeys(
        (
            "ServiceEntry",
            "VirtualService",
            "DestinationRule",
            "Gateway",
            "Sidecar",
            "WorkloadEntry",
            "WorkloadGroup",
        ),
        f"{ISTIO}/v1",
    ),
    "EnvoyFilter": f"{ISTIO}/v1alpha3",
    "ProxyConfig": f"{ISTIO}/v1beta1",
    **dict.fromkeys(("AuthorizationPolicy", "PeerAuthentication", "RequestAuthentication"), _SECURITY),
    "Telemetry": "telemetry.istio.io/v1",
    "WasmPlugin": "extensions.istio.io/v1alpha1",
}
"""Kinds, and the apiVersion to write for them."""

_KNOWN = {
    "rbac.istio.io": frozenset[str](),
    "gateway.networking.k8s.io": frozenset({"GatewayClass", "ReferenceGrant"}),
    "gateway.networking.x-k8s.io": frozenset[str](),
}
"""Other groups whose objects decide who may go where, with their kinds that decide nothing here."""

_GROUPS = {api.partition("/")[0] for api in _APIS.values()}
_GROUP_LIKENESS = 0.85
_BY_SMALL = {kind.lower(): kind for kind in _APIS}

# A group stands for those below it, too.
_OF_OTHERS: dict[str, tuple[str, ...]] = {
    "Gateway": (
        "gateway.networking.k8s.io",
        "networking.x-k8s.io",
        "knative.dev",
        "solo.io",
        "submariner.io",
        "upbound.io",
        "crossplane.io",
    ),
    "VirtualService": ("solo.io", "appmesh.k8s.aws"),
    "AuthorizationPolicy": ("policy.linkerd.io", "upbound.io"),
    "Telemetry": ("kyma-project.io",),
}


def is_istios(kind: str) -> bool:
    """Whether Istio has a kind of this name."""
    return kind in _APIS


def is_in_place(group: str, kind: str) -> bool:
    """Whether a kind that this proxy does not follow may be told of as such: its group is known to have it.

    Groups that are not Istio's may have any, but one with a name of Istio's, in whatever capitals, only where they are listed.
    """
    if group in _KNOWN:
        return kind in _KNOWN[group]
    if group in _GROUPS:
        return _APIS.get(kind, "").partition("/")[0] == group
    if kind.lower() not in _BY_SMALL:
        return True
    return any(group == other or group.endswith(f".{other}") for other in _OF_OTHERS.get(kind, ()))


def group_meant(group: str) -> str | None:
    """The group that decides who may go where which this one, that is none of them, is nearly; None: there is none."""
    close = get_close_matches(group[:60].lower(), (*_GROUPS, *_KNOWN), n=1, cutoff=_GROUP_LIKENESS)
    return close[0] if close and close[0] != group else None


def meant(group: str, kind: str) -> str:
    """The end of a message about a kind that its group does not have: `; did you mean ...?`, or nothing."""
    close = get_close_matches(kind[:60].lower(), _BY_SMALL, n=1, cutoff=0.8)
    if not close:
        return ""
    found = _BY_SMALL[close[0]]
    right = _APIS[found].partition("/")[0] == group
    words = [*([found] if found != kind else []), *([] if right else [_APIS[found]])]
    return f"; did you mean {' of '.join(words)}?"
