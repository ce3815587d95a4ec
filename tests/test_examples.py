"""Every example in `config/` may be used as it stands, and editors agree."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import trustme
import yaml
from jsonschema import Draft202012Validator
from support import nursery

from egressproxy.config.load import load
from egressproxy.config.schema.config import Config, json_schema

FOLDER = Path(__file__).parents[1] / "config"
EXAMPLES = sorted(FOLDER.glob("*.yaml"))
SCHEMA = Draft202012Validator(json_schema())


def check(path: Path) -> subprocess.CompletedProcess[str]:
    return nursery.run("check", str(path))


def test_there_are_examples() -> None:
    assert [path.stem for path in EXAMPLES] == [
        "ci-runner",
        "corporate",
        "everything",
        "sandbox",
        "smallest",
        "tls-by-name",
        "tls-origination",
    ]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_passes_check_without_an_error(path: Path) -> None:
    done = check(path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1].startswith("ok: ")


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_allows_something_and_not_everything(path: Path) -> None:
    config = load([str(path)]).config
    assert config.allow or config.services or any(rule.action == "allow" for rule in config.rules)
    assert config.outbound == "registry_only"
    assert not config.report


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_valid_by_the_json_schema(path: Path) -> None:
    assert list(SCHEMA.iter_errors(yaml.safe_load(path.read_text()))) == []


def test_the_full_example_names_every_setting_that_there_is() -> None:
    text = (FOLDER / "everything.yaml").read_text()
    names = {
        *Config.model_fields,
        *(key for definition in json_schema()["$defs"].values() for key in definition["properties"]),
    }
    assert {name for name in names if f"{name}:" not in text} == set()


def with_optional_lines(name: str, folder: Path) -> Path:
    """A copy of an example without its marks."""
    file = folder / name
    file.write_text((FOLDER / name).read_text().replace("#~", ""))
    return file


def write_pair(authority: trustme.CA, certificate: Path, key: Path) -> None:
    made = authority.issue_cert("proxy.example")
    made.private_key_pem.write_to_path(str(key))
    made.cert_chain_pems[0].write_to_path(str(certificate))


def test_the_full_example_works_with_its_optional_lines_too(tmp_path: Path) -> None:
    authority = trustme.CA()
    write_pair(authority, tmp_path / "proxy.pem", tmp_path / "proxy.key")
    write_pair(authority, tmp_path / "client.pem", tmp_path / "client.key")
    for name in ("clients.pem", "authorities.pem"):
        authority.cert_pem.write_to_path(str(tmp_path / name))
    (tmp_path / "token").write_text("secret\n")
    (tmp_path / "login").write_text("user:secret\n")
    (tmp_path / "secrets").mkdir()
    config = load([str(with_optional_lines("everything.yaml", tmp_path))]).config
    assert config.listeners[1].tls is not None
    assert config.listeners[1].tls.client_ca == tmp_path / "clients.pem"
    assert config.services[0].tls is not None
    assert config.services[0].tls.ca == tmp_path / "authorities.pem"
    assert config.services[0].set_headers["Authorization"].file == tmp_path / "token"
    assert config.services[-1].tls is not None
    assert config.services[-1].tls.credential == "bank"
    assert config.secrets.directory == tmp_path / "secrets"
    assert config.parents[0].credentials == tmp_path / "login"
    assert config.access_log[-1].path == str(tmp_path / "access.json")


def test_the_example_of_tls_origination_works_with_its_optional_lines_and_waits_for_its_secret(tmp_path: Path) -> None:
    authority = trustme.CA()
    write_pair(authority, tmp_path / "client.pem", tmp_path / "client.key")
    authority.cert_pem.write_to_path(str(tmp_path / "partner-ca.pem"))
    (tmp_path / "github-token").write_text("secret\n")
    (tmp_path / "secrets").mkdir()
    file = with_optional_lines("tls-origination.yaml", tmp_path)
    waiting = check(file)
    assert waiting.returncode == 0
    assert "services[2].tls.credential: note: " in waiting.stdout
    (tmp_path / "secrets" / "bank").mkdir()
    write_pair(authority, tmp_path / "secrets" / "bank" / "tls.crt", tmp_path / "secrets" / "bank" / "tls.key")
    authority.cert_pem.write_to_path(str(tmp_path / "secrets" / "bank" / "ca.crt"))
    note, ok = check(file).stdout.splitlines()
    assert note.endswith("a CONNECT to these hosts is left to other rules, whatever is asked for inside")
    assert ok == "ok: 2 listeners, 1 rule, 4 services, 0 allowed by allow"
    (tmp_path / "client.key").write_text("no key")
    broken = check(file)
    assert broken.returncode == 1
    assert "services[1].tls: " in broken.stderr


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"listeners": []},
        {"listeners": [{"protocol": "http-proxy", "port": 0}]},
        {"listeners": [{"protocol": "http-proxy", "port": 1, "tls": None}]},
        {"listeners": [{"protocol": "http-proxy", "port": 1}], "alow": []},
        {"listeners": [{"protocol": "http-proxy", "port": 1}], "rules": [{"action": "allow", "hosts": None}]},
        {"listeners": [{"protocol": "http-proxy", "port": 1}], "rules": [{"action": "allow", "methods": ["get"]}]},
        {"listeners": [{"protocol": "http-proxy", "port": 1}], "outbound": "any"},
    ],
    ids=repr,
)
def test_the_json_schema_refuses_what_loading_refuses(content: object) -> None:
    assert not SCHEMA.is_valid(content)


def test_the_json_schema_is_one_and_describes_every_setting() -> None:
    schema = json_schema()
    Draft202012Validator.check_schema(schema)
    for definition in (schema, *schema["$defs"].values()):
        assert definition["additionalProperties"] is False
        assert definition["description"]
        assert {key for key, setting in definition["properties"].items() if not setting.get("description")} == set()
