"""`acl` lines: each type, its values, and what names combine."""

from __future__ import annotations

import time
from typing import Any

import pytest
from support.squid_conf import conditions, faults, native, notes

from egressproxy.config.adapters.squid.acls import IS_ADDRESS

LOOPBACK = ["127.0.0.1", "::1"]
MONDAY_TO_FRIDAY = ["monday", "tuesday", "wednesday", "thursday", "friday"]


@pytest.mark.parametrize(
    ("acl", "expected"),
    [
        ("src 10.0.0.0/8 fd00::1", {"clients": ["10.0.0.0/8", "fd00::1"]}),
        ("dst 10.0.0.0/8", {"addresses": ["10.0.0.0/8"]}),
        ("dst -n 10.0.0.1", {"hosts_matching": [IS_ADDRESS], "addresses": ["10.0.0.1"]}),
        ("dstdomain Example.COM", {"hosts": ["example.com"]}),
        ("dstdomain -n .example.com", {"hosts": ["example.com", "*.example.com"]}),
        ("dstdomain 192.0.2.1 [2001:db8::1]", {"hosts": ["192.0.2.1", "2001:db8::1"]}),
        ("dstdomain -- example.com", {"hosts": ["example.com"]}),
        (r"dstdom_regex -i ^ads\.", {"hosts_matching": [r"(?i)^ads\."]}),
        ("dstdom_regex -i a +i b", {"hosts_matching": ["(?i)a", "b"]}),
        ("ssl::server_name .example.com", {"hosts": ["example.com", "*.example.com"]}),
        ("ssl::server_name_regex x$", {"hosts_matching": ["x$"]}),
        ("port 80 443 1025-65535", {"ports": [80, 443, "1025-65535"]}),
        ("port 0-1024", {"ports": ["1-1024"]}),
        ("method GET connect", {"methods": ["GET", "CONNECT"]}),
        ("localport 3128", {"listener_ports": [3128]}),
        ("proto HTTP", {"none": [{"methods": ["CONNECT"]}]}),
        ("proto none", {"methods": ["CONNECT"]}),
        ("time MTWHF", {"times": [{"days": MONDAY_TO_FRIDAY}]}),
        ("time D 08:00-17:30", {"times": [{"days": MONDAY_TO_FRIDAY, "start": "08:00", "end": "17:30"}]}),
        ("time 8:00-24:00", {"times": [{"start": "08:00", "end": "24:00"}]}),
        (
            "time S 01:00-02:00 03:00-04:00 A",
            {
                "times": [
                    {"days": ["sunday"], "start": "01:00", "end": "02:00"},
                    {"start": "03:00", "end": "04:00"},
                    {"days": ["saturday"]},
                ]
            },
        ),
        ("url_regex -i ^http://a/", {"urls_matching": ["(?i)^http://a/"]}),
        (r"urlpath_regex \.gif$", {"paths_matching": [r"\.gif$"]}),
    ],
)
def test_each_type(acl: str, expected: dict[str, Any]) -> None:
    assert conditions("allow x", f"acl x {acl}") == expected


ADDRESS = {"hosts_matching": [IS_ADDRESS]}
NAMED = {"hosts": ["a.example"]}


@pytest.mark.parametrize(
    ("acl", "line", "expected"),
    [
        ("dstdomain a.example", "deny x", {"any": [NAMED, ADDRESS]}),
        ("dstdomain -n a.example", "deny x", NAMED),
        ("dstdomain a.example", "deny !x", {"none": [NAMED]}),
        ("dstdomain a.example", "allow x", NAMED),
        ("dstdomain a.example", "allow !x", {"none": [NAMED, ADDRESS]}),
        ("dstdomain -n a.example", "allow !x", {"none": [NAMED]}),
        ("dstdom_regex ^ads", "deny x", {"hosts_matching": ["^ads", IS_ADDRESS]}),
        ("dstdom_regex -n ^ads", "deny x", {"hosts_matching": ["^ads"]}),
        ("ssl::server_name a.example", "deny x", NAMED),
        ("dstdomain 192.0.2.1 [2001:db8::1]", "deny x", {"hosts": ["192.0.2.1", "2001:db8::1"]}),
        ("dstdomain a.example\nacl y all-of !x", "deny !y", {"any": [NAMED, ADDRESS]}),
        ("dstdomain a.example\nacl y any-of x", "deny y", {"any": [NAMED, ADDRESS]}),
        (
            "dstdomain a.example\nacl x dstdomain -n b.example",
            "deny x",
            {"any": [{"hosts": ["a.example", "b.example"]}, ADDRESS]},
        ),
    ],
)
def test_an_address_has_the_name_that_is_refused(acl: str, line: str, expected: dict[str, Any]) -> None:
    assert conditions(line, f"acl x {acl}") == expected
    said = [note for note in notes(f"acl x {acl}\nhttp_access {line}\nhttp_access deny all\n") if "(PTR)" in note]
    assert len(said) == str(expected).count(IS_ADDRESS.replace("\\", "\\\\"))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("allow localhost", {"clients": LOOPBACK}),
        ("allow CONNECT", {"methods": ["CONNECT"]}),
        ("deny to_localhost", {"addresses": ["127.0.0.0/8", "0.0.0.0/32", "::1", "::"]}),
        ("deny to_linklocal", {"addresses": ["169.254.0.0/16", "fe80::/10"]}),
        ("deny manager", {"urls_matching": ["^http://[^/]+/squid-internal-mgr/"]}),
        ("deny all", {}),
        ("deny CONNECT !localhost", {"methods": ["CONNECT"], "none": [{"clients": LOOPBACK}]}),
    ],
)
def test_predefined_names(line: str, expected: dict[str, Any]) -> None:
    assert conditions(line) == expected


