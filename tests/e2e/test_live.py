"""Live configuration: files that change while the proxy runs, and what becomes of the connections that are open."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import re
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.clients import ESTABLISHED, ask, connect_head, dial, open_tunnel, receive, receive_all
from support.dns import DnsServer, Reply
from support.origin import TcpOrigin
from support.plain_http import STALL, Ends, Message, RawOrigin, request, response
from support.proxy import Proxy, free_port
from support.waiting import eventually
from support.websocket import answer_client, open_client

Start = Callable[..., Proxy]

IN_FORCE_S = 2.0
"""How soon a change is in force, unless the machine is busy with other things."""
QUIET_S = 1.5
"""How long nothing may happen where nothing should."""


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    """The folder of the policy, beside the file that has the listener."""
    folder = tmp_path / "policy"
    folder.mkdir()
    return folder


@pytest.fixture
def closed_config(open_config: dict[str, Any]) -> dict[str, Any]:
    """Nothing goes but what the files in the folder allow."""
    return {**open_config, "outbound": "registry_only"}


def live(start: Start, tmp_path: Path, config: dict[str, Any], *more: Path, **options: Any) -> Proxy:
    """A proxy that watches its own file and these files and folders."""
    own = tmp_path / "proxy-0" / "egressproxy.yaml"
    return start(config, arguments=(str(own), *map(str, more)), watch=True, **options)


def write(file: Path, settings: dict[str, Any]) -> None:
    """In place, as `cat > file` does."""
    file.write_text(json.dumps(settings) + "\n")


def replace(file: Path, settings: dict[str, Any]) -> None:
    """By another file, as editors do."""
    fresh = file.with_name(f".{file.name}.new")
    write(fresh, settings)
    fresh.replace(file)


def allowing(origin: TcpOrigin | RawOrigin) -> dict[str, Any]:
    return {"allow": [origin.target]}


def answers(proxy: Proxy, target: str) -> int:
    """The status of the answer to a CONNECT."""
    with dial(proxy) as sock:
        sock.sendall(connect_head(target))
        return int(sock.recv(100).split()[1])


def soon(look: Callable[[], Any], what: str) -> float:
    """Wait until it is so; how long that took, in seconds."""
    began = time.monotonic()
    eventually(look, what)
    return time.monotonic() - began


def still_works(tunnel: socket.socket) -> None:
    tunnel.sendall(b"still here")
    assert receive(tunnel, 10) == b"still here"


def generation(proxy: Proxy) -> float:
    return proxy.metric("config_generation")


# --- what is seen -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("put", [write, replace], ids=["in place", "by another file"])
def test_an_edited_file_is_in_force_within_two_seconds(
    start: Start,
    tmp_path: Path,
    policy: Path,
    closed_config: dict[str, Any],
    echo_origin: TcpOrigin,
    put: Callable[[Path, dict[str, Any]], None],
) -> None:
    file = policy / "a.yaml"
    write(file, {"allow": ["a.example.test"]})
    proxy = live(start, tmp_path, closed_config, file)
    took_s = []
    for number in range(2):
        assert answers(proxy, echo_origin.target) == 403
        put(file, allowing(echo_origin))
        took_s.append(soon(lambda: answers(proxy, echo_origin.target) == 200, "it is allowed"))
        put(file, {"allow": ["a.example.test"]})
        took_s.append(soon(lambda: answers(proxy, echo_origin.target) == 403, "it is refused again"))
        assert generation(proxy) == 3 + 2 * number
    assert sorted(took_s)[2] < IN_FORCE_S, took_s


def test_a_document_added_or_deleted_in_a_folder_changes_exactly_that(
    start: Start, tmp_path: Path, policy: Path, closed_config: dict[str, Any], echo_origin: TcpOrigin, origin: Any
) -> None:
    write(policy / "a.yaml", {"allow": [origin.target]})
    proxy = live(start, tmp_path, closed_config, policy)
    assert (answers(proxy, echo_origin.target), answers(proxy, origin.target)) == (403, 200)
    write(policy / "b.yaml", allowing(echo_origin))
    soon(lambda: answers(proxy, echo_origin.target) == 200, "it is allowed")
    assert answers(proxy, origin.target) == 200
    (policy / "a.yaml").unlink()
    soon(lambda: answers(proxy, origin.target) == 403, "it is refused")
    assert answers(proxy, echo_origin.target) == 200
    assert generation(proxy) == 3


def test_the_mode_changes_and_changes_back(
    start: Start, tmp_path: Path, policy: Path, open_config: dict[str, Any], echo_origin: TcpOrigin
) -> None:
    """From ALLOW_ANY to REGISTRY_ONLY and back, with a service that is registered in both."""
    without_mode = {key: value for key, value in open_config.items() if key != "outbound"}  # which belongs to all tests
    mode = policy / "mode.yaml"
    write(mode, {"outbound": "allow_any"})
    proxy = live(start, tmp_path, without_mode, policy)
    for _ in range(2):
        assert answers(proxy, echo_origin.target) == 200
        write(mode, {"outbound": "registry_only"})
        soon(lambda: answers(proxy, echo_origin.target) == 403, "only what is registered goes")
        assert proxy.get_json("/config")["config"]["outbound"] == "registry_only"
        write(mode, {"outbound": "allow_any"})
        soon(lambda: answers(proxy, echo_origin.target) == 200, "everything goes")
        assert proxy.get_json("/config")["config"]["outbound"] == "allow_any"
    write(mode, {"outbound": "registry_only"})
    port = {"number": echo_origin.port, "protocol": "TCP"}
    service = {"hosts": ["127.0.0.1"], "ports": [port], "resolution": "static", "endpoints": [{"address": "127.0.0.1"}]}
    write(policy / "service.yaml", {"services": [service]})
    soon(lambda: generation(proxy) >= 6 and answers(proxy, echo_origin.target) == 200, "it is registered")


@pytest.fixture
def mounted(policy: Path) -> Path:
    """The folder as Kubernetes mounts a ConfigMap."""
    return policy


def mount(folder: Path, number: int, **files: dict[str, Any]) -> None:
    """Swap the files of a mounted ConfigMap (kubernetes.io, atomic_writer.go): a folder of their own, then one rename."""
    inside = folder / f"..{number}"
    inside.mkdir()
    for name, settings in files.items():
        write(inside / f"{name}.yaml", settings)
    (folder / "..data_tmp").symlink_to(inside.name)
    before = folder / "..data"
    old = before.resolve() if before.is_symlink() else None
    (folder / "..data_tmp").rename(before)
    for name in files:
        link = folder / f"{name}.yaml"
        if not link.is_symlink():
            link.symlink_to(f"..data/{name}.yaml")
    if old is not None:
        shutil.rmtree(old)


@pytest.mark.parametrize("given", ["the folder", "a file in it", "a link to a file in it"])
def test_the_swap_of_a_configmap_is_in_force_within_two_seconds(
    start: Start,
    tmp_path: Path,
    mounted: Path,
    closed_config: dict[str, Any],
    echo_origin: TcpOrigin,
    given: str,
) -> None:
    mount(mounted, 0, a={"allow": ["a.example.test"]})
    link = tmp_path / "link.yaml"
    link.symlink_to("policy/a.yaml")
    proxy = live(
        start,
        tmp_path,
        closed_config,
        {"the folder": mounted, "a file in it": mounted / "a.yaml", "a link to a file in it": link}[given],
    )
    took_s = []
    for number in range(1, 4, 2):
        assert answers(proxy, echo_origin.target) == 403
        mount(mounted, number, a=allowing(echo_origin))
        took_s.append(soon(lambda: answers(proxy, echo_origin.target) == 200, "it is allowed"))
        mount(mounted, number + 1, a={"allow": ["a.example.test"]})
        took_s.append(soon(lambda: answers(proxy, echo_origin.target) == 403, "it is refused again"))
    assert generation(proxy) == 5
    assert sorted(took_s)[2] < IN_FORCE_S, took_s


def test_nothing_new_in_a_file_makes_no_new_configuration(
    start: Start, tmp_path: Path, policy: Path, closed_config: dict[str, Any]
) -> None:
    file = policy / "a.yaml"
    write(file, {"allow": ["a.example.test"]})
    proxy = live(start, tmp_path, closed_config, policy)
    file.touch()
    replace(file, {"allow": ["a.example.test"]})
    (policy / "README.txt").write_text("what this is for\n")
    time.sleep(QUIET_S)
    assert generation(proxy) == 1
    assert "reloaded" not in proxy.stderr


def test_a_burst_of_writes_is_one_reload(
    start: Start, tmp_path: Path, policy: Path, closed_config: dict[str, Any], echo_origin: TcpOrigin
) -> None:
    write(policy / "a.yaml", {"allow": ["a.example.test"]})
    proxy = live(start, tmp_path, closed_config, policy)
    for number in range(20):
        replace(policy / f"b{number:02}.yaml", {"allow": [f"b{number}.example.test"]})
        time.sleep(0.01)
    replace(policy / "c.yaml", allowing(echo_origin))
    soon(lambda: answers(proxy, echo_origin.target) == 200, "it is allowed")
    assert generation(proxy) == 2


def test_who_wants_no_watching_has_sighup(
    start: Start, tmp_path: Path, closed_config: dict[str, Any], echo_origin: TcpOrigin
) -> None:
    proxy = start(closed_config)  # with --no-watch
    proxy.write_config({**closed_config, **allowing(echo_origin)})
    time.sleep(QUIET_S)
    assert (answers(proxy, echo_origin.target), generation(proxy)) == (403, 1)
    proxy.signal(signal.SIGHUP)
    soon(lambda: answers(proxy, echo_origin.target) == 200, "it is allowed")


def test_a_hundred_sighups_do_not_make_a_hundred_reloads(start: Start, open_config: dict[str, Any]) -> None:
    hosts = [f"a{number}.example:443" for number in range(20_000)]  # takes a moment to read
    proxy = start({**open_config, "allow": hosts})
    before = proxy.metric("config_generation")
    for _ in range(100):
        proxy.signal(signal.SIGHUP)
        time.sleep(0.005)

    def settled() -> bool:
        seen = proxy.metric("config_generation")
        time.sleep(QUIET_S)
        return before < seen == proxy.metric("config_generation")

    eventually(settled, "no more reloads")
    assert proxy.metric("config_generation") - before < 20


def test_sighup_makes_a_configuration_of_what_did_not_change(
    start: Start, tmp_path: Path, closed_config: dict[str, Any]
) -> None:
    """Certificates of listeners, for example, are read again."""
    proxy = live(start, tmp_path, closed_config)
    assert proxy.reload_as_written()
    assert generation(proxy) == 2


MESH = """\
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data:
  mesh: |
    outboundTrafficPolicy:
      mode: MODE
