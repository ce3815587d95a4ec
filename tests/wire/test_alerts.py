"""An alert is what a real TLS client takes it for."""

from __future__ import annotations

import ssl

import pytest
from support.leaves import LEAVES

from egressproxy.errors import TlsAlert
from egressproxy.wire.alerts import alert_record

UNDERSTOOD = {
    TlsAlert.UNEXPECTED_MESSAGE: "SSLV3_ALERT_UNEXPECTED_MESSAGE",
    TlsAlert.RECORD_OVERFLOW: "TLSV1_ALERT_RECORD_OVERFLOW",
    TlsAlert.ACCESS_DENIED: "TLSV1_ALERT_ACCESS_DENIED",
    TlsAlert.DECODE_ERROR: "TLSV1_ALERT_DECODE_ERROR",
    TlsAlert.INTERNAL_ERROR: "TLSV1_ALERT_INTERNAL_ERROR",
    TlsAlert.USER_CANCELED: "TLSV1_ALERT_USER_CANCELLED",
    TlsAlert.MISSING_EXTENSION: "TLSV13_ALERT_MISSING_EXTENSION",
    TlsAlert.UNRECOGNIZED_NAME: "TLSV1_UNRECOGNIZED_NAME",
}
"""How OpenSSL calls them."""


def answered(data: bytes, **versions: ssl.TLSVersion) -> ssl.SSLError:
    """The error of an OpenSSL client that gets this as the answer to its hello."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for name, version in versions.items():
        setattr(context, name, version)
    incoming = ssl.MemoryBIO()
    client = context.wrap_bio(incoming, ssl.MemoryBIO(), server_hostname="www.example.test")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    incoming.write(data)
    incoming.write_eof()
    with pytest.raises(ssl.SSLError) as caught:
        client.do_handshake()
    return caught.value


def test_an_alert_is_one_record_of_seven_bytes():
    assert alert_record(TlsAlert.ACCESS_DENIED) == bytes.fromhex("15 0303 0002 02 31")
    assert {alert_record(alert)[:6] for alert in TlsAlert} == {bytes.fromhex("15 0303 0002 02")}


@pytest.mark.parametrize("alert", TlsAlert, ids=lambda alert: alert.name.lower())
@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
def test_openssl_understands_every_one(alert, newest):
    assert answered(alert_record(alert), maximum_version=newest).reason == UNDERSTOOD[alert]


@pytest.mark.parametrize("error", LEAVES, ids=lambda error: error.slug)
def test_every_error_has_an_alert(error):
    assert error.alert in UNDERSTOOD
