"""Plain requests as people make them: by curl, Python, Node and WebSocket, to NGINX, and beside Squid."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import shutil
import socket
import ssl
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from support import certificates, websocket
from support.clients import Done, installed, run
from support.plain_http import CLOSE, Ends, Message, RawOrigin, Wire, chunked, request, response
from support.proxy import Proxy, free_port
from support.waiting import WAIT_S, eventually

MIB = 1 << 20
BLOCK = bytes(range(256)) * 4096


def answer(asked: Message) -> list[bytes]:
    """`/big/N`: N bytes; `/chunks`: a body in chunks; all else: what was asked, as JSON."""
    path = asked.target
    if path.startswith("/big/"):
        return [response((BLOCK * (int(path[5:]) // MIB + 1))[: int(path[5:])])]
    if path == "/chunks":
        return [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", chunked(b"one ", b"two ", b"three")]
    if path == "/to-the-end":
        return [b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: text/plain\r\nContent-Length: 3\r\n\r\nend"]
    about = {
        "method": asked.method,
        "path": path,
        "bytes": len(asked.body),
        "sha256": hashlib.sha256(asked.body).hexdigest(),
        "fields": dict(asked.fields),
    }
    body = json.dumps(about).encode()
    if asked.method == "HEAD":
        return [response(body, "Content-Type: application/json")[: -len(body)]]
    return [response(body, "Content-Type: application/json")]


@pytest.fixture(scope="module")
def origin() -> Iterator[RawOrigin]:
    with RawOrigin(answer) as origin:
        yield origin


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory, open_config: dict[str, Any]) -> Iterator[Proxy]:
    """Three ways in: as a proxy, as one that is spoken to in TLS, and by the Host field."""
    folder = tmp_path_factory.mktemp("proxy")
    leaf = certificates.authority().issue_cert("127.0.0.1")
    leaf.private_key_pem.write_to_path(str(folder / "key.pem"))
    (folder / "cert.pem").write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
    proxy = Proxy(folder)
    tls = {"certificate": str(folder / "cert.pem"), "key": str(folder / "key.pem")}
    listeners = [
        {"protocol": "http-proxy", "name": "plain"},
        {"protocol": "http-proxy", "name": "tls", "port": free_port(), "tls": tls},
        {"protocol": "http", "name": "web", "port": free_port()},
    ]
    proxy.write_config({**open_config, "listeners": listeners})
    with proxy:
        yield proxy


def port_of(proxy: Proxy, listener: str) -> int:
    (port,) = (each["port"] for each in proxy.config["listeners"] if each["name"] == listener)
    return int(port)


@pytest.fixture(params=["plain", "tls"])
def via(request: pytest.FixtureRequest, proxy: Proxy, ca_file: Path) -> tuple[str, ...]:
    """curl's options for the proxy, in the clear and in TLS."""
    proxy.settled()
    if request.param == "plain":
        return ("-x", proxy.url)
    return ("-x", f"https://127.0.0.1:{port_of(proxy, 'tls')}", "--proxy-cacert", str(ca_file))


def curl(folder: Path, *options: str | Path, code: int = 0) -> Done:
    return run("curl", "-sS", "--max-time", "15", *options, folder=folder, code=code)


def answered(proxy: Proxy, *expected: tuple[str, int]) -> list[dict[str, Any]]:
    """The requests since the last look were these (method and status), and all of them were answered."""
    records = proxy.settled().records
    assert [(record["method"], record["status"], record["outcome"]) for record in records] == [
        (method, status, "answered") for method, status in expected
    ]
    return records


# --- curl ---------------------------------------------------------------------------------------------------------


def test_curl_takes_the_proxy_from_its_environment(proxy: Proxy, origin: RawOrigin, tmp_path: Path) -> None:
    proxy.settled()
    done = run("curl", "-sS", origin.url("/a?b"), folder=tmp_path, variables={"http_proxy": proxy.url})
    assert json.loads(done.out)["path"] == "/a?b"
    (record,) = answered(proxy, ("GET", 200))
    assert record["user_agent"].startswith("curl/")


