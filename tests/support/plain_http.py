"""Both ends of plain HTTP, byte for byte: an origin that answers as it is told, and a client that sends any bytes.

    with RawOrigin() as origin, Ends(proxy) as client:
        client.send(request(origin.url()))
        with origin.take() as upstream:                  # the test speaks for the origin itself
            assert upstream.request().method == "GET"
            upstream.send(b"HTTP/1.1 204 No Content\\r\\n\\r\\n")
        assert client.response().status == 204

    RawOrigin(lambda asked: [b"HTTP/1.1 200 OK\\r\\n", STALL, RESET])   # or a script does

Every connection of an origin keeps all that it has received. The readers here share no code with the package, and are strict:
what they cannot read is a failure of the test.
"""

from __future__ import annotations

import queue
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterable
from typing import NamedTuple, Self

from support.clients import dial, reset
from support.proxy import Proxy
from support.waiting import WAIT_S, eventually

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
Fields = tuple[tuple[str, str], ...]
_FIELD = re.compile(r"([!#$%&'*+\-.^_`|~0-9A-Za-z]+): ?([^\r\n\0]*)")


class Message(NamedTuple):
    """One request or response, as it was read.

    first     its first line
    fields    names in lower case, in order
    raw       its head, as it came
    complete  False: the connection ended before the message did
    """

    first: str
    fields: Fields
    body: bytes
    trailers: Fields
    raw: bytes
    complete: bool = True

    @property
    def method(self) -> str:
        return self.first.split(" ")[0]

    @property
    def target(self) -> str:
        return self.first.split(" ")[1]

    @property
    def status(self) -> int:
        assert self.first.startswith("HTTP/1.1 "), self.first
        return int(self.first.split(" ")[1])

    @property
    def slug(self) -> str:
        """Of the proxy's own replies: the first word of the details in Proxy-Status."""
        return (self.get("proxy-status") or "").partition('details="')[2].partition(":")[0]

    def get(self, name: str) -> str | None:
        """The value of a field; of its lines together, where there are several."""
        values = [value for each, value in self.fields if each == name]
        return ", ".join(values) if values else None


