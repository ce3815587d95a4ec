"""Write a TLS alert: what a client hears whose TLS is forwarded, and so cannot be answered in HTTP.

RFC 8446 section 6: an alert is one record of two bytes, a level and a description, in the clear while no keys are agreed
on. The level of all these is fatal: the connection is closed behind it.
"""

from __future__ import annotations

from egressproxy.errors import TlsAlert

_FATAL = 2
_RECORDS = {alert: bytes((21, 3, 3, 0, 2, _FATAL, alert)) for alert in TlsAlert}  # content type 21, version, length


def alert_record(alert: TlsAlert) -> bytes:
    """The alert as one TLS record of 7 bytes."""
    return _RECORDS[alert]
