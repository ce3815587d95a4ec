"""Envoy's text format and its JSON, with the fields of each era of Istio, and templates in Envoy's command operators.

**Requests and relays.** Of a request (CONNECT included, which is one to Envoy as well) method, path, status and bytes of the
bodies are written. Of a connection that is relayed as it is (`sni`) there is no request to be seen: three dashes, status 0, and
all bytes.

**What Envoy does not do.** It writes what clients send as it comes. Here a character that is not printable ASCII, and a double
quote, is written as %XX, and so is a blank wherever it would be read as the end of a field; no field is longer than
`text.MAX_TEXT`. The query of a path is written, as Envoy does it: `%REQ_WITHOUT_QUERY(:PATH)%` is without.

**Header fields** are the client's own, and the upstream's: of a response that the proxy itself makes there are none. Of several
lines with one name the first is written, as Envoy does it. X-Forwarded-For and X-Request-Id are as they are sent on.

**Clusters.** `outbound|PORT||HOST` for what is registered or that a rule names, `PassthroughCluster` for what only
`outbound: allow_any` lets pass, `BlackHoleCluster` for a captured connection that nothing does; none for a request that the
proxy itself answers, or for TLS to a gateway that does not know the name. Up to Istio 1.8 the cluster was that of the upstream,
so without one there was none; and up to 1.4 requests had no local address of their upstream.
"""

from __future__ import annotations

import re
import socket
import time
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple

from egressproxy.config.templates import REQUEST_FIELDS, SERVICE_TIME, TIMES, Operator, envoy_template
from egressproxy.registry import PASSTHROUGH
from egressproxy.telemetry.clusters import RELAYED, cluster_of
from egressproxy.telemetry.formats.causes import (
    NOTHING,
    VIA_UPSTREAM,
    is_own_answer,
    is_refused_by_default,
    long_flags,
    words_of,
)
from egressproxy.telemetry.formats.json_lines import text as json_text
from egressproxy.telemetry.formats.json_lines import without_delete
from egressproxy.telemetry.formats.text import MAX_TEXT, field, iso_time, loose, tight
from egressproxy.telemetry.record import ANSWERED

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from egressproxy.config.templates import Template
    from egressproxy.model import ConnectionRecord
    from egressproxy.wire.kept_fields import KeptFields

    Line = Callable[[ConnectionRecord], str]
    Slot = Callable[[ConnectionRecord, Sequence[str]], str]

# --- the eras -----------------------------------------------------------------------------------------------------

_REQUEST = (
    '[%START_TIME%] "%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%" %RESPONSE_CODE% %RESPONSE_FLAGS% '
)
_POLICY = '"%DYNAMIC_METADATA(istio.mixer:status)%" '
_DETAILS = "%RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% "
_FAILURE = '"%UPSTREAM_TRANSPORT_FAILURE_REASON%" '
_COUNTS = (
    "%BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% "
    '"%REQ(X-FORWARDED-FOR)%" "%REQ(USER-AGENT)%" "%REQ(X-REQUEST-ID)%" "%REQ(:AUTHORITY)%" "%UPSTREAM_HOST%"'
)
_ENDS = " %UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% %REQUESTED_SERVER_NAME%"
_CLUSTER = " %UPSTREAM_CLUSTER%"
_ROUTE = " %ROUTE_NAME%"

ERAS = {
    "E0": _REQUEST + _COUNTS,
    "E1": _REQUEST + _COUNTS + _CLUSTER + _ENDS,
    "E2": _REQUEST + _POLICY + _COUNTS + _CLUSTER + _ENDS,
    "E3": _REQUEST + _POLICY + _FAILURE + _COUNTS + _CLUSTER + _ENDS,
    "E4": _REQUEST + _POLICY + _FAILURE + _COUNTS + _CLUSTER + _ENDS + _ROUTE,
    "E5": _REQUEST + _FAILURE + _COUNTS + _CLUSTER + _ENDS + _ROUTE,
    "E6": _REQUEST + _DETAILS + _FAILURE + _COUNTS + _CLUSTER + _ENDS + _ROUTE,
    "E7": _REQUEST + _DETAILS + _FAILURE + _COUNTS + " %UPSTREAM_CLUSTER_RAW%" + _ENDS + _ROUTE,
}
"""The template of each era: E0 is Envoy's own default, the others are Istio's."""


class Habits(NamedTuple):
    """How the Envoy of an era fills the same fields.

    cluster_of_upstream  no upstream, no cluster
    no_local_of_request  requests have no %UPSTREAM_LOCAL_ADDRESS%
    old_words            failures are told in the words of `causes.OLD_CAUSES`
    """

    cluster_of_upstream: bool = False
    no_local_of_request: bool = False
    old_words: bool = False


