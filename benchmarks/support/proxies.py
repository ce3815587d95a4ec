"""The proxies under test: each started with the same policy, asked for its CPU time and memory, and stopped.

A new peer (NGINX, HAProxy, Envoy, ...) is one more class here and one more word in `PROXIES`; the benchmarks stay as
they are. It says how it is started (`prepare`) and, where it is not an HTTP proxy, how a tunnel through it is opened
(`route`).
"""

from __future__ import annotations

import importlib.util
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import ClassVar, NamedTuple, Self

from benchmarks.support import policy
from benchmarks.support.origins import Origins
from benchmarks.support.processes import cpu_s, descriptor_limit, kernel_s, memory_bytes, spawn, stop, tree

_START_S = 20.0
_LOG_S = 10.0


class Unavailable(Exception):
    """The proxy cannot be run here; the message says what is missing."""


class WrongAnswer(Exception):
    """A proxy or an origin did not do what it has to do: there is nothing to time."""


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
    judges: ClassVar[bool] = True
    """It has a policy and an access log, and both are checked."""
    patience_s: ClassVar[float] = 10.0
    """It gets this long to end by itself."""

    def __init__(self, origins: Origins, folder: Path, core: int) -> None:
        """`folder`: an empty one of its own, for its configuration and logs."""
        self.origins = origins
        self.folder = folder
        self.core = core
        self.port = 0
        self.log = folder / "access.log"
        self._child: subprocess.Popen[bytes] | None = None

    # --- what a peer says of itself -------------------------------------------------------------------------------

    @classmethod
    @abstractmethod
    def version(cls) -> str:
        """Name and version. Raises Unavailable."""

    @abstractmethod
    def prepare(self) -> list[str]:
        """Write the configuration for `self.port` into the folder; the command that runs it in the foreground."""

    def route(self, host: str, port: int) -> Route:
        """How a tunnel to `host` and `port` is opened: a CONNECT with the header fields that curl sends."""
        head = (
            f"CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n"
            "User-Agent: curl/8.5.0\r\nProxy-Connection: Keep-Alive\r\n\r\n"
        )
        return Route(("127.0.0.1", self.port), head.encode(), b"HTTP/1.1 200")

    # --- life -----------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start it and wait until a tunnel opens. Raises RuntimeError with what it printed when it does not."""
        self.version()
        self.port = free_port()
        command = self.prepare()
        output = self.folder / "output.log"
        with output.open("wb") as sink:
            self._child = spawn(command, self.core, stdout=sink, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + _START_S
        answered = 0
        while True:
            try:
                self.connect(self.origins.echo_ports[0]).close()
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
        """Open one tunnel, blocking; the caller closes it. Raises OSError, or WrongAnswer when it is refused."""
        route = self.route(host, port)
        sock = socket.create_connection(route.address, timeout=10)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if route.opening:
                sock.sendall(route.opening)
            if route.granted:
                answer = read_head(sock)
                if not answer.startswith(route.granted):
                    raise WrongAnswer(f"{self.name}: expected {route.granted!r}, got {answer[:200]!r}")
        except BaseException:
            sock.close()
            raise
        sock.settimeout(None)
        return sock

    def check(self) -> None:
        """What holds for every proxy with a policy: a refused name is answered 403, and both ways leave a log line."""
        if not self.judges:
            return
        before, port = self.logged(), self.origins.echo_ports[0]
        try:
            self.connect(port, policy.REFUSED).close()
        except WrongAnswer as error:
            if "HTTP/1.1 403" not in str(error):
                raise
        else:
            raise WrongAnswer(f"{self.name} let {policy.REFUSED} pass")
        with self.connect(port) as sock:
            sock.sendall(b"?")
            if sock.recv(1) != b"?":
                raise WrongAnswer(f"{self.name}: the echo did not come back")
        self.wait_until_logged(before + 2)
        text = self.log.read_text()
        for expected in ("TCP_DENIED/403", f"CONNECT {policy.REFUSED}:", "TCP_TUNNEL/200", f"CONNECT {policy.ORIGIN}:"):
            if expected not in text:
                raise WrongAnswer(f"{self.name}: {expected!r} is missing in its access log")


class EgressProxy(Proxy):
    """This project, with policy, access log and metrics switched on, run by the interpreter that runs the benchmark."""

    name = "egressproxy"

    @classmethod
    def version(cls) -> str:
        """From the command itself."""
        from egressproxy._version import __version__

        loop = "uvloop" if importlib.util.find_spec("uvloop") else "asyncio"
        return f"egressproxy {__version__} ({loop}, Python {sys.version.split()[0]})"

    def prepare(self) -> list[str]:
        """JSON is YAML."""
        self._admin_port = free_port()
        allowed = {"clients": [policy.LOOPBACK_CLIENTS], "hosts": list(policy.ALLOWED_NAMES)}
        builds = {"clients": [policy.BUILD_CLIENTS], "hosts": list(policy.BUILD_NAMES)}
        config = {
            "listeners": [{"protocol": "http-proxy", "address": "127.0.0.1", "port": self.port}],
            "rules": [
                {"name": "mail", "action": "deny", "ports": list(policy.MAIL_PORTS)},
                {"name": "builds", "action": "allow", **builds, "ports": [443]},
                {
                    "name": "allowed",
                    "action": "allow",
                    **allowed,
                    "ports": [443, *self.origins.ports],
                    "private_addresses": True,
                },
                {"name": "rest", "action": "deny"},
            ],
            "dns": {"servers": [f"127.0.0.1:{self.origins.dns_port}"]},
            "limits": {"max_tunnels": 20000},
            "timeouts": {"drain_s": 0},
            "access_log": [{"format": "squid", "path": str(self.log)}],
            "admin": {"address": "127.0.0.1", "port": self._admin_port},
        }
        path = self.folder / "egressproxy.yaml"
        path.write_text(json.dumps(config, indent=1))
        return [sys.executable, "-m", "egressproxy", "run", str(path)]

    def check(self) -> None:
        """Metrics as well."""
        super().check()
        with socket.create_connection(("127.0.0.1", self._admin_port), timeout=10) as sock:
            sock.sendall(b"GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n")
            answer = b""
            while piece := sock.recv(65536):
                answer += piece
        if b" 200 " not in answer.split(b"\r\n")[0] or b"# TYPE egressproxy_" not in answer:
            raise WrongAnswer(f"/metrics answered {answer[:200]!r}")


class Squid(Proxy):
    """Debian's Squid as a tunnelling proxy at its best: one process, nothing cached, the log written by itself.

    `stdio:` costs Squid less than the log daemon of Debian's default, whose CPU time would count as well.
    """

    name = "squid"
    patience_s = (
        0.1  # an orderly exit takes it two seconds, whatever shutdown_lifetime says; its log is complete by then
    )
    _program = "/usr/sbin/squid"

    @classmethod
    def version(cls) -> str:
        """`squid -v`."""
        program = cls._find()
        output = subprocess.run([program, "-v"], capture_output=True, text=True, check=True).stdout
        return "Squid " + output.splitlines()[0].rpartition(" ")[2]

    @classmethod
    def _find(cls) -> str:
        program = cls._program if Path(cls._program).exists() else shutil.which("squid")
        if program is None:
            raise Unavailable("squid is not installed (apt-get install squid)")
        return program

    def prepare(self) -> list[str]:
        """Squid gives up root for the user `proxy`, who then writes the log."""
        hosts = self.folder / "hosts"
        hosts.write_text(f"127.0.0.1 {policy.ORIGIN}\n")
        config = self.folder / "squid.conf"
        config.write_text(self._config(hosts))
        self._give_folder_away()
        return [self._find(), "-N", "-n", self._service, "-f", str(config)]

    @property
    def _service(self) -> str:
        return f"bench{self.port}"  # two Squids of one service name would share, and break, their shared memory

    def stop(self) -> None:
        """Also remove the shared memory that a Squid leaves behind when it is killed."""
        super().stop()
        for segment in Path("/dev/shm").glob(f"{self._service}-*.shm"):
            segment.unlink()

    def _config(self, hosts: Path) -> str:
        names = " ".join(name.removeprefix("*") for name in policy.ALLOWED_NAMES)
        builds = " ".join(name.removeprefix("*") for name in policy.BUILD_NAMES)
        return f"""\
http_port 127.0.0.1:{self.port}
visible_hostname bench.test
acl CONNECT method CONNECT
acl mail port {" ".join(map(str, policy.MAIL_PORTS))}
acl build_clients src {policy.BUILD_CLIENTS}
acl build_names dstdomain {builds}
acl https port 443
acl loopback_clients src {policy.LOOPBACK_CLIENTS}
acl allowed_names dstdomain {names}
acl allowed_ports port 443 {" ".join(map(str, self.origins.ports))}
http_access deny mail
http_access allow CONNECT build_clients build_names https
http_access allow CONNECT loopback_clients allowed_names allowed_ports
http_access deny all
access_log stdio:{self.log} squid
cache_log {self.folder}/cache.log
cache_store_log none
cache deny all
cache_mem 8 MB
hosts_file {hosts}
dns_nameservers 127.0.0.1
pid_filename none
pinger_enable off
max_filedescriptors {descriptor_limit()}
shutdown_lifetime 0 seconds
coredump_dir {self.folder}
"""

    def _give_folder_away(self) -> None:
        if os.geteuid() != 0:
            return
        shutil.chown(self.folder, "proxy", "proxy")
        for path in self.folder.iterdir():
            shutil.chown(path, "proxy", "proxy")
        self.folder.parent.chmod(0o755)


class Floor(Proxy):
    """The least a proxy in Python can do, without any of the work (`floor.py`): the kernel's part and the language's."""

    name = "floor"
    judges = False

    @classmethod
    def version(cls) -> str:
        """That of the interpreter."""
        return f"bare epoll loop, Python {sys.version.split()[0]}"

    def prepare(self) -> list[str]:
        """No configuration."""
        return [sys.executable, "-m", "benchmarks.support.floor", str(self.port)]


class Direct(Proxy):
    """No proxy at all: how far load and origin get alone. A rate near this one is theirs and not the proxy's."""

    name = "direct"
    judges = False

    @classmethod
    def version(cls) -> str:
        """There is nothing to version."""
        return "no proxy"

    def prepare(self) -> list[str]:
        """Never called."""
        raise AssertionError

    def start(self) -> None:
        """Nothing to start."""

    def route(self, host: str, port: int) -> Route:
        """Straight to the origin; `host` is not looked at."""
        return Route(("127.0.0.1", port), b"", b"")


PROXIES: dict[str, type[Proxy]] = {proxy.name: proxy for proxy in (EgressProxy, Squid, Floor, Direct)}


def free_port() -> int:
    """A port to listen on below the range that outgoing connections use, so none of those can hold it."""
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = random.randrange(min(20000, lowest - 1000), lowest)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def read_head(sock: socket.socket) -> bytes:
    """Read to the blank line, or to the end. Not a byte more: what follows belongs to the tunnel."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        piece = sock.recv(1)
        if not piece:
            break
        head += piece
    return head
