"""The admin port of a running proxy: every page, and that it says what the command line says."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import nursery
from support.clients import ask, connect_head, open_tunnel, run
from support.dns import DnsServer
from support.origin import NAME, TcpOrigin, TlsOrigin
from support.proxy import Proxy
from support.waiting import eventually

from egressproxy._version import __version__


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory, open_config: dict[str, Any]) -> Iterator[Proxy]:
    rules = [
        {"name": "closed", "action": "deny", "hosts": ["*.closed.example.test"]},
        {"name": "lan", "action": "allow", "hosts": ["git.example.test"], "ports": [22], "private_addresses": True},
    ]
    with Proxy(tmp_path_factory.mktemp("proxy"), {**open_config, "rules": rules}) as proxy:
        yield proxy


def test_the_first_page_names_the_others_and_each_answers(proxy: Proxy) -> None:
    status, text = proxy.get("/")
    assert status == 200
    for page in (
        *("/metrics", "/livez", "/readyz", "/tunnels", "/config", "/explain", "/mode"),
        *("/clusters", "/stats", "/listeners", "/routes", "/config_dump"),
    ):
        assert page in text
        assert proxy.get(page)[0] == (400 if page == "/explain" else 200)
    assert proxy.get("/nowhere")[0] == 404
    assert (proxy.get("/livez"), proxy.get("/readyz")) == ((200, "alive\n"), (200, "ready\n"))


def test_metrics_count_what_happened(proxy: Proxy, echo_origin: TcpOrigin) -> None:
    def changes(name: str, **labels: str) -> float:
        return proxy.metric(name, **labels) - before.get(name, 0)

    before: dict[str, float] = {}
    for name in ("connections_total", "tunnel_bytes_total", "dials_total", "dial_attempts_total", "dns_lookups_total"):
        before[name] = proxy.metric(name)
    with open_tunnel(proxy, f"{NAME}:{echo_origin.port}") as tunnel:
        tunnel.sendall(b"x" * 100)
        assert tunnel.recv(100)
        eventually(lambda: changes("tunnel_bytes_total") == 200, "bytes of an open tunnel are counted")
        assert (proxy.metric("tunnels_open"), proxy.metric("connections_open")) == (1, 1)
    ask(proxy, connect_head("a.closed.example.test:443"))
    proxy.settled()
    assert changes("connections_total") == 2
    assert proxy.metric("connections_total", rule="closed", outcome="rule_denied") == 1
    assert (changes("dials_total"), changes("dial_attempts_total"), changes("dns_lookups_total")) == (1, 1, 1)
    assert proxy.metric("build_info", version=__version__) == 1
    assert proxy.metric("config_generation") == 1
    assert 0 <= time.time() - proxy.metric("config_loaded_timestamp_seconds") < 300
    assert "example.test" not in proxy.get("/metrics")[1], "no host is a label"


def test_tunnels_shows_those_that_are_open(proxy: Proxy, echo_origin: TcpOrigin) -> None:
    assert proxy.get_json("/tunnels") == {"open": 0, "shown": 0, "tunnels": []}
    with open_tunnel(proxy, echo_origin.target) as one, open_tunnel(proxy, f"{NAME}:{echo_origin.port}"):
        one.sendall(b"x" * 10)
        assert one.recv(10)
        page = proxy.get_json("/tunnels")
        first, second = page["tunnels"]
        assert (first["target"], second["target"]) == (echo_origin.target, f"{NAME}:{echo_origin.port}")
        assert (first["client_port"], first["phase"], first["rule"]) == (one.getsockname()[1], "open", "outbound")
        assert (first["bytes_up"], first["bytes_down"], first["upstream"]) == (10, 10, echo_origin.target)
        limited = proxy.get_json("/tunnels?limit=1")
        assert (limited["open"], limited["shown"], len(limited["tunnels"])) == (2, 1, 1)
    proxy.settled()
    assert proxy.get_json("/tunnels")["open"] == 0


def test_config_shows_what_is_in_force(proxy: Proxy, tmp_path: Path) -> None:
    page = proxy.get_json("/config")
    assert (page["generation"], page["last_reload_problems"]) == (1, [])
    assert page["sources"] == [str(proxy.config_file)]
    assert [rule["name"] for rule in page["config"]["rules"]] == ["closed", "lan"]
    shown = tmp_path / "shown.yaml"
    shown.write_text(json.dumps(page["config"]))
    checked = nursery.run("check", str(shown))
    assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize(
    ("target", "code"),
    [
        (f"{NAME}:443", 0),
        ("a.closed.example.test:443", 3),
        ("closed.example.test:443", 0),
        ("git.example.test:22", 0),
        ("git.example.test:443", 0),
        ("10.0.0.1:443", 3),
        ("[::ffff:10.0.0.1]:443", 3),
        ("127.0.0.1:443", 0),
        ("169.254.169.254:80", 3),
        ("Git.Example.Test.:22", 0),
        ("127.1:443", 2),
    ],
)
def test_explain_says_what_the_command_line_says(proxy: Proxy, target: str, code: int) -> None:
    done = nursery.run("explain", str(proxy.config_file), "--to", target, "--json")
    assert done.returncode == code, done.stderr
    status, body = proxy.get(f"/explain?to={target}")
    if code == 2:
        assert status == 400
        assert done.stderr.strip().endswith(body.strip())
        return
    assert status == 200
    told = json.loads(done.stdout)
    del told["user"]
    assert json.loads(body) == told
    assert told["allowed"] is (code == 0)
    lines = nursery.run("explain", str(proxy.config_file), "--to", target)
    assert lines.returncode == code, lines.stderr
    assert proxy.get(f"/explain?to={target}", accept="text/plain")[1] == lines.stdout


def test_explain_agrees_with_what_happens(proxy: Proxy, echo_origin: TcpOrigin) -> None:
    targets = (echo_origin.target, f"{NAME}:{echo_origin.port}", "10.0.0.1:443", "a.closed.example.test:443")
    for target in (*targets, f"127.0.0.1:{proxy.port}"):
        explained = proxy.get_json(f"/explain?to={target}")["allowed"]
        if explained:
            open_tunnel(proxy, target).close()
        else:
            assert ask(proxy, connect_head(target)).status in (403, 508)
    proxy.settled()


# --- as Envoy has them --------------------------------------------------------------------------------------------


@pytest.fixture
def gateway(
    start: Callable[..., Proxy], dns: DnsServer, origin: TlsOrigin, tmp_path: Path
) -> tuple[Proxy, Path, dict[str, Any]]:
    """Knows the origin as a service and nothing else; its second log is Istio's."""
    log = tmp_path / "istio.log"
    config = {
        "guard": {"allow": ["127.0.0.1/32"]},
        "dns": {"servers": [dns.address]},
        "services": [{"hosts": [NAME], "ports": [{"number": origin.port, "protocol": "TLS"}]}],
        "access_log": [{"format": "istio", "path": str(log)}],
    }
    return start(config), log, config


