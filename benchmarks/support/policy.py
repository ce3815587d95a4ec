"""The one policy that every proxy under test enforces, each in its own language, in the same order.

1. Mail ports are refused.
2. Machines in 10.0.0.0/8 may reach a few package sites on 443.
3. Clients on loopback may reach the allow list, and the origin of the benchmark, on 443 and on the origin's ports.
4. The rest is refused.

The benchmark's tunnels are decided by the third rule, so the first two are asked and passed over each time.
"""

from __future__ import annotations

ORIGIN = "origin.bench.test"  # .test: RFC 6761 section 6.2
REFUSED = "refused.bench.test"
UNPROVEN = "unproven.zone0.test"
"""Allowed, and registered where TLS is originated; but the origin behind it proves that it is ORIGIN: nobody may get there."""

MAIL_PORTS = (25, 465, 587)
BUILD_CLIENTS = "10.0.0.0/8"
BUILD_NAMES = ("*.packages.test", "index.mirror.test", "files.mirror.test")
LOOPBACK_CLIENTS = "127.0.0.0/8"
ALLOWED_NAMES = (
    *(f"api{number}.partner.test" for number in range(50)),
    *(f"*.zone{number}.test" for number in range(50)),
    ORIGIN,
)
