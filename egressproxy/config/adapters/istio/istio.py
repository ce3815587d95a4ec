"""Istio."""

from __future__ import annotations

from typing import TYPE_CHECKING

from egressproxy.config.adapters.adapter import Adapted
from egressproxy.config.faults import Fault
from egressproxy.config.native import mark

if TYPE_CHECKING:
    from collections.abc import Sequence

    from egressproxy.config.adapters.adapter import Files, Source


def translate(sources: Sequence[Source], files: Files, *, has_listeners: bool, lenient: bool) -> Adapted:
    """The native form of all Istio and Kubernetes files of one load, which speak of each other.

    has_listeners  other sources say where clients connect; else the listeners are those of the egress gateway
    """
    return Adapted(
        None, None, [Fault(mark(sources[0].number, 1), (), "this version does not read istio files yet")], []
    )
