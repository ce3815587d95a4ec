"""Messages that are not as RFC 9112 writes them, each with what it is to prove: above all those by which requests are smuggled.

In a request, `ORIGIN` stands for `http://` and the origin's authority, and PATH for a path of the row's own.
"""

from __future__ import annotations

from typing import NamedTuple

MALFORMED = "malformed_request"
TARGET = "malformed_target"
TOO_LARGE = "head_too_large"
TOO_LONG = "target_too_long"


class BadRequest(NamedTuple):
    """What a client sends, and what it is told.

    in_body  the head is as it should be: an origin may see that, and never the end of the body
    """

    name: str
    data: bytes
    slug: str = MALFORMED
    in_body: bool = False

    @property
    def status(self) -> int:
        return {TOO_LARGE: 431, TOO_LONG: 414}.get(self.slug, 400)


class BadResponse(NamedTuple):
    """What an origin answers. A body that is wrong is seen to be so; all else is 502.

    method   of the request
    closes   the origin closes behind it; else it waits
    outcome  slug in the log
    """

    name: str
    data: bytes
    method: str = "GET"
    closes: bool = False
    outcome: str = "upstream_protocol_error"


def to(line: str, *fields: str, body: str = "") -> bytes:
    return "\r\n".join((line, *fields, "", body)).encode("latin-1")


GET, POST, HOST = "GET ORIGINPATH HTTP/1.1", "POST ORIGINPATH HTTP/1.1", "Host: x"
CHUNKED, FIVE = "Transfer-Encoding: chunked", "Content-Length: 5"


def fields(*lines: str) -> bytes:
    """A GET that is well-formed but for these lines."""
    return to(GET, HOST, *lines)


def posts(*lines: str, body: str = "hello") -> bytes:
    """A POST that is well-formed but for how these lines frame its body."""
    return to(POST, HOST, *lines, body=body)


def in_chunks(body: str) -> bytes:
    """A POST whose chunks are malformed."""
    return to(POST, HOST, CHUNKED, body=body)


# Values that are not one plain length, whatever is behind them.
_LENGTHS = (
    "+5", "-5", "-0", "5 5", "5,5", "5, 5", "5, 6", "5;", "0x5", "5h", "five", "5.0", "5e0", "1_0", "'5'", '"5"', "\xb2",
    "\xa05", "", " ", ",", "5,", ",5", "99999999999999999999", "18446744073709551621", "5\t6",
)  # fmt: skip

# Codings other than one final `chunked`, in spellings that some reader takes for it.
_CODINGS = (
    "gzip", "identity", "gzip, chunked", "chunked, gzip", "chunked, identity", "identity, chunked", "chunked, chunked",
    "chunked,", ", chunked", "chunked;q=1", "chunked; a", "xchunked", "chunkedx", "chunk", "'chunked'", '"chunked"',
    "chunked\x0b", "\x0bchunked", "\xa0chunked", "chunked\xa0", "ch unked", "", "x", "chunked\x00", "chunked\t,", "0",
)  # fmt: skip


def _framing() -> list[tuple[str, tuple[str, ...]]]:
    """Field lines that frame a body in more ways than one, or in none; of requests and responses alike."""
    rows = [
        ("length and chunked", (FIVE, CHUNKED)),
        ("chunked and length", (CHUNKED, FIVE)),
        ("length 0 and chunked", ("Content-Length: 0", CHUNKED)),
        ("two lengths", (FIVE, "Content-Length: 6")),
        ("twice the same length", (FIVE, FIVE)),
        ("lengths in two cases", (FIVE, "CONTENT-LENGTH: 6")),
        ("twice chunked", (CHUNKED, CHUNKED)),
        ("chunked, then identity", (CHUNKED, "Transfer-Encoding: identity")),
        ("identity, then chunked", ("Transfer-Encoding: identity", CHUNKED)),
        ("length with a space before the colon", ("Content-Length : 5",)),
        ("coding with a space before the colon", ("Transfer-Encoding : chunked",)),
        ("coding with a tab before the colon", ("Transfer-Encoding\t: chunked",)),
        ("coding behind a space", (" Transfer-Encoding: chunked",)),
        ("coding folded", ("Transfer-Encoding:", " chunked")),
        ("length folded", ("Content-Length:", "\t5")),
        ("coding behind a vertical tab", ("X: y\x0bTransfer-Encoding: chunked",)),
        ("coding behind a CR", ("X: y\rTransfer-Encoding: chunked",)),
        ("coding behind a LF", ("X: y\nTransfer-Encoding: chunked",)),
        ("coding behind a NUL", ("X: y\0Transfer-Encoding: chunked",)),
        ("a NUL in the name of the coding", ("Transfer-\0Encoding: chunked",)),
        ("a name beyond ASCII", ("Transfer\xadEncoding: chunked",)),
        ("length named in Connection", ("Connection: content-length", FIVE)),
    ]
    rows += [(f"length {value!a}", (f"Content-Length: {value}",)) for value in _LENGTHS]
    rows += [(f"coding {value!a}", (f"Transfer-Encoding: {value}",)) for value in _CODINGS]
    return rows


