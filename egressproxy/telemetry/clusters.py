"""Clusters: the names by which Envoy and Istio call where something goes, and what is counted under each, by endpoint.

A cluster is `outbound|PORT||HOST` for what is registered or what a rule names, `PassthroughCluster` for what only
`outbound: allow_any` lets pass, `BlackHoleCluster` for a captured connection that nothing does. Names of statistics are those
of Envoy's admin interface (https://www.envoyproxy.io/docs/envoy/latest/operations/admin, `/clusters` and `/stats`; cluster
statistics in configuration/upstream/cluster_manager/cluster_stats).

**Cost.** A connection or request is one look into a dict, under a tuple of what its record holds anyway, and a few additions.
Names are made when somebody asks. Who is refused by name is not counted here but as BlackHoleCluster, so that no client fills
the table with names; what goes beyond `MAX_ENTRIES` is counted under one name, `other`.

**Not as Envoy has it.** Bytes are payload: of tunnels all of it, of requests their bodies. A connection that is kept between
requests counts once, when it is made, and is not among the active ones while nothing asks on it.
"""

from __future__ import annotations

from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple

from egressproxy.errors import (
    NameNotFound,
    NoEndpoint,
    ResolverFailed,
    ResolverTimeout,
    RuleDenied,
    UpstreamTimeout,
)
from egressproxy.model import OUTBOUND, ConnectionRecord, Endpoint
from egressproxy.registry import PASSTHROUGH, cluster_name, endpoint_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from egressproxy.config.schema.config import Config
    from egressproxy.model import Target
    from egressproxy.telemetry.record import RecordDraft

BLACK_HOLE = "BlackHoleCluster"
OTHER = "other"
"""Cluster of what no longer has an entry of its own."""

MAX_ENTRIES = 10_000
"""Pairs of what was asked for and where it went."""
MAX_KNOWN = 1000
"""Services whose clusters are listed before anything was sent to them."""

RELAYED = frozenset({"sni", "auto", "tcp"})
"""Front ends whose connections show no request."""
_NO_HEALTHY = frozenset({NameNotFound.slug, ResolverFailed.slug, ResolverTimeout.slug, NoEndpoint.slug})

_FIRST_ERROR = 500

_Where = tuple[str | None, str | None, int | None, "Target | None", "Endpoint | None", str | None]

_where: Callable[[ConnectionRecord], _Where] = itemgetter(
    *map(ConnectionRecord._fields.index, ("rule", "service", "service_port", "target", "upstream", "parent"))
)


def cluster_of(record: ConnectionRecord) -> str | None:
    """The cluster of a connection or request that has ended, as Istio's logs call it; None where none was chosen."""
    if record.outcome == RuleDenied.slug and record.rule == OUTBOUND:
        captured = record.exchange is None and record.protocol in RELAYED and record.dialled is not None
        return BLACK_HOLE if captured else None
    return _name(_where(record))


def counts_clusters(config: Config) -> bool:
    """Whether there are clusters to count: something is registered, or passes because nothing is asked of it."""
    return bool(config.services or config.routes) or config.outbound == "allow_any"


class Counts:
    """What was counted of one endpoint of a cluster, or of all of them. Bytes are payload.

    cx_total         connections that were made or tried; of these
    cx_connect_fail  those that failed
    cx_none_healthy  connections and requests for which no address was found
    cx_length_ms     how long tunnels that have ended took, together
    rq_total         requests that were sent
    rq_success       those that were answered with less than 500
    rq_error         those that were answered with 500 and above, or not at all
    rq_timeout       those that the service did not answer in time
    rq_time_ms       how long those that have ended took, together
    statuses         what the clients of requests heard, the proxy's own answers included
    """

    __slots__ = (
        "bytes_down",
        "bytes_up",
        "cx_active",
        "cx_connect_fail",
        "cx_length_ms",
        "cx_none_healthy",
        "cx_total",
        "rq_active",
        "rq_error",
        "rq_success",
        "rq_time_ms",
        "rq_timeout",
        "rq_total",
        "statuses",
    )

    def __init__(self) -> None:
        self.cx_total = self.cx_active = self.cx_connect_fail = self.cx_none_healthy = 0
        self.rq_total = self.rq_active = self.rq_success = self.rq_error = self.rq_timeout = 0
        self.bytes_up = self.bytes_down = self.cx_length_ms = self.rq_time_ms = 0
        self.statuses: dict[int, int] = {}

    def add(self, more: Counts) -> None:
        """Add another one's."""
        for name in _SUMS:
            setattr(self, name, getattr(self, name) + getattr(more, name))
        for status, count in more.statuses.items():
            self.statuses[status] = self.statuses.get(status, 0) + count


_SUMS = tuple(name for name in Counts.__slots__ if name != "statuses")


