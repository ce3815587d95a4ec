"""Squid's native format, `%ts.%03tu %6tr %>a %Ss/%03>Hs %<st %rm %ru %[un %Sh/%<a %mt`.

The codes were compared with what Squid 5.7 writes for the same requests. Kept on purpose:

- a request that could not be read has `-` for a method (`NONE` up to Squid 4);
- an error page after a CONNECT was accepted is not counted in the size, one that answers a plain request is;
- the query of a URL ends at its question mark, and port 80 is not written;
- a plain request that was allowed is TCP_MISS whatever came of it, `_ABORTED` only where the client left first; an upstream
  that ends too early is no reason;
- a request that became a tunnel (101) is TCP_TUNNEL, and the head of the 101 is not counted.

Two things are not as Squid has them. The status is always the one that was sent: Squid 5 says 500 of a CONNECT to a name that
does not resolve, and answers a plain request for it with 502. And a body in chunks counts without what frames it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from egressproxy.errors import AddressDenied, EchDenied, LoopDetected, RuleDenied, UpstreamTimeout
from egressproxy.telemetry.formats.text import MAX_TEXT, field
from egressproxy.telemetry.record import ANSWERED
from egressproxy.wire.replies import CONTENT_TYPE

if TYPE_CHECKING:
    from egressproxy.model import ConnectionRecord, Exchange

_BLANKS = 8  # behind the elapsed time
_HTTP_PORT = 80
_DENIED = frozenset({RuleDenied.slug, AddressDenied.slug, LoopDetected.slug, EchDenied.slug})
_TOO_LARGE = frozenset({"head_too_large", "target_too_long"})


def squid_line(record: ConnectionRecord, failed: str = "TCP_TUNNEL") -> str:
    """The line of Squid's native log. Hot: once per connection or request.

    failed  code for a tunnel that was allowed and did not come about: `NONE_NONE` up to Squid 5, `TCP_TUNNEL` since
    """
    target, upstream = record.target, record.upstream
    if target is None or upstream is None:
        return _careful(record, failed)
    host, port, _ = target
    if ":" in host:
        host = f"[{host}]"
    exchange = record.exchange
    if exchange is not None:
        path = exchange.path
        if record.outcome != ANSWERED or path == "*" or len(path) > MAX_TEXT:
            return _careful(record, failed)
        if "?" in path:
            path = path[: path.index("?") + 1]
        line = (
            f" {record.client} TCP_MISS/{record.status or '000'} {record.reply_bytes + record.bytes_down} {record.method}"
            f" http://{host if port == _HTTP_PORT else f'{host}:{port}'}{path}"
            f" {record.user or '-'} HIER_DIRECT/{upstream.address} {exchange.content_type or '-'}"
        )
    elif record.opened:
        line = (
            f" {record.client} TCP_TUNNEL/{record.status or '000'} {record.reply_bytes + record.bytes_down} {record.method}"
            f" {host}:{port} {record.user or '-'} HIER_DIRECT/{upstream.address} -"
        )
    else:
        return _careful(record, failed)
    if line.isascii() and line.isprintable() and line.count(" ") == _BLANKS and "  " not in line:
        elapsed = str(int((record.tunnel_s or 0.0) * 1000.0)).rjust(6)  # half the cost of `:6d`
        return f"{record.ended_at_unix_s:.3f} {elapsed}{line}"
    return _careful(record, failed)


def _careful(record: ConnectionRecord, failed: str) -> str:
    """`squid_line` for all that went another way, every field escaped."""
    exchange = record.exchange
    size = record.reply_bytes
    error_page = CONTENT_TYPE if record.protocol != "sni" else "-"  # there it is an alert
    media_type = error_page if size else "-"
    hierarchy = f"HIER_DIRECT/{field(record.upstream.address)}" if record.upstream is not None else "HIER_NONE/-"
    if record.opened:
        code = "TCP_TUNNEL"
        size = record.bytes_down if exchange is not None else size + record.bytes_down
        media_type = "-"
    elif record.outcome in _DENIED:
        code = "TCP_DENIED" if size else "TCP_DENIED_ABORTED"
        hierarchy = "HIER_NONE/-"
        media_type = "-" if _is_bare(record) else error_page
    elif record.rule is None:
        code = "NONE_NONE"
    elif exchange is None:
        code = failed
        size = 0
        media_type = "-"
    else:
        code = "TCP_MISS_ABORTED" if record.closed_by == "client" or record.status is None else "TCP_MISS"
        size += record.bytes_down
        media_type = field(_media_type(record, exchange))
    elapsed_ms = int((record.tunnel_s or 0.0) * 1000.0)
    return (
        f"{record.ended_at_unix_s:.3f} {elapsed_ms:6d} {field(record.client)} {code}/{record.status or 0:03d} {size}"
        f" {field(record.method)} {_url(record)} {field(record.user)} {hierarchy} {media_type}"
    )


def _is_bare(record: ConnectionRecord) -> bool:
    """A refusal without a page: 502 from an `http` listener, as a gateway says that it knows nothing of the host."""
    return record.status == 502 and record.outcome == RuleDenied.slug


def _media_type(record: ConnectionRecord, exchange: Exchange) -> str | None:
    """Of what the client got: the upstream's response, or a page of our own."""
    if record.status is None or record.status == exchange.upstream_status:
        return exchange.content_type
    return "text/plain" if record.outcome == UpstreamTimeout.slug else CONTENT_TYPE


def _url(record: ConnectionRecord) -> str:
    target, text = record.target, record.target_text
    if target is not None:
        if record.method is None or record.method == "CONNECT":
            return field(str(target))
        host = f"[{target.host}]" if ":" in target.host else target.host
        place = host if target.port == _HTTP_PORT else f"{host}:{target.port}"
        return f"http://{field(place)}{field(_path(record.exchange, text))}"
    if record.outcome in _TOO_LARGE:
        return "error:request-too-large"
    if text:
        path, mark, _ = text.partition("?")
        return field(path + mark)
    if record.status == 400:
        return "error:invalid-request"
    return "error:transaction-end-before-headers"


_AUTHORITY = re.compile(r"[A-Za-z]+://[^/?]*")


def _path(exchange: Exchange | None, target_text: str | None) -> str:
    """With the query cut behind its question mark. `*`, the server itself, is `/`, as a whole URL without a path is."""
    path = exchange.path if exchange is not None else _AUTHORITY.sub("", target_text or "", count=1)
    path, mark, _ = path.partition("?")
    return (path if path[:1] == "/" else "/") + mark
