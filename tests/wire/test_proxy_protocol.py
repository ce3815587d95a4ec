"""A PROXY header is read strictly, at once, and the same however it arrives; real senders and readers agree."""

from __future__ import annotations

import shutil
import socket
import struct
import subprocess
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest
from support.clients import receive_all
from support.parsing import outcome, parse_every_way
from support.waiting import WAIT_S

from egressproxy.errors import MalformedProxyHeader
from egressproxy.wire.proxy_protocol import (
    MAX_TLVS,
    MAX_V2_BYTES,
    Announced,
    crc32c,
    parse_proxy_header,
    proxy_header,
)

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
V4 = socket.inet_aton("192.0.2.1") + socket.inet_aton("198.51.100.2") + struct.pack("!HH", 50000, 443)
V6 = (
    socket.inet_pton(socket.AF_INET6, "2001:db8::1")
    + socket.inet_pton(socket.AF_INET6, "2001:db8::2")
    + struct.pack("!HH", 50000, 443)
)
CLIENT4, SERVER4 = ("192.0.2.1", 50000), ("198.51.100.2", 443)
CLIENT6, SERVER6 = ("2001:db8::1", 50000), ("2001:db8::2", 443)


def parse(data: bytes):
    """The outcome of `data`, the same in every way it can arrive."""
    return parse_every_way(parse_proxy_header, data)


def complaint(data: bytes) -> str:
    with pytest.raises(MalformedProxyHeader) as caught:
        parse_proxy_header(data)
    return str(caught.value)


def v2(body: bytes = V4, protocol: int = 0x11, command: int = 0x21, size: int | None = None) -> bytes:
    return SIGNATURE + struct.pack("!BBH", command, protocol, len(body) if size is None else size) + body


def tlv(kind: int, value: bytes) -> bytes:
    return struct.pack("!BH", kind, len(value)) + value


def with_checksum(body: bytes, behind: bytes = b"") -> bytes:
    """A header of version 2 whose body is followed by its right checksum."""
    blank = v2(body + tlv(0x03, b"\0\0\0\0") + behind)
    at = 16 + len(body) + 3
    return blank[:at] + crc32c(blank).to_bytes(4) + blank[at + 4 :]


# --- version 1 ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "source", "destination"),
    [
        (b"PROXY TCP4 192.0.2.1 198.51.100.2 50000 443\r\n", CLIENT4, SERVER4),
        (b"PROXY TCP4 0.0.0.0 255.255.255.255 0 65535\r\n", ("0.0.0.0", 0), ("255.255.255.255", 65535)),
        (b"PROXY TCP6 2001:db8::1 2001:db8::2 50000 443\r\n", CLIENT6, SERVER6),
        (b"PROXY TCP6 2001:DB8:0:0:0::1 2001:db8::0002 50000 443\r\n", CLIENT6, SERVER6),
        (b"PROXY TCP6 ::ffff:192.0.2.1 ::FFFF:C633:6402 50000 443\r\n", CLIENT4, SERVER4),
        (b"PROXY TCP6 :: ::1 1 2\r\n", ("::", 1), ("::1", 2)),
        (
            b"PROXY TCP6 " + b" ".join([b":".join([b"ffff"] * 8)] * 2) + b" 65535 65535\r\n",
            (":".join(["ffff"] * 8), 65535),
            (":".join(["ffff"] * 8), 65535),
        ),
    ],
)
def test_a_line_announces_client_and_destination(line, source, destination):
    assert parse(line) == Announced(source, destination, len(line))


@pytest.mark.parametrize(
    "line",
    [
        b"PROXY UNKNOWN\r\n",
        b"PROXY UNKNOWN \r\n",
        b"PROXY UNKNOWN 192.0.2.1  whatever\0\xff stands here\r\n",
        b"PROXY UNKNOWN " + b" ".join([b":".join([b"ffff"] * 8)] * 2) + b" 65535 65535\r\n",
    ],
)
def test_a_line_of_unknown_announces_nothing(line):
    assert len(line) <= 107
    assert parse(line) == Announced(None, None, len(line))


