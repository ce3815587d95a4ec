"""What does an open tunnel cost that nobody uses? Memory in user space with 8,000 open, and CPU time while they idle.

Memory is the proportional set size of all the proxy's processes, before and with the tunnels open. What the kernel
holds for the sockets is not in it; it is the same for every proxy. A new process for every trial, because memory once
taken is kept.
"""

from __future__ import annotations

import socket
import time
from contextlib import ExitStack

from benchmarks.support.compare import ANY, AtMost, Benchmark, Measure, Settings
from benchmarks.support.errors import Unavailable, WrongAnswer
from benchmarks.support.origins import Origins
from benchmarks.support.processes import raise_descriptor_limit
from benchmarks.support.proxy import Proxy

_WARM_TUNNELS = 100
_SETTLE_S = 1.0
_SPARE_DESCRIPTORS = 500


def descriptors(tunnels: int) -> int:
    """How many the proxy needs: two a tunnel. The limit must be raised before it is started."""
    return 2 * tunnels + _SPARE_DESCRIPTORS


def check(proxy: Proxy, origins: Origins) -> None:
    """Tunnels echo, and the first memory that any proxy takes is taken before the count."""
    proxy.check()
    for number in range(_WARM_TUNNELS):
        _open(proxy, origins, number).close()


def trial(proxy: Proxy, origins: Origins, settings: Settings) -> dict[str, float]:
    """Open the tunnels, weigh, wait, and see that they still work. Raises Unavailable when descriptors are too few."""
    wanted = settings.idle_tunnels
    if problem := raise_descriptor_limit(descriptors(wanted)):
        raise Unavailable(f"{wanted} idle tunnels: {problem}; or ask for fewer with --idle-tunnels")
    if not proxy.pids():
        return {}
    settle_s = min(_SETTLE_S, settings.seconds)
    time.sleep(settle_s)
    before = proxy.memory_bytes()
    with ExitStack() as stack:
        sockets = [stack.enter_context(_open(proxy, origins, number)) for number in range(wanted)]
        time.sleep(settle_s)
        memory = proxy.memory_bytes() - before
        cpu_s, started = proxy.cpu_s(), time.monotonic()
        time.sleep(settings.seconds)
        cpu_s, waited_s = proxy.cpu_s() - cpu_s, time.monotonic() - started
        for sock in sockets[:: max(1, wanted // 100)]:
            _echo(proxy, sock)
    return {"kib": memory / wanted / 1024, "process_mib": before / 2**20, "cpu_ms": cpu_s / waited_s * 1e3}


def _open(proxy: Proxy, origins: Origins, number: int) -> socket.socket:
    sock = proxy.connect(origins.echo_ports[number % len(origins.echo_ports)])
    try:
        _echo(proxy, sock)
    except BaseException:
        sock.close()
        raise
    return sock


def _echo(proxy: Proxy, sock: socket.socket) -> None:
    sock.sendall(b"!")
    if (answer := sock.recv(2)) != b"!":
        raise WrongAnswer(f"{proxy.name}: expected the echo of one byte, got {answer!r}")


BENCHMARK = Benchmark(
    name="idle",
    question="tunnels that only stay open",
    measures=(
        Measure("kib", "memory per tunnel, KiB", {ANY: AtMost(4, absolute=True)}),
        Measure("process_mib", "the process before them, MiB"),
        Measure("cpu_ms", "CPU while idle, ms per s", {ANY: AtMost(1, absolute=True)}),
    ),
    check=check,
    trial=trial,
    fresh=True,
)
