import time

import pytest
from support.records import (
    ANSWERED,
    DENIED,
    EXCHANGE,
    NO_ANSWER,
    NOT_FOUND,
    REFUSED,
    REQUEST_DENIED,
    SNI_DENIED,
    SNI_TUNNEL,
    TUNNEL,
    UNREAD,
)

from egressproxy.config.schema.config import Config
from egressproxy.model import Endpoint, Intent, Target, Verdict
from egressproxy.telemetry import clusters as clusters_module
from egressproxy.telemetry.clusters import (
    ClusterCounts,
    Table,
    cluster_of,
    counts_clusters,
    known_clusters,
)
from egressproxy.telemetry.record import ExchangeDraft, RecordDraft

WIKI = "outbound|443||en.wikipedia.org::91.198.174.192:443"
CNN = "outbound|80||edition.cnn.com::151.101.1.67:80"


def counted(*records, drafts=()):
    """The lines of both pages that are not 0, after these connections."""
    counts = ClusterCounts()
    for record in records:
        counts.count(record)
    table = Table()
    for entry in counts.entries(drafts):
        table.add(*entry)
    lines = [*table.cluster_lines(), *table.stats_lines()]
    return {name: value for name, value in lines if value}


def stats(name, **expected):
    return {f"cluster.{name}.{key}": value for key, value in expected.items()}


# --- names --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("record", "cluster"),
    [
        (TUNNEL, "outbound|443||en.wikipedia.org"),
        (TUNNEL._replace(service="*.wikipedia.org", service_port=443), "outbound|443||*.wikipedia.org"),
        (TUNNEL._replace(service="outbound|443|v1|wiki", service_port=8443), "outbound|443|v1|wiki"),
        (TUNNEL._replace(rule="outbound"), "PassthroughCluster"),
        (TUNNEL._replace(rule="outbound", service="wiki", service_port=443), "outbound|443||wiki"),
        # the port of the target, where the upstream is another proxy
        (TUNNEL._replace(parent="corp", upstream=Endpoint("10.0.0.9", 3129)), "outbound|443||en.wikipedia.org"),
        (ANSWERED._replace(upstream=Endpoint("151.101.1.67", 443)), "outbound|443||edition.cnn.com"),
        (SNI_DENIED._replace(rule="outbound", dialled=("192.0.2.1", 443)), "BlackHoleCluster"),
        (DENIED._replace(protocol="tcp", rule="outbound", dialled=("192.0.2.1", 22)), "BlackHoleCluster"),
        # not captured: a gateway chooses none; and a request is answered without one
        (SNI_DENIED._replace(rule="outbound"), None),
        (REQUEST_DENIED._replace(rule="outbound", dialled=("192.0.2.1", 80)), None),
        (UNREAD, None),
    ],
)
def test_a_cluster_is_called_as_in_istio_s_logs(record, cluster):
    assert cluster_of(record) == cluster


# --- counts -------------------------------------------------------------------------------------------------------


def test_a_tunnel_is_a_connection_with_its_bytes_and_its_time():
    assert counted(TUNNEL, TUNNEL) == {
        f"{WIKI}::cx_total": 2,
        **stats(
            "outbound|443||en.wikipedia.org",
            upstream_cx_length_ms_sum=round(2 * TUNNEL.duration_s * 1000),
            upstream_cx_total=2,
            upstream_cx_tx_bytes_total=1404,
            upstream_cx_rx_bytes_total=175188,
        ),
    }


def test_endpoints_of_a_cluster_are_told_apart_and_summed():
    other = SNI_TUNNEL._replace(upstream=Endpoint("2620:0:862:ed1a::1", 443))
    found = counted(TUNNEL, other)
    assert found[f"{WIKI}::cx_total"] == 1
    assert found["outbound|443||en.wikipedia.org::[2620:0:862:ed1a::1]:443::cx_total"] == 1
    assert found["cluster.outbound|443||en.wikipedia.org.upstream_cx_total"] == 2


def test_a_connection_that_fails_counts_as_one_and_as_failed():
    assert counted(REFUSED) == {
        f"{WIKI}::cx_connect_fail": 1,
        f"{WIKI}::cx_total": 1,
        **stats("outbound|443||en.wikipedia.org", upstream_cx_connect_fail=1, upstream_cx_total=1),
    }


