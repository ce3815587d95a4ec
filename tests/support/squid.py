"""The real Squid and this proxy, each with the same squid.conf, on a host of the test's own.

    with Site() as site, RealSquid(site, conf) as proxy:
        reply = site.ask(GET)
        line = proxy.line(1)

Both start from a file that includes the one under test and adds what a test needs: name servers, a log, no cache.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import ClassVar, NamedTuple, Self

from support.dns import DnsServer
from support.namespaces import Namespace
from support.origin import NAME, TcpOrigin, TlsOrigin, echo
from support.proxy import ROOT
from support.waiting import WAIT_S, eventually

WEB, OTHER, CLOSED = "198.51.100.1", "198.51.100.2", "198.51.100.66"
"""Addresses of the origins: a page on port 80 and TLS on 443; echoes on 443 and 8443; one that rules refuse."""

SETTINGS = """\
dns_nameservers 127.0.0.1
visible_hostname proxy.test
shutdown_lifetime 0 seconds
cache deny all
cache_store_log none
pinger_enable off
netdb_filename none
half_closed_clients off
access_log stdio:{folder}/access.log squid
cache_log {folder}/cache.log
pid_filename {folder}/squid.pid
"""


class Line(NamedTuple):
    """One line of the native log, less the times and the client."""

    code: str
    status: str
    size: str
    method: str
    url: str
    user: str
    hierarchy: str
    peer: str
    type: str


class Reply(NamedTuple):
    """What a client got: the status, what came behind the head, and which origins were connected to for it."""

    status: int
    body: bytes
    contacts: tuple[str, ...]


def page(sock: socket.socket) -> None:
    """Answer one request with its first line, and who it is forwarded for."""
    head = b""
    while b"\r\n\r\n" not in head and (piece := sock.recv(65_536)):
        head += piece
    first = head.split(b"\r\n")[0]
    forwarded = re.search(rb"(?i)\r\nx-forwarded-for: *([^\r]*)", head)
    told = first + b" for " + (forwarded[1] if forwarded is not None else b"nobody")
    body = b"" if first.startswith(b"HEAD ") else told
    fields = b"Content-Type: text/plain\r\nConnection: close\r\nContent-Length: %d" % len(told)
    sock.sendall(b"HTTP/1.1 200 OK\r\n%b\r\n\r\n%b" % (fields, body))


class Site:
    """The host: name server, origins, addresses. A context manager."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.host = Namespace("squid")
        self.dns: DnsServer
        self._origins: dict[str, TcpOrigin | TlsOrigin] = {}

    def __enter__(self) -> Self:
        self.host.__enter__()
        for address in (WEB, OTHER, CLOSED):
            self.host.ip("addr", "add", f"{address}/32", "dev", "lo")
        self.dns = self.host.call(lambda: DnsServer(port=53).start())
        for name, address in NAMES.items():
            self.dns.add(name, "A", address)
        self._origins = {
            "web": self.host.call(lambda: TcpOrigin(page, WEB, 80).__enter__()),
            "tls": self.host.call(lambda: TlsOrigin(self._folder, WEB, 443).__enter__()),
            "echo": self.host.call(lambda: TcpOrigin(echo, OTHER, 443).__enter__()),
            "high": self.host.call(lambda: TcpOrigin(echo, OTHER, 8443).__enter__()),
            "closed": self.host.call(lambda: TcpOrigin(page, CLOSED, 80).__enter__()),
        }
        return self

    def __exit__(self, *_: object) -> None:
        for origin in self._origins.values():
            origin.__exit__(None, None, None)
        self.dns.stop()
        self.host.__exit__()

    def contacts(self) -> Counter[str]:
        """How often each origin was connected to."""
        return self.host.call(lambda: Counter({name: origin.contacts() for name, origin in self._origins.items()}))

    def ask(self, request: bytes, *, port: int = 3128, source: str | None = None, inside: bytes = b"") -> Reply:
        """Send a request, and what goes into the tunnel once it is granted."""
        before = self.contacts()
        address = (source, 0) if source else None
        with self.host.call(lambda: socket.create_connection(("127.0.0.1", port), WAIT_S, address)) as sock:
            sock.sendall(request)
            data = b""
            while b"\r\n\r\n" not in data and (piece := sock.recv(65_536)):
                data += piece
            head, _, body = data.partition(b"\r\n\r\n")
            status = int(head.split()[1]) if head else 0
            if request.startswith(b"CONNECT ") and status == 200:
                sock.sendall(inside)
                body = _receive(sock, len(inside))
            elif not request.startswith(b"HEAD "):
                length = re.search(rb"(?i)\r\ncontent-length: *([0-9]+)", head)
                wanted = int(length[1]) if length is not None else None
                while (wanted is None or len(body) < wanted) and (piece := sock.recv(65_536)):
                    body += piece
        return Reply(status, body, tuple(sorted((self.contacts() - before).elements())))


