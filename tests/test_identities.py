"""Identities and header values, from real files as operators and Kubernetes leave them."""

from __future__ import annotations

import datetime
import gc
import ssl

import pytest
import trustme
from support.certificates import authority, other_authority
from support.tls_servers import (
    HOST,
    Mounted,
    config_of,
    documented,
    expired_authority,
    look_until_found,
    secret_of,
    tls_of,
    write_ca,
    write_pair,
)

from egressproxy import tls as tls_module
from egressproxy.errors import CredentialMissing
from egressproxy.identities import Identities, IdentityProblems
from egressproxy.tls import TlsSettingsError, system_authorities


@pytest.fixture
def ca(tmp_path):
    return write_ca(tmp_path)


@pytest.fixture
def pair(tmp_path):
    return write_pair(tmp_path, client())


@pytest.fixture
def secrets(tmp_path):
    folder = tmp_path / "secrets"
    folder.mkdir()
    return folder


def client(name="client.example.test", ca=None):
    return (ca or authority()).issue_cert(name)


def mutual(ca, pair, **more):
    return tls_of(mode="mutual", ca=ca, certificate=pair.certificate, key=pair.key, **more)


def with_fields(ca, **files):
    fields = {name.replace("_", "-"): {"file": str(path), "prefix": prefix} for name, (path, prefix) in files.items()}
    return {**tls_of(ca=ca), "set_headers": fields}


def trusted(identity):
    return {dict(pair for (pair,) in each["subject"])["organizationName"] for each in identity.context.get_ca_certs()}


def missing(identities, service=0):
    with pytest.raises(CredentialMissing) as caught:
        identities.of(service)
    return str(caught.value)


# --- files that the configuration names ---------------------------------------------------------------------------


def test_an_identity_is_as_the_settings_say(ca, pair):
    config = config_of(
        mutual(ca, pair, minimum_version="1.3", sni="x.test", alpn=[]),
        tls_of(ca=ca, subject_alt_names=["a.test"]),
        tls_of(ca=ca, verify="chain"),
        tls_of(verify=False),
        tls_of(mode="disable"),
        {},
    )
    identities = Identities.load(config)
    one, named, chain, nobody = (identities.of(index) for index in range(4))
    assert one.context.minimum_version is ssl.TLSVersion.TLSv1_3
    assert (one.sni, one.names, one.alpn, one.verified, one.checked) == ("x.test", (), (), True, True)
    assert (one.trust, one.shows) == (str(ca), str(pair.certificate))
    assert (named.names, named.verified, named.context.check_hostname) == (("a.test",), True, False)
    assert (chain.verified, chain.checked, chain.context.check_hostname) == (False, True, False)
    assert (nobody.verified, nobody.checked, nobody.context.verify_mode) == (False, False, ssl.CERT_NONE)
    assert one.context.check_hostname
    for each in (one, named, chain):
        assert each.context.verify_mode is ssl.CERT_REQUIRED
        assert not each.context.hostname_checks_common_name
        assert each.context.options & ssl.OP_NO_RENEGOTIATION
    assert named.context.minimum_version is ssl.TLSVersion.TLSv1_2


def test_services_with_the_same_settings_share_one_identity(ca):
    identities = Identities.load(config_of(tls_of(ca=ca), tls_of(ca=ca), tls_of(ca=ca, sni="x.test")))
    assert identities.of(0) is identities.of(1)
    assert identities.of(0) is not identities.of(2)
    assert identities.of(0) != identities.of(2)


def test_all_files_that_cannot_be_used_are_told_together(tmp_path, ca, pair):
    other = write_pair(tmp_path, client("other.example.test"), ("other.pem", "other.key"))
    (tmp_path / "empty.pem").write_bytes(b"")
    with pytest.raises(IdentityProblems) as caught:
        Identities.load(
            config_of(
                tls_of(ca=ca),
                tls_of(ca=tmp_path / "none.pem"),
                mutual(ca, pair._replace(key=other.key)),
                tls_of(ca=tmp_path / "empty.pem"),
                tls_of(ca=pair.certificate),
                tls_of(ca=tmp_path),
                tls_of(ca=tmp_path / "none.pem"),
            )
        )
    ways, messages = zip(*caught.value.problems, strict=True)
    assert ways == tuple(("services", index, "tls") for index in (1, 2, 3, 4, 5))
    assert messages[0] == f"{tmp_path}/none.pem: no such file"
    assert "do not belong together" in messages[1]
    assert messages[2] == f"{tmp_path}/empty.pem: no certificate in PEM form in it"
    assert messages[3] == f"{pair.certificate}: holds no certificate of an authority"
    assert messages[4] == f"{tmp_path}: not a file"


