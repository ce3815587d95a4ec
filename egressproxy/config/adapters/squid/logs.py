"""`access_log` and `logformat`: access logs."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from egressproxy.config.adapters.adapter import At
from egressproxy.config.adapters.squid.lexer import cut
from egressproxy.config.faults import Fault, shown
from egressproxy.config.templates import squid_template

if TYPE_CHECKING:
    from egressproxy.config.adapters.adapter import Files
    from egressproxy.config.adapters.squid.lexer import Statement

DEFAULT_PATH = "/var/log/squid/access.log"
"""Where Squid logs when its file says nothing."""

_COMMON = '%>a %[ui %[un [%tl] "%rm %ru HTTP/%rv" %>Hs %<st'
_BUILT_IN: dict[str, str | None] = {
    "squid": None,
    "auto": None,
    "common": f"{_COMMON} %Ss:%Sh",
    "combined": f'{_COMMON} "%{{Referer}}>h" "%{{User-Agent}}>h" %Ss:%Sh',
    "useragent": '%>a [%tl] "%{User-Agent}>h"',
    "referrer": "%ts.%03tu %>a %{Referer}>h %ru",
}
"""Formats that Squid knows by name, as its documentation of `logformat` writes them; None: the native one."""

_REFERER = re.compile(r"%\"?(?:\{[Rr]eferer\}>h|>h\{[Rr]eferer\})")
_STANDARD_OUTPUT = frozenset({"/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"})
_MODULES = ("stdio", "daemon")
_WITHOUT_MEANING = ("buffer-size", "on-error", "rotate")


class Logs:
    """The access logs of one configuration."""

    def __init__(self, faults: list[Fault], notes: list[Fault]) -> None:
        self._faults = faults
        self._notes = notes
        self._formats = dict(_BUILT_IN)
        self._places: dict[str, int] = {}
        self._logs: list[At] | None = None

    def define(self, statement: Statement) -> None:
        """Take one `logformat`."""
        name, template = cut(statement.rest, 2)
        if not template:
            self._faults.append(statement.fault("expected a name and a template"))
        elif name in _BUILT_IN:
            self._notes.append(statement.fault(f"{name} is what Squid knows it as; what is written here is not used"))
        else:
            self._formats[name] = template
            self._places[name] = statement.mark

    def add(self, statement: Statement) -> None:
        """Take one `access_log`. Raises ValueError."""
        words = statement.words
        if not words:
            raise ValueError("expected where to log, as in access_log stdio:/var/log/squid/access.log")
        place, *options = words
        if place == "none" and not options:
            self._logs = self._logs or []
            return
        if place == "none":
            raise ValueError("leaves out requests by ACLs, which logs here do not ask; leave the line out to log all")
        log: dict[str, Any] = {"format": "squid"}
        name, acls = self._options(statement, options)
        if acls:
            raise ValueError(
                f"logs only requests of the ACL {shown(acls[0])}, which logs here do not ask; leave it out to log all"
            )
        log |= self._template(statement, name)
        self._logs = [*(self._logs or []), At(statement.mark, log | {"path": _path(place)})]

    def native(self, files: Files, first: int) -> tuple[list[At], list[str]]:
        """What there is in the native form, with notes about it; without any `access_log` what Squid does then.

        first  the mark of what is written nowhere
        """
        if self._logs is not None:
            return self._logs, []
        if files.may_write(DEFAULT_PATH):
            return [At(first, {"format": "squid", "path": DEFAULT_PATH})], []
        note = f"there is none: Squid logs to {DEFAULT_PATH}, which cannot be written here, so this is standard output"
        return [At(first, {"format": "squid"})], [note]

    def _options(self, statement: Statement, options: list[str]) -> tuple[str, list[str]]:
        """The name of the format, and the ACLs behind all options."""
        name, ignored = "squid", []
        if options and "=" not in options[0] and options[0] in self._formats:
            return options[0], options[1:]
        while options and "=" in options[0]:
            key, _, value = options.pop(0).partition("=")
            if key == "logformat":
                name = value
            elif key in _WITHOUT_MEANING:
                ignored.append(key)
            else:
                raise ValueError(f"the option {shown(key)} is not known")
        if ignored:
            self._notes.append(statement.fault(f"has no meaning here: {', '.join(ignored)}"))
        return name, options

    def _template(self, statement: Statement, name: str) -> dict[str, At]:
        if name not in self._formats:
            raise ValueError(f"no logformat before this line is called {shown(name)}")
        template = self._formats[name]
        if template is None:
            return {}
        plain = _REFERER.sub("-", template)
        if plain != template:
            self._notes.append(
                statement.fault(f"{name}: the field Referer is not kept until the line is written; `-` stands for it")
            )
        place = self._places.get(name, statement.mark)
        try:
            squid_template(plain)
        except ValueError as error:
            fault = Fault(place, ("logformat",), str(error))
            if fault not in self._faults:  # another log has the same format
                self._faults.append(fault)
            return {}
        return {"template": At(place, plain)}


def _path(place: str) -> str:
    module, colon, path = place.partition(":")
    if not colon:
        path = place
    elif module not in _MODULES:
        raise ValueError(f"expected stdio:FILE or daemon:FILE, got {shown(place)}")
    if not path.startswith("/"):
        raise ValueError(f"expected the whole name of a file, got {shown(place)}")
    return "-" if path in _STANDARD_OUTPUT else path
