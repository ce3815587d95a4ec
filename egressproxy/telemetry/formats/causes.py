"""How Envoy calls what became of a connection or request: one table, from our outcomes to its response flags and details.

The flags are those of Envoy's documentation (access logging, `%RESPONSE_FLAGS%`), the details its `response code details`. Both
were compared with what Envoy 1.40 writes; up to Istio 1.22 some of it was called otherwise, see `OLD_CAUSES`.

**One thing is not as Envoy has it.** To Envoy, whoever ends a connection before its response is over has left, and a CONNECT
has no other end: each that its client ends is `200 DC downstream_remote_disconnect` there. But that is how nearly all tunnels
end, in order and to everybody's satisfaction, and where all look like failures nobody finds those that are. So a CONNECT is DC
only where the client reset it. After a 101 it is the server that ends the connection first (RFC 6455 section 7.1.1): a client
that does so has left, and DC it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from egressproxy.errors import EchDenied, MalformedRequest, RuleDenied, SniMismatch
from egressproxy.model import OUTBOUND
from egressproxy.wire.request_head import MISSING_HOST

if TYPE_CHECKING:
    from egressproxy.model import ConnectionRecord


class Cause(NamedTuple):
    """What Envoy writes of one outcome.

    flags      %RESPONSE_FLAGS% of a request
    details    %RESPONSE_CODE_DETAILS% of a request
    tcp_flags  %RESPONSE_FLAGS% of a relay: of TCP, Envoy has few
    reason     %UPSTREAM_TRANSPORT_FAILURE_REASON%; `{}` is our own detail
    late       flags and details once the head of the upstream's response was handed on; None: the same ones
    """

    flags: str
    details: str
    tcp_flags: str
    reason: str = "-"
    late: tuple[str, str] | None = None


NOTHING = "-"
VIA_UPSTREAM = "via_upstream"
DIRECT = "direct_response"
_LEFT = "downstream_remote_disconnect"
_BEFORE = "upstream_reset_before_response_started{{{}}}"
_AFTER = "upstream_reset_after_response_started{{{}}}"
_RBAC = "rbac_access_denied_matched_policy[{}]"

TLS_REASONS = {
    "tls_certificate_expired": ("268435581", "CERTIFICATE_VERIFY_FAILED", "verify cert failed: X509_verify_cert"),
    "tls_wrong_host": ("268435581", "CERTIFICATE_VERIFY_FAILED", "verify cert failed: SAN matcher"),
    "tls_unknown_ca": ("268435581", "CERTIFICATE_VERIFY_FAILED", "verify cert failed: X509_verify_cert"),
    "tls_client_certificate_required": ("268436572", "TLSV1_CERTIFICATE_REQUIRED", ""),
    "tls_version": ("268436526", "TLSV1_ALERT_PROTOCOL_VERSION", ""),
}
"""How a handshake failed, in the words of Envoy's TLS library: number (0x10000000 plus the reason), reason, and what Envoy adds
as far as our records can tell. Other failures of TLS are told in our own words."""


def _tls_causes() -> dict[str, Cause]:
    def failed(reason: str) -> Cause:
        return Cause("UF", _BEFORE.format("remote_connection_failure"), "UF,URX", reason.replace(" ", "_"))

    causes = {
        outcome: failed(
            f"TLS error:|{number}:SSL routines:OPENSSL_internal:{name}:{f'{more}:' if more else ''}TLS error end"
        )
        for outcome, (number, name, more) in TLS_REASONS.items()
    }
    causes["credential_missing"] = failed("TLS error: Secret is not supplied by SDS")
    causes["tls_failed"] = failed("TLS error:|{}:TLS error end")
    return causes


CAUSES = {
    # the client
    "malformed_request": Cause("DPE", "http1.codec_error", NOTHING),  # without a Host: see `words_of`
    "malformed_target": Cause("DPE", "http1.invalid_url", NOTHING),
    "head_too_large": Cause("DPE", "http1.headers_too_large", NOTHING),
    "target_too_long": Cause("DPE", "http1.headers_too_large", NOTHING),
    "head_timeout": Cause(NOTHING, "request_header_timeout", "DT"),
    "method_not_implemented": Cause("NR", "route_not_found", NOTHING),
    "body_timeout": Cause("SI", "stream_idle_timeout", NOTHING),
    "body_too_large": Cause(NOTHING, "request_payload_too_large", NOTHING),
    "client_gone": Cause("DC", _LEFT, NOTHING),
    "client_tls_failed": Cause(NOTHING, NOTHING, NOTHING),
    "malformed_proxy_header": Cause(NOTHING, NOTHING, NOTHING),
    # TLS that names no server, or not so that it can be read: no filter chain matches
    "not_tls": Cause("NR", "filter_chain_not_found", "NR"),
    "malformed_hello": Cause("NR", "filter_chain_not_found", "NR"),
    "hello_too_large": Cause("NR", "filter_chain_not_found", "NR"),
    "no_sni": Cause("NR", "filter_chain_not_found", "NR"),
    "hello_timeout": Cause("DT", NOTHING, "DT"),
    # policy; see `words_of`
    "rule_denied": Cause(NOTHING, DIRECT, "UH"),
    "no_route": Cause("NR", "route_not_found", "NR"),
    "host_unknown": Cause("UH", "no_healthy_upstream", "UH"),
    "address_denied": Cause(NOTHING, _RBAC.format("address_guard"), NOTHING),
    "loop_detected": Cause(NOTHING, DIRECT, NOTHING),
    "tls_required": Cause("NR", "filter_chain_not_found", "NR"),
    "sni_mismatch": Cause(NOTHING, DIRECT, NOTHING),
    "ech_denied": Cause(NOTHING, DIRECT, NOTHING),
    "announcer_denied": Cause(NOTHING, NOTHING, NOTHING),
    # upstream
    "name_not_found": Cause("UH", "no_healthy_upstream", "UH"),
    "resolver_failed": Cause("UH", "no_healthy_upstream", "UH"),
    "resolver_timeout": Cause("UH", "no_healthy_upstream", "UH"),
    "no_endpoint": Cause("UH", "no_healthy_upstream", "UH"),
    "connect_refused": Cause(
        "UF", _BEFORE.format("remote_connection_failure"), "UF,URX", "delayed_connect_error:_Connection_refused"
    ),
    "connect_failed": Cause("UF", _BEFORE.format("remote_connection_failure"), "UF,URX"),
    "connect_timeout": Cause("UF", _BEFORE.format("connection_timeout"), "UF,URX"),
    "parent_refused": Cause("UF", _BEFORE.format("remote_connection_failure"), "UF,URX"),
    **_tls_causes(),
    "tls_timeout": Cause("UF", _BEFORE.format("connection_timeout"), "UF,URX"),
    "upstream_protocol_error": Cause(
        "UPE", _BEFORE.format("protocol_error"), NOTHING, late=("UPE", _AFTER.format("protocol_error"))
    ),
    # the end of the connection is a wrong octet to Envoy, where it comes within a body
    "upstream_closed": Cause(
        "UC", _BEFORE.format("connection_termination"), NOTHING, late=("UPE", _AFTER.format("protocol_error"))
    ),
    "upstream_timeout": Cause("UT", "response_timeout", NOTHING),
    "upstream_idle_timeout": Cause("SI", "stream_idle_timeout", NOTHING),
    # the proxy itself
    "tunnel_limit": Cause("UO", _BEFORE.format("overflow"), "UO"),
    "out_of_descriptors": Cause("UO", _BEFORE.format("overflow"), "UO"),
    "draining": Cause("LR", DIRECT, NOTHING),
    "internal_error": Cause("LR", DIRECT, NOTHING),
    # the proxy was the last to be asked
    "answered": Cause(NOTHING, DIRECT, NOTHING),
    # how a relay ended
    "closed": Cause(NOTHING, VIA_UPSTREAM, NOTHING),
    "client_reset": Cause("DC", _LEFT, NOTHING),
    "upstream_reset": Cause("UC", VIA_UPSTREAM, "UR"),
    "idle_timeout": Cause("SI", VIA_UPSTREAM, NOTHING),
    "half_close_timeout": Cause("SI", VIA_UPSTREAM, NOTHING),
    "lifetime": Cause("DT", VIA_UPSTREAM, "DT"),
    "drained": Cause(NOTHING, VIA_UPSTREAM, NOTHING),
    "policy_changed": Cause("LR", VIA_UPSTREAM, NOTHING),
    "cut": Cause("LR", VIA_UPSTREAM, NOTHING),
}
"""By outcome. URX behind another flag says that there was no other attempt: of TCP. Of a request it would stand in front, and
say that all attempts of a retry policy failed; there is none here."""


def _old_causes() -> dict[str, Cause]:
    failed = Cause("UF", _BEFORE.format("connection_failure"), "UF,URX")
    closed = CAUSES["upstream_closed"]
    return {
        **CAUSES,
        "connect_refused": failed,
        "connect_failed": failed,
        **{
            outcome: failed._replace(reason=f"TLS error: {number}:SSL routines:OPENSSL_internal:{name}")
            for outcome, (number, name, _) in TLS_REASONS.items()
        },
        "credential_missing": failed._replace(reason="TLS error: Secret is not supplied by SDS"),
        "tls_failed": failed._replace(reason="TLS error: {}"),
        "upstream_closed": closed._replace(late=("UC", _AFTER.format("connection_termination"))),
        "upstream_timeout": Cause("UT", "upstream_response_timeout", NOTHING),
        "upstream_reset": CAUSES["upstream_reset"]._replace(tcp_flags=NOTHING),
    }


OLD_CAUSES = _old_causes()
"""The same up to Istio 1.22."""

_UNKNOWN = Cause(NOTHING, NOTHING, NOTHING)
_BY_POLICY = frozenset({RuleDenied.slug, SniMismatch.slug, EchDenied.slug})
_HELLOS = frozenset({"not_tls", "malformed_hello", "hello_too_large", "no_sni", "hello_timeout"})

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
    "UR": "UpstreamRemoteReset",
    "URX": "UpstreamRetryLimitExceeded",
    "UT": "UpstreamRequestTimeout",
}


def long_flags(flags: str) -> str:
    """%RESPONSE_FLAGS_LONG% for these %RESPONSE_FLAGS%."""
    return ",".join(_LONG.get(flag, flag) for flag in flags.split(","))


def is_refused_by_default(record: ConnectionRecord) -> bool:
    """No rule and no service knows the target, and nothing else lets it pass: Istio's REGISTRY_ONLY."""
    return record.outcome == RuleDenied.slug and record.rule == OUTBOUND


