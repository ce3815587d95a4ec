"""Connections that have ended, for tests of what is told about them."""

from egressproxy.model import AskedFields, ConnectionRecord, Endpoint, Exchange, Target
from egressproxy.wire.kept_fields import KeptFields

ENDED_AT = 1544160065.248

TUNNEL = ConnectionRecord(
    number=7,
    listener="http-proxy:3128",
    protocol="http-proxy",
    client="172.30.109.89",
    client_port=51234,
    ended_at_unix_s=ENDED_AT,
    duration_s=0.2295,
    tunnel_s=0.2285,
    method="CONNECT",
    target=Target("en.wikipedia.org", 443, False),
    target_text="en.wikipedia.org:443",
    http_version="1.1",
    user=None,
    rule="wiki",
    reason="allowed by rule wiki",
    reported=False,
    status=200,
    outcome="closed",
    detail=None,
    upstream=Endpoint("91.198.174.192", 443),
    connected=True,
    opened=True,
    reply_bytes=39,
    bytes_up=702,
    bytes_down=87594,
    closed_by="client",
    head_s=0.001,
    resolve_s=0.002,
    connect_s=0.0123,
)

NO_TUNNEL = TUNNEL._replace(
    opened=False,
    connected=False,
    upstream=None,
    bytes_up=0,
    bytes_down=0,
    closed_by="proxy",
    connect_s=None,
)

KEPT = KeptFields(
    AskedFields(frozenset({"x-team", "x-two", "x-url"}), frozenset({"content-type", "server", "x-team"})),
    b'X-Team: Bl ue "\r\nX-Two: 1\r\nX-Two: 2\r\nX-Url: /a?b\r\n',
)
"""What a client has sent in the fields of a template, and an upstream."""
KEPT.take_response(b"Content-Type: text/html; charset=utf-8\r\nServer: a\xe9/1 (b)\r\n")

DENIED = NO_TUNNEL._replace(
    status=403,
    outcome="rule_denied",
    rule="rest",
    reason="refused by rule rest",
    detail="refused by rule rest: en.wikipedia.org:443",
    reply_bytes=310,
    tunnel_s=0.0004,
    resolve_s=None,
)

NOT_FOUND = NO_TUNNEL._replace(
    status=503, outcome="name_not_found", detail="en.wikipedia.org: no such name", reply_bytes=300, resolve_s=None
)

REFUSED = NO_TUNNEL._replace(
    status=503,
    outcome="connect_refused",
    detail="91.198.174.192:443 refused",
    reply_bytes=300,
    upstream=Endpoint("91.198.174.192", 443),
)

UNREAD = NO_TUNNEL._replace(
    method=None,
    target=None,
    target_text=None,
    http_version=None,
    rule=None,
    reason=None,
    tunnel_s=None,
    head_s=None,
    resolve_s=None,
)

GARBAGE = UNREAD._replace(status=400, outcome="malformed_request", detail="not HTTP", reply_bytes=250)

LEFT = UNREAD._replace(
    status=None, outcome="client_gone", detail="the client left after 0 bytes", reply_bytes=0, closed_by="client"
)

SNI_TUNNEL = TUNNEL._replace(
    listener="sni:8443",
    protocol="sni",
    target_text="en.Wikipedia.org",
    http_version=None,
    reply_bytes=0,
    server_name="en.Wikipedia.org",
    preread_bytes=517,
)

SNI_DENIED = DENIED._replace(
    listener="sni:8443",
    protocol="sni",
    target_text="en.Wikipedia.org",
    http_version=None,
    reply_bytes=7,
    server_name="en.Wikipedia.org",
    preread_bytes=517,
)

NO_SNI = UNREAD._replace(
    listener="sni:8443",
    protocol="sni",
    method="CONNECT",
    target_text="",
    status=400,
    outcome="no_sni",
    detail="the ClientHello names no server",
    reply_bytes=7,
    server_name="",
    preread_bytes=400,
)

MISMATCH = TUNNEL._replace(
    outcome="sni_mismatch",
    detail="granted for en.wikipedia.org:443 by wiki, the ClientHello inside asks for evil.example",
    reply_bytes=46,
    bytes_up=0,
    bytes_down=0,
    closed_by="proxy",
    server_name="evil.example",
    sni_check="mismatch",
)

EXCHANGE = Exchange(
    request=1,
    path="/politics?token=secret",
    authority="edition.cnn.com",
    user_agent="curl/7.64.0",
    request_id="2151bde2-4382-4e2f-b088-e464943c2a9b",
    forwarded_for="10.80.3.231",
    upstream_status=200,
    content_type="text/html",
    response_s=0.0902,
    attempts=1,
    complete=True,
)

ANSWERED = TUNNEL._replace(
    method="GET",
    target=Target("edition.cnn.com", 80, False),
    target_text="http://edition.cnn.com/politics?token=secret",
    outcome="answered",
    opened=False,
    upstream=Endpoint("151.101.1.67", 80),
    reply_bytes=218,
    bytes_up=0,
    bytes_down=148528,
    closed_by="proxy",
    exchange=EXCHANGE,
)
"""A plain request that was answered."""

ANSWERED_HERE = ANSWERED._replace(
    method="OPTIONS",
    upstream=None,
    connected=False,
    reply_bytes=117,
    bytes_down=0,
    exchange=EXCHANGE._replace(upstream_status=None, content_type=None, response_s=None, attempts=0),
)
"""A plain request that the proxy itself answered, as the last to be asked."""

UNANSWERED = EXCHANGE._replace(upstream_status=None, content_type=None, response_s=None, complete=False)

NO_ANSWER = ANSWERED._replace(
    status=502,
    outcome="upstream_closed",
    detail="151.101.1.67:80: closed after 0 bytes of a response head",
    reply_bytes=3335,
    bytes_down=0,
    exchange=UNANSWERED,
)

REQUEST_DENIED = ANSWERED._replace(
    status=403,
    outcome="rule_denied",
    rule="rest",
    reason="refused by rule rest",
    detail="refused by rule rest: edition.cnn.com:80",
    upstream=None,
    connected=False,
    reply_bytes=3406,
    bytes_down=0,
    tunnel_s=0.0004,
    resolve_s=None,
    connect_s=None,
    exchange=UNANSWERED._replace(attempts=0, request_id=None, forwarded_for=None),
)