class Wire:
    """One end of a connection. Closed by whoever opened it; a context manager does that.

    was_reset      how it ended
    says_continue  whoever expects 100 (Continue) gets it
    """

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._pieces: list[bytes] = []
        self.was_reset = False
        self.says_continue = False
        self._ahead = bytearray()

    @property
    def received(self) -> bytes:
        """All that has come."""
        return b"".join(self._pieces)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- out ------------------------------------------------------------------------------------------------------

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def end(self) -> None:
        """No more comes from here."""
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        reset(self.sock)

    def close(self) -> None:
        self.sock.close()

    # --- in -------------------------------------------------------------------------------------------------------

    def _more(self) -> bool:
        """Read something; False at the end."""
        try:
            data = self.sock.recv(1 << 18)
        except ConnectionResetError:
            self.was_reset = True
            data = b""
        self._pieces.append(data)
        self._ahead += data
        return bool(data)

    def exactly(self, size: int) -> bytes:
        """So many bytes, or fewer at the end."""
        while len(self._ahead) < size and self._more():
            pass
        return self._take(min(size, len(self._ahead)))

    def until(self, mark: bytes) -> bytes:
        """All up to the mark, the mark included; fewer at the end."""
        while (at := self._ahead.find(mark)) < 0 and self._more():
            pass
        return self._take(len(self._ahead) if at < 0 else at + len(mark))

    def to_the_end(self) -> bytes:
        """All that still comes. `was_reset` says how it ended."""
        while self._more():
            pass
        return self._take(len(self._ahead))

    def _take(self, size: int) -> bytes:
        data = bytes(self._ahead[:size])
        del self._ahead[:size]
        return data

    def is_silent(self) -> bool:
        """Nothing has come that was not read, not even the end."""
        if self._ahead:
            return False
        self.sock.setblocking(False)
        try:
            self.sock.recv(1, socket.MSG_PEEK)
            return False
        except BlockingIOError:
            return True
        finally:
            self.sock.settimeout(WAIT_S)

    def head(self) -> Message | None:
        """The head of a message; None at the end."""
        raw = self.until(b"\r\n\r\n")
        if not raw:
            return None
        assert raw.endswith(b"\r\n\r\n"), f"the end in the middle of a head: {raw!r}"
        first, *lines = raw[:-4].decode("latin-1").split("\r\n")
        return Message(first, read_fields(lines), b"", (), raw)

    def request(self) -> Message:
        """The next request, whole. Of an origin's connection."""
        found = self.request_or_end()
        assert found is not None, "the end, and no request"
        return found

    def request_or_end(self) -> Message | None:
        """The next request, whole; None at the end."""
        head = self.head()
        if head is None:
            return None
        if head.get("expect") is not None and self.says_continue:
            self.send(CONTINUE)
        if head.get("transfer-encoding") is None and head.get("content-length") is None:
            return head
        return self.with_body(head)

    def response(self, method: str = "GET") -> Message:
        """The next response, whole or as far as it came. Interim ones are responses, too."""
        head = self.head()
        assert head is not None, "the end, and no response"
        if method == "HEAD" or head.status < 200 or head.status in (204, 304):
            return head
        if head.get("transfer-encoding") is None and head.get("content-length") is None:
            body = self.to_the_end()
            return head._replace(body=body, complete=not self.was_reset)
        return self.with_body(head)

    def with_body(self, head: Message) -> Message:
        """The message that begins with this head, which frames a body."""
        coding, length = head.get("transfer-encoding"), head.get("content-length")
        assert coding is None or length is None, f"two framings: {head.raw!r}"
        if length is not None:
            assert length.isdigit(), head.raw
            body = self.exactly(int(length))
            return head._replace(body=body, complete=len(body) == int(length))
        assert coding == "chunked", head.raw
        pieces: list[bytes] = []
        while True:
            line = self.until(b"\r\n")
            if not line.endswith(b"\r\n"):
                return head._replace(body=b"".join(pieces), complete=False)
            assert re.fullmatch(rb"[0-9a-fA-F]+\r\n", line), line
            size = int(line, 16)
            if not size:
                break
            piece = self.exactly(size + 2)
            pieces.append(piece[:size])
            if len(piece) < size + 2:
                return head._replace(body=b"".join(pieces), complete=False)
            assert piece.endswith(b"\r\n"), piece[-20:]
        body = b"".join(pieces)
        lines = []
        while (line := self.until(b"\r\n")) != b"\r\n":
            if not line.endswith(b"\r\n"):
                return head._replace(body=body, complete=False)
            lines.append(line[:-2].decode("latin-1"))
        return head._replace(body=body, trailers=read_fields(lines))


def read_fields(lines: Iterable[str]) -> Fields:
    found = []
    for line in lines:
        match = _FIELD.fullmatch(line)
        assert match, f"not a field line: {line!r}"
        found.append((match[1].lower(), match[2]))
    return tuple(found)


class Ends(Wire):
    """A client of the proxy: a connection to one of its listeners."""

    def __init__(
        self, proxy: Proxy, port: int | None = None, source: str | None = None, buffer: int | None = None
    ) -> None:
        """`buffer`: about as many bytes may have come and not been read; none: as the system likes."""
        if port is None and buffer is None:
            sock = dial(proxy, source)
        else:
            sock = socket.socket()
            sock.settimeout(WAIT_S)
            if buffer is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
            sock.bind((source or "127.0.0.1", 0))
            sock.connect(("127.0.0.1", port or proxy.port))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        super().__init__(sock)

    def ask(self, data: bytes, method: str = "GET") -> Message:
        """Send a request, and read its response."""
        self.send(data)
        return self.response(method)


# --- messages -----------------------------------------------------------------------------------------------------


def request(
    url: str, *fields: str, method: str = "GET", body: bytes = b"", version: str = "1.1", host: str = "x"
) -> bytes:
    """A request for a URL or a path, with a Host field that is for no one to look at, the fields given, and a body."""
    lines = [f"{method} {url} HTTP/{version}", f"Host: {host}", *fields]
    if body and not any(field.lower().startswith("transfer-encoding") for field in fields):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join((*lines, "", "")).encode("latin-1") + body


