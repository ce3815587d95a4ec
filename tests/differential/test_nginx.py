"""NGINX and this proxy run one and the same nginx.conf side by side: what clients see, what servers see, and the log lines.

Where the two differ, `KNOWN` says so and why; nothing else may.
"""

from __future__ import annotations

import re
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from support.certificates import authority
from support.clients import installed, receive, receive_all, run
from support.dns import DnsServer
from support.hellos import browser_hello, openssl_hello
from support.namespaces import Namespace, need_namespaces
from support.nginx_stream import COUNTS_HELLO, NginxStream, version
from support.origin import NAME, TITLE, TcpOrigin, TlsOrigin, echo
from support.proxy import ROOT, Proxy, free_port
from support.waiting import WAIT_S, eventually

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="clients come from all of 127.0.0.0/8")

DOORS = ("any", "mapped", "fixed", "looked", "closed")
"""The servers of the file below, by their ports."""

FIELDS = (
    "remote_addr", "protocol", "ssl_preread_server_name", "status", "bytes_sent", "bytes_received", "upstream_addr",
    "upstream_bytes_sent", "upstream_bytes_received", "server_addr", "server_port", "session_time", "time_iso8601",
)  # fmt: skip

CONF = """
events {
}
stream {
  log_format fields '$remote_addr|$protocol|$ssl_preread_server_name|$status|$bytes_sent|$bytes_received|$upstream_addr|'
                    '$upstream_bytes_sent|$upstream_bytes_received|$server_addr|$server_port|$session_time|$time_iso8601';
  access_log LOG fields;
  resolver 127.0.0.1:DNS valid=1s ipv6=off;
  resolver_timeout 2s;
  preread_timeout 2s;
  proxy_connect_timeout 2s;

  map $ssl_preread_server_name $to {
    hostnames;
    exact.example.test      one;
    closed.example.test     "";
    *.example.test          two;
    .apex.test              one;
    *.deep.example.test     one;
    www.*                   two;
    ~^r[0-9]+\\.regex\\.test$ one;
    ~*^r                    $ssl_preread_server_name:ORIGIN;
    default                 127.0.0.1:DOWN;
    ""                      two;
  }
  upstream one { server 127.0.0.1:ORIGIN; }
  upstream two { server 127.0.0.2:ORIGIN; server 127.0.0.1:DOWN down; }

  server { listen 127.0.0.1:ANY;    ssl_preread on; proxy_pass $ssl_preread_server_name:ORIGIN; }
  server { listen 127.0.0.1:MAPPED; ssl_preread on; proxy_pass $to; }
  server { listen 127.0.0.1:FIXED;  proxy_pass one; }
  server { listen 127.0.0.1:LOOKED; ssl_preread on; proxy_pass two; }
  server { listen 127.0.0.1:CLOSED; deny 127.0.0.3; allow 127.0.0.0/30; deny 127.0.0.0/8; proxy_pass one; }
}
"""


class Talk(NamedTuple):
    """One connection.

    door    which server it is made to
    sent    pieces, each in a segment of its own
    echoed  whether all of it is to come back; then the client closes
    source  the client's address
    end     the client ends its half behind it
    """

    door: str
    sent: tuple[bytes, ...]
    echoed: bool = True
    source: str = "127.0.0.1"
    end: bool = False


class Observed(NamedTuple):
    """What became of it: all that the client received, and the log line by its fields."""

    received: bytes
    line: dict[str, str]


def _named(name: str | None, behind: bytes = b" and more") -> tuple[bytes, ...]:
    return (openssl_hello(name), behind)


