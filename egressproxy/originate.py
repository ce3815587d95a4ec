"""Originate: the proxy speaks TLS to a service whose clients speak plain HTTP. From a dialled socket to a secured stream.

Whether the certificate comes from a trusted authority, and is for the server name, is OpenSSL's to say, within the handshake.
Two things are looked at behind it, before a byte is sent: `subject_alt_names`, of which OpenSSL cannot be told through Python,
and the protocol that the server chose by ALPN, which must be one of those offered.

A handshake that fails is told with what a person needs to act on: who was asked for, what the certificate says of itself, and
which authorities were asked. Nothing is retried here.
"""

from __future__ import annotations

import re
import ssl
import time
from typing import TYPE_CHECKING

from egressproxy.certificates import CertificateFacts, clipped, date_text, facts_of, has_one_of
from egressproxy.errors import (
    TlsClientCertificateRequired,
    TlsExpired,
    TlsFailed,
    TlsTimeout,
    TlsUnknownCa,
    TlsVersion,
    TlsWrongHost,
    UpstreamTlsError,
)
from egressproxy.sessions import SESSION_LIFETIME_S, Resumption
from egressproxy.stream import StreamExpired, TlsStream

if TYPE_CHECKING:
    from egressproxy.deadlines import DeadlineQueue
    from egressproxy.identities import UpstreamIdentity
    from egressproxy.model import Endpoint
    from egressproxy.stream import TcpStream

# Verification errors of OpenSSL, from x509_vfy.h: the ssl module gives the numbers without names.
_NOT_YET_VALID, _HAS_EXPIRED = 9, 10
_SIGNED_BY_ITSELF = 18
_UNKNOWN_ISSUER = frozenset({2, 7, _SIGNED_BY_ITSELF, 19, 20, 21})
"""No issuer found, a signature that is not that of the authority of this name, a stranger at the end of the chain."""
_WRONG_NAME = frozenset({62, 64})

# Alerts that a server sends because of the certificate that it was shown, or was not.
_OF_OUR_CERTIFICATE = {
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "it asks for a client certificate",
    "SSLV3_ALERT_BAD_CERTIFICATE": "it does not take the client certificate",
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE": "it does not take a client certificate of this kind",
    "SSLV3_ALERT_CERTIFICATE_REVOKED": "it says that the client certificate was revoked",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "it says that the client certificate has expired",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "it does not take the client certificate",
    "TLSV1_ALERT_UNKNOWN_CA": "it does not know the authority of the client certificate",
    "TLSV1_ALERT_ACCESS_DENIED": "it does not let the holder of the client certificate in",
}
_NO_COMMON_VERSION = frozenset(
    {"TLSV1_ALERT_PROTOCOL_VERSION", "UNSUPPORTED_PROTOCOL", "VERSION_TOO_LOW", "WRONG_SSL_VERSION"}
)
_IN_WORDS = {
    "WRONG_VERSION_NUMBER": "it did not answer in TLS; is this its port for TLS?",
    "SSLV3_ALERT_HANDSHAKE_FAILURE": "it refused the handshake: no cipher in common, or no server of this name",
    "TLSV1_UNRECOGNIZED_NAME": "it knows no server of this name (SNI)",
    "TLSV1_ALERT_NO_APPLICATION_PROTOCOL": "it takes none of the protocols offered by ALPN; see tls.alpn",
    "DH_KEY_TOO_SMALL": "its key exchange is too weak for this system",
}


async def originate(
    tcp: TcpStream, identity: UpstreamIdentity, host: str, endpoint: Endpoint, deadlines: DeadlineQueue
) -> TlsStream:
    """Speak TLS over a new connection, within the queue's delay; from now on the stream owns `tcp`, which is closed on failure.

    host  canonical, of the request: what is asked for, unless the identity has a name of its own. An address is never sent as
          a server name (RFC 6066 section 3); the certificate must have it among its addresses

    Raises TlsExpired, TlsWrongHost, TlsUnknownCa, TlsClientCertificateRequired, TlsVersion, TlsTimeout or TlsFailed.
    """
    server_name = identity.sni or host
    sessions = identity.sessions
    session, until = sessions.find(server_name, endpoint)
    try:
        stream = TlsStream(tcp, identity.context, server_side=False, server_name=server_name, session=session)
    except ValueError as error:  # the codec that ssl uses for names takes fewer of them
        tcp.close()
        raise TlsFailed(f"{endpoint}: {server_name} is no name that TLS can ask for", endpoint=endpoint) from error
    secured = False
    deadlines.start(stream)
    try:
        await stream.handshake()
        _check_names(stream.engine, identity, server_name, endpoint)
        _check_protocol(stream.engine, identity, server_name, endpoint)
        secured = True
    except StreamExpired:
        text = f"{endpoint}: no TLS with {server_name} within {deadlines.delay_s:g} s"
        raise TlsTimeout(text, endpoint=endpoint) from None
    except OSError as error:
        raise _failure(error, stream.engine, identity, server_name, endpoint) from error
    finally:
        deadlines.stop(stream)
        if not secured:
            sessions.forget(server_name, endpoint)
            stream.close()
    if not stream.engine.session_reused:
        until = _verified_until(stream.engine)
    stream.resumption = Resumption(sessions, server_name, endpoint, until)
    return stream


