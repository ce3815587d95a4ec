import pytest
from hypothesis import given
from hypothesis import strategies as st

from egressproxy.config.templates import (
    ENVOY_OPERATORS,
    ISTIO_RELEASES,
    MAX_TEMPLATE,
    NGINX_VARIABLES,
    SQUID_CODES,
    Code,
    Operator,
    asked_fields,
    envoy_template,
    nginx_template,
    squid_template,
)


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
        ("%REQ(COOKIE)%", "%REQ()% cannot name 'COOKIE': what it holds is a secret, and not for a log"),
        ("%REQ(:PATH?COOKIE)%", "%REQ()% cannot name 'COOKIE'"),
        ("%REQ(authorization):5%", "%REQ()% cannot name 'AUTHORIZATION'"),
        ("%REQ(Proxy_Authorization?:PATH)%", "%REQ()% cannot name 'PROXY_AUTHORIZATION'"),
        ("%REQ_WITHOUT_QUERY(Cookie)%", "%REQ_WITHOUT_QUERY()% cannot name 'COOKIE'"),
        ("%RESP(SET-COOKIE)%", "%RESP()% cannot name 'SET-COOKIE'"),
        ("%REQ(:PATH?)%", "%REQ()% cannot name ''"),
        ("%REQ(:PROTOCOL)%", "%REQ()% cannot name ':PROTOCOL': expected the name of a header field, like User-Agent"),
        ("%REQ(A B)%", "%REQ()% cannot name 'A B': expected the name"),
        ("%REQ(:PATH?HOST?:METHOD)%", "%REQ()% takes one alternative behind ?"),
        ("%RESP(:STATUS)%", "%RESP()% cannot name ':STATUS'"),
        ("%RESP(HOST?:PATH)%", "%RESP()% cannot name ':PATH'"),
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


# --- Squid --------------------------------------------------------------------------------------------------------


def test_a_template_of_squid_is_text_and_codes():
    assert squid_template('%ts.%03tu %-6.9ru "%[un" %{User-Agent}>h%%%{%H:%M}tl') == (
        Code("ts"),
        ".",
        Code("tu", width=3, zeros=True),
        " ",
        Code("ru", width=6, limit=9, left=True),
        ' "',
        Code("un", quoted=True),
        '" ',
        Code(">h", "user-agent"),
        "%",
        Code("tl", "%H:%M"),
    )
    assert squid_template('%"un %>h{Host}\n') == (Code("un", quoted=True), " ", Code(">h", "host"))


@pytest.mark.parametrize("code", sorted(SQUID_CODES - {">h", "<h"}))
def test_every_code_stands_alone(code):
    assert squid_template(f"%{code} ") == (Code(code), " ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected one line of 1 to 10000 printable ASCII characters, got ''"),
        ("%", "expected a code like %>a or %03>Hs at '%'; %% is a percent sign"),
        ("%6", "expected a code like"),
        ("%'ru", 'expected a code like %>a or %03>Hs at "%\'ru"'),  # nothing is printed as it came
        ("%Hs", "the code '%Hs' is not known here; did you mean %>Hs?"),
        ("%>eui", "the code '%>eui' is not known here"),
        ("%ssl::>cert_subject", "the code '%ssl::>cert_subject' is not known here"),
        ("%<pt", "the code '%<pt' is not known here"),
        ("%{Host}>ha", "the code '%>ha' is not known here"),
        ("%ts{x}", "%ts takes no argument, got 'x'"),
        ("%.3ts", "%ts is a number, which takes no greatest width, got .3"),
        ("%{Cookie}>h", "%>h cannot name 'cookie': what it holds is a secret, and not for a log"),
        ("%{Set-Cookie}<h", "%<h cannot name 'set-cookie'"),
        ("%>h", "%>h cannot name '': expected the name of a header field, like User-Agent"),
        ("%<h", "%<h cannot name ''"),
        ("%{Via:proxy}>h", "%>h cannot name 'via:proxy'"),
        ("%{Host}>h{Host}", "%>h takes one argument, got 'Host' and 'Host'"),
        ("%{%Q}tl", "%tl takes a strftime format like %d/%b/%Y:%H:%M:%S, got '%Q'"),
    ],
)
def test_what_squid_could_print_and_we_cannot_is_refused_by_its_name(text, message):
    with pytest.raises(ValueError) as caught:
        squid_template(text)
    assert str(caught.value).startswith(message)


# --- NGINX --------------------------------------------------------------------------------------------------------


def test_a_template_of_nginx_is_text_and_variables():
    assert nginx_template('$remote_addr [${status}]"$msec"\n') == (
        Operator("remote_addr"),
        " [",
        Operator("status"),
        ']"',
        Operator("msec", quoted=True),
        '"',
    )


@pytest.mark.parametrize("name", sorted(NGINX_VARIABLES))
def test_every_variable_stands_alone(name):
    assert nginx_template(f"${name}") == nginx_template(f"${{{name}}}") == (Operator(name),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\nb", "expected one line"),
        ("$", "expected a variable like $remote_addr or ${status} at '$'"),
        ("5$ $status", "expected a variable like $remote_addr or ${status} at '$ $status'"),
        ("${status", "expected a variable like $remote_addr or ${status} at '${status'"),
        ("$statuss", "the variable '$statuss' is not known here; did you mean $status?"),
        ("$ssl_cipher", "the variable '$ssl_cipher' is not known here"),
    ],
)
def test_what_nginx_could_print_and_we_cannot_is_refused_by_its_name(text, message):
    with pytest.raises(ValueError) as caught:
        nginx_template(text)
    assert str(caught.value).startswith(message)


@given(st.text(st.sampled_from('%${}[]"-.0369<>:abhHlprstu é\n'), max_size=40))
def test_any_text_is_a_template_of_squid_and_of_nginx_or_a_value_error(text):
    for read in (squid_template, nginx_template):
        try:
            parts = read(text)
        except ValueError:
            continue
        assert all(parts)


# --- header fields ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("language", "template", "request_fields", "response_fields"),
    [
        ("istio", "%REQ(:METHOD)% %REQ(HOST)% %REQ(X-REQUEST-ID?User-Agent)% %START_TIME(%s)%", set(), set()),
        ("envoy", "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% REQ(X-TEAM) %%RESP(SERVER)%%", set(), set()),
        ("istio-1.5", "%REQ(X-Team?:PATH):9% %REQ_WITHOUT_QUERY(Referer)%", {"x-team", "referer"}, set()),
        (
            "envoy",
            "%RESP(SERVER?X-Powered-By)% %RESP(Content-Type)%",
            set(),
            {"server", "x-powered-by", "content-type"},
        ),
        ("squid", "%{Host}>h %{User-Agent}>h %{x}tl %>a", set(), set()),
        ("squid-5", "%{X-Request-Id}>h %-9{Server}<h", {"x-request-id"}, {"server"}),
        ("nginx-stream", "$status", set(), set()),
    ],
)
def test_a_template_tells_which_fields_must_be_kept_for_it(language, template, request_fields, response_fields):
    assert asked_fields(language, template) == (request_fields, response_fields)
