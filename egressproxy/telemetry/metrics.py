"""What the proxy counts, as plain integers that become Prometheus samples when somebody asks.

A connection costs a few additions; names, labels and text are made at the scrape. Series are bounded: a label is a word of
the configuration (rule, listener, log, service) or of a closed set of slugs, never anything a client sent.

**Connections and requests.** A connection that carries plain requests is one of `connections`, counted when the first of them
has ended, with the outcome of that; each of its requests is one of `requests`. It is a tunnel only if one of them was upgraded.
"""

from __future__ import annotations

import platform
import time
from bisect import bisect_right
from typing import TYPE_CHECKING, NamedTuple, Protocol

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from egressproxy.errors import (
    EchDenied,
    HelloTimeout,
    HelloTooLarge,
    MalformedHello,
    NotTls,
    SniMismatch,
    SniMissing,
)
from egressproxy.telemetry.clusters import ClusterCounts

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    from prometheus_client import Metric

    from egressproxy.model import ConnectionRecord, Exchange
    from egressproxy.telemetry.record import RecordDraft

BOUNDS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of the histograms: from an answer out of the cache to the default time limits."""

UNSORTED_VALUES = 1000
"""Of a histogram, before they are counted."""

MAX_CONNECTION_SERIES = 10_000
"""Of connections_total. A configuration with more rules than this allows shares the label `other` among the later ones."""

SNI_REFUSALS = frozenset(
    error.slug for error in (SniMismatch, EchDenied, NotTls, MalformedHello, HelloTooLarge, SniMissing, HelloTimeout)
)
"""Outcomes of tunnels that their SNI check has closed."""

TAKEN = ("made", "reused")
"""Of the upstreams' outcomes, those that are beginnings."""

NO_RULE = "-"
"""Label of connections that ended before a rule decided. No rule can be named so."""


class ResolverCounts(Protocol):
    """The resolver, as far as it is counted."""

    outcomes: dict[str, int]

    @property
    def entries(self) -> int:
        """Names in the cache."""


class DialerCounts(Protocol):
    """The dialer, as far as it is counted."""

    outcomes: dict[str, int]
    attempts: int


class UpstreamCounts(Protocol):
    """The kept upstream connections, as far as they are counted.

    outcomes    how they began and ended: `made`, `reused`; `idle`, `old`, `full`, `closed_by_upstream`, `not_reusable`
    handshakes  of TLS with them: `secured`, or the slug of the error
    """

    outcomes: dict[str, int]
    handshakes: dict[str, int]

    @property
    def idle(self) -> int:
        """Connections that are kept now."""


class IdentityCounts(Protocol):
    """What the proxy shows to upstreams and expects of them, as far as it is counted.

    refusals    credentials that were read and not used, because something is wrong with them, by the identity's name
    unverified  services whose certificates are not verified, by their first host
    """

    refusals: dict[str, int]
    unverified: tuple[str, ...]

    def expiries(self) -> dict[str, float]:
        """Unix time in seconds at which a certificate expires, by the identity's name."""


class LogCounts(Protocol):
    """A log, as far as it is counted: lines dropped, by reason."""

    path: str
    dropped: dict[str, int]


class Totals(NamedTuple):
    """Sums for people. Bytes are payload, to the upstream and from it."""

    requests: int
    errors: int
    bytes_up: int
    bytes_down: int
    upstream_requests: int
    upstream_errors: int


