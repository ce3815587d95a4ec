"""Alerts and dashboard: each metric, label and word in them is one that the proxy has, and alerts go off when they should."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import promql_parser as promql
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from support.certificates import authority
from support.clients import ask, connect_head, open_tunnel, run
from support.hellos import openssl_hello
from support.leaves import LEAVES
from support.manifests import FOLDER
from support.origin import TcpOrigin, echo
from support.plain_http import Ends, RawOrigin, request, response
from support.proxy import Proxy
from support.tls_servers import write_pair

from egressproxy.resolve.resolver import OUTCOMES

MONITORING = FOLDER / "overlays" / "monitoring"
RULES: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load((MONITORING / "alerts.yaml").read_text())["spec"]["groups"]
    for rule in group["rules"]
]
DASHBOARD: dict[str, Any] = json.loads((MONITORING / "dashboard.json").read_text())

OF_PROMETHEUS = {"up"}
"""What Prometheus itself says of whom it scrapes."""
OF_THE_TARGET = {"job", "namespace", "pod", "container", "instance"}
"""Labels that come with the scrape."""
WORDS = {
    "outcome": {leaf.slug for leaf in LEAVES} | {*OUTCOMES, "connected", "mismatch", "closed", "answered"},
    "phase": {"head", "resolve", "connect", "total"},
    "reported": {"true", "false"},
    "refused": {"true", "false"},
}
"""What a label may be in an expression; others are not compared."""


class Asked(NamedTuple):
    """A query, and where it stands."""

    place: str
    text: str

    @property
    def tree(self) -> promql.Expr:
        """Read as Prometheus reads it, with Grafana's variables as they may be."""
        return promql.parse(self.text.replace("$__rate_interval", "5m").replace("$__range", "6h"))


QUERIES = [Asked(rule["alert"], rule["expr"]) for rule in RULES] + [
    Asked(f"{panel['title']} {target['refId']}", target["expr"])
    for panel in DASHBOARD["panels"]
    for target in panel["targets"]
]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """The names of all samples of a proxy that really ran, each with its labels; a counter that never moved has none."""
    folder = tmp_path_factory.mktemp("proxy")
    write_pair(folder, authority().issue_cert("client.example"))
    authority().cert_pem.write_to_path(str(folder / "ca.pem"))
    tls = {"mode": "mutual", "certificate": str(folder / "client.pem"), "key": str(folder / "client.key")}
    config = {
        "rules": [
            {"name": "closed", "action": "deny", "hosts": ["*.closed.example"]},
            {
                "name": "checked",
                "action": "allow",
                "hosts": ["127.0.0.1"],
                "private_addresses": True,
                "sni_check": "report",
            },
        ],
        "services": [
            {
                "hosts": ["bank.example"],
                "ports": [{"number": 80, "target_port": 443}],
                "tls": {**tls, "ca": str(folder / "ca.pem")},
            },
            {
                "hosts": ["old.example"],
                "ports": [{"number": 80, "target_port": 443}],
                "tls": {"mode": "simple", "verify": False},
            },
        ],
    }
    with TcpOrigin(echo) as tcp, RawOrigin(lambda _: [response(b"hello")]) as web, Proxy(folder, config) as proxy:
        assert ask(proxy, connect_head("a.closed.example:443")).status == 403
        with open_tunnel(proxy, tcp.target) as tunnel:
            tunnel.sendall(openssl_hello("elsewhere.example"))
            assert tunnel.recv(5)
        with Ends(proxy) as client:
            assert client.ask(request(web.url())).status == 200
        proxy.settled()
        text = proxy.get("/metrics")[1]
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        if family.type == "counter":
            found.setdefault(f"{family.name}_total", set())
        elif family.type == "gauge":
            found.setdefault(family.name, set())
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def selectors(tree: Any) -> Iterator[promql.VectorSelector]:
    found: list[promql.VectorSelector] = []
    promql.walk(tree, lambda node: found.append(node) if isinstance(node, promql.VectorSelector) else None)
    return iter(found)


@pytest.mark.parametrize("asked", QUERIES, ids=lambda asked: asked.place)
def test_a_query_asks_for_what_a_proxy_serves(asked: Asked, served: dict[str, set[str]]) -> None:
    names = {selector.name for selector in selectors(asked.tree)}
    assert names, "it asks for something"
    assert {name for name in names if name not in served} <= OF_PROMETHEUS
    # What the parser found is all there is to find.
    assert names >= set(re.findall(r"\b(?:egressproxy|process)_\w+", asked.text))


@pytest.mark.parametrize("asked", QUERIES, ids=lambda asked: asked.place)
def test_a_query_compares_labels_and_words_that_there_are(asked: Asked, served: dict[str, set[str]]) -> None:
    for selector in selectors(asked.tree):
        for matcher in selector.matchers.matchers:
            if matcher.name not in OF_THE_TARGET:
                assert matcher.name in served[selector.name], f"{selector.name} has no label {matcher.name}"
                assert set(matcher.value.split("|")) <= WORDS[matcher.name]
    grouped = {
        name for words in re.findall(r"\bby \(([^)]*)\)", asked.text) for name in words.replace(" ", "").split(",")
    }
    labels = set().union(*(served.get(selector.name, set()) for selector in selectors(asked.tree)))
    assert grouped - OF_THE_TARGET <= labels | unmoved(asked, served)


