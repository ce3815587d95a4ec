import errno
import fcntl
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from egressproxy.telemetry.log_writer import LogUnusable, LogWriter

PATIENCE_S = 10.0
PIPE_BYTES = 4096


class Messages(list):
    """What the writer says to the operator."""

    def __init__(self) -> None:
        super().__init__()
        self.changed = threading.Condition()

    def __call__(self, text: str) -> None:
        with self.changed:
            self.append(text)
            self.changed.notify_all()

    def wait_for(self, count: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self) >= count, PATIENCE_S), list(self)


def eventually(condition) -> None:
    """Another thread acts and tells nobody: look until it has."""
    give_up_at = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < give_up_at, "waited in vain"
        time.sleep(0.002)


def text_of(path: Path) -> str:
    return path.read_text() if path.exists() else ""


@pytest.fixture
def messages() -> Messages:
    return Messages()


@pytest.fixture
def open_writer(messages):
    writers = []

    def open_writer(path, buffer_lines: int = 1000) -> LogWriter:
        writers.append(LogWriter(str(path), buffer_lines, messages))
        return writers[-1]

    yield open_writer
    for writer in writers:
        writer.close(0.1)


@pytest.fixture
def fifo(tmp_path) -> Path:
    path = tmp_path / "log.fifo"
    os.mkfifo(path)
    return path


@pytest.fixture
def idle_reader(fifo):
    """The reading end of the FIFO, with a small pipe, held by somebody who does not read."""
    fd = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    if hasattr(fcntl, "F_SETPIPE_SZ"):
        fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    yield fd
    os.close(fd)


# --- files --------------------------------------------------------------------------------------------------------


def test_lines_are_seen_soon_without_closing(tmp_path, open_writer):
    path = tmp_path / "access.log"
    writer = open_writer(path)
    writer.write("one")
    eventually(lambda: text_of(path) == "one\n")
    writer.write("two")
    writer.write("three")
    eventually(lambda: text_of(path) == "one\ntwo\nthree\n")


def test_lines_are_appended_to_what_is_there_and_strangers_may_not_read_them(tmp_path, open_writer):
    path = tmp_path / "access.log"
    writer = open_writer(path)
    assert stat.S_IMODE(path.stat().st_mode) & 0o007 == 0
    writer.write("one")
    writer.close(PATIENCE_S)
    again = open_writer(path)
    again.write("two")
    again.close(PATIENCE_S)
    assert path.read_text() == "one\ntwo\n"


def test_close_writes_everything_in_order(tmp_path, open_writer):
    path = tmp_path / "access.log"
    writer = open_writer(path, buffer_lines=50_000)
    expected = [f"line {number}" for number in range(50_000)]
    for line in expected:
        writer.write(line)
    writer.close(PATIENCE_S)
    writer.close(PATIENCE_S)
    assert path.read_text().splitlines() == expected
    assert set(writer.dropped.values()) == {0}


def test_a_line_after_close_is_counted(tmp_path, open_writer):
    writer = open_writer(tmp_path / "access.log")
    writer.close(PATIENCE_S)
    writer.write("late")
    assert writer.dropped["closed"] == 1
    assert (tmp_path / "access.log").read_text() == ""


def test_nothing_runs_while_there_is_nothing_to_write(tmp_path, open_writer):
    writer = open_writer(tmp_path / "access.log")
    writer.write("one")
    eventually(lambda: writer._asleep)
    thread = writer._thread.native_id
    before = Path(f"/proc/self/task/{thread}/stat")
    if not before.exists():
        pytest.skip("no /proc/self/task here")

    def ticks() -> list[str]:
        return before.read_text().rpartition(")")[2].split()[11:13]

    used = ticks()
    threading.Event().wait(0.3)  # the time that shall cost nothing
    assert writer._asleep
    assert ticks() == used


@pytest.mark.parametrize("place", ["missing/access.log", "."])
def test_a_log_that_cannot_be_opened_at_start_is_an_error_that_names_it(tmp_path, place):
    path = str(tmp_path / place)
    with pytest.raises(LogUnusable) as caught:
        LogWriter(path, 10)
    assert caught.value.filename == path
    assert caught.value.strerror


# --- rotation -----------------------------------------------------------------------------------------------------


def test_a_file_that_was_moved_away_is_begun_anew(tmp_path, open_writer, messages):
    path, old = tmp_path / "access.log", tmp_path / "access.log.1"
    writer = open_writer(path)
    writer.write("before")
    eventually(lambda: text_of(path) == "before\n")
    path.rename(old)

    def line_lands_in_new_file() -> bool:
        writer.write("after")
        return "after\n" in text_of(path)

    eventually(line_lands_in_new_file)
    assert old.read_text().startswith("before\n")
    assert messages == []