def test_requests_on_one_connection_count_it_once():
    again = ANSWERED._replace(exchange=EXCHANGE._replace(request=2, reused=True))
    assert counted(
        ANSWERED, again, again._replace(status=404, exchange=again.exchange._replace(upstream_status=404))
    ) == {
        f"{CNN}::cx_total": 1,
        f"{CNN}::rq_success": 3,
        f"{CNN}::rq_total": 3,
        **stats(
            "outbound|80||edition.cnn.com",
            upstream_cx_total=1,
            upstream_cx_rx_bytes_total=3 * 148528,
            upstream_rq_time_sum=round(3 * ANSWERED.duration_s * 1000),
            upstream_rq_total=3,
            upstream_rq_2xx=2,
            upstream_rq_4xx=1,
            upstream_rq_200=2,
            upstream_rq_404=1,
        ),
    }


def test_a_request_without_an_answer_is_an_error_and_what_the_client_heard_is_counted():
    late = NO_ANSWER._replace(outcome="upstream_timeout", status=504)
    failed = ANSWERED._replace(status=503, exchange=EXCHANGE._replace(upstream_status=503))
    found = counted(NO_ANSWER, late, failed)
    assert (found[f"{CNN}::rq_total"], found[f"{CNN}::rq_error"], found[f"{CNN}::rq_timeout"]) == (3, 3, 1)
    for statistic, value in (("timeout", 1), ("502", 1), ("503", 1), ("504", 1), ("5xx", 3)):
        assert found[f"cluster.outbound|80||edition.cnn.com.upstream_rq_{statistic}"] == value


def test_a_request_whose_connection_fails_was_never_sent():
    failed = NO_ANSWER._replace(
        outcome="connect_refused", status=503, connected=False, exchange=NO_ANSWER.exchange._replace(attempts=0)
    )
    found = counted(failed)
    assert f"{CNN}::rq_total" not in found
    assert (found[f"{CNN}::cx_connect_fail"], found[f"{CNN}::cx_total"]) == (1, 1)
    assert found["cluster.outbound|80||edition.cnn.com.upstream_rq_503"] == 1


def test_what_has_no_address_is_counted_by_its_service_only():
    service = {"service": "wiki", "service_port": 443}
    assert counted(NOT_FOUND._replace(**service)) == stats("outbound|443||wiki", upstream_cx_none_healthy=1)
    assert counted(NOT_FOUND._replace(rule="outbound")) == stats("PassthroughCluster", upstream_cx_none_healthy=1)
    assert counted(NOT_FOUND) == {}, "names that a rule lets pass and nobody has are without number"


def test_refusals_are_counted_where_they_have_a_cluster_and_only_there():
    captured = SNI_DENIED._replace(rule="outbound", dialled=("192.0.2.1", 443))
    assert counted(captured, captured) == stats("BlackHoleCluster", upstream_cx_none_healthy=2)
    names = [SNI_DENIED, DENIED, REQUEST_DENIED, REQUEST_DENIED._replace(rule="outbound"), UNREAD]
    assert counted(*names) == {}


def test_entries_are_bounded_and_what_is_beyond_them_is_still_counted(monkeypatch):
    monkeypatch.setattr(clusters_module, "MAX_ENTRIES", 3)
    tunnels = [TUNNEL._replace(target=Target(f"{name}.example", 443, False)) for name in "abcdef"]
    found = counted(*tunnels, *tunnels)
    kept = {name for name in found if name.endswith("::cx_total")}
    assert len(kept) == 3
    assert found["cluster.other.upstream_cx_total"] == 6
    assert sum(value for name, value in found.items() if name.endswith(".upstream_cx_total")) == 12


def test_kinds_of_answers_are_bounded_and_all_are_counted():
    """An origin chooses its status itself."""
    answers = [
        ANSWERED._replace(status=status, exchange=EXCHANGE._replace(upstream_status=status, reused=True))
        for status in range(200, 200 + clusters_module.MAX_KINDS + 50)
    ]
    found = counted(*answers, *answers)
    assert found[f"{CNN}::rq_total"] == 2 * len(answers)
    assert sum("upstream_rq_" in name and name[-3:].isdigit() for name in found) == clusters_module.MAX_KINDS


