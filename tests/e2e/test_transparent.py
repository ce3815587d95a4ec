"""Programs that know of no proxy, captured by the kernel: curl without any proxy setting, and the rules as the command applies
them.

Three hosts (see support.namespaces): the first routes by the second, where the proxy is; the site is on the third. A program
is on the first host (`routed`) or beside the proxy as another user (`own`).
"""

from __future__ import annotations

import http.server
import socket
import socketserver
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple, Self

import pytest
from support.certificates import authority
from support.clients import Done, installed
from support.dns import DnsServer
from support.namespaces import OTHER_SITE, SITE, Hosts, Namespace, need_namespaces, three_hosts
from support.origin import NAME, TITLE, TlsOrigin
from support.proxy import ROOT, Proxy

REFUSED = "closed.example.test"
UNRESOLVED = "direct.example.test"
"""A service that is found where the client found it."""
UNROUTED = {4: "203.0.113.9", 6: "2001:db8::9"}
"""Addresses of nobody."""

each_way = pytest.mark.parametrize("way", ["own", "routed"])
each_version = pytest.mark.parametrize("version", [4, 6], ids=["IPv4", "IPv6"])


class Origins(NamedTuple):
    """TLS servers on port 443: the site's, and on its other addresses those that nobody should reach."""

    right: dict[int, TlsOrigin]
    wrong: dict[int, TlsOrigin]


