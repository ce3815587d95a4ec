"""`cache_peer`, and who is sent there."""

from __future__ import annotations

from typing import Any

import pytest
from support.squid_conf import faults, native, notes

UP = "cache_peer up.example parent 8080 0 no-query\n"
TWO = f"{UP}cache_peer other.example parent 8080 0 no-query\n"
ADVICE = "; put USER:PASSWORD alone into a file that only the proxy may read, and write login=@FILE"
LOCAL = "acl local dstdomain .corp.example\n"


def ways(text: str) -> list[tuple[str, str, list[str]]]:
    """What `http_access allow localhost` becomes: name, way and hosts (none: all) of each rule."""
    found = []
    for rule in native(f"{text}http_access allow localhost\n")["rules"][:-1]:
        asked: dict[str, Any] = {**rule, **{key: value for each in rule.get("all", []) for key, value in each.items()}}
        how = asked.get("parent", "direct" if rule["action"] == "allow" else "refused")
        found.append((rule["name"].removeprefix("http_access-"), how, asked.get("hosts", [])))
    return found


def test_a_parent() -> None:
    line = "cache_peer Up.example parent 8080 0 no-query name=up login=@/etc/secret"
    data = native(f"{line}\nnever_direct allow all\nhttp_access allow all\n")
    assert data["parents"] == [{"name": "up", "address": "up.example", "port": 8080, "credentials": "/etc/secret"}]
    assert data["rules"] == [{"name": "http_access-3", "action": "allow", "parent": "up"}]


def test_without_a_parent_all_is_direct() -> None:
    assert ways("") == [("1", "direct", [])]
    assert ways("always_direct allow all\n") == [("2", "direct", [])]


def test_never_direct_sends_all_to_the_parent() -> None:
    assert ways(f"{UP}never_direct allow all\n") == [("3", "up.example", [])]


def test_always_direct_goes_first() -> None:
    text = f"{UP}{LOCAL}always_direct allow local\nnever_direct allow all\n"
    assert ways(text) == [("5-1", "direct", ["corp.example", "*.corp.example"]), ("5-2", "up.example", [])]


def test_of_several_parents_the_first_that_access_lets() -> None:
    access = "cache_peer_access up.example allow local\ncache_peer_access up.example deny all\n"
    text = f"{TWO}{LOCAL}{access}never_direct allow all\n"
    assert ways(text) == [("7-1", "up.example", ["corp.example", "*.corp.example"]), ("7-2", "other.example", [])]


def test_what_no_parent_takes_is_refused() -> None:
    text = f"{UP}{LOCAL}cache_peer_access up.example allow local\nnever_direct allow all\n"
    assert ways(text) == [("5-1", "up.example", ["corp.example", "*.corp.example"]), ("5-2", "refused", [])]


def test_rules_that_deny_stay_one() -> None:
    data = native(
        f"{UP}{LOCAL}always_direct allow local\nnever_direct allow all\nhttp_access deny localhost\nhttp_access allow all\n"
    )
    assert [rule["name"] for rule in data["rules"]] == ["http_access-5", "http_access-6-1", "http_access-6-2"]


@pytest.mark.parametrize("more", ["", "never_direct deny all\n", f"{LOCAL}never_direct allow local\n"])
def test_one_way_after_the_other_cannot_be_expressed(more: str) -> None:
    (found,) = faults(f"{UP}{more}http_access allow all\n")
    assert found.startswith("1: cache_peer: neither always_direct nor never_direct says")
    assert "write never_direct allow all" in found


def test_an_address_is_not_known_where_a_parent_looks_the_name_up() -> None:
    text = f"{UP}never_direct allow all\nacl x dst 10.0.0.0/8\nhttp_access deny x\nhttp_access allow !x\n"
    assert faults(text) == ["5: http_access: a parent looks the name up, so the address (dst) is not known here"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (
            "up.example parent 8080",
            "expected a host, parent, its port and 0, as in cache_peer proxy.example.com parent 3128 0 no-query",
        ),
        ("up.example sibling 8080 3130", "'sibling' shares a cache, and there is none here; expected parent"),
        ("up.example parent http 0", "expected the port of the parent, got 'http'"),
        (
            "up_*.example parent 80 0",
            "expected * alone or as the whole first label, like *.example.com, got 'up_*.example'",
        ),
        (
            "up.example parent 443 0 tls",
            "the option 'tls' is not known here: parents are reached by CONNECT, without TLS",
        ),
        (
            "up.example parent 443 0 originserver",
            "originserver makes it a web server that is proxied for; write a service",
        ),
        (
            "up.example parent 80 0 login=me:secret",
            f"login=a password is not taken{ADVICE}",
        ),
        (
            "up.example parent 80 0 login=PASS",
            f"login=PASS is not taken{ADVICE}",
        ),
    ],
)
def test_parents_that_cannot_be_expressed(line: str, reason: str) -> None:
    assert faults(f"cache_peer {line}\nhttp_access deny all\n") == [f"1: cache_peer: {reason}"]


def test_a_password_is_in_no_message() -> None:
    assert "secret" not in "".join(faults("cache_peer up.example parent 80 0 login=me:secret\nhttp_access deny all\n"))


def test_names_must_be_known_and_different() -> None:
    assert faults("cache_peer_access nobody allow all\nhttp_access deny all\n") == [
        "1: cache_peer_access: no cache_peer before this line is called 'nobody'"
    ]
    assert faults(f"{UP}{UP}never_direct allow all\nhttp_access deny all\n") == [
        "2: cache_peer: two parents are called 'up.example'; give one a name="
    ]


def test_what_the_parent_has_to_see_to_is_noted() -> None:
    text = f"{UP}never_direct allow all\nhttp_access allow all\n"
    said = [note for note in notes(text) if note.startswith("1: cache_peer: ")]
    assert [any(word in note for note in said) for word in ("CONNECT !SSL_ports", "metadata")] == [True, True]
    assert not any("stay closed" in note for note in notes(text)), "nothing goes out directly"
    assert any("stay closed" in note for note in notes(f"always_direct allow localhost\n{text}"))


def test_options_without_meaning_are_noted() -> None:
    assert (
        notes(f"{UP}never_direct allow all\nhttp_access deny all\n")[0]
        == "1: cache_peer: has no meaning here: no-query"
    )


def test_rules_that_are_split_by_ways_are_bounded_over_all_lines() -> None:
    ways_ = "".join(f"acl a{n} dstdomain .a{n}.example\nalways_direct allow a{n}\n" for n in range(200))
    lines = "".join(f"acl b{n} src 10.0.0.{n}\nhttp_access allow b{n}\n" for n in range(60))
    (fault,) = faults(f"{UP}{ways_}never_direct allow all\n{lines}http_access deny all\n")
    assert fault.startswith("1: http_access: expected at most 10000 rules of all http_access lines together")
