from egressproxy.errors import ClientGone, ConnectRefused, Draining, RuleDenied, UpstreamClosed
from egressproxy.model import Endpoint, Exchange, Intent, Target, Transfer, Verdict
from egressproxy.telemetry.record import ExchangeDraft, RecordDraft

INTENT = Intent("10.1.2.3", "http-proxy:3128", "CONNECT", Target("example.com", 443, False))
VERDICT = Verdict(True, "ci", "allowed by rule ci")
UPSTREAM = Endpoint("192.0.2.7", 443)


class Relay:
    def __init__(self, bytes_up: int, bytes_down: int) -> None:
        self.bytes_up = bytes_up
        self.bytes_down = bytes_down


def new_draft() -> RecordDraft:
    return RecordDraft(3, "http-proxy:3128", "http-proxy", "10.1.2.3", 51000, 100.0)


def tunnel_draft() -> RecordDraft:
    draft = new_draft()
    draft.head_at, draft.resolved_at, draft.connected_at = 100.5, 100.75, 101.0
    draft.intent, draft.verdict, draft.upstream = INTENT, VERDICT, UPSTREAM
    draft.connected = draft.opened = True
    draft.status, draft.reply_bytes = 200, 39
    return draft


def test_a_tunnel_has_all_phases_each_from_the_end_of_the_one_before():
    draft = tunnel_draft()
    draft.transfer = Transfer(10, 20, "upstream", "closed")
    record = draft.finish(105.0, 1600000000.5)
    assert (record.duration_s, record.tunnel_s) == (5.0, 4.5)
    assert (record.head_s, record.resolve_s, record.connect_s) == (0.5, 0.25, 0.25)
    assert (record.bytes_up, record.bytes_down, record.closed_by, record.outcome) == (10, 20, "upstream", "closed")
    assert (record.rule, record.reason, record.reported) == ("ci", "allowed by rule ci", False)
    assert (record.method, record.target, record.upstream) == ("CONNECT", INTENT.target, UPSTREAM)
    assert record.opened
    assert record.connected
    assert record.ended_at_unix_s == 1600000000.5


def test_every_field_of_the_draft_lands_in_the_field_of_the_same_name():
    draft = tunnel_draft()
    draft.target_text, draft.http_version, draft.user = "Example.com:443", "1.0", "ci"
    record = draft.finish(105.0, 1600000000.5)
    for name in (
        "number",
        "listener",
        "protocol",
        "client",
        "client_port",
        "target_text",
        "http_version",
        "user",
        "status",
        "upstream",
        "connected",
        "opened",
        "reply_bytes",
    ):
        assert getattr(record, name) == getattr(draft, name), name


def test_an_address_literal_needs_no_time_of_resolution():
    draft = tunnel_draft()
    draft.resolved_at = None
    record = draft.finish(105.0, 1600000000.5)
    assert (record.resolve_s, record.connect_s) == (None, 0.5)


def test_phases_that_were_not_reached_are_none():
    draft = new_draft()
    draft.error = ClientGone("left")
    record = draft.finish(100.5, 1600000000.5)
    assert (record.tunnel_s, record.head_s, record.resolve_s, record.connect_s) == (None, None, None, None)
    assert (record.duration_s, record.outcome, record.closed_by, record.detail) == (
        0.5,
        "client_gone",
        "client",
        "left",
    )


def test_a_refusal_has_the_error_s_slug_and_was_closed_by_the_proxy():
    draft = new_draft()
    draft.head_at, draft.intent, draft.verdict = 100.1, INTENT, Verdict(False, "rest", "refused by rule rest")
    draft.error = RuleDenied("refused by rule rest: example.com:443")
    record = draft.finish(100.2, 1600000000.5)
    assert (record.outcome, record.rule, record.closed_by) == ("rule_denied", "rest", "proxy")
    assert record.detail == "refused by rule rest: example.com:443"
    assert not record.opened


def test_the_last_address_tried_is_taken_from_the_error():
    draft = new_draft()
    draft.head_at, draft.intent, draft.verdict = 100.1, INTENT, VERDICT
    draft.error = ConnectRefused("refused", endpoint=UPSTREAM)
    record = draft.finish(100.2, 1600000000.5)
    assert record.upstream == UPSTREAM
    assert not record.connected


def test_a_tunnel_that_was_cut_keeps_the_bytes_it_carried():
    draft = tunnel_draft()
    draft.relay = Relay(11, 22)
    draft.error = Draining("shutting down")
    record = draft.finish(105.0, 1600000000.5)
    assert (record.bytes_up, record.bytes_down, record.closed_by, record.outcome) == (11, 22, "proxy", "draining")


def test_with_neither_transfer_nor_error_the_outcome_is_cut():
    assert new_draft().finish(101.0, 1600000000.5).outcome == "cut"


