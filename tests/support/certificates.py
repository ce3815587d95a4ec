"""A test authority, and TLS contexts for both ends of a connection."""

from __future__ import annotations

import functools
import ssl
from pathlib import Path

import trustme

NAME = "proxy.example.test"

TLS_1_2 = ssl.TLSVersion.TLSv1_2
TLS_1_3 = ssl.TLSVersion.TLSv1_3


@functools.cache
def authority() -> trustme.CA:
    return trustme.CA()


@functools.cache
def other_authority() -> trustme.CA:
    return trustme.CA(organization_name="another one")


@functools.cache
def server_certificate() -> trustme.LeafCert:
    return authority().issue_cert(NAME)


@functools.cache
def server_context(version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    """Speaks as NAME; `version` alone, or any."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_certificate().configure_cert(context)
    return _only(context, version)


@functools.cache
def client_context(version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    """Trusts the authority; `version` alone, or any."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority().configure_trust(context)
    return _only(context, version)


def _only(context: ssl.SSLContext, version: ssl.TLSVersion | None) -> ssl.SSLContext:
    if version is not None:
        context.minimum_version = context.maximum_version = version
    return context


def write_files(folder: Path) -> dict[str, Path]:
    """PEM files in the folder: `certificate`, `key`, `authority`."""
    files = {name: folder / f"{name}.pem" for name in ("certificate", "key", "authority")}
    leaf = server_certificate()
    files["certificate"].write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
    files["key"].write_bytes(leaf.private_key_pem.bytes())
    files["authority"].write_bytes(authority().cert_pem.bytes())
    return files