OLDEST = Habits(cluster_of_upstream=True, no_local_of_request=True, old_words=True)
OLD = Habits(cluster_of_upstream=True, old_words=True)
LATER = Habits(old_words=True)
TODAY = Habits()


def form_of_release(minor: int) -> tuple[str, Habits]:
    """Era and habits of Istio 1.`minor`."""
    for last, era, habits in (
        (0, "E1", OLDEST),
        (1, "E2", OLDEST),
        (2, "E3", OLDEST),
        (4, "E4", OLDEST),
        (7, "E4", OLD),
        (8, "E5", OLD),
        (22, "E6", LATER),
    ):
        if minor <= last:
            return era, habits
    return "E7", TODAY


# --- what there is to say -----------------------------------------------------------------------------------------

_START, _METHOD, _PATH, _PROTOCOL, _CODE, _FLAGS, _DETAIL, _TERMINATION, _REASON, _RECEIVED, _SENT, _DURATION = range(
    12
)
_SERVICE_TIME, _FORWARDED, _AGENT, _ID, _AUTHORITY, _HOST, _CLUSTER_AT, _UP_LOCAL, _LOCAL, _REMOTE, _NAME, _ROUTE_AT = (
    range(12, 24)
)
_TIGHT = (
    *(_METHOD, _PATH, _PROTOCOL, _DETAIL, _TERMINATION, _AUTHORITY, _HOST, _CLUSTER_AT, _UP_LOCAL, _LOCAL, _REMOTE),
    *(_NAME, _ROUTE_AT, _ID),
)
_LOOSE = (_REASON, _FORWARDED, _AGENT)
"""Fields that may hold blanks."""


def facts_of(record: ConnectionRecord, habits: Habits = TODAY) -> tuple[str, ...]:
    """The fields of E7 in their order, as text, `-` for what there is not. Nothing is escaped. Hot: once per line."""
    exchange, upstream, outcome = record.exchange, record.upstream, record.outcome
    forwarded = agent = request_id = authority = path = service_time = NOTHING
    is_http = True
    if exchange is not None:
        _, path, authority, agent_, id_, forwarded_, *_ = exchange
        agent, request_id, forwarded = agent_ or NOTHING, id_ or NOTHING, forwarded_ or NOTHING
        if exchange.response_s is not None and not exchange.upgraded:
            service_time = str(int(exchange.response_s * 1000.0))
    elif record.protocol in RELAYED:
        is_http = False
    else:
        path, authority = _without_exchange(record)
    if is_http:
        method = record.method or NOTHING
        status = record.status
        protocol = NOTHING if record.http_version is None and not status else f"HTTP/{record.http_version or '1.1'}"
        code = str(status or 0)
        received = str(record.bytes_up)
        sent = str(record.bytes_down + record.reply_body_bytes)
    else:
        method = protocol = NOTHING
        code = "0"
        received = str(record.bytes_up)
        sent = str(record.bytes_down + record.reply_bytes)

    if outcome == ANSWERED and upstream is not None:
        flags, details, termination, reason = NOTHING, VIA_UPSTREAM, NOTHING, NOTHING
    else:
        flags, details, termination, reason = words_of(record, is_http=is_http, old=habits.old_words)

    host = cluster = NOTHING
    if upstream is not None:
        host = f"{upstream.address}:{upstream.port}" if ":" not in upstream.address else str(upstream)
    route = NOTHING
    if outcome == "rule_denied" and is_refused_by_default(record):
        route = "block_all"
        cluster = NOTHING if habits.cluster_of_upstream else cluster_of(record) or NOTHING
    elif record.target is not None and record.rule is not None:
        cluster = cluster_of(record) or NOTHING
        route = "allow_any" if cluster == PASSTHROUGH else "default"
        if upstream is None and (habits.cluster_of_upstream or (is_http and is_own_answer(details))):
            cluster = NOTHING
    if not is_http:
        route = NOTHING
    elif exchange is not None and exchange.route is not None:
        route = exchange.route or NOTHING

    client = record.client
    local = record.dialled or record.local
    upstream_local = record.upstream_local
    if upstream_local is not None and is_http and habits.no_local_of_request:
        upstream_local = None
    duration_s = record.duration_s
    return (
        iso_time(record.ended_at_unix_s - duration_s),
        method,
        path,
        protocol,
        code,
        flags,
        details,
        termination,
        reason,
        received,
        sent,
        str(int(duration_s * 1000.0)),
        service_time,
        forwarded,
        agent,
        request_id,
        authority,
        host,
        cluster,
        NOTHING if upstream_local is None else _place(*upstream_local),
        NOTHING if local is None else _place(*local),
        f"{client}:{record.client_port}" if ":" not in client else f"[{client}]:{record.client_port}",
        record.server_name.lower() if record.server_name else NOTHING,
        route,
    )


