import json
import re
import socket
from datetime import datetime

import pytest
from hypothesis import given
from support.any_record import records
from support.records import (
    ANSWERED,
    ANSWERED_HERE,
    DENIED,
    EXCHANGE,
    GARBAGE,
    KEPT,
    LEFT,
    MISMATCH,
    NO_ANSWER,
    NO_SNI,
    NO_TUNNEL,
    NOT_FOUND,
    REFUSED,
    REQUEST_DENIED,
    SNI_DENIED,
    SNI_TUNNEL,
    TUNNEL,
)
from support.samples import sample_lines

from egressproxy.config.templates import ENVOY_OPERATORS, TIMES, envoy_template
from egressproxy.model import AskedFields, Endpoint, Target
from egressproxy.telemetry.formats.envoy import (
    ERAS,
    LATER,
    OLD,
    OLDEST,
    TODAY,
    envoy_line,
    form_of_release,
    istio_json_line,
)
from egressproxy.telemetry.formats.text import MAX_TEXT
from egressproxy.wire.kept_fields import KeptFields
from egressproxy.wire.request_head import MISSING_HOST

istio = envoy_line(ERAS["E7"])
START = "[2018-12-07T05:21:05.018Z]"
SIDECAR = ANSWERED._replace(
    dialled=("151.101.65.67", 80), local=("10.80.3.231", 15001), upstream_local=("10.80.3.231", 48390)
)
RELAY = SNI_TUNNEL._replace(
    local=("10.83.1.219", 443), upstream_local=("10.83.1.219", 39574), server_name="edition.cnn.com"
)

CAPTURED_DENIED = SNI_DENIED._replace(rule="outbound", dialled=("91.198.174.192", 443))


def printed(template, record, habits=TODAY):
    return envoy_line(template, habits)(record)


# --- the samples --------------------------------------------------------------------------------------------------


def reader_of(era):
    """A pattern that reads the lines of an era, made from its template, and the operators in order."""
    pattern, names = "", []
    for part in envoy_template(ERAS[era]):
        if isinstance(part, str):
            pattern += re.escape(part)
        else:
            tight = part.argument.startswith((":M", "X-ENVOY-O")) or part.name == "PROTOCOL"
            pattern += (
                '([^"]*)' if part.quoted and not tight else r'([^\s"]+?)' if part.name == "START_TIME" else r'([^\s"]+)'
            )
            names.append(part.argument.rpartition("?")[2] or part.name)
    return re.compile(pattern), names


def place_of(text):
    if text in ("-", None):
        return None
    address, _, port = text.rpartition(":")
    return address.strip("[]"), int(port)


def text_of(text):
    return None if text == "-" else text


def record_of(values):
    """A record that holds what one line says."""
    duration_s = (int(values["DURATION"]) + 0.5) / 1000
    started_at = datetime.fromisoformat(values["START_TIME"]).timestamp()
    client, client_port = place_of(values.get("DOWNSTREAM_REMOTE_ADDRESS", "10.0.0.1:1"))
    upstream = place_of(values["UPSTREAM_HOST"])
    _, port, _, service = (values.get("UPSTREAM_CLUSTER", "-") + "|||").split("|")[:4]
    record = NO_TUNNEL._replace(
        ended_at_unix_s=started_at + duration_s,
        duration_s=duration_s,
        client=client,
        client_port=client_port,
        bytes_up=int(values["BYTES_RECEIVED"]),
        bytes_down=int(values["BYTES_SENT"]),
        reply_bytes=0,
        upstream=None if upstream is None else Endpoint(*upstream),
        service=service or None,
        service_port=int(port) if port else None,
        upstream_local=place_of(values.get("UPSTREAM_LOCAL_ADDRESS")),
        local=place_of(values.get("DOWNSTREAM_LOCAL_ADDRESS")),
        server_name=text_of(values.get("REQUESTED_SERVER_NAME", "-")),
    )
    if values[":METHOD"] == "-":
        assert values["RESPONSE_CODE"] == "0"
        record = record._replace(protocol="sni", http_version=None)
        if values["RESPONSE_FLAGS"] == "UH":
            return record._replace(outcome="rule_denied", rule="outbound", dialled=record.local)
        return record._replace(outcome="closed", opened=True, connected=True)
    exchange = EXCHANGE._replace(
        path=values[":PATH"],
        authority=values[":AUTHORITY"],
        user_agent=text_of(values["USER-AGENT"]),
        request_id=text_of(values["X-REQUEST-ID"]),
        forwarded_for=text_of(values["X-FORWARDED-FOR"]),
        response_s=(int(values["X-ENVOY-UPSTREAM-SERVICE-TIME"]) + 0.5) / 1000,
        upstream_status=int(values["RESPONSE_CODE"]),
        route=None if values.get("ROUTE_NAME", "default") == "default" else "",
    )
    return record._replace(
        method=values[":METHOD"],
        http_version=values["PROTOCOL"].removeprefix("HTTP/"),
        status=int(values["RESPONSE_CODE"]),
        outcome="answered",
        exchange=exchange,
    )


