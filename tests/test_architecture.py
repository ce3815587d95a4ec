"""The shape of the house, held by machine: which way imports point, what is pure, that each module has its tests."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import egressproxy

PACKAGE = Path(egressproxy.__file__).parent
TESTS = Path(__file__).parent

# From the ground up. A room may import from its own floor and from those below. Types alone may be looked at from anywhere.
FLOORS = (
    ("_version", "errors", "hostport", "model"),
    ("wire", "policy", "config", "registry", "redirect"),
    (
        "deadlines",
        "stories",
        "tasks",
        "poller",
        "stream",
        "tls",
        "resolve",
        "dial",
        "relay",
        "frontends",
        "agreement",
        "capture",
        "telemetry",
        "certificates",
        "sessions",
        "watched",
        "identities",
        "originate",
        "parents",
        "upstreams",
    ),
    ("admission", "pace", "upload", "exchange", "destination", "connection"),
    ("accept", "runtime"),
    ("cli", "__main__"),
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
WORLD = {
    "asyncio",
    "socket",
    "ssl",
    "select",
    "time",
    "threading",
    "subprocess",
    "os",
    "io",
    "pathlib",
    "signal",
    "random",
}
MAY_SEE_THE_WORLD = {
    "config/load.py": {"os"},  # makes names of files absolute
    "config/snapshot.py": {"os", "time"},  # reads the files, and tells whether they changed
    "config/schema/services.py": {"pathlib"},  # names them
    "config/schema/listeners.py": {"pathlib"},
    "config/schema/stages.py": {"pathlib"},
}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imports_of(path: Path) -> set[str]:
    """Modules imported when this one runs, wherever in it; not those under TYPE_CHECKING."""
    found: set[str] = set()

    class Reader(ast.NodeVisitor):
        def visit_If(self, node: ast.If) -> None:
            if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
                for other in node.orelse:
                    self.visit(other)
            else:
                self.generic_visit(node)

        def visit_Import(self, node: ast.Import) -> None:
            found.update(alias.name for alias in node.names)

        def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
            assert not node.level, f"{path}: relative import"
            assert node.module
            found.add(node.module)

    Reader().visit(ast.parse(path.read_text()))
    return found


def test_every_room_stands_on_a_floor():
    assert {room_of(path) for path in modules()} - {"__init__"} == set(FLOOR_OF)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path):
    room = room_of(path)
    for module in imports_of(path):
        if module.startswith("egressproxy."):
            other = module.split(".")[1]
            assert FLOOR_OF[other] <= FLOOR_OF[room], f"{room} stands below {other}"


@pytest.mark.parametrize(
    "path",
    [path for path in modules() if FLOOR_OF.get(room_of(path), 9) <= FLOOR_OF["config"]],
    ids=lambda path: str(path.relative_to(PACKAGE)),
)
def test_what_judges_and_parses_does_not_touch_the_world(path):
    seen = {module.partition(".")[0] for module in imports_of(path)} & WORLD
    assert seen <= MAY_SEE_THE_WORLD.get(str(path.relative_to(PACKAGE)), set())


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("__init__.py")), ids=lambda path: path.parent.name)
def test_a_package_opens_with_its_map_and_re_exports_nothing(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree)
    assert len(tree.body) == 1


HAVE_NO_TESTS_OF_THEIR_OWN = {
    "_version.py": "one constant",
    "__main__.py": "run by every end-to-end test",
    "errors.py": "its tree is walked by wire/test_replies.py",
    "model.py": "values, tested where they are made",
    "connection.py": "told by tests/e2e",
    "destination.py": "told by tests/e2e/test_routes.py, test_transparent.py and origination",
    "exchange.py": "told by tests/e2e/forwarding",
    "upload.py": "told by tests/e2e/forwarding",
    "wire/request.py": "a value",
    "relay/flow.py": "a protocol",
    "relay/copying.py": "the suite in relay/test_tunnel.py runs against every engine",
    "relay/splicing.py": "the suite in relay/test_tunnel.py runs against every engine",
    "relay/pipes.py": "relay/test_tunnel.py",
    "relay/relay.py": "relay/test_tunnel.py",
    "config/schema/settings.py": "config/schema/test_config.py, and the golden table of config/test_load_errors.py",
    "config/schema/stages.py": "config/schema/test_config.py, and the golden table of config/test_load_errors.py",
    "config/translate.py": "its words are the golden table of config/test_load_errors.py",
    "frontends/frontend.py": "a protocol, and a reading that frontends/test_sni.py, test_http.py and test_auto.py tell",
    "runtime/worker.py": "told by tests/e2e/test_life.py",
    "runtime/supervisor.py": "told by tests/e2e/test_life.py",
    "runtime/parts.py": "told by tests/e2e/test_life.py",
    "runtime/means.py": "told by tests/e2e/test_life.py and test_listener_timeouts.py",
}


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_each_module_has_its_tests(path):
    inside = path.relative_to(PACKAGE)
    if path.name == "__init__.py":
        return
    mirror = TESTS / inside.parent / f"test_{inside.name}"
    if inside.parts[:2] == ("config", "adapters") and len(inside.parts) > 3:
        # The rooms of one adapter are told together, by golden tables: a file in, its native form and notes out.
        beside = TESTS / inside.parent.parent
        assert [*beside.glob(f"test_{inside.parts[2]}*.py"), *beside.glob(f"{inside.parts[2]}/test_*.py")]
        return
    if str(inside) in HAVE_NO_TESTS_OF_THEIR_OWN:
        assert not mirror.exists(), "then it is no exception any more"
    else:
        assert mirror.exists(), f"{mirror.relative_to(TESTS)} is missing"
