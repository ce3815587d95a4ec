"""One name on its way: two families at once, search domains in order, and a wait that ends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable

import pytest
from support.dns import DnsServer, Reply
from support.loops import until
from support.resolving import NAME, Clock, Files

from egressproxy.config.schema.stages import Dns
from egressproxy.errors import NameNotFound, ResolverFailed, ResolverTimeout
from egressproxy.resolve.answers import AAAA, TIMEOUT, A, Answer
from egressproxy.resolve.lookup import Lookup
from egressproxy.resolve.resolver import FILE_CHECK_S, Resolver
from egressproxy.resolve.servers import Servers


@pytest.fixture
async def servers(dns: DnsServer) -> AsyncIterator[Servers]:
    """Asked by a lookup directly."""
    servers = Servers(Dns(tries=1, timeout_s=5.0), (dns.address,))
    yield servers
    servers.close()


# --- both families ------------------------------------------------------------------------------------------------


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


async def test_a_failing_half_is_no_reason_to_believe_that_a_name_has_no_address(
    dns: DnsServer, resolver: Resolver
) -> None:
    dns.add(NAME, "TXT", "exists")
    dns.script(NAME, "AAAA", Reply(rcode="SERVFAIL"))
    with pytest.raises(ResolverFailed):
        await resolver.resolve(NAME)
    assert resolver.entries == 0


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


async def test_tells_its_end_once_and_a_late_half_once_more(dns: DnsServer, servers: Servers) -> None:
    dns.add(NAME, "A", "127.0.0.1", ttl=60)
    dns.add(NAME, "AAAA", "fe80::1", ttl=30)
    dns.script(NAME, "AAAA", Reply(hold=True))
    told: list[Answer] = []
    Lookup(NAME, (NAME,), (A, AAAA), lambda: servers, told.append).start()
    await until(lambda: told)
    dns.release()
    await until(lambda: len(told) == 2)
    assert told == [Answer("found", ("127.0.0.1",), 60), Answer("found", ("127.0.0.1", "fe80::1"), 30)]


async def test_waits_no_longer_than_it_is_given_and_what_comes_later_is_told(dns: DnsServer, servers: Servers) -> None:
    dns.add(NAME, "A", "127.0.0.1")
    dns.script(NAME, "A", Reply(hold=True))
    told: list[Answer] = []
    Lookup(NAME, (NAME,), (A,), lambda: servers, told.append, most_s=0.01).start()
    await until(lambda: told)
    await dns.asked(NAME, "A")
    dns.release()
    await until(lambda: len(told) == 2)
    assert told == [TIMEOUT, Answer("found", ("127.0.0.1",), 60)]


async def test_once_stopped_it_has_no_end_to_tell(dns: DnsServer, servers: Servers) -> None:
    told: list[Answer] = []
    lookup = Lookup("gone.test", ("gone.test",), (A,), lambda: servers, told.append)
    lookup.start()
    lookup.stop()
    await until(lambda: not servers._out)
    assert told == []


async def test_a_question_that_was_given_up_goes_to_the_servers_that_resolv_conf_names_now(
    dns: DnsServer, make: Callable[..., Resolver], files: Files, clock: Clock
) -> None:
    files.write(files.resolv_conf, f"nameserver {dns.address}\n")
    resolver = make(servers=(), timeout_s=5.0, ipv6=False)
    for number in range(4):  # c-ares learns to hurry
        dns.add(f"quick{number}.test", "A", "192.0.2.1")
        await resolver.resolve(f"quick{number}.test")
    dns.script(NAME, "A", Reply(drop=True))
    asking = asyncio.ensure_future(resolver.resolve(NAME))
    await dns.asked(NAME, "A")
    with DnsServer() as other:
        other.add(NAME, "A", "192.0.2.2")
        files.write(files.resolv_conf, f"nameserver {other.address}\n")
        clock.advance(FILE_CHECK_S)
        await resolver.resolve("localhost")  # looks at the files, and asks nobody
        assert await asking == ("192.0.2.2",)
    assert dns.count(NAME, "A") == 1


# --- search domains -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["db", "db.prod"])
async def test_search_domains_are_not_used_unless_asked_for(
    dns: DnsServer, make: Callable[..., Resolver], files: Files, host: str
) -> None:
    files.write(files.resolv_conf, "search corp.test\noptions ndots:5\n")
    dns.add(f"{host}.corp.test", "A", "192.0.2.1")
    with pytest.raises(NameNotFound):
        await make(search=False).resolve(host)
    assert dns.asked_names() == {host}


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
