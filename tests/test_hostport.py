# ruff: noqa: RUF001 - the letters that look like others are what is tested

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egressproxy.errors import MalformedTarget
from egressproxy.hostport import (
    ANY_HOST,
    ANY_PORT,
    HostPattern,
    PortRange,
    canonical_host,
    parse_allow_entry,
    parse_authority,
    parse_host_pattern,
    parse_port_range,
    parse_question,
    plain_address,
)
from egressproxy.model import Target

LABEL = "a" * 63


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("example.com", "example.com"),
        ("EN.Wikipedia.ORG", "en.wikipedia.org"),
        ("example.com.", "example.com"),
        ("localhost", "localhost"),
        ("_dmarc.example.com", "_dmarc.example.com"),
        ("r3---sn-4g5e6nz7.googlevideo.com", "r3---sn-4g5e6nz7.googlevideo.com"),
        ("3com.com", "3com.com"),
        ("1.2.3.4.example", "1.2.3.4.example"),
        ("0xyz", "0xyz"),
        ("example.0x1g", "example.0x1g"),
        (f"{LABEL}.{LABEL}.{LABEL}.{'b' * 61}", f"{LABEL}.{LABEL}.{LABEL}.{'b' * 61}"),
        (f"{LABEL}.{LABEL}.{LABEL}.{'b' * 61}.", f"{LABEL}.{LABEL}.{LABEL}.{'b' * 61}"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("BÜCHER.example.", "xn--bcher-kva.example"),
        ("XN--BCHER-KVA.example", "xn--bcher-kva.example"),
        ("bücher。example", "xn--bcher-kva.example"),  # ideographic full stop
        ("faß.de", "xn--fa-hia.de"),  # non-transitional: not fass.de
        ("ｅｘａｍｐｌｅ.com", "example.com"),  # full-width letters
        ("\u212aelvin.example", "kelvin.example"),  # the Kelvin sign
        ("soft\u00adhyphen.example", "softhyphen.example"),
    ],
)
def test_a_name_has_one_spelling(text, host):
    assert canonical_host(text) == (host, False)


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("0.0.0.0", "0.0.0.0"),
        ("255.255.255.255", "255.255.255.255"),
        ("::1", "::1"),
        ("2001:DB8:0:0:0:0:0:1", "2001:db8::1"),
        ("2001:0db8::0001", "2001:db8::1"),
        ("::ffff:1.2.3.4", "::ffff:1.2.3.4"),
        ("::FFFF:102:304", "::ffff:1.2.3.4"),
        ("64:ff9b::1.2.3.4", "64:ff9b::102:304"),
    ],
)
def test_an_address_has_one_spelling(text, host):
    assert canonical_host(text) == (host, True)


ODD_ADDRESSES = [
    "2130706433",
    "0x7f000001",
    "0X7F000001",
    "0x7f.1",
    "0x",
    "0177.0.0.1",
    "127.1",
    "127.0.1",
    "127.0.0.01",
    "127.0.0.1.",
    "1.2.3.4.",
    "1.2.3.4.5",
    "256.1.1.1",
    "1.2.3.0x4",
    "example.0",
    "example.0x1",
    "example.123.",
    "fe80::1%eth0",
    "fe80::1%25eth0",
    "::1%",
    "１２７.0.0.1",
    "１２７．０．０．１",
    "127。0。0。1",
    "①27.0.0.1",
    "٣.example.٣",
    ":::",
    "1::2::3",
    "::1.2.3",
    "::01.2.3.4",
    "12345::",
    "[::1]",
    "1.2.3.4:80",
]


@pytest.mark.parametrize("text", ODD_ADDRESSES)
def test_an_odd_spelling_of_an_address_is_refused_and_never_a_name(text):
    with pytest.raises(MalformedTarget):
        canonical_host(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "..",
        ".example.com",
        "a..b",
        "example.com..",
        "exa mple.com",
        " example.com",
        "example.com\n",
        "example\0.com",
        "example\x7f.com",
        "ex%61mple.com",
        "user@example.com",
        "user:secret@example.com",
        "example.com/",
        "*.example.com",
        "-example.com",
        "example-.com",
        "a" * 64 + ".com",
        f"{LABEL}.{LABEL}.{LABEL}.{'b' * 62}",
        "a" * 100_000,
        "ü" * 100_000,
        "xn--zzzzzz.example",
        "xn--.example",
        "xn--example-.example",
        "xn--bcher-kvA\u00fc.example",
        "xn--a-0ga\u0301.example",
        "\u00ad",
        "a.\u00ad.b",
        "bücher.example..",
        "bücher.example\uff0f",
        "\ud800.example",
        "a\u202eb.example",
        "ü" * 63 + ".example",
    ],
)
def test_what_is_no_host_is_refused(text):
    with pytest.raises(MalformedTarget):
        canonical_host(text)


