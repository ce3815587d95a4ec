"""The body of a plain request, on its way up while the response is awaited already.

A story of its own reads the client and writes to the upstream, one piece at a time. An upstream that takes no more ends only
that: it may have answered. A client that is wrong, or gone, ends the exchange.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from egressproxy.errors import BodyTooLarge, ClientGone, EgressError, MalformedRequest
from egressproxy.pace import Pace
from egressproxy.stories import Signal
from egressproxy.stream import StreamExpired
from egressproxy.wire.body import Body, ChunkedBody, LengthBody, as_chunk, last_chunk

if TYPE_CHECKING:
    from collections.abc import Callable

    from egressproxy.exchange import Carriage
    from egressproxy.stream import Stream
    from egressproxy.upstreams import Upstream
    from egressproxy.wire.request_fields import RequestFields


class Upload:
    """The body of one request. Its stories are over when `finish` returns.

    is_complete       all of it has been handed to an upstream, or there is none
    nothing_gone      all of it came with the head and is still in memory: it may be sent once more
    is_running        a story sends it, or throws it away
    carried           bytes of payload read from the client
    waits_for_client  it is the client that keeps everybody waiting
    """

    __slots__ = (
        "_body",
        "_carriage",
        "_chunked",
        "_client",
        "_discards",
        "_ended",
        "_first",
        "_moved",
        "_pace",
        "_takes_trailers",
        "carried",
        "is_complete",
        "is_running",
        "nothing_gone",
        "waits_for_client",
    )

    def __init__(
        self,
        client: Stream,
        fields: RequestFields,
        carriage: Carriage,
        moved: Callable[[], None],
        *,
        takes_trailers: bool = True,
    ) -> None:
        """What came of the body with the head is read at once.

        moved           called for each piece
        takes_trailers  they go on; where the proxy sets fields in place of the client's, one could come behind its back

        Raises BodyTooLarge or MalformedRequest.
        """
        self._client = client
        self._carriage = carriage
        self._moved = moved
        self._chunked = fields.chunked
        self._takes_trailers = takes_trailers
        self._pace = Pace(carriage.stories, in_chunks=fields.chunked)
        self._body: Body | None = None
        self._first = b""
        self._discards = False
        self.is_running = False
        self._ended: Signal | None = None
        self.carried = 0
        self.is_complete = False
        self.nothing_gone = True
        self.waits_for_client = False
        if fields.chunked:
            self._body = ChunkedBody(carriage.limits.max_bytes, carriage.limits.max_headers, MalformedRequest)
        elif fields.length:
            self._body = LengthBody(fields.length)
            self._check(fields.length)
        if self._body is None:
            self.is_complete = True
        else:
            ahead = client.take_unread()
            if ahead:
                self._first = self._take(ahead)

    @property
    def is_at_hand(self) -> bool:
        """All of it has come, or there is none."""
        return self._body is None or self._body.done

    def first(self) -> bytes:
        """As much of the body as came with the head, as it goes up."""
        self.is_complete = self.is_at_hand
        return self._first

    def start(
        self, upstream: Upstream, unsent: bytes, ended: Callable[[], None], fail: Callable[[EgressError], None]
    ) -> None:
        """Send what of the first bytes was not taken, and then the rest, in a story of its own.

        ended  called when the upstream has all of it
        fail   called with what is wrong with the client
        """
        self.is_complete = False
        self.nothing_gone = False
        self._ended = Signal()
        self.is_running = True
        self._carriage.stories.start(self._run(upstream, unsent, ended, fail))

    async def _run(
        self, upstream: Upstream, unsent: bytes, ended: Callable[[], None], fail: Callable[[EgressError], None]
    ) -> None:
        assert self._ended is not None
        try:
            self._discards = not await self._hand_on(upstream, unsent)
            while self._body is not None and not self._body.done:
                piece = await self._next_piece()
                if not self._discards and not await self._hand_on(upstream, piece):
                    self._discards = True
            if not self._discards:
                self.is_complete = True
                ended()
        except EgressError as error:
            fail(error)
        except StreamExpired:
            pass  # the exchange is over, or has failed and knows why
        finally:
            self.is_running = False
            self._ended.fire()

    async def _next_piece(self) -> bytes:
        """The next of the body, as it goes up. Raises ClientGone, MalformedRequest or BodyTooLarge."""
        self.waits_for_client = True
        try:
            data = await self._pace.read(self._client)
        except OSError as error:
            raise ClientGone(f"the client's connection broke after {self.carried} bytes of a body") from error
        finally:
            self.waits_for_client = False
        if not data:
            raise ClientGone(f"the client left after {self.carried} bytes of a body")
        if not self._discards:
            self._moved()
        return self._take(data)

    def _take(self, data: bytes) -> bytes:
        body = self._body
        assert body is not None
        payload = body.take(data)
        self._pace.found(len(payload), len(data))
        self.carried += len(payload)
        self._check(self.carried)
        if body.done and body.excess:
            self._client.unread(body.excess)
        if not self._chunked:
            return payload
        return as_chunk(payload) + (last_chunk(body.trailers if self._takes_trailers else b"") if body.done else b"")

    def _check(self, count: int) -> None:
        most = self._carriage.max_body_bytes
        if most is not None and count > most:
            raise BodyTooLarge(f"the request's body has more than {most} bytes (limits.max_body_bytes)")

    async def _hand_on(self, upstream: Upstream, piece: bytes) -> bool:
        """False: the upstream takes no more."""
        try:
            if piece or not upstream.stream.try_flush():
                await upstream.stream.write(piece)
            if not self._discards:
                self._moved()
        except (OSError, StreamExpired):
            return False
        return True

    def tell_nobody(self) -> None:
        """The exchange is over, and does not ask any more what moves."""
        self._moved = _nothing

    async def finish(self) -> None:
        """The exchange is over: read for a moment what the client still sends, then end what runs."""
        if self.is_running:
            assert self._ended is not None
            self._discards = True
            linger = self._carriage.linger
            linger.start(self._client)
            try:
                await self._ended
            finally:
                linger.stop(self._client)


def _nothing() -> None:
    """What is told to nobody."""