def test_curl_asks_for_many_urls_on_one_connection(
    proxy: Proxy, origin: RawOrigin, via: tuple[str, ...], tmp_path: Path
) -> None:
    urls = [origin.url(f"/{number}") for number in range(20)]
    done = curl(tmp_path, *via, "-w", "\n%{num_connects}\n", *urls)
    lines = done.out.split("\n")
    assert [json.loads(line)["path"] for line in lines[:-1:2]] == [f"/{number}" for number in range(20)]
    assert [int(line) for line in lines[1::2]] == [1] + [0] * 19
    records = answered(proxy, *[("GET", 200)] * 20)
    assert [record["request"] for record in records] == list(range(1, 21))
    assert len({record["connection"] for record in records}) == 1


def test_curl_downloads_and_uploads_megabytes(
    proxy: Proxy, origin: RawOrigin, via: tuple[str, ...], tmp_path: Path
) -> None:
    size = 8 * MIB + 1
    big = tmp_path / "big"
    curl(tmp_path, *via, "-o", big, origin.url(f"/big/{size}"))
    assert big.stat().st_size == size
    digest = hashlib.sha256(big.read_bytes()).hexdigest()
    done = curl(tmp_path, *via, "-T", big, origin.url("/up"))  # with Expect: 100-continue
    told = json.loads(done.out)
    assert (told["method"], told["bytes"], told["sha256"]) == ("PUT", size, digest)
    assert told["fields"]["expect"] == "100-continue"
    down, up = answered(proxy, ("GET", 200), ("PUT", 200))
    assert (down["bytes_down"], up["bytes_up"]) == (size, size)


def test_curl_uploads_in_chunks_what_it_reads_from_a_pipe(
    proxy: Proxy, origin: RawOrigin, via: tuple[str, ...], tmp_path: Path
) -> None:
    done = run("curl", "-sS", *via, "-T", "-", origin.url("/up"), folder=tmp_path, stdin="x" * 300_000)
    told = json.loads(done.out)
    assert (told["bytes"], told["fields"]["transfer-encoding"]) == (300_000, "chunked")
    assert "content-length" not in told["fields"]


def test_curl_posts_a_form(proxy: Proxy, origin: RawOrigin, via: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(BLOCK)
    told = json.loads(curl(tmp_path, *via, "-F", f"file=@{tmp_path / 'file'}", origin.url("/form")).out)
    assert told["method"] == "POST"
    assert told["bytes"] > MIB


def test_curl_asks_for_a_head_alone(proxy: Proxy, origin: RawOrigin, via: tuple[str, ...], tmp_path: Path) -> None:
    done = curl(tmp_path, *via, "-I", origin.url("/1"), origin.url("/2"))
    assert done.out.count("HTTP/1.1 200 OK") == 2
    assert len({record["connection"] for record in answered(proxy, ("HEAD", 200), ("HEAD", 200))}) == 1


def test_curl_speaks_http_1_0(proxy: Proxy, origin: RawOrigin, via: tuple[str, ...], tmp_path: Path) -> None:
    assert curl(tmp_path, *via, "--http1.0", origin.url("/chunks"), origin.url("/chunks")).out == "one two three" * 2
    assert {record["http_version"] for record in answered(proxy, ("GET", 200), ("GET", 200))} == {"1.0"}


def test_curl_says_what_is_wrong_with_a_refused_request(proxy: Proxy, via: tuple[str, ...], tmp_path: Path) -> None:
    done = curl(tmp_path, *via, "-w", "%{http_code}", f"http://127.0.0.1:{free_port()}/")
    assert "egressproxy: connect_refused: " in done.out
    assert done.out.endswith("503")


def test_curl_notices_that_a_body_broke_off(proxy: Proxy, via: tuple[str, ...], tmp_path: Path) -> None:
    for begun, code in (
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello", 18),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", 18),
    ):
        script: list[Any] = [begun, CLOSE]
        with RawOrigin(lambda _, script=script: script) as broken:
            curl(tmp_path, *via, "-o", "/dev/null", broken.url(), code=code)