def response(body: bytes = b"", *fields: str, status: str = "200 OK", version: str = "1.1") -> bytes:
    """A response with a length."""
    lines = (f"HTTP/{version} {status}", *fields, f"Content-Length: {len(body)}", "", "")
    return "\r\n".join(lines).encode("latin-1") + body


def chunked(*pieces: bytes, trailers: str = "") -> bytes:
    """A body in chunks. `trailers`: field lines, each with its CRLF."""
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + f"0\r\n{trailers}\r\n".encode()


# --- the origin ---------------------------------------------------------------------------------------------------


class Step(NamedTuple):
    """What a script does beside sending."""

    name: str


CLOSE = Step("close")
RESET = Step("reset")
STALL = Step("stall")
"""Until the test says `go_on`, or the other side leaves."""

Script = Callable[[Message], Iterable[bytes | Step]]


class RawOrigin:
    """An origin on loopback. Without a script, `take` hands each connection to the test; with one, threads serve.

    connections  all so far, with what each received; the test's own sentinels left out
    """

    def __init__(
        self,
        script: Script | None = None,
        address: str = "127.0.0.1",
        port: int = 0,
        buffer: int | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Made to listen.

        script  what to do for each request on a connection; behind it comes the next request
        buffer  about as many bytes may have come and not been read; None: as the system likes
        tls     what each connection is secured with; the handshake is made by the first read
        """
        self._tls = tls
        self.address = address
        self._script = script
        self._seen: list[tuple[object, Wire]] = []
        self._sentinels: set[object] = set()
        self._accepted: queue.Queue[Wire] = queue.Queue()
        self._listening = socket.create_server((address, port), backlog=512)
        if buffer is not None:
            self._listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        self.port: int = self._listening.getsockname()[1]
        self._go_on = threading.Event()
        self._accepting = threading.Thread(target=self._accept, daemon=True)

    def __enter__(self) -> Self:
        self._accepting.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._go_on.set()
        self._listening.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        self._listening.close()
        for _, wire in self._seen:
            if self._script is None or wire.sock.fileno() < 0:
                wire.close()
            else:
                try:
                    socket.socket.shutdown(wire.sock, socket.SHUT_RDWR)  # below TLS; its thread closes it
                except OSError:
                    pass

    def url(self, path: str = "/", host: str | None = None) -> str:
        return f"http://{host or self.address}:{self.port}{path}"

    @property
    def target(self) -> str:
        return f"{self.address}:{self.port}"

    def take(self, timeout_s: float = WAIT_S) -> Wire:
        """The next connection; queue.Empty where none comes in time. Closed at the end at the latest."""
        return self._accepted.get(timeout=timeout_s)

    def go_on(self) -> None:
        """Let scripts that stall go on."""
        self._go_on.set()

    @property
    def connections(self) -> list[Wire]:
        return [wire for peer, wire in self._seen if peer not in self._sentinels]

    def contacts(self) -> int:
        """Connections so far. Exact for whatever had connected before the call: a queue of the kernel keeps its order."""
        with socket.create_connection((self.address, self.port), WAIT_S) as sentinel:
            name = sentinel.getsockname()
            self._sentinels.add(name)
            eventually(lambda: any(peer == name for peer, _ in self._seen), "the origin saw the sentinel")
        return len(self.connections)

    def _accept(self) -> None:
        while True:
            try:
                sock, peer = self._listening.accept()
            except OSError:
                return
            sock.settimeout(WAIT_S)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls is not None:
                sock = self._tls.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
            wire = Wire(sock)
            self._seen.append((peer, wire))
            if peer in self._sentinels:
                sock.close()
            elif self._script is None:
                self._accepted.put(wire)
            else:
                threading.Thread(target=self._serve, args=(wire,), daemon=True).start()

    def _serve(self, wire: Wire) -> None:
        assert self._script is not None
        wire.says_continue = True
        with wire:
            try:
                while (asked := wire.request_or_end()) is not None:
                    for step in self._script(asked):
                        if isinstance(step, bytes):
                            wire.send(step)
                        elif step is STALL:
                            self._go_on.wait(WAIT_S)
                        else:
                            if step is RESET:
                                wire.reset()
                            return
            except OSError:
                pass  # the other side left