_URL = re.compile(r"[A-Za-z]+://([^/?]*)(.*)", re.DOTALL)


def _without_exchange(record: ConnectionRecord) -> tuple[str, str]:
    """Path and authority of a CONNECT, or of a request that was refused before anything was made of it."""
    target_text = record.target_text
    if not target_text:
        return NOTHING, NOTHING
    if record.method == "CONNECT":
        return NOTHING, target_text
    match = _URL.fullmatch(target_text)
    if match is None:
        return target_text, NOTHING if record.target is None else record.target.host
    return match[2] or "/", match[1] or NOTHING


def _place(address: str, port: int) -> str:
    return f"{address}:{port}" if ":" not in address else f"[{address}]:{port}"


# --- text ---------------------------------------------------------------------------------------------------------


def envoy_line(template: str, habits: Habits = TODAY) -> Line:
    """Compile a template. What it returns is hot: once per connection or request.

    Raises ValueError, see `config.templates`.
    """
    pattern, slots = _compiled(envoy_template(template))
    indices = [slot for slot in slots if isinstance(slot, int)]
    if not slots or len(indices) < len(slots):
        return lambda record: pattern % _filled(slots, record, safe(facts_of(record, habits)))
    pick: Callable[[Sequence[str]], object] = itemgetter(*indices)
    return lambda record: pattern % pick(safe(facts_of(record, habits)))


def _filled(slots: Sequence[int | Slot], record: ConnectionRecord, facts: Sequence[str]) -> tuple[str, ...]:
    return tuple(facts[slot] if isinstance(slot, int) else slot(record, facts) for slot in slots)


def safe(facts: tuple[str, ...]) -> tuple[str, ...]:
    """The fields as they may stand in a line: as they are, which is nearly always, or escaped. Hot: once per line."""
    _, method, path, protocol, _, _, details, termination, reason, *_, cluster, _, _, remote, name, route = facts
    # All that may have come from outside. One look at it all is cheaper than one at each.
    tight = (
        f"{method}{path}{protocol}{details}{termination}{facts[_ID]}{facts[_AUTHORITY]}{cluster}{remote}{name}{route}"
    )
    loose = f"{reason}{facts[_FORWARDED]}{facts[_AGENT]}"
    if (
        len(tight) <= MAX_TEXT
        and len(loose) <= MAX_TEXT
        and tight.isascii()
        and loose.isascii()
        and tight.isprintable()
        and loose.isprintable()
        and '"' not in tight
        and '"' not in loose
        and " " not in tight
    ):
        return facts
    return escaped(facts)


def escaped(facts: Sequence[str]) -> tuple[str, ...]:
    """The fields without anything that could break a line, or end the quotes around them. Some may still hold blanks."""
    fields = list(facts)
    for index in _TIGHT:
        fields[index] = tight(facts[index])
    for index in _LOOSE:
        fields[index] = loose(facts[index])
    return tuple(fields)


def _compiled(template: Template) -> tuple[str, list[int | Slot]]:
    """The template as a pattern of `%`, and what fills it: an index of the facts, or a function."""
    pattern = ""
    slots: list[int | Slot] = []
    for part in template:
        if isinstance(part, str):
            pattern += part.replace("%", "%%")
            continue
        slot = _slot(part)
        if isinstance(slot, str):
            pattern += slot.replace("%", "%%")
        else:
            pattern += "%s"
            slots.append(slot)
    return pattern, slots


_REQUEST_FACTS = {
    ":METHOD": _METHOD,
    ":PATH": _PATH,
    ":AUTHORITY": _AUTHORITY,
    "HOST": _AUTHORITY,
    "USER-AGENT": _AGENT,
    "X-FORWARDED-FOR": _FORWARDED,
    "X-REQUEST-ID": _ID,
}
_OPERATOR_FACTS = {
    "PROTOCOL": _PROTOCOL,
    "RESPONSE_CODE": _CODE,
    "RESPONSE_FLAGS": _FLAGS,
    "RESPONSE_CODE_DETAILS": _DETAIL,
    "CONNECTION_TERMINATION_DETAILS": _TERMINATION,
    "UPSTREAM_TRANSPORT_FAILURE_REASON": _REASON,
    "BYTES_RECEIVED": _RECEIVED,
    "BYTES_SENT": _SENT,
    "DURATION": _DURATION,
    "UPSTREAM_HOST": _HOST,
    "UPSTREAM_REMOTE_ADDRESS": _HOST,
    "UPSTREAM_CLUSTER": _CLUSTER_AT,
    "UPSTREAM_CLUSTER_RAW": _CLUSTER_AT,
    "UPSTREAM_LOCAL_ADDRESS": _UP_LOCAL,
    "DOWNSTREAM_LOCAL_ADDRESS": _LOCAL,
    "DOWNSTREAM_REMOTE_ADDRESS": _REMOTE,
    "REQUESTED_SERVER_NAME": _NAME,
    "ROUTE_NAME": _ROUTE_AT,
}
_WITHOUT_PORT = "_WITHOUT_PORT"


