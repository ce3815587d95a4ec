"""Values made of files: noticed, read whole, and kept when what comes is worse. With real files and links."""

from __future__ import annotations

import os

import pytest
from support.loops import open_descriptors

from egressproxy import watched
from egressproxy.watched import Dates, Unusable, Watched


class Words:
    """A source for tests: two files, which must not hold `bad`."""

    longest = 100
    optional = True
    label = "words"

    def __init__(self, folder, meanwhile=lambda: None, dates=None):
        self.paths = [folder / "one", folder / "other"]
        self.made = 0
        self.meanwhile = meanwhile
        self.dates = dates or {}  # of the first file, by what it holds

    def choose(self):
        return dict(zip(("one", "other"), self.paths, strict=True))

    def make(self, chosen, contents):
        self.made += 1
        self.meanwhile()
        if b"bad" in contents.values():
            raise Unusable(f"{chosen['one']}: bad")
        return contents["one"] + contents["other"], (
            {str(chosen["one"]): self.dates[contents["one"]]} if contents["one"] in self.dates else {}
        )


@pytest.fixture
def folder(tmp_path):
    write(tmp_path, b"a", b"b")
    return tmp_path


def write(folder, one, other):
    (folder / "one").write_bytes(one)
    (folder / "other").write_bytes(other)


def changes(held):
    """What the next two looks find, put to use."""
    assert held.look() is None
    found = held.look()
    return None if found is None else found.take()


def test_files_are_read_once_while_they_stay_the_same(folder):
    held = Watched(Words(folder), None)
    assert held.made.value == b"ab"
    assert held.problem is None
    assert changes(held) is None
    assert held.source.made == 1


def test_a_change_is_put_to_use_when_two_looks_have_seen_it(folder):
    held = Watched(Words(folder), None)
    write(folder, b"c", b"d")
    change = changes(held)
    assert change.good
    assert change.label == "words"
    assert held.made.value == b"cd"
    assert changes(held) is None


def test_files_that_still_change_are_waited_for(folder):
    held = Watched(Words(folder), None)
    for number in range(3):
        write(folder, b"%d" % number, b"!" * (number + 1))
        assert held.look() is None
    assert held.look().take().good
    assert held.made.value == b"2!!!"


