"""What the check finds in every kind of first bytes, under every setting; and that nothing passes by accident."""

from __future__ import annotations

import gc
from itertools import pairwise
from types import SimpleNamespace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.hellos import (
    CAPTURES,
    browser_hello,
    extension,
    hello,
    openssl_hello,
    record,
    records,
    server_name,
    supported_versions,
)
from support.parsing import outcome_in_pieces

from egressproxy.agreement import OUTCOMES, agreement_for
from egressproxy.config.schema.config import Config
from egressproxy.errors import EchDenied, EgressError, MalformedHello, NotTls, SniMismatch
from egressproxy.hostport import parse_authority
from egressproxy.model import Intent
from egressproxy.policy.policy import Policy
from egressproxy.telemetry.record import RecordDraft
from egressproxy.wire import client_hello
from egressproxy.wire.client_hello import MAX_BEFORE_SECOND_BYTES, parse_client_hello

NAME, OTHER = "www.example.test", "other.example.test"
GRANTED = openssl_hello(NAME)
LIMIT = 65_536


def check(target=f"{NAME}:443", *, limit=LIMIT, everywhere=None, **rule):
    """The check of a tunnel that a rule with these settings grants, and the draft that it notes in."""
    config = Config.model_validate(
        {
            "listeners": [{"protocol": "http-proxy", "port": 3128}],
            "rules": [{"name": "known", "action": "allow", "hosts": [NAME, "192.0.2.1"], **rule}],
            **(everywhere or {}),
        }
    )
    policy = Policy.from_config(config, lambda address, port: False)
    intent = Intent("10.0.0.1", "http-proxy:3128", "CONNECT", parse_authority(target))
    draft = RecordDraft(1, "http-proxy:3128", "http-proxy", "10.0.0.1", 40000, 0.0)
    services = SimpleNamespace(policy=policy, max_hello_bytes=limit, head_deadlines=object())
    return agreement_for(intent, policy.decide(intent), draft, services), draft


def found(said, **setting):
    """What is noted, and the slug of the refusal or None."""
    agreement, draft = check(**setting)
    assert agreement is not None
    try:
        said(agreement)
    except EgressError as error:
        return draft.sni_check, error.slug
    return draft.sni_check, None


def judged(data):
    def said(agreement):
        assert agreement.judge(data) == len(data)

    return said


def unfinished(how):
    def said(agreement):
        assert agreement.judge(GRANTED[:99]) is None
        getattr(agreement, how)(GRANTED[:99])

    return said


SAID = {
    "match": (judged(GRANTED), None),
    "mismatch": (judged(openssl_hello(OTHER)), "sni_mismatch"),
    "no_sni": (judged(openssl_hello(None)), "no_sni"),
    "not_tls": (judged(b"EHLO client.example\r\n"), "not_tls"),
    "malformed": (judged(GRANTED.replace(b"www.", b"www\0")), "malformed_hello"),
    "malformed: cut": (unfinished("end"), "malformed_hello"),
    "malformed: long": (judged(browser_hello(NAME)), "hello_too_large"),
    "ech": (judged(browser_hello(NAME)), "ech_denied"),
    "timeout": (unfinished("expire"), "hello_timeout"),
    "timeout: silent": (lambda agreement: agreement.expire(b""), "hello_timeout"),
}
NAMES_ASIDE = {"mismatch", "no_sni", "ech"}
"""What is TLS, in order, with the wrong name."""

REFUSED = [
    ({}, set(SAID)),  # the default on port 443
    ({"sni_check": "enforce"}, set(SAID)),
    ({"sni_check": "enforce", "require_tls": True}, set(SAID)),
    ({"sni_check": "enforce", "require_tls": False}, set(SAID) - {"not_tls"}),
    ({"require_tls": False}, set(SAID) - {"not_tls"}),
    ({"sni_check": "report"}, set()),
    ({"sni_check": "report", "require_tls": False}, set()),
    ({"sni_check": "report", "require_tls": True}, set(SAID) - NAMES_ASIDE),
]


@pytest.mark.parametrize("kind", SAID)
@pytest.mark.parametrize(("setting", "refused"), REFUSED, ids=[repr(setting) for setting, _ in REFUSED])
def test_what_is_found_is_noted_and_refused_as_the_rule_says(setting, refused, kind):
    said, slug = SAID[kind]
    more = {"malformed: long": {"limit": 1024}, "ech": {"ech": "deny"}}.get(kind, {})
    expected = slug if kind in refused else None
    assert found(said, **setting, **more) == (kind.partition(":")[0], expected)


