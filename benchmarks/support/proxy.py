"""What a proxy under test is: started with the policy, asked for its CPU time and memory, checked, and stopped.

`proxies` has our own, `peers` and `envoy` the others. Each says how it is started (`prepare`), in which ways it can be used
(`ways`), and what its access log shows (`log_shows`).
"""

from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Container
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import ClassVar, NamedTuple, Self

from benchmarks.support import messages, policy
from benchmarks.support.errors import Refused, Unavailable, WrongAnswer
from benchmarks.support.hello import client_hello
from benchmarks.support.messages import Exchange
from benchmarks.support.origins import Origins
from benchmarks.support.processes import cpu_s, kernel_s, memory_bytes, spawn, stop, tree

_START_S = 20.0
_LOG_S = 10.0
_TLS_ALERT = b"\x15"  # content type, RFC 8446 section 5.1


class Way(StrEnum):
    """How a proxy is used: how a tunnel is asked for, or a request."""

    CONNECT = "CONNECT"
    """By a request; what follows the 200 is anything."""
    CONNECT_TLS = "CONNECT with TLS inside"
    """By a request; what follows the 200 is TLS, and a proxy that can looks at its server name."""
    SNI = "SNI"
    """By the server name in a ClientHello, which the origin gets as it was sent."""
    REQUESTS = "plain requests"
    """GETs as they are sent to a proxy, on connections that carry many; the origin is plain, too."""
    ORIGINATION = "requests that leave in TLS"
    """GETs as they are sent to an origin, in plain text; the proxy speaks TLS to the origin."""


TUNNELS = (Way.CONNECT, Way.CONNECT_TLS, Way.SNI)
HTTP_PORT = 80


class Route(NamedTuple):
    """How one tunnel is opened.

    address  where to connect
    opening  the bytes to send first
    granted  what the answer to them begins with; empty: there is none, and the tunnel is open at once
    """

    address: tuple[str, int]
    opening: bytes
    granted: bytes


