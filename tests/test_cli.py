"""The command line as people and scripts use it: real processes, their output and exit codes."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import trustme
from support import nursery
from support.namespaces import Namespace, need_namespaces

from egressproxy._version import __version__
from egressproxy.config.load import load

L = "listeners: [{protocol: http-proxy, address: 127.0.0.1, port: 3128}]\n"


def egressproxy(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    """With options of subprocess.run: started from nothing."""
    if not options:
        return nursery.run(*arguments)
    return subprocess.run(
        [sys.executable, "-m", "egressproxy", *arguments],
        **{
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            "text": True,
            "check": False,
            "timeout": 30,
            **options,
        },
    )


@pytest.fixture
def policy(tmp_path: Path) -> str:
    file = tmp_path / "policy.yaml"
    file.write_text(
        L + "rules:\n"
        "- {name: lan, action: allow, clients: [10.0.0.0/8], hosts: [git.example], ports: [22], private_addresses: true}\n"
        "- {name: local, action: allow, hosts: [localhost], private_addresses: true}\n"
        "allow: ['*.allowed.example:443']\n"
    )
    return str(file)


# --- the whole ----------------------------------------------------------------------------------------------------


def test_alone_it_prints_its_help() -> None:
    done = egressproxy()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == egressproxy("--help").stdout
    assert done.stdout.startswith("Usage: egressproxy ")
    for command in ("run", "check", "explain", "convert", "redirect", "schema"):
        assert f"\n  {command} " in done.stdout


def test_help_is_plain_text_when_nobody_looks() -> None:
    assert egressproxy("explain", "--help").stdout.isascii()


def test_it_tells_its_version() -> None:
    done = egressproxy("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"egressproxy {__version__}\n", "")


@pytest.mark.parametrize(
    "arguments", [("convert",), ("check",), ("explain",), ("run", "--nope"), ("explain", "--to")], ids=" ".join
)
def test_misuse_exits_2_and_says_so_on_standard_error(arguments: tuple[str, ...]) -> None:
    done = egressproxy(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr


# --- check --------------------------------------------------------------------------------------------------------


def test_check_passes_a_good_configuration_with_its_notes(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(L)
    done = egressproxy("check", str(file))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        f"{file}: note: nothing is allowed: there is no allow rule, no allow entry and no service, "
        "and outbound is registry_only",
        "ok: 1 listener, 0 rules, 0 services, 0 allowed by allow",
    ]


def test_check_tells_open_doors_with_their_lines(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(
        "listeners:\n- {protocol: http-proxy, port: 3128}\nrules:\n- action: allow\n  ports: [443]\n"
        "outbound: allow_any\nadmin:\n  address: 0.0.0.0\n"
    )
    done = egressproxy("check", str(file))
    assert (done.returncode, done.stderr) == (0, "")
    whoever = "note: whoever reaches http-proxy:3128 (0.0.0.0 port 3128) may go"
    assert [line.partition("; ")[0] for line in done.stdout.splitlines()[:-1]] == [
        f"{file}:6: outbound: {whoever} wherever no rule refuses it",
        f"{file}:4: rules[0]: {whoever} to any host by this rule",
        f"{file}:8: admin.address: note: whoever reaches 0.0.0.0 port 9090 sees open tunnels, rules and counters: "
        "the admin port asks nobody who it is",
    ]


@pytest.mark.parametrize("arguments", [("check",), ("run",)], ids=" ".join)
def test_a_file_that_is_not_there_is_named_whole(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    from support.proxy import ROOT

    code = "from egressproxy.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments, "none.yaml"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"none.yaml: cannot be read: No such file or directory ({tmp_path}/none.yaml)\n"


def test_check_reads_standard_input_by_its_name_and_not_as_a_dash() -> None:
    assert egressproxy("check", "-", input=L).returncode == 1
    done = egressproxy("check", "/dev/stdin", input=L + "alow: []\n")
    assert (done.returncode, done.stderr) == (1, "/dev/stdin:2: alow: no such setting; did you mean allow?\n")


def test_check_prints_every_problem_on_standard_error(tmp_path: Path) -> None:
    one, two = tmp_path / "one.yaml", tmp_path / "two.yaml"
    one.write_text(L + "report: yes\n")
    two.write_text("listeners:\n- {protocol: http-proxy, port: x}\n")
    done = egressproxy("check", str(one), str(two))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines() == [
        f"{one}:2: report: 'yes' without quotes is true to some readers of YAML and text to others; "
        "write true, or quote it",
        f"{two}:2: listeners[1].port: expected an integer from 1 to 65535, got 'x'",
    ]


def test_check_finds_a_key_that_is_not_the_certificates(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.issue_cert("a.example").cert_chain_pems[0].write_to_path(str(tmp_path / "a.pem"))
    authority.issue_cert("b.example").private_key_pem.write_to_path(str(tmp_path / "b.key"))
    file = tmp_path / "c.yaml"
    file.write_text("listeners: [{protocol: http-proxy, port: 1, tls: {certificate: a.pem, key: b.key}}]\n")
    done = egressproxy("check", str(file))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"{file}:1: listeners[0].tls: {tmp_path}/a.pem with key {tmp_path}/b.key: ")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_check_notes_a_log_that_this_user_cannot_write(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir(mode=0o500)
    file = tmp_path / "c.yaml"
    file.write_text(L + "allow: [a.example]\naccess_log: [{path: logs/a.log}]\n")
    done = egressproxy("check", str(file))
    assert done.returncode == 0
    assert f"{file}:3: access_log[0].path: note: {tmp_path}/logs/a.log cannot be written" in done.stdout


# --- explain ------------------------------------------------------------------------------------------------------


def test_explain_says_which_rule_allows(policy: str) -> None:
    done = egressproxy("explain", policy, "--to", "git.example:22", "--client", "10.1.2.3")
    assert (done.returncode, done.stderr) == (0, "")
    assert "CONNECT git.example:22 from 10.1.2.3" in done.stdout
    assert re.search(r"^allow\b.*\blan\b", done.stdout, re.MULTILINE)
    assert "DNS is asked" in done.stdout


def test_explain_exits_3_for_a_refusal_and_names_what_came_close(policy: str) -> None:
    done = egressproxy("explain", policy, "--to", "git.example:443", "--client", "10.1.2.3")
    assert (done.returncode, done.stderr) == (3, "")
    assert re.search(r"^deny\b.*\boutbound\b", done.stdout, re.MULTILINE)
    assert "lan: port 443" in done.stdout
    assert "DNS is not asked" in done.stdout


@pytest.mark.parametrize(
    ("target", "read"),
    [
        ("https://a.allowed.example/path?x#y", "a.allowed.example:443"),
        ("HTTPS://user:word@A.Allowed.Example.", "a.allowed.example:443"),
        ("https://a.allowed.example:443/", "a.allowed.example:443"),
        ("a.allowed.example:443", "a.allowed.example:443"),
    ],
)
def test_explain_takes_a_url_for_a_target(policy: str, target: str, read: str) -> None:
    done = egressproxy("explain", policy, "--to", target, "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["target"] == read


def test_explain_takes_port_80_from_an_http_url(policy: str) -> None:
    done = egressproxy("explain", policy, "--to", "http://a.allowed.example/", "--json")
    assert done.returncode == 3
    assert json.loads(done.stdout)["target"] == "a.allowed.example:80"


def test_explain_takes_a_plain_request_from_an_http_url(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(
        L + "rules: [{name: api, action: allow, hosts: [a.example], methods: [GET, POST], paths: [/api/*]}]\n"
    )
    for url, arguments, allowed in (
        ("http://a.example/api/x?q", (), True),
        ("http://a.example/api/x", ("--method", "POST"), True),
        ("http://a.example/api/x", ("--method", "PUT"), False),
        ("http://a.example/other", (), False),
        ("http://a.example/api/..%2fother", (), False),
        ("http://a.example/api/x", ("--method", "CONNECT"), False),
        ("https://a.example/api/x", (), False),
    ):
        done = egressproxy("explain", str(file), "--to", url, *arguments)
        assert (done.returncode, done.stderr) == (0 if allowed else 3, "")
    assert "CONNECT a.example:443 from 127.0.0.1" in done.stdout
    assert "what is asked inside a tunnel is not seen" in done.stdout


def test_explain_tells_how_a_registered_host_is_reached_and_looks_that_up(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(
        L + "services:\n- hosts: [localhost]\n  aliases: [here]\n  private_addresses: true\n"
        "  ports: [{number: 80, protocol: HTTP, target_port: 443}]\n  tls: {mode: simple}\n"
    )
    done = egressproxy("explain", str(file), "--to", "http://here/", "--resolve")
    assert (done.returncode, done.stderr) == (0, "")
    assert "service localhost: reached as localhost by DNS (dns), port 443" in done.stdout
    assert "TLS simple: server name localhost" in done.stdout
    assert "127.0.0.1 port 443: dialled" in done.stdout


def test_explain_without_a_configuration_explains_the_built_in_one() -> None:
    done = egressproxy("explain", "--to", "https://example.com/")
    assert done.returncode == 0
    assert "built-in" in done.stdout


def test_explain_has_the_address_guards_word_on_an_address() -> None:
    done = egressproxy("explain", "--to", "10.0.0.1:443", "--json")
    told = json.loads(done.stdout)
    assert (done.returncode, told["allowed"], told["decided_by"]) == (3, False, "address_denied")
    assert told["by_name"]["allowed"]
    assert [(finding["address"], finding["class"]) for finding in told["addresses"]] == [("10.0.0.1", "private")]


def test_explain_says_the_last_word_first_and_what_to_do_without_a_configuration() -> None:
    done = egressproxy("explain", "--to", "10.0.0.1:443")
    assert done.returncode == 3
    assert done.stdout.splitlines()[1:3] == [
        "deny (address_denied): 10.0.0.1 is private (10.0.0.0/8, RFC 1918); to open it write a configuration with a rule "
        "that names this host and has private_addresses: true",
        "  by name: allow (built-in): allowed by rule built-in",
    ]


def test_explain_knows_its_own_listener(policy: str) -> None:
    done = egressproxy("explain", policy, "--to", "localhost:3128", "--resolve", "--json")
    findings = {finding["address"]: finding["reason"] for finding in json.loads(done.stdout)["addresses"]}
    assert findings["127.0.0.1"] == "it is this proxy itself"


def test_explain_resolves_and_judges_on_request(policy: str) -> None:
    done = egressproxy("explain", policy, "--to", "localhost:443", "--resolve")
    assert (done.returncode, done.stderr) == (0, "")
    assert "127.0.0.1: dialled" in done.stdout


def test_explain_never_looks_up_a_name_that_is_refused(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.setblocking(False)
        file = tmp_path / "c.yaml"
        file.write_text(L + f"dns: {{servers: ['127.0.0.1:{server.getsockname()[1]}']}}\n")
        done = egressproxy("explain", str(file), "--to", "refused.example:443", "--resolve")
        assert done.returncode == 3
        with pytest.raises(BlockingIOError):
            server.recv(1)


def test_explain_exits_1_when_dns_fails(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        file = tmp_path / "c.yaml"
        server = f"127.0.0.1:{silent.getsockname()[1]}"
        file.write_text(L + f"allow: [a.example]\ndns: {{servers: ['{server}'], timeout_s: 0.3, tries: 1}}\n")
        done = egressproxy("explain", str(file), "--to", "a.example:443", "--resolve")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("allowed by name, and not found: ")


def test_explain_says_that_the_user_is_not_asked_for() -> None:
    done = egressproxy("explain", "--to", "example.com:443", "--user", "ann")
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == "The user is not looked at: no rule of this version asks for one"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--to", "example.com"), "--to: expected HOST:PORT, got 'example.com' without a port"),
        (("--to", ""), "--to: "),
        (("--to", "0x7f.1:443"), "--to: "),
        (("--to", "a\nb:443"), "--to: "),
        (("--to", "ftp://example.com/"), "--to: expected an http or https URL, got the scheme 'ftp'"),
        (("--to", "https://example.com:x/"), "--to: "),
        (("--to", "https://example.com\\@evil.example:1:2/"), "--to: "),
        (("--to", "a.example:1", "--client", "me"), "--client: expected an IP address, got 'me'"),
        (("--to", "a.example:1", "--method", "A B"), "--method: expected a method like CONNECT, got 'A B'"),
        (
            ("--to", "http://a.example/a b"),
            "--to: expected a path in ASCII, other characters percent-encoded, got '/a b'",
        ),
        (("--to", "https://a.example/", "--method", "GET"), "--method: an https URL is asked for by CONNECT"),
    ],
)
def test_a_malformed_question_exits_2_in_one_line(arguments: tuple[str, ...], said: str) -> None:
    done = egressproxy("explain", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(said)
    assert done.stderr.count("\n") == 1


def test_explain_tells_the_line_that_decides(policy: str) -> None:
    done = egressproxy("explain", policy, "--to", "git.example:22", "--client", "10.1.2.3")
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("  written at ")]
    file, _, number = line.removeprefix("  written at ").rpartition(":")
    assert file == policy
    assert "name: lan" in Path(policy).read_text().splitlines()[int(number) - 1]


DOORS = "listeners: [{protocol: http, port: 8080, name: web}, {protocol: sni, port: 8443}]\n"


def test_explain_takes_the_listener_that_fits_or_the_one_that_is_named(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(DOORS + "rules: [{name: web-only, action: allow, listeners: [web]}]\n")
    for arguments, code, listener in (
        (("--to", "http://a.example/"), 0, "web"),
        (("--to", "https://a.example/"), 3, "sni:8443"),
        (("--to", "http://a.example/", "--listener", "web"), 0, "web"),
    ):
        done = egressproxy("explain", str(file), *arguments, "--json")
        assert (done.returncode, json.loads(done.stdout)["listener"]) == (code, listener)
    done = egressproxy("explain", str(file), "--to", "http://a.example/", "--listener", "sni:8443")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "--listener: expected a listener that takes plain requests (web), got 'sni:8443'\n"


def test_explain_is_undecided_until_the_addresses_that_a_rule_asks_for_are_known(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(
        L + "rules:\n- {name: here, action: deny, addresses: [127.0.0.0/8]}\n- {name: rest, action: allow}\n"
    )
    done = egressproxy("explain", str(file), "--to", "localhost:443")
    assert done.returncode == 3
    assert "undecided: here asks for the target's addresses" in done.stdout
    assert "DNS is asked for localhost" in done.stdout
    done = egressproxy("explain", str(file), "--to", "localhost:443", "--resolve")
    assert done.returncode == 3
    assert "deny (here): refused by rule here" in done.stdout
    file.write_text(file.read_text().replace("127.0.0.0/8", "192.0.2.0/24"))
    done = egressproxy("explain", str(file), "--to", "localhost:443", "--resolve", "--json")
    assert json.loads(done.stdout)["by_name"]["rule"] == "rest"


def test_explain_looks_up_what_the_service_names_behind_a_rule_that_asks_for_addresses(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(
        L + "rules:\n- {name: there, action: deny, addresses: [192.0.2.0/24]}\n"
        "- {name: rest, action: allow, private_addresses: true}\n"
        "services: [{hosts: [127.0.0.1], ports: [{number: 443}]},\n"
        "  {hosts: [localhost], ports: [{number: 443}], endpoints: [{address: localhost, port: 8443}]}]\n"
    )
    done = egressproxy("explain", str(file), "--to", "localhost:443", "--resolve")
    assert (done.returncode, done.stderr) == (0, "")
    assert "DNS is asked for localhost" in done.stdout


def test_explain_follows_the_files_of_other_programs(tmp_path: Path) -> None:
    file = tmp_path / "squid.conf"
    file.write_text("acl safe port 443\nhttp_access deny !safe\nhttp_access allow all\nhttp_port 127.0.0.1:3128\n")
    done = egressproxy("explain", f"squid:{file}", "--to", "a.example:443")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"  written at {file}:3" in done.stdout.splitlines()
    done = egressproxy("explain", f"squid:{file}", "--to", "a.example:22")
    assert done.returncode == 3
    assert f"  written at {file}:2" in done.stdout.splitlines()


def test_explain_with_a_bad_configuration_exits_1(tmp_path: Path) -> None:
    done = egressproxy("explain", str(tmp_path / "none.yaml"), "--to", "a.example:1")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"{tmp_path}/none.yaml: cannot be read: No such file or directory\n"


# --- other programs' files ----------------------------------------------------------------------------------------

SQUID = """\
http_port 127.0.0.1:3128
acl ok dstdomain .example.com
http_access allow ok
http_access deny all
access_log none
coredump_dir /var/spool/squid
fancy_directive on
"""


@pytest.fixture
def squid(tmp_path: Path) -> str:
    file = tmp_path / "squid.conf"
    file.write_text(SQUID)
    return str(file)


def test_the_help_of_each_command_names_the_formats_and_their_prefixes() -> None:
    for command in ("run", "check", "explain", "convert", "redirect"):
        told = " ".join(egressproxy(command, "--help").stdout.split())
        for word in ("squid:PATH", "nginx:PATH", "istio:PATH", "--lenient"):
            assert word in told, (command, word)


@pytest.mark.parametrize("command", ["run", "check", "explain", "convert"])
def test_what_is_not_known_is_refused_in_each_command(squid: str, command: str) -> None:
    done = egressproxy(command, squid, *(["--to", "a.example.com:443"] if command == "explain" else []))
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"{squid}:7: fancy_directive: ")


def test_lenient_notes_what_is_not_known_and_goes_on(squid: str) -> None:
    done = egressproxy("check", "--lenient", squid)
    assert (done.returncode, done.stderr) == (0, "")
    notes = [line for line in done.stdout.splitlines() if ": note: " in line]
    assert any(note.startswith(f"{squid}:7: fancy_directive: note: ") for note in notes), notes
    assert any(note.startswith(f"{squid}:6: coredump_dir: note: ") for note in notes), notes
    assert egressproxy("explain", "--lenient", squid, "--to", "a.example.com:443").returncode == 0
    assert egressproxy("explain", "--lenient", squid, "--to", "a.example.org:443").returncode == 3


# --- convert ------------------------------------------------------------------------------------------------------


def test_convert_prints_what_loads_to_the_same_and_notes_on_standard_error(squid: str, tmp_path: Path) -> None:
    done = egressproxy("convert", "--lenient", squid)
    assert done.returncode == 0
    assert "coredump_dir: note: " in done.stderr
    assert re.search(rf"^  # {re.escape(squid)}:3\n  - {{?name: http_access-3,?\s", done.stdout, re.MULTILINE), (
        done.stdout
    )
    native = tmp_path / "native.yaml"
    native.write_text(done.stdout)
    again = egressproxy("convert", str(native))
    assert (again.returncode, again.stderr) == (0, "")
    assert without_comments(again.stdout) == without_comments(done.stdout)
    assert load([str(native)]).config == load([squid], lenient=True).config


def without_comments(text: str) -> list[str]:
    return [line for line in text.splitlines() if not line.lstrip().startswith("#")]


def test_convert_prints_secrets_as_they_are_and_warns_of_them(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(L + 'secrets: {inline: {c: {"ca.crt": "-----BEGIN\\nx\\n"}}}\n')
    done = egressproxy("convert", str(file))
    assert done.returncode == 0
    assert done.stderr == (
        "warning: secrets.inline is printed as it is, private keys included: keep the output to yourself\n"
    )
    assert done.stdout.endswith("secrets:\n  inline:\n    c:\n      ca.crt: |\n        -----BEGIN\n        x\n")


def test_convert_refuses_what_check_refuses(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(L + "alow: []\n")
    done = egressproxy("convert", str(file))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"{file}:2: alow: no such setting; did you mean allow?\n"


# --- redirect -----------------------------------------------------------------------------------------------------

TRANSPARENT = (
    "listeners:\n- {protocol: sni, address: '::', port: 8443, transparent: tproxy}\n"
    "- {protocol: http-proxy, address: 127.0.0.1, port: 3128}\n"
)


def test_redirect_prints_rules_that_nft_takes_as_they_are() -> None:
    done = egressproxy("redirect", "--port", "8443", "--user", "1337", "--exclude", "10.0.0.0/8,fd00::/8", "--routed")
    assert (done.returncode, done.stderr) == (0, "")
    assert "\ntable inet egressproxy\ndelete table inet egressproxy\ntable inet egressproxy {\n" in done.stdout
    for line in ("meta skuid 1337 return", "ip6 daddr { fd00::/8 } return", "tcp dport { 443 } redirect to :8443"):
        assert f"\t\t{line}\n" in done.stdout
    assert done.stdout.endswith("\t}\n}\n")


def test_redirect_takes_port_and_mode_from_a_configuration(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(TRANSPARENT)
    done = egressproxy("redirect", str(file), "--user", "root")
    assert (done.returncode, done.stderr) == (0, "")
    assert "tproxy to :8443" in done.stdout
    assert "# Note: the proxy's user is root: whatever runs as root goes past the proxy.\n" in done.stdout
    same = egressproxy("redirect", str(file), "--user", "0", "--port", "8443", "--mode", "tproxy")
    assert same.stdout == done.stdout


def test_redirect_takes_destinations_from_a_configuration_unless_its_options_say_otherwise(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(TRANSPARENT + "capture: {include: [10.0.0.0/8], exclude: [10.1.0.0/16, fd00::/8]}\n")
    whole = egressproxy("redirect", str(file), "--user", "1337")
    assert (whole.returncode, whole.stderr) == (0, "")
    same = ("--include", "10.0.0.0/8", "--exclude", "10.1.0.0/16,fd00::/8")
    assert whole.stdout == egressproxy("redirect", str(file), "--user", "1337", *same).stdout
    other = egressproxy("redirect", str(file), "--user", "1337", "--include", "192.0.2.0/24").stdout
    assert "192.0.2.0/24" in other
    assert "10.0.0.0/8" not in other
    assert "10.1.0.0/16" in other


def test_redirect_captures_all_ports_but_dns_for_a_tcp_listener(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("listeners: [{protocol: tcp, port: 15001, transparent: redirect}]\n")
    done = egressproxy("redirect", str(file), "--user", "1337")
    assert (done.returncode, done.stderr) == (0, "")
    assert "tcp dport { 1-52, 54-65535 } redirect to :15001" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "--port: expected the port of the transparent listener, or a CONFIG that has one"),
        (("--port", "8443"), "expected the proxy's own user (--user), or its connections would come back to it; give it one"),
        (("--port", "8443", "--no-own"), "nothing would be captured: neither programs on this host nor what is routed"),
        (("--port", "8443", "--user", "no one"), "--user: expected a user of this host or a number, got 'no one'"),
        (("--port", "8443", "--user", "4294967295"), "--user: expected a user of this host or a number, got '4294967295'"),
        (("--port", "8443", "--user", "1", "--mode", "nat"), "--mode: expected redirect or tproxy, got 'nat'"),
        (("--port", "8443", "--user", "1", "--ports", "53"), "--ports: expected ports other than 53: DNS is not captured"),
        (("--port", "8443", "--user", "1", "--include", "all"), "--include: expected a network like 10.0.0.0/8 or fd00::/8"),
        (("--port", "8443", "--user", "1", "--exclude", "10.0.0.1/8"), "--exclude: '10.0.0.1/8' has host bits set; did you"),
        (("--apply", "--remove"), "--apply and --remove: expected one of them"),
        (
            ("--port", "443", "--user", "1", "--mode", "tproxy"),
            "under tproxy a captured connection keeps its port, so that the listener's own, 443, cannot be among them",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)  # fmt: skip
def test_redirect_says_what_is_missing_or_wrong(arguments: tuple[str, ...], said: str) -> None:
    done = egressproxy("redirect", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(said)


@pytest.mark.parametrize(
    ("text", "arguments", "said", "code"),
    [
        (L, (), "expected a listener with `transparent: redirect` or `tproxy`, found none", 1),
        (TRANSPARENT, ("--port", "3128"), "expected a listener with `transparent: redirect` or `tproxy` on port 3128", 1),
        (TRANSPARENT, ("--mode", "redirect"), "--mode: the listener on port 8443 has transparent: tproxy, got redirect", 2),
        (
            "listeners:\n- {protocol: sni, port: 9443, transparent: redirect}\n"
            "- {protocol: sni, port: 8443, transparent: redirect}\n",
            (),
            "--port: expected one of the transparent listeners' ports: 9443, 8443",
            2,
        ),
        ("listeners: 1\n", (), "listeners: expected a list", 1),
    ],
)  # fmt: skip
def test_redirect_says_what_a_configuration_lacks(
    tmp_path: Path, text: str, arguments: tuple[str, ...], said: str, code: int
) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(text)
    done = egressproxy("redirect", str(file), "--user", "1337", *arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr


def test_redirect_applies_and_removes() -> None:
    need_namespaces("nft")
    with Namespace("host") as host:
        nothing = host.run("nft", "list", "ruleset").out
        applied = host.call(egressproxy, "redirect", "--port", "8443", "--user", "1337", "--apply")
        assert (applied.returncode, applied.stderr) == (0, "")
        assert applied.stdout.splitlines()[:2] == [
            "TCP to ports 443 of programs on this host goes to port 8443 (redirect)",
            "note: only TCP is captured: QUIC (UDP) goes past the proxy unless a firewall stops it",
        ]
        rules = host.run("nft", "list", "ruleset").out
        assert "redirect to :8443" in rules
        again = host.call(egressproxy, "redirect", "--port", "8443", "--user", "1337", "--apply")
        assert (again.stdout, host.run("nft", "list", "ruleset").out) == (applied.stdout, rules)
        for _ in range(2):
            removed = host.call(egressproxy, "redirect", "--remove")
            assert (removed.returncode, removed.stdout, removed.stderr) == (0, "nothing is captured any more\n", "")
        assert host.run("nft", "list", "ruleset").out == nothing


def test_redirect_notes_what_it_finds_when_it_applies() -> None:
    need_namespaces("nft")
    with Namespace("host") as host:
        host.set("ipv6/conf/lo/disable_ipv6", 1)
        arguments = ("--port", "8443", "--mode", "tproxy", "--user", "1", "--apply")
        done = host.call(egressproxy, "redirect", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\nnote: IPv6 is off on the loopback interface" in done.stdout


@pytest.mark.parametrize("arguments", [("--remove",), ("--port", "8443", "--user", "1", "--apply")])
def test_redirect_exits_1_with_the_reason_when_it_fails(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    nft = tmp_path / "nft"
    nft.write_text("#!/bin/sh\necho 'Operation not permitted (you must be root)' >&2\nexit 1\n")
    nft.chmod(0o755)
    done = egressproxy("redirect", *arguments, env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"})
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "nft -f -: not permitted; this needs root, or CAP_NET_ADMIN in this network namespace\n"


# --- run ----------------------------------------------------------------------------------------------------------


def test_run_refuses_a_bad_configuration(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("")
    done = egressproxy("run", str(file))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"{file}:1: expected settings like listeners and allow, got an empty file\n"


def test_run_names_the_log_that_it_cannot_open(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    loop = tmp_path / "loop.log"
    loop.symlink_to(loop)
    file.write_text(L + "access_log:\n- {path: '-'}\n- {path: loop.log}\n")
    done = egressproxy("run", str(file))
    assert (done.returncode, done.stdout) == (1, "")
    words = os.strerror(errno.ELOOP)
    assert f"{file}:4: access_log[1].path: {loop} cannot be written: {words}\n" in done.stderr


@pytest.mark.parametrize(
    ("file_says", "advice"),
    [
        (
            "listeners:\n- {protocol: http-proxy, address: 127.0.0.1, port: TAKEN}\nadmin: null\n",
            "it is listeners[0].port in FILE:2",
        ),
        (
            L.replace("3128", "FREE") + "admin:\n  port: TAKEN\n",
            "it is admin.port in FILE:3, by default 9090: write admin: {port: ...} in a configuration for another one, "
            "or admin: null for none",
        ),
    ],
    ids=["listener", "admin"],
)
def test_run_says_which_port_is_taken_and_what_to_write(tmp_path: Path, file_says: str, advice: str) -> None:
    from support.proxy import free_port

    file = tmp_path / "c.yaml"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        file.write_text(file_says.replace("TAKEN", str(port)).replace("FREE", str(free_port())))
        done = egressproxy("run", str(file))
    assert done.returncode == 1
    (line,) = (line for line in done.stderr.splitlines() if "cannot listen" in line)
    assert line.startswith(f"cannot listen on 127.0.0.1 port {port}: ")
    assert line.endswith("; " + advice.replace("FILE", str(file)))
    assert "Traceback" not in done.stderr


def test_run_says_that_taken_ports_are_those_of_istio_files_without_listeners(tmp_path: Path) -> None:
    entry = "{hosts: [a.example], ports: [{number: 443, name: tls, protocol: TLS}], resolution: DNS}"
    file = tmp_path / "mesh.yaml"
    file.write_text(f"apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: a}}\nspec: {entry}\n")
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # whoever has it: it is taken
            stack.enter_context(socket.create_server(("", 8080)))
        done = egressproxy("run", str(file))
    assert done.returncode == 1
    (line,) = (line for line in done.stderr.splitlines() if "cannot listen" in line)
    assert line.endswith("it is where the default listeners of Istio files listen: write a native file with listeners")


# --- schema and streams -------------------------------------------------------------------------------------------


def test_schema_prints_a_json_schema() -> None:
    done = egressproxy("schema")
    schema = json.loads(done.stdout)
    assert (done.returncode, done.stderr) == (0, "")
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert "listeners" in schema["properties"]


@pytest.mark.parametrize("arguments", [("schema",), ("explain", "--to", "example.com:443"), ("--help",)], ids=" ".join)
def test_a_reader_that_left_is_no_fault(arguments: tuple[str, ...]) -> None:
    reader, writer = socket.socketpair()
    reader.close()
    with writer:
        done = egressproxy(*arguments, stdout=writer)
    assert done.stderr == ""


def test_a_closed_standard_output_is_no_fault() -> None:
    done = subprocess.run(
        ["/bin/sh", "-c", f"{sys.executable} -m egressproxy explain --to 10.0.0.1:443 >&-"],
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (3, "")


def test_a_full_disk_is_a_failure() -> None:
    with open("/dev/full", "w") as full:  # noqa: PTH123 - a device
        done = egressproxy("schema", stdout=full)
    assert (done.returncode, done.stderr) == (1, "standard output: No space left on device\n")
