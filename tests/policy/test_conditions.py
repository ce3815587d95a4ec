"""Conditions beyond the usual ones, each both ways, and what doubt comes to."""

import time

import pytest

from egressproxy.config.schema.config import Config
from egressproxy.hostport import parse_authority
from egressproxy.model import Intent
from egressproxy.policy.policy import Policy
from egressproxy.wire.request import Request
from egressproxy.wire.request_fields import request_fields
from egressproxy.wire.request_head import HeadLimits, parse_request_head

MONDAY_NOON = time.struct_time((2026, 3, 2, 12, 0, 0, 0, 61, 0))
LISTENERS = [
    {"protocol": "http-proxy", "port": 3128, "name": "one"},
    {"protocol": "http-proxy", "port": 3129, "name": "two"},
]


def policy(*rules, now=MONDAY_NOON, **settings):
    config = Config.model_validate({"listeners": LISTENERS, "rules": rules, **settings})
    return Policy.from_config(config, lambda address, port: False, lambda: now)


def tunnel(target="www.example.com:443", client="10.1.2.3", listener="one"):
    return Intent(client, listener, "CONNECT", parse_authority(target))


def get(url="http://www.example.com/a?b=c", client="10.1.2.3", listener="one", method="GET"):
    authority, _, rest = url.removeprefix("http://").partition("/")
    path = "/" + rest
    head = parse_request_head(
        f"{method} {url} HTTP/1.1\r\nHost: {authority}\r\n\r\n".encode(), HeadLimits(16384, 100, 8192)
    )
    assert head is not None
    request = Request(method, path, authority, "1.1", request_fields(head))
    target = parse_authority(authority, 80)
    return Intent(client, listener, method, target, path=path.partition("?")[0], request=request)


def holds(condition, intent, now=MONDAY_NOON, addresses=None):
    """Whether it does in an allow rule; None where it cannot be said."""
    verdict = policy({"action": "allow", **condition}, now=now).decide(intent, addresses)
    return None if verdict.needs_addresses else verdict.allowed


def refuses(condition, intent, addresses=None):
    """Whether it holds in a deny rule."""
    verdict = policy({"action": "deny", "name": "no", **condition}, outbound="allow_any").decide(intent, addresses)
    return None if verdict.needs_addresses else not verdict.allowed


HOLD = [
    ({"hosts_matching": ["^www[.]"]}, tunnel(), True),
    ({"hosts_matching": ["^example"]}, tunnel(), False),
    ({"hosts_matching": ["x", "com$"]}, tunnel(), True),
    ({"paths_matching": ["^/a[?]b"]}, get(), True),
    ({"paths_matching": ["^/b"]}, get(), False),
    ({"paths_matching": ["."]}, tunnel(), False),
    ({"urls_matching": ["^http://www.example.com/a"]}, get(), True),
    ({"urls_matching": [":8080/"]}, get("http://www.example.com:8080/"), True),
    ({"urls_matching": [":80/"]}, get("http://www.example.com:80/"), False),
    ({"urls_matching": ["^www.example.com:443$"]}, tunnel(), True),
    ({"urls_matching": ["\\[2001:db8::1\\]/"]}, get("http://[2001:db8::1]/"), True),
    ({"listeners": ["two"]}, tunnel(), False),
    ({"listeners": ["two"]}, tunnel(listener="two"), True),
    ({"listener_ports": ["3000-3128"]}, tunnel(), True),
    ({"listener_ports": ["3000-3128"]}, tunnel(listener="two"), False),
    ({"listener_ports": [9]}, tunnel(), False),
    ({"all": [{"ports": [443]}, {"hosts": ["*.example.com"]}]}, tunnel(), True),
    ({"all": [{"ports": [443]}, {"hosts": ["*.example.org"]}]}, tunnel(), False),
    ({"any": [{"ports": [80]}, {"methods": ["CONNECT"]}]}, tunnel(), True),
    ({"any": [{"ports": [80]}, {"methods": ["GET"]}]}, tunnel(), False),
    ({"none": [{"ports": [80]}]}, tunnel(), True),
    ({"none": [{"ports": [80]}, {"ports": [443]}]}, tunnel(), False),
    ({"none": [{"clients": ["10.0.0.0/8"], "hosts": ["other.example"]}]}, tunnel(), True),
    ({"none": [{"clients": ["10.0.0.0/8"], "hosts": ["*"]}]}, tunnel(), False),
    ({"all": [{"hosts": ["www.example.com"]}]}, tunnel(), True),
    ({"all": [{"hosts": ["*.com"]}]}, tunnel(), True),
    ({"all": [{"hosts": ["*.www.example.com"]}]}, tunnel(), False),
    ({"all": [{"paths": ["/a"]}]}, get(), True),
    ({"all": [{"paths": ["/b"]}]}, get(), False),
    ({"none": [{"any": [{"ports": [443]}]}]}, tunnel(), False),
    ({"hosts": ["www.example.com"], "none": [{"methods": ["GET"]}]}, get(), False),
]


