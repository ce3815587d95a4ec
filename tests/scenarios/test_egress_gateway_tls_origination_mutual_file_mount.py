"""TLS with a client certificate, from files that are mounted where the gateway runs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from scenarios.deployment import Captured, Deployment
from scenarios.edition import NAMES, file, files, mesh, variant
from scenarios.server import GATEWAY_NAMESPACE, Scenario, other_authoritys_pem
from scenarios.world import APPLICATION, NEWS, SERVER, WELCOME, World, dialling, title_of, told_by_address
from support.waiting import eventually

SCENARIO = "egress-gateway-tls-origination-mutual-file-mount"
PAGE = f"http://{NAMES.server}"
CLUSTER = f"outbound|443||{NAMES.server}"
VERIFY_FAILED = "CERTIFICATE_VERIFY_FAILED"


@pytest.fixture(scope="module")
def scenario(world: World) -> Scenario:
    made = Scenario(world, SCENARIO)
    made.mount(made.mounts_of_gateway(), GATEWAY_NAMESPACE)
    return made


@pytest.fixture(scope="module")
def server_log(scenario: Scenario) -> Iterator[Path]:
    with scenario.served() as log:
        yield log


def objects() -> list[Path]:
    return [mesh("registry-only"), file(SCENARIO, "server-service"), *files(SCENARIO)]


def changed(tmp_path: Path, *changes: tuple[str, str]) -> Path:
    """The DestinationRule that asks for TLS, with other words in it."""
    (rule,) = files(SCENARIO, "03")
    text = rule.read_text()
    for pattern, words in changes:
        assert re.search(pattern, text)
        text = re.sub(pattern, words, text)
    other = tmp_path / rule.name
    other.write_text(text)
    return other


def test_the_files_are_where_the_patch_mounts_them(world: World, scenario: Scenario) -> None:
    listed = {
        path: world.proxy.run("ls", path, folder=world.folder).out.split() for path in scenario.mounts_of_gateway()
    }
    (certificates,) = (names for names in listed.values() if "tls.key" in names)
    assert certificates == ["tls.crt", "tls.key"]
    assert sum(map(len, listed.values())) == 3


def test_the_page_arrives(world: World, in_mesh: Captured, server_log: Path) -> None:
    in_mesh.apply(*objects())
    assert title_of(world.curl(PAGE).out) == WELCOME
    line = in_mesh.line_of_1_7()
    assert (line.request, line.code, line.flags, line.transport_failure) == ("GET / HTTP/1.1", "200", "-", "-")
    assert (line.received, line.sent, line.forwarded_for) == ("0", "615", APPLICATION)
    assert (line.host, line.upstream, line.cluster) == (NAMES.server, f"{SERVER}:443", CLUSTER)
    assert line.client == APPLICATION
    assert f'200 "GET / HTTP/1.1" 615 "-" "{line.agent}" "{APPLICATION}"' in server_log.read_text()


def test_a_missing_client_certificate_is_told_to_the_caller(
    world: World, in_mesh: Captured, server_log: Path, tmp_path: Path
) -> None:
    without = changed(tmp_path, ("MUTUAL", "SIMPLE"), (r" *clientCertificate: .*\n", ""), (r" *privateKey: .*\n", ""))
    in_mesh.apply(*objects()[:-1], without)
    done = world.curl("-w", "%{http_code}", PAGE)
    assert done.out.endswith("400")
    assert "No required SSL certificate was sent" in done.out
    line = in_mesh.envoy_line()
    assert (line.code, line.flags, line.details) == ("400", "-", "via_upstream")


def test_a_certificate_of_another_authority_is_refused(
    world: World, in_mesh: Captured, server_log: Path, tmp_path: Path
) -> None:
    other = world.etc / "istio" / "other.crt"
    other.write_bytes(other_authoritys_pem())
    in_mesh.apply(*objects()[:-1], changed(tmp_path, (r"caCertificates: \S+", "caCertificates: /etc/istio/other.crt")))
    before = server_log.read_text()
    assert world.status(PAGE) == "503"
    line = in_mesh.envoy_line()
    assert (line.code, line.flags.split(",")[0], line.upstream) == ("503", "UF", f"{SERVER}:443")
    assert VERIFY_FAILED in line.transport_failure
    assert server_log.read_text() == before


def test_an_endpoint_may_be_a_name_with_a_port_of_its_own(
    world: World, in_mesh: Captured, server_log: Path, tmp_path: Path
) -> None:
    """The host of the entry is in no DNS; TLS of the application reaches the server, which asks for a certificate."""
    entry = variant(SCENARIO, "1.1-serviceentry")
    host = "nginx.example.com"
    other = tmp_path / entry.name  # the same on a port that the endpoint does not have
    other.write_text(entry.read_text().replace("number: 443", "number: 8000").replace("port: 443", "port: 8000"))
    for given, port in ((entry, 443), (other, 8000)):
        in_mesh.apply(mesh("registry-only"), given)
        assert world.status("--insecure", *dialling(host, NEWS, port), f"https://{host}:{port}/") == "400"
        line = in_mesh.envoy_line()
        assert (line.upstream, line.cluster) == (f"{SERVER}:443", f"outbound|{port}||{host}")


def test_files_that_are_replaced_take_effect_without_a_restart(
    world: World, in_mesh: Captured, server_log: Path, scenario: Scenario
) -> None:
    in_mesh.apply(*objects())
    assert world.status(PAGE) == "200"
    (named,) = re.findall(r"caCertificates: (\S+)", files(SCENARIO, "03")[0].read_text())
    ca = world.etc / Path(named).relative_to("/etc")
    kept = ca.read_bytes()
    try:
        ca.write_bytes(other_authoritys_pem())
        eventually(lambda: world.status(PAGE) == "503", "the other authority counts")
    finally:
        ca.write_bytes(kept)
    eventually(lambda: world.status(PAGE) == "200", "the first one counts again")


def test_with_these_files_alone(world: World, server_log: Path, alone: Callable[..., Deployment]) -> None:
    deployment = alone(*objects())
    assert title_of(world.curl(*told_by_address(), PAGE).out) == WELCOME
    line = deployment.envoy_line()
    assert (line.code, line.upstream, line.cluster) == ("200", f"{SERVER}:443", CLUSTER)
