"""The capture rules in a real kernel: whom they bring to the listener, whom they leave alone, and that they go again.

Each test has three hosts of its own (see support.namespaces). `own`: the listener and the program share the host in the
middle. `routed`: the program is on the first host, and the middle one forwards.
"""

from __future__ import annotations

import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from ipaddress import ip_network
from pathlib import Path
from typing import Literal, NamedTuple, Self

import pytest
from support.clients import receive, receive_all
from support.namespaces import (
    APP,
    OTHER_SITE,
    PROXY,
    PROXY_OUTSIDE,
    SITE,
    Hosts,
    Namespace,
    need_namespaces,
    three_hosts,
)
from support.origin import TcpOrigin

from egressproxy.capture import original_destination
from egressproxy.redirect import Capture, PortRange, printed
from egressproxy.runtime import nftables
from egressproxy.runtime.sockets import listen

LISTENER = 15_001
PROXY_UID = 1337
SOON_S = 0.15
"""How long a test waits for what must not come."""
MODES: tuple[Literal["redirect", "tproxy"], ...] = ("redirect", "tproxy")

each_mode = pytest.mark.parametrize("mode", MODES)
each_way = pytest.mark.parametrize("way", ["own", "routed"])


class Net(NamedTuple):
    """The hosts, and what was started on them: servers on port 443 (and 8080) of both addresses of the site."""

    hosts: Hosts
    stack: ExitStack

    def program(self, way: str) -> Namespace:
        """The host that the captured program runs on."""
        return self.hosts.proxy if way == "own" else self.hosts.app

    def listen(self, mode: Literal["redirect", "tproxy"], address: str = "::") -> TcpOrigin:
        """A transparent listener, which tells each client where it was going and then echoes."""

        def serve(client: socket.socket) -> None:
            dialled = original_destination(client, mode, LISTENER)
            client.sendall(f"captured {dialled}\n".encode())
            echo(client)

        def start() -> TcpOrigin:
            origin = TcpOrigin(serve)
            origin._listening.close()
            origin._listening = listen(address, LISTENER, client_speaks_first=False, transparent=mode)
            origin._listening.setblocking(True)
            return self.stack.enter_context(origin)

        return self.hosts.proxy.call(start)

    def capture(self, mode: Literal["redirect", "tproxy"], way: str = "own", **settings: object) -> list[str]:
        """Apply the rules on the host in the middle."""
        uid = PROXY_UID if way == "own" else None
        web = (PortRange(80, 80), PortRange(443, 443))
        capture = Capture(LISTENER, mode, own=way == "own", routed=way == "routed", uid=uid, ports=web)
        return self.hosts.proxy.call(nftables.apply, capture._replace(**settings))  # type: ignore[arg-type]

    def rules(self) -> str:
        """All there is on the host in the middle: nftables, routing rules, and the routes that are ours."""
        proxy = self.hosts.proxy
        shown = proxy.run("nft", "list", "ruleset").out
        for version in (4, 6):
            shown += proxy.ip(f"-{version}", "rule", "show")
            shown += proxy.run("ip", f"-{version}", "route", "show", "table", "8192", code=None).out
        return shown


def echo(sock: socket.socket) -> None:
    while data := sock.recv(65_536):
        sock.sendall(data)


def say_site(sock: socket.socket) -> None:
    sock.sendall(b"the site itself\n")
    echo(sock)


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    """The three, with servers that say that they are the site."""
    need_namespaces("nft")
    with three_hosts() as made, ExitStack() as stack:
        made.proxy.forward()
        for address in (SITE[4], SITE[6], OTHER_SITE[4], OTHER_SITE[6]):
            for port in (443, 8080):
                stack.enter_context(made.site.call(TcpOrigin, say_site, address, port))
        yield made


@pytest.fixture
def net(hosts: Hosts) -> Iterator[Net]:
    """What the test starts ends with it, and so do its rules."""
    with ExitStack() as stack:
        yield Net(hosts, stack)
        hosts.proxy.call(nftables.remove)


def dial(host: Namespace, address: str, port: int = 443, uid: int = 0, wait_s: float = 5) -> socket.socket:
    return host.call(socket.create_connection, (address, port), wait_s, uid=uid)