# What comes in place of `5 CRLF hello CRLF 0 CRLF CRLF`, each with what a lenient reader makes of it.
CHUNKS = (
    ("a size with a sign", "+5\r\nhello\r\n0\r\n\r\n"),
    ("a size below zero", "-5\r\nhello\r\n0\r\n\r\n"),
    ("a size in 0x", "0x5\r\nhello\r\n0\r\n\r\n"),
    ("a size with an underscore", "0_5\r\nhello\r\n0\r\n\r\n"),
    ("a size behind a space", " 5\r\nhello\r\n0\r\n\r\n"),
    ("a size before a space", "5 \r\nhello\r\n0\r\n\r\n"),
    ("a size before a tab", "5\t\r\nhello\r\n0\r\n\r\n"),
    ("no size", "\r\nhello\r\n0\r\n\r\n"),
    ("a size that is a word", "five\r\nhello\r\n0\r\n\r\n"),
    ("a size of 17 digits", "00000000000000005\r\nhello\r\n0\r\n\r\n"),
    ("a size beyond 64 bits", "10000000000000005\r\nhello\r\n0\r\n\r\n"),
    ("a size just below 64 bits", "fffffffffffffff5\r\nhello\r\n0\r\n\r\n"),
    ("a size before LF", "5\nhello\r\n0\r\n\r\n"),
    ("a size before CR", "5\rhello\r\n0\r\n\r\n"),
    ("a size before CR CR LF", "5\r\r\nhello\r\n0\r\n\r\n"),
    ("an extension before LF", "5;a\nhello\r\n0\r\n\r\n"),
    ("a CR in an extension", "5;a\rb\r\nhello\r\n0\r\n\r\n"),
    ("a NUL in an extension", "5;a=\0\r\nhello\r\n0\r\n\r\n"),
    ("an extension without a name", "5;\r\nhello\r\n0\r\n\r\n"),
    ("an open quote in an extension", '5;a="\r\nhello\r\n0\r\n\r\n'),
    ("an extension without end", f"5;{'a' * 20_000}\r\nhello\r\n0\r\n\r\n"),
    ("data longer than its size", "5\r\nhelloX\r\n0\r\n\r\n"),
    ("data shorter than its size", "5\r\nhell\r\n0\r\n\r\n"),
    ("LF behind data", "5\r\nhello\n0\r\n\r\n"),
    ("CR behind data", "5\r\nhello\r0\r\n\r\n"),
    ("nothing behind data", "5\r\nhello0\r\n\r\n"),
    ("LF behind the last chunk", "5\r\nhello\r\n0\n\r\n"),
    ("LF at the end", "5\r\nhello\r\n0\r\n\n"),
    ("CR at the end", "5\r\nhello\r\n0\r\n\rX"),
    ("a last chunk with a sign", "5\r\nhello\r\n-0\r\n\r\n"),
    ("a trailer without a colon", "0\r\nnothing\r\n\r\n"),
    ("a trailer with a space before the colon", "0\r\nX : y\r\n\r\n"),
    ("a folded trailer", "0\r\nX: y\r\n z\r\n\r\n"),
    ("a NUL in a trailer", "0\r\nX: \0\r\n\r\n"),
    ("LF in a trailer", "0\r\nX: y\nZ: z\r\n\r\n"),
    ("a trailer that frames", "0\r\nContent-Length: 5\r\n\r\n"),
    ("a trailer that codes", "0\r\nTransfer-Encoding: chunked\r\n\r\n"),
    ("a trailer that routes", "0\r\nHost: other\r\n\r\n"),
    ("trailers without end", "0\r\n" + "X: y\r\n" * 4000),
)

