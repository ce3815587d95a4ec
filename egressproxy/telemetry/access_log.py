"""From a record to one line of an access log. Pure functions; `log_writer` writes what they return.

`squid`    Squid's native format, `%ts.%03tu %6tr %>a %Ss/%03>Hs %<st %rm %ru %[un %Sh/%<a %mt`, codes of Squid 6 and 7
`squid-5`  the same with the codes of Squid 5
`json`     one object per line, stable keys, units in their names

A line has no line end and no control character, whatever the record holds. The codes were compared with what Squid 5.7
writes for the same requests. Three things of it are kept on purpose: a request that could not be read has `-` for a method
(`NONE` up to Squid 4), an error page after the CONNECT was accepted is not counted in the size, and the query of a URL
ends at its question mark. One is not: the status is always the one that was sent, where Squid 5 says 500 of a name that
does not resolve.
"""

from __future__ import annotations

import re
import time
from functools import lru_cache, partial
from json.encoder import encode_basestring_ascii
from typing import TYPE_CHECKING, NamedTuple

from egressproxy.errors import AddressDenied, LoopDetected, RuleDenied
from egressproxy.wire.replies import CONTENT_TYPE, ESTABLISHED

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from egressproxy.model import ConnectionRecord
    from egressproxy.telemetry.record import RecordDraft

MAX_TEXT = 300
"""Characters of one field. A host has at most 253; what is longer is not worth a log line."""


class Format(NamedTuple):
    """How one kind of access log is written.

    close      the line of a connection that has ended
    open_line  the line of a tunnel that opens, at this Unix time in seconds; None where the format has no such line
    """

    close: Callable[[ConnectionRecord], str]
    open_line: Callable[[RecordDraft, float], str] | None


# --- Squid --------------------------------------------------------------------------------------------------------

TUNNEL_HEAD_BYTES = len(ESTABLISHED)

_SQUID_FIELDS = 10
_DENIED = frozenset({RuleDenied.slug, AddressDenied.slug, LoopDetected.slug})
_TOO_LARGE = frozenset({"head_too_large", "target_too_long"})


def squid_line(record: ConnectionRecord, failed: str = "TCP_TUNNEL") -> str:
    """The line of Squid's native log. Hot: once per connection.

    failed  code for a tunnel that was allowed and did not come about: `NONE_NONE` up to Squid 5, `TCP_TUNNEL` since
    """
    if record.opened and (target := record.target) is not None and (upstream := record.upstream) is not None:
        elapsed_ms = int((record.tunnel_s or 0.0) * 1000.0)
        size = (record.reply_bytes or TUNNEL_HEAD_BYTES) + record.bytes_down
        host, port, _ = target
        place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        line = (
            f"{record.ended_at_unix_s:.3f} {elapsed_ms:6d} {record.client} TCP_TUNNEL/{record.status or 0:03d} {size}"
            f" {record.method} {place} {record.user or '-'} HIER_DIRECT/{upstream.address} -"
        )
        if line.isascii() and line.isprintable() and len(line.split()) == _SQUID_FIELDS:
            return line
    return _squid_careful(record, failed)


def _squid_careful(record: ConnectionRecord, failed: str) -> str:
    """`squid_line` for all that is not an opened tunnel, every field escaped."""
    size = record.reply_bytes
    media_type = CONTENT_TYPE if size else "-"
    hierarchy = f"HIER_DIRECT/{_field(record.upstream.address)}" if record.upstream is not None else "HIER_NONE/-"
    if record.opened:
        code = "TCP_TUNNEL"
        size = (size or TUNNEL_HEAD_BYTES) + record.bytes_down
        media_type = "-"
    elif record.outcome in _DENIED:
        code = "TCP_DENIED" if size else "TCP_DENIED_ABORTED"
        hierarchy = "HIER_NONE/-"
        media_type = CONTENT_TYPE
    elif record.rule is not None:
        code = failed
        size = 0
        media_type = "-"
    else:
        code = "NONE_NONE"
    elapsed_ms = int((record.tunnel_s or 0.0) * 1000.0)
    return (
        f"{record.ended_at_unix_s:.3f} {elapsed_ms:6d} {_field(record.client)} {code}/{record.status or 0:03d} {size}"
        f" {_field(record.method)} {_squid_url(record)} {_field(record.user)} {hierarchy} {media_type}"
    )


def _squid_url(record: ConnectionRecord) -> str:
    if record.target is not None:
        return _field(str(record.target))
    if record.outcome in _TOO_LARGE:
        return "error:request-too-large"
    if record.target_text:
        path, mark, _ = record.target_text.partition("?")
        return _field(path + mark)
    if record.outcome == "malformed_request":
        return "error:invalid-request"
    return "error:transaction-end-before-headers"


_NOT_PLAIN = re.compile(r"[^!-~]")