def test_lines_of_one_name_are_alternatives_and_later_ones_count_too() -> None:
    data = native("acl x port 80\nhttp_access allow x\nacl x port 443\n")
    assert data["rules"][0]["ports"] == [80, 443]


def test_letters_of_a_name_may_be_of_either_case() -> None:
    assert conditions("deny BAD", "acl Bad port 80\nacl bad port 443") == {"ports": [80, 443]}
    assert conditions("deny all", "acl ALL src 192.0.2.1") == {}
    assert notes("acl Manager proto cache_object\nhttp_access deny all\n")


def test_to_say_a_predefined_name_again_adds_to_it() -> None:
    assert conditions("allow localhost", "acl localhost src 127.0.0.1/32 10.0.0.1") == {
        "clients": [*LOOPBACK, "10.0.0.1"]
    }


def test_groups() -> None:
    acls = "acl a port 80\nacl b method GET\nacl c src 10.0.0.1\n"
    either, both = {"any": [{"ports": [80]}, {"methods": ["GET"]}]}, {"ports": [80], "methods": ["GET"]}
    assert conditions("allow g", f"{acls}acl g any-of a b") == either
    assert conditions("allow g", f"{acls}acl g any-of a\nacl g any-of b") == either
    assert conditions("allow g", f"{acls}acl g all-of a b") == both
    assert conditions("allow g", f"{acls}acl g all-of a b\nacl g all-of c") == {
        "any": [both, {"clients": ["10.0.0.1"]}]
    }
    assert conditions("allow c !g", f"{acls}acl g any-of a !b") == {
        "clients": ["10.0.0.1"],
        "none": [{"ports": [80]}, {"none": [{"methods": ["GET"]}]}],
    }


def test_what_never_holds_is_left_out_of_rules() -> None:
    files: dict[str, str | bytes] = {"/etc/squid/list": "# nothing yet\n"}
    text = 'acl blocked dstdomain "list"\nhttp_access deny blocked\nhttp_access allow !blocked localhost\n'
    data = native(text, files)
    assert [rule["name"] for rule in data["rules"]] == ["http_access-3", "http_access-default"]
    assert "2: http_access: never holds, so it is left out" in notes(text, files)
    assert native("acl ftp proto FTP\nhttp_access allow ftp\n")["rules"][0]["action"] == "deny"


def test_a_name_is_a_listener_where_it_is_that_of_a_port() -> None:
    text = "http_port 3128\nhttp_port 127.0.0.1:3129 name=inside\nacl x myportname inside\nacl y myportname 3128\n"
    data = native(f"{text}http_access allow x\nhttp_access allow !y\n")
    assert [rule["listeners"] for rule in data["rules"]] == [
        ["inside"],
        ["http-proxy:3128", "inside"],
        ["http-proxy:3128", "inside"],
    ]
    assert data["rules"][1]["none"] == [{"listeners": ["http-proxy:3128"]}]


def test_manager_by_its_old_type_is_noted() -> None:
    assert "1: acl: manager is predefined, and this line has no effect in Squid either" in notes(
        "acl manager proto cache_object\nhttp_access deny all\n"
    )


