"""What real connections leave in the access logs: each one line, in the words that readers of Squid's log know."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.clients import CountingWire, ask, connect_head, dial, open_tunnel, receive, reset, run
from support.dns import DnsServer, Reply
from support.origin import NAME, TITLE, TcpOrigin, TlsOrigin
from support.plain_http import Ends, RawOrigin, request, response
from support.proxy import ROOT, Proxy, free_port
from support.waiting import eventually

SAMPLES = ROOT.parent / "shared" / "istio" / "sample-logs" / "squid-native.log"


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory, open_config: dict[str, Any]) -> Iterator[Proxy]:
    rules = [
        {"name": "closed", "action": "deny", "hosts": ["closed.example.test"]},
        {"name": "open", "action": "allow", "hosts": [NAME]},
    ]
    with Proxy(
        tmp_path_factory.mktemp("proxy"), {**open_config, "rules": rules, "timeouts": {"connect_s": 0.5}}
    ) as proxy:
        yield proxy


@pytest.fixture(autouse=True)
def _new_lines_only(proxy: Proxy) -> None:
    proxy.settled()


def fetch(url: str, wire: str, origin: TlsOrigin, ca_file: Path, folder: Path) -> None:
    assert TITLE in run("curl", "-sS", "-x", wire, "--cacert", ca_file, url, folder=folder).out


# --- Squid's format -----------------------------------------------------------------------------------------------


def test_a_fetched_page_is_one_tcp_tunnel_line_with_the_bytes_the_client_got(
    proxy: Proxy, origin: TlsOrigin, ca_file: Path, tmp_path: Path
) -> None:
    with CountingWire(proxy) as wire:
        fetch(origin.url(), wire.url, origin, ca_file, tmp_path)
    (line,) = proxy.settled().squid
    match = re.fullmatch(
        rf"(\d{{10}}\.\d{{3}}) +(\d+) 127\.0\.0\.1 TCP_TUNNEL/200 (\d+) CONNECT {re.escape(origin.target)} - "
        r"HIER_DIRECT/127\.0\.0\.1 -",
        line,
    )
    assert match, line
    assert abs(float(match[1]) - time.time()) < 30
    assert int(match[2]) < 15_000
    assert int(match[3]) == wire.received
    assert line[14:21] == f" {match[2]:>6}"


def test_the_size_of_a_tunnel_is_39_and_what_the_origin_sent(proxy: Proxy) -> None:
    with TcpOrigin() as origin, open_tunnel(proxy, origin.target) as client:
        with origin.take() as server:
            server.sendall(b"x" * 1000)
            client.sendall(b"y" * 70)
            assert len(receive(client, 1000)) == 1000
            assert len(receive(server, 70)) == 70
        assert client.recv(1) == b""
    logged = proxy.settled()
    assert f" TCP_TUNNEL/200 1039 CONNECT {origin.target} - HIER_DIRECT/127.0.0.1 -" in logged.squid[0]
    (record,) = logged.records
    assert (record["reply_bytes"], record["bytes_up"], record["bytes_down"]) == (39, 70, 1000)


def test_a_refusal_is_one_tcp_denied_line_with_the_size_of_the_answer(proxy: Proxy, tmp_path: Path) -> None:
    with CountingWire(proxy) as wire:
        run("curl", "-sS", "-x", wire.url, "https://closed.example.test/", folder=tmp_path, code=56)
    (line,) = proxy.settled().squid
    assert re.fullmatch(
        rf"\d{{10}}\.\d{{3}} +\d+ 127\.0\.0\.1 TCP_DENIED/403 {wire.received} CONNECT closed\.example\.test:443 - "
        r"HIER_NONE/- text/html",
        line,
    ), line


def test_a_name_that_does_not_exist_is_a_503_without_an_address(proxy: Proxy) -> None:
    assert ask(proxy, connect_head("nowhere.example.test:443")).status == 503
    (line,) = proxy.settled().squid
    assert line.endswith(" TCP_TUNNEL/503 0 CONNECT nowhere.example.test:443 - HIER_NONE/- -"), line


def test_a_port_where_nobody_listens_is_a_503_with_the_address(proxy: Proxy) -> None:
    target = f"{NAME}:{free_port()}"
    assert ask(proxy, connect_head(target)).status == 503
    (line,) = proxy.settled().squid
    assert line.endswith(f" TCP_TUNNEL/503 0 CONNECT {target} - HIER_DIRECT/127.0.0.1 -"), line


def test_a_line_has_the_shape_of_the_sample_lines(
    proxy: Proxy, origin: TlsOrigin, ca_file: Path, tmp_path: Path
) -> None:
    if not SAMPLES.exists():
        pytest.skip("the sample logs are not beside this checkout")
    fetch(origin.url(), proxy.url, origin, ca_file, tmp_path)
    (line,) = proxy.settled().squid
    samples = SAMPLES.read_text().splitlines()
    assert samples
    assert {shape(sample) for sample in samples} == {shape(line)}


def shape(line: str) -> str:
    """A line of Squid's format with everything that differs between tunnels made the same."""
    line = re.sub(r"^\d{10}\.\d{3} [ \d]{6} ", "TIME ELAPSED ", line)
    line = re.sub(r"\d+\.\d+\.\d+\.\d+", "ADDRESS", line)
    return re.sub(r"/200 \d+ CONNECT [a-z.]+:\d+ ", "/200 SIZE CONNECT HOST:PORT ", line)