def test_a_certificate_without_the_end_is_refused(ca, pair):
    whole = ca.read_bytes()
    ca.write_bytes(whole + whole[:-40])
    with pytest.raises(IdentityProblems, match="no certificate in PEM form"):
        Identities.load(config_of(tls_of(ca=ca)))


def test_services_that_are_not_verified_are_listed_and_noted(ca):
    identities = Identities.load(config_of(tls_of(ca=ca), tls_of(verify=False)))
    assert identities.unverified == ("s1.example.test",)
    ((way, message),) = identities.notes
    assert way == ("services", 1, "tls", "verify")
    assert "s1.example.test may be anybody" in message


def test_old_certificates_can_be_loaded(tmp_path):
    old = documented(tmp_path)
    identities = Identities.load(config_of(mutual(old.ca, old.client, verify="chain")))
    assert identities.expiries().keys() == {str(old.ca), str(old.client.certificate)}


# --- the authorities of the system --------------------------------------------------------------------------------


def test_without_a_ca_the_systems_is_trusted_and_watched(tmp_path, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(write_ca(tmp_path, name="system.pem")))
    identities = Identities.load(config_of(tls_of()))
    identity = identities.of(0)
    assert len(identity.context.get_ca_certs()) == 1
    assert identity.trust == f"those of the system, {tmp_path}/system.pem"
    assert identities.expiries() == {}
    write_ca(tmp_path, other_authority(), "system.pem")
    assert look_until_found(identities)[0].good
    assert trusted(identities.of(0)) == {"another one"}


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
def test_a_store_that_is_named_and_not_there_is_not_replaced_by_another(tmp_path, monkeypatch, variable):
    monkeypatch.setenv(variable, str(tmp_path / "missing"))
    with pytest.raises(TlsSettingsError, match=f"{variable} names .*missing, which does not exist"):
        system_authorities()


@pytest.fixture
def openssl_knows_no_place(monkeypatch):
    """As one that was built for another system."""
    for variable in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(variable, raising=False)
    places = ssl.DefaultVerifyPaths(None, None, "SSL_CERT_FILE", "/none", "SSL_CERT_DIR", "/none")
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: places)
    monkeypatch.setattr(tls_module, "SYSTEM_FILES", ())


@pytest.mark.usefixtures("openssl_knows_no_place")
def test_the_systems_are_found_where_openssl_was_built_for_another_place(tmp_path, monkeypatch):
    usual = write_ca(tmp_path, name="usual.pem")
    monkeypatch.setattr(tls_module, "SYSTEM_FILES", (str(tmp_path / "absent"), str(usual)))
    assert system_authorities().file == usual


def test_a_folder_of_authorities_that_is_named_is_asked_and_no_file(tmp_path, monkeypatch):
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    write_ca(tmp_path, name="01234567.0")
    assert system_authorities().folder == tmp_path
    identities = Identities.load(config_of(tls_of()))
    assert identities.of(0).trust == f"those of the system, {tmp_path}"


@pytest.mark.usefixtures("openssl_knows_no_place")
def test_a_system_without_authorities_is_a_problem():
    with pytest.raises(TlsSettingsError):
        system_authorities()
    with pytest.raises(IdentityProblems, match="install ca-certificates, or set"):
        Identities.load(config_of(tls_of()))


# --- secrets ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [("tls.crt", "tls.key", "ca.crt"), ("cert", "key", "cacert")])
def test_a_secret_goes_by_either_names(secrets, names):
    folder = secrets / "client-credential"
    folder.mkdir()
    for name, data in zip(names, [*list(secret_of(client()).values()), authority().cert_pem.bytes()], strict=True):
        (folder / name).write_bytes(data)
    config = config_of(
        tls_of(mode="mutual", credential="client-credential"), tls_of(credential="client-credential"), directory=secrets
    )
    identities = Identities.load(config)
    assert identities.of(0).shows == str(folder / names[0])
    assert identities.of(1).shows is None
    assert identities.of(0).trust == identities.of(1).trust == str(folder / names[2])


