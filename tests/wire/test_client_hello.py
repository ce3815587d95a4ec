"""A ClientHello is read strictly, once, and the same however it arrives."""

from __future__ import annotations

import ssl
import sys
import time
from itertools import product

import pytest
from support.clients import installed
from support.hellos import (
    CAPTURED_NAME,
    CAPTURES,
    Judge,
    alpn,
    browser_hello,
    counted,
    ech_outer,
    extension,
    hello,
    message_of,
    openssl_hello,
    record,
    recorded,
    records,
    server_name,
    supported_versions,
)
from support.parsing import outcome_in_pieces, parse_every_way

from egressproxy.errors import HelloTooLarge, MalformedHello, NotTls
from egressproxy.hostport import canonical_host
from egressproxy.wire import client_hello
from egressproxy.wire.client_hello import (
    MAX_BEFORE_SECOND_BYTES,
    MAX_HELLO_BYTES,
    ClientHello,
    HelloReader,
    SecondHelloReader,
    parse_client_hello,
)

NAME = "www.example.test"
TLS_1_3, TLS_1_2, TLS_1_1, TLS_1_0 = 0x0304, 0x0303, 0x0302, 0x0301


def parse(data: bytes):
    """The outcome of `data`, the same in every way it can arrive, read anew each time or in one go."""
    result = parse_every_way(parse_client_hello, data)
    for size in (1, 7, 600):
        pieces = [data[at : at + size] for at in range(0, len(data), size)]
        assert outcome_in_pieces(HelloReader().read, pieces) == result
    return result


def parse_one(*extensions: bytes):
    """The outcome of a hello with these extensions, in one record."""
    return parse(record(hello(*extensions)))


def complaint(data: bytes) -> str:
    with pytest.raises((NotTls, MalformedHello, HelloTooLarge)) as caught:
        parse_client_hello(data)
    said = str(caught.value)
    assert said.isascii()
    assert said.isprintable()
    assert len(said) < 300
    return said


# --- what real clients send ---------------------------------------------------------------------------------------

