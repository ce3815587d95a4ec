"""Start, reload, limits and the end, as signals and the files on the disk bring them about."""

from __future__ import annotations

import errno
import os
import re
import signal
import socket
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import certificates, nursery
from support.clients import ESTABLISHED, ask, connect_head, dial, open_tunnel, parse_reply, receive, receive_all
from support.dns import DnsServer, Reply
from support.origin import TcpOrigin, echo
from support.proxy import Proxy, free_port
from support.waiting import eventually

Start = Callable[..., Proxy]


def still_works(tunnel: socket.socket) -> None:
    """The tunnel leads to an echo."""
    tunnel.sendall(b"still here")
    assert receive(tunnel, 10) == b"still here"


def waits_until_refusing(proxy: Proxy) -> None:
    """Until nobody listens on the proxy's port; asking by a connection could make one more log line."""
    eventually(lambda: proxy.port not in {port for _, port in proxy.listening()}, "nobody listens any more")
    with pytest.raises(ConnectionRefusedError):
        dial(proxy)


# --- the end ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_signal_lets_open_tunnels_finish_and_takes_no_new_ones(
    start: Start, open_config: dict[str, Any], echo_origin: TcpOrigin, number: signal.Signals
) -> None:
    proxy = start(open_config)
    with open_tunnel(proxy, echo_origin.target) as tunnel:
        proxy.signal(number)
        eventually(lambda: proxy.get("/readyz") == (503, "draining\n"), "it is not ready any more")
        assert proxy.get("/livez")[0] == 200
        waits_until_refusing(proxy)
        proxy.signal(signal.SIGHUP)  # too late for a reload
        still_works(tunnel)
        assert not proxy.has_ended
    assert proxy.wait() == 0
    (record,) = proxy.logged().records
    assert (record["outcome"], record["bytes_down"]) == ("closed", 10)


def test_at_the_drain_deadline_open_tunnels_are_cut_and_logged(
    start: Start, open_config: dict[str, Any], echo_origin: TcpOrigin
) -> None:
    proxy = start({**open_config, "timeouts": {"drain_s": 0.3}})
    with open_tunnel(proxy, echo_origin.target) as one, open_tunnel(proxy, echo_origin.target) as other:
        still_works(one)
        proxy.signal(signal.SIGTERM)
        assert receive_all(one) == receive_all(other) == b""
        assert proxy.wait() == 0
    assert [(record["outcome"], record["closed_by"], record["status"]) for record in proxy.logged().records] == [
        ("drained", "proxy", 200)
    ] * 2
    assert "drain deadline: 2 connections cut" in proxy.stderr


def test_who_was_still_sending_a_head_is_told_that_the_proxy_drains(
    start: Start, open_config: dict[str, Any], echo_origin: TcpOrigin
) -> None:
    proxy = start(open_config)
    head = connect_head(echo_origin.target)
    with dial(proxy) as client:
        client.sendall(head[:20])
        eventually(lambda: proxy.metric("connections_open") == 1, "the client is inside")
        proxy.signal(signal.SIGTERM)
        waits_until_refusing(proxy)
        client.sendall(head[20:])
        reply = parse_reply(receive_all(client))
    assert (reply.status, reply.slug) == (503, "draining")
    assert proxy.wait() == 0
    assert [record["outcome"] for record in proxy.logged().records] == ["draining"]


def test_who_still_waits_for_a_name_at_the_drain_deadline_is_told_so(
    start: Start, open_config: dict[str, Any], dns: DnsServer
) -> None:
    dns.script("held.example.test", "*", Reply(drop=True))
    proxy = start({**open_config, "timeouts": {"drain_s": 0.2}})
    with dial(proxy) as client:
        client.sendall(connect_head("held.example.test:443"))
        dns.wait_asked("held.example.test")
        proxy.signal(signal.SIGTERM)
        assert parse_reply(receive_all(client)).slug == "draining"
    assert proxy.wait() == 0
    assert [(record["outcome"], record["status"]) for record in proxy.logged().records] == [("draining", 503)]


def test_a_second_sigint_stops_at_once(start: Start, open_config: dict[str, Any], echo_origin: TcpOrigin) -> None:
    proxy = start(open_config)
    with open_tunnel(proxy, echo_origin.target) as tunnel:
        proxy.signal(signal.SIGINT)
        eventually(lambda: proxy.get("/readyz")[0] == 503, "the first one drains")
        still_works(tunnel)
        begun = time.monotonic()
        proxy.signal(signal.SIGINT)
        assert proxy.wait() == 130
        assert time.monotonic() - begun < 10, "and not at the drain deadline"
        assert receive_all(tunnel) == b""
    (record,) = proxy.logged().records
    assert (record["outcome"], record["closed_by"], record["bytes_up"]) == ("cut", "proxy", 10)


