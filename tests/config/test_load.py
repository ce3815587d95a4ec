"""Files and folders to one configuration: what is merged, what is resolved, what is only worth a note."""

from __future__ import annotations

import os
import re
import socket
import threading
from typing import TYPE_CHECKING

import pytest

from egressproxy.config import snapshot as snapshot_module
from egressproxy.config.load import Loaded, load
from egressproxy.config.snapshot import Snapshot
from egressproxy.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ISTIO = (
    "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: a}\nspec:\n"
    "  hosts: [a.example]\n  ports: [{number: 443, name: tls, protocol: TLS}]\n  "
)
L = "listeners: [{protocol: http-proxy, port: 3128}]\n"


def write(folder: Path, **files: str) -> list[str]:
    """Files named by the keyword with `.yaml` behind it; their paths, in order."""
    paths = []
    for name, content in files.items():
        path = folder / f"{name}.yaml"
        path.write_text(content)
        paths.append(str(path))
    return paths


def problems(*paths: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(paths)
    return [str(problem) for problem in caught.value.problems]


def reads_and_then(act: Callable[[str], None]) -> Callable[..., bytes | str]:
    """In place of `Snapshot.read`: somebody who acts on the disk behind each file that is read."""
    read = Snapshot.read

    def read_and_act(snapshot: Snapshot, path: str, *, may_wait: bool = False) -> bytes | str:
        content = read(snapshot, path, may_wait=may_wait)
        act(path)
        return content

    return read_and_act


def notes(loaded: Loaded) -> list[str]:
    return [str(note) for note in loaded.notes]


# --- without files ------------------------------------------------------------------------------------------------


def test_the_built_in_default_listens_on_loopback_and_allows_web_ports() -> None:
    loaded = load([])
    assert [(listener.address, listener.port) for listener in loaded.config.listeners] == [("127.0.0.1", 3128)]
    assert [[str(ports) for ports in rule.ports or ()] for rule in loaded.config.rules] == [["80", "443"]]
    assert loaded.config.outbound == "registry_only"
    assert (loaded.notes, loaded.sources) == ((), ())


# --- merging ------------------------------------------------------------------------------------------------------


def test_lists_are_joined_in_the_order_of_the_files(tmp_path: Path) -> None:
    paths = write(
        tmp_path,
        b=L + "allow: [b.example]\nrules: [{name: b, action: deny}]\nguard: {allow: [10.0.0.0/8]}\n",
        a="allow: [a.example]\nrules: [{name: a, action: allow}]\nguard: {allow: [172.16.0.0/12]}\n",
    )
    config = load(paths).config
    assert config.allow == ("b.example", "a.example")
    assert [rule.name for rule in config.rules] == ["b", "a"]
    assert [str(network) for network in config.guard.allow] == ["10.0.0.0/8", "172.16.0.0/12"]


def test_mappings_are_merged_key_by_key(tmp_path: Path) -> None:
    paths = write(tmp_path, a=L + "timeouts: {idle_s: 7}\n", b="timeouts: {head_s: 3, idle_s: 7}\nadmin: null\n")
    config = load(paths).config
    assert (config.timeouts.idle_s, config.timeouts.head_s, config.timeouts.connect_s) == (7, 3, 10)
    assert config.admin is None


def test_a_setting_with_two_values_is_an_error_that_names_both_places(tmp_path: Path) -> None:
    a, b = write(
        tmp_path,
        a=L + "outbound: registry_only\ntimeouts:\n  idle_s: 7\nadmin: null\nreport: true\n",
        b="outbound: allow_any\ntimeouts: {idle_s: 8}\nadmin: {port: 1}\nreport: 1\n",
    )
    assert problems(a, b) == [
        f"{b}:1: outbound: is 'allow_any' here and 'registry_only' in {a}:2; expected one value",
        f"{b}:2: timeouts.idle_s: is 8 here and 7 in {a}:4; expected one value",
        f"{b}:3: admin: is a mapping here and nothing in {a}:5; expected one value",
        f"{b}:4: report: is 1 here and true in {a}:6; expected one value",
    ]


def test_a_problem_in_a_joined_list_is_told_where_the_entry_stands(tmp_path: Path) -> None:
    a, b = write(tmp_path, a=L + "allow: [a.example, b.example]\n", b="\n\nallow:\n- c.example\n- d/e\n")
    assert problems(a, b) == [
        f"{b}:5: allow[3]: expected a host, got 'd/e'; networks belong in clients (who asks) or "
        "guard.allow (what may be dialled)"
    ]


def test_anchors_share_a_list_without_sharing_what_is_merged_into_it(tmp_path: Path) -> None:
    paths = write(
        tmp_path,
        a=L + "rules:\n- {action: deny, clients: &lan [10.0.0.0/8]}\n- {action: allow, clients: *lan}\n"
        "guard: {allow: *lan}\n",
        b="guard: {allow: [172.16.0.0/12]}\n",
    )
    config = load(paths).config
    assert [len(rule.clients or ()) for rule in config.rules] == [1, 1]
    assert len(config.guard.allow) == 2


def test_one_file_given_twice_is_an_error(tmp_path: Path) -> None:
    (a,) = write(tmp_path, a=L)
    assert problems(a, str(tmp_path)) == [f"{a}: is given twice"]


# --- folders ------------------------------------------------------------------------------------------------------


def test_a_folder_is_read_in_the_order_of_its_names(tmp_path: Path) -> None:
    write(tmp_path, **{"20-b": "allow: [b.example]\n", "10-a": L + "allow: [a.example]\n"})
    (tmp_path / "30-c.yml").write_text("allow: [c.example]\n")
    loaded = load([str(tmp_path)])
    assert loaded.config.allow == ("a.example", "b.example", "c.example")
    assert [os.path.basename(source) for source in loaded.sources] == ["10-a.yaml", "20-b.yaml", "30-c.yml"]  # noqa: PTH119 - strings


def test_hidden_files_and_folders_are_left_out_and_other_files_noted(tmp_path: Path) -> None:
    write(tmp_path, a=L + "allow: [a.example]\n", **{".hidden": "nonsense: 1\n"})
    (tmp_path / "sub.yaml").mkdir()
    (tmp_path / "rules.yaml.bak").write_text("nonsense: 1\n")
    loaded = load([str(tmp_path)])
    assert loaded.config.allow == ("a.example",)
    assert notes(loaded) == [f"{tmp_path}/rules.yaml.bak: ignored: not *.yaml, *.yml or *.conf"]


def test_a_mounted_configmap_is_read_through_its_links(tmp_path: Path) -> None:
    generation = tmp_path / "..2026_01_01"
    generation.mkdir()
    write(generation, a=L + "allow: [a.example]\n")
    (tmp_path / "..data").symlink_to(generation.name)
    (tmp_path / "a.yaml").symlink_to("..data/a.yaml")
    assert load([str(tmp_path)]).config.allow == ("a.example",)


def test_a_configmap_swapped_while_it_is_read_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in (1, 2):
        (tmp_path / f"..{number}").mkdir()
        write(tmp_path / f"..{number}", a=L + f"allow: [a{number}.example]\n", b=f"allow: [b{number}.example]\n")
    link = tmp_path / "..data"
    link.symlink_to("..1")
    for name in ("a.yaml", "b.yaml"):
        (tmp_path / name).symlink_to(f"..data/{name}")
    swaps = 1

    def swap_behind_the_first_file(path: str) -> None:
        nonlocal swaps
        if path.endswith("a.yaml") and swaps:
            swaps -= 1
            (tmp_path / "..new").symlink_to(f"..{2 - swaps % 2}")
            (tmp_path / "..new").replace(link)

    monkeypatch.setattr(Snapshot, "read", reads_and_then(swap_behind_the_first_file))
    assert load([str(tmp_path)]).config.allow == ("a2.example", "b2.example")
    swaps = 100
    assert problems(str(tmp_path)) == [f"{tmp_path}/a.yaml: changed each time it was read; load it again"]


@pytest.mark.parametrize("which", ["a", "b", "c", "folder"])
def test_whatever_changes_while_all_is_read_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    paths = write(tmp_path, a=L + "allow: [a.example]\n", b="allow: [b.example]\n", c="allow: [c.example]\n")
    changes = 1

    def change_behind_the_second_file(path: str) -> None:
        nonlocal changes
        if path.endswith("b.yaml") and changes:
            changes -= 1
            if which == "folder":
                write(tmp_path, d="allow: [d.example]\n")
            else:  # in place, with as many bytes
                file = tmp_path / f"{which}.yaml"
                file.write_text(file.read_text().replace(f"{which}.example", f"{which}.changed"))

    monkeypatch.setattr(Snapshot, "read", reads_and_then(change_behind_the_second_file))
    allowed = load([str(tmp_path)] if which == "folder" else paths).config.allow
    others = [f"{name}.example" for name in "abc" if name != which]
    assert sorted(allowed) == sorted([*others, "d.example" if which == "folder" else f"{which}.changed"])


NO_FILE = "; only a CONFIG of the command line may be one, which is read at the start and at SIGHUP"


def test_what_is_no_regular_file_in_a_folder_is_a_fault_and_keeps_nobody_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "zero.conf").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "socket.yml"))
        assert problems(str(tmp_path)) == [
            f"{tmp_path}/pipe.yaml: expected a regular file, got a named pipe{NO_FILE}",
            f"{tmp_path}/socket.yml: expected a regular file, got a socket{NO_FILE}",
            f"{tmp_path}/zero.conf: expected a regular file, got a character device{NO_FILE}",
        ]