@pytest.mark.parametrize("name", ["cacert", "ca_crt", "tls_crt"])
def test_the_authority_may_lie_apart_and_goes_first(secrets, name):
    Mounted(secrets / "c", **secret_of(client(), authority()))
    Mounted(secrets / "c-cacert", **{name: other_authority().cert_pem.bytes()})
    identities = Identities.load(config_of(tls_of(mode="mutual", credential="c"), directory=secrets))
    assert trusted(identities.of(0)) == {"another one"}


def test_an_optional_secret_that_is_mounted_empty_is_none(secrets):
    (secrets / "c-cacert").mkdir()
    Mounted(secrets / "c", **secret_of(ca=authority()))
    identities = Identities.load(config_of(tls_of(credential="c"), directory=secrets))
    assert identities.of(0).trust == str(secrets / "c" / "ca.crt")


def test_a_missing_secret_is_a_note_and_its_service_is_refused_until_it_comes(secrets):
    identities = Identities.load(config_of(tls_of(mode="mutual", credential="c"), directory=secrets))
    ((way, message),) = identities.notes
    assert way == ("services", 0, "tls", "credential")
    assert "answered 503" in message
    assert missing(identities).startswith("no TLS with s0.example.test yet: secret c: no tls.crt and tls.key")
    Mounted(secrets / "c", **secret_of(client(), authority()))
    (change,) = look_until_found(identities)
    assert change.good
    assert change.label == "c"
    assert identities.of(0).shows == str(secrets / "c" / "tls.crt")


@pytest.mark.parametrize(
    ("left_out", "said"),
    [("tls_key", "tls.key is missing"), ("tls_crt", "tls.crt is missing"), ("ca_crt", "no ca.crt (nor cacert)")],
)
def test_half_a_secret_is_none(secrets, left_out, said):
    files = secret_of(client(), authority())
    del files[left_out]
    Mounted(secrets / "c", **files)
    identities = Identities.load(config_of(tls_of(mode="mutual", credential="c"), directory=secrets))
    assert said in missing(identities)


def test_without_verification_a_secret_needs_no_authority(secrets):
    Mounted(secrets / "c", **secret_of(client()))
    identities = Identities.load(config_of(tls_of(mode="mutual", credential="c", verify=False), directory=secrets))
    assert not identities.of(0).checked


# --- replacement --------------------------------------------------------------------------------------------------


def test_a_secret_that_is_swapped_gives_a_new_identity_and_leaves_the_old_one_as_it_is(secrets):
    mounted = Mounted(secrets / "c", **secret_of(client(), authority()))
    identities = Identities.load(config_of(tls_of(mode="mutual", credential="c"), directory=secrets))
    old = identities.of(0)
    mounted.swap(**secret_of(client(ca=other_authority()), other_authority()))
    (change,) = look_until_found(identities)
    assert change.text == "c is new: it serves the connections to come"
    assert identities.of(0) is not old
    assert identities.of(0).sessions is not old.sessions
    assert trusted(identities.of(0)) == {"another one"}
    assert trusted(old) != {"another one"}
    assert identities.refusals == {}


def test_a_pair_that_does_not_belong_together_is_refused_and_the_old_one_stays(secrets):
    mounted = Mounted(secrets / "c", **secret_of(client(), authority()))
    identities = Identities.load(config_of(tls_of(mode="mutual", credential="c"), directory=secrets))
    old = identities.of(0)
    files = secret_of(client(), authority())
    mounted.swap(**{**files, "tls_key": secret_of(client())["tls_key"]})
    (change,) = look_until_found(identities)
    assert not change.good
    assert change.text.endswith("they do not belong together; what was read before stays in use")
    assert "PRIVATE" not in change.text
    assert identities.of(0) is old
    assert identities.refusals == {"c": 1}
    mounted.swap(**files)
    assert look_until_found(identities)[0].good
    assert identities.of(0) is not old