def unmoved(asked: Asked, served: dict[str, set[str]]) -> set[str]:
    """Labels of counters that this proxy had no occasion to move, as the metrics' own module has them."""
    known = {
        "egressproxy_credentials_refused_total": {"identity"},
        "egressproxy_upstream_handshakes_total": {"outcome"},
        "egressproxy_dns_lookups_total": {"outcome"},
    }
    return set().union(
        *(known.get(str(each.name), set()) for each in selectors(asked.tree) if not served.get(str(each.name)))
    )


def test_legends_and_annotations_name_labels_that_are_left(served: dict[str, set[str]]) -> None:
    for rule in RULES:
        used = set(re.findall(r"\$labels\.(\w+)", " ".join(rule["annotations"].values())))
        grouped = set(re.findall(r"by \(([^)]*)\)", rule["expr"]))
        if grouped:
            (names,) = grouped
            assert used <= {name.strip() for name in names.split(",")}, rule["alert"]
        else:
            labels = set().union(*(served.get(str(each.name), set()) for each in selectors(promql.parse(rule["expr"]))))
            assert used <= labels | OF_THE_TARGET, rule["alert"]


def test_every_alert_says_how_bad_it_is_and_what_to_do() -> None:
    assert len({rule["alert"] for rule in RULES}) == len(RULES)
    for rule in RULES:
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}
        assert {"summary", "description"} == rule["annotations"].keys()


def test_the_dashboard_is_one() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels}) == len(panels)
    variables = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    assert set(re.findall(r"\$(?!__)(\w+)", json.dumps(DASHBOARD))) == variables
    taken: set[tuple[int, int]] = set()
    for place in (panel["gridPos"] for panel in panels):
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, "panels lie on each other"
        assert place["x"] + place["w"] <= 24
        taken |= cells


def test_prometheus_scrapes_the_port_that_pods_have() -> None:
    monitor = yaml.safe_load((MONITORING / "podmonitor.yaml").read_text())["spec"]
    (endpoint,) = monitor["podMetricsEndpoints"]
    assert monitor["namespaceSelector"] == {"any": True}, "they are in many"
    deployment = yaml.safe_load((FOLDER / "base" / "deployment.yaml").read_text())["spec"]["template"]
    patch = yaml.safe_load((FOLDER / "overlays" / "sni-proxy" / "gateway-patch.yaml").read_text())["spec"]["template"]
    for template in (deployment, patch):
        assert monitor["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
        assert endpoint["port"] in {port["name"] for port in template["spec"]["containers"][0]["ports"]}
    (job,) = (each["replacement"] for each in endpoint["relabelings"] if each["targetLabel"] == "job")
    asked = {
        each.value
        for query in QUERIES
        for one in selectors(query.tree)
        for each in one.matchers.matchers
        if each.name == "job"
    }
    assert asked == {job}


def test_alerts_go_off_when_they_should_and_not_before(tmp_path: Path) -> None:
    """As Prometheus itself judges them, on series made up for each."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool (Debian: prometheus) is not installed")
    whole = {"groups": [{"name": "egressproxy", "rules": RULES}]}
    (tmp_path / "whole.yaml").write_text(yaml.safe_dump(whole))
    assert f"{len(RULES)} rules found" in run(promtool, "check", "rules", "whole.yaml", folder=tmp_path).out
    # Compared are the labels of what goes off; its words are in the way.
    bare = [{key: value for key, value in rule.items() if key != "annotations"} for rule in RULES]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "egressproxy", "rules": bare}]}))
    cases = yaml.safe_load((Path(__file__).parent / "alerts.yaml").read_text())
    assert {case["alert"] for case in cases} == {rule["alert"] for rule in RULES}, "each alert has a case"
    tests = {
        "rule_files": ["rules.yaml"],
        "evaluation_interval": "1m",
        "tests": [case_for_promtool(case) for case in cases],
    }
    (tmp_path / "tests.yaml").write_text(yaml.safe_dump(tests))
    run(promtool, "test", "rules", "tests.yaml", folder=tmp_path)


def case_for_promtool(case: dict[str, Any]) -> dict[str, Any]:
    """No alert at `quiet`, and one at `loud`."""
    (severity,) = (rule["labels"]["severity"] for rule in RULES if rule["alert"] == case["alert"])
    expected = {"exp_labels": {"severity": severity, **case.get("labels", {})}}
    return {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in case["series"].items()],
        "alert_rule_test": [
            {"eval_time": case["quiet"], "alertname": case["alert"], "exp_alerts": []},
            {"eval_time": case["loud"], "alertname": case["alert"], "exp_alerts": [expected]},
        ],
    }
