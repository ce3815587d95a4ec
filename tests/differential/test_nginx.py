"""NGINX and this proxy run one and the same nginx.conf side by side: what clients see, what servers see, and the log lines.

Where the two differ, `KNOWN` says so and why; nothing else may.
"""

from __future__ import annotations

import random
import re
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from support.certificates import authority
from support.clients import receive, receive_all
from support.dns import DnsServer
from support.hellos import browser_hello, openssl_hello
from support.namespaces import Namespace, need_namespaces
from support.nginx_stream import COUNTS_HELLO, NginxStream, version
from support.origin import NAME, TITLE, TcpOrigin, TlsOrigin, echo
from support.proxy import ROOT, Proxy, free_port
from support.waiting import WAIT_S, eventually

from egressproxy.config.load import load
from egressproxy.config.schema.config import Config
from egressproxy.hostport import parse_authority
from egressproxy.model import Intent, Target
from egressproxy.policy.policy import Policy

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="clients come from all of 127.0.0.0/8")

DOORS = ("any", "mapped", "fixed", "looked", "closed", "announced", "announcing", "own")
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
  preread_timeout 1s;
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
  server { listen 127.0.0.1:ANNOUNCED proxy_protocol; set_real_ip_from 127.0.0.0/30; deny 10.9.9.8; proxy_pass one; }
  server { listen 127.0.0.1:ANNOUNCING; ssl_preread on; proxy_protocol on; proxy_pass $to; }
  server { listen 127.0.0.1:OWN;    ssl_preread on; preread_timeout 60s; proxy_timeout 1s; proxy_pass one; }
}
"""


class Talk(NamedTuple):
    """One connection.

    door    which server it is made to
    sent    pieces, each in a segment of its own
    echoed  whether what was sent comes back; then the client closes. Else it waits for the end
    source  the client's address
    end     the client ends its half behind it
    header  bytes at its beginning that are for the proxy and do not come back
    """

    door: str
    sent: tuple[bytes, ...]
    echoed: bool = True
    source: str = "127.0.0.1"
    end: bool = False
    header: int = 0


class Observed(NamedTuple):
    """What became of it: all that the client received, and the log line by its fields."""

    received: bytes
    line: dict[str, str]


def announced(client: str) -> bytes:
    """As a load balancer announces a client."""
    return f"PROXY TCP4 {client} 127.0.0.1 40000 443\r\n".encode()


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
    "an address as name": Talk("any", (openssl_hello("x27.0.0.1").replace(b"x27.0.0.1", b"127.0.0.1"),)),
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
    "an announced client": Talk("announced", (announced("10.9.9.9"), b"hello"), header=len(announced("10.9.9.9"))),
    "an announced client that is denied": Talk("announced", (announced("10.9.9.8"),), echoed=False),
    "a client that is not announced": Talk("announced", (b"SSH-2.0-OpenSSH_9.6\r\n",), echoed=False),
    "a client that announces itself": Talk(
        "announced", (announced("10.9.9.9"), b"hello"), source="127.0.0.9", header=len(announced("10.9.9.9"))
    ),
    "a client that is announced to the server": Talk("announcing", _named("exact.example.test")),
}


ALERT = re.compile(rb"\x15\x03[\x01-\x03]\x00\x02\x02.", re.DOTALL)
PREFIX = re.compile(rb"PROXY TCP4 (\S+) (\S+) \d+ (\d+)\r\n")

SOMETHING, ANYTHING = re.compile(r".+"), re.compile(rb".+", re.DOTALL)

Difference = dict[str, tuple[Any, Any]]

HALF = "a hello that does not end has an empty name in NGINX, here it was not read"
TELLS = "who is refused on an sni listener hears a TLS alert"
POLICY = "what a map closes is refused by policy, where NGINX finds no host"
ANNOUNCER = "only networks in set_real_ip_from may announce clients here, in NGINX they alone are believed"
PREFACE = "the header that announces a client to the server is not counted"
ADDRESS = "an address in place of a name is refused (RFC 6066 section 3), where NGINX goes there"
UNANNOUNCED = "where nobody knows who comes, nobody knows where to"
KINDS: dict[str, Difference] = {
    HALF: {"ssl_preread_server_name": ("", "-")},
    TELLS: {"bytes_sent": ("0", "7"), "received": (b"", ALERT)},
    POLICY: {"status": ("500", "403")},
    ANNOUNCER: {
        "status": ("200", "403"),
        "received": (b"hello", b""),
        "remote_addr": ("127.0.0.9", "127.0.0.9"),
        "bytes_sent": ("5", "0"),
        "bytes_received": ("5", "0"),
        "upstream_addr": (SOMETHING, "-"),
        "upstream_bytes_sent": ("5", "-"),
        "upstream_bytes_received": ("5", "-"),
        "server_addr": ("127.0.0.1", "-"),
        "server_port": ("announced", "-"),
    },
    UNANNOUNCED: {"server_addr": ("127.0.0.1", "-"), "server_port": ("announced", "-")},
    PREFACE: {"upstream_bytes_sent": (SOMETHING, SOMETHING)},
    ADDRESS: {
        "ssl_preread_server_name": ("127.0.0.1", "-"),
        "status": ("200", "500"),
        "received": (ANYTHING, ALERT),
        "bytes_sent": (SOMETHING, "7"),
        "upstream_addr": (SOMETHING, "-"),
        "upstream_bytes_sent": (SOMETHING, "-"),
        "upstream_bytes_received": (SOMETHING, "-"),
    },
}
"""What is different by design, field by field: NGINX's value, and ours."""

