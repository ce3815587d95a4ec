import pytest
from support.leaves import LEAVES
from support.records import ANSWERED, EXCHANGE, GARBAGE, LEFT, NO_ANSWER, NO_SNI, SNI_DENIED, SNI_TUNNEL, TUNNEL

from egressproxy.errors import UpstreamTlsError
from egressproxy.telemetry.formats.causes import CAUSES, OLD_CAUSES, TLS_REASONS, long_flags, words_of
from egressproxy.wire.request_head import MISSING_HOST

# Seven years of Envoy have these; the others were HTTP only, until UR came.
FLAGS_OF_TCP = {"UH", "UF", "UO", "NR", "URX", "NC", "DT"}
UPGRADED = ANSWERED._replace(
    status=101, opened=True, outcome="closed", exchange=EXCHANGE._replace(upgraded=True, upstream_status=101)
)
RELAY_ENDS = {
    "closed",
    "client_reset",
    "upstream_reset",
    "idle_timeout",
    "half_close_timeout",
    "lifetime",
    "drained",
    "cut",
    "policy_changed",
}


def told(record, *, is_http=True, old=False):
    """Flags, details and termination."""
    return words_of(record, is_http=is_http, old=old)[:3]


def flags_in(text: str) -> set[str]:
    return set(text.split(",")) - {"-"}


def test_every_outcome_has_its_words():
    assert set(CAUSES) == {leaf.slug for leaf in LEAVES} | RELAY_ENDS | {"answered"}


@pytest.mark.parametrize("causes", [CAUSES, OLD_CAUSES])
@pytest.mark.parametrize("outcome", CAUSES)
def test_the_words_are_envoy_s(outcome, causes):
    cause = causes[outcome]
    assert flags_in(cause.tcp_flags) <= FLAGS_OF_TCP | ({"UR"} if causes is CAUSES else set())
    assert " " not in cause.details
    late = ("-", "-") if cause.late is None else cause.late
    assert " " not in late[1]
    for flag in flags_in(cause.flags) | flags_in(cause.tcp_flags) | flags_in(late[0]):
        assert long_flags(flag) != flag, "it has a long name"


def test_every_failure_of_tls_but_time_has_a_reason():
    failures = {leaf.slug for leaf in LEAVES if issubclass(leaf, UpstreamTlsError)}
    assert failures == set(TLS_REASONS) | {"tls_timeout", "tls_failed", "credential_missing"}


@pytest.mark.parametrize("outcome", ["not_tls", "sni_mismatch", "ech_denied", "no_sni", "hello_timeout"])
def test_a_tunnel_that_was_closed_for_what_is_inside_was_answered_before(outcome):
    said = told(TUNNEL._replace(outcome=outcome, sni_check="mismatch"))
    assert said == ("-", "via_upstream", "rbac_access_denied_matched_policy[wiki]")


@pytest.mark.parametrize(
    ("outcome", "flags", "details"),
    [
        ("closed", "-", "via_upstream"),
        ("client_reset", "DC", "downstream_remote_disconnect"),
        ("upstream_reset", "UC", "via_upstream"),
        ("idle_timeout", "SI", "via_upstream"),
        ("drained", "-", "via_upstream"),
    ],
)
def test_how_a_tunnel_ended_shows_in_its_flags(outcome, flags, details):
    assert told(TUNNEL._replace(outcome=outcome)) == (flags, details, "-")


def test_a_client_that_is_the_first_to_end_what_a_101_began_has_left():
    assert told(UPGRADED._replace(closed_by="client")) == ("DC", "downstream_remote_disconnect", "-")
    assert told(UPGRADED._replace(closed_by="upstream")) == ("-", "via_upstream", "-")
    assert told(TUNNEL._replace(closed_by="client")) == ("-", "via_upstream", "-"), "that is how a CONNECT ends"


@pytest.mark.parametrize(
    ("outcome", "flags", "flags_before"),
    [
        ("closed", "-", "-"),
        ("client_reset", "-", "-"),
        ("upstream_reset", "UR", "-"),
        ("idle_timeout", "-", "-"),
        ("half_close_timeout", "-", "-"),
        ("cut", "-", "-"),
    ],
)
def test_how_a_relay_ended_shows_where_the_upstream_reset_it(outcome, flags, flags_before):
    relay = SNI_TUNNEL._replace(outcome=outcome)
    assert told(relay, is_http=False) == (flags, "-", "-")
    assert told(relay, is_http=False, old=True) == (flags_before, "-", "-")


