"""The world in which the scenarios happen: an application, the proxy, the sites of the documents and a server of one's own.

    application ── proxy ── internet ── external      a pod outside the mesh, where another proxy may run
                               └─────── server        a pod with NGINX, reached by its name in the cluster

Each is a pod. The internet has the sites' names in a real DNS server, and addresses that look public, so that the address guard
is in force as it is in production. All pods trust the test's authority where programs look for the system's: the commands of
the documents run as they stand there.
"""

from __future__ import annotations

import http.server
import json
import socketserver
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple, Self

from scenarios.edition import NAMES
from scenarios.pods import Pod, copy_of_etc
from support.certificates import authority
from support.clients import Done, installed, run
from support.dns import DnsServer
from support.namespaces import connect
from support.nginx import Nginx

APPLICATION = "10.201.1.2"
PROXY = "10.201.1.1"
"""As the application sees it."""
PROXY_OUTSIDE = "10.201.2.1"
"""As the sites see it."""
EXTERNAL = NAMES.proxy_address
SERVER = "10.80.2.14"
NAME_SERVER = "8.8.8.8"

NEWS, NEWS_TOO = "151.101.1.67", "151.101.65.67"
"""The name server says the first; the second is the same site, for who dials it."""
ECHO, OTHER_ECHO = "34.194.129.11", "35.170.216.115"
"""The second is another server: nobody who asks for the name should reach it."""
SEARCH = "172.217.161.36"
WWW_ALMANAC = "208.80.154.224"
NOBODY = "203.0.113.99"
"""An address of nobody: the internet says that there is no way to it."""

ENGLISH = "<title>The almanac, in English</title>"
GERMAN = "<title>Der Almanach auf Deutsch</title>"
FRONT = "<title>All languages of the almanac</title>"
WELCOME = "<title>Welcome to nginx!</title>"

_LONG = 200_000
"""Bytes of the news page: many records of TLS."""


class Echoed(NamedTuple):
    """A request that the echo site got: from whom, at which of its addresses, for what."""

    client: str
    address: str
    path: str
    host: str