@pytest.mark.parametrize(
    "text",
    [
        "http_port 3128\ninclude {pipe}\n",
        'http_port 3128\nacl a dstdomain "{pipe}"\nhttp_access allow a\n',
        "include {pipe};\n",
        "include {pipe}*;\n",
    ],
    ids=["an include", "a file of values", "nginx", "a pattern"],
)
def test_a_pipe_that_a_file_names_is_a_fault_and_keeps_nobody_waiting(tmp_path: Path, text: str) -> None:
    pipe, config = tmp_path / "pipe", tmp_path / "a.conf"
    os.mkfifo(pipe)
    config.write_text(text.format(pipe=pipe))
    forced = "nginx" if text.endswith(";\n") else "squid"
    assert any(f"expected a regular file, got a named pipe{NO_FILE}" in each for each in problems(f"{forced}:{config}"))


def test_a_config_that_is_given_by_name_may_be_a_pipe_unless_nobody_may_wait_for_it(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=(L,))
    writer.start()
    snapshot = Snapshot()
    assert [each.port for each in load([str(pipe)], snapshot).config.listeners] == [3128]
    writer.join()
    assert snapshot.changed() is None
    with pytest.raises(ConfigError, match="expected a regular file, got a named pipe"):
        load([str(pipe)], Snapshot(waits=False))


