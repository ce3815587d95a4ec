"""The sockets of one server."""

from __future__ import annotations

import pytest
from support.adapting import MAIN, MemoryFiles, told

from egressproxy.config.adapters.adapter import Source
from egressproxy.config.adapters.nginx.listens import MAX_PORTS, read_listens
from egressproxy.config.adapters.nginx.syntax import Findings, read


def listens(text):
    files, findings = MemoryFiles({}), Findings(lenient=False)
    found = read_listens(read(Source(0, MAIN, text.encode()), files, findings), findings)
    told_all = [told(each, files) for each in [*findings.faults, *findings.notes]]
    return [(each.address, each.port, each.proxy_protocol, each.only_ipv6) for each in found], told_all


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("8443", [("0.0.0.0", 8443, False, False)]),
        ("*:8443", [("0.0.0.0", 8443, False, False)]),
        ("127.0.0.1:8443", [("127.0.0.1", 8443, False, False)]),
        ("[::1]:8443", [("::1", 8443, False, False)]),
        ("[::]:8443", [("::", 8443, False, True)]),
        ("[::]:8443 ipv6only=off", [("::", 8443, False, False)]),
        ("8443 proxy_protocol", [("0.0.0.0", 8443, True, False)]),
        ("127.0.0.1:8000-8002", [("127.0.0.1", port, False, False) for port in (8000, 8001, 8002)]),
        ("8443; listen [::]:8443", [("::", 8443, False, False)]),
        ("[::]:8443; listen 8443", [("::", 8443, False, False)]),
        ("8443; listen [::]:8444", [("0.0.0.0", 8443, False, False), ("::", 8444, False, True)]),
    ],
)
def test_what_a_server_listens_on(words, found):
    assert listens(f"listen {words};") == (found, [])


def test_what_is_about_sockets_is_noted():
    _, notes = listens("listen 8443 reuseport backlog=511 so_keepalive=on;")
    assert notes == [
        "1 listen: reuseport, backlog, so_keepalive: no meaning here, this proxy sees to its sockets by itself"
    ]


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        ("127.0.0.1", "expected a port, or an address with a port like 127.0.0.1:8443, got '127.0.0.1'"),
        ("localhost:8443", "expected an address like 127.0.0.1 and no name, got 'localhost'"),
        ("::1:8443", "expected a port, or an address with a port like 127.0.0.1:8443, got '::1:8443'"),
        ("[127.0.0.1]:8443", "expected an IPv6 address in brackets, and no other, got '[127.0.0.1]:8443'"),
        ("0", f"expected a port from 1 to 65535, or a range of at most {MAX_PORTS}, got '0'"),
        ("65536", f"expected a port from 1 to 65535, or a range of at most {MAX_PORTS}, got '65536'"),
        ("8100-8000", f"expected a port from 1 to 65535, or a range of at most {MAX_PORTS}, got '8100-8000'"),
        ("1000-1100", f"expected a port from 1 to 65535, or a range of at most {MAX_PORTS}, got '1000-1100'"),
        ("unix:/run/a", "clients do not come by UNIX sockets here; expected ADDRESS:PORT"),
        ("8443 ssl", "this proxy does not end TLS for a stream"),
        ("53 udp", "UDP is not taken here"),
        ("8443 default_server", "there are no servers that share an address here"),
        ("8443 8444", "expected a parameter like proxy_protocol or reuseport, got '8444'"),
        ("8443 ipv6only=off", "expected a parameter like proxy_protocol or reuseport, got 'ipv6only=off'"),
        ("[::]:8443 ipv6only=x", "expected on or off, got 'x'"),
        ("8443 backlog", "expected a parameter like proxy_protocol or reuseport, got 'backlog'"),
        ("8443; listen [::]:8443 proxy_protocol", "expected proxy_protocol for IPv4 and IPv6, or for neither"),
    ],
)
def test_what_cannot_be_listened_on(words, fault):
    assert listens(f"listen {words};")[1] == [f"1 listen: {fault}"]
