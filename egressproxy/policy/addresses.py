"""The address guard's table: which addresses are special, and by which document.

The table follows the IANA special-purpose registries for IPv4 and IPv6 and is our own: what CPython's `ipaddress` calls
private or global has changed between its versions. An address without a row here is ordinary and may be dialled. Where
a registry calls a sliver of a closed block reachable (anycast in 192.0.0.0/24 and 2001::/23) the block stays closed.

IPv6 addresses that carry an IPv4 address are judged by both. What becomes of them when the IPv4 address is public:

- IPv4-mapped (`::ffff:0:0/96`) is that IPv4 address for every socket: open.
- NAT64 with the well-known prefix (`64:ff9b::/96`) is how a network without IPv4 reaches the rest: open.
- ISATAP (`::0:5efe:a.b.c.d` or `::200:5efe:a.b.c.d` below any /64) is as open as its /64.
- Closed, as deprecated or not meant for the public: IPv4-compatible, IPv4-translated, 6to4, Teredo (server and client
  address are both judged) and NAT64 with the local-use prefix. There the operator chose the layout, so all four of
  RFC 6052 are searched for metadata addresses, and `guard.allow` opens the rest.

Metadata addresses hand out credentials to whoever asks. They are a class of their own, in every embedding, which
neither `private_addresses` alone nor `guard.allow` opens.
"""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import NamedTuple

# Distinct addresses kept. A hit costs 60 ns instead of 2 us; an entry takes about 300 bytes.
_CACHE = 8192

_LOW32 = 0xFFFF_FFFF


class AddressClass(NamedTuple):
    """Why an address is special.

    name      one word: `private`, `loopback`, `metadata`, ...
    network   the range that says so
    source    the document that says so
    embedded  the IPv4 address that lies in the range, where the judged address only carries it; else empty
    """

    name: str
    network: str
    source: str
    embedded: str = ""

    def __str__(self) -> str:
        """`private (10.0.0.0/8, RFC 1918)`."""
        inside = f"; it embeds {self.embedded}" if self.embedded else ""
        return f"{self.name} ({self.network}, {self.source}{inside})"


class Subject(NamedTuple):
    """An address as a number."""

    value: int
    is_v6: bool


class Judgement(NamedTuple):
    """What the table says of one address.

    special   None: ordinary and public
    subjects  the addresses, itself or embedded, that are special; empty where `special` is None
    aliases   other addresses that a connection to this one may arrive at, certainly or perhaps, standard spelling
    """

    special: AddressClass | None
    subjects: tuple[Subject, ...]
    aliases: tuple[str, ...]


_SPECIAL_V4 = (
    ("0.0.0.0/8", "reserved", "RFC 791 section 3.2"),
    ("0.0.0.0/32", "unspecified", "RFC 1122 section 3.2.1.3"),
    ("10.0.0.0/8", "private", "RFC 1918"),
    ("100.64.0.0/10", "cgnat", "RFC 6598"),
    ("127.0.0.0/8", "loopback", "RFC 1122 section 3.2.1.3"),
    ("169.254.0.0/16", "link-local", "RFC 3927"),
    ("172.16.0.0/12", "private", "RFC 1918"),
    ("192.0.0.0/24", "reserved", "RFC 6890 section 2.1"),
    ("192.0.2.0/24", "documentation", "RFC 5737"),
    ("192.88.99.0/24", "reserved", "RFC 7526"),
    ("192.168.0.0/16", "private", "RFC 1918"),
    ("198.18.0.0/15", "benchmarking", "RFC 2544"),
    ("198.51.100.0/24", "documentation", "RFC 5737"),
    ("203.0.113.0/24", "documentation", "RFC 5737"),
    ("224.0.0.0/4", "multicast", "RFC 5771"),
    ("233.252.0.0/24", "documentation", "RFC 5771 section 9.2"),
    ("240.0.0.0/4", "reserved", "RFC 1112 section 4"),
    ("255.255.255.255/32", "broadcast", "RFC 919 section 7"),
)

