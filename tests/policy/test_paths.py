import time

import pytest

from egressproxy.policy.paths import PathSet, cut, parse_path_pattern, readings_of

# --- readings -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "reading"),
    [
        ("/", "/"),
        ("", "/"),  # RFC 9112 section 3.2.2: a URL without a path asks for /
        ("/a/b", "/a/b"),
        ("/a/b/", "/a/b/"),
        ("/-._~!$&'()*+,:=@", "/-._~!$&'()*+,:=@"),
        ("/.hidden/..x/...", "/.hidden/..x/..."),
        ("/%61/%7e%2D", "/a/~-"),
        ("/file%2etxt", "/file.txt"),
        ("/a/./b", "/a/b"),
        ("/x/../a", "/a"),
        ("/../../a", "/a"),
        ("/a/b/..", "/a/"),
        ("/a/.", "/a/"),
        ("/..", "/"),
        ("/a%20b", "/a%20b"),
        ("/caf%c3%a9", "/caf%C3%A9"),
        ('/a|b"c', "/a%7Cb%22c"),
        ("/100%", "/100%25"),
        ("/100%25/x", "/100%25/x"),
        ("/50%-off", "/50%25-off"),
    ],
)
def test_most_paths_have_the_one_reading_of_rfc_3986(path, reading):
    assert readings_of(path) == (reading,)


@pytest.mark.parametrize(
    ("path", "readings"),
    [
        ("/a%2Fb", {"/a%2Fb", "/a/b"}),
        ("/a%2fb", {"/a%2Fb", "/a/b"}),
        ("/a%252fb", {"/a%252fb", "/a%2Fb", "/a/b"}),
        ("/%%32F", {"/%252F", "/%2F", "//", "/"}),
        ("/a\\b", {"/a%5Cb", "/a/b"}),
        ("/a%5Cb", {"/a%5Cb", "/a/b"}),
        ("//a", {"//a", "/a"}),
        ("/a//b///", {"/a//b///", "/a/b/"}),
        ("/a;v=1/b", {"/a;v=1/b", "/a/b"}),
        ("/a%3Bv/b", {"/a%3Bv/b", "/a;v/b", "/a/b"}),
        ("/x/..;/a", {"/x/..;/a", "/x/../a", "/a"}),
        ("/x/%2e%2E/a", {"/a", "/x/../a", "/x/%2E%2E/a"}),
        ("/x/.%2e/a", {"/a", "/x/../a", "/x/.%2E/a"}),
        ("/x/%252e%252e/a", {"/x/%252e%252e/a", "/x/../a", "/a"}),
        ("/x/..%2fa", {"/x/..%2Fa", "/x/../a", "/a"}),
        ("/x/..%5ca", {"/x/..%5Ca", "/x/../a", "/a"}),
        ("/a//../b", {"/a/b", "/a//../b", "/a/../b", "/b"}),
        ("/a%00.png", {"/a%00.png", "/a"}),
        ("/a%0d%0aX: y", {"/a%0D%0AX:%20y", "/a"}),
        ("/a%3Fb", {"/a%3Fb", "/a?b", "/a"}),
        ("/a%23b", {"/a%23b", "/a#b", "/a"}),
        ("/a#b", {"/a#b", "/a"}),
        ("/a%2Cb%40", {"/a%2Cb%40", "/a,b@"}),
    ],
)
def test_what_servers_take_differently_has_all_its_readings(path, readings):
    # A space in a path does not come through a parser of requests: it stands for what was decoded.
    sent = path.replace(" ", "%20")
    found = readings_of(sent)
    assert set(found) == readings
    assert len(found) == len(readings)


@pytest.mark.parametrize(
    "path",
    [
        "a",
        "*",
        "http://a.example/",
        "/caf\xe9",
        "/a b",
        "/a\n",
        "/\x7f",
        "/%c0%af",  # a slash in two bytes of UTF-8
        "/%C0%AE%C0%AE/",
        "/%e0%80%af",
        "/%f0%80%80%af",
        "/%25c0%25af",
        "/%u002f",
        "/%25u002f",
        "/%" + "25" * 80 + "2F",  # encoded eighty times over
        "/" + "a;//%2F" * 2000,  # long, and more than twice that with its readings
    ],
)
def test_what_only_a_broken_server_reads_or_has_no_end_is_unreadable(path):
    assert readings_of(path) == ()


