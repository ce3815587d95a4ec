import json
import re

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families
from support.leaves import LEAVES
from support.records import (
    ANSWERED,
    DENIED,
    EXCHANGE,
    LEFT,
    MISMATCH,
    NO_ANSWER,
    NO_SNI,
    NOT_FOUND,
    REQUEST_DENIED,
    SNI_DENIED,
    SNI_TUNNEL,
    TUNNEL,
)

from egressproxy.agreement import OUTCOMES
from egressproxy.errors import EchDenied, HelloError, SniMismatch
from egressproxy.telemetry import metrics as metrics_module
from egressproxy.telemetry.metrics import BOUNDS_S, MAX_CONNECTION_SERIES, SNI_REFUSALS, Metrics
from egressproxy.telemetry.record import ExchangeDraft, RecordDraft


class Resolver:
    def __init__(self, entries: int, **outcomes: int) -> None:
        self.outcomes = outcomes
        self.entries = entries


class Dialer:
    def __init__(self, attempts: int, **outcomes: int) -> None:
        self.outcomes = outcomes
        self.attempts = attempts


class Upstreams:
    def __init__(self, kept: int, handshakes: dict[str, int] | None = None, **outcomes: int) -> None:
        self.idle = kept
        self.handshakes = handshakes or {}
        self.outcomes = outcomes


class Identities:
    def __init__(self, *unverified: str, refusals: dict[str, int] | None = None, **expiries: float) -> None:
        self.unverified = unverified
        self.refusals = {} if refusals is None else refusals
        self._expiries = expiries

    def expiries(self) -> dict[str, float]:
        return self._expiries


class Relay:
    bytes_up = 100
    bytes_down = 1000


class Log:
    def __init__(self, path: str, **dropped: int) -> None:
        self.path = path
        self.dropped = dropped


def new_metrics(**options) -> Metrics:
    return Metrics(version="1.2.3", loop="uvloop", **options)


def samples(metrics: Metrics) -> dict[str, float]:
    """Every sample by its name and labels, as `name{a=b}`."""
    found = {}
    for family in text_string_to_metric_families(metrics.exposition()[0].decode()):
        assert family.documentation or family.name.endswith("_created"), family.name
        for sample in family.samples:
            labels = ",".join(f"{key}={value}" for key, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}"] = sample.value
    return found


def test_connections_are_counted_by_listener_rule_outcome_and_report():
    metrics = new_metrics()
    metrics.tunnels_open = 3
    for record in (TUNNEL, TUNNEL, TUNNEL._replace(reported=True), DENIED, LEFT):
        metrics.observe(record)
    found = samples(metrics)
    name = "egressproxy_connections_total"
    assert found[f"{name}{{listener=http-proxy:3128,outcome=closed,reported=false,rule=wiki}}"] == 2
    assert found[f"{name}{{listener=http-proxy:3128,outcome=closed,reported=true,rule=wiki}}"] == 1
    assert found[f"{name}{{listener=http-proxy:3128,outcome=rule_denied,reported=false,rule=rest}}"] == 1
    assert found[f"{name}{{listener=http-proxy:3128,outcome=client_gone,reported=false,rule=-}}"] == 1
    assert found["egressproxy_tunnels_open{}"] == 0


LATER = ANSWERED._replace(exchange=EXCHANGE._replace(request=2, reused=True))
UPGRADED = ANSWERED._replace(
    status=101, opened=True, outcome="closed", exchange=EXCHANGE._replace(request=3, upgraded=True, upstream_status=101)
)


def test_requests_are_counted_by_listener_rule_outcome_report_and_class_of_status():
    metrics = new_metrics()
    left = NO_ANSWER._replace(outcome="client_gone", status=None)
    for record in (
        ANSWERED,
        LATER,
        LATER._replace(status=404),
        LATER._replace(reported=True),
        NO_ANSWER,
        REQUEST_DENIED,
        left,
    ):
        metrics.observe(record)
    name = "egressproxy_requests_total"
    found = {key: value for key, value in samples(metrics).items() if key.startswith(name)}
    prefix = f"{name}{{listener=http-proxy:3128"
    assert found == {
        f"{prefix},outcome=answered,reported=false,rule=wiki,status=2xx}}": 2,
        f"{prefix},outcome=answered,reported=false,rule=wiki,status=4xx}}": 1,
        f"{prefix},outcome=answered,reported=true,rule=wiki,status=2xx}}": 1,
        f"{prefix},outcome=upstream_closed,reported=false,rule=wiki,status=5xx}}": 1,
        f"{prefix},outcome=rule_denied,reported=false,rule=rest,status=4xx}}": 1,
        f"{prefix},outcome=client_gone,reported=false,rule=wiki,status=-}}": 1,
    }


