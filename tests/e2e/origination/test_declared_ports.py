"""What a port is declared to carry: tunnels to it are checked, and plain requests to TLS refused."""

from __future__ import annotations

import ssl

import pytest
from support.clients import connect_head
from support.originating import BILLING, SITE, Configure, Web, service, the_only_record
from support.plain_http import Ends, RawOrigin, request, response


def client_hello(server_name: str) -> bytes:
    """What OpenSSL sends first."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    engine = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname=server_name)
    with pytest.raises(ssl.SSLWantReadError):
        engine.do_handshake()
    return outgoing.read()


def test_a_tunnel_to_the_plain_port_of_a_service_that_is_reached_over_tls_is_checked(
    configured: Configure, web: Web
) -> None:
    """Else a CONNECT to port 80 would be a way past the check of the very same server on port 443."""
    with RawOrigin() as origin:
        proxy = configured(service(SITE, origin.port, {"mode": "simple", "ca": web.ca}))
        with Ends(proxy) as client:
            client.send(connect_head(f"{SITE}:80") + client_hello("evil.example.test"))
            client.head()
            assert client.to_the_end()[:1] == b"\x15"  # an alert
        record = the_only_record(proxy)
        assert (record["sni_check"], record["outcome"]) == ("mismatch", "sni_mismatch")
        assert not [wire for wire in origin.connections if wire.received]


def test_a_plain_request_to_a_port_for_tls_alone_is_refused_and_its_client_kept(configured: Configure) -> None:
    """It would be sent where the other side takes it for broken TLS, with all that is secret in it."""
    with RawOrigin(lambda _: [response()]) as origin:
        ports = [{"number": origin.port, "protocol": "TLS"}]
        proxy = configured({"hosts": [SITE], "ports": ports}, {"hosts": [BILLING], "ports": [{"number": origin.port}]})
        with Ends(proxy) as client:
            refused = client.ask(request(f"http://{SITE}:{origin.port}/"))
            assert (refused.status, refused.slug) == (403, "tls_required")
            assert client.ask(request(f"http://{BILLING}:{origin.port}/")).status == 200  # where nothing is declared
        with Ends(proxy) as client:
            client.send(connect_head(f"{SITE}:{origin.port}") + b"GET / HTTP/1.1\r\n\r\n")
            client.head()
            assert client.to_the_end()[:1] == b"\x15"  # an alert
        outcomes = [(record["outcome"], record["sni_check"]) for record in proxy.settled().records]
        assert outcomes == [("tls_required", None), ("answered", None), ("not_tls", "not_tls")]


@pytest.mark.parametrize("name", [SITE, "evil.example.test"])
def test_a_tunnel_to_a_port_that_is_declared_to_be_tls_is_checked_whatever_the_port(
    configured: Configure, name: str
) -> None:
    with RawOrigin() as origin:
        proxy = configured({"hosts": [SITE], "ports": [{"number": origin.port, "protocol": "HTTPS"}]})
        hello = client_hello(name)
        with Ends(proxy) as client:
            client.send(connect_head(f"{SITE}:{origin.port}") + hello)
            client.head()
            with origin.take() as upstream:
                assert upstream.exactly(len(hello)) == (hello if name == SITE else b"")
        record = the_only_record(proxy)
        assert record["sni_check"] == ("match" if name == SITE else "mismatch")
