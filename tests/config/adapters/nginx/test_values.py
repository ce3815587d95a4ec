"""Single words of NGINX's directives."""

from __future__ import annotations

import pytest

from egressproxy.config.adapters.nginx.values import Network, Place, network, place, seconds, size_bytes, switch


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("30", 30),
        ("30s", 30),
        ("10m", 600),
        ("1h30m", 5400),
        ("1h 30m", 5400),
        ("1d", 86400),
        ("1w", 604_800),
        ("1M", 2_592_000),
        ("1y", 31_536_000),
        ("500ms", 0.5),
        ("1s500ms", 1.5),
        ("2000ms", 2),
        ("1m5", 65),
        ("0", 0),
    ],
)
def test_times(text, value):
    assert seconds(text) == value


@pytest.mark.parametrize("text", ["", "1.5s", "30m1h", "s", "-1", "1x", "1s1s", "१s", "1" * 20])
def test_what_is_no_time(text):
    with pytest.raises(ValueError, match="expected a time like 30s or 1h30m"):
        seconds(text)


@pytest.mark.parametrize(("text", "value"), [("16384", 16384), ("16k", 16384), ("1M", 1_048_576), ("0", 0)])
def test_sizes(text, value):
    assert size_bytes(text) == value


@pytest.mark.parametrize("text", ["", "k", "1g", "1.5k", "-1"])
def test_what_is_no_size(text):
    with pytest.raises(ValueError, match="expected a size like 16k"):
        size_bytes(text)


def test_switches():
    assert [switch(word) for word in ("on", "off", "ON", "Off")] == [True, False, True, False]
    with pytest.raises(ValueError, match="expected on or off, got 'yes'"):
        switch("yes")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("10.0.0.0/8", Network("10.0.0.0/8", False)),
        ("10.1.1.1/8", Network("10.0.0.0/8", True)),
        ("192.0.2.1", Network("192.0.2.1/32", False)),
        ("2001:DB8::/32", Network("2001:db8::/32", False)),
        ("::1", Network("::1/128", False)),
    ],
)
def test_networks(text, found):
    assert network(text) == found


@pytest.mark.parametrize("text", ["localhost", "10.0.0", "10.0.0.0/33", "fe80::1%eth0", "", "al"])
def test_what_is_no_network(text):
    with pytest.raises(ValueError, match="expected an address or a network"):
        network(text)


@pytest.mark.parametrize(
    ("text", "found", "is_address"),
    [
        ("127.0.0.1:443", Place("127.0.0.1", 443), True),
        ("Db.Example.com:5432", Place("db.example.com", 5432), False),
        ("[::1]:443", Place("::1", 443), True),
    ],
)
def test_places(text, found, is_address):
    assert place(text) == found
    assert found.is_address is is_address
    assert place(found.text) == found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("example.com", "expected HOST:PORT, got 'example.com'"),
        ("http://example.com:80", "expected HOST:PORT"),
        ("::1:443", "expected HOST:PORT"),
        (":443", "expected HOST:PORT"),
        ("a:0", "expected a port from 1 to 65535"),
        ("a:65536", "expected a port from 1 to 65535"),
        ("unix:/run/a.sock", "UNIX sockets are not reached from here"),
    ],
)
def test_what_is_no_place(text, message):
    with pytest.raises(ValueError, match=message):
        place(text)
