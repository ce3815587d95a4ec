"""Files to objects: several documents, lists, JSON, and how Kubernetes reads YAML."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support.istio import REGISTRY_ONLY, entry, meets, thing

from egressproxy.config.native import compose_all


def value(text: str) -> Any:
    documents, faults = compose_all(f"key: {text}\n".encode(), 0)
    assert faults == ()
    return documents[0].data["key"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("yes", True),
        ("y", True),
        ("On", True),
        ("no", False),
        ("N", False),
        ("off", False),
        ("'yes'", "yes"),
        ("010", 8),
        ("0o17", 15),
        ("0x1F", 31),
        ("0b11", 3),
        ("1_000", 1000),
        ("0", 0),
        ("089", 89.0),  # no octal digits, and so a float for the library of Kubernetes
        ("1e3", 1000.0),
        (".5", 0.5),
        ("22:22", "22:22"),
        ("1:2:3", "1:2:3"),
        ("=", "="),
        ("2026-01-01", "2026-01-01"),
        ("10.0.0.1", "10.0.0.1"),
        ("3s", "3s"),
        ("9" * 25, float("9" * 25)),
        ("~", None),
    ],
)
def test_scalars_are_read_as_kubernetes_reads_them(text: str, expected: object) -> None:
    assert value(text) == expected
    assert type(value(text)) is type(expected)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\na: 2\n", "is written twice; the first is on line 1"),
        ("a: !!python/object:x 1\n", "expected a plain value, got the tag 'tag:yaml.org,2002:python/object:x'"),
        ("a: *b\n", "'*b' without quotes is an alias, and no anchor has its name"),
        ("a: &x 1\n---\nb: *x\n", "'*x' without quotes is an alias, and no anchor has its name"),
        ("<<: {a: 1}\n", "expected a key, got << to merge another mapping"),
    ],
)
def test_keys_tags_and_aliases_are_as_strict_as_in_native_files(text: str, message: str) -> None:
    (fault,) = compose_all(text.encode(), 0)[1]
    assert fault.message.startswith(message)


def test_an_anchor_belongs_to_its_document() -> None:
    documents, faults = compose_all(b"a: &x 1\nb: *x\n---\na: &x 2\nb: *x\n", 0)
    assert ([document.data for document in documents], faults) == ([{"a": 1, "b": 1}, {"a": 2, "b": 2}], ())


def test_documents_before_a_syntax_error_are_kept_and_the_error_has_its_line() -> None:
    documents, faults = compose_all(b"a: 1\n---\nb:\n- c\n d: e\n", 0, first_line=10)
    assert [document.data for document in documents] == [{"a": 1}]
    assert [fault.mark for fault in faults] == [14]


def test_empty_documents_are_nothing() -> None:
    assert meets("---\n", REGISTRY_ONLY, "---\n# nothing\n").data["outbound"] == "registry_only"


def test_a_list_stands_for_its_items_and_json_is_yaml() -> None:
    spec = {"hosts": ["a.example"], "ports": [{"number": 80, "name": "p", "protocol": "HTTP"}], "resolution": "DNS"}
    item = {"apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry", "metadata": {"name": "a"}, "spec": spec}
    whole = json.dumps({"apiVersion": "v1", "kind": "List", "items": [item]}, indent=1)
    assert list(meets(whole + "\n").services) == ["outbound|80||a.example"]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "1 expected Kubernetes objects with apiVersion and kind, got an empty file"),
        ("[1, 2]\n", "1 expected Kubernetes objects with apiVersion and kind, got a list of 2"),
        ("a\n", "1 expected Kubernetes objects with apiVersion and kind, got 'a'"),
        ("a: 1\n", "1 expected Kubernetes objects with apiVersion and kind; this has neither"),
        ("kind: Service\n", "1 Service: apiVersion is missing"),
        ("apiVersion: v1\nkind: Service\n", "1 Service.metadata: expected a name in metadata"),
        ("apiVersion: v1\nkind: 1\n", "2 object.kind: expected text, got 1"),
        ("apiVersion: v1\nkind: List\nitems: [1]\n", "3 List.items[0]: expected a mapping, got 1"),
        (b"a: \xff\n".decode("latin-1"), "1 expected Kubernetes objects with apiVersion and kind; this has neither"),
    ],
)
def test_what_is_no_object_is_said(text: str, fault: str) -> None:
    assert fault in meets(text).faults


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        ("kind: Service\nmetadata: {name: b}\n", "Service.b: apiVersion is missing"),
        ("apiVersion: v1\nmetadata: {name: b}\n", "b: kind is missing"),
        ("apiVersion: v1\n", "object: kind is missing"),
        ("apiVersion: ''\nkind: Service\n", "Service.apiVersion: is empty"),
    ],
)
def test_what_an_object_lacks_is_not_told_of_the_one_before_it(words: str, fault: str) -> None:
    found = meets(REGISTRY_ONLY, words)
    line = REGISTRY_ONLY.count("\n") + 2
    assert found.faults == [f"{line} {fault}"]


def test_kustomizations_in_the_folder_have_no_name_and_are_noted() -> None:
    found = meets(REGISTRY_ONLY, "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nnamespace: a\n")
    assert found.faults == []
    (note,) = found.notes
    assert note.endswith(
        "Kustomization: kustomize is not run: the files count as they are written; give what `kubectl kustomize` prints"
    )


def test_of_two_with_one_name_the_later_one_counts_and_the_first_is_noted() -> None:
    first, second = (
        entry("a.example", "80 HTTP", title="ServiceEntry e"),
        entry("b.example", "80 HTTP", title="ServiceEntry e"),
    )
    found = meets(REGISTRY_ONLY, first, second)
    assert list(found.services) == ["outbound|80||b.example"]
    assert found.notes == ["8 ServiceEntry.e: replaced by a later one of the same name"]


def test_objects_of_one_name_in_two_namespaces_or_of_two_kinds_are_two() -> None:
    found = meets(
        entry("a.example", "80 HTTP", title="ServiceEntry e"),
        entry("b.example", "80 HTTP", title="ServiceEntry e other"),
        thing("DestinationRule e", "{host: a.example}"),
    )
    assert len(found.services) == 2
