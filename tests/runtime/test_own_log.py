"""The proxy's own log: lines arrive in order, and a standard error that nobody reads holds nothing up."""

import logging
import os
import subprocess
import sys

STORY = """
import logging, sys, time
from egressproxy.runtime.own_log import OwnLog, WAITING_LINES
log = OwnLog()
log.start()
logger = logging.getLogger("egressproxy")
started = time.monotonic()
for number in range({lines}):
    logger.info("line %d %s", number, "x" * 100)
took_s = time.monotonic() - started
log.close()
print(took_s, time.monotonic() - started)
"""


def test_lines_arrive_in_order_and_the_last_ones_before_the_end():
    done = subprocess.run(
        [sys.executable, "-c", STORY.format(lines=50)], capture_output=True, text=True, timeout=30, check=True
    )
    lines = done.stderr.splitlines()
    assert [line.split()[4] for line in lines] == [str(number) for number in range(50)]
    assert all(" INFO line " in line for line in lines)


def test_a_standard_error_that_nobody_reads_holds_nothing_up():
    reader, writer = os.pipe()
    try:
        done = subprocess.run(
            [sys.executable, "-c", STORY.format(lines=5000)],
            stdout=subprocess.PIPE,
            stderr=writer,
            text=True,
            timeout=30,
            check=True,
        )
    finally:
        os.close(writer)
        os.close(reader)
    logging_s, whole_s = map(float, done.stdout.split())
    assert logging_s < 5, "logging waited for a reader"
    assert whole_s < 8, "closing waited for a reader"


def test_what_was_dropped_is_said_when_there_is_room_again():
    wait_for_a_reader = "print('full', flush=True); sys.stdin.readline(); logger.info('again'); log.close()"
    story = STORY.replace("log.close()", wait_for_a_reader)
    reader, writer = os.pipe()
    child = subprocess.Popen(
        [sys.executable, "-c", story.format(lines=5000)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=writer,
        text=True,
    )
    os.close(writer)
    assert child.stdin is not None
    assert child.stdout is not None
    assert child.stdout.readline() == "full\n"
    with os.fdopen(reader, "rb") as log, child:
        child.stdin.write("\n")
        child.stdin.close()
        text = log.read()  # to the end of the child
    assert b" WARNING " in text
    assert b"were dropped: standard error was not read" in text
    assert child.returncode == 0


def test_the_root_logger_is_given_back():
    from egressproxy.runtime.own_log import OwnLog

    before = list(logging.getLogger().handlers)
    level, last_resort = logging.getLogger().level, logging.lastResort
    log = OwnLog()
    log.start()
    log.close()
    logging.getLogger().setLevel(level)
    logging.lastResort = last_resort
    assert logging.getLogger().handlers == before
