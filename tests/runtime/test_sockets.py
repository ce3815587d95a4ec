from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from support.loops import until
from support.namespaces import Namespace, need_namespaces
from support.no_ipv6 import PRELUDE, need_filters
from support.peers import listening

from egressproxy.runtime.sockets import BindError, OwnPorts, is_local_address, listen, raise_descriptor_limit

LINUX = sys.platform == "linux"


def in_child(script, *arguments):
    """Run the script in a Python of its own, which may change its limits and its user; what it printed, in lines."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture
def free_port():
    with socket.socket(socket.AF_INET6) as sock:
        sock.bind(("::", 0))
        return sock.getsockname()[1]


# --- listen -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "0.0.0.0", "::"])
def test_listens_and_never_blocks(address, free_port):
    with listen(address, free_port, client_speaks_first=False) as sock:
        assert sock.getsockname()[:2] == (address, free_port)
        assert not sock.getblocking()
        assert not sock.get_inheritable()
        with pytest.raises(BlockingIOError):
            sock.accept()
        reach = {"0.0.0.0": "127.0.0.1", "::": "127.0.0.1"}.get(address, address)
        with socket.create_connection((reach, free_port)):
            accepted, _ = sock.accept()
            accepted.close()


def test_the_ipv6_wildcard_takes_both_families(free_port):
    with listen("::", free_port, client_speaks_first=False) as sock:
        for reach in ("127.0.0.1", "::1"):
            with socket.create_connection((reach, free_port)):
                accepted, _ = sock.accept()
                accepted.close()


def test_where_ipv6_is_switched_off_the_ipv6_wildcard_takes_ipv4(free_port):
    need_namespaces()
    with Namespace("host") as host:
        host.set("ipv6/conf/all/disable_ipv6", 1)
        with host.call(lambda: listen("::", free_port, client_speaks_first=False)) as sock:
            assert sock.getsockname()[0] == "::"
            with host.call(lambda: socket.create_connection(("127.0.0.1", free_port))):
                accepted, _ = sock.accept()
                accepted.close()


WITHOUT_IPV6 = f"""
{PRELUDE}
import logging
from egressproxy.runtime.sockets import BindError, bound_address, listen
logging.basicConfig(format="%(message)s", stream=sys.stdout)
for address in ("::", "0.0.0.0", "::1"):
    try:
        sock = listen(address, int(sys.argv[1]), client_speaks_first=False)
    except BindError as error:
        print(error)
        continue
    print(bound_address(address), sock.getsockname()[0])
    socket.create_connection(("127.0.0.1", int(sys.argv[1])))
    sock.accept()[0].close()
    sock.close()
"""


def test_where_the_kernel_has_no_ipv6_the_ipv6_wildcard_is_that_of_ipv4_and_that_is_said_once(free_port):
    need_filters()
    assert in_child(WITHOUT_IPV6, str(free_port)) == [
        f"this kernel has no IPv6: port {free_port} is listened on at 0.0.0.0 instead of ::, for IPv4 clients",
        "0.0.0.0 0.0.0.0",
        "0.0.0.0 0.0.0.0",
        f"cannot listen on ::1 port {free_port}: Address family not supported by protocol; this kernel has no IPv6: choose "
        "an address of IPv4",
    ]


@pytest.mark.skipif(not LINUX, reason="Linux inherits socket options from the listener")
def test_accepted_sockets_send_small_writes_at_once(free_port):
    with (
        listen("127.0.0.1", free_port, client_speaks_first=False) as sock,
        socket.create_connection(("127.0.0.1", free_port)),
    ):
        accepted, _ = sock.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@pytest.mark.skipif(not LINUX, reason="TCP_DEFER_ACCEPT")
async def test_where_the_client_speaks_first_it_is_taken_when_it_has_spoken(free_port):
    with (
        listen("127.0.0.1", free_port, client_speaks_first=True) as sock,
        socket.create_connection(("127.0.0.1", free_port)) as client,
    ):
        with pytest.raises(BlockingIOError):
            sock.accept()
        client.send(b"CONNECT")
        taken = []

        def look():
            try:
                taken.append(sock.accept()[0])
            except BlockingIOError:
                pass
            return taken

        await until(look)
        with taken[0] as accepted:
            assert accepted.recv(100) == b"CONNECT"


def test_a_port_in_use_is_told_with_what_to_do():
    with listening() as other:
        port = other.getsockname()[1]
        with pytest.raises(BindError) as caught:
            listen("127.0.0.1", port, client_speaks_first=True)
    assert str(caught.value) == (
        f"cannot listen on 127.0.0.1 port {port}: Address already in use; another program (or another egressproxy) has it: "
        "stop that one or choose another port"
    )


def test_a_port_that_was_just_left_can_be_used_again(free_port):
    with listen("127.0.0.1", free_port, client_speaks_first=False) as sock:
        client = socket.create_connection(("127.0.0.1", free_port))
        accepted, _ = sock.accept()
        accepted.close()  # this side closes first, so the port is left in TIME_WAIT
        client.close()
    listen("127.0.0.1", free_port, client_speaks_first=False).close()


def test_an_address_of_another_host_is_told_apart(free_port):
    with pytest.raises(BindError, match="no interface of this host has that address"):
        listen("203.0.113.77", free_port, client_speaks_first=True)


LOW_PORT = """
    import os
    from egressproxy.runtime.sockets import BindError, listen
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
    try:
        listen("127.0.0.1", 443, client_speaks_first=True)
    except BindError as error:
        print(error)