def reach(
    host: Namespace, places: dict[int, str], port: int = 443, uid: int = 0, versions: tuple[int, ...] = (4, 6)
) -> list[str]:
    """What answers there, over IPv4 and over IPv6."""
    said = []
    for version in versions:
        with dial(host, places[version], port, uid) as sock:
            sock.shutdown(socket.SHUT_WR)
            said.append(receive_all(sock).decode().strip())
    return said


def captured(places: dict[int, str], port: int = 443) -> list[str]:
    """What the listener says to a client that was on its way there."""
    return [f"captured ('{address}', {port})" for address in places.values()]


THE_SITE = ["the site itself"] * 2
LOOPBACK = {4: "127.0.0.1", 6: "::1"}


# --- who is captured ----------------------------------------------------------------------------------------------


@each_mode
@each_way
def test_a_connection_comes_to_the_listener_and_keeps_its_destination(net, mode, way):
    program = net.program(way)
    assert reach(program, SITE) == THE_SITE
    net.listen(mode)
    net.capture(mode, way)
    assert reach(program, SITE) == captured(SITE)
    assert reach(program, OTHER_SITE) == captured(OTHER_SITE)


@each_mode
@pytest.mark.parametrize("address", ["0.0.0.0", "127.0.0.1"])
def test_a_listener_for_ipv4_alone_gets_what_is_ipv4(net, mode, address):
    net.listen(mode, address)
    net.capture(mode)
    assert reach(net.hosts.proxy, SITE, versions=(4,)) == captured(SITE)[:1]
    with pytest.raises(ConnectionRefusedError):
        reach(net.hosts.proxy, SITE, versions=(6,))


@each_mode
def test_both_ways_can_be_captured_at_once(net, mode):
    net.listen(mode)
    net.capture(mode, routed=True)
    for host in (net.hosts.app, net.hosts.proxy):
        assert reach(host, SITE) == captured(SITE)


@each_mode
@each_way
def test_all_bytes_pass_both_ways_and_each_end_is_seen(net, mode, way):
    net.listen(mode)
    net.capture(mode, way)
    data = bytes(range(256)) * 4096
    with dial(net.program(way), SITE[6]) as sock, ThreadPoolExecutor(1) as pool:
        received = pool.submit(receive_all, sock)
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        assert received.result() == f"captured ('{SITE[6]}', 443)\n".encode() + data


@each_mode
@each_way
def test_a_destination_that_others_rewrite_does_not_get_past(net, mode, way):
    net.hosts.proxy.run(
        "nft",
        "-f",
        "-",
        stdin="table ip balancer {"
        f" chain o {{ type nat hook output priority -100; ip daddr {SITE[4]} dnat to {OTHER_SITE[4]}; }};"
        f" chain p {{ type nat hook prerouting priority -100; ip daddr {SITE[4]} dnat to {OTHER_SITE[4]}; }}; }}",
    )
    net.stack.callback(net.hosts.proxy.run, "nft", "delete table ip balancer")
    net.listen(mode)
    net.capture(mode, way)
    if mode == "tproxy" and way == "routed":
        with pytest.raises(ConnectionResetError):
            reach(net.program(way), SITE, versions=(4,))
    else:
        first = SITE if mode == "redirect" else OTHER_SITE
        assert reach(net.program(way), SITE, versions=(4,)) == captured(first)[:1]


# --- who is left alone --------------------------------------------------------------------------------------------


@each_mode
def test_the_proxys_own_connections_are_left_alone(net, mode):
    net.listen(mode)
    net.capture(mode)
    assert reach(net.hosts.proxy, SITE, uid=PROXY_UID) == THE_SITE


@each_mode
def test_what_the_proxy_sends_behind_its_own_close_arrives(net, mode):
    net.listen(mode)
    net.capture(mode)
    with net.hosts.site.call(TcpOrigin, None, SITE[4], 80) as site:
        sock = dial(net.hosts.proxy, SITE[4], 80, uid=PROXY_UID)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        with site.take() as server:
            sock.sendall(b"x" * 400_000)
            sock.close()  # most of it is still to be sent, and the socket has no user any more
            assert len(receive(server, 1 << 20)) == 400_000


@each_mode
@each_way
def test_what_goes_to_this_host_itself_is_left_alone(net, mode, way):
    net.listen(mode)
    net.capture(mode, way)
    for own in (PROXY, PROXY_OUTSIDE, *([LOOPBACK] if way == "own" else [])):
        with ExitStack() as stack:
            for address in own.values():
                stack.enter_context(net.hosts.proxy.call(TcpOrigin, say_site, address, 443))
            assert reach(net.program(way), own) == THE_SITE