# --- JSON ---------------------------------------------------------------------------------------------------------


def test_json_tells_who_closed_how_long_each_phase_took_and_what_was_decided(
    proxy: Proxy, origin: TlsOrigin, ca_file: Path, tmp_path: Path
) -> None:
    with CountingWire(proxy) as wire:
        fetch(origin.url(), wire.url, origin, ca_file, tmp_path)
    (record,) = proxy.settled().records
    assert record["event"] == "close"
    assert (record["rule"], record["reason"], record["reported"]) == ("open", "allowed by rule open", False)
    assert (record["status"], record["connected"], record["opened"]) == (200, True, True)
    assert record["closed_by"] in ("client", "upstream"), "whose end is there first: both follow curl's close_notify"
    assert (record["host"], record["port"], record["upstream"]) == (NAME, origin.port, f"127.0.0.1:{origin.port}")
    assert record["reply_bytes"] + record["bytes_down"] == wire.received
    phases = [record[f"{phase}_ms"] for phase in ("head", "resolve", "connect")]
    assert min(phases) >= 0
    assert sum(phases) <= record["duration_ms"] < 15_000


@pytest.mark.parametrize("who", ["client", "upstream"])
@pytest.mark.parametrize("how", ["closes", "resets"])
def test_json_tells_who_ended_a_tunnel_and_how(proxy: Proxy, who: str, how: str) -> None:
    with TcpOrigin() as origin, open_tunnel(proxy, origin.target) as client, origin.take() as server:
        client.sendall(b"x")
        assert receive(server, 1) == b"x"
        leaves, stays = (client, server) if who == "client" else (server, client)
        if how == "closes":
            leaves.close()
            assert stays.recv(1) == b""
        else:
            reset(leaves)
            with pytest.raises(ConnectionResetError):
                stays.recv(1)
    (record,) = proxy.settled().records
    assert (record["closed_by"], record["outcome"]) == (who, "closed" if how == "closes" else f"{who}_reset")


@pytest.mark.parametrize(
    ("target", "slug", "rule"),
    [
        ("closed.example.test:443", "rule_denied", "closed"),
        ("10.0.0.1:443", "address_denied", "outbound"),
        ("nowhere.example.test:443", "name_not_found", "outbound"),
        ("127.0.0.1:1", "connect_refused", "outbound"),
        ("no port", "malformed_request", None),
        ("localhost", "malformed_target", None),
    ],
)
def test_json_has_the_slug_that_the_client_was_told(proxy: Proxy, target: str, slug: str, rule: str | None) -> None:
    reply = ask(proxy, connect_head(target))
    (record,) = proxy.settled().records
    assert reply.slug == slug
    assert (record["outcome"], record["status"], record["rule"]) == (slug, reply.status, rule)
    assert reply.reason.endswith(f": {slug}: {record['detail']}"[:200])


@pytest.mark.parametrize(
    "first",
    [
        "GET http://user:s3cret@a.example/x@y",
        "GET ftp://user:s3@cret@a.example",
        "GET http://user:s3/cret@a.example/",
        "CONNECT user:s3cret/@a.example:443",
        "CONNECT user:s3://cret@a.example:443",
    ],
)
def test_a_password_in_a_target_is_in_no_log(proxy: Proxy, first: str) -> None:
    with dial(proxy) as client:
        client.sendall(f"{first} HTTP/1.1\r\nHost: a.example\r\n\r\n".encode())
        assert receive(client, 12) == b"HTTP/1.1 400"
    lines = proxy.settled()
    assert "***@a.example" in lines.records[0]["target"]
    told = f"{lines.squid} {lines.records}"
    assert not any(word in told for word in ("user:", "s3", "cret"))


def test_what_a_client_sends_cannot_break_out_of_its_line(proxy: Proxy) -> None:
    target = 'a"b\\c<d>%0d%0a{}:443'
    assert ask(proxy, connect_head(target, host="a")).status == 400
    logged = proxy.settled()
    assert logged.records[0]["target"] == target
    assert f" CONNECT {target} - HIER_NONE/- " in logged.squid[0]


