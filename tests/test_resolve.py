"""Names become addresses: against a real DNS server on loopback, real files, and a clock that tests move."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dnslib
import pytest
import uvloop
from support.dns import DnsServer, Reply, after_wrong_id, after_wrong_question, only

from egressproxy import resolve
from egressproxy.config.schema import Dns
from egressproxy.errors import NameNotFound, ResolverFailed, ResolverTimeout
from egressproxy.resolve import OUTCOMES, Resolver

NAME = "www.example.test"


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


class Files:
    """resolv.conf and the hosts file of one test. Replaced by renaming, as kubelet and NetworkManager do it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.resolv_conf = folder / "resolv.conf"
        self.hosts = folder / "hosts"
        self.write(self.resolv_conf, "nameserver 127.0.0.1:1\n")
        self.write(self.hosts, "")

    def write(self, path: Path, text: str) -> None:
        fresh = self._folder / "fresh"
        fresh.write_text(text)
        fresh.replace(path)


@pytest.fixture
def dns() -> Iterator[DnsServer]:
    with DnsServer() as server:
        yield server


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


@pytest.fixture
def make(dns: DnsServer, clock: Clock, files: Files) -> Iterator[Callable[..., Resolver]]:
    made: list[Resolver] = []

    def make_resolver(**settings: Any) -> Resolver:
        settings.setdefault("servers", (dns.address,))
        settings.setdefault("tries", 1)
        resolver = Resolver(
            Dns(**settings), resolv_conf=str(files.resolv_conf), hosts_file=str(files.hosts), clock=clock
        )
        made.append(resolver)
        return resolver

    yield make_resolver
    for resolver in made:
        resolver.close()


@pytest.fixture
def resolver(make: Callable[..., Resolver]) -> Resolver:
    return make()


def counts(resolver: Resolver) -> dict[str, int]:
    return {outcome: number for outcome, number in resolver.outcomes.items() if number}


