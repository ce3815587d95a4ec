"""Every SSLContext is built here."""

from __future__ import annotations

import re
import ssl
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from egressproxy.config.schema import ListenerTls


# RFC 7468 section 2: the line before the encoded part. OpenSSL also reads the kinds with a word before.
_PEM_CERTIFICATE = re.compile(rb"-----BEGIN (?:X509 |TRUSTED )?CERTIFICATE-----")
_PEM_KEY = re.compile(rb"-----BEGIN (?:[A-Z]+ )?PRIVATE KEY-----")


class TlsSettingsError(Exception):
    """A certificate, key or authority that cannot be used. The message names the file and the cause."""


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
    try:
        context.load_cert_chain(settings.certificate, settings.key, password=_no_passphrase)
    except FileNotFoundError as error:
        missing = settings.key if settings.certificate.exists() else settings.certificate
        raise TlsSettingsError(f"{missing}: no such file") from error
    except PermissionError as error:
        raise TlsSettingsError(f"{settings.certificate} or {settings.key}: no permission to read it") from error
    except ssl.SSLError as error:
        raise TlsSettingsError(_pair_problem(settings, error)) from error
    except OSError as error:
        raise TlsSettingsError(f"{settings.certificate} with key {settings.key}: {error.strerror}") from error
    if settings.client_ca:
        try:
            context.load_verify_locations(cafile=settings.client_ca)
        except ssl.SSLError as error:
            raise TlsSettingsError(f"{settings.client_ca}: no certificate in PEM form in it") from error
        except OSError as error:
            raise TlsSettingsError(f"{settings.client_ca}: {error.strerror}") from error
        if not context.get_ca_certs():
            raise TlsSettingsError(f"{settings.client_ca}: holds no certificate of an authority")
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _pair_problem(settings: ListenerTls, error: ssl.SSLError) -> str:
    """Which of the two files is wrong, and how: OpenSSL says it of both together, and in words of its own."""
    if not _PEM_CERTIFICATE.search(settings.certificate.read_bytes()):
        return f"{settings.certificate}: holds no certificate in PEM form (-----BEGIN CERTIFICATE-----)"
    if not _PEM_KEY.search(settings.key.read_bytes()):
        return f"{settings.key}: holds no private key in PEM form (-----BEGIN PRIVATE KEY-----)"
    if "MISMATCH" in (error.reason or ""):
        return f"{settings.certificate} with key {settings.key}: they do not belong together"
    if error.reason:
        return f"{settings.certificate} with key {settings.key}: {_in_words(error.reason)}"
    return (
        f"{settings.certificate} with key {settings.key}: one of them is damaged: it begins as PEM and cannot be read"
    )


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
