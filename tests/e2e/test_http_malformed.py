"""Messages that could be read in two ways: refused, with an answer and one log line, and nothing of them goes on.

Behind every malformed message stands another one, that only somebody who reads it otherwise would find: no origin may ever see
that request, no client that response. The last tests turn it round: what is accepted is held against what h11 reads.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any, NamedTuple

import h11
import pytest
from support.malformed import REQUESTS, RESPONSES, BadRequest, BadResponse
from support.plain_http import CLOSE, STALL, Ends, Message, RawOrigin, Step, chunked, request, response
from support.proxy import Proxy
from support.waiting import eventually

SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
"""A request that nobody has sent."""
FORGED = response(b"forged", "Set-Cookie: forged=1")
"""A response that nobody has asked for."""


class Origin(RawOrigin):
    """Answers /bad/N with the Nth malformed response, all else with its path, and keeps the requests that were whole."""

    def __init__(self) -> None:
        super().__init__(self._answer)
        self.whole: list[Message] = []
        self.raw = b""

    def _answer(self, asked: Message) -> list[bytes | Step]:
        if not asked.complete:
            return [CLOSE]
        self.whole.append(asked)
        if asked.target == "/raw":
            return [self.raw, CLOSE]
        if asked.target.startswith("/bad/"):
            row = RESPONSES[int(asked.target[5:])]
            return [row.data + FORGED * (not row.closes and row.method != "HEAD"), CLOSE if row.closes else STALL]
        return [response(asked.target.encode())]

    @property
    def received(self) -> bytes:
        return b"".join(wire.received for wire in self.connections)


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    with Origin() as origin:
        yield origin


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory, origin: Origin) -> Iterator[Proxy]:
    """Leads to the origin and nowhere else, whatever becomes of a name in a mutation."""
    rule = {"action": "allow", "hosts": ["127.0.0.1"], "ports": [origin.port], "private_addresses": True}
    config = {"rules": [rule], "limits": {"max_target_bytes": 4096}}
    with Proxy(tmp_path_factory.mktemp("proxy"), config) as proxy:
        yield proxy


class Seen(NamedTuple):
    """What came of one row."""

    reply: Message | None
    behind: bytes
    was_reset: bool
    records: list[dict[str, Any]]


def records_by_client(proxy: Proxy) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for record in proxy.settled().records:
        found.setdefault(record["client"], []).append(record)
    return found


def source_of(network: int, number: int) -> str:
    """An address of this host for each row, by which its log lines are told from the others'."""
    return f"127.{network}.{number // 250}.{number % 250 + 1}"


# --- requests -----------------------------------------------------------------------------------------------------


def send_row(
    proxy: Proxy, origin: Origin, number: int, row: BadRequest, *, cut: bool
) -> tuple[Message | None, bytes, bool]:
    """`cut`: its body comes once the origin has its head."""
    path = f"/row/{number}/{'cut' if cut else 'whole'}"
    data = row.data.replace(b"ORIGINPATH", origin.url(path).encode()).replace(b"PATH", path.encode())
    with Ends(proxy, source=source_of(3 if cut else 2, number)) as client:
        try:
            if cut:
                head, _, body = data.partition(b"\r\n\r\n")
                client.send(head + b"\r\n\r\n")
                eventually(lambda: f"POST {path} ".encode() in origin.received, "the origin has the head")
                client.send(body + SMUGGLED)
            else:
                client.send(data + SMUGGLED)
        except (BrokenPipeError, ConnectionResetError):
            pass  # refused before the end: the answer says why
        reply = client.response()
        return reply, client.to_the_end(), client.was_reset


@pytest.fixture(scope="module")
def requests(proxy: Proxy, origin: Origin) -> dict[tuple[int, bool], Seen]:
    proxy.settled()
    sent = {}
    for number, row in enumerate(REQUESTS):
        for cut in (False, True) if row.in_body else (False,):
            sent[number, cut] = send_row(proxy, origin, number, row, cut=cut)
    records = records_by_client(proxy)
    return {
        (number, cut): Seen(*seen, records.get(source_of(3 if cut else 2, number), []))
        for (number, cut), seen in sent.items()
    }


