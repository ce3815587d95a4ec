"""Every way a connection or a configuration can fail, as one tree.

- EgressError: ends a connection
    - ClientError: the client broke the protocol, was too slow, or left
        - MalformedRequest 400, MalformedTarget 400, HeadTooLarge 431, TargetTooLong 414, HeadTimeout 408,
          MethodNotImplemented 501, BodyTimeout 408, BodyTooLarge 413, ClientGone, ClientTlsFailed, MalformedProxyHeader
        - HelloError, of the first TLS message: NotTls 400, MalformedHello 400, HelloTooLarge 400, SniMissing 400,
          HelloTimeout 408
    - PolicyError: understood, and refused
        - RuleDenied 403, NoRoute 404, HostUnknown, AddressDenied 403, LoopDetected 508, TlsRequired 403, SniMismatch 403,
          EchDenied 403, AnnouncerDenied
    - UpstreamError: allowed, and could not be reached
        - NameNotFound 503, ResolverFailed 503, ResolverTimeout 504, ConnectRefused 503, ConnectFailed 503,
          ConnectTimeout 504, NoEndpoint 503, ParentRefused 502
        - UpstreamTlsError 503, of the TLS that the proxy itself speaks: TlsFailed, TlsExpired, TlsWrongHost, TlsUnknownCa,
          TlsClientCertificateRequired, TlsVersion, TlsTimeout 504, CredentialMissing
        - UpstreamProtocolError 502, UpstreamClosed 502, UpstreamTimeout 504, UpstreamSilent 504
    - ProxyError: the proxy itself could not serve
        - TunnelLimit 503, OutOfDescriptors 503, Draining 503, InternalError 500
- ConfigError: a configuration that is not used, with every problem found in it

Each leaf carries what the peer hears (an HTTP status, or an alert where it speaks TLS) and one slug, the same word in the
reply, the log and the metric. The message holds the facts (host, address, limit, what arrived). Code that raises does not
log: the connection records its error once.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Sequence

    from egressproxy.model import Endpoint, Problem


class TlsAlert(IntEnum):
    """What a client that speaks TLS is told (RFC 8446 section 6.2; unrecognized_name: RFC 6066 section 3)."""

    UNEXPECTED_MESSAGE = 10
    RECORD_OVERFLOW = 22
    ACCESS_DENIED = 49
    DECODE_ERROR = 50
    INTERNAL_ERROR = 80
    USER_CANCELED = 90
    MISSING_EXTENSION = 109
    UNRECOGNIZED_NAME = 112


class EgressError(Exception):
    """Ends a connection.

    slug          the stable word for this cause
    status        HTTP status of the reply; None where the client can no longer be answered
    proxy_status  the error type registered for it by RFC 9209 section 2.3
    alert         the TLS alert for a client whose TLS is forwarded and not ended here
    """

    slug: ClassVar[str]
    status: ClassVar[int | None]
    proxy_status: ClassVar[str]
    alert: ClassVar[TlsAlert] = TlsAlert.INTERNAL_ERROR


# --- the client ---------------------------------------------------------------------------------------------------


class ClientError(EgressError):
    """The client broke the protocol, was too slow, or left."""

    proxy_status = "http_request_error"


class MalformedRequest(ClientError):
    """The request head is not HTTP/1.0 or HTTP/1.1 as RFC 9112 writes it."""

    slug = "malformed_request"
    status = 400


class MalformedTarget(ClientError):
    """The request target is not one host and one port, or spells an address in a way that could be read twice."""

    slug = "malformed_target"
    status = 400


class HeadTooLarge(ClientError):
    """The request head has too many bytes or too many fields."""

    slug = "head_too_large"
    status = 431


class TargetTooLong(ClientError):
    """The request target alone is longer than the limit."""

    slug = "target_too_long"
    status = 414


class HeadTimeout(ClientError):
    """The request head was not complete in time."""

    slug = "head_timeout"
    status = 408


class MethodNotImplemented(ClientError):
    """A well-formed request whose method this listener does not serve."""

    slug = "method_not_implemented"
    status = 501


class BodyTimeout(ClientError):
    """The request's body stopped coming."""

    slug = "body_timeout"
    status = 408


class BodyTooLarge(ClientError):
    """The request's body has more bytes than the limit."""

    slug = "body_too_large"
    status = 413


