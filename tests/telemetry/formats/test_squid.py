"""Lines of Squid 5.7 that were read off Squid itself stand here with size, time and addresses of these records."""

import re
from functools import partial

import pytest
from hypothesis import given
from support.any_record import records
from support.records import (
    ANSWERED,
    ANSWERED_HERE,
    DENIED,
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
    UNANSWERED,
    UNREAD,
)
from support.samples import sample_lines

from egressproxy.model import Endpoint, Target
from egressproxy.telemetry.formats.squid import squid_form
from egressproxy.telemetry.formats.squid import squid_line as squid
from egressproxy.telemetry.formats.text import MAX_TEXT

squid_5 = partial(squid, failed="NONE_NONE")


def after_time(line: str) -> str:
    """The line behind its 14 characters of time, where the padding of the elapsed time begins."""
    return line[14:]


def test_a_tunnel_is_logged_as_squid_logs_it():
    assert squid(TUNNEL) == (
        "1544160065.248    228 172.30.109.89 TCP_TUNNEL/200 87633"
        " CONNECT en.wikipedia.org:443 - HIER_DIRECT/91.198.174.192 -"
    )
    assert squid_5(TUNNEL) == squid(TUNNEL)


def test_the_sample_lines_come_out_of_records_with_their_values():
    pattern = re.compile(r"(\S+) +(\d+) (\S+) TCP_TUNNEL/200 (\d+) CONNECT (\S+):(\d+) - HIER_DIRECT/(\S+) -", re.ASCII)
    for line in sample_lines("squid-native.log"):
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


ORIGIN = "edition.cnn.com"
ANSWER = "GET http://edition.cnn.com/politics? - HIER_DIRECT/151.101.1.67"
LEFT_EARLY = ANSWERED._replace(
    outcome="client_gone", closed_by="client", status=None, reply_bytes=0, bytes_down=0, exchange=UNANSWERED
)


def with_exchange(record, **changes):
    return record._replace(exchange=record.exchange._replace(**changes))