def test_decisions_add_a_line_when_a_tunnel_opens(
    start: Callable[..., Proxy], open_config: dict[str, Any], tmp_path: Path, echo_origin: TcpOrigin
) -> None:
    log = [{"format": "json", "path": str(tmp_path / "proxy-0" / "access.json"), "decisions": True}]
    proxy = start({**open_config, "access_log": log})
    with open_tunnel(proxy, echo_origin.target):
        (opened,) = proxy.records(1)
    proxy.records(2)
    assert ask(proxy, connect_head("10.0.0.1:443")).status == 403
    opened_again, closed, refused = proxy.records(3)
    assert opened_again == opened
    assert (opened["event"], closed["event"], refused["event"]) == ("open", "close", "close")
    assert (opened["connection"], opened["rule"]) == (closed["connection"], "outbound")
    assert {key: closed[key] for key in opened} | {"event": "open", "time": opened["time"]} == opened


# --- files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("signalled", [True, False], ids=["by SIGUSR1", "by itself"])
def test_a_log_that_was_rotated_away_is_begun_anew(
    start: Callable[..., Proxy], open_config: dict[str, Any], echo_origin: TcpOrigin, signalled: bool
) -> None:
    proxy = start(open_config)
    with open_tunnel(proxy, echo_origin.target):
        pass
    proxy.settled()
    rotated = proxy.json_log.with_suffix(".1")
    proxy.json_log.rename(rotated)
    if signalled:
        proxy.signal(signal.SIGUSR1)
        eventually(proxy.json_log.exists, "the log is there again, before any new line")
        eventually(lambda: "access logs reopened" in proxy.stderr, "it says so")

    def new_log_has_a_line() -> bool:
        with open_tunnel(proxy, echo_origin.target):
            pass
        return proxy.json_log.exists() and proxy.json_log.stat().st_size > 0

    eventually(new_log_has_a_line, "lines go to the new file")
    eventually(lambda: proxy.metric("connections_open") == 0, "all have ended")
    ended = proxy.metric("connections_total")

    def numbers() -> list[int]:
        text = rotated.read_text() + proxy.json_log.read_text()
        return [json.loads(line)["connection"] for line in text.splitlines()] if text.endswith("\n") else []

    eventually(lambda: len(numbers()) == ended, "no line is lost")
    assert sorted(numbers()) == list(range(1, int(ended) + 1))


def test_a_log_that_cannot_be_written_never_holds_up_traffic(
    start: Callable[..., Proxy], open_config: dict[str, Any], tmp_path: Path, echo_origin: TcpOrigin
) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    unread = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    fcntl.fcntl(unread, fcntl.F_SETPIPE_SZ, 4096)
    good = tmp_path / "good.json"
    logs = [
        {"format": "json", "path": str(fifo), "buffer_lines": 10},
        {"format": "squid", "path": "/dev/full"},
        {"format": "json", "path": str(good)},
    ]
    try:
        proxy = start({**open_config, "access_log": logs})
        tunnels = 0

        def lost(path: str, reason: str) -> bool:
            nonlocal tunnels
            begun = time.monotonic()
            with open_tunnel(proxy, echo_origin.target) as client:
                client.sendall(b"still here")
                assert receive(client, 10) == b"still here"
            assert time.monotonic() - begun < 5
            tunnels += 1
            return proxy.metric("log_lines_dropped_total", log=path, reason=reason) >= 5

        eventually(lambda: lost(str(fifo), "buffer_full"), "lines for the unread FIFO are dropped and counted")
        eventually(lambda: lost("/dev/full", "no_space"), "lines for the full disk are dropped and counted")
        eventually(lambda: good.read_text().count("\n") == tunnels, "the log that works has every line")
        assert proxy.metric("log_lines_dropped_total", log=str(good)) == 0
        told = "access log /dev/full: No space left on device; lines are dropped"
        eventually(lambda: told in proxy.stderr, "it says so")
        proxy.end()  # in bounded time, though the FIFO is still blocked
    finally:
        os.close(unread)