@pytest.mark.parametrize("number", range(len(REQUESTS)), ids=[row.name for row in REQUESTS])
def test_a_malformed_request_gets_its_answer_and_one_line(
    requests: dict[tuple[int, bool], Seen], origin: Origin, number: int
) -> None:
    row = REQUESTS[number]
    for cut in (False, True) if row.in_body else (False,):
        seen = requests[number, cut]
        assert seen.reply is not None
        assert (seen.reply.status, seen.reply.slug, seen.reply.get("connection")) == (row.status, row.slug, "close")
        assert (seen.behind, seen.was_reset) == (b"", False), "and nothing else, and it is not lost"
        (record,) = seen.records
        assert (record["outcome"], record["status"]) == (row.slug, row.status)
        if not row.in_body:
            assert (record["upstream"], record["bytes_up"], record["bytes_down"]) == (None, 0, 0)


def test_nothing_malformed_reaches_an_origin(requests: dict[tuple[int, bool], Seen], origin: Origin) -> None:
    assert requests
    received = origin.received
    assert b"smuggled" not in received
    heads_only = {f"/row/{number}/" for number, row in enumerate(REQUESTS) if row.in_body}
    for line in received.split(b"\r\n"):
        if b"/row/" in line:
            assert any(path.encode() in line for path in heads_only), line
    assert not [asked for asked in origin.whole if asked.target.startswith("/row/")], "and no body to its end"


def test_the_table_is_as_long_as_it_should_be() -> None:
    names = [row.name for row in REQUESTS]
    assert len(names) == len(set(names)) >= 100
    names = [row.name for row in RESPONSES]
    assert len(names) == len(set(names)) >= 100


# --- responses ----------------------------------------------------------------------------------------------------


class Answered(NamedTuple):
    """`again`: what the next request on the same connection got, where there could be one."""

    reply: Message
    again: Message | None
    received: bytes
    records: list[dict[str, Any]]


@pytest.fixture(scope="module")
def responses(proxy: Proxy, origin: Origin) -> dict[int, Answered]:
    proxy.settled()
    sent = {}
    for number, row in enumerate(RESPONSES):
        with Ends(proxy, source=source_of(4, number)) as client:
            reply = client.ask(request(origin.url(f"/bad/{number}"), method=row.method), row.method)
            again = None
            if reply.complete and reply.get("connection") != "close":
                again = client.ask(request(origin.url(f"/good/{number}")))
            client.end()
            client.to_the_end()
            sent[number] = reply, again, client.received
    records = records_by_client(proxy)
    return {number: Answered(*seen, records.get(source_of(4, number), [])) for number, seen in sent.items()}


@pytest.mark.parametrize("number", range(len(RESPONSES)), ids=[row.name for row in RESPONSES])
def test_a_malformed_response_is_502_or_seen_to_break_off(responses: dict[int, Answered], number: int) -> None:
    row: BadResponse = RESPONSES[number]
    reply, again, received, records = responses[number]
    record = records[0]
    assert record["outcome"] == row.outcome
    if reply.complete:
        assert (reply.status, reply.slug) == (502, row.outcome)
        assert again is not None, "it was the origin that was wrong"
        assert (again.status, again.body) == (200, f"/good/{number}".encode())
        assert len(records) == 2
    else:
        assert row.name.startswith(("chunks", "a length")), "only a body may be found wrong once its head has gone on"
        assert len(records) == 1
    assert b"forged" not in received


# --- whatever is accepted -----------------------------------------------------------------------------------------

MUTATIONS = 400
"""Of each kind. Seeds are fixed: a run that fails fails again."""
_BYTES = [bytes([value]) for value in b'\0\t\n\r\x0b\x7f\x80\xff ,;:=+-"0159afAFxX']
_PIECES = [
    b"\r\n",
    b"\n",
    b"\r",
    b"\r\n ",
    b"Content-Length: 5\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"chunked",
    b"0\r\n\r\n",
]


