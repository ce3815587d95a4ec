"""Lines of Squid 5.7 that were read off Squid itself stand here with size, time and addresses of these records."""

import json
import re
import time
import unicodedata
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.leaves import LEAVES
from support.records import (
    DENIED,
    ENDED_AT,
    GARBAGE,
    LEFT,
    MISMATCH,
    NO_SNI,
    NO_TUNNEL,
    NOT_FOUND,
    REFUSED,
    SNI_DENIED,
    SNI_TUNNEL,
    TUNNEL,
    UNREAD,
)

from egressproxy.errors import PolicyError, UpstreamError
from egressproxy.model import ConnectionRecord, Endpoint, Intent, Target, Verdict
from egressproxy.telemetry.access_log import FORMATS
from egressproxy.telemetry.formats.text import MAX_TEXT, local_time
from egressproxy.telemetry.record import RecordDraft

SAMPLES = Path(__file__).parents[3] / "shared" / "istio" / "sample-logs" / "squid-native.log"
NGINX_SAMPLES = SAMPLES.with_name("nginx-log-stream.log")

squid, squid_5, json_form = FORMATS["squid"].close, FORMATS["squid-5"].close, FORMATS["json"].close
nginx, nginx_1_22 = FORMATS["nginx-stream"].close, FORMATS["nginx-stream-1.22"].close


def after_time(line: str) -> str:
    """The line behind its 14 characters of time, where the padding of the elapsed time begins."""
    return line[14:]


# --- Squid --------------------------------------------------------------------------------------------------------


def test_a_tunnel_is_logged_as_squid_logs_it():
    assert squid(TUNNEL) == (
        "1544160065.248    228 172.30.109.89 TCP_TUNNEL/200 87633"
        " CONNECT en.wikipedia.org:443 - HIER_DIRECT/91.198.174.192 -"
    )
    assert squid_5(TUNNEL) == squid(TUNNEL)


def test_the_sample_lines_come_out_of_records_with_their_values():
    if not SAMPLES.exists():
        pytest.skip(f"no sample logs at {SAMPLES.name}")
    pattern = re.compile(r"(\S+) +(\d+) (\S+) TCP_TUNNEL/200 (\d+) CONNECT (\S+):(\d+) - HIER_DIRECT/(\S+) -", re.ASCII)
    lines = SAMPLES.read_text().splitlines()
    assert lines
    for line in lines:
        match = pattern.fullmatch(line)
        assert match is not None, line
        time_s, elapsed_ms, client, size, host, port, address = match.groups()
        record = TUNNEL._replace(
            ended_at_unix_s=float(time_s),
            tunnel_s=(int(elapsed_ms) + 0.5) / 1000,
            client=client,
            bytes_down=int(size) - 39,
            target=Target(host, int(port), False),
            upstream=Endpoint(address, 443),
        )
        assert squid(record) == line


def test_a_tunnel_that_no_head_opened_counts_only_what_was_carried():
    assert " TCP_TUNNEL/200 87594 " in squid(TUNNEL._replace(protocol="sni", reply_bytes=0))


@pytest.mark.parametrize(
    ("elapsed_s", "shown"), [(0.0, "      0 "), (0.0009, "      0 "), (12.3456, "  12345 "), (86400.0, " 86400000 ")]
)
def test_elapsed_time_is_whole_milliseconds_padded_to_six(elapsed_s, shown):
    assert after_time(squid(TUNNEL._replace(tunnel_s=elapsed_s))).startswith(shown)


def test_a_tunnel_that_idled_out_or_was_reset_is_a_tunnel_like_any_other():
    for outcome in ("idle_timeout", "client_reset", "upstream_reset", "cut"):
        assert squid(TUNNEL._replace(outcome=outcome)) == squid(TUNNEL)


def test_ipv6_is_bracketed_in_the_target_and_nowhere_else():
    record = TUNNEL._replace(
        client="::1", target=Target("2001:db8::1", 18443, True), upstream=Endpoint("2001:db8::1", 18443)
    )
    assert after_time(squid(record)) == (
        "    228 ::1 TCP_TUNNEL/200 87633 CONNECT [2001:db8::1]:18443 - HIER_DIRECT/2001:db8::1 -"
    )


