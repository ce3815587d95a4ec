"""What a connection tells: one call when its tunnel opens, one when it has ended."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from egressproxy.telemetry.access_log import form_of
from egressproxy.telemetry.log_writer import LogWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from egressproxy.config.schema.stages import AccessLog
    from egressproxy.model import ConnectionRecord
    from egressproxy.telemetry.metrics import Metrics
    from egressproxy.telemetry.record import RecordDraft


class Log(NamedTuple):
    """One access log at work.

    close      makes the line of a connection that has ended
    open_line  makes the line of a tunnel that opens; None where none is wanted
    wants_addresses  prints the proxy's own ends of the connections
    """

    close: Callable[[ConnectionRecord], str]
    open_line: Callable[[RecordDraft, float], str] | None
    writer: LogWriter
    wants_addresses: bool = False


def open_logs(settings: Sequence[AccessLog]) -> tuple[Log, ...]:
    """Open the access logs of a configuration; the caller closes their writers, or gives them to Telemetry.

    Raises LogUnusable, with none left open.
    """
    logs: list[Log] = []
    try:
        for setting in settings:
            form = form_of(setting)
            writer = LogWriter(setting.path, setting.buffer_lines)
            open_line = form.open_line if setting.decisions else None
            logs.append(Log(form.close, open_line, writer, form.wants_addresses))
    except OSError:
        for log in logs:
            log.writer.close(0.0)
        raise
    return tuple(logs)


class Telemetry:
    """Hands every connection to the access logs and the counters. Never waits, and nothing it meets ends a connection.

    wants_addresses  a log in use prints the proxy's own ends of the connections, which cost a system call each
    """

    def __init__(self, logs: Sequence[Log], metrics: Metrics) -> None:
        """Takes over `logs`: `close` closes them."""
        self.metrics = metrics
        self._logs: tuple[Log, ...] = ()
        self._announced: tuple[Log, ...] = ()
        self.wants_addresses = False
        self.use_logs(logs)

    def opened(self, draft: RecordDraft) -> None:
        """The client was told that its tunnel stands. Hot: once per tunnel, before any `closed` of it."""
        draft.opened = True
        self.metrics.tunnels_open += 1
        for log in self._announced:
            assert log.open_line is not None  # that is what makes it announced
            log.writer.write(log.open_line(draft, time.time()))

    def closed(self, record: ConnectionRecord) -> None:
        """A connection has ended, tunnel or not, or a plain request. Hot: exactly once for each."""
        self.metrics.observe(record)
        for log in self._logs:
            log.writer.write(log.close(record))

    def use_logs(self, logs: Sequence[Log]) -> tuple[Log, ...]:
        """Write to these from now on. Returns those in use before, which the caller closes."""
        before = self._logs
        self._logs = tuple(logs)
        self._announced = tuple(log for log in self._logs if log.open_line is not None)
        self.wants_addresses = any(log.wants_addresses for log in self._logs)
        self.metrics.watch_logs([log.writer for log in self._logs])
        return before

    def reopen_logs(self) -> None:
        """Open every log file by its name again, as SIGUSR1 asks for."""
        for log in self._logs:
            log.writer.reopen()

    def close(self, deadline_s: float) -> None:
        """Write what waits, all logs together for about `deadline_s` seconds, and close them. Blocks; see LogWriter.close."""
        give_up_at = time.monotonic() + deadline_s
        for log in self._logs:
            log.writer.close(max(0.0, give_up_at - time.monotonic()))