"""
ENTRY = """\
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: NAME}
spec:
  hosts: [NAME.example.test]
  ports: [{number: PORT, name: tcp, protocol: TLS}]
  resolution: DNS
  location: MESH_EXTERNAL
"""


def test_objects_that_are_applied_and_deleted_change_exactly_that(
    start: Start, tmp_path: Path, policy: Path, base: dict[str, Any], echo_origin: TcpOrigin, dns: DnsServer
) -> None:
    """A native file has the listener, the objects of Istio the policy."""
    for name in ("one", "two", "three"):
        dns.add(f"{name}.example.test", "A", "127.0.0.1")

    def apply(name: str) -> None:
        (policy / f"{name}.yaml").write_text(ENTRY.replace("NAME", name).replace("PORT", str(echo_origin.port)))

    def reached() -> list[str]:
        return [
            name for name in ("one", "two", "three") if answers(proxy, f"{name}.example.test:{echo_origin.port}") == 200
        ]

    apply("one")
    (policy / "mesh.yaml").write_text(MESH.replace("MODE", "REGISTRY_ONLY"))
    proxy = live(start, tmp_path, {**base, "guard": {"allow": ["127.0.0.1/32"]}}, policy)
    assert reached() == ["one"]
    apply("two")
    soon(lambda: reached() == ["one", "two"], "the second is registered")
    (policy / "one.yaml").unlink()
    soon(lambda: reached() == ["two"], "the first is not any more")
    for _ in range(2):
        (policy / "mesh.yaml").write_text(MESH.replace("MODE", "ALLOW_ANY"))
        soon(lambda: reached() == ["one", "two", "three"], "everything goes")
        (policy / "mesh.yaml").write_text(MESH.replace("MODE", "REGISTRY_ONLY"))
        soon(lambda: reached() == ["two"], "only what is registered goes")
    assert generation(proxy) == 7


def test_a_list_that_a_squid_conf_names_and_a_folder_that_it_includes_are_watched(
    start: Start, tmp_path: Path, policy: Path, base: dict[str, Any], echo_origin: TcpOrigin, dns: DnsServer
) -> None:
    dns.add("listed.example.test", "A", "127.0.0.1")
    dns.add("included.example.test", "A", "127.0.0.1")
    (policy / "hosts.txt").write_text("other.example.test\n")
    (policy / "empty.conf").write_text("# so that there is something to include\n")
    squid, port = tmp_path / "squid.conf", free_port()
    squid.write_text(
        f'http_port 127.0.0.1:{port}\nacl listed dstdomain "{policy}/hosts.txt"\nacl CONNECT method CONNECT\n'
        f"http_access allow CONNECT listed\ninclude {policy}/*.conf\nhttp_access deny all\naccess_log none\n"
    )
    proxy = live(start, tmp_path, base, squid)
    proxy.port = port
    listed, included = (f"{name}.example.test:{echo_origin.port}" for name in ("listed", "included"))
    assert (answers(proxy, listed), answers(proxy, included)) == (403, 403)
    (policy / "hosts.txt").write_text("listed.example.test\n")
    soon(lambda: answers(proxy, listed) == 200, "it is in the list")
    (policy / "more.conf").write_text("acl included dstdomain included.example.test\nhttp_access allow included\n")
    soon(lambda: answers(proxy, included) == 200, "it is in a file that is included")
    (policy / "more.conf").unlink()
    soon(lambda: answers(proxy, included) == 403, "the file is gone")
    (policy / "hosts.txt").unlink()
    soon(lambda: proxy.metric("config_reload_failures_total") == 1, "without the list nothing is changed")
    assert answers(proxy, listed) == 200
    (problem,) = proxy.get_json("/config")["last_reload_problems"]
    assert (problem["file"], problem["line"]) == (str(squid), 2)


# --- what is refused ----------------------------------------------------------------------------------------------


def test_a_half_written_file_is_refused_with_its_line_and_the_old_one_stays(
    start: Start, tmp_path: Path, policy: Path, closed_config: dict[str, Any], echo_origin: TcpOrigin
) -> None:
    file = policy / "a.yaml"
    write(file, allowing(echo_origin))
    proxy = live(start, tmp_path, closed_config, policy)
    good = file.read_text()
    file.write_text("rules:\n- action: allow\n  hosts: [a.exam")
    soon(lambda: proxy.metric("config_reload_failures_total") == 1, "it is refused")
    assert proxy.metric("config_last_reload_successful") == 0
    (problem,) = proxy.get_json("/config")["last_reload_problems"]
    assert (problem["file"], problem["line"]) == (str(file), 3)
    assert answers(proxy, echo_origin.target) == 200
    file.touch()  # and no change for a while
    time.sleep(QUIET_S)
    assert proxy.metric("config_reload_failures_total") == 1
    said = proxy.stderr
    assert len(re.findall(re.escape(f"{file}:3: "), said)) == 1, said
    assert said.count("reload refused") == 1
    file.write_text(good)
    soon(lambda: proxy.metric("config_last_reload_successful") == 1, "all is well again")
    assert proxy.get_json("/config")["last_reload_problems"] == []
    assert generation(proxy) == 1, "it is what was in force all the time"
    eventually(lambda: "the files say again what is in force, which is configuration 1" in proxy.stderr, "it is said")


def test_the_same_refusal_is_not_told_again_because_of_another_file(
    start: Start, tmp_path: Path, policy: Path, closed_config: dict[str, Any]
) -> None:
    write(policy / "a.yaml", {"allow": ["a.example.test"]})
    proxy = live(start, tmp_path, closed_config, policy)
    (policy / "broken.yaml").write_text("allow: [\n")
    soon(lambda: proxy.metric("config_reload_failures_total") == 1, "it is refused")
    write(policy / "a.yaml", {"allow": ["b.example.test"]})
    soon(lambda: proxy.metric("config_reload_failures_total") == 2, "it is refused again")
    assert proxy.stderr.count("reload refused") == 1
    (policy / "broken.yaml").unlink()
    soon(lambda: generation(proxy) == 2, "the rest is in force")


def test_a_file_that_is_gone_is_refused_until_it_is_back(
    start: Start, tmp_path: Path, policy: Path, closed_config: dict[str, Any], echo_origin: TcpOrigin
) -> None:
    file = policy / "a.yaml"
    write(file, {"allow": ["a.example.test"]})
    proxy = live(start, tmp_path, closed_config, file)
    shutil.rmtree(policy)
    soon(lambda: proxy.metric("config_reload_failures_total") == 1, "it is refused")
    assert (
        proxy.get_json("/config")["last_reload_problems"][0]["message"] == "cannot be read: No such file or directory"
    )
    policy.mkdir()
    write(file, allowing(echo_origin))
    soon(lambda: answers(proxy, echo_origin.target) == 200, "it is allowed")


def test_what_a_refused_configuration_waits_for_is_watched_too(
    start: Start, tmp_path: Path, policy: Path, closed_config: dict[str, Any]
) -> None:
    file = policy / "a.yaml"
    write(file, {"allow": ["a.example.test"]})
    proxy = live(start, tmp_path, closed_config, file)
    write(file, {"secrets": {"directory": "secrets"}})
    soon(lambda: proxy.metric("config_reload_failures_total") == 1, "there is no such folder")
    (policy / "secrets").mkdir()
    soon(lambda: generation(proxy) == 2, "now there is")


# --- open tunnels -------------------------------------------------------------------------------------------------


def only(*targets: str, **more: Any) -> dict[str, Any]:
    """A policy for the folder."""
    return {"allow": list(targets), "guard": {"allow": ["127.0.0.1/32"]}, **more}


@pytest.fixture
def base(open_config: dict[str, Any]) -> dict[str, Any]:
    """Without a policy."""
    return {"dns": open_config["dns"]}


def outcomes(proxy: Proxy) -> list[str]:
    return sorted(record["outcome"] for record in proxy.settled().records)


@pytest.mark.parametrize("how", ["cut", "keep"])
def test_tunnels_that_the_new_policy_refuses_are_cut_where_that_is_asked_for(
    start: Start,
    tmp_path: Path,
    policy: Path,
    base: dict[str, Any],
    echo_origin: TcpOrigin,
    dns: DnsServer,
    how: str,
) -> None:
    dns.add("kept.example.test", "A", "127.0.0.1")
    dns.add("refused.example.test", "A", "127.0.0.1")
    port = echo_origin.port
    kept, refused = f"kept.example.test:{port}", f"refused.example.test:{port}"
    write(policy / "a.yaml", only(kept, refused, on_policy_change=how))
    proxy = live(start, tmp_path, base, policy)
    with open_tunnel(proxy, kept) as stays, open_tunnel(proxy, refused) as goes:
        still_works(goes)
        write(policy / "a.yaml", only(kept, on_policy_change=how))
        soon(lambda: generation(proxy) == 2, "it is in force")
        if how == "cut":
            assert receive_all(goes) == b""
            (record,) = proxy.records(1)
            assert (record["outcome"], record["closed_by"], record["host"]) == (
                "policy_changed",
                "proxy",
                "refused.example.test",
            )
            eventually(lambda: "1 tunnel ended that the new policy refuses" in proxy.stderr, "it is said")
            assert proxy.metric("connections_total", outcome="policy_changed") == 1
        else:
            still_works(goes)
        still_works(stays)
        assert ask(proxy, connect_head(refused)).slug == "rule_denied"
    assert outcomes(proxy) == sorted(["policy_changed" if how == "cut" else "closed", "closed", "rule_denied"])


def test_tunnels_whose_address_the_new_policy_keeps_closed_are_cut(
    start: Start, tmp_path: Path, policy: Path, base: dict[str, Any], echo_origin: TcpOrigin, dns: DnsServer
) -> None:
    dns.add("inside.example.test", "A", "127.0.0.1")
    port = {"number": echo_origin.port, "protocol": "TCP"}
    written_down = {
        "hosts": ["written.example.test"],
        "ports": [port],
        "resolution": "static",
        "endpoints": [{"address": "127.0.0.1"}],
    }
    inside, written = f"inside.example.test:{echo_origin.port}", f"written.example.test:{echo_origin.port}"
    settings = {"services": [written_down], "allow": [inside], "on_policy_change": "cut"}
    write(policy / "a.yaml", {**settings, "guard": {"allow": ["127.0.0.1/32"]}})
    proxy = live(start, tmp_path, base, policy)
    asked = dns.count("inside.example.test")
    with open_tunnel(proxy, inside) as goes, open_tunnel(proxy, written) as stays:
        asked = dns.count("inside.example.test")
        write(policy / "a.yaml", settings)
        assert receive_all(goes) == b""
        still_works(stays)
        assert dns.count("inside.example.test") == asked, "no name is looked up for it"
    assert outcomes(proxy) == ["closed", "policy_changed"]


def test_a_tunnel_that_opens_behind_the_change_is_judged_by_the_new_policy(
    start: Start, tmp_path: Path, policy: Path, base: dict[str, Any], echo_origin: TcpOrigin, dns: DnsServer
) -> None:
    """It was accepted, and allowed, before."""
    dns.add("slow.example.test", "A", "127.0.0.1")
    dns.script("slow.example.test", "*", Reply(hold=True))
    target = f"slow.example.test:{echo_origin.port}"
    write(policy / "a.yaml", only(target, on_policy_change="cut"))
    proxy = live(start, tmp_path, {**base, "dns": {**base["dns"], "timeout_s": 10}}, policy)
    with dial(proxy) as client:
        client.sendall(connect_head(target))
        dns.wait_asked("slow.example.test")
        write(policy / "a.yaml", only(on_policy_change="cut"))
        soon(lambda: generation(proxy) == 2, "it is in force")
        dns.release()
        assert receive_all(client) == ESTABLISHED
    assert outcomes(proxy) == ["policy_changed"]


def test_a_websocket_is_cut_and_a_request_under_way_is_finished(
    start: Start, tmp_path: Path, policy: Path, base: dict[str, Any]
) -> None:
    def slow(_asked: Message) -> Iterator[Any]:
        yield b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf "
        yield STALL
        yield b"done."
        while True:
            yield response(b"again")

    with RawOrigin(slow) as requests, RawOrigin() as sockets:
        write(policy / "a.yaml", only(requests.target, sockets.target, on_policy_change="cut"))
        proxy = live(start, tmp_path, base, policy)
        with Ends(proxy) as upgraded, Ends(proxy) as asking:
            asking.send(request(requests.url()))
            assert asking.until(b"half ").endswith(b"half ")
            serving = threading.Thread(target=lambda: answer_client(sockets.take()))
            serving.start()
            open_client(upgraded, sockets.url())
            serving.join()
            write(policy / "a.yaml", only("other.example.test", on_policy_change="cut"))
            assert upgraded.to_the_end() == b""
            requests.go_on()
            assert asking.exactly(5) == b"done."
            assert asking.ask(request(requests.url())).slug == "rule_denied"
        assert outcomes(proxy) == ["answered", "policy_changed", "rule_denied"]


# --- under load ---------------------------------------------------------------------------------------------------

TUNNELS = 200
CHANGES = 40
SHARED_THREADS = 6
"""Of the event loop's own executor, for which logs are closed; it keeps them."""
PAUSE_S = 0.2

