"""A proxy outside the mesh, run from Squid's own file, and reached from the mesh by its address."""

from __future__ import annotations

import shutil
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import pytest
from scenarios import lines
from scenarios.deployment import CAPTURED_TCP_PORT, Captured, Deployment, capture
from scenarios.edition import NAMES, file, files, mesh
from scenarios.world import APPLICATION, ECHO, ENGLISH, EXTERNAL, NOBODY, PROXY, PROXY_OUTSIDE, World, title_of
from support.certificates import authority
from support.clients import ESTABLISHED
from support.waiting import WAIT_S, eventually

SCENARIO = "external-https-proxy"
PROXY_URL = f"http://{EXTERNAL}:3128"
PAGE = f"https://en.{NAMES.almanac}/wiki/Main_Page"
TARGET = f"en.{NAMES.almanac}:443"
AT_ONCE_S = 1.0
SLOW_S = 1.5
"""Of an answer: more than what two logs may differ by."""


class Squid:
    """The proxy in its pod, with the published file mounted read-only where Squid looks for it, and its log."""

    def __init__(self, world: World, deployment: Deployment) -> None:
        self.world = world
        self.deployment = deployment
        self._log = world.logs / "external" / "squid" / "access.log"
        self._read = len(self._lines())

    def _lines(self) -> list[str]:
        text = self._log.read_text() if self._log.exists() else ""
        return text[: text.rfind("\n") + 1].splitlines()

    def line(self) -> lines.SquidLine:
        """The only new line of its log."""
        eventually(lambda: len(self._lines()) > self._read, "a new line in Squid's log")
        (line,) = self._lines()[self._read :]
        self._read += 1
        return lines.squid(line)

    def skip_lines(self) -> None:
        eventually(lambda: self.deployment.metric("connections_open") == 0, "no connection is open")
        self._read = len(self._lines())


@pytest.fixture(scope="module")
def running(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Squid]:
    folder = tmp_path_factory.mktemp("squid")
    (folder / "mounted").mkdir()
    shutil.copyfile(file(SCENARIO, "proxy.conf"), folder / "mounted" / "squid.conf")
    world.external.mount(folder / "mounted", "/etc/squid", read_only=True)
    with Deployment(world.external, folder, ["/etc/squid/squid.conf"]) as deployment:
        yield Squid(world, deployment)


@pytest.fixture
def squid(running: Squid) -> Squid:
    running.skip_lines()
    return running


def test_a_page_is_read_through_it_and_logged_as_squid_logs(world: World, squid: Squid) -> None:
    """The command of the documents, from a pod that no proxy captures."""
    done = world.application.run(
        *("curl", "-sS", PAGE), folder=world.folder, variables={"HTTPS_PROXY": f"{EXTERNAL}:3128"}
    )
    ended = time.time()
    assert title_of(done.out) == ENGLISH
    line = squid.line()
    assert (line.client, line.result, line.method, line.url) == (APPLICATION, "TCP_TUNNEL/200", "CONNECT", TARGET)
    assert (line.user, line.peer, line.type) == ("-", f"HIER_DIRECT/{NAMES.endpoints[0]}", "-")
    assert line.size > len(ESTABLISHED) + len(ENGLISH)
    assert abs(line.time - ended) < AT_ONCE_S
    assert 0 <= line.elapsed_ms < 5000


@pytest.mark.parametrize("port", [80, 22, 8443])
def test_connect_to_any_other_port_is_refused(world: World, squid: Squid, port: int) -> None:
    done = world.curl("-x", PROXY_URL, f"https://en.{NAMES.almanac}:{port}/", code=56)
    assert "403" in done.err
    line = squid.line()
    assert (line.result, line.method, line.url) == ("TCP_DENIED/403", "CONNECT", f"en.{NAMES.almanac}:{port}")
    assert (line.peer, line.type) == ("HIER_NONE/-", "text/html")


def test_also_for_programs_beside_the_proxy(world: World, squid: Squid) -> None:
    world.curl("-x", "http://127.0.0.1:3128", f"https://en.{NAMES.almanac}:80/", code=56, pod=world.external)
    assert squid.line().result == "TCP_DENIED/403"