@pytest.mark.parametrize("kind", SAID)
def test_where_only_tls_is_required_names_are_not_compared(kind):
    """Any name will do, and is noted without a finding. One that may be hidden is refused where `ech` says so."""
    said, slug = SAID[kind]
    more = {"malformed: long": {"limit": 1024}, "ech": {"ech": "deny"}}.get(kind, {})
    any_name = kind in ("match", "mismatch", "no_sni")
    expected = (None, None) if any_name else (kind.partition(":")[0], slug)
    assert found(said, sni_check="off", require_tls=True, **more) == expected
    assert found(said, target=f"{NAME}:8443", require_tls=True, **more) == expected


def test_all_outcomes_are_told_apart():
    assert {kind.partition(":")[0] for kind in SAID} == set(OUTCOMES)


# --- which tunnels are checked ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("port", "setting", "checked"),
    [
        (443, {}, True),
        (8443, {}, False),
        (8443, {"sni_check": "enforce"}, True),
        (8443, {"sni_check": "report"}, True),
        (8443, {"require_tls": True}, True),
        (8443, {"require_tls": False}, False),
        (8443, {"everywhere": {"sni_check": "report"}}, True),
        (8443, {"everywhere": {"sni_check": "enforce"}, "sni_check": "off"}, False),
        (443, {"sni_check": "off"}, False),
        (443, {"sni_check": "off", "require_tls": False}, False),
        (443, {"sni_check": "off", "require_tls": True}, True),
        (443, {"everywhere": {"sni_check": "off"}}, False),
        (443, {"everywhere": {"sni_check": "off"}, "sni_check": "enforce"}, True),
    ],
    ids=repr,
)
def test_a_tunnel_is_checked_on_443_and_where_asked_for(port, setting, checked):
    agreement, draft = check(f"{NAME}:{port}", **setting)
    assert (agreement is not None) is checked
    assert draft.sni_check is None


def test_what_no_rule_allows_and_passes_all_the_same_is_checked_too():
    agreement, _ = check("unknown.example.test:443", everywhere={"outbound": "allow_any"})
    assert agreement is not None
    with pytest.raises(SniMismatch):
        agreement.judge(GRANTED)


@pytest.mark.parametrize("target", [f"{NAME}:443", "unknown.example.test:443"])
def test_where_refusals_are_only_reported_a_mismatch_is_too_unless_a_check_is_set(target):
    agreement, draft = check(target, everywhere={"report": True})
    assert agreement is not None
    assert agreement.judge(openssl_hello("other.example.test"))
    assert draft.sni_check == "mismatch"
    agreement, _ = check(target, everywhere={"report": True, "sni_check": "enforce"})
    assert agreement is not None
    with pytest.raises(SniMismatch):
        agreement.judge(openssl_hello("other.example.test"))


def test_who_came_by_its_hello_is_not_judged_twice():
    agreement, draft = check()
    draft.server_name = NAME
    config = Config.model_validate({"listeners": [{"protocol": "sni", "port": 8443}], "outbound": "allow_any"})
    policy = Policy.from_config(config, lambda address, port: False)
    intent = Intent("10.0.0.1", "sni:8443", "CONNECT", parse_authority(f"{NAME}:443"), None)
    services = SimpleNamespace(policy=policy, max_hello_bytes=LIMIT, head_deadlines=object())
    assert agreement is not None
    assert agreement_for(intent, policy.decide(intent), draft, services) is None


@pytest.mark.parametrize(
    ("setting", "patient"),
    [({}, False), ({"require_tls": True}, False), ({"sni_check": "report"}, False), ({"require_tls": False}, True)],
)
def test_only_who_need_not_speak_tls_may_be_silent(setting, patient):
    """`report` says what `enforce` would have done, to the silent as well."""
    agreement, _ = check(**setting)
    assert agreement is not None
    assert agreement.patient is patient


# --- the names ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sent", [NAME.upper(), "wWw.exAmple.test"])
def test_a_name_is_compared_in_canonical_form_and_noted_as_sent(sent):
    agreement, draft = check(f"{NAME.title()}.:443")
    assert agreement is not None
    assert agreement.judge(openssl_hello(sent))
    assert (draft.sni_check, draft.server_name) == ("match", sent)


