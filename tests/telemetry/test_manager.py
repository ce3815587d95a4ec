"""Squid's manager pages: what they say. Who may see them is for tests/e2e/test_manager.py."""

import re

from egressproxy.telemetry.manager import page
from egressproxy.telemetry.metrics import Metrics
from egressproxy.telemetry.record import RecordDraft


def metrics():
    return Metrics(version="1", loop="asyncio")


def test_there_are_no_other_pages():
    assert page("shutdown", metrics(), ()) is None
    assert page("config", metrics(), ()) is None


def test_the_menu_lists_every_page():
    text = page("menu", metrics(), ())
    assert text is not None
    assert page("", metrics(), ()) == text
    names = [line.split()[0] for line in text.splitlines()]
    assert names == ["menu", "info", "counters", "active_requests"]
    for name in names:
        assert page(name, metrics(), ()) is not None


def test_what_is_open_is_listed():
    draft = RecordDraft(7, "l", "http-proxy", "10.0.0.9", 4711, 0.0)
    text = page("active_requests", metrics(), (draft,))
    assert text is not None
    assert "Connection: 7\n\tremote: 10.0.0.9:4711\n" in text
    assert "uri -\nmethod -\n" in text  # nothing was asked for yet
    info = page("info", metrics(), (draft,))
    assert info is not None
    assert re.search(r"Number of connections open:\t1\n", info)


def test_a_client_s_port_can_be_told_from_its_address():
    text = page("active_requests", metrics(), (RecordDraft(7, "l", "http-proxy", "2001:db8::1", 4711, 0.0),))
    assert text is not None
    assert "\tremote: [2001:db8::1]:4711\n" in text


def test_times_are_those_of_http():
    text = page("info", metrics(), ())
    assert text is not None
    assert re.search(r"\nStart Time:\t\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT\nCurrent Time:\t\w{3}, .* GMT\n", text)
