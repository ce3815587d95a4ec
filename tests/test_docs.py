"""The pages keep their word: what they say to run is run, what they show is loaded, what they link to is there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from support import nursery
from support.namespaces import need_namespaces
from support.pages import Block, Page, prints
from support.proxy import DEFECTS
from support.stage import Stage
from support.waiting import eventually

from egressproxy.errors import EgressError
from egressproxy.model import Transfer
from egressproxy.telemetry.formats.causes import CAUSES
from egressproxy.telemetry.record import ANSWERED

ROOT = Path(__file__).parents[1]
FILES = [
    *ROOT.glob("*.md"),
    *(file for folder in ("docs", "config", "benchmarks") for file in ROOT.glob(f"{folder}/**/*.md")),
]
PAGES = {str(path.relative_to(ROOT)): Page(path) for path in sorted(FILES)}
CHECKED = {name: page for name, page in PAGES.items() if name == "README.md" or name.startswith("docs/")}
"""Those in which no block may be without a mark."""
RUN = {name: page for name, page in CHECKED.items() if any(block.kind in ("run", "serve") for block in page.blocks)}

every_page = pytest.mark.parametrize("page", [pytest.param(page, id=name) for name, page in PAGES.items()])
every_checked_page = pytest.mark.parametrize("page", [pytest.param(page, id=name) for name, page in CHECKED.items()])


@every_checked_page
def test_each_block_says_what_becomes_of_it(page: Page) -> None:
    assert page.text.count("\n```") % 2 == 0
    for block in page.blocks:
        assert block.kind, f"no mark in front of it: {block}"
        if block.kind in ("run", "serve"):
            assert block.language == "sh", block
        if block.kind == "not run":
            assert block.rest, f"it does not say why: {block}"
        if block.kind == "output":
            before = page.blocks[page.blocks.index(block) - 1]
            assert before.kind == "run", f"nothing that could print it is in front of it: {block}"
        if block.rest == "until":
            assert page.expected(block) is not None, f"it does not say what it prints: {block}"


@every_checked_page
def test_what_is_not_run_is_well_formed(page: Page) -> None:
    for block in page.blocks:
        if block.language == "sh":
            done = subprocess.run(["bash", "-n"], input=block.text, capture_output=True, text=True, check=False)
            assert (done.returncode, done.stderr) == (0, ""), block
        if block.language == "yaml":
            assert [each for each in yaml.safe_load_all(block.text) if each is not None], block


@every_checked_page
def test_files_of_ours_that_commands_name_are_there(page: Page) -> None:
    for block in page.blocks:
        for path in re.findall(r"(?<![\w/.-])config/[\w./-]*\w", block.text) if block.kind == "not run" else ():
            assert (ROOT / path).exists(), f"{path} is named, and not there: {block}"


@every_checked_page
def test_configurations_that_stand_alone_pass_check(page: Page, tmp_path: Path) -> None:
    for block in page.blocks:
        if block.kind == "check":
            file = tmp_path / f"line-{block.line}.{block.language}"
            file.write_text(block.text)
            done = nursery.run("check", str(file))
            assert done.returncode == 0, f"{block}\n{done.stderr}"


@pytest.mark.parametrize("name", RUN)
@pytest.mark.slow
def test_the_commands_of_a_page_do_what_it_says(name: str) -> None:
    page = RUN[name]
    need_namespaces("unshare", "nsenter", "bash", "curl", *page.needs)
    with Stage() as stage:
        ports = set()
        try:
            for block in page.blocks:
                if block.kind == "serve":
                    ports.add(int(block.rest))
                    stage.serve(block.text, int(block.rest))
                elif block.kind in ("file", "part"):
                    write(stage, block)
                elif block.kind == "run":
                    run(stage, page, block)
        except BaseException:
            for port in ports:
                print(f"--- served on {port}\n{stage.said(port)}")  # noqa: T201 - shown where the test fails
            raise
        for port in ports:
            stage.stop(port)
            assert not DEFECTS.search(stage.said(port)), stage.said(port)


def write(stage: Stage, block: Block) -> None:
    """As an editor does it."""
    file = stage.folder / block.rest
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(block.text)
    if block.kind == "file":
        done = nursery.run("check", str(file))
        assert done.returncode == 0, f"{block}\n{done.stderr}"


def run(stage: Stage, page: Page, block: Block) -> None:
    expected = page.expected(block)
    code = int(block.rest.removeprefix("exit ")) if block.rest.startswith("exit ") else 0
    last = (-1, "")

    def as_said() -> bool:
        nonlocal last
        last = stage.run(block.text)
        return last[0] == code and (expected is None or prints(expected, last[1]))

    if block.rest == "until":
        eventually(as_said, f"it does what the page says, in line {block.line}: {block.text}")
    else:
        assert as_said(), f"{block}\nexit code {last[0]}, printed:\n{last[1]}"


# --- links --------------------------------------------------------------------------------------------------------


@every_page
def test_links_lead_somewhere(page: Page) -> None:
    for link in page.links:
        if link.startswith(("https://", "http://", "mailto:")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.path.parent / path).resolve() if path else page.path
        assert target.is_relative_to(ROOT), f"{link}: outside"
        assert target.exists(), f"{link}: nothing is there"
        if anchor:
            assert anchor in Page(target).anchors, f"{link}: no such heading"


def test_the_index_leads_to_every_page() -> None:
    index = CHECKED["docs/README.md"]
    listed = {str(Path("docs", link.partition("#")[0])) for link in index.links}
    assert {name for name in CHECKED if name.startswith("docs/")} - listed == {"docs/README.md"}


# --- pages that are told by the code ------------------------------------------------------------------------------


def test_the_page_of_settings_is_what_the_schema_says() -> None:
    command = [sys.executable, str(ROOT / "tools" / "settings-page"), "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env={"PYTHONPATH": str(ROOT)})
    assert (done.returncode, done.stderr) == (0, "")


def leaves(kind: type[EgressError]) -> set[str]:
    """The slugs of an error and of all below it."""
    below = {slug for child in kind.__subclasses__() for slug in leaves(child)}
    return below | ({kind.slug} if "slug" in vars(kind) else set())


def ends_of_relays() -> set[str]:
    """As `Transfer` and `RecordDraft` name them: those of tunnels, and of requests."""
    (docstring,) = re.findall(r"end {9}a slug: (.*)\n", Transfer.__doc__ or "", re.DOTALL)
    return {*re.findall(r"`([a-z_]+)`", docstring), ANSWERED}


def test_the_page_of_errors_has_every_slug_and_no_other() -> None:
    page = CHECKED["docs/errors.md"]
    told = re.findall(r"^### `([a-z_0-9]+)`$", page.text, re.MULTILINE)
    assert len(told) == len(set(told))
    assert set(told) == leaves(EgressError) | ends_of_relays()
    assert ends_of_relays() | {"answered"} == {slug for slug in CAUSES if slug not in leaves(EgressError)}


def test_the_page_of_errors_says_how_each_is_answered() -> None:
    page = CHECKED["docs/errors.md"]
    statuses = dict(re.findall(r"^### `([a-z_0-9]+)`\n\n(?:(\d{3}): |None: )?", page.text, re.MULTILINE))

    def look(kind: type[EgressError]) -> None:
        if "slug" in vars(kind):
            assert statuses[kind.slug] == ("" if kind.status is None else str(kind.status)), kind.slug
        for child in kind.__subclasses__():
            look(child)

    look(EgressError)