@pytest.mark.parametrize(
    "line",
    [
        b"PROXY TCP4 192.0.2.1 198.51.100.2 50000 443\n",  # LF alone
        b"PROXY TCP4 192.0.2.1 198.51.100.2 50000 443\r",  # never followed by LF, below
        b"PROXY TCP4 192.0.2.1 198.51.100.2 50000 443 \r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 50000\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 50000 443 1\r\n",
        b"PROXY TCP4  192.0.2.1 198.51.100.2 50000 443\r\n",  # two spaces
        b"PROXY TCP4\t192.0.2.1 198.51.100.2 50000 443\r\n",
        b"PROXY TCP4 192.0.2.01 198.51.100.2 50000 443\r\n",  # leading zeros
        b"PROXY TCP4 192.0.2.1 198.51.100.2 050000 443\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 50000 0443\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 50000 00\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 50000 65536\r\n",  # out of range
        b"PROXY TCP4 192.0.2.256 198.51.100.2 50000 443\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 50000 -1\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 50000 +1\r\n",
        b"PROXY TCP4 192.0.2 198.51.100.2 50000 443\r\n",  # odd spellings of addresses
        b"PROXY TCP4 192.0.2.1. 198.51.100.2 50000 443\r\n",
        b"PROXY TCP4 0x7f.0.0.1 198.51.100.2 50000 443\r\n",
        b"PROXY TCP4 2130706433 198.51.100.2 50000 443\r\n",
        b"PROXY TCP4 2001:db8::1 2001:db8::2 50000 443\r\n",  # the wrong family
        b"PROXY TCP6 192.0.2.1 198.51.100.2 50000 443\r\n",
        b"PROXY TCP6 2001:db8::1 198.51.100.2 50000 443\r\n",
        b"PROXY TCP6 2001:db8::1::2 2001:db8::2 50000 443\r\n",
        b"PROXY TCP6 2001:db8::1%eth0 2001:db8::2 50000 443\r\n",
        b"PROXY TCP6 [2001:db8::1] 2001:db8::2 50000 443\r\n",
        b"PROXY TCP6 2001:db8:00000::1 2001:db8::2 50000 443\r\n",
        b"PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255 :: 1 1\r\n",  # longer than the format allows
        b"PROXY TCP5 192.0.2.1 198.51.100.2 50000 443\r\n",
        b"PROXY UDP4 192.0.2.1 198.51.100.2 50000 443\r\n",
        b"PROXY tcp4 192.0.2.1 198.51.100.2 50000 443\r\n",
        b"proxy TCP4 192.0.2.1 198.51.100.2 50000 443\r\n",
        b" PROXY TCP4 192.0.2.1 198.51.100.2 50000 443\r\n",
        b"PROXY UNKNOWNS\r\n",
        b"PROXY UNKNOWN\n",
        b"PROXY UNKNOWN a\nb\r\n",
        b"PROXY UNKNOWN a\rb\r\n",
        b"PROXY UNKNOWN " + b"x" * 92 + b"\r\n",  # 108 bytes
        b"PROXY\r\n",
        b"PROXY \r\n",
        b"PROXYTCP4",
        b"\xd9\x86 TCP4 192.0.2.1 198.51.100.2 50000 443\r\n",
    ],
)
def test_a_line_that_is_not_exactly_right_is_refused(line):
    assert parse(line if line[-1:] != b"\r" else line + b"X") is MalformedProxyHeader