@pytest.mark.parametrize(
    ("era", "release", "count"), [("E0", None, 2), ("E1", 0, 6), ("E2", 1, 1), ("E4", 7, 18), ("E6", 9, 1)]
)
def test_the_sample_lines_come_out_of_records_with_their_values(era, release, count):
    pattern, names = reader_of(era)
    habits = TODAY if release is None else form_of_release(release)[1]
    lines = sample_lines(f"envoy-text-{era}.log")
    assert len(lines) == count
    for line in lines:
        match = pattern.fullmatch(line)
        assert match is not None, line
        assert printed(ERAS[era], record_of(dict(zip(names, match.groups(), strict=True))), habits) == line


# --- requests -----------------------------------------------------------------------------------------------------


def test_a_request_is_logged_as_istio_logs_it():
    assert istio(SIDECAR) == (
        f'{START} "GET /politics?token=secret HTTP/1.1" 200 - via_upstream - "-" 0 148528 229 90 "10.80.3.231" "curl/7.64.0"'
        ' "2151bde2-4382-4e2f-b088-e464943c2a9b" "edition.cnn.com" "151.101.1.67:80" outbound|80||edition.cnn.com'
        " 10.80.3.231:48390 151.101.65.67:80 172.30.109.89:51234 - default"
    )


@pytest.mark.parametrize(
    ("minor", "line"),
    [
        (
            0,
            '200 - 0 148528 229 90 "10.80.3.231" "curl/7.64.0" "2151bde2-4382-4e2f-b088-e464943c2a9b" "edition.cnn.com" '
            '"151.101.1.67:80" outbound|80||edition.cnn.com - 151.101.65.67:80 172.30.109.89:51234 -',
        ),
        (
            1,
            '200 - "-" 0 148528 229 90 "10.80.3.231" "curl/7.64.0" "2151bde2-4382-4e2f-b088-e464943c2a9b" "edition.cnn.com" '
            '"151.101.1.67:80" outbound|80||edition.cnn.com - 151.101.65.67:80 172.30.109.89:51234 -',
        ),
        (
            2,
            '200 - "-" "-" 0 148528 229 90 "10.80.3.231" "curl/7.64.0" "2151bde2-4382-4e2f-b088-e464943c2a9b" '
            '"edition.cnn.com" "151.101.1.67:80" outbound|80||edition.cnn.com - 151.101.65.67:80 172.30.109.89:51234 -',
        ),
        (
            4,
            '200 - "-" "-" 0 148528 229 90 "10.80.3.231" "curl/7.64.0" "2151bde2-4382-4e2f-b088-e464943c2a9b" '
            '"edition.cnn.com" "151.101.1.67:80" outbound|80||edition.cnn.com - 151.101.65.67:80 172.30.109.89:51234 - '
            "default",
        ),
        (
            7,
            '200 - "-" "-" 0 148528 229 90 "10.80.3.231" "curl/7.64.0" "2151bde2-4382-4e2f-b088-e464943c2a9b" '
            '"edition.cnn.com" "151.101.1.67:80" outbound|80||edition.cnn.com 10.80.3.231:48390 151.101.65.67:80 '
            "172.30.109.89:51234 - default",
        ),
        (
            8,
            '200 - "-" 0 148528 229 90 "10.80.3.231" "curl/7.64.0" "2151bde2-4382-4e2f-b088-e464943c2a9b" "edition.cnn.com" '
            '"151.101.1.67:80" outbound|80||edition.cnn.com 10.80.3.231:48390 151.101.65.67:80 172.30.109.89:51234 - default',
        ),
        (
            9,
            '200 - via_upstream - "-" 0 148528 229 90 "10.80.3.231" "curl/7.64.0" "2151bde2-4382-4e2f-b088-e464943c2a9b" '
            '"edition.cnn.com" "151.101.1.67:80" outbound|80||edition.cnn.com 10.80.3.231:48390 151.101.65.67:80 '
            "172.30.109.89:51234 - default",
        ),
    ],
)
def test_each_release_has_the_fields_of_its_era(minor, line):
    era, habits = form_of_release(minor)
    assert printed(ERAS[era], SIDECAR, habits) == f'{START} "GET /politics?token=secret HTTP/1.1" {line}'


