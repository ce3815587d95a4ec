"""The programs that people point at a proxy, as they are installed here: each fetches over TLS from a real origin."""

from __future__ import annotations

import http.client
import socket
import ssl
import subprocess
import sys
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from support import certificates
from support.clients import Done, installed, receive_all, run
from support.origin import NAME, PAGE, TITLE, TlsOrigin
from support.proxy import Logged, Proxy, free_port

HAS_IPV6 = Path("/proc/net/if_inet6").exists() and "lo" in Path("/proc/net/if_inet6").read_text()

needs_ipv6 = pytest.mark.skipif(not HAS_IPV6, reason="this host has no IPv6 on loopback")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """PEM files: of the proxy's TLS listeners, of a client, and of a client that a stranger vouches for."""
    folder = tmp_path_factory.mktemp("tls")
    leaves = {
        "proxy": certificates.authority().issue_cert("127.0.0.1", "::1"),
        "client": certificates.other_authority().issue_cert("someone@example.test"),
        "stranger": certificates.authority().issue_cert("nobody@example.test"),
    }
    found = {"client_ca": folder / "client_ca.pem"}
    found["client_ca"].write_bytes(certificates.other_authority().cert_pem.bytes())
    for name, leaf in leaves.items():
        found[name], found[f"{name}_key"] = folder / f"{name}.pem", folder / f"{name}.key"
        found[name].write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
        found[f"{name}_key"].write_bytes(leaf.private_key_pem.bytes())
    return found


@pytest.fixture(scope="module")
def origin6(pages: Path) -> Iterator[TlsOrigin]:
    with TlsOrigin(pages, "::1") as server:
        yield server


@pytest.fixture(scope="module")
def proxy(
    tmp_path_factory: pytest.TempPathFactory, open_config: dict[str, Any], files: dict[str, Path]
) -> Iterator[Proxy]:
    """Four ways in: plain, over IPv6, over TLS, and over TLS with a certificate of the client's own."""
    proxy = Proxy(tmp_path_factory.mktemp("proxy"))
    tls = {"certificate": str(files["proxy"]), "key": str(files["proxy_key"])}
    listeners = [
        {"name": "plain", "address": "127.0.0.1", "port": proxy.port},
        {"name": "tls", "address": "127.0.0.1", "port": free_port(), "tls": tls},
        {
            "name": "mutual",
            "address": "127.0.0.1",
            "port": free_port(),
            "tls": {**tls, "client_ca": str(files["client_ca"])},
        },
    ]
    if HAS_IPV6:
        listeners.append({"name": "six", "address": "::1", "port": free_port("::1")})
    proxy.write_config({**open_config, "listeners": [{"protocol": "http-proxy", **listener} for listener in listeners]})
    with proxy:
        yield proxy


@pytest.fixture(autouse=True)
def _new_lines_only(proxy: Proxy) -> None:
    proxy.settled()


def port_of(proxy: Proxy, listener: str) -> int:
    (port,) = (each["port"] for each in proxy.config["listeners"] if each["name"] == listener)
    return int(port)


def the_one_tunnel(proxy: Proxy, target: str, **expected: object) -> Logged:
    """Exactly one connection since the last look: a tunnel to the target that ended in order, in both logs."""
    logged = proxy.settled()
    (record,) = logged.records
    (line,) = logged.squid
    assert f" TCP_TUNNEL/200 {record['bytes_down'] + 39} CONNECT {target} - HIER_DIRECT/" in line
    # A client that closes while the origin's close_notify lies unread in its socket resets the connection: its kernel's doing.
    assert record["outcome"] in ("closed", "client_reset")
    host, _, port = target.rpartition(":")
    assert (record["status"], record["host"], record["port"]) == (200, host.strip("[]"), int(port))
    assert record | expected == record
    return logged


# --- curl ---------------------------------------------------------------------------------------------------------


