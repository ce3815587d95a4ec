"""What people write by mistake and what they meant: the end of a message, with something to paste.

Each function returns text that begins with a semicolon, or nothing where it has no advice. What came from a file is repeated
only where it is plain words.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from egressproxy.hostport import parse_allow_entry

if TYPE_CHECKING:
    from collections.abc import Sequence

LISTENERS = "; for example listeners: [{protocol: http-proxy, address: 127.0.0.1, port: 3128}]"

_LONGEST = 60
_WORD = re.compile(r"[A-Za-z0-9_.:*/-]+")
_PLAIN = re.compile(r"(?=.*[A-Za-z/])[A-Za-z0-9][A-Za-z0-9_./-]*(?::[0-9]{1,5}(?:-[0-9]{1,5})?)?")
_NUMBER = re.compile(r"0[box][0-9a-f_]*|[0-9][0-9_.]*e[0-9]+", re.IGNORECASE)
_PORT = re.compile(r"[0-9]+(?:-[0-9]+)?|\*")
_NOT_PLAIN = frozenset({"true", "false", "null", "yes", "no", "on", "off"})


def single_for_list(value: object) -> str:
    """One entry, or several in one text, where a list of texts belongs."""
    if isinstance(value, dict) and all(_PORT.fullmatch(str(port)) for port in value.values()):
        value = " ".join(f"{host}:{port}" for host, port in value.items())
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        return ""
    words = re.split(r"[,\s]+", str(value).strip(", \t\r\n"))
    if len(str(value)) > _LONGEST or not all(_WORD.fullmatch(word) for word in words):
        return "; write it as a list, like [one, other]"
    entries = words if isinstance(value, int) else [_quoted_if_needed(word) for word in words]
    return f"; write it as a list: [{', '.join(entries)}]"


def single_for_mappings(key: str, value: object) -> str:
    """One entry where a list of mappings belongs. `key` is that of the list."""
    if isinstance(value, dict):
        return "; put - before it, or [ ] around it"
    if key == "listeners":
        return LISTENERS
    if key == "access_log" and isinstance(value, str) and _WORD.fullmatch(value) and len(value) <= _LONGEST:
        return f"; write it as a list: [{{path: {_quoted_if_needed(value)}}}]"
    return ""


_KEY_FOR: dict[tuple[str | int, ...], str] = {
    ("services", "tls"): "mode",
    ("services", "endpoints"): "address",
    ("services", "set_headers"): "file",
    ("secrets",): "directory",
}


def word_for_mapping(keys: Sequence[str | int], value: str) -> str:
    """One word where settings belong of which one is nearly always alone. `keys` lead there, without list positions."""
    key = _KEY_FOR.get(tuple(keys[:2]))
    if key is None or not _WORD.fullmatch(value) or len(value) > _LONGEST:
        return ""
    return f"; write it like {{{key}: {_quoted_if_needed(value)}}}"


def _quoted_if_needed(word: str) -> str:
    is_text = _PLAIN.fullmatch(word) and not _NUMBER.fullmatch(word) and word.lower() not in _NOT_PLAIN
    return word if is_text else f'"{word}"'


_SPAN = re.compile(
    r"([0-9]{1,9}(?:\.[0-9]{1,6})?)\s*(ms|seconds?|secs?|s|minutes?|mins?|m|hours?|hrs?|h|days?|d)\s*", re.IGNORECASE
)
_UNIT_S = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86_400}


def span_for_seconds(text: str) -> str:
    """`5m` or `1h30m` where a number of seconds belongs."""
    total_s, end = 0.0, 0
    while end < len(text):
        match = _SPAN.match(text, end)
        if match is None:
            return ""
        unit = match[2].lower()
        total_s += float(match[1]) * (_UNIT_S["ms"] if unit == "ms" else _UNIT_S[unit[0]])
        end = match.end()
    return f"; write it in seconds, without a unit: {total_s:.10g}" if text else ""


_URL = re.compile(
    r"(?P<scheme>[a-z]{2,6})://(?:[^/?#@]*@)?(?P<authority>[^/?#]+)(?:[/?#].*)?", re.IGNORECASE | re.DOTALL
)
_PORTS = {"http": 80, "ws": 80, "https": 443, "wss": 443}


def url_for_host(text: str, *, with_port: bool) -> str:
    """A URL where a host belongs, or a host `with_port`."""
    url = _URL.fullmatch(text)
    if url is None:
        return ""
    authority, default = url["authority"], _PORTS.get(url["scheme"].lower())
    if not re.search(r":[0-9]*\Z", authority):
        if default is None:
            return ""
        authority = f"{authority}:{default}"
    try:
        host, ports = parse_allow_entry(authority)
    except ValueError:
        return ""
    if not with_port:
        return f"; did you mean {host}? its port {ports} belongs in ports"
    return f"; did you mean {f'[{host}]' if ':' in str(host) else host}:{ports}?"


def word_for_admin(value: object) -> str:
    """A single value where the settings of the admin port belong."""
    if value is False:
        return "; to have no admin port write admin: null"
    if isinstance(value, int) and value is not True:
        return f"; write admin: {{port: {value}}}"
    return (
        "; write it like admin: {address: 127.0.0.1, port: 9090}, leave it out for just that, or admin: null for none"
    )
