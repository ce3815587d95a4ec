"""The same requests to Squid and to this proxy, with the same squid.conf: replies, who was connected to, and log lines.

What is different is in one table, `KNOWN`, with its reason; a difference that is not there fails, and so does one that is there
and was not found.
"""

from __future__ import annotations

import tempfile
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
from support.certificates import authority
from support.clients import Done, installed
from support.hellos import hello, record, server_name
from support.namespaces import need_namespaces
from support.origin import NAME, TITLE
from support.squid import CLOSED, OTHER, WEB, Line, Ours, RealSquid, Reply, Running, Site

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
PUBLISHED = ROOT / "../shared/istio/external-https-proxy/proxy.conf"
OWN = ROOT / "config/squid/proxy.conf"

# Each ACL type that Debian's Squid knows, alone in a rule that refuses, and some that let pass what is refused behind them.
EACH_TYPE = """\
http_port 127.0.0.1:3128
http_port 127.0.0.1:3129 name=second
http_port 127.0.0.1:3130

acl from_there src 127.0.0.64-127.0.0.79
acl to_there dst 198.51.100.64/28
acl to_address dst -n 198.51.100.1
acl names dstdomain .denied.test
acl apex dstdomain denied.test
acl ads dstdom_regex -i ^ADS[0-9]+[.]
acl high port 8081-8090
acl changes method DELETE PATCH
acl third localport 3130
acl at_second myportname second
acl plain proto HTTP
acl always time SMTWHFA 00:00-24:00
acl hours_host dstdomain hours.site.test
acl programs urlpath_regex -i [.](exe|msi)$
acl secret url_regex ^http://www[.]site[.]test/secret
acl tunnels_by_url url_regex ^www[.]site[.]test:443$
acl head method HEAD
acl either any-of head changes
acl both all-of head secret

http_access allow both
http_access deny from_there
http_access deny to_there
http_access deny to_address
http_access deny CONNECT names
http_access deny names !apex
http_access deny ads
http_access deny high
http_access deny either
http_access deny third
http_access deny at_second plain
http_access deny hours_host always
http_access deny programs
http_access deny secret
http_access deny tunnels_by_url
http_access deny to_localhost
http_access allow manager localhost
http_access deny manager
http_access allow localhost
"""


def client_hello(name: str) -> bytes:
    return record(hello(server_name(name)))


class Case(NamedTuple):
    """One request: what is sent, to which port and from where, and what goes into the tunnel."""

    request: bytes
    port: int = 3128
    source: str | None = None
    inside: bytes = b""


class Seen(NamedTuple):
    """What came of it."""

    reply: Reply
    line: Line


