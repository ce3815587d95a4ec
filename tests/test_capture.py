"""Where a captured client was on its way to, as the kernel's own captures leave it on the socket."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import pytest
from support.clients import receive
from support.namespaces import SITE, Hosts, need_namespaces, three_hosts
from support.peers import listening
from support.waiting import WAIT_S

from egressproxy.capture import OwnConnections, original_destination
from egressproxy.errors import LoopDetected
from egressproxy.hostport import PortRange
from egressproxy.redirect import Capture
from egressproxy.runtime import nftables
from egressproxy.runtime.sockets import listen

LISTENER = 15_001
MODES = ("redirect", "tproxy")

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux captures")


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    need_namespaces("nft")
    with three_hosts() as made:
        made.proxy.forward()
        yield made


@contextmanager
def taken(hosts: Hosts, mode: str, address: str, destination: str, port: int = 443) -> Iterator[socket.socket]:
    """What a listener accepts when a routed client connects to the destination; the first byte has been sent and read."""
    proxy = hosts.proxy
    proxy.call(
        nftables.apply, Capture(LISTENER, mode, own=False, routed=True, ports=(PortRange(80, 80), PortRange(443, 443)))
    )
    with proxy.call(lambda: listen(address, LISTENER, client_speaks_first=False, transparent=mode)) as listener:
        listener.settimeout(WAIT_S)
        with hosts.app.call(socket.create_connection, (destination, port), WAIT_S) as client:
            accepted, _ = listener.accept()
            with accepted:
                client.sendall(b"x")
                assert receive(accepted, 1) == b"x"
                yield accepted


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("address", "version"), [("0.0.0.0", 4), ("::", 4), ("::", 6)], ids=["IPv4", "IPv4 by ::", "IPv6"]
)
def test_the_destination_is_the_one_that_was_dialled(hosts, mode, address, version):
    with taken(hosts, mode, address, SITE[version]) as accepted:
        assert original_destination(accepted, mode, LISTENER) == (SITE[version], 443)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("destination", ["2001:db8:0:0:1::1", "2001:db8::ffff:192.0.2.1", "203.0.113.9"])
def test_the_address_is_in_standard_spelling_whoever_has_it(hosts, mode, destination):
    with taken(hosts, mode, "::", destination, 80) as accepted:
        expected = {"2001:db8:0:0:1::1": "2001:db8::1:0:0:1", "2001:db8::ffff:192.0.2.1": "2001:db8::ffff:c000:201"}
        assert original_destination(accepted, mode, LISTENER) == (expected.get(destination, destination), 80)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("address", "reach"), [("127.0.0.1", "127.0.0.1"), ("::", "127.0.0.1"), ("::", "::1")])
def test_who_came_to_the_listener_itself_was_not_captured(mode, address, reach):
    with listening(host=address) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection((reach, port), WAIT_S):
            accepted, _ = listener.accept()
            with accepted:
                assert original_destination(accepted, mode, port) is None


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("address", "reach"), [("0.0.0.0", "10.201.1.1"), ("::", "10.201.1.1"), ("::", "fd01:201:1::1")]
)
def test_nor_was_a_neighbour_who_did(hosts, mode, address, reach):
    with taken(hosts, mode, address, reach, LISTENER) as accepted:
        assert original_destination(accepted, mode, LISTENER) is None


@pytest.mark.parametrize("mode", MODES)
def test_a_client_that_is_gone_was_going_nowhere(mode):
    with listening() as listener, socket.create_connection(listener.getsockname()):
        accepted, _ = listener.accept()
        accepted.close()
        assert original_destination(accepted, mode) is None


# --- our own ------------------------------------------------------------------------------------------------------


class Ours(NamedTuple):
    """A stream, as far as it is looked at."""

    sock: socket.socket
    address: str = "192.0.2.1"
    port: int = 1


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_a_client_that_is_one_of_our_own_connections_is_a_loop(address: str) -> None:
    own = OwnConnections()
    own.watched = True
    with listening(host=address) as listener, socket.create_connection(listener.getsockname()[:2], WAIT_S) as sock:
        ours = Ours(sock)
        own.add(ours)  # type: ignore[arg-type]  # stands for a TcpStream
        came_back = Ours(sock, *sock.getsockname()[:2])
        with pytest.raises(LoopDetected, match="`egressproxy redirect --user`"):
            own.refuse(came_back)  # type: ignore[arg-type]  # the same
        own.refuse(ours)  # type: ignore[arg-type]  # another address
        own.discard(ours)  # type: ignore[arg-type]  # the same
        own.discard(ours)  # type: ignore[arg-type]  # harmless twice
        own.refuse(came_back)  # type: ignore[arg-type]  # it is closed


def test_nothing_is_kept_where_nobody_is_captured() -> None:
    own = OwnConnections()
    with socket.socket() as sock:
        own.add(Ours(sock))  # type: ignore[arg-type]  # not even asked for its name
    assert len(own) == 0