class PlainOrigin:
    """Answers each request with its Host and its path. A context manager."""

    def __init__(self, address: str, port: int) -> None:
        self.seen: list[str] = []
        seen = self.seen

        class Answering(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = f"{self.headers['Host']} {self.path}".encode()
                seen.append(self.path)
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        class Server(socketserver.ThreadingTCPServer):  # an HTTPServer would look its own name up
            address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
            daemon_threads = True
            allow_reuse_address = True

        self._server = Server((address, port), Answering)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    need_namespaces("nft", "setpriv")
    with three_hosts() as made:
        made.proxy.forward()
        yield made


@pytest.fixture(scope="module")
def origins(hosts: Hosts, pages: Path) -> Iterator[Origins]:
    with ExitStack() as stack:

        def serve(addresses: dict[int, str]) -> dict[int, TlsOrigin]:
            return {
                version: stack.enter_context(hosts.site.call(TlsOrigin, pages, address, 443))
                for version, address in addresses.items()
            }

        yield Origins(serve(SITE), serve(OTHER_SITE))


@pytest.fixture(scope="module")
def names(hosts: Hosts) -> Iterator[DnsServer]:
    """On the proxy's own loopback: the clients have no name server at all."""
    server = DnsServer()
    server.add(NAME, "A", SITE[4])
    server.add(NAME, "AAAA", SITE[6])
    server.add(REFUSED, "A", SITE[4])
    hosts.proxy.call(server.start)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def readable() -> Iterator[Path]:
    """A folder that every user may look into, with the authority's certificate."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "ca.pem").write_bytes(authority().cert_pem.bytes())
        yield folder


class Captured(NamedTuple):
    """A proxy in whose hands both ways are."""

    proxy: Proxy
    hosts: Hosts
    readable: Path

    def curl(self, way: str, host: str, address: str, code: int, *more: str) -> Done:
        """curl to the host, which it believes to be at that address."""
        program: Namespace = self.hosts.proxy if way == "own" else self.hosts.app
        place = f"{host}:443:[{address}]" if ":" in address else f"{host}:443:{address}"
        return program.run(
            *("setpriv", "--reuid", "65534", "--clear-groups"),
            *(installed("curl"), "-sSv", "--max-time", "10", "--cacert", self.readable / "ca.pem", "--resolve", place),
            *(*more, f"https://{host}/"),
            folder=self.readable,
            code=code,
        )

    def plain(self, way: str, host: str, address: str, path: str, *more: str) -> Done:
        """curl to the host in plain HTTP, which it believes to be at that address."""
        program: Namespace = self.hosts.proxy if way == "own" else self.hosts.app
        place = f"{host}:80:[{address}]" if ":" in address else f"{host}:80:{address}"
        return program.run(
            *("setpriv", "--reuid", "65534", "--clear-groups"),
            *(installed("curl"), "-sS", "--max-time", "10", "--resolve", place, *more, f"http://{host}{path}"),
            folder=self.readable,
            code=0,
        )

    def record(self) -> dict[str, Any]:
        """What was logged of the only connection since the last look."""
        (record,) = self.hosts.proxy.call(self.proxy.settled).records
        return record

    def redirect(self, *arguments: str) -> Done:
        return self.hosts.proxy.run(sys.executable, "-m", "egressproxy", "redirect", *arguments, folder=ROOT)


@pytest.fixture(scope="module", params=["redirect", "tproxy"])
def captured(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    hosts: Hosts,
    names: DnsServer,
    readable: Path,
) -> Iterator[Captured]:
    config = {
        "listeners": [{"protocol": "sni", "address": "::", "transparent": request.param}],
        "rules": [
            {"name": "known", "action": "allow", "hosts": [NAME], "ports": [443], "private_addresses": True},
            {"name": "closed", "action": "deny", "hosts": [REFUSED]},
        ],
        "services": [
            {"hosts": [UNRESOLVED], "ports": [{"number": 443}], "resolution": "none", "private_addresses": True}
        ],
        "dns": {"servers": [names.address]},
    }
    proxy = Proxy(tmp_path_factory.mktemp("proxy"), config)
    with ExitStack() as stack:
        hosts.proxy.call(proxy.start)
        stack.callback(hosts.proxy.call, proxy.end)
        made = Captured(proxy, hosts, readable)
        made.redirect(str(proxy.config_file), "--user", "root", "--routed", "--apply")
        stack.callback(made.redirect, "--remove")
        yield made


@each_way
@each_version
def test_an_allowed_host_is_reached_without_any_proxy_setting(
    captured: Captured, origins: Origins, way: str, version: int
) -> None:
    before = {number: captured.hosts.site.call(origin.contacts) for number, origin in origins.right.items()}
    assert TITLE in captured.curl(way, NAME, SITE[version], 0).out
    record = captured.record()
    assert (record["protocol"], record["server_name"], record["host"], record["port"]) == ("sni", NAME, NAME, 443)
    assert (record["rule"], record["status"], record["dialled"]) == ("known", 200, shown(SITE[version]))
    assert (
        sum(captured.hosts.site.call(origin.contacts) for origin in origins.right.values()) == sum(before.values()) + 1
    )


@each_way
@each_version
def test_a_refused_host_makes_curl_exit_35_and_the_origin_sees_nobody(
    captured: Captured, origins: Origins, way: str, version: int
) -> None:
    before = captured.hosts.site.call(origins.right[version].contacts)
    captured.curl(way, REFUSED, SITE[version], 35)
    record = captured.record()
    assert (record["outcome"], record["rule"], record["upstream"]) == ("rule_denied", "closed", None)
    assert captured.hosts.site.call(origins.right[version].contacts) == before


@each_way
@each_version
@pytest.mark.parametrize("addresses", [OTHER_SITE, UNROUTED], ids=["another server", "nobody"])
def test_the_name_decides_and_not_the_address_that_was_dialled(
    captured: Captured, origins: Origins, way: str, version: int, addresses: dict[int, str]
) -> None:
    assert TITLE in captured.curl(way, NAME, addresses[version], 0).out
    assert captured.record()["upstream"] in [shown(address) for address in SITE.values()]
    assert [captured.hosts.site.call(origin.contacts) for origin in origins.wrong.values()] == [0, 0]


@each_way
@each_version
def test_with_resolution_none_the_address_decides(
    captured: Captured, names: DnsServer, origins: Origins, way: str, version: int
) -> None:
    origin = origins.right[version]
    before = captured.hosts.site.call(origin.contacts)
    assert TITLE in captured.curl(way, UNRESOLVED, SITE[version], 0, "--insecure").out
    assert captured.record()["upstream"] == shown(SITE[version])
    assert captured.hosts.site.call(origin.contacts) == before + 1
    assert names.count(UNRESOLVED) == 0


@each_way
def test_a_page_of_many_packets_arrives_whole(captured: Captured, origins: Origins, way: str) -> None:
    done = captured.curl(
        way, NAME, SITE[4], 0, f"https://{NAME}/big/5000000", "--next", "--max-time", "10", "--insecure"
    )
    assert len(done.out) >= 5_000_000
    captured.hosts.proxy.call(captured.proxy.settled)


@each_version
def test_who_connects_to_the_listener_itself_is_taken_to_its_service_port(
    captured: Captured, origins: Origins, version: int
) -> None:
    address = {4: "10.201.1.1", 6: "fd01:201:1::1"}[version]
    place = f"[{address}]" if version == 6 else address
    with_connect_to = ("--connect-to", f"{NAME}:443:{place}:{captured.proxy.port}")
    assert TITLE in captured.curl("routed", NAME, SITE[4], 0, *with_connect_to).out
    assert captured.record()["port"] == 443


@pytest.mark.parametrize("mode", ["redirect", "tproxy"])
def test_while_the_proxy_is_down_nothing_gets_past(
    hosts: Hosts, origins: Origins, readable: Path, tmp_path: Path, mode: str
) -> None:
    config = {"listeners": [{"protocol": "sni", "address": "::", "transparent": mode}], "allow": [NAME]}
    proxy = Proxy(tmp_path, config)
    captured = Captured(proxy, hosts, readable)
    captured.redirect(str(proxy.config_file), "--user", "root", "--routed", "--apply")
    try:
        for way in ("own", "routed"):
            for version in (4, 6):
                captured.curl(way, NAME, SITE[version], 7)
    finally:
        captured.redirect("--remove")
    for way in ("own", "routed"):
        assert TITLE in captured.curl(way, NAME, SITE[4], 0).out


@pytest.mark.parametrize("mode", ["redirect", "tproxy"])
@pytest.mark.parametrize("protocol", ["sni", "auto"])
def test_a_proxy_that_is_captured_itself_says_so_and_does_not_go_round(
    hosts: Hosts, origins: Origins, names: DnsServer, readable: Path, tmp_path: Path, mode: str, protocol: str
) -> None:
    config = {
        "listeners": [{"protocol": protocol, "address": "::", "transparent": mode}],
        "rules": [{"name": "known", "action": "allow", "hosts": [NAME], "private_addresses": True}],
        "dns": {"servers": [names.address]},
    }
    proxy = Proxy(tmp_path, config)
    captured = Captured(proxy, hosts, readable)
    hosts.proxy.call(proxy.start)
    try:
        captured.redirect(str(proxy.config_file), "--user", "4242", "--apply")  # and the proxy runs as root
        captured.curl("own", NAME, SITE[4], 35)
        inner, outer = sorted(
            hosts.proxy.call(proxy.settled).records, key=lambda record: record["outcome"] != "loop_detected"
        )
        assert "`egressproxy redirect --user`" in inner["detail"]
        assert (inner["outcome"], inner["upstream"]) == ("loop_detected", None)
        assert outer["rule"] == "known"
    finally:
        captured.redirect("--remove")
        hosts.proxy.call(proxy.end)


@pytest.mark.parametrize("mode", ["redirect", "tproxy"])
@pytest.mark.parametrize("protocol", ["http", "auto"])
def test_plain_http_is_captured_and_each_request_judged_by_its_host(
    hosts: Hosts, origins: Origins, names: DnsServer, readable: Path, tmp_path: Path, mode: str, protocol: str
) -> None:
    config = {
        "listeners": [{"protocol": protocol, "address": "::", "transparent": mode}],
        "rules": [{"name": "known", "action": "allow", "hosts": [NAME], "ports": [80, 443], "private_addresses": True}],
        "dns": {"servers": [names.address]},
    }
    proxy = Proxy(tmp_path, config)
    captured = Captured(proxy, hosts, readable)
    with ExitStack() as stack:
        for address in SITE.values():
            stack.enter_context(hosts.site.call(PlainOrigin, address, 80))
        wrong = stack.enter_context(hosts.site.call(PlainOrigin, OTHER_SITE[4], 80))
        hosts.proxy.call(proxy.start)
        stack.callback(hosts.proxy.call, proxy.end)
        captured.redirect(
            str(proxy.config_file), "--user", "root", "--routed", "--apply"
        )  # port 80, with auto 443 as well
        stack.callback(captured.redirect, "--remove")
        for way in ("own", "routed"):
            for version in (4, 6):
                for address in (
                    SITE[version],
                    UNROUTED[version],
                ):  # the name decides, and not the address that was dialled
                    assert captured.plain(way, NAME, address, "/page").out == f"{NAME} /page"
                    record = captured.record()
                    dialled = f"[{address}]:80" if version == 6 else f"{address}:80"
                    assert (record["rule"], record["status"], record["dialled"]) == ("known", 200, dialled)
                    assert (record["method"], record["host"], record["port"]) == ("GET", NAME, 80)
            status = "%{http_code}"
            refused = captured.plain(way, REFUSED, SITE[4], "/", "-o", "/dev/null", "-w", status).out
            assert refused == "502"
            assert captured.record()["outcome"] == "rule_denied"
            if protocol == "auto":  # and what is TLS is forwarded by its server name, on the same port
                assert TITLE in captured.curl(way, NAME, SITE[4], 0).out
                assert captured.record()["protocol"] == "sni"
        assert not wrong.seen


def test_a_reload_cannot_make_a_listener_take_what_tproxy_brings(start: Callable[..., Proxy]) -> None:
    listener = {"protocol": "sni"}
    proxy = start({"listeners": [listener], "allow": [NAME]})
    assert not proxy.reload({"listeners": [{**listener, "transparent": "tproxy"}], "allow": [NAME]})
    said = f"a reload cannot make the listener on 127.0.0.1 port {proxy.port} transparent: tproxy; restart"
    assert said in proxy.stderr
    assert proxy.reload({"listeners": [{**listener, "transparent": "redirect"}], "allow": [NAME]})


def shown(address: str) -> str:
    """The address with port 443, as the JSON log writes it."""
    return f"[{address}]:443" if ":" in address else f"{address}:443"