@pytest.mark.parametrize(
    ("begun", "wrong"),
    [
        (b"", b"G"),
        (b"PRO", b"P"),
        (b"PROXY TCP", b"5"),
        (b"PROXY TCP4 25", b"6"),
        (b"PROXY TCP4 1.2.3.4", b"."),
        (b"PROXY TCP4 1.2.3.4 1.2.3.4 6553", b"6"),
        (b"PROXY TCP4 1.2.3.4 1.2.3.4 1", b"\r"),
        (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 1\r", b"\r"),
        (b"PROXY TCP6 1::2::", b" "),
        (b"PROXY TCP6 " + b":".join([b"ffff"] * 8), b":"),
        (b"PROXY UNKNOWN " + b"x" * 91, b"x"),
        (b"\r\n\r\n", b"\r"),
        (SIGNATURE, b"\x11"),
        (SIGNATURE, b"\x22"),
        (SIGNATURE + b"\x21", b"\x12"),
        (SIGNATURE + b"\x21", b"\x31"),
        (SIGNATURE + b"\x21", b"\x01"),
        (SIGNATURE + b"\x21", b"\x10"),
        (SIGNATURE + b"\x21\x11\x00", b"\x0b"),
        (SIGNATURE + b"\x21\x21\x00", b"\x23"),
        (SIGNATURE + b"\x21\x11", b"\x10"),
        (SIGNATURE + b"\x21\x11\x0f", b"\xf1"),
        (SIGNATURE + b"\x20\x00", b"\xff"),
    ],
)
def test_the_first_wrong_byte_is_refused_at_once(begun, wrong):
    assert parse(begun) is None
    assert parse(begun + wrong) is MalformedProxyHeader


# --- version 2 ----------------------------------------------------------------------------------------------------


def test_a_binary_header_announces_client_and_destination():
    assert parse(v2()) == Announced(CLIENT4, SERVER4, 28)
    assert parse(v2(V6, 0x21)) == Announced(CLIENT6, SERVER6, 52)


def test_mapped_addresses_are_unmapped():
    mapped = b"\0" * 10 + b"\xff\xff"
    assert parse(v2(mapped + V4[:4] + mapped + V4[4:], 0x21)) == Announced(CLIENT4, SERVER4, 52)


@pytest.mark.parametrize(
    ("command", "protocol", "body"),
    [
        (0x20, 0x00, b""),
        (0x20, 0x00, b"anything of any form"),
        (0x20, 0x11, V4),
        (0x20, 0x21, V4),  # LOCAL: the family is ignored, and so is the block
        (0x20, 0x31, b"x" * 216),
        (0x21, 0x00, b""),
        (0x21, 0x00, b"\0\xff\xff"),
        (0x20, 0x00, b"x" * (MAX_V2_BYTES - 16)),
    ],
)
def test_a_header_that_announces_nothing_is_skipped_whole(command, protocol, body):
    assert parse(v2(body, protocol, command)) == Announced(None, None, 16 + len(body))


@pytest.mark.parametrize(
    "extension",
    [
        tlv(0x04, b""),
        tlv(0x02, b"example.com") + tlv(0x05, b"u" * 128),
        tlv(0xEA, b"\x01vpce-08d2bf15fac5001c9"),
        tlv(0x20, b"\x01\0\0\0\0" + tlv(0x21, b"TLSv1.3")),
        tlv(0x04, b"") * MAX_TLVS,
        tlv(0x04, b"x" * (MAX_V2_BYTES - 16 - 12 - 3)),
    ],
)
def test_extensions_belong_to_the_header(extension):
    assert parse(v2(V4 + extension)) == Announced(CLIENT4, SERVER4, 28 + len(extension))


@pytest.mark.parametrize(
    "data",
    [
        v2(command=0x31),
        v2(command=0x11),
        v2(command=0x22),
        v2(protocol=0x12),
        v2(V6, 0x22),
        v2(b"x" * 216, 0x31),
        v2(b"x" * 216, 0x32),
        v2(V4, 0x01),
        v2(V4, 0x13),
        v2(V4, 0x41),
        v2(V4[:-1]),
        v2(V4, 0x21),
        v2(V4 + b"\x04"),  # odd bytes behind the addresses
        v2(V4 + b"\x04\0"),
        v2(V4 + b"\x04\0\x01"),  # a TLV beyond the end
        v2(V4 + tlv(0x04, b"x") + b"\x04\xff\xff"),
        v2(V4 + tlv(0x04, b"") * (MAX_TLVS + 1)),
        v2(V4 + tlv(0x04, b"x" * (MAX_V2_BYTES - 16 - 12 - 2))),
        v2(V4 + tlv(0x03, b"\0\0\0\0")),
        v2(V4 + tlv(0x03, b"")),
        SIGNATURE.replace(b"\0", b"\1") + v2()[12:],
    ],
)
def test_a_broken_binary_header_is_refused(data):
    assert parse(data) is MalformedProxyHeader


def test_the_longest_header_is_4096_bytes():
    longest = v2(V4 + tlv(0x04, b"x" * (MAX_V2_BYTES - 16 - 12 - 3)))
    assert len(longest) == MAX_V2_BYTES
    assert parse_proxy_header(longest) is not None
    assert "may take 4096 bytes, got 4097" in complaint(v2(V4, size=MAX_V2_BYTES - 15))


def test_crc32c_is_castagnolis():
    # RFC 3720 appendix B.4 has these values, in the order of transmission.
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E
    assert crc32c(b"123456789") == 0xE3069283 != zlib.crc32(b"123456789")


def test_a_checksum_is_verified_wherever_it_stands():
    assert parse(with_checksum(V4)) == Announced(CLIENT4, SERVER4, 35)
    assert parse(with_checksum(V4 + tlv(0x02, b"a.example"), tlv(0x04, b"pad"))).source == CLIENT4


def test_no_byte_that_the_checksum_covers_can_change():
    good = with_checksum(V4, tlv(0x04, b"pad"))
    where_its_length_and_the_presence_of_the_checksum_are_told = (15, 28)
    for at in set(range(len(good))) - set(where_its_length_and_the_presence_of_the_checksum_are_told):
        changed = good[:at] + bytes([good[at] ^ 0x40]) + good[at + 1 :]
        assert outcome(parse_proxy_header, changed) is MalformedProxyHeader, at


def test_two_checksums_are_refused():
    assert "expected one checksum" in complaint(v2(V4 + tlv(0x03, b"\0\0\0\0") * 2))


# --- what is said -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\x16\x03\x01\x02\x00\x01", "expected a header of the PROXY protocol, got a TLS handshake; this listener has"),
        (b"GET / HTTP/1.1\r\n", "got an HTTP request; this listener has proxy_protocol, so all of its clients must"),
        (b"PATCH / HTTP/1.1\r\n", "got an HTTP request"),
        (b"\x00\x1b[31m", r"got '\x00\x1b[31m'; this listener"),
        (v2(protocol=0x12), "got UDP over IPv4 (0x12)"),
        (v2(protocol=0x31), "got a UNIX socket (0x31)"),
        (v2(protocol=0x44), "got an unknown family (0x44)"),
        (v2(command=0x11), "expected version 2 and the command PROXY (0x21) or LOCAL (0x20) in a PROXY header, got 0x11"),
        (v2(V4[:-1]), "expected at least 12 bytes of addresses in a PROXY header of version 2, got 11"),
        (v2(V4 + b"\x04"), "expected a TLV in a PROXY header of version 2, got 1 odd bytes"),
        (v2(V4 + b"\x05\0\x09"), "the TLV 0x05 in a PROXY header of version 2 is 9 bytes long, 0 are left"),
        (v2(V4 + tlv(4, b"") * 65), "expected at most 64 TLVs"),
        (v2(V4 + tlv(3, b"\0\0\0\1")), "the checksum in a PROXY header of version 2 is 0x00000001, expected 0x"),
        (b"PROXY UDP4", "expected TCP4, TCP6 or UNKNOWN in a PROXY header of version 1, got 'UDP4'"),
        (b"PROXY TCP4 1.2.3 ", "expected the source, an IPv4 address, in a PROXY header of version 1, got '1.2.3'"),
        (b"PROXY TCP4 1.2.3.4 ::1", "expected the destination, an IPv4 address, in a PROXY header of version 1, got '::1'"),
        (b"PROXY TCP6 ::1 ::1 01", "expected the source port in a PROXY header of version 1, got '01'"),
        (b"PROXY TCP6 ::1 ::1 1 1\n", r"expected the destination port and CRLF in a PROXY header of version 1, got '1\n'"),
        (b"PROXY UNKNOWN " + b"x" * 200, "expected CRLF within 107 bytes of a PROXY UNKNOWN header, got 'PROXY UNKNOWN xxx"),
    ],
)  # fmt: skip
def test_a_refusal_says_what_was_expected_and_what_came(data, said):
    assert said in complaint(data)


def test_what_is_said_is_short_and_printable():
    for data in (b"\0" * 5000, b"PROXY TCP4 " + b"\x9b" * 5000, b"PROXY UNKNOWN \x1b" + b"\xff" * 5000):
        said = complaint(data)
        assert said.isascii()
        assert said.isprintable()
        assert len(said) < 400


# --- writing ------------------------------------------------------------------------------------------------------


def test_writes_what_the_document_shows():
    assert proxy_header(1, ("192.168.0.1", 56324), ("192.168.0.11", 443)) == (
        b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n"
    )
    assert proxy_header(2, CLIENT4, SERVER4) == v2()
    assert proxy_header(2, CLIENT6, SERVER6) == v2(V6, 0x21)


def test_writes_addresses_in_their_standard_spelling():
    assert proxy_header(1, ("2001:DB8:0:0::1", 1), ("::", 2)) == b"PROXY TCP6 2001:db8::1 :: 1 2\r\n"
    assert proxy_header(1, ("::ffff:192.0.2.1", 1), ("192.0.2.2", 2)) == b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n"


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(("source", "destination"), [(CLIENT4, SERVER6), (CLIENT6, SERVER4)])
def test_mixed_families_are_told_as_ipv6(version, source, destination):
    header = proxy_header(version, source, destination)
    assert parse(header) == Announced(source, destination, len(header))
    assert (b" TCP6 " in header) if version == 1 else header[13] == 0x21
    assert b"::ffff:c000:201 " in proxy_header(1, CLIENT4, SERVER6)


