from __future__ import annotations

import asyncio
import os
import ssl

import pytest
import trustme
from cryptography.hazmat.primitives import serialization
from support.certificates import NAME, TLS_1_2, TLS_1_3, authority, client_context, other_authority, write_files
from support.loops import open_descriptors
from support.peers import TlsPeer, socket_pair, tcp_stream

from egressproxy.config.schema.listeners import ListenerTls
from egressproxy.poller import create_poller
from egressproxy.stream import TlsStream
from egressproxy.tls import TlsSettingsError, handshake_problem, listener_context


@pytest.fixture
def files(tmp_path):
    return write_files(tmp_path)


@pytest.fixture
def settings(files):
    return ListenerTls(certificate=files["certificate"], key=files["key"])


@pytest.fixture
def settings_with_clients(files):
    return ListenerTls(certificate=files["certificate"], key=files["key"], client_ca=files["authority"])


def fresh_client(certificate=None, *, version=None, alpn=()):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority().configure_trust(context)
    if certificate is not None:
        certificate.configure_cert(context)
    if version is not None:
        context.minimum_version = context.maximum_version = version
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return context


async def shake_hands(context, client, *, exchange=True):
    """What came of it on the proxy's side and the client's: None, or the error. With a byte each way, as TLS 1.3 tells a
    client only afterwards that it was turned away. Also the client's TLS object."""
    poller = create_poller(asyncio.get_running_loop())
    peer_end, our_end = socket_pair()
    stream = TlsStream(tcp_stream(our_end, poller), context, server_side=True)
    peer = TlsPeer(peer_end, client, server_side=False)

    async def ours():
        try:
            await stream.handshake()
            if exchange:
                assert await stream.read(1) == b"?"
                await stream.write(b"!")
        finally:
            stream.close()

    async def theirs():
        await peer.handshake()
        if exchange:
            await peer.send(b"?")
            assert await peer.receive(1) == b"!"

    async with asyncio.timeout(20):
        here, there = await asyncio.gather(ours(), theirs(), return_exceptions=True)
    peer.close()
    assert len(poller) == 0
    poller.close()
    return here, there, peer.tls


@pytest.mark.parametrize("version", [TLS_1_2, TLS_1_3])
async def test_a_client_that_trusts_the_authority_gets_in(settings, version):
    ours, theirs, tls = await shake_hands(listener_context(settings), client_context(version))
    assert (ours, theirs) == (None, None)
    assert tls.getpeercert()["subjectAltName"] == (("DNS", NAME),)


async def test_versions_before_1_2_are_refused(settings):
    old = fresh_client()
    old.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    ours, theirs, _ = await shake_hands(listener_context(settings), old)
    assert isinstance(ours, ssl.SSLError)
    assert isinstance(theirs, ssl.SSLError)


@pytest.mark.parametrize(
    ("offered", "chosen"), [(["h2", "http/1.1"], "http/1.1"), (["http/1.1"], "http/1.1"), ([], None)]
)
async def test_speaks_http_1_1_by_alpn(settings, offered, chosen):
    ours, theirs, tls = await shake_hands(listener_context(settings), fresh_client(alpn=offered))
    assert (ours, theirs) == (None, None)
    assert tls.selected_alpn_protocol() == chosen


@pytest.mark.parametrize("version", [TLS_1_2, TLS_1_3])
async def test_with_client_ca_a_client_must_show_a_certificate(settings_with_clients, version):
    ours, theirs, _ = await shake_hands(listener_context(settings_with_clients), fresh_client(version=version))
    assert isinstance(ours, ssl.SSLError)
    assert "PEER_DID_NOT_RETURN_A_CERTIFICATE" in ours.reason
    assert theirs is not None


@pytest.mark.parametrize("version", [TLS_1_2, TLS_1_3])
async def test_with_client_ca_a_certificate_of_another_authority_is_refused(settings_with_clients, version):
    stranger = fresh_client(other_authority().issue_cert("client.example.test"), version=version)
    ours, theirs, _ = await shake_hands(listener_context(settings_with_clients), stranger)
    assert isinstance(ours, ssl.SSLError)
    assert theirs is not None


@pytest.mark.parametrize("version", [TLS_1_2, TLS_1_3])
async def test_with_client_ca_a_certificate_of_it_opens_the_door(settings_with_clients, version):
    known = fresh_client(authority().issue_cert("client.example.test"), version=version)
    ours, theirs, _ = await shake_hands(listener_context(settings_with_clients), known)
    assert (ours, theirs) == (None, None)


def resume(context, client):
    """Two connections, the second with the session of the first; whether it was resumed. Over blocking sockets, since the
    ssl module gives a session only to those."""
    session = None
    reused = []
    for _ in range(2):
        peer_end, our_end = socket_pair()
        server_done = []

        def serve(our_end=our_end, server_done=server_done):
            with context.wrap_socket(our_end, server_side=True) as served:
                server_done.append(served.recv(1))
                served.send(b"!")

        import threading

        thread = threading.Thread(target=serve)
        thread.start()
        with client.wrap_socket(peer_end, server_hostname=NAME, session=session) as tls:
            tls.send(b"?")
            assert tls.recv(1) == b"!"
            session = tls.session
            reused.append(tls.session_reused)
        thread.join(10)
        assert server_done == [b"?"]
    return reused[1]


