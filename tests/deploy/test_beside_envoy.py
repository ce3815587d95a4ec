"""In the places of the documents, beside a real Envoy that does what Istio has it do: the logs of both ends agree.

    application + sidecar ── proxy in Squid's place ── site
    application + sidecar ── gateway + proxy in NGINX's place ── site

The proxy runs from the files that Squid and NGINX ran from. Beside each lies a native file that asks for one more log, so that
what the published line does not say can be held against Envoy's as well.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import pytest
from scenarios import lines
from scenarios.deployment import Deployment
from scenarios.edition import NAMES, file
from scenarios.world import APPLICATION, ENGLISH, EXTERNAL, GERMAN, NOBODY, PROXY, World, dialling, title_of
from support import envoy
from support.clients import ESTABLISHED, Done
from support.envoy import Envoy
from support.waiting import eventually

pytestmark = envoy.needed

SQUID, NGINX = "external-https-proxy", "wildcard-arbitrary-sni-proxy"
BESIDE = "127.0.0.1:8443"
PAGE = f"https://en.{NAMES.almanac}/wiki/Main_Page"
LONG_PAGE = f"https://{NAMES.news}/politics"

TO_PROXY = f"outbound|3128||{NAMES.proxy}"
TO_GATEWAY = "outbound|443||egressgateway.istio-system.svc.cluster.local"
TO_SNI_PROXY = f"outbound|8443||{NAMES.sni_proxy}"

# What the init container of a pod in the mesh does, for the ports of these tests.
CAPTURE = f"""
table ip sidecar {{
  chain output {{
    type nat hook output priority -100;
    meta mark {envoy.MARK} return
    ip daddr != 127.0.0.0/8 tcp dport {{ 443, 3128 }} redirect to :{envoy.CAPTURE_PORT}
  }}
}}
"""

ROUNDED_S = 0.002
"""By so much may two times in milliseconds, each cut off or rounded, seem to have changed places."""
AT_ONCE_S = 2.0
"""Between the ends of a connection on both sides of a wire, on a busy machine."""
DELAY_S = 0.3
"""How long the other site takes that curl asks while it keeps its first connection."""
STAYING = (
    LONG_PAGE,
    "-o",
    "/dev/null",
    f"http://{NAMES.echo}/delay/{DELAY_S}",
    "-o",
    "/dev/null",
    "-w",
    "%{time_total} ",
)
"""Words for curl that make it do so; it tells how long each of the two took."""
LONG = 200_000
"""Bytes of the long page."""
ALERT_BYTES = 7
"""Of TLS: head of the record, level, description."""

L = TypeVar("L")


class Log(Generic[L]):
    """A log of the proxy, from here on."""

    def __init__(self, path: Path, read: Callable[[str], L]) -> None:
        self.path = path
        self._parse = read
        self._seen = len(self._lines())

    def _lines(self) -> list[str]:
        text = self.path.read_text() if self.path.exists() else ""
        return text[: text.rfind("\n") + 1].splitlines()

    def new(self, count: int) -> list[L]:
        """Wait for so many new lines, which are no more than that."""
        eventually(lambda: len(self._lines()) >= self._seen + count, f"{count} new lines in {self.path.name}")
        new = self._lines()[self._seen :]
        self._seen += len(new)
        assert len(new) == count, new
        return list(map(self._parse, new))


class Mesh(NamedTuple):
    """The two Envoys. Lines of both must be read by every test whose connections they carried."""

    sidecar: Envoy
    gateway: Envoy


@pytest.fixture(scope="module")
def mesh(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """REGISTRY_ONLY; registered are the proxy outside the mesh, by its address, and the sites behind the gateway, by name."""
    folder = tmp_path_factory.mktemp("envoy")
    sites = (f"*.{NAMES.almanac}", NAMES.news)
    sidecar = Envoy(
        world.application,
        folder,
        "sidecar",
        listeners=[
            envoy.listener("0.0.0.0", envoy.CAPTURE_PORT, envoy.to(envoy.BLACK_HOLE), use_original_dst=True),
            envoy.listener(EXTERNAL, 3128, envoy.to(TO_PROXY), bind_to_port=False),
            envoy.listener("0.0.0.0", 443, envoy.to(TO_GATEWAY, *sites), bind_to_port=False, **envoy.by_name()),
        ],
        clusters=[
            envoy.cluster(envoy.BLACK_HOLE),
            envoy.to_where_the_client_was_going(TO_PROXY),
            envoy.cluster(TO_GATEWAY, (PROXY, 443), is_sidecars=True),
        ],
    )
    gateway = Envoy(
        world.proxy,
        folder,
        "gateway",
        listeners=[envoy.listener("0.0.0.0", 443, envoy.to(TO_SNI_PROXY, *sites), **envoy.by_name())],
        clusters=[envoy.cluster(TO_SNI_PROXY, ("127.0.0.1", 8443))],
    )
    with ExitStack() as stack:
        for each in (sidecar, gateway):
            stack.callback(each.end)
            each.spawn()
        for each in (sidecar, gateway):
            each.wait_until_ready()
        world.application.run("nft", "-f", "-", stdin=CAPTURE, folder=folder)
        stack.callback(world.application.run, "nft", "delete", "table", "ip", "sidecar", folder=folder)
        yield Mesh(sidecar, gateway)


# --- in Squid's place ---------------------------------------------------------------------------------------------


class Tunnel(NamedTuple):
    """One connection as both ends logged it: the sidecar's line, the published one, and what else the proxy knows."""

    sidecar: lines.EnvoyLine
    squid: lines.SquidLine
    record: dict[str, Any]


