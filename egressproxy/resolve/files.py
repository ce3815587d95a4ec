"""The files that say how names are found on this machine: text to values, and noticing that a file has changed.

hosts(5) gives addresses to names. resolv.conf(5) gives the name servers and the search list: which names are asked for
when one is meant (`ResolvConf.names_for`). Lines and words that make no sense are passed over, as the C library does.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

from egressproxy.resolve.addresses import standard_spelling

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

MAX_NDOTS = 15
"""resolv.conf(5): a larger `ndots` counts as this."""

T = TypeVar("T")


# --- the hosts file -----------------------------------------------------------------------------------------------


def parse_hosts(text: str, *, ipv6: bool) -> dict[str, tuple[str, ...]]:
    """hosts(5): an address, then names. A name on several lines has all their addresses, IPv6 first."""
    found: dict[str, dict[str, None]] = {}
    for word, *names in _lines(text, "#"):
        address = standard_spelling(word)
        if address is None or (":" in address and not ipv6):
            continue
        for name in names:
            found.setdefault(_canonical(name), {})[address] = None
    return {name: tuple(sorted(addresses, key=lambda address: ":" not in address)) for name, addresses in found.items()}


# --- resolv.conf --------------------------------------------------------------------------------------------------


class ResolvConf(NamedTuple):
    """What resolv.conf says. `servers` as c-ares spells them."""

    servers: tuple[str, ...]
    search: tuple[str, ...]
    ndots: int

    def names_for(self, host: str) -> tuple[str, ...]:
        """The names to ask for when `host` is meant, in order.

        A name with a dot is absolute first, and is searched for only if it has fewer dots than `ndots`. A name without
        a dot is searched for first; with `ndots` 0 last.
        """
        if host.endswith(".onion"):
            return (host,)  # RFC 7686 section 2: never sent anywhere. c-ares refuses it, but not below a search domain
        searched = tuple(f"{host}.{domain}" for domain in self.search)
        dots = host.count(".")
        if dots == 0 and self.ndots > 0:
            return (*searched, host)
        return (host, *searched) if dots < max(self.ndots, 1) else (host,)


def parse_resolv_conf(text: str) -> ResolvConf:
    """resolv.conf(5). The last `search` or `domain` line counts; without `nameserver` it is the one on this machine."""
    servers: list[str] = []
    search: tuple[str, ...] = ()
    ndots = 1
    for key, *values in _lines(text, "#;"):
        if key == "nameserver" and values and (server := _name_server(values[0])) is not None:
            servers.append(server)
        elif key in ("search", "domain"):
            search = tuple(dict.fromkeys(domain for value in values if (domain := _canonical(value))))
        elif key == "options":
            for value in values:
                number = value.removeprefix("ndots:")
                if number != value and number.isascii() and number.isdigit():
                    ndots = min(int(number[:9]), MAX_NDOTS)
    return ResolvConf(tuple(servers) or ("127.0.0.1:53",), search, ndots)


def _name_server(text: str) -> str | None:
    """One server of resolv.conf as c-ares spells it, `[fe80::1]:53%eth0`; None where it is none.

    A port, which c-ares knows and the C library does not, is `127.0.0.1:5353` or `[::1]:5353`.
    """
    if text.startswith("["):
        host, _, port = text[1:].partition("]")
        port = port.removeprefix(":")
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    else:
        host, port = text, ""
    host, mark, zone = host.partition("%")
    address = standard_spelling(host)
    port = port or "53"
    if address is None or not _is_port(port) or (mark and not _is_zone(zone)):
        return None
    return f"{f'[{address}]' if ':' in address else address}:{port}{mark}{zone}"


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdecimal() and 0 < int(text[:6]) < 65536


def _is_zone(text: str) -> bool:
    return text.isascii() and text.translate(_ZONE_MARKS).isalnum()


_ZONE_MARKS = str.maketrans("", "", "-_.")
"""What the name of a network interface may hold beside letters and digits."""


# --- both ---------------------------------------------------------------------------------------------------------


def _lines(text: str, comments: str) -> Iterable[list[str]]:
    """The words of each line that has any, without comments."""
    for line in text.splitlines():
        for mark in comments:
            line = line.partition(mark)[0]
        words = line.split()
        if words:
            yield words


def _canonical(name: str) -> str:
    return name.lower().removesuffix(".")


class WatchedFile(Generic[T]):
    """A text file that others may replace at any time, and the value of what was read last.

    value  what `parse` made of it; before the first `refresh`, and where the file cannot be read, of an empty text
    """

    def __init__(self, path: str, parse: Callable[[str], T]) -> None:
        self.value = parse("")
        self._path = Path(path)
        self._parse = parse
        self._seen: tuple[int, int, int] | None = (0, 0, 0)  # no file has this: the first look reads

    def refresh(self) -> bool:
        """Look at the file, and read it if it is not the one seen last. True if it was read."""
        try:
            stat = self._path.stat()
            seen = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
        except OSError:
            seen = None
        if seen == self._seen:
            return False
        self._seen = seen
        try:
            text = self._path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            text = ""
        self.value = self._parse(text)
        return True
