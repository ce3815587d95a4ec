"""JSON: one object per line, stable keys, units in their names.

`"event":"open"` is a tunnel that opens, `close` a connection that has ended, `request` a plain request that has. The later
ones have all keys of those before.
"""

from __future__ import annotations

from functools import lru_cache
from json.encoder import encode_basestring_ascii
from typing import TYPE_CHECKING

from egressproxy.model import Endpoint
from egressproxy.telemetry.formats.text import MAX_TEXT, iso_time

if TYPE_CHECKING:
    from egressproxy.model import ConnectionRecord
    from egressproxy.telemetry.record import RecordDraft


def json_line(record: ConnectionRecord) -> str:
    """One JSON object. Hot: once per connection or request, so the object is written by hand.

    Keys end in their unit. `target` is the text that came where it was not one host and one port, else null. A path is
    without its query, which may hold a secret.
    """
    target, exchange = record.target, record.exchange
    if target is None:
        place = f'"host":null,"port":null,"target":{text(record.target_text)}'
    else:
        place = f'"host":{text(target.host)},"port":{target.port},"target":null'
    if exchange is None:
        event, about_request = "close", ""
    else:
        event = "request"
        about_request = (
            f',"request":{exchange.request},"path":{text(exchange.path.partition("?")[0])}'
            f',"authority":{text(exchange.authority)},"user_agent":{text(exchange.user_agent)}'
            f',"request_id":{text(exchange.request_id)},"forwarded_for":{text(exchange.forwarded_for)}'
            f',"upstream_status":{"null" if exchange.upstream_status is None else exchange.upstream_status}'
            f',"content_type":{text(exchange.content_type)},"response_ms":{_ms(exchange.response_s)}'
            f',"reused":{_flag(exchange.reused)},"attempts":{exchange.attempts},"tls":{text(exchange.tls)}'
            f',"upgraded":{_flag(exchange.upgraded)},"complete":{_flag(exchange.complete)}'
        )
    return without_delete(
        f'{{"event":"{event}","time":"{iso_time(record.ended_at_unix_s)}"'
        f',"connection":{record.number},{_entrance(record.listener, record.protocol)}'
        f',"client":{text(record.client)},"client_port":{record.client_port}'
        f',"method":{text(record.method)},{place},"http_version":{text(record.http_version)}'
        f',"user":{text(record.user)},{_decision(record.rule, record.reason, record.reported)}'
        f',"service":{text(record.service)},"parent":{text(record.parent)}'
        f',"dialled":{"null" if record.dialled is None else text(str(Endpoint(*record.dialled)))}'
        f',"server_name":{text(record.server_name)},"sni_check":{text(record.sni_check)}'
        f',"status":{"null" if record.status is None else record.status}'
        f',"outcome":{text(record.outcome)},"detail":{text(record.detail)}'
        f',"upstream":{"null" if record.upstream is None else text(str(record.upstream))}'
        f',"connected":{_flag(record.connected)},"opened":{_flag(record.opened)}'
        f',"reply_bytes":{record.reply_bytes},"bytes_up":{record.bytes_up},"bytes_down":{record.bytes_down}'
        f',"closed_by":{text(record.closed_by)},"duration_ms":{_ms(record.duration_s)}'
        f',"head_ms":{_ms(record.head_s)},"resolve_ms":{_ms(record.resolve_s)},"connect_ms":{_ms(record.connect_s)}'
        f"{about_request}}}"
    )


def json_open_line(draft: RecordDraft, unix_time_s: float) -> str:
    """One JSON object, `"event":"open"`, with what is known when a tunnel opens; the keys are those of the closing line."""
    intent, verdict = draft.intent, draft.verdict
    if intent is None:
        place = f'"method":{text(draft.method)},"host":null,"port":null,"target":{text(draft.target_text)}'
    else:
        host, port, _ = intent.target
        place = f'"method":{text(intent.method)},"host":{text(host)},"port":{port},"target":null'
    decision = (
        _decision(None, None, False) if verdict is None else _decision(verdict.rule, verdict.reason, verdict.reported)
    )
    return without_delete(
        f'{{"event":"open","time":"{iso_time(unix_time_s)}"'
        f',"connection":{draft.number},{_entrance(draft.listener, draft.protocol)}'
        f',"client":{text(draft.client)},"client_port":{draft.client_port}'
        f',{place},"http_version":{text(draft.http_version)},"user":{text(draft.user)},{decision}'
        f',"service":{text(draft.service)},"parent":{text(draft.parent)}'
        f',"dialled":{"null" if draft.dialled is None else text(str(Endpoint(*draft.dialled)))}'
        f',"server_name":{text(draft.server_name)}'
        f',"upstream":{"null" if draft.upstream is None else text(str(draft.upstream))}}}'
    )


# Cached: these come from the configuration, a few distinct ones for all connections.


@lru_cache(64)
def _entrance(listener: str, protocol: str) -> str:
    return f'"listener":{text(listener)},"protocol":{text(protocol)}'


@lru_cache(1024)
def _decision(rule: str | None, reason: str | None, reported: bool) -> str:
    return f'"rule":{text(rule)},"reason":{text(reason)},"reported":{_flag(reported)}'


def text(value: str | None) -> str:
    """A JSON string in ASCII, so that no reader meets U+2028, a lone surrogate or a C1 control; or null."""
    if value is None:
        return "null"
    return encode_basestring_ascii(value if len(value) <= MAX_TEXT else value[:MAX_TEXT])


def without_delete(line: str) -> str:
    """`line` with U+007F escaped, the one control character that JSON (RFC 8259 section 7) lets stand in a string."""
    return line.replace("\x7f", "\\u007f") if "\x7f" in line else line


def _flag(value: bool) -> str:
    return "true" if value else "false"


def _ms(seconds: float | None) -> str:
    return "null" if seconds is None else f"{seconds * 1000.0:.3f}"