class EchoSite:
    """Tells its clients what they sent: /headers, /ip, /delay/SECONDS, /status/CODE. On all of its addresses, port 80."""

    def __init__(self, *places: tuple[str, int]) -> None:
        self.seen: list[Echoed] = []
        self._ending = threading.Event()
        self._servers = [self._server(*place) for place in places]
        self._threads = [
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
            for server in self._servers
        ]

    def _server(self, address: str, port: int) -> socketserver.BaseServer:
        seen, ending = self.seen, self._ending

        class Answering(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                seen.append(Echoed(self.client_address[0], address, self.path, self.headers["Host"]))
                what, _, how = self.path.strip("/").partition("/")
                if what == "delay":
                    ending.wait(float(how))
                self.send_response(int(how) if what == "status" else 200)
                told = {"headers": dict(self.headers)} if what != "ip" else {"origin": self.client_address[0]}
                body = json.dumps(told, indent=2).encode()
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            do_HEAD = do_GET

            def log_message(self, *_: object) -> None:
                pass

        class Server(socketserver.ThreadingTCPServer):  # an HTTPServer would look its own name up
            daemon_threads = True
            allow_reuse_address = True

            def handle_error(self, *_: object) -> None:
                """A client that left in the middle is its own affair."""

        return Server((address, port), Answering)

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        for server, thread in zip(self._servers, self._threads, strict=True):
            server.shutdown()
            thread.join()
            server.server_close()


class World(NamedTuple):
    """The pods and what is in them. `etc` is the /etc of all of them, `logs` holds the /var/log of each by its name."""

    application: Pod
    proxy: Pod
    internet: Pod
    external: Pod
    server: Pod
    dns: DnsServer
    sites: Nginx
    echo: EchoSite
    etc: Path
    logs: Path
    folder: Path

    def curl(self, *words: str, code: int = 0, pod: Pod | None = None) -> Done:
        """curl as a program in the application's pod, or in another, and the exit code it must have."""
        pod = pod or self.application
        return pod.run(installed("curl"), "-sS", "--max-time", "20", *words, folder=self.folder, code=code)

    def status(self, *words: str, code: int = 0, pod: Pod | None = None) -> str:
        """What `%{http_code}` is."""
        return self.curl(*words, "-o", "/dev/null", "-w", "%{http_code}", code=code, pod=pod).out

    def titles(self, *words: str, pod: Pod | None = None) -> list[str]:
        """The title of the page in each language of the almanac."""
        pages = (f"https://en.{NAMES.almanac}/wiki/Main_Page", f"https://de.{NAMES.almanac}/wiki/Hauptseite")
        return [title_of(self.curl(*words, page, pod=pod).out) for page in pages]


def told_by_address(http: int = 8080, tls: int = 8443) -> tuple[str, ...]:
    """Words for curl that lead it to the proxy's own ports for HTTP and TLS, as a route to the gateway would."""
    return ("--connect-to", f":80:{PROXY}:{http}", "--connect-to", f":443:{PROXY}:{tls}")


def dialling(host: str, address: str, *ports: int) -> tuple[str, ...]:
    """Words for curl that make it believe the host to be at this address."""
    return tuple(word for port in ports or (80, 443) for word in ("--resolve", f"{host}:{port}:{address}"))


def title_of(page: str) -> str:
    """As `grep -o "<title>.*</title>"` prints it."""
    start, end = page.find("<title>"), page.find("</title>")
    return page[start : end + len("</title>")] if start >= 0 else page


@contextmanager
def world(folder: Path) -> Iterator[World]:
    """Everything but the proxy, running; files in `folder`."""
    etc = copy_of_etc(folder, "istio/client", "squid", "nginx", "ssl/certs")
    _write_etc(etc)
    with ExitStack() as stack:
        names = ("application", "proxy", "internet", "external", "server")
        pods = {name: stack.enter_context(Pod(name)) for name in names}
        for name, pod in pods.items():
            log = folder / "log" / name
            for kind in ("nginx", "squid"):
                (log / kind).mkdir(parents=True)
            pod.mount(etc, "/etc")
            pod.mount(log, "/var/log")
        _wire(pods)
        dns = DnsServer(NAME_SERVER, 53)
        _write_zone(dns)
        pods["internet"].call(dns.start)
        stack.callback(dns.stop)
        nginx = Nginx(_made(folder / "sites"), _sites(_made(folder / "sites")))
        stack.push(nginx.__exit__)
        pods["internet"].call(nginx.__enter__)
        places = ((ECHO, 80), (OTHER_ECHO, 80), (ECHO, 8000))
        echo = stack.enter_context(pods["internet"].call(EchoSite, *places))
        yield World(*pods.values(), dns, nginx, echo, etc, folder / "log", folder)


def _made(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return folder


def _wire(pods: dict[str, Pod]) -> None:
    connect(pods["application"], [f"{APPLICATION}/24"], pods["proxy"], [f"{PROXY}/24"])
    connect(pods["proxy"], [f"{PROXY_OUTSIDE}/24"], pods["internet"], ["10.201.2.2/24"])
    connect(pods["external"], [f"{EXTERNAL}/24"], pods["internet"], ["172.30.109.1/24"])
    connect(pods["server"], [f"{SERVER}/24"], pods["internet"], ["10.80.2.1/24"])
    gateways = {
        "application": PROXY,
        "proxy": "10.201.2.2",
        "internet": PROXY_OUTSIDE,
        "external": "172.30.109.1",
        "server": "10.80.2.1",
    }
    for name, gateway in gateways.items():
        pods[name].ip("route", "add", "default", "via", gateway)
    public = (NAME_SERVER, NEWS, NEWS_TOO, ECHO, OTHER_ECHO, SEARCH, WWW_ALMANAC, *NAMES.endpoints)
    for address in public:
        pods["internet"].ip("addr", "add", f"{address}/32", "dev", "lo")
    pods["internet"].ip("route", "add", "unreachable", NOBODY)
    pods["proxy"].forward()
    pods["internet"].forward()


def _write_etc(etc: Path) -> None:
    (etc / "resolv.conf").unlink(missing_ok=True)
    (etc / "resolv.conf").write_text(f"nameserver {NAME_SERVER}\n")
    (etc / "hosts").write_text("127.0.0.1 localhost\n")
    bundle = etc / "ssl" / "certs" / "ca-certificates.crt"
    bundle.write_bytes(authority().cert_pem.bytes())
    name = run(installed("openssl"), "x509", "-hash", "-noout", "-in", bundle, folder=etc).out.strip()
    (bundle.parent / f"{name}.0").symlink_to(bundle.name)


def _write_zone(dns: DnsServer) -> None:
    for name, address in (
        (NAMES.news, NEWS),
        (NAMES.echo, ECHO),
        (NAMES.search, SEARCH),
        (f"en.{NAMES.almanac}", NAMES.endpoints[0]),
        (f"de.{NAMES.almanac}", NAMES.endpoints[0]),
        (f"www.{NAMES.almanac}", WWW_ALMANAC),
        (NAMES.almanac, WWW_ALMANAC),
        (NAMES.server, SERVER),
    ):
        dns.add(name, "A", address)
    # A proxy that takes this one has not listened to `ipv6=off`: there is no way there.
    dns.add(NAMES.search, "AAAA", "2001:db8::1")


def _sites(folder: Path) -> str:
    """The servers of all sites, as blocks of NGINX's configuration."""
    names = [NAMES.news, NAMES.search, NAMES.almanac, *(f"{part}.{NAMES.almanac}" for part in ("en", "de", "www"))]
    leaf = authority().issue_cert(*names)
    (folder / "sites.crt").write_bytes(b"".join(each.bytes() for each in leaf.cert_chain_pems))
    (folder / "sites.key").write_bytes(leaf.private_key_pem.bytes())
    (folder / "politics").write_text("<title>Politics</title>\n".ljust(_LONG, "."))
    redirect = "".join(f"listen {address}:80; " for address in (NEWS, NEWS_TOO))
    pages = {
        NAMES.search: "<title>Search</title>",
        f"en.{NAMES.almanac}": ENGLISH,
        f"de.{NAMES.almanac}": GERMAN,
        f"www.{NAMES.almanac} {NAMES.almanac}": FRONT,
    }
    blocks = [
        "charset utf-8;",
        f"ssl_certificate {folder}/sites.crt; ssl_certificate_key {folder}/sites.key;",
        f"server {{ {redirect} server_name {NAMES.news}; return 301 https://{NAMES.news}$request_uri; }}",
        f"server {{ listen 443 ssl http2; server_name {NAMES.news}; default_type text/html; root {folder}; index politics; }}",
        *(
            f"server {{ listen 443 ssl http2; server_name {name}; default_type text/html; return 200 '{page}\\n'; }}"
            for name, page in pages.items()
        ),
    ]
    return "\n".join(blocks)