@pytest.mark.parametrize(
    ("record", "line", "line_of_5"),
    [
        (
            DENIED,
            "      0 172.30.109.89 TCP_DENIED/403 310 CONNECT en.wikipedia.org:443 - HIER_NONE/- text/html",
            None,
        ),
        (
            DENIED._replace(status=None, reply_bytes=0),
            "      0 172.30.109.89 TCP_DENIED_ABORTED/000 0 CONNECT en.wikipedia.org:443 - HIER_NONE/- text/html",
            None,
        ),
        (
            DENIED._replace(outcome="address_denied", tunnel_s=0.0125),
            "     12 172.30.109.89 TCP_DENIED/403 310 CONNECT en.wikipedia.org:443 - HIER_NONE/- text/html",
            None,
        ),
        (
            DENIED._replace(outcome="loop_detected", status=508),
            "      0 172.30.109.89 TCP_DENIED/508 310 CONNECT en.wikipedia.org:443 - HIER_NONE/- text/html",
            None,
        ),
        (
            NOT_FOUND,
            "    228 172.30.109.89 TCP_TUNNEL/503 0 CONNECT en.wikipedia.org:443 - HIER_NONE/- -",
            "    228 172.30.109.89 NONE_NONE/503 0 CONNECT en.wikipedia.org:443 - HIER_NONE/- -",
        ),
        (
            REFUSED,
            "    228 172.30.109.89 TCP_TUNNEL/503 0 CONNECT en.wikipedia.org:443 - HIER_DIRECT/91.198.174.192 -",
            "    228 172.30.109.89 NONE_NONE/503 0 CONNECT en.wikipedia.org:443 - HIER_DIRECT/91.198.174.192 -",
        ),
        (
            REFUSED._replace(outcome="client_gone", status=None, reply_bytes=0, connected=True),
            "    228 172.30.109.89 TCP_TUNNEL/000 0 CONNECT en.wikipedia.org:443 - HIER_DIRECT/91.198.174.192 -",
            "    228 172.30.109.89 NONE_NONE/000 0 CONNECT en.wikipedia.org:443 - HIER_DIRECT/91.198.174.192 -",
        ),
        (GARBAGE, "      0 172.30.109.89 NONE_NONE/400 250 - error:invalid-request - HIER_NONE/- text/html", None),
        (LEFT, "      0 172.30.109.89 NONE_NONE/000 0 - error:transaction-end-before-headers - HIER_NONE/- -", None),
        (
            LEFT._replace(outcome="client_tls_failed"),
            "      0 172.30.109.89 NONE_NONE/000 0 - error:transaction-end-before-headers - HIER_NONE/- -",
            None,
        ),
        (
            UNREAD._replace(outcome="head_timeout", status=408, reply_bytes=260),
            "      0 172.30.109.89 NONE_NONE/408 260 - error:transaction-end-before-headers - HIER_NONE/- text/html",
            None,
        ),
        (
            UNREAD._replace(outcome="head_too_large", status=431, reply_bytes=260),
            "      0 172.30.109.89 NONE_NONE/431 260 - error:request-too-large - HIER_NONE/- text/html",
            None,
        ),
        (
            UNREAD._replace(outcome="target_too_long", status=414, reply_bytes=260, method="CONNECT"),
            "      0 172.30.109.89 NONE_NONE/414 260 CONNECT error:request-too-large - HIER_NONE/- text/html",
            None,
        ),
        (
            UNREAD._replace(
                outcome="malformed_target",
                status=400,
                reply_bytes=260,
                method="CONNECT",
                target_text="127.0.0.1:99999",
            ),
            "      0 172.30.109.89 NONE_NONE/400 260 CONNECT 127.0.0.1:99999 - HIER_NONE/- text/html",
            None,
        ),
        (
            UNREAD._replace(
                outcome="method_not_implemented",
                status=501,
                reply_bytes=260,
                method="GET",
                target_text="http://bad.example/x?token=y",
            ),
            "      0 172.30.109.89 NONE_NONE/501 260 GET http://bad.example/x? - HIER_NONE/- text/html",
            None,
        ),
        (
            NO_TUNNEL._replace(outcome="tunnel_limit", status=503, reply_bytes=260, rule=None, reason=None),
            "    228 172.30.109.89 NONE_NONE/503 260 CONNECT en.wikipedia.org:443 - HIER_NONE/- text/html",
            None,
        ),
    ],
)
def test_what_is_not_a_tunnel_has_squids_code_for_it(record, line, line_of_5):
    assert after_time(squid(record)) == line
    assert after_time(squid_5(record)) == (line_of_5 or line)


