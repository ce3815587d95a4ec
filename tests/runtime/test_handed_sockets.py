"""Sockets of a service manager: taken from the environment in a process of its own, matched to places by where they listen."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator

import pytest
from support.handing import Manager
from support.no_ipv6 import PRELUDE, need_filters
from support.peers import listening
from support.waiting import WAIT_S

from egressproxy.runtime.handed_sockets import MOST, HandedSockets
from egressproxy.runtime.sockets import BindError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a protocol of systemd")

TELLS = """
    import os
    from egressproxy.runtime.handed_sockets import HandedSockets
    from egressproxy.runtime.sockets import BindError
    try:
        handed = HandedSockets.from_environment(os.environ)
    except BindError as error:
        print(error)
    else:
        for address, port in sorted(handed.places):
            print(address, port)
        handed.close()
    left = [name for name in os.environ if name.startswith("LISTEN_")]
    assert not left, left
"""


@pytest.fixture
def manager() -> Iterator[Manager]:
    with Manager() as one:
        yield one


def told(manager: Manager, *handed: socket.socket, **untrue: object) -> list[str]:
    """What a child finds in its environment, in lines."""
    command = (sys.executable, "-W", "error", "-c", textwrap.dedent(TELLS))
    child = manager.start(handed, *command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **untrue)
    out, _ = child.communicate(timeout=WAIT_S)
    assert child.returncode == 0, out
    return out.splitlines()


def place_of(sock: socket.socket) -> tuple[str, int]:
    address, port = sock.getsockname()[:2]
    return address, port


# --- what the environment says ------------------------------------------------------------------------------------


def test_a_process_finds_what_it_was_handed(manager: Manager) -> None:
    with listening() as one, listening(host="::1") as other:
        expected = [f"{address} {port}" for address, port in sorted((place_of(one), place_of(other)))]
        assert told(manager, other, one) == expected


def test_what_is_for_another_process_is_left_alone(manager: Manager) -> None:
    with listening() as sock:
        assert told(manager, sock, pid=str(os.getpid())) == []


def test_without_a_service_manager_there_is_nothing() -> None:
    environment = {"PATH": "/bin"}
    assert HandedSockets.from_environment(environment).places == frozenset()
    assert environment == {"PATH": "/bin"}


@pytest.mark.parametrize("count", ["-1", "two", "1.5", "²", str(MOST + 1)])
def test_a_number_that_makes_no_sense_is_refused(count: str) -> None:
    environment = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": count}
    with pytest.raises(BindError, match="LISTEN_FDS: expected a number up to 1024, got"):
        HandedSockets.from_environment(environment)
    assert environment == {}


def test_more_announced_than_given_is_refused_and_the_others_are_closed(manager: Manager) -> None:
    with listening() as sock:
        (line,) = told(manager, sock, count=2)  # a ResourceWarning would be an error there
    assert line == "descriptor 4 was announced as a socket (LISTEN_FDS) and is none: Bad file descriptor"


def test_what_does_not_listen_is_refused(manager: Manager) -> None:
    for family, kind in (
        (socket.AF_INET, socket.SOCK_STREAM),
        (socket.AF_INET, socket.SOCK_DGRAM),
        (socket.AF_UNIX, socket.SOCK_STREAM),
    ):
        with socket.socket(family, kind) as sock:
            (line,) = told(manager, sock)
        assert line == ("descriptor 3 was handed over and does not listen for TCP: expected ListenStream=ADDRESS:PORT")


def test_one_place_twice_is_refused(manager: Manager) -> None:
    with listening() as sock, sock.dup() as again:
        (line,) = told(manager, sock, again)
        assert line == f"two sockets were handed over for 127.0.0.1 port {place_of(sock)[1]}: expected one"


# --- who gets which ------------------------------------------------------------------------------------------------


def test_a_place_gets_its_socket_once_and_set_up_like_an_own_one() -> None:
    with listening() as sock:
        sock.setblocking(True)
        handed, place = HandedSockets([sock]), place_of(sock)
        assert handed.take(("127.0.0.1", 1), client_speaks_first=True, transparent=None) is None
        assert handed.take(place, client_speaks_first=True, transparent=None) is sock
        assert handed.take(place, client_speaks_first=True, transparent=None) is None
        handed.close()
        assert sock.fileno() >= 0, "who took it owns it"
        assert not sock.getblocking()
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT)


def test_a_socket_of_a_server_that_speaks_first_does_not_wait_for_its_client() -> None:
    with listening() as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 5)
        handed = HandedSockets([sock])
        assert handed.take(place_of(sock), client_speaks_first=False, transparent=None) is sock
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT) == 0


WITHOUT_IPV6 = f"""
{PRELUDE}
from egressproxy.runtime.handed_sockets import HandedSockets
sock = socket.create_server(("0.0.0.0", 0))
place = "::", sock.getsockname()[1]
handed = HandedSockets([sock])
handed.require_all_in([place])
assert handed.take(place, client_speaks_first=True, transparent=None) is sock
"""


def test_where_the_kernel_has_no_ipv6_a_socket_of_all_ipv4_is_that_of_a_port_without_an_address() -> None:
    need_filters()
    subprocess.run([sys.executable, "-c", WITHOUT_IPV6], check=True, timeout=WAIT_S)
    with listening(host="0.0.0.0") as sock:
        port = place_of(sock)[1]
        with pytest.raises(BindError, match=f"0.0.0.0 port {port} has no listener.*expected one of :: port {port}"):
            HandedSockets([sock]).require_all_in([("::", port)])


def test_what_nobody_took_is_closed() -> None:
    sock = listening()
    HandedSockets([sock]).close()
    assert sock.fileno() < 0


def test_each_must_have_a_listener() -> None:
    with listening() as one, listening() as other:
        handed = HandedSockets([one, other])
        handed.require_all_in([place_of(one), place_of(other), ("::", 9090)])
        handed.take(place_of(one), client_speaks_first=True, transparent=None)
        with pytest.raises(BindError) as caught:
            handed.require_all_in([place_of(other), ("::", 9090)])
        assert str(caught.value) == (
            f"the socket that was handed over for 127.0.0.1 port {place_of(one)[1]} has no listener: its clients would wait in "
            f"vain; expected one of 127.0.0.1 port {place_of(other)[1]}, :: port 9090: change the socket unit, or the "
            "configuration"
        )


def test_a_wildcard_that_takes_ipv6_only_is_refused() -> None:
    with socket.socket(socket.AF_INET6) as sock:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(("::", 0))
        sock.listen()
        with pytest.raises(BindError, match=r"takes IPv6 only: .*BindIPv6Only=both"):
            HandedSockets([sock]).take(place_of(sock), client_speaks_first=True, transparent=None)


@pytest.mark.parametrize(("host", "level", "option"), [("127.0.0.1", socket.IPPROTO_IP, 19), ("::1", 41, 75)])
def test_tproxy_needs_a_socket_that_is_transparent(host: str, level: int, option: int) -> None:
    if os.geteuid() != 0:
        pytest.skip("IP_TRANSPARENT needs root")
    with listening(host=host) as sock:
        handed = HandedSockets([sock])
        with pytest.raises(BindError, match=r"is not transparent: .*Transparent=yes"):
            handed.take(place_of(sock), client_speaks_first=True, transparent="tproxy")
        sock.setsockopt(level, option, 1)  # linux/in.h, linux/in6.h: IP_TRANSPARENT, IPV6_TRANSPARENT
        assert handed.take(place_of(sock), client_speaks_first=True, transparent="tproxy") is sock