def test_requests_in_tls_are_pipelined_in_one_record_and_in_many(proxy: Proxy, ca_file: Path) -> None:
    context = ssl.create_default_context(cafile=str(ca_file))
    with RawOrigin() as origin, socket.create_connection(("127.0.0.1", port_of(proxy, "tls")), WAIT_S) as sock:
        client = Wire(context.wrap_socket(sock, server_hostname="127.0.0.1"))
        with client:
            client.send(request(origin.url("/1")) + request(origin.url("/2"), method="POST", body=b"two"))
            upstream = origin.take()
            assert upstream.request().target == "/1"
            client.send(request(origin.url("/3")))
            upstream.send(response(b"one"))
            assert client.response().body == b"one"
            assert upstream.request().body == b"two"
            client.send(request(origin.url("/4"), "Connection: close"))
            for number in (2, 3, 4):
                upstream.send(response(str(number).encode()))
                assert client.response().body == str(number).encode()
                if number < 4:
                    assert upstream.request().target == f"/{number + 1}"
            assert client.to_the_end() == b""


# --- Python -------------------------------------------------------------------------------------------------------


def test_requests_keeps_its_connection(proxy: Proxy, origin: RawOrigin) -> None:
    proxy.settled()
    with requests.Session() as session:
        session.trust_env = False
        session.proxies = {"http": proxy.url}
        for number in range(5):
            assert session.get(origin.url(f"/{number}")).json()["path"] == f"/{number}"
        assert session.post(origin.url("/p"), data=iter([b"a", b"b" * 70_000])).json()["bytes"] == 70_001
        assert session.get(origin.url("/chunks")).text == "one two three"
        assert session.get(f"http://127.0.0.1:{free_port()}/").status_code == 503
        assert session.head(origin.url()).headers["content-type"] == "application/json"
    records = proxy.settled().records
    assert len(records) == 9
    assert len({record["connection"] for record in records}) == 1


def test_urllib_goes_through_the_proxy(proxy: Proxy, origin: RawOrigin, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({"http": proxy.url}))
    with opener.open(origin.url("/u"), data=b"posted", timeout=WAIT_S) as reply:
        told = json.load(reply)
    assert (told["method"], told["bytes"]) == ("POST", 6)
    with pytest.raises(urllib.error.HTTPError) as refused:
        opener.open("http://10.0.0.1/", timeout=WAIT_S)
    with refused.value as error:
        assert error.code == 403
        assert b"address_denied" in error.read()


def test_http_client_reads_an_answer_piece_by_piece(proxy: Proxy, origin: RawOrigin) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=WAIT_S)
    try:
        for _ in range(3):
            connection.request("GET", origin.url(f"/big/{MIB}"))
            with connection.getresponse() as reply:
                assert b"".join(iter(lambda: reply.read(10_000), b"")) == BLOCK
    finally:
        connection.close()


def test_a_client_that_knows_no_proxy_comes_by_its_host_field(proxy: Proxy, origin: RawOrigin) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port_of(proxy, "web"), timeout=WAIT_S)
    try:
        connection.request("PUT", "/x", body=b"abc", headers={"Host": origin.target})
        told = json.loads(connection.getresponse().read())
        assert (told["method"], told["path"], told["bytes"], told["fields"]["host"]) == ("PUT", "/x", 3, origin.target)
    finally:
        connection.close()


# --- Node ---------------------------------------------------------------------------------------------------------

NODE = """
const [proxyPort, url] = process.argv.slice(1);
const http = require('http');
const agent = new http.Agent({keepAlive: true, maxSockets: 1});
const ask = (method, path, body) => new Promise((done, failed) => {
  const request = http.request({host: '127.0.0.1', port: proxyPort, method, path, agent}, (response) => {
    let text = '';
    response.on('data', (data) => text += data).on('end', () => done([response.statusCode, text]));
  }).on('error', failed);
  if (body) { request.write(body); request.write(body); }
  request.end();
});
(async () => {
  const all = [await ask('GET', url + '/1'), await ask('POST', url + '/2', 'x'.repeat(100000)),
               await ask('GET', url + '/chunks'), await ask('GET', 'http://10.0.0.1/'), await ask('GET', url + '/3')];
  agent.destroy();
  console.log(JSON.stringify(all));
})();
"""