# --- what is open -------------------------------------------------------------------------------------------------


class Relay:
    bytes_up = 7
    bytes_down = 9


def draft(method="CONNECT", host="en.wikipedia.org", port=443):
    one = RecordDraft(1, "l", "http-proxy", "10.1.2.3", 50000, time.monotonic())
    one.intent = Intent("10.1.2.3", "l", method, Target(host, port, False))
    one.verdict = Verdict(True, "wiki", "allowed by rule wiki")
    one.upstream = Endpoint("91.198.174.192", port)
    return one


def test_an_open_tunnel_is_active_and_counted_already():
    tunnel = draft()
    tunnel.relay = Relay()
    found = counted(TUNNEL, drafts=[tunnel])
    assert (found[f"{WIKI}::cx_active"], found[f"{WIKI}::cx_total"]) == (1, 2)
    assert found["cluster.outbound|443||en.wikipedia.org.upstream_cx_tx_bytes_total"] == 702 + 7
    assert found["cluster.outbound|443||en.wikipedia.org.upstream_cx_rx_bytes_total"] == 87594 + 9


def test_a_request_under_way_is_active_and_its_kept_connection_is_not_counted_again():
    request = draft("GET", port=80)
    request.exchange = ExchangeDraft(2, "/", "en.wikipedia.org")
    request.exchange.reused = True
    found = counted(drafts=[request])
    name = "outbound|80||en.wikipedia.org::91.198.174.192:80"
    assert found[f"{name}::rq_active"] == found[f"{name}::rq_total"] == found[f"{name}::cx_active"] == 1
    assert f"{name}::cx_total" not in found


def test_who_has_no_upstream_yet_is_not_counted():
    waiting = draft()
    waiting.upstream = None
    assert counted(drafts=[waiting, RecordDraft(2, "l", "sni", "10.1.2.3", 1, 0.0)]) == {}


# --- what is known ------------------------------------------------------------------------------------------------

L = {"listeners": [{"protocol": "http-proxy", "port": 3128}]}


def test_what_is_registered_is_known_before_anything_was_sent_to_it():
    services = [
        {"hosts": ["a.example"], "ports": [{"number": 80, "target_port": 443}], "tls": {"mode": "simple"}},
        {
            "name": "outbound|8000|v1|b",
            "resolution": "static",
            "endpoints": [{"address": "10.0.0.1"}, {"address": "fd00::1", "port": 81}],
            "ports": [{"number": 8000}],
        },
        {"hosts": ["c.example"], "ports": [{"number": 443}], "endpoints": [{"address": "d.example"}]},
    ]
    config = Config.model_validate({**L, "services": services, "outbound": "allow_any"})
    assert list(known_clusters(config)) == [
        ("BlackHoleCluster", None),
        ("PassthroughCluster", None),
        ("outbound|80||a.example", None),
        ("outbound|443||a.example", None),
        ("outbound|8000|v1|b", None),
        ("outbound|8000|v1|b", "10.0.0.1:8000"),
        ("outbound|8000|v1|b", "[fd00::1]:81"),
        ("outbound|443||c.example", None),
    ]


def test_what_is_known_stands_on_the_pages_with_zeros():
    table = Table()
    table.know("outbound|443||a.example", None)
    table.know("outbound|443||a.example", "10.0.0.1:443")
    assert ("outbound|443||a.example::10.0.0.1:443::cx_total", 0) in list(table.cluster_lines())
    assert ("cluster.outbound|443||a.example.upstream_cx_total", 0) in list(table.stats_lines())


@pytest.mark.parametrize(
    ("settings", "counts"),
    [
        ({}, False),
        ({"allow": ["a.example:443"]}, False),
        ({"outbound": "allow_any"}, True),
        ({"services": [{"hosts": ["a.example"], "ports": [{"number": 443}]}]}, True),
        ({"routes": [{"refuse": "not_found"}]}, True),
    ],
)
def test_clusters_are_counted_where_there_are_any(settings, counts):
    assert counts_clusters(Config.model_validate({**L, **settings})) is counts
