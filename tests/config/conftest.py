from __future__ import annotations

import pytest
import yaml

from egressproxy.config import native


@pytest.fixture(params=["libyaml", "pure Python"])
def each_yaml_loader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test runs with both: PyYAML may have been built without its C part."""
    if request.param == "pure Python":
        monkeypatch.setattr(native, "_Loader", yaml.SafeLoader)
    elif not yaml.__with_libyaml__:
        pytest.skip("PyYAML was built without libyaml")