def test_with_nobody_inside_it_ends_at_once(start: Start) -> None:
    proxy = start()
    proxy.signal(signal.SIGTERM)
    assert proxy.wait(5) == 0


# --- reload -------------------------------------------------------------------------------------------------------


def rules(open_config: dict[str, Any], *closed_ports: int) -> dict[str, Any]:
    if not closed_ports:
        return open_config
    return {**open_config, "rules": [{"name": "closed", "action": "deny", "ports": list(closed_ports)}]}


def test_a_new_policy_is_for_new_tunnels_and_leaves_the_open_ones(
    start: Start, open_config: dict[str, Any], echo_origin: TcpOrigin
) -> None:
    proxy = start(open_config)
    with open_tunnel(proxy, echo_origin.target) as tunnel:
        assert proxy.reload(rules(open_config, echo_origin.port))
        assert ask(proxy, connect_head(echo_origin.target)).slug == "rule_denied"
        still_works(tunnel)
        assert proxy.reload(open_config)
        with open_tunnel(proxy, echo_origin.target) as another:
            still_works(another)
        still_works(tunnel)
    assert proxy.metric("config_generation") == 3
    assert sorted(record["outcome"] for record in proxy.settled().records) == ["closed", "closed", "rule_denied"]


LISTENER = "listeners: [{protocol: http-proxy, address: 127.0.0.1, port: PORT}]\n"
TLS_LISTENER = "listeners: [{protocol: http-proxy, port: PORT, tls: {certificate: CERTIFICATE, key: ITSELF}}]\n"
BROKEN = {
    "half a file": (
        LISTENER.replace("]", "") + "allow: [",
        r":1: listeners\[1\]: \[ is opened here and not closed before line 2 ",
    ),
    "an unknown key": (LISTENER + "outbount: allow_any\n", r":2: outbount: "),
    "a rule without an action": (LISTENER + "rules:\n- hosts: [a.example]\n", r":3: rules\[0\]\.action: "),
    "nothing": ("", r":1: expected settings"),
    "a certificate that is not there": (
        TLS_LISTENER.replace("CERTIFICATE", "/nowhere.pem"),
        r":1: listeners\[0\]\.tls\.certificate: .*'/nowhere\.pem'",
    ),
    "a certificate that is none": (
        TLS_LISTENER.replace("CERTIFICATE", "ITSELF"),
        r"(:1)?: listeners\[0\]\.tls: .*egressproxy\.yaml",
    ),
    "a log in no folder": (
        LISTENER + "access_log: [{path: /nowhere/access.log}]\n",
        r":2: access_log\[0\]\.path: .*/nowhere does not exist",
    ),
}


@pytest.fixture(scope="module")
def reloaded(tmp_path_factory: pytest.TempPathFactory, open_config: dict[str, Any]) -> Any:
    with Proxy(tmp_path_factory.mktemp("reloaded"), open_config) as proxy:
        yield proxy


@pytest.mark.parametrize("what", [*BROKEN, "a file that is gone", "a port that is taken"])
def test_a_file_that_cannot_be_used_is_refused_whole_and_the_old_one_stays(
    reloaded: Proxy, open_config: dict[str, Any], echo_origin: TcpOrigin, what: str
) -> None:
    proxy = reloaded
    generation, said_before = proxy.metric("config_generation"), len(proxy.stderr)
    path = re.escape(str(proxy.config_file))
    if what == "a file that is gone":
        proxy.config_file.unlink()
        complaint = f"{path}: "
    elif what == "a port that is taken":
        listeners = [
            *proxy.config["listeners"],
            {"protocol": "http-proxy", "address": "127.0.0.1", "port": echo_origin.port},
        ]
        proxy.write_config({**open_config, "outbound": "registry_only", "listeners": listeners})
        complaint = f"reload: cannot listen on 127.0.0.1 port {echo_origin.port}: Address already in use"
    else:
        text, place = BROKEN[what]
        proxy.config_file.write_text(text.replace("PORT", str(proxy.port)).replace("ITSELF", str(proxy.config_file)))
        complaint = path + place
    with open_tunnel(proxy, echo_origin.target) as tunnel:
        assert not proxy.reload_as_written()
        eventually(lambda: "reload refused" in proxy.stderr[said_before:], "the refusal is told")
        said = proxy.stderr[said_before:]
        assert re.search(complaint, said), said
        assert "reload refused: the configuration of before stays in force" in said
        assert (proxy.metric("config_last_reload_successful"), proxy.metric("config_generation")) == (0, generation)
        shown = proxy.get_json("/config")
        assert shown["generation"] == generation
        assert shown["last_reload_problems"][0]["message"] in said
        assert shown["config"]["outbound"] == "allow_any"
        still_works(tunnel)
        with open_tunnel(proxy, echo_origin.target) as another:
            still_works(another)
    assert proxy.reload(open_config)
    assert proxy.metric("config_last_reload_successful") == 1
    assert proxy.get_json("/config")["last_reload_problems"] == []