def _field(text: str | None) -> str:
    """One field of a line that is split at blanks: visible ASCII, the rest as %XX, at most MAX_TEXT characters read."""
    if not text:
        return "-"
    return _NOT_PLAIN.sub(_percent, text[:MAX_TEXT])


def _percent(match: re.Match[str]) -> str:
    return "".join(f"%{octet:02X}" for octet in match[0].encode("utf-8", "surrogatepass"))


# --- JSON ---------------------------------------------------------------------------------------------------------


def json_line(record: ConnectionRecord) -> str:
    """One JSON object, `"event":"close"`. Hot: once per connection, so the object is written by hand.

    Keys end in their unit. `target` is the text that came where it was not one host and one port, else null.
    """
    target = record.target
    if target is None:
        place = f'"host":null,"port":null,"target":{_text(record.target_text)}'
    else:
        place = f'"host":{_text(target.host)},"port":{target.port},"target":null'
    return _without_delete(
        f'{{"event":"close","time":"{_iso_time(record.ended_at_unix_s)}"'
        f',"connection":{record.number},{_entrance(record.listener, record.protocol)}'
        f',"client":{_text(record.client)},"client_port":{record.client_port}'
        f',"method":{_text(record.method)},{place},"http_version":{_text(record.http_version)}'
        f',"user":{_text(record.user)},{_decision(record.rule, record.reason, record.reported)}'
        f',"status":{"null" if record.status is None else record.status}'
        f',"outcome":{_text(record.outcome)},"detail":{_text(record.detail)}'
        f',"upstream":{"null" if record.upstream is None else _text(str(record.upstream))}'
        f',"connected":{"true" if record.connected else "false"},"opened":{"true" if record.opened else "false"}'
        f',"reply_bytes":{record.reply_bytes},"bytes_up":{record.bytes_up},"bytes_down":{record.bytes_down}'
        f',"closed_by":{_text(record.closed_by)},"duration_ms":{_ms(record.duration_s)}'
        f',"head_ms":{_ms(record.head_s)},"resolve_ms":{_ms(record.resolve_s)},"connect_ms":{_ms(record.connect_s)}}}'
    )


def json_open_line(draft: RecordDraft, unix_time_s: float) -> str:
    """One JSON object, `"event":"open"`, with what is known when a tunnel opens; the keys are those of the closing line."""
    intent, verdict = draft.intent, draft.verdict
    if intent is None:
        place = f'"method":{_text(draft.method)},"host":null,"port":null,"target":{_text(draft.target_text)}'
    else:
        host, port, _ = intent.target
        place = f'"method":{_text(intent.method)},"host":{_text(host)},"port":{port},"target":null'
    decision = (
        _decision(None, None, False) if verdict is None else _decision(verdict.rule, verdict.reason, verdict.reported)
    )
    return _without_delete(
        f'{{"event":"open","time":"{_iso_time(unix_time_s)}"'
        f',"connection":{draft.number},{_entrance(draft.listener, draft.protocol)}'
        f',"client":{_text(draft.client)},"client_port":{draft.client_port}'
        f',{place},"http_version":{_text(draft.http_version)},"user":{_text(draft.user)},{decision}'
        f',"upstream":{"null" if draft.upstream is None else _text(str(draft.upstream))}}}'
    )


# Cached: these come from the configuration, a few distinct ones for all connections.


@lru_cache(64)
def _entrance(listener: str, protocol: str) -> str:
    return f'"listener":{_text(listener)},"protocol":{_text(protocol)}'


@lru_cache(1024)
def _decision(rule: str | None, reason: str | None, reported: bool) -> str:
    return f'"rule":{_text(rule)},"reason":{_text(reason)},"reported":{"true" if reported else "false"}'


def _text(value: str | None) -> str:
    """A JSON string in ASCII, so that no reader meets U+2028, a lone surrogate or a C1 control; or null."""
    if value is None:
        return "null"
    return encode_basestring_ascii(value if len(value) <= MAX_TEXT else value[:MAX_TEXT])


def _without_delete(line: str) -> str:
    """`line` with U+007F escaped, the one control character that JSON (RFC 8259 section 7) lets stand in a string."""
    return line.replace("\x7f", "\\u007f") if "\x7f" in line else line


def _ms(seconds: float | None) -> str:
    return "null" if seconds is None else f"{seconds * 1000.0:.3f}"


def _iso_time(unix_time_s: float) -> str:
    """ISO 8601 in UTC with milliseconds, `2018-12-07T05:21:05.248Z`."""
    milliseconds = round(unix_time_s * 1000.0)
    return f"{_iso_second(milliseconds // 1000)}.{milliseconds % 1000:03d}Z"


@lru_cache(8)
def _iso_second(unix_second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(unix_second))


# --- the table ----------------------------------------------------------------------------------------------------

FORMATS: Mapping[str, Format] = {
    "squid": Format(squid_line, None),
    "squid-5": Format(partial(squid_line, failed="NONE_NONE"), None),
    "json": Format(json_line, json_open_line),
}
"""By the word in the configuration."""