@each_mode
def test_who_connects_to_this_host_is_left_alone(net, mode):
    net.listen(mode)
    net.capture(mode, ports=(PortRange(1, 52), PortRange(54, 15_000), PortRange(15_002, 65535)))
    with (
        net.hosts.proxy.call(TcpOrigin, say_site, PROXY[4], 443),
        net.hosts.proxy.call(TcpOrigin, say_site, PROXY[6], 443),
    ):
        assert reach(net.hosts.app, PROXY) == THE_SITE


@each_mode
def test_who_connects_to_the_listener_itself_was_not_captured(net, mode):
    net.listen(mode)
    net.capture(mode, routed=True)
    assert reach(net.hosts.app, PROXY, LISTENER) == ["captured None"] * 2
    assert reach(net.hosts.proxy, LOOPBACK, LISTENER) == ["captured None"] * 2


@each_mode
@each_way
def test_other_ports_are_left_alone(net, mode, way):
    net.listen(mode)
    net.capture(mode, way)
    assert reach(net.program(way), SITE, 8080) == THE_SITE
    net.capture(mode, way, ports=(PortRange(8000, 8100),))
    assert reach(net.program(way), SITE, 8080) == captured(SITE, 8080)
    assert reach(net.program(way), SITE, 443) == THE_SITE


@each_mode
@each_way
def test_networks_are_left_out_or_taken_alone(net, mode, way):
    program = net.program(way)
    net.listen(mode)
    one = (ip_network(SITE[4]), ip_network(SITE[6]))
    net.capture(mode, way, exclude=one)
    assert reach(program, SITE) == THE_SITE
    assert reach(program, OTHER_SITE) == captured(OTHER_SITE)
    net.capture(mode, way, include=one)
    assert reach(program, SITE) == captured(SITE)
    assert reach(program, OTHER_SITE) == THE_SITE
    net.capture(mode, way, include=(ip_network("10.201.2.0/24"), ip_network("fd01:201:2::/64")), exclude=one)
    assert reach(program, SITE) == THE_SITE
    assert reach(program, OTHER_SITE) == captured(OTHER_SITE)


@each_mode
def test_a_family_that_nothing_is_included_of_is_left_alone(net, mode):
    net.listen(mode)
    net.capture(mode, include=(ip_network("0.0.0.0/0"),))
    assert reach(net.hosts.proxy, SITE) == [*captured(SITE)[:1], *THE_SITE[:1]]
    net.capture(mode, exclude=(ip_network("0.0.0.0/1"), ip_network("128.0.0.0/1")))
    assert reach(net.hosts.proxy, SITE) == [*THE_SITE[:1], *captured(SITE)[1:]]


@each_mode
@each_way
def test_connections_from_before_go_on(net, mode, way):
    with dial(net.program(way), SITE[4]) as sock:
        assert receive(sock, 16) == b"the site itself\n"
        net.listen(mode)
        net.capture(mode, way)
        sock.sendall(b"still there")
        assert receive(sock, 11) == b"still there"
        sock.shutdown(socket.SHUT_WR)
        assert receive_all(sock) == b""


@each_mode
@each_way
def test_captured_connections_go_on_when_the_rules_are_applied_again(net, mode, way):
    net.listen(mode)
    net.capture(mode, way)
    with dial(net.program(way), SITE[4]) as sock:
        assert receive(sock, 8) == b"captured"
        net.capture(mode, way, exclude=(ip_network(SITE[4]),))
        sock.sendall(b"still there")
        sock.shutdown(socket.SHUT_WR)
        assert receive_all(sock).endswith(b"still there")


# --- what goes wrong ----------------------------------------------------------------------------------------------


@each_mode
@each_way
def test_while_the_proxy_is_down_it_is_refused_and_not_let_past(net, mode, way):
    net.capture(mode, way)
    for version in (4, 6):
        with pytest.raises(ConnectionRefusedError):
            reach(net.program(way), SITE, versions=(version,))


@each_way
def test_a_listener_that_is_not_transparent_gets_nothing_by_tproxy(net, way):
    net.capture("tproxy", way)
    for version, address in ((4, "0.0.0.0"), (6, "::")):
        with net.hosts.proxy.call(TcpOrigin, say_site, address, LISTENER), pytest.raises(ConnectionRefusedError):
            reach(net.program(way), SITE, versions=(version,))


