"""Addresses of `src` and `dst`."""

from __future__ import annotations

import pytest

from egressproxy.config.adapters.squid.networks import networks


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10.0.0.1", ["10.0.0.1"]),
        ("10.0.0.0/8", ["10.0.0.0/8"]),
        ("10.0.0.77/255.255.255.0", ["10.0.0.0/24"]),  # Squid cuts host bits off, and so do we
        ("10.0.0.1-10.0.0.4", ["10.0.0.1", "10.0.0.2/31", "10.0.0.4"]),
        ("10.0.1.0-10.0.2.0/24", ["10.0.1.0/24", "10.0.2.0/24"]),
        ("0.0.0.1-0.255.255.255", networks("0.0.0.1-0.255.255.255")),
        ("fd00::1", ["fd00::1"]),
        ("FD00::/8", ["fd00::/8"]),
        ("2001:db8::1-2001:db8::2", ["2001:db8::1", "2001:db8::2"]),
        ("::/1", ["::/1", "0.0.0.0/0"]),  # Squid keeps IPv4 addresses in ::ffff:0:0/96
    ],
)
def test_what_one_value_stands_for(text: str, expected: list[str]) -> None:
    assert networks(text) == expected


@pytest.mark.parametrize("text", ["all", "0/0", "0.0.0.0/0", "0.0.0.0/0.0.0.0"])
def test_what_stands_for_any_address_of_either_family(text: str) -> None:
    assert networks(text) is None


def test_ipv6_means_unicast() -> None:
    found = networks("ipv6")
    assert found is not None
    assert "2000::/3" in found
    assert "::/0" not in found


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("host.example", "names are not looked up here"),
        ("10.0.0", "expected an address like"),
        ("10.0.0.9-10.0.0.1", "expected the lower address first"),
        ("10.0.0.1-fd00::1", "expected the lower address first"),
        ("10.0.0.0/33", "expected a mask like /24"),
        ("10.0.0.0/255.0.255.0", "expected a mask like /24"),
        ("fd00::/129", "expected a mask like /24"),
        ("ipv4", "holds for nobody in Squid 5"),
        ("::/0", "does not hold for everybody in Squid 5"),
        ("::1/0", "does not hold for everybody in Squid 5"),
        ("10.0.0.0/0", "does not hold for everybody in Squid 5"),
        ("", "expected an address"),
    ],
)
def test_anything_else_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        networks(text)