class Proxy(ABC):
    """One proxy as a child process on a core of its own. Use as a context manager: enter starts it, exit stops it."""

    name: ClassVar[str]
    ways: ClassVar[tuple[Way, ...]] = (Way.CONNECT, Way.CONNECT_TLS)
    """How it can be used; the first is for benchmarks that do not mind."""
    judges: ClassVar[bool] = True
    """It has a policy and an access log, and both are checked."""
    patience_s: ClassVar[float] = 10.0
    """It gets this long to end by itself."""

    def __init__(self, origins: Origins, folder: Path, core: int, way: Way | None = None) -> None:
        """`folder`: an empty one of its own, for its configuration and logs."""
        self.origins = origins
        self.folder = folder
        self.core = core
        self.way = way or self.ways[0]
        self.port = 0
        """Where it takes CONNECT, or requests."""
        self.sni_ports: dict[int, int] = {}
        """Where it takes TLS, by the origin's port that it forwards to: a ClientHello names no port."""
        self.log = folder / "access.log"
        self._child: subprocess.Popen[bytes] | None = None

    # --- what a peer says of itself -------------------------------------------------------------------------------

    @classmethod
    @abstractmethod
    def version(cls) -> str:
        """Name and version. Raises Unavailable."""

    @abstractmethod
    def prepare(self) -> list[str]:
        """Write the configuration for its ports into the folder; the command that runs it in the foreground."""

    def log_shows(self) -> tuple[str, ...]:
        """Of a refused tunnel or request and of one that was let pass. Here: Squid's format."""
        if self.way not in TUNNELS:
            return "TCP_DENIED/403", f"GET http://{policy.REFUSED}", "TCP_MISS/200", f"GET http://{policy.ORIGIN}"
        return "TCP_DENIED/403", f"CONNECT {policy.REFUSED}:", "TCP_TUNNEL/200", f"CONNECT {policy.ORIGIN}:"

    @property
    def allowed_ports(self) -> tuple[int, ...]:
        """Those of the policy's third rule: 443, and those that clients of this way name."""
        if self.way in TUNNELS:
            return 443, *self.origins.ports
        return 443, self.origins.http_port if self.way is Way.REQUESTS else HTTP_PORT

    def route(self, host: str, port: int) -> Route:
        """How a tunnel to `host` and `port` is opened.

        CONNECT has the header fields that curl sends. A ClientHello is answered by the origin, which sends it back: so
        whoever opens a tunnel sees that it arrived byte for byte.
        """
        if self.way is Way.SNI:
            hello = client_hello(host)
            return Route(("127.0.0.1", self.sni_ports[port]), hello, hello)
        head = (
            f"CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n"
            "User-Agent: curl/8.5.0\r\nProxy-Connection: Keep-Alive\r\n\r\n"
        )
        return Route(("127.0.0.1", self.port), head.encode(), b"HTTP/1.1 200")

    def exchange(self, target: str, host: str = policy.ORIGIN) -> Exchange:
        """A GET through it, and what has to come back."""
        absolute = self.way is Way.REQUESTS
        authority = f"{host}:{self.origins.http_port}" if absolute else host
        request = messages.request(authority, target, absolute=absolute)
        return Exchange(("127.0.0.1", self.port), request, messages.body(target.encode()))

    # --- life -----------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start it and wait until it opens a tunnel or answers a request. Raises RuntimeError with what it printed if not."""
        self.version()
        self._choose_ports()
        command = self.prepare()
        output = self.folder / "output.log"
        with output.open("wb") as sink:
            self._child = spawn(command, self.core, stdout=sink, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + _START_S
        answered = 0
        while True:
            try:
                if self.way in TUNNELS:
                    self.connect(self.origins.echo_ports[0]).close()
                else:
                    self.ask(self.exchange("/"))
                break
            except (OSError, WrongAnswer) as error:
                answered += isinstance(error, WrongAnswer)
                if self._child.poll() is None and time.monotonic() < deadline:
                    time.sleep(0.05)
                    continue
                status = self._child.poll()
                self.stop()
                printed = "".join(path.read_text(errors="replace")[-3000:] for path in self.folder.glob("*.log"))
                raise RuntimeError(
                    f"{self.name} did not start (exit status {status}, last answer: {error}). It printed:\n{printed}"
                ) from error
        if self.judges:
            self.wait_until_logged(answered + 1)

    def _choose_ports(self) -> None:
        taken: set[int] = set()
        for service_port in self.origins.ports:
            self.sni_ports[service_port] = free_port(taken)
            taken.add(self.sni_ports[service_port])
        self.port = free_port(taken)

    def stop(self) -> None:
        """End it and its helpers, by process id."""
        if self._child is not None:
            stop(self._child, self.patience_s)
            self._child = None

    # --- what is measured -----------------------------------------------------------------------------------------

    def pids(self) -> list[int]:
        """Its processes, helpers and workers included."""
        return [] if self._child is None else tree(self._child.pid)

    def cpu_s(self) -> float:
        """CPU seconds so far, of all its processes."""
        return cpu_s(self.pids())

    def kernel_s(self) -> float:
        """The part of it spent in the kernel."""
        return kernel_s(self.pids())

    def memory_bytes(self) -> int:
        """User-space memory now, of all its processes."""
        return memory_bytes(self.pids())

    def logged(self) -> int:
        """Complete lines in the access log."""
        return self.log.read_bytes().count(b"\n") if self.log.exists() else 0

    def wait_until_logged(self, lines: int) -> None:
        """Wait until the access log has `lines` lines, however the proxy batches them. Raises WrongAnswer."""
        deadline = time.monotonic() + _LOG_S
        while (found := self.logged()) < lines:
            if time.monotonic() > deadline:
                raise WrongAnswer(f"{self.name}: {lines} connections ended, and its access log has {found} lines")
            time.sleep(0.05)
        if found > lines:
            raise WrongAnswer(f"{self.name}: {lines} connections ended, and its access log has {found} lines")

    # --- use ------------------------------------------------------------------------------------------------------

    def connect(self, port: int, host: str = policy.ORIGIN) -> socket.socket:
        """Open one tunnel, blocking; the caller closes it. Raises OSError, or Refused when it is not granted."""
        route = self.route(host, port)
        sock = socket.create_connection(route.address, timeout=10)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if route.opening:
                sock.sendall(route.opening)
            if route.granted:
                read = read_head if self.way is not Way.SNI else read_hello
                answer = read(sock)
                if not answer.startswith(route.granted):
                    raise Refused(f"{self.name}: expected {route.granted[:50]!r}, got {answer[:200]!r}", answer)
        except BaseException:
            sock.close()
            raise
        sock.settimeout(None)
        return sock

    def ask(self, *exchanges: Exchange, any_body: bool = False) -> bytes:
        """Requests one after the other on one connection; the last answer, whose body is compared unless it may be any.

        Raises OSError, WrongAnswer, or Refused with the whole answer when its status is not 200.
        """
        answer = b""
        with socket.create_connection(exchanges[0].address, timeout=10) as sock:
            for exchange in exchanges:
                sock.sendall(exchange.request)
                answer = b""
                try:
                    while messages.read_answer(answer, None if any_body else exchange.body) is None:
                        if not (piece := sock.recv(65536)):
                            raise Refused(f"the connection was closed after {answer!r}", answer)
                        answer += piece
                except Refused as error:
                    raise Refused(f"{self.name}: {error}", error.answer) from error
                except WrongAnswer as error:
                    raise WrongAnswer(f"{self.name}: {error}") from error
        return answer

    def check(self) -> None:
        """What holds for every proxy with a policy: a refused name is refused, what is let pass arrives, both are logged."""
        if not self.judges:
            return
        before = self.logged()
        ended = self._check_tunnels() if self.way in TUNNELS else self._check_requests()
        self.wait_until_logged(before + ended)
        text = self.log.read_text()
        for expected in self.log_shows():
            if expected not in text:
                raise WrongAnswer(f"{self.name}: {expected!r} is missing in its access log")

    def _check_tunnels(self) -> int:
        """How many there were."""
        port = self.origins.echo_ports[0]
        try:
            self.connect(port, policy.REFUSED).close()
        except Refused as error:
            if not self._refuses_with(error.answer):
                raise
        else:
            raise WrongAnswer(f"{self.name} let {policy.REFUSED} pass")
        message = client_hello(policy.ORIGIN) if self.way is Way.CONNECT_TLS else b"?"
        with self.connect(port) as sock:
            sock.sendall(message)
            if (answer := receive(sock, len(message))) != message:
                raise WrongAnswer(f"{self.name}: expected the echo {message!r}, got {answer!r}")
        return 2

    def _check_requests(self) -> int:
        """How many there were."""
        self._check_refusal(policy.REFUSED, b"403")
        self.ask(self.exchange("/one"), self.exchange("/another"))
        seen = self.exchange(messages.SEEN)
        _, _, head = self.ask(seen, any_body=True).partition(b"\r\n\r\n")
        if not head.startswith(f"GET {messages.SEEN} HTTP/1.1\r\n".encode()):
            raise WrongAnswer(f"{self.name}: expected a request as origins take it, the origin got {head!r}")
        host = dict(messages.fields(seen.request))["host"]
        if [value for name, value in messages.fields(head) if name == "host"] != [host]:
            raise WrongAnswer(f"{self.name}: expected the host {host}, the origin got {head!r}")
        if self.way is not Way.ORIGINATION:
            return 4
        self._check_refusal(policy.UNPROVEN, b"50")
        return 5

    def _check_refusal(self, host: str, status: bytes) -> None:
        try:
            self.ask(self.exchange("/", host))
        except Refused as error:
            if not error.answer.startswith(b"HTTP/1.1 " + status):
                raise
        else:
            raise WrongAnswer(f"{self.name} let {host} pass")

    def _refuses_with(self, answer: bytes) -> bool:
        if self.way is Way.SNI:
            return answer[:1] in (b"", _TLS_ALERT)
        return answer.startswith(b"HTTP/1.1 403")


def find_program(name: str, packages: str) -> str:
    """The program, also where only root looks for it. Raises Unavailable with the Debian packages that have it."""
    program = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        raise Unavailable(f"{name} is not installed (apt-get install {packages})")
    return program


_kept: set[int] = set()


def free_port(taken: Container[int] = ()) -> int:
    """A port to listen on below the range that outgoing connections use, so none of those can hold it.

    It stays bound by a socket that yields to who sets SO_REUSEADDR, as proxies do: whoever looks for a free port at the same
    time finds another one.
    """
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = random.randrange(min(20000, lowest - 1000), lowest)
        if port in taken or port in _kept:
            continue
        keeper = socket.socket()
        try:
            keeper.bind(("127.0.0.1", port))
        except OSError:
            keeper.close()
            continue
        keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # from now on, so that looking is strict
        keeper.detach()  # until the end of this process
        _kept.add(port)
        return port


def receive(sock: socket.socket, size: int) -> bytes:
    """`size` bytes, or what comes before the end or a reset."""
    data = b""
    try:
        while len(data) < size and (piece := sock.recv(size - len(data))):
            data += piece
    except ConnectionError:
        pass
    return data


def read_head(sock: socket.socket) -> bytes:
    """Read to the blank line, or to the end. Not a byte more: what follows belongs to the tunnel."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        piece = sock.recv(1)
        if not piece:
            break
        head += piece
    return head


def read_hello(sock: socket.socket) -> bytes:
    """Read one TLS record, or to the end."""
    header = receive(sock, 5)
    return header + receive(sock, int.from_bytes(header[3:], "big"))