def test_the_releases_fall_into_eras():
    eras = [form_of_release(minor)[0] for minor in range(31)]
    assert eras == ["E1", "E2", "E3", *["E4"] * 5, "E5", *["E6"] * 14, *["E7"] * 8]
    habits = [form_of_release(minor)[1] for minor in range(31)]
    assert habits == [*[OLDEST] * 5, *[OLD] * 4, *[LATER] * 14, *[TODAY] * 8]


FIELDS = (
    "%RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS%"
    " %UPSTREAM_CLUSTER% %ROUTE_NAME%"
)


@pytest.mark.parametrize(
    ("record", "line"),
    [
        (SIDECAR, "200 - via_upstream - outbound|80||edition.cnn.com default"),
        # the port is the one that was dialled, unless the service is known by another
        (
            SIDECAR._replace(upstream=Endpoint("151.101.1.67", 443)),
            "200 - via_upstream - outbound|443||edition.cnn.com default",
        ),
        (
            SIDECAR._replace(service="httpbin.default.svc.cluster.local", service_port=8000),
            "200 - via_upstream - outbound|8000||httpbin.default.svc.cluster.local default",
        ),
        (
            SIDECAR._replace(rule="outbound", service="*.cnn.com"),
            "200 - via_upstream - outbound|80||*.cnn.com default",
        ),
        (
            SIDECAR._replace(exchange=EXCHANGE._replace(route="politics")),
            "200 - via_upstream - outbound|80||edition.cnn.com politics",
        ),
        (SIDECAR._replace(exchange=EXCHANGE._replace(route="")), "200 - via_upstream - outbound|80||edition.cnn.com -"),
        # what only the default lets pass, and what it does not
        (SIDECAR._replace(rule="outbound"), "200 - via_upstream - PassthroughCluster allow_any"),
        (
            REQUEST_DENIED._replace(rule="outbound", status=502, protocol="http"),
            "502 - direct_response - - block_all",
        ),
        (REQUEST_DENIED, "403 - rbac_access_denied_matched_policy[rest] - - default"),
        # no upstream
        (
            NO_ANSWER._replace(outcome="name_not_found", status=503, upstream=None),
            "503 UH no_healthy_upstream - outbound|80||edition.cnn.com default",
        ),
        (
            NO_ANSWER._replace(outcome="connect_refused", status=503),
            "503 UF upstream_reset_before_response_started{remote_connection_failure|delayed_connect_error:_Connection_refused}"
            " - outbound|80||edition.cnn.com default",
        ),
        (
            NO_ANSWER._replace(outcome="tls_unknown_ca", status=503),
            "503 UF upstream_reset_before_response_started{remote_connection_failure|TLS_error:|268435581:SSL_routines:"
            "OPENSSL_internal:CERTIFICATE_VERIFY_FAILED:verify_cert_failed:_X509_verify_cert:TLS_error_end}"
            " - outbound|80||edition.cnn.com default",
        ),
        (ANSWERED_HERE, "200 - direct_response - - default"),
        # an upstream that fails
        (
            NO_ANSWER,
            "502 UC upstream_reset_before_response_started{connection_termination} - outbound|80||edition.cnn.com default",
        ),
        (
            ANSWERED._replace(outcome="upstream_closed", exchange=EXCHANGE._replace(complete=False)),
            "200 UPE upstream_reset_after_response_started{protocol_error} - outbound|80||edition.cnn.com default",
        ),
        (
            NO_ANSWER._replace(outcome="upstream_timeout", status=504),
            "504 UT response_timeout - outbound|80||edition.cnn.com default",
        ),
        # a client that leaves
        (
            NO_ANSWER._replace(outcome="client_gone", status=None, reply_bytes=0),
            "0 DC downstream_remote_disconnect - outbound|80||edition.cnn.com default",
        ),
        (
            ANSWERED._replace(outcome="client_gone", exchange=EXCHANGE._replace(complete=False)),
            "200 DC downstream_remote_disconnect - outbound|80||edition.cnn.com default",
        ),
        (GARBAGE, "400 DPE http1.codec_error - - -"),
        (GARBAGE._replace(detail=MISSING_HOST), "400 - missing_host_header - - -"),
        (LEFT, "0 DC downstream_remote_disconnect - - -"),
        # CONNECT is a request to Envoy as well
        (TUNNEL, "200 - via_upstream - outbound|443||en.wikipedia.org default"),
        (DENIED, "403 - rbac_access_denied_matched_policy[rest] - - default"),
        (
            NO_TUNNEL._replace(outcome="address_denied", status=403),
            "403 - rbac_access_denied_matched_policy[address_guard] - - default",
        ),
        (NO_TUNNEL._replace(outcome="loop_detected", status=508), "508 - direct_response - - default"),
        (NOT_FOUND, "503 UH no_healthy_upstream - outbound|443||en.wikipedia.org default"),
        (
            REFUSED,
            "503 UF upstream_reset_before_response_started{remote_connection_failure|delayed_connect_error:_Connection_refused}"
            " - outbound|443||en.wikipedia.org default",
        ),
        (MISMATCH, "200 - via_upstream rbac_access_denied_matched_policy[wiki] outbound|443||en.wikipedia.org default"),
        # relays
        (RELAY, "0 - - - outbound|443||en.wikipedia.org -"),
        (RELAY._replace(rule="outbound"), "0 - - - PassthroughCluster -"),
        (RELAY._replace(outcome="idle_timeout"), "0 - - - outbound|443||en.wikipedia.org -"),
        (RELAY._replace(outcome="upstream_reset"), "0 UR - - outbound|443||en.wikipedia.org -"),
        (RELAY._replace(outcome="client_reset"), "0 - - - outbound|443||en.wikipedia.org -"),
        (CAPTURED_DENIED, "0 UH - - BlackHoleCluster -"),
        (SNI_DENIED._replace(rule="outbound"), "0 NR filter_chain_not_found - - -"),
        (SNI_DENIED, "0 - - rbac_access_denied_matched_policy[rest] outbound|443||en.wikipedia.org -"),
        (SNI_DENIED._replace(outcome="name_not_found"), "0 UH - - outbound|443||en.wikipedia.org -"),
        (
            SNI_DENIED._replace(outcome="connect_refused", upstream=Endpoint("91.198.174.192", 443)),
            "0 UF,URX - - outbound|443||en.wikipedia.org -",
        ),
        (NO_SNI, "0 NR filter_chain_not_found - - -"),
    ],
)
def test_envoy_s_words_for_what_became_of_it(record, line):
    assert printed(FIELDS, record) == line