class InSquidsPlace:
    """The proxy in a pod outside the mesh, the published file where Squid looks for it, read-only."""

    def __init__(self, world: World, sidecar: Envoy, json_log: Path) -> None:
        self.world = world
        self._sidecar = sidecar
        self._squid = Log(world.logs / "external" / "squid" / "access.log", lines.squid)
        self._json: Log[dict[str, Any]] = Log(json_log, json.loads)

    def curl(self, *words: str, code: int = 0) -> Done:
        """As in the documents: the application knows the proxy's address, and nothing of the sidecar."""
        variables = {"HTTPS_PROXY": f"{EXTERNAL}:3128"}
        command = ("curl", "-sS", "--max-time", "20", *words)
        return self.world.application.run(*command, folder=self.world.folder, code=code, variables=variables)

    def tunnels(self, count: int) -> list[Tunnel]:
        """Wait for so many connections to have ended, in all logs."""
        inner = {line.upstream_local: line for line in map(lines.of_today, self._sidecar.lines(count))}
        pairs = list(zip(self._squid.new(count), self._json.new(count), strict=True))  # both in the order of their ends
        return [Tunnel(inner[f"{APPLICATION}:{each['client_port']}"], squid, each) for squid, each in pairs]


@pytest.fixture(scope="module")
def squid(world: World, mesh: Mesh, tmp_path_factory: pytest.TempPathFactory) -> Iterator[InSquidsPlace]:
    folder = tmp_path_factory.mktemp("squid")
    mounted = folder / "mounted"
    mounted.mkdir()
    shutil.copyfile(file(SQUID, "proxy.conf"), mounted / "squid.conf")
    world.external.mount(mounted, "/etc/squid", read_only=True)
    more = also_logged(folder, "json")
    with Deployment(world.external, folder, ["/etc/squid/squid.conf", more]):
        yield InSquidsPlace(world, mesh.sidecar, more.with_suffix(".log"))


def also_logged(folder: Path, form: str) -> Path:
    """A native file that asks for one more log, whose name is that of the file but for its end."""
    path = folder / f"also-{form}.yaml"
    path.write_text(json.dumps({"access_log": [{"format": form, "path": str(path.with_suffix(".log"))}]}))
    return path


def agree(tunnel: Tunnel) -> None:
    """What both ends must say of any connection, whatever became of it."""
    inner, outer, record = tunnel
    assert (inner.request, inner.code, inner.flags, inner.server_name, inner.route) == ("- - -", "0", "-", "-", "-")
    assert (inner.upstream, inner.cluster) == (f"{EXTERNAL}:3128", TO_PROXY)
    assert (inner.downstream_local, inner.client) == (f"{EXTERNAL}:3128", APPLICATION)
    assert outer.client == APPLICATION
    # Every byte that the proxy sent reached the application, the head of its answer or its refusal included.
    assert int(inner.sent) == record["reply_bytes"] + record["bytes_down"]
    began, ended = span(inner)
    # The sidecar is there before the head is. The ends may come in either order: both close when both have seen an end.
    assert began <= outer.time - outer.elapsed_ms / 1000 + ROUNDED_S
    assert abs(ended - outer.time) < AT_ONCE_S


def span(line: lines.EnvoyLine) -> tuple[float, float]:
    """When the connection began and ended, in seconds of the clock."""
    began = datetime.fromisoformat(line.start.strip("[]")).timestamp()
    return began, began + int(line.duration) / 1000


def connect_head_of(told: str) -> int:
    """Size of the CONNECT head that `curl -v` tells of, in bytes."""
    head = re.search(r"^> CONNECT .*\r?\n(?:> \S.*\r?\n)+> \r?\n", told, re.MULTILINE)
    assert head, told
    return sum(len(line.removeprefix("> ")) + len("\r\n") for line in head[0].splitlines())


