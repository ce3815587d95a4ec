"""`http_port` and `https_port`."""

from __future__ import annotations

from typing import Any

import pytest
from support.squid_conf import faults, native, notes

PROXY = {"protocol": "http-proxy", "manager": True}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("http_port 3128", PROXY | {"address": "::", "port": 3128}),
        ("ascii_port 3128", PROXY | {"address": "::", "port": 3128}),
        ("http_port [::]:3128", PROXY | {"address": "::", "port": 3128}),
        ("http_port 0.0.0.0:3128", PROXY | {"address": "0.0.0.0", "port": 3128}),
        ("http_port 3128 ipv4", PROXY | {"address": "0.0.0.0", "port": 3128}),
        ("http_port 127.0.0.1:3128 ipv4", PROXY | {"address": "127.0.0.1", "port": 3128}),
        ("http_port 127.0.0.1:3128", PROXY | {"address": "127.0.0.1", "port": 3128}),
        ("http_port [::1]:3128 name=six", PROXY | {"address": "::1", "port": 3128, "name": "six"}),
        ("http_port 3129 intercept", {"protocol": "http", "address": "::", "port": 3129, "transparent": "redirect"}),
        ("http_port 3129 tproxy", {"protocol": "http", "address": "::", "port": 3129, "transparent": "tproxy"}),
        (
            "https_port 3130 tls-cert=/c.pem key=/k.pem clientca=/ca.pem options=NO_SSLv3,NO_TLSv1",
            PROXY
            | {
                "address": "::",
                "port": 3130,
                "tls": {"certificate": "/c.pem", "key": "/k.pem", "client_ca": "/ca.pem"},
            },
        ),
        (
            "https_port 3130 cert=/both.pem",
            PROXY | {"address": "::", "port": 3130, "tls": {"certificate": "/both.pem", "key": "/both.pem"}},
        ),
    ],
)
def test_listeners(line: str, expected: dict[str, Any]) -> None:
    assert native(f"{line}\nhttp_access deny all\n")["listeners"] == [expected]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("http_port", "expected a port like 3128 or 127.0.0.1:3128"),
        ("http_port proxy", "expected a port, ADDRESS:PORT or [ADDRESS]:PORT, got 'proxy'"),
        (
            "http_port proxy.example:3128",
            "expected an address before the port, got 'proxy.example:3128'; names are not looked up here",
        ),
        ("http_port 0", "expected a port from 1 to 65535, got '0'"),
        (
            "http_port 80 accel vhost",
            "the option 'accel' makes the port one of a server's own (a reverse proxy); this proxy is for what goes out",
        ),
        ("http_port 3128 ssl-bump cert=/c.pem", "the option 'ssl-bump' decrypts TLS, which this proxy never does"),
        (
            "http_port 3128 require-proxy-header",
            "the option 'require-proxy-header' needs proxy_protocol on a native listener, with the addresses that may announce "
            "clients",
        ),
        ("http_port [::1]:3128 ipv4", "the option 'ipv4' leaves nothing of the address ::1; leave it out"),
        ("http_port 3128 frobnicate", "the option 'frobnicate' is not known here; leave it out"),
        ("https_port 3130", "expected tls-cert=FILE with the certificate that clients are shown"),
        (
            "https_port 3130 cert=/c.pem tls-min-version=1.3",
            "the option 'tls-min-version=1.3' is not known here; leave it out",
        ),
        (
            "https_port 3130 cert=/c.pem sslflags=CONDITIONAL_AUTH",
            "the option 'sslflags=CONDITIONAL_AUTH' is not known here; leave it out",
        ),
        (
            "https_port 3130 intercept cert=/c.pem",
            "TLS that was captured can only be forwarded undecrypted: write a native listener with protocol: sni",
        ),
    ],
)
def test_what_cannot_be_expressed(line: str, reason: str) -> None:
    expected = [f"1: {line.split()[0]}: {reason}"]
    text = f"{line}\nhttp_access deny all\n"
    assert faults(text) == faults(text, lenient=True) == expected


def test_two_listeners_on_one_port_have_two_names() -> None:
    data = native("http_port 127.0.0.1:3128\nhttp_port 127.0.0.2:3128\nhttp_access deny all\n")
    assert data["rules"][0]["listeners"] == ["http-proxy:3128", "http-proxy:3128-2"]
    assert [each.get("name") for each in data["listeners"]] == [None, "http-proxy:3128-2"]


def test_two_ports_of_one_name_are_refused() -> None:
    assert faults("http_port 1 name=a\nhttp_port 2 name=a\nhttp_access deny all\n") == [
        "2: http_port: two ports are called 'a'; give one a name="
    ]


def test_options_without_meaning_are_noted_once() -> None:
    found = notes("http_port 3128 tcpkeepalive=60,30,3 disable-pmtu-discovery=off\nhttp_access deny all\n")
    assert found[0] == "1: http_port: has no meaning here: tcpkeepalive=60,30,3, disable-pmtu-discovery=off"
