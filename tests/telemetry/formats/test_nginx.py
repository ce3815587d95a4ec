import re
import socket
import time
from datetime import datetime
from functools import partial

import pytest
from hypothesis import given
from support.any_record import records
from support.leaves import LEAVES
from support.records import ANSWERED, ANSWERED_HERE, ENDED_AT, NO_ANSWER, NO_SNI, SNI_DENIED, SNI_TUNNEL, TUNNEL
from support.samples import sample_lines

from egressproxy.errors import PolicyError, UpstreamError
from egressproxy.telemetry.formats.nginx import nginx_form
from egressproxy.telemetry.formats.nginx import nginx_line as nginx
from egressproxy.telemetry.formats.text import local_time

nginx_1_22 = partial(nginx, hello_counted=False)


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
    zone("UTC")
    pattern = re.compile(r"(\S+) \[(.+?)\] TCP \[(.+)\]200 (\d+) (\d+) (\d+\.\d{3})", re.ASCII)
    for line in sample_lines("nginx-log-stream.log"):
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
    "no_route": 403,
    "host_unknown": 403,
    "address_denied": 403,
    "loop_detected": 403,
    "tls_required": 403,
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
    "parent_refused": 502,
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


def test_what_the_proxy_itself_answered_is_no_failure():
    assert status_of(nginx(ANSWERED_HERE)) == 200


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


def test_a_plain_request_that_got_an_answer_is_a_session_whatever_the_answer_was():
    assert status_of(nginx(ANSWERED)) == 200
    refused = ANSWERED.exchange._replace(upstream_status=404)
    assert status_of(nginx(ANSWERED._replace(status=404, exchange=refused))) == 200
    assert status_of(nginx(NO_ANSWER)) == 502


def test_a_hello_without_a_name_leaves_the_brackets_empty_and_no_hello_a_dash_in_them():
    assert " TCP []500 7 0 " in nginx(NO_SNI)
    assert " TCP [-]200 " in nginx(TUNNEL)


@given(records)
def test_an_nginx_line_ends_in_a_status_and_three_numbers(record):
    for form in (nginx, nginx_1_22):
        line = form(record)
        assert re.fullmatch(
            r".* \[\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}\] TCP \[.*\]\d{3} \d+ \d+ \d+\.\d{3}", line
        )


# --- templates ----------------------------------------------------------------------------------------------------

LOCATED = SNI_TUNNEL._replace(local=("10.0.0.1", 8443), bytes_up=1219)


@pytest.mark.parametrize(
    ("template", "shown"),
    [
        ("$remote_addr:$remote_port $server_addr:$server_port $connection", "172.30.109.89:51234 10.0.0.1:8443 7"),
        ("$msec [$time_local] $time_iso8601", "1544160065.248 [07/Dec/2018:10:51:05 +0530] 2018-12-07T10:51:05+05:30"),
        ("$protocol $status $bytes_sent $bytes_received", "TCP 200 87594 1219"),
        ("$ssl_preread_server_name", "en.Wikipedia.org"),
        ("$upstream_addr $upstream_bytes_sent $upstream_bytes_received", "91.198.174.192:443 1219 87594"),
        ("${upstream_connect_time}s 50%", "0.012s 50%"),
    ],
)
def test_a_variable_prints_what_nginx_s_prints(zone, template, shown):
    zone("Asia/Kolkata")
    assert nginx_form(template)(LOCATED) == shown


def test_the_host_name_of_nginx_is_that_of_the_machine():
    assert nginx_form("$hostname")(LOCATED) == socket.gethostname()


def test_a_variable_that_has_no_value_is_a_dash_but_a_name_is_empty():
    template = (
        "$server_addr $server_port $upstream_addr $upstream_bytes_sent $upstream_connect_time[$ssl_preread_server_name]"
    )
    assert nginx_form(template)(NO_SNI) == "- - - - -[]"
    assert nginx_form(template)(TUNNEL).endswith("[-]")


def test_a_server_that_was_tried_and_not_reached_had_no_bytes():
    tried = SNI_TUNNEL._replace(connected=False, opened=False, outcome="connect_refused", bytes_up=0, bytes_down=0)
    assert nginx_form("$upstream_bytes_sent $upstream_bytes_received")(tried) == "0 0"


def test_bytes_received_of_a_template_are_those_of_its_version():
    assert nginx_form("$bytes_received", hello_counted=False)(LOCATED) == "702"


def test_a_template_of_nginx_keeps_what_clients_send_in_its_place():
    sent = LOCATED._replace(server_name='a "b')
    assert nginx_form('$ssl_preread_server_name "$ssl_preread_server_name"')(sent) == 'a%20"b "a %22b"'