def test_a_connection_with_requests_counts_once_and_is_no_tunnel():
    metrics = new_metrics()
    for record in (ANSWERED, LATER, LATER):
        metrics.observe(record)
    found = samples(metrics)
    name = "egressproxy_connections_total"
    assert {key: value for key, value in found.items() if key.startswith(name)} == {
        f"{name}{{listener=http-proxy:3128,outcome=answered,reported=false,rule=wiki}}": 1
    }
    assert found["egressproxy_tunnels_open{}"] == 0
    assert found["egressproxy_tunnel_bytes_total{direction=down}"] == 0


def test_a_request_that_became_a_tunnel_is_both():
    metrics = new_metrics()
    metrics.tunnels_open = 1
    metrics.observe(UPGRADED)
    found = samples(metrics)
    assert found["egressproxy_tunnels_open{}"] == 0
    assert found["egressproxy_tunnel_bytes_total{direction=down}"] == 148528
    assert found["egressproxy_body_bytes_total{direction=down}"] == 0
    assert (
        found["egressproxy_requests_total{listener=http-proxy:3128,outcome=closed,reported=false,rule=wiki,status=1xx}"]
        == 1
    )
    assert found["egressproxy_request_seconds_count{}"] == 0  # it took as long as somebody wanted to talk
    assert found["egressproxy_response_head_seconds_count{}"] == 1


def test_requests_have_a_duration_and_a_time_to_the_head_of_the_response():
    metrics = new_metrics()
    metrics.observe(ANSWERED)
    metrics.observe(NO_ANSWER)
    found = samples(metrics)
    assert found["egressproxy_request_seconds_sum{}"] == pytest.approx(0.2285 * 2)
    assert found["egressproxy_request_seconds_bucket{le=0.25}"] == 2
    assert found["egressproxy_response_head_seconds_sum{}"] == pytest.approx(0.0902)
    assert found["egressproxy_response_head_seconds_bucket{le=0.1}"] == 1


def test_bodies_of_requests_under_way_count():
    draft = RecordDraft(1, "l", "http-proxy", "::1", 1, 0.0)
    draft.exchange = ExchangeDraft(1, "/", "a.example")
    draft.exchange.bytes_up, draft.exchange.bytes_down = 5, 60
    metrics = new_metrics(live_drafts=lambda: [draft])
    metrics.observe(ANSWERED._replace(bytes_up=3))
    found = samples(metrics)
    assert found["egressproxy_body_bytes_total{direction=up}"] == 8
    assert found["egressproxy_body_bytes_total{direction=down}"] == 148528 + 60


def test_requests_stay_bounded_whatever_the_configuration_holds(monkeypatch):
    monkeypatch.setattr(metrics_module, "MAX_CONNECTION_SERIES", 100)
    metrics = new_metrics()
    for number in (*range(150), 0):
        metrics.observe(LATER._replace(rule=f"rule-{number}"))
    found = {key: value for key, value in samples(metrics).items() if key.startswith("egressproxy_requests_total")}
    assert len(found) == 101
    labels = "{listener=http-proxy:3128,outcome=answered,reported=false,rule=other,status=2xx}"
    assert found[f"egressproxy_requests_total{labels}"] == 50


def checks(metrics: Metrics) -> dict[str, float]:
    """The samples of sni_checks_total, by their labels."""
    name = "egressproxy_sni_checks_total"
    return {key.removeprefix(name): value for key, value in samples(metrics).items() if key.startswith(name)}


def test_checks_are_counted_by_rule_finding_and_whether_the_tunnel_was_closed_for_it():
    metrics = new_metrics()
    matched = TUNNEL._replace(sni_check="match", server_name="en.wikipedia.org")
    for record in (
        matched,
        matched,
        MISMATCH,
        MISMATCH._replace(outcome="closed"),
        matched._replace(rule="other-rule"),
    ):
        metrics.observe(record)
    assert checks(metrics) == {
        "{outcome=match,refused=false,rule=wiki}": 2,
        "{outcome=match,refused=false,rule=other-rule}": 1,
        "{outcome=mismatch,refused=true,rule=wiki}": 1,
        "{outcome=mismatch,refused=false,rule=wiki}": 1,
    }