def test_node_asks_many_times_on_one_connection(proxy: Proxy, origin: RawOrigin, tmp_path: Path) -> None:
    proxy.settled()
    done = run(installed("node"), "-e", NODE, str(proxy.port), origin.url(""), folder=tmp_path)
    told = json.loads(done.out)
    assert [status for status, _ in told] == [200, 200, 200, 403, 200]
    assert json.loads(told[1][1])["bytes"] == 200_000
    assert told[2][1] == "one two three"
    records = proxy.settled().records
    assert len(records) == 5
    assert len({record["connection"] for record in records}) == 1


# --- WebSocket ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("listener", ["plain", "web"])
def test_a_websocket_is_echoed_through_the_proxy(proxy: Proxy, listener: str) -> None:
    proxy.settled()
    with RawOrigin() as origin, Ends(proxy, port_of(proxy, listener)) as client:
        serving = threading.Thread(target=lambda: websocket.echo(origin.take()))
        serving.start()
        if listener == "plain":
            websocket.open_client(client, origin.url("/chat"))
        else:
            assert client.sock.getpeername()[1] == port_of(proxy, "web")
            open_by_host(client, origin)
        sizes = (0, 1, 125, 126, 65_535, 65_536, 1_000_000)
        for size in sizes:
            payload = (b"0123456789" * (size // 10 + 1))[:size]
            sending = threading.Thread(target=client.send, args=(websocket.frame(payload, masked=True),))
            sending.start()
            assert websocket.read_frame(client) == (websocket.TEXT, payload)
            sending.join()
        client.send(websocket.frame(b"\x03\xe8", websocket.CLOSE, masked=True))
        assert websocket.read_frame(client) == (websocket.CLOSE, b"\x03\xe8")
        serving.join()
    (record,) = proxy.settled().records
    assert (record["status"], record["outcome"], record["upgraded"]) == (101, "closed", True)
    assert min(record["bytes_up"], record["bytes_down"]) > sum(sizes)


def open_by_host(client: Wire, origin: RawOrigin) -> None:
    key = "dGhlIHNhbXBsZSBub25jZQ=="  # and its answer: RFC 6455 section 1.3
    fields = ("Connection: keep-alive, Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13")
    client.send(request("/chat", *fields, f"Sec-WebSocket-Key: {key}", host=origin.target))
    told = client.response()
    assert (told.status, told.get("sec-websocket-accept")) == (101, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")


# --- NGINX --------------------------------------------------------------------------------------------------------

NGINX = """
daemon off; master_process off; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 64; }}
http {{
  client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2; fastcgi_temp_path {folder}/t3;
  uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;
  log_format asked '$connection $connection_requests $request_method $uri $status $http_via';
  access_log {folder}/asked.log asked;
  gzip on; gzip_types *; gzip_min_length 1; gzip_proxied any; keepalive_timeout 60; keepalive_requests 1000;
  client_max_body_size 1k;
  server {{
    listen 127.0.0.1:{port};
    root {folder}/pages;
    location = /moved {{ absolute_redirect off; return 302 /page.html; }}
    location = /elsewhere {{ return 301 http://$http_host/page.html; }}
    location = /nothing {{ return 204; }}
  }}
}}
"""
PAGE = b"<!DOCTYPE html>\n" + b"<p>It came through.</p>\n" * 1000


class Nginx:
    """NGINX as an origin, with its own log."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.folder = folder
        (folder / "pages").mkdir()
        (folder / "pages" / "page.html").write_bytes(PAGE)
        (folder / "nginx.conf").write_text(NGINX.format(folder=folder, port=self.port))

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def asked(self, count: int) -> list[list[str]]:
        """The lines of its log, once there are so many."""
        log = self.folder / "asked.log"
        eventually(lambda: len(log.read_text().splitlines()) >= count, f"{count} lines in NGINX's log")
        return [line.split(" ") for line in log.read_text().splitlines()]


@pytest.fixture
def nginx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip("nginx is not installed")
    folder = tmp_path_factory.mktemp("nginx")
    folder.chmod(0o755)
    server = Nginx(folder)
    command = [program, "-p", str(folder), "-e", str(folder / "error.log"), "-c", str(folder / "nginx.conf")]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            eventually(lambda: process.poll() is not None or listens(server.port), "NGINX listens")
            assert process.poll() is None, (folder / "error.log").read_text()
            yield server
        finally:
            process.terminate()


def listens(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def test_nginx_serves_ranges_redirects_and_chunks_on_one_connection(proxy: Proxy, nginx: Nginx, tmp_path: Path) -> None:
    proxy.settled()
    with requests.Session() as session:
        session.trust_env = False
        session.proxies = {"http": proxy.url}
        plain = {"Accept-Encoding": "identity"}
        whole = session.get(nginx.url("/page.html"), headers=plain)
        assert (whole.content, whole.headers["Content-Length"]) == (PAGE, str(len(PAGE)))
        part = session.get(nginx.url("/page.html"), headers={**plain, "Range": "bytes=16-22"})
        assert (part.status_code, part.content) == (206, PAGE[16:23])
        assert part.headers["Content-Range"] == f"bytes 16-22/{len(PAGE)}"
        parts = session.get(nginx.url("/page.html"), headers={**plain, "Range": "bytes=0-1,5-6"})
        assert parts.headers["Content-Type"].startswith("multipart/byteranges")
        beyond = session.get(nginx.url("/page.html"), headers={**plain, "Range": "bytes=999999-"})
        assert beyond.status_code == 416
        same = session.get(nginx.url("/page.html"), headers={"If-None-Match": whole.headers["ETag"], **plain})
        assert (same.status_code, same.content) == (304, b"")
        moved = session.get(nginx.url("/moved"), headers=plain)
        assert (moved.content, [each.status_code for each in moved.history]) == (PAGE, [302])
        moved = session.get(nginx.url("/elsewhere"), headers=plain)
        assert (moved.content, moved.url) == (PAGE, nginx.url("/page.html"))
        packed = session.get(nginx.url("/page.html"), headers={"Accept-Encoding": "gzip"})
        assert (packed.headers["Transfer-Encoding"], packed.headers["Content-Encoding"]) == ("chunked", "gzip")
        assert packed.content == PAGE, "unpacked"
        assert session.get(nginx.url("/nothing")).status_code == 204
        assert session.head(nginx.url("/page.html"), headers=plain).headers["Content-Length"] == str(len(PAGE))
        assert session.get(nginx.url("/none"), headers={**plain, "Connection": "close"}).status_code == 404
    asked = nginx.asked(13)
    assert len({connection for connection, *_ in asked}) == 2, "upstream, too, but for what comes behind a HEAD"
    assert [each[1] for each in asked[-2:]] == ["12", "1"]
    assert all(each[-1].startswith("egressproxy-") for each in asked)
    assert len({record["connection"] for record in proxy.settled().records}) == 1


def test_nginx_refuses_a_body_before_it_has_come(proxy: Proxy, nginx: Nginx, tmp_path: Path) -> None:
    proxy.settled()
    (tmp_path / "big").write_bytes(BLOCK * 4)
    done = curl(
        tmp_path, "-x", proxy.url, "-w", "%{http_code}", "-o", "/dev/null", "-T", tmp_path / "big", nginx.url("/x")
    )
    assert done.out == "413"
    (record,) = proxy.settled().records
    assert (record["status"], record["upstream_status"]) == (413, 413)


# --- beside Squid -------------------------------------------------------------------------------------------------

SQUID = """
http_port 127.0.0.1:{port}
visible_hostname beside.test
acl refused dstdomain -n closed.example.test
http_access deny refused
http_access allow all
access_log stdio:{folder}/access.log squid
cache_log {folder}/cache.log
cache_store_log none
cache deny all
cache_mem 8 MB
hosts_file none
dns_nameservers 127.0.0.1
pid_filename none
pinger_enable off
max_filedescriptors 1024
shutdown_lifetime 0 seconds
coredump_dir {folder}
"""


@pytest.fixture(scope="module")
def squid(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path]]:
    """Port and log of a Squid that lets everything pass but one name."""
    program = shutil.which("squid", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip("squid is not installed")
    folder = tmp_path_factory.mktemp("squid")
    port = free_port()
    (folder / "squid.conf").write_text(SQUID.format(port=port, folder=folder))
    if os.geteuid() == 0:
        for each in (folder, *folder.parents):
            if each.name.startswith(("squid", "pytest-", "popen-")):
                each.chmod(0o755)
        shutil.chown(folder, "proxy", "proxy")
    name = f"beside{port}"
    command = [program, "-N", "-n", name, "-f", str(folder / "squid.conf")]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            eventually(lambda: process.poll() is not None or listens(port), "Squid listens")
            assert process.poll() is None
            yield port, folder / "access.log"
        finally:
            process.kill()
    for segment in Path("/dev/shm").glob(f"{name}-*.shm"):  # noqa: S108, RUF100 - Squid's own
        segment.unlink()


def comparable(line: str) -> list[str]:
    """Code, method, URL, hierarchy and type: what does not hang on time, and on how long Via and an error page are."""
    fields = line.split()
    return [fields[3], *fields[5:7], *fields[8:10]]


def asked_of_both(origin: RawOrigin) -> list[tuple[str, bytes, str]]:
    """Requests that mean the same to both. Method, bytes, and the name."""
    return [
        ("GET", request(origin.url("/page?query=1"), "Connection: close"), "a page"),
        ("HEAD", request(origin.url("/page"), "Connection: close", method="HEAD"), "a head"),
        ("POST", request(origin.url("/post"), "Connection: close", method="POST", body=b"hello"), "a body"),
        ("GET", request(origin.url("/chunks"), "Connection: close"), "chunks"),
        ("GET", request(origin.url("/to-the-end"), "Connection: close"), "a body that ends with the connection"),
        ("GET", request(origin.url("/old"), version="1.0"), "HTTP/1.0"),
        ("GET", request("http://closed.example.test/x?y", "Connection: close"), "a refusal"),
        ("GET", request(f"http://127.0.0.1:{1}/", "Connection: close"), "nobody there"),
    ]


def test_replies_and_log_lines_are_as_squid_has_them(
    start: Callable[..., Proxy], open_config: dict[str, Any], origin: RawOrigin, squid: tuple[int, Path]
) -> None:
    proxy = start({**open_config, "rules": [{"action": "deny", "hosts": ["closed.example.test"]}]})
    port, log = squid
    before = len(log.read_text().splitlines())  # of whoever looked whether it listens
    for number, (method, data, what) in enumerate(asked_of_both(origin), before):
        replies = []
        for each in (proxy.port, port):
            with Ends(proxy, each) as client:
                replies.append(client.ask(data, method))
                assert client.to_the_end() == b"", what
        ours, theirs = replies
        assert ours.status == theirs.status, what
        if ours.status == 200:
            assert sans_request_id(ours) == sans_request_id(theirs), what
            assert ours.get("content-type") == theirs.get("content-type"), what
        eventually(lambda number=number: len(log.read_text().splitlines()) > number, "Squid's line")
        (line,) = proxy.settled().squid
        assert comparable(line) == comparable(log.read_text().splitlines()[number]), what


def sans_request_id(reply: Message) -> Any:
    """The body: of what the origin says of the request, what both proxies send on alike."""
    if reply.get("content-type") != "application/json" or not reply.body:
        return reply.body
    told = json.loads(reply.body)
    for name in ("via", "x-request-id", "x-forwarded-for", "cache-control", "connection"):
        told["fields"].pop(name, None)
    return told