async def until(condition: Callable[[], object]) -> None:
    """Let the loop run until something has come in. Fails after ten seconds."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event of its own
            await asyncio.sleep(0.001)


# --- answers ------------------------------------------------------------------------------------------------------


async def test_gives_the_addresses_in_the_servers_order(dns: DnsServer, resolver: Resolver) -> None:
    dns.add(NAME, "A", "192.0.2.9", "192.0.2.1", "192.0.2.5")
    assert await resolver.resolve(NAME) == ("192.0.2.9", "192.0.2.1", "192.0.2.5")
    assert counts(resolver) == {"network": 1}
    assert resolver.entries == 1


async def test_asks_for_both_families_once_each(dns: DnsServer, resolver: Resolver) -> None:
    dns.add(NAME, "A", "192.0.2.1")
    dns.add(NAME, "AAAA", "2001:db8::1")
    assert sorted(await resolver.resolve(NAME)) == ["192.0.2.1", "2001:db8::1"]
    assert (dns.count(NAME, "A"), dns.count(NAME, "AAAA"), dns.count()) == (1, 1, 2)


async def test_never_asks_for_ipv6_where_it_is_switched_off(dns: DnsServer, make: Callable[..., Resolver]) -> None:
    dns.add(NAME, "A", "192.0.2.1")
    dns.add(NAME, "AAAA", "2001:db8::1")
    assert await make(ipv6=False).resolve(NAME) == ("192.0.2.1",)
    assert dns.count(NAME, "AAAA") == 0


async def test_spells_addresses_in_the_standard_way_and_once(dns: DnsServer, resolver: Resolver) -> None:
    dns.add(NAME, "AAAA", "2001:0DB8:0:0:0:0:0:00AA", "2001:db8::aa")
    assert await resolver.resolve(NAME) == ("2001:db8::aa",)


async def test_puts_an_ipv6_address_without_a_route_behind_ipv4(dns: DnsServer, resolver: Resolver) -> None:
    dns.add(NAME, "A", "127.0.0.1")
    dns.add(NAME, "AAAA", "fe80::1")  # link-local without a zone: no route on any machine
    assert await resolver.resolve(NAME) == ("127.0.0.1", "fe80::1")


@pytest.mark.skipif(not resolve._has_route("::1"), reason="this machine has no IPv6")
async def test_puts_an_ipv6_address_with_a_route_before_ipv4(dns: DnsServer, resolver: Resolver) -> None:
    dns.add(NAME, "A", "127.0.0.1")
    dns.add(NAME, "AAAA", "::1", "fd00::1", "2002::1")  # RFC 6724: unique local and 6to4 rank below IPv4
    assert await resolver.resolve(NAME) == ("::1", "127.0.0.1", "fd00::1", "2002::1")


async def test_follows_a_chain_of_aliases(dns: DnsServer, resolver: Resolver) -> None:
    dns.add(NAME, "CNAME", "a.cdn.test")
    dns.add("a.cdn.test", "CNAME", "b.cdn.test")
    dns.add("b.cdn.test", "A", "192.0.2.7")
    assert await resolver.resolve(NAME) == ("192.0.2.7",)


async def test_an_alias_loop_is_no_address(dns: DnsServer, resolver: Resolver) -> None:
    dns.add(NAME, "CNAME", "a.cdn.test")
    dns.add("a.cdn.test", "CNAME", NAME)
    with pytest.raises(NameNotFound):
        await resolver.resolve(NAME)


async def test_takes_an_answer_of_200_addresses_over_tcp(dns: DnsServer, resolver: Resolver) -> None:
    many = tuple(f"198.51.100.{number}" for number in range(200))
    dns.add(NAME, "A", *many)
    assert await resolver.resolve(NAME) == many
    assert dns.tcp_queries == 1


async def test_bounds_what_it_keeps_of_an_answer(dns: DnsServer, resolver: Resolver) -> None:
    dns.add(NAME, "A", *(f"10.0.{number >> 8}.{number & 255}" for number in range(600)))
    assert len(await resolver.resolve(NAME)) == resolve.MAX_ADDRESSES


async def test_asks_again_over_tcp_after_a_truncated_answer(dns: DnsServer, resolver: Resolver) -> None:
    dns.add(NAME, "A", "192.0.2.1")
    dns.script(NAME, "A", Reply(truncate=True))
    assert await resolver.resolve(NAME) == ("192.0.2.1",)
    assert dns.tcp_queries == 1


# --- no -----------------------------------------------------------------------------------------------------------


async def test_says_when_a_name_does_not_exist(resolver: Resolver) -> None:
    with pytest.raises(NameNotFound, match=r"^www\.example\.test does not exist \(NXDOMAIN\)$"):
        await resolver.resolve(NAME)
    assert counts(resolver) == {"not_found": 1}


async def test_says_when_a_name_has_no_address(dns: DnsServer, resolver: Resolver) -> None:
    dns.add(NAME, "TXT", "hello")
    with pytest.raises(NameNotFound, match=r"^www\.example\.test has no address \(NODATA\)$"):
        await resolver.resolve(NAME)


async def test_says_what_the_server_said_when_it_fails(dns: DnsServer, resolver: Resolver) -> None:
    dns.script(NAME, "*", Reply(rcode="SERVFAIL"))
    with pytest.raises(ResolverFailed, match=r"^www\.example\.test could not be looked up: .* SERVFAIL$"):
        await resolver.resolve(NAME)
    dns.script(NAME, "*", Reply(rcode="REFUSED"))
    with pytest.raises(ResolverFailed, match="REFUSED"):
        await resolver.resolve(NAME)
    assert counts(resolver) == {"failed": 2}
    assert resolver.entries == 0, "failures are not kept"


async def test_says_when_nobody_answers_in_time(dns: DnsServer, make: Callable[..., Resolver]) -> None:
    dns.script(NAME, "*", Reply(drop=True))
    resolver = make(timeout_s=0.25)
    with pytest.raises(ResolverTimeout, match=r"^www\.example\.test .* in time$"):
        await resolver.resolve(NAME)
    assert counts(resolver) == {"timeout": 1}


async def test_says_when_nobody_listens(dns: DnsServer, resolver: Resolver) -> None:
    dns.stop()
    with pytest.raises(ResolverFailed, match=NAME):
        await resolver.resolve(NAME)


async def test_asks_the_next_server_when_the_first_refuses(dns: DnsServer, make: Callable[..., Resolver]) -> None:
    dns.add(NAME, "A", "192.0.2.1")
    with DnsServer() as refusing:
        refusing.script("*", "*", Reply(rcode="REFUSED"))
        assert await make(servers=(refusing.address, dns.address)).resolve(NAME) == ("192.0.2.1",)


async def test_a_failing_half_is_no_reason_to_believe_that_a_name_has_no_address(
    dns: DnsServer, resolver: Resolver
) -> None:
    dns.add(NAME, "TXT", "exists")
    dns.script(NAME, "AAAA", Reply(rcode="SERVFAIL"))
    with pytest.raises(ResolverFailed):
        await resolver.resolve(NAME)
    assert resolver.entries == 0


# --- one half -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("works", "fails", "address"), [("A", "AAAA", "192.0.2.1"), ("AAAA", "A", "2001:db8::1")])
@pytest.mark.parametrize("how", [Reply(drop=True), Reply(rcode="SERVFAIL"), Reply(rcode="NXDOMAIN")])
async def test_one_family_is_enough_and_not_delayed_by_the_other(
    dns: DnsServer, make: Callable[..., Resolver], works: str, fails: str, address: str, how: Reply
) -> None:
    dns.add(NAME, works, address)
    dns.script(NAME, fails, how)
    started = time.monotonic()
    assert await make(timeout_s=5.0).resolve(NAME) == (address,)
    assert time.monotonic() - started < 2.0, "5 s is the time-out, 50 ms what the other family may cost"


async def test_a_half_that_comes_late_joins_the_cache(dns: DnsServer, resolver: Resolver) -> None:
    dns.add(NAME, "A", "127.0.0.1")
    dns.add(NAME, "AAAA", "fe80::1")
    dns.script(NAME, "AAAA", Reply(hold=True))
    assert await resolver.resolve(NAME) == ("127.0.0.1",)
    dns.release()
    await until(lambda: resolver.cached(NAME) == ("127.0.0.1", "fe80::1"))


async def test_waits_for_the_family_that_has_addresses(dns: DnsServer, resolver: Resolver) -> None:
    dns.add(NAME, "AAAA", "2001:db8::1")
    dns.script(NAME, "AAAA", Reply(hold=True))
    looking = asyncio.ensure_future(resolver.resolve(NAME))
    await dns.asked(NAME, "A")
    await dns.asked(NAME, "AAAA")
    dns.release()
    assert await looking == ("2001:db8::1",)


async def test_waits_as_long_as_the_settings_say_although_c_ares_has_learnt_to_hurry(
    dns: DnsServer, make: Callable[..., Resolver]
) -> None:
    resolver = make(timeout_s=5.0, ipv6=False)
    for number in range(4):
        dns.add(f"quick{number}.test", "A", "192.0.2.1")
        await resolver.resolve(f"quick{number}.test")
    dns.add(NAME, "A", "192.0.2.1")
    dns.script(NAME, "A", Reply(drop=True, times=1))
    assert await resolver.resolve(NAME) == ("192.0.2.1",)
    assert dns.count(NAME, "A") == 2, "with tries=1 the second question is ours"


# --- the cache ----------------------------------------------------------------------------------------------------


async def test_a_cached_answer_asks_nobody(dns: DnsServer, resolver: Resolver) -> None:
    dns.add(NAME, "A", "192.0.2.1")
    assert resolver.cached(NAME) is None
    await resolver.resolve(NAME)
    asked = dns.count()
    assert resolver.cached(NAME) == ("192.0.2.1",)
    assert await resolver.resolve(NAME) == ("192.0.2.1",)
    assert dns.count() == asked
    assert counts(resolver) == {"network": 1, "cache": 2}


@pytest.mark.parametrize(
    ("ttl_s", "kept_s"),
    [(0, 5), (1, 5), (60, 60), (3600, 300), (0x7FFFFFFF, 300), (0x80000000, 5)],
    ids=["zero: the floor", "below the floor", "between", "above the ceiling", "68 years", "top bit set: zero"],
)
async def test_keeps_an_answer_for_its_ttl_between_floor_and_ceiling(
    dns: DnsServer, make: Callable[..., Resolver], clock: Clock, ttl_s: int, kept_s: float
) -> None:
    resolver = make(min_ttl_s=5.0, max_ttl_s=300.0)
    dns.add(NAME, "A", "192.0.2.1", ttl=ttl_s)
    await resolver.resolve(NAME)
    clock.advance(kept_s - 0.01)
    assert resolver.cached(NAME) == ("192.0.2.1",)
    clock.advance(0.02)
    assert resolver.cached(NAME) is None


async def test_the_shortest_ttl_of_the_whole_answer_counts(dns: DnsServer, resolver: Resolver, clock: Clock) -> None:
    dns.add(NAME, "CNAME", "cdn.test", ttl=20)
    dns.add("cdn.test", "A", "127.0.0.1", ttl=200)
    dns.add("cdn.test", "AAAA", "fe80::1", ttl=100)
    await resolver.resolve(NAME)
    clock.advance(19.9)
    assert resolver.cached(NAME) is not None
    clock.advance(0.2)
    assert resolver.cached(NAME) is None


async def test_an_answer_that_ran_out_is_asked_for_anew_whatever_c_ares_remembers(
    dns: DnsServer, resolver: Resolver, clock: Clock
) -> None:
    dns.add(NAME, "A", "192.0.2.1", ttl=3600)  # c-ares' own cache would keep it for the hour
    await resolver.resolve(NAME)
    dns.add(NAME, "A", "192.0.2.2", ttl=3600)
    clock.advance(301)
    assert await resolver.resolve(NAME) == ("192.0.2.2",)
    assert dns.count(NAME, "A") == 2


async def test_keeps_a_no_for_its_own_time(dns: DnsServer, make: Callable[..., Resolver], clock: Clock) -> None:
    resolver = make(negative_ttl_s=7.0)
    with pytest.raises(NameNotFound):
        await resolver.resolve(NAME)
    clock.advance(6.9)
    with pytest.raises(NameNotFound, match="NXDOMAIN"):
        resolver.cached(NAME)
    with pytest.raises(NameNotFound):
        await resolver.resolve(NAME)
    assert dns.count(NAME, "A") == 1
    assert counts(resolver) == {"not_found": 1, "negative_cache": 2}
    dns.add(NAME, "A", "192.0.2.1")
    clock.advance(0.2)
    assert await resolver.resolve(NAME) == ("192.0.2.1",), "the zone's SOA allows c-ares an hour"


async def test_the_least_recently_used_name_goes_first(dns: DnsServer, make: Callable[..., Resolver]) -> None:
    resolver = make(cache_entries=2)
    for name in ("a.test", "b.test", "c.test"):
        dns.add(name, "A", "192.0.2.1")
    await resolver.resolve("a.test")
    await resolver.resolve("b.test")
    assert resolver.cached("a.test")
    await resolver.resolve("c.test")
    assert resolver.cached("b.test") is None
    assert resolver.cached("a.test")
    assert resolver.cached("c.test")
    assert resolver.entries == 2


def test_outcomes_are_a_closed_set(resolver: Resolver) -> None:
    assert resolver.outcomes == dict.fromkeys(OUTCOMES, 0)


# --- many askers --------------------------------------------------------------------------------------------------


async def test_askers_of_one_name_share_one_lookup(dns: DnsServer, resolver: Resolver) -> None:
    dns.add(NAME, "A", "192.0.2.1")
    dns.script(NAME, "*", Reply(hold=True))
    asking = [asyncio.ensure_future(resolver.resolve(NAME)) for _ in range(10)]
    await dns.asked(NAME, "A")
    await dns.asked(NAME, "AAAA")
    dns.release()
    assert await asyncio.gather(*asking) == [("192.0.2.1",)] * 10
    assert dns.count() == 2
    assert counts(resolver) == {"network": 1, "joined": 9}


async def test_askers_of_one_name_share_its_failure_but_not_the_exception(dns: DnsServer, resolver: Resolver) -> None:
    errors = await asyncio.gather(*(resolver.resolve(NAME) for _ in range(3)), return_exceptions=True)
    assert [type(error) for error in errors] == [NameNotFound] * 3
    assert len({id(error) for error in errors}) == 3
    assert dns.count(NAME, "A") == 1


@pytest.mark.parametrize("cancelled", [0, 1, 2])
async def test_cancelling_one_asker_harms_no_other(dns: DnsServer, resolver: Resolver, cancelled: int) -> None:
    dns.add(NAME, "A", "192.0.2.1")
    dns.script(NAME, "*", Reply(hold=True))
    asking = [asyncio.ensure_future(resolver.resolve(NAME)) for _ in range(3)]
    await dns.asked(NAME, "A")
    asking[cancelled].cancel()
    dns.release()
    results = await asyncio.gather(*asking, return_exceptions=True)
    assert isinstance(results.pop(cancelled), asyncio.CancelledError)
    assert results == [("192.0.2.1",)] * 2


async def test_a_lookup_that_nobody_waits_for_any_more_still_fills_the_cache(
    dns: DnsServer, resolver: Resolver
) -> None:
    dns.add(NAME, "A", "192.0.2.1")
    dns.script(NAME, "*", Reply(hold=True))
    asking = asyncio.ensure_future(resolver.resolve(NAME))
    await dns.asked(NAME, "A")
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    dns.release()
    await until(lambda: resolver.cached(NAME) == ("192.0.2.1",))
    assert len(asyncio.all_tasks()) == 1, "the test's own"


# --- stale answers ------------------------------------------------------------------------------------------------


async def test_uses_an_old_answer_when_the_servers_fail(dns: DnsServer, resolver: Resolver, clock: Clock) -> None:
    dns.add(NAME, "A", "192.0.2.1", ttl=60)
    await resolver.resolve(NAME)
    dns.script(NAME, "*", Reply(rcode="SERVFAIL"))
    clock.advance(61)
    assert await resolver.resolve(NAME) == ("192.0.2.1",)
    assert counts(resolver) == {"network": 1, "stale": 1}


async def test_does_not_ask_failing_servers_for_every_connection(
    dns: DnsServer, resolver: Resolver, clock: Clock
) -> None:
    dns.add(NAME, "A", "192.0.2.1", ttl=60)
    await resolver.resolve(NAME)
    dns.script(NAME, "*", Reply(rcode="SERVFAIL"))
    clock.advance(61)
    await resolver.resolve(NAME)
    asked = dns.count()
    clock.advance(resolve.STALE_RETRY_S - 0.1)
    assert resolver.cached(NAME) == ("192.0.2.1",)
    assert dns.count() == asked
    assert counts(resolver) == {"network": 1, "stale": 2}
    clock.advance(0.2)
    dns.script(NAME, "*", None)
    dns.add(NAME, "A", "192.0.2.2")
    assert await resolver.resolve(NAME) == ("192.0.2.2",), "the servers are back"


async def test_an_old_answer_is_used_only_so_long(dns: DnsServer, make: Callable[..., Resolver], clock: Clock) -> None:
    resolver = make(stale_s=100.0)
    dns.add(NAME, "A", "192.0.2.1", ttl=60)
    await resolver.resolve(NAME)
    dns.script(NAME, "*", Reply(rcode="SERVFAIL"))
    clock.advance(155)
    assert await resolver.resolve(NAME) == ("192.0.2.1",)
    clock.advance(5.1)
    assert resolver.cached(NAME) is None, "the pause between tries does not outlast stale_s"
    with pytest.raises(ResolverFailed):
        await resolver.resolve(NAME)


async def test_uses_no_old_answer_where_that_is_switched_off(
    dns: DnsServer, make: Callable[..., Resolver], clock: Clock
) -> None:
    resolver = make(stale_s=0.0)
    dns.add(NAME, "A", "192.0.2.1", ttl=60)
    await resolver.resolve(NAME)
    dns.script(NAME, "*", Reply(rcode="SERVFAIL"))
    clock.advance(60.1)
    with pytest.raises(ResolverFailed):
        await resolver.resolve(NAME)


async def test_uses_no_old_answer_for_a_name_that_is_gone(dns: DnsServer, resolver: Resolver, clock: Clock) -> None:
    dns.add(NAME, "A", "192.0.2.1", ttl=60)
    await resolver.resolve(NAME)
    dns.remove(NAME)
    clock.advance(61)
    with pytest.raises(NameNotFound):
        await resolver.resolve(NAME)


async def test_nobody_waits_long_where_an_old_answer_is_at_hand(
    dns: DnsServer, make: Callable[..., Resolver], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolve, "STALE_ANSWER_AFTER_S", 0.01)
    resolver = make(timeout_s=30.0)
    dns.add(NAME, "A", "192.0.2.1", ttl=60)
    await resolver.resolve(NAME)
    dns.script(NAME, "*", Reply(hold=True))
    dns.add(NAME, "A", "192.0.2.2", ttl=60)
    clock.advance(61)
    async with asyncio.timeout(10):
        assert await resolver.resolve(NAME) == ("192.0.2.1",)
    await dns.asked(NAME, "A", 2)
    await dns.asked(NAME, "AAAA", 2)
    dns.release()
    await until(lambda: resolver.cached(NAME) == ("192.0.2.2",))
    assert dns.count(NAME, "A") == 2, "the lookup went on behind, and what it found is kept"


# --- files --------------------------------------------------------------------------------------------------------


async def test_the_hosts_file_comes_before_the_servers(dns: DnsServer, resolver: Resolver, files: Files) -> None:
    dns.add(NAME, "A", "192.0.2.1")
    dns.add(NAME, "AAAA", "2001:db8::1")
    files.write(files.hosts, f"# comment\n\n10.1.2.3\tother {NAME.upper()}. # x\n")
    assert await resolver.resolve(NAME) == ("10.1.2.3",)
    assert dns.count() == 0
    assert counts(resolver) == {"local": 1}


async def test_a_hosts_name_on_several_lines_has_all_their_addresses(resolver: Resolver, files: Files) -> None:
    files.write(
        files.hosts, f"10.0.0.1 {NAME}\nfd00::0001 {NAME}\n10.0.0.1 {NAME}\nbroken {NAME}\nfe80::1%eth0 {NAME}\n"
    )
    assert await resolver.resolve(NAME) == ("fd00::1", "10.0.0.1")


async def test_a_changed_hosts_file_is_noticed(dns: DnsServer, resolver: Resolver, files: Files, clock: Clock) -> None:
    files.write(files.hosts, f"10.0.0.1 {NAME}\n")
    assert await resolver.resolve(NAME) == ("10.0.0.1",)
    files.write(files.hosts, f"10.0.0.2 {NAME}\n")
    assert await resolver.resolve(NAME) == ("10.0.0.1",), "not looked at for every connection"
    clock.advance(resolve.FILE_CHECK_S)
    assert await resolver.resolve(NAME) == ("10.0.0.2",)
    files.hosts.unlink()
    dns.add(NAME, "A", "192.0.2.1")
    clock.advance(resolve.FILE_CHECK_S)
    assert await resolver.resolve(NAME) == ("192.0.2.1",)


async def test_a_name_that_enters_the_hosts_file_leaves_the_cache(
    dns: DnsServer, resolver: Resolver, files: Files, clock: Clock
) -> None:
    dns.add(NAME, "A", "192.0.2.1", ttl=300)
    await resolver.resolve(NAME)
    files.write(files.hosts, f"10.0.0.1 {NAME}\n")
    clock.advance(resolve.FILE_CHECK_S)
    dns.add("other.test", "A", "192.0.2.1")
    await resolver.resolve("other.test")
    assert await resolver.resolve(NAME) == ("10.0.0.1",)


@pytest.mark.parametrize("name", ["localhost", "a.localhost", "b.a.localhost"])
async def test_localhost_is_loopback_and_never_asked_for(
    dns: DnsServer, make: Callable[..., Resolver], files: Files, name: str
) -> None:
    dns.add(name, "A", "192.0.2.1")
    files.write(files.hosts, f"192.0.2.2 {name}\n")
    assert await make().resolve(name) == ("::1", "127.0.0.1")
    assert await make(ipv6=False).resolve(name) == ("127.0.0.1",)
    assert dns.count() == 0


async def test_asks_the_servers_of_resolv_conf(dns: DnsServer, make: Callable[..., Resolver], files: Files) -> None:
    dns.add(NAME, "A", "192.0.2.1")
    files.write(files.resolv_conf, f"nameserver {dns.address}\n")
    assert await make(servers=()).resolve(NAME) == ("192.0.2.1",)


async def test_a_changed_resolv_conf_is_noticed(
    dns: DnsServer, make: Callable[..., Resolver], files: Files, clock: Clock
) -> None:
    dns.add("a.test", "A", "192.0.2.1")
    files.write(files.resolv_conf, f"nameserver {dns.address}\n")
    resolver = make(servers=())
    assert await resolver.resolve("a.test") == ("192.0.2.1",)
    with DnsServer() as other:
        other.add("b.test", "A", "192.0.2.2")
        files.write(files.resolv_conf, f"nameserver {other.address}\n")
        clock.advance(resolve.FILE_CHECK_S)
        assert await resolver.resolve("b.test") == ("192.0.2.2",)


async def test_a_lookup_under_way_survives_a_change_of_resolv_conf(
    dns: DnsServer, make: Callable[..., Resolver], files: Files, clock: Clock
) -> None:
    dns.add("a.test", "A", "192.0.2.1")
    dns.script("a.test", "*", Reply(hold=True))
    files.write(files.resolv_conf, f"nameserver {dns.address}\n")
    resolver = make(servers=())
    asking = asyncio.ensure_future(resolver.resolve("a.test"))
    await dns.asked("a.test", "A")
    await dns.asked("a.test", "AAAA")
    with DnsServer() as other:
        other.add("b.test", "A", "192.0.2.2")
        files.write(files.resolv_conf, f"nameserver {other.address}\n")
        clock.advance(resolve.FILE_CHECK_S)
        assert await resolver.resolve("b.test") == ("192.0.2.2",)
        dns.release()
        assert await asking == ("192.0.2.1",)
    await until(lambda: not resolver._retired)


@pytest.mark.parametrize(
    ("text", "servers"),
    [
        ("", ("127.0.0.1:53",)),
        ("nameserver\nnameserver nonsense\n", ("127.0.0.1:53",)),
        ("nameserver 10.0.0.1 # first\n;nameserver 10.0.0.2\nnameserver ::1\n", ("10.0.0.1:53", "[::1]:53")),
        ("nameserver 10.0.0.1:5353\nnameserver [::1]:5353\n", ("10.0.0.1:5353", "[::1]:5353")),
        ("nameserver fe80::1%eth0.5\nnameserver fe80::1%a,b\nnameserver fe80::1%\n", ("[fe80::1]:53%eth0.5",)),
        ("nameserver 10.0.0.1:0\nnameserver 10.0.0.1:65536\nnameserver 10.0.0.1:x\n", ("127.0.0.1:53",)),
    ],
)
def test_reads_the_servers_of_resolv_conf(text: str, servers: tuple[str, ...]) -> None:
    assert resolve._parse_resolv_conf(text).servers == servers


@pytest.mark.parametrize(
    ("text", "search", "ndots"),
    [
        ("search a.test B.test. a.test .\n", ("a.test", "b.test"), 1),
        ("search a.test\ndomain b.test\n", ("b.test",), 1),
        ("options rotate ndots:5 timeout:1\n", (), 5),
        ("options ndots:99\n", (), resolve.MAX_NDOTS),
        ("options ndots:x ndots:\n", (), 1),
    ],
)
def test_reads_the_search_list_of_resolv_conf(text: str, search: tuple[str, ...], ndots: int) -> None:
    system = resolve._parse_resolv_conf(text)
    assert (system.search, system.ndots) == (search, ndots)


async def test_says_so_when_c_ares_cannot_use_the_servers(make: Callable[..., Resolver], files: Files) -> None:
    files.write(files.resolv_conf, f"nameserver fe80::1%{'x' * 300}\n")
    with pytest.raises(ResolverFailed, match=r"could not be looked up: "):
        await make(servers=()).resolve(NAME)


# --- search domains -----------------------------------------------------------------------------------------------


async def test_a_name_that_exists_is_never_searched_for(dns: DnsServer, resolver: Resolver, files: Files) -> None:
    files.write(files.resolv_conf, "search evil.test\noptions ndots:5\n")
    dns.add(NAME, "A", "192.0.2.1")
    dns.add(f"{NAME}.evil.test", "A", "192.0.2.66")
    assert await resolver.resolve(NAME) == ("192.0.2.1",)
    assert dns.asked_names() == {NAME}


@pytest.mark.parametrize(
    "how", [None, Reply(rcode="SERVFAIL"), Reply(drop=True)], ids=["NODATA", "SERVFAIL", "silence"]
)
async def test_a_name_without_an_answer_is_not_searched_for_either(
    dns: DnsServer, make: Callable[..., Resolver], files: Files, how: Reply | None
) -> None:
    files.write(files.resolv_conf, "search evil.test\noptions ndots:5\n")
    dns.add(NAME, "TXT", "exists")
    dns.script(NAME, "*", how)
    dns.add(f"{NAME}.evil.test", "A", "192.0.2.66")
    with pytest.raises((NameNotFound, ResolverFailed, ResolverTimeout)):
        await make(timeout_s=0.25).resolve(NAME)
    assert dns.asked_names() == {NAME}


async def test_service_dot_namespace_is_found_by_the_search_list(
    dns: DnsServer, resolver: Resolver, files: Files
) -> None:
    files.write(files.resolv_conf, "search shop.svc.cluster.local svc.cluster.local\noptions ndots:5\n")
    dns.add("cart.shop.svc.cluster.local", "A", "10.96.0.7")
    assert await resolver.resolve("cart.shop") == ("10.96.0.7",)
    assert dns.asked_names() == {"cart.shop", "cart.shop.shop.svc.cluster.local", "cart.shop.svc.cluster.local"}


async def test_a_name_with_ndots_dots_is_not_searched_for(dns: DnsServer, resolver: Resolver, files: Files) -> None:
    files.write(files.resolv_conf, "search corp.test\noptions ndots:2\n")
    dns.add("www.example.test.corp.test", "A", "192.0.2.66")
    with pytest.raises(NameNotFound):
        await resolver.resolve("www.example.test")
    assert dns.asked_names() == {"www.example.test"}


async def test_a_single_label_is_searched_for_first_and_then_asked_as_it_is(
    dns: DnsServer, resolver: Resolver, files: Files
) -> None:
    files.write(files.resolv_conf, "search a.test b.test\n")
    dns.add("git.b.test", "A", "192.0.2.2")
    dns.add("git", "A", "192.0.2.66")
    dns.add("redis", "A", "192.0.2.3")
    assert await resolver.resolve("git") == ("192.0.2.2",)
    assert "git" not in dns.asked_names()
    assert await resolver.resolve("redis") == ("192.0.2.3",)


async def test_with_ndots_0_a_single_label_is_asked_as_it_is_first(
    dns: DnsServer, resolver: Resolver, files: Files
) -> None:
    files.write(files.resolv_conf, "search a.test\noptions ndots:0\n")
    dns.add("redis", "A", "192.0.2.3")
    assert await resolver.resolve("redis") == ("192.0.2.3",)
    assert dns.asked_names() == {"redis"}


async def test_a_search_that_finds_nothing_says_what_was_asked(
    dns: DnsServer, resolver: Resolver, files: Files
) -> None:
    files.write(files.resolv_conf, "search a.test\n")
    with pytest.raises(NameNotFound, match=r"^git does not exist \(NXDOMAIN\), asked as git\.a\.test, git$"):
        await resolver.resolve("git")


async def test_a_failing_search_domain_does_not_hand_the_name_to_the_next(
    dns: DnsServer, resolver: Resolver, files: Files
) -> None:
    files.write(files.resolv_conf, "search a.test b.test\n")
    dns.script("git.a.test", "*", Reply(rcode="SERVFAIL"))
    dns.add("git.b.test", "A", "192.0.2.66")
    with pytest.raises(ResolverFailed):
        await resolver.resolve("git")
    assert dns.asked_names() == {"git.a.test"}


async def test_onion_names_are_asked_of_nobody(dns: DnsServer, resolver: Resolver, files: Files) -> None:
    files.write(files.resolv_conf, "search a.test\noptions ndots:5\n")
    with pytest.raises(NameNotFound):
        await resolver.resolve("abc.onion")
    assert dns.count() == 0


async def test_a_name_too_long_for_dns_does_not_exist(dns: DnsServer, resolver: Resolver) -> None:
    with pytest.raises(NameNotFound):
        await resolver.resolve("a" * 64 + ".test")
    assert dns.count() == 0


# --- servers that lie ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("forge", [after_wrong_id, after_wrong_question])
async def test_an_answer_to_something_else_is_not_believed(
    dns: DnsServer, resolver: Resolver, forge: Callable[[str], Any]
) -> None:
    dns.add(NAME, "A", "192.0.2.1")
    dns.script(NAME, "A", Reply(tamper=forge("192.0.2.66")))
    assert await resolver.resolve(NAME) == ("192.0.2.1",)


async def test_records_of_another_name_are_passed_over(dns: DnsServer, resolver: Resolver) -> None:
    dns.add(NAME, "TXT", "exists")
    foreign = dnslib.RR("other.test", dnslib.QTYPE.A, rdata=dnslib.A("192.0.2.66"))
    dns.script(NAME, "A", Reply(tamper=only(foreign)))
    with pytest.raises(NameNotFound):
        await resolver.resolve(NAME)


async def test_only_addresses_pass(dns: DnsServer, resolver: Resolver) -> None:
    dns.script(
        NAME,
        "A",
        Reply(
            tamper=only(
                dnslib.RR(NAME, dnslib.QTYPE.TXT, rdata=dnslib.TXT("192.0.2.66")),
                dnslib.RR(NAME, dnslib.QTYPE.AAAA, rdata=dnslib.AAAA("2001:db8::66")),
                dnslib.RR(NAME, 65280, rdata=dnslib.RD(b"\x01\x02\x03\x04")),
                dnslib.RR(NAME.upper(), dnslib.QTYPE.A, rdata=dnslib.A("192.0.2.1")),
            )
        ),
    )
    assert await resolver.resolve(NAME) == ("192.0.2.1",)


async def test_garbage_is_asked_about_again(dns: DnsServer, make: Callable[..., Resolver]) -> None:
    dns.add(NAME, "A", "192.0.2.1")
    dns.script(NAME, "A", Reply(tamper=lambda reply: [bytes(reply.pack())[:20]], times=1))
    assert await make(tries=2, ipv6=False).resolve(NAME) == ("192.0.2.1",)


# --- life ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_works_on_either_loop_and_leaves_nothing_open(
    dns: DnsServer, make: Callable[..., Resolver], run: Callable[..., None]
) -> None:
    names = [f"n{number}.test" for number in range(50)]
    for name in names:
        dns.add(name, "A", "192.0.2.1")
        dns.add(name, "AAAA", "2001:db8::1")
    dns.script("n7.test", "A", Reply(truncate=True))
    dns.script("silent.test", "*", Reply(drop=True))

    async def main() -> None:
        before = _open_sockets()
        resolver = make()
        answers = await asyncio.gather(*(resolver.resolve(name) for name in names))
        assert {frozenset(answer) for answer in answers} == {frozenset({"192.0.2.1", "2001:db8::1"})}
        assert len(asyncio.all_tasks()) == 1
        waiting = asyncio.ensure_future(resolver.resolve("silent.test"))
        await dns.asked("silent.test")
        resolver.close()
        with pytest.raises(ResolverFailed, match="closed"):
            await waiting
        assert _open_sockets() == before
        resolver.close()
        with pytest.raises(ResolverFailed, match="closed"):
            await resolver.resolve("n99.test")

    run(main())


async def test_nothing_is_open_while_nothing_is_asked(dns: DnsServer, resolver: Resolver) -> None:
    dns.add(NAME, "A", "192.0.2.1")
    before = _open_sockets()
    await resolver.resolve(NAME)
    assert _open_sockets() == before


async def test_lookups_and_channels_do_not_pile_up(dns: DnsServer, files: Files) -> None:
    resolver = Resolver(Dns(), resolv_conf=str(files.resolv_conf), hosts_file=str(files.hosts))
    for number in range(20):
        files.write(files.resolv_conf, f"nameserver {dns.address}\nsearch s{number}.test\n")
        resolver._next_check_s = None
        with pytest.raises(NameNotFound):
            await resolver.resolve(f"n{number}.test")
    resolver.close()
    del resolver

    def is_gone() -> bool:
        gc.collect()
        kinds = [type(one) for one in gc.get_objects() if isinstance(one, (resolve._Lookup, resolve._Servers))]
        return kinds in ([], [resolve._Servers])  # pycares' thread holds on to the channel that it closed last

    await until(is_gone)


@pytest.mark.parametrize(("server", "spelt"), [("::1", "[::1]:53"), ("192.0.2.1:5353", "192.0.2.1:5353")])
async def test_c_ares_takes_servers_as_the_settings_spell_them(
    make: Callable[..., Resolver], server: str, spelt: str
) -> None:
    servers = make(servers=(server,))._open_servers()
    servers.flush()
    assert servers._channel.servers == [spelt]
    servers.close()


def _open_sockets() -> list[str]:
    """Every socket of this process by inode; the test server's thread may close a TCP connection meanwhile."""
    if not Path("/proc/self/fd").exists():
        pytest.skip("descriptors are counted in /proc")
    found = []
    for fd in Path("/proc/self/fd").iterdir():
        try:
            target = str(fd.readlink())
        except OSError:
            continue
        if target.startswith("socket:"):
            found.append(target)
    return sorted(found)