NAMES = {
    NAME: WEB,  # of the certificate
    "www.site.test": WEB,
    "denied.test": WEB,
    "below.denied.test": WEB,
    "ads12.site.test": WEB,
    "hours.site.test": WEB,
    "echo.site.test": OTHER,
    "closed.site.test": CLOSED,
    "local.site.test": "127.0.0.1",
}


def _receive(sock: socket.socket, size: int) -> bytes:
    data = b""
    try:
        while len(data) < size and (piece := sock.recv(65_536)):
            data += piece
    except ConnectionResetError:
        pass
    return data


class Running:
    """One proxy, started with a squid.conf. A context manager."""

    name: ClassVar[str]

    def __init__(self, site: Site, conf: str, ports: tuple[int, ...] = (3128,)) -> None:
        self._site = site
        self._ports = ports
        self._folder = Path(tempfile.mkdtemp(prefix="squid-test-"))
        self._folder.chmod(0o755)
        self.conf = self._folder / "squid.conf"
        self.conf.write_text(conf + SETTINGS.format(folder=self._folder))
        self._process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        """How it is started."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        with (self._folder / "output").open("wb") as output:
            self._process = self._site.host.call(
                lambda: subprocess.Popen(self.command(), stdout=output, stderr=output, cwd=ROOT)
            )
        eventually(self._listens, f"{self.name} listens")
        return self

    def _listens(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self._folder / "output").read_text()
        for port in self._ports:
            try:
                self._site.host.call(lambda port=port: socket.create_connection(("127.0.0.1", port), 1).close())
            except OSError:
                return False
        return True

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(WAIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self._folder)

    @property
    def _logged(self) -> list[str]:
        """The log so far, without those of clients that asked nothing: that is how it is seen whether it listens."""
        file = self._folder / "access.log"
        text = file.read_text() if file.exists() else ""
        return [line for line in text.splitlines() if "error:transaction-end-before-headers" not in line]

    @property
    def lines(self) -> list[Line]:
        """The log so far."""
        return [_parsed(line) for line in self._logged]

    @property
    def clients(self) -> list[str]:
        """Of each line."""
        return [line.split()[2] for line in self._logged]

    def line(self, count: int) -> Line:
        """The last line, when there are that many."""
        return eventually(lambda: self.lines[count - 1 :], f"{count} lines of {self.name}")[0]


def _parsed(line: str) -> Line:
    _time, _elapsed, _client, result, size, method, url, user, hierarchy, type_ = line.split()
    code, _, status = result.partition("/")
    kind, _, peer = hierarchy.partition("/")
    return Line(code, status, size, method, url, user, kind, peer, type_)


class RealSquid(Running):
    """Squid itself. As root it gives that up for the user `proxy`, who then writes the log."""

    name = "squid"

    @staticmethod
    def version() -> str:
        """As `5.7`."""
        told = subprocess.run(["/usr/sbin/squid", "-v"], capture_output=True, text=True, check=True).stdout
        return told.splitlines()[0].rpartition(" ")[2]

    def command(self) -> list[str]:
        """In the foreground, with shared memory of its own name."""
        if os.geteuid() == 0:
            shutil.chown(self._folder, "proxy", "proxy")
        return ["/usr/sbin/squid", "-N", "-n", f"test{os.getpid()}", "-f", str(self.conf)]

    def __exit__(self, *exception: object) -> None:
        super().__exit__(*exception)
        for segment in Path("/dev/shm").glob(f"test{os.getpid()}-*.shm"):
            segment.unlink()


class Ours(Running):
    """This proxy."""

    name = "egressproxy"

    def command(self) -> list[str]:
        """With that file and nothing else."""
        return [sys.executable, "-m", "egressproxy", "run", str(self.conf)]
