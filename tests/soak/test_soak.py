"""The proxy as a process of its own, under loads that unit tests have no time for. `make soak` runs these, no one else does.

Origins and clients are processes of their own, too. Each run prints what it measured and checks that nothing is left behind:
descriptors, watches, cached names, memory. EGRESSPROXY_SOAK_GIB makes the bulk run smaller or larger.
"""

from __future__ import annotations

import json
import os
import resource
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from soak import bulk, echoes, half_closes, short
from soak.apart import Apart
from soak.footprint import Soaked, cpu_ms, idle_cpu_ms, rollup_kib
from support.dns import DnsServer
from support.waiting import eventually

pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(sys.platform != "linux", reason="it looks at /proc, and comes from all of 127.0.0.0/8"),
]

MIB = 1 << 20
GIB = float(os.environ.get("EGRESSPROXY_SOAK_GIB", "10"))
"""Each way."""
TELL_S = 3.0
"""Between two lines of progress."""
IDLE_S = 2.0
"""How long nothing happens, to see that nothing is done."""

Start = Callable[..., Soaked]
Say = Callable[[str], None]


# --- bulk ---------------------------------------------------------------------------------------------------------


def test_carries_10_gib_both_ways_at_once_byte_for_byte(start: Start, say: Say) -> None:
    mebibytes = max(1, round(GIB * 1024))
    soaked = start()
    proxy = soaked.proxy
    plan = bulk.Plan(0, up=mebibytes, down=mebibytes)
    cpu, began = cpu_ms(proxy), time.monotonic()
    most_rss, told = 0, began
    with Apart(bulk.origin, tunnels=1) as origin:
        target = f"127.0.0.1:{origin.word()}"
        with Apart(bulk.client, proxy=proxy.port, target=target, plans=[plan]) as client:
            for word in client.words():
                most_rss = max(most_rss, proxy.rss_kib())
                if time.monotonic() > told + TELL_S:
                    told = time.monotonic()
                    sent, received, _ = word[0]
                    say(
                        f"{sent / 2**30:.2f} GiB up, {received / 2**30:.2f} GiB down of {mebibytes / 1024:g} GiB each way"
                    )
            near, far = client.result()[0], origin.result()[0]
    took, cpu = time.monotonic() - began, cpu_ms(proxy) - cpu
    carried = 2 * mebibytes * MIB
    say(
        f"{mebibytes / 1024:g} GiB each way in {took:.1f} s: {carried / took / 1e9:.2f} GB/s in all, hashed at both ends;"
        f" the proxy's CPU {cpu / 1e3 / (carried / 1e9):.3f} s per GB; RSS at most {most_rss - soaked.before.rss_kib:+} KiB"
    )
    assert (near.sent, near.received) == (far.received, far.sent)
    assert near.sent != near.received
    (record,) = proxy.settled().records
    assert (record["bytes_up"], record["bytes_down"]) == (mebibytes * MIB + bulk.PLAN_BYTES, mebibytes * MIB)
    assert record["outcome"] == "closed"
    assert most_rss - soaked.before.rss_kib < 8192
    soaked.check_back(growth_kib=8192)