"""


def ports_below_1024_are_free():
    setting = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")
    return not setting.exists() or int(setting.read_text()) <= 443


@pytest.mark.skipif(ports_below_1024_are_free(), reason="every user may use low ports here")
def test_a_low_port_without_the_right_is_told_with_what_it_needs():
    (line,) = in_child(LOW_PORT)
    assert line == (
        "cannot listen on 127.0.0.1 port 443: Permission denied; ports below 1024 need root or the capability "
        "CAP_NET_BIND_SERVICE"
    )


def test_a_failed_listen_leaves_no_socket(recwarn):
    with pytest.raises(BindError):
        listen("203.0.113.77", 1, client_speaks_first=True)
    assert list(recwarn) == []


IP_TRANSPARENT, IPV6_TRANSPARENT = 19, 75  # linux/in.h, linux/in6.h


@pytest.mark.skipif(not LINUX, reason="TPROXY")
@pytest.mark.parametrize(
    ("address", "level", "option"),
    [
        ("127.0.0.1", socket.IPPROTO_IP, IP_TRANSPARENT),
        ("::1", socket.IPPROTO_IPV6, IPV6_TRANSPARENT),
        ("::", socket.IPPROTO_IPV6, IPV6_TRANSPARENT),
    ],
)
def test_a_tproxy_listener_takes_connections_to_any_address(address, level, option, free_port):
    if os.geteuid() != 0:
        pytest.skip("IP_TRANSPARENT needs root")
    for transparent, is_set in (("tproxy", 1), ("redirect", 0), (None, 0)):
        with listen(address, free_port, client_speaks_first=True, transparent=transparent) as sock:
            assert sock.getsockopt(level, option) == is_set


WITHOUT_RIGHT = """
    import os
    from egressproxy.runtime.sockets import BindError, listen
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
    for address in ("127.0.0.1", "::1"):
        try:
            listen(address, 8443, client_speaks_first=True, transparent="tproxy")
        except BindError as error:
            print(error)
