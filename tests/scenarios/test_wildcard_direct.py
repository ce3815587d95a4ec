"""A whole domain, without a gateway."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from scenarios import lines
from scenarios.deployment import Captured, Deployment
from scenarios.edition import NAMES, file, mesh, variant
from scenarios.world import ENGLISH, GERMAN, PROXY, WWW_ALMANAC, World, dialling, told_by_address
from support.waiting import eventually

SCENARIO = "wildcard-direct"
ENTRY = "serviceentry"


def test_all_names_of_the_domain_are_reached_where_they_were_dialled(world: World, in_mesh: Captured) -> None:
    in_mesh.apply(mesh("registry-only"), file(SCENARIO, ENTRY))
    asked = world.dns.count(f"en.{NAMES.almanac}") + world.dns.count(f"de.{NAMES.almanac}")
    assert world.titles() == [ENGLISH, GERMAN]
    for language, line in zip(("en", "de"), map(lines.of_today, in_mesh.told(2)), strict=True):
        assert (line.request, line.code, line.flags) == ("- - -", "0", "-")
        assert line.server_name == f"{language}.{NAMES.almanac}"
        assert line.cluster == f"outbound|443||*.{NAMES.almanac}"
        assert line.upstream == line.downstream_local == f"{NAMES.endpoints[0]}:443"
    # The application looks its site up (for both families), the proxy does not.
    assert world.dns.count(f"en.{NAMES.almanac}") + world.dns.count(f"de.{NAMES.almanac}") - asked <= 4


def test_with_resolution_none_the_name_is_believed(world: World, in_mesh: Captured) -> None:
    """So who writes an allowed name into its ClientHello reaches any public address: the documents' own limit."""
    in_mesh.apply(mesh("registry-only"), file(SCENARIO, ENTRY))
    name = f"en.{NAMES.almanac}"
    assert world.status(*dialling(name, NAMES.endpoints[1]), f"https://{name}/elsewhere") == "200"
    assert in_mesh.envoy_line().upstream == f"{NAMES.endpoints[1]}:443"
    (seen,) = world.sites.seen("/elsewhere")
    assert seen.address == NAMES.endpoints[1]


def test_the_domain_itself_and_other_domains_stay_closed(world: World, in_mesh: Captured) -> None:
    in_mesh.apply(mesh("registry-only"), file(SCENARIO, ENTRY))
    for host in (NAMES.almanac, f"not{NAMES.almanac}"):
        world.curl(*dialling(host, WWW_ALMANAC), f"https://{host}/", code=35)
        assert in_mesh.envoy_line().flags == "UH"


@pytest.mark.parametrize("form", ["1.2", "1.5"])
def test_other_published_forms_do_the_same(world: World, in_mesh: Captured, form: str) -> None:
    in_mesh.apply(mesh("registry-only"), variant(SCENARIO, form))
    assert world.titles() == [ENGLISH, GERMAN]
    in_mesh.told(2)


def test_a_malformed_file_is_refused_with_its_line_and_service_goes_on(world: World, in_mesh: Captured) -> None:
    in_mesh.apply(mesh("registry-only"), file(SCENARIO, ENTRY))
    malformed = variant(SCENARIO, "1.1-malformed")
    in_mesh.put([mesh("registry-only"), malformed])
    assert not in_mesh.reload_as_written()
    wrong = next(number for number, line in enumerate(malformed.read_text().splitlines(), 1) if "sni_hosts" in line)
    (problem, *_) = in_mesh.get_json("/config")["last_reload_problems"]
    assert problem["file"].endswith(malformed.name)
    assert problem["line"] in (wrong, wrong - 1)  # where YAML notices it
    assert f"{malformed.name}:{problem['line']}: " in in_mesh.stderr
    assert world.titles() == [ENGLISH, GERMAN], "the old one stays in force"
    in_mesh.told(2)


def test_with_these_files_alone(world: World, alone: Callable[..., Deployment], tmp_path: Path) -> None:
    """Where nothing was dialled but the proxy, it looks the names up."""
    folder = tmp_path / "objects"
    folder.mkdir()
    for each in (mesh("registry-only"), file(SCENARIO, ENTRY)):
        shutil.copyfile(each, folder / each.name)
    deployment = alone(folder, watch=True)
    assert world.titles(*told_by_address()) == [ENGLISH, GERMAN]
    for line in map(lines.of_today, deployment.told(2)):
        assert (line.upstream, line.downstream_local) == (f"{NAMES.endpoints[0]}:443", f"{PROXY}:8443")
    before = deployment.metric("config_generation")
    (folder / file(SCENARIO, ENTRY).name).unlink()
    eventually(lambda: deployment.metric("config_generation") > before, "the deletion is in force")
    world.curl(*told_by_address(), f"https://en.{NAMES.almanac}/", code=35)