COUNT_TASKS = """
import asyncio, os, signal
def _count(*_):
    os.write(2, b"tasks: %d\\n" % len(asyncio.all_tasks()))
signal.signal(signal.SIGUSR2, _count)
"""


def tasks(proxy: Proxy) -> int:
    """How many tasks of the event loop there are in the child, which COUNT_TASKS has taught to say so."""
    before = len(proxy.stderr)
    proxy.signal(signal.SIGUSR2)
    found = eventually(lambda: re.search(r"tasks: (\d+)", proxy.stderr[before:]), "it counts its tasks")
    return int(found[1])


def threads(proxy: Proxy) -> int:
    return len(os.listdir(f"/proc/{proxy.pid}/task"))  # noqa: PTH208 - names only


def of_generation(number: int, port: int) -> dict[str, dict[str, Any]]:
    """Two files that belong together: the rule of the one and the service of the other bear the same number."""
    service = {
        "name": f"generation-{number}",
        "hosts": ["127.0.0.1"],
        "ports": [{"number": port, "protocol": "TCP"}],
        "resolution": "static",
        "endpoints": [{"address": "127.0.0.1"}],
    }
    rule = {"name": f"generation-{number}", "action": "allow", "hosts": ["127.0.0.1"], "ports": [port]}
    return {"a": {"rules": [rule]}, "b": {"services": [service]}}


