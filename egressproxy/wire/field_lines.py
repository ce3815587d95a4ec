"""Field lines: the lines of a head behind its first one, and of a trailer section. What is the same about them everywhere.

`end_of_fields` finds where they end and refuses what is no field line; `sort_out` tells what a proxy reads itself from
what it only hands on. Which fields those are, and what they mean, is for `request_fields` and `response_fields`.

h11 is lenient about line ends, folding and control octets, much as RFC 9112 lets a recipient be. Two recipients may then
read one head differently, and a proxy is there to judge what the other will read: so all of that is refused here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple, NoReturn

from egressproxy.errors import EgressError, HeadTooLarge, MalformedRequest, UpstreamProtocolError


class Sender(NamedTuple):
    """Who sent a head, for whoever refuses it: what it is called, and the errors that say it is wrong or too large."""

    what: str
    malformed: type[EgressError]
    too_large: type[EgressError]


CLIENT = Sender("request head", MalformedRequest, HeadTooLarge)
UPSTREAM = Sender("response head", UpstreamProtocolError, UpstreamProtocolError)


# --- the grammar --------------------------------------------------------------------------------------------------
# Quantifiers over one set of octets are possessive. Those over a group are not: Python 3.11.2, which Debian 12 has, fails
# to match some possessive groups (python/cpython#100061 and #106052). They need not be: what follows a group never begins
# as the group does, so there is one way to match and no work is done twice.

# RFC 9110 section 5.6.2
TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"

# RFC 9112 section 5 and RFC 9110 section 5.5: field-line = field-name ":" OWS field-value OWS, the value made of
# visible octets, space and tab. Other control octets are refused, and so is obs-fold (RFC 9112 section 5.2): no line
# begins with space or tab.
VALUE = rb"[\t -~\x80-\xff]*+"
_FIELD_NAME = re.compile(TOKEN)
_FIELD_VALUE = re.compile(VALUE)
_FIELD_LINES = re.compile(rb"(?:" + TOKEN + rb":" + VALUE + rb"\r\n)*")
_FIELD_LINE_SO_FAR = re.compile(TOKEN + rb"(?::" + VALUE + rb"\r?)?\Z")

# For the expressions of plain heads. RFC 9112 section 6: a length or the chunked coding, once, and never both.
PLAIN_FRAMING = rb"(?i:content-length: ?[0-9]{1,19}|transfer-encoding: ?chunked)\r\n"

_OCTET_NAMES = {0x00: "NUL", 0x09: "a tab", 0x0A: "LF", 0x0D: "CR", 0x20: "a space", 0x7F: "DEL"}
_CR = 0x0D
_EXCERPT_BYTES = 40  # as much as identifies a peer's mistake and no more


def plain_fields(*apart: bytes) -> bytes:
    """An expression for any number of field lines, but none of the fields in `apart`."""
    return rb"(?:(?!(?i:" + b"|".join(apart) + rb"):)" + TOKEN + rb":" + VALUE + rb"\r\n)*"


def end_of_fields(data: bytes, begin: int, end: int, max_headers: int, sender: Sender) -> int | None:
    """Where the field lines that start at `begin` end, the empty line being behind them; None when it is not there yet.

    Nothing at or behind `end` is looked at. Time is linear. Raises what `sender` names: at the first wrong octet, and
    when a field beyond `max_headers` has begun. No message shows a value: it may be a password.
    """
    fields = _FIELD_LINES.match(data, begin, end)
    assert fields is not None  # it matches the empty string
    fields_end = fields.end()
    count = data.count(b"\r\n", begin, fields_end)
    if count > max_headers:
        raise _too_many_fields(max_headers, sender)
    if data.startswith(b"\r\n", fields_end, end):
        return fields_end
    if data[fields_end:end] not in (b"", b"\r"):  # one more field has begun
        if count == max_headers:
            raise _too_many_fields(max_headers, sender)
        if not _FIELD_LINE_SO_FAR.match(data, fields_end, end):
            _refuse_field_line(data, fields_end, end, sender)
    return None


def await_more(data: bytes, max_bytes: int, sender: Sender) -> None:
    """Raise when more cannot help: the head is unfinished and already over its limit."""
    if len(data) > max_bytes:
        raise sender.too_large(f"the {sender.what} is not complete within {max_bytes} bytes (limits.max_head_bytes)")


def _refuse_field_line(data: bytes, begin: int, end: int, sender: Sender) -> NoReturn:
    """Raise for the bytes from `begin` on, which cannot become a field line."""
    token = _FIELD_NAME.match(data, begin, end)
    if token is None:
        if data[begin] in b" \t":
            raise sender.malformed(f"a field line begins with {octet(data[begin])}: folded lines are not accepted")
        raise sender.malformed(f"expected a field name, got {octet(data[begin])} (byte {begin})")
    name, at = excerpt(token[0]), token.end()
    if data[at] != ord(":"):
        raise sender.malformed(
            f"expected a colon right behind the field name {name}, got {octet(data[at])} (byte {at})"
        )
    value = _FIELD_VALUE.match(data, at + 1, end)
    assert value is not None  # it matches the empty string
    at = value.end()
    got = "CR without LF" if data[at] == _CR else octet(data[at])
    raise sender.malformed(f"expected CRLF at the end of the field {name}, got {got} (byte {at})")


def _too_many_fields(max_headers: int, sender: Sender) -> EgressError:
    return sender.too_large(f"the {sender.what} has more than {max_headers} fields (limits.max_headers)")


# --- what fields say ----------------------------------------------------------------------------------------------

# RFC 9110 section 7.6.1: fields about one connection, whatever Connection says. Proxy-Connection is not of the standard,
# but is sent, and about the connection.
PER_HOP = (b"connection", b"keep-alive", b"proxy-connection", b"te", b"upgrade")

# Fields that are no lists: the first one is what counts where a sender repeats them.
_SINGULAR = frozenset({b"authorization", b"content-type", b"date", b"user-agent", b"x-request-id"})

NO_OPTIONS: frozenset[bytes] = frozenset()
# Most requests say one of these; a look here saves most of the time that reading them takes.
_USUAL_MEMBERS = {
    text: frozenset({text.lower()})
    for text in (b"keep-alive", b"Keep-Alive", b"close", b"Close", b"Upgrade", b"upgrade")
}
_IS_TOKEN = re.compile(TOKEN).fullmatch


def sort_out(field_lines: bytes, read_here: Mapping[bytes, bool]) -> tuple[dict[bytes, bytes], list[bytes]]:
    """What the fields in `read_here` say, by name in lower case, and the lines to hand on, in order and without CRLF.

    `read_here`: for each field whether its lines are handed on all the same. Fields it does not name are. The last
    line is an empty one: joined by CRLF, all lines have theirs. Lines of a field are joined by ", " (RFC 9110 section
    5.3), so that no repetition of a field that must stand alone looks as if it did.
    """
    said: dict[bytes, bytes] = {}
    repeated: dict[bytes, list[bytes]] = {}
    lines: list[bytes] = []
    for line in field_lines.split(b"\r\n"):
        name, _, value = line.partition(b":")
        name = name.lower()
        if name not in read_here:
            lines.append(line)
            continue
        if read_here[name]:
            lines.append(line)
        if name not in said:
            said[name] = value.strip(b" \t")
        elif name not in _SINGULAR:
            repeated.setdefault(name, [said[name]]).append(value.strip(b" \t"))
    for name, values in repeated.items():
        said[name] = b", ".join(values)
    return said, lines


def without(lines: list[bytes], names: frozenset[bytes]) -> list[bytes]:
    """The field lines whose names, in lower case, are not in `names`."""
    return [line for line in lines if line.partition(b":")[0].lower() not in names]


def connection_options(value: bytes, sender: Sender) -> frozenset[bytes]:
    """The options in a Connection field, in lower case (RFC 9110 section 7.6.1). Raises for one that is no token."""
    options = members(value)
    if value not in _USUAL_MEMBERS:
        for option in options:
            if not _IS_TOKEN(option):
                raise sender.malformed(f"expected options in the Connection field, got {excerpt(option)}")
    return options


def members(value: bytes) -> frozenset[bytes]:
    """What stands between the commas of `value`, in lower case. Of quoted commas it knows nothing."""
    usual = _USUAL_MEMBERS.get(value)
    if usual is not None:
        return usual
    return frozenset([member.strip(b" \t") for member in value.lower().split(b",")]) - {b""}


def plain_number(name: str, value: bytes, sender: Sender) -> int:
    """The one number in a Content-Length (RFC 9112 section 6.2), or the like. A list, even of equal numbers, is refused."""
    if not value.isdigit() or len(value) > _MAX_DIGITS:
        raise sender.malformed(f"expected one {name} of at most {_MAX_DIGITS} digits, got {excerpt(value)}")
    return int(value)


_MAX_DIGITS = 19  # 2**63 has as many: whatever counts the body elsewhere can hold it, or says so


def check_chunked(value: bytes, length: bytes | None, http_version: str, sender: Sender) -> None:
    """Raise unless a Transfer-Encoding says that the body is chunked, and no more (RFC 9112 section 6.1).

    Raises too where another reader may not see the coding: in HTTP/1.0, which has none, and beside
    a Content-Length. Both are how requests are smuggled (RFC 9112 section 11.2).
    """
    if value.lower() != b"chunked":
        raise sender.malformed(f"expected one `chunked` as Transfer-Encoding, got {excerpt(value)}")
    if length is not None:
        raise sender.malformed("expected Content-Length or Transfer-Encoding, got both")
    if http_version == "1.0":
        raise sender.malformed("expected no Transfer-Encoding in HTTP/1.0, got `chunked`")


# --- what is wrong ------------------------------------------------------------------------------------------------


def excerpt(data: bytes) -> str:
    """The beginning of `data`, quoted and escaped."""
    return repr(data[:_EXCERPT_BYTES])[1:] + ("..." if len(data) > _EXCERPT_BYTES else "")


def octet(value: int) -> str:
    """One octet, by its name or quoted."""
    return _OCTET_NAMES.get(value) or (repr(chr(value)) if 0x20 < value < 0x7F else f"0x{value:02x}")