def test_an_era_has_its_own_habits():
    assert printed("%UPSTREAM_CLUSTER%", CAPTURED_DENIED, OLD) == "-"
    assert printed("%UPSTREAM_CLUSTER%", CAPTURED_DENIED, LATER) == "BlackHoleCluster"
    assert printed("%UPSTREAM_CLUSTER%", NOT_FOUND, OLD) == "-"
    late = NO_ANSWER._replace(outcome="upstream_timeout", status=504)
    refused = '503 UF upstream_reset_before_response_started{connection_failure} "-"'
    template = '%RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% "%UPSTREAM_TRANSPORT_FAILURE_REASON%"'
    assert printed(template, REFUSED, LATER) == refused
    assert printed("%RESPONSE_FLAGS%", RELAY._replace(outcome="upstream_reset"), LATER) == "-"
    assert printed("%RESPONSE_CODE_DETAILS%", late, LATER) == "upstream_response_timeout"
    assert printed("%UPSTREAM_LOCAL_ADDRESS%", SIDECAR, OLDEST) == "-"
    assert printed("%UPSTREAM_LOCAL_ADDRESS%", SIDECAR, OLD) == "10.80.3.231:48390"
    assert printed("%UPSTREAM_LOCAL_ADDRESS%", RELAY, OLDEST) == "10.83.1.219:39574"