@pytest.mark.parametrize(("condition", "intent", "expected"), HOLD)
def test_a_condition_holds_or_does_not(condition, intent, expected):
    assert holds(condition, intent) is expected
    assert refuses(condition, intent) is expected


@pytest.mark.parametrize(
    ("expression", "path"),
    [
        ("<script", "/%3Cscript"),
        ("a b", "/a%20b"),
        ("[|]", "/a%7cb"),
        ("x\\[0", "/x%5B0"),
        ("\u00c3\u00a9", "/caf%C3%A9"),  # byte by byte
        ("\u00e9", "/caf%C3%A9"),
        ("[\u65e5\u672c]$", "/%E6%97%A5%E6%9C%AC"),
        ("\u65e5", "/%E6%97%A5/%FF"),  # the rest may be no UTF-8
    ],
)
def test_what_is_encoded_in_a_path_is_found_as_the_server_reads_it(expression, path):
    about = get(f"http://www.example.com{path}")
    assert refuses({"paths_matching": [expression]}, about)
    assert refuses({"urls_matching": [expression]}, about)
    assert holds({"none": [{"paths_matching": [expression]}]}, about) is False
    assert not holds({"paths_matching": ["^/[a-z0-9A-Z%]+$"]}, about)  # the server gets other characters


@pytest.mark.parametrize("method", ["POST", "post", "Post"])
def test_a_method_that_is_refused_is_refused_in_any_letters(method):
    about = get(method=method)
    assert refuses({"methods": ["POST"]}, about)
    assert refuses({"any": [{"methods": ["POST"]}]}, about)
    assert not holds({"none": [{"methods": ["POST"]}]}, about)
    assert holds({"methods": ["POST"]}, about) is (method == "POST")
    assert holds({"all": [{"methods": ["POST"]}]}, about) is (method == "POST")
    both = ({"action": "allow", "methods": ["POST"]}, {"action": "deny", "methods": ["POST"]}, {"action": "allow"})
    assert policy(*both).decide(about).allowed is (method == "POST")


@pytest.mark.parametrize(
    ("span", "now", "expected"),
    [
        ({}, MONDAY_NOON, True),
        ({"days": ["monday"]}, MONDAY_NOON, True),
        ({"days": ["tuesday", "sunday"]}, MONDAY_NOON, False),
        ({"start": "12:00"}, MONDAY_NOON, True),
        ({"start": "12:01"}, MONDAY_NOON, False),
        ({"end": "12:00"}, MONDAY_NOON, True),
        ({"end": "11:59"}, MONDAY_NOON, False),
        ({"start": "23:59"}, time.struct_time((2026, 3, 2, 23, 59, 59, 0, 61, 0)), True),
    ],
)
def test_times(span, now, expected):
    assert holds({"times": [span]}, tunnel(), now) is expected


ADDRESSES = {"addresses": ["10.0.0.0/8"]}


@pytest.mark.parametrize(
    ("addresses", "let_pass", "refused"),
    [
        (("10.1.1.1",), True, True),
        (("10.1.1.1", "192.0.2.1"), False, True),
        (("192.0.2.1",), False, False),
        (("::ffff:10.1.1.1",), True, True),
        (("64:ff9b::a00:1",), False, True),  # NAT64 of 10.0.0.1: where it leads to
        ((), False, False),
        (None, None, None),
    ],
)
def test_of_the_addresses_all_must_lie_there_to_pass_and_one_to_be_refused(addresses, let_pass, refused):
    assert holds(ADDRESSES, tunnel(), addresses=addresses) is let_pass
    assert refuses(ADDRESSES, tunnel(), addresses) is refused


@pytest.mark.parametrize(
    "disguise", ["::ffff:c633:6403", "64:ff9b::c633:6403", "64:ff9b:1::c633:6403", "64:ff9b:1:c633:64:300::"]
)
def test_an_address_is_refused_for_what_it_embeds_or_perhaps_embeds(disguise):
    networks = {"addresses": ["198.51.100.0/24"]}
    for about, addresses in ((tunnel(f"[{disguise}]:443"), None), (tunnel(), [disguise])):
        assert refuses(networks, about, addresses=addresses)
        assert not refuses({"addresses": ["198.51.101.0/24"]}, about, addresses=addresses)


def test_an_address_that_is_asked_for_needs_no_look_up():
    assert holds(ADDRESSES, tunnel("10.9.9.9:443"))
    assert not holds(ADDRESSES, tunnel("192.0.2.9:443"))


def test_inside_none_doubt_counts_the_other_way():
    nowhere_near = {"none": [ADDRESSES]}
    assert holds(nowhere_near, tunnel(), addresses=("10.1.1.1", "192.0.2.1")) is False
    assert holds(nowhere_near, tunnel(), addresses=("192.0.2.1",)) is True
    assert refuses(nowhere_near, tunnel(), ("10.1.1.1", "192.0.2.1")) is True
    assert refuses(nowhere_near, tunnel(), ("10.1.1.1",)) is False
    assert holds(nowhere_near, tunnel()) is None