def test_curl_takes_the_proxy_from_its_environment(
    proxy: Proxy, origin: TlsOrigin, ca_file: Path, tmp_path: Path
) -> None:
    done = run("curl", "-sS", "--cacert", ca_file, origin.url(), folder=tmp_path, variables={"HTTPS_PROXY": proxy.url})
    assert TITLE in done.out
    the_one_tunnel(proxy, origin.target, http_version="1.1", client="127.0.0.1", listener="plain", rule="outbound")


def test_curl_takes_the_proxy_from_a_flag_and_sends_a_long_head(
    proxy: Proxy, origin: TlsOrigin, ca_file: Path, tmp_path: Path
) -> None:
    field = "X-Long: " + "x" * 12_000
    options: list[str | Path] = ["--proxy-header", field, "--proxy-user", "someone:secret", "--cacert", ca_file]
    done = run("curl", "-sS", "-x", proxy.url, *options, origin.url(), folder=tmp_path)
    assert TITLE in done.out
    the_one_tunnel(proxy, origin.target)


def test_curl_with_a_head_beyond_the_limit_gets_431(
    proxy: Proxy, origin: TlsOrigin, ca_file: Path, tmp_path: Path
) -> None:
    field = "X-Long: " + "x" * 20_000
    done = run("curl", "-sSv", "-x", proxy.url, "--proxy-header", field, origin.url(), folder=tmp_path, code=56)
    assert "HTTP/1.1 431 Request Header Fields Too Large: head_too_large: " in done.err
    (record,) = proxy.settled().records
    assert (record["outcome"], record["status"]) == ("head_too_large", 431)


