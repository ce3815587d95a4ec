"""What is printed loads to the same configuration, and says where it came from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egressproxy.config.load import load
from egressproxy.config.native import compose, kind_of
from egressproxy.config.native_text import _setting, native_lines
from egressproxy.errors import ConfigError

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "config").glob("*.yaml"))
SCENARIOS = ROOT.parent / "shared" / "istio"

PEM = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
FULL = f"""\
listeners:
- {{protocol: tcp, port: 5432, address: "::1", target: "[2001:db8::1]:5432", name: db}}
- {{protocol: http-proxy, port: 3128, manager: true, proxy_protocol: {{from: [10.0.0.0/8]}}}}
- {{protocol: auto, port: 15001, transparent: tproxy, name: captured}}
admin: null
access_log:
- {{format: squid, template: '%ts "%>a" %rm \\t %%'}}
- {{format: json, path: "-", decisions: true, buffer_lines: 5}}
timeouts: {{head_s: 0.00001, idle_s: 10, connect_s: 2.5}}
allow: ["*.example.com:8000-8100", "[2001:db8::1]:443", x.example]
outbound: allow_any
on_policy_change: cut
rules:
- name: "on"
  action: deny
  all: [{{hosts_matching: ['^cdn[0-9]+\\.', '(?i)"quoted" \\x07é\\x{{1F600}} #no: comment']}}, {{ports: [1, 8000-8100]}}]
  any: [{{none: [{{listener_ports: [3128]}}]}}]
  times: [{{days: [monday], start: "08:30", end: "12:30"}}]
- {{action: allow, hosts: ["*"], parent: up, addresses: null}}
routes:
- {{hosts: [a.example], carries: requests, to: [{{service: "outbound|80||a.example", weight: 0}}, {{service: b.example}}]}}
- {{listeners: [db], refuse: close}}
parents: [{{name: up, address: squid.example, port: 3128}}]
services:
- {{name: "outbound|80||a.example", hosts: [a.example, "*.a.example"], ports: [{{number: 80, protocol: HTTP}}]}}
- hosts: [b.example]
  ports: [{{number: 443}}]
  tls: {{mode: mutual, credential: c, minimum_version: 1.3, alpn: [], subject_alt_names: ["spiffe://a/b", "12:30"]}}
secrets:
  inline:
    c: {{"tls.crt": {PEM!r}, "tls.key": "  x\\ny", "ca.crt": ""}}
    "010": {{"yes": "off"}}
capture: {{include: [10.0.0.0/8], exclude: ["fd00::/8"]}}
""".replace(", addresses: null", "").replace(repr(PEM), '"' + PEM.replace("\n", "\\n") + '"')


def converted(path: Path, folder: Path) -> tuple[Any, Any, str]:
    """The configuration, what its text loads to, and that text."""
    loaded = load([str(path)])
    text = "".join(f"{line}\n" for line in native_lines(loaded.config, loaded.locate))
    copy = folder / "converted.yaml"
    copy.write_text(text, encoding="utf-8")
    return loaded.config, load([str(copy)]).config, text


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_each_example_is_the_same_after_its_conversion(path: Path, tmp_path: Path) -> None:
    before, after, _ = converted(path, tmp_path)
    assert after == before


@pytest.mark.skipif(not SCENARIOS.is_dir(), reason="the documents' own files are not here")
def test_each_file_of_the_documents_is_the_same_after_its_conversion(tmp_path: Path) -> None:
    listener = tmp_path / "listener.yaml"
    listener.write_text("listeners: [{protocol: http-proxy, port: 3128}]\n")
    copy = tmp_path / "converted.yaml"
    converted = 0
    for path in sorted(file for file in SCENARIOS.rglob("*") if file.suffix in (".yaml", ".conf")):
        for beside in ([], [str(listener)]):
            try:
                loaded = load([*beside, str(path)], lenient=True)
            except ConfigError:
                continue  # it needs others, or is refused on purpose
            converted += 1
            copy.write_text("".join(f"{line}\n" for line in native_lines(loaded.config, loaded.locate)))
            assert load([str(copy)]).config == loaded.config, path
    assert converted


def test_what_could_be_read_in_two_ways_is_quoted(tmp_path: Path) -> None:
    path = tmp_path / "full.yaml"
    path.write_text(FULL, encoding="utf-8")
    before, after, text = converted(path, tmp_path)
    assert after == before
    assert {name: text.get_secret_value() for name, text in after.secrets.inline["c"].items()} == {
        "tls.crt": PEM,
        "tls.key": "  x\ny",
        "ca.crt": "",
    }
    assert kind_of(text.encode()) == "native"
    again = converted(tmp_path / "converted.yaml", tmp_path)[2]
    assert [line for line in again.splitlines() if "#" not in line] == [
        line for line in text.splitlines() if "#" not in line
    ]


def test_defaults_are_left_out_and_places_are_told(tmp_path: Path) -> None:
    one, two = tmp_path / "one.yaml", tmp_path / "two.yaml"
    one.write_text(
        "listeners: [{protocol: http-proxy, port: 3128}]\nrules:\n- action: deny\n  hosts: [a.example]\n"
        "timeouts: {idle_s: 3600}\n"
    )
    two.write_text(
        "outbound: registry_only\nreport: false\nrules:\n\n- {hosts: [b.example], action: allow, ports: [443]}\n"
    )
    loaded = load([str(one), str(two)])
    assert list(native_lines(loaded.config, loaded.locate)) == [
        f"# {one}:1",
        "listeners:",
        "  - {protocol: http-proxy, port: 3128}",
        f"# {one}:2",
        "rules:",
        f"  # {one}:3",
        "  - {action: deny, hosts: [a.example]}",
        f"  # {two}:5",
        "  - {action: allow, hosts: [b.example], ports: [443]}",
    ]


def test_long_lists_take_a_line_for_each_entry(tmp_path: Path) -> None:
    path = tmp_path / "long.yaml"
    hosts = ", ".join(f"h{number}.example" for number in range(20))
    path.write_text(
        f"listeners: [{{protocol: sni, port: 1}}]\nrules: [{{action: deny, hosts: [{hosts}], ports: [1]}}]\n"
    )
    before, after, text = converted(path, tmp_path)
    assert after == before
    assert text.splitlines()[5:9] == ["  - action: deny", "    hosts:", "      - h0.example", "      - h1.example"]


scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(10**17), 10**17)
    | st.floats(0.0001, 10**9).map(lambda number: round(number, 6))
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
    | st.sampled_from(
        ["yes", "No", "off", "010", "0o17", "1_000", "12:30", "=", "<<", "~", "null", "- a", "a: b", "a #b", "*x"]
    )
    | st.from_regex(r"\A([ -~]{0,5}\n){1,3}\Z")
)
keys = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(keys, values, min_size=1, max_size=4))
def test_any_data_is_read_as_it_was_written(data: dict[str, Any]) -> None:
    text = "".join(f"{line}\n" for key, value in data.items() for line in _setting(key, value, ""))
    composed = compose(text.encode())
    assert (composed.faults, composed.data) == ((), data), text
