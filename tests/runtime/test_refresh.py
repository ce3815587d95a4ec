"""Files that change while the proxy runs, up to the connections that are made with them."""

from __future__ import annotations

import asyncio
import datetime
import gc
import logging
import socket
import threading

import pytest
from support.certificates import authority, other_authority
from support.loops import until
from support.peers import tcp_stream
from support.tls_servers import (
    HOST,
    Mounted,
    TlsServer,
    config_of,
    secret_of,
    server_context,
    tls_of,
    write_ca,
    write_pair,
)

from egressproxy.deadlines import DeadlineQueue
from egressproxy.errors import TlsUnknownCa
from egressproxy.identities import Identities
from egressproxy.originate import originate
from egressproxy.poller import create_poller
from egressproxy.runtime.refresh import WARN_AGAIN_S, WARN_AHEAD_S, Refresher

QUICK_S = 0.01
DAY_S = 86400.0


@pytest.fixture
def secrets(tmp_path):
    folder = tmp_path / "secrets"
    folder.mkdir()
    return folder


@pytest.fixture
async def refresher():
    made = Refresher(asyncio.get_running_loop(), refresh_s=QUICK_S)
    yield made
    made.close()
    assert not any(thread.name == "refresh" for thread in threading.enumerate())


def messages(caplog, level):
    return [record.getMessage() for record in caplog.records if record.levelno == level]


async def secured(identities, endpoint):
    """A connection with the identity of now; the caller closes it and its poller."""
    loop = asyncio.get_running_loop()
    poller = create_poller(loop)
    deadlines = DeadlineQueue("connect_timeout", 10.0, loop)
    try:
        tcp = tcp_stream(socket.create_connection(endpoint), poller)
        return poller, await originate(tcp, identities.of(0), HOST, endpoint, deadlines)
    except BaseException:
        poller.close()
        raise
    finally:
        deadlines.close()


async def test_a_secret_that_is_swapped_serves_the_connections_to_come(secrets, refresher, caplog):
    caplog.set_level(logging.INFO)
    mounted = Mounted(secrets / "c", **secret_of(ca=other_authority()))
    identities = Identities.load(config_of(tls_of(credential="c"), directory=secrets))
    refresher.use(identities)
    with TlsServer(server_context()) as server:
        with pytest.raises(TlsUnknownCa):
            await secured(identities, server.endpoint)
        mounted.swap(**secret_of(ca=authority()))
        await until(lambda: messages(caplog, logging.INFO))
        poller, stream = await secured(identities, server.endpoint)
        mounted.swap(**secret_of(ca=other_authority()))
        await until(lambda: len(messages(caplog, logging.INFO)) == 2)
        with pytest.raises(TlsUnknownCa):
            await secured(identities, server.endpoint)
        await stream.write(b"?")  # what runs is not touched
        assert (await stream.read(100)).startswith(b"HTTP/1.1 200")
        stream.close()
        poller.close()
    assert messages(caplog, logging.INFO) == ["c is new: it serves the connections to come"] * 2


async def test_what_is_bad_is_told_once(secrets, refresher, caplog):
    mounted = Mounted(secrets / "c", **secret_of(ca=authority()))
    identities = Identities.load(config_of(tls_of(credential="c"), directory=secrets))
    refresher.use(identities)
    looks = 0
    look = identities.look

    def counted():
        nonlocal looks
        looks += 1
        return look()

    identities.look = counted
    mounted.swap(ca_crt=b"half a certificate")
    await until(lambda: identities.refusals)
    seen = looks
    await until(lambda: looks > seen + 3)
    (said,) = messages(caplog, logging.ERROR)
    assert said.startswith(f"refused: {secrets}/c/ca.crt: no certificate in PEM form in it; ")
    assert identities.refusals == {"c": 1}


async def test_a_certificate_that_has_expired_already_is_refused_in_place_of_a_good_one(secrets, refresher, caplog):
    then = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    mounted = Mounted(secrets / "c", **secret_of(authority().issue_cert(HOST), authority()))
    identities = Identities.load(config_of(tls_of(mode="mutual", credential="c"), directory=secrets))
    refresher.use(identities)
    expired = authority().issue_cert(HOST, not_before=then - datetime.timedelta(days=9), not_after=then)
    mounted.swap(**secret_of(expired, authority()))
    await until(lambda: identities.refusals)
    (said,) = messages(caplog, logging.ERROR)
    assert said.startswith(f"refused: {secrets}/c/tls.crt: has expired, on ")
    assert messages(caplog, logging.WARNING) == []  # what is in use has not


async def test_a_secret_may_come_later(secrets, refresher, caplog):
    caplog.set_level(logging.INFO)
    identities = Identities.load(config_of(tls_of(credential="c"), directory=secrets))
    refresher.use(identities)
    Mounted(secrets / "c-cacert", **secret_of(ca=authority()))
    await until(lambda: messages(caplog, logging.INFO))
    assert identities.of(0).trust == str(secrets / "c-cacert" / "ca.crt")