KNOWN: dict[str, tuple[str, ...]] = {
    "no such name": (TELLS,),
    "no server name": (TELLS,),
    "no TLS": (TELLS,),
    "a server that is down": (TELLS,),
    "nothing": (TELLS,),
    "half a hello": (TELLS, HALF),
    "a client that leaves": (HALF,),
    "an address as name": (ADDRESS,),
    "a name that leads nowhere": (TELLS, POLICY),
    "a name by default": (TELLS,),
    "a client that is not announced": (UNANNOUNCED,),
    "a client that announces itself": (ANNOUNCER,),
    "a client that is announced to the server": (PREFACE,),
}
"""Talks, and the kinds of difference that they show: each of them, and no other."""


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
            received = self._receive(sock, talk)
        eventually(lambda: len(self.lines()) > before, "a line")
        (line,) = self.lines()[before:]
        fields = dict(zip(FIELDS, line.split("|"), strict=True))
        assert re.fullmatch(r"\d+\.\d{3}", fields.pop("session_time"))
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d", fields.pop("time_iso8601"))
        fields["server_port"] = self._door(fields["server_port"])
        return Observed(received, fields)

    def _receive(self, sock: socket.socket, talk: Talk) -> bytes:
        """All that comes; the header that the server was sent first without what is another one's in any case."""
        if not talk.echoed:
            return receive_all(sock)
        size = sum(map(len, talk.sent)) - talk.header
        try:
            received = receive(sock, size)
        except ConnectionResetError:
            return b""  # closed before all of it was read
        prefix = PREFIX.match(received)
        if prefix is None:
            return received
        client, server, port = (word.decode() for word in prefix.groups())
        return (
            f"{client} to {server} {self._door(port)}: ".encode()
            + received[prefix.end() :]
            + receive(sock, prefix.end())
        )

    def _door(self, port: str) -> str:
        return next((door for door, own in self.ports.items() if str(own) == port), port)

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
        sides: list[Side] = []
        down = free_port()
        for program in ("nginx", "ours"):
            folder = tmp_path_factory.mktemp(program)
            ports = {door: free_port() for door in DOORS}
            words = {door.upper(): port for door, port in ports.items()}
            words |= {"DNS": names.port, "ORIGIN": origin.port, "DOWN": down, "LOG": folder / "stream.log"}
            (folder / "nginx.conf").write_text(filled_in(CONF, words))
            sides.append(Side(ports, folder / "stream.log"))
            if program == "nginx":
                stack.enter_context(NginxStream(folder, folder / "nginx.conf"))
            else:
                stack.enter_context(proxy_with(folder, folder / "nginx.conf"))
        yield Both(*sides)


