"""Our own edition of the scenarios may be used as it stands, also where the tests run the documents' own files."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from scenarios.edition import OWN_FILES, OWN_NAMES, OWN_VARIANTS, PUBLISHED_FILES, PUBLISHED_NAMES

from egressproxy.config.load import load
from egressproxy.config.schema.config import Config
from egressproxy.errors import ConfigError

REGISTRY_ONLY = "common/configmap-istio-registry-only.yaml"
SETTINGS = OWN_FILES / REGISTRY_ONLY
NUMBERED = sorted({file.parent for file in OWN_FILES.glob("*/0*.yaml")})
MALFORMED = OWN_FILES / "wildcard-direct" / "variants" / "malformed-virtualservice.yaml"
VARIANTS = [
    (scenario, published, own)
    for scenario, beginnings in OWN_VARIANTS.items()
    for published, own in beginnings.items()
    if own != "malformed-"
]


@pytest.mark.parametrize("folder", NUMBERED, ids=lambda folder: folder.name)
def test_the_numbered_files_of_a_folder_load_together(folder: Path) -> None:
    config = load([str(SETTINGS), *map(str, sorted(folder.glob("[0-9]*.yaml")))]).config
    assert config.services or config.routes
    assert config.outbound == "registry_only"


def with_variant(files: Path, scenario: str, beginning: str, own: str) -> list[Path]:
    """A variant, the settings of the mesh, and the numbered files but for the one whose place our name says it takes."""
    number = re.search(r"\b0\d-", own)
    numbered = [file for file in sorted((files / scenario).glob("0*.yaml")) if not number or number[0] not in file.name]
    (variant,) = (files / scenario / "variants").glob(f"{beginning}*.yaml")
    return [files / REGISTRY_ONLY, *numbered, variant]


@pytest.mark.parametrize(("scenario", "own"), [(scenario, own) for scenario, _, own in VARIANTS])
def test_a_variant_loads_in_the_place_of_the_numbered_file(scenario: str, own: str) -> None:
    config = load([*map(str, with_variant(OWN_FILES, scenario, own, own))]).config
    assert config.services or config.routes
    assert config.outbound == "registry_only"


def test_each_variant_is_one_that_the_tests_ask_for() -> None:
    named = [
        file
        for scenario, beginnings in OWN_VARIANTS.items()
        for own in beginnings.values()
        for file in (OWN_FILES / scenario / "variants").glob(f"{own}*")
    ]
    assert sorted(named) == sorted(OWN_FILES.glob("*/variants/*"))


def in_order(config: Config) -> Config:
    """Services stand in the order of the objects' names, which are not the same."""
    return config.model_copy(update={"services": sorted(config.services, key=lambda service: service.name)})


@pytest.mark.skipif(not PUBLISHED_FILES.is_dir(), reason="the documents' files are not at hand")
@pytest.mark.parametrize(("scenario", "published", "own"), VARIANTS)
def test_a_variant_says_what_the_documents_say_by_other_names(
    scenario: str, published: str, own: str, tmp_path: Path
) -> None:
    renamed = []
    for file in with_variant(PUBLISHED_FILES, scenario, published, own):
        text = file.read_text()
        for name, own_name in zip(PUBLISHED_NAMES, OWN_NAMES, strict=True):
            if isinstance(name, str):
                text = text.replace(name, str(own_name))
        path = tmp_path / file.name
        path.write_text(text)
        renamed.append(path)
    ours, theirs = (load([*map(str, files)]).config for files in (with_variant(OWN_FILES, scenario, own, own), renamed))
    assert in_order(ours) == in_order(theirs)


def test_the_malformed_one_is_refused_with_its_line() -> None:
    with pytest.raises(ConfigError) as caught:
        load([str(SETTINGS), str(MALFORMED)])
    (problem, *_) = caught.value.problems
    assert (problem.file, problem.line) == (str(MALFORMED), 10)