def get(url: str, method: str = "GET", **more: object) -> Case:
    host = url.split("/")[2]
    return Case(f"{method} {url} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode(), **more)  # type: ignore[arg-type]


def connect(target: str, inside: bytes = b"ping", **more: object) -> Case:
    return Case(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode(), inside=inside, **more)  # type: ignore[arg-type]


PROXY_CONF = {
    "a page": get("http://www.site.test/page?q=1"),
    "a page by its address": get(f"http://{WEB}/page"),
    "HEAD": get("http://www.site.test/page", "HEAD"),
    "a name that does not exist": get("http://nowhere.test/"),
    "nobody there": get("http://www.site.test:81/"),
    "CONNECT elsewhere than 443": connect("echo.site.test:8443"),
    "CONNECT to 22": connect("echo.site.test:22"),
    "CONNECT with TLS for its name": connect("echo.site.test:443", client_hello("echo.site.test")),
    "CONNECT to an address": connect(f"{OTHER}:443", client_hello("echo.site.test")),
    "CONNECT without TLS": connect("echo.site.test:443"),
    "CONNECT with TLS for another name": connect("echo.site.test:443", client_hello("www.site.test")),
    "CONNECT to a name that does not exist": connect("nowhere.test:443"),
    "CONNECT where nobody listens": connect("closed.site.test:443"),
    "a manager page": Case(
        b"GET /squid-internal-mgr/menu HTTP/1.1\r\nHost: localhost:3128\r\nConnection: close\r\n\r\n"
    ),
    "a manager page from elsewhere": get("http://127.0.0.1:3128/squid-internal-mgr/menu", source="127.0.0.9"),
    "a manager page by the proxy's name": get("http://proxy.test:3128/squid-internal-mgr/menu"),
    "not HTTP": Case(b"\x16\x03\x01 no request\r\n\r\n"),
}

TYPES = {
    "src": get("http://www.site.test/", source="127.0.0.70"),
    "src, outside the range": get("http://www.site.test/", source="127.0.0.1"),
    "dst by name": get("http://closed.site.test/"),
    "dst by address": get(f"http://{CLOSED}/"),
    "dst -n by address": get(f"http://{WEB}/"),
    "dst -n by name": get("http://www.site.test/"),
    "to_localhost": get("http://local.site.test/"),
    "dstdomain, apex": connect("denied.test:443"),
    "dstdomain, below": get("http://below.denied.test/"),
    "dstdomain, exact": get("http://denied.test/"),
    "dstdom_regex": get("http://ads12.site.test/"),
    "dstdom_regex, in capitals": get("http://ADS12.site.test/"),
    "port": connect("echo.site.test:8085"),
    "port, another": connect("echo.site.test:8443"),
    "method": get("http://www.site.test/", "DELETE"),
    "method in any-of": get("http://www.site.test/", "HEAD"),
    "all-of": get("http://www.site.test/secret", "HEAD"),
    "localport": get("http://www.site.test/", port=3130),
    "myportname and proto": get("http://www.site.test/", port=3129),
    "myportname, proto of a tunnel": connect("echo.site.test:8443", port=3129),
    "time": get("http://hours.site.test/"),
    "urlpath_regex": get("http://www.site.test/a/setup.EXE"),
    "urlpath_regex, encoded": get("http://www.site.test/a/setup%2Eexe"),
    "urlpath_regex, not at the end": get("http://www.site.test/a.exe/b"),
    "url_regex": get("http://www.site.test/secret?x"),
    "url_regex, encoded": get("http://www.site.test/secre%74"),
    "url_regex of a tunnel": connect("www.site.test:443"),
    "the opposite of the last line": get("http://www.site.test/", source="127.0.0.9"),
}

_OWN_PAGES = "manager pages are this proxy's own, and known by its path, localhost and 127.0.0.1 alone"
_SNI = "inside a tunnel to port 443 must be TLS for the host that it was granted for; sni_check: off passes all"
_FAILED = "Squid 5 has NONE_NONE for a tunnel that did not come about, Squid 6 TCP_TUNNEL"
_UNKNOWN = "Squid has 502 (a tunnel: 500) for a name that does not exist; here it is 503 for both"

KNOWN: dict[str, dict[str, str]] = {
    "CONNECT without TLS": {"body": _SNI, "size": _SNI},
    "CONNECT with TLS for another name": {"body": _SNI, "size": _SNI},
    "a name that does not exist": {"status": _UNKNOWN, "logged status": _UNKNOWN},
    "CONNECT to a name that does not exist": {"status": _UNKNOWN, "logged status": _UNKNOWN, "code": _FAILED},
    "CONNECT where nobody listens": {"code": _FAILED},
    "a manager page": {"body": _OWN_PAGES, "url": "Squid writes its own name there, we localhost"},
    "a manager page by the proxy's name": dict.fromkeys(("body", "status", "logged status", "type"), _OWN_PAGES),
}
"""Differences, by case and field, and why. Besides, the sizes of plain requests are not compared: both write header fields of
their own, and error pages, into what they count."""


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    need_namespaces("squid")
    with tempfile.TemporaryDirectory() as folder, Site(Path(folder)) as made:
        yield made


def outcomes(
    site: Site, kind: type[Running], conf: str, cases: dict[str, Case], ports: tuple[int, ...]
) -> dict[str, Seen]:
    """What each case comes to with one of the two."""
    found = {}
    with kind(site, conf, ports) as proxy:
        for count, (name, case) in enumerate(cases.items(), 1):
            reply = site.ask(case.request, port=case.port, source=case.source, inside=case.inside)
            found[name] = Seen(reply, proxy.line(count))
    return found


def fields(seen: Seen) -> dict[str, object]:
    """What is compared of an outcome."""
    reply, line = seen
    found = line._asdict()
    found["logged status"] = found.pop("status")
    if line.code != "TCP_TUNNEL" or line.status != "200":
        del found["size"]
    return found | {
        "status": reply.status,
        "contacts": reply.contacts,
        "body": reply.body if reply.status == 200 else None,  # or it is an error page
    }


def differences(theirs: dict[str, Seen], ours: dict[str, Seen]) -> dict[str, dict[str, tuple[object, object]]]:
    """By case and field: what Squid says, and what we do."""
    found = {}
    for name in theirs:
        one, other = fields(theirs[name]), fields(ours[name])
        unlike = {
            key: (one.get(key), other.get(key)) for key in one.keys() | other.keys() if one.get(key) != other.get(key)
        }
        if unlike:
            found[name] = unlike
    return found


def text_of(conf: Path | str) -> str:
    """As a test starts with it: a file is included, unchanged."""
    if isinstance(conf, str):
        return conf
    if not conf.exists():
        pytest.skip("the published files are not beside this checkout")
    return f"include {conf.resolve()}\n"


@pytest.mark.parametrize(
    ("conf", "cases", "ports"),
    [(PUBLISHED, PROXY_CONF, (3128,)), (OWN, PROXY_CONF, (3128,)), (EACH_TYPE, TYPES, (3128, 3129, 3130))],
    ids=["published", "own", "each type"],
)
def test_replies_contacts_and_log_lines_are_squids(
    site: Site, conf: Path | str, cases: dict[str, Case], ports: tuple[int, ...]
) -> None:
    theirs, ours = (outcomes(site, kind, text_of(conf), cases, ports) for kind in (RealSquid, Ours))
    found = differences(theirs, ours)
    unknown = {
        name: {key: pair for key, pair in unlike.items() if key not in KNOWN.get(name, {})}
        for name, unlike in found.items()
    }
    assert {name: unlike for name, unlike in unknown.items() if unlike} == {}
    if RealSquid.version().startswith("5."):  # of which the table tells
        stale = [
            (name, key)
            for name in KNOWN.keys() & cases.keys()
            for key in KNOWN[name].keys() - found.get(name, {}).keys()
        ]
        assert stale == []


LOOKED_BACK = """\
http_port 127.0.0.1:3128
acl denied dstdomain denied.test
acl ads dstdom_regex ^ads
http_access deny denied
http_access deny ads
http_access allow all
"""
BY_ADDRESS = {
    "of a name that is refused": get(f"http://{WEB}/"),
    "of a name that an expression refuses": get(f"http://{OTHER}:80/"),
    "of no name that is refused": get(f"http://{CLOSED}/"),
}


def test_the_address_of_a_refused_name_is_refused_without_asking_for_its_name(site: Site) -> None:
    """Squid looks it up backwards. Here no address passes a line that refuses by name."""
    for address, name in ((WEB, "denied.test"), (OTHER, "ads1.test"), (CLOSED, "other.test")):
        site.dns.add(ip_address(address).reverse_pointer, "PTR", name)
    theirs, ours = (outcomes(site, kind, LOOKED_BACK, BY_ADDRESS, (3128,)) for kind in (RealSquid, Ours))
    assert [seen.reply.status for seen in theirs.values()] == [403, 403, 200]
    assert {seen.reply.status for seen in ours.values()} == {403}


def test_the_cases_meet_both_answers(site: Site) -> None:
    ours = outcomes(site, Ours, EACH_TYPE, TYPES, (3128, 3129, 3130))
    assert {seen.reply.status for seen in ours.values()} == {200, 403}


def test_curl_has_the_same_with_both(site: Site, tmp_path: Path) -> None:
    installed("curl")
    ca = tmp_path / "ca.pem"
    authority().cert_pem.write_to_path(str(ca))

    def curl(*words: str) -> Done:
        options = ("-sS", "--max-time", "10", "-x", "http://127.0.0.1:3128", "--noproxy", "", "--cacert", str(ca))
        told = ("-o", "-", "-w", "%{http_code} %{http_connect}")
        return site.host.run("curl", *options, *told, *words, folder=tmp_path, code=None)

    seen = []
    for kind in (RealSquid, Ours):
        with kind(site, text_of(OWN)):
            asked = (
                f"https://{NAME}/",
                "http://www.site.test/page",
                f"https://{NAME}:8443/",
                "https://echo.site.test:22/",
            )
            done = [curl(url) for url in asked]
            seen.append([(each.code, each.out if each.code == 0 else each.out[-7:]) for each in done])
    squid, own = seen
    assert squid == own
    assert [code for code, _ in own] == [0, 0, 56, 56]
    assert TITLE in own[0][1]


BARE_PORT = """\
http_port 3128
http_port 3129 ipv4
acl four src 127.0.0.1
acl six src ::1
http_access deny CONNECT six
http_access deny !CONNECT four
http_access allow localhost
http_access deny all
"""


def test_a_port_without_an_address_takes_both_families_as_with_squid(site: Site, tmp_path: Path) -> None:
    installed("curl")

    def curl(proxy: str, *words: str) -> str:
        options = ("-sS", "-k", "--max-time", "10", "-o", "/dev/null", "-w", "%{http_code} %{http_connect}")
        done = site.host.run("curl", *options, "-x", proxy, "--noproxy", "", *words, folder=tmp_path, code=None)
        return f"{done.code}: {done.out}"

    seen = []
    for kind in (RealSquid, Ours):
        with kind(site, BARE_PORT, (3128, 3129)) as proxy:
            got = [
                curl(f"http://{address}:{port}", url)
                for port in (3128, 3129)
                for address in ("127.0.0.1", "[::1]")
                for url in (f"https://{NAME}/", "http://www.site.test/page")
            ]
            proxy.line(6)
            seen.append((got, proxy.clients))
    squid, own = seen
    assert squid == own
    assert own[1] == ["127.0.0.1", "127.0.0.1", "::1", "::1", "127.0.0.1", "127.0.0.1"]
    assert own[0][:4] == ["0: 200 200", "0: 403 000", "56: 000 403", "0: 200 000"]
