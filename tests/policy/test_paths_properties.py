"""However a path is written, it comes to no more than its plain readings do."""

from hypothesis import example, given, settings
from hypothesis import strategies as st

from egressproxy.config.schema.config import Config
from egressproxy.model import Intent, Target
from egressproxy.policy.paths import PathSet, readings_of
from egressproxy.policy.policy import Policy

# Few words, so that patterns and paths meet often.
segments = st.sampled_from(["a", "b", "admin", "pub", "x.y", ".z"])
plain = st.lists(segments, min_size=1, max_size=4).map(lambda names: "/" + "/".join(names))
paths = st.builds(str.__add__, plain, st.sampled_from(["", "", "/"]))
patterns = paths | plain.map(lambda path: path + "/*") | st.just("/*")
PIECES = """/ // a b admin pub . .. ; ;v %2f %2F %5c \\ %2e %2E %25 %252f %252e %00 %3b %3f %23 # %61 % %c0%ae %20 | %%32
%u002f"""
hostile = st.lists(st.sampled_from(PIECES.split()), max_size=12).map(lambda pieces: "/" + "".join(pieces))


def encoded(draw, text, levels):
    """The text with some characters percent-encoded, as often as said."""
    for _ in range(levels):
        text = "".join(
            "%25" if c == "%" else draw(st.sampled_from([c, f"%{ord(c):02x}", f"%{ord(c):02X}"])) for c in text
        )
    return text


@st.composite
def mangled(draw):
    """A plain path, and another way to write it that some server takes for the same."""
    path = draw(paths)
    out = ""
    for character in path:
        if character != "/":
            out += draw(st.sampled_from([character, character, f"%{ord(character):02x}"]))
            continue
        out += draw(
            st.sampled_from(["/", "/", "//", "/./", "/x/../", "/x/..;v/", "\\", "/%2e/", "/x/%2e%2e/", "/x/..\\"])
        )
    if out[0] != "/":
        out = "/" + out  # a request target begins with a slash
    out += draw(st.sampled_from(["", "", ";v=1", "%00", "%00.png", "#frag"]))
    if draw(st.booleans()):
        out = "/" + encoded(draw, out[1:], draw(st.integers(1, 2)))
    return path, out


@settings(max_examples=200)
@given(mangled())
@example(("/admin", "/pub/..%252fadmin"))
def test_the_plain_path_is_among_the_readings_of_all_its_manglings(pair):
    path, written = pair
    found = readings_of(written)
    assert not found or path in found


@settings(max_examples=200)
@given(hostile)
def test_readings_are_told_once_and_hold_their_own_readings(path):
    found = readings_of(path)
    assert len(set(found)) == len(found)
    for reading in found:
        assert reading.startswith("/")
        assert reading.isprintable()
        assert set(readings_of(reading)) <= set(found)


@given(hostile | paths, st.lists(patterns, min_size=1, max_size=3))
def test_allowing_asks_every_reading_and_denying_one(path, chosen):
    readings = readings_of(path)
    alone = [any(names(pattern, reading) for pattern in chosen) for reading in readings]
    if readings:
        assert (path in PathSet(chosen, denies=False)) == all(alone)
        assert (path in PathSet(chosen, denies=True)) == any(alone)
    else:
        assert (path in PathSet(chosen, denies=False)) == ("/*" in chosen)
        assert path in PathSet(chosen, denies=True)


def names(pattern, reading):
    """What the setting's description says, read aloud."""
    return reading.startswith(pattern[:-1]) if pattern.endswith("/*") else reading == pattern


@given(
    st.lists(patterns, min_size=1, max_size=3),
    st.lists(patterns, min_size=1, max_size=3),
    hostile,
    st.booleans(),
    st.booleans(),
)
def test_what_is_in_a_set_is_in_all_that_cover_it(one, other, path, one_denies, other_denies):
    wide, narrow = PathSet(one, one_denies), PathSet(other, other_denies)
    if wide.covers(narrow):
        assert path in wide or path not in narrow


# --- in a policy --------------------------------------------------------------------------------------------------

rules = st.builds(
    dict,
    action=st.sampled_from(["allow", "deny"]),
    hosts=st.none() | st.just(["a.example"]),
    methods=st.none() | st.just(["GET"]),
    paths=st.none() | st.lists(patterns, min_size=1, max_size=3),
).map(lambda rule: {key: value for key, value in rule.items() if value is not None})
policies = st.builds(
    dict,
    listeners=st.just([{"protocol": "http", "port": 8080}]),
    rules=st.lists(rules, min_size=1, max_size=5),
    outbound=st.sampled_from(["registry_only", "allow_any"]),
).map(lambda settings: Policy.from_config(Config.model_validate(settings), lambda address, port: False))


def verdict(judge, path, method="GET"):
    return judge.decide(Intent("10.0.0.1", "l", method, Target("a.example", 80, False), path=path))


@settings(max_examples=200)
@given(policies, mangled())
def test_no_way_of_writing_a_refused_path_is_allowed(judge, pair):
    path, written = pair
    if not verdict(judge, path).allowed:
        assert not verdict(judge, written).allowed


@settings(max_examples=200)
@given(policies, hostile)
def test_what_is_allowed_is_so_in_each_of_its_readings(judge, path):
    if verdict(judge, path).allowed:
        assert all(verdict(judge, reading).allowed for reading in readings_of(path))


@given(policies, hostile, hostile)
def test_equal_readings_have_equal_verdicts(judge, one, other):
    if set(readings_of(one)) == set(readings_of(other)):
        assert verdict(judge, one) is verdict(judge, other)
    for reading in readings_of(one)[:1]:
        if len(readings_of(one)) == 1:
            assert verdict(judge, reading) is verdict(judge, one)


@given(policies)
def test_a_tunnel_is_judged_as_if_rules_with_paths_were_not_there(judge):
    config = judge._config
    without = config.model_copy(
        update={
            "rules": tuple(
                rule.model_copy(update={"name": f"rule-{number}"})
                for number, rule in enumerate(config.rules, 1)
                if rule.paths is None
            )
        }
    )
    assert verdict(judge, None) == verdict(Policy.from_config(without, lambda address, port: False), None)
    assert verdict(judge, "*") == verdict(judge, None)
