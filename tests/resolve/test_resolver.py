"""A host goes in, addresses come out: against a real DNS server, real files, and a clock that tests move."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable

import pytest
import uvloop
from support.dns import DnsServer, Reply
from support.loops import until
from support.resolving import NAME, Clock, Files, counts, open_sockets

from egressproxy.config.schema.stages import Dns
from egressproxy.errors import NameNotFound, ResolverFailed, ResolverTimeout
from egressproxy.resolve import resolver as resolver_module
from egressproxy.resolve.addresses import has_route
from egressproxy.resolve.cache import STALE_RETRY_S
from egressproxy.resolve.lookup import Lookup
from egressproxy.resolve.resolver import FILE_CHECK_S, OUTCOMES, Resolver
from egressproxy.resolve.servers import Servers

# --- answers ------------------------------------------------------------------------------------------------------


async def test_gives_the_addresses_in_the_servers_order(dns: DnsServer, resolver: Resolver) -> None:
    dns.add(NAME, "A", "192.0.2.9", "192.0.2.1", "192.0.2.5")
    assert await resolver.resolve(NAME) == ("192.0.2.9", "192.0.2.1", "192.0.2.5")
    assert counts(resolver) == {"network": 1}
    assert resolver.entries == 1


async def test_spells_addresses_in_the_standard_way_and_once(dns: DnsServer, resolver: Resolver) -> None:
    dns.add(NAME, "AAAA", "2001:0DB8:0:0:0:0:0:00AA", "2001:db8::aa")
    assert await resolver.resolve(NAME) == ("2001:db8::aa",)


async def test_puts_an_ipv6_address_without_a_route_behind_ipv4(dns: DnsServer, resolver: Resolver) -> None:
    dns.add(NAME, "A", "127.0.0.1")
    dns.add(NAME, "AAAA", "fe80::1")  # link-local without a zone: no route on any machine
    assert await resolver.resolve(NAME) == ("127.0.0.1", "fe80::1")


@pytest.mark.skipif(not has_route("::1"), reason="this machine has no IPv6")
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
    clock.advance(STALE_RETRY_S - 0.1)
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
    monkeypatch.setattr(resolver_module, "STALE_ANSWER_AFTER_S", 0.01)
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
    clock.advance(FILE_CHECK_S)
    assert await resolver.resolve(NAME) == ("10.0.0.2",)
    files.hosts.unlink()
    dns.add(NAME, "A", "192.0.2.1")
    clock.advance(FILE_CHECK_S)
    assert await resolver.resolve(NAME) == ("192.0.2.1",)


async def test_a_name_that_enters_the_hosts_file_leaves_the_cache(
    dns: DnsServer, resolver: Resolver, files: Files, clock: Clock
) -> None:
    dns.add(NAME, "A", "192.0.2.1", ttl=300)
    await resolver.resolve(NAME)
    files.write(files.hosts, f"10.0.0.1 {NAME}\n")
    clock.advance(FILE_CHECK_S)
    dns.add("other.test", "A", "192.0.2.1")
    await resolver.resolve("other.test")
    assert await resolver.resolve(NAME) == ("10.0.0.1",)


@pytest.mark.parametrize("how", [Reply(hold=True), Reply(hold=True, rcode="NXDOMAIN")], ids=["found", "not found"])
async def test_a_name_that_enters_the_hosts_file_while_the_servers_are_asked_is_not_taken_back_by_them(
    dns: DnsServer, resolver: Resolver, files: Files, clock: Clock, how: Reply
) -> None:
    dns.add(NAME, "A", "192.0.2.1", ttl=300)
    dns.script(NAME, "*", how)
    asking = asyncio.ensure_future(resolver.resolve(NAME))
    await dns.asked(NAME, "A")
    await dns.asked(NAME, "AAAA")
    files.write(files.hosts, f"10.0.0.1 {NAME}\n")
    clock.advance(FILE_CHECK_S)
    await resolver.resolve("localhost")  # looks at the files
    dns.release()
    await asyncio.wait([asking])
    assert asking.exception() is not None or asking.result() == ("192.0.2.1",), "it asked before"
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
        clock.advance(FILE_CHECK_S)
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
        clock.advance(FILE_CHECK_S)
        assert await resolver.resolve("b.test") == ("192.0.2.2",)
        dns.release()
        assert await asking == ("192.0.2.1",)
    await until(lambda: not resolver._retired)


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
        before = open_sockets()
        resolver = make()
        answers = await asyncio.gather(*(resolver.resolve(name) for name in names))
        assert {frozenset(answer) for answer in answers} == {frozenset({"192.0.2.1", "2001:db8::1"})}
        assert len(asyncio.all_tasks()) == 1
        waiting = asyncio.ensure_future(resolver.resolve("silent.test"))
        await dns.asked("silent.test")
        resolver.close()
        with pytest.raises(ResolverFailed, match="closed"):
            await waiting
        assert open_sockets() == before
        resolver.close()
        with pytest.raises(ResolverFailed, match="closed"):
            await resolver.resolve("n99.test")

    run(main())


async def test_lookups_and_channels_do_not_pile_up(dns: DnsServer, files: Files, clock: Clock) -> None:
    resolver = Resolver(Dns(), resolv_conf=str(files.resolv_conf), hosts_file=str(files.hosts), clock=clock)
    for number in range(20):
        files.write(files.resolv_conf, f"nameserver {dns.address}\nsearch s{number}.test\n")
        clock.advance(FILE_CHECK_S)
        with pytest.raises(NameNotFound):
            await resolver.resolve(f"n{number}.test")
    resolver.close()
    del resolver

    def is_gone() -> bool:
        gc.collect()
        kinds = [type(one) for one in gc.get_objects() if isinstance(one, (Lookup, Servers))]
        return kinds in ([], [Servers])  # pycares' thread holds on to the channel that it closed last

    await until(is_gone)