def test_latin_1_is_not_taken_for_a_trick():
    assert readings_of("/caf%E9") == ("/caf%E9",)
    assert readings_of("/%C0bc") == ("/%C0bc",)


@pytest.mark.parametrize("piece", ["a%2F", "%2e%2e;/", ";/..//", "%25", "%252F", "%5C..;%00", "%3B%2F//..", "/%2e;%5c"])
def test_a_long_hostile_path_costs_some_milliseconds_at_most(piece):
    path = "/" + piece * (8192 // len(piece))
    readings_of.cache_clear()
    start = time.thread_time()
    found = readings_of(path)
    assert time.thread_time() - start < 1  # 10 ms, and a machine that is busy
    assert sum(map(len, found)) <= 32_768


# --- patterns -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("/", "/"),
        ("/*", "/*"),
        ("/a", "/a"),
        ("/a/", "/a/"),
        ("/a/*", "/a/*"),
        ("/%61/%c3%a9", "/a/%C3%A9"),
        ("/a.b/.c", "/a.b/.c"),
    ],
)
def test_a_pattern_is_written_as_readings_are(text, pattern):
    assert parse_path_pattern(text) == pattern
    assert parse_path_pattern(pattern) == pattern


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "expected a path like /api/*, got ''"),
        ("api/", "expected a path like /api/*, got 'api/'"),
        ("*", "expected a path like /api/*, got '*'"),
        (
            "http://a.example/api",
            "expected a path like /api/*, got the URL 'http://a.example/api'; its host belongs in hosts",
        ),
        ("/a*", "expected * only behind the last slash, as in /api/*, got '/a*'"),
        ("/*/b", "expected * only behind the last slash, as in /api/*, got '/*/b'"),
        ("/a/**", "expected * only behind the last slash, as in /api/*, got '/a/**'"),
        ("/a?b", "expected a path without a query, which rules do not see, got '/a?b'"),
        ("/a#b", "expected a path without a query, which rules do not see, got '/a#b'"),
        ("/é", r"expected a path in ASCII, other characters percent-encoded, got '/\xe9'"),
        ("/a b", "expected a path in ASCII, other characters percent-encoded, got '/a b'"),
        ("/a/../b", "expected a path without . and .. segments, got '/a/../b'; did you mean /b?"),
        ("/a//b", "expected a path that all servers read alike, got '/a//b'"),
        ("/a%2Fb", "expected a path that all servers read alike, got '/a%2Fb'"),
        ("/a;b", "expected a path that all servers read alike, got '/a;b'"),
        ("/%c0%af", "expected a path that all servers read alike, got '/%c0%af'"),
        ("/" + "a" * 100 + " ", f"expected a path in ASCII, other characters percent-encoded, got '/{'a' * 76}...'"),
    ],
)
def test_a_pattern_that_could_mean_two_things_is_refused(text, said):
    with pytest.raises(ValueError) as refused:
        parse_path_pattern(text)
    assert str(refused.value) == said


# --- sets ---------------------------------------------------------------------------------------------------------


def allows(*patterns):
    return PathSet(patterns, denies=False)


def denies(*patterns):
    return PathSet(patterns, denies=True)


def test_an_exact_path_is_itself_alone():
    for paths in (allows("/a/b"), denies("/a/b")):
        assert [path for path in ("/a/b", "/a/b/", "/a/b/c", "/a", "/A/b", "/") if path in paths] == ["/a/b"]


def test_a_prefix_is_all_that_is_below_and_its_own_slash():
    for paths in (allows("/a/*"), denies("/a/*")):
        asked = ("/a/", "/a/b", "/a/b/c/d", "/a", "/ab", "/b/a/", "/")
        assert [path for path in asked if path in paths] == ["/a/", "/a/b", "/a/b/c/d"]


def test_several_patterns_are_alternatives():
    paths = allows("/a/*", "/b/c/*", "/d")
    asked = ("/a/x", "/b/c/x", "/b/x", "/d", "/d/", "/x")
    assert [path for path in asked if path in paths] == ["/a/x", "/b/c/x", "/d"]


