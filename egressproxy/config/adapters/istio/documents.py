"""Files to Kubernetes objects: many YAML or JSON documents in each, with their lines.

A list of objects (`kind: List`, as `kubectl get -o yaml` prints it) stands for its items. An object without apiVersion and
kind is told by its content where the installer's own files have none: the `spec` of an IstioOperator and Helm values.
Nothing here knows what an object means.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from egressproxy.config.adapters.istio.fields import Fields
from egressproxy.config.faults import shown
from egressproxy.config.native import Places, compose_all, mark

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from egressproxy.config.adapters.adapter import Source
    from egressproxy.config.adapters.istio.fields import Report

_OPERATOR_KEYS = frozenset({"components", "meshConfig", "profile", "values", "hub", "tag", "revision"})
_HELM_KEYS = frozenset({"global", "meshConfig", "gateways", "pilot", "sidecarInjectorWebhook"})
_NAMELESS = frozenset({"IstioOperator", "Kustomization"})
_NO_OBJECT = "expected Kubernetes objects with apiVersion and kind"


@dataclass(frozen=True, slots=True, kw_only=True)
class Thing:
    """One object.

    group, version  of its apiVersion; the group is empty for Kubernetes' own core
    namespace       None where it does not say one
    age             its creation time as written, empty where it has none: a new object is the youngest
    fields          the whole object
    """

    group: str
    version: str
    kind: str
    name: str
    namespace: str | None
    age: str
    fields: Fields

    @property
    def title(self) -> str:
        """`Service sleep`, for messages."""
        return f"{self.kind} {self.name}" if self.name else self.kind


def things(sources: Sequence[Source], report: Report) -> list[Thing]:
    """The objects of all files, in order. Of two of the same kind, namespace and name the later one stays, with a note.

    But settings of the mesh stay all: where they do not agree, that is a conflict.
    """
    found: dict[tuple[str, str, str | None, str] | int, Thing] = {}
    for source in sources:
        for thing in _of_file(source, report):
            stays = not thing.name or _is_of_mesh(thing)
            key = len(found) if stays else (thing.group, thing.kind, thing.namespace, thing.name)
            if (earlier := found.pop(key, None)) is not None:
                report.note(earlier.fields.mark(), earlier.fields.way, "replaced by a later one of the same name")
            found[key] = thing
    return list(found.values())


def _is_of_mesh(thing: Thing) -> bool:
    data = thing.fields.data.get("data")
    return thing.kind == "ConfigMap" and isinstance(data, dict) and "mesh" in data


def _of_file(source: Source, report: Report) -> Iterator[Thing]:
    documents, faults = compose_all(source.content, source.number)
    report.faults += faults
    if not faults and all(document.data is None for document in documents):
        report.fault(mark(source.number, 1), (), f"{_NO_OBJECT}, got an empty file")
    for data, places in documents:
        if isinstance(data, dict):
            yield from _of_mapping(data, places, report)
        elif data is not None:
            place = places.mark if isinstance(places, Places) else places
            report.fault(place, (), f"{_NO_OBJECT}, got {shown(data)}")


def _of_mapping(data: dict[str, Any], places: Places, report: Report) -> Iterator[Thing]:
    if "kind" not in data and "apiVersion" not in data:
        kind = _kind_without_words(data)
        if kind is None:
            report.fault(places.mark, (), f"{_NO_OBJECT}; this has neither")
            return
        yield Thing(
            group="install.istio.io" if kind == "IstioOperator" else "",
            version="",
            kind=kind,
            name="",
            namespace=None,
            age="",
            fields=Fields(data, places, (kind,), report),
        )
        return
    top = Fields(data, places, _title(data), report)
    kind, api = top.required_text("kind"), top.required_text("apiVersion")
    for word, text in (("kind", kind), ("apiVersion", api)):
        if text == "":
            top.fault(word, "is empty")
    if not kind or not api:
        return
    if kind.endswith("List") and "items" in data:
        for item in top.each("items"):
            yield from _of_mapping(item.data, item.places, report)
        return
    metadata = top.below("metadata")
    name = (metadata.text("name") if metadata is not None else None) or ""
    fields = Fields(data, places, (kind, name) if name else (kind,), report)
    if not name and kind not in _NAMELESS:
        fields.fault("metadata", "expected a name in metadata")
        return
    group, _, version = api.rpartition("/")
    age = metadata.data.get("creationTimestamp") if metadata is not None else None
    yield Thing(
        group=group,
        version=version,
        kind=kind,
        name=name,
        namespace=metadata.text("namespace") if metadata is not None else None,
        age=age if isinstance(age, str) else "",
        fields=fields,
    )


def _title(data: dict[str, Any]) -> tuple[str, ...]:
    """The kind and name of an object that may lack either, so that a fault in it is not told of the one before it."""
    metadata = data.get("metadata")
    words = (data.get("kind"), metadata.get("name") if isinstance(metadata, dict) else None)
    return tuple(word for word in words if isinstance(word, str) and word) or ("object",)


def _kind_without_words(data: dict[str, Any]) -> str | None:
    """What the installer's files are that say no kind."""
    spec = data.get("spec")
    if set(data) == {"spec"} and isinstance(spec, dict) and spec.keys() & _OPERATOR_KEYS:
        return "IstioOperator"
    return "Values" if data.keys() & _HELM_KEYS else None