@pytest.mark.parametrize(
    ("source", "destination"),
    [
        (("a.example", 1), SERVER4),
        (CLIENT4, ("fe80::1%eth0", 1)),
        (("192.0.2.01", 1), SERVER4),
        (("192.0.2.1", 65536), SERVER4),
        (CLIENT4, ("192.0.2.1", -1)),
    ],
)
@pytest.mark.parametrize("version", [1, 2])
def test_what_cannot_be_written_is_an_error(version, source, destination):
    with pytest.raises(ValueError):
        proxy_header(version, source, destination)


# --- real senders and readers -------------------------------------------------------------------------------------


def listening() -> socket.socket:
    sock = socket.create_server(("127.0.0.1", 0))
    sock.settimeout(WAIT_S)
    return sock


def read_connection(server: socket.socket) -> bytes:
    """All that one connection sends."""
    accepted, _ = server.accept()
    with accepted:
        accepted.settimeout(WAIT_S)
        return receive_all(accepted)


def test_reads_what_curl_sends(tmp_path: Path):
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("curl is not installed")
    with listening() as server:
        port = server.getsockname()[1]
        client = subprocess.Popen(
            [curl, "-sS", "--noproxy", "*", "--max-time", "10", "--haproxy-protocol", f"http://127.0.0.1:{port}/"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        try:
            accepted, (address, client_port) = server.accept()
            with accepted:
                accepted.settimeout(WAIT_S)
                data = b""
                while b"\r\n\r\n" not in data:
                    more = accepted.recv(4096)
                    assert more, data
                    data += more
                accepted.sendall(b"HTTP/1.0 204 No Content\r\n\r\n")
        finally:
            client.kill()
            client.communicate()
    announced = parse_proxy_header(data)
    assert announced is not None
    assert announced == Announced((address, client_port), ("127.0.0.1", port), announced.length)
    assert data[announced.length :].startswith(b"GET / HTTP/1.1\r\n")


class Relays(NamedTuple):
    """An haproxy that wants a header and passes on what it was told, for each of `WRITERS`: its port, and who hears it."""

    ports: dict[str, int]
    servers: dict[str, socket.socket]


WRITERS = {
    "v1": "send-proxy",
    "v2": "send-proxy-v2",
    "v2 with a checksum": "send-proxy-v2 proxy-v2-options crc32c",
    "v2 with TLVs and a checksum": "send-proxy-v2 proxy-v2-options unique-id,crc32c,authority",
}


@pytest.fixture(scope="module")
def relays(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Relays]:
    haproxy = shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
    if haproxy is None:
        pytest.skip("haproxy is not installed")
    config = "defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 10s\n  timeout server 10s\n"
    config_file = tmp_path_factory.mktemp("haproxy") / "haproxy.cfg"
    with ExitStack() as stack:
        fronts = {name: stack.enter_context(listening()) for name in WRITERS}
        servers = {name: stack.enter_context(listening()) for name in WRITERS}
        for number, (name, options) in enumerate(WRITERS.items()):
            port = servers[name].getsockname()[1]
            config += f"listen relay-{number}\n  bind fd@{fronts[name].fileno()} accept-proxy\n"
            config += f"  unique-id-format %{{+X}}o%ci-%pid\n  server site 127.0.0.1:{port} {options}\n"
        config_file.write_text(config)
        process = subprocess.Popen(
            [haproxy, "-q", "-db", "-f", str(config_file)],
            pass_fds=[front.fileno() for front in fronts.values()],
            stdin=subprocess.DEVNULL,
        )
        try:
            yield Relays({name: front.getsockname()[1] for name, front in fronts.items()}, servers)
        finally:
            process.kill()
            process.wait()


@pytest.mark.parametrize("written_by", WRITERS)
@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(
    ("source", "destination"), [(CLIENT4, SERVER4), (CLIENT6, SERVER6), (CLIENT4, SERVER6)], ids=["IPv4", "IPv6", "mixed"]
)  # fmt: skip
def test_haproxy_reads_what_is_written_and_the_other_way_round(relays, written_by, version, source, destination):
    with socket.create_connection(("127.0.0.1", relays.ports[written_by]), WAIT_S) as client:
        client.sendall(proxy_header(version, source, destination) + b"hello")
        client.shutdown(socket.SHUT_WR)
        data = read_connection(relays.servers[written_by])
    announced = parse(data)
    assert announced == Announced(source, destination, len(data) - len(b"hello"))
    assert data.startswith(SIGNATURE if written_by.startswith("v2") else b"PROXY ")
    assert ("checksum" in written_by) == (b"\x03\0\x04" in data)
