import pytest

from egressproxy.model import AskedFields
from egressproxy.wire.kept_fields import MAX_LINES, MAX_VALUE, KeptFields

ASKED = AskedFields(frozenset({"x-team", "accept"}), frozenset({"server"}))


def test_only_what_was_asked_for_is_kept_as_it_was_sent():
    kept = KeptFields(ASKED, b"Host: a.example\r\nX-TEAM:  Blue \t\r\nAuthorization: secret\r\nServer: mine\r\n")
    assert kept.request == {"x-team": ["Blue"]}
    assert kept.response == {}
    kept.take_response(b"X-Team: red\r\nServer: nginx\xe9\r\nSet-Cookie: secret\r\n")
    assert kept.request == {"x-team": ["Blue"]}
    assert kept.response == {"server": ["nginx\xe9"]}


def test_each_line_of_a_field_is_a_value():
    assert KeptFields(ASKED, b"x-team: a\r\nAccept: */*\r\nX-Team:\r\nx-team: b, c\r\n").request == {
        "x-team": ["a", "", "b, c"],
        "accept": ["*/*"],
    }


def test_the_last_response_counts():
    kept = KeptFields(ASKED, b"")
    kept.take_response(b"Server: one\r\n")
    kept.take_response(b"")
    assert kept.response == {}


@pytest.mark.parametrize("name", [b"x-tea", b"x-team ", b"x_team"])
def test_another_name_is_another_field(name):
    assert KeptFields(ASKED, name + b": a\r\n").request == {}


def test_what_a_peer_can_have_kept_is_bounded():
    (values,) = KeptFields(ASKED, b"X-Team: " + b"v" * 9000 + b"\r\n" + b"X-Team: x\r\n" * 99).request.values()
    assert values == ["v" * MAX_VALUE, *("x",) * (MAX_LINES - 1)]
