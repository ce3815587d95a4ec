import unicodedata

import pytest
from hypothesis import given
from support.any_record import records
from support.records import ANSWERED, TUNNEL

from egressproxy.config.schema import LOG_FORMATS, TEMPLATED_FORMATS, AccessLog
from egressproxy.telemetry.access_log import FORMATS, TEMPLATES, form_of

ALL = {word: form_of(AccessLog(format=word)) for word in LOG_FORMATS}


def test_the_table_has_every_word_of_the_configuration():
    assert set(LOG_FORMATS) == {*FORMATS, *TEMPLATES}
    assert set(TEMPLATED_FORMATS) == set(TEMPLATES)
    assert len(LOG_FORMATS) == 39


@given(records)
def test_no_line_of_any_format_holds_a_line_end_or_a_control_character(record):
    for form in ALL.values():
        line = form.close(record)
        assert line.isascii()
        assert not [c for c in line if unicodedata.category(c) == "Cc"]


def test_only_json_tells_that_a_tunnel_opens():
    assert [word for word, form in ALL.items() if form.open_line is not None] == ["json"]


def test_only_what_prints_the_proxy_s_own_addresses_asks_for_them():
    assert {word for word, form in ALL.items() if not form.wants_addresses} == {
        "squid",
        "squid-5",
        "json",
        "nginx-stream",
        "nginx-stream-1.22",
        "envoy",
    }


@pytest.mark.parametrize(
    ("template", "wanted"),
    [
        ("%PROTOCOL%", False),
        ("%UPSTREAM_LOCAL_ADDRESS%", True),
        ("%DOWNSTREAM_LOCAL_PORT%", True),
        ("%DOWNSTREAM_REMOTE_ADDRESS%", False),
    ],
)
def test_a_template_asks_for_them_if_it_prints_them(template, wanted):
    assert form_of(AccessLog(format="istio", template=template)).wants_addresses is wanted


def test_a_template_takes_the_place_of_the_format_s_own():
    form = form_of(AccessLog(format="envoy", template="%REQ(:METHOD)% %RESPONSE_CODE%"))
    assert (form.close(TUNNEL), form.close(ANSWERED)) == ("CONNECT 200", "GET 200")
