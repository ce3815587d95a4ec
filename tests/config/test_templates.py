import pytest
from hypothesis import given
from hypothesis import strategies as st

from egressproxy.config.templates import ENVOY_OPERATORS, ISTIO_RELEASES, MAX_TEMPLATE, Operator, envoy_template


def test_a_template_is_text_and_codes():
    assert envoy_template('[%START_TIME%] "%REQ(x-envoy-original-path?:path):12%" 100%%') == (
        "[",
        Operator("START_TIME"),
        '] "',
        Operator("REQ", "X-ENVOY-ORIGINAL-PATH?:PATH", 12, quoted=True),
        '" 100%',
    )


def test_one_line_end_at_the_end_is_no_part_of_it():
    assert envoy_template("%PROTOCOL%\n") == (Operator("PROTOCOL"),)


def test_the_argument_of_what_is_never_there_is_as_it_was_written():
    assert envoy_template("%DYNAMIC_METADATA(istio.mixer:status)%") == (
        Operator("DYNAMIC_METADATA", "istio.mixer:status"),
    )


@pytest.mark.parametrize("name", sorted(ENVOY_OPERATORS))
def test_every_operator_stands_alone(name):
    assert envoy_template(f"%{name}%") == (Operator(name),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected one line of 1 to 10000 printable ASCII characters, got ''"),
        ("a\nb", "expected one line"),
        ("é", "expected one line"),
        ("x" * (MAX_TEMPLATE + 1), "expected one line"),
        ("%REQUEST_CODE%", "the operator '%REQUEST_CODE%' is not known here; did you mean %RESPONSE_CODE%?"),
        ("%GRPC_STATUS%", "the operator '%GRPC_STATUS%' is not known here"),
        ("%", "expected an operator like %PROTOCOL% or %REQ(:METHOD)% at '%'; %% is a percent sign"),
        ("50% off", "expected an operator like %PROTOCOL% or %REQ(:METHOD)% at '% off'"),
        ("%protocol%", "expected an operator like"),
        ("%REQ(:METHOD%", "expected an operator like"),
        ("%PROTOCOL(x)%", "%PROTOCOL% takes no argument, got 'x'"),
        ("%PROTOCOL:3%", "%PROTOCOL% takes no length, got :3"),
        ("%START_TIME(%s):3%", "%START_TIME% takes no length"),
        ("%REQ%", "%REQ% needs an argument, as in %REQ(USER-AGENT)%"),
        ("%REQ()%", "%REQ% needs an argument"),
        (
            "%REQ(COOKIE)%",
            "%REQ()% cannot name 'COOKIE': of all header fields, only :AUTHORITY, :METHOD, :PATH, :SCHEME, HOST, ",
        ),
        ("%REQ(:PATH?COOKIE)%", "%REQ()% cannot name 'COOKIE'"),
        ("%REQ(:PATH?)%", "%REQ()% cannot name ''"),
        ("%REQ(:PATH?HOST?:METHOD)%", "%REQ()% takes one alternative behind ?"),
        (
            "%RESP(SERVER)%",
            "%RESP()% cannot name 'SERVER': of all header fields, only CONTENT-TYPE, X-ENVOY-UPSTREAM-SERVICE",
        ),
        ("%START_TIME(%Q)%", "%START_TIME% takes a strftime format like %Y-%m-%dT%H:%M:%S.%3fZ, got '%Q'"),
        ("%START_TIME(%n)%", "%START_TIME% takes a strftime format"),
    ],
)
def test_what_cannot_be_printed_is_refused_by_its_name(text, message):
    with pytest.raises(ValueError) as caught:
        envoy_template(text)
    assert str(caught.value).startswith(message)


@given(st.text(st.sampled_from('%()?:ABCPROTOCOL "12é\n'), max_size=40))
def test_any_text_is_a_template_or_a_value_error(text):
    try:
        parts = envoy_template(text)
    except ValueError:
        return
    assert all(isinstance(part, Operator) or part for part in parts)


def test_releases_are_those_that_there_are():
    assert (ISTIO_RELEASES[0], ISTIO_RELEASES[-1], len(ISTIO_RELEASES)) == ("istio-1.0", "istio-1.30", 31)