REQUESTS = (
    # the request line
    BadRequest("HTTP/0.9", b"GET ORIGINPATH\r\n\r\n"),
    BadRequest("HTTP/1.2", to("GET ORIGINPATH HTTP/1.2", HOST)),
    BadRequest("HTTP/2.0", to("GET ORIGINPATH HTTP/2.0", HOST)),
    BadRequest("HTTP/1.01", to("GET ORIGINPATH HTTP/1.01", HOST)),
    BadRequest("http/1.1 in small letters", to("GET ORIGINPATH http/1.1", HOST)),
    BadRequest("HTTP / 1.1", to("GET ORIGINPATH HTTP / 1.1", HOST)),
    BadRequest("no version but a space", to("GET ORIGINPATH ", HOST)),
    BadRequest("two spaces before the target", to("GET  ORIGINPATH HTTP/1.1", HOST)),
    BadRequest("two spaces behind the target", to("GET ORIGINPATH  HTTP/1.1", HOST)),
    BadRequest("a space behind the version", to("GET ORIGINPATH HTTP/1.1 ", HOST)),
    BadRequest("tabs in place of spaces", to("GET\tORIGINPATH\tHTTP/1.1", HOST)),
    BadRequest("a vertical tab in place of a space", to("GET\x0bORIGINPATH HTTP/1.1", HOST)),
    BadRequest("a space in the target", to("GET ORIGINPATH /x HTTP/1.1", HOST)),
    BadRequest("a CR in the target", to("GET ORIGINPATH\r/x HTTP/1.1", HOST)),
    BadRequest("a NUL in the target", to("GET ORIGINPATH\0 HTTP/1.1", HOST)),
    BadRequest("a target beyond ASCII", to("GET ORIGINPATH\xe9 HTTP/1.1", HOST)),
    BadRequest("a space first", to(" GET ORIGINPATH HTTP/1.1", HOST)),
    BadRequest("two empty lines first", b"\r\n\r\n" + fields()),
    BadRequest("a bare LF first", b"\n" + fields()),
    BadRequest("a bare CR first", b"\r" + fields()),
    BadRequest("LF behind the request line", b"GET ORIGINPATH HTTP/1.1\nHost: x\r\n\r\n"),
    BadRequest("CR behind the request line", b"GET ORIGINPATH HTTP/1.1\rHost: x\r\n\r\n"),
    BadRequest("CR CR LF behind the request line", b"GET ORIGINPATH HTTP/1.1\r\r\nHost: x\r\n\r\n"),
    BadRequest("a colon in the method", to("GE:T ORIGINPATH HTTP/1.1", HOST)),
    BadRequest("a method in parentheses", to("(GET) ORIGINPATH HTTP/1.1", HOST)),
    BadRequest("no method", to("ORIGINPATH HTTP/1.1", HOST)),
    BadRequest("a user in the target", to("GET http://user@127.0.0.1PATH HTTP/1.1", HOST), TARGET),
    BadRequest("a fragment", to("GET ORIGINPATH#x HTTP/1.1", HOST), TARGET),
    BadRequest("a backslash in the authority", to("GET http://127.0.0.1\\@xPATH HTTP/1.1", HOST), TARGET),
    BadRequest("another scheme", to("GET gopher://127.0.0.1PATH HTTP/1.1", HOST), TARGET),
    BadRequest("a target without end", b"GET ORIGINPATH" + b"x" * 20_000, TOO_LONG),
    # the fields
    BadRequest("no Host", to(GET, "X: y")),
    BadRequest("two Hosts", fields("Host: y")),
    BadRequest("twice the same Host", fields(HOST)),
    BadRequest("a Host with a space", to(GET, "Host: x y")),
    BadRequest("a Host with a user", to(GET, "Host: x@y")),
    BadRequest("a Host with a slash", to(GET, "Host: x/y")),
    BadRequest("a Host with a space before the colon", to(GET, "Host : x")),
    BadRequest("a Host named in Connection", fields("Connection: host")),
    BadRequest("an option that is no token", fields("Connection: a b")),
    BadRequest("LF line ends", fields("X: y").replace(b"\r\n", b"\n")),
    BadRequest("CR line ends", fields("X: y").replace(b"\r\n", b"\r")),
    BadRequest("LF between fields", fields("X: y\nZ: z")),
    BadRequest("LF at the end of the head", b"GET ORIGINPATH HTTP/1.1\r\nHost: x\r\n\n"),
    BadRequest("CR CR LF between fields", fields("X: y\r")),
    BadRequest("a lone CR in a value", fields("X: y\rz")),
    BadRequest("a CR at the end of the head", b"GET ORIGINPATH HTTP/1.1\r\nHost: x\r\n\rX: y\r\n\r\n"),
    BadRequest("a folded field", fields("X: y", " z")),
    BadRequest("a field folded by a tab", fields("X: y", "\tz")),
    BadRequest("a fold in the first line", to(GET, " folded", HOST)),
    BadRequest("an empty fold", fields("X: y", " ")),
    BadRequest("a NUL in a value", fields("X: y\0z")),
    BadRequest("a NUL in a name", fields("X\0: y")),
    BadRequest("a DEL in a value", fields("X: \x7f")),
    BadRequest("an escape in a value", fields("X: \x1b[0m")),
    BadRequest("a form feed in a value", fields("X: \x0c")),
    BadRequest("a space before the colon", fields("X : y")),
    BadRequest("a tab before the colon", fields("X\t: y")),
    BadRequest("a space in a name", fields("X Y: z")),
    BadRequest("a name in quotes", fields('"X": y')),
    BadRequest("no name", fields(": y")),
    BadRequest("no colon", fields("nothing")),
    BadRequest("a request line as a field", fields("GET /inside HTTP/1.1")),
    BadRequest("an expectation that is unknown", fields("Expect: 200-ok")),
    BadRequest("two expectations", fields("Expect: 100-continue", "Expect: 100-continue")),
    BadRequest("101 fields", fields(*["X: y"] * 100), TOO_LARGE),
    BadRequest("a head without end", to(GET, HOST, "X: " + "y" * 20_000), TOO_LARGE),
    # what frames a body
    *(BadRequest(name, posts(*lines)) for name, lines in _framing()),
    BadRequest("chunked in HTTP/1.0", to("POST ORIGINPATH HTTP/1.0", HOST, CHUNKED, body="0\r\n\r\n")),
    BadRequest("a coding named in Connection", posts("Connection: transfer-encoding", CHUNKED, body="0\r\n\r\n")),
    # the chunks
    *(BadRequest(f"chunks: {name}", in_chunks(body), in_body=True) for name, body in CHUNKS),
)  # fmt: skip