def test_a_trailing_dot_changes_nothing():
    dotted = record(hello(server_name(NAME + ".")))
    agreement, draft = check()
    assert agreement is not None
    assert agreement.judge(dotted)
    assert draft.server_name == NAME + "."


@pytest.mark.parametrize("name", ["example.test", f"a.{NAME}", f"{NAME}.evil", "www.example.tes", "www-example.test"])
def test_a_name_beside_it_is_another(name):
    assert found(judged(record(hello(server_name(name))))) == ("mismatch", "sni_mismatch")


def test_the_refusal_names_both_and_the_rule():
    agreement, draft = check()
    assert agreement is not None
    with pytest.raises(SniMismatch) as caught:
        agreement.judge(openssl_hello(OTHER))
    assert str(caught.value) == (
        f"the tunnel was granted for {NAME}:443 by known, the ClientHello inside asks for {OTHER}"
    )
    assert draft.server_name == OTHER


@pytest.mark.parametrize(
    ("name", "expected"), [(None, "match"), (NAME, "match"), (OTHER, "mismatch")], ids=["none", "allowed", "refused"]
)
def test_a_tunnel_to_an_address_holds_no_name_or_one_that_may_be_reached_by_itself(name, expected):
    slug = "sni_mismatch" if expected == "mismatch" else None
    assert found(judged(openssl_hello(name)), target="192.0.2.1:443") == (expected, slug)


def test_a_hello_of_just_the_limit_is_read_and_one_byte_more_is_not():
    size = len(GRANTED)
    agreement, _ = check(limit=size)
    assert agreement is not None
    assert agreement.judge(GRANTED + b"more") == size
    assert found(judged(GRANTED + b"more"), limit=size - 1) == ("malformed", "hello_too_large")
    agreement, _ = check(limit=99)
    assert agreement is not None
    assert agreement.judge(GRANTED[:99]) is None
    with pytest.raises(EgressError, match=r"more than 99 bytes \(limits.max_hello_bytes\)"):
        agreement.judge(GRANTED[:100])


def test_who_leaves_without_a_word_has_nothing_to_be_judged():
    agreement, draft = check()
    assert agreement is not None
    agreement.end(b"")
    assert draft.sni_check is None


# --- when the server asks again -----------------------------------------------------------------------------------

CCS, EARLY = record(b"\1", 20, 0x0303), record(bytes(300), 23, 0x0303)
RETRY = record(b"\x02\0\0\x2c\3\3" + bytes.fromhex("CF21AD74E59A6111BE1D8C021E65B891C2A211167ABB8C5E079E09E2C8A8339C"))


def asked_again(*, first=GRANTED, **setting):
    """A check that has let a first hello pass and listens, and its draft."""
    agreement, draft = check(**setting)
    assert agreement is not None
    assert agreement.judge(first + b"more") == len(first)
    assert agreement.listens
    assert agreement.hear(RETRY[:9]) is None
    assert agreement.hear(RETRY)
    assert draft.sni_check == "match"
    return agreement, draft


AGAIN = {
    "match": (GRANTED, None),
    "mismatch": (openssl_hello(OTHER), "sni_mismatch"),
    "mismatch: none": (openssl_hello(None), "sni_mismatch"),
    "ech": (browser_hello(NAME), "ech_denied"),
    "malformed": (GRANTED.replace(b"www.", b"www\0"), "malformed_hello"),
    "malformed: no hello": (record(b"\x10\0\0\0"), "malformed_hello"),
    "malformed: other record": (record(b"\0", 24), "malformed_hello"),
    "malformed: not tls": (b"GET / HTTP/1.1\r\n\r\n", "malformed_hello"),
    "malformed: two names": (record(hello(server_name(NAME), server_name(OTHER))), "malformed_hello"),
    "malformed: long": (record(hello(server_name(NAME), extension(0xFAFA, bytes(5000)))), "hello_too_large"),
    "malformed: too long": (b"\x16\3\1\x40\0\1\1\0\0" + bytes(99), "hello_too_large"),
}
AGAIN_REFUSED = [
    ({}, set(AGAIN)),
    ({"sni_check": "enforce"}, set(AGAIN)),
    ({"require_tls": False}, set(AGAIN)),
    ({"sni_check": "report"}, set()),
    ({"sni_check": "report", "require_tls": True}, {kind for kind in AGAIN if kind.startswith("malformed")}),
]