def test_squid_the_documents_flow_is_one_connection_in_two_logs(squid: InSquidsPlace) -> None:
    done = squid.curl("-v", PAGE)
    assert title_of(done.out) == ENGLISH
    (tunnel,) = squid.tunnels(1)
    agree(tunnel)
    inner, outer, record = tunnel
    assert (outer.result, outer.method, outer.url) == ("TCP_TUNNEL/200", "CONNECT", f"en.{NAMES.almanac}:443")
    assert outer.peer == f"HIER_DIRECT/{NAMES.endpoints[0]}"
    assert int(inner.sent) == outer.size == len(ESTABLISHED) + record["bytes_down"]
    # Up, Envoy counts the head as well; to the proxy that is the request, and the tunnel begins behind it.
    assert int(inner.received) == connect_head_of(done.err) + record["bytes_up"]


def test_squid_both_ends_see_it_last_as_long_as_the_application_does(squid: InSquidsPlace) -> None:
    done = squid.curl(*STAYING)
    (tunnel,) = squid.tunnels(1)
    agree(tunnel)
    assert int(tunnel.sidecar.sent) == tunnel.squid.size > LONG
    began, ended = span(tunnel.sidecar)
    last_as_long([ended - began, tunnel.squid.elapsed_ms / 1000], done.out)


def last_as_long(lasted: list[float], times: str) -> None:
    """Hold seconds against what curl measured: it had its connection all through the second request, and to its own end."""
    first, second = map(float, times.split())
    assert second > DELAY_S
    for each in lasted:
        assert second - ROUNDED_S <= each < first + second + AT_ONCE_S


def test_squid_tunnels_at_once_are_told_apart(squid: InSquidsPlace) -> None:
    pages = [PAGE, LONG_PAGE, f"https://de.{NAMES.almanac}/wiki/Hauptseite"] * 5
    words = (word for page in pages for word in (page, "-o", "/dev/null"))
    with_own_tunnels = ("--parallel", "--parallel-immediate", "--parallel-max", "15", "--http1.1")
    squid.curl(*with_own_tunnels, *words)
    tunnels = squid.tunnels(len(pages))
    for tunnel in tunnels:
        agree(tunnel)
        assert int(tunnel.sidecar.sent) == tunnel.squid.size
    long = [tunnel.squid.size for tunnel in tunnels if tunnel.squid.url == f"{NAMES.news}:443"]
    assert len(long) == 5
    assert min(long) > LONG


def test_squid_a_refusal_is_as_long_at_both_ends(squid: InSquidsPlace) -> None:
    done = squid.curl("-v", f"https://en.{NAMES.almanac}:8443/", code=56)
    assert "403" in done.err
    (tunnel,) = squid.tunnels(1)
    agree(tunnel)
    assert tunnel.squid.result == "TCP_DENIED/403"
    assert int(tunnel.sidecar.sent) == tunnel.squid.size > 0
    assert int(tunnel.sidecar.received) == connect_head_of(done.err)


def test_squid_an_answer_for_what_cannot_be_reached_is_not_counted_as_squid_does_not(squid: InSquidsPlace) -> None:
    """The one case in which the published line says less than Envoy's: Squid's says 0, and so does ours."""
    done = squid.curl(f"https://nowhere.{NAMES.almanac}/", code=56)
    assert "503" in done.err
    (tunnel,) = squid.tunnels(1)
    agree(tunnel)
    assert (tunnel.squid.result, tunnel.squid.size) == ("TCP_TUNNEL/503", 0)
    assert int(tunnel.sidecar.sent) > 0


# --- in NGINX's place ---------------------------------------------------------------------------------------------


class Way(NamedTuple):
    """One connection in all logs on its way: sidecar, gateway, and the SNI proxy's in the form of two eras of NGINX."""

    sidecar: lines.EnvoyLine
    gateway: lines.EnvoyLine
    nginx: lines.NginxLine
    nginx_1_22: lines.NginxLine


class InNginxsPlace:
    """The proxy beside the gateway, the published file where NGINX looks for it."""

    def __init__(self, world: World, mesh: Mesh, log_of_1_22: Path) -> None:
        self.world = world
        self._mesh = mesh
        self._nginx = Log(world.logs / "proxy" / "nginx" / "access.log", lines.nginx)
        self._nginx_1_22 = Log(log_of_1_22, lines.nginx)

    def ways(self, count: int) -> list[Way]:
        """Wait for so many connections to have ended, one after the other, in all logs."""
        inner, outer = (map(lines.of_today, each.lines(count)) for each in self._mesh)
        logged = zip(inner, outer, self._nginx.new(count), self._nginx_1_22.new(count), strict=True)
        return [Way(*each) for each in logged]


