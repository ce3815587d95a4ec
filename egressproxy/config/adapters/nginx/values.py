"""Single words of NGINX's directives: times, sizes, switches, addresses. Each function raises ValueError."""

from __future__ import annotations

import re
from ipaddress import ip_network
from typing import NamedTuple

from egressproxy.config.faults import shown

_UNITS = (("y", 31_536_000), ("M", 2_592_000), ("w", 604_800), ("d", 86_400), ("h", 3600), ("m", 60), ("s", 1))
_TIME = re.compile(
    "".join(rf"(?:([0-9]{{1,9}}){unit} *)?" for unit, _ in _UNITS) + r"(?:([0-9]{1,9})ms *)?([0-9]{1,9})?"
)
_SIZE = re.compile(r"([0-9]{1,9})([kKmM]?)")
_PLACE = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\[\]:/]+)):([0-9]{1,5})")


def seconds(text: str) -> float | int:
    """`90`, `1m30s`, `500ms`: largest unit first (nginx.org/en/docs/syntax.html). Whole seconds as int."""
    match = _TIME.fullmatch(text) if text else None
    if match is None:
        raise ValueError(f"expected a time like 30s or 1h30m, got {shown(text)}")
    *numbers, milliseconds, bare = match.groups()
    whole = sum(int(number or 0) * unit for number, (_, unit) in zip(numbers, _UNITS, strict=True)) + int(bare or 0)
    return whole + int(milliseconds) / 1000 if milliseconds and int(milliseconds) else whole


def size_bytes(text: str) -> int:
    """`16384`, `16k`, `1m`."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(f"expected a size like 16k, got {shown(text)}")
    return int(match[1]) * {"": 1, "k": 1024, "m": 1024 * 1024}[match[2].lower()]


def switch(text: str) -> bool:
    """`on` or `off`, in letters of either case."""
    if text.lower() not in ("on", "off"):
        raise ValueError(f"expected on or off, got {shown(text)}")
    return text.lower() == "on"


class Network(NamedTuple):
    """Who is meant by `allow`, `deny` and `set_real_ip_from`.

    cidr    canonical
    masked  bits of the host were written and do not count
    """

    cidr: str
    masked: bool


def network(text: str) -> Network:
    """An address or a CIDR."""
    try:
        if "%" in text:
            raise ValueError
        found = ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"expected an address or a network like 10.0.0.0/8, got {shown(text)}") from None
    try:
        ip_network(text)
    except ValueError:
        return Network(str(found), True)
    return Network(str(found), False)


class Place(NamedTuple):
    """A host, without brackets, and a port."""

    host: str
    port: int

    @property
    def text(self) -> str:
        """`host:port`, IPv6 in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_address(self) -> bool:
        """Whether no name must be looked up for it."""
        return ":" in self.host or self.host.replace(".", "").isdigit()


def place(text: str) -> Place:
    """`host:port`, IPv6 in brackets."""
    if text.startswith("unix:"):
        raise ValueError("UNIX sockets are not reached from here; expected HOST:PORT")
    match = _PLACE.fullmatch(text)
    if match is None:
        raise ValueError(f"expected HOST:PORT, got {shown(text)}")
    port = int(match[3])
    if not 0 < port < 65536:
        raise ValueError(f"expected a port from 1 to 65535, got {shown(text)}")
    return Place((match[1] or match[2]).lower(), port)
