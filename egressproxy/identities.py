"""stub"""

from __future__ import annotations

from typing import Any


class UpstreamIdentity:
    """stub"""


class IdentityProblems(Exception):
    """stub"""

    problems: tuple[Any, ...] = ()


class Identities:
    """stub"""

    refusals: dict[str, int] = {}
    unverified: tuple[str, ...] = ()

    @classmethod
    def load(cls, config: Any, before: Any = None) -> Identities:
        """stub"""
        return cls()

    def of(self, service: int) -> UpstreamIdentity:
        """stub"""
        raise NotImplementedError

    def header_lines(self, service: int) -> bytes:
        """stub"""
        raise NotImplementedError
