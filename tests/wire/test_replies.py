"""Every refusal is a well-formed reply that names its cause, whatever the message holds."""

from __future__ import annotations

import html
import re

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from egressproxy.errors import (
    AddressDenied,
    ClientGone,
    ConnectTimeout,
    EgressError,
    HeadTooLarge,
    InternalError,
    MalformedRequest,
    NameNotFound,
    RuleDenied,
    TargetTooLong,
    TunnelLimit,
    UpstreamTimeout,
)
from egressproxy.wire.replies import CONTENT_TYPE, ESTABLISHED, MAX_CAUSE_CHARS, MAX_TEXT_CHARS, refusal


def leaves(kind: type[EgressError] = EgressError) -> list[type[EgressError]]:
    below = kind.__subclasses__()
    return [leaf for child in below for leaf in leaves(child)] if below else [kind]


ANSWERED = [leaf for leaf in leaves() if leaf.status is not None]
UNANSWERED = [leaf for leaf in leaves() if leaf.status is None]
HOSTILE_MESSAGES = {
    "CR LF": "a\r\nSet-Cookie: stolen=1\r\n\r\n<p>",
    "NUL": "a\0b",
    "controls": "".join(map(chr, range(32))) + "\x7f\x80\x85\x9f",
    "quotes": "say \"no\" and 'no'",
    "backslashes": "\\ \\\\ \\",
    "a backslash before a quote": '\\"; error=none; x="',
    "markup": "<script>alert(1)</script>&amp;",
    "emoji": "🦊 bücher \u2028 \ud800",
    "long": "long" * 2500,
    "long and escaped": "🦊" * 2500,
    "spaces around": "  x  ",
    "empty": "",
}