def test_listeners_come_go_and_move(start: Start, open_config: dict[str, Any], echo_origin: TcpOrigin) -> None:
    proxy = start(open_config)
    first, second, third = proxy.port, free_port(), free_port()

    def listen_on(*ports: int) -> None:
        listeners = [{"protocol": "http-proxy", "address": "127.0.0.1", "port": port} for port in ports]
        assert proxy.reload({**open_config, "listeners": listeners})

    def works(port: int) -> None:
        proxy.port = port
        with open_tunnel(proxy, echo_origin.target) as tunnel:
            still_works(tunnel)

    def is_gone(port: int) -> None:
        proxy.port = port
        waits_until_refusing(proxy)

    with open_tunnel(proxy, echo_origin.target) as tunnel:
        listen_on(first, second)
        works(first)
        works(second)
        listen_on(second)
        is_gone(first)
        works(second)
        listen_on(third)
        is_gone(second)
        works(third)
        still_works(tunnel)
        listen_on(first, third)
        works(first)
        still_works(tunnel)
    listeners = {record["listener"] for record in proxy.settled().records}
    assert listeners == {f"http-proxy:{port}" for port in (first, second, third)}


def test_the_admin_port_moves_and_goes(start: Start, open_config: dict[str, Any], echo_origin: TcpOrigin) -> None:
    proxy = start(open_config)
    old, new = proxy.admin_port, free_port()
    proxy.admin_port = new
    proxy.write_config({**open_config, "admin": {"port": new}})
    proxy.signal(signal.SIGHUP)
    eventually(lambda: proxy.ready, "the pages are at their new place")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", old))
    proxy.write_config({**open_config, "admin": None})
    proxy.signal(signal.SIGHUP)
    eventually(lambda: not proxy.ready, "the pages are gone")
    with open_tunnel(proxy, echo_origin.target) as tunnel:
        still_works(tunnel)


def test_a_place_that_the_proxy_itself_still_holds_is_refused_with_that_reason(
    start: Start, open_config: dict[str, Any], echo_origin: TcpOrigin
) -> None:
    proxy = start(open_config)
    swapped = [{"protocol": "http-proxy", "address": "127.0.0.1", "port": proxy.admin_port}]
    wider = [{"protocol": "http-proxy", "address": "0.0.0.0", "port": proxy.port}]
    for listeners, admin in ((swapped, {"port": proxy.port}), (swapped, None), (wider, {"port": proxy.admin_port})):
        assert not proxy.reload({**open_config, "listeners": listeners, "admin": admin})
        (problem,) = proxy.get_json("/config")["last_reload_problems"]
        assert "this proxy itself listens on 127.0.0.1 port " in problem["message"]
        with open_tunnel(proxy, echo_origin.target) as tunnel:
            still_works(tunnel)
    assert proxy.reload(open_config)


def test_reloads_under_traffic_lose_nothing(start: Start, open_config: dict[str, Any], echo_origin: TcpOrigin) -> None:
    proxy = start(open_config)
    stop = threading.Event()
    failures: list[BaseException] = []
    done = [0, 0]

    def come_and_go(number: int) -> None:
        try:
            while not stop.is_set():
                with open_tunnel(proxy, echo_origin.target) as tunnel:
                    still_works(tunnel)
                done[number] += 1
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=come_and_go, args=(number,)) for number in range(len(done))]
    with open_tunnel(proxy, echo_origin.target) as tunnel:
        for thread in threads:
            thread.start()
        for number in range(10):
            assert proxy.reload(rules(open_config, *range(1, number + 2)))
            still_works(tunnel)
        stop.set()
        for thread in threads:
            thread.join()
    assert not failures
    records = proxy.settled().records
    assert len(records) == sum(done) + 1
    assert min(done) > 10
    assert {record["outcome"] for record in records} == {"closed"}