def test_a_secret_that_is_taken_away_stays_in_use(secrets):
    mounted = Mounted(secrets / "c", **secret_of(ca=authority()))
    identities = Identities.load(config_of(tls_of(credential="c"), directory=secrets))
    old = identities.of(0)
    mounted.swap()
    (change,) = look_until_found(identities)
    assert not change.good
    assert identities.of(0) is old
    assert identities.refusals == {"c": 1}


def test_an_authority_that_is_taken_away_never_means_those_of_the_system(secrets):
    mounted = Mounted(secrets / "c", **secret_of(client(), authority()))
    identities = Identities.load(config_of(tls_of(mode="mutual", credential="c"), directory=secrets))
    old = identities.of(0)
    mounted.swap(**secret_of(client()))
    assert not look_until_found(identities)[0].good
    assert identities.of(0) is old


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda _: b"", lambda _: b"not PEM\n"])
def test_files_rewritten_in_place_are_refused_while_they_are_half_written(tmp_path, ca, pair, damage):
    identities = Identities.load(config_of(mutual(ca, pair)))
    old = identities.of(0)
    fresh = write_pair(tmp_path, client("fresh.example.test"), ("fresh.pem", "fresh.key"))
    pair.certificate.write_bytes(damage(fresh.certificate.read_bytes()))
    pair.key.write_bytes(fresh.key.read_bytes())
    assert not look_until_found(identities)[0].good
    assert identities.of(0) is old
    assert identities.refusals == {str(pair.certificate): 1}
    pair.certificate.write_bytes(fresh.certificate.read_bytes())
    assert look_until_found(identities)[0].good
    assert identities.of(0) is not old


@pytest.mark.parametrize(
    ("days", "said"), [((-9, -1), "tls.crt: has expired, on "), ((1, 9), "tls.crt: is not valid before ")]
)
def test_a_certificate_that_is_out_of_date_does_not_replace_one_that_is_not(secrets, days, said):
    mounted = Mounted(secrets / "c", **secret_of(client(), authority()))
    identities = Identities.load(config_of(tls_of(mode="mutual", credential="c"), directory=secrets))
    old = identities.of(0)
    not_before, not_after = (datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=each) for each in days)
    out_of_date = authority().issue_cert("client.example.test", not_before=not_before, not_after=not_after)
    mounted.swap(**secret_of(out_of_date, authority()))
    (change,) = look_until_found(identities)
    assert not change.good
    assert said in change.text
    assert identities.of(0) is old
    assert identities.refusals == {"c": 1}
    mounted.swap(**secret_of(client(), authority()))
    assert look_until_found(identities)[0].good
    assert identities.of(0) is not old


def test_an_authority_that_has_expired_does_not_replace_one_that_has_not(tmp_path, ca):
    identities = Identities.load(config_of(tls_of(ca=ca)))
    old = identities.of(0)
    expired = expired_authority(tmp_path, datetime.datetime(2024, 2, 29, tzinfo=datetime.UTC)).ca.read_bytes()
    ca.write_bytes(expired)
    (change,) = look_until_found(identities)
    assert change.text == f"{ca}: has expired, on 2024-02-29 00:00:00 UTC; what was read before stays in use"
    assert identities.of(0) is old
    ca.write_bytes(expired + authority().cert_pem.bytes())  # one of them is good
    assert look_until_found(identities)[0].good


def test_at_the_start_a_certificate_that_has_expired_is_used_and_its_date_told(tmp_path, ca):
    then = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    leaf = authority().issue_cert(HOST, not_before=then - datetime.timedelta(days=9), not_after=then)
    pair = write_pair(tmp_path, leaf)
    identities = Identities.load(config_of(mutual(ca, pair)))
    assert identities.notes == ()
    assert identities.of(0).shows == str(pair.certificate)
    assert identities.expiries()[str(pair.certificate)] == int(then.timestamp())


def test_one_file_with_two_uses_is_put_to_both(ca):
    identities = Identities.load(config_of(tls_of(ca=ca), tls_of(ca=ca, sni="x.test")))
    write_ca(ca.parent, other_authority(), ca.name)
    assert [change.good for change in look_until_found(identities)] == [True, True]
    assert trusted(identities.of(0)) == trusted(identities.of(1)) == {"another one"}


# --- secrets that are written out ---------------------------------------------------------------------------------


