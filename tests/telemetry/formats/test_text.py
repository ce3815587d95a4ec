import pytest

from egressproxy.telemetry.formats.text import MAX_TEXT, field, iso_time


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (None, "-"),
        ("", "-"),
        ("plain", "plain"),
        ("a b\n", "a%20b%0A"),
        ("\x7f\u2028é", "%7F%E2%80%A8%C3%A9"),
        ("\ud800", "%ED%A0%80"),
        ("x" * (MAX_TEXT + 1), "x" * MAX_TEXT),
    ],
)
def test_a_field_is_visible_ascii_and_never_empty(text, shown):
    assert field(text) == shown


def test_a_time_is_rounded_to_milliseconds():
    assert iso_time(1544160059.9996) == "2018-12-07T05:21:00.000Z"
    assert iso_time(1544160065.248) == "2018-12-07T05:21:05.248Z"