def keep_session(stream: TlsStream) -> None:
    """Keep the stream's session for the next connection to the same server, once; before the stream is closed.

    A server of TLS 1.3 sends the ticket for it behind the handshake, usually with its first response, so this comes after that.
    Does nothing while there is none.
    """
    resumption = stream.resumption
    if resumption is None:
        return
    session = stream.engine.session
    if session is not None and (session.has_ticket or (session.id and stream.engine.version() != "TLSv1.3")):
        stream.resumption = None
        resumption.keep(session)


def tls_version(stream: TlsStream) -> str:
    """The version that is spoken, as `TLSv1.3`."""
    return stream.engine.version() or "TLS"


def upstream_tls_error(
    error: OSError, endpoint: Endpoint, stream: TcpStream | TlsStream | None = None
) -> UpstreamTlsError | None:
    """What an error of a secured stream means; None where it is not one of TLS.

    With TLS 1.3 a server says only after the handshake that it wants another client certificate, or one at all; and since it
    closes then, a write may find out first that nobody listens. `stream`: where it then may still be read why.
    """
    if not isinstance(error, ssl.SSLError) and stream is not None:
        try:
            stream.unread(stream.try_read(1) or b"")
        except OSError as told:
            error = told
    if not isinstance(error, ssl.SSLError):
        return None
    reason = error.reason or ""
    if reason in _OF_OUR_CERTIFICATE:
        return TlsClientCertificateRequired(f"{endpoint}: {_OF_OUR_CERTIFICATE[reason]}; {_MUTUAL}", endpoint=endpoint)
    return TlsFailed(f"{endpoint}: TLS broke: {_words(error)}", endpoint=endpoint)


_MUTUAL = "see tls.mode: mutual, and its certificate"


def _verified_until(engine: ssl.SSLObject) -> float:
    """Until when its certificate need not be looked at again: Unix time."""
    until = time.time() + SESSION_LIFETIME_S
    certificate = engine.getpeercert()  # empty where nothing was checked
    if certificate:
        until = min(until, ssl.cert_time_to_seconds(str(certificate["notAfter"])))
    return until


def _check_names(engine: ssl.SSLObject, identity: UpstreamIdentity, server_name: str, endpoint: Endpoint) -> None:
    """Raises TlsWrongHost unless the certificate has one of the names that the identity asks for, if any."""
    if not identity.names or not identity.checked:
        return
    alternatives = (engine.getpeercert() or {}).get("subjectAltName", ())
    if not has_one_of(identity.names, alternatives):  # type: ignore[arg-type] # pairs, which typeshed calls tuples
        wanted = ", ".join(identity.names)
        facts = _first(_chain(engine))
        raise TlsWrongHost(
            f"{endpoint}: {server_name} has none of its subject_alt_names ({wanted}): {_purpose(facts)}",
            endpoint=endpoint,
        )


def _check_protocol(engine: ssl.SSLObject, identity: UpstreamIdentity, server_name: str, endpoint: Endpoint) -> None:
    """Raises TlsFailed where the server chose a protocol that was not offered."""
    chosen = engine.selected_alpn_protocol()
    if chosen is not None and chosen not in identity.alpn:
        offered = ", ".join(identity.alpn) or "none"
        raise TlsFailed(
            f"{endpoint}: {server_name} chose the protocol {clipped(chosen)}; offered were: {offered}",
            endpoint=endpoint,
        )


# --- what went wrong, in words ------------------------------------------------------------------------------------


