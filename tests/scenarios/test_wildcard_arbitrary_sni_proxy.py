"""Any name of a domain, by way of an SNI proxy beside the gateway, which runs from NGINX's own file."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from scenarios import lines
from scenarios.deployment import CAPTURED_PORT, Captured, Deployment, command, refuses
from scenarios.edition import NAMES, file, files, mesh, variant
from scenarios.world import (
    APPLICATION,
    ENGLISH,
    GERMAN,
    NEWS,
    NOBODY,
    PROXY,
    SEARCH,
    World,
    dialling,
    title_of,
    told_by_address,
)
from support.waiting import WAIT_S, eventually

SCENARIO = "wildcard-arbitrary-sni-proxy"
BESIDE = "127.0.0.1:8443"
CLUSTER = f"outbound|8443||{NAMES.sni_proxy}"


class SniProxy:
    """The SNI proxy beside the gateway, with the published file where NGINX looks for it."""

    def __init__(self, world: World, deployment: Deployment, log: Path) -> None:
        self.world = world
        self.deployment = deployment
        self._log = log

    def curl(self, *words: str, code: int = 0) -> str:
        """What curl gets in the same pod, when it is led there."""
        return self.world.curl("--connect-to", f"::{BESIDE}", *words, code=code, pod=self.world.proxy).out

    def lines(self, count: int) -> list[lines.NginxLine]:
        """Wait until so many lines are in its log; all of them, which are no more than that."""
        eventually(lambda: len(self._log.read_text().splitlines()) >= count, f"{count} lines in NGINX's log")
        found = self.deployment.log(self._log)
        assert len(found) == count, found
        return list(map(lines.nginx, found))


@pytest.fixture
def sni_proxy(world: World, alone: Callable[..., Deployment]) -> SniProxy:
    log = world.logs / "proxy" / "nginx" / "access.log"
    log.unlink(missing_ok=True)
    shutil.copyfile(file(SCENARIO, "sni-proxy.conf"), world.etc / "nginx" / "nginx.conf")
    return SniProxy(world, alone("/etc/nginx/nginx.conf"), log)


def objects() -> list[Path]:
    return [mesh("registry-only"), *files(SCENARIO)]


# --- the SNI proxy alone ------------------------------------------------------------------------------------------


def test_hosts_that_were_never_configured_are_reached_by_name(world: World, sni_proxy: SniProxy) -> None:
    asked = world.dns.count(kind="AAAA")
    assert title_of(sni_proxy.curl(f"https://en.{NAMES.almanac}/")) == ENGLISH
    assert "Search" in sni_proxy.curl(f"https://{NAMES.search}/sni")  # it has an IPv6 address, too: `ipv6=off`
    assert world.dns.count(kind="AAAA") == asked, "nobody asks for it"
    assert "Politics" in sni_proxy.curl(
        f"https://{NAMES.news.upper()}:8443/politics"
    )  # whatever the port that was asked
    first, second, third = sni_proxy.lines(3)
    assert [each.server_name for each in (first, second)] == [f"en.{NAMES.almanac}", NAMES.search]
    assert third.server_name.lower() == NAMES.news
    for line in (first, second, third):
        assert (line.peer, line.protocol, line.status) == ("127.0.0.1", "TCP", "200")
        assert min(line.sent, line.received) > 300
        assert line.session_s < WAIT_S
        ended = time.mktime(time.strptime(line.time.split()[0], "%d/%b/%Y:%H:%M:%S"))
        assert abs(time.time() - ended) < WAIT_S
    assert third.sent > 200_000
    (seen,) = world.sites.seen("/sni")
    assert (seen.address, seen.port, seen.name) == (SEARCH, "443", NAMES.search)


def test_it_listens_on_loopback_only(world: World, sni_proxy: SniProxy) -> None:
    assert refuses(world.application, PROXY, 8443)
    assert sni_proxy.curl("-o", "/dev/null", "-w", "%{http_code}", f"https://{NAMES.search}/") == "200"


def test_what_names_no_server_that_can_be_reached_is_closed(world: World, sni_proxy: SniProxy) -> None:
    sni_proxy.curl("--insecure", f"https://{NEWS}/", code=35)  # an address: no server name
    world.curl(f"http://{BESIDE}/", code=1, pod=world.proxy)  # no HTTP came back, but TLS's word for "no"
    sni_proxy.curl("https://nowhere.example.com/", code=35)
    world.dns.add("down.example.com", "A", NOBODY)
    sni_proxy.curl("https://down.example.com/", code=35)
    nameless, plain, unknown, down = sni_proxy.lines(4)
    assert [each.status for each in (nameless, plain, unknown, down)] == ["500", "500", "500", "502"]
    assert (nameless.server_name, plain.server_name) == ("", "-")
    assert (unknown.server_name, down.server_name) == ("nowhere.example.com", "down.example.com")


# --- behind the gateway -------------------------------------------------------------------------------------------


def test_the_gateway_leads_the_domain_to_it(world: World, in_mesh: Captured, sni_proxy: SniProxy) -> None:
    in_mesh.apply(*objects())
    assert world.titles() == [ENGLISH, GERMAN]
    inner = sni_proxy.lines(2)
    for language, line, beside in zip(("en", "de"), map(lines.of_today, in_mesh.told(2)), inner, strict=True):
        assert (line.request, line.code, line.flags) == ("- - -", "0", "-")
        assert (line.upstream, line.cluster, line.client) == (BESIDE, CLUSTER, APPLICATION)
        assert line.upstream_local.startswith("127.0.0.1:")
        assert line.server_name == beside.server_name == f"{language}.{NAMES.almanac}"
        # One connection in two logs.
        assert int(line.sent) == beside.sent
        assert int(line.received) == beside.received


def test_other_domains_are_not_led_there(world: World, in_mesh: Captured, sni_proxy: SniProxy) -> None:
    in_mesh.apply(*objects())
    world.curl(f"https://{NAMES.search}/", code=35)
    assert in_mesh.envoy_line().upstream == "-"
    assert world.titles() == [ENGLISH, GERMAN]
    sni_proxy.lines(2)


def forge(world: World, port: int) -> None:
    """Ask for one name of the domain, and for another site inside."""
    done = world.application.run(
        *("openssl", "s_client", "-proxy", f"{PROXY}:{port}"),
        *("-connect", f"en.{NAMES.almanac}:443", "-servername", NAMES.search),
        folder=world.folder,
        code=1,
    )
    assert "BEGIN CERTIFICATE" not in done.out


def test_a_forged_pair_of_names_reaches_nobody(world: World, in_mesh: Captured, sni_proxy: SniProxy) -> None:
    """The outer name may be reached, the inner one is another."""

    def mismatches() -> int:
        return sum(map(int, re.findall(r"snis_do_not_match: (\d+)", in_mesh.get("/stats")[1])))

    in_mesh.apply(*objects())
    before, seen = mismatches(), len(world.sites.lines())
    forge(world, CAPTURED_PORT)
    eventually(lambda: mismatches() > before, "it is counted")
    assert len(world.sites.lines()) == seen
    assert world.titles() == [ENGLISH, GERMAN]
    names = [each.server_name for each in sni_proxy.lines(3)]
    # Its tunnel was open when the name inside came, and not a byte of it had been sent on.
    assert sorted(names) == ["-", f"de.{NAMES.almanac}", f"en.{NAMES.almanac}"]


@pytest.mark.parametrize("form", ["1.1-03-mtls-enabled", "1.2-03-mtls-enabled", "1.5-03-mtls-enabled"])
def test_other_published_filters_say_the_same(world: World, in_mesh: Captured, sni_proxy: SniProxy, form: str) -> None:
    first, second, _, fourth = files(SCENARIO)
    in_mesh.apply(mesh("registry-only"), first, second, variant(SCENARIO, form), fourth)
    assert in_mesh.get_json("/config")["config"]["sni_check"] == "enforce"
    assert world.titles() == [ENGLISH, GERMAN]
    sni_proxy.lines(2)


@pytest.mark.parametrize("form", ["1.1-03-passthrough", "1.5-03-passthrough"])
def test_where_the_gateway_passes_tls_through_no_filter_is_needed(
    world: World, in_mesh: Captured, sni_proxy: SniProxy, form: str
) -> None:
    """Inner and outer name are then the same bytes."""
    in_mesh.apply(mesh("registry-only"), *files(SCENARIO, "01", "02"), variant(SCENARIO, form))
    assert world.titles() == [ENGLISH, GERMAN]
    assert [lines.of_today(line).cluster for line in in_mesh.told(2)] == [CLUSTER] * 2
    sni_proxy.lines(2)


def test_both_in_one_process_dial_the_name_at_once(world: World, in_mesh: Captured) -> None:
    """With NGINX's file beside the objects there is no hop to itself."""
    in_mesh.apply(file(SCENARIO, "sni-proxy.conf"), *objects())
    assert world.titles() == [ENGLISH, GERMAN]
    for line in map(lines.of_today, in_mesh.told(2)):
        assert (line.upstream, line.cluster) == (f"{NAMES.endpoints[0]}:443", CLUSTER)
    world.curl(*dialling(NAMES.search, SEARCH), f"https://{NAMES.search}/", code=35)
    in_mesh.apply(mesh("registry-only"))  # gives the port back
    assert refuses(world.proxy, "127.0.0.1", 8443)


def test_what_installs_the_second_gateway_is_read(world: World) -> None:
    """It says what the mesh's ConfigMap says elsewhere."""
    without = command(world.proxy, "check", *map(str, files(SCENARIO)))
    assert "no settings of the mesh are among the files" in without.out + without.err
    done = command(world.proxy, "check", str(file(SCENARIO, "istiooperator")), *map(str, files(SCENARIO)))
    assert "no settings of the mesh are among the files" not in done.out + done.err


def test_with_these_files_alone(world: World, alone: Callable[..., Deployment]) -> None:
    """The gateway's own listener takes the place of the SNI proxy at 127.0.0.1:8443, so no other is needed."""
    deployment = alone(*objects())
    assert world.titles(*told_by_address()) == [ENGLISH, GERMAN]
    for line in map(lines.of_today, deployment.told(2)):
        assert (line.upstream, line.cluster) == (f"{NAMES.endpoints[0]}:443", CLUSTER)
    world.curl(*told_by_address(), f"https://{NAMES.search}/", code=35)
    forge(world, 3128)