@pytest.mark.parametrize(
    ("record", "line"),
    [
        (ANSWERED, f"    228 172.30.109.89 TCP_MISS/200 148746 {ANSWER} text/html"),
        (
            ANSWERED_HERE,
            "    228 172.30.109.89 TCP_MISS/200 117 OPTIONS http://edition.cnn.com/politics? - HIER_NONE/- -",
        ),
        (
            with_exchange(ANSWERED, path="/ok%20a|b'c", content_type=None),
            "    228 172.30.109.89 TCP_MISS/200 148746 GET http://edition.cnn.com/ok%20a|b'c - HIER_DIRECT/151.101.1.67 -",
        ),
        (
            with_exchange(ANSWERED, path="/?secret=1")._replace(target=Target(ORIGIN, 31080, False)),
            "    228 172.30.109.89 TCP_MISS/200 148746 GET http://edition.cnn.com:31080/? - HIER_DIRECT/151.101.1.67 text/html",
        ),
        (
            with_exchange(ANSWERED, path="*")._replace(method="OPTIONS"),
            "    228 172.30.109.89 TCP_MISS/200 148746 OPTIONS http://edition.cnn.com/ - HIER_DIRECT/151.101.1.67 text/html",
        ),
        (
            ANSWERED._replace(target=Target("::1", 80, True), upstream=Endpoint("::1", 80)),
            "    228 172.30.109.89 TCP_MISS/200 148746 GET http://[::1]/politics? - HIER_DIRECT/::1 text/html",
        ),
        # HEAD, and what the origin itself says no to
        (
            ANSWERED._replace(method="HEAD", reply_bytes=203, bytes_down=0),
            f"    228 172.30.109.89 TCP_MISS/200 203 {ANSWER.replace('GET', 'HEAD')} text/html",
        ),
        (
            with_exchange(ANSWERED, upstream_status=404, content_type="text/plain")._replace(status=404, method="POST"),
            f"    228 172.30.109.89 TCP_MISS/404 148746 {ANSWER.replace('GET', 'POST')} text/plain",
        ),
        # refused
        (
            REQUEST_DENIED,
            "      0 172.30.109.89 TCP_DENIED/403 3406 GET http://edition.cnn.com/politics? - HIER_NONE/- text/html",
        ),
        (
            REQUEST_DENIED._replace(status=None, reply_bytes=0),
            "      0 172.30.109.89 TCP_DENIED_ABORTED/000 0 GET http://edition.cnn.com/politics? - HIER_NONE/- text/html",
        ),
        (
            REQUEST_DENIED._replace(protocol="http", status=502, reply_bytes=200, rule="outbound"),
            "      0 172.30.109.89 TCP_DENIED/502 200 GET http://edition.cnn.com/politics? - HIER_NONE/- -",
        ),
        # names that are not found, addresses that refuse: the page counts
        (
            NO_ANSWER._replace(outcome="name_not_found", status=503, upstream=None, connected=False),
            "    228 172.30.109.89 TCP_MISS/503 3335 GET http://edition.cnn.com/politics? - HIER_NONE/- text/html",
        ),
        (
            NO_ANSWER._replace(outcome="connect_refused", status=503, connected=False),
            f"    228 172.30.109.89 TCP_MISS/503 3335 {ANSWER} text/html",
        ),
        # origins that close without an answer, answer garbage, are silent, stop in the middle
        (NO_ANSWER, f"    228 172.30.109.89 TCP_MISS/502 3335 {ANSWER} text/html"),
        (
            NO_ANSWER._replace(outcome="upstream_protocol_error"),
            f"    228 172.30.109.89 TCP_MISS/502 3335 {ANSWER} text/html",
        ),
        (
            NO_ANSWER._replace(outcome="upstream_idle_timeout", status=504),
            f"    228 172.30.109.89 TCP_MISS/504 3335 {ANSWER} text/html",
        ),
        (
            NO_ANSWER._replace(outcome="upstream_timeout", status=504),
            f"    228 172.30.109.89 TCP_MISS/504 3335 {ANSWER} text/plain",
        ),
        (
            with_exchange(ANSWERED, complete=False)._replace(outcome="upstream_closed", bytes_down=5),
            f"    228 172.30.109.89 TCP_MISS/200 223 {ANSWER} text/html",
        ),
        # clients that leave: before the head of the response, in its body, in their own
        (LEFT_EARLY, f"    228 172.30.109.89 TCP_MISS_ABORTED/000 0 {ANSWER} -"),
        (
            with_exchange(ANSWERED, complete=False)._replace(outcome="client_gone", closed_by="client", bytes_down=5),
            f"    228 172.30.109.89 TCP_MISS_ABORTED/200 223 {ANSWER} text/html",
        ),
        (
            LEFT_EARLY._replace(upstream=None, connected=False),
            "    228 172.30.109.89 TCP_MISS_ABORTED/000 0 GET http://edition.cnn.com/politics? - HIER_NONE/- -",
        ),
        # a request that became a tunnel: the head of the 101 does not count
        (
            with_exchange(ANSWERED, upgraded=True, upstream_status=101, content_type=None, path="/ws")._replace(
                status=101, opened=True, outcome="closed", reply_bytes=77, bytes_down=10
            ),
            "    228 172.30.109.89 TCP_TUNNEL/101 10 GET http://edition.cnn.com/ws - HIER_DIRECT/151.101.1.67 -",
        ),
        # refused before a rule was asked
        (
            REQUEST_DENIED._replace(outcome="tunnel_limit", status=503, rule=None, reason=None, exchange=None),
            "      0 172.30.109.89 NONE_NONE/503 3406 GET http://edition.cnn.com/politics? - HIER_NONE/- text/html",
        ),
        (
            REQUEST_DENIED._replace(
                outcome="tunnel_limit", status=503, rule=None, reason=None, exchange=None, target_text="/x?y"
            ),
            "      0 172.30.109.89 NONE_NONE/503 3406 GET http://edition.cnn.com/x? - HIER_NONE/- text/html",
        ),
        (
            UNREAD._replace(
                outcome="malformed_target",
                status=400,
                reply_bytes=3560,
                method="GET",
                target_text="/ok",
                http_version="1.1",
            ),
            "      0 172.30.109.89 NONE_NONE/400 3560 GET /ok - HIER_NONE/- text/html",
        ),
    ],
)
def test_a_plain_request_has_squids_code_for_it(record, line):
    """The same in Squid 5 and in 6 and 7."""
    assert after_time(squid(record)) == line
    assert after_time(squid_5(record)) == line


def test_a_path_cannot_leave_its_field_and_is_cut():
    assert squid(with_exchange(ANSWERED, path="/a b\n\u2028")).split()[6] == "http://edition.cnn.com/a%20b%0A%E2%80%A8"
    assert (
        squid(with_exchange(ANSWERED, path="/" + "a" * 9000)).split()[6]
        == f"http://edition.cnn.com/{'a' * (MAX_TEXT - 1)}"
    )


def test_a_media_type_cannot_leave_its_field():
    assert squid(with_exchange(ANSWERED, content_type="text/html x\x00")).endswith(" text/html%20x%00")