_SPECIAL_V6 = (
    ("::/96", "transition", "RFC 4291 section 2.5.5.1"),  # IPv4-compatible
    ("::/128", "unspecified", "RFC 4291 section 2.5.2"),
    ("::1/128", "loopback", "RFC 4291 section 2.5.3"),
    ("::ffff:0:0:0/96", "transition", "RFC 2765 section 2.1"),  # IPv4-translated
    ("64:ff9b:1::/48", "transition", "RFC 8215"),  # NAT64, local use
    ("100::/64", "discard", "RFC 6666"),
    ("100:0:0:1::/64", "reserved", "RFC 9780"),
    ("2001::/23", "reserved", "RFC 2928"),
    ("2001::/32", "transition", "RFC 4380"),  # Teredo
    ("2001:2::/48", "benchmarking", "RFC 5180"),
    ("2001:10::/28", "orchid", "RFC 4843"),
    ("2001:20::/28", "orchid", "RFC 7343"),
    ("2001:30::/28", "orchid", "RFC 9374"),
    ("2001:db8::/32", "documentation", "RFC 3849"),
    ("2002::/16", "transition", "RFC 7526"),  # 6to4
    ("3fff::/20", "documentation", "RFC 9637"),
    ("5f00::/16", "segment-routing", "RFC 9602"),
    ("fc00::/7", "private", "RFC 4193"),
    ("fe80::/10", "link-local", "RFC 4291 section 2.5.6"),
    ("fec0::/10", "site-local", "RFC 3879"),
    ("ff00::/8", "multicast", "RFC 4291 section 2.7"),
)
# Global unicast is 2000::/3 so far; whatever else has no row is nobody's.
_UNASSIGNED_V6 = AddressClass("reserved", "outside 2000::/3", "RFC 4291 section 2.4")

METADATA = {
    "169.254.169.254": "metadata of AWS, Azure, Google and others",
    "169.254.42.42": "metadata of Scaleway",
    "169.254.0.23": "metadata of Tencent Cloud",
    "169.254.170.2": "credentials of AWS ECS tasks",
    "169.254.170.23": "credentials of AWS EKS pods",
    "100.100.100.200": "metadata of Alibaba Cloud",
    "192.0.0.192": "metadata of Oracle Cloud",
    "168.63.129.16": "platform address of Azure",
    "fd00:ec2::254": "metadata of AWS",
    "fd00:ec2::23": "credentials of AWS EKS pods",
    "fd20:ce::254": "metadata of Google Cloud",
    "fd00:42::42": "metadata of Scaleway",
    "fd00:c1::a9fe:a9fe": "metadata of Oracle Cloud",
}

_Row = tuple[int, int, AddressClass]  # bits below the prefix, the prefix as a number, what it means


def _rows(table: tuple[tuple[str, str, str], ...]) -> tuple[_Row, ...]:
    """Most specific range first, so that the first hit is the one that counts."""
    rows = []
    for text, name, source in table:
        network = ip_network(text)
        shift = network.max_prefixlen - network.prefixlen
        rows.append((shift, int(network.network_address) >> shift, AddressClass(name, text, source)))
    return tuple(sorted(rows, key=lambda row: row[0]))


_ROWS_V4 = _rows(_SPECIAL_V4)
_ROWS_V6 = _rows(_SPECIAL_V6)
_METADATA_V4 = {
    int(IPv4Address(text)): AddressClass("metadata", text, source)
    for text, source in METADATA.items()
    if ":" not in text
}
_METADATA_V6 = {
    int(IPv6Address(text)): AddressClass("metadata", text, source) for text, source in METADATA.items() if ":" in text
}

# The first 96 bits of the forms that carry an IPv4 address in their last 32.
_MAPPED = 0xFFFF
_NAT64 = 0x64_FF9B << 64
_LAST32 = frozenset({0, _MAPPED, 0xFFFF_0000, _NAT64})
_OPEN = frozenset({_MAPPED, _NAT64})


_ORDINARY = Judgement(None, (), ())


def classify(address: str) -> AddressClass | None:
    """What is special about an address, None for an ordinary public one. Raises ValueError if it is not an address."""
    return judge(address).special


