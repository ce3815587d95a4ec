import time

import pytest

from egressproxy.telemetry.name_filter import MAX_LENGTH, name_filter

NAME = "cluster.outbound|443||edition.cnn.com.upstream_cx_total"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "cnn",
        "upstream_cx_total$",
        "^cluster",
        ".*cnn.*",
        "^cluster.*cx_total$",
        r"outbound\|443\|\|edition\.cnn",
        "outbound.443..edition",
        "nothing|cnn",
        "cx_[a-z]+$",
        r"\d\d3",
        "[^a-z]443",
        "upstreams?_cx",
        "c.*b.*_total.*",
    ],
)
def test_what_is_found_in_a_name_is_wanted(text):
    assert name_filter(text)(NAME)


@pytest.mark.parametrize("text", ["CNN", "^cnn", "rq_total", "zz|yy", r"edition\.x", "[0-2]4"])
def test_what_is_not_found_is_not(text):
    assert not name_filter(text)(NAME)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("(a+)+$", "characters, classes"),
        ("a{1000}", "characters, classes"),
        ("a**", "characters, classes"),
        ("*a", "characters, classes"),
        ("a++b", "characters, classes"),
        (r"\1", "characters, classes"),
        (r"\bcx", "characters, classes"),
        ("[a", "characters, classes"),
        ("a\\", "characters, classes"),
        ("a*b*c*d", "at most 2 of"),
        ("a?" * 5, "at most 4 of"),
        ("[z-a]", "regular expression"),
        ("outbound|443||edition", r"the bar in the name of a cluster is written \\|"),
        ("a|", "both sides"),
        ("x" * (MAX_LENGTH + 1), "at most 200 characters"),
    ],
)
def test_what_could_run_away_or_is_none_is_a_value_error(text, said):
    with pytest.raises(ValueError, match=said):
        name_filter(text)


@pytest.mark.parametrize("text", ["a*a*b", "a?a?a?a?a*a*b"])
def test_the_hardest_filter_has_an_end(text):
    matches = name_filter(text)
    begun = time.process_time()
    assert not matches("a" * 300)
    assert time.process_time() - begun < 1
