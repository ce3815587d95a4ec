"""The `sni` listener: TLS, forwarded undecrypted to the server that its ClientHello names (RFC 6066 section 3).

The hello is read, judged and put back: the origin gets every byte as the client sent it. Who names no server, does not
speak TLS or is refused hears a TLS alert, and the origin never a byte. To the policy this is a tunnel like any other: the
intent is a CONNECT to that name and the listener's `service_port`, or the port that a captured client was on its way to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from egressproxy.errors import EgressError, HelloTimeout, HelloTooLarge, NotTls, SniMissing
from egressproxy.frontends.frontend import is_about_what_is_inside, receive, send_alert
from egressproxy.model import Intent, Target
from egressproxy.wire.client_hello import ClientHello, HelloReader, parse_client_hello

if TYPE_CHECKING:
    from egressproxy.stream import Stream
    from egressproxy.telemetry.record import RecordDraft


class SniFrontend:
    """Speaks the first words of TLS with the clients of one listener."""

    name = "sni"
    too_slow: ClassVar[type[EgressError]] = HelloTimeout

    def __init__(self, listener: str, service_port: int, max_hello_bytes: int, nameless: Target | None = None) -> None:
        """What the listener serves.

        listener      its word in logs and metrics
        service_port  where its clients are taken to
        nameless      where those are taken whose TLS names no server, and who speak no TLS; None: they are refused
        """
        self._listener = listener
        self._nameless = nameless
        self._service_port = service_port
        self._max_hello_bytes = max_hello_bytes

    async def read_intent(self, client: Stream, draft: RecordDraft) -> Intent:
        """Read one ClientHello, and put it back.

        Raises NotTls, MalformedHello, HelloTooLarge, SniMissing or ClientGone.
        """
        draft.method = "CONNECT"
        try:
            hello = await self._read_hello(client, draft)
        except NotTls:
            if self._nameless is None:
                raise
            return self._without_name(client, draft, self._nameless)
        draft.server_name = draft.target_text = hello.server_name_as_sent
        if hello.may_be_asked_again:
            draft.judged_bytes = hello.length
        if hello.server_name is None:
            if self._nameless is not None:
                return self._without_name(client, draft, self._nameless)
            raise SniMissing("the ClientHello names no server, so there is nowhere to go")
        dialled = draft.dialled
        port = self._service_port if dialled is None else dialled[1]
        target = Target(hello.server_name, port, False)
        return Intent(client.address, self._listener, "CONNECT", target, None, dialled, hello.ech is not None)

    def _without_name(self, client: Stream, draft: RecordDraft, target: Target) -> Intent:
        draft.target_text = str(target)
        return Intent(client.address, self._listener, "CONNECT", target, None, draft.dialled)

    async def _read_hello(self, client: Stream, draft: RecordDraft) -> ClientHello:
        data = b""
        reader: HelloReader | None = None
        while True:
            data = await receive(client, data, "a ClientHello")
            try:
                hello = parse_client_hello(data) if reader is None else reader.read(data)
            except NotTls:
                client.unread(data)
                draft.preread_bytes = len(data) if self._nameless is not None else 0
                raise
            if (len(data) if hello is None else hello.length) > self._max_hello_bytes:
                raise HelloTooLarge(
                    f"the ClientHello has more than {self._max_hello_bytes} bytes (limits.max_hello_bytes)"
                )
            if hello is not None:
                client.unread(data)
                draft.preread_bytes = len(data)
                return hello
            reader = reader or HelloReader()  # it comes in pieces: none of them is read twice

    async def grant(self, client: Stream, draft: RecordDraft) -> None:
        """Nothing to say: the server itself answers."""
        draft.status = 200

    def refuse(self, client: Stream, error: EgressError, draft: RecordDraft) -> bool:
        """Send the error's alert, unless the client is gone; in an open tunnel only where the client's own words are wrong."""
        if error.status is not None and (draft.status is None or is_about_what_is_inside(error)):
            draft.status = draft.status or error.status
            draft.reply_bytes += send_alert(client, error)
        return False