def test_the_live_view_follows_the_phases():
    draft = new_draft()
    assert draft.view(101.0)["phase"] == "head"
    draft.head_at, draft.intent, draft.verdict = 100.5, INTENT, VERDICT
    assert draft.view(101.0)["phase"] == "resolve"
    draft.resolved_at = 100.75
    assert draft.view(101.0)["phase"] == "connect"
    draft.upstream, draft.opened, draft.relay = UPSTREAM, True, Relay(5, 6)
    assert draft.view(102.25) == {
        "connection": 3,
        "listener": "http-proxy:3128",
        "client": "10.1.2.3",
        "client_port": 51000,
        "phase": "open",
        "method": "CONNECT",
        "target": "example.com:443",
        "path": None,
        "request": None,
        "rule": "ci",
        "reported": False,
        "dialled": None,
        "server_name": None,
        "sni_check": None,
        "upstream": "192.0.2.7:443",
        "age_s": 2.25,
        "bytes_up": 5,
        "bytes_down": 6,
    }


REQUEST = Intent("10.1.2.3", "http-proxy:3128", "GET", Target("example.com", 80, False), path="/x")


def request_draft() -> RecordDraft:
    draft = new_draft()
    draft.head_at, draft.resolved_at, draft.connected_at = 100.5, 100.75, 101.0
    draft.intent, draft.verdict, draft.upstream, draft.connected = REQUEST, VERDICT, UPSTREAM, True
    exchange = draft.exchange = ExchangeDraft(2, "/x?secret", "example.com")
    exchange.attempts, exchange.bytes_up, exchange.bytes_down = 1, 3, 50
    draft.status, draft.reply_bytes = 200, 120
    return draft


def test_a_request_that_was_answered_whole():
    draft = request_draft()
    assert draft.exchange is not None
    draft.exchange.response_at, draft.exchange.upstream_status, draft.exchange.complete = 101.5, 200, True
    record = draft.finish(105.0, 1600000000.5)
    assert (record.outcome, record.closed_by, record.opened) == ("answered", "proxy", False)
    assert (record.bytes_up, record.bytes_down, record.reply_bytes) == (3, 50, 120)
    assert record.exchange == Exchange(
        2, "/x?secret", "example.com", upstream_status=200, response_s=1.0, attempts=1, complete=True
    )


def test_every_field_of_an_exchange_lands_in_the_field_of_the_same_name():
    exchange = ExchangeDraft(2, "/", "a.example")
    for number, name in enumerate(Exchange._fields):
        if name != "response_s":
            setattr(exchange, name, f"value {number}")
    finished = exchange.finish(None)
    assert finished._asdict() == {
        name: None if name == "response_s" else f"value {number}" for number, name in enumerate(Exchange._fields)
    }


def test_a_request_that_was_not_answered_whole_has_the_error_s_slug_and_what_was_carried():
    draft = request_draft()
    draft.error = UpstreamClosed("closed", endpoint=UPSTREAM)
    record = draft.finish(105.0, 1600000000.5)
    assert (record.outcome, record.closed_by, record.bytes_down) == ("upstream_closed", "proxy", 50)
    draft.error = ClientGone("left")
    record = draft.finish(105.0, 1600000000.5)
    assert (record.outcome, record.closed_by) == ("client_gone", "client")


def test_a_request_that_became_a_tunnel_ends_as_one():
    draft = request_draft()
    assert draft.exchange is not None
    draft.exchange.upgraded, draft.opened = True, True
    draft.transfer = Transfer(10, 20, "upstream", "closed")
    record = draft.finish(105.0, 1600000000.5)
    assert (record.bytes_up, record.bytes_down, record.closed_by, record.outcome) == (10, 20, "upstream", "closed")


def test_the_live_view_of_a_request_shows_its_path_without_the_query():
    draft = request_draft()
    view = draft.view(102.25)
    assert (view["phase"], view["method"], view["target"], view["path"]) == ("exchange", "GET", "example.com:80", "/x")
    assert (view["request"], view["bytes_up"], view["bytes_down"]) == (2, 3, 50)
    assert draft.exchange is not None
    draft.exchange.upgraded, draft.opened, draft.relay = True, True, Relay(7, 8)
    view = draft.view(102.25)
    assert (view["phase"], view["bytes_up"], view["bytes_down"]) == ("open", 7, 8)


def test_what_a_log_may_want_lands_in_the_record():
    draft = tunnel_draft()
    draft.local, draft.upstream_local = ("10.0.0.1", 3128), ("10.0.0.1", 50000)
    draft.reply_body_bytes, draft.service, draft.service_port = 24, "*.example.com", 8000
    record = draft.finish(105.0, 1600000000.5)
    for name in ("local", "upstream_local", "reply_body_bytes", "service", "service_port"):
        assert getattr(record, name) == getattr(draft, name), name
