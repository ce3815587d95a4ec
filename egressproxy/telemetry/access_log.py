"""The formats of access logs by their words in the configuration: one table. The lines are made in `formats`."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from egressproxy.config.templates import ISTIO_RELEASES
from egressproxy.telemetry.formats.envoy import (
    ERAS,
    TODAY,
    Habits,
    envoy_line,
    form_of_release,
    istio_json_line,
    wants_addresses,
)
from egressproxy.telemetry.formats.json_lines import json_line, json_open_line
from egressproxy.telemetry.formats.nginx import nginx_line
from egressproxy.telemetry.formats.squid import squid_line

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from egressproxy.config.schema import AccessLog
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


TEMPLATES: Mapping[str, tuple[str, Habits]] = {
    "envoy": ("E0", TODAY),
    "istio": ("E7", TODAY),
    **{word: form_of_release(minor) for minor, word in enumerate(ISTIO_RELEASES)},
}
"""The formats of Envoy and Istio by their words in the configuration: era and habits."""

FORMATS: Mapping[str, Format] = {
    "squid": Format(squid_line),
    "squid-5": Format(partial(squid_line, failed="NONE_NONE")),
    "json": Format(json_line, json_open_line),
    "nginx-stream": Format(nginx_line),
    "nginx-stream-1.22": Format(partial(nginx_line, hello_counted=False)),
    "istio-json": Format(istio_json_line, wants_addresses=True),
}
"""All others."""


def form_of(setting: AccessLog) -> Format:
    """How this log is written. Raises ValueError for a template that `config.schema` has not seen."""
    if setting.format in FORMATS:
        return FORMATS[setting.format]
    era, habits = TEMPLATES[setting.format]
    template = setting.template or ERAS[era]
    return Format(envoy_line(template, habits), wants_addresses=wants_addresses(template))