def test_reopen_goes_to_the_new_file_at_once_even_without_a_line(tmp_path, open_writer):
    path, old = tmp_path / "access.log", tmp_path / "access.log.1"
    writer = open_writer(path)
    writer.write("before")
    eventually(lambda: text_of(path) == "before\n")
    path.rename(old)
    writer.reopen()
    eventually(path.exists)
    writer.write("after")
    writer.close(PATIENCE_S)
    assert (old.read_text(), path.read_text()) == ("before\n", "after\n")


def test_a_file_that_was_truncated_goes_on_from_its_start(tmp_path, open_writer):
    path = tmp_path / "access.log"
    writer = open_writer(path)
    writer.write("before")
    eventually(lambda: text_of(path) == "before\n")
    os.truncate(path, 0)
    writer.write("after")
    writer.close(PATIENCE_S)
    assert path.read_bytes() == b"after\n"


def test_a_removed_folder_drops_and_counts_lines_until_it_is_back(tmp_path, open_writer, messages):
    folder = tmp_path / "logs"
    folder.mkdir()
    path = folder / "access.log"
    writer = open_writer(path)
    writer.write("before")
    eventually(lambda: text_of(path) == "before\n")
    path.unlink()
    folder.rmdir()
    writer.reopen()
    messages.wait_for(1)
    writer.write("lost")
    writer.write("lost")
    eventually(lambda: writer.dropped["cannot_open"] == 2)

    folder.mkdir()
    writer.reopen()
    eventually(path.exists)
    writer.write("after")
    messages.wait_for(2)
    assert path.read_text() == "after\n"
    assert "No such file" in messages[0]
    assert "2 lines were lost" in messages[1]


def test_where_no_new_file_can_be_made_lines_go_to_the_one_that_was_moved(tmp_path, open_writer, messages):
    folder, moved = tmp_path / "logs", tmp_path / "moved"
    folder.mkdir()
    writer = open_writer(folder / "access.log")
    writer.write("before")
    eventually(lambda: text_of(folder / "access.log") == "before\n")
    folder.rename(moved)
    writer.reopen()
    messages.wait_for(1)
    writer.write("after")
    eventually(lambda: text_of(moved / "access.log") == "before\nafter\n")
    assert set(writer.dropped.values()) == {0}
    assert len(messages) == 1


# --- pipes --------------------------------------------------------------------------------------------------------


def test_a_pipe_that_nobody_reads_holds_up_nobody(open_writer, fifo, idle_reader):
    writer = open_writer(fifo, buffer_lines=100)
    line = "x" * 99
    started = time.monotonic()
    for _ in range(10_000):
        writer.write(line)
    assert time.monotonic() - started < 1.0
    eventually(lambda: writer.dropped["buffer_full"] > 9_000)
    writer.close(0.1)
    assert time.monotonic() - started < 5.0
    assert writer.dropped["closed"] > 0
    in_pipe = len(os.read(idle_reader, 1 << 20)) // 100
    assert in_pipe + sum(writer.dropped.values()) == 10_000


def test_a_slow_reader_gets_every_line_whole(open_writer, fifo, idle_reader):
    writer = open_writer(fifo, buffer_lines=2_000)
    expected = [f"{number} " + "y" * (number % 300) for number in range(2_000)]
    expected[1000] = "z" * 10_000  # longer than the pipe
    for line in expected:
        writer.write(line)
    os.set_blocking(idle_reader, True)
    received = b""
    while received.count(b"\n") < len(expected):
        piece = os.read(idle_reader, 1000)
        assert piece
        received += piece
    assert received.decode().splitlines() == expected
    assert set(writer.dropped.values()) == {0}


def test_a_fifo_without_a_reader_drops_until_one_comes(open_writer, fifo, messages):
    writer = open_writer(fifo)
    messages.wait_for(1)
    writer.write("lost")
    eventually(lambda: writer.dropped["closed_pipe"] == 1)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        writer.reopen()

        def line_arrives() -> bool:
            writer.write("seen")
            try:
                return b"seen\n" in os.read(reader, PIPE_BYTES)
            except BlockingIOError:
                return False

        eventually(line_arrives)
        messages.wait_for(2)
    finally:
        os.close(reader)
    writer.write("lost again")
    messages.wait_for(3)
    assert "lines are dropped" in messages[2]


def test_a_full_disk_drops_counts_and_says_so_once(open_writer, messages):
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    writer = open_writer("/dev/full")
    writer.write("one")
    writer.write("two")
    eventually(lambda: writer.dropped["no_space"] == 2)
    for count in (3, 4, 5):
        writer.write("more")
        eventually(lambda count=count: writer.dropped["no_space"] == count)
    assert len(messages) == 1
    assert os.strerror(errno.ENOSPC) in messages[0]