def test_a_relay_shows_three_dashes_and_all_its_bytes():
    assert istio(RELAY) == (
        f'{START} "- - -" 0 - - - "-" 702 87594 229 - "-" "-" "-" "-" "91.198.174.192:443" outbound|443||en.wikipedia.org'
        " 10.83.1.219:39574 10.83.1.219:443 172.30.109.89:51234 edition.cnn.com -"
    )


def test_bytes_of_a_request_are_those_of_bodies_ours_included():
    assert printed("%BYTES_RECEIVED% %BYTES_SENT%", ANSWERED._replace(bytes_up=3)) == "3 148528"
    late = NO_ANSWER._replace(outcome="upstream_timeout", status=504, reply_bytes=300, reply_body_bytes=24)
    assert printed("%BYTES_RECEIVED% %BYTES_SENT%", late) == "0 24"


def test_a_request_that_was_refused_before_it_was_understood_shows_what_came():
    template = '"%REQ(:METHOD)% %REQ(:PATH)% %PROTOCOL%" %REQ(:AUTHORITY)%'
    early = REQUEST_DENIED._replace(outcome="tunnel_limit", rule=None, exchange=None)
    assert printed(template, early) == '"GET /politics?token=secret HTTP/1.1" edition.cnn.com'
    assert printed(template, early._replace(target_text="http://a.example:81?x")) == '"GET ?x HTTP/1.1" a.example:81'
    assert printed(template, early._replace(target_text="/x")) == '"GET /x HTTP/1.1" edition.cnn.com'
    assert printed(template, GARBAGE) == '"- - HTTP/1.1" -'
    assert printed(template, TUNNEL) == '"CONNECT - HTTP/1.1" en.wikipedia.org:443'


# --- operators ----------------------------------------------------------------------------------------------------

SECURED = SIDECAR._replace(
    server_name="mesh.example",
    exchange=EXCHANGE._replace(tls="TLSv1.3", attempts=2),
    target=Target("edition.cnn.com", 80, False),
)