"""


@pytest.mark.skipif(not LINUX, reason="TPROXY")
def test_tproxy_without_the_right_is_told_with_what_it_needs():
    assert in_child(WITHOUT_RIGHT) == [
        f"cannot listen on {address} port 8443: Operation not permitted; transparent: tproxy needs root or the capability "
        "CAP_NET_ADMIN"
        for address in ("127.0.0.1", "::1")
    ]


def test_redirect_needs_no_right():
    script = WITHOUT_RIGHT.replace('"tproxy")', '"redirect").close()').replace("8443", "0")
    assert in_child(script) == []


@pytest.mark.skipif(LINUX, reason="Linux has TPROXY")
def test_tproxy_elsewhere_is_told_apart(free_port):
    with pytest.raises(BindError, match="tproxy works on Linux only"):
        listen("127.0.0.1", free_port, client_speaks_first=True, transparent="tproxy")


# --- own places ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.9.10", "::1", "0.0.0.0", "::"])
def test_this_hosts_own_addresses_are_known(address):
    if address == "127.8.9.10" and not LINUX:
        pytest.skip("only Linux has all of 127/8")
    assert is_local_address(address)


@pytest.mark.parametrize("address", ["203.0.113.77", "198.51.100.1", "2001:db8::77"])
def test_addresses_of_others_are_not(address):
    assert not is_local_address(address)


@pytest.mark.parametrize(
    ("places", "address", "port", "own"),
    [
        # one loopback listener: that address, and the ways to say it
        ({("127.0.0.1", 3128)}, "127.0.0.1", 3128, True),
        ({("127.0.0.1", 3128)}, "127.0.0.1", 3129, False),
        ({("127.0.0.1", 3128)}, "::ffff:127.0.0.1", 3128, True),
        ({("127.0.0.1", 3128)}, "0.0.0.0", 3128, True),
        ({("127.0.0.1", 3128)}, "::", 3128, True),
        ({("127.0.0.1", 3128)}, "::ffff:0.0.0.0", 3128, True),
        ({("127.0.0.1", 3128)}, "203.0.113.77", 3128, False),
        ({("127.0.0.1", 3128)}, "::1", 3128, False),
        # IPv6 loopback
        ({("::1", 9090)}, "::1", 9090, True),
        ({("::1", 9090)}, "0:0:0:0:0:0:0:1", 9090, True),
        ({("::1", 9090)}, "127.0.0.1", 9090, False),
        # wildcards: every address of this host, and no other
        ({("0.0.0.0", 3128)}, "127.0.0.1", 3128, True),
        ({("0.0.0.0", 3128)}, "::ffff:127.0.0.1", 3128, True),
        ({("0.0.0.0", 3128)}, "0.0.0.0", 3128, True),
        ({("0.0.0.0", 3128)}, "203.0.113.77", 3128, False),
        ({("0.0.0.0", 3128)}, "127.0.0.1", 3129, False),
        ({("::", 3128)}, "::1", 3128, True),
        ({("::", 3128)}, "127.0.0.1", 3128, True),
        ({("::", 3128)}, "2001:db8::77", 3128, False),
        # a listener on a mapped address is one on the IPv4 address
        ({("::ffff:127.0.0.1", 3128)}, "127.0.0.1", 3128, True),
        ({("::ffff:127.0.0.1", 3128)}, "::ffff:127.0.0.1", 3128, True),
        ({("::ffff:0.0.0.0", 3128)}, "127.0.0.1", 3128, True),
        # ports of one listener are not those of another
        ({("0.0.0.0", 3128), ("127.0.0.1", 9090)}, "127.0.0.1", 9090, True),
        ({("127.0.0.1", 3128), ("203.0.113.77", 9090)}, "127.0.0.1", 9090, False),
        (set(), "127.0.0.1", 3128, False),
    ],
)
def test_a_place_of_this_proxy_is_recognised(places, address, port, own):
    assert OwnPorts(places)(address, port) is own


def test_an_address_of_an_interface_is_own_behind_a_wildcard():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("203.0.113.77", 9))  # sends nothing: only asks which address would be used
        except OSError:
            pytest.skip("no address but loopback")
        address = probe.getsockname()[0]
    assert OwnPorts({("0.0.0.0", 3128)})(address, 3128)
    assert not OwnPorts({("127.0.0.1", 3128)})(address, 3128)


STARVED = """
    import os, resource
    from egressproxy.runtime.sockets import OwnPorts
    own = OwnPorts({("0.0.0.0", 3128)})
    resource.setrlimit(resource.RLIMIT_NOFILE, (30, 30))
    try:
        while True:
            os.dup(0)
    except OSError:
        pass
    print(own("127.0.0.1", 3128), own("203.0.113.77", 3128))
"""


def test_without_a_descriptor_to_find_out_nothing_is_taken_for_foreign():
    assert in_child(STARVED) == ["True True"]


# --- the descriptor limit -----------------------------------------------------------------------------------------

RAISE = """
    import resource, sys
    from egressproxy.runtime.sockets import raise_descriptor_limit
    soft, hard, wanted = map(int, sys.argv[1:])
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    import os
    if os.geteuid() == 0:
        os.setuid(65534)
    print(raise_descriptor_limit(wanted), *resource.getrlimit(resource.RLIMIT_NOFILE))
"""


@pytest.mark.parametrize(
    ("soft", "hard", "wanted", "expected"),
    [
        (256, 1024, 512, "1024 1024 1024"),  # what is allowed anyway is taken whole
        (256, 1024, 4096, "1024 1024 1024"),  # no right to more
        (1024, 1024, 512, "1024 1024 1024"),
    ],
)
def test_the_soft_limit_is_raised_as_far_as_is_allowed(soft, hard, wanted, expected):
    assert in_child(RAISE, str(soft), str(hard), str(wanted)) == [expected]


MAY_RAISE = """
    import resource
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, 512))
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, 1000))
        print("yes")
    except (ValueError, OSError):
        print("no")
"""


def test_whoever_may_raise_the_hard_limit_does():
    if in_child(MAY_RAISE) == ["no"]:
        pytest.skip("this user may not")
    script = RAISE.replace("os.setuid(65534)", "pass")
    assert in_child(script, "256", "512", "1000") == ["1000 1000 1000"]


def test_the_limit_in_force_is_told():
    assert raise_descriptor_limit(1) == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