TALKS = {
    "a name": Talk("any", _named("a.origin.test")),
    "a browser": Talk("any", (browser_hello("a.origin.test"),)),
    "capitals": Talk("any", _named("A.Origin.TEST")),
    "in pieces": Talk("any", tuple(bytes([byte]) for byte in openssl_hello("a.origin.test"))),
    "no such name": Talk("any", _named("nowhere.test"), echoed=False),
    "no server name": Talk("any", _named(None), echoed=False),
    "no TLS": Talk("any", (b"GET / HTTP/1.1\r\n\r\n",), echoed=False),
    "a server that is down": Talk("any", _named("down.test"), echoed=False),
    "nothing": Talk("any", (), echoed=False),
    "half a hello": Talk("any", (openssl_hello("a.origin.test")[:50],), echoed=False),
    "a client that leaves": Talk("any", (openssl_hello("a.origin.test")[:50],), echoed=False, end=True),
    "an address as name": Talk(
        "any", (openssl_hello("127.0.0.001x").replace(b"127.0.0.001x", b"127.000.00.1"),), echoed=False
    ),
    "an exact name": Talk("mapped", _named("exact.example.test")),
    "an exact name in capitals": Talk("mapped", _named("EXACT.example.test")),
    "a wildcard": Talk("mapped", _named("a.b.example.test")),
    "a longer wildcard": Talk("mapped", _named("a.deep.example.test")),
    "not below the longer wildcard": Talk("mapped", _named("deep.example.test")),
    "the apex": Talk("mapped", _named("apex.test")),
    "below the apex": Talk("mapped", _named("a.apex.test")),
    "a trailing wildcard": Talk("mapped", _named("www.else.org")),
    "an expression": Talk("mapped", _named("r12.regex.test")),
    "a later expression, to the name": Talk("mapped", _named("round.test")),
    "a name that leads nowhere": Talk("mapped", _named("closed.example.test"), echoed=False),
    "a name by default": Talk("mapped", _named("example.test"), echoed=False),
    "mapped, no server name": Talk("mapped", _named(None)),
    "mapped, no TLS": Talk("mapped", (b"SSH-2.0-OpenSSH_9.6\r\n",)),
    "fixed, no TLS": Talk("fixed", (b"SSH-2.0-OpenSSH_9.6\r\n",)),
    "fixed, TLS": Talk("fixed", _named("a.origin.test")),
    "looked at, TLS": Talk("looked", _named("anything.test")),
    "looked at, no server name": Talk("looked", _named(None)),
    "looked at, no TLS": Talk("looked", (b"SSH-2.0-OpenSSH_9.6\r\n",)),
    "a client that is let in": Talk("closed", (b"hello",), source="127.0.0.2"),
    "a client that is denied before others are let in": Talk("closed", (b"hello",), echoed=False, source="127.0.0.3"),
    "a client that is denied with the rest": Talk("closed", (b"hello",), echoed=False, source="127.0.0.4"),
}


class Side(NamedTuple):
    """One of the two programs: its ports by door, and its log."""

    ports: dict[str, int]
    log: Path

    def hold(self, talk: Talk) -> Observed:
        """Have the conversation, and wait for its line."""
        before = len(self.lines())
        with socket.create_connection(("127.0.0.1", self.ports[talk.door]), WAIT_S, (talk.source, 0)) as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                for piece in talk.sent:
                    sock.send(piece)
                if talk.end:
                    sock.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # refused before the end
            received = receive(sock, sum(map(len, talk.sent))) if talk.echoed else receive_all(sock)
        eventually(lambda: len(self.lines()) > before, "a line")
        (line,) = self.lines()[before:]
        fields = dict(zip(FIELDS, line.split("|"), strict=True))
        assert re.fullmatch(r"\d+\.\d{3}", fields.pop("session_time"))
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d", fields.pop("time_iso8601"))
        fields["server_port"] = next(door for door, port in self.ports.items() if str(port) == fields["server_port"])
        return Observed(received, fields)

    def lines(self) -> list[str]:
        text = self.log.read_text() if self.log.exists() else ""
        return text[: text.rfind("\n") + 1].splitlines()


class Both(NamedTuple):
    """The two programs with one file."""

    nginx: Side
    ours: Side


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    version()
    with ExitStack() as stack:
        names = stack.enter_context(DnsServer())
        origin = stack.enter_context(TcpOrigin(echo))
        stack.enter_context(TcpOrigin(echo, "127.0.0.2", origin.port))
        for name in ("a.origin.test", "round.test"):
            names.add(name, "A", "127.0.0.1")
        names.add("down.test", "A", "127.0.0.9")  # where nobody listens on the origin's port
        sides = []
        for program in ("nginx", "ours"):
            folder = tmp_path_factory.mktemp(program)
            ports = {door: free_port() for door in DOORS}
            words = {door.upper(): port for door, port in ports.items()}
            words |= {"DNS": names.port, "ORIGIN": origin.port, "DOWN": free_port(), "LOG": folder / "stream.log"}
            text = re.sub("|".join(rf"\b{word}\b" for word in words), lambda found: str(words[found[0]]), CONF)
            (folder / "nginx.conf").write_text(text)
            sides.append(Side(ports, folder / "stream.log"))
            if program == "nginx":
                stack.enter_context(NginxStream(folder, folder / "nginx.conf"))
            else:
                stack.enter_context(proxy_with(folder, folder / "nginx.conf"))
        yield Both(*sides)


def proxy_with(folder: Path, conf: Path) -> Proxy:
    """This proxy with an nginx.conf; beside it only what the test needs to see that it is ready."""
    beside = folder / "admin.yaml"
    proxy = Proxy(folder, arguments=(str(conf), str(beside)))
    beside.write_text(yaml.safe_dump({"admin": {"port": proxy.admin_port}}))
    return proxy


@pytest.mark.parametrize("name", TALKS)
def test_one_conversation(both, name):
    talk = TALKS[name]
    a, b = both.nginx.hold(talk), both.ours.hold(talk)
    print(
        name,
        {k: (a.line[k], b.line[k]) for k in a.line if a.line[k] != b.line[k]},
        a.received[:20] if a.received != b.received else "",
        b.received[:20] if a.received != b.received else "",
    )
