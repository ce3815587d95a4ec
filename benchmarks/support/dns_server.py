"""A name server that knows one answer: every name has the address 127.0.0.1 and no other.

    python -m benchmarks.support.dns_server

Prints its port as JSON. With it the tunnels of the benchmark go to a name, as real ones do; proxies ask once and then
have it in their caches. RFC 1035, UDP only.
"""

from __future__ import annotations

import json
import socket
import struct

_TTL_S = 3600
_TYPE_A = 1
_RESPONSE_FLAGS = 0x8580  # a response, authoritative, recursion desired and available, no error
_ANSWER = struct.pack(">HHHIH", 0xC00C, _TYPE_A, 1, _TTL_S, 4) + socket.inet_aton(
    "127.0.0.1"
)  # C00C: the question's name


def answer(query: bytes) -> bytes:
    """The response to one query with one question: an address to A, an empty answer to everything else."""
    end = query.index(b"\0", 12) + 5
    kind = int.from_bytes(query[end - 4 : end - 2], "big")
    records = _ANSWER if kind == _TYPE_A else b""
    return query[:2] + struct.pack(">HHHHH", _RESPONSE_FLAGS, 1, bool(records), 0, 0) + query[12:end] + records


def main() -> None:
    """Bind, say where, answer."""
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("127.0.0.1", 0))
    print(json.dumps(server.getsockname()[1]), flush=True)
    while True:
        query, client = server.recvfrom(4096)
        try:
            server.sendto(answer(query), client)
        except ValueError:
            pass  # not a query


if __name__ == "__main__":
    main()