@pytest.mark.parametrize(
    ("record", "line", "line_of_5"),
    [
        (
            SNI_TUNNEL,
            "    228 172.30.109.89 TCP_TUNNEL/200 87594 CONNECT en.wikipedia.org:443 - HIER_DIRECT/91.198.174.192 -",
            None,
        ),
        (SNI_DENIED, "      0 172.30.109.89 TCP_DENIED/403 7 CONNECT en.wikipedia.org:443 - HIER_NONE/- -", None),
        (
            SNI_DENIED._replace(reply_bytes=0),
            "      0 172.30.109.89 TCP_DENIED_ABORTED/403 0 CONNECT en.wikipedia.org:443 - HIER_NONE/- -",
            None,
        ),
        (
            SNI_DENIED._replace(outcome="ech_denied"),
            "      0 172.30.109.89 TCP_DENIED/403 7 CONNECT en.wikipedia.org:443 - HIER_NONE/- -",
            None,
        ),
        (
            SNI_DENIED._replace(outcome="name_not_found", status=503),
            "      0 172.30.109.89 TCP_TUNNEL/503 0 CONNECT en.wikipedia.org:443 - HIER_NONE/- -",
            "      0 172.30.109.89 NONE_NONE/503 0 CONNECT en.wikipedia.org:443 - HIER_NONE/- -",
        ),
        (
            NO_SNI,
            "      0 172.30.109.89 NONE_NONE/400 7 CONNECT error:invalid-request - HIER_NONE/- -",
            None,
        ),
        (
            MISMATCH,
            "    228 172.30.109.89 TCP_TUNNEL/200 46 CONNECT en.wikipedia.org:443 - HIER_DIRECT/91.198.174.192 -",
            None,
        ),
        (
            UNREAD._replace(outcome="announcer_denied", reply_bytes=0, status=None),
            "      0 172.30.109.89 NONE_NONE/000 0 - error:transaction-end-before-headers - HIER_NONE/- -",
            None,
        ),
    ],
)
def test_a_tunnel_by_server_name_has_squids_code_of_a_tunnel_and_no_page(record, line, line_of_5):
    """What a refused client got is an alert of 7 bytes: it has no media type."""
    assert after_time(squid(record)) == line
    assert after_time(squid_5(record)) == (line_of_5 or line)


def test_a_user_stands_in_the_eighth_field_and_cannot_leave_it():
    assert squid(TUNNEL._replace(user="ci")).split()[7] == "ci"
    assert squid(TUNNEL._replace(user="c i\n\u2028é")).split(" ")[-3] == "c%20i%0A%E2%80%A8%C3%A9"


# --- JSON ---------------------------------------------------------------------------------------------------------

KEYS_WITH_UNITS = {"duration_ms": 229.5, "head_ms": 1.0, "resolve_ms": 2.0, "connect_ms": 12.3}


def test_a_json_line_holds_the_record():
    assert json.loads(json_form(TUNNEL)) == {
        "event": "close",
        "time": "2018-12-07T05:21:05.248Z",
        "connection": 7,
        "listener": "http-proxy:3128",
        "protocol": "http-proxy",
        "client": "172.30.109.89",
        "client_port": 51234,
        "method": "CONNECT",
        "host": "en.wikipedia.org",
        "port": 443,
        "target": None,
        "http_version": "1.1",
        "user": None,
        "dialled": None,
        "server_name": None,
        "sni_check": None,
        "rule": "wiki",
        "reason": "allowed by rule wiki",
        "reported": False,
        "status": 200,
        "outcome": "closed",
        "detail": None,
        "upstream": "91.198.174.192:443",
        "connected": True,
        "opened": True,
        "reply_bytes": 39,
        "bytes_up": 702,
        "bytes_down": 87594,
        "closed_by": "client",
        **KEYS_WITH_UNITS,
    }


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (SNI_TUNNEL, ("sni", "en.wikipedia.org", "en.Wikipedia.org", None, 200, "closed", None)),
        (SNI_DENIED, ("sni", "en.wikipedia.org", "en.Wikipedia.org", None, 403, "rule_denied", None)),
        (NO_SNI, ("sni", None, "", None, 400, "no_sni", "")),
        (MISMATCH, ("http-proxy", "en.wikipedia.org", "evil.example", "mismatch", 200, "sni_mismatch", None)),
    ],
)
def test_a_json_line_tells_both_names_and_what_the_check_found(record, expected):
    line = json.loads(json_form(record))
    keys = ("protocol", "host", "server_name", "sni_check", "status", "outcome", "target")
    assert tuple(line[key] for key in keys) == expected