def test_a_folder_in_a_folder_that_becomes_a_file_is_a_change(tmp_path: Path) -> None:
    write(tmp_path, a=L)
    (tmp_path / "b.yaml").mkdir()
    loaded = load([str(tmp_path)])
    assert loaded.snapshot.changed() is None
    (tmp_path / "b.yaml").rmdir()
    write(tmp_path, b="allow: [b.example]\n")
    assert loaded.snapshot.changed() == str(tmp_path / "b.yaml")


def test_a_folder_without_configuration_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("http_port 3128\n")
    assert problems(str(tmp_path)) == [f"{tmp_path}: expected *.yaml, *.yml or *.conf files in this folder, got none"]


# --- what cannot be read ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "squid:", "nginx:", "istio:"])
def test_a_prefix_for_a_format_is_no_part_of_the_name(prefix: str) -> None:
    assert problems(f"{prefix}/etc/x") == ["/etc/x: cannot be read: No such file or directory"]
    assert problems(prefix) == ["'': expected the name of a file or folder"]


def test_what_is_not_there_is_an_error_and_never_an_empty_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link.yaml").symlink_to("nowhere")
    monkeypatch.chdir(tmp_path)
    assert problems("", "policy/none.yaml", f"{tmp_path}/none", "a\0b", str(tmp_path)) == [
        "'': expected the name of a file or folder",
        f"policy/none.yaml: cannot be read: No such file or directory ({tmp_path}/policy/none.yaml)",
        f"{tmp_path}/none: cannot be read: No such file or directory",
        r"a\x00b: cannot be read: its name has a NUL in it",
        f"{tmp_path}/link.yaml: cannot be read: No such file or directory",
    ]