_Kind = tuple[int | None, str, int | None, bool, int]
"""Of requests: what the client heard, the outcome, what the upstream said; `reused` and `attempts` of the exchange."""

MAX_KINDS = 200
"""Of requests to one endpoint, which chooses its status itself. Others are counted as one kind."""
_OTHER_KIND: _Kind = (None, OTHER, None, True, 1)


class _Tally:
    """What is noted of one endpoint while connections end; `counts` is made of it."""

    __slots__ = ("bytes_down", "bytes_up", "connected", "failed", "none_healthy", "requests", "requests_s", "tunnels_s")

    def __init__(self) -> None:
        self.connected = self.failed = self.none_healthy = self.bytes_up = self.bytes_down = 0
        self.requests_s = self.tunnels_s = 0.0
        self.requests: dict[_Kind, int] = {}

    def add_kind(self, kind: _Kind) -> None:
        """A request of a kind that is seldom, or new."""
        if kind not in self.requests and len(self.requests) >= MAX_KINDS:
            kind = _OTHER_KIND
        self.requests[kind] = self.requests.get(kind, 0) + 1

    def counts(self) -> Counts:
        """In Envoy's words."""
        counts = Counts()
        counts.bytes_up, counts.bytes_down = self.bytes_up, self.bytes_down
        counts.cx_length_ms, counts.rq_time_ms = round(self.tunnels_s * 1000), round(self.requests_s * 1000)
        counts.cx_total = self.connected + self.failed
        counts.cx_connect_fail = self.failed
        counts.cx_none_healthy = self.none_healthy
        for (status, outcome, answer, reused, attempts), count in self.requests.items():
            if outcome in _NO_HEALTHY:
                pass
            elif attempts:
                counts.rq_total += count
                if outcome != OTHER and (answer is None or answer >= _FIRST_ERROR):
                    counts.rq_error += count
                else:
                    counts.rq_success += count
                counts.cx_total += 0 if reused else count
            else:
                counts.cx_total += count
                counts.cx_connect_fail += count
            if outcome == UpstreamTimeout.slug:
                counts.rq_timeout += count
            if status is not None:
                counts.statuses[status] = counts.statuses.get(status, 0) + count
        return counts


class ClusterCounts:
    """The counts of one worker, for as long as it runs."""

    def __init__(self) -> None:
        self._table: dict[_Where, _Tally] = {}

    def count(self, record: ConnectionRecord) -> None:
        """Count what has ended. Hot: once per connection or request."""
        if record.upstream is None:
            self._count_undialled(record)
            return
        try:
            tally = self._table[_where(record)]
        except KeyError:
            tally = self._first(_where(record))
        tally.bytes_up += record.bytes_up
        tally.bytes_down += record.bytes_down
        exchange = record.exchange
        if exchange is not None:
            tally.requests_s += record.duration_s
            kind = (record.status, record.outcome, exchange.upstream_status, exchange.reused, exchange.attempts)
            try:
                tally.requests[kind] += 1
            except KeyError:
                tally.add_kind(kind)
        elif record.connected:
            tally.tunnels_s += record.duration_s
            tally.connected += 1
        else:
            tally.failed += 1

    def _count_undialled(self, record: ConnectionRecord) -> None:
        """Nothing was dialled: refused by name, which is counted as one, or no address found."""
        rule, service, service_port, target, _, parent = _where(record)
        if cluster_of(record) == BLACK_HOLE:
            key: _Where = (None, BLACK_HOLE, None, None, None, None)
        elif record.outcome not in _NO_HEALTHY:
            return
        elif service is not None:
            key = (rule, service, service_port or (target.port if target else None), None, None, parent)
        elif rule == OUTBOUND:
            key = (rule, None, None, None, None, None)
        else:
            return  # any number of names, and nothing behind them
        tally = self._table.get(key) or self._first(key)
        tally.none_healthy += 1
        if record.exchange is not None:
            tally.add_kind((record.status, record.outcome, None, False, 0))

    def _first(self, where: _Where) -> _Tally:
        if len(self._table) >= MAX_ENTRIES:
            where = (None, OTHER, None, None, None, None)
        return self._table.setdefault(where, _Tally())

    def entries(self, drafts: Iterable[RecordDraft]) -> Iterator[tuple[str, str | None, Counts]]:
        """Cluster, endpoint and counts of everything that has ended, and of what is open now: `drafts`.

        A cluster and an endpoint may come several times: a `Table` puts them together.
        """
        for where, tally in list(self._table.items()):
            yield *_named(where), tally.counts()
        for draft in drafts:
            counts = Counts()
            exchange, relay, intent, verdict = draft.exchange, draft.relay, draft.intent, draft.verdict
            if draft.upstream is None or intent is None or verdict is None:
                continue
            if exchange is not None:
                counts.rq_total = counts.rq_active = 1
                counts.cx_total = int(not exchange.reused)
                counts.bytes_up, counts.bytes_down = exchange.bytes_up, exchange.bytes_down
            else:
                counts.cx_total = 1
            if relay is not None:
                counts.bytes_up, counts.bytes_down = relay.bytes_up, relay.bytes_down
            counts.cx_active = 1
            where = (verdict.rule, draft.service, draft.service_port, intent.target, draft.upstream, draft.parent)
            yield *_named(where), counts


