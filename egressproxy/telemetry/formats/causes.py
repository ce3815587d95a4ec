"""How Envoy calls what became of a connection or request: one table, from our outcomes to its response flags and details.

The flags are those of Envoy's documentation (access logging, `%RESPONSE_FLAGS%`), the details its `response code details`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from egressproxy.errors import EchDenied, RuleDenied, SniMismatch
from egressproxy.model import OUTBOUND

if TYPE_CHECKING:
    from egressproxy.model import ConnectionRecord


class Cause(NamedTuple):
    """What Envoy writes of one outcome.

    flags      %RESPONSE_FLAGS% of a request
    details    %RESPONSE_CODE_DETAILS% of a request
    tcp_flags  %RESPONSE_FLAGS% of a relay: of TCP, Envoy has few
    """

    flags: str
    details: str
    tcp_flags: str


NOTHING = "-"
VIA_UPSTREAM = "via_upstream"
DIRECT = "direct_response"
_BEFORE = "upstream_reset_before_response_started{{{}}}"
_RBAC = "rbac_access_denied_matched_policy[{}]"
_IDLE = "tcp_session_idle_timeout"

_TLS_FAILED = Cause("UF", _BEFORE.format("connection_failure"), "UF,URX")

CAUSES = {
    # the client
    "malformed_request": Cause("DPE", "http1.codec_error", NOTHING),
    "malformed_target": Cause("DPE", "http1.invalid_url", NOTHING),
    "head_too_large": Cause("DPE", "http1.headers_too_large", NOTHING),
    "target_too_long": Cause("DPE", "http1.headers_too_large", NOTHING),
    "head_timeout": Cause(NOTHING, "request_header_timeout", "DT"),
    "method_not_implemented": Cause("NR", "route_not_found", NOTHING),
    "body_timeout": Cause("SI", "stream_idle_timeout", NOTHING),
    "body_too_large": Cause(NOTHING, "request_payload_too_large", NOTHING),
    "client_gone": Cause("DC", "downstream_remote_disconnect", NOTHING),
    "client_tls_failed": Cause(NOTHING, NOTHING, NOTHING),
    "malformed_proxy_header": Cause(NOTHING, NOTHING, NOTHING),
    # TLS that names no server, or not so that it can be read: no filter chain matches
    "not_tls": Cause("NR", "filter_chain_not_found", "NR"),
    "malformed_hello": Cause("NR", "filter_chain_not_found", "NR"),
    "hello_too_large": Cause("NR", "filter_chain_not_found", "NR"),
    "no_sni": Cause("NR", "filter_chain_not_found", "NR"),
    "hello_timeout": Cause("DT", NOTHING, "DT"),
    # policy; see `cause_of`
    "rule_denied": Cause(NOTHING, DIRECT, "UH"),
    "address_denied": Cause(NOTHING, _RBAC.format("address_guard"), NOTHING),
    "loop_detected": Cause(NOTHING, DIRECT, NOTHING),
    "sni_mismatch": Cause(NOTHING, DIRECT, NOTHING),
    "ech_denied": Cause(NOTHING, DIRECT, NOTHING),
    "announcer_denied": Cause(NOTHING, NOTHING, NOTHING),
    # upstream
    "name_not_found": Cause("UH", "no_healthy_upstream", "UH"),
    "resolver_failed": Cause("UH", "no_healthy_upstream", "UH"),
    "resolver_timeout": Cause("UH", "no_healthy_upstream", "UH"),
    "no_endpoint": Cause("UH", "no_healthy_upstream", "UH"),
    "connect_refused": Cause("UF", _BEFORE.format("connection_failure"), "UF,URX"),
    "connect_failed": Cause("UF", _BEFORE.format("connection_failure"), "UF,URX"),
    "connect_timeout": Cause("UF", _BEFORE.format("connection_timeout"), "UF,URX"),
    "tls_failed": _TLS_FAILED,
    "tls_certificate_expired": _TLS_FAILED,
    "tls_wrong_host": _TLS_FAILED,
    "tls_unknown_ca": _TLS_FAILED,
    "tls_client_certificate_required": _TLS_FAILED,
    "tls_version": _TLS_FAILED,
    "tls_timeout": Cause("UF", _BEFORE.format("connection_timeout"), "UF,URX"),
    "credential_missing": _TLS_FAILED,
    "upstream_protocol_error": Cause("UPE", _BEFORE.format("protocol_error"), NOTHING),
    "upstream_closed": Cause("UC", _BEFORE.format("connection_termination"), NOTHING),
    "upstream_timeout": Cause("UT", "response_timeout", NOTHING),
    "upstream_idle_timeout": Cause("SI", "stream_idle_timeout", NOTHING),
    # the proxy itself
    "tunnel_limit": Cause("UO", _BEFORE.format("overflow"), "UO"),
    "out_of_descriptors": Cause("UO", _BEFORE.format("overflow"), "UO"),
    "draining": Cause("LR", DIRECT, NOTHING),
    "internal_error": Cause("LR", DIRECT, NOTHING),
    # how a relay ended
    "closed": Cause(NOTHING, VIA_UPSTREAM, NOTHING),
    "client_reset": Cause("DC", VIA_UPSTREAM, NOTHING),
    "upstream_reset": Cause("UC", VIA_UPSTREAM, NOTHING),
    "idle_timeout": Cause("SI", VIA_UPSTREAM, "DT"),
    "half_close_timeout": Cause("SI", VIA_UPSTREAM, "DT"),
    "drained": Cause(NOTHING, VIA_UPSTREAM, NOTHING),
    "cut": Cause("LR", VIA_UPSTREAM, NOTHING),
}
"""By outcome. URX behind another flag says that there was no other attempt."""

_UNKNOWN = Cause(NOTHING, NOTHING, NOTHING)
_BY_POLICY = frozenset({RuleDenied.slug, SniMismatch.slug, EchDenied.slug})
_HELLOS = frozenset({"not_tls", "malformed_hello", "hello_too_large", "no_sni", "hello_timeout"})
_CLOSED_FOR_IDLENESS = frozenset({"idle_timeout", "half_close_timeout"})

TLS_REASONS = {
    "tls_certificate_expired": "268435581:SSL routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED",
    "tls_wrong_host": "268435581:SSL routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED",
    "tls_unknown_ca": "268435581:SSL routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED",
    "tls_client_certificate_required": "268436572:SSL routines:OPENSSL_internal:TLSV1_CERTIFICATE_REQUIRED",
    "tls_version": "268436526:SSL routines:OPENSSL_internal:TLSV1_ALERT_PROTOCOL_VERSION",
    "credential_missing": "Secret is not supplied by SDS",
}
"""%UPSTREAM_TRANSPORT_FAILURE_REASON% behind `TLS error: `, in the words of Envoy's TLS library (number: 0x10000000 plus the
reason), by outcome. Other failures of TLS are told in our own."""

_LONG = {
    "DC": "DownstreamConnectionTermination",
    "DPE": "DownstreamProtocolError",
    "DT": "DurationTimeout",
    "LR": "LocalReset",
    "NR": "NoRouteFound",
    "SI": "StreamIdleTimeout",
    "UC": "UpstreamConnectionTermination",
    "UF": "UpstreamConnectionFailure",
    "UH": "NoHealthyUpstream",
    "UO": "UpstreamOverflow",
    "UPE": "UpstreamProtocolError",
    "URX": "UpstreamRetryLimitExceeded",
    "UT": "UpstreamRequestTimeout",
}


def long_flags(flags: str) -> str:
    """%RESPONSE_FLAGS_LONG% for these %RESPONSE_FLAGS%."""
    return ",".join(_LONG.get(flag, flag) for flag in flags.split(","))


def is_refused_by_default(record: ConnectionRecord) -> bool:
    """No rule and no service knows the target, and nothing else lets it pass: Istio's REGISTRY_ONLY."""
    return record.outcome == RuleDenied.slug and record.rule == OUTBOUND