def test_standard_input_is_no_configuration() -> None:
    assert problems("-") == [
        "-: expected the name of a file or folder; standard input is gone when the proxy reloads, and where nothing reloads "
        "/dev/stdin names it"
    ]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_an_error(tmp_path: Path) -> None:
    (a,) = write(tmp_path, a=L)
    os.chmod(a, 0)  # noqa: PTH101 - a string
    assert problems(a) == [f"{a}: cannot be read: Permission denied"]


def test_a_file_beyond_the_bound_is_not_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot_module, "MAX_FILE_BYTES", 1000)
    assert problems("/dev/zero") == ["/dev/zero: expected at most 1000 bytes; split the file"]


def test_a_file_name_cannot_forge_a_line(tmp_path: Path) -> None:
    file = tmp_path / "a\nb.yaml"
    file.write_text("")
    assert problems(str(file)) == [
        rf"{tmp_path}/a\nb.yaml:1: expected settings like listeners and allow, got an empty file"
    ]


# --- files that settings name -------------------------------------------------------------------------------------


def test_relative_paths_start_from_the_folder_of_their_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "conf" / "log").mkdir(parents=True)
    for name in ("cert.pem", "key.pem"):
        (tmp_path / "conf" / name).write_text("")
    write(
        tmp_path / "conf",
        a="listeners: [{protocol: http-proxy, port: 1, tls: {certificate: cert.pem, key: ./key.pem}}]\n"
        'access_log: [{path: log/a.log}, {path: /dev/null}, {path: "-"}]\n',
    )
    monkeypatch.chdir(tmp_path)
    config = load(["conf/a.yaml"]).config
    assert config.listeners[0].tls is not None
    assert config.listeners[0].tls.certificate == tmp_path / "conf" / "cert.pem"
    assert config.listeners[0].tls.key == tmp_path / "conf" / "key.pem"
    assert [log.path for log in config.access_log] == [f"{tmp_path}/conf/log/a.log", "/dev/null", "-"]


def test_files_that_are_not_there_are_told_with_all_other_problems(tmp_path: Path) -> None:
    (a,) = write(
        tmp_path,
        a="listeners:\n- protocol: http-proxy\n  port: 0\n  tls:\n    certificate: none.pem\n    key: .\n"
        "access_log:\n- path: none/access.log\n- path: .\n",
    )
    assert problems(a) == [
        f"{a}:3: listeners[0].port: expected an integer from 1 to 65535, got 0",
        f"{a}:5: listeners[0].tls.certificate: expected a file that exists, got '{tmp_path}/none.pem'",
        f"{a}:6: listeners[0].tls.key: expected a file that exists, got '{tmp_path}/.'",
        f"{a}:8: access_log[0].path: the folder {tmp_path}/none does not exist: create it, "
        "writable by the user who runs egressproxy",
        f"{a}:9: access_log[1].path: expected a file, got the folder '{tmp_path}/.'",
    ]


