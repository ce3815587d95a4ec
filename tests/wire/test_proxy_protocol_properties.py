"""Any bytes end in a documented outcome, which depends on the bytes alone; what was written is read as it was meant."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, ip_address
from itertools import pairwise

from hypothesis import example, given
from hypothesis import strategies as st
from support.addresses import low_v6, v4, v6
from support.parsing import outcome, outcome_in_pieces

from egressproxy.errors import MalformedProxyHeader
from egressproxy.wire.proxy_protocol import MAX_V2_BYTES, Announced, parse_proxy_header, proxy_header

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"

ports = st.integers(0, 65535)
places = st.tuples(st.one_of(v4, v6, low_v6, v4.map(lambda text: f"::ffff:{text}")), ports)
headers = st.builds(proxy_header, st.sampled_from([1, 2]), places, places)
tlvs = st.builds(
    lambda kind, size, value: struct.pack("!BH", kind, len(value) if size is None else size) + value,
    st.sampled_from([0x01, 0x02, 0x03, 0x04, 0x20, 0xEA]),
    st.sampled_from([None] * 8 + [0, 4, 65535]),
    st.binary(max_size=12),
)
binary = st.builds(
    lambda command, protocol, size, body: SIGNATURE + struct.pack("!BBH", command, protocol, size or len(body)) + body,
    st.sampled_from([0x21] * 6 + [0x20, 0x20, 0x22, 0x11]),
    st.sampled_from([0x11] * 4 + [0x21] * 4 + [0x00, 0x12, 0x31, 0x01]),
    st.sampled_from([0] * 8 + [12, 36, 4080, 4081, 65535]),
    st.builds(
        lambda addresses, extensions: addresses + b"".join(extensions),
        st.sampled_from([b"\x0a" * 12, b"\x20" * 36, b""]),
        st.lists(tlvs, max_size=4),
    ),
)
text = st.lists(
    st.sampled_from([b"PROXY", b"TCP4", b"TCP6", b"UNKNOWN", b"1.2.3.4", b"::1", b"::ffff:1.2.3.4", b"1", b"65535"])
    | st.sampled_from([b"", b"01", b"256.1.1.1", b"1.2.3", b":::", b"65536", b"\0", b"TCP", b"fe80::1%1"]),
    max_size=8,
).map(b" ".join)
lines = st.builds(lambda words, end: b"PROXY " + words + end, text, st.sampled_from([b"\r\n", b"\n", b"\r", b""]))


@st.composite
def altered(draw: st.DrawFn) -> bytes:
    """A good header with a few bytes of it changed, left out or put in."""
    data = bytearray(draw(headers))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 2))] = draw(st.binary(max_size=2))
    return bytes(data)


streams = st.builds(
    bytes.__add__, st.one_of(headers, binary, lines, text, altered(), st.binary()), st.binary(max_size=20)
)


@given(streams, st.lists(st.integers(0, 300), max_size=6))
@example(b"PROXY UNKNOWN " + b"\r" * 100, [14])
@example(b"PROXY TCP6 1::2:: ::1 1 1\r\n", [17, 18])
def test_every_stream_ends_in_one_of_three_ways_however_it_is_cut(data: bytes, cuts: list[int]) -> None:
    whole = outcome(parse_proxy_header, data)
    assert whole is None or whole is MalformedProxyHeader or isinstance(whole, Announced)
    places = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    pieces = [data[begin:end] for begin, end in pairwise(places)]
    assert outcome_in_pieces(parse_proxy_header, pieces) == whole
    if isinstance(whole, Announced):
        assert 15 <= whole.length <= min(MAX_V2_BYTES, len(data))
        assert outcome(parse_proxy_header, data[: whole.length]) == whole
        assert (whole.source is None) == (whole.destination is None)
        for place in (whole.source, whole.destination):
            if place is not None:
                address = ip_address(place[0])
                assert getattr(address, "ipv4_mapped", None) is None
                assert str(address) == place[0]
    elif whole is None:
        assert len(data) < MAX_V2_BYTES


@given(headers, st.data())
def test_a_cut_header_is_never_an_answer(header: bytes, data: st.DataObject) -> None:
    assert parse_proxy_header(header[: data.draw(st.integers(0, len(header) - 1))]) is None


@given(st.sampled_from([1, 2]), places, places, st.binary(max_size=20))
def test_what_was_written_is_read(version, source, destination, behind) -> None:
    header = proxy_header(version, source, destination)
    assert parse_proxy_header(header + behind) == Announced(plain(source), plain(destination), len(header))


@given(places, places)
def test_both_versions_announce_the_same(source, destination) -> None:
    one, two = (parse_proxy_header(proxy_header(version, source, destination)) for version in (1, 2))
    assert one is not None
    assert two is not None
    assert one[:2] == two[:2]


def plain(place: tuple[str, int]) -> tuple[str, int]:
    address = ip_address(place[0])
    if not isinstance(address, IPv4Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return str(address), place[1]