def test_every_line_has_the_same_keys_in_the_same_order():
    keys = list(json.loads(json_form(TUNNEL)))
    for record in (DENIED, NOT_FOUND, REFUSED, GARBAGE, LEFT, SNI_TUNNEL, SNI_DENIED, NO_SNI, MISMATCH):
        assert list(json.loads(json_form(record))) == keys


def test_the_time_rounds_up_into_the_next_second():
    line = json.loads(json_form(TUNNEL._replace(ended_at_unix_s=1544160059.9996)))
    assert line["time"] == "2018-12-07T05:21:00.000Z"


def test_an_opening_line_has_keys_of_the_closing_line():
    draft = RecordDraft(7, "http-proxy:3128", "http-proxy", "::1", 51234, 5.0)
    draft.intent = Intent("::1", "http-proxy:3128", "CONNECT", Target("en.wikipedia.org", 443, False))
    draft.verdict = Verdict(True, "wiki", "allowed by rule wiki", reported=True)
    draft.upstream = Endpoint("2001:db8::1", 443)
    draft.http_version = "1.0"
    open_line = FORMATS["json"].open_line
    assert open_line is not None
    line = json.loads(open_line(draft, 1544160065.0))
    assert line == {
        "event": "open",
        "time": "2018-12-07T05:21:05.000Z",
        "connection": 7,
        "listener": "http-proxy:3128",
        "protocol": "http-proxy",
        "client": "::1",
        "client_port": 51234,
        "method": "CONNECT",
        "host": "en.wikipedia.org",
        "port": 443,
        "target": None,
        "http_version": "1.0",
        "user": None,
        "dialled": None,
        "server_name": None,
        "rule": "wiki",
        "reason": "allowed by rule wiki",
        "reported": True,
        "upstream": "[2001:db8::1]:443",
    }
    assert set(line) <= set(json.loads(json_form(TUNNEL)))


# --- NGINX --------------------------------------------------------------------------------------------------------


@pytest.fixture
def zone(monkeypatch):
    """Sets the time zone of the process, as TZ has it."""

    def set_zone(name):
        monkeypatch.setenv("TZ", name)
        time.tzset()
        local_time.cache_clear()

    yield set_zone
    monkeypatch.undo()
    time.tzset()
    local_time.cache_clear()


def test_a_tunnel_is_logged_as_nginx_logs_it(zone):
    """Two strings that touch between name and status; the name as it was sent; times at the end."""
    zone("UTC")
    record = SNI_TUNNEL._replace(bytes_up=1219)
    line = "172.30.109.89 [07/Dec/2018:05:21:05 +0000] TCP [en.Wikipedia.org]200 87594 1219 0.230"
    assert nginx(record) == line.replace("0.230", f"{record.duration_s:.3f}")
    assert nginx_1_22(record) == nginx(record).replace(" 1219 ", " 702 ")


def test_the_sample_lines_of_nginx_come_out_of_records_with_their_values(zone):
    if not NGINX_SAMPLES.exists():
        pytest.skip(f"no sample logs at {NGINX_SAMPLES.name}")
    zone("UTC")
    pattern = re.compile(r"(\S+) \[(.+?)\] TCP \[(.+)\]200 (\d+) (\d+) (\d+\.\d{3})", re.ASCII)
    lines = NGINX_SAMPLES.read_text().splitlines()
    assert lines
    for line in lines:
        match = pattern.fullmatch(line)
        assert match is not None, line
        client, ended_at, name, sent, received, seconds = match.groups()
        record = SNI_TUNNEL._replace(
            client=client,
            ended_at_unix_s=datetime.strptime(ended_at, "%d/%b/%Y:%H:%M:%S %z").timestamp() + 0.999,
            server_name=name,
            bytes_down=int(sent),
            bytes_up=int(received) + 517,
            preread_bytes=517,
            duration_s=float(seconds),
        )
        assert nginx_1_22(record) == line  # the samples are of a version that did not count the ClientHello
        assert nginx(record._replace(bytes_up=int(received))) == line


