"""Secrets that change: under load, in place, late, wrong, and at their end."""

from __future__ import annotations

import re
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import trustme
from support.certificates import authority, other_authority
from support.originating import (
    BILLING,
    SITE,
    SOON,
    Configure,
    Web,
    client_certificate,
    common_name,
    doors,
    mutual,
    said_at_its_start,
    service,
    worth_a_warning,
)
from support.plain_http import Ends, request
from support.proxy import Proxy
from support.tls_servers import Mounted, secret_of, write_pair
from support.waiting import eventually


def as_secret(name: str, *, ca: trustme.CA | None = None) -> dict[str, bytes]:
    """What a mounted secret holds: a client certificate with this common name, and whom to trust."""
    return secret_of(client_certificate(name), ca or authority())


def by_secret(web: Web, name: str = "gateway", host: str = SITE) -> dict[str, Any]:
    return service(host, web.mutual, {"mode": "mutual", "credential": name})


class Load(NamedTuple):
    """Requests from several threads at once, until it is told to stop; `outcomes` counts their statuses."""

    stop: threading.Event
    outcomes: Counter[object]
    threads: list[threading.Thread]

    @classmethod
    def begin(cls, proxy: Proxy, url: str, *, kept: int, new: int) -> Load:
        """`kept`: threads that keep their connection; `new`: those that make one for each request."""
        load = cls(threading.Event(), Counter(), [])

        def one(*, keeps: bool) -> None:
            client = Ends(proxy)
            try:
                for number in range(2000):
                    if number and not keeps:
                        client.close()
                        client = Ends(proxy)
                    reply = client.ask(request(url))
                    load.outcomes[reply.status, reply.complete] += 1
                    if load.stop.wait(0.01):
                        return
            except Exception as error:
                load.outcomes[repr(error)] += 1
            finally:
                client.close()

        for number in range(kept + new):
            thread = threading.Thread(target=one, kwargs={"keeps": number < kept})
            load.threads.append(thread)
            thread.start()
        return load

    def end(self) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join()


def test_a_secret_is_rotated_under_load_and_every_request_succeeds(
    configured: Configure, web: Web, tmp_path: Path
) -> None:
    """At the pace of a real proxy. The next handshake behind the swap shows the new certificate, and so do all later ones."""
    secret = Mounted(tmp_path / "gateway", **as_secret("before"))
    proxy = configured(by_secret(web), secrets={"directory": str(tmp_path)})
    with Ends(proxy) as slow:
        slow.send(request(f"http://{SITE}/slow?rotated"))  # takes as long as all of this
        slow_head = slow.head()
        load = Load.begin(proxy, f"http://{SITE}/rotated", kept=3, new=2)
        try:
            eventually(lambda: len(web.nginx.lines_of("/rotated")) > 50, "there is load")
            secret.swap(**as_secret("after"))

            def new_ones() -> int:
                return sum(common_name(line.subject) == "after" for line in web.nginx.lines_of("/rotated"))

            eventually(lambda: new_ones() > 50, "requests come with the new certificate")
        finally:
            load.end()
        assert set(load.outcomes) == {(200, True)}
        lines = web.nginx.lines_of("/rotated")
        assert len(lines) == load.outcomes.total()
        assert slow_head is not None
        body = slow.exactly(int(slow_head.get("content-length") or 0))
        assert (slow_head.status, len(body)) == (200, 120_000)
    firsts = sorted(
        (int(line.connection), common_name(line.subject), line.reused) for line in lines if line.request == "1"
    )
    shown = [subject for _, subject, _ in firsts]
    assert shown == ["before"] * shown.count("before") + ["after"] * shown.count("after")
    assert shown.count("after") >= 2
    assert next(reused for _, subject, reused in firsts if subject == "after") == ".", "no session of the old one"
    assert {common_name(line.subject) for line in web.nginx.seen("/slow?rotated")} == {"before"}
    assert proxy.metric("credentials_refused_total", identity="gateway") == 0
    assert {each["outcome"] for each in proxy.settled().records} == {"answered"}


def whom_it_shows(proxy: Proxy, web: Web, url: str = f"http://{SITE}", door: int | None = None) -> str:
    """The certificate of the next request, from what NGINX logs."""
    path = f"/shows-{time.monotonic_ns()}"
    with Ends(proxy, door) as client:
        reply = client.ask(request(f"{url}{path}"))
    assert reply.status == 200, reply
    (seen,) = web.nginx.seen(path)
    return common_name(seen.subject)


