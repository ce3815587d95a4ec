"""The first bytes of a TLS connection, as OpenSSL sends them: made by the ssl module and not by hand."""

from __future__ import annotations

import ssl
from functools import cache


@cache
def client_hello(host: str) -> bytes:
    """The ClientHello for `host`, with the ALPN list that curl sends, always the same bytes for one name.

    517 bytes with OpenSSL 1.1.1 to 3.4, which pad it (RFC 7685); more with later ones, which add a post-quantum key share.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_alpn_protocols(["h2", "http/1.1"])
    outgoing = ssl.MemoryBIO()
    try:
        context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=host).do_handshake()
    except ssl.SSLWantReadError:
        pass  # the hello is out, and nobody will answer
    return outgoing.read()
