"""What was seen of the file system, and what counts as a change of it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from egressproxy.config import snapshot as snapshot_module
from egressproxy.config.snapshot import Snapshot

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def of(*files: Path) -> Snapshot:
    snapshot = Snapshot()
    for file in files:
        snapshot.read(str(file))
    return snapshot


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "a.yaml"
    file.write_text("one\n")
    return file


# --- changes ------------------------------------------------------------------------------------------------------


def test_what_nobody_touches_stays_as_it_was(file: Path, tmp_path: Path) -> None:
    snapshot = of(file, tmp_path / "none")
    assert snapshot.names(str(tmp_path)) == ["a.yaml"]
    assert snapshot.matching(f"{tmp_path}/*.yaml") == [str(file)]
    snapshot.want(str(tmp_path / "none"))
    assert snapshot.changed() is None
    assert snapshot.glance() == snapshot.glance()
    assert snapshot.paths == 3


def another_one(file: Path) -> None:
    fresh = file.with_suffix(".new")
    fresh.write_text("two\n")
    fresh.replace(file)


def as_long_as_before_and_as_old(file: Path) -> None:
    before = file.stat()
    file.write_text("two\n")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize(
    "change",
    [
        lambda file: file.write_text("two\n"),
        lambda file: file.write_text(""),
        lambda file: file.unlink(),
        another_one,
        as_long_as_before_and_as_old,
    ],
    ids=["written in place", "emptied", "gone", "another in its place", "with its times set back"],
)
def test_a_file_with_another_content_is_a_change(file: Path, change: Callable[[Path], object]) -> None:
    snapshot = of(file)
    change(file)
    assert snapshot.changed() == str(file)
    assert snapshot.digest != of(file).digest


@pytest.mark.parametrize(
    "touch",
    [lambda file: file.touch(), lambda file: file.write_text("one\n"), lambda file: file.chmod(0o600)],
    ids=["touched", "written again", "another mode"],
)
def test_the_same_content_is_no_change_however_it_came(file: Path, touch: Callable[[Path], object]) -> None:
    snapshot = of(file)
    touch(file)
    assert snapshot.changed() is None
    assert snapshot.digest == of(file).digest


def test_a_young_file_is_read_again_although_its_times_say_nothing(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two writes within one tick of the file system's clock, the second behind our back."""
    monkeypatch.setattr(snapshot_module, "_signature_of", lambda status: (status.st_ino, status.st_mtime_ns // 10**12))
    monkeypatch.setattr(snapshot_module, "CLOCK_TICK_NS", 10**30)
    snapshot = of(file)
    file.write_text("two\n")
    assert snapshot.changed() == str(file)


def test_a_file_that_appears_is_a_change(tmp_path: Path) -> None:
    snapshot = of(tmp_path / "none")
    snapshot.want(str(tmp_path / "cert.pem"))
    (tmp_path / "cert.pem").write_text("")
    assert snapshot.changed() == str(tmp_path / "cert.pem")
    (tmp_path / "none").write_text("")
    assert snapshot.changed() == str(tmp_path / "none")


def test_a_name_in_a_folder_is_a_change_unless_it_is_hidden(file: Path, tmp_path: Path) -> None:
    snapshot = of(file)
    snapshot.names(str(tmp_path))
    (tmp_path / ".a.yaml.swp").write_text("")
    assert snapshot.changed() is None
    (tmp_path / "b.yaml").write_text("")
    assert snapshot.changed() == str(tmp_path)


def test_a_name_that_a_pattern_matches_is_a_change(tmp_path: Path) -> None:
    snapshot = Snapshot()
    pattern = f"{tmp_path}/conf.d/*.conf"
    assert snapshot.matching(pattern) == []
    (tmp_path / "conf.d").mkdir()
    assert snapshot.changed() is None
    (tmp_path / "conf.d" / "a.conf").write_text("")
    assert snapshot.changed() == pattern


def test_what_is_forgotten_does_not_change(file: Path) -> None:
    snapshot = of(file)
    snapshot.clear()
    file.unlink()
    assert (snapshot.changed(), snapshot.paths) == (None, 0)


def test_a_file_that_becomes_a_pipe_is_a_change_and_one_that_is_a_pipe_is_none(file: Path) -> None:
    snapshot = of(file)
    file.unlink()
    os.mkfifo(file)
    assert snapshot.changed() == str(file)
    assert not snapshot.ends_in_mid_line()
    assert of(file).changed() is None


def test_a_pipe_that_takes_the_place_of_a_file_before_it_is_opened_keeps_nobody_waiting(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    regular = file.stat()
    file.unlink()
    os.mkfifo(file)
    monkeypatch.setattr(snapshot_module.os, "stat", lambda _path: regular)
    assert "got a named pipe" in str(Snapshot().read(str(file)))


@pytest.mark.parametrize(
    ("content", "cut"), [("a: 1\n", False), ("a: 1", True), ('{"a": 1}', False), ("", False), ("a: [1]", False)]
)
def test_a_file_that_ends_in_mid_line_may_still_be_written(file: Path, content: str, cut: bool) -> None:
    snapshot = of(file)
    file.write_text(content)
    assert snapshot.ends_in_mid_line() is cut


# --- places -------------------------------------------------------------------------------------------------------


def test_a_file_is_watched_with_its_folder(file: Path) -> None:
    assert of(file).folders_and_files() == {str(file), str(file.parent)}


def test_links_are_followed_and_their_folders_watched(tmp_path: Path) -> None:
    """A mounted ConfigMap, and the file in it by a link of one's own."""
    mounted, own = tmp_path / "mounted", tmp_path / "own"
    (mounted / "..1").mkdir(parents=True)
    own.mkdir()
    (mounted / "..1" / "a.yaml").write_text("")
    (mounted / "..data").symlink_to("..1")
    (mounted / "a.yaml").symlink_to("..data/a.yaml")
    (own / "link.yaml").symlink_to("../mounted/a.yaml")
    assert of(own / "link.yaml").folders_and_files() == {
        str(own),
        str(mounted),
        str(mounted / "..1"),
        str(mounted / "..1" / "a.yaml"),
    }


def test_of_what_is_not_there_the_nearest_folder_is_watched(tmp_path: Path) -> None:
    snapshot = of(tmp_path / "none" / "at" / "all.yaml")
    snapshot.matching(f"{tmp_path}/none/*/x.conf")
    assert snapshot.folders_and_files() == {str(tmp_path)}


def test_links_in_a_circle_end_somewhere(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    assert of(tmp_path / "a").folders_and_files() == {str(tmp_path)}
