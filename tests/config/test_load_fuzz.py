"""Any bytes end as a configuration or as ConfigError, and whatever is said of them fits on one line.

Real files are cut, joined and overwritten, so that most inputs are nearly right.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from egressproxy.config import native
from egressproxy.config.load import Loaded, load
from egressproxy.errors import ConfigError

EXAMPLES = [path.read_bytes() for path in sorted((Path(__file__).parents[2] / "config").glob("*.yaml"))]

_KEYS = [
    "listeners",
    "allow",
    "rules",
    "hosts",
    "ports",
    "action",
    "admin",
    "dns",
    "port",
    "protocol",
    "tls",
    "<<",
    "x",
]
_SCALARS = [
    *(
        "http-proxy",
        "allow",
        "on",
        "null",
        "443",
        "1.5",
        "*x",
        "&x",
        "!!str",
        "a.example:443",
        "::",
        "'",
        '"',
        "a: b",
        "[",
        "}",
    ),
    *(
        "\t",
        "---",
        "...",
        "%YAML 1.1",
        "? ",
        "- ",
        "|",
        "\u2028",
        "\x85",
        "\ufeff",
        "\x1b",
        "\\ud800",
        "!!python/name:os",
    ),
]
_lines = st.lists(
    st.builds(
        lambda indent, key, colon, scalar: f"{' ' * indent}{key}{colon}{scalar}",
        st.integers(0, 6),
        st.sampled_from(["- ", "", *_KEYS]),
        st.sampled_from([": ", ":", " ", ""]),
        st.sampled_from(["", *_SCALARS]),
    ),
    max_size=12,
).map(lambda lines: "\n".join(lines).encode(errors="surrogatepass"))


@st.composite
def _mutated(draw: st.DrawFn) -> bytes:
    content = draw(st.sampled_from(EXAMPLES))
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(content)))
        end = min(len(content), start + draw(st.integers(0, 30)))
        content = content[:start] + draw(st.binary(max_size=4) | _lines) + content[end:]
    return content


@pytest.fixture(scope="module", params=["libyaml", "pure Python"])
def _loader(request: pytest.FixtureRequest) -> object:
    kept, native._Loader = native._Loader, yaml.SafeLoader if request.param == "pure Python" else native._Loader
    yield request.param
    native._Loader = kept


@pytest.mark.usefixtures("_loader")
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(content=st.binary(max_size=60) | _lines | _mutated())
@example(content=b"a: \xed\xa0\x80")
@example(content=b'"\\ud800": "\\ud800"')
@example(content=b"? &a a\n: *a")
def test_any_bytes_are_a_configuration_or_a_config_error(content: bytes) -> None:
    with TemporaryDirectory() as folder:
        file = Path(folder, "c.yaml")
        file.write_bytes(content)
        try:
            loaded = load([str(file)])
        except ConfigError as error:
            said = error.problems
        else:
            assert isinstance(loaded, Loaded)
            said = loaded.notes
    for problem in said:
        assert problem.file == str(file)
        assert str(problem).isprintable()
        assert str(problem).isascii()
        assert len(str(problem)) < 1000
        assert problem.line is None or 1 <= problem.line <= content.count(b"\n") + content.count(b"\r") + 20