def test_a_secret_that_is_written_out_needs_no_files():
    written = {"own": secret_of(client(), authority())}
    identities = Identities.load(config_of(tls_of(mode="mutual", credential="own"), inline=written))
    identity = identities.of(0)
    assert (identity.verified, identity.shows) == (True, "secrets.inline.own.tls.crt")
    assert identity.trust == "secrets.inline.own.ca.crt"
    assert trusted(identity) == {f"trustme v{trustme.__version__}"}
    assert set(identities.expiries()) == {"secrets.inline.own.tls.crt", "secrets.inline.own.ca.crt"}
    assert not identities.watches


def test_it_goes_before_one_in_the_folder_and_the_other_half_may_lie_there(secrets):
    Mounted(secrets / "own", **secret_of(client(), authority()))
    Mounted(secrets / "own-cacert", ca_crt=other_authority().cert_pem.bytes())
    written = {"own": secret_of(client(), authority())}
    config = config_of(tls_of(mode="mutual", credential="own"), directory=secrets, inline=written)
    identity = Identities.load(config).of(0)
    assert identity.shows == "secrets.inline.own.tls.crt"
    assert identity.trust == str(secrets / "own-cacert" / "ca.crt")  # what lies apart goes first, as with folders
    assert trusted(identity) == {"another one"}


@pytest.mark.parametrize("left_out", ["tls_crt", "tls_key", "ca_crt"])
def test_half_of_it_is_none_and_messages_hold_nothing_of_it(left_out):
    files = {name: data for name, data in secret_of(client(), authority()).items() if name != left_out}
    said = missing(Identities.load(config_of(tls_of(mode="mutual", credential="own"), inline={"own": files})))
    assert left_out.replace("_", ".") in said
    assert "BEGIN" not in said


def test_what_is_wrong_in_it_is_told_by_its_name():
    files = secret_of(client(), authority()) | {"tls_key": secret_of(client("other.test"))["tls_key"]}
    said = missing(Identities.load(config_of(tls_of(mode="mutual", credential="own"), inline={"own": files})))
    assert "secrets.inline.own.tls." in said
    assert "/proc" not in said


def test_a_reload_replaces_what_is_written_out_and_keeps_what_is_the_same():
    service, files = tls_of(mode="mutual", credential="own"), secret_of(client(), authority())
    first = Identities.load(config_of(service, inline={"own": files}))
    again = Identities.load(config_of(service, inline={"own": files}), first)
    assert again.of(0) is first.of(0)
    other = Identities.load(config_of(service, inline={"own": secret_of(client(), authority())}), again)
    assert other.of(0) is not first.of(0)


# --- reload -------------------------------------------------------------------------------------------------------


def test_a_reload_keeps_the_very_identities_that_have_not_changed(tmp_path, ca, pair, secrets):
    mounted = Mounted(secrets / "c", **secret_of(ca=authority()))
    services = [tls_of(ca=ca), mutual(ca, pair), tls_of(credential="c"), tls_of(verify=False)]
    before = Identities.load(config_of(*services, directory=secrets))
    old = [before.of(index) for index in range(4)]
    mounted.swap(**secret_of(ca=other_authority()))
    after = Identities.load(config_of({}, *services, tls_of(ca=ca, sni="x.test"), directory=secrets), before)
    assert [after.of(index + 1) for index in (0, 1, 3)] == [old[0], old[1], old[3]]
    assert after.of(3) is not old[2]
    assert before.of(2) is old[2]
    gc.collect()


def test_a_reload_keeps_a_secret_that_is_gone_and_says_so(secrets):
    config = config_of(tls_of(credential="c"), directory=secrets)
    mounted = Mounted(secrets / "c", **secret_of(ca=authority()))
    before = Identities.load(config)
    mounted.swap()
    after = Identities.load(config, before)
    assert after.of(0) is before.of(0)
    assert "what was read before stays in use" in after.notes[0][1]


def test_a_reload_is_refused_where_a_file_that_is_named_is_bad(ca):
    config = config_of(tls_of(ca=ca))
    before = Identities.load(config)
    ca.write_bytes(b"")
    with pytest.raises(IdentityProblems):
        Identities.load(config, before)


def test_refusals_are_counted_over_reloads(secrets):
    mounted = Mounted(secrets / "c", **secret_of(ca=authority()))
    config = config_of(tls_of(credential="c"), directory=secrets)
    before = Identities.load(config)
    mounted.swap()
    look_until_found(before)
    assert Identities.load(config, before).refusals == {"c": 1}