def answers(*lines: str, body: str = "hello", line: str = "HTTP/1.1 200 OK") -> bytes:
    """A response that is well-formed but for these lines."""
    return to(line, *lines, body=body)


RESPONSES = (
    # the status line
    BadResponse("no HTTP at all", b"hello there\r\n\r\n"),
    BadResponse("nothing but text, and the end", b"<html>hello</html>", closes=True),
    BadResponse("HTTP/2", answers(FIVE, line="HTTP/2 200 OK")),
    BadResponse("HTTP/1.2", answers(FIVE, line="HTTP/1.2 200 OK")),
    BadResponse("HTTP/0.9", answers(FIVE, line="HTTP/0.9 200 OK")),
    BadResponse("ICY", answers(FIVE, line="ICY 200 OK")),
    BadResponse("small letters", answers(FIVE, line="http/1.1 200 OK")),
    BadResponse("a status of two digits", answers(FIVE, line="HTTP/1.1 20 OK")),
    BadResponse("a status of four digits", answers(FIVE, line="HTTP/1.1 2000 OK")),
    BadResponse("a status of 099", answers(FIVE, line="HTTP/1.1 099 OK")),
    BadResponse("a status of 600", answers(FIVE, line="HTTP/1.1 600 OK")),
    BadResponse("a status with a sign", answers(FIVE, line="HTTP/1.1 +200 OK")),
    BadResponse("two spaces before the status", answers(FIVE, line="HTTP/1.1  200 OK")),
    BadResponse("a tab before the status", answers(FIVE, line="HTTP/1.1\t200 OK")),
    BadResponse("a space first", answers(FIVE, line=" HTTP/1.1 200 OK")),
    BadResponse("an empty line first", b"\r\n" + answers(FIVE)),
    BadResponse("a NUL in the reason", answers(FIVE, line="HTTP/1.1 200 O\0K")),
    BadResponse("a CR in the reason", answers(FIVE, line="HTTP/1.1 200 O\rSet-Cookie: a=b")),
    BadResponse("LF behind the status line", b"HTTP/1.1 200 OK\nContent-Length: 5\r\n\r\nhello"),
    BadResponse("CR CR LF behind the status line", b"HTTP/1.1 200 OK\r\r\nContent-Length: 5\r\n\r\nhello"),
    # the fields
    BadResponse("LF line ends", answers(FIVE).replace(b"\r\n", b"\n")),
    BadResponse("LF between fields", answers("X: y\nZ: z", FIVE)),
    BadResponse("a lone CR in a value", answers("X: y\rSet-Cookie: a=b", FIVE)),
    BadResponse("LF at the end of the head", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\nhello"),
    BadResponse("a folded field", answers("X: y", " z", FIVE)),
    BadResponse("a fold in the first line", answers(" X: y", FIVE)),
    BadResponse("a NUL in a value", answers("X: \0", FIVE)),
    BadResponse("a NUL in a name", answers("X\0: y", FIVE)),
    BadResponse("a space before the colon", answers("X : y", FIVE)),
    BadResponse("a space in a name", answers("X Y: z", FIVE)),
    BadResponse("no name", answers(": y", FIVE)),
    BadResponse("no colon", answers("nothing", FIVE)),
    BadResponse("an option that is no token", answers("Connection: a b", FIVE)),
    BadResponse("101 fields", answers(*["X: y"] * 100, FIVE)),
    BadResponse("a head without end", answers("X: " + "y" * 20_000)),
    BadResponse("half a head, and the end", b"HTTP/1.1 200 OK\r\nX: y\r\n", closes=True),
    BadResponse("nothing, and the end", b"", closes=True, outcome="upstream_closed"),
    # what frames a body
    *(BadResponse(name, answers(*lines)) for name, lines in _framing()),
    BadResponse("chunked in HTTP/1.0", answers(CHUNKED, body="0\r\n\r\n", line="HTTP/1.0 200 OK")),
    BadResponse("a 204 with a length", answers(FIVE, line="HTTP/1.1 204 No Content")),
    BadResponse("a 204 in chunks", answers(CHUNKED, body="0\r\n\r\n", line="HTTP/1.1 204 No Content")),
    BadResponse("an interim response with a length", answers(FIVE, line="HTTP/1.1 103 Early Hints")),
    BadResponse("an interim response in chunks", answers(CHUNKED, line="HTTP/1.1 103 Early Hints")),
    BadResponse("a 101 that was not asked for", answers("Connection: Upgrade", "Upgrade: x", line="HTTP/1.1 101 x")),
    BadResponse("a HEAD with two lengths", answers(FIVE, "Content-Length: 6", body=""), method="HEAD"),
    BadResponse("a 304 with two lengths", answers(FIVE, "Content-Length: 6", body="", line="HTTP/1.1 304 x")),
    # the chunks
    *(BadResponse(f"chunks: {name}", answers(CHUNKED, body=body)) for name, body in CHUNKS),
    BadResponse("chunks that end too early", answers(CHUNKED, body="5\r\nhel"), closes=True, outcome="upstream_closed"),
    BadResponse("a length that is not reached", answers("Content-Length: 50"), closes=True, outcome="upstream_closed"),
)