@pytest.mark.parametrize("outcome", ["closed", "client_reset", "upstream_reset", "idle_timeout", "drained", "cut"])
@pytest.mark.parametrize("found", OUTCOMES)
def test_a_tunnel_that_ended_by_itself_was_not_closed_for_what_was_found(found, outcome):
    metrics = new_metrics()
    metrics.observe(TUNNEL._replace(sni_check=found, outcome=outcome))
    assert checks(metrics) == {f"{{outcome={found},refused=false,rule=wiki}}": 1}


def test_every_error_of_a_check_counts_as_a_refusal():
    expected = {leaf.slug for leaf in LEAVES if issubclass(leaf, (HelloError, SniMismatch, EchDenied))}
    assert expected == SNI_REFUSALS


def test_what_was_not_checked_is_not_counted_among_the_checks():
    metrics = new_metrics()
    for record in (TUNNEL, SNI_TUNNEL, SNI_DENIED, SNI_DENIED._replace(outcome="ech_denied"), NO_SNI, LEFT):
        metrics.observe(record)
    assert checks(metrics) == {}


def test_the_checks_stay_bounded_whatever_the_configuration_holds(monkeypatch):
    monkeypatch.setattr(metrics_module, "MAX_CONNECTION_SERIES", 100)
    metrics = new_metrics()
    for number in (*range(150), 0):
        metrics.observe(MISMATCH._replace(rule=f"rule-{number}"))
    found = checks(metrics)
    assert len(found) == 101
    assert found["{outcome=mismatch,refused=true,rule=rule-0}"] == 2
    assert found["{outcome=mismatch,refused=true,rule=other}"] == 50


def test_bytes_of_open_tunnels_count_while_they_run():
    draft = RecordDraft(1, "l", "http-proxy", "::1", 1, 0.0)
    draft.relay = Relay()
    drafts = [draft, RecordDraft(2, "l", "http-proxy", "::1", 2, 0.0)]
    metrics = new_metrics(live_drafts=lambda: drafts)
    metrics.observe(TUNNEL)
    found = samples(metrics)
    assert found["egressproxy_tunnel_bytes_total{direction=up}"] == 702 + 100
    assert found["egressproxy_tunnel_bytes_total{direction=down}"] == 87594 + 1000
    assert found["egressproxy_connections_open{}"] == 2


def test_a_refusal_carries_no_tunnel_bytes_and_closes_no_tunnel():
    metrics = new_metrics()
    metrics.observe(DENIED)
    found = samples(metrics)
    assert found["egressproxy_tunnel_bytes_total{direction=down}"] == 0
    assert found["egressproxy_tunnels_open{}"] == 0


def test_phases_fall_into_the_bucket_whose_bound_they_do_not_exceed():
    metrics = new_metrics()
    for connect_s in (0.0, 0.0005, 0.00051, 9.0, 11.0):
        metrics.observe(TUNNEL._replace(head_s=None, resolve_s=None, connect_s=connect_s))
    found = samples(metrics)
    name = "egressproxy_setup_seconds"
    assert found[f"{name}_bucket{{le=0.0005,phase=connect}}"] == 2
    assert found[f"{name}_bucket{{le=0.001,phase=connect}}"] == 3
    assert found[f"{name}_bucket{{le=5.0,phase=connect}}"] == 3
    assert found[f"{name}_bucket{{le=10.0,phase=connect}}"] == 4
    assert found[f"{name}_bucket{{le=+Inf,phase=connect}}"] == 5
    assert found[f"{name}_count{{phase=connect}}"] == 5
    assert found[f"{name}_sum{{phase=connect}}"] == 0.0 + 0.0005 + 0.00051 + 9.0 + 11.0
    assert found[f"{name}_count{{phase=head}}"] == 0
    assert len(BOUNDS_S) + 1 == sum(key.startswith(f"{name}_bucket") for key in found) / 4


def test_the_total_is_what_lies_between_head_and_upstream():
    metrics = new_metrics()
    metrics.observe(TUNNEL._replace(head_s=100.0, resolve_s=0.25, connect_s=0.5))
    metrics.observe(NOT_FOUND)
    found = samples(metrics)
    assert found["egressproxy_setup_seconds_sum{phase=total}"] == 0.75
    assert found["egressproxy_setup_seconds_count{phase=total}"] == 1


