"""Settings of services: their values, safe defaults, and names that lead nowhere else."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from egressproxy.config.schema.config import Config
from egressproxy.config.schema.stages import Http

LISTENER = {"protocol": "http-proxy", "port": 3128}


def config(**settings: object) -> Config:
    return Config.model_validate({"listeners": [LISTENER], **settings})


SERVICE = {"hosts": ["a.example"], "ports": [{"number": 443}]}


# Every setting of a service, and what it stands for when it is left out.
FULL_SERVICES = [
    {
        "hosts": ["api.example"],
        "aliases": ["api", "api.default.svc"],
        "ports": [{"number": 80, "protocol": "HTTP", "target_port": 8443}, {"number": 443}],
        "private_addresses": True,
        "resolution": "static",
        "endpoints": [{"address": "10.0.0.1"}, {"address": "2001:DB8::1", "port": 9443, "weight": 3}],
        "tls": {
            "mode": "mutual",
            "ca": "ca.pem",
            "certificate": "c.pem",
            "key": "k.pem",
            "sni": "Other.Example.",
            "subject_alt_names": ["other.example", "spiffe://cluster.local/ns/a/sa/b"],
            "minimum_version": "1.3",
            "alpn": [],
        },
        "timeout_s": 3,
        "connect_timeout_s": 0.5,
        "idle_timeout_s": 60,
        "set_headers": {"Authorization": {"file": "token", "prefix": "Bearer "}, "X-Key": {"file": "key"}},
    },
    {"hosts": ["*.b.example"], "ports": [{"number": 80}], "endpoints": [{"address": "gate.b.example"}]},
    {
        "hosts": ["c.example"],
        "ports": [{"number": 80}],
        "tls": {"mode": "simple", "credential": "c", "verify": "chain"},
    },
    {"hosts": ["d.example"], "ports": [{"number": 80}], "tls": {"mode": "simple", "verify": False}},
    {"hosts": ["e.example"], "ports": [{"number": 80}], "tls": {"mode": "disable"}, "resolution": "none"},
]


def test_services_and_paths_survive_being_printed_and_read_again() -> None:
    rule = {"action": "allow", "methods": ["GET"], "paths": ["/%61/*", "/%c3%a9"]}
    settings = config(
        services=FULL_SERVICES,
        rules=[rule],
        secrets={"directory": "/run/secrets"},
        http={"via": False, "via_name": "a.test", "forwarded_for": "append", "request_id": False},
        limits={"max_body_bytes": 0},
        timeouts={"keep_alive_s": 5},
    )
    assert settings.rules[0].paths == ("/a/*", "/%C3%A9")
    for exclude in (True, False):
        printed = settings.model_dump(mode="json", by_alias=True, exclude_defaults=exclude, exclude_none=True)
        assert Config.model_validate(printed) == settings
    assert Config.model_validate_json(settings.model_dump_json(exclude_defaults=True, by_alias=True)) == settings


def test_the_settings_of_services_have_their_values() -> None:
    one, *_, last = config(services=FULL_SERVICES, secrets={"directory": "/x"}).services
    assert one.aliases == ("api", "api.default.svc")
    assert [(port.number, port.protocol, port.target_port) for port in one.ports] == [
        (80, "HTTP", 8443),
        (443, None, None),
    ]
    assert [(point.address, point.port, point.weight) for point in one.endpoints] == [
        ("10.0.0.1", None, 1),
        ("2001:db8::1", 9443, 3),
    ]
    assert one.tls is not None
    assert (one.tls.sni, one.tls.minimum_version, one.tls.alpn, one.tls.verify) == ("other.example", "1.3", (), True)
    assert [(name, str(value.file), value.prefix) for name, value in one.set_headers.items()] == [
        ("Authorization", "token", "Bearer "),
        ("X-Key", "key", ""),
    ]
    assert last.tls is not None
    assert (last.tls.mode, last.resolution) == ("disable", "none")


def test_what_a_service_leaves_out_is_safe() -> None:
    (service,) = config(services=[{**SERVICE, "tls": {"mode": "simple"}}]).services
    assert service.tls is not None
    assert (service.tls.verify, service.tls.minimum_version, service.tls.alpn) == (True, "1.2", ("http/1.1",))
    assert (service.private_addresses, service.resolution, service.endpoints) == (False, "dns", ())
    assert (service.timeout_s, service.connect_timeout_s, service.idle_timeout_s) == (None, None, None)
    settings = config()
    assert settings.http == Http(via=True, forwarded_for="off", request_id=True)
    assert settings.secrets.directory is None
    assert settings.limits.max_body_bytes is None


@pytest.mark.parametrize("version", ["1.2", "1.3", 1.2, 1.3])
def test_a_version_of_tls_needs_no_quotes(version: object) -> None:
    (service,) = config(services=[{**SERVICE, "tls": {"mode": "simple", "minimum_version": version}}]).services
    assert service.tls is not None
    assert service.tls.minimum_version == str(version)


@pytest.mark.parametrize("verify", [1, 0, "true", "off", "Chain", None, [], 1.0])
def test_no_other_word_switches_verification_off(verify: object) -> None:
    with pytest.raises(ValidationError):
        config(services=[{**SERVICE, "tls": {"mode": "simple", "verify": verify}}])


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "a b", "-a", "a\n", "a" * 254])
def test_the_name_of_a_secret_leads_nowhere_else(name: str) -> None:
    with pytest.raises(ValidationError):
        config(services=[{**SERVICE, "tls": {"mode": "simple", "credential": name}}], secrets={"directory": "/x"})


@pytest.mark.parametrize(
    "name",
    [
        "Host",
        "content-length",
        "TRANSFER-ENCODING",
        "Connection",
        "Keep-Alive",
        "Proxy-Connection",
        "TE",
        "Trailer",
        "Upgrade",
        "Expect",
        "Via",
        "Proxy-Authorization",
        "Proxy-Authenticate",
    ],
)
def test_fields_that_frame_a_message_are_not_set(name: str) -> None:
    service = {**SERVICE, "tls": {"mode": "simple"}, "set_headers": {name: {"file": "x"}}}
    with pytest.raises(ValidationError, match=f"{name} is the proxy's own to write"):
        config(services=[service])
