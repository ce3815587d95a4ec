"""Every SSLContext is built here."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from egressproxy.config.schema import ListenerTls


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
        cause = "they do not belong together" if "MISMATCH" in (error.reason or "") else error.reason or str(error)
        raise TlsSettingsError(f"{settings.certificate} with key {settings.key}: {cause}") from error
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
