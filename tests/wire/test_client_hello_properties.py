"""Any bytes end in a documented outcome, which depends on the bytes alone; a name is what OpenSSL takes for the name."""

from __future__ import annotations

import ssl
from itertools import pairwise

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from support.hellos import (
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
    records,
    server_name,
    supported_versions,
)
from support.parsing import outcome, outcome_in_pieces

from egressproxy.errors import HelloTooLarge, MalformedHello, MalformedTarget, NotTls
from egressproxy.hostport import canonical_host
from egressproxy.wire.client_hello import ClientHello, HelloReader, parse_client_hello

DOCUMENTED = (NotTls, MalformedHello, HelloTooLarge)
WHOLE = [*(path.read_bytes() for path in CAPTURES), browser_hello("a.example"), openssl_hello("a.example", "h2")]
JUDGE = Judge()

labels = st.from_regex(r"(?!-)[A-Za-z0-9_-]{1,12}(?<!-)", fullmatch=True)
names = st.lists(labels, min_size=1, max_size=5).map(".".join)
anything_like_a_name = names | st.text(st.characters(min_codepoint=1, max_codepoint=0x7F), min_size=1, max_size=40)
blobs = st.binary(max_size=12)
extensions = st.one_of(
    st.builds(server_name, names | blobs),
    st.builds(server_name, names, names),
    st.builds(lambda name, kind: server_name(name, kind=kind), names, st.integers(0, 3)),
    st.builds(alpn, st.sampled_from([b"h2", b"http/1.1", b"\n\n", b""])),
    st.builds(supported_versions, st.sampled_from([0x0304, 0x0303, 0x2A2A])),
    st.builds(ech_outer, st.integers(0, 40), st.integers(0, 40)),
    st.builds(extension, st.sampled_from([0, 16, 43, 0xFE0D, 51, 0x1A1A]), blobs),
    blobs,
)
built = st.builds(
    lambda parts, sizes: records(hello(*parts), *sizes),
    st.lists(extensions, max_size=6),
    st.lists(st.integers(1, 300), max_size=4),
)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    data = bytearray(draw(st.sampled_from(WHOLE) | built))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 4))] = draw(st.binary(max_size=3) | extensions)
    return bytes(data)


streams = mutated() | st.binary(max_size=80) | st.binary(max_size=80).map(lambda data: b"\x16\x03\x01" + data)


@given(streams)
@settings(max_examples=200, deadline=None)
def test_any_bytes_end_in_a_documented_outcome(data: bytes):
    result = outcome(parse_client_hello, data)
    assert result is None or isinstance(result, ClientHello) or result in DOCUMENTED


@given(streams, st.lists(st.integers(0, 2000), max_size=8))
@settings(max_examples=200, deadline=None)
def test_any_split_gives_the_same_answer(data: bytes, cuts: list[int]):
    whole = outcome(parse_client_hello, data)
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    for pieces in ([data[start:end] for start, end in pairwise(edges)], [data[i : i + 1] for i in range(len(data))]):
        assert outcome_in_pieces(HelloReader().read, pieces) == whole
        assert outcome_in_pieces(parse_client_hello, pieces[:600]) == outcome(
            parse_client_hello, b"".join(pieces[:600])
        )


@given(streams)
@settings(max_examples=200, deadline=None)
def test_a_cut_hello_is_never_an_answer(data: bytes):
    result = outcome(parse_client_hello, data)
    if isinstance(result, ClientHello):
        reader = HelloReader()
        assert all(reader.read(data[:cut]) is None for cut in range(result.length))


@given(
    names,
    st.lists(st.sampled_from([b"h2", b"http/1.1", b"h3"]), min_size=1, max_size=3),
    st.lists(st.sampled_from([0x0304, 0x0303, 0x0302]), min_size=1, max_size=3),
    st.sampled_from([None, "outer", "inner"]),
    st.randoms(use_true_random=False),
    st.lists(st.integers(1, 400), max_size=5),
)
@settings(max_examples=200, deadline=None)
def test_what_was_built_is_what_is_read(name, protocols, versions, ech, chance, sizes):
    assume(is_a_name(name))
    parts = [server_name(name), alpn(*protocols), supported_versions(*versions), extension(35), extension(51, bytes(9))]
    if ech:
        parts.append(ech_outer() if ech == "outer" else extension(0xFE0D, b"\1"))
    chance.shuffle(parts)
    message = hello(*parts)
    stream = records(message, *sizes)
    read = parse_client_hello(stream + b"and what follows")
    assert read is not None
    assert read[:5] == (canonical_host(name)[0], name, tuple(each.decode() for each in protocols), tuple(versions), ech)
    assert (read.records, read.length) == ((len(stream) - len(message)) // 5, len(stream))


def is_a_name(name: str) -> bool:
    """Whether hostport takes the text for a name."""
    try:
        return not canonical_host(name)[1]
    except MalformedTarget:
        return False


@given(anything_like_a_name)
@settings(max_examples=300, deadline=None)
@example("www.example.test.")
@example("127.1")
@example("192.0.2.1.")
@example("a.example:443")
@example("xn--a.example")
def test_a_name_that_openssl_sends_is_read_as_that_name_or_refused(name: str):
    try:
        stream = openssl_hello(name.encode())
    except (ValueError, ssl.SSLError):
        return  # OpenSSL does not send it
    (seen,) = JUDGE.names(stream)
    result = outcome(parse_client_hello, stream)
    if seen is None:
        assert isinstance(result, ClientHello)  # an address, which is not sent
        assert result.server_name is None
    elif is_a_name(name):
        assert isinstance(result, ClientHello)
        assert (result.server_name, result.server_name_as_sent) == (canonical_host(name)[0], name)
        assert seen == name
    else:
        assert result is MalformedHello


@given(mutated())
@settings(max_examples=250, deadline=None)
@example(record(hello(extension(0, counted(b"\0" + counted(b"a.example"))), supported_versions(0x0304))))
def test_openssl_never_reads_another_name_than_the_one_that_is_judged(data: bytes):
    result = outcome(parse_client_hello, data)
    if isinstance(result, ClientHello):
        message = message_of(data[: result.length])
        assert JUDGE.names(records(message)) in ([], [result.server_name_as_sent or None])


@given(names, st.data())
@settings(max_examples=100, deadline=None)
def test_letter_case_and_a_trailing_dot_change_no_name(name: str, data: st.DataObject):
    assume(is_a_name(name))
    respelt = "".join(data.draw(st.sampled_from([each.lower(), each.upper()])) for each in name)
    respelt += data.draw(st.sampled_from(["", "."]))
    one, other = (parse_client_hello(record(hello(server_name(each)))) for each in (name, respelt))
    assert one is not None
    assert other is not None
    assert one.server_name == other.server_name
    assert other.server_name_as_sent == respelt


@pytest.mark.parametrize("seed", range(3))
def test_a_browser_is_understood_by_openssl(seed: int):
    assert JUDGE.names(browser_hello("www.example.test", seed=seed)) == ["www.example.test"]