PROGRAMS = {
    "curl": ("-sk", "--noproxy", "*", "--resolve", f"{NAME}:{{port}}:127.0.0.1", f"https://{NAME}:{{port}}/"),
    "openssl": ("s_client", "-connect", "127.0.0.1:{port}", "-servername", NAME, "-alpn", "h2,http/1.1"),
    "gnutls-cli": ("--insecure", f"--sni-hostname={NAME}", "--alpn=h2", "--alpn=http/1.1", "-p", "{port}", "127.0.0.1"),
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_reads_what_a_real_program_sends_however_it_is_cut(program, tmp_path):
    data = recorded([installed(program), *PROGRAMS[program]], tmp_path)
    read = parse(data)
    assert (read.server_name, read.server_name_as_sent) == (NAME, NAME)
    assert read.alpn == ("h2", "http/1.1")
    assert read.versions[:2] == (TLS_1_3, TLS_1_2)
    assert (read.ech, read.records, read.length) == (None, 1, len(data))
    stays_the_same_over_records_of_every_size(data)


def test_reads_what_the_ssl_module_sends_over_a_socket(tmp_path):
    program = (
        "import socket, ssl; sock = socket.create_connection(('127.0.0.1', {port})); "
        f"ssl.create_default_context().wrap_socket(sock, server_hostname={NAME!r})"
    )
    data = recorded([sys.executable, "-c", program], tmp_path)
    assert parse(data) == ClientHello(NAME, NAME, (), (TLS_1_3, TLS_1_2), None, 1, len(data))


def test_the_captures_are_there():
    assert len(CAPTURES) >= 10
    assert max(capture.stat().st_size for capture in CAPTURES) > 1800, "one with a post-quantum share"


@pytest.mark.parametrize("capture", CAPTURES, ids=lambda path: path.stem)
def test_reads_what_was_recorded(capture):
    data = capture.read_bytes()
    read = parse(data)
    assert (read.server_name, read.server_name_as_sent) == (CAPTURED_NAME, CAPTURED_NAME)
    assert (read.records, read.length) == (1, len(data))
    assert set(read.versions) <= {TLS_1_3, TLS_1_2, TLS_1_1, TLS_1_0}
    assert Judge().names(data) == [CAPTURED_NAME]
    stays_the_same_over_records_of_every_size(data)


def test_grease_of_a_real_browser_is_left_out_and_its_grease_ech_seen():
    data = next(path for path in CAPTURES if path.stem == "curl-impersonate-chrome").read_bytes()
    read = parse(data)
    assert read.versions == (TLS_1_3, TLS_1_2)
    assert read.alpn == ("h2", "http/1.1")
    assert read.ech == "outer"


@pytest.mark.parametrize(
    ("seed", "ech", "seen"), [*((seed, "grease", "outer") for seed in range(5)), (5, None, None), (6, "inner", "inner")]
)
def test_reads_a_browser_with_a_post_quantum_share(seed, ech, seen):
    data = browser_hello("en.Wikipedia.org", ech=ech, seed=seed)
    assert len(data) > 1500
    expected = ClientHello(
        "en.wikipedia.org", "en.Wikipedia.org", ("h2", "http/1.1"), (TLS_1_3, TLS_1_2), seen, 1, len(data)
    )
    assert parse(data) == expected
    stays_the_same_over_records_of_every_size(data)


def stays_the_same_over_records_of_every_size(data: bytes) -> None:
    expected, message = parse_client_hello(data), message_of(data)
    assert expected is not None
    for size in range(1, len(message) + 2):
        stream = records(message, size)
        count = -(-len(message) // size)
        assert parse_client_hello(stream) == expected._replace(records=count, length=len(message) + 5 * count)


@pytest.mark.parametrize("sizes", [(1,), (1, 1, 1, 1, 500), (3, 1, 70), (4, 500), (5, 2, 1, 100)], ids=str)
def test_reads_a_hello_over_records_byte_by_byte(sizes):
    data = records(
        hello(supported_versions(TLS_1_3), server_name(NAME), alpn(b"h2"), extension(21, bytes(200))), *sizes
    )
    assert parse(data).server_name == NAME


def test_reads_a_hello_that_is_cut_inside_the_name():
    message = message_of(openssl_hello(NAME))
    begin = message.index(NAME.encode())
    for cut in range(begin, begin + len(NAME)):
        data = records(message, cut, len(message) - cut)
        assert parse_client_hello(data[: 5 + cut]) is None
        assert parse_client_hello(data) == parse_client_hello(record(message))._replace(records=2, length=len(data))


def test_answers_with_the_last_byte_of_the_hello_though_its_record_goes_on():
    message = hello(server_name(NAME))
    data = record(message + b"\x0b\0\1\0and another message")
    assert parse(data).length == 5 + len(message)
    assert parse(data[: 5 + len(message)]).server_name == NAME


@pytest.mark.parametrize("version", [0x0300, 0x0301, 0x0303, 0x0304, 0x03FF])
def test_takes_any_version_of_the_record_layer(version):
    assert parse(records(hello(server_name(NAME)), 40, version=version)).server_name == NAME


# --- what is in it ------------------------------------------------------------------------------------------------


def test_no_server_name_is_not_an_error():
    read = parse(openssl_hello(None))
    assert (read.server_name, read.server_name_as_sent) == (None, "")


@pytest.mark.parametrize("block", [b"", b"\0\0"], ids=["no block", "an empty block"])
def test_a_hello_without_extensions_names_its_legacy_version(block):
    data = record(hello(block=block, legacy_version=TLS_1_0, session_id=b""))
    assert parse(data) == ClientHello(None, "", (), (TLS_1_0,), None, 1, len(data))


def test_a_client_of_tls_1_2_names_one_version():
    read = parse(openssl_hello(NAME, maximum=ssl.TLSVersion.TLSv1_2))
    assert read.versions == (TLS_1_2,)


@pytest.mark.parametrize(
    ("listed", "read"),
    [
        ((0x0304, 0x0303), (0x0304, 0x0303)),
        ((0x0303,), (0x0303,)),
        ((0x0A0A, 0x0304), (0x0304,)),
        ((0x0304, 0xFAFA), (0x0304,)),
        ((0x0A1A, 0x1A0A, 0x7F1C), (0x0A1A, 0x1A0A, 0x7F1C)),  # not GREASE: its octets differ
        ((0x4A4A,), ()),
    ],
)
def test_supported_versions_stand_for_themselves_without_grease(listed, read):
    assert parse_one(supported_versions(*listed)).versions == read


@pytest.mark.parametrize(
    ("protocols", "read"),
    [
        ((b"h2",), ("h2",)),
        ((b"http/1.1", b"h2", b"h2"), ("http/1.1", "h2", "h2")),
        ((b"\n\n", b"a\0b", b"\xff", b"\\x00", b"\x7f"), ("\\x0a\\x0a", "a\\x00b", "\\xff", "\\x5cx00", "\\x7f")),
        (tuple(b"protocol-%d" % n for n in range(200)), tuple(f"protocol-{n}" for n in range(200))),
    ],
)
def test_protocols_are_printable_and_never_two_alike(protocols, read):
    assert parse_one(alpn(*protocols)).alpn == read


@pytest.mark.parametrize("outer", [ech_outer(), ech_outer(enc=0), ech_outer(enc=1120, payload=1)])
def test_an_outer_ech_is_seen(outer):
    assert parse_one(outer, server_name(NAME)).ech == "outer"


# --- names --------------------------------------------------------------------------------------------------------

LONG = ".".join(["a" * 63] * 3 + ["b" * 61])  # 253 characters


@pytest.mark.parametrize(
    ("sent", "canonical"),
    [
        ("a", "a"),
        ("WWW.Example.TEST", "www.example.test"),
        ("www.example.test.", "www.example.test"),  # browsers send the dot of the URL
        ("_dmarc.a_b-c.example", "_dmarc.a_b-c.example"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("a--b.example", "a--b.example"),
        ("1.2.3.example", "1.2.3.example"),
        ("0x7f.example", "0x7f.example"),
        (LONG, LONG),
        (LONG + ".", LONG),
    ],
)
def test_a_name_is_read_as_hostport_writes_it(sent, canonical):
    read = parse_one(server_name(sent))
    assert (read.server_name, read.server_name_as_sent) == (canonical, sent)
    assert canonical_host(sent) == (canonical, False)


@pytest.mark.parametrize(
    "name",
    [
        b"",
        b".",
        b"..",
        b".example",
        b"a..example",
        b"a.example..",
        b"a" * 64 + b".example",  # a label
        LONG.encode() + b"b",
        LONG.encode() + b".b",
        b"a." * 300,
        b"a" * 16_000,
        b"192.0.2.1",  # addresses, in spellings of all kinds
        b"192.0.2.1.",
        b"2001:db8::1",
        b"[2001:db8::1]",
        b"::ffff:192.0.2.1",
        b"fe80::1%eth0",
        b"2130706433",
        b"0x7f000001",
        b"0177.0.0.1",
        b"127.1",
        b"a.example.1",
        b"a.example\0",  # what a C string ends at
        b"\0",
        b"a.example\0.b.example",
        b"b\xc3\xbccher.example",  # U-labels are not for the wire
        b"\xff",
        "ａ.example".encode(),  # full-width: a hostname to some, not to others  # noqa: RUF001
        b"xn--a.example",  # no A-label
        b"a b.example",
        b" a.example",
        b"a.example ",
        b"a.example\r\n",
        b"a\tb",
        b"*.example",
        b"a,b",
        b"a/b",
        b"a@b.example",
        b"a.example:443",
        b"-a.example",
        b"a-.example",
    ],
    ids=lambda name: repr(name[:20])[1:],
)
def test_what_is_no_name_is_malformed_and_not_no_name(name):
    data = record(hello(server_name(name), supported_versions(TLS_1_3)))
    assert parse(data) is MalformedHello
    assert "server_name" in complaint(data)


@pytest.mark.parametrize(
    "block",
    [
        pytest.param(server_name("a.example", "b.example"), id="two names"),
        pytest.param(server_name("a.example", "a.example"), id="one name twice"),
        pytest.param(server_name("a.example", kind=1), id="an unknown type"),
        pytest.param(server_name("a.example", kind=255), id="another unknown type"),
        pytest.param(
            extension(0, counted(b"\0" + counted(b"a.example") + b"\1" + counted(b"b"))), id="an unknown type behind"
        ),
        pytest.param(
            extension(0, counted(b"\1" + counted(b"b") + b"\0" + counted(b"a.example"))), id="an unknown type before"
        ),
        pytest.param(server_name("a.example") * 2, id="the extension twice"),
        pytest.param(server_name("a.example") + extension(51) + server_name("b.example"), id="twice, not in a row"),
        pytest.param(extension(0), id="empty, as servers send it"),
        pytest.param(extension(0, b"\0"), id="half a length"),
        pytest.param(extension(0, b"\0\0"), id="an empty list"),
        pytest.param(extension(0, b"\0\3\0\0\0"), id="an empty name"),
        pytest.param(extension(0, b"\0\1\0"), id="a type alone"),
        pytest.param(extension(0, counted(b"\0" + counted(b"a.example")) + b"\0"), id="behind the list"),
        pytest.param(extension(0, counted(b"\0" + counted(b"a.example") + b"\0")), id="behind the name"),
        pytest.param(extension(0, b"\0\x0b\0\0\x09a.example"), id="the list too short"),
        pytest.param(extension(0, b"\0\x0d\0\0\x09a.example"), id="the list too long"),
        pytest.param(extension(0, b"\0\x0c\0\0\x08a.example"), id="the name too short"),
        pytest.param(extension(0, b"\0\x0c\0\0\x0aa.example"), id="the name too long"),
        pytest.param(extension(0, b"\0\x0c\0\0\xffa.example"), id="the name much too long"),
    ],
)
def test_a_server_name_that_could_be_read_twice_is_malformed(block):
    for before, behind in product((b"", supported_versions(TLS_1_3), extension(35)), (b"", extension(21, bytes(9)))):
        assert parse_one(before + block + behind) is MalformedHello


# --- what is not a hello ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"G", "letter"),
        (b"CONNECT a.example:443 HTTP/1.1\r\n", "letter"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "letter"),
        (b"\x05\x01\x00", "SOCKS5"),
        (b"\x04\x01\x00", "SOCKS4"),
        (b"\r\n\r\n\0\r\nQUIT\n", "PROXY"),
        (b"\0", "0x00"),
        (b"\n", "0x0a"),
        (b"\x16\x02\x00", "0x02"),
        (b"\x16\xfe\xfd\0\0", "0xfe"),  # DTLS
        (b"\x16\x16\x16", "0x16"),
    ],
)
def test_other_protocols_are_told_by_the_first_wrong_byte(data, told):
    wrong_at = 1 if data[:1] == b"\x16" else 0
    assert parse(data) is NotTls
    assert parse(data[: wrong_at + 1]) is NotTls
    assert told in complaint(data[: wrong_at + 1])


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"\x14\x03\x03\0\1\1", "0x14"),
        (b"\x15\x03\x01\0\2\1\x5a", "alert"),
        (b"\x17\x03\x03", "application data"),
        (b"\x18\x03\x03", "0x18"),
    ],
)
def test_tls_that_does_not_begin_with_a_handshake_is_malformed_and_not_another_protocol(data, told):
    """Some servers overlook such a record and go on with the hello behind it."""
    assert parse(data) is parse(data[:1]) is MalformedHello
    assert told in complaint(data[:1])


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"\x80\x2e\x01\x03\x01\x00\x15\x00\x00\x00\x10", MalformedHello),  # a hello of SSL 2.0
        (b"\xc3\0\0\0\1", NotTls),  # QUIC's long header
        (b"\xff\xff\xff", NotTls),
    ],
)
def test_a_hello_of_ssl_2_is_told_from_other_protocols_by_its_third_byte(data, error):
    assert parse(data) is parse(data[:3]) is error
    assert parse(data[:1]) is parse(data[:2]) is None


