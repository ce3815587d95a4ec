"""NGINX's `log_stream` of an SNI proxy: two strings that touch between name and status.

`$remote_addr [$time_local] $protocol [$ssl_preread_server_name]` and
`$status $bytes_sent $bytes_received $session_time`
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from egressproxy.telemetry.formats.text import MAX_TEXT, field, local_time

if TYPE_CHECKING:
    from egressproxy.model import ConnectionRecord

_STATUS = {
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
    "no_endpoint": 502,
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
    exchange = record.exchange
    if record.opened:
        status = 200
    elif exchange is not None and exchange.upstream_status is not None and record.status == exchange.upstream_status:
        status = 200  # a session with an upstream, whatever was said in it
    else:
        status = _STATUS.get(record.outcome, 500)
    received = record.bytes_up if hello_counted else max(0, record.bytes_up - record.preread_bytes)
    client, name = record.client, record.server_name or ""
    if not (client.isascii() and client.isprintable() and name.isascii() and name.isprintable()):
        client, name = field(client), field(name)
    return (
        f"{client} [{local_time(int(record.ended_at_unix_s))}] TCP [{name[:MAX_TEXT]}]{status}"
        f" {record.reply_bytes + record.bytes_down} {received} {record.duration_s:.3f}"
    )
