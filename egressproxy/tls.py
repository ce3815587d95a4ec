"""Every SSLContext is built here: of listeners that clients speak TLS to, and of the TLS that the proxy speaks to services."""

from __future__ import annotations

import os
import re
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from egressproxy.certificates import facts_of_all

if TYPE_CHECKING:
    from egressproxy.config.schema.listeners import ListenerTls
    from egressproxy.config.schema.services import UpstreamTls


# RFC 7468 section 2: the line before the encoded part. OpenSSL also reads the kinds with a word before.
_PEM_CERTIFICATE = re.compile(rb"-----BEGIN (?:X509 |TRUSTED )?CERTIFICATE-----")
_PEM_KEY = re.compile(rb"-----BEGIN (?:[A-Z]+ )?PRIVATE KEY-----")


class TlsSettingsError(Exception):
    """A certificate, key or authority that cannot be used. The message names the file and the cause."""


_NO_AUTHORITY = "holds no certificate of an authority"


def _no_passphrase() -> bytes:
    raise TlsSettingsError("the key is encrypted; a proxy that starts by itself needs it without a passphrase")


def listener_context(settings: ListenerTls) -> ssl.SSLContext:
    """The context of a listener that clients speak TLS to: TLS 1.2 or later, HTTP/1.1 by ALPN.

    With `client_ca` a client must show a certificate that one of those authorities signed. Raises TlsSettingsError.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    if settings.client_ca:
        # A session ticket would let a client resume after its certificate was withdrawn. One line per kind: TLS 1.3, 1.2.
        context.num_tickets = 0
        context.options |= ssl.OP_NO_TICKET
    _load_pair(context, settings.certificate, settings.key)
    if settings.client_ca:
        _load_authorities(context, settings.client_ca)
        if not context.get_ca_certs():
            raise TlsSettingsError(f"{settings.client_ca}: {_NO_AUTHORITY}")
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def upstream_context(
    settings: UpstreamTls, ca: Authorities | None, certificate: Path | None = None, key: Path | None = None
) -> ssl.SSLContext:
    """The context of a service that the proxy speaks TLS to, as its settings say, with the authorities it is checked against.

    ca                without one nothing is checked (`verify: false`)
    certificate, key  what the proxy shows, if anything

    OpenSSL holds the certificate to the server name, never by its common name; but not with `verify: chain` or with
    `subject_alt_names`, which `originate` sees to. Raises TlsSettingsError. Blocks: the authorities of a system take 30 ms.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = _VERSIONS[settings.minimum_version]
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.hostname_checks_common_name = False
    context.check_hostname = settings.verify is True and not settings.subject_alt_names
    # Not strict, whatever the Python (3.13 changed its own defaults): RFC 5280 to the letter refuses authorities that everybody
    # else takes, as any made by `openssl req -x509`, and who is refused turns to a setting that checks less.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if settings.alpn:
        context.set_alpn_protocols(list(settings.alpn))
    if ca is None:
        context.verify_mode = ssl.CERT_NONE
    else:
        ca.load_into(context)
    if certificate is not None and key is not None:
        _load_pair(context, certificate, key)
    return context


_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


class Authorities(NamedTuple):
    """Who is trusted to say whose certificate is whose.

    file    PEM file with their certificates
    folder  of one certificate each, named by its hash; looked into by OpenSSL when it needs one
    """

    file: Path | None
    folder: Path | None = None
    of_the_system: bool = False

    def __str__(self) -> str:
        """As messages name them."""
        return f"those of the system, {self.file or self.folder}" if self.of_the_system else str(self.file)

    def load_into(self, context: ssl.SSLContext) -> None:
        """Have the context trust them. Raises TlsSettingsError."""
        if not self.of_the_system:
            # Who was named is trusted, with or without those above: an intermediate authority is the end of the chain.
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        if self.file is not None:
            _load_authorities(context, self.file)
            # A server's certificate that signed itself, given as its own authority, is taken, too.
            if not context.get_ca_certs() and not any(
                each.subject == each.issuer for each in facts_of_all(self.file.read_bytes())
            ):
                raise TlsSettingsError(f"{self.file}: {_NO_AUTHORITY}")
        if self.folder is not None:
            context.load_verify_locations(capath=self.folder)


# Where systems keep their authorities; OpenSSL was told one of these when it was built, which is the wrong one where Python and
# its OpenSSL were built for all systems at once. The list is that of Go (crypto/x509/root_linux.go).
SYSTEM_FILES = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Ubuntu, Arch
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora
    "/etc/ssl/ca-bundle.pem",  # SUSE
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",  # Red Hat
    "/etc/ssl/cert.pem",  # Alpine, macOS
)


