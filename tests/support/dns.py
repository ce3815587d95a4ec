"""A real DNS server on loopback for tests: UDP and TCP on one port, in a thread of its own, so that it serves any loop.

It answers from a table that a test fills and changes, counts the queries, and misbehaves on request::

    with DnsServer() as dns:
        dns.add("www.example.test", "A", "192.0.2.1", ttl=60)
        dns.script("www.example.test", "AAAA", Reply(drop=True))
        Resolver(Dns(servers=(dns.address,)))
        await dns.asked("www.example.test", "A")        # waits until the query has arrived; no sleeping
        assert dns.count("www.example.test", "AAAA") == 1
        dns.release()                                   # lets go of answers held back by Reply(hold=True)

A name without any record is NXDOMAIN, a name without records of that type an empty answer (NODATA). A CNAME is followed
inside the table, as a recursive server does.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

import dnslib
from dnslib import CLASS, QTYPE, RCODE, RR, SOA, DNSHeader, DNSQuestion, DNSRecord

WAIT_S = 10.0
"""Longest wait of a test for a query to arrive: far more than any needs, so that a defect fails and does not hang."""


@dataclass(frozen=True)
class Reply:
    """What to do with a query instead of a plain answer from the table.

    drop      say nothing
    hold      answer only after `DnsServer.release()`
    delay_s   answer this much later
    rcode     answer with this code and nothing else: `SERVFAIL`, `REFUSED`, `FORMERR`, ...
    truncate  over UDP: an empty answer with the TC bit; over TCP the whole
    tamper    gets the finished reply and returns the messages to send in its place, each a DNSRecord or bytes
    times     how many queries are treated so before the table is used again; None for all
    """

    drop: bool = False
    hold: bool = False
    delay_s: float = 0.0
    rcode: str | None = None
    truncate: bool = False
    tamper: Callable[[DNSRecord], list[DNSRecord | bytes]] | None = None
    times: int | None = None


@dataclass
class _Script:
    reply: Reply
    left: int | None = field(init=False)

    def __post_init__(self) -> None:
        self.left = self.reply.times


class DnsServer:
    """The server. A context manager; `start` and `stop` do the same by hand. Methods may be called from any thread."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        self.host = host
        self.port = port
        self.tcp_queries = 0
        self._records: dict[tuple[str, str], list[RR]] = {}
        self._names: Counter[str] = Counter()
        self._scripts: dict[tuple[str, str], _Script] = {}
        self._counts: Counter[tuple[str, str]] = Counter()
        self._held: list[Callable[[], None]] = []
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    # --- the table ----------------------------------------------------------------------------------------------

    def add(self, name: str, kind: str, *values: str, ttl: int = 60) -> None:
        """Replace the records of `name` and `kind` (`A`, `AAAA`, `CNAME`, `TXT`, ...) by `values`; none: NODATA."""
        name = name.rstrip(".").lower()
        zone = [RR(name, getattr(QTYPE, kind), CLASS.IN, ttl, getattr(dnslib, kind)(value)) for value in values]
        with self._changed:
            if (name, kind) not in self._records:
                self._names[name] += 1
            self._records[name, kind] = zone

    def remove(self, name: str) -> None:
        """Forget every record of `name`: NXDOMAIN from now on."""
        name = name.rstrip(".").lower()
        with self._changed:
            for key in [key for key in self._records if key[0] == name]:
                del self._records[key]
            del self._names[name]

    def script(self, name: str, kind: str, reply: Reply | None) -> None:
        """Treat queries for `name` and `kind` as `reply` says; `*`: any name, any kind. None: as the table."""
        with self._changed:
            if reply is None:
                self._scripts.pop((name, kind), None)
            else:
                self._scripts[name, kind] = _Script(reply)

    def release(self) -> None:
        """Send all answers that are held back, and hold no more."""
        with self._changed:
            held, self._held = self._held, []
            for key in [key for key, script in self._scripts.items() if script.reply.hold]:
                del self._scripts[key]
        for send in held:
            self._call(send)

    # --- what was asked -----------------------------------------------------------------------------------------

    @property
    def address(self) -> str:
        """`host:port`, as the native configuration writes a name server."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def count(self, name: str | None = None, kind: str | None = None) -> int:
        """Queries that arrived, retries included; of one name, one kind, or all."""
        with self._changed:
            return self._count(name, kind)

    def asked_names(self) -> set[str]:
        """Every name that was asked for."""
        with self._changed:
            return {name for name, _ in self._counts}

    async def asked(self, name: str, kind: str | None = None, times: int = 1) -> None:
        """Wait until the query has arrived, `times` times. Raises TimeoutError after WAIT_S."""
        await asyncio.to_thread(self.wait_asked, name, kind, times)

    def wait_asked(self, name: str, kind: str | None = None, times: int = 1) -> None:
        """The same, blocking."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._count(name, kind) >= times, WAIT_S):
                raise TimeoutError(f"{name} {kind or ''} was asked {self._count(name, kind)} times, expected {times}")

    def _count(self, name: str | None, kind: str | None) -> int:
        return sum(
            number
            for (asked_name, asked_kind), number in self._counts.items()
            if name in (None, asked_name) and kind in (None, asked_kind)
        )

    # --- life ---------------------------------------------------------------------------------------------------

    def start(self) -> Self:
        """Listen. Raises OSError where the address is taken."""
        udp, tcp = _listen(self.host, self.port)
        self.port = udp.getsockname()[1]
        started = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(udp, tcp, started), name="test-dns", daemon=True)
        self._thread.start()
        started.wait()
        return self

    def stop(self) -> None:
        """Close the sockets and end the thread. The table stays, and `start` listens on the same port again."""
        if self._thread is not None and self._loop is not None:
            self._call(self._loop.stop)
            self._thread.join()
            self._thread = self._loop = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _run(self, udp: socket.socket, tcp: socket.socket, started: threading.Event) -> None:
        loop = asyncio.SelectorEventLoop()
        tcp_transports: set[asyncio.Transport] = set()
        transport, _ = loop.run_until_complete(loop.create_datagram_endpoint(lambda: _Udp(self), sock=udp))
        server = loop.run_until_complete(loop.create_server(lambda: _Tcp(self, tcp_transports), sock=tcp))
        self._loop = loop
        started.set()
        try:
            loop.run_forever()
        finally:
            transport.close()
            server.close()
            for open_transport in list(tcp_transports):
                open_transport.abort()
            loop.run_until_complete(asyncio.sleep(0))
            loop.run_until_complete(server.wait_closed())
            loop.close()

    def _call(self, function: Callable[[], None]) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(function)

    # --- answering (in the server's thread) ---------------------------------------------------------------------

    def _handle(self, message: bytes, send: Callable[[bytes], None], *, tcp: bool) -> None:
        try:
            query = DNSRecord.parse(message)
        except Exception:  # noqa: BLE001, RUF100 - dnslib raises many kinds for bytes that are no query
            return
        name, kind = str(query.q.qname).rstrip(".").lower(), QTYPE[query.q.qtype]
        with self._changed:
            script = self._script_for(name, kind)
            if tcp:
                self.tcp_queries += 1
            answer = self._answer(query, name, kind)
            self._counts[name, kind] += 1
            self._changed.notify_all()
            if script.drop:
                return
            messages = self._messages(query, answer, script, tcp=tcp)

            def deliver() -> None:
                for one in messages:
                    send(one if isinstance(one, bytes) else bytes(one.pack()))

            if script.hold:
                self._held.append(deliver)
                return
        if script.delay_s:
            assert self._loop is not None
            self._loop.call_later(script.delay_s, deliver)
        else:
            deliver()

    def _script_for(self, name: str, kind: str) -> Reply:
        for key in ((name, kind), (name, "*"), ("*", kind), ("*", "*")):
            script = self._scripts.get(key)
            if script is None or script.left == 0:
                continue
            if script.left is not None:
                script.left -= 1
            return script.reply
        return _PLAIN

    def _messages(self, query: DNSRecord, answer: DNSRecord, script: Reply, *, tcp: bool) -> list[DNSRecord | bytes]:
        if script.rcode is not None:
            answer = query.reply(ra=1, aa=0)
            answer.header.rcode = getattr(RCODE, script.rcode)
        size = max((rr.edns_len for rr in query.ar if rr.rtype == QTYPE.OPT), default=512)
        if not tcp and (script.truncate or len(answer.pack()) > size):
            answer = query.reply(ra=1, aa=0)
            answer.header.tc = 1
        return [answer] if script.tamper is None else script.tamper(answer)

    def _answer(self, query: DNSRecord, name: str, kind: str) -> DNSRecord:
        answer = query.reply(ra=1, aa=0)
        seen: set[str] = set()
        while name not in seen:
            seen.add(name)
            records = self._records.get((name, kind))
            if records:
                answer.add_answer(*records)
                return answer
            aliases = self._records.get((name, "CNAME"))
            if not aliases:
                break
            answer.add_answer(*aliases)
            name = str(aliases[0].rdata.label).rstrip(".").lower()
        if name not in self._names:
            answer.header.rcode = RCODE.NXDOMAIN
        answer.add_auth(
            RR("test", QTYPE.SOA, ttl=3600, rdata=SOA("ns.test", "admin.test", (1, 3600, 600, 86400, 3600)))
        )
        return answer