def test_files_of_services_start_from_the_folder_of_their_file_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("conf", "more/secrets"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("ca.pem", "c.pem", "k.pem", "token"):
        (tmp_path / "conf" / name).write_text("x")
    (one,) = write(
        tmp_path / "conf",
        a=L + "services:\n- hosts: [a.example]\n  ports: [{number: 80}]\n"
        "  tls: {mode: mutual, ca: ca.pem, certificate: c.pem, key: ./k.pem}\n"
        "  set_headers: {Authorization: {file: token}}\n",
    )
    (two,) = write(tmp_path / "more", b="secrets: {directory: secrets}\n")
    monkeypatch.chdir("/")
    config = load([one, two]).config
    (service,) = config.services
    assert service.tls is not None
    assert service.tls.ca == tmp_path / "conf" / "ca.pem"
    assert service.tls.certificate == tmp_path / "conf" / "c.pem"
    assert service.tls.key == tmp_path / "conf" / "k.pem"
    assert service.set_headers["Authorization"].file == tmp_path / "conf" / "token"
    assert config.secrets.directory == tmp_path / "more" / "secrets"


def test_files_of_services_that_are_not_there_are_told(tmp_path: Path) -> None:
    (a,) = write(
        tmp_path,
        a=L + "services:\n- hosts: [a.example]\n  ports: [{number: 80}]\n"
        "  tls:\n    mode: mutual\n    ca: none.pem\n    certificate: .\n    key: a.yaml\n"
        "  set_headers:\n    Authorization:\n      file: token\n    7: x\n"
        "- 7\nsecrets: {directory: a.yaml}\n",
    )
    assert [problem for problem in problems(a) if "expected a file that" in problem or "folder" in problem] == [
        f"{a}:7: services[0].tls.ca: expected a file that exists, got '{tmp_path}/none.pem'",
        f"{a}:8: services[0].tls.certificate: expected a file that exists, got '{tmp_path}/.'",
        f"{a}:12: services[0].set_headers.Authorization.file: expected a file that exists, got '{tmp_path}/token'",
        f"{a}:15: secrets.directory: expected a folder that exists, got '{tmp_path}/a.yaml'",
    ]


# --- notes --------------------------------------------------------------------------------------------------------


def test_a_file_without_its_last_line_end_may_be_cut_short(tmp_path: Path) -> None:
    (a,) = write(tmp_path, a=L + "allow:\n- api.example.com:44")
    assert notes(load([a])) == [f"{a}:3: no line end behind the last line; was the file cut short?"]


@pytest.mark.parametrize(
    "text",
    ["http_port 3128\nhttp_access allow all", f"{ISTIO}resolution: DNS"],
    ids=["squid", "istio"],
)
def test_files_of_other_programs_may_be_cut_short_as_well(tmp_path: Path, text: str) -> None:
    (a,) = write(tmp_path, a=text)
    cut = f"{a}:{text.count(chr(10)) + 1}: no line end behind the last line; was the file cut short?"
    assert cut in notes(load([a]))
    (a,) = write(tmp_path, a=text + "\n")
    assert cut not in notes(load([a]))


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("http_port 3128 ssl-bump\nhttp_access deny all\n", "1: http_port: the option 'ssl-bump' decrypts TLS"),
        ("http_port 3128;\nhttp_access deny all\n", "1: http_port: expected a port"),
        ("http_port 3128\n\0\n", "2: expected text, got a NUL byte"),
        ("\ufeffhttp_port 3128\nhttp_access deny all\n", "1: begins with a byte order mark (BOM)"),
        ("http_access deny all\ninclude /etc/squid/none.conf\n", "2: include: no file matches"),
    ],
)
def test_a_port_that_is_written_and_wrong_is_not_said_to_be_missing(tmp_path: Path, text: str, fault: str) -> None:
    (a,) = write(tmp_path, a=text)
    (found,) = problems(f"squid:{a}")
    assert found.startswith(f"{a}:{fault}")


def test_what_turns_out_in_use_is_told_with_its_place(tmp_path: Path) -> None:
    a, b = write(
        tmp_path, a=L + "rules:\n- action: deny\n", b="rules:\n- action: allow\n  hosts: [a.example]\nreport: true\n"
    )
    loaded = load([a, b])
    told = loaded.noted(
        [(("rules", 1, "hosts"), "x"), (("rules", 0), "y"), (("report",), "z"), ((), "all"), (("dns",), "d")]
    )
    assert [str(problem) for problem in told] == [
        f"{b}:3: rules[1].hosts: x",
        f"{a}:3: rules[0]: y",
        f"{b}:4: report: z",
        f"{a}: all",
        f"{a}: dns: d",
    ]


def test_the_built_in_default_stands_in_no_file() -> None:
    assert [str(problem) for problem in load([]).noted([(("rules", 0), "x")])] == ["built-in: rules[0]: x"]