@pytest.mark.parametrize(
    "before", [b"", CCS, CCS + EARLY, record(b"\1\x5a", 21)], ids=["bare", "ccs", "early", "alert"]
)
@pytest.mark.parametrize("kind", AGAIN)
@pytest.mark.parametrize(("setting", "refused"), AGAIN_REFUSED, ids=[repr(setting) for setting, _ in AGAIN_REFUSED])
@pytest.mark.parametrize("size", [1, 100_000], ids=["byte by byte", "whole"])
def test_a_second_hello_is_noted_and_refused_as_the_rule_says(setting, refused, kind, before, size):
    said, slug = AGAIN[kind]
    more = {"malformed: long": {"limit": 4096}, "ech": {"ech": "deny"}}.get(kind, {})
    agreement, draft = asked_again(**setting, **more)
    data = before + said
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    result = outcome_in_pieces(lambda data: agreement.judge_again(data) or None, pieces)
    if kind in refused and slug:
        assert getattr(result, "slug", None) == slug
    else:
        assert result is True
    assert draft.sni_check == kind.partition(":")[0]


def test_no_cut_of_a_second_hello_passes():
    data = CCS + EARLY + records(hello(server_name(NAME)), 1)
    agreement, _ = asked_again()
    assert [agreement.judge_again(data[:end]) for end in range(len(data))] == [False] * len(data)
    assert agreement.judge_again(data + b"more")


def test_the_refusal_of_a_second_hello_names_both():
    agreement, draft = asked_again()
    with pytest.raises(SniMismatch) as caught:
        agreement.judge_again(CCS + openssl_hello(OTHER))
    assert str(caught.value) == (
        f"the tunnel was granted for {NAME}:443 by known, the ClientHello inside asks for {OTHER} when the server asks again"
    )
    assert draft.server_name == OTHER


@pytest.mark.parametrize("first", [NAME, None])
@pytest.mark.parametrize("second", [NAME, "Www.Example.TEST", None, "192.0.2.1", OTHER])
def test_a_second_hello_in_a_tunnel_to_an_address_names_what_the_first_named(first, second):
    """Also where both names may be reached by themselves."""
    agreement, draft = asked_again(first=openssl_hello(first), target="192.0.2.1:443", hosts=[NAME, OTHER, "192.0.2.1"])
    same = first == (second and second.lower()) if second != "192.0.2.1" else first is None
    if same:
        assert agreement.judge_again(openssl_hello(second))
    else:
        with pytest.raises(SniMismatch):
            agreement.judge_again(openssl_hello(second))
    assert draft.sni_check == ("match" if same else "mismatch")


@pytest.mark.parametrize(
    ("versions", "listens"),
    [
        ((0x0304,), True),
        ((0x0303, 0x0304), True),
        ((0x7F1C, 0x0303), True),
        ((0x0305,), True),
        ((0x0303, 0x0302), False),
    ],
)
def test_the_answer_is_listened_to_where_a_server_may_ask_again(versions, listens):
    agreement, _ = check()
    assert agreement is not None
    said = record(hello(server_name(NAME), supported_versions(*versions)))
    assert agreement.judge(said) == len(said)
    assert agreement.listens is listens


def test_grease_alone_is_no_version():
    agreement, _ = check()
    assert agreement is not None
    assert agreement.judge(record(hello(server_name(NAME), supported_versions(0x2A2A))))
    assert not agreement.listens


def test_where_names_are_not_compared_nothing_is_listened_to():
    for setting in ({"sni_check": "off", "require_tls": True}, {"require_tls": True, "target": f"{NAME}:8443"}):
        agreement, _ = check(**setting)
        assert agreement is not None
        assert agreement.judge(GRANTED)
        assert not agreement.listens


@pytest.mark.parametrize("how", ["end", "expire"])
@pytest.mark.parametrize(("setting", "refused"), [({}, True), ({"sni_check": "report"}, False)])
def test_a_second_hello_that_does_not_come_whole(how, setting, refused):
    agreement, draft = asked_again(**setting)
    assert not agreement.judge_again(GRANTED[:99])
    if refused:
        with pytest.raises(EgressError):
            getattr(agreement, how)(GRANTED[:99])
    else:
        getattr(agreement, how)(GRANTED[:99])
    assert draft.sni_check == {"end": "malformed", "expire": "timeout"}[how]