@pytest.mark.parametrize(
    ("prefix", "at"),
    [
        (b"", 0),
        (record(b"\1", 20), 6),
        (record(b"\1", 20) + record(bytes(700), 23), 6 + 705),
        (record(b"\1\x5a", 21), 7),
    ],
)
def test_a_second_hello_is_found_behind_what_may_stand_before_it(prefix, at):
    second = record(hello(server_name(NAME)))
    reader = SecondHelloReader()
    for end in range(len(prefix + second)):
        assert reader.read((prefix + second)[:end]) is None
        assert reader.found is (end >= at + 5)
    assert reader.read(prefix + second + b"more") == parse_client_hello(second)
    assert reader.at == at
    assert SecondHelloReader().read(prefix + second) == parse_client_hello(second)


@pytest.mark.parametrize(
    "wrong", [b"GET / ", record(b"x", 24), record(b"x", 23, 0x0203), b"\x17\x03\x03\xff\xff", record(b"", 20)]
)
def test_what_may_not_stand_before_a_second_hello_is_refused(wrong):
    with pytest.raises(MalformedHello):
        SecondHelloReader().read(wrong + record(hello(server_name(NAME))))


@pytest.mark.parametrize(
    "second", [record(b"\x10\0\0\0"), record(b"\x01\0") + record(b"\1", 20), record(hello(server_name("a..b")))]
)
def test_a_handshake_that_is_no_second_hello_is_refused(second):
    with pytest.raises(MalformedHello):
        SecondHelloReader().read(record(b"\1", 20) + second + bytes(50))


