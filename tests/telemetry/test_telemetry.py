import json

import pytest
from support.records import ANSWERED, DENIED, TUNNEL

from egressproxy.config.schema.stages import AccessLog
from egressproxy.model import Intent, Target, Verdict
from egressproxy.telemetry.log_writer import LogUnusable
from egressproxy.telemetry.metrics import Metrics
from egressproxy.telemetry.record import RecordDraft
from egressproxy.telemetry.telemetry import Telemetry, open_logs


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(version="1.2.3", loop="uvloop")


@pytest.fixture
def open_telemetry(metrics):
    opened = []

    def open_telemetry(*settings: AccessLog) -> Telemetry:
        opened.append(Telemetry(open_logs(settings), metrics))
        return opened[-1]

    yield open_telemetry
    for telemetry in opened:
        telemetry.close(5.0)


def tunnel_draft() -> RecordDraft:
    draft = RecordDraft(7, "http-proxy:3128", "http-proxy", "172.30.109.89", 51234, 5.0)
    draft.intent = Intent(draft.client, draft.listener, "CONNECT", Target("en.wikipedia.org", 443, False))
    draft.verdict = Verdict(True, "wiki", "allowed by rule wiki")
    return draft


def test_each_log_gets_one_line_per_connection_in_its_own_format(tmp_path, open_telemetry, metrics):
    squid, squid_5, json_log = tmp_path / "a", tmp_path / "b", tmp_path / "c"
    telemetry = open_telemetry(
        AccessLog(format="squid", path=str(squid)),
        AccessLog(format="squid-5", path=str(squid_5)),
        AccessLog(format="json", path=str(json_log)),
    )
    telemetry.opened(tunnel_draft())
    telemetry.closed(TUNNEL)
    telemetry.closed(DENIED)
    telemetry.close(5.0)
    assert [line.split()[3] for line in squid.read_text().splitlines()] == ["TCP_TUNNEL/200", "TCP_DENIED/403"]
    assert len(squid_5.read_text().splitlines()) == 2
    assert [json.loads(line)["event"] for line in json_log.read_text().splitlines()] == ["close", "close"]
    assert metrics.tunnels_open == 0


def test_decisions_add_a_line_when_a_tunnel_opens(tmp_path, open_telemetry, metrics):
    path = tmp_path / "a"
    telemetry = open_telemetry(AccessLog(format="json", path=str(path), decisions=True))
    draft = tunnel_draft()
    telemetry.opened(draft)
    assert draft.opened
    assert metrics.tunnels_open == 1
    telemetry.closed(TUNNEL)
    telemetry.close(5.0)
    assert [json.loads(line)["event"] for line in path.read_text().splitlines()] == ["open", "close"]
    assert metrics.tunnels_open == 0


def test_a_reload_writes_to_other_logs_and_hands_back_the_old(tmp_path, open_telemetry):
    old, new = tmp_path / "old", tmp_path / "new"
    telemetry = open_telemetry(AccessLog(path=str(old)))
    telemetry.closed(TUNNEL)
    for log in telemetry.use_logs(open_logs([AccessLog(path=str(new))])):
        log.writer.close(5.0)
    telemetry.closed(DENIED)
    telemetry.close(5.0)
    assert "TCP_TUNNEL" in old.read_text()
    assert "TCP_DENIED" not in old.read_text()
    assert "TCP_DENIED" in new.read_text()


def test_without_logs_connections_are_still_counted(open_telemetry, metrics):
    open_telemetry().closed(DENIED)
    assert b'outcome="rule_denied"' in metrics.exposition()[0]


def test_a_plain_request_is_one_line_and_opens_nothing(tmp_path, open_telemetry, metrics):
    path = tmp_path / "a"
    telemetry = open_telemetry(AccessLog(format="json", path=str(path), decisions=True))
    telemetry.closed(ANSWERED)
    telemetry.close(5.0)
    assert [json.loads(line)["event"] for line in path.read_text().splitlines()] == ["request"]
    assert metrics.tunnels_open == 0


def test_addresses_are_asked_for_while_a_log_prints_them(tmp_path, open_telemetry):
    telemetry = open_telemetry(AccessLog(path=str(tmp_path / "a")))
    assert telemetry.wants_addresses is False
    printing = [AccessLog(path=str(tmp_path / "b")), AccessLog(format="istio-1.7", path=str(tmp_path / "c"))]
    replaced = telemetry.use_logs(open_logs(printing))
    assert telemetry.wants_addresses is True
    replaced += telemetry.use_logs(open_logs([AccessLog(format="envoy", path=str(tmp_path / "d"))]))
    assert telemetry.wants_addresses is False
    for log in replaced:
        log.writer.close(5.0)


def test_reopening_begins_every_file_anew(tmp_path, open_telemetry):
    paths = [tmp_path / "a", tmp_path / "b"]
    telemetry = open_telemetry(*(AccessLog(path=str(path)) for path in paths))
    for path in paths:
        path.rename(path.with_suffix(".1"))
    telemetry.reopen_logs()
    telemetry.close(5.0)
    assert all(path.exists() for path in paths)


def test_one_log_that_cannot_be_opened_leaves_none_open(tmp_path):
    settings = [AccessLog(path=str(tmp_path / "a")), AccessLog(path=str(tmp_path / "missing" / "b"))]
    with pytest.raises(LogUnusable) as caught:
        open_logs(settings)
    assert caught.value.filename == str(tmp_path / "missing" / "b")
