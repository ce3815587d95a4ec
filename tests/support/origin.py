"""What clients reach through the proxy: a web server over TLS, and a TCP server that the test itself speaks for.

Both count the connections they got. `contacts()` is exact: it connects once itself and waits until it sees that.
"""

from __future__ import annotations

import http.server
import queue
import socket
import socketserver
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote

from support.certificates import authority
from support.waiting import WAIT_S, eventually

NAME = "www.example.test"
"""The origin's name, which the test's DNS server knows and its certificate has."""
TITLE = "<title>A page from the origin</title>"
PAGE = f"<!DOCTYPE html>\n{TITLE}\n<p>It came through.</p>\n".encode()


class _Counted:
    """How many connections were accepted, the test's own left out."""

    def __init__(self) -> None:
        self._ports: list[int] = []
        self._own = 0

    def saw(self, peer: tuple[Any, ...]) -> None:
        self._ports.append(peer[1])

    def count(self, address: tuple[str, int]) -> int:
        """Exact for whatever had connected before the call: a queue of the kernel keeps its order."""
        with socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET) as sentinel:
            sentinel.settimeout(WAIT_S)
            sentinel.bind(("", 0))  # so that it is known before it connects which ones had its port earlier
            port = sentinel.getsockname()[1]
            earlier = self._ports.count(port)
            sentinel.connect(address)
            self._own += 1
            eventually(lambda: self._ports.count(port) > earlier, "the origin saw the sentinel")
        return len(self._ports) - self._own


class TlsOrigin:
    """Serves over TLS: `/` PAGE, `/big/N` N bytes, files below `folder` (a repository, an index), POST `/echo` its body."""

    def __init__(self, folder: Path, host: str = "127.0.0.1", port: int = 0) -> None:
        self.host = host
        self._counted = _Counted()
        self._server = _TlsServer(folder, host, port, self._counted)
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    def url(self, path: str = "/", host: str = NAME) -> str:
        return f"https://{host}:{self.port}{path}"

    @property
    def target(self) -> str:
        """For a CONNECT by name."""
        return f"{NAME}:{self.port}"

    def contacts(self) -> int:
        """Connections so far."""
        return self._counted.count((self.host, self.port))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _TlsServer(socketserver.ThreadingMixIn, socketserver.TCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, folder: Path, host: str, port: int, counted: _Counted) -> None:
        self.folder = folder
        self._counted = counted
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority().issue_cert(NAME, "localhost", "127.0.0.1", "::1").configure_cert(self._context)
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), _Pages)

    def get_request(self) -> tuple[ssl.SSLSocket, Any]:
        sock, peer = super().get_request()
        self._counted.saw(peer)
        sock.settimeout(WAIT_S)
        # The handshake is made by the first read, in the connection's own thread.
        return self._context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False), peer

    def shutdown_request(self, request: Any) -> None:
        try:
            request.unwrap()  # openssl takes an end without a close_notify for an attack
        except OSError:
            pass
        super().shutdown_request(request)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that left in the middle is its own affair."""


class _Pages(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _TlsServer

    def do_GET(self) -> None:
        path = unquote(self.path.partition("?")[0])
        if path == "/":
            self._answer(PAGE)
        elif path.startswith("/big/"):
            self._answer(b"0123456789abcdef" * (int(path[5:]) // 16))
        elif (file := self._file(path)) is not None:
            self._answer(file.read_bytes(), "text/html" if file.suffix == ".html" else "application/octet-stream")
        else:
            self.send_error(404)

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers["Content-Length"])))

    def _file(self, path: str) -> Path | None:
        folder = self.server.folder.resolve()
        file = folder.joinpath(path.lstrip("/")).resolve()
        if file.is_dir():
            file /= "index.html"
        return file if file.is_relative_to(folder) and file.is_file() else None

    def _answer(self, body: bytes, kind: str = "text/html") -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


class TcpOrigin:
    """Accepts TCP connections; `take` hands each to the test, or `serve` is run for it in a thread of its own.

    Sockets that nobody took are closed at the end; one that was taken belongs to the test.
    """

    def __init__(
        self, serve: Callable[[socket.socket], None] | None = None, address: str = "127.0.0.1", port: int = 0
    ) -> None:
        self.address = address
        self._serve = serve
        self._counted = _Counted()
        self._accepted: queue.Queue[socket.socket] = queue.Queue()
        self._listening = socket.create_server(
            (address, port), family=socket.AF_INET6 if ":" in address else socket.AF_INET, backlog=512
        )
        self.port: int = self._listening.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, daemon=True)

    @property
    def target(self) -> str:
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"

    def take(self) -> socket.socket:
        """The next connection, which the test closes."""
        return self._accepted.get(timeout=WAIT_S)

    def contacts(self) -> int:
        """Connections so far."""
        return self._counted.count((self.address, self.port))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listening.close()
        while not self._accepted.empty():
            self._accepted.get().close()

    def _accept(self) -> None:
        while True:
            try:
                sock, peer = self._listening.accept()
            except OSError:
                return
            sock.settimeout(WAIT_S)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._counted.saw(peer)
            if self._serve is None:
                self._accepted.put(sock)
            else:
                threading.Thread(target=_run, args=(self._serve, sock), daemon=True).start()


def _run(serve: Callable[[socket.socket], None], sock: socket.socket) -> None:
    with sock:
        try:
            serve(sock)
        except OSError:
            pass  # the other side left


def echo(sock: socket.socket) -> None:
    """Send back what comes, and end when the other side ends."""
    while data := sock.recv(65_536):
        sock.sendall(data)
