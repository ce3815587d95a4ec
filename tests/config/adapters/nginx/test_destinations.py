"""Upstreams and places as services."""

from __future__ import annotations

import pytest
from support.adapting import MAIN, MemoryFiles, told

from egressproxy.config.adapters.adapter import At, Source, settle
from egressproxy.config.adapters.nginx.destinations import Into, Nowhere, Services, Through
from egressproxy.config.adapters.nginx.syntax import Findings, read
from egressproxy.config.adapters.nginx.values import Place


def upstreams(text, *, lenient=False):
    """The services of these upstream blocks, the findings so far, and a directive to speak of."""
    files, findings = MemoryFiles({}), Findings(lenient=lenient)
    statements = read(Source(0, MAIN, text.encode()), files, findings) or ()
    written = read(Source(0, MAIN, b"proxy_pass x;"), files, findings)[0]
    return Services(statements, findings), findings, written, files


def of_upstream(servers, *, lenient=False):
    """What an upstream with these servers leads to, its native service, faults, notes."""
    services, findings, written, files = upstreams(f"upstream Web {{\n{servers}\n}}", lenient=lenient)
    found = services.find("web", written, in_variable=False)
    native = settle(At(0, services.native))[0]
    return (
        found,
        native,
        [told(each, files) for each in findings.faults],
        [told(each, files) for each in findings.notes],
    )


def test_an_upstream_is_found_by_its_name_whatever_the_letter_case_and_made_once():
    services, _, written, _ = upstreams("upstream Web { server 127.0.0.1:1; }")
    first = services.find("WEB", written, in_variable=False)
    assert first == Into("Web", Place("127.0.0.1", 1), False)
    assert services.find("web", written, in_variable=True) is first
    assert len(services.native) == 1


def test_names_of_servers_are_looked_up_and_may_be_private():
    found, native, faults, notes = of_upstream("server a.example:443;\nserver 127.0.0.1:443;")
    assert found == Into("Web", Place("a.example", 443), False)
    assert native == [
        {
            "name": "Web",
            "ports": [{"number": 443, "protocol": "TCP"}],
            "resolution": "dns",
            "endpoints": [{"address": "a.example"}, {"address": "127.0.0.1"}],
            "private_addresses": True,
        }
    ]
    assert faults == []
    assert notes == [
        "2 server: 'a.example' is looked up when needed, without search domains, where NGINX does so when it starts"
    ]


@pytest.mark.parametrize("name", ["_web", "Web é", "[x"])
def test_a_name_that_no_service_can_have_is_written_in_another_way(name):
    services, _, written, _ = upstreams(f"upstream '{name}' {{ server 127.0.0.1:1; }}")
    found = services.find(name, written, in_variable=False)
    assert found.name.isascii()
    assert found.name[0].isalnum()


def test_what_has_no_meaning_for_a_server_is_noted():
    _, native, faults, notes = of_upstream(
        "server 127.0.0.1:1 max_fails=3 fail_timeout=30s max_conns=0 weight=2;\nleast_conn;"
    )
    assert native[0]["endpoints"] == [{"address": "127.0.0.1", "weight": 2}]
    assert faults == []
    assert notes == [
        "3 least_conn: servers take turns here, by weight",
        "2 server: max_fails has no meaning here: a connection that fails goes to the next server",
        "2 server: fail_timeout has no meaning here: a connection that fails goes to the next server",
    ]


def test_a_server_that_waits_for_others_to_fail_is_not_taken():
    servers = "server 127.0.0.1:1;\nserver 127.0.0.1:2 backup;"
    assert of_upstream(servers)[2] == [
        "3 server: there are no servers here that wait until the others fail; take it out, or leave it out with --lenient"
    ]
    _, native, faults, notes = of_upstream(servers, lenient=True)
    assert (native[0]["endpoints"], faults) == ([{"address": "127.0.0.1"}], [])
    assert notes == ["3 server: left out: there are no servers here that wait until the others fail"]


@pytest.mark.parametrize(
    ("servers", "faults"),
    [
        ("", ["1 upstream: expected at least one server"]),
        ("server 127.0.0.1;", ["2 server: expected HOST:PORT, got '127.0.0.1'"]),
        ("server unix:/run/a;", ["2 server: UNIX sockets are not reached from here; expected HOST:PORT"]),
        ("server 127.0.0.1:1 weigth=2;", ["2 server: expected a parameter like weight=2 or down, got 'weigth=2'"]),
        ("server 127.0.0.1:1 weight=x;", ["2 server: expected a parameter like weight=2 or down, got 'weight=x'"]),
        (
            "server 127.0.0.1:1 max_conns=5;",
            ["2 server: max_conns is not known to this proxy; take it out, or leave it out with --lenient"],
        ),
    ],
)
def test_what_is_wrong_with_servers(servers, faults):
    assert of_upstream(servers)[2] == faults


def test_an_upstream_without_a_server_that_is_up_leads_nowhere():
    assert of_upstream("server 127.0.0.1:1 down;")[:3] == (Nowhere(), [], [])


def test_two_upstreams_with_one_name_are_refused():
    _, findings, _, files = upstreams("upstream a { server 127.0.0.1:1; }\nupstream A { server 127.0.0.1:2; }")
    assert [told(each, files) for each in findings.faults] == [
        "2 upstream: 'A' is written twice; the first is on line 1"
    ]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("$ssl_preread_server_name:443", Through(443)),
        ("${ssl_preread_server_name}:8443", Through(8443)),
        ("127.0.0.1:1", Into("127.0.0.1:1", Place("127.0.0.1", 1), False)),
        ("[::1]:1", Into("to::1:1", Place("::1", 1), False)),
        ("a.example:1", Into("a.example:1", Place("a.example", 1), True)),
        ("", Nowhere()),
        ("blackhole", Nowhere()),
    ],
)
def test_what_a_variable_may_hold(text, found):
    services, _, written, _ = upstreams("")
    assert services.find(text, written, in_variable=True) == found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("$ssl_preread_server_name:0", "expected a port from 1 to 65535"),
        ("$ssl_preread_server_name", "expected .*PORT, HOST:PORT or the name of an upstream"),
        ("x$ssl_preread_server_name:443", "expected .*PORT, HOST:PORT or the name of an upstream"),
        ("a:b:c", "expected HOST:PORT"),
        ("a:0", "expected a port"),
    ],
)
def test_what_leads_to_no_place(text, message):
    services, _, written, _ = upstreams("")
    with pytest.raises(ValueError, match=message):
        services.find(text, written, in_variable=True)