def test_a_standard_output_that_nobody_reads_never_holds_up_traffic(
    start: Callable[..., Proxy], open_config: dict[str, Any], echo_origin: TcpOrigin
) -> None:
    reader, writer = os.pipe()
    try:
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
        logs = [{"format": "json", "path": "-", "buffer_lines": 10}]
        proxy = start({**open_config, "access_log": logs}, stdout=writer)

        def lines_are_lost() -> bool:
            with open_tunnel(proxy, echo_origin.target) as client:
                client.sendall(b"x")
                assert receive(client, 1) == b"x"
            return proxy.metric("log_lines_dropped_total", log="-") > 0

        eventually(lines_are_lost, "lines are dropped and counted")
        pieces: list[bytes] = []
        drain = threading.Thread(target=lambda: pieces.extend(iter(lambda: os.read(reader, 65_536), b"")))
        os.close(writer)
        writer = -1
        drain.start()

        def all_are_accounted_for() -> bool:
            lost = proxy.metric("log_lines_dropped_total", log="-")
            return b"".join(pieces).count(b"\n") + lost == proxy.metric("connections_total")

        eventually(all_are_accounted_for, "somebody reads again, and what waited comes")
        with open_tunnel(proxy, echo_origin.target):
            pass
        proxy.end()
        drain.join()
        numbers = [json.loads(line)["connection"] for line in b"".join(pieces).splitlines()]
        assert numbers == sorted(set(numbers))
        assert numbers[-1] > len(numbers), "the last line came, and those that were dropped are missing"
    finally:
        os.close(reader)
        if writer >= 0:
            os.close(writer)


def test_a_client_that_leaves_while_its_name_is_looked_up_leaves_one_line(
    proxy: Proxy, dns: DnsServer, echo_origin: TcpOrigin
) -> None:
    dns.add("held.example.test", "A", "127.0.0.1")
    dns.script("held.example.test", "*", Reply(hold=True))
    with dial(proxy) as client:
        client.sendall(connect_head(f"held.example.test:{echo_origin.port}"))
        dns.wait_asked("held.example.test")
        reset(client)
    dns.release()
    (record,) = proxy.settled().records
    assert (record["closed_by"], record["bytes_up"], record["bytes_down"]) == ("client", 0, 0)
    assert record["outcome"] in ("client_gone", "client_reset")


def test_an_upstream_that_never_answers_is_a_504(proxy: Proxy) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as deaf, socket.socket() as one, socket.socket() as other:
        for filler in (one, other):  # its queue is full now: the kernel answers nobody else
            filler.setblocking(False)
            filler.connect_ex(deaf.getsockname())
        reply = ask(proxy, connect_head(f"127.0.0.1:{deaf.getsockname()[1]}"))
    assert (reply.status, reply.slug) == (504, "connect_timeout")
    logged = proxy.settled()
    assert " TCP_TUNNEL/504 0 CONNECT 127.0.0.1:" in logged.squid[0]
    assert logged.records[0]["duration_ms"] >= 500


def test_a_name_server_that_is_slow_shows_in_the_resolve_phase(proxy: Proxy, dns: DnsServer) -> None:
    dns.add("slow.example.test", "A", "127.0.0.1")
    dns.script("slow.example.test", "A", Reply(delay_s=0.2, times=1))
    assert ask(proxy, connect_head("slow.example.test:1")).slug == "connect_refused"
    (record,) = proxy.settled().records
    assert record["resolve_ms"] >= 190
    assert record["connect_ms"] is None


# --- header fields ------------------------------------------------------------------------------------------------

FIELD_LOGS = {
    "istio": '"%REQ(X-TEAM)%" %REQ(X-TWO)% "%REQ(PROXY-CONNECTION)%" %RESPONSE_CODE% %RESP(SERVER)% %RESP(KEEP-ALIVE)%',
    "squid": '"%{X-Team}>h" "%{X-Two}>h" %>Hs %{Server}<h',
}
SENT = ('X-Team: blue "1"', "X-Two: a", "x-two: b", "Proxy-Connection: keep-alive")
ANSWERED = response(b"", "Server: origin/1", "Keep-Alive: timeout=5")


def test_any_field_of_a_request_and_of_its_response_can_be_in_a_line(
    tmp_path: Path, open_config: dict[str, Any]
) -> None:
    with Proxy(tmp_path, open_config) as proxy, RawOrigin(lambda _asked: [ANSWERED]) as origin:
        files = {word: tmp_path / f"{word}.log" for word in FIELD_LOGS}
        usual = proxy.config["access_log"]
        logs = [{"format": word, "template": FIELD_LOGS[word], "path": str(file)} for word, file in files.items()]
        assert proxy.reload({**open_config, "access_log": [*usual, *logs]}), proxy.stderr
        with Ends(proxy) as client:
            for fields in (SENT, ()):
                client.send(request(origin.url(), *fields))
                assert client.response().status == 200
        assert ask(proxy, connect_head("nowhere.example.test:443", "X-Team: red")).status == 503
        proxy.settled()
        assert files["istio"].read_text().splitlines() == [
            '"blue %221%22" a "keep-alive" 200 origin/1 timeout=5',
            '"-" - "-" 200 origin/1 timeout=5',
            '"red" - "-" 503 - -',
        ]
        assert files["squid"].read_text().splitlines() == [
            '"blue %221%22" "a, b" 200 origin/1',
            '"-" "-" 200 origin/1',
            '"red" "-" 503 -',
        ]
