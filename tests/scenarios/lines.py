"""Log lines taken apart, field by field, by the forms that their programs document."""

from __future__ import annotations

import re
from typing import NamedTuple

_QUOTED = frozenset(
    {"request", "policy", "transport_failure", "forwarded_for", "agent", "request_id", "host", "upstream"}
)

_WHAT = ["start", "request", "code", "flags"]
_COUNTS = ["received", "sent", "duration", "service_time"]
_WHO = ["forwarded_for", "agent", "request_id", "host", "upstream", "cluster"]
_ENDS = ["upstream_local", "downstream_local", "downstream_remote", "server_name", "route"]

_E4 = [*_WHAT, "policy", "transport_failure", *_COUNTS, *_WHO, *_ENDS]
_E7 = [*_WHAT, "details", "termination", "transport_failure", *_COUNTS, *_WHO, *_ENDS]

_START = re.compile(r"\[\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z\]")
_PORT = r"(?:\d+\.\d+\.\d+\.\d+|\[[0-9a-f:]+\]):\d+"
_FORMS = {
    "request": re.compile(r"- - -|[A-Z]+ \S+ HTTP/(?:1\.[01]|2)"),
    "code": re.compile(r"0|[1-5]\d\d"),
    "flags": re.compile(r"-|[A-Z]+(?:,[A-Z]+)*"),
    "received": re.compile(r"\d+"),
    "sent": re.compile(r"\d+"),
    "duration": re.compile(r"\d+"),
    "service_time": re.compile(r"-|\d+"),
    "request_id": re.compile(r"-|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"),
    "upstream": re.compile(f"-|{_PORT}"),
    "upstream_local": re.compile(f"-|{_PORT}"),
    "downstream_local": re.compile(_PORT),
    "downstream_remote": re.compile(_PORT),
}


class EnvoyLine(NamedTuple):
    """One line of Istio's text log. What a form does not have is `None`; what is not known is `-`."""

    start: str
    request: str
    code: str
    flags: str
    details: str | None
    termination: str | None
    policy: str | None
    transport_failure: str
    received: str
    sent: str
    duration: str
    service_time: str
    forwarded_for: str
    agent: str
    request_id: str
    host: str
    upstream: str
    cluster: str
    upstream_local: str
    downstream_local: str
    downstream_remote: str
    server_name: str
    route: str

    @property
    def upstream_address(self) -> str:
        """Without the port."""
        return self.upstream.rpartition(":")[0]

    @property
    def client(self) -> str:
        """The client's address, without the port."""
        return self.downstream_remote.rpartition(":")[0]


def of_today(line: str) -> EnvoyLine:
    """A line in the form of Istio 1.23 and later."""
    return _envoy(line, _E7)


def of_1_7(line: str) -> EnvoyLine:
    """A line in the form of Istio 1.3 to 1.7."""
    return _envoy(line, _E4)


def _envoy(line: str, fields: list[str]) -> EnvoyLine:
    pattern = " ".join(
        rf'"(?P<{name}>[^"]*)"' if name in _QUOTED else rf"(?P<{name}>\[[^\]]*\]|[^\s\"]+)" for name in fields
    )
    found = re.fullmatch(pattern, line)
    assert found, f"not of the form {' '.join(fields)}: {line}"
    values = found.groupdict()
    assert _START.fullmatch(values["start"]), line
    for name, form in _FORMS.items():
        assert form.fullmatch(values[name]), f"{name} of {line}"
    return EnvoyLine(**dict.fromkeys(EnvoyLine._fields) | values)  # type: ignore[arg-type]


class SquidLine(NamedTuple):
    """One line of Squid's native log."""

    time: float
    elapsed_ms: int
    client: str
    result: str
    size: int
    method: str
    url: str
    user: str
    peer: str
    type: str


_SQUID = re.compile(r"(\d{10}\.\d{3}) ( *\d+) (\S+) ([A-Z_]+/\d{3}) (\d+) (\S+) (\S+) (\S+) ([A-Z_]+/\S+) (\S+)")


def squid(line: str) -> SquidLine:
    """Its fields; the second is right-aligned in six columns."""
    found = _SQUID.fullmatch(line)
    assert found, line
    time, elapsed, client, result, size, *rest = found.groups()
    assert len(elapsed) >= 6, line
    return SquidLine(float(time), int(elapsed), client, result, int(size), *rest)


class NginxLine(NamedTuple):
    """One line of the log that an SNI proxy in NGINX writes."""

    peer: str
    time: str
    protocol: str
    server_name: str
    status: str
    sent: int
    received: int
    session_s: float


_NGINX = re.compile(
    r"(\S+) \[(\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4})\] (TCP|UDP) \[([^\]]*)\](\d{3}) (\d+) (\d+) (\d+\.\d{3})"
)


def nginx(line: str) -> NginxLine:
    """Its fields; the server name and the status touch."""
    found = _NGINX.fullmatch(line)
    assert found, line
    peer, time, protocol, name, status, sent, received, session = found.groups()
    return NginxLine(peer, time, protocol, name, status, int(sent), int(received), float(session))