def test_resolver_and_dialer_are_read_at_the_scrape_and_survive_a_reload():
    metrics = new_metrics()
    resolver, dialer = Resolver(2, cache=5, network=1), Dialer(4, connected=3)
    metrics.watch(resolver, dialer)
    resolver.outcomes["cache"] += 1
    metrics.watch(Resolver(1, cache=10, stale=1), Dialer(1, connected=1, connect_refused=2))
    found = samples(metrics)
    assert found["egressproxy_dns_lookups_total{outcome=cache}"] == 16
    assert found["egressproxy_dns_lookups_total{outcome=network}"] == 1
    assert found["egressproxy_dns_lookups_total{outcome=stale}"] == 1
    assert found["egressproxy_dns_cache_entries{}"] == 1
    assert found["egressproxy_dials_total{outcome=connected}"] == 4
    assert found["egressproxy_dials_total{outcome=connect_refused}"] == 2
    assert found["egressproxy_dial_attempts_total{}"] == 5


def test_what_stays_in_use_over_a_reload_is_not_counted_twice():
    metrics = new_metrics()
    resolver, dialer, upstreams = Resolver(2, cache=5), Dialer(4, connected=3), Upstreams(1, {"secured": 2}, made=3)
    for _ in range(2):
        metrics.watch(resolver, dialer, upstreams)
    found = samples(metrics)
    assert found["egressproxy_dns_lookups_total{outcome=cache}"] == 5
    assert found["egressproxy_dials_total{outcome=connected}"] == 3
    assert found["egressproxy_dial_attempts_total{}"] == 4
    assert found["egressproxy_upstream_connections_total{origin=made}"] == 3
    assert found["egressproxy_upstream_handshakes_total{outcome=secured}"] == 2


def test_upstream_connections_are_told_by_beginning_and_end():
    metrics = new_metrics()
    assert samples(metrics)["egressproxy_upstream_connections_total{origin=made}"] == 0
    before = Upstreams(7, {"secured": 1, "tls_expired": 2}, made=3, reused=10, idle=1, closed_by_upstream=1)
    metrics.watch(Resolver(0), Dialer(0), before)
    metrics.watch(Resolver(0), Dialer(0), Upstreams(2, {"secured": 1}, made=1, reused=0, idle=1, full=4))
    found = samples(metrics)
    assert {key: value for key, value in found.items() if key.startswith("egressproxy_upstream_")} == {
        "egressproxy_upstream_connections_total{origin=made}": 4,
        "egressproxy_upstream_connections_total{origin=reused}": 10,
        "egressproxy_upstream_connections_closed_total{reason=idle}": 2,
        "egressproxy_upstream_connections_closed_total{reason=closed_by_upstream}": 1,
        "egressproxy_upstream_connections_closed_total{reason=full}": 4,
        "egressproxy_upstream_connections_idle{}": 2,
        "egressproxy_upstream_handshakes_total{outcome=secured}": 2,
        "egressproxy_upstream_handshakes_total{outcome=tls_expired}": 2,
    }


def test_identities_tell_when_they_expire_what_was_refused_and_who_is_not_verified():
    metrics = new_metrics()
    metrics.watch_identities(Identities("old.example", refusals={"client": 1, "gone": 1}, old=1.0))
    refusals = {"client": 2}
    metrics.watch_identities(Identities("a.example", refusals=refusals, client=1.7e9))
    refusals["client"] += 1
    metrics.watch_identities(Identities("a.example", "*.b.example", refusals=refusals, client=1.8e9))
    found = samples(metrics)
    expiry = "egressproxy_certificate_expiry_timestamp_seconds"
    assert {key: value for key, value in found.items() if key.startswith(expiry)} == {
        f"{expiry}{{identity=client}}": 1.8e9
    }
    assert found["egressproxy_credentials_refused_total{identity=client}"] == 4
    assert found["egressproxy_credentials_refused_total{identity=gone}"] == 1
    assert found["egressproxy_upstream_unverified{service=a.example}"] == 1
    assert found["egressproxy_upstream_unverified{service=*.b.example}"] == 1
    assert "egressproxy_upstream_unverified{service=old.example}" not in found


def test_dropped_lines_are_told_by_log_and_reason_and_survive_a_reload():
    metrics = new_metrics()
    first, second = Log("-", buffer_full=2, no_space=0), Log("/var/log/access.log", no_space=7)
    metrics.watch_logs([first, second])
    metrics.watch_logs([Log("-", buffer_full=1, no_space=0)])
    found = samples(metrics)
    assert found["egressproxy_log_lines_dropped_total{log=-,reason=buffer_full}"] == 3
    assert found["egressproxy_log_lines_dropped_total{log=-,reason=no_space}"] == 0
    assert found["egressproxy_log_lines_dropped_total{log=/var/log/access.log,reason=no_space}"] == 7


