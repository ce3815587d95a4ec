"""Log formats and access logs."""

from __future__ import annotations

import pytest
from support.adapting import adapted

from egressproxy.config.adapters.nginx import nginx

SERVER = "server { listen 1; proxy_pass 127.0.0.1:1; }"
PUBLISHED = (
    "log_format l '$remote_addr [$time_local] $protocol [$ssl_preread_server_name]'\n"
    " '$status $bytes_sent $bytes_received $session_time';\n"
)


def logs(stream):
    found = adapted(nginx.translate, f"stream {{\n{stream}\n}}")
    return (found.data or {}).get("access_log"), found.faults, found.notes


@pytest.mark.parametrize(
    ("stream", "entries"),
    [
        (SERVER, []),
        (f"{PUBLISHED}access_log off; {SERVER}", []),
        (f"{PUBLISHED}access_log /var/log/a.log l; {SERVER}", [{"format": "nginx-stream", "path": "/var/log/a.log"}]),
        (f"{PUBLISHED}access_log /dev/stdout l; {SERVER}", [{"format": "nginx-stream", "path": "-"}]),
        (
            f"log_format l '$remote_addr ' $status; access_log /a l; access_log /b l; {SERVER}",
            [{"format": "nginx-stream", "path": path, "template": "$remote_addr $status"} for path in ("/a", "/b")],
        ),
        (f"{PUBLISHED}access_log /a l; server {{ access_log off; listen 1; proxy_pass 127.0.0.1:1; }}", []),
    ],
)
def test_access_logs(stream, entries):
    assert logs(stream) == (entries, [], [])


def test_what_makes_no_difference_is_noted():
    stream = f"log_format l escape=json $status;\naccess_log a.log l buffer=32k flush=5s gzip=1;\n{SERVER}"
    entries, faults, notes = logs(stream)
    assert (entries, faults) == ([{"format": "nginx-stream", "path": "a.log", "template": "$status"}], [])
    assert notes == [
        "2 log_format: escape=json changes nothing here: what is absent is - and not empty",
        "3 access_log: buffer has no meaning here: lines are written in batches",
        "3 access_log: flush has no meaning here: lines are written in batches",
        "3 access_log: gzip has no meaning here: lines are written as they are",
        "3 access_log: its name starts from the folder of this file, where NGINX takes a folder of its own",
    ]


@pytest.mark.parametrize(
    ("stream", "fault"),
    [
        ("access_log /a;", "2 access_log: expected the name of a log_format behind the file"),
        ("access_log /a buffer=1k;", "2 access_log: expected the name of a log_format behind the file"),
        ("access_log /a m;", "2 access_log: the log_format 'm' is not defined"),
        (
            "log_format l $status; access_log /$status l;",
            "2 access_log: expected the name of one file, got a name with variables",
        ),
        (
            "log_format l $status; access_log syslog:server=127.0.0.1 l;",
            "2 access_log: lines are written to files and standard output, not to syslog",
        ),
        (
            "log_format l $status; access_log /a l if=$x;",
            "2 access_log: conditions are not known here: every connection is logged; take if= out",
        ),
        ("log_format l $status; access_log /a l x;", "2 access_log: expected an option like buffer=32k, got 'x'"),
        ("log_format l $status; log_format l $status;", "2 log_format: 'l' is written twice"),
        ("log_format l escape=x $status;", "2 log_format: expected escape=default, json or none, got 'escape=x'"),
        (
            "log_format l $statsu;",
            "2 log_format: the variable '$statsu' is not known here; did you mean $status?",
        ),
    ],
)
def test_what_cannot_be_logged(stream, fault):
    assert logs(f"{stream} {SERVER}")[1] == [fault]


def test_two_servers_with_different_logs_are_refused_with_both_places():
    stream = (
        f"{PUBLISHED}server {{ listen 1; proxy_pass 127.0.0.1:1;\naccess_log /a l; }}\n"
        "server { listen 2; proxy_pass 127.0.0.1:1; }"
    )
    assert logs(stream)[1] == [
        "6 server: access_log is 'off' here and '/a' on line 5; this proxy has one for all servers"
    ]
