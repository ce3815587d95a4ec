"""Whole nginx.conf files: what all servers share, what is refused, and that the result may be loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from support.adapting import adapted

from egressproxy.config.adapters.nginx import nginx
from egressproxy.config.load import load
from egressproxy.errors import ConfigError

ROOT = Path(__file__).parents[4]
PUBLISHED = ROOT.parent / "shared/istio/wildcard-arbitrary-sni-proxy/sni-proxy.conf"
OWN = ROOT / "config/nginx/sni-proxy.conf"
TCP = "listen 1; proxy_pass 127.0.0.1:1;"
SNI = "listen 2; ssl_preread on; proxy_pass 127.0.0.1:1;"


def shared(stream, main=""):
    """The settings that are not about single servers, faults and notes."""
    found = adapted(nginx.translate, f"{main}stream {{\n{stream}\n}}")
    lists = ("listeners", "rules", "routes", "services", "access_log")
    data = {key: value for key, value in (found.data or {}).items() if key not in lists}
    return data, found.faults, found.notes


GOLDEN = {
    "defaults of NGINX where no name is read": (
        f"server {{ {TCP} }}",
        "timeouts: {connect_s: 60, idle_s: 600, half_close_s: 1}",
    ),
    "defaults of NGINX where names are read": (
        f"server {{ {SNI} }}",
        """
        timeouts: {head_s: 30, connect_s: 60, idle_s: 600, half_close_s: 1}
        limits: {max_hello_bytes: 16384}
        """,
    ),
    "what is written": (
        f"proxy_connect_timeout 5s; proxy_timeout 1h; server {{ {SNI} preread_timeout 500ms; preread_buffer_size 32k; "
        "proxy_half_close on; proxy_timeout 2h; }",
        """
        timeouts: {head_s: 0.5, connect_s: 5, idle_s: 7200, half_close_s: 7200}
        limits: {max_hello_bytes: 32768}
        """,
    ),
    "servers that agree": (
        f"server {{ {TCP} proxy_timeout 60s; }} server {{ {SNI} proxy_timeout 1m; preread_timeout 5s; }}",
        """
        timeouts: {head_s: 5, connect_s: 60, idle_s: 60, half_close_s: 1}
        limits: {max_hello_bytes: 16384}
        """,
    ),
    "a resolver": (
        f"server {{ {TCP} resolver 8.8.8.8 [2001:db8::1]:5353 valid=30s ipv6=off status_zone=x; resolver_timeout 6s; }}",
        """
        dns: {servers: [8.8.8.8, "[2001:db8::1]:5353"], min_ttl_s: 30, max_ttl_s: 30, ipv6: false, timeout_s: 1.0, tries: 3}
        timeouts: {connect_s: 60, idle_s: 600, half_close_s: 1}
        """,
    ),
    "a limit for all clients": (
        f"limit_conn_zone $server_addr zone=all:1m; limit_conn all 100; server {{ {TCP} }}",
        """
        timeouts: {connect_s: 60, idle_s: 600, half_close_s: 1}
        limits: {max_tunnels: 100}
        """,
    ),
}


OTHER = "listen 3; listen 4; proxy_pass 127.0.0.1:1;"
APART = {
    "one server says other than the default": (
        f"server {{ {TCP} proxy_timeout 5s; }} server {{ {SNI} }} server {{ {OTHER} }}",
        "{head_s: 30, connect_s: 60, idle_s: 600, half_close_s: 1}",
        "{tcp:1: {idle_s: 5}}",
    ),
    "what most have is general, wherever it is written": (
        f"proxy_timeout 1h; server {{ {TCP} proxy_timeout 2h; }} server {{ {SNI} proxy_timeout 2h; }} server {{ {OTHER} }}",
        "{head_s: 30, connect_s: 60, idle_s: 7200, half_close_s: 1}",
        "{tcp:3: {idle_s: 3600}, tcp:4: {idle_s: 3600}}",
    ),
    "of as many the first": (
        f"server {{ {TCP} proxy_connect_timeout 2s; }} server {{ {SNI} proxy_connect_timeout 3s; }}",
        "{head_s: 30, connect_s: 2, idle_s: 600, half_close_s: 1}",
        "{sni:2: {connect_s: 3}}",
    ),
    "times of the ClientHello, which others do not have": (
        f"server {{ {TCP} preread_timeout 1s; }} server {{ {SNI} preread_timeout 2s; }} "
        "server { listen 5; ssl_preread on; preread_timeout 3s; proxy_pass 127.0.0.1:1; }",
        "{head_s: 2, connect_s: 60, idle_s: 600, half_close_s: 1}",
        "{sni:5: {head_s: 3}}",
    ),
    "the same in other words": (
        f"server {{ {TCP} proxy_timeout 120s; }} server {{ {SNI} proxy_timeout 2m; }}",
        "{head_s: 30, connect_s: 60, idle_s: 120, half_close_s: 1}",
        "{}",
    ),
    "half-closed tunnels": (
        f"server {{ {TCP} }} server {{ {SNI} proxy_half_close on; }} server {{ {OTHER} proxy_timeout 9s; }}",
        "{head_s: 30, connect_s: 60, idle_s: 600, half_close_s: 1}",
        "{sni:2: {half_close_s: 600}, tcp:3: {idle_s: 9}, tcp:4: {idle_s: 9}}",
    ),
    "half-closed tunnels that may be quiet as long as the others": (
        f"proxy_half_close on; server {{ {TCP} }} server {{ {SNI} proxy_timeout 9s; }}",
        "{head_s: 30, connect_s: 60, idle_s: 600, half_close_s: 600}",
        "{sni:2: {idle_s: 9, half_close_s: 9}}",
    ),
    "all at once": (
        f"server {{ {TCP} proxy_timeout 1s; proxy_connect_timeout 2s; }} "
        f"server {{ {SNI} proxy_half_close on; preread_timeout 4s; }}",
        "{head_s: 4, connect_s: 2, idle_s: 1, half_close_s: 1}",
        "{sni:2: {connect_s: 60, idle_s: 600, half_close_s: 600}}",
    ),
}


@pytest.mark.parametrize("name", APART)
def test_times_that_differ_are_those_of_listeners(name):
    stream, general, own = APART[name]
    found = adapted(nginx.translate, f"stream {{\n{stream}\n}}")
    timeouts = {
        f"{each['protocol']}:{each['port']}": each["timeouts"] for each in found.data["listeners"] if "timeouts" in each
    }
    assert (found.data["timeouts"], timeouts) == (yaml.safe_load(general), yaml.safe_load(own))
    assert (found.faults, found.notes) == ([], [])


@pytest.mark.parametrize("name", GOLDEN)
def test_what_all_servers_share(name):
    stream, expected = GOLDEN[name]
    assert shared(stream) == (yaml.safe_load(expected), [], [])


def test_a_server_that_reads_only_who_its_clients_are_waits_as_long_for_that():
    data, faults, _ = shared("server { listen 1 proxy_protocol; set_real_ip_from 10.0.0.1; proxy_pass 127.0.0.1:1; }")
    assert (data["timeouts"]["head_s"], faults) == (30, [])
    assert "limits" not in data


def test_the_end_of_the_workers_is_the_end_of_the_drain():
    data, faults, _ = shared(f"server {{ {TCP} }}", "worker_shutdown_timeout 2m; ")
    assert (data["timeouts"]["drain_s"], faults) == (120, [])


@pytest.mark.parametrize(
    ("stream", "fault"),
    [
        (
            f"server {{ {SNI}\npreread_buffer_size 8k; }}\nserver {{ listen 3; {SNI[10:]} }}",
            "4 server: preread_buffer_size is '16k' here and '8k' on line 3; this proxy has one for all servers",
        ),
        (
            f"server {{ {TCP}\nresolver 10.0.0.1; }}\nserver {{ {SNI}\nresolver 10.0.0.2; }}",
            "5 resolver: resolver is '10.0.0.2' here and '10.0.0.1' on line 3; this proxy has one for all servers",
        ),
        (f"server {{ {TCP}\nproxy_timeout 1.5s; }}", "3 proxy_timeout: expected a time like 30s or 1h30m, got '1.5s'"),
        (
            f"server {{ {TCP} }} server {{ {SNI}\nproxy_timeout 1.5s; }}",
            "3 proxy_timeout: expected a time like 30s or 1h30m, got '1.5s'",
        ),
        (f"server {{ {SNI}\npreread_buffer_size x; }}", "3 preread_buffer_size: expected a size like 16k, got 'x'"),
        (f"server {{ {TCP}\nproxy_half_close maybe; }}", "3 proxy_half_close: expected on or off, got 'maybe'"),
        (f"server {{ {TCP}\nresolver valid=1s; }}", "3 resolver: expected the address of a name server"),
        (
            f"server {{ {TCP}\nresolver 10.0.0.1 ipv4=off; }}",
            "3 resolver: ipv4=off is not known here: names are always looked up for IPv4; take it out",
        ),
        (
            f"server {{ {TCP}\nresolver 10.0.0.1 local=on; }}",
            "3 resolver: expected an address, valid=, ipv4= or ipv6=, got 'local=on'",
        ),
        (f"server {{ {TCP}\nresolver_timeout x; }}", "3 resolver_timeout: expected a time like 30s or 1h30m, got 'x'"),
        (
            f"limit_conn_zone $binary_remote_addr zone=a:1m; server {{ {TCP}\nlimit_conn a 1; }}",
            "3 limit_conn: there is no limit for each '$binary_remote_addr' here, only one for all clients together: write "
            "$server_addr in limit_conn_zone, or take it out",
        ),
        (f"server {{ {TCP}\nlimit_conn a 1; }}", "3 limit_conn: the zone 'a' is not defined by a limit_conn_zone"),
        (
            f"limit_conn_zone $server_addr zone=a:1m; server {{ {TCP}\nlimit_conn a x; }}",
            "3 limit_conn: expected a number from 1 to 65535, got 'x'",
        ),
        (
            f"limit_conn_zone $server_addr zone=a:1m;\nlimit_conn a 9; server {{ {TCP} }} server {{ {SNI} }}",
            "3 limit_conn: a limit is for all listeners together here, and this file has several",
        ),
        (
            f"limit_conn_zone $server_addr 1m; server {{ {TCP} }}",
            "2 limit_conn_zone: expected zone=NAME:SIZE, got '1m'",
        ),
        ("", "1 stream: expected a server in it, like server { listen 8443; ... }"),
        (
            f"map $a b {{}}\nserver {{ {TCP} }}",
            "2 map: expected a variable like $backend, got 'b'",
        ),
        (
            f"map $a $b {{}}\nmap $a $b {{}}\nserver {{ {TCP} }}",
            "3 map: '$b' is made twice; the first is on line 2",
        ),
    ],
)
def test_what_cannot_be_shared(stream, fault):
    assert shared(stream)[1] == [fault]


def test_a_limit_on_trial_is_noted():
    _, faults, notes = shared(
        f"limit_conn_zone $binary_remote_addr zone=a:1m; limit_conn_dry_run on; server {{ {TCP}\nlimit_conn a 1; }}"
    )
    assert (faults, notes) == ([], ["3 limit_conn: limit_conn_dry_run is on: nothing is limited by it"])


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("events {}", "1 expected a stream block with servers in it"),
        ("", "1 expected a stream block with servers in it"),
        ("stream {\nserver {", "2 the block of 'server' is opened here and never closed with \"}\""),
    ],
)
def test_without_a_listener_nothing_is_translated(text, fault):
    found = adapted(nginx.translate, text)
    assert (found.data, found.faults) == (None, [fault])


def test_an_http_block_is_refused_with_the_next_step():
    found = adapted(
        nginx.translate, f"http {{ server {{ listen 80; }} }}\nstream {{ server {{ {TCP} }} }}", lenient=True
    )
    assert found.faults == [
        "1 http: holds what this proxy does not do for NGINX files; keep the stream block in a file of its own"
    ]


def test_a_place_in_an_included_file_is_told_with_its_name():
    others = {"/etc/proxy/two": f"\nserver {{ {SNI} }}"}
    found = adapted(
        nginx.translate,
        f"stream {{ server {{ {TCP} resolver 10.0.0.1; }}\ninclude two;\nresolver 10.0.0.9; }}",
        others,
    )
    assert found.faults == [
        "3 resolver: resolver is '10.0.0.9' here and '10.0.0.1' on line 1; this proxy has one for all servers"
    ]
    others = {"/etc/proxy/two": f"\nserver {{ {SNI} resolver 10.0.0.2; }}"}
    found = adapted(nginx.translate, f"stream {{ include two; server {{ {TCP}\nresolver 10.0.0.1; }} }}", others)
    assert found.faults == [
        "2 resolver: resolver is '10.0.0.1' here and '10.0.0.2' in /etc/proxy/two:2; this proxy has one for all servers"
    ]


# --- through the loader -------------------------------------------------------------------------------------------


def write(folder, text, name="nginx.conf"):
    (folder / name).write_text(text)
    return str(folder / name)


def problems(*paths):
    with pytest.raises(ConfigError) as caught:
        load(paths)
    return [str(problem) for problem in caught.value.problems]


def published(folder):
    """The published file, its logs in a folder that exists."""
    if not PUBLISHED.exists():
        pytest.skip(f"{PUBLISHED.name} is not beside the project")
    return write(folder, PUBLISHED.read_text().replace("/var/log/nginx", str(folder)))


@pytest.mark.parametrize("file", [published, lambda folder: str(OWN)], ids=["published", "own"])
def test_an_sni_proxy_may_be_loaded(file, tmp_path):
    loaded = load([file(tmp_path)])
    (listener,), (rule,) = loaded.config.listeners, loaded.config.rules
    assert (listener.protocol, listener.address, listener.port, listener.service_port) == (
        "sni",
        "127.0.0.1",
        8443,
        443,
    )
    assert (rule.action, rule.listeners, rule.hosts, rule.private_addresses) == ("allow", ("sni:8443",), None, True)
    assert loaded.config.outbound == "registry_only"
    assert loaded.config.dns.ipv6 is False
    (log,) = loaded.config.access_log
    assert (log.format, log.template) == ("nginx-stream", None)
    assert "proxy_pass" in {note.path for note in loaded.notes}


@pytest.mark.parametrize("path", sorted((ROOT / "config/nginx").glob("*.conf")), ids=lambda path: path.stem)
def test_every_example_may_be_loaded_and_nothing_in_it_is_lost(path):
    loaded = load([str(path)])
    assert loaded.config.listeners
    assert loaded.sources == (str(path),)


def test_what_the_schema_refuses_is_told_with_the_line_in_the_nginx_file(tmp_path):
    stream = (
        "stream {\nmap $ssl_preread_server_name $to {\na.example 127.0.0.1:1;\nb..example 127.0.0.1:1;\n~x+* 127.0.0.1:1;\n}\n"
        "server {\nlisten 1; ssl_preread on;\nproxy_timeout 0;\nresolver dns.example;\nproxy_pass $to;\n}\n}"
    )
    path = write(tmp_path, stream)
    found = problems(path)
    assert [problem.removeprefix(f"{path}:").partition(":")[0] for problem in found] == ["4", "5", "9", "10"]


def test_a_time_of_one_listener_is_told_with_its_line_in_the_nginx_file(tmp_path):
    servers = f"server {{ {TCP} }}\nserver {{\n{SNI}\nproxy_timeout 0;\nproxy_connect_timeout 9s; }}"
    path = write(tmp_path, f"stream {{\n{servers}\n}}")
    assert [problem.partition(": expected")[0] for problem in problems(path)] == [
        f"{path}:5: listeners[1].timeouts.idle_s"
    ]
    loaded = load([write(tmp_path, f"stream {{\n{servers.replace('proxy_timeout 0', 'proxy_timeout 8s')}\n}}")])
    times = loaded.config.listeners[1].timeouts
    assert (times.head_s, times.connect_s, times.idle_s, times.half_close_s) == (None, 9, 8, None)
    ways = [("listeners", 1, "timeouts", key) for key in ("idle_s", "connect_s")]
    assert [loaded.locate(way) for way in ways] == [(path, 5), (path, 6)]


def test_a_second_file_may_add_to_it_and_its_servers_stay_as_they_were(tmp_path):
    nginx_file = write(tmp_path, f"stream {{ server {{ {TCP} }} }}")
    native = write(tmp_path, "listeners: [{protocol: http-proxy, port: 3128}]\nallow: [a.example]\n", "more.yaml")
    config = load([nginx_file, native]).config
    assert [listener.label for listener in config.listeners] == ["tcp:1", "http-proxy:3128"]


def test_two_servers_on_one_port_are_refused(tmp_path):
    path = write(
        tmp_path, f"stream {{\nserver {{ {TCP} }}\nserver {{ listen 127.0.0.1:1; proxy_pass 127.0.0.1:2; }} }}"
    )
    assert problems(path) == [f'{path}:3: listen: "127.0.0.1:1" overlaps with "0.0.0.0:1" on line 2; no two may here']
    path = write(tmp_path, f"stream {{\nserver {{ {TCP} }}\nserver {{ listen *:1; proxy_pass 127.0.0.1:2; }} }}")
    assert problems(path) == [f'{path}:3: listen: duplicate "0.0.0.0:1" address and port pair; the first is on line 2']


def test_one_server_that_listens_twice_is_refused(tmp_path):
    path = write(tmp_path, f"stream {{\nserver {{ {TCP}\nlisten 1-2; listen [::1]:1; }} }}")
    assert problems(path) == [f'{path}:3: listen: duplicate "0.0.0.0:1" address and port pair; the first is on line 2']


def test_an_unknown_variable_in_a_log_is_told_once_at_its_line(tmp_path):
    path = write(tmp_path, f"stream {{\nlog_format l $statsu;\naccess_log {tmp_path}/a l;\nserver {{ {TCP} }} }}")
    assert problems(path) == [f"{path}:2: log_format: the variable '$statsu' is not known here; did you mean $status?"]


def test_a_windows_path_of_a_log_is_refused(tmp_path):
    for name in (r"C:\nginx\logs\access.log", "C:/nginx/logs/access.log", r"'\\\\host\share\a.log'"):
        text = f"stream {{\nlog_format l $status;\naccess_log {name} l;\nserver {{ {TCP} }} }}"
        (problem,) = problems(write(tmp_path, text))
        assert problem.startswith(
            f"{tmp_path}/nginx.conf:3: access_log: expected a name like /var/log/nginx/access.log"
        )


def test_a_short_proxy_timeout_bounds_the_wait_behind_one_end():
    data, faults, _ = shared(f"server {{ {TCP} proxy_timeout 200ms; proxy_half_close off; }}")
    assert (data["timeouts"]["half_close_s"], faults) == (0.2, [])


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (
            "resolver 10.0.0.2 valid=30s\nproxy_timeout 5s;",
            "3 resolver: goes on with 'proxy_timeout' on another line; is a \";\" missing behind '10.0.0.2 valid=30s'?",
        ),
        (
            "resolver 10.0.0.2\nvalid=30s\nresolve\n;",
            "3 resolver: expected the address of a name server, got 'resolve'; is a \";\" missing behind "
            "'10.0.0.2 valid=30s'?",
        ),
        (  # which takes the server, too, and that it was there is known
            "}\nresolver 10.0.0.2\nserver { listen 3; proxy_pass 127.0.0.1:1;",
            "4 resolver: goes on with 'server' on another line; is a \";\" missing behind 'resolver 10.0.0.2'?",
        ),
        ("resolver 10.0.0.2 ns.example;", "3 resolver: expected the address of a name server, got 'ns.example'"),
    ],
)
def test_the_words_of_a_resolver_are_checked_where_they_stand(words, fault):
    assert shared(f"server {{ {TCP}\n{words} }}")[1] == [fault]


@given(
    st.lists(
        st.sampled_from(
            [
                "stream",
                "server",
                "upstream",
                "map",
                "listen",
                "8443",
                "proxy_pass",
                "$to",
                "127.0.0.1:1",
                "ssl_preread",
                "on",
                "off",
                "resolver",
                "deny",
                "allow",
                "all",
                "hostnames",
                "default",
                "~a",
                "*.b",
                "include",
                "log_format",
                "access_log",
                "l",
                "'",
                "{",
                "}",
                ";",
                "\n",
            ]
        ),
        max_size=40,
    )
)
def test_any_words_are_translated_or_refused(words):
    found = adapted(nginx.translate, "stream { " + " ".join(words))
    assert found.data is not None or found.faults


def test_a_file_of_nothing_but_missing_ends_is_read_in_no_time():
    _, faults, _ = shared("allow 10.0.0.1\n" * 50_000 + ";")
    assert faults[0].startswith("2 allow: goes on with 'allow' on another line")
