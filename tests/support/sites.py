"""A web site over TLS, on an address and port of one's choice, that asks nobody who he is."""

from __future__ import annotations

import http.server
import ssl
import threading
from typing import Self

from support.certificates import authority


class Site(http.server.ThreadingHTTPServer):
    """Answers every GET with a page, or with 403 to whoever has only urllib's name, as Wikipedia does.

    A context manager; its socket is made where the object is.
    """

    daemon_threads = True

    def __init__(self, address: str, port: int, *names: str) -> None:
        """`names`: those in its certificate."""
        super().__init__((address, port), _Page)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority().issue_cert(*names).configure_cert(context)
        self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that break off are part of some tests."""


class _Page(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = f"<title>{self.headers['Host']}</title>\n".encode()
        self.send_response(403 if self.headers.get("User-Agent", "").startswith("Python-urllib") else 200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass
