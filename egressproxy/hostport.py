"""The one place where a host name becomes canonical and where text becomes host and port.

Everything behind this module compares hosts as plain strings, so two rules hold of what it returns:

- one host has one spelling: lower case, A-labels, no trailing dot; an address in its standard spelling (RFC 5952);
- no reader can take a name for an address. `2130706433`, `0x7f.1`, `0177.0.0.1` and `127.1` are 127.0.0.1 for inet_aton
  and for browsers, and names for others. Whatever ends in a number (WHATWG URL, "ends in a number checker") is
  therefore either a plain dotted quad or refused; it never reaches a resolver.

Names are letters, digits, hyphen and underscore in labels of 1 to 63 (RFC 1035 section 2.3.4; underscores because they
are in use), U-labels mapped by UTS #46 (non-transitional) and held to IDNA 2008. Hosts come from clients, who get
`MalformedTarget`; patterns and ports come from the configuration, whose reader gets a ValueError. Nothing is looked up.
"""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from typing import Literal, NamedTuple

import idna

from egressproxy.errors import MalformedTarget
from egressproxy.model import Target

MAX_NAME = 253  # RFC 1035 section 2.3.4: 255 octets on the wire are 253 characters of text
MAX_PORT = 65535
DEFAULT_PORT = 443  # of an `allow` entry without one

# Distinct spellings kept. A hit costs 60 ns instead of 2 us; an entry takes under 1 KiB even with the longest names.
_CACHE = 4096

_LABEL = r"(?!-)[a-z0-9_-]{1,63}(?<!-)"
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_OCTET = r"(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_QUAD = re.compile(rf"{_OCTET}(?:\.{_OCTET}){{3}}")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_PORT = re.compile(r"[1-9][0-9]{0,4}")
_PORT_RANGE = re.compile(r"([1-9][0-9]{0,4})-([1-9][0-9]{0,4})")


# --- addresses, from the kernel -----------------------------------------------------------------------------------


def plain_address(text: str) -> str:
    """The address of a socket in standard spelling: an IPv4 peer of a dual-stack socket as IPv4, no zone. Hot."""
    if ":" in text:
        text = text.partition("%")[0]
        if text.startswith("::ffff:") and "." in text:
            return text[7:]
    return text


# --- hosts and targets, from clients ------------------------------------------------------------------------------


@lru_cache(_CACHE)
def canonical_host(text: str) -> tuple[str, bool]:
    """The canonical form of one host, and whether it is an address. IPv6 comes and goes without brackets.

    Raises MalformedTarget for anything that is not one name or one address in a plain spelling.
    """
    return _canonical(text)


@lru_cache(_CACHE)
def parse_authority(text: str, default_port: int | None = None) -> Target:
    """The target that `host:port` or `[v6]:port` names. Runs once per connection.

    Raises MalformedTarget: no port where there is no default, a port that is not plain decimal from 1 to 65535, IPv6
    without brackets, or a host that `canonical_host` refuses.
    """
    host, port_text = _split_authority(text)
    if port_text is None:
        if default_port is None:
            raise MalformedTarget(f"expected HOST:PORT, got {_shown(text)} without a port")
        port = default_port
    elif _PORT.fullmatch(port_text) is None or (port := int(port_text)) > MAX_PORT:
        raise MalformedTarget(f"expected a port from 1 to {MAX_PORT} in plain decimal, got {_shown(port_text)}")
    bracketed = text[:1] == "["
    host, is_address = _canonical(host)
    if bracketed and ":" not in host:
        raise MalformedTarget(f"expected an IPv6 address in the brackets of {_shown(text)}")
    return Target(host, port, is_address)


_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<authority>[^/?#]*)(?P<path>[^?#]*).*", re.DOTALL)
_URL_PORTS = {"https": 443, "http": 80}
_PATH = re.compile(r"[!-~]*")


class Question(NamedTuple):
    """What a person asks about.

    scheme  `http` or `https` of a URL; None: host and port were named
    path    of a URL, without its query; `/` where it has none; None: host and port were named
    """

    target: Target
    scheme: str | None
    path: str | None


def parse_question(text: str) -> Question:
    """The target that a person names: `host:port`, or an http or https URL. Raises MalformedTarget."""
    url = _URL.fullmatch(text)
    if url is None:
        return Question(parse_authority(text), None, None)
    scheme = url["scheme"].lower()
    port = _URL_PORTS.get(scheme)
    if port is None:
        raise MalformedTarget(f"expected an http or https URL, got the scheme {_shown(url['scheme'])}")
    if _PATH.fullmatch(url["path"]) is None:
        raise MalformedTarget(f"expected a path in ASCII, other characters percent-encoded, got {_shown(url['path'])}")
    return Question(parse_authority(url["authority"].rpartition("@")[2], port), scheme, url["path"] or "/")


def _split_authority(text: str) -> tuple[str, str | None]:
    """Host without brackets, and the port as text or None. Raises MalformedTarget."""
    if text[:1] == "[":
        host, closed, rest = text[1:].partition("]")
        if not closed or (rest and rest[0] != ":"):
            raise MalformedTarget(f"expected [IPv6]:PORT, got {_shown(text)}")
        return host, rest[1:] if rest else None
    host, colon, port = text.partition(":")
    if ":" in port:
        raise MalformedTarget(f"expected HOST:PORT with IPv6 in brackets, as [2001:db8::1]:443, got {_shown(text)}")
    return host, port if colon else None


def _canonical(text: str) -> tuple[str, bool]:
    """`canonical_host` without its cache."""
    if len(text) > MAX_NAME + 1:
        raise MalformedTarget(f"expected a host of at most {MAX_NAME} characters, got {len(text)}")
    if not text.isascii():
        return _from_unicode(text), False
    if ":" in text:
        return _ipv6(text), True
    host = text.lower()
    if host[-1:] == ".":
        host = host[:-1]
    last = host[host.rfind(".") + 1 :]
    if last[:1].isdigit() and _NUMBER.fullmatch(last) is not None:
        if _QUAD.fullmatch(text) is None:
            raise MalformedTarget(
                f"expected a name, or an address like 192.0.2.1, got {_shown(text)}: it ends in a number"
            )
        return text, True
    if len(host) > MAX_NAME or _NAME.fullmatch(host) is None:
        raise MalformedTarget(f"expected a host name or an address, got {_shown(text)}")
    if "xn--" in host:
        for label in host.split("."):
            if label.startswith("xn--"):
                _check_a_label(label, text)
    return host, False


def _ipv6(text: str) -> str:
    """Standard spelling of an IPv6 address: compressed and lower case, a mapped IPv4 address as a dotted quad.

    RFC 5952 sections 4 and 5. str() of an IPv6Address writes mapped ones differently before and after CPython 3.13.
    """
    if "%" in text:
        raise MalformedTarget(f"expected an address without a zone, got {_shown(text)}")
    try:
        address = IPv6Address(text)
    except ValueError:
        raise MalformedTarget(f"expected an IPv6 address, got {_shown(text)}") from None
    value = int(address)
    return f"::ffff:{IPv4Address(value & 0xFFFF_FFFF)}" if value >> 32 == 0xFFFF else str(address)


def _from_unicode(text: str) -> str:
    """A name with U-labels in A-labels. Full-width digits and dots that map to an address are refused."""
    try:
        mapped = idna.uts46_remap(text, std3_rules=False, transitional=False).removesuffix(".")
        host = ".".join(label if label.isascii() else idna.alabel(label).decode() for label in mapped.split("."))
    except (idna.IDNAError, UnicodeError):
        raise MalformedTarget(f"expected a host name, got {_shown(text)}, which IDNA does not allow") from None
    if host[-1:] != ".":
        host, is_address = _canonical(host)
        if not is_address:
            return host
    raise MalformedTarget(f"expected a host name or an address in plain ASCII, got {_shown(text)}")


def _check_a_label(label: str, text: str) -> None:
    """Raise MalformedTarget unless the label is what IDNA makes of some U-label."""
    try:
        if idna.alabel(idna.ulabel(label)).decode() == label:
            return
    except (idna.IDNAError, UnicodeError):
        pass
    raise MalformedTarget(f"expected A-labels that IDNA allows, got {_shown(label)} in {_shown(text)}")


def _shown(text: str) -> str:
    """Foreign text for a message: quoted, escaped, and cut."""
    return ascii(text if len(text) <= 80 else f"{text[:77]}...")


# --- patterns and ports, from the configuration -------------------------------------------------------------------


class HostPattern(NamedTuple):
    """Which hosts are meant. `str()` gives the canonical text, as the configuration would write it.

    kind  `exact`: this name or address; `suffix`: every name below `host`, at any depth, never `host` itself and never
          an address; `any`: every name and address
    host  canonical, IPv6 without brackets; empty for `any`
    """

    kind: Literal["exact", "suffix", "any"]
    host: str

    def __str__(self) -> str:
        """`host`, `*.host` or `*`."""
        return self.host if self.kind == "exact" else f"*.{self.host}" if self.kind == "suffix" else "*"

    @property
    def is_address(self) -> bool:
        """An exact pattern that is an address. A canonical name never has a colon, nor digits alone as last label."""
        host = self.host
        return self.kind == "exact" and (":" in host or host[host.rfind(".") + 1 :].isdigit())


class PortRange(NamedTuple):
    """Ports from low to high, both included."""

    low: int
    high: int

    def __str__(self) -> str:
        """`443` or `8000-8100`."""
        return str(self.low) if self.low == self.high else f"{self.low}-{self.high}"


ANY_HOST = HostPattern("any", "")
ANY_PORT = PortRange(1, MAX_PORT)


def parse_host_pattern(text: str) -> HostPattern:
    """The pattern that `name`, `address`, `*.suffix` or `*` stands for, canonical as hosts are. Raises ValueError."""
    if text == "*":
        return ANY_HOST
    suffix = text.startswith("*.")
    name = text[2:] if suffix else text[1:-1] if text[:1] == "[" and text[-1:] == "]" else text
    try:
        host, is_address = _canonical(name)
    except MalformedTarget as error:
        raise ValueError(_pattern_help(text) or str(error)) from None
    if suffix and is_address:
        raise ValueError(f"expected a name behind *. in {_shown(text)}; an address has nothing below it")
    if name != text and not suffix and ":" not in host:
        raise ValueError(f"expected an IPv6 address in the brackets of {_shown(text)}")
    return HostPattern("suffix" if suffix else "exact", host)


def _pattern_help(text: str) -> str | None:
    """What to write instead, for the slips that people make."""
    got = _shown(text)
    if "://" in text:
        return f"expected a host, got the URL {got}"
    if "/" in text:
        return f"expected a host, got {got}; networks belong in clients (who asks) or guard.allow (what may be dialled)"
    if "*" in text:
        return f"expected * alone or as the whole first label, like *.example.com, got {got}"
    if text.startswith("."):
        return f"expected the name without its first dot, or * before it for all names below, got {got}"
    if text.count(":") == 1:
        return f"expected a host without a port, got {got}; ports belong in ports"
    return None


def parse_port_range(value: object) -> PortRange:
    """The ports that an integer, `443` or `8000-8100` stands for. Raises ValueError."""
    if type(value) is int:
        low = high = value
    elif isinstance(value, str) and _PORT.fullmatch(value):
        low = high = int(value)
    elif isinstance(value, str) and (match := _PORT_RANGE.fullmatch(value)):
        low, high = int(match[1]), int(match[2])
    else:
        raise ValueError(f"expected a port like 443 or a range like 8000-8100, got {_shown(str(value))}")
    if not 0 < low <= MAX_PORT or not 0 < high <= MAX_PORT:
        raise ValueError(f"expected ports from 1 to {MAX_PORT}, got {_shown(str(value))}")
    if low > high:
        raise ValueError(f"expected the lower port first, got {_shown(str(value))}; did you mean {high}-{low}?")
    return PortRange(low, high)


def parse_allow_entry(text: str) -> tuple[HostPattern, PortRange]:
    """Host pattern and ports of `HOST:PORT`, `HOST:LOW-HIGH`, `HOST:*` or `HOST`, which means port 443.

    HOST is what `parse_host_pattern` takes, IPv6 in brackets. Raises ValueError.
    """
    if "/" in text:
        raise ValueError(_pattern_help(text))
    try:
        host, port = _split_authority(text)
    except MalformedTarget as error:
        raise ValueError(str(error)) from None
    pattern = parse_host_pattern(f"[{host}]" if text[:1] == "[" else host)
    if port is None:
        return pattern, PortRange(DEFAULT_PORT, DEFAULT_PORT)
    return pattern, ANY_PORT if port == "*" else parse_port_range(port)