def system_authorities() -> Authorities:
    """Those that the system trusts: SSL_CERT_FILE and SSL_CERT_DIR, OpenSSL's own places, or the usual ones.

    Raises TlsSettingsError where there are none, as in a container image made from scratch, and where SSL_CERT_FILE or
    SSL_CERT_DIR names what is not there: who set it did not mean to trust all others instead.
    """
    places = ssl.get_default_verify_paths()
    named = [os.environ.get(variable) for variable in (places.openssl_cafile_env, places.openssl_capath_env)]
    for variable, path in zip((places.openssl_cafile_env, places.openssl_capath_env), named, strict=True):
        if path and not Path(path).exists():
            raise TlsSettingsError(f"the variable {variable} names {path}, which does not exist")
    if any(named):
        file, folder = (Path(path) if path else None for path in named)
        return Authorities(file, folder, of_the_system=True)
    for each in filter(None, (places.cafile, *SYSTEM_FILES)):  # what does not exist is None there
        if Path(each).is_file():
            return Authorities(Path(each), of_the_system=True)
    capath: str | None = places.capath
    if capath is not None and any(Path(capath).iterdir()):
        return Authorities(None, Path(capath), of_the_system=True)
    raise TlsSettingsError("this system has no store of authorities: install ca-certificates, or set tls.ca")


def _load_pair(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    try:
        context.load_cert_chain(certificate, key, password=_no_passphrase)
    except FileNotFoundError as error:
        missing = key if certificate.exists() else certificate
        raise TlsSettingsError(f"{missing}: no such file") from error
    except PermissionError as error:
        raise TlsSettingsError(f"{certificate} or {key}: no permission to read it") from error
    except ssl.SSLError as error:
        raise TlsSettingsError(_pair_problem(certificate, key, error)) from error
    except OSError as error:
        raise TlsSettingsError(f"{certificate} with key {key}: {error.strerror}") from error


def _load_authorities(context: ssl.SSLContext, file: Path) -> None:
    try:
        context.load_verify_locations(cafile=file)
    except ssl.SSLError as error:
        raise TlsSettingsError(f"{file}: no certificate in PEM form in it") from error
    except OSError as error:
        raise TlsSettingsError(f"{file}: {error.strerror}") from error


def _pair_problem(certificate: Path, key: Path, error: ssl.SSLError) -> str:
    """Which of the two files is wrong, and how: OpenSSL says it of both together, and in words of its own."""
    if not _PEM_CERTIFICATE.search(certificate.read_bytes()):
        return f"{certificate}: holds no certificate in PEM form (-----BEGIN CERTIFICATE-----)"
    if not _PEM_KEY.search(key.read_bytes()):
        return f"{key}: holds no private key in PEM form (-----BEGIN PRIVATE KEY-----)"
    if "MISMATCH" in (error.reason or ""):
        return f"{certificate} with key {key}: they do not belong together"
    if error.reason:
        return f"{certificate} with key {key}: {_in_words(error.reason)}"
    return f"{certificate} with key {key}: one of them is damaged: it begins as PEM and cannot be read"


# What OpenSSL calls a failed handshake, and what an operator needs to know of it.
_HANDSHAKE_PROBLEMS = {
    **dict.fromkeys(
        ("HTTP_REQUEST", "HTTPS_PROXY_REQUEST"),
        "the client spoke plain HTTP to a TLS listener; its proxy URL must begin with https://",
    ),
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "the client showed no certificate, and client_ca asks for one",
    "CERTIFICATE_VERIFY_FAILED": "the client's certificate is not one that client_ca vouches for",
    "NO_SHARED_CIPHER": "the client offers no cipher that this proxy takes",
    **dict.fromkeys(
        ("UNSUPPORTED_PROTOCOL", "VERSION_TOO_LOW"),
        "the client offers no TLS version that this proxy takes (1.2 and 1.3)",
    ),
    "WRONG_VERSION_NUMBER": "the client did not speak TLS, or not a version that this proxy takes (1.2 and 1.3)",
    **dict.fromkeys(
        ("TLSV1_ALERT_UNKNOWN_CA", "SSLV3_ALERT_BAD_CERTIFICATE", "SSLV3_ALERT_CERTIFICATE_UNKNOWN"),
        "the client does not trust this listener's certificate",
    ),
}


def handshake_problem(error: OSError) -> str:
    """Why a client's TLS handshake failed, in an operator's words. Takes an ssl.SSLError or any other OSError."""
    reason = getattr(error, "reason", None)
    if isinstance(reason, str) and reason:
        cause = _HANDSHAKE_PROBLEMS.get(reason, _in_words(reason))
        detail = getattr(error, "verify_message", None)
        return f"{cause}: {detail}" if isinstance(detail, str) and detail else cause
    return error.strerror or str(error) or type(error).__name__


def _in_words(reason: str) -> str:
    return reason.lower().replace("_", " ")