class Line(NamedTuple):
    """One statistic."""

    name: str
    value: int


class Table:
    """Counts by cluster and endpoint, put together for one answer.

    clusters  by name, and in each its endpoints, `ADDRESS:PORT`; None: what no endpoint was found for
    """

    def __init__(self) -> None:
        self.clusters: dict[str, dict[str | None, Counts]] = {}

    def know(self, cluster: str, endpoint: str | None) -> None:
        """List it, whatever is counted."""
        self.clusters.setdefault(cluster, {}).setdefault(endpoint, Counts())

    def add(self, cluster: str, endpoint: str | None, counts: Counts) -> None:
        """Add to what is there already."""
        endpoints = self.clusters.setdefault(cluster, {})
        endpoints.setdefault(endpoint, Counts()).add(counts)

    def cluster_lines(self) -> Iterator[Line]:
        """As `/clusters` has them, `CLUSTER::ENDPOINT::STATISTIC`."""
        for cluster, endpoints in self.clusters.items():
            for endpoint, counts in endpoints.items():
                if endpoint is not None:
                    for statistic in _OF_ENDPOINTS:
                        yield Line(f"{cluster}::{endpoint}::{statistic}", getattr(counts, statistic))

    def stats_lines(self) -> Iterator[Line]:
        """As `/stats` has them, `cluster.CLUSTER.STATISTIC`, over all endpoints of each."""
        for cluster, endpoints in self.clusters.items():
            counts = Counts()
            for each in endpoints.values():
                counts.add(each)
            for statistic, attribute in _OF_CLUSTERS:
                yield Line(f"cluster.{cluster}.{statistic}", getattr(counts, attribute))
            classes: dict[int, int] = {}
            for status, count in counts.statuses.items():
                classes[status // 100] = classes.get(status // 100, 0) + count
            for digit, count in sorted(classes.items()):
                yield Line(f"cluster.{cluster}.upstream_rq_{digit}xx", count)
            for status, count in sorted(counts.statuses.items()):
                yield Line(f"cluster.{cluster}.upstream_rq_{status}", count)


_OF_ENDPOINTS = (
    *("cx_active", "cx_connect_fail", "cx_total"),
    *("rq_active", "rq_error", "rq_success", "rq_timeout", "rq_total"),
)
_OF_CLUSTERS = (
    ("upstream_cx_active", "cx_active"),
    ("upstream_cx_connect_fail", "cx_connect_fail"),
    ("upstream_cx_length_ms_sum", "cx_length_ms"),
    ("upstream_cx_none_healthy", "cx_none_healthy"),
    ("upstream_cx_rx_bytes_total", "bytes_down"),
    ("upstream_cx_total", "cx_total"),
    ("upstream_cx_tx_bytes_total", "bytes_up"),
    ("upstream_rq_active", "rq_active"),
    ("upstream_rq_time_sum", "rq_time_ms"),
    ("upstream_rq_timeout", "rq_timeout"),
    ("upstream_rq_total", "rq_total"),
)


def known_clusters(config: Config) -> Iterator[tuple[str, str | None]]:
    """Cluster and endpoint of what is registered, endpoints as far as they are known without DNS. Bounded."""
    yield BLACK_HOLE, None
    if config.outbound == "allow_any":
        yield PASSTHROUGH, None
    for service in config.services[:MAX_KNOWN]:
        for port in service.ports:
            name = cluster_name(None, service.label, port.number, "")
            yield name, None
            if service.tls is not None and port.target_port is not None:  # of requests that the proxy speaks TLS for
                yield cluster_name(None, service.label, port.target_port, ""), None
            for one in service.endpoints[:MAX_KNOWN]:
                place = endpoint_of(one.address, one.port or port.target_port or port.number, 1)
                if place.is_address:
                    yield name, str(Endpoint(place.host, place.port or port.number))


def _named(where: _Where) -> tuple[str, str | None]:
    upstream = where[4]
    return _name(where) or OTHER, None if upstream is None else str(upstream)


def _name(where: _Where) -> str | None:
    rule, service, service_port, target, upstream, parent = where
    if service in (BLACK_HOLE, OTHER) and rule is None:
        return service
    if rule is None:
        return None
    if target is None:
        return cluster_name(rule, service, service_port or 0, "")
    dialled = target.port if upstream is None or parent is not None else upstream.port
    return cluster_name(rule, service, service_port or dialled, target.host)