def test_not_without_end_may_stand_before_a_second_hello():
    early = record(bytes(16_379), 23)
    most = early * (MAX_BEFORE_SECOND_BYTES // len(early))
    second = record(hello(server_name(NAME)))
    assert len(most) == MAX_BEFORE_SECOND_BYTES
    assert SecondHelloReader().read(most + second) == parse_client_hello(second)
    with pytest.raises(HelloTooLarge):
        SecondHelloReader().read(most + record(b"\1", 20))


def test_records_before_a_second_hello_that_come_byte_by_byte_are_looked_at_once():
    """Otherwise each byte behind sixty kilobytes of them costs milliseconds."""

    class Counted(bytes):
        looks = 0

        def __getitem__(self, at):
            Counted.looks += 1
            return bytes.__getitem__(self, at)

    stream = record(b"\1", 20) * 2000
    reader = SecondHelloReader()
    assert [reader.read(Counted(stream[:size])) for size in range(0, len(stream), 3)] == [None] * (len(stream) // 3)
    assert Counted.looks < 2 * len(stream)


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (record(hello(server_name(NAME)), kind=23), MalformedHello),
        (record(hello(server_name(NAME)), version=0x0403), NotTls),
        (record(hello(server_name(NAME)) + bytes(16_384)), MalformedHello),
    ],
    ids=["as application data", "of another protocol", "in a record over 2^14"],
)
def test_a_good_hello_in_a_wrong_record_is_none(data, error):
    with pytest.raises(error):
        parse_client_hello(data)
    with pytest.raises(error):
        HelloReader().read(data)