def filled_in(text: str, words: dict[str, Any]) -> str:
    return re.sub("|".join(rf"\b{word}\b" for word in words), lambda found: str(words[found[0]]), text)


def proxy_with(folder: Path, conf: Path) -> Proxy:
    """This proxy with an nginx.conf; beside it only what the test needs to see that it is ready."""
    beside = folder / "admin.yaml"
    proxy = Proxy(folder, arguments=(str(conf), str(beside)))
    beside.write_text(yaml.safe_dump({"admin": {"port": proxy.admin_port}}))
    return proxy


def fits(expected: Any, value: str | bytes) -> bool:
    return bool(expected.fullmatch(value)) if isinstance(expected, re.Pattern) else expected == value


@pytest.mark.parametrize("name", TALKS)
def test_a_conversation_is_the_same_but_for_what_is_known(both: Both, name: str) -> None:
    theirs, ours = (side.hold(TALKS[name]) for side in both)
    there = {**theirs.line, "received": theirs.received}
    here = {**ours.line, "received": ours.received}
    if not TALKS[name].echoed:
        there["bytes_received"] = here["bytes_received"]  # NGINX may have read more before it gave up, or less
    elif version() < COUNTS_HELLO and int(theirs.line["bytes_received"]) < int(ours.line["bytes_received"]):
        there["bytes_received"] = here[
            "bytes_received"
        ]  # what this NGINX had read before it connected, it does not count
    different = {key: (there[key], here[key]) for key in there if there[key] != here[key]}
    known = {key: values for kind in KNOWN.get(name, ()) for key, values in KINDS[kind].items()}
    assert different.keys() == {key for key, (one, other) in known.items() if one != other or one is SOMETHING}
    for key, values in different.items():
        assert all(map(fits, known[key], values)), (key, values)


@pytest.mark.parametrize("program", Both._fields)
def test_a_server_with_times_of_its_own_has_them_and_others_have_theirs(both: Both, program: str) -> None:
    side: Side = getattr(both, program)

    def client(door: str) -> socket.socket:
        return socket.create_connection(("127.0.0.1", side.ports[door]), WAIT_S)

    def says(sock: socket.socket, data: bytes) -> None:
        sock.sendall(data)
        assert receive(sock, len(data)) == data

    hello = openssl_hello("a.origin.test")
    with client("own") as patient, client("any") as silent, client("own") as idle, client("looked") as quiet:
        says(quiet, hello)
        says(idle, hello)
        assert receive_all(idle) == b""
        assert receive_all(silent) in (b"", b"\x15\x03\x03\x00\x02\x02\x5a")
        says(quiet, hello)
        says(patient, hello)


def test_every_kind_of_difference_is_seen() -> None:
    assert set(KINDS) == {kind for kinds in KNOWN.values() for kind in kinds}
    assert set(KNOWN) <= set(TALKS)


# --- any map ------------------------------------------------------------------------------------------------------

MAPS, NAMES_EACH = 30, 30
_LABELS = ("a", "b", "www")


def some_name(chance: random.Random, most: int = 4) -> str:
    return ".".join(chance.choice(_LABELS) for _ in range(chance.randint(1, most)))