def test_a_listener_shows_the_certificate_that_is_in_its_file_at_the_reload(
    start: Start, open_config: dict[str, Any], tmp_path: Path
) -> None:
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"

    def issue(name: str) -> None:
        leaf = certificates.authority().issue_cert(name)
        certificate.write_bytes(leaf.cert_chain_pems[0].bytes())
        key.write_bytes(leaf.private_key_pem.bytes())

    def shake_hands(name: str) -> None:
        with dial(proxy) as sock, certificates.client_context().wrap_socket(sock, server_hostname=name):
            pass

    issue("one.example.test")
    port = free_port()
    tls = {"certificate": str(certificate), "key": str(key)}
    config = {
        **open_config,
        "listeners": [{"protocol": "http-proxy", "address": "127.0.0.1", "port": port, "tls": tls}],
    }
    proxy = start(config)
    proxy.port = port
    shake_hands("one.example.test")
    issue("two.example.test")
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands("two.example.test")
    assert proxy.reload(config)
    shake_hands("two.example.test")


# --- limits -------------------------------------------------------------------------------------------------------


def test_beyond_max_tunnels_is_503_until_one_ends(
    start: Start, open_config: dict[str, Any], echo_origin: TcpOrigin
) -> None:
    proxy = start({**open_config, "limits": {"max_tunnels": 3}})
    tunnels = [open_tunnel(proxy, echo_origin.target) for _ in range(3)]
    reply = ask(proxy, connect_head(echo_origin.target))
    assert (reply.status, reply.slug) == (503, "tunnel_limit")
    assert "error=connection_limit_reached" in reply.headers["proxy-status"]
    for tunnel in tunnels:
        still_works(tunnel)
    tunnels.pop().close()
    eventually(lambda: proxy.metric("connections_open") == 2, "one has ended")
    tunnels.append(open_tunnel(proxy, echo_origin.target))
    for tunnel in tunnels:
        still_works(tunnel)
        tunnel.close()
    outcomes = [record["outcome"] for record in proxy.settled().records]
    assert sorted(outcomes) == ["closed"] * 4 + ["tunnel_limit"]


PAUSE = f"not accepting for 0.1 s: {os.strerror(errno.EMFILE)}"


DESCRIPTORS = 64


def fill_up(proxy: Proxy, target: str) -> tuple[list[socket.socket], list[socket.socket]]:
    """Open tunnels until there are no descriptors for one more, and clients that have sent their heads and wait."""
    tunnels = []
    while DESCRIPTORS - proxy.descriptors() >= 2:
        tunnels.append(open_tunnel(proxy, target))
    waiting = [dial(proxy) for _ in range(5)]
    for client in waiting:
        client.sendall(connect_head(target))
    eventually(lambda: PAUSE in proxy.stderr, "accepting pauses")
    return tunnels, waiting


def test_at_the_descriptor_limit_it_pauses_without_spinning_and_recovers(
    start: Start, open_config: dict[str, Any], echo_origin: TcpOrigin
) -> None:
    proxy = start(open_config, descriptors=DESCRIPTORS)
    eventually(lambda: re.search(r"limits\.max_tunnels 9000 needs 18128 .*64 are allowed", proxy.stderr), "it warns")
    descriptors = proxy.descriptors()
    tunnels, waiting = fill_up(proxy, echo_origin.target)
    cpu_s, begun = proxy.cpu_s(), time.monotonic()
    eventually(lambda: time.monotonic() - begun > 0.6, "several pauses pass")
    assert proxy.cpu_s() - cpu_s < 0.2 * (time.monotonic() - begun)
    assert proxy.stderr.count(PAUSE) == 1, "it does not tell of every pause"
    for tunnel in tunnels:
        still_works(tunnel)
        tunnel.close()
    opened = 0
    for client in waiting:
        with client:
            head = receive(client, len(ESTABLISHED))
            if head == ESTABLISHED:
                opened += 1
                still_works(client)
            else:  # one that was let in where only its upstream had no descriptor
                assert parse_reply(head + receive_all(client)).slug == "out_of_descriptors"
    assert opened
    logged = proxy.settled()
    assert len(logged.records) == len(tunnels) + len(waiting)
    proxy.wait_at_rest(descriptors)
    with open_tunnel(proxy, echo_origin.target) as tunnel:
        still_works(tunnel)


def test_sigterm_at_the_descriptor_limit_drains_in_order(
    start: Start, open_config: dict[str, Any], echo_origin: TcpOrigin
) -> None:
    proxy = start(open_config, descriptors=DESCRIPTORS)
    tunnels, waiting = fill_up(proxy, echo_origin.target)
    proxy.signal(signal.SIGTERM)
    waits_until_refusing(proxy)
    for client in waiting:
        client.close()
    for tunnel in tunnels:
        still_works(tunnel)
        tunnel.close()
    assert proxy.wait() == 0


# --- the start ----------------------------------------------------------------------------------------------------


