"""Which addresses are this host's own, in network namespaces whose addresses and routes the test makes itself."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from egressproxy.runtime.routes import ends_on_this_host

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="rtnetlink")

in_a_namespace = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("unshare") or not shutil.which("ip"),
    reason="a network namespace needs root, unshare and ip",
)

NETWORK = """
set -e
ip link set lo up
ip link add one type veth peer name other
ip link set one up
ip link set other up
ip address add 192.0.2.1/24 dev one
ip address add 192.0.2.2/24 dev one
ip address add 2001:db8::1/64 dev one nodad
ip address add 2001:db8::2/64 dev one nodad
ip route add local 198.51.100.0/24 dev lo
ip route add default via 192.0.2.254
ip route add unreachable 203.0.113.0/25
ip route add blackhole 203.0.113.128/26
ip route add prohibit 203.0.113.192/26
echo "$1" >/proc/sys/net/ipv4/ip_nonlocal_bind
echo "$1" >/proc/sys/net/ipv6/ip_nonlocal_bind
exec "$2" -c "$3"
"""

ASK = """
from egressproxy.runtime.{module} import {name} as asked
for address in {addresses!r}:
    print(address, asked(address))
"""

OWN = {
    "192.0.2.1": "the first address of an interface",
    "192.0.2.2": "a secondary one, as virtual addresses that wander between hosts are",
    "198.51.100.7": "in a range that a local route gives to this host",
    "2001:db8::1": "IPv6",
    "2001:db8::2": "a second one",
    "127.0.0.1": "loopback",
    "127.8.9.10": "loopback, too",
    "::1": "and IPv6",
}
OTHERS = {
    "192.0.2.3": "a neighbour",
    "8.8.8.8": "by the default route",
    "2001:db8::3": "a neighbour by IPv6",
    "2001:db8:1::1": "without a route",
    "203.0.113.1": "unreachable by decree",
    "203.0.113.129": "a black hole",
    "203.0.113.193": "forbidden",
}


def answers(module: str, name: str, nonlocal_bind: int) -> dict[str, str]:
    """What the function says of each address in a namespace of its own."""
    script = ASK.format(module=module, name=name, addresses=[*OWN, *OTHERS])
    done = subprocess.run(
        ["unshare", "-n", "sh", "-c", NETWORK, "sh", str(nonlocal_bind), sys.executable, script],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        cwd=ROOT,
    )
    if done.returncode and ("not permitted" in done.stderr or "Read-only" in done.stderr):
        pytest.skip(f"this root may not make a namespace as it likes: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    return dict(line.split() for line in done.stdout.splitlines())


EXPECTED = {**dict.fromkeys(OWN, "True"), **dict.fromkeys(OTHERS, "False")}


@in_a_namespace
@pytest.mark.parametrize("nonlocal_bind", [0, 1], ids="ip_nonlocal_bind={}".format)
def test_the_kernel_knows_which_addresses_end_here(nonlocal_bind: int) -> None:
    assert answers("routes", "ends_on_this_host", nonlocal_bind) == EXPECTED


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.9.10", "::1"])
def test_loopback_ends_here(address: str) -> None:
    assert ends_on_this_host(address) is True


def test_no_address_is_an_error() -> None:
    with pytest.raises(ValueError, match="does not appear to be"):
        ends_on_this_host("localhost")


WITHOUT_DESCRIPTORS = """
import os, resource
from egressproxy.runtime.routes import ends_on_this_host
resource.setrlimit(resource.RLIMIT_NOFILE, (30, 30))
try:
    while True:
        os.dup(0)
except OSError:
    pass
print(ends_on_this_host("127.0.0.1"))
"""


def test_without_a_descriptor_there_is_no_answer() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_DESCRIPTORS], capture_output=True, text=True, timeout=30, check=True, cwd=ROOT
    )
    assert done.stdout == "None\n"