def _slot(operator: Operator) -> int | Slot | str:
    """What fills an operator's place: a fact, a function, or the same for all lines."""
    name, argument, limit, quoted = operator
    if name in TIMES:
        return _time_slot(name, argument)
    if name == "DYNAMIC_METADATA":
        return NOTHING
    if name == "HOSTNAME":
        return tight(socket.gethostname())
    if name in ("REQ", "REQ_WITHOUT_QUERY"):
        found = [_request_slot(each, quoted=quoted) for each in argument.split("?")]
        if len(found) > 1 and isinstance(found[0], str):
            found = found[1:]  # it is never there
        if name == "REQ_WITHOUT_QUERY":
            found = [each if isinstance(each, str) else _without_query(each) for each in found]
        slot = found[0] if len(found) == 1 else _either(*found)
    elif name == "RESP":
        found = [_response_slot(each, quoted=quoted) for each in argument.split("?")]
        slot = found[0] if len(found) == 1 else _either(*found)
    elif name in _OPERATOR_FACTS:
        slot = _OPERATOR_FACTS[name]
    elif name.endswith(_WITHOUT_PORT):
        slot = _part_of_place(_OPERATOR_FACTS[name.removesuffix(_WITHOUT_PORT)], 0)
    elif name.endswith("_PORT"):
        slot = _part_of_place(_OPERATOR_FACTS[f"{name.removesuffix('_PORT')}_ADDRESS"], 2)
    else:
        slot = _FUNCTIONS[name]
    if isinstance(slot, str):
        return slot[:limit] if limit else slot
    if slot in _LOOSE and not quoted:
        slot = _without_blanks(slot)
    return _cut(slot, limit) if limit else slot


def _request_slot(name: str, *, quoted: bool) -> int | Slot | str:
    if name not in REQUEST_FIELDS:
        return _kept(lambda kept: kept.request, name, quoted=quoted)
    if name == "X-ENVOY-ORIGINAL-PATH":
        return NOTHING  # paths are not rewritten
    if name == ":SCHEME":
        return _scheme
    index = _REQUEST_FACTS[name]
    return _without_blanks(index) if index in _LOOSE and not quoted else index


def _response_slot(name: str, *, quoted: bool) -> int | Slot:
    if name == SERVICE_TIME:
        return _SERVICE_TIME
    slot = _kept(lambda kept: kept.response, name, quoted=quoted)
    return _either(slot, _content_type) if name == "CONTENT-TYPE" else slot


def _kept(side: Callable[[KeptFields], Mapping[str, Sequence[str]]], name: str, *, quoted: bool) -> Slot:
    """The first line of a header field that is kept because a template names it."""
    key = name.lower()
    escape = loose if quoted else tight

    def slot(record: ConnectionRecord, _facts: Sequence[str]) -> str:
        values = None if record.kept is None else side(record.kept).get(key)
        return escape(values[0]) if values else NOTHING

    return slot


def _value(slot: int | Slot | str, record: ConnectionRecord, facts: Sequence[str]) -> str:
    if isinstance(slot, int):
        return facts[slot]
    return slot if isinstance(slot, str) else slot(record, facts)


def _either(first: int | Slot | str, second: int | Slot | str) -> Slot:
    def slot(record: ConnectionRecord, facts: Sequence[str]) -> str:
        value = _value(first, record, facts)
        return _value(second, record, facts) if value == NOTHING else value

    return slot


def _cut(inner: int | Slot, limit: int) -> Slot:
    return lambda record, facts: _value(inner, record, facts)[:limit]


def _without_blanks(index: int | Slot) -> Slot:
    return lambda record, facts: _value(index, record, facts).replace(" ", "%20")


def _part_of_place(index: int, part: int) -> Slot:
    """Of `address:port` the address, without brackets, or the port."""

    def slot(_record: ConnectionRecord, facts: Sequence[str]) -> str:
        place = facts[index]
        return place if place == NOTHING else place.rpartition(":")[part].strip("[]")

    return slot