def test_nothing_is_not_yet_a_hello():
    assert parse(b"") is None


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\x16\x03\x01\0\0", id="an empty record"),
        pytest.param(record(b"\1\0") + record(b""), id="an empty record in the middle"),
        pytest.param(b"\x16\x03\x01\x40\x01", id="a record over 2^14"),
        pytest.param(b"\x16\x03\x01\xff\xff", id="a record far over 2^14"),
        pytest.param(record(b"\2"), id="a ServerHello"),
        pytest.param(record(b"\0\0\0\0"), id="a HelloRequest"),
        pytest.param(record(b"\x0b\0\0\1"), id="a Certificate"),
        pytest.param(record(b"\1\0\0\0"), id="an empty hello"),
        pytest.param(record(b"\1\0\0\x28") + bytes(40), id="a hello too short to be one"),
        pytest.param(record(b"\1\0\1") + record(b"\0", kind=21), id="an alert in the middle"),
        pytest.param(record(b"\1\0\1") + record(b"\0", kind=23), id="data in the middle"),
        pytest.param(record(b"\1\0\1") + record(b"\0", version=0x0201), id="another protocol in the middle"),
    ],
)
def test_what_is_tls_and_does_not_begin_with_a_hello_is_malformed(data):
    assert parse(data) is MalformedHello
    complaint(data)


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(hello(legacy_version=0x0203), id="version 2"),
        pytest.param(hello(legacy_version=0xFEFD), id="a version of DTLS"),
        pytest.param(hello(server_name(NAME), session_id=bytes(33)), id="a long session id"),
        pytest.param(hello(server_name(NAME), session_id=bytes(255)), id="a very long session id"),
        pytest.param(hello(server_name(NAME), suites=b""), id="no suites"),
        pytest.param(hello(server_name(NAME), suites=bytes(3)), id="half a suite"),
        pytest.param(hello(server_name(NAME), compressions=b""), id="no compression method"),
        pytest.param(hello(block=b"\0"), id="half a length of the extensions"),
        pytest.param(hello(block=b"\0\1\0"), id="one byte of an extension"),
        pytest.param(hello(block=b"\0\3\0\x17\0"), id="three bytes of an extension"),
        pytest.param(hello(block=counted(extension(23)) + b"\0"), id="a byte behind the extensions"),
        pytest.param(hello(block=counted(extension(23)) + extension(35)), id="an extension behind the extensions"),
        pytest.param(hello(block=counted(extension(23))[:-1]), id="a byte too few"),
        pytest.param(hello(block=b"\0\0" + extension(23)), id="an extension behind an empty block"),
        pytest.param(hello(block=counted(extension(23) + b"\0")), id="a byte behind the last extension"),
        pytest.param(hello(block=counted(extension(23) + b"\0\x23\0\1")), id="a last extension over the end"),
        pytest.param(hello(block=counted(b"\0\x17\xff\xff")), id="an extension far over the end"),
        pytest.param(hello(extension(23), extension(23)), id="an extension twice"),
        pytest.param(hello(extension(0xDADA), extension(23), extension(0xDADA)), id="an unknown extension twice"),
        pytest.param(hello(extension(43)), id="versions: none"),
        pytest.param(hello(extension(43, b"\0")), id="versions: an empty list"),
        pytest.param(hello(extension(43, b"\1\3")), id="versions: half a version"),
        pytest.param(hello(extension(43, b"\3\3\4\3")), id="versions: one and a half"),
        pytest.param(hello(extension(43, b"\2\3\4\3\3")), id="versions: the list too short"),
        pytest.param(hello(extension(43, b"\4\3\4")), id="versions: the list too long"),
        pytest.param(hello(extension(16)), id="ALPN: none"),
        pytest.param(hello(extension(16, b"\0")), id="ALPN: half a length"),
        pytest.param(hello(extension(16, b"\0\0")), id="ALPN: an empty list"),
        pytest.param(hello(extension(16, b"\0\1\0")), id="ALPN: an empty name"),
        pytest.param(hello(extension(16, b"\0\4\2h2\0")), id="ALPN: an empty name behind"),
        pytest.param(hello(extension(16, b"\0\3\3h2")), id="ALPN: the name too long"),
        pytest.param(hello(extension(16, b"\0\3\1h2")), id="ALPN: the name too short"),
        pytest.param(hello(extension(16, b"\0\2\2h2")), id="ALPN: the list too short"),
        pytest.param(hello(extension(16, b"\0\4\2h2")), id="ALPN: the list too long"),
        pytest.param(hello(extension(16, counted(b"\2h2" * 40 + b"\3h2"))), id="ALPN: the last of many too long"),
        pytest.param(hello(extension(0xFE0D)), id="ECH: none"),
        pytest.param(hello(extension(0xFE0D, b"\2")), id="ECH: an unknown type"),
        pytest.param(hello(extension(0xFE0D, b"\1\0")), id="ECH: inner, and more"),
        pytest.param(hello(extension(0xFE0D, b"\0")), id="ECH: outer, and nothing else"),
        pytest.param(hello(extension(0xFE0D, b"\0\0\1\0\1\x2a\0\0\0")), id="ECH: outer, cut"),
        pytest.param(hello(ech_outer(payload=0)), id="ECH: outer, without a payload"),
        pytest.param(hello(extension(0xFE0D, b"\0\0\1\0\1\x2a\0\0\0\1\0\0")), id="ECH: outer, and more"),
        pytest.param(hello(extension(0xFE0D, b"\0\0\1\0\1\x2a\0\0\0\2\0")), id="ECH: outer, its payload too long"),
        pytest.param(hello(extension(0xFE0D, b"\0\0\1\0\1\x2a\xff\xff\0\1\0")), id="ECH: outer, its key too long"),
    ],
)
def test_lengths_that_disagree_are_malformed(message):
    assert parse(record(message)) is MalformedHello
    assert parse(records(message, 30)) is MalformedHello
    complaint(record(message))


