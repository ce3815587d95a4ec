"""The formats of access logs by their words in the configuration: one table. The lines are made in `formats`."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from egressproxy.config.templates import ISTIO_RELEASES, LANGUAGES
from egressproxy.telemetry.formats.envoy import (
    ERAS,
    TODAY,
    Habits,
    envoy_line,
    form_of_release,
    istio_json_line,
)
from egressproxy.telemetry.formats.json_lines import json_line, json_open_line
from egressproxy.telemetry.formats.nginx import nginx_form, nginx_line
from egressproxy.telemetry.formats.squid import squid_form, squid_line

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from egressproxy.config.schema.stages import AccessLog
    from egressproxy.model import ConnectionRecord
    from egressproxy.telemetry.record import RecordDraft


class Format(NamedTuple):
    """How one kind of access log is written.

    close            the line of a connection or a plain request that has ended
    open_line        the line of a tunnel that opens, at this Unix time in seconds; None where the format has no such line
    wants_addresses  it prints the proxy's own ends of the connections
    """

    close: Callable[[ConnectionRecord], str]
    open_line: Callable[[RecordDraft, float], str] | None = None
    wants_addresses: bool = False


BEFORE_6 = "NONE_NONE"
"""What Squid up to 5 calls a tunnel that was allowed and did not come about."""

TEMPLATES: Mapping[str, tuple[str, Habits]] = {
    "envoy": ("E0", TODAY),
    "istio": ("E7", TODAY),
    **{word: form_of_release(minor) for minor, word in enumerate(ISTIO_RELEASES)},
}
"""The formats of Envoy and Istio by their words in the configuration: era and habits."""

FORMATS: Mapping[str, Format] = {
    "squid": Format(squid_line),
    "squid-5": Format(partial(squid_line, failed=BEFORE_6)),
    "json": Format(json_line, json_open_line),
    "nginx-stream": Format(nginx_line),
    "nginx-stream-1.22": Format(partial(nginx_line, hello_counted=False)),
    "istio-json": Format(istio_json_line, wants_addresses=True),
}
"""All others."""


OWN_TEMPLATES: Mapping[str, Callable[[str], Callable[[ConnectionRecord], str]]] = {
    "squid": squid_form,
    "squid-5": partial(squid_form, failed=BEFORE_6),
    "nginx-stream": nginx_form,
    "nginx-stream-1.22": partial(nginx_form, hello_counted=False),
}
"""Those of all others that have a language: what makes a form of a template."""

_OWN_ADDRESSES = frozenset({">la", ">lp", "<la", "<lp", "server_addr", "server_port"})
_ENVOY_S_OWN_ADDRESSES = "_LOCAL_"
"""In the names of operators: DOWNSTREAM_LOCAL_ADDRESS and the like."""


def form_of(setting: AccessLog) -> Format:
    """How this log is written. Raises ValueError for a template that `config.schema.stages` has not seen."""
    word, template = setting.format, setting.template
    if template is not None and word in OWN_TEMPLATES:
        return Format(OWN_TEMPLATES[word](template), wants_addresses=_prints_addresses(word, template))
    if word in FORMATS:
        return FORMATS[word]
    era, habits = TEMPLATES[word]
    template = template or ERAS[era]
    return Format(envoy_line(template, habits), wants_addresses=_prints_addresses(word, template))


def _prints_addresses(word: str, template: str) -> bool:
    """Whether a template prints the proxy's own ends of the connections."""
    return any(
        not isinstance(part, str) and (part.name in _OWN_ADDRESSES or _ENVOY_S_OWN_ADDRESSES in part.name)
        for part in LANGUAGES[word](template)
    )