class Metrics(Collector):
    """All counters of one worker, in a registry of their own.

    live_drafts  the connections that are open now; their bytes are counted while they run
    logs         the access logs in use (set by Telemetry)
    clusters     what went where, by Istio's names; counted while `counts_clusters` is set
    """

    def __init__(
        self, *, version: str, loop: str, live_drafts: Callable[[], Collection[RecordDraft]] = lambda: ()
    ) -> None:
        """`loop`: the event loop's name, `uvloop` or `asyncio`."""
        self.live_drafts = live_drafts
        self.logs: Sequence[LogCounts] = ()
        self.tunnels_open = 0
        self.clusters = ClusterCounts()
        self.counts_clusters = False
        self._build = {"version": version, "python": platform.python_version(), "loop": loop}
        self._connections: dict[tuple[str, str | None, str, bool], int] = {}
        self._requests: dict[tuple[str, str | None, str, bool, int], int] = {}
        self._sni_checks: dict[tuple[str | None, str, bool], int] = {}
        self._hellos_too_large = 0
        self._bytes_up = 0
        self._bytes_down = 0
        self._first_requests = 0
        self.started_at_unix_s = time.time()
        self._bodies_up = 0
        self._bodies_down = 0
        self._request = _Histogram()
        self._response = _Histogram()
        self._head = _Histogram()
        self._resolve = _Histogram()
        self._connect = _Histogram()
        self._total = _Histogram()
        self._histograms = (self._head, self._resolve, self._connect, self._total, self._request, self._response)
        self._resolver: ResolverCounts | None = None
        self._dialer: DialerCounts | None = None
        self._earlier_lookups: dict[str, int] = {}
        self._earlier_dials: dict[str, int] = {}
        self._earlier_attempts = 0
        self._upstreams: UpstreamCounts | None = None
        self._earlier_upstreams: dict[str, int] = {}
        self._earlier_handshakes: dict[str, int] = {}
        self._identities: IdentityCounts | None = None
        self._earlier_refusals: dict[str, int] = {}
        self._earlier_drops: dict[tuple[str, str], int] = {}
        self._closing_logs: list[LogCounts] = []
        self._generation = 0
        self._loaded_at_unix_s = 0.0
        self._last_reload_ok = True
        self._reload_failures = 0
        self.registry = CollectorRegistry()
        self.registry.register(self)
        ProcessCollector(registry=self.registry)

    # --- what happens ---------------------------------------------------------------------------------------------

    def observe(self, record: ConnectionRecord) -> None:
        """Count one connection or one plain request that has ended. Hot: once for each."""
        exchange = record.exchange
        if exchange is None or exchange.request == 1:
            key = (record.listener, record.rule, record.outcome, record.reported)
            try:
                self._connections[key] += 1
            except KeyError:
                self._first(key)
        if exchange is not None:
            self._first_requests += exchange.request == 1
            self._observe_request(record, exchange)
        if record.sni_check is not None:
            self._observe_check(record.rule, record.sni_check, record.outcome in SNI_REFUSALS, record.outcome)
        if self.counts_clusters:
            self.clusters.count(record)
        if record.opened:
            self.tunnels_open -= 1
            self._bytes_up += record.bytes_up
            self._bytes_down += record.bytes_down
        head_s, resolve_s, connect_s = record.head_s, record.resolve_s, record.connect_s
        if head_s is not None:
            heads = self._head.values
            heads.append(head_s)
            if len(heads) >= UNSORTED_VALUES:
                for histogram in self._histograms:
                    histogram.sort_in()
        if resolve_s is not None:
            self._resolve.values.append(resolve_s)
        if connect_s is not None:
            self._connect.values.append(connect_s)
            self._total.values.append(connect_s if resolve_s is None else resolve_s + connect_s)

    def _observe_request(self, record: ConnectionRecord, exchange: Exchange) -> None:
        key = (record.listener, record.rule, record.outcome, record.reported, (record.status or 0) // 100)
        try:
            self._requests[key] += 1
        except KeyError:
            if len(self._requests) >= MAX_CONNECTION_SERIES:
                key = (key[0], "other", *key[2:])
            self._requests[key] = self._requests.get(key, 0) + 1
        if exchange.response_s is not None:
            self._response.values.append(exchange.response_s)
        if not record.opened:
            if record.tunnel_s is not None:
                self._request.values.append(record.tunnel_s)
            self._bodies_up += record.bytes_up
            self._bodies_down += record.bytes_down

    def _observe_check(self, rule: str | None, outcome: str, refused: bool, slug: str) -> None:
        if slug == HelloTooLarge.slug:
            self._hellos_too_large += 1
        key = (rule, outcome, refused)
        if key not in self._sni_checks and len(self._sni_checks) >= MAX_CONNECTION_SERIES:
            key = ("other", outcome, refused)
        self._sni_checks[key] = self._sni_checks.get(key, 0) + 1

    def _first(self, key: tuple[str, str | None, str, bool]) -> None:
        if len(self._connections) >= MAX_CONNECTION_SERIES:
            key = (key[0], "other", *key[2:])
        self._connections[key] = self._connections.get(key, 0) + 1

    def sni_verifier(self) -> dict[str, int]:
        """What the SNI checks of tunnels have found, by the names of the counters that Istio's `sni_verifier` has.

        A hello that cannot be read is no TLS to it; one that is too large was not read. What came too late it does not count.
        """
        found: dict[str, int] = {}
        for (_, outcome, _), count in self._sni_checks.items():
            found[outcome] = found.get(outcome, 0) + count
        named = found.get("match", 0) + found.get("mismatch", 0) + found.get("ech", 0)
        unnamed = found.get("no_sni", 0)
        return {
            "client_hello_too_large": self._hellos_too_large,
            "inner_sni_found": named,
            "inner_sni_not_found": unnamed,
            "snis_do_not_match": found.get("mismatch", 0),
            "tls_found": named + unnamed,
            "tls_not_found": found.get("not_tls", 0) + found.get("malformed", 0) - self._hellos_too_large,
        }

    def connections_by_listener(self) -> dict[str, int]:
        """Connections that have ended, by the word for the listener that they came in by."""
        found: dict[str, int] = {}
        for (listener, *_), count in self._connections.items():
            found[listener] = found.get(listener, 0) + count
        return found

    def totals(self) -> Totals:
        """Sums over everything that has ended. Those that are open now are not in them, but for their bytes."""
        answered = ("closed", "answered")
        # A connection with requests has an entry in both tables: its first request is counted once.
        tunnels = sum(count for key, count in self._connections.items()) - self._first_requests
        requests = sum(self._requests.values())
        wrong = sum(count for key, count in self._connections.items() if key[2] not in answered)
        dials = _sum(self._earlier_dials, self._dialer.outcomes if self._dialer is not None else {})
        return Totals(
            requests=tunnels + requests,
            errors=wrong,
            bytes_up=self._bytes_up + self._bodies_up,
            bytes_down=self._bytes_down + self._bodies_down,
            upstream_requests=sum(dials.values()),
            upstream_errors=sum(count for outcome, count in dials.items() if outcome != "connected"),
        )

    def config_loaded(self, generation: int, loaded_at_unix_s: float) -> None:
        """A configuration is in use, at start or after a reload."""
        self._generation = generation
        self._loaded_at_unix_s = loaded_at_unix_s
        self._last_reload_ok = True

    def reload_failed(self) -> None:
        """A new configuration was refused; the one before stays in use."""
        self._last_reload_ok = False
        self._reload_failures += 1

    def watch(self, resolver: ResolverCounts, dialer: DialerCounts, upstreams: UpstreamCounts | None = None) -> None:
        """Count what these do from now on, in place of those before, whose counts are kept. The same ones are no news."""
        if self._resolver is not None and self._resolver is not resolver:
            self._earlier_lookups = _sum(self._earlier_lookups, self._resolver.outcomes)
        if self._dialer is not None and self._dialer is not dialer:
            self._earlier_dials = _sum(self._earlier_dials, self._dialer.outcomes)
            self._earlier_attempts += self._dialer.attempts
        if self._upstreams is not None and self._upstreams is not upstreams:
            self._earlier_upstreams = _sum(self._earlier_upstreams, self._upstreams.outcomes)
            self._earlier_handshakes = _sum(self._earlier_handshakes, self._upstreams.handshakes)
        self._resolver, self._dialer, self._upstreams = resolver, dialer, upstreams

    def watch_identities(self, identities: IdentityCounts) -> None:
        """Tell of these from now on, in place of those before, whose refusals are kept, unless they are the very same."""
        before = self._identities
        if before is not None and before.refusals is not identities.refusals:
            self._earlier_refusals = _sum(self._earlier_refusals, before.refusals)
        self._identities = identities

    def watch_logs(self, logs: Sequence[LogCounts]) -> None:
        """Count what these logs drop from now on, in place of those before, whose counts are kept."""
        self._closing_logs += self.logs
        self.logs = logs

    def logs_closed(self, logs: Sequence[LogCounts]) -> None:
        """These logs, replaced before, are closed now: what they dropped to the last is kept."""
        for log in logs:
            for reason, count in log.dropped.items():
                key = (log.path, reason)
                self._earlier_drops[key] = self._earlier_drops.get(key, 0) + count
        self._closing_logs = [log for log in self._closing_logs if log not in logs]

    # --- what is told ---------------------------------------------------------------------------------------------

    def exposition(self, accept: str = "") -> tuple[bytes, str]:
        """All samples as text, and its content type: the Prometheus format, or OpenMetrics where `accept` asks for it."""
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type

    def collect(self) -> Iterator[Metric]:
        """Called by the registry at each scrape."""
        yield from self._collect_connections()
        yield from self._collect_requests()
        yield from self._collect_setup()
        yield from self._collect_stages()
        yield from self._collect_upstreams()
        yield from self._collect_identities()
        yield from self._collect_process()

    def describe(self) -> Iterator[Metric]:
        """Nothing: the registry need not collect at registration to know the names."""
        return iter(())

    def _collect_connections(self) -> Iterator[Metric]:
        drafts = self.live_drafts()
        yield _gauge("connections_open", "Client connections that are open, tunnels or not yet.", len(drafts))
        yield _gauge("tunnels_open", "Tunnels that are open: the client was answered 200.", self.tunnels_open)
        connections = CounterMetricFamily(
            "egressproxy_connections",
            "Connections that have ended, by listener, by the rule that decided (- where none was asked), by outcome (closed:"
            " a tunnel that ended in order; else the slug of its end or of its error, as in the access log and in"
            " Proxy-Status) and by whether it was let pass only because refusals are just reported. One that carries plain"
            " requests counts once, when its first request has ended, with the outcome of that; once more, if a later request"
            " cannot be read.",
            labels=("listener", "rule", "outcome", "reported"),
        )
        for (listener, rule, outcome, reported), count in self._connections.items():
            connections.add_metric((listener, rule or NO_RULE, outcome, "true" if reported else "false"), count)
        yield connections
        checks = CounterMetricFamily(
            "egressproxy_sni_checks",
            "CONNECT tunnels whose first bytes were compared with the host they were granted for, by the rule that granted"
            " it, by what was found (match, mismatch, no_sni, not_tls, malformed, ech, timeout) and by whether the tunnel was"
            " closed for it.",
            labels=("rule", "outcome", "refused"),
        )
        for (rule, outcome, refused), count in self._sni_checks.items():
            checks.add_metric((rule or NO_RULE, outcome, "true" if refused else "false"), count)
        yield checks

        up, down = self._bytes_up, self._bytes_down
        for draft in drafts:
            if draft.relay is not None:
                up += draft.relay.bytes_up
                down += draft.relay.bytes_down
        carried = CounterMetricFamily(
            "egressproxy_tunnel_bytes",
            "Payload bytes carried by tunnels, open ones included: up from client to upstream, down the other way.",
            labels=("direction",),
        )
        carried.add_metric(("up",), up)
        carried.add_metric(("down",), down)
        yield carried

    def _collect_requests(self) -> Iterator[Metric]:
        requests = CounterMetricFamily(
            "egressproxy_requests",
            "Plain requests that have ended, by listener, by the rule that decided (- where none was asked), by outcome"
            " (answered: the whole response came from the upstream; else as for connections), by whether it was let pass"
            " only because refusals are just reported, and by the class of the status that the client got (- for none).",
            labels=("listener", "rule", "outcome", "reported", "status"),
        )
        for (listener, rule, outcome, reported, status), count in self._requests.items():
            labels = (
                listener,
                rule or NO_RULE,
                outcome,
                "true" if reported else "false",
                f"{status}xx" if status else "-",
            )
            requests.add_metric(labels, count)
        yield requests
        for name, text, histogram in (
            ("request", "Time of plain requests, from the complete head to the end of the response.", self._request),
            (
                "response_head",
                "Time of plain requests from the complete head to the head of the upstream's response, for those that got one.",
                self._response,
            ),
        ):
            buckets, sum_s = histogram.sample()
            yield HistogramMetricFamily(f"egressproxy_{name}_seconds", text, buckets=buckets, sum_value=sum_s)

        up, down = self._bodies_up, self._bodies_down
        for draft in self.live_drafts():
            exchange = draft.exchange
            if exchange is not None and not exchange.upgraded:
                up += exchange.bytes_up
                down += exchange.bytes_down
        yield _by(
            "body_bytes",
            "Bytes of the bodies of plain requests, those under way included: up from client to upstream, down the other way.",
            "direction",
            {"up": up, "down": down},
        )

    def _collect_setup(self) -> Iterator[Metric]:
        setup = HistogramMetricFamily(
            "egressproxy_setup_seconds",
            "Time to set up a connection, by phase, for the connections that got through it. head: from accept to the"
            " complete request head, TLS included; resolve: name to addresses, policy included; connect: to a connected"
            " upstream; total: from the complete head to the connected upstream.",
            labels=("phase",),
        )
        for phase, histogram in (
            ("head", self._head),
            ("resolve", self._resolve),
            ("connect", self._connect),
            ("total", self._total),
        ):
            setup.add_metric((phase,), *histogram.sample())
        yield setup

    def _collect_stages(self) -> Iterator[Metric]:
        resolver, dialer = self._resolver, self._dialer
        yield _by(
            "dns_lookups",
            "Names looked up, by how it went; see the resolver's outcomes.",
            "outcome",
            self._earlier_lookups if resolver is None else _sum(self._earlier_lookups, resolver.outcomes),
        )
        yield _gauge("dns_cache_entries", "Names in the DNS cache.", 0 if resolver is None else resolver.entries)
        yield _by(
            "dials",
            "Upstreams dialled, over all their addresses: connected, or the slug of the failure.",
            "outcome",
            self._earlier_dials if dialer is None else _sum(self._earlier_dials, dialer.outcomes),
        )
        attempts = self._earlier_attempts + (0 if dialer is None else dialer.attempts)
        yield CounterMetricFamily(
            "egressproxy_dial_attempts", "Connection attempts to single addresses.", value=attempts
        )
        drops = CounterMetricFamily(
            "egressproxy_log_lines_dropped",
            "Lines that an access log lost because it was blocked, full, closed or could not be opened.",
            labels=("log", "reason"),
        )
        for labels, count in self._drops().items():
            drops.add_metric(labels, count)
        yield drops

    def _collect_upstreams(self) -> Iterator[Metric]:
        upstreams = self._upstreams
        outcomes, handshakes = self._earlier_upstreams, self._earlier_handshakes
        if upstreams is not None:
            outcomes, handshakes = _sum(outcomes, upstreams.outcomes), _sum(handshakes, upstreams.handshakes)
        yield _by(
            "upstream_connections",
            "Connections to upstreams that plain requests got: made for them, or reused.",
            "origin",
            {word: outcomes.get(word, 0) for word in TAKEN},
        )
        yield _by(
            "upstream_connections_closed",
            "Connections to upstreams that were kept or might have been, by why they were closed (idle, old: for too long;"
            " full: too many are kept; closed_by_upstream; not_reusable: what happened on them makes them so).",
            "reason",
            {word: count for word, count in outcomes.items() if word not in TAKEN},
        )
        yield _gauge(
            "upstream_connections_idle",
            "Connections to upstreams that are kept for later requests now.",
            0 if upstreams is None else upstreams.idle,
        )
        yield _by(
            "upstream_handshakes",
            "TLS handshakes with upstreams: secured, or the slug of the failure.",
            "outcome",
            handshakes,
        )

    def _collect_identities(self) -> Iterator[Metric]:
        identities = self._identities
        expiries = GaugeMetricFamily(
            "egressproxy_certificate_expiry_timestamp_seconds",
            "When a certificate that the proxy shows to upstreams, or trusts, expires.",
            labels=("identity",),
        )
        unverified = GaugeMetricFamily(
            "egressproxy_upstream_unverified",
            "1 for each service whose upstream's certificate is not verified.",
            labels=("service",),
        )
        refusals = self._earlier_refusals
        if identities is not None:
            for identity, expiry_unix_s in identities.expiries().items():
                expiries.add_metric((identity,), expiry_unix_s)
            for service in identities.unverified:
                unverified.add_metric((service,), 1)
            refusals = _sum(refusals, identities.refusals)
        yield expiries
        yield _by(
            "credentials_refused",
            "Credentials that were read and not used, because something is wrong with them.",
            "identity",
            refusals,
        )
        yield unverified

    def _collect_process(self) -> Iterator[Metric]:
        yield _gauge(
            "config_generation",
            "Number of the configuration in use: 1 at start, one more per reload.",
            self._generation,
        )
        yield _gauge(
            "config_loaded_timestamp_seconds",
            "When the configuration in use was loaded; its age is time() minus this.",
            self._loaded_at_unix_s,
        )
        yield _gauge(
            "config_last_reload_successful",
            "0 while the newest configuration was refused and an older one is in use.",
            int(self._last_reload_ok),
        )
        yield CounterMetricFamily(
            "egressproxy_config_reload_failures", "Reloads that were refused.", value=self._reload_failures
        )
        yield InfoMetricFamily("egressproxy_build", "What is running.", value=self._build)

    def _drops(self) -> dict[tuple[str, str], int]:
        drops = dict(self._earlier_drops)
        for log in (*self._closing_logs, *self.logs):
            for reason, count in log.dropped.items():
                drops[log.path, reason] = drops.get((log.path, reason), 0) + count
        return drops


class _Histogram:
    """Counts between BOUNDS_S, the last beyond them, and the sum of all values in seconds.

    values  noted and not counted yet: many at once are sorted in at a tenth of what each would cost by itself
    """

    __slots__ = ("_counts", "_sum_s", "values")

    def __init__(self) -> None:
        self.values: list[float] = []
        self._counts = [0] * (len(BOUNDS_S) + 1)  # cumulative: at most that bound
        self._sum_s = 0.0

    def sort_in(self) -> None:
        """Count the values noted."""
        values = self.values
        values.sort()
        for number, bound in enumerate(BOUNDS_S):
            self._counts[number] += bisect_right(values, bound)
        self._counts[-1] += len(values)
        self._sum_s += sum(values)
        values.clear()

    def sample(self) -> tuple[list[tuple[str, float]], float]:
        """The buckets, cumulative as Prometheus wants them, and the sum."""
        self.sort_in()
        names = [*map(str, BOUNDS_S), "+Inf"]
        return list(zip(names, self._counts, strict=True)), self._sum_s


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"egressproxy_{name}", text, value=value)


def _by(name: str, text: str, label: str, counts: Mapping[str, int]) -> CounterMetricFamily:
    family = CounterMetricFamily(f"egressproxy_{name}", text, labels=(label,))
    for word, count in counts.items():
        family.add_metric((word,), count)
    return family


def _sum(first: Mapping[str, int], second: Mapping[str, int]) -> dict[str, int]:
    return {key: first.get(key, 0) + second.get(key, 0) for key in (*first, *second)}