async def test_the_identities_of_a_reload_are_looked_at_instead(tmp_path, refresher, caplog):
    caplog.set_level(logging.INFO)
    ca = write_ca(tmp_path)
    config = config_of(tls_of(ca=ca))
    before = Identities.load(config)
    refresher.use(before)
    after = Identities.load(config, before)
    refresher.use(after)
    old = after.of(0)
    write_ca(tmp_path, other_authority())
    await until(lambda: after.of(0) is not old)
    assert len(messages(caplog, logging.INFO)) == 1


async def test_a_defect_does_not_end_the_looking(tmp_path, refresher, caplog):
    identities = Identities.load(config_of(tls_of(ca=write_ca(tmp_path))))
    look, asked = identities.look, []

    def broken_once():
        asked.append(1)
        if len(asked) == 1:
            raise ZeroDivisionError("a defect of a test")
        return look()

    identities.look = broken_once
    refresher.use(identities)
    await until(lambda: len(asked) > 1)
    assert "a defect" in messages(caplog, logging.ERROR)[0]


async def test_without_files_there_is_no_thread(refresher):
    refresher.use(Identities.load(config_of(tls_of(verify=False))))
    assert not any(thread.name == "refresh" for thread in threading.enumerate())


async def test_nothing_is_put_to_use_after_the_end(tmp_path):
    ca = write_ca(tmp_path)
    identities = Identities.load(config_of(tls_of(ca=ca)))
    old = identities.of(0)
    refresher = Refresher(asyncio.get_running_loop(), refresh_s=QUICK_S)
    looked, look = threading.Event(), identities.look

    def found():
        findings = look()
        if findings:
            looked.set()
        return findings

    identities.look = found
    refresher.use(identities)
    write_ca(tmp_path, other_authority())
    assert looked.wait(10)  # the loop is held up, so what was found waits for it
    refresher.close()
    await asyncio.sleep(0)
    assert identities.of(0) is old


def test_a_loop_that_is_gone_ends_the_looking(tmp_path):
    ca = write_ca(tmp_path)
    loop = asyncio.new_event_loop()
    refresher = Refresher(loop, refresh_s=QUICK_S)
    refresher.use(Identities.load(config_of(tls_of(ca=ca))))
    (thread,) = [each for each in threading.enumerate() if each.name == "refresh"]
    loop.close()
    write_ca(tmp_path, other_authority())
    thread.join(10)
    assert not thread.is_alive()
    gc.collect()


# --- expiry -------------------------------------------------------------------------------------------------------

EXPIRY = datetime.datetime(2031, 5, 6, tzinfo=datetime.UTC)


@pytest.fixture
async def expiring(tmp_path):
    """A refresher with a clock, and the identities of a certificate that expires."""
    ca = write_ca(tmp_path)
    pair = write_pair(tmp_path, authority().issue_cert(HOST, not_after=EXPIRY))
    config = config_of(tls_of(mode="mutual", ca=ca, certificate=pair.certificate, key=pair.key))
    now = [0.0]
    refresher = Refresher(asyncio.get_running_loop(), lambda: now[0], refresh_s=QUICK_S)
    yield refresher, Identities.load(config), now, pair
    refresher.close()


async def test_a_certificate_that_expires_soon_is_told_once_a_day(expiring, caplog):
    refresher, identities, now, pair = expiring
    now[0] = EXPIRY.timestamp() - WARN_AHEAD_S - 1
    refresher.use(identities)
    assert messages(caplog, logging.WARNING) == []
    now[0] += 2
    refresher.use(identities)
    now[0] += DAY_S / 2
    refresher.use(identities)
    assert messages(caplog, logging.WARNING) == [f"{pair.certificate} expires on 2031-05-06 00:00:00 UTC, in 13 days"]
    now[0] += WARN_AGAIN_S
    refresher.use(identities)
    assert messages(caplog, logging.WARNING)[1].endswith("in 12 days")


async def test_a_certificate_that_has_expired_is_told(expiring, caplog):
    refresher, identities, now, pair = expiring
    now[0] = EXPIRY.timestamp()
    refresher.use(identities)
    assert messages(caplog, logging.WARNING) == [f"{pair.certificate} has expired, on 2031-05-06 00:00:00 UTC"]


async def test_a_certificate_that_is_replaced_is_judged_by_its_own_date(expiring, tmp_path, caplog):
    refresher, identities, now, pair = expiring
    now[0] = EXPIRY.timestamp() - DAY_S
    refresher.use(identities)
    later = EXPIRY + datetime.timedelta(days=3)
    write_pair(tmp_path, authority().issue_cert(HOST, not_after=later))
    await until(lambda: len(messages(caplog, logging.WARNING)) == 2)
    assert messages(caplog, logging.WARNING)[1] == f"{pair.certificate} expires on 2031-05-09 00:00:00 UTC, in 4 days"