def test_without_client_ca_a_session_is_resumed(settings):
    assert resume(listener_context(settings), fresh_client(version=TLS_1_3))


@pytest.mark.parametrize("version", [TLS_1_2, TLS_1_3])
def test_with_client_ca_each_connection_shows_its_certificate_anew(settings_with_clients, version):
    known = fresh_client(authority().issue_cert("client.example.test"), version=version)
    assert not resume(listener_context(settings_with_clients), known)


# --- handshakes that fail, in words


async def problem_of(settings, client):
    ours, _, _ = await shake_hands(listener_context(settings), client)
    return handshake_problem(ours)


async def test_a_client_without_a_certificate_is_told_as_one(settings_with_clients):
    assert (
        await problem_of(settings_with_clients, fresh_client())
        == "the client showed no certificate, and client_ca asks for one"
    )


async def test_a_client_of_another_authority_is_told_as_one(settings_with_clients):
    said = await problem_of(settings_with_clients, fresh_client(other_authority().issue_cert("c.example.test")))
    assert said.startswith("the client's certificate is not one that client_ca vouches for")


@pytest.mark.parametrize("line", [b"GET http://a.example/ HTTP/1.1\r\n\r\n", b"CONNECT a.example:443 HTTP/1.1\r\n\r\n"])
def test_plain_http_on_a_tls_listener_is_told_as_that(settings, line):
    incoming = ssl.MemoryBIO()
    incoming.write(line)
    tls = listener_context(settings).wrap_bio(incoming, ssl.MemoryBIO(), server_side=True)
    with pytest.raises(ssl.SSLError) as caught:
        tls.do_handshake()
    assert handshake_problem(caught.value) == (
        "the client spoke plain HTTP to a TLS listener; its proxy URL must begin with https://"
    )


def test_other_failures_are_told_in_lower_case_or_in_the_systems_words():
    odd = ssl.SSLError(1, "[SSL: BAD_THING] bad thing (_ssl.c:1)")
    odd.reason = "BAD_THING"
    assert handshake_problem(odd) == "bad thing"
    assert handshake_problem(ConnectionResetError(104, "Connection reset by peer")) == "Connection reset by peer"


# --- files that cannot be used ------------------------------------------------------------------------------------


def refused(settings):
    with pytest.raises(TlsSettingsError) as caught:
        listener_context(settings)
    return str(caught.value)


def test_a_missing_certificate_is_named(settings, tmp_path):
    assert (
        refused(settings.model_copy(update={"certificate": tmp_path / "none.pem"}))
        == f"{tmp_path}/none.pem: no such file"
    )


def test_a_missing_key_is_named(settings, tmp_path):
    assert refused(settings.model_copy(update={"key": tmp_path / "none.key"})) == f"{tmp_path}/none.key: no such file"


def test_a_key_of_another_certificate_is_told_apart(settings, files):
    files["key"].write_bytes(authority().issue_cert("other.example.test").private_key_pem.bytes())
    assert refused(settings).endswith("they do not belong together")


def test_an_encrypted_key_is_refused_without_asking_for_a_passphrase(settings, files):
    key = serialization.load_pem_private_key(files["key"].read_bytes(), None)
    files["key"].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    assert "without a passphrase" in refused(settings)


@pytest.mark.parametrize("which", ["certificate", "key"])
@pytest.mark.parametrize("content", [b"", b"not PEM at all\n"])
def test_a_file_with_something_else_in_it_is_named(settings, files, which, content):
    files[which].write_bytes(content)
    what = {"certificate": "certificate", "key": "private key"}[which]
    assert refused(settings).startswith(f"{files[which]}: holds no {what} in PEM form")


def test_a_damaged_file_is_told_without_openssls_words(settings, files):
    files["certificate"].write_bytes(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    said = refused(settings)
    assert said.startswith(f"{files['certificate']} with key {files['key']}: ")
    assert "_ssl.c" not in said


@pytest.mark.parametrize("which", ["certificate", "key"])
def test_a_folder_is_no_file(settings, files, which):
    files[which].unlink()
    files[which].mkdir()
    assert str(files[which]) in refused(settings)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_named(settings, files):
    files["key"].chmod(0)
    assert "no permission" in refused(settings)


@pytest.mark.parametrize("content", [b"", b"not PEM at all\n"])
def test_client_authorities_that_are_none_are_refused(settings_with_clients, files, content):
    files["authority"].write_bytes(content)
    assert str(files["authority"]) in refused(settings_with_clients)


def test_missing_client_authorities_are_refused(settings_with_clients, files):
    files["authority"].unlink()
    assert refused(settings_with_clients) == f"{files['authority']}: No such file or directory"


def test_a_certificate_that_signs_nothing_is_no_client_authority(settings_with_clients, files):
    leaf = trustme.CA().issue_cert("leaf.example.test")
    files["authority"].write_bytes(leaf.cert_chain_pems[0].bytes())
    assert "holds no certificate of an authority" in refused(settings_with_clients)


def test_a_refused_context_leaves_no_file_open(settings, files):
    files["key"].write_bytes(b"")
    before = open_descriptors()
    refused(settings)
    assert open_descriptors().keys() <= before.keys()