@given(records)
def test_a_squid_line_has_ten_fields(record):
    for form in (squid, squid_5):
        assert len(form(record).split()) == 10
        assert len(form(record._replace(opened=True, target=TUNNEL.target, upstream=TUNNEL.upstream)).split()) == 10


# --- templates ----------------------------------------------------------------------------------------------------

LOCATED = ANSWERED._replace(local=("10.0.0.1", 3128), upstream_local=("10.0.0.2", 40000), user="mary ann")


@pytest.mark.parametrize(
    ("template", "shown"),
    [
        ("%ts.%03tu", "1544160065.248"),
        ("%{%Y-%m-%d %H:%M:%S}tg", "2018-12-07 05:21:05"),
        ("%tg %tg{%s}", "07/Dec/2018:05:21:05 1544160065"),
        ("%tr %6tr %-6tr| %06tr %dt", "228    228 228   | 000228 2"),
        ("%>a:%>p %>la:%>lp", "172.30.109.89:51234 10.0.0.1:3128"),
        ("%<a:%<p %<la:%<lp %<A", "151.101.1.67:80 10.0.0.2:40000 edition.cnn.com"),
        ("%un %ul %ui %[un %#un", "mary%20ann mary%20ann - mary%20ann mary%20ann"),
        ("%Ss/%03>Hs %>Hs %<Hs %Sh", "TCP_MISS/200 200 200 HIER_DIRECT"),
        ("%<st %<bs %mt", "148746 148528 text/html"),
        ('"%rm %ru HTTP/%rv"', '"GET http://edition.cnn.com/politics? HTTP/1.1"'),
        (
            "%>rm %>ru %>rv %>rs %>rd %>rP %>rp",
            "GET http://edition.cnn.com/politics? 1.1 http edition.cnn.com 80 /politics?",
        ),
        ("%rp %.4rp", "/politics? /pol"),
        ('%{User-Agent}>h "%{Host}>h" %ssl::>sni', 'curl/7.64.0 "edition.cnn.com" -'),
        ("100%% %[Ss]", "100% TCP_MISS]"),
    ],
)
def test_a_code_prints_what_squid_s_prints(template, shown):
    assert squid_form(template)(LOCATED) == shown


def test_a_code_that_has_no_answer_is_a_dash():
    assert squid_form("%<la %>la %<a %<A %<p %<Hs %rp %>rs %>rd %dt %ssl::>sni %{Host}>h")(GARBAGE) == " ".join(
        "-" * 12
    )
    assert squid_form("%rp %>rs %>rP %ssl::>sni %<bs")(SNI_TUNNEL) == "- - 443 en.Wikipedia.org -"
    assert squid_form("%>Hs %03>Hs")(LEFT) == "0 000"


@pytest.mark.parametrize(
    ("template", "shown"),
    [
        ('%{X-Team}>h "%{x-team}>h" %.5{X-Team}>h', 'Bl%20ue%20%22 "Bl ue %22" Bl%20'),
        ('"%{X-Two}>h" %{X-None}>h', '"1, 2" -'),  # all of several, as in Squid
        ('"%{Server}<h" %{Content-Type}<h %{X-Team}<h', '"a%C3%A9/1 (b)" text/html;%20charset=utf-8 -'),
    ],
)
def test_fields_are_printed_as_the_peers_have_sent_them(template, shown):
    assert squid_form(template)(LOCATED._replace(kept=KEPT)) == shown


def test_where_no_field_was_kept_there_is_none():
    assert squid_form("%{X-Team}>h %{Server}<h")(TUNNEL) == "- -"


def test_a_template_of_squid_keeps_what_clients_send_in_its_place():
    sent = LOCATED._replace(exchange=LOCATED.exchange._replace(user_agent='a "b\n'))
    assert squid_form('%{User-Agent}>h "%{User-Agent}>h"')(sent) == 'a%20%22b%0A "a %22b%0A"'


def test_no_url_or_user_opens_or_closes_the_double_quotes_of_a_template():
    """Squid's own `combined` has the URL between them, and anybody may ask for one that holds some."""
    asked = LOCATED._replace(user='u"', exchange=LOCATED.exchange._replace(path='/"x"?'))
    line = squid_form('"%rm %ru HTTP/%rv" %>Hs "%rp" "%un" %ru')(asked)
    assert line == (
        '"GET http://edition.cnn.com/%22x%22? HTTP/1.1" 200 "/%22x%22?" "u%22" http://edition.cnn.com/%22x%22?'
    )
    unread = GARBAGE._replace(target_text='"/x"http://a/', status=400)
    assert squid_form('"%rm %ru" %>Hs')(unread) == '"- %22/x%22http://a/" 400'