def test_a_refusal_shows_foreign_text_escaped_and_cut():
    with pytest.raises(MalformedTarget) as caught:
        canonical_host("evil\r\nSet-Cookie: ü" + "x" * 100)
    assert str(caught.value).isprintable()
    assert str(caught.value).isascii()
    assert len(str(caught.value)) < 200


@given(st.text(max_size=40) | st.from_regex(r"[0-9a-fx.:%\[\]-]{1,40}", fullmatch=True))
def test_any_text_gives_a_host_that_is_its_own_canonical_form_or_one_error(text):
    try:
        host, is_address = canonical_host(text)
    except MalformedTarget:
        return
    assert canonical_host(host) == (host, is_address)
    assert host.isascii()
    assert host == host.lower()


@given(st.from_regex(r"[a-z_]([a-z0-9_-]{0,10}[a-z_])?(\.[a-z]([a-z0-9-]{0,8}[a-z])?){0,4}", fullmatch=True), st.data())
def test_letter_case_and_one_trailing_dot_change_nothing(name, data):
    try:
        host = canonical_host(name)
    except MalformedTarget:  # a label that only looks like an A-label
        assert "xn--" in name
        return
    mixed = "".join(data.draw(st.sampled_from([letter, letter.upper()])) for letter in name)
    assert canonical_host(mixed) == canonical_host(name + ".") == canonical_host(mixed + ".") == host


# --- targets ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("example.com:443", Target("example.com", 443, False)),
        ("Example.COM.:8443", Target("example.com", 8443, False)),
        ("192.0.2.1:1", Target("192.0.2.1", 1, True)),
        ("[2001:DB8::1]:65535", Target("2001:db8::1", 65535, True)),
        ("[::ffff:7f00:1]:80", Target("::ffff:127.0.0.1", 80, True)),
    ],
)
def test_host_and_port_become_a_target(text, target):
    assert parse_authority(text) == target
    assert parse_authority(str(target)) == target


@pytest.mark.parametrize("text", ["example.com", "192.0.2.1", "[2001:db8::1]"])
def test_a_default_port_is_used_only_if_given(text):
    assert parse_authority(text, 80).port == 80
    with pytest.raises(MalformedTarget, match="without a port"):
        parse_authority(text)


@pytest.mark.parametrize(
    "port", ["", "0", "00443", "0443", "65536", "99999", "443443", "+443", "-1", " 443", "443 ", "4_4"]
)
@pytest.mark.parametrize("host", ["example.com", "[::1]"])
def test_a_port_is_plain_decimal_from_1_to_65535(host, port):
    with pytest.raises(MalformedTarget, match="port"):
        parse_authority(f"{host}:{port}", 443)


@pytest.mark.parametrize("port", ["0x1bb", "44３", "http", "443\n", "４４３", "443/", "1e3", "443#"])
def test_a_port_has_no_other_digits_or_letters(port):
    with pytest.raises(MalformedTarget):
        parse_authority(f"example.com:{port}")


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":443",
        "[]:443",
        "::1:443",
        "2001:db8::1",
        "[::1",
        "[::1]443",
        "[::1]x:443",
        "[[::1]]:443",
        "[1.2.3.4]:443",
        "[example.com]:443",
        "[fe80::1%eth0]:443",
        "[v1.x]:443",
        "user@example.com:443",
        "user:pass@example.com:443",
        "http://example.com:443",
        "example.com:443:443",
        "example.com:443/path",
        "127.1:443",
    ],
)
def test_what_is_not_one_host_and_one_port_is_refused(text):
    with pytest.raises(MalformedTarget):
        parse_authority(text)


# --- what a person asks about ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "target", "scheme", "path"),
    [
        ("Example.com:8443", "example.com:8443", None, None),
        ("[2001:db8::1]:443", "[2001:db8::1]:443", None, None),
        ("https://example.com", "example.com:443", "https", "/"),
        ("HTTPS://example.com:8443/a?b#c", "example.com:8443", "https", "/a"),
        ("http://example.com?b", "example.com:80", "http", "/"),
        ("http://user:word@example.com/a/../b%2f;c?d", "example.com:80", "http", "/a/../b%2f;c"),
        ("http://[::1]:8080/", "[::1]:8080", "http", "/"),
    ],
)
def test_a_question_is_host_and_port_or_a_url(text, target, scheme, path):
    question = parse_question(text)
    assert (str(question.target), question.scheme, question.path) == (target, scheme, path)


@pytest.mark.parametrize(
    "text",
    [
        "example.com",
        "ftp://example.com/",
        "http:///a",
        "http://",
        "http://a.example/a b",
        "http://a.example/\n",
        "http://é/é",
    ],
)
def test_a_question_about_nothing_is_refused(text):
    with pytest.raises(MalformedTarget):
        parse_question(text)