@pytest.mark.parametrize(
    ("template", "shown"),
    [
        ("%START_TIME%", "2018-12-07T05:21:05.018Z"),
        ("%START_TIME(%Y/%m/%dT%H:%M:%S %s)%", "2018/12/07T05:21:05 1544160065"),
        ("%START_TIME(%s.%3f)%", "1544160065.018"),
        ("%START_TIME(%H:%M:%S.%6f %f)%", "05:21:05.018500 018500000"),
        ("%EMIT_TIME%", "2018-12-07T05:21:05.248Z"),
        ("%EMIT_TIME(%T)%", "05:21:05"),
        ("%REQ(:method)%", "GET"),
        ("%REQ(X-ENVOY-ORIGINAL-PATH?:PATH):9%", "/politics"),
        ("%REQ(X-ENVOY-ORIGINAL-PATH)%", "-"),
        ("%REQ(X-FORWARDED-FOR?:PATH)%", "10.80.3.231"),
        ("%REQ_WITHOUT_QUERY(X-ENVOY-ORIGINAL-PATH?:PATH)%", "/politics"),
        ("%REQ_WITHOUT_QUERY(:PATH):3%", "/po"),
        ("%REQ(:SCHEME)%://%REQ(HOST)%", "http://edition.cnn.com"),
        ("%RESP(CONTENT-TYPE)% %RESP(x-envoy-upstream-service-time)%", "text/html 90"),
        ("%RESP(CONTENT-TYPE?X-ENVOY-UPSTREAM-SERVICE-TIME):4%", "text"),
        ("%DYNAMIC_METADATA(istio.mixer:status)%", "-"),
        ("100%% %RESPONSE_CODE%", "100% 200"),
        ("nothing", "nothing"),
        ("%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% %DOWNSTREAM_REMOTE_PORT%", "172.30.109.89 51234"),
        ("%DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT% %DOWNSTREAM_LOCAL_PORT%", "151.101.65.67 80"),
        ("%UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT% %UPSTREAM_LOCAL_PORT%", "10.80.3.231 48390"),
        ("%UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% %UPSTREAM_REMOTE_PORT%", "151.101.1.67 80"),
        ("%UPSTREAM_REMOTE_ADDRESS%", "151.101.1.67:80"),
        ("%CONNECTION_ID% %UPSTREAM_TLS_VERSION% %UPSTREAM_REQUEST_ATTEMPT_COUNT%", "7 TLSv1.3 2"),
        ("%RESPONSE_DURATION% %RESPONSE_TX_DURATION%", "91 138"),
        ("%REQUESTED_SERVER_NAME%", "mesh.example"),
    ],
)
def test_an_operator_prints_what_envoy_s_prints(template, shown):
    assert printed(template, SECURED) == shown


@pytest.mark.parametrize(
    ("template", "shown"),
    [
        ("%REQ(X-TEAM)%", "Bl%20ue%20%22"),
        ('"%REQ(x-team)%" %REQ(X-TEAM):4%', '"Bl ue %22" Bl%2'),
        ("%REQ(X-TWO)% %REQ(X-TWO?:PATH)%", "1 1"),  # the first of several, as in Envoy
        ("%REQ(X-NONE)% %REQ(X-NONE?:METHOD)%", "- GET"),
        ('%REQ(X-NONE?USER-AGENT)% "%REQ(X-NONE?USER-AGENT)%"', 'a%20b "a b"'),
        ("%REQ(X-URL)% %REQ_WITHOUT_QUERY(X-URL)% %REQ_WITHOUT_QUERY(X-NONE?X-URL)%", "/a?b /a /a"),
        ("%RESP(SERVER)%", "a%C3%A9/1%20(b)"),
        ('"%RESP(SERVER)%" %RESP(X-TEAM)%', '"a%C3%A9/1 (b)" -'),
        ('"%RESP(CONTENT-TYPE)%" %RESP(CONTENT-TYPE):9%', '"text/html; charset=utf-8" text/html'),
        ("%RESP(X-NONE?X-ENVOY-UPSTREAM-SERVICE-TIME)%", "90"),
    ],
)
def test_fields_are_printed_as_the_peers_have_sent_them(template, shown):
    sent = SECURED._replace(kept=KEPT, exchange=EXCHANGE._replace(user_agent="a b"))
    assert printed(template, sent) == shown


def test_where_no_field_was_kept_there_is_none():
    assert printed("%REQ(X-TEAM)% %RESP(SERVER)%", SNI_TUNNEL) == "- -"


def test_a_client_s_value_is_no_longer_than_any_other_field():
    long = KeptFields(AskedFields(frozenset({"x-team"})), b"X-Team: " + b"x" * 9000 + b"\r\n")
    assert printed("%REQ(X-TEAM)%", SECURED._replace(kept=long)) == "x" * MAX_TEXT


