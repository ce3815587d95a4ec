"""One fate for every directive."""

from __future__ import annotations

import pytest
from support.adapting import MAIN, MemoryFiles, told

from egressproxy.config.adapters.adapter import Source
from egressproxy.config.adapters.nginx.directives import TABLES, sort_out
from egressproxy.config.adapters.nginx.syntax import Findings, read


def sorted_out(text, context="server", *, lenient=False):
    files, findings = MemoryFiles({}), Findings(lenient=lenient)
    block = sort_out(read(Source(0, MAIN, text.encode()), files, findings), context, findings)
    return block, [told(each, files) for each in findings.faults], [told(each, files) for each in findings.notes]


def test_what_is_translated_is_found_by_name_in_file_order():
    block, faults, notes = sorted_out("deny a; allow b; deny c; proxy_pass x;")
    assert (faults, notes) == ([], [])
    assert [each.words[0] for each in block.all("allow", "deny")] == ["a", "b", "c"]
    assert [each.words[0] for each in block.all("deny")] == ["a", "c"]
    assert block.one("proxy_pass").words == ("x",)
    assert block.one("resolver") is None


@pytest.mark.parametrize(
    ("context", "text", "fault"),
    [
        (
            "server",
            "proxy_timeout 5s\nproxy_pass a:1;",
            "1 proxy_timeout: goes on with 'proxy_pass' on another line; is a \";\" missing behind 'proxy_timeout 5s'?",
        ),
        (  # which would be noted otherwise, and the refusal lost
            "server",
            "error_log /a.log\ndeny all;",
            "1 error_log: goes on with 'deny' on another line; is a \";\" missing behind 'error_log /a.log'?",
        ),
        (
            "stream",
            "log_format l '$status'\nserver { listen 1; }",
            "1 log_format: goes on with 'server' on another line; is a \";\" missing behind 'l $status'?",
        ),
        (
            "server",
            "proxy_timeout 5s\nproxy_timeuot 5s;",
            "1 proxy_timeout: expected 1 word behind it, got 3; is a \";\" missing behind 'proxy_timeout 5s'?",
        ),
        ("server", "proxy_timeout 5s 6s;", "1 proxy_timeout: expected 1 word behind it, got 2"),
    ],
)
def test_a_directive_without_its_end_is_told_where_it_stands(context, text, fault):
    assert sorted_out(text, context)[1] == [fault]


def test_a_directive_may_take_several_lines():
    block, faults, _ = sorted_out("resolver 10.0.0.1\n  10.0.0.2\n  valid=30s;\nproxy_pass\n  a:1;")
    assert (faults, block.one("resolver").words) == ([], ("10.0.0.1", "10.0.0.2", "valid=30s"))


@pytest.mark.parametrize(
    ("context", "text"),
    [
        ("main", "user www-data;"),
        ("main", "worker_processes auto;"),
        ("main", "load_module modules/ngx_stream_module.so;"),
        ("events", "worker_connections 1024;"),
        ("stream", "tcp_nodelay on;"),
        ("server", "proxy_buffer_size 16k;"),
        ("server", "error_log /var/log/nginx/error.log;"),
        ("upstream", "least_conn;"),
    ],
)
def test_what_has_no_meaning_here_is_noted(context, text):
    block, faults, notes = sorted_out(text, context)
    name = text.partition(" ")[0].rstrip(";")
    assert (faults, len(notes), block.one(name)) == ([], 1, None)
    assert notes[0].startswith(f"1 {name}: ")


@pytest.mark.parametrize(
    ("context", "text"),
    [
        ("main", "http { server { listen 80; } }"),
        ("server", "ssl_certificate a.pem;"),
        ("server", "proxy_ssl on;"),
        ("server", "proxy_ssl_verify on;"),
        ("server", "js_access a.b;"),
        ("server", "proxy_bind 192.0.2.1;"),
        ("server", "proxy_upload_rate 1m;"),
        ("server", "set $a b;"),
        ("server", "return ok;"),
        ("server", "server_name a.example;"),
        ("stream", "geo $a { default 1; }"),
        ("stream", "split_clients $remote_addr $a { * b; }"),
    ],
)
def test_what_is_about_security_is_refused_whoever_asks_for_leniency(context, text):
    for lenient in (False, True):
        _, faults, notes = sorted_out(text, context, lenient=lenient)
        assert (len(faults), notes) == (1, [])


def test_what_asks_for_nothing_is_nothing():
    assert sorted_out("proxy_ssl off; proxy_bind off; proxy_upload_rate 0; proxy_download_rate 0;")[1:] == ([], [])


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (
            "frobnicate on;",
            "1 frobnicate: the directive 'frobnicate' is not known; take it out, or leave it out with --lenient",
        ),
        (
            "proxy_timeuot 1s;",
            "1 proxy_timeuot: the directive 'proxy_timeuot' is not known; did you mean proxy_timeout?; "
            "take it out, or leave it out with --lenient",
        ),
    ],
)
def test_what_is_unknown_is_refused_and_with_leniency_noted(text, fault):
    assert sorted_out(text)[1:] == ([fault], [])
    _, faults, notes = sorted_out(text, lenient=True)
    assert faults == []
    assert [note.partition(": ")[2].startswith("left out: the directive") for note in notes] == [True]


@pytest.mark.parametrize("name", ["my_auth", "tls_thing", "limit_bytes", "block_countries", "lua_code_cache"])
def test_what_is_unknown_and_sounds_like_security_is_refused_whoever_asks_for_leniency(name):
    _, faults, notes = sorted_out(f"{name} on;", lenient=True)
    assert (len(faults), notes) == (1, [])
    assert "it may be about security" in faults[0]


def test_what_belongs_elsewhere_is_refused_whoever_asks_for_leniency():
    assert sorted_out("worker_processes 1;", lenient=True)[1] == [
        "1 worker_processes: is not allowed here; it belongs in the top level"
    ]
    assert sorted_out("deny all;", "main", lenient=True)[1] == [
        "1 deny: is not allowed here; it belongs in stream or server"
    ]


@pytest.mark.parametrize(
    ("text", "context", "fault"),
    [
        ("proxy_pass a;\nproxy_pass b;", "server", "2 proxy_pass: is written twice; the first is on line 1"),
        ("proxy_pass;", "server", "1 proxy_pass: expected 1 word behind it, got 0"),
        ("proxy_pass a b;", "server", "1 proxy_pass: expected 1 word behind it, got 2"),
        ("log_format a;", "stream", "1 log_format: expected 2 to more words behind it, got 1"),
        ("listen 1 {}", "server", "1 listen: expected a ; behind it, got a block"),
        ("upstream a;", "stream", "1 upstream: expected a block in braces behind it"),
        ("server a {}", "stream", "1 server: expected 0 words behind it, got 1"),
    ],
)
def test_the_form_of_what_is_translated(text, context, fault):
    assert sorted_out(text, context)[1] == [fault]


def test_every_fate_says_why_unless_it_is_translated():
    for table in TABLES.values():
        for name, fate in table.items():
            assert bool(fate.say) != (fate.kind == "translated"), name
