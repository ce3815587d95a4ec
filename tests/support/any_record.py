"""Any record that there could be, and many that there could not."""

from hypothesis import strategies as st

from egressproxy.model import AskedFields, ConnectionRecord, Endpoint, Exchange, Target
from egressproxy.telemetry.formats.text import MAX_TEXT
from egressproxy.wire.kept_fields import KeptFields

texts = st.text(
    st.one_of(st.characters(), st.sampled_from('\n\r\t\x00\x1b\x7f\x85\u2028\ud800\udcff"\\ %?')), max_size=MAX_TEXT + 9
)
maybe_text = st.none() | texts
seconds = st.none() | st.floats(0, 1e6)
counts = st.integers(0, 2**63)
hosts = st.from_regex(r"[a-z0-9_.:-]{1,40}", fullmatch=True)

places = st.none() | st.tuples(hosts, st.integers(0, 65535))

exchanges = st.builds(
    Exchange,
    request=st.integers(1, 9),
    path=texts,
    authority=texts,
    user_agent=maybe_text,
    request_id=maybe_text,
    forwarded_for=maybe_text,
    upstream_status=st.none() | st.integers(100, 599),
    content_type=maybe_text,
    response_s=seconds,
    reused=st.booleans(),
    attempts=st.integers(0, 9),
    tls=maybe_text,
    upgraded=st.booleans(),
    complete=st.booleans(),
    route=maybe_text,
)


@st.composite
def _kept(draw: st.DrawFn) -> KeptFields:
    """What the bytes of any two heads come to."""
    lines = st.lists(
        st.sampled_from([b"X-Team", b"Server"]).flatmap(
            lambda name: st.binary(max_size=MAX_TEXT + 9).map(
                lambda value: name + b":" + value.replace(b"\r\n", b"") + b"\r\n"
            )
        ),
        max_size=4,
    ).map(b"".join)
    kept = KeptFields(AskedFields(frozenset({"x-team"}), frozenset({"server", "x-team"})), draw(lines))
    kept.take_response(draw(lines))
    return kept


records = st.builds(
    ConnectionRecord,
    number=counts,
    listener=texts,
    protocol=texts | st.sampled_from(["http", "sni", "auto"]),
    client=texts,
    client_port=st.integers(0, 65535),
    ended_at_unix_s=st.floats(0, 4e9),
    duration_s=st.floats(0, 1e6),
    tunnel_s=seconds,
    method=maybe_text,
    target=st.none() | st.builds(Target, hosts, st.integers(1, 65535), st.booleans()),
    target_text=maybe_text,
    http_version=maybe_text,
    user=maybe_text,
    rule=maybe_text,
    reason=maybe_text,
    reported=st.booleans(),
    status=st.none() | st.integers(100, 599),
    outcome=texts
    | st.sampled_from(["closed", "answered", "rule_denied", "malformed_request", "head_too_large", "tls_failed"]),
    detail=maybe_text,
    upstream=st.none() | st.builds(Endpoint, hosts, st.integers(1, 65535)),
    connected=st.booleans(),
    opened=st.booleans(),
    reply_bytes=counts,
    bytes_up=counts,
    bytes_down=counts,
    closed_by=texts,
    head_s=seconds,
    resolve_s=seconds,
    connect_s=seconds,
    server_name=maybe_text,
    sni_check=maybe_text,
    preread_bytes=counts,
    dialled=places,
    exchange=st.none() | exchanges,
    local=places,
    upstream_local=places,
    reply_body_bytes=counts,
    service=maybe_text,
    service_port=st.none() | st.integers(1, 65535),
    kept=st.none() | _kept(),
)