@pytest.mark.parametrize("port", [80, 8000])
def test_plain_http_is_forwarded_to_any_port(world: World, squid: Squid, port: int) -> None:
    place = NAMES.echo if port == 80 else f"{NAMES.echo}:{port}"
    assert world.status("-x", PROXY_URL, f"http://{place}/headers") == "200"
    line = squid.line()
    assert (line.result, line.method, line.url) == ("TCP_MISS/200", "GET", f"http://{place}/headers")
    assert (line.peer, line.type) == (f"HIER_DIRECT/{ECHO}", "application/json")


def test_manager_pages_are_for_programs_beside_it_only(world: World, squid: Squid) -> None:
    page = "/squid-internal-mgr/info"
    assert world.status(f"http://127.0.0.1:3128{page}", pod=world.external) == "200"
    assert squid.line().result.endswith("/200")
    assert world.status(f"http://{EXTERNAL}:3128{page}") == "403"
    line = squid.line()
    assert (line.client, line.result) == (APPLICATION, "TCP_DENIED/403")


def test_the_certificate_that_arrives_is_the_sites_own(world: World, squid: Squid) -> None:
    done = world.application.run(
        *("openssl", "s_client", "-proxy", f"{EXTERNAL}:3128", "-connect", TARGET, "-servername", TARGET[:-4]),
        *("-verify_return_error", "-verify_hostname", TARGET[:-4]),
        folder=world.folder,
    )
    assert "Verify return code: 0 (ok)" in done.out
    assert squid.line().result == "TCP_TUNNEL/200"


def test_bytes_right_behind_the_head_belong_to_the_tunnel(world: World, squid: Squid) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority().configure_trust(context)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname=TARGET[:-4])
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    head = f"CONNECT {TARGET} HTTP/1.1\r\nHost: {TARGET}\r\n\r\n".encode()
    with world.application.call(socket.create_connection, (EXTERNAL, 3128), WAIT_S) as sock:
        sock.sendall(head + outgoing.read())
        answer = sock.recv(65_536)
        assert answer.startswith(ESTABLISHED)
        incoming.write(answer[len(ESTABLISHED) :])
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                sock.sendall(outgoing.read())
                incoming.write(sock.recv(65_536))
        sock.sendall(outgoing.read())
    assert tls.getpeercert()
    assert squid.line().result == "TCP_TUNNEL/200"


@pytest.mark.parametrize(
    ("host", "peer"), [("nowhere.example.com", "HIER_NONE/-"), (NOBODY, f"HIER_DIRECT/{NOBODY}")], ids=["name", "host"]
)
def test_what_cannot_be_reached_is_a_clear_answer(world: World, squid: Squid, host: str, peer: str) -> None:
    done = world.curl("-x", PROXY_URL, f"https://{host}/", code=56)
    assert "503" in done.err
    line = squid.line()
    assert (line.result, line.peer, line.size) == ("TCP_TUNNEL/503", peer, 0)


def test_addresses_are_tried_in_turn(world: World, squid: Squid) -> None:
    world.dns.add("two.example.com", "A", NOBODY, ECHO)
    assert world.status("-x", PROXY_URL, "http://two.example.com/headers") == "200"
    line = squid.line()
    assert (line.result, line.peer) == ("TCP_MISS/200", f"HIER_DIRECT/{ECHO}")


def test_the_log_can_be_followed(world: World, squid: Squid) -> None:
    before = time.monotonic()
    assert world.status("-x", PROXY_URL, PAGE) == "200"
    assert squid.line().result == "TCP_TUNNEL/200"
    assert time.monotonic() - before < AT_ONCE_S + 1  # curl's own start included


def test_settings_without_meaning_are_told_by_file_and_line(world: World, running: Squid) -> None:
    text = file(SCENARIO, "proxy.conf").read_text()
    number = next(index for index, line in enumerate(text.splitlines(), 1) if line.startswith("coredump_dir"))
    assert f"/etc/squid/squid.conf:{number}: coredump_dir" in running.deployment.stderr