@pytest.mark.parametrize(
    ("acl", "reason"),
    [
        ("x", "expected a name and a type, as in acl SSL_ports port 443"),
        ("x dstdomian a.example", "'dstdomian' is no type of ACL in Squid; did you mean 'dstdomain'?"),
        ("x dst_domain a.example", "'dst_domain' is no type of ACL in Squid; did you mean 'dstdomain'?"),
        ("x All-Of all", "'All-Of' is no type of ACL in Squid; did you mean 'all-of'?"),
        ("x proxy_auht REQUIRED", "'proxy_auht' is no type of ACL in Squid; did you mean 'proxy_auth'?"),
        ("x unlike 1", "'unlike' is no type of ACL in Squid"),
        ("x port https", "expected a port like 443 or a range like 8000-8100, got 'https'"),
        ("x port 70000", "expected ports from 1 to 65535, got '70000'"),
        (
            "x src host.example",
            "expected an address, a network or a range like 10.0.0.1-10.0.0.9, got 'host.example'; names are "
            "not looked up here",
        ),
        ("x dstdomain *.example.com", "expected a name, or .example.com for it and all below, got '*.example.com'"),
        ("x dstdomain none", "none stands for addresses that have no name: they are not looked up backwards here"),
        ("x dstdomain -i a.example", "the option '-i' is not known for this type here"),
        (
            "x dstdom_regex ^\\[",
            "'^\\[' asks for a bracket, and IPv6 addresses have none here; write the address alone",
        ),
        (
            "x url_regex -i (",
            "expected a regular expression, got '(': missing ): '(?i)('",
        ),
        ("x method g_t", "expected a method like CONNECT, got 'g_t'"),
        ("x proto GOPHERS", "expected a protocol like HTTP, got 'GOPHERS'"),
        ("x time mtwhf", "expected days as letters of SMTWHFA and D, got 'mtwhf'"),
        ("x time 18:00-08:00", "expected the earlier time first, got '18:00-08:00'; write two lines"),
        ("x time 8-17", "expected hours like 08:00-17:30, got '8-17'"),
        ("x any-of", "expected names of ACLs"),
        ("x any-of localhst", "no ACL before this line is called 'localhst'; did you mean 'localhost'?"),
        ("x any-of y", "no ACL before this line is called 'y'"),
        ("all port 80", "'all' has the type src already"),
        (
            "x ssl::server_name --server-provided a.example",
            "the option '--server-provided' is not known for this type here",
        ),
    ],
)
def test_malformed_lines(acl: str, reason: str) -> None:
    assert faults(f"via on\nacl {acl}\nhttp_access deny all\n") == [f"2: acl: {reason}"]


@pytest.mark.parametrize(
    ("acl", "reason"),
    [
        ("proxy_auth REQUIRED", "users are not known to this proxy; ask for clients by their address (src)"),
        ("browser Mozilla", "fields of requests are not looked at for rules"),
        ("rep_mime_type x", "answers are not judged by rules"),
        ("srcdomain .example.com", "addresses are not looked up backwards; name the addresses (src, dst)"),
        ("maxconn 5", "connections are not counted by client"),
        ("external helper", "it is about Squid's own work and says nothing of a request here"),
        ("localip 10.0.0.1", "name the http_port and ask for that name (myportname)"),
        ("arp 00:11:22:33:44:55", "it is not known here"),
    ],
)
def test_types_that_cannot_be_asked_are_faults_where_they_are_used(acl: str, reason: str) -> None:
    text = f"acl x {acl}\nacl y any-of x\nhttp_access deny y\nhttp_access deny all\n"
    kind = acl.split()[0]
    message = f"3: http_access: cannot be expressed: the ACL x (type {kind}): {reason}"
    assert faults(text) == faults(text, lenient=True) == [message]
    assert faults(f"acl x {acl}\nhttp_access deny all\n") == []


@pytest.mark.parametrize("mode", ["intercept", "tproxy"])
def test_the_port_that_captured_clients_dialled_is_not_known(mode: str) -> None:
    text = f"http_port 3128\nhttp_port 3129 {mode}\nacl web localport 80\nhttp_access deny web\nhttp_access allow all\n"
    assert faults(text) == [
        "4: http_access: cannot be expressed: the ACL web (type localport): of captured clients Squid takes the port that "
        "they dialled for it; name the http_port and ask for myportname"
    ]


def test_names_in_a_circle_are_refused() -> None:
    text = "acl a any-of localhost\nacl b any-of a\nacl a any-of b\nhttp_access allow a\n"
    assert faults(text) == ["4: http_access: cannot be expressed: the ACL a stands for itself"]


def test_an_unknown_port_name_is_refused() -> None:
    assert faults("acl a myportname x\nhttp_access allow a\n") == [
        "2: http_access: cannot be expressed: no http_port is called 'x'; give it name=x"
    ]


def test_groups_that_name_groups_twice_are_bounded() -> None:
    lines = [f"acl g{number} any-of g{number - 1} !g{number - 1}" for number in range(1, 40)]
    text = "\n".join(["acl g0 port 443", *lines, "http_access deny g39\n"])
    (fault,) = faults(text)
    assert "expected at most 100000 ACLs in groups of all lines together" in fault


def test_long_lists_are_read_in_a_time_that_grows_with_them_alone() -> None:
    names = "\n".join(f"a{number}.example" for number in range(60_000))
    text = 'acl big dstdomain "/big"\n' + "".join(f"http_access allow big {acl}\n" for acl in ("localhost", "manager"))
    began = time.process_time()
    rules = native(text, {"/big": names})["rules"]
    assert len(rules[0]["hosts"]) == 60_000
    assert time.process_time() - began < 20  # each value copied with those before it takes minutes


def test_values_of_all_rules_are_bounded() -> None:
    names = "\n".join(f"a{number}.example" for number in range(20_000))
    text = 'acl big dstdomain "/big"\n' + "".join(
        f"acl c{number} src 10.0.{number // 250}.{number % 250}\nhttp_access allow big c{number}\n"
        for number in range(260)
    )
    (fault,) = faults(text, {"/big": names})
    assert fault.startswith("1: http_access: expected at most 5000000 values of ACLs in all rules together")