def read_as_client(data: bytes) -> tuple[h11.Response, bytes]:
    """The reply as h11 reads it: after it, the connection is over and nothing is left."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="CONNECT", target="a.example:443", headers=[("Host", "a.example:443")]))
    client.send(h11.EndOfMessage())
    client.receive_data(data)
    response = client.next_event()
    assert isinstance(response, h11.Response)
    body = b""
    while isinstance(event := client.next_event(), h11.Data):
        body += event.data
    assert isinstance(event, h11.EndOfMessage)
    assert client.their_state is h11.MUST_CLOSE
    assert client.trailing_data == (b"", False)
    return response, body


def read_proxy_status(value: str) -> tuple[str, dict[str, str]]:
    """A member of a structured list and its parameters, tokens and strings (RFC 9651 section 4.2), nothing else."""
    key, token = r"[a-z*][a-z0-9_.*-]*", r"[A-Za-z*][!#$%&'*+.^_`|~:/0-9A-Za-z-]*"
    string = r'"(?:[ !#-\[\]-~]|\\["\\])*"'
    assert re.fullmatch(rf"{token}(?:; *{key}=(?:{token}|{string}))*", value), value
    parameters = re.findall(rf"; *({key})=({token}|{string})", value)
    return value.split(";")[0], {
        name: re.sub(r"\\(.)", r"\1", text[1:-1]) if text.startswith('"') else text for name, text in parameters
    }


def check(error: EgressError) -> None:
    data = refusal(error)
    head, _, _ = data.partition(b"\r\n\r\n")
    assert all(re.fullmatch(rb"[ -~]+", line) for line in head.split(b"\r\n"))

    response, body = read_as_client(data)
    headers = {name.decode(): value.decode() for name, value in response.headers}
    assert response.status_code == error.status
    standard_phrase, _, cause = response.reason.decode().partition(": ")
    assert re.fullmatch(r"[A-Z][A-Za-z -]+", standard_phrase)
    assert cause.startswith(error.slug)
    assert len(cause) <= MAX_CAUSE_CHARS
    assert set(headers) == {
        "proxy-status",
        "content-type",
        "content-length",
        "cache-control",
        "connection",
    }
    name, parameters = read_proxy_status(headers["proxy-status"])
    assert name == "egressproxy"
    assert parameters == {"error": error.proxy_status, "details": cause}

    if isinstance(error, UpstreamTimeout):
        assert body == b"upstream request timeout"
        return
    what, next_step = re.findall(r"<p>([^<>]*)</p>", body.decode())
    said = html.unescape(what).removeprefix("egressproxy: ")
    assert said == cause if len(said) < MAX_CAUSE_CHARS else said.startswith(cause.removesuffix("..."))
    assert len(said) <= MAX_TEXT_CHARS
    assert next_step


def test_the_reply_that_opens_a_tunnel_is_squids():
    assert ESTABLISHED == b"HTTP/1.1 200 Connection established\r\n\r\n"
    assert len(ESTABLISHED) == 39


def test_a_refusal_may_have_another_status_no_body_or_one_that_is_not_sent():
    error = RuleDenied("no rule allows it: evil.example:80")
    whole = refusal(error)
    head, _, body = whole.partition(b"\r\n\r\n")
    assert refusal(error, body_is_sent=False) == head + b"\r\n\r\n"  # to a HEAD: the length is that of the body
    assert b"Content-Length: %d\r\n" % len(body) in whole

    empty = refusal(error, status=502, has_body=False)
    assert empty.startswith(b"HTTP/1.1 502 Bad Gateway: rule_denied: ")
    assert b"Content-Length: 0\r\n" in empty
    assert b"Content-Type" not in empty
    assert empty.endswith(b"\r\n\r\n")

    kept = refusal(error, keep_alive=True)
    assert kept == whole.replace(b"Connection: close", b"Connection: keep-alive")


def test_a_refusal_reads_well():
    reply = refusal(RuleDenied("no rule allows it: evil.example:443"))
    assert reply.decode().replace("\r\n", "\n") == (
        "HTTP/1.1 403 Forbidden: rule_denied: no rule allows it: evil.example:443\n"
        "Proxy-Status: egressproxy; error=http_request_denied; "
        'details="rule_denied: no rule allows it: evil.example:443"\n'
        "Content-Type: text/html; charset=utf-8\n"
        "Content-Length: 277\n"
        "Cache-Control: no-store\n"
        "Connection: close\n"
        "\n"
        "<!DOCTYPE html>\n"
        "<title>403 Forbidden</title>\n"
        "<p>egressproxy: rule_denied: no rule allows it: evil.example:443</p>\n"
        "<p>The proxy does not let this through. Ask its operator: "
        "`egressproxy explain CONFIG --to HOST:PORT`, or `--to URL` for plain HTTP, tells which rule decides.</p>\n"
    )


@pytest.mark.parametrize("kind", ANSWERED, ids=lambda kind: kind.slug)
@pytest.mark.parametrize("message", HOSTILE_MESSAGES.values(), ids=HOSTILE_MESSAGES.keys())
def test_every_error_gives_a_well_formed_reply_whatever_its_message(kind, message):
    check(kind(message))


@given(st.sampled_from(ANSWERED), st.text(st.characters(codec=None), max_size=300))
def test_no_message_can_break_a_reply(kind: type[EgressError], message: str):
    check(kind(message))


@pytest.mark.parametrize("kind", UNANSWERED, ids=lambda kind: kind.slug)
def test_an_error_without_a_status_has_no_reply(kind):
    with pytest.raises(ValueError, match=kind.slug):
        refusal(kind("gone"))


def test_there_are_errors_of_both_kinds():
    assert RuleDenied in ANSWERED
    assert ClientGone in UNANSWERED


def test_escapes_are_readable_and_printable_text_is_left_alone():
    reply = refusal(MalformedRequest("got 'GET \\x16' and\r\nbücher \\"))
    assert reply.startswith(b"HTTP/1.1 400 Bad Request: malformed_request: got 'GET \\x16' and\\r\\nb\\xfccher \\\r\n")
    assert b"details=\"malformed_request: got 'GET \\\\x16' and\\\\r\\\\nb\\\\xfccher \\\\\"\r\n" in reply


def test_a_long_cause_is_cut_and_says_so():
    status_line = refusal(RuleDenied("a" * 10_000)).split(b"\r\n")[0]
    assert status_line == b"HTTP/1.1 403 Forbidden: rule_denied: " + b"a" * (200 - 16) + b"..."


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (HeadTooLarge("x"), b"HTTP/1.1 431 Request Header Fields Too Large: head_too_large: x"),
        (TargetTooLong("x"), b"HTTP/1.1 414 URI Too Long: target_too_long: x"),
        (NameNotFound("x"), b"HTTP/1.1 503 Service Unavailable: name_not_found: x"),
        (ConnectTimeout("x"), b"HTTP/1.1 504 Gateway Timeout: connect_timeout: x"),
        (InternalError("x"), b"HTTP/1.1 500 Internal Server Error: internal_error: x"),
        (AddressDenied(""), b"HTTP/1.1 403 Forbidden: address_denied"),
    ],
)
def test_the_status_line_carries_standard_phrase_slug_and_cause(error, line):
    assert refusal(error).split(b"\r\n")[0] == line


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (MalformedRequest("x"), b"proxy settings"),
        (RuleDenied("x"), b"egressproxy explain"),
        (NameNotFound("x"), b"name resolution"),
        (TunnelLimit("x"), b"Try again later"),
    ],
)
def test_the_body_says_what_to_do_next(error, advice):
    assert advice in read_as_client(refusal(error))[1]


def test_the_log_and_the_reply_agree_on_the_media_type():
    headers = dict(read_as_client(refusal(RuleDenied("x")))[0].headers)
    assert headers[b"content-type"].decode().split(";")[0] == CONTENT_TYPE == "text/html"
