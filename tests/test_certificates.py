from __future__ import annotations

import pytest
import trustme
from support.certificates import authority
from support.tls_servers import documented

from egressproxy.certificates import SHOWN_NAMES, clipped, date_text, facts_of, facts_of_all, has_one_of


def der_of(leaf):
    import ssl

    return ssl.PEM_cert_to_DER_cert(leaf.cert_chain_pems[0].bytes().decode())


def test_names_of_every_kind_are_read():
    leaf = authority().issue_cert("a.example.test", "*.b.example.test", "192.0.2.1", "2001:db8::1")
    facts = facts_of(der_of(leaf))
    assert facts.names == ("a.example.test", "*.b.example.test", "192.0.2.1", "2001:db8::1")
    assert facts.version == 3
    assert facts.not_before < facts.not_after
    assert "trustme" in facts.issuer


def test_a_long_list_of_names_is_cut():
    facts = facts_of(der_of(authority().issue_cert(*(f"n{number}.example.test" for number in range(9)))))
    assert facts.purpose.endswith(f"n{SHOWN_NAMES - 1}.example.test and {9 - SHOWN_NAMES} more")


def test_an_old_certificate_is_read_without_a_warning(tmp_path):
    (facts,) = facts_of_all(documented(tmp_path).server.certificate.read_bytes())
    assert facts.version == 1
    assert facts.names == ()
    assert "no subject alternative name" in facts.purpose


def test_all_of_a_file_are_read_in_order_and_what_cannot_be_read_is_left_out():
    one, other = trustme.CA(organization_name="one"), trustme.CA(organization_name="other")
    damaged = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    worse = b"-----BEGIN CERTIFICATE-----\nA\n-----END CERTIFICATE-----\n"
    pem = "# für uns\n".encode() + one.cert_pem.bytes() + damaged + worse + other.cert_pem.bytes()
    assert ["one" in facts.subject for facts in facts_of_all(pem)] == [True, False]


def test_what_is_no_certificate_has_no_facts():
    assert facts_of(b"nothing") is None
    assert facts_of_all(b"") == []


def test_text_of_a_peer_is_escaped_and_cut():
    assert clipped("a\n\x1b[31m") == r"a\n\x1b[31m"
    assert len(clipped("a" * 1000)) <= 100


def test_dates_are_written_in_utc():
    assert date_text(0.0) == "1970-01-01 00:00:00 UTC"


@pytest.mark.parametrize(
    ("wanted", "kind", "text", "holds"),
    [
        ("a.example.test", "DNS", "a.example.test", True),
        ("A.Example.test", "DNS", "a.eXample.test", True),
        ("a.example.test", "DNS", "b.example.test", False),
        ("a.example.test", "DNS", "*.example.test", True),
        ("a.b.example.test", "DNS", "*.example.test", False),
        ("example.test", "DNS", "*.example.test", False),
        (".example.test", "DNS", "*.example.test", False),
        ("*.example.test", "DNS", "*.example.test", True),
        ("a.test", "DNS", "*.test", False),
        ("a.example.test", "DNS", "*", False),
        ("a.example.test", "DNS", "a*.example.test", False),
        ("ab.example.test", "DNS", "a*.example.test", False),
        ("192.0.2.1", "DNS", "*.0.2.1", False),
        ("spiffe://cluster.local/ns/a/sa/b", "URI", "spiffe://cluster.local/ns/a/sa/b", True),
        ("spiffe://cluster.local/ns/a/sa/b", "URI", "spiffe://cluster.local/ns/A/sa/b", False),
        ("spiffe://cluster.local/ns/a/sa/b", "DNS", "cluster.local", False),
        ("192.0.2.1", "IP Address", "192.0.2.1", True),
        ("2001:db8::1", "IP Address", "2001:DB8:0:0:0:0:0:1", True),
        ("2001:db8::1", "IP Address", "2001:DB8:0:0:0:0:0:2", False),
        ("a.example.test", "IP Address", "<invalid>", False),
        ("a.example.test", "email", "a.example.test", False),
    ],
)
def test_a_name_is_held_to_its_kind(wanted, kind, text, holds):
    assert has_one_of([wanted], [(kind, text)]) is holds


def test_one_of_the_names_is_enough():
    assert has_one_of(["x.test", "a.example.test"], [("DNS", "b.example.test"), ("DNS", "a.example.test")])
    assert not has_one_of(["x.test"], [])