_PLAIN = Reply()


class _Udp(asyncio.DatagramProtocol):
    def __init__(self, server: DnsServer) -> None:
        self._server = server

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self._server._handle(data, lambda message: self._transport.sendto(message, addr), tcp=False)


class _Tcp(asyncio.Protocol):
    def __init__(self, server: DnsServer, transports: set[asyncio.Transport]) -> None:
        self._server = server
        self._transports = transports
        self._buffer = b""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._transports.add(transport)

    def connection_lost(self, _: Exception | None) -> None:
        self._transports.discard(self._transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while len(self._buffer) >= 2:
            size = int.from_bytes(self._buffer[:2], "big")
            if len(self._buffer) < 2 + size:
                return
            message, self._buffer = self._buffer[2 : 2 + size], self._buffer[2 + size :]
            self._server._handle(
                message, lambda reply: self._transport.write(len(reply).to_bytes(2, "big") + reply), tcp=True
            )


def _listen(host: str, port: int) -> tuple[socket.socket, socket.socket]:
    """One UDP and one TCP socket on the same port; with port 0 on any that is free for both."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for _ in range(50):
        udp = socket.socket(family, socket.SOCK_DGRAM)
        tcp = socket.socket(family, socket.SOCK_STREAM)
        try:
            tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            udp.bind((host, port))
            tcp.bind((host, udp.getsockname()[1]))
        except OSError:
            udp.close()
            tcp.close()
            if port:
                raise
            continue
        return udp, tcp
    raise OSError(f"no port of {host} is free for both UDP and TCP")


def after_wrong_id(evil: str) -> Callable[[DNSRecord], list[DNSRecord | bytes]]:
    """For `Reply.tamper`: first a forged answer with the address `evil` under another query id, then the true one."""

    def tamper(reply: DNSRecord) -> list[DNSRecord | bytes]:
        forged = _forge(reply, RR(reply.q.qname, reply.q.qtype, rdata=getattr(dnslib, QTYPE[reply.q.qtype])(evil)))
        forged.header.id ^= 0x5555
        return [forged, reply]

    return tamper


def after_wrong_question(evil: str) -> Callable[[DNSRecord], list[DNSRecord | bytes]]:
    """For `Reply.tamper`: first a forged answer as if another name had been asked, then the true one."""

    def tamper(reply: DNSRecord) -> list[DNSRecord | bytes]:
        forged = _forge(reply, RR(reply.q.qname, reply.q.qtype, rdata=getattr(dnslib, QTYPE[reply.q.qtype])(evil)))
        forged.questions = [DNSQuestion("other.example.test", reply.q.qtype)]
        return [forged, reply]

    return tamper


def only(*records: RR) -> Callable[[DNSRecord], list[DNSRecord | bytes]]:
    """For `Reply.tamper`: these records as the answer, whatever they are."""
    return lambda reply: [_forge(reply, *records)]


def _forge(reply: DNSRecord, *records: RR) -> DNSRecord:
    forged = DNSRecord(DNSHeader(id=reply.header.id, qr=1, rd=1, ra=1), q=reply.q)
    forged.add_answer(*records)
    return forged