class Traffic:
    """Tunnels that stay, with something going through them now and then, and others that come and go."""

    def __init__(self, proxy: Proxy, target: str) -> None:
        self._port, self._head = proxy.port, connect_head(target)
        self._over = False
        self.opened = self.echoed = 0

    async def run(self, change: Callable[[int], None]) -> None:
        """As long as the changes take."""
        async with asyncio.TaskGroup() as group:
            for _ in range(TUNNELS):
                group.create_task(self._tunnel(0.2, to_the_end=True))
            for _ in range(4):
                group.create_task(self._come_and_go())
            for number in range(CHANGES):
                await asyncio.to_thread(change, number)
                await asyncio.sleep(PAUSE_S)
            self._over = True

    async def _come_and_go(self) -> None:
        while not self._over:
            await self._tunnel(0.01, to_the_end=False)

    async def _tunnel(self, pause_s: float, *, to_the_end: bool) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        writer.write(self._head)
        head = await reader.readexactly(len(ESTABLISHED))
        assert head == ESTABLISHED, head
        self.opened += 1
        for number in itertools.count():
            message = b"%064d" % number
            writer.write(message)
            assert await reader.readexactly(64) == message
            self.echoed += 1
            await asyncio.sleep(pause_s)
            if self._over or (number == 2 and not to_the_end):
                break
        writer.write_eof()
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()