def test_files_that_are_rewritten_in_place_are_used_when_they_are_whole_and_belong_together(
    watchful: Configure, web: Web, tmp_path: Path
) -> None:
    files = tmp_path / "client.pem", tmp_path / "client.key"
    write_pair(tmp_path, client_certificate("in-place-1"))
    (new := tmp_path / "new").mkdir()
    fresh = write_pair(new, client_certificate("in-place-2"))
    certificate, key = fresh.certificate.read_bytes(), fresh.key.read_bytes()
    proxy = watchful(mutual(web, "x", certificate=str(files[0]), key=str(files[1])))
    label = str(files[0])

    def refusals() -> float:
        return proxy.metric("credentials_refused_total", identity=label)

    assert whom_it_shows(proxy, web) == "in-place-1"
    files[0].write_bytes(certificate[: len(certificate) // 2])
    eventually(lambda: refusals() == 1, "half a certificate is refused")
    assert whom_it_shows(proxy, web) == "in-place-1"
    files[0].write_bytes(certificate)
    eventually(lambda: refusals() == 2, "a certificate without its key is refused")
    assert whom_it_shows(proxy, web) == "in-place-1"
    assert f"refused: {files[0]} with key {files[1]}: they do not belong together; what was read before" in proxy.stderr
    files[1].write_bytes(key)
    eventually(lambda: f"{label} is new" in proxy.stderr, "the pair is taken")
    assert whom_it_shows(proxy, web) == "in-place-2"
    assert refusals() == 2
    proxy = watchful(mutual(web, "x", certificate=str(files[0]), key=str(files[1])))
    assert refusals() == 2, "over reloads"


def test_a_secret_that_comes_later_is_waited_for_and_one_that_goes_stays_in_use(
    watchful: Configure, web: Web, tmp_path: Path
) -> None:
    proxy = watchful(by_secret(web, "late"), secrets={"directory": str(tmp_path)})
    assert "secret late: no tls.crt and tls.key" in proxy.stderr
    for client in (Ends(proxy), Ends(proxy, doors(proxy).web)):
        with client:
            reply = client.ask(request(f"http://{SITE}/too-early"))
            assert reply.status == 503
    first, second = proxy.settled().records
    assert first["outcome"] == second["outcome"] == "credential_missing"
    assert first["upstream"] is None, "nobody was connected to"
    secret = Mounted(tmp_path / "late", **as_secret("late"))
    eventually(lambda: "late is new" in proxy.stderr, "the secret is taken")
    assert whom_it_shows(proxy, web) == "late"
    secret.swap()
    eventually(lambda: proxy.metric("credentials_refused_total", identity="late") == 1, "it is noticed that it is gone")
    assert whom_it_shows(proxy, web) == "late"
    secret.swap(**as_secret("late-again"))
    eventually(lambda: whom_it_shows(proxy, web) == "late-again", "the new one is used")
    assert web.nginx.lines_of("/too-early") == []


def test_a_mounted_secret_with_another_key_is_refused_and_the_old_one_stays(
    watchful: Configure, web: Web, tmp_path: Path
) -> None:
    secret = Mounted(tmp_path / "mixed", **as_secret("good"))
    proxy = watchful(by_secret(web, "mixed"), secrets={"directory": str(tmp_path)})
    assert whom_it_shows(proxy, web) == "good"
    wrong_key = as_secret("other")["tls_key"]
    secret.swap(**{**as_secret("good"), "tls_key": wrong_key})
    eventually(lambda: proxy.metric("credentials_refused_total", identity="mixed") == 1, "it is refused")
    assert whom_it_shows(proxy, web) == "good"
    pem = wrong_key.decode().split("\n")[1]
    assert pem not in proxy.stderr + proxy.get("/metrics")[1] + proxy.get("/config")[1]


def test_an_authority_that_is_exchanged_holds_for_the_next_request(
    watchful: Configure, web: Web, tmp_path: Path
) -> None:
    """Connections that were made under the trust of before are not used any more."""
    secret = Mounted(tmp_path / "trust-cacert", **secret_of(ca=authority()))
    proxy = watchful(
        service(SITE, web.tls, {"mode": "simple", "credential": "trust"}), secrets={"directory": str(tmp_path)}
    )
    with Ends(proxy) as client:
        assert client.ask(request(f"http://{SITE}/")).status == 200
        secret.swap(**secret_of(ca=other_authority()))
        eventually(lambda: "trust is new" in proxy.stderr, "the authority is taken")
        reply = client.ask(request(f"http://{SITE}/"))
        assert (reply.status, reply.slug) == (503, "tls_unknown_ca")


def test_when_certificates_expire_is_counted_and_warned_of(watching: Proxy, watchful: Configure, web: Web) -> None:
    file = web.pair("soon")["certificate"]
    said = said_at_its_start(watching)
    assert re.search(rf"WARNING {file} expires on {SOON:%Y-%m-%d %H:%M:%S} UTC, in 3 days", said)
    assert f"{web.ca} expires" not in said
    proxy = watchful(*worth_a_warning(web))
    assert proxy.metric("certificate_expiry_timestamp_seconds", identity=file) == SOON.timestamp()
    assert proxy.metric("certificate_expiry_timestamp_seconds", identity=web.ca) > time.time() + 30 * 86400
    assert whom_it_shows(proxy, web, f"http://{BILLING}") == "soon"
