"""A whole squid.conf: rules in order, settings, and that what comes out loads and decides as the file says."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.squid_conf import adapted, faults, native, notes

from egressproxy.config.load import load
from egressproxy.errors import ConfigError
from egressproxy.hostport import parse_authority
from egressproxy.model import Intent
from egressproxy.policy.policy import Policy

ROOT = Path(__file__).parents[4]
EXAMPLES = sorted((ROOT / "config" / "squid").glob("*.conf"))
PUBLISHED = ROOT / "../shared/istio/external-https-proxy/proxy.conf"

SMALL = """\
http_port 3128

acl SSL_ports port 443
acl CONNECT method CONNECT

http_access deny CONNECT !SSL_ports
http_access allow localhost manager
http_access deny manager
http_access allow all
"""
MONDAY = time.strptime("2026-06-01 12:30", "%Y-%m-%d %H:%M")
MANAGER = "^http://[^/]+/squid-internal-mgr/"


def test_the_usual_file() -> None:
    bound = {"listeners": ["http-proxy:3128"]}
    assert native(SMALL) == {
        "listeners": [{"protocol": "http-proxy", "address": "::", "port": 3128, "manager": True}],
        "rules": [
            {"name": "http_access-6", "action": "deny", **bound, "methods": ["CONNECT"], "none": [{"ports": [443]}]},
            {
                "name": "http_access-7",
                "action": "allow",
                **bound,
                "clients": ["127.0.0.1", "::1"],
                "urls_matching": [MANAGER],
                "private_addresses": True,
            },
            {"name": "http_access-8", "action": "deny", **bound, "urls_matching": [MANAGER]},
            {"name": "http_access-9", "action": "allow", **bound, "private_addresses": True},
        ],
        "http": {"forwarded_for": "append"},
        "access_log": [{"format": "squid"}],
    }


def test_what_has_another_meaning_here_is_noted_where_it_begins() -> None:
    found = notes(SMALL)
    assert [note.partition(": ")[0] for note in found] == ["1", "6", "7"]
    assert "standard output" in found[0]
    assert "sni_check" in found[1]
    assert "private_addresses" in found[2]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("", ["http_access-default deny"]),
        ("http_access allow localhost\n", ["http_access-1 allow", "http_access-default deny"]),
        ("http_access deny localhost\n", ["http_access-1 deny", "http_access-default allow"]),
        ("http_access allow localhost\nhttp_access deny all\n", ["http_access-1 allow", "http_access-2 deny"]),
        ("http_access allow all\n", ["http_access-1 allow"]),
        ("http_access deny !all\n", ["http_access-default allow"]),
    ],
)
def test_what_no_line_is_for_gets_the_opposite_of_the_last(lines: str, expected: list[str]) -> None:
    assert [f"{rule['name']} {rule['action']}" for rule in native(lines)["rules"]] == expected


def test_without_ports_rules_are_for_all_listeners() -> None:
    assert native("http_access allow all\n")["rules"] == [
        {"name": "http_access-1", "action": "allow", "private_addresses": True}
    ]


def test_rules_of_included_files_are_named_after_them() -> None:
    files: dict[str, str | bytes] = {"/etc/squid/conf.d/local net.conf": "http_access allow localhost\n"}
    data = native("include conf.d/*.conf\nhttp_access deny all\n", files)
    assert [rule["name"] for rule in data["rules"]] == ["http_access-local_net.conf-1", "http_access-2"]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("connect_timeout 1.5 minutes", {"timeouts": {"connect_s": 90}}),
        ("read_timeout 15 minutes", {"timeouts": {"idle_s": 900}}),
        ("request_timeout 30 seconds", {"timeouts": {"head_s": 30}}),
        ("client_lifetime 1 day", {"timeouts": {"lifetime_s": 86_400}}),
        ("client_idle_pconn_timeout 2 minutes", {"timeouts": {"keep_alive_s": 120}}),
        ("persistent_request_timeout 2 minutes", {"timeouts": {"keep_alive_s": 120}}),
        ("server_idle_pconn_timeout 1 minute", {"timeouts": {"upstream_idle_s": 60}}),
        ("pconn_timeout 1 minute", {"timeouts": {"upstream_idle_s": 60}}),
        ("pconn_lifetime 1 hour", {"timeouts": {"upstream_lifetime_s": 3600}}),
        ("pconn_lifetime 0 seconds", {}),
        ("client_lifetime 365 days", {}),
        ("shutdown_lifetime 5 seconds", {"timeouts": {"drain_s": 5}}),
        ("request_header_max_size 32 KB", {"limits": {"max_head_bytes": 32_768}}),
        ("request_body_max_size 1 MB", {"limits": {"max_body_bytes": 1_048_576}}),
        ("request_body_max_size 0", {}),
        ("dns_nameservers 10.0.0.53 fd00::53", {"dns": {"servers": ["10.0.0.53", "fd00::53"]}}),
        ("dns_defnames on", {"dns": {"search": True}}),
        ("dns_retransmit_interval 5 seconds", {"dns": {"timeout_s": 5}}),
        ("ipcache_size 1024", {"dns": {"cache_entries": 1024}}),
        ("positive_dns_ttl 5 minutes", {"dns": {"max_ttl_s": 300}}),
        ("negative_dns_ttl 1 minute", {"dns": {"negative_ttl_s": 60}}),
        ("via off", {"http": {"forwarded_for": "append", "via": False}}),
        ("visible_hostname a.test", {"http": {"forwarded_for": "append", "via_name": "a.test"}}),
        (
            "unique_hostname b.test\nvisible_hostname a.test",
            {"http": {"forwarded_for": "append", "via_name": "b.test"}},
        ),
        (
            "visible_hostname a.test\nunique_hostname b.test",
            {"http": {"forwarded_for": "append", "via_name": "b.test"}},
        ),
        ("forwarded_for transparent", {"http": {"forwarded_for": "off"}}),
        ("forwarded_for off", {"http": {"forwarded_for": "off"}}),
        ("forwarded_for truncate", {"http": {"forwarded_for": "replace"}}),
        ("forwarded_for delete", {"http": {"forwarded_for": "delete"}}),
        ("via on\nvia off", {"http": {"forwarded_for": "append", "via": False}}),
    ],
)
def test_settings(line: str, expected: dict[str, Any]) -> None:
    data = native(f"{line}\nhttp_access deny all\n")
    assert {key: data[key] for key in data if key not in ("rules", "access_log")} == {
        "http": {"forwarded_for": "append"},
        **expected,
    }


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("connect_timeout soon", "expected a time like 30 seconds or 1 minute, got 'soon'"),
        ("request_header_max_size", "expected a size like 64 KB, got ''"),
        ("via maybe", "expected on or off, got 'maybe'"),
        ("dns_nameservers", "expected addresses of name servers"),
        ("visible_hostname a b", "expected one host name"),
        ("client_lifetime 0 seconds", "expected more than 0: no connection would live"),
        ("forwarded_for nobody", "expected on, off, transparent, truncate or delete, got 'nobody'"),
        ("http_access", "expected allow or deny and at least one ACL, got ''"),
        ("http_access allow", "expected allow or deny and at least one ACL, got 'allow'"),
        ("http_access permit all", "expected allow or deny and at least one ACL, got 'permit all'"),
        ("http_access allow conect", "no ACL before this line is called 'conect'; did you mean 'CONNECT'?"),
        ("http_access allow nobody", "no ACL before this line is called 'nobody'"),
    ],
)
def test_malformed_lines(line: str, reason: str) -> None:
    assert faults(f"http_access deny localhost\n{line}\nhttp_access deny all\n") == [f"2: {line.split()[0]}: {reason}"]


PIECES = r"""
acl http_access http_port https_port cache_peer cache_peer_access never_direct always_direct access_log logformat via include
if else endif x y all localhost allow deny src dst dstdomain dstdom_regex time method port any-of all-of myportname -i -n --
!x !y "/etc/squid/list" 80 0-65535 10.0.0.0/8 .a.example [ \ # = 1.5 on minutes none stdio:/a.log %>a name=x parent SMT
08:00-09:00
"""
WORDS = st.sampled_from(PIECES.split()) | st.text(max_size=6)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(WORDS, max_size=7).map(" ".join), max_size=8).map("\n".join), st.booleans())
def test_any_text_is_translated_or_told_what_is_wrong(text: str, lenient: bool) -> None:
    result, _ = adapted(text, {"/etc/squid/list": text}, lenient=lenient)
    assert result.faults or result.data is not None
    assert all(fault.message and "\n" not in fault.message for fault in (*result.faults, *result.notes))
    if result.data is not None:
        assert result.data["rules"]


# --- what comes out loads -----------------------------------------------------------------------------------------


def loaded(folder: Path, text: str) -> Policy:
    path = folder / "squid.conf"
    path.write_text(text)
    config = load([str(path)]).config
    return Policy.from_config(
        config, lambda _address, _port: False, lambda: time.strptime("2026-06-01 12:30", "%Y-%m-%d %H:%M")
    )


def test_values_that_the_native_form_refuses_are_told_with_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "squid.conf"
    path.write_text(
        "http_port 3128\nlogformat f %>eui\naccess_log stdio:/dev/stdout f\nread_timeout 1 year\nhttp_access deny all\n"
    )
    with pytest.raises(ConfigError) as caught:
        load([str(path)])
    assert [(problem.file, problem.line) for problem in caught.value.problems] == [(str(path), 2), (str(path), 4)]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_examples_load(path: Path) -> None:
    assert load([str(path)]).config.rules


def test_the_published_file_loads() -> None:
    if not PUBLISHED.exists():
        pytest.skip("the published files are not beside this checkout")
    config = load([str(PUBLISHED)]).config
    assert [rule.action for rule in config.rules] == ["deny", "allow", "deny", "allow"]


def test_a_native_file_beside_it_has_its_own_listeners_and_rules(tmp_path: Path) -> None:
    other = tmp_path / "own.yaml"
    other.write_text(
        "listeners: [{protocol: sni, port: 8443}]\nrules: [{name: own, action: allow, hosts: [a.example]}]\n"
    )
    squid = tmp_path / "squid.conf"
    squid.write_text("http_port 3128\nhttp_access deny all\n")
    policy = Policy.from_config(load([str(squid), str(other)]).config, lambda _address, _port: False)
    verdicts = [policy.decide(asked("a.example:443", listener=name)).rule for name in ("http-proxy:3128", "sni:8443")]
    assert verdicts == ["http_access-2", "own"]


def asked(
    target: str,
    *,
    client: str = "10.0.0.7",
    method: str = "CONNECT",
    path: str | None = None,
    listener: str = "http-proxy:3128",
) -> Intent:
    return Intent(client, listener, method, parse_authority(target), None, path=path)


CONNECT, GET = {"target": "www.example.com:443"}, {"target": "www.example.com:80", "method": "GET", "path": "/a/b.gif"}


@pytest.mark.parametrize(
    ("acl", "yes", "no"),
    [
        ("src 10.0.0.0/8", CONNECT, CONNECT | {"client": "11.0.0.1"}),
        ("dstdomain .example.com", CONNECT, {"target": "example.org:443"}),
        ("dstdomain example.com", {"target": "example.com:443"}, CONNECT),
        (r"dstdom_regex ^www\.", CONNECT, {"target": "example.com:443"}),
        ("ssl::server_name .example.com", CONNECT, {"target": "example.org:443"}),
        ("port 443", CONNECT, GET),
        ("method GET", GET, CONNECT),
        ("localport 3128", CONNECT, None),
        ("localport 3129", None, CONNECT),
        ("myportname 3128", CONNECT, None),
        ("proto HTTP", GET, CONNECT),
        ("time MTWHF 12:30-13:00", CONNECT, None),
        ("time M", CONNECT, None),
        ("time A", None, CONNECT),
        ("time 00:00-12:29", None, CONNECT),
        ("url_regex ^http://www", GET, CONNECT),
        ("url_regex example.com:443$", CONNECT, GET),
        (r"urlpath_regex \.gif$", GET, GET | {"path": "/a/b.png"}),
        (r"urlpath_regex \.gif$", None, CONNECT),
    ],
)
def test_each_type_decides_both_ways(
    tmp_path: Path, acl: str, yes: dict[str, Any] | None, no: dict[str, Any] | None
) -> None:
    text = f"http_port 3128\nacl x {acl}\nhttp_access {{}} {{}}x\nhttp_access {{}} all\n"
    for action, other in (("allow", "deny"), ("deny", "allow")):
        plain, opposite = (loaded(tmp_path, text.format(action, sign, other)) for sign in ("", "!"))
        for intent, expected in ((yes, action), (no, other)):
            if intent is not None:
                assert plain.decide(asked(**intent)).allowed is (expected == "allow")
                assert opposite.decide(asked(**intent)).allowed is (expected != "allow")


@pytest.mark.parametrize(
    ("addresses", "in_network"),
    [(("192.0.2.1",), True), (("198.51.100.1",), False)],
)
def test_addresses_decide_once_they_are_known(tmp_path: Path, addresses: tuple[str, ...], in_network: bool) -> None:
    policy = loaded(tmp_path, "http_port 3128\nacl x dst 192.0.2.0/24\nhttp_access deny x\nhttp_access allow all\n")
    assert policy.decide(asked("www.example.com:443")).needs_addresses
    assert policy.decide(asked("www.example.com:443"), addresses).allowed is not in_network