# --- patterns -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "pattern", "written"),
    [
        ("*", ANY_HOST, "*"),
        ("API.Example.com.", HostPattern("exact", "api.example.com"), "api.example.com"),
        ("*.Example.COM.", HostPattern("suffix", "example.com"), "*.example.com"),
        ("*.bücher.example", HostPattern("suffix", "xn--bcher-kva.example"), "*.xn--bcher-kva.example"),
        ("*.com", HostPattern("suffix", "com"), "*.com"),
        ("192.0.2.1", HostPattern("exact", "192.0.2.1"), "192.0.2.1"),
        ("2001:DB8::1", HostPattern("exact", "2001:db8::1"), "2001:db8::1"),
        ("[2001:DB8::1]", HostPattern("exact", "2001:db8::1"), "2001:db8::1"),
    ],
)
def test_a_pattern_is_canonical_as_hosts_are(text, pattern, written):
    assert parse_host_pattern(text) == pattern
    assert str(pattern) == written
    assert parse_host_pattern(written) == pattern


@pytest.mark.parametrize(
    ("text", "is_address"),
    [("192.0.2.1", True), ("::1", True), ("a.b1", False), ("1.2.3.4.x", False), ("*.a", False), ("*", False)],
)
def test_a_pattern_knows_whether_it_is_an_address(text, is_address):
    assert parse_host_pattern(text).is_address is is_address


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("10.0.0.0/8", "clients .* guard.allow"),
        ("2001:db8::/32", "clients .* guard.allow"),
        ("https://example.com", "URL"),
        ("https://example.com/x", "URL"),
        ("*example.com", "first label"),
        ("www.*.com", "first label"),
        ("*.*.com", "first label"),
        ("example.*", "first label"),
        ("**", "first label"),
        ("*.", "first label"),
        (".example.com", "without its first dot"),
        ("example.com:443", "ports belong in ports"),
        ("*.192.0.2.1", "nothing below"),
        ("*.::1", "nothing below"),
        ("[example.com]", "brackets"),
        ("[192.0.2.1]", "brackets"),
        ("127.1", "ends in a number"),
        ("*.127", "first label|ends in a number"),
        ("", "host name"),
        ("exa mple", "host name"),
    ],
)
def test_a_wrong_pattern_is_a_value_error_that_helps(text, message):
    with pytest.raises(ValueError, match=message):
        parse_host_pattern(text)


@pytest.mark.parametrize(
    ("value", "ports", "written"),
    [
        (443, (443, 443), "443"),
        ("443", (443, 443), "443"),
        ("8000-8100", (8000, 8100), "8000-8100"),
        ("1-65535", (1, 65535), "1-65535"),
    ],
)
def test_a_port_or_a_range(value, ports, written):
    assert parse_port_range(value) == PortRange(*ports)
    assert str(PortRange(*ports)) == written


@pytest.mark.parametrize(
    "value", [0, -1, 65536, True, 4.5, None, "", "0", "0443", "+1", "1-", "-1", "9-8", "1-65536", "1 - 2", "http", "*"]
)
def test_a_wrong_port_is_a_value_error(value):
    with pytest.raises(ValueError, match="port"):
        parse_port_range(value)


@pytest.mark.parametrize(
    ("text", "pattern", "ports"),
    [
        ("api.github.com:443", "api.github.com", (443, 443)),
        ("api.github.com", "api.github.com", (443, 443)),
        ("*.Wikipedia.org:443", "*.wikipedia.org", (443, 443)),
        ("[::1]:8443", "::1", (8443, 8443)),
        ("[::1]", "::1", (443, 443)),
        ("192.0.2.1:22", "192.0.2.1", (22, 22)),
        ("example.com:8000-8100", "example.com", (8000, 8100)),
        ("example.com:*", "example.com", ANY_PORT),
        ("*:443", "*", (443, 443)),
        ("*:*", "*", ANY_PORT),
    ],
)
def test_an_allow_entry_is_a_pattern_and_ports(text, pattern, ports):
    assert parse_allow_entry(text) == (parse_host_pattern(pattern), PortRange(*ports))


@pytest.mark.parametrize(
    "text",
    ["", ":443", "a:0", "a:", "a:b", "::1:443", "::1", "[a]:443", "10.0.0.0/8:443", "https://a:443", "a:1:2", "a:9-1"],
)
def test_a_wrong_allow_entry_is_a_value_error(text):
    with pytest.raises(ValueError, match="expected"):
        parse_allow_entry(text)


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("::ffff:0:1", "::ffff:0:1"),  # no mapped address: the kernel would write that one with dots
        ("::", "::"),
    ],
)
def test_addresses_are_shown_in_their_plain_form(text, plain):
    assert plain_address(text) == plain