def test_a_hello_that_says_less_than_it_has_is_read_as_far_as_it_says():
    message = openssl_hello(NAME)[5:]
    without_extensions = len(hello(suites=message[73 : 73 + message[72]], block=b"")) - 4
    for length in range(41, len(message) - 4):
        data = record(b"\1" + length.to_bytes(3, "big") + message[4:])
        if length == without_extensions:
            assert parse_client_hello(data) == ClientHello(None, "", (), (TLS_1_2,), None, 1, 9 + length)
            assert Judge().names(data) == [None]
        else:
            with pytest.raises(MalformedHello):
                parse_client_hello(data)


# --- bounds -------------------------------------------------------------------------------------------------------


def hello_of(size: int, name: str = NAME) -> bytes:
    """A message of this many bytes."""
    short = len(hello(server_name(name), extension(0xABCD)))
    return hello(server_name(name), extension(0xABCD, bytes(size - short)))


def test_reads_a_hello_of_64_kib_and_not_one_byte_more():
    sizes = (16_384, 16_384, 16_384, 16_384)
    largest = records(hello_of(MAX_HELLO_BYTES - 5 * len(sizes)), *sizes)
    assert len(largest) == MAX_HELLO_BYTES
    read = parse_client_hello(largest)
    assert (read.server_name, read.length, read.records) == (NAME, MAX_HELLO_BYTES, 4)
    assert parse_client_hello(largest[:-1]) is None

    too_large = records(hello_of(MAX_HELLO_BYTES - 5 * len(sizes) + 1), *sizes)
    with pytest.raises(HelloTooLarge, match="65536"):
        parse_client_hello(too_large)