def test_the_time_is_that_of_the_end_in_the_zone_of_the_process(zone):
    zone("XST-5:30")
    assert " [07/Dec/2018:10:51:05 +0530] " in nginx(SNI_TUNNEL)
    zone("UTC+3")
    assert " [07/Dec/2018:02:21:05 -0300] " in nginx(SNI_TUNNEL)
    assert " [07/Dec/2018:02:21:06 -0300] " in nginx(SNI_TUNNEL._replace(ended_at_unix_s=ENDED_AT + 0.752))


@pytest.mark.parametrize(
    ("duration_s", "shown"), [(0.0, "0.000"), (0.0004, "0.000"), (0.6, "0.600"), (630.1309, "630.131")]
)
def test_the_session_time_is_seconds_with_milliseconds(duration_s, shown):
    assert nginx(SNI_TUNNEL._replace(duration_s=duration_s)).endswith(f" {shown}")


NGINX_STATUS = {
    # a peer that sends nothing, or leaves before its hello is complete
    "client_gone": 200,
    "hello_timeout": 200,
    "head_timeout": 200,
    # what was read ahead does not fit, or what must come first is broken
    "hello_too_large": 400,
    "malformed_proxy_header": 400,
    # not allowed
    "rule_denied": 403,
    "address_denied": 403,
    "loop_detected": 403,
    "sni_mismatch": 403,
    "ech_denied": 403,
    "announcer_denied": 403,
    # a name that does not resolve, or none that can be read: `no host in upstream`
    "no_sni": 500,
    "not_tls": 500,
    "malformed_hello": 500,
    "name_not_found": 500,
    "resolver_failed": 500,
    "resolver_timeout": 500,
    # HTTP where TLS was expected is no name either
    "malformed_request": 500,
    "malformed_target": 500,
    "head_too_large": 500,
    "target_too_long": 500,
    "method_not_implemented": 500,
    "client_tls_failed": 500,
    "body_timeout": 500,
    "body_too_large": 500,
    # nor is a credential that is not there
    "credential_missing": 500,
    # no address accepts
    "connect_refused": 502,
    "connect_failed": 502,
    "connect_timeout": 502,
    # an upstream that accepts, and fails later
    "no_endpoint": 502,
    "tls_failed": 502,
    "tls_certificate_expired": 502,
    "tls_wrong_host": 502,
    "tls_unknown_ca": 502,
    "tls_client_certificate_required": 502,
    "tls_version": 502,
    "tls_timeout": 502,
    "upstream_protocol_error": 502,
    "upstream_closed": 502,
    "upstream_timeout": 502,
    "upstream_idle_timeout": 502,
    # no room
    "tunnel_limit": 503,
    "draining": 503,
    "out_of_descriptors": 500,
    "internal_error": 500,
}


def status_of(line):
    match = re.search(r"\](\d{3}) ", line)
    assert match is not None
    return int(match[1])


@pytest.mark.parametrize("error", LEAVES, ids=lambda error: error.slug)
def test_every_way_to_fail_has_a_status_of_nginx(error):
    """200, 400, 403, 500, 502 and 503 are all there are."""
    record = SNI_DENIED if issubclass(error, (PolicyError, UpstreamError)) else NO_SNI
    record = record._replace(outcome=error.slug, status=error.status)
    assert status_of(nginx(record)) == NGINX_STATUS[error.slug]
    assert status_of(nginx_1_22(record)) == NGINX_STATUS[error.slug]


@pytest.mark.parametrize(
    "outcome",
    [
        "closed",
        "client_reset",
        "upstream_reset",
        "idle_timeout",
        "half_close_timeout",
        "drained",
        "cut",
        "sni_mismatch",
    ],
)
def test_a_session_that_came_about_is_200_however_it_ended(outcome):
    assert status_of(nginx(SNI_TUNNEL._replace(outcome=outcome))) == 200


def test_a_refused_client_got_its_alert_and_was_not_counted():
    line = nginx(SNI_DENIED)
    assert re.search(r" TCP \[en\.Wikipedia\.org\]403 7 0 \d+\.\d{3}$", line)
    assert nginx_1_22(SNI_DENIED) == line


def test_a_name_that_is_not_there_leaves_its_brackets_empty():
    assert " TCP []500 7 0 " in nginx(NO_SNI)
    assert " TCP []200 " in nginx(TUNNEL)


