"""Every error that can end a connection."""

from __future__ import annotations

from egressproxy.errors import EgressError


def _leaves(kind: type[EgressError]) -> list[type[EgressError]]:
    below = kind.__subclasses__()
    return [leaf for child in below for leaf in _leaves(child)] if below else [kind]


LEAVES = _leaves(EgressError)
"""The leaves of the tree in errors.py."""