class ClientGone(ClientError):
    """The client left before its request was complete or answered."""

    slug = "client_gone"
    status = None


class ClientTlsFailed(ClientError):
    """The TLS handshake with the client, on a listener that has `tls`, did not succeed."""

    slug = "client_tls_failed"
    status = None
    proxy_status = "tls_protocol_error"


class MalformedProxyHeader(ClientError):
    """The listener asks for a PROXY protocol header, and what came is none, or is broken, or came too late."""

    slug = "malformed_proxy_header"
    status = None


class HelloError(ClientError):
    """The first TLS message of a client cannot be judged, or did not come."""

    status = 400
    alert = TlsAlert.DECODE_ERROR


class NotTls(HelloError):
    """The first bytes are not a TLS handshake."""

    slug = "not_tls"
    alert = TlsAlert.UNEXPECTED_MESSAGE


class MalformedHello(HelloError):
    """The ClientHello is not as RFC 8446 section 4.1.2 and RFC 6066 section 3 write it, or could be read twice."""

    slug = "malformed_hello"


class HelloTooLarge(HelloError):
    """The ClientHello has more bytes than the limit."""

    slug = "hello_too_large"
    alert = TlsAlert.RECORD_OVERFLOW


class SniMissing(HelloError):
    """The ClientHello names no server."""

    slug = "no_sni"
    alert = TlsAlert.MISSING_EXTENSION


class HelloTimeout(HelloError):
    """No complete ClientHello in time."""

    slug = "hello_timeout"
    status = 408
    alert = TlsAlert.USER_CANCELED


# --- policy -------------------------------------------------------------------------------------------------------


class PolicyError(EgressError):
    """The request was understood and is refused."""

    status: ClassVar[int | None] = 403
    proxy_status = "http_request_denied"
    alert = TlsAlert.ACCESS_DENIED


class RuleDenied(PolicyError):
    """A rule, or the default after all rules, refuses the target by name."""

    slug = "rule_denied"


class NoRoute(PolicyError):
    """A gateway has no route for the host, or none for this path."""

    slug = "no_route"
    status = 404
    proxy_status = "destination_not_found"
    alert = TlsAlert.UNRECOGNIZED_NAME


class HostUnknown(PolicyError):
    """Nothing is registered there, and whoever asks is told nothing."""

    slug = "host_unknown"
    status = None


class AddressDenied(PolicyError):
    """The target's addresses all lie in ranges that the address guard keeps closed."""

    slug = "address_denied"
    proxy_status = "destination_ip_prohibited"


class LoopDetected(PolicyError):
    """The target is a listener or the admin port of this proxy."""

    slug = "loop_detected"
    status = 508
    proxy_status = "proxy_loop_detected"


class TlsRequired(PolicyError):
    """A plain request to a port on which a service speaks TLS, and nothing says that the proxy may speak it instead."""

    slug = "tls_required"


class SniMismatch(PolicyError):
    """The TLS inside a tunnel asks for another server than the tunnel was granted for."""

    slug = "sni_mismatch"
    alert = TlsAlert.UNRECOGNIZED_NAME


class EchDenied(PolicyError):
    """The ClientHello may hide the name it asks for (Encrypted Client Hello), and `ech` is `deny`."""

    slug = "ech_denied"


class AnnouncerDenied(PolicyError):
    """A PROXY protocol listener was reached from an address that may not announce clients."""

    slug = "announcer_denied"
    status = None


# --- upstream -----------------------------------------------------------------------------------------------------


class UpstreamError(EgressError):
    """The target is allowed and could not be reached. `endpoint`: the last address that was tried, if any."""

    status = 503

    def __init__(self, message: str, *, endpoint: Endpoint | None = None) -> None:
        super().__init__(message)
        self.endpoint = endpoint


class NameNotFound(UpstreamError):
    """The name does not exist, or has no address."""

    slug = "name_not_found"
    proxy_status = "dns_error"
    alert = TlsAlert.UNRECOGNIZED_NAME


class ResolverFailed(UpstreamError):
    """The name servers answered with a failure, or could not be asked."""

    slug = "resolver_failed"
    proxy_status = "dns_error"


class ResolverTimeout(UpstreamError):
    """No name server answered in time."""

    slug = "resolver_timeout"
    status = 504
    proxy_status = "dns_timeout"