def test_the_host_name_is_that_of_the_machine():
    assert printed("%HOSTNAME%", TUNNEL) == socket.gethostname()


def test_what_there_is_not_is_a_dash():
    always_there = {"HOSTNAME", "CONNECTION_ID", "DURATION"}
    for name in ENVOY_OPERATORS - always_there:
        if not name.startswith("DOWNSTREAM_REMOTE_"):
            assert printed(f"%{name}%", LEFT._replace(outcome="drained")) in ("-", "0"), name


def test_every_operator_of_the_language_is_printed():
    for name in ENVOY_OPERATORS | TIMES:
        assert printed(f"%{name}%", SECURED)


def test_long_flags_have_the_names_of_today():
    record = SNI_DENIED._replace(outcome="connect_refused", upstream=Endpoint("91.198.174.192", 443))
    assert printed("%RESPONSE_FLAGS_LONG%", record) == "UpstreamConnectionFailure,UpstreamRetryLimitExceeded"
    assert printed("%RESPONSE_FLAGS_LONG%", TUNNEL) == "-"


def test_ipv6_stands_in_brackets_where_there_is_a_port():
    record = TUNNEL._replace(
        client="::1", upstream=Endpoint("2001:db8::1", 443), local=("::1", 3128), upstream_local=("2001:db8::2", 5)
    )
    template = "%DOWNSTREAM_REMOTE_ADDRESS% %UPSTREAM_HOST% %DOWNSTREAM_LOCAL_ADDRESS% %UPSTREAM_LOCAL_ADDRESS%"
    assert printed(template, record) == "[::1]:51234 [2001:db8::1]:443 [::1]:3128 [2001:db8::2]:5"
    assert printed("%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%", record) == "::1"


_OURS = "TLS_error:|192.0.2.7:443:_broke_off:TLS_error_end"
_EXPIRED = "SSL_routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED:verify_cert_failed:_X509_verify_cert:TLS_error_end"
_WRONG = "SSL_routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED:verify_cert_failed:_SAN_matcher:TLS_error_end"
_OLD_EXPIRED = "TLS error: 268435581:SSL routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED"


@pytest.mark.parametrize(
    ("outcome", "reason", "reason_before"),
    [
        ("tls_certificate_expired", f"TLS_error:|268435581:{_EXPIRED}", _OLD_EXPIRED),
        ("tls_wrong_host", f"TLS_error:|268435581:{_WRONG}", _OLD_EXPIRED),
        ("credential_missing", "TLS_error:_Secret_is_not_supplied_by_SDS", "TLS error: Secret is not supplied by SDS"),
        ("tls_failed", _OURS, "TLS error: 192.0.2.7:443: broke off"),
        ("tls_timeout", "-", "-"),
        ("connect_refused", "delayed_connect_error:_Connection_refused", "-"),
        ("upstream_closed", "-", "-"),
    ],
)
def test_why_the_upstream_was_not_reached_is_told(outcome, reason, reason_before):
    record = NO_ANSWER._replace(outcome=outcome, detail="192.0.2.7:443: broke off")
    assert printed('"%UPSTREAM_TRANSPORT_FAILURE_REASON%"', record) == f'"{reason}"'
    assert printed('"%UPSTREAM_TRANSPORT_FAILURE_REASON%"', record, LATER) == f'"{reason_before}"'


def test_what_a_101_began_has_no_service_time():
    upgraded = SIDECAR._replace(
        status=101,
        opened=True,
        outcome="closed",
        closed_by="client",
        exchange=EXCHANGE._replace(upgraded=True, upstream_status=101),
    )
    template = "%RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%"
    assert printed(template, upgraded) == "101 DC downstream_remote_disconnect -"
    assert printed(template, upgraded._replace(closed_by="upstream")) == "101 - via_upstream -"


def test_a_server_name_is_in_lower_case():
    assert printed("%REQUESTED_SERVER_NAME%", SNI_TUNNEL) == "en.wikipedia.org"
    assert json.loads(istio_json_line(SNI_TUNNEL))["requested_server_name"] == "en.wikipedia.org"