def test_rules_are_asked_in_order_and_the_opposite_of_the_last_is_the_end(
    world: World, squid: Squid, tmp_path: Path, alone: Callable[..., Deployment]
) -> None:
    conf = tmp_path / "squid.conf"
    # The same lines in another order, and without the last: what nobody decided is refused behind an `allow`.
    text = file(SCENARIO, "proxy.conf").read_text().replace("http_port 3128", "http_port 3129")
    rules = [line for line in text.splitlines() if line.startswith("http_access")]
    others = [line for line in text.splitlines() if not line.startswith("http_access")]
    conf.write_text("\n".join([*others, rules[2], rules[0], rules[1], ""]))
    alone(conf)
    assert world.status("-x", f"http://{PROXY}:3129", PAGE, code=56) == "000"
    assert world.status("http://127.0.0.1:3129/squid-internal-mgr/info", pod=world.proxy) == "403"


# --- from the mesh ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def by_address(world: World, captured: Captured) -> Iterator[None]:
    """What the application sends to port 3128 is captured as TCP."""
    with capture(world.proxy, CAPTURED_TCP_PORT, "--ports", "3128,443"):
        yield


@pytest.mark.usefixtures("by_address")
def test_from_the_mesh_it_is_a_service_of_protocol_tcp(world: World, squid: Squid, in_mesh: Captured) -> None:
    in_mesh.apply(mesh("registry-only"), *files(SCENARIO, "serviceentry-proxy.yaml"))
    assert title_of(world.curl("-x", PROXY_URL, PAGE).out) == ENGLISH
    outer, inner = squid.line(), in_mesh.line_of_1_7()
    assert (inner.request, inner.code, inner.flags, inner.server_name) == ("- - -", "0", "-", "-")
    assert (inner.upstream, inner.downstream_local) == (f"{EXTERNAL}:3128", f"{EXTERNAL}:3128")
    assert (inner.cluster, inner.client) == (f"outbound|3128||{NAMES.proxy}", APPLICATION)
    assert inner.upstream_local.startswith(f"{PROXY_OUTSIDE}:")
    assert (inner.route, inner.agent, inner.host) == ("-", "-", "-")
    # One connection in two logs, of which one has its beginning and the other its end.
    assert outer.client == PROXY_OUTSIDE
    began = datetime.fromisoformat(inner.start.strip("[]"))
    assert abs(began.timestamp() + int(inner.duration) / 1000 - outer.time) < AT_ONCE_S
    assert int(inner.sent) == outer.size
    assert int(inner.received) > len(f"CONNECT {TARGET} HTTP/1.1")


@pytest.mark.usefixtures("by_address")
def test_times_agree_though_one_log_has_the_beginning_and_the_other_the_end(
    world: World, squid: Squid, in_mesh: Captured
) -> None:
    in_mesh.apply(mesh("registry-only"), *files(SCENARIO, "serviceentry-proxy.yaml"))
    assert world.status("-x", PROXY_URL, f"http://{NAMES.echo}/delay/{SLOW_S}") == "200"
    outer, inner = squid.line(), in_mesh.line_of_1_7()
    began = datetime.fromisoformat(inner.start.strip("[]")).timestamp()
    assert int(inner.duration) >= SLOW_S * 1000
    assert outer.time - began >= SLOW_S
    assert abs(began + int(inner.duration) / 1000 - outer.time) < AT_ONCE_S


@pytest.mark.usefixtures("by_address")
def test_from_the_mesh_nothing_else_passes_and_without_the_entry_nothing(
    world: World, squid: Squid, in_mesh: Captured
) -> None:
    in_mesh.apply(mesh("registry-only"), *files(SCENARIO, "serviceentry-proxy.yaml"))
    world.curl(PAGE, code=35)  # the site is registered nowhere: only the proxy is
    line = in_mesh.line_of_1_7()
    assert (line.flags, line.upstream) == ("UH", "-")
    in_mesh.apply(mesh("registry-only"))
    assert world.curl("-x", PROXY_URL, PAGE, code=56).out == ""
    line = in_mesh.line_of_1_7()
    assert (line.flags, line.cluster, line.upstream) == ("UH", "-", "-")
    squid.deployment.says_nothing()