@pytest.mark.parametrize("version", [4, 6], ids=["IPv4", "IPv6"])
def test_without_the_routing_rule_nothing_leaves(net, version):
    net.listen("tproxy")
    net.capture("tproxy")
    net.hosts.proxy.ip(f"-{version}", "rule", "del", "pref", "8")
    with net.hosts.site.call(TcpOrigin, None, SITE[version], 80) as site:
        with pytest.raises(OSError, match="timed out"):
            dial(net.hosts.proxy, SITE[version], 80, wait_s=SOON_S)
        assert net.hosts.site.call(site.contacts) == 0


@each_mode
@each_way
def test_the_last_packet_of_a_connection_that_is_gone_does_not_leave(net, mode, way):
    """Unless it is the proxy's own, or of connections that are not captured."""
    with Strays(net.hosts) as strays:
        assert all(strays.leave(sender) for sender in ("own", "routed", "the proxy's"))
        net.capture(mode, way)
        assert [sender for sender in ("own", "routed", "the proxy's") if not strays.leave(sender)] == [way]
        assert strays.leave(way, 8080)
        net.capture(mode, way, exclude=(ip_network(SITE[4]),))
        assert strays.leave(way)


class Strays:
    """Packets that belong to no connection, and whether the site gets them."""

    def __init__(self, hosts: Hosts) -> None:
        raw = (socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)
        self._senders = {
            "own": (hosts.proxy.call(socket.socket, *raw), PROXY_OUTSIDE[4]),
            "routed": (hosts.app.call(socket.socket, *raw), APP[4]),
            "the proxy's": (hosts.proxy.call(socket.socket, *raw, uid=PROXY_UID), PROXY_OUTSIDE[4]),
        }
        self._seen = hosts.site.call(socket.socket, *raw)
        self._seen.settimeout(SOON_S)
        self._number = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._seen.close()
        for sock, _address in self._senders.values():
            sock.close()

    def leave(self, sender: str, port: int = 80) -> bool:
        self._number += 1
        sock, source = self._senders[sender]
        packet = last_packet(source, SITE[4], port, self._number)
        try:
            sock.sendto(packet, (SITE[4], 0))
            while self._seen.recv(100)[20:] != packet:
                pass  # resets of the ones before
        except (TimeoutError, PermissionError):  # which a socket is told when its own host stops it
            return False
        return True


def last_packet(source: str, destination: str, port: int, number: int) -> bytes:
    """FIN and ACK (RFC 9293 section 3.1) of a connection that nobody knows."""
    header = struct.pack("!HHIIBBHHH", 40_000, port, number, 1, 5 << 4, 0x11, 1024, 0, 0)
    pseudo = (
        socket.inet_aton(source) + socket.inet_aton(destination) + struct.pack("!HH", socket.IPPROTO_TCP, len(header))
    )
    total = sum(struct.unpack("!16H", pseudo + header))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return header[:16] + struct.pack("!H", ~total & 0xFFFF) + header[18:]


@each_mode
def test_where_loopback_has_no_ipv6_it_is_stopped_and_said(net, mode):
    net.hosts.proxy.set("ipv6/conf/lo/disable_ipv6", 1)
    net.listen(mode)
    said = net.capture(mode)
    assert reach(net.hosts.proxy, SITE, versions=(4,)) == captured(SITE)[:1]
    with pytest.raises(OSError):
        dial(net.hosts.proxy, SITE[6], wait_s=SOON_S)
    assert said == (
        ["IPv6 is off on the loopback interface: connections over IPv6 are stopped, not captured"]
        if mode == "tproxy"
        else []
    )
    net.hosts.proxy.call(nftables.remove)
    assert reach(net.hosts.proxy, SITE) == THE_SITE
    net.hosts.proxy.set("ipv6/conf/lo/disable_ipv6", 0)


# --- putting them there and taking them away ----------------------------------------------------------------------


@each_mode
def test_twice_is_the_same_as_once(net, mode):
    net.capture(mode, routed=True)
    once = net.rules()
    assert "table inet egressproxy" in once
    net.capture(mode, routed=True)
    assert net.rules() == once


@each_mode
def test_removing_leaves_nothing_behind_and_is_harmless_twice(net, mode):
    before = net.rules()
    net.hosts.proxy.call(nftables.remove)
    assert net.rules() == before
    net.listen(mode)
    net.capture(mode, routed=True)
    assert net.rules() != before
    net.hosts.proxy.call(nftables.remove)
    assert net.rules() == before
    net.hosts.proxy.call(nftables.remove)
    assert reach(net.hosts.proxy, SITE) == THE_SITE