def test_what_is_known_makes_a_look_up_needless():
    assert holds({**ADDRESSES, "ports": [80]}, tunnel()) is False
    assert holds({**ADDRESSES, "listeners": ["two"]}, tunnel()) is False
    assert holds({"any": [ADDRESSES, {"ports": [443]}]}, tunnel()) is True
    assert holds({"all": [ADDRESSES, {"ports": [80]}]}, tunnel()) is False


def test_a_name_that_an_earlier_rule_refuses_is_not_looked_up():
    rules = {"action": "deny", "hosts": ["www.example.com"]}, {"action": "allow", **ADDRESSES}
    assert not policy(*rules).decide(tunnel()).needs_addresses
    assert policy(*rules).decide(tunnel("other.example:443")).needs_addresses


@pytest.mark.parametrize("written", ["/%61dmin", "/x/..%2fadmin", "//admin", "/./admin"])
def test_a_path_that_may_be_read_as_another_is_refused_for_it_and_not_let_pass(written):
    about = get(f"http://www.example.com{written}")
    assert refuses({"paths_matching": ["^/admin"]}, about)
    assert not holds({"none": [{"paths_matching": ["^/admin"]}]}, about)
    assert not holds({"paths_matching": ["^/x"]}, about)


@pytest.mark.parametrize(
    "unreadable", ["/public/../admin/;%C0%AE", "/public/..%2fadmin/x%C0%AE", "/public/../admin/;a//;b//%2f;c%252f/x"]
)
def test_a_path_that_is_unreadable_is_refused_for_any_and_let_pass_by_none(unreadable):
    about = get(f"http://www.example.com{unreadable}")
    for condition in ({"paths_matching": ["^/public/"]}, {"urls_matching": ["^http://[^/]+/public/"]}):
        assert not holds(condition, about)
        assert refuses(condition, about)
        assert not holds({"none": [condition]}, about)


@pytest.mark.parametrize("key", ["paths_matching", "urls_matching"])
def test_a_line_end_in_a_query_hides_nothing_behind_it(key):
    about = get("http://www.example.com/search?%0a%65vil")
    assert refuses({key: ["search[?].*evil"]}, about)
    assert not holds({"none": [{key: ["search[?].*evil"]}]}, about)


def test_hexadecimal_digits_are_the_same_in_either_case():
    for written in ("/caf%c3%a9/x", "/caf%C3%A9/x"):
        about = get(f"http://www.example.com{written}")
        for expression in ("^/caf%c3%a9/", "^/caf%C3%A9/"):
            assert refuses({"bare_paths_matching": [expression]}, about)
            assert holds({"bare_paths_matching": [expression]}, about)


def test_a_path_is_refused_as_it_was_sent_too():
    assert refuses({"bare_paths_matching": [r"^/q\["]}, get("http://www.example.com/q[1"))


def test_a_query_is_looked_at_as_it_was_sent_and_decoded():
    about = get("http://www.example.com/s?q=%61ds")
    assert refuses({"paths_matching": ["ads"]}, about)
    assert refuses({"urls_matching": ["q=%61"]}, about)
    assert not holds({"paths_matching": ["ads"]}, about)
    assert holds({"paths_matching": ["q="]}, about)


def test_a_bare_path_has_no_query_and_is_read_as_paths_are():
    ends = {"bare_paths_matching": ["[.]png$"]}
    assert holds(ends, get("http://www.example.com/x.png?size=1"))
    assert not refuses(ends, get("http://www.example.com/x.txt?a=.png"))
    begins = {"bare_paths_matching": ["^/admin"]}
    assert holds(begins, get("http://www.example.com/x/../%61dmin"))
    for unclear in ("//admin", "/x/..%2fadmin", "/%c0%af"):
        about = get(f"http://www.example.com{unclear}")
        assert refuses(begins, about), unclear
        assert not holds(begins, about), unclear
    assert not refuses(begins, tunnel())


def test_a_route_that_refuses_takes_a_path_in_any_of_its_readings():
    judge = policy(routes=[{"hosts": ["www.example.com"], "paths": ["/admin/*"], "refuse": "not_found"}])
    for path in ("/admin/x", "//admin/x", "/x/..%2fadmin/x", "/%c0%af"):
        assert judge.decide(get(f"http://www.example.com{path}")).refusal == "not_found", path
    assert judge.decide(get("http://www.example.com/x")).refusal is None


def test_why_not_says_which_condition():
    judge = policy(
        {"action": "allow", "name": "far", "hosts": ["www.example.com"], "listeners": ["two"]},
        {"action": "allow", "name": "none", "hosts": ["www.example.com"], "none": [{"ports": [443]}]},
        {
            "action": "allow",
            "name": "any",
            "hosts": ["www.example.com"],
            "any": [{"ports": [80]}, {"methods": ["GET"]}],
        },
        {"action": "allow", "name": "regex", "hosts": ["www.example.com"], "hosts_matching": ["cdn"]},
    )
    near = {miss.rule: miss.failed for miss in judge.explain(tunnel()).near}
    assert near == {
        "far": ("the listener is another than that of one",),
        "none": ("none[0] holds: port 443",),
        "any": ("none of any: port 443 is not among 80; method CONNECT is not among GET",),
        "regex": ("none of its expressions is found in the host www.example.com",),
    }
