import pytest
from support.leaves import LEAVES
from support.records import ANSWERED, LEFT, SNI_DENIED, SNI_TUNNEL, TUNNEL

from egressproxy.errors import UpstreamTlsError
from egressproxy.telemetry.formats.causes import CAUSES, TLS_REASONS, flags_and_details, long_flags

# Seven years of Envoy have these; the others are HTTP only.
FLAGS_OF_TCP = {"UH", "UF", "UO", "NR", "URX", "NC", "DT"}
RELAY_ENDS = {
    "closed",
    "client_reset",
    "upstream_reset",
    "idle_timeout",
    "half_close_timeout",
    "drained",
    "cut",
}


def flags_in(text: str) -> set[str]:
    return set(text.split(",")) - {"-"}


def test_every_outcome_has_its_words():
    assert set(CAUSES) == {leaf.slug for leaf in LEAVES} | RELAY_ENDS


@pytest.mark.parametrize("outcome", CAUSES)
def test_the_words_are_envoy_s(outcome):
    cause = CAUSES[outcome]
    assert flags_in(cause.tcp_flags) <= FLAGS_OF_TCP
    assert " " not in cause.details
    for flag in flags_in(cause.flags) | flags_in(cause.tcp_flags):
        assert long_flags(flag) != flag, "it has a long name"


def test_every_failure_of_tls_but_time_has_a_reason():
    failures = {leaf.slug for leaf in LEAVES if issubclass(leaf, UpstreamTlsError)}
    assert failures == set(TLS_REASONS) | {"tls_timeout", "tls_failed"}


@pytest.mark.parametrize("outcome", ["not_tls", "sni_mismatch", "ech_denied", "no_sni", "hello_timeout"])
def test_a_tunnel_that_was_closed_for_what_is_inside_was_answered_before(outcome):
    said = flags_and_details(TUNNEL._replace(outcome=outcome, sni_check="mismatch"), is_http=True)
    assert said == ("-", "via_upstream", "rbac_access_denied_matched_policy[wiki]")


@pytest.mark.parametrize(
    ("outcome", "flags"),
    [("closed", "-"), ("client_reset", "DC"), ("upstream_reset", "UC"), ("idle_timeout", "SI"), ("drained", "-")],
)
def test_how_a_tunnel_ended_shows_in_its_flags(outcome, flags):
    assert flags_and_details(TUNNEL._replace(outcome=outcome), is_http=True) == (flags, "via_upstream", "-")


def test_a_relay_has_no_code_and_so_no_details_of_one():
    for outcome in CAUSES:
        assert flags_and_details(SNI_TUNNEL._replace(outcome=outcome), is_http=False)[1] == "-"


def test_refused_by_a_rule_or_by_the_default_is_not_the_same():
    by_default = SNI_DENIED._replace(rule="outbound")
    assert flags_and_details(by_default, is_http=False) == ("UH", "-", "-")
    assert flags_and_details(SNI_DENIED, is_http=False) == ("-", "-", "rbac_access_denied_matched_policy[rest]")
    assert flags_and_details(by_default, is_http=True) == ("-", "direct_response", "-")
    assert flags_and_details(SNI_DENIED, is_http=True) == ("-", "rbac_access_denied_matched_policy[rest]", "-")


def test_what_came_behind_the_upstream_s_head_is_told_apart():
    assert flags_and_details(ANSWERED._replace(outcome="upstream_timeout"), is_http=True) == (
        "UT",
        "response_timeout",
        "-",
    )
    assert flags_and_details(ANSWERED._replace(outcome="cut"), is_http=True) == ("LR", "via_upstream", "-")
    assert flags_and_details(ANSWERED._replace(outcome="upstream_protocol_error"), is_http=True) == (
        "UPE",
        "upstream_reset_after_response_started{protocol_error}",
        "-",
    )


def test_an_outcome_that_is_not_in_the_table_is_a_dash():
    assert flags_and_details(LEFT._replace(outcome="?"), is_http=True) == ("-", "-", "-")
