"""A target is split into where it goes and what is asked for there, or refused; not an octet of it is rewritten."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egressproxy.errors import MalformedTarget
from egressproxy.wire.request_target import HttpTarget, parse_http_target


@pytest.mark.parametrize(
    ("target", "authority", "path"),
    [
        ("/", None, "/"),
        ("/a/b?c=d&e", None, "/a/b?c=d&e"),
        ("//a.example/b", None, "//a.example/b"),  # a path, whatever it looks like (RFC 9112 section 3.2.1)
        ("/http://a.example/", None, "/http://a.example/"),
        ("/a|b\"{}^`[]\\<>%zz'", None, "/a|b\"{}^`[]\\<>%zz'"),  # none of it of RFC 3986, all of it sent
        ("/a@b:c", None, "/a@b:c"),
        ("http://a.example/", "a.example", "/"),
        ("http://a.example", "a.example", "/"),
        ("http://a.example?q", "a.example", "/?q"),
        ("http://a.example?", "a.example", "/?"),
        ("http://a.example/?", "a.example", "/?"),
        ("HTTP://A.Example:8080/B", "A.Example:8080", "/B"),
        ("http://[2001:db8::1]:80/x", "[2001:db8::1]:80", "/x"),
        ("http://a.example:/x", "a.example:", "/x"),  # what the authority means is for hostport to say
        ("http://a.example/b@c/http://d\\e", "a.example", "/b@c/http://d\\e"),
        ("http://a.example?b@c", "a.example", "/?b@c"),
        ("http://a.example//b/../c", "a.example", "//b/../c"),
    ],
)
def test_takes_a_target_apart(target, authority, path):
    assert parse_http_target("GET", target) == HttpTarget(authority, path)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("*", HttpTarget(None, "*")),
        ("http://a.example", HttpTarget("a.example", "*")),  # RFC 9112 section 3.2.4
        ("http://a.example:8001", HttpTarget("a.example:8001", "*")),
        ("http://a.example/", HttpTarget("a.example", "/")),
        ("http://a.example?q", HttpTarget("a.example", "/?q")),
        ("/", HttpTarget(None, "/")),
    ],
)
def test_options_may_ask_about_the_server_as_a_whole(target, expected):
    assert parse_http_target("OPTIONS", target) == expected


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("", "got neither"),
        ("*", "for OPTIONS only"),
        ("**", "got neither"),
        ("a.example:443", "got neither"),
        ("a.example/b", "got neither"),
        ("http:/a.example/", "got neither"),
        ("http:a.example", "got neither"),
        (":80", "got neither"),
        ("?a", "got neither"),
        ("\\\\a.example", "got neither"),
        ("https://a.example/", "use CONNECT for https"),
        ("HTTPS://a.example/", "use CONNECT for https"),
        ("ftp://a.example/", "the scheme 'ftp'"),
        ("ws://a.example/", "the scheme 'ws'"),
        ("httpx://a.example/", "the scheme 'httpx'"),
        ("http://", "expected a host"),
        ("http:///x", "expected a host"),
        ("http://?x", "expected a host"),
        ("http://:80/", "expected a host"),
        ("http://me@a.example/", "without user name"),
        ("http://me:pass@a.example/", "without user name"),
        ("http://a.example@/", "without user name"),
        ("http://a.example\\@b.example/", "without user name"),
        ("http://a.example\\b/", "an octet that neither has"),
        ("http://a.example|b/", "an octet that neither has"),
        ('http://a"b/', "an octet that neither has"),
        ("http://a<b/", "an octet that neither has"),
        ("http://a b/", "visible ASCII"),
        ("http://bücher.example/", "visible ASCII"),
        ("/a#b", "without a fragment"),
        ("/#", "without a fragment"),
        ("http://a.example#b", "without a fragment"),
        ("http://a.example/b#", "without a fragment"),
        ("http://a.example#@b.example/", "without a fragment"),
        ("/a b", "visible ASCII"),
        ("/a\r\nb", "visible ASCII"),
        ("/a\n", "visible ASCII"),
        ("/bücher", "visible ASCII"),
        ("http://a.example/\n", "visible ASCII"),
    ],
)
def test_refuses_and_says_why(target, message):
    with pytest.raises(MalformedTarget) as caught:
        parse_http_target("GET", target)
    assert message in str(caught.value)
    assert str(caught.value).isascii()
    assert str(caught.value).isprintable()


def test_no_message_shows_a_password():
    with pytest.raises(MalformedTarget) as caught:
        parse_http_target("GET", "http://me:secret@a.example/?token=secret")
    assert "secret" not in str(caught.value)


pieces = st.sampled_from(
    (*["http://"] * 4, "HTTP://", "https://", "a.example", "a", "80", ":", "/", "?", *"#@\\[]*%;&=. é")
)


@given(st.sampled_from(["GET", "OPTIONS", "POST"]), st.lists(pieces, max_size=8).map("".join))
def test_a_target_is_refused_or_split_without_loss(method: str, target: str):
    try:
        authority, path = parse_http_target(method, target)
    except MalformedTarget:
        return
    assert not set(target) & {"#", " ", "é"}
    if authority is None:
        assert path == target
    else:
        assert not set(authority) & set("/?#@\\ ")
        assert authority.strip(":")
        assert target[:7].lower() == "http://"
        added = "" if target.endswith(path) and len(target) == 7 + len(authority) + len(path) else path[0]
        assert target[7:] == authority + path.removeprefix(added)