def test_the_query_is_nobodys_business_here_and_the_empty_path_is_a_slash():
    assert "" in allows("/")
    assert "" in allows("/*")
    assert "" not in allows("/a")


@pytest.mark.parametrize("paths", [allows("/*"), denies("/*"), allows("/a", "/*")])
def test_any_path_takes_even_the_unreadable_and_neither_tunnels_nor_the_server_itself(paths):
    for path in ("/", "", "/a/b", "//", "/%c0%af", "/%2e%2e/"):
        assert path in paths
    assert None not in paths
    assert "*" not in paths


@pytest.mark.parametrize("paths", [allows("/a", "/b/*"), denies("/a", "/b/*")])
def test_tunnels_and_the_server_itself_have_no_path(paths):
    assert None not in paths
    assert "*" not in paths


AMBIGUOUS = [
    "/pub/..%2fadmin",
    "/pub/%2e%2e/admin",
    "/pub/..;/admin",
    "/pub\\..\\admin",
    "/pub/%252e%252e/admin",
    "/pub//../admin",
]


@pytest.mark.parametrize("path", AMBIGUOUS)
def test_what_is_allowed_must_be_so_in_every_reading_and_what_is_denied_in_one(path):
    assert path not in allows("/pub/*")
    assert path not in allows("/admin")
    assert path in denies("/admin")
    assert path in denies("/pub/*")
    assert path in allows("/pub/*", "/admin", "/*")


def test_an_ambiguous_path_is_allowed_where_all_its_readings_are():
    assert "/pub/a%2Fb;v=1" in allows("/pub/*")
    assert "/pub/a%2Fb" not in allows("/pub/a/b")
    assert "/pub/a;v=1" not in allows("/pub/a")


def test_an_unreadable_path_is_denied_by_any_path_and_allowed_by_none():
    assert "/pub/%c0%ae" not in allows("/pub/*")
    assert "/pub/%c0%ae" in denies("/other")


def test_repeated_patterns_are_one():
    assert allows("/a", "/b/*", "/a").patterns == ("/a", "/b/*")


@pytest.mark.parametrize(
    ("one", "other", "covers"),
    [
        (allows("/*"), denies("/a"), True),
        (allows("/*"), allows("/*"), True),
        (allows("/a"), allows("/*"), False),
        (allows("/a", "/b"), allows("/a"), True),
        (allows("/a/*"), allows("/a/b", "/a/b/*", "/a/"), True),
        (allows("/a/*"), allows("/a"), False),
        (allows("/a/"), allows("/a/*"), False),
        (denies("/a/*"), allows("/a/b"), True),
        (denies("/a/*"), denies("/a/b"), True),
        (allows("/a/*"), denies("/a/b"), False),  # one reading is enough for the other
        (denies("/a"), allows("/b"), False),
    ],
)
def test_one_set_may_hold_all_of_another(one, other, covers):
    assert one.covers(other) is covers


@pytest.mark.parametrize(
    ("path", "said"),
    [
        (None, "what is asked inside a tunnel is not seen, so paths never match"),
        ("*", "OPTIONS * has no path"),
        ("/x/../y", "path /y is not among /a/*, /b"),
        ("/a/..%2fy", "path /a/..%2fy may be read as /y, which is not among /a/*, /b"),
        ("/a/%c0%af", "servers read this path in too many ways, or only a broken one does"),
        ("/" + "x" * 200, f"path /{'x' * 116}... is not among /a/*, /b"),
    ],
)
def test_says_why_a_path_is_not_among_them(path, said):
    assert path not in allows("/a/*", "/b")
    assert allows("/a/*", "/b").why_not(path) == said


def test_many_patterns_are_told_short():
    paths = allows(*(f"/p{number}" for number in range(25)))
    assert paths.why_not("/").endswith("/p8, /p9 and 15 more")
    assert cut("/" + "a" * 119) == "/" + "a" * 119


@pytest.mark.parametrize("count", [1, 1000, 100_000])
def test_answers_are_equal_with_any_number_of_patterns(count):
    paths = allows(*(f"/p{number}/*" for number in range(count)), "/a/*", "/b")
    assert "/a/x" in paths
    assert "/b" in paths
    assert "/b/" not in paths
    assert f"/p{count - 1}/x/y" in paths
    assert f"/p{count}/x" not in paths