def statistic(proxy: Proxy, page: str, name: str) -> int:
    """One number of `/stats` or `/clusters`."""
    mark = ": " if page == "/stats" else "::"
    lines = [line for line in proxy.get(page)[1].splitlines() if line.startswith(f"{name}{mark}")]
    assert len(lines) == 1, f"{name} in {lines}"
    return int(lines[0].removeprefix(f"{name}{mark}"))


def test_two_visits_are_two_connections_of_the_cluster_that_the_log_names(
    gateway: tuple[Proxy, Path, dict[str, Any]], origin: TlsOrigin, ca_file: Path
) -> None:
    proxy, log, _ = gateway
    cluster = f"outbound|{origin.port}||{NAME}"
    assert statistic(proxy, "/stats", f"cluster.{cluster}.upstream_cx_total") == 0
    for _ in range(2):
        run("curl", "-sSo", "/dev/null", "--cacert", ca_file, "--proxy", proxy.url, origin.url(), folder=log.parent)
    eventually(lambda: log.read_text().count("\n") == 2, "both lines are written")
    assert all(f" {cluster} " in line for line in log.read_text().splitlines())
    assert statistic(proxy, "/clusters", f"{cluster}::127.0.0.1:{origin.port}::cx_total") == 2
    assert statistic(proxy, "/stats", f"cluster.{cluster}.upstream_cx_total") == 2
    assert statistic(proxy, "/stats", f"cluster.{cluster}.upstream_cx_rx_bytes_total") > 1000
    assert statistic(proxy, "/stats", f"cluster.{cluster}.upstream_cx_active") == 0
    assert statistic(proxy, "/stats", "sni_verifier.inner_sni_found") == 2


def test_an_open_tunnel_is_active_in_its_cluster(
    gateway: tuple[Proxy, Path, dict[str, Any]], origin: TlsOrigin
) -> None:
    proxy, *_ = gateway
    name = f"outbound|{origin.port}||{NAME}::127.0.0.1:{origin.port}"
    with open_tunnel(proxy, f"{NAME}:{origin.port}"):
        assert statistic(proxy, "/clusters", f"{name}::cx_active") == 1
        assert statistic(proxy, "/clusters", f"{name}::cx_total") == 1
    eventually(lambda: statistic(proxy, "/clusters", f"{name}::cx_active") == 0, "the tunnel has ended")
    assert statistic(proxy, "/clusters", f"{name}::cx_total") == 1


def test_the_mode_is_read_back_after_a_reload(gateway: tuple[Proxy, Path, dict[str, Any]]) -> None:
    proxy, _, config = gateway
    assert "mode: REGISTRY_ONLY" in proxy.get("/mode")[1]
    assert proxy.reload({**config, "outbound": "allow_any"})
    assert "mode: ALLOW_ANY" in proxy.get("/mode")[1]
    assert proxy.get_json("/config")["config"]["outbound"] == "allow_any"


def test_explain_tells_the_line_of_the_file_that_is_in_force(
    gateway: tuple[Proxy, Path, dict[str, Any]], origin: TlsOrigin
) -> None:
    proxy, *_ = gateway
    told = proxy.get_json(f"/explain?to={NAME}:{origin.port}")
    place = told["destinations"][0]["registered_at"]
    assert place["file"] == str(proxy.config_file)
    assert NAME in proxy.config_file.read_text().splitlines()[place["line"] - 1]
    assert told["cluster"] == f"outbound|{origin.port}||{NAME}"