def test_a_change_that_is_taken_back_is_none(folder):
    held = Watched(Words(folder), None)
    moved = folder / "moved"
    (folder / "one").rename(moved)
    assert held.look() is None
    before = moved.stat()
    moved.rename(folder / "one")
    os.utime(folder / "one", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert changes(held) is None
    assert held.source.made == 1


def test_rewriting_in_place_is_noticed_though_size_and_time_stay(folder):
    held = Watched(Words(folder), None)
    before = (folder / "one").stat()
    with (folder / "one").open("r+b") as file:
        file.write(b"c")
    os.utime(folder / "one", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert changes(held).good
    assert held.made.value == b"cb"


def test_files_that_were_touched_are_not_made_again(folder):
    held = Watched(Words(folder), None)
    made = held.made
    os.utime(folder / "one", (1, 1))
    assert changes(held) is None
    assert held.made is made
    assert held.source.made == 1


def test_what_is_refused_is_said_once_and_what_was_there_stays(folder):
    held = Watched(Words(folder), None)
    write(folder, b"bad", b"b")
    change = changes(held)
    assert not change.good
    assert change.text == f"{folder}/one: bad; what was read before stays in use"
    assert changes(held) is None
    assert held.made.value == b"ab"


def test_what_was_refused_and_is_as_before_again_is_said(folder):
    held = Watched(Words(folder), None)
    made = held.made
    write(folder, b"bad", b"b")
    changes(held)
    write(folder, b"a", b"b")
    change = changes(held)
    assert change.good
    assert "again" in change.text
    assert held.made is made
    assert held.problem is None


def test_a_file_that_is_taken_away_changes_nothing_but_is_said(folder):
    held = Watched(Words(folder), None)
    (folder / "other").unlink()
    assert changes(held).text == f"{folder}/other: no such file; what was read before stays in use"
    assert held.made.value == b"ab"


def test_files_may_come_later(tmp_path):
    held = Watched(Words(tmp_path), None)
    assert held.made is None
    assert held.problem == f"{tmp_path}/one: no such file"
    (tmp_path / "one").write_bytes(b"a")
    assert changes(held).text == f"{tmp_path}/other: no such file; there is none to serve with"
    (tmp_path / "other").write_bytes(b"b")
    assert changes(held).good
    assert held.made.value == b"ab"


def test_what_was_made_before_of_the_same_files_is_taken_over(folder):
    before = Watched(Words(folder), None)
    held = Watched(Words(folder), before)
    assert held.made is before.made
    write(folder, b"c", b"d")
    after = Watched(Words(folder), held)
    assert after.made is not before.made
    assert before.made.value == b"ab"


def test_what_was_made_before_stays_where_the_files_are_bad_now(folder):
    before = Watched(Words(folder), None)
    write(folder, b"bad", b"b")
    held = Watched(Words(folder), before)
    assert held.made is before.made
    assert held.problem == f"{folder}/one: bad"


def test_files_that_change_while_they_are_read_are_read_again(folder):
    words = iter([b"x", b"y"])

    def meanwhile():
        if (word := next(words, None)) is not None:
            write(folder, word, word)

    held = Watched(Words(folder, meanwhile), None)
    assert held.made.value == b"yy"
    assert held.source.made == 3


def test_a_failure_of_files_that_change_meanwhile_does_not_count(folder):
    write(folder, b"bad", b"b")

    def meanwhile():
        if (folder / "one").read_bytes() == b"bad":
            write(folder, b"c", b"d")

    held = Watched(Words(folder, meanwhile), None)
    assert held.problem is None
    assert held.made.value == b"cd"


def test_files_that_never_rest_are_left_for_later(folder):
    count = iter(range(1000))
    source = Words(folder, lambda: write(folder, b"%d" % next(count), b"b"))
    held = Watched(source, None)
    assert held.made is None
    assert held.problem == "words: the files change while they are read"
    assert source.made == watched.READ_TRIES
    assert held.look() is None
    assert held.look() is None
    source.meanwhile = lambda: None
    assert changes(held).good


def test_a_link_that_leads_elsewhere_is_a_change(tmp_path):
    for name, word in (("v1", b"a"), ("v2", b"c")):
        (tmp_path / name).mkdir()
        write(tmp_path / name, word, word)
    (tmp_path / "now").symlink_to("v1")
    held = Watched(Words(tmp_path / "now"), None)
    (tmp_path / "next").symlink_to("v2")
    (tmp_path / "next").replace(tmp_path / "now")
    assert changes(held).good
    assert held.made.value == b"cc"


@pytest.mark.parametrize("kind", ["folder", "pipe", "large", "loop", "name"])
def test_what_is_no_file_of_moderate_size_is_refused_at_once(folder, kind):
    before = open_descriptors()
    one = folder / "one"
    one.unlink()
    match kind:
        case "folder":
            one.mkdir()
        case "pipe":
            os.mkfifo(one)
        case "large":
            one.write_bytes(b"x" * 101)
        case "loop":
            one.symlink_to("one")
    source = Words(folder)
    if kind == "name":
        source.paths[0] = folder / ("x" * 300)
    held = Watched(source, None)
    assert held.made is None
    assert held.problem.startswith(f"{source.paths[0]}: ")
    assert open_descriptors().keys() <= before.keys()


# --- dates --------------------------------------------------------------------------------------------------------

PAST, NOW, SOON, LATER = 100.0, 200.0, 300.0, 400.0
DATES = {b"old": Dates(PAST, SOON), b"over": Dates(PAST, NOW), b"early": Dates(SOON, LATER), b"new": Dates(NOW, LATER)}


@pytest.fixture
def clock(monkeypatch):
    """The time of now, for tests to set."""
    now = [NOW]
    monkeypatch.setattr(watched, "_now", lambda: now[0])
    return now


def dated(folder, first):
    write(folder, first, b"")
    return Watched(Words(folder, dates=DATES), None)


@pytest.mark.parametrize(
    ("worse", "said"),
    [(b"over", "has expired, on 1970-01-01 00:03:20 UTC"), (b"early", "is not valid before 1970-01-01 00:05:00 UTC")],
)
def test_what_is_out_of_date_does_not_replace_what_is_not(folder, clock, worse, said):
    held = dated(folder, b"old")
    write(folder, worse, b"")
    change = changes(held)
    assert change == ("words", False, f"{folder}/one: {said}; what was read before stays in use")
    assert held.made.value == b"old"
    assert changes(held) is None, "it is told once"


@pytest.mark.parametrize("worse", [b"over", b"early"])
def test_what_is_out_of_date_replaces_what_is_so_too(folder, clock, worse):
    held = dated(folder, b"old")
    clock[0] = SOON
    held.source.dates = {**DATES, b"early": Dates(LATER, LATER)}
    write(folder, worse, b"")
    assert changes(held).good
    assert held.made.value == worse


@pytest.mark.parametrize("first", [b"over", b"early"])
def test_what_is_out_of_date_at_the_start_is_taken_and_replaced(folder, clock, first):
    held = dated(folder, first)
    assert (held.made.value, held.problem) == (first, None)
    write(folder, b"new", b"")
    assert changes(held).good


def test_what_is_good_from_a_later_time_on_is_put_to_use_then(folder, clock):
    """It would never be otherwise: the file does not change any more."""
    held = dated(folder, b"old")
    write(folder, b"early", b"")
    assert not changes(held).good
    clock[0] = SOON - 1
    assert changes(held) is None
    clock[0] = SOON
    assert changes(held).good
    assert held.made.value == b"early"
    assert changes(held) is None


def test_a_reload_does_not_take_what_is_out_of_date_either(folder, clock):
    held = dated(folder, b"old")
    write(folder, b"over", b"")
    again = Watched(Words(folder, dates=DATES), held)
    assert again.made is held.made
    assert "has expired" in again.problem