def test_half_a_line_left_by_a_full_disk_does_not_spoil_the_next(tmp_path, open_writer, messages, monkeypatch):
    path = tmp_path / "access.log"
    writer = open_writer(path)
    real_write, script = os.write, [3, errno.ENOSPC]

    def write(fd: int, data: bytes) -> int:
        if fd != writer._fd or not script:
            return real_write(fd, data)
        step = script.pop(0)
        if step == errno.ENOSPC:
            raise OSError(step, os.strerror(step))
        return real_write(fd, data[:step])

    monkeypatch.setattr(os, "write", write)
    writer.write("spoiled")
    messages.wait_for(1)
    writer.reopen()
    eventually(lambda: writer._fd >= 0)
    writer.write("whole")
    messages.wait_for(2)
    assert path.read_text() == "spo\nwhole\n"
    assert writer.dropped["no_space"] == 1


@pytest.fixture
def scripted_write(monkeypatch):
    """Let one writer's writes meet what the kernel of this machine cannot be brought to do."""

    def script(writer: LogWriter, act) -> None:
        real_write = os.write
        monkeypatch.setattr(os, "write", lambda fd, data: (act if fd == writer._fd else real_write)(fd, data))

    return script


def test_a_pipe_with_too_little_room_for_a_piece_is_given_up_at_the_deadline(
    open_writer, fifo, idle_reader, scripted_write
):
    writer = open_writer(fifo)
    asked = threading.Event()

    def too_little_room(fd: int, data: bytes) -> int:
        asked.set()
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    scripted_write(writer, too_little_room)
    writer.write("one")
    assert asked.wait(PATIENCE_S)
    writer.close(0.0)
    assert writer.dropped["closed"] == 1
    writer._thread.join(PATIENCE_S)
    assert not writer._thread.is_alive()


def test_close_leaves_a_write_behind_that_the_system_holds(tmp_path, open_writer, scripted_write):
    writer = open_writer(tmp_path / "access.log")
    held, let_go = threading.Event(), threading.Event()

    def hang(fd: int, data: bytes) -> int:
        held.set()
        let_go.wait(PATIENCE_S)
        return len(data)

    scripted_write(writer, hang)
    writer.write("in the hanging write")
    assert held.wait(PATIENCE_S)
    writer.write("behind it")
    started = time.monotonic()
    writer.close(0.0)
    assert time.monotonic() - started < 2.0
    assert writer.dropped["closed"] == 1
    let_go.set()
    writer._thread.join(PATIENCE_S)
    assert not writer._thread.is_alive()


# --- standard output ----------------------------------------------------------------------------------------------

CHILD = """
import sys
from egressproxy.telemetry.log_writer import LogWriter
writer = LogWriter("-", 100)
print("ready", file=sys.stderr, flush=True)
sys.stdin.readline()
for number in range(int(sys.argv[1])):
    writer.write(f"{number} " + "x" * 90)
writer.close(float(sys.argv[2]))
print(sum(writer.dropped.values()), [reason for reason, count in writer.dropped.items() if count], file=sys.stderr)
"""


def start_child(*arguments: str) -> subprocess.Popen[str]:
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert child.stderr is not None
    assert child.stderr.readline() == "ready\n"
    return child


def test_a_dash_is_standard_output():
    with start_child("3", "5") as child:
        out, err = child.communicate("go\n", timeout=PATIENCE_S)
    assert [line.split()[0] for line in out.splitlines()] == ["0", "1", "2"]
    assert err == "0 []\n"
    assert child.returncode == 0


def test_standard_output_that_nobody_reads_does_not_keep_the_process_alive():
    with start_child("20000", "0.2") as child:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
        try:
            assert child.wait(timeout=PATIENCE_S) == 0
        finally:
            if child.poll() is None:
                child.send_signal(signal.SIGKILL)
        assert child.stderr is not None
        assert "buffer_full" in child.stderr.read()


def test_standard_output_whose_reader_has_left_is_told_once_and_counted():
    with start_child("5", "5") as child:
        assert child.stdout is not None
        assert child.stdin is not None
        assert child.stderr is not None
        child.stdout.close()
        child.stdin.write("go\n")
        child.stdin.close()
        err = child.stderr.read()
        assert child.wait(timeout=PATIENCE_S) == 0
    first, last = err.splitlines()
    assert first.startswith("access log -: ")
    assert last == "5 ['closed_pipe']"


def test_standard_output_that_is_closed_is_an_error_at_start():
    code = "from egressproxy.telemetry.log_writer import LogWriter; LogWriter('-', 1)"
    done = subprocess.run(
        ["sh", "-c", 'exec "$0" -c "$1" >&-', sys.executable, code],
        stderr=subprocess.PIPE,
        text=True,
        timeout=PATIENCE_S,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 1
    assert os.strerror(errno.EBADF) in done.stderr
