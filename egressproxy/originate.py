"""stub"""

from __future__ import annotations

from typing import Any


async def originate(tcp: Any, identity: Any, host: str, endpoint: Any, deadlines: Any) -> Any:
    """stub"""
    raise NotImplementedError


def keep_session(stream: Any) -> None:
    """stub"""


def tls_version(stream: Any) -> str:
    """stub"""
    return ""


def upstream_tls_error(error: OSError, endpoint: Any) -> Any:
    """stub"""
    return None