class ConnectRefused(UpstreamError):
    """Every address refused the connection."""

    slug = "connect_refused"
    proxy_status = "connection_refused"


class ConnectFailed(UpstreamError):
    """No address could be connected to, for another reason than refusal (no route, no permission, reset)."""

    slug = "connect_failed"
    proxy_status = "destination_unavailable"


class ConnectTimeout(UpstreamError):
    """No address accepted the connection in time."""

    slug = "connect_timeout"
    status = 504
    proxy_status = "connection_timeout"


class NoEndpoint(UpstreamError):
    """The service has no address that could be asked."""

    slug = "no_endpoint"
    proxy_status = "destination_unavailable"


class ParentRefused(UpstreamError):
    """A parent proxy answered the CONNECT with something else than success."""

    slug = "parent_refused"
    status = 502
    proxy_status = "http_request_denied"


class UpstreamTlsError(UpstreamError):
    """The TLS that the proxy speaks with the upstream did not come about."""

    proxy_status = "tls_protocol_error"


class TlsFailed(UpstreamTlsError):
    """The handshake failed, for another reason than those that have a word of their own."""

    slug = "tls_failed"


class TlsExpired(UpstreamTlsError):
    """The upstream's certificate has expired, or is not valid yet."""

    slug = "tls_certificate_expired"
    proxy_status = "tls_certificate_error"


class TlsWrongHost(UpstreamTlsError):
    """The upstream's certificate is for other names."""

    slug = "tls_wrong_host"
    proxy_status = "tls_certificate_error"


class TlsUnknownCa(UpstreamTlsError):
    """No authority that is trusted here has signed the upstream's certificate."""

    slug = "tls_unknown_ca"
    proxy_status = "tls_certificate_error"


class TlsClientCertificateRequired(UpstreamTlsError):
    """The upstream wants a client certificate, and got none, or one that it does not take."""

    slug = "tls_client_certificate_required"
    proxy_status = "tls_alert_received"


class TlsVersion(UpstreamTlsError):
    """The upstream and the proxy have no TLS version in common."""

    slug = "tls_version"


class TlsTimeout(UpstreamTlsError):
    """The handshake was not complete in time."""

    slug = "tls_timeout"
    status = 504
    proxy_status = "connection_timeout"


class CredentialMissing(UpstreamTlsError):
    """The secret that the service's TLS needs is not there, or cannot be used."""

    slug = "credential_missing"
    proxy_status = "tls_certificate_error"


class UpstreamProtocolError(UpstreamError):
    """What the upstream answered is not HTTP/1.0 or HTTP/1.1 as RFC 9112 writes it."""

    slug = "upstream_protocol_error"
    status = 502
    proxy_status = "http_protocol_error"


class UpstreamClosed(UpstreamError):
    """The upstream closed or reset the connection before its response was complete."""

    slug = "upstream_closed"
    status = 502
    proxy_status = "connection_terminated"


class UpstreamTimeout(UpstreamError):
    """The response was not complete within the service's `timeout_s`."""

    slug = "upstream_timeout"
    status = 504
    proxy_status = "http_response_timeout"


class UpstreamSilent(UpstreamError):
    """The upstream neither sent nor took a byte for the idle time."""

    slug = "upstream_idle_timeout"
    status = 504
    proxy_status = "connection_read_timeout"


# --- the proxy itself ---------------------------------------------------------------------------------------------


class ProxyError(EgressError):
    """The proxy itself could not serve the request."""

    status = 503
    proxy_status = "proxy_internal_error"


class TunnelLimit(ProxyError):
    """`limits.max_tunnels` connections are open."""

    slug = "tunnel_limit"
    proxy_status = "connection_limit_reached"


class OutOfDescriptors(ProxyError):
    """The process or the system has no file descriptor, port or socket memory left for the upstream."""

    slug = "out_of_descriptors"
    proxy_status = "connection_limit_reached"


class Draining(ProxyError):
    """The proxy is shutting down: no new tunnels, and open ones are cut at the drain deadline."""

    slug = "draining"


class InternalError(ProxyError):
    """A defect in the proxy. The traceback is in its own log."""

    slug = "internal_error"
    status = 500


# --- configuration ------------------------------------------------------------------------------------------------


class ConfigError(Exception):
    """The configuration is refused, with all that is wrong with it."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        """`problems`: at least one, in file order."""
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))