class Words(NamedTuple):
    """%RESPONSE_FLAGS%, %RESPONSE_CODE_DETAILS%, %CONNECTION_TERMINATION_DETAILS% and %UPSTREAM_TRANSPORT_FAILURE_REASON%."""

    flags: str
    details: str
    termination: str
    reason: str


def words_of(record: ConnectionRecord, *, is_http: bool, old: bool = False) -> Words:
    """What Envoy says of this outcome, `-` for what there is not. `old`: the Envoy of Istio 1.22 and before."""
    outcome = record.outcome
    cause = (OLD_CAUSES if old else CAUSES).get(outcome, _UNKNOWN)
    reason = cause.reason
    if reason != NOTHING:
        detail = record.detail or ""
        reason = reason.format(detail if old else detail.replace(" ", "_"))
    if is_http:
        return Words(*_of_request(record, cause, reason, "," if old else "|"), reason)
    if outcome in _BY_POLICY:
        if not is_refused_by_default(record):
            return Words(NOTHING, NOTHING, _RBAC.format(record.rule), NOTHING)
        if record.dialled is None:  # not captured: a gateway, which has a filter chain for each name that it knows
            cause = CAUSES["no_sni"]
    details = CAUSES["no_sni"].details if cause.tcp_flags == "NR" else NOTHING
    return Words(cause.tcp_flags, details, NOTHING, reason)