def some_map(chance: random.Random) -> str:
    """The lines of a map that NGINX takes: no name twice. Each has a value of its own."""
    keys: dict[str, str] = {}
    for _ in range(chance.randint(0, 12)):
        name = some_name(chance, 3)
        kind = chance.choice(("exact", "below", "both", "above", "expression"))
        if kind == "exact":
            keys.setdefault(name, name)
        elif kind == "below":
            keys.setdefault(f"*.{name}", f"*.{name}")
        elif kind == "above":
            keys.setdefault(f"{name}.*", f"{name}.*")
        elif kind == "expression":
            pattern = chance.choice((f"~^{name[:3]}", f"~*{name[-3:].upper()}$", "~^[ab.]+$", "~w.*w", "~^$"))
            keys.setdefault(pattern, f'"{pattern}"')
        elif name not in keys and f"*.{name}" not in keys:
            keys[name] = keys[f"*.{name}"] = f".{name}"
    written = list(dict.fromkeys(keys.values()))
    chance.shuffle(written)
    written += ["default"] if chance.random() < 0.5 else []
    lines = [f"{key} 127.0.0.1:{number};" for number, key in enumerate(written, 1)]
    return "\n".join(["hostnames;"] * (chance.random() < 0.8) + lines)


def test_any_name_leads_where_nginx_leads_it(tmp_path: Path) -> None:
    """NGINX says where by answering with the value of the map, this proxy by its policy."""
    version()
    chance = random.Random(1)
    ports = [free_port() for _ in range(MAPS)]
    maps = [f"map $ssl_preread_server_name $to{number} {{\n{some_map(chance)}\n}}" for number in range(MAPS)]
    config, policy = told_both(tmp_path, ports, maps)
    with NginxStream(tmp_path, tmp_path / "nginx.conf"):
        for number, port in enumerate(ports):
            for name in {None, *(some_name(chance) for _ in range(NAMES_EACH))}:
                with socket.create_connection(("127.0.0.1", port), WAIT_S) as sock:
                    sock.sendall(openssl_hello(name))
                    theirs = receive_all(sock).decode()
                assert led_to(config, policy, number, name) == theirs, f"{name}: {maps[number]}"


CLOSING = (
    "~^Secret", "~^evil", "~[A-Z]x", "~^[0-_]z", r"~^\W|^\d\w", "~(?i)^Gone", "~^[^.]{3}[.]C",
)  # fmt: skip
"""Expressions that lead nowhere."""


def test_what_nginx_closes_in_any_spelling_is_closed(tmp_path: Path) -> None:
    version()
    ports = [free_port() for _ in CLOSING]
    maps = [
        f"map $ssl_preread_server_name $to{number} {{ '{key}' ''; default 127.0.0.1:1; }}"
        for number, key in enumerate(CLOSING)
    ]
    config, policy = told_both(tmp_path, ports, maps)
    names = ("secret.a", "evil.a", "ax.a", "5z.a", "0a.a", "gone.a", "aa.a", "abc.c", "other.a")
    with NginxStream(tmp_path, tmp_path / "nginx.conf"):
        for number, port in enumerate(ports):
            closed = 0
            for name in names:
                for spelled in (name, name.upper(), name.title()):
                    with socket.create_connection(("127.0.0.1", port), WAIT_S) as sock:
                        sock.sendall(openssl_hello(spelled))
                        if not receive_all(sock):
                            closed += 1
                            assert led_to(config, policy, number, name) == "", f"{spelled}: {CLOSING[number]}"
            assert closed, f"nothing is closed by {CLOSING[number]}"


def told_both(folder: Path, ports: Sequence[int], maps: Sequence[str]) -> tuple[Config, Policy]:
    """Map number N is `$toN`, on port number N. NGINX's file, nginx.conf, answers with its value; ours is taken to it."""
    doors = [f"listen 127.0.0.1:{port}; ssl_preread on;" for port in ports]
    for name, says in (("nginx", "return $to{};"), ("ours", "proxy_pass $to{};")):
        servers = [f"server {{ {door} {says.format(number)} }}" for number, door in enumerate(doors)]
        (folder / f"{name}.conf").write_text("\n".join(["events {}", "stream {", *maps, *servers, "}"]))
    config = load([str(folder / "ours.conf")]).config
    return config, Policy.from_config(config, lambda address, port: False)


