import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.any_record import exchanges, records, texts
from support.records import (
    ANSWERED,
    DENIED,
    GARBAGE,
    LEFT,
    MISMATCH,
    NO_ANSWER,
    NO_SNI,
    NOT_FOUND,
    REFUSED,
    REQUEST_DENIED,
    SNI_DENIED,
    SNI_TUNNEL,
    TUNNEL,
)

from egressproxy.model import Endpoint, Intent, Target, Verdict
from egressproxy.telemetry.formats.json_lines import json_line as json_form
from egressproxy.telemetry.formats.json_lines import json_open_line as open_line
from egressproxy.telemetry.formats.text import MAX_TEXT
from egressproxy.telemetry.record import RecordDraft

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
        "service": None,
        "parent": None,
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


KEYS_OF_REQUESTS = {
    "request": 1,
    "path": "/politics",
    "authority": "edition.cnn.com",
    "user_agent": "curl/7.64.0",
    "request_id": "2151bde2-4382-4e2f-b088-e464943c2a9b",
    "forwarded_for": "10.80.3.231",
    "upstream_status": 200,
    "content_type": "text/html",
    "response_ms": 90.2,
    "reused": False,
    "attempts": 1,
    "tls": None,
    "upgraded": False,
    "complete": True,
}


def test_a_request_has_an_event_of_its_own_and_more_keys():
    line = json.loads(json_form(ANSWERED))
    assert line["event"] == "request"
    assert list(line) == [*json.loads(json_form(TUNNEL)), *KEYS_OF_REQUESTS]
    assert {key: line[key] for key in KEYS_OF_REQUESTS} == KEYS_OF_REQUESTS


def test_the_service_is_told_of_tunnels_and_of_requests():
    for record in (TUNNEL, SNI_TUNNEL, ANSWERED, REQUEST_DENIED):
        assert json.loads(json_form(record._replace(service="*.cnn.com")))["service"] == "*.cnn.com"


def test_no_query_is_told():
    for record in (ANSWERED, NO_ANSWER, REQUEST_DENIED):
        assert "secret" not in json_form(record)


def test_every_request_has_the_same_keys_in_the_same_order():
    keys = list(json.loads(json_form(ANSWERED)))
    for record in (NO_ANSWER, REQUEST_DENIED):
        assert list(json.loads(json_form(record))) == keys


@given(records, exchanges)
def test_a_request_gives_its_values_back(record, exchange):
    line = json.loads(json_form(record._replace(exchange=exchange)))
    for name in ("authority", "user_agent", "request_id", "forwarded_for", "content_type", "tls"):
        value = getattr(exchange, name)
        assert line[name] == (None if value is None else value[:MAX_TEXT]), name
    for name in ("request", "upstream_status", "reused", "attempts", "upgraded", "complete"):
        assert line[name] == getattr(exchange, name), name
    assert line["path"] == exchange.path.partition("?")[0][:MAX_TEXT]


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
        "service": None,
        "parent": None,
        "upstream": "[2001:db8::1]:443",
    }
    assert set(line) <= set(json.loads(json_form(TUNNEL)))


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


@given(texts, st.none() | texts, st.none() | texts)
def test_an_opening_line_is_json_whatever_the_draft_holds(client, method, target_text):
    draft = RecordDraft(1, "l", "http-proxy", client, 1, 0.0)
    draft.method, draft.target_text = method, target_text
    text = open_line(draft, 1544160065.0)
    assert not [c for c in text if unicodedata.category(c) == "Cc"]
    assert json.loads(text)["client"] == client[:MAX_TEXT]