def test_a_relay_has_no_code_and_so_no_details_of_one_but_where_no_filter_chain_took_it():
    for outcome in CAUSES:
        flags, details, _ = told(SNI_TUNNEL._replace(outcome=outcome), is_http=False)
        assert details == ("filter_chain_not_found" if flags == "NR" else "-")


def test_tls_without_a_known_name_finds_no_filter_chain_on_a_gateway():
    by_default = SNI_DENIED._replace(rule="outbound")
    for record in (NO_SNI, NO_SNI._replace(outcome="not_tls"), by_default):
        assert told(record, is_http=False) == ("NR", "filter_chain_not_found", "-")
    captured = by_default._replace(dialled=("91.198.174.192", 443))
    assert told(captured, is_http=False) == ("UH", "-", "-")


def test_refused_by_a_rule_or_by_the_default_is_not_the_same():
    by_default = SNI_DENIED._replace(rule="outbound")
    assert told(SNI_DENIED, is_http=False) == ("-", "-", "rbac_access_denied_matched_policy[rest]")
    assert told(by_default) == ("-", "direct_response", "-")
    assert told(SNI_DENIED) == ("-", "rbac_access_denied_matched_policy[rest]", "-")


@pytest.mark.parametrize(
    ("outcome", "flags", "details"),
    [
        ("upstream_timeout", "UT", "response_timeout"),
        ("upstream_idle_timeout", "SI", "stream_idle_timeout"),
        ("cut", "LR", "via_upstream"),
        ("client_gone", "DC", "downstream_remote_disconnect"),
        ("upstream_protocol_error", "UPE", "upstream_reset_after_response_started{protocol_error}"),
        ("upstream_closed", "UPE", "upstream_reset_after_response_started{protocol_error}"),
    ],
)
def test_what_came_behind_the_upstream_s_head_is_told_apart(outcome, flags, details):
    assert told(ANSWERED._replace(outcome=outcome)) == (flags, details, "-")


def test_older_envoys_called_a_body_that_was_cut_a_connection_that_was_closed():
    cut = ANSWERED._replace(outcome="upstream_closed")
    assert told(cut, old=True) == ("UC", "upstream_reset_after_response_started{connection_termination}", "-")


REFUSED_REASON = "delayed_connect_error:_Connection_refused"
UNTRUSTED = (
    "TLS_error:|268435581:SSL_routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED:verify_cert_failed:_X509_verify_cert:"
    "TLS_error_end"
)
OLD_UNTRUSTED = "TLS error: 268435581:SSL routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED"


@pytest.mark.parametrize(
    ("outcome", "inside", "reason", "old_inside", "old_reason"),
    [
        (
            "connect_refused",
            f"remote_connection_failure|{REFUSED_REASON}",
            REFUSED_REASON,
            "connection_failure",
            "-",
        ),
        ("connect_failed", "remote_connection_failure", "-", "connection_failure", "-"),
        ("connect_timeout", "connection_timeout", "-", "connection_timeout", "-"),
        ("tls_timeout", "connection_timeout", "-", "connection_timeout", "-"),
        (
            "tls_unknown_ca",
            f"remote_connection_failure|{UNTRUSTED}",
            UNTRUSTED,
            f"connection_failure,{OLD_UNTRUSTED.replace(' ', '_')}",
            OLD_UNTRUSTED,
        ),
    ],
)
def test_an_upstream_that_was_not_reached_is_uf_alone_where_nothing_is_retried(
    outcome, inside, reason, old_inside, old_reason
):
    record = NO_ANSWER._replace(outcome=outcome, status=503)
    before = "upstream_reset_before_response_started"
    assert words_of(record, is_http=True) == ("UF", f"{before}{{{inside}}}", "-", reason)
    assert words_of(record, is_http=True, old=True) == ("UF", f"{before}{{{old_inside}}}", "-", old_reason)
    assert words_of(record, is_http=False) == ("UF,URX", "-", "-", reason)
    assert words_of(record, is_http=False, old=True) == ("UF,URX", "-", "-", old_reason)


def test_a_request_without_a_host_is_not_called_a_broken_protocol():
    assert told(GARBAGE._replace(detail=MISSING_HOST)) == ("-", "missing_host_header", "-")
    assert told(GARBAGE) == ("DPE", "http1.codec_error", "-")


def test_an_outcome_that_is_not_in_the_table_is_a_dash():
    assert told(LEFT._replace(outcome="?")) == ("-", "-", "-")
