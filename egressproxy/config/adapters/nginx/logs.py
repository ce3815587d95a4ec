"""`log_format` and `access_log`: which lines are written, and where to.

Without `access_log` NGINX's stream writes none, and so does this proxy then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from egressproxy.config.adapters.adapter import At
from egressproxy.config.faults import is_windows_path, shown
from egressproxy.config.templates import nginx_template

if TYPE_CHECKING:
    from collections.abc import Sequence

    from egressproxy.config.adapters.nginx.syntax import Directive, Findings

LOG_STREAM = (
    "$remote_addr [$time_local] $protocol [$ssl_preread_server_name]$status $bytes_sent $bytes_received $session_time"
)
"""The line that `format: nginx-stream` writes without a template."""

_ESCAPES = ("escape=default", "escape=json", "escape=none")
_OPTIONS = ("buffer=", "flush=")


class LogFormats:
    """The `log_format` directives of one configuration."""

    def __init__(self, formats: Sequence[Directive], findings: Findings) -> None:
        self._findings = findings
        self._templates: dict[str, At] = {}
        for directive in formats:
            name, words = directive.words[0], list(directive.words[1:])
            if name in self._templates:
                findings.fault(directive, f"{shown(name)} is written twice")
                continue
            if words[0].startswith("escape="):
                escape = words.pop(0)
                if escape not in _ESCAPES:
                    findings.fault(directive, f"expected escape=default, json or none, got {shown(escape)}")
                elif escape != _ESCAPES[0]:
                    findings.note(directive, f"{escape} changes nothing here: what is absent is - and not empty")
            text = "".join(words)
            try:
                nginx_template(text)
            except ValueError as error:
                findings.fault(directive, str(error))
                text = LOG_STREAM  # told here, and not for every log again
            self._templates[name] = At(directive.mark, text)

    def native(self, logs: Sequence[Directive]) -> list[At]:
        """The native access logs for the `access_log` directives of one server."""
        if any(log.words == ("off",) for log in logs):
            return []
        entries = []
        for log in logs:
            try:
                entries.append(At(log.mark, self._entry(log)))
            except ValueError as error:
                self._findings.fault(log, str(error))
        return entries

    def _entry(self, log: Directive) -> dict[str, Any]:
        path, *words = log.words
        if path.startswith("syslog:"):
            raise ValueError("lines are written to files and standard output, not to syslog")
        if is_windows_path(path):
            raise ValueError(f"expected a name like /var/log/nginx/access.log, got the Windows path {shown(path)}")
        if "$" in path:
            raise ValueError("expected the name of one file, got a name with variables")
        if not words or "=" in words[0]:
            raise ValueError("expected the name of a log_format behind the file")
        name, *options = words
        if name not in self._templates:
            raise ValueError(f"the log_format {shown(name)} is not defined")
        for option in options:
            if option.startswith("if="):
                raise ValueError("conditions are not known here: every connection is logged; take if= out")
            if option.startswith("gzip"):
                self._findings.note(log, "gzip has no meaning here: lines are written as they are")
            elif option.startswith(_OPTIONS):
                self._findings.note(
                    log, f"{option.partition('=')[0]} has no meaning here: lines are written in batches"
                )
            else:
                raise ValueError(f"expected an option like buffer=32k, got {shown(option)}")
        if not path.startswith("/"):
            self._findings.note(
                log, "its name starts from the folder of this file, where NGINX takes a folder of its own"
            )
        entry: dict[str, Any] = {"format": "nginx-stream", "path": "-" if path == "/dev/stdout" else path}
        template = self._templates[name]
        if template.value != LOG_STREAM:
            entry["template"] = template
        return entry
