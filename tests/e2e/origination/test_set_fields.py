"""Header fields that clients never see: told to the service, and to nobody else."""

from __future__ import annotations

import re
import ssl
import sys
from pathlib import Path
from typing import Any

import pytest
from support.certificates import authority
from support.clients import run
from support.originating import SITE, Configure, Web, ask, service, simple
from support.plain_http import CLOSE, Ends, Message, RawOrigin, request, response
from support.proxy import ROOT, Proxy
from support.waiting import eventually

TOKEN, NEXT_TOKEN, KEY = "t0ken-of-the-first-day", "t0ken-of-the-second-day", "k3y-that-nobody-sees"


def everything_said(proxy: Proxy) -> str:
    """All that the proxy has written, and all its pages."""
    pages = [proxy.get(path)[1] for path in ("/config", "/metrics", "/tunnels", "/livez", "/readyz")]
    pages.append(proxy.get(f"/explain?to=http://{SITE}/")[1])
    files = [path.read_text() for path in proxy.folder.iterdir() if path != proxy.config_file]
    return "\n".join(pages + files)


def test_fields_are_set_in_place_of_the_clients_own_and_their_values_are_told_to_nobody(
    watchful: Configure, web: Web, tmp_path: Path
) -> None:
    token, key = tmp_path / "token", tmp_path / "key"
    token.write_text(f"{TOKEN}\n")
    key.write_text(KEY)
    fields = {"Authorization": {"file": str(token), "prefix": "Bearer "}, "X-Api-Key": {"file": str(key)}}
    own = (
        "authorization: Basic b3du",
        "AUTHORIZATION: Basic dHdpY2U=",
        "x-api-key: mine",
        "X-Api-Key-2: stays",
        "Connection: X-Api-Key, Authorization",
    )

    def script(asked: Message) -> list[Any]:
        return [b"HTTP/1.1 nonsense\r\n\r\n", CLOSE] if asked.target == "/broken" else [response(b"x")]

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority().issue_cert(SITE).configure_cert(context)
    with RawOrigin(script, tls=context) as origin:
        proxy = watchful(simple(web, port=origin.port, alpn=[]) | {"set_headers": fields})

        def asked(path: str) -> Message:
            with Ends(proxy) as client:
                reply = client.ask(request(f"http://{SITE}{path}", *own))
            assert not {TOKEN, NEXT_TOKEN, KEY} & set(re.findall(r"[\w-]+", repr(reply)))
            raw = b"".join(wire.received for wire in origin.connections)
            head = raw[raw.rindex(b"GET " + path.encode()) :].partition(b"\r\n\r\n")[0].decode("ascii")
            first, *lines = head.split("\r\n")
            pairs = tuple((name.lower(), value) for name, _, value in (line.partition(": ") for line in lines))
            return Message(first, pairs, b"", (), head.encode())

        told = asked("/first")
        assert [each for each in told.fields if "auth" in each[0] or "key" in each[0]] == [
            ("x-api-key-2", "stays"),
            ("authorization", f"Bearer {TOKEN}"),
            ("x-api-key", KEY),
        ]
        token.write_text(NEXT_TOKEN)
        eventually(lambda: asked("/again").get("authorization") == f"Bearer {NEXT_TOKEN}", "the new value is sent")
        token.write_text(f"{TOKEN}\nand another line")
        label = str(token)
        eventually(lambda: proxy.metric("credentials_refused_total", identity=label) == 1, "two lines are refused")
        assert asked("/third").get("authorization") == f"Bearer {NEXT_TOKEN}"
        with Ends(proxy) as client:
            assert client.ask(request(f"http://{SITE}/broken")).status == 502
    with Ends(proxy) as client:
        assert client.ask(request(f"http://{SITE}/gone")).slug == "connect_refused"
    assert {each["outcome"] for each in proxy.settled().records} == {
        "answered",
        "upstream_protocol_error",
        "connect_refused",
    }
    said = everything_said(proxy)
    assert label in said
    for secret in (TOKEN, NEXT_TOKEN, KEY, "and another line"):
        assert secret not in said


@pytest.mark.parametrize("method", ["TRACE", "trace"])
def test_who_is_told_a_credential_is_not_asked_what_he_was_told(
    watchful: Configure, web: Web, tmp_path: Path, method: str
) -> None:
    token = tmp_path / "token"
    token.write_text(TOKEN)
    proxy = watchful(simple(web) | {"set_headers": {"Authorization": {"file": str(token)}}})
    with Ends(proxy) as client:
        assert client.ask(request(f"http://{SITE}/", method=method)).slug == "method_not_implemented"


def test_no_request_goes_without_its_field(watchful: Configure, web: Web, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.touch()
    proxy = watchful(simple(web) | {"set_headers": {"Authorization": {"file": str(token)}}})
    reply = ask(proxy, f"http://{SITE}/without-field")
    assert (reply.status, reply.slug) == (503, "credential_missing")
    token.write_text(TOKEN)
    eventually(lambda: ask(proxy, f"http://{SITE}/with-field").status == 200, "the value is there")
    assert web.nginx.lines_of("/without-field") == []


def test_fields_for_who_is_not_verified_are_a_configuration_error(tmp_path: Path, config: dict[str, Any]) -> None:
    (tmp_path / "token").write_text(TOKEN)
    fields = {"Authorization": {"file": str(tmp_path / "token")}}
    without = [None, {"mode": "disable"}, {"mode": "simple", "verify": False}, {"mode": "simple", "verify": "chain"}]
    services = [service(SITE, 443, tls, set_headers=fields) for tls in without]
    proxy = Proxy(tmp_path, {**config, "services": services})
    done = run(sys.executable, "-m", "egressproxy", "check", proxy.config_file, folder=ROOT, code=1)
    for number in range(len(services)):
        assert f"services[{number}].set_headers: go over verified TLS only" in done.out + done.err
    assert TOKEN not in done.out + done.err