def _failure(
    error: OSError, engine: ssl.SSLObject, identity: UpstreamIdentity, server_name: str, endpoint: Endpoint
) -> UpstreamTlsError:
    """What a failed handshake comes to."""
    chain = _chain(engine)
    start = f"{endpoint}: "
    if isinstance(error, ssl.SSLCertVerificationError):
        kind, text = _not_trusted(error, chain, identity, server_name)
        return kind(start + text, endpoint=endpoint)
    if not isinstance(error, ssl.SSLError):
        text = f"no TLS with {server_name}: {error.strerror or error}"
        return TlsFailed(start + text, endpoint=endpoint)
    reason = _reason(error)
    ours = _OF_OUR_CERTIFICATE.get(reason)
    if ours is None and reason == "SSLV3_ALERT_HANDSHAKE_FAILURE" and chain:
        ours = (
            "it asks for a client certificate"  # how TLS 1.2 says so; before its own certificate it means other things
        )
    if ours is not None:
        shown = "none was shown" if identity.shows is None else f"{identity.shows} was shown"
        text = f"{server_name} refused the handshake: {ours}, and {shown}; {_MUTUAL}"
        return TlsClientCertificateRequired(start + text, endpoint=endpoint)
    if reason in _NO_COMMON_VERSION:
        oldest = identity.context.minimum_version.name.replace("TLSv1_", "1.")
        text = f"{server_name} speaks no version of TLS from {oldest} on ({_words(error)}); see tls.minimum_version"
        return TlsVersion(start + text, endpoint=endpoint)
    return TlsFailed(f"{start}no TLS with {server_name}: {_words(error)}", endpoint=endpoint)


def _not_trusted(
    error: ssl.SSLCertVerificationError,
    chain: list[CertificateFacts],
    identity: UpstreamIdentity,
    server_name: str,
) -> tuple[type[UpstreamTlsError], str]:
    """Why the certificate was not taken."""
    code = error.verify_code
    facts = _first(chain)
    if code in _WRONG_NAME:
        return (
            TlsWrongHost,
            f"asked for {server_name}: {_purpose(facts)}{_WAY_OUT if facts and not facts.names else ''}",
        )
    if code in (_HAS_EXPIRED, _NOT_YET_VALID):
        return TlsExpired, f"{server_name}: {_out_of_date(chain, identity, expired=code == _HAS_EXPIRED)}"
    if code in _UNKNOWN_ISSUER:
        if code == _SIGNED_BY_ITSELF:
            signed = "signed itself"
        elif chain:
            signed = f"was signed by {clipped(chain[-1].issuer)}"
        else:
            signed = "was signed by somebody"
        text = (
            f"the certificate of {server_name} {signed}, who is not among the trusted authorities ({identity.trust}):"
            f" {error.verify_message}; see tls.ca"
        )
        return TlsUnknownCa, text
    return TlsFailed, f"the certificate of {server_name} was not taken: {error.verify_message}"


def _purpose(facts: CertificateFacts | None) -> str:
    if facts is None:
        return "the certificate is for other names, or for none"
    return f"the certificate is for {facts.purpose}"


_WAY_OUT = "; have one issued with a subject alternative name, or set verify: chain, which looks at no name"


def _out_of_date(chain: list[CertificateFacts], identity: UpstreamIdentity, *, expired: bool) -> str:
    """Which certificate is, and since or until when. The first one is the server's own."""
    now = time.time()
    for position, facts in enumerate(chain):
        whose = "the certificate" if not position else f"that of its authority {clipped(facts.subject)}"
        if expired and facts.not_after < now:
            return f"{whose} expired on {date_text(facts.not_after)}"
        if not expired and facts.not_before > now:
            return f"{whose} is not valid before {date_text(facts.not_before)}; is the clock of this machine right?"
    return f"an authority of its certificate has expired, or is not valid yet ({identity.trust})"


def _first(chain: list[CertificateFacts]) -> CertificateFacts | None:
    return chain[0] if chain else None


def _chain(engine: ssl.SSLObject) -> list[CertificateFacts]:
    """What the server sent of certificates, its own first: also where they were not taken; up to one that cannot be read.
    Empty where that cannot be known.

    SSLObject has had the method since Python 3.13; the object beneath it since 3.10.
    """
    method = getattr(engine, "get_unverified_chain", None) or getattr(
        getattr(engine, "_sslobj", None), "get_unverified_chain", None
    )
    if method is None:
        return []
    found = []
    for each in method() or ():
        encoded = each if isinstance(each, bytes) else each.public_bytes(_DER)
        facts = facts_of(encoded)
        if facts is None:
            break
        found.append(facts)
    return found


_DER = 2  # ENCODING_DER of the _ssl module


# Of a reason that this Python has no name for, only OpenSSL's own words are there: `[SSL] tlsv1 alert ... (_ssl.c:1006)`.
_UNNAMED = re.compile(r"\[SSL\] (.+) \(_ssl\.c:\d+\)")


def _reason(error: ssl.SSLError) -> str:
    """The name of what went wrong, as OpenSSL's headers have it; empty where there is none."""
    if error.reason:
        return error.reason
    unnamed = _UNNAMED.fullmatch(error.strerror or "")
    return "" if unnamed is None else unnamed[1].upper().replace(" ", "_")


def _words(error: ssl.SSLError) -> str:
    reason = _reason(error)
    return _IN_WORDS.get(reason) or reason.lower().replace("_", " ") or error.strerror or "unknown"