def flags_and_details(record: ConnectionRecord, *, is_http: bool) -> tuple[str, str, str]:
    """%RESPONSE_FLAGS%, %RESPONSE_CODE_DETAILS% and %CONNECTION_TERMINATION_DETAILS%; `-` for what there is not."""
    outcome = record.outcome
    cause = CAUSES.get(outcome, _UNKNOWN)
    by_rule = outcome in _BY_POLICY and not is_refused_by_default(record)
    if not is_http:
        if by_rule:
            return NOTHING, NOTHING, _RBAC.format(record.rule)
        return cause.tcp_flags, NOTHING, _IDLE if outcome in _CLOSED_FOR_IDLENESS else NOTHING
    if record.opened:  # the response is the 200 or 101
        if by_rule or outcome in _HELLOS:
            return NOTHING, VIA_UPSTREAM, _RBAC.format(record.rule)
        return cause.flags, VIA_UPSTREAM, NOTHING
    if by_rule:
        return cause.flags, _RBAC.format(record.rule), NOTHING
    exchange = record.exchange
    if exchange is None or exchange.upstream_status is None or exchange.upstream_status != record.status:
        return cause.flags, NOTHING if cause.details == VIA_UPSTREAM else cause.details, NOTHING
    # the head of the upstream's response was handed on
    if cause.flags in ("UC", "UPE"):
        return cause.flags, cause.details.replace("before_response", "after_response"), NOTHING
    return cause.flags, VIA_UPSTREAM if cause.flags in ("DC", "LR", NOTHING) else cause.details, NOTHING


def transport_failure(record: ConnectionRecord) -> str:
    """%UPSTREAM_TRANSPORT_FAILURE_REASON%: of the TLS that the proxy speaks with the upstream."""
    outcome = record.outcome
    if outcome in TLS_REASONS:
        return f"TLS error: {TLS_REASONS[outcome]}"
    return f"TLS error: {record.detail}" if outcome == "tls_failed" else NOTHING