def test_holds_a_fast_writer_back_while_its_reader_stalls(start: Start, say: Say) -> None:
    """Four tunnels: the reader is the origin or the client, and stalls at once or when the bytes are being spliced."""
    stall_s, settle_s = 5.0, 2.0
    most_in_flight = _socket_buffers() * 2 + 2 * MIB  # of both connections, and a pipe and a chunk in the proxy
    late = 64
    size = late + most_in_flight // MIB + 64
    plans = [
        bulk.Plan(0, up=size, down=0, up_stall=0),
        bulk.Plan(1, up=size, down=0, up_stall=late),
        bulk.Plan(2, up=0, down=size, down_stall=0),
        bulk.Plan(3, up=0, down=size, down_stall=late),
    ]
    soaked = start()
    proxy = soaked.proxy
    with Apart(bulk.origin, tunnels=len(plans)) as origin:
        target = f"127.0.0.1:{origin.word()}"
        with Apart(bulk.client, proxy=proxy.port, target=target, plans=plans) as client:
            ends = {0: (client, origin), 1: (client, origin), 2: (origin, client), 3: (origin, client)}

            def progress() -> dict[int, tuple[int, int, bool]]:
                """By tunnel: sent by the writer, received by the reader, stalled."""
                latest = {id(part): part.latest() for part in (client, origin)}
                return {
                    number: (latest[id(writer)][number].sent, *latest[id(reader)][number][1:])
                    for number, (writer, reader) in ends.items()
                }

            eventually(lambda: all(stalled for _, _, stalled in progress().values()), "every reader stalls")
            time.sleep(settle_s)
            early, cpu = progress(), cpu_ms(proxy)
            most_rss, until = 0, time.monotonic() + stall_s - settle_s
            while time.monotonic() < until:
                most_rss = max(most_rss, proxy.rss_kib())
                time.sleep(0.05)
            cpu, after = cpu_ms(proxy) - cpu, progress()
            in_flight = {number: sent - received for number, (sent, received, _) in after.items()}
            say(
                f"4 readers stalled {stall_s:g} s: in flight"
                f" {', '.join(f'{count / MIB:.1f}' for count in in_flight.values())} MiB (bound {most_in_flight / MIB:.0f});"
                f" RSS {most_rss - soaked.before.rss_kib:+} KiB; CPU {cpu:.1f} ms in {stall_s - settle_s:g} s"
            )
            assert after == early, "writers were not held back"
            assert all(0 < count <= most_in_flight for count in in_flight.values())
            assert most_rss - soaked.before.rss_kib < 8192
            assert cpu < 10 * (stall_s - settle_s), "it spins"
            for part in (client, origin):
                part.tell("go on")
            near, far = client.result(), origin.result()
    for plan in plans:
        number = plan.number
        assert (near[number].sent, near[number].received) == (far[number].received, far[number].sent), plan
    carried = sorted((record["bytes_up"], record["bytes_down"]) for record in proxy.settled().records)
    assert carried == sorted((plan.up * MIB + bulk.PLAN_BYTES, plan.down * MIB) for plan in plans)
    soaked.check_back(growth_kib=8192)


def _socket_buffers() -> int:
    """The most that a send and a receive buffer hold together."""
    return sum(int(Path(f"/proc/sys/net/ipv4/{name}").read_text().split()[2]) for name in ("tcp_rmem", "tcp_wmem"))


# --- one byte, one half -------------------------------------------------------------------------------------------


@pytest.fixture
def origin() -> Iterator[Apart]:
    """Echoes; its first word is its port."""
    with Apart(echoes.origin) as part:
        yield part


def test_carries_100_000_single_bytes_there_and_back(start: Start, say: Say, origin: Apart) -> None:
    times = 100_000
    soaked = start()
    proxy = soaked.proxy
    target = f"127.0.0.1:{origin.word()}"
    cpu = cpu_ms(proxy)
    with Apart(echoes.ping_pong, proxy=proxy.port, target=target, times=times) as client:
        taken = client.result()
    cpu = cpu_ms(proxy) - cpu
    p50, p99, most = (taken[min(times - 1, int(times * part))] / 1e3 for part in (0.5, 0.99, 1.0))
    say(
        f"{times} one-byte ping-pongs: p50 {p50:.0f} µs, p99 {p99:.0f} µs, longest {most / 1e3:.1f} ms;"
        f" the proxy's CPU {cpu / times * 1e3:.1f} µs each"
    )
    (record,) = proxy.settled().records
    assert (record["bytes_up"], record["bytes_down"], record["outcome"]) == (times, times, "closed")
    origin.tell("stop")
    assert origin.result() == (1, 0)
    soaked.check_back(growth_kib=2048)


