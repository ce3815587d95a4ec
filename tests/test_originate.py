"""The proxy as a TLS client of real servers."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import socket
import ssl
import threading

import pytest
import trustme
from support.certificates import TLS_1_2, TLS_1_3, authority, other_authority
from support.loops import left_open, open_descriptors, until
from support.peers import listening, tcp_stream
from support.tls_servers import (
    ANSWER,
    HOST,
    TlsServer,
    documented,
    expired_authority,
    identity_of,
    server_context,
    signed_by_itself,
    write_ca,
    write_pair,
)

from egressproxy import originate as module
from egressproxy.deadlines import DeadlineQueue
from egressproxy.errors import (
    TlsClientCertificateRequired,
    TlsExpired,
    TlsFailed,
    TlsTimeout,
    TlsUnknownCa,
    TlsVersion,
    TlsWrongHost,
)
from egressproxy.model import Endpoint
from egressproxy.originate import keep_session, originate, tls_version, upstream_tls_error
from egressproxy.poller import create_poller


@pytest.fixture
def ca(tmp_path):
    return write_ca(tmp_path)


async def ask(endpoint, identity, host=HOST, *, delay_s=10.0, request=b"GET / HTTP/1.1\r\n\r\n"):
    """One request and its answer over a secured connection: the version of TLS, or the error; nothing is left open."""
    before = open_descriptors()
    loop = asyncio.get_running_loop()
    poller = create_poller(loop)
    queue = DeadlineQueue("connect_timeout", delay_s, loop)
    tcp = tcp_stream(socket.create_connection(endpoint), poller)
    try:
        async with asyncio.timeout(20):
            stream = await originate(tcp, identity, host, endpoint, queue)
            try:
                await stream.write(request)
                answer = b""
                while len(answer) < len(ANSWER) and (more := await stream.read(1000)):
                    answer += more
                assert answer == ANSWER
                keep_session(stream)
                return tls_version(stream)
            finally:
                stream.close()
    finally:
        assert len(queue) == 0
        assert tcp.fd < 0
        queue.close()
        assert len(poller) == 0
        poller.close()
        assert not [what for what in left_open(before).values() if "socket" not in what]


@pytest.fixture
async def connection():
    """Makes a secured connection, which lives as long as the test."""
    loop = asyncio.get_running_loop()
    poller = create_poller(loop)
    deadlines = DeadlineQueue("connect_timeout", 10.0, loop)
    made = []

    async def make(endpoint, identity):
        tcp = tcp_stream(socket.create_connection(endpoint), poller)
        made.append(await originate(tcp, identity, HOST, endpoint, deadlines))
        return made[-1]

    yield make
    for stream in made:
        stream.close()
    deadlines.close()
    poller.close()


async def refused(kind, context, identity, host=HOST):
    """What is said when the handshake fails with an error of this kind."""
    with TlsServer(context) as server, pytest.raises(kind) as caught:
        await ask(server.endpoint, identity, host)
    assert caught.value.endpoint == server.endpoint
    said = str(caught.value)
    assert said.startswith(f"{server.endpoint}: ")
    assert "_ssl.c" not in said
    assert server.seen == []
    return said


# --- who is asked -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [TLS_1_2, TLS_1_3])
async def test_a_verified_service_is_spoken_to(ca, version):
    with TlsServer(server_context(version=version)) as server:
        spoken = await ask(server.endpoint, identity_of(ca=ca))
    assert spoken == {TLS_1_2: "TLSv1.2", TLS_1_3: "TLSv1.3"}[version]
    (seen,) = server.seen
    assert (seen.server_name, seen.alpn, seen.version) == (HOST, "http/1.1", spoken)


async def test_the_server_name_may_be_another_one(ca):
    with TlsServer(server_context()) as server:
        await ask(server.endpoint, identity_of(ca=ca, sni=HOST), "alias.example.test")
    assert server.seen[0].server_name == HOST


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
async def test_an_address_is_no_server_name_and_must_be_in_the_certificate(ca, address):
    with TlsServer(server_context(authority().issue_cert(address))) as server:
        await ask(server.endpoint, identity_of(ca=ca), address)
    assert server.seen[0].server_name is None


async def test_an_address_that_is_not_in_the_certificate_is_refused(ca):
    said = await refused(TlsWrongHost, server_context(), identity_of(ca=ca), "127.0.0.1")
    assert f"asked for 127.0.0.1: the certificate is for {HOST}" in said


@pytest.mark.parametrize("alpn", [(), ("http/1.0",), ("http/1.0", "http/1.1")])
async def test_only_the_protocols_that_are_set_are_offered(ca, alpn):
    with TlsServer(server_context()) as server:
        await ask(server.endpoint, identity_of(ca=ca, alpn=list(alpn)))
    assert server.seen[0].alpn in (alpn or (None,))


async def test_a_protocol_that_was_not_offered_is_refused(ca):
    identity = dataclasses.replace(identity_of(ca=ca), alpn=("http/1.0",))  # its context offers http/1.1
    said = await refused(TlsFailed, server_context(), identity)
    assert "chose the protocol http/1.1; offered were: http/1.0" in said


# --- verification -------------------------------------------------------------------------------------------------


async def test_a_certificate_for_another_host_is_refused(ca):
    said = await refused(TlsWrongHost, server_context(), identity_of(ca=ca), "other.example.test")
    assert said.endswith(f"asked for other.example.test: the certificate is for {HOST}")


async def test_a_certificate_of_an_unknown_authority_is_refused(tmp_path):
    strange = write_ca(tmp_path, other_authority())
    said = await refused(TlsUnknownCa, server_context(), identity_of(ca=strange))
    assert str(strange) in said
    assert "was signed by OU=Testing CA" in said


async def test_the_authorities_of_the_system_are_asked_where_no_others_are_set():
    said = await refused(TlsUnknownCa, server_context(), identity_of())
    assert "those of the system" in said


async def test_a_certificate_that_signed_itself_is_refused_and_may_be_trusted_by_name(tmp_path, ca):
    pair = signed_by_itself(tmp_path)
    said = await refused(TlsUnknownCa, server_context(pair), identity_of(ca=ca))
    assert "signed itself" in said
    with TlsServer(server_context(pair)) as server:
        await ask(server.endpoint, identity_of(ca=pair.certificate))
    assert len(server.seen) == 1


async def test_an_intermediate_authority_that_is_named_needs_none_above_it(tmp_path):
    above = trustme.CA()
    between = above.create_child_ca()
    ca = write_ca(tmp_path, between)
    with TlsServer(server_context(between.issue_cert(HOST))) as server:
        await ask(server.endpoint, identity_of(ca=ca))
    await refused(TlsUnknownCa, server_context(above.issue_cert(HOST)), identity_of(ca=ca))


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("tlsv1 alert no application protocol", "it takes none of the protocols offered by ALPN; see tls.alpn"),
        ("something new", "something new"),
    ],
)
def test_a_reason_that_this_python_has_no_name_for_is_told_in_openssls_words(said, words):
    error = ssl.SSLError(1, f"[SSL] {said} (_ssl.c:1006)")
    error.reason = None
    assert module._words(error) == words


async def test_a_name_that_tls_cannot_ask_for_is_refused(ca):
    await refused(TlsFailed, server_context(), identity_of(ca=ca), "\udc80.example.test")


@pytest.mark.parametrize("verify", [True, "chain"])
async def test_an_expired_certificate_is_refused_with_its_date(ca, verify):
    then = datetime.datetime(2024, 2, 29, 12, tzinfo=datetime.UTC)
    leaf = authority().issue_cert(HOST, not_before=then - datetime.timedelta(days=30), not_after=then)
    said = await refused(TlsExpired, server_context(leaf), identity_of(ca=ca, verify=verify))
    assert said.endswith(f"{HOST}: the certificate expired on 2024-02-29 12:00:00 UTC")


async def test_a_certificate_of_tomorrow_is_refused_with_its_date(ca):
    then = datetime.datetime(2090, 1, 1, tzinfo=datetime.UTC)
    leaf = authority().issue_cert(HOST, not_before=then, not_after=then + datetime.timedelta(days=30))
    said = await refused(TlsExpired, server_context(leaf), identity_of(ca=ca))
    assert "not valid before 2090-01-01 00:00:00 UTC" in said


async def test_an_authority_that_has_expired_is_told_from_the_certificate(tmp_path):
    old = expired_authority(tmp_path, datetime.datetime(2024, 2, 29, 12, tzinfo=datetime.UTC))
    said = await refused(TlsExpired, server_context(old.with_ca), identity_of(ca=old.ca))
    assert said.endswith(f"{HOST}: that of its authority CN=of old times expired on 2024-02-29 12:00:00 UTC")
    said = await refused(TlsExpired, server_context(old.alone), identity_of(ca=old.ca))
    assert said.endswith(f"an authority of its certificate has expired, or is not valid yet ({old.ca})")


async def test_a_certificate_that_is_not_for_servers_is_refused_in_openssls_words(tmp_path):
    pair = signed_by_itself(tmp_path, "extendedKeyUsage=clientAuth")
    said = await refused(TlsFailed, server_context(pair), identity_of(ca=pair.certificate))
    assert "was not taken: unsuitable certificate purpose" in said or "was not taken: unsupported" in said


async def test_one_of_the_names_that_are_set_is_enough(ca):
    identity = identity_of(ca=ca, subject_alt_names=["no.example.test", HOST.upper()])
    with TlsServer(server_context()) as server:
        await ask(server.endpoint, identity, "whoever.example.test")
    assert server.seen[0].server_name == "whoever.example.test"


@pytest.mark.parametrize("verify", [True, "chain"])
async def test_a_certificate_without_the_names_that_are_set_is_refused(ca, verify):
    identity = identity_of(ca=ca, verify=verify, subject_alt_names=["spiffe://cluster.local/ns/a/sa/b", "x.test"])
    said = await refused(TlsWrongHost, server_context(), identity)
    assert f"(spiffe://cluster.local/ns/a/sa/b, x.test): the certificate is for {HOST}" in said


async def test_with_chain_the_name_is_not_looked_at_but_the_authority_is(ca, tmp_path):
    with TlsServer(server_context()) as server:
        await ask(server.endpoint, identity_of(ca=ca, verify="chain"), "other.example.test")
    strange = write_ca(tmp_path, other_authority(), "strange.pem")
    await refused(TlsUnknownCa, server_context(), identity_of(ca=strange, verify="chain"))


async def test_without_verification_anybody_is_spoken_to():
    with TlsServer(server_context(other_authority().issue_cert("x.test"))) as server:
        await ask(server.endpoint, identity_of(verify=False))
    assert len(server.seen) == 1


# --- certificates as old documents make them ----------------------------------------------------------------------


async def test_old_certificates_are_taken_with_chain_on_both_sides(tmp_path):
    old = documented(tmp_path)
    identity = identity_of(
        mode="mutual", ca=old.ca, certificate=old.client.certificate, key=old.client.key, verify="chain"
    )
    with TlsServer(server_context(old.server, client_ca=old.ca)) as server:
        await ask(server.endpoint, identity)
    assert server.seen[0].subject == "caller.example.test"


async def test_old_certificates_are_refused_otherwise_and_told_what_to_do(tmp_path):
    old = documented(tmp_path)
    said = await refused(TlsWrongHost, server_context(old.server), identity_of(ca=old.ca))
    assert "no subject alternative name" in said
    assert said.endswith(
        "have one issued with a subject alternative name, or set verify: chain, which looks at no name"
    )
    named = identity_of(ca=old.ca, verify="chain", subject_alt_names=[HOST])
    said = await refused(TlsWrongHost, server_context(old.server), named)
    assert "verify: chain" not in said


async def test_what_the_certificate_says_is_not_needed_to_refuse_it(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "facts_of", lambda _encoded: None)
    old = documented(tmp_path)
    assert "for other names, or for none" in await refused(
        TlsWrongHost, server_context(old.server), identity_of(ca=old.ca)
    )
    assert "signed by somebody" in await refused(TlsUnknownCa, server_context(old.server), identity_of())


# --- what the proxy shows -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [TLS_1_2, TLS_1_3])
async def test_a_client_certificate_is_shown(ca, tmp_path, version):
    pair = write_pair(tmp_path, authority().issue_cert("proxy.example.test", common_name="the proxy"))
    identity = identity_of(mode="mutual", ca=ca, certificate=pair.certificate, key=pair.key)
    with TlsServer(server_context(version=version, client_ca=ca)) as server:
        await ask(server.endpoint, identity)
    assert server.seen[0].subject == "the proxy"


async def test_a_missing_client_certificate_is_told_by_the_handshake_of_tls_1_2(ca):
    said = await refused(
        TlsClientCertificateRequired, server_context(version=TLS_1_2, client_ca=ca), identity_of(ca=ca)
    )
    assert "asks for a client certificate, and none was shown" in said
    assert "tls.mode: mutual" in said


async def test_a_client_certificate_of_a_stranger_is_told_with_its_file(ca, tmp_path):
    pair = write_pair(tmp_path, other_authority().issue_cert("proxy.example.test"))
    identity = identity_of(mode="mutual", ca=ca, certificate=pair.certificate, key=pair.key)
    said = await refused(TlsClientCertificateRequired, server_context(version=TLS_1_2, client_ca=ca), identity)
    assert f"does not know the authority of the client certificate, and {pair.certificate} was shown" in said


@pytest.mark.parametrize("found_by", ["read", "write"])
async def test_a_missing_client_certificate_is_told_behind_the_handshake_of_tls_1_3(connection, ca, found_by):
    with TlsServer(server_context(version=TLS_1_3, client_ca=ca)) as server:
        stream = await connection(server.endpoint, identity_of(ca=ca))

        async def write_on():
            while True:
                await stream.write(b"?")
                await asyncio.sleep(0)

        with pytest.raises(OSError) as caught:
            await (stream.read(1) if found_by == "read" else write_on())
        assert isinstance(caught.value, ssl.SSLError) is (found_by == "read")
        found = upstream_tls_error(caught.value, server.endpoint, stream)
        assert type(found) is TlsClientCertificateRequired
        assert found.endpoint == server.endpoint
        assert "asks for a client certificate" in str(found)


async def test_what_the_server_said_before_it_left_is_not_lost(connection, ca):
    with TlsServer(server_context()) as server:
        stream = await connection(server.endpoint, identity_of(ca=ca))
        await stream.write(b"?")
        await until(lambda: upstream_tls_error(BrokenPipeError(), server.endpoint, stream) or stream._plaintext)
        said = b""
        while len(said) < len(ANSWER):
            said += await stream.read(100)
        assert said == ANSWER
        stream.close()  # which the server waits for


def test_other_errors_behind_the_handshake_are_told_apart():
    endpoint = Endpoint("192.0.2.1", 443)
    damaged = ssl.SSLError(1, "[SSL: X] x (_ssl.c:1)")
    damaged.reason = "DECRYPTION_FAILED_OR_BAD_RECORD_MAC"
    found = upstream_tls_error(damaged, endpoint)
    assert type(found) is TlsFailed
    assert str(found) == "192.0.2.1:443: TLS broke: decryption failed or bad record mac"
    assert upstream_tls_error(ConnectionResetError(), endpoint) is None


# --- versions, time-outs, what is no TLS --------------------------------------------------------------------------


async def test_a_server_without_the_oldest_version_that_is_spoken_is_refused(ca):
    identity = identity_of(ca=ca, minimum_version="1.3")
    said = await refused(TlsVersion, server_context(version=TLS_1_2), identity)
    assert "from 1.3 on" in said


async def test_versions_before_1_2_are_refused(ca):
    context = server_context()
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    said = await refused(TlsVersion, context, identity_of(ca=ca))
    assert "from 1.2 on" in said


async def test_a_silent_server_is_given_up(ca):
    with listening() as silent:
        endpoint = Endpoint(*silent.getsockname())
        with pytest.raises(TlsTimeout, match=r"no TLS with origin\.example\.test within 0\.05 s") as caught:
            await ask(endpoint, identity_of(ca=ca), delay_s=0.05)
    assert caught.value.endpoint == endpoint


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "did not answer in TLS"),
        (b"", "closed the connection during the TLS handshake"),
    ],
)
async def test_a_server_that_does_not_speak_tls_is_told_as_that(ca, answer, said):
    with listening() as listener:

        def serve():
            client, _ = listener.accept()
            with client:
                client.recv(10_000)
                client.sendall(answer)
                client.shutdown(socket.SHUT_WR)
                while client.recv(10_000):
                    pass

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(TlsFailed, match=said):
            await ask(Endpoint(*listener.getsockname()), identity_of(ca=ca))
        thread.join(10)


async def test_who_gives_up_leaves_nothing_open(ca):
    with listening() as silent:
        asking = asyncio.ensure_future(ask(Endpoint(*silent.getsockname()), identity_of(ca=ca)))
        await asyncio.sleep(0)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking


# --- resumption ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [TLS_1_2, TLS_1_3])
@pytest.mark.parametrize("verify", [True, "chain"])
async def test_the_second_connection_resumes_the_session_of_the_first(ca, version, verify):
    identity = identity_of(ca=ca, verify=verify)
    with TlsServer(server_context(version=version)) as server:
        for _ in range(3):
            await ask(server.endpoint, identity)
    assert [seen.resumed for seen in server.seen] == [False, True, True]
    assert len(identity.sessions) == 1


async def test_a_session_is_kept_when_there_is_a_ticket_and_once(connection, ca):
    identity = identity_of(ca=ca)
    with TlsServer(server_context(version=TLS_1_3)) as server:
        stream = await connection(server.endpoint, identity)
        keep_session(stream)
        assert len(identity.sessions) == 0
        await stream.write(b"?")
        await stream.read(1000)
        keep_session(stream)
        assert len(identity.sessions) == 1
        identity.sessions.forget(HOST, server.endpoint)
        keep_session(stream)
        assert len(identity.sessions) == 0
        stream.close()


async def test_resuming_does_not_put_off_the_next_verification(ca):
    identity = identity_of(ca=ca)
    with TlsServer(server_context()) as server:
        await ask(server.endpoint, identity)
        first = identity.sessions.find(HOST, server.endpoint)
        await ask(server.endpoint, identity)
    session, until = identity.sessions.find(HOST, server.endpoint)
    assert until == first[1]
    assert session is not first[0]


async def test_a_session_does_not_outlive_its_certificate(ca):
    soon = datetime.datetime.now(datetime.UTC).replace(microsecond=0) + datetime.timedelta(minutes=5)
    leaf = authority().issue_cert(HOST, not_after=soon)
    identity = identity_of(ca=ca)
    with TlsServer(server_context(leaf)) as server:
        await ask(server.endpoint, identity)
    assert identity.sessions.find(HOST, server.endpoint)[1] == soon.timestamp()


async def test_a_session_is_for_one_name_one_endpoint_and_one_identity(ca):
    context = server_context(authority().issue_cert(HOST, "other.example.test"))
    one, other = identity_of(ca=ca), identity_of(ca=ca)
    with TlsServer(context) as server, TlsServer(context) as twin:  # the same key for tickets
        await ask(server.endpoint, one)
        await ask(server.endpoint, other)
        await ask(server.endpoint, one, "other.example.test")
        await ask(twin.endpoint, one)
    assert not any(seen.resumed for seen in [*server.seen, *twin.seen])


async def test_a_session_is_held_to_the_names_again(ca):
    """A session that came from elsewhere would not be taken either."""
    identity = identity_of(ca=ca, subject_alt_names=[HOST])
    with TlsServer(server_context()) as server:
        await ask(server.endpoint, identity)
        strict = dataclasses.replace(identity, names=("x.test",))
        with pytest.raises(TlsWrongHost):
            await ask(server.endpoint, strict)
    assert len(identity.sessions) == 0
