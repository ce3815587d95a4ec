"""Plain requests that carry much. See `test_soak`, whose fixtures and variables these are."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable

import pytest
from soak import exchanges
from soak.apart import Apart
from soak.footprint import Soaked, cpu_ms

pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(sys.platform != "linux", reason="it looks at /proc"),
]

GIB = float(os.environ.get("EGRESSPROXY_SOAK_GIB", "10")) / 2
"""Each way."""
TELL_S = 3.0
"""Between two lines of progress."""


def test_carries_5_gib_up_and_5_gib_down_in_plain_requests_with_flat_memory(
    start: Callable[..., Soaked], say: Callable[[str], None]
) -> None:
    mebibytes = max(1, round(GIB * 1024))
    soaked = start()
    proxy = soaked.proxy
    cpu, began = cpu_ms(proxy), time.monotonic()
    most_rss, told = 0, began
    with Apart(exchanges.origin, mebibytes=mebibytes) as origin:
        target = f"127.0.0.1:{origin.word()}"
        with Apart(exchanges.client, proxy=proxy.port, target=target, mebibytes=mebibytes) as client:
            for word in client.words():
                most_rss = max(most_rss, proxy.rss_kib())
                if time.monotonic() > told + TELL_S:
                    told = time.monotonic()
                    say(f"{word.up / 1024:.2f} GiB up, {word.down / 1024:.2f} GiB down of {GIB:g} GiB each way")
            near, far = client.result(), origin.result()
    took, cpu = time.monotonic() - began, cpu_ms(proxy) - cpu
    carried = 2 * mebibytes * exchanges.MIB
    say(
        f"{GIB:g} GiB up, then down, in {took:.1f} s: {carried / took / 1e9:.2f} GB/s, hashed at both ends;"
        f" the proxy's CPU {cpu / 1e3 / (carried / 1e9):.3f} s per GB; RSS at most {most_rss - soaked.before.rss_kib:+} KiB"
    )
    assert near == far
    up, down = proxy.settled().records
    assert (up["bytes_up"], down["bytes_down"]) == (mebibytes * exchanges.MIB, mebibytes * exchanges.MIB)
    assert (up["outcome"], down["outcome"]) == ("answered", "answered")
    assert most_rss - soaked.before.rss_kib < 8192
    soaked.check_back(growth_kib=8192)