async def test_changes_under_load_drop_nobody_and_mix_nothing(
    start: Start, tmp_path: Path, mounted: Path, base: dict[str, Any], echo_origin: TcpOrigin
) -> None:
    """Forty changes, five a second: good ones by swap, some broken, some half-written in place, some taken back."""
    port = echo_origin.port
    mount(mounted, 0, **of_generation(0, port))
    extra = tmp_path / "extra.yaml"
    write(extra, {"allow": ["a.example.test"]})
    settings = {**base, "on_policy_change": "cut", "timeouts": {"idle_s": 60}}
    proxy = live(start, tmp_path, settings, mounted, extra, prelude=COUNT_TASKS)
    with open_tunnel(proxy, echo_origin.target) as tunnel:
        still_works(tunnel)
    proxy.settled()
    before = tasks(proxy), threads(proxy), proxy.descriptors()
    good = extra.read_text()

    def change(number: int) -> None:
        mount(mounted, number + 1, **of_generation(number + 1, port))
        match number % 5:
            case 1:
                extra.write_text(good[: len(good) // 2])
            case 2:
                extra.write_text("outbound: allow_everything\n")
            case 3:
                extra.write_text(good)

    traffic = Traffic(proxy, echo_origin.target)
    began = time.monotonic()
    await traffic.run(change)
    assert time.monotonic() - began < 40
    extra.write_text(good)
    last = f"generation-{CHANGES}"
    soon(lambda: proxy.get_json("/config")["config"]["rules"][0]["name"] == last, "the last change is in force")
    records = proxy.settled().records
    assert len(records) == traffic.opened >= TUNNELS + 50
    assert {record["outcome"] for record in records} == {"closed"}
    assert [record for record in records if record["rule"] != record["service"]] == []
    seen = {record["rule"] for record in records}
    assert len(seen) >= 5, seen
    assert generation(proxy) >= 5
    assert proxy.metric("config_reload_failures_total") >= 2
    assert proxy.metric("config_last_reload_successful") == 1
    eventually(lambda: tasks(proxy) == before[0], "the last reload has ended, and left nothing behind")
    eventually(lambda: threads(proxy) <= before[1] + SHARED_THREADS, f"no more threads than {before[1]} and a few")
    proxy.wait_at_rest(before[2])
