"""How fast does one tunnel carry much, and at what cost? Download and upload, from memory into nothing.

The ends hand over pages and drop bytes in the kernel, so the proxy does most of the work there is. With a proxy that
copies nothing the ends set the pace all the same: see `proxy's core busy`, and compare with `--peers direct`.
"""

from __future__ import annotations

import os
import socket

from benchmarks.support.bulk_origin import (
    COUNT,
    ENDLESS,
    PATTERN_BYTES,
    REQUEST,
    in_memory,
    pattern_digest,
    receive_digest,
    receive_exactly,
    send_pattern,
)
from benchmarks.support.compare import AtLeast, AtMost, Benchmark, Goal, Measure, Settings
from benchmarks.support.errors import WrongAnswer
from benchmarks.support.load import Window, receive_bulk, reset, send_bulk
from benchmarks.support.origins import Origins
from benchmarks.support.proxy import Proxy

_CHECKED_BYTES = (32 << 20) + 12345
_DIGEST_BYTES = 32


def check(proxy: Proxy, origins: Origins) -> None:
    """Some 32 MiB each way arrive byte for byte, by their SHA-256."""
    proxy.check()
    expected = pattern_digest(_CHECKED_BYTES)
    with proxy.connect(origins.bulk_port) as sock:
        sock.sendall(REQUEST.pack(b"d", _CHECKED_BYTES))
        if receive_digest(sock, _CHECKED_BYTES) != expected or sock.recv(1):
            raise WrongAnswer(f"{proxy.name}: a download of {_CHECKED_BYTES} bytes did not arrive as sent")
    source = in_memory()
    try:
        with proxy.connect(origins.bulk_port) as sock:
            sock.sendall(REQUEST.pack(b"h", _CHECKED_BYTES))
            send_pattern(sock, source, _CHECKED_BYTES)
            if receive_exactly(sock, _DIGEST_BYTES) != expected:
                raise WrongAnswer(f"{proxy.name}: an upload of {_CHECKED_BYTES} bytes did not arrive as sent")
    finally:
        os.close(source)


def trial(proxy: Proxy, origins: Origins, settings: Settings) -> dict[str, float]:
    """One download that never ends, cut after the window; then one upload, closed in order and counted there."""
    return _figures("down", proxy, _download(proxy, origins, settings)) | _figures(
        "up", proxy, _upload(proxy, origins, settings)
    )


def _figures(way: str, proxy: Proxy, window: Window) -> dict[str, float]:
    figures = {f"{way}_gb_s": window.rate / 1e9}
    if proxy.pids():
        figures |= {f"{way}_cpu_s": window.cpu_each_s * 1e9, f"{way}_busy": window.busy * 100}
    return figures


def _download(proxy: Proxy, origins: Origins, settings: Settings) -> Window:
    with proxy.connect(origins.bulk_port) as sock:
        sock.sendall(REQUEST.pack(b"d", ENDLESS))
        window = receive_bulk(sock, warm_s=settings.warm_s, timed_s=settings.seconds, cpu=proxy.cpu_s)
        reset(sock)
    return window


def _upload(proxy: Proxy, origins: Origins, settings: Settings) -> Window:
    source = in_memory()
    try:
        with proxy.connect(origins.bulk_port) as sock:
            sock.sendall(REQUEST.pack(b"c", 0))
            window = send_bulk(
                sock, source, size=PATTERN_BYTES, warm_s=settings.warm_s, timed_s=settings.seconds, cpu=proxy.cpu_s
            )
    finally:
        os.close(source)
    with socket.create_connection(("127.0.0.1", origins.bulk_port)) as sock:
        sock.sendall(REQUEST.pack(b"q", 0))
        (arrived,) = COUNT.unpack(receive_exactly(sock, COUNT.size))
    if arrived != window.total:
        raise WrongAnswer(f"{proxy.name}: {window.total} bytes were sent up and {arrived} arrived")
    return window


_SPEED: dict[str, Goal] = {"squid": AtLeast(1.6), "nginx": AtLeast(1.6), "envoy": AtLeast(1.6)}
_COST: dict[str, Goal] = {"squid": AtMost(0.4), "nginx": AtMost(0.4), "envoy": AtMost(0.4)}

BENCHMARK = Benchmark(
    name="bulk",
    question="one tunnel, as much as it carries",
    measures=(
        Measure("down_gb_s", "download, GB/s", _SPEED),
        Measure("down_cpu_s", "download, CPU s per GB", _COST),
        Measure("down_busy", "download, proxy's core busy, %"),
        Measure("up_gb_s", "upload, GB/s", _SPEED),
        Measure("up_cpu_s", "upload, CPU s per GB", _COST),
        Measure("up_busy", "upload, proxy's core busy, %"),
    ),
    check=check,
    trial=trial,
)
