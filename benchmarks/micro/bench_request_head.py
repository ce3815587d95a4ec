"""What does it cost to read one CONNECT head? The plain reader's share of a tunnel, and what h11 costs where it is asked.

python benchmarks/micro/bench_request_head.py
"""

from __future__ import annotations

import sys
import timeit
from pathlib import Path

from egressproxy.wire.request_head import HeadLimits, RequestHead, parse_request_head

HEADS = Path(__file__).parents[2] / "tests" / "data" / "request_heads"
LIMITS = HeadLimits(max_bytes=16_384, max_headers=100, max_target_bytes=8192)
CURL = (HEADS / "curl.http").read_bytes()
CASES = {
    "curl": CURL,
    "curl, TLS hello behind it": CURL + b"\x16\x03\x01" + bytes(514),
    "urllib3 (HTTP/1.0, no fields)": (HEADS / "urllib3.http").read_bytes(),
    "java (four fields)": (HEADS / "java-httpurlconnection.http").read_bytes(),
    "curl, one octet beyond ASCII (h11)": CURL.replace(b"curl/", b"c\xfcrl/"),
    "curl, cut short (not an answer yet)": CURL[:-1],
}


def microseconds(data: bytes) -> float:
    """Of one call, the best of five rounds."""
    timer = timeit.Timer(lambda: parse_request_head(data, LIMITS))
    return min(timer.repeat(repeat=5, number=5_000)) / 5_000 * 1e6


def main() -> None:
    """Check every answer, then time it."""
    print(f"Python {sys.version.split()[0]}")
    for name, data in CASES.items():
        head = parse_request_head(data, LIMITS)
        if "cut short" in name:
            assert head is None
        else:
            assert isinstance(head, RequestHead)
            assert head.method == "CONNECT"
            assert head.target == "en.wikipedia.org:443"
            assert head.length == data.index(b"\r\n\r\n") + 4
        print(f"{name:40} {microseconds(data):7.2f} µs")


if __name__ == "__main__":
    main()