@pytest.fixture(scope="module")
def nginx(world: World, mesh: Mesh, tmp_path_factory: pytest.TempPathFactory) -> Iterator[InNginxsPlace]:
    folder = tmp_path_factory.mktemp("nginx")
    shutil.copyfile(file(NGINX, "sni-proxy.conf"), world.etc / "nginx" / "nginx.conf")
    more = also_logged(folder, "nginx-stream-1.22")
    with Deployment(world.proxy, folder, ["/etc/nginx/nginx.conf", more]):
        yield InNginxsPlace(world, mesh, more.with_suffix(".log"))


def agree_by_name(way: Way, name: str) -> None:
    """What all must say of a connection that was carried."""
    inner, outer, own, _ = way
    for line, upstream, cluster in ((inner, f"{PROXY}:443", TO_GATEWAY), (outer, BESIDE, TO_SNI_PROXY)):
        assert (line.request, line.code, line.flags, line.route) == ("- - -", "0", "-", "-")
        assert (line.upstream, line.cluster, line.client) == (upstream, cluster, APPLICATION)
    assert inner.upstream_local == outer.downstream_remote
    assert inner.server_name == outer.server_name == own.server_name == name
    assert (own.peer, own.protocol, own.status) == ("127.0.0.1", "TCP", "200")
    assert int(inner.sent) == int(outer.sent) == own.sent
    assert int(inner.received) == int(outer.received) == own.received
    (began, ended), (began_there, ended_there) = span(inner), span(outer)
    assert began <= began_there + ROUNDED_S
    assert abs(ended - ended_there) < AT_ONCE_S
    own_end = datetime.strptime(own.time, "%d/%b/%Y:%H:%M:%S %z").timestamp()  # in whole seconds, cut off
    assert -AT_ONCE_S < ended_there - own_end < 1 + AT_ONCE_S


def test_nginx_hosts_that_were_never_configured_are_reached_by_name(world: World, nginx: InNginxsPlace) -> None:
    assert world.titles() == [ENGLISH, GERMAN]
    ways = nginx.ways(2)
    for way, language in zip(ways, ("en", "de"), strict=True):
        agree_by_name(way, f"{language}.{NAMES.almanac}")
        assert way.nginx.status == "200"
        assert way.sidecar.downstream_local == f"{NAMES.endpoints[0]}:443"


def test_nginx_every_byte_is_in_all_logs_and_the_hello_in_that_of_today_alone(
    world: World, nginx: InNginxsPlace
) -> None:
    """NGINX counts the ClientHello from 1.25.5 on, as Envoy does. `nginx-stream-1.22` is for who compares with older lines."""
    for version in ("1.2", "1.3"):  # their hellos differ in size
        done = world.curl("-v", "--tls-max", version, PAGE)
        (way,) = nginx.ways(1)
        agree_by_name(way, f"en.{NAMES.almanac}")
        assert way.nginx.received == int(way.gateway.received)
        assert way.nginx_1_22.received == int(way.gateway.received) - hello_of(done.err)
        assert way.nginx_1_22[:-2] == way.nginx[:-2]  # all else up to the count


def hello_of(told: str) -> int:
    """Size of the ClientHello that `curl -v` tells of, in bytes, the head of its record included."""
    found = re.search(r"\(OUT\), TLS handshake, Client hello \(1\):\n\} \[(\d+) bytes data\]", told)
    assert found, told
    return 5 + int(found[1])


def test_nginx_all_see_it_last_as_long_as_the_application_does(world: World, nginx: InNginxsPlace) -> None:
    done = world.curl(*STAYING)
    (way,) = nginx.ways(1)
    agree_by_name(way, NAMES.news)
    assert way.nginx.sent > LONG
    lasted = [ended - began for began, ended in map(span, (way.sidecar, way.gateway))]
    last_as_long([*lasted, way.nginx.session_s], done.out)


def test_nginx_what_cannot_be_reached_got_an_alert_and_was_never_read(world: World, nginx: InNginxsPlace) -> None:
    """Where no session came about, the hello was only looked at: NGINX counts it in no era then, and Envoy does."""
    host = f"nowhere.{NAMES.almanac}"
    world.curl(*dialling(host, NOBODY), f"https://{host}/", code=35)
    (way,) = nginx.ways(1)
    assert (way.nginx.status, way.nginx.server_name, way.gateway.server_name) == ("500", host, host)
    assert int(way.sidecar.sent) == int(way.gateway.sent) == way.nginx.sent == ALERT_BYTES
    assert int(way.gateway.received) > way.nginx.received == 0