def test_the_places_of_a_million_hosts_are_not_kept_but_that_of_their_list_is(tmp_path: Path) -> None:
    entries = "".join(f"- h{number}.example\n" for number in range(1001))
    (a,) = write(tmp_path, a=L + "allow:\n" + entries + "guard:\n  allow:\n  - 10.0.0.0/8\n  - fd00::/8\n")
    locate = load([a]).locate
    assert locate(("allow", 700)) == locate(("allow",)) == (a, 2)
    assert locate(("guard", "allow", 1)) == (a, 1007)


def test_a_file_cut_short_anywhere_names_no_host_that_the_whole_does_not(tmp_path: Path) -> None:
    whole = L + "rules:\n- hosts: [a.example]\n  action: allow\n  ports: [443]\nallow: ['b.example:443']\n"
    outcomes = set()
    for cut in range(len(whole)):
        (a,) = write(tmp_path, a=whole[:cut])
        try:
            config = load([a]).config
        except ConfigError:
            outcomes.add("refused")
            continue
        outcomes.add("loaded")
        assert config.outbound == "registry_only"
        assert set(config.allow) <= {"b.example:443"}
        assert [[str(host) for host in rule.hosts or ()] for rule in config.rules] in ([], [["a.example"]])
    assert outcomes == {"refused", "loaded"}


# --- a million ----------------------------------------------------------------------------------------------------


def test_a_large_list_is_read_whole(tmp_path: Path) -> None:
    (a,) = write(tmp_path, a=L + "allow:\n" + "".join(f"- h{number}.example:443\n" for number in range(50_000)))
    config = load([a]).config
    assert len(config.allow) == 50_000
    assert all(re.fullmatch(r"h\d+\.example:443", entry) for entry in config.allow)


# --- several formats ----------------------------------------------------------------------------------------------

SQUID = """\
http_port 3129
connect_timeout 10 seconds
acl ok dstdomain .example.com
http_access allow ok
http_access deny all
access_log none
"""
NGINX = """\
events {}
stream {
  resolver 10.96.0.10;
  proxy_connect_timeout 10s;
  server {
    listen 8443;
    ssl_preread on;
    proxy_pass $ssl_preread_server_name:443;
  }
}
"""


def put(folder: Path, **contents: str) -> dict[str, str]:
    """Files by their name without what is behind the dot, which is `conf` or `yaml`."""
    found = {}
    for name, content in contents.items():
        file = folder / f"{name}.{'yaml' if name.startswith('native') else 'conf'}"
        file.write_text(content)
        found[name] = str(file)
    return found


def test_rules_of_several_squid_confs_have_names_of_their_own(tmp_path: Path) -> None:
    lines = "http_port {}\nhttp_access allow localhost\n"
    files = []
    for port, name in enumerate(("a/squid.conf", "b/squid.conf", "c/squid.conf"), 3128):
        file = tmp_path / name
        file.parent.mkdir()
        file.write_text(lines.format(port))
        files.append(str(file))
    assert [rule.name for rule in load(files).config.rules] == [
        "http_access-2",
        "http_access-default",
        "http_access-squid.conf-2",
        "http_access-squid.conf-default",
        "http_access-squid.conf-2-2",
        "http_access-squid.conf-default-2",
    ]


def test_formats_are_told_apart_and_merged_in_the_order_given(tmp_path: Path) -> None:
    files = put(tmp_path, squid=SQUID, native=L + "allow: [a.example]\n", nginx=NGINX)
    config = load([files["nginx"], files["native"], files["squid"]]).config
    assert [listener.label for listener in config.listeners] == ["sni:8443", "http-proxy:3128", "http-proxy:3129"]
    assert (config.allow, config.timeouts.connect_s) == (("a.example",), 10)
    in_a_folder = load([str(tmp_path)])
    assert [listener.label for listener in in_a_folder.config.listeners] == [
        "http-proxy:3128",
        "sni:8443",
        "http-proxy:3129",
    ]
    assert list(in_a_folder.sources) == [files["native"], files["nginx"], files["squid"]]