def test_passes_a_half_close_on_1_000_times_in_each_direction(start: Start, say: Say) -> None:
    tunnels = 2_000
    soaked = start()
    proxy = soaked.proxy
    began = time.monotonic()
    with Apart(half_closes.origin, tunnels=tunnels) as origin:
        target = f"127.0.0.1:{origin.word()}"
        with Apart(half_closes.client, proxy=proxy.port, target=target, tunnels=tunnels) as client:
            assert client.result() == origin.result() == tunnels
    plans = [half_closes.Plan.of(number) for number in range(tunnels)]
    carried = sum(sum(plan.carried) for plan in plans)
    say(
        f"{tunnels // 2} half-closes by either side in {time.monotonic() - began:.1f} s, {carried / MIB:.0f} MiB around them"
    )
    records = sorted(proxy.settled().records, key=lambda record: record["connection"])
    assert [(record["bytes_up"], record["bytes_down"]) for record in records] == [plan.carried for plan in plans]
    assert {record["outcome"] for record in records} == {"closed"}
    assert Counter(record["closed_by"] for record in records) == {"client": tunnels // 2, "upstream": tunnels // 2}
    soaked.check_back(growth_kib=4096)


# --- many ---------------------------------------------------------------------------------------------------------


def test_keeps_8_000_tunnels_open_in_little_memory_and_without_work(start: Start, say: Say, origin: Apart) -> None:
    tunnels, warm_up, most_kib = 8_000, 200, 6
    needed, hard = 2 * tunnels + 500, resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard != resource.RLIM_INFINITY and hard < needed:
        pytest.skip(f"{needed} descriptors are needed for {tunnels} tunnels, the hard limit is {hard}")
    soaked = start(limits={"max_tunnels": tunnels + 100})
    proxy = soaked.proxy
    target = f"127.0.0.1:{origin.word()}"

    def crowd(size: int) -> tuple[int, float, float]:
        """So many at once, and gone again: KiB in all, CPU ms while they open, CPU ms in IDLE_S while they idle."""
        before, cpu = rollup_kib(proxy, "Rss"), cpu_ms(proxy)
        with Apart(echoes.crowd, proxy=proxy.port, target=target, tunnels=size) as client:
            assert client.word() == "open"
            opening = cpu_ms(proxy) - cpu
            assert proxy.metric("tunnels_open") == size
            memory = rollup_kib(proxy, "Rss") - before
            idle = idle_cpu_ms(proxy, IDLE_S)
            client.tell("echo")
            assert client.word() == "echoed"
            client.tell("close")
            client.result()
        eventually(lambda: proxy.metric("connections_open") == 0, "all are closed")
        return memory, opening, idle

    crowd(warm_up)
    soaked.mark()
    rss_kib = [proxy.rss_kib()]
    for turn in ("first", "second", "third", "fourth"):
        memory, opening, idle = crowd(tunnels)
        rss_kib.append(proxy.rss_kib())
        say(
            f"{turn} crowd, {tunnels} tunnels at once: {memory / tunnels:.2f} KiB more RSS each,"
            f" {opening / tunnels * 1e3:.0f} µs CPU each to open and echo, {idle:.1f} ms CPU in {IDLE_S:g} s of idling;"
            f" RSS once closed {rss_kib[-1] - rss_kib[0]:+} KiB"
        )
        assert memory / tunnels < most_kib
        assert idle < 5 * IDLE_S, "it works while nothing happens"
    assert rss_kib[4] - rss_kib[3] < tunnels // 2, "the fourth crowd needed memory that the third had not given back"
    served = 4 * tunnels + warm_up
    assert len(proxy.settled().records) == served
    origin.tell("stop")
    assert origin.result() == (served, 0)
    soaked.check_back(growth_kib=most_kib * tunnels)


def test_leaves_nothing_of_100_000_short_tunnels_but_a_line_each(
    start: Start, say: Say, origin: Apart, dns: DnsServer
) -> None:
    clients, warm_up, connections = 8, 4_000, 100_000
    for kind in short.KINDS:
        if kind != "no-name":
            for number in range(short.NAMES):
                dns.add(f"{number}.{kind}.soak.test", "A", f"127.0.1.{number + 1}", ttl=3600)
    soaked = start(
        outbound="registry_only",
        rules=[
            {"name": "closed", "action": "deny", "hosts": ["*.refused.soak.test"]},
            {"name": "open", "action": "allow", "hosts": ["*.soak.test"]},
        ],
        dns={"servers": [dns.address], "ipv6": False, "max_ttl_s": 3600, "negative_ttl_s": 3600},
    )
    proxy = soaked.proxy
    made: Counter[str] = Counter()
    lines = _Lines(proxy.json_log)
    with ExitStack() as stack:
        nobody = stack.enter_context(socket.socket())
        nobody.bind(("0.0.0.0", 0))
        places = short.Places(proxy.port, origin.word(), nobody.getsockname()[1])
        portions = [warm_up // clients, connections // clients]
        parts = [
            stack.enter_context(Apart(short.client, places=places, source=f"127.0.2.{number + 1}", portions=portions))
            for number in range(clients)
        ]
        for part in parts:
            made.update(part.word())
        eventually(lambda: lines.count() >= warm_up, "the warm-up is in the log")
        soaked.mark()
        cpu, began = cpu_ms(proxy), time.monotonic()
        for part in parts:
            part.tell("go on")
        for part in parts:
            made.update(part.word())
        took, cpu = time.monotonic() - began, cpu_ms(proxy) - cpu
        for part in parts:
            part.tell("enough")
            part.result()
    total = warm_up + connections
    eventually(lambda: lines.count() >= total, f"{total} lines are in the log")
    say(
        f"{connections} short tunnels in {took:.1f} s: {connections / took:.0f} per s,"
        f" {cpu / connections * 1e3:.0f} µs CPU each"
    )

    soaked.check_back(growth_kib=2048)
    idle = idle_cpu_ms(proxy, IDLE_S)
    assert idle < 5 * IDLE_S, f"{idle:.1f} ms CPU in {IDLE_S:g} s of nothing"
    records = [json.loads(line) for line in proxy.json_log.read_text().splitlines()]
    assert len(records) == total
    assert len({record["connection"] for record in records}) == total
    assert len(proxy.squid_log.read_text().splitlines()) == total
    assert proxy.metric("connections_total") == total
    assert proxy.metric("log_lines_dropped_total") == 0

    outcomes: dict[str, Counter[str]] = {kind: Counter() for kind in short.KINDS}
    for record in records:
        outcomes[_kind(record)][record["outcome"]] += 1
    for kind, counted in outcomes.items():
        say(
            f"  {kind:21} {made[kind]:6}: {', '.join(f'{outcome} {count}' for outcome, count in counted.most_common())}"
        )
    for kind, (_, _, possible) in short.KINDS.items():
        assert outcomes[kind].total() == made[kind], kind
        assert outcomes[kind].keys() <= possible, kind
    origin.tell("stop")
    served = origin.result()
    say(f"the origin served {served.accepted} of them")
    assert served.left == 0
    assert served.accepted == sum(record["connected"] for record in records)


def _kind(record: dict[str, Any]) -> str:
    """Of which kind a logged connection was: its host says so, if it came as far as that."""
    if record["host"] is None:
        return "malformed" if record["outcome"] == "malformed_request" else "half-a-head"
    return str(record["host"].split(".")[1])


class _Lines:
    """How many lines a growing file has, each byte read once."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._at = self._count = 0

    def count(self) -> int:
        with self._file.open("rb") as file:
            file.seek(self._at)
            data = file.read()
        self._at += len(data)
        self._count += data.count(b"\n")
        return self._count
