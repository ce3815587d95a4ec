"""The HTTP origin: answers every GET on connections that stay open, plain or in TLS.

    python -m benchmarks.support.http_origin [CERTIFICATE.pem]

Prints its port as JSON. The certificate's file holds the key as well. A TLS client has to send a server name.

A connection has one request in flight, so what ends in a blank line is one request. In TLS the records go through memory: one
read and one write a request, where an SSL socket reads header and record apart. It costs about what NGINX would as an origin,
and its answers can be told from each other.
"""

from __future__ import annotations

import gc
import json
import os
import select
import ssl
import sys
from email.utils import formatdate
from functools import lru_cache

from benchmarks.support import messages
from benchmarks.support.echo_origin import listen

_READ_BYTES = 16384
_SEEN = messages.SEEN.encode()


class Talk:
    """One connection in TLS: records in, records out."""

    __slots__ = ("incoming", "outgoing", "shaken", "tls")

    def __init__(self, context: ssl.SSLContext) -> None:
        self.incoming = ssl.MemoryBIO()
        self.outgoing = ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_side=True)
        self.shaken = False

    def read(self, records: bytes) -> bytes:
        """What the client says in them: nothing, while it shakes hands. Raises ssl.SSLError."""
        self.incoming.write(records)
        try:
            if not self.shaken:
                self.tls.do_handshake()
                self.shaken = True
            return self.tls.read(_READ_BYTES)
        except ssl.SSLWantReadError:
            return b""

    def write(self, data: bytes) -> bytes:
        """The records that say it, after those that wait to be sent."""
        if data:
            self.tls.write(data)
        return self.outgoing.read()


def tls_context(certificate: str) -> ssl.SSLContext:
    """For HTTP/1.1 over TLS 1.2 and later."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    context.set_alpn_protocols(["http/1.1"])

    def name(_: ssl.SSLObject, server_name: str | None, __: ssl.SSLContext) -> int | None:
        return None if server_name else ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME

    context.sni_callback = name
    return context


def serve(context: ssl.SSLContext | None) -> None:
    """Listen, say where, answer for ever."""
    listener = listen()
    print(json.dumps(listener.getsockname()[1]), flush=True)
    accepting, accept = listener.fileno(), listener._accept  # type: ignore[attr-defined]  # the C accept: a descriptor, no wrapper
    date = formatdate(usegmt=True)

    @lru_cache(4096)
    def answer(target: bytes) -> bytes:
        return messages.answer_head(date, messages.BODY_BYTES) + messages.body(target)

    poll = select.epoll()
    poll.register(accepting, select.EPOLLIN)
    talks: dict[int, Talk] = {}
    started: dict[int, bytes] = {}  # heads of which more must come
    read, write = os.read, os.write
    while True:
        for descriptor, _ in poll.poll():
            if descriptor == accepting:
                try:
                    while True:
                        client = accept()[0]
                        poll.register(client, select.EPOLLIN)
                        if context is not None:
                            talks[client] = Talk(context)
                except BlockingIOError:
                    continue
            try:
                if data := read(descriptor, _READ_BYTES):
                    reply = b""
                    talk = talks[descriptor] if context is not None else None
                    if talk is not None:
                        data = talk.read(data)
                    if started:
                        data = started.pop(descriptor, b"") + data
                    if data.endswith(b"\r\n\r\n"):
                        target = data[4 : data.index(b" ", 4)]
                        reply = (
                            answer(target) if target != _SEEN else messages.answer_head(date, len(data) - 2) + data[:-2]
                        )
                    elif data:
                        started[descriptor] = data
                    if talk is not None:
                        reply = talk.write(reply)
                    if reply:
                        write(descriptor, reply)
                    continue
            except (ConnectionError, ssl.SSLError):
                pass
            started.pop(descriptor, None)
            talks.pop(descriptor, None)
            os.close(descriptor)


def main() -> None:
    """Plain without an argument, TLS with one."""
    context = tls_context(sys.argv[1]) if len(sys.argv) > 1 else None
    gc.disable()
    serve(context)


if __name__ == "__main__":
    main()