def _without_query(inner: int | Slot) -> Slot:
    return lambda record, facts: _value(inner, record, facts).partition("?")[0]


def _scheme(record: ConnectionRecord, _facts: Sequence[str]) -> str:
    return NOTHING if record.exchange is None else "http"


def _content_type(record: ConnectionRecord, _facts: Sequence[str]) -> str:
    exchange = record.exchange
    return NOTHING if exchange is None else tight(exchange.content_type)


def _response_ms(record: ConnectionRecord, _facts: Sequence[str]) -> str:
    exchange = record.exchange
    if exchange is None or exchange.response_s is None:
        return NOTHING
    return str(int(((record.head_s or 0.0) + exchange.response_s) * 1000.0))


def _response_rest_ms(record: ConnectionRecord, _facts: Sequence[str]) -> str:
    exchange = record.exchange
    if exchange is None or exchange.response_s is None:
        return NOTHING
    return str(max(0, int(((record.tunnel_s or 0.0) - exchange.response_s) * 1000.0)))


def _tls(record: ConnectionRecord, _facts: Sequence[str]) -> str:
    exchange = record.exchange
    return NOTHING if exchange is None else field(exchange.tls)


def _attempts(record: ConnectionRecord, _facts: Sequence[str]) -> str:
    exchange = record.exchange
    return "0" if exchange is None else str(exchange.attempts)


_FUNCTIONS: dict[str, Slot] = {
    "CONNECTION_ID": lambda record, _facts: str(record.number),
    "RESPONSE_FLAGS_LONG": lambda _record, facts: long_flags(facts[_FLAGS]),
    "RESPONSE_DURATION": _response_ms,
    "RESPONSE_TX_DURATION": _response_rest_ms,
    "UPSTREAM_REQUEST_ATTEMPT_COUNT": _attempts,
    "UPSTREAM_TLS_VERSION": _tls,
}


def _time_slot(name: str, form: str) -> int | Slot:
    """%START_TIME% and the end of it all, in UTC. `%3f` and the like are fractions of the second in so many digits."""
    if name == "START_TIME" and not form:
        return _START
    pieces = re.split(r"%([1-9]?)f", form or "%Y-%m-%dT%H:%M:%S.%3fZ")

    def slot(record: ConnectionRecord, _facts: Sequence[str]) -> str:
        at = record.ended_at_unix_s - (record.duration_s if name == "START_TIME" else 0.0)
        second, nanosecond = divmod(round(at * 1e6) * 1000, 10**9)
        then = time.gmtime(second)
        # The pieces are formats and numbers of digits, by turns. `%s` is a word of the C library in local time.
        return "".join(
            time.strftime(piece.replace("%s", str(second)), then)
            if number % 2 == 0
            else f"{nanosecond:09d}"[: int(piece or 9)]
            for number, piece in enumerate(pieces)
        )

    return slot


# --- JSON ---------------------------------------------------------------------------------------------------------

_KEYS = (
    ("start_time", _START),
    ("method", _METHOD),
    ("path", _PATH),
    ("protocol", _PROTOCOL),
    ("response_code", _CODE),
    ("response_flags", _FLAGS),
    ("response_code_details", _DETAIL),
    ("connection_termination_details", _TERMINATION),
    ("upstream_transport_failure_reason", _REASON),
    ("bytes_received", _RECEIVED),
    ("bytes_sent", _SENT),
    ("duration", _DURATION),
    ("upstream_service_time", _SERVICE_TIME),
    ("x_forwarded_for", _FORWARDED),
    ("user_agent", _AGENT),
    ("request_id", _ID),
    ("authority", _AUTHORITY),
    ("upstream_host", _HOST),
    ("upstream_cluster", _CLUSTER_AT),
    ("upstream_local_address", _UP_LOCAL),
    ("downstream_local_address", _LOCAL),
    ("downstream_remote_address", _REMOTE),
    ("requested_server_name", _NAME),
    ("route_name", _ROUTE_AT),
)
_NUMBERS = frozenset({_CODE, _RECEIVED, _SENT, _DURATION})


def istio_json_line(record: ConnectionRecord) -> str:
    """Istio's JSON: the fields of E7 under its keys. What there is not is null; only the flags are a dash then, as in Istio."""
    facts = facts_of(record)
    return without_delete(
        "{"
        + ",".join(
            f'"{key}":{value if index in _NUMBERS else json_text(None if value == NOTHING and index != _FLAGS else value)}'
            for (key, index), value in zip(_KEYS, facts, strict=True)
        )
        + "}"
    )