def fails(*arguments: str | Path) -> str:
    """What `run` says on standard error when it cannot start: one line, and exit code 1."""
    ended = nursery.run("run", *map(str, arguments))
    assert (ended.returncode, ended.stdout) == (1, ""), ended
    (line,) = ended.stderr.splitlines()
    return line


@pytest.mark.parametrize("what", ["listener", "admin"])
def test_it_does_not_start_where_its_port_is_taken(tmp_path: Path, what: str) -> None:
    with TcpOrigin(echo) as taken:
        ports = {"listener": free_port(), "admin": free_port(), what: taken.port}
        file = tmp_path / "config.yaml"
        file.write_text(
            f"listeners: [{{protocol: http-proxy, address: 127.0.0.1, port: {ports['listener']}}}]\n"
            f"admin: {{port: {ports['admin']}}}\n"
        )
        line = fails(file)
    assert line.startswith(f"cannot listen on 127.0.0.1 port {taken.port}: Address already in use; ")


def test_it_says_at_its_start_which_doors_stand_open(start: Start, open_config: dict[str, Any]) -> None:
    listeners = [{"protocol": "http-proxy", "address": "0.0.0.0", "port": free_port("0.0.0.0")}]
    proxy = start({**open_config, "listeners": listeners})
    line = proxy.config_file.read_text().partition('"outbound"')[0].count("\n") + 1
    said = f" WARNING {proxy.config_file}:{line}: outbound: whoever reaches http-proxy:{listeners[0]['port']} "
    assert proxy.stderr.count(said) == 1
    proxy.signal(signal.SIGHUP)
    eventually(lambda: proxy.metric("config_generation") == 2, "it is read again")
    assert proxy.stderr.count(said) == 1, "who has been told is not told at each reload"


@pytest.mark.parametrize("what", BROKEN)
def test_it_does_not_start_with_a_file_that_cannot_be_used(tmp_path: Path, what: str) -> None:
    text, place = BROKEN[what]
    file = tmp_path / "egressproxy.yaml"
    file.write_text(text.replace("PORT", str(free_port())).replace("ITSELF", str(file)))
    assert re.match(re.escape(str(file)) + place, fails(file))


def test_it_does_not_start_without_the_file_it_was_given(tmp_path: Path) -> None:
    assert str(tmp_path / "config.yaml") in fails(tmp_path / "config.yaml")


def test_without_a_configuration_it_serves_this_machine_only_and_reaches_the_public_web_only(tmp_path: Path) -> None:
    for port in (3128, 9090):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                pytest.skip(f"port {port} is in use on this machine")
    proxy = Proxy(tmp_path, arguments=())
    proxy.port, proxy.admin_port = 3128, 9090
    with proxy:
        assert {address for address, _ in proxy.listening()} == {"0100007F"}, "127.0.0.1, as /proc/net/tcp has it"
        refusals = {
            "127.0.0.1:443": "address_denied",
            "localhost:443": "address_denied",
            "[::1]:80": "address_denied",
            "10.0.0.1:443": "address_denied",
            "169.254.169.254:80": "address_denied",
            "8.8.8.8:53": "rule_denied",
            "github.com:22": "rule_denied",
            "127.0.0.1:3128": "rule_denied",
        }
        assert {target: ask(proxy, connect_head(target)).slug for target in refusals} == refusals
        for target, allowed in (("8.8.8.8:443", True), ("8.8.8.8:80", True), ("8.8.8.8:8080", False)):
            assert proxy.get_json(f"/explain?to={target}")["allowed"] is allowed
        eventually(lambda: proxy.stdout.count("\n") == len(refusals), "the log is on standard output")
        assert all(" TCP_DENIED/403 " in line for line in proxy.stdout.splitlines())
        assert proxy.get_json("/config")["sources"] == []


FAILS_FROM_THE_SECOND_LOAD_ON = """
import egressproxy.config.load as module
load, loads = module.load, []
def load_once(*arguments, **options):
    loads.append(1)
    return load(*arguments, **options) if len(loads) == 1 else {}["defect"]
module.load = load_once
"""


def test_a_defect_in_reading_the_configuration_is_a_refused_reload(tmp_path: Path) -> None:
    proxy = Proxy(tmp_path, {"outbound": "allow_any"}, prelude=FAILS_FROM_THE_SECOND_LOAD_ON).start()
    try:
        assert not proxy.reload_as_written()
        (problem,) = proxy.get_json("/config")["last_reload_problems"]
        assert "a defect (KeyError)" in problem["message"]
        assert "never retrieved" not in proxy.stderr
        assert proxy.ready
    finally:
        proxy.stop()