def test_redirect_in_place_of_tproxy_leaves_nothing_of_that(net):
    net.capture("redirect")
    alone = net.rules()
    net.capture("tproxy")
    assert "fwmark 0x2000/0x2000 lookup 8192" in net.rules()
    net.capture("redirect")
    assert net.rules() == alone


def test_the_rules_of_others_stay(net):
    proxy = net.hosts.proxy
    proxy.run("nft", "-f", "-", stdin="table inet firewall { chain input { type filter hook input priority 0; }; }")
    proxy.ip("rule", "add", "pref", "8", "fwmark", "0x1", "lookup", "8192")
    proxy.ip("route", "add", "blackhole", "192.0.2.0/24", "table", "8192")
    before = net.rules()
    net.capture("tproxy")
    proxy.call(nftables.remove)
    assert net.rules() == before
    proxy.ip("rule", "del", "pref", "8")
    proxy.ip("route", "flush", "table", "8192")
    proxy.run("nft", "flush", "ruleset")


@each_mode
def test_what_is_printed_can_be_piped_into_nft(net, mode):
    capture = Capture(LISTENER, mode, own=True, routed=True, uid=PROXY_UID)
    proxy = net.hosts.proxy
    proxy.call(nftables.apply, capture)
    applied = proxy.run("nft", "list", "ruleset").out
    proxy.call(nftables.remove)
    for _ in range(2):
        proxy.run("nft", "-f", "-", stdin=printed(capture))
    assert proxy.run("nft", "list", "ruleset").out == applied


def test_rules_that_nft_refuses_change_nothing(net):
    before = net.rules()
    with pytest.raises(nftables.CaptureFailed, match=r"^nft --check -f -: .*Error"):
        net.capture("tproxy", ports=(PortRange(443, 99_999),))
    assert net.rules() == before


@pytest.mark.parametrize("program", ["nft", "ip"])
def test_a_program_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, program: str) -> None:
    fake(tmp_path, "ip" if program == "nft" else "nft", "exit 0")
    monkeypatch.setattr(nftables, "_PATH", str(tmp_path))
    with pytest.raises(nftables.CaptureFailed, match=f"{program} is not installed .Debian: apt-get install"):
        nftables.apply(Capture(LISTENER, "tproxy", own=False, routed=True))


def test_without_ip_there_is_no_routing_to_remove(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake(tmp_path, "nft", "cat > $(dirname $0)/seen")
    monkeypatch.setattr(nftables, "_PATH", f"{tmp_path}:/bin")
    if (Path("/bin") / "ip").exists():
        monkeypatch.setattr(
            nftables.shutil, "which", lambda name, path: str(tmp_path / "nft") if name == "nft" else None
        )
    nftables.remove()
    assert (tmp_path / "seen").read_text() == "table inet egressproxy\ndelete table inet egressproxy\n"


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo 'Operation not permitted (you must be root)' >&2; exit 1", "not permitted; this needs root, or CAP_NET_ADMIN"),
        ("echo one >&2; echo two >&2; exit 1", "nft -f -: one\ntwo"),
        ("exit 7", "nft -f -: exit code 7"),
        ("for n in 1 2 3 4 5 6 7 8 9; do echo $n >&2; done; exit 1", "nft -f -: 1\n2\n3\n4\n5"),
    ],
)  # fmt: skip
def test_what_a_program_complains_of_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str, said: str
) -> None:
    fake(tmp_path, "nft", script)
    monkeypatch.setattr(nftables, "_PATH", str(tmp_path))
    with pytest.raises(nftables.CaptureFailed) as caught:
        nftables.remove()
    assert str(caught.value).endswith(said) or said in str(caught.value)


def fake(folder: Path, name: str, script: str) -> None:
    program = folder / name
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


AS_NOBODY = """
import os
from egressproxy.runtime import nftables
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
try:
    nftables.remove()
except nftables.CaptureFailed as error:
    print(error)
"""


def test_without_the_right_it_says_what_it_needs() -> None:
    need_namespaces("nft")
    done = subprocess.run([sys.executable, "-c", AS_NOBODY], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "nft -f -: not permitted; this needs root, or CAP_NET_ADMIN in this network namespace\n"