def mutated(data: bytes, rng: random.Random) -> bytes:
    """One to three small changes."""
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(data))
        match rng.randrange(5):
            case 0:
                data = data[:at] + rng.choice(_BYTES) + data[at:]
            case 1:
                data = data[:at] + data[at + rng.randint(1, 3) :]
            case 2:
                data = data[:at] + rng.choice(_BYTES) + data[at + 1 :]
            case 3:
                data = data[:at] + rng.choice(_PIECES) + data[at:]
            case 4:
                end = min(len(data), at + rng.randint(1, 40))
                data = data[:end] + data[at:]
    return data


def read_by_h11(data: bytes, *, of_client: bool) -> list[tuple[bytes, bytes]]:
    """First words (method, or status) and body of each whole message that h11 finds in a stream, up to what it refuses."""
    arbiter = h11.Connection(h11.SERVER if of_client else h11.CLIENT, max_incomplete_event_size=1 << 20)
    if not of_client:
        arbiter.send(h11.Request(method="GET", target="/", headers=[("Host", "x")]))
        arbiter.send(h11.EndOfMessage())
    # RFC 9112 section 2.2: a server ignores an empty line before a request. h11 does not.
    arbiter.receive_data(data.removeprefix(b"\r\n") if of_client else data)
    arbiter.receive_data(b"")
    first, body = b"", b""
    while True:
        try:
            event = arbiter.next_event()
        except h11.RemoteProtocolError:
            return []
        match event:
            case h11.Request():
                first = event.method
            case h11.Response():
                first = b"%d" % event.status_code
            case h11.InformationalResponse():
                pass
            case h11.Data():
                body += bytes(event.data)
            case h11.EndOfMessage():
                goes_on = of_client and arbiter.their_state is h11.DONE
                return [(first, body), *(read_by_h11(arbiter.trailing_data[0], of_client=True) if goes_on else ())]
            case _:
                return []


def test_what_an_origin_gets_is_what_h11_reads_in_what_the_client_sent(proxy: Proxy, origin: Origin) -> None:
    url = origin.url("/m").encode()
    sound = [
        request(url.decode(), "X: y", method="POST", body=b"hello") + request(url.decode(), "Y: z"),
        request(url.decode(), "Transfer-Encoding: chunked", method="PUT")
        + chunked(b"hello", b" world", trailers="X: y\r\n"),
        request(url.decode(), "Content-Length: 0", "Connection: keep-alive", method="POST") + request(url.decode()),
    ]
    rng = random.Random(20_261_128)  # noqa: S311, RUF100 - test data
    accepted = 0
    for _ in range(MUTATIONS):
        data = mutated(rng.choice(sound), rng)
        before = len(origin.whole)
        with Ends(proxy) as client:
            client.send(data)
            client.end()
            client.to_the_end()
        got = [(asked.method.encode(), asked.body) for asked in origin.whole[before:]]
        read = iter(read_by_h11(data, of_client=True))
        assert all(each in read for each in got), data  # in this order; one in between may have been refused
        accepted += len(got)
    assert accepted > MUTATIONS // 6, "and not because all is refused"


def test_what_a_client_gets_is_what_h11_reads_in_what_the_origin_sent(proxy: Proxy, origin: Origin) -> None:
    sound = [
        response(b"hello", "X: y"),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX: y\r\n\r\n"
        + chunked(b"hello", b" world", trailers="Z: z\r\n"),
        b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + response(b"hello"),
        b"HTTP/1.0 200 OK\r\nX: y\r\n\r\nhello",
    ]
    rng = random.Random(20_261_129)  # noqa: S311, RUF100 - test data
    accepted = 0
    for _ in range(MUTATIONS):
        origin.raw = data = mutated(rng.choice(sound), rng)
        with Ends(proxy) as client:
            client.send(request(origin.url("/raw"), "Connection: close"))
            reply = client.response()
            while reply.status < 200:
                reply = client.response()
        if reply.complete and not reply.slug:
            accepted += 1
            assert [(b"%d" % reply.status, reply.body)] == read_by_h11(data, of_client=False), data
    assert accepted > MUTATIONS // 6, "and not because all is refused"
