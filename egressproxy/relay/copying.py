"""The portable engine: reads from one stream, writes to another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from egressproxy.relay.flow import COPY_BYTES, TURN_READS

if TYPE_CHECKING:
    from egressproxy.stream import Stream


class Source(Protocol):
    """What is copied from: a stream, or something that reads one."""

    def try_read(self, size: int) -> bytes | None:
        """As `Stream.try_read`."""


class CopyFlow:
    """Any stream to any stream."""

    __slots__ = (
        "_more",
        "_pending",
        "_sink",
        "_source",
        "_source_ended",
        "_told",
        "blocked",
        "broken",
        "carried",
        "done",
        "reading",
    )

    def __init__(self, source: Source, sink: Stream) -> None:
        self._source = source
        self._sink = sink
        self._pending = memoryview(b"")
        self._source_ended = False
        self._told = False
        self._more = True
        self.reading = True
        self.blocked = False
        self.done = False
        self.broken: str | None = None
        self.carried = 0

    def more(self) -> bool:
        return self._more and self.reading

    def pump(self) -> bool:
        if self.done:
            return False
        reads = 0
        self._more = False
        while True:
            if not self._hand_on():
                return True
            if self._source_ended:
                self.done = True
                return True
            if reads >= TURN_READS:
                self._more = True
                return True
            try:
                data = self._source.try_read(COPY_BYTES)
            except OSError:
                self._source_ended = self.done = True
                self.reading = False
                self.broken = self.broken or "source"
                return True
            if data is None:
                return True
            if data:
                reads += 1
                if self.broken != "sink":
                    self._pending = memoryview(data)
            else:
                self._source_ended = True
                self.reading = False

    def _hand_on(self) -> bool:
        """True when the sink has taken all."""
        if self.broken == "sink":
            return True
        try:
            while self._pending:
                taken = self._sink.try_write(self._pending)
                if not taken:
                    self.blocked, self.reading = True, False
                    return False
                self.carried += taken
                self._pending = self._pending[taken:]
            if not self._sink.try_flush():
                self.blocked, self.reading = True, False
                return False
        except OSError:
            self.broken = self.broken or "sink"
            self._pending = memoryview(b"")
        self.blocked, self.reading = False, not self._source_ended
        return True

    def tell_end(self, *, closing: bool) -> None:
        if self._told or self.broken:
            return
        self._told = True
        try:
            self._sink.end_writing()  # also when closing: TLS tells an orderly end apart from a cut
            if not self._sink.try_flush():  # and says it in bytes, which may have to wait
                self.blocked, self.done = True, False
        except OSError:
            self.broken = "sink"

    def abandon(self) -> None:
        self.broken = self.broken or "sink"
        self._pending = memoryview(b"")
        self.blocked, self.reading = False, not self._source_ended

    def release(self) -> None:
        self._pending = memoryview(b"")
