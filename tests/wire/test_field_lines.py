"""Field lines are told apart by name, whatever its case; what stays is as it came. Their grammar: test_request_head.py."""

from __future__ import annotations

import pytest

from egressproxy.errors import HeadTooLarge, MalformedRequest, UpstreamProtocolError
from egressproxy.wire.field_lines import (
    CLIENT,
    UPSTREAM,
    await_more,
    check_chunked,
    connection_options,
    end_of_fields,
    excerpt,
    members,
    octet,
    plain_number,
    sort_out,
    without,
)


def test_finds_where_the_lines_end_and_looks_no_further():
    assert end_of_fields(b"--A: b\r\n\r\n\0", 2, 11, 9, CLIENT) == 8
    assert end_of_fields(b"--\r\n", 2, 4, 0, CLIENT) == 2
    assert end_of_fields(b"--A: b\r\n\0", 2, 8, 9, CLIENT) is None


@pytest.mark.parametrize(
    ("sender", "malformed", "too_large"),
    [(CLIENT, MalformedRequest, HeadTooLarge), (UPSTREAM, UpstreamProtocolError, UpstreamProtocolError)],
)
def test_whose_lines_they_are_says_which_error(sender, malformed, too_large):
    with pytest.raises(malformed):
        end_of_fields(b"A b", 0, 3, 9, sender)
    with pytest.raises(too_large, match=f"the {sender.what} has more than 1 fields"):
        end_of_fields(b"A: b\r\nC", 0, 7, 1, sender)
    with pytest.raises(too_large, match=f"the {sender.what} is not complete within 3 bytes"):
        await_more(b"1234", 3, sender)
    with pytest.raises(malformed):
        plain_number("Content-Length", b"", sender)
    with pytest.raises(malformed):
        check_chunked(b"gzip", None, "1.1", sender)
    with pytest.raises(malformed):
        connection_options(b"a b", sender)
    await_more(b"123", 3, sender)


def test_sorts_what_is_read_here_from_what_is_handed_on():
    lines = b"A: 1\r\nb:\t two words \r\nUSER-AGENT:x\r\nB: 3\r\nC:\r\nUser-Agent: y\r\n"
    said, rest = sort_out(lines, {b"b": False, b"user-agent": True})
    assert said == {b"b": b"two words, 3", b"user-agent": b"x"}
    assert b"\r\n".join(rest) == b"A: 1\r\nUSER-AGENT:x\r\nC:\r\nUser-Agent: y\r\n"
    assert sort_out(b"", {}) == ({}, [b""])


def test_lines_are_left_out_by_name_and_not_by_how_they_begin():
    lines = [b"A: 1", b"Ab: 2", b"aB:3", b""]
    assert without(lines, frozenset({b"a"})) == [b"Ab: 2", b"aB:3", b""]
    assert without(lines, frozenset({b"ab"})) == [b"A: 1", b""]


@pytest.mark.parametrize(
    ("value", "options"),
    [
        (b"close", {b"close"}),
        (b"Keep-Alive", {b"keep-alive"}),
        (b"keep-Alive,\tX-Mine ,close", {b"keep-alive", b"x-mine", b"close"}),
        (b", ,", set()),  # RFC 9110 section 5.6.1.2: empty members mean nothing
        (b"", set()),
    ],
)
def test_reads_connection_options_in_any_case(value, options):
    assert connection_options(value, CLIENT) == options


def test_members_are_what_stands_between_commas():
    assert members(b"Trailers, deflate;q=0.5") == {b"trailers", b"deflate;q=0.5"}


@pytest.mark.parametrize("value", [b"0", b"5", b"0005", b"9" * 19])
def test_a_length_is_decimal_digits(value):
    assert plain_number("Content-Length", value, CLIENT) == int(value)


NO_LENGTHS = {
    "nothing": b"",
    "a sign": b"+5",
    "a minus": b"-0",
    "inner space": b"5 5",
    "hexadecimal": b"0x5",
    "hex digits": b"a",
    "underscore": b"1_0",
    "a fraction": b"5.0",
    "an exponent": b"1e3",
    "a list": b"5, 5",
    "a list without space": b"5,5",
    "a list of one": b"5,",
    "superscript two in ISO-8859-1": b"\xb2",
    "Arabic digit in UTF-8": "٣".encode(),
    "twenty digits": b"1" * 20,
}


@pytest.mark.parametrize("value", NO_LENGTHS.values(), ids=NO_LENGTHS.keys())
def test_nothing_else_is_a_length(value):
    with pytest.raises(MalformedRequest, match="expected one Content-Length"):
        plain_number("Content-Length", value, CLIENT)


@pytest.mark.parametrize(
    ("value", "length", "version", "message"),
    [
        (b"gzip", None, "1.1", "one `chunked`"),
        (b"gzip, chunked", None, "1.1", "one `chunked`"),
        (b"chunked, chunked", None, "1.1", "one `chunked`"),
        (b"chunked;a=b", None, "1.1", "one `chunked`"),
        (b"xchunked", None, "1.1", "one `chunked`"),
        (b"\x0bchunked", None, "1.1", "one `chunked`"),
        (b"identity", None, "1.1", "one `chunked`"),
        (b"", None, "1.1", "one `chunked`"),
        (b"chunked", b"0", "1.1", "got both"),
        (b"chunked", None, "1.0", "in HTTP/1.0"),
    ],
)
def test_nothing_but_chunked_is_a_transfer_coding_and_that_by_itself(value, length, version, message):
    with pytest.raises(MalformedRequest, match=message):
        check_chunked(value, length, version, CLIENT)


def test_chunked_is_chunked_in_any_case():
    check_chunked(b"Chunked", None, "1.1", CLIENT)


def test_shows_bytes_shortly_and_printably():
    assert excerpt(b"a\r\n\xff") == r"'a\r\n\xff'"
    assert excerpt(b"a" * 41) == "'" + "a" * 40 + "'..."
    assert [octet(value) for value in (0, 9, 32, 65, 127, 200)] == ["NUL", "a tab", "a space", "'A'", "DEL", "0xc8"]
