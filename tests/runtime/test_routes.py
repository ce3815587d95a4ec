"""Which addresses are this host's own, on a host of the test's making: with addresses and routes of all kinds."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
from support.namespaces import Namespace, connect, need_namespaces

from egressproxy.runtime.routes import ends_on_this_host
from egressproxy.runtime.sockets import OwnPorts, is_local_address

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="rtnetlink")

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
    "192.0.2.4": "nobody",
    "8.8.8.8": "by the default route",
    "2001:db8::3": "a neighbour by IPv6",
    "2001:db8:1::1": "without a route",
    "203.0.113.1": "unreachable by decree",
    "203.0.113.129": "a black hole",
    "203.0.113.193": "forbidden",
}
EXPECTED = {**dict.fromkeys(OWN, True), **dict.fromkeys(OTHERS, False)}


@pytest.fixture(params=[0, 1], ids="ip_nonlocal_bind={}".format)
def host(request: pytest.FixtureRequest) -> Iterator[Namespace]:
    need_namespaces()
    with Namespace("host") as host, Namespace("neighbour") as neighbour:
        own = ["192.0.2.1/24", "192.0.2.2/24", "2001:db8::1/64", "2001:db8::2/64"]
        connect(host, own, neighbour, ["192.0.2.3/24", "2001:db8::3/64"])
        host.ip("route", "add", "local", "198.51.100.0/24", "dev", "lo")
        host.ip("route", "add", "default", "via", "192.0.2.3")
        host.ip("route", "add", "unreachable", "203.0.113.0/25")
        host.ip("route", "add", "blackhole", "203.0.113.128/26")
        host.ip("route", "add", "prohibit", "203.0.113.192/26")
        for version in ("ipv4", "ipv6"):
            host.set(f"{version}/ip_nonlocal_bind", request.param)
        yield host


def test_the_kernel_knows_which_addresses_end_here(host: Namespace) -> None:
    assert host.call(lambda: {address: ends_on_this_host(address) for address in EXPECTED}) == EXPECTED


def test_every_address_of_this_host_is_its_own(host: Namespace) -> None:
    assert host.call(lambda: {address: is_local_address(address) for address in EXPECTED}) == EXPECTED


def test_behind_a_wildcard_all_of_them_are_the_proxys_own_places(host: Namespace) -> None:
    own = OwnPorts({("::", 3128)})
    assert host.call(lambda: {address: own(address, 3128) for address in EXPECTED}) == EXPECTED


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
        [sys.executable, "-c", WITHOUT_DESCRIPTORS], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout == "None\n"
