"""Fuzz target: a ClientHello, read in every way, means one thing, and to OpenSSL the same.

`check` is the invariant. `run.py` gives it to libFuzzer; `test_client_hello_corpus.py` runs it over a corpus.
"""

from __future__ import annotations

from support.hellos import Judge, message_of, record, records
from support.parsing import TRAILERS, outcome, outcome_in_pieces

from egressproxy.errors import HelloTooLarge, MalformedHello, NotTls
from egressproxy.hostport import canonical_host
from egressproxy.wire.client_hello import MAX_HELLO_BYTES, ClientHello, HelloReader, parse_client_hello

DOCUMENTED = (NotTls, MalformedHello, HelloTooLarge)
_JUDGE = Judge()


def check(data: bytes) -> None:
    """Raises AssertionError where what is read of `data` is not one of the documented outcomes, or depends on chance."""
    result = outcome(parse_client_hello, data)
    step = 1 + sum(data[:64]) % 97
    pieces = [data[at : at + step] for at in range(0, len(data), step)]
    assert outcome_in_pieces(HelloReader().read, pieces) == result, f"in pieces of {step} it is something else"
    if result is not None:
        assert all(outcome(parse_client_hello, data + more) == result for more in TRAILERS), "what follows matters"
    if not isinstance(result, ClientHello):
        assert result is None or result in DOCUMENTED, f"{result!r} is not documented"
        # Also a hello that is not complete, or refused, names nobody: OpenSSL may take some of them, and we never do.
        return

    assert 0 < result.length <= min(len(data), MAX_HELLO_BYTES)
    cuts = {*range(0, result.length, 1 + result.length // 16), result.length - 1}
    assert all(parse_client_hello(data[:cut]) is None for cut in cuts), "a cut hello is an answer"
    _check_name(result)
    assert all(each.isascii() and each.isprintable() and each for each in result.alpn)

    stream = data[: result.length]
    message = message_of(stream)
    assert len(message) == result.length - 5 * result.records
    elsewhere = parse_client_hello(records(message, 1 + step * 7))
    assert elsewhere is not None
    assert elsewhere[:-2] == result[:-2], "over other records it is something else"

    if len(message) <= 16_384:
        names = _JUDGE.names(record(message))
        assert names in ([], [result.server_name_as_sent or None]), f"OpenSSL reads {names}"


def _check_name(result: ClientHello) -> None:
    name, as_sent = result.server_name, result.server_name_as_sent
    if name is None:
        assert as_sent == ""
    else:
        assert canonical_host(as_sent) == canonical_host(name) == (name, False)