def test_early_data_does_not_count_as_a_hello_but_has_a_bound():
    early = record(bytes(16_379), 23) * (MAX_BEFORE_SECOND_BYTES // 16_384)
    agreement, _ = asked_again(limit=1024)
    assert not agreement.judge_again(early[:-1])
    assert agreement.judge_again(early + GRANTED)
    agreement, draft = asked_again(limit=1024)
    with pytest.raises(EgressError, match="within 65536 bytes"):
        agreement.judge_again(early + CCS)
    assert draft.sni_check == "malformed"


def test_an_answer_that_does_not_ask_lets_everything_pass():
    agreement, draft = check()
    assert agreement is not None
    assert agreement.judge(GRANTED) == len(GRANTED)
    assert agreement.hear(RETRY[:11] + bytes(32)) is False
    assert agreement.hear(b"HTTP/1.1 400 ") is False
    assert agreement.hear(b"") is None
    assert draft.sni_check == "match"


def listener_check(said, *, everywhere=None, judged=None, **rule):
    """The check of a client of an `sni` listener that came by this hello."""
    config = Config.model_validate(
        {
            "listeners": [{"protocol": "sni", "port": 8443}],
            "rules": [{"name": "known", "action": "allow", "hosts": [NAME, OTHER], **rule}],
            **(everywhere or {}),
        }
    )
    policy = Policy.from_config(config, lambda address, port: False)
    intent = Intent("10.0.0.1", "sni:8443", "CONNECT", parse_authority(f"{NAME}:8443"))
    draft = RecordDraft(1, "sni:8443", "sni", "10.0.0.1", 40000, 0.0)
    draft.server_name = NAME
    draft.judged_bytes = len(said) if judged is None else judged
    services = SimpleNamespace(policy=policy, max_hello_bytes=LIMIT, head_deadlines=object())
    return agreement_for(intent, policy.decide(intent), draft, services), draft


@pytest.mark.parametrize(
    "setting", [{}, {"sni_check": "off"}, {"sni_check": "report"}, {"require_tls": False}], ids=repr
)
def test_who_came_by_its_hello_is_judged_by_its_second_whatever_the_check_in_tunnels(setting):
    """`sni_check` is about tunnels: here the name in the hello is what was allowed."""
    agreement, draft = listener_check(GRANTED, **setting)
    assert agreement is not None
    assert agreement.judged == len(GRANTED)
    assert agreement.judge_again(CCS + GRANTED)
    assert draft.sni_check is None
    agreement, draft = listener_check(GRANTED, **setting)
    with pytest.raises(SniMismatch):
        agreement.judge_again(openssl_hello(OTHER))
    assert (draft.sni_check, draft.server_name) == ("mismatch", OTHER)


def test_on_a_listener_that_only_reports_a_second_hello_is_reported():
    agreement, draft = listener_check(GRANTED, everywhere={"report": True})
    assert agreement.judge_again(openssl_hello(OTHER))
    assert draft.sni_check == "mismatch"


# --- whatever is sent ---------------------------------------------------------------------------------------------

WHOLE = [
    GRANTED,
    openssl_hello(OTHER),
    openssl_hello(None),
    browser_hello(NAME),
    records(hello(server_name(NAME)), 3),
    record(hello(server_name(NAME, OTHER))),
    record(hello(server_name(NAME), server_name(OTHER))),
    *(path.read_bytes() for path in CAPTURES[:3]),
]


@st.composite
def first_bytes(draw):
    data = bytearray(draw(st.sampled_from(WHOLE)))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
    return bytes(data)


@given(first_bytes() | st.binary(max_size=100), st.sampled_from([None, True]))
@example(GRANTED, None)
@settings(max_examples=150, deadline=None)
def test_what_passes_is_a_hello_that_names_the_host(data, require_tls):
    agreement, draft = check(**({} if require_tls is None else {"require_tls": True}))
    assert agreement is not None
    try:
        passes = agreement.judge(data)
    except EgressError:
        assert draft.sni_check in OUTCOMES
        assert draft.sni_check != "match"
        return
    read = parse_client_hello(data)
    if passes:
        assert read is not None
        assert read.server_name == NAME
        assert draft.sni_check == "match"
    else:
        assert read is None
        assert draft.sni_check is None


@given(first_bytes(), st.lists(st.integers(0, 600), max_size=8))
@settings(max_examples=150, deadline=None)
def test_any_split_is_judged_as_the_whole(data, cuts):
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    pieces = [data[start:end] for start, end in pairwise(edges)]

    def judge(pieces):
        agreement, draft = check()
        assert agreement is not None
        return outcome_in_pieces(lambda data: agreement.judge(data), pieces), draft.sni_check

    assert judge(pieces) == judge([data])


def test_records_of_one_byte_that_come_byte_by_byte_are_looked_at_once(monkeypatch):
    """Otherwise sixty kilobytes of them are a minute's work."""
    looks = 0
    look = client_hello._record_size

    def counted(*arguments, **more):
        nonlocal looks
        looks += 1
        return look(*arguments, **more)

    monkeypatch.setattr(client_hello, "_record_size", counted)
    stream = records(hello(server_name(NAME), extension(0xFAFA, bytes(2000))), 1)
    agreement, _ = check()
    assert agreement is not None
    assert [agreement.judge(stream[:size]) for size in range(1, len(stream) + 1)] == [None] * (len(stream) - 1) + [
        len(stream)
    ]
    assert looks < 2 * len(stream)


# --- nothing is left ----------------------------------------------------------------------------------------------


def errors_alive():
    """How many there are: tables of other tests hold some."""
    return sum(isinstance(one, EgressError) for one in gc.get_objects())


@pytest.mark.parametrize("kind", [kind for kind, (_, slug) in SAID.items() if slug])
def test_a_refusal_is_gone_without_the_garbage_collector(kind):
    """An error that is held by a frame which it passed through is a cycle; refusals come by the thousand."""
    more = {"malformed: long": {"limit": 1024}, "ech": {"ech": "deny"}}.get(kind, {})
    gc.collect()
    gc.disable()
    try:
        before = errors_alive()
        assert found(SAID[kind][0], **more)[1] == SAID[kind][1]
        assert errors_alive() == before
    finally:
        gc.enable()


def test_both_words_for_what_is_not_a_hello_are_errors_of_the_client():
    for data, error in (
        (b"SSH-2.0", NotTls),
        (b"\x17\x03\x03", MalformedHello),
        (b"\x16\x03\x01\x00\x00", MalformedHello),
    ):
        agreement, _ = check()
        assert agreement is not None
        with pytest.raises(error):
            agreement.judge(data)


# --- ech: deny where names are not asked for ----------------------------------------------------------------------


@pytest.mark.parametrize("setting", [{"ech": "deny"}, {"ech": "deny", "sni_check": "off"}], ids=repr)
@pytest.mark.parametrize(
    ("said", "noted", "slug"),
    [
        (judged(browser_hello(NAME)), "ech", "ech_denied"),
        (judged(openssl_hello(OTHER)), None, None),
        (judged(b"SSH-2.0-x"), "not_tls", None),
        (judged(b"\x16\x03\x01\x00\x00"), "malformed", "malformed_hello"),  # who can tell what it hides
    ],
    ids=["hidden", "another name", "not TLS", "malformed"],
)
def test_ech_deny_looks_at_every_port_for_what_may_hide_a_name(setting, said, noted, slug):
    assert found(said, target=f"{NAME}:8443", **setting) == (noted, slug)


def test_a_client_that_is_only_looked_at_for_ech_may_be_silent():
    agreement, _ = check(f"{NAME}:8443", ech="deny")
    assert agreement is not None
    assert agreement.patient


def test_a_second_hello_may_not_hide_a_name_either_and_may_name_any():
    agreement, draft = check(f"{NAME}:8443", ech="deny")
    assert agreement is not None
    assert agreement.judge(openssl_hello(OTHER)) == len(openssl_hello(OTHER))
    assert agreement.listens
    assert agreement.judge_again(openssl_hello(NAME))
    assert draft.sni_check is None
    agreement, draft = check(f"{NAME}:8443", ech="deny")
    assert agreement is not None
    agreement.judge(GRANTED)
    with pytest.raises(EchDenied):
        agreement.judge_again(browser_hello(NAME))
    assert draft.sni_check == "ech"
