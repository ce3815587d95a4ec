"""A small world for the commands of the pages in `docs/`, in which they run as they are written.

    with Stage() as stage:
        stage.serve("egressproxy run proxy.yaml", 3128)
        code, printed = stage.run("curl -x http://127.0.0.1:3128 https://example.com/")

The pages name sites that everybody knows, and ports that everybody uses. So a stage is a network namespace with a wire to
another one, which has the sites' own addresses, and a mount namespace with a resolv.conf, a hosts file, a /run and a /var/log
of its own. Nothing in it can reach the outside, nothing outside is changed, and any number of stages may stand side by side.
Sites are served on port 80 and over TLS on 443; SSL_CERT_FILE names the authority that signed for them.

This module is also the program that holds the world: `python -m support.stage FOLDER`, started within the namespaces.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import shlex
import signal
import socket
import socketserver
import ssl
import stat
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Self

from support.certificates import authority
from support.dns import DnsServer
from support.namespaces import Namespace
from support.waiting import WAIT_S, eventually

ROOT = Path(__file__).parents[2]

NAME_SERVER = "1.1.1.1"
SITES = {
    "example.com": ("93.184.215.14", "Example Domain"),
    "en.wikipedia.org": ("208.80.154.224", "Wikipedia, the free encyclopedia"),
    "de.wikipedia.org": ("208.80.154.224", "Wikipedia \N{EN DASH} Die freie Enzyklopädie"),
    "www.wikipedia.org": ("208.80.154.224", "Wikipedia"),
    "api.github.com": ("140.82.112.5", "GitHub"),
    "edition.cnn.com": ("151.101.1.67", "CNN"),
    "httpbin.org": ("35.173.6.94", "httpbin.org"),
}
"""Name, address and title: what the pages go to. None of it leaves the stage."""

REDIRECTING = frozenset({"edition.cnn.com", "api.github.com"})
"""Answer plain HTTP by sending the client to https."""


class Stage:
    """One world. A context manager; its programs and files end with it.

    folder  where commands run; readable by every user, since some run as others
    """

    def __init__(self) -> None:
        self._whole = tempfile.TemporaryDirectory(prefix="egressproxy-stage-")
        self.folder = Path(self._whole.name, "here")
        self._programs = Path(self._whole.name, "programs")
        self._holder: subprocess.Popen[bytes] | None = None
        self._served: dict[int, tuple[str, subprocess.Popen[bytes]]] = {}

    def __enter__(self) -> Self:
        Path(self._whole.name).chmod(0o755)
        self.folder.mkdir()
        self._programs.mkdir()
        authority().cert_pem.write_to_path(str(self._programs / "authorities.pem"))
        script = f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m egressproxy "$@"\n'
        (self._programs / "egressproxy").write_text(script)
        (self._programs / "egressproxy").chmod(0o755)
        for name, (certificate, key) in _certificates().items():
            (self._programs / f"{name}.pem").write_bytes(certificate)
            (self._programs / f"{name}.key").write_bytes(key)
        command = ["unshare", "--net", "--mount", "--propagation", "private"]
        command += [sys.executable, "-m", "support.stage", str(self._programs)]
        self._holder = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT / "tests")},
        )
        assert self._holder.stdout is not None
        if self._holder.stdout.readline() != b"ready\n":
            self.__exit__()
            raise AssertionError("the stage did not come up")
        return self

    def __exit__(self, *_: object) -> None:
        for port in list(self._served):
            self.stop(port)
        if self._holder is not None:
            assert self._holder.stdin is not None
            assert self._holder.stdout is not None
            self._holder.stdin.close()  # it ends with its input
            self._holder.wait(WAIT_S)
            self._holder.stdout.close()
        self._whole.cleanup()

    def run(self, script: str) -> tuple[int, str]:
        """Run a script with bash to its end: its exit code, and all that it printed, as a terminal shows it."""
        process = self._start(script, subprocess.PIPE)
        try:
            printed, _ = process.communicate(timeout=4 * WAIT_S)
        except subprocess.TimeoutExpired:
            _end(process, signal.SIGKILL)
            process.communicate()
            raise
        return process.returncode, printed.decode(errors="replace")

    def serve(self, script: str, port: int) -> None:
        """Start a script that stays, and wait until somebody listens on the port.

        What was served there before is ended first, and a proxy ends the one before it, which has the admin port.
        """
        proxies = [other for other, (before, _) in self._served.items() if "egressproxy run" in before]
        for other in {port, *(proxies if "egressproxy run" in script else ())}:
            self.stop(other)
        with (self._programs / f"{port}.log").open("ab") as log:
            process = self._start(script, log.fileno())
        self._served[port] = (script, process)
        eventually(lambda: process.poll() is not None or self.listens(port), f"port {port} is listened on")
        assert process.poll() is None, f"ended with {process.returncode}: {self.said(port)}"

    def stop(self, port: int) -> None:
        """End what is served on a port, as Ctrl-C does."""
        if port not in self._served:
            return
        _, process = self._served.pop(port)
        _end(process, signal.SIGINT)
        try:
            process.wait(WAIT_S)
        except subprocess.TimeoutExpired:
            _end(process, signal.SIGKILL)
            process.wait()
            raise
        eventually(lambda: not self.listens(port), f"port {port} is free again")

    def said(self, port: int) -> str:
        """What the programs that were served on a port have printed."""
        log = self._programs / f"{port}.log"
        return log.read_text(errors="replace") if log.exists() else ""

    def listens(self, port: int) -> bool:
        """Whether anybody in here listens on a TCP port."""
        assert self._holder is not None
        for table in ("tcp", "tcp6"):
            for line in Path(f"/proc/{self._holder.pid}/net/{table}").read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
                    return True
        return False

    def _start(self, script: str, output: int) -> subprocess.Popen[bytes]:
        assert self._holder is not None
        enter = ["nsenter", f"--net=/proc/{self._holder.pid}/ns/net", f"--mount=/proc/{self._holder.pid}/ns/mnt"]
        inside = ["env", f"--chdir={self.folder}", "bash", "-c", script]
        system = [path for path in os.get_exec_path() if path]
        return subprocess.Popen(
            [*enter, *inside],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={
                "PATH": os.pathsep.join([str(self._programs), *system, "/usr/sbin", "/sbin"]),
                "HOME": str(self.folder),
                "LC_ALL": "C.UTF-8",
                "PYTHONPATH": str(ROOT),
                "SSL_CERT_FILE": str(self._programs / "authorities.pem"),
            },
        )


def _end(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Signal a program and all that it has started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _certificates() -> dict[str, tuple[bytes, bytes]]:
    """For every site: its chain and its key, in PEM."""
    made = {}
    for name in SITES:
        leaf = authority().issue_cert(name)
        made[name] = (b"".join(blob.bytes() for blob in leaf.cert_chain_pems), leaf.private_key_pem.bytes())
    return made


# --- the program within ---------------------------------------------------------------------------------------------


class _Page(http.server.BaseHTTPRequestHandler):
    """`/headers` the request's fields, `/delay/N` after N seconds, all else the site's title."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        name = (self.headers["Host"] or "").partition(":")[0]
        is_tls = isinstance(self.connection, ssl.SSLSocket)
        if not is_tls and name in REDIRECTING:
            return self._answer(301, b"", Location=f"https://{name}{self.path}")
        if self.path.startswith("/delay/"):
            time.sleep(float(self.path.removeprefix("/delay/")))
        if self.path == "/headers":
            return self._answer(200, json.dumps({"headers": dict(self.headers.items())}, indent=2).encode() + b"\n")
        title = SITES[name][1] if name in SITES else name
        return self._answer(200, f"<!doctype html>\n<title>{title}</title>\n".encode())

    do_HEAD = do_GET

    def _answer(self, status: int, body: bytes, **fields: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        for name, value in fields.items():
            self.send_header(name, value)
        self.end_headers()
        with contextlib.suppress(OSError):  # a client whose time limit ran out
            self.wfile.write(b"" if self.command == "HEAD" else body)

    def log_message(self, *_: object) -> None:
        pass


class _Site(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, address: str, port: int, context: ssl.SSLContext | None) -> None:
        self._context = context
        super().__init__((address, port), _Page)

    def get_request(self) -> tuple[socket.socket, Any]:
        sock, peer = super().get_request()
        sock.settimeout(WAIT_S)
        if self._context is not None:
            sock = self._context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        return sock, peer

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that left in the middle is its own affair."""


def _contexts(folder: Path) -> dict[str, ssl.SSLContext]:
    found = {}
    for name in SITES:
        context = found[name] = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / f"{name}.pem", folder / f"{name}.key")
    return found


def _by_name(contexts: dict[str, ssl.SSLContext]) -> ssl.SSLContext:
    """One context that shows each client the certificate of the site that it names."""

    def choose(connection: ssl.SSLSocket | ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        if name in contexts:
            connection.context = contexts[name]

    first = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    first.sni_callback = choose
    return first


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def _mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True)


def _open_to_all(folder: Path) -> None:
    """Let every user reach this interpreter and the package, also where they lie below a folder that is closed, as /root is."""
    paths = {Path(path).resolve() for path in (sys.prefix, sys.base_prefix, ROOT)}
    closed: dict[Path, list[Path]] = {}
    for path in sorted(paths):
        for above in reversed(path.parents):
            if not above.stat().st_mode & stat.S_IXOTH:
                closed.setdefault(above, []).append(path)
                break
    for number, (above, below) in enumerate(closed.items()):
        kept = [folder / f"kept-{number}-{index}" for index, _ in enumerate(below)]
        for path, place in zip(below, kept, strict=True):
            place.mkdir()
            _mount("--bind", str(path), str(place))
        _mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", str(above))
        for path, place in zip(below, kept, strict=True):
            path.mkdir(parents=True, exist_ok=True)
            _mount("--bind", str(place), str(path))


def main(folder: Path) -> None:
    """Be the world until standard input ends. This process is on the host; the sites are beyond a wire."""
    for place in ("/run", "/var/log"):  # where `ip netns` keeps its names; where Squid writes
        _mount("-t", "tmpfs", "tmpfs", place)
    Path("/var/log/squid").mkdir()
    for name, text in {"resolv.conf": f"nameserver {NAME_SERVER}\n", "hosts": "127.0.0.1 localhost\n"}.items():
        (folder / name).write_text(text)
        place = Path("/etc", name).resolve()
        if not place.exists():  # a link into /run
            place.parent.mkdir(parents=True, exist_ok=True)
            place.touch()
        _mount("--bind", str(folder / name), str(place))
    _open_to_all(folder)
    context = _by_name(_contexts(folder))
    names = DnsServer(NAME_SERVER, 53)
    for name, (address, _) in SITES.items():
        names.add(name, "A", address)
    with Namespace("outside") as outside:
        addresses = sorted({address for address, _ in SITES.values()})
        for address in (NAME_SERVER, *addresses):
            outside.ip("addr", "add", f"{address}/32", "dev", "lo")
        _ip("link", "set", "lo", "up")
        _ip("link", "add", "name", "uplink", "type", "veth", "peer", "name", "host", "netns", outside.path)
        _ip("addr", "add", "192.0.2.2/24", "dev", "uplink")
        outside.ip("addr", "add", "192.0.2.1/24", "dev", "host")
        outside.ip("link", "set", "host", "up")
        _ip("link", "set", "uplink", "up")
        _ip("route", "add", "default", "via", "192.0.2.1")
        for address in addresses:
            for port in (80, 443):
                site = outside.call(_Site, address, port, context if port == 443 else None)
                threading.Thread(target=site.serve_forever, daemon=True).start()
        outside.call(names.start)
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        sys.stdin.read()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
