"""`http_port` and `https_port`: listeners."""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, NamedTuple

from egressproxy.config.adapters.adapter import At
from egressproxy.config.faults import shown

if TYPE_CHECKING:
    from egressproxy.config.adapters.squid.lexer import Statement

_PLACE = re.compile(r"(?:\[(?P<six>[^\]]*)\]:|(?P<four>[^:\[\]]*):)?(?P<port>[0-9]{1,5})")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}")  # of a listener in the native form

_EVERYWHERE = "::"
"""Where a port without an address listens: all addresses of the host, of IPv6 and of IPv4."""

_MODES = {"intercept": "redirect", "transparent": "redirect", "tproxy": "tproxy"}

_REVERSE = "makes the port one of a server's own (a reverse proxy); this proxy is for what goes out"
_DECRYPTS = "decrypts TLS, which this proxy never does"
_REFUSED = {
    **dict.fromkeys(
        ("accel", "vhost", "no-vhost", "vport", "defaultsite", "protocol", "allow-direct", "act-as-origin"), _REVERSE
    ),
    **dict.fromkeys(("ssl-bump", "sslBump", "generate-host-certificates", "tls-generate-host-certificates"), _DECRYPTS),
    "require-proxy-header": "needs proxy_protocol on a native listener, with the addresses that may announce clients",
    **dict.fromkeys(
        ("capath", "crlfile", "tls-capath", "tls-crlfile"),
        "is not known here; put all authorities into one clientca file",
    ),
}
_WITHOUT_MEANING = (
    "connection-auth no-connection-auth disable-pmtu-discovery tcpkeepalive ignore-cc ftp-track-dirs worker-queues "
    "dynamic_cert_mem_cache_size tls-dh dhparams tls-no-npn tls-default-ca tls-context sslcontext"
)
_IGNORED = frozenset(_WITHOUT_MEANING.split())
_HELD_ANYWAY = frozenset({"NO_SSLV2", "NO_SSLV3", "NO_TLSV1", "NO_TLSV1_1", "SINGLE_DH_USE", "SINGLE_ECDH_USE"})
"""What `options=` may ask for: listeners speak TLS 1.2 and 1.3, with keys that are used once."""
_FILES = {
    "cert": "certificate",
    "tls-cert": "certificate",
    "key": "key",
    "tls-key": "key",
    "clientca": "client_ca",
    "tls-clientca": "client_ca",
}


class Port(NamedTuple):
    """One listener.

    name      Squid's word for it, which `myportname` may say
    label     the native form's word for it
    listener  in the native form
    """

    name: str
    label: str
    listener: At


def port(statement: Statement, *, tls: bool) -> tuple[Port, list[str]]:
    """The listener of one line, and what to note about it. Raises ValueError."""
    words = statement.words
    if not words:
        raise ValueError("expected a port like 3128 or 127.0.0.1:3128")
    place, *options = words
    listener: dict[str, Any] = {"protocol": "http-proxy"}
    listener |= _address_and_port(place)
    notes: list[str] = []
    files: dict[str, str] = {}
    name = None
    ignored = []
    for option in options:
        key, _, value = option.partition("=")
        if key in _REFUSED:
            raise ValueError(f"the option {shown(option)} {_REFUSED[key]}")
        if key in _MODES:
            listener |= {"protocol": "http", "transparent": _MODES[key]}
        elif option == "ipv4":
            listener["address"] = _ipv4_only(listener["address"])
        elif key == "name":
            name = value
        elif key in _FILES and tls:
            files[_FILES[key]] = value
        elif key in _IGNORED or (key in _FILES and not tls) or _is_held(key, value):
            ignored.append(option)
        else:
            raise ValueError(f"the option {shown(option)} is not known here; leave it out")
    if ignored:
        notes.append(f"has no meaning here: {', '.join(ignored)}")
    if tls:
        listener["tls"] = _tls(files)
    if "transparent" in listener:
        if tls:
            raise ValueError(
                "TLS that was captured can only be forwarded undecrypted: write a native listener with protocol: sni"
            )
        notes.append("the host of a captured request is looked up; the address that its client dialled is not used")
    else:
        listener["manager"] = True
    if name is not None and _NAME.fullmatch(name):
        listener["name"] = name
    label = listener.get("name") or f"{listener['protocol']}:{listener['port']}"
    return Port(place if name is None else name, label, At(statement.mark, listener)), notes


def _is_held(key: str, value: str) -> bool:
    """Whether an option about versions of TLS asks for no more than all listeners hold."""
    if key in ("options", "tls-options"):
        return _HELD_ANYWAY.issuperset(re.split("[,:]", value.upper()))
    return key == "tls-min-version" and value in ("1.0", "1.1", "1.2")


def _address_and_port(place: str) -> dict[str, Any]:
    match = _PLACE.fullmatch(place)
    if match is None:
        raise ValueError(f"expected a port, ADDRESS:PORT or [ADDRESS]:PORT, got {shown(place)}")
    written = match["six"] or match["four"]
    try:
        address = _EVERYWHERE if written is None else str(ip_address(written))
    except ValueError:
        raise ValueError(
            f"expected an address before the port, got {shown(place)}; names are not looked up here"
        ) from None
    number = int(match["port"])
    if not 0 < number < 65536:
        raise ValueError(f"expected a port from 1 to 65535, got {shown(place)}")
    return {"address": address, "port": number}


def _ipv4_only(address: str) -> str:
    """What the option `ipv4` makes of the address. Raises ValueError."""
    if address == _EVERYWHERE:
        return "0.0.0.0"  # noqa: S104 - what the file asks for
    if ":" in address:
        raise ValueError(f"the option 'ipv4' leaves nothing of the address {address}; leave it out")
    return address


def _tls(files: dict[str, str]) -> dict[str, str]:
    if "certificate" not in files:
        raise ValueError("expected tls-cert=FILE with the certificate that clients are shown")
    return {"certificate": files["certificate"], "key": files.get("key", files["certificate"]), **files}