# --- whatever is in the record ------------------------------------------------------------------------------------

texts = st.text(
    st.one_of(st.characters(), st.sampled_from('\n\r\t\x00\x1b\x7f\x85\u2028\ud800\udcff"\\ %?')), max_size=MAX_TEXT + 9
)
maybe_text = st.none() | texts
seconds = st.none() | st.floats(0, 1e6)
counts = st.integers(0, 2**63)
hosts = st.from_regex(r"[a-z0-9_.:-]{1,40}", fullmatch=True)

records = st.builds(
    ConnectionRecord,
    number=counts,
    listener=texts,
    protocol=texts,
    client=texts,
    client_port=st.integers(0, 65535),
    ended_at_unix_s=st.floats(0, 4e9),
    duration_s=st.floats(0, 1e6),
    tunnel_s=seconds,
    method=maybe_text,
    target=st.none() | st.builds(Target, hosts, st.integers(1, 65535), st.booleans()),
    target_text=maybe_text,
    http_version=maybe_text,
    user=maybe_text,
    rule=maybe_text,
    reason=maybe_text,
    reported=st.booleans(),
    status=st.none() | st.integers(100, 599),
    outcome=texts | st.sampled_from(["closed", "rule_denied", "malformed_request", "head_too_large"]),
    detail=maybe_text,
    upstream=st.none() | st.builds(Endpoint, hosts, st.integers(1, 65535)),
    connected=st.booleans(),
    opened=st.booleans(),
    reply_bytes=counts,
    bytes_up=counts,
    bytes_down=counts,
    closed_by=texts,
    head_s=seconds,
    resolve_s=seconds,
    connect_s=seconds,
    server_name=maybe_text,
    sni_check=maybe_text,
    preread_bytes=counts,
)


@given(records)
def test_no_line_of_any_format_holds_a_line_end_or_a_control_character(record):
    for form in FORMATS.values():
        line = form.close(record)
        assert line.isascii()
        assert not [c for c in line if unicodedata.category(c) == "Cc"]


@given(records)
def test_a_json_line_gives_the_values_back(record):
    line = json.loads(json_form(record))

    def cut(text: str | None) -> str | None:
        return None if text is None else text[:MAX_TEXT]

    for name in ("listener", "protocol", "client", "method", "http_version", "user"):
        assert line[name] == cut(getattr(record, name)), name
    for name in ("rule", "reason", "outcome", "detail", "closed_by", "server_name", "sni_check"):
        assert line[name] == cut(getattr(record, name)), name
    for name in ("client_port", "reported", "status", "connected", "opened", "reply_bytes", "bytes_up", "bytes_down"):
        assert line[name] == getattr(record, name), name
    for name in ("duration", "head", "resolve", "connect"):
        value_s = getattr(record, f"{name}_s")
        assert line[f"{name}_ms"] == (None if value_s is None else pytest.approx(value_s * 1000, abs=0.0006))
    if record.target is None:
        assert (line["host"], line["port"], line["target"]) == (None, None, cut(record.target_text))
    else:
        assert (line["host"], line["port"], line["target"]) == (record.target.host, record.target.port, None)
    assert line["upstream"] == (None if record.upstream is None else str(record.upstream))


@given(records)
def test_a_squid_line_has_ten_fields(record):
    for form in (squid, squid_5):
        assert len(form(record).split()) == 10
        assert len(form(record._replace(opened=True, target=TUNNEL.target, upstream=TUNNEL.upstream)).split()) == 10


@given(records)
def test_an_nginx_line_ends_in_a_status_and_three_numbers(record):
    for form in (nginx, nginx_1_22):
        line = form(record)
        assert re.fullmatch(
            r".* \[\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}\] TCP \[.*\]\d{3} \d+ \d+ \d+\.\d{3}", line
        )


@given(texts, st.none() | texts, st.none() | texts)
def test_an_opening_line_is_json_whatever_the_draft_holds(client, method, target_text):
    draft = RecordDraft(1, "l", "http-proxy", client, 1, 0.0)
    draft.method, draft.target_text = method, target_text
    open_line = FORMATS["json"].open_line
    assert open_line is not None
    text = open_line(draft, 1544160065.0)
    assert not [c for c in text if unicodedata.category(c) == "Cc"]
    assert json.loads(text)["client"] == client[:MAX_TEXT]
