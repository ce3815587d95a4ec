"""Lines of Squid 5.7 that were read off Squid itself stand here with size, time and addresses of these records."""

import json
import re
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.records import DENIED, GARBAGE, LEFT, NO_TUNNEL, NOT_FOUND, REFUSED, TUNNEL, UNREAD

from egressproxy.model import ConnectionRecord, Endpoint, Intent, Target, Verdict
from egressproxy.telemetry.access_log import FORMATS, MAX_TEXT
from egressproxy.telemetry.record import RecordDraft

SAMPLES = Path(__file__).parents[3] / "shared" / "istio" / "sample-logs" / "squid-native.log"

squid, squid_5, json_form = FORMATS["squid"].close, FORMATS["squid-5"].close, FORMATS["json"].close


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


def test_every_line_has_the_same_keys_in_the_same_order():
    keys = list(json.loads(json_form(TUNNEL)))
    for record in (DENIED, NOT_FOUND, REFUSED, GARBAGE, LEFT):
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
        "server_name": None,
        "rule": "wiki",
        "reason": "allowed by rule wiki",
        "reported": True,
        "upstream": "[2001:db8::1]:443",
    }
    assert set(line) <= set(json.loads(json_form(TUNNEL)))


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
    for name in ("rule", "reason", "outcome", "detail", "closed_by"):
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


@given(texts, st.none() | texts, st.none() | texts)
def test_an_opening_line_is_json_whatever_the_draft_holds(client, method, target_text):
    draft = RecordDraft(1, "l", "http-proxy", client, 1, 0.0)
    draft.method, draft.target_text = method, target_text
    open_line = FORMATS["json"].open_line
    assert open_line is not None
    text = open_line(draft, 1544160065.0)
    assert not [c for c in text if unicodedata.category(c) == "Cc"]
    assert json.loads(text)["client"] == client[:MAX_TEXT]