def test_a_refused_reload_shows_until_one_succeeds():
    metrics = new_metrics()
    metrics.config_loaded(1, 1600000000.0)
    metrics.reload_failed()
    found = samples(metrics)
    assert found["egressproxy_config_generation{}"] == 1
    assert found["egressproxy_config_loaded_timestamp_seconds{}"] == 1600000000.0
    assert found["egressproxy_config_last_reload_successful{}"] == 0
    assert found["egressproxy_config_reload_failures_total{}"] == 1
    metrics.config_loaded(2, 1600000100.0)
    found = samples(metrics)
    assert found["egressproxy_config_last_reload_successful{}"] == 1
    assert found["egressproxy_config_reload_failures_total{}"] == 1


def test_the_build_and_the_process_are_told():
    found = samples(new_metrics())
    assert any(
        key.startswith("egressproxy_build_info{") and "version=1.2.3" in key and "loop=uvloop" in key for key in found
    )
    assert found["process_open_fds{}"] > 2
    assert found["process_resident_memory_bytes{}"] > 1_000_000


def test_both_formats_parse_and_the_client_chooses():
    metrics = new_metrics()
    metrics.observe(TUNNEL)
    metrics.observe(MISMATCH)
    plain, plain_type = metrics.exposition("text/plain")
    opened, opened_type = metrics.exposition("application/openmetrics-text; version=1.0.0")
    assert plain_type.startswith("text/plain")
    assert opened_type.startswith("application/openmetrics-text")
    names = {family.name for family in parse_openmetrics(opened.decode())}
    assert {"egressproxy_connections", "egressproxy_setup_seconds", "egressproxy_build"} <= names
    assert "egressproxy_sni_checks" in names
    assert b"egressproxy_connections_total{" in plain


def test_names_follow_the_conventions():
    for family in text_string_to_metric_families(new_metrics().exposition()[0].decode()):
        assert re.fullmatch(r"(egressproxy|process)_[a-z0-9_]+", family.name), family.name
        assert not family.name.endswith(("_ms", "_milliseconds"))


def test_series_stay_bounded_whatever_the_configuration_holds():
    metrics = new_metrics()
    for number in range(MAX_CONNECTION_SERIES + 50):
        metrics.observe(DENIED._replace(rule=f"rule-{number}"))
    found = {key: value for key, value in samples(metrics).items() if key.startswith("egressproxy_connections_total")}
    assert len(found) == MAX_CONNECTION_SERIES + 1
    assert (
        found["egressproxy_connections_total{listener=http-proxy:3128,outcome=rule_denied,reported=false,rule=other}"]
        == 50
    )


def test_nothing_a_client_sent_is_a_label():
    metrics = new_metrics()
    metrics.observe(TUNNEL._replace(method="EVIL", target_text="evil", detail="evil", client="evil", user="evil"))
    metrics.observe(MISMATCH._replace(server_name="evil.example"))
    evil = EXCHANGE._replace(path="/evil", authority="evil", user_agent="evil", request_id="evil", content_type="evil")
    metrics.observe(ANSWERED._replace(exchange=evil))
    text = metrics.exposition()[0].decode().lower()
    assert "evil" not in text
    assert "wikipedia" not in text
    assert json.dumps(TUNNEL.client) not in text


# --- as others call it --------------------------------------------------------------------------------------------


def test_the_sni_check_is_told_in_the_words_of_istio_s_filter():
    metrics = new_metrics()
    for outcome in ("match", "match", "mismatch", "no_sni", "not_tls", "malformed", "ech", "timeout"):
        metrics.observe(TUNNEL._replace(sni_check=outcome))
    metrics.observe(TUNNEL._replace(sni_check="malformed", outcome="hello_too_large"))
    assert metrics.sni_verifier() == {
        "client_hello_too_large": 1,
        "inner_sni_found": 4,
        "inner_sni_not_found": 1,
        "snis_do_not_match": 1,
        "tls_found": 5,
        "tls_not_found": 2,
    }


def test_connections_are_summed_by_listener():
    metrics = new_metrics()
    for record in (TUNNEL, DENIED, NO_SNI):
        metrics.observe(record)
    assert metrics.connections_by_listener() == {"http-proxy:3128": 2, "sni:8443": 1}


def test_clusters_are_counted_only_where_that_is_asked_for():
    metrics = new_metrics()
    metrics.observe(TUNNEL)
    assert list(metrics.clusters.entries(())) == []
    metrics.counts_clusters = True
    metrics.observe(TUNNEL)
    ((cluster, endpoint, counts),) = metrics.clusters.entries(())
    assert (cluster, endpoint, counts.cx_total) == ("outbound|443||en.wikipedia.org", "91.198.174.192:443", 1)
