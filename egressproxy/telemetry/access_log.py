"""From a record to one line of an access log. Pure functions; `log_writer` writes what they return.

`squid`    Squid's native format, `%ts.%03tu %6tr %>a %Ss/%03>Hs %<st %rm %ru %[un %Sh/%<a %mt`, codes of Squid 6 and 7
`squid-5`  the same with the codes of Squid 5
`json`     one object per line, stable keys, units in their names

`nginx-stream`       NGINX's `log_stream` of an SNI proxy: two strings that touch between name and status,
                     `$remote_addr [$time_local] $protocol [$ssl_preread_server_name]`
                     `$status $bytes_sent $bytes_received $session_time`
`nginx-stream-1.22`  the same as NGINX wrote it up to 1.25.4, without the ClientHello among the bytes received

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

from egressproxy.errors import AddressDenied, EchDenied, LoopDetected, RuleDenied
from egressproxy.model import Endpoint
from egressproxy.wire.replies import CONTENT_TYPE

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

_SQUID_FIELDS = 10
_DENIED = frozenset({RuleDenied.slug, AddressDenied.slug, LoopDetected.slug, EchDenied.slug})
_TOO_LARGE = frozenset({"head_too_large", "target_too_long"})


def squid_line(record: ConnectionRecord, failed: str = "TCP_TUNNEL") -> str:
    """The line of Squid's native log. Hot: once per connection.

    failed  code for a tunnel that was allowed and did not come about: `NONE_NONE` up to Squid 5, `TCP_TUNNEL` since
    """
    if record.opened and (target := record.target) is not None and (upstream := record.upstream) is not None:
        elapsed_ms = int((record.tunnel_s or 0.0) * 1000.0)
        size = record.reply_bytes + record.bytes_down
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
    error_page = CONTENT_TYPE if record.protocol != "sni" else "-"  # there it is an alert
    media_type = error_page if size else "-"
    hierarchy = f"HIER_DIRECT/{_field(record.upstream.address)}" if record.upstream is not None else "HIER_NONE/-"
    if record.opened:
        code = "TCP_TUNNEL"
        size += record.bytes_down
        media_type = "-"
    elif record.outcome in _DENIED:
        code = "TCP_DENIED" if size else "TCP_DENIED_ABORTED"
        hierarchy = "HIER_NONE/-"
        media_type = error_page
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
    if record.status == 400:
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
        f',"dialled":{"null" if record.dialled is None else _text(str(Endpoint(*record.dialled)))}'
        f',"server_name":{_text(record.server_name)},"sni_check":{_text(record.sni_check)}'
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
        f',"dialled":{"null" if draft.dialled is None else _text(str(Endpoint(*draft.dialled)))}'
        f',"server_name":{_text(draft.server_name)}'
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


# --- NGINX --------------------------------------------------------------------------------------------------------

_NGINX_STATUS = {
    "client_gone": 200,
    "hello_timeout": 200,
    "head_timeout": 200,  # who says nothing at all to an auto listener
    "hello_too_large": 400,
    "malformed_proxy_header": 400,
    "rule_denied": 403,
    "address_denied": 403,
    "loop_detected": 403,
    "sni_mismatch": 403,
    "ech_denied": 403,
    "announcer_denied": 403,
    "connect_refused": 502,
    "connect_failed": 502,
    "connect_timeout": 502,
    "upstream_protocol_error": 502,
    "tunnel_limit": 503,
    "draining": 503,
}
"""Of a session that did not come about, by outcome. All others are 500: to NGINX, a hello without a name it can read is a
name that does not resolve."""


def nginx_line(record: ConnectionRecord, hello_counted: bool = True) -> str:
    """The `log_stream` line. Hot: once per connection.

    hello_counted  the ClientHello is among the bytes received, as in NGINX from 1.25.5 on
    """
    status = 200 if record.opened else _NGINX_STATUS.get(record.outcome, 500)
    received = record.bytes_up if hello_counted else max(0, record.bytes_up - record.preread_bytes)
    client, name = record.client, record.server_name or ""
    if not (client.isascii() and client.isprintable() and name.isascii() and name.isprintable()):
        client, name = _field(client), _field(name)
    return (
        f"{client} [{_local_time(int(record.ended_at_unix_s))}] TCP [{name[:MAX_TEXT]}]{status}"
        f" {record.reply_bytes + record.bytes_down} {received} {record.duration_s:.3f}"
    )


@lru_cache(8)
def _local_time(unix_second: int) -> str:
    """`08/Sep/2020:05:32:32 +0000`, in the time zone of the process."""
    return time.strftime("%d/%b/%Y:%H:%M:%S %z", time.localtime(unix_second))


# --- the table ----------------------------------------------------------------------------------------------------

FORMATS: Mapping[str, Format] = {
    "squid": Format(squid_line, None),
    "squid-5": Format(partial(squid_line, failed="NONE_NONE"), None),
    "json": Format(json_line, json_open_line),
    "nginx-stream": Format(nginx_line, None),
    "nginx-stream-1.22": Format(partial(nginx_line, hello_counted=False), None),
}
"""By the word in the configuration."""