# --- header fields ------------------------------------------------------------------------------------------------


def test_field_lines_are_as_they_are_sent(tmp_path, ca):
    (tmp_path / "token").write_bytes(b"s3cret==\n")
    (tmp_path / "key").write_bytes(b"  two words \r\n")
    service = with_fields(ca, Authorization=(tmp_path / "token", "Bearer "), X_Api_Key=(tmp_path / "key", ""))
    identities = Identities.load(config_of(service, tls_of(ca=ca)))
    assert identities.header_lines(0) == b"Authorization: Bearer s3cret==\r\nX-Api-Key: two words\r\n"
    assert identities.header_lines(1) == b""


@pytest.mark.parametrize(
    "content",
    [
        None,
        b"",
        b" \n",
        b"s3cret\nmore",
        b"s3cret\r\nEvil: yes",
        b"s3c\0ret",
        b"s3cret\x7f",
        "s3crét".encode(),
        b"s" * 20_000,
    ],
    ids=["none", "empty", "blank", "lines", "injected", "nul", "del", "utf-8", "large"],
)
def test_a_value_that_is_none_is_a_note_and_no_request_goes_without_it(tmp_path, ca, content):
    token = tmp_path / "token"
    if content is not None:
        token.write_bytes(content)
    identities = Identities.load(config_of(with_fields(ca, Authorization=(token, "Bearer "))))
    with pytest.raises(
        CredentialMissing, match=r"no request to s0\.example\.test yet without its Authorization: "
    ) as caught:
        identities.header_lines(0)
    ((way, message),) = identities.notes
    assert way == ("services", 0, "set_headers", "Authorization")
    for said in (str(caught.value), message):
        assert str(token) in said
        assert "s3c" not in said
    token.write_bytes(b"better")
    (change,) = look_until_found(identities)
    assert change.good
    assert "better" not in change.text
    assert identities.header_lines(0) == b"Authorization: Bearer better\r\n"


def test_a_value_that_turns_bad_is_refused_and_the_old_one_stays(tmp_path, ca):
    token = tmp_path / "token"
    token.write_bytes(b"old-value")
    identities = Identities.load(config_of(with_fields(ca, Authorization=(token, ""))))
    token.write_bytes(b"new-value\nX: y")
    (change,) = look_until_found(identities)
    assert not change.good
    assert "value" not in change.text.replace(str(token), "")
    assert identities.refusals == {str(token): 1}
    assert identities.header_lines(0) == b"Authorization: old-value\r\n"
    token.unlink()
    assert not look_until_found(identities)[0].good
    assert identities.header_lines(0) == b"Authorization: old-value\r\n"


def test_one_value_of_several_that_is_missing_holds_the_request_back(tmp_path, ca):
    (tmp_path / "there").write_bytes(b"x")
    service = with_fields(ca, X_There=(tmp_path / "there", ""), X_Not=(tmp_path / "not", ""))
    identities = Identities.load(config_of(service))
    with pytest.raises(CredentialMissing, match=r"its X-Not: .*/not: no such file$"):
        identities.header_lines(0)


# --- what metrics see ---------------------------------------------------------------------------------------------


def test_a_chain_expires_with_its_first_certificate_and_authorities_with_their_last(tmp_path, ca):
    then = datetime.datetime(2031, 5, 6, tzinfo=datetime.UTC)
    pair = write_pair(tmp_path, authority().issue_cert(HOST, not_after=then))
    later = trustme.CA()
    ca.write_bytes(authority().cert_pem.bytes() + later.cert_pem.bytes())
    identities = Identities.load(config_of(mutual(ca, pair)))
    expiries = identities.expiries()
    assert expiries.keys() == {str(ca), str(pair.certificate)}
    assert expiries[str(pair.certificate)] == then.timestamp()
    assert expiries[str(ca)] > then.timestamp()


def test_only_what_has_files_is_watched(tmp_path, ca):
    assert Identities.load(config_of(tls_of(ca=ca))).watches
    nothing = Identities.load(config_of(tls_of(verify=False), {}))
    assert not nothing.watches
    assert len(nothing) == 1
    assert nothing.look() == ()
    assert nothing.take(()) == []
