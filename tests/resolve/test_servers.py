"""Questions over the wire: UDP and TCP, servers that fail, servers that lie, and sockets that are closed behind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import dnslib
import pytest
from support.dns import DnsServer, Reply, after_wrong_id, after_wrong_question, only
from support.resolving import NAME, Clock, Files, open_sockets

from egressproxy.config.schema.stages import Dns
from egressproxy.errors import NameNotFound, ResolverFailed
from egressproxy.resolve.answers import MAX_ADDRESSES
from egressproxy.resolve.resolver import Resolver
from egressproxy.resolve.servers import Servers

# --- answers over the wire ----------------------------------------------------------------------------------------


async def test_takes_the_first_of_200_addresses_over_tcp(dns: DnsServer, resolver: Resolver) -> None:
    many = tuple(f"198.51.100.{number}" for number in range(200))
    dns.add(NAME, "A", *many)
    assert await resolver.resolve(NAME) == many[:MAX_ADDRESSES]
    assert dns.tcp_queries == 1


async def test_bounds_what_it_keeps_of_an_answer(dns: DnsServer, resolver: Resolver) -> None:
    dns.add(NAME, "A", *(f"10.0.{number >> 8}.{number & 255}" for number in range(600)))
    assert len(await resolver.resolve(NAME)) == MAX_ADDRESSES


async def test_asks_again_over_tcp_after_a_truncated_answer(dns: DnsServer, resolver: Resolver) -> None:
    dns.add(NAME, "A", "192.0.2.1")
    dns.script(NAME, "A", Reply(truncate=True))
    assert await resolver.resolve(NAME) == ("192.0.2.1",)
    assert dns.tcp_queries == 1


async def test_asks_the_next_server_when_the_first_refuses(dns: DnsServer, make: Callable[..., Resolver]) -> None:
    dns.add(NAME, "A", "192.0.2.1")
    with DnsServer() as refusing:
        refusing.script("*", "*", Reply(rcode="REFUSED"))
        assert await make(servers=(refusing.address, dns.address)).resolve(NAME) == ("192.0.2.1",)


async def test_garbage_is_asked_about_again(dns: DnsServer, make: Callable[..., Resolver]) -> None:
    dns.add(NAME, "A", "192.0.2.1")
    dns.script(NAME, "A", Reply(tamper=lambda reply: [bytes(reply.pack())[:20]], times=1))
    assert await make(tries=2, ipv6=False).resolve(NAME) == ("192.0.2.1",)


async def test_an_answer_that_ran_out_is_asked_for_anew_whatever_c_ares_remembers(
    dns: DnsServer, resolver: Resolver, clock: Clock
) -> None:
    dns.add(NAME, "A", "192.0.2.1", ttl=3600)  # c-ares' own cache would keep it for the hour
    await resolver.resolve(NAME)
    dns.add(NAME, "A", "192.0.2.2", ttl=3600)
    clock.advance(301)
    assert await resolver.resolve(NAME) == ("192.0.2.2",)
    assert dns.count(NAME, "A") == 2


async def test_a_name_too_long_for_dns_does_not_exist(dns: DnsServer, resolver: Resolver) -> None:
    with pytest.raises(NameNotFound):
        await resolver.resolve("a" * 64 + ".test")
    assert dns.count() == 0


async def test_nothing_is_open_while_nothing_is_asked(dns: DnsServer, resolver: Resolver) -> None:
    dns.add(NAME, "A", "192.0.2.1")
    before = open_sockets()
    await resolver.resolve(NAME)
    assert open_sockets() == before


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


# --- which servers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("server", "spelt"), [("::1", "[::1]:53"), ("192.0.2.1:5353", "192.0.2.1:5353")])
async def test_c_ares_takes_servers_as_the_settings_spell_them(server: str, spelt: str) -> None:
    settings = Dns(servers=(server,))
    servers = Servers(settings, settings.servers)
    assert servers._channel.servers == [spelt]
    servers._empty_cache()
    assert servers._channel.servers == [spelt]
    servers.close()


async def test_says_so_when_c_ares_cannot_use_the_servers(make: Callable[..., Resolver], files: Files) -> None:
    files.write(files.resolv_conf, f"nameserver fe80::1%{'x' * 300}\n")
    with pytest.raises(ResolverFailed, match=r"could not be looked up: "):
        await make(servers=()).resolve(NAME)