@lru_cache(_CACHE)
def judge(address: str) -> Judgement:
    """What the table says of an address. Runs once per address of a connection. Raises ValueError if it is none."""
    subject = parse_address(address)
    if subject.is_v6:
        return _judge_v6(address, subject)
    special = _find_v4(subject.value)
    if special is None:
        return _ORDINARY
    # Linux takes a connection to 0.0.0.0 to the loopback.
    return Judgement(special, (subject,), () if subject.value else ("127.0.0.1",))


@lru_cache(_CACHE)
def ends_of(address: str) -> tuple[Subject, ...]:
    """All that a connection to an address may arrive at: itself and its aliases. Raises ValueError if it is no address."""
    return tuple(dict.fromkeys(map(parse_address, (address, *judge(address).aliases))))


def parse_address(address: str) -> Subject:
    """An address as a number. Raises ValueError, also for IPv6 with a zone: what that means differs between hosts."""
    if ":" not in address:
        return Subject(int(IPv4Address(address)), False)
    if "%" in address:
        raise ValueError(f"expected an address without a zone, got {address!a}")
    return Subject(int(IPv6Address(address)), True)


def _find_v4(value: int) -> AddressClass | None:
    if value in _METADATA_V4:
        return _METADATA_V4[value]
    for shift, prefix, special in _ROWS_V4:
        if value >> shift == prefix:
            return special
    return None


def _find_v6(value: int) -> AddressClass | None:
    """By its own range only, whatever it embeds."""
    if value in _METADATA_V6:
        return _METADATA_V6[value]
    for shift, prefix, special in _ROWS_V6:
        if value >> shift == prefix:
            return special
    return None if value >> 125 == 1 or value >> 32 in _OPEN else _UNASSIGNED_V6


def _judge_v6(address: str, subject: Subject) -> Judgement:
    value = subject.value
    inside, perhaps = _embedded(value), _perhaps_embedded(value)
    found: list[tuple[AddressClass, Subject]] = []
    for v4 in inside:
        special = _find_v4(v4)
        if special is not None:
            found.append((special._replace(embedded=str(IPv4Address(v4))), Subject(v4, False)))
    found += [
        (_METADATA_V4[v4]._replace(embedded=str(IPv4Address(v4))), Subject(v4, False))
        for v4 in perhaps
        if v4 in _METADATA_V4
    ]
    own = _find_v6(value)
    if own is not None:
        found.append((own, subject))
    aliases = [str(IPv4Address(v4)) for v4 in (*inside, *perhaps)] if value else ["::1", "127.0.0.1"]
    standard = str(IPv6Address(value))
    if standard != address:
        aliases.append(standard)
    if not found:
        return Judgement(None, (), tuple(aliases))
    found.sort(key=lambda item: item[0].name != "metadata")  # stable: metadata first, then what is embedded
    return Judgement(found[0][0], tuple(item[1] for item in found), tuple(aliases))


def _embedded(value: int) -> list[int]:
    """The IPv4 addresses that an IPv6 address certainly carries."""
    low = value & _LOW32
    if value >> 32 in _LAST32:
        return [low] if value > 1 else []  # :: and ::1 are themselves
    inside = []
    if value >> 112 == 0x2002:  # 6to4, RFC 3056 section 2
        inside.append(value >> 80 & _LOW32)
    elif value >> 96 == 0x2001_0000:  # Teredo, RFC 4380 section 4: the server, and the client with each bit flipped
        inside += [value >> 64 & _LOW32, low ^ _LOW32]
    if value >> 32 & 0xFDFF_FFFF == 0x5EFE:  # ISATAP, RFC 5214 section 6.1, with either value of the universal bit
        inside.append(low)
    return inside


def _perhaps_embedded(value: int) -> tuple[int, ...]:
    """What a local-use NAT64 address carries in each layout of RFC 6052 section 2.2 that fits below a /48."""
    if value >> 80 != 0x0064_FF9B_0001:
        return ()
    return (
        value & _LOW32,  # /96
        value >> 24 & _LOW32,  # /64
        (value >> 64 & 0xFF) << 24 | value >> 32 & 0xFF_FFFF,  # /56
        (value >> 64 & 0xFFFF) << 16 | value >> 40 & 0xFFFF,  # /48
    )
