import unicodedata

import pytest
from hypothesis import given
from support.any_record import records
from support.records import (
    ANSWERED,
    DENIED,
    GARBAGE,
    LEFT,
    NO_ANSWER,
    NOT_FOUND,
    REFUSED,
    REQUEST_DENIED,
    SNI_DENIED,
    SNI_TUNNEL,
    TUNNEL,
)

from egressproxy.config.schema.stages import AccessLog
from egressproxy.config.templates import LANGUAGES, NGINX_VARIABLES, SQUID_CODES, SQUID_FIELDS
from egressproxy.config.words import LOG_FORMATS
from egressproxy.telemetry.access_log import FORMATS, OWN_TEMPLATES, TEMPLATES, form_of

ALL = {word: form_of(AccessLog(format=word)) for word in LOG_FORMATS}


def test_the_table_has_every_word_of_the_configuration():
    assert set(LOG_FORMATS) == {*FORMATS, *TEMPLATES}
    assert set(LANGUAGES) == {*OWN_TEMPLATES, *TEMPLATES}
    assert len(LOG_FORMATS) == 39


EVERY_CODE = " ".join(
    f"%{code}"
    for code in (
        *sorted(SQUID_CODES - {">h", "<h"}),
        *(f"{{{name}}}>h" for name in (*sorted(SQUID_FIELDS), "x-team")),
        "{server}<h",
    )
)
EVERY_VARIABLE = " ".join(f"${name}" for name in sorted(NGINX_VARIABLES))
ALL_CODES = form_of(AccessLog(format="squid", template=f'{EVERY_CODE} "{EVERY_CODE}"'))
FIELDS = "%REQ(X-TEAM)% %RESP(SERVER?X-TEAM)% %REQ_WITHOUT_QUERY(X-TEAM):9%"
ALL_FIELDS = form_of(AccessLog(format="istio", template=f'{FIELDS} "{FIELDS}"'))
ALL_VARIABLES = form_of(AccessLog(format="nginx-stream", template=f'{EVERY_VARIABLE} "{EVERY_VARIABLE}"'))


@given(records)
def test_no_line_of_any_format_holds_a_line_end_or_a_control_character(record):
    for form in (*ALL.values(), ALL_CODES, ALL_FIELDS, ALL_VARIABLES):
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
        ("%REQ(X_LOCAL_ID)% _LOCAL_", False),
    ],
)
def test_a_template_asks_for_them_if_it_prints_them(template, wanted):
    assert form_of(AccessLog(format="istio", template=template)).wants_addresses is wanted


@pytest.mark.parametrize(
    ("word", "template", "wanted"),
    [
        ("squid", "%>a %<a", False),
        ("squid", "%>la", True),
        ("squid-5", "%<lp", True),
        ("nginx-stream", "$remote_addr server_addr", False),
        ("nginx-stream-1.22", "$server_port", True),
    ],
)
def test_templates_of_other_languages_do_so_too(word, template, wanted):
    assert form_of(AccessLog(format=word, template=template)).wants_addresses is wanted


NATIVE = "%ts.%03tu %6tr %>a %Ss/%03>Hs %<st %rm %ru %[un %Sh/%<a %mt"
LOG_STREAM = (
    "$remote_addr [$time_local] $protocol [$ssl_preread_server_name]$status $bytes_sent $bytes_received $session_time"
)


@pytest.mark.parametrize(
    ("word", "template"),
    [
        ("squid", NATIVE),
        ("squid-5", NATIVE),
        ("nginx-stream", LOG_STREAM),
        ("nginx-stream-1.22", LOG_STREAM),
    ],
)
def test_a_format_written_out_as_a_template_is_that_format(word, template):
    form = form_of(AccessLog(format=word, template=template))
    for record in (
        TUNNEL,
        DENIED,
        NOT_FOUND,
        REFUSED,
        ANSWERED,
        NO_ANSWER,
        REQUEST_DENIED,
        GARBAGE,
        LEFT,
        SNI_TUNNEL,
        SNI_DENIED,
    ):
        assert form.close(record) == ALL[word].close(record)


def test_a_template_takes_the_place_of_the_format_s_own():
    form = form_of(AccessLog(format="envoy", template="%REQ(:METHOD)% %RESPONSE_CODE%"))
    assert (form.close(TUNNEL), form.close(ANSWERED)) == ("CONNECT 200", "GET 200")
