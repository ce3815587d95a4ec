import asyncio
import json
import signal
import socket
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from support.records import MISMATCH, TUNNEL

from egressproxy.config.faults import Way
from egressproxy.config.schema.config import Config
from egressproxy.model import Endpoint, Intent, Problem, Target, Verdict
from egressproxy.policy.policy import Policy
from egressproxy.telemetry.admin import (
    MAX_CONNECTIONS,
    MAX_LINES,
    MAX_LISTED,
    MAX_LISTED_WITHIN,
    MAX_TUNNELS_SHOWN,
    start_admin,
)
from egressproxy.telemetry.clusters import MAX_ENTRIES
from egressproxy.telemetry.metrics import Metrics
from egressproxy.telemetry.record import RecordDraft

CONFIG = {
    "listeners": [{"protocol": "http-proxy", "port": 3128, "name": "front"}],
    "rules": [
        {"name": "ci", "action": "allow", "clients": ["10.1.0.0/16"], "hosts": ["*.packages.example"], "ports": [443]},
        {"name": "rest", "action": "deny"},
    ],
}


class State:
    """The state of a runtime, still."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.ready: str | None = None
        self.config = Config.model_validate(config)
        self.generation = 3
        self.loaded_at_unix_s = 1544160065.0
        self.sources = ("egressproxy.yaml",)
        self.last_reload_problems: tuple[Problem, ...] = ()
        self.notes: tuple[Problem, ...] = ()
        self.policy = Policy.from_config(self.config, lambda address, port: False)
        self.drafts: list[RecordDraft] = []
        self.metrics = Metrics(version="1.2.3", loop="asyncio", live_drafts=self.open_drafts)

    def open_drafts(self) -> list[RecordDraft]:
        return self.drafts

    def locate(self, way: Way) -> tuple[str, int | None]:
        """As if each rule stood on a line of its own."""
        return "egressproxy.yaml", way[1] + 10 if way[0] == "rules" and isinstance(way[1], int) else None

    def add_drafts(self, count: int) -> None:
        for number in range(len(self.drafts) + 1, len(self.drafts) + count + 1):
            draft = RecordDraft(number, "front", "http-proxy", "10.1.2.3", 50000, time.monotonic())
            draft.intent = Intent("10.1.2.3", "front", "CONNECT", Target("files.packages.example", 443, False))
            draft.verdict = Verdict(True, "ci", "allowed by rule ci")
            draft.upstream = Endpoint("192.0.2.7", 443)
            draft.opened = True
            self.drafts.append(draft)


class Pages:
    """The admin port as an operator sees it."""

    def __init__(self, session: aiohttp.ClientSession, address: tuple[str, int]) -> None:
        self.session = session
        self.address = address

    async def ask(self, path: str, method: str = "GET", **headers: str) -> tuple[int, str, str]:
        """Status, content type and body."""
        async with self.session.request(method, path, headers=headers) as response:
            return response.status, response.headers.get("Content-Type", ""), await response.text()


@pytest.fixture
def state() -> State:
    return State(CONFIG)


@pytest_asyncio.fixture
async def pages(state) -> AsyncIterator[Pages]:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    address = sock.getsockname()
    server = await start_admin(state, sock)
    async with aiohttp.ClientSession(f"http://127.0.0.1:{address[1]}") as session:
        yield Pages(session, address)
    await server.close()


async def test_metrics_come_in_the_format_that_was_asked_for(pages):
    status, content_type, body = await pages.ask("/metrics")
    assert status == 200
    assert content_type.startswith("text/plain; version=0.0.4")
    assert "egressproxy_build_info{" in body
    status, content_type, body = await pages.ask("/metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text; version=1.0.0")
    assert body.endswith("# EOF\n")


async def test_readiness_goes_with_its_reason_and_liveness_stays(pages, state):
    assert await pages.ask("/readyz") == (200, "text/plain; charset=utf-8", "ready\n")
    state.ready = "draining"
    assert await pages.ask("/readyz") == (503, "text/plain; charset=utf-8", "draining\n")
    assert (await pages.ask("/livez"))[0] == 200


async def test_open_tunnels_are_listed(pages, state):
    state.add_drafts(1)
    body = json.loads((await pages.ask("/tunnels"))[2])
    assert (body["open"], body["shown"]) == (1, 1)
    [tunnel] = body["tunnels"]
    assert (tunnel["connection"], tunnel["target"], tunnel["rule"]) == (1, "files.packages.example:443", "ci")
    assert 0 <= tunnel["age_s"] < 10


async def test_ten_thousand_tunnels_are_not_all_listed(pages, state):
    state.add_drafts(10_000)
    for query, shown in (("", 100), ("?limit=7", 7), ("?limit=0", 0), ("?limit=999999", MAX_TUNNELS_SHOWN)):
        body = json.loads((await pages.ask(f"/tunnels{query}"))[2])
        assert (body["open"], body["shown"], len(body["tunnels"])) == (10_000, shown, shown)


@pytest.mark.parametrize("limit", ["-1", "x", "", "1e3", "٣", "9" * 5000])
async def test_an_odd_limit_is_a_bad_request(pages, limit):
    assert (await pages.ask(f"/tunnels?limit={limit}"))[0] == 400


async def test_the_configuration_is_shown_in_native_form_with_where_it_came_from(pages, state):
    state.last_reload_problems = (Problem("egressproxy.yaml", 4, "rules[0].ports[0]", "expected a port"),)
    body = json.loads((await pages.ask("/config"))[2])
    assert (body["generation"], body["loaded_at"], body["sources"]) == (3, "2018-12-07T05:21:05Z", ["egressproxy.yaml"])
    assert body["last_reload_problems"] == [
        {"file": "egressproxy.yaml", "line": 4, "path": "rules[0].ports[0]", "message": "expected a port"}
    ]
    assert body["not_shown"] == {}
    assert Config.model_validate(body["config"]) == state.config


async def test_a_configuration_without_admin_port_says_so(pages, state):
    state.config = Config.model_validate(CONFIG | {"admin": None})
    body = json.loads((await pages.ask("/config"))[2])
    assert Config.model_validate(body["config"]) == state.config


async def test_long_lists_of_the_configuration_are_cut_and_said_to_be(pages, state):
    hosts = [f"h{number}.example" for number in range(MAX_LISTED_WITHIN + 5)]
    state.config = Config.model_validate(
        CONFIG
        | {
            "allow": [f"a{number}.example:443" for number in range(MAX_LISTED + 200)],
            "rules": [{"name": "many", "action": "allow", "hosts": hosts}],
            "guard": {"allow": [f"10.{number // 256}.{number % 256}.0/24" for number in range(MAX_LISTED + 3)]},
        }
    )
    body = json.loads((await pages.ask("/config"))[2])
    assert body["not_shown"] == {"allow": 200, "guard.allow": 3, "rules[0].hosts": 5}
    assert len(body["config"]["allow"]) == MAX_LISTED
    assert len(body["config"]["rules"][0]["hosts"]) == MAX_LISTED_WITHIN
    assert len(state.config.allow) == MAX_LISTED + 200


async def test_explain_says_which_rule_decides(pages):
    allowed = json.loads((await pages.ask("/explain?to=files.packages.example:443&client=10.1.2.3"))[2])
    assert (allowed["allowed"], allowed["by_name"]["rule"], allowed["listener"]) == (True, "ci", "front")
    denied = json.loads((await pages.ask("/explain?to=files.packages.example:443&client=10.2.2.3&method=GET"))[2])
    assert (denied["allowed"], denied["by_name"]["rule"], denied["method"]) == (False, "rest", "GET")


async def test_explain_takes_a_url_as_the_command_line_does(pages):
    told = json.loads((await pages.ask("/explain?to=https://files.packages.example/simple&client=10.1.2.3"))[2])
    assert (told["target"], told["allowed"]) == ("files.packages.example:443", True)


async def test_explain_takes_a_plain_request_from_an_http_url(pages):
    told = json.loads((await pages.ask("/explain?to=http://files.packages.example/simple?x&client=10.1.2.3"))[2])
    assert (told["target"], told["method"], told["path"]) == ("files.packages.example:80", "GET", "/simple")
    told = json.loads((await pages.ask("/explain?to=http://files.packages.example/&method=POST"))[2])
    assert (told["method"], told["path"]) == ("POST", "/")
    status, _, body = await pages.ask("/explain?to=https://files.packages.example/&method=GET")
    assert status == 400
    assert body.startswith("an https URL is asked for by CONNECT")


async def test_explain_names_a_parameter_that_it_does_not_know(pages):
    status, _, body = await pages.ask("/explain?to=a.example:443&clinet=10.1.2.3")
    assert (status, body) == (400, "expected only address, client, listener, method, to, got 'clinet'\n")


async def test_explain_judges_addresses_it_is_given(pages):
    path = "/explain?to=files.packages.example:443&client=10.1.2.3&address=169.254.169.254"
    assert json.loads((await pages.ask(path))[2])["allowed"] is False


async def test_explain_speaks_to_people_who_ask_for_text(pages):
    status, content_type, body = await pages.ask(
        "/explain?to=files.packages.example:443&client=10.1.2.3", Accept="text/plain"
    )
    assert (status, content_type) == (200, "text/plain; charset=utf-8")
    assert "rule ci" in body


@pytest.mark.parametrize(
    "query",
    [
        "",
        "?to=",
        "?to=example.com",
        "?to=2130706433:443",
        "?to=a.example:443&client=nobody",
        "?to=a.example:443&address=x",
        "?to=a.example:443" + "&address=192.0.2.1" * 17,
        "?to=%1b[31m%0a%00:443",
    ],
)
async def test_explain_refuses_what_it_cannot_read_in_visible_words(pages, query):
    status, content_type, body = await pages.ask(f"/explain{query}")
    assert (status, content_type) == (400, "text/plain; charset=utf-8")
    assert body.endswith("\n")
    assert body[:-1].isprintable()


async def test_explain_tells_file_and_line(pages):
    query = "/explain?to=files.packages.example:443&client=10.1.2.3"
    assert json.loads((await pages.ask(query))[2])["by_name"]["at"] == {"file": "egressproxy.yaml", "line": 10}
    assert "  written at egressproxy.yaml:10\n" in (await pages.ask(query, Accept="text/plain"))[2]


async def test_explain_asks_about_a_listener_that_there_is(pages):
    status, _, body = await pages.ask("/explain?to=a.example:443&listener=back")
    assert (status, body) == (400, "expected a listener that takes tunnels (front), got 'back'\n")
    assert json.loads((await pages.ask("/explain?to=a.example:443&listener=front"))[2])["listener"] == "front"


# --- pages as Envoy has them --------------------------------------------------------------------------------------


async def test_the_mode_is_read_back(pages, state):
    assert (await pages.ask("/mode"))[2] == "outboundTrafficPolicy:\n  mode: REGISTRY_ONLY\n"
    state.config = Config.model_validate(CONFIG | {"outbound": "allow_any"})
    assert "mode: ALLOW_ANY" in (await pages.ask("/mode"))[2]


SERVICES = [{"hosts": ["en.wikipedia.org"], "ports": [{"number": 443}]}]


@pytest_asyncio.fixture
async def counting(state) -> State:
    state.config = Config.model_validate(CONFIG | {"services": SERVICES})
    state.metrics.counts_clusters = True
    return state


async def test_clusters_are_shown_with_their_endpoints_and_what_is_open(pages, counting):
    counting.metrics.observe(TUNNEL)
    counting.metrics.observe(TUNNEL)
    counting.add_drafts(1)
    body = (await pages.ask("/clusters"))[2]
    assert "outbound|443||en.wikipedia.org::91.198.174.192:443::cx_total::2\n" in body
    assert "outbound|443||files.packages.example::192.0.2.7:443::cx_active::1\n" in body
    filtered = (await pages.ask("/clusters?filter=wikipedia.*cx_total"))[2]
    assert filtered == "outbound|443||en.wikipedia.org::91.198.174.192:443::cx_total::2\n"


async def test_clusters_say_where_nothing_is_counted(pages, state):
    state.metrics.observe(TUNNEL)
    assert (await pages.ask("/clusters"))[2].startswith("# nothing is counted by cluster: ")


async def test_stats_are_counters_by_cluster_by_listener_and_of_the_check(pages, counting):
    assert "cluster.outbound|443||en.wikipedia.org.upstream_cx_total: 0\n" in (await pages.ask("/stats"))[2]
    counting.metrics.observe(TUNNEL._replace(listener="front"))
    counting.metrics.observe(MISMATCH._replace(listener="front"))
    counting.add_drafts(1)
    lines = (await pages.ask("/stats"))[2].splitlines()
    assert "cluster.outbound|443||en.wikipedia.org.upstream_cx_total: 2" in lines
    assert "listener.0.0.0.0_3128.downstream_cx_total: 3" in lines
    assert "listener.0.0.0.0_3128.downstream_cx_active: 1" in lines
    assert "sni_verifier.snis_do_not_match: 1" in lines


async def test_stats_may_be_only_those_that_are_used(pages, counting):
    counting.metrics.observe(TUNNEL)
    lines = (await pages.ask("/stats?usedonly&filter=^cluster"))[2].splitlines()
    assert lines == [
        "cluster.outbound|443||en.wikipedia.org.upstream_cx_length_ms_sum: 230",
        "cluster.outbound|443||en.wikipedia.org.upstream_cx_rx_bytes_total: 87594",
        "cluster.outbound|443||en.wikipedia.org.upstream_cx_total: 1",
        "cluster.outbound|443||en.wikipedia.org.upstream_cx_tx_bytes_total: 702",
    ]


async def test_stats_for_prometheus_are_the_metrics(pages):
    status, content_type, body = await pages.ask("/stats?format=prometheus")
    assert (status, content_type.startswith("text/plain; version=0.0.4")) == (200, True)
    assert "egressproxy_build_info{" in body


@pytest.mark.parametrize(
    "path",
    [
        "/stats?filter=(a%2B)%2B",
        "/clusters?filter=a|",
        "/stats?format=html",
        "/stats?fliter=x",
        "/clusters?filter=%1b[31m",
    ],
)
async def test_what_cannot_be_asked_of_statistics_is_told_in_visible_words(pages, path):
    status, content_type, body = await pages.ask(path)
    assert (status, content_type) == (400, "text/plain; charset=utf-8")
    assert body.startswith("expected ")
    assert body[:-1].isprintable()


async def test_ten_thousand_clusters_are_cut_and_everybody_else_has_a_turn_meanwhile(pages, counting):
    for number in range(MAX_ENTRIES):
        counting.metrics.observe(TUNNEL._replace(target=Target(f"h{number}.example", 443, False)))
    asking = asyncio.ensure_future(pages.ask("/stats"))
    pauses, before = [], time.monotonic()
    while not asking.done():
        await asyncio.sleep(0)
        now = time.monotonic()
        pauses.append(now - before)
        before = now
    lines = (await asking)[2].splitlines()
    assert len(lines) == MAX_LINES + 1
    assert lines[-1].startswith("# and ")
    assert len(pauses) > 20, "one long turn"
    (line,) = (await pages.ask("/stats?filter=h9999.example.upstream_cx_total"))[2].splitlines()
    assert line == "cluster.outbound|443||h9999.example.upstream_cx_total: 1"


async def test_listeners_are_text_or_json(pages):
    assert (await pages.ask("/listeners"))[2] == "0.0.0.0_3128::0.0.0.0:3128\n"
    (told,) = json.loads((await pages.ask("/listeners?format=json"))[2])["listener_statuses"]
    assert (told["name"], told["label"]) == ("0.0.0.0_3128", "front")


async def test_routes_and_the_dump_are_json(pages, counting):
    (table,) = json.loads((await pages.ask("/routes"))[2])
    assert [host["name"] for host in table["virtual_hosts"]] == ["en.wikipedia.org:443", "blackhole:443"]
    dump = json.loads((await pages.ask("/config_dump"))[2])
    assert dump["configs"][1]["dynamic_route_configs"] == [{"route_config": table}]


async def test_the_configuration_is_shown_with_notes_and_without_secrets(pages, state):
    state.notes = (Problem("egressproxy.yaml", 4, "rules[1]", "never asked"),)
    inline = {f"s{number}": {"tls.key": "VERY SECRET"} for number in range(MAX_LISTED + 2)}
    state.config = Config.model_validate(CONFIG | {"secrets": {"inline": inline}})
    text = (await pages.ask("/config"))[2]
    body = json.loads(text)
    assert body["notes"] == [
        {"file": "egressproxy.yaml", "line": 4, "path": "rules[1]", "message": "never asked"},
    ]
    assert "VERY SECRET" not in text
    assert body["config"]["secrets"]["inline"]["s0"] == {"tls.key": "**********"}
    assert body["not_shown"] == {"secrets.inline": 2}


async def test_the_index_names_every_page(pages):
    status, _, body = await pages.ask("/")
    assert status == 200
    for path in (
        *("/metrics", "/livez", "/readyz", "/tunnels", "/config", "/mode"),
        *("/clusters", "/stats", "/listeners", "/routes", "/config_dump"),
    ):
        assert path in body
        assert (await pages.ask(path))[0] == 200
    assert (await pages.ask("/elsewhere"))[0] == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
@pytest.mark.parametrize("path", ["/metrics", "/elsewhere"])
async def test_other_methods_are_not_allowed(pages, method, path):
    async with pages.session.request(method, path, data=b"x" * 100) as response:
        assert response.status == 405
        assert set(response.headers["Allow"].replace(",", " ").split()) == {"GET", "HEAD"}


async def test_head_answers_without_a_body(pages):
    status, content_type, body = await pages.ask("/metrics", method="HEAD")
    assert (status, body) == (200, "")
    assert content_type.startswith("text/plain; version=0.0.4")


async def test_answers_tell_little_and_are_not_kept(pages):
    async with pages.session.get("/tunnels") as response:
        assert response.headers["Server"] == "egressproxy"
        assert response.headers["Cache-Control"] == "no-store"
        assert response.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("head", [b"\x16\x03\x01\x00\xff\x01\r\n\r\n", b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n\r\n"])
async def test_what_is_not_http_or_too_large_is_refused_and_the_port_goes_on(pages, head):
    reader, writer = await asyncio.open_connection(*pages.address)
    writer.write(head)
    assert (await reader.read(4096)).startswith(b"HTTP/1.")
    writer.close()
    await writer.wait_closed()
    assert (await pages.ask("/livez"))[0] == 200


async def test_closing_frees_the_port_twice_over_and_leaves_signals_alone(state):
    handler = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    server = await start_admin(state, sock)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == handler
    await server.close()
    await server.close()
    assert sock.fileno() == -1


def test_one_connection_too_many_is_closed_and_the_others_go_on():
    """Under uvloop too, whose transports are classes of their own."""
    import uvloop

    async def story():
        sock = socket.create_server(("127.0.0.1", 0))
        server = await start_admin(State(CONFIG), sock)
        address = sock.getsockname()
        held = [await asyncio.open_connection(*address) for _ in range(MAX_CONNECTIONS)]
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n")
        try:
            assert await asyncio.wait_for(reader.read(), 5) == b""
        except ConnectionResetError:
            pass
        first_reader, first_writer = held[0]
        first_writer.write(b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await asyncio.wait_for(first_reader.readline(), 5)).startswith(b"HTTP/1.1 200")
        for _, one in [*held, (reader, writer)]:
            one.close()
        await asyncio.sleep(0)
        await server.close()

    problems = []
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.get_loop().set_exception_handler(lambda loop, context: problems.append(context))
        runner.run(story())
    assert problems == []