def test_a_large_hello_is_refused_as_soon_as_it_says_how_large_it_is():
    data = record(b"\1\1\0\0" + bytes(96))
    assert parse(data) is HelloTooLarge
    assert parse(data[:9]) is HelloTooLarge
    assert parse(data[:8]) is None


def test_headers_of_records_count():
    message = hello_of(20_000)
    assert parse_client_hello(records(message, 3)).server_name == NAME
    with pytest.raises(HelloTooLarge):
        parse_client_hello(records(message, 1))


def test_a_large_hello_that_trickles_in_costs_no_more_than_it_has_bytes():
    message = hello_of(10_900)
    stream = records(message, 1)
    assert 65_000 < len(stream) <= MAX_HELLO_BYTES
    reader, begun = HelloReader(), time.process_time()
    for end in range(1, len(stream)):
        assert reader.read(stream[:end]) is None
    assert reader.read(stream) == ClientHello(NAME, NAME, (), (TLS_1_2,), None, len(message), len(stream))
    # About 0.1 s. Reading all records anew each time takes more than a minute.
    assert time.process_time() - begun < 10


def test_many_extensions_and_protocols_are_read_in_no_time():
    crowded = hello(*(extension(kind) for kind in range(100, 16_000)), server_name(NAME))
    begun = time.process_time()
    assert parse_client_hello(records(crowded, 16_384)).server_name == NAME
    protocols = hello(alpn(*[b"a"] * 2000))
    assert len(parse_client_hello(record(protocols)).alpn) == 2000
    assert time.process_time() - begun < 2


def test_what_is_kept_of_hellos_is_small():
    kept = client_hello._usual_protocols.cache_info().currsize
    assert len(parse_client_hello(record(hello(alpn(*[b"protocol"] * 400)))).alpn) == 400
    assert client_hello._usual_protocols.cache_info().currsize == kept


def test_a_list_of_protocols_that_nobody_sends_is_malformed():
    assert len(parse_one(server_name(NAME) + alpn(*[b"h2"] * 1000)).alpn) == 1000
    assert parse_one(server_name(NAME) + alpn(*[b"h2"] * 1400)) is MalformedHello