def test_what_two_formats_say_otherwise_is_a_conflict_that_names_both_places(tmp_path: Path) -> None:
    files = put(tmp_path, native=L + "timeouts:\n  connect_s: 3\n", squid=SQUID)
    assert problems(files["native"], files["squid"]) == [
        f"{files['squid']}:2: timeouts.connect_s: is 10 here and 3 in {files['native']}:3; expected one value"
    ]
    assert problems(files["squid"], files["native"]) == [
        f"{files['native']}:3: timeouts.connect_s: is 3 here and 10 in {files['squid']}:2; expected one value"
    ]


def test_a_port_that_two_formats_take_is_told_with_the_place_of_the_second(tmp_path: Path) -> None:
    files = put(tmp_path, native=L.replace("3128", "3129"), squid=SQUID)
    (problem,) = [each for each in problems(files["native"], files["squid"]) if " is taken by " in each]
    assert problem == f"{files['squid']}:1: listeners[1].port: :: port 3129 is taken by listeners[0].port"


def test_a_squid_conf_without_a_port_hears_what_to_write_in_it(tmp_path: Path) -> None:
    files = put(tmp_path, squid=SQUID.replace("http_port 3129\n", ""), native="allow: [a.example]\n")
    for given in ([files["squid"]], [files["native"], files["squid"]]):
        assert problems(*given) == [
            f"{given[0]}: listeners: is missing; expected a list of at least 1; for example "
            "listeners: [{protocol: http-proxy, address: 127.0.0.1, port: 3128}], or http_port 3128 in the squid.conf"
        ]


def test_a_squid_conf_that_includes_itself_hears_that_alone_whatever_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link.conf").symlink_to("squid.conf")
    for name in (f"{tmp_path}/squid.conf", "link.conf", f"../{tmp_path.name}/squid.conf"):
        put(tmp_path, squid=f"{SQUID}include {name}\n")
        (problem,) = problems("squid.conf")
        assert problem.startswith("squid.conf:7: include: '")
        assert problem.endswith("' is this very file, so it would have no end; leave it out")


def test_a_prefix_forces_a_format_upon_each_file_of_a_folder(tmp_path: Path) -> None:
    put(
        tmp_path,
        squid="# nothing in the first column tells what this is\n http_port 3128\n http_access deny all\n access_log none\n",
    )
    assert load([f"squid:{tmp_path}"]).config.listeners[0].label == "http-proxy:3128"
    assert any(
        "expected settings like listeners" in problem or "YAML" in problem for problem in problems(str(tmp_path))
    )
    for kind in ("nginx", "istio"):
        with pytest.raises(ConfigError):
            load([f"{kind}:{tmp_path}"])


def test_files_that_are_included_are_among_the_sources_and_in_the_snapshot(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text(".example.com\n")
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "one.conf").write_text("http_access deny all\n")
    files = put(
        tmp_path,
        squid=f'http_port 3128\nacl ok dstdomain "{tmp_path}/list.txt"\nhttp_access allow ok\ninclude {tmp_path}/more/*.conf\n',
    )
    loaded = load([files["squid"]])
    assert set(loaded.sources) == {files["squid"], f"{tmp_path}/list.txt", f"{tmp_path}/more/one.conf"}
    assert loaded.snapshot.changed() is None
    (tmp_path / "more" / "two.conf").write_text("")
    assert loaded.snapshot.changed() == f"{tmp_path}/more/*.conf"
    (tmp_path / "list.txt").write_text(".example.org\n")
    assert loaded.snapshot.changed() == f"{tmp_path}/list.txt"


def test_what_is_missing_is_in_the_snapshot_of_a_refused_load(tmp_path: Path) -> None:
    files = put(tmp_path, squid=f'http_port 3128\nacl ok dstdomain "{tmp_path}/list.txt"\nhttp_access allow ok\n')
    snapshot = Snapshot()
    with pytest.raises(ConfigError):
        load([files["squid"]], snapshot)
    (tmp_path / "list.txt").write_text(".example.com\n")
    assert snapshot.changed() == f"{tmp_path}/list.txt"