def _of_request(record: ConnectionRecord, cause: Cause, reason: str, mark: str) -> tuple[str, str, str]:
    """Flags, details and termination. `mark` stands in front of the reason within the details."""
    outcome, exchange = record.outcome, record.exchange
    flags, details = cause.flags, cause.details
    by_rule = outcome in _BY_POLICY and not is_refused_by_default(record)
    if record.opened:  # the response is the 200 or 101
        if by_rule or outcome in _HELLOS:
            return NOTHING, VIA_UPSTREAM, _RBAC.format(record.rule)
        if outcome == "closed" and exchange is not None and record.closed_by == "client":
            return "DC", _LEFT, NOTHING
        return flags, _LEFT if flags == "DC" else VIA_UPSTREAM, NOTHING
    if by_rule:
        return flags, _RBAC.format(record.rule), NOTHING
    if outcome == MalformedRequest.slug and record.detail == MISSING_HOST:
        return NOTHING, "missing_host_header", NOTHING
    if exchange is None or exchange.upstream_status is None or exchange.upstream_status != record.status:
        if reason != NOTHING:
            details = details.replace("}", f"{mark}{reason.replace(' ', '_')}}}")
        return flags, NOTHING if details == VIA_UPSTREAM else details, NOTHING
    # the head of the upstream's response was handed on
    if cause.late is not None:
        return *cause.late, NOTHING
    return flags, VIA_UPSTREAM if flags in ("LR", NOTHING) else details, NOTHING


def is_own_answer(details: str) -> bool:
    """These details are of a response that the proxy gave without having chosen an upstream."""
    return details == DIRECT or details.startswith("rbac_")