def test_curl_fetches_and_posts_megabytes(proxy: Proxy, origin: TlsOrigin, ca_file: Path, tmp_path: Path) -> None:
    size = 16 * 1024 * 1024
    options: list[str | Path] = ["-sS", "-x", proxy.url, "--cacert", ca_file, "-w", "%{size_download} %{http_code}"]
    done = run("curl", *options, "-o", tmp_path / "big", origin.url(f"/big/{size}"), folder=tmp_path)
    assert done.out == f"{size} 200"
    assert (tmp_path / "big").read_bytes() == b"0123456789abcdef" * (size // 16)
    the_one_tunnel(proxy, origin.target)
    sent = f"@{tmp_path / 'big'}"
    run("curl", *options, "--data-binary", sent, "-o", tmp_path / "back", origin.url("/echo"), folder=tmp_path)
    assert (tmp_path / "back").read_bytes() == (tmp_path / "big").read_bytes()
    (record,) = the_one_tunnel(proxy, origin.target).records
    assert min(record["bytes_up"], record["bytes_down"]) > size


def test_curl_reuses_a_tunnel_for_the_next_request(
    proxy: Proxy, origin: TlsOrigin, ca_file: Path, tmp_path: Path
) -> None:
    urls = [origin.url(), origin.url("/big/160"), origin.url()]
    done = run("curl", "-sS", "-x", proxy.url, "--cacert", ca_file, *urls, folder=tmp_path)
    assert done.out.count(TITLE) == 2
    the_one_tunnel(proxy, origin.target)


@needs_ipv6
def test_curl_reaches_an_ipv6_literal(proxy: Proxy, origin6: TlsOrigin, ca_file: Path, tmp_path: Path) -> None:
    url = origin6.url(host="[::1]")
    assert TITLE in run("curl", "-gsS", "-x", proxy.url, "--cacert", ca_file, url, folder=tmp_path).out
    logged = the_one_tunnel(proxy, f"[::1]:{origin6.port}", upstream=f"[::1]:{origin6.port}")
    assert logged.squid[0].endswith(" HIER_DIRECT/::1 -")


@needs_ipv6
def test_curl_comes_in_over_ipv6(proxy: Proxy, origin: TlsOrigin, ca_file: Path, tmp_path: Path) -> None:
    url = f"http://[::1]:{port_of(proxy, 'six')}"
    assert TITLE in run("curl", "-gsS", "-x", url, "--cacert", ca_file, origin.url(), folder=tmp_path).out
    the_one_tunnel(proxy, origin.target, client="::1", listener="six")


# --- curl, with TLS to the proxy itself ---------------------------------------------------------------------------


def curl_over_tls(
    proxy: Proxy, listener: str, origin: TlsOrigin, ca_file: Path, folder: Path, *options: str | Path
) -> Done:
    url = f"https://127.0.0.1:{port_of(proxy, listener)}"
    trust = ("--proxy-cacert", ca_file, "--cacert", ca_file)
    return run("curl", "-sS", "-x", url, *trust, *options, origin.url(), folder=folder, code=None)


def test_curl_speaks_tls_to_the_proxy_and_inside_the_tunnel(
    proxy: Proxy, origin: TlsOrigin, ca_file: Path, tmp_path: Path
) -> None:
    assert TITLE in curl_over_tls(proxy, "tls", origin, ca_file, tmp_path).out
    the_one_tunnel(proxy, origin.target, listener="tls")


def test_curl_with_a_client_certificate_is_let_in(
    proxy: Proxy, origin: TlsOrigin, ca_file: Path, files: dict[str, Path], tmp_path: Path
) -> None:
    own = ("--proxy-cert", files["client"], "--proxy-key", files["client_key"])
    assert TITLE in curl_over_tls(proxy, "mutual", origin, ca_file, tmp_path, *own).out
    the_one_tunnel(proxy, origin.target, listener="mutual")


@pytest.mark.parametrize("who", ["nobody", "stranger"])
@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_curl_without_a_good_client_certificate_is_shut_out(
    proxy: Proxy,
    origin: TlsOrigin,
    ca_file: Path,
    files: dict[str, Path],
    tmp_path: Path,
    who: str,
    version: str,
) -> None:
    contacts = origin.contacts()
    own: tuple[str | Path, ...] = (
        () if who == "nobody" else ("--proxy-cert", files[who], "--proxy-key", files[f"{who}_key"])
    )
    if version == "1.2":
        own += ("--proxy-tlsv1", "--tls-max", "1.2")
    done = curl_over_tls(proxy, "mutual", origin, ca_file, tmp_path, *own)
    assert done.code in (35, 56)
    assert TITLE not in done.out
    logged = proxy.settled()
    (record,) = logged.records
    assert (record["listener"], record["outcome"], record["status"], record["closed_by"]) == (
        "mutual",
        "client_tls_failed",
        None,
        "client",
    )
    assert " NONE_NONE/000 0 - error:transaction-end-before-headers - HIER_NONE/- -" in logged.squid[0]
    assert origin.contacts() == contacts


def test_plain_http_to_a_tls_listener_is_a_failed_handshake(proxy: Proxy, origin: TlsOrigin, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{port_of(proxy, 'tls')}"
    run("curl", "-sS", "-x", url, origin.url(), folder=tmp_path, code=56)
    (record,) = proxy.settled().records
    assert (record["outcome"], record["detail"]) == (
        "client_tls_failed",
        "TLS handshake: the client spoke plain HTTP to a TLS listener; its proxy URL must begin with https://",
    )
    assert record["duration_ms"] < 900, "the client is told at once, not when the proxy has lingered long enough"


def test_a_handshake_that_is_never_completed_is_not_answered_in_plain_text(
    start: Callable[..., Proxy], open_config: dict[str, Any], files: dict[str, Path]
) -> None:
    tls = {"certificate": str(files["proxy"]), "key": str(files["proxy_key"])}
    port = free_port()
    listeners = [{"protocol": "http-proxy", "address": "127.0.0.1", "port": port, "tls": tls}]
    proxy = start({**open_config, "listeners": listeners, "timeouts": {"head_s": 0.3}})
    with socket.create_connection(("127.0.0.1", port), 15) as client:
        client.sendall(bytes.fromhex("1603010200"))
        assert receive_all(client) == b""
    (record,) = proxy.settled().records
    assert (record["outcome"], record["status"], record["reply_bytes"]) == ("client_tls_failed", None, 0)


# --- Python -------------------------------------------------------------------------------------------------------


@pytest.fixture
def trust() -> ssl.SSLContext:
    context = ssl.create_default_context()
    certificates.authority().configure_trust(context)
    return context


@pytest.fixture
def in_environment(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "no_proxy", "NO_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("https_proxy", proxy.url)


@pytest.mark.usefixtures("in_environment")
def test_urllib_takes_the_proxy_from_its_environment(proxy: Proxy, origin: TlsOrigin, trust: ssl.SSLContext) -> None:
    with urllib.request.urlopen(origin.url(), context=trust) as response:
        assert response.read() == PAGE
    the_one_tunnel(proxy, origin.target)


@pytest.mark.usefixtures("in_environment")
def test_requests_takes_the_proxy_from_its_environment(proxy: Proxy, origin: TlsOrigin, ca_file: Path) -> None:
    with requests.Session() as session:
        for _ in range(2):
            assert session.get(origin.url(), verify=str(ca_file)).content == PAGE
    the_one_tunnel(proxy, origin.target)


def test_http_client_sets_a_tunnel_up_in_its_own_version_of_http(
    proxy: Proxy, origin: TlsOrigin, trust: ssl.SSLContext
) -> None:
    connection = http.client.HTTPSConnection("127.0.0.1", proxy.port, context=trust)
    connection.set_tunnel(NAME, origin.port)
    connection.request("GET", "/")
    assert connection.getresponse().read() == PAGE
    connection.close()
    the_one_tunnel(proxy, origin.target, http_version="1.0" if sys.version_info < (3, 12) else "1.1")


def test_pip_downloads_a_wheel(proxy: Proxy, origin: TlsOrigin, pages: Path, ca_file: Path, tmp_path: Path) -> None:
    if run(sys.executable, "-m", "pip", "--version", folder=tmp_path, code=None).code:
        pytest.skip("this Python has no pip")
    index = pages / "simple" / "egressproxy-test-wheel"
    index.mkdir(parents=True)
    wheel = index / "egressproxy_test_wheel-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        about = "egressproxy_test_wheel-1.0.dist-info"
        archive.writestr("egressproxy_test_wheel.py", "")
        archive.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: egressproxy-test-wheel\nVersion: 1.0\n")
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", "")
    (index / "index.html").write_text(
        f'<!DOCTYPE html><html><body><a href="{wheel.name}">{wheel.name}</a></body></html>'
    )
    quiet = ("--disable-pip-version-check", "--no-cache-dir", "--no-input", "--retries", "0")
    where = ("--proxy", proxy.url, "--index-url", origin.url("/simple"), "--cert", ca_file, "--dest", tmp_path)
    pip = (sys.executable, "-m", "pip", "--isolated", "download", *quiet, "--no-deps", *where)
    run(*pip, "egressproxy-test-wheel", folder=tmp_path)
    assert (tmp_path / wheel.name).read_bytes() == wheel.read_bytes()
    the_one_tunnel(proxy, origin.target)


# --- others -------------------------------------------------------------------------------------------------------


def test_wget_takes_the_proxy_from_its_environment(
    proxy: Proxy, origin: TlsOrigin, ca_file: Path, tmp_path: Path
) -> None:
    wget = installed("wget")
    options = ("-q", "-O", "-", "--ca-certificate", ca_file)
    done = run(wget, *options, origin.url(), folder=tmp_path, variables={"https_proxy": proxy.url})
    assert TITLE in done.out
    the_one_tunnel(proxy, origin.target)


def test_git_clones_a_repository(proxy: Proxy, origin: TlsOrigin, pages: Path, ca_file: Path, tmp_path: Path) -> None:
    git = installed("git")
    who = {f"GIT_{role}_{what}": "x" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    work, bare = tmp_path / "work", pages / "repository.git"
    run(git, "init", "-q", work, folder=tmp_path)
    (work / "file").write_text("It came through.\n")
    run(git, "-C", work, "add", "file", folder=tmp_path)
    run(git, "-C", work, "commit", "-q", "-m", "one", folder=tmp_path, variables=who)
    run(git, "clone", "-q", "--bare", work, bare, folder=tmp_path)
    run(git, "-C", bare, "update-server-info", folder=tmp_path)
    variables = {"HTTPS_PROXY": proxy.url, "GIT_SSL_CAINFO": str(ca_file), "GIT_TERMINAL_PROMPT": "0"}
    run(git, "clone", "-q", origin.url("/repository.git"), "cloned", folder=tmp_path, variables=variables)
    assert (tmp_path / "cloned" / "file").read_text() == "It came through.\n"
    the_one_tunnel(proxy, origin.target)


def test_openssl_says_connect_in_http_1_0(proxy: Proxy, origin: TlsOrigin, ca_file: Path, tmp_path: Path) -> None:
    where = ("-proxy", f"127.0.0.1:{proxy.port}", "-connect", origin.target, "-servername", NAME)
    trust = ("-CAfile", ca_file, "-verify_return_error", "-verify_hostname", NAME)
    request = f"GET / HTTP/1.1\r\nHost: {NAME}\r\nConnection: close\r\n\r\n"
    done = run("openssl", "s_client", *where, *trust, "-quiet", folder=tmp_path, stdin=request)
    assert TITLE in done.out
    the_one_tunnel(proxy, origin.target, http_version="1.0")


@pytest.mark.parametrize("program", ["ncat", "socat"])
def test_a_program_that_only_carries_bytes_opens_a_tunnel_in_http_1_0(
    proxy: Proxy, origin: TlsOrigin, trust: ssl.SSLContext, program: str
) -> None:
    command: list[str]
    if installed(program) == "ncat":
        command = ["ncat", "--proxy-type", "http", "--proxy", f"127.0.0.1:{proxy.port}", NAME, f"{origin.port}"]
    else:
        command = ["socat", "-", f"PROXY:127.0.0.1:{NAME}:{origin.port},proxyport={proxy.port}"]
    ours, theirs = socket.socketpair()
    ours.settimeout(15)
    with ours, theirs, subprocess.Popen(command, stdin=theirs.fileno(), stdout=theirs.fileno()) as process:
        theirs.close()
        try:
            with trust.wrap_socket(ours, server_hostname=NAME) as tls:
                tls.sendall(f"GET / HTTP/1.1\r\nHost: {NAME}\r\n\r\n".encode())
                answer = b""
                while not answer.endswith(PAGE):
                    answer += (more := tls.recv(65_536))
                    assert more, answer
            process.wait(15)  # its standard input has ended, and with it the tunnel
        finally:
            process.kill()
    the_one_tunnel(proxy, origin.target, http_version="1.0")


NODE = """
const [host, port, proxyPort, ca] = process.argv.slice(1);
const http = require('http'), https = require('https'), fs = require('fs');
http.request({host: '127.0.0.1', port: proxyPort, method: 'CONNECT', path: `${host}:${port}`})
  .on('connect', (response, socket) => {
    https.get({host, port, path: '/', socket, agent: false, servername: host, ca: fs.readFileSync(ca)}, (page) => {
      page.pipe(process.stdout);
    });
  })
  .end();
"""


def test_node_opens_a_tunnel(proxy: Proxy, origin: TlsOrigin, ca_file: Path, tmp_path: Path) -> None:
    node = installed("node")
    done = run(node, "-e", NODE, NAME, str(origin.port), str(proxy.port), ca_file, folder=tmp_path)
    assert TITLE in done.out
    the_one_tunnel(proxy, origin.target)