def led_to(config: Config, policy: Policy, number: int, name: str | None) -> str:
    """The service that this proxy takes the name to, which has that of the value; empty where it closes."""
    listener = config.listeners[number]
    if name is None and listener.target is None:
        return ""
    target = Target(name, 443, False) if name is not None else parse_authority(listener.target or "")
    intent = Intent("127.0.0.1", listener.label, "CONNECT", target, None)
    verdict = policy.decide(intent)
    if not verdict.allowed:
        return ""
    route = policy.route(intent, verdict)
    return "" if route is None else config.routes[route].to[0].service


# --- the published file -------------------------------------------------------------------------------------------

PUBLISHED = ROOT.parent / "shared/istio/wildcard-arbitrary-sni-proxy/sni-proxy.conf"
OWN = ROOT / "config/nginx/sni-proxy.conf"
SITE = "203.0.113.80"
LINE = re.compile(r"127\.0\.0\.1 \[[^]]+\] TCP \[(?P<name>[^]]*)\](?P<status>\d+) (?P<sent>\d+) \d+ \d+\.\d{3}")
"""The log of the published file."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Namespace]:
    """A host without a way out, which has the addresses of a name server and of a site itself."""
    need_namespaces()
    with ExitStack() as stack:
        host = stack.enter_context(Namespace("world"))
        for address in ("8.8.8.8", "1.1.1.1", SITE):
            host.ip("addr", "add", f"{address}/32", "dev", "lo")
        for address in ("8.8.8.8", "1.1.1.1"):
            names = DnsServer(address, 53)
            names.add(NAME, "A", SITE)
            host.call(names.start)
            stack.callback(names.stop)
        stack.enter_context(host.call(TlsOrigin, tmp_path_factory.mktemp("pages"), SITE, 443))
        yield host


def file_for(name: str, folder: Path) -> tuple[Path, Path]:
    """The file, with nothing changed but the folder of its logs, and its access log."""
    source, log, own = {
        "published": (PUBLISHED, "/var/log/nginx/access.log", "/var/log/nginx"),
        "own": (OWN, "/dev/stdout", "/dev/stdout"),
    }[name]
    if not source.exists():
        pytest.skip(f"{source.name} is not beside the project")
    changed = folder if own != log else folder / "access.log"
    (folder / "sni-proxy.conf").write_text(source.read_text().replace(own, str(changed)))
    return folder / "sni-proxy.conf", folder / "access.log"


@pytest.mark.parametrize("program", ["nginx", "ours"])
@pytest.mark.parametrize("name", ["published", "own"])
def test_an_sni_proxys_file_serves_real_programs(name: str, program: str, world: Namespace, tmp_path: Path) -> None:
    """One after the other: the file says which port they listen on."""
    version()
    conf, log = file_for(name, tmp_path)
    (tmp_path / "ca.pem").write_bytes(authority().cert_pem.bytes())
    with ExitStack() as stack:
        if program == "nginx":
            nginx = NginxStream(tmp_path, conf)
            nginx.start(world.call)
            stack.callback(nginx.stop)
        else:
            proxy = proxy_with(tmp_path, conf)
            world.call(proxy.start)
            stack.callback(world.call, proxy.end)
        asked = ("curl", "-sS", "--max-time", "10", "--cacert", tmp_path / "ca.pem", "--connect-to", "::127.0.0.1:8443")
        page = world.run(*asked, f"https://{NAME}/", folder=tmp_path)
        nowhere = world.run(*asked, "https://nowhere.example.test/", folder=tmp_path, code=35)
        shown = world.run(
            *("openssl", "s_client", "-connect", "127.0.0.1:8443", "-servername", NAME, "-CAfile", tmp_path / "ca.pem"),
            *("-verify_hostname", NAME, "-verify_return_error"),
            folder=tmp_path,
        )
        eventually(lambda: log.exists() and len(log.read_text().splitlines()) == 3, "three lines")
    assert TITLE in page.out
    assert nowhere.out == ""
    assert "Verification: OK" in shown.out
    seen = [LINE.fullmatch(line) for line in log.read_text().splitlines()]
    assert None not in seen
    assert [(line["name"], line["status"]) for line in seen if line] == [
        (NAME, "200"),
        ("nowhere.example.test", "500"),
        (NAME, "200"),
    ]
