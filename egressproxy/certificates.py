"""What stands in a certificate: names, dates, who signed it. For messages, metrics and the names that a service must have.

Whether a certificate is to be trusted is not judged here: OpenSSL does that, during the handshake. What is read is what a peer
or a file says of itself, so text from it is escaped and cut before a person sees it.
"""

from __future__ import annotations

import base64
import re
import threading
import time
import warnings
from ipaddress import ip_address
from typing import TYPE_CHECKING, NamedTuple

from cryptography import x509

from egressproxy.config.faults import shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

SHOWN_NAMES = 5
"""Names of a certificate that a message lists. Some have hundreds."""
SHOWN_CHARACTERS = 100
"""Of one name."""

_PEM_BLOCK = re.compile(rb"-----BEGIN CERTIFICATE-----(.+?)-----END CERTIFICATE-----", re.DOTALL)

# The library warns of certificates that it will refuse one day (a serial number of 0), and the filters of warnings belong to
# the whole process: one reader at a time.
_reading = threading.Lock()


class CertificateFacts(NamedTuple):
    """What a certificate says of itself.

    names                  subject alternative names: DNS names, addresses, URIs
    version                1 or 3, of X.509
    subject, issuer        as RFC 4514 writes them
    not_before, not_after  Unix time, seconds
    """

    names: tuple[str, ...]
    version: int
    subject: str
    issuer: str
    not_before: float
    not_after: float

    @property
    def purpose(self) -> str:
        """What it is for, as a message writes it."""
        if not self.names:
            return f"no name at all (it has no subject alternative name; its subject is {clipped(self.subject)})"
        listed = ", ".join(clipped(name) for name in self.names[:SHOWN_NAMES])
        more = len(self.names) - SHOWN_NAMES
        return f"{listed} and {more} more" if more > 0 else listed


def facts_of(encoded: bytes) -> CertificateFacts | None:
    """Those of one certificate, in DER; None where it cannot be read."""
    with _reading, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            certificate = x509.load_der_x509_certificate(encoded)
            return CertificateFacts(
                names=_names(certificate),
                version=3 if certificate.version is x509.Version.v3 else 1,
                subject=certificate.subject.rfc4514_string(),
                issuer=certificate.issuer.rfc4514_string(),
                not_before=certificate.not_valid_before_utc.timestamp(),
                not_after=certificate.not_valid_after_utc.timestamp(),
            )
        except (ValueError, TypeError, x509.InvalidVersion, x509.UnsupportedGeneralNameType):
            return None


def _names(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        alternatives = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, x509.DuplicateExtension):
        return ()
    return tuple(
        str(each.value)
        for each in alternatives
        if isinstance(each, (x509.DNSName, x509.IPAddress, x509.UniformResourceIdentifier))
    )


def facts_of_all(pem: bytes) -> list[CertificateFacts]:
    """Those of the certificates in a PEM file, in its order, less those that cannot be read."""
    found = []
    for block in _PEM_BLOCK.findall(pem):
        try:
            facts = facts_of(base64.b64decode(block))
        except ValueError:
            continue
        if facts is not None:
            found.append(facts)
    return found


def clipped(text: str) -> str:
    """Text of a peer's, as a message writes it."""
    return shown(text, SHOWN_CHARACTERS)[1:-1]


def date_text(unix_s: float) -> str:
    """`2026-03-01 12:00:00 UTC`."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(unix_s))


def has_one_of(names: Sequence[str], alternatives: Iterable[tuple[str, str]]) -> bool:
    """Whether a certificate has one of the wanted names.

    alternatives  its subject alternative names as `ssl` gives them: pairs of a kind and a text

    DNS names are compared without regard to case, and a wildcard in the certificate stands for one whole label in front of at
    least two others (RFC 6125 section 6.4.3). URIs are compared as they are, addresses as addresses. Other kinds of name never
    match.
    """
    return any(_is(wanted, kind, text) for kind, text in alternatives for wanted in names)


def _is(wanted: str, kind: str, text: str) -> bool:
    match kind:
        case "DNS":
            wanted, text = wanted.lower(), text.lower()
            if wanted == text:
                return True
            label, dot, parent = wanted.partition(".")
            return (
                text == f"*.{parent}"
                and label not in ("", "*")
                and bool(dot)
                and "." in parent
                and not _address(wanted)
            )
        case "URI":
            return wanted == text
        case "IP Address":
            address = _address(wanted)
            return address is not None and address == _address(text.strip())
    return False


def _address(text: str) -> object | None:
    try:
        return ip_address(text)
    except ValueError:
        return None
