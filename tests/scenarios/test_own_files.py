"""Our own edition of the scenarios may be used as it stands, also where the tests run the documents' own files."""

from __future__ import annotations

from pathlib import Path

import pytest
from scenarios.edition import OWN_FILES

from egressproxy.config.load import load
from egressproxy.errors import ConfigError

SETTINGS = OWN_FILES / "common" / "configmap-istio-registry-only.yaml"
NUMBERED = sorted({file.parent for file in OWN_FILES.glob("*/0*.yaml")})
MALFORMED = OWN_FILES / "wildcard-direct" / "variants" / "1.1-malformed.yaml"


@pytest.mark.parametrize("folder", NUMBERED, ids=lambda folder: folder.name)
def test_the_numbered_files_of_a_folder_load_together(folder: Path) -> None:
    config = load([str(SETTINGS), *map(str, sorted(folder.glob("[0-9]*.yaml")))]).config
    assert config.services or config.routes
    assert config.outbound == "registry_only"


def test_the_malformed_one_is_refused_with_its_line() -> None:
    with pytest.raises(ConfigError) as caught:
        load([str(SETTINGS), str(MALFORMED)])
    (problem, *_) = caught.value.problems
    assert (problem.file, problem.line) == (str(MALFORMED), 10)
