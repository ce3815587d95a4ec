"""NGINX's `log_stream` of an SNI proxy: two strings that touch between name and status.

`$remote_addr [$time_local] $protocol [$ssl_preread_server_name]` and
`$status $bytes_sent $bytes_received $session_time`

And templates in the variables of its stream module. What there is not is a dash then, as in NGINX: a name that was not looked
for is one, a ClientHello without a name has an empty one.
"""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING

from egressproxy.config.templates import nginx_template
from egressproxy.telemetry.formats.text import MAX_TEXT, field, local_time, loose

if TYPE_CHECKING:
    from collections.abc import Callable

    from egressproxy.config.templates import Operator
    from egressproxy.model import ConnectionRecord

    Value = Callable[[ConnectionRecord], str]

_STATUS = {
    "answered": 200,  # by the proxy itself
    "client_gone": 200,
    "hello_timeout": 200,
    "head_timeout": 200,  # who says nothing at all to an auto listener
    "hello_too_large": 400,
    "malformed_proxy_header": 400,
    "rule_denied": 403,
    "no_route": 403,
    "host_unknown": 403,
    "address_denied": 403,
    "loop_detected": 403,
    "tls_required": 403,
    "sni_mismatch": 403,
    "ech_denied": 403,
    "announcer_denied": 403,
    "connect_refused": 502,
    "connect_failed": 502,
    "connect_timeout": 502,
    "no_endpoint": 502,
    "parent_refused": 502,
    "tls_failed": 502,
    "tls_certificate_expired": 502,
    "tls_wrong_host": 502,
    "tls_unknown_ca": 502,
    "tls_client_certificate_required": 502,
    "tls_version": 502,
    "tls_timeout": 502,
    "upstream_protocol_error": 502,
    "upstream_closed": 502,
    "upstream_timeout": 502,
    "upstream_idle_timeout": 502,
    "tunnel_limit": 503,
    "draining": 503,
}
"""Of a session that did not come about, by outcome. All others are 500: to NGINX, a hello without a name it can read is a
name that does not resolve. What only plain HTTP knows is here as well, for `auto` listeners; NGINX has no such sessions, and
calls what its own side of an upstream fails at 502."""


def nginx_line(record: ConnectionRecord, hello_counted: bool = True) -> str:
    """The `log_stream` line. Hot: once per connection.

    hello_counted  the ClientHello is among the bytes received, as in NGINX from 1.25.5 on
    """
    status = _status(record)
    received = _received(record, hello_counted)
    client, name = record.client, _name(record)
    if not (client.isascii() and client.isprintable() and name.isascii() and name.isprintable()):
        client, name = field(client), field(name)
    return (
        f"{client} [{local_time(int(record.ended_at_unix_s))}] TCP [{name[:MAX_TEXT]}]{status}"
        f" {record.reply_bytes + record.bytes_down} {received} {record.duration_s:.3f}"
    )


def _status(record: ConnectionRecord) -> int:
    exchange = record.exchange
    if record.opened:
        return 200
    if exchange is not None and exchange.upstream_status is not None and record.status == exchange.upstream_status:
        return 200  # a session with an upstream, whatever was said in it
    return _STATUS.get(record.outcome, 500)


def _name(record: ConnectionRecord) -> str:
    """What the client asked for; a dash where no ClientHello was read."""
    return "-" if record.server_name is None else record.server_name


def _received(record: ConnectionRecord, hello_counted: bool) -> int:
    return record.bytes_up if hello_counted else max(0, record.bytes_up - record.preread_bytes)


# --- templates ----------------------------------------------------------------------------------------------------


def nginx_form(template: str, hello_counted: bool = True) -> Callable[[ConnectionRecord], str]:
    """Compile a template. What it returns is hot: once per connection. Raises ValueError, see `config.templates`."""
    parts = [
        _constant(part) if isinstance(part, str) else _value(part, hello_counted) for part in nginx_template(template)
    ]
    return lambda record: "".join([part(record) for part in parts])


def _constant(text: str) -> Value:
    return lambda _record: text


def _value(operator: Operator, hello_counted: bool) -> Value:
    name = operator.name
    if name == "hostname":
        return _constant(field(socket.gethostname()))
    if name == "bytes_received":
        return lambda record: str(_received(record, hello_counted))
    if name == "ssl_preread_server_name":
        escape = loose if operator.quoted else field
        return lambda record: escape(name) if (name := _name(record)) else ""
    return _VALUES[name]


def _server(record: ConnectionRecord, part: int) -> str:
    local = record.dialled or record.local
    return "-" if local is None else field(str(local[part]))


def _of_upstream(record: ConnectionRecord, count: int) -> str:
    """Bytes from or to the upstream: none of one that was tried and not reached."""
    if record.connected:
        return str(count)
    return "-" if record.upstream is None else "0"


_VALUES: dict[str, Value] = {
    "bytes_sent": lambda record: str(record.reply_bytes + record.bytes_down),
    "connection": lambda record: str(record.number),
    "msec": lambda record: f"{record.ended_at_unix_s:.3f}",
    "protocol": lambda _record: "TCP",
    "remote_addr": lambda record: field(record.client),
    "remote_port": lambda record: str(record.client_port),
    "server_addr": lambda record: _server(record, 0),
    "server_port": lambda record: _server(record, 1),
    "session_time": lambda record: f"{record.duration_s:.3f}",
    "status": lambda record: str(_status(record)),
    "time_iso8601": lambda record: _iso8601(int(record.ended_at_unix_s)),
    "time_local": lambda record: local_time(int(record.ended_at_unix_s)),
    "upstream_addr": lambda record: "-" if record.upstream is None else field(str(record.upstream)),
    "upstream_bytes_received": lambda record: _of_upstream(record, record.bytes_down),
    "upstream_bytes_sent": lambda record: _of_upstream(record, record.bytes_up),
    "upstream_connect_time": lambda record: "-" if record.connect_s is None else f"{record.connect_s:.3f}",
}


def _iso8601(unix_second: int) -> str:
    """`2020-09-08T05:32:32+00:00`, in the time zone of the process."""
    text = time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(unix_second))
    return f"{text[:-2]}:{text[-2:]}"