# --- whatever clients send ----------------------------------------------------------------------------------------


def sent(**fields):
    return SIDECAR._replace(exchange=EXCHANGE._replace(**fields))


@pytest.mark.parametrize(
    ("record", "template", "shown"),
    [
        (sent(user_agent='a" 200 "b\\'), '"%REQ(USER-AGENT)%"', '"a%22 200 %22b\\"'),
        (sent(user_agent="Mozilla/5.0 (X11)"), '"%REQ(USER-AGENT)%"', '"Mozilla/5.0 (X11)"'),
        (sent(user_agent="Mozilla/5.0 (X11)"), "%REQ(USER-AGENT)%", "Mozilla/5.0%20(X11)"),
        (sent(user_agent="a\nb\x1b\u2028é"), '"%REQ(USER-AGENT)%"', '"a%0Ab%1B%E2%80%A8%C3%A9"'),
        (sent(path="/a b"), '"%REQ(:METHOD)% %REQ(:PATH)%"', '"GET /a%20b"'),
        (sent(forwarded_for="a, b"), '"%REQ(X-FORWARDED-FOR)%" %REQ(X-FORWARDED-FOR)%', '"a, b" a,%20b'),
        (sent(request_id='"'), "%REQ(X-REQUEST-ID)%", "%22"),
        (sent(authority="a b"), "%REQ(HOST)%", "a%20b"),
        (sent(content_type='a "b'), "%RESP(CONTENT-TYPE)%", "a%20%22b"),
        (RELAY._replace(server_name='a b"'), "%REQUESTED_SERVER_NAME%", "a%20b%22"),
        (sent(user_agent="a" * 900), "%REQ(USER-AGENT)%", "a" * MAX_TEXT),
        (sent(path="/" + "a" * 900), "%REQ(:PATH)%", "/" + "a" * (MAX_TEXT - 1)),
    ],
)
def test_no_client_writes_more_than_its_own_field(record, template, shown):
    assert printed(template, record) == shown


@given(records)
def test_a_line_has_the_fields_of_its_era_whatever_the_record_holds(record):
    for era in ERAS:
        pattern, _ = reader_of(era)
        assert pattern.fullmatch(printed(ERAS[era], record)), era


# --- JSON ---------------------------------------------------------------------------------------------------------


def test_the_json_has_istio_s_keys_and_types():
    assert json.loads(istio_json_line(SIDECAR)) == {
        "start_time": "2018-12-07T05:21:05.018Z",
        "method": "GET",
        "path": "/politics?token=secret",
        "protocol": "HTTP/1.1",
        "response_code": 200,
        "response_flags": "-",
        "response_code_details": "via_upstream",
        "connection_termination_details": None,
        "upstream_transport_failure_reason": None,
        "bytes_received": 0,
        "bytes_sent": 148528,
        "duration": 229,
        "upstream_service_time": "90",
        "x_forwarded_for": "10.80.3.231",
        "user_agent": "curl/7.64.0",
        "request_id": "2151bde2-4382-4e2f-b088-e464943c2a9b",
        "authority": "edition.cnn.com",
        "upstream_host": "151.101.1.67:80",
        "upstream_cluster": "outbound|80||edition.cnn.com",
        "upstream_local_address": "10.80.3.231:48390",
        "downstream_local_address": "151.101.65.67:80",
        "downstream_remote_address": "172.30.109.89:51234",
        "requested_server_name": None,
        "route_name": "default",
    }


@given(records)
def test_the_json_says_what_the_text_says(record):
    line = json.loads(istio_json_line(record))
    assert str(line["response_code"]) == printed("%RESPONSE_CODE%", record)
    assert line["response_flags"] == printed("%RESPONSE_FLAGS%", record)
    if record.exchange is not None and record.exchange.user_agent not in (None, "", "-"):
        assert line["user_agent"] == record.exchange.user_agent[:MAX_TEXT]
