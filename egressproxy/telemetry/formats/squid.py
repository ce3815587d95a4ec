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

Templates are made of the fields of the native line, so that there is one opinion of each, and of a few more that records have.
A double quote is %22 in them, within double quotes and outside, so that nobody who is asked for or asks can open or close some:
Squid has it so in header fields alone. Nothing stands behind a backslash. A path alone is without its query as well.
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, NamedTuple

from egressproxy.config.templates import SQUID_TIMES, squid_template
from egressproxy.errors import AddressDenied, EchDenied, LoopDetected, RuleDenied, TlsRequired, UpstreamTimeout
from egressproxy.telemetry.formats.text import MAX_TEXT, field, loose, tight
from egressproxy.telemetry.record import ANSWERED
from egressproxy.wire.replies import CONTENT_TYPE

if TYPE_CHECKING:
    from collections.abc import Callable

    from egressproxy.config.templates import Code
    from egressproxy.model import ConnectionRecord, Exchange

    Value = Callable[[ConnectionRecord, "_Native"], str]

_BLANKS = 8  # behind the elapsed time
_HTTP_PORT = 80
_DIRECT, _PARENT = "HIER_DIRECT", "FIRSTUP_PARENT"
"""Whom it went to: the origin, or the first parent that takes it (https://wiki.squid-cache.org/Features/LogFormat)."""
_DENIED = frozenset(each.slug for each in (RuleDenied, AddressDenied, LoopDetected, TlsRequired, EchDenied))
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
    contacted = _DIRECT if record.parent is None else _PARENT
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
            f" {record.user or '-'} {contacted}/{upstream.address} {exchange.content_type or '-'}"
        )
    elif record.opened:
        line = (
            f" {record.client} TCP_TUNNEL/{record.status or '000'} {record.reply_bytes + record.bytes_down} {record.method}"
            f" {host}:{port} {record.user or '-'} {contacted}/{upstream.address} -"
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
    contacted = _DIRECT if record.parent is None else _PARENT
    hierarchy = f"{contacted}/{field(record.upstream.address)}" if record.upstream is not None else "HIER_NONE/-"
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
    """Of what the client got: the upstream's response, or a page of our own; an answer of our own has none."""
    if record.status is None or record.status == exchange.upstream_status or record.outcome == ANSWERED:
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


# --- templates ----------------------------------------------------------------------------------------------------


class _Native(NamedTuple):
    """The fields of the native line."""

    time: str
    elapsed: str
    client: str
    code: str
    size: str
    method: str
    url: str
    user: str
    peer: str
    media_type: str


def squid_form(template: str, failed: str = "TCP_TUNNEL") -> Callable[[ConnectionRecord], str]:
    """Compile a template. What it returns is hot: once per connection or request.

    failed  as in `squid_line`

    Raises ValueError, see `config.templates`.
    """
    parts = [_constant(part) if isinstance(part, str) else _compiled(part) for part in squid_template(template)]

    def line(record: ConnectionRecord) -> str:
        native = _Native(*squid_line(record, failed).replace('"', "%22").split())
        return "".join([part(record, native) for part in parts])

    return line


def _constant(text: str) -> Value:
    return lambda _record, _native: text


def _compiled(code: Code) -> Value:
    value = _value(code)
    if not code.width and not code.limit:
        return value
    fill = "0" if code.zeros and not code.left else " "
    width, limit, adjust = code.width, code.limit or None, str.ljust if code.left else str.rjust
    return lambda record, native: adjust(value(record, native)[:limit], width, fill)


def _value(code: Code) -> Value:
    name = code.name
    if name in SQUID_TIMES:
        form = code.argument or ("%d/%b/%Y:%H:%M:%S %z" if name == "tl" else "%d/%b/%Y:%H:%M:%S")
        zone = time.localtime if name == "tl" else time.gmtime
        return lambda record, _native: _time(form, record.ended_at_unix_s, zone)
    if name in (">h", "<h", "ssl::>sni"):
        escape = loose if code.quoted else tight
        told = _told(code)
        return lambda record, _native: escape(told(record))
    return _VALUES[name]


def _told(code: Code) -> Callable[[ConnectionRecord], str | None]:
    """What others have written, unescaped. Of several lines of one header field, all, as Squid has them."""
    key = code.argument
    if code.name == "<h":
        return lambda record: None if record.kept is None else ", ".join(record.kept.response.get(key, ()))
    if (key or code.name) in _TOLD:
        return _TOLD[key or code.name]
    return lambda record: None if record.kept is None else ", ".join(record.kept.request.get(key, ()))


def _time(form: str, unix_time_s: float, zone: Callable[[float], time.struct_time]) -> str:
    milliseconds = round(unix_time_s * 1000.0)
    second = milliseconds // 1000
    return time.strftime(form.replace("%s", str(second)), zone(second))


def _of_exchange(name: str) -> Callable[[ConnectionRecord], str | None]:
    return lambda record: None if record.exchange is None else getattr(record.exchange, name)


_TOLD: dict[str, Callable[[ConnectionRecord], str | None]] = {
    "host": _of_exchange("authority"),
    "user-agent": _of_exchange("user_agent"),
    "ssl::>sni": lambda record: record.server_name,
}
"""What is known in any case of it, by header field or code."""


def _upstream_status(record: ConnectionRecord, _native: _Native) -> str:
    exchange = record.exchange
    return "-" if exchange is None or exchange.upstream_status is None else str(exchange.upstream_status)


def _part(place: tuple[str, int] | None, part: int) -> str:
    return "-" if place is None else field(str(place[part]))


def _path_of(_record: ConnectionRecord, native: _Native) -> str:
    scheme, mark, rest = native.url.partition("://")
    if not mark:
        return "-" if scheme[:1] != "/" else scheme
    return f"/{rest.partition('/')[2]}"


_VALUES: dict[str, Value] = {
    "ts": lambda _record, native: native.time.partition(".")[0],
    "tu": lambda _record, native: native.time.partition(".")[2].lstrip("0") or "0",
    "tr": lambda _record, native: native.elapsed,
    "dt": lambda record, _native: "-" if record.resolve_s is None else str(int(record.resolve_s * 1000.0)),
    ">a": lambda _record, native: native.client,
    ">p": lambda record, _native: str(record.client_port),
    ">la": lambda record, _native: _part(record.dialled or record.local, 0),
    ">lp": lambda record, _native: _part(record.dialled or record.local, 1),
    "<a": lambda _record, native: native.peer.partition("/")[2],
    "<A": lambda record, _native: (
        "-" if record.upstream is None or record.target is None else field(record.target.host)
    ),
    "<p": lambda record, _native: _part(record.upstream, 1),
    "<la": lambda record, _native: _part(record.upstream_local, 0),
    "<lp": lambda record, _native: _part(record.upstream_local, 1),
    "un": lambda _record, native: native.user,
    "ul": lambda _record, native: native.user,
    "ui": lambda _record, _native: "-",  # nobody is asked by RFC 1413
    "Ss": lambda _record, native: native.code.partition("/")[0],
    ">Hs": lambda _record, native: str(int(native.code.partition("/")[2])),
    "<Hs": _upstream_status,
    "Sh": lambda _record, native: native.peer.partition("/")[0],
    "<st": lambda _record, native: native.size,
    "<bs": lambda record, native: (
        "-" if record.opened or _upstream_status(record, native) == "-" else str(record.bytes_down)
    ),
    "mt": lambda _record, native: native.media_type,
    "rm": lambda _record, native: native.method,
    "ru": lambda _record, native: native.url,
    "rp": _path_of,
    "rv": lambda record, _native: field(record.http_version),
    ">rs": lambda _record, native: "http" if native.url.startswith("http://") else "-",
    ">rd": lambda record, _native: "-" if record.target is None else field(record.target.host),
    ">rP": lambda record, _native: "-" if record.target is None else str(record.target.port),
}
_VALUES |= {f">{name}": _VALUES[name] for name in ("rm", "ru", "rp", "rv")}  # nothing is rewritten
